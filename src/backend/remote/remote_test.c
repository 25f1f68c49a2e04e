/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * A handle whose owner says whatever a test wants: too little, nonsense, too late, twice. The owner is a thread that plays a
 * script (support/owner_host.h). What handles and real owners say to each other: tests/fault/owned_sweep_test.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "kelpie_store.h"
#include "supervise/control.h"
#include "support/owner_host.h"
#include "support/store_fixture.h"

#define WAIT_MS 10000
#define ARGV(...) ((const char *const[]){__VA_ARGS__, NULL})
#define OK(call) assert_int_equal(call, KELPIE_OK)
#define FINE "\"error\": {\"status\": 0}"
#define EVENT_COUNT_MAX 4

/* What an owner says. NULL stands for what an honest one would. */
struct script {
    const char *welcome;                 /* "config" and "version" are added unless `bare` */
    bool bare;                           /* it is said as it is */
    const char *events[EVENT_COUNT_MAX]; /* behind the welcome */
    const char *answer;                  /* to every request; "id" is added; "": none */
    const char *before;                  /* said before each answer, as it is */
    const char *to_cancel; /* the answer to a request that was cancelled; NULL: none */
    bool hang_up;          /* instead of an answer */
    json_t *heard;         /* the last request, and of the first its config */
    json_t *config;
    int begun_count;
};

static struct host *host;
static struct store_fixture fixture;

/* ---- The owner --------------------------------------------------------------------------------- */

static void say(struct host *on, int fd, json_t *json, bool with_fd) {
    struct host_wait wait = host_wait_ms(on, WAIT_MS, HOST_FD_NONE);
    int passed = HOST_FD_NONE;
    assert_non_null(json);
    if (with_fd) {
        OK(host_event_create(on, &passed, NULL));
    }
    (void)!control_send(on, fd, json, passed, &wait, NULL); /* the handle may be gone */
    host_close(on, passed);
    json_decref(json);
}

static void say_text(struct host *on, int fd, const char *text) {
    struct host_wait wait = host_wait_ms(on, WAIT_MS, HOST_FD_NONE);
    json_error_t error;
    json_t *json = json_loads(text, 0, &error);
    if (json) {
        say(on, fd, json, json_is_true(json_object_get(json, "with_fd")));
    } else { /* bytes that are no message */
        (void)!host_write_all(on, fd, text, strlen(text), &wait, NULL);
    }
}

static void welcome(struct host *on, int fd, struct script *script, const json_t *request) {
    json_error_t error;
    json_t *json = json_loads(script->welcome ? script->welcome : "{" FINE "}", 0, &error);
    assert_non_null(json);
    if (!script->bare) {
        json_t *config = json_pack("{s:s, s:s, s:i, s:i, s:i}", "name", "played", "working_dir",
                                   "/", "boot_timeout_ms", 5000, "stop_timeout_ms", 5000,
                                   "operation_timeout_ms", 5000);
        json_object_update_missing_new(json, json_pack("{s:i, s:i, s:s, s:s, s:s, s:o}",
                                                       "capabilities", 65535, "version",
                                                       CONTROL_VERSION, "name", "played", "vm_id",
                                                       "0123456789abcdef0123456789abcdef",
                                                       "backend", "mock", "config", config));
    }
    script->begun_count++;
    script->config = json_deep_copy(json_object_get(request, "config"));
    say(on, fd, json, false);
    static const char *const honest[] = {"{\"event\": \"state\", \"state\": 0, \"pid\": 7}",
                                         "{\"event\": \"ready\"}"};
    for (size_t i = 0; i < EVENT_COUNT_MAX; i++) {
        const char *event = script->events[0] ? script->events[i] : i < 2 ? honest[i] : NULL;
        if (event) {
            say_text(on, fd, event);
        }
    }
}

static void answer(struct host *on, int fd, const struct script *script, const char *text,
                   json_int_t id) {
    json_error_t error;
    json_t *json = json_loads(text, 0, &error);
    assert_non_null(json);
    json_object_set_new(json, "id", json_integer(id));
    if (script->before) {
        say_text(on, fd, script->before);
    }
    say(on, fd, json, false);
}

