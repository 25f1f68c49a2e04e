/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* One handle's connection: its reader, and what is sent to it. The theory is in owner.h. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "supervise/owner.h"

/* ---- Sending ----------------------------------------------------------------------------------- */

void connection_send(struct connection *connection, json_t *json, int passed_fd,
                     uint32_t timeout_ms) {
    ASSERT(connection->owner);
    ASSERT(timeout_ms > 0);
    struct host *host = connection->owner->host;
    struct kelpie_error ignored;
    host_mutex_lock(connection->send_mutex);
    if (!connection->gone) {
        struct host_wait wait = host_wait_ms(host, timeout_ms, connection->stop_event);
        connection->gone = !json || control_send(host, connection->fd, json, passed_fd, &wait,
                                                 &ignored) != KELPIE_OK;
        if (connection->gone) {
            host_event_set(host, connection->stop_event);
        }
    }
    host_mutex_unlock(connection->send_mutex);
    json_decref(json);
}

json_t *connection_welcome(struct owner *owner, uint64_t id) {
    ASSERT(owner->record);
    ASSERT(owner->vm);
    json_t *config = NULL;
    struct kelpie_error err = {0};
    struct kelpie_config shown = *kelpie_vm_config(owner->vm);
    shown.owner = owner->record->config->config.owner;
    if (store_json_config(&shown, &config, &err) != KELPIE_OK) {
        return request_answer(id, &err);
    }
    json_t *answer = request_answer(id, &(struct kelpie_error){.status = KELPIE_OK});
    if (!answer ||
        json_object_update_new(
            answer, json_pack("{s:i, s:s, s:s, s:s, s:I, s:o}", "version", CONTROL_VERSION, "name",
                              owner->record->info.name, "vm_id", owner->record->info.id, "backend",
                              kelpie_vm_backend(owner->vm), "capabilities",
                              (json_int_t)kelpie_vm_capabilities(owner->vm), "config", config)) !=
            0) {
        json_decref(answer);
        return NULL;
    }
    return answer;
}

static bool is_greeted(struct connection *connection) {
    ASSERT(connection->owner);
    ASSERT(connection->fd != HOST_FD_NONE);
    owner_lock(connection->owner);
    bool greeted = connection->greeted;
    owner_unlock(connection->owner);
    return greeted;
}

void connection_greeted(struct connection *connection) {
    struct owner *owner = connection->owner;
    ASSERT(owner);
    ASSERT(owner->vm);
    owner_lock(owner);
    /* A maker that also says hello at once may be greeted by its reader and by the main thread. */
    if (!connection->greeted) {
        connection->greeted = true;
        connection_send(connection, owner_state_message(owner), HOST_FD_NONE, SUPERVISE_TELL_MS);
        owner_give_channel(owner, connection);
        connection_send(connection, json_pack("{s:s}", "event", "ready"), HOST_FD_NONE,
                        SUPERVISE_TELL_MS);
    }
    owner_unlock(owner);
}

/* ---- Requests ---------------------------------------------------------------------------------- */

static void request_free(struct request *request) {
    ASSERT(request->finished);
    ASSERT(request->json);
    host_thread_join(request->thread);
    json_decref(request->json);
    free(request);
}

/* Forgets those that were answered. Returns a free place; NULL: there is none. */
static struct request **requests_collect(struct connection *connection) {
    struct owner *owner = connection->owner;
    struct request **place = NULL;
    ASSERT(owner);
    ASSERT(is_greeted(connection));
    for (size_t i = 0; i < SUPERVISE_REQUEST_COUNT_MAX; i++) {
        struct request *request = connection->requests[i];
        owner_lock(owner);
        bool finished = request && request->finished;
        if (finished) {
            connection->requests[i] = NULL;
        }
        owner_unlock(owner);
        if (finished) {
            request_free(request);
        }
        place = connection->requests[i] ? place : &connection->requests[i];
    }
    return place;
}

static void refuse(struct connection *connection, uint64_t id, const struct kelpie_error *err) {
    ASSERT(connection);
    ASSERT(err->status != KELPIE_OK);
    connection_send(connection, request_answer(id, err), HOST_FD_NONE, SUPERVISE_SEND_MS);
}

