/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * One start of a program: what the caller prepares (host_linux_process.c), what the spawner thread
 * carries out (host_linux_spawner.c), and the process that comes of it.
 */
#ifndef KELPIE_HOST_HOST_LINUX_LAUNCH_H
#define KELPIE_HOST_HOST_LINUX_LAUNCH_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "host/host.h"

#define LAUNCH_FD_COUNT_MAX (HOST_PROCESS_FD_COUNT_MAX + 3) /* and /dev/null for 0, 1 and 2 */

struct host_process {
    struct host *host;
    int watcher_fd; /* pidfd: readable once the watcher, and so the program, has ended; of a detached one: none */
    int program_fd; /* pidfd: for signals, and for a detached one's end */
    pid_t program_id;
    siginfo_t end; /* written by the kernel, for the watcher; si_pid is 0 until then */
    void *stacks;  /* of the watcher, then of the program before its exec */
};

struct linux_launch {
    const char *program; /* path */
    const char *const *argv;
    const char *const *env;
    const char *working_dir;                         /* or NULL */
    struct host_process_fd fds[LAUNCH_FD_COUNT_MAX]; /* ascending by child_fd */
    size_t fd_count;
    bool dies_with_owner;
    bool new_session;
    bool detached;
    struct host_process *process;

    /* Out. */
    bool done;
    int os_error;     /* 0: it runs */
    const char *step; /* what failed */

    /* Between the spawner, the watcher and the program. */
    pid_t owner_id;
    pid_t watcher_id;
    int started_fd; /* event: os_error is final */
};

#endif
