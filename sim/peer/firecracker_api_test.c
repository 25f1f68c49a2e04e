/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Firecracker's API as a state machine: every operation, what it takes and refuses, and when. */
#include "sim/peer/firecracker_api.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"

struct fixture {
    struct firecracker_api api;
    struct http_request request;
    struct firecracker_order order;
    struct firecracker_answer answer;
    char body[FIRECRACKER_FAULT_SIZE + 4096]; /* of the last answer */
};

static int setup(void **state) {
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    assert_non_null(fixture);
    assert_true(firecracker_api_init(&fixture->api, "vm-1"));
    *state = fixture;
    return 0;
}

static int teardown(void **state) {
    struct fixture *fixture = *state;
    firecracker_api_deinit(&fixture->api);
    free(fixture);
    return 0;
}

static void restart(struct fixture *fixture) {
    firecracker_api_deinit(&fixture->api);
    assert_true(firecracker_api_init(&fixture->api, "vm-1"));
}

/* The whole request; an order is carried out, or fails with `fault`. Returns the status. */
static uint32_t ask_failing(struct fixture *fixture, enum http_method method, const char *path,
                            const char *body, const char *fault) {
    struct http_request *request = &fixture->request;
    request->method = method;
    snprintf(request->path, sizeof(request->path), "%s", path);
    request->body_size = body ? strlen(body) : 0;
    snprintf(request->body, sizeof(request->body), "%s", body ? body : "");
    memset(&fixture->order, 0, sizeof(fixture->order));
    enum firecracker_effect effect = FIRECRACKER_EFFECT_NONE;
    if (firecracker_api_begin(&fixture->api, request, &fixture->order, &fixture->answer)) {
        effect = fixture->order.effect;
        firecracker_api_end(&fixture->api, &fixture->order, fault, &fixture->answer);
    }
    fixture->order.effect = effect;
    uint32_t status = fixture->answer.status;
    assert_int_equal(fixture->answer.body == NULL, status == 204);
    snprintf(fixture->body, sizeof(fixture->body), "%s",
             fixture->answer.body ? fixture->answer.body : "");
    if (status == 400) {
        assert_non_null(strstr(fixture->body, "{\"fault_message\":\""));
    }
    firecracker_answer_deinit(&fixture->answer);
    return status;
}

static uint32_t ask(struct fixture *fixture, enum http_method method, const char *path,
                    const char *body) {
    return ask_failing(fixture, method, path, body, NULL);
}

static void takes(struct fixture *fixture, enum http_method method, const char *path,
                  const char *body) {
    if (ask(fixture, method, path, body) >= 400) {
        fail_msg("%s %s %s: %s", http_method_name(method), path, body ? body : "", fixture->body);
    }
}

static void refuses(struct fixture *fixture, enum http_method method, const char *path,
                    const char *body, const char *part) {
    assert_int_equal(ask(fixture, method, path, body), 400);
    if (!strstr(fixture->body, part)) {
        fail_msg("%s %s: \"%s\" is not in %s", http_method_name(method), path, part, fixture->body);
    }
}

#define BOOT_SOURCE "{\"kernel_image_path\":\"/k\"}"
#define START "{\"action_type\":\"InstanceStart\"}"
#define PAUSE "{\"state\":\"Paused\"}"
#define RESUME "{\"state\":\"Resumed\"}"
#define SAVE "{\"snapshot_path\":\"/s\",\"mem_file_path\":\"/m\"}"
#define LOAD                                                                                       \
    "{\"snapshot_path\":\"/s\",\"mem_backend\":{\"backend_type\":\"File\","                        \
    "\"backend_path\":\"/m\"}}"

static void start(struct fixture *fixture) {
    takes(fixture, HTTP_PUT, "/boot-source", BOOT_SOURCE);
    takes(fixture, HTTP_PUT, "/actions", START);
    assert_int_equal(fixture->order.effect, FIRECRACKER_EFFECT_START);
}

/* ---- Every operation -------------------------------------------------------------------------- */

