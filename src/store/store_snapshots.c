/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Snapshots by name: bundles in a folder of the store. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "snapshot/snapshot.h"
#include "store/store_folder.h"
#include "store/store_internal.h"

enum kelpie_status kelpie_snapshot_path(void *host, const char *name, char *path, size_t size,
                                        struct kelpie_error *err) {
    AUTO_SESSION struct store_session session = {0};
    ASSERT(name);
    ASSERT(path && size > 0);
    if (strchr(name, '/')) {
        if (strlen(name) >= size) {
            return error_set_field(err, KELPIE_BAD_CONFIG, "path", "the path %.80s… is too long",
                                   name);
        }
        memcpy(path, name, strlen(name) + 1);
        return KELPIE_OK;
    }
    TRY(store_session_open(host, &session, err));
    return store_path(session.store, STORE_SNAPSHOTS, name, path, size, err);
}

/* What the bundle is, or why it cannot be used. An error: nobody knows. */
static enum kelpie_status describe(struct store *store, const char *name,
                                   struct kelpie_snapshot_info *ret_info, char *ret_parent_id,
                                   struct kelpie_error *err) {
    char path[KELPIE_PATH_SIZE_MAX + 1];
    struct kelpie_snapshot_info info = {0};
    struct kelpie_error why = {0};
    struct snapshot_reader *reader = NULL;
    ASSERT(store);
    ASSERT(store_name_is_good(name));
    TRY(store_path(store, STORE_SNAPSHOTS, name, path, sizeof(path), err));
    snprintf(info.name, sizeof(info.name), "%s", name);
    info.status = snapshot_reader_open(store->host, path, &reader, &why);
    if (info.status == KELPIE_NO_MEMORY || info.status == KELPIE_IO_FAILED) {
        return store_error_pass(err, &why);
    }
    if (info.status == KELPIE_OK) {
        const struct snapshot_manifest *manifest = snapshot_reader_manifest(reader);
        const struct snapshot_reader *parent = snapshot_reader_parent(reader);
        info.snapshot = manifest->info;
        snprintf(info.vm_name, sizeof(info.vm_name), "%s", manifest->vm_name);
        snprintf(ret_parent_id, KELPIE_ID_SIZE, "%s",
                 parent ? snapshot_reader_manifest(parent)->info.id : "");
    }
    info.snapshot.bytes = store_folder_bytes(store, path);
    snapshot_reader_close(reader);
    *ret_info = info;
    return KELPIE_OK;
}

static bool is_snapshot(const char *name) {
    ASSERT(name);
    ASSERT(name[0]);
    return store_name_is_good(name) && !snapshot_is_partial(name);
}

enum kelpie_status kelpie_snapshot_list(void *host, struct kelpie_snapshot_info **ret_list,
                                        size_t *ret_count, struct kelpie_error *err) {
    AUTO_SESSION struct store_session session = {0};
    AUTO_MEM struct host_dir_entry *entries = NULL;
    size_t entry_count = 0;
    size_t count = 0;
    ASSERT(ret_list);
    ASSERT(ret_count);
    TRY(store_session_open(host, &session, err));
    TRY(store_list(session.store, STORE_SNAPSHOTS, &entries, &entry_count, err));
    AUTO_MEM struct kelpie_snapshot_info *list =
        host_allocate(session.host, (entry_count + 1) * sizeof(*list), err);
    if (!list) {
        return KELPIE_NO_MEMORY;
    }
    for (size_t i = 0; i < entry_count; i++) {
        char parent_id[KELPIE_ID_SIZE] = "";
        if (!is_snapshot(entries[i].name)) {
            continue;
        }
        TRY(describe(session.store, entries[i].name, &list[count], parent_id, err));
        count += list[count].status != KELPIE_NOT_FOUND; /* removed meanwhile */
    }
    *ret_list = TAKE(list);
    *ret_count = count;
    return KELPIE_OK;
}

