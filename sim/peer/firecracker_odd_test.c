/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * What seldom happens to the firecracker backend, over the scripted Firecracker: read-only disks, restored machines side by side,
 * taps, bundles that do not fit, a guest that lets go, versions that know less.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/firecracker/firecracker.h"
#include "backend/firecracker/firecracker_instance.h"
#include "base/assert.h"
#include "host/host_kvm.h"
#include "protocol/protocol_limits.h"
#include "sim/peer/firecracker.h"
#include "sim/world_harness_test.h"

#define FOLDER "/root/"
#define BUNDLE FOLDER "bundle"
#define RUNTIME_FOLDER "/run/user/1000/"
#define STATE_HEADER_SIZE 56
#define DISK_SIZE 65536
#define STATE_SIZE_MAX 65536
#define RESET_COUNT 24
#define WAIT_MS 20000
#define ARGV(...) ((const char *const[]){__VA_ARGS__, NULL})

static const struct backend_ops *const ops = &backend_firecracker_ops;

static void expect(enum kelpie_status status, enum kelpie_status expected,
                   const struct kelpie_error *err, int line) {
    if (status != expected) {
        print_error("line %d: is %s, should be %s: %s\n", line, kelpie_status_name(status),
                    kelpie_status_name(expected), status != KELPIE_OK ? err->message : "");
        fail();
    }
}
#define OK(call) expect((call), KELPIE_OK, &err, __LINE__)
#define FAILS(call, status) expect((call), status, &err, __LINE__)

static void write_file(const char *path, char byte) {
    struct kelpie_error err = {0};
    static char bytes[DISK_SIZE];
    memset(bytes, byte, sizeof(bytes));
    OK(host_file_store(host, path, bytes, sizeof(bytes), 0600, &err));
}

static struct kelpie_config config_make(void) {
    return (struct kelpie_config){.backend = "firecracker",
                                  .kernel = SIM_KERNEL_PATH,
                                  .vcpu_count = 1,
                                  .memory_mib = 64,
                                  .operation_timeout_ms = WAIT_MS,
                                  .boot_timeout_ms = WAIT_MS,
                                  .host = host};
}

static struct kelpie_vm *boot(const struct kelpie_config *config) {
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = NULL;
    OK(kelpie_vm_create(config, &vm, &err));
    OK(kelpie_vm_start(vm, &err));
    return vm;
}

static struct kelpie_vm *restore(const struct kelpie_network *network) {
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = NULL;
    const struct kelpie_config config = {.network = network, .host = host};
    OK(kelpie_vm_create_from_snapshot(BUNDLE, &config, NULL, &vm, &err));
    return vm;
}

static enum kelpie_status sh(struct kelpie_vm *vm, const char *script, const char *expected,
                             struct kelpie_error *err) {
    struct kelpie_output output = {0};
    const struct kelpie_command command = {.argv = ARGV("/bin/sh", "-c", script)};
    enum kelpie_status status = kelpie_vm_exec(vm, &command, &output, err);
    if (status == KELPIE_OK) {
        assert_string_equal(output.stdout_data, expected);
    }
    kelpie_output_free(&output);
    return status;
}

/* ---- Disks ------------------------------------------------------------------------------------ */

/* The Firecracker that was started last. */
static struct sim_process *newest_firecracker(void) {
    struct sim_process *newest = NULL;
    for (struct sim_process *at = world->processes; at; at = at->next) {
        if (!at->ended && strcmp(at->program, "firecracker") == 0 &&
            (!newest || at->id > newest->id)) {
            newest = at;
        }
    }
    assert_non_null(newest);
    return newest;
}

static const struct sim_handle *disk_of(const struct sim_process *process, int index) {
    const struct sim_handle *handle = process->handles[FIRECRACKER_CHILD_DISK_0 + index];
    assert_non_null(handle);
    assert_int_equal(handle->kind, SIM_HANDLE_FILE);
    return handle;
}

