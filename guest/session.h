/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * session.h: what the host started and has not yet released: a command, or a file on its way.
 *
 * THEORY OF OPERATION
 *
 * A session owns up to three streams (protocol/stream.h). Output is read from the command's pipes into the
 * senders' rings as long as there is room: a full ring stops the command, not the channel. Input waits in
 * a ring for the command's pipe to take it: a command that never reads its stdin stops nobody else.
 * Nothing here writes to the channel: session_pump() is asked for one frame at a time, so that all sessions
 * take turns.
 *
 * A command's session is over when its main process has ended and both its output pipes have. A
 * grandchild may keep a pipe open for ever, therefore GUEST_GRACE_MS after the main process has ended the
 * pipes are closed; what lies in them at that moment is still delivered. The grandchild goes on; only its
 * writes to that pipe fail from then on.
 *
 * Timeouts and RELEASE before the end kill the whole control group (or, without one, the process group).
 * What a command left in the background when it ended by itself is not killed by RELEASE.
 *
 * A session is attached to the connection that opened it. After a HELLO it is detached: it runs on, keeps
 * its output and sends nothing until ATTACH.
 */
#ifndef KELPIE_GUEST_SESSION_H
#define KELPIE_GUEST_SESSION_H

#include <limits.h>
#include <sys/types.h>

#include "base/ring.h"
#include "cgroup.h"
#include "protocol/stream.h"

struct agent;
struct tree;

/* What an epoll event is about: its data is the session's id, shifted by 8, and this. */
enum session_source {
    SESSION_SOURCE_CHANNEL = 0, /* of the agent itself, id 0 */
    SESSION_SOURCE_SIGNAL,
    SESSION_SOURCE_STDIN,
    SESSION_SOURCE_STDOUT,
    SESSION_SOURCE_STDERR,
};

enum session_kind {
    SESSION_COMMAND,
    SESSION_FILE_PUT,
    SESSION_FILE_GET,
};

struct session_output {
    int fd;       /* -1: ended */
    bool watched; /* epoll tells us when it is readable */
    bool draining;
    size_t drain_left; /* draining: so many bytes are still taken */
    struct protocol_sender sender;
};

struct session_input {
    int fd;       /* the command's stdin, or the terminal; -1: closed */
    bool watched; /* epoll tells us when it is writable */
    bool closed;  /* nothing can be delivered any more */
    bool closed_told;
    bool ack_owed;
    size_t backlog; /* bytes in the ring from before the last ATTACH */
    struct ring ring;
    struct protocol_receiver receiver;
};

#define SESSION_INPUT_SIZE (2 * PROTOCOL_WINDOW_SIZE) /* a backlog and a window */
#define SESSION_OUTPUT_COUNT 2                        /* stdout, stderr */

struct session {
    uint32_t id;
    enum session_kind kind;
    uint32_t flags; /* enum protocol_exec_flag */
    bool attached;
    bool started_owed;
    bool over; /* `ended` is final */
    bool ended_sent;
    size_t next_output; /* whose turn it is to be sent */
    struct protocol_started started;
    struct protocol_ended ended;
    char message[PROTOCOL_MESSAGE_SIZE_MAX + 1];

    /* commands */
    pid_t pid;
    bool running; /* the main process was not reaped yet */
    bool timed_out;
    int wait_status;
    uint64_t timeout_at_ns; /* 0: none */
    uint64_t grace_at_ns;   /* 0: none */
    int tty_fd;             /* -1: none */
    struct cgroup cgroup;

    /* files */
    bool exact;  /* opened while HOLD has commands stand still: it goes on, and its tree is exact */
    int file_fd; /* -1: none */
    int dir_fd;  /* FILE_PUT: where it lies */
    uint32_t file_mode;
    uint64_t file_size;
    uint64_t file_done; /* bytes written or read so far */
    char file_name[NAME_MAX + 1];
    char temp_name[32];
    struct tree *tree; /* of a folder (tree.h); NULL: it is a file */

    struct session_input input;
    struct session_output outputs[SESSION_OUTPUT_COUNT];

    /* Behind this nothing is cleared when a session's memory is used again. */
    uint8_t output_bytes[SESSION_OUTPUT_COUNT][PROTOCOL_WINDOW_SIZE];
    uint8_t input_bytes[SESSION_INPUT_SIZE];
};

/* Opens one for the id: NULL when there are too many. */
struct session *session_open(struct agent *agent, uint32_t id, enum session_kind kind);
struct session *session_find(struct agent *agent, uint32_t id);

/* Kills what runs, takes back what was half done, forgets it. */
void session_release(struct agent *agent, struct session *session);
void session_release_all(struct agent *agent);

/* Ends it as failed: with the error's number and text. Its streams end where they are. */
void session_fail(struct session *session, const struct kelpie_error *err);

/* The host's messages. False: the host broke the rules. */
void session_exec(struct agent *agent, uint32_t id, const struct protocol_exec *exec);
bool session_data(struct agent *agent, struct session *session, const struct protocol_data *data);
bool session_ack(struct agent *agent, struct session *session, const struct protocol_ack *ack);
void session_attach(struct agent *agent, uint32_t id, const struct protocol_attach *attach);
void session_signal(struct session *session, uint32_t number);
void session_resize(struct session *session, const struct protocol_resize *resize);

/* The connection is gone. */
void session_detach(struct session *session);

/* A descriptor of it is ready. */
void session_event(struct agent *agent, struct session *session, enum session_source source,
                   uint32_t events);

/* A child was reaped: true when it was this session's main process. */
bool session_reaped(struct agent *agent, struct session *session, pid_t pid, int wait_status);

/* When it wants to be looked at again: UINT64_MAX: never. */
uint64_t session_deadline(const struct session *session);
void session_tick(struct agent *agent, struct session *session, uint64_t now_ns);

/* Encodes at most one frame into the agent's outbox. False: it has nothing to send now. */
bool session_pump(struct agent *agent, struct session *session);

#endif
