/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The real backends that drive somebody else's monitor, under the whole public API, over that monitor's script in a simulated
 * world. Each case is one of each backend.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"
#include "sim/world.h"

#define SEED_COUNT 12
#define FAULT_SEED_COUNT 10
#define WEATHER_SEED_COUNT 30
#define WEATHER_STEP_COUNT 60
#define DISK_SIZE 65536
#define SUPPRESSED_COUNT 512

/* What a monitor had allocated is nobody's when it is killed. Jansson is built without frame pointers, so that it cannot be told
 * whose its objects are: those of an owner are counted by qmp_test.c. Asked by the leak sanitizer. */
__attribute__((visibility("default"))) const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) {
    return "leak:program_main\nleak:libjansson\n";
}

#define GARBAGE_KIND_COUNT 4

/* What differs between the backends. */
struct subject {
    const char *backend;
    const char *version;  /* that its script has */
    const char *no_space; /* how it says that a disk is full */
    bool has_user_network;
    const char *garbage[GARBAGE_KIND_COUNT]; /* how its garbage is told apart from answers */
};

static struct subject qemu = {
    .backend = "qemu",
    .version = "7.2.22",
    .no_space = "Unable to write to file",
    .has_user_network = true,
    .garbage = {"a line that is no QMP message", "a line that is too long",
                "an answer to a question that was not asked", "a second greeting"},
};
static struct subject firecracker = {
    .backend = "firecracker",
    .version = "1.17.0",
    .no_space = "Firecracker refused",
    .garbage = {"does not name a version", "Firecracker's answer is none",
                "Firecracker said more than it was asked", "with a status that no order has"},
};

struct rig {
    const struct subject *subject;
    struct sim_world *world;
    struct sim_machine *machine;
    struct sim_process *process;
    struct host *host;
    void (*body)(struct rig *rig);
    struct kelpie_vm *vm;
    struct kelpie_error err;
    struct sim_fault_event suppressed[SUPPRESSED_COUNT];
    uint32_t asked; /* before the fault was armed */
    enum sim_fault fault;
    size_t step;
    size_t counts[8]; /* what a test wants to have seen */
};

/* ---- A world in which a monitor can be run ---------------------------------------------------- */

static void put_file(struct rig *rig, const char *path, const void *data, size_t size) {
    struct sim_inode *inode = NULL;
    int failed =
        sim_fs_open(rig->machine->fs, path, HOST_OPEN_WRITE | HOST_OPEN_CREATE, 0755, &inode);
    assert_int_equal(failed, 0);
    assert_int_equal(sim_inode_write(inode, data, size, 0), 0);
    sim_inode_release(inode);
}

static int rig_main(void *argument) {
    struct rig *rig = argument;
    rig->host = &rig->process->host;
    rig->body(rig);
    return 0;
}

static void rig_open(struct rig *rig, uint64_t seed) {
    const struct sim_options options = {.seed = seed, .event_count_max = 3000000};
    rig->world = sim_world_create(&options);
    assert_non_null(rig->world);
    rig->machine = sim_machine_create(rig->world, "host");
    assert_non_null(rig->machine);
    assert_true(sim_machine_furnish(rig->machine));
}

static void rig_run(struct rig *rig, uint64_t seed, void (*body)(struct rig *rig)) {
    rig_open(rig, seed);
    const struct sim_process_options options = {
        .name = "owner", .main = rig_main, .argument = rig, .owner = true};
    rig->body = body;
    rig->vm = NULL;
    rig->process = sim_process_start(rig->machine, &options);
    assert_non_null(rig->process);
    enum sim_end end = sim_world_run(rig->world);
    if (end != SIM_END_QUIET || rig->world->failure[0]) {
        fail_msg("seed %llu: end %d, %s", (unsigned long long)seed, end, rig->world->failure);
    }
    sim_process_forget(rig->process);
    sim_world_destroy(rig->world);
}

static void ok(struct rig *rig, enum kelpie_status status) {
    if (status != KELPIE_OK) {
        fail_msg("%s: %s", kelpie_status_name(status), rig->err.message);
    }
}