/* What each takes, in the state in which it may come. */
static const struct {
    enum http_method method;
    const char *path;
    const char *body;
    enum firecracker_state state;
} good[] = {
    {HTTP_GET, "/", NULL, FIRECRACKER_NOT_STARTED},
    {HTTP_GET, "/version", NULL, FIRECRACKER_NOT_STARTED},
    {HTTP_GET, "/vm/config", NULL, FIRECRACKER_RUNNING},
    {HTTP_GET, "/machine-config", NULL, FIRECRACKER_NOT_STARTED},
    {HTTP_GET, "/balloon", NULL, FIRECRACKER_RUNNING},
    {HTTP_PUT, "/actions", "{\"action_type\":\"FlushMetrics\"}", FIRECRACKER_RUNNING},
    {HTTP_PUT, "/balloon", "{\"amount_mib\":64,\"deflate_on_oom\":true}", FIRECRACKER_NOT_STARTED},
    {HTTP_PUT, "/boot-source", BOOT_SOURCE, FIRECRACKER_NOT_STARTED},
    {HTTP_PUT, "/drives/{drive_id}",
     "{\"drive_id\":\"a\",\"is_root_device\":true,\"path_on_host\":\"/d\"}",
     FIRECRACKER_NOT_STARTED},
    {HTTP_PUT, "/entropy", "{}", FIRECRACKER_NOT_STARTED},
    {HTTP_PUT, "/logger", "{\"log_path\":\"/l\"}", FIRECRACKER_NOT_STARTED},
    {HTTP_PUT, "/machine-config", "{\"vcpu_count\":2,\"mem_size_mib\":256}",
     FIRECRACKER_NOT_STARTED},
    {HTTP_PUT, "/metrics", "{\"metrics_path\":\"/m\"}", FIRECRACKER_NOT_STARTED},
    {HTTP_PUT, "/network-interfaces/{iface_id}", "{\"iface_id\":\"a\",\"host_dev_name\":\"tap0\"}",
     FIRECRACKER_NOT_STARTED},
    {HTTP_PUT, "/serial", "{\"serial_out_path\":\"/c\"}", FIRECRACKER_NOT_STARTED},
    {HTTP_PUT, "/snapshot/create", SAVE, FIRECRACKER_PAUSED},
    {HTTP_PUT, "/snapshot/load", LOAD, FIRECRACKER_NOT_STARTED},
    {HTTP_PUT, "/vsock", "{\"guest_cid\":3,\"uds_path\":\"/v\"}", FIRECRACKER_NOT_STARTED},
    {HTTP_PATCH, "/balloon", "{\"amount_mib\":32}", FIRECRACKER_RUNNING},
    {HTTP_PATCH, "/drives/{drive_id}", "{\"drive_id\":\"a\",\"path_on_host\":\"/e\"}",
     FIRECRACKER_RUNNING},
    {HTTP_PATCH, "/machine-config", "{\"mem_size_mib\":512,\"vcpu_count\":1}",
     FIRECRACKER_NOT_STARTED},
    {HTTP_PATCH, "/network-interfaces/{iface_id}", "{\"iface_id\":\"a\"}", FIRECRACKER_RUNNING},
    {HTTP_PATCH, "/vm", PAUSE, FIRECRACKER_RUNNING},
};

/* With every device that an operation may need. */
static void reach(struct fixture *fixture, enum firecracker_state state) {
    restart(fixture);
    if (state == FIRECRACKER_NOT_STARTED) {
        return;
    }
    takes(fixture, HTTP_PUT, "/balloon", "{\"amount_mib\":1,\"deflate_on_oom\":false}");
    takes(fixture, HTTP_PUT, "/drives/a",
          "{\"drive_id\":\"a\",\"is_root_device\":false,\"path_on_host\":\"/d\"}");
    takes(fixture, HTTP_PUT, "/network-interfaces/a",
          "{\"iface_id\":\"a\",\"host_dev_name\":\"tap0\"}");
    start(fixture);
    if (state == FIRECRACKER_PAUSED) {
        takes(fixture, HTTP_PATCH, "/vm", PAUSE);
    }
    assert_int_equal(fixture->api.state, state);
}

static void real_path(const char *path, char *ret_path, size_t size) {
    const char *variable = strchr(path, '{');
    size_t fixed = variable ? (size_t)(variable - path) : strlen(path);
    assert_true(fixed + 2 < size);
    snprintf(ret_path, size, "%.*s%s", (int)fixed, path, variable ? "a" : "");
}

static void each_operation_takes_what_is_right(void **state) {
    struct fixture *fixture = *state;
    size_t count = 0;
    (void)firecracker_operations(&count);
    assert_int_equal(count, ARRAY_SIZE(good));
    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        char path[64];
        real_path(good[i].path, path, sizeof(path));
        reach(fixture, good[i].state);
        uint32_t status = ask(fixture, good[i].method, path, good[i].body);
        if (status != (good[i].method == HTTP_GET ? 200 : 204)) {
            fail_msg("%s %s: %u %s", http_method_name(good[i].method), path, status, fixture->body);
        }
    }
}

