/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * remote_instance.h: a handle's end of the connection to an owner, for the files of src/backend/remote/.
 *
 * THEORY OF OPERATION
 *
 * remote_connect.c finds the owner, or starts one, and greets it. From then on one thread reads the connection: the VM's
 * I/O thread, by service(). It takes states and channels as they are told, and gives answers to the requests that wait for them
 * (remote_request.c), which are sent by the threads of callers.
 *
 * An owner that is gone, or says what cannot be, is gone for good: the state is crashed, and every request has ended with that.
 */
#ifndef KELPIE_BACKEND_REMOTE_REMOTE_INSTANCE_H
#define KELPIE_BACKEND_REMOTE_REMOTE_INSTANCE_H

#include "backend/backend.h"
#include "backend/remote/remote_limits.h"
#include "supervise/control.h"

/* A request that waits, on its caller's stack. */
struct remote_pending {
    uint64_t id;
    json_t *answer; /* NULL: it has not come */
    struct remote_pending *next;
};

struct backend_instance {
    const struct backend_launch *launch;
    struct host *host;
    struct store_config *config; /* in force, as the owner has it */
    char name[KELPIE_NAME_SIZE_MAX + 1];
    char id[KELPIE_ID_SIZE];
    char backend[16];
    uint32_t capabilities;

    int fd;
    struct control_reader reader; /* the reading thread's, as is channel_fd */
    int channel_fd;

    struct host_mutex *mutex; /* of all that follows; sending is done with it */
    struct host_condition *changed;
    struct remote_pending *pending;
    uint64_t id_last;
    bool gone;
    struct backend_owned_state state;
    int process_id;
};

/* ---- remote_connect.c ------------------------------------------------------------------------- */

/* Makes a VM with an owner, or reaches the one that there is, as the launch says. */
KELPIE_CHECKED enum kelpie_status remote_connect(struct backend_instance *instance,
                                                 struct kelpie_error *err);

/* A path of this process's, absolute. */
KELPIE_CHECKED enum kelpie_status remote_absolute(struct host *host, const char *path,
                                                  char *absolute, size_t size,
                                                  struct kelpie_error *err);

/* ---- remote_request.c ------------------------------------------------------------------------- */

/* Takes what the owner has said. False: it is gone. */
bool remote_take(struct backend_instance *instance, struct control_message *message);

/* Nothing more comes from it. */
void remote_lose(struct backend_instance *instance, const char *why);

/* Reads what there is now. */
void remote_service(struct backend_instance *instance);

/* Asks, with members beside "op" and "id" (let go of; NULL: no memory), and waits for the answer: of one that is OK it is
 * handed out, the others are the error. */
KELPIE_CHECKED enum kelpie_status remote_ask(struct backend_instance *instance, const char *op,
                                             json_t *members, const struct host_wait *wait,
                                             json_t **ret_answer, struct kelpie_error *err);

/* The same when nobody reads: reads itself until the owner has closed, or the time is over. */
void remote_end(struct backend_instance *instance);

/* The error of an answer; OK too. */
KELPIE_CHECKED enum kelpie_status remote_outcome(const json_t *answer, struct kelpie_error *err);

#endif
