/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Descriptions of images: JSON, and the public structure in one block of memory. See image_store.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "store/image_store.h"

#define VERSION 1
#define DIGEST_PREFIX "sha256:"

json_t *image_record_encode(const char *name, const struct image_rootfs *rootfs,
                            uint64_t created_unix_ms) {
    ASSERT(store_name_is_good(name));
    ASSERT(strlen(rootfs->digest) == IMAGE_DIGEST_SIZE - 1);
    char digest[KELPIE_DIGEST_SIZE];
    snprintf(digest, sizeof(digest), DIGEST_PREFIX "%s", rootfs->digest);
    return json_pack(
        "{s:i, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:s, s:O, s:O, s:I}", "version", VERSION, "name",
        name, "digest", digest, "format", IMAGE_STORE_FORMAT, "architecture", rootfs->architecture,
        "created_unix_ms", (json_int_t)created_unix_ms, "uid", (json_int_t)rootfs->uid, "gid",
        (json_int_t)rootfs->gid, "working_dir", rootfs->working_dir, "argv", rootfs->argv, "env",
        rootfs->env, "entrypoint_count", (json_int_t)rootfs->entrypoint_count);
}

static enum kelpie_status damaged(struct kelpie_error *err, const char *member) {
    ASSERT(member);
    ASSERT(member[0] != '\0');
    return error_set_field(err, KELPIE_BAD_CONFIG, member,
                           "an image's description in the store is damaged: %s", member);
}

static bool take_text(const json_t *record, const char *key, char *text, size_t size) {
    const char *value = json_string_value(json_object_get(record, key));
    ASSERT(text);
    ASSERT(size > 0);
    if (!value || strlen(value) >= size) {
        return false;
    }
    memcpy(text, value, strlen(value) + 1);
    return true;
}

static bool take_number(const json_t *record, const char *key, uint64_t max, uint64_t *ret_number) {
    const json_t *value = json_object_get(record, key);
    ASSERT(key);
    ASSERT(ret_number);
    if (!json_is_integer(value) || json_integer_value(value) < 0 ||
        (uint64_t)json_integer_value(value) > max) {
        return false;
    }
    *ret_number = (uint64_t)json_integer_value(value);
    return true;
}

static bool digest_is_valid(const char *digest) {
    const char *digits = digest + strlen(DIGEST_PREFIX);
    ASSERT(digest);
    static_assert(KELPIE_DIGEST_SIZE == sizeof(DIGEST_PREFIX) + IMAGE_DIGEST_SIZE - 1,
                  "the prefix, the digits and a zero");
    return strncmp(digest, DIGEST_PREFIX, strlen(DIGEST_PREFIX)) == 0 &&
           strlen(digits) == IMAGE_DIGEST_SIZE - 1 &&
           strspn(digits, "0123456789abcdef") == IMAGE_DIGEST_SIZE - 1;
}

/* Everything but the lists. */
static enum kelpie_status take_members(const json_t *record, struct kelpie_image *image,
                                       struct kelpie_error *err) {
    uint64_t version = 0;
    uint64_t uid = 0;
    uint64_t gid = 0;
    uint64_t entrypoint_count = 0;
    ASSERT(record);
    ASSERT(image);
    if (!take_number(record, "version", VERSION, &version) || version != VERSION) {
        return damaged(err, "version");
    }
    if (!take_text(record, "name", image->name, sizeof(image->name)) ||
        !store_name_is_good(image->name)) {
        return damaged(err, "name");
    }
    if (!take_text(record, "digest", image->digest, sizeof(image->digest)) ||
        !digest_is_valid(image->digest)) {
        return damaged(err, "digest");
    }
    if (!take_text(record, "format", image->format, sizeof(image->format)) ||
        strcmp(image->format, IMAGE_STORE_FORMAT) != 0) {
        return damaged(err, "format");
    }
    if (!take_text(record, "architecture", image->architecture, sizeof(image->architecture)) ||
        !take_text(record, "working_dir", image->working_dir, sizeof(image->working_dir))) {
        return damaged(err, "architecture");
    }
    if (!take_number(record, "created_unix_ms", INT64_MAX, &image->created_unix_ms) ||
        !take_number(record, "uid", UINT32_MAX, &uid) ||
        !take_number(record, "gid", UINT32_MAX, &gid) ||
        !take_number(record, "entrypoint_count", KELPIE_ARGV_COUNT_MAX, &entrypoint_count)) {
        return damaged(err, "created_unix_ms");
    }
    image->uid = (uint32_t)uid;
    image->gid = (uint32_t)gid;
    image->entrypoint_count = (size_t)entrypoint_count;
    return KELPIE_OK;
}

/* The size of a list's strings with their zeros; false: it is no list of strings. */
static bool measure_list(const json_t *list, size_t count_max, size_t *ret_bytes) {
    ASSERT(ret_bytes);
    ASSERT(count_max > 0);
    if (!json_is_array(list) || json_array_size(list) > count_max) {
        return false;
    }
    size_t bytes = 0;
    for (size_t i = 0; i < json_array_size(list); i++) {
        if (!json_is_string(json_array_get(list, i))) {
            return false;
        }
        bytes += json_string_length(json_array_get(list, i)) + 1;
    }
    *ret_bytes = bytes;
    return true;
}

