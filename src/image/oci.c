/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "image/oci.h"

#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/error.h"

#define DIGEST_PREFIX "sha256:"
#define REFERENCE_KEY "org.opencontainers.image.ref.name"
#define REFERENCE_KEY_OTHER "io.containerd.image.name"
#define CHOICE_TEXT_SIZE 256

enum media { MEDIA_OTHER = 0, MEDIA_INDEX, MEDIA_MANIFEST, MEDIA_CONFIG, MEDIA_LAYER };

#define OCI "application/vnd.oci.image."
#define DOCKER "application/vnd.docker."

static const struct {
    const char *type;
    enum media media;
    enum image_compression compression;
} medias[] = {
    {OCI "index.v1+json", MEDIA_INDEX, 0},
    {DOCKER "distribution.manifest.list.v2+json", MEDIA_INDEX, 0},
    {OCI "manifest.v1+json", MEDIA_MANIFEST, 0},
    {DOCKER "distribution.manifest.v2+json", MEDIA_MANIFEST, 0},
    {OCI "config.v1+json", MEDIA_CONFIG, 0},
    {DOCKER "container.image.v1+json", MEDIA_CONFIG, 0},
    {OCI "layer.v1.tar", MEDIA_LAYER, IMAGE_COMPRESSION_NONE},
    {OCI "layer.v1.tar+gzip", MEDIA_LAYER, IMAGE_COMPRESSION_GZIP},
    {OCI "layer.v1.tar+zstd", MEDIA_LAYER, IMAGE_COMPRESSION_ZSTD},
    {OCI "layer.nondistributable.v1.tar", MEDIA_LAYER, IMAGE_COMPRESSION_NONE},
    {OCI "layer.nondistributable.v1.tar+gzip", MEDIA_LAYER, IMAGE_COMPRESSION_GZIP},
    {OCI "layer.nondistributable.v1.tar+zstd", MEDIA_LAYER, IMAGE_COMPRESSION_ZSTD},
    {DOCKER "image.rootfs.diff.tar", MEDIA_LAYER, IMAGE_COMPRESSION_NONE},
    {DOCKER "image.rootfs.diff.tar.gzip", MEDIA_LAYER, IMAGE_COMPRESSION_GZIP},
    {DOCKER "image.rootfs.diff.tar.zstd", MEDIA_LAYER, IMAGE_COMPRESSION_ZSTD},
    {DOCKER "image.rootfs.foreign.diff.tar.gzip", MEDIA_LAYER, IMAGE_COMPRESSION_GZIP},
};

static void json_cleanup(json_t **value) {
    ASSERT(value);
    json_decref(*value);
}
#define AUTO_JSON __attribute__((cleanup(json_cleanup)))

static enum kelpie_status wrong(struct kelpie_error *err, const char *document, const char *why) {
    ASSERT(document);
    ASSERT(why);
    return error_set_field(err, KELPIE_BAD_CONFIG, "path", "the image's %s %s", document, why);
}

static enum kelpie_status load(const void *data, size_t size, const char *document,
                               json_t **ret_root, struct kelpie_error *err) {
    json_error_t failure;
    ASSERT(data || size == 0);
    ASSERT(ret_root);
    if (size > IMAGE_OCI_DOCUMENT_SIZE_MAX) {
        return wrong(err, document, "is too large");
    }
    json_t *root = json_loadb(size > 0 ? data : "", size, JSON_REJECT_DUPLICATES, &failure);
    if (!json_is_object(root)) {
        json_decref(root);
        return error_set_field(err, KELPIE_BAD_CONFIG, "path",
                               "the image's %s is no JSON object (line %d: %.100s)", document,
                               failure.line, root ? "something else" : failure.text);
    }
    *ret_root = root;
    return KELPIE_OK;
}

/* A string member, or NULL: it is missing, or none. */
static const char *text_of(const json_t *object, const char *key) {
    ASSERT(key[0] != '\0');
    ASSERT(key);
    return json_string_value(json_object_get(object, key));
}

