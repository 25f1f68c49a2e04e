/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What the VM's state is, told and recorded. The theory is in owner.h. */
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "supervise/owner.h"

void owner_lock(struct owner *owner) {
    ASSERT(owner->mutex);
    host_mutex_lock(owner->mutex);
}

void owner_unlock(struct owner *owner) {
    ASSERT(owner->mutex);
    host_mutex_unlock(owner->mutex);
}

void owner_write_record(struct owner *owner) {
    ASSERT(owner->record);
    ASSERT(owner->place.store);
    struct kelpie_error ignored;
    (void)!store_vm_write(&owner->place, owner->record, &ignored);
}

enum kelpie_state owner_state(struct owner *owner) {
    ASSERT(owner->vm);
    ASSERT(owner->record);
    enum kelpie_state state = kelpie_vm_state(owner->vm);
    /* A VM that was adopted is what the record says until something is done with it. */
    if (state != KELPIE_STATE_CREATED) {
        owner->begun = true;
    }
    return owner->begun ? state : owner->record->info.state;
}

json_t *owner_state_message(struct owner *owner) {
    ASSERT(owner->record);
    ASSERT(owner->vm);
    const struct kelpie_vm_info *info = &owner->record->info;
    return json_pack("{s:s, s:i, s:s, s:i, s:i}", "event", "state", "state", (int)info->state,
                     "text", owner->exit_text[0] ? owner->exit_text : info->reason, "pid",
                     kelpie_vm_process_id(owner->vm), "live_shares",
                     (int)kelpie_vm_live_shares(owner->vm));
}

static bool is_up(enum kelpie_state state) {
    ASSERT(state < KELPIE_STATE_COUNT);
    return state == KELPIE_STATE_RUNNING || state == KELPIE_STATE_PAUSED;
}

/* True: it is another than it was. mutex held. */
static bool take_state(struct owner *owner) {
    struct kelpie_vm_info *info = &owner->record->info;
    enum kelpie_state before = info->state;
    enum kelpie_state now = owner_state(owner);
    ASSERT(now < KELPIE_STATE_COUNT);
    ASSERT(before < KELPIE_STATE_COUNT);
    if (now == before) {
        return false;
    }
    info->state = now;
    const uint64_t unix_ms = host_realtime_ns(owner->host) / HOST_NS_PER_MS;
    if (is_up(now) && !is_up(before)) {
        info->started_unix_ms = unix_ms;
        info->ended_unix_ms = 0;
        info->reason[0] = 0;
        owner->exit_text[0] = 0;
        owner->ended_ns = 0;
        owner
            ->machine_number++; /* before anybody is told that it runs: a channel is to one machine */
        owner->machine_counted = true;
    }
    if (now == KELPIE_STATE_STOPPED || now == KELPIE_STATE_CRASHED) {
        info->ended_unix_ms = unix_ms;
        owner->ended_ns = host_monotonic_ns(owner->host);
    }
    if (now == KELPIE_STATE_CRASHED) {
        vm_relay_exit_text(owner->vm, owner->exit_text, sizeof(owner->exit_text));
        snprintf(info->reason, sizeof(info->reason), "%.255s", owner->exit_text);
    }
    return true;
}

/* Both ends of a channel: one for a relay, one for the handle. */
static enum kelpie_status open_relay(struct owner *owner, struct connection *connection,
                                     json_t *message, int *ret_theirs, struct kelpie_error *err) {
    ASSERT(!connection->relay);
    ASSERT(ret_theirs);
    ASSERT(message);
    int fds[2];
    TRY(host_socket_pair(owner->host, fds, err));
    const struct vm_relay_options options = {
        .ids_first = vm_relay_ids(owner->vm),
        .ids_count = VM_RELAY_IDS_COUNT,
        .on_output = detached_output,
        .context = owner,
    };
    enum kelpie_status status = vm_relay_open(owner->vm, fds[0], &options, &connection->relay, err);
    if (status == KELPIE_OK &&
        (json_object_set_new(message, "ids_first", json_integer(options.ids_first)) != 0 ||
         json_object_set_new(message, "ids_count", json_integer(options.ids_count)) != 0)) {
        status = error_set(err, KELPIE_NO_MEMORY, "no memory for a channel");
    }
    if (status != KELPIE_OK) {
        host_close(owner->host, fds[1]);
        return status;
    }
    *ret_theirs = fds[1];
    return KELPIE_OK;
}

