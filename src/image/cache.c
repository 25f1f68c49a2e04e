/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "image/image_internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/checked.h"

#define CACHE_MODE 0700
#define LOCK_MODE 0600

enum kelpie_status image_cache_dir(struct host *host, char *ret_path, size_t size,
                                   struct kelpie_error *err) {
    ASSERT(size > 0);
    ASSERT(host);
    ASSERT(ret_path);
    const char *base = host_environment(host, "XDG_CACHE_HOME");
    const char *middle = "";
    /* The XDG base directory specification has relative paths ignored. */
    if (!base || base[0] != '/') {
        base = host_environment(host, "HOME");
        middle = "/.cache";
    }
    if (!base || base[0] != '/') {
        return error_set(err, KELPIE_NOT_FOUND,
                         "there is no place for the cache: set HOME or XDG_CACHE_HOME to an "
                         "absolute path");
    }
    struct image_path path;
    TRY(image_path_format(&path, err, "%s%s/kelpie", base, middle));
    size_t length = strlen(path.text);
    if (length >= size) {
        return error_set(err, KELPIE_BAD_CONFIG, "the cache's path %s is too long", path.text);
    }
    TRY(host_path_mkdir_all(host, path.text, CACHE_MODE, err));
    memcpy(ret_path, path.text, length + 1);
    return KELPIE_OK;
}

enum kelpie_status image_cache_folder(struct host *host, const char *name,
                                      struct image_path *ret_path, struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(image_path_is_plain(name));
    ASSERT(ret_path);
    struct image_path cache;
    struct image_path path;
    TRY(image_cache_dir(host, cache.text, sizeof(cache.text), err));
    TRY(image_path_format(&path, err, "%s/%s", cache.text, name));
    TRY(host_path_mkdir_all(host, path.text, CACHE_MODE, err));
    *ret_path = path;
    return KELPIE_OK;
}

enum kelpie_status image_cache_temporary(struct host *host, const char *prefix,
                                         struct image_path *ret_path, struct kelpie_error *err) {
    ASSERT(image_path_is_plain(prefix));
    ASSERT(ret_path);
    struct image_path folder;
    uint64_t unique[2] = {0};
    TRY(image_cache_folder(host, "tmp", &folder, err));
    TRY(host_random(host, unique, sizeof(unique), err));
    return image_path_format(ret_path, err, "%s/%s-%016llx%016llx", folder.text, prefix,
                             (unsigned long long)unique[0], (unsigned long long)unique[1]);
}

enum kelpie_status image_cache_lock(struct host *host, const char *name,
                                    const struct host_wait *wait, int *ret_fd,
                                    struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(wait);
    ASSERT(image_path_is_plain(name));
    ASSERT(ret_fd);
    struct image_path cache;
    struct image_path path;
    AUTO_FD struct host_fd fd = {host, HOST_FD_NONE};
    TRY(image_cache_dir(host, cache.text, sizeof(cache.text), err));
    TRY(image_path_format(&path, err, "%s/%s.lock", cache.text, name));
    TRY(host_file_open(host, path.text,
                       HOST_OPEN_READ | HOST_OPEN_WRITE | HOST_OPEN_CREATE | HOST_OPEN_NO_FOLLOW,
                       LOCK_MODE, &fd.fd, err));
    /* Bounded by the wait: each turn sleeps, and image_wait_check() ends it. */
    enum kelpie_status status = host_file_lock(host, fd.fd, true, err);
    while (status == KELPIE_BUSY) {
        TRY(image_wait_check(host, wait, err));
        struct host_wait pause = host_wait_ms(host, IMAGE_LOCK_POLL_MS, wait->cancel_fd);
        TRY(host_sleep(host, &pause, err));
        status = host_file_lock(host, fd.fd, true, err);
    }
    TRY(status);
    *ret_fd = host_fd_take(&fd);
    return KELPIE_OK;
}

void image_cache_sweep(struct host *host, const char *prefix) {
    ASSERT(host);
    ASSERT(image_path_is_plain(prefix));
    struct image_path folder;
    AUTO_MEM struct host_dir_entry *entries =
        host_allocate(host, HOST_DIR_ENTRY_COUNT_MAX * sizeof(*entries), NULL);
    size_t count = 0;
    if (!entries || image_cache_folder(host, "tmp", &folder, NULL) != KELPIE_OK ||
        host_dir_list(host, folder.text, entries, HOST_DIR_ENTRY_COUNT_MAX, &count, NULL) !=
            KELPIE_OK) {
        return;
    }
    size_t prefix_size = strlen(prefix);
    for (size_t i = 0; i < count; i++) {
        struct image_path path;
        if (strncmp(entries[i].name, prefix, prefix_size) == 0 &&
            entries[i].name[prefix_size] == '-' &&
            image_path_format(&path, NULL, "%s/%s", folder.text, entries[i].name) == KELPIE_OK) {
            enum kelpie_status ignored = image_tree_remove(host, path.text, NULL);
            (void)ignored;
        }
    }
}

/* One step of removing a tree: the files of the folder at `path` go; `path` grows by the name of a folder
 * that is left in it, or its own folder goes and it shrinks by its last part. */
static enum kelpie_status tree_step(struct host *host, struct image_path *path,
                                    struct host_dir_entry *entries, struct kelpie_error *err) {
    size_t count = 0;
    ASSERT(host);
    ASSERT(path->text[0] == '/');
    ASSERT(entries);
    TRY(host_dir_list(host, path->text, entries, HOST_DIR_ENTRY_COUNT_MAX, &count, err));
    for (size_t i = 0; i < count; i++) {
        struct image_path entry;
        struct host_file_info info;
        TRY(image_path_format(&entry, err, "%s/%s", path->text, entries[i].name));
        TRY(host_path_stat(host, entry.text, &info, err));
        if (info.type == HOST_FILE_FOLDER) {
            *path = entry;
            return KELPIE_OK;
        }
        TRY(host_path_unlink(host, entry.text, err));
    }
    TRY(host_path_rmdir(host, path->text, err));
    *strrchr(path->text, '/') = '\0';
    return KELPIE_OK;
}

enum kelpie_status image_tree_remove(struct host *host, const char *path,
                                     struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(path[0] == '/');
    struct host_file_info info;
    struct image_path current;
    size_t root_size = strlen(path);
    enum kelpie_status status = host_path_stat(host, path, &info, err);
    if (status == KELPIE_NOT_FOUND) {
        error_clear(err);
        return KELPIE_OK;
    }
    TRY(status);
    if (info.type != HOST_FILE_FOLDER) {
        return host_path_unlink(host, path, err);
    }
    AUTO_MEM struct host_dir_entry *entries =
        host_allocate(host, HOST_DIR_ENTRY_COUNT_MAX * sizeof(*entries), err);
    if (!entries) {
        return KELPIE_NO_MEMORY;
    }
    TRY(image_path_format(&current, err, "%s", path));
    for (size_t i = 0; i < IMAGE_TREE_STEP_COUNT_MAX; i++) {
        if (strlen(current.text) < root_size) {
            return KELPIE_OK;
        }
        TRY(tree_step(host, &current, entries, err));
    }
    return error_set(err, KELPIE_IO_FAILED, "%s has more than %d folders", path,
                     IMAGE_TREE_STEP_COUNT_MAX);
}
