/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The whole of the kvm backend against the scripted monitor: the API above, the real orders between them, over this
 * machine's sockets and files, and in its time.
 */
#include "sim/peer/vmm.h"

#include <fcntl.h>
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
#include "image/image_internal.h"
#include "kelpie.h"
#include "snapshot/snapshot_limits.h"
#include "support/peer_process.h"

static_assert(PEER_VMM_WORKING_SET_HEADER_SIZE == SNAPSHOT_WORKING_SET_HEADER_SIZE, "one format");
static_assert(PEER_VMM_PAGE_SIZE == SNAPSHOT_PAGE_SIZE, "one format");

/* ---- A machine to run them on ----------------------------------------------------------------- */

#define KERNEL_SIZE 4096
#define WAIT_MS 20000

static char folder[] = "/tmp/kelpie-peer-XXXXXX";

static const char *path_of(const char *name) {
    static char paths[8][128];
    static unsigned next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof(paths[0]), "%s/%s", folder, name);
    return path;
}

static void write_file(const char *path, const void *data, size_t size) {
    int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0700);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, data, size), size);
    close(fd);
}

/* As much of a bzImage as is looked at (Linux documentation, "The Linux/x86 Boot Protocol"). */
static void write_kernel(const char *path) {
    static uint8_t data[KERNEL_SIZE];
    data[0x1f1] = 3;
    data[0x1f4] = (KERNEL_SIZE - 2048) / 16;
    memcpy(data + 0x1fe, "\x55\xaaxxHdrS\x0f\x02", 10);
    data[0x20f] = 1;
    data[0x211] = 1;
    memcpy(data + 0x300, "6.1.0-peer", sizeof("6.1.0-peer"));
    write_file(path, data, sizeof(data));
}

static int group_start(void **state) {
    (void)state;
    assert_non_null(mkdtemp(folder));
    write_kernel(path_of("kernel"));
    write_file(path_of("busybox"), image_guest_data,
               (size_t)(image_guest_data_end - image_guest_data));
    setenv("XDG_CACHE_HOME", folder, 1);
    setenv("KELPIE_BUSYBOX", path_of("busybox"), 1);
    peer_processes_init();
    return 0;
}

static int group_stop(void **state) {
    (void)state;
    char command[256];
    peer_processes_deinit();
    snprintf(command, sizeof(command), "rm -rf %s", folder);
    assert_int_equal(system(command), 0);
    return 0;
}

static int test_start(void **state) {
    (void)state;
    memset(fault_fires, 0, sizeof(fault_fires));
    memset(fault_asked, 0, sizeof(fault_asked));
    choices_seed = 1;
    deaths_expected = false;
    return 0;
}

