/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "store/store_json.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "store/json_fields.h"

/* ---- Structures without pointers --------------------------------------------------------------- */

#define INFO(member, kind, max) JSON_FIELD(struct kelpie_vm_info, member, kind, max)
static const struct json_field info_fields[] = {
    INFO(id, JSON_CHARS, 0),
    INFO(name, JSON_CHARS, 0),
    INFO(backend, JSON_CHARS, 0),
    INFO(image, JSON_CHARS, 0),
    INFO(image_digest, JSON_CHARS, 0),
    INFO(state, JSON_U32, KELPIE_STATE_COUNT - 1),
    INFO(vcpu_count, JSON_U32, 0),
    INFO(memory_mib, JSON_U32, 0),
    INFO(created_unix_ms, JSON_U64, 0),
    INFO(started_unix_ms, JSON_U64, 0),
    INFO(ended_unix_ms, JSON_U64, 0),
    INFO(owner_pid, JSON_INT, 0),
    INFO(command_known, JSON_BOOL, 0),
    INFO(command_ended, JSON_BOOL, 0),
    INFO(command_exec_id, JSON_U32, 0),
    INFO(reason, JSON_CHARS, 0),
    INFO(labels, JSON_CHARS, 0),
    INFO(disk_bytes, JSON_U64, 0),
};

#define SNAPSHOT(member, kind, max) JSON_FIELD(struct kelpie_snapshot, member, kind, max)
static const struct json_field snapshot_fields[] = {
    SNAPSHOT(id, JSON_CHARS, 0),           SNAPSHOT(parent_id, JSON_CHARS, 0),
    SNAPSHOT(backend, JSON_CHARS, 0),      SNAPSHOT(backend_version, JSON_CHARS, 0),
    SNAPSHOT(architecture, JSON_CHARS, 0), SNAPSHOT(kind, JSON_U32, KELPIE_SNAPSHOT_KIND_COUNT - 1),
    SNAPSHOT(quiesced, JSON_BOOL, 0),      SNAPSHOT(created_unix_ms, JSON_U64, 0),
    SNAPSHOT(bytes, JSON_U64, 0),
};

#define REPORT(member, kind, max) JSON_FIELD(struct kelpie_restore_report, member, kind, max)
static const struct json_field report_fields[] = {
    REPORT(entropy, JSON_U32, KELPIE_OUTCOME_COUNT - 1),
    REPORT(generation, JSON_U32, KELPIE_OUTCOME_COUNT - 1),
    REPORT(clock, JSON_U32, KELPIE_OUTCOME_COUNT - 1),
    REPORT(network, JSON_U32, KELPIE_OUTCOME_COUNT - 1),
    REPORT(hostname, JSON_U32, KELPIE_OUTCOME_COUNT - 1),
    REPORT(machine_id, JSON_U32, KELPIE_OUTCOME_COUNT - 1),
    REPORT(clock_skew_ns, JSON_I64, 0),
};

#define EXIT(member, kind, max) JSON_FIELD(struct kelpie_exit, member, kind, max)
static const struct json_field exit_fields[] = {
    EXIT(code, JSON_INT, 0),         EXIT(signal, JSON_INT, 0),       EXIT(timed_out, JSON_BOOL, 0),
    EXIT(stdout_bytes, JSON_U64, 0), EXIT(stderr_bytes, JSON_U64, 0),
};

#define STATS(member, kind, max) JSON_FIELD(struct kelpie_stats, member, kind, max)
static const struct json_field stats_fields[] = {
    STATS(cpu_ns, JSON_U64, 0),
    STATS(memory_bytes, JSON_U64, 0),
    STATS(guest_memory_bytes, JSON_U64, 0),
    STATS(guest_available_bytes, JSON_U64, 0),
    STATS(disk_bytes, JSON_U64, 0),
    STATS(uptime_ns, JSON_U64, 0),
    STATS(exec_count, JSON_U32, 0),
};

