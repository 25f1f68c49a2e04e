/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "store/json_fields.h"

#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "store/store_json.h"

json_t *json_new(struct kelpie_error *err) {
    json_t *object = json_object();
    ASSERT(!object || json_object_size(object) == 0);
    if (!object) {
        error_set(err, KELPIE_NO_MEMORY, "no memory for JSON");
    }
    return object;
}

enum kelpie_status json_put(json_t *object, const char *name, json_t *value,
                            struct kelpie_error *err) {
    ASSERT(json_is_object(object));
    ASSERT(name);
    if (json_object_set_new(object, name, value) != 0) {
        return error_set(err, KELPIE_NO_MEMORY, "no memory for JSON");
    }
    return KELPIE_OK;
}

/* ---- Out -------------------------------------------------------------------------------------- */

#define HEX_NAME "hex"

static json_t *hex_text(const char *text, size_t size) {
    static const char digits[] = "0123456789abcdef";
    ASSERT(size > 0);
    ASSERT(size <= SIZE_MAX / 4);
    AUTO_MEM char *hex = malloc(2 * size);
    AUTO_STORE_JSON json_t *object = json_object();
    for (size_t i = 0; hex && i < size; i++) {
        hex[2 * i] = digits[(unsigned char)text[i] >> 4];
        hex[2 * i + 1] = digits[(unsigned char)text[i] & 15];
    }
    json_t *value = hex ? json_stringn(hex, 2 * size) : NULL;
    return json_object_set_new(object, HEX_NAME, value) == 0 ? TAKE(object) : NULL;
}

/* NULL: no memory. */
static json_t *text_value(const char *text) {
    ASSERT(text);
    json_t *value = json_string(text); /* NULL too when it is no UTF-8 */
    size_t size = strlen(text);
    ASSERT(!value || json_string_length(value) == size);
    return value || size == 0 ? value : hex_text(text, size);
}

enum kelpie_status json_put_text(json_t *object, const char *name, const char *text,
                                 struct kelpie_error *err) {
    ASSERT(name);
    ASSERT(text);
    return json_put(object, name, text_value(text), err);
}

/* A number that is not negative. */
static uint64_t load_unsigned(const struct json_field *field, const uint8_t *member) {
    ASSERT(field);
    ASSERT(member);
    uint64_t number = 0;
    switch (field->size) {
    case sizeof(uint16_t):
        number = *(const uint16_t *)(const void *)member;
        break;
    case sizeof(uint32_t):
        number = *(const uint32_t *)(const void *)member;
        break;
    case sizeof(uint64_t):
        number = *(const uint64_t *)(const void *)member;
        break;
    default:
        UNREACHABLE();
    }
    return number;
}

static enum kelpie_status encode_number(json_t *object, const struct json_field *field,
                                        const uint8_t *member, struct kelpie_error *err) {
    ASSERT(field);
    ASSERT(member);
    json_int_t number = 0;
    if (field->kind == JSON_INT) {
        number = *(const int *)(const void *)member;
    } else if (field->kind == JSON_I64) {
        number = *(const int64_t *)(const void *)member;
    } else {
        uint64_t positive = load_unsigned(field, member);
        if (positive == UINT64_MAX) {
            return json_put(object, field->name, json_integer(-1), err);
        }
        if (positive > INT64_MAX) {
            return error_set_field(err, KELPIE_BAD_CONFIG, field->name, "%s is too large",
                                   field->name);
        }
        number = (json_int_t)positive;
    }
    return number == 0 ? KELPIE_OK : json_put(object, field->name, json_integer(number), err);
}

enum kelpie_status json_fields_encode(const struct json_field *fields, size_t count,
                                      const void *value, json_t *object, struct kelpie_error *err) {
    ASSERT(fields);
    ASSERT(value);
    for (size_t i = 0; i < count; i++) {
        const struct json_field *field = &fields[i];
        const uint8_t *member = (const uint8_t *)value + field->offset;
        if (field->kind == JSON_TEXT) {
            const char *text = *(const char *const *)(const void *)member;
            TRY(text ? json_put_text(object, field->name, text, err) : KELPIE_OK);
        } else if (field->kind == JSON_CHARS) {
            ASSERT(memchr(member, 0, field->size));
            TRY(*member ? json_put_text(object, field->name, (const char *)member, err)
                        : KELPIE_OK);
        } else if (field->kind == JSON_BOOL) {
            if (*(const bool *)member) {
                TRY(json_put(object, field->name, json_true(), err));
            }
        } else {
            TRY(encode_number(object, field, member, err));
        }
    }
    return KELPIE_OK;
}

