/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * json_fields.h: structures as JSON objects and back, by a table of their members. A member has the name that it has in C;
 * one that is zero, NULL or empty is left out. What comes in is from outside: a member of another type or out of
 * range is BAD_CONFIG, with its name as the field; one that the table does not have is ignored.
 *
 * A text of C may be no UTF-8 (a file's name, what a guest said), and JSON has no other: such a one is {"hex": "…"}. Decoding puts the
 * text itself in its place in the JSON, where it is kept: what was decoded is for reading, not for being written again.
 *
 *     static const struct json_field fields[] = {JSON_FIELD(struct spot, x, JSON_U32, 0)};
 *     TRY(json_fields_encode(fields, ARRAY_SIZE(fields), &spot, object, err));
 */
#ifndef KELPIE_STORE_JSON_FIELDS_H
#define KELPIE_STORE_JSON_FIELDS_H

#include <jansson.h>
#include <stddef.h>

#include "base/error.h"

enum json_kind {
    JSON_TEXT = 0, /* const char *; decoded, it lies in the JSON */
    JSON_CHARS,    /* char[n], with its zero */
    JSON_BOOL,
    JSON_U16,
    JSON_U32, /* and enumerations */
    JSON_U64, /* up to INT64_MAX, as JSON has it here, and UINT64_MAX, which is -1 there; size_t too */
    JSON_I64,
    JSON_INT,
};

struct json_field {
    const char *name;
    enum json_kind kind;
    size_t offset;
    size_t size;  /* of the member */
    uint64_t max; /* of a number that is not negative; 0: what the member holds */
};

#define JSON_FIELD(type, member, kind, max)                                                        \
    { #member, kind, offsetof(type, member), sizeof(((type *)0)->member), max }

/* Adds the members to an object. BAD_CONFIG: a number beyond JSON's. */
KELPIE_CHECKED enum kelpie_status json_fields_encode(const struct json_field *fields, size_t count,
                                                     const void *value, json_t *object,
                                                     struct kelpie_error *err);

/* Fills the members that the object has; the others stay as they are. */
KELPIE_CHECKED enum kelpie_status json_fields_decode(const struct json_field *fields, size_t count,
                                                     const json_t *object, void *ret_value,
                                                     struct kelpie_error *err);

/* {name: [texts]}, NULL-terminated; texts NULL: nothing. */
KELPIE_CHECKED enum kelpie_status json_texts_encode(json_t *object, const char *name,
                                                    const char *const *texts,
                                                    struct kelpie_error *err);

/* The same back: *ret_texts, for free(), has the JSON's strings, at most count_max; NULL: there are none. */
KELPIE_CHECKED enum kelpie_status json_texts_decode(const json_t *object, const char *name,
                                                    size_t count_max, const char ***ret_texts,
                                                    struct kelpie_error *err);

/* {name: text}, and back into a buffer; what is not there is an empty text. BAD_CONFIG: it is no text, or too long. */
KELPIE_CHECKED enum kelpie_status json_put_text(json_t *object, const char *name, const char *text,
                                                struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status json_take_text(const json_t *object, const char *name,
                                                 char *ret_text, size_t size,
                                                 struct kelpie_error *err);

/* Puts value into the object and takes it over; NULL is NO_MEMORY. */
KELPIE_CHECKED enum kelpie_status json_put(json_t *object, const char *name, json_t *value,
                                           struct kelpie_error *err);

/* A new object, or NULL and NO_MEMORY. */
json_t *json_new(struct kelpie_error *err);

#endif
