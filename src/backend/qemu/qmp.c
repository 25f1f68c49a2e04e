/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "backend/qemu/qmp.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"

struct qmp {
    struct host *host;
    int fd;
    int reply_event; /* set while `replied` or `broken` */
    struct host_mutex *mutex;
    uint64_t last_id; /* of the newest command; touched by the executing thread only */

    /* Under the mutex. */
    char *line; /* QEMU_QMP_LINE_SIZE_MAX bytes: what came and is no whole line yet */
    size_t line_size;
    uint64_t awaited_id; /* 0: none */
    bool replied;
    bool greeted;
    bool broken;
    struct kelpie_error broken_error;
    struct qmp_message reply;
    struct qmp_events events;
};

static void qmp_check(const struct qmp *qmp) {
    ASSERT(qmp);
    ASSERT(qmp->fd >= 0 && qmp->reply_event >= 0);
    ASSERT(qmp->line && qmp->mutex);
}

/* ---- One message ------------------------------------------------------------------------------ */

static void text_copy(char *to, size_t size, const json_t *value) {
    ASSERT(to);
    ASSERT(size > 0);
    const char *text = json_string_value(value);
    snprintf(to, size, "%s", text ? text : "");
}

static bool parse_object(json_t *root, struct qmp_message *message) {
    ASSERT(json_is_object(root));
    ASSERT(!message->data);
    json_t *id = json_object_get(root, "id");
    json_t *event = json_object_get(root, "event");
    json_t *error = json_object_get(root, "error");
    json_t *data = json_object_get(root, "return");
    if (json_is_integer(id) && json_integer_value(id) > 0) {
        message->has_id = true;
        message->id = (uint64_t)json_integer_value(id);
    }
    if (json_is_object(json_object_get(root, "QMP"))) {
        message->kind = QMP_GREETING;
    } else if (json_is_string(event)) {
        message->kind = QMP_EVENT;
        text_copy(message->name, sizeof(message->name), event);
        text_copy(message->text, sizeof(message->text),
                  json_object_get(json_object_get(root, "data"), "reason"));
    } else if (json_is_object(error)) {
        message->kind = QMP_ERROR;
        text_copy(message->name, sizeof(message->name), json_object_get(error, "class"));
        text_copy(message->text, sizeof(message->text), json_object_get(error, "desc"));
    } else if (data) {
        message->kind = QMP_RETURN;
        message->data = json_incref(data);
    } else {
        return false;
    }
    return true;
}

bool qmp_parse(const char *line, size_t size, struct qmp_message *ret_message) {
    ASSERT(line || size == 0);
    ASSERT(size <= QEMU_QMP_LINE_SIZE_MAX);
    json_t *root = size == 0 ? NULL : json_loadb(line, size, JSON_REJECT_DUPLICATES, NULL);
    struct qmp_message message = {0};
    bool good = json_is_object(root) && parse_object(root, &message);
    json_decref(root);
    if (good) {
        *ret_message = message;
    }
    return good;
}

void qmp_message_deinit(struct qmp_message *message) {
    ASSERT(message);
    json_decref(message->data);
    *message = (struct qmp_message){0};
}

/* ---- Reading, under the mutex ----------------------------------------------------------------- */

static void qmp_break(struct qmp *qmp, const struct kelpie_error *error) {
    qmp_check(qmp);
    ASSERT(error->status != KELPIE_OK);
    if (!qmp->broken) {
        qmp->broken = true;
        qmp->broken_error = *error;
        host_event_set(qmp->host, qmp->reply_event);
    }
}

static void qmp_break_protocol(struct qmp *qmp, const char *what) {
    qmp_check(qmp);
    ASSERT(what);
    struct kelpie_error error;
    (void)error_set(&error, KELPIE_INTERNAL, "QEMU's control channel: %s", what);
    qmp_break(qmp, &error);
}

