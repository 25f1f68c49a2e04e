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

enum kelpie_status kvm_instance_init(struct backend_instance *instance,
                                     const struct backend_launch *launch,
                                     struct kelpie_error *err) {
    ASSERT(launch->host);
    ASSERT(launch->config);
    instance->host = launch->host;
    instance->config = launch->config;
    instance->control_fd = HOST_FD_NONE;
    instance->memory_fd = HOST_FD_NONE;
    instance->working_set_fd = HOST_FD_NONE;
    instance->medium.fd = HOST_FD_NONE;
    monitor_disks_init(&instance->disks, launch, true);
    return monitor_init(&instance->monitor, launch->host, launch->config, "kelpie-vmm", err);
}

void kvm_instance_deinit(struct backend_instance *instance) {
    ASSERT(instance->host);
    ASSERT(instance->config);
    if (instance->monitor.lock) {
        kvm_process_take_down(instance);
        kvm_expect(instance, HOST_FD_NONE, false);
    }
    monitor_disks_deinit(&instance->disks);
    monitor_deinit(&instance->monitor);
}

void kvm_instance_check(const struct backend_instance *instance) {
    ASSERT(instance->host && instance->monitor.lock);
    ASSERT(instance->config);
    ASSERT(instance->config->disk_count <= KELPIE_DISK_COUNT_MAX);
    ASSERT(instance->answers_owed <= KVM_ANSWERS_OWED_MAX);
}

static enum kelpie_status launch(struct backend_instance *instance, int kvm_fd, int control_fd,
                                 struct kelpie_error *err) {
    kvm_instance_check(instance);
    ASSERT(kvm_fd != HOST_FD_NONE && control_fd != HOST_FD_NONE);
    int program_fd = HOST_FD_NONE; /* its pages are shared by all who run it */
    TRY(host_constant_file(instance->host, "kelpie-vmm", kvm_vmm_data,
                           (size_t)(kvm_vmm_end - kvm_vmm_data), &program_fd, err));
    const struct host_process_fd fds[] = {
        {.child_fd = CONTROL_CHILD_CONTROL, .fd = control_fd},
        {.child_fd = CONTROL_CHILD_KVM, .fd = kvm_fd},
        {.child_fd = CONTROL_CHILD_PROGRAM, .fd = program_fd},
    };
    static_assert(ARRAY_SIZE(fds) == CONTROL_CHILD_END - CONTROL_CHILD_CONTROL, "all of ours");
    const char *argv[] = {program_path, NULL};
    const struct monitor_launch monitor = {.argv = argv, .fds = fds, .fd_count = ARRAY_SIZE(fds)};
    return monitor_launch(&instance->monitor, &monitor, err);
}

enum kelpie_status kvm_process_start(struct backend_instance *instance, struct kelpie_error *err) {
    kvm_instance_check(instance);
    ASSERT(instance->prepared || instance->control_fd == HOST_FD_NONE);
    if (instance->prepared) {
        instance->prepared = false;
        return KELPIE_OK;
    }
    TRY(monitor_network_open(&instance->monitor.network, err)); /* it comes up meanwhile */
    AUTO_FD struct host_fd kvm = {instance->host, HOST_FD_NONE};
    TRY(host_file_open(instance->host, KVM_DEVICE, HOST_OPEN_READ | HOST_OPEN_WRITE, 0, &kvm.fd,
                       err));
    int sockets[2] = {HOST_FD_NONE, HOST_FD_NONE};
    TRY(host_socket_pair(instance->host, sockets, err));
    AUTO_FD struct host_fd ours = {instance->host, sockets[0]};
    AUTO_FD struct host_fd theirs = {instance->host, sockets[1]};
    TRY(launch(instance, kvm.fd, theirs.fd, err));
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
    host_close(instance->host, instance->memory_fd);
    instance->memory_fd = HOST_FD_NONE;
    host_close(instance->host, instance->medium.fd);
    instance->medium = (struct kvm_medium){.fd = HOST_FD_NONE};
    instance->prepared = false;
    instance->tracked = false;
    instance->base_id[0] = '\0';
    instance->presaved_id[0] = '\0';
    monitor_disks_close(&instance->disks);
}
