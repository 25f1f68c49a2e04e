/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The Linux host's processes: how they start, what they inherit, how and when they end. */
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
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define SHORT_MS 50
#define LONG_MS 20000
#define LATE_MS 5000
#define OUTPUT_SIZE 4096
#define PID_TRY_COUNT 200

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

static struct host_process *spawn(struct host *host, const struct host_process_spec *spec) {
    struct host_process *process = NULL;
    struct kelpie_error err = {0};
    if (host_process_spawn(host, spec, &process, &err) != KELPIE_OK) {
        fail_msg("%s", err.message);
    }
    return process;
}

static struct host_process *spawn_sleep(struct host *host) {
    const char *argv[] = {"sleep", "1000", NULL};
    return spawn(host, &(struct host_process_spec){.argv = argv, .dies_with_owner = true});
}

static struct host_process_exit wait_end(struct host *host, struct host_process *process) {
    struct host_wait wait = host_wait_ms(host, LONG_MS, HOST_FD_NONE);
    struct host_process_exit end = {0};
    assert_int_equal(host_process_wait(process, &wait, &end, NULL), KELPIE_OK);
    return end;
}

/* Reads until the other end closes. */
static void read_all(struct host *host, int fd, char output[OUTPUT_SIZE]) {
    struct host_wait wait = host_wait_ms(host, LONG_MS, HOST_FD_NONE);
    size_t used = 0;
    size_t count = 1;
    while (count > 0) {
        assert_true(used < OUTPUT_SIZE - 1);
        assert_int_equal(
            host_read(host, fd, output + used, OUTPUT_SIZE - 1 - used, &wait, &count, NULL),
            KELPIE_OK);
        used += count;
    }
    output[used] = '\0';
}

/* Runs `sh -c script` with `spec` besides, and returns what it wrote and its exit code. */
static int run_script(struct host *host, struct host_process_spec spec, const char *script,
                      char output[OUTPUT_SIZE]) {
    int fds[2];
    assert_int_equal(host_socket_pair(host, fds, NULL), KELPIE_OK);
    const char *argv[] = {"sh", "-c", script, NULL};
    struct host_process_fd out = {.child_fd = 1, .fd = fds[1]};
    spec.argv = argv;
    spec.fds = &out;
    spec.fd_count = 1;
    struct host_process *process = spawn(host, &spec);
    host_close(host, fds[1]);
    read_all(host, fds[0], output);
    host_close(host, fds[0]);
    int code = wait_end(host, process).code;
    host_process_destroy(process);
    return code;
}

static bool pid_is_ended(pid_t pid) {
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (fd < 0) {
        assert_int_equal(errno, ESRCH);
        return true;
    }
    struct pollfd ended = {.fd = fd, .events = POLLIN};
    int count = poll(&ended, 1, 0);
    close(fd);
    return count > 0;
}

static void assert_ends_soon(struct host *host, pid_t pid) {
    struct host_wait limit = host_wait_ms(host, LATE_MS, HOST_FD_NONE);
    while (!pid_is_ended(pid)) {
        assert_true(host_monotonic_ns(host) < limit.deadline_ns);
        struct host_wait pause = host_wait_ms(host, 2, HOST_FD_NONE);
        assert_int_equal(host_sleep(host, &pause, NULL), KELPIE_OK);
    }
}

static void pause_ms(struct host *host, uint64_t ms) {
    struct host_wait pause = host_wait_ms(host, ms, HOST_FD_NONE);
    assert_int_equal(host_sleep(host, &pause, NULL), KELPIE_OK);
}

/* ---- Starting --------------------------------------------------------------------------------- */

