/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The vz backend whole, vz.c and vz_machine.m, over a double of Apple's framework (framework.h) and GNUstep's classes. After
 * each case no object is left. Without GNUstep's library all of it is skipped.
 */
#include "backend/vz/vz.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <pthread.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "snapshot/snapshot.h"
#include "support/backend_vm.h"
#include "vz/framework.h"

#if defined(KELPIE_VZ_DOUBLE)

#define WAIT_MS 10000
#define SHORT_MS 50
#define CONSOLE_PORT 0
#define CHANNEL_PORT 1

extern const struct vz_machine_calls vz_machine_calls;

static struct {
    struct host *host;
    struct backend_launch launch;
    struct kelpie_config config;
    struct kelpie_disk disks[2];
    char folder[64];
    struct backend_instance *instance;
    struct kelpie_error err;
} test;

static const struct backend_ops *const ops = &backend_vz_ops;
static const struct vz_double_script honest;

/* ---- Before and after ------------------------------------------------------------------------- */

static int setup(void **state) {
    (void)state;
    memset(&test, 0, sizeof(test));
    vz_double_reset(&honest);
    assert_int_equal(host_linux_create(&test.host, NULL), KELPIE_OK);
    snprintf(test.folder, sizeof(test.folder), "/tmp/kelpie-vz-machine-test-%d", getpid());
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

static void destroy(void) {
    if (test.instance) {
        ops->destroy(test.instance);
        test.instance = NULL;
    }
}

static int teardown(void **state) {
    char names[512];
    (void)state;
    destroy();
    vz_double_drop_held();
    assert_int_equal(host_path_remove_tree(test.host, test.folder, NULL), KELPIE_OK);
    host_destroy(test.host);
    if (vz_double_live(names, sizeof(names)) != 0) {
        fail_msg("left: %s and %d queues", names, vz_double_queue_count());
    }
    return 0;
}

static struct host_wait wait_ms(uint32_t ms) {
    return host_wait_ms(test.host, ms, HOST_FD_NONE);
}

static void create(void) {
    if (vz_create_with(&vz_machine_calls, &test.launch, &test.instance, &test.err) != KELPIE_OK) {
        fail_msg("create: %s", test.err.message);
    }
}

static enum kelpie_status start_within(uint32_t ms) {
    const struct host_wait wait = wait_ms(ms);
    return ops->start(test.instance, &wait, &test.err);
}

static void start(void) {
    if (start_within(WAIT_MS) != KELPIE_OK) {
        fail_msg("start: %s", test.err.message);
    }
}

/* What GNUstep makes once, it has made when a machine has run. */
static int warm_up(void **state) {
    setup(state);
    create();
    start();
    destroy();
    vz_double_set_baseline();
    return teardown(state);
}

static enum kelpie_status pause_within(uint32_t ms) {
    const struct host_wait wait = wait_ms(ms);
    return ops->pause(test.instance, &wait, &test.err);
}

static enum kelpie_status resume_within(uint32_t ms) {
    const struct host_wait wait = wait_ms(ms);
    return ops->resume(test.instance, &wait, &test.err);
}

/* The framework answers the calls so from now on; what it was told is forgotten. */
static void answer(enum vz_double_call call, enum vz_double_answer way) {
    struct vz_double_script script = honest;
    script.answers[call] = way;
    vz_double_reset(&script);
}

static bool ends_within(uint32_t ms) {
    struct host_poll_item item = {.fd = ops->exit_fd(test.instance), .asked = HOST_POLL_READ};
    const struct host_wait wait = wait_ms(ms);
    return host_poll(test.host, &item, 1, &wait, NULL) == KELPIE_OK;
}

static void assert_exit(const char *expected) {
    char text[256];
    ops->exit_text(test.instance, text, sizeof(text));
    assert_string_equal(text, expected);
}

static void assert_says(const char *part) {
    if (!strstr(test.err.message, part)) {
        fail_msg("\"%s\" does not say \"%s\"", test.err.message, part);
    }
}

/* ---- Create ----------------------------------------------------------------------------------- */

static void what_this_mac_lacks_is_told(void **state) {
    struct vz_double_script script = {.is_old = true};
    (void)state;
    vz_double_reset(&script);
    assert_int_equal(vz_create_with(&vz_machine_calls, &test.launch, &test.instance, &test.err),
                     KELPIE_BACKEND_MISSING);
    assert_says("macOS 14 or later is needed");
    script = (struct vz_double_script){.is_unsupported = true};
    vz_double_reset(&script);
    assert_int_equal(vz_create_with(&vz_machine_calls, &test.launch, &test.instance, &test.err),
                     KELPIE_BACKEND_MISSING);
    assert_says("com.apple.security.virtualization");
}

static void the_framework_is_told_what_the_config_says(void **state) {
    char expected[512];
    (void)state;
    test.disks[0].path = "/disks/a";
    test.disks[1] = (struct kelpie_disk){.path = "/disks/b", .read_only = true};
    test.config.disk_count = 2;
    create();
    start();
    const char *text = vz_double_description();
    assert_non_null(strstr(text, "kernel /"));
    assert_non_null(strstr(text, "\ninitramfs /"));
    snprintf(expected, sizeof(expected),
             "\ncommand line console=hvc0 quiet panic=-1\n"
             "2 processors, 134217728 bytes, 1 entropy\n"
             "port console, console\nport org.kelpie.channel\n"
             "disk /disks/a\ndisk /disks/b, read-only\n");
    const char *rest = strstr(text, "\ncommand line");
    assert_non_null(rest);
    assert_string_equal(rest, expected);
    assert_string_equal(vz_double_calls(), "start ");
}

static void ports_are_the_machines_ends(void **state) {
    char text[16] = {0};
    (void)state;
    create();
    start();
    assert_int_equal(write(vz_double_port_fd(CHANNEL_PORT), "frame", 5), 5);
    assert_int_equal(read(ops->channel_fd(test.instance), text, sizeof(text)), 5);
    assert_string_equal(text, "frame");
    assert_int_equal(write(vz_double_port_fd(CONSOLE_PORT), "hi\n", 3), 3);
    const struct host_wait now = host_wait_none();
    assert_int_equal(ops->stop(test.instance, &now, NULL), KELPIE_OK);
    assert_int_equal(ops->console(test.instance, text, sizeof(text)), 3);
}

static void a_refused_machine_says_why(void **state) {
    static const struct {
        struct vz_double_script script;
        const char *says;
    } cases[] = {
        {{.refuses = true}, "refuses this machine: too many processors"},
        {{.refuses_saving = true}, "refuses this machine: a device that cannot be saved"},
        {{.refuses_disks = true}, "cannot use the disk /disks/a: no such image"},
    };
    (void)state;
    test.disks[0].path = "/disks/a";
    test.config.disk_count = 1;
    create();
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        vz_double_reset(&cases[i].script);
        assert_int_equal(start_within(WAIT_MS), KELPIE_BAD_CONFIG);
        assert_says(cases[i].says);
        assert_string_equal(vz_double_calls(), "");
    }
    vz_double_reset(&honest);
    start();
}

