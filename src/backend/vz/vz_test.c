/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The vz backend over calls that are not the framework's: a machine that notes what is asked of it, and ends when it is told. */
#include "backend/vz/vz.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "support/backend_vm.h"
#include "support/fault_host.h"

#define WAIT_MS 5000

struct vz_machine {
    struct vz_description description;
    char command_line[256];
    char identifier[64];
};

static struct {
    struct host *host;
    struct backend_launch launch;
    struct kelpie_config config;
    struct kelpie_disk disks[2];
    char folder[64];
    struct backend_instance *instance;
    struct vz_machine *machine; /* the one that there is */
    enum kelpie_status answer;  /* to the next calls */
    bool missing;
    uint32_t timeout_ms; /* of the last of them */
    char asked[256];     /* one word each */
} test;

static const struct backend_ops *const ops = &backend_vz_ops;

static enum kelpie_status answer(const char *word, struct kelpie_error *err) {
    strcat(test.asked, word);
    strcat(test.asked, " ");
    return test.answer == KELPIE_OK ? KELPIE_OK : error_set(err, test.answer, "refused");
}

static bool fake_missing(char text[VZ_TEXT_SIZE]) {
    snprintf(text, VZ_TEXT_SIZE, "too old");
    return test.missing;
}

static enum kelpie_status fake_create(const struct vz_description *description,
                                      struct vz_machine **ret_machine, struct kelpie_error *err) {
    enum kelpie_status status = answer("create", err);
    if (status == KELPIE_OK) {
        assert_null(test.machine);
        struct vz_machine *machine = calloc(1, sizeof(*machine));
        assert_non_null(machine);
        machine->description = *description;
        snprintf(machine->command_line, sizeof(machine->command_line), "%s",
                 description->command_line);
        snprintf(machine->identifier, sizeof(machine->identifier), "%s",
                 description->identifier ? description->identifier : "bmV3");
        test.machine = *ret_machine = machine;
    }
    return status;
}

static void fake_destroy(struct vz_machine *machine) {
    assert_ptr_equal(machine, test.machine);
    test.machine = NULL;
    free(machine);
}

static enum kelpie_status fake_start(struct vz_machine *machine, uint32_t timeout_ms,
                                     struct kelpie_error *err) {
    (void)machine;
    assert_true(timeout_ms > 0 && timeout_ms <= WAIT_MS);
    return answer("start", err);
}

static enum kelpie_status fake_pause(struct vz_machine *machine, uint32_t timeout_ms,
                                     struct kelpie_error *err) {
    (void)machine;
    test.timeout_ms = timeout_ms;
    return answer("pause", err);
}

static enum kelpie_status fake_resume(struct vz_machine *machine, uint32_t timeout_ms,
                                      struct kelpie_error *err) {
    (void)machine;
    test.timeout_ms = timeout_ms;
    return answer("resume", err);
}

static enum kelpie_status fake_save(struct vz_machine *machine, const char *path,
                                    uint32_t timeout_ms, struct kelpie_error *err) {
    (void)machine;
    (void)timeout_ms;
    TRY(answer("save", err));
    return host_file_store(test.host, path, "a machine", 9, 0600, err);
}

static enum kelpie_status fake_load(struct vz_machine *machine, const char *path,
                                    uint32_t timeout_ms, struct kelpie_error *err) {
    char *data = NULL;
    size_t size = 0;
    (void)machine;
    (void)timeout_ms;
    TRY(answer("load", err));
    TRY(host_file_load(test.host, path, 100, &data, &size, err));
    assert_int_equal(size, 9);
    assert_memory_equal(data, "a machine", 9);
    free(data);
    return KELPIE_OK;
}

static void end(const char *text) {
    test.machine->description.ended(test.machine->description.context, text);
}

static void fake_stop(struct vz_machine *machine) {
    (void)machine;
    strcat(test.asked, "stop ");
}

static void fake_identifier(struct vz_machine *machine, char *buffer, size_t size) {
    snprintf(buffer, size, "%s", machine->identifier);
}

