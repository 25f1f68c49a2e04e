/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The fault sweep: each call of the API runs on the mock with its 1st, 2nd, 3rd … host call failing, once and
 * from then on, until none fires. Whatever fails: the error is clear, the state is one that the operation may leave,
 * the VM is either of use or says that it is not, and nothing stays open or lies around.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/assert.h"
#include "base/error.h"
#include "kelpie.h"
#include "support/fault_host.h"

#define NTH_MAX 3000 /* an operation with more host calls has a loop without an end */
#define OPERATION_MS 2000
#define CHILD_COUNT 2
#define SIZE 100000 /* more than one frame */
#define BIT(state) (1u << KELPIE_STATE_##state)
#define ARGV(...) ((const char *const[]){__VA_ARGS__, NULL})

struct sweep {
    struct host *inner;
    struct host *host; /* fails as told */
    char folder[64];
    char bundle[96]; /* made once, of a VM that ran */
    char files[96];  /* the same, a checkpoint */
    char target[96]; /* what an operation may make */
    char source[96]; /* a file to copy in */
    struct kelpie_vm *vm;
    struct kelpie_exec *exec;
};

struct operation {
    const char *name;
    uint32_t before; /* BIT of the state in which it begins; 0: without a VM */
    uint32_t
        after; /* states that it may leave, beside `before` and crashed; both 0: no VM is left */
    enum kelpie_status (*run)(struct sweep *sweep, struct kelpie_error *err);
};

/* ---- The operations --------------------------------------------------------------------------- */

static struct kelpie_config config_of(const struct sweep *sweep) {
    static const char *const env[] = {"A=1", NULL};
    return (struct kelpie_config){
        .backend = "mock",
        .memory_mib = 64,
        .env = env,
        .boot_timeout_ms = OPERATION_MS,
        .operation_timeout_ms = OPERATION_MS,
        .stop_timeout_ms = OPERATION_MS,
        .host = sweep->host,
    };
}

static enum kelpie_status run_create(struct sweep *sweep, struct kelpie_error *err) {
    const struct kelpie_config config = config_of(sweep);
    return kelpie_vm_create(&config, &sweep->vm, err);
}

static enum kelpie_status run_start(struct sweep *sweep, struct kelpie_error *err) {
    return kelpie_vm_start(sweep->vm, err);
}

static enum kelpie_status run_stop(struct sweep *sweep, struct kelpie_error *err) {
    return kelpie_vm_stop(sweep->vm, 0, err);
}

static enum kelpie_status run_pause(struct sweep *sweep, struct kelpie_error *err) {
    return kelpie_vm_pause(sweep->vm, err);
}

static enum kelpie_status run_resume(struct sweep *sweep, struct kelpie_error *err) {
    return kelpie_vm_resume(sweep->vm, err);
}

static enum kelpie_status run_ping(struct sweep *sweep, struct kelpie_error *err) {
    uint64_t ns = 0;
    return kelpie_vm_ping(sweep->vm, &ns, err);
}

static enum kelpie_status run_exec(struct sweep *sweep, struct kelpie_error *err) {
    struct kelpie_output output = {0};
    const struct kelpie_command command = {
        .argv = ARGV("cat"), .stdin_data = "some input", .stdin_size = 10};
    enum kelpie_status status = kelpie_vm_exec(sweep->vm, &command, &output, err);
    /* The mock's command meets the same host, and may be the one that failed; it is killed without memory. */
    if (status == KELPIE_OK && output.exit.signal != 9) {
        assert_int_equal(output.exit.code, 0);
        assert_string_equal(output.stdout_data, "some input");
    }
    kelpie_output_free(&output);
    return status;
}

/* Reads all there is; the handle's bytes are right as far as they come. */
static enum kelpie_status read_all(struct kelpie_exec *exec, struct kelpie_error *err) {
    char buffer[4096];
    struct kelpie_chunk chunk = {.stream = KELPIE_STREAM_STDOUT};
    while (chunk.stream != KELPIE_STREAM_NONE) {
        chunk = (struct kelpie_chunk){.buffer = buffer, .size = sizeof(buffer)};
        TRY(kelpie_exec_read(exec, &chunk, OPERATION_MS, err));
        for (size_t i = 0; i < chunk.size; i++) {
            assert_int_equal(buffer[i], 'x');
        }
    }
    return KELPIE_OK;
}

