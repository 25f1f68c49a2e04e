/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Processes: starting, ending, who waits for their end, and what is left of them. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/error.h"
#include "sim/peer/peer.h"
#include "sim/world.h"

#define FIRST_FD 3
#define KILL_SIGNAL 9
#define USAGE_PROCESS_BYTES 4194304u

struct host_process {
    struct sim_object object; /* first: it is one. Begins with … */
    struct sim_process *target;
    int fd;
    bool detached; /* it is not killed with its handle, and how it ends is not told */
};

/* ---- What belongs to a process ---------------------------------------------------------------- */

void sim_object_add(struct sim_process *process, struct sim_object *object) {
    ASSERT(object->release);
    ASSERT(!process->ended);
    ASSERT(!object->next && !object->previous);
    object->process = process;
    object->next = process->objects.next;
    object->previous = &process->objects;
    object->next->previous = object;
    process->objects.next = object;
    process->object_count++;
}

void sim_object_remove(struct sim_object *object) {
    ASSERT(object->process->object_count > 0);
    ASSERT(object->next && object->previous);
    object->next->previous = object->previous;
    object->previous->next = object->next;
    object->process->object_count--;
    object->next = object->previous = NULL;
}

/* ---- Making one ------------------------------------------------------------------------------- */

static void argv_free(struct sim_process *process) {
    ASSERT(process->argv || process->argc == 0);
    for (size_t i = 0; i < process->argc; i++) {
        free(process->argv[i]);
    }
    free(process->argv);
    free(process->working_dir);
    process->argv = NULL;
    process->working_dir = NULL;
    ASSERT(process->argc <= HOST_PROCESS_ARGV_COUNT_MAX);
}

static struct sim_process *process_create(struct sim_machine *machine, const char *program) {
    struct sim_world *world = machine->world;
    ASSERT(machine->up);
    struct sim_process *process = calloc(1, sizeof(*process));
    struct sim_handle **handles = calloc(SIM_FD_COUNT_MAX, sizeof(struct sim_handle *));
    if (!process || !handles) {
        free(process);
        free(handles);
        return NULL;
    }
    process->host.ops = &sim_host_ops;
    process->world = world;
    process->machine = machine;
    process->handles = handles;
    process->id = ++world->process_id_last;
    process->uid = SIM_USER_ID;
    process->objects.next = process->objects.previous = &process->objects;
    snprintf(process->program, sizeof(process->program), "%s", program);
    process->next = world->processes;
    world->processes = process;
    ASSERT(!process->ended);
    return process;
}

/* What it holds when its main function is done is what it forgot, but for `kept` descriptors that it was started with. */
static void note_leaks(struct sim_process *process, size_t kept) {
    ASSERT(!process->ended);
    ASSERT(process->fiber_count > 0);
    kept += process->host.constant_fd_plus_one > 0 ? 1 : 0;
    if (process->handle_count > kept || process->object_count > 0 || process->fiber_count > 1) {
        sim_world_fail(process->world,
                       "leak: %s ended with %zu descriptors, %zu objects, %zu threads left",
                       process->program, process->handle_count - kept, process->object_count,
                       process->fiber_count - 1);
    }
}

static void own_main(void *argument) {
    struct sim_process *process = argument;
    ASSERT(process->main);
    ASSERT(!process->ended && process->fiber_count > 0);
    int code = process->main(process->main_argument);
    note_leaks(process, 0);
    process->exit = (struct host_process_exit){.code = code};
    sim_process_kill(process, 0);
}

struct sim_process *sim_process_start(struct sim_machine *machine,
                                      const struct sim_process_options *options) {
    ASSERT(options->name && options->main);
    ASSERT(machine->up);
    struct sim_process *process = process_create(machine, options->name);
    if (!process) {
        return NULL;
    }
    ASSERT(process->fiber_count == 0);
    process->main = options->main;
    process->main_argument = options->argument;
    process->immune = options->immune;
    process->owner = options->owner;
    process->death = options->client ? SIM_FAULT_CLIENT_KILLED : SIM_FAULT_PROCESS_KILLED;
    process->holder_count = 1; /* the caller's, until sim_process_forget() */
    if (!sim_fiber_create(process, "main", own_main, process)) {
        process->ended = true;
        sim_process_forget(process);
        return NULL;
    }
    return process;
}

void sim_process_forget(struct sim_process *process) {
    ASSERT(process);
    if (process->holder_count > 0) {
        process->holder_count--;
    }
    process->world->collect_wanted = true;
    ASSERT(process->world);
}

/* ---- Ending ----------------------------------------------------------------------------------- */

