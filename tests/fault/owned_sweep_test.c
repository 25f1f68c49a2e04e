/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The fault sweep over VMs with owners: each call of the API runs in a handle whose 1st, 2nd, 3rd … host call fails, once and
 * from then on, until none fires (of longer ones, every few). Whatever fails: the error is clear, nothing stays open, and the VM is nobody's worse for it,
 * for it is its owner's: another handle finds it in a state that the operation may leave, and uses it. The owner is a thread
 * (support/owner_host.h) on a host that does not fail.
 */
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
#include "base/error.h"
#include "kelpie_store.h"
#include "support/fault_host.h"
#include "support/owner_host.h"

#define NTH_MAX 1000 /* an operation with more host calls has a loop without an end */
#define OPERATION_MS 500
#define WAIT_MS 10000
#define CHILD_COUNT 2
#define BIT(state) (1u << KELPIE_STATE_##state)
#define ARGV(...) ((const char *const[]){__VA_ARGS__, NULL})

struct sweep {
    struct host *inner;
    struct host *host; /* fails as told */
    char folder[64];
    char bundle[96];
    char source[96];
    char target[96];
    struct kelpie_vm *keeper; /* on the host that does not fail */
    struct kelpie_vm *vm;     /* on the other */
    struct kelpie_exec *exec;
};

struct operation {
    const char *name;
    uint32_t before; /* BIT of the state in which it begins; 0: there is no VM */
    uint32_t after;  /* states that it may leave, beside `before` */
    enum kelpie_status (*run)(struct sweep *sweep, struct kelpie_error *err);
    uint64_t stride; /* of the calls that fail */
};

/* ---- The operations --------------------------------------------------------------------------- */

static struct kelpie_config config_of(struct host *host) {
    static const struct kelpie_owner owner = {.program = "owner"};
    return (struct kelpie_config){
        .name = "swept",
        .backend = "mock",
        .memory_mib = 64,
        .owner = &owner,
        .boot_timeout_ms = OPERATION_MS,
        .operation_timeout_ms = OPERATION_MS,
        .stop_timeout_ms = OPERATION_MS,
        .host = host,
    };
}

static enum kelpie_status run_create(struct sweep *sweep, struct kelpie_error *err) {
    const struct kelpie_config config = config_of(sweep->host);
    return kelpie_vm_create(&config, &sweep->vm, err);
}

static enum kelpie_status run_open(struct sweep *sweep, struct kelpie_error *err) {
    kelpie_vm_close(sweep->vm);
    sweep->vm = NULL;
    return kelpie_vm_open(sweep->host, "swept", &sweep->vm, err);
}

static enum kelpie_status run_start(struct sweep *sweep, struct kelpie_error *err) {
    return kelpie_vm_start(sweep->vm, err);
}

static enum kelpie_status run_stop(struct sweep *sweep, struct kelpie_error *err) {
    return kelpie_vm_stop(sweep->vm, 0, err);
}

static enum kelpie_status run_pause(struct sweep *sweep, struct kelpie_error *err) {
    TRY(kelpie_vm_pause(sweep->vm, err));
    return kelpie_vm_resume(sweep->vm, err);
}

static enum kelpie_status run_looks(struct sweep *sweep, struct kelpie_error *err) {
    uint64_t ns = 0;
    char text[32];
    struct kelpie_stats stats = {0};
    (void)kelpie_vm_console(sweep->vm, text, sizeof(text)); /* nothing, where it could not be had */
    TRY(kelpie_vm_ping(sweep->vm, &ns, err));
    return kelpie_vm_stats(sweep->vm, &stats, err);
}

static enum kelpie_status echo(struct kelpie_vm *vm, struct kelpie_error *err) {
    struct kelpie_output output = {0};
    const struct kelpie_command command = {
        .argv = ARGV("cat"), .stdin_data = "some input", .stdin_size = 10};
    enum kelpie_status status = kelpie_vm_exec(vm, &command, &output, err);
    if (status == KELPIE_OK) {
        assert_int_equal(output.exit.code, 0);
        assert_string_equal(output.stdout_data, "some input");
    }
    kelpie_output_free(&output);
    return status;
}

static enum kelpie_status run_exec(struct sweep *sweep, struct kelpie_error *err) {
    return echo(sweep->vm, err);
}

