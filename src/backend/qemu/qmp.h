/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * qmp.h: a client of QEMU's machine protocol (QEMU, docs/interop/qmp-spec): JSON objects, one on a line.
 *
 * THEORY OF OPERATION
 *
 * One thread at a time executes commands; another may call qmp_service() at any moment. Both read the socket,
 * whichever comes first, without waiting and under one mutex that is held for that only; a reply found by the
 * service thread is announced by an event that the executing thread waits on beside the socket.
 *
 * QEMU is believed to be QEMU, and still nothing of what it says is trusted: lines are bounded, an answer must carry the
 * id of the command that waits for it, and anything else ends the connection for good (`broken`). Only the
 * answer to an older command, whose wait was over before it came, is dropped.
 */
#ifndef KELPIE_BACKEND_QEMU_QMP_H
#define KELPIE_BACKEND_QEMU_QMP_H

#include <jansson.h>

#include "backend/qemu/qemu_limits.h"
#include "host/host.h"

enum qmp_kind {
    QMP_GREETING = 0,
    QMP_RETURN,
    QMP_ERROR,
    QMP_EVENT,
};

/* One message. */
struct qmp_message {
    enum qmp_kind kind;
    bool has_id;
    uint64_t id;                           /* RETURN, ERROR */
    char name[QEMU_QMP_NAME_SIZE_MAX + 1]; /* EVENT: its name; ERROR: its class; cut if longer */
    char text[QEMU_QMP_TEXT_SIZE_MAX + 1]; /* ERROR: what went wrong; EVENT: data.reason, if any */
    json_t *data;                          /* RETURN: the value; NULL otherwise */
};

/* Parses one line. Pure. False: it is no QMP message. */
KELPIE_CHECKED bool qmp_parse(const char *line, size_t size, struct qmp_message *ret_message);
void qmp_message_deinit(struct qmp_message *message);

/* What QEMU told without being asked. */
struct qmp_events {
    bool shutdown;
    char shutdown_reason[QEMU_QMP_NAME_SIZE_MAX + 1]; /* "guest-reset", "guest-panic", … */
};

struct qmp;

/* Takes over fd, also on failure. Speaks to nobody yet. */
KELPIE_CHECKED enum kelpie_status qmp_create(struct host *host, int fd, struct qmp **ret_qmp,
                                             struct kelpie_error *err);
void qmp_destroy(struct qmp *qmp); /* NULL is allowed */

/* Waits for the greeting and enters command mode. */
KELPIE_CHECKED enum kelpie_status qmp_greet(struct qmp *qmp, const struct host_wait *wait,
                                            struct kelpie_error *err);

struct qmp_command {
    const char *name;
    json_t *arguments; /* taken over, also on failure; may be NULL */
    int passed_fd;     /* sent beside the command; HOST_FD_NONE: none */
};

/*
 * Executes a command and waits for its answer. ret_data may be NULL; what it gets is for json_decref().
 * Errors: CRASHED (QEMU ended the connection), INTERNAL (QEMU refused, or broke the protocol), TIMED_OUT,
 * CANCELLED, NO_MEMORY.
 */
KELPIE_CHECKED enum kelpie_status qmp_execute(struct qmp *qmp, const struct qmp_command *command,
                                              const struct host_wait *wait, json_t **ret_data,
                                              struct kelpie_error *err);

/* Reads what is there, without waiting. */
void qmp_service(struct qmp *qmp);

/* To be polled for reading; HOST_FD_NONE once the connection is broken. */
int qmp_fd(struct qmp *qmp);
void qmp_events_get(struct qmp *qmp, struct qmp_events *ret_events);

#endif
