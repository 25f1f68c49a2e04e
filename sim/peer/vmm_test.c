/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The whole of the kvm backend against the scripted monitor in a simulated world: the API above, the real orders between
 * them. Each case is the body of a process that uses the library.
 */
#include "sim/peer/vmm.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/kvm/kvm_instance.h"
#include "base/assert.h"
#include "kelpie.h"
#include "sim/world_harness_test.h"
#include "snapshot/snapshot_limits.h"

static_assert(PEER_VMM_WORKING_SET_HEADER_SIZE == SNAPSHOT_WORKING_SET_HEADER_SIZE, "one format");
static_assert(PEER_VMM_PAGE_SIZE == SNAPSHOT_PAGE_SIZE, "one format");

#define WAIT_MS 20000
#define FOLDER "/root/"

/* ---- A world ---------------------------------------------------------------------------------- */

/* It happens the next time that it is asked about, so often, and then no more. */
static void fire(enum sim_fault fault, uint32_t count) {
    static struct sim_fault_event later[4096];
    for (uint32_t i = 0; i < ARRAY_SIZE(later); i++) {
        later[i] = (struct sim_fault_event){fault, world->faults.asked[fault] + count + i};
    }
    sim_faults_suppress(&world->faults, later, ARRAY_SIZE(later));
    memset(world->faults.ppm, 0, sizeof(world->faults.ppm));
    world->faults.ppm[fault] = SIM_PPM;
    world->faults.fired[fault] = 0;
}

static void expect(enum kelpie_status status, enum kelpie_status expected,
                   const struct kelpie_error *err, const char *what, int line) {
    if (status != expected) {
        print_error("line %d: %s: is %s, should be %s: %s\n", line, what,
                    kelpie_status_name(status), kelpie_status_name(expected),
                    status != KELPIE_OK ? err->message : "");
        fail();
    }
}
#define OK(call) expect((call), KELPIE_OK, &err, #call, __LINE__)
#define FAILS(call, status) expect((call), status, &err, #call, __LINE__)

static void write_file(const char *path, const void *data, size_t size) {
    struct kelpie_error err;
    OK(host_file_store(host, path, data, size, 0600, &err));
}

static struct kelpie_config config_make(void) {
    return (struct kelpie_config){
        .backend = "kvm", .kernel = SIM_KERNEL_PATH, .host = host, .memory_mib = 64};
}

static struct kelpie_vm *vm_start(const struct kelpie_config *config) {
    struct kelpie_error err;
    struct kelpie_vm *vm = NULL;
    const struct kelpie_config usual = config_make();
    OK(kelpie_vm_create(config ? config : &usual, &vm, &err));
    OK(kelpie_vm_start(vm, &err));
    return vm;
}

static void expect_shell(struct kelpie_vm *vm, const char *line, const char *text) {
    struct kelpie_error err;
    struct kelpie_output output = {0};
    const char *const argv[] = {"sh", "-c", line, NULL};
    OK(kelpie_vm_exec(vm, &(struct kelpie_command){.argv = argv}, &output, &err));
    assert_string_equal(output.stdout_data, text);
    assert_int_equal(output.exit.code, 0);
    kelpie_output_free(&output);
}

/* The running program of that name; NULL: there is none. */
static const struct sim_process *program_find(const char *name) {
    const struct sim_process *process = world->processes;
    while (process && (process->ended || strcmp(process->program, name) != 0)) {
        process = process->next;
    }
    return process;
}

static void take(struct kelpie_vm *vm, const char *path, const char *parent) {
    struct kelpie_error err;
    const struct kelpie_snapshot_options options = {.parent = parent, .track = true};
    OK(kelpie_vm_snapshot(vm, path, &options, NULL, &err));
}

static struct kelpie_vm *restore(const char *path, const struct kelpie_restore_options *options) {
    struct kelpie_error err;
    struct kelpie_vm *vm = NULL;
    const struct kelpie_config config = {.host = host};
    OK(kelpie_vm_create_from_snapshot(path, &config, options, &vm, &err));
    return vm;
}

/* ---- Honest ----------------------------------------------------------------------------------- */