static void each_operation_refuses_what_is_no_body(void **state) {
    struct fixture *fixture = *state;
    static const char *const wrong[] = {"{",        "[]",   "7",    "null",
                                        "{\"a\":}", "{}{}", "\xff", "{\"bogus\":1}"};
    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        char path[64];
        real_path(good[i].path, path, sizeof(path));
        reach(fixture, good[i].state);
        if (good[i].method == HTTP_GET) {
            refuses(fixture, HTTP_GET, path, "{}", "GET request cannot have a body.");
            continue;
        }
        refuses(fixture, good[i].method, path, NULL,
                good[i].method == HTTP_PUT ? "Empty PUT request." : "Empty PATCH request.");
        for (size_t j = 0; j < ARRAY_SIZE(wrong); j++) {
            refuses(fixture, good[i].method, path, wrong[j], "deserializing the json body");
        }
    }
}

/* The i-th right body with one field of it changed. value: NULL takes the field out; taken over. */
static uint32_t ask_changed(struct fixture *fixture, size_t i, const char *name, json_t *value) {
    char path[64];
    json_t *body = json_loads(good[i].body, 0, NULL);
    assert_non_null(body);
    if (value) {
        assert_int_equal(json_object_set_new(body, name, value), 0);
    } else {
        (void)json_object_del(body, name);
    }
    char *text = json_dumps(body, JSON_COMPACT);
    assert_non_null(text);
    real_path(good[i].path, path, sizeof(path));
    reach(fixture, good[i].state);
    uint32_t status = ask(fixture, good[i].method, path, text);
    free(text);
    json_decref(body);
    return status;
}

/* A value that no field of that kind may have. */
static json_t *wrong_value(enum firecracker_kind kind) {
    switch (kind) {
    case FIRECRACKER_BOOLEAN:
        return json_integer(1);
    case FIRECRACKER_INTEGER:
        return json_real(1.0);
    case FIRECRACKER_STRING:
        return json_true();
    case FIRECRACKER_WORD:
        return json_string("bogus");
    case FIRECRACKER_OBJECT:
    case FIRECRACKER_LIST:
        return json_pack("[{s:i}]", "bogus", 1);
    case FIRECRACKER_LABELS:
        return json_pack("{s:i}", "a", 1);
    case FIRECRACKER_KIND_COUNT:
        break;
    }
    UNREACHABLE();
}

static void each_operation_refuses_each_wrong_field(void **state) {
    struct fixture *fixture = *state;
    size_t count = 0;
    const struct firecracker_operation *operations = firecracker_operations(&count);
    for (size_t i = 0; i < count; i++) {
        const struct firecracker_schema *schema = operations[i].schema;
        assert_string_equal(operations[i].path, good[i].path);
        assert_int_equal(operations[i].method, good[i].method);
        if (!schema) {
            continue;
        }
        assert_int_equal(ask_changed(fixture, i, "bogus", json_true()), 400);
        assert_non_null(strstr(fixture->body, "unknown field `bogus`"));
        for (size_t j = 0; j < schema->field_count; j++) {
            const struct firecracker_field *field = &schema->fields[j];
            assert_int_equal(ask_changed(fixture, i, field->name, wrong_value(field->kind)), 400);
            assert_non_null(strstr(fixture->body, "deserializing"));
            assert_int_equal(ask_changed(fixture, i, field->name, json_null()), 400);
            if (field->required && !operations[i].partial) {
                assert_int_equal(ask_changed(fixture, i, field->name, NULL), 400);
                assert_non_null(strstr(fixture->body, "missing field"));
            }
            if (field->kind == FIRECRACKER_INTEGER) {
                assert_int_equal(ask_changed(fixture, i, field->name, json_integer(field->min - 1)),
                                 400);
                assert_non_null(strstr(fixture->body, "out of range"));
            }
        }
    }
}