static void exit_code_and_signal_are_told(void **state) {
    struct host *host = *state;
    char output[OUTPUT_SIZE];
    assert_int_equal(run_script(host, (struct host_process_spec){0}, "echo hi; exit 7", output), 7);
    assert_string_equal(output, "hi\n");

    struct host_process *process = spawn_sleep(host);
    assert_int_equal(host_process_signal(process, SIGTERM, NULL), KELPIE_OK);
    struct host_process_exit end = wait_end(host, process);
    assert_int_equal(end.signal, SIGTERM);
    assert_int_equal(end.code, 0);
    end = wait_end(host, process); /* again, and it says the same */
    assert_int_equal(end.signal, SIGTERM);
    host_process_destroy(process);
}

static void a_missing_program_is_not_found(void **state) {
    struct host *host = *state;
    struct host_process *process = NULL;
    struct kelpie_error err = {0};
    const char *argv[] = {"kelpie-no-such-program", NULL};
    struct host_process_spec spec = {.argv = argv};
    assert_int_equal(host_process_spawn(host, &spec, &process, &err), KELPIE_NOT_FOUND);
    assert_non_null(strstr(err.message, "kelpie-no-such-program"));
    argv[0] = "/nowhere/kelpie-no-such-program";
    assert_int_equal(host_process_spawn(host, &spec, &process, &err), KELPIE_NOT_FOUND);
    assert_int_equal(err.os_error, ENOENT);
    argv[0] = "/etc/passwd";
    assert_int_equal(host_process_spawn(host, &spec, &process, &err), KELPIE_IO_FAILED);
    assert_int_equal(err.os_error, EACCES);
    argv[0] = "true";
    spec.working_dir = "/nowhere";
    assert_int_equal(host_process_spawn(host, &spec, &process, &err), KELPIE_NOT_FOUND);
    assert_non_null(strstr(err.message, "folder"));
    assert_null(process);
    assert_int_equal(waitpid(-1, NULL, __WALL | WNOHANG), -1); /* no watcher is left */
    assert_int_equal(errno, ECHILD);
}

static void env_folder_and_session_are_set(void **state) {
    struct host *host = *state;
    char output[OUTPUT_SIZE];
    const char *env[] = {"KELPIE_TEST=given", NULL};
    struct host_process_spec spec = {.env = env, .working_dir = "/usr"};
    run_script(host, spec, "echo $KELPIE_TEST; pwd", output);
    assert_string_equal(output, "given\n/usr\n");
    const char *is_leader = "read pid name status parent group session rest </proc/$$/stat;"
                            "[ $pid = $session ] && echo leader || echo member";
    run_script(host, (struct host_process_spec){.new_session = true}, is_leader, output);
    assert_string_equal(output, "leader\n");
    run_script(host, (struct host_process_spec){0}, is_leader, output);
    assert_string_equal(output, "member\n");
}

static void signals_are_at_their_defaults(void **state) {
    struct host *host = *state;
    char output[OUTPUT_SIZE];
    sigset_t blocked;
    sigset_t before;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGTERM);
    sigprocmask(SIG_BLOCK, &blocked, &before);
    void (*handler)(int) = signal(SIGPIPE, SIG_IGN);
    run_script(host, (struct host_process_spec){0},
               "grep -cE '^Sig(Blk|Ign):.*0000000000000000$' /proc/self/status", output);
    signal(SIGPIPE, handler);
    sigprocmask(SIG_SETMASK, &before, NULL);
    assert_string_equal(output, "2\n");
}

/* ---- Descriptors ------------------------------------------------------------------------------ */

static void no_descriptor_leaks_into_a_child(void **state) {
    struct host *host = *state;
    char output[OUTPUT_SIZE];
    int careless = open("/dev/null", O_RDONLY); /* the embedding program's, not close-on-exec */
    assert_true(careless >= 0);
    assert_int_equal(dup2(careless, 100), 100);
    run_script(host, (struct host_process_spec){0}, "ls /proc/$$/fd; readlink /proc/$$/fd/0",
               output);
    close(careless);
    close(100);
    assert_string_equal(output, "0\n1\n2\n/dev/null\n");
}

