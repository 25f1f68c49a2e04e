/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * VMs with an owner: a handle of a machine that another process has.
 *
 * THEORY OF OPERATION
 *
 * Three things differ from a VM of this process. Whole operations (start, snapshot, …) are asked of the owner, through the
 * backend's backend_owner_ops; the owner puts them in order, and says what is allowed in which state, so that neither vm_begin()
 * nor the state table is asked here. The state is what the owner tells: service() reads it, with the VM locked, and follow()
 * makes it the VM's, whichever it was before, for what came in between may never have been told. And the channel leads to a relay
 * (relay.h) in the owner: there is nobody to greet, it is connected at once, and a new one takes its place for each machine.
 * Sessions, copies and their waits are those of any VM.
 *
 * The I/O thread runs from when the handle is made until it is given up, with or without a channel. What a request waits for
 * is told to it, too: state before answer, so that a caller who has the answer finds the VM so.
 *
 * A channel that ends is mostly followed by word of why; only when none comes is it broken. An owner that is gone tells no more,
 * and its backend says crashed: every session is lost then, and every wait ends.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "vm/vm.h"

#define BIT(state) (1u << (state))
#define AT_REST (BIT(KELPIE_STATE_CREATED) | BIT(KELPIE_STATE_STARTING) | BIT(KELPIE_STATE_STOPPED))
#define AT_WORK (BIT(KELPIE_STATE_STARTING) | BIT(KELPIE_STATE_RUNNING) | BIT(KELPIE_STATE_PAUSED))

bool vm_is_owned(const struct kelpie_vm *vm) {
    ASSERT(vm);
    ASSERT(vm->ops);
    return vm->ops->owner != NULL;
}

/* ---- Following what the owner tells ------------------------------------------------------------- */

/* Time in which nothing ran does not count against a command's timeout. */
static void note_pause(struct kelpie_vm *vm, enum kelpie_state next) {
    ASSERT(vm->locked);
    ASSERT((unsigned)next < KELPIE_STATE_COUNT);
    uint64_t now_ns = host_monotonic_ns(vm->host);
    if (next == KELPIE_STATE_PAUSED && vm->state != KELPIE_STATE_PAUSED) {
        vm->paused_ns = now_ns;
    }
    if (vm->state == KELPIE_STATE_PAUSED && next == KELPIE_STATE_RUNNING) {
        vm_sessions_shift_deadlines(vm, now_ns - vm->paused_ns);
    }
}

/* Connected at once; the far side looks for a SYNC. */
static void open_channel(struct kelpie_vm *vm, const struct backend_owned_state *told) {
    struct vm_channel *channel = &vm->channel;
    ASSERT(vm->locked);
    ASSERT(!channel->open);
    vm_channel_open(vm);
    channel->connected = true;
    memcpy(channel->out, PROTOCOL_SYNC, PROTOCOL_SYNC_SIZE);
    channel->out_end = PROTOCOL_SYNC_SIZE;
    vm->owner_channel_number = told->channel_number;
    vm->ids_first = told->ids_first;
    vm->ids_count = told->ids_count;
    vm->session_id_last = told->ids_first - 1;
    vm_channel_flush(vm);
}

/* The VM becomes what the owner said last. On the I/O thread, or before there is one: the decoder is that one's. */
static void follow(struct kelpie_vm *vm) {
    struct backend_owned_state told = {0};
    ASSERT(vm->locked);
    vm->ops->owner->state(vm->instance, &told);
    ASSERT((unsigned)told.state < KELPIE_STATE_COUNT);
    note_pause(vm, told.state);
    bool crashed = told.state == KELPIE_STATE_CRASHED;
    if (crashed) {
        snprintf(vm->exit_text, sizeof(vm->exit_text), "%.511s", told.exit_text);
    }
    vm->state = told.state;
    vm->live_shares = told.live_shares;
    vm->machine_alive = (BIT(told.state) & AT_WORK) != 0;
    vm->stopping = !crashed; /* a machine that is not there was wanted to end */
    bool reachable = told.state == KELPIE_STATE_RUNNING || told.state == KELPIE_STATE_PAUSED;
    bool another = told.channel_number != vm->owner_channel_number;
    if (vm->channel.open && (!reachable || another)) {
        vm_channel_close(vm);
    }
    bool usable = told.ids_first > 0 && told.ids_count >= VM_OWNED_IDS_COUNT_MIN &&
                  vm->ops->channel_fd(vm->instance) != HOST_FD_NONE;
    if (reachable && another && usable) {
        open_channel(vm, &told);
    }
    host_condition_broadcast(vm->changed);
}

