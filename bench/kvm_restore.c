/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "kvm_restore.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/kvm/kvm_instance.h"
#include "base/assert.h"

#define MEMORY_MIB 256
#define WAIT_MS 20000
#define LOAD_GPA 0x100000ull
#define ELF_SIZE 256

/* mov $0x3f8,%dx; mov $'x',%al; 1: out %al,(%dx); pause; jmp 1b */
static const uint8_t payload[] = {0x66, 0xba, 0xf8, 0x03, 0xb0, 'x', 0xee, 0xf3, 0x90, 0xeb, 0xfb};

struct rig {
    struct host *host;
    struct kelpie_config config;
    struct backend_instance *instance;
    int state_fd;
    int memory_fd;
};

static void check(enum kelpie_status status, const char *what, const struct kelpie_error *err) {
    if (status != KELPIE_OK) {
        fprintf(stderr, "bench: %s: %s\n", what, err->message);
        exit(1);
    }
}

static struct host_wait wait_of(struct rig *rig) {
    return host_wait_ms(rig->host, WAIT_MS, HOST_FD_NONE);
}

/* A file in memory with these bytes. */
static int file_of(struct rig *rig, const void *data, size_t size) {
    struct kelpie_error err;
    int fd = HOST_FD_NONE;
    check(host_memory_file(rig->host, "bench", size, &fd, &err), "memory file", &err);
    check(host_file_write_at(rig->host, fd, data, size, 0, &err), "write", &err);
    return fd;
}

/* The least ELF file that a loader takes (System V ABI, gABI 4.1: header and one PT_LOAD), with the payload. */
static int make_kernel(struct rig *rig) {
    uint8_t bytes[ELF_SIZE + sizeof(payload)] = {0};
    struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
    cursor_write_bytes(&writer,
                       "\x7f"
                       "ELF\x02\x01\x01\0\0\0\0\0\0\0\0\0",
                       16);
    cursor_write_u16(&writer, 2);    /* an executable */
    cursor_write_u16(&writer, 0x3e); /* x86-64 */
    cursor_write_u32(&writer, 1);
    cursor_write_u64(&writer, LOAD_GPA);
    cursor_write_u64(&writer, 64); /* program headers */
    cursor_write_u64(&writer, 0);
    cursor_write_u32(&writer, 0);
    cursor_write_u16(&writer, 64);
    cursor_write_u16(&writer, 56);
    cursor_write_u16(&writer, 1);
    cursor_write_bytes(&writer, "\0\0\0\0\0\0", 6);
    cursor_write_u32(&writer, 1); /* PT_LOAD */
    cursor_write_u32(&writer, 7);
    cursor_write_u64(&writer, ELF_SIZE);
    cursor_write_u64(&writer, LOAD_GPA);
    cursor_write_u64(&writer, LOAD_GPA);
    cursor_write_u64(&writer, sizeof(payload));
    cursor_write_u64(&writer, sizeof(payload));
    cursor_write_u64(&writer, 0x1000);
    ASSERT(!writer.failed);
    ASSERT(writer.size <= ELF_SIZE);
    memcpy(bytes + ELF_SIZE, payload, sizeof(payload));
    return file_of(rig, bytes, sizeof(bytes));
}

static void open_instance(struct rig *rig) {
    struct kelpie_error err;
    struct backend_instance *instance = calloc(1, sizeof(*instance));
    ASSERT(instance);
    instance->host = rig->host;
    instance->config = &rig->config;
    instance->program_fd = HOST_FD_NONE;
    instance->control_fd = HOST_FD_NONE;
    monitor_disks_init(&instance->disks, rig->host, &rig->config, true);
    check(monitor_init(&instance->monitor, rig->host, &rig->config, "kelpie-vmm", &err), "monitor",
          &err);
    rig->instance = instance;
}

static void pass(struct rig *rig, enum control_role role, int fd) {
    struct kelpie_error err;
    check(kvm_pass(rig->instance, role, fd, &err), "pass a descriptor", &err);
}

/* The monitor's alone from now on. */
static void give(struct rig *rig, enum control_role role, int fd) {
    pass(rig, role, fd);
    host_close(rig->host, fd);
}

static int empty_memory(struct rig *rig) {
    struct kelpie_error err;
    int fd = HOST_FD_NONE;
    check(host_memory_file(rig->host, "bench", (uint64_t)MEMORY_MIB << 20, &fd, &err),
          "memory file", &err);
    return fd;
}

static void await_console(struct rig *rig) {
    struct kelpie_error err;
    uint8_t byte = 0;
    size_t count = 0;
    const struct host_wait wait = wait_of(rig);
    check(host_read(rig->host, rig->instance->monitor.console_fd, &byte, 1, &wait, &count, &err),
          "console", &err);
    ASSERT(count == 1);
}

