/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "kvm_prefetch.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/assert.h"
#include "kvm_rig.h"
#include "snapshot/working_set.h"

#define MEMORY_MIB 128
#define MEMORY_SIZE ((size_t)MEMORY_MIB << 20)
#define DATA_START ((size_t)16 << 20)
#define CHUNK_SIZE ((size_t)1 << 20)
#define COLD_RATIO_MAX 0.67
#define WARM_RATIO_MAX 1.15

/* Says that it runs. When the machine's generation changes, which a load does, reads a byte in each of 125 times 16
 * pages, eight apart, and says so. Few instructions for each page, for some machines interpret them. */
extern const uint8_t reader_code[], reader_code_end[];
__asm__(".pushsection .rodata\n"
        "reader_code:\n"
        "mov $0x3f8, %dx\n"
        "mov 0xf0000, %rbx\n"
        "1: mov $0x78, %al\n"
        "out %al, %dx\n"
        "2: pause\n"
        "cmp 0xf0000, %rbx\n"
        "je 2b\n"
        "mov 0xf0000, %rbx\n"
        "mov $0x1000000, %edi\n"
        "mov $125, %esi\n"
        "3:\n"
        ".set place, 0\n"
        ".rept 16\n"
        "mov place(%rdi), %al\n"
        ".set place, place + 0x3e8000\n"
        ".endr\n"
        "add $0x8000, %rdi\n"
        "dec %esi\n"
        "jnz 3b\n"
        "jmp 1b\n"
        "reader_code_end:\n"
        ".popsection\n");

/* The page cache's part of the bundle's memory: none of it, or all. */
static void set_cache(const struct snapshot_reader *reader, bool warm) {
    static uint8_t chunk[CHUNK_SIZE];
    int fd = snapshot_reader_part(reader, SNAPSHOT_PART_MEMORY);
    ASSERT(fd != HOST_FD_NONE);
    int result = warm ? 0 : posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    ASSERT(result == 0);
    for (size_t at = 0; warm && at < MEMORY_SIZE; at += sizeof(chunk)) {
        ssize_t count = pread(fd, chunk, sizeof(chunk), (off_t)at);
        ASSERT(count == (ssize_t)sizeof(chunk));
    }
}

static void restore_once(struct rig *rig, struct snapshot_reader *reader, bool prefetch,
                         struct series *series) {
    struct kelpie_error err;
    const struct host_wait wait = rig_wait(rig);
    uint64_t start_ns = host_monotonic_ns(rig->host);
    if (prefetch) {
        int fd = snapshot_working_set_open(rig->host, reader);
        ASSERT(fd != HOST_FD_NONE);
        kvm_expect(rig->instance, fd, false);
    }
    rig_check(kvm_load_running(rig->instance, reader, &wait, &err), "load", &err);
    rig_await_console(rig);
    if (series) {
        series_put(series, rig_ms_since(rig, start_ns));
    }
}

/* Memory that is not zero, behind the guest's code. */
static void fill(struct rig *rig) {
    uint8_t *memory =
        mmap(NULL, MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, rig->instance->memory_fd, 0);
    ASSERT(memory != MAP_FAILED);
    memset(memory + DATA_START, 0xa5, MEMORY_SIZE - DATA_START);
    int result = munmap(memory, MEMORY_SIZE);
    ASSERT(result == 0);
}

static void note_working_set(struct rig *rig, struct snapshot_reader *reader) {
    struct kelpie_error err;
    const struct host_wait wait = rig_wait(rig);
    kvm_expect(rig->instance, HOST_FD_NONE, true);
    restore_once(rig, reader, false, NULL);
    int fd = HOST_FD_NONE;
    rig_check(
        host_memory_file(rig->host, "bench", snapshot_working_set_size(MEMORY_SIZE), &fd, &err),
        "memory file", &err);
    rig_check(kvm_touched(rig->instance, fd, &wait, &err), "touched", &err);
    rig_check(snapshot_working_set_store(rig->host, reader, fd, &err), "store", &err);
    host_close(rig->host, fd);
    kvm_process_take_down(rig->instance);
}

void kvm_prefetch_measure(struct host *host, const char *folder, struct report *report,
                          size_t runs) {
    struct kelpie_error err;
    struct rig rig;
    struct snapshot_reader *reader = NULL;
    char bundle[512];
    const struct rig_payload payload = {reader_code, (size_t)(reader_code_end - reader_code)};
    snprintf(bundle, sizeof(bundle), "%s/kvm-prefetch", folder);
    if (!rig_open(&rig, host, MEMORY_MIB)) {
        return;
    }
    rig_boot(&rig, &payload);
    fill(&rig);
    rig_save_bundle(&rig, bundle);
    kvm_process_take_down(rig.instance);
    rig_check(snapshot_reader_open(host, bundle, &reader, &err), "open", &err);
    note_working_set(&rig, reader);
    struct series *series[2][2] = {
        {report_add(report, "kvm.faults_cold", "ms", NULL, 0),
         report_add(report, "kvm.prefetch_cold", "ms", "kvm.faults_cold", COLD_RATIO_MAX)},
        {report_add(report, "kvm.faults_warm", "ms", NULL, 0),
         report_add(report, "kvm.prefetch_warm", "ms", "kvm.faults_warm", WARM_RATIO_MAX)},
    };
    for (size_t i = 0; i < runs * ARRAY_SIZE(series) * 2; i++) {
        const bool warm = i / 2 % 2 == 1;
        set_cache(reader, warm);
        restore_once(&rig, reader, i % 2 == 1, series[warm][i % 2]);
        kvm_process_take_down(rig.instance);
    }
    snapshot_reader_close(reader);
    rig_check(host_path_remove_folder(host, bundle, &err), "remove", &err);
    rig_close(&rig);
}