/* The configuration that is in the bundle's state. */
static json_t *saved_config(void) {
    struct kelpie_error err = {0};
    char *data = NULL;
    size_t size = 0;
    OK(host_file_load(host, BUNDLE "/state", STATE_SIZE_MAX, &data, &size, &err));
    assert_true(size > STATE_HEADER_SIZE);
    json_t *config = json_loadb(data + STATE_HEADER_SIZE, size - STATE_HEADER_SIZE, 0, NULL);
    assert_non_null(config);
    free(data);
    return config;
}

static const char *drive_text(const json_t *config, size_t index, const char *name) {
    const json_t *drive = json_array_get(json_object_get(config, "drives"), index);
    assert_non_null(drive);
    return json_string_value(json_object_get(drive, name));
}

static bool drive_is_read_only(const json_t *config, size_t index) {
    const json_t *drive = json_array_get(json_object_get(config, "drives"), index);
    assert_non_null(drive);
    return json_is_true(json_object_get(drive, "is_read_only"));
}

static struct kelpie_vm *boot_with_disks(void) {
    const struct kelpie_disk disks[] = {{.path = FOLDER "disk-a"},
                                        {.path = FOLDER "disk-b", .read_only = true}};
    struct kelpie_config config = config_make();
    config.disks = disks;
    config.disk_count = ARRAY_SIZE(disks);
    write_file(disks[0].path, 'a');
    write_file(disks[1].path, 'b');
    return boot(&config);
}

/* Firecracker's device refuses writes, and its file could not be written by the descriptor that it was given; so it is after a
 * restore. */
static void read_only_disks(void) {
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = boot_with_disks();
    for (int life = 0; life < 2; life++) {
        const struct sim_process *process = newest_firecracker();
        assert_true(disk_of(process, 0)->flags & HOST_OPEN_WRITE);
        assert_false(disk_of(process, 1)->flags & HOST_OPEN_WRITE);
        OK(kelpie_vm_snapshot(vm, BUNDLE, NULL, NULL, &err));
        json_t *config = saved_config();
        assert_false(drive_is_read_only(config, 0));
        assert_true(drive_is_read_only(config, 1));
        /* What the guest has flushed is on the disk of the host, also when that one crashes. */
        assert_string_equal(drive_text(config, 0, "cache_type"), "Writeback");
        assert_string_equal(drive_text(config, 1, "cache_type"), "Unsafe");
        json_decref(config);
        kelpie_vm_destroy(vm);
        vm = restore(NULL);
        OK(host_path_remove_folder(host, BUNDLE, &err));
    }
    kelpie_vm_destroy(vm);
}

static void hazard_a15_firecracker_enforces_read_only(void **state) {
    (void)state;
    run_world(1, read_only_disks);
}

/* One that runs, and two restored of it: each has its own disk, its own folder and its own guest, and the state that they share
 * names nothing of anybody's. */