/* Boots the payload, and saves it in its loop. */
static void make_snapshot(struct rig *rig) {
    struct kelpie_error err;
    const struct host_wait wait = wait_of(rig);
    check(kvm_process_start(rig->instance, &err), "start", &err);
    give(rig, CONTROL_ROLE_KERNEL, make_kernel(rig));
    give(rig, CONTROL_ROLE_INITRAMFS, file_of(rig, "none", 4));
    give(rig, CONTROL_ROLE_MEMORY, empty_memory(rig));
    check(kvm_order_machine(rig->instance, CONTROL_BOOT, &wait, &err), "boot", &err);
    await_console(rig);
    check(kvm_order_plain(rig->instance, CONTROL_PAUSE, &wait, &err), "pause", &err);
    check(host_memory_file(rig->host, "state", 0, &rig->state_fd, &err), "file", &err);
    check(host_memory_file(rig->host, "memory", 0, &rig->memory_fd, &err), "file", &err);
    pass(rig, CONTROL_ROLE_STATE, rig->state_fd);
    pass(rig, CONTROL_ROLE_MEMORY, rig->memory_fd);
    check(kvm_order_plain(rig->instance, CONTROL_SAVE, &wait, &err), "save", &err);
    kvm_process_take_down(rig->instance);
}

static double ms_since(struct rig *rig, uint64_t start_ns) {
    return (double)(host_monotonic_ns(rig->host) - start_ns) / 1e6;
}

static void restore_once(struct rig *rig, struct series *series) {
    struct kelpie_error err;
    const struct host_wait wait = wait_of(rig);
    uint64_t start_ns = host_monotonic_ns(rig->host);
    check(kvm_process_start(rig->instance, &err), "start", &err);
    pass(rig, CONTROL_ROLE_STATE, rig->state_fd);
    pass(rig, CONTROL_ROLE_MEMORY, rig->memory_fd);
    check(kvm_order_machine(rig->instance, CONTROL_LOAD, &wait, &err), "load", &err);
    check(kvm_order_plain(rig->instance, CONTROL_RESUME, &wait, &err), "resume", &err);
    await_console(rig);
    series_put(series, ms_since(rig, start_ns));
    kvm_process_take_down(rig->instance);
}

/* The other program gets /dev/kvm and the memory's file, and writes a byte when its guest has made an exit. */
static void floor_once(struct rig *rig, const char *program, struct series *series) {
    struct kelpie_error err;
    const char *argv[] = {program, NULL};
    uint64_t start_ns = host_monotonic_ns(rig->host);
    int kvm_fd = HOST_FD_NONE;
    check(host_file_open(rig->host, KVM_DEVICE, HOST_OPEN_READ | HOST_OPEN_WRITE, 0, &kvm_fd, &err),
          "open", &err);
    const struct host_process_fd fds[] = {{CONTROL_CHILD_KVM, kvm_fd},
                                          {CONTROL_CHILD_PROGRAM, rig->memory_fd}};
    const struct monitor_launch launch = {.argv = argv, .fds = fds, .fd_count = ARRAY_SIZE(fds)};
    check(monitor_launch(&rig->instance->monitor, &launch, &err), "floor", &err);
    await_console(rig);
    series_put(series, ms_since(rig, start_ns));
    monitor_take_down(&rig->instance->monitor, NULL);
    host_close(rig->host, kvm_fd);
}

void kvm_restore_measure(struct host *host, const char *floor_program, struct report *report,
                         size_t runs) {
    struct kelpie_error err;
    struct host_file_info info;
    struct rig rig = {.host = host,
                      .config = {.vcpu_count = 1,
                                 .memory_mib = MEMORY_MIB,
                                 .console_bytes_max = KELPIE_CONSOLE_BYTES_DEFAULT}};
    if (host_path_stat(host, KVM_DEVICE, &info, &err) != KELPIE_OK) {
        fprintf(stderr, "bench: kvm.restore_byte is not measured: %s\n", err.message);
        return;
    }
    open_instance(&rig);
    make_snapshot(&rig);
    struct series *ours = report_add(report, "kvm.restore_byte", "ms", "floor.restore_byte", 0);
    struct series *theirs = report_add(report, "floor.restore_byte", "ms", NULL, 0);
    for (size_t i = 0; i < runs; i++) {
        restore_once(&rig, ours);
        floor_once(&rig, floor_program, theirs);
    }
    monitor_deinit(&rig.instance->monitor);
    host_close(host, rig.instance->program_fd);
    host_close(host, rig.state_fd);
    host_close(host, rig.memory_fd);
    free(rig.instance);
}
