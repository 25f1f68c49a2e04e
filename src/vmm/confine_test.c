/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Each try is a child of its own: what is confined stays so. */
#include "vmm/confine.h"

#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/assert.h"

#define CODE_OK 7

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define FILTERS_APPLY false
#else
#define FILTERS_APPLY true
#endif

/* What a vCPU's thread does there; its own kind of confinement first. */
static void *thread_run(void *argument) {
    void (*act)(void) = *(void (**)(void))argument;
    if (confine_vcpu_thread()) {
        act();
        syscall(231 /* exit_group */, CODE_OK);
    }
    return NULL;
}

/* How a child ends that is confined and then does it: CODE_OK, or the signal that killed it, negative. */
static int outcome(void (*act)(void), bool in_thread) {
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        pthread_t thread;
        if (in_thread) {
            pthread_create(&thread, NULL, thread_run, &act);
            pthread_join(thread, NULL);
            _exit(1);
        }
        if (confine_process(NULL) != KELPIE_OK) {
            _exit(1);
        }
        act();
        _exit(CODE_OK);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

static void does_nothing(void) {
}

static void writes(void) {
    (void)!write(STDERR_FILENO, "", 0);
}

static void opens(void) {
    (void)!open("/etc/passwd", O_RDONLY | O_CLOEXEC);
}

static void makes_a_socket(void) {
    (void)!socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

static void forks(void) {
    (void)!fork();
}

static void executes(void) {
    execl("/bin/true", "true", (char *)NULL);
}

static void maps_memory(void) {
    (void)!mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void traces(void) {
    (void)!syscall(101 /* ptrace */, 0, 0, 0, 0);
}

static void skip_without_filters(void) {
    if (!FILTERS_APPLY) {
        print_message("skipped: a sanitizer makes system calls of its own\n");
        skip();
    }
}

static void test_what_is_needed_is_allowed(void **state) {
    (void)state;
    skip_without_filters();
    assert_int_equal(outcome(does_nothing, false), CODE_OK);
    assert_int_equal(outcome(writes, false), CODE_OK);
    assert_int_equal(outcome(maps_memory, false), CODE_OK);
    assert_int_equal(outcome(does_nothing, true), CODE_OK);
    assert_int_equal(outcome(writes, true), CODE_OK);
}

static void test_anything_else_kills(void **state) {
    (void)state;
    skip_without_filters();
    void (*const acts[])(void) = {opens, makes_a_socket, forks, executes, traces};
    for (size_t i = 0; i < ARRAY_SIZE(acts); i++) {
        assert_int_equal(outcome(acts[i], false), -SIGSYS);
        assert_int_equal(outcome(acts[i], true), -SIGSYS);
    }
    assert_int_equal(outcome(maps_memory, true), -SIGSYS); /* the I/O thread's alone */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_needed_is_allowed),
        cmocka_unit_test(test_anything_else_kills),
    };
    return cmocka_run_group_tests_name("confine", tests, NULL, NULL);
}