static void texts_that_are_not_utf8_are_refused(void **state) {
    (void)state;
    create();
    test.config.kernel_args = "word=\xff";
    assert_int_equal(start_within(WAIT_MS), KELPIE_BAD_CONFIG);
    assert_string_equal(test.err.field, "kernel_args");
    test.config.kernel_args = NULL;
    test.disks[0].path = "/disks/\xff";
    test.config.disk_count = 1;
    assert_int_equal(start_within(WAIT_MS), KELPIE_BAD_CONFIG);
    assert_string_equal(test.err.field, "disks");
    test.config.disk_count = 0;
    start();
}

/* ---- Run -------------------------------------------------------------------------------------- */

static void a_machine_pauses_resumes_and_stops(void **state) {
    (void)state;
    create();
    start();
    assert_int_equal(pause_within(WAIT_MS), KELPIE_OK);
    assert_int_equal(pause_within(WAIT_MS), KELPIE_INTERNAL);
    assert_says("did not pause the machine: the state is another one");
    assert_int_equal(resume_within(WAIT_MS), KELPIE_OK);
    const struct host_wait now = host_wait_none();
    assert_int_equal(ops->stop(test.instance, &now, NULL), KELPIE_OK);
    assert_string_equal(vz_double_calls(), "start pause pause resume stop ");
    assert_int_equal(vz_double_abandoned(), 0);
    start(); /* and again */
    destroy();
    assert_int_equal(vz_double_abandoned(), 0);
}

