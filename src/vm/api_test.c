/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What a caller may do wrong at each function of kelpie.h, on the mock: it is told which field, and nothing has changed.
 * Each call is made once more without a place for the error. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/assert.h"
#include "kelpie.h"

#define DAY_AND_MORE_MS (KELPIE_TIMEOUT_MS_MAX + 1)
#define ARGV(...) ((const char *const[]){__VA_ARGS__, NULL})
#define NO_NAME "-"

struct fixture {
    char folder[64];
    char bundle[96];
    char target[96];
    struct kelpie_vm *vm; /* running */
};

static struct fixture fixture;

static struct kelpie_vm *start_vm(const char *name) {
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = NULL;
    const struct kelpie_config config = {.backend = "mock", .memory_mib = 64, .name = name};
    if (kelpie_vm_create(&config, &vm, &err) != KELPIE_OK ||
        kelpie_vm_start(vm, &err) != KELPIE_OK) {
        fail_msg("%s", err.message);
    }
    return vm;
}

static int setup(void **state) {
    (void)state;
    struct kelpie_snapshot snapshot;
    fixture = (struct fixture){.folder = "/tmp/kelpie-api-XXXXXX"};
    assert_non_null(mkdtemp(fixture.folder));
    snprintf(fixture.bundle, sizeof(fixture.bundle), "%s/bundle", fixture.folder);
    snprintf(fixture.target, sizeof(fixture.target), "%s/target", fixture.folder);
    fixture.vm = start_vm("first");
    assert_int_equal(kelpie_vm_snapshot(fixture.vm, fixture.bundle, NULL, &snapshot, NULL),
                     KELPIE_OK);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    char command[160];
    kelpie_vm_destroy(fixture.vm);
    snprintf(command, sizeof(command), "rm -rf %s", fixture.folder);
    return system(command);
}

static void refused(const char *call, enum kelpie_status status, const struct kelpie_error *err,
                    enum kelpie_status wanted, const char *field) {
    if (status != wanted || err->status != wanted || err->message[0] == '\0' ||
        strcmp(err->field, field) != 0) {
        fail_msg("%s: %s, field %s: %s", call, kelpie_status_name(status), err->field,
                 err->message);
    }
}

