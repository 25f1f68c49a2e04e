/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "sim/peer/firecracker_schema.h"

#include <stdio.h>
#include <string.h>

#include "base/assert.h"

#define PENDING_COUNT_MAX (FIRECRACKER_LIST_COUNT_MAX * FIRECRACKER_DEPTH_MAX)

#define REQUIRED .required = true
#define BOOLEAN(field) .name = (field), .kind = FIRECRACKER_BOOLEAN
#define STRING(field) .name = (field), .kind = FIRECRACKER_STRING
#define INTEGER(field, low, high)                                                                  \
    .name = (field), .kind = FIRECRACKER_INTEGER, .min = (low), .max = (high)
#define WORD(field, choices) .name = (field), .kind = FIRECRACKER_WORD, .words = (choices)
#define OBJECT(field, fields_of) .name = (field), .kind = FIRECRACKER_OBJECT, .schema = &(fields_of)
#define LIST(field, fields_of) .name = (field), .kind = FIRECRACKER_LIST, .schema = &(fields_of)
#define SCHEMA(name_of, table)                                                                     \
    { .name = (name_of), .fields = (table), .field_count = ARRAY_SIZE(table) }

/* ---- Parts of bodies -------------------------------------------------------------------------- */

static const struct firecracker_field token_bucket_fields[] = {
    {INTEGER("one_time_burst", 0, INT64_MAX)},
    {INTEGER("refill_time", 0, INT64_MAX), REQUIRED},
    {INTEGER("size", 0, INT64_MAX), REQUIRED},
};
static const struct firecracker_schema token_bucket = SCHEMA("TokenBucket", token_bucket_fields);

static const struct firecracker_field rate_limiter_fields[] = {
    {OBJECT("bandwidth", token_bucket)},
    {OBJECT("ops", token_bucket)},
};
static const struct firecracker_schema rate_limiter = SCHEMA("RateLimiter", rate_limiter_fields);

static const char *const memory_backends[] = {"File", "Uffd", NULL};
static const struct firecracker_field memory_backend_fields[] = {
    {WORD("backend_type", memory_backends), REQUIRED},
    {STRING("backend_path"), REQUIRED},
};
static const struct firecracker_schema memory_backend =
    SCHEMA("MemoryBackend", memory_backend_fields);

static const struct firecracker_field network_override_fields[] = {
    {STRING("iface_id"), REQUIRED},
    {STRING("host_dev_name"), REQUIRED},
};
static const struct firecracker_schema network_override =
    SCHEMA("NetworkOverride", network_override_fields);

static const struct firecracker_field vsock_override_fields[] = {{STRING("uds_path"), REQUIRED}};
static const struct firecracker_schema vsock_override =
    SCHEMA("VsockOverride", vsock_override_fields);

/* ---- Bodies ----------------------------------------------------------------------------------- */

static const char *const actions[] = {"FlushMetrics", "InstanceStart", "SendCtrlAltDel", NULL};
static const struct firecracker_field action_fields[] = {{WORD("action_type", actions), REQUIRED}};
const struct firecracker_schema firecracker_schema_action =
    SCHEMA("InstanceActionInfo", action_fields);

static const struct firecracker_field balloon_fields[] = {
    {INTEGER("amount_mib", 0, UINT32_MAX), REQUIRED},
    {BOOLEAN("deflate_on_oom"), REQUIRED},
    {INTEGER("stats_polling_interval_s", 0, UINT16_MAX)},
    {BOOLEAN("free_page_hinting")},
    {BOOLEAN("free_page_reporting")},
};
const struct firecracker_schema firecracker_schema_balloon = SCHEMA("Balloon", balloon_fields);

static const struct firecracker_field balloon_update_fields[] = {
    {INTEGER("amount_mib", 0, UINT32_MAX), REQUIRED},
};
const struct firecracker_schema firecracker_schema_balloon_update =
    SCHEMA("BalloonUpdate", balloon_update_fields);

