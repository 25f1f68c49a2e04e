/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The fault sweep of the real backends: each call of the API runs over the scripted monitors with its 1st, 2nd, 3rd … question
 * of a fault answered with yes, fault by fault, until there is no such question. Whatever happens: the error is clear, the
 * VM is of use or says that it is not, nothing stays open, nothing runs on, nothing lies around.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"
#include "sim/peer/vmm.h"
#include "sim/world.h"

#define FOLDER "/root/"
#define DISK FOLDER "disk"
#define FIXED_DISK FOLDER "fixed"
#define SOURCE FOLDER "source"
#define BUNDLE FOLDER "bundle" /* of a VM with everything */
#define PLAIN FOLDER "plain"   /* of one without disks and network */
#define DIFF FOLDER "diff"     /* to PLAIN */
#define TARGET FOLDER "target" /* what an operation may make */
#define TARGET_NEXT FOLDER "target-next"

#define OPERATION_MS 5000
#define SETTLE_MS 60000
#define CHILD_COUNT 2
#define SOURCE_SIZE 100000 /* more than one frame */
#define DISK_SIZE 65536
#define NTH_ALL 14     /* so many are tried one by one, then some of them */
#define NTH_NO_ERROR 3 /* so many are tried without a place for the error too */
#define NTH_MAX 100000
#define ENTRY_COUNT_MAX 64
#define ARGV(...) ((const char *const[]){__VA_ARGS__, NULL})

/* What a monitor had allocated is nobody's when it is killed; jansson is built without frame pointers. Asked by the leak
 * sanitizer. */
__attribute__((visibility("default"))) const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) {
    return "leak:program_main\nleak:libjansson\n";
}

enum before { NOTHING, CREATED, RUNNING, PLAIN_RUNNING };

struct sweep {
    struct sim_world *world;
    struct sim_process *process;
    struct host *host;
    const char *backend;
    const struct operation *operation;
    struct kelpie_vm *vm;
    enum before state; /* of vm, when it is of use for another turn */
    enum sim_fault fault;
    uint32_t fired; /* of the operation */
};

struct operation {
    const char *name;
    enum before before;
    enum kelpie_status (*run)(struct sweep *sweep, struct kelpie_error *err);
    bool (*has)(const char *backend); /* which backends have it; NULL: each */
};

/* ---- The operations --------------------------------------------------------------------------- */

static const struct kelpie_disk disks[] = {
    {.path = DISK},
    {.path = FIXED_DISK, .read_only = true},
};
static const struct kelpie_network network = {.kind = KELPIE_NETWORK_USER};

/* libkrun has no snapshots, and boots its own kernel. */
static bool can_save(const char *backend) {
    return strcmp(backend, "libkrun") != 0;
}

static bool is_kvm(const char *backend) {
    return strcmp(backend, "kvm") == 0;
}

static bool can_diff(const char *backend) {
    return is_kvm(backend) || strcmp(backend, "firecracker") == 0;
}

/* Firecracker has a network of another kind. */
static bool has_network(const char *backend) {
    return strcmp(backend, "firecracker") != 0;
}

static struct kelpie_config config_of(const struct sweep *sweep, bool with_everything) {
    struct kelpie_config config = {
        .backend = sweep->backend,
        .memory_mib = 64,
        .kernel = can_save(sweep->backend) ? SIM_KERNEL_PATH : SIM_KRUNFW_PATH,
        .boot_timeout_ms = OPERATION_MS,
        .operation_timeout_ms = OPERATION_MS,
        .stop_timeout_ms = OPERATION_MS,
        .host = sweep->host,
    };
    if (with_everything) {
        config.disks = disks;
        config.disk_count = ARRAY_SIZE(disks);
        config.network = has_network(sweep->backend) ? &network : NULL;
        config.console_log = FOLDER "console";
    }
    return config;
}

static struct kelpie_config config_from(const struct sweep *sweep) {
    return (struct kelpie_config){
        .operation_timeout_ms = OPERATION_MS, .boot_timeout_ms = OPERATION_MS, .host = sweep->host};
}

/* What a look at this machine fails of is no error: it is the probe's answer. */
static enum kelpie_status run_probe(struct sweep *sweep, struct kelpie_error *err) {
    struct kelpie_probe probe = {0};
    TRY(kelpie_backend_probe_on(sweep->host, sweep->backend, &probe, err));
    assert_true(probe.usable || strlen(probe.reason) > 0);
    return KELPIE_OK;
}

