/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* A place for templates. See template.h. */
#include "store/template.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "store/store_folder.h"

#define BUNDLE_NAME "bundle"
#define MAKE_ATTEMPT_COUNT_MAX 4

struct store_template {
    struct store *store;
    char key[KELPIE_NAME_SIZE_MAX + 1];
    bool made; /* begun, and not published yet */
    int lock_fd;
    char folder[KELPIE_PATH_SIZE_MAX + 1];
    char bundle[KELPIE_PATH_SIZE_MAX + 1];
};

static void template_free(struct store_template *template) {
    ASSERT(template);
    ASSERT(template->store);
    host_close(template->store->host, template->lock_fd);
    free(template);
}

/* Without a lock yet. */
static enum kelpie_status template_create(struct store *store, const char *key, bool made,
                                          struct store_template **ret_template,
                                          struct kelpie_error *err) {
    char name[sizeof(STORE_FOLDER_NEW) + KELPIE_NAME_SIZE_MAX];
    ASSERT(store);
    ASSERT(ret_template);
    if (!store_name_is_good(key)) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "key", "\"%.80s\" is no template's key",
                               key);
    }
    struct store_template *template = host_allocate(store->host, sizeof(*template), err);
    if (!template) {
        return KELPIE_NO_MEMORY;
    }
    template->store = store;
    template->made = made;
    template->lock_fd = HOST_FD_NONE;
    snprintf(template->key, sizeof(template->key), "%s", key);
    snprintf(name, sizeof(name), "%s%s", made ? STORE_FOLDER_NEW : "", key);
    enum kelpie_status status =
        store_folder_path(store, STORE_TEMPLATES, name, template->folder, err);
    if (status == KELPIE_OK) {
        status = store_folder_file(template->folder, BUNDLE_NAME, template->bundle, err);
    }
    if (status != KELPIE_OK) {
        template_free(template);
        return status;
    }
    *ret_template = template;
    return KELPIE_OK;
}

/* The lock has the time of the last use: eight bytes. They are a hint: a power loss may take them back. */
static void note_use(struct host *host, int lock_fd) {
    uint64_t now_ns = host_realtime_ns(host);
    uint8_t bytes[sizeof(now_ns)];
    ASSERT(lock_fd >= 0);
    for (size_t i = 0; i < sizeof(bytes); i++) {
        bytes[i] = (uint8_t)(now_ns >> (8 * i));
    }
    ASSERT(sizeof(bytes) == 8);
    (void)!host_file_write_at(host, lock_fd, bytes, sizeof(bytes), 0, NULL);
}

/* 0: not known, and so the first to go. */
static uint64_t last_use(struct store *store, const char *folder) {
    char path[KELPIE_PATH_SIZE_MAX + 1];
    uint8_t bytes[sizeof(uint64_t)] = {0};
    uint64_t used_ns = 0;
    size_t size = 0;
    AUTO_FD struct host_fd fd = {store->host, HOST_FD_NONE};
    ASSERT(store);
    ASSERT(folder[0] == '/');
    if (store_folder_file(folder, STORE_LOCK_NAME, path, NULL) != KELPIE_OK ||
        host_file_open(store->host, path, HOST_OPEN_READ | HOST_OPEN_NO_FOLLOW, 0, &fd.fd, NULL) !=
            KELPIE_OK ||
        host_file_read_at(store->host, fd.fd, bytes, sizeof(bytes), 0, &size, NULL) != KELPIE_OK ||
        size != sizeof(bytes)) {
        return 0;
    }
    for (size_t i = 0; i < sizeof(bytes); i++) {
        used_ns |= (uint64_t)bytes[i] << (8 * i);
    }
    return used_ns;
}

