/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Start, stop, pause, resume: what the backend does and what the guest is told, in which order. */
#include <stdio.h>

#include "base/assert.h"
#include "vm/populate.h"
#include "vm/warm.h"

/* A conversation with the guest that ends when `wait` does: also by a cancel that came before it, since the operation
 * began. mutex held. */
static struct vm_wait wait_until(struct kelpie_vm *vm, const struct host_wait *wait) {
    ASSERT(vm->locked);
    ASSERT(vm->busy);
    return (struct vm_wait){
        .deadline_ns = wait->deadline_ns,
        .cancel_count =
            wait->cancel_fd == HOST_FD_NONE ? VM_CANCEL_COUNT_NONE : vm->begun_cancel_count,
    };
}

void vm_machine_kill(struct kelpie_vm *vm) {
    ASSERT(vm->instance);
    ASSERT(vm->busy);
    vm_lock(vm);
    vm->stopping = true;
    vm_unlock(vm);
    vm->ops->kill(vm->instance);
    vm_io_stop(vm);
    struct host_wait wait = host_wait_ms(vm->host, VM_KILL_TIMEOUT_MS, HOST_FD_NONE);
    struct kelpie_error ignored;
    /* What was killed ends; a machine that never ran is stopped already. */
    if (vm->ops->stop(vm->instance, &wait, &ignored) != KELPIE_OK) {
        vm_lock(vm);
        snprintf(vm->exit_text, sizeof(vm->exit_text), "the VM could not be reaped: %.400s",
                 ignored.message);
        vm_unlock(vm);
    }
}

/* ---- Start ------------------------------------------------------------------------------------ */

/* Adds the console's last bytes to an error: they mostly say why a guest did not come up. */
static void quote_console(struct kelpie_vm *vm, struct kelpie_error *err) {
    ASSERT(vm->instance);
    ASSERT(vm->busy);
    char tail[VM_CONSOLE_IN_ERROR_SIZE + 1];
    if (!err) {
        return;
    }
    size_t size = vm->ops->console(vm->instance, tail, VM_CONSOLE_IN_ERROR_SIZE);
    for (size_t i = 0; i < size; i++) {
        if (tail[i] == '\n' || tail[i] == '\r' || tail[i] == '\t') {
            tail[i] = ' ';
        } else if (tail[i] < 0x20 || tail[i] > 0x7e) {
            tail[i] = '?';
        }
    }
    tail[size] = 0;
    if (size > 0) {
        struct kelpie_error outer = *err;
        snprintf(err->message, sizeof(err->message), "%.560s; console: %s", outer.message, tail);
    }
}

/* Kernels that do not fit their memory mostly reset without a word. */
static void mention_memory(struct kelpie_vm *vm, struct kelpie_error *err) {
    ASSERT(vm->config->memory_mib >= KELPIE_MEMORY_MIB_MIN);
    ASSERT(vm->busy);
    if (err && vm->config->memory_mib < VM_MEMORY_SMALL_MIB) {
        struct kelpie_error outer = *err;
        snprintf(err->message, sizeof(err->message),
                 "%.900s; it has %u MiB of memory, which may be too little for its kernel",
                 outer.message, vm->config->memory_mib);
    }
}

/* The guest comes up: HELLO, SETUP. */
static enum kelpie_status greet_guest(struct kelpie_vm *vm, const struct host_wait *wait,
                                      struct kelpie_error *err) {
    ASSERT(vm->busy);
    ASSERT(vm->state == KELPIE_STATE_STARTING);
    vm_lock(vm);
    struct vm_wait until = wait_until(vm, wait);
    enum kelpie_status status = vm_say_hello(vm, false, &until, err);
    if (status == KELPIE_OK) {
        status = vm_say_setup(vm, &until, err);
    }
    vm_unlock(vm);
    switch ((int)status) {
    case KELPIE_OK:
    case KELPIE_CANCELLED:
        return status;
    case KELPIE_TIMED_OUT:
        status = error_wrap(err, KELPIE_BOOT_TIMED_OUT, "the guest did not come up in time");
        break;
    default:
        status = error_wrap(err, KELPIE_BOOT_FAILED, "the guest did not come up");
        break;
    }
    mention_memory(vm, err);
    quote_console(vm, err);
    return status;
}

