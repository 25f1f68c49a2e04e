/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The fault host itself: that it fails what it is told to, and sees what is left open. */
#include "support/fault_host.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

struct hosts {
    struct host *inner;
    struct host *host;
};

static int setup(void **state) {
    struct hosts *hosts = calloc(1, sizeof(*hosts));
    assert_non_null(hosts);
    assert_int_equal(host_linux_create(&hosts->inner, NULL), KELPIE_OK);
    assert_int_equal(fault_host_create(hosts->inner, &hosts->host, NULL), KELPIE_OK);
    *state = hosts;
    return 0;
}

static int teardown(void **state) {
    struct hosts *hosts = *state;
    host_destroy(hosts->host);
    host_destroy(hosts->inner);
    free(hosts);
    return 0;
}

static struct host *host_of_state(void **state) {
    return ((struct hosts *)*state)->host;
}

static void assert_no_leaks(struct host *host) {
    char text[1024];
    if (fault_host_leaks(host, text, sizeof(text)) != 0) {
        fail_msg("left open: %s", text);
    }
}

static enum kelpie_status make_event(struct host *host, struct kelpie_error *err) {
    AUTO_FD struct host_fd event = {host, HOST_FD_NONE};
    return host_event_create(host, &event.fd, err);
}

static void nothing_fails_unarmed(void **state) {
    struct host *host = host_of_state(state);
    for (int i = 0; i < 10; i++) {
        assert_int_equal(make_event(host, NULL), KELPIE_OK);
    }
    assert_null(fault_host_fired(host));
    assert_true(fault_host_calls(host) == 10);
    assert_no_leaks(host);
}

static void the_nth_call_fails_once(void **state) {
    struct host *host = host_of_state(state);
    fault_host_arm(host, &(struct fault_plan){.nth = 3});
    struct kelpie_error err = {0};
    assert_int_equal(make_event(host, &err), KELPIE_OK);
    assert_int_equal(make_event(host, &err), KELPIE_OK);
    assert_null(fault_host_fired(host));
    assert_int_equal(make_event(host, &err), KELPIE_IO_FAILED);
    assert_int_equal(err.os_error, EIO);
    assert_non_null(strstr(err.message, "event_create"));
    assert_string_equal(fault_host_fired(host), "event_create");
    assert_int_equal(make_event(host, &err), KELPIE_OK);
    assert_true(fault_host_calls(host) == 4);
}

static void sticky_fails_until_disarmed(void **state) {
    struct host *host = host_of_state(state);
    fault_host_arm(host, &(struct fault_plan){.nth = 2, .sticky = true, .os_error = ENOSPC});
    assert_int_equal(make_event(host, NULL), KELPIE_OK);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(make_event(host, NULL), KELPIE_NO_SPACE);
    }
    assert_null(host_allocate(host, 1, NULL));
    fault_host_disarm(host);
    assert_int_equal(make_event(host, NULL), KELPIE_OK);
    assert_string_equal(fault_host_fired(host), "event_create");
}

static void a_plan_kills_the_process(void **state) {
    struct host *host = host_of_state(state);
    for (uint64_t nth = 1; nth <= 4; nth++) {
        int ending = 0;
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            fault_host_arm(host, &(struct fault_plan){.nth = nth, .kills = true});
            for (int i = 0; i < 3; i++) {
                (void)!make_event(host, NULL);
            }
            _exit(7);
        }
        assert_int_equal(waitpid(child, &ending, 0), child);
        assert_int_equal(WIFSIGNALED(ending), nth <= 3);
        assert_true(nth <= 3 ? WTERMSIG(ending) == SIGKILL : WEXITSTATUS(ending) == 7);
    }
}

static void a_plan_names_operation_and_status(void **state) {
    struct host *host = host_of_state(state);
    struct fault_plan plan = {.nth = 1, .only = "allocate", .status = KELPIE_NO_MEMORY};
    fault_host_arm(host, &plan);
    assert_int_equal(make_event(host, NULL), KELPIE_OK);
    struct kelpie_error err = {0};
    assert_null(host_allocate(host, 16, &err));
    assert_int_equal(err.status, KELPIE_NO_MEMORY);
    assert_string_equal(fault_host_fired(host), "allocate");
    plan = (struct fault_plan){.nth = 1, .status = KELPIE_TIMED_OUT};
    fault_host_arm(host, &plan);
    assert_int_equal(make_event(host, &err), KELPIE_TIMED_OUT);
    assert_int_equal(err.os_error, 0);
    assert_true(err.retriable);
}

