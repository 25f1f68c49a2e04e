/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "cli/vm_json.h"

#include <string.h>

#include "base/assert.h"
#include "cli/output.h"

json_t *vm_json_or_null(bool present, json_t *value) {
    if (present) {
        ASSERT(true);
        return value;
    }
    json_decref(value);
    return json_null();
}

static json_t *text_or_null(const char *text) {
    return text && text[0] != 0 ? json_string(text) : json_null();
}

static json_t *number_or_null(uint64_t number) {
    return number != 0 ? json_integer((json_int_t)number) : json_null();
}

static json_t *json_of_labels(const char *labels) {
    ASSERT(labels);
    json_t *object = json_object();
    ASSERT(strlen(labels) < sizeof(((struct kelpie_vm_info *)0)->labels));
    while (*labels != 0) {
        size_t size = strcspn(labels, "\n");
        const char *equals = memchr(labels, '=', size);
        char key[sizeof(((struct kelpie_vm_info *)0)->labels)];
        size_t key_size = equals ? (size_t)(equals - labels) : size;
        memcpy(key, labels, key_size);
        key[key_size] = 0;
        if (key_size > 0) {
            const char *value = equals ? equals + 1 : "";
            size_t value_size = equals ? size - key_size - 1 : 0;
            json_object_set_new(object, key, json_stringn(value, value_size));
        }
        labels += labels[size] == '\n' ? size + 1 : size;
    }
    return object;
}

json_t *vm_json_exit(const struct kelpie_exit *exit) {
    ASSERT(exit);
    ASSERT(exit->signal >= 0);
    return json_pack("{s:i, s:i, s:b}", "code", exit->code, "signal", exit->signal, "timed_out",
                     exit->timed_out);
}

static json_t *json_of_command(const struct kelpie_vm_info *info) {
    ASSERT(info);
    if (!info->command_known) {
        return json_null();
    }
    return json_pack("{s:I, s:b, s:o}", "exec_id", (json_int_t)info->command_exec_id, "ended",
                     info->command_ended, "exit",
                     info->command_ended ? vm_json_exit(&info->command_exit) : json_null());
}

json_t *vm_json_info(const struct kelpie_vm_info *info) {
    ASSERT(info);
    ASSERT((unsigned)info->state < KELPIE_STATE_COUNT);
    return json_pack(
        "{s:s, s:s, s:s, s:s, s:o, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:I, s:s}", "id",
        info->id, "name", info->name, "state", kelpie_state_name(info->state), "backend",
        info->backend, "image", text_or_null(info->image), "vcpu_count",
        (json_int_t)info->vcpu_count, "memory_mib", (json_int_t)info->memory_mib, "created_unix_ms",
        number_or_null(info->created_unix_ms), "started_unix_ms",
        number_or_null(info->started_unix_ms), "ended_unix_ms", number_or_null(info->ended_unix_ms),
        "owner_pid", number_or_null((uint64_t)info->owner_pid), "command", json_of_command(info),
        "reason", text_or_null(info->reason), "labels", json_of_labels(info->labels), "disk_bytes",
        (json_int_t)info->disk_bytes, "status", kelpie_status_name(info->status));
}

/* ---- The config ------------------------------------------------------------------------------- */

static json_t *json_of_disks(const struct kelpie_config *config) {
    ASSERT(config->disk_count <= KELPIE_DISK_COUNT_MAX);
    ASSERT(config->disks || config->disk_count == 0);
    json_t *array = json_array();
    for (size_t i = 0; i < config->disk_count; i++) {
        const struct kelpie_disk *disk = &config->disks[i];
        json_array_append_new(array, json_pack("{s:o, s:o, s:b}", "path", text_or_null(disk->path),
                                               "mount", text_or_null(disk->mount), "read_only",
                                               disk->read_only));
    }
    return array;
}

static json_t *json_of_network(const struct kelpie_network *network) {
    static const char *const kinds[] = {
        [KELPIE_NETWORK_NONE] = "none",
        [KELPIE_NETWORK_USER] = "user",
        [KELPIE_NETWORK_TAP] = "tap",
    };
    static_assert(ARRAY_SIZE(kinds) == KELPIE_NETWORK_KIND_COUNT, "each kind has a name");
    if (!network || network->kind == KELPIE_NETWORK_NONE) {
        return json_null();
    }
    ASSERT((unsigned)network->kind < KELPIE_NETWORK_KIND_COUNT);
    json_t *forwards = json_array();
    for (size_t i = 0; i < network->forward_count; i++) {
        const struct kelpie_forward *forward = &network->forwards[i];
        json_array_append_new(forwards, json_pack("{s:i, s:i, s:b}", "host_port",
                                                  (int)forward->host_port, "guest_port",
                                                  (int)forward->guest_port, "udp", forward->udp));
    }
    return json_pack("{s:s, s:o, s:o, s:b, s:o}", "kind", kinds[network->kind], "tap",
                     text_or_null(network->tap), "mac", text_or_null(network->mac), "host_loopback",
                     network->host_loopback, "forwards", forwards);
}

static json_t *json_of_shares(const struct kelpie_config *config) {
    ASSERT(config->share_count <= KELPIE_SHARE_COUNT_MAX);
    ASSERT(config->shares || config->share_count == 0);
    json_t *array = json_array();
    for (size_t i = 0; i < config->share_count; i++) {
        const struct kelpie_share *share = &config->shares[i];
        json_array_append_new(
            array, json_pack("{s:o, s:o, s:b, s:b, s:b}", "path", text_or_null(share->path),
                             "mount", text_or_null(share->mount), "read_only", share->read_only,
                             "copy", share->copy, "live", share->live));
    }
    return array;
}