enum kelpie_status json_texts_encode(json_t *object, const char *name, const char *const *texts,
                                     struct kelpie_error *err) {
    ASSERT(json_is_object(object));
    ASSERT(name);
    if (!texts) {
        return KELPIE_OK;
    }
    json_t *array = json_array();
    TRY(json_put(object, name, array, err));
    for (size_t i = 0; texts[i]; i++) {
        if (json_array_append_new(array, text_value(texts[i])) != 0) {
            return error_set(err, KELPIE_NO_MEMORY, "no memory for JSON");
        }
    }
    return KELPIE_OK;
}

/* ---- In --------------------------------------------------------------------------------------- */

static enum kelpie_status wrong(const char *name, struct kelpie_error *err) {
    ASSERT(name);
    ASSERT(name[0]);
    return error_set_field(err, KELPIE_BAD_CONFIG, name, "%s is of another type, or out of range",
                           name);
}

static int hex_digit(char digit) {
    static const char digits[] = "0123456789abcdef";
    ASSERT(sizeof(digits) == 17);
    const char *found = digit ? strchr(digits, digit) : NULL;
    ASSERT(!found || *found == digit);
    return found ? (int)(found - digits) : -1;
}

/* The text that {"hex": …} stands for, as a JSON string, which holds any bytes here; NULL: it stands for none. */
static json_t *unhex(const json_t *value) {
    const json_t *hex = json_object_get(value, HEX_NAME); /* NULL of what is no object */
    size_t length = json_string_length(hex);
    if (!json_is_string(hex) || length % 2 != 0 || length == 0) {
        return NULL;
    }
    const char *digits = json_string_value(hex);
    AUTO_MEM char *text = malloc(length / 2);
    for (size_t i = 0; text && i < length / 2; i++) {
        int high = hex_digit(digits[2 * i]);
        int low = hex_digit(digits[2 * i + 1]);
        if (high < 0 || low < 0 || high + low == 0) { /* no zero within a text */
            return NULL;
        }
        text[i] = (char)(high * 16 + low);
    }
    ASSERT(length >= 2);
    return text ? json_stringn_nocheck(text, length / 2) : NULL;
}

/* The text of a member, in the JSON. */
static enum kelpie_status member_text(const json_t *object, const char *name,
                                      const json_t **ret_text, struct kelpie_error *err) {
    const json_t *value = json_object_get(object, name);
    ASSERT(value);
    ASSERT(ret_text);
    if (json_is_object(value)) {
        /* The JSON is constant but for this: the text itself takes the place of its digits. */
        json_t *text = unhex(value);
        if (!text || json_object_set_new_nocheck((json_t *)(uintptr_t)object, name, text) != 0) {
            return wrong(name, err);
        }
        value = json_object_get(object, name);
    }
    if (!json_is_string(value) || strlen(json_string_value(value)) != json_string_length(value)) {
        return wrong(name, err);
    }
    *ret_text = value;
    return KELPIE_OK;
}

static enum kelpie_status decode_text(const struct json_field *field, const json_t *object,
                                      uint8_t *member, struct kelpie_error *err) {
    const json_t *value = NULL;
    ASSERT(field);
    ASSERT(member);
    TRY(member_text(object, field->name, &value, err));
    if (field->kind == JSON_TEXT) {
        *(const char **)(void *)member = json_string_value(value);
        return KELPIE_OK;
    }
    size_t size = json_string_length(value);
    if (size >= field->size) {
        return wrong(field->name, err);
    }
    memcpy(member, json_string_value(value), size + 1);
    return KELPIE_OK;
}

enum kelpie_status json_take_text(const json_t *object, const char *name, char *ret_text,
                                  size_t size, struct kelpie_error *err) {
    const struct json_field field = {.name = name, .kind = JSON_CHARS, .size = size};
    ASSERT(ret_text);
    ASSERT(size > 1);
    if (!json_object_get(object, name)) {
        ret_text[0] = '\0';
        return KELPIE_OK;
    }
    return decode_text(&field, object, (uint8_t *)ret_text, err);
}