/* ---- What owners do --------------------------------------------------------------------------- */

static void create(struct rig *rig) {
    const struct kelpie_config config = {
        .backend = rig->subject->backend, .memory_mib = 64, .host = rig->host};
    ok(rig, kelpie_vm_create(&config, &rig->vm, &rig->err));
}

static void boot(struct rig *rig) {
    create(rig);
    ok(rig, kelpie_vm_start(rig->vm, &rig->err));
    assert_int_equal(kelpie_vm_state(rig->vm), KELPIE_STATE_RUNNING);
}

static void destroy(struct rig *rig) {
    kelpie_vm_destroy(rig->vm);
    rig->vm = NULL;
}

static enum kelpie_status run(struct rig *rig, struct kelpie_vm *vm, const char *script,
                              const char *expected) {
    const char *const argv[] = {"/bin/sh", "-c", script, NULL};
    const struct kelpie_command command = {.argv = argv};
    struct kelpie_output output = {0};
    enum kelpie_status status = kelpie_vm_exec(vm, &command, &output, &rig->err);
    if (status == KELPIE_OK && expected) {
        assert_string_equal(output.stdout_data, expected);
        assert_int_equal(output.exit.code, 0);
    }
    kelpie_output_free(&output);
    return status;
}

static void restore(struct rig *rig, const char *bundle) {
    const struct kelpie_config config = {.host = rig->host};
    ok(rig, kelpie_vm_create_from_snapshot(bundle, &config, NULL, &rig->vm, &rig->err));
    assert_int_equal(kelpie_vm_state(rig->vm), KELPIE_STATE_RUNNING);
}

static void save(struct rig *rig, const char *bundle) {
    const struct kelpie_snapshot_options options = {.kind = KELPIE_SNAPSHOT_SUSPEND};
    struct kelpie_snapshot snapshot = {0};
    ok(rig, kelpie_vm_snapshot(rig->vm, bundle, &options, &snapshot, &rig->err));
    assert_string_equal(snapshot.backend, rig->subject->backend);
    assert_string_equal(snapshot.backend_version, rig->subject->version);
}

/* ---- Without faults --------------------------------------------------------------------------- */

static void body_life(struct rig *rig) {
    boot(rig);
    ok(rig, run(rig, rig->vm, "echo hello", "hello\n"));
    put_file(rig, "/tmp/in", "bytes of the host", 17);
    ok(rig, kelpie_copy_in(rig->vm, "/tmp/in", "/tmp/file", NULL, &rig->err));
    ok(rig, run(rig, rig->vm, "cat /tmp/file", "bytes of the host"));
    ok(rig, kelpie_copy_out(rig->vm, "/tmp/file", "/tmp/out", NULL, &rig->err));
    ok(rig, kelpie_vm_pause(rig->vm, &rig->err));
    assert_int_equal(kelpie_vm_state(rig->vm), KELPIE_STATE_PAUSED);
    ok(rig, kelpie_vm_resume(rig->vm, &rig->err));
    ok(rig, run(rig, rig->vm, "cat /tmp/file", "bytes of the host"));
    ok(rig, kelpie_vm_stop(rig->vm, 0, &rig->err));
    assert_int_equal(kelpie_vm_state(rig->vm), KELPIE_STATE_STOPPED);
    ok(rig, kelpie_vm_start(rig->vm, &rig->err));
    ok(rig, run(rig, rig->vm, "cat /tmp/file || echo gone", "gone\n"));
    destroy(rig);
}

static void test_a_vm_lives(void **state) {
    for (uint64_t seed = 1; seed <= SEED_COUNT; seed++) {
        struct rig rig = {.subject = *state};
        rig_run(&rig, seed, body_life);
    }
}