static enum kelpie_status run_create(struct sweep *sweep, struct kelpie_error *err) {
    const struct kelpie_config config = config_of(sweep, true);
    return kelpie_vm_create(&config, &sweep->vm, err);
}

static enum kelpie_status run_create_auto(struct sweep *sweep, struct kelpie_error *err) {
    struct kelpie_config config = config_of(sweep, false);
    config.backend = NULL;
    return kelpie_vm_create(&config, &sweep->vm, err);
}

static enum kelpie_status run_start(struct sweep *sweep, struct kelpie_error *err) {
    return kelpie_vm_start(sweep->vm, err);
}

static enum kelpie_status run_stop(struct sweep *sweep, struct kelpie_error *err) {
    return kelpie_vm_stop(sweep->vm, 0, err);
}

static enum kelpie_status run_stream(struct sweep *sweep, struct kelpie_error *err) {
    const struct kelpie_command command = {
        .argv = ARGV("cat"), .stdin_open = true, .timeout_ms = OPERATION_MS};
    struct kelpie_exec *exec = NULL;
    struct kelpie_exit ended = {0};
    char buffer[4096];
    size_t count = 0;
    TRY(kelpie_exec_start(sweep->vm, &command, &exec, err));
    enum kelpie_status status = kelpie_exec_write(exec, "xxxxx", 5, &count, err);
    if (status == KELPIE_OK) {
        status = kelpie_exec_close_stdin(exec, err);
    }
    struct kelpie_chunk chunk = {.stream = KELPIE_STREAM_STDOUT};
    while (status == KELPIE_OK && chunk.stream != KELPIE_STREAM_NONE) {
        chunk = (struct kelpie_chunk){.buffer = buffer, .size = sizeof(buffer)};
        status = kelpie_exec_read(exec, &chunk, OPERATION_MS, err);
    }
    if (status == KELPIE_OK) {
        status = kelpie_exec_wait(exec, OPERATION_MS, &ended, err);
    }
    kelpie_exec_close(exec);
    return status;
}

static enum kelpie_status run_copy(struct sweep *sweep, struct kelpie_error *err) {
    TRY(kelpie_copy_in(sweep->vm, SOURCE, "/tmp/file", NULL, err));
    enum kelpie_status status = kelpie_copy_out(sweep->vm, "/tmp/file", TARGET, NULL, err);
    char *copy = NULL;
    size_t size = 0;
    if (status == KELPIE_OK &&
        host_file_load(sweep->host, TARGET, 2 * SOURCE_SIZE, &copy, &size, NULL) == KELPIE_OK) {
        assert_int_equal(size, SOURCE_SIZE);
        free(copy);
    }
    return status;
}

static enum kelpie_status run_pause(struct sweep *sweep, struct kelpie_error *err) {
    TRY(kelpie_vm_pause(sweep->vm, err));
    return kelpie_vm_resume(sweep->vm, err);
}

static enum kelpie_status run_snapshot(struct sweep *sweep, struct kelpie_error *err) {
    struct kelpie_snapshot snapshot = {0};
    const struct kelpie_snapshot_options options = {.timeout_ms = OPERATION_MS};
    return kelpie_vm_snapshot(sweep->vm, TARGET, &options, &snapshot, err);
}

static enum kelpie_status run_teleport(struct sweep *sweep, struct kelpie_error *err) {
    const struct kelpie_snapshot_options options = {.kind = KELPIE_SNAPSHOT_TELEPORT,
                                                    .timeout_ms = OPERATION_MS};
    return kelpie_vm_snapshot(sweep->vm, TARGET, &options, NULL, err);
}

static enum kelpie_status run_diff(struct sweep *sweep, struct kelpie_error *err) {
    const struct kelpie_snapshot_options full = {.track = true, .timeout_ms = OPERATION_MS};
    const struct kelpie_snapshot_options diff = {
        .track = true, .parent = TARGET, .timeout_ms = OPERATION_MS};
    TRY(kelpie_vm_snapshot(sweep->vm, TARGET, &full, NULL, err));
    return kelpie_vm_snapshot(sweep->vm, TARGET_NEXT, &diff, NULL, err);
}