static void what_has_another_time_is_refused(void **state) {
    struct fixture *fixture = *state;
    size_t count = 0;
    const struct firecracker_operation *operations = firecracker_operations(&count);
    for (size_t i = 0; i < count; i++) {
        char path[64];
        real_path(good[i].path, path, sizeof(path));
        if (!(operations[i].when & FIRECRACKER_AFTER)) {
            reach(fixture, FIRECRACKER_RUNNING);
            refuses(fixture, good[i].method, path, good[i].body, "after starting the microVM");
            reach(fixture, FIRECRACKER_PAUSED);
            refuses(fixture, good[i].method, path, good[i].body, "after starting the microVM");
        }
        if (!(operations[i].when & FIRECRACKER_BEFORE)) {
            reach(fixture, FIRECRACKER_NOT_STARTED);
            refuses(fixture, good[i].method, path, good[i].body, "before starting the microVM");
        }
    }
}

static void unknown_paths_are_refused(void **state) {
    struct fixture *fixture = *state;
    static const char *const paths[] = {
        "/bogus",      "/vm/",     "//",          "/version/", "/drives/",        "/drives",
        "/drives/a/b", "/Version", "/vm/config?", "/snapshot", "/snapshot/delete"};
    for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
        refuses(fixture, HTTP_GET, paths[i], NULL, "Invalid request method and/or path: GET");
    }
    refuses(fixture, HTTP_PUT, "/version", "{}", "Invalid request method and/or path: PUT");
    refuses(fixture, HTTP_PATCH, "/boot-source", "{}", "Invalid request method and/or path");
}

/* ---- The machine's life ----------------------------------------------------------------------- */

static void a_machine_starts_pauses_and_goes_on(void **state) {
    struct fixture *fixture = *state;
    takes(fixture, HTTP_GET, "/", NULL);
    assert_string_equal(fixture->body, "{\"id\":\"vm-1\",\"state\":\"Not started\","
                                       "\"vmm_version\":\"1.17.0\",\"app_name\":\"Firecracker\"}");
    refuses(fixture, HTTP_PUT, "/actions", START, "without kernel configuration");
    start(fixture);
    takes(fixture, HTTP_GET, "/", NULL);
    assert_non_null(strstr(fixture->body, "\"Running\""));
    refuses(fixture, HTTP_PUT, "/actions", START, "after starting");
    refuses(fixture, HTTP_PUT, "/snapshot/create", SAVE, "not paused");
    takes(fixture, HTTP_PATCH, "/vm", PAUSE);
    assert_int_equal(fixture->order.effect, FIRECRACKER_EFFECT_PAUSE);
    takes(fixture, HTTP_PATCH, "/vm", PAUSE);
    takes(fixture, HTTP_GET, "/", NULL);
    assert_non_null(strstr(fixture->body, "\"Paused\""));
    takes(fixture, HTTP_PUT, "/snapshot/create", SAVE);
    assert_int_equal(fixture->order.effect, FIRECRACKER_EFFECT_SAVE);
    takes(fixture, HTTP_PATCH, "/vm", RESUME);
    assert_int_equal(fixture->order.effect, FIRECRACKER_EFFECT_RESUME);
    refuses(fixture, HTTP_PUT, "/snapshot/create", SAVE, "not paused");
    takes(fixture, HTTP_PUT, "/actions", "{\"action_type\":\"SendCtrlAltDel\"}");
    assert_int_equal(fixture->order.effect, FIRECRACKER_EFFECT_CTRL_ALT_DEL);
}

static void an_order_that_failed_changes_nothing(void **state) {
    struct fixture *fixture = *state;
    assert_int_equal(ask_failing(fixture, HTTP_PUT, "/boot-source", BOOT_SOURCE, "no kernel"), 400);
    assert_string_equal(fixture->body, "{\"fault_message\":\"no kernel\"}");
    refuses(fixture, HTTP_PUT, "/actions", START, "without kernel configuration");
    assert_false(fixture->api.configured);
    takes(fixture, HTTP_PUT, "/boot-source", BOOT_SOURCE);
    assert_int_equal(ask_failing(fixture, HTTP_PUT, "/actions", START, "no memory"), 400);
    assert_int_equal(fixture->api.state, FIRECRACKER_NOT_STARTED);
    start(fixture);
    assert_int_equal(ask_failing(fixture, HTTP_PATCH, "/vm", PAUSE, "no"), 400);
    assert_int_equal(fixture->api.state, FIRECRACKER_RUNNING);
}

