/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* QEMU's command line. */
#include "backend/qemu/qemu_command.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"

static struct qemu_description plain(void) {
    return (struct qemu_description){
        .binary = "qemu-system-x86_64",
        .machine = QEMU_MACHINE_MICROVM,
        .accelerator = QEMU_ACCELERATOR_TCG,
        .vcpu_count = 3,
        .memory_mib = 384,
        .kernel = "/a,b/vmlinuz",
        .initramfs = "/c/initramfs",
        .tsc_khz = 2445345,
        .qmp_fd = 3,
        .channel_fd = 4,
        .console_fd = 5,
        .memory_fd = 6,
    };
}

/* The command for a description; freed by the caller. */
static struct qemu_command *build(const struct qemu_description *description) {
    struct qemu_command *command = calloc(1, sizeof(*command));
    assert_non_null(command);
    assert_int_equal(qemu_command_build(command, description, NULL), KELPIE_OK);
    assert_null(command->argv[command->argc]);
    return command;
}

/* What follows the n-th `option`, or NULL. */
static const char *value_of(const struct qemu_command *command, const char *option, size_t nth) {
    for (size_t i = 0; i + 1 < command->argc; i++) {
        if (strcmp(command->argv[i], option) == 0 && nth-- == 0) {
            return command->argv[i + 1];
        }
    }
    return NULL;
}

/* How many arguments contain the text. */
static size_t count_of(const struct qemu_command *command, const char *text) {
    size_t count = 0;
    for (size_t i = 0; i < command->argc; i++) {
        count += strstr(command->argv[i], text) != NULL;
    }
    return count;
}

static void machine_is_as_described(void **state) {
    (void)state;
    struct qemu_description description = plain();
    struct qemu_command *command = build(&description);
    assert_string_equal(command->argv[0], "qemu-system-x86_64");
    assert_string_equal(value_of(command, "-smp", 0), "3");
    assert_string_equal(value_of(command, "-m", 0), "384M");
    assert_string_equal(value_of(command, "-cpu", 0), "max");
    assert_string_equal(value_of(command, "-kernel", 0), "/a,b/vmlinuz");
    assert_string_equal(value_of(command, "-initrd", 0), "/c/initramfs");
    assert_string_equal(value_of(command, "-object", 0),
                        "memory-backend-file,id=ram,mem-path=/proc/self/fd/6,size=384M,share=on");
    assert_int_equal(count_of(command, "microvm"), 1);
    assert_int_equal(count_of(command, "virtio-serial-device"), 1);
    assert_int_equal(count_of(command, "pvpanic"), 1);
    assert_int_equal(count_of(command, "-pci"), 0);
    assert_null(value_of(command, "-incoming", 0));
    free(command);
}

static void nothing_comes_by_default_and_nothing_reboots(void **state) {
    (void)state;
    static const char *const options[] = {"-nodefaults", "-no-user-config", "-no-reboot", "-S"};
    struct qemu_description description = plain();
    struct qemu_command *command = build(&description);
    for (size_t i = 0; i < ARRAY_SIZE(options); i++) {
        assert_int_equal(count_of(command, options[i]), 1);
    }
    assert_non_null(strstr(value_of(command, "-sandbox", 0), "on,"));
    assert_null(value_of(command, "-netdev", 0));
    assert_int_equal(count_of(command, "path="), 1); /* the memory's, and no socket's */
    free(command);
}

/* The daemon at the other end speaks virtio 1 only, which a microvm's devices do not by themselves. */
static void a_shared_folder_is_a_modern_device(void **state) {
    (void)state;
    struct qemu_description description = plain();
    struct qemu_command *command = build(&description);
    assert_int_equal(count_of(command, "force-legacy"), 0);
    free(command);
    description.share_fds[0] = 30;
    description.share_fds[7] = 37;
    command = build(&description);
    assert_string_equal(value_of(command, "-global", 0), "virtio-mmio.force-legacy=off");
    assert_int_equal(count_of(command, "force-legacy"), 1);
    assert_int_equal(count_of(command, "socket,id=share0,fd=30"), 1);
    assert_int_equal(count_of(command, "vhost-user-fs-device,chardev=share0,tag=kelpie0"), 1);
    assert_int_equal(count_of(command, "socket,id=share7,fd=37"), 1);
    assert_int_equal(count_of(command, "vhost-user-fs-device,chardev=share7,tag=kelpie7"), 1);
    assert_int_equal(count_of(command, "vhost-user-fs"), 2);
    free(command);
    description.machine = QEMU_MACHINE_Q35;
    command = build(&description);
    assert_int_equal(count_of(command, "vhost-user-fs-pci"), 2);
    assert_int_equal(count_of(command, "force-legacy"), 0);
    free(command);
}