/* ---- Descriptors ------------------------------------------------------------------------------ */

static bool digest_parse(const char *text, char ret_digest[IMAGE_DIGEST_SIZE]) {
    ASSERT(ret_digest);
    ASSERT(sizeof(DIGEST_PREFIX) - 1 == 7);
    if (!text || strncmp(text, DIGEST_PREFIX, strlen(DIGEST_PREFIX)) != 0) {
        return false;
    }
    const char *digits = text + strlen(DIGEST_PREFIX);
    if (strlen(digits) != IMAGE_DIGEST_SIZE - 1 ||
        strspn(digits, "0123456789abcdef") != IMAGE_DIGEST_SIZE - 1) {
        return false;
    }
    memcpy(ret_digest, digits, IMAGE_DIGEST_SIZE);
    return true;
}

static enum media media_of(const char *type, enum image_compression *ret_compression) {
    ASSERT(ret_compression);
    ASSERT(ARRAY_SIZE(medias) > 0);
    *ret_compression = IMAGE_COMPRESSION_NONE;
    for (size_t i = 0; type && i < ARRAY_SIZE(medias); i++) {
        if (strcmp(medias[i].type, type) == 0) {
            *ret_compression = medias[i].compression;
            return medias[i].media;
        }
    }
    return MEDIA_OTHER;
}

/* Digest and size; the media type is the caller's to judge. */
static enum kelpie_status descriptor_parse(const json_t *json, const char *document,
                                           struct image_oci_descriptor *ret_descriptor,
                                           enum media *ret_media, struct kelpie_error *err) {
    struct image_oci_descriptor descriptor = {.size = 0};
    const json_t *size = json_object_get(json, "size");
    ASSERT(ret_descriptor);
    ASSERT(ret_media);
    if (!json_is_object(json)) {
        return wrong(err, document, "has something else where a descriptor belongs");
    }
    if (!digest_parse(text_of(json, "digest"), descriptor.digest)) {
        return wrong(err, document, "has a digest that is not sha256: and 64 hexadecimal digits");
    }
    if (!json_is_integer(size) || json_integer_value(size) < 0) {
        return wrong(err, document, "has a descriptor without a size");
    }
    descriptor.size = (uint64_t)json_integer_value(size);
    *ret_media = media_of(text_of(json, "mediaType"), &descriptor.compression);
    descriptor.is_index = *ret_media == MEDIA_INDEX;
    *ret_descriptor = descriptor;
    return KELPIE_OK;
}

/* The document's own media type, which may be missing, and its version. */
static enum kelpie_status check_document(const json_t *root, const char *document, enum media media,
                                         struct kelpie_error *err) {
    enum image_compression ignored;
    const json_t *type = json_object_get(root, "mediaType");
    const json_t *version = json_object_get(root, "schemaVersion");
    ASSERT(media != MEDIA_OTHER);
    ASSERT(json_is_object(root));
    if (type && media_of(json_string_value(type), &ignored) != media) {
        return wrong(err, document, "has another media type");
    }
    if (!json_is_integer(version) || json_integer_value(version) != 2) {
        return wrong(err, document, "is not of schema version 2");
    }
    return KELPIE_OK;
}

/* ---- The index -------------------------------------------------------------------------------- */

/* What was found while choosing; texts name what there is, for messages. */
struct choice {
    const struct image_oci_wanted *wanted;
    struct image_oci_descriptor descriptor;
    size_t count;       /* that fit, by digest */
    size_t named_count; /* that have the name, whatever they are for */
    char names[CHOICE_TEXT_SIZE];
    char platforms[CHOICE_TEXT_SIZE];
};

/* Adds to a list for a message; what does not fit is left out. */
static void mention(char text[CHOICE_TEXT_SIZE], const char *name) {
    size_t used = strlen(text);
    ASSERT(used < CHOICE_TEXT_SIZE);
    ASSERT(name);
    size_t size = strlen(name);
    if (size == 0 || used + size + 3 > CHOICE_TEXT_SIZE || strstr(text, name)) {
        return;
    }
    snprintf(text + used, CHOICE_TEXT_SIZE - used, "%s%s", used ? ", " : "", name);
    for (size_t i = used; text[i] != '\0'; i++) {
        text[i] = (unsigned char)text[i] < 0x20 || text[i] == 0x7f ? '?' : text[i];
    }
}

