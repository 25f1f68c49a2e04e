/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * How the Linux host starts a program.
 *
 * Theory of operation. Two things are asked of a child that fork and exec alone do not give. It must
 * die with its owner, but a parent-death signal (prctl(2), PR_SET_PDEATHSIG) is sent when the thread
 * that made the child ends, not its process. And the embedding program's own wait() must not see it,
 * but exec makes every child one that wait() sees, whatever clone() was told (execve(2): "the
 * termination signal is reset to SIGCHLD"). So there is
 *
 *     spawner   a thread of the owner, one for each host, from the first start to host_destroy()
 *     watcher   a process made by the spawner, one for each program; it never calls exec, so that
 *               its termination signal stays none and wait() does not see it; it shares the owner's
 *               memory and descriptors (CLONE_VM, CLONE_FILES), so it costs little and holds nothing
 *     program   the watcher's child, as by vfork()
 *
 * The watcher waits for the program's end, which the kernel writes into struct host_process, and ends.
 * Spawner ends -> watcher killed -> program killed, if dies_with_owner. The spawner answers once
 * the program's exec has succeeded or failed.
 *
 * A detached program's watcher ends as soon as the program runs, which so becomes a child of the system's first
 * process: nobody's end ends it, and it has no stack, memory or descriptor of ours.
 *
 * Watcher and program run in the spawner's memory and with its thread-local storage. The spawner
 * sleeps in poll() until the start is over, and afterwards the watcher makes one system call and
 * ends, so they never use it (errno) at once. All their signals are blocked: no handler of the owner
 * runs in them. They are compiled without sanitizers, which keep books about threads, and make
 * system calls only.
 */
#include "host/host_linux.h"
#include "host/host_linux_launch.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <sched.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/error.h"

#define NO_SANITIZE __attribute__((no_sanitize("address", "thread", "undefined"), noinline))
#define KERNEL_SIGSET_SIZE 8

/* The thread sanitizer's own clone() supposes that the caller waits for the child. */
#if defined(__SANITIZE_THREAD__)
int __clone(int (*entry)(void *), void *stack, int flags, void *argument, ...);
#define clone __clone
#endif

/* Zeros, as large as the kernel's struct sigaction anywhere: SIG_DFL, no flags, an empty mask. */
static const uint64_t zeros[8];

/* ---- In the program, before exec -------------------------------------------------------------- */

/* exec leaves ignored signals ignored and blocked ones blocked: both were the owner's business. */
NO_SANITIZE static void program_reset_signals(void) {
    for (long number = 1; number <= HOST_SIGNAL_MAX; number++) {
        syscall(SYS_rt_sigaction, number, zeros, NULL, KERNEL_SIGSET_SIZE);
    }
}

/* The sources are moved above all targets first, so that none is overwritten before its turn. */
NO_SANITIZE static bool program_place_fds(struct linux_launch *launch) {
    long base = launch->fds[launch->fd_count - 1].child_fd + 1;
    long moved[LAUNCH_FD_COUNT_MAX];
    for (size_t i = 0; i < launch->fd_count; i++) {
        moved[i] = syscall(SYS_fcntl, launch->fds[i].fd, F_DUPFD_CLOEXEC, base);
        if (moved[i] < 0) {
            return false;
        }
    }
    unsigned next = 0;
    for (size_t i = 0; i < launch->fd_count; i++) {
        unsigned target = (unsigned)launch->fds[i].child_fd;
        if (syscall(SYS_dup3, moved[i], target, 0) < 0) {
            return false;
        }
        if (target > next && syscall(SYS_close_range, next, target - 1, 0) < 0) {
            return false;
        }
        next = target + 1;
    }
    return syscall(SYS_close_range, next, UINT32_MAX, 0) == 0;
}

NO_SANITIZE static int program_fail(struct linux_launch *launch, const char *step, int os_error) {
    launch->step = step;
    launch->os_error = os_error;
    syscall(SYS_exit_group, 127);
    return 127;
}

NO_SANITIZE static int program_main(void *argument) {
    struct linux_launch *launch = argument;
    if ((launch->new_session || launch->detached) && syscall(SYS_setsid) < 0) {
        return program_fail(launch, "start a session for", errno);
    }
    if (launch->dies_with_owner) {
        if (syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0) {
            return program_fail(launch, "tie to its owner", errno);
        }
        /* The watcher may have died before that call. */
        if (syscall(SYS_getppid) != launch->watcher_id) {
            return program_fail(launch, "start", ECHILD);
        }
    }
    if (!program_place_fds(launch)) {
        return program_fail(launch, "hand descriptors to", errno);
    }
    if (launch->working_dir && syscall(SYS_chdir, launch->working_dir) < 0) {
        return program_fail(launch, "enter the working folder of", errno);
    }
    program_reset_signals();
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, zeros, NULL, KERNEL_SIGSET_SIZE);
    syscall(SYS_execve, launch->program, launch->argv, launch->env);
    return program_fail(launch, "start", errno);
}