void vm_owned_service(struct kelpie_vm *vm, int fd) {
    ASSERT(vm->instance);
    ASSERT(fd != HOST_FD_NONE);
    vm_lock(vm);
    vm->ops->service(vm->instance, fd);
    follow(vm);
    vm_unlock(vm);
}

void vm_owned_watch(struct kelpie_vm *vm) {
    ASSERT(vm->instance);
    ASSERT(vm_is_owned(vm));
    vm_lock(vm);
    follow(vm); /* it may have been lost by who spoke to it */
    uint64_t since_ns = host_monotonic_ns(vm->host) - vm->owner_channel_ended_ns;
    if (vm->channel.open && vm->channel.ended && since_ns >= VM_EXIT_GRACE_MS * HOST_NS_PER_MS) {
        vm_channel_break(vm, "the owner's end of the channel was closed");
    }
    vm_unlock(vm);
}

/* The machine can be talked to, and nothing to do so has come yet. */
static bool channel_is_coming(const struct kelpie_vm *vm) {
    ASSERT(vm->locked);
    ASSERT(vm_is_owned(vm));
    return (vm->state == KELPIE_STATE_RUNNING || vm->state == KELPIE_STATE_PAUSED) &&
           !vm->channel.open;
}

enum kelpie_status vm_owned_await_channel(struct kelpie_vm *vm, const struct vm_wait *wait,
                                          struct kelpie_error *err) {
    uint64_t deadline_ns = host_wait_ms(vm->host, VM_OWNED_CHANNEL_MS, HOST_FD_NONE).deadline_ns;
    ASSERT(wait);
    ASSERT(vm->locked);
    deadline_ns = wait->deadline_ns < deadline_ns ? wait->deadline_ns : deadline_ns;
    while (channel_is_coming(vm)) {
        if (vm->cancel_count != wait->cancel_count) {
            return error_set(err, KELPIE_CANCELLED, "waiting for a channel was cancelled");
        }
        if (!vm_wait_changed(vm, deadline_ns)) {
            error_set(err, KELPIE_BUSY, "the VM's owner has given no channel to the guest");
            if (err) {
                err->retriable = true;
            }
            return KELPIE_BUSY;
        }
    }
    return KELPIE_OK;
}

void vm_owned_blind(struct kelpie_vm *vm) {
    ASSERT(vm->instance);
    ASSERT(vm_is_owned(vm));
    vm_lock(vm);
    vm->ops->owner->lose(vm->instance, "the VM's owner cannot be listened to");
    follow(vm);
    vm_unlock(vm);
}

/* ---- The handle --------------------------------------------------------------------------------- */

enum kelpie_status vm_owned_open(struct kelpie_vm *vm, struct kelpie_error *err) {
    const struct backend_owner_ops *owner = vm->ops->owner;
    ASSERT(vm->instance);
    ASSERT(!vm->io_thread);
    const char *id = owner->id(vm->instance);
    if (id != vm->id) {
        snprintf(vm->id, sizeof(vm->id), "%s", id);
    }
    vm->config = owner->config(vm->instance);
    ASSERT(vm->config && vm->config->operation_timeout_ms > 0);
    vm_lock(vm);
    follow(vm);
    vm_unlock(vm);
    enum kelpie_status status = vm_io_thread_start(vm, err);
    if (status != KELPIE_OK) {
        vm_lock(vm);
        if (vm->channel.open) {
            vm_channel_close(vm);
        }
        vm_unlock(vm);
        if (!vm->launch.open_name) {
            owner->end(vm->instance); /* nobody has heard of it */
        }
    }
    return status;
}

/* Waits a moment for what closed sessions have still to say. mutex held. */
static void say_last_words(struct kelpie_vm *vm) {
    const uint64_t deadline_ns =
        host_wait_ms(vm->host, VM_OWNED_LAST_WORDS_MS, HOST_FD_NONE).deadline_ns;
    const struct vm_channel *channel = &vm->channel;
    ASSERT(vm->locked);
    ASSERT(channel->out_start <= channel->out_end);
    vm_channel_flush(vm);
    while (channel->open && !channel->ended && channel->broken[0] == 0 &&
           channel->out_start < channel->out_end && vm_wait_changed(vm, deadline_ns)) {
    }
}