static bool has_name(struct choice *choice, const json_t *entry) {
    static const char *const keys[] = {REFERENCE_KEY, REFERENCE_KEY_OTHER};
    const json_t *annotations = json_object_get(entry, "annotations");
    const char *reference = choice->wanted->reference;
    bool found = !reference;
    ASSERT(ARRAY_SIZE(keys) == 2);
    ASSERT(entry);
    for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
        const char *name = text_of(annotations, keys[i]);
        if (name) {
            mention(choice->names, name);
            found = found || strcmp(name, reference) == 0;
        }
    }
    return found;
}

/* One that does not say what it is for may be for anything: its config says. */
static bool has_platform(struct choice *choice, const json_t *entry) {
    const json_t *platform = json_object_get(entry, "platform");
    const char *architecture = text_of(platform, "architecture");
    const char *os = text_of(platform, "os");
    ASSERT(choice->wanted->architecture);
    ASSERT(entry);
    if (architecture && strcmp(architecture, "unknown") != 0) {
        mention(choice->platforms, architecture);
    }
    return (!architecture || strcmp(architecture, choice->wanted->architecture) == 0) &&
           (!os || strcmp(os, "linux") == 0);
}

static enum kelpie_status consider(struct choice *choice, const json_t *entry,
                                   struct kelpie_error *err) {
    struct image_oci_descriptor descriptor;
    enum media media = MEDIA_OTHER;
    ASSERT(choice->count <= IMAGE_OCI_MANIFEST_COUNT_MAX);
    TRY(descriptor_parse(entry, "index", &descriptor, &media, err));
    if ((media != MEDIA_INDEX && media != MEDIA_MANIFEST) || !has_name(choice, entry)) {
        return KELPIE_OK;
    }
    choice->named_count++;
    if (!has_platform(choice, entry)) {
        return KELPIE_OK;
    }
    if (choice->count == 0) {
        choice->descriptor = descriptor;
        choice->count = 1;
    } else if (strcmp(choice->descriptor.digest, descriptor.digest) != 0) {
        choice->count++;
    }
    return KELPIE_OK;
}

static enum kelpie_status judge(const struct choice *choice, struct kelpie_error *err) {
    const struct image_oci_wanted *wanted = choice->wanted;
    ASSERT(choice->count <= choice->named_count);
    ASSERT(wanted->architecture);
    if (choice->named_count == 0 && wanted->reference) {
        return error_set_field(
            err, KELPIE_NOT_FOUND, "reference", "the image layout has no manifest named %.128s%s%s",
            wanted->reference, choice->names[0] ? "; it has " : "", choice->names);
    }
    if (choice->named_count == 0) {
        return wrong(err, "index", "has no manifest");
    }
    if (choice->count == 0) {
        return error_set_field(
            err, KELPIE_BAD_CONFIG, "architecture", "the image is for %s, not for %s",
            choice->platforms[0] ? choice->platforms : "another system", wanted->architecture);
    }
    if (choice->count > 1 && wanted->only) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "reference",
                               "the image layout has %zu manifests; say which%s%s", choice->count,
                               choice->names[0] ? ": " : "", choice->names);
    }
    return KELPIE_OK;
}