static enum kelpie_status restore(struct sweep *sweep, const char *bundle,
                                  const struct kelpie_restore_options *options,
                                  struct kelpie_error *err) {
    const struct kelpie_config config = config_from(sweep);
    struct kelpie_restore_options bounded = *options;
    bounded.timeout_ms = OPERATION_MS;
    return kelpie_vm_create_from_snapshot(bundle, &config, &bounded, &sweep->vm, err);
}

static enum kelpie_status run_restore(struct sweep *sweep, struct kelpie_error *err) {
    return restore(sweep, BUNDLE, &(struct kelpie_restore_options){.verify_memory = true}, err);
}

static enum kelpie_status run_restore_into(struct sweep *sweep, struct kelpie_error *err) {
    const struct kelpie_restore_options options = {.paused = true, .timeout_ms = OPERATION_MS};
    TRY(kelpie_vm_restore(sweep->vm, PLAIN, &options, err));
    return kelpie_vm_resume(sweep->vm, err);
}

static enum kelpie_status run_restore_diff(struct sweep *sweep, struct kelpie_error *err) {
    const struct kelpie_restore_options options = {.track = true, .verify_memory = true};
    return restore(sweep, DIFF, &options, err);
}

static enum kelpie_status run_working_set(struct sweep *sweep, struct kelpie_error *err) {
    const struct kelpie_restore_options options = {.note_working_set = true};
    TRY(restore(sweep, PLAIN, &options, err));
    TRY(kelpie_vm_record_working_set(sweep->vm, err));
    kelpie_vm_destroy(sweep->vm);
    sweep->vm = NULL;
    enum kelpie_status status = restore(sweep, PLAIN, &(struct kelpie_restore_options){0}, err);
    (void)!host_path_unlink(sweep->host, PLAIN "/working-set", NULL);
    return status;
}

/* What became of the children is the operation's status: the first failure. */
static enum kelpie_status end_children(enum kelpie_status status,
                                       struct kelpie_fork_child children[CHILD_COUNT],
                                       struct kelpie_error *err) {
    for (size_t i = 0; i < CHILD_COUNT; i++) {
        if (status == KELPIE_OK && !children[i].vm) {
            status = children[i].error.status;
            if (err) {
                *err = children[i].error;
            }
        }
        kelpie_vm_destroy(children[i].vm);
    }
    return status;
}

static enum kelpie_status run_fork(struct sweep *sweep, struct kelpie_error *err) {
    struct kelpie_fork_child children[CHILD_COUNT] = {0};
    const struct kelpie_fork_options options = {.timeout_ms = OPERATION_MS};
    enum kelpie_status status = kelpie_vm_fork(sweep->vm, &options, CHILD_COUNT, children, err);
    return end_children(status, children, err);
}

static enum kelpie_status run_fork_bundle(struct sweep *sweep, struct kelpie_error *err) {
    struct kelpie_fork_child children[CHILD_COUNT] = {0};
    const struct kelpie_config config = config_from(sweep);
    const struct kelpie_fork_options options = {.config = &config, .timeout_ms = OPERATION_MS};
    enum kelpie_status status = kelpie_snapshot_fork(PLAIN, &options, CHILD_COUNT, children, err);
    return end_children(status, children, err);
}

static enum kelpie_status run_pool(struct sweep *sweep, struct kelpie_error *err) {
    struct kelpie_pool *pool = NULL;
    const struct kelpie_config config = config_from(sweep);
    const struct kelpie_pool_options options = {.config = &config, .size = 1};
    TRY(kelpie_pool_create(DIFF, &options, &pool, err));
    enum kelpie_status status = kelpie_pool_take(pool, NULL, &sweep->vm, err);
    kelpie_pool_destroy(pool);
    return status;
}

static enum kelpie_status run_verify(struct sweep *sweep, struct kelpie_error *err) {
    struct kelpie_snapshot snapshot = {0};
    TRY(kelpie_snapshot_inspect_on(sweep->host, BUNDLE, &snapshot, err));
    return kelpie_snapshot_verify_on(sweep->host, BUNDLE, err);
}