static void side_by_side(void) {
    struct kelpie_error err = {0};
    struct kelpie_vm *vms[3] = {boot_with_disks()};
    const struct sim_process *processes[3] = {newest_firecracker()};
    OK(sh(vms[0], "echo saved > /tmp/file", "", &err));
    OK(kelpie_vm_snapshot(vms[0], BUNDLE, NULL, NULL, &err));
    json_t *config = saved_config();
    assert_string_equal(
        json_string_value(json_object_get(json_object_get(config, "vsock"), "uds_path")), "v");
    for (int i = 0; i < 2; i++) {
        char path[32];
        snprintf(path, sizeof(path), "/proc/self/fd/%d", FIRECRACKER_CHILD_DISK_0 + i);
        assert_string_equal(drive_text(config, (size_t)i, "path_on_host"), path);
    }
    json_decref(config);
    OK(sh(vms[0], "echo first >> /tmp/file", "", &err));
    for (int i = 1; i < 3; i++) {
        vms[i] = restore(NULL);
        processes[i] = newest_firecracker();
        for (int j = 0; j < i; j++) {
            assert_ptr_not_equal(processes[i], processes[j]);
            assert_ptr_not_equal(disk_of(processes[i], 0)->inode, disk_of(processes[j], 0)->inode);
            assert_string_not_equal(processes[i]->working_dir, processes[j]->working_dir);
        }
    }
    OK(sh(vms[1], "echo second >> /tmp/file", "", &err));
    OK(sh(vms[0], "cat /tmp/file", "saved\nfirst\n", &err));
    OK(sh(vms[1], "cat /tmp/file", "saved\nsecond\n", &err));
    kelpie_vm_destroy(vms[0]);
    OK(sh(vms[2], "cat /tmp/file", "saved\n", &err));
    kelpie_vm_destroy(vms[1]);
    OK(sh(vms[2], "echo on", "on\n", &err));
    kelpie_vm_destroy(vms[2]);
}

static void hazard_c7_restored_machines_share_nothing(void **state) {
    (void)state;
    run_world(1, side_by_side);
}

/* ---- A network -------------------------------------------------------------------------------- */

static void tap(void) {
    struct kelpie_error err = {0};
    const struct kelpie_network network = {.kind = KELPIE_NETWORK_TAP, .tap = SIM_TAP_NAME};
    const struct kelpie_network none = {.kind = KELPIE_NETWORK_TAP, .tap = "tap9"};
    struct kelpie_config config = config_make();
    struct kelpie_vm *vm = NULL;
    config.network = &network;
    config.kernel_args = "an.argument=1";
    vm = boot(&config);
    OK(kelpie_vm_snapshot(vm, BUNDLE, NULL, NULL, &err));
    json_t *saved = saved_config();
    const json_t *interface = json_array_get(json_object_get(saved, "network-interfaces"), 0);
    assert_string_equal(json_string_value(json_object_get(interface, "host_dev_name")),
                        SIM_TAP_NAME);
    assert_int_equal(strlen(json_string_value(json_object_get(interface, "guest_mac"))), 17);
    json_decref(saved);
    kelpie_vm_destroy(vm);
    vm = restore(&network);
    OK(sh(vm, "echo on", "on\n", &err));
    kelpie_vm_destroy(vm);
    vm = NULL;
    config.network = &none;
    OK(kelpie_vm_create(&config, &vm, &err));
    FAILS(kelpie_vm_start(vm, &err), KELPIE_NOT_FOUND); /* root's Firecracker would make it */
    assert_string_equal(err.field, "network.tap");
    assert_non_null(strstr(err.message, "tap9"));
    kelpie_vm_destroy(vm);
    vm = NULL;
    config = (struct kelpie_config){.network = &none, .host = host};
    FAILS(kelpie_vm_create_from_snapshot(BUNDLE, &config, NULL, &vm, &err), KELPIE_NOT_FOUND);
    assert_string_equal(err.field, "network.tap");
}

static void test_a_guest_is_connected_to_a_tap(void **state) {
    (void)state;
    run_world(1, tap);
}

/* ---- An instance of the backend, without a VM around it ------------------------------------------- */

static enum kelpie_status make(const struct kelpie_config *config, bool for_bundle,
                               struct backend_instance **ret_instance, struct kelpie_error *err) {
    const struct backend_launch launch = {
        .host = host, .config = config, .cancel_fd = HOST_FD_NONE, .for_bundle = for_bundle};
    return ops->create(&launch, ret_instance, err);
}