enum kelpie_status image_oci_choose(const void *data, size_t size,
                                    const struct image_oci_wanted *wanted,
                                    struct image_oci_descriptor *ret_chosen,
                                    struct kelpie_error *err) {
    AUTO_JSON json_t *root = NULL;
    struct choice choice = {.wanted = wanted};
    ASSERT(wanted->architecture);
    ASSERT(ret_chosen);
    TRY(load(data, size, "index", &root, err));
    TRY(check_document(root, "index", MEDIA_INDEX, err));
    const json_t *manifests = json_object_get(root, "manifests");
    if (!json_is_array(manifests)) {
        return wrong(err, "index", "has no list \"manifests\"");
    }
    if (json_array_size(manifests) > IMAGE_OCI_MANIFEST_COUNT_MAX) {
        return wrong(err, "index", "has too many manifests");
    }
    for (size_t i = 0; i < json_array_size(manifests); i++) {
        TRY(consider(&choice, json_array_get(manifests, i), err));
    }
    TRY(judge(&choice, err));
    *ret_chosen = choice.descriptor;
    return KELPIE_OK;
}

/* ---- The manifest ----------------------------------------------------------------------------- */

enum kelpie_status image_oci_manifest_parse(const void *data, size_t size,
                                            struct image_oci_manifest *ret_manifest,
                                            struct kelpie_error *err) {
    AUTO_JSON json_t *root = NULL;
    enum media media = MEDIA_OTHER;
    ASSERT(ret_manifest);
    TRY(load(data, size, "manifest", &root, err));
    TRY(check_document(root, "manifest", MEDIA_MANIFEST, err));
    TRY(descriptor_parse(json_object_get(root, "config"), "manifest", &ret_manifest->config, &media,
                         err));
    if (media != MEDIA_CONFIG) {
        return wrong(err, "manifest", "is of an artifact: its config is not an image's");
    }
    const json_t *layers = json_object_get(root, "layers");
    if (!json_is_array(layers) || json_array_size(layers) > IMAGE_OCI_LAYER_COUNT_MAX) {
        return wrong(err, "manifest", "has no list \"layers\", or too many of them");
    }
    ret_manifest->layer_count = json_array_size(layers);
    for (size_t i = 0; i < ret_manifest->layer_count; i++) {
        const json_t *layer = json_array_get(layers, i);
        TRY(descriptor_parse(layer, "manifest", &ret_manifest->layers[i], &media, err));
        if (media != MEDIA_LAYER) {
            return wrong(err, "manifest", "has a layer of a media type that is not a layer's");
        }
    }
    ASSERT(ret_manifest->layer_count <= IMAGE_OCI_LAYER_COUNT_MAX);
    return KELPIE_OK;
}

/* ---- The config ------------------------------------------------------------------------------- */

/* A list of strings, null or missing. */
static enum kelpie_status list_of(const json_t *object, const char *key, size_t count_max,
                                  const json_t **ret_list, struct kelpie_error *err) {
    const json_t *list = json_object_get(object, key);
    ASSERT(key);
    ASSERT(ret_list);
    *ret_list = NULL;
    if (!list || json_is_null(list)) {
        return KELPIE_OK;
    }
    if (!json_is_array(list) || json_array_size(list) > count_max) {
        return wrong(err, "config", "has something else where a list of words belongs");
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        if (!json_is_string(json_array_get(list, i))) {
            return wrong(err, "config", "has a list with something else than words");
        }
    }
    *ret_list = list;
    return KELPIE_OK;
}

static enum kelpie_status optional_text(const json_t *object, const char *key,
                                        const char **ret_text, struct kelpie_error *err) {
    const json_t *value = json_object_get(object, key);
    ASSERT(key);
    ASSERT(ret_text);
    if (value && !json_is_string(value) && !json_is_null(value)) {
        return wrong(err, "config", "has something else where a text belongs");
    }
    *ret_text = json_is_string(value) ? json_string_value(value) : "";
    return KELPIE_OK;
}

