/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The simulated host: `struct host` made of a model (world.h). Each operation is an event, asks for the faults that concern
 * it, and then does what the Linux host's does. Files:
 *
 *     host_sim.c          clocks, random bytes, environment, memory, KVM
 *     host_sim_file.c     open files; host_sim_path.c names
 *     host_sim_socket.c   streams, sockets, events, waiting
 *     host_sim_thread.c   threads, mutexes, conditions
 *     process.c           processes
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/error.h"
#include "host/host_kvm.h"
#include "host/host_krunfw.h"
#include "sim/world.h"

#define FIRST_FD 3
#define KRUNFW_SIZE 65536u
#define KRUNFW_GPA 0x1000000u
#define TICKS_PER_NS 3u
#define KVM_NS 400000u /* of the ring-0 payload, natively */

/* The process is the host: it goes when the process does. */
static void sim_host_destroy(struct host *host) {
    ASSERT(host);
    ASSERT(host->ops == &sim_host_ops);
}

static uint64_t sim_host_monotonic_ns(struct host *host) {
    const struct sim_process *process = sim_process_of(host);
    ASSERT(process->machine);
    ASSERT(process->world);
    return sim_machine_monotonic_ns(process->machine);
}

/* A counter at 3 GHz that goes by true time, as a processor's does. */
static uint64_t sim_host_ticks(struct host *host) {
    const struct sim_process *process = sim_process_of(host);
    ASSERT(process->world);
    ASSERT(process->world->now_ns > 0);
    return process->world->now_ns * TICKS_PER_NS;
}

static uint64_t sim_host_realtime_ns(struct host *host) {
    const struct sim_process *process = sim_process_of(host);
    ASSERT(process->machine);
    ASSERT(process->world);
    return sim_machine_realtime_ns(process->machine);
}

/* Cheap and good enough: they differ between runs, processes and calls, and are the same for a seed. */
static enum kelpie_status sim_host_random(struct host *host, void *buffer, size_t size,
                                          struct kelpie_error *err) {
    struct sim_process *process = sim_process_of(host);
    struct sim_world *world = process->world;
    ASSERT(buffer || size == 0);
    sim_enter(host, SIM_EVENT_RANDOM, size);
    if (sim_fault(process, SIM_FAULT_RANDOM_FAILS)) {
        return sim_leave(host, SIM_EVENT_RANDOM, sim_error(err, EIO, "get random bytes"));
    }
    for (size_t done = 0; done < size; done += sizeof(uint64_t)) {
        uint64_t bytes = sim_mix(world->faults.seed, world->event_count, done);
        size_t left = size - done;
        memcpy((uint8_t *)buffer + done, &bytes, left < sizeof(bytes) ? left : sizeof(bytes));
    }
    ASSERT(world->event_count > 0);
    return sim_leave(host, SIM_EVENT_RANDOM, KELPIE_OK);
}

static const char *sim_host_environment(struct host *host, const char *name) {
    static const struct {
        const char *name;
        const char *value;
    } variables[] = {
        {"HOME", "/root"},
        {"KELPIE_KERNEL", SIM_KERNEL_PATH},
        {"PATH", "/usr/bin:/bin"},
        {"XDG_RUNTIME_DIR", "/run/user/1000"},
    };
    ASSERT(host);
    ASSERT(name);
    for (size_t i = 0; i < ARRAY_SIZE(variables); i++) {
        if (strcmp(variables[i].name, name) == 0) {
            return variables[i].value;
        }
    }
    return NULL;
}

static uint32_t sim_host_user_id(struct host *host) {
    ASSERT(host);
    return sim_process_of(host)->uid;
}

static int sim_host_own_process_id(struct host *host) {
    ASSERT(host);
    return (int)sim_process_of(host)->id;
}

static void *sim_host_allocate(struct host *host, size_t size) {
    struct sim_process *process = sim_process_of(host);
    ASSERT(size > 0);
    sim_enter(host, SIM_EVENT_ALLOCATE, size);
    void *memory = sim_fault(process, SIM_FAULT_MEMORY_NONE) ? NULL : calloc(1, size);
    (void)sim_leave(host, SIM_EVENT_ALLOCATE, memory ? KELPIE_OK : KELPIE_NO_MEMORY);
    ASSERT(process->world->current);
    return memory;
}

static enum kelpie_status sim_host_kvm_probe(struct host *host, uint64_t budget_ns,
                                             uint64_t *ret_ns, struct kelpie_error *err) {
    struct sim_process *process = sim_process_of(host);
    enum kelpie_status status = KELPIE_OK;
    ASSERT(ret_ns);
    sim_enter(host, SIM_EVENT_KVM_PROBE, budget_ns);
    uint64_t taken_ns = KVM_NS;
    if (sim_fault(process, SIM_FAULT_KVM_PROBE_FAILS)) {
        static const int os_errors[] = {0, ENOENT, EACCES, EBUSY};
        int os_error = os_errors[sim_choose(&process->world->choices, ARRAY_SIZE(os_errors))];
        taken_ns = HOST_KVM_NATIVE_NS_MAX;
        status = os_error ? sim_error(err, os_error, "open /dev/kvm") : KELPIE_OK;
    }
    if (status == KELPIE_OK) {
        *ret_ns = taken_ns;
    }
    ASSERT(taken_ns > 0);
    return sim_leave(host, SIM_EVENT_KVM_PROBE, status);
}

