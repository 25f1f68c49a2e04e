/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * process.h: starting a command. The child shares our memory until it executes (as with vfork), so that
 * starting costs no copy of page tables, and what goes wrong in the child is simply written down for us.
 */
#ifndef KELPIE_GUEST_PROCESS_H
#define KELPIE_GUEST_PROCESS_H

#include <sys/types.h>

#include "base/error.h"
#include "protocol/protocol.h"

struct process_spec {
    char *const *argv;       /* NULL-terminated */
    char *const *env;        /* NULL-terminated */
    const char *search_path; /* where argv[0] is looked for: "/usr/bin:/bin" */
    const char *root;        /* changed to first; NULL: stays */
    const char *working_dir;
    uint32_t uid;
    uint32_t gid;
    const struct protocol_rlimit *rlimits;
    uint32_t rlimit_count;
    int fds[3];    /* its stdin, stdout, stderr */
    bool tty;      /* fds[0] is a terminal: make it the controlling one */
    int cgroup_fd; /* -1: ours */
    void *stack;   /* GUEST_SPAWN_STACK_SIZE bytes for the child, until it executes */
};

/* Starts it in a session of its own. Errors: os_error says why (ENOENT: not found in search_path). */
KELPIE_CHECKED enum kelpie_status process_spawn(const struct process_spec *spec, pid_t *ret_pid,
                                                struct kelpie_error *err);

#endif
