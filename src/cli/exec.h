/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * exec.h: `exec`, `shell` and `attach`: a talk with a command in a VM that has an owner of its own.
 *
 * THEORY OF OPERATION
 *
 * Each of the three is a way to come by a session (exec_open); all the rest is the same. The session is the guest's: when
 * we are killed it runs on, held by nobody, and the guest keeps its output until somebody attaches, as it does when
 * we let go of it by the detach keys. A command that is stopped from outside (Ctrl-C twice, a reader that went away) is
 * killed, unless it was only attached to.
 */
#ifndef KELPIE_CLI_EXEC_H
#define KELPIE_CLI_EXEC_H

#include "cli/exec_options.h"
#include "cli/talk.h"
#include "kelpie_store.h"

struct exec;

/* Starts a session or takes one up, with the VM in exec->talk.vm. */
typedef enum kelpie_status exec_open(struct exec *exec, struct kelpie_exec **ret_session,
                                     struct kelpie_error *err);

struct exec {
    struct exec_options options;
    exec_open *open;
    struct talk talk;
    uint32_t exec_id; /* of the session; 0: none yet */
};

/* Talks with the VM, which is options.vm, or with the one that is given (for tests; it is the caller's and stays open). */
void exec_perform(struct exec *exec, struct kelpie_vm *vm);

/* The three ways. */
exec_open exec_open_command;
exec_open exec_open_shell;
exec_open exec_open_session;

#endif
