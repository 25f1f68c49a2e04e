/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "snapshot/snapshot_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"

static const char *const part_names[] = {
    "state",  "memory", "pages",  "files",  "disk-0", "disk-1",
    "disk-2", "disk-3", "disk-4", "disk-5", "disk-6", "disk-7",
};
_Static_assert(ARRAY_SIZE(part_names) == SNAPSHOT_PART_COUNT, "each part has a name");

const char *snapshot_part_name(enum snapshot_part part) {
    ASSERT((unsigned)part < SNAPSHOT_PART_COUNT);
    ASSERT(part_names[part]);
    return part_names[part];
}

enum kelpie_status snapshot_path_format(struct snapshot_path *ret_path, struct kelpie_error *err,
                                        const char *format, ...) {
    char text[sizeof(ret_path->text)];
    ASSERT(ret_path);
    ASSERT(format);
    va_list args;
    va_start(args, format);
    int length = vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    ASSERT(length >= 0);
    if ((size_t)length >= sizeof(text)) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "directory",
                               "the path %.64s... is longer than %d bytes", text,
                               HOST_PATH_SIZE_MAX);
    }
    memcpy(ret_path->text, text, (size_t)length + 1);
    return KELPIE_OK;
}

bool snapshot_is_hexadecimal(const char *text, size_t count) {
    ASSERT(text);
    ASSERT(count > 0);
    return strspn(text, "0123456789abcdef") == count && text[count] == '\0';
}

enum kelpie_status snapshot_manifest_create(struct host *host,
                                            struct snapshot_manifest **ret_manifest,
                                            struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(ret_manifest);
    AUTO_MEM struct snapshot_manifest *manifest = host_allocate(host, sizeof(*manifest), err);
    if (!manifest) {
        return KELPIE_NO_MEMORY;
    }
    manifest->env = host_allocate(host, KELPIE_ENV_COUNT_MAX * sizeof(*manifest->env), err);
    if (!manifest->env) {
        return KELPIE_NO_MEMORY;
    }
    *ret_manifest = TAKE(manifest);
    return KELPIE_OK;
}

void snapshot_manifest_destroy(struct snapshot_manifest *manifest) {
    if (!manifest) {
        return;
    }
    ASSERT(manifest->env || manifest->env_count == 0);
    ASSERT(manifest->env_count <= KELPIE_ENV_COUNT_MAX);
    for (size_t i = 0; i < manifest->env_count; i++) {
        free(manifest->env[i]);
    }
    free(manifest->env);
    free(manifest);
}

enum kelpie_status snapshot_manifest_add_env(struct host *host, struct snapshot_manifest *manifest,
                                             const char *variable, struct kelpie_error *err) {
    ASSERT(manifest);
    ASSERT(variable);
    if (manifest->env_count == KELPIE_ENV_COUNT_MAX) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "env", "there are more than %d variables",
                               KELPIE_ENV_COUNT_MAX);
    }
    char *copy = host_duplicate(host, variable, err);
    if (!copy) {
        return KELPIE_NO_MEMORY;
    }
    manifest->env[manifest->env_count++] = copy;
    return KELPIE_OK;
}

enum kelpie_status snapshot_manifest_add_feature(struct snapshot_manifest *manifest,
                                                 const char *name, const char *value,
                                                 struct kelpie_error *err) {
    ASSERT(manifest->feature_count <= SNAPSHOT_FEATURE_COUNT_MAX);
    ASSERT(name && value);
    ASSERT(!snapshot_manifest_feature(manifest, name));
    if (manifest->feature_count == SNAPSHOT_FEATURE_COUNT_MAX ||
        strlen(name) > SNAPSHOT_NAME_SIZE_MAX || strlen(value) > SNAPSHOT_VALUE_SIZE_MAX) {
        return error_set(err, KELPIE_SNAPSHOT_FAILED,
                         "the feature %.32s does not fit a manifest: too many, or too long", name);
    }
    struct snapshot_feature *feature = &manifest->features[manifest->feature_count++];
    snprintf(feature->name, sizeof(feature->name), "%s", name);
    snprintf(feature->value, sizeof(feature->value), "%s", value);
    return KELPIE_OK;
}

const char *snapshot_manifest_feature(const struct snapshot_manifest *manifest, const char *name) {
    ASSERT(manifest);
    ASSERT(name);
    for (size_t i = 0; i < manifest->feature_count; i++) {
        if (strcmp(manifest->features[i].name, name) == 0) {
            return manifest->features[i].value;
        }
    }
    return NULL;
}

bool snapshot_workspace_is_plain(const char *path) {
    ASSERT(path);
    if (path[0] != '/') {
        return false;
    }
    const char *part = path;
    while (*part == '/') {
        part++;
        size_t size = strcspn(part, "/");
        bool is_dots = size > 0 && size <= 2 && strspn(part, ".") >= size;
        if (size == 0 || is_dots) {
            return false;
        }
        part += size;
    }
    ASSERT(*part == '\0');
    return true;
}