/* The call's last argument is `err`; what it would have given must be NULL or a place for it. */
#define REFUSED(call, status, field)                                                               \
    do {                                                                                           \
        struct kelpie_error place = {0};                                                           \
        struct kelpie_error *err = &place;                                                         \
        enum kelpie_status first = call;                                                           \
        refused(#call, first, err, status, field);                                                 \
        err = NULL;                                                                                \
        assert_int_equal(call, status);                                                            \
    } while (0)

/* ---- VMs -------------------------------------------------------------------------------------- */

static void test_create(void **state) {
    (void)state;
    struct kelpie_vm *vm = NULL;
    static const struct kelpie_mock_config mock = {.architecture = "a-b"};
    static const struct kelpie_mock_config long_mock = {.architecture = "a123456789012345"};
    static const struct kelpie_disk disks[] = {{.path = "/dev/null"}};
    static const struct kelpie_network network = {.kind = KELPIE_NETWORK_USER};
    static const struct {
        struct kelpie_config config;
        enum kelpie_status status;
        const char *field;
    } cases[] = {
        {{.backend = "nope"}, KELPIE_NOT_FOUND, "backend"},
        {{.backend = "mock", .name = "-"}, KELPIE_BAD_CONFIG, "name"},
        {{.backend = "mock", .memory_mib = 1}, KELPIE_BAD_CONFIG, "memory_mib"},
        {{.backend = "mock", .mock = &mock}, KELPIE_BAD_CONFIG, "mock.architecture"},
        {{.backend = "mock", .mock = &long_mock}, KELPIE_BAD_CONFIG, "mock.architecture"},
        {{.backend = "mock", .disks = disks, .disk_count = 1}, KELPIE_UNSUPPORTED, "disks"},
        {{.backend = "mock", .network = &network}, KELPIE_UNSUPPORTED, "network"},
        {{.backend = "mock", .hypervisor = "x"}, KELPIE_UNSUPPORTED, "hypervisor"},
        {{.backend = "qemu", .hypervisor = "/nowhere/x"}, KELPIE_BACKEND_MISSING, ""},
        {{.backend = "firecracker", .hypervisor = "/nowhere/x"}, KELPIE_BACKEND_MISSING, ""},
        {{.backend = "libkrun", .hypervisor = "/nowhere/x"}, KELPIE_BACKEND_MISSING, ""},
        {{.backend = "vz"}, KELPIE_BACKEND_MISSING, ""},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        REFUSED(kelpie_vm_create(&cases[i].config, &vm, err), cases[i].status, cases[i].field);
        assert_null(vm);
    }
    assert_string_equal(kelpie_state_name((enum kelpie_state)KELPIE_STATE_COUNT), "unknown");
    assert_string_equal(kelpie_state_name(KELPIE_STATE_PAUSED), "paused");
}

static void test_waits(void **state) {
    (void)state;
    enum kelpie_state found = KELPIE_STATE_COUNT;
    struct kelpie_vm *vm = fixture.vm;
    REFUSED(kelpie_vm_wait(vm, 0, 1, &found, err), KELPIE_BAD_CONFIG, "states");
    REFUSED(kelpie_vm_wait(vm, 1u << KELPIE_STATE_COUNT, 1, &found, err), KELPIE_BAD_CONFIG,
            "states");
    REFUSED(kelpie_vm_wait(vm, 1, DAY_AND_MORE_MS, &found, err), KELPIE_BAD_CONFIG, "timeout_ms");
    REFUSED(kelpie_vm_wait(vm, 1u << KELPIE_STATE_STOPPED, 1, &found, err), KELPIE_TIMED_OUT, "");
    assert_int_equal(found, KELPIE_STATE_COUNT);
    assert_int_equal(kelpie_vm_wait(vm, 1u << KELPIE_STATE_RUNNING, 0, &found, NULL), KELPIE_OK);
    assert_int_equal(found, KELPIE_STATE_RUNNING);
}

static void test_states(void **state) {
    (void)state;
    struct kelpie_vm *vm = fixture.vm;
    struct kelpie_restore_report report;
    uint64_t ns = 0;
    REFUSED(kelpie_vm_stop(vm, DAY_AND_MORE_MS, err), KELPIE_BAD_CONFIG, "timeout_ms");
    REFUSED(kelpie_vm_start(vm, err), KELPIE_WRONG_STATE, "running");
    REFUSED(kelpie_vm_resume(vm, err), KELPIE_WRONG_STATE, "running");
    REFUSED(kelpie_vm_restore_report(vm, &report, err), KELPIE_WRONG_STATE, "");
    REFUSED(kelpie_vm_record_working_set(vm, err), KELPIE_UNSUPPORTED, "");
    REFUSED(kelpie_mock_fail(vm, (enum kelpie_mock_operation)99, 1, err), KELPIE_BAD_CONFIG,
            "operation");
    vm = start_vm("second");
    assert_int_equal(kelpie_vm_stop(vm, 1000, NULL), KELPIE_OK);
    REFUSED(kelpie_mock_crash(vm, err), KELPIE_WRONG_STATE, "stopped");
    REFUSED(kelpie_vm_ping(vm, &ns, err), KELPIE_WRONG_STATE, "stopped");
    REFUSED(kelpie_vm_pause(vm, err), KELPIE_WRONG_STATE, "stopped");
    REFUSED(kelpie_vm_stop(vm, 0, err), KELPIE_WRONG_STATE, "stopped");
    kelpie_vm_destroy(vm);
    kelpie_vm_destroy(NULL);
}

/* ---- Commands --------------------------------------------------------------------------------- */

static void test_commands(void **state) {
    (void)state;
    static const struct kelpie_rlimit wrong_limits[] = {{.resource = 16},
                                                        {.resource = 7, .soft = 2, .hard = 1}};
    static const char *const many[KELPIE_ARGV_COUNT_MAX + 2] = {[0 ... KELPIE_ARGV_COUNT_MAX] =
                                                                    "a"};
    const struct {
        struct kelpie_command command;
        const char *field;
    } cases[] = {
        {{0}, "argv"},
        {{.argv = many}, "argv"},
        {{.argv = ARGV("true"), .env = ARGV("A")}, "env[0]"},
        {{.argv = ARGV("true"), .working_dir = "a"}, "working_dir"},
        {{.argv = ARGV("true"), .timeout_ms = DAY_AND_MORE_MS}, "timeout_ms"},
        {{.argv = ARGV("true"), .output_bytes_max = KELPIE_OUTPUT_BYTES_MAX + 1ul},
         "output_bytes_max"},
        {{.argv = ARGV("true"), .rlimit_count = 1}, "rlimits"},
        {{.argv = ARGV("true"), .rlimits = wrong_limits, .rlimit_count = 17}, "rlimits"},
        {{.argv = ARGV("true"), .rlimits = wrong_limits, .rlimit_count = 1}, "rlimits[0]"},
        {{.argv = ARGV("true"), .rlimits = wrong_limits + 1, .rlimit_count = 1}, "rlimits[0]"},
        {{.argv = ARGV("true"), .reserved = {1}}, "reserved"},
    };
    struct kelpie_output output = {0};
    struct kelpie_exec *exec = NULL;
    uint32_t ids[1];
    size_t count = 0;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        REFUSED(kelpie_vm_exec(fixture.vm, &cases[i].command, &output, err), KELPIE_BAD_CONFIG,
                cases[i].field);
    }
    assert_null(output.stdout_data);
    kelpie_output_free(&output);
    kelpie_output_free(NULL);
    const struct kelpie_command data = {.argv = ARGV("cat"), .stdin_data = "x", .stdin_size = 1};
    REFUSED(kelpie_exec_start(fixture.vm, &data, &exec, err), KELPIE_BAD_CONFIG, "stdin_size");
    REFUSED(kelpie_exec_attach(fixture.vm, 0, &exec, err), KELPIE_BAD_CONFIG, "exec_id");
    REFUSED(kelpie_exec_attach(fixture.vm, 4711, &exec, err), KELPIE_NOT_FOUND, "");
    assert_null(exec);
    assert_int_equal(kelpie_exec_list(fixture.vm, ids, 0, &count, NULL), KELPIE_OK);
    assert_int_equal(count, 0);
    kelpie_exec_close(NULL);
    kelpie_exec_detach(NULL);
}

