/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Images that come and go: building, publishing, pruning. See image_store.h. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "image/oci.h"
#include "store/image_store.h"

#define FILE_SYSTEM_MODE 0400
#define RECORD_MODE 0600
#define FOLDER_MODE 0700
#define LOCK_MODE 0600
#define DRAFT_ENDING ".tmp"
#define FILE_SYSTEM_ENDING "." IMAGE_STORE_FORMAT

/* ---- The lock ----------------------------------------------------------------------------------- */

enum kelpie_status image_store_lock(struct store *store, int *ret_fd, struct kelpie_error *err) {
    struct host *host = store->host;
    const char *folder = store->folders[STORE_IMAGES];
    struct image_path path;
    AUTO_FD struct host_fd fd = {host, HOST_FD_NONE};
    ASSERT(folder[0] == '/');
    ASSERT(ret_fd);
    TRY(image_path_format(&path, err, "%s/lock", folder));
    TRY(host_file_open(host, path.text,
                       HOST_OPEN_READ | HOST_OPEN_WRITE | HOST_OPEN_CREATE | HOST_OPEN_NO_FOLLOW,
                       LOCK_MODE, &fd.fd, err));
    struct host_wait wait = host_wait_ms(host, STORE_IMAGE_LOCK_TIMEOUT_MS, HOST_FD_NONE);
    enum kelpie_status status = host_file_lock(host, fd.fd, true, err);
    while (status == KELPIE_BUSY && host_monotonic_ns(host) < wait.deadline_ns) {
        struct host_wait pause = host_wait_ms(host, IMAGE_LOCK_POLL_MS, HOST_FD_NONE);
        TRY(host_sleep(host, &pause, err));
        status = host_file_lock(host, fd.fd, true, err);
    }
    TRY(status);
    *ret_fd = host_fd_take(&fd);
    return KELPIE_OK;
}

/* ---- Building --------------------------------------------------------------------------------- */

static enum kelpie_status check_options(const char *name,
                                        const struct kelpie_image_options *options,
                                        struct kelpie_error *err) {
    ASSERT(name);
    ASSERT(options);
    if (!store_name_is_good(name)) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "name",
                               "an image's name is letters, digits, and _ . - inside, up to %d",
                               KELPIE_NAME_SIZE_MAX);
    }
    if ((unsigned)options->source > KELPIE_IMAGE_OCI) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "source", "there is no such source");
    }
    if (!options->path || options->path[0] == '\0') {
        return error_set_field(err, KELPIE_BAD_CONFIG, "path", "an image needs a source's path");
    }
    if (options->bytes_max > IMAGE_BYTES_MAX) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "bytes_max", "is more than %llu",
                               IMAGE_BYTES_MAX);
    }
    return KELPIE_OK;
}

static enum kelpie_status write_rootfs(struct host *host,
                                       const struct kelpie_image_options *options, int fd,
                                       struct image_rootfs *ret_rootfs, struct kelpie_error *err) {
    static const enum image_rootfs_source sources[] = {
        [KELPIE_IMAGE_FOLDER] = IMAGE_ROOTFS_FOLDER,
        [KELPIE_IMAGE_TAR] = IMAGE_ROOTFS_TAR,
        [KELPIE_IMAGE_OCI] = IMAGE_ROOTFS_OCI,
    };
    ASSERT((size_t)options->source < ARRAY_SIZE(sources));
    ASSERT(ret_rootfs);
    const struct image_rootfs_options rootfs_options = {
        .source = sources[options->source],
        .path = options->path,
        .reference = options->reference,
        .architecture = image_oci_architecture(options->architecture),
        .bytes_max = options->bytes_max ? options->bytes_max : IMAGE_BYTES_DEFAULT,
    };
    struct host_wait wait = host_wait_ms(host, IMAGE_BUILD_TIMEOUT_MS, HOST_FD_NONE);
    TRY(image_rootfs_build(host, &rootfs_options, &wait, fd, ret_rootfs, err));
    enum kelpie_status status = host_file_sync(host, fd, err);
    if (status != KELPIE_OK) {
        image_rootfs_deinit(ret_rootfs);
    }
    return status;
}