enum kelpie_status store_template_open(struct store *store, const char *key,
                                       struct store_template **ret_template,
                                       struct kelpie_error *err) {
    struct store_template *template = NULL;
    ASSERT(key);
    ASSERT(ret_template);
    TRY(template_create(store, key, false, &template, err));
    enum kelpie_status status =
        store_folder_lock(store, template->folder, false, 0, &template->lock_fd, err);
    if (status == KELPIE_BUSY) {
        status = error_set(err, KELPIE_NOT_FOUND, "the template %s is being thrown away", key);
    }
    if (status != KELPIE_OK) {
        template_free(template);
        return status;
    }
    note_use(store->host, template->lock_fd);
    *ret_template = template;
    return KELPIE_OK;
}

static enum kelpie_status check_none(struct store *store, const char *key,
                                     struct kelpie_error *err) {
    char path[KELPIE_PATH_SIZE_MAX + 1];
    struct host_file_info info;
    ASSERT(store);
    ASSERT(key[0]);
    TRY(store_folder_path(store, STORE_TEMPLATES, key, path, err));
    enum kelpie_status status = host_path_stat(store->host, path, &info, err);
    if (status == KELPIE_OK) {
        return error_set(err, KELPIE_BUSY, "there is a template %s already", key);
    }
    return status == KELPIE_NOT_FOUND ? KELPIE_OK : status;
}

/* Makes the folder. One that a killed maker left is removed first. */
static enum kelpie_status make(struct store_template *template, struct kelpie_error *err) {
    struct store *store = template->store;
    struct kelpie_error why = {0};
    ASSERT(template->made);
    ASSERT(template->lock_fd == HOST_FD_NONE);
    enum kelpie_status status =
        store_folder_make(store, template->folder, &template->lock_fd, &why);
    if (status != KELPIE_OK && why.os_error == EEXIST &&
        store_folder_reclaim(store, STORE_TEMPLATES, template->folder)) {
        status = store_folder_make(store, template->folder, &template->lock_fd, &why);
    }
    if (status != KELPIE_OK && why.os_error == EEXIST) {
        return error_set(err, KELPIE_BUSY, "another process makes the template %s", template->key);
    }
    return status == KELPIE_OK ? KELPIE_OK : store_error_pass(err, &why);
}

enum kelpie_status store_template_begin(struct store *store, const char *key,
                                        struct store_template **ret_template,
                                        struct kelpie_error *err) {
    struct store_template *template = NULL;
    ASSERT(key);
    ASSERT(ret_template);
    TRY(template_create(store, key, true, &template, err));
    enum kelpie_status status = check_none(store, key, err);
    if (status == KELPIE_OK) {
        status = make(template, err);
    }
    if (status != KELPIE_OK) {
        template_free(template);
        return status;
    }
    status = check_none(store, key, err); /* somebody may have finished just before we began */
    if (status != KELPIE_OK) {
        store_template_discard(template);
        return status;
    }
    *ret_template = template;
    return KELPIE_OK;
}

const char *store_template_bundle(const struct store_template *template) {
    ASSERT(template);
    ASSERT(template->bundle[0] == '/');
    return template->bundle;
}

enum kelpie_status store_template_publish(struct store_template *template,
                                          struct kelpie_error *err) {
    struct store *store = template->store;
    struct store_evicted evicted;
    ASSERT(template->made);
    ASSERT(template->lock_fd != HOST_FD_NONE);
    note_use(store->host, template->lock_fd);
    enum kelpie_status status =
        store_folder_publish(store, STORE_TEMPLATES, template->folder, template->key, err);
    if (status != KELPIE_OK) {
        store_template_discard(template);
        return status;
    }
    /* The lock is held: the new one stays. */
    (void)!store_template_evict(store, KELPIE_TEMPLATE_BYTES_DEFAULT, false, &evicted, NULL);
    template_free(template);
    return KELPIE_OK;
}

void store_template_discard(struct store_template *template) {
    if (template) {
        ASSERT(template->store);
        ASSERT(template->lock_fd != HOST_FD_NONE);
        /* Somebody else may have thrown it away already, and another may be in its place. */
        if (store_folder_is(template->store, template->folder, template->lock_fd)) {
            (void)!store_folder_remove(template->store, STORE_TEMPLATES, template->folder, NULL);
        }
        template_free(template);
    }
}