#define ERROR(member, kind, max) JSON_FIELD(struct kelpie_error, member, kind, max)
static const struct json_field error_fields[] = {
    ERROR(status, JSON_U32, KELPIE_STATUS_COUNT - 1),
    ERROR(os_error, JSON_INT, 0),
    ERROR(retriable, JSON_BOOL, 0),
    ERROR(requires_recreate, JSON_BOOL, 0),
    ERROR(field, JSON_CHARS, 0),
    ERROR(message, JSON_CHARS, 0),
};

#define SNAPSHOT_OPTION(member, kind, max)                                                         \
    JSON_FIELD(struct kelpie_snapshot_options, member, kind, max)
static const struct json_field snapshot_option_fields[] = {
    SNAPSHOT_OPTION(kind, JSON_U32, KELPIE_SNAPSHOT_KIND_COUNT - 1),
    SNAPSHOT_OPTION(bytes_max, JSON_U64, 0),
    SNAPSHOT_OPTION(timeout_ms, JSON_U32, 0),
    SNAPSHOT_OPTION(track, JSON_BOOL, 0),
    SNAPSHOT_OPTION(parent, JSON_TEXT, 0),
    SNAPSHOT_OPTION(workspace, JSON_TEXT, 0),
};

#define RESTORE_OPTION(member, kind, max)                                                          \
    JSON_FIELD(struct kelpie_restore_options, member, kind, max)
static const struct json_field restore_option_fields[] = {
    RESTORE_OPTION(paused, JSON_BOOL, 0),           RESTORE_OPTION(allow_incomplete, JSON_BOOL, 0),
    RESTORE_OPTION(verify_memory, JSON_BOOL, 0),    RESTORE_OPTION(track, JSON_BOOL, 0),
    RESTORE_OPTION(timeout_ms, JSON_U32, 0),        RESTORE_OPTION(no_prefetch, JSON_BOOL, 0),
    RESTORE_OPTION(note_working_set, JSON_BOOL, 0),
};

#define FORK_OPTION(member, kind, max) JSON_FIELD(struct kelpie_fork_options, member, kind, max)
static const struct json_field fork_option_fields[] = {
    FORK_OPTION(name_prefix, JSON_TEXT, 0),
    FORK_OPTION(paused, JSON_BOOL, 0),
    FORK_OPTION(allow_incomplete, JSON_BOOL, 0),
    FORK_OPTION(timeout_ms, JSON_U32, 0),
};

static const struct {
    const struct json_field *fields;
    size_t count;
} types[] = {
    [STORE_JSON_INFO] = {info_fields, ARRAY_SIZE(info_fields)},
    [STORE_JSON_SNAPSHOT] = {snapshot_fields, ARRAY_SIZE(snapshot_fields)},
    [STORE_JSON_REPORT] = {report_fields, ARRAY_SIZE(report_fields)},
    [STORE_JSON_EXIT] = {exit_fields, ARRAY_SIZE(exit_fields)},
    [STORE_JSON_STATS] = {stats_fields, ARRAY_SIZE(stats_fields)},
    [STORE_JSON_ERROR] = {error_fields, ARRAY_SIZE(error_fields)},
    [STORE_JSON_SNAPSHOT_OPTIONS] = {snapshot_option_fields, ARRAY_SIZE(snapshot_option_fields)},
    [STORE_JSON_RESTORE_OPTIONS] = {restore_option_fields, ARRAY_SIZE(restore_option_fields)},
    [STORE_JSON_FORK_OPTIONS] = {fork_option_fields, ARRAY_SIZE(fork_option_fields)},
};
static_assert(ARRAY_SIZE(types) == STORE_JSON_TYPE_COUNT, "each type has a table");

static enum kelpie_status finish(enum kelpie_status status, json_t *json, json_t **ret_json) {
    ASSERT(ret_json);
    if (status != KELPIE_OK) {
        json_decref(json);
        return status;
    }
    ASSERT(json);
    *ret_json = json;
    return KELPIE_OK;
}