static void an_nserror_is_told_with_its_text(void **state) {
    (void)state;
    create();
    answer(VZ_DOUBLE_START, VZ_DOUBLE_FAILS);
    assert_int_equal(start_within(WAIT_MS), KELPIE_BOOT_FAILED);
    assert_says("did not start the machine: the double fails");
    vz_double_reset(&honest);
    start();
    answer(VZ_DOUBLE_PAUSE, VZ_DOUBLE_FAILS);
    assert_int_equal(pause_within(WAIT_MS), KELPIE_INTERNAL);
    assert_says("did not pause the machine: the double fails");
    answer(VZ_DOUBLE_RESUME, VZ_DOUBLE_FAILS);
    assert_int_equal(pause_within(WAIT_MS), KELPIE_OK);
    assert_int_equal(resume_within(WAIT_MS), KELPIE_INTERNAL);
    assert_says("did not resume the machine: the double fails");
}

static void a_late_answer_finds_what_it_answers(void **state) {
    (void)state;
    create();
    start();
    answer(VZ_DOUBLE_PAUSE, VZ_DOUBLE_HOLDS);
    assert_int_equal(pause_within(SHORT_MS), KELPIE_TIMED_OUT);
    assert_says("did not pause the machine in ");
    assert_true(vz_double_answer_held());
    /* It answers nobody, and not the next question. */
    answer(VZ_DOUBLE_RESUME, VZ_DOUBLE_FAILS);
    assert_int_equal(resume_within(WAIT_MS), KELPIE_INTERNAL);
    vz_double_reset(&honest);
    assert_int_equal(resume_within(WAIT_MS), KELPIE_OK);
}

static void an_answer_that_never_comes_is_released(void **state) {
    (void)state;
    create();
    start();
    answer(VZ_DOUBLE_PAUSE, VZ_DOUBLE_HOLDS);
    assert_int_equal(pause_within(SHORT_MS), KELPIE_TIMED_OUT);
    destroy(); /* waits for an end that does not come */
    vz_double_drop_held();
    assert_int_equal(vz_double_abandoned(), 1);
}

/* Its start comes when nobody wants it any more: it is ended then. */
static void a_late_start_runs_for_nobody(void **state) {
    (void)state;
    create();
    answer(VZ_DOUBLE_START, VZ_DOUBLE_HOLDS);
    assert_int_equal(start_within(SHORT_MS), KELPIE_BOOT_TIMED_OUT);
    assert_int_equal(ops->exit_fd(test.instance), HOST_FD_NONE);
    assert_string_equal(vz_double_calls(), "start ");
    assert_true(vz_double_answer_held());
    char names[512];
    assert_int_equal(vz_double_live(names, sizeof(names)), 0);
    assert_string_equal(vz_double_calls(), "start stop ");
    assert_int_equal(vz_double_abandoned(), 0);
    vz_double_reset(&honest);
    start();
}

/* ---- The end ---------------------------------------------------------------------------------- */