static void close_all(struct sim_process *process) {
    ASSERT(!process->ended);
    for (size_t fd = 0; fd < SIM_FD_COUNT_MAX && process->handle_count > 0; fd++) {
        if (process->handles[fd]) {
            sim_fd_close(process, (int)fd);
        }
    }
    /* Bounded: each turn takes one out. */
    while (process->objects.next != &process->objects) {
        struct sim_object *object = process->objects.next;
        sim_object_remove(object);
        object->release(object);
    }
    ASSERT(process->handle_count == 0 && process->object_count == 0);
}

/* Ends this one alone. Its children lose their parent, and some of them die of it. */
static void end(struct sim_process *process, int signal_number) {
    struct sim_world *world = process->world;
    ASSERT(!process->ended);
    if (signal_number != 0) {
        process->exit = (struct host_process_exit){.signal = signal_number};
        process->killed = true;
    }
    sim_log_add(&world->log, 0, SIM_EVENT_PROCESS_ENDS, (uint64_t)process->id);
    if (world->log.line) {
        sim_log_print(&world->log, "%14.6f ms  %s/%s[%d] ends: code %d, signal %d",
                      (double)world->now_ns / 1e6, process->machine->name, process->program,
                      process->id, process->exit.code, process->exit.signal);
    }
    while (process->fibers) {
        ASSERT(process->fibers->state != SIM_FIBER_DONE);
        sim_fiber_drop(process->fibers);
    }
    close_all(process);
    process->ended = true;
    world->collect_wanted = true;
    for (struct sim_process *p = world->processes; p; p = p->next) {
        if (p->parent == process) {
            p->parent = NULL;
            p->doomed = p->dies_with_parent;
        }
    }
    sim_wake(&process->exited);
}

static struct sim_process *next_doomed(struct sim_world *world) {
    struct sim_process *process = world->processes;
    ASSERT(world);
    while (process && (process->ended || !process->doomed)) {
        process = process->next;
    }
    ASSERT(!process || process->dies_with_parent);
    return process;
}

void sim_process_end(struct sim_process *process, int signal_number) {
    struct sim_world *world = process->world;
    ASSERT(signal_number >= 0 && signal_number <= HOST_SIGNAL_MAX);
    if (process->ended) {
        return;
    }
    end(process, signal_number);
    /* Bounded: each turn ends one. */
    for (struct sim_process *p = next_doomed(world); p; p = next_doomed(world)) {
        end(p, KILL_SIGNAL);
    }
}

void sim_process_kill(struct sim_process *process, int signal_number) {
    struct sim_world *world = process->world;
    sim_process_end(process, signal_number);
    ASSERT(process->ended);
    ASSERT(!world->zombie || world->zombie == world->current);
    if (world->zombie) {
        sim_fiber_leave(world);
    }
}

void sim_processes_collect(struct sim_world *world) {
    ASSERT(world);
    if (!world->collect_wanted) {
        return;
    }
    world->collect_wanted = false;
    struct sim_process **place = &world->processes;
    while (*place) {
        struct sim_process *process = *place;
        if (!process->ended || process->holder_count > 0 || process->exited.first) {
            place = &process->next;
            continue;
        }
        *place = process->next;
        argv_free(process);
        free(process->handles);
        free(process);
    }
    ASSERT(!world->collect_wanted);
}

void sim_process_await(struct sim_process *process) {
    struct sim_world *world = process->world;
    ASSERT(world->current);
    ASSERT(world->current->process != process);
    while (!process->ended) {
        sim_wait_add(world, &process->exited);
        (void)sim_wait(world, UINT64_MAX, "a process to end");
    }
}

/* ---- Programs --------------------------------------------------------------------------------- */

static void program_main(void *argument) {
    struct sim_process *process = argument;
    struct sim_world *world = process->world;
    const struct sim_program *program = sim_program_find(process->program);
    ASSERT(program);
    if (sim_fault(process, SIM_FAULT_PROCESS_STARTS_SLOWLY)) {
        uint64_t delay_ns = 1 + sim_choose(&world->choices, SIM_SLOW_START_NS_MAX);
        (void)sim_wait(world, world->now_ns + delay_ns, "its first instruction");
    }
    const struct sim_peer peer = {
        .host = &process->host,
        .argc = process->argc,
        .argv = (const char *const *)process->argv,
    };
    ASSERT(peer.argc > 0);
    int code = program->main(&peer);
    if (program->tidy) {
        note_leaks(process, FIRST_FD);
    }
    process->exit = (struct host_process_exit){.code = code};
    ASSERT(process->world == world);
    sim_process_kill(process, 0);
}

/* The spec's, or its parent's. */
static bool working_dir_copy(const struct sim_process *parent, struct sim_process *process,
                             const struct host_process_spec *spec) {
    const char *folder = spec->working_dir ? spec->working_dir : parent->working_dir;
    ASSERT(!process->working_dir);
    ASSERT(!folder || folder[0] == '/');
    process->working_dir = folder ? strdup(folder) : NULL;
    return !folder || process->working_dir;
}

