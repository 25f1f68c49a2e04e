/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vmm/machine.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"

#define NS_PER_S 1000000000ull

void machine_lock(void *context) {
    struct machine *machine = context;
    ASSERT(machine);
    int result = pthread_mutex_lock(&machine->lock);
    ASSERT(result == 0);
}

void machine_unlock(void *context) {
    struct machine *machine = context;
    ASSERT(machine);
    int result = pthread_mutex_unlock(&machine->lock);
    ASSERT(result == 0);
}

/* ---- Files ------------------------------------------------------------------------------------ */

enum kelpie_status machine_file_check(const struct machine_files *files, enum control_role role,
                                      struct kelpie_error *err) {
    ASSERT(files);
    ASSERT((unsigned)role < CONTROL_ROLE_COUNT);
    if (files->fds[role] < 0) {
        return error_set(err, KELPIE_INTERNAL, "there is no descriptor for the machine's %s",
                         control_role_name(role));
    }
    return KELPIE_OK;
}

int machine_file_take(struct machine_files *files, enum control_role role) {
    ASSERT(files);
    ASSERT((unsigned)role < CONTROL_ROLE_COUNT);
    int fd = files->fds[role];
    files->fds[role] = -1;
    return fd;
}

/* ---- Memory ----------------------------------------------------------------------------------- */

static size_t memory_size(const struct machine *machine) {
    ASSERT(machine->config.memory_mib > 0);
    ASSERT(machine->config.memory_mib <= KELPIE_MEMORY_MIB_MAX);
    return (size_t)machine->config.memory_mib << 20;
}

enum kelpie_status machine_map_memory(struct machine *machine, int fd, int flags,
                                      struct kelpie_error *err) {
    ASSERT(machine);
    ASSERT(fd >= 0 || (flags & MAP_ANONYMOUS));
    size_t size = memory_size(machine);
    struct stat info = {0};
    if (fd >= 0 && fstat(fd, &info) < 0) {
        return error_set_os(err, errno, "cannot look at the memory's file");
    }
    if (fd >= 0 && (uint64_t)info.st_size != size) {
        return error_set_field(err, KELPIE_SNAPSHOT_CORRUPT, "memory",
                               "the memory's file has %lld bytes, and the machine's memory %zu",
                               (long long)info.st_size, size);
    }
    int fixed = !machine->host_memory     ? 0
                : machine->memory_is_away ? MAP_FIXED_NOREPLACE
                                          : MAP_FIXED;
    void *host = mmap(machine->host_memory, size, PROT_READ | PROT_WRITE,
                      flags | fixed | MAP_NORESERVE, fd, 0);
    if (host == MAP_FAILED) {
        return error_set_os(err, errno, "cannot map %u MiB of memory", machine->config.memory_mib);
    }
    machine->memory_is_away = false;
    if (flags & MAP_SHARED) {
        (void)madvise(host, size, MADV_HUGEPAGE); /* where the host allows it for such a file */
    }
    if (!machine->host_memory) {
        machine->host_memory = host;
        memory_init(&machine->memory, host, size);
    }
    return KELPIE_OK;
}

/* ---- Making ----------------------------------------------------------------------------------- */

static void on_end(void *context, uint32_t events) {
    struct machine *machine = context;
    ASSERT(machine->threads_started);
    ASSERT(events != 0);
    io_stop(&machine->io);
}

static enum kelpie_status make_vcpus(struct machine *machine, struct kelpie_error *err) {
    ASSERT(machine->config.vcpu_count <= VMM_VCPU_COUNT_MAX);
    ASSERT(!machine->vcpus);
    uint32_t count = machine->config.vcpu_count;
    machine->vcpus = calloc(count, sizeof(*machine->vcpus));
    if (!machine->vcpus) {
        return error_set(err, KELPIE_NO_MEMORY, "there is no memory for %u vCPUs", count);
    }
    for (uint32_t i = 0; i < count; i++) {
        TRY(vcpu_create(&machine->vcpus[i], &machine->kvm, i, count, err));
        machine->vcpu_count++;
    }
    machine->ops = machine_vcpu_ops(machine);
    TRY(vcpu_threads_start(&machine->threads, machine->vcpus, count, &machine->ops, err));
    machine->threads_started = true;
    machine->end_source =
        (struct io_source){.fd = machine->threads.event_fd, .handler = on_end, .context = machine};
    return io_add(&machine->io, &machine->end_source, EPOLLIN, err);
}

