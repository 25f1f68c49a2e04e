/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * manifest_decode.c: reads manifest.json, which is untrusted input.
 *
 * THEORY OF OPERATION
 *
 * jansson parses (bounded depth, duplicate keys refused); then the version is looked at, before anything that
 * a later version may have changed; then the checksum over everything else; then each member's
 * type, range and form. A member that is missing or unknown is an error, but for the top level's
 * "x-…", which are ignored. Every error names the member. A corrected checksum over wrong members gains
 * an attacker nothing: the members are checked all the same.
 */
#include "snapshot/manifest_json.h"

#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"

/* An object of the manifest and where it stands, for messages. */
struct scope {
    json_t *object;
    const char *name; /* "" at the top */
    struct kelpie_error *err;
};

static enum kelpie_status wrong(struct kelpie_error *err, const char *scope, const char *key,
                                const char *why) {
    ASSERT(scope && key);
    ASSERT(why);
    return error_set_field(err, KELPIE_SNAPSHOT_CORRUPT, "manifest", "manifest.json: %s%s%.64s %s",
                           scope, scope[0] ? "." : "", key, why);
}

/* ---- Members of an object --------------------------------------------------------------------- */

/* The object has these members and no others. keys ends with NULL. */
static enum kelpie_status take_keys(const struct scope *scope, const char *const *keys,
                                    bool extensions) {
    const char *key = NULL;
    json_t *value = NULL;
    ASSERT(keys);
    ASSERT(scope->object);
    if (json_typeof(scope->object) != JSON_OBJECT) {
        return wrong(scope->err, scope->name, "", "is not an object");
    }
    for (size_t i = 0; keys[i]; i++) {
        if (!json_object_get(scope->object, keys[i])) {
            return wrong(scope->err, scope->name, keys[i], "is missing");
        }
    }
    json_object_foreach(scope->object, key, value) {
        size_t i = 0;
        while (keys[i] && strcmp(keys[i], key) != 0) {
            i++;
        }
        bool extension = extensions && strncmp(key, MANIFEST_EXTENSION_PREFIX,
                                               strlen(MANIFEST_EXTENSION_PREFIX)) == 0;
        if (!keys[i] && !extension) {
            return wrong(scope->err, scope->name, key, "is unknown");
        }
    }
    ASSERT(json_is_object(scope->object));
    return KELPIE_OK;
}

static enum kelpie_status take_bool(const struct scope *scope, const char *key, bool *ret_value) {
    json_t *value = json_object_get(scope->object, key);
    ASSERT(key);
    ASSERT(ret_value && value); /* take_keys() has seen it */
    if (json_typeof(value) != JSON_TRUE && json_typeof(value) != JSON_FALSE) {
        return wrong(scope->err, scope->name, key, "is neither true nor false");
    }
    *ret_value = json_typeof(value) == JSON_TRUE;
    return KELPIE_OK;
}

static enum kelpie_status take_number(const struct scope *scope, const char *key, uint64_t min,
                                      uint64_t max, uint64_t *ret_value) {
    json_t *value = json_object_get(scope->object, key);
    ASSERT(ret_value && value);
    ASSERT(key);
    ASSERT(min <= max);
    ASSERT(max <= INT64_MAX);
    if (json_typeof(value) != JSON_INTEGER) {
        return wrong(scope->err, scope->name, key, "is not an integer");
    }
    json_int_t number = json_integer_value(value);
    if (number < 0 || (uint64_t)number < min || (uint64_t)number > max) {
        return wrong(scope->err, scope->name, key, "is out of range");
    }
    *ret_value = (uint64_t)number;
    return KELPIE_OK;
}

static bool has_control_character(const char *text) {
    ASSERT(text);
    for (size_t i = 0; text[i]; i++) {
        if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f) {
            return true;
        }
    }
    return false;
}

