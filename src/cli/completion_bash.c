/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The script for bash. It needs nothing but bash 4.4: not the package bash-completion. Words are those that bash makes, which
 * cuts at '=' and ':' too.
 */
#include <string.h>

#include "base/assert.h"
#include "cli/completion.h"

static const char head[] =
    "# bash completion of kelpie, made by `kelpie completion bash`.\n"
    "\n"
    "_kelpie_words() {\n"
    "    local IFS=$' \\t\\n'\n"
    "    mapfile -t COMPREPLY < <(compgen -W \"$1\" -- \"$cur\")\n"
    "}\n"
    "\n"
    "_kelpie_names() {\n"
    "    _kelpie_words \"$(\"$kelpie\" $1 2>/dev/null)\"\n"
    "}\n"
    "\n"
    "_kelpie_files() {\n"
    "    compopt -o filenames 2>/dev/null\n"
    "    mapfile -t COMPREPLY < <(compgen -f -- \"$cur\")\n"
    "}\n"
    "\n"
    "# A file here, or VM: with no space behind.\n"
    "_kelpie_copy() {\n"
    "    local names files\n"
    "    if [[ $cur == : || $prev == : ]]; then\n"
    "        return\n"
    "    fi\n"
    "    mapfile -t names < <(compgen -S : -W \"$(\"$kelpie\" $1 2>/dev/null)\" -- \"$cur\")\n"
    "    mapfile -t files < <(compgen -f -- \"$cur\")\n"
    "    compopt -o nospace 2>/dev/null\n"
    "    COMPREPLY=(\"${names[@]}\" \"${files[@]}\")\n"
    "}\n"
    "\n";

static const char tail[] =
    "    if [[ $option ]]; then\n"
    "        _kelpie_value\n"
    "        return\n"
    "    fi\n"
    "    # How many words stand before this one that are no options and no values of one.\n"
    "    local index=0 word i\n"
    "    for ((i = first; i < COMP_CWORD; i++)); do\n"
    "        word=${COMP_WORDS[i]}\n"
    "        if [[ $word == -- ]]; then\n"
    "            return\n"
    "        elif [[ ${COMP_WORDS[i + 1]} == = && $word == --* ]]; then\n"
    "            ((i += 2))\n"
    "        elif [[ $values == *\" $word \"* ]]; then\n"
    "            ((i++))\n"
    "        elif [[ $word != -?* ]]; then\n"
    "            ((index++))\n"
    "        fi\n"
    "    done\n"
    "    if [[ $cur == -* ]]; then\n"
    "        _kelpie_words \"$options\"\n"
    "    elif ((index < ${#operands[@]})); then\n"
    "        eval \"${operands[index]}\"\n"
    "    elif [[ $repeat ]]; then\n"
    "        eval \"${operands[-1]}\"\n"
    "    fi\n"
    "}\n"
    "\n"
    "complete -F _kelpie kelpie\n";

/* The call that completes a word of that kind. */
static void write_operand(const struct cli_table *table, enum cli_operand operand, FILE *stream) {
    const char *list = completion_list(operand);
    ASSERT((unsigned)operand < CLI_OPERAND_COUNT);
    ASSERT(table);
    if (operand == CLI_OPERAND_COMMAND) {
        fputs("_kelpie_commands", stream);
    } else if (operand == CLI_OPERAND_SHELL) {
        fputs("_kelpie_shells", stream);
    } else if (operand == CLI_OPERAND_COPY) {
        fprintf(stream, "_kelpie_copy '%s'", list);
    } else if (operand == CLI_OPERAND_RM) {
        fputs("_kelpie_rm", stream);
    } else if (list) {
        fprintf(stream, "_kelpie_names '%s'", list);
    } else {
        fputs(operand == CLI_OPERAND_FILE ? "_kelpie_files" : ":", stream);
    }
}

static void write_commands(const struct cli_table *table, FILE *stream) {
    ASSERT(table->count > 0);
    ASSERT(stream);
    fputs("_kelpie_commands() {\n    _kelpie_words '", stream);
    for (size_t i = 0; i < table->count; i++) {
        const struct cli_command *command = table->commands[i];
        if (!command->hidden) {
            fprintf(stream, "%s%s", i > 0 ? " " : "", command->name);
        }
        if (command->alias && !command->hidden) {
            fprintf(stream, " %s", command->alias);
        }
    }
    fputs("'\n}\n\n_kelpie_shells() {\n    _kelpie_words 'bash zsh fish'\n}\n\n"
          "_kelpie_rm() {\n"
          "    if ((index == 0)); then\n"
          "        _kelpie_words rm\n"
          "    elif [[ ${COMP_WORDS[2]} == rm ]]; then\n"
          "        _kelpie_names 'snapshots -q'\n"
          "    fi\n"
          "}\n\n",
          stream);
}