/* The one structure within another. */
static enum kelpie_status put_exit(json_t *json, const struct kelpie_exit *ended,
                                   struct kelpie_error *err) {
    ASSERT(json);
    ASSERT(ended);
    json_t *inner = NULL;
    TRY(store_json_of(STORE_JSON_EXIT, ended, &inner, err));
    return json_put(json, "command_exit", inner, err);
}

enum kelpie_status store_json_of(enum store_json_type type, const void *value, json_t **ret_json,
                                 struct kelpie_error *err) {
    ASSERT(type < STORE_JSON_TYPE_COUNT);
    ASSERT(value);
    json_t *json = json_new(err);
    if (!json) {
        return KELPIE_NO_MEMORY;
    }
    enum kelpie_status status =
        json_fields_encode(types[type].fields, types[type].count, value, json, err);
    if (status == KELPIE_OK && type == STORE_JSON_INFO) {
        status = put_exit(json, &((const struct kelpie_vm_info *)value)->command_exit, err);
    }
    return finish(status, json, ret_json);
}

enum kelpie_status store_json_to(enum store_json_type type, const json_t *json, void *ret_value,
                                 struct kelpie_error *err) {
    ASSERT(type < STORE_JSON_TYPE_COUNT);
    ASSERT(ret_value);
    TRY(json_fields_decode(types[type].fields, types[type].count, json, ret_value, err));
    const json_t *inner = json_object_get(json, "command_exit");
    if (type == STORE_JSON_INFO && inner) {
        struct kelpie_vm_info *info = ret_value;
        TRY(store_json_to(STORE_JSON_EXIT, inner, &info->command_exit, err));
    }
    return KELPIE_OK;
}

/* ---- Lists of structures ----------------------------------------------------------------------- */

struct list {
    const char *name;
    const struct json_field *fields;
    size_t field_count;
    size_t element_size;
    size_t count_max;
};

static enum kelpie_status list_encode(const struct list *list, const void *elements, size_t count,
                                      json_t *object, struct kelpie_error *err) {
    ASSERT(list);
    ASSERT(count <= list->count_max);
    if (count == 0) {
        return KELPIE_OK;
    }
    json_t *array = json_array();
    TRY(json_put(object, list->name, array, err));
    for (size_t i = 0; i < count; i++) {
        json_t *element = json_new(err);
        if (!element || json_array_append_new(array, element) != 0) {
            return error_set(err, KELPIE_NO_MEMORY, "no memory for %s", list->name);
        }
        TRY(json_fields_encode(list->fields, list->field_count,
                               (const uint8_t *)elements + i * list->element_size, element, err));
    }
    return KELPIE_OK;
}

static enum kelpie_status list_decode(const struct list *list, const json_t *object,
                                      void *ret_elements, size_t *ret_count,
                                      struct kelpie_error *err) {
    ASSERT(list);
    ASSERT(ret_elements && ret_count);
    const json_t *array = json_object_get(object, list->name);
    size_t count = json_array_size(array);
    if ((array && !json_is_array(array)) || count > list->count_max) {
        return error_set_field(err, KELPIE_BAD_CONFIG, list->name,
                               "%s is no list, or has more than %zu elements", list->name,
                               list->count_max);
    }
    for (size_t i = 0; i < count; i++) {
        TRY(json_fields_decode(list->fields, list->field_count, json_array_get(array, i),
                               (uint8_t *)ret_elements + i * list->element_size, err));
    }
    *ret_count = count;
    return KELPIE_OK;
}

/* ---- Configs ----------------------------------------------------------------------------------- */

#define CONFIG(member, kind) JSON_FIELD(struct kelpie_config, member, kind, 0)
static const struct json_field config_fields[] = {
    CONFIG(name, JSON_TEXT),
    CONFIG(backend, JSON_TEXT),
    CONFIG(vcpu_count, JSON_U32),
    CONFIG(memory_mib, JSON_U32),
    CONFIG(kernel, JSON_TEXT),
    CONFIG(kernel_args, JSON_TEXT),
    CONFIG(working_dir, JSON_TEXT),
    CONFIG(hostname, JSON_TEXT),
    CONFIG(console_log, JSON_TEXT),
    CONFIG(console_bytes_max, JSON_U64),
    CONFIG(boot_timeout_ms, JSON_U32),
    CONFIG(stop_timeout_ms, JSON_U32),
    CONFIG(operation_timeout_ms, JSON_U32),
    CONFIG(hypervisor, JSON_TEXT),
    CONFIG(image, JSON_TEXT),
    CONFIG(image_disk_mib, JSON_U32),
    CONFIG(warm, JSON_BOOL),
};