/* Memory is shared after a boot, private after a load, and in the state of what is saved then. */
static void body_generations(struct rig *rig) {
    boot(rig);
    ok(rig, run(rig, rig->vm, "echo one > /tmp/file", ""));
    save(rig, "/tmp/a");
    ok(rig, run(rig, rig->vm, "echo two >> /tmp/file", ""));
    save(rig, "/tmp/b"); /* it ran since */
    ok(rig, kelpie_vm_pause(rig->vm, &rig->err));
    save(rig, "/tmp/c");
    save(rig, "/tmp/d"); /* it did not */
    destroy(rig);
    restore(rig, "/tmp/a");
    ok(rig, run(rig, rig->vm, "cat /tmp/file", "one\n"));
    ok(rig, run(rig, rig->vm, "echo three >> /tmp/file", ""));
    save(rig, "/tmp/e");
    destroy(rig);
    restore(rig, "/tmp/d");
    ok(rig, run(rig, rig->vm, "cat /tmp/file", "one\ntwo\n"));
    destroy(rig);
    restore(rig, "/tmp/e");
    ok(rig, run(rig, rig->vm, "cat /tmp/file", "one\nthree\n"));
    save(rig, "/tmp/f");
    destroy(rig);
    restore(rig, "/tmp/f");
    ok(rig, run(rig, rig->vm, "cat /tmp/file", "one\nthree\n"));
    destroy(rig);
    restore(rig, "/tmp/a"); /* as it was */
    ok(rig, run(rig, rig->vm, "cat /tmp/file", "one\n"));
    destroy(rig);
}

static void test_what_is_restored_is_what_was_saved(void **state) {
    for (uint64_t seed = 1; seed <= SEED_COUNT; seed++) {
        struct rig rig = {.subject = *state};
        rig_run(&rig, seed, body_generations);
    }
}

static void body_fork(struct rig *rig) {
    boot(rig);
    ok(rig, run(rig, rig->vm, "echo parent > /tmp/file", ""));
    struct kelpie_fork_child children[2];
    ok(rig, kelpie_vm_fork(rig->vm, NULL, 2, children, &rig->err));
    for (size_t i = 0; i < ARRAY_SIZE(children); i++) {
        if (!children[i].vm) {
            fail_msg("child %zu: %s", i, children[i].error.message);
        }
        ok(rig,
           run(rig, children[i].vm, "echo child >> /tmp/file; cat /tmp/file", "parent\nchild\n"));
    }
    ok(rig, run(rig, rig->vm, "cat /tmp/file", "parent\n"));
    kelpie_vm_destroy(children[0].vm);
    ok(rig, run(rig, children[1].vm, "cat /tmp/file", "parent\nchild\n"));
    kelpie_vm_destroy(children[1].vm);
    destroy(rig);
}

static void test_children_go_their_own_ways(void **state) {
    for (uint64_t seed = 1; seed <= SEED_COUNT; seed++) {
        struct rig rig = {.subject = *state};
        rig_run(&rig, seed, body_fork);
    }
}

/* ---- With one fault --------------------------------------------------------------------------- */

/* The next `skip` questions are answered no, the one behind them yes, and then no again. */
static void arm(struct rig *rig, enum sim_fault fault, uint32_t skip) {
    struct sim_faults *faults = &rig->world->faults;
    size_t count = 0;
    rig->asked = faults->asked[fault];
    for (uint32_t i = 0; count < SUPPRESSED_COUNT; i++) {
        if (i != skip) {
            rig->suppressed[count++] = (struct sim_fault_event){fault, rig->asked + i};
        }
    }
    sim_faults_suppress(faults, rig->suppressed, count);
    faults->ppm[fault] = SIM_PPM;
}

/* True: it happened. */
static bool disarm(struct rig *rig, enum sim_fault fault) {
    struct sim_faults *faults = &rig->world->faults;
    faults->ppm[fault] = 0;
    sim_faults_suppress(faults, NULL, 0);
    return faults->fired[fault] > 0;
}