static void a_load_comes_first_and_leads_to_paused_or_running(void **state) {
    struct fixture *fixture = *state;
    takes(fixture, HTTP_PUT, "/snapshot/load", LOAD);
    assert_int_equal(fixture->order.effect, FIRECRACKER_EFFECT_LOAD);
    assert_int_equal(fixture->api.state, FIRECRACKER_PAUSED);
    restart(fixture);
    takes(fixture, HTTP_PUT, "/snapshot/load",
          "{\"snapshot_path\":\"/s\",\"mem_file_path\":\"/m\",\"resume_vm\":true}");
    assert_int_equal(fixture->api.state, FIRECRACKER_RUNNING);
    refuses(fixture, HTTP_PUT, "/snapshot/load", LOAD, "after starting");
    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        const char *path = good[i].path;
        char id_path[64];
        bool harmless = good[i].method == HTTP_GET || strcmp(path, "/logger") == 0 ||
                        strcmp(path, "/metrics") == 0;
        if (good[i].state != FIRECRACKER_NOT_STARTED || strcmp(path, "/snapshot/load") == 0) {
            continue;
        }
        restart(fixture);
        real_path(path, id_path, sizeof(id_path));
        takes(fixture, good[i].method, id_path, good[i].body);
        assert_int_equal(ask(fixture, HTTP_PUT, "/snapshot/load", LOAD), harmless ? 204 : 400);
    }
}

static void a_load_has_one_memory(void **state) {
    struct fixture *fixture = *state;
    refuses(fixture, HTTP_PUT, "/snapshot/load", "{\"snapshot_path\":\"/s\"}",
            "either `mem_backend` or `mem_file_path` is required");
    refuses(fixture, HTTP_PUT, "/snapshot/load",
            "{\"snapshot_path\":\"/s\",\"mem_file_path\":\"/m\",\"mem_backend\":"
            "{\"backend_type\":\"File\",\"backend_path\":\"/m\"}}",
            "exclusively");
    refuses(fixture, HTTP_PUT, "/snapshot/load",
            "{\"snapshot_path\":\"/s\",\"mem_backend\":{\"backend_type\":\"File\"}}",
            "missing field `backend_path`");
    refuses(fixture, HTTP_PUT, "/snapshot/load",
            "{\"snapshot_path\":\"/s\",\"mem_file_path\":\"/m\",\"huge_pages\":\"2M\"}", "UFFD");
}

static void what_is_deprecated_says_so(void **state) {
    struct fixture *fixture = *state;
    struct http_request *request = &fixture->request;
    static const char *const bodies[] = {
        "{\"guest_cid\":3,\"uds_path\":\"/v\"}",
        "{\"guest_cid\":3,\"uds_path\":\"/v\",\"vsock_id\":\"x\"}"};
    for (size_t i = 0; i < ARRAY_SIZE(bodies); i++) {
        request->method = HTTP_PUT;
        snprintf(request->path, sizeof(request->path), "/vsock");
        request->body_size = strlen(bodies[i]);
        memcpy(request->body, bodies[i], request->body_size + 1);
        assert_true(
            firecracker_api_begin(&fixture->api, request, &fixture->order, &fixture->answer));
        firecracker_api_end(&fixture->api, &fixture->order, NULL, &fixture->answer);
        assert_int_equal(fixture->answer.deprecated, i == 1);
    }
}

/* ---- The config ------------------------------------------------------------------------------- */

static void the_machine_has_defaults_and_is_patched(void **state) {
    struct fixture *fixture = *state;
    takes(fixture, HTTP_GET, "/machine-config", NULL);
    assert_string_equal(fixture->body, "{\"vcpu_count\":1,\"mem_size_mib\":128,\"smt\":false,"
                                       "\"track_dirty_pages\":false,\"huge_pages\":\"None\"}");
    takes(fixture, HTTP_PUT, "/machine-config",
          "{\"vcpu_count\":4,\"mem_size_mib\":256,\"smt\":true,\"track_dirty_pages\":true}");
    takes(fixture, HTTP_PATCH, "/machine-config", "{\"mem_size_mib\":512}");
    takes(fixture, HTTP_GET, "/machine-config", NULL);
    assert_string_equal(fixture->body, "{\"vcpu_count\":4,\"mem_size_mib\":512,\"smt\":true,"
                                       "\"track_dirty_pages\":true,\"huge_pages\":\"None\"}");
    assert_int_equal(firecracker_api_memory_mib(&fixture->api), 512);
    assert_true(firecracker_api_tracks(&fixture->api));
    takes(fixture, HTTP_PUT, "/machine-config", "{\"vcpu_count\":1,\"mem_size_mib\":256}");
    assert_false(firecracker_api_tracks(&fixture->api));
    refuses(fixture, HTTP_PUT, "/machine-config", "{\"vcpu_count\":33,\"mem_size_mib\":256}",
            "out of range");
    refuses(fixture, HTTP_PUT, "/machine-config",
            "{\"vcpu_count\":3,\"mem_size_mib\":256,\"smt\":true}", "vCPU number");
    refuses(fixture, HTTP_PUT, "/machine-config", "{\"vcpu_count\":1,\"mem_size_mib\":0}",
            "memory size");
    refuses(fixture, HTTP_PATCH, "/machine-config", "{\"huge_pages\":\"2M\",\"mem_size_mib\":3}",
            "memory size");
    refuses(fixture, HTTP_PATCH, "/machine-config", "{}", "Empty PATCH request.");
    takes(fixture, HTTP_GET, "/machine-config", NULL);
    assert_non_null(strstr(fixture->body, "\"mem_size_mib\":256"));
}

