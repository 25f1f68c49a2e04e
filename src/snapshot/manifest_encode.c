/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "snapshot/manifest_json.h"

#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"

const char *const manifest_kind_names[KELPIE_SNAPSHOT_KIND_COUNT] = {
    [KELPIE_SNAPSHOT_SUSPEND] = "suspend",
    [KELPIE_SNAPSHOT_TELEPORT] = "teleport",
    [KELPIE_SNAPSHOT_CHECKPOINT] = "checkpoint",
};

bool manifest_checksum(json_t *root, char ret_checksum[SNAPSHOT_CHECKSUM_SIZE]) {
    ASSERT(json_is_object(root));
    ASSERT(ret_checksum);
    AUTO_JSON json_t *copy = json_copy(root);
    /* Jansson leaves members out, without a word, when there is no memory for them. */
    if (!copy || json_object_size(copy) != json_object_size(root)) {
        return false;
    }
    json_object_del(copy, MANIFEST_CHECKSUM_KEY); /* It may be absent. */
    AUTO_MEM char *text = json_dumps(copy, JSON_COMPACT | JSON_SORT_KEYS);
    if (!text) {
        return false;
    }
    snapshot_checksum_bytes(text, strlen(text), ret_checksum);
    return true;
}

/* Each of these returns NULL when there is no memory or a string is not UTF-8; json_pack passes that on. */
static json_t *encode_config(const struct snapshot_manifest *manifest) {
    AUTO_JSON json_t *env = json_array();
    ASSERT(manifest->env);
    ASSERT(manifest->env_count <= KELPIE_ENV_COUNT_MAX);
    for (size_t i = 0; i < manifest->env_count; i++) {
        if (json_array_append_new(env, json_string(manifest->env[i])) != 0) {
            return NULL;
        }
    }
    return json_pack(
        "{s:I, s:I, s:s, s:s, s:s, s:O}", "vcpu_count", (json_int_t)manifest->vcpu_count,
        "memory_mib", (json_int_t)manifest->memory_mib, "kernel_args", manifest->kernel_args,
        "hostname", manifest->hostname, "working_dir", manifest->working_dir, "env", env);
}

static json_t *encode_parts(const struct snapshot_manifest *manifest) {
    AUTO_JSON json_t *parts = json_object();
    ASSERT(manifest);
    for (unsigned i = 0; i < SNAPSHOT_PART_COUNT; i++) {
        const struct snapshot_part_info *part = &manifest->parts[i];
        if (!part->present) {
            continue;
        }
        ASSERT(part->size <= SNAPSHOT_PART_SIZE_MAX);
        json_t *value =
            json_pack("{s:I, s:s}", "size", (json_int_t)part->size, "xxh3_128", part->checksum);
        if (json_object_set_new(parts, snapshot_part_name(i), value) != 0) {
            return NULL;
        }
    }
    return json_incref(parts);
}

static json_t *encode_disks(const struct snapshot_manifest *manifest) {
    AUTO_JSON json_t *disks = json_array();
    ASSERT(manifest->disk_count <= KELPIE_DISK_COUNT_MAX);
    for (size_t i = 0; i < manifest->disk_count; i++) {
        const struct snapshot_disk *disk = &manifest->disks[i];
        ASSERT(disk->size <= SNAPSHOT_PART_SIZE_MAX);
        json_t *value =
            json_pack("{s:s, s:s, s:b, s:b, s:I, s:s}", "path", disk->path, "mount", disk->mount,
                      "read_only", disk->read_only, "in_bundle", disk->in_bundle, "size",
                      (json_int_t)disk->size, "xxh3_128", disk->checksum);
        if (json_array_append_new(disks, value) != 0) {
            return NULL;
        }
    }
    return json_incref(disks);
}

static json_t *encode_sessions(const struct snapshot_manifest *manifest) {
    AUTO_JSON json_t *sessions = json_array();
    ASSERT(manifest->session_count <= KELPIE_EXEC_COUNT_MAX);
    for (size_t i = 0; i < manifest->session_count; i++) {
        const struct snapshot_session *session = &manifest->sessions[i];
        ASSERT(session->stdout_offset <= INT64_MAX);
        json_t *value = json_pack("{s:I, s:b, s:I, s:I, s:I}", "id", (json_int_t)session->id, "tty",
                                  session->tty, "stdin_offset", (json_int_t)session->stdin_offset,
                                  "stdout_offset", (json_int_t)session->stdout_offset,
                                  "stderr_offset", (json_int_t)session->stderr_offset);
        if (json_array_append_new(sessions, value) != 0) {
            return NULL;
        }
    }
    return json_incref(sessions);
}