/* A guest that dies takes the machine along, and the backend says why. */
static void body_guest_dies(struct rig *rig) {
    boot(rig);
    arm(rig, SIM_FAULT_GUEST_DIES, 1);
    enum kelpie_status status = run(rig, rig->vm, "sleep 1; echo alive", NULL);
    assert_true(disarm(rig, SIM_FAULT_GUEST_DIES));
    assert_int_equal(status, KELPIE_CRASHED);
    assert_int_equal(kelpie_vm_state(rig->vm), KELPIE_STATE_CRASHED);
    bool panicked = strstr(rig->err.message, "the guest's kernel panicked") != NULL;
    bool reset = strstr(rig->err.message, "the guest reset its machine") != NULL;
    if (!panicked && !reset) {
        fail_msg("no reason: %s", rig->err.message);
    }
    rig->counts[panicked ? 0 : 1]++;
    destroy(rig);
}

static void test_a_dead_guest_is_a_crash_with_its_reason(void **state) {
    struct rig rig = {.subject = *state};
    for (uint64_t seed = 1; seed <= 2 * SEED_COUNT; seed++) {
        rig_run(&rig, seed, body_guest_dies);
    }
    assert_true(rig.counts[0] > 0 && rig.counts[1] > 0);
}

/* Dying at its start, a QEMU may say that it has no microvm: then q35 is started. */
static void body_no_microvm(struct rig *rig) {
    create(rig);
    arm(rig, SIM_FAULT_PEER_DIES, 0);
    enum kelpie_status status = kelpie_vm_start(rig->vm, &rig->err);
    assert_true(disarm(rig, SIM_FAULT_PEER_DIES));
    if (status == KELPIE_OK) {
        rig->counts[0]++;
        ok(rig, run(rig, rig->vm, "echo hello > /tmp/file", ""));
        save(rig, "/tmp/a");
        destroy(rig);
        restore(rig, "/tmp/a"); /* on the same machine: the load says so if not */
        ok(rig, run(rig, rig->vm, "cat /tmp/file", "hello\n"));
    } else {
        rig->counts[1]++;
        assert_int_equal(status, KELPIE_BOOT_FAILED);
        ok(rig, kelpie_vm_start(rig->vm, &rig->err));
    }
    destroy(rig);
}

static void test_a_qemu_without_microvm_gets_q35(void **state) {
    struct rig rig = {.subject = *state};
    for (uint64_t seed = 1; seed <= 2 * SEED_COUNT; seed++) {
        rig_run(&rig, seed, body_no_microvm);
    }
    assert_true(rig.counts[0] > 0 && rig.counts[1] > 0);
}

enum step { STEP_CREATE, STEP_START, STEP_PAUSE, STEP_RESUME, STEP_SAVE, STEP_RESTORE, STEP_COUNT };
static const char *const step_names[] = {"create", "start", "pause", "resume", "save", "restore"};

static enum kelpie_status do_step(struct rig *rig, enum step step) {
    const struct kelpie_config config = {.backend = rig->subject->backend,
                                         .memory_mib = 64,
                                         .operation_timeout_ms = 5000,
                                         .host = rig->host};
    const struct kelpie_config quick = {.operation_timeout_ms = 5000, .host = rig->host};
    switch (step) {
    case STEP_CREATE:
        return kelpie_vm_create(&config, &rig->vm, &rig->err);
    case STEP_START:
        return kelpie_vm_start(rig->vm, &rig->err);
    case STEP_PAUSE:
        return kelpie_vm_pause(rig->vm, &rig->err);
    case STEP_RESUME:
        return kelpie_vm_resume(rig->vm, &rig->err);
    case STEP_SAVE:
        return kelpie_vm_snapshot(rig->vm, "/tmp/bundle", NULL, NULL, &rig->err);
    case STEP_RESTORE:
        kelpie_vm_destroy(rig->vm);
        rig->vm = NULL;
        return kelpie_vm_create_from_snapshot("/tmp/bundle", &quick, NULL, &rig->vm, &rig->err);
    case STEP_COUNT:
    default:
        fail();
        return KELPIE_INTERNAL;
    }
}

#define GARBAGE_COUNT 2 /* the first of its counts */

