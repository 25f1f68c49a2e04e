/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * manifest.json as anybody may write it: what decodes must encode to a text that decodes to the same. The
 * checksum is put right first, so that the fuzzer gets past it to the members.
 */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "snapshot/manifest_json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The input with a right checksum, or NULL when it is no JSON object. */
static char *with_checksum(const uint8_t *data, size_t size) {
    char checksum[SNAPSHOT_CHECKSUM_SIZE];
    json_t *root = json_loadb((const char *)data, size, JSON_REJECT_DUPLICATES, NULL);
    char *text = NULL;
    if (json_is_object(root) && manifest_checksum(root, checksum) &&
        json_object_set_new(root, MANIFEST_CHECKSUM_KEY, json_string(checksum)) == 0) {
        text = json_dumps(root, 0);
    }
    json_decref(root);
    return text;
}

static void check(struct host *host, const char *text, size_t size) {
    struct snapshot_manifest *manifest = NULL;
    struct snapshot_manifest *decoded = NULL;
    char *encoded = NULL;
    char *again = NULL;
    if (snapshot_manifest_decode(host, text, size, &manifest, NULL) != KELPIE_OK) {
        return;
    }
    enum kelpie_status status = snapshot_manifest_encode(manifest, &encoded, NULL);
    ASSERT(status == KELPIE_OK);
    status = snapshot_manifest_decode(host, encoded, strlen(encoded), &decoded, NULL);
    ASSERT(status == KELPIE_OK);
    status = snapshot_manifest_encode(decoded, &again, NULL);
    ASSERT(status == KELPIE_OK);
    ASSERT(strcmp(encoded, again) == 0);
    free(encoded);
    free(again);
    snapshot_manifest_destroy(manifest);
    snapshot_manifest_destroy(decoded);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct host *host = NULL;
    if (host_linux_create(&host, NULL) != KELPIE_OK) {
        return 0;
    }
    check(host, (const char *)data, size);
    char *text = with_checksum(data, size);
    if (text) {
        check(host, text, strlen(text));
        free(text);
    }
    host_destroy(host);
    return 0;
}