static json_t *encode_features(const struct snapshot_manifest *manifest) {
    AUTO_JSON json_t *features = json_object();
    ASSERT(manifest);
    ASSERT(manifest->feature_count <= SNAPSHOT_FEATURE_COUNT_MAX);
    for (size_t i = 0; i < manifest->feature_count; i++) {
        const struct snapshot_feature *feature = &manifest->features[i];
        if (json_object_set_new(features, feature->name, json_string(feature->value)) != 0) {
            return NULL;
        }
    }
    return json_incref(features);
}

static json_t *encode_root(const struct snapshot_manifest *manifest) {
    const struct kelpie_snapshot *info = &manifest->info;
    ASSERT((unsigned)info->kind < KELPIE_SNAPSHOT_KIND_COUNT);
    ASSERT(info->created_unix_ms <= INT64_MAX);
    bool diff = manifest->parent_path[0] != '\0';
    bool checkpoint = info->kind == KELPIE_SNAPSHOT_CHECKPOINT;
    int version = diff         ? SNAPSHOT_FORMAT_VERSION_DIFF
                  : checkpoint ? SNAPSHOT_FORMAT_VERSION_CHECKPOINT
                               : SNAPSHOT_FORMAT_VERSION;
    return json_pack(
        "{s:i, s:s*, s:s*, s:s, s:s, s:s, s:I, s:b, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:b, s:o, "
        "s:o, "
        "s:o, s:o, s:o}",
        "format_version", version, "parent_path", diff ? manifest->parent_path : NULL, "workspace",
        version == SNAPSHOT_FORMAT_VERSION_CHECKPOINT ? manifest->workspace : NULL, "id", info->id,
        "parent_id", info->parent_id, "kind", manifest_kind_names[info->kind], "created_unix_ms",
        (json_int_t)info->created_unix_ms, "quiesced", info->quiesced, "architecture",
        info->architecture, "backend", info->backend, "backend_version", info->backend_version,
        "vm_id", manifest->vm_id, "vm_name", manifest->vm_name, "kernel_sha256",
        manifest->kernel_digest, "initramfs_sha256", manifest->initramfs_digest, "memory_in_state",
        manifest->memory_in_state, "config", encode_config(manifest), "parts",
        encode_parts(manifest), "disks", encode_disks(manifest), "sessions",
        encode_sessions(manifest), "features", encode_features(manifest));
}

/* For the same reason: what was written is what there is. */
static bool is_whole(const char *text, const json_t *root, const char *checksum) {
    char computed[SNAPSHOT_CHECKSUM_SIZE];
    ASSERT(text);
    ASSERT(json_is_object(root));
    AUTO_JSON json_t *read = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    return read && json_object_size(read) == json_object_size(root) &&
           manifest_checksum(read, computed) && strcmp(computed, checksum) == 0;
}

enum kelpie_status snapshot_manifest_encode(const struct snapshot_manifest *manifest,
                                            char **ret_text, struct kelpie_error *err) {
    char checksum[SNAPSHOT_CHECKSUM_SIZE];
    ASSERT(manifest);
    ASSERT(ret_text);
    AUTO_JSON json_t *root = encode_root(manifest);
    bool diff = manifest->parent_path[0] != '\0';
    bool files = !diff && manifest->info.kind == KELPIE_SNAPSHOT_CHECKPOINT;
    if (!root || diff != (json_object_get(root, "parent_path") != NULL) ||
        files != (json_object_get(root, "workspace") != NULL) ||
        !manifest_checksum(root, checksum) ||
        json_object_set_new(root, MANIFEST_CHECKSUM_KEY, json_string(checksum)) != 0) {
        return error_set(err, KELPIE_SNAPSHOT_FAILED,
                         "the manifest cannot be written: there is no memory, or a path, an "
                         "argument or a variable is not UTF-8");
    }
    AUTO_MEM char *text = json_dumps(root, JSON_INDENT(1) | JSON_SORT_KEYS);
    if (!text || !is_whole(text, root, checksum)) {
        return error_set(err, KELPIE_NO_MEMORY, "no memory for a manifest");
    }
    *ret_text = TAKE(text);
    return KELPIE_OK;
}