static enum kelpie_status run_stream(struct sweep *sweep, struct kelpie_error *err) {
    const struct kelpie_command command = {.argv = ARGV("cat"), .stdin_open = true};
    struct kelpie_exit ended = {0};
    size_t count = 0;
    TRY(kelpie_exec_start(sweep->vm, &command, &sweep->exec, err));
    TRY(kelpie_exec_write(sweep->exec, "xxxxx", 5, &count, err));
    TRY(kelpie_exec_close_stdin(sweep->exec, err));
    TRY(read_all(sweep->exec, err));
    return kelpie_exec_wait(sweep->exec, OPERATION_MS, &ended, err);
}

static enum kelpie_status run_terminal(struct sweep *sweep, struct kelpie_error *err) {
    const struct kelpie_command command = {.argv = ARGV("cat"), .tty = true};
    struct kelpie_exit ended = {0};
    TRY(kelpie_exec_start(sweep->vm, &command, &sweep->exec, err));
    TRY(kelpie_exec_resize(sweep->exec, 10, 20, err));
    TRY(kelpie_exec_signal(sweep->exec, 15, err));
    return kelpie_exec_wait(sweep->exec, OPERATION_MS, &ended, err);
}

static enum kelpie_status run_attach(struct sweep *sweep, struct kelpie_error *err) {
    const struct kelpie_command command = {.argv = ARGV("sleep", "1000")};
    uint32_t ids[4];
    size_t count = 0;
    TRY(kelpie_exec_start(sweep->vm, &command, &sweep->exec, err));
    uint32_t id = kelpie_exec_id(sweep->exec);
    kelpie_exec_detach(sweep->exec);
    sweep->exec = NULL;
    TRY(kelpie_exec_list(sweep->vm, ids, ARRAY_SIZE(ids), &count, err));
    return kelpie_exec_attach(sweep->vm, id, &sweep->exec, err);
}

static enum kelpie_status run_copy(struct sweep *sweep, struct kelpie_error *err) {
    TRY(kelpie_copy_in(sweep->vm, sweep->source, "/tmp/file", NULL, err));
    enum kelpie_status status = kelpie_copy_out(sweep->vm, "/tmp/file", sweep->target, NULL, err);
    struct stat info;
    if (status == KELPIE_OK) {
        assert_int_equal(stat(sweep->target, &info), 0);
        assert_int_equal(info.st_size, SIZE);
    }
    return status;
}

static enum kelpie_status run_snapshot(struct sweep *sweep, struct kelpie_error *err) {
    struct kelpie_snapshot snapshot = {0};
    enum kelpie_status status = kelpie_vm_snapshot(sweep->vm, sweep->target, NULL, &snapshot, err);
    struct kelpie_error broken = {0};
    if (status == KELPIE_OK && kelpie_snapshot_verify(sweep->target, &broken) != KELPIE_OK) {
        fail_msg("the bundle is not whole: %s", broken.message);
    }
    return status;
}

static const struct kelpie_snapshot_options checkpoint = {.kind = KELPIE_SNAPSHOT_CHECKPOINT,
                                                          .workspace = "/tmp"};

static enum kelpie_status run_checkpoint(struct sweep *sweep, struct kelpie_error *err) {
    struct kelpie_snapshot snapshot = {0};
    enum kelpie_status status =
        kelpie_vm_snapshot(sweep->vm, sweep->target, &checkpoint, &snapshot, err);
    struct kelpie_error broken = {0};
    if (status == KELPIE_OK && kelpie_snapshot_verify(sweep->target, &broken) != KELPIE_OK) {
        fail_msg("the bundle is not whole: %s", broken.message);
    }
    return status;
}

static enum kelpie_status run_restore_files_paused(struct sweep *sweep, struct kelpie_error *err) {
    const struct kelpie_restore_options options = {.paused = true};
    return kelpie_vm_restore(sweep->vm, sweep->files, &options, err);
}

static enum kelpie_status run_verify_files(struct sweep *sweep, struct kelpie_error *err) {
    return kelpie_snapshot_verify_on(sweep->host, sweep->files, err);
}

static enum kelpie_status run_create_from_files(struct sweep *sweep, struct kelpie_error *err) {
    const struct kelpie_config config = config_of(sweep);
    return kelpie_vm_create_from_snapshot(sweep->files, &config, NULL, &sweep->vm, err);
}

static enum kelpie_status run_restore(struct sweep *sweep, struct kelpie_error *err) {
    return kelpie_vm_restore(sweep->vm, sweep->bundle, NULL, err);
}

static enum kelpie_status run_restore_paused(struct sweep *sweep, struct kelpie_error *err) {
    const struct kelpie_restore_options options = {.paused = true, .verify_memory = true};
    return kelpie_vm_restore(sweep->vm, sweep->bundle, &options, err);
}

