/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * What the backend does without a Firecracker that boots anything: programs that say they are one and are not, versions, its
 * folder, its link. A whole VM's life is tested over the scripted Firecracker (sim/peer/scripted_backend_test.c).
 */
#include "backend/firecracker/firecracker.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "backend/firecracker/firecracker_folder.h"
#include "backend/firecracker/firecracker_link.h"
#include "backend/firecracker/firecracker_probe.h"
#include "base/assert.h"
#include "protocol/protocol.h"

#define WAIT_MS 20000
#define SHORT_MS 100

static struct host *host;
static char scratch[64];

static int setup(void **state) {
    (void)state;
    struct kelpie_error err;
    snprintf(scratch, sizeof(scratch), "/tmp/kelpie-test-XXXXXX");
    return mkdtemp(scratch) && host_linux_create(&host, &err) == KELPIE_OK &&
                   setenv("XDG_RUNTIME_DIR", scratch, 1) == 0
               ? 0
               : -1;
}

static int teardown(void **state) {
    (void)state;
    struct kelpie_error err;
    enum kelpie_status status = host_path_remove_tree(host, scratch, &err);
    host_destroy(host);
    return status == KELPIE_OK ? 0 : -1;
}

/* ---- The program ------------------------------------------------------------------------------ */

static void write_program_of_mode(const char *script, uint32_t mode) {
    char path[128];
    struct kelpie_error err;
    snprintf(path, sizeof(path), "%s/program", scratch);
    assert_int_equal(host_file_store(host, path, script, strlen(script), mode, &err), KELPIE_OK);
    assert_int_equal(setenv("KELPIE_FIRECRACKER", path, 1), 0);
}

static void write_program(const char *script) {
    write_program_of_mode(script, 0755);
}

static enum kelpie_status probe_with(const char *script, struct firecracker_probe *probe,
                                     struct kelpie_error *err) {
    write_program(script);
    return firecracker_probe_run(host, NULL, HOST_FD_NONE, probe, err);
}

static void test_a_program_that_is_none_is_missing(void **state) {
    (void)state;
    static const struct {
        const char *script;
        const char *text;
    } wrong[] = {
        {"#!/bin/sh\necho Firecracker v1.6.0\n", "too old"},
        {"#!/bin/sh\necho Firecracker v0.25.2\n", "too old"},
        {"#!/bin/sh\necho 'a program v1.9'\n", "does not name a version"},
        {"#!/bin/sh\necho 'Firecracker v'\n", "does not name a version"},
        {"#!/bin/sh\necho Firecracker v1\n", "does not name a version"},
        {"#!/bin/sh\necho Firecracker vnext\n", "does not name a version"},
        {"#!/bin/sh\nhead -c 9000 /dev/zero\n", "does not name a version"},
        {"#!/bin/sh\necho Firecracker v1.9.111111111111111111111111111111111\n",
         "does not name a version"},
        {"#!/bin/sh\necho Firecracker v1.9.0; exit 3\n", "exited with code 3"},
        {"#!/bin/sh\nkill -SEGV $$\n", "killed by signal 11"},
        {"no program", "cannot run"},
    };
    struct firecracker_probe probe;
    struct kelpie_error err = {0};
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
        assert_int_equal(probe_with(wrong[i].script, &probe, &err), KELPIE_BACKEND_MISSING);
        if (!strstr(err.message, wrong[i].text) || !strstr(err.message, "releases")) {
            fail_msg("%zu: %s", i, err.message);
        }
    }
    assert_int_equal(setenv("KELPIE_FIRECRACKER", "/nowhere/firecracker", 1), 0);
    assert_int_equal(firecracker_probe_run(host, NULL, HOST_FD_NONE, &probe, &err),
                     KELPIE_BACKEND_MISSING);
    assert_non_null(strstr(err.message, "/nowhere/firecracker"));
    char name[HOST_PATH_SIZE_MAX + 1] = "./";
    memset(name + 2, 'x', sizeof(name) - 3);
    assert_int_equal(setenv("KELPIE_FIRECRACKER", name, 1), 0);
    assert_int_equal(firecracker_probe_run(host, NULL, HOST_FD_NONE, &probe, &err),
                     KELPIE_BACKEND_MISSING);
    assert_non_null(strstr(err.message, "longer than a path"));
}