/* ---- The watcher ------------------------------------------------------------------------------ */

NO_SANITIZE static void watcher_announce(int started_fd) {
    uint64_t one = 1;
    syscall(SYS_write, started_fd, &one, sizeof(one));
}

/* After the announcement the launch is gone; the process stays until the watcher has ended. */
NO_SANITIZE static int watcher_main(void *argument) {
    struct linux_launch *launch = argument;
    struct host_process *process = launch->process;
    int started_fd = launch->started_fd;
    syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (syscall(SYS_getppid) != launch->owner_id) {
        syscall(SYS_exit_group, 1);
    }
    syscall(SYS_prctl, PR_SET_NAME, "kelpie-watcher", 0, 0, 0);
    /* An owner that ignores SIGCHLD would have the kernel reap the program behind our back. */
    syscall(SYS_rt_sigaction, SIGCHLD, zeros, NULL, KERNEL_SIGSET_SIZE);
    launch->watcher_id = (pid_t)syscall(SYS_getpid);

    char *stack_top = (char *)process->stacks + (size_t)2 * HOST_PROCESS_STACK_SIZE;
    int program_id = clone(program_main, stack_top, CLONE_VM | CLONE_VFORK | CLONE_PIDFD, launch,
                           &process->program_fd);
    if (program_id < 0) {
        launch->step = "start";
        launch->os_error = errno;
        process->program_fd = HOST_FD_NONE;
        watcher_announce(started_fd);
        syscall(SYS_exit_group, 1);
    }
    process->program_id = program_id;
    syscall(SYS_chdir, "/"); /* the owner's folder may be unmounted one day */
    bool leaves_it = launch->detached && launch->os_error == 0;
    watcher_announce(started_fd);
    if (leaves_it) {
        syscall(SYS_exit_group, 0);
    }
    syscall(SYS_waitid, P_PID, program_id, &process->end, WEXITED | __WALL, NULL);
    syscall(SYS_exit_group, 0);
    return 0;
}

/* ---- The spawner ------------------------------------------------------------------------------ */

/* Waits until the watcher has answered; a watcher that was killed has not. */
static void await_start(struct linux_launch *launch) {
    struct pollfd fds[2] = {{.fd = launch->started_fd, .events = POLLIN},
                            {.fd = launch->process->watcher_fd, .events = POLLIN}};
    int count = RETRY_EINTR(poll(fds, 2, -1));
    ASSERT(count > 0);
    if (!(fds[0].revents & POLLIN)) {
        launch->step = "watch";
        launch->os_error = ECHILD;
    }
}