static void what_it_does_not_boot(void) {
    struct kelpie_error err = {0};
    struct backend_instance *instance = NULL;
    const struct host_wait wait = host_wait_ms(host, WAIT_MS, HOST_FD_NONE);
    static char args[FIRECRACKER_BOOT_ARGS_SIZE_MAX];
    const struct kelpie_network user = {.kind = KELPIE_NETWORK_USER, .mac = "02:00:00:00:00:07"};
    struct kelpie_config config = config_make();
    config.kernel = SIM_KRUNFW_PATH;
    FAILS(make(&config, false, &instance, &err), KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, "kernel");
    config = config_make();
    config.network = &user;
    FAILS(make(&config, false, &instance, &err), KELPIE_UNSUPPORTED);
    assert_string_equal(err.field, "network");
    config = config_make();
    memset(args, 'x', sizeof(args) - 1);
    config.kernel_args = args;
    OK(make(&config, false, &instance, &err));
    FAILS(ops->start(instance, &wait, &err), KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, "kernel_args");
    ops->destroy(instance);
    config = config_make();
    OK(make(&config, false, &instance, &err));
    snprintf(instance->probe.binary, sizeof(instance->probe.binary), "no-such-program");
    FAILS(ops->start(instance, &wait, &err), KELPIE_BACKEND_MISSING);
    assert_non_null(strstr(err.message, "Firecracker is gone"));
    ops->destroy(instance);
}

static void test_what_it_cannot_boot_is_told(void **state) {
    (void)state;
    run_world(1, what_it_does_not_boot);
}

/* What only a boot needs is looked for when it boots, or when a key asks for it. */
static void made_for_a_bundle(void) {
    struct kelpie_error err = {0};
    struct backend_instance *instance = NULL;
    struct snapshot_manifest *manifest = NULL;
    struct snapshot_writer *writer = NULL;
    const struct host_wait wait = host_wait_ms(host, WAIT_MS, HOST_FD_NONE);
    struct kelpie_config config = config_make();
    OK(make(&config, true, &instance, &err));
    assert_string_equal(instance->kernel_path, "");
    OK(snapshot_writer_create(host, NULL, 0, &writer, &err));
    FAILS(ops->save(instance, KELPIE_SNAPSHOT_SUSPEND, writer, &wait, &err), KELPIE_WRONG_STATE);
    FAILS(ops->pause(instance, &wait, &err), KELPIE_WRONG_STATE);
    OK(snapshot_manifest_create(host, &manifest, &err));
    OK(ops->identify(instance, manifest, &err));
    assert_true(strlen(manifest->kernel_digest) > 0);
    snapshot_manifest_destroy(manifest);
    ops->destroy(instance);
    OK(make(&config, true, &instance, &err));
    OK(ops->start(instance, &wait, &err));
    FAILS(ops->save(instance, KELPIE_SNAPSHOT_CHECKPOINT, writer, &wait, &err), KELPIE_UNSUPPORTED);
    ops->destroy(instance);
    config.kernel = "/nowhere/vmlinuz";
    OK(make(&config, true, &instance, &err));
    assert_int_not_equal(ops->start(instance, &wait, &err), KELPIE_OK);
    assert_non_null(strstr(err.message, "/nowhere/vmlinuz"));
    OK(snapshot_manifest_create(host, &manifest, &err));
    assert_int_not_equal(ops->identify(instance, manifest, &err), KELPIE_OK);
    assert_int_not_equal(ops->save(instance, KELPIE_SNAPSHOT_SUSPEND, writer, &wait, &err),
                         KELPIE_OK);
    snapshot_manifest_destroy(manifest);
    snapshot_writer_destroy(writer);
    ops->destroy(instance);
}

static void test_an_instance_for_a_bundle_looks_later(void **state) {
    (void)state;
    run_world(1, made_for_a_bundle);
}

/* ---- Bundles ---------------------------------------------------------------------------------- */