static void play(struct host *on, int fd, void *context) {
    struct script *script = context;
    struct control_reader reader;
    struct control_message message = {.fd = HOST_FD_NONE};
    struct host_wait wait = host_wait_ms(on, WAIT_MS, HOST_FD_NONE);
    bool greeted = false;
    control_reader_init(&reader, on, fd);
    while (control_receive(&reader, &wait, &message, NULL) == KELPIE_OK) {
        const char *op = control_text(message.json, "op");
        json_int_t id = (json_int_t)control_number(message.json, "id");
        json_decref(script->heard);
        script->heard = json_incref(message.json);
        bool ends = strcmp(op, "end") == 0 || (greeted && script->hang_up);
        if (!greeted) {
            welcome(on, fd, script, message.json);
            greeted = true;
        } else if (strcmp(op, "cancel") == 0) {
            id = (json_int_t)control_number(message.json, "target");
            if (script->to_cancel) {
                answer(on, fd, script, script->to_cancel, id);
            }
        } else if (!ends && (!script->answer || script->answer[0])) {
            answer(on, fd, script, script->answer ? script->answer : "{" FINE "}", id);
        }
        control_message_clear(on, &message);
        if (ends) {
            break;
        }
    }
    control_reader_deinit(&reader);
    host_close(on, fd);
}

static enum kelpie_status create(struct script *script, struct kelpie_vm **ret_vm,
                                 struct kelpie_error *err) {
    static const struct kelpie_owner owner = {.program = "owner"};
    const struct kelpie_config config = {.backend = "mock", .owner = &owner, .host = host};
    owner_host_play(play, script);
    *err = (struct kelpie_error){0};
    return kelpie_vm_create(&config, ret_vm, err);
}

static struct kelpie_vm *create_good(struct script *script) {
    struct kelpie_error err;
    struct kelpie_vm *vm = NULL;
    if (create(script, &vm, &err) != KELPIE_OK) {
        fail_msg("%s", err.message);
    }
    return vm;
}

static void forget(struct script *script) {
    (void)owner_host_join();
    json_decref(script->heard);
    json_decref(script->config);
    script->heard = NULL;
    script->config = NULL;
}

/* ---- The beginning ------------------------------------------------------------------------------ */

static void expect_no_vm(struct script script, enum kelpie_status status, const char *words) {
    struct kelpie_error err;
    struct kelpie_vm *vm = NULL;
    enum kelpie_status got = create(&script, &vm, &err);
    if (got != status || !strstr(err.message, words)) {
        fail_msg("%s: %s, not \"%s\"", kelpie_status_name(got), err.message, words);
    }
    assert_null(vm);
    forget(&script);
}

static void test_welcomes_that_are_none(void **state) {
    (void)state;
    static const char *const configs[] = {
        "{}",
        "{\"name\": \"a\"}",
        "{\"name\": \"a\", \"working_dir\": \"/\"}",
        "{\"name\": \"a\", \"working_dir\": \"/\", \"operation_timeout_ms\": 1}",
        ("{\"name\": \"a\", \"working_dir\": \"/\", \"operation_timeout_ms\": 1, "
         "\"boot_timeout_ms\": 1}"),
    };
    expect_no_vm((struct script){.welcome = "{}"}, KELPIE_INTERNAL, "what came of it");
    expect_no_vm((struct script){.welcome = "{\"error\": 7}"}, KELPIE_BAD_CONFIG, "");
    expect_no_vm(
        (struct script){.welcome = "{\"error\": {\"status\": 2, \"message\": \"not so\"}}"},
        (enum kelpie_status)2, "not so");
    expect_no_vm((struct script){.welcome = "{" FINE ", \"version\": 77}"}, KELPIE_INTERNAL,
                 "another version");
    expect_no_vm((struct script){.welcome = "{" FINE ", \"version\": 1}", .bare = true},
                 KELPIE_INTERNAL, "another version");
    expect_no_vm((struct script){.welcome = "{" FINE ", \"config\": {\"disks\": 1}}"},
                 KELPIE_BAD_CONFIG, "");
    for (size_t i = 0; i < ARRAY_SIZE(configs); i++) {
        char text[256];
        snprintf(text, sizeof(text), "{" FINE ", \"config\": %s}", configs[i]);
        expect_no_vm((struct script){.welcome = text}, KELPIE_INTERNAL, "what the VM is");
    }
}

#define CHANNEL(members) "{\"event\": \"channel\", " members "}"
#define PASSED ", \"fd\": true, \"with_fd\": true"