static const struct vz_machine_calls calls = {
    .missing = fake_missing,
    .create = fake_create,
    .destroy = fake_destroy,
    .start = fake_start,
    .pause = fake_pause,
    .resume = fake_resume,
    .save = fake_save,
    .load = fake_load,
    .stop = fake_stop,
    .identifier = fake_identifier,
};

/* ---- Before and after ------------------------------------------------------------------------- */

static int setup(void **state) {
    (void)state;
    memset(&test, 0, sizeof(test));
    assert_int_equal(host_linux_create(&test.host, NULL), KELPIE_OK);
    snprintf(test.folder, sizeof(test.folder), "/tmp/kelpie-vz-test-%d", getpid());
    assert_int_equal(host_path_mkdir(test.host, test.folder, 0700, NULL), KELPIE_OK);
    test.config = (struct kelpie_config){
        .name = "test",
        .hostname = "test",
        .working_dir = "/",
        .kernel = KRUN_FAKE_FOLDER "libkrunfw.so.5.0.0", /* a kernel by its looks: nobody runs it */
        .vcpu_count = 2,
        .memory_mib = 128,
        .disks = test.disks,
        .console_bytes_max = KELPIE_CONSOLE_BYTES_DEFAULT,
    };
    test.launch = (struct backend_launch){.host = test.host,
                                          .config = &test.config,
                                          .id = "0123456789abcdef0123456789abcdef",
                                          .cancel_fd = HOST_FD_NONE};
    return 0;
}

static int teardown(void **state) {
    (void)state;
    if (test.instance) {
        ops->destroy(test.instance);
    }
    assert_null(test.machine);
    assert_int_equal(host_path_remove_tree(test.host, test.folder, NULL), KELPIE_OK);
    host_destroy(test.host);
    return 0;
}

static struct host_wait wait_ms(uint32_t ms) {
    return host_wait_ms(test.host, ms, HOST_FD_NONE);
}

static void create(void) {
    struct kelpie_error err = {0};
    enum kelpie_status status = vz_create_with(&calls, &test.launch, &test.instance, &err);
    if (status != KELPIE_OK) {
        fail_msg("create: %s", err.message);
    }
}

static void start(void) {
    struct kelpie_error err = {0};
    const struct host_wait wait = wait_ms(WAIT_MS);
    assert_int_equal(ops->start(test.instance, &wait, &err), KELPIE_OK);
    assert_non_null(test.machine);
}

static bool has_ended(void) {
    struct host_poll_item item = {.fd = ops->exit_fd(test.instance), .asked = HOST_POLL_READ};
    const struct host_wait now = host_wait_none();
    return host_poll(test.host, &item, 1, &now, NULL) == KELPIE_OK;
}

/* ---- Cases ------------------------------------------------------------------------------------ */

static void what_is_missing_is_told(void **state) {
    struct kelpie_error err = {0};
    struct kelpie_probe probe;
    (void)state;
    test.missing = true;
    assert_int_equal(vz_create_with(&calls, &test.launch, &test.instance, &err),
                     KELPIE_BACKEND_MISSING);
    assert_non_null(strstr(err.message, "too old"));
    test.missing = false;
    test.launch.has_image = true;
    assert_int_equal(vz_create_with(&calls, &test.launch, &test.instance, &err),
                     KELPIE_UNSUPPORTED);
    assert_string_equal(err.field, "image");
    assert_int_equal(ops->create(&test.launch, &test.instance, &err), KELPIE_BACKEND_MISSING);
    ops->probe(test.host, &probe);
    assert_false(probe.usable);
    assert_non_null(strstr(probe.reason, "macOS, where this backend has never been run"));
}

static void a_machine_is_what_the_config_says(void **state) {
    (void)state;
    test.disks[0].path = "/a";
    test.disks[1] = (struct kelpie_disk){.path = "/b", .read_only = true};
    test.config.disk_count = 2;
    test.config.kernel_args = "one.more=word";
    create();
    assert_int_equal(ops->channel_fd(test.instance), HOST_FD_NONE);
    start();
    const struct vz_description *description = &test.machine->description;
    assert_int_equal(description->vcpu_count, 2);
    assert_int_equal(description->memory_mib, 128);
    assert_int_equal(description->disk_count, 2);
    assert_null(description->identifier);
    assert_string_equal(description->channel_port, "org.kelpie.channel");
    assert_string_equal(test.machine->command_line, "console=hvc0 quiet panic=-1 one.more=word");
    assert_string_equal(test.asked, "create start ");
}

