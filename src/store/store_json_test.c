/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Structures as JSON and back, and JSON that is none of ours. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/assert.h"
#include "store/json_fields.h"
#include "store/store_json.h"

static struct host *host;
static struct kelpie_error err;

static int set_up(void **state) {
    (void)state;
    return host_linux_create(&host, NULL) == KELPIE_OK ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    host_destroy(host);
    return 0;
}

/* Through text, as it goes to a file or another process. */
static json_t *pass_on(json_t *json) {
    char *text = NULL;
    json_t *back = NULL;
    assert_int_equal(store_json_format(json, &text, &err), KELPIE_OK);
    assert_null(strchr(text, '\n'));
    json_decref(json);
    assert_int_equal(store_json_parse(text, strlen(text), STORE_RECORD_SIZE_MAX, &back, &err),
                     KELPIE_OK);
    free(text);
    return back;
}

static json_t *parse(const char *text) {
    json_t *json = NULL;
    assert_int_equal(store_json_parse(text, strlen(text), STORE_RECORD_SIZE_MAX, &json, &err),
                     KELPIE_OK);
    return json;
}

/* ---- Round trips ------------------------------------------------------------------------------ */

#define ODD_TEXT "caf\xe9 \xff\x01" /* no UTF-8 */

static void assert_is_the_config(const struct kelpie_config *same) {
    assert_string_equal(same->name, "web");
    assert_string_equal(same->kernel_args, ""); /* which is not NULL */
    assert_null(same->kernel);
    assert_string_equal(same->hypervisor, "qemu");
    assert_null(same->host);
    assert_int_equal(same->memory_mib, UINT32_MAX);
    assert_true(same->console_bytes_max == UINT64_MAX);
    assert_int_equal(same->disk_count, 2);
    assert_string_equal(same->disks[0].path, "/a/" ODD_TEXT);
    assert_true(same->disks[0].read_only);
    assert_null(same->disks[1].mount);
    assert_string_equal(same->env[0], "A=" ODD_TEXT);
    assert_string_equal(same->env[2], "");
    assert_null(same->env[3]);
    assert_int_equal(same->mock->boot_delay_ms, UINT32_MAX);
    assert_int_equal(same->network->kind, KELPIE_NETWORK_USER);
    assert_int_equal(same->network->forward_count, 2);
    assert_int_equal(same->network->forwards[0].host_port, 65535);
    assert_true(same->network->forwards[1].udp);
    assert_true(same->owner->lifetime_ms == UINT64_MAX);
    assert_true(same->owner->idle_ms == INT64_MAX);
    assert_string_equal(same->owner->labels[0], "k=v");
    assert_int_equal(same->share_count, 2);
    assert_true(same->shares[0].copy);
    assert_false(same->shares[0].live);
    assert_true(same->shares[1].live);
}

static void a_config_comes_back(void **state) {
    (void)state;
    static const struct kelpie_disk disks[] = {
        {.path = "/a/" ODD_TEXT, .mount = "/", .read_only = true}, {.path = "b"}};
    static const struct kelpie_forward forwards[] = {{.host_port = 65535, .guest_port = 1},
                                                     {.host_port = 2, .udp = true}};
    static const struct kelpie_network network = {.kind = KELPIE_NETWORK_USER,
                                                  .mac = "02:00:00:00:00:01",
                                                  .forwards = forwards,
                                                  .forward_count = 2,
                                                  .host_loopback = true};
    static const struct kelpie_mock_config mock = {
        .boot_delay_ms = UINT32_MAX, .architecture = "aarch64", .fail_boot = true};
    static const char *const env[] = {"A=" ODD_TEXT, "B=", "", NULL};
    static const char *const labels[] = {"k=v", NULL};
    static const struct kelpie_owner owner = {.program = "/bin/kelpie",
                                              .lifetime_ms = UINT64_MAX,
                                              .idle_ms = INT64_MAX,
                                              .remove = true,
                                              .labels = labels};
    static const struct kelpie_share shares[] = {{.path = "/x", .mount = "/y", .copy = true},
                                                 {.path = "/x", .mount = "/z", .live = true}};
    const struct kelpie_config config = {
        .name = "web",
        .backend = "mock",
        .vcpu_count = 4,
        .memory_mib = UINT32_MAX,
        .kernel_args = "",
        .disks = disks,
        .disk_count = 2,
        .env = env,
        .console_bytes_max = UINT64_MAX,
        .mock = &mock,
        .network = &network,
        .owner = &owner,
        .hypervisor = "qemu",
        .image = "debian",
        .warm = true,
        .shares = shares,
        .share_count = 2,
        .host = host, /* which is left out */
    };
    json_t *json = NULL;
    struct store_config *back = NULL;
    assert_int_equal(store_json_config(&config, &json, &err), KELPIE_OK);
    json = pass_on(json);
    assert_int_equal(store_json_to_config(host, json, &back, &err), KELPIE_OK);
    json_decref(json);
    assert_is_the_config(&back->config);
    store_config_destroy(back);
}