static bool argv_copy(struct sim_process *process, const char *const *argv) {
    size_t count = 0;
    ASSERT(argv[0]);
    while (argv[count]) {
        count++;
    }
    ASSERT(count <= HOST_PROCESS_ARGV_COUNT_MAX);
    process->argv = calloc(count + 1, sizeof(process->argv[0]));
    for (size_t i = 0; process->argv && i < count; i++) {
        process->argv[i] = strdup(argv[i]);
        if (!process->argv[i]) {
            return false;
        }
        process->argc = i + 1;
    }
    return process->argv != NULL;
}

/* The name that a program goes by: its path's last part, or, of a descriptor, the memory file's. */
static const char *program_name(struct sim_process *parent, const struct host_process_spec *spec) {
    static const char own[] = "/proc/self/fd/";
    const char *path = spec->argv[0];
    ASSERT(path);
    if (strncmp(path, own, sizeof(own) - 1) != 0) {
        const char *slash = strrchr(path, '/');
        return slash ? slash + 1 : path;
    }
    int number = atoi(path + sizeof(own) - 1);
    for (size_t i = 0; i < spec->fd_count; i++) {
        if (spec->fds[i].child_fd == number) {
            return sim_fd_get(parent, spec->fds[i].fd)->name;
        }
    }
    ASSERT(number >= 0);
    return "";
}

/* Its descriptors: those of the spec, and /dev/null for what is missing of the first three. */
static bool give_fds(struct sim_process *parent, struct sim_process *child,
                     const struct host_process_spec *spec) {
    for (size_t i = 0; i < spec->fd_count; i++) {
        int fd = spec->fds[i].child_fd;
        ASSERT(fd >= 0 && fd < (int)SIM_FD_COUNT_MAX && !child->handles[fd]);
        struct sim_handle *handle = sim_fd_get(parent, spec->fds[i].fd);
        handle->reference_count++;
        child->handles[fd] = handle;
        child->handle_count++;
    }
    for (int fd = 0; fd < FIRST_FD; fd++) {
        struct sim_handle *null =
            child->handles[fd] ? NULL : sim_handle_create(child->world, SIM_HANDLE_NULL);
        if (!child->handles[fd] && !null) {
            return false;
        }
        if (null) {
            int added = sim_fd_add(child, null, fd);
            ASSERT(added == fd);
        }
    }
    return true;
}

static void handle_of_child_release(struct sim_object *object) {
    struct host_process *process = (struct host_process *)(void *)object;
    ASSERT(process->target->holder_count > 0);
    ASSERT(process->object.release == handle_of_child_release);
    process->target->holder_count--;
    process->target->world->collect_wanted = true;
    free(process);
}

/* The parent's handle of a child, with a descriptor. NULL: no memory, or no descriptor is free. */
static struct host_process *child_handle(struct sim_process *parent, struct sim_process *child) {
    struct host_process *process = calloc(1, sizeof(*process));
    struct sim_handle *handle = sim_handle_create(parent->world, SIM_HANDLE_PROCESS);
    ASSERT(parent->world == child->world);
    if (handle) {
        handle->target = child;
    }
    int fd = process && handle ? sim_fd_add(parent, handle, FIRST_FD) : -1;
    if (fd < 0) {
        free(process);
        free(handle);
        return NULL;
    }
    process->object.release = handle_of_child_release;
    process->target = child;
    process->fd = fd;
    ASSERT(child->holder_count == 0);
    child->holder_count = 1;
    sim_object_add(parent, &process->object);
    return process;
}

static enum kelpie_status spawn(struct sim_process *parent, const struct host_process_spec *spec,
                                struct host_process **ret_process, struct kelpie_error *err) {
    const char *name = program_name(parent, spec);
    const struct sim_program *program = sim_program_find(name);
    ASSERT(ret_process);
    if (!program) {
        return sim_error(err, ENOENT, "start a program");
    }
    if (sim_fault(parent, SIM_FAULT_PROCESS_SPAWN_FAILS)) {
        return sim_error(err, EAGAIN, "start a program");
    }
    struct sim_process *child = process_create(parent->machine, program->name);
    if (!child) {
        return sim_error(err, ENOMEM, "start a program");
    }
    ASSERT(child->holder_count == 0);
    child->parent = spec->detached ? NULL : parent;
    child->dies_with_parent = spec->dies_with_owner;
    child->immune = parent->immune;
    child->death = program->tidy ? SIM_FAULT_VM_OWNER_KILLED : SIM_FAULT_PROCESS_KILLED;
    struct host_process *process = NULL;
    if (argv_copy(child, spec->argv) && working_dir_copy(parent, child, spec) &&
        give_fds(parent, child, spec)) {
        process = child_handle(parent, child);
    }
    if (!process || !sim_fiber_create(child, "main", program_main, child)) {
        sim_process_kill(child, KILL_SIGNAL);
        if (process) {
            sim_host_process_destroy(process);
        }
        return sim_error(err, ENOMEM, "start a program");
    }
    ASSERT(process->fd >= 0);
    process->detached = spec->detached;
    *ret_process = process;
    return KELPIE_OK;
}

