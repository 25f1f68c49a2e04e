/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "image/image_internal.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"

#define READ_SIZE 262144
#define SHA256_SIZE 32

struct image_hasher {
    EVP_MD_CTX *context;
    bool finished;
};

static enum kelpie_status hasher_failed(struct kelpie_error *err) {
    return error_set(err, KELPIE_INTERNAL, "libcrypto could not compute a SHA-256");
}

enum kelpie_status image_hasher_create(struct host *host, struct image_hasher **ret_hasher,
                                       struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(ret_hasher);
    struct image_hasher *hasher = host_allocate(host, sizeof(*hasher), err);
    if (!hasher) {
        return KELPIE_NO_MEMORY;
    }
    hasher->context = EVP_MD_CTX_new();
    if (!hasher->context || EVP_DigestInit_ex(hasher->context, EVP_sha256(), NULL) != 1) {
        image_hasher_destroy(hasher);
        return hasher_failed(err);
    }
    *ret_hasher = hasher;
    return KELPIE_OK;
}

void image_hasher_destroy(struct image_hasher *hasher) {
    if (hasher) {
        EVP_MD_CTX_free(hasher->context);
        free(hasher);
    }
}

enum kelpie_status image_hasher_update(struct image_hasher *hasher, const void *data, size_t size,
                                       struct kelpie_error *err) {
    ASSERT(!hasher->finished);
    ASSERT(data || size == 0);
    if (EVP_DigestUpdate(hasher->context, data, size) != 1) {
        return hasher_failed(err);
    }
    return KELPIE_OK;
}

static void digest_text(const unsigned char *bytes, char ret_digest[IMAGE_DIGEST_SIZE]) {
    ASSERT(bytes);
    for (size_t i = 0; i < SHA256_SIZE; i++) {
        snprintf(ret_digest + 2 * i, IMAGE_DIGEST_SIZE - 2 * i, "%02x", bytes[i]);
    }
    ASSERT(ret_digest[IMAGE_DIGEST_SIZE - 1] == '\0');
}

enum kelpie_status image_hasher_finish(struct image_hasher *hasher,
                                       char ret_digest[IMAGE_DIGEST_SIZE],
                                       struct kelpie_error *err) {
    ASSERT(!hasher->finished);
    ASSERT(ret_digest);
    unsigned char bytes[EVP_MAX_MD_SIZE];
    unsigned size = 0;
    hasher->finished = true;
    if (EVP_DigestFinal_ex(hasher->context, bytes, &size) != 1) {
        return hasher_failed(err);
    }
    ASSERT(size == SHA256_SIZE);
    digest_text(bytes, ret_digest);
    return KELPIE_OK;
}

static void hasher_cleanup(struct image_hasher **hasher) {
    ASSERT(hasher);
    image_hasher_destroy(*hasher);
}
#define AUTO_HASHER __attribute__((cleanup(hasher_cleanup)))

enum kelpie_status image_digest_bytes(const void *data, size_t size,
                                      char ret_digest[IMAGE_DIGEST_SIZE],
                                      struct kelpie_error *err) {
    ASSERT(data || size == 0);
    ASSERT(ret_digest);
    unsigned char bytes[EVP_MAX_MD_SIZE];
    unsigned count = 0;
    if (EVP_Digest(data, size, bytes, &count, EVP_sha256(), NULL) != 1) {
        return hasher_failed(err);
    }
    ASSERT(count == SHA256_SIZE);
    digest_text(bytes, ret_digest);
    return KELPIE_OK;
}

enum kelpie_status image_digest_file(struct host *host, int fd, uint64_t size_max,
                                     char ret_digest[IMAGE_DIGEST_SIZE], struct kelpie_error *err) {
    ASSERT(fd != HOST_FD_NONE);
    ASSERT(host);
    ASSERT(ret_digest);
    AUTO_HASHER struct image_hasher *hasher = NULL;
    AUTO_MEM uint8_t *buffer = host_allocate(host, READ_SIZE, err);
    if (!buffer) {
        return KELPIE_NO_MEMORY;
    }
    TRY(image_hasher_create(host, &hasher, err));
    for (uint64_t offset = 0; offset <= size_max;) {
        size_t size = 0;
        TRY(host_file_read_at(host, fd, buffer, READ_SIZE, offset, &size, err));
        if (size == 0) {
            return image_hasher_finish(hasher, ret_digest, err);
        }
        TRY(image_hasher_update(hasher, buffer, size, err));
        offset += size;
    }
    return error_set(err, KELPIE_NO_SPACE, "a file is larger than %llu bytes",
                     (unsigned long long)size_max);
}