#define PLAIN_COUNT 8 /* the first so many have nothing to do with snapshots */
static const struct operation operations[] = {
    {"probe", NOTHING, run_probe, NULL},
    {"create", NOTHING, run_create, NULL},
    {"create auto", NOTHING, run_create_auto, is_kvm},
    {"start", CREATED, run_start, NULL},
    {"stream", RUNNING, run_stream, NULL},
    {"copy", RUNNING, run_copy, NULL},
    {"pause and resume", RUNNING, run_pause, NULL},
    {"stop", RUNNING, run_stop, NULL},
    {"snapshot", RUNNING, run_snapshot, NULL},
    {"teleport", RUNNING, run_teleport, NULL},
    {"full and diff", PLAIN_RUNNING, run_diff, can_diff},
    {"restore", NOTHING, run_restore, NULL},
    {"restore into", CREATED, run_restore_into, NULL},
    {"restore a diff", NOTHING, run_restore_diff, can_diff},
    {"fork", PLAIN_RUNNING, run_fork, NULL},
    {"fork a bundle", NOTHING, run_fork_bundle, NULL},
    {"pool", NOTHING, run_pool, is_kvm},
    {"working set", NOTHING, run_working_set, is_kvm},
    {"verify", NOTHING, run_verify, NULL},
};

/* Those that a process can meet and live: what happens to machines and clocks is another test's. */
static const enum sim_fault faults[] = {
    SIM_FAULT_MEMORY_NONE,
    SIM_FAULT_RANDOM_FAILS,
    SIM_FAULT_FILE_OPEN_FAILS,
    SIM_FAULT_FILE_READ_FAILS,
    SIM_FAULT_FILE_WRITE_FAILS,
    SIM_FAULT_FILE_DISK_FULL,
    SIM_FAULT_FILE_SYNC_FAILS,
    SIM_FAULT_FILE_STAT_FAILS,
    SIM_FAULT_FILE_TRUNCATE_FAILS,
    SIM_FAULT_FILE_LINK_FAILS,
    SIM_FAULT_FILE_MAP_FAILS,
    SIM_FAULT_MEMORY_FILE_FAILS,
    SIM_FAULT_PATH_STAT_FAILS,
    SIM_FAULT_PATH_RENAME_FAILS,
    SIM_FAULT_PATH_UNLINK_FAILS,
    SIM_FAULT_PATH_MKDIR_FAILS,
    SIM_FAULT_PATH_SYNC_FAILS,
    SIM_FAULT_PATH_LIST_FAILS,
    SIM_FAULT_STREAM_RESET,
    SIM_FAULT_STREAM_READ_FAILS,
    SIM_FAULT_STREAM_WRITE_FAILS,
    SIM_FAULT_SOCKET_PAIR_FAILS,
    SIM_FAULT_SOCKET_LISTEN_FAILS,
    SIM_FAULT_SOCKET_ACCEPT_FAILS,
    SIM_FAULT_SOCKET_CONNECT_FAILS,
    SIM_FAULT_SOCKET_SEND_FD_FAILS,
    SIM_FAULT_POLL_FAILS,
    SIM_FAULT_EVENT_FAILS,
    SIM_FAULT_THREAD_FAILS,
    SIM_FAULT_MUTEX_FAILS,
    SIM_FAULT_CONDITION_FAILS,
    SIM_FAULT_PROCESS_SPAWN_FAILS,
    SIM_FAULT_KVM_PROBE_FAILS,
    SIM_FAULT_PEER_SILENT,
    SIM_FAULT_PEER_REFUSES,
    SIM_FAULT_PEER_GARBAGE,
    SIM_FAULT_PEER_DIES,
    SIM_FAULT_GUEST_DIES,
    SIM_FAULT_GUEST_SILENT,
};

/* ---- Before and after ------------------------------------------------------------------------- */

static void ok(const struct sweep *sweep, enum kelpie_status status, const char *what,
               const struct kelpie_error *err) {
    if (status != KELPIE_OK) {
        fail_msg("%s, %s, %s: %s: %s: %s", sweep->backend, sweep->operation->name,
                 sim_fault_info(sweep->fault)->name, what, kelpie_status_name(status),
                 err->message);
    }
}

static void destroy(struct sweep *sweep) {
    kelpie_vm_destroy(sweep->vm);
    sweep->vm = NULL;
    sweep->state = NOTHING;
}

