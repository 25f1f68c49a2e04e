/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "kvm_restore.h"

#include <stdio.h>

#include "base/assert.h"
#include "kvm_rig.h"

#define MEMORY_MIB 256
#define POOL_LIMIT_MS 0.25
#define FLOOR_LIMIT 1.5

/* mov $0x3f8,%dx; mov $'x',%al; 1: out %al,(%dx); pause; jmp 1b */
static const uint8_t code[] = {0x66, 0xba, 0xf8, 0x03, 0xb0, 'x', 0xee, 0xf3, 0x90, 0xeb, 0xfb};

/* Four of the five stamps, each as milliseconds from the first, the request. */
struct stamps {
    struct series *process;
    struct series *ready;
    struct series *exit;
    struct series *byte;
};

static double ms_between(uint64_t start_ns, uint64_t end_ns) {
    ASSERT(end_ns >= start_ns);
    return (double)(end_ns - start_ns) / 1e6;
}

static void put_stamps(struct rig *rig, const struct stamps *stamps, uint64_t start_ns) {
    struct kelpie_error err;
    struct control_stamps told = {0};
    const struct host_wait wait = rig_wait(rig);
    rig_await_console(rig);
    series_put(stamps->byte, rig_ms_since(rig, start_ns));
    rig_check(kvm_order_tell(rig->instance, &told, &wait, &err), "tell", &err);
    if (stamps->process) {
        series_put(stamps->process, ms_between(start_ns, told.started_ns));
    }
    series_put(stamps->ready, ms_between(start_ns, told.ready_ns));
    series_put(stamps->exit, ms_between(start_ns, told.first_exit_ns));
}

/* From the bundle's path to a running guest, as a user's restore does it below src/vm. */
static void restore_once(struct rig *rig, const char *bundle, const struct stamps *stamps) {
    struct kelpie_error err;
    const struct host_wait wait = rig_wait(rig);
    struct snapshot_reader *reader = NULL;
    uint64_t start_ns = host_monotonic_ns(rig->host);
    rig_check(snapshot_reader_open(rig->host, bundle, &reader, &err), "open", &err);
    rig_check(kvm_load_running(rig->instance, reader, &wait, &err), "load", &err);
    put_stamps(rig, stamps, start_ns);
    snapshot_reader_close(reader);
    kvm_process_take_down(rig->instance);
}

/* The same with what a pool does ahead done ahead. */
static void take_once(struct rig *rig, struct snapshot_reader *reader,
                      const struct stamps *stamps) {
    struct kelpie_error err;
    const struct host_wait wait = rig_wait(rig);
    rig_check(kvm_prepare(rig->instance, reader, &wait, &err), "prepare", &err);
    uint64_t start_ns = host_monotonic_ns(rig->host);
    rig_check(kvm_load_running(rig->instance, reader, &wait, &err), "load", &err);
    put_stamps(rig, stamps, start_ns);
    kvm_process_take_down(rig->instance);
}

static void floor_once(struct rig *rig, int memory_fd, const char *program,
                       const struct stamps *stamps) {
    struct rig_floor_stamps told = {0};
    uint64_t start_ns = host_monotonic_ns(rig->host);
    rig_floor_start(rig, &rig->instance->monitor, memory_fd, program, &told);
    series_put(stamps->byte, rig_ms_since(rig, start_ns));
    series_put(stamps->process, ms_between(start_ns, told.started_ns));
    series_put(stamps->ready, ms_between(start_ns, told.ready_ns));
    series_put(stamps->exit, ms_between(start_ns, told.first_exit_ns));
    monitor_take_down(&rig->instance->monitor, NULL);
}

void kvm_restore_measure(struct host *host, const char *folder, const char *floor_program,
                         struct report *report, size_t runs) {
    struct kelpie_error err;
    struct rig rig;
    char bundle[512];
    const struct rig_payload payload = {code, sizeof(code)};
    snprintf(bundle, sizeof(bundle), "%s/kvm-restore", folder);
    if (!rig_open(&rig, host, MEMORY_MIB)) {
        return;
    }
    rig_boot(&rig, &payload);
    rig_save_bundle(&rig, bundle);
    kvm_process_take_down(rig.instance);
    struct snapshot_reader *reader = NULL;
    rig_check(snapshot_reader_open(host, bundle, &reader, &err), "open", &err);
    const struct stamps ours = {
        .process = report_add(report, "kvm.restore_process", "ms", "floor.restore_process", 0),
        .ready = report_add(report, "kvm.restore_ready", "ms", "floor.restore_ready", 0),
        .exit = report_add(report, "kvm.restore_exit", "ms", "floor.restore_exit", FLOOR_LIMIT),
        .byte = report_add(report, "kvm.restore_byte", "ms", "floor.restore_byte", 0),
    };
    const struct stamps pool = {
        .ready = report_add(report, "kvm.pool_ready", "ms", NULL, 0),
        .exit = report_add(report, "kvm.pool_exit", "ms", NULL, POOL_LIMIT_MS),
        .byte = report_add(report, "kvm.pool_byte", "ms", NULL, 0),
    };
    const struct stamps floor = {
        .process = report_add(report, "floor.restore_process", "ms", NULL, 0),
        .ready = report_add(report, "floor.restore_ready", "ms", NULL, 0),
        .exit = report_add(report, "floor.restore_exit", "ms", NULL, 0),
        .byte = report_add(report, "floor.restore_byte", "ms", NULL, 0),
    };
    for (size_t i = 0; i < runs; i++) {
        restore_once(&rig, bundle, &ours);
        floor_once(&rig, snapshot_reader_part(reader, SNAPSHOT_PART_MEMORY), floor_program, &floor);
        take_once(&rig, reader, &pool);
    }
    snapshot_reader_close(reader);
    rig_check(host_path_remove_folder(host, bundle, &err), "remove", &err);
    rig_close(&rig);
}
