/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "oci_layout.h"

#include <archive.h>
#include <archive_entry.h>
#include <assert.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define TAR_SIZE_MAX (8u << 20)
#define PATH_SIZE 512

void oci_digest(const void *data, size_t size, char ret_digest[OCI_DIGEST_SIZE]) {
    unsigned char bytes[EVP_MAX_MD_SIZE];
    unsigned count = 0;
    assert(EVP_Digest(data, size, bytes, &count, EVP_sha256(), NULL) == 1);
    for (unsigned i = 0; i < 32; i++) {
        snprintf(ret_digest + 2 * i, 3, "%02x", bytes[i]);
    }
}

static void write_entry(struct archive *tar, const struct oci_entry *from) {
    struct archive_entry *entry = archive_entry_new();
    size_t size = from->data && from->size == 0 ? strlen(from->data) : from->size;
    archive_entry_set_pathname(entry, from->path);
    archive_entry_set_filetype(entry, from->type ? from->type : S_IFREG);
    archive_entry_set_perm(entry, from->mode ? from->mode : 0755);
    archive_entry_set_uid(entry, from->uid);
    archive_entry_set_gid(entry, from->gid);
    archive_entry_set_mtime(entry, from->modified, 0);
    archive_entry_set_rdevmajor(entry, from->device_major);
    archive_entry_set_rdevminor(entry, from->device_minor);
    archive_entry_set_size(entry, (la_int64_t)size);
    if (from->target) {
        archive_entry_set_symlink(entry, from->target);
    }
    if (from->link) {
        archive_entry_set_hardlink(entry, from->link);
    }
    if (from->attribute) {
        archive_entry_xattr_add_entry(entry, from->attribute,
                                      from->attribute_value ? from->attribute_value : "value\0\1",
                                      from->attribute_value ? from->attribute_size : 8);
    }
    assert(archive_write_header(tar, entry) >= ARCHIVE_WARN); /* of names that are no text */
    if (size > 0 && from->data) {
        assert(archive_write_data(tar, from->data, size) == (la_ssize_t)size);
    }
    archive_entry_free(entry);
}

static void make_tar(const struct oci_entry *entries, size_t count,
                     enum oci_compression compression, struct oci_layer *layer) {
    struct archive *tar = archive_write_new();
    layer->data = malloc(TAR_SIZE_MAX);
    assert(tar && layer->data);
    assert(archive_write_set_format_pax_restricted(tar) == ARCHIVE_OK);
    int result = ARCHIVE_OK;
    switch (compression) {
    case OCI_GZIP:
        result = archive_write_add_filter_gzip(tar);
        break;
    case OCI_ZSTD:
        result = archive_write_add_filter_zstd(tar);
        break;
    case OCI_XZ:
        result = archive_write_add_filter_xz(tar);
        break;
    case OCI_BZIP2:
        result = archive_write_add_filter_bzip2(tar);
        break;
    case OCI_PLAIN:
    default:
        break;
    }
    assert(result == ARCHIVE_OK);
    assert(archive_write_set_bytes_in_last_block(tar, 1) == ARCHIVE_OK);
    assert(archive_write_open_memory(tar, layer->data, TAR_SIZE_MAX, &layer->size) == ARCHIVE_OK);
    for (size_t i = 0; i < count; i++) {
        write_entry(tar, &entries[i]);
    }
    assert(archive_write_close(tar) == ARCHIVE_OK);
    archive_write_free(tar);
}

struct oci_layer oci_layer_make(const struct oci_entry *entries, size_t count,
                                enum oci_compression compression) {
    static const char *const types[] = {
        [OCI_PLAIN] = "application/vnd.oci.image.layer.v1.tar",
        [OCI_GZIP] = "application/vnd.oci.image.layer.v1.tar+gzip",
        [OCI_ZSTD] = "application/vnd.oci.image.layer.v1.tar+zstd",
        [OCI_XZ] = "application/vnd.oci.image.layer.v1.tar+xz",
        [OCI_BZIP2] = "application/vnd.oci.image.layer.v1.tar+bzip2",
    };
    struct oci_layer plain = {0};
    struct oci_layer layer = {.media_type = types[compression]};
    make_tar(entries, count, OCI_PLAIN, &plain);
    make_tar(entries, count, compression, &layer);
    oci_digest(plain.data, plain.size, layer.unpacked);
    oci_digest(layer.data, layer.size, layer.digest);
    free(plain.data);
    return layer;
}

