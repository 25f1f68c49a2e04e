/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * run.h: one `kelpie run`, from its options to its exit code.
 *
 * THEORY OF OPERATION
 *
 * The main thread goes through the phases: bring a VM up (boot or restore), start a command or take up the
 * sessions of the bundle, wait for them, write a bundle, end the VM. Beside it there are:
 *   - a pump for each session: reads its output and writes it on, one chunk at a time, so that the output of
 *     any size passes through CLI_CHUNK_SIZE bytes, and a slow reader slows the command down;
 *   - with -i, the feeder: reads our stdin and writes it to the session;
 *   - the signal thread (signals.h).
 * What they share is in struct run under `lock`. Giving up is one thing whoever does it: run_give_up() sets
 * `giving_up` and stop_event; the signal thread then cancels every wait on the VM, again and again until the
 * main thread has taken the VM away, because a cancel ends only those waits that are under way.
 *
 * A signal that comes while there is no session (booting, snapshotting) gives up. While a command runs, the
 * first is passed on to it, the second kills it, the third gives up. SIGHUP always gives up.
 */
#ifndef KELPIE_CLI_RUN_H
#define KELPIE_CLI_RUN_H

#include <pthread.h>

#include "cli/progress.h"
#include "cli/run_options.h"
#include "cli/run_report.h"
#include "cli/signals.h"
#include "cli/terminal.h"

struct run;

/* A command in the guest, and the thread that pumps its output. */
struct run_session {
    struct run *run;
    struct kelpie_exec *exec;
    pthread_t thread;
    bool pumping; /* the thread is there */
    bool ended;
    struct kelpie_exit exit;
};

struct run {
    const struct run_options *options;
    struct progress progress;
    struct terminal terminal;
    struct signals signals;
    int stop_event;       /* readable: stop moving bytes */
    uint64_t deadline_ns; /* when --snapshot-after ends the pumps; 0: never */
    struct run_session sessions[KELPIE_EXEC_COUNT_MAX];
    pthread_t feeder;
    bool feeding;

    pthread_mutex_t output_lock; /* one chunk at a time goes out */

    pthread_mutex_t lock; /* of all that follows */
    struct kelpie_vm *vm;
    size_t session_count; /* sessions that signals go to */
    unsigned signal_count;
    bool giving_up;
    struct run_report report;
};

/* Runs what the options say and fills run->report. `run` is zeroed but for options. */
void run_perform(struct run *run);

/* ---- run_session.c ---------------------------------------------------------------------------- */

/* What holds from run_perform() on. */
void run_check_parts(const struct run *run);

void run_lock(struct run *run);
void run_unlock(struct run *run);

/* Ends every wait and every pump; `err` (may be NULL) is why, unless there is a reason already. */
void run_give_up(struct run *run, const struct kelpie_error *err);

/* CANCELLED when somebody gave up. */
KELPIE_CHECKED enum kelpie_status run_check(struct run *run, struct kelpie_error *err);

/* The signal thread's calls. */
void run_on_signal(void *context, int number);
bool run_on_tick(void *context);

/* Starts the command, or takes up the bundle's sessions; run->session_count is then their number, which
 * may be 0 only for a bundle without sessions. */
KELPIE_CHECKED enum kelpie_status run_open_sessions(struct run *run, struct kelpie_error *err);

/* Pumps until every session has ended or was given up, then lets go of them. */
KELPIE_CHECKED enum kelpie_status run_pump_sessions(struct run *run, struct kelpie_error *err);

#endif