static void an_end_is_told_once(void **state) {
    (void)state;
    create();
    start();
    assert_false(ends_within(0));
    vz_double_end(NULL);
    assert_true(ends_within(WAIT_MS));
    assert_exit("the machine ended: the guest powered off");
    vz_double_end("the disk is gone");
    ops->kill(test.instance);
    assert_int_equal(pause_within(WAIT_MS), KELPIE_INTERNAL); /* after the two on the queue */
    assert_exit("the machine ended: the guest powered off");
}

static void a_crash_is_told_with_its_text(void **state) {
    (void)state;
    create();
    start();
    vz_double_end("the disk is gone");
    assert_true(ends_within(WAIT_MS));
    assert_exit("the machine ended: the disk is gone");
    const struct host_wait wait = wait_ms(WAIT_MS);
    assert_int_equal(ops->stop(test.instance, &wait, NULL), KELPIE_OK);
    assert_string_equal(vz_double_calls(), "start ");
    start();
    assert_exit("the machine is running");
}

static void a_kill_ends_a_machine(void **state) {
    (void)state;
    create();
    start();
    ops->kill(test.instance);
    assert_true(ends_within(WAIT_MS));
    assert_exit("the machine ended: it was killed");
    destroy();
    assert_string_equal(vz_double_calls(), "start stop ");
}

static void a_kill_that_fails_says_so(void **state) {
    (void)state;
    create();
    start();
    answer(VZ_DOUBLE_STOP, VZ_DOUBLE_FAILS);
    ops->kill(test.instance);
    assert_true(ends_within(WAIT_MS));
    assert_exit("the machine ended: the double fails");
    vz_double_reset(&honest);
    destroy(); /* tries again */
    assert_string_equal(vz_double_calls(), "stop ");
    assert_int_equal(vz_double_abandoned(), 0);
}

/* A call that is under way is answered by the end, whether the framework answers it or not. */
static void *end_held_machine(void *text) {
    assert_true(vz_double_holds());
    vz_double_end(text);
    return NULL;
}

static void *kill_held_machine(void *unused) {
    (void)unused;
    assert_true(vz_double_holds());
    ops->kill(test.instance);
    usleep(SHORT_MS * 1000);
    vz_double_answer_held();
    return NULL;
}

static void while_it_waits(void *(*work)(void *), void *context, enum kelpie_status expected) {
    pthread_t thread;
    answer(VZ_DOUBLE_PAUSE, VZ_DOUBLE_HOLDS);
    assert_int_equal(pthread_create(&thread, NULL, work, context), 0);
    assert_int_equal(pause_within(WAIT_MS), expected);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_true(ends_within(WAIT_MS));
}

static void a_machine_that_ends_answers_who_waits(void **state) {
    char text[] = "the disk is gone";
    (void)state;
    create();
    start();
    while_it_waits(end_held_machine, text, KELPIE_INTERNAL);
    assert_says("did not pause the machine: the disk is gone");
    assert_exit("the machine ended: the disk is gone");
    assert_true(vz_double_answer_held()); /* it does answer, now */
}

/* It cannot be stopped while it is between two states. */
static void a_kill_comes_after_what_is_under_way(void **state) {
    (void)state;
    create();
    start();
    while_it_waits(kill_held_machine, NULL, KELPIE_OK);
    assert_exit("the machine ended: it was killed");
    assert_string_equal(vz_double_calls(), "pause stop ");
}

/* ---- Save and load ---------------------------------------------------------------------------- */

static enum kelpie_status save(const char *path) {
    struct backend_vm vm = {.ops = ops,
                            .host = test.host,
                            .config = test.config,
                            .launch = test.launch,
                            .instance = test.instance};
    return backend_vm_save(&vm, path, KELPIE_SNAPSHOT_SUSPEND, &test.err);
}

static enum kelpie_status load(const char *path) {
    struct snapshot_reader *reader = NULL;
    const struct host_wait wait = wait_ms(WAIT_MS);
    assert_int_equal(snapshot_reader_open(test.host, path, &reader, &test.err), KELPIE_OK);
    enum kelpie_status status = ops->load(test.instance, reader, &wait, &test.err);
    snapshot_reader_close(reader);
    return status;
}