void vm_forget_machine(struct kelpie_vm *vm) {
    ASSERT(vm->busy);
    ASSERT(!vm->io_thread);
    vm_lock(vm);
    vm->restored = false;
    vm->fresh_wanted = false;
    vm->quiesced = false;
    vm->parent_id[0] = 0;
    vm->bundle_directory[0] = 0;
    vm->saved_session_count = 0;
    vm_unlock(vm);
}

void vm_starting(struct kelpie_vm *vm) {
    ASSERT(vm->busy);
    ASSERT(!vm->io_thread);
    vm_lock(vm);
    vm->stop_asked = false;
    vm->machine_ended = false;
    vm->may_run = false;
    vm->live_shares = 0;
    vm_set_state(vm, KELPIE_STATE_STARTING);
    vm_unlock(vm);
}

enum kelpie_status vm_started(struct kelpie_vm *vm, enum kelpie_status status,
                              enum kelpie_state before, enum kelpie_state after,
                              struct kelpie_error *err) {
    ASSERT(vm->busy);
    ASSERT(vm->state == KELPIE_STATE_STARTING);
    vm_lock(vm);
    bool ended = vm->machine_ended;
    if (status == KELPIE_OK && vm->stop_asked) {
        /* Whoever stopped it has killed the machine already. */
        status = error_set(err, KELPIE_CANCELLED, "the VM was stopped as it came up");
    } else if (status == KELPIE_OK && ended) {
        status =
            error_set(err, KELPIE_BOOT_FAILED, "the VM ended as it came up: %s", vm->exit_text);
    } else if (status == KELPIE_OK) {
        vm_set_state(vm, after);
    }
    vm_unlock(vm);
    if (status != KELPIE_OK) {
        vm_machine_kill(vm); /* nothing of the attempt is left */
        vm_lock(vm);
        enum kelpie_state failed = ended ? KELPIE_STATE_CRASHED : before;
        vm_set_state(vm, vm->stop_asked ? KELPIE_STATE_STOPPED : failed);
        vm_unlock(vm);
    }
    vm_end(vm, status);
    return status;
}

enum kelpie_status vm_boot(struct kelpie_vm *vm, const struct host_wait *wait,
                           struct kelpie_error *err) {
    ASSERT(vm->busy);
    ASSERT(vm->state == KELPIE_STATE_STARTING);
    TRY(vm->ops->start(vm->instance, wait, err));
    TRY(vm_io_start(vm, err));
    return greet_guest(vm, wait, err);
}

enum kelpie_status kelpie_vm_start(struct kelpie_vm *vm, struct kelpie_error *err) {
    vm_check(vm);
    ASSERT(vm->instance);
    if (vm_is_owned(vm)) {
        return vm_owned_start(vm, err);
    }
    struct host_wait wait;
    TRY(vm_begin(vm, VM_OPERATION_START, vm->config->boot_timeout_ms, &wait, err));
    enum kelpie_state before = kelpie_vm_state(vm);
    vm_forget_machine(vm);
    vm_starting(vm);
    enum kelpie_status status = vm_populate_prepare(vm, err);
    if (status == KELPIE_OK) {
        status = vm->config->warm ? vm_warm_start(vm, &wait, err) : vm_boot(vm, &wait, err);
    }
    if (status == KELPIE_OK) {
        status = vm_populate(vm, err);
    }
    return vm_started(vm, status, before, KELPIE_STATE_RUNNING, err);
}

/* ---- Standing still --------------------------------------------------------------------------- */

/* A guest behind a new connection, most often a restored one: its sessions keep their ids, so that new
 * ones get others. mutex held. */