static enum kelpie_status init(struct machine *machine, struct kelpie_error *err) {
    ASSERT(!machine->host_memory);
    ASSERT(!machine->prepared);
    for (size_t i = 0; i < VMM_GSI_COUNT; i++) {
        machine->irq_fds[i] = -1;
    }
    machine->memory_fd = -1;
    machine->pagemap_fd = -1;
    machine->faults_fd = -1;
    machine->changes.layer_fd = -1;
    int result = pthread_mutex_init(&machine->lock, NULL);
    ASSERT(result == 0);
    bus_init(&machine->mmio);
    bus_init(&machine->ports);
    TRY(io_init(&machine->io, err));
    machine->io.lock = machine_lock;
    machine->io.unlock = machine_unlock;
    machine->io.lock_context = machine;
    return KELPIE_OK;
}

/* Memory first: KVM's slots are quick to set only before it has interrupt controllers (kvm.h). */
static enum kelpie_status prepare(struct machine *machine, const struct control_machine *config,
                                  int memory_fd, int memory_flags, struct kelpie_error *err) {
    ASSERT(machine && config);
    ASSERT(!machine->prepared);
    machine->config = *config;
    TRY(init(machine, err));
    TRY(machine_map_memory(machine, memory_fd, memory_flags, err));
    TRY(machine_changes_init(machine, err));
    if (memory_flags & MAP_PRIVATE) {
        machine_pagemap_open(machine);
    }
    TRY(kvm_create(&machine->kvm, CONTROL_CHILD_KVM, &machine->memory, err));
    TRY(make_vcpus(machine, err));
    TRY(machine_add_fixed_devices(machine, err));
    machine->prepared = true;
    return KELPIE_OK;
}

enum kelpie_status machine_prepare(struct machine *machine, const struct control_machine *config,
                                   struct kelpie_error *err) {
    ASSERT(machine && config);
    ASSERT(!machine->prepared);
    TRY(prepare(machine, config, -1, MAP_PRIVATE | MAP_ANONYMOUS, err));
    TRY(kvm_connect(&machine->kvm, err));
    TRY(machine_warm_up(machine, err));
    TRY(machine_changes_reset(machine, err)); /* the rehearsal wrote to memory that is gone now */
    /* A place in which nothing is mapped is filled ten times faster than one whose mapping KVM must forget. */
    int result = munmap(machine->host_memory, memory_size(machine));
    ASSERT(result == 0);
    machine->memory_is_away = true;
    return KELPIE_OK;
}

enum kelpie_status machine_build(struct machine *machine, const struct control_machine *config,
                                 struct machine_files *files, int memory_flags,
                                 struct kelpie_error *err) {
    ASSERT(machine && config);
    ASSERT(!(memory_flags & MAP_ANONYMOUS));
    TRY(machine_file_check(files, CONTROL_ROLE_MEMORY, err));
    int memory_fd = files->fds[CONTROL_ROLE_MEMORY];
    if (!machine->prepared) {
        TRY(prepare(machine, config, memory_fd, memory_flags, err));
    } else if (config->vcpu_count != machine->config.vcpu_count ||
               config->memory_mib != machine->config.memory_mib ||
               config->channel_port != machine->config.channel_port) {
        return error_set(err, KELPIE_INTERNAL, "another machine was prepared");
    } else {
        machine->config = *config;
        TRY(machine_map_memory(machine, memory_fd, memory_flags, err));
    }
    if (memory_flags & MAP_SHARED) {
        machine->memory_fd = machine_file_take(files, CONTROL_ROLE_MEMORY);
        machine->balloon.options.memory_is_shared = true;
    }
    return machine_add_files(machine, files, err);
}

/* ---- Run -------------------------------------------------------------------------------------- */

uint64_t machine_now_ns(void) {
    struct timespec now = {0};
    int result = clock_gettime(CLOCK_MONOTONIC, &now);
    ASSERT(result == 0);
    ASSERT(now.tv_sec >= 0);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

enum kelpie_status machine_resume(struct machine *machine, struct kelpie_error *err) {
    ASSERT(machine->threads_started);
    ASSERT(machine->vcpu_count > 0);
    machine->resumed_ns = machine_now_ns();
    machine->changes.complete = machine->changes.tracked;
    return vcpu_threads_resume(&machine->threads, err);
}

enum kelpie_status machine_pause(struct machine *machine, struct kelpie_error *err) {
    ASSERT(machine->threads_started);
    ASSERT(machine->vcpu_count > 0);
    return vcpu_threads_pause(&machine->threads, err);
}