/* Child descriptors 100 and 101 are our 101 and 100: each target is the other's source. */
static void targets_may_be_sources(void **state) {
    struct host *host = *state;
    int first[2];
    int second[2];
    assert_int_equal(host_socket_pair(host, first, NULL), KELPIE_OK);
    assert_int_equal(host_socket_pair(host, second, NULL), KELPIE_OK);
    assert_int_equal(fcntl(first[1], F_DUPFD_CLOEXEC, 100), 100);
    assert_int_equal(fcntl(second[1], F_DUPFD_CLOEXEC, 101), 101);
    host_close(host, first[1]);
    host_close(host, second[1]);
    struct host_process_fd fds[] = {{.child_fd = 101, .fd = 100}, {.child_fd = 100, .fd = 101}};
    const char *argv[] = {"bash", "-c", "echo first >&101; echo second >&100", NULL};
    struct host_process *process =
        spawn(host, &(struct host_process_spec){.argv = argv, .fds = fds, .fd_count = 2});
    host_close(host, 100);
    host_close(host, 101);
    char output[OUTPUT_SIZE];
    read_all(host, first[0], output);
    assert_string_equal(output, "first\n");
    read_all(host, second[0], output);
    assert_string_equal(output, "second\n");
    host_process_destroy(process);
    host_close(host, first[0]);
    host_close(host, second[0]);
}

/* ---- Waiting ---------------------------------------------------------------------------------- */

static void wait_ends_at_its_deadline(void **state) {
    struct host *host = *state;
    struct host_process *process = spawn_sleep(host);
    struct host_process_exit end = {.code = 99};
    uint64_t start = host_monotonic_ns(host);
    struct host_wait wait = host_wait_ms(host, SHORT_MS, HOST_FD_NONE);
    assert_int_equal(host_process_wait(process, &wait, &end, NULL), KELPIE_TIMED_OUT);
    uint64_t elapsed_ms = (host_monotonic_ns(host) - start) / HOST_NS_PER_MS;
    assert_true(elapsed_ms >= SHORT_MS);
    assert_true(elapsed_ms < LATE_MS);
    assert_int_equal(end.code, 99);

    int event = HOST_FD_NONE;
    assert_int_equal(host_event_create(host, &event, NULL), KELPIE_OK);
    host_event_set(host, event);
    wait = host_wait_ms(host, LONG_MS, event);
    assert_int_equal(host_process_wait(process, &wait, &end, NULL), KELPIE_CANCELLED);
    host_close(host, event);
    host_process_destroy(process);
}

static void its_descriptor_is_readable_at_the_end(void **state) {
    struct host *host = *state;
    struct host_process *process = spawn_sleep(host);
    struct host_poll_item item = {.fd = host_process_fd(process), .asked = HOST_POLL_READ};
    struct host_wait wait = host_wait_ms(host, SHORT_MS, HOST_FD_NONE);
    assert_int_equal(host_poll(host, &item, 1, &wait, NULL), KELPIE_TIMED_OUT);
    assert_int_equal(host_process_signal(process, SIGKILL, NULL), KELPIE_OK);
    wait = host_wait_ms(host, LONG_MS, HOST_FD_NONE);
    assert_int_equal(host_poll(host, &item, 1, &wait, NULL), KELPIE_OK);
    assert_int_equal(item.ready, HOST_POLL_READ);
    host_process_destroy(process);
}

struct waiter {
    struct host *host;
    struct host_process *process;
    struct host_process_exit end;
};

static void wait_in_thread(void *argument) {
    struct waiter *waiter = argument;
    waiter->end = wait_end(waiter->host, waiter->process);
}