void vm_owned_close(struct kelpie_vm *vm, bool end) {
    vm_check(vm);
    ASSERT(vm_is_owned(vm));
    vm_lock(vm);
    vm->cancel_count++;
    host_event_set(vm->host, vm->cancel_event);
    host_condition_broadcast(vm->changed);
    while (vm->owner_request_count > 0) {
        vm_wait_changed(vm, host_monotonic_ns(vm->host) + VM_POLL_PERIOD_MS * HOST_NS_PER_MS);
    }
    host_event_clear(vm->host, vm->cancel_event);
    if (!end) {
        say_last_words(vm);
    }
    vm->busy = true;
    vm_unlock(vm);
    vm_io_stop(vm);
    if (end) {
        vm->ops->owner->end(vm->instance);
    }
    vm_lock(vm);
    vm->busy = false;
    vm_unlock(vm);
    vm_release(vm);
}

/* ---- Requests ----------------------------------------------------------------------------------- */

/* A cancel ends what is under way when it comes, and nothing that begins later: as long as its event is set, who comes waits
 * for those whom it ends. The owner keeps to timeout_ms itself, and is given time to say so. */
static enum kelpie_status request_begin(struct kelpie_vm *vm, uint64_t timeout_ms,
                                        struct host_wait *ret_wait, struct kelpie_error *err) {
    ASSERT(ret_wait);
    vm_check(vm);
    uint64_t answer_ms =
        timeout_ms == 0 ? UINT64_MAX / HOST_NS_PER_MS : timeout_ms + VM_OWNED_ANSWER_MS;
    struct host_wait wait = host_wait_ms(vm->host, answer_ms, vm->cancel_event);
    enum kelpie_status status = KELPIE_OK;
    vm_lock(vm);
    while (status == KELPIE_OK && vm->owner_request_count > 0 &&
           vm->cancel_count != vm->begun_cancel_count) {
        if (!vm_wait_changed(vm, wait.deadline_ns)) {
            status = error_set(err, KELPIE_BUSY, "another operation still holds the VM");
        }
    }
    if (status == KELPIE_OK) {
        if (vm->owner_request_count == 0) {
            vm->begun_cancel_count = vm->cancel_count;
            host_event_clear(vm->host, vm->cancel_event);
        }
        vm->owner_request_count++;
        *ret_wait = wait;
        vm_sessions_want_acks(vm); /* what was read before is not in a snapshot, or in a child */
        vm_channel_flush(vm);
    }
    vm_unlock(vm);
    return status;
}

/* Of a request that was answered with OK, the VM is told to be no longer in one of `left`, and its channel to be there if it is
 * to: that was said before, or comes in a moment. */
static enum kelpie_status request_end(struct kelpie_vm *vm, enum kelpie_status status,
                                      uint32_t left) {
    ASSERT(vm->instance);
    ASSERT(left < BIT(KELPIE_STATE_COUNT));
    const uint64_t deadline_ns = host_wait_ms(vm->host, VM_EXIT_GRACE_MS, HOST_FD_NONE).deadline_ns;
    vm_lock(vm);
    ASSERT(vm->owner_request_count > 0);
    vm->owner_request_count--;
    host_condition_broadcast(vm->changed);
    while (status == KELPIE_OK && ((BIT(vm->state) & left) || channel_is_coming(vm)) &&
           vm_wait_changed(vm, deadline_ns)) {
    }
    vm_unlock(vm);
    return status;
}

enum kelpie_status vm_owned_start(struct kelpie_vm *vm, struct kelpie_error *err) {
    struct host_wait wait;
    ASSERT(vm_is_owned(vm));
    TRY(request_begin(vm, vm->config->boot_timeout_ms, &wait, err));
    ASSERT(vm->owner_request_count > 0);
    return request_end(vm, vm->ops->owner->start(vm->instance, &wait, err), AT_REST);
}

enum kelpie_status vm_owned_stop(struct kelpie_vm *vm, uint32_t timeout_ms,
                                 struct kelpie_error *err) {
    struct host_wait wait;
    ASSERT(vm_is_owned(vm));
    uint64_t stop_ms = timeout_ms == 0                     ? vm->config->stop_timeout_ms
                       : timeout_ms == KELPIE_STOP_AT_ONCE ? 0
                                                           : timeout_ms;
    TRY(request_begin(vm, stop_ms + vm->config->operation_timeout_ms, &wait, err));
    ASSERT(vm->owner_request_count > 0);
    return request_end(vm, vm->ops->owner->stop(vm->instance, timeout_ms, &wait, err), AT_WORK);
}