static enum kelpie_status run_detached(struct sweep *sweep, struct kelpie_error *err) {
    uint32_t id = 0;
    struct kelpie_exit ended = {0};
    const struct kelpie_command command = {.argv = ARGV("cat"), .stdin_open = true};
    TRY(kelpie_vm_run_detached(sweep->vm, &command, &id, err));
    TRY(kelpie_exec_attach(sweep->vm, id, &sweep->exec, err));
    TRY(kelpie_exec_close_stdin(sweep->exec, err));
    TRY(kelpie_exec_wait(sweep->exec, OPERATION_MS, &ended, err));
    kelpie_exec_detach(sweep->exec);
    sweep->exec = NULL;
    TRY(kelpie_vm_wait_detached(sweep->vm, OPERATION_MS, &ended, err));
    assert_int_equal(ended.code, 0);
    return KELPIE_OK;
}

static enum kelpie_status run_copy(struct sweep *sweep, struct kelpie_error *err) {
    TRY(kelpie_copy_tree_in(sweep->vm, sweep->source, "/tmp/tree", NULL, NULL, err));
    (void)!host_path_remove_tree(sweep->inner, sweep->target, NULL);
    return kelpie_copy_tree_out(sweep->vm, "/tmp/tree", sweep->target, NULL, NULL, err);
}

static enum kelpie_status run_snapshot(struct sweep *sweep, struct kelpie_error *err) {
    struct kelpie_snapshot snapshot = {0};
    (void)!host_path_remove_tree(sweep->inner, sweep->target, NULL);
    return kelpie_vm_snapshot(sweep->vm, sweep->target, NULL, &snapshot, err);
}

static enum kelpie_status run_restore(struct sweep *sweep, struct kelpie_error *err) {
    struct kelpie_restore_report report = {0};
    TRY(kelpie_vm_restore(sweep->vm, sweep->bundle, NULL, err));
    return kelpie_vm_restore_report(sweep->vm, &report, err);
}

static enum kelpie_status run_fork(struct sweep *sweep, struct kelpie_error *err) {
    struct kelpie_fork_child children[CHILD_COUNT] = {0};
    const struct kelpie_fork_options options = {.name_prefix = "child"};
    enum kelpie_status status = kelpie_vm_fork(sweep->vm, &options, CHILD_COUNT, children, err);
    for (size_t i = 0; i < CHILD_COUNT; i++) {
        if (status == KELPIE_OK && !children[i].vm) {
            *err = children[i].error;
            status = err->status;
        }
        kelpie_vm_close(children[i].vm);
    }
    return status;
}

static enum kelpie_status run_lever(struct sweep *sweep, struct kelpie_error *err) {
    assert_int_not_equal(kelpie_vm_record_working_set(sweep->vm, err), KELPIE_OK); /* of a mock */
    return kelpie_mock_crash(sweep->vm, err);
}

static const struct operation operations[] = {
    {"create", 0, BIT(CREATED), run_create, 1},
    {"open", BIT(RUNNING), 0, run_open, 2},
    {"start", BIT(STOPPED), BIT(RUNNING), run_start, 1},
    {"stop", BIT(RUNNING), BIT(STOPPED), run_stop, 1},
    {"pause", BIT(RUNNING), BIT(PAUSED), run_pause, 1},
    {"looks", BIT(RUNNING), 0, run_looks, 1},
    {"exec", BIT(RUNNING), 0, run_exec, 1},
    {"detached", BIT(RUNNING), 0, run_detached, 1},
    {"copy", BIT(RUNNING), 0, run_copy, 5},
    {"snapshot", BIT(RUNNING), 0, run_snapshot, 1},
    {"restore", BIT(STOPPED), BIT(RUNNING), run_restore, 1},
    {"fork", BIT(RUNNING), 0, run_fork, 19},
    {"lever", BIT(RUNNING), BIT(CRASHED), run_lever, 1},
};

/* ---- Before and after ------------------------------------------------------------------------- */

static void ok(enum kelpie_status status, const char *what, const struct kelpie_error *err) {
    if (status != KELPIE_OK) {
        fail_msg("%s: %s: %s", what, kelpie_status_name(status), err->message);
    }
}