static void two_threads_may_wait(void **state) {
    struct host *host = *state;
    struct host_process *process = spawn_sleep(host);
    struct waiter waiters[2] = {{.host = host, .process = process},
                                {.host = host, .process = process}};
    struct host_thread *threads[2] = {NULL, NULL};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(
            host_thread_start(host, "waiter", wait_in_thread, &waiters[i], &threads[i], NULL),
            KELPIE_OK);
    }
    pause_ms(host, SHORT_MS);
    assert_int_equal(host_process_signal(process, SIGINT, NULL), KELPIE_OK);
    for (int i = 0; i < 2; i++) {
        host_thread_join(threads[i]);
        assert_int_equal(waiters[i].end.signal, SIGINT);
    }
    host_process_destroy(process);
}

static void spawn_many(void *argument) {
    struct host *host = argument;
    const char *argv[] = {"true", NULL};
    for (int i = 0; i < 20; i++) {
        struct host_process *process = spawn(host, &(struct host_process_spec){.argv = argv});
        struct host_process_exit end = wait_end(host, process);
        assert_int_equal(end.code, 0);
        assert_int_equal(end.signal, 0);
        host_process_destroy(process);
    }
}

static void several_threads_may_spawn(void **state) {
    struct host *host = *state;
    struct host_thread *threads[4] = {NULL};
    for (int i = 0; i < 4; i++) {
        assert_int_equal(host_thread_start(host, "many", spawn_many, host, &threads[i], NULL),
                         KELPIE_OK);
    }
    for (int i = 0; i < 4; i++) {
        host_thread_join(threads[i]);
    }
}

/* ---- The embedding program -------------------------------------------------------------------- */

static volatile sig_atomic_t child_signals;

static void count_signal(int number) {
    (void)number;
    child_signals++;
}

static void the_owners_wait_does_not_see_it(void **state) {
    struct host *host = *state;
    child_signals = 0;
    void (*handler)(int) = signal(SIGCHLD, count_signal);
    struct host_process *process = spawn_sleep(host);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
    assert_int_equal(errno, ECHILD);
    assert_int_equal(host_process_signal(process, SIGKILL, NULL), KELPIE_OK);
    assert_int_equal(wait_end(host, process).signal, SIGKILL);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
    assert_int_equal(errno, ECHILD);
    host_process_destroy(process);
    signal(SIGCHLD, handler);
    assert_int_equal(child_signals, 0);
}

static void an_owner_that_ignores_children_learns_the_end(void **state) {
    struct host *host = *state;
    char output[OUTPUT_SIZE];
    void (*handler)(int) = signal(SIGCHLD, SIG_IGN);
    int code = run_script(host, (struct host_process_spec){0}, "exit 5", output);
    signal(SIGCHLD, handler);
    assert_int_equal(code, 5);
}

/* waitpid(-1, __WALL) of the embedding program reaps our watcher; we know the end all the same. */
static void an_owner_that_reaps_everything_does_no_harm(void **state) {
    struct host *host = *state;
    struct host_process *process = spawn_sleep(host);
    assert_int_equal(host_process_signal(process, SIGUSR1, NULL), KELPIE_OK);
    assert_true(waitpid(-1, NULL, __WALL) > 0);
    assert_int_equal(wait_end(host, process).signal, SIGUSR1);
    host_process_destroy(process);
}

/* ---- Ending ----------------------------------------------------------------------------------- */

static void destroy_kills(void **state) {
    struct host *host = *state;
    const char *argv[] = {"sh", "-c", "trap '' TERM INT; while :; do sleep 1; done", NULL};
    struct host_process *process = spawn(host, &(struct host_process_spec){.argv = argv});
    pid_t pid = host_process_id(process);
    assert_false(pid_is_ended(pid));
    host_process_destroy(process);
    assert_true(pid_is_ended(pid));
    host_process_destroy(NULL);
}

/* The parent of a program is its watcher. */
static pid_t parent_of(pid_t pid) {
    char path[64];
    char text[512];
    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    assert_non_null(fgets(text, sizeof(text), file));
    fclose(file);
    const char *after_name = strrchr(text, ')');
    assert_non_null(after_name);
    return (pid_t)strtol(after_name + 4, NULL, 10);
}

