/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Warm starts, on the mock: what is in a template and what is not, which machine gets which, and that nothing that is
 * wrong with one keeps a VM from starting. */
#include "vm/warm.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/assert.h"
#include "support/fault_host.h"

#define PATH_SIZE 512
#define MEMORY_MIB 64
#define SWEEP_STRIDE 3 /* of the calls that fail */

static char folder[64];
static char shelf[PATH_SIZE];

static int setup(void **state) {
    (void)state;
    snprintf(folder, sizeof(folder), "/tmp/kelpie-warm-XXXXXX");
    if (!mkdtemp(folder)) {
        return -1;
    }
    snprintf(shelf, sizeof(shelf), "%s/kelpie/templates", folder);
    return setenv("XDG_STATE_HOME", folder, 1) | setenv("XDG_DATA_HOME", folder, 1) |
           setenv("XDG_RUNTIME_DIR", folder, 1) | setenv("XDG_CACHE_HOME", folder, 1);
}

static int teardown(void **state) {
    (void)state;
    char command[PATH_SIZE];
    snprintf(command, sizeof(command), "rm -rf %s", folder);
    return system(command);
}

/* Templates that are whole; and, if wanted, where the first is. */
static size_t templates(char *ret_path) {
    size_t count = 0;
    DIR *entries = opendir(shelf);
    for (struct dirent *entry = entries ? readdir(entries) : NULL; entry;
         entry = readdir(entries)) {
        if (entry->d_name[0] == '.' || strchr(entry->d_name, '.')) {
            continue; /* in the making, or the store's own */
        }
        if (ret_path) {
            snprintf(ret_path, PATH_SIZE, "%.200s/%.200s", shelf, entry->d_name);
        }
        count++;
    }
    if (entries) {
        closedir(entries);
    }
    return count;
}

static void forget_templates(void) {
    char command[2 * PATH_SIZE];
    snprintf(command, sizeof(command), "rm -rf %s", shelf);
    assert_int_equal(system(command), 0);
}

static struct kelpie_vm *vm_make(const struct kelpie_config *config) {
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = NULL;
    if (kelpie_vm_create(config, &vm, &err) != KELPIE_OK) {
        fail_msg("%s", err.message);
    }
    return vm;
}

static struct kelpie_config config_of(const char *name) {
    return (struct kelpie_config){
        .backend = "mock", .name = name, .memory_mib = MEMORY_MIB, .warm = true};
}

static void vm_start(struct kelpie_vm *vm) {
    struct kelpie_error err = {0};
    if (kelpie_vm_start(vm, &err) != KELPIE_OK) {
        fail_msg("%s", err.message);
    }
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_RUNNING);
}

static bool was_warm(struct kelpie_vm *vm) {
    struct kelpie_restore_report report;
    return kelpie_vm_restore_report(vm, &report, NULL) == KELPIE_OK;
}

static void output_of(struct kelpie_vm *vm, const char *command, char text[PATH_SIZE]) {
    struct kelpie_error err = {0};
    struct kelpie_output output = {0};
    const char *argv[] = {"sh", "-c", command, NULL};
    const struct kelpie_command shell = {.argv = argv, .working_dir = "/"};
    if (kelpie_vm_exec(vm, &shell, &output, &err) != KELPIE_OK) {
        fail_msg("%s", err.message);
    }
    snprintf(text, PATH_SIZE, "%.*s", (int)output.stdout_size, (const char *)output.stdout_data);
    kelpie_output_free(&output);
}

static void expect(struct kelpie_vm *vm, const char *command, const char *wanted) {
    char text[PATH_SIZE];
    output_of(vm, command, text);
    assert_string_equal(text, wanted);
}

/* Starts and destroys one, which then has made its template, if it makes one. Whether it was restored from one. */
static bool run_one(const struct kelpie_config *config) {
    struct kelpie_vm *vm = vm_make(config);
    vm_start(vm);
    expect(vm, "echo works", "works\n");
    bool warm = was_warm(vm);
    kelpie_vm_destroy(vm);
    return warm;
}

