/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Finding images, and their names. See image_store.h. */
#include "store/image_store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/error.h"

#define RECORD_ENDING ".json"
#define DIGEST_PREFIX "sha256:"
#define DIGEST_DIGITS_MIN                                                                          \
    4 /* of a digest's beginning, so that a word in error is not taken for one */

static void json_cleanup(json_t **value) {
    ASSERT(value);
    json_decref(*value);
}
#define AUTO_JSON __attribute__((cleanup(json_cleanup)))

struct found {
    struct kelpie_image *items[KELPIE_IMAGE_COUNT_MAX];
    size_t count;
};

static void found_cleanup(struct found **found) {
    ASSERT(found);
    for (size_t i = 0; *found && i < (*found)->count; i++) {
        free((*found)->items[i]);
    }
    free(*found);
}
#define AUTO_FOUND __attribute__((cleanup(found_cleanup)))

/* ---- Files ------------------------------------------------------------------------------------ */

size_t image_store_stem(const char *name, const char *ending) {
    size_t size = strlen(name);
    size_t ending_size = strlen(ending);
    ASSERT(ending_size > 0);
    ASSERT(ending[0] == '.');
    if (size <= ending_size || strcmp(name + size - ending_size, ending) != 0) {
        return 0;
    }
    return size - ending_size;
}

/* ---- Reading descriptions --------------------------------------------------------------------- */

static enum kelpie_status read_record(struct store *store, const char *file,
                                      struct kelpie_image **ret_image, struct kelpie_error *err) {
    struct host *host = store->host;
    const char *folder = store->folders[STORE_IMAGES];
    struct image_path path;
    AUTO_MEM char *data = NULL;
    AUTO_JSON json_t *record = NULL;
    size_t size = 0;
    ASSERT(ret_image);
    ASSERT(file);
    TRY(image_path_format(&path, err, "%s/%s", folder, file));
    TRY(host_file_load(host, path.text, STORE_RECORD_SIZE_MAX, &data, &size, err));
    record = json_loadb(data, size, JSON_REJECT_DUPLICATES, NULL);
    if (!record) {
        return error_set(err, KELPIE_BAD_CONFIG, "%s is no JSON", path.text);
    }
    return image_record_decode(host, record, folder, ret_image, err);
}

static int compare_names(const void *a, const void *b) {
    const struct kelpie_image *left = *(struct kelpie_image *const *)a;
    const struct kelpie_image *right = *(struct kelpie_image *const *)b;
    ASSERT(left);
    ASSERT(right);
    return strcmp(left->name, right->name);
}

/* All that can be read; what is gone or damaged is left out. */
static enum kelpie_status read_all(struct store *store, struct found **ret_found,
                                   struct kelpie_error *err) {
    AUTO_MEM struct host_dir_entry *entries = NULL;
    AUTO_FOUND struct found *found = host_allocate(store->host, sizeof(*found), err);
    size_t count = 0;
    ASSERT(ret_found);
    if (!found) {
        return KELPIE_NO_MEMORY;
    }
    TRY(store_list(store, STORE_IMAGES, &entries, &count, err));
    for (size_t i = 0; i < count && found->count < KELPIE_IMAGE_COUNT_MAX; i++) {
        if (image_store_stem(entries[i].name, RECORD_ENDING) == 0) {
            continue;
        }
        enum kelpie_status status =
            read_record(store, entries[i].name, &found->items[found->count], err);
        if (status == KELPIE_NO_MEMORY) {
            return status;
        }
        found->count += status == KELPIE_OK;
    }
    ASSERT(found->count <= KELPIE_IMAGE_COUNT_MAX);
    qsort(found->items, found->count, sizeof(found->items[0]), compare_names);
    *ret_found = TAKE(found);
    return KELPIE_OK;
}

/* ---- Finding ---------------------------------------------------------------------------------- */

static bool digest_begins(const struct kelpie_image *image, const char *text) {
    const char *digits = image->digest + strlen(DIGEST_PREFIX);
    ASSERT(image->digest[0] != '\0');
    ASSERT(text);
    if (strncmp(text, DIGEST_PREFIX, strlen(DIGEST_PREFIX)) == 0) {
        text += strlen(DIGEST_PREFIX);
    }
    size_t size = strlen(text);
    return size >= DIGEST_DIGITS_MIN && strncmp(digits, text, size) == 0;
}

/* A file system that has lost its name, by its whole digest. */
static enum kelpie_status find_nameless(struct store *store, const char *digest,
                                        struct kelpie_image **ret_image, struct kelpie_error *err) {
    struct image_path path;
    struct host_file_info info;
    static const char *const none[] = {NULL};
    const char *digits = digest + strlen(DIGEST_PREFIX);
    ASSERT(ret_image);
    if (strncmp(digest, DIGEST_PREFIX, strlen(DIGEST_PREFIX)) != 0 ||
        strlen(digits) != IMAGE_DIGEST_SIZE - 1 ||
        strspn(digits, "0123456789abcdef") != IMAGE_DIGEST_SIZE - 1) {
        return KELPIE_NOT_FOUND;
    }
    TRY(image_path_format(&path, err, "%s/%s." IMAGE_STORE_FORMAT, store->folders[STORE_IMAGES],
                          digits));
    TRY(host_path_stat(store->host, path.text, &info, err));
    struct kelpie_image image = {.bytes = info.allocated_size, .argv = none, .env = none};
    struct kelpie_image *const only[] = {&image};
    ASSERT(strlen(path.text) < sizeof(image.path));
    memcpy(image.digest, digest, strlen(digest) + 1);
    memcpy(image.format, IMAGE_STORE_FORMAT, sizeof(IMAGE_STORE_FORMAT));
    memcpy(image.path, path.text, strlen(path.text) + 1);
    return image_record_gather(store->host, only, 1, ret_image, err);
}