enum kelpie_status vm_owned_pause(struct kelpie_vm *vm, struct kelpie_error *err) {
    struct host_wait wait;
    ASSERT(vm_is_owned(vm));
    TRY(request_begin(vm, vm->config->operation_timeout_ms, &wait, err));
    ASSERT(vm->owner_request_count > 0);
    return request_end(vm, vm->ops->owner->pause(vm->instance, &wait, err),
                       BIT(KELPIE_STATE_RUNNING));
}

enum kelpie_status vm_owned_resume(struct kelpie_vm *vm, struct kelpie_error *err) {
    struct host_wait wait;
    ASSERT(vm_is_owned(vm));
    TRY(request_begin(vm, vm->config->operation_timeout_ms, &wait, err));
    ASSERT(vm->owner_request_count > 0);
    return request_end(vm, vm->ops->owner->resume(vm->instance, &wait, err),
                       BIT(KELPIE_STATE_PAUSED));
}

enum kelpie_status vm_owned_snapshot(struct kelpie_vm *vm, const char *directory,
                                     const struct kelpie_snapshot_options *options,
                                     struct kelpie_snapshot *ret_snapshot,
                                     struct kelpie_error *err) {
    struct host_wait wait;
    ASSERT(directory && options);
    ASSERT(vm_is_owned(vm));
    struct kelpie_snapshot snapshot = {0};
    TRY(request_begin(vm, vm_snapshot_timeout(options->timeout_ms), &wait, err));
    enum kelpie_status status =
        vm->ops->owner->snapshot(vm->instance, directory, options, &snapshot, &wait, err);
    if (status == KELPIE_OK && ret_snapshot) {
        *ret_snapshot = snapshot;
    }
    return request_end(vm, status, 0);
}

enum kelpie_status vm_owned_restore(struct kelpie_vm *vm, const char *directory,
                                    const struct kelpie_restore_options *options,
                                    struct kelpie_error *err) {
    struct host_wait wait;
    ASSERT(directory && options);
    ASSERT(vm_is_owned(vm));
    TRY(request_begin(vm, vm_snapshot_timeout(options->timeout_ms), &wait, err));
    return request_end(vm, vm->ops->owner->restore(vm->instance, directory, options, &wait, err),
                       AT_REST);
}

enum kelpie_status vm_owned_restore_report(struct kelpie_vm *vm,
                                           struct kelpie_restore_report *ret_report,
                                           struct kelpie_error *err) {
    struct host_wait wait;
    ASSERT(ret_report);
    ASSERT(vm_is_owned(vm));
    TRY(request_begin(vm, vm->config->operation_timeout_ms, &wait, err));
    return request_end(vm, vm->ops->owner->restore_report(vm->instance, ret_report, &wait, err), 0);
}

enum kelpie_status vm_owned_record_working_set(struct kelpie_vm *vm, struct kelpie_error *err) {
    struct host_wait wait;
    ASSERT(vm_is_owned(vm));
    TRY(request_begin(vm, vm->config->operation_timeout_ms, &wait, err));
    ASSERT(vm->owner_request_count > 0);
    return request_end(vm, vm->ops->owner->record_working_set(vm->instance, &wait, err), 0);
}

enum kelpie_status vm_owned_stats(struct kelpie_vm *vm, struct kelpie_stats *ret_stats,
                                  struct kelpie_error *err) {
    struct host_wait wait;
    ASSERT(ret_stats);
    ASSERT(vm_is_owned(vm));
    TRY(request_begin(vm, vm->config->operation_timeout_ms, &wait, err));
    return request_end(vm, vm->ops->owner->stats(vm->instance, ret_stats, &wait, err), 0);
}

enum kelpie_status vm_owned_mock_lever(struct kelpie_vm *vm, int operation, uint32_t count,
                                       struct kelpie_error *err) {
    struct host_wait wait;
    ASSERT(vm_is_owned(vm));
    ASSERT(operation >= -1 && operation < KELPIE_MOCK_OPERATION_COUNT);
    TRY(request_begin(vm, vm->config->operation_timeout_ms, &wait, err));
    return request_end(vm, vm->ops->owner->mock_lever(vm->instance, operation, count, &wait, err),
                       0);
}

