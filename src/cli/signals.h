/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Signals, as calls on a thread. A handler may do next to nothing; a thread may cancel a boot and pass Ctrl-C
 * on to the guest. The signals are blocked before any other thread exists, so that all of them inherit it.
 */
#ifndef KELPIE_CLI_SIGNALS_H
#define KELPIE_CLI_SIGNALS_H

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>

#include "base/error.h"

struct signals {
    void (*on_signal)(void *context, int number); /* on the thread */
    /* Called after signals_tick() and then every CLI_CANCEL_INTERVAL_MS as long as it says true. */
    bool (*on_tick)(void *context);
    void *context;
    int signal_fd;
    int wake_event;
    bool quit; /* atomic */
    pthread_t thread;
};

/* Takes INT, TERM, HUP, QUIT, WINCH and CONT (those that were not ignored) and PIPE (never told). The caller
 * fills on_signal, on_tick and context. For the whole process: nothing puts them back. */
KELPIE_CHECKED enum kelpie_status signals_start(struct signals *signals, struct kelpie_error *err);
void signals_tick(struct signals *signals);
void signals_stop(struct signals *signals);

#endif