static const struct firecracker_field boot_source_fields[] = {
    {STRING("boot_args")},
    {STRING("initrd_path")},
    {STRING("kernel_image_path"), REQUIRED},
};
const struct firecracker_schema firecracker_schema_boot_source =
    SCHEMA("BootSource", boot_source_fields);

static const char *const cache_types[] = {"Unsafe", "Writeback", NULL};
static const char *const io_engines[] = {"Sync", "Async", NULL};
static const struct firecracker_field drive_fields[] = {
    {STRING("drive_id"), REQUIRED},
    {STRING("partuuid")},
    {BOOLEAN("is_root_device"), REQUIRED},
    {WORD("cache_type", cache_types)},
    {BOOLEAN("is_read_only")},
    {STRING("path_on_host")},
    {OBJECT("rate_limiter", rate_limiter)},
    {WORD("io_engine", io_engines)},
    {STRING("socket")},
};
const struct firecracker_schema firecracker_schema_drive = SCHEMA("Drive", drive_fields);

static const struct firecracker_field partial_drive_fields[] = {
    {STRING("drive_id"), REQUIRED},
    {STRING("path_on_host")},
    {OBJECT("rate_limiter", rate_limiter)},
};
const struct firecracker_schema firecracker_schema_partial_drive =
    SCHEMA("PartialDrive", partial_drive_fields);

static const struct firecracker_field entropy_fields[] = {{OBJECT("rate_limiter", rate_limiter)}};
const struct firecracker_schema firecracker_schema_entropy =
    SCHEMA("EntropyDevice", entropy_fields);

static const char *const levels[] = {"Error", "Warning", "Info", "Debug", "Trace", "Off", NULL};
static const struct firecracker_field logger_fields[] = {
    {WORD("level", levels)},      {STRING("log_path")}, {BOOLEAN("show_level")},
    {BOOLEAN("show_log_origin")}, {STRING("module")},
};
const struct firecracker_schema firecracker_schema_logger = SCHEMA("Logger", logger_fields);

static const char *const cpu_templates[] = {"C3", "T2", "T2S", "T2CL", "T2A", "V1N1", "None", NULL};
static const char *const huge_pages[] = {"None", "Transparent", "2M", NULL};
static const struct firecracker_field machine_fields[] = {
    {WORD("cpu_template", cpu_templates), .deprecated = true},
    {BOOLEAN("smt")},
    {INTEGER("mem_size_mib", 0, INT64_MAX), REQUIRED},
    {BOOLEAN("track_dirty_pages")},
    {INTEGER("vcpu_count", 1, 32), REQUIRED},
    {WORD("huge_pages", huge_pages)},
};
const struct firecracker_schema firecracker_schema_machine =
    SCHEMA("MachineConfiguration", machine_fields);

static const struct firecracker_field metrics_fields[] = {
    {STRING("metrics_path"), REQUIRED},
    {BOOLEAN("emit_id")},
    {.name = "properties", .kind = FIRECRACKER_LABELS},
};
const struct firecracker_schema firecracker_schema_metrics = SCHEMA("Metrics", metrics_fields);

static const struct firecracker_field network_fields[] = {
    {STRING("guest_mac")},
    {STRING("host_dev_name"), REQUIRED},
    {STRING("iface_id"), REQUIRED},
    {INTEGER("mtu", 68, 65535)},
    {OBJECT("rx_rate_limiter", rate_limiter)},
    {OBJECT("tx_rate_limiter", rate_limiter)},
};
const struct firecracker_schema firecracker_schema_network =
    SCHEMA("NetworkInterface", network_fields);

static const struct firecracker_field partial_network_fields[] = {
    {STRING("iface_id"), REQUIRED},
    {OBJECT("rx_rate_limiter", rate_limiter)},
    {OBJECT("tx_rate_limiter", rate_limiter)},
};
const struct firecracker_schema firecracker_schema_partial_network =
    SCHEMA("PartialNetworkInterface", partial_network_fields);

static const struct firecracker_field serial_fields[] = {
    {STRING("serial_out_path")},
    {OBJECT("rate_limiter", token_bucket)},
};
const struct firecracker_schema firecracker_schema_serial = SCHEMA("SerialDevice", serial_fields);

