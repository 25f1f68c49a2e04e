/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The qemu backend over a shell script in QEMU's place, which answers each command as a file beside it says. */
#include "backend/qemu/qemu.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "backend/qemu/qemu_limits.h"
#include "base/assert.h"
#include "base/cleanup.h"
#include "support/backend_vm.h"
#include "support/fault_host.h"

#define WAIT_MS 20000
#define SHORT_MS 200
#define KERNEL_SIZE 8192
#define PATH_SIZE 96
#define FD_COUNT_MAX 8

#define VERSION_LINE "[ \"$1\" = --version ] && echo 'QEMU emulator version 7.2.0' && exit 0\n"

/* QMP is descriptor 5; commands are numbered from 1. $0.moved: what a migration's state is asked for. */
#define QMP_SCRIPT                                                                                 \
    VERSION_LINE                                                                                   \
    "echo '{\"QMP\": {}}' >&5; n=0\n"                                                              \
    "while read -r line <&5; do\n"                                                                 \
    "  n=$((n + 1)); answer='{}'\n"                                                                \
    "  case \"$line\" in *query-migrate*) answer=$(cat \"$0.moved\");; esac\n"                     \
    "  [ -e \"$0.garbage\" ] && answer=garbage\n"                                                  \
    "  echo \"{\\\"return\\\": $answer, \\\"id\\\": $n}\" >&5\n"                                   \
    "done"

struct fixture {
    struct host *inner;
    struct host *host;
    struct backend_vm vm;
    char folder[64];
    char kernel[PATH_SIZE];
    char script[PATH_SIZE];
    char bundle[PATH_SIZE];
};