enum kelpie_status store_snapshot_images(struct store *store,
                                         struct store_snapshot_image **ret_list, size_t *ret_count,
                                         struct kelpie_error *err) {
    AUTO_MEM struct host_dir_entry *entries = NULL;
    size_t entry_count = 0;
    size_t count = 0;
    ASSERT(store);
    ASSERT(ret_list);
    TRY(store_list(store, STORE_SNAPSHOTS, &entries, &entry_count, err));
    AUTO_MEM struct store_snapshot_image *list =
        host_allocate(store->host, (entry_count + 1) * sizeof(*list), err);
    if (!list) {
        return KELPIE_NO_MEMORY;
    }
    for (size_t i = 0; i < entry_count; i++) {
        char path[KELPIE_PATH_SIZE_MAX + 1];
        struct snapshot_reader *reader = NULL;
        struct kelpie_error why = {0};
        if (!is_snapshot(entries[i].name)) {
            continue;
        }
        TRY(store_path(store, STORE_SNAPSHOTS, entries[i].name, path, sizeof(path), err));
        enum kelpie_status status = snapshot_reader_open(store->host, path, &reader, &why);
        if (status == KELPIE_NO_MEMORY || status == KELPIE_IO_FAILED) {
            return store_error_pass(err, &why);
        }
        const char *digest = status == KELPIE_OK
                                 ? snapshot_manifest_feature(snapshot_reader_manifest(reader),
                                                             SNAPSHOT_FEATURE_IMAGE)
                                 : NULL;
        if (digest) {
            snprintf(list[count].name, sizeof(list[count].name), "%.64s", entries[i].name);
            snprintf(list[count].digest, sizeof(list[count].digest), "%s", digest);
            count++;
        }
        snapshot_reader_close(reader);
    }
    *ret_list = TAKE(list);
    *ret_count = count;
    return KELPIE_OK;
}

/* A diff is of no use without its parent (hazard E5). */
static enum kelpie_status check_no_child(struct store *store,
                                         const struct kelpie_snapshot_info *parent,
                                         struct kelpie_error *err) {
    AUTO_MEM struct host_dir_entry *entries = NULL;
    size_t count = 0;
    ASSERT(store);
    ASSERT(parent->status == KELPIE_OK);
    TRY(store_list(store, STORE_SNAPSHOTS, &entries, &count, err));
    for (size_t i = 0; i < count; i++) {
        struct kelpie_snapshot_info info;
        char parent_id[KELPIE_ID_SIZE] = "";
        if (!is_snapshot(entries[i].name) || strcmp(entries[i].name, parent->name) == 0) {
            continue;
        }
        TRY(describe(store, entries[i].name, &info, parent_id, err));
        if (strcmp(parent_id, parent->snapshot.id) == 0) {
            return error_set(err, KELPIE_BUSY,
                             "the snapshot %s is a diff to %s: remove that before", info.name,
                             parent->name);
        }
    }
    return KELPIE_OK;
}

enum kelpie_status kelpie_snapshot_remove(void *host, const char *name, struct kelpie_error *err) {
    AUTO_SESSION struct store_session session = {0};
    char path[KELPIE_PATH_SIZE_MAX + 1];
    char parent_id[KELPIE_ID_SIZE] = "";
    struct kelpie_snapshot_info known = {0};
    struct host_file_info info;
    ASSERT(name);
    TRY(store_session_open(host, &session, err));
    TRY(store_path(session.store, STORE_SNAPSHOTS, name, path, sizeof(path), err));
    ASSERT(path[0] == '/');
    enum kelpie_status status = host_path_stat(session.host, path, &info, err);
    if (status == KELPIE_NOT_FOUND || (status == KELPIE_OK && snapshot_is_partial(name))) {
        return error_set(err, KELPIE_NOT_FOUND, "there is no snapshot %s", name);
    }
    TRY(status);
    TRY(describe(session.store, name, &known, parent_id, err));
    if (known.status == KELPIE_OK) { /* else nobody can use a diff to it */
        TRY(check_no_child(session.store, &known, err));
    }
    return store_folder_remove(session.store, STORE_SNAPSHOTS, path, err);
}