static void hazard_a15_read_only_is_the_frameworks_business(void **state) {
    (void)state;
    test.disks[0] = (struct kelpie_disk){.path = "/b", .read_only = true};
    test.config.disk_count = 1;
    create();
    start();
    assert_int_equal(test.machine->description.disk_count, 1);
}

static void bytes_go_between_the_ends(void **state) {
    char text[64] = {0};
    int fds[2] = {HOST_FD_NONE, HOST_FD_NONE};
    (void)state;
    create();
    start();
    assert_int_equal(write(test.machine->description.channel_fd, "frame", 5), 5);
    assert_int_equal(read(ops->channel_fd(test.instance), text, sizeof(text)), 5);
    assert_int_equal(write(test.machine->description.console_fd, "booting\n", 8), 8);
    assert_int_equal(ops->service_fds(test.instance, fds, 2), 1);
    ops->service(test.instance, fds[0]);
    assert_int_equal(ops->console(test.instance, text, sizeof(text)), 8);
    assert_memory_equal(text, "booting\n", 8);
    /* What it says last, and nobody has read when it is taken down, is kept too. */
    assert_int_equal(write(test.machine->description.console_fd, "bye\n", 4), 4);
    const struct host_wait now = host_wait_none();
    assert_int_equal(ops->stop(test.instance, &now, NULL), KELPIE_OK);
    assert_int_equal(ops->console(test.instance, text, sizeof(text)), 12);
    assert_int_equal(ops->service_fds(test.instance, fds, 2), 0);
}

static void an_end_is_known_and_told(void **state) {
    char text[256];
    (void)state;
    create();
    start();
    assert_false(has_ended());
    end("");
    assert_true(has_ended());
    ops->exit_text(test.instance, text, sizeof(text));
    assert_string_equal(text, "the machine ended: the guest powered off");
    const struct host_wait wait = wait_ms(WAIT_MS);
    assert_int_equal(ops->stop(test.instance, &wait, NULL), KELPIE_OK);
    assert_null(test.machine);
    start(); /* and again */
    ops->exit_text(test.instance, text, sizeof(text));
    assert_string_equal(text, "the machine is running");
    ops->kill(test.instance);
    assert_non_null(strstr(test.asked, "stop "));
    end("it was killed");
    assert_true(has_ended());
    ops->exit_text(test.instance, text, sizeof(text));
    assert_string_equal(text, "the machine ended: it was killed");
}

static void a_start_that_fails_leaves_nothing(void **state) {
    static const enum kelpie_status answers[][2] = {
        {KELPIE_BAD_CONFIG, KELPIE_BAD_CONFIG},
        {KELPIE_TIMED_OUT, KELPIE_BOOT_TIMED_OUT},
        {KELPIE_INTERNAL, KELPIE_BOOT_FAILED},
    };
    (void)state;
    create();
    for (size_t i = 0; i < ARRAY_SIZE(answers); i++) {
        struct kelpie_error err = {0};
        const struct host_wait wait = wait_ms(WAIT_MS);
        test.answer = answers[i][0];
        assert_int_equal(ops->start(test.instance, &wait, &err), answers[i][1]);
        assert_int_equal(ops->exit_fd(test.instance), HOST_FD_NONE);
        assert_null(test.machine);
    }
    test.answer = KELPIE_OK;
    start();
}

