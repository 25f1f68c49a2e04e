/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The script for zsh: a function _kelpie for compsys, which leaves each command's words to _arguments. */
#include <string.h>

#include "base/assert.h"
#include "cli/completion.h"

static const char head[] = "#compdef kelpie\n"
                           "# zsh completion of kelpie, made by `kelpie completion zsh`.\n"
                           "\n"
                           "_kelpie_names() { # DESCRIPTION WORD...: what `kelpie WORD...` prints\n"
                           "    local -a names\n"
                           "    local what=$1\n"
                           "    shift\n"
                           "    names=(${(f)\"$(${_kelpie_program:-kelpie} $@ 2>/dev/null)\"})\n"
                           "    compadd -X $what -a names\n"
                           "}\n"
                           "_kelpie_vms() { _kelpie_names VM ls -a -q }\n"
                           "_kelpie_images() { _kelpie_names image images -q }\n"
                           "_kelpie_snapshots() { _kelpie_names snapshot snapshots -q }\n"
                           "_kelpie_shells() { compadd bash zsh fish }\n"
                           "_kelpie_copy() {\n"
                           "    local -a names\n"
                           "    names=(${(f)\"$(${_kelpie_program:-kelpie} ls -q 2>/dev/null)\"})\n"
                           "    compadd -S : -a names\n"
                           "    _files\n"
                           "}\n"
                           "_kelpie_rm() {\n"
                           "    if [[ $words[2] == rm ]] && ((CURRENT > 2)); then\n"
                           "        _kelpie_snapshots\n"
                           "    else\n"
                           "        compadd rm\n"
                           "    fi\n"
                           "}\n";

/* Text within '…' of a script, and within […] or behind a ':' of an _arguments specification. */
static void write_text(const char *text, FILE *stream) {
    ASSERT(text);
    ASSERT(stream);
    for (; *text != 0; text++) {
        if (*text == '\'') {
            fputs("'\\''", stream);
        } else if (strchr("[]:\\", *text)) {
            fprintf(stream, "\\%c", *text);
        } else {
            fputc(*text, stream);
        }
    }
}

static const char *action_of(enum cli_operand operand) {
    static const char *const actions[] = {
        [CLI_OPERAND_NONE] = "",
        [CLI_OPERAND_VM] = "_kelpie_vms",
        [CLI_OPERAND_IMAGE] = "_kelpie_images",
        [CLI_OPERAND_SNAPSHOT] = "_kelpie_snapshots",
        [CLI_OPERAND_COPY] = "_kelpie_copy",
        [CLI_OPERAND_FILE] = "_files",
        [CLI_OPERAND_COMMAND] = "_kelpie_commands",
        [CLI_OPERAND_SHELL] = "_kelpie_shells",
        [CLI_OPERAND_RM] = "_kelpie_rm",
    };
    static_assert(ARRAY_SIZE(actions) == CLI_OPERAND_COUNT, "each kind of word has its action");
    ASSERT((unsigned)operand < CLI_OPERAND_COUNT);
    return actions[operand];
}

static void write_option(const struct option_spec *spec, FILE *stream) {
    struct completion_value value = completion_of_value(spec);
    ASSERT(spec);
    ASSERT(stream);
    fputs("        ", stream);
    if (spec->short_name) {
        fprintf(stream, "'*'{-%c,--%s}'", spec->short_name, spec->name);
    } else {
        fprintf(stream, "'*--%s", spec->name);
    }
    /* "--name=" takes its value behind '=' or as the next word. */
    fputs(value.taken && !spec->short_name ? "=[" : "[", stream);
    write_text(spec->help, stream);
    fputc(']', stream);
    if (value.taken) {
        fputc(':', stream);
        write_text(spec->value_name, stream);
        fputc(':', stream);
        if (value.words[0] != 0) {
            fprintf(stream, "(%s)", value.words);
        } else {
            fputs(action_of(value.operand), stream);
        }
    }
    fputs("' \\\n", stream);
}

static void write_command(const struct cli_table *table, const struct cli_command *command,
                          FILE *stream) {
    ASSERT(table);
    ASSERT(command);
    fprintf(stream, "    '%s'%s%s)\n        _arguments -s -S : \\\n", command->name,
            command->alias ? "|" : "", command->alias ? command->alias : "");
    struct option_found found = options_at(command->options, 0);
    for (size_t i = 1; found.spec; i++) {
        write_option(found.spec, stream);
        found = options_at(command->options, i);
    }
    fputs("        '(-h --help)'{-h,--help}'[show this help]'", stream);
    for (size_t i = 0; i < CLI_OPERAND_KIND_MAX && command->operands[i] != CLI_OPERAND_NONE; i++) {
        bool last = i + 1 == CLI_OPERAND_KIND_MAX || command->operands[i + 1] == CLI_OPERAND_NONE;
        fprintf(stream, " \\\n        '%s:word:%s'", last && command->operands_repeat ? "*" : "",
                action_of(command->operands[i]));
    }
    fputs("\n        ;;\n", stream);
}

static void write_description(const struct cli_command *command, const char *name, FILE *stream) {
    ASSERT(command);
    ASSERT(name);
    fprintf(stream, "        '%s:", name);
    write_text(command->summary, stream);
    fputs("'\n", stream);
}

/* The second word is a command too, and those behind it are that one's. */
static void write_subcommands(const struct cli_command *command, FILE *stream) {
    ASSERT(command);
    ASSERT(stream);
    if (!command->subcommands) {
        return;
    }
    fprintf(stream, "    %s)\n        local -a commands=(\n", command->name);
    for (size_t i = 0; command->subcommands[i]; i++) {
        const struct cli_command *subcommand = command->subcommands[i];
        write_description(subcommand, cli_subcommand_word(subcommand), stream);
    }
    fputs("        )\n"
          "        if ((CURRENT == 2)); then\n"
          "            _describe -t commands command commands\n"
          "            return\n"
          "        fi\n"
          "        command+=\" $words[2]\"\n"
          "        shift words\n"
          "        ((CURRENT--))\n"
          "        ;;\n",
          stream);
}

void completion_zsh(const struct cli_table *table, FILE *stream) {
    ASSERT(table->count > 0);
    ASSERT(stream);
    fputs(head, stream);
    fputs("_kelpie_commands() {\n    local -a commands=(\n", stream);
    for (size_t i = 0; i < table->count; i++) {
        const struct cli_command *command = table->commands[i];
        const char *const names[] = {command->name, command->alias};
        for (size_t j = 0; j < ARRAY_SIZE(names) && !command->hidden; j++) {
            if (names[j]) {
                write_description(command, names[j], stream);
            }
        }
    }
    fputs("    )\n    _describe -t commands command commands\n}\n"
          "_kelpie() {\n"
          "    local _kelpie_program=$words[1]\n"
          "    if ((CURRENT == 2)); then\n"
          "        _kelpie_commands\n"
          "        return\n"
          "    fi\n"
          "    shift words\n"
          "    ((CURRENT--))\n"
          "    local command=$words[1]\n"
          "    case $command in\n",
          stream);
    for (size_t i = 0; i < table->count; i++) {
        write_subcommands(table->commands[i], stream);
    }
    fputs("    esac\n    case $command in\n", stream);
    completion_each(table, write_command, stream);
    fputs("    esac\n}\n"
          "# Autoloaded from $fpath the file is the function; sourced it only defines it.\n"
          "if [[ $funcstack[1] == _kelpie ]]; then\n"
          "    _kelpie \"$@\"\n"
          "else\n"
          "    compdef _kelpie kelpie\n"
          "fi\n",
          stream);
}