/* The VM in that state, by a handle whose host does not fail. */
static void keep_in(struct sweep *sweep, uint32_t state) {
    struct kelpie_error err = {0};
    const struct kelpie_config config = config_of(sweep->inner);
    struct kelpie_stats stats;
    if (sweep->keeper) { /* what others have done is told to it, before the answer */
        (void)!kelpie_vm_stats(sweep->keeper, &stats, &err);
    }
    if (sweep->keeper && kelpie_vm_state(sweep->keeper) == KELPIE_STATE_CRASHED) {
        kelpie_vm_destroy(sweep->keeper);
        sweep->keeper = NULL;
    }
    if (!sweep->keeper) {
        ok(kelpie_vm_create(&config, &sweep->keeper, &err), "create", &err);
    }
    enum kelpie_state now = kelpie_vm_state(sweep->keeper);
    if (now == KELPIE_STATE_PAUSED) {
        ok(kelpie_vm_resume(sweep->keeper, &err), "resume", &err);
    } else if (now != KELPIE_STATE_RUNNING && (state == BIT(RUNNING) || now != 0)) {
        ok(kelpie_vm_start(sweep->keeper, &err), "start", &err);
    }
    now = kelpie_vm_state(sweep->keeper);
    if (state == BIT(STOPPED)) {
        if (now != KELPIE_STATE_RUNNING) {
            ok(kelpie_vm_start(sweep->keeper, &err), "start", &err);
        }
        ok(kelpie_vm_stop(sweep->keeper, 0, &err), "stop", &err);
    }
    assert_int_equal(1u << kelpie_vm_state(sweep->keeper), state);
}

/* It is in a state that it may be in, and of use. */
static void expect_whole(struct sweep *sweep, const struct operation *operation,
                         const char *fired) {
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = NULL;
    ok(kelpie_vm_open(sweep->inner, "swept", &vm, &err), "open", &err);
    /* What was asked for goes on without who asked: this is behind it. */
    struct kelpie_stats stats;
    (void)!kelpie_vm_stats(vm, &stats, &err);
    enum kelpie_state state = kelpie_vm_state(vm);
    if (!(1u << state & (operation->before | operation->after))) {
        fail_msg("%s: %s failed, and left %s", operation->name, fired, kelpie_state_name(state));
    }
    if (state == KELPIE_STATE_PAUSED) {
        ok(kelpie_vm_resume(vm, &err), "resume", &err);
    }
    bool up = state == KELPIE_STATE_RUNNING || state == KELPIE_STATE_PAUSED;
    enum kelpie_status status = up ? echo(vm, &err) : KELPIE_OK;
    if (status != KELPIE_OK && (1u << kelpie_vm_state(vm) & operation->after) == 0) {
        fail_msg("%s: %s failed, and the VM is of no use: %s", operation->name, fired, err.message);
    }
    if (operation->run == run_detached) {
        ok(kelpie_vm_stop(vm, 0, &err), "stop", &err); /* there is one such command at a time */
    }
    kelpie_vm_close(vm);
}

/* Whatever is there but the keeper's VM. */
static void remove_listed(struct sweep *sweep) {
    struct kelpie_error err = {0};
    struct kelpie_vm_info *list = NULL;
    size_t count = 0;
    ok(kelpie_vm_list(sweep->inner, &list, &count, &err), "list", &err);
    for (size_t i = 0; i < count; i++) {
        if (!sweep->keeper || strcmp(list[i].name, "swept") != 0) {
            (void)!kelpie_vm_remove(sweep->inner, list[i].name, true, &err);
        }
    }
    kelpie_list_free(list);
}

/* Children, and a VM that was made for nobody: its owner may still be about to. */
static void remove_vms(struct sweep *sweep) {
    const size_t kept = sweep->keeper ? 1 : 0;
    for (size_t i = 0; i < WAIT_MS; i++) {
        remove_listed(sweep);
        if (owner_host_alive() == kept) {
            break;
        }
        usleep(1000);
    }
    assert_int_equal(owner_host_alive(), kept);
}

static void expect_clear(const struct operation *operation, enum kelpie_status status,
                         const struct kelpie_error *err, const char *fired) {
    if (status == KELPIE_OK) {
        return;
    }
    if (!fired) {
        fail_msg("%s failed without a fault: %s", operation->name, err->message);
    }
    assert_int_equal(err->status, status);
    assert_true(strlen(err->message) > 10);
    assert_null(strstr(err->message, "(null)"));
}

/* One operation with one fault. Returns whether it fired. */
static bool run_once(struct sweep *sweep, const struct operation *operation, uint64_t nth,
                     bool sticky) {
    struct kelpie_error err = {0};
    char text[512];
    if (operation->before != 0) {
        keep_in(sweep, operation->before);
        ok(kelpie_vm_open(sweep->host, "swept", &sweep->vm, &err), "open", &err);
    }
    fault_host_arm(sweep->host, &(struct fault_plan){.nth = nth, .sticky = sticky});
    enum kelpie_status status = operation->run(sweep, &err);
    kelpie_exec_close(sweep->exec);
    kelpie_vm_close(sweep->vm); /* what cleans up meets the same host */
    sweep->exec = NULL;
    sweep->vm = NULL;
    const char *fired = fault_host_fired(sweep->host);
    fault_host_disarm(sweep->host);
    expect_clear(operation, status, &err, fired);
    if (fault_host_leaks(sweep->host, text, sizeof(text)) != 0) {
        fail_msg("%s: %s failed (%u), and left open: %s", operation->name,
                 fired ? fired : "nothing", (unsigned)nth, text);
    }
    if (operation->before != 0) {
        expect_whole(sweep, operation, fired ? fired : "nothing");
    }
    remove_vms(sweep); /* children; and one that was made for nobody */
    return fired != NULL;
}

