/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "backend/monitor/monitor_network.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/assert.h"

#define LINE_SIZE 8192
#define WAIT_MS 10000

/* ---- The command line ------------------------------------------------------------------------- */

#define FIXED                                                                                      \
    "passt --foreground --quiet --ipv4-only --no-dhcp --fd 3 --mac-addr 02:00:0a:00:02:02 "        \
    "--address 10.0.2.15 --netmask 24 --gateway 10.0.2.2 --dns-forward 10.0.2.3"

static const struct kelpie_forward forwards[] = {
    {.host_port = 8080, .guest_port = 80},
    {.host_port = 5353, .guest_port = 53, .udp = true},
    {.host_port = 65535, .guest_port = 1},
};

static const struct {
    struct kelpie_network network;
    const char *line;
} commands[] = {
    {{.kind = KELPIE_NETWORK_USER}, FIXED " --no-map-gw"},
    {{.kind = KELPIE_NETWORK_USER, .host_loopback = true}, FIXED},
    {{.kind = KELPIE_NETWORK_USER, .forwards = forwards, .forward_count = 3},
     FIXED " --no-map-gw --tcp-ports 127.0.0.1/8080:80 --udp-ports 127.0.0.1/5353:53 "
           "--tcp-ports 127.0.0.1/65535:1"},
};

static void test_command_lines(void **state) {
    (void)state;
    static struct monitor_network_command command;
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
        char line[LINE_SIZE] = "";
        size_t size = 0;
        monitor_network_command(&command, "passt", &commands[i].network);
        for (size_t j = 0; j < command.argc; j++) {
            size += (size_t)snprintf(line + size, sizeof(line) - size, "%s%s", j > 0 ? " " : "",
                                     command.argv[j]);
            assert_true(size < sizeof(line));
        }
        assert_string_equal(line, commands[i].line);
        assert_null(command.argv[command.argc]);
    }
}

static void test_the_longest_command_fits(void **state) {
    (void)state;
    static struct monitor_network_command command;
    static struct kelpie_forward many[KELPIE_FORWARD_COUNT_MAX];
    static char program[4096];
    memset(program, 'p', sizeof(program) - 1);
    for (size_t i = 0; i < ARRAY_SIZE(many); i++) {
        many[i] = (struct kelpie_forward){.host_port = 65535, .guest_port = 65535};
    }
    const struct kelpie_network network = {
        .kind = KELPIE_NETWORK_USER, .forwards = many, .forward_count = KELPIE_FORWARD_COUNT_MAX};
    monitor_network_command(&command, program, &network);
    assert_string_equal(command.argv[0], program);
    assert_string_equal(command.argv[command.argc - 1], "127.0.0.1/65535:65535");
}

/* Written out by hand after RFC 826. */
static void test_the_question(void **state) {
    (void)state;
    static const uint8_t mac[MAC_SIZE] = {2, 1, 2, 3, 4, 5};
    static const uint8_t expected[] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 1, 2, 3, 4,  5, 8, 6,
                                       0,    1,    8,    0,    6,    4,    0, 1, 2, 1, 2,  3, 4, 5,
                                       10,   0,    2,    15,   0,    0,    0, 0, 0, 0, 10, 0, 2, 2};
    uint8_t frame[MONITOR_NETWORK_ARP_SIZE];
    static_assert(sizeof(expected) == sizeof(frame), "all of it");
    monitor_network_arp(mac, frame);
    assert_memory_equal(frame, expected, sizeof(frame));
}

/* ---- The program ------------------------------------------------------------------------------ */

/* A shell script in passt's place; NULL: one that is not there. */
struct fixture {
    struct host *host;
    struct kelpie_network config_network;
    struct kelpie_config config;
    struct monitor_network network;
    char path[64];
};