static const struct {
    const char *field;
    enum kelpie_status status;
} misfits[] = {
    {"architecture", KELPIE_SNAPSHOT_INCOMPATIBLE},
    {"cpu", KELPIE_SNAPSHOT_INCOMPATIBLE},
    {"cpu", KELPIE_SNAPSHOT_INCOMPATIBLE},
    {"memory", KELPIE_SNAPSHOT_CORRUPT},
    {"memory", KELPIE_SNAPSHOT_CORRUPT},
    {"backend_version", KELPIE_SNAPSHOT_INCOMPATIBLE},
    {"", KELPIE_RESTORE_FAILED},
};
#define MISFIT_VERSION 5 /* from here on it is Firecracker that refuses */

static void spoil(struct snapshot_manifest *manifest, size_t which) {
    switch (which) {
    case 0:
        snprintf(manifest->info.architecture, sizeof(manifest->info.architecture), "aarch64");
        break;
    case 1:
        manifest->feature_count = 0;
        break;
    case 2:
        manifest->features[0].value[0] = '\0';
        break;
    case 3:
        manifest->memory_in_state = true;
        break;
    case 4:
        manifest->parts[SNAPSHOT_PART_MEMORY].size++;
        break;
    case MISFIT_VERSION:
        snprintf(manifest->info.backend_version, sizeof(manifest->info.backend_version), "1.8.0");
        break;
    default:
        break;
    }
}

/* Loads the bundle, spoilt so; with ops->load or what lets it run. */
static enum kelpie_status load_spoilt(struct backend_instance *instance, size_t which, bool run,
                                      struct kelpie_error *ret_err) {
    struct kelpie_error err = {0};
    struct snapshot_reader *reader = NULL;
    const struct host_wait wait = host_wait_ms(host, WAIT_MS, HOST_FD_NONE);
    OK(snapshot_reader_open(host, BUNDLE, &reader, &err));
    spoil((struct snapshot_manifest *)(uintptr_t)snapshot_reader_manifest(reader), which);
    enum kelpie_status status = run ? ops->load_running(instance, reader, &wait, ret_err)
                                    : ops->load(instance, reader, &wait, ret_err);
    snapshot_reader_close(reader);
    return status;
}

static void save_plain(const struct kelpie_network *network) {
    struct kelpie_error err = {0};
    struct kelpie_config config = config_make();
    config.network = network;
    struct kelpie_vm *vm = boot(&config);
    OK(kelpie_vm_snapshot(vm, BUNDLE, NULL, NULL, &err));
    kelpie_vm_destroy(vm);
}

static void bundles_that_do_not_fit(void) {
    struct kelpie_error err = {0};
    struct backend_instance *instance = NULL;
    const struct kelpie_config config = config_make();
    save_plain(NULL);
    OK(make(&config, true, &instance, &err));
    for (size_t i = 0; i < ARRAY_SIZE(misfits); i++) {
        world->faults.ppm[SIM_FAULT_PEER_REFUSES] = i >= MISFIT_VERSION ? SIM_PPM : 0;
        FAILS(load_spoilt(instance, i, i % 2 == 0, &err), misfits[i].status);
        assert_string_equal(err.field, misfits[i].field);
        assert_int_equal(ops->process_id(instance), 0);
        assert_int_equal(load_spoilt(instance, i, i % 2 == 1, NULL), misfits[i].status);
        err = (struct kelpie_error){0};
    }
    world->faults.ppm[SIM_FAULT_PEER_REFUSES] = 0;
    OK(load_spoilt(instance, ARRAY_SIZE(misfits), true, &err));
    ops->destroy(instance);
}

static void test_a_bundle_that_does_not_fit_is_refused(void **state) {
    (void)state;
    run_world(1, bundles_that_do_not_fit);
}