/* What holds of the step that met the fault, beside its having an end. */
static void look_at_step(struct rig *rig, enum kelpie_status status, uint64_t taken_ns) {
    if (rig->fault == SIM_FAULT_PEER_SLOW && taken_ns < HOST_NS_PER_S) {
        fail_msg("%s: a second of slowness is not felt", step_names[rig->step]);
    }
    if (rig->fault == SIM_FAULT_PEER_DIES) {
        assert_int_not_equal(status, KELPIE_TIMED_OUT);
        assert_int_not_equal(status, KELPIE_BOOT_TIMED_OUT);
        assert_true(taken_ns < 5 * HOST_NS_PER_S);
    }
    for (size_t i = 0; status != KELPIE_OK && i < GARBAGE_KIND_COUNT; i++) {
        rig->counts[GARBAGE_COUNT + i] +=
            strstr(rig->err.message, rig->subject->garbage[i]) != NULL;
    }
}

/* One step of six meets the fault; the owner gets OK or an error that says something, in time, and can begin again. */
static void body_one_fault(struct rig *rig) {
    enum kelpie_status status = KELPIE_OK;
    bool met = false;
    for (size_t i = 0; i < STEP_COUNT && status == KELPIE_OK; i++) {
        uint64_t before_ns = rig->world->now_ns;
        if (i == rig->step) {
            arm(rig, rig->fault, (uint32_t)sim_choose(&rig->world->choices, 6));
        }
        status = do_step(rig, (enum step)i);
        if (i == rig->step) {
            met = disarm(rig, rig->fault);
        }
        uint64_t taken_ns = rig->world->now_ns - before_ns;
        if (taken_ns > 130 * HOST_NS_PER_S) {
            fail_msg("%s: %s took %llu s", sim_fault_info(rig->fault)->name, step_names[i],
                     (unsigned long long)(taken_ns / HOST_NS_PER_S));
        }
        if (status != KELPIE_OK && !met) {
            fail_msg("%s without a fault: %s", step_names[i], rig->err.message);
        }
        if (i == rig->step && met) {
            look_at_step(rig, status, taken_ns);
        }
    }
    rig->counts[0] += met;
    rig->counts[1] += met && status != KELPIE_OK;
    if (met && status != KELPIE_OK) {
        assert_true(rig->err.message[0]);
        assert_int_equal(rig->err.status, status);
    }
    destroy(rig);
    boot(rig);
    ok(rig, run(rig, rig->vm, "echo again", "again\n"));
    destroy(rig);
}

static void one_fault(void **state, enum sim_fault fault) {
    struct rig rig = {.subject = *state, .fault = fault};
    bool garbage = fault == SIM_FAULT_PEER_GARBAGE; /* of many kinds */
    for (rig.step = 0; rig.step < STEP_COUNT; rig.step++) {
        for (uint64_t seed = 1; seed <= (garbage ? 4 : 1) * FAULT_SEED_COUNT; seed++) {
            rig_run(&rig, seed, body_one_fault);
        }
    }
    for (size_t i = 0; garbage && i < GARBAGE_KIND_COUNT; i++) {
        print_message("%s: %zu times\n", rig.subject->garbage[i], rig.counts[GARBAGE_COUNT + i]);
        assert_true(rig.counts[GARBAGE_COUNT + i] > 0);
    }
    print_message("%s: met %zu times, %zu times with an error\n", sim_fault_info(fault)->name,
                  rig.counts[0], rig.counts[1]);
    assert_true(rig.counts[0] > FAULT_SEED_COUNT);
    assert_true(fault == SIM_FAULT_PEER_CHATTERS ? rig.counts[1] == 0 : rig.counts[1] > 0);
}

static void test_a_silent_monitor(void **state) {
    one_fault(state, SIM_FAULT_PEER_SILENT);
}

static void test_a_slow_monitor(void **state) {
    one_fault(state, SIM_FAULT_PEER_SLOW);
}

static void test_a_monitor_that_refuses(void **state) {
    one_fault(state, SIM_FAULT_PEER_REFUSES);
}

static void test_a_monitor_that_speaks_garbage(void **state) {
    one_fault(state, SIM_FAULT_PEER_GARBAGE);
}