static int setup(void **state) {
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    assert_non_null(fixture);
    assert_int_equal(host_linux_create(&fixture->host, NULL), KELPIE_OK);
    fixture->config_network =
        (struct kelpie_network){.kind = KELPIE_NETWORK_USER, .mac = "02:00:00:00:00:01"};
    fixture->config.network = &fixture->config_network;
    monitor_network_init(&fixture->network, fixture->host, &fixture->config);
    snprintf(fixture->path, sizeof(fixture->path), "/tmp/kelpie-passt-%d", getpid());
    setenv("KELPIE_PASST", fixture->path, 1);
    *state = fixture;
    return 0;
}

static int teardown(void **state) {
    struct fixture *fixture = *state;
    monitor_network_close(&fixture->network);
    host_destroy(fixture->host);
    unsetenv("KELPIE_PASST");
    unlink(fixture->path);
    free(fixture);
    return 0;
}

static void write_program(const struct fixture *fixture, const char *script) {
    FILE *file = fopen(fixture->path, "w");
    assert_non_null(file);
    fprintf(file, "#!/bin/sh\n%s\n", script);
    assert_int_equal(fchmod(fileno(file), 0700), 0);
    assert_int_equal(fclose(file), 0);
}

static enum kelpie_status open_and_await(struct fixture *fixture, struct kelpie_error *err) {
    const struct host_wait wait = host_wait_ms(fixture->host, WAIT_MS, HOST_FD_NONE);
    TRY(monitor_network_open(&fixture->network, err));
    return monitor_network_await(&fixture->network, &wait, err);
}

static void test_no_network_is_nothing(void **state) {
    struct fixture *fixture = *state;
    fixture->config.network = NULL;
    monitor_network_init(&fixture->network, fixture->host, &fixture->config);
    assert_int_equal(open_and_await(fixture, NULL), KELPIE_OK);
    assert_int_equal(fixture->network.fd, HOST_FD_NONE);
    assert_null(fixture->network.process);
}

static void test_a_missing_program_is_named(void **state) {
    struct fixture *fixture = *state;
    struct kelpie_error err = {0};
    assert_int_equal(open_and_await(fixture, &err), KELPIE_BACKEND_MISSING);
    assert_string_equal(err.field, "network");
    assert_non_null(strstr(err.message, fixture->path));
    assert_non_null(strstr(err.message, "install passt"));
}

static void test_passt_is_looked_for_by_its_name(void **state) {
    struct fixture *fixture = *state;
    struct kelpie_error err = {0};
    char *path = strdup(getenv("PATH"));
    assert_non_null(path);
    unsetenv("KELPIE_PASST");
    setenv("PATH", "/nowhere", 1);
    assert_int_equal(open_and_await(fixture, &err), KELPIE_BACKEND_MISSING);
    setenv("PATH", path, 1);
    free(path);
    assert_non_null(strstr(err.message, "no program passt,"));
}

static void test_how_it_ended_is_told(void **state) {
    struct fixture *fixture = *state;
    struct kelpie_error err = {0};
    write_program(fixture, "kill -9 $$");
    assert_int_equal(open_and_await(fixture, &err), KELPIE_BOOT_FAILED);
    assert_non_null(strstr(err.message, "passt ended with signal 9"));
    monitor_network_close(&fixture->network);
    write_program(fixture, "exec 3>&-; sleep 100");
    assert_int_equal(open_and_await(fixture, &err), KELPIE_BOOT_FAILED);
    assert_non_null(strstr(err.message, "passt let go of its socket and runs on"));
}

static void test_last_words_are_told(void **state) {
    struct fixture *fixture = *state;
    struct kelpie_error err = {0};
    write_program(fixture, "echo first >&2; echo 'the port is taken' >&2; exit 3");
    assert_int_equal(open_and_await(fixture, &err), KELPIE_BOOT_FAILED);
    assert_string_equal(err.field, "network");
    assert_non_null(strstr(err.message, "code 3"));
    assert_non_null(strstr(err.message, "the port is taken"));
    assert_null(strstr(err.message, "first"));
}

