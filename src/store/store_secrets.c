/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "store/store_secrets.h"

#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

#define TEXT_SIZE_MAX (((KELPIE_SECRET_BYTES_MAX + 2) / 3) * 4)

/* ---- Out -------------------------------------------------------------------------------------- */

static json_t *encode_one(const struct kelpie_secret *secret) {
    ASSERT(secret->name);
    ASSERT(secret->size <= KELPIE_SECRET_BYTES_MAX);
    char *text = malloc(TEXT_SIZE_MAX + 1);
    if (!text) {
        return NULL;
    }
    int size = EVP_EncodeBlock((unsigned char *)text, secret->data, (int)secret->size);
    ASSERT(size >= 0 && size <= TEXT_SIZE_MAX);
    json_t *json = json_pack("{s:s, s:s%}", "name", secret->name, "data", text, (size_t)size);
    explicit_bzero(text, (size_t)size);
    free(text);
    return json;
}

enum kelpie_status store_secrets_encode(const struct kelpie_config *config, json_t **ret_json,
                                        struct kelpie_error *err) {
    json_t *list = json_array();
    bool whole = list != NULL;
    ASSERT(config->secret_count <= KELPIE_SECRET_COUNT_MAX);
    ASSERT(ret_json);
    for (size_t i = 0; i < config->secret_count && whole; i++) {
        whole = json_array_append_new(list, encode_one(&config->secrets[i])) == 0;
    }
    if (!whole) {
        store_secrets_forget(list);
        return error_set(err, KELPIE_NO_MEMORY, "cannot encode the secrets");
    }
    *ret_json = list;
    return KELPIE_OK;
}

/* A string's bytes are jansson's; they are as many as it says, and nobody reads them any more. */
static void wipe(json_t *json) {
    const char *text = json_string_value(json_object_get(json, "data"));
    ASSERT(!text || json_object_get(json, "data"));
    if (text) {
        explicit_bzero((void *)(uintptr_t)text, json_string_length(json_object_get(json, "data")));
    }
    ASSERT(!text || text[0] == '\0');
}

void store_secrets_forget(json_t *json) {
    size_t index = 0;
    json_t *one = NULL;
    ASSERT(!json || json->refcount > 0);
    json_array_foreach(json, index, one) {
        wipe(one);
    }
    ASSERT(!json || index == json_array_size(json));
    json_decref(json);
}

/* ---- In --------------------------------------------------------------------------------------- */

static enum kelpie_status refuse(struct kelpie_error *err) {
    return error_set_field(err, KELPIE_BAD_CONFIG, "secrets", "secrets are not what they must be");
}

/* Base64 without blanks, of which the decoder would take some. Returns the bytes, or -1. */
static int decode_text(const char *text, size_t size, unsigned char *bytes) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    ASSERT(size <= TEXT_SIZE_MAX);
    ASSERT(bytes);
    size_t body = strspn(text, digits);
    size_t padding = size - body;
    if (size % 4 != 0 || padding > 2 || strspn(text + body, "=") != padding) {
        return -1;
    }
    int count = size > 0 ? EVP_DecodeBlock(bytes, (const unsigned char *)text, (int)size) : 0;
    return count < 0 ? -1 : count - (int)padding;
}

static enum kelpie_status decode_one(struct host *host, const json_t *json,
                                     struct store_secrets *secrets, struct kelpie_error *err) {
    const json_t *data = json_object_get(json, "data");
    const char *name = json_string_value(json_object_get(json, "name"));
    const char *text = json_string_value(data);
    struct kelpie_secret *secret = &secrets->secrets[secrets->count];
    ASSERT(secrets->count < KELPIE_SECRET_COUNT_MAX);
    if (!name || !text || strlen(name) > KELPIE_NAME_SIZE_MAX ||
        strlen(text) != json_string_length(data) || json_string_length(data) > TEXT_SIZE_MAX) {
        return refuse(err);
    }
    unsigned char *bytes = host_allocate(host, TEXT_SIZE_MAX, err);
    if (!bytes) {
        return KELPIE_NO_MEMORY;
    }
    int size = decode_text(text, json_string_length(data), bytes);
    secret->data = bytes; /* also when it is none: for destroy */
    secret->size = size > 0 ? (size_t)size : 0;
    memcpy(secrets->names[secrets->count], name, strlen(name) + 1);
    secret->name = secrets->names[secrets->count];
    secrets->count++;
    ASSERT(secrets->count <= KELPIE_SECRET_COUNT_MAX);
    return size < 0 ? refuse(err) : KELPIE_OK;
}

enum kelpie_status store_secrets_decode(struct host *host, const json_t *json,
                                        struct store_secrets **ret_secrets,
                                        struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(ret_secrets);
    if (!json_is_array(json) || json_array_size(json) > KELPIE_SECRET_COUNT_MAX) {
        return refuse(err);
    }
    struct store_secrets *secrets = host_allocate(host, sizeof(*secrets), err);
    if (!secrets) {
        return KELPIE_NO_MEMORY;
    }
    enum kelpie_status status = KELPIE_OK;
    for (size_t i = 0; i < json_array_size(json) && status == KELPIE_OK; i++) {
        status = decode_one(host, json_array_get(json, i), secrets, err);
    }
    if (status != KELPIE_OK) {
        store_secrets_destroy(secrets);
        return status;
    }
    *ret_secrets = secrets;
    return KELPIE_OK;
}

void store_secrets_destroy(struct store_secrets *secrets) {
    if (!secrets) {
        return;
    }
    ASSERT(secrets->count <= KELPIE_SECRET_COUNT_MAX);
    for (size_t i = 0; i < secrets->count; i++) {
        void *data = (void *)(uintptr_t)secrets->secrets[i].data;
        ASSERT(data);
        explicit_bzero(data, TEXT_SIZE_MAX);
        free(data);
    }
    free(secrets);
}