static void set_event(void *argument) {
    struct host_fd *event = argument;
    host_event_set(event->host, event->fd);
}

static void leaks_of_each_kind_are_seen(void **state) {
    struct host *host = host_of_state(state);
    char text[1024];
    int event = HOST_FD_NONE;
    struct host_mutex *mutex = NULL;
    struct host_condition *condition = NULL;
    struct host_process *process = NULL;
    struct host_thread *thread = NULL;
    AUTO_FD struct host_fd file = {host, HOST_FD_NONE};
    AUTO_MAP struct host_map map = {.host = host};
    const char *argv[] = {"sleep", "60", NULL};
    assert_int_equal(host_event_create(host, &event, NULL), KELPIE_OK);
    assert_int_equal(host_mutex_create(host, &mutex, NULL), KELPIE_OK);
    assert_int_equal(host_condition_create(host, &condition, NULL), KELPIE_OK);
    assert_int_equal(
        host_process_spawn(host, &(struct host_process_spec){.argv = argv}, &process, NULL),
        KELPIE_OK);
    struct host_fd set = {host, event};
    assert_int_equal(host_thread_start(host, "setter", set_event, &set, &thread, NULL), KELPIE_OK);
    assert_int_equal(host_memory_file(host, "leak", 4096, &file.fd, NULL), KELPIE_OK);
    assert_int_equal(host_file_map(host, file.fd, 4096, HOST_MAP_READ, &map.map, NULL), KELPIE_OK);

    assert_int_equal(fault_host_leaks(host, text, sizeof(text)), 7);
    const char *const kinds[] = {"event_create",  "mutex_create", "condition_create", "file_map",
                                 "process_spawn", "thread_start", "memory_file"};
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        assert_non_null(strstr(text, kinds[i]));
    }
    char cut[8];
    assert_int_equal(fault_host_leaks(host, cut, sizeof(cut)), 7);
    assert_int_equal(strlen(cut), sizeof(cut) - 1);

    host_thread_join(thread);
    host_process_destroy(process);
    host_condition_destroy(condition);
    host_mutex_destroy(mutex);
    host_close(host, event);
    host_map_cleanup(&map);
    host_fd_cleanup(&file);
    assert_no_leaks(host);
}

/* Both ends over TCP: each call is counted, may fail, and what it opened is in the books. */
static void tcp_sockets_are_counted(void **state) {
    struct host *host = host_of_state(state);
    struct host_wait wait = host_wait_ms(host, 10000, HOST_FD_NONE);
    AUTO_FD struct host_fd listener = {host, HOST_FD_NONE};
    AUTO_FD struct host_fd client = {host, HOST_FD_NONE};
    uint16_t port = 0;
    char text[256];
    fault_host_arm(host, &(struct fault_plan){.nth = 1, .only = "socket_listen_tcp"});
    assert_int_equal(host_socket_listen_tcp(host, "127.0.0.1", 0, &listener.fd, &port, NULL),
                     KELPIE_IO_FAILED);
    assert_int_equal(fault_host_leaks(host, text, sizeof(text)), 0);
    assert_int_equal(host_socket_listen_tcp(host, "127.0.0.1", 0, &listener.fd, &port, NULL),
                     KELPIE_OK);
    fault_host_arm(host, &(struct fault_plan){.nth = 1, .only = "socket_connect_tcp"});
    assert_int_equal(host_socket_connect_tcp(host, "127.0.0.1", port, &wait, &client.fd, NULL),
                     KELPIE_IO_FAILED);
    assert_int_equal(host_socket_connect_tcp(host, "127.0.0.1", port, &wait, &client.fd, NULL),
                     KELPIE_OK);
    assert_int_equal(fault_host_leaks(host, text, sizeof(text)), 2);
    assert_non_null(strstr(text, "socket_listen_tcp"));
    assert_non_null(strstr(text, "socket_connect_tcp"));
    host_fd_cleanup(&client);
    host_fd_cleanup(&listener);
    assert_no_leaks(host);
}

static void a_second_close_is_seen(void **state) {
    struct host *host = host_of_state(state);
    char text[256];
    int fd = HOST_FD_NONE;
    assert_int_equal(host_event_create(host, &fd, NULL), KELPIE_OK);
    host_close(host, fd);
    assert_no_leaks(host);
    host_close(host, fd);
    assert_int_equal(fault_host_leaks(host, text, sizeof(text)), 1);
    assert_non_null(strstr(text, "wrong close"));
}