static void a_machine_is_saved_and_loaded_as_the_same(void **state) {
    struct kelpie_error err = {0};
    struct snapshot_writer *writer = NULL;
    struct snapshot_reader *reader = NULL;
    char path[96];
    (void)state;
    const struct host_wait wait = wait_ms(WAIT_MS);
    snprintf(path, sizeof(path), "%s/bundle", test.folder);
    create();
    assert_int_equal(snapshot_writer_create(test.host, NULL, 0, &writer, &err), KELPIE_OK);
    assert_int_equal(ops->save(test.instance, KELPIE_SNAPSHOT_SUSPEND, writer, &wait, &err),
                     KELPIE_WRONG_STATE);
    snapshot_writer_destroy(writer);
    assert_int_equal(ops->pause(test.instance, &wait, &err), KELPIE_WRONG_STATE);
    assert_int_equal(ops->resume(test.instance, &wait, &err), KELPIE_WRONG_STATE);
    start();
    assert_int_equal(ops->pause(test.instance, &wait, &err), KELPIE_OK);
    struct backend_vm vm = {.ops = ops,
                            .host = test.host,
                            .config = test.config,
                            .launch = test.launch,
                            .instance = test.instance};
    enum kelpie_status status = backend_vm_save(&vm, path, KELPIE_SNAPSHOT_SUSPEND, &err);
    if (status != KELPIE_OK) {
        fail_msg("save: %s", err.message);
    }
    backend_vm_stop(&vm, 0);
    assert_int_equal(snapshot_reader_open(test.host, path, &reader, &err), KELPIE_OK);
    const struct snapshot_manifest *manifest = snapshot_reader_manifest(reader);
    assert_string_equal(snapshot_manifest_feature(manifest, "vz-machine-identifier"), "bmV3");
    assert_true(manifest->memory_in_state);
    assert_int_equal(manifest->memory_mib, 128);
    assert_int_equal(ops->load(test.instance, reader, &wait, &err), KELPIE_OK);
    assert_string_equal(test.machine->identifier, "bmV3");
    assert_non_null(test.machine->description.identifier); /* and not a new one */
    assert_int_equal(ops->resume(test.instance, &wait, &err), KELPIE_OK);
    assert_string_equal(test.asked, "create start pause save create load resume ");
    backend_vm_stop(&vm, 0);
    test.answer = KELPIE_INTERNAL;
    assert_int_equal(ops->load(test.instance, reader, &wait, &err), KELPIE_INTERNAL);
    assert_null(test.machine);
    snapshot_reader_close(reader);
}

static void a_machine_with_a_writable_disk_is_not_saved(void **state) {
    struct kelpie_error err = {0};
    struct snapshot_writer *writer = NULL;
    (void)state;
    const struct host_wait wait = wait_ms(WAIT_MS);
    test.disks[0].path = "/a";
    test.config.disk_count = 1;
    create();
    start();
    assert_int_equal(snapshot_writer_create(test.host, NULL, 0, &writer, &err), KELPIE_OK);
    assert_int_equal(ops->save(test.instance, KELPIE_SNAPSHOT_SUSPEND, writer, &wait, &err),
                     KELPIE_UNSUPPORTED);
    assert_string_equal(err.field, "disks");
    snapshot_writer_destroy(writer);
}

static void a_machine_that_is_not_there_is_no_trouble(void **state) {
    struct kelpie_error err = {0};
    char text[64];
    int fd = HOST_FD_NONE;
    (void)state;
    const struct host_wait over = host_wait_none();
    create();
    ops->kill(test.instance);
    ops->exit_text(test.instance, text, sizeof(text));
    assert_string_equal(text, "the machine is not running");
    assert_int_equal(ops->service_fds(test.instance, &fd, 1), 0);
    assert_int_equal(ops->stop(test.instance, &over, &err), KELPIE_OK);
    assert_string_equal(test.asked, "");
    start();
    assert_int_equal(ops->service_fds(test.instance, &fd, 0), 0);
    assert_int_equal(ops->service_fds(test.instance, &fd, 1), 1);
    ops->service(test.instance, ops->channel_fd(test.instance)); /* no service of its own */
    assert_int_equal(ops->pause(test.instance, &over, &err), KELPIE_OK);
    assert_int_equal(test.timeout_ms, 0);
    const struct host_wait forever = {.deadline_ns = UINT64_MAX, .cancel_fd = HOST_FD_NONE};
    assert_int_equal(ops->resume(test.instance, &forever, &err), KELPIE_OK);
    assert_int_equal(test.timeout_ms, KELPIE_TIMEOUT_MS_MAX);
}

static void a_command_line_has_its_size(void **state) {
    static char args[VZ_COMMAND_LINE_SIZE_MAX];
    struct kelpie_error err = {0};
    (void)state;
    memset(args, 'a', sizeof(args) - 1);
    test.config.kernel_args = args;
    create();
    const struct host_wait wait = wait_ms(WAIT_MS);
    assert_int_equal(ops->start(test.instance, &wait, &err), KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, "kernel_args");
    assert_null(test.machine);
}