static void test_a_machine_lives_and_ends(void) {
    struct kelpie_error err;
    struct kelpie_vm *vm = vm_start(NULL);
    char console[1024];
    uint64_t ns = 0;
    expect_shell(vm, "echo on", "on\n");
    write_file(FOLDER "in", "copied", 6);
    OK(kelpie_copy_in(vm, FOLDER "in", "/tmp/in", NULL, &err));
    expect_shell(vm, "cat /tmp/in", "copied");
    OK(kelpie_vm_pause(vm, &err));
    OK(kelpie_vm_resume(vm, &err));
    OK(kelpie_vm_ping(vm, &ns, &err));
    size_t size = kelpie_vm_console(vm, console, sizeof(console) - 1);
    console[size] = '\0';
    assert_non_null(strstr(console, "simulated guest: up"));
    OK(kelpie_vm_stop(vm, WAIT_MS, &err));
    FAILS(kelpie_vm_ping(vm, &ns, &err), KELPIE_WRONG_STATE);
    OK(kelpie_vm_start(vm, &err));
    kelpie_vm_destroy(vm);
}

static void test_it_goes_on_from_a_snapshot(void) {
    struct kelpie_vm *vm = vm_start(NULL);
    expect_shell(vm, "echo kept >/tmp/kept; head -c 300000 /dev/urandom >/tmp/data", "");
    take(vm, FOLDER "b-full", NULL);
    expect_shell(vm, "rm /tmp/kept", "");
    kelpie_vm_destroy(vm);
    vm = restore(FOLDER "b-full", NULL);
    expect_shell(vm, "cat /tmp/kept", "kept\n");
    kelpie_vm_destroy(vm);
    vm = restore(FOLDER "b-full", &(struct kelpie_restore_options){.paused = true});
    struct kelpie_error err;
    OK(kelpie_vm_resume(vm, &err));
    expect_shell(vm, "cat /tmp/kept", "kept\n");
    kelpie_vm_destroy(vm);
}

static uint8_t pattern[100000];

static void expect_bundle(const char *name, const char *files) {
    struct kelpie_error err;
    char path[64];
    snprintf(path, sizeof(path), FOLDER "%s", name);
    struct kelpie_vm *vm = restore(path, &(struct kelpie_restore_options){.verify_memory = true});
    expect_shell(vm, "ls /tmp/kept", files);
    for (const char *file = files; *file; file += 2) {
        char guest_path[32];
        snprintf(guest_path, sizeof(guest_path), "/tmp/kept/%c", *file);
        OK(kelpie_copy_out(vm, guest_path, FOLDER "out", NULL, &err));
        char *copy = NULL;
        size_t size = 0;
        OK(host_file_load(host, FOLDER "out", 2 * sizeof(pattern), &copy, &size, &err));
        assert_int_equal(size, sizeof(pattern));
        assert_memory_equal(copy, pattern, sizeof(pattern));
        free(copy);
    }
    kelpie_vm_destroy(vm);
}

static void test_diffs_are_put_over_each_other(void) {
    struct kelpie_error err;
    struct kelpie_vm *vm = vm_start(NULL);
    for (size_t i = 0; i < sizeof(pattern); i++) {
        pattern[i] = (uint8_t)sim_mix(i, 1, 2);
    }
    write_file(FOLDER "in", pattern, sizeof(pattern));
    OK(kelpie_copy_in(vm, FOLDER "in", "/tmp/data", NULL, &err));
    expect_shell(vm, "mkdir /tmp/kept", "");
    take(vm, FOLDER "b-0", NULL);
    expect_shell(vm, "cat /tmp/data > /tmp/kept/a", "");
    take(vm, FOLDER "b-1", FOLDER "b-0");
    expect_shell(vm, "cat /tmp/data > /tmp/kept/b; rm /tmp/kept/a", "");
    OK(kelpie_vm_pause(vm, &err)); /* nothing is written ahead */
    take(vm, FOLDER "b-2", FOLDER "b-1");
    kelpie_vm_destroy(vm);
    vm = restore(FOLDER "b-2", &(struct kelpie_restore_options){.track = true});
    expect_shell(vm, "cat /tmp/data > /tmp/kept/c", "");
    take(vm, FOLDER "b-3", FOLDER "b-2");
    take(vm, FOLDER "b-4", NULL);
    kelpie_vm_destroy(vm);
    expect_bundle("b-1", "a\n");
    expect_bundle("b-2", "b\n");
    expect_bundle("b-3", "b\nc\n");
    expect_bundle("b-4", "b\nc\n");
}