/* A string of at most size - 1 bytes, without control characters, into a buffer of that size. */
static enum kelpie_status take_text(const struct scope *scope, const char *key, char *ret_text,
                                    size_t size) {
    json_t *value = json_object_get(scope->object, key);
    ASSERT(key);
    ASSERT(ret_text);
    ASSERT(size > 0);
    if (!json_is_string(value)) {
        return wrong(scope->err, scope->name, key, "is not a string");
    }
    const char *text = json_string_value(value);
    if (json_string_length(value) >= size || has_control_character(text)) {
        return wrong(scope->err, scope->name, key, "is too long or has control characters");
    }
    snprintf(ret_text, size, "%s", text);
    return KELPIE_OK;
}

/* Exactly size - 1 hexadecimal digits, or nothing where that is allowed. */
static enum kelpie_status take_digits(const struct scope *scope, const char *key, bool may_be_empty,
                                      char *ret_text, size_t size) {
    ASSERT(size > 1);
    ASSERT(ret_text);
    TRY(take_text(scope, key, ret_text, size));
    if (!(may_be_empty && ret_text[0] == '\0') && !snapshot_is_hexadecimal(ret_text, size - 1)) {
        return wrong(scope->err, scope->name, key, "is not made of hexadecimal digits");
    }
    return KELPIE_OK;
}

