/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * talk.h: moves the bytes of commands between a guest and us: output, input, signals, the terminal. What `run`,
 * `exec`, `shell` and `attach` have in common.
 *
 *     TRY(talk_init(&talk, &options, err));       // signals are heard from here on
 *     talk_set_vm(&talk, vm);                     // and cancel what waits on this VM
 *     ... kelpie_exec_start(vm, &command, &exec, err) ...
 *     talk_add(&talk, exec);
 *     TRY(talk_pump(&talk, err));                 // until the command has ended, or we were told to
 *     vm = talk_take_vm(&talk);
 *     talk_deinit(&talk);                         // talk.outcome has the exit code
 *
 * THEORY OF OPERATION
 *
 * The main thread goes through the phases above. Beside it there are
 *   - a pump for each session: reads its output and writes it on, one chunk at a time, so that the output of
 *     any size passes through CLI_CHUNK_SIZE bytes, and a slow reader slows the command down;
 *   - with `interactive`, the feeder: reads our stdin, looks for the keys that let go, and writes the rest to the session;
 *   - the signal thread (signals.h).
 * What they share stands in struct talk under `lock`. A talk ends early in one of two ways:
 *   - letting go (talk_let_go): a pump writes the chunk that it has, and reads no more. The sessions stay in the
 *     guest, and whoever attaches to one goes on at the next byte.
 *   - giving up (talk_give_up): output that nobody takes is dropped too. What becomes of the sessions is the
 *     kind's affair (talk_kind).
 * Either sets `stopping` and wakes the signal thread, which cancels every wait on the VM, again and again until the
 * pumps have ended (or, giving up, the VM was taken away), because a cancel ends only those waits that are under way.
 *
 * SIGINT, SIGTERM and SIGQUIT give up while there is no session (booting, snapshotting). While a command runs,
 * the first is passed on to it, the second kills it, the third gives up; of a session that we only attached to, it lets
 * go. When we were told to give up or let go, and are told again before we are done, we end at once; what a VM's processes are, ends with us. SIGHUP, and a terminal that is gone, let
 * go of a session in a VM that goes on, and give up where the VM is ours.
 */
#ifndef KELPIE_CLI_TALK_H
#define KELPIE_CLI_TALK_H

#include <pthread.h>

#include "cli/detach_keys.h"
#include "cli/outcome.h"
#include "cli/progress.h"
#include "cli/signals.h"
#include "cli/terminal.h"

/* What becomes of a session when the talk is over. */
enum talk_kind {
    TALK_RUN = 0, /* closed: the VM is ours, and ends */
    TALK_BUNDLE,  /* stays: what runs goes into the bundle that is written then */
    TALK_EXEC,    /* closed, which kills what still runs, unless we let go of it */
    TALK_ATTACH,  /* stays, unless it has ended: others may have started it */
    TALK_KIND_COUNT
};

struct talk_options {
    enum talk_kind kind;
    bool interactive;  /* our stdin is the command's */
    bool tty;          /* the command has a terminal: the size of ours is passed on */
    bool collect;      /* output is kept for --json instead of being written */
    bool quiet;        /* no progress is shown */
    bool keep_signals; /* SIGINT and its like are not passed on: they end the talk */
    struct detach_keys detach_keys;
    uint32_t pump_ms; /* so long; 0: as long as the commands run */
};

struct talk;

/* A command in the guest, and the thread that pumps its output. */
struct talk_session {
    struct talk *talk;
    struct kelpie_exec *exec;
    pthread_t thread;
    bool pumping; /* the thread is there */
    bool ended;
    struct kelpie_exit exit;
};

struct talk {
    struct talk_options options;
    struct progress progress;
    struct signals signals;
    int stop_event;       /* readable: no more input */
    int give_up_event;    /* readable: no more output either */
    uint64_t deadline_ns; /* when the pumps end; 0: never */
    struct talk_session sessions[KELPIE_EXEC_COUNT_MAX];
    pthread_t feeder;
    bool feeding;

    pthread_mutex_t output_lock; /* one chunk at a time goes out */

    pthread_mutex_t lock; /* of all that follows */
    struct terminal terminal;
    struct kelpie_vm *vm;
    size_t session_count; /* sessions that signals go to */
    unsigned signal_count;
    bool stopping;
    bool giving_up;
    struct outcome outcome;
};

/* Once in a process: what signals are blocked then stays so. `talk` is zeroed. Errors: IO_FAILED. */
KELPIE_CHECKED enum kelpie_status talk_init(struct talk *talk, const struct talk_options *options,
                                            struct kelpie_error *err);

/* The VM was taken, the sessions are over. The outcome stays, for outcome_deinit(). */
void talk_deinit(struct talk *talk);

/* Signals cancel what waits on this VM until it is taken. NULL from talk_take_vm(): there was none. */
void talk_set_vm(struct talk *talk, struct kelpie_vm *vm);
struct kelpie_vm *talk_take_vm(struct talk *talk);

/* CANCELLED when somebody gave up or let go. */
KELPIE_CHECKED enum kelpie_status talk_check(struct talk *talk, struct kelpie_error *err);

/* `err` (may be NULL) is why, unless there is a reason already. */
void talk_give_up(struct talk *talk, const struct kelpie_error *err);
void talk_let_go(struct talk *talk);

/* The session is talk_pump()'s to close. With `tty`, its terminal gets the size of ours. */
void talk_add(struct talk *talk, struct kelpie_exec *exec);

/* Moves bytes until every session has ended, or was let go of or given up. All that were added are closed or detached then,
 * whatever comes of it. Errors: what made it give up; CANCELLED. */
KELPIE_CHECKED enum kelpie_status talk_pump(struct talk *talk, struct kelpie_error *err);

/* Notes what went wrong, unless there was a reason to give up already: that is the reason then, not what came of it. */
void talk_note(struct talk *talk, enum kelpie_status status, const struct kelpie_error *err);

/* The size of our terminal, for a command's first; 0 when it has none. */
void talk_size(struct talk *talk, struct kelpie_command *command);

/* Whether a command's terminal can be ours. Errors: BAD_CONFIG, field "--tty". */
KELPIE_CHECKED enum kelpie_status talk_check_terminal(bool tty, struct kelpie_error *err);

/* ---- Between talk.c and talk_pump.c ------------------------------------------------------------ */

void talk_check_parts(const struct talk *talk);
void talk_lock(struct talk *talk);
void talk_unlock(struct talk *talk);
void talk_give_up_locked(struct talk *talk, const struct kelpie_error *err);
void talk_stop_locked(struct talk *talk); /* ends pumps and feeder; what is gathered of it stays */
bool talk_stopping(struct talk *talk);

/* Our terminal, or its reader, is gone. */
void talk_hang_up(struct talk *talk);

#endif