/* What cannot be ends a handle in the making, and one that is there. */
static const char *const impossible[] = {
    "{\"event\": \"state\", \"state\": 99}",
    "{\"event\": \"state\", \"state\": 2, \"pid\": 2147483648}",
    "{\"event\": \"state\", \"state\": 2, \"live_shares\": 4294967296}",
    CHANNEL("\"number\": 1, \"ids_first\": 65536, \"ids_count\": 65536"),
    CHANNEL("\"number\": 0, \"ids_first\": 65536, \"ids_count\": 65536" PASSED),
    CHANNEL("\"number\": 1, \"ids_first\": 0, \"ids_count\": 65536" PASSED),
    CHANNEL("\"number\": 1, \"ids_first\": 65536, \"ids_count\": 0" PASSED),
    CHANNEL("\"number\": 1, \"ids_first\": 4294967295, \"ids_count\": 65536" PASSED),
};

static void hazard_e4_what_cannot_be(void **state) {
    (void)state;
    struct kelpie_error err;
    for (size_t i = 0; i < ARRAY_SIZE(impossible); i++) {
        expect_no_vm((struct script){.events = {impossible[i]}}, KELPIE_INTERNAL, "cannot be");
        struct script script = {.before = impossible[i]};
        struct kelpie_vm *vm = create_good(&script);
        assert_int_equal(kelpie_vm_pause(vm, &err), KELPIE_CRASHED);
        assert_non_null(strstr(err.message, "cannot be"));
        assert_true(err.requires_recreate);
        assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_CRASHED);
        assert_int_equal(kelpie_vm_resume(vm, &err), KELPIE_CRASHED);
        kelpie_vm_close(vm);
        forget(&script);
    }
    expect_no_vm((struct script){.events = {"no message, and long enough for one"}},
                 KELPIE_INTERNAL, "a message");
}

static void test_what_is_no_message_ends_a_handle(void **state) {
    (void)state;
    static const char *const said[] = {
        "no message, and long enough for one",
        CHANNEL("\"fd\": true, \"number\": 1, \"ids_first\": 65536, \"ids_count\": 65536"),
    };
    struct kelpie_error err;
    for (size_t i = 0; i < ARRAY_SIZE(said); i++) {
        struct script script = {.before = said[i]};
        struct kelpie_vm *vm = create_good(&script);
        assert_int_equal(kelpie_vm_pause(vm, &err), KELPIE_CRASHED);
        kelpie_vm_destroy(vm); /* an end that is not told to anybody */
        forget(&script);
    }
}

/* More descriptors than messages that announce one. */
static void hazard_e4_descriptors_that_nobody_announced(void **state) {
    (void)state;
    struct script script = {.before = "{\"event\": \"later\", \"with_fd\": true}"};
    struct kelpie_vm *vm = create_good(&script);
    struct kelpie_error err;
    for (int i = 0; i < CONTROL_FD_COUNT_MAX; i++) { /* an event that nobody knows is none */
        OK(kelpie_vm_pause(vm, &err));
    }
    assert_int_equal(kelpie_vm_pause(vm, &err), KELPIE_CRASHED);
    kelpie_vm_close(vm);
    forget(&script);
}

/* A state of which the VM never was, an answer to nobody, and one that comes twice. */
static void test_what_is_taken_as_it_comes(void **state) {
    (void)state;
    static const char *const said[] = {
        "{\"event\": \"state\", \"state\": 4, \"pid\": 8}",
        "{\"id\": 4711, " FINE "}",
        "{\"id\": 1, " FINE "}",
    };
    for (size_t i = 0; i < ARRAY_SIZE(said); i++) {
        struct script script = {.before = said[i]};
        struct kelpie_vm *vm = create_good(&script);
        assert_int_equal(kelpie_vm_process_id(vm), 7);
        OK(kelpie_vm_record_working_set(vm, NULL));
        assert_int_equal(kelpie_vm_process_id(vm), i == 0 ? 8 : 7);
        kelpie_vm_close(vm);
        forget(&script);
    }
}

/* ---- Answers ------------------------------------------------------------------------------------ */