static void q35_has_pci_devices(void **state) {
    (void)state;
    struct qemu_description description = plain();
    description.machine = QEMU_MACHINE_Q35;
    description.disk_count = 1;
    struct qemu_command *command = build(&description);
    assert_int_equal(count_of(command, "q35"), 1);
    assert_int_equal(count_of(command, "virtio-serial-pci"), 1);
    assert_int_equal(count_of(command, "virtio-rng-pci"), 1);
    assert_int_equal(count_of(command, "virtio-blk-pci"), 1);
    assert_int_equal(count_of(command, "pvpanic"), 1);
    free(command);
}

static void kernel_is_told_the_tsc_rate_when_emulated_only(void **state) {
    (void)state;
    struct qemu_description description = plain();
    struct qemu_command *command = build(&description);
    assert_non_null(strstr(value_of(command, "-append", 0), "tsc_early_khz=2445345"));
    assert_non_null(strstr(value_of(command, "-append", 0), "mitigations=off"));
    free(command);
    description.accelerator = QEMU_ACCELERATOR_KVM;
    description.tsc_khz = 0;
    command = build(&description);
    assert_null(strstr(value_of(command, "-append", 0), "tsc"));
    assert_null(strstr(value_of(command, "-append", 0), "mitigations"));
    assert_string_equal(value_of(command, "-cpu", 0), "host");
    assert_string_equal(value_of(command, "-accel", 0), "kvm");
    free(command);
}

static void kernel_args_come_last(void **state) {
    (void)state;
    struct qemu_description description = plain();
    description.kernel_args = "loglevel=7 x=\"a b\"";
    struct qemu_command *command = build(&description);
    const char *append = value_of(command, "-append", 0);
    const char *found = strstr(append, " loglevel=7 x=\"a b\"");
    assert_non_null(found);
    assert_string_equal(found, " loglevel=7 x=\"a b\"");
    free(command);
}

static void kernel_args_that_linux_would_cut_are_refused(void **state) {
    (void)state;
    char args[QEMU_APPEND_SIZE_MAX + 1];
    memset(args, 'x', sizeof(args));
    args[QEMU_APPEND_SIZE_MAX] = 0;
    struct qemu_description description = plain();
    description.kernel_args = args;
    struct qemu_command *command = calloc(1, sizeof(*command));
    assert_non_null(command);
    struct kelpie_error err;
    assert_int_equal(qemu_command_build(command, &description, &err), KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, "kernel_args");
    free(command);
}

static void command_that_does_not_fit_is_refused(void **state) {
    (void)state;
    char *path = malloc(QEMU_COMMAND_SIZE_MAX);
    struct qemu_command *command = calloc(1, sizeof(*command));
    assert_non_null(path);
    assert_non_null(command);
    memset(path, 'x', QEMU_COMMAND_SIZE_MAX);
    path[QEMU_COMMAND_SIZE_MAX - 1] = 0;
    struct qemu_description description = plain();
    description.kernel = path;
    assert_int_equal(qemu_command_build(command, &description, NULL), KELPIE_BAD_CONFIG);
    free(command);
    free(path);
}

/* As many disks as there can be, and everything else: what is longest has room. */
static void the_longest_command_fits(void **state) {
    (void)state;
    struct qemu_description description = plain();
    description.machine = QEMU_MACHINE_Q35;
    description.network_fd = 9;
    description.incoming = true;
    snprintf(description.mac, sizeof(description.mac), "02:00:00:00:00:07");
    description.disk_count = KELPIE_DISK_COUNT_MAX;
    for (size_t i = 0; i < KELPIE_DISK_COUNT_MAX; i++) {
        description.disks[i].fd = 10 + (int)i;
    }
    struct qemu_command *command = build(&description);
    assert_int_equal(count_of(command, "-blockdev"), KELPIE_DISK_COUNT_MAX);
    assert_string_equal(command->argv[command->argc - 1], "defer");
    assert_null(command->argv[command->argc]);
    free(command);
}