static void test_a_diff_is_as_small_as_its_changes(void) {
    struct kelpie_error err;
    struct kelpie_snapshot large = {0};
    struct kelpie_snapshot small = {0};
    struct kelpie_snapshot_options options = {.track = true, .parent = FOLDER "b-0"};
    struct kelpie_vm *vm = vm_start(NULL);
    take(vm, FOLDER "b-0", NULL);
    expect_shell(vm, "head -c 300000 /dev/urandom >/tmp/data", "");
    OK(kelpie_vm_snapshot(vm, FOLDER "b-1", &options, &large, &err));
    options.parent = FOLDER "b-1";
    OK(kelpie_vm_snapshot(vm, FOLDER "b-2", &options, &small, &err));
    assert_true(large.bytes > 300000);
    assert_true(small.bytes < large.bytes / 2);
    kelpie_vm_destroy(vm);
}

static void test_what_an_order_was_given_is_given_back(void) {
    struct kelpie_vm *vm = vm_start(NULL);
    take(vm, FOLDER "b-0", NULL);
    const size_t before = program_find(PEER_VMM_PROGRAM)->handle_count;
    take(vm, FOLDER "b-1", FOLDER "b-0");
    take(vm, FOLDER "b-2", NULL);
    assert_int_equal(program_find(PEER_VMM_PROGRAM)->handle_count, before);
    kelpie_vm_destroy(vm);
}

/* A command writes all the time, so that the pages of a presave change again before the save. */
static void test_a_diff_is_of_the_last_moment(void) {
    struct kelpie_error err;
    struct kelpie_exec *exec = NULL;
    struct kelpie_vm *vm = vm_start(NULL);
    const char *const argv[] = {"sh", "-c",
                                "while true; do head -c 20000 /dev/urandom >/tmp/busy; done", NULL};
    take(vm, FOLDER "b-0", NULL);
    OK(kelpie_exec_start(vm, &(struct kelpie_command){.argv = argv}, &exec, &err));
    for (size_t i = 1; i < 6; i++) {
        char path[32];
        char parent[32];
        snprintf(path, sizeof(path), FOLDER "b-%zu", i);
        snprintf(parent, sizeof(parent), FOLDER "b-%zu", i - 1);
        take(vm, path, parent);
    }
    kelpie_exec_close(exec);
    kelpie_vm_destroy(vm);
    vm = restore(FOLDER "b-5", NULL);
    expect_shell(vm, "echo on", "on\n");
    kelpie_vm_destroy(vm);
}

static void fork_and_look(struct kelpie_vm *vm) {
    struct kelpie_error err;
    struct kelpie_fork_child children[2] = {0};
    OK(kelpie_vm_fork(vm, NULL, 2, children, &err));
    expect_shell(vm, "echo parent >/tmp/who", "");
    for (size_t i = 0; i < 2; i++) {
        assert_non_null(children[i].vm);
        expect_shell(children[i].vm, "cat /tmp/past", "before\n");
        expect_shell(children[i].vm, "echo child >/tmp/who", "");
    }
    expect_shell(vm, "cat /tmp/who", "parent\n");
    for (size_t i = 0; i < 2; i++) {
        kelpie_vm_destroy(children[i].vm);
    }
}

static void test_children_share_a_past(void) {
    struct kelpie_error err;
    struct kelpie_fork_child child = {0};
    struct kelpie_vm *vm = vm_start(NULL);
    expect_shell(vm, "echo before >/tmp/past", "");
    fork_and_look(vm);
    fork_and_look(vm); /* of a machine whose memory is private now */
    OK(kelpie_vm_fork(vm, NULL, 1, &child, &err));
    fork_and_look(child.vm);
    kelpie_vm_destroy(vm);
    take(child.vm, FOLDER "b-child", NULL);
    kelpie_vm_destroy(child.vm);
    vm = restore(FOLDER "b-child", NULL);
    expect_shell(vm, "cat /tmp/past", "before\n");
    kelpie_vm_destroy(vm);
}

static void test_a_pool_gives_machines(void) {
    struct kelpie_error err;
    struct kelpie_pool *pool = NULL;
    struct kelpie_vm *vm = vm_start(NULL);
    const struct kelpie_config config = {.host = host};
    expect_shell(vm, "echo before >/tmp/past", "");
    take(vm, FOLDER "b-pool", NULL);
    kelpie_vm_destroy(vm);
    OK(kelpie_pool_create(
        FOLDER "b-pool", &(struct kelpie_pool_options){.config = &config, .size = 2}, &pool, &err));
    for (size_t i = 0; i < 3; i++) {
        OK(kelpie_pool_take(pool, NULL, &vm, &err));
        expect_shell(vm, "cat /tmp/past", "before\n");
        kelpie_vm_destroy(vm);
    }
    kelpie_pool_destroy(pool);
}