static int test_stop(void **state) {
    (void)state;
    char command[256];
    snprintf(command, sizeof(command), "rm -rf %s/b-*", folder);
    assert_int_equal(system(command), 0);
    return 0;
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

static struct kelpie_config config_make(void) {
    return (struct kelpie_config){
        .backend = "kvm", .kernel = path_of("kernel"), .host = peer_owner, .memory_mib = 64};
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

static void take(struct kelpie_vm *vm, const char *path, const char *parent) {
    struct kelpie_error err;
    const struct kelpie_snapshot_options options = {.parent = parent, .track = true};
    OK(kelpie_vm_snapshot(vm, path, &options, NULL, &err));
    OK(kelpie_snapshot_verify(path, &err));
}

static struct kelpie_vm *restore(const char *path, const struct kelpie_restore_options *options) {
    struct kelpie_error err;
    struct kelpie_vm *vm = NULL;
    const struct kelpie_config config = {.host = peer_owner};
    OK(kelpie_vm_create_from_snapshot(path, &config, options, &vm, &err));
    return vm;
}

/* ---- Honest ----------------------------------------------------------------------------------- */

static void test_a_machine_lives_and_ends(void **state) {
    (void)state;
    struct kelpie_error err;
    struct kelpie_vm *vm = vm_start(NULL);
    char console[1024];
    uint64_t ns = 0;
    expect_shell(vm, "echo on", "on\n");
    write_file(path_of("in"), "copied", 6);
    OK(kelpie_copy_in(vm, path_of("in"), "/tmp/in", NULL, &err));
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

static void test_it_goes_on_from_a_snapshot(void **state) {
    (void)state;
    struct kelpie_vm *vm = vm_start(NULL);
    expect_shell(vm, "echo kept >/tmp/kept; head -c 300000 /dev/urandom >/tmp/data", "");
    take(vm, path_of("b-full"), NULL);
    expect_shell(vm, "rm /tmp/kept", "");
    kelpie_vm_destroy(vm);
    vm = restore(path_of("b-full"), NULL);
    expect_shell(vm, "cat /tmp/kept", "kept\n");
    kelpie_vm_destroy(vm);
    vm = restore(path_of("b-full"), &(struct kelpie_restore_options){.paused = true});
    struct kelpie_error err;
    OK(kelpie_vm_resume(vm, &err));
    expect_shell(vm, "cat /tmp/kept", "kept\n");
    kelpie_vm_destroy(vm);
}

static uint8_t pattern[100000];

static void expect_bundle(const char *name, const char *files) {
    struct kelpie_error err;
    struct kelpie_vm *vm = restore(path_of(name), NULL);
    expect_shell(vm, "ls /tmp/kept", files);
    for (const char *file = files; *file; file += 2) {
        static uint8_t copy[sizeof(pattern) + 1];
        char guest_path[32];
        snprintf(guest_path, sizeof(guest_path), "/tmp/kept/%c", *file);
        OK(kelpie_copy_out(vm, guest_path, path_of("out"), NULL, &err));
        int fd = open(path_of("out"), O_RDONLY | O_CLOEXEC);
        assert_int_equal(read(fd, copy, sizeof(copy)), sizeof(pattern));
        close(fd);
        assert_memory_equal(copy, pattern, sizeof(pattern));
    }
    kelpie_vm_destroy(vm);
}

static void test_diffs_are_put_over_each_other(void **state) {
    (void)state;
    struct kelpie_error err;
    struct kelpie_vm *vm = vm_start(NULL);
    for (size_t i = 0; i < sizeof(pattern); i++) {
        pattern[i] = (uint8_t)sim_mix(i, 1, 2);
    }
    write_file(path_of("in"), pattern, sizeof(pattern));
    OK(kelpie_copy_in(vm, path_of("in"), "/tmp/data", NULL, &err));
    expect_shell(vm, "mkdir /tmp/kept", "");
    take(vm, path_of("b-0"), NULL);
    expect_shell(vm, "cat /tmp/data > /tmp/kept/a", "");
    take(vm, path_of("b-1"), path_of("b-0"));
    expect_shell(vm, "cat /tmp/data > /tmp/kept/b; rm /tmp/kept/a", "");
    OK(kelpie_vm_pause(vm, &err)); /* nothing is written ahead */
    take(vm, path_of("b-2"), path_of("b-1"));
    kelpie_vm_destroy(vm);
    vm = restore(path_of("b-2"), &(struct kelpie_restore_options){.track = true});
    expect_shell(vm, "cat /tmp/data > /tmp/kept/c", "");
    take(vm, path_of("b-3"), path_of("b-2"));
    take(vm, path_of("b-4"), NULL);
    kelpie_vm_destroy(vm);
    expect_bundle("b-1", "a\n");
    expect_bundle("b-2", "b\n");
    expect_bundle("b-3", "b\nc\n");
    expect_bundle("b-4", "b\nc\n");
}

/* A command writes all the time, so that the pages of a presave change again before the save. */
static void test_a_diff_is_of_the_last_moment(void **state) {
    (void)state;
    struct kelpie_error err;
    struct kelpie_exec *exec = NULL;
    struct kelpie_vm *vm = vm_start(NULL);
    const char *const argv[] = {"sh", "-c",
                                "while true; do head -c 20000 /dev/urandom >/tmp/busy; done", NULL};
    take(vm, path_of("b-0"), NULL);
    OK(kelpie_exec_start(vm, &(struct kelpie_command){.argv = argv}, &exec, &err));
    for (size_t i = 1; i < 6; i++) {
        char name[16];
        char parent[16];
        snprintf(name, sizeof(name), "b-%zu", i);
        snprintf(parent, sizeof(parent), "b-%zu", i - 1);
        take(vm, path_of(name), path_of(parent));
    }
    kelpie_exec_close(exec);
    kelpie_vm_destroy(vm);
    vm = restore(path_of("b-5"), NULL);
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

static void test_children_share_a_past(void **state) {
    (void)state;
    struct kelpie_error err;
    struct kelpie_fork_child child = {0};
    struct kelpie_vm *vm = vm_start(NULL);
    expect_shell(vm, "echo before >/tmp/past", "");
    fork_and_look(vm);
    fork_and_look(vm); /* of a machine whose memory is private now */
    OK(kelpie_vm_fork(vm, NULL, 1, &child, &err));
    fork_and_look(child.vm);
    kelpie_vm_destroy(vm);
    take(child.vm, path_of("b-child"), NULL);
    kelpie_vm_destroy(child.vm);
    vm = restore(path_of("b-child"), NULL);
    expect_shell(vm, "cat /tmp/past", "before\n");
    kelpie_vm_destroy(vm);
}

static void test_a_pool_gives_machines(void **state) {
    (void)state;
    struct kelpie_error err;
    struct kelpie_pool *pool = NULL;
    struct kelpie_vm *vm = vm_start(NULL);
    const struct kelpie_config config = {.host = peer_owner};
    expect_shell(vm, "echo before >/tmp/past", "");
    take(vm, path_of("b-pool"), NULL);
    kelpie_vm_destroy(vm);
    OK(kelpie_pool_create(path_of("b-pool"),
                          &(struct kelpie_pool_options){.config = &config, .size = 2}, &pool,
                          &err));
    for (size_t i = 0; i < 3; i++) {
        OK(kelpie_pool_take(pool, NULL, &vm, &err));
        expect_shell(vm, "cat /tmp/past", "before\n");
        kelpie_vm_destroy(vm);
    }
    kelpie_pool_destroy(pool);
}

static void test_a_working_set_is_noted(void **state) {
    (void)state;
    struct kelpie_error err;
    struct stat info;
    struct kelpie_vm *vm = vm_start(NULL);
    take(vm, path_of("b-set"), NULL);
    FAILS(kelpie_vm_record_working_set(vm, &err), KELPIE_WRONG_STATE);
    kelpie_vm_destroy(vm);
    vm = restore(path_of("b-set"), &(struct kelpie_restore_options){.note_working_set = true});
    OK(kelpie_vm_record_working_set(vm, &err));
    kelpie_vm_destroy(vm);
    assert_int_equal(stat(path_of("b-set/working-set"), &info), 0);
    assert_int_equal(info.st_size, PEER_VMM_WORKING_SET_HEADER_SIZE + 64 * 256 / 8);
    kelpie_vm_destroy(restore(path_of("b-set"), NULL));
}

static void test_disks_and_a_network(void **state) {
    (void)state;
    static const char sector[65536] = "a disk";
    write_file(path_of("b-disk"), sector, sizeof(sector));
    const struct kelpie_disk disk = {.path = path_of("b-disk")};
    const struct kelpie_network network = {.kind = KELPIE_NETWORK_USER};
    struct kelpie_config config = config_make();
    config.disks = &disk;
    config.disk_count = 1;
    config.network = &network;
    struct kelpie_vm *vm = vm_start(&config);
    expect_shell(vm, "echo on", "on\n");
    take(vm, path_of("b-snapshot"), NULL);
    kelpie_vm_destroy(vm);
    vm = restore(path_of("b-snapshot"), NULL);
    expect_shell(vm, "echo on", "on\n");
    kelpie_vm_destroy(vm);
}

/* ---- What must not go unnoticed --------------------------------------------------------------- */

static void test_memory_that_is_another_is_refused(void **state) {
    (void)state;
    struct kelpie_error err;
    struct kelpie_vm *other = NULL;
    const struct kelpie_config config = {.host = peer_owner};
    struct kelpie_vm *vm = vm_start(NULL);
    take(vm, path_of("b-full"), NULL);
    kelpie_vm_destroy(vm);
    int fd = open(path_of("b-full/memory"), O_RDWR | O_CLOEXEC);
    assert_int_equal(pwrite(fd, "x", 1, 200), 1);
    close(fd);
    FAILS(kelpie_vm_create_from_snapshot(path_of("b-full"), &config, NULL, &other, &err),
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

static void test_a_guest_that_dies_is_noticed(void **state) {
    (void)state;
    for (choices_seed = 0; choices_seed < 6; choices_seed++) {
        struct kelpie_vm *vm = vm_start(NULL);
        uint64_t ns = 0;
        struct kelpie_error err;
        fault_fires[SIM_FAULT_GUEST_DIES] = 1;
        assert_int_not_equal(kelpie_vm_ping(vm, &ns, &err), KELPIE_OK);
        expect_crash(vm);
    }
}

static void test_a_monitor_that_dies_is_noticed(void **state) {
    (void)state;
    deaths_expected = true;
    for (choices_seed = 0; choices_seed < 12; choices_seed++) {
        struct kelpie_error err;
        struct kelpie_vm *vm = vm_start(NULL);
        fault_fires[SIM_FAULT_PEER_DIES] = 1;
        FAILS(kelpie_vm_pause(vm, &err), KELPIE_CRASHED);
        expect_crash(vm);
    }
}

static void test_a_monitor_that_speaks_nonsense_is_not_listened_to(void **state) {
    (void)state;
    size_t failures = 0;
    for (choices_seed = 0; choices_seed < 12; choices_seed++) {
        struct kelpie_error err;
        struct kelpie_vm *vm = vm_start(NULL);
        fault_fires[SIM_FAULT_PEER_GARBAGE] = 1;
        enum kelpie_status status = kelpie_vm_pause(vm, &err);
        failures += status != KELPIE_OK;
        assert_int_equal(fault_fires[SIM_FAULT_PEER_GARBAGE], 0);
        kelpie_vm_destroy(vm);
    }
    assert_true(failures >= 6); /* the others got the answer to another question, which they take */
}

static void test_a_monitor_that_does_not_answer_is_not_waited_for(void **state) {
    (void)state;
    const struct kelpie_config config = {.host = peer_owner, .operation_timeout_ms = 200};
    struct kelpie_vm *vm = vm_start(NULL);
    take(vm, path_of("b-full"), NULL);
    kelpie_vm_destroy(vm);
    deaths_expected = true;
    for (choices_seed = 0; choices_seed < 6; choices_seed++) {
        for (int fault = SIM_FAULT_PEER_SILENT; fault <= SIM_FAULT_PEER_SLOW; fault++) {
            struct kelpie_error err;
            OK(kelpie_vm_create_from_snapshot(path_of("b-full"), &config, NULL, &vm, &err));
            fault_fires[fault] = 1;
            FAILS(kelpie_vm_record_working_set(vm, &err), KELPIE_TIMED_OUT);
            kelpie_vm_destroy(vm);
        }
    }
}

static void test_a_refusal_says_why_and_changes_nothing(void **state) {
    (void)state;
    struct kelpie_error err;
    struct kelpie_vm *vm = vm_start(NULL);
    fault_fires[SIM_FAULT_PEER_REFUSES] = 1;
    assert_int_not_equal(kelpie_vm_pause(vm, &err), KELPIE_OK);
    assert_non_null(strstr(err.message, "refused"));
    expect_shell(vm, "echo on", "on\n");
    OK(kelpie_vm_pause(vm, &err));
    kelpie_vm_destroy(vm);
}

static void test_chatter_does_no_harm(void **state) {
    (void)state;
    struct kelpie_vm *vm = vm_start(NULL);
    fault_fires[SIM_FAULT_PEER_CHATTERS] = 100;
    fault_fires[SIM_FAULT_GUEST_CHATTERS] = 3;
    take(vm, path_of("b-loud"), NULL);
    expect_shell(vm, "echo on", "on\n");
    kelpie_vm_destroy(vm);
    assert_true(fault_fires[SIM_FAULT_PEER_CHATTERS] < 100);
}

static void test_each_order_is_asked_about_once(void **state) {
    (void)state;
    struct kelpie_error err;
    struct kelpie_vm *vm = vm_start(NULL);
    uint32_t before = fault_asked[SIM_FAULT_PEER_DIES];
    OK(kelpie_vm_pause(vm, &err));
    OK(kelpie_vm_resume(vm, &err));
    assert_int_equal(fault_asked[SIM_FAULT_PEER_DIES], before + 2);
    assert_int_equal(fault_asked[SIM_FAULT_PEER_GARBAGE], before + 2);
    kelpie_vm_destroy(vm);
}

int main(int argc, char **argv) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, test_start, test_stop)
    const struct CMUnitTest tests[] = {
        TEST(test_a_machine_lives_and_ends),
        TEST(test_it_goes_on_from_a_snapshot),
        TEST(test_diffs_are_put_over_each_other),
        TEST(test_a_diff_is_of_the_last_moment),
        TEST(test_children_share_a_past),
        TEST(test_a_pool_gives_machines),
        TEST(test_a_working_set_is_noted),
        TEST(test_disks_and_a_network),
        TEST(test_memory_that_is_another_is_refused),
        TEST(test_a_guest_that_dies_is_noticed),
        TEST(test_a_monitor_that_dies_is_noticed),
        TEST(test_a_monitor_that_speaks_nonsense_is_not_listened_to),
        TEST(test_a_monitor_that_does_not_answer_is_not_waited_for),
        TEST(test_a_refusal_says_why_and_changes_nothing),
        TEST(test_chatter_does_no_harm),
        TEST(test_each_order_is_asked_about_once),
    };
    if (argc > 1) {
        cmocka_set_test_filter(argv[1]);
    }
    return cmocka_run_group_tests(tests, group_start, group_stop);
}
