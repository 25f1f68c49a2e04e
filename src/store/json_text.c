/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* JSON and its text. See store_json.h. */
#include "base/assert.h"
#include "base/cleanup.h"
#include "store/store_json.h"

/* ---- Text ------------------------------------------------------------------------------------- */

/* jansson calls itself for each level, up to 2048 of them, which is more than a small stack has room for. */
static bool is_too_deep(const char *text, size_t size) {
    size_t depth = 0;
    bool in_string = false;
    ASSERT(text || size == 0);
    ASSERT(STORE_JSON_DEPTH_MAX > 1);
    for (size_t i = 0; i < size; i++) {
        char c = text[i];
        if (in_string && c == '\\') {
            i++;
        } else if (c == '"') {
            in_string = !in_string;
        } else if (!in_string && (c == '{' || c == '[')) {
            depth++;
        } else if (!in_string && depth > 0 && (c == '}' || c == ']')) {
            depth--;
        }
        if (depth > STORE_JSON_DEPTH_MAX) {
            return true;
        }
    }
    return false;
}

enum kelpie_status store_json_parse(const char *text, size_t size, size_t size_max,
                                    json_t **ret_object, struct kelpie_error *err) {
    json_error_t wrong;
    ASSERT(text || size == 0);
    ASSERT(size_max > 0);
    ASSERT(ret_object);
    if (size > size_max || is_too_deep(text, size)) {
        return error_set(err, KELPIE_BAD_CONFIG, "JSON of %zu bytes is too %s", size,
                         size > size_max ? "long" : "deep");
    }
    AUTO_STORE_JSON json_t *object =
        json_loadb(size ? text : "", size, JSON_REJECT_DUPLICATES, &wrong);
    if (!object && json_error_code(&wrong) == json_error_out_of_memory) {
        return error_set(err, KELPIE_NO_MEMORY, "no memory to read JSON");
    }
    if (!json_is_object(object)) {
        return error_set(err, KELPIE_BAD_CONFIG, "this is no JSON object: byte %d: %s",
                         object ? 0 : wrong.position, object ? "not '{'" : wrong.text);
    }
    *ret_object = TAKE(object);
    return KELPIE_OK;
}

enum kelpie_status store_json_format(const json_t *object, char **ret_text,
                                     struct kelpie_error *err) {
    ASSERT(!object || json_is_object(object));
    ASSERT(ret_text);
    char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;
    if (!text) {
        return error_set(err, KELPIE_NO_MEMORY, "no memory to write JSON");
    }
    *ret_text = text;
    return KELPIE_OK;
}
