/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* modules.dep and its like, and the names in a package. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "image/image_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_lines(struct image_slice text) {
    struct image_slice line;
    struct image_slice word;
    while (image_slice_line(&text, &line)) {
        struct image_slice rest = line;
        while (image_slice_word(&rest, " \t", &word)) {
            ASSERT(word.size > 0 && word.size <= line.size);
            (void)image_module_matches(word, (struct image_slice){"virtio_ring", 11});
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const modules[] = {"virtio", "virtio_ring", "ext4", ""};
    struct image_slice text = {(const char *)data, size};
    struct image_slice path;
    struct image_slice rest;
    for (size_t i = 0; i < ARRAY_SIZE(modules); i++) {
        struct image_slice module = {modules[i], strlen(modules[i])};
        if (image_module_find(text, module, &path, &rest)) {
            ASSERT(image_module_matches(path, module));
            ASSERT(path.size + rest.size <= size);
        }
    }
    check_lines(text);
    (void)image_module_info(text, "depends", &rest);
    char *name = strndup((const char *)data, size);
    const char *kept = name ? image_package_kept_name(name) : NULL;
    if (kept) {
        ASSERT(image_path_is_plain(kept));
    }
    free(name);
    return 0;
}