static void boot(struct sweep *sweep, bool with_everything, bool start) {
    struct kelpie_error err = {0};
    const struct kelpie_config config = config_of(sweep, with_everything);
    ok(sweep, kelpie_vm_create(&config, &sweep->vm, &err), "create", &err);
    if (start) {
        ok(sweep, kelpie_vm_start(sweep->vm, &err), "start", &err);
    }
}

/* A VM in that state, with no fault; the last one where it still is. */
static void prepare(struct sweep *sweep) {
    const enum before before = sweep->operation->before;
    const bool plain = before == PLAIN_RUNNING || sweep->operation->run == run_restore_into;
    if (before == NOTHING || (before == sweep->state && sweep->vm)) {
        return;
    }
    destroy(sweep);
    boot(sweep, !plain, before != CREATED);
    sweep->state = before;
}

static enum kelpie_status hello(struct sweep *sweep, struct kelpie_error *err) {
    struct kelpie_output output = {0};
    const struct kelpie_command command = {.argv = ARGV("echo", "on"), .timeout_ms = OPERATION_MS};
    TRY(kelpie_vm_exec(sweep->vm, &command, &output, err));
    assert_string_equal(output.stdout_data, "on\n");
    kelpie_output_free(&output);
    return KELPIE_OK;
}

static void expect_clear(const struct sweep *sweep, enum kelpie_status status,
                         const struct kelpie_error *err) {
    if (err->status != status || strlen(err->message) < 10 || strstr(err->message, "(null)")) {
        fail_msg("%s, %s, %s: no clear error: %s, %s: %s", sweep->backend, sweep->operation->name,
                 sim_fault_info(sweep->fault)->name, kelpie_status_name(status),
                 kelpie_status_name(err->status), err->message);
    }
}

/* What the VM is good for now: all that its state promises, or it says that it must be made anew. */
static void expect_usable(struct sweep *sweep) {
    struct kelpie_error err = {0};
    enum kelpie_status status = KELPIE_OK;
    enum kelpie_state state = kelpie_vm_state(sweep->vm);
    if (state == KELPIE_STATE_CREATED || state == KELPIE_STATE_STOPPED) {
        status = run_start(sweep, &err);
    } else if (state == KELPIE_STATE_PAUSED) {
        status = kelpie_vm_resume(sweep->vm, &err);
    }
    if (status == KELPIE_OK) {
        status = hello(sweep, &err);
    }
    /* A program that met the fault itself may say nothing from then on; one that got half an order waits for the rest. */
    const bool may_be_silent = sweep->fault == SIM_FAULT_GUEST_SILENT ||
                               sweep->fault == SIM_FAULT_STREAM_WRITE_FAILS ||
                               sweep->operation->before < RUNNING;
    /* A paused VM whose monitor cannot be spoken to any more stays paused: each call says why. */
    const bool excused =
        state == KELPIE_STATE_PAUSED || (may_be_silent && status == KELPIE_TIMED_OUT);
    if (status != KELPIE_OK) {
        expect_clear(sweep, status, &err);
    }
    if (status != KELPIE_OK && !err.requires_recreate && !excused) {
        fail_msg("%s, %s, %s: was %s, and is of no use without saying so: %s: %s", sweep->backend,
                 sweep->operation->name, sim_fault_info(sweep->fault)->name,
                 kelpie_state_name(state), kelpie_status_name(status), err.message);
    }
    if (status != KELPIE_OK || state != KELPIE_STATE_RUNNING ||
        sweep->operation->before < RUNNING) {
        destroy(sweep);
    }
}

static size_t program_count(const struct sweep *sweep) {
    size_t count = 0;
    for (const struct sim_process *at = sweep->world->processes; at; at = at->next) {
        count += at != sweep->process && !at->ended;
    }
    return count;
}

static bool is_ours(const char *name) {
    static const char *const names[] = {"disk",  "fixed", "source",  "bundle",
                                        "plain", "diff",  "console", ".cache"};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        if (strcmp(name, names[i]) == 0) {
            return true;
        }
    }
    return false;
}

static void remove_at(struct sweep *sweep, const char *name) {
    char path[300];
    snprintf(path, sizeof(path), FOLDER "%s", name);
    (void)!host_path_remove_folder(sweep->host, path, NULL);
    (void)!host_path_unlink(sweep->host, path, NULL);
}