static const char *const snapshot_types[] = {"Full", "Diff", NULL};
static const struct firecracker_field snapshot_create_fields[] = {
    {STRING("mem_file_path"), REQUIRED},
    {STRING("snapshot_path"), REQUIRED},
    {WORD("snapshot_type", snapshot_types)},
};
const struct firecracker_schema firecracker_schema_snapshot_create =
    SCHEMA("SnapshotCreateParams", snapshot_create_fields);

static const char *const load_huge_pages[] = {"Snapshot", "None", "Transparent", "2M", NULL};
static const struct firecracker_field snapshot_load_fields[] = {
    {BOOLEAN("enable_diff_snapshots"), .deprecated = true},
    {BOOLEAN("track_dirty_pages")},
    {STRING("mem_file_path"), .deprecated = true},
    {OBJECT("mem_backend", memory_backend)},
    {STRING("snapshot_path"), REQUIRED},
    {BOOLEAN("resume_vm")},
    {LIST("network_overrides", network_override)},
    {OBJECT("vsock_override", vsock_override)},
    {BOOLEAN("clock_realtime")},
    {WORD("huge_pages", load_huge_pages)},
};
const struct firecracker_schema firecracker_schema_snapshot_load =
    SCHEMA("SnapshotLoadParams", snapshot_load_fields);

static const char *const vm_states[] = {"Paused", "Resumed", NULL};
static const struct firecracker_field vm_fields[] = {{WORD("state", vm_states), REQUIRED}};
const struct firecracker_schema firecracker_schema_vm = SCHEMA("Vm", vm_fields);

static const struct firecracker_field vsock_fields[] = {
    {INTEGER("guest_cid", 3, UINT32_MAX), REQUIRED},
    {STRING("uds_path"), REQUIRED},
    {STRING("vsock_id"), .deprecated = true},
};
const struct firecracker_schema firecracker_schema_vsock = SCHEMA("Vsock", vsock_fields);

/* ---- The check -------------------------------------------------------------------------------- */

/* Objects that are still to be looked at: no recursion, so no body can be too deep. */
struct pending {
    struct {
        json_t *object;
        const struct firecracker_schema *schema;
    } entries[PENDING_COUNT_MAX];
    size_t count;
    bool deprecated;
    char *fault;
};

static bool fault(struct pending *pending, const char *what, const char *name) {
    ASSERT(pending->fault);
    ASSERT(what && name);
    snprintf(pending->fault, FIRECRACKER_FAULT_SIZE,
             "An error occurred when deserializing the json body of a request: %s `%.128s`.", what,
             name);
    return false;
}

static bool push(struct pending *pending, json_t *object, const struct firecracker_field *field) {
    ASSERT(pending->count <= PENDING_COUNT_MAX);
    ASSERT(field->schema);
    if (!json_is_object(object)) {
        return fault(pending, "invalid type, an object is expected:", field->name);
    }
    if (pending->count == PENDING_COUNT_MAX) {
        return fault(pending, "too many objects:", field->name);
    }
    pending->entries[pending->count].object = object;
    pending->entries[pending->count].schema = field->schema;
    pending->count++;
    return true;
}

static bool check_list(struct pending *pending, json_t *list,
                       const struct firecracker_field *field) {
    ASSERT(field->kind == FIRECRACKER_LIST);
    ASSERT(field->name);
    if (!json_is_array(list)) {
        return fault(pending, "invalid type, a sequence is expected:", field->name);
    }
    if (json_array_size(list) > FIRECRACKER_LIST_COUNT_MAX) {
        return fault(pending, "too many entries:", field->name);
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        if (!push(pending, json_array_get(list, i), field)) {
            return false;
        }
    }
    return true;
}

