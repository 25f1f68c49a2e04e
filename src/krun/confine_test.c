/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Each try is a child of its own: what is confined stays so. */
#include "krun/confine.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/assert.h"

#define CODE_CONFINED_NOT 200
#define WRITABLE_DISK KRUN_CHILD_DISK_0
#define FIXED_DISK (KRUN_CHILD_DISK_0 + 1)

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define FILTERS_APPLY false
#else
#define FILTERS_APPLY true
#endif

/* Two disks where an owner puts them. */
static void give_disks(void) {
    for (int fd = WRITABLE_DISK; fd <= FIXED_DISK; fd++) {
        char name[] = "/tmp/kelpie-krun-confine-XXXXXX";
        int file = mkstemp(name);
        if (file < 0 || dup2(file, fd) < 0 || unlink(name) != 0 || (file != fd && close(file))) {
            _exit(CODE_CONFINED_NOT);
        }
    }
}

/* What a confined child gets for it: an errno, or 0. */
static int outcome(int (*act)(void)) {
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        const struct krun_order order = {
            .verb = KRUN_VERB_RUN, .disk_count = 2, .read_only = {false, true}};
        struct kelpie_error err;
        give_disks();
        if (krun_confine(&order, &err) != KELPIE_OK) {
            _exit(CODE_CONFINED_NOT);
        }
        errno = 0;
        _exit(act() >= 0 ? 0 : errno);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status)); /* nothing kills it */
    return WEXITSTATUS(status);
}

static bool has_landlock(void) {
    return syscall(SYS_landlock_create_ruleset, NULL, 0, 1 /* VERSION */) > 0;
}

static int open_again(int fd, int flags) {
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    return open(path, flags | O_CLOEXEC);
}

/* ---- What is tried ---------------------------------------------------------------------------- */

static int opens_a_file(void) {
    return open("/etc/passwd", O_RDONLY | O_CLOEXEC);
}

static int makes_a_file(void) {
    return open("/tmp/kelpie-krun-confine", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
}

static int opens_its_disk(void) {
    return open_again(WRITABLE_DISK, O_RDWR);
}

static int reads_its_fixed_disk(void) {
    return open_again(FIXED_DISK, O_RDONLY);
}

static int writes_its_fixed_disk(void) {
    return open_again(FIXED_DISK, O_RDWR);
}

/* As the kernel is given to libkrun. */
static int opens_a_memory_file(void) {
    int fd = memfd_create("kernel", MFD_CLOEXEC);
    return fd < 0 ? fd : open_again(fd, O_RDONLY);
}

static void *do_nothing(void *argument) {
    return argument;
}

static int starts_a_thread(void) {
    pthread_t thread;
    errno = pthread_create(&thread, NULL, do_nothing, NULL);
    return errno == 0 && pthread_join(thread, NULL) == 0 ? 0 : -1;
}

static int signals_a_thread(void) {
    return (int)syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), 0);
}

static int makes_a_pair(void) {
    int fds[2];
    return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds);
}

static int makes_a_socket(void) {
    return socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

static int forks(void) {
    pid_t child = fork();
    if (child == 0) {
        _exit(0);
    }
    return child;
}

static int executes(void) {
    static char *const argv[] = {"true", NULL};
    static char *const environment[] = {NULL};
    return execve("/bin/true", argv, environment);
}

static int kills(void) {
    return kill(getppid(), 0);
}

static int changes_a_mode(void) {
    return fchmod(WRITABLE_DISK, 0777);
}

static int unlinks(void) {
    return unlink("/tmp/kelpie-krun-confine");
}

static int traces(void) {
    return (int)syscall(SYS_ptrace, 0, 0, 0, 0);
}

static int has_limits(void) {
    struct rlimit core = {1, 1};
    struct rlimit fds = {0};
    bool known = getrlimit(RLIMIT_CORE, &core) == 0 && getrlimit(RLIMIT_NOFILE, &fds) == 0;
    return known && core.rlim_max == 0 && fds.rlim_max <= KRUN_FD_COUNT_MAX ? 0 : -1;
}

/* ---- Cases ------------------------------------------------------------------------------------ */

static void what_a_machine_needs_is_left(void **state) {
    int (*const acts[])(void) = {opens_its_disk,  reads_its_fixed_disk, opens_a_memory_file,
                                 starts_a_thread, signals_a_thread,     makes_a_pair,
                                 has_limits};
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(acts); i++) {
        assert_int_equal(outcome(acts[i]), 0);
    }
}

static void what_no_machine_needs_is_refused(void **state) {
    int (*const acts[])(void) = {makes_a_socket, forks,   executes, kills,
                                 changes_a_mode, unlinks, traces};
    (void)state;
    if (!FILTERS_APPLY) {
        print_message("skipped: a sanitizer makes system calls of its own\n");
        skip();
    }
    for (size_t i = 0; i < ARRAY_SIZE(acts); i++) {
        assert_int_equal(outcome(acts[i]), EPERM);
    }
}

static void no_other_file_is_opened(void **state) {
    int (*const acts[])(void) = {opens_a_file, makes_a_file, writes_its_fixed_disk};
    (void)state;
    if (!has_landlock()) {
        print_message("skipped: this kernel has no Landlock\n");
        skip();
    }
    for (size_t i = 0; i < ARRAY_SIZE(acts); i++) {
        assert_int_equal(outcome(acts[i]), EACCES);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_a_machine_needs_is_left),
        cmocka_unit_test(what_no_machine_needs_is_refused),
        cmocka_unit_test(no_other_file_is_opened),
    };
    return cmocka_run_group_tests_name("krun/confine", tests, NULL, NULL);
}