static void test_a_working_set_is_noted(void) {
    struct kelpie_error err;
    struct host_file_info info;
    struct kelpie_vm *vm = vm_start(NULL);
    take(vm, FOLDER "b-set", NULL);
    FAILS(kelpie_vm_record_working_set(vm, &err), KELPIE_WRONG_STATE);
    kelpie_vm_destroy(vm);
    vm = restore(FOLDER "b-set", &(struct kelpie_restore_options){.note_working_set = true});
    OK(kelpie_vm_record_working_set(vm, &err));
    kelpie_vm_destroy(vm);
    OK(host_path_stat(host, FOLDER "b-set/working-set", &info, &err));
    assert_int_equal(info.size, PEER_VMM_WORKING_SET_HEADER_SIZE + 64 * 256 / 8);
    kelpie_vm_destroy(restore(FOLDER "b-set", NULL));
}

static void test_disks_and_a_network(void) {
    static const char sector[65536] = "a disk";
    write_file(FOLDER "disk", sector, sizeof(sector));
    const struct kelpie_disk disk = {.path = FOLDER "disk"};
    const struct kelpie_network network = {.kind = KELPIE_NETWORK_USER};
    struct kelpie_config config = config_make();
    config.disks = &disk;
    config.disk_count = 1;
    config.network = &network;
    struct kelpie_vm *vm = vm_start(&config);
    expect_shell(vm, "echo on", "on\n");
    take(vm, FOLDER "b-snapshot", NULL);
    assert_non_null(program_find("passt")); /* it ends when nobody holds its socket */
    kelpie_vm_destroy(vm);
    assert_null(program_find("passt"));
    vm = restore(FOLDER "b-snapshot", NULL);
    expect_shell(vm, "echo on", "on\n");
    kelpie_vm_destroy(vm);
}

/* ---- What must not go unnoticed --------------------------------------------------------------- */

static void test_memory_that_is_another_is_refused(void) {
    struct kelpie_error err;
    struct kelpie_vm *other = NULL;
    const struct kelpie_config config = {.host = host};
    struct kelpie_vm *vm = vm_start(NULL);
    take(vm, FOLDER "b-full", NULL);
    kelpie_vm_destroy(vm);
    int fd = HOST_FD_NONE;
    OK(host_file_open(host, FOLDER "b-full/memory", HOST_OPEN_READ | HOST_OPEN_WRITE, 0, &fd,
                      &err));
    OK(host_file_write_at(host, fd, "x", 1, 200, &err));
    host_close(host, fd);
    FAILS(kelpie_vm_create_from_snapshot(FOLDER "b-full", &config, NULL, &other, &err),
          KELPIE_SNAPSHOT_CORRUPT);
    assert_string_equal(err.field, "memory");
}

/* ---- Faults ----------------------------------------------------------------------------------- */

static void expect_crash(struct kelpie_vm *vm) {
    struct kelpie_error err;
    enum kelpie_state now = KELPIE_STATE_RUNNING;
    OK(kelpie_vm_wait(vm, 1u << KELPIE_STATE_CRASHED, WAIT_MS, &now, &err));
    kelpie_vm_destroy(vm);
}

static void test_a_guest_that_dies_is_noticed(void) {
    struct kelpie_error err;
    struct kelpie_vm *vm = vm_start(NULL);
    uint64_t ns = 0;
    fire(SIM_FAULT_GUEST_DIES, 1);
    assert_int_not_equal(kelpie_vm_ping(vm, &ns, &err), KELPIE_OK);
    expect_crash(vm);
}

static void test_a_monitor_that_dies_is_noticed(void) {
    struct kelpie_error err;
    struct kelpie_vm *vm = vm_start(NULL);
    OK(kelpie_vm_pause(vm, &err));
    fire(SIM_FAULT_PEER_DIES, 1);
    FAILS(kelpie_vm_resume(vm, &err), KELPIE_CRASHED);
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_CRASHED); /* not only a little later */
    expect_crash(vm);
}