static void a_balloon_fits_the_machine(void **state) {
    struct fixture *fixture = *state;
    refuses(fixture, HTTP_GET, "/balloon", NULL, "No balloon device");
    refuses(fixture, HTTP_PUT, "/balloon", "{\"amount_mib\":129,\"deflate_on_oom\":true}",
            "too large");
    takes(fixture, HTTP_PUT, "/balloon", "{\"amount_mib\":128,\"deflate_on_oom\":true}");
    refuses(fixture, HTTP_PATCH, "/machine-config", "{\"mem_size_mib\":127}", "balloon");
    start(fixture);
    takes(fixture, HTTP_PATCH, "/balloon", "{\"amount_mib\":5}");
    refuses(fixture, HTTP_PATCH, "/balloon", "{\"amount_mib\":129}", "too large");
    takes(fixture, HTTP_GET, "/balloon", NULL);
    assert_string_equal(fixture->body, "{\"amount_mib\":5,\"deflate_on_oom\":true}");
    restart(fixture);
    start(fixture);
    refuses(fixture, HTTP_PATCH, "/balloon", "{\"amount_mib\":5}", "No balloon device");
}

#define DRIVE(id, root)                                                                            \
    "{\"drive_id\":\"" id "\",\"is_root_device\":" root ",\"path_on_host\":\"/d\"}"

static void drives_are_added_and_replaced(void **state) {
    struct fixture *fixture = *state;
    takes(fixture, HTTP_PUT, "/drives/a", DRIVE("a", "true"));
    takes(fixture, HTTP_PUT, "/drives/a", DRIVE("a", "true"));
    refuses(fixture, HTTP_PUT, "/drives/b", DRIVE("b", "true"), "root block device");
    takes(fixture, HTTP_PUT, "/drives/b", DRIVE("b", "false"));
    refuses(fixture, HTTP_PUT, "/drives/c", DRIVE("b", "false"), "does not match");
    refuses(fixture, HTTP_PUT, "/drives/c-d", DRIVE("c-d", "false"), "alphanumeric");
    refuses(fixture, HTTP_PUT, "/drives/", DRIVE("", "false"), "cannot be empty");
    refuses(fixture, HTTP_PUT, "/drives/c", "{\"drive_id\":\"c\",\"is_root_device\":false}",
            "path_on_host");
    assert_int_equal(json_array_size(json_object_get(fixture->api.config, "drives")), 2);
    start(fixture);
    takes(fixture, HTTP_PATCH, "/drives/b", "{\"drive_id\":\"b\",\"path_on_host\":\"/new\"}");
    refuses(fixture, HTTP_PATCH, "/drives/c", "{\"drive_id\":\"c\"}", "Invalid block device");
    takes(fixture, HTTP_GET, "/vm/config", NULL);
    assert_non_null(strstr(fixture->body, "\"path_on_host\":\"/new\""));
    assert_non_null(strstr(fixture->body, "\"boot-source\":{\"kernel_image_path\":\"/k\"}"));
}

static void there_are_not_too_many_drives(void **state) {
    struct fixture *fixture = *state;
    for (int i = 0; i <= FIRECRACKER_DEVICE_COUNT_MAX; i++) {
        char path[32];
        char body[128];
        snprintf(path, sizeof(path), "/drives/d%d", i);
        snprintf(body, sizeof(body),
                 "{\"drive_id\":\"d%d\",\"is_root_device\":false,\"path_on_host\":\"/d\"}", i);
        assert_int_equal(ask(fixture, HTTP_PUT, path, body),
                         i < FIRECRACKER_DEVICE_COUNT_MAX ? 204 : 400);
    }
    takes(fixture, HTTP_PUT, "/drives/d3", DRIVE("d3", "true"));
}