static void test_a_program_that_does_not_end_can_be_given_up(void **state) {
    (void)state;
    struct firecracker_probe probe;
    struct kelpie_error err = {0};
    int cancel = HOST_FD_NONE;
    assert_int_equal(host_event_create(host, &cancel, &err), KELPIE_OK);
    host_event_set(host, cancel);
    write_program("#!/bin/sh\nexec sleep 60\n");
    assert_int_equal(firecracker_probe_run(host, NULL, cancel, &probe, &err), KELPIE_CANCELLED);
    host_close(host, cancel);
}

/* At create, not later, and the same as `kelpie doctor`, with what to install. The one that hangs is the simulator's: it takes
 * five seconds here. */
static void test_create_and_doctor_say_what_is_missing(void **state) {
    (void)state;
    static const struct {
        const char *script; /* NULL: there is no such file */
        const char *text;
        uint32_t mode;
    } rows[] = {
        {NULL, "cannot run Firecracker (/nowhere/firecracker)", 0},
        {"#!/bin/sh\necho Firecracker v1.17.0\n", "cannot run", 0644},
        {"#!/bin/sh\necho Firecracker v1.6.0\n", "Firecracker 1.6.0", 0755},
        {"#!/bin/sh\nhead -c 4096 /dev/urandom\n", "does not name a version", 0755},
        {"#!/bin/sh\n", "does not name a version", 0755},
        {"#!/bin/sh\nkill -SEGV $$\n", "killed by signal 11", 0755},
        {"#!/bin/sh\nexit 127\n", "exited with code 127", 0755},
        {"\x7f"
         "ELF of nothing",
         "cannot run", 0755},
    };
    const struct kelpie_config config = {.backend = "firecracker"};
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct kelpie_probe probe = {0};
        struct kelpie_vm *vm = NULL;
        struct kelpie_error err = {0};
        if (rows[i].script) {
            write_program_of_mode(rows[i].script, rows[i].mode);
        } else {
            assert_int_equal(setenv("KELPIE_FIRECRACKER", "/nowhere/firecracker", 1), 0);
        }
        assert_int_equal(kelpie_backend_probe("firecracker", &probe, &err), KELPIE_OK);
        assert_false(probe.usable);
        assert_string_equal(probe.version, "");
        assert_non_null(strstr(probe.install, "KELPIE_FIRECRACKER"));
        assert_int_equal(kelpie_vm_create(&config, &vm, &err), KELPIE_BACKEND_MISSING);
        assert_null(vm);
        if (!strstr(err.message, rows[i].text) || !strstr(err.message, "KELPIE_FIRECRACKER")) {
            fail_msg("%zu: %s", i, err.message);
        }
        assert_string_equal(probe.reason, err.message);
    }
}

static void test_a_jailer_that_is_asked_for_is_refused(void **state) {
    (void)state;
    struct kelpie_probe probe = {0};
    struct kelpie_vm *vm = NULL;
    struct kelpie_error err = {0};
    const struct kelpie_config config = {.backend = "firecracker"};
    write_program("#!/bin/sh\necho Firecracker v1.17.0\n");
    assert_int_equal(setenv("KELPIE_JAILER", "/usr/bin/jailer", 1), 0);
    assert_int_equal(kelpie_backend_probe("firecracker", &probe, &err), KELPIE_OK);
    assert_false(probe.usable);
    assert_int_equal(kelpie_vm_create(&config, &vm, &err), KELPIE_UNSUPPORTED);
    assert_null(vm);
    assert_non_null(strstr(err.message, "unset it"));
    assert_string_equal(probe.install, "unset KELPIE_JAILER");
    assert_string_equal(probe.reason, err.message);
    assert_int_equal(setenv("KELPIE_JAILER", "", 1), 0);
    struct firecracker_probe found;
    assert_int_equal(firecracker_probe_run(host, NULL, HOST_FD_NONE, &found, &err), KELPIE_OK);
}