/* What is half written has another name than what was asked for, and is taken away by whoever can. */
static void clear_folder(struct sweep *sweep, bool excused) {
    struct host_dir_entry entries[ENTRY_COUNT_MAX];
    struct kelpie_error err = {0};
    size_t count = 0;
    remove_at(sweep, "target");
    remove_at(sweep, "target-next");
    ok(sweep, host_dir_list(sweep->host, "/root", entries, ARRAY_SIZE(entries), &count, &err),
       "list", &err);
    for (size_t i = 0; i < count; i++) {
        if (is_ours(entries[i].name)) {
            continue;
        }
        if (!excused) {
            fail_msg("%s, %s, %s: %s was left", sweep->backend, sweep->operation->name,
                     sim_fault_info(sweep->fault)->name, entries[i].name);
        }
        remove_at(sweep, entries[i].name);
    }
}

/* ---- One fault -------------------------------------------------------------------------------- */

static void arm(struct sweep *sweep, enum sim_fault fault, uint32_t nth,
                struct sim_fault_event *event) {
    struct sim_faults *all = &sweep->world->faults;
    /* It is the owner's calls that fail, or what monitors and guests do of their own. */
    for (struct sim_process *at = sweep->world->processes; at; at = at->next) {
        at->immune = at != sweep->process && fault < SIM_FAULT_PEER_SILENT;
    }
    *event = (struct sim_fault_event){.fault = fault, .number = all->asked[fault] + nth};
    sim_faults_allow(all, event, 1);
    all->ppm[fault] = SIM_PPM;
    all->fired[fault] = 0;
}

/* Returns whether there was such a question. no_error: of a caller who does not ask why. */
static bool run_once(struct sweep *sweep, enum sim_fault fault, uint32_t nth, bool no_error) {
    struct sim_faults *all = &sweep->world->faults;
    static struct sim_fault_event event; /* it is asked for as long as the world lasts */
    struct kelpie_error err = {0};
    prepare(sweep);
    const uint32_t before = all->asked[fault];
    arm(sweep, fault, nth, &event);
    enum kelpie_status status = sweep->operation->run(sweep, no_error ? NULL : &err);
    all->ppm[fault] = 0;
    const bool fired = all->fired[fault] > 0;
    if (status != KELPIE_OK && !no_error) {
        expect_clear(sweep, status, &err);
    }
    if (status != KELPIE_OK && !fired) {
        ok(sweep, status, "failed without a fault", &err);
    }
    sweep->fired += fired;
    if (sweep->vm) {
        expect_usable(sweep);
    }
    if (fired) {
        destroy(sweep); /* it may have lost its monitor, which an exec does not need */
    }
    clear_folder(sweep,
                 fired &&
                     (fault == SIM_FAULT_PATH_UNLINK_FAILS || fault == SIM_FAULT_PATH_LIST_FAILS ||
                      fault == SIM_FAULT_PATH_STAT_FAILS || fault == SIM_FAULT_MEMORY_NONE));
    return all->asked[fault] - before > nth;
}

static void sweep_fault(struct sweep *sweep, enum sim_fault fault) {
    uint32_t nth = 0;
    sweep->fault = fault;
    while (run_once(sweep, fault, nth, false)) {
        if (nth < NTH_NO_ERROR) {
            run_once(sweep, fault, nth, true);
        }
        nth += nth < NTH_ALL ? 1 : nth / 2;
        assert_true(nth < NTH_MAX);
    }
}

/* ---- A world ---------------------------------------------------------------------------------- */

static void write_file(struct sweep *sweep, const char *path, size_t size) {
    static const char bytes[SOURCE_SIZE] = "bytes";
    struct kelpie_error err = {0};
    assert_true(size <= sizeof(bytes));
    ok(sweep, host_file_store(sweep->host, path, bytes, size, 0600, &err), path, &err);
}