static void an_empty_config_comes_back(void **state) {
    (void)state;
    const struct kelpie_config config = {0};
    json_t *json = NULL;
    struct store_config *back = NULL;
    assert_int_equal(store_json_config(&config, &json, &err), KELPIE_OK);
    assert_int_equal(json_object_size(json), 0);
    assert_int_equal(store_json_to_config(host, json, &back, &err), KELPIE_OK);
    json_decref(json);
    assert_memory_equal(&back->config, &config, sizeof(config));
    store_config_destroy(back);
}

static void a_command_comes_back(void **state) {
    (void)state;
    static const char *const argv[] = {"cat", ODD_TEXT, "", NULL};
    static const char *const env[] = {NULL}; /* empty, which is not NULL */
    static const struct kelpie_rlimit rlimits[] = {{7, 1024, UINT64_MAX}};
    const struct kelpie_command command = {.argv = argv,
                                           .env = env,
                                           .uid = 1000,
                                           .tty = true,
                                           .rows = 65535,
                                           .timeout_ms = 5,
                                           .rlimits = rlimits,
                                           .rlimit_count = 1};
    json_t *json = NULL;
    struct store_command *back = NULL;
    assert_int_equal(store_json_command(&command, &json, &err), KELPIE_OK);
    json = pass_on(json);
    assert_int_equal(store_json_to_command(host, json, &back, &err), KELPIE_OK);
    json_decref(json);
    assert_string_equal(back->command.argv[1], ODD_TEXT);
    assert_string_equal(back->command.argv[2], "");
    assert_null(back->command.argv[3]);
    assert_non_null(back->command.env);
    assert_null(back->command.env[0]);
    assert_int_equal(back->command.rows, 65535);
    assert_int_equal(back->command.rlimits[0].soft, 1024);
    assert_true(back->command.rlimits[0].hard == UINT64_MAX);
    store_command_destroy(back);
}

static void flat_structures_come_back(void **state) {
    (void)state;
    static const struct kelpie_vm_info info = {
        .id = "0123456789abcdef0123456789abcdef",
        .name = "web",
        .state = KELPIE_STATE_PAUSED,
        .owner_pid = 4711,
        .command_known = true,
        .command_ended = true,
        .command_exit = {.code = -1, .signal = 9, .timed_out = true, .stdout_bytes = 1ull << 62},
        .reason = "a guest said \xff\xfe"};
    static const struct kelpie_snapshot snapshot = {.id = "0123456789abcdef0123456789abcdef",
                                                    .kind = KELPIE_SNAPSHOT_CHECKPOINT,
                                                    .quiesced = true,
                                                    .bytes = INT64_MAX};
    static const struct kelpie_restore_report report = {.entropy = KELPIE_OUTCOME_DONE,
                                                        .machine_id = KELPIE_OUTCOME_UNSUPPORTED,
                                                        .clock_skew_ns = INT64_MIN};
    static const struct kelpie_stats stats = {.cpu_ns = 1, .exec_count = UINT32_MAX};
    static const struct kelpie_restore_options restore = {.paused = true, .timeout_ms = 7};
    static const struct {
        enum store_json_type type;
        const void *value;
        size_t size;
    } cases[] = {
        {STORE_JSON_INFO, &info, sizeof(info)},
        {STORE_JSON_SNAPSHOT, &snapshot, sizeof(snapshot)},
        {STORE_JSON_REPORT, &report, sizeof(report)},
        {STORE_JSON_EXIT, &info.command_exit, sizeof(info.command_exit)},
        {STORE_JSON_STATS, &stats, sizeof(stats)},
        {STORE_JSON_RESTORE_OPTIONS, &restore, sizeof(restore)},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        static union {
            struct kelpie_vm_info info;
            struct kelpie_restore_report report;
        } back;
        json_t *json = NULL;
        memset(&back, 0, sizeof(back));
        assert_int_equal(store_json_of(cases[i].type, cases[i].value, &json, &err), KELPIE_OK);
        json = pass_on(json);
        assert_int_equal(store_json_to(cases[i].type, json, &back, &err), KELPIE_OK);
        assert_memory_equal(&back, cases[i].value, cases[i].size);
        json_decref(json);
    }
}

