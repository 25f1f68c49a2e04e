/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "image/layout.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/error.h"

#define BLOB_FOLDER "blobs/sha256/"

static enum kelpie_status open_in_archive(const struct image_layout *layout, const char *name,
                                          struct image_blob *ret_blob, struct kelpie_error *err) {
    const struct image_tree *tree = layout->unpack->tree;
    uint32_t node = 0;
    ASSERT(ret_blob);
    ASSERT(name[0] != '/');
    if (!image_tree_find(tree, name, &node)) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "path", "the image layout lacks %s", name);
    }
    const struct image_inode *inode = image_tree_inode(tree, image_tree_inode_of(tree, node));
    if ((inode->mode & S_IFMT) != S_IFREG) {
        return image_entry_wrong(err, name, "is not a regular file");
    }
    *ret_blob = (struct image_blob){layout->unpack->data_fd, inode->data_offset, inode->size};
    return KELPIE_OK;
}

static enum kelpie_status open_in_folder(const struct image_layout *layout, const char *name,
                                         struct image_blob *ret_blob, struct kelpie_error *err) {
    struct host *host = layout->host;
    struct image_path path;
    struct host_file_info info;
    AUTO_FD struct host_fd fd = {host, HOST_FD_NONE};
    ASSERT(ret_blob);
    ASSERT(layout->path);
    TRY(image_path_format(&path, err, "%s/%s", layout->path, name));
    enum kelpie_status status = host_path_stat(host, path.text, &info, err);
    if (status == KELPIE_NOT_FOUND) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "path", "the image layout lacks %s", name);
    }
    TRY(status);
    /* Looked at twice: before, so that no device is opened; behind, so that it is the same. */
    if (info.type != HOST_FILE_REGULAR) {
        return image_entry_wrong(err, name, "is not a regular file");
    }
    TRY(host_file_open(host, path.text, HOST_OPEN_READ | HOST_OPEN_NO_FOLLOW, 0, &fd.fd, err));
    TRY(host_file_stat(host, fd.fd, &info, err));
    if (info.type != HOST_FILE_REGULAR) {
        return image_entry_wrong(err, name, "is not a regular file");
    }
    *ret_blob = (struct image_blob){host_fd_take(&fd), 0, info.size};
    return KELPIE_OK;
}

static enum kelpie_status open_file(const struct image_layout *layout, const char *name,
                                    struct image_blob *ret_blob, struct kelpie_error *err) {
    ASSERT(layout->host);
    ASSERT(name);
    return layout->unpack ? open_in_archive(layout, name, ret_blob, err)
                          : open_in_folder(layout, name, ret_blob, err);
}

void image_layout_close(const struct image_layout *layout, const struct image_blob *blob) {
    ASSERT(layout->host);
    ASSERT(blob);
    if (!layout->unpack) {
        host_close(layout->host, blob->fd);
    }
}

enum kelpie_status image_layout_open(const struct image_layout *layout,
                                     const struct image_oci_descriptor *descriptor,
                                     struct image_blob *ret_blob, struct kelpie_error *err) {
    char name[sizeof(BLOB_FOLDER) + IMAGE_DIGEST_SIZE];
    struct image_blob blob;
    ASSERT(strlen(descriptor->digest) == IMAGE_DIGEST_SIZE - 1);
    ASSERT(ret_blob);
    memcpy(name, BLOB_FOLDER, sizeof(BLOB_FOLDER));
    memcpy(name + strlen(BLOB_FOLDER), descriptor->digest, IMAGE_DIGEST_SIZE);
    TRY(open_file(layout, name, &blob, err));
    if (blob.size != descriptor->size) {
        image_layout_close(layout, &blob);
        return error_set_field(err, KELPIE_BAD_CONFIG, "path",
                               "the blob %.16s... has %llu bytes instead of %llu",
                               descriptor->digest, (unsigned long long)blob.size,
                               (unsigned long long)descriptor->size);
    }
    *ret_blob = blob;
    return KELPIE_OK;
}

/* A document's text, for free(). */
static enum kelpie_status load_blob(const struct image_layout *layout,
                                    const struct image_blob *blob, char **ret_data,
                                    size_t *ret_size, struct kelpie_error *err) {
    size_t size = 0;
    ASSERT(ret_data);
    ASSERT(ret_size);
    TRY(image_wait_check(layout->host, layout->wait, err));
    if (blob->size > IMAGE_OCI_DOCUMENT_SIZE_MAX) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "path",
                               "an index, manifest or config of the image is larger than %u bytes",
                               IMAGE_OCI_DOCUMENT_SIZE_MAX);
    }
    AUTO_MEM char *data = host_allocate(layout->host, (size_t)blob->size + 1, err);
    if (!data) {
        return KELPIE_NO_MEMORY;
    }
    if (blob->size > 0) {
        TRY(host_file_read_at(layout->host, blob->fd, data, (size_t)blob->size, blob->offset, &size,
                              err));
    }
    *ret_data = TAKE(data);
    *ret_size = size;
    return KELPIE_OK;
}