static void make_inputs(struct sweep *sweep) {
    struct kelpie_error err = {0};
    const bool with_diff = can_diff(sweep->backend);
    const struct kelpie_snapshot_options full = {.track = with_diff};
    const struct kelpie_snapshot_options diff = {.track = true, .parent = PLAIN};
    write_file(sweep, DISK, DISK_SIZE);
    write_file(sweep, FIXED_DISK, DISK_SIZE);
    write_file(sweep, SOURCE, SOURCE_SIZE);
    if (!can_save(sweep->backend)) {
        return;
    }
    boot(sweep, true, true);
    ok(sweep, kelpie_vm_snapshot(sweep->vm, BUNDLE, NULL, NULL, &err), "snapshot", &err);
    destroy(sweep);
    boot(sweep, false, true);
    ok(sweep, kelpie_vm_snapshot(sweep->vm, PLAIN, &full, NULL, &err), "snapshot", &err);
    ok(sweep, hello(sweep, &err), "hello", &err);
    if (with_diff) {
        ok(sweep, kelpie_vm_snapshot(sweep->vm, DIFF, &diff, NULL, &err), "diff", &err);
    }
    destroy(sweep);
}

static void expect_rest(struct sweep *sweep, size_t handle_count) {
    struct kelpie_error err = {0};
    const struct host_wait wait = host_wait_ms(sweep->host, SETTLE_MS, HOST_FD_NONE);
    destroy(sweep);
    ok(sweep, host_sleep(sweep->host, &wait, &err), "sleep", &err);
    if (sweep->process->handle_count != handle_count) {
        fail_msg("%s, %s, %s: %zu descriptors are open, not %zu", sweep->backend,
                 sweep->operation->name, sim_fault_info(sweep->fault)->name,
                 sweep->process->handle_count, handle_count);
    }
    if (program_count(sweep) != 0) {
        fail_msg("%s, %s, %s: programs run on", sweep->backend, sweep->operation->name,
                 sim_fault_info(sweep->fault)->name);
    }
    boot(sweep, false, true);
    ok(sweep, hello(sweep, &err), "a fresh VM", &err);
    destroy(sweep);
}

static int sweep_main(void *argument) {
    struct sweep *sweep = argument;
    sweep->host = &sweep->process->host;
    make_inputs(sweep);
    const size_t handle_count = sweep->process->handle_count;
    for (size_t i = 0; i < ARRAY_SIZE(faults); i++) {
        sweep_fault(sweep, faults[i]);
        expect_rest(sweep, handle_count);
    }
    return 0;
}

static void sweep_operation(const char *backend, const struct operation *operation) {
    struct sweep sweep = {.backend = backend, .operation = operation};
    const struct sim_options options = {.seed = 1, .event_count_max = UINT64_MAX};
    const struct sim_process_options process_options = {
        .name = "owner", .main = sweep_main, .argument = &sweep, .owner = true};
    sweep.world = sim_world_create(&options);
    assert_non_null(sweep.world);
    struct sim_machine *machine = sim_machine_create(sweep.world, "host");
    assert_non_null(machine);
    assert_true(sim_machine_furnish(machine));
    sweep.process = sim_process_start(machine, &process_options);
    assert_non_null(sweep.process);
    assert_int_equal(sim_world_run(sweep.world), SIM_END_QUIET);
    assert_string_equal(sweep.world->failure, "");
    assert_true(sweep.process->ended && sweep.fired > 0);
    print_message("%s, %s: %u faults\n", backend, operation->name, sweep.fired);
    sim_process_forget(sweep.process);
    sim_world_destroy(sweep.world);
}

static void sweep_backend(const char *backend) {
    for (size_t i = 0; i < (can_save(backend) ? ARRAY_SIZE(operations) : PLAIN_COUNT); i++) {
        if (!operations[i].has || operations[i].has(backend)) {
            sweep_operation(backend, &operations[i]);
        }
    }
}

static void test_each_fault_of_each_call_on_kvm(void **state) {
    (void)state;
    sweep_backend("kvm");
}

static void test_each_fault_of_each_call_on_qemu(void **state) {
    (void)state;
    sweep_backend("qemu");
}

static void test_each_fault_of_each_call_on_libkrun(void **state) {
    (void)state;
    sweep_backend("libkrun");
}

static void test_each_fault_of_each_call_on_firecracker(void **state) {
    (void)state;
    sweep_backend("firecracker");
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_fault_of_each_call_on_firecracker),
        cmocka_unit_test(test_each_fault_of_each_call_on_libkrun),
        cmocka_unit_test(test_each_fault_of_each_call_on_kvm),
        cmocka_unit_test(test_each_fault_of_each_call_on_qemu),
    };
    if (argc > 1) {
        cmocka_set_test_filter(argv[1]);
    }
    return cmocka_run_group_tests_name("sim/peer/backend_sweep", tests, NULL, NULL);
}
