/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* kelpie-vmm as a process. */
#include "backend/kvm/kvm_instance.h"
#include "base/assert.h"

extern const uint8_t kvm_vmm_data[]; /* vmm_embed.S */
extern const uint8_t kvm_vmm_end[];

static_assert((int)CONTROL_CHILD_CHANNEL == (int)MONITOR_CHILD_CHANNEL, "one number");
static_assert((int)CONTROL_CHILD_CONSOLE == (int)MONITOR_CHILD_CONSOLE, "one number");
static_assert((int)CONTROL_CHILD_CONTROL == (int)MONITOR_CHILD_NEXT, "the first of ours");
static_assert(CONTROL_CHILD_END - MONITOR_CHILD_STDERR <= HOST_PROCESS_FD_COUNT_MAX,
              "a child can be given them all");
static_assert(CONTROL_CHILD_PROGRAM == 7, "program_path has it");

static const char program_path[] = "/proc/self/fd/7";

void kvm_instance_check(const struct backend_instance *instance) {
    ASSERT(instance->host && instance->monitor.lock);
    ASSERT(instance->config);
    ASSERT(instance->config->disk_count <= KELPIE_DISK_COUNT_MAX);
    ASSERT(instance->answers_owed <= KVM_ANSWERS_OWED_MAX);
}

/* Once for each instance. The file is a copy of read-only bytes: its pages are shared by all who run it. */
static enum kelpie_status make_program(struct backend_instance *instance,
                                       struct kelpie_error *err) {
    kvm_instance_check(instance);
    ASSERT(&kvm_vmm_end[0] > &kvm_vmm_data[0]);
    if (instance->program_fd != HOST_FD_NONE) {
        return KELPIE_OK;
    }
    size_t size = (size_t)(kvm_vmm_end - kvm_vmm_data);
    AUTO_FD struct host_fd file = {instance->host, HOST_FD_NONE};
    TRY(host_memory_file(instance->host, "kelpie-vmm", size, &file.fd, err));
    TRY(host_file_write_at(instance->host, file.fd, kvm_vmm_data, size, 0, err));
    instance->program_fd = host_fd_take(&file);
    return KELPIE_OK;
}

static enum kelpie_status launch(struct backend_instance *instance,
                                 const struct kvm_sources *sources, int kvm_fd, int control_fd,
                                 struct kelpie_error *err) {
    kvm_instance_check(instance);
    ASSERT(kvm_fd != HOST_FD_NONE && control_fd != HOST_FD_NONE);
    struct host_process_fd fds[CONTROL_CHILD_END - CONTROL_CHILD_CONTROL] = {
        {.child_fd = CONTROL_CHILD_CONTROL, .fd = control_fd},
        {.child_fd = CONTROL_CHILD_KVM, .fd = kvm_fd},
        {.child_fd = CONTROL_CHILD_PROGRAM, .fd = instance->program_fd},
        {.child_fd = CONTROL_CHILD_KERNEL, .fd = sources->first_fd},
    };
    size_t fd_count = CONTROL_CHILD_INITRAMFS - CONTROL_CHILD_CONTROL;
    if (sources->second_fd != HOST_FD_NONE) {
        fds[fd_count++] =
            (struct host_process_fd){.child_fd = CONTROL_CHILD_INITRAMFS, .fd = sources->second_fd};
    }
    for (size_t i = 0; i < instance->config->disk_count; i++) {
        ASSERT(instance->disks.disks[i].fd != HOST_FD_NONE);
        fds[fd_count++] = (struct host_process_fd){.child_fd = CONTROL_CHILD_DISK_0 + (int)i,
                                                   .fd = instance->disks.disks[i].fd};
    }
    if (sources->medium_fd != HOST_FD_NONE) {
        fds[fd_count++] =
            (struct host_process_fd){.child_fd = CONTROL_CHILD_MEDIUM, .fd = sources->medium_fd};
    }
    const char *argv[] = {program_path, NULL};
    const struct monitor_launch monitor = {.argv = argv, .fds = fds, .fd_count = fd_count};
    return monitor_launch(&instance->monitor, &monitor, err);
}

enum kelpie_status kvm_process_start(struct backend_instance *instance,
                                     const struct kvm_sources *sources, struct kelpie_error *err) {
    kvm_instance_check(instance);
    ASSERT(instance->control_fd == HOST_FD_NONE);
    ASSERT(sources->first_fd != HOST_FD_NONE);
    ASSERT(sources->second_fd != HOST_FD_NONE || sources->medium_fd != HOST_FD_NONE);
    ASSERT((sources->medium_fd != HOST_FD_NONE) == (instance->medium_size > 0));
    TRY(make_program(instance, err));
    AUTO_FD struct host_fd kvm = {instance->host, HOST_FD_NONE};
    TRY(host_file_open(instance->host, KVM_DEVICE, HOST_OPEN_READ | HOST_OPEN_WRITE, 0, &kvm.fd,
                       err));
    int sockets[2] = {HOST_FD_NONE, HOST_FD_NONE};
    TRY(host_socket_pair(instance->host, sockets, err));
    AUTO_FD struct host_fd ours = {instance->host, sockets[0]};
    AUTO_FD struct host_fd theirs = {instance->host, sockets[1]};
    TRY(launch(instance, sources, kvm.fd, theirs.fd, err));
    instance->control_fd = host_fd_take(&ours);
    instance->answers_owed = 0;
    instance->in_size = 0;
    return KELPIE_OK;
}

void kvm_process_take_down(struct backend_instance *instance) {
    kvm_instance_check(instance);
    monitor_take_down(&instance->monitor, NULL);
    ASSERT(!instance->monitor.process);
    host_close(instance->host, instance->control_fd);
    instance->control_fd = HOST_FD_NONE;
    monitor_disks_close(&instance->disks);
}