static void interfaces_have_taps_and_addresses_of_their_own(void **state) {
    struct fixture *fixture = *state;
    takes(fixture, HTTP_PUT, "/network-interfaces/a",
          "{\"iface_id\":\"a\",\"host_dev_name\":\"t0\",\"guest_mac\":\"06:00:AC:10:00:02\"}");
    takes(fixture, HTTP_PUT, "/network-interfaces/a",
          "{\"iface_id\":\"a\",\"host_dev_name\":\"t0\",\"guest_mac\":\"06:00:AC:10:00:02\"}");
    refuses(fixture, HTTP_PUT, "/network-interfaces/b",
            "{\"iface_id\":\"b\",\"host_dev_name\":\"t0\"}", "host device name");
    refuses(fixture, HTTP_PUT, "/network-interfaces/b",
            "{\"iface_id\":\"b\",\"host_dev_name\":\"t1\",\"guest_mac\":\"06:00:AC:10:00:02\"}",
            "MAC address");
    refuses(fixture, HTTP_PUT, "/network-interfaces/b",
            "{\"iface_id\":\"b\",\"host_dev_name\":\"t1\",\"guest_mac\":\"06:00:AC:10:00\"}",
            "MAC address");
    refuses(fixture, HTTP_PUT, "/network-interfaces/b",
            "{\"iface_id\":\"b\",\"host_dev_name\":\"t1\",\"guest_mac\":\"06-00:AC:10:00:02\"}",
            "MAC address");
    takes(fixture, HTTP_PUT, "/network-interfaces/b",
          "{\"iface_id\":\"b\",\"host_dev_name\":\"t1\"}");
}

/* ---- Snapshots -------------------------------------------------------------------------------- */

/* What a machine with an interface, a socket device and a logger saves. */
static json_t *saved_config(struct fixture *fixture) {
    restart(fixture);
    takes(fixture, HTTP_PUT, "/network-interfaces/a",
          "{\"iface_id\":\"a\",\"host_dev_name\":\"t0\"}");
    takes(fixture, HTTP_PUT, "/vsock", "{\"guest_cid\":3,\"uds_path\":\"/old\"}");
    takes(fixture, HTTP_PUT, "/logger", "{\"log_path\":\"/old.log\"}");
    takes(fixture, HTTP_PUT, "/machine-config",
          "{\"vcpu_count\":2,\"mem_size_mib\":64,\"track_dirty_pages\":true}");
    start(fixture);
    takes(fixture, HTTP_PATCH, "/vm", PAUSE);
    json_t *saved = firecracker_api_saved(&fixture->api);
    assert_non_null(saved);
    assert_null(json_object_get(saved, "boot-source"));
    assert_null(json_object_get(saved, "logger"));
    restart(fixture);
    return saved;
}

/* Begins a load with these fields more, restores `saved` into it and ends it. */
static bool load(struct fixture *fixture, json_t *saved, const char *more,
                 char fault[FIRECRACKER_FAULT_SIZE]) {
    struct http_request *request = &fixture->request;
    request->method = HTTP_PUT;
    snprintf(request->path, sizeof(request->path), "/snapshot/load");
    int size = snprintf(request->body, sizeof(request->body),
                        "{\"snapshot_path\":\"/s\",\"mem_file_path\":\"/m\"%s}", more);
    request->body_size = (size_t)size;
    assert_true(firecracker_api_begin(&fixture->api, request, &fixture->order, &fixture->answer));
    bool restored = firecracker_api_restore(&fixture->api, &fixture->order, saved, fault);
    firecracker_api_end(&fixture->api, &fixture->order, restored ? NULL : fault, &fixture->answer);
    assert_int_equal(fixture->answer.status, restored ? 204 : 400);
    firecracker_answer_deinit(&fixture->answer);
    return restored;
}

static void a_restored_machine_is_the_saved_one(void **state) {
    struct fixture *fixture = *state;
    char fault[FIRECRACKER_FAULT_SIZE];
    json_t *saved = saved_config(fixture);
    takes(fixture, HTTP_PUT, "/logger", "{\"log_path\":\"/new.log\"}");
    assert_true(load(fixture, saved, "", fault));
    assert_int_equal(fixture->api.state, FIRECRACKER_PAUSED);
    assert_int_equal(firecracker_api_memory_mib(&fixture->api), 64);
    assert_false(firecracker_api_tracks(&fixture->api)); /* that is asked for anew */
    assert_string_equal(firecracker_api_text(&fixture->api, "vsock", "uds_path"), "/old");
    assert_string_equal(firecracker_api_text(&fixture->api, "logger", "log_path"), "/new.log");
    takes(fixture, HTTP_GET, "/vm/config", NULL);
    assert_null(strstr(fixture->body, "boot-source"));
    json_decref(saved);
}