static enum kelpie_status run_create_from_snapshot(struct sweep *sweep, struct kelpie_error *err) {
    const struct kelpie_config config = config_of(sweep);
    return kelpie_vm_create_from_snapshot(sweep->bundle, &config, NULL, &sweep->vm, err);
}

/* What became of the children is the operation's status: the first failure. */
static enum kelpie_status end_children(enum kelpie_status status,
                                       struct kelpie_fork_child children[CHILD_COUNT],
                                       struct kelpie_error *err) {
    for (size_t i = 0; i < CHILD_COUNT; i++) {
        if (status == KELPIE_OK && !children[i].vm) {
            *err = children[i].error;
            status = err->status;
        }
        kelpie_vm_destroy(children[i].vm);
    }
    return status;
}

static enum kelpie_status run_fork(struct sweep *sweep, struct kelpie_error *err) {
    struct kelpie_fork_child children[CHILD_COUNT] = {0};
    enum kelpie_status status = kelpie_vm_fork(sweep->vm, NULL, CHILD_COUNT, children, err);
    return end_children(status, children, err);
}

static enum kelpie_status run_fork_bundle(struct sweep *sweep, struct kelpie_error *err) {
    struct kelpie_fork_child children[CHILD_COUNT] = {0};
    const struct kelpie_config config = config_of(sweep);
    const struct kelpie_fork_options options = {.config = &config};
    enum kelpie_status status =
        kelpie_snapshot_fork(sweep->bundle, &options, CHILD_COUNT, children, err);
    return end_children(status, children, err);
}

static enum kelpie_status run_pool(struct sweep *sweep, struct kelpie_error *err) {
    struct kelpie_pool *pool = NULL;
    struct kelpie_vm *vm = NULL;
    const struct kelpie_config config = config_of(sweep);
    const struct kelpie_pool_options options = {.config = &config, .size = 2};
    enum kelpie_status status = kelpie_pool_create(sweep->bundle, &options, &pool, err);
    if (status == KELPIE_OK) {
        status = kelpie_pool_take(pool, NULL, &vm, err);
    }
    kelpie_vm_destroy(vm);
    kelpie_pool_destroy(pool);
    return status;
}

static enum kelpie_status run_inspect(struct sweep *sweep, struct kelpie_error *err) {
    struct kelpie_snapshot snapshot = {0};
    enum kelpie_status status =
        kelpie_snapshot_inspect_on(sweep->host, sweep->bundle, &snapshot, err);
    assert_true(status == KELPIE_OK ? strcmp(snapshot.backend, "mock") == 0 : snapshot.id[0] == 0);
    return status;
}

static enum kelpie_status run_verify(struct sweep *sweep, struct kelpie_error *err) {
    return kelpie_snapshot_verify_on(sweep->host, sweep->bundle, err);
}

/* What a look at this machine fails of is no error: it is the probe's answer. */
static enum kelpie_status run_probe(struct sweep *sweep, struct kelpie_error *err) {
    static const char *const names[] = {"kvm", "qemu", "mock"};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        struct kelpie_probe probe = {0};
        TRY(kelpie_backend_probe_on(sweep->host, names[i], &probe, err));
        assert_true(strlen(probe.reason) > 0);
    }
    return KELPIE_OK;
}

static const struct operation operations[] = {
    {"inspect", 0, 0, run_inspect},
    {"verify", 0, 0, run_verify},
    {"probe", 0, 0, run_probe},
    {"create", 0, BIT(CREATED), run_create},
    {"start", BIT(CREATED), BIT(RUNNING), run_start},
    {"stop", BIT(RUNNING), BIT(STOPPED), run_stop},
    {"pause", BIT(RUNNING), BIT(PAUSED), run_pause},
    {"resume", BIT(PAUSED), BIT(RUNNING), run_resume},
    {"ping", BIT(RUNNING), 0, run_ping},
    {"exec", BIT(RUNNING), 0, run_exec},
    {"stream", BIT(RUNNING), 0, run_stream},
    {"terminal", BIT(RUNNING), 0, run_terminal},
    {"attach", BIT(RUNNING), 0, run_attach},
    {"copy", BIT(RUNNING), 0, run_copy},
    {"snapshot", BIT(RUNNING), BIT(PAUSED), run_snapshot},
    {"snapshot while paused", BIT(PAUSED), 0, run_snapshot},
    {"restore", BIT(CREATED), BIT(RUNNING), run_restore},
    {"restore paused", BIT(CREATED), BIT(PAUSED), run_restore_paused},
    {"create from snapshot", 0, BIT(RUNNING), run_create_from_snapshot},
    {"checkpoint", BIT(RUNNING), 0, run_checkpoint},
    {"checkpoint while paused", BIT(PAUSED), 0, run_checkpoint},
    {"restore a checkpoint paused", BIT(CREATED), BIT(PAUSED), run_restore_files_paused},
    {"verify a checkpoint", 0, 0, run_verify_files},
    {"create from a checkpoint", 0, BIT(RUNNING), run_create_from_files},
    {"fork", BIT(RUNNING), BIT(PAUSED), run_fork},
    {"fork a bundle", 0, 0, run_fork_bundle},
    {"pool", 0, 0, run_pool},
};