static void the_second_start_is_warm(void **state) {
    (void)state;
    struct kelpie_config config = config_of("first");
    forget_templates();
    assert_false(run_one(&config));
    assert_int_equal(templates(NULL), 1);
    config.name = "second";
    assert_true(run_one(&config));
    assert_true(run_one(&config));
    assert_int_equal(templates(NULL), 1);
    config.warm = false;
    assert_false(run_one(&config));
}

/* The maker goes on as itself, and so does each that is restored; none of them shares anything with the template. */
static void hazard_c5_everybody_is_somebody_else(void **state) {
    (void)state;
    char ids[3][PATH_SIZE];
    static const char *const names[] = {"maker", "child-1", "child-2"};
    forget_templates();
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        char wanted[PATH_SIZE];
        struct kelpie_config config = config_of(names[i]);
        struct kelpie_vm *vm = vm_make(&config);
        vm_start(vm);
        assert_int_equal(was_warm(vm), i > 0);
        snprintf(wanted, sizeof(wanted), "%s\n", names[i]);
        expect(vm, "hostname", wanted);
        output_of(vm, "cat /etc/machine-id", ids[i]);
        kelpie_vm_destroy(vm);
        for (size_t j = 0; j < i; j++) {
            assert_string_not_equal(ids[i], ids[j]);
        }
    }
}

/* Everything in a template's folder, as one text. */
static bool template_has(const char *text) {
    char path[PATH_SIZE];
    char command[2 * PATH_SIZE];
    assert_int_equal(templates(path), 1);
    snprintf(command, sizeof(command), "grep -rqaF -- '%s' %s", text, path);
    return system(command) == 0;
}

static void what_is_the_vms_own_is_in_no_template(void **state) {
    (void)state;
    const char *env[] = {"TOKEN=swordfish-1234", NULL};
    static const char password[] = "the-secret-of-this-vm";
    const struct kelpie_secret secret = {
        .name = "password", .data = password, .size = sizeof(password) - 1};
    char path[PATH_SIZE];
    snprintf(path, sizeof(path), "%s/shared", folder);
    assert_int_equal(mkdir(path, 0755), 0);
    const struct kelpie_share share = {.path = path, .mount = "/mnt", .copy = true};
    snprintf(path, sizeof(path), "%s/shared/file", folder);
    int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
    assert_int_equal(write(fd, "what-is-shared", 14), 14);
    close(fd);
    snprintf(path, sizeof(path), "%s/shared", folder);
    struct kelpie_config config = config_of("very-private-name");
    config.hostname = "very-private-host";
    config.env = env;
    config.working_dir = "/very/private";
    config.secrets = &secret;
    config.secret_count = 1;
    config.shares = &share;
    config.share_count = 1;
    forget_templates();
    for (int warm = 0; warm < 2; warm++) {
        struct kelpie_vm *vm = vm_make(&config);
        vm_start(vm);
        assert_int_equal(was_warm(vm), warm);
        expect(vm, "echo $TOKEN; cat /run/secrets/password /mnt/file",
               "swordfish-1234\nthe-secret-of-this-vmwhat-is-shared");
        kelpie_vm_destroy(vm);
    }
    assert_true(template_has(VM_NEUTRAL_NAME));
    assert_false(template_has("swordfish"));
    assert_false(template_has("very-private"));
    assert_false(template_has("/very/private"));
    assert_false(template_has(password));
    assert_false(template_has("what-is-shared"));
}

/* A warm VM is no child of a bundle: its own snapshots have no parent. */
static void a_snapshot_of_a_warm_vm_stands_alone(void **state) {
    (void)state;
    char bundle[PATH_SIZE];
    struct kelpie_snapshot snapshot = {0};
    struct kelpie_error err = {0};
    struct kelpie_config config = config_of("parent");
    (void)run_one(&config);
    struct kelpie_vm *vm = vm_make(&config);
    vm_start(vm);
    assert_true(was_warm(vm));
    snprintf(bundle, sizeof(bundle), "%s/bundle", folder);
    assert_int_equal(kelpie_vm_snapshot(vm, bundle, NULL, &snapshot, &err), KELPIE_OK);
    assert_string_equal(snapshot.parent_id, "");
    kelpie_vm_destroy(vm);
    assert_int_equal(kelpie_snapshot_verify(bundle, &err), KELPIE_OK);
}