/* The command's own variables stand in for the config's of the same name. */
static void test_variables(void **state) {
    (void)state;
    struct kelpie_vm *vm = NULL;
    struct kelpie_output output = {0};
    const struct kelpie_config config = {
        .backend = "mock", .memory_mib = 64, .env = ARGV("A=config", "AB=config", "C=config")};
    const struct kelpie_command command = {.argv = ARGV("sh", "-c", "echo $A $AB $C $D"),
                                           .env = ARGV("A=own", "D=own")};
    assert_int_equal(kelpie_vm_create(&config, &vm, NULL), KELPIE_OK);
    assert_int_equal(kelpie_vm_start(vm, NULL), KELPIE_OK);
    assert_int_equal(kelpie_vm_exec(vm, &command, &output, NULL), KELPIE_OK);
    assert_string_equal(output.stdout_data, "own config config own\n");
    kelpie_output_free(&output);
    kelpie_vm_destroy(vm);
}

static void test_sessions(void **state) {
    (void)state;
    struct kelpie_exec *exec = NULL;
    struct kelpie_exec *other = NULL;
    struct kelpie_exit ended;
    struct kelpie_chunk chunk = {0};
    char byte = 0;
    size_t count = 0;
    const struct kelpie_command cat = {.argv = ARGV("cat"), .stdin_open = true};
    assert_int_equal(kelpie_exec_start(fixture.vm, &cat, &exec, NULL), KELPIE_OK);
    REFUSED(kelpie_exec_read(exec, &chunk, 0, err), KELPIE_BAD_CONFIG, "chunk");
    chunk.buffer = &byte;
    REFUSED(kelpie_exec_read(exec, &chunk, 0, err), KELPIE_BAD_CONFIG, "chunk");
    chunk.size = 1;
    REFUSED(kelpie_exec_read(exec, &chunk, DAY_AND_MORE_MS, err), KELPIE_BAD_CONFIG, "timeout_ms");
    REFUSED(kelpie_exec_read(exec, &chunk, 1, err), KELPIE_TIMED_OUT, "");
    REFUSED(kelpie_exec_write(exec, NULL, 1, &count, err), KELPIE_BAD_CONFIG, "data");
    REFUSED(kelpie_exec_write(exec, "a", 0, &count, err), KELPIE_BAD_CONFIG, "data");
    REFUSED(kelpie_exec_resize(exec, 0, 1, err), KELPIE_BAD_CONFIG, "rows");
    REFUSED(kelpie_exec_resize(exec, 1, 0, err), KELPIE_BAD_CONFIG, "rows");
    REFUSED(kelpie_exec_signal(exec, 0, err), KELPIE_BAD_CONFIG, "signal_number");
    REFUSED(kelpie_exec_signal(exec, 65, err), KELPIE_BAD_CONFIG, "signal_number");
    REFUSED(kelpie_exec_wait(exec, DAY_AND_MORE_MS, &ended, err), KELPIE_BAD_CONFIG, "timeout_ms");
    REFUSED(kelpie_exec_wait(exec, 1, &ended, err), KELPIE_TIMED_OUT, "");
    REFUSED(kelpie_exec_attach(fixture.vm, kelpie_exec_id(exec), &other, err), KELPIE_BUSY, "");
    assert_int_equal(kelpie_exec_close_stdin(exec, NULL), KELPIE_OK);
    assert_int_equal(kelpie_exec_close_stdin(exec, NULL), KELPIE_OK); /* it is closed already */
    REFUSED(kelpie_exec_write(exec, "a", 1, &count, err), KELPIE_EXEC_FAILED, "");
    assert_int_equal(kelpie_exec_wait(exec, 10000, &ended, NULL), KELPIE_OK);
    assert_int_equal(ended.code, 0);
    kelpie_exec_close(exec);
}

