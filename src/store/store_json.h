/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * store_json.h: structures of kelpie.h as JSON and back, for records and for what owner and handles say to each other. Fields
 * have the names that they have in the headers; what is NULL, zero or default is left out. Decoders take what comes from outside:
 * BAD_CONFIG names the field. What a decoder hands out is one block of memory, for free().
 */
#ifndef KELPIE_STORE_STORE_JSON_H
#define KELPIE_STORE_STORE_JSON_H

#include <jansson.h>

#include "base/error.h"
#include "host/host.h"
#include "kelpie_store.h"

/* NULL: no memory. Secrets are left out, as is host. */
json_t *store_json_config(const struct kelpie_config *config);
json_t *store_json_command(const struct kelpie_command *command);
json_t *store_json_info(const struct kelpie_vm_info *info);
json_t *store_json_snapshot(const struct kelpie_snapshot *snapshot);
json_t *store_json_report(const struct kelpie_restore_report *report);
json_t *store_json_exit(const struct kelpie_exit *exit);
json_t *store_json_stats(const struct kelpie_stats *stats);
json_t *store_json_error(const struct kelpie_error *err); /* all of it; status OK too */
json_t *store_json_snapshot_options(const struct kelpie_snapshot_options *options);
json_t *store_json_restore_options(const struct kelpie_restore_options *options);

KELPIE_CHECKED enum kelpie_status store_json_to_config(struct host *host, const json_t *json,
                                                       struct kelpie_config **ret_config,
                                                       struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status store_json_to_command(struct host *host, const json_t *json,
                                                        struct kelpie_command **ret_command,
                                                        struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status
store_json_to_info(const json_t *json, struct kelpie_vm_info *ret_info, struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status store_json_to_snapshot(const json_t *json,
                                                         struct kelpie_snapshot *ret_snapshot,
                                                         struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status store_json_to_report(const json_t *json,
                                                       struct kelpie_restore_report *ret_report,
                                                       struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status
store_json_to_exit(const json_t *json, struct kelpie_exit *ret_exit, struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status
store_json_to_stats(const json_t *json, struct kelpie_stats *ret_stats, struct kelpie_error *err);

/* The error that the other side had: *ret_error is filled. BAD_CONFIG when that is none. */
KELPIE_CHECKED enum kelpie_status
store_json_to_error(const json_t *json, struct kelpie_error *ret_error, struct kelpie_error *err);

/* Strings (parent) are the JSON's. */
KELPIE_CHECKED enum kelpie_status
store_json_to_snapshot_options(const json_t *json, struct kelpie_snapshot_options *ret_options,
                               struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status
store_json_to_restore_options(const json_t *json, struct kelpie_restore_options *ret_options,
                              struct kelpie_error *err);

#endif