static enum kelpie_status meet_again(struct kelpie_vm *vm, const struct vm_wait *wait,
                                     struct kelpie_error *err) {
    const struct protocol_sessions *sessions = &vm->channel.answers.sessions;
    ASSERT(vm->locked);
    ASSERT(!vm->channel.connected);
    TRY(vm_say_hello(vm, true, wait, err));
    TRY(vm_say_list(vm, wait, err));
    for (uint32_t i = 0; i < sessions->count; i++) {
        uint32_t id = sessions->ids[i];
        vm_guest_session_opened(vm, id);
        if (id > vm->session_id_last && id < VM_RELAY_IDS_COUNT) {
            vm->session_id_last = id;
        }
    }
    return KELPIE_OK;
}

static enum kelpie_status wake_guest(struct kelpie_vm *vm, const struct host_wait *wait,
                                     struct kelpie_error *err) {
    ASSERT(vm->busy);
    ASSERT(wait);
    vm_lock(vm);
    struct vm_wait until = wait_until(vm, wait);
    bool fresh = vm->fresh_wanted;
    enum kelpie_status status = KELPIE_OK;
    if (!vm->channel.connected) {
        status = meet_again(vm, &until, err);
    }
    if (status == KELPIE_OK) {
        uint64_t now_ns = host_monotonic_ns(vm->host);
        vm_sessions_shift_deadlines(vm, now_ns - vm->paused_ns);
        vm->paused_ns = now_ns; /* whoever tries again does not give the same time twice */
        vm->quiesced = false;   /* also when its answer does not come */
        status = vm_say_thaw(vm, fresh, &until, err);
    }
    if (status == KELPIE_OK && fresh) {
        status = vm_check_report(vm, err);
    }
    if (status == KELPIE_OK) {
        vm->fresh_wanted = false;
    }
    vm_unlock(vm);
    return status;
}

/* Of a VM that runs. A failure of this host's (no random bytes) may be one of a moment, and a guest that never goes on is
 * worse than a second try. */
static enum kelpie_status wake_or_break(struct kelpie_vm *vm, const struct host_wait *wait,
                                        struct kelpie_error *err) {
    ASSERT(vm->busy);
    ASSERT(wait);
    enum kelpie_status status = KELPIE_IO_FAILED;
    for (int i = 0; i < VM_WAKE_TRIES && status == KELPIE_IO_FAILED; i++) {
        status = wake_guest(vm, wait, err);
    }
    if (status != KELPIE_OK && vm_machine_is_alive(vm)) {
        vm_lock(vm);
        vm_channel_break(vm, "the guest stood still and did not go on");
        vm_unlock(vm);
    }
    return status;
}

/* The guest is told to go on after all. asked: the machine was to stand still, and may do so, now or a little later,
 * although that is said to have failed; one that runs does not mind to be resumed. */
static void undo_freeze(struct kelpie_vm *vm, bool asked) {
    struct host_wait wait = host_wait_ms(vm->host, VM_FREEZE_TIMEOUT_MS, HOST_FD_NONE);
    struct kelpie_error ignored;
    ASSERT(vm->busy);
    ASSERT(!vm->fresh_wanted);
    if (asked && vm->ops->resume(vm->instance, &wait, &ignored) != KELPIE_OK) {
        /* It may never have stopped: the guest has its own time to answer. */
        wait = host_wait_ms(vm->host, VM_FREEZE_TIMEOUT_MS, HOST_FD_NONE);
    }
    (void)!wake_or_break(vm, &wait, &ignored); /* what it failed with first is told */
}

