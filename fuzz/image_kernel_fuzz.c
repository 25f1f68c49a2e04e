/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* A bzImage's setup header, and the same bytes as an ELF file: what is accepted is harmless as a path. */
#include <string.h>

#include "base/assert.h"
#include "image/image_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char release[IMAGE_RELEASE_SIZE_MAX + 1];
    struct image_slice section = {NULL, 0};
    struct image_slice value = {NULL, 0};
    size_t head = size < IMAGE_KERNEL_HEADER_SIZE ? size : IMAGE_KERNEL_HEADER_SIZE;
    /* A file may be longer than the part that is looked at. */
    uint64_t sizes[] = {size, (uint64_t)size + IMAGE_KERNEL_SIZE_MAX};
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        if (image_kernel_header_parse(data, head, sizes[i], release, NULL) == KELPIE_OK) {
            ASSERT(image_path_is_plain(release));
            ASSERT(!strchr(release, '/'));
        }
    }
    (void)image_elf_is_static(data, size);
    (void)image_elf_is_library_with(data, size, HOST_KRUNFW_SYMBOL);
    if (image_elf_section(data, size, ".modinfo", &section.data, &section.size) &&
        image_module_info(section, "depends", &value)) {
        ASSERT(value.size <= section.size);
    }
    return 0;
}
