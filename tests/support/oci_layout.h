/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Tar archives and OCI image layouts, made on the spot in a folder of the test's own.
 *
 *     struct oci_layer layer = oci_layer_make(entries, count, OCI_GZIP);
 *     oci_layout_begin(folder);
 *     oci_layout_image(folder, &(struct oci_image){.layers = &layer, .layer_count = 1, .config = "{}"}, descriptor);
 *     oci_layout_index(folder, descriptor);
 */
#ifndef KELPIE_TESTS_SUPPORT_OCI_LAYOUT_H
#define KELPIE_TESTS_SUPPORT_OCI_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

#define OCI_DIGEST_SIZE 65
#define OCI_TEXT_SIZE 4096

enum oci_compression { OCI_PLAIN = 0, OCI_GZIP, OCI_ZSTD, OCI_XZ, OCI_BZIP2 };

/* type: S_IFMT; 0: a regular file. */
struct oci_entry {
    const char *path;
    unsigned type;
    unsigned mode; /* 0: 0755 */
    const char *data;
    size_t size;        /* 0: strlen(data) */
    const char *target; /* of a symbolic link */
    const char *link;   /* a hard link to this */
    long long uid, gid;
    unsigned device_major, device_minor;
    const char *attribute;       /* its name */
    const char *attribute_value; /* NULL: "value\0\1", eight bytes with the zero */
    size_t attribute_size;
    long long modified;
};

/* A tar archive and its digests; freed by oci_layer_free(). */
struct oci_layer {
    char *data;
    size_t size;
    char digest[OCI_DIGEST_SIZE];
    char unpacked[OCI_DIGEST_SIZE];
    const char *media_type;
};

struct oci_layer oci_layer_make(const struct oci_entry *entries, size_t count,
                                enum oci_compression compression);
void oci_layer_free(struct oci_layer *layer);

void oci_digest(const void *data, size_t size, char ret_digest[OCI_DIGEST_SIZE]);
void oci_write_file(const char *folder, const char *name, const void *data, size_t size);

/* blobs/sha256/<digest>, and a descriptor of it. */
void oci_blob(const char *folder, const char *media_type, const void *data, size_t size,
              char ret_descriptor[OCI_TEXT_SIZE]);

/* blobs/, oci-layout. */
void oci_layout_begin(const char *folder);

struct oci_image {
    struct oci_layer *layers;
    size_t layer_count;
    const char *config;       /* the member "config"; NULL: {} */
    const char *architecture; /* NULL: this machine's */
    const char *extra; /* more members of its descriptor (", \"annotations\": …"); or NULL */
};

/* Writes all its blobs; the descriptor is of its manifest. */
void oci_layout_image(const char *folder, const struct oci_image *image,
                      char ret_descriptor[OCI_TEXT_SIZE]);

/* index.json with these descriptors, comma-separated. */
void oci_layout_index(const char *folder, const char *descriptors);

const char *oci_this_architecture(void);

#endif