void oci_layer_free(struct oci_layer *layer) {
    free(layer->data);
    layer->data = NULL;
}

void oci_write_file(const char *folder, const char *name, const void *data, size_t size) {
    char path[PATH_SIZE];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0644);
    assert(fd >= 0);
    for (size_t done = 0; done < size;) {
        ssize_t count = write(fd, (const char *)data + done, size - done);
        assert(count > 0);
        done += (size_t)count;
    }
    close(fd);
}

void oci_blob(const char *folder, const char *media_type, const void *data, size_t size,
              char ret_descriptor[OCI_TEXT_SIZE]) {
    char digest[OCI_DIGEST_SIZE];
    char name[PATH_SIZE];
    oci_digest(data, size, digest);
    snprintf(name, sizeof(name), "blobs/sha256/%s", digest);
    oci_write_file(folder, name, data, size);
    snprintf(ret_descriptor, OCI_TEXT_SIZE,
             "\"mediaType\": \"%s\", \"digest\": \"sha256:%s\", \"size\": %zu", media_type, digest,
             size);
}

void oci_layout_begin(const char *folder) {
    static const char layout[] = "{\"imageLayoutVersion\": \"1.0.0\"}";
    char path[PATH_SIZE];
    snprintf(path, sizeof(path), "%s/blobs", folder);
    assert(mkdir(path, 0755) == 0);
    snprintf(path, sizeof(path), "%s/blobs/sha256", folder);
    assert(mkdir(path, 0755) == 0);
    oci_write_file(folder, "oci-layout", layout, strlen(layout));
}

const char *oci_this_architecture(void) {
#if defined(__x86_64__)
    return "amd64";
#else
    return "arm64";
#endif
}

void oci_layout_image(const char *folder, const struct oci_image *image,
                      char ret_descriptor[OCI_TEXT_SIZE]) {
    static char text[65536];
    static char layers[32768];
    static char ids[16384];
    char descriptor[OCI_TEXT_SIZE];
    char config[OCI_TEXT_SIZE];
    size_t layers_size = 0;
    size_t ids_size = 0;
    layers[0] = '\0';
    ids[0] = '\0';
    for (size_t i = 0; i < image->layer_count; i++) {
        const struct oci_layer *layer = &image->layers[i];
        oci_blob(folder, layer->media_type, layer->data, layer->size, descriptor);
        layers_size += (size_t)snprintf(layers + layers_size, sizeof(layers) - layers_size,
                                        "%s{%s}", i ? ", " : "", descriptor);
        ids_size += (size_t)snprintf(ids + ids_size, sizeof(ids) - ids_size, "%s\"sha256:%s\"",
                                     i ? ", " : "", layer->unpacked);
    }
    snprintf(text, sizeof(text),
             "{\"architecture\": \"%s\", \"os\": \"linux\", \"config\": %s, "
             "\"rootfs\": {\"type\": \"layers\", \"diff_ids\": [%s]}}",
             image->architecture ? image->architecture : oci_this_architecture(),
             image->config ? image->config : "{}", ids);
    oci_blob(folder, "application/vnd.oci.image.config.v1+json", text, strlen(text), config);
    snprintf(text, sizeof(text), "{\"schemaVersion\": 2, \"config\": {%s}, \"layers\": [%s]}",
             config, layers);
    oci_blob(folder, "application/vnd.oci.image.manifest.v1+json", text, strlen(text), descriptor);
    snprintf(ret_descriptor, OCI_TEXT_SIZE, "{%.2000s%.2000s}", descriptor,
             image->extra ? image->extra : "");
}

void oci_layout_index(const char *folder, const char *descriptors) {
    static char text[65536];
    snprintf(text, sizeof(text), "{\"schemaVersion\": 2, \"manifests\": [%s]}", descriptors);
    oci_write_file(folder, "index.json", text, strlen(text));
}
