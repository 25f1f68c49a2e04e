/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Warm starts, on the mock: what is in a template and what is not, which machine gets which, and that nothing that is
 * wrong with one keeps a VM from starting. */
#include "vm/warm_harness_test.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>

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
        cmocka_unit_test(many_at_once),
    };
    return cmocka_run_group_tests_name("vm warm", tests, setup, teardown);
}