/* One that cannot be told another tap at a load needs the one of the bundle; and is told nothing of the clock. */
static void an_older_version(void) {
    struct kelpie_error err = {0};
    struct backend_instance *instance = NULL;
    struct kelpie_network network = {
        .kind = KELPIE_NETWORK_TAP, .tap = SIM_TAP_NAME, .mac = "02:00:00:00:00:07"};
    struct kelpie_config config = config_make();
    save_plain(&network);
    config.network = &network;
    OK(make(&config, true, &instance, &err));
    OK(load_spoilt(instance, ARRAY_SIZE(misfits), false, &err));
    ops->destroy(instance);
    OK(make(&config, true, &instance, &err));
    instance->probe.minor = FIRECRACKER_MINOR_MIN;
    network.tap = "tap9";
    FAILS(load_spoilt(instance, ARRAY_SIZE(misfits), false, &err), KELPIE_SNAPSHOT_INCOMPATIBLE);
    assert_string_equal(err.field, "tap");
    network.tap = SIM_TAP_NAME;
    OK(load_spoilt(instance, ARRAY_SIZE(misfits), false, &err));
    ops->destroy(instance);
}

static void test_an_older_version_is_asked_for_less(void **state) {
    (void)state;
    run_world(1, an_older_version);
}

/* The bundle's state as of a machine whose KVM did not know the real time of its clock. */
static void forget_the_clock(void) {
    struct kelpie_error err = {0};
    struct firecracker_saved saved = {0};
    OK(firecracker_state_read(host, BUNDLE "/state", &saved, &err));
    assert_int_equal(json_object_set_new(saved.config, FIRECRACKER_CLOCK_MEMBER, json_false()), 0);
    OK(firecracker_state_write(host, BUNDLE "/state", &saved, &err));
    json_decref(saved.config);
}

static void a_clock_without_real_time(void) {
    struct kelpie_error err = {0};
    struct backend_instance *instance = NULL;
    struct snapshot_reader *reader = NULL;
    const struct host_wait wait = host_wait_ms(host, WAIT_MS, HOST_FD_NONE);
    const struct kelpie_config config = config_make();
    save_plain(NULL);
    OK(snapshot_reader_open(host, BUNDLE, &reader, &err));
    forget_the_clock(); /* whose checksum is then another */
    ((struct snapshot_manifest *)(uintptr_t)snapshot_reader_manifest(reader))
        ->parts[SNAPSHOT_PART_STATE]
        .present = false;
    OK(make(&config, true, &instance, &err));
    OK(ops->load(instance, reader, &wait, &err));
    assert_true(ops->process_id(instance) > 0);
    ops->destroy(instance);
    snapshot_reader_close(reader);
}

/* Hazard C2: the guest's agent sets the clock then, as with every version that has no clock_realtime. */
static void hazard_c2_a_state_without_real_time_is_loaded(void **state) {
    (void)state;
    run_world(1, a_clock_without_real_time);
}

/* Only one that has a balloon can be told about it. */
static enum kelpie_status ask_balloon(unsigned minor) {
    struct kelpie_error err = {0};
    struct backend_instance *instance = NULL;
    const struct kelpie_config config = config_make();
    const struct host_wait wait = host_wait_ms(host, WAIT_MS, HOST_FD_NONE);
    OK(make(&config, false, &instance, &err));
    instance->probe.minor = minor;
    OK(ops->start(instance, &wait, &err));
    enum kelpie_status status = firecracker_ask(instance, "PATCH", "/balloon",
                                                json_pack("{s:i}", "amount_mib", 1), &wait, &err);
    ops->destroy(instance);
    return status;
}

static void free_memory_is_reported(void) {
    save_plain(NULL);
    json_t *config = saved_config();
    const json_t *balloon = json_object_get(config, "balloon");
    assert_true(json_is_true(json_object_get(balloon, "free_page_reporting")));
    assert_int_equal(json_integer_value(json_object_get(balloon, "amount_mib")), 0);
    json_decref(config);
    assert_int_equal(ask_balloon(FIRECRACKER_MINOR_REPORTING), KELPIE_OK);
    assert_int_equal(ask_balloon(FIRECRACKER_MINOR_REPORTING - 1), KELPIE_INTERNAL);
}

