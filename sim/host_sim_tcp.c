/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The simulated host's TCP: machine n of a world is 10.0.0.<n + 1> to all, and 127.0.0.1 and ::1 to itself. A network that is
 * cut says nothing: whoever connects waits until it is whole again.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"
#include "base/error.h"
#include "sim/stream.h"

#define PORT_FIRST 40000u /* that the system chooses */
#define PORT_COUNT 20000u

/* The machine that has this address, as another sees it; NULL: none. */
static struct sim_machine *machine_at(const struct sim_process *process, const char *address) {
    const struct sim_world *world = process->world;
    char own[16];
    ASSERT(address);
    if (strcmp(address, "127.0.0.1") == 0 || strcmp(address, "::1") == 0) {
        return process->machine;
    }
    for (size_t i = 0; i < world->machine_count; i++) {
        int length = snprintf(own, sizeof(own), "10.0.0.%zu", i + 1);
        ASSERT(length > 0 && (size_t)length < sizeof(own));
        if (strcmp(address, own) == 0) {
            return world->machines[i];
        }
    }
    return NULL;
}

static void name_of(uint16_t port, char *buffer, size_t size) {
    int length = snprintf(buffer, size, "tcp:%u", (unsigned)port);
    ASSERT(length > 0);
    ASSERT((size_t)length < size);
}

/* The first free port from a chosen one on, around. 0: none. */
static uint16_t free_port(struct sim_process *process) {
    char name[16];
    uint32_t start = (uint32_t)sim_choose(&process->world->choices, PORT_COUNT);
    static_assert(PORT_FIRST + PORT_COUNT <= UINT16_MAX, "ports have 16 bits");
    for (uint32_t i = 0; i < PORT_COUNT; i++) {
        uint16_t port = (uint16_t)(PORT_FIRST + (start + i) % PORT_COUNT);
        name_of(port, name, sizeof(name));
        if (!sim_listener_find(process->machine, name)) {
            return port;
        }
    }
    ASSERT(process->machine->listeners);
    return 0;
}

enum kelpie_status sim_host_socket_listen_tcp(struct host *host, const char *address, uint16_t port,
                                              int *ret_fd, uint16_t *ret_port,
                                              struct kelpie_error *err) {
    struct sim_process *process = sim_process_of(host);
    char name[16];
    ASSERT(ret_fd && ret_port);
    sim_enter(host, SIM_EVENT_SOCKET_LISTEN, port);
    if (machine_at(process, address) != process->machine) {
        return sim_leave(host, SIM_EVENT_SOCKET_LISTEN,
                         error_set_os(err, EADDRNOTAVAIL, "cannot listen at %s", address));
    }
    uint16_t chosen = port ? port : free_port(process);
    name_of(chosen, name, sizeof(name));
    int os_error = 0;
    if (chosen == 0 || sim_listener_find(process->machine, name) ||
        sim_fault(process, SIM_FAULT_SOCKET_LISTEN_FAILS)) {
        os_error = EADDRINUSE;
    } else {
        os_error = sim_listen_at(process, name, ret_fd);
    }
    if (os_error == 0) {
        *ret_port = chosen;
    }
    ASSERT(os_error >= 0);
    return sim_leave(host, SIM_EVENT_SOCKET_LISTEN,
                     os_error == 0 ? KELPIE_OK
                                   : error_set_os(err, os_error, "cannot listen at %s port %u",
                                                  address, (unsigned)chosen));
}

/* Until both directions are open, or the wait is over. */
static enum kelpie_status await_network(struct host *host, const struct sim_machine *target,
                                        const struct host_wait *wait, struct kelpie_error *err) {
    struct sim_process *process = sim_process_of(host);
    struct sim_world *world = process->world;
    ASSERT(target && wait);
    for (;;) {
        uint64_t there_ns = sim_cut_until(world, process->machine, target);
        uint64_t back_ns = sim_cut_until(world, target, process->machine);
        if (there_ns == 0 && back_ns == 0) {
            return KELPIE_OK;
        }
        uint64_t open_ns = there_ns > back_ns ? there_ns : back_ns;
        struct host_wait pause = {.deadline_ns = wait->deadline_ns, .cancel_fd = wait->cancel_fd};
        ASSERT(open_ns > world->now_ns);
        pause.deadline_ns =
            min_u64(pause.deadline_ns, sim_machine_monotonic_ns(process->machine) + SIM_STEP_NS);
        TRY(host_sleep(host, &pause, err));
        if (sim_machine_monotonic_ns(process->machine) >= wait->deadline_ns) {
            return error_set(err, KELPIE_TIMED_OUT, "nobody answered in time");
        }
    }
}

static enum kelpie_status connect_tcp(struct host *host, const char *address, uint16_t port,
                                      const struct host_wait *wait, int *ret_fd,
                                      struct kelpie_error *err) {
    struct sim_process *process = sim_process_of(host);
    struct sim_machine *target = machine_at(process, address);
    char name[16];
    ASSERT(ret_fd);
    ASSERT(wait);
    if (!target) {
        return error_set_os(err, EHOSTUNREACH, "cannot connect to %s", address);
    }
    if (target != process->machine) {
        TRY(await_network(host, target, wait, err));
    }
    name_of(port, name, sizeof(name));
    struct sim_listener *listener = sim_listener_find(target, name);
    int os_error = ECONNREFUSED;
    if (listener && !sim_fault(process, SIM_FAULT_SOCKET_CONNECT_FAILS)) {
        os_error = sim_connect_to(process, listener, ret_fd);
    }
    return os_error == 0 ? KELPIE_OK
                         : error_set_os(err, os_error, "cannot connect to %s port %u", address,
                                        (unsigned)port);
}

enum kelpie_status sim_host_socket_connect_tcp(struct host *host, const char *address,
                                               uint16_t port, const struct host_wait *wait,
                                               int *ret_fd, struct kelpie_error *err) {
    ASSERT(address);
    ASSERT(ret_fd);
    sim_enter(host, SIM_EVENT_SOCKET_CONNECT, port);
    return sim_leave(host, SIM_EVENT_SOCKET_CONNECT,
                     connect_tcp(host, address, port, wait, ret_fd, err));
}