void owner_give_channel(struct owner *owner, struct connection *connection) {
    ASSERT(owner->vm);
    ASSERT(connection);
    ASSERT(owner->record);
    if (!connection->greeted || !is_up(owner->record->info.state) ||
        connection->machine_number == owner->machine_number) {
        return;
    }
    vm_relay_close(connection->relay);
    connection->relay = NULL;
    connection->machine_number = owner->machine_number;
    json_t *message = json_pack("{s:s, s:b, s:I}", "event", "channel", "fd", 1, "number",
                                (json_int_t)owner->machine_number);
    int theirs = HOST_FD_NONE;
    struct kelpie_error ignored;
    if (message && open_relay(owner, connection, message, &theirs, &ignored) != KELPIE_OK) {
        json_decref(message);
        return; /* the machine is gone already, or there is no memory: its end, or the next, is told */
    }
    connection_send(connection, message, theirs, SUPERVISE_TELL_MS);
    host_close(owner->host, theirs);
}

static void tell_all(struct owner *owner, bool state_changed) {
    ASSERT(owner->record);
    ASSERT(owner->vm);
    for (size_t i = 0; i < SUPERVISE_CONNECTION_COUNT_MAX; i++) {
        struct connection *connection = owner->connections[i];
        if (!connection || !connection->greeted) {
            continue;
        }
        if (state_changed) {
            connection_send(connection, owner_state_message(owner), HOST_FD_NONE,
                            SUPERVISE_TELL_MS);
        }
        owner_give_channel(owner, connection);
    }
}

/* mutex held. */
static void note_state(struct owner *owner, bool is_another) {
    ASSERT(owner);
    ASSERT(owner->mutex);
    bool changed = take_state(owner);
    if (is_another) {
        /* Nobody has looked between the end of the one before and this. */
        owner->machine_number += !owner->machine_counted;
        owner->machine_counted = false;
    }
    tell_all(owner, changed);
    if (changed) {
        owner_write_record(owner);
        host_event_set(owner->host, owner->stop_event);
    }
    host_condition_broadcast(owner->changed);
}

void owner_note_state(struct owner *owner) {
    ASSERT(owner);
    ASSERT(owner->mutex);
    owner_lock(owner);
    note_state(owner, false);
    owner_unlock(owner);
}

void owner_note_machine(struct owner *owner) {
    ASSERT(owner);
    owner_lock(owner);
    note_state(owner, true);
    ASSERT(owner->machine_number > 0);
    owner_unlock(owner);
}

void owner_watch(void *argument) {
    struct owner *owner = argument;
    ASSERT(owner->vm);
    ASSERT(owner->mutex);
    enum kelpie_state known = kelpie_vm_state(owner->vm);
    for (;;) { /* until the owner ends */
        owner_lock(owner);
        bool ending = owner->ending;
        if (ending) {
            owner->watched = true;
            host_condition_broadcast(owner->changed);
        }
        owner_unlock(owner);
        if (ending) {
            return;
        }
        const uint32_t others = ((1u << KELPIE_STATE_COUNT) - 1) & ~(1u << known);
        struct kelpie_error ignored;
        /* A cancel was another's; a time limit is only one. */
        if (kelpie_vm_wait(owner->vm, others, SUPERVISE_WATCH_MS, &known, &ignored) == KELPIE_OK) {
            owner_note_state(owner);
        }
    }
}