/* ---- Before and after ------------------------------------------------------------------------- */

static void ok(enum kelpie_status status, const char *what, const struct kelpie_error *err) {
    if (status != KELPIE_OK) {
        fail_msg("%s: %s: %s", what, kelpie_status_name(status), err->message);
    }
}

/* A VM in that state, with no fault. */
static void prepare(struct sweep *sweep, uint32_t state) {
    struct kelpie_error err = {0};
    if (state == 0) {
        return;
    }
    ok(run_create(sweep, &err), "create", &err);
    if (state != BIT(CREATED)) {
        ok(run_start(sweep, &err), "start", &err);
    }
    if (state == BIT(PAUSED)) {
        ok(run_pause(sweep, &err), "pause", &err);
    }
    assert_int_equal(1u << kelpie_vm_state(sweep->vm), state);
}

/* What the VM is good for now: all that its state promises, or it says that it must be made anew. */
static void expect_usable(struct sweep *sweep) {
    struct kelpie_error err = {0};
    enum kelpie_status status = KELPIE_OK;
    enum kelpie_state state = kelpie_vm_state(sweep->vm);
    if (state == KELPIE_STATE_CREATED || state == KELPIE_STATE_STOPPED) {
        status = run_start(sweep, &err);
    } else if (state == KELPIE_STATE_PAUSED) {
        status = run_resume(sweep, &err);
    }
    if (status == KELPIE_OK) {
        status = run_exec(sweep, &err);
    }
    if (status != KELPIE_OK && !err.requires_recreate) {
        fail_msg("was %s, and is of no use without saying so: %s: %s", kelpie_state_name(state),
                 kelpie_status_name(status), err.message);
    }
}

static void expect_clear(enum kelpie_status status, const struct kelpie_error *err) {
    assert_int_equal(err->status, status);
    assert_true(strlen(err->message) > 10);
    assert_null(strstr(err->message, "(null)"));
}

static void destroy(struct sweep *sweep) {
    kelpie_exec_close(sweep->exec);
    kelpie_vm_destroy(sweep->vm);
    sweep->exec = NULL;
    sweep->vm = NULL;
}

/* Nothing is open, and the folder holds the bundle, the source, and no more than one whole target. Where
 * removing a file fails too, what was half written stays, under a name that is not the target's. */
static void expect_nothing_left(struct sweep *sweep, bool removing_fails) {
    char text[512];
    if (fault_host_leaks(sweep->host, text, sizeof(text)) != 0) {
        fail_msg("left open: %s", text);
    }
    (void)!host_path_remove_folder(sweep->inner, sweep->target, NULL);
    unlink(sweep->target);
    struct host_dir_entry entries[8];
    size_t count = 0;
    assert_int_equal(
        host_dir_list(sweep->inner, sweep->folder, entries, ARRAY_SIZE(entries), &count, NULL),
        KELPIE_OK);
    for (size_t i = 0; i < count; i++) {
        const char *name = entries[i].name;
        if (strcmp(name, "bundle") == 0 || strcmp(name, "files") == 0 ||
            strcmp(name, "source") == 0) {
            continue;
        }
        if (!removing_fails || strncmp(name, "target.", strlen("target.")) != 0) {
            fail_msg("%s was left in the folder", name);
        }
        char path[512];
        snprintf(path, sizeof(path), "%s/%s", sweep->folder, name);
        (void)!host_path_remove_folder(sweep->inner, path, NULL);
        unlink(path);
    }
}