static void end_keeper(struct sweep *sweep) {
    kelpie_vm_destroy(sweep->keeper);
    sweep->keeper = NULL;
    (void)owner_host_join();
}

static void sweep_all(struct sweep *sweep, bool sticky) {
    for (size_t i = 0; i < ARRAY_SIZE(operations); i++) {
        uint64_t start_ns = host_monotonic_ns(sweep->inner);
        uint64_t nth = 1;
        while (run_once(sweep, &operations[i], nth, sticky)) {
            nth += operations[i].stride;
            assert_true(nth < NTH_MAX);
        }
        end_keeper(sweep);
        print_message("%s: %u host calls may fail, %u ms\n", operations[i].name, (unsigned)nth - 1,
                      (unsigned)((host_monotonic_ns(sweep->inner) - start_ns) / HOST_NS_PER_MS));
        assert_true(nth > operations[i].stride);
    }
}

/* ---- Set-up ----------------------------------------------------------------------------------- */

static void make_inputs(struct sweep *sweep) {
    struct kelpie_error err = {0};
    char path[160];
    ok(host_path_mkdir(sweep->inner, sweep->source, 0700, &err), "mkdir", &err);
    snprintf(path, sizeof(path), "%s/file", sweep->source);
    ok(host_file_store(sweep->inner, path, "xxx", 3, 0600, &err), "store", &err);
    snprintf(path, sizeof(path), "%s/below", sweep->source);
    ok(host_path_mkdir(sweep->inner, path, 0700, &err), "mkdir", &err);
    snprintf(path, sizeof(path), "%s/link", sweep->source);
    ok(host_path_symlink(sweep->inner, "file", path, &err), "symlink", &err);
    keep_in(sweep, BIT(RUNNING));
    ok(kelpie_vm_snapshot(sweep->keeper, sweep->bundle, NULL, NULL, &err), "snapshot", &err);
    end_keeper(sweep);
}

static int setup(void **state) {
    struct sweep *sweep = calloc(1, sizeof(*sweep));
    assert_non_null(sweep);
    snprintf(sweep->folder, sizeof(sweep->folder), "/tmp/kelpie-sweep-XXXXXX");
    assert_non_null(mkdtemp(sweep->folder));
    assert_int_equal(setenv("XDG_STATE_HOME", sweep->folder, 1), 0);
    assert_int_equal(setenv("XDG_DATA_HOME", sweep->folder, 1), 0);
    assert_int_equal(setenv("XDG_RUNTIME_DIR", sweep->folder, 1), 0);
    snprintf(sweep->bundle, sizeof(sweep->bundle), "%s/bundle", sweep->folder);
    snprintf(sweep->source, sizeof(sweep->source), "%s/source", sweep->folder);
    snprintf(sweep->target, sizeof(sweep->target), "%s/target", sweep->folder);
    assert_int_equal(owner_host_create(&sweep->inner), KELPIE_OK);
    assert_int_equal(fault_host_create(sweep->inner, &sweep->host, NULL), KELPIE_OK);
    make_inputs(sweep);
    *state = sweep;
    return 0;
}

static int teardown(void **state) {
    struct sweep *sweep = *state;
    sweep->keeper = NULL;
    remove_listed(sweep);
    (void)owner_host_join();
    assert_int_equal(host_path_remove_tree(sweep->inner, sweep->folder, NULL), KELPIE_OK);
    host_destroy(sweep->host);
    host_destroy(sweep->inner);
    free(sweep);
    return 0;
}

static void each_host_call_of_a_handle_fails_once(void **state) {
    sweep_all(*state, false);
}

static void each_host_call_of_a_handle_and_all_behind_it_fail(void **state) {
    sweep_all(*state, true);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(each_host_call_of_a_handle_fails_once, setup, teardown),
        cmocka_unit_test_setup_teardown(each_host_call_of_a_handle_and_all_behind_it_fail, setup,
                                        teardown),
    };
    return cmocka_run_group_tests_name("owned sweep", tests, NULL, NULL);
}