static void test_answers_that_are_none(void **state) {
    (void)state;
    static const char *const answers[] = {"{}", "{\"error\": 7}", "{" FINE "}",
                                          "{" FINE ", \"value\": 7}"};
    struct kelpie_error err;
    for (size_t i = 0; i < ARRAY_SIZE(answers); i++) {
        struct script script = {.answer = answers[i]};
        struct kelpie_vm *vm = create_good(&script);
        struct kelpie_stats stats = {.uptime_ns = 5};
        struct kelpie_exit ended = {.code = 5};
        struct kelpie_snapshot snapshot = {.created_unix_ms = 5};
        struct kelpie_restore_report report = {0};
        uint32_t id = 5;
        const struct kelpie_command command = {.argv = ARGV("true")};
        assert_int_not_equal(kelpie_vm_stats(vm, &stats, &err), KELPIE_OK);
        assert_int_equal(stats.uptime_ns, 5);
        assert_true(strlen(err.message) > 0);
        assert_int_not_equal(kelpie_vm_wait_detached(vm, 1000, &ended, &err), KELPIE_OK);
        assert_int_equal(ended.code, 5);
        assert_int_not_equal(kelpie_vm_snapshot(vm, "/b", NULL, &snapshot, &err), KELPIE_OK);
        assert_int_equal(snapshot.created_unix_ms, 5);
        assert_int_not_equal(kelpie_vm_restore_report(vm, &report, &err), KELPIE_OK);
        assert_int_not_equal(kelpie_vm_run_detached(vm, &command, &id, &err), KELPIE_OK);
        assert_int_equal(id, 5);
        kelpie_vm_close(vm);
        forget(&script);
    }
    struct script script = {.answer = "{" FINE ", \"exec_id\": 4294967296}"};
    struct kelpie_vm *vm = create_good(&script);
    uint32_t id = 5;
    const struct kelpie_command command = {.argv = ARGV("true")};
    assert_int_equal(kelpie_vm_run_detached(vm, &command, &id, NULL), KELPIE_INTERNAL);
    assert_int_equal(kelpie_vm_pause(vm, NULL), KELPIE_OK);
    kelpie_vm_close(vm);
    forget(&script);
}

/* Of each child something is told, or it has failed. */
static void test_children_of_which_nothing_is_told(void **state) {
    (void)state;
    struct script script = {
        .answer =
            "{" FINE ", \"children\": [null, {}, {\"name\": \"\", " FINE "}, {\"name\": \"\", "
            "\"error\": 7}, {\"error\": {\"status\": 2, \"message\": \"no room\"}}]}"};
    struct kelpie_vm *vm = create_good(&script);
    struct kelpie_fork_child children[6] = {0};
    OK(kelpie_vm_fork(vm, NULL, 6, children, NULL));
    for (size_t i = 0; i < 6; i++) {
        assert_null(children[i].vm);
        assert_int_equal(children[i].error.status, i == 4 ? 2 : KELPIE_INTERNAL);
    }
    assert_string_equal(children[4].error.message, "no room");
    script.answer = "{\"error\": {\"status\": 2, \"message\": \"no fork\"}}";
    assert_int_equal(kelpie_vm_fork(vm, NULL, 6, children, NULL), 2);
    kelpie_vm_close(vm);
    forget(&script);
}

/* A console's bytes come as characters; what no byte can be is cut, and nothing beyond the text is read. */
static void test_consoles(void **state) {
    (void)state;
    struct script script = {.answer = "{" FINE ", \"text\": \"a\\u00e9b\\u00ffc\"}"};
    struct kelpie_vm *vm = create_good(&script);
    uint8_t bytes[8] = {0};
    assert_int_equal(kelpie_vm_console(vm, bytes, sizeof(bytes)), 5);
    assert_memory_equal(bytes,
                        "a\xe9"
                        "b\xff"
                        "c",
                        5);
    assert_int_equal(kelpie_vm_console(vm, bytes, 3), 3); /* the last of them */
    assert_memory_equal(bytes,
                        "b\xff"
                        "c",
                        3);
    assert_int_equal(kelpie_vm_console(vm, bytes, 4), 4);
    assert_memory_equal(bytes,
                        "\xe9"
                        "b\xff"
                        "c",
                        4);
    script.answer = "{" FINE ", \"text\": \"\\u20ac\\ud83d\\ude00\\u20ac\"}";
    for (size_t size = 1; size < sizeof(bytes); size++) {
        assert_true(kelpie_vm_console(vm, bytes, size) <= size);
    }
    script.answer = "{\"error\": {\"status\": 2}}";
    assert_int_equal(kelpie_vm_console(vm, bytes, sizeof(bytes)), 0);
    kelpie_vm_close(vm);
    forget(&script);
}

