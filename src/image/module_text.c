/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * module_text.c: the texts that say where modules are and what they need (depmod(8), modules.dep(5)):
 *   modules.dep      <path>: <path> <path> …     what a module needs
 *   modules.order    <path>                       every module of the build
 *   modules.builtin  <path>                       what is no module, but part of the kernel
 *   .modinfo         KEY=VALUE, zero-terminated   in each module; "depends" names modules, by commas
 */
#include "image/image_internal.h"

#include <string.h>

#include "base/assert.h"

bool image_slice_line(struct image_slice *text, struct image_slice *ret_line) {
    ASSERT(text);
    ASSERT(ret_line);
    if (text->size == 0) {
        return false;
    }
    const char *end = memchr(text->data, '\n', text->size);
    size_t size = end ? (size_t)(end - text->data) : text->size;
    size_t step = end ? size + 1 : size;
    *ret_line = (struct image_slice){text->data, size};
    *text = (struct image_slice){text->data + step, text->size - step};
    return true;
}

static bool is_separator(char c, const char *separators) {
    ASSERT(separators);
    return c != '\0' && strchr(separators, c) != NULL;
}

bool image_slice_word(struct image_slice *line, const char *separators,
                      struct image_slice *ret_word) {
    ASSERT(separators);
    ASSERT(ret_word);
    size_t start = 0;
    while (start < line->size && is_separator(line->data[start], separators)) {
        start++;
    }
    size_t end = start;
    while (end < line->size && !is_separator(line->data[end], separators)) {
        end++;
    }
    if (start == end) {
        *line = (struct image_slice){NULL, 0};
        return false;
    }
    *ret_word = (struct image_slice){line->data + start, end - start};
    *line = (struct image_slice){line->data + end, line->size - end};
    return true;
}

static char name_character(char c) {
    return c == '-' ? '_' : c;
}

bool image_module_matches(struct image_slice path, struct image_slice module) {
    ASSERT(path.data || path.size == 0);
    ASSERT(module.data || module.size == 0);
    size_t start = path.size;
    while (start > 0 && path.data[start - 1] != '/') {
        start--;
    }
    const char *name = path.data + start;
    size_t size = path.size - start;
    if (module.size == 0 || size < module.size) {
        return false;
    }
    for (size_t i = 0; i < module.size; i++) {
        if (name_character(name[i]) != name_character(module.data[i])) {
            return false;
        }
    }
    size_t rest = size - module.size;
    if (rest == 0) {
        return true;
    }
    bool ends = rest >= 3 && memcmp(name + module.size, ".ko", 3) == 0;
    return ends && (rest == 3 || name[module.size + 3] == '.');
}

bool image_module_find(struct image_slice text, struct image_slice module,
                       struct image_slice *ret_path, struct image_slice *ret_dependencies) {
    ASSERT(ret_path);
    ASSERT(ret_dependencies);
    struct image_slice line;
    while (image_slice_line(&text, &line)) {
        const char *colon = line.size > 0 ? memchr(line.data, ':', line.size) : NULL;
        size_t path_size = colon ? (size_t)(colon - line.data) : line.size;
        struct image_slice path = {line.data, path_size};
        if (image_module_matches(path, module)) {
            *ret_path = path;
            *ret_dependencies = colon ? (struct image_slice){colon + 1, line.size - path_size - 1}
                                      : (struct image_slice){line.data + line.size, 0};
            return true;
        }
    }
    return false;
}

bool image_module_info(struct image_slice section, const char *key, struct image_slice *ret_value) {
    ASSERT(key);
    ASSERT(ret_value);
    size_t key_size = strlen(key);
    size_t offset = 0;
    while (offset < section.size) {
        const char *entry = section.data + offset;
        size_t size = strnlen(entry, section.size - offset);
        if (size > key_size && memcmp(entry, key, key_size) == 0 && entry[key_size] == '=') {
            *ret_value = (struct image_slice){entry + key_size + 1, size - key_size - 1};
            return true;
        }
        offset += size + 1;
    }
    return false;
}
