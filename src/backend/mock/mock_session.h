/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * A session of the simulated guest (protocol.h, "Sessions"): a command with its processes, or a file on
 * its way in or out. It outlives the connection: `attached`, `started_due` and `ended_sent` belong to
 * the connection and are not saved, everything else is.
 */
#ifndef KELPIE_BACKEND_MOCK_MOCK_SESSION_H
#define KELPIE_BACKEND_MOCK_MOCK_SESSION_H

#include "backend/mock/mock_process.h"
#include "protocol/stream.h"

struct mock_guest;

enum mock_session_kind {
    MOCK_SESSION_EXEC = 0,
    MOCK_SESSION_PUT,
    MOCK_SESSION_GET,
    MOCK_SESSION_KIND_COUNT
};

struct mock_session {
    struct mock_guest *guest;
    uint32_t id;
    enum mock_session_kind kind;

    bool attached;
    bool started_due; /* STARTED is to be sent */
    bool ended_sent;

    bool ended;
    enum protocol_end end;
    uint32_t end_value;
    char end_message[PROTOCOL_MESSAGE_SIZE_MAX + 1];

    uint8_t *memory; /* of the three rings */
    struct protocol_sender outputs[MOCK_STREAM_COUNT];
    struct protocol_receiver input;
    struct ring input_ring; /* received, not consumed */
    size_t input_debt;      /* of the ring's bytes, how many count as consumed already: an attach
                             * takes over all that was received, so that the two sides agree */
    bool input_closed;      /* nobody reads it any more: what comes is dropped */
    bool input_close_due;   /* ACK with CLOSED is to be sent */

    /* EXEC */
    uint32_t flags;
    uint32_t uid;
    uint32_t gid;
    uint16_t rows;
    uint16_t columns;
    uint64_t rlimit_nofile;
    uint64_t timeout_ns; /* uptime; 0: none */
    bool timed_out;
    bool stopped; /* by SIGSTOP, until SIGCONT */
    struct mock_process *processes[MOCK_PROCESS_COUNT_MAX];
    struct mock_bytes tty_line;  /* being typed */
    struct mock_bytes tty_ready; /* lines to read */
    bool tty_end;                /* ^D on an empty line: the next reader sees an end */

    /* PUT, GET */
    char *path;
    uint32_t mode;
    uint64_t file_size;
    uint64_t file_offset;
    bool exact; /* opened while HOLD has commands stand still: it goes on, and its tree is exact */
    struct mock_bytes content; /* PUT: what came; GET: the file as it was opened */
};

/* What always holds. */
void mock_session_check(const struct mock_session *session);

/* A session with empty streams, not in the guest's table yet. NULL: no memory. */
struct mock_session *mock_session_create(struct mock_guest *guest, uint32_t id,
                                         enum mock_session_kind kind);
void mock_session_destroy(struct mock_session *session);

/* What the frames of these names ask for. A command or file that cannot be had ends the session. */
void mock_session_exec(struct mock_session *session, const struct protocol_exec *message);
void mock_session_put(struct mock_session *session, const struct protocol_file_put *message);
void mock_session_get(struct mock_session *session, const struct protocol_file_get *message);
void mock_session_attach(struct mock_session *session, const struct protocol_attach *message,
                         struct protocol_attached *ret_answer);

/* The connection is gone. */
void mock_session_detach(struct mock_session *session);

/* False: the message breaks the protocol. */
bool mock_session_data(struct mock_session *session, const struct protocol_data *message);
bool mock_session_ack(struct mock_session *session, const struct protocol_ack *message);

/* To every process. */
void mock_session_signal(struct mock_session *session, uint32_t number);

/* Runs it until it waits, or for MOCK_STEP_COUNT_MAX steps. True: it could go on at once. */
bool mock_session_run(struct mock_session *session);

/* The earliest uptime at which it has something to do; UINT64_MAX: none. */
uint64_t mock_session_next_ns(const struct mock_session *session);

/* Appends the next frame that is due. False: none is. */
bool mock_session_send(struct mock_session *session, struct cursor_writer *writer);

/* Ends it as failed before it started. */
void mock_session_fail(struct mock_session *session, int os_error, const char *what);

/* ---- For processes ---------------------------------------------------------------------------- */

bool mock_session_is_tty(const struct mock_session *session);

/* Writes to an output stream as far as there is room; on a terminal both are the first, and a
 * newline becomes two bytes. Returns how many of `size` bytes were taken. */
size_t mock_session_write(struct mock_session *session, enum mock_stream stream, const void *data,
                          size_t size);
enum mock_read mock_session_read(struct mock_session *session, void *buffer, size_t *size);

/* `size` bytes of input were taken out of the ring. */
void mock_session_consumed(struct mock_session *session, size_t size);

/* mock_tty.c: moves what was typed through the terminal's line editor. True: something moved. */
bool mock_tty_run(struct mock_session *session);
enum mock_read mock_tty_read(struct mock_session *session, void *buffer, size_t *size);

#endif