static void test_an_owner_that_hangs_up(void **state) {
    (void)state;
    struct script script = {.hang_up = true};
    struct kelpie_vm *vm = create_good(&script);
    struct kelpie_error err;
    assert_int_equal(kelpie_vm_pause(vm, &err), KELPIE_CRASHED);
    assert_non_null(strstr(err.message, "owner is gone"));
    assert_int_equal(kelpie_vm_pause(vm, NULL), KELPIE_CRASHED);
    kelpie_vm_destroy(vm);
    forget(&script);
}

/* ---- Late ---------------------------------------------------------------------------------------- */

/* The time is over: the owner is told, and what it says then counts. */
static void test_an_answer_that_comes_late(void **state) {
    (void)state;
    static const struct {
        const char *to_cancel;
        enum kelpie_status status;
    } cases[] = {
        {"{\"error\": {\"status\": %d, \"message\": \"it was\"}}", KELPIE_TIMED_OUT},
        {"{" FINE ", \"value\": {\"code\": 3}}", KELPIE_OK},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        char text[128];
        snprintf(text, sizeof(text), "%s", cases[i].to_cancel);
        if (i == 0) {
            snprintf(text, sizeof(text), "{\"error\": {\"status\": %d, \"message\": \"it was\"}}",
                     KELPIE_CANCELLED);
        }
        struct script script = {.answer = "", .to_cancel = text};
        struct kelpie_vm *vm = create_good(&script);
        struct kelpie_exit ended = {0};
        assert_int_equal(kelpie_vm_wait_detached(vm, 30, &ended, NULL), cases[i].status);
        assert_int_equal(ended.code, i == 1 ? 3 : 0);
        assert_string_equal(control_text(script.heard, "op"), "cancel");
        kelpie_vm_close(vm);
        forget(&script);
    }
}

static void cancel_soon(void *argument) {
    usleep(30000);
    kelpie_vm_cancel(argument);
}

/* One that never says anything more is waited for a moment, no longer. */
static void hazard_e1_a_cancel_that_is_not_answered(void **state) {
    (void)state;
    struct script script = {.answer = ""};
    struct kelpie_vm *vm = create_good(&script);
    struct host_thread *thread = NULL;
    uint64_t start_ns = host_monotonic_ns(host);
    struct kelpie_error err;
    OK(host_thread_start(host, "cancel", cancel_soon, vm, &thread, NULL));
    assert_int_equal(kelpie_vm_start(vm, &err), KELPIE_CANCELLED);
    host_thread_join(thread);
    assert_true(host_monotonic_ns(host) - start_ns < 5000 * HOST_NS_PER_MS);
    kelpie_vm_close(vm);
    forget(&script);
}

/* ---- What is said --------------------------------------------------------------------------------- */

static void expect_path(const json_t *object, const char *name, const char *wanted) {
    char path[512];
    char folder[256];
    assert_non_null(getcwd(folder, sizeof(folder)));
    snprintf(path, sizeof(path), "%s/%s", folder, wanted);
    assert_string_equal(control_text(object, name), wanted[0] == '/' ? wanted : path);
}