/* ---- Files ------------------------------------------------------------------------------------ */

static void test_copies(void **state) {
    (void)state;
    struct kelpie_vm *vm = fixture.vm;
    static const struct kelpie_copy_options mode = {.mode = 010000};
    static const struct kelpie_copy_options newer = {.reserved = {1}};
    static const struct kelpie_copy_options small = {.bytes_max = 1};
    static const struct kelpie_copy_options own = {.mode = 0640, .bytes_max = 3};
    char source[128];
    snprintf(source, sizeof(source), "%s/source", fixture.folder);
    FILE *file = fopen(source, "w");
    assert_non_null(file);
    assert_int_equal(fputs("abc", file) >= 0, 1);
    assert_int_equal(fclose(file), 0);
    REFUSED(kelpie_copy_in(vm, source, "/tmp/a", &mode, err), KELPIE_BAD_CONFIG, "mode");
    REFUSED(kelpie_copy_in(vm, source, "/tmp/a", &newer, err), KELPIE_BAD_CONFIG, "reserved");
    REFUSED(kelpie_copy_in(vm, source, "/tmp/a", &small, err), KELPIE_COPY_FAILED, "bytes_max");
    REFUSED(kelpie_copy_in(vm, NULL, "/tmp/a", NULL, err), KELPIE_BAD_CONFIG, "host_path");
    REFUSED(kelpie_copy_in(vm, source, NULL, NULL, err), KELPIE_BAD_CONFIG, "guest_path");
    REFUSED(kelpie_copy_in(vm, fixture.folder, "/tmp/a", NULL, err), KELPIE_COPY_FAILED, "");
    REFUSED(kelpie_copy_out(vm, NULL, fixture.target, NULL, err), KELPIE_BAD_CONFIG, "guest_path");
    REFUSED(kelpie_copy_out(vm, "/tmp/a", NULL, NULL, err), KELPIE_BAD_CONFIG, "host_path");
    REFUSED(kelpie_copy_out(vm, "/tmp/a", fixture.target, NULL, err), KELPIE_NOT_FOUND, "");
    assert_int_equal(kelpie_copy_in(vm, source, "/tmp/a", &own, NULL), KELPIE_OK);
    REFUSED(kelpie_copy_out(vm, "/tmp/a", fixture.target, &small, err), KELPIE_COPY_FAILED,
            "bytes_max");
    assert_int_equal(kelpie_copy_out(vm, "/tmp/a", fixture.target, &own, NULL), KELPIE_OK);
    assert_int_equal(unlink(fixture.target), 0);
}

/* ---- Snapshots -------------------------------------------------------------------------------- */