/* " --name -n " for each option of that sort. */
static void write_options(const struct cli_command *command, bool only_valued, FILE *stream) {
    struct option_found found = options_at(command->options, 0);
    ASSERT(command);
    ASSERT(stream);
    for (size_t i = 1; found.spec; i++) {
        if (found.spec->value_name || !only_valued) {
            fprintf(stream, " --%s", found.spec->name);
            if (found.spec->short_name) {
                fprintf(stream, " -%c", found.spec->short_name);
            }
        }
        found = options_at(command->options, i);
    }
    fputs(only_valued ? " " : " --help", stream);
}

static void write_command(const struct cli_table *table, const struct cli_command *command,
                          FILE *stream) {
    ASSERT(command);
    ASSERT(stream);
    fprintf(stream, "    '%s'%s%s)\n        options='", command->name, command->alias ? "|" : "",
            command->alias ? command->alias : "");
    write_options(command, false, stream);
    fputs("'\n        values='", stream);
    write_options(command, true, stream);
    fputs("'\n", stream);
    if (command->operands[0] != CLI_OPERAND_NONE) {
        fputs("        operands=(", stream);
        for (size_t i = 0; i < CLI_OPERAND_KIND_MAX && command->operands[i] != CLI_OPERAND_NONE;
             i++) {
            fputs(i > 0 ? " \"" : "\"", stream);
            write_operand(table, command->operands[i], stream);
            fputc('"', stream);
        }
        fputs(")\n", stream);
    }
    if (command->operands_repeat) {
        fputs("        repeat=1\n", stream);
    }
    fputs("        ;;\n", stream);
}

/* What the value of each option is, by "command --option". */
static void write_values(const struct cli_table *table, const struct cli_command *command,
                         FILE *stream) {
    ASSERT(command->options);
    struct option_found found = options_at(command->options, 0);
    ASSERT(table);
    ASSERT(stream);
    for (size_t i = 1; found.spec; i++) {
        struct completion_value value = completion_of_value(found.spec);
        if (value.words[0] != 0) {
            fprintf(stream, "    '%s --%s') _kelpie_words '%s' ;;\n", command->name,
                    found.spec->name, value.words);
        } else if (value.operand != CLI_OPERAND_NONE) {
            fprintf(stream, "    '%s --%s') ", command->name, found.spec->name);
            write_operand(table, value.operand, stream);
            fputs(" ;;\n", stream);
        }
        found = options_at(command->options, i);
    }
}

/* The second word is a command too, and those behind it are that one's. */
static void write_subcommands(const struct cli_command *command, FILE *stream) {
    ASSERT(command);
    ASSERT(stream);
    if (!command->subcommands) {
        return;
    }
    fprintf(stream, "    %s)\n        if ((COMP_CWORD == 2)); then\n            _kelpie_words '",
            command->name);
    for (size_t i = 0; command->subcommands[i]; i++) {
        fprintf(stream, "%s%s", i > 0 ? " " : "", cli_subcommand_word(command->subcommands[i]));
    }
    fputs("'\n            return\n        fi\n"
          "        command+=\" ${COMP_WORDS[2]}\" first=3\n        ;;\n",
          stream);
}

void completion_bash(const struct cli_table *table, FILE *stream) {
    ASSERT(table->count > 0);
    ASSERT(stream);
    fputs(head, stream);
    write_commands(table, stream);
    fputs("_kelpie_value() {\n    case \"$command $option\" in\n", stream);
    completion_each(table, write_values, stream);
    fputs("    esac\n}\n\n"
          "_kelpie() {\n"
          "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}\n"
          "    local kelpie=${COMP_WORDS[0]} command=${COMP_WORDS[1]}\n"
          "    local options='' values='' option='' repeat='' operands=() first=2\n"
          "    COMPREPLY=()\n"
          "    if ((COMP_CWORD == 1)); then\n"
          "        _kelpie_commands\n"
          "        return\n"
          "    fi\n"
          "    case $command in\n",
          stream);
    for (size_t i = 0; i < table->count; i++) {
        write_subcommands(table->commands[i], stream);
    }
    fputs("    esac\n    case $command in\n", stream);
    completion_each(table, write_command, stream);
    fputs("    *) return ;;\n    esac\n"
          "    # --name VALUE and --name=VALUE, where bash has cut at the '='.\n"
          "    if [[ $cur == = ]]; then\n"
          "        option=$prev cur=''\n"
          "    elif [[ $prev == = && $COMP_CWORD -gt 3 ]]; then\n"
          "        option=${COMP_WORDS[COMP_CWORD - 2]}\n"
          "    elif [[ $values == *\" $prev \"* ]]; then\n"
          "        option=$prev\n"
          "    fi\n",
          stream);
    fputs(tail, stream);
}