/* The file system gets its name, unless it is there already, then its description. With the lock held. */
static enum kelpie_status publish(struct store *store, const char *name,
                                  const struct image_rootfs *rootfs, struct host_draft *draft,
                                  struct kelpie_error *err) {
    struct host *host = store->host;
    const char *folder = store->folders[STORE_IMAGES];
    struct image_path path;
    struct image_path record_path;
    AUTO_MEM char *text = NULL;
    ASSERT(draft->fd != HOST_FD_NONE);
    ASSERT(folder[0] == '/');
    json_t *record = image_record_encode(name, rootfs, host_realtime_ns(host) / HOST_NS_PER_MS);
    text = record ? json_dumps(record, JSON_INDENT(2) | JSON_SORT_KEYS) : NULL;
    json_decref(record);
    if (!text) {
        return error_set(err, KELPIE_NO_MEMORY, "no memory for an image's description");
    }
    if (strlen(text) > STORE_RECORD_SIZE_MAX) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "path",
                               "the image's command and environment are too long");
    }
    TRY(image_path_format(&path, err, "%s/%s" FILE_SYSTEM_ENDING, folder, rootfs->digest));
    TRY(image_path_format(&record_path, err, "%s/%s.json", folder, name));
    if (!image_path_exists(host, path.text)) {
        draft->path = path.text;
        enum kelpie_status status = host_draft_publish(draft, err);
        draft->path = folder;
        TRY(status);
        TRY(host_path_sync(host, folder, err));
    }
    TRY(host_file_store(host, record_path.text, text, strlen(text), RECORD_MODE, err));
    return host_path_sync(host, folder, err);
}

static enum kelpie_status build(struct store *store, const char *name,
                                const struct kelpie_image_options *options,
                                struct kelpie_image **ret_image, struct kelpie_error *err) {
    struct host *host = store->host;
    struct image_path place;
    struct image_rootfs rootfs;
    AUTO_FD struct host_fd lock = {host, HOST_FD_NONE};
    AUTO_DRAFT struct host_draft draft = HOST_DRAFT_NONE;
    ASSERT(ret_image);
    TRY(check_options(name, options, err));
    TRY(image_path_format(&place, err, "%s/" IMAGE_STORE_DRAFT_NAME, store->folders[STORE_IMAGES]));
    TRY(host_draft_open(host, place.text, FILE_SYSTEM_MODE, &draft, err));
    TRY(write_rootfs(host, options, draft.fd, &rootfs, err));
    enum kelpie_status status = image_store_lock(store, &lock.fd, err);
    if (status == KELPIE_OK) {
        status = publish(store, name, &rootfs, &draft, err);
    }
    image_rootfs_deinit(&rootfs);
    TRY(status);
    ASSERT(lock.fd != HOST_FD_NONE);
    return image_store_find(store, name, ret_image, err);
}

enum kelpie_status kelpie_image_build(void *host, const char *name,
                                      const struct kelpie_image_options *options,
                                      struct kelpie_image **ret_image, struct kelpie_error *err) {
    AUTO_SESSION struct store_session session = {0};
    ASSERT(name);
    ASSERT(options && ret_image);
    TRY(store_session_open(host, &session, err));
    return build(session.store, name, options, ret_image, err);
}

/* ---- Pruning ---------------------------------------------------------------------------------- */

struct prune {
    struct store *store;
    struct host *host;
    struct kelpie_image *images;
    size_t image_count;
    struct image_users users;
    bool dry_run;
    bool complete; /* every description could be read, so that what none names has no name */
    struct kelpie_prune_report *report;
};

static void prune_cleanup(struct prune *prune) {
    ASSERT(prune);
    ASSERT(prune->images || prune->image_count == 0);
    kelpie_list_free(prune->images);
    image_users_deinit(&prune->users);
}

static enum kelpie_status prune_file(struct prune *prune, const char *path, uint32_t *counter,
                                     struct kelpie_error *err) {
    struct host_file_info info;
    ASSERT(path[0] == '/');
    ASSERT(prune->report);
    TRY(host_path_stat(prune->host, path, &info, err));
    if (!prune->dry_run) {
        TRY(host_path_unlink(prune->host, path, err));
    }
    prune->report->bytes += info.allocated_size;
    *counter += 1;
    return KELPIE_OK;
}