enum kelpie_status vm_stand_still(struct kelpie_vm *vm, const struct host_wait *wait,
                                  struct kelpie_error *err) {
    ASSERT(vm->busy); /* the state is crashed, if the machine ended just now */
    ASSERT(wait);
    vm_lock(vm);
    struct vm_wait until = vm_wait_start(vm, VM_FREEZE_TIMEOUT_MS);
    if (wait->deadline_ns < until.deadline_ns) {
        until.deadline_ns = wait->deadline_ns;
    }
    struct kelpie_error freeze_error = {0};
    enum kelpie_status frozen = vm_say_freeze(vm, &until, &freeze_error);
    vm->quiesced = frozen == KELPIE_OK;
    vm->paused_ns = host_monotonic_ns(vm->host);
    bool alive = vm->machine_alive;
    vm_unlock(vm);
    if (!alive) {
        return error_set(err, KELPIE_CRASHED, "the VM crashed: %s", vm->exit_text);
    }
    enum kelpie_status status = frozen;
    if (frozen == KELPIE_CANCELLED && err) {
        *err = freeze_error;
    }
    if (frozen != KELPIE_CANCELLED) {
        /* A guest that does not answer is paused all the same; a snapshot of it will say so. */
        status = vm->ops->pause(vm->instance, wait, err);
    }
    if (status != KELPIE_OK) {
        undo_freeze(vm, frozen != KELPIE_CANCELLED);
    }
    return status;
}

/* The machine does not go on, and the VM stays paused. What was resumed stands still again, if it can. */
static void undo_resume(struct kelpie_vm *vm, bool resumed) {
    ASSERT(vm->busy);
    ASSERT(vm->instance);
    struct kelpie_error ignored;
    struct host_wait wait = host_wait_ms(vm->host, VM_FREEZE_TIMEOUT_MS, HOST_FD_NONE);
    bool still = resumed && vm->ops->pause(vm->instance, &wait, &ignored) == KELPIE_OK;
    vm_lock(vm);
    vm->may_run = !still;
    vm_unlock(vm);
}

enum kelpie_status vm_go_on(struct kelpie_vm *vm, const struct host_wait *wait,
                            struct kelpie_error *err) {
    ASSERT(wait);
    ASSERT(vm->busy);
    enum kelpie_status status = vm->ops->resume(vm->instance, wait, err);
    bool resumed = status == KELPIE_OK;
    if (resumed) {
        status = wake_guest(vm, wait, err);
    }
    if (status == KELPIE_OK) {
        vm_lock(vm);
        vm->may_run = false; /* it does, and the state says so */
        vm_unlock(vm);
    } else if (vm_machine_is_alive(vm)) {
        undo_resume(vm, resumed);
    }
    return status;
}

enum kelpie_status vm_stay_still(struct kelpie_vm *vm, const struct host_wait *wait,
                                 struct kelpie_error *err) {
    ASSERT(wait);
    ASSERT(vm->busy);
    vm_lock(vm);
    bool may_run = vm->may_run;
    vm_unlock(vm);
    if (may_run) {
        TRY(vm->ops->pause(vm->instance, wait, err));
        vm_lock(vm);
        vm->may_run = false;
        vm_unlock(vm);
    }
    return KELPIE_OK;
}

/* Of a VM that was paused: the guest is silent, then the vCPUs stand still. */
static enum kelpie_status still_again(struct kelpie_vm *vm, const struct host_wait *wait,
                                      struct kelpie_error *err) {
    ASSERT(vm->busy);
    ASSERT(vm->state != KELPIE_STATE_RUNNING);
    struct kelpie_error ignored;
    vm_lock(vm);
    struct vm_wait until = wait_until(vm, wait);
    /* Its commands stand still whatever it answers: HOLD, or the FREEZE before, saw to that. */
    if (vm->channel.connected && vm_say_freeze(vm, &until, &ignored) != KELPIE_OK) {
        vm->channel.holding = false;
    }
    bool alive = vm->machine_alive;
    vm_unlock(vm);
    if (!alive) {
        return error_set(err, KELPIE_CRASHED, "the VM crashed: %s", vm->exit_text);
    }
    enum kelpie_status status = vm->ops->pause(vm->instance, wait, err);
    vm_lock(vm);
    vm->may_run = status != KELPIE_OK;
    vm_unlock(vm);
    return status;
}