static void take_event(struct qmp *qmp, const struct qmp_message *message) {
    qmp_check(qmp);
    ASSERT(message->kind == QMP_EVENT);
    if (strcmp(message->name, "SHUTDOWN") == 0) {
        qmp->events.shutdown = true;
        snprintf(qmp->events.shutdown_reason, sizeof(qmp->events.shutdown_reason), "%.63s",
                 message->text);
    }
}

/* Takes the message over. */
static void take_reply(struct qmp *qmp, struct qmp_message *message) {
    qmp_check(qmp);
    ASSERT(message->kind == QMP_RETURN || message->kind == QMP_ERROR);
    bool stale = message->has_id && message->id <= qmp->last_id && message->id != qmp->awaited_id;
    if (message->has_id && message->id == qmp->awaited_id && !qmp->replied) {
        qmp->reply = *message;
        qmp->replied = true;
        host_event_set(qmp->host, qmp->reply_event);
        return;
    }
    qmp_message_deinit(message);
    if (!stale) {
        qmp_break_protocol(qmp, "an answer to a question that was not asked");
    }
}

static void take_line(struct qmp *qmp, const char *line, size_t size) {
    qmp_check(qmp);
    ASSERT(size <= QEMU_QMP_LINE_SIZE_MAX);
    struct qmp_message message = {0};
    if (!qmp_parse(line, size, &message)) {
        qmp_break_protocol(qmp, "a line that is no QMP message");
        return;
    }
    switch (message.kind) {
    case QMP_GREETING:
        if (qmp->greeted) {
            qmp_break_protocol(qmp, "a second greeting");
        }
        qmp->greeted = true;
        host_event_set(qmp->host, qmp->reply_event);
        break;
    case QMP_EVENT:
        take_event(qmp, &message);
        break;
    case QMP_RETURN:
    case QMP_ERROR:
        take_reply(qmp, &message);
        break;
    default:
        UNREACHABLE();
    }
}

/* Takes every whole line out of the buffer. */
static void take_lines(struct qmp *qmp) {
    qmp_check(qmp);
    ASSERT(qmp->line_size <= QEMU_QMP_LINE_SIZE_MAX);
    size_t start = 0;
    while (start < qmp->line_size && !qmp->broken) {
        const char *end = memchr(qmp->line + start, '\n', qmp->line_size - start);
        if (!end) {
            break;
        }
        size_t size = (size_t)(end - (qmp->line + start));
        bool has_return = size > 0 && end[-1] == '\r';
        take_line(qmp, qmp->line + start, size - has_return);
        start += size + 1;
    }
    qmp->line_size -= start;
    memmove(qmp->line, qmp->line + start, qmp->line_size);
    if (qmp->line_size == QEMU_QMP_LINE_SIZE_MAX) {
        qmp_break_protocol(qmp, "a line that is too long");
    }
}

/* Reads what is there, but not for ever. */
static void qmp_pump(struct qmp *qmp) {
    qmp_check(qmp);
    const struct host_wait no_wait = host_wait_none();
    for (size_t i = 0; i < QEMU_QMP_READ_COUNT_MAX && !qmp->broken; i++) {
        ASSERT(qmp->line_size < QEMU_QMP_LINE_SIZE_MAX);
        struct kelpie_error error;
        size_t count = 0;
        enum kelpie_status status =
            host_read(qmp->host, qmp->fd, qmp->line + qmp->line_size,
                      QEMU_QMP_LINE_SIZE_MAX - qmp->line_size, &no_wait, &count, &error);
        if (status == KELPIE_TIMED_OUT) {
            return;
        }
        if (status != KELPIE_OK) {
            qmp_break(qmp, &error);
            return;
        }
        if (count == 0) {
            (void)error_set(&error, KELPIE_CRASHED, "QEMU closed its control channel");
            qmp_break(qmp, &error);
            return;
        }
        qmp->line_size += count;
        take_lines(qmp);
    }
}

void qmp_service(struct qmp *qmp) {
    qmp_check(qmp);
    host_mutex_lock(qmp->mutex);
    qmp_pump(qmp);
    host_mutex_unlock(qmp->mutex);
}

