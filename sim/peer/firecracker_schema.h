/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * firecracker_schema.h: the bodies that Firecracker's requests may have, as tables, and the check of a body against them: the
 * definitions of Firecracker's firecracker.yaml (1.17), as far as the peer knows them. Pure.
 *
 * A body is refused with the first thing that is wrong with it: a field that is missing, unknown, of another type, out of its
 * range or none of its words. null is no value: what is not meant is left out.
 */
#ifndef KELPIE_SIM_PEER_FIRECRACKER_SCHEMA_H
#define KELPIE_SIM_PEER_FIRECRACKER_SCHEMA_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FIRECRACKER_FAULT_SIZE 512    /* bytes of a fault_message, with its zero */
#define FIRECRACKER_LIST_COUNT_MAX 32 /* entries of a list in a body */
#define FIRECRACKER_DEPTH_MAX 4       /* objects in objects */

enum firecracker_kind {
    FIRECRACKER_BOOLEAN = 0,
    FIRECRACKER_INTEGER,
    FIRECRACKER_STRING,
    FIRECRACKER_WORD,   /* one of `words` */
    FIRECRACKER_OBJECT, /* as `schema` says */
    FIRECRACKER_LIST,   /* of such objects */
    FIRECRACKER_LABELS, /* an object of strings under any names */
    FIRECRACKER_KIND_COUNT
};

struct firecracker_field {
    const char *name;
    enum firecracker_kind kind;
    bool required;
    bool deprecated;
    int64_t min; /* of an INTEGER */
    int64_t max;
    const char *const *words; /* NULL-terminated */
    const struct firecracker_schema *schema;
};

struct firecracker_schema {
    const char *name; /* the definition's */
    const struct firecracker_field *fields;
    size_t field_count;
};

extern const struct firecracker_schema firecracker_schema_action;
extern const struct firecracker_schema firecracker_schema_balloon;
extern const struct firecracker_schema firecracker_schema_balloon_update;
extern const struct firecracker_schema firecracker_schema_boot_source;
extern const struct firecracker_schema firecracker_schema_drive;
extern const struct firecracker_schema firecracker_schema_entropy;
extern const struct firecracker_schema firecracker_schema_logger;
extern const struct firecracker_schema firecracker_schema_machine;
extern const struct firecracker_schema firecracker_schema_metrics;
extern const struct firecracker_schema firecracker_schema_network;
extern const struct firecracker_schema firecracker_schema_partial_drive;
extern const struct firecracker_schema firecracker_schema_partial_network;
extern const struct firecracker_schema firecracker_schema_serial;
extern const struct firecracker_schema firecracker_schema_snapshot_create;
extern const struct firecracker_schema firecracker_schema_snapshot_load;
extern const struct firecracker_schema firecracker_schema_vm;
extern const struct firecracker_schema firecracker_schema_vsock;

/* True: the body is one. Otherwise *fault says what is wrong. partial: no field of the body itself is required (PATCH).
 * *ret_deprecated: it has a field that is. */
bool firecracker_schema_check(const struct firecracker_schema *schema, json_t *body, bool partial,
                              bool *ret_deprecated, char fault[FIRECRACKER_FAULT_SIZE]);

#endif