/* The owner has another working folder. */
static void test_paths_are_absolute(void **state) {
    (void)state;
    struct script script = {.answer = "{" FINE ", \"value\": {}}"};
    const struct kelpie_owner owner = {.program = "./owner"};
    const struct kelpie_disk disks[] = {{.path = "disk"}, {.path = "/absolute"}};
    const struct kelpie_share share = {.path = "shared", .mount = "/mnt"};
    const struct kelpie_config config = {.owner = &owner,
                                         .backend = "mock",
                                         .kernel = "bzImage",
                                         .hypervisor = "./qemu",
                                         .console_log = "/log",
                                         .disks = disks,
                                         .disk_count = 2,
                                         .shares = &share,
                                         .share_count = 1,
                                         .host = host};
    struct kelpie_vm *vm = NULL;
    struct kelpie_error err = {0};
    owner_host_play(play, &script);
    if (kelpie_vm_create(&config, &vm, &err) != KELPIE_OK) {
        fail_msg("%s", err.message);
    }
    expect_path(script.config, "kernel", "bzImage");
    expect_path(script.config, "console_log", "/log");
    expect_path(script.config, "hypervisor", "./qemu");
    const json_t *list = json_object_get(script.config, "disks");
    expect_path(json_array_get(list, 0), "path", "disk");
    expect_path(json_array_get(list, 1), "path", "/absolute");
    expect_path(json_array_get(json_object_get(script.config, "shares"), 0), "path", "shared");
    expect_path(json_object_get(script.config, "owner"), "program", "./owner");
    struct kelpie_snapshot snapshot;
    const struct kelpie_snapshot_options options = {.parent = "parent"};
    if (kelpie_vm_snapshot(vm, "bundle", &options, &snapshot, &err) != KELPIE_OK) {
        fail_msg("%s", err.message);
    }
    expect_path(script.heard, "directory", "bundle");
    expect_path(json_object_get(script.heard, "options"), "parent", "parent");
    OK(kelpie_vm_restore(vm, "/bundle", NULL, NULL));
    expect_path(script.heard, "directory", "/bundle");
    /* Too long with the folder, and no text. */
    char path[KELPIE_PATH_SIZE_MAX + 1];
    memset(path, 'a', sizeof(path));
    path[KELPIE_PATH_SIZE_MAX] = '\0';
    assert_int_equal(kelpie_vm_restore(vm, path, NULL, &err), KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, "path");
    assert_int_equal(kelpie_vm_restore(vm, "/\xff\xfe", NULL, &err), KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, "directory");
    kelpie_vm_close(vm);
    forget(&script);
}

static void test_programs_that_do_not_start(void **state) {
    (void)state;
    static const struct kelpie_owner nameless = {0};
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = NULL;
    const struct kelpie_config config = {.backend = "mock", .owner = &nameless, .host = host};
    assert_int_equal(unsetenv("KELPIE_PROGRAM"), 0);
    owner_host_refuse(KELPIE_NOT_FOUND);
    assert_int_equal(kelpie_vm_create(&config, &vm, &err), KELPIE_NOT_FOUND);
    assert_string_equal(err.field, "owner.program");
    assert_non_null(strstr(err.message, "no program kelpie "));
    assert_int_equal(setenv("KELPIE_PROGRAM", "/opt/kelpie", 1), 0);
    assert_int_equal(kelpie_vm_create(&config, &vm, &err), KELPIE_NOT_FOUND);
    assert_non_null(strstr(err.message, "/opt/kelpie"));
    owner_host_refuse(KELPIE_NO_MEMORY);
    assert_int_equal(kelpie_vm_create(&config, &vm, &err), KELPIE_NO_MEMORY);
    owner_host_refuse(KELPIE_OK);
    assert_int_equal(unsetenv("KELPIE_PROGRAM"), 0);
}

/* ---- No memory for JSON ---------------------------------------------------------------------------- */

/* Of this thread: the nth allocation from now on fails, and all behind it; 0: none. */
static _Thread_local unsigned json_fails_at;
static _Thread_local unsigned json_count;

static void *json_allocate(size_t size) {
    json_count += json_fails_at != 0;
    return json_fails_at != 0 && json_count >= json_fails_at ? NULL : malloc(size);
}

static enum kelpie_status ask_all(struct kelpie_vm *vm, int which, struct kelpie_error *err) {
    struct kelpie_snapshot snapshot;
    struct kelpie_fork_child children[2] = {0};
    const struct kelpie_snapshot_options options = {.parent = "parent"};
    const struct kelpie_command command = {.argv = ARGV("true")};
    uint32_t id = 0;
    switch (which) {
    case 0:
        return kelpie_vm_stop(vm, 1000, err);
    case 1:
        return kelpie_vm_snapshot(vm, "bundle", &options, &snapshot, err);
    case 2:
        return kelpie_vm_restore(vm, "bundle", NULL, err);
    case 3:
        return kelpie_vm_fork(vm, NULL, 2, children, err);
    case 4:
        return kelpie_mock_fail(vm, KELPIE_MOCK_START, 1, err);
    default:
        return kelpie_vm_run_detached(vm, &command, &id, err);
    }
}

