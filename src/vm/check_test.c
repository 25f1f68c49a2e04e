/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Every field of a config and a command: its limits, just inside and just outside. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"
#include "vm/vm.h"

static const char *text_of(size_t size, char first) {
    static char text[8192];
    assert_true(size < sizeof(text));
    memset(text, 'a', sizeof(text));
    text[0] = first;
    text[size] = 0;
    return text;
}

static void check_refused(const struct kelpie_config *config, const char *field) {
    struct kelpie_error err = {0};
    assert_int_equal(vm_check_config(config, &err), KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, field);
    assert_non_null(strstr(err.message, field));
}

static void check_taken(const struct kelpie_config *config) {
    struct kelpie_error err = {0};
    assert_int_equal(vm_check_config(config, &err), KELPIE_OK);
}

static void test_numbers(void **state) {
    (void)state;
    check_taken(&(struct kelpie_config){0});
    check_taken(&(struct kelpie_config){.vcpu_count = 32, .memory_mib = 64});
    check_taken(&(struct kelpie_config){.vcpu_count = 1, .memory_mib = 65536});
    check_refused(&(struct kelpie_config){.vcpu_count = 33}, "vcpu_count");
    check_refused(&(struct kelpie_config){.memory_mib = 63}, "memory_mib");
    check_refused(&(struct kelpie_config){.memory_mib = 65537}, "memory_mib");
    check_taken(&(struct kelpie_config){.boot_timeout_ms = KELPIE_TIMEOUT_MS_MAX});
    check_refused(&(struct kelpie_config){.boot_timeout_ms = KELPIE_TIMEOUT_MS_MAX + 1},
                  "boot_timeout_ms");
    check_refused(&(struct kelpie_config){.stop_timeout_ms = UINT32_MAX}, "stop_timeout_ms");
    check_refused(&(struct kelpie_config){.operation_timeout_ms = UINT32_MAX},
                  "operation_timeout_ms");
    check_refused(&(struct kelpie_config){.reserved = {[0] = 1}}, "reserved");
}

static void test_names(void **state) {
    (void)state;
    check_taken(&(struct kelpie_config){.name = "a"});
    check_taken(&(struct kelpie_config){.name = "A9._-"});
    check_taken(&(struct kelpie_config){.name = text_of(64, 'b')});
    check_refused(&(struct kelpie_config){.name = text_of(65, 'b')}, "name");
    check_refused(&(struct kelpie_config){.name = ""}, "name");
    check_refused(&(struct kelpie_config){.name = "-a"}, "name");
    check_refused(&(struct kelpie_config){.name = "a/b"}, "name");
    check_refused(&(struct kelpie_config){.name = "a\n"}, "name");
    check_refused(&(struct kelpie_config){.hostname = "a_b"}, "hostname");
    check_refused(&(struct kelpie_config){.backend = "q emu"}, "backend");
}

static void test_paths(void **state) {
    (void)state;
    check_taken(&(struct kelpie_config){.working_dir = text_of(4095, '/')});
    check_refused(&(struct kelpie_config){.working_dir = text_of(4096, '/')}, "working_dir");
    check_refused(&(struct kelpie_config){.working_dir = "tmp"}, "working_dir");
    check_refused(&(struct kelpie_config){.kernel = ""}, "kernel");
    check_refused(&(struct kelpie_config){.hypervisor = ""}, "hypervisor");
    check_taken(&(struct kelpie_config){.hypervisor = "firecracker"});
    check_taken(&(struct kelpie_config){.kernel = "k", .console_log = "log", .hostname = "h.a-1"});
    check_refused(&(struct kelpie_config){.console_log = ""}, "console_log");
    check_taken(&(struct kelpie_config){.kernel_args = text_of(1024, 'x')});
    check_refused(&(struct kelpie_config){.kernel_args = text_of(1025, 'x')}, "kernel_args");
    check_refused(&(struct kelpie_config){.kernel_args = "a\nb"}, "kernel_args");
}

