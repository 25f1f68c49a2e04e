/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Notes about single files, as stamps (stamp.c) that are named by kind and path. */
#include "image/image_internal.h"

#include <string.h>

#include "base/assert.h"

#define NOTE_NAME_SIZE 128

/* "<kind>-<the path's digest>" */
static enum kelpie_status note_name(const char *kind, const char *path,
                                    char ret_name[NOTE_NAME_SIZE], struct kelpie_error *err) {
    char digest[IMAGE_DIGEST_SIZE];
    struct image_path name;
    ASSERT(image_path_is_plain(kind));
    ASSERT(path);
    TRY(image_digest_bytes(path, strlen(path), digest, err));
    TRY(image_path_format(&name, err, "%s-%s", kind, digest));
    ASSERT(strlen(name.text) < NOTE_NAME_SIZE);
    memcpy(ret_name, name.text, strlen(name.text) + 1);
    return KELPIE_OK;
}

bool image_note_find(struct host *host, const char *kind, const char *path,
                     char ret_digest[IMAGE_DIGEST_SIZE]) {
    char name[NOTE_NAME_SIZE];
    ASSERT(host);
    ASSERT(ret_digest);
    return note_name(kind, path, name, NULL) == KELPIE_OK &&
           image_stamp_find(host, name, ret_digest);
}

enum kelpie_status image_note_store(struct host *host, const char *kind, const char *path,
                                    const char *digest, struct kelpie_error *err) {
    char name[NOTE_NAME_SIZE];
    struct image_stamp stamp;
    ASSERT(path);
    ASSERT(strlen(digest) == IMAGE_DIGEST_SIZE - 1);
    TRY(note_name(kind, path, name, err));
    enum kelpie_status status = image_stamp_init(&stamp, host, err);
    if (status == KELPIE_OK) {
        status = image_stamp_add(&stamp, path, err);
    }
    if (status == KELPIE_OK) {
        status = image_stamp_store(&stamp, name, digest, err);
    }
    image_stamp_deinit(&stamp);
    return status;
}
