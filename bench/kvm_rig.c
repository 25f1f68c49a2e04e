/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "kvm_rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/kvm/kvm_instance.h"
#include "base/assert.h"

#define WAIT_MS 20000
#define LOAD_GPA 0x100000ull
#define ELF_SIZE 256

void rig_check(enum kelpie_status status, const char *what, const struct kelpie_error *err) {
    if (status != KELPIE_OK) {
        fprintf(stderr, "bench: %s: %s\n", what, err->message);
        exit(1);
    }
}

struct host_wait rig_wait(struct rig *rig) {
    return host_wait_ms(rig->host, WAIT_MS, HOST_FD_NONE);
}

int rig_file(struct rig *rig, const void *data, size_t size) {
    struct kelpie_error err;
    int fd = HOST_FD_NONE;
    rig_check(host_memory_file(rig->host, "bench", size, &fd, &err), "memory file", &err);
    rig_check(host_file_write_at(rig->host, fd, data, size, 0, &err), "write", &err);
    return fd;
}

/* The least ELF file that a loader takes (System V ABI, gABI 4.1: header and one PT_LOAD), with the payload. */
static int make_kernel(struct rig *rig, const struct rig_payload *payload) {
    uint8_t bytes[ELF_SIZE + RIG_PAYLOAD_SIZE_MAX] = {0};
    ASSERT(payload->size <= RIG_PAYLOAD_SIZE_MAX);
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
    cursor_write_u64(&writer, payload->size);
    cursor_write_u64(&writer, payload->size);
    cursor_write_u64(&writer, 0x1000);
    ASSERT(!writer.failed);
    ASSERT(writer.size <= ELF_SIZE);
    memcpy(bytes + ELF_SIZE, payload->code, payload->size);
    return rig_file(rig, bytes, ELF_SIZE + payload->size);
}

void rig_init(struct rig *rig, struct backend_instance *instance) {
    struct kelpie_error err;
    ASSERT(rig->launch.config == &rig->config);
    rig_check(kvm_instance_init(instance, &rig->launch, &err), "monitor", &err);
}

bool rig_open(struct rig *rig, struct host *host, uint32_t memory_mib) {
    struct kelpie_error err;
    struct host_file_info info;
    *rig = (struct rig){.host = host,
                        .config = {.vcpu_count = 1,
                                   .memory_mib = memory_mib,
                                   .console_bytes_max = KELPIE_CONSOLE_BYTES_DEFAULT}};
    if (host_path_stat(host, KVM_DEVICE, &info, &err) != KELPIE_OK) {
        fprintf(stderr, "bench: kelpie-vmm is not measured: %s\n", err.message);
        return false;
    }
    struct backend_instance *instance = calloc(1, sizeof(*instance));
    ASSERT(instance);
    rig->launch = (struct backend_launch){
        .host = rig->host, .config = &rig->config, .id = "bench", .cancel_fd = HOST_FD_NONE};
    rig_init(rig, instance);
    rig->instance = instance;
    return true;
}

void rig_close(struct rig *rig) {
    ASSERT(rig->instance);
    ASSERT(!rig->instance->monitor.process);
    kvm_instance_deinit(rig->instance);
    free(rig->instance);
}

void rig_pass(struct rig *rig, enum control_role role, int fd) {
    struct kelpie_error err;
    rig_check(kvm_pass(rig->instance, role, fd, &err), "pass a descriptor", &err);
}

void rig_give(struct rig *rig, enum control_role role, int fd) {
    rig_pass(rig, role, fd);
    host_close(rig->host, fd);
}

int rig_empty_memory(struct rig *rig) {
    struct kelpie_error err;
    int fd = HOST_FD_NONE;
    rig_check(
        host_memory_file(rig->host, "bench", (uint64_t)rig->config.memory_mib << 20, &fd, &err),
        "memory file", &err);
    return fd;
}

void rig_await_console(struct rig *rig) {
    struct kelpie_error err;
    uint8_t byte = 0;
    size_t count = 0;
    const struct host_wait wait = rig_wait(rig);
    rig_check(
        host_read(rig->host, rig->instance->monitor.console_fd, &byte, 1, &wait, &count, &err),
        "console", &err);
    ASSERT(count == 1);
}