static void test_a_monitor_that_dies(void **state) {
    one_fault(state, SIM_FAULT_PEER_DIES);
}

static void test_a_monitor_that_chatters(void **state) {
    one_fault(state, SIM_FAULT_PEER_CHATTERS);
}

/* ---- A machine with everything ---------------------------------------------------------------- */

static void put_disk(struct rig *rig, const char *path, char fill) {
    char *bytes = malloc(DISK_SIZE);
    assert_non_null(bytes);
    memset(bytes, fill, DISK_SIZE);
    put_file(rig, path, bytes, DISK_SIZE);
    free(bytes);
}

/* Emulated (its clock's rate is in the bundle), with disks, a network and several processors. */
static void body_everything(struct rig *rig) {
    const struct kelpie_disk disks[] = {{.path = "/tmp/disk-0"},
                                        {.path = "/tmp/disk-1", .read_only = true}};
    const struct kelpie_network network = {.kind = KELPIE_NETWORK_USER};
    const struct kelpie_config config = {.backend = rig->subject->backend,
                                         .memory_mib = 128,
                                         .vcpu_count = 4,
                                         .disks = disks,
                                         .disk_count = ARRAY_SIZE(disks),
                                         .network =
                                             rig->subject->has_user_network ? &network : NULL,
                                         .console_log = "/tmp/console",
                                         .host = rig->host};
    put_disk(rig, "/tmp/disk-0", '0');
    put_disk(rig, "/tmp/disk-1", '1');
    rig->world->faults.ppm[SIM_FAULT_KVM_PROBE_FAILS] = SIM_PPM;
    ok(rig, kelpie_vm_create(&config, &rig->vm, &rig->err));
    ok(rig, kelpie_vm_start(rig->vm, &rig->err));
    ok(rig, run(rig, rig->vm, "echo hello > /tmp/file", ""));
    const struct kelpie_snapshot_options options = {.kind = KELPIE_SNAPSHOT_TELEPORT};
    ok(rig, kelpie_vm_snapshot(rig->vm, "/tmp/bundle", &options, NULL, &rig->err));
    destroy(rig);
    assert_int_equal(sim_fs_unlink(rig->machine->fs, "/tmp/disk-0"), 0);
    assert_int_equal(sim_fs_unlink(rig->machine->fs, "/tmp/disk-1"), 0);
    restore(rig, "/tmp/bundle");
    ok(rig, run(rig, rig->vm, "cat /tmp/file", "hello\n"));
    ok(rig, kelpie_vm_stop(rig->vm, 0, &rig->err));
    destroy(rig);
}

static void test_a_machine_with_everything(void **state) {
    for (uint64_t seed = 1; seed <= SEED_COUNT; seed++) {
        struct rig rig = {.subject = *state};
        rig_run(&rig, seed, body_everything);
    }
}

/* ---- A full disk ------------------------------------------------------------------------------ */

/* Whoever meets the full disk, the machine goes on, and there is no bundle, or a whole one. */
static void body_full_disk(struct rig *rig) {
    boot(rig);
    ok(rig, run(rig, rig->vm, "echo hello > /tmp/file", ""));
    bool saved = false;
    for (uint64_t pages = 0; !saved; pages++) {
        uint64_t room = sim_fs_used(rig->machine->fs) + pages * SIM_FS_PAGE_SIZE;
        sim_fs_set_capacity(rig->machine->fs, room);
        enum kelpie_status status =
            kelpie_vm_snapshot(rig->vm, "/tmp/bundle", NULL, NULL, &rig->err);
        sim_fs_set_capacity(rig->machine->fs, SIM_FS_CAPACITY_DEFAULT);
        saved = status == KELPIE_OK;
        if (!saved) {
            assert_int_equal(status, KELPIE_NO_SPACE);
            rig->counts[strstr(rig->err.message, rig->subject->no_space) ? 0 : 1]++;
        }
        ok(rig, run(rig, rig->vm, "cat /tmp/file", "hello\n"));
    }
    destroy(rig);
    restore(rig, "/tmp/bundle");
    ok(rig, run(rig, rig->vm, "cat /tmp/file", "hello\n"));
    destroy(rig);
}

