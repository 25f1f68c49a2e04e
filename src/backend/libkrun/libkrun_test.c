/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The libkrun backend, its process included, with libraries that say they are libkrun (tests/krun/fake.h). */
#include "backend/libkrun/libkrun.h"

#include <dirent.h>
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "backend/libkrun/libkrun_instance.h"
#include "base/assert.h"
#include "base/cleanup.h"
#include "support/backend_vm.h"

#define ANSWER_MS 20000
#define STILL_MS 300
#define SHORT_MS 200
#define LOG_SIZE_MAX 65536

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define FILTERS_APPLY false
#else
#define FILTERS_APPLY true
#endif

#define V1 KRUN_FAKE_FOLDER "libkrun.so.1.17.0"
#define V1_OLD KRUN_FAKE_FOLDER "libkrun.so.1.16.0"
#define V1_ALONE KRUN_FAKE_FOLDER "libkrun-alone.so.1.17.0"
#define V1_PLAIN KRUN_FAKE_FOLDER "libkrun-plain.so.1.17.0"
#define V2 KRUN_FAKE_FOLDER "libkrun.so.2.0.0"
#define V2_STILL KRUN_FAKE_FOLDER "libkrun-still.so.2.0.0"
#define KRUNFW KRUN_FAKE_FOLDER "libkrunfw.so.5.0.0"

struct fixture {
    struct host *host;
    struct backend_vm vm;
    char folder[64];
    char log[96];
    char disk[2][96];
    size_t fd_count;
};

static size_t open_fd_count(void) {
    DIR *folder = opendir("/proc/self/fd");
    assert_non_null(folder);
    size_t count = 0;
    while (readdir(folder)) {
        count++;
    }
    closedir(folder);
    return count;
}

static void use(const char *library, const char *faults) {
    assert_int_equal(setenv("KELPIE_LIBKRUN", library, 1), 0);
    assert_int_equal(setenv("KELPIE_KRUNFW", KRUNFW, 1), 0);
    assert_int_equal(setenv("FAKE_KRUN", faults, 1), 0);
}

static int setup(void **state) {
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    assert_non_null(fixture);
    fixture->fd_count = open_fd_count();
    assert_int_equal(host_linux_create(&fixture->host, NULL), KELPIE_OK);
    snprintf(fixture->folder, sizeof(fixture->folder), "/tmp/kelpie-libkrun-test-%d", getpid());
    assert_int_equal(host_path_mkdir(fixture->host, fixture->folder, 0700, NULL), KELPIE_OK);
    snprintf(fixture->log, sizeof(fixture->log), "%s/log", fixture->folder);
    for (int i = 0; i < 2; i++) {
        snprintf(fixture->disk[i], sizeof(fixture->disk[i]), "%s/disk-%d", fixture->folder, i);
    }
    assert_int_equal(setenv("FAKE_KRUN_LOG", fixture->log, 1), 0);
    backend_vm_init(&fixture->vm, fixture->host, &backend_libkrun_ops);
    *state = fixture;
    return 0;
}

static int teardown(void **state) {
    struct fixture *fixture = *state;
    backend_vm_destroy(&fixture->vm);
    unsetenv("KELPIE_LIBKRUN");
    unsetenv("KELPIE_KRUNFW");
    unsetenv("FAKE_KRUN");
    unsetenv("FAKE_KRUN_LOG");
    unsetenv("FAKE_KRUNFW");
    unlink(fixture->log);
    unlink(fixture->disk[0]);
    unlink(fixture->disk[1]);
    /* Nothing of ours is left in it. */
    assert_int_equal(host_path_rmdir(fixture->host, fixture->folder, NULL), KELPIE_OK);
    host_destroy(fixture->host);
    assert_int_equal(open_fd_count(), fixture->fd_count);
    free(fixture);
    return 0;
}

static void assert_ok(enum kelpie_status status, const struct kelpie_error *err) {
    if (status != KELPIE_OK) {
        fail_msg("%s: %s", kelpie_status_name(status), err->message);
    }
}

