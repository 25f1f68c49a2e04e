/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Requests, answers, and what an owner tells unasked. The theory is in remote_instance.h. */
#include <stdio.h>
#include <string.h>

#include "backend/remote/remote_instance.h"
#include "base/assert.h"
#include "base/cleanup.h"

/* ---- What comes ---------------------------------------------------------------------------------- */

/* mutex held. */
static void lose(struct backend_instance *instance, const char *why) {
    ASSERT(instance->host);
    ASSERT(why);
    if (!instance->gone) {
        instance->gone = true;
        instance->state.state = KELPIE_STATE_CRASHED;
        snprintf(instance->state.exit_text, sizeof(instance->state.exit_text), "%s", why);
    }
    host_condition_broadcast(instance->changed);
}

void remote_lose(struct backend_instance *instance, const char *why) {
    ASSERT(instance->mutex);
    ASSERT(why);
    host_mutex_lock(instance->mutex);
    lose(instance, why);
    host_mutex_unlock(instance->mutex);
}

static bool take_state(struct backend_instance *instance, const json_t *json) {
    uint64_t state = control_number(json, "state");
    uint64_t process_id = control_number(json, "pid");
    ASSERT(instance->mutex);
    ASSERT(json);
    uint64_t live_shares = control_number(json, "live_shares");
    if (state >= KELPIE_STATE_COUNT || process_id > INT32_MAX ||
        live_shares >> KELPIE_SHARE_COUNT_MAX != 0) {
        return false;
    }
    host_mutex_lock(instance->mutex);
    instance->state.state = (enum kelpie_state)state;
    instance->state.live_shares = (uint32_t)live_shares;
    instance->process_id = (int)process_id;
    snprintf(instance->state.exit_text, sizeof(instance->state.exit_text), "%.500s",
             control_text(json, "text"));
    host_mutex_unlock(instance->mutex);
    return true;
}

static bool take_channel(struct backend_instance *instance, struct control_message *message) {
    uint64_t number = control_number(message->json, "number");
    uint64_t first = control_number(message->json, "ids_first");
    uint64_t count = control_number(message->json, "ids_count");
    ASSERT(instance->mutex);
    ASSERT(message->json);
    if (number == 0 || first == 0 || count == 0 || first + count > UINT32_MAX ||
        message->fd == HOST_FD_NONE) {
        return false;
    }
    host_mutex_lock(instance->mutex);
    host_close(instance->host, instance->channel_fd);
    instance->channel_fd = message->fd;
    message->fd = HOST_FD_NONE;
    instance->state.channel_number = number;
    instance->state.ids_first = (uint32_t)first;
    instance->state.ids_count = (uint32_t)count;
    host_mutex_unlock(instance->mutex);
    return true;
}

/* Nobody may wait for it any more: then it stays the message's, and is dropped with it. */
static bool take_answer(struct backend_instance *instance, struct control_message *message) {
    uint64_t id = control_number(message->json, "id");
    ASSERT(instance->mutex);
    ASSERT(message->json);
    host_mutex_lock(instance->mutex);
    for (struct remote_pending *pending = instance->pending; pending; pending = pending->next) {
        if (pending->id == id && !pending->answer) {
            pending->answer = TAKE(message->json);
            break; /* a number is given once */
        }
    }
    host_condition_broadcast(instance->changed);
    host_mutex_unlock(instance->mutex);
    return true;
}

bool remote_take(struct backend_instance *instance, struct control_message *message) {
    const char *event = control_text(message->json, "event");
    ASSERT(instance);
    ASSERT(message->json);
    if (strcmp(event, "state") == 0) {
        return take_state(instance, message->json);
    }
    if (strcmp(event, "channel") == 0) {
        return take_channel(instance, message);
    }
    return event[0] != 0 || take_answer(instance, message);
}

/* Takes every whole message out of the reader. False: what the owner says is wrong. */
static bool take_all(struct backend_instance *instance) {
    ASSERT(instance);
    ASSERT(instance->reader.host);
    bool found = true;
    while (found) {
        struct control_message message = {.fd = HOST_FD_NONE};
        struct kelpie_error ignored;
        if (control_reader_next(&instance->reader, &message, &found, &ignored) != KELPIE_OK) {
            return false;
        }
        bool good = !found || remote_take(instance, &message);
        control_message_clear(instance->host, &message);
        if (!good) {
            return false;
        }
    }
    return true;
}

