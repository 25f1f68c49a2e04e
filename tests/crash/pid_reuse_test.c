/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * An owner that died, and another process that has its number now (hazard E2). Whether an owner
 * lives is said by a lock that it holds, and by nothing else: the VM is seen as dead, and the stranger is left alone.
 *
 * The tests run as the first process of a process namespace of their own, in which a number can be given to whom one wants. That
 * takes root, and is skipped aloud without.
 */
#include <errno.h>
#include <linux/sched.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "../support/kelpie.h"

#define REAP_COUNT_MAX 1000
#define REAP_PERIOD_US 10000

static int create_home(void **state) {
    (void)state;
    kelpie_home_create();
    return 0;
}

static int remove_home(void **state) {
    (void)state;
    return kelpie_home_remove();
}

static void expect_code(const char *const *words, int code) {
    struct kelpie_result result = kelpie_run(words, NULL);
    if (result.code != code) {
        fail_msg("%s: code %d, out: %s, err: %s", words[0], result.code, result.out, result.err);
    }
}

/* What `kelpie inspect web` says: the state, compared, and the owner. */
static pid_t inspect(const char *state) {
    struct kelpie_result result = kelpie_run(WORDS("inspect", "web"), NULL);
    assert_int_equal(result.code, 0);
    json_t *array = json_loads(result.out, 0, NULL);
    json_t *vm = json_array_get(array, 0);
    assert_non_null(vm);
    assert_string_equal(json_string_value(json_object_get(vm, "state")), state);
    pid_t owner = (pid_t)json_integer_value(json_object_get(vm, "owner_pid"));
    json_decref(array);
    return owner;
}

/* Nobody else waits for it: it has come to us, the first process. */
static void end_owner(pid_t owner) {
    assert_true(owner > 1);
    assert_int_equal(kill(owner, SIGKILL), 0);
    pid_t ended = 0;
    for (int i = 0; i < REAP_COUNT_MAX && ended == 0; i++) {
        ended = waitpid(owner, NULL, WNOHANG);
        usleep(REAP_PERIOD_US);
    }
    assert_int_equal(ended, owner);
    assert_int_equal(kill(owner, 0), -1);
    assert_int_equal(errno, ESRCH);
}

/* A process of that number, which does nothing. */
static pid_t start_stranger(pid_t number) {
    pid_t wanted[1] = {number};
    struct clone_args args = {
        .exit_signal = SIGCHLD, .set_tid = (uint64_t)(uintptr_t)wanted, .set_tid_size = 1};
    long pid = syscall(SYS_clone3, &args, sizeof(args));
    if (pid == 0) {
        for (;;) {
            pause();
        }
    }
    return (pid_t)pid;
}

static void hazard_e2_a_reused_number_is_no_owner(void **state) {
    (void)state;
    expect_code(WORDS("create", "--backend", "mock", "--name", "web"), 0);
    expect_code(WORDS("start", "web"), 0);
    pid_t owner = inspect("running");
    end_owner(owner);
    pid_t stranger = start_stranger(owner);
    if (stranger < 0) {
        print_message("skipped: this kernel gives no number that is asked for: %s\n",
                      strerror(errno));
        skip();
    }
    assert_int_equal(stranger, owner);
    assert_int_equal(inspect("crashed"), 0);
    expect_code(WORDS("kill", "web"), 125);
    expect_code(WORDS("stop", "web"), 125);
    expect_code(WORDS("prune"), 0);
    expect_code(WORDS("rm", "-f", "web"), 0);
    expect_code(WORDS("inspect", "web"), 125);
    assert_int_equal(waitpid(stranger, NULL, WNOHANG), 0); /* it lives */
    assert_int_equal(kill(stranger, SIGKILL), 0);
    assert_int_equal(waitpid(stranger, NULL, 0), stranger);
}

static int test_as_first_process(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(hazard_e2_a_reused_number_is_no_owner, create_home,
                                        remove_home),
    };
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("proc", "/proc", "proc", 0, NULL) != 0) {
        printf("skipped: no /proc of our own here: %s\n", strerror(errno));
        return 0;
    }
    return cmocka_run_group_tests_name("crash/pid_reuse", tests, NULL, NULL);
}

/* As exit(), without the leak sanitizer: it cannot start its thread where the first process of its namespace is gone. */
static _Noreturn void end(int code) {
    (void)fflush(NULL);
    _exit(code);
}

int main(void) {
    int status = 0;
    if (unshare(CLONE_NEWPID | CLONE_NEWNS) != 0) {
        printf("skipped: no process namespace of our own here: %s\n", strerror(errno));
        return 0;
    }
    pid_t pid = fork();
    if (pid == 0) {
        end(test_as_first_process());
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid) {
        return 1;
    }
    end(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
}