/* The library is there, and a kernel comes out of it that nobody runs. */
static enum kelpie_status sim_host_krunfw_load(struct host *host, const char *path,
                                               struct host_krunfw *ret_kernel,
                                               struct kelpie_error *err) {
    ASSERT(path);
    ASSERT(ret_kernel);
    sim_enter(host, SIM_EVENT_KRUNFW_LOAD, 0);
    enum kelpie_status status = KELPIE_OK;
    int fd = HOST_FD_NONE;
    if (strcmp(path, SIM_KRUNFW_PATH) != 0) {
        status = sim_error(err, ENOENT, "load the library with a kernel");
    } else {
        status = sim_host_memory_file(host, "kernel", KRUNFW_SIZE, &fd, err);
    }
    if (status == KELPIE_OK) {
        *ret_kernel = (struct host_krunfw){
            .fd = fd, .size = KRUNFW_SIZE, .load_gpa = KRUNFW_GPA, .entry_gpa = KRUNFW_GPA};
    }
    return sim_leave(host, SIM_EVENT_KRUNFW_LOAD, status);
}

/* One interface is there, behind which nobody listens. */
static enum kelpie_status sim_host_tap_open(struct host *host, const char *name, int *ret_fd,
                                            struct kelpie_error *err) {
    struct sim_process *process = sim_process_of(host);
    ASSERT(ret_fd);
    sim_enter(host, SIM_EVENT_TAP_OPEN, 0);
    if (strcmp(name, SIM_TAP_NAME) == 0) {
        struct sim_handle *handle = sim_handle_create(process->world, SIM_HANDLE_NULL);
        int fd = handle ? sim_fd_add(process, handle, FIRST_FD) : -1;
        if (fd < 0) {
            free(handle);
            return sim_leave(host, SIM_EVENT_TAP_OPEN, sim_error(err, EMFILE, "open a tap"));
        }
        *ret_fd = fd;
        return sim_leave(host, SIM_EVENT_TAP_OPEN, KELPIE_OK);
    }
    ASSERT(process->world->current);
    return sim_leave(host, SIM_EVENT_TAP_OPEN,
                     error_set_field(err, KELPIE_NOT_FOUND, "network.tap",
                                     "there is no tap interface '%s'", name));
}

const struct host_ops sim_host_ops = {
    .destroy = sim_host_destroy,
    .monotonic_ns = sim_host_monotonic_ns,
    .realtime_ns = sim_host_realtime_ns,
    .ticks = sim_host_ticks,
    .sleep = sim_host_sleep,
    .random = sim_host_random,
    .environment = sim_host_environment,
    .allocate = sim_host_allocate,
    .user_id = sim_host_user_id,
    .own_process_id = sim_host_own_process_id,
    .working_dir = sim_host_working_dir,
    .file_open = sim_host_file_open,
    .file_read_at = sim_host_file_read_at,
    .file_write_at = sim_host_file_write_at,
    .file_stat = sim_host_file_stat,
    .file_truncate = sim_host_file_truncate,
    .file_sync = sim_host_file_sync,
    .file_link = sim_host_file_link,
    .file_next_data = sim_host_file_next_data,
    .file_lock = sim_host_file_lock,
    .file_map = sim_host_file_map,
    .file_unmap = sim_host_file_unmap,
    .memory_file = sim_host_memory_file,
    .path_stat = sim_host_path_stat,
    .path_rename = sim_host_path_rename,
    .path_unlink = sim_host_path_unlink,
    .path_mkdir = sim_host_path_mkdir,
    .path_rmdir = sim_host_path_rmdir,
    .below = sim_host_below,
    .path_remove_tree = sim_host_path_remove_tree,
    .path_symlink = sim_host_path_symlink,
    .path_readlink = sim_host_path_readlink,
    .path_sync = sim_host_path_sync,
    .dir_list = sim_host_dir_list,
    .kvm_probe = sim_host_kvm_probe,
    .krunfw_load = sim_host_krunfw_load,
    .tap_open = sim_host_tap_open,
    .socket_pair = sim_host_socket_pair,
    .socket_listen = sim_host_socket_listen,
    .socket_accept = sim_host_socket_accept,
    .socket_connect = sim_host_socket_connect,
    .socket_listen_tcp = sim_host_socket_listen_tcp,
    .socket_connect_tcp = sim_host_socket_connect_tcp,
    .socket_peer = sim_host_socket_peer,
    .socket_send_fd = sim_host_socket_send_fd,
    .receive = sim_host_receive,
    .read = sim_host_read,
    .write = sim_host_write,
    .poll = sim_host_poll,
    .event_create = sim_host_event_create,
    .event_set = sim_host_event_set,
    .event_clear = sim_host_event_clear,
    .close = sim_host_close,
    .process_spawn = sim_host_process_spawn,
    .process_fd = sim_host_process_fd,
    .process_id = sim_host_process_id,
    .process_usage = sim_host_process_usage,
    .process_signal = sim_host_process_signal,
    .process_wait = sim_host_process_wait,
    .process_destroy = sim_host_process_destroy,
    .thread_start = sim_host_thread_start,
    .thread_join = sim_host_thread_join,
    .mutex_create = sim_host_mutex_create,
    .mutex_destroy = sim_host_mutex_destroy,
    .mutex_lock = sim_host_mutex_lock,
    .mutex_unlock = sim_host_mutex_unlock,
    .condition_create = sim_host_condition_create,
    .condition_destroy = sim_host_condition_destroy,
    .condition_wait = sim_host_condition_wait,
    .condition_broadcast = sim_host_condition_broadcast,
};