/* ---- Forks -------------------------------------------------------------------------------------- */

static enum kelpie_status open_child(struct kelpie_vm *parent, const char *name,
                                     struct kelpie_vm **ret_vm, struct kelpie_error *err) {
    ASSERT(ret_vm);
    ASSERT(vm_is_owned(parent));
    const struct vm_origin origin = {.open_name = name, .ops = parent->ops, .host = parent->host};
    TRY(vm_create(&origin, ret_vm, err));
    vm_share_host(*ret_vm);
    return KELPIE_OK;
}

enum kelpie_status vm_owned_fork(struct kelpie_vm *vm, const struct kelpie_fork_options *options,
                                 size_t count, struct kelpie_fork_child *children,
                                 struct kelpie_error *err) {
    ASSERT(count > 0 && count <= KELPIE_FORK_COUNT_MAX);
    ASSERT(options && children);
    struct host_wait wait;
    AUTO_MEM void *names = host_allocate(vm->host, count * (KELPIE_NAME_SIZE_MAX + 1), err);
    if (!names) {
        return KELPIE_NO_MEMORY;
    }
    AUTO_MEM void *errors = host_allocate(vm->host, count * sizeof(struct kelpie_error), err);
    if (!errors) {
        return KELPIE_NO_MEMORY;
    }
    struct backend_offspring offspring = {count, names, errors};
    /* Each child has its own time; so many are made at once. */
    uint64_t rounds = 1 + (count + VM_FORK_THREAD_COUNT_MAX - 1) / VM_FORK_THREAD_COUNT_MAX;
    TRY(request_begin(vm, rounds * vm_snapshot_timeout(options->timeout_ms), &wait, err));
    enum kelpie_status status = vm->ops->owner->fork(vm->instance, options, &offspring, &wait, err);
    TRY(request_end(vm, status, 0));
    for (size_t i = 0; i < count; i++) {
        children[i] = (struct kelpie_fork_child){.error = offspring.errors[i]};
        if (offspring.names[i][0] != '\0') {
            offspring.names[i][KELPIE_NAME_SIZE_MAX] = '\0';
            status = open_child(vm, offspring.names[i], &children[i].vm, &children[i].error);
            ASSERT((status == KELPIE_OK) == (children[i].vm != NULL));
        }
    }
    return KELPIE_OK;
}

/* ---- Detached commands -------------------------------------------------------------------------- */

enum kelpie_status kelpie_vm_run_detached(struct kelpie_vm *vm,
                                          const struct kelpie_command *command,
                                          uint32_t *ret_exec_id, struct kelpie_error *err) {
    vm_check(vm);
    ASSERT(command);
    ASSERT(ret_exec_id);
    struct host_wait wait;
    if (command->stdin_size > 0) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "stdin_size",
                               "stdin_data is for kelpie_vm_exec: set stdin_open and attach");
    }
    TRY(vm_command_check(vm->config, command, err));
    if (!vm_is_owned(vm)) {
        return error_set(err, KELPIE_UNSUPPORTED,
                         "a VM of this process has no owner that would run a command for it");
    }
    TRY(request_begin(vm, vm->config->operation_timeout_ms, &wait, err));
    return request_end(
        vm, vm->ops->owner->run_detached(vm->instance, command, ret_exec_id, &wait, err), 0);
}

enum kelpie_status kelpie_vm_wait_detached(struct kelpie_vm *vm, uint32_t timeout_ms,
                                           struct kelpie_exit *ret_exit, struct kelpie_error *err) {
    vm_check(vm);
    ASSERT(ret_exit);
    struct host_wait wait;
    TRY(vm_check_timeout("timeout_ms", timeout_ms, err));
    if (!vm_is_owned(vm)) {
        return error_set(err, KELPIE_UNSUPPORTED, "a VM of this process has no detached command");
    }
    TRY(request_begin(vm, 0, &wait, err));
    if (timeout_ms != 0) { /* the wait is ours: nothing has to be undone when it is over */
        wait = host_wait_ms(vm->host, timeout_ms, vm->cancel_event);
    }
    return request_end(vm, vm->ops->owner->wait_detached(vm->instance, ret_exit, &wait, err), 0);
}
