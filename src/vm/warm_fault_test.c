/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Warm starts on a host whose calls fail; what is in a template's key, and which VMs are never warm. */
#include "vm/warm_harness_test.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "support/fault_host.h"

#define UNLUCKY_COUNT_MAX                                                                          \
    5 /* starts in which nothing failed, and which a busy machine made too slow */
#define FAULTY_START_MS 200 /* a start with a fault may wait for what never comes */

/* Starts and destroys one, which then has made its template, if it makes one. Whether it was restored from one. */
static bool run_one(const struct kelpie_config *config) {
    struct kelpie_vm *vm = vm_make(config);
    vm_start(vm);
    bool warm = was_warm(vm);
    kelpie_vm_destroy(vm);
    return warm;
}

/* On a host where no file can be written any more from the nth write on, the VM starts. */
static void a_full_disk_costs_the_template_only(void **state) {
    (void)state;
    struct host *real = NULL;
    struct host *faulty = NULL;
    char text[256];
    forget_templates();
    assert_int_equal(host_linux_create(&real, NULL), KELPIE_OK);
    assert_int_equal(fault_host_create(real, &faulty, NULL), KELPIE_OK);
    uint64_t nth = 1;
    for (const char *fired = ""; fired; nth++) {
        struct kelpie_config config = config_of("full");
        config.host = faulty;
        const struct fault_plan plan = {
            .nth = nth, .sticky = true, .only = "file_write_at", .os_error = ENOSPC};
        forget_templates();
        fault_host_arm(faulty, &plan);
        assert_false(run_one(&config));
        fired = fault_host_fired(faulty);
        fault_host_disarm(faulty);
        size_t count = templates(NULL); /* a write may be of what is noted beside it */
        assert_true(fired ? count <= 1 : count == 1);
        assert_int_equal(run_one(&config), count == 1); /* what is there is whole */
        assert_int_equal(fault_host_leaks(faulty, text, sizeof(text)), 0);
    }
    assert_true(nth > 2);
    host_destroy(faulty);
    host_destroy(real);
}

/* The nth call of the host fails, in a start that makes a template and in one that uses it: the VM starts or says why not, no
 * half of a template is left, and nothing stays open. */
static void sweep_starts(bool with_template, enum kelpie_status failure) {
    struct host *real = NULL;
    struct host *faulty = NULL;
    char text[256];
    assert_int_equal(host_linux_create(&real, NULL), KELPIE_OK);
    assert_int_equal(fault_host_create(real, &faulty, NULL), KELPIE_OK);
    const struct kelpie_config patient = config_of("sweep");
    struct kelpie_config config = patient;
    config.boot_timeout_ms = FAULTY_START_MS;
    config.operation_timeout_ms = FAULTY_START_MS;
    config.stop_timeout_ms = FAULTY_START_MS;
    const uint64_t step = failure == KELPIE_OK ? 1 : 4;
    uint64_t nth = 1;
    uint32_t unlucky_count = 0;
    forget_templates();
    for (const char *fired = ""; fired; nth += step) {
        struct kelpie_vm *vm = NULL;
        struct kelpie_error err = {0};
        if (with_template) {
            (void)run_one(&patient);
        } else {
            forget_templates();
        }
        config.host = faulty;
        fault_host_arm(faulty, &(struct fault_plan){.nth = nth, .status = failure});
        enum kelpie_status status = kelpie_vm_create(&config, &vm, &err);
        status = status == KELPIE_OK ? kelpie_vm_start(vm, &err) : status;
        kelpie_vm_destroy(vm);
        fired = fault_host_fired(faulty);
        fault_host_disarm(faulty);
        if (status != KELPIE_OK && !fired && unlucky_count++ < UNLUCKY_COUNT_MAX) {
            fired = "";
            nth -= step;
            continue;
        }
        assert_true(status == KELPIE_OK || (fired && err.message[0] != '\0'));
        if (fault_host_leaks(faulty, text, sizeof(text)) != 0) {
            fail_msg("call %u (%s): %s", (unsigned)nth, fired ? fired : "none", text);
        }
        assert_true(templates(NULL) <= 1);
        (void)run_one(&patient); /* whatever is there */
    }
    assert_true(nth > 50);
    host_destroy(faulty);
    host_destroy(real);
}

