/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/assert.h"
#include "guest_limits.h"

/* What parent and child share until the child executes. */
struct spawn {
    const struct process_spec *spec;
    sigset_t no_signals;
    const char *failed_step; /* set by the child */
    int os_error;
};

/* ---- In the child: system calls only, on its own stack, in the parent's memory ------------------ */

static bool child_fail(struct spawn *spawn, const char *step) {
    ASSERT(errno != 0);
    ASSERT(step);
    spawn->os_error = errno;
    spawn->failed_step = step;
    return false;
}

static bool child_descriptors(struct spawn *spawn) {
    ASSERT(!spawn->failed_step);
    const struct process_spec *spec = spawn->spec;
    ASSERT(spec->fds[0] > 2 && spec->fds[1] > 2 && spec->fds[2] > 2);
    if (setsid() < 0) {
        return child_fail(spawn, "start a session");
    }
    if (spec->tty && ioctl(spec->fds[0], TIOCSCTTY, 0) != 0) {
        return child_fail(spawn, "take the terminal");
    }
    for (int i = 0; i < 3; i++) {
        if (dup2(spec->fds[i], i) != i) {
            return child_fail(spawn, "connect stdin, stdout and stderr");
        }
    }
    return true;
}

static bool child_limits(struct spawn *spawn) {
    ASSERT(!spawn->failed_step);
    const struct process_spec *spec = spawn->spec;
    ASSERT(spec->rlimit_count <= PROTOCOL_RLIMIT_COUNT_MAX);
    for (uint32_t i = 0; i < spec->rlimit_count; i++) {
        struct rlimit limit = {.rlim_cur = spec->rlimits[i].soft,
                               .rlim_max = spec->rlimits[i].hard};
        if (syscall(SYS_prlimit64, 0, spec->rlimits[i].resource, &limit, NULL) != 0) {
            return child_fail(spawn, "set a resource limit");
        }
    }
    return true;
}

/* The C library's functions for these would look for other threads, in memory that is the parent's. */
static bool child_identity(struct spawn *spawn) {
    ASSERT(!spawn->failed_step);
    const struct process_spec *spec = spawn->spec;
    ASSERT(spec->working_dir);
    if (spec->root && chroot(spec->root) != 0) {
        return child_fail(spawn, "enter the root disk");
    }
    if (chdir(spec->working_dir) != 0) {
        return child_fail(spawn, "enter the working directory");
    }
    if (spec->uid == geteuid() && spec->gid == getegid()) {
        return true;
    }
    if (syscall(SYS_setgroups, 0, NULL) != 0 ||
        syscall(SYS_setresgid, spec->gid, spec->gid, spec->gid) != 0 ||
        syscall(SYS_setresuid, spec->uid, spec->uid, spec->uid) != 0) {
        return child_fail(spawn, "become the user");
    }
    return true;
}

/* Tries argv[0] in each folder of the search path. A file that is there but may not be run is
 * remembered, as a shell does. */
static void child_search(const struct process_spec *spec) {
    ASSERT(spec->search_path);
    const char *name = spec->argv[0];
    int os_error = ENOENT;
    const char *folder = spec->search_path;
    while (folder && name[0] != 0) {
        const char *colon = strchr(folder, ':');
        size_t size = colon ? (size_t)(colon - folder) : strlen(folder);
        char path[PATH_MAX];
        int length = snprintf(path, sizeof(path), "%.*s/%s", (int)size, folder, name);
        if (size > 0 && length > 0 && (size_t)length < sizeof(path)) {
            execve(path, spec->argv, spec->env);
        }
        if (errno == EACCES) {
            os_error = EACCES;
        } else if (errno != ENOENT && errno != ENOTDIR) {
            return;
        }
        folder = colon ? colon + 1 : NULL;
    }
    errno = os_error;
    ASSERT(errno != 0);
}

static int child_main(void *argument) {
    struct spawn *spawn = argument;
    const struct process_spec *spec = spawn->spec;
    if (!child_descriptors(spawn) || !child_limits(spawn) || !child_identity(spawn)) {
        return 127;
    }
    sigprocmask(SIG_SETMASK, &spawn->no_signals, NULL);
    errno = ENOENT;
    if (strchr(spec->argv[0], '/')) {
        execve(spec->argv[0], spec->argv, spec->env);
    } else {
        child_search(spec);
    }
    ASSERT(errno != 0);
    (void)child_fail(spawn, "run the command");
    ASSERT(spawn->failed_step);
    return 127;
}