enum kelpie_status vm_hold_end(struct kelpie_vm *vm, const struct host_wait *wait,
                               struct kelpie_error *err) {
    ASSERT(vm->busy);
    ASSERT(wait);
    vm_lock(vm);
    bool paused = vm->state == KELPIE_STATE_PAUSED;
    bool alive = vm->machine_alive;
    vm_unlock(vm);
    if (!alive) {
        return error_set(err, KELPIE_CRASHED, "the VM crashed: %s", vm->exit_text);
    }
    return paused ? still_again(vm, wait, err) : wake_or_break(vm, wait, err);
}

enum kelpie_status vm_hold(struct kelpie_vm *vm, const struct host_wait *wait,
                           struct kelpie_error *err) {
    ASSERT(vm->busy);
    ASSERT(wait);
    bool paused = kelpie_vm_state(vm) == KELPIE_STATE_PAUSED;
    if (paused && !vm->quiesced) {
        return error_set_field(err, KELPIE_SNAPSHOT_FAILED, "quiesced",
                               "the guest's commands do not stand still, and would run on: resume "
                               "the VM first");
    }
    if (paused) {
        enum kelpie_status resumed = vm->ops->resume(vm->instance, wait, err);
        if (resumed != KELPIE_OK) {
            undo_resume(vm, vm_machine_is_alive(vm));
            return resumed;
        }
    }
    vm_lock(vm);
    struct vm_wait until = wait_until(vm, wait);
    enum kelpie_status status = vm->channel.connected ? KELPIE_OK : meet_again(vm, &until, err);
    if (status == KELPIE_OK) {
        status = vm_say_hold(vm, &until, err);
    }
    if (!paused) {
        vm->quiesced = status == KELPIE_OK;
        vm->paused_ns = host_monotonic_ns(vm->host);
    }
    vm_unlock(vm);
    if (status != KELPIE_OK) {
        struct host_wait own = host_wait_ms(vm->host, VM_FREEZE_TIMEOUT_MS, HOST_FD_NONE);
        struct kelpie_error ignored;
        (void)!vm_hold_end(vm, &own, &ignored); /* what it failed with first is told */
    }
    return status;
}

/* The state after an operation, unless the machine ended meanwhile. */
static enum kelpie_status settle(struct kelpie_vm *vm, enum kelpie_status status,
                                 enum kelpie_state state, struct kelpie_error *err) {
    ASSERT(vm->busy);
    ASSERT(state == KELPIE_STATE_RUNNING || state == KELPIE_STATE_PAUSED);
    vm_lock(vm);
    if (!vm->machine_alive) {
        if (status == KELPIE_OK || status == KELPIE_IO_FAILED || status == KELPIE_INTERNAL) {
            status = error_set(err, KELPIE_CRASHED, "the VM crashed: %s", vm->exit_text);
        }
    } else if (status == KELPIE_OK) {
        vm_set_state(vm, state);
    }
    vm_unlock(vm);
    vm_end(vm, status);
    return status;
}

enum kelpie_status kelpie_vm_pause(struct kelpie_vm *vm, struct kelpie_error *err) {
    vm_check(vm);
    ASSERT(vm->instance);
    if (vm_is_owned(vm)) {
        return vm_owned_pause(vm, err);
    }
    struct host_wait wait;
    TRY(vm_begin(vm, VM_OPERATION_PAUSE, vm->config->operation_timeout_ms, &wait, err));
    enum kelpie_status status = vm_stand_still(vm, &wait, err);
    return settle(vm, status, KELPIE_STATE_PAUSED, err);
}

enum kelpie_status kelpie_vm_resume(struct kelpie_vm *vm, struct kelpie_error *err) {
    vm_check(vm);
    ASSERT(vm->instance);
    if (vm_is_owned(vm)) {
        return vm_owned_resume(vm, err);
    }
    struct host_wait wait;
    TRY(vm_begin(vm, VM_OPERATION_RESUME, vm->config->operation_timeout_ms, &wait, err));
    enum kelpie_status status = vm_go_on(vm, &wait, err);
    return settle(vm, status, KELPIE_STATE_RUNNING, err);
}

/* ---- Stop ------------------------------------------------------------------------------------- */

