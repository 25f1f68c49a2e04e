/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "cli/cli.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "base/assert.h"
#include "cli/output.h"
#include "cli/suggest.h"

#define NS_PER_S 1000000000ull

uint64_t cli_clock_ns(void) {
    struct timespec now = {0};
    int result = clock_gettime(CLOCK_MONOTONIC, &now);
    ASSERT(result == 0);
    ASSERT(now.tv_sec >= 0);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

static void table_check(const struct cli_table *table) {
    ASSERT(table);
    ASSERT(table->count > 0);
}

static void command_check(const struct cli_command *command) {
    ASSERT(command);
    ASSERT(command->options);
    ASSERT(command->run);
}

const char *cli_subcommand_word(const struct cli_command *subcommand) {
    const char *space = strchr(subcommand->name, ' ');
    ASSERT(space);
    ASSERT(space[1] != 0);
    return space + 1;
}

const struct cli_command *cli_find_subcommand(const struct cli_command *command, const char *word) {
    ASSERT(command);
    ASSERT(word);
    for (size_t i = 0; command->subcommands && command->subcommands[i]; i++) {
        if (strcmp(cli_subcommand_word(command->subcommands[i]), word) == 0) {
            return command->subcommands[i];
        }
    }
    return NULL;
}

const struct cli_command *cli_find(const struct cli_table *table, const char *name) {
    table_check(table);
    ASSERT(name);
    for (size_t i = 0; i < table->count; i++) {
        const struct cli_command *command = table->commands[i];
        if (strcmp(command->name, name) == 0 ||
            (command->alias && strcmp(command->alias, name) == 0)) {
            return command;
        }
    }
    return NULL;
}

int cli_unknown(const struct cli_table *table, const char *name) {
    table_check(table);
    ASSERT(name);
    ASSERT(!cli_find(table, name));
    struct kelpie_error err;
    struct suggestion suggestion = suggestion_init(name, strlen(name));
    for (size_t i = 0; i < table->count; i++) {
        const struct cli_command *command = table->commands[i];
        if (!command->hidden) {
            suggestion_offer(&suggestion, command->name);
        }
        if (command->alias) {
            suggestion_offer(&suggestion, command->alias);
        }
    }
    if (suggestion.best) {
        error_set(&err, KELPIE_BAD_CONFIG, "there is no command %.60s; did you mean %s?", name,
                  suggestion.best);
    } else {
        error_set(&err, KELPIE_BAD_CONFIG, "there is no command %.60s", name);
    }
    output_error(NULL, &err);
    output_hint("'kelpie help' lists the commands");
    return CLI_EXIT_FAILED;
}

static int flushed(void) {
    if (fflush(stdout) != 0 || ferror(stdout)) {
        if (errno != EPIPE) {
            fprintf(stderr, "kelpie: cannot write the help: %s\n", strerror(errno));
        }
        return CLI_EXIT_FAILED;
    }
    return CLI_EXIT_OK;
}

int cli_help_command(const struct cli_command *command) {
    command_check(command);
    ASSERT(command->name && command->synopsis);
    ASSERT(command->summary);
    printf("usage: kelpie %s %s\n", command->name, command->synopsis);
    if (command->alias) {
        printf("       kelpie %s %s\n", command->alias, command->synopsis);
    }
    printf("\n%s.\n\n", command->summary);
    options_help(command->options, stdout);
    if (command->notes) {
        printf("\n%s", command->notes);
    }
    return flushed();
}

const char *cli_group_title(enum cli_group group) {
    static const char *const titles[] = {
        [CLI_GROUP_COMMANDS] = "Commands in VMs", [CLI_GROUP_VMS] = "VMs",
        [CLI_GROUP_SNAPSHOTS] = "Snapshots",      [CLI_GROUP_IMAGES] = "Images",
        [CLI_GROUP_HOST] = "This machine",
    };
    static_assert(ARRAY_SIZE(titles) == CLI_GROUP_COUNT, "each group has a title");
    ASSERT((unsigned)group < CLI_GROUP_COUNT);
    return titles[group];
}

static void print_group(const struct cli_table *table, enum cli_group group, FILE *stream) {
    table_check(table);
    ASSERT(stream);
    bool titled = false;
    for (size_t i = 0; i < table->count; i++) {
        const struct cli_command *command = table->commands[i];
        if (command->hidden || command->group != group) {
            continue;
        }
        char name[2 * CLI_NAME_SIZE_MAX];
        snprintf(name, sizeof(name), "%s%s%s", command->name, command->alias ? ", " : "",
                 command->alias ? command->alias : "");
        fprintf(stream, "%s%s  %-14s%s\n", titled ? "" : cli_group_title(group),
                titled ? "" : ":\n", name, command->summary);
        titled = true;
    }
    if (titled) {
        fputc('\n', stream);
    }
}

static void print_commands(const struct cli_table *table, FILE *stream) {
    table_check(table);
    ASSERT(table->count > 0);
    ASSERT(stream);
    fputs("usage: kelpie COMMAND [OPTIONS]\n\n", stream);
    fputs("Runs commands in microVMs: Linux machines of their own, over every hypervisor there "
          "is.\n\n",
          stream);
    for (enum cli_group group = 0; group < CLI_GROUP_COUNT; group++) {
        print_group(table, group, stream);
    }
    fputs("'kelpie help COMMAND' explains one of them.\n", stream);
}

int cli_help_all(const struct cli_table *table) {
    table_check(table);
    ASSERT(stdout);
    print_commands(table, stdout);
    return flushed();
}

/* Says what is wrong with the words. */
static bool refuse(const struct cli_command *command, const struct kelpie_error *err,
                   int *ret_code) {
    command_check(command);
    ASSERT(ret_code);
    output_error(NULL, err);
    output_hint("'kelpie %s --help' lists the options", command->name);
    *ret_code = CLI_EXIT_FAILED;
    return false;
}

static enum kelpie_status too_many(const char *word, struct kelpie_error *err) {
    ASSERT(word);
    ASSERT(err);
    return error_set(err, KELPIE_BAD_CONFIG, "there is a word too many: \"%.60s\"", word);
}

bool cli_parse(const struct cli_command *command, struct option_words *words, void *target,
               size_t operand_count_max, int *ret_code) {
    command_check(command);
    ASSERT(words->index <= words->count);
    ASSERT(ret_code);
    struct kelpie_error err;
    enum kelpie_status status = options_parse(command->options, words, target, &err);
    if (status == KELPIE_OK && words->help_asked) {
        *ret_code = cli_help_command(command);
        return false;
    }
    if (status == KELPIE_OK && words->count - words->index > operand_count_max) {
        status = too_many(words->words[words->index + operand_count_max], &err);
    }
    return status == KELPIE_OK || refuse(command, &err, ret_code);
}

/* Everything up to `--` is options and operands in any order; behind it all are operands. */
static enum kelpie_status take_words(const struct cli_command *command, struct option_words *words,
                                     void *target, struct cli_operands *operands,
                                     struct kelpie_error *err) {
    command_check(command);
    ASSERT(operands->count == 0);
    while (words->index < words->count) {
        if (!words->ended) {
            TRY(options_parse(command->options, words, target, err));
        }
        if (words->index == words->count) {
            break;
        }
        const char *word = words->words[words->index++];
        if (operands->count == ARRAY_SIZE(operands->words)) {
            return too_many(word, err);
        }
        operands->words[operands->count++] = word;
    }
    return KELPIE_OK;
}

bool cli_parse_all(const struct cli_command *command, struct option_words *words, void *target,
                   struct cli_operands *ret_operands, int *ret_code) {
    const struct cli_operand_rule *rule = &command->rule;
    command_check(command);
    ASSERT(rule->count_min == 0 || rule->missing);
    ASSERT(rule->count_min <= rule->count_max);
    struct kelpie_error err;
    ret_operands->count = 0;
    enum kelpie_status status = take_words(command, words, target, ret_operands, &err);
    if (status == KELPIE_OK && words->help_asked) {
        *ret_code = cli_help_command(command);
        return false;
    }
    if (status == KELPIE_OK && ret_operands->count < rule->count_min) {
        status = error_set(&err, KELPIE_BAD_CONFIG, "%s is missing: kelpie %s %s", rule->missing,
                           command->name, command->synopsis);
    } else if (status == KELPIE_OK && ret_operands->count > rule->count_max) {
        status = too_many(ret_operands->words[rule->count_max], &err);
    }
    for (size_t i = 0; status == KELPIE_OK && i < ret_operands->count; i++) {
        if (ret_operands->words[i][0] == 0) {
            status = error_set(&err, KELPIE_BAD_CONFIG, "a word is empty");
        }
    }
    return status == KELPIE_OK || refuse(command, &err, ret_code);
}

int cli_main(const struct cli_table *table, struct option_words *words) {
    table_check(table);
    ASSERT(words->index <= words->count);
    ASSERT(words);
    if (words->index >= words->count) {
        print_commands(table, stderr);
        return CLI_EXIT_FAILED;
    }
    const char *name = words->words[words->index++];
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
        name = "help";
    } else if (strcmp(name, "--version") == 0) {
        name = "version";
    }
    const struct cli_command *command = cli_find(table, name);
    return command ? command->run(table, words) : cli_unknown(table, name);
}