/* Copies strings behind each other; *text goes on. The list of pointers ends with NULL. */
static void copy_list(const json_t *list, const char **pointers, char **text) {
    size_t count = json_array_size(list);
    ASSERT(pointers);
    ASSERT(*text);
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_array_get(list, i);
        size_t size = json_string_length(item) + 1;
        memcpy(*text, json_string_value(item), size);
        pointers[i] = *text;
        *text += size;
    }
    pointers[count] = NULL;
}

static enum kelpie_status take_place(struct host *host, const char *folder,
                                     struct kelpie_image *image, struct kelpie_error *err) {
    struct image_path path;
    struct host_file_info info;
    ASSERT(folder[0] == '/');
    ASSERT(image->digest[0] != '\0');
    TRY(image_path_format(&path, err, "%s/%s." IMAGE_STORE_FORMAT, folder,
                          image->digest + strlen(DIGEST_PREFIX)));
    TRY(host_path_stat(host, path.text, &info, err));
    static_assert(sizeof(image->path) >= sizeof(path.text), "a path is a path");
    memcpy(image->path, path.text, strlen(path.text) + 1);
    image->bytes = info.allocated_size;
    return KELPIE_OK;
}

enum kelpie_status image_record_decode(struct host *host, const json_t *record, const char *folder,
                                       struct kelpie_image **ret_image, struct kelpie_error *err) {
    const json_t *argv = json_object_get(record, "argv");
    const json_t *env = json_object_get(record, "env");
    size_t argv_bytes = 0;
    size_t env_bytes = 0;
    ASSERT(ret_image);
    if (!json_is_object(record) || !measure_list(argv, KELPIE_ARGV_COUNT_MAX, &argv_bytes) ||
        !measure_list(env, KELPIE_ENV_COUNT_MAX, &env_bytes)) {
        return damaged(err, "argv");
    }
    size_t pointers = json_array_size(argv) + json_array_size(env) + 2;
    AUTO_MEM struct kelpie_image *image = host_allocate(
        host, sizeof(*image) + pointers * sizeof(char *) + argv_bytes + env_bytes, err);
    if (!image) {
        return KELPIE_NO_MEMORY;
    }
    TRY(take_members(record, image, err));
    if (image->entrypoint_count > json_array_size(argv)) {
        return damaged(err, "entrypoint_count");
    }
    const char **words = (const char **)(image + 1);
    char *text = (char *)(words + pointers);
    copy_list(argv, words, &text);
    copy_list(env, words + json_array_size(argv) + 1, &text);
    image->argv = words;
    image->env = words + json_array_size(argv) + 1;
    TRY(take_place(host, folder, image, err));
    ASSERT(text == (char *)(words + pointers) + argv_bytes + env_bytes);
    *ret_image = TAKE(image);
    return KELPIE_OK;
}

/* ---- Lists ------------------------------------------------------------------------------------ */

/* How many pointers with their NULL, and bytes of text. */
static void measure_words(const char *const *words, size_t *pointers, size_t *bytes) {
    ASSERT(words);
    ASSERT(pointers && bytes);
    for (; *words; words++) {
        (*pointers)++;
        *bytes += strlen(*words) + 1;
    }
    (*pointers)++;
}

/* Copies a list; *pointers and *text go on behind it. */
static const char *const *copy_words(const char *const *words, const char ***pointers,
                                     char **text) {
    const char **copy = *pointers;
    ASSERT(words);
    ASSERT(copy);
    for (; *words; words++) {
        size_t size = strlen(*words) + 1;
        memcpy(*text, *words, size);
        *(*pointers)++ = *text;
        *text += size;
    }
    *(*pointers)++ = NULL;
    return copy;
}

enum kelpie_status image_record_gather(struct host *host, struct kelpie_image *const *images,
                                       size_t count, struct kelpie_image **ret_list,
                                       struct kelpie_error *err) {
    size_t pointer_count = 0;
    size_t bytes = 0;
    ASSERT(images || count == 0);
    ASSERT(ret_list);
    for (size_t i = 0; i < count; i++) {
        measure_words(images[i]->argv, &pointer_count, &bytes);
        measure_words(images[i]->env, &pointer_count, &bytes);
    }
    size_t size = count * sizeof(**ret_list) + pointer_count * sizeof(char *) + bytes;
    struct kelpie_image *list = host_allocate(host, size > 0 ? size : 1, err);
    if (!list) {
        return KELPIE_NO_MEMORY;
    }
    const char **pointers = (const char **)(list + count);
    char *text = (char *)(pointers + pointer_count);
    for (size_t i = 0; i < count; i++) {
        list[i] = *images[i];
        list[i].argv = copy_words(images[i]->argv, &pointers, &text);
        list[i].env = copy_words(images[i]->env, &pointers, &text);
    }
    ASSERT(text == (char *)list + size || count == 0);
    *ret_list = list;
    return KELPIE_OK;
}