static void run(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void run(const char *format, ...) {
    char command[512];
    va_list args;
    va_start(args, format);
    vsnprintf(command, sizeof(command), format, args);
    va_end(args);
    assert_int_equal(system(command), 0);
}

static void ok(enum kelpie_status status, const struct kelpie_error *err) {
    if (status != KELPIE_OK) {
        fail_msg("%s: %s", kelpie_status_name(status), err->message);
    }
}

static void write_file(struct fixture *fixture, const char *path, const void *data, size_t size) {
    struct kelpie_error err;
    ok(host_file_store(fixture->inner, path, data, size, 0700, &err), &err);
}

static void pretend(struct fixture *fixture, const char *script) {
    char text[1024];
    int size = snprintf(text, sizeof(text), "#!/bin/sh\n%s\n", script);
    write_file(fixture, fixture->script, text, (size_t)size);
}

/* What the script says of a migration from now on. */
static void moved(struct fixture *fixture, const char *answer) {
    char path[PATH_SIZE + 8];
    snprintf(path, sizeof(path), "%s.moved", fixture->script);
    write_file(fixture, path, answer, strlen(answer));
}

/* The header of a bzImage is all that is looked at. */
static void make_kernel(struct fixture *fixture) {
    uint8_t data[KERNEL_SIZE] = {0};
    data[0x1f1] = 3;
    data[0x1f4] = (KERNEL_SIZE - 2048) / 16 & 0xff;
    data[0x1f5] = (KERNEL_SIZE - 2048) / 16 >> 8;
    memcpy(data + 0x1fe, "\x55\xaaxxHdrS\x0f\x02", 10);
    data[0x20f] = 1;
    data[0x211] = 1;
    memcpy(data + 0x300, "6.1.0 (test)", 13);
    write_file(fixture, fixture->kernel, data, sizeof(data));
}

static int setup(void **state) {
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    assert_non_null(fixture);
    assert_int_equal(host_linux_create(&fixture->inner, NULL), KELPIE_OK);
    assert_int_equal(fault_host_create(fixture->inner, &fixture->host, NULL), KELPIE_OK);
    snprintf(fixture->folder, sizeof(fixture->folder), "/tmp/kelpie-scripted-XXXXXX");
    assert_non_null(mkdtemp(fixture->folder));
    snprintf(fixture->kernel, PATH_SIZE, "%s/vmlinuz", fixture->folder);
    snprintf(fixture->script, PATH_SIZE, "%s/qemu", fixture->folder);
    snprintf(fixture->bundle, PATH_SIZE, "%s/bundle", fixture->folder);
    setenv("XDG_CACHE_HOME", fixture->folder, 1);
    setenv("KELPIE_QEMU", fixture->script, 1);
    make_kernel(fixture);
    pretend(fixture, QMP_SCRIPT);
    moved(fixture, "{\"status\": \"completed\"}");
    backend_vm_init(&fixture->vm, fixture->host, &backend_qemu_ops);
    fixture->vm.config.kernel = fixture->kernel;
    fixture->vm.config.memory_mib = 64;
    *state = fixture;
    return 0;
}

static int teardown(void **state) {
    struct fixture *fixture = *state;
    char text[256];
    backend_vm_destroy(&fixture->vm);
    if (fault_host_leaks(fixture->host, text, sizeof(text)) != 0) {
        fail_msg("left open: %s", text);
    }
    host_destroy(fixture->host);
    host_destroy(fixture->inner);
    run("rm -rf %s", fixture->folder);
    free(fixture);
    return 0;
}

static void create(struct fixture *fixture) {
    struct kelpie_error err;
    ok(backend_vm_create(&fixture->vm, &err), &err);
}

static void start(struct fixture *fixture) {
    struct kelpie_error err;
    create(fixture);
    ok(backend_vm_start(&fixture->vm, WAIT_MS, &err), &err);
}

static void expect_start_fails(struct fixture *fixture, enum kelpie_status status,
                               const char *words) {
    struct kelpie_error err;
    create(fixture);
    assert_int_equal(backend_vm_start(&fixture->vm, WAIT_MS, &err), status);
    assert_non_null(strstr(err.message, words));
    assert_int_equal(fixture->vm.ops->process_id(fixture->vm.instance), 0);
}

/* A bundle whose manifest is changed before it is sealed. */
static enum kelpie_status save(struct fixture *fixture, enum kelpie_snapshot_kind kind,
                               uint32_t timeout_ms, void (*change)(struct snapshot_manifest *to),
                               struct kelpie_error *err) {
    struct backend_vm *vm = &fixture->vm;
    struct snapshot_writer *writer = NULL;
    struct kelpie_snapshot snapshot;
    const struct host_wait wait = host_wait_ms(fixture->host, timeout_ms, HOST_FD_NONE);
    TRY(snapshot_writer_create(fixture->host, fixture->bundle, 0, &writer, err));
    struct snapshot_manifest *manifest = snapshot_writer_manifest(writer);
    manifest->info.kind = kind;
    manifest->info.created_unix_ms = 1;
    snprintf(manifest->info.backend, sizeof(manifest->info.backend), "qemu");
    snprintf(manifest->vm_id, sizeof(manifest->vm_id), "%s", vm->launch.id);
    enum kelpie_status status = vm->ops->save(vm->instance, kind, writer, &wait, err);
    if (status == KELPIE_OK) {
        change(manifest);
        status = snapshot_writer_publish(writer, &wait, &snapshot, err);
    }
    snapshot_writer_destroy(writer);
    return status;
}

static char *feature_of(struct snapshot_manifest *manifest, const char *name) {
    for (size_t i = 0; i < manifest->feature_count; i++) {
        if (strcmp(manifest->features[i].name, name) == 0) {
            return manifest->features[i].value;
        }
    }
    fail_msg("the bundle has no feature %s", name);
    return NULL;
}

/* It is there under another name, which nobody asks for. */
static void hide_feature(struct snapshot_manifest *manifest, const char *name) {
    for (size_t i = 0; i < manifest->feature_count; i++) {
        if (strcmp(manifest->features[i].name, name) == 0) {
            snprintf(manifest->features[i].name, sizeof(manifest->features[i].name), "hidden");
        }
    }
}

#define CHANGE(name, statement)                                                                    \
    static void name(struct snapshot_manifest *to) {                                               \
        statement;                                                                                 \
    }
CHANGE(nothing, (void)to)
CHANGE(no_cpu, hide_feature(to, "cpu"))
CHANGE(no_machine, hide_feature(to, "machine"))
CHANGE(no_tsc, hide_feature(to, "tsc_khz"))
CHANGE(slow_tsc, memcpy(feature_of(to, "tsc_khz"), "1", 2))
CHANGE(fast_tsc, memcpy(feature_of(to, "tsc_khz"), "4294967295", 11))
CHANGE(unknown_tsc, memcpy(feature_of(to, "tsc_khz"), "0", 2))
CHANGE(no_memory, to->memory_in_state = false)

static void save_with(struct fixture *fixture, void (*change)(struct snapshot_manifest *to)) {
    struct kelpie_error err;
    run("rm -rf %s", fixture->bundle);
    ok(save(fixture, KELPIE_SNAPSHOT_SUSPEND, WAIT_MS, change, &err), &err);
}

/* ---- Running ---------------------------------------------------------------------------------- */

static void only_what_is_open_is_polled(void **state) {
    struct fixture *fixture = *state;
    struct backend_vm *vm = &fixture->vm;
    struct kelpie_error err;
    int fds[FD_COUNT_MAX];
    create(fixture);
    assert_int_equal(vm->ops->service_fds(vm->instance, fds, FD_COUNT_MAX), 0);
    vm->ops->service(vm->instance, 0); /* of a machine that is gone: nothing */
    ok(backend_vm_start(vm, WAIT_MS, &err), &err);
    assert_int_equal(vm->ops->service_fds(vm->instance, fds, FD_COUNT_MAX), 3);
    assert_int_equal(vm->ops->service_fds(vm->instance, fds, 2), 2);
    /* A control channel on which nothing can be said any more is not read either. */
    run("touch %s.garbage", fixture->script);
    const struct host_wait wait = host_wait_ms(fixture->host, WAIT_MS, HOST_FD_NONE);
    assert_int_equal(vm->ops->pause(vm->instance, &wait, &err), KELPIE_INTERNAL);
    assert_int_equal(vm->ops->service_fds(vm->instance, fds, FD_COUNT_MAX), 2);
    backend_vm_stop(vm, 0);
    assert_int_equal(vm->ops->service_fds(vm->instance, fds, FD_COUNT_MAX), 0);
}

static void what_needs_a_machine_says_so(void **state) {
    struct fixture *fixture = *state;
    struct backend_vm *vm = &fixture->vm;
    struct kelpie_error err;
    const struct host_wait wait = host_wait_ms(fixture->host, WAIT_MS, HOST_FD_NONE);
    create(fixture);
    assert_int_equal(vm->ops->pause(vm->instance, &wait, &err), KELPIE_WRONG_STATE);
    assert_int_equal(save(fixture, KELPIE_SNAPSHOT_SUSPEND, WAIT_MS, nothing, &err),
                     KELPIE_WRONG_STATE);
    ok(backend_vm_start(vm, WAIT_MS, &err), &err);
    assert_int_equal(save(fixture, KELPIE_SNAPSHOT_CHECKPOINT, WAIT_MS, nothing, &err),
                     KELPIE_UNSUPPORTED);
    ok(save(fixture, KELPIE_SNAPSHOT_TELEPORT, WAIT_MS, nothing, &err), &err);
}

/* ---- Starts that fail ------------------------------------------------------------------------- */

static void a_qemu_that_went_away_is_missing(void **state) {
    struct fixture *fixture = *state;
    struct kelpie_error err;
    create(fixture);
    assert_int_equal(unlink(fixture->script), 0);
    assert_int_equal(backend_vm_start(&fixture->vm, WAIT_MS, &err), KELPIE_BACKEND_MISSING);
    assert_non_null(strstr(err.message, "QEMU is gone; install it"));
}

/* Each machine is tried once, and the second one's failure is told. */
static void a_qemu_without_machines_is_given_up(void **state) {
    struct fixture *fixture = *state;
    pretend(fixture,
            VERSION_LINE "echo x >> \"$0.tries\"\n"
                         "echo \"$3$(wc -l < \"$0.tries\"): unsupported machine type\" >&2\n"
                         "exit 1");
    expect_start_fails(fixture, KELPIE_BOOT_FAILED, "-no-reboot");
    run("[ $(wc -l < %s.tries) = 2 ]", fixture->script);
}

static void kernel_args_that_do_not_fit_fail_the_start(void **state) {
    struct fixture *fixture = *state;
    char args[QEMU_APPEND_SIZE_MAX];
    memset(args, 'a', sizeof(args) - 1);
    args[sizeof(args) - 1] = '\0';
    fixture->vm.config.kernel_args = args;
    expect_start_fails(fixture, KELPIE_BAD_CONFIG, "kernel_args are too long");
}

/* ---- Saves that fail -------------------------------------------------------------------------- */

static void expect_save_fails(struct fixture *fixture, const char *answer,
                              enum kelpie_status status, const char *words) {
    struct kelpie_error err;
    const uint32_t timeout_ms = status == KELPIE_TIMED_OUT ? SHORT_MS : WAIT_MS;
    moved(fixture, answer);
    assert_int_equal(save(fixture, KELPIE_SNAPSHOT_SUSPEND, timeout_ms, nothing, &err), status);
    if (!strstr(err.message, words)) {
        fail_msg("%s", err.message);
    }
}

static void how_a_move_ends_is_told(void **state) {
    struct fixture *fixture = *state;
    start(fixture);
    expect_save_fails(fixture, "{\"status\": \"cancelled\"}", KELPIE_SNAPSHOT_FAILED,
                      "no reason given");
    expect_save_fails(fixture, "{\"status\": \"failed\", \"error-desc\": \"No space left on it\"}",
                      KELPIE_NO_SPACE, "No space left on it");
    expect_save_fails(fixture, "{\"status\": \"active\"}", KELPIE_TIMED_OUT, "");
    expect_save_fails(fixture, "{}", KELPIE_TIMED_OUT, "");
    moved(fixture, "{\"status\": \"completed\"}");
    save_with(fixture, nothing);
}

/* Whoever fills a manifest before us leaves room, or is told. */
static void a_manifest_without_room_is_no_bundle(void **state) {
    struct fixture *fixture = *state;
    struct backend_vm *vm = &fixture->vm;
    struct kelpie_error err;
    start(fixture);
    for (size_t room = 0; room <= 4; room++) {
        struct snapshot_manifest *manifest = NULL;
        ok(snapshot_manifest_create(fixture->host, &manifest, &err), &err);
        for (size_t i = 0; i < SNAPSHOT_FEATURE_COUNT_MAX - room; i++) {
            char name[32];
            snprintf(name, sizeof(name), "name%zu", i);
            ok(snapshot_manifest_add_feature(manifest, name, "value", &err), &err);
        }
        enum kelpie_status status = vm->ops->identify(vm->instance, manifest, &err);
        assert_int_equal(status == KELPIE_OK, room == 4);
        snapshot_manifest_destroy(manifest);
    }
}

/* ---- Loads that fail -------------------------------------------------------------------------- */

static void bundle_of_another_machine_is_refused(void **state) {
    struct fixture *fixture = *state;
    static const struct {
        void (*change)(struct snapshot_manifest *to);
        const char *field;
        const char *words;
    } cases[] = {
        {no_cpu, "cpu", "none there, max here"},
        {no_machine, "machine", "none there, microvm or q35 here"},
        {no_tsc, "tsc_khz", "none there"},
        {slow_tsc, "tsc_khz", "1 there"},
        {fast_tsc, "tsc_khz", "4294967295 there"},
    };
    struct kelpie_error err;
    start(fixture);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        save_with(fixture, cases[i].change);
        backend_vm_stop(&fixture->vm, 0);
        assert_int_equal(backend_vm_load(&fixture->vm, fixture->bundle, &err),
                         KELPIE_SNAPSHOT_INCOMPATIBLE);
        assert_string_equal(err.field, cases[i].field);
        assert_non_null(strstr(err.message, cases[i].words));
        ok(backend_vm_start(&fixture->vm, WAIT_MS, &err), &err);
    }
}