static void assert_has(const char *text, const char *part) {
    if (!strstr(text, part)) {
        fail_msg("there is no \"%s\" in: %s", part, text);
    }
}

/* What was asked of the library. */
static void read_log(struct fixture *fixture, char text[LOG_SIZE_MAX]) {
    char *data = NULL;
    size_t size = 0;
    assert_int_equal(
        host_file_load(fixture->host, fixture->log, LOG_SIZE_MAX - 1, &data, &size, NULL),
        KELPIE_OK);
    memcpy(text, data, size);
    text[size] = '\0';
    free(data);
}

static void create(struct backend_vm *vm) {
    struct kelpie_error err;
    assert_ok(backend_vm_create(vm, &err), &err);
}

static void boot(struct backend_vm *vm) {
    struct kelpie_error err;
    struct protocol_hello_ack ack;
    create(vm);
    assert_ok(backend_vm_start(vm, ANSWER_MS, &err), &err);
    assert_true(backend_vm_hello(vm, ANSWER_MS, &ack));
}

/* Create refuses, with these words and what to do. */
static void assert_missing(struct fixture *fixture, const char *words) {
    struct kelpie_error err;
    assert_int_equal(backend_vm_create(&fixture->vm, &err), KELPIE_BACKEND_MISSING);
    assert_null(fixture->vm.instance);
    assert_has(err.message, words);
    assert_has(err.message, "install libkrun 1.17");
    struct kelpie_probe probe;
    backend_libkrun_ops.probe(fixture->host, &probe);
    assert_false(probe.usable);
    assert_has(probe.reason, words);
    assert_has(probe.install, "install libkrun 1.17");
}

static void exit_text(struct backend_vm *vm, char text[1024]) {
    vm->ops->exit_text(vm->instance, text, 1024);
}

/* ---- Which library ---------------------------------------------------------------------------- */

/* Whatever is wrong with what there is: create and doctor say what, and what to install; and it hurts nobody here. One that
 * hangs takes too long for this table: sim/peer/backend_odd_test.c. */