static void load_maps_the_memory_privately(void **state) {
    (void)state;
    struct qemu_description description = plain();
    description.memory_private = true;
    description.incoming = true;
    struct qemu_command *command = build(&description);
    assert_non_null(strstr(value_of(command, "-object", 0), "share=off"));
    assert_string_equal(value_of(command, "-incoming", 0), "defer");
    free(command);
}

static void hazard_a15_read_only_is_enforced_by_qemu(void **state) {
    (void)state;
    struct qemu_description description = plain();
    description.disk_count = 2;
    description.disks[0] = (struct qemu_command_disk){.fd = 7, .read_only = true};
    description.disks[1] = (struct qemu_command_disk){.fd = 8};
    struct qemu_command *command = build(&description);
    assert_string_equal(value_of(command, "-add-fd", 0), "fd=7,set=1");
    assert_non_null(strstr(value_of(command, "-blockdev", 0), "read-only=on"));
    assert_string_equal(value_of(command, "-add-fd", 1), "fd=8,set=2");
    assert_non_null(strstr(value_of(command, "-blockdev", 1), "read-only=off"));
    assert_int_equal(count_of(command, "virtio-blk-device,drive=disk1"), 1);
    free(command);
}

static void hazard_a16_disks_are_raw_always(void **state) {
    (void)state;
    struct qemu_description description = plain();
    description.disk_count = KELPIE_DISK_COUNT_MAX;
    struct qemu_command *command = build(&description);
    for (size_t i = 0; i < KELPIE_DISK_COUNT_MAX; i++) {
        const char *value = value_of(command, "-blockdev", i);
        assert_non_null(value);
        assert_int_equal(strncmp(value, "driver=raw,", 11), 0);
        assert_null(strstr(value, "backing"));
    }
    assert_int_equal(count_of(command, "-drive"), 0);
    free(command);
}

static void network_is_an_inherited_descriptor(void **state) {
    (void)state;
    struct qemu_description description = plain();
    description.network_fd = 9;
    snprintf(description.mac, sizeof(description.mac), "02:00:00:00:00:07");
    struct qemu_command *command = build(&description);
    assert_string_equal(value_of(command, "-netdev", 0), "socket,id=net,fd=9");
    assert_int_equal(count_of(command, "virtio-net-device,netdev=net,mac=02:00:00:00:00:07"), 1);
    free(command);
    description.machine = QEMU_MACHINE_Q35;
    description.network_is_tap = true;
    command = build(&description);
    assert_string_equal(value_of(command, "-netdev", 0), "tap,id=net,fd=9,vhost=off");
    assert_int_equal(count_of(command, "virtio-net-pci,netdev=net,mac=02:00:00:00:00:07,romfile="),
                     1);
    free(command);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(machine_is_as_described),
        cmocka_unit_test(nothing_comes_by_default_and_nothing_reboots),
        cmocka_unit_test(a_shared_folder_is_a_modern_device),
        cmocka_unit_test(q35_has_pci_devices),
        cmocka_unit_test(kernel_is_told_the_tsc_rate_when_emulated_only),
        cmocka_unit_test(kernel_args_come_last),
        cmocka_unit_test(kernel_args_that_linux_would_cut_are_refused),
        cmocka_unit_test(command_that_does_not_fit_is_refused),
        cmocka_unit_test(the_longest_command_fits),
        cmocka_unit_test(load_maps_the_memory_privately),
        cmocka_unit_test(hazard_a15_read_only_is_enforced_by_qemu),
        cmocka_unit_test(hazard_a16_disks_are_raw_always),
        cmocka_unit_test(network_is_an_inherited_descriptor),
    };
    return cmocka_run_group_tests_name("qemu_command", tests, NULL, NULL);
}