/* One operation with one fault. Returns whether it fired. */
static bool run_once(struct sweep *sweep, const struct operation *operation, uint64_t nth,
                     bool sticky) {
    struct kelpie_error err = {0};
    prepare(sweep, operation->before);
    fault_host_arm(sweep->host, &(struct fault_plan){.nth = nth, .sticky = sticky});
    enum kelpie_status status = operation->run(sweep, &err);
    const char *fired = fault_host_fired(sweep->host);
    if (sticky && nth % 2 == 0) {
        /* What cleans up meets the same host. */
        destroy(sweep);
    }
    fault_host_disarm(sweep->host);
    if (status != KELPIE_OK) {
        expect_clear(status, &err);
    } else if (!sweep->vm && operation->after != 0 && !(sticky && nth % 2 == 0)) {
        fail_msg("it succeeded without a VM");
    }
    if (status != KELPIE_OK && !fired) {
        fail_msg("it failed without a fault: %s", err.message);
    }
    if (sweep->vm) {
        uint32_t state = 1u << kelpie_vm_state(sweep->vm);
        if (!(state & (operation->before | operation->after | BIT(CRASHED)))) {
            fail_msg("left %s", kelpie_state_name(kelpie_vm_state(sweep->vm)));
        }
        expect_usable(sweep);
    }
    destroy(sweep);
    expect_nothing_left(sweep, sticky);
    return fired != NULL;
}

static uint64_t sweep_operation(struct sweep *sweep, const struct operation *operation,
                                bool sticky) {
    uint64_t nth = 1;
    while (run_once(sweep, operation, nth, sticky)) {
        nth++;
        assert_true(nth < NTH_MAX);
    }
    return nth - 1;
}

/* ---- Set-up ----------------------------------------------------------------------------------- */

static void make_inputs(struct sweep *sweep) {
    struct kelpie_error err = {0};
    struct kelpie_snapshot snapshot = {0};
    static char bytes[SIZE];
    memset(bytes, 'x', sizeof(bytes));
    ok(host_file_store(sweep->inner, sweep->source, bytes, sizeof(bytes), 0600, &err), "store",
       &err);
    prepare(sweep, BIT(RUNNING));
    ok(kelpie_vm_snapshot(sweep->vm, sweep->bundle, NULL, &snapshot, &err), "snapshot", &err);
    ok(kelpie_copy_in(sweep->vm, sweep->source, "/tmp/file", NULL, &err), "copy", &err);
    ok(kelpie_vm_snapshot(sweep->vm, sweep->files, &checkpoint, &snapshot, &err), "checkpoint",
       &err);
    destroy(sweep);
}

static int setup(void **state) {
    struct sweep *sweep = calloc(1, sizeof(*sweep));
    assert_non_null(sweep);
    snprintf(sweep->folder, sizeof(sweep->folder), "/tmp/kelpie-sweep-XXXXXX");
    assert_non_null(mkdtemp(sweep->folder));
    snprintf(sweep->bundle, sizeof(sweep->bundle), "%s/bundle", sweep->folder);
    snprintf(sweep->files, sizeof(sweep->files), "%s/files", sweep->folder);
    snprintf(sweep->target, sizeof(sweep->target), "%s/target", sweep->folder);
    snprintf(sweep->source, sizeof(sweep->source), "%s/source", sweep->folder);
    assert_int_equal(host_linux_create(&sweep->inner, NULL), KELPIE_OK);
    assert_int_equal(fault_host_create(sweep->inner, &sweep->host, NULL), KELPIE_OK);
    make_inputs(sweep);
    *state = sweep;
    return 0;
}

static int teardown(void **state) {
    struct sweep *sweep = *state;
    (void)!host_path_remove_folder(sweep->inner, sweep->bundle, NULL);
    (void)!host_path_remove_folder(sweep->inner, sweep->files, NULL);
    (void)!host_path_remove_folder(sweep->inner, sweep->folder, NULL);
    host_destroy(sweep->host);
    host_destroy(sweep->inner);
    free(sweep);
    return 0;
}

static double now_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void sweep_all(struct sweep *sweep, bool sticky) {
    for (size_t i = 0; i < ARRAY_SIZE(operations); i++) {
        double start = now_s();
        print_message("%s: ", operations[i].name);
        uint64_t count = sweep_operation(sweep, &operations[i], sticky);
        print_message("%llu host calls failed in turn, %.1f s\n", (unsigned long long)count,
                      now_s() - start);
        assert_true(count > 1);
    }
}

static void each_host_call_fails_once(void **state) {
    sweep_all(*state, false);
}

static void each_host_call_and_all_behind_it_fail(void **state) {
    sweep_all(*state, true);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(each_host_call_fails_once, setup, teardown),
        cmocka_unit_test_setup_teardown(each_host_call_and_all_behind_it_fail, setup, teardown),
    };
    return cmocka_run_group_tests_name("sweep", tests, NULL, NULL);
}