static void test_snapshots(void **state) {
    (void)state;
    struct kelpie_vm *vm = fixture.vm;
    struct kelpie_snapshot snapshot;
    static const struct {
        struct kelpie_snapshot_options options;
        enum kelpie_status status;
        const char *field;
    } cases[] = {
        {{.kind = KELPIE_SNAPSHOT_KIND_COUNT}, KELPIE_BAD_CONFIG, "kind"},
        {{.kind = KELPIE_SNAPSHOT_CHECKPOINT}, KELPIE_BAD_CONFIG, "workspace"},
        {{.workspace = "/job"}, KELPIE_BAD_CONFIG, "workspace"},
        {{.timeout_ms = DAY_AND_MORE_MS}, KELPIE_BAD_CONFIG, "timeout_ms"},
        {{.reserved = {1}}, KELPIE_BAD_CONFIG, "reserved"},
        {{.track = true}, KELPIE_UNSUPPORTED, "track"},
        {{.parent = "/nope"}, KELPIE_UNSUPPORTED, "parent"},
        {{.bytes_max = 1}, KELPIE_SNAPSHOT_TOO_LARGE, ""},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        REFUSED(kelpie_vm_snapshot(vm, fixture.target, &cases[i].options, &snapshot, err),
                cases[i].status, cases[i].field);
        assert_int_equal(access(fixture.target, F_OK), -1);
    }
    REFUSED(kelpie_vm_snapshot(vm, NULL, NULL, &snapshot, err), KELPIE_BAD_CONFIG, "directory");
    REFUSED(kelpie_vm_snapshot(vm, "", NULL, &snapshot, err), KELPIE_BAD_CONFIG, "directory");
    REFUSED(kelpie_vm_snapshot(vm, fixture.bundle, NULL, &snapshot, err), KELPIE_BAD_CONFIG,
            "directory");
    REFUSED(kelpie_snapshot_inspect(NULL, &snapshot, err), KELPIE_BAD_CONFIG, "directory");
    REFUSED(kelpie_snapshot_verify(NULL, err), KELPIE_BAD_CONFIG, "directory");
    REFUSED(kelpie_snapshot_inspect("/nope", &snapshot, err), KELPIE_NOT_FOUND, "");
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_RUNNING);
}

static void test_restores(void **state) {
    (void)state;
    struct kelpie_vm *vm = NULL;
    static const struct kelpie_restore_options track = {.track = true};
    static const struct kelpie_restore_options newer = {.reserved = {1}};
    static const struct kelpie_restore_options late = {.timeout_ms = DAY_AND_MORE_MS};
    static const struct kelpie_config other = {.backend = "qemu"};
    static const struct kelpie_config bad = {.name = NO_NAME};
    static const struct kelpie_config automatic = {.backend = "auto"};
    const char *bundle = fixture.bundle;
    REFUSED(kelpie_vm_create_from_snapshot(NULL, NULL, NULL, &vm, err), KELPIE_BAD_CONFIG,
            "directory");
    REFUSED(kelpie_vm_create_from_snapshot(bundle, NULL, &newer, &vm, err), KELPIE_BAD_CONFIG,
            "reserved");
    REFUSED(kelpie_vm_create_from_snapshot(bundle, NULL, &late, &vm, err), KELPIE_BAD_CONFIG,
            "timeout_ms");
    REFUSED(kelpie_vm_create_from_snapshot(bundle, NULL, &track, &vm, err), KELPIE_UNSUPPORTED,
            "track");
    REFUSED(kelpie_vm_create_from_snapshot(bundle, &other, NULL, &vm, err),
            KELPIE_SNAPSHOT_INCOMPATIBLE, "backend");
    REFUSED(kelpie_vm_create_from_snapshot(bundle, &bad, NULL, &vm, err), KELPIE_BAD_CONFIG,
            "name");
    REFUSED(kelpie_vm_restore(fixture.vm, NULL, NULL, err), KELPIE_BAD_CONFIG, "directory");
    REFUSED(kelpie_vm_restore(fixture.vm, bundle, &newer, err), KELPIE_BAD_CONFIG, "reserved");
    REFUSED(kelpie_vm_restore(fixture.vm, bundle, NULL, err), KELPIE_WRONG_STATE, "running");
    assert_null(vm);
    assert_int_equal(kelpie_vm_create_from_snapshot(bundle, &automatic, NULL, &vm, NULL),
                     KELPIE_OK);
    kelpie_vm_destroy(vm);
}