/* A start in progress is ended first: it fails, the machine is gone, and the VM is stopped. True: there was one. */
static bool interrupt_start(struct kelpie_vm *vm) {
    ASSERT(vm->instance);
    vm_lock(vm);
    bool starting = vm->busy && vm->state == KELPIE_STATE_STARTING;
    if (starting) {
        vm->stop_asked = true;
        vm->stopping = true;
        vm->cancel_count++;
        host_event_set(vm->host, vm->cancel_event);
        vm->ops->kill(vm->instance);
        host_condition_broadcast(vm->changed);
    }
    while (starting && vm->busy && vm->state == KELPIE_STATE_STARTING) {
        vm_wait_changed(vm, host_monotonic_ns(vm->host) + VM_POLL_PERIOD_MS * HOST_NS_PER_MS);
    }
    vm_unlock(vm);
    return starting;
}

/* Tells the guest, and waits for the machine to end. */
static void power_off(struct kelpie_vm *vm, const struct host_wait *wait) {
    ASSERT(vm->busy);
    ASSERT(wait);
    vm_lock(vm);
    vm->stopping = true;
    struct vm_wait until = wait_until(vm, wait);
    struct kelpie_error ignored;
    enum kelpie_status status = KELPIE_OK;
    if (vm->state == KELPIE_STATE_RUNNING && vm->machine_alive) {
        status = vm_say_power_off(vm, &until, &ignored);
        while (status == KELPIE_OK && vm->machine_alive) {
            status = vm_wait_step(vm, &until, "the guest to power off", &ignored);
        }
    }
    vm_unlock(vm);
}

/* The machine is killed although an operation uses it: that ends. True: so it was. */
static bool interrupt_operation(struct kelpie_vm *vm) {
    ASSERT(vm->instance);
    vm_lock(vm);
    bool interrupted =
        vm->busy && (vm->state == KELPIE_STATE_RUNNING || vm->state == KELPIE_STATE_PAUSED);
    if (interrupted) {
        vm->stopping = true;
        vm->cancel_count++;
        host_event_set(vm->host, vm->cancel_event);
        vm->ops->kill(vm->instance);
        host_condition_broadcast(vm->changed);
    }
    while (interrupted && vm->busy) {
        vm_wait_changed(vm, host_monotonic_ns(vm->host) + VM_POLL_PERIOD_MS * HOST_NS_PER_MS);
    }
    ASSERT(!interrupted || !vm->busy);
    vm_unlock(vm);
    return interrupted;
}

enum kelpie_status kelpie_vm_stop(struct kelpie_vm *vm, uint32_t timeout_ms,
                                  struct kelpie_error *err) {
    vm_check(vm);
    ASSERT(vm->instance);
    const bool at_once = timeout_ms == KELPIE_STOP_AT_ONCE;
    TRY(at_once ? KELPIE_OK : vm_check_timeout("timeout_ms", timeout_ms, err));
    if (vm_is_owned(vm)) {
        return vm_owned_stop(vm, timeout_ms, err);
    }
    if (interrupt_start(vm)) {
        return KELPIE_OK;
    }
    bool interrupted = at_once && interrupt_operation(vm);
    enum kelpie_status status =
        vm_begin(vm, VM_OPERATION_STOP, vm->config->operation_timeout_ms, NULL, err);
    if (status == KELPIE_WRONG_STATE && interrupted &&
        kelpie_vm_state(vm) == KELPIE_STATE_STOPPED) {
        return KELPIE_OK; /* it was a stop */
    }
    TRY(status);
    if (!at_once) {
        const uint32_t stop_ms = timeout_ms != 0 ? timeout_ms : vm->config->stop_timeout_ms;
        const struct host_wait wait = host_wait_ms(vm->host, stop_ms, vm->cancel_event);
        power_off(vm, &wait);
    }
    vm_machine_kill(vm);
    vm_lock(vm);
    if (vm->state != KELPIE_STATE_CRASHED) {
        vm_set_state(vm, KELPIE_STATE_STOPPED);
    }
    vm_unlock(vm);
    vm_end(vm, KELPIE_OK);
    return KELPIE_OK;
}
