/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The simulated guest's processes. A process runs one program (mock_program.h), step by step: a
 * step does a little work, puts what it has to say into `pending`, and returns. What is pending
 * is written to where the process's output goes before its next step, so that programs know
 * nothing of full buffers; a process that has exited ends when all was written.
 *
 * Times are the guest's own (mock_guest.h, uptime): they stand while the guest stands.
 */
#ifndef KELPIE_BACKEND_MOCK_MOCK_PROCESS_H
#define KELPIE_BACKEND_MOCK_MOCK_PROCESS_H

#include "backend/mock/mock_bytes.h"

struct mock_session;
struct mock_shell;

#define MOCK_PROCESS_NONE UINT32_MAX

enum mock_stream { /* index into pending and targets */
                   MOCK_OUT = 0,
                   MOCK_ERR = 1,
                   MOCK_STREAM_COUNT
};

/* Where a stream of a process goes: to one of the session's two, or to the end of a file. */
struct mock_target {
    enum mock_stream stream;
    char *path; /* NULL: to the session */
};

struct mock_process {
    struct mock_session *session;
    struct host *host;
    uint32_t pid;
    uint32_t parent;  /* slot in the session, or MOCK_PROCESS_NONE: the session's command */
    uint32_t program; /* index, see mock_program.h */
    bool background;  /* nobody waits for it */
    struct mock_strings argv;
    struct mock_strings env;
    char *folder;     /* its working directory */
    char *input_path; /* of standard input; NULL: the session's */
    struct mock_target targets[MOCK_STREAM_COUNT];
    struct mock_bytes pending[MOCK_STREAM_COUNT];
    uint64_t ignored;         /* bit n - 1: signal n is ignored */
    bool exited;              /* it makes no step any more; it ends when nothing is pending */
    bool ended;               /* its parent may take exit_code and signal and free it */
    uint32_t exit_code;       /* 0 .. 255 */
    uint32_t signal;          /* 0: it exited by itself */
    uint64_t wake_ns;         /* uptime to go on at; 0: does not wait for a time */
    uint64_t numbers[4];      /* the program's own */
    struct mock_shell *shell; /* of the program `sh` only */
};

/* What always holds. */
void mock_process_check(const struct mock_process *process);

/* What a new process is made of. Strings are copied. */
struct mock_spawn {
    uint32_t parent;
    bool background;
    const struct mock_strings *argv; /* at least one */
    const struct mock_strings *env;
    const char *folder;
    const char *input_path;
    const struct mock_target *targets; /* NULL: the session's two */
    uint64_t ignored;
};

/* Finds the program and makes the process. 0 or the errno of Linux's execve (ENOENT, EACCES,
 * ENOEXEC, E2BIG), chdir (ENOENT, ENOTDIR) or fork (EAGAIN, ENOMEM). */
int mock_process_spawn(struct mock_session *session, const struct mock_spawn *spawn,
                       uint32_t *ret_slot);
void mock_process_free(struct mock_session *session, uint32_t slot);

/* One turn: writes what is pending, or makes a step. True: something happened. */
bool mock_process_turn(struct mock_process *process);

/* Where the process stands in its session's table. */
uint32_t mock_process_slot(const struct mock_process *process);

/* True while a child of it runs in the background. */
bool mock_process_has_background(const struct mock_process *process);

/* Does to it what the signal does by default, unless the process ignores it. */
void mock_process_signal(struct mock_process *process, uint32_t number);

/* ---- For programs ----------------------------------------------------------------------------- */

void mock_process_exit(struct mock_process *process, uint32_t code);
void mock_process_write(struct mock_process *process, enum mock_stream stream, const void *data,
                        size_t size);
void mock_process_print(struct mock_process *process, enum mock_stream stream, const char *format,
                        ...) __attribute__((format(printf, 3, 4)));

/* "<program>: <what>: <text of os_error>" on stderr, and exit code 1. */
void mock_process_fail(struct mock_process *process, int os_error, const char *what);

/* Its next step comes `ns` from now. */
void mock_process_sleep(struct mock_process *process, uint64_t ns);

enum mock_read {
    MOCK_READ_BYTES, /* *size of them */
    MOCK_READ_END,
    MOCK_READ_WAIT,   /* nothing yet */
    MOCK_READ_FAILED, /* source->os_error */
};

/* Where to read: a file at an offset, or standard input when path is NULL (the offset then counts
 * only where that is a file too). */
struct mock_source {
    const char *path;
    uint64_t offset;
    int os_error; /* out */
};
enum mock_read mock_process_read(struct mock_process *process, struct mock_source *source,
                                 void *buffer, size_t *size);

#endif
