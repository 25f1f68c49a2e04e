/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* manifest_json.h: what the encoder and the decoder of manifest.json agree on. */
#ifndef KELPIE_SNAPSHOT_MANIFEST_JSON_H
#define KELPIE_SNAPSHOT_MANIFEST_JSON_H

#include <jansson.h>

#include "snapshot/snapshot_internal.h"

/* Members of the top level whose names begin so are ignored. */
#define MANIFEST_EXTENSION_PREFIX "x-"
#define MANIFEST_CHECKSUM_KEY "checksum"

extern const char *const manifest_kind_names[KELPIE_SNAPSHOT_KIND_COUNT];

/* The XXH3-128 of the object without its member "checksum", in its canonical form: sorted keys, no
 * white space. False: no memory. */
bool manifest_checksum(json_t *root, char ret_checksum[SNAPSHOT_CHECKSUM_SIZE]);

static inline void manifest_json_cleanup(json_t **value) {
    json_decref(*value);
}
#define AUTO_JSON __attribute__((cleanup(manifest_json_cleanup)))

#endif
