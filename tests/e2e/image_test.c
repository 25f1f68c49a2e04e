/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * A root of an image and warm starts, in real guests: what is written stays the VM's, whatever it was made of. Each boot of an emulated
 * guest takes seconds, so that few are made: the tests go on with what those before them have left.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "kelpie_store.h"

#define PATH_SIZE 256
#define TEXT_SIZE 4096
#define IMAGE "tiny"

static char folder[64];
static bool usable;

static void run(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void run(const char *format, ...) {
    char command[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(command, sizeof(command), format, args);
    va_end(args);
    assert_int_equal(system(command), 0);
}

static const char *path_of(const char *name, char path[PATH_SIZE]) {
    int size = snprintf(path, PATH_SIZE, "%s/%s", folder, name);
    assert_in_range(size, 1, PATH_SIZE - 1);
    return path;
}

/* A static busybox, and what an image says. */
static enum kelpie_status build_image(const char *text, struct kelpie_error *err) {
    char root[PATH_SIZE];
    struct kelpie_image *image = NULL;
    path_of("root", root);
    run("rm -rf %s; mkdir -p %s/bin %s/root %s/etc %s/tmp", root, root, root, root, root);
    run("cp \"$(command -v busybox)\" %s/bin/busybox && for i in sh cat echo sync hostname true; "
        "do "
        "ln -s busybox %s/bin/$i; done; echo '%s' > %s/root/made",
        root, root, text, root);
    enum kelpie_status status =
        kelpie_image_build(NULL, IMAGE, &(struct kelpie_image_options){.path = root}, &image, err);
    if (status == KELPIE_OK) {
        kelpie_list_free(image);
    }
    return status;
}

static int setup(void **state) {
    (void)state;
    struct kelpie_probe probe = {0};
    snprintf(folder, sizeof(folder), "/tmp/kelpie-image-XXXXXX");
    if (!mkdtemp(folder)) {
        return -1;
    }
    if (setenv("XDG_STATE_HOME", folder, 1) != 0 || setenv("XDG_DATA_HOME", folder, 1) != 0 ||
        setenv("XDG_RUNTIME_DIR", folder, 1) != 0) {
        return -1;
    }
    usable = kelpie_backend_probe("qemu", &probe, NULL) == KELPIE_OK && probe.usable;
    struct kelpie_error err = {0};
    if (usable && build_image("the image", &err) != KELPIE_OK) {
        print_error("%s\n", err.message);
        return -1;
    }
    return 0;
}

static int teardown(void **state) {
    (void)state;
    char command[128];
    snprintf(command, sizeof(command), "rm -rf %s", folder);
    return system(command);
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
    return (struct kelpie_config){.backend = "qemu", .name = name, .image = IMAGE, .warm = true};
}

/* Whether it was warm. */
static bool vm_start(struct kelpie_vm *vm) {
    struct kelpie_error err = {0};
    struct kelpie_restore_report report;
    if (kelpie_vm_start(vm, &err) != KELPIE_OK) {
        fail_msg("%s", err.message);
    }
    return kelpie_vm_restore_report(vm, &report, NULL) == KELPIE_OK;
}

static void vm_stop(struct kelpie_vm *vm) {
    struct kelpie_error err = {0};
    if (kelpie_vm_stop(vm, 0, &err) != KELPIE_OK) {
        fail_msg("%s", err.message);
    }
}

static void output_of(struct kelpie_vm *vm, const char *command, char text[TEXT_SIZE]) {
    struct kelpie_error err = {0};
    struct kelpie_output output = {0};
    const char *argv[] = {"sh", "-c", command, NULL};
    if (kelpie_vm_exec(vm, &(struct kelpie_command){.argv = argv}, &output, &err) != KELPIE_OK) {
        fail_msg("%s", err.message);
    }
    snprintf(text, TEXT_SIZE, "%.*s", (int)output.stdout_size, (const char *)output.stdout_data);
    kelpie_output_free(&output);
}

static void expect(struct kelpie_vm *vm, const char *command, const char *wanted) {
    char text[TEXT_SIZE];
    output_of(vm, command, text);
    assert_string_equal(text, wanted);
}

#define NEEDS_QEMU()                                                                               \
    if (!usable) {                                                                                 \
        skip();                                                                                    \
    }

/* The first start of all boots, and makes the template of the tests behind. */
static void hazard_c7_what_is_written_is_the_vms_own(void **state) {
    (void)state;
    char ids[2][TEXT_SIZE];
    NEEDS_QEMU();
    struct kelpie_config config = config_of("one");
    struct kelpie_vm *one = vm_make(&config);
    assert_false(vm_start(one));
    expect(one, "cat /root/made; echo one > /root/made; cat /root/made; hostname; sync",
           "the image\none\none\n");
    output_of(one, "cat /etc/machine-id", ids[0]);

    config.name = "two";
    struct kelpie_vm *two = vm_make(&config);
    vm_stop(one);
    /* A VM that has a disk of its own is not restored: it would not fit its memory. */
    assert_false(vm_start(one));
    expect(one, "cat /root/made", "one\n");

    assert_true(vm_start(two));
    expect(two, "cat /root/made; echo two > /root/made; cat /root/made; hostname",
           "the image\ntwo\ntwo\n");
    output_of(two, "cat /etc/machine-id", ids[1]);
    assert_string_not_equal(ids[0], ids[1]);
    expect(one, "cat /root/made", "one\n");
    kelpie_vm_destroy(one);
    kelpie_vm_destroy(two);
}

static void two_processes_at_once(void **state) {
    (void)state;
    pid_t children[2];
    NEEDS_QEMU();
    for (size_t i = 0; i < 2; i++) {
        children[i] = fork();
        assert_true(children[i] >= 0);
        if (children[i] == 0) {
            struct kelpie_error err = {0};
            struct kelpie_vm *vm = NULL;
            struct kelpie_config config = config_of(i == 0 ? "left" : "right");
            struct kelpie_restore_report report;
            bool good = kelpie_vm_create(&config, &vm, &err) == KELPIE_OK &&
                        kelpie_vm_start(vm, &err) == KELPIE_OK &&
                        kelpie_vm_restore_report(vm, &report, &err) == KELPIE_OK;
            kelpie_vm_destroy(vm);
            _exit(good ? 0 : 1);
        }
    }
    for (size_t i = 0; i < 2; i++) {
        int status = 1;
        assert_int_equal(waitpid(children[i], &status, 0), children[i]);
        assert_int_equal(status, 0);
    }
}

/* A bundle of a warm VM: restored in a folder, it goes on there, as another process finds it; although the image's name means
 * another one by then. The VM that the bundle is of is not touched. */
static void hazard_c7_a_restored_vm_has_its_disk_in_its_folder(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    char own[PATH_SIZE];
    char bundle[PATH_SIZE];
    NEEDS_QEMU();
    path_of("own", own);
    path_of("bundle", bundle);
    assert_int_equal(mkdir(own, 0700), 0);
    struct kelpie_config config = config_of("parent");
    struct kelpie_vm *parent = vm_make(&config);
    assert_true(vm_start(parent));
    expect(parent, "echo parent > /root/made; cat /root/made", "parent\n");
    assert_int_equal(kelpie_vm_snapshot(parent, bundle, NULL, NULL, &err), KELPIE_OK);

    struct kelpie_vm *child = NULL;
    const struct kelpie_config wish = {.name = "child", .disk_folder = own};
    if (kelpie_vm_create_from_snapshot(bundle, &wish, NULL, &child, &err) != KELPIE_OK) {
        fail_msg("%s", err.message);
    }
    run("rm -rf %s", bundle); /* it can go while its VMs run */
    expect(child, "cat /root/made; echo child > /root/made; hostname; sync", "parent\nchild\n");
    expect(parent, "cat /root/made", "parent\n");
    kelpie_vm_destroy(parent);
    kelpie_vm_destroy(child);

    assert_int_equal(build_image("another image", &err), KELPIE_OK);
    config = config_of("child");
    config.disk_folder = own;
    child = vm_make(&config);
    assert_false(vm_start(child));
    expect(child, "cat /root/made; cat /bin/echo > /dev/null && echo reads", "child\nreads\n");
    kelpie_vm_destroy(child);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hazard_c7_what_is_written_is_the_vms_own),
        cmocka_unit_test(two_processes_at_once),
        cmocka_unit_test(hazard_c7_a_restored_vm_has_its_disk_in_its_folder),
    };
    return cmocka_run_group_tests_name("image", tests, setup, teardown);
}
