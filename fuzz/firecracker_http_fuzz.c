/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Responses of Firecracker: any bytes, in any pieces, are refused or make responses; how they are cut changes nothing. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "backend/firecracker/firecracker_http.h"
#include "base/assert.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* How many responses there were, and whether it ended badly. */
static size_t parse(struct firecracker_http *http, const char *bytes, size_t size, size_t piece,
                    bool *ret_bad) {
    size_t count = 0;
    size_t used = 0;
    firecracker_http_init(http);
    *ret_bad = false;
    while (used < size && !*ret_bad) {
        size_t wanted = size - used < piece ? size - used : piece;
        size_t taken = 0;
        enum firecracker_http_result result =
            firecracker_http_feed(http, bytes + used, wanted, &taken);
        ASSERT(taken <= wanted);
        ASSERT(taken > 0 || result == FIRECRACKER_HTTP_BAD);
        used += taken;
        if (result == FIRECRACKER_HTTP_RESPONSE) {
            ASSERT(http->status >= 200 && http->status <= 599);
            ASSERT(http->body[http->body_size] == '\0');
            count++;
        }
        *ret_bad = result == FIRECRACKER_HTTP_BAD;
        ASSERT(!*ret_bad || http->reason);
    }
    return count;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct firecracker_http *http = malloc(sizeof(*http));
    bool bad = false;
    bool bad_too = false;
    if (!http || size < 1) {
        free(http);
        return 0;
    }
    size_t whole = parse(http, (const char *)data + 1, size - 1, size, &bad);
    size_t pieces = parse(http, (const char *)data + 1, size - 1, 1 + data[0] % 17u, &bad_too);
    ASSERT(whole == pieces);
    ASSERT(bad == bad_too);
    free(http);
    return 0;
}
