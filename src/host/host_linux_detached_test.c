/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The Linux host's detached processes: they outlive their maker, and share nothing with it. */
#include "host/host.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define LONG_MS 20000
#define TEXT_SIZE 4096

static int setup(void **state) {
    struct host *host = NULL;
    assert_int_equal(host_linux_create(&host, NULL), KELPIE_OK);
    *state = host;
    return 0;
}

static int teardown(void **state) {
    host_destroy(*state);
    return 0;
}

/* `sh -c script`, detached, whose descriptor 3 is `fd`. */
static struct host_process *detach(struct host *host, const char *script, int fd) {
    const char *argv[] = {"sh", "-c", script, NULL};
    const struct host_process_fd given = {.child_fd = 3, .fd = fd};
    const struct host_process_spec spec = {
        .argv = argv, .fds = &given, .fd_count = 1, .detached = true};
    struct host_process *process = NULL;
    struct kelpie_error err = {0};
    if (host_process_spawn(host, &spec, &process, &err) != KELPIE_OK) {
        fail_msg("%s", err.message);
    }
    return process;
}

/* Reads a line, or to the end. */
static void read_line(struct host *host, int fd, char text[TEXT_SIZE]) {
    struct host_wait wait = host_wait_ms(host, LONG_MS, HOST_FD_NONE);
    size_t used = 0;
    size_t count = 1;
    while (count > 0 && !(used > 0 && text[used - 1] == '\n')) {
        assert_true(used < TEXT_SIZE - 1);
        assert_int_equal(host_read(host, fd, text + used, 1, &wait, &count, NULL), KELPIE_OK);
        used += count;
    }
    text[used] = '\0';
}

static void wait_for_pidfd(int pidfd) {
    struct pollfd ended = {.fd = pidfd, .events = POLLIN};
    assert_int_equal(poll(&ended, 1, LONG_MS), 1);
}

/* The number behind `name` in /proc/pid/status. */
static long status_number(int pid, const char *name) {
    char path[64];
    char text[TEXT_SIZE] = {0};
    snprintf(path, sizeof(path), "/proc/%d/status", pid);
    FILE *file = fopen(path, "re");
    assert_non_null(file);
    size_t size = fread(text, 1, sizeof(text) - 1, file);
    fclose(file);
    assert_true(size > 0);
    const char *found = strstr(text, name);
    assert_non_null(found);
    return strtol(found + strlen(name), NULL, 16);
}

/* ---- What it is ------------------------------------------------------------------------------- */

static void it_has_a_session_of_its_own_and_no_parent_here(void **state) {
    struct host *host = *state;
    int fds[2];
    char text[TEXT_SIZE];
    assert_int_equal(host_socket_pair(host, fds, NULL), KELPIE_OK);
    struct host_process *process =
        detach(host, "ls /proc/self/fd | tr '\\n' ' ' >&3; echo >&3; read line <&3", fds[1]);
    host_close(host, fds[1]);
    int id = host_process_id(process);

    /* Its descriptors are 0, 1, 2, 3, and the one with which ls looks. */
    read_line(host, fds[0], text);
    assert_string_equal(text, "0 1 2 3 4 \n");
    assert_int_equal(getsid(id), id);
    assert_int_equal(getpgid(id), id);
    assert_int_not_equal(status_number(id, "PPid:\t"), getpid());
    assert_int_equal(status_number(id, "SigBlk:\t"), 0);

    /* Neither it nor its watcher is a child that this process would have to reap. */
    assert_int_equal(waitpid(-1, NULL, WNOHANG | __WALL), -1);
    assert_int_equal(errno, ECHILD);
    host_process_destroy(process);
    host_close(host, fds[0]);
}

static void its_end_is_seen_and_how_is_not(void **state) {
    struct host *host = *state;
    int fds[2];
    struct host_process_exit end = {.code = 42};
    struct kelpie_error err = {0};
    assert_int_equal(host_socket_pair(host, fds, NULL), KELPIE_OK);
    struct host_process *process = detach(host, "read line <&3; exit 3", fds[1]);
    host_close(host, fds[1]);
    struct host_wait wait = host_wait_none();
    assert_int_equal(host_process_wait(process, &wait, &end, NULL), KELPIE_TIMED_OUT);
    host_close(host, fds[0]);
    wait = host_wait_ms(host, LONG_MS, HOST_FD_NONE);
    struct host_poll_item item = {.fd = host_process_fd(process), .asked = HOST_POLL_READ};
    assert_int_equal(host_poll(host, &item, 1, &wait, NULL), KELPIE_OK);
    assert_int_equal(host_process_wait(process, &wait, &end, &err), KELPIE_UNSUPPORTED);
    assert_int_equal(end.code, 42);
    assert_int_equal(host_process_signal(process, SIGTERM, NULL), KELPIE_OK); /* it has ended */
    host_process_destroy(process);
}