/* A message is cut where the buffer ends, in the middle of a letter if it comes so. */
static void an_error_comes_back_whatever_it_quotes(void **state) {
    (void)state;
    struct kelpie_error sent = {0};
    struct kelpie_error back = {0};
    json_t *json = NULL;
    (void)!error_set_field(&sent, KELPIE_EXEC_FAILED, "argv", "%01022dä", 0);
    sent.os_error = ENOENT;
    sent.retriable = true;
    assert_int_equal((unsigned char)sent.message[sizeof(sent.message) - 2], 0xc3);
    assert_int_equal(store_json_of(STORE_JSON_ERROR, &sent, &json, &err), KELPIE_OK);
    json = pass_on(json);
    assert_int_equal(store_json_to(STORE_JSON_ERROR, json, &back, &err), KELPIE_OK);
    assert_memory_equal(&back, &sent, sizeof(sent));
    json_decref(json);
}

static void the_texts_of_options_lie_in_the_json(void **state) {
    (void)state;
    const struct kelpie_snapshot_options options = {
        .parent = "/a/" ODD_TEXT, .workspace = "/w/" ODD_TEXT, .track = true};
    struct kelpie_snapshot_options back = {0};
    json_t *json = NULL;
    assert_int_equal(store_json_of(STORE_JSON_SNAPSHOT_OPTIONS, &options, &json, &err), KELPIE_OK);
    json = pass_on(json);
    assert_int_equal(store_json_to(STORE_JSON_SNAPSHOT_OPTIONS, json, &back, &err), KELPIE_OK);
    assert_string_equal(back.parent, options.parent);
    /* Once more: the text is in its place by now. */
    assert_int_equal(store_json_to(STORE_JSON_SNAPSHOT_OPTIONS, json, &back, &err), KELPIE_OK);
    assert_string_equal(back.parent, options.parent);
    assert_string_equal(back.workspace, options.workspace);
    json_decref(json);
}

/* ---- What comes from outside ------------------------------------------------------------------ */