/* [A-Za-z0-9][A-Za-z0-9_.-]* */
static bool is_name(const char *text) {
    static const char valid[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-";
    ASSERT(strlen(text) <= SNAPSHOT_MANIFEST_SIZE_MAX);
    ASSERT(text);
    return text[0] != '\0' && !strchr("_.-", text[0]) && text[strspn(text, valid)] == '\0';
}

static enum kelpie_status take_name(const struct scope *scope, const char *key, char *ret_text,
                                    size_t size) {
    ASSERT(size > 1);
    ASSERT(ret_text);
    TRY(take_text(scope, key, ret_text, size));
    if (!is_name(ret_text)) {
        return wrong(scope->err, scope->name, key, "is not a name");
    }
    return KELPIE_OK;
}

/* Absolute, or empty. */
static enum kelpie_status take_guest_path(const struct scope *scope, const char *key,
                                          char *ret_text, size_t size) {
    ASSERT(size > 1);
    ASSERT(ret_text);
    TRY(take_text(scope, key, ret_text, size));
    if (ret_text[0] != '\0' && ret_text[0] != '/') {
        return wrong(scope->err, scope->name, key, "is not an absolute path");
    }
    return KELPIE_OK;
}

/* ---- The manifest's members ------------------------------------------------------------------- */

static enum kelpie_status decode_info(const struct scope *root,
                                      struct snapshot_manifest *manifest) {
    struct kelpie_snapshot *info = &manifest->info;
    char kind[16];
    ASSERT(manifest);
    ASSERT(root->name[0] == '\0');
    TRY(take_digits(root, "id", false, info->id, sizeof(info->id)));
    TRY(take_digits(root, "parent_id", true, info->parent_id, sizeof(info->parent_id)));
    TRY(take_name(root, "architecture", info->architecture, sizeof(info->architecture)));
    TRY(take_name(root, "backend", info->backend, sizeof(info->backend)));
    TRY(take_text(root, "backend_version", info->backend_version, sizeof(info->backend_version)));
    TRY(take_bool(root, "quiesced", &info->quiesced));
    TRY(take_number(root, "created_unix_ms", 0, INT64_MAX, &info->created_unix_ms));
    TRY(take_text(root, "kind", kind, sizeof(kind)));
    for (unsigned i = 0; i < KELPIE_SNAPSHOT_KIND_COUNT; i++) {
        if (strcmp(kind, manifest_kind_names[i]) == 0) {
            info->kind = i;
            return KELPIE_OK;
        }
    }
    return wrong(root->err, "", "kind", "is none of suspend, teleport, checkpoint");
}

static enum kelpie_status decode_machine(const struct scope *root,
                                         struct snapshot_manifest *manifest) {
    ASSERT(manifest);
    ASSERT(root->name[0] == '\0');
    TRY(take_digits(root, "vm_id", true, manifest->vm_id, sizeof(manifest->vm_id)));
    TRY(take_text(root, "vm_name", manifest->vm_name, sizeof(manifest->vm_name)));
    if (manifest->vm_name[0] != '\0' && !is_name(manifest->vm_name)) {
        return wrong(root->err, "", "vm_name", "is not a name");
    }
    TRY(take_digits(root, "kernel_sha256", true, manifest->kernel_digest,
                    sizeof(manifest->kernel_digest)));
    TRY(take_digits(root, "initramfs_sha256", true, manifest->initramfs_digest,
                    sizeof(manifest->initramfs_digest)));
    return take_bool(root, "memory_in_state", &manifest->memory_in_state);
}

static enum kelpie_status decode_env(struct host *host, const struct scope *config,
                                     struct snapshot_manifest *manifest) {
    json_t *env = json_object_get(config->object, "env");
    size_t bytes = 0;
    ASSERT(manifest->env_count == 0);
    ASSERT(env);
    if (json_typeof(env) != JSON_ARRAY || json_array_size(env) > KELPIE_ENV_COUNT_MAX) {
        return wrong(config->err, config->name, "env", "is not an array, or too long");
    }
    for (size_t i = 0; i < json_array_size(env); i++) {
        const char *text = json_string_value(json_array_get(env, i));
        if (!text || text[0] == '=' || !strchr(text, '=')) {
            return wrong(config->err, config->name, "env", "has an element that is no KEY=VALUE");
        }
        bytes += strlen(text) + 1;
        if (bytes > KELPIE_COMMAND_BYTES_MAX) {
            return wrong(config->err, config->name, "env", "is too long");
        }
        TRY(snapshot_manifest_add_env(host, manifest, text, config->err));
    }
    ASSERT(manifest->env_count == json_array_size(env));
    return KELPIE_OK;
}

static enum kelpie_status decode_config(struct host *host, const struct scope *root,
                                        struct snapshot_manifest *manifest) {
    static const char *const keys[] = {"vcpu_count",  "memory_mib", "kernel_args", "hostname",
                                       "working_dir", "env",        NULL};
    struct scope config = {json_object_get(root->object, "config"), "config", root->err};
    uint64_t vcpu_count = 0;
    uint64_t memory_mib = 0;
    ASSERT(manifest->vcpu_count == 0);
    TRY(take_keys(&config, keys, false));
    TRY(take_number(&config, "vcpu_count", KELPIE_VCPU_COUNT_MIN, KELPIE_VCPU_COUNT_MAX,
                    &vcpu_count));
    TRY(take_number(&config, "memory_mib", KELPIE_MEMORY_MIB_MIN, KELPIE_MEMORY_MIB_MAX,
                    &memory_mib));
    manifest->vcpu_count = (uint32_t)vcpu_count;
    manifest->memory_mib = (uint32_t)memory_mib;
    ASSERT(manifest->vcpu_count == vcpu_count);
    TRY(take_text(&config, "kernel_args", manifest->kernel_args, sizeof(manifest->kernel_args)));
    TRY(take_text(&config, "hostname", manifest->hostname, sizeof(manifest->hostname)));
    if (manifest->hostname[0] != '\0' && !is_name(manifest->hostname)) {
        return wrong(root->err, config.name, "hostname", "is not a name");
    }
    TRY(take_guest_path(&config, "working_dir", manifest->working_dir,
                        sizeof(manifest->working_dir)));
    return decode_env(host, &config, manifest);
}

static bool part_by_name(const char *name, unsigned *ret_part) {
    ASSERT(name);
    ASSERT(ret_part);
    for (unsigned i = 0; i < SNAPSHOT_PART_COUNT; i++) {
        if (strcmp(name, snapshot_part_name(i)) == 0) {
            *ret_part = i;
            return true;
        }
    }
    return false;
}

static enum kelpie_status decode_parts(const struct scope *root,
                                       struct snapshot_manifest *manifest) {
    static const char *const keys[] = {"size", "xxh3_128", NULL};
    json_t *parts = json_object_get(root->object, "parts");
    const char *name = NULL;
    json_t *value = NULL;
    ASSERT(manifest && parts);
    if (json_typeof(parts) != JSON_OBJECT) {
        return wrong(root->err, "", "parts", "is not an object");
    }
    json_object_foreach(parts, name, value) {
        struct scope scope = {value, "parts", root->err};
        unsigned part = 0;
        if (!part_by_name(name, &part)) {
            return wrong(root->err, "parts", name, "is no part of a bundle");
        }
        struct snapshot_part_info *info = &manifest->parts[part];
        ASSERT(!info->present);
        TRY(take_keys(&scope, keys, false));
        TRY(take_number(&scope, "size", 0, SNAPSHOT_PART_SIZE_MAX, &info->size));
        TRY(take_digits(&scope, "xxh3_128", false, info->checksum, sizeof(info->checksum)));
        info->present = true;
    }
    return KELPIE_OK;
}

static enum kelpie_status decode_disk(const struct scope *scope, struct snapshot_disk *disk) {
    static const char *const keys[] = {"path", "mount",    "read_only", "in_bundle",
                                       "size", "xxh3_128", NULL};
    ASSERT(scope);
    ASSERT(disk->size == 0);
    TRY(take_keys(scope, keys, false));
    TRY(take_text(scope, "path", disk->path, sizeof(disk->path)));
    if (disk->path[0] == '\0') {
        return wrong(scope->err, scope->name, "path", "is empty");
    }
    TRY(take_guest_path(scope, "mount", disk->mount, sizeof(disk->mount)));
    TRY(take_bool(scope, "read_only", &disk->read_only));
    TRY(take_bool(scope, "in_bundle", &disk->in_bundle));
    TRY(take_number(scope, "size", 0, SNAPSHOT_PART_SIZE_MAX, &disk->size));
    return take_digits(scope, "xxh3_128", true, disk->checksum, sizeof(disk->checksum));
}

/* A disk is in the bundle exactly when there is a part of its number. */
static enum kelpie_status decode_disks(const struct scope *root,
                                       struct snapshot_manifest *manifest) {
    json_t *disks = json_object_get(root->object, "disks");
    ASSERT(manifest->disk_count == 0);
    ASSERT(disks);
    if (json_typeof(disks) != JSON_ARRAY || json_array_size(disks) > KELPIE_DISK_COUNT_MAX) {
        return wrong(root->err, "", "disks", "is not an array, or too long");
    }
    manifest->disk_count = json_array_size(disks);
    for (size_t i = 0; i < KELPIE_DISK_COUNT_MAX; i++) {
        struct scope scope = {json_array_get(disks, i), "disks", root->err};
        struct snapshot_disk *disk = &manifest->disks[i];
        const struct snapshot_part_info *part = &manifest->parts[SNAPSHOT_PART_DISK_0 + i];
        if (i < manifest->disk_count) {
            TRY(decode_disk(&scope, disk));
        }
        if (disk->in_bundle != part->present || (part->present && disk->size != part->size)) {
            return wrong(root->err, "", "disks", "and parts contradict each other");
        }
    }
    ASSERT(manifest->disk_count <= KELPIE_DISK_COUNT_MAX);
    return KELPIE_OK;
}

static enum kelpie_status decode_session(const struct scope *scope,
                                         struct snapshot_session *session) {
    static const char *const keys[] = {
        "id", "tty", "stdin_offset", "stdout_offset", "stderr_offset", NULL};
    uint64_t id = 0;
    ASSERT(session->id == 0);
    TRY(take_keys(scope, keys, false));
    TRY(take_number(scope, "id", 0, UINT32_MAX, &id));
    TRY(take_bool(scope, "tty", &session->tty));
    TRY(take_number(scope, "stdin_offset", 0, INT64_MAX, &session->stdin_offset));
    TRY(take_number(scope, "stdout_offset", 0, INT64_MAX, &session->stdout_offset));
    TRY(take_number(scope, "stderr_offset", 0, INT64_MAX, &session->stderr_offset));
    session->id = (uint32_t)id;
    ASSERT(session->id == id);
    return KELPIE_OK;
}

static enum kelpie_status decode_sessions(const struct scope *root,
                                          struct snapshot_manifest *manifest) {
    json_t *sessions = json_object_get(root->object, "sessions");
    ASSERT(manifest->session_count == 0);
    ASSERT(sessions);
    if (json_typeof(sessions) != JSON_ARRAY || json_array_size(sessions) > KELPIE_EXEC_COUNT_MAX) {
        return wrong(root->err, "", "sessions", "is not an array, or too long");
    }
    for (size_t i = 0; i < json_array_size(sessions); i++) {
        struct scope scope = {json_array_get(sessions, i), "sessions", root->err};
        struct snapshot_session *session = &manifest->sessions[i];
        TRY(decode_session(&scope, session));
        for (size_t j = 0; j < i; j++) {
            if (manifest->sessions[j].id == session->id) {
                return wrong(root->err, "", "sessions", "has the same id twice");
            }
        }
    }
    manifest->session_count = json_array_size(sessions);
    ASSERT(manifest->session_count <= KELPIE_EXEC_COUNT_MAX);
    return KELPIE_OK;
}

static enum kelpie_status decode_features(const struct scope *root,
                                          struct snapshot_manifest *manifest) {
    struct scope features = {json_object_get(root->object, "features"), "features", root->err};
    const char *name = NULL;
    json_t *value = NULL;
    ASSERT(manifest->feature_count == 0);
    ASSERT(features.object);
    if (json_typeof(features.object) != JSON_OBJECT ||
        json_object_size(features.object) > SNAPSHOT_FEATURE_COUNT_MAX) {
        return wrong(root->err, "", "features", "is not an object, or too large");
    }
    json_object_foreach(features.object, name, value) {
        char text[SNAPSHOT_VALUE_SIZE_MAX + 1];
        if (strlen(name) > SNAPSHOT_NAME_SIZE_MAX || !is_name(name)) {
            return wrong(root->err, features.name, name, "is not a name");
        }
        TRY(take_text(&features, name, text, sizeof(text)));
        enum kelpie_status added = snapshot_manifest_add_feature(manifest, name, text, root->err);
        ASSERT(added == KELPIE_OK); /* its bounds are those that were checked */
    }
    ASSERT(manifest->feature_count == json_object_size(features.object));
    return KELPIE_OK;
}

static enum kelpie_status decode_parent_path(const struct scope *root,
                                             struct snapshot_manifest *manifest) {
    ASSERT(manifest);
    ASSERT(manifest->parent_path[0] == '\0');
    TRY(take_text(root, "parent_path", manifest->parent_path, sizeof(manifest->parent_path)));
    if (manifest->parent_path[0] == '\0') {
        return wrong(root->err, "", "parent_path", "is empty");
    }
    return KELPIE_OK;
}

/* Absolute, in plain parts, and not the root. */
static enum kelpie_status decode_workspace(const struct scope *root,
                                           struct snapshot_manifest *manifest) {
    ASSERT(manifest);
    ASSERT(manifest->workspace[0] == '\0');
    TRY(take_guest_path(root, "workspace", manifest->workspace, sizeof(manifest->workspace)));
    if (!snapshot_workspace_is_plain(manifest->workspace)) {
        return wrong(root->err, "", "workspace",
                     "is no absolute path of plain parts below the root");
    }
    return KELPIE_OK;
}

/* A diff has a parent, memory, and the bits that say which pages of it count; another bundle has none. */
static enum kelpie_status check_diff(const struct scope *root,
                                     const struct snapshot_manifest *manifest) {
    ASSERT(manifest);
    ASSERT(root->name[0] == '\0');
    const struct snapshot_part_info *memory = &manifest->parts[SNAPSHOT_PART_MEMORY];
    const struct snapshot_part_info *pages = &manifest->parts[SNAPSHOT_PART_PAGES];
    const uint64_t bytes_of_bit = 8 * SNAPSHOT_PAGE_SIZE;
    bool diff = manifest->parent_path[0] != '\0';
    if (diff != pages->present) {
        return wrong(root->err, "parts", "pages", "is of a diff, and of nothing else");
    }
    if (diff && (!memory->present || memory->size % bytes_of_bit != 0 ||
                 pages->size != memory->size / bytes_of_bit)) {
        return wrong(root->err, "parts", "pages", "does not fit the memory");
    }
    if (diff && (manifest->info.parent_id[0] == '\0' ||
                 strcmp(manifest->info.parent_id, manifest->info.id) == 0 ||
                 manifest->info.kind == KELPIE_SNAPSHOT_CHECKPOINT)) {
        return wrong(root->err, "", "parent_id", "or kind is none of a diff");
    }
    return KELPIE_OK;
}

/* A checkpoint has files and their place, and nothing of a machine; another bundle has no files. */
static enum kelpie_status check_checkpoint(const struct scope *root,
                                           const struct snapshot_manifest *manifest) {
    bool is_one = manifest->info.kind == KELPIE_SNAPSHOT_CHECKPOINT;
    ASSERT(manifest);
    ASSERT(root->name[0] == '\0');
    for (unsigned i = 0; i < SNAPSHOT_PART_COUNT; i++) {
        bool allowed = is_one == (i == SNAPSHOT_PART_FILES);
        bool needed = is_one && i == SNAPSHOT_PART_FILES;
        if ((manifest->parts[i].present && !allowed) || (needed && !manifest->parts[i].present)) {
            return wrong(root->err, "parts", snapshot_part_name(i),
                         needed ? "is missing" : "does not fit the kind");
        }
    }
    if (is_one && (manifest->memory_in_state || manifest->disk_count > 0 ||
                   manifest->session_count > 0 || !manifest->info.quiesced)) {
        return wrong(root->err, "", "kind",
                     "is one of files, and there is something of a machine, or it ran");
    }
    return KELPIE_OK;
}

/* What must hold between the members. */
static enum kelpie_status check_whole(const struct scope *root,
                                      const struct snapshot_manifest *manifest) {
    bool state = manifest->parts[SNAPSHOT_PART_STATE].present;
    bool memory = manifest->parts[SNAPSHOT_PART_MEMORY].present;
    ASSERT(manifest);
    ASSERT(root->name[0] == '\0');
    TRY(check_diff(root, manifest));
    TRY(check_checkpoint(root, manifest));
    if (manifest->info.kind != KELPIE_SNAPSHOT_CHECKPOINT && !state) {
        return wrong(root->err, "parts", "state", "is missing");
    }
    if (manifest->memory_in_state && memory) {
        return wrong(root->err, "", "memory_in_state", "and parts contradict each other");
    }
    return KELPIE_OK;
}

/* ---- The whole -------------------------------------------------------------------------------- */

static enum kelpie_status check_version(const struct scope *root, int *ret_version) {
    json_t *version = json_object_get(root->object, "format_version");
    ASSERT(json_is_object(root->object));
    ASSERT(root->name[0] == '\0');
    if (!json_is_integer(version)) {
        return wrong(root->err, "", "format_version", "is not an integer");
    }
    json_int_t number = json_integer_value(version);
    if (number < SNAPSHOT_FORMAT_VERSION || number > SNAPSHOT_FORMAT_VERSION_CHECKPOINT) {
        return error_set_field(root->err, KELPIE_SNAPSHOT_INCOMPATIBLE, "format_version",
                               "the bundle has format version %lld; this library reads %d to %d",
                               (long long)number, SNAPSHOT_FORMAT_VERSION,
                               SNAPSHOT_FORMAT_VERSION_CHECKPOINT);
    }
    *ret_version = (int)number;
    return KELPIE_OK;
}

static enum kelpie_status check_checksum(const struct scope *root) {
    char computed[SNAPSHOT_CHECKSUM_SIZE];
    char stated[SNAPSHOT_CHECKSUM_SIZE];
    ASSERT(json_is_object(root->object));
    ASSERT(root->name[0] == '\0');
    TRY(take_digits(root, MANIFEST_CHECKSUM_KEY, false, stated, sizeof(stated)));
    if (!manifest_checksum(root->object, computed)) {
        return error_set(root->err, KELPIE_NO_MEMORY, "no memory for a manifest");
    }
    if (strcmp(computed, stated) != 0) {
        return wrong(root->err, "", MANIFEST_CHECKSUM_KEY, "does not fit the other members");
    }
    return KELPIE_OK;
}

static enum kelpie_status decode_root(struct host *host, const struct scope *root,
                                      struct snapshot_manifest *manifest) {
    const char *keys[] = {NULL, /* what a diff or a checkpoint alone has */
                          "format_version",
                          "id",
                          "parent_id",
                          "kind",
                          "created_unix_ms",
                          "quiesced",
                          "backend",
                          "backend_version",
                          "architecture",
                          "vm_id",
                          "vm_name",
                          "config",
                          "kernel_sha256",
                          "parts",
                          "initramfs_sha256",
                          "disks",
                          "sessions",
                          "features",
                          "checksum",
                          "memory_in_state",
                          NULL};
    int version = 0;
    ASSERT(manifest);
    ASSERT(json_is_object(root->object));
    TRY(check_version(root, &version));
    TRY(check_checksum(root));
    bool checkpoint = version == SNAPSHOT_FORMAT_VERSION_CHECKPOINT;
    bool diff = version == SNAPSHOT_FORMAT_VERSION_DIFF;
    keys[0] = diff ? "parent_path" : "workspace";
    TRY(take_keys(root, diff || checkpoint ? keys : keys + 1, true));
    if (diff) {
        TRY(decode_parent_path(root, manifest));
    }
    TRY(decode_info(root, manifest));
    if (!diff && checkpoint != (manifest->info.kind == KELPIE_SNAPSHOT_CHECKPOINT)) {
        return wrong(root->err, "", "kind", "and format_version contradict each other");
    }
    if (checkpoint) {
        TRY(decode_workspace(root, manifest));
    }
    TRY(decode_machine(root, manifest));
    TRY(decode_config(host, root, manifest));
    TRY(decode_parts(root, manifest));
    TRY(decode_disks(root, manifest));
    TRY(decode_sessions(root, manifest));
    TRY(decode_features(root, manifest));
    return check_whole(root, manifest);
}

enum kelpie_status snapshot_manifest_decode(struct host *host, const char *text, size_t size,
                                            struct snapshot_manifest **ret_manifest,
                                            struct kelpie_error *err) {
    json_error_t parse_error;
    struct snapshot_manifest *manifest = NULL;
    ASSERT(text || size == 0);
    ASSERT(ret_manifest);
    if (size > SNAPSHOT_MANIFEST_SIZE_MAX) {
        return wrong(err, "", "", "is too long");
    }
    AUTO_JSON json_t *object =
        json_loadb(text ? text : "", size, JSON_REJECT_DUPLICATES, &parse_error);
    if (!json_is_object(object)) {
        return error_set_field(err, KELPIE_SNAPSHOT_CORRUPT, "manifest",
                               "manifest.json is not a JSON object: byte %d: %s",
                               parse_error.position, parse_error.text);
    }
    const struct scope root = {object, "", err};
    TRY(snapshot_manifest_create(host, &manifest, err));
    enum kelpie_status status = decode_root(host, &root, manifest);
    if (status != KELPIE_OK) {
        snapshot_manifest_destroy(manifest);
        return status;
    }
    *ret_manifest = manifest;
    return KELPIE_OK;
}
