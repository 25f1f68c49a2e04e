/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "sim/peer/firecracker_api.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "sim/peer/firecracker_config.h"

#define BOTH (FIRECRACKER_BEFORE | FIRECRACKER_AFTER)
#define IS_PUT(path_of, body_of, when_it_may)                                                      \
    .method = HTTP_PUT, .path = (path_of), .schema = &(body_of), .when = (when_it_may)
#define IS_PATCH(path_of, body_of, when_it_may)                                                    \
    .method = HTTP_PATCH, .path = (path_of), .schema = &(body_of), .when = (when_it_may)
#define IS_GET(path_of) .method = HTTP_GET, .path = (path_of), .when = BOTH

static const struct firecracker_operation operations[] = {
    {IS_GET("/")},
    {IS_GET("/version")},
    {IS_GET("/vm/config")},
    {IS_GET("/machine-config"), .part = "machine-config"},
    {IS_GET("/balloon"), .part = "balloon"},
    {IS_PUT("/actions", firecracker_schema_action, BOTH), .harmless = true},
    {IS_PUT("/balloon", firecracker_schema_balloon, FIRECRACKER_BEFORE), .part = "balloon"},
    {IS_PUT("/boot-source", firecracker_schema_boot_source, FIRECRACKER_BEFORE),
     .effect = FIRECRACKER_EFFECT_KERNEL, .part = "boot-source"},
    {IS_PUT("/drives/{drive_id}", firecracker_schema_drive, FIRECRACKER_BEFORE),
     .effect = FIRECRACKER_EFFECT_DRIVE, .part = "drives"},
    {IS_PUT("/entropy", firecracker_schema_entropy, FIRECRACKER_BEFORE), .part = "entropy"},
    {IS_PUT("/logger", firecracker_schema_logger, FIRECRACKER_BEFORE), .harmless = true,
     .effect = FIRECRACKER_EFFECT_LOG, .part = "logger"},
    {IS_PUT("/machine-config", firecracker_schema_machine, FIRECRACKER_BEFORE),
     .part = "machine-config"},
    {IS_PUT("/metrics", firecracker_schema_metrics, FIRECRACKER_BEFORE), .harmless = true,
     .effect = FIRECRACKER_EFFECT_LOG, .part = "metrics"},
    {IS_PUT("/network-interfaces/{iface_id}", firecracker_schema_network, FIRECRACKER_BEFORE),
     .effect = FIRECRACKER_EFFECT_INTERFACE, .part = "network-interfaces"},
    {IS_PUT("/serial", firecracker_schema_serial, FIRECRACKER_BEFORE),
     .effect = FIRECRACKER_EFFECT_SERIAL},
    {IS_PUT("/snapshot/create", firecracker_schema_snapshot_create, FIRECRACKER_AFTER),
     .effect = FIRECRACKER_EFFECT_SAVE},
    {IS_PUT("/snapshot/load", firecracker_schema_snapshot_load, FIRECRACKER_BEFORE),
     .effect = FIRECRACKER_EFFECT_LOAD},
    {IS_PUT("/vsock", firecracker_schema_vsock, FIRECRACKER_BEFORE),
     .effect = FIRECRACKER_EFFECT_VSOCK, .part = "vsock"},
    {IS_PATCH("/balloon", firecracker_schema_balloon_update, FIRECRACKER_AFTER), .part = "balloon"},
    {IS_PATCH("/drives/{drive_id}", firecracker_schema_partial_drive, FIRECRACKER_AFTER),
     .effect = FIRECRACKER_EFFECT_DRIVE, .part = "drives"},
    {IS_PATCH("/machine-config", firecracker_schema_machine, FIRECRACKER_BEFORE), .partial = true,
     .part = "machine-config"},
    {IS_PATCH("/network-interfaces/{iface_id}", firecracker_schema_partial_network,
              FIRECRACKER_AFTER),
     .part = "network-interfaces"},
    {IS_PATCH("/vm", firecracker_schema_vm, FIRECRACKER_AFTER)},
};