static enum kelpie_status run_parse(const json_t *json, struct image_oci_config *config,
                                    struct kelpie_error *err) {
    ASSERT(config->document);
    TRY(optional_text(json, "User", &config->user, err));
    TRY(optional_text(json, "WorkingDir", &config->working_dir, err));
    TRY(list_of(json, "Entrypoint", KELPIE_ARGV_COUNT_MAX / 2, &config->entrypoint, err));
    TRY(list_of(json, "Cmd", KELPIE_ARGV_COUNT_MAX / 2, &config->command, err));
    TRY(list_of(json, "Env", KELPIE_ENV_COUNT_MAX, &config->env, err));
    if (strlen(config->working_dir) > KELPIE_PATH_SIZE_MAX ||
        (config->working_dir[0] != '\0' && config->working_dir[0] != '/')) {
        return wrong(err, "config", "has a working directory that is no absolute path");
    }
    for (size_t i = 0; i < json_array_size(config->env); i++) {
        const char *text = json_string_value(json_array_get(config->env, i));
        const char *equals = strchr(text, '=');
        if (!equals || equals == text) {
            return wrong(err, "config", "has an environment variable that is not NAME=VALUE");
        }
    }
    ASSERT(config->user);
    return KELPIE_OK;
}

static enum kelpie_status layers_parse(const json_t *json, struct image_oci_config *config,
                                       struct kelpie_error *err) {
    const char *type = text_of(json, "type");
    const json_t *list = json_object_get(json, "diff_ids");
    ASSERT(config->layer_count == 0);
    ASSERT(config->document);
    if (!type || strcmp(type, "layers") != 0 || !json_is_array(list) ||
        json_array_size(list) > IMAGE_OCI_LAYER_COUNT_MAX) {
        return wrong(err, "config", "does not say of which layers it is (rootfs)");
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        if (!digest_parse(json_string_value(json_array_get(list, i)), config->unpacked[i])) {
            return wrong(err, "config", "has a diff_id that is no SHA-256");
        }
    }
    config->layer_count = json_array_size(list);
    return KELPIE_OK;
}

enum kelpie_status image_oci_config_parse(const void *data, size_t size,
                                          struct image_oci_config *ret_config,
                                          struct kelpie_error *err) {
    const char *os = "";
    ASSERT(ret_config);
    memset(ret_config, 0, sizeof(*ret_config));
    TRY(load(data, size, "config", &ret_config->document, err));
    const json_t *root = ret_config->document;
    ASSERT(json_is_object(root));
    enum kelpie_status status = optional_text(root, "architecture", &ret_config->architecture, err);
    if (status == KELPIE_OK) {
        status = optional_text(root, "os", &os, err);
    }
    if (status == KELPIE_OK && (ret_config->architecture[0] == '\0' || strcmp(os, "linux") != 0)) {
        status = wrong(err, "config", "names no architecture, or a system other than linux");
    }
    if (status == KELPIE_OK) {
        status = run_parse(json_object_get(root, "config"), ret_config, err);
    }
    if (status == KELPIE_OK) {
        status = layers_parse(json_object_get(root, "rootfs"), ret_config, err);
    }
    if (status != KELPIE_OK) {
        image_oci_config_deinit(ret_config);
    }
    return status;
}

void image_oci_config_deinit(struct image_oci_config *config) {
    ASSERT(config);
    json_decref(config->document);
    config->document = NULL;
}

/* ---- The rest --------------------------------------------------------------------------------- */

enum kelpie_status image_oci_layout_parse(const void *data, size_t size, struct kelpie_error *err) {
    AUTO_JSON json_t *root = NULL;
    ASSERT(data || size == 0);
    TRY(load(data, size, "oci-layout", &root, err));
    ASSERT(json_is_object(root));
    const char *version = text_of(root, "imageLayoutVersion");
    if (!version || strncmp(version, "1.", 2) != 0) {
        return wrong(err, "oci-layout", "is not of an image layout of version 1");
    }
    return KELPIE_OK;
}

const char *image_oci_architecture(const char *name) {
    static const struct {
        const char *other;
        const char *oci;
    } names[] = {{"x86_64", "amd64"}, {"aarch64", "arm64"}};
    ASSERT(ARRAY_SIZE(names) == 2);
    if (!name) {
#if defined(__x86_64__)
        name = "x86_64";
#else
        name = "aarch64";
#endif
    }
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        if (strcmp(name, names[i].other) == 0) {
            return names[i].oci;
        }
    }
    ASSERT(name);
    return name;
}
