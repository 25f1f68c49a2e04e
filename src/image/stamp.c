/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * stamp.c: digests remembered for files that have not changed, so that starting a VM does not hash the
 * same tens of megabytes each time.
 *
 * THEORY OF OPERATION
 *
 * A stamp is a small file: its first line is the digest, each other line one file of the set:
 *   <size> <modified_ns> <inode> <device> <path>     or     - <path>     when there was no such file.
 * It holds as long as describing every file again gives the same lines. A file that is written to without a
 * change of size, time, inode or device is not noticed; that takes somebody who sets the time back. A file
 * that was written within the clock's grain of being read is never stamped, because a second write could
 * leave the same time; the cache's own files are excepted, which are never written in place.
 */
#include "image/image_internal.h"

#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"

#define STAMP_MODE 0600
#define STAMP_HEAD_SIZE IMAGE_DIGEST_SIZE /* the digest and a line end */

enum kelpie_status image_stamp_init(struct image_stamp *ret_stamp, struct host *host,
                                    struct kelpie_error *err) {
    ASSERT(ret_stamp);
    ASSERT(host);
    *ret_stamp = (struct image_stamp){.host = host, .settled = true};
    TRY(image_cache_dir(host, ret_stamp->cache.text, sizeof(ret_stamp->cache.text), err));
    ret_stamp->text = host_allocate(host, IMAGE_STAMP_SIZE_MAX, err);
    return ret_stamp->text ? KELPIE_OK : KELPIE_NO_MEMORY;
}

void image_stamp_deinit(struct image_stamp *stamp) {
    ASSERT(stamp);
    free(stamp->text);
    stamp->text = NULL;
}

static bool path_is_below(const char *path, const char *folder) {
    size_t size = strlen(folder);
    ASSERT(path);
    ASSERT(size > 0);
    return strncmp(path, folder, size) == 0 && path[size] == '/';
}

/* What an open of the path finds: behind links, since it is the content that counts. */
static enum kelpie_status stat_target(struct host *host, const char *path,
                                      struct host_file_info *ret_info, struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(path);
    AUTO_FD struct host_fd fd = {host, HOST_FD_NONE};
    TRY(host_file_open(host, path, HOST_OPEN_READ, 0, &fd.fd, err));
    return host_file_stat(host, fd.fd, ret_info, err);
}

enum kelpie_status image_stamp_add(struct image_stamp *stamp, const char *path,
                                   struct kelpie_error *err) {
    ASSERT(stamp->text);
    ASSERT(path);
    struct host_file_info info;
    size_t room = IMAGE_STAMP_SIZE_MAX - stamp->size;
    char *end = stamp->text + stamp->size;
    int length = 0;
    enum kelpie_status status = stat_target(stamp->host, path, &info, err);
    if (status == KELPIE_NOT_FOUND) {
        error_clear(err);
        length = snprintf(end, room, "- %s\n", path);
    } else {
        TRY(status);
        length = snprintf(end, room, "%llu %llu %llu %llu %s\n", (unsigned long long)info.size,
                          (unsigned long long)info.modified_ns, (unsigned long long)info.inode,
                          (unsigned long long)info.device, path);
        uint64_t now_ns = host_realtime_ns(stamp->host);
        bool old = info.type == HOST_FILE_REGULAR && info.modified_ns < now_ns &&
                   now_ns - info.modified_ns >= IMAGE_STAMP_SETTLED_NS;
        stamp->settled = stamp->settled && (old || path_is_below(path, stamp->cache.text));
    }
    if (length < 0 || (size_t)length >= room || strchr(path, '\n')) {
        stamp->settled = false; /* It cannot be written down, so nothing is remembered. */
        return KELPIE_OK;
    }
    stamp->size += (size_t)length;
    ASSERT(stamp->size < IMAGE_STAMP_SIZE_MAX);
    return KELPIE_OK;
}

enum kelpie_status image_stamp_store(const struct image_stamp *stamp, const char *name,
                                     const char *digest, struct kelpie_error *err) {
    ASSERT(image_path_is_plain(name));
    ASSERT(strlen(digest) == IMAGE_DIGEST_SIZE - 1);
    if (!stamp->settled) {
        return KELPIE_OK;
    }
    struct image_path folder;
    struct image_path path;
    TRY(image_cache_folder(stamp->host, "stamps", &folder, err));
    TRY(image_path_format(&path, err, "%s/%s", folder.text, name));
    size_t size = STAMP_HEAD_SIZE + stamp->size;
    AUTO_MEM char *text = host_allocate(stamp->host, size, err);
    if (!text) {
        return KELPIE_NO_MEMORY;
    }
    memcpy(text, digest, IMAGE_DIGEST_SIZE - 1);
    text[IMAGE_DIGEST_SIZE - 1] = '\n';
    memcpy(text + STAMP_HEAD_SIZE, stamp->text, stamp->size);
    return host_file_store(stamp->host, path.text, text, size, STAMP_MODE, err);
}

/* The path in a stamp's line: behind "- ", or behind four numbers. NULL: the line is none of ours. */
static const char *line_path(const char *line) {
    ASSERT(!strchr(line, '\n'));
    ASSERT(line);
    size_t fields = line[0] == '-' ? 1 : 4;
    for (size_t i = 0; i < fields; i++) {
        const char *space = strchr(line, ' ');
        if (!space) {
            return NULL;
        }
        line = space + 1;
    }
    return line;
}

/* Describes every file of the stored lines again. */
static bool stamp_holds(struct host *host, char *lines, size_t size) {
    ASSERT(host);
    ASSERT(lines);
    struct image_stamp stamp;
    bool same = false;
    AUTO_MEM char *copy = host_allocate(host, size + 1, NULL);
    if (copy && image_stamp_init(&stamp, host, NULL) == KELPIE_OK) {
        memcpy(copy, lines, size);
        bool added = true;
        char *rest = copy;
        for (char *line = strsep(&rest, "\n"); added && line && rest; line = strsep(&rest, "\n")) {
            const char *path = line_path(line);
            added = path && image_stamp_add(&stamp, path, NULL) == KELPIE_OK;
        }
        same = added && stamp.size == size && memcmp(stamp.text, lines, size) == 0;
        image_stamp_deinit(&stamp);
    }
    return same;
}

static bool is_digest(const char *text) {
    ASSERT(text[0] != '\0');
    ASSERT(text);
    return strspn(text, "0123456789abcdef") == IMAGE_DIGEST_SIZE - 1;
}

bool image_stamp_find(struct host *host, const char *name, char ret_digest[IMAGE_DIGEST_SIZE]) {
    ASSERT(image_path_is_plain(name));
    ASSERT(ret_digest);
    struct image_path cache;
    struct image_path path;
    AUTO_MEM char *text = NULL;
    size_t size = 0;
    if (image_cache_dir(host, cache.text, sizeof(cache.text), NULL) != KELPIE_OK ||
        image_path_format(&path, NULL, "%s/stamps/%s", cache.text, name) != KELPIE_OK ||
        host_file_load(host, path.text, IMAGE_STAMP_SIZE_MAX, &text, &size, NULL) != KELPIE_OK) {
        return false;
    }
    if (size < STAMP_HEAD_SIZE || strlen(text) != size || !is_digest(text) ||
        !stamp_holds(host, text + STAMP_HEAD_SIZE, size - STAMP_HEAD_SIZE)) {
        return false;
    }
    memcpy(ret_digest, text, IMAGE_DIGEST_SIZE - 1);
    ret_digest[IMAGE_DIGEST_SIZE - 1] = '\0';
    return true;
}
