/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "cli/options.h"

#include <string.h>

#include "base/assert.h"
#include "cli/suggest.h"

static void table_check(const struct option_table *table) {
    ASSERT(table);
    ASSERT(table->specs || table->count == 0);
    ASSERT(table->count <= CLI_OPTION_COUNT_MAX);
}

static void spec_check(const struct option_spec *spec) {
    ASSERT(spec);
    ASSERT(spec->set);
    ASSERT(spec->name && strlen(spec->name) < CLI_NAME_SIZE_MAX - 2);
}

static void words_check(const struct option_words *words) {
    ASSERT(words);
    ASSERT(words->index <= words->count);
}

/* ---- Finding ---------------------------------------------------------------------------------- */

struct option_found options_at(const struct option_table *table, size_t index) {
    table_check(table);
    for (size_t i = 0; i < table->count; i++) {
        const struct option_spec *spec = &table->specs[i];
        size_t count = spec->include ? spec->include->count : 1;
        if (index >= count) {
            index -= count;
        } else if (!spec->include) {
            return (struct option_found){.spec = spec};
        } else {
            ASSERT(!spec->include->specs[index].include);
            return (struct option_found){&spec->include->specs[index], spec->offset};
        }
    }
    return (struct option_found){NULL, 0};
}

static struct option_found find_short(const struct option_table *table, char name) {
    table_check(table);
    ASSERT(name != 0);
    struct option_found found = options_at(table, 0);
    for (size_t i = 1; found.spec && found.spec->short_name != name; i++) {
        found = options_at(table, i);
    }
    return found;
}

static struct option_found find_long(const struct option_table *table, const char *name,
                                     size_t size) {
    table_check(table);
    ASSERT(name);
    struct option_found found = options_at(table, 0);
    for (size_t i = 1; found.spec; i++) {
        if (strlen(found.spec->name) == size && strncmp(found.spec->name, name, size) == 0) {
            break;
        }
        found = options_at(table, i);
    }
    return found;
}

const struct option_spec *options_by_field(const struct option_table *table, const char *field) {
    table_check(table);
    ASSERT(field);
    size_t size = strcspn(field, "[.");
    struct option_found found = options_at(table, 0);
    for (size_t i = 1; found.spec; i++) {
        const char *candidate = found.spec->field;
        if (size > 0 && candidate && strlen(candidate) == size &&
            strncmp(candidate, field, size) == 0) {
            return found.spec;
        }
        found = options_at(table, i);
    }
    return NULL;
}

static enum kelpie_status unknown_long(const struct option_table *table, const char *name,
                                       size_t size, struct kelpie_error *err) {
    table_check(table);
    ASSERT(name);
    struct suggestion suggestion = suggestion_init(name, size);
    struct option_found found = options_at(table, 0);
    for (size_t i = 1; found.spec; i++) {
        suggestion_offer(&suggestion, found.spec->name);
        found = options_at(table, i);
    }
    suggestion_offer(&suggestion, "help");
    char field[CLI_NAME_SIZE_MAX];
    snprintf(field, sizeof(field), "--%.*s", (int)(size < 60 ? size : 60), name);
    if (suggestion.best) {
        return error_set_field(err, KELPIE_BAD_CONFIG, field,
                               "there is no option %s; did you mean --%s?", field, suggestion.best);
    }
    return error_set_field(err, KELPIE_BAD_CONFIG, field, "there is no option %s", field);
}

/* ---- Parsing ---------------------------------------------------------------------------------- */

static enum kelpie_status set_option(struct option_found found, void *target, const char *value,
                                     struct kelpie_error *err) {
    const struct option_spec *spec = found.spec;
    spec_check(spec);
    ASSERT(spec->set);
    ASSERT((value == NULL) == (spec->value_name == NULL));
    if (spec->set((char *)target + found.offset + spec->offset, value, err) == KELPIE_OK) {
        return KELPIE_OK;
    }
    char reason[sizeof(err->message)];
    memcpy(reason, err->message, sizeof(reason));
    char field[CLI_NAME_SIZE_MAX];
    snprintf(field, sizeof(field), "--%s", spec->name);
    return error_set_field(err, KELPIE_BAD_CONFIG, field, "%s: %s", field, reason);
}

static enum kelpie_status no_value(const struct option_spec *spec, struct kelpie_error *err) {
    spec_check(spec);
    ASSERT(spec->value_name);
    char field[CLI_NAME_SIZE_MAX];
    snprintf(field, sizeof(field), "--%s", spec->name);
    return error_set_field(err, KELPIE_BAD_CONFIG, field, "%s: the value %s is missing", field,
                           spec->value_name);
}