/* Of a host that cannot count ticks: nothing to compare. */
static void bundle_without_a_rate_is_taken(void **state) {
    struct fixture *fixture = *state;
    struct kelpie_error err;
    start(fixture);
    save_with(fixture, unknown_tsc);
    backend_vm_stop(&fixture->vm, 0);
    ok(backend_vm_load(&fixture->vm, fixture->bundle, &err), &err);
}

/* A machine that was restored lazily has its memory in the state; a bundle that says neither has lost it. */
static void bundle_without_memory_is_refused(void **state) {
    struct fixture *fixture = *state;
    struct backend_vm *vm = &fixture->vm;
    struct kelpie_error err;
    start(fixture);
    save_with(fixture, nothing);
    backend_vm_stop(vm, 0);
    ok(backend_vm_load(vm, fixture->bundle, &err), &err);
    save_with(fixture, nothing);
    backend_vm_stop(vm, 0);
    fault_host_arm(fixture->host, &(struct fault_plan){.nth = 1, .only = "memory_file"});
    assert_int_equal(backend_vm_load(vm, fixture->bundle, &err), KELPIE_IO_FAILED);
    ok(backend_vm_load(vm, fixture->bundle, &err), &err); /* the fault is over */
    save_with(fixture, nothing);
    backend_vm_stop(vm, 0);
    ok(backend_vm_load(vm, fixture->bundle, &err), &err);
}