void store_template_close(struct store_template *template) {
    if (template && template->made) {
        store_template_discard(template);
    } else if (template) {
        ASSERT(template->lock_fd != HOST_FD_NONE);
        ASSERT(template->folder[0] == '/');
        template_free(template);
    }
}

/* ---- Eviction --------------------------------------------------------------------------------- */

struct shelved {
    uint64_t used_ns;
    uint64_t bytes;
    char key[KELPIE_NAME_SIZE_MAX + 1];
};

static int used_first(const void *a, const void *b) {
    const struct shelved *left = a;
    const struct shelved *right = b;
    ASSERT(left);
    ASSERT(right);
    if (left->used_ns != right->used_ns) {
        return left->used_ns < right->used_ns ? -1 : 1;
    }
    return strcmp(left->key, right->key);
}

/* All that there are, the one that was not used for the longest time first. */
static enum kelpie_status shelf_list(struct store *store, struct shelved **ret_list,
                                     size_t *ret_count, struct kelpie_error *err) {
    AUTO_MEM struct host_dir_entry *entries = NULL;
    size_t entry_count = 0;
    size_t count = 0;
    ASSERT(store);
    ASSERT(ret_list && ret_count);
    TRY(store_list(store, STORE_TEMPLATES, &entries, &entry_count, err));
    struct shelved *list = host_allocate(store->host, (entry_count + 1) * sizeof(*list), err);
    if (!list) {
        return KELPIE_NO_MEMORY;
    }
    for (size_t i = 0; i < entry_count; i++) {
        char path[KELPIE_PATH_SIZE_MAX + 1];
        if (store_name_is_good(entries[i].name) &&
            store_folder_path(store, STORE_TEMPLATES, entries[i].name, path, NULL) == KELPIE_OK) {
            struct shelved *shelved = &list[count++];
            memcpy(shelved->key, entries[i].name, strlen(entries[i].name) + 1);
            shelved->bytes = store_folder_bytes(store, path);
            shelved->used_ns = last_use(store, path);
        }
    }
    qsort(list, count, sizeof(*list), used_first);
    *ret_list = list;
    *ret_count = count;
    return KELPIE_OK;
}

/* False: it is in use, or cannot be removed. */
static bool evict_one(struct store *store, const char *key, bool dry_run) {
    char path[KELPIE_PATH_SIZE_MAX + 1];
    AUTO_FD struct host_fd lock = {store->host, HOST_FD_NONE};
    ASSERT(store);
    ASSERT(key[0]);
    if (store_folder_path(store, STORE_TEMPLATES, key, path, NULL) != KELPIE_OK) {
        return false;
    }
    enum kelpie_status status = store_folder_lock(store, path, true, 0, &lock.fd, NULL);
    /* One that has no lock nobody can use. */
    return (status == KELPIE_OK || status == KELPIE_NOT_FOUND) &&
           (dry_run || store_folder_remove(store, STORE_TEMPLATES, path, NULL) == KELPIE_OK);
}

enum kelpie_status store_template_evict(struct store *store, uint64_t bytes_max, bool dry_run,
                                        struct store_evicted *ret_evicted,
                                        struct kelpie_error *err) {
    AUTO_MEM struct shelved *list = NULL;
    struct store_evicted evicted = {0};
    uint64_t bytes = 0;
    size_t count = 0;
    ASSERT(store);
    ASSERT(ret_evicted);
    TRY(shelf_list(store, &list, &count, err));
    for (size_t i = 0; i < count; i++) {
        bytes += list[i].bytes;
    }
    for (size_t i = 0; i < count && bytes > bytes_max; i++) {
        if (evict_one(store, list[i].key, dry_run)) {
            evicted.count++;
            evicted.bytes += list[i].bytes;
            bytes -= list[i].bytes;
        }
    }
    *ret_evicted = evicted;
    return KELPIE_OK;
}
