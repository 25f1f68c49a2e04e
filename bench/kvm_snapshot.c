/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "kvm_snapshot.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "base/assert.h"
#include "kvm_rig.h"

#define FULL_MIB 512
#define FULL_SIZE ((size_t)FULL_MIB << 20)
#define STRIPE_SIZE ((size_t)32 << 20)
#define FULL_RUNS_DIVISOR 5 /* it takes half a second */
#define DIFF_MIB 256
#define DIFF_PAGES 2000
#define TRIGGER_GPA 0x200000ull /* the guest waits for another number there */
#define PATH_SIZE 4096
#define FULL_RATIO_MAX 1.67 /* 60 % of memcpy's speed */
#define PAUSE_MS_MAX 2.0

#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)

/* Says that it runs, and each time that the number changes, writes it to every second of 4,000 pages from 16 MiB on, and
 * says so. */
extern const uint8_t writer_code[], writer_code_end[];
__asm__(".pushsection .rodata\n"
        "writer_code:\n"
        "xor %ecx, %ecx\n"
        "mov $0x3f8, %dx\n"
        "mov $0x78, %al\n"
        "1: out %al, %dx\n"
        "2: pause\n"
        "mov 0x200000, %ebx\n"
        "cmp %ebx, %ecx\n"
        "je 2b\n"
        "mov %ebx, %ecx\n"
        "mov $0x1000000, %edi\n"
        "mov $" TEXT(DIFF_PAGES) ", %esi\n"
                                 "3: mov %ebx, (%rdi)\n"
                                 "add $0x2000, %rdi\n"
                                 "dec %esi\n"
                                 "jnz 3b\n"
                                 "jmp 1b\n"
                                 "writer_code_end:\n"
                                 ".popsection\n");

static struct rig_payload writer(void) {
    return (struct rig_payload){writer_code, (size_t)(writer_code_end - writer_code)};
}

/* ---- Full ------------------------------------------------------------------------------------- */

static uint8_t *map(int fd, size_t size) {
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
                        fd == HOST_FD_NONE ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED, fd, 0);
    ASSERT(memory != MAP_FAILED);
    (void)madvise(memory, size, MADV_HUGEPAGE); /* as the monitor has it */
    return memory;
}

static void fill(uint8_t *memory) {
    for (size_t i = STRIPE_SIZE; i < FULL_SIZE; i += STRIPE_SIZE) {
        size_t stripe = i / STRIPE_SIZE;
        if (stripe % 4 != 3) {
            memset(memory + i, stripe % 2 == 0 ? (int)stripe : 0, STRIPE_SIZE);
        }
    }
    memset(memory + STRIPE_SIZE / 2, 1, STRIPE_SIZE / 2); /* not where the guest's code is */
}

static int new_file(struct rig *rig, const char *path) {
    struct kelpie_error err;
    int fd = HOST_FD_NONE;
    rig_check(host_file_open(rig->host, path, HOST_OPEN_READ | HOST_OPEN_WRITE | HOST_OPEN_CREATE,
                             0600, &fd, &err),
              "file", &err);
    rig_check(host_path_unlink(rig->host, path, &err), "unlink", &err);
    return fd;
}

static void save_once(struct rig *rig, const char *path, struct series *series) {
    rig_give(rig, CONTROL_ROLE_STATE, rig_file(rig, "", 0));
    int memory_fd = new_file(rig, path); /* kept open: its end costs time too */
    rig_pass(rig, CONTROL_ROLE_MEMORY, memory_fd);
    uint64_t start_ns = host_monotonic_ns(rig->host);
    rig_order(rig, CONTROL_SAVE);
    series_put(series, rig_ms_since(rig, start_ns));
    host_close(rig->host, memory_fd);
}

static void copy_once(struct rig *rig, uint8_t *target, const uint8_t *source,
                      struct series *series) {
    uint64_t start_ns = host_monotonic_ns(rig->host);
    memcpy(target, source, FULL_SIZE);
    __asm__ volatile("" : : "r"(target) : "memory");
    series_put(series, rig_ms_since(rig, start_ns));
}