static void a_library_that_is_of_no_use_is_missing(void **state) {
    struct fixture *fixture = *state;
    static const struct {
        const char *library;
        const char *faults;
        const char *kernel; /* NULL: a good one */
        const char *words;
    } rows[] = {
        {"/tmp/there/is/no/libkrun.so.1", "", NULL, "cannot open shared object file"},
        {"", "", NULL, "libkrun.so.2"}, /* the sonames are tried */
        {"/etc/passwd", "", NULL, "libkrun cannot be loaded"},
        {"/tmp", "", NULL, "libkrun cannot be loaded"},
        {KRUNFW, "", NULL, "is not libkrun"},
        {V1_OLD, "", NULL, "older than libkrun 1.17"},
        {V1_PLAIN, "", NULL, "BLK=1"},
        {V1, "load-crash", NULL, "was ended by signal 6"},
        {V2, "load-crash", NULL, "was ended by signal 6"},
        {V1, "load-fault", NULL, "was ended by signal 11"},
        {V2, "load-noise", NULL, "the fake does not like it here"},
        {V1, "fail=create_ctx", NULL, "does not work here: the machine was not made"},
        {V1, "fail=free_ctx", NULL, "krun_free_ctx"},
        {V2, "fail=payload_load_krunfw", NULL, "the fake refuses payload_load_krunfw"},
        {V1, "", "/tmp/there/is/no/libkrunfw.so.5", "libkrunfw cannot be loaded"},
        {V2, "", "/tmp/there/is/no/libkrunfw.so.5", "libkrunfw cannot be loaded"},
        {V1, "", "/etc/passwd", "libkrunfw cannot be loaded"},
        {V1, "", V1, "krunfw_get_kernel"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        use(rows[i].library, rows[i].faults);
        if (rows[i].kernel) {
            setenv("KELPIE_KRUNFW", rows[i].kernel, 1);
        }
        assert_missing(fixture, rows[i].words);
    }
    use(V1, "");
    setenv("FAKE_KRUNFW", "empty", 1);
    assert_missing(fixture, "has no kernel");
    unsetenv("FAKE_KRUNFW");
    create(&fixture->vm); /* and with what is whole, it works */
}

static void a_cancelled_look_ends_at_once(void **state) {
    struct fixture *fixture = *state;
    struct kelpie_error err;
    use(V1, "load-hang");
    assert_int_equal(host_event_create(fixture->host, &fixture->vm.launch.cancel_fd, &err),
                     KELPIE_OK);
    host_event_set(fixture->host, fixture->vm.launch.cancel_fd);
    assert_int_equal(backend_vm_create(&fixture->vm, &err), KELPIE_CANCELLED);
    host_close(fixture->host, fixture->vm.launch.cancel_fd);
}

static void a_probe_says_the_version_and_whether_kvm_is_there(void **state) {
    struct fixture *fixture = *state;
    struct kelpie_probe probe;
    use(V2, "");
    backend_libkrun_ops.probe(fixture->host, &probe);
    assert_string_equal(probe.version, "2.0.0");
    assert_has(probe.reason, "libkrun");
    assert_true(probe.usable || probe.reason[0] != '\0');
}

static void a_bzimage_is_refused(void **state) {
    struct fixture *fixture = *state;
    struct kelpie_error err;
    use(V1, "");
    fixture->vm.config.kernel = "/bin/sh";
    assert_int_equal(backend_vm_create(&fixture->vm, &err), KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, "kernel");
}

static void the_configs_kernel_is_used(void **state) {
    struct fixture *fixture = *state;
    use(V1, "");
    setenv("KELPIE_KRUNFW", "/tmp/there/is/no/libkrunfw.so.5", 1);
    fixture->vm.config.kernel = KRUNFW;
    boot(&fixture->vm);
}

/* ---- A machine -------------------------------------------------------------------------------- */

static void guest_of_libkrun_1_runs_and_powers_off(void **state) {
    struct fixture *fixture = *state;
    struct backend_vm *vm = &fixture->vm;
    char log[LOG_SIZE_MAX];
    char text[1024];
    char console[256] = {0};
    use(V1, "last-words");
    vm->config.kernel_args = "one.more=word";
    vm->config.vcpu_count = 3;
    boot(vm);
    assert_true(backend_vm_ping(vm, ANSWER_MS));
    assert_int_equal(kill(vm->ops->process_id(vm->instance), 0), 0);
    backend_vm_power_off(vm);
    assert_true(backend_vm_ended(vm, ANSWER_MS));
    backend_vm_stop(vm, ANSWER_MS);
    exit_text(vm, text);
    assert_has(text, "libkrun exited with code 0");
    assert_has(text, "these are the last words"); /* also what came when nobody read any more */
    assert_true(vm->ops->console(vm->instance, console, sizeof(console) - 1) > 0);
    assert_has(console, "the fake's guest is up\n");
    assert_int_equal(vm->ops->process_id(vm->instance), 0);
    assert_int_equal(vm->ops->channel_fd(vm->instance), HOST_FD_NONE);
    read_log(fixture, log);
    assert_has(log, "set_vm_config 5 3 192\n");
    assert_has(log, "disable_implicit_vsock 5\n");
    assert_has(log, "disable_implicit_console 5\n");
    assert_has(log, "add_console_port_tty 5 3 ''\n");
    assert_has(log, "add_console_port_inout 5 3 'org.kelpie.channel' 3 3\n");
    assert_has(log, "set_kernel 5 1 console=hvc0 ");
    assert_has(log, " root=/dev/vda ");
    assert_has(log, " one.more=word\n");
    assert_has(log, "add_disk2 5 boot 0 read-only\nstart_enter 5\n");
}

static void guest_of_libkrun_2_runs_pauses_and_powers_off(void **state) {
    struct fixture *fixture = *state;
    struct backend_vm *vm = &fixture->vm;
    char log[LOG_SIZE_MAX];
    char text[1024];
    use(V2, "");
    boot(vm);
    assert_true(vm->ops->instance_capabilities(vm->instance) & KELPIE_CAN_PAUSE);
    backend_vm_pause(vm);
    assert_false(backend_vm_ping(vm, STILL_MS));
    backend_vm_resume(vm);
    assert_true(backend_vm_ping(vm, ANSWER_MS));
    backend_vm_power_off(vm);
    assert_true(backend_vm_ended(vm, ANSWER_MS));
    exit_text(vm, text);
    assert_has(text, "libkrun exited with code 0");
    read_log(fixture, log);
    assert_has(log, "payload_append_cmdline console=hvc0 ");
    assert_has(log, "console_builder_add_inout_port org.kelpie.channel 3 3\n");
    assert_has(log, "block_device_new boot 0\nblock_device_set_read_only read-only\n");
    assert_has(log, "vmm_builder_ram_mib 192\n");
    assert_has(log, "vmm_handle_pause \nvmm_handle_resume \n");
}

static void what_it_cannot_do_is_unsupported(void **state) {
    struct fixture *fixture = *state;
    struct backend_vm *vm = &fixture->vm;
    struct kelpie_error err;
    static const char *const libraries[] = {V1, V2_STILL};
    for (size_t i = 0; i < ARRAY_SIZE(libraries); i++) {
        use(libraries[i], "");
        boot(vm);
        const struct host_wait wait = host_wait_ms(vm->host, ANSWER_MS, HOST_FD_NONE);
        assert_false(vm->ops->instance_capabilities(vm->instance) & KELPIE_CAN_PAUSE);
        assert_int_equal(vm->ops->pause(vm->instance, &wait, &err), KELPIE_UNSUPPORTED);
        assert_has(err.message, "it takes libkrun 2");
        assert_int_equal(vm->ops->resume(vm->instance, &wait, &err), KELPIE_UNSUPPORTED);
        struct snapshot_writer *writer = (struct snapshot_writer *)&err; /* it is not looked at */
        assert_int_equal(vm->ops->save(vm->instance, KELPIE_SNAPSHOT_TELEPORT, writer, &wait, &err),
                         KELPIE_UNSUPPORTED);
        assert_has(err.message, "use the backend kvm or qemu");
        struct snapshot_reader *reader = (struct snapshot_reader *)&err;
        assert_int_equal(vm->ops->load(vm->instance, reader, &wait, &err), KELPIE_UNSUPPORTED);
        assert_true(backend_vm_ping(vm, ANSWER_MS)); /* it changed nothing */
        backend_vm_destroy(vm);
        backend_vm_init(vm, fixture->host, &backend_libkrun_ops);
    }
    assert_int_equal(backend_libkrun_ops.capabilities &
                         (KELPIE_CAN_SUSPEND_SNAPSHOT | KELPIE_CAN_TELEPORT_SNAPSHOT |
                          KELPIE_CAN_FORK | KELPIE_CAN_CHECKPOINT),
                     0);
}

/* What krun/confine.h says, of the process that runs it; a build with sanitizers has no filter. */
static void a_running_machine_is_confined(void **state) {
    struct fixture *fixture = *state;
    struct backend_vm *vm = &fixture->vm;
    char path[64];
    char *status = NULL;
    size_t size = 0;
    use(V1, "");
    boot(vm);
    snprintf(path, sizeof(path), "/proc/%d/status", vm->ops->process_id(vm->instance));
    assert_int_equal(host_file_load(fixture->host, path, LOG_SIZE_MAX - 1, &status, &size, NULL),
                     KELPIE_OK);
    char text[LOG_SIZE_MAX];
    memcpy(text, status, size);
    text[size] = '\0';
    free(status);
    assert_has(text, "NoNewPrivs:\t1\n");
    assert_has(text, FILTERS_APPLY ? "Seccomp:\t2\n" : "Seccomp:");
}

/* A passt that answers when it is asked, and goes with its machine. */
static void use_passt(struct fixture *fixture) {
    static const char script[] = "#!/bin/sh\n"
                                 "printf '\\000\\000\\000\\052' >&3\n"
                                 "head -c 42 /dev/zero >&3\n"
                                 "exec cat <&3 >/dev/null\n";
    assert_int_equal(
        host_file_store(fixture->host, fixture->disk[0], script, sizeof(script) - 1, 0700, NULL),
        KELPIE_OK);
    assert_int_equal(setenv("KELPIE_PASST", fixture->disk[0], 1), 0);
}

static void a_network_of_kind_user_goes_to_passt(void **state) {
    struct fixture *fixture = *state;
    struct backend_vm *vm = &fixture->vm;
    static const struct kelpie_network network = {.kind = KELPIE_NETWORK_USER,
                                                  .mac = "02:00:00:00:00:07"};
    char log[LOG_SIZE_MAX];
    static const char *const libraries[] = {V1, V2};
    static const char *const expected[] = {"add_net_unixstream 5 8 02:07 0\n",
                                           "net_device_new_unixstream_fd network 8 0 0\n"};
    use_passt(fixture);
    for (size_t i = 0; i < ARRAY_SIZE(libraries); i++) {
        use(libraries[i], "");
        vm->config.network = &network;
        boot(vm);
        assert_true(vm->ops->instance_capabilities(vm->instance) & KELPIE_CAN_NETWORK);
        read_log(fixture, log);
        assert_has(log, expected[i]);
        backend_vm_destroy(vm);
        backend_vm_init(vm, fixture->host, &backend_libkrun_ops);
        unlink(fixture->log);
    }
    unsetenv("KELPIE_PASST");
}

static void a_tap_that_is_not_there_is_told(void **state) {
    struct fixture *fixture = *state;
    static const struct kelpie_network network = {
        .kind = KELPIE_NETWORK_TAP, .mac = "02:00:00:00:00:07", .tap = "kelpie-none"};
    struct kelpie_error err;
    use(V1, "");
    fixture->vm.config.network = &network;
    create(&fixture->vm);
    assert_int_not_equal(backend_vm_start(&fixture->vm, ANSWER_MS, &err), KELPIE_OK);
    assert_string_equal(err.field, "network.tap");
}

static void a_network_that_a_library_has_not_is_refused_at_create(void **state) {
    struct fixture *fixture = *state;
    static const struct {
        const char *library;
        enum kelpie_network_kind kind;
        const char *words;
    } rows[] = {
        {V1_ALONE, KELPIE_NETWORK_USER, "NET=1"},
        {V1_ALONE, KELPIE_NETWORK_TAP, "NET=1"},
        {V2_STILL, KELPIE_NETWORK_USER, "NET=1"},
        {V2, KELPIE_NETWORK_TAP, "use kind user"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        const struct kelpie_network network = {
            .kind = rows[i].kind, .mac = "02:00:00:00:00:07", .tap = "tap7"};
        struct kelpie_error err;
        use(rows[i].library, "");
        fixture->vm.config.network = &network;
        assert_int_equal(backend_vm_create(&fixture->vm, &err), KELPIE_UNSUPPORTED);
        assert_string_equal(err.field, "network");
        assert_has(err.message, rows[i].words);
    }
    use(V1_ALONE, "");
    fixture->vm.config.network = NULL;
    create(&fixture->vm);
    uint32_t capabilities = fixture->vm.ops->instance_capabilities(fixture->vm.instance);
    assert_false(capabilities & KELPIE_CAN_NETWORK);
}

static void make_disk(struct fixture *fixture, int index) {
    static const char bytes[4096];
    assert_int_equal(
        host_file_store(fixture->host, fixture->disk[index], bytes, sizeof(bytes), 0600, NULL),
        KELPIE_OK);
    fixture->vm.disks[index].path = fixture->disk[index];
}

static void hazard_a15_read_only_is_the_monitors_business(void **state) {
    struct fixture *fixture = *state;
    struct backend_vm *vm = &fixture->vm;
    char log[LOG_SIZE_MAX];
    static const char *const libraries[] = {V1, V2};
    static const char *const expected[] = {
        "add_disk2 5 disk-0 0 writable\nadd_disk2 5 disk-1 0 read-only\nadd_disk2 5 boot 0 "
        "read-only\n",
        "block_device_new disk-0 0\nblock_device_set_read_only writable\nmmio_device_manager_add "
        "\nblock_device_new disk-1 0\nblock_device_set_read_only read-only\n",
    };
    for (size_t i = 0; i < ARRAY_SIZE(libraries); i++) {
        use(libraries[i], "");
        make_disk(fixture, 0);
        make_disk(fixture, 1);
        vm->disks[1].read_only = true;
        vm->config.disk_count = 2;
        boot(vm);
        read_log(fixture, log);
        assert_has(log, expected[i]);
        assert_has(log, " root=/dev/vdc "); /* the boot disk is behind them */
        assert_false(vm->ops->has_disks(vm->instance));
        assert_true(vm->ops->disk_bytes(vm->instance) <= 8192);
        backend_vm_destroy(vm);
        backend_vm_init(vm, fixture->host, &backend_libkrun_ops);
        unlink(fixture->log);
    }
}

static void a_vm_can_be_started_again(void **state) {
    struct fixture *fixture = *state;
    struct backend_vm *vm = &fixture->vm;
    struct kelpie_error err;
    struct protocol_hello_ack ack;
    use(V1, "");
    boot(vm);
    backend_vm_stop(vm, 0); /* it is killed */
    assert_ok(backend_vm_start(vm, ANSWER_MS, &err), &err);
    assert_true(backend_vm_hello(vm, ANSWER_MS, &ack));
}

static void hazard_e1_nothing_outlives_a_vm_that_is_destroyed(void **state) {
    struct fixture *fixture = *state;
    struct backend_vm *vm = &fixture->vm;
    use(V1, "");
    boot(vm);
    int pid = vm->ops->process_id(vm->instance);
    backend_vm_destroy(vm);
    assert_int_equal(kill(pid, 0), -1);
    assert_int_equal(errno, ESRCH);
}

/* ---- What goes wrong -------------------------------------------------------------------------- */

static void each_refusal_is_named_at_start(void **state) {
    struct fixture *fixture = *state;
    struct backend_vm *vm = &fixture->vm;
    static const struct {
        const char *library;
        const char *name;
    } refusals[] = {
        {V1, "set_vm_config"},
        {V1, "disable_implicit_vsock"},
        {V1, "disable_implicit_console"},
        {V1, "add_virtio_console_multiport"},
        {V1, "add_console_port_tty"},
        {V1, "add_console_port_inout"},
        {V1, "set_kernel"},
        {V1, "add_disk2"},
        {V2, "mmio_device_manager_new"},
        {V2, "console_device_builder"},
        {V2, "console_builder_add_tty_port"},
        {V2, "console_builder_add_inout_port"},
        {V2, "console_builder_build"},
        {V2, "block_device_new"},
        {V2, "rng_device_new"},
        {V2, "vmm_builder_new"},
        {V2, "vmm_builder_vcpus"},
        {V2, "vmm_builder_ram_mib"},
        {V2, "vmm_builder_build"},
        {V2, "vmm_handle"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(refusals); i++) {
        char fault[96];
        char name[96];
        struct kelpie_error err;
        snprintf(fault, sizeof(fault), "fail=%s", refusals[i].name);
        snprintf(name, sizeof(name), "krun_%s", refusals[i].name);
        use(refusals[i].library, fault);
        create(vm);
        assert_int_equal(backend_vm_start(vm, ANSWER_MS, &err), KELPIE_BOOT_FAILED);
        assert_has(err.message, name);
        assert_int_equal(vm->ops->process_id(vm->instance), 0);
        backend_vm_destroy(vm);
    }
}

static void a_kernel_that_is_empty_is_named_at_start(void **state) {
    struct fixture *fixture = *state;
    struct kelpie_error err;
    use(V1, "");
    create(&fixture->vm);
    setenv("FAKE_KRUNFW", "empty", 1); /* it is another one meanwhile */
    assert_int_equal(backend_vm_start(&fixture->vm, ANSWER_MS, &err), KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, "kernel");
}

static void a_crash_is_told_from_an_exit(void **state) {
    struct fixture *fixture = *state;
    struct backend_vm *vm = &fixture->vm;
    struct protocol_hello_ack ack;
    static const struct {
        const char *library;
        const char *fault;
        const char *words[2];
    } ends[] = {
        {V1, "enter-crash", {"was killed by signal 6", "the fake is about to crash"}},
        {V1, "enter-exit", {"exited with code 7", "the fake's kernel panicked"}},
        {V1, "fail=start_enter", {"exited with code 1", "krun_start_enter failed"}},
        {V1, "enter-return", {"exited with code 1", "krun_start_enter came back"}},
        {V2, "enter-crash", {"was killed by signal 6", "the fake is about to crash"}},
        {V2, "enter-return", {"exited with code 0", "exited"}},
    };
    for (size_t i = 0; i < ARRAY_SIZE(ends); i++) {
        char text[1024];
        struct kelpie_error err;
        use(ends[i].library, ends[i].fault);
        create(vm);
        assert_ok(backend_vm_start(vm, ANSWER_MS, &err), &err);
        assert_false(backend_vm_hello(vm, ANSWER_MS, &ack));
        assert_true(backend_vm_ended(vm, ANSWER_MS));
        backend_vm_stop(vm, ANSWER_MS);
        exit_text(vm, text);
        assert_has(text, ends[i].words[0]);
        assert_has(text, ends[i].words[1]);
        backend_vm_destroy(vm);
    }
}

static void a_machine_that_hangs_is_killed(void **state) {
    struct fixture *fixture = *state;
    struct backend_vm *vm = &fixture->vm;
    struct kelpie_error err;
    char text[1024];
    use(V1, "enter-hang");
    create(vm);
    assert_ok(backend_vm_start(vm, ANSWER_MS, &err), &err);
    backend_vm_stop(vm, SHORT_MS);
    exit_text(vm, text);
    assert_has(text, "was killed by signal 9");
}

static void a_killed_machine_is_noticed(void **state) {
    struct fixture *fixture = *state;
    struct backend_vm *vm = &fixture->vm;
    use(V2, "");
    boot(vm);
    vm->ops->kill(vm->instance);
    assert_true(backend_vm_ended(vm, ANSWER_MS));
    const struct host_wait wait = host_wait_ms(vm->host, ANSWER_MS, HOST_FD_NONE);
    struct kelpie_error err;
    assert_int_equal(vm->ops->pause(vm->instance, &wait, &err), KELPIE_CRASHED);
    assert_has(err.message, "signal 9");
    backend_vm_stop(vm, 0);
    assert_int_equal(vm->ops->pause(vm->instance, &wait, &err), KELPIE_WRONG_STATE);
}

static void a_library_that_hangs_at_start_is_a_boot_that_timed_out(void **state) {
    struct fixture *fixture = *state;
    struct kelpie_error err;
    use(V1, "");
    create(&fixture->vm);
    use(V1, "load-hang");
    assert_int_equal(backend_vm_start(&fixture->vm, SHORT_MS, &err), KELPIE_BOOT_TIMED_OUT);
    use(V1, "load-crash");
    assert_int_equal(backend_vm_start(&fixture->vm, ANSWER_MS, &err), KELPIE_BOOT_FAILED);
    assert_has(err.message, "signal 6");
    use(V1, "");
    assert_ok(backend_vm_start(&fixture->vm, ANSWER_MS, &err), &err); /* and then it works */
}

static void a_pause_that_is_refused_says_why(void **state) {
    struct fixture *fixture = *state;
    struct backend_vm *vm = &fixture->vm;
    struct kelpie_error err;
    use(V2, "fail=vmm_handle_pause");
    boot(vm);
    const struct host_wait wait = host_wait_ms(vm->host, ANSWER_MS, HOST_FD_NONE);
    assert_int_equal(vm->ops->pause(vm->instance, &wait, &err), KELPIE_UNSUPPORTED);
    assert_has(err.message, "the fake refuses vmm_handle_pause");
    backend_vm_destroy(vm);
    use(V2, "fail=vmm_handle_pause,mute");
    boot(vm);
    assert_int_equal(vm->ops->pause(vm->instance, &wait, &err), KELPIE_UNSUPPORTED);
    assert_has(err.message, "it does not say why");
}

static void a_late_answer_is_not_taken_for_the_next(void **state) {
    struct fixture *fixture = *state;
    struct backend_vm *vm = &fixture->vm;
    struct kelpie_error err;
    use(V2, "slow-pause,fail=vmm_handle_pause");
    boot(vm);
    const struct host_wait soon = host_wait_ms(vm->host, SHORT_MS, HOST_FD_NONE);
    assert_int_equal(vm->ops->pause(vm->instance, &soon, &err), KELPIE_TIMED_OUT);
    const struct host_wait wait = host_wait_ms(vm->host, ANSWER_MS, HOST_FD_NONE);
    assert_ok(vm->ops->resume(vm->instance, &wait, &err), &err); /* the refusal was dropped */
    assert_int_equal(vm->ops->pause(vm->instance, &wait, &err), KELPIE_UNSUPPORTED);
}

static void answers_that_are_owed_are_bounded(void **state) {
    struct fixture *fixture = *state;
    struct backend_vm *vm = &fixture->vm;
    struct kelpie_error err;
    use(V2, "slow-pause");
    boot(vm);
    const struct host_wait now = host_wait_none();
    for (size_t i = 0; i < LIBKRUN_ANSWERS_OWED_MAX; i++) {
        assert_int_equal(vm->ops->pause(vm->instance, &now, &err), KELPIE_TIMED_OUT);
    }
    assert_int_equal(vm->ops->pause(vm->instance, &now, &err), KELPIE_BUSY);
}

static void what_is_no_message_is_an_error(void **state) {
    struct fixture *fixture = *state;
    struct backend_vm *vm = &fixture->vm;
    struct kelpie_error err;
    use(V2, "garbage");
    boot(vm);
    const struct host_wait wait = host_wait_ms(vm->host, ANSWER_MS, HOST_FD_NONE);
    assert_int_equal(vm->ops->pause(vm->instance, &wait, &err), KELPIE_INTERNAL);
}

static void kernel_args_that_are_too_long_are_refused(void **state) {
    struct fixture *fixture = *state;
    struct kelpie_error err;
    char args[KRUN_COMMAND_LINE_SIZE_MAX];
    memset(args, 'a', sizeof(args) - 1);
    args[sizeof(args) - 1] = '\0';
    use(V1, "");
    fixture->vm.config.kernel_args = args;
    create(&fixture->vm);
    assert_int_equal(backend_vm_start(&fixture->vm, ANSWER_MS, &err), KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, "kernel_args");
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        CASE(a_library_that_is_of_no_use_is_missing),
        CASE(a_cancelled_look_ends_at_once),
        CASE(a_probe_says_the_version_and_whether_kvm_is_there),
        CASE(a_bzimage_is_refused),
        CASE(the_configs_kernel_is_used),
        CASE(guest_of_libkrun_1_runs_and_powers_off),
        CASE(guest_of_libkrun_2_runs_pauses_and_powers_off),
        CASE(what_it_cannot_do_is_unsupported),
        CASE(a_running_machine_is_confined),
        CASE(a_network_of_kind_user_goes_to_passt),
        CASE(a_tap_that_is_not_there_is_told),
        CASE(a_network_that_a_library_has_not_is_refused_at_create),
        CASE(hazard_a15_read_only_is_the_monitors_business),
        CASE(a_vm_can_be_started_again),
        CASE(hazard_e1_nothing_outlives_a_vm_that_is_destroyed),
        CASE(each_refusal_is_named_at_start),
        CASE(a_kernel_that_is_empty_is_named_at_start),
        CASE(a_crash_is_told_from_an_exit),
        CASE(a_machine_that_hangs_is_killed),
        CASE(a_killed_machine_is_noticed),
        CASE(a_library_that_hangs_at_start_is_a_boot_that_timed_out),
        CASE(a_pause_that_is_refused_says_why),
        CASE(a_late_answer_is_not_taken_for_the_next),
        CASE(answers_that_are_owed_are_bounded),
        CASE(what_is_no_message_is_an_error),
        CASE(kernel_args_that_are_too_long_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