/* ---- In the parent ------------------------------------------------------------------------------ */

#if defined(__x86_64__)

/* Linux, include/uapi/linux/sched.h. */
#define CLONE3_INTO_CGROUP 0x200000000ull

struct clone3_arguments {
    uint64_t flags;
    uint64_t pidfd;
    uint64_t child_tid;
    uint64_t parent_tid;
    uint64_t exit_signal;
    uint64_t stack;
    uint64_t stack_size;
    uint64_t tls;
    uint64_t set_tid;
    uint64_t set_tid_size;
    uint64_t cgroup;
};

/* clone3 has no function in the C library. The child starts on its own stack, calls entry(argument) and exits. */
static long clone3_call(const struct clone3_arguments *arguments, int (*entry)(void *),
                        void *argument) {
    ASSERT(arguments->stack != 0);
    ASSERT(arguments->stack_size % 16 == 0);
    long result = SYS_clone3;
    register int (*child_entry)(void *) __asm__("r12") = entry;
    register void *child_argument __asm__("r13") = argument;
    __asm__ volatile("syscall\n\t"
                     "test %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "xor %%ebp, %%ebp\n\t"
                     "mov %%r13, %%rdi\n\t"
                     "call *%%r12\n\t"
                     "mov %%eax, %%edi\n\t"
                     "mov %[exit], %%eax\n\t"
                     "syscall\n\t"
                     "hlt\n"
                     "1:"
                     : "+a"(result)
                     : "D"(arguments), "S"(sizeof(*arguments)), "r"(child_entry),
                       "r"(child_argument), [exit] "i"(SYS_exit_group)
                     : "rcx", "r11", "memory");
    return result;
}

/* The child is born in its control group: moving it there later would wait for an RCU grace period. */
static pid_t spawn_clone(struct spawn *spawn) {
    const struct process_spec *spec = spawn->spec;
    ASSERT(spec->stack);
    ASSERT(spec->argv[0]);
    struct clone3_arguments arguments = {
        .flags = CLONE_VM | CLONE_VFORK,
        .exit_signal = SIGCHLD,
        .stack = (uint64_t)(uintptr_t)spec->stack,
        .stack_size = GUEST_SPAWN_STACK_SIZE,
    };
    if (spec->cgroup_fd >= 0) {
        arguments.flags |= CLONE3_INTO_CGROUP;
        arguments.cgroup = (uint64_t)spec->cgroup_fd;
    }
    long result = clone3_call(&arguments, child_main, spawn);
    if (result < 0) {
        errno = (int)-result;
        return -1;
    }
    ASSERT(result > 0);
    return (pid_t)result;
}

#else

static int child_main_in_cgroup(void *argument) {
    struct spawn *spawn = argument;
    int fd = openat(spawn->spec->cgroup_fd, "cgroup.procs", O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, "0", 1) != 1) {
        (void)child_fail(spawn, "enter the control group");
        return 127;
    }
    return child_main(argument);
}

static pid_t spawn_clone(struct spawn *spawn) {
    const struct process_spec *spec = spawn->spec;
    ASSERT(spec->stack);
    ASSERT(spec->argv[0]);
    char *stack_top = (char *)spec->stack + GUEST_SPAWN_STACK_SIZE;
    return clone(spec->cgroup_fd >= 0 ? child_main_in_cgroup : child_main, stack_top,
                 CLONE_VM | CLONE_VFORK | SIGCHLD, spawn);
}

#endif

enum kelpie_status process_spawn(const struct process_spec *spec, pid_t *ret_pid,
                                 struct kelpie_error *err) {
    ASSERT(spec->argv[0]);
    ASSERT(ret_pid);
    struct spawn spawn = {.spec = spec};
    sigemptyset(&spawn.no_signals);
    pid_t pid = spawn_clone(&spawn);
    if (pid < 0) {
        return error_set_os(err, errno, "start a process");
    }
    if (spawn.failed_step) {
        /* It ends by itself and is reaped with the others, or here. */
        return error_set_os(err, spawn.os_error, "%s: %.100s", spawn.failed_step, spec->argv[0]);
    }
    *ret_pid = pid;
    return KELPIE_OK;
}
