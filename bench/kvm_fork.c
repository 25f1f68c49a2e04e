/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "kvm_fork.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

#define MEMORY_MIB 256
#define CHILD_COUNT 100
#define THREAD_COUNT 4
#define TIME_LIMIT_MS 150
#define MEMORY_LIMIT_KIB 700
#define MONITOR_LIMIT_KIB 3072
#define DISK_SIZE (16u << 20)

/*
 * Writes to the console until it finds that it is another machine, by its generation (VMGenID), and once
 * more, and then halts: so a child makes an exit or two and is no load while its siblings are made.
 *
 *     mov $0x3f8,%dx; mov $'x',%al; out %al,(%dx); mov 0xf0000,%ebx
 *     1: out %al,(%dx); cmp 0xf0000,%ebx; je 1b; out %al,(%dx); 2: hlt; jmp 2b
 *
 * The first write lies where the floor program begins.
 */
static const uint8_t code[] = {0x66, 0xba, 0xf8, 0x03, 0xb0, 'x',  0xee, 0x8b, 0x1c, 0x25,
                               0x00, 0x00, 0x0f, 0x00, 0xee, 0x3b, 0x1c, 0x25, 0x00, 0x00,
                               0x0f, 0x00, 0x74, 0xf6, 0xee, 0xf4, 0xeb, 0xfd};

struct litter {
    struct rig *rig;
    struct snapshot_reader *reader;
    struct backend_instance *children; /* CHILD_COUNT */
    size_t next;                       /* atomically */
};

/* The number behind a name in a file of /proc, in KiB. -1: it is not there. */
static long kib_in(const char *path, const char *name) {
    FILE *file = fopen(path, "re");
    char line[256];
    long value = -1;
    while (file && value < 0 && fgets(line, sizeof(line), file)) {
        if (strncmp(line, name, strlen(name)) == 0) {
            value = strtol(line + strlen(name), NULL, 10);
        }
    }
    if (file) {
        fclose(file);
    }
    return value;
}

static long pss_kib(const struct backend_instance *instance) {
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/smaps_rollup",
             host_process_id(instance->monitor.process));
    return kib_in(path, "Pss:");
}

static void bear(void *argument) {
    struct litter *litter = argument;
    struct rig *rig = litter->rig;
    struct kelpie_error err;
    const struct host_wait wait = rig_wait(rig);
    for (;;) {
        size_t index = __atomic_fetch_add(&litter->next, 1, __ATOMIC_RELAXED);
        if (index >= CHILD_COUNT) {
            return;
        }
        struct backend_instance *child = &litter->children[index];
        rig_init(rig, child);
        rig_check(kvm_load_running(child, litter->reader, &wait, &err), "load", &err);
    }
}

/* When the last child's guest had made its first exit. */
static uint64_t last_exit_ns(struct litter *litter) {
    uint64_t last_ns = 0;
    struct kelpie_error err;
    const struct host_wait wait = rig_wait(litter->rig);
    for (size_t i = 0; i < CHILD_COUNT; i++) {
        struct control_stamps told = {0};
        while (told.first_exit_ns == 0) {
            rig_check(kvm_order_tell(&litter->children[i], &told, &wait, &err), "tell", &err);
        }
        last_ns = told.first_exit_ns > last_ns ? told.first_exit_ns : last_ns;
    }
    return last_ns;
}

static void bear_all(struct litter *litter) {
    struct kelpie_error err;
    struct host_thread *threads[THREAD_COUNT] = {NULL};
    for (size_t i = 0; i < THREAD_COUNT; i++) {
        rig_check(host_thread_start(litter->rig->host, "fork", bear, litter, &threads[i], &err),
                  "thread", &err);
    }
    for (size_t i = 0; i < THREAD_COUNT; i++) {
        host_thread_join(threads[i]);
    }
}

static double free_kib(void) {
    return (double)kib_in("/proc/meminfo", "MemFree:");
}

static void fork_once(struct rig *rig, struct snapshot_reader *reader, struct series *time,
                      struct series *memory, struct series *pss) {
    struct litter litter = {.rig = rig, .reader = reader};
    litter.children = calloc(CHILD_COUNT, sizeof(*litter.children));
    ASSERT(litter.children);
    double free_before = free_kib();
    uint64_t start_ns = host_monotonic_ns(rig->host);
    bear_all(&litter);
    series_put(time, (double)(last_exit_ns(&litter) - start_ns) / 1e6);
    series_put(memory, (free_before - free_kib()) / CHILD_COUNT);
    long pss_sum = 0;
    for (size_t i = 0; i < CHILD_COUNT; i++) {
        pss_sum += pss_kib(&litter.children[i]);
    }
    series_put(pss, (double)pss_sum / CHILD_COUNT);
    for (size_t i = 0; i < CHILD_COUNT; i++) {
        kvm_instance_deinit(&litter.children[i]);
    }
    free(litter.children);
}