const struct firecracker_operation *firecracker_operations(size_t *ret_count) {
    ASSERT(ret_count);
    ASSERT(operations[0].path);
    *ret_count = ARRAY_SIZE(operations);
    return operations;
}

static void api_check(const struct firecracker_api *api) {
    ASSERT(api);
    ASSERT(api->config);
    ASSERT((unsigned)api->state < FIRECRACKER_STATE_COUNT);
}

/* ---- Making one ------------------------------------------------------------------------------- */

bool firecracker_id_is_valid(const char *id) {
    ASSERT(id);
    size_t size = strlen(id);
    for (size_t i = 0; i < size; i++) {
        char c = id[i];
        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
              c == '-')) {
            return false;
        }
    }
    return size > 0 && size <= FIRECRACKER_ID_SIZE_MAX;
}

bool firecracker_api_init(struct firecracker_api *api, const char *id) {
    ASSERT(api);
    ASSERT(firecracker_id_is_valid(id));
    *api = (struct firecracker_api){.config = firecracker_config_create()};
    snprintf(api->id, sizeof(api->id), "%s", id);
    return api->config != NULL;
}

void firecracker_api_deinit(struct firecracker_api *api) {
    ASSERT(api);
    ASSERT((unsigned)api->state < FIRECRACKER_STATE_COUNT);
    json_decref(api->config);
    *api = (struct firecracker_api){0};
}

/* ---- Answers ---------------------------------------------------------------------------------- */

/* Takes the reference. */
static void answer_json(struct firecracker_answer *answer, uint32_t status, json_t *body) {
    ASSERT(!answer->body);
    ASSERT(status >= 200);
    char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    json_decref(body);
    answer->status = text ? status : 500; /* without memory: an answer without a body */
    answer->body = text;
    answer->body_size = text ? strlen(text) : 0;
}

void firecracker_answer_fault(struct firecracker_answer *answer, uint32_t status,
                              const char *fault) {
    ASSERT(status == 400 || status == 500);
    ASSERT(fault);
    *answer = (struct firecracker_answer){0};
    answer_json(answer, status, json_pack("{s:s}", "fault_message", fault));
}

void firecracker_answer_deinit(struct firecracker_answer *answer) {
    ASSERT(answer);
    ASSERT(answer->body || answer->body_size == 0);
    free(answer->body);
    *answer = (struct firecracker_answer){0};
}

static bool refuse(struct firecracker_answer *answer, const char *fault) {
    ASSERT(fault);
    ASSERT(!answer->body);
    firecracker_answer_fault(answer, 400, fault);
    return false;
}

/* ---- Paths ------------------------------------------------------------------------------------ */

/* The path of an operation with an id ends with "{…}", which stands for one part of a request's path: *ret_id. */
static bool path_matches(const char *template, const char *path, const char **ret_id) {
    const char *variable = strchr(template, '{');
    size_t fixed = variable ? (size_t)(variable - template) : strlen(template);
    ASSERT(template[0] == '/');
    ASSERT(fixed > 0);
    if (!variable) {
        return strcmp(template, path) == 0;
    }
    if (strncmp(template, path, fixed) != 0 || strchr(path + fixed, '/')) {
        return false;
    }
    *ret_id = path + fixed;
    return true;
}

static const struct firecracker_operation *find(const struct http_request *request,
                                                const char **ret_id) {
    ASSERT(request->path[0] == '/');
    ASSERT(ret_id);
    for (size_t i = 0; i < ARRAY_SIZE(operations); i++) {
        if (operations[i].method == request->method &&
            path_matches(operations[i].path, request->path, ret_id)) {
            return &operations[i];
        }
    }
    return NULL;
}

