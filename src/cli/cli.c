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

const struct cli_command *cli_find(const struct cli_table *table, const char *name) {
    table_check(table);
    ASSERT(name);
    for (size_t i = 0; i < table->count; i++) {
        if (strcmp(table->commands[i]->name, name) == 0) {
            return table->commands[i];
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
        suggestion_offer(&suggestion, table->commands[i]->name);
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
    printf("usage: kelpie %s %s\n\n%s.\n\n", command->name, command->synopsis, command->summary);
    options_help(command->options, stdout);
    if (command->notes) {
        printf("\n%s", command->notes);
    }
    return flushed();
}

static void print_commands(const struct cli_table *table, FILE *stream) {
    table_check(table);
    ASSERT(table->count > 0);
    ASSERT(stream);
    fputs("usage: kelpie COMMAND [OPTIONS]\n\n", stream);
    fputs("Runs commands in microVMs: Linux machines of their own, over every hypervisor there "
          "is.\n\n",
          stream);
    for (size_t i = 0; i < table->count; i++) {
        fprintf(stream, "  %-10s%s\n", table->commands[i]->name, table->commands[i]->summary);
    }
    fputs("\n'kelpie help COMMAND' explains one of them.\n", stream);
}

int cli_help_all(const struct cli_table *table) {
    table_check(table);
    print_commands(table, stdout);
    return flushed();
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
        status = error_set(&err, KELPIE_BAD_CONFIG, "there is a word too many: \"%.60s\"",
                           words->words[words->index + operand_count_max]);
    }
    if (status == KELPIE_OK) {
        return true;
    }
    output_error(NULL, &err);
    output_hint("'kelpie %s --help' lists the options", command->name);
    *ret_code = CLI_EXIT_FAILED;
    return false;
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