static void floor_once(struct rig *rig, struct snapshot_reader *reader, const char *program,
                       struct series *memory) {
    struct kelpie_error err;
    struct rig_floor_stamps told;
    int memory_fd = snapshot_reader_part(reader, SNAPSHOT_PART_MEMORY);
    struct monitor *monitors = calloc(CHILD_COUNT, sizeof(*monitors));
    ASSERT(monitors);
    double free_before = free_kib();
    for (size_t i = 0; i < CHILD_COUNT; i++) {
        rig_check(monitor_init(&monitors[i], rig->host, &rig->config, "floor", &err), "init", &err);
        rig_floor_start(rig, &monitors[i], memory_fd, program, &told);
    }
    series_put(memory, (free_before - free_kib()) / CHILD_COUNT);
    for (size_t i = 0; i < CHILD_COUNT; i++) {
        monitor_take_down(&monitors[i], NULL);
        monitor_deinit(&monitors[i]);
    }
    free(monitors);
}

void kvm_fork_measure(struct host *host, const char *floor_program, struct report *report,
                      size_t runs) {
    struct rig rig;
    const struct rig_payload payload = {code, sizeof(code)};
    if (!rig_open(&rig, host, MEMORY_MIB)) {
        return;
    }
    rig_boot(&rig, &payload);
    struct snapshot_reader *reader = rig_save_in_memory(&rig);
    struct series *time = report_add(report, "kvm.fork_100", "ms", NULL, TIME_LIMIT_MS);
    struct series *pss = report_add(report, "kvm.fork_pss", "KiB", NULL, MEMORY_LIMIT_KIB);
    struct series *memory = report_add(report, "kvm.fork_memory", "KiB", "floor.fork_memory", 0);
    struct series *floor = report_add(report, "floor.fork_memory", "KiB", NULL, 0);
    for (size_t i = 0; i < runs; i++) {
        fork_once(&rig, reader, time, memory, pss);
        floor_once(&rig, reader, floor_program, floor);
    }
    snapshot_reader_close(reader);
    kvm_process_take_down(rig.instance);
    rig_close(&rig);
}

/* ---- One monitor ------------------------------------------------------------------------------ */

/* The sum of Pss of all mappings but those as large as the guest's memory. */
static double pss_without_guest_kib(const struct backend_instance *instance) {
    char path[64];
    char line[512];
    snprintf(path, sizeof(path), "/proc/%d/smaps", host_process_id(instance->monitor.process));
    FILE *file = fopen(path, "re");
    bool counts = false;
    long sum = 0;
    while (file && fgets(line, sizeof(line), file)) {
        unsigned long start = 0;
        unsigned long end = 0;
        long value = 0;
        if (sscanf(line, "%lx-%lx ", &start, &end) == 2) {
            counts = end - start < (unsigned long)MEMORY_MIB << 20;
        } else if (counts && sscanf(line, "Pss: %ld", &value) == 1) {
            sum += value;
        }
    }
    if (file) {
        fclose(file);
    }
    return (double)sum;
}

void kvm_monitor_measure(struct host *host, const char *folder, struct report *report) {
    struct rig rig;
    struct kelpie_error err;
    char path[512];
    const struct rig_payload payload = {code, sizeof(code)};
    const struct kelpie_network network = {.kind = KELPIE_NETWORK_USER, .mac = "02:00:00:00:00:01"};
    const struct kelpie_disk disk = {.path = path};
    int fd = HOST_FD_NONE;
    if (!rig_open(&rig, host, MEMORY_MIB)) {
        return;
    }
    snprintf(path, sizeof(path), "%s/disk", folder);
    rig_check(host_file_open(host, path, HOST_OPEN_READ | HOST_OPEN_WRITE | HOST_OPEN_CREATE, 0600,
                             &fd, &err),
              "disk", &err);
    rig_check(host_file_truncate(host, fd, DISK_SIZE, &err), "disk", &err);
    host_close(host, fd);
    rig.config.disks = &disk;
    rig.config.disk_count = 1;
    rig.config.network = &network;
    kvm_instance_deinit(rig.instance);
    memset(rig.instance, 0, sizeof(*rig.instance));
    rig_init(&rig, rig.instance);
    const struct host_wait wait = rig_wait(&rig);
    rig_check(monitor_disks_open(&rig.instance->disks, &wait, &err), "disk", &err);
    rig_boot(&rig, &payload);
    struct series *series = report_add(report, "kvm.monitor_pss", "KiB", NULL, MONITOR_LIMIT_KIB);
    series_put(series, pss_without_guest_kib(rig.instance));
    kvm_process_take_down(rig.instance);
    rig_close(&rig);
    rig_check(host_path_unlink(host, path, &err), "disk", &err);
}