/* The path's id is the body's. */
static bool check_id(const struct firecracker_order *order, const char *id,
                     struct firecracker_answer *answer) {
    const char *field = firecracker_config_id(order->operation->part);
    ASSERT(field);
    const char *body_id = json_string_value(json_object_get(order->body, field));
    ASSERT(body_id);
    if (id[0] == '\0') {
        return refuse(answer, "The ID cannot be empty.");
    }
    for (const char *c = id; *c; c++) {
        if (!((*c >= '0' && *c <= '9') || (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') ||
              *c == '_')) {
            return refuse(answer, "API Resource IDs can only contain alphanumeric characters and "
                                  "underscores.");
        }
    }
    if (strlen(id) > FIRECRACKER_ID_SIZE_MAX) {
        return refuse(answer, "The ID is too long.");
    }
    return strcmp(id, body_id) == 0 ||
           refuse(answer, "The id from the path does not match the id from the body!");
}

/* ---- Requests --------------------------------------------------------------------------------- */

/* Everything about the request that does not depend on what came before. */
static bool parse(const struct http_request *request, struct firecracker_order *order,
                  struct firecracker_answer *answer) {
    static const char *const wrong_body[] = {[HTTP_GET] = "GET request cannot have a body.",
                                             [HTTP_PUT] = "Empty PUT request.",
                                             [HTTP_PATCH] = "Empty PATCH request."};
    char fault[FIRECRACKER_FAULT_SIZE];
    const char *id = NULL;
    json_error_t error;
    ASSERT((unsigned)request->method < HTTP_METHOD_COUNT);
    ASSERT(!order->body);
    if ((request->method == HTTP_GET) != (request->body_size == 0)) {
        return refuse(answer, wrong_body[request->method]);
    }
    order->operation = find(request, &id);
    if (!order->operation) {
        snprintf(fault, sizeof(fault), "Invalid request method and/or path: %s %.256s.",
                 http_method_name(request->method), request->path);
        return refuse(answer, fault);
    }
    if (!order->operation->schema) {
        return true;
    }
    order->body = json_loadb(request->body, request->body_size, JSON_REJECT_DUPLICATES, &error);
    if (!order->body) {
        snprintf(fault, sizeof(fault),
                 "An error occurred when deserializing the json body of a request: %s at line %d "
                 "column %d.",
                 error.text, error.line, error.column);
        return refuse(answer, fault);
    }
    if (!firecracker_schema_check(order->operation->schema, order->body, order->operation->partial,
                                  &order->deprecated, fault)) {
        return refuse(answer, fault);
    }
    return !id || check_id(order, id, answer);
}

static bool check_action(const struct firecracker_api *api, struct firecracker_order *order,
                         struct firecracker_answer *answer) {
    const char *action = json_string_value(json_object_get(order->body, "action_type"));
    ASSERT(action);
    ASSERT(order->effect == FIRECRACKER_EFFECT_NONE);
    bool start = strcmp(action, "InstanceStart") == 0;
    if (start && api->state != FIRECRACKER_NOT_STARTED) {
        return refuse(answer,
                      "The requested operation is not supported after starting the microVM.");
    }
    if (!start && api->state == FIRECRACKER_NOT_STARTED) {
        return refuse(answer,
                      "The requested operation is not supported before starting the microVM.");
    }
    if (start && !json_object_get(api->config, "boot-source")) {
        return refuse(answer, "Start microvm error: Cannot start microvm without kernel "
                              "configuration.");
    }
    if (start) {
        order->effect = FIRECRACKER_EFFECT_START;
    } else if (strcmp(action, "SendCtrlAltDel") == 0) {
        order->effect = FIRECRACKER_EFFECT_CTRL_ALT_DEL;
    }
    return true;
}

static bool check_when(const struct firecracker_api *api, const struct firecracker_order *order,
                       struct firecracker_answer *answer) {
    bool started = api->state != FIRECRACKER_NOT_STARTED;
    ASSERT(order->operation);
    ASSERT(order->operation->when != 0);
    if (started && !(order->operation->when & FIRECRACKER_AFTER)) {
        return refuse(answer,
                      "The requested operation is not supported after starting the microVM.");
    }
    if (!started && !(order->operation->when & FIRECRACKER_BEFORE)) {
        return refuse(answer,
                      "The requested operation is not supported before starting the microVM.");
    }
    return true;
}

/* In place of a `switch`: what is special about an operation that is not in the table. */
static bool check_more(const struct firecracker_api *api, struct firecracker_order *order,
                       struct firecracker_answer *answer) {
    const struct firecracker_schema *schema = order->operation->schema;
    char fault[FIRECRACKER_FAULT_SIZE];
    ASSERT(order->effect == order->operation->effect);
    ASSERT(schema && order->body);
    if (schema == &firecracker_schema_action) {
        return check_action(api, order, answer);
    }
    if (schema == &firecracker_schema_vm) {
        const char *state = json_string_value(json_object_get(order->body, "state"));
        order->effect =
            strcmp(state, "Paused") == 0 ? FIRECRACKER_EFFECT_PAUSE : FIRECRACKER_EFFECT_RESUME;
        return true;
    }
    if (order->effect == FIRECRACKER_EFFECT_SAVE && api->state != FIRECRACKER_PAUSED) {
        return refuse(answer, "Create snapshot error: the microVM is not paused.");
    }
    if (order->effect == FIRECRACKER_EFFECT_LOAD && api->configured) {
        return refuse(answer, "Load snapshot error: Loading a microVM snapshot not allowed after "
                              "configuring boot-specific resources.");
    }
    return firecracker_config_check(api->config, order, fault) || refuse(answer, fault);
}

static void answer_get(const struct firecracker_api *api,
                       const struct firecracker_operation *operation,
                       struct firecracker_answer *answer) {
    static const char *const states[] = {[FIRECRACKER_NOT_STARTED] = "Not started",
                                         [FIRECRACKER_RUNNING] = "Running",
                                         [FIRECRACKER_PAUSED] = "Paused"};
    static_assert(ARRAY_SIZE(states) == FIRECRACKER_STATE_COUNT, "each state has a name");
    ASSERT(operation->method == HTTP_GET);
    ASSERT(!answer->body);
    if (operation->part) {
        json_t *part = json_object_get(api->config, operation->part);
        if (!part) {
            (void)refuse(answer, "Balloon config error: No balloon device found.");
            return;
        }
        answer_json(answer, 200, json_incref(part));
    } else if (strcmp(operation->path, "/version") == 0) {
        answer_json(answer, 200, json_pack("{s:s}", "firecracker_version", FIRECRACKER_VERSION));
    } else if (strcmp(operation->path, "/vm/config") == 0) {
        answer_json(answer, 200, json_incref(api->config));
    } else {
        answer_json(answer, 200,
                    json_pack("{s:s, s:s, s:s, s:s}", "id", api->id, "state", states[api->state],
                              "vmm_version", FIRECRACKER_VERSION, "app_name", "Firecracker"));
    }
}

static void order_deinit(struct firecracker_order *order) {
    ASSERT(order);
    json_decref(order->body);
    *order = (struct firecracker_order){0};
    ASSERT(!order->body);
}

bool firecracker_api_begin(struct firecracker_api *api, const struct http_request *request,
                           struct firecracker_order *ret_order,
                           struct firecracker_answer *ret_answer) {
    struct firecracker_order order = {0};
    api_check(api);
    *ret_answer = (struct firecracker_answer){0};
    bool good = parse(request, &order, ret_answer) && check_when(api, &order, ret_answer);
    if (good && !order.operation->schema) {
        answer_get(api, order.operation, ret_answer);
        return false;
    }
    if (good) {
        order.effect = order.operation->effect;
        good = check_more(api, &order, ret_answer);
    }
    if (!good) {
        order_deinit(&order);
        return false;
    }
    if (order.effect == FIRECRACKER_EFFECT_NONE) {
        firecracker_api_end(api, &order, NULL, ret_answer);
        return false;
    }
    *ret_order = order;
    return true;
}

static bool commit(struct firecracker_api *api, const struct firecracker_order *order) {
    api_check(api);
    ASSERT(order->operation);
    if (!order->operation->harmless && api->state == FIRECRACKER_NOT_STARTED) {
        api->configured = true;
    }
    switch (order->effect) {
    case FIRECRACKER_EFFECT_START:
    case FIRECRACKER_EFFECT_RESUME:
        api->state = FIRECRACKER_RUNNING;
        break;
    case FIRECRACKER_EFFECT_PAUSE:
        api->state = FIRECRACKER_PAUSED;
        break;
    case FIRECRACKER_EFFECT_LOAD:
        api->state = json_is_true(json_object_get(order->body, "resume_vm")) ? FIRECRACKER_RUNNING
                                                                             : FIRECRACKER_PAUSED;
        break;
    case FIRECRACKER_EFFECT_SAVE:
    case FIRECRACKER_EFFECT_CTRL_ALT_DEL:
    case FIRECRACKER_EFFECT_NONE:
    case FIRECRACKER_EFFECT_KERNEL:
    case FIRECRACKER_EFFECT_DRIVE:
    case FIRECRACKER_EFFECT_INTERFACE:
    case FIRECRACKER_EFFECT_VSOCK:
    case FIRECRACKER_EFFECT_LOG:
    case FIRECRACKER_EFFECT_SERIAL:
        break;
    }
    return !order->operation->part || firecracker_config_put(api->config, order);
}

void firecracker_api_end(struct firecracker_api *api, struct firecracker_order *order,
                         const char *fault, struct firecracker_answer *ret_answer) {
    api_check(api);
    ASSERT(order->operation && order->body);
    *ret_answer = (struct firecracker_answer){0};
    if (fault) {
        (void)refuse(ret_answer, fault);
    } else if (!commit(api, order)) {
        firecracker_answer_fault(ret_answer, 500, "Out of memory.");
    } else {
        ret_answer->status = 204;
    }
    ret_answer->deprecated = order->deprecated;
    order_deinit(order);
}

/* ---- Snapshots, and what the world asks ---------------------------------------------------------- */

json_t *firecracker_api_saved(const struct firecracker_api *api) {
    api_check(api);
    ASSERT(api->state == FIRECRACKER_PAUSED);
    json_t *saved = json_deep_copy(api->config);
    if (saved) {
        /* As Firecracker: a restored machine knows no kernel, and logs where its own process does. */
        (void)json_object_del(saved, "boot-source");
        (void)json_object_del(saved, "logger");
        (void)json_object_del(saved, "metrics");
    }
    return saved;
}

bool firecracker_api_restore(struct firecracker_api *api, const struct firecracker_order *order,
                             const json_t *saved, char fault[FIRECRACKER_FAULT_SIZE]) {
    api_check(api);
    ASSERT(order->effect == FIRECRACKER_EFFECT_LOAD);
    json_t *config = firecracker_config_restore(saved, order->body, fault);
    if (!config) {
        return false;
    }
    const char *const kept[] = {"logger", "metrics"};
    for (size_t i = 0; i < ARRAY_SIZE(kept); i++) {
        json_t *part = json_object_get(api->config, kept[i]);
        if (part && json_object_set(config, kept[i], part) != 0) {
            snprintf(fault, FIRECRACKER_FAULT_SIZE, "Out of memory.");
            json_decref(config);
            return false;
        }
    }
    json_decref(api->config);
    api->config = config;
    return true;
}

const char *firecracker_api_text(const struct firecracker_api *api, const char *part,
                                 const char *name) {
    api_check(api);
    ASSERT(part && name);
    return json_string_value(json_object_get(json_object_get(api->config, part), name));
}

uint64_t firecracker_api_memory_mib(const struct firecracker_api *api) {
    api_check(api);
    json_t *machine = json_object_get(api->config, "machine-config");
    json_int_t size = json_integer_value(json_object_get(machine, "mem_size_mib"));
    ASSERT(size > 0);
    return (uint64_t)size;
}

bool firecracker_api_tracks(const struct firecracker_api *api) {
    api_check(api);
    json_t *machine = json_object_get(api->config, "machine-config");
    ASSERT(machine);
    return json_is_true(json_object_get(machine, "track_dirty_pages"));
}