static void test_versions_know_what_they_can(void **state) {
    (void)state;
    struct firecracker_probe probe = {0};
    struct kelpie_error err = {0};
    assert_int_equal(
        probe_with("#!/bin/sh\necho Firecracker v1.17.0-dev\necho more\n", &probe, &err),
        KELPIE_OK);
    assert_string_equal(probe.version, "1.17.0");
    assert_true(firecracker_probe_has(&probe, 17));
    assert_false(firecracker_probe_has(&probe, 18));
    assert_true(probe.cpu[0] != '\0');
    assert_int_equal(probe_with("#!/bin/sh\necho Firecracker v2.0.0\n", &probe, &err), KELPIE_OK);
    assert_true(firecracker_probe_has(&probe, 17));
    assert_int_equal(probe_with("#!/bin/sh\necho Firecracker v1.7.0\n", &probe, &err), KELPIE_OK);
    assert_false(firecracker_probe_has(&probe, 8));
    /* A relative path is this process's, whatever folder Firecracker runs in. */
    char folder[HOST_PATH_SIZE_MAX + 1];
    assert_non_null(getcwd(folder, sizeof(folder)));
    assert_int_equal(chdir(scratch), 0);
    assert_int_equal(setenv("KELPIE_FIRECRACKER", "./program", 1), 0);
    assert_int_equal(firecracker_probe_run(host, NULL, HOST_FD_NONE, &probe, &err), KELPIE_OK);
    assert_int_equal(probe.binary[0], '/');
    /* What the config names comes first. */
    assert_int_equal(setenv("KELPIE_FIRECRACKER", "/nowhere/firecracker", 1), 0);
    assert_int_equal(firecracker_probe_run(host, "./program", HOST_FD_NONE, &probe, &err),
                     KELPIE_OK);
    assert_int_equal(chdir(folder), 0);
}

static void test_processors_are_told_apart(void **state) {
    (void)state;
    char cpu[FIRECRACKER_CPU_SIZE_MAX + 1];
    firecracker_cpu_parse("processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\n"
                          "model\t\t: 1\nmodel name\t: AMD EPYC\n\nprocessor: 1\nmodel\t: 9\n",
                          cpu);
    assert_string_equal(cpu, "AuthenticAMD-25-1");
    firecracker_cpu_parse("vendor_id\t: X\ncpu family\t: 25\n", cpu);
    assert_string_equal(cpu, "unknown");
    firecracker_cpu_parse("vendor_id", cpu);
    assert_string_equal(cpu, "unknown");
    firecracker_cpu_parse("vendor_id\t:X\ncpu family\t: 25\nmodel\t: 1\n", cpu);
    assert_string_equal(cpu, "unknown");
    firecracker_cpu_parse("vendor_id\t: X\nmodel\t: 1\n", cpu);
    assert_string_equal(cpu, "unknown");
}

/* ---- The folder ------------------------------------------------------------------------------- */