void remote_service(struct backend_instance *instance) {
    struct host_wait none = host_wait_none();
    struct kelpie_error err;
    bool ended = false;
    ASSERT(instance->fd != HOST_FD_NONE);
    ASSERT(instance->mutex);
    enum kelpie_status status = control_reader_fill(&instance->reader, &none, &ended, &err);
    if (status == KELPIE_TIMED_OUT) {
        return;
    }
    /* What it said before it went counts. */
    if (!take_all(instance)) {
        remote_lose(instance, "the VM's owner says what cannot be");
    } else if (status != KELPIE_OK || ended) {
        remote_lose(instance, "the VM's owner is gone");
    }
}

/* ---- Asking -------------------------------------------------------------------------------------- */

enum kelpie_status remote_outcome(const json_t *answer, struct kelpie_error *err) {
    const json_t *error = json_object_get(answer, "error");
    struct kelpie_error theirs = {0};
    ASSERT(answer);
    if (!error) {
        return error_set(err, KELPIE_INTERNAL, "the VM's owner did not say what came of it");
    }
    TRY(store_json_to(STORE_JSON_ERROR, error, &theirs, err));
    ASSERT(theirs.status < KELPIE_STATUS_COUNT);
    if (theirs.status != KELPIE_OK && err) {
        *err = theirs;
    }
    return theirs.status;
}

static enum kelpie_status gone(struct backend_instance *instance, const char *op,
                               struct kelpie_error *err) {
    ASSERT(instance->gone);
    ASSERT(op);
    error_set(err, KELPIE_CRASHED, "%s: %s", op, instance->state.exit_text);
    if (err) {
        err->requires_recreate = true;
    }
    return KELPIE_CRASHED;
}

/* mutex held: so that messages go out whole. */
static enum kelpie_status say(struct backend_instance *instance, json_t *json,
                              struct kelpie_error *err) {
    ASSERT(instance->fd != HOST_FD_NONE);
    ASSERT(instance->mutex);
    if (!json) {
        return error_set(err, KELPIE_NO_MEMORY, "no memory for a request");
    }
    struct host_wait wait = host_wait_ms(instance->host, REMOTE_SEND_MS, HOST_FD_NONE);
    enum kelpie_status status =
        control_send(instance->host, instance->fd, json, HOST_FD_NONE, &wait, err);
    json_decref(json);
    if (status != KELPIE_OK && status != KELPIE_NO_MEMORY && status != KELPIE_BAD_CONFIG) {
        /* A part of it may have gone out: nothing that is said behind it would be understood. */
        lose(instance, "the VM's owner cannot be spoken to");
    }
    return status;
}

static bool is_cancelled(struct backend_instance *instance, const struct host_wait *wait) {
    ASSERT(instance);
    ASSERT(wait);
    if (wait->cancel_fd == HOST_FD_NONE) {
        return false;
    }
    struct host_poll_item item = {.fd = wait->cancel_fd, .asked = HOST_POLL_READ};
    struct host_wait none = host_wait_none();
    struct kelpie_error ignored;
    return host_poll(instance->host, &item, 1, &none, &ignored) == KELPIE_OK && item.ready;
}

/* Until the answer is there, the owner is gone, the time is over, or the caller has cancelled. mutex held. */
static enum kelpie_status await(struct backend_instance *instance,
                                const struct remote_pending *pending, const char *op,
                                const struct host_wait *wait, struct kelpie_error *err) {
    ASSERT(pending);
    ASSERT(wait);
    while (!pending->answer) {
        if (instance->gone) {
            return gone(instance, op, err);
        }
        if (is_cancelled(instance, wait)) {
            return error_set(err, KELPIE_CANCELLED, "%s was cancelled", op);
        }
        uint64_t now_ns = host_monotonic_ns(instance->host);
        if (now_ns >= wait->deadline_ns) {
            return error_set(err, KELPIE_TIMED_OUT, "%s: the VM's owner did not answer in time",
                             op);
        }
        uint64_t slice_ns = now_ns + REMOTE_CANCEL_PERIOD_MS * HOST_NS_PER_MS;
        host_condition_wait(instance->changed, instance->mutex,
                            slice_ns < wait->deadline_ns ? slice_ns : wait->deadline_ns);
    }
    return KELPIE_OK;
}