static void test_free_memory_is_reported_where_that_is_known(void **state) {
    (void)state;
    run_world(1, free_memory_is_reported);
}

/* ---- A guest that lets go --------------------------------------------------------------------- */

/* Firecracker cannot reach us any more. */
static void remove_sockets(void) {
    static struct host_dir_entry entries[16];
    struct kelpie_error err = {0};
    size_t count = 0;
    OK(host_dir_list(host, RUNTIME_FOLDER, entries, ARRAY_SIZE(entries), &count, &err));
    for (size_t i = 0; i < count; i++) {
        char path[400];
        snprintf(path, sizeof(path), RUNTIME_FOLDER "%.100s/v_%u", entries[i].name,
                 (unsigned)PROTOCOL_VSOCK_PORT);
        (void)!host_path_unlink(host, path, NULL);
    }
}

static uint32_t reset_number;
static uint32_t lost_count;

/* The nth chance to break a stream of Firecracker's is taken. Where it was that of the guest, the machine has no use any more: it
 * is ended, and why is told. */
static void guest_lets_go(void) {
    struct kelpie_error err = {0};
    struct sim_faults *faults = &world->faults;
    const struct kelpie_config config = config_make();
    struct kelpie_vm *vm = boot(&config);
    OK(sh(vm, "echo on", "on\n", &err));
    remove_sockets();
    for (struct sim_process *at = world->processes; at; at = at->next) {
        at->immune = strcmp(at->program, "firecracker") != 0;
    }
    static struct sim_fault_event event;
    event =
        (struct sim_fault_event){.fault = SIM_FAULT_STREAM_RESET,
                                 .number = faults->asked[SIM_FAULT_STREAM_RESET] + reset_number};
    sim_faults_allow(faults, &event, 1);
    faults->ppm[SIM_FAULT_STREAM_RESET] = SIM_PPM;
    enum kelpie_status status = sh(vm, "sleep 1; echo alive", "alive\n", &err);
    faults->ppm[SIM_FAULT_STREAM_RESET] = 0;
    if (status != KELPIE_OK && strstr(err.message, "the guest let go of its channel")) {
        assert_int_equal(status, KELPIE_CRASHED);
        assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_CRASHED);
        lost_count++;
    }
    kelpie_vm_destroy(vm);
}

static void test_a_guest_that_lets_go_is_ended(void **state) {
    (void)state;
    lost_count = 0;
    for (reset_number = 0; reset_number < RESET_COUNT; reset_number++) {
        run_world(1, guest_lets_go);
    }
    print_message("%u of %u\n", lost_count, (unsigned)RESET_COUNT);
    assert_true(lost_count > 0);
}

/* A channel whose process is not known yet ends in the same way. */
static void lost_early(void) {
    struct kelpie_error err = {0};
    struct firecracker_link *link = NULL;
    const struct host_wait wait = host_wait_ms(host, WAIT_MS, HOST_FD_NONE);
    int channel_fd = HOST_FD_NONE;
    int guest_fd = HOST_FD_NONE;
    char byte = 0;
    size_t count = 0;
    OK(firecracker_link_open(host, RUNTIME_FOLDER "v", &link, &channel_fd, &err));
    OK(host_socket_connect(host, RUNTIME_FOLDER "v", &wait, &guest_fd, &err));
    OK(host_write_all(host, guest_fd, "x", 1, &wait, &err));
    OK(host_read(host, channel_fd, &byte, 1, &wait, &count, &err));
    host_close(host, guest_fd);
    const uint64_t before_ns = host_monotonic_ns(host);
    OK(host_read(host, channel_fd, &byte, 1, &wait, &count, &err));
    assert_int_equal(count, 0);
    assert_true(host_monotonic_ns(host) - before_ns >= FIRECRACKER_LOST_MS * HOST_NS_PER_MS);
    firecracker_link_close(link);
    host_close(host, channel_fd);
}