static void bundle_that_lost_its_memory_is_corrupt(void **state) {
    struct fixture *fixture = *state;
    struct backend_vm *vm = &fixture->vm;
    struct kelpie_error err;
    start(fixture);
    save_with(fixture, nothing);
    backend_vm_stop(vm, 0);
    ok(backend_vm_load(vm, fixture->bundle, &err), &err);
    save_with(fixture, no_memory);
    backend_vm_stop(vm, 0);
    assert_int_equal(backend_vm_load(vm, fixture->bundle, &err), KELPIE_SNAPSHOT_CORRUPT);
    assert_string_equal(err.field, "memory");
}

#define QEMU_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        QEMU_TEST(only_what_is_open_is_polled),
        QEMU_TEST(what_needs_a_machine_says_so),
        QEMU_TEST(a_qemu_that_went_away_is_missing),
        QEMU_TEST(a_qemu_without_machines_is_given_up),
        QEMU_TEST(kernel_args_that_do_not_fit_fail_the_start),
        QEMU_TEST(how_a_move_ends_is_told),
        QEMU_TEST(a_manifest_without_room_is_no_bundle),
        QEMU_TEST(bundle_of_another_machine_is_refused),
        QEMU_TEST(bundle_without_a_rate_is_taken),
        QEMU_TEST(bundle_without_memory_is_refused),
        QEMU_TEST(bundle_that_lost_its_memory_is_corrupt),
    };
    return cmocka_run_group_tests_name("qemu_scripted", tests, NULL, NULL);
}
