/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Documents of an OCI image as anybody may write them: what is accepted has digests that are digests, and lists of strings. */
#include <string.h>

#include "base/assert.h"
#include "image/oci.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_digest(const char *digest) {
    ASSERT(strlen(digest) == IMAGE_DIGEST_SIZE - 1);
    ASSERT(strspn(digest, "0123456789abcdef") == IMAGE_DIGEST_SIZE - 1);
}

static void check_list(const json_t *list) {
    for (size_t i = 0; i < json_array_size(list); i++) {
        ASSERT(json_is_string(json_array_get(list, i)));
    }
}

static void check_index(const uint8_t *data, size_t size) {
    static const char *const references[] = {NULL, "one"};
    struct image_oci_descriptor chosen;
    for (size_t i = 0; i < 2 * ARRAY_SIZE(references); i++) {
        const struct image_oci_wanted wanted = {references[i / 2], "amd64", i % 2 == 0};
        struct kelpie_error err;
        if (image_oci_choose(data, size, &wanted, &chosen, &err) == KELPIE_OK) {
            check_digest(chosen.digest);
        } else {
            ASSERT(strnlen(err.message, sizeof(err.message)) < sizeof(err.message));
        }
    }
}

static void check_manifest(const uint8_t *data, size_t size) {
    static struct image_oci_manifest manifest;
    if (image_oci_manifest_parse(data, size, &manifest, NULL) != KELPIE_OK) {
        return;
    }
    check_digest(manifest.config.digest);
    ASSERT(manifest.layer_count <= IMAGE_OCI_LAYER_COUNT_MAX);
    for (size_t i = 0; i < manifest.layer_count; i++) {
        check_digest(manifest.layers[i].digest);
        ASSERT(manifest.layers[i].compression != IMAGE_COMPRESSION_ANY);
    }
}

static void check_config(const uint8_t *data, size_t size) {
    static struct image_oci_config config;
    if (image_oci_config_parse(data, size, &config, NULL) != KELPIE_OK) {
        ASSERT(!config.document);
        return;
    }
    ASSERT(config.architecture[0] != '\0');
    ASSERT(config.working_dir[0] == '\0' || config.working_dir[0] == '/');
    check_list(config.entrypoint);
    check_list(config.command);
    check_list(config.env);
    for (size_t i = 0; i < config.layer_count; i++) {
        check_digest(config.unpacked[i]);
    }
    image_oci_config_deinit(&config);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    check_index(data, size);
    check_manifest(data, size);
    check_config(data, size);
    enum kelpie_status status = image_oci_layout_parse(data, size, NULL);
    ASSERT(status == KELPIE_OK || status == KELPIE_BAD_CONFIG || status == KELPIE_NO_MEMORY);
    return 0;
}