static void a_killed_watcher_takes_the_program_along(void **state) {
    struct host *host = *state;
    struct host_process *process = spawn_sleep(host);
    pid_t pid = host_process_id(process);
    pid_t watcher = parent_of(pid);
    assert_true(watcher != getpid());
    assert_int_equal(kill(watcher, SIGKILL), 0);
    struct host_wait wait = host_wait_ms(host, LONG_MS, HOST_FD_NONE);
    struct host_process_exit end = {0};
    assert_int_equal(host_process_wait(process, &wait, &end, NULL), KELPIE_IO_FAILED);
    assert_ends_soon(host, pid);
    host_process_destroy(process);
}

static void spawn_in_thread(void *argument) {
    struct waiter *waiter = argument;
    waiter->process = spawn_sleep(waiter->host);
}

static struct host_process *spawn_from_short_thread(struct host *host) {
    struct waiter waiter = {.host = host};
    struct host_thread *thread = NULL;
    assert_int_equal(host_thread_start(host, "short", spawn_in_thread, &waiter, &thread, NULL),
                     KELPIE_OK);
    host_thread_join(thread);
    return waiter.process;
}

static void it_outlives_the_thread_that_asked(void **state) {
    struct host *host = *state;
    struct host_process *process = spawn_from_short_thread(host);
    pause_ms(host, (uint64_t)2 * SHORT_MS);
    assert_false(pid_is_ended(host_process_id(process)));
    host_process_destroy(process);
}

/* What this program does when it is started with the argument "owner": spawns from a thread that
 * ends, says which process that is, and waits to be killed. */
static int owner_main(void) {
    struct host *host = NULL;
    assert_int_equal(host_linux_create(&host, NULL), KELPIE_OK);
    struct host_process *process = spawn_from_short_thread(host);
    printf("%d\n", host_process_id(process));
    fflush(stdout);
    pause_ms(host, LONG_MS);
    return 1;
}

static void hazard_E1_child_dies_with_killed_owner(void **state) {
    struct host *host = *state;
    int fds[2];
    assert_int_equal(host_socket_pair(host, fds, NULL), KELPIE_OK);
    const char *argv[] = {"/proc/self/exe", "owner", NULL};
    struct host_process_fd out = {.child_fd = 1, .fd = fds[1]};
    struct host_process *owner =
        spawn(host, &(struct host_process_spec){.argv = argv, .fds = &out, .fd_count = 1});
    host_close(host, fds[1]);
    char text[32] = {0};
    size_t count = 0;
    struct host_wait wait = host_wait_ms(host, LONG_MS, HOST_FD_NONE);
    assert_int_equal(host_read(host, fds[0], text, sizeof(text) - 1, &wait, &count, NULL),
                     KELPIE_OK);
    pid_t pid = (pid_t)strtol(text, NULL, 10);
    assert_true(pid > 1);
    pause_ms(host, SHORT_MS);
    assert_false(pid_is_ended(pid));
    assert_int_equal(host_process_signal(owner, SIGKILL, NULL), KELPIE_OK);
    assert_ends_soon(host, pid);
    host_process_destroy(owner);
    host_close(host, fds[0]);
}

/* Makes a process whose pid is `wanted`, which must be free. 0: it did not work out. */
static pid_t fork_with_pid(pid_t wanted) {
    for (int i = 0; i < PID_TRY_COUNT; i++) {
        FILE *last = fopen("/proc/sys/kernel/ns_last_pid", "w");
        if (!last) {
            return 0;
        }
        fprintf(last, "%d", (int)wanted - 1);
        fclose(last);
        pid_t pid = fork();
        if (pid == 0) {
            pause();
            _exit(0);
        }
        if (pid == wanted) {
            return pid;
        }
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
    }
    return 0;
}