enum kelpie_status sim_host_process_spawn(struct host *host, const struct host_process_spec *spec,
                                          struct host_process **ret_process,
                                          struct kelpie_error *err) {
    ASSERT(spec->argv[0]);
    ASSERT(ret_process);
    sim_enter(host, SIM_EVENT_PROCESS_SPAWN, spec->fd_count);
    return sim_leave(host, SIM_EVENT_PROCESS_SPAWN,
                     spawn(sim_process_of(host), spec, ret_process, err));
}

/* ---- Handles of children ---------------------------------------------------------------------- */

static struct host *host_of_child(struct host_process *process) {
    ASSERT(process->object.process);
    ASSERT(process->target);
    return &process->object.process->host;
}

int sim_host_process_fd(struct host_process *process) {
    ASSERT(process);
    ASSERT(process->fd >= 0);
    return process->fd;
}

int sim_host_process_id(struct host_process *process) {
    ASSERT(process);
    ASSERT(process->target->id > 0);
    return process->target->id;
}

/* A process takes time in its host calls alone, and memory for its threads: plausible, and the same for a seed. */
enum kelpie_status sim_host_process_usage(struct host *host, int process_id,
                                          struct host_process_usage *ret_usage,
                                          struct kelpie_error *err) {
    struct sim_process *self = sim_process_of(host);
    enum kelpie_status status = KELPIE_OK;
    ASSERT(ret_usage);
    sim_enter(host, SIM_EVENT_PROCESS_USAGE, (uint64_t)process_id);
    const struct sim_process *process = self->world->processes;
    while (process &&
           (process->id != process_id || process->ended || process->machine != self->machine)) {
        process = process->next;
    }
    if (process) {
        *ret_usage = (struct host_process_usage){
            .cpu_ns = process->cpu_ns,
            .resident_bytes = USAGE_PROCESS_BYTES + process->fiber_count * SIM_STACK_SIZE,
        };
    } else {
        status = error_set(err, KELPIE_NOT_FOUND, "there is no process %d", process_id);
    }
    ASSERT(status == KELPIE_OK || !process);
    return sim_leave(host, SIM_EVENT_PROCESS_USAGE, status);
}

enum kelpie_status sim_host_process_signal(struct host_process *process, int signal_number,
                                           struct kelpie_error *err) {
    struct host *host = host_of_child(process);
    ASSERT(signal_number > 0);
    (void)err;
    sim_enter(host, SIM_EVENT_PROCESS_SIGNAL, (uint64_t)signal_number);
    sim_process_kill(process->target, signal_number);
    return sim_leave(host, SIM_EVENT_PROCESS_SIGNAL, KELPIE_OK);
}

enum kelpie_status sim_host_process_wait(struct host_process *process, const struct host_wait *wait,
                                         struct host_process_exit *ret_exit,
                                         struct kelpie_error *err) {
    struct host *host = host_of_child(process);
    ASSERT(wait && ret_exit);
    sim_enter(host, SIM_EVENT_PROCESS_WAIT, (uint64_t)process->target->id);
    enum kelpie_status status =
        sim_wait_fd(host, process->fd, HOST_POLL_READ, wait, "the end of a process", err);
    if (status == KELPIE_OK && process->detached) {
        status =
            error_set(err, KELPIE_UNSUPPORTED, "how process %d ended is not known: it was detached",
                      process->target->id);
    }
    if (status == KELPIE_OK) {
        *ret_exit = process->target->exit;
    }
    return sim_leave(host, SIM_EVENT_PROCESS_WAIT, status);
}

void sim_host_process_destroy(struct host_process *process) {
    struct host *host = host_of_child(process);
    struct sim_process *self = process->object.process;
    ASSERT(self->world->current && self->world->current->process == self);
    sim_enter(host, SIM_EVENT_PROCESS_DESTROY, (uint64_t)process->target->id);
    if (!process->detached) {
        sim_process_kill(process->target, KILL_SIGNAL);
    }
    sim_fd_close(self, process->fd);
    sim_object_remove(&process->object);
    process->object.release(&process->object);
    (void)sim_leave(host, SIM_EVENT_PROCESS_DESTROY, KELPIE_OK);
}