static enum kelpie_status request_begin(struct connection *connection, json_t *json,
                                        struct kelpie_error *err) {
    struct owner *owner = connection->owner;
    ASSERT(owner);
    ASSERT(json);
    struct request **place = requests_collect(connection);
    if (!place) {
        return error_set(err, KELPIE_BUSY, "this handle has %d requests under way already",
                         SUPERVISE_REQUEST_COUNT_MAX);
    }
    struct request *request = host_allocate(owner->host, sizeof(*request), err);
    if (!request) {
        return KELPIE_NO_MEMORY;
    }
    request->connection = connection;
    request->id = control_number(json, "id");
    request->json = json_incref(json);
    owner_lock(owner);
    *place = request;
    owner_unlock(owner);
    enum kelpie_status status = host_thread_start(owner->host, "kelpie-request", request_main,
                                                  request, &request->thread, err);
    if (status != KELPIE_OK) {
        owner_lock(owner);
        *place = NULL;
        owner_unlock(owner);
        json_decref(request->json);
        free(request);
    }
    return status;
}

/* What waits for nothing else ends soon; a library call that is under way is cancelled. mutex held. */
static void request_cancel(struct request *request) {
    struct owner *owner = request->connection->owner;
    ASSERT(owner);
    ASSERT(request);
    request->cancelled = true;
    if (owner->operating == request && !request->finished) {
        kelpie_vm_cancel(owner->vm);
    }
    host_condition_broadcast(owner->changed);
}

static void cancel_by_id(struct connection *connection, uint64_t id) {
    struct owner *owner = connection->owner;
    ASSERT(owner);
    ASSERT(is_greeted(connection));
    owner_lock(owner);
    for (size_t i = 0; i < SUPERVISE_REQUEST_COUNT_MAX; i++) {
        struct request *request = connection->requests[i];
        if (request && request->id == id) {
            request_cancel(request);
        }
    }
    owner_unlock(owner);
}

/* What a handle left behind when it went: its operation goes on, as it was asked for; only waits end. */
static void requests_end(struct connection *connection) {
    struct owner *owner = connection->owner;
    ASSERT(owner);
    ASSERT(connection->send_mutex);
    for (size_t i = 0; i < SUPERVISE_REQUEST_COUNT_MAX; i++) {
        owner_lock(owner);
        struct request *request = connection->requests[i];
        connection->requests[i] = NULL;
        if (request) {
            request->cancelled |= owner->operating != request;
            host_condition_broadcast(owner->changed);
        }
        while (request && !request->finished) {
            host_condition_wait(owner->changed, owner->mutex, UINT64_MAX);
        }
        owner_unlock(owner);
        if (request) {
            request_free(request);
        }
    }
}

/* ---- The reader -------------------------------------------------------------------------------- */

static enum kelpie_status greet(struct connection *connection, const json_t *json,
                                struct kelpie_error *err) {
    struct owner *owner = connection->owner;
    ASSERT(owner);
    ASSERT(json);
    uint64_t version = control_number(json, "version");
    if (strcmp(control_text(json, "op"), "hello") != 0 || version != CONTROL_VERSION) {
        return error_set(err, KELPIE_INTERNAL,
                         "the owner of this VM speaks version %d of kelpie's control protocol, and "
                         "not %llu",
                         CONTROL_VERSION, (unsigned long long)version);
    }
    owner_lock(owner);
    json_t *welcome = connection_welcome(owner, control_number(json, "id"));
    owner_unlock(owner);
    connection_send(connection, welcome, HOST_FD_NONE, SUPERVISE_SEND_MS);
    connection_greeted(connection);
    return KELPIE_OK;
}

/* False: the connection is over. */
static bool take_message(struct connection *connection, const struct control_message *message) {
    ASSERT(connection);
    ASSERT(message->json);
    struct kelpie_error err = {0};
    uint64_t id = control_number(message->json, "id");
    enum kelpie_status status = KELPIE_OK;
    if (!is_greeted(connection)) {
        status = greet(connection, message->json, &err);
    } else if (strcmp(control_text(message->json, "op"), "cancel") == 0) {
        cancel_by_id(connection, control_number(message->json, "target"));
    } else {
        status = request_begin(connection, message->json, &err);
    }
    if (status != KELPIE_OK) {
        refuse(connection, id, &err);
    }
    return is_greeted(connection);
}