static void hazard_e4_the_folder_is_ours_alone(void **state) {
    (void)state;
    struct firecracker_folder folder = {.lock_fd = HOST_FD_NONE};
    struct firecracker_folder other = {.lock_fd = HOST_FD_NONE};
    struct kelpie_error err;
    struct stat info;
    assert_int_equal(firecracker_folder_make(&folder, host, &err), KELPIE_OK);
    assert_int_equal(strncmp(folder.path, scratch, strlen(scratch)), 0);
    assert_int_equal(stat(folder.path, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0700);
    /* One whose owner lives is left alone, one whose owner is gone is removed. */
    char dead[128];
    char lock[160];
    snprintf(dead, sizeof(dead), "%s/kelpie-fc-0123456789abcdef", scratch);
    snprintf(lock, sizeof(lock), "%s/lock", dead);
    assert_int_equal(mkdir(dead, 0700), 0);
    assert_int_equal(host_file_store(host, lock, "", 0, 0600, &err), KELPIE_OK);
    char foreign[128]; /* has a name that is not one of ours */
    snprintf(foreign, sizeof(foreign), "%s/kelpie-fc-mine", scratch);
    assert_int_equal(mkdir(foreign, 0700), 0);
    assert_int_equal(firecracker_folder_make(&other, host, &err), KELPIE_OK);
    assert_int_equal(stat(folder.path, &info), 0);
    assert_int_not_equal(stat(dead, &info), 0);
    assert_int_equal(rmdir(foreign), 0);
    firecracker_folder_remove(&other, host);
    char path[sizeof(folder.path)];
    memcpy(path, folder.path, sizeof(path));
    firecracker_folder_remove(&folder, host);
    assert_int_not_equal(stat(path, &info), 0);
    firecracker_folder_remove(&folder, host);
}

static void test_a_long_runtime_folder_is_not_used(void **state) {
    (void)state;
    struct firecracker_folder folder = {.lock_fd = HOST_FD_NONE};
    struct kelpie_error err;
    char path[200];
    memset(path, 'x', sizeof(path));
    path[0] = '/';
    path[sizeof(path) - 1] = '\0';
    assert_int_equal(setenv("XDG_RUNTIME_DIR", path, 1), 0);
    assert_int_equal(firecracker_folder_make(&folder, host, &err), KELPIE_OK);
    assert_int_equal(strncmp(folder.path, "/tmp/kelpie-fc-", 15), 0);
    firecracker_folder_remove(&folder, host);
    static const char *const others[] = {NULL, "relative", ""};
    for (size_t i = 0; i < ARRAY_SIZE(others); i++) {
        assert_int_equal(
            others[i] ? setenv("XDG_RUNTIME_DIR", others[i], 1) : unsetenv("XDG_RUNTIME_DIR"), 0);
        assert_int_equal(firecracker_folder_make(&folder, host, &err), KELPIE_OK);
        assert_int_equal(strncmp(folder.path, "/tmp/kelpie-fc-", 15), 0);
        firecracker_folder_remove(&folder, host);
    }
    snprintf(path, sizeof(path), "%s/none", scratch);
    assert_int_equal(setenv("XDG_RUNTIME_DIR", path, 1), 0);
    assert_int_equal(firecracker_folder_make(&folder, host, &err), KELPIE_NOT_FOUND);
    assert_int_equal(setenv("XDG_RUNTIME_DIR", scratch, 1), 0);
}

/* ---- The link --------------------------------------------------------------------------------- */

struct wire {
    struct firecracker_link *link;
    int channel_fd;
    int exit_event;
    char path[128];
    uint32_t lost_count;
};

static void count_lost(void *argument) {
    __atomic_add_fetch((uint32_t *)argument, 1, __ATOMIC_SEQ_CST);
}

static void wire_open(struct wire *wire) {
    struct kelpie_error err;
    memset(wire, 0, sizeof(*wire));
    snprintf(wire->path, sizeof(wire->path), "%s/v_1", scratch);
    (void)unlink(wire->path);
    assert_int_equal(firecracker_link_open(host, wire->path, &wire->link, &wire->channel_fd, &err),
                     KELPIE_OK);
    assert_int_equal(host_event_create(host, &wire->exit_event, &err), KELPIE_OK);
    firecracker_link_watch(wire->link, wire->exit_event, count_lost, &wire->lost_count);
}

static void wire_close(struct wire *wire) {
    firecracker_link_close(wire->link);
    host_close(host, wire->channel_fd);
    host_close(host, wire->exit_event);
}

static int dial(struct wire *wire) {
    const struct host_wait wait = host_wait_ms(host, WAIT_MS, HOST_FD_NONE);
    struct kelpie_error err;
    int fd = HOST_FD_NONE;
    assert_int_equal(host_socket_connect(host, wire->path, &wait, &fd, &err), KELPIE_OK);
    return fd;
}

static void say(int fd, const char *text) {
    const struct host_wait wait = host_wait_ms(host, WAIT_MS, HOST_FD_NONE);
    struct kelpie_error err;
    assert_int_equal(host_write_all(host, fd, text, strlen(text), &wait, &err), KELPIE_OK);
}

static void hear(int fd, const void *expected, size_t size) {
    const struct host_wait wait = host_wait_ms(host, WAIT_MS, HOST_FD_NONE);
    char buffer[64];
    struct kelpie_error err;
    size_t used = 0;
    assert_true(size <= sizeof(buffer));
    while (used < size) {
        size_t count = 0;
        assert_int_equal(host_read(host, fd, buffer + used, size - used, &wait, &count, &err),
                         KELPIE_OK);
        assert_true(count > 0);
        used += count;
    }
    assert_memory_equal(buffer, expected, size);
}

static void hear_end(int fd) {
    const struct host_wait wait = host_wait_ms(host, WAIT_MS, HOST_FD_NONE);
    struct kelpie_error err;
    char byte = 0;
    size_t count = 1;
    assert_int_equal(host_read(host, fd, &byte, 1, &wait, &count, &err), KELPIE_OK);
    assert_int_equal(count, 0);
}

/* What is said before there is a guest, and between two of its connections, comes to it. */
static void hazard_c6_the_channel_outlives_connections(void **state) {
    (void)state;
    struct wire wire;
    wire_open(&wire);
    say(wire.channel_fd, "early");
    int first = dial(&wire);
    hear(first, "early", 5);
    say(first, "last words");
    firecracker_link_expect(wire.link);
    firecracker_link_drop(wire.link); /* what it had said is kept */
    hear(wire.channel_fd, "last words", 10);
    hear_end(first);
    host_close(host, first);
    say(wire.channel_fd, "between");
    int second = dial(&wire);
    hear(second, PROTOCOL_SYNC, PROTOCOL_SYNC_SIZE);
    hear(second, "between", 7);
    say(second, "back");
    hear(wire.channel_fd, "back", 4);
    int third = dial(&wire); /* nobody expects it */
    hear_end(third);
    host_close(host, third);
    say(second, "still");
    hear(wire.channel_fd, "still", 5);
    assert_int_equal(wire.lost_count, 0);
    host_close(host, second);
    wire_close(&wire);
}

static void test_a_call_that_was_given_up_is_made_again(void **state) {
    (void)state;
    struct wire wire;
    wire_open(&wire);
    int first = dial(&wire);
    host_close(host, first);
    const struct host_wait nap = host_wait_ms(host, SHORT_MS, HOST_FD_NONE);
    struct kelpie_error err;
    assert_int_equal(host_sleep(host, &nap, &err), KELPIE_OK);
    int second = dial(&wire);
    hear(second, PROTOCOL_SYNC, PROTOCOL_SYNC_SIZE);
    say(second, "here");
    hear(wire.channel_fd, "here", 4);
    host_close(host, second);
    wire_close(&wire);
}

static void test_the_end_of_the_process_is_that_of_the_channel(void **state) {
    (void)state;
    struct wire wire;
    wire_open(&wire);
    int fd = dial(&wire);
    say(fd, "bye");
    hear(wire.channel_fd, "bye", 3);
    say(fd, "and more");
    host_event_set(host, wire.exit_event);
    hear(wire.channel_fd, "and more", 8);
    hear_end(wire.channel_fd);
    firecracker_link_drop(wire.link); /* is no hang */
    host_close(host, fd);
    wire_close(&wire);
}

/* A guest whose connection ended is waited for; one that comes back does not know what it has missed. */
static void test_a_guest_that_comes_back_too_late_ends_the_channel(void **state) {
    (void)state;
    struct wire wire;
    wire_open(&wire);
    int first = dial(&wire);
    say(first, "x");
    hear(wire.channel_fd, "x", 1);
    host_close(host, first);
    const struct host_wait nap = host_wait_ms(host, SHORT_MS, HOST_FD_NONE);
    struct kelpie_error err;
    assert_int_equal(host_sleep(host, &nap, &err), KELPIE_OK);
    int second = dial(&wire);
    hear_end(second);
    hear_end(wire.channel_fd);
    assert_int_equal(wire.lost_count, 0);
    host_close(host, second);
    wire_close(&wire);
}

static void test_a_guest_that_does_not_come_back_is_lost(void **state) {
    (void)state;
    struct wire wire;
    wire_open(&wire);
    int fd = dial(&wire);
    say(fd, "x");
    hear(wire.channel_fd, "x", 1);
    host_close(host, fd);
    hear_end(wire.channel_fd);
    assert_int_equal(__atomic_load_n(&wire.lost_count, __ATOMIC_SEQ_CST), 1);
    wire_close(&wire);
}

/* A guest that calls anew when a snapshot ends its connection, before we have let go of it. */
static void test_a_new_connection_takes_the_place_of_one_that_was_to_end(void **state) {
    (void)state;
    struct wire wire;
    wire_open(&wire);
    int first = dial(&wire);
    say(first, "one");
    hear(wire.channel_fd, "one", 3);
    firecracker_link_expect(wire.link);
    int second = dial(&wire);
    hear_end(first);
    hear(second, PROTOCOL_SYNC, PROTOCOL_SYNC_SIZE);
    say(second, "two");
    hear(wire.channel_fd, "two", 3);
    host_close(host, first);
    host_close(host, second);
    wire_close(&wire);
}

/* A guest that says more than anybody reads waits; what the rings and sockets hold stays in its order, and the rest is lost with
 * its connection. */
static void test_nobody_reads(void **state) {
    (void)state;
    struct wire wire;
    static char bytes[FIRECRACKER_CHUNK_SIZE];
    const struct host_wait wait = host_wait_ms(host, WAIT_MS, HOST_FD_NONE);
    struct kelpie_error err;
    enum kelpie_status status = KELPIE_OK;
    size_t said = 0;
    wire_open(&wire);
    int fd = dial(&wire);
    while (status == KELPIE_OK) {
        const struct host_wait nap = host_wait_ms(host, SHORT_MS, HOST_FD_NONE);
        size_t count = 0;
        for (size_t i = 0; i < sizeof(bytes); i++) {
            bytes[i] = (char)((said + i) % 251);
        }
        status = host_write(host, fd, bytes, sizeof(bytes), &nap, &count, &err);
        said += status == KELPIE_OK ? count : 0;
    }
    assert_int_equal(status, KELPIE_TIMED_OUT);
    firecracker_link_expect(wire.link);
    firecracker_link_drop(wire.link);
    size_t heard = 0;
    while (heard < FIRECRACKER_RING_SIZE) {
        size_t count = 0;
        assert_int_equal(
            host_read(host, wire.channel_fd, bytes, sizeof(bytes), &wait, &count, &err), KELPIE_OK);
        for (size_t i = 0; i < count; i++) {
            assert_int_equal(bytes[i], (char)((heard + i) % 251));
        }
        heard += count;
    }
    assert_true(heard <= said);
    host_close(host, fd);
    wire_close(&wire);
}

static void test_a_link_needs_its_place(void **state) {
    (void)state;
    struct firecracker_link *link = NULL;
    struct kelpie_error err;
    int fd = HOST_FD_NONE;
    assert_int_not_equal(firecracker_link_open(host, "/nowhere/v_1", &link, &fd, &err), KELPIE_OK);
    assert_null(link);
    firecracker_link_close(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_program_that_is_none_is_missing),
        cmocka_unit_test(test_a_program_that_does_not_end_can_be_given_up),
        cmocka_unit_test(test_create_and_doctor_say_what_is_missing),
        cmocka_unit_test(test_a_jailer_that_is_asked_for_is_refused),
        cmocka_unit_test(test_versions_know_what_they_can),
        cmocka_unit_test(test_processors_are_told_apart),
        cmocka_unit_test(hazard_e4_the_folder_is_ours_alone),
        cmocka_unit_test(test_a_long_runtime_folder_is_not_used),
        cmocka_unit_test(hazard_c6_the_channel_outlives_connections),
        cmocka_unit_test(test_a_call_that_was_given_up_is_made_again),
        cmocka_unit_test(test_the_end_of_the_process_is_that_of_the_channel),
        cmocka_unit_test(test_a_guest_that_comes_back_too_late_ends_the_channel),
        cmocka_unit_test(test_a_guest_that_does_not_come_back_is_lost),
        cmocka_unit_test(test_a_new_connection_takes_the_place_of_one_that_was_to_end),
        cmocka_unit_test(test_nobody_reads),
        cmocka_unit_test(test_a_link_needs_its_place),
    };
    return cmocka_run_group_tests_name("backend/firecracker", tests, setup, teardown);
}
