/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * options.h: a command line's options, by a table.
 *
 *     struct settings { bool json; uint32_t timeout_ms; };
 *     static const struct option_spec specs[] = {
 *         {0, "json", NULL, "print JSON", option_set_flag, offsetof(struct settings, json), NULL},
 *         {'T', "timeout", "TIME", "…", option_set_duration, offsetof(…, timeout_ms), "timeout_ms"},
 *     };
 *     TRY(options_parse(&(struct option_table){specs, ARRAY_SIZE(specs)}, &words, &settings, err));
 *
 * Understood: -x, -xyz (flags together), -xVALUE, -x VALUE, --name, --name VALUE, --name=VALUE. `--` or
 * the first word that is no option ends the options. Every table has -h and --help. A later option
 * overrides an earlier one. Values stay where they are: they live as long as the words. Options that several
 * commands have in common stand in a table that theirs include.
 */
#ifndef KELPIE_CLI_OPTIONS_H
#define KELPIE_CLI_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"
#include "cli/cli_limits.h"

/* Puts a value into a field of the command's settings. An error's message continues "--name: ".
 * `value` is NULL for a flag. */
typedef enum kelpie_status option_setter(void *field, const char *value, struct kelpie_error *err);

struct option_table;

struct option_spec {
    char short_name; /* 0: none */
    const char *name;
    const char *value_name; /* NULL: a flag, which takes no value */
    const char *help;
    option_setter *set;
    size_t offset;     /* of the field in the command's settings */
    const char *field; /* of kelpie.h that it fills, for the library's errors; or NULL */
    /* Not an option but all of that table, whose settings lie in the command's at `offset`; it includes no other. */
    const struct option_table *include;
};

struct option_table {
    const struct option_spec *specs;
    size_t count;
};

/* An option of a table, and where in the settings its table's part begins. */
struct option_found {
    const struct option_spec *spec; /* NULL: none */
    size_t offset;
};

/* The option at that place, those of included tables counted; none behind the last. */
struct option_found options_at(const struct option_table *table, size_t index);

/* The command line, and how far it was read. */
struct option_words {
    const char *const *words; /* NULL-terminated */
    size_t count;
    size_t index;
    bool ended;      /* by `--` */
    bool help_asked; /* -h or --help was among the options */
};

/* The values of an option that may be given often; NULL-terminated. */
struct option_list {
    const char *values[KELPIE_ENV_COUNT_MAX + 1];
    size_t count;
};

/* Reads options; words->index is then at the first operand. Errors: BAD_CONFIG, with the option as the
 * field. */
KELPIE_CHECKED enum kelpie_status options_parse(const struct option_table *table,
                                                struct option_words *words, void *target,
                                                struct kelpie_error *err);

/* The option that fills this field of kelpie.h ("disks" for "disks[2].path"), or NULL. */
const struct option_spec *options_by_field(const struct option_table *table, const char *field);

/* One line for each option. */
void options_help(const struct option_table *table, FILE *stream);

option_setter option_set_flag;     /* bool */
option_setter option_set_text;     /* const char *; not empty */
option_setter option_set_count;    /* uint32_t, 1 and more */
option_setter option_set_memory;   /* uint32_t MiB: 512M, 2G, 512 */
option_setter option_set_duration; /* uint32_t ms: 500ms, 30s, 2m, 1h, 30 (seconds) */
option_setter option_add_text;     /* struct option_list */

/* Passes our TERM on to a command with a terminal, unless the list has one: buffer[size] holds it, and lives as long as
 * the list. */
void option_pass_term(struct option_list *env, char *buffer, size_t size);

/* Each is KEY=VALUE. Errors: BAD_CONFIG, naming --`name`. */
KELPIE_CHECKED enum kelpie_status option_check_pairs(const struct option_list *list,
                                                     const char *name, struct kelpie_error *err);

/* A decimal number of digits only, at most `max`. */
bool option_number_parse(const char *text, size_t size, uint64_t max, uint64_t *ret_number);

#endif