static void a_stopped_vm_starts_warm_again(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    struct kelpie_config config = config_of("again");
    forget_templates();
    struct kelpie_vm *vm = vm_make(&config);
    vm_start(vm);
    expect(vm, "echo kept > /tmp/x; cat /tmp/x", "kept\n");
    assert_int_equal(kelpie_vm_stop(vm, 0, &err), KELPIE_OK);
    vm_start(vm); /* waits for the template that the first start is still making */
    assert_true(was_warm(vm));
    expect(vm, "test -e /tmp/x || echo gone", "gone\n");
    kelpie_vm_destroy(vm);
}

/* Changes bytes of a template's part, from `offset` on; or cuts it. */
static void damage(const char *part, long offset, bool cut) {
    char path[PATH_SIZE];
    char file[2 * PATH_SIZE];
    assert_int_equal(templates(path), 1);
    snprintf(file, sizeof(file), "%s/bundle/%s", path, part);
    int fd = open(file, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    if (cut) {
        assert_int_equal(ftruncate(fd, offset), 0);
    } else {
        assert_int_equal(pwrite(fd, "damage!", 7, offset), 7);
    }
    close(fd);
}

/* Each is a start all the same, a boot; the template is gone, and the next one that boots makes another. */
static void hazard_b3_a_damaged_template_is_thrown_away(void **state) {
    (void)state;
    static const struct {
        const char *part;
        long offset;
        bool cut;
    } cases[] = {
        {"state", 20, false},
        {"state", 10, true},
        {"manifest.json", 0, true},
        {"manifest.json", 1, false},
    };
    struct kelpie_config config = config_of("damaged");
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        forget_templates();
        assert_false(run_one(&config));
        assert_true(run_one(&config));
        damage(cases[i].part, cases[i].offset, cases[i].cut);
        assert_false(run_one(&config));
        (void)run_one(&config); /* the one before may have made it already */
        assert_true(run_one(&config));
        assert_int_equal(templates(NULL), 1);
    }
}

/* A template's manifest with a line of another version: as one whose backend was replaced without a new key. */
static void a_template_of_another_version_is_thrown_away(void **state) {
    (void)state;
    char path[PATH_SIZE];
    char command[2 * PATH_SIZE];
    struct kelpie_config config = config_of("versions");
    forget_templates();
    assert_false(run_one(&config));
    assert_int_equal(templates(path), 1);
    snprintf(command, sizeof(command),
             "sed -i 's/\"backend_version\": *\"[^\"]*\"/\"backend_version\": \"0.0.1\"/; "
             "s/\"format_version\": *[0-9]*/\"format_version\": 999/' %s/bundle/manifest.json",
             path);
    assert_int_equal(system(command), 0);
    assert_false(run_one(&config));
    (void)run_one(&config);
    assert_true(run_one(&config));
}

static void a_restore_that_fails_is_a_boot(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    struct kelpie_config config = config_of("levers");
    forget_templates();
    assert_false(run_one(&config));
    struct kelpie_vm *vm = vm_make(&config);
    assert_int_equal(kelpie_mock_fail(vm, KELPIE_MOCK_RESTORE, 1, &err), KELPIE_OK);
    vm_start(vm);
    assert_false(was_warm(vm));
    expect(vm, "hostname", "levers\n");
    kelpie_vm_destroy(vm);
    assert_int_equal(templates(NULL), 0); /* the next start makes another */
    assert_false(run_one(&config));
    assert_true(run_one(&config));
}

static void a_snapshot_that_fails_leaves_a_start_like_any_other(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    struct kelpie_config config = config_of("no-snapshot");
    forget_templates();
    struct kelpie_vm *vm = vm_make(&config);
    assert_int_equal(kelpie_mock_fail(vm, KELPIE_MOCK_SNAPSHOT, 1, &err), KELPIE_OK);
    vm_start(vm);
    expect(vm, "hostname", "no-snapshot\n");
    kelpie_vm_destroy(vm);
    assert_int_equal(templates(NULL), 0);
}