static void a_saved_machine_is_loaded_as_the_same(void **state) {
    char path[96];
    (void)state;
    snprintf(path, sizeof(path), "%s/bundle", test.folder);
    create();
    start();
    assert_int_equal(save(path), KELPIE_INTERNAL); /* it runs */
    assert_says("did not save the machine: the state is another one");
    assert_int_equal(pause_within(WAIT_MS), KELPIE_OK);
    if (save(path) != KELPIE_OK) {
        fail_msg("save: %s", test.err.message);
    }
    destroy();
    create();
    vz_double_reset(&honest);
    assert_int_equal(load(path), KELPIE_OK);
    assert_int_equal(resume_within(WAIT_MS), KELPIE_OK);
    assert_string_equal(vz_double_calls(), "restore resume ");
}

static void a_load_that_fails_leaves_nothing(void **state) {
    char path[96];
    (void)state;
    snprintf(path, sizeof(path), "%s/bundle", test.folder);
    create();
    start();
    assert_int_equal(pause_within(WAIT_MS), KELPIE_OK);
    answer(VZ_DOUBLE_SAVE, VZ_DOUBLE_FAILS);
    assert_int_equal(save(path), KELPIE_INTERNAL);
    assert_says("did not save the machine: the double fails");
    vz_double_reset(&honest);
    assert_int_equal(save(path), KELPIE_OK);
    destroy();
    create();
    answer(VZ_DOUBLE_RESTORE, VZ_DOUBLE_FAILS);
    assert_int_equal(load(path), KELPIE_INTERNAL);
    assert_says("did not load the machine: the double fails");
    assert_int_equal(ops->exit_fd(test.instance), HOST_FD_NONE);
    assert_int_equal(vz_double_abandoned(), 0);
}

/* Straight to the calls: an identifier of no form that anything knows. */
static void an_identifier_that_is_none_is_refused(void **state) {
    static const char *const texts[] = {"not base64!", "bm9uZQ=="};
    struct vz_machine *machine = NULL;
    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        const struct vz_description description = {.identifier = texts[i]};
        assert_int_equal(vz_machine_calls.create(&description, &machine, &test.err),
                         KELPIE_SNAPSHOT_CORRUPT);
        assert_null(machine);
    }
}

/* What the runtime and GNUstep keep for ever. Objects are counted above; blocks and all that is C are still looked at. */
__attribute__((visibility("default"))) const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) {
    return "leak:libobjc.so\nleak:libgnustep-base.so\n";
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        CASE(what_this_mac_lacks_is_told),
        CASE(the_framework_is_told_what_the_config_says),
        CASE(ports_are_the_machines_ends),
        CASE(a_refused_machine_says_why),
        CASE(texts_that_are_not_utf8_are_refused),
        CASE(a_machine_pauses_resumes_and_stops),
        CASE(an_nserror_is_told_with_its_text),
        CASE(a_late_answer_finds_what_it_answers),
        CASE(an_answer_that_never_comes_is_released),
        CASE(a_late_start_runs_for_nobody),
        CASE(an_end_is_told_once),
        CASE(a_crash_is_told_with_its_text),
        CASE(a_kill_ends_a_machine),
        CASE(a_kill_that_fails_says_so),
        CASE(a_machine_that_ends_answers_who_waits),
        CASE(a_kill_comes_after_what_is_under_way),
        CASE(a_saved_machine_is_loaded_as_the_same),
        CASE(a_load_that_fails_leaves_nothing),
        CASE(an_identifier_that_is_none_is_refused),
    };
    return cmocka_run_group_tests(tests, warm_up, NULL);
}

#else

static void without_gnustep_the_framework_has_no_double(void **state) {
    (void)state;
    print_message("skipped: GNUstep's library, libBlocksRuntime or clang is missing "
                  "(tools/packages.txt)\n");
    skip();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_gnustep_the_framework_has_no_double),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#endif