/* index.json and oci-layout, which no digest names. */
static enum kelpie_status load_named(const struct image_layout *layout, const char *name,
                                     char **ret_data, size_t *ret_size, struct kelpie_error *err) {
    struct image_blob blob;
    ASSERT(name);
    TRY(open_file(layout, name, &blob, err));
    enum kelpie_status status = load_blob(layout, &blob, ret_data, ret_size, err);
    image_layout_close(layout, &blob);
    ASSERT(status != KELPIE_OK || *ret_data);
    return status;
}

static enum kelpie_status load_described(const struct image_layout *layout,
                                         const struct image_oci_descriptor *descriptor,
                                         char **ret_data, size_t *ret_size,
                                         struct kelpie_error *err) {
    struct image_blob blob;
    AUTO_MEM char *data = NULL;
    size_t size = 0;
    char digest[IMAGE_DIGEST_SIZE];
    ASSERT(ret_data);
    ASSERT(ret_size);
    TRY(image_layout_open(layout, descriptor, &blob, err));
    enum kelpie_status status = load_blob(layout, &blob, &data, &size, err);
    image_layout_close(layout, &blob);
    TRY(status);
    TRY(image_digest_bytes(data, size, digest, err));
    if (strcmp(digest, descriptor->digest) != 0) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "path",
                               "the blob %.16s... has another digest than its name",
                               descriptor->digest);
    }
    *ret_data = TAKE(data);
    *ret_size = size;
    return KELPIE_OK;
}

/* From index to index, down to a manifest. */
static enum kelpie_status choose(const struct image_layout *layout,
                                 const struct image_oci_wanted *wanted,
                                 struct image_oci_descriptor *ret_manifest,
                                 struct kelpie_error *err) {
    struct image_oci_descriptor chosen = {.is_index = true};
    struct image_oci_wanted now = *wanted;
    ASSERT(ret_manifest);
    for (uint32_t depth = 0; chosen.is_index; depth++) {
        AUTO_MEM char *data = NULL;
        size_t size = 0;
        if (depth > IMAGE_OCI_INDEX_DEPTH_MAX) {
            return error_set_field(err, KELPIE_BAD_CONFIG, "path",
                                   "the image's index leads to an index more than %u times",
                                   IMAGE_OCI_INDEX_DEPTH_MAX);
        }
        if (depth == 0) {
            TRY(load_named(layout, "index.json", &data, &size, err));
        } else {
            TRY(load_described(layout, &chosen, &data, &size, err));
            now.reference = NULL; /* Only the first has names. */
            now.only = false;
        }
        ASSERT(data);
        TRY(image_oci_choose(data, size, &now, &chosen, err));
    }
    *ret_manifest = chosen;
    return KELPIE_OK;
}

void image_layout_free(struct image_layout_image *image) {
    if (image) {
        image_oci_config_deinit(&image->config);
        free(image);
    }
}

static void image_cleanup(struct image_layout_image **image) {
    ASSERT(image);
    image_layout_free(*image);
}

static enum kelpie_status check_image(const struct image_layout_image *image,
                                      const char *architecture, struct kelpie_error *err) {
    ASSERT(image->config.document);
    ASSERT(architecture);
    if (strcmp(image_oci_architecture(image->config.architecture), architecture) != 0) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "architecture",
                               "the image is for %.32s, not for %s", image->config.architecture,
                               architecture);
    }
    if (image->config.layer_count != image->manifest.layer_count) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "path",
                               "the image's config is of %zu layers, its manifest of %zu",
                               image->config.layer_count, image->manifest.layer_count);
    }
    return KELPIE_OK;
}

enum kelpie_status image_layout_read(const struct image_layout *layout, const char *reference,
                                     const char *architecture,
                                     struct image_layout_image **ret_image,
                                     struct kelpie_error *err) {
    const struct image_oci_wanted wanted = {reference, architecture, true};
    struct image_oci_descriptor chosen;
    AUTO_MEM char *data = NULL;
    AUTO_MEM char *config = NULL;
    size_t size = 0;
    ASSERT(ret_image);
    __attribute__((cleanup(image_cleanup))) struct image_layout_image *image =
        host_allocate(layout->host, sizeof(*image), err);
    if (!image) {
        return KELPIE_NO_MEMORY;
    }
    TRY(load_named(layout, "oci-layout", &data, &size, err));
    TRY(image_oci_layout_parse(data, size, err));
    TRY(choose(layout, &wanted, &chosen, err));
    ASSERT(!chosen.is_index);
    free(TAKE(data));
    TRY(load_described(layout, &chosen, &data, &size, err));
    TRY(image_oci_manifest_parse(data, size, &image->manifest, err));
    TRY(load_described(layout, &image->manifest.config, &config, &size, err));
    TRY(image_oci_config_parse(config, size, &image->config, err));
    TRY(check_image(image, architecture, err));
    *ret_image = TAKE(image);
    return KELPIE_OK;
}