static void what_cannot_be_recognised_is_not_saved(void **state) {
    struct kelpie_error err = {0};
    char path[96];
    (void)state;
    const struct host_wait wait = wait_ms(WAIT_MS);
    snprintf(path, sizeof(path), "%s/bundle", test.folder);
    test.disks[0] = (struct kelpie_disk){.path = "/b", .read_only = true};
    test.config.disk_count = 1;
    create();
    start();
    assert_int_equal(ops->pause(test.instance, &wait, &err), KELPIE_OK);
    test.machine->identifier[0] = '\0';
    struct backend_vm vm = {.ops = ops,
                            .host = test.host,
                            .config = test.config,
                            .launch = test.launch,
                            .instance = test.instance};
    assert_int_equal(backend_vm_save(&vm, path, KELPIE_SNAPSHOT_SUSPEND, &err), KELPIE_INTERNAL);
    assert_non_null(strstr(err.message, "no identifier"));
}

/* All that a machine goes through; what was made is gone afterwards, however far it came. */
static enum kelpie_status live(const char *path, struct kelpie_error *err) {
    struct snapshot_reader *reader = NULL;
    const struct host_wait wait = wait_ms(WAIT_MS);
    test.asked[0] = '\0';
    enum kelpie_status status = vz_create_with(&calls, &test.launch, &test.instance, err);
    if (status != KELPIE_OK) {
        return status;
    }
    struct backend_vm vm = {.ops = ops,
                            .host = test.host,
                            .config = test.config,
                            .launch = test.launch,
                            .instance = test.instance};
    status = ops->start(test.instance, &wait, err);
    status = status ? status : ops->pause(test.instance, &wait, err);
    status = status ? status : backend_vm_save(&vm, path, KELPIE_SNAPSHOT_SUSPEND, err);
    if (status == KELPIE_OK) {
        backend_vm_stop(&vm, 0);
        status = snapshot_reader_open(test.host, path, &reader, err);
    }
    status = status ? status : ops->load(test.instance, reader, &wait, err);
    status = status ? status : ops->resume(test.instance, &wait, err);
    snapshot_reader_close(reader);
    ops->destroy(TAKE(test.instance));
    return status;
}

static void each_host_call_may_fail(void **state) {
    struct host *host = test.host;
    struct kelpie_error err = {0};
    char path[96];
    char left[256];
    bool fired = true;
    uint64_t count = 0;
    (void)state;
    assert_int_equal(fault_host_create(host, &test.host, &err), KELPIE_OK);
    test.launch.host = test.host;
    snprintf(path, sizeof(path), "%s/bundle", test.folder);
    for (; fired; count++) {
        fault_host_arm(test.host, &(struct fault_plan){.nth = count + 1});
        enum kelpie_status status = live(path, &err);
        const char *call = fault_host_fired(test.host);
        fired = call != NULL;
        fault_host_disarm(test.host);
        if (fault_host_leaks(test.host, left, sizeof(left)) != 0 || test.machine ||
            (!fired && status != KELPIE_OK)) {
            fail_msg("%s failed: %s, left %s", call ? call : "nothing", err.message, left);
        }
        assert_int_equal(host_path_remove_tree(host, path, NULL), KELPIE_OK);
    }
    assert_true(count > 50);
    host_destroy(test.host);
    test.host = host;
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        CASE(what_is_missing_is_told),
        CASE(a_machine_is_what_the_config_says),
        CASE(hazard_a15_read_only_is_the_frameworks_business),
        CASE(bytes_go_between_the_ends),
        CASE(an_end_is_known_and_told),
        CASE(a_start_that_fails_leaves_nothing),
        CASE(a_machine_is_saved_and_loaded_as_the_same),
        CASE(a_machine_with_a_writable_disk_is_not_saved),
        CASE(a_machine_that_is_not_there_is_no_trouble),
        CASE(a_command_line_has_its_size),
        CASE(what_cannot_be_recognised_is_not_saved),
        CASE(each_host_call_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