static void test_a_full_disk_costs_a_bundle_and_no_machine(void **state) {
    struct rig rig = {.subject = *state};
    for (uint64_t seed = 1; seed <= 3; seed++) {
        rig_run(&rig, seed, body_full_disk);
    }
    assert_true(rig.counts[0] > 0 && rig.counts[1] > 0); /* the monitor met it, and we did */
}

/* ---- Weather ---------------------------------------------------------------------------------- */

/* What a VM's file may say: each write has a higher number, and one that was not confirmed may have happened. */
struct belief {
    int confirmed; /* 0: there is no file */
    int tried;     /* the last that was tried */
};

static void write_number(struct rig *rig, struct belief *belief, int number) {
    char script[64];
    snprintf(script, sizeof(script), "echo %d > /tmp/number", number);
    belief->tried = number;
    if (run(rig, rig->vm, script, NULL) == KELPIE_OK) {
        belief->confirmed = number;
    }
}

static void check_number(struct rig *rig, struct belief *belief) {
    const char *const argv[] = {"/bin/cat", "/tmp/number", NULL};
    const struct kelpie_command command = {.argv = argv};
    struct kelpie_output output = {0};
    if (kelpie_vm_exec(rig->vm, &command, &output, &rig->err) == KELPIE_OK) {
        int number = output.exit.code == 0 ? atoi(output.stdout_data) : 0;
        if (number < belief->confirmed || number > belief->tried) {
            fail_msg("it says %d, and %d was confirmed, %d tried", number, belief->confirmed,
                     belief->tried);
        }
        belief->confirmed = belief->tried = number;
        rig->counts[0]++;
    }
    kelpie_output_free(&output);
}

/* Any of it may fail; what it says it did, it did. */
static void weather_step(struct rig *rig, struct belief *belief, struct belief *saved) {
    const struct kelpie_config config = {.backend = rig->subject->backend,
                                         .memory_mib = 64,
                                         .operation_timeout_ms = 5000,
                                         .host = rig->host};
    char bundle[64];
    snprintf(bundle, sizeof(bundle), "/tmp/bundle-%zu", rig->step);
    if (!rig->vm || kelpie_vm_state(rig->vm) == KELPIE_STATE_CRASHED) {
        destroy(rig);
        bool from_bundle = rig->counts[1] > 0 && sim_choose(&rig->world->choices, 2) == 0;
        enum kelpie_status status =
            from_bundle ? kelpie_vm_create_from_snapshot(bundle, &config, NULL, &rig->vm, &rig->err)
                        : kelpie_vm_create(&config, &rig->vm, &rig->err);
        *belief = from_bundle ? *saved : (struct belief){0};
        if (status == KELPIE_OK && !from_bundle) {
            status = kelpie_vm_start(rig->vm, &rig->err);
        }
        if (status != KELPIE_OK) {
            destroy(rig);
        }
        return;
    }
    enum kelpie_status ignored = KELPIE_OK;
    switch (sim_choose(&rig->world->choices, 7)) {
    case 0:
        ignored = kelpie_vm_pause(rig->vm, &rig->err);
        break;
    case 1:
    case 2:
        ignored = kelpie_vm_resume(rig->vm, &rig->err);
        break;
    case 3:
        write_number(rig, belief, belief->tried + 1);
        break;
    case 4:
        snprintf(bundle, sizeof(bundle), "/tmp/bundle-%zu", rig->step + 1);
        if (kelpie_vm_snapshot(rig->vm, bundle, NULL, NULL, &rig->err) == KELPIE_OK) {
            rig->step++;
            rig->counts[1]++;
            *saved = *belief;
        }
        break;
    case 5:
        if (sim_choose(&rig->world->choices, 8) == 0) {
            destroy(rig);
        }
        break;
    default:
        check_number(rig, belief);
        break;
    }
    (void)ignored; /* it says what it says */
}

