/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* kelpie supervise: the process that owns a VM. The library starts it; nobody types it. */
#include <fcntl.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/assert.h"
#include "cli/cli.h"
#include "cli/output.h"
#include "kelpie_store.h"

#define OWNER_FD 3 /* where its maker is */

/* The signals that end it in order; those of a terminal that it does not have are not heard. -1: they kill it. */
static int open_signals(void) {
    sigset_t ends;
    sigset_t ignored;
    sigemptyset(&ends);
    sigaddset(&ends, SIGTERM);
    sigaddset(&ends, SIGINT);
    ignored = ends;
    sigaddset(&ignored, SIGHUP);
    sigaddset(&ignored, SIGPIPE);
    sigaddset(&ignored, SIGQUIT);
    int result = sigprocmask(SIG_BLOCK, &ignored, NULL);
    ASSERT(result == 0);
    return signalfd(-1, &ends, SFD_CLOEXEC | SFD_NONBLOCK);
}

static int supervise_run(const struct cli_table *table, struct option_words *words) {
    ASSERT(table);
    ASSERT(words);
    if (fcntl(OWNER_FD, F_SETFD, FD_CLOEXEC) != 0) {
        output_hint("this is started by kelpie itself: see 'kelpie help'");
        return CLI_EXIT_FAILED;
    }
    int signals = open_signals();
    int code = kelpie_supervise(NULL, OWNER_FD, signals);
    if (signals >= 0) {
        close(signals);
    }
    return code;
}

static const struct option_table no_options = {NULL, 0};

const struct cli_command cli_supervise = {
    .name = "supervise",
    .summary = "Owns a VM",
    .synopsis = "",
    .options = &no_options,
    .run = supervise_run,
    .group = CLI_GROUP_HOST,
    .hidden = true,
};
