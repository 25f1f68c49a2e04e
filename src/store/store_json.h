/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * store_json.h: structures of kelpie.h and kelpie_store.h as JSON and back, for records and for what an owner and its
 * handles say to each other. Members have the names that they have in the headers; what is NULL, zero or empty is left out.
 *
 * Encoders hand out a new object; a text that is no UTF-8 is {"hex": "…"}. Decoders take what comes from outside:
 * BAD_CONFIG names the member. They check types and ranges, not sense: what they hand out is given to the library, which does.
 */
#ifndef KELPIE_STORE_STORE_JSON_H
#define KELPIE_STORE_STORE_JSON_H

#include <jansson.h>

#include "base/error.h"
#include "host/host.h"
#include "kelpie_store.h"
#include "store/store_limits.h"

static inline void store_json_cleanup(json_t **value) {
    json_decref(*value); /* NULL is fine */
}

/* Lets go of the value when the scope ends. */
#define AUTO_STORE_JSON __attribute__((cleanup(store_json_cleanup)))

/* Parses an object that comes from outside: at most size_max bytes, STORE_JSON_DEPTH_MAX levels deep, no key twice.
 * BAD_CONFIG: the message says where. */
KELPIE_CHECKED enum kelpie_status store_json_parse(const char *text, size_t size, size_t size_max,
                                                   json_t **ret_object, struct kelpie_error *err);

/* One line without the newline; *ret_text is for free(). */
KELPIE_CHECKED enum kelpie_status store_json_format(const json_t *object, char **ret_text,
                                                    struct kelpie_error *err);

/* A config, and what its pointers point to. */
struct store_config {
    struct kelpie_config config;
    struct kelpie_disk disks[KELPIE_DISK_COUNT_MAX];
    struct kelpie_network network;
    struct kelpie_forward forwards[KELPIE_FORWARD_COUNT_MAX];
    struct kelpie_mock_config mock;
    struct kelpie_owner owner;
    struct kelpie_share shares[KELPIE_SHARE_COUNT_MAX];
    const char **env;
    const char **labels;
    json_t *json; /* has the strings */
};

/* Without host and secrets. */
KELPIE_CHECKED enum kelpie_status store_json_config(const struct kelpie_config *config,
                                                    json_t **ret_json, struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status store_json_to_config(struct host *host, json_t *json,
                                                       struct store_config **ret_config,
                                                       struct kelpie_error *err);
void store_config_destroy(struct store_config *config); /* NULL is allowed */

/* A command, and what its pointers point to; without stdin_data. */
struct store_command {
    struct kelpie_command command;
    struct kelpie_rlimit rlimits[KELPIE_RLIMIT_COUNT_MAX];
    const char **argv;
    const char **env;
    json_t *json;
};

KELPIE_CHECKED enum kelpie_status store_json_command(const struct kelpie_command *command,
                                                     json_t **ret_json, struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status store_json_to_command(struct host *host, json_t *json,
                                                        struct store_command **ret_command,
                                                        struct kelpie_error *err);
void store_command_destroy(struct store_command *command); /* NULL is allowed */

/* Structures without pointers, or whose texts lie in the JSON afterwards. */
enum store_json_type {
    STORE_JSON_INFO = 0,         /* struct kelpie_vm_info */
    STORE_JSON_SNAPSHOT,         /* struct kelpie_snapshot */
    STORE_JSON_REPORT,           /* struct kelpie_restore_report */
    STORE_JSON_EXIT,             /* struct kelpie_exit */
    STORE_JSON_STATS,            /* struct kelpie_stats */
    STORE_JSON_ERROR,            /* struct kelpie_error */
    STORE_JSON_SNAPSHOT_OPTIONS, /* struct kelpie_snapshot_options */
    STORE_JSON_RESTORE_OPTIONS,  /* struct kelpie_restore_options */
    STORE_JSON_FORK_OPTIONS,     /* struct kelpie_fork_options, without config */
    STORE_JSON_TYPE_COUNT
};

KELPIE_CHECKED enum kelpie_status store_json_of(enum store_json_type type, const void *value,
                                                json_t **ret_json, struct kelpie_error *err);

/* Fills what the JSON has; the rest stays as it is. */
KELPIE_CHECKED enum kelpie_status store_json_to(enum store_json_type type, const json_t *json,
                                                void *ret_value, struct kelpie_error *err);

#endif