/* The answer to another question is none either. */
static void test_a_monitor_that_speaks_nonsense_is_not_listened_to(void) {
    struct kelpie_error err;
    struct kelpie_vm *vm = vm_start(NULL);
    fire(SIM_FAULT_PEER_GARBAGE, 1);
    assert_int_not_equal(kelpie_vm_pause(vm, &err), KELPIE_OK);
    expect_crash(vm);
    assert_int_equal(world->faults.fired[SIM_FAULT_PEER_GARBAGE], 1);
}

/* A restored machine, whose working set is an order alone. */
static struct kelpie_vm *vm_restored(void) {
    struct kelpie_error err;
    const struct kelpie_config config = {.host = host, .operation_timeout_ms = 500};
    struct kelpie_vm *vm = vm_start(NULL);
    take(vm, FOLDER "b-full", NULL);
    kelpie_vm_destroy(vm);
    OK(kelpie_vm_create_from_snapshot(FOLDER "b-full", &config, NULL, &vm, &err));
    return vm;
}

static void test_a_monitor_that_is_silent_is_not_waited_for(void) {
    struct kelpie_error err;
    struct kelpie_vm *vm = vm_restored();
    fire(SIM_FAULT_PEER_SILENT, 1);
    FAILS(kelpie_vm_record_working_set(vm, &err), KELPIE_TIMED_OUT);
    kelpie_vm_destroy(vm);
}

/* An answer that comes late is not taken for that of another order. */
static void test_a_late_answer_is_dropped(void) {
    struct kelpie_error err;
    struct kelpie_vm *vm = vm_restored();
    OK(kelpie_vm_snapshot(vm, FOLDER "b-again", NULL, NULL, &err));
    FAILS(kelpie_vm_record_working_set(vm, &err), KELPIE_WRONG_STATE); /* all was read */
    fire(SIM_FAULT_PEER_SLOW, 1);
    FAILS(kelpie_vm_record_working_set(vm, &err), KELPIE_TIMED_OUT);
    const struct host_wait wait = host_wait_ms(host, 60000, HOST_FD_NONE);
    OK(host_sleep(host, &wait, &err));
    OK(kelpie_vm_pause(vm, &err));
    OK(kelpie_vm_resume(vm, &err));
    expect_shell(vm, "echo on", "on\n");
    kelpie_vm_destroy(vm);
}

/* A pause that is carried out all the same, or late, or never: the machine goes on at once. */
static void test_a_pause_without_an_answer_is_undone(void) {
    struct kelpie_error err;
    struct kelpie_config config = config_make();
    config.operation_timeout_ms = 500;
    struct kelpie_vm *vm = vm_start(&config);
    fire(SIM_FAULT_PEER_SILENT, 1);
    const uint64_t before_ns = host_monotonic_ns(host);
    FAILS(kelpie_vm_pause(vm, &err), KELPIE_TIMED_OUT);
    assert_true(host_monotonic_ns(host) - before_ns < (uint64_t)WAIT_MS * HOST_NS_PER_MS / 2);
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_RUNNING);
    expect_shell(vm, "echo on", "on\n");
    kelpie_vm_destroy(vm);
}

/* What is not a monitor's to say of a VM's life or of a caller's wait is not believed. */
static void test_a_refusal_says_why_and_changes_nothing(void) {
    static const enum kelpie_status ours[] = {KELPIE_CRASHED, KELPIE_CANCELLED, KELPIE_TIMED_OUT,
                                              KELPIE_BUSY, KELPIE_WRONG_STATE};
    struct kelpie_error err;
    struct kelpie_vm *vm = vm_start(NULL);
    fire(SIM_FAULT_PEER_REFUSES, 1);
    const enum kelpie_status status = kelpie_vm_pause(vm, &err);
    assert_int_not_equal(status, KELPIE_OK);
    assert_int_equal(err.status, status);
    for (size_t i = 0; i < ARRAY_SIZE(ours); i++) {
        assert_int_not_equal(status, ours[i]);
    }
    assert_non_null(strstr(err.message, "refused"));
    expect_shell(vm, "echo on", "on\n");
    OK(kelpie_vm_pause(vm, &err));
    kelpie_vm_destroy(vm);
}