/* ---- Forks, pools, backends ------------------------------------------------------------------- */

static void test_forks_and_pools(void **state) {
    (void)state;
    struct kelpie_fork_child child = {0};
    struct kelpie_pool *pool = NULL;
    struct kelpie_vm *vm = NULL;
    static const struct kelpie_config bad = {.name = NO_NAME};
    static const struct kelpie_fork_options forks[] = {{.name_prefix = NO_NAME},
                                                       {.config = &bad},
                                                       {.timeout_ms = DAY_AND_MORE_MS},
                                                       {.reserved = {1}}};
    static const char *const fork_fields[] = {"name_prefix", "name", "timeout_ms", "reserved"};
    static const struct kelpie_pool_options pools[] = {{.name_prefix = NO_NAME},
                                                       {.config = &bad},
                                                       {.size = KELPIE_POOL_SIZE_MAX + 1},
                                                       {.reserved = {1}}};
    static const char *const pool_fields[] = {"name_prefix", "name", "size", "reserved"};
    static const struct kelpie_restore_options newer = {.reserved = {1}};
    for (size_t i = 0; i < ARRAY_SIZE(forks); i++) {
        REFUSED(kelpie_vm_fork(fixture.vm, &forks[i], 1, &child, err), KELPIE_BAD_CONFIG,
                fork_fields[i]);
        REFUSED(kelpie_snapshot_fork(fixture.bundle, &forks[i], 1, &child, err), KELPIE_BAD_CONFIG,
                fork_fields[i]);
        REFUSED(kelpie_pool_create(fixture.bundle, &pools[i], &pool, err), KELPIE_BAD_CONFIG,
                pool_fields[i]);
    }
    REFUSED(kelpie_snapshot_fork(NULL, NULL, 1, &child, err), KELPIE_BAD_CONFIG, "directory");
    REFUSED(kelpie_pool_create(NULL, NULL, &pool, err), KELPIE_BAD_CONFIG, "directory");
    REFUSED(kelpie_pool_create("/nope", NULL, &pool, err), KELPIE_NOT_FOUND, "");
    assert_int_equal(kelpie_pool_create(fixture.bundle, NULL, &pool, NULL), KELPIE_OK);
    REFUSED(kelpie_pool_take(pool, &newer, &vm, err), KELPIE_BAD_CONFIG, "reserved");
    assert_null(vm);
    kelpie_pool_destroy(pool);
    kelpie_pool_destroy(NULL);
    const struct kelpie_fork_options children = {.name_prefix = "child", .timeout_ms = 10000};
    assert_int_equal(kelpie_snapshot_fork(fixture.bundle, &children, 1, &child, NULL), KELPIE_OK);
    assert_string_equal(kelpie_vm_config(child.vm)->name, "child-1");
    kelpie_vm_destroy(child.vm);
}

static void test_backends(void **state) {
    (void)state;
    struct kelpie_backend backends[KELPIE_BACKEND_COUNT_MAX];
    struct kelpie_probe probe = {0};
    size_t count = kelpie_backend_list(NULL, 0);
    assert_true(count > 0 && count <= ARRAY_SIZE(backends));
    memset(backends, 0x55, sizeof(backends));
    assert_int_equal(kelpie_backend_list(backends, 1), count);
    assert_int_equal(backends[1].name[0], 0x55);
    assert_int_equal(kelpie_backend_list(backends, ARRAY_SIZE(backends)), count);
    REFUSED(kelpie_backend_probe("nope", &probe, err), KELPIE_NOT_FOUND, "backend");
    REFUSED(kelpie_backend_probe(NULL, &probe, err), KELPIE_NOT_FOUND, "backend");
    assert_int_equal(kelpie_backend_probe("mock", &probe, NULL), KELPIE_OK);
    assert_true(probe.usable);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_create),    cmocka_unit_test(test_waits),
        cmocka_unit_test(test_states),    cmocka_unit_test(test_commands),
        cmocka_unit_test(test_variables), cmocka_unit_test(test_sessions),
        cmocka_unit_test(test_copies),    cmocka_unit_test(test_snapshots),
        cmocka_unit_test(test_restores),  cmocka_unit_test(test_forks_and_pools),
        cmocka_unit_test(test_backends),
    };
    return cmocka_run_group_tests_name("api", tests, setup, teardown);
}