/* ---- Commands --------------------------------------------------------------------------------- */

/* Reads until `flag` (replied or greeted, guarded by the mutex) is set. */
static enum kelpie_status qmp_await(struct qmp *qmp, const bool *flag, const struct host_wait *wait,
                                    struct kelpie_error *err) {
    qmp_check(qmp);
    ASSERT(flag && wait);
    for (;;) {
        host_mutex_lock(qmp->mutex);
        host_event_clear(qmp->host, qmp->reply_event);
        qmp_pump(qmp);
        bool done = *flag;
        bool broken = qmp->broken;
        host_mutex_unlock(qmp->mutex);
        if (done) {
            return KELPIE_OK;
        }
        if (broken) {
            if (err) {
                *err = qmp->broken_error;
            }
            return qmp->broken_error.status;
        }
        if (host_monotonic_ns(qmp->host) >= wait->deadline_ns) {
            return error_set(err, KELPIE_TIMED_OUT, "QEMU did not answer in time");
        }
        struct host_poll_item items[] = {
            {.fd = qmp->fd, .asked = HOST_POLL_READ},
            {.fd = qmp->reply_event, .asked = HOST_POLL_READ},
        };
        TRY(host_poll(qmp->host, items, ARRAY_SIZE(items), wait, err));
    }
}

static enum kelpie_status qmp_send(struct qmp *qmp, const char *text, int passed_fd,
                                   const struct host_wait *wait, struct kelpie_error *err) {
    qmp_check(qmp);
    ASSERT(text);
    size_t size = strlen(text);
    struct kelpie_error error;
    enum kelpie_status status =
        passed_fd == HOST_FD_NONE
            ? host_write_all(qmp->host, qmp->fd, text, size, wait, &error)
            : host_socket_send_fd(qmp->host, qmp->fd, text, size, passed_fd, &error);
    if (status == KELPIE_OK) {
        return KELPIE_OK;
    }
    /* Half a command may be on its way, and then nothing more can be said on this connection; of one with a descriptor
     * nothing is. What QEMU said before it went away is still read by the caller, which finds the end of the stream. */
    bool is_io = status == KELPIE_IO_FAILED;
    bool is_end = is_io && (error.os_error == EPIPE || error.os_error == ECONNRESET);
    bool nothing_sent = is_io && !is_end && passed_fd != HOST_FD_NONE;
    (void)error_wrap(&error, is_io && !nothing_sent ? KELPIE_CRASHED : status,
                     "cannot speak to QEMU");
    if (!nothing_sent) {
        host_mutex_lock(qmp->mutex);
        qmp_break(qmp, &error);
        host_mutex_unlock(qmp->mutex);
    }
    if (err) {
        *err = error;
    }
    return error.status;
}

/* The command as a line, for free(); NULL: no memory. Takes over the arguments. */
static char *command_encode(struct host *host, const struct qmp_command *command, uint64_t id) {
    ASSERT(command->name);
    ASSERT(id > 0);
    json_t *root = command->arguments
                       ? json_pack("{s:s, s:o, s:I}", "execute", command->name, "arguments",
                                   command->arguments, "id", (json_int_t)id)
                       : json_pack("{s:s, s:I}", "execute", command->name, "id", (json_int_t)id);
    size_t size = root ? json_dumpb(root, NULL, 0, JSON_COMPACT) : 0;
    char *line = size > 0 ? host_allocate(host, size + 2, NULL) : NULL;
    if (line) {
        size_t written = json_dumpb(root, line, size, JSON_COMPACT);
        ASSERT(written == size);
        line[size] = '\n';
    }
    json_decref(root);
    return line;
}

static enum kelpie_status reply_take(struct qmp *qmp, const char *name, json_t **ret_data,
                                     struct kelpie_error *err) {
    qmp_check(qmp);
    ASSERT(qmp->replied);
    struct qmp_message reply = qmp->reply;
    qmp->reply = (struct qmp_message){0};
    enum kelpie_status status = KELPIE_OK;
    if (reply.kind == QMP_ERROR) {
        status = error_set(err, KELPIE_INTERNAL, "QEMU refused %s: %s", name, reply.text);
    } else if (ret_data) {
        *ret_data = TAKE(reply.data);
    }
    qmp_message_deinit(&reply);
    return status;
}