/* It got nothing of it, and can go on. */
static void test_a_descriptor_that_cannot_be_passed_is_no_crash(void) {
    struct kelpie_error err;
    struct kelpie_vm *vm = vm_start(NULL);
    fire(SIM_FAULT_SOCKET_SEND_FD_FAILS, 1);
    FAILS(kelpie_vm_snapshot(vm, FOLDER "b-none", NULL, NULL, &err), KELPIE_SNAPSHOT_FAILED);
    assert_int_equal(world->faults.fired[SIM_FAULT_SOCKET_SEND_FD_FAILS], 1);
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_RUNNING);
    expect_shell(vm, "echo on", "on\n");
    take(vm, FOLDER "b-full", NULL);
    kelpie_vm_destroy(vm);
}

static void test_chatter_does_no_harm(void) {
    struct kelpie_vm *vm = vm_start(NULL);
    fire(SIM_FAULT_PEER_CHATTERS, 100);
    take(vm, FOLDER "b-loud", NULL);
    assert_true(world->faults.fired[SIM_FAULT_PEER_CHATTERS] > 2);
    fire(SIM_FAULT_GUEST_CHATTERS, 3);
    expect_shell(vm, "echo on", "on\n");
    kelpie_vm_destroy(vm);
}

static void test_each_order_is_asked_about_once(void) {
    struct kelpie_error err;
    struct kelpie_vm *vm = vm_start(NULL);
    uint32_t before = world->faults.asked[SIM_FAULT_PEER_DIES];
    OK(kelpie_vm_pause(vm, &err));
    OK(kelpie_vm_resume(vm, &err));
    assert_int_equal(world->faults.asked[SIM_FAULT_PEER_DIES], before + 2);
    assert_int_equal(world->faults.asked[SIM_FAULT_PEER_GARBAGE],
                     world->faults.asked[SIM_FAULT_PEER_DIES]);
    kelpie_vm_destroy(vm);
}

/* What comes of each call does not matter, as long as all of them end; afterwards, all is as ever. */
static void test_whatever_happens_it_ends(void) {
    struct kelpie_error err;
    const struct kelpie_config config = config_make();
    struct kelpie_vm *vm = NULL;
    struct kelpie_fork_child child = {0};
    OK(kelpie_vm_create(&config, &vm, &err));
    for (int fault = SIM_FAULT_PEER_SILENT; fault < SIM_FAULT_COUNT; fault++) {
        world->faults.ppm[fault] = sim_choose(&world->choices, 4) == 0 ? 100000 : 0;
    }
    bool running = kelpie_vm_start(vm, &err) == KELPIE_OK;
    if (running && kelpie_vm_snapshot(vm, FOLDER "b-0", NULL, NULL, &err) == KELPIE_OK &&
        kelpie_vm_fork(vm, NULL, 1, &child, &err) == KELPIE_OK) {
        kelpie_vm_destroy(child.vm);
    }
    if (running && kelpie_vm_pause(vm, &err) == KELPIE_OK) {
        running = kelpie_vm_resume(vm, &err) == KELPIE_OK;
    }
    running = running && kelpie_vm_stop(vm, WAIT_MS, &err) == KELPIE_OK;
    kelpie_vm_destroy(vm);
    sim_world_quiet(world);
    test_it_goes_on_from_a_snapshot();
}

/* ---- All of them ------------------------------------------------------------------------------ */

struct one {
    void (*body)(void);
    uint64_t seed_count;
};

static void run_one(void **state) {
    const struct one *one = *state;
    for (uint64_t seed = 1; seed <= one->seed_count; seed++) {
        run_world(seed, one->body);
    }
}

static void test_a_seed_decides_everything(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 3; seed++) {
        uint64_t hash = run_world(seed, test_whatever_happens_it_ends);
        assert_int_equal(run_world(seed, test_whatever_happens_it_ends), hash);
        assert_int_not_equal(run_world(seed + 100, test_whatever_happens_it_ends), hash);
    }
}

/* The simulated guest has no block devices. */
static void test_a_disk_that_cannot_be_mounted_ends_a_start(void) {
    static const uint8_t sectors[4096];
    struct kelpie_error err;
    struct kelpie_vm *vm = NULL;
    const struct kelpie_disk disk = {.path = "/root/disk", .mount = "/data"};
    struct kelpie_config config = config_make();
    config.disks = &disk;
    config.disk_count = 1;
    write_file(disk.path, sectors, sizeof(sectors));
    OK(kelpie_vm_create(&config, &vm, &err));
    FAILS(kelpie_vm_start(vm, &err), KELPIE_BOOT_FAILED);
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_CREATED);
    kelpie_vm_destroy(vm);
}