static uint64_t largest(const struct json_field *field) {
    ASSERT(field->size <= sizeof(uint64_t));
    ASSERT(field->size >= sizeof(uint16_t));
    if (field->max != 0) {
        return field->max;
    }
    return field->size == sizeof(uint64_t) ? INT64_MAX : (1ull << (8 * field->size)) - 1;
}

static enum kelpie_status decode_number(const struct json_field *field, const json_t *value,
                                        uint8_t *member, struct kelpie_error *err) {
    ASSERT(field);
    ASSERT(member);
    if (!json_is_integer(value)) {
        return wrong(field->name, err);
    }
    json_int_t number = json_integer_value(value);
    if (field->kind == JSON_I64) {
        *(int64_t *)(void *)member = number;
        return KELPIE_OK;
    }
    if (field->kind == JSON_INT) {
        if (number < INT_MIN || number > INT_MAX) {
            return wrong(field->name, err);
        }
        *(int *)(void *)member = (int)number;
        return KELPIE_OK;
    }
    if (number == -1 && field->size == sizeof(uint64_t) && field->max == 0) {
        *(uint64_t *)(void *)member = UINT64_MAX;
        return KELPIE_OK;
    }
    if (number < 0 || (uint64_t)number > largest(field)) {
        return wrong(field->name, err);
    }
    if (field->size == sizeof(uint16_t)) {
        *(uint16_t *)(void *)member = (uint16_t)number;
    } else if (field->size == sizeof(uint32_t)) {
        *(uint32_t *)(void *)member = (uint32_t)number;
    } else {
        *(uint64_t *)(void *)member = (uint64_t)number;
    }
    return KELPIE_OK;
}

enum kelpie_status json_fields_decode(const struct json_field *fields, size_t count,
                                      const json_t *object, void *ret_value,
                                      struct kelpie_error *err) {
    ASSERT(fields);
    ASSERT(ret_value);
    if (!json_is_object(object)) {
        return error_set(err, KELPIE_BAD_CONFIG, "the JSON is no object");
    }
    for (size_t i = 0; i < count; i++) {
        const json_t *value = json_object_get(object, fields[i].name);
        uint8_t *member = (uint8_t *)ret_value + fields[i].offset;
        if (!value) {
            continue;
        }
        if (fields[i].kind == JSON_TEXT || fields[i].kind == JSON_CHARS) {
            TRY(decode_text(&fields[i], object, member, err));
        } else if (fields[i].kind != JSON_BOOL) {
            TRY(decode_number(&fields[i], value, member, err));
        } else if (json_is_boolean(value)) {
            *(bool *)member = json_is_true(value);
        } else {
            return wrong(fields[i].name, err);
        }
    }
    return KELPIE_OK;
}

/* As member_text(), of an element of a list. */
static enum kelpie_status element_text(const json_t *array, size_t index, const char *name,
                                       struct kelpie_error *err) {
    const json_t *value = json_array_get(array, index);
    ASSERT(json_is_array(array));
    ASSERT(value);
    if (json_is_object(value)) {
        json_t *text = unhex(value);
        if (!text || json_array_set_new((json_t *)(uintptr_t)array, index, text) != 0) {
            return wrong(name, err);
        }
        value = json_array_get(array, index);
    }
    if (!json_is_string(value) || strlen(json_string_value(value)) != json_string_length(value)) {
        return wrong(name, err);
    }
    return KELPIE_OK;
}

enum kelpie_status json_texts_decode(const json_t *object, const char *name, size_t count_max,
                                     const char ***ret_texts, struct kelpie_error *err) {
    ASSERT(name);
    ASSERT(ret_texts);
    const json_t *array = json_object_get(object, name);
    if (!array) {
        *ret_texts = NULL;
        return KELPIE_OK;
    }
    size_t count = json_array_size(array);
    if (!json_is_array(array) || count > count_max) {
        return wrong(name, err);
    }
    for (size_t i = 0; i < count; i++) {
        TRY(element_text(array, i, name, err));
    }
    const char **texts = calloc(count + 1, sizeof(*texts));
    if (!texts) {
        return error_set(err, KELPIE_NO_MEMORY, "no memory for %s", name);
    }
    for (size_t i = 0; i < count; i++) {
        texts[i] = json_string_value(json_array_get(array, i));
    }
    *ret_texts = texts;
    return KELPIE_OK;
}
