/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * oci.h: the documents of an OCI image (image-spec 1.0 and 1.1: image-index.md, manifest.md, config.md, descriptor.md), and Docker's
 * of the same form. Pure: a text in, what it says out. All of it is untrusted; a document that is wrong is BAD_CONFIG, field "path",
 * and names the member.
 *
 * Digests here are the 64 digits of a SHA-256: nothing else is accepted, so that none can be a path (hazard D4).
 */
#ifndef KELPIE_IMAGE_OCI_H
#define KELPIE_IMAGE_OCI_H

#include <jansson.h>

#include "image/image_internal.h"
#include "image/stream.h"

struct image_oci_descriptor {
    char digest[IMAGE_DIGEST_SIZE];
    uint64_t size;
    bool is_index;                      /* a manifest's descriptor: it leads to another index */
    enum image_compression compression; /* of a layer */
};

/* What is looked for in an index. */
struct image_oci_wanted {
    const char *reference;    /* NULL: any */
    const char *architecture; /* in OCI's words: "amd64" */
    bool only;                /* more than one that fits is an error; else the first is meant */
};

/* Chooses from an index. NOT_FOUND: none has that name, or BAD_CONFIG, field "architecture": none is for that. */
KELPIE_CHECKED enum kelpie_status image_oci_choose(const void *data, size_t size,
                                                   const struct image_oci_wanted *wanted,
                                                   struct image_oci_descriptor *ret_chosen,
                                                   struct kelpie_error *err);

struct image_oci_manifest {
    struct image_oci_descriptor config;
    size_t layer_count;
    struct image_oci_descriptor layers[IMAGE_OCI_LAYER_COUNT_MAX]; /* the lowest first */
};
KELPIE_CHECKED enum kelpie_status image_oci_manifest_parse(const void *data, size_t size,
                                                           struct image_oci_manifest *ret_manifest,
                                                           struct kelpie_error *err);

/* What an image's maker wants run. Texts are the document's; lists have strings only. */
struct image_oci_config {
    json_t *document; /* for json_decref() */
    const char *architecture;
    const char *user;         /* or empty */
    const char *working_dir;  /* absolute, or empty */
    const json_t *entrypoint; /* lists, or NULL */
    const json_t *command;
    const json_t *env;
    size_t layer_count;
    char unpacked[IMAGE_OCI_LAYER_COUNT_MAX]
                 [IMAGE_DIGEST_SIZE]; /* digests of the layers (diff_ids) */
};
KELPIE_CHECKED enum kelpie_status image_oci_config_parse(const void *data, size_t size,
                                                         struct image_oci_config *ret_config,
                                                         struct kelpie_error *err);
void image_oci_config_deinit(struct image_oci_config *config);

/* The file oci-layout. */
KELPIE_CHECKED enum kelpie_status image_oci_layout_parse(const void *data, size_t size,
                                                         struct kelpie_error *err);

/* OCI's word for an architecture ("amd64" for "x86_64"), and for this machine's (NULL); others are as they are. */
const char *image_oci_architecture(const char *name);

#endif