static void a_load_overrides_socket_and_taps(void **state) {
    struct fixture *fixture = *state;
    char fault[FIRECRACKER_FAULT_SIZE];
    json_t *saved = saved_config(fixture);
    assert_true(load(fixture, saved,
                     ",\"vsock_override\":{\"uds_path\":\"/new\"},\"track_dirty_pages\":true,"
                     "\"network_overrides\":[{\"iface_id\":\"a\",\"host_dev_name\":\"t9\"}]",
                     fault));
    assert_string_equal(firecracker_api_text(&fixture->api, "vsock", "uds_path"), "/new");
    assert_true(firecracker_api_tracks(&fixture->api));
    takes(fixture, HTTP_GET, "/vm/config", NULL);
    assert_non_null(strstr(fixture->body, "\"host_dev_name\":\"t9\""));
    restart(fixture);
    assert_false(load(fixture, saved,
                      ",\"network_overrides\":[{\"iface_id\":\"b\",\"host_dev_name\":\"t9\"}]",
                      fault));
    assert_non_null(strstr(fault, "Unknown Network Device"));
    assert_int_equal(fixture->api.state, FIRECRACKER_NOT_STARTED);
    (void)json_object_del(saved, "vsock");
    assert_false(load(fixture, saved, ",\"vsock_override\":{\"uds_path\":\"/new\"}", fault));
    assert_non_null(strstr(fault, "Unknown Vsock Device"));
    json_decref(saved);
}

static void a_state_that_is_none_is_refused(void **state) {
    struct fixture *fixture = *state;
    char fault[FIRECRACKER_FAULT_SIZE];
    static const char *const wrong[] = {
        "{}",
        "[]",
        "{\"machine-config\":{}}",
        "{\"drives\":[],\"network-interfaces\":[],\"machine-config\":{\"mem_size_mib\":0}}",
        "{\"drives\":[],\"network-interfaces\":[7],\"machine-config\":{\"mem_size_mib\":1}}",
        ("{\"drives\":[],\"network-interfaces\":[],\"machine-config\":{\"mem_size_mib\":1},"
         "\"vsock\":{\"uds_path\":7}}")};
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
        json_t *saved = json_loads(wrong[i], 0, NULL);
        restart(fixture);
        assert_false(load(fixture, saved, "", fault));
        assert_non_null(strstr(fault, "describes no microVM"));
        json_decref(saved);
    }
}

static void an_instance_has_a_name(void **state) {
    char longest[FIRECRACKER_ID_SIZE_MAX + 2];
    (void)state;
    assert_true(firecracker_id_is_valid("a-1"));
    assert_false(firecracker_id_is_valid(""));
    assert_false(firecracker_id_is_valid("a_1"));
    memset(longest, 'a', sizeof(longest));
    longest[FIRECRACKER_ID_SIZE_MAX + 1] = '\0';
    assert_false(firecracker_id_is_valid(longest));
    longest[FIRECRACKER_ID_SIZE_MAX] = '\0';
    assert_true(firecracker_id_is_valid(longest));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(each_operation_takes_what_is_right),
        TEST(each_operation_refuses_what_is_no_body),
        TEST(each_operation_refuses_each_wrong_field),
        TEST(what_has_another_time_is_refused),
        TEST(unknown_paths_are_refused),
        TEST(a_machine_starts_pauses_and_goes_on),
        TEST(an_order_that_failed_changes_nothing),
        TEST(a_load_comes_first_and_leads_to_paused_or_running),
        TEST(a_load_has_one_memory),
        TEST(what_is_deprecated_says_so),
        TEST(the_machine_has_defaults_and_is_patched),
        TEST(a_balloon_fits_the_machine),
        TEST(drives_are_added_and_replaced),
        TEST(there_are_not_too_many_drives),
        TEST(interfaces_have_taps_and_addresses_of_their_own),
        TEST(a_restored_machine_is_the_saved_one),
        TEST(a_load_overrides_socket_and_taps),
        TEST(a_state_that_is_none_is_refused),
        TEST(an_instance_has_a_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