static void test_a_channel_of_no_process_ends_too(void **state) {
    (void)state;
    run_world(1, lost_early);
}

/* ---- Probes ----------------------------------------------------------------------------------- */

/* Both have waited for it as long as they wait for a version, and say the same. */
static void program_that_hangs(void) {
    struct kelpie_error err = {0};
    struct kelpie_probe probe = {0};
    struct backend_instance *instance = NULL;
    const struct kelpie_config config = config_make();
    world->faults.ppm[SIM_FAULT_PEER_SILENT] = SIM_PPM;
    OK(kelpie_backend_probe_on(host, "firecracker", &probe, &err));
    assert_false(probe.usable);
    assert_non_null(strstr(probe.install, "KELPIE_FIRECRACKER"));
    const uint64_t before_ns = host_monotonic_ns(host);
    FAILS(make(&config, false, &instance, &err), KELPIE_BACKEND_MISSING);
    assert_true(host_monotonic_ns(host) - before_ns >=
                FIRECRACKER_VERSION_TIMEOUT_MS * HOST_NS_PER_MS);
    assert_string_equal(probe.reason, err.message);
    assert_non_null(strstr(err.message, "cannot run"));
    world->faults.ppm[SIM_FAULT_PEER_SILENT] = 0;
    OK(make(&config, false, &instance, &err));
    ops->destroy(instance);
}

static void test_a_program_that_hangs_is_as_good_as_missing(void **state) {
    (void)state;
    run_world(1, program_that_hangs);
}

static uint32_t slow_count;

static void kvm_that_interprets(void) {
    struct kelpie_error err = {0};
    struct kelpie_probe probe = {0};
    OK(kelpie_backend_probe_on(host, "firecracker", &probe, &err));
    assert_true(probe.usable);
    world->faults.ppm[SIM_FAULT_KVM_PROBE_FAILS] = SIM_PPM;
    OK(kelpie_backend_probe_on(host, "firecracker", &probe, &err));
    assert_false(probe.usable);
    assert_string_equal(probe.version, "1.17.0");
    bool slow = strstr(probe.reason, "interprets kernel-mode code") != NULL;
    assert_true(slow || strstr(probe.reason, "but not KVM"));
    assert_true(!slow || probe.ring0_ns >= HOST_KVM_NATIVE_NS_MAX);
    slow_count += slow;
    world->faults.ppm[SIM_FAULT_KVM_PROBE_FAILS] = 0;
}

static void test_a_kvm_that_interprets_is_of_no_use(void **state) {
    (void)state;
    slow_count = 0;
    for (uint64_t seed = 1; seed <= 16; seed++) {
        run_world(seed, kvm_that_interprets);
    }
    assert_true(slow_count > 0 && slow_count < 16);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hazard_a15_firecracker_enforces_read_only),
        cmocka_unit_test(hazard_c7_restored_machines_share_nothing),
        cmocka_unit_test(test_a_guest_is_connected_to_a_tap),
        cmocka_unit_test(test_what_it_cannot_boot_is_told),
        cmocka_unit_test(test_an_instance_for_a_bundle_looks_later),
        cmocka_unit_test(test_a_bundle_that_does_not_fit_is_refused),
        cmocka_unit_test(test_an_older_version_is_asked_for_less),
        cmocka_unit_test(hazard_c2_a_state_without_real_time_is_loaded),
        cmocka_unit_test(test_free_memory_is_reported_where_that_is_known),
        cmocka_unit_test(test_a_guest_that_lets_go_is_ended),
        cmocka_unit_test(test_a_channel_of_no_process_ends_too),
        cmocka_unit_test(test_a_program_that_hangs_is_as_good_as_missing),
        cmocka_unit_test(test_a_kvm_that_interprets_is_of_no_use),
    };
    return cmocka_run_group_tests_name("sim/peer/firecracker_odd", tests, NULL, NULL);
}