static void wrong_members_are_named(void **state) {
    (void)state;
    static const struct {
        const char *text;
        const char *field;
    } cases[] = {
        {"{\"name\": 7}", "name"},
        {"{\"name\": null}", "name"},
        {"{\"name\": {}}", "name"},
        {"{\"name\": {\"hex\": \"6\"}}", "name"},
        {"{\"name\": {\"hex\": \"6G\"}}", "name"},
        {"{\"name\": {\"hex\": \"6100\"}}", "name"}, /* a zero in it */
        {"{\"name\": {\"hex\": \"\"}}", "name"},
        {"{\"name\": {\"hex\": 61}}", "name"},
        {"{\"vcpu_count\": \"4\"}", "vcpu_count"},
        {"{\"vcpu_count\": -1}", "vcpu_count"},
        {"{\"vcpu_count\": 4294967296}", "vcpu_count"},
        {"{\"vcpu_count\": 1.5}", "vcpu_count"},
        {"{\"vcpu_count\": true}", "vcpu_count"},
        {"{\"console_bytes_max\": -2}", "console_bytes_max"},
        {"{\"warm\": 1}", "warm"},
        {"{\"env\": \"A=B\"}", "env"},
        {"{\"env\": [\"A=B\", 7]}", "env"},
        {"{\"env\": [{\"hex\": \"zz\"}]}", "env"},
        {"{\"disks\": {}}", "disks"},
        {"{\"disks\": [7]}", ""},
        {"{\"disks\": [{\"read_only\": \"yes\"}]}", "read_only"},
        {"{\"disks\": [{},{},{},{},{},{},{},{},{}]}", "disks"}, /* one too many */
        {"{\"network\": []}", ""},
        {"{\"network\": {\"kind\": 99}}", "kind"},
        {"{\"network\": {\"forwards\": [{\"host_port\": 65536}]}}", "host_port"},
        {"{\"mock\": 7}", ""},
        {"{\"owner\": \"me\"}", ""},
        {"{\"owner\": {\"labels\": 7}}", "labels"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct store_config *config = NULL;
        json_t *json = parse(cases[i].text);
        assert_int_equal(store_json_to_config(host, json, &config, &err), KELPIE_BAD_CONFIG);
        assert_string_equal(err.field, cases[i].field);
        assert_null(config);
        json_decref(json);
    }
}

static void texts_that_are_too_long_are_refused(void **state) {
    (void)state;
    char text[512];
    char name[KELPIE_NAME_SIZE_MAX + 2];
    struct kelpie_vm_info info = {0};
    memset(name, 'a', sizeof(name));
    for (size_t size = KELPIE_NAME_SIZE_MAX; size <= KELPIE_NAME_SIZE_MAX + 1; size++) {
        snprintf(text, sizeof(text), "{\"name\": \"%.*s\"}", (int)size, name);
        json_t *json = parse(text);
        assert_int_equal(store_json_to(STORE_JSON_INFO, json, &info, &err),
                         size > KELPIE_NAME_SIZE_MAX ? KELPIE_BAD_CONFIG : KELPIE_OK);
        json_decref(json);
    }
}

static void unknown_members_are_ignored(void **state) {
    (void)state;
    struct store_config *config = NULL;
    json_t *json =
        parse("{\"name\": \"web\", \"later\": {\"a\": [1, {}]}, \"disks\": [{\"x\": 1}]}");
    assert_int_equal(store_json_to_config(host, json, &config, &err), KELPIE_OK);
    assert_string_equal(config->config.name, "web");
    assert_int_equal(config->config.disk_count, 1);
    store_config_destroy(config);
    json_decref(json);
}

static void text_that_is_no_object_of_ours_is_refused(void **state) {
    (void)state;
    static const char *const texts[] = {
        "",
        "null",
        "7",
        "\"x\"",
        "[]",
        "{",
        "{}{}",
        "{\"a\":1,}",
        "{'a':1}",
        "{\"a\":1,\"a\":2}",
        "{\"a\":\xff}",
        "{\"a\":\"\xff\"}",
        "{\"a\":NaN}",
        "{\"a\":01}",
        "{\"a\":\"\\u0000\"}",
        "{\"a\":99999999999999999999999999}",
        "{\"a\":1e999}",
    };
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        json_t *json = NULL;
        assert_int_equal(
            store_json_parse(texts[i], strlen(texts[i]), STORE_RECORD_SIZE_MAX, &json, &err),
            KELPIE_BAD_CONFIG);
        assert_null(json);
    }
    json_t *json = NULL;
    assert_int_equal(store_json_parse("{}", 2, 1, &json, &err), KELPIE_BAD_CONFIG);
    assert_int_equal(store_json_parse("{}", 2, 2, &json, &err), KELPIE_OK);
    json_decref(json);
}

/* jansson recurses: thousands of levels would end the small stack of a thread. */
static void nesting_is_bounded(void **state) {
    (void)state;
    static char text[65536];
    json_t *json = NULL;
    for (size_t depth = 1; depth < sizeof(text) / 2 - 16;
         depth = depth < 20 ? depth + 1 : 2 * depth) {
        size_t size = (size_t)snprintf(text, sizeof(text), "{\"[[\\\"[\":");
        for (size_t i = 1; i < depth; i++) {
            text[size++] = '[';
        }
        text[size++] = '1';
        for (size_t i = 1; i < depth; i++) {
            text[size++] = ']';
        }
        text[size++] = '}';
        enum kelpie_status status =
            store_json_parse(text, size, STORE_RECORD_SIZE_MAX, &json, &err);
        assert_int_equal(status, depth <= STORE_JSON_DEPTH_MAX ? KELPIE_OK : KELPIE_BAD_CONFIG);
        if (status == KELPIE_OK) {
            json_decref(json);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_config_comes_back, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_empty_config_comes_back, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_command_comes_back, set_up, tear_down),
        cmocka_unit_test_setup_teardown(flat_structures_come_back, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_error_comes_back_whatever_it_quotes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_texts_of_options_lie_in_the_json, set_up, tear_down),
        cmocka_unit_test_setup_teardown(wrong_members_are_named, set_up, tear_down),
        cmocka_unit_test_setup_teardown(texts_that_are_too_long_are_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(unknown_members_are_ignored, set_up, tear_down),
        cmocka_unit_test_setup_teardown(text_that_is_no_object_of_ours_is_refused, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(nesting_is_bounded, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