static void measure_full(struct host *host, const char *path, struct report *report, size_t runs) {
    struct rig rig;
    if (!rig_open(&rig, host, FULL_MIB)) {
        return;
    }
    const struct rig_payload payload = writer();
    rig_boot(&rig, &payload);
    rig_order(&rig, CONTROL_PAUSE);
    uint8_t *memory = map(rig.instance->memory_fd, FULL_SIZE);
    uint8_t *touched = map(HOST_FD_NONE, FULL_SIZE);
    fill(memory);
    memset(touched, 1, FULL_SIZE);
    struct series *full =
        report_add(report, "kvm.snapshot_full", "ms", "memcpy.fresh", FULL_RATIO_MAX);
    struct series *fresh = report_add(report, "memcpy.fresh", "ms", NULL, 0);
    struct series *again = report_add(report, "memcpy.touched", "ms", NULL, 0);
    for (size_t i = 0; i < runs; i++) {
        uint8_t *target = map(HOST_FD_NONE, FULL_SIZE);
        copy_once(&rig, target, memory, fresh);
        munmap(target, FULL_SIZE);
        save_once(&rig, path, full);
        copy_once(&rig, touched, memory, again);
    }
    munmap(memory, FULL_SIZE);
    munmap(touched, FULL_SIZE);
    kvm_process_take_down(rig.instance);
    rig_close(&rig);
}

/* ---- Diff ------------------------------------------------------------------------------------- */

/* Writes in this run's pages, and waits until it is done. */
static void let_guest_write(struct rig *rig, uint32_t number) {
    struct kelpie_error err;
    rig_check(host_file_write_at(rig->host, rig->instance->memory_fd, &number, sizeof(number),
                                 TRIGGER_GPA, &err),
              "trigger", &err);
    rig_await_console(rig);
}

/* The bits of a bitmap's file. */
static size_t bits_of(struct rig *rig, int fd) {
    struct kelpie_error err;
    static uint8_t bytes[(DIFF_MIB << 20) / 4096 / 8];
    size_t size = 0;
    size_t count = 0;
    rig_check(host_file_read_at(rig->host, fd, bytes, sizeof(bytes), 0, &size, &err), "pages",
              &err);
    ASSERT(size == sizeof(bytes));
    for (size_t i = 0; i < size; i++) {
        count += (size_t)__builtin_popcount(bytes[i]);
    }
    return count;
}

static void diff_once(struct rig *rig, const char *path, struct series *presave,
                      struct series *pause) {
    int memory_fd = new_file(rig, path); /* kept open: its end costs time too */
    uint64_t start_ns = host_monotonic_ns(rig->host);
    rig_pass(rig, CONTROL_ROLE_MEMORY, memory_fd);
    rig_order(rig, CONTROL_PRESAVE);
    rig_order(rig, CONTROL_PRESAVE);
    series_put(presave, rig_ms_since(rig, start_ns));
    int pages_fd = rig_file(rig, "", 0);
    int state_fd = rig_file(rig, "", 0);
    start_ns = host_monotonic_ns(rig->host);
    rig_order(rig, CONTROL_PAUSE);
    rig_give(rig, CONTROL_ROLE_STATE, state_fd);
    rig_pass(rig, CONTROL_ROLE_PAGES_0, pages_fd);
    rig_order(rig, CONTROL_SAVE);
    rig_order(rig, CONTROL_RESUME);
    series_put(pause, rig_ms_since(rig, start_ns));
    size_t bits = bits_of(rig, pages_fd);
    ASSERT(bits >= DIFF_PAGES && bits < DIFF_PAGES + DIFF_PAGES / 10);
    host_close(rig->host, pages_fd);
    host_close(rig->host, memory_fd);
}

static void measure_diff(struct host *host, const char *path, struct report *report, size_t runs) {
    struct rig rig;
    if (!rig_open(&rig, host, DIFF_MIB)) {
        return;
    }
    const struct rig_payload payload = writer();
    rig_boot(&rig, &payload);
    rig_order(&rig, CONTROL_PAUSE);
    rig_give(&rig, CONTROL_ROLE_STATE, rig_file(&rig, "", 0));
    rig_give(&rig, CONTROL_ROLE_MEMORY, new_file(&rig, path));
    rig_order(&rig, CONTROL_SAVE);
    rig_order(&rig, CONTROL_TRACK);
    rig_order(&rig, CONTROL_RESUME);
    struct series *pause = report_add(report, "kvm.snapshot_diff", "ms", NULL, PAUSE_MS_MAX);
    struct series *presave = report_add(report, "kvm.presave_diff", "ms", NULL, 0);
    for (size_t i = 0; i < runs; i++) {
        let_guest_write(&rig, (uint32_t)i + 1);
        diff_once(&rig, path, presave, pause);
    }
    kvm_process_take_down(rig.instance);
    rig_close(&rig);
}

void kvm_snapshot_measure(struct host *host, const char *folder, struct report *report,
                          size_t runs) {
    char path[PATH_SIZE];
    int size = snprintf(path, sizeof(path), "%s/memory", folder);
    ASSERT(size > 0 && size < PATH_SIZE);
    measure_full(host, path, report, runs / FULL_RUNS_DIVISOR);
    measure_diff(host, path, report, runs);
}