static void hazard_E2_signal_never_reaches_a_reused_pid(void **state) {
    struct host *host = *state;
    const char *argv[] = {"true", NULL};
    struct host_process *process = spawn(host, &(struct host_process_spec){.argv = argv});
    wait_end(host, process);
    assert_int_equal(host_process_signal(process, SIGKILL, NULL), KELPIE_OK);
    pid_t other = fork_with_pid(host_process_id(process));
    if (other == 0) {
        host_process_destroy(process);
        print_message("skipped: a pid cannot be reused at will here\n");
        skip();
    }
    assert_int_equal(host_process_signal(process, SIGKILL, NULL), KELPIE_OK);
    host_process_destroy(process);
    pause_ms(host, SHORT_MS);
    assert_false(pid_is_ended(other));
    kill(other, SIGKILL);
    waitpid(other, NULL, 0);
}

/* ---- What it uses ----------------------------------------------------------------------------- */

static void a_busy_child_uses_time_and_memory(void **state) {
    struct host *host = *state;
    const char *argv[] = {"sh", "-c", "while :; do :; done", NULL};
    struct host_process *busy = spawn(host, &(struct host_process_spec){.argv = argv});
    struct host_process *idle = spawn_sleep(host);
    struct host_process_usage usage = {0};
    struct host_wait limit = host_wait_ms(host, LATE_MS, HOST_FD_NONE);
    while (usage.cpu_ns < SHORT_MS * HOST_NS_PER_MS) {
        assert_int_equal(host_process_usage(host, host_process_id(busy), &usage, NULL), KELPIE_OK);
        assert_true(host_monotonic_ns(host) < limit.deadline_ns);
        pause_ms(host, 2);
    }
    assert_true(usage.resident_bytes > 100000 && usage.resident_bytes < 100000000);
    assert_int_equal(host_process_usage(host, host_process_id(idle), &usage, NULL), KELPIE_OK);
    assert_true(usage.cpu_ns < SHORT_MS * HOST_NS_PER_MS);

    int id = host_process_id(busy);
    host_process_destroy(busy);
    assert_int_equal(host_process_usage(host, id, &usage, NULL), KELPIE_NOT_FOUND);
    host_process_destroy(idle);
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "owner") == 0) {
        return owner_main();
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(exit_code_and_signal_are_told, setup, teardown),
        cmocka_unit_test_setup_teardown(a_missing_program_is_not_found, setup, teardown),
        cmocka_unit_test_setup_teardown(env_folder_and_session_are_set, setup, teardown),
        cmocka_unit_test_setup_teardown(signals_are_at_their_defaults, setup, teardown),
        cmocka_unit_test_setup_teardown(no_descriptor_leaks_into_a_child, setup, teardown),
        cmocka_unit_test_setup_teardown(targets_may_be_sources, setup, teardown),
        cmocka_unit_test_setup_teardown(wait_ends_at_its_deadline, setup, teardown),
        cmocka_unit_test_setup_teardown(its_descriptor_is_readable_at_the_end, setup, teardown),
        cmocka_unit_test_setup_teardown(two_threads_may_wait, setup, teardown),
        cmocka_unit_test_setup_teardown(several_threads_may_spawn, setup, teardown),
        cmocka_unit_test_setup_teardown(the_owners_wait_does_not_see_it, setup, teardown),
        cmocka_unit_test_setup_teardown(an_owner_that_ignores_children_learns_the_end, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(an_owner_that_reaps_everything_does_no_harm, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(destroy_kills, setup, teardown),
        cmocka_unit_test_setup_teardown(a_killed_watcher_takes_the_program_along, setup, teardown),
        cmocka_unit_test_setup_teardown(it_outlives_the_thread_that_asked, setup, teardown),
        cmocka_unit_test_setup_teardown(hazard_E1_child_dies_with_killed_owner, setup, teardown),
        cmocka_unit_test_setup_teardown(hazard_E2_signal_never_reaches_a_reused_pid, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_busy_child_uses_time_and_memory, setup, teardown),
    };
    return cmocka_run_group_tests_name("host_linux_process", tests, NULL, NULL);
}