/* Names that no VM has. Their file systems are left over then. */
static enum kelpie_status prune_names(struct prune *prune, struct kelpie_error *err) {
    size_t kept = 0;
    ASSERT(prune->images || prune->image_count == 0);
    for (size_t i = 0; i < prune->image_count; i++) {
        struct kelpie_image *image = &prune->images[i];
        if (image_users_find(&prune->users, image->name, image->digest).kind) {
            prune->images[kept++] = *image;
            continue;
        }
        struct image_path path;
        TRY(image_path_format(&path, err, "%s/%s.json", prune->store->folders[STORE_IMAGES],
                              image->name));
        TRY(prune_file(prune, path.text, &prune->report->images, err));
    }
    ASSERT(kept <= prune->image_count);
    prune->image_count = kept;
    return KELPIE_OK;
}

static bool is_needed(const struct prune *prune, const char *digits, size_t size) {
    char digest[KELPIE_DIGEST_SIZE];
    ASSERT(digits);
    ASSERT(size > 0);
    if (size != IMAGE_DIGEST_SIZE - 1) {
        return true; /* Not ours. */
    }
    snprintf(digest, sizeof(digest), "sha256:%.*s", (int)size, digits);
    bool needed = image_users_find(&prune->users, "", digest).kind != NULL;
    for (size_t i = 0; i < prune->image_count; i++) {
        needed = needed || strcmp(prune->images[i].digest, digest) == 0;
    }
    return needed;
}

/* One that was written by a later version of ours, or is damaged, still names its file system. */
static enum kelpie_status check_complete(struct prune *prune, struct kelpie_error *err) {
    AUTO_MEM struct host_dir_entry *entries = NULL;
    size_t count = 0;
    size_t described = 0;
    ASSERT(!prune->complete);
    TRY(store_list(prune->store, STORE_IMAGES, &entries, &count, err));
    for (size_t i = 0; i < count; i++) {
        described += image_store_stem(entries[i].name, ".json") > 0;
    }
    prune->complete = described == prune->image_count;
    ASSERT(described <= count);
    return KELPIE_OK;
}

/* A draft that somebody still writes is not named "*.tmp", or its maker holds no lock: it is young. */
static bool is_dead_draft(const struct prune *prune, const char *name, const char *path) {
    struct host_file_info info;
    ASSERT(name);
    ASSERT(path);
    if (image_store_stem(name, DRAFT_ENDING) == 0 ||
        host_path_stat(prune->host, path, &info, NULL) != KELPIE_OK) {
        return false;
    }
    uint64_t now = host_realtime_ns(prune->host);
    return info.modified_ns + IMAGE_BUILD_TIMEOUT_MS * HOST_NS_PER_MS < now;
}

static enum kelpie_status prune_files(struct prune *prune, struct kelpie_error *err) {
    AUTO_MEM struct host_dir_entry *entries = NULL;
    size_t count = 0;
    ASSERT(prune->report);
    ASSERT(prune->store->folders[STORE_IMAGES][0] == '/');
    TRY(store_list(prune->store, STORE_IMAGES, &entries, &count, err));
    for (size_t i = 0; i < count; i++) {
        struct image_path path;
        const char *name = entries[i].name;
        TRY(image_path_format(&path, err, "%s/%s", prune->store->folders[STORE_IMAGES], name));
        size_t stem = image_store_stem(name, FILE_SYSTEM_ENDING);
        if ((stem > 0 && prune->complete && !is_needed(prune, name, stem)) ||
            is_dead_draft(prune, name, path.text)) {
            TRY(prune_file(prune, path.text, &prune->report->leftovers, err));
        }
    }
    ASSERT(entries);
    return KELPIE_OK;
}

enum kelpie_status store_image_prune(struct store *store, bool images, bool dry_run,
                                     struct kelpie_prune_report *report, struct kelpie_error *err) {
    __attribute__((cleanup(prune_cleanup))) struct prune prune = {
        .store = store, .host = store->host, .dry_run = dry_run, .report = report};
    AUTO_FD struct host_fd lock = {store->host, HOST_FD_NONE};
    ASSERT(report);
    TRY(image_store_lock(store, &lock.fd, err));
    ASSERT(lock.fd != HOST_FD_NONE);
    TRY(image_users_read(store, &prune.users, err));
    TRY(image_store_list(store, &prune.images, &prune.image_count, err));
    TRY(check_complete(&prune, err));
    if (images) {
        TRY(prune_names(&prune, err));
    }
    return prune_files(&prune, err);
}
