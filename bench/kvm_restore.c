/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "kvm_restore.h"

#include "base/assert.h"
#include "kvm_rig.h"

#define MEMORY_MIB 256

/* mov $0x3f8,%dx; mov $'x',%al; 1: out %al,(%dx); pause; jmp 1b */
static const uint8_t code[] = {0x66, 0xba, 0xf8, 0x03, 0xb0, 'x', 0xee, 0xf3, 0x90, 0xeb, 0xfb};

struct saved {
    int state_fd;
    int memory_fd;
};

/* Boots the payload, and saves it in its loop. */
static void make_snapshot(struct rig *rig, struct saved *saved) {
    struct kelpie_error err;
    const struct rig_payload payload = {code, sizeof(code)};
    rig_boot(rig, &payload);
    rig_order(rig, CONTROL_PAUSE);
    rig_check(host_memory_file(rig->host, "state", 0, &saved->state_fd, &err), "file", &err);
    rig_check(host_memory_file(rig->host, "memory", 0, &saved->memory_fd, &err), "file", &err);
    rig_pass(rig, CONTROL_ROLE_STATE, saved->state_fd);
    rig_pass(rig, CONTROL_ROLE_MEMORY, saved->memory_fd);
    rig_order(rig, CONTROL_SAVE);
    rig_end(rig);
}

static void restore_once(struct rig *rig, const struct saved *saved, struct series *series) {
    struct kelpie_error err;
    const struct host_wait wait = rig_wait(rig);
    uint64_t start_ns = host_monotonic_ns(rig->host);
    rig_check(kvm_process_start(rig->instance, &err), "start", &err);
    rig_pass(rig, CONTROL_ROLE_STATE, saved->state_fd);
    rig_pass(rig, CONTROL_ROLE_MEMORY, saved->memory_fd);
    rig_check(kvm_order_machine(rig->instance, CONTROL_LOAD, &wait, &err), "load", &err);
    rig_order(rig, CONTROL_RESUME);
    rig_await_console(rig);
    series_put(series, rig_ms_since(rig, start_ns));
    rig_end(rig);
}

/* The other program gets /dev/kvm and the memory's file, and writes a byte when its guest has made an exit. */
static void floor_once(struct rig *rig, int memory_fd, const char *program, struct series *series) {
    struct kelpie_error err;
    const char *argv[] = {program, NULL};
    uint64_t start_ns = host_monotonic_ns(rig->host);
    int kvm_fd = HOST_FD_NONE;
    rig_check(
        host_file_open(rig->host, KVM_DEVICE, HOST_OPEN_READ | HOST_OPEN_WRITE, 0, &kvm_fd, &err),
        "open", &err);
    const struct host_process_fd fds[] = {{CONTROL_CHILD_KVM, kvm_fd},
                                          {CONTROL_CHILD_PROGRAM, memory_fd}};
    const struct monitor_launch launch = {.argv = argv, .fds = fds, .fd_count = ARRAY_SIZE(fds)};
    rig_check(monitor_launch(&rig->instance->monitor, &launch, &err), "floor", &err);
    rig_await_console(rig);
    series_put(series, rig_ms_since(rig, start_ns));
    monitor_take_down(&rig->instance->monitor, NULL);
    host_close(rig->host, kvm_fd);
}

void kvm_restore_measure(struct host *host, const char *floor_program, struct report *report,
                         size_t runs) {
    struct rig rig;
    struct saved saved = {HOST_FD_NONE, HOST_FD_NONE};
    if (!rig_open(&rig, host, MEMORY_MIB)) {
        return;
    }
    make_snapshot(&rig, &saved);
    struct series *ours = report_add(report, "kvm.restore_byte", "ms", "floor.restore_byte", 0);
    struct series *theirs = report_add(report, "floor.restore_byte", "ms", NULL, 0);
    for (size_t i = 0; i < runs; i++) {
        restore_once(&rig, &saved, ours);
        floor_once(&rig, saved.memory_fd, floor_program, theirs);
    }
    host_close(host, saved.state_fd);
    host_close(host, saved.memory_fd);
    rig_close(&rig);
}