static void body_weather(struct rig *rig) {
    static const enum sim_fault kinds[] = {SIM_FAULT_PEER_SILENT,  SIM_FAULT_PEER_SLOW,
                                           SIM_FAULT_PEER_REFUSES, SIM_FAULT_PEER_GARBAGE,
                                           SIM_FAULT_PEER_DIES,    SIM_FAULT_PEER_CHATTERS,
                                           SIM_FAULT_GUEST_SLOW,   SIM_FAULT_GUEST_CHATTERS,
                                           SIM_FAULT_GUEST_DIES,   SIM_FAULT_STREAM_DELAYED};
    struct belief belief = {0};
    struct belief saved = {0};
    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
        rig->world->faults.ppm[kinds[i]] =
            sim_choose(&rig->world->choices, 2) == 0 ? sim_fault_info(kinds[i])->ppm_max : 0;
    }
    rig->step = rig->counts[1] = 0;
    for (size_t i = 0; i < WEATHER_STEP_COUNT; i++) {
        weather_step(rig, &belief, &saved);
    }
    rig->counts[2] += rig->counts[1];
    destroy(rig);
    sim_world_quiet(rig->world);
    boot(rig);
    ok(rig, run(rig, rig->vm, "echo again", "again\n"));
    destroy(rig);
}

static void test_all_weathers(void **state) {
    struct rig rig = {.subject = *state};
    for (uint64_t seed = 1; seed <= WEATHER_SEED_COUNT; seed++) {
        rig_run(&rig, seed, body_weather);
    }
    print_message("numbers read %zu times, %zu bundles\n", rig.counts[0], rig.counts[2]);
    assert_true(rig.counts[0] > WEATHER_SEED_COUNT && rig.counts[2] > WEATHER_SEED_COUNT);
}

/* ---- Repeatable ------------------------------------------------------------------------------- */

static uint64_t hash_of(const struct subject *subject, uint64_t seed) {
    struct rig rig = {.subject = subject, .fault = SIM_FAULT_PEER_SLOW, .step = STEP_SAVE};
    rig_open(&rig, seed);
    const struct sim_process_options options = {
        .name = "owner", .main = rig_main, .argument = &rig, .owner = true};
    rig.body = body_one_fault;
    rig.process = sim_process_start(rig.machine, &options);
    assert_int_equal(sim_world_run(rig.world), SIM_END_QUIET);
    uint64_t hash = sim_mix(rig.world->log.hash, rig.world->event_count, rig.world->now_ns);
    sim_process_forget(rig.process);
    sim_world_destroy(rig.world);
    return hash;
}

static void test_a_seed_decides_everything(void **state) {
    assert_true(hash_of(*state, 3) == hash_of(*state, 3));
    assert_true(hash_of(*state, 3) != hash_of(*state, 4));
}

#define CASE(subject, test)                                                                        \
    { #subject "_" #test, test, NULL, NULL, &(subject) }
#define OF_BOTH(test) CASE(qemu, test), CASE(firecracker, test)

int main(void) {
    const struct CMUnitTest tests[] = {
        OF_BOTH(test_a_vm_lives),
        OF_BOTH(test_what_is_restored_is_what_was_saved),
        OF_BOTH(test_children_go_their_own_ways),
        OF_BOTH(test_a_dead_guest_is_a_crash_with_its_reason),
        CASE(qemu, test_a_qemu_without_microvm_gets_q35),
        OF_BOTH(test_a_silent_monitor),
        OF_BOTH(test_a_slow_monitor),
        OF_BOTH(test_a_monitor_that_refuses),
        OF_BOTH(test_a_monitor_that_speaks_garbage),
        OF_BOTH(test_a_monitor_that_dies),
        OF_BOTH(test_a_monitor_that_chatters),
        OF_BOTH(test_a_machine_with_everything),
        OF_BOTH(test_a_full_disk_costs_a_bundle_and_no_machine),
        OF_BOTH(test_all_weathers),
        OF_BOTH(test_a_seed_decides_everything),
    };
    return cmocka_run_group_tests_name("sim/peer/scripted_backend", tests, NULL, NULL);
}