enum kelpie_status qmp_execute(struct qmp *qmp, const struct qmp_command *command,
                               const struct host_wait *wait, json_t **ret_data,
                               struct kelpie_error *err) {
    qmp_check(qmp);
    ASSERT(command->name);
    ASSERT(qmp->awaited_id == 0);
    AUTO_MEM char *line = command_encode(qmp->host, command, qmp->last_id + 1);
    if (!line) {
        return error_set(err, KELPIE_NO_MEMORY, "no memory for QEMU's command %s", command->name);
    }
    host_mutex_lock(qmp->mutex);
    qmp->last_id++;
    qmp->awaited_id = qmp->last_id;
    host_mutex_unlock(qmp->mutex);

    enum kelpie_status status = qmp_send(qmp, line, command->passed_fd, wait, err);
    if (status == KELPIE_OK) {
        status = qmp_await(qmp, &qmp->replied, wait, err);
    }
    host_mutex_lock(qmp->mutex);
    qmp->awaited_id = 0;
    if (status == KELPIE_OK) {
        status = reply_take(qmp, command->name, ret_data, err);
    }
    qmp_message_deinit(&qmp->reply);
    qmp->replied = false;
    host_mutex_unlock(qmp->mutex);
    return status;
}

enum kelpie_status qmp_greet(struct qmp *qmp, const struct host_wait *wait,
                             struct kelpie_error *err) {
    qmp_check(qmp);
    ASSERT(qmp->last_id == 0);
    TRY(qmp_await(qmp, &qmp->greeted, wait, err));
    const struct qmp_command command = {.name = "qmp_capabilities", .passed_fd = HOST_FD_NONE};
    return qmp_execute(qmp, &command, wait, NULL, err);
}

/* ---- The client ------------------------------------------------------------------------------- */

enum kelpie_status qmp_create(struct host *host, int fd, struct qmp **ret_qmp,
                              struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(fd >= 0);
    enum kelpie_status status = KELPIE_NO_MEMORY;
    struct qmp *qmp = host_allocate(host, sizeof(*qmp), err);
    if (!qmp) {
        host_close(host, fd);
        return status;
    }
    *qmp = (struct qmp){.host = host, .fd = fd, .reply_event = HOST_FD_NONE};
    qmp->line = host_allocate(host, QEMU_QMP_LINE_SIZE_MAX, err);
    if (!qmp->line) {
        goto fail;
    }
    status = host_mutex_create(host, &qmp->mutex, err);
    if (status != KELPIE_OK) {
        goto fail;
    }
    status = host_event_create(host, &qmp->reply_event, err);
    if (status != KELPIE_OK) {
        goto fail;
    }
    *ret_qmp = qmp;
    return KELPIE_OK;
fail:
    qmp_destroy(qmp);
    return status;
}

void qmp_destroy(struct qmp *qmp) {
    if (!qmp) {
        return;
    }
    ASSERT(qmp->awaited_id == 0);
    host_close(qmp->host, qmp->fd);
    host_close(qmp->host, qmp->reply_event);
    host_mutex_destroy(qmp->mutex);
    qmp_message_deinit(&qmp->reply);
    free(qmp->line);
    free(qmp);
}

int qmp_fd(struct qmp *qmp) {
    qmp_check(qmp);
    host_mutex_lock(qmp->mutex);
    int fd = qmp->broken ? HOST_FD_NONE : qmp->fd;
    host_mutex_unlock(qmp->mutex);
    return fd;
}

void qmp_events_get(struct qmp *qmp, struct qmp_events *ret_events) {
    qmp_check(qmp);
    ASSERT(ret_events);
    host_mutex_lock(qmp->mutex);
    *ret_events = qmp->events;
    host_mutex_unlock(qmp->mutex);
}