void rig_order(struct rig *rig, enum control_type type) {
    struct kelpie_error err;
    const struct host_wait wait = rig_wait(rig);
    rig_check(kvm_order_plain(rig->instance, type, &wait, &err), "order", &err);
}

void rig_boot(struct rig *rig, const struct rig_payload *payload) {
    struct kelpie_error err;
    const struct host_wait wait = rig_wait(rig);
    rig_check(kvm_process_start(rig->instance, &err), "start", &err);
    rig_give(rig, CONTROL_ROLE_KERNEL, make_kernel(rig, payload));
    rig_give(rig, CONTROL_ROLE_INITRAMFS, rig_file(rig, "none", 4));
    rig->instance->memory_fd = rig_empty_memory(rig); /* as the backend does */
    rig_pass(rig, CONTROL_ROLE_MEMORY, rig->instance->memory_fd);
    rig_check(kvm_order_machine(rig->instance, CONTROL_BOOT, true, &wait, &err), "boot", &err);
    rig_await_console(rig);
}

void rig_floor_start(struct rig *rig, struct monitor *monitor, int memory_fd, const char *program,
                     struct rig_floor_stamps *ret_stamps) {
    struct kelpie_error err;
    const char *argv[] = {program, NULL};
    size_t count = 0;
    const struct host_wait wait = rig_wait(rig);
    int kvm_fd = HOST_FD_NONE;
    rig_check(
        host_file_open(rig->host, KVM_DEVICE, HOST_OPEN_READ | HOST_OPEN_WRITE, 0, &kvm_fd, &err),
        "open", &err);
    const struct host_process_fd fds[] = {{CONTROL_CHILD_KVM, kvm_fd},
                                          {CONTROL_CHILD_PROGRAM, memory_fd}};
    const struct monitor_launch launch = {.argv = argv, .fds = fds, .fd_count = ARRAY_SIZE(fds)};
    rig_check(monitor_launch(monitor, &launch, &err), "floor", &err);
    host_close(rig->host, kvm_fd);
    rig_check(host_read(rig->host, monitor->console_fd, ret_stamps, sizeof(*ret_stamps), &wait,
                        &count, &err),
              "floor", &err);
    ASSERT(count == sizeof(*ret_stamps));
}

double rig_ms_since(struct rig *rig, uint64_t start_ns) {
    return (double)(host_monotonic_ns(rig->host) - start_ns) / 1e6;
}

static struct snapshot_writer *save(struct rig *rig, const char *directory) {
    struct kelpie_error err;
    struct snapshot_writer *writer = NULL;
    const struct host_wait wait = rig_wait(rig);
    rig_order(rig, CONTROL_PAUSE);
    rig_check(snapshot_writer_create(rig->host, directory, 0, &writer, &err), "bundle", &err);
    struct snapshot_manifest *manifest = snapshot_writer_manifest(writer);
    snprintf(manifest->info.backend, sizeof(manifest->info.backend), "kvm");
    snprintf(manifest->vm_name, sizeof(manifest->vm_name), "bench");
    snprintf(manifest->hostname, sizeof(manifest->hostname), "bench");
    memset(manifest->vm_id, '0', sizeof(manifest->vm_id) - 1);
    rig_check(kvm_save(rig->instance, KELPIE_SNAPSHOT_SUSPEND, writer, &wait, &err), "save", &err);
    return writer;
}

void rig_save_bundle(struct rig *rig, const char *directory) {
    struct kelpie_error err;
    struct kelpie_snapshot snapshot;
    const struct host_wait wait = rig_wait(rig);
    struct snapshot_writer *writer = save(rig, directory);
    rig_check(snapshot_writer_publish(writer, &wait, &snapshot, &err), "publish", &err);
    snapshot_writer_destroy(writer);
}

struct snapshot_reader *rig_save_in_memory(struct rig *rig) {
    struct kelpie_error err;
    struct snapshot_reader *reader = NULL;
    struct snapshot_writer *writer = save(rig, NULL);
    rig_check(snapshot_writer_read(writer, &reader, &err), "bundle", &err);
    snapshot_writer_destroy(writer);
    return reader;
}
