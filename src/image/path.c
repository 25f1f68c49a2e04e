/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "image/image_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"

enum kelpie_status image_path_format(struct image_path *ret_path, struct kelpie_error *err,
                                     const char *format, ...) {
    ASSERT(ret_path);
    ASSERT(format);
    char text[sizeof(ret_path->text)];
    va_list args;
    va_start(args, format);
    int length = vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    if (length < 0 || (size_t)length >= sizeof(text)) {
        return error_set(err, KELPIE_BAD_CONFIG, "the path %.64s... is longer than %d bytes", text,
                         HOST_PATH_SIZE_MAX);
    }
    memcpy(ret_path->text, text, (size_t)length + 1);
    return KELPIE_OK;
}

static bool part_is_plain(const char *part, size_t size) {
    ASSERT(size <= HOST_PATH_SIZE_MAX);
    ASSERT(part);
    if (size == 0 || size > HOST_NAME_SIZE_MAX) {
        return false;
    }
    bool dots = (size == 1 && part[0] == '.') || (size == 2 && part[0] == '.' && part[1] == '.');
    return !dots;
}

bool image_path_is_plain(const char *name) {
    ASSERT(name);
    size_t length = strnlen(name, HOST_PATH_SIZE_MAX + 1);
    if (length == 0 || length > HOST_PATH_SIZE_MAX) {
        return false;
    }
    size_t start = 0;
    for (size_t i = 0; i <= length; i++) {
        unsigned char c = (unsigned char)name[i];
        if (i < length && (c < 0x20 || c == 0x7f)) {
            return false;
        }
        if (c != '/' && i < length) {
            continue;
        }
        if (!part_is_plain(name + start, i - start)) {
            return false;
        }
        start = i + 1;
    }
    ASSERT(start == length + 1);
    return true;
}

bool image_path_exists(struct host *host, const char *path) {
    ASSERT(host);
    ASSERT(path);
    struct host_file_info info;
    return host_path_stat(host, path, &info, NULL) == KELPIE_OK;
}