/* The word behind the current one, or NULL; moves on to it. */
static const char *next_word(struct option_words *words) {
    words_check(words);
    ASSERT(words->index < words->count);
    if (words->index + 1 == words->count) {
        return NULL;
    }
    return words->words[++words->index];
}

static enum kelpie_status parse_long(const struct option_table *table, struct option_words *words,
                                     void *target, struct kelpie_error *err) {
    table_check(table);
    words_check(words);
    const char *name = words->words[words->index] + 2;
    size_t size = strcspn(name, "=");
    const char *value = name[size] == '=' ? name + size + 1 : NULL;
    struct option_found found = find_long(table, name, size);
    const struct option_spec *spec = found.spec;
    if (!spec && size == 4 && strncmp(name, "help", 4) == 0 && !value) {
        words->help_asked = true;
        return KELPIE_OK;
    }
    if (!spec) {
        return unknown_long(table, name, size, err);
    }
    if (!spec->value_name && value) {
        char field[CLI_NAME_SIZE_MAX];
        snprintf(field, sizeof(field), "--%s", spec->name);
        return error_set_field(err, KELPIE_BAD_CONFIG, field, "%s: takes no value", field);
    }
    if (spec->value_name && !value) {
        value = next_word(words);
        if (!value) {
            return no_value(spec, err);
        }
    }
    return set_option(found, target, value, err);
}

static enum kelpie_status unknown_short(char name, struct kelpie_error *err) {
    ASSERT(name != 0);
    ASSERT(err);
    const char field[] = {'-', name, 0};
    return error_set_field(err, KELPIE_BAD_CONFIG, field, "there is no option %s", field);
}

/* -it, -eKEY=VALUE, -e KEY=VALUE: flags until one that takes a value. */
static enum kelpie_status parse_short(const struct option_table *table, struct option_words *words,
                                      void *target, struct kelpie_error *err) {
    table_check(table);
    words_check(words);
    for (const char *name = words->words[words->index] + 1; *name; name++) {
        struct option_found found = find_short(table, *name);
        const struct option_spec *spec = found.spec;
        if (!spec && *name == 'h') {
            words->help_asked = true;
            continue;
        }
        if (!spec) {
            return unknown_short(*name, err);
        }
        if (!spec->value_name) {
            TRY(set_option(found, target, NULL, err));
            continue;
        }
        const char *value = name[1] != 0 ? name + 1 : next_word(words);
        return value ? set_option(found, target, value, err) : no_value(spec, err);
    }
    return KELPIE_OK;
}

enum kelpie_status options_parse(const struct option_table *table, struct option_words *words,
                                 void *target, struct kelpie_error *err) {
    table_check(table);
    words_check(words);
    ASSERT(table->count <= CLI_OPTION_COUNT_MAX);
    ASSERT(words->index <= words->count);
    ASSERT(err);
    for (; words->index < words->count; words->index++) {
        const char *word = words->words[words->index];
        if (strcmp(word, "--") == 0) {
            words->index++;
            words->ended = true;
            return KELPIE_OK;
        }
        if (word[0] != '-' || word[1] == 0) {
            return KELPIE_OK;
        }
        TRY(word[1] == '-' ? parse_long(table, words, target, err)
                           : parse_short(table, words, target, err));
    }
    return KELPIE_OK;
}

/* ---- Help ------------------------------------------------------------------------------------- */

static void help_line(FILE *stream, const char *left, const char *help) {
    ASSERT(left);
    ASSERT(help);
    int size = (int)strlen(left);
    if (size + 2 > CLI_HELP_COLUMN) {
        fprintf(stream, "%s\n%*s%s\n", left, CLI_HELP_COLUMN, "", help);
    } else {
        fprintf(stream, "%-*s%s\n", CLI_HELP_COLUMN, left, help);
    }
}

void options_help(const struct option_table *table, FILE *stream) {
    table_check(table);
    ASSERT(stream);
    struct option_found found = options_at(table, 0);
    for (size_t i = 1; found.spec; i++) {
        const struct option_spec *spec = found.spec;
        char left[2 * CLI_NAME_SIZE_MAX];
        char start[] = "      ";
        if (spec->short_name) {
            memcpy(start + 2, (const char[]){'-', spec->short_name, ','}, 3);
        }
        snprintf(left, sizeof(left), "%s--%s%s%s", start, spec->name, spec->value_name ? " " : "",
                 spec->value_name ? spec->value_name : "");
        help_line(stream, left, spec->help);
        found = options_at(table, i);
    }
    help_line(stream, "  -h, --help", "show this help");
}