static enum kelpie_status read_messages(struct connection *connection, struct kelpie_error *err) {
    struct host *host = connection->owner->host;
    ASSERT(host);
    ASSERT(connection->fd != HOST_FD_NONE);
    for (;;) { /* until the handle goes, or the owner does */
        struct host_wait wait =
            host_wait_ms(host, is_greeted(connection) ? SUPERVISE_WATCH_MS : SUPERVISE_GREET_MS,
                         connection->stop_event);
        struct control_message message = {.fd = HOST_FD_NONE};
        enum kelpie_status status = control_receive(&connection->reader, &wait, &message, err);
        if (status == KELPIE_TIMED_OUT && is_greeted(connection)) {
            continue;
        }
        TRY(status);
        bool goes_on = take_message(connection, &message);
        control_message_clear(host, &message);
        if (!goes_on) {
            return error_set(err, KELPIE_INTERNAL, "the handle did not greet");
        }
    }
}

static void reader_main(void *argument) {
    struct connection *connection = argument;
    struct owner *owner = connection->owner;
    ASSERT(owner);
    ASSERT(connection->send_mutex);
    struct kelpie_error ignored;
    (void)!read_messages(connection, &ignored);
    host_mutex_lock(connection->send_mutex);
    connection->gone = true;
    host_mutex_unlock(connection->send_mutex);
    requests_end(connection);
    owner_lock(owner);
    connection->ended = true;
    owner_unlock(owner);
    host_event_set(owner->host, owner->stop_event);
}

/* ---- Opening and closing ------------------------------------------------------------------------ */

static void connection_free(struct connection *connection) {
    struct host *host = connection->owner->host;
    ASSERT(host);
    ASSERT(connection->fd != HOST_FD_NONE);
    control_reader_deinit(&connection->reader);
    host_mutex_destroy(connection->send_mutex);
    host_close(host, connection->stop_event);
    if (connection->owner->ending) {
        ASSERT(connection->owner->last_fd_count < SUPERVISE_CONNECTION_COUNT_MAX);
        connection->owner->last_fds[connection->owner->last_fd_count++] = connection->fd;
    } else {
        host_close(host, connection->fd);
    }
    free(connection);
}

static enum kelpie_status connection_init(struct connection *connection, struct kelpie_error *err) {
    struct host *host = connection->owner->host;
    ASSERT(connection->fd != HOST_FD_NONE);
    ASSERT(connection->owner);
    TRY(host_event_create(host, &connection->stop_event, err));
    TRY(host_mutex_create(host, &connection->send_mutex, err));
    struct owner *owner = connection->owner;
    owner_lock(owner);
    bool placed = false;
    for (size_t i = 0; i < SUPERVISE_CONNECTION_COUNT_MAX && !placed; i++) {
        if (!owner->connections[i]) {
            owner->connections[i] = connection;
            placed = true;
        }
    }
    owner_unlock(owner);
    return placed ? KELPIE_OK
                  : error_set(err, KELPIE_BUSY, "the VM has %d handles already",
                              SUPERVISE_CONNECTION_COUNT_MAX);
}

static void displace(struct connection *connection) {
    struct owner *owner = connection->owner;
    ASSERT(owner);
    ASSERT(owner->mutex);
    owner_lock(owner);
    for (size_t i = 0; i < SUPERVISE_CONNECTION_COUNT_MAX; i++) {
        if (owner->connections[i] == connection) {
            owner->connections[i] = NULL;
        }
    }
    owner->quiet_since_ns = host_monotonic_ns(owner->host);
    owner_unlock(owner);
}

enum kelpie_status connection_open(struct owner *owner, int fd, struct connection **ret_connection,
                                   struct kelpie_error *err) {
    ASSERT(owner);
    ASSERT(fd != HOST_FD_NONE);
    struct connection *connection = host_allocate(owner->host, sizeof(*connection), err);
    if (!connection) {
        host_close(owner->host, fd);
        return KELPIE_NO_MEMORY;
    }
    connection->owner = owner;
    connection->fd = fd;
    connection->stop_event = HOST_FD_NONE;
    control_reader_init(&connection->reader, owner->host, fd);
    enum kelpie_status status = connection_init(connection, err);
    if (status == KELPIE_OK) {
        status = host_thread_start(owner->host, "kelpie-handle", reader_main, connection,
                                   &connection->reader_thread, err);
    }
    if (status != KELPIE_OK) {
        displace(connection);
        connection_free(connection);
        return status;
    }
    *ret_connection = connection;
    return KELPIE_OK;
}

void connection_close(struct connection *connection) {
    ASSERT(connection);
    ASSERT(connection->owner);
    host_event_set(connection->owner->host, connection->stop_event);
    host_thread_join(connection->reader_thread);
    displace(connection);
    vm_relay_close(connection->relay);
    connection_free(connection);
}