#define DISK(member, kind) JSON_FIELD(struct kelpie_disk, member, kind, 0)
static const struct json_field disk_fields[] = {
    DISK(path, JSON_TEXT),
    DISK(mount, JSON_TEXT),
    DISK(read_only, JSON_BOOL),
};
static const struct list disk_list = {"disks", disk_fields, ARRAY_SIZE(disk_fields),
                                      sizeof(struct kelpie_disk), KELPIE_DISK_COUNT_MAX};

#define SHARE(member, kind) JSON_FIELD(struct kelpie_share, member, kind, 0)
static const struct json_field share_fields[] = {
    SHARE(path, JSON_TEXT), SHARE(mount, JSON_TEXT), SHARE(read_only, JSON_BOOL),
    SHARE(copy, JSON_BOOL), SHARE(live, JSON_BOOL),
};
static const struct list share_list = {"shares", share_fields, ARRAY_SIZE(share_fields),
                                       sizeof(struct kelpie_share), KELPIE_SHARE_COUNT_MAX};

#define NETWORK(member, kind, max) JSON_FIELD(struct kelpie_network, member, kind, max)
static const struct json_field network_fields[] = {
    NETWORK(kind, JSON_U32, KELPIE_NETWORK_KIND_COUNT - 1),
    NETWORK(tap, JSON_TEXT, 0),
    NETWORK(mac, JSON_TEXT, 0),
    NETWORK(host_loopback, JSON_BOOL, 0),
};

#define FORWARD(member, kind) JSON_FIELD(struct kelpie_forward, member, kind, 0)
static const struct json_field forward_fields[] = {
    FORWARD(host_port, JSON_U16),
    FORWARD(guest_port, JSON_U16),
    FORWARD(udp, JSON_BOOL),
};
static const struct list forward_list = {"forwards", forward_fields, ARRAY_SIZE(forward_fields),
                                         sizeof(struct kelpie_forward), KELPIE_FORWARD_COUNT_MAX};

#define MOCK(member, kind) JSON_FIELD(struct kelpie_mock_config, member, kind, 0)
static const struct json_field mock_fields[] = {
    MOCK(boot_delay_ms, JSON_U32),
    MOCK(architecture, JSON_TEXT),
    MOCK(fail_boot, JSON_BOOL),
};

#define OWNER(member, kind) JSON_FIELD(struct kelpie_owner, member, kind, 0)
static const struct json_field owner_fields[] = {
    OWNER(program, JSON_TEXT), OWNER(lifetime_ms, JSON_U64),
    OWNER(idle_ms, JSON_U64),  OWNER(log_bytes_max, JSON_U64),
    OWNER(remove, JSON_BOOL),  OWNER(ends_with_command, JSON_BOOL),
};

/* A structure within another. */
struct inner {
    const char *name;
    const struct json_field *fields;
    size_t field_count;
};
static const struct inner network_inner = {"network", network_fields, ARRAY_SIZE(network_fields)};
static const struct inner mock_inner = {"mock", mock_fields, ARRAY_SIZE(mock_fields)};
static const struct inner owner_inner = {"owner", owner_fields, ARRAY_SIZE(owner_fields)};

/* *ret_object: for what else belongs there. */
static enum kelpie_status put_inner(json_t *json, const struct inner *inner, const void *value,
                                    json_t **ret_object, struct kelpie_error *err) {
    ASSERT(inner);
    ASSERT(value);
    json_t *object = json_new(err);
    TRY(json_put(json, inner->name, object, err));
    *ret_object = object;
    return json_fields_encode(inner->fields, inner->field_count, value, object, err);
}