static enum kelpie_status find_by_digest(struct store *store, const char *name,
                                         struct kelpie_image **ret_image,
                                         struct kelpie_error *err) {
    AUTO_FOUND struct found *found = NULL;
    const struct kelpie_image *match = NULL;
    ASSERT(ret_image);
    TRY(read_all(store, &found, err));
    ASSERT(found);
    for (size_t i = 0; i < found->count; i++) {
        if (!digest_begins(found->items[i], name)) {
            continue;
        }
        if (match && strcmp(match->digest, found->items[i]->digest) != 0) {
            return error_set_field(err, KELPIE_BAD_CONFIG, "image",
                                   "the digests of several images begin with %.72s", name);
        }
        match = match ? match : found->items[i];
    }
    if (match) {
        return image_record_gather(store->host, (struct kelpie_image *const *)&match, 1, ret_image,
                                   err);
    }
    enum kelpie_status status = find_nameless(store, name, ret_image, err);
    if (status == KELPIE_NOT_FOUND) {
        return error_set_field(err, KELPIE_NOT_FOUND, "image", "there is no image %.72s", name);
    }
    return status;
}

enum kelpie_status image_store_find(struct store *store, const char *name,
                                    struct kelpie_image **ret_image, struct kelpie_error *err) {
    char file[KELPIE_NAME_SIZE_MAX + sizeof(RECORD_ENDING)];
    ASSERT(name);
    ASSERT(ret_image);
    if (store_name_is_good(name)) {
        snprintf(file, sizeof(file), "%s" RECORD_ENDING, name);
        enum kelpie_status status = read_record(store, file, ret_image, err);
        if (status != KELPIE_NOT_FOUND) {
            return status;
        }
    }
    return find_by_digest(store, name, ret_image, err);
}

enum kelpie_status image_store_list(struct store *store, struct kelpie_image **ret_list,
                                    size_t *ret_count, struct kelpie_error *err) {
    AUTO_FOUND struct found *found = NULL;
    ASSERT(ret_list);
    ASSERT(ret_count);
    TRY(read_all(store, &found, err));
    TRY(image_record_gather(store->host, found->items, found->count, ret_list, err));
    *ret_count = found->count;
    return KELPIE_OK;
}

/* ---- Removing --------------------------------------------------------------------------------- */

static enum kelpie_status in_use(const struct image_users *users, const struct kelpie_image *image,
                                 struct kelpie_error *err) {
    const struct image_user user = image_users_find(users, image->name, image->digest);
    ASSERT(image->digest[0] != '\0');
    ASSERT(users);
    if (!user.kind) {
        return KELPIE_OK;
    }
    return error_set_field(err, KELPIE_BUSY, "image", "the image %.72s is in use by the %s %.64s",
                           image->name[0] != '\0' ? image->name : image->digest, user.kind,
                           user.name);
}

/* The file system goes with its last name. */
static enum kelpie_status remove_files(struct store *store, const struct kelpie_image *image,
                                       struct kelpie_error *err) {
    struct host *host = store->host;
    const char *folder = store->folders[STORE_IMAGES];
    struct image_path path;
    AUTO_FOUND struct found *found = NULL;
    bool shared = false;
    ASSERT(image->name[0] != '\0');
    ASSERT(image->path[0] == '/');
    TRY(image_path_format(&path, err, "%s/%s" RECORD_ENDING, folder, image->name));
    TRY(host_path_unlink(host, path.text, err));
    TRY(host_path_sync(host, folder, err));
    TRY(read_all(store, &found, err));
    for (size_t i = 0; i < found->count; i++) {
        shared = shared || strcmp(found->items[i]->digest, image->digest) == 0;
    }
    return shared ? KELPIE_OK : host_path_unlink(host, image->path, err);
}

static enum kelpie_status remove_image(struct store *store, const char *name, bool force,
                                       struct kelpie_error *err) {
    struct host *host = store->host;
    AUTO_MEM struct kelpie_image *image = NULL;
    AUTO_USERS struct image_users users = {0};
    AUTO_FD struct host_fd lock = {host, HOST_FD_NONE};
    ASSERT(name);
    TRY(image_store_lock(store, &lock.fd, err));
    TRY(image_store_find(store, name, &image, err));
    ASSERT(image);
    if (!force) {
        TRY(image_users_read(store, &users, err));
        TRY(in_use(&users, image, err));
    }
    if (image->name[0] == '\0') {
        return host_path_unlink(host, image->path, err);
    }
    return remove_files(store, image, err);
}

/* ---- The public functions --------------------------------------------------------------------- */

enum kelpie_status kelpie_image_list(void *host, struct kelpie_image **ret_list, size_t *ret_count,
                                     struct kelpie_error *err) {
    AUTO_SESSION struct store_session session = {0};
    ASSERT(ret_list);
    ASSERT(ret_count);
    TRY(store_session_open(host, &session, err));
    return image_store_list(session.store, ret_list, ret_count, err);
}

enum kelpie_status kelpie_image_find(void *host, const char *name, struct kelpie_image **ret_image,
                                     struct kelpie_error *err) {
    AUTO_SESSION struct store_session session = {0};
    ASSERT(name);
    ASSERT(ret_image);
    TRY(store_session_open(host, &session, err));
    return image_store_find(session.store, name, ret_image, err);
}

enum kelpie_status kelpie_image_remove(void *host, const char *name, bool force,
                                       struct kelpie_error *err) {
    AUTO_SESSION struct store_session session = {0};
    ASSERT(name);
    TRY(store_session_open(host, &session, err));
    ASSERT(session.store);
    return remove_image(session.store, name, force, err);
}