static void test_disks(void **state) {
    (void)state;
    const struct kelpie_disk disks[9] = {{.path = "a"}, {.path = "b", .mount = "/b"}};
    check_taken(&(struct kelpie_config){.disks = disks, .disk_count = 2});
    check_refused(&(struct kelpie_config){.disks = disks, .disk_count = 9}, "disk_count");
    check_refused(&(struct kelpie_config){.disks = disks, .disk_count = 3}, "disks[2].path");
    check_refused(&(struct kelpie_config){.disk_count = 1}, "disks");
    const char mount[] = "/m"; /* the same text, and not the same place */
    const struct kelpie_disk twice[] = {{.path = "a", .mount = mount},
                                        {.path = "b", .mount = "/m"}};
    check_refused(&(struct kelpie_config){.disks = twice, .disk_count = 2}, "disks[1].mount");
    const struct kelpie_disk nameless[] = {{.path = ""}};
    check_refused(&(struct kelpie_config){.disks = nameless, .disk_count = 1}, "disks[0].path");
    const struct kelpie_disk apart[] = {
        {.path = "a", .mount = mount}, {.path = "b"}, {.path = "c", .mount = "/c"}};
    check_taken(&(struct kelpie_config){.disks = apart, .disk_count = 3});
    const struct kelpie_disk relative[] = {{.path = "a", .mount = "m"}};
    check_refused(&(struct kelpie_config){.disks = relative, .disk_count = 1}, "disks[0].mount");
    const struct kelpie_disk newer[] = {{.path = "a", .reserved = {0, 1}}};
    check_refused(&(struct kelpie_config){.disks = newer, .disk_count = 1}, "disks[0].reserved");
}

static void test_env(void **state) {
    (void)state;
    const char *good[] = {"A=1", "B=", NULL};
    check_taken(&(struct kelpie_config){.env = good});
    const char *no_value[] = {"A=1", "B", NULL};
    check_refused(&(struct kelpie_config){.env = no_value}, "env[1]");
    const char *no_key[] = {"=1", NULL};
    check_refused(&(struct kelpie_config){.env = no_key}, "env[0]");
    const char *many[KELPIE_ENV_COUNT_MAX + 2] = {NULL};
    for (size_t i = 0; i < KELPIE_ENV_COUNT_MAX; i++) {
        many[i] = "A=1";
    }
    check_taken(&(struct kelpie_config){.env = many});
    many[KELPIE_ENV_COUNT_MAX] = "A=1";
    check_refused(&(struct kelpie_config){.env = many}, "env");
}