static enum kelpie_status encode_parts(const struct kelpie_config *config, json_t *json,
                                       struct kelpie_error *err) {
    ASSERT(config);
    ASSERT(json);
    json_t *inner = NULL;
    TRY(list_encode(&disk_list, config->disks, config->disk_count, json, err));
    TRY(list_encode(&share_list, config->shares, config->share_count, json, err));
    TRY(json_texts_encode(json, "env", config->env, err));
    if (config->network) {
        TRY(put_inner(json, &network_inner, config->network, &inner, err));
        TRY(list_encode(&forward_list, config->network->forwards, config->network->forward_count,
                        inner, err));
    }
    if (config->mock) {
        TRY(put_inner(json, &mock_inner, config->mock, &inner, err));
    }
    if (config->owner) {
        TRY(put_inner(json, &owner_inner, config->owner, &inner, err));
        TRY(json_texts_encode(inner, "labels", config->owner->labels, err));
    }
    return KELPIE_OK;
}

enum kelpie_status store_json_config(const struct kelpie_config *config, json_t **ret_json,
                                     struct kelpie_error *err) {
    ASSERT(config);
    ASSERT(ret_json);
    json_t *json = json_new(err);
    if (!json) {
        return KELPIE_NO_MEMORY;
    }
    enum kelpie_status status =
        json_fields_encode(config_fields, ARRAY_SIZE(config_fields), config, json, err);
    if (status == KELPIE_OK) {
        status = encode_parts(config, json, err);
    }
    return finish(status, json, ret_json);
}

static enum kelpie_status decode_network(struct store_config *store, const json_t *json,
                                         struct kelpie_error *err) {
    ASSERT(store);
    ASSERT(json);
    TRY(json_fields_decode(network_fields, ARRAY_SIZE(network_fields), json, &store->network, err));
    TRY(list_decode(&forward_list, json, store->forwards, &store->network.forward_count, err));
    store->network.forwards = store->network.forward_count > 0 ? store->forwards : NULL;
    store->config.network = &store->network;
    return KELPIE_OK;
}

static enum kelpie_status decode_parts(struct store_config *store, struct kelpie_error *err) {
    ASSERT(store);
    ASSERT(store->json);
    const json_t *json = store->json;
    struct kelpie_config *config = &store->config;
    TRY(list_decode(&disk_list, json, store->disks, &config->disk_count, err));
    config->disks = config->disk_count > 0 ? store->disks : NULL;
    TRY(list_decode(&share_list, json, store->shares, &config->share_count, err));
    config->shares = config->share_count > 0 ? store->shares : NULL;
    TRY(json_texts_decode(json, "env", KELPIE_ENV_COUNT_MAX, &store->env, err));
    config->env = store->env;
    const json_t *network = json_object_get(json, "network");
    if (network) {
        TRY(decode_network(store, network, err));
    }
    const json_t *mock = json_object_get(json, "mock");
    if (mock) {
        TRY(json_fields_decode(mock_fields, ARRAY_SIZE(mock_fields), mock, &store->mock, err));
        config->mock = &store->mock;
    }
    const json_t *owner = json_object_get(json, "owner");
    if (owner) {
        TRY(json_fields_decode(owner_fields, ARRAY_SIZE(owner_fields), owner, &store->owner, err));
        TRY(json_texts_decode(owner, "labels", KELPIE_LABEL_COUNT_MAX, &store->labels, err));
        store->owner.labels = store->labels;
        config->owner = &store->owner;
    }
    return KELPIE_OK;
}

enum kelpie_status store_json_to_config(struct host *host, json_t *json,
                                        struct store_config **ret_config,
                                        struct kelpie_error *err) {
    ASSERT(json);
    ASSERT(ret_config);
    struct store_config *store = host_allocate(host, sizeof(*store), err);
    if (!store) {
        return KELPIE_NO_MEMORY;
    }
    store->json = json_incref(json);
    enum kelpie_status status =
        json_fields_decode(config_fields, ARRAY_SIZE(config_fields), json, &store->config, err);
    if (status == KELPIE_OK) {
        status = decode_parts(store, err);
    }
    if (status != KELPIE_OK) {
        store_config_destroy(store);
        return status;
    }
    *ret_config = store;
    return KELPIE_OK;
}