/* The question comes, as one frame; behind the answer nothing is read, for that is the machine's. */
static void test_the_answer_is_taken_whole_and_no_more(void **state) {
    struct fixture *fixture = *state;
    struct kelpie_error err = {0};
    uint8_t rest[5] = {0};
    size_t count = 0;
    const struct host_wait wait = host_wait_ms(fixture->host, WAIT_MS, HOST_FD_NONE);
    write_program(fixture, "[ \"$(head -c 46 <&3 | wc -c)\" = 46 ] || exit 1\n"
                           "printf '\\000\\000\\000\\074' >&3; sleep 0.1\n"
                           "printf '%060d' 0 >&3; printf 'rest!' >&3; sleep 100");
    assert_int_equal(open_and_await(fixture, &err), KELPIE_OK);
    assert_int_equal(
        host_read(fixture->host, fixture->network.fd, rest, sizeof(rest), &wait, &count, NULL),
        KELPIE_OK);
    assert_int_equal(count, sizeof(rest));
    assert_memory_equal(rest, "rest!", sizeof(rest));
}

static void hazard_d1_an_answer_that_is_none_is_refused(void **state) {
    struct fixture *fixture = *state;
    struct kelpie_error err = {0};
    write_program(fixture, "printf '\\377\\377\\377\\377' >&3; sleep 100");
    assert_int_equal(open_and_await(fixture, &err), KELPIE_INTERNAL);
    monitor_network_close(&fixture->network);
    write_program(fixture, "printf '\\000\\000\\000\\051' >&3; sleep 100"); /* 41: too short */
    assert_int_equal(open_and_await(fixture, &err), KELPIE_INTERNAL);
}

/* What it says is read for as long as it runs, and a part of it is kept. */
static void test_a_flood_of_words_is_bounded(void **state) {
    struct fixture *fixture = *state;
    struct kelpie_error err = {0};
    write_program(fixture, "i=0; while [ $i -lt 3000 ]; do echo \"line $i\" >&2; i=$((i+1)); done\n"
                           "printf '\\000\\000\\000\\074%060d' 0 >&3; sleep 100");
    const struct host_wait wait = host_wait_ms(fixture->host, WAIT_MS, HOST_FD_NONE);
    assert_int_equal(monitor_network_open(&fixture->network, &err), KELPIE_OK);
    enum kelpie_status status = KELPIE_TIMED_OUT;
    for (int i = 0; i < 1000 && status == KELPIE_TIMED_OUT; i++) {
        struct host_wait step = host_wait_ms(fixture->host, 10, HOST_FD_NONE);
        monitor_network_drain(&fixture->network);
        status = host_monotonic_ns(fixture->host) < wait.deadline_ns
                     ? monitor_network_await(&fixture->network, &step, &err)
                     : KELPIE_INTERNAL;
    }
    assert_int_equal(status, KELPIE_OK);
    monitor_network_drain(&fixture->network);
    assert_int_equal(fixture->network.words.size, MONITOR_STDERR_TAIL_SIZE);
    assert_memory_equal(fixture->network.words.text + MONITOR_STDERR_TAIL_SIZE - 10, "line 2999\n",
                        10);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_command_lines),
        cmocka_unit_test(test_the_longest_command_fits),
        cmocka_unit_test(test_the_question),
        cmocka_unit_test_setup_teardown(test_no_network_is_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_missing_program_is_named, setup, teardown),
        cmocka_unit_test_setup_teardown(test_passt_is_looked_for_by_its_name, setup, teardown),
        cmocka_unit_test_setup_teardown(test_how_it_ended_is_told, setup, teardown),
        cmocka_unit_test_setup_teardown(test_last_words_are_told, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_answer_is_taken_whole_and_no_more, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(hazard_d1_an_answer_that_is_none_is_refused, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_flood_of_words_is_bounded, setup, teardown),
    };
    return cmocka_run_group_tests_name("monitor_network", tests, NULL, NULL);
}