static void spawner_launch(struct host *host, struct linux_launch *launch) {
    struct host_process *process = launch->process;
    ASSERT(process && process->stacks);
    ASSERT(launch->fd_count >= 3);
    struct kelpie_error failure = {0};
    if (linux_event_create(host, &launch->started_fd, &failure) != KELPIE_OK) {
        launch->step = "start";
        launch->os_error = failure.os_error;
        return;
    }
    launch->owner_id = getpid();
    char *stack_top = (char *)process->stacks + HOST_PROCESS_STACK_SIZE;
    if (clone(watcher_main, stack_top, CLONE_VM | CLONE_FILES | CLONE_PIDFD, launch,
              &process->watcher_fd) < 0) {
        launch->step = "start a watcher for";
        launch->os_error = errno;
        process->watcher_fd = HOST_FD_NONE;
    } else {
        await_start(launch);
    }
    linux_close(host, launch->started_fd);
}

static void *spawner_main(void *argument) {
    struct host_linux *self = argument;
    struct linux_spawner *spawner = &self->spawner;
    ASSERT(self->host.ops);
    (void)pthread_setname_np(pthread_self(), "kelpie-spawner");
    pthread_mutex_lock(&spawner->lock);
    while (!spawner->stopping) {
        struct linux_launch *launch = spawner->launch;
        if (!launch || launch->done) {
            pthread_cond_wait(&spawner->changed, &spawner->lock);
            continue;
        }
        pthread_mutex_unlock(&spawner->lock);
        spawner_launch(&self->host, launch);
        pthread_mutex_lock(&spawner->lock);
        launch->done = true;
        pthread_cond_broadcast(&spawner->changed);
    }
    ASSERT(!spawner->launch);
    pthread_mutex_unlock(&spawner->lock);
    return NULL;
}

void linux_spawner_init(struct linux_spawner *spawner) {
    ASSERT(spawner);
    int result = pthread_mutex_init(&spawner->lock, NULL);
    ASSERT(result == 0);
    result = pthread_cond_init(&spawner->changed, NULL);
    ASSERT(result == 0);
}

void linux_spawner_deinit(struct linux_spawner *spawner) {
    ASSERT(spawner);
    ASSERT(!spawner->launch);
    if (spawner->running) {
        pthread_mutex_lock(&spawner->lock);
        spawner->stopping = true;
        pthread_cond_broadcast(&spawner->changed);
        pthread_mutex_unlock(&spawner->lock);
        pthread_join(spawner->thread, NULL);
    }
    pthread_cond_destroy(&spawner->changed);
    pthread_mutex_destroy(&spawner->lock);
}

/* With the lock held: the thread runs. Returns an errno. */
static int spawner_ensure(struct linux_spawner *spawner) {
    ASSERT(!spawner->stopping);
    if (spawner->running) {
        return 0;
    }
    struct host_linux *self =
        (struct host_linux *)((char *)spawner - offsetof(struct host_linux, spawner));
    int os_error = linux_thread_create(&spawner->thread, spawner_main, self);
    spawner->running = os_error == 0;
    return os_error;
}

enum kelpie_status linux_spawner_run(struct linux_spawner *spawner, struct linux_launch *launch,
                                     struct kelpie_error *err) {
    ASSERT(spawner && launch);
    ASSERT(!launch->done);
    pthread_mutex_lock(&spawner->lock);
    int os_error = spawner_ensure(spawner);
    if (os_error != 0) {
        pthread_mutex_unlock(&spawner->lock);
        return error_set_os(err, os_error, "cannot start a thread that starts '%s'",
                            launch->program);
    }
    while (spawner->launch) {
        pthread_cond_wait(&spawner->changed, &spawner->lock);
    }
    spawner->launch = launch;
    pthread_cond_broadcast(&spawner->changed);
    while (!launch->done) {
        pthread_cond_wait(&spawner->changed, &spawner->lock);
    }
    spawner->launch = NULL;
    pthread_cond_broadcast(&spawner->changed);
    pthread_mutex_unlock(&spawner->lock);
    if (launch->os_error != 0) {
        return error_set_os(err, launch->os_error, "cannot %s '%s'", launch->step, launch->program);
    }
    return KELPIE_OK;
}