static json_t *json_of_env(const char *const *env) {
    json_t *array = json_array();
    ASSERT(array);
    for (size_t i = 0; env && env[i]; i++) {
        json_t *text = json_string(env[i]);
        json_array_append_new(array, text ? text : json_null());
    }
    return array;
}

json_t *vm_json_config(const struct kelpie_config *config) {
    ASSERT(config);
    json_t *object = json_pack(
        "{s:o, s:o, s:o, s:I, s:I, s:o, s:o, s:o, s:o}", "backend", text_or_null(config->backend),
        "hypervisor", text_or_null(config->hypervisor), "image", text_or_null(config->image),
        "vcpu_count", (json_int_t)config->vcpu_count, "memory_mib", (json_int_t)config->memory_mib,
        "kernel", text_or_null(config->kernel), "kernel_args", text_or_null(config->kernel_args),
        "hostname", text_or_null(config->hostname), "working_dir",
        text_or_null(config->working_dir));
    if (!object) {
        return NULL;
    }
    ASSERT(json_is_object(object));
    json_object_set_new(object, "env", json_of_env(config->env));
    json_object_set_new(object, "disks", json_of_disks(config));
    json_object_set_new(object, "network", json_of_network(config->network));
    json_object_set_new(object, "shares", json_of_shares(config));
    json_object_set_new(object, "console_log", text_or_null(config->console_log));
    json_object_set_new(object, "boot_timeout_ms", json_integer(config->boot_timeout_ms));
    json_object_set_new(object, "stop_timeout_ms", json_integer(config->stop_timeout_ms));
    json_object_set_new(object, "operation_timeout_ms", json_integer(config->operation_timeout_ms));
    json_object_set_new(object, "warm", json_boolean(config->warm));
    return object;
}

json_t *vm_json_capabilities(uint32_t capabilities) {
    static const struct {
        enum kelpie_capability bit;
        const char *name;
    } names[] = {
        {KELPIE_CAN_EXEC, "exec"},
        {KELPIE_CAN_COPY, "copy"},
        {KELPIE_CAN_PAUSE, "pause"},
        {KELPIE_CAN_SUSPEND_SNAPSHOT, "suspend"},
        {KELPIE_CAN_TELEPORT_SNAPSHOT, "teleport"},
        {KELPIE_CAN_CHECKPOINT, "checkpoint"},
        {KELPIE_CAN_FORK, "fork"},
        {KELPIE_CAN_DISKS, "disks"},
        {KELPIE_CAN_TTY, "tty"},
        {KELPIE_CAN_NETWORK, "network"},
        {KELPIE_CAN_DIFF_SNAPSHOT, "diff"},
        {KELPIE_CAN_NETWORK_TAP, "network-tap"},
    };
    json_t *array = json_array();
    ASSERT(array);
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        if (capabilities & (uint32_t)names[i].bit) {
            json_array_append_new(array, json_string(names[i].name));
        }
    }
    return array;
}

/* ---- Snapshots -------------------------------------------------------------------------------- */

const char *vm_json_kind(enum kelpie_snapshot_kind kind) {
    static const char *const names[] = {
        [KELPIE_SNAPSHOT_SUSPEND] = "suspend",
        [KELPIE_SNAPSHOT_TELEPORT] = "teleport",
        [KELPIE_SNAPSHOT_CHECKPOINT] = "checkpoint",
    };
    static_assert(ARRAY_SIZE(names) == KELPIE_SNAPSHOT_KIND_COUNT, "each kind has a name");
    ASSERT((unsigned)kind < KELPIE_SNAPSHOT_KIND_COUNT);
    return names[kind];
}

json_t *vm_json_snapshot(const struct kelpie_snapshot *snapshot) {
    ASSERT(snapshot);
    ASSERT((unsigned)snapshot->kind < KELPIE_SNAPSHOT_KIND_COUNT);
    return json_pack("{s:s, s:o, s:s, s:s, s:s, s:s, s:b, s:I, s:I}", "id", snapshot->id,
                     "parent_id", text_or_null(snapshot->parent_id), "kind",
                     vm_json_kind(snapshot->kind), "backend", snapshot->backend, "backend_version",
                     snapshot->backend_version, "architecture", snapshot->architecture, "quiesced",
                     snapshot->quiesced, "created_unix_ms", (json_int_t)snapshot->created_unix_ms,
                     "bytes", (json_int_t)snapshot->bytes);
}

static const char *outcome_name(enum kelpie_outcome outcome) {
    static const char *const names[] = {
        [KELPIE_OUTCOME_PENDING] = "pending",
        [KELPIE_OUTCOME_DONE] = "done",
        [KELPIE_OUTCOME_FAILED] = "failed",
        [KELPIE_OUTCOME_UNSUPPORTED] = "unsupported",
    };
    static_assert(ARRAY_SIZE(names) == KELPIE_OUTCOME_COUNT, "each outcome has a name");
    ASSERT((unsigned)outcome < KELPIE_OUTCOME_COUNT);
    return names[outcome];
}

json_t *vm_json_restore_report(const struct kelpie_restore_report *report) {
    ASSERT(report);
    ASSERT((unsigned)report->entropy < KELPIE_OUTCOME_COUNT);
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:I}", "entropy",
                     outcome_name(report->entropy), "generation", outcome_name(report->generation),
                     "clock", outcome_name(report->clock), "network", outcome_name(report->network),
                     "hostname", outcome_name(report->hostname), "machine_id",
                     outcome_name(report->machine_id), "clock_skew_ns",
                     (json_int_t)report->clock_skew_ns);
}