/* Waits for the answer; of a request that is given up the owner is told, and what it says then counts. mutex held. */
static enum kelpie_status await_or_cancel(struct backend_instance *instance,
                                          struct remote_pending *pending, const char *op,
                                          const struct host_wait *wait, struct kelpie_error *err) {
    ASSERT(pending->id != 0);
    ASSERT(wait);
    struct kelpie_error why;
    enum kelpie_status status = await(instance, pending, op, wait, &why);
    if (status == KELPIE_CANCELLED || status == KELPIE_TIMED_OUT) {
        struct kelpie_error ignored;
        struct host_wait rest = host_wait_ms(instance->host, REMOTE_CANCEL_MS, HOST_FD_NONE);
        (void)!say(instance,
                   json_pack("{s:s, s:I}", "op", "cancel", "target", (json_int_t)pending->id),
                   &ignored);
        if (await(instance, pending, op, &rest, &ignored) == KELPIE_OK) {
            bool by_us = remote_outcome(pending->answer, &ignored) == KELPIE_CANCELLED;
            status = by_us ? status : KELPIE_OK;
        }
    }
    if (status != KELPIE_OK && err) {
        *err = why;
    }
    return status;
}

static void forget(struct backend_instance *instance, const struct remote_pending *pending) {
    struct remote_pending **place = &instance->pending;
    ASSERT(pending);
    while (*place != pending) {
        ASSERT(*place);
        place = &(*place)->next;
    }
    *place = pending->next;
}

enum kelpie_status remote_ask(struct backend_instance *instance, const char *op, json_t *members,
                              const struct host_wait *wait, json_t **ret_answer,
                              struct kelpie_error *err) {
    ASSERT(op);
    ASSERT(wait);
    host_mutex_lock(instance->mutex);
    struct remote_pending pending = {.id = ++instance->id_last, .next = instance->pending};
    instance->pending = &pending;
    enum kelpie_status status = instance->gone ? gone(instance, op, err) : KELPIE_OK;
    if (status == KELPIE_OK &&
        (!members || json_object_set_new(members, "op", json_string(op)) != 0 ||
         json_object_set_new(members, "id", json_integer((json_int_t)pending.id)) != 0)) {
        status = error_set(err, KELPIE_NO_MEMORY, "no memory for a request");
    }
    if (status == KELPIE_OK) {
        status = say(instance, json_incref(members), err);
    }
    if (status == KELPIE_OK) {
        status = await_or_cancel(instance, &pending, op, wait, err);
    }
    forget(instance, &pending);
    host_mutex_unlock(instance->mutex);
    json_decref(members);
    if (status == KELPIE_OK) {
        status = remote_outcome(pending.answer, err);
    }
    if (status == KELPIE_OK && ret_answer) {
        *ret_answer = json_incref(pending.answer);
    }
    json_decref(pending.answer);
    return status;
}

void remote_end(struct backend_instance *instance) {
    struct host_wait wait = host_wait_ms(instance->host, REMOTE_END_MS, HOST_FD_NONE);
    struct kelpie_error ignored;
    ASSERT(instance->fd != HOST_FD_NONE);
    ASSERT(!instance->pending);
    host_mutex_lock(instance->mutex);
    bool told = !instance->gone &&
                say(instance, json_pack("{s:s, s:i}", "op", "end", "id", 0), &ignored) == KELPIE_OK;
    host_mutex_unlock(instance->mutex);
    bool ended = !told;
    while (!ended) {
        if (control_reader_fill(&instance->reader, &wait, &ended, &ignored) != KELPIE_OK ||
            !take_all(instance)) {
            return;
        }
    }
}