static void test_mock(void **state) {
    (void)state;
    static const struct {
        struct kelpie_mock_config mock;
        const char *field; /* NULL: it is taken */
    } rows[] = {
        {{0}, NULL},
        {{.architecture = "aarch64", .boot_delay_ms = 10}, NULL},
        {{.architecture = ""}, "mock.architecture"},
        {{.architecture = "a123456789012345"}, "mock.architecture"},
        {{.boot_delay_ms = KELPIE_TIMEOUT_MS_MAX + 1}, "mock.boot_delay_ms"},
        {{.reserved = {1}}, "mock.reserved"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        const struct kelpie_config config = {.mock = &rows[i].mock};
        if (rows[i].field) {
            check_refused(&config, rows[i].field);
        } else {
            check_taken(&config);
        }
    }
}

/* A variable, and a command with all that comes of its config, of just as many bytes as may be, and of one more. */
static void test_bytes_of_variables(void **state) {
    (void)state;
    static char variable[KELPIE_COMMAND_BYTES_MAX + 1];
    struct kelpie_error err = {0};
    memset(variable, 'x', sizeof(variable) - 1);
    variable[1] = '=';
    const char *env[] = {variable, NULL};
    check_refused(&(struct kelpie_config){.env = env}, "env[0]");
    variable[KELPIE_COMMAND_BYTES_MAX - 1] = 0;
    check_taken(&(struct kelpie_config){.env = env});
    const char *argv[] = {"a", NULL};
    size_t fits = KELPIE_COMMAND_BYTES_MAX - sizeof("a") - sizeof("/") - 1;
    for (size_t extra = 0; extra < 2; extra++) {
        enum kelpie_status expected = extra ? KELPIE_BAD_CONFIG : KELPIE_OK;
        variable[fits + extra] = 0;
        const struct kelpie_config with_env = {.working_dir = "/", .env = env};
        const struct kelpie_config without = {.working_dir = "/"};
        assert_int_equal(vm_command_check(&with_env, &(struct kelpie_command){.argv = argv}, &err),
                         expected);
        assert_int_equal(
            vm_command_check(&without, &(struct kelpie_command){.argv = argv, .env = env}, &err),
            expected);
        variable[fits + extra] = 'x';
    }
}

static void refuse_command(const struct kelpie_command *command, const char *field) {
    static const struct kelpie_config config = {.working_dir = "/"};
    struct kelpie_error err = {0};
    assert_int_equal(vm_command_check(&config, command, &err), KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, field);
}

static void test_commands(void **state) {
    (void)state;
    const char *argv[] = {"true", NULL};
    const char *none[] = {NULL};
    const char *empty[] = {"", NULL};
    refuse_command(&(struct kelpie_command){0}, "argv");
    refuse_command(&(struct kelpie_command){.argv = none}, "argv");
    refuse_command(&(struct kelpie_command){.argv = empty}, "argv");
    refuse_command(&(struct kelpie_command){.argv = argv, .working_dir = "x"}, "working_dir");
    refuse_command(&(struct kelpie_command){.argv = argv, .stdin_size = 1}, "stdin_data");
    refuse_command(&(struct kelpie_command){.argv = argv, .rlimit_count = 1}, "rlimits");
    refuse_command(&(struct kelpie_command){.argv = argv, .reserved = {1}}, "reserved");
    refuse_command(&(struct kelpie_command){.argv = argv, .timeout_ms = UINT32_MAX}, "timeout_ms");
    const struct kelpie_rlimit limits[] = {{7, 2, 1}};
    refuse_command(&(struct kelpie_command){.argv = argv, .rlimits = limits, .rlimit_count = 1},
                   "rlimits[0]");
}

/* The limit counts argv, env and the working folder, each with its zero. */
static void hazard_d2_command_bytes_are_limited_exactly(void **state) {
    (void)state;
    static const struct kelpie_config config = {.working_dir = "/"};
    char *argument = malloc(KELPIE_COMMAND_BYTES_MAX);
    assert_non_null(argument);
    memset(argument, 'x', KELPIE_COMMAND_BYTES_MAX);
    size_t fits = KELPIE_COMMAND_BYTES_MAX - sizeof("echo") - sizeof("/") - 1;
    const char *argv[] = {"echo", argument, NULL};
    struct kelpie_error err = {0};
    argument[fits] = 0;
    assert_int_equal(vm_command_check(&config, &(struct kelpie_command){.argv = argv}, &err),
                     KELPIE_OK);
    argument[fits] = 'x';
    argument[fits + 1] = 0;
    assert_int_equal(vm_command_check(&config, &(struct kelpie_command){.argv = argv}, &err),
                     KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, "argv");
    free(argument);
}

static void test_a_copy_has_defaults_and_owns_its_strings(void **state) {
    (void)state;
    struct host *host = NULL;
    struct kelpie_error err;
    assert_int_equal(host_linux_create(&host, &err), KELPIE_OK);
    char name[] = "my_vm";
    char variable[] = "A=1";
    const char *env[] = {variable, NULL};
    struct kelpie_disk disk = {.path = "disk", .mount = "/d", .read_only = true};
    struct kelpie_config config = {.name = name, .env = env, .disks = &disk, .disk_count = 1};
    struct kelpie_config *copy = NULL;
    assert_int_equal(vm_config_copy(host, &config, "0123", &copy, &err), KELPIE_OK);
    memset(name, '!', sizeof(name) - 1);
    memset(variable, '!', sizeof(variable) - 1);
    disk.path = NULL;
    assert_string_equal(copy->name, "my_vm");
    assert_string_equal(copy->hostname, "my-vm");
    assert_string_equal(copy->env[0], "A=1");
    assert_null(copy->env[1]);
    assert_string_equal(copy->disks[0].path, "disk");
    assert_true(copy->disks[0].read_only);
    assert_string_equal(copy->working_dir, "/");
    assert_int_equal(copy->memory_mib, KELPIE_MEMORY_MIB_DEFAULT);
    assert_int_equal(copy->boot_timeout_ms, KELPIE_BOOT_TIMEOUT_MS_DEFAULT);
    vm_config_destroy(copy);
    host_destroy(host);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_paths),
        cmocka_unit_test(test_disks),
        cmocka_unit_test(test_env),
        cmocka_unit_test(test_mock),
        cmocka_unit_test(test_bytes_of_variables),
        cmocka_unit_test(test_commands),
        cmocka_unit_test(hazard_d2_command_bytes_are_limited_exactly),
        cmocka_unit_test(test_a_copy_has_defaults_and_owns_its_strings),
    };
    return cmocka_run_group_tests_name("vm_check", tests, NULL, NULL);
}
