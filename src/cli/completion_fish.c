/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The script for fish: one `complete` for each command, option and kind of word. */
#include <string.h>

#include "base/assert.h"
#include "cli/completion.h"

/* Text within '…' of fish. */
static void write_text(const char *text, FILE *stream) {
    ASSERT(text);
    ASSERT(stream);
    for (; *text != 0; text++) {
        if (*text == '\'' || *text == '\\') {
            fputc('\\', stream);
        }
        fputc(*text, stream);
    }
}

/* The condition that this command was typed. */
static void write_condition(const struct cli_command *command, FILE *stream) {
    ASSERT(command);
    ASSERT(stream);
    fprintf(stream, "complete -c kelpie -n '%s %s%s%s",
            strchr(command->name, ' ') ? "__kelpie_is_sub" : "__kelpie_is", command->name,
            command->alias ? " " : "", command->alias ? command->alias : "");
}

static void write_option(const struct cli_command *command, const struct option_spec *spec,
                         FILE *stream) {
    struct completion_value value = completion_of_value(spec);
    ASSERT(spec);
    ASSERT(stream);
    write_condition(command, stream);
    fprintf(stream, "' -l %s", spec->name);
    if (spec->short_name) {
        fprintf(stream, " -s %c", spec->short_name);
    }
    if (value.taken) {
        fputs(value.operand == CLI_OPERAND_FILE ? " -r -F" : " -x", stream);
    }
    if (value.words[0] != 0) {
        fprintf(stream, " -a '%s'", value.words);
    } else if (completion_list(value.operand)) {
        fprintf(stream, " -a '(kelpie %s 2>/dev/null)'", completion_list(value.operand));
    }
    fputs(" -d '", stream);
    write_text(spec->help, stream);
    fputs("'\n", stream);
}

static void write_operand(const struct cli_command *command, enum cli_operand operand,
                          FILE *stream) {
    const char *list = completion_list(operand);
    ASSERT(command);
    ASSERT((unsigned)operand < CLI_OPERAND_COUNT);
    write_condition(command, stream);
    if (operand == CLI_OPERAND_RM) {
        fprintf(stream, "; and not __kelpie_rm' -a rm\n");
        write_condition(command, stream);
        fprintf(stream, "; and __kelpie_rm' -a '(kelpie %s 2>/dev/null)'\n", list);
    } else if (operand == CLI_OPERAND_COPY) {
        fprintf(stream, "' -F -a '(kelpie %s 2>/dev/null | string replace -r \"\\$\" :)'\n", list);
    } else if (operand == CLI_OPERAND_SHELL) {
        fputs("' -a 'bash zsh fish'\n", stream);
    } else if (operand == CLI_OPERAND_COMMAND) {
        fputs("' -a '(__kelpie_commands)'\n", stream);
    } else if (list) {
        fprintf(stream, "' -a '(kelpie %s 2>/dev/null)'\n", list);
    } else {
        fputs("' -F\n", stream);
    }
}

static void write_name(const struct cli_command *command, const char *name, FILE *stream) {
    const char *space = strchr(name, ' ');
    ASSERT(command);
    ASSERT(stream);
    if (space) {
        fprintf(stream, "complete -c kelpie -n '__kelpie_before_sub %.*s' -a %s -d '",
                (int)(space - name), name, space + 1);
    } else {
        fprintf(stream, "complete -c kelpie -n __fish_use_subcommand -a %s -d '", name);
    }
    write_text(command->summary, stream);
    fputs("'\n", stream);
}

static void write_command(const struct cli_table *table, const struct cli_command *command,
                          FILE *stream) {
    ASSERT(table);
    ASSERT(command);
    write_name(command, command->name, stream);
    if (command->alias) {
        write_name(command, command->alias, stream);
    }
    struct option_found found = options_at(command->options, 0);
    for (size_t i = 1; found.spec; i++) {
        write_option(command, found.spec, stream);
        found = options_at(command->options, i);
    }
    enum cli_operand last = CLI_OPERAND_NONE;
    for (size_t i = 0; i < CLI_OPERAND_KIND_MAX && command->operands[i] != CLI_OPERAND_NONE; i++) {
        if (command->operands[i] != last) {
            last = command->operands[i];
            write_operand(command, last, stream);
        }
    }
}

void completion_fish(const struct cli_table *table, FILE *stream) {
    ASSERT(table->count > 0);
    ASSERT(stream);
    fputs("# fish completion of kelpie, made by `kelpie completion fish`.\n"
          "function __kelpie_commands\n    printf '%s\\n'",
          stream);
    for (size_t i = 0; i < table->count; i++) {
        if (!table->commands[i]->hidden) {
            fprintf(stream, " %s", table->commands[i]->name);
        }
    }
    fputs("\nend\n"
          "function __kelpie_is # one of the commands COMMAND...\n"
          "    set -l words (commandline -opc)\n"
          "    test (count $words) -ge 2; and contains -- $words[2] $argv\n"
          "end\n"
          "function __kelpie_before_sub # the subcommand of COMMAND is typed now\n"
          "    set -l words (commandline -opc)\n"
          "    test (count $words) -eq 2; and test $words[2] = $argv[1]\n"
          "end\n"
          "function __kelpie_is_sub # COMMAND SUBCOMMAND\n"
          "    set -l words (commandline -opc)\n"
          "    test (count $words) -ge 3; and test \"$words[2..3]\" = \"$argv\"\n"
          "end\n"
          "function __kelpie_rm # kelpie snapshots rm\n"
          "    set -l words (commandline -opc)\n"
          "    test (count $words) -ge 3; and test $words[3] = rm\n"
          "end\n"
          "complete -c kelpie -f\ncomplete -c kelpie -s h -l help -d 'show this help'\n",
          stream);
    completion_each(table, write_command, stream);
}
