/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "cli/detach_keys.h"

#include <string.h>

#include "base/assert.h"

#define CONTROL_BITS 0x1f /* what Ctrl leaves of a letter's code */

static void keys_check(const struct detach_keys *keys) {
    ASSERT(keys);
    ASSERT(keys->count <= CLI_DETACH_KEY_COUNT_MAX);
}

static bool parse_key(const char *text, size_t size, char *ret_byte) {
    static const char prefix[] = "ctrl-";
    static const size_t prefix_size = sizeof(prefix) - 1;
    ASSERT(text);
    ASSERT(ret_byte);
    if (size == 1) {
        *ret_byte = text[0];
        return true;
    }
    if (size != prefix_size + 1 || strncmp(text, prefix, prefix_size) != 0) {
        return false;
    }
    char key = text[prefix_size];
    bool is_letter = (key >= 'a' && key <= 'z') || (key >= 'A' && key <= 'Z');
    if (!is_letter && !strchr("@[\\]^_", key)) {
        return false;
    }
    *ret_byte = (char)(key & CONTROL_BITS);
    return true;
}

enum kelpie_status detach_keys_set(void *field, const char *value, struct kelpie_error *err) {
    struct detach_keys keys = {.count = 0};
    ASSERT(field);
    ASSERT(value);
    const char *next = strcmp(value, "none") == 0 ? NULL : value;
    while (next) {
        size_t size = strcspn(next, ",");
        if (keys.count == CLI_DETACH_KEY_COUNT_MAX) {
            return error_set(err, KELPIE_BAD_CONFIG, "more than %d keys", CLI_DETACH_KEY_COUNT_MAX);
        }
        if (!parse_key(next, size, &keys.bytes[keys.count])) {
            return error_set(err, KELPIE_BAD_CONFIG,
                             "\"%.100s\" is not keys such as ctrl-p,ctrl-q or ctrl-], or none",
                             value);
        }
        keys.count++;
        next = next[size] == ',' ? next + size + 1 : NULL;
    }
    *(struct detach_keys *)field = keys;
    return KELPIE_OK;
}

struct detach_keys detach_keys_default(void) {
    struct detach_keys keys;
    struct kelpie_error err;
    enum kelpie_status status = detach_keys_set(&keys, DETACH_KEYS_DEFAULT, &err);
    ASSERT(status == KELPIE_OK);
    ASSERT(keys.count == 2);
    return keys;
}

/* How many keys are held when `byte` comes behind those that are: as many as the end of what came equals the
 * beginning of the keys. Fewer than all, unless these are all. */
static size_t advance(const struct detach_match *match, char byte) {
    const struct detach_keys *keys = &match->keys;
    keys_check(keys);
    ASSERT(match->matched < keys->count);
    char came[CLI_DETACH_KEY_COUNT_MAX];
    memcpy(came, keys->bytes, match->matched);
    came[match->matched] = byte;
    size_t count = match->matched + 1;
    for (size_t held = count; held > 0; held--) {
        if (memcmp(came + count - held, keys->bytes, held) == 0) {
            return held;
        }
    }
    return 0;
}

size_t detach_match_pass(struct detach_match *match, const char *data, size_t size, char *out,
                         bool *ret_detached) {
    const struct detach_keys *keys = &match->keys;
    keys_check(keys);
    ASSERT(data && out);
    *ret_detached = false;
    if (keys->count == 0) {
        memcpy(out, data, size);
        return size;
    }
    size_t passed = 0;
    for (size_t i = 0; i < size && !*ret_detached; i++) {
        size_t before = match->matched;
        size_t held = advance(match, data[i]);
        /* What was held back and does not begin the keys any more, and then this one, if it does not either. */
        size_t freed = before + 1 - held;
        size_t of_held = freed < before ? freed : before;
        memcpy(out + passed, keys->bytes, of_held);
        passed += of_held;
        if (freed > before) {
            out[passed++] = data[i];
        }
        match->matched = held;
        *ret_detached = held == keys->count;
    }
    ASSERT(passed <= size + CLI_DETACH_KEY_COUNT_MAX);
    return passed;
}