static void it_can_be_signalled(void **state) {
    struct host *host = *state;
    int fds[2];
    assert_int_equal(host_socket_pair(host, fds, NULL), KELPIE_OK);
    struct host_process *process = detach(host, "read line <&3", fds[1]);
    host_close(host, fds[1]);
    assert_int_equal(host_process_signal(process, SIGKILL, NULL), KELPIE_OK);
    wait_for_pidfd(host_process_fd(process));
    host_process_destroy(process);
    host_close(host, fds[0]);
}

static void a_program_that_cannot_start_leaves_nothing(void **state) {
    struct host *host = *state;
    const char *argv[] = {"/dev/null", NULL};
    struct host_process *process = NULL;
    assert_int_equal(host_process_spawn(host,
                                        &(struct host_process_spec){.argv = argv, .detached = true},
                                        &process, NULL),
                     KELPIE_IO_FAILED);
    assert_int_equal(waitpid(-1, NULL, WNOHANG | __WALL), -1);
    assert_int_equal(errno, ECHILD);
}

/* ---- Outliving -------------------------------------------------------------------------------- */

static void its_handle_does_not_hold_it(void **state) {
    struct host *host = *state;
    int fds[2];
    char text[TEXT_SIZE];
    assert_int_equal(host_socket_pair(host, fds, NULL), KELPIE_OK);
    host_process_destroy(detach(host, "read line <&3; echo $line >&3", fds[1]));
    host_close(host, fds[1]);
    struct host_wait wait = host_wait_ms(host, LONG_MS, HOST_FD_NONE);
    assert_int_equal(host_write_all(host, fds[0], "alive\n", 6, &wait, NULL), KELPIE_OK);
    read_line(host, fds[0], text);
    assert_string_equal(text, "alive\n");
    host_close(host, fds[0]);
}

/* The maker: a process of its own that spawns, says the pid, and ends, with its host destroyed or killed. */
static void make_and_end(int fd, bool killed) {
    struct host *host = NULL;
    if (host_linux_create(&host, NULL) != KELPIE_OK) {
        _exit(1);
    }
    struct host_process *process = detach(host, "echo $$ >&3; read line <&3; echo $line >&3", fd);
    if (killed) {
        (void)kill(getpid(), SIGKILL);
    }
    host_process_destroy(process);
    host_destroy(host);
    _exit(0);
}

static void outlives(struct host *host, bool killed) {
    int fds[2];
    int status = 0;
    char text[TEXT_SIZE];
    assert_int_equal(host_socket_pair(host, fds, NULL), KELPIE_OK);
    pid_t maker = fork();
    assert_true(maker >= 0);
    if (maker == 0) {
        close(fds[0]);
        make_and_end(fds[1], killed);
    }
    host_close(host, fds[1]);
    assert_int_equal(waitpid(maker, &status, 0), maker);
    assert_true(killed ? WIFSIGNALED(status) : WIFEXITED(status) && WEXITSTATUS(status) == 0);

    read_line(host, fds[0], text);
    pid_t pid = (pid_t)strtol(text, NULL, 10);
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    assert_true(pidfd >= 0);
    struct host_wait wait = host_wait_ms(host, LONG_MS, HOST_FD_NONE);
    assert_int_equal(host_write_all(host, fds[0], "alive\n", 6, &wait, NULL), KELPIE_OK);
    read_line(host, fds[0], text);
    assert_string_equal(text, "alive\n");
    wait_for_pidfd(pidfd);
    close(pidfd);
    host_close(host, fds[0]);
}

static void it_outlives_a_maker_that_ends(void **state) {
    outlives(*state, false);
}

static void it_outlives_a_maker_that_is_killed(void **state) {
    outlives(*state, true);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(it_has_a_session_of_its_own_and_no_parent_here, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(its_end_is_seen_and_how_is_not, setup, teardown),
        cmocka_unit_test_setup_teardown(it_can_be_signalled, setup, teardown),
        cmocka_unit_test_setup_teardown(a_program_that_cannot_start_leaves_nothing, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(its_handle_does_not_hold_it, setup, teardown),
        cmocka_unit_test_setup_teardown(it_outlives_a_maker_that_ends, setup, teardown),
        cmocka_unit_test_setup_teardown(it_outlives_a_maker_that_is_killed, setup, teardown),
    };
    return cmocka_run_group_tests_name("host_linux_detached", tests, NULL, NULL);
}