/* Nothing is said, then, and the next request is. */
static void hazard_d2_no_memory_for_a_request(void **state) {
    (void)state;
    struct script script = {.answer = "{" FINE ", \"value\": {}, \"exec_id\": 7}"};
    struct kelpie_vm *vm = create_good(&script);
    for (int which = 0; which < 6; which++) {
        unsigned failed = 0;
        enum kelpie_status status = KELPIE_NO_MEMORY;
        for (; status != KELPIE_OK; failed++) {
            struct kelpie_error err = {0};
            json_count = 0;
            json_fails_at = failed + 1;
            status = ask_all(vm, which, &err);
            json_fails_at = 0;
            assert_int_equal(err.status, status);
            assert_true(status == KELPIE_OK || strlen(err.message) > 5);
            assert_true(failed < 1000);
        }
        assert_true(failed > 2);
    }
    OK(kelpie_vm_pause(vm, NULL));
    kelpie_vm_close(vm);
    forget(&script);
}

static void hazard_d2_no_memory_for_a_config(void **state) {
    (void)state;
    enum kelpie_status status = KELPIE_NO_MEMORY;
    unsigned failed = 0;
    static const struct kelpie_owner owner = {.program = "./owner"};
    const struct kelpie_disk disk = {.path = "disk"};
    const struct kelpie_config config = {.owner = &owner,
                                         .backend = "mock",
                                         .kernel = "bzImage",
                                         .disks = &disk,
                                         .disk_count = 1,
                                         .host = host};
    for (; status != KELPIE_OK; failed++) {
        struct script script = {0};
        struct kelpie_error err = {0};
        struct kelpie_vm *vm = NULL;
        owner_host_play(play, &script);
        json_count = 0;
        json_fails_at = failed + 1;
        status = kelpie_vm_create(&config, &vm, &err);
        json_fails_at = 0;
        assert_int_equal(err.status, status);
        assert_true(status == KELPIE_OK || (!vm && strlen(err.message) > 5));
        assert_true(failed < 1000);
        kelpie_vm_close(vm);
        forget(&script);
    }
    assert_true(failed > 10);
}

/* ---- Opening one ---------------------------------------------------------------------------------- */

/* Nobody owns it: an owner is started, and another one's may have been quicker. */
static void test_a_vm_without_an_owner_gets_one(void **state) {
    (void)state;
    struct script script = {0};
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = NULL;
    struct store_vm place;
    OK(store_fixture_vm(fixture.store, host, "left", KELPIE_STATE_STOPPED, &place));
    store_vm_release(&place);
    owner_host_play(play, &script);
    OK(kelpie_vm_open(host, "left", &vm, &err));
    assert_int_equal(script.begun_count, 1);
    assert_string_equal(control_text(script.heard, "op"), "adopt");
    assert_string_equal(control_text(script.heard, "name"), "left");
    assert_string_equal(kelpie_vm_id(vm), "0123456789abcdef0123456789abcdef");
    kelpie_vm_close(vm);
    forget(&script);
    owner_host_refuse(KELPIE_NO_MEMORY);
    assert_int_equal(kelpie_vm_open(host, "left", &vm, &err), KELPIE_NO_MEMORY);
    owner_host_refuse(KELPIE_OK);
    assert_int_equal(kelpie_vm_open(host, "nobody", &vm, &err), KELPIE_NOT_FOUND);
}

static int set_up(void **state) {
    (void)state;
    json_set_alloc_funcs(json_allocate, free);
    if (!store_fixture_set_up(&fixture)) {
        return -1;
    }
    return owner_host_create(&host) == KELPIE_OK ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    host_destroy(host);
    return store_fixture_tear_down(&fixture) ? 0 : -1;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_welcomes_that_are_none),
        cmocka_unit_test(hazard_e4_what_cannot_be),
        cmocka_unit_test(test_what_is_no_message_ends_a_handle),
        cmocka_unit_test(hazard_e4_descriptors_that_nobody_announced),
        cmocka_unit_test(test_what_is_taken_as_it_comes),
        cmocka_unit_test(test_answers_that_are_none),
        cmocka_unit_test(test_children_of_which_nothing_is_told),
        cmocka_unit_test(test_consoles),
        cmocka_unit_test(test_an_owner_that_hangs_up),
        cmocka_unit_test(test_an_answer_that_comes_late),
        cmocka_unit_test(hazard_e1_a_cancel_that_is_not_answered),
        cmocka_unit_test(test_paths_are_absolute),
        cmocka_unit_test(test_programs_that_do_not_start),
        cmocka_unit_test(hazard_d2_no_memory_for_a_request),
        cmocka_unit_test(hazard_d2_no_memory_for_a_config),
        cmocka_unit_test(test_a_vm_without_an_owner_gets_one),
    };
    return cmocka_run_group_tests_name("remote", tests, set_up, tear_down);
}