void store_config_destroy(struct store_config *config) {
    if (config) {
        ASSERT(config->json);
        free(config->env);
        free(config->labels);
        json_decref(config->json);
        free(config);
    }
}

/* ---- Commands ---------------------------------------------------------------------------------- */

#define COMMAND(member, kind) JSON_FIELD(struct kelpie_command, member, kind, 0)
static const struct json_field command_fields[] = {
    COMMAND(working_dir, JSON_TEXT), COMMAND(uid, JSON_U32),        COMMAND(gid, JSON_U32),
    COMMAND(tty, JSON_BOOL),         COMMAND(rows, JSON_U16),       COMMAND(columns, JSON_U16),
    COMMAND(stdin_open, JSON_BOOL),  COMMAND(timeout_ms, JSON_U32),
};

#define RLIMIT(member, kind) JSON_FIELD(struct kelpie_rlimit, member, kind, 0)
static const struct json_field rlimit_fields[] = {
    RLIMIT(resource, JSON_U32),
    RLIMIT(soft, JSON_U64),
    RLIMIT(hard, JSON_U64),
};
static const struct list rlimit_list = {"rlimits", rlimit_fields, ARRAY_SIZE(rlimit_fields),
                                        sizeof(struct kelpie_rlimit), KELPIE_RLIMIT_COUNT_MAX};

enum kelpie_status store_json_command(const struct kelpie_command *command, json_t **ret_json,
                                      struct kelpie_error *err) {
    ASSERT(command);
    ASSERT(ret_json);
    json_t *json = json_new(err);
    if (!json) {
        return KELPIE_NO_MEMORY;
    }
    enum kelpie_status status =
        json_fields_encode(command_fields, ARRAY_SIZE(command_fields), command, json, err);
    if (status == KELPIE_OK) {
        status = json_texts_encode(json, "argv", command->argv, err);
    }
    if (status == KELPIE_OK) {
        status = json_texts_encode(json, "env", command->env, err);
    }
    if (status == KELPIE_OK) {
        status = list_encode(&rlimit_list, command->rlimits, command->rlimit_count, json, err);
    }
    return finish(status, json, ret_json);
}

static enum kelpie_status decode_command(struct store_command *store, struct kelpie_error *err) {
    ASSERT(store);
    ASSERT(store->json);
    struct kelpie_command *command = &store->command;
    TRY(json_fields_decode(command_fields, ARRAY_SIZE(command_fields), store->json, command, err));
    TRY(json_texts_decode(store->json, "argv", KELPIE_ARGV_COUNT_MAX, &store->argv, err));
    TRY(json_texts_decode(store->json, "env", KELPIE_ENV_COUNT_MAX, &store->env, err));
    TRY(list_decode(&rlimit_list, store->json, store->rlimits, &command->rlimit_count, err));
    command->argv = store->argv;
    command->env = store->env;
    command->rlimits = command->rlimit_count > 0 ? store->rlimits : NULL;
    return KELPIE_OK;
}

enum kelpie_status store_json_to_command(struct host *host, json_t *json,
                                         struct store_command **ret_command,
                                         struct kelpie_error *err) {
    ASSERT(json);
    ASSERT(ret_command);
    struct store_command *store = host_allocate(host, sizeof(*store), err);
    if (!store) {
        return KELPIE_NO_MEMORY;
    }
    store->json = json_incref(json);
    enum kelpie_status status = decode_command(store, err);
    if (status != KELPIE_OK) {
        store_command_destroy(store);
        return status;
    }
    *ret_command = store;
    return KELPIE_OK;
}

void store_command_destroy(struct store_command *command) {
    if (command) {
        ASSERT(command->json);
        free(command->argv);
        free(command->env);
        json_decref(command->json);
        free(command);
    }
}