static void any_call_may_fail_in_a_start_that_makes_a_template(void **state) {
    (void)state;
    sweep_starts(false, KELPIE_OK);
}

static void any_call_may_fail_in_a_start_that_uses_one(void **state) {
    (void)state;
    sweep_starts(true, KELPIE_OK);
    sweep_starts(true, KELPIE_NO_SPACE);
}

/* ---- Keys ------------------------------------------------------------------------------------- */

struct machine {
    struct backend_ops ops;
    struct kelpie_config config;
    struct kelpie_vm vm;
    struct snapshot_manifest manifest;
};

static void machine_key(struct machine *machine, char key[WARM_KEY_SIZE]) {
    struct kelpie_error err = {0};
    machine->vm.ops = &machine->ops;
    machine->vm.config = &machine->config;
    machine->vm.machine = machine->config;
    if (vm_warm_digest(&machine->vm, &machine->manifest, key, &err) != KELPIE_OK) {
        fail_msg("%s", err.message);
    }
}

#define CHANGED(expression)                                                                        \
    do {                                                                                           \
        struct machine other = *machine;                                                           \
        char other_key[WARM_KEY_SIZE];                                                             \
        struct machine *m = &other;                                                                \
        expression;                                                                                \
        machine_key(m, other_key);                                                                 \
        if (strcmp(key, other_key) == 0) {                                                         \
            fail_msg("the same key with %s", #expression);                                         \
        }                                                                                          \
    } while (0)

#define THE_SAME(expression)                                                                       \
    do {                                                                                           \
        struct machine other = *machine;                                                           \
        char other_key[WARM_KEY_SIZE];                                                             \
        struct machine *m = &other;                                                                \
        expression;                                                                                \
        machine_key(m, other_key);                                                                 \
        assert_string_equal(key, other_key);                                                       \
    } while (0)

static void set_feature(struct machine *machine, const char *name, const char *value) {
    for (size_t i = 0; i < machine->manifest.feature_count; i++) {
        struct snapshot_feature *feature = &machine->manifest.features[i];
        if (strcmp(feature->name, name) == 0) {
            snprintf(feature->value, sizeof(feature->value), "%s", value);
            return;
        }
    }
    assert_int_equal(snapshot_manifest_add_feature(&machine->manifest, name, value, NULL),
                     KELPIE_OK);
}

static struct machine *machine_make(struct host *host) {
    struct machine *machine = calloc(1, sizeof(*machine));
    assert_non_null(machine);
    machine->ops.name = "qemu";
    machine->vm.host = host;
    machine->config = (struct kelpie_config){
        .vcpu_count = 1, .memory_mib = 256, .kernel_args = "", .image_disk_mib = 8192};
    snprintf(machine->vm.image_digest, sizeof(machine->vm.image_digest), "sha256:1234");
    struct snapshot_manifest *manifest = &machine->manifest;
    snprintf(manifest->info.backend_version, sizeof(manifest->info.backend_version), "7.2");
    snprintf(manifest->info.architecture, sizeof(manifest->info.architecture), "x86_64");
    snprintf(manifest->kernel_digest, sizeof(manifest->kernel_digest), "%064d", 1);
    snprintf(manifest->initramfs_digest, sizeof(manifest->initramfs_digest), "%064d", 2);
    set_feature(machine, "cpu", "max");
    set_feature(machine, "accelerator", "tcg");
    set_feature(machine, "tsc_khz", "1000");
    return machine;
}

static void each_part_of_a_machine_is_in_its_key(void **state) {
    (void)state;
    struct host *host = NULL;
    char key[WARM_KEY_SIZE];
    char disk_path[2][PATH_SIZE];
    const struct kelpie_network network = {.kind = KELPIE_NETWORK_USER};
    const struct kelpie_share share = {.path = "/tmp", .mount = "/mnt", .copy = true};
    assert_int_equal(host_linux_create(&host, NULL), KELPIE_OK);
    for (size_t i = 0; i < 2; i++) {
        snprintf(disk_path[i], PATH_SIZE, "%s/disk-%zu", folder, i);
        int fd = open(disk_path[i], O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0600);
        assert_int_equal(ftruncate(fd, 512), 0);
        close(fd);
    }
    const struct kelpie_disk disks[] = {{.path = disk_path[0], .read_only = true},
                                        {.path = disk_path[1], .read_only = true},
                                        {.path = disk_path[0], .mount = "/m", .read_only = true}};
    struct machine *machine = machine_make(host);
    machine_key(machine, key);
    CHANGED(m->ops.name = "kvm");
    CHANGED(m->manifest.info.backend_version[0] = '8');
    CHANGED(m->manifest.info.architecture[0] = 'y');
    CHANGED(m->manifest.kernel_digest[0] = 'a');
    CHANGED(m->manifest.initramfs_digest[0] = 'a');
    CHANGED(set_feature(m, "cpu", "host"));
    CHANGED(set_feature(m, "accelerator", "kvm"));
    CHANGED(set_feature(m, "new", "one"));
    CHANGED(m->config.vcpu_count = 2);
    CHANGED(m->config.memory_mib = 257);
    CHANGED(m->config.kernel_args = "quiet");
    CHANGED(m->config.network = &network);
    CHANGED(m->vm.image_digest[7] = '2');
    CHANGED(m->vm.image_digest[0] = '\0');
    CHANGED(m->config.image_disk_mib = 4096);
    CHANGED((m->config.disks = &disks[0], m->config.disk_count = 1));
    THE_SAME(set_feature(m, "tsc_khz", "1001")); /* a load has a tolerance for it */
    THE_SAME((m->config.shares = &share, m->config.share_count = 1));
    THE_SAME(m->config.name = "name");
    THE_SAME(m->config.hostname = "name");
    THE_SAME(m->config.working_dir = "/somewhere");
    THE_SAME(m->config.console_log = "/log");
    THE_SAME(m->config.boot_timeout_ms = 7);

    /* Of disks: which, in what order, where, and whether they were changed. */
    machine->config.disks = disks;
    machine->config.disk_count = 2;
    machine_key(machine, key);
    CHANGED(m->config.disk_count = 1);
    CHANGED(m->config.disks = &disks[1]);
    machine->config.disk_count = 1;
    machine_key(machine, key);
    CHANGED(m->config.disks = &disks[2]);
    int fd = open(disk_path[0], O_WRONLY | O_CLOEXEC);
    assert_int_equal(ftruncate(fd, 1024), 0);
    close(fd);
    CHANGED((void)m);
    free(machine);
    host_destroy(host);
}

/* A key that cannot be made is none: the VM then boots. */
static void hazard_d2_any_call_may_fail_in_making_a_key(void **state) {
    (void)state;
    struct host *real = NULL;
    struct host *faulty = NULL;
    char text[256];
    char path[PATH_SIZE];
    char key[WARM_KEY_SIZE];
    assert_int_equal(host_linux_create(&real, NULL), KELPIE_OK);
    assert_int_equal(fault_host_create(real, &faulty, NULL), KELPIE_OK);
    snprintf(path, sizeof(path), "%s/key-disk", folder);
    assert_int_equal(host_file_store(real, path, "disk", 4, 0600, NULL), KELPIE_OK);
    const struct kelpie_disk disk = {.path = path, .read_only = true};
    struct machine *machine = machine_make(faulty);
    machine->config.disks = &disk;
    machine->config.disk_count = 1;
    machine_key(machine, key);
    uint64_t nth = 1;
    for (const char *fired = ""; fired; nth++) {
        struct kelpie_error err = {0};
        char other[WARM_KEY_SIZE] = "untouched";
        fault_host_arm(faulty, &(struct fault_plan){.nth = nth});
        enum kelpie_status status = vm_warm_digest(&machine->vm, &machine->manifest, other, &err);
        fired = fault_host_fired(faulty);
        fault_host_disarm(faulty);
        assert_int_equal(status == KELPIE_OK, fired == NULL);
        assert_int_equal(err.status, status);
        assert_string_equal(other, fired ? "untouched" : key);
        assert_int_equal(fault_host_leaks(faulty, text, sizeof(text)), 0);
    }
    assert_true(nth > 4);
    /* No such file, as on another system than Linux: a key all the same, and another. */
    char other[WARM_KEY_SIZE];
    fault_host_arm(faulty,
                   &(struct fault_plan){.nth = 1, .only = "file_open", .status = KELPIE_NOT_FOUND});
    machine_key(machine, other);
    fault_host_disarm(faulty);
    assert_string_not_equal(key, other);
    free(machine);
    host_destroy(faulty);
    host_destroy(real);
}

static enum kelpie_status identify_badly(struct backend_instance *instance,
                                         struct snapshot_manifest *manifest,
                                         struct kelpie_error *err) {
    assert_non_null(instance);
    assert_non_null(manifest);
    return error_set(err, KELPIE_BACKEND_MISSING, "the program is gone");
}

static void a_key_needs_the_backend_and_an_end(void **state) {
    (void)state;
    struct host *host = NULL;
    struct kelpie_error err = {0};
    char key[WARM_KEY_SIZE];
    assert_int_equal(host_linux_create(&host, NULL), KELPIE_OK);
    struct machine *machine = machine_make(host);
    machine_key(machine, key);
    machine->vm.instance = (struct backend_instance *)machine;         /* nobody looks into it */
    assert_int_equal(vm_warm_key(&machine->vm, key, &err), KELPIE_OK); /* it says nothing */
    machine->ops.identify = identify_badly;
    assert_int_equal(vm_warm_key(&machine->vm, key, &err), KELPIE_BACKEND_MISSING);
    char *arguments = malloc(VM_WARM_TEXT_SIZE_MAX + 1);
    assert_non_null(arguments);
    memset(arguments, 'x', VM_WARM_TEXT_SIZE_MAX);
    arguments[VM_WARM_TEXT_SIZE_MAX] = '\0';
    machine->vm.machine.kernel_args = arguments;
    assert_int_equal(vm_warm_digest(&machine->vm, &machine->manifest, key, &err), KELPIE_INTERNAL);
    free(arguments);
    free(machine);
    host_destroy(host);
}

/* A mock that plays another architecture is another machine; what it would play is nothing to other backends. */
static void a_mocks_part_is_the_mocks(void **state) {
    (void)state;
    struct host *host = NULL;
    char key[WARM_KEY_SIZE];
    const struct kelpie_mock_config silent = {.fail_boot = true};
    const struct kelpie_mock_config s390x = {.architecture = "s390x"};
    assert_int_equal(host_linux_create(&host, NULL), KELPIE_OK);
    struct machine *machine = machine_make(host);
    machine_key(machine, key);
    THE_SAME(m->config.mock = &s390x);
    machine->ops.name = "mock";
    machine->config.mock = &silent;
    machine_key(machine, key);
    CHANGED(m->config.mock = &s390x);
    free(machine);
    host_destroy(host);
}

/* ---- What is never warm ----------------------------------------------------------------------- */

/* The config that a VM has is the mock's, which takes no disks: they are put in afterwards, by possible(). */
static bool possible_with(const struct kelpie_disk *disk, const struct kelpie_network *network) {
    struct kelpie_vm *vm = NULL;
    const struct kelpie_config config = config_of("possible");
    assert_int_equal(kelpie_vm_create(&config, &vm, NULL), KELPIE_OK);
    struct kelpie_config all = *vm->config;
    const struct kelpie_config *own = vm->config;
    all.disks = disk;
    all.disk_count = disk ? 1 : 0;
    all.network = network;
    vm->config = &all;
    bool is = vm_warm_is_possible(vm);
    vm->config = own;
    kelpie_vm_destroy(vm);
    return is;
}

static void hazard_c7_what_others_may_write_is_never_warm(void **state) {
    (void)state;
    char path[PATH_SIZE];
    snprintf(path, sizeof(path), "%s/a-disk", folder);
    int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    assert_int_equal(ftruncate(fd, 512), 0);
    close(fd);
    const struct kelpie_disk writable = {.path = path};
    const struct kelpie_disk read_only = {.path = path, .read_only = true};
    const struct kelpie_disk of_a_folder = {.path = folder, .read_only = true};
    const struct kelpie_network tap = {.kind = KELPIE_NETWORK_TAP, .tap = "tap0"};
    const struct kelpie_network user = {.kind = KELPIE_NETWORK_USER};
    assert_true(possible_with(NULL, NULL));
    assert_false(possible_with(&writable, NULL));
    assert_true(possible_with(&read_only, NULL));
    assert_false(possible_with(&of_a_folder, NULL));
    assert_false(possible_with(NULL, &tap));
    assert_true(possible_with(NULL, &user));
}

static bool yes(struct backend_instance *instance) {
    (void)instance;
    return true;
}

static bool no(struct backend_instance *instance) {
    (void)instance;
    return false;
}

static void what_the_machine_has_of_its_own_is_never_warm(void **state) {
    (void)state;
    struct kelpie_vm *vm = NULL;
    const struct kelpie_share copied = {.path = "/tmp", .mount = "/mnt", .copy = true};
    const struct kelpie_share live = {.path = "/tmp", .mount = "/mnt", .live = true};
    const struct kelpie_disk gone = {.path = "/nowhere/at/all", .read_only = true};
    const struct kelpie_config config = config_of("possible");
    assert_int_equal(kelpie_vm_create(&config, &vm, NULL), KELPIE_OK);
    const struct kelpie_config *own = vm->config;
    const struct backend_ops *own_ops = vm->ops;
    struct kelpie_config all = *vm->config;
    struct backend_ops ops = *vm->ops;
    vm->config = &all;
    vm->ops = &ops;
    assert_true(vm_warm_is_possible(vm));
    ops.has_disks = no;
    assert_true(vm_warm_is_possible(vm));
    ops.has_disks = yes; /* a second start goes on with what the first has written */
    assert_false(vm_warm_is_possible(vm));
    ops.has_disks = NULL;
    all.shares = &copied;
    all.share_count = 1;
    assert_true(vm_warm_is_possible(vm));
    all.shares = &live;
    assert_false(vm_warm_is_possible(vm));
    all.share_count = 0;
    all.disks = &gone;
    all.disk_count = 1;
    assert_false(vm_warm_is_possible(vm));
    all.disk_count = 0;
    ops.capabilities &= ~(uint32_t)KELPIE_CAN_SUSPEND_SNAPSHOT;
    assert_false(vm_warm_is_possible(vm));
    vm->config = own;
    vm->ops = own_ops;
    kelpie_vm_destroy(vm);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_full_disk_costs_the_template_only),
        cmocka_unit_test(any_call_may_fail_in_a_start_that_makes_a_template),
        cmocka_unit_test(any_call_may_fail_in_a_start_that_uses_one),
        cmocka_unit_test(each_part_of_a_machine_is_in_its_key),
        cmocka_unit_test(hazard_d2_any_call_may_fail_in_making_a_key),
        cmocka_unit_test(a_key_needs_the_backend_and_an_end),
        cmocka_unit_test(a_mocks_part_is_the_mocks),
        cmocka_unit_test(what_the_machine_has_of_its_own_is_never_warm),
        cmocka_unit_test(hazard_c7_what_others_may_write_is_never_warm),
    };
    return cmocka_run_group_tests_name("vm warm faults", tests, setup, teardown);
}
