/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * store_secrets.h: a config's secrets as JSON, for the message in which a maker tells an owner what to make, over their own
 * socket, and for nothing else. They are apart from store_json_config(), whose result goes into records: what is encoded here must
 * never be written to a disk, a log or another process's arguments.
 *
 *     [{"name": "token", "data": "c2VjcmV0"}, …]   data: base64 (RFC 4648, section 4)
 */
#ifndef KELPIE_STORE_STORE_SECRETS_H
#define KELPIE_STORE_STORE_SECRETS_H

#include <jansson.h>

#include "base/error.h"
#include "host/host.h"
#include "kelpie_store.h"

struct store_secrets {
    struct kelpie_secret secrets[KELPIE_SECRET_COUNT_MAX];
    char names[KELPIE_SECRET_COUNT_MAX][KELPIE_NAME_SIZE_MAX + 1];
    size_t count;
};

/* The secrets of a config that was checked; an empty array when it has none. To be forgotten by store_secrets_forget(). */
KELPIE_CHECKED enum kelpie_status store_secrets_encode(const struct kelpie_config *config,
                                                       json_t **ret_json, struct kelpie_error *err);

/* Overwrites the texts in it and gives it up. NULL is allowed. */
void store_secrets_forget(json_t *json);

/* BAD_CONFIG: it is no such list (field "secrets"). What comes out is given to the library, which checks names and sizes. */
KELPIE_CHECKED enum kelpie_status store_secrets_decode(struct host *host, const json_t *json,
                                                       struct store_secrets **ret_secrets,
                                                       struct kelpie_error *err);

/* Overwrites them and frees all of it. NULL is allowed. */
void store_secrets_destroy(struct store_secrets *secrets);

#endif