static void test_only_our_monitor_takes_a_kernel_from_a_library(void) {
    struct kelpie_error err;
    struct kelpie_vm *vm = NULL;
    struct kelpie_config config = config_make();
    config.kernel = SIM_KRUNFW_PATH;
    vm = vm_start(&config);
    expect_shell(vm, "echo up", "up\n");
    kelpie_vm_destroy(vm);
    config.backend = "qemu";
    vm = NULL;
    assert_int_not_equal(kelpie_vm_create(&config, &vm, &err), KELPIE_OK);
    assert_string_equal(err.field, "kernel");
    assert_null(vm);
}

/* Nobody but measurements asks for it: without src/vm/, as they do. */
static void test_a_monitor_tells_when_things_happened(void) {
    struct kelpie_error err;
    struct kelpie_vm *vm = NULL;
    struct backend_instance *instance = NULL;
    struct control_stamps stamps = {0};
    const struct kelpie_mock_config unused = {0};
    struct kelpie_config config = config_make();
    config.mock = &unused;
    const struct backend_ops *ops = backend_find("kvm");
    OK(kelpie_vm_create(&config, &vm, &err));
    const struct backend_launch launch = {
        .host = host, .config = kelpie_vm_config(vm), .id = "tell", .cancel_fd = HOST_FD_NONE};
    const struct host_wait wait = host_wait_ms(host, 100000, HOST_FD_NONE);
    OK(ops->create(&launch, &instance, &err));
    FAILS(kvm_order_tell(instance, &stamps, &wait, &err), KELPIE_INTERNAL); /* nobody is there */
    OK(ops->start(instance, &wait, &err));
    OK(kvm_order_tell(instance, &stamps, &wait, &err));
    assert_true(stamps.started_ns > 0 && stamps.started_ns <= stamps.resumed_ns);
    fire(SIM_FAULT_PEER_GARBAGE, 1);
    /* Some nonsense is an answer by chance; no other is believed. */
    struct control_stamps again = {.started_ns = 1};
    if (kvm_order_tell(instance, &again, &wait, &err) != KELPIE_OK) {
        assert_int_equal(again.started_ns, 1);
    }
    ops->destroy(instance);
    kelpie_vm_destroy(vm);
}

int main(int argc, char **argv) {
#define ONE(name, count)                                                                           \
    {                                                                                              \
#name, run_one, NULL, NULL, &(struct one) {                                                \
            name, count                                                                            \
        }                                                                                          \
    }
    const struct CMUnitTest tests[] = {
        ONE(test_a_machine_lives_and_ends, 3),
        ONE(test_it_goes_on_from_a_snapshot, 3),
        ONE(test_diffs_are_put_over_each_other, 3),
        ONE(test_a_diff_is_as_small_as_its_changes, 1),
        ONE(test_what_an_order_was_given_is_given_back, 1),
        ONE(test_a_diff_is_of_the_last_moment, 3),
        ONE(test_children_share_a_past, 3),
        ONE(test_a_pool_gives_machines, 3),
        ONE(test_a_working_set_is_noted, 1),
        ONE(test_disks_and_a_network, 3),
        ONE(test_memory_that_is_another_is_refused, 1),
        ONE(test_a_guest_that_dies_is_noticed, 8),
        ONE(test_a_monitor_that_dies_is_noticed, 100),
        ONE(test_a_monitor_that_speaks_nonsense_is_not_listened_to, 20),
        ONE(test_a_monitor_that_is_silent_is_not_waited_for, 6),
        ONE(test_a_late_answer_is_dropped, 8),
        ONE(test_a_pause_without_an_answer_is_undone, 12),
        ONE(test_a_refusal_says_why_and_changes_nothing, 150),
        ONE(test_a_descriptor_that_cannot_be_passed_is_no_crash, 2),
        ONE(test_a_disk_that_cannot_be_mounted_ends_a_start, 2),
        ONE(test_only_our_monitor_takes_a_kernel_from_a_library, 2),
        ONE(test_a_monitor_tells_when_things_happened, 12),
        ONE(test_chatter_does_no_harm, 2),
        ONE(test_each_order_is_asked_about_once, 1),
        ONE(test_whatever_happens_it_ends, 40),
        cmocka_unit_test(test_a_seed_decides_everything),
    };
    if (argc > 1) {
        cmocka_set_test_filter(argv[1]);
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
