/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The values of options: what each kind accepts, and where it is put. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"
#include "cli/options.h"

/* A number's suffix and what it stands for. */
struct unit {
    const char *suffix;
    uint64_t factor;
};

static const struct unit memory_units[] = {
    {"", 1}, {"M", 1}, {"m", 1}, {"MiB", 1}, {"G", 1024}, {"g", 1024}, {"GiB", 1024},
};

static const struct unit duration_units[] = {
    {"ms", 1}, {"s", 1000}, {"", 1000}, {"m", 60000}, {"h", 3600000},
};

bool option_number_parse(const char *text, size_t size, uint64_t max, uint64_t *ret_number) {
    ASSERT(text);
    ASSERT(ret_number);
    uint64_t number = 0;
    for (size_t i = 0; i < size; i++) {
        if (text[i] < '0' || text[i] > '9' || !checked_mul_u64(number, 10, &number) ||
            !checked_add_u64(number, (uint64_t)(text[i] - '0'), &number)) {
            return false;
        }
    }
    if (size == 0 || number > max) {
        return false;
    }
    *ret_number = number;
    return true;
}

/* Digits and one of the units, 1 to UINT32_MAX of the smallest. */
static bool parse_with_unit(const char *text, const struct unit *units, size_t count,
                            uint32_t *ret_value) {
    ASSERT(units);
    ASSERT(text);
    ASSERT(count > 0);
    size_t digit_count = strspn(text, "0123456789");
    uint64_t number = 0;
    if (!option_number_parse(text, digit_count, UINT32_MAX, &number)) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        uint64_t value = number * units[i].factor; /* 2^32 times an hour's milliseconds fits */
        if (strcmp(text + digit_count, units[i].suffix) == 0) {
            if (value == 0 || value > UINT32_MAX) {
                return false;
            }
            *ret_value = (uint32_t)value;
            return true;
        }
    }
    return false;
}

enum kelpie_status option_set_flag(void *field, const char *value, struct kelpie_error *err) {
    (void)err;
    ASSERT(field);
    ASSERT(!value);
    *(bool *)field = true;
    return KELPIE_OK;
}

enum kelpie_status option_set_text(void *field, const char *value, struct kelpie_error *err) {
    ASSERT(field);
    ASSERT(value);
    if (value[0] == 0) {
        return error_set(err, KELPIE_BAD_CONFIG, "the value is empty");
    }
    *(const char **)field = value;
    return KELPIE_OK;
}

enum kelpie_status option_set_count(void *field, const char *value, struct kelpie_error *err) {
    ASSERT(value);
    ASSERT(field);
    uint64_t number = 0;
    if (!option_number_parse(value, strlen(value), UINT32_MAX, &number) || number == 0) {
        return error_set(err, KELPIE_BAD_CONFIG, "\"%.100s\" is not a number of 1 or more", value);
    }
    *(uint32_t *)field = (uint32_t)number;
    return KELPIE_OK;
}

enum kelpie_status option_set_memory(void *field, const char *value, struct kelpie_error *err) {
    ASSERT(value);
    ASSERT(field);
    if (!parse_with_unit(value, memory_units, ARRAY_SIZE(memory_units), field)) {
        return error_set(err, KELPIE_BAD_CONFIG,
                         "\"%.100s\" is not a size such as 512M, 2G or 512 (MiB)", value);
    }
    return KELPIE_OK;
}

enum kelpie_status option_set_duration(void *field, const char *value, struct kelpie_error *err) {
    ASSERT(value);
    ASSERT(field);
    uint32_t duration_ms = 0;
    if (!parse_with_unit(value, duration_units, ARRAY_SIZE(duration_units), &duration_ms)) {
        return error_set(err, KELPIE_BAD_CONFIG,
                         "\"%.100s\" is not a time such as 500ms, 30s, 2m or 30 (seconds)", value);
    }
    if (duration_ms > KELPIE_TIMEOUT_MS_MAX) {
        return error_set(err, KELPIE_BAD_CONFIG, "\"%.100s\" is more than a day", value);
    }
    *(uint32_t *)field = duration_ms;
    return KELPIE_OK;
}

enum kelpie_status option_add_text(void *field, const char *value, struct kelpie_error *err) {
    struct option_list *list = field;
    ASSERT(value);
    ASSERT(list);
    ASSERT(list->count < ARRAY_SIZE(list->values));
    if (list->count + 1 == ARRAY_SIZE(list->values)) {
        return error_set(err, KELPIE_BAD_CONFIG, "given more than %zu times",
                         ARRAY_SIZE(list->values) - 1);
    }
    list->values[list->count++] = value;
    return KELPIE_OK;
}

void option_pass_term(struct option_list *env, char *buffer, size_t size) {
    static const char prefix[] = "TERM=";
    ASSERT(env->count < ARRAY_SIZE(env->values));
    ASSERT(buffer);
    const char *term = getenv("TERM");
    bool given = false;
    for (size_t i = 0; i < env->count; i++) {
        given |= strncmp(env->values[i], prefix, sizeof(prefix) - 1) == 0;
    }
    bool fits = term && term[0] != 0 && strlen(term) + sizeof(prefix) <= size;
    if (!given && fits && env->count + 1 < ARRAY_SIZE(env->values)) {
        snprintf(buffer, size, "%s%s", prefix, term);
        env->values[env->count++] = buffer;
    }
}

enum kelpie_status option_check_pairs(const struct option_list *list, const char *name,
                                      struct kelpie_error *err) {
    ASSERT(list->count < ARRAY_SIZE(list->values));
    ASSERT(name);
    char field[CLI_NAME_SIZE_MAX];
    snprintf(field, sizeof(field), "--%s", name);
    for (size_t i = 0; i < list->count; i++) {
        const char *equals = strchr(list->values[i], '=');
        if (!equals || equals == list->values[i]) {
            return error_set_field(err, KELPIE_BAD_CONFIG, field, "%s: \"%.100s\" is not KEY=VALUE",
                                   field, list->values[i]);
        }
    }
    return KELPIE_OK;
}