/* Objects work through the wrapper, and their failures are counted like any other. */
static void objects_go_through_the_wrapper(void **state) {
    struct host *host = host_of_state(state);
    const char *argv[] = {"sh", "-c", "exit 9", NULL};
    struct host_process *process = NULL;
    assert_int_equal(
        host_process_spawn(host, &(struct host_process_spec){.argv = argv}, &process, NULL),
        KELPIE_OK);
    assert_true(host_process_id(process) > 0);
    assert_true(host_process_fd(process) >= 0);
    fault_host_arm(host, &(struct fault_plan){.nth = 1});
    struct host_wait wait = host_wait_ms(host, 10000, HOST_FD_NONE);
    struct host_process_exit end = {0};
    assert_int_equal(host_process_wait(process, &wait, &end, NULL), KELPIE_IO_FAILED);
    assert_string_equal(fault_host_fired(host), "process_wait");
    assert_int_equal(host_process_wait(process, &wait, &end, NULL), KELPIE_OK);
    assert_int_equal(end.code, 9);
    host_process_destroy(process);

    struct host_mutex *mutex = NULL;
    struct host_condition *condition = NULL;
    assert_int_equal(host_mutex_create(host, &mutex, NULL), KELPIE_OK);
    assert_int_equal(host_condition_create(host, &condition, NULL), KELPIE_OK);
    host_mutex_lock(mutex);
    assert_false(host_condition_wait(condition, mutex, host_monotonic_ns(host)));
    host_condition_broadcast(condition);
    host_mutex_unlock(mutex);
    host_condition_destroy(condition);
    host_mutex_destroy(mutex);
    assert_no_leaks(host);
}

#define TEXT "stored and loaded"

static enum kelpie_status store_and_load(struct host *host, const char *path) {
    char *data = NULL;
    size_t size = 0;
    TRY(host_file_store(host, path, TEXT, strlen(TEXT), 0600, NULL));
    TRY(host_file_load(host, path, 100, &data, &size, NULL));
    free(data);
    return KELPIE_OK;
}

/* A sweep as the header shows it, over two of the composed helpers: each of their calls fails once. */
static void a_sweep_ends_and_leaks_nothing(void **state) {
    struct host *host = host_of_state(state);
    char folder[] = "/tmp/kelpie-fault-XXXXXX";
    assert_non_null(mkdtemp(folder));
    char path[64];
    snprintf(path, sizeof(path), "%s/file", folder);
    uint64_t nth = 1;
    for (;; nth++) {
        assert_true(nth < 100);
        fault_host_arm(host, &(struct fault_plan){.nth = nth});
        enum kelpie_status status = store_and_load(host, path);
        const char *fired = fault_host_fired(host);
        fault_host_disarm(host);
        assert_no_leaks(host);
        assert_int_equal(status == KELPIE_OK, fired == NULL);
        struct host_dir_entry entries[4];
        size_t count = 0;
        assert_int_equal(host_dir_list(host, folder, entries, 4, &count, NULL), KELPIE_OK);
        assert_true(count <= 1); /* no temporary file is left */
        if (!fired) {
            break;
        }
    }
    assert_true(nth > 8);
    assert_int_equal(host_path_remove_folder(host, folder, NULL), KELPIE_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(nothing_fails_unarmed, setup, teardown),
        cmocka_unit_test_setup_teardown(the_nth_call_fails_once, setup, teardown),
        cmocka_unit_test_setup_teardown(sticky_fails_until_disarmed, setup, teardown),
        cmocka_unit_test_setup_teardown(a_plan_names_operation_and_status, setup, teardown),
        cmocka_unit_test_setup_teardown(a_plan_kills_the_process, setup, teardown),
        cmocka_unit_test_setup_teardown(leaks_of_each_kind_are_seen, setup, teardown),
        cmocka_unit_test_setup_teardown(tcp_sockets_are_counted, setup, teardown),
        cmocka_unit_test_setup_teardown(a_second_close_is_seen, setup, teardown),
        cmocka_unit_test_setup_teardown(objects_go_through_the_wrapper, setup, teardown),
        cmocka_unit_test_setup_teardown(a_sweep_ends_and_leaks_nothing, setup, teardown),
    };
    return cmocka_run_group_tests_name("fault_host", tests, NULL, NULL);
}