static bool check_labels(struct pending *pending, json_t *labels,
                         const struct firecracker_field *field) {
    const char *name = NULL;
    json_t *value = NULL;
    ASSERT(field->kind == FIRECRACKER_LABELS);
    ASSERT(field->name);
    if (!json_is_object(labels)) {
        return fault(pending, "invalid type, a map is expected:", field->name);
    }
    json_object_foreach(labels, name, value) {
        if (!json_is_string(value)) {
            return fault(pending, "invalid type, a string is expected:", name);
        }
    }
    return true;
}

static bool is_word(const struct firecracker_field *field, const char *text) {
    ASSERT(field->words);
    ASSERT(text);
    size_t i = 0;
    while (field->words[i] && strcmp(field->words[i], text) != 0) {
        i++;
    }
    return field->words[i] != NULL;
}

static bool check_value(struct pending *pending, json_t *value,
                        const struct firecracker_field *field) {
    ASSERT(value);
    ASSERT((unsigned)field->kind < FIRECRACKER_KIND_COUNT);
    switch (field->kind) {
    case FIRECRACKER_BOOLEAN:
        return json_is_boolean(value) ||
               fault(pending, "invalid type, a boolean is expected:", field->name);
    case FIRECRACKER_INTEGER:
        if (!json_is_integer(value)) {
            return fault(pending, "invalid type, an integer is expected:", field->name);
        }
        return (json_integer_value(value) >= field->min &&
                json_integer_value(value) <= field->max) ||
               fault(pending, "invalid value, out of range:", field->name);
    case FIRECRACKER_STRING:
        return json_is_string(value) ||
               fault(pending, "invalid type, a string is expected:", field->name);
    case FIRECRACKER_WORD:
        if (!json_is_string(value)) {
            return fault(pending, "invalid type, a string is expected:", field->name);
        }
        return is_word(field, json_string_value(value)) ||
               fault(pending, "unknown variant", json_string_value(value));
    case FIRECRACKER_OBJECT:
        return push(pending, value, field);
    case FIRECRACKER_LIST:
        return check_list(pending, value, field);
    case FIRECRACKER_LABELS:
        return check_labels(pending, value, field);
    case FIRECRACKER_KIND_COUNT:
        break;
    }
    UNREACHABLE();
}

static const struct firecracker_field *find_field(const struct firecracker_schema *schema,
                                                  const char *name) {
    ASSERT(schema->field_count > 0);
    ASSERT(name);
    for (size_t i = 0; i < schema->field_count; i++) {
        if (strcmp(schema->fields[i].name, name) == 0) {
            return &schema->fields[i];
        }
    }
    return NULL;
}

static bool check_object(struct pending *pending, json_t *object,
                         const struct firecracker_schema *schema, bool partial) {
    const char *name = NULL;
    json_t *value = NULL;
    ASSERT(json_is_object(object));
    ASSERT(schema->name);
    json_object_foreach(object, name, value) {
        const struct firecracker_field *field = find_field(schema, name);
        if (!field) {
            return fault(pending, "unknown field", name);
        }
        if (!check_value(pending, value, field)) {
            return false;
        }
        pending->deprecated |= field->deprecated;
    }
    for (size_t i = 0; i < schema->field_count && !partial; i++) {
        if (schema->fields[i].required && !json_object_get(object, schema->fields[i].name)) {
            return fault(pending, "missing field", schema->fields[i].name);
        }
    }
    return true;
}

bool firecracker_schema_check(const struct firecracker_schema *schema, json_t *body, bool partial,
                              bool *ret_deprecated, char fault_text[FIRECRACKER_FAULT_SIZE]) {
    struct pending pending = {.fault = fault_text};
    ASSERT(schema);
    ASSERT(fault_text);
    if (!json_is_object(body)) {
        return fault(&pending, "invalid type, an object is expected:", schema->name);
    }
    if (!check_object(&pending, body, schema, partial)) {
        return false;
    }
    while (pending.count > 0) {
        pending.count--;
        json_t *object = pending.entries[pending.count].object;
        if (!check_object(&pending, object, pending.entries[pending.count].schema, false)) {
            return false;
        }
    }
    *ret_deprecated = pending.deprecated;
    return true;
}