/* A failed boot is a failed start, and leaves nothing that another would take for a template. */
static void a_boot_that_fails_is_a_start_that_fails(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    const struct kelpie_mock_config mock = {.fail_boot = true};
    struct kelpie_config config = config_of("no-boot");
    config.mock = &mock;
    forget_templates();
    struct kelpie_vm *vm = vm_make(&config);
    assert_int_equal(kelpie_vm_start(vm, &err), KELPIE_BOOT_FAILED);
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_CREATED);
    vm_start(vm); /* only the first one failed */
    expect(vm, "hostname", "no-boot\n");
    kelpie_vm_destroy(vm);
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
static void any_call_may_fail(void **state) {
    (void)state;
    struct host *real = NULL;
    struct host *faulty = NULL;
    char text[256];
    assert_int_equal(host_linux_create(&real, NULL), KELPIE_OK);
    assert_int_equal(fault_host_create(real, &faulty, NULL), KELPIE_OK);
    for (int with_template = 0; with_template < 2; with_template++) {
        struct kelpie_config config = config_of("sweep");
        uint64_t nth = 1;
        forget_templates();
        for (const char *fired = ""; fired; nth += SWEEP_STRIDE) {
            struct kelpie_vm *vm = NULL;
            struct kelpie_error err = {0};
            if (with_template) {
                config.host = NULL;
                (void)run_one(&config);
            } else {
                forget_templates();
            }
            config.host = faulty;
            fault_host_arm(faulty, &(struct fault_plan){.nth = nth});
            enum kelpie_status status = kelpie_vm_create(&config, &vm, &err);
            status = status == KELPIE_OK ? kelpie_vm_start(vm, &err) : status;
            kelpie_vm_destroy(vm);
            fired = fault_host_fired(faulty);
            fault_host_disarm(faulty);
            assert_true(status == KELPIE_OK || (fired && err.message[0] != '\0'));
            if (fault_host_leaks(faulty, text, sizeof(text)) != 0) {
                fail_msg("call %u (%s): %s", (unsigned)nth, fired ? fired : "none", text);
            }
            assert_true(templates(NULL) <= 1);
            config.host = NULL;
            (void)run_one(&config); /* whatever is there */
        }
        assert_true(nth > 50);
    }
    host_destroy(faulty);
    host_destroy(real);
}

/* Several processes at once, with no template and then with one: all of them run. */
static void many_at_once(void **state) {
    (void)state;
    enum { COUNT = 4 };
    pid_t children[COUNT];
    forget_templates();
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < COUNT; i++) {
            children[i] = fork();
            assert_true(children[i] >= 0);
            if (children[i] == 0) {
                struct kelpie_error err = {0};
                struct kelpie_vm *vm = NULL;
                struct kelpie_config config = config_of("one-of-many");
                bool good = kelpie_vm_create(&config, &vm, &err) == KELPIE_OK &&
                            kelpie_vm_start(vm, &err) == KELPIE_OK && (round == 0 || was_warm(vm));
                kelpie_vm_destroy(vm);
                _exit(good ? 0 : 1);
            }
        }
        for (size_t i = 0; i < COUNT; i++) {
            int status = 1;
            assert_int_equal(waitpid(children[i], &status, 0), children[i]);
            assert_int_equal(status, 0);
        }
        assert_int_equal(templates(NULL), 1);
    }
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_second_start_is_warm),
        cmocka_unit_test(hazard_c5_everybody_is_somebody_else),
        cmocka_unit_test(what_is_the_vms_own_is_in_no_template),
        cmocka_unit_test(a_snapshot_of_a_warm_vm_stands_alone),
        cmocka_unit_test(a_stopped_vm_starts_warm_again),
        cmocka_unit_test(hazard_b3_a_damaged_template_is_thrown_away),
        cmocka_unit_test(a_template_of_another_version_is_thrown_away),
        cmocka_unit_test(a_restore_that_fails_is_a_boot),
        cmocka_unit_test(a_snapshot_that_fails_leaves_a_start_like_any_other),
        cmocka_unit_test(a_boot_that_fails_is_a_start_that_fails),
        cmocka_unit_test(a_full_disk_costs_the_template_only),
        cmocka_unit_test(any_call_may_fail),
        cmocka_unit_test(many_at_once),
        cmocka_unit_test(each_part_of_a_machine_is_in_its_key),
        cmocka_unit_test(hazard_c7_what_others_may_write_is_never_warm),
    };
    return cmocka_run_group_tests_name("vm warm", tests, setup, teardown);
}
