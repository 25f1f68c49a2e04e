/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* kelpie completion: scripts for shells. */
#include "cli/completion.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "cli/output.h"

static const struct {
    const char *name;
    void (*write)(const struct cli_table *table, FILE *stream);
} shells[] = {
    {"bash", completion_bash},
    {"zsh", completion_zsh},
    {"fish", completion_fish},
};

const char *completion_list(enum cli_operand operand) {
    static const char *const lists[] = {
        [CLI_OPERAND_NONE] = NULL,         [CLI_OPERAND_VM] = "ls -a -q",
        [CLI_OPERAND_IMAGE] = "images -q", [CLI_OPERAND_SNAPSHOT] = "snapshots -q",
        [CLI_OPERAND_COPY] = "ls -q",      [CLI_OPERAND_FILE] = NULL,
        [CLI_OPERAND_COMMAND] = NULL,      [CLI_OPERAND_SHELL] = NULL,
        [CLI_OPERAND_RM] = "snapshots -q",
    };
    static_assert(ARRAY_SIZE(lists) == CLI_OPERAND_COUNT, "each kind of word has its list");
    ASSERT((unsigned)operand < CLI_OPERAND_COUNT);
    return lists[operand];
}

void completion_each(const struct cli_table *table, completion_writer *write, FILE *stream) {
    ASSERT(table->count > 0);
    ASSERT(write);
    for (size_t i = 0; i < table->count; i++) {
        const struct cli_command *command = table->commands[i];
        if (!command->hidden) {
            write(table, command, stream);
        }
        for (size_t j = 0; command->subcommands && command->subcommands[j]; j++) {
            write(table, command->subcommands[j], stream);
        }
    }
}

/* "auto" and the backends. */
static void list_backends(char *words, size_t size) {
    struct kelpie_backend backends[KELPIE_BACKEND_COUNT_MAX];
    size_t count = kelpie_backend_list(backends, KELPIE_BACKEND_COUNT_MAX);
    ASSERT(count <= KELPIE_BACKEND_COUNT_MAX);
    ASSERT(size > sizeof("auto"));
    int used = snprintf(words, size, "auto");
    for (size_t i = 0; i < count && used > 0 && (size_t)used < size; i++) {
        used += snprintf(words + used, size - (size_t)used, " %.15s", backends[i].name);
    }
}

struct completion_value completion_of_value(const struct option_spec *spec) {
    struct completion_value value = {.taken = spec->value_name != NULL};
    ASSERT(spec->name);
    if (!value.taken) {
        return value;
    }
    ASSERT(spec->value_name[0] != 0);
    bool in_guest = strcmp(spec->name, "workdir") == 0 || strcmp(spec->name, "workspace") == 0;
    if (strcmp(spec->name, "backend") == 0) {
        list_backends(value.words, sizeof(value.words));
    } else if (strcmp(spec->name, "net") == 0) {
        snprintf(value.words, sizeof(value.words), "none user user,loopback");
    } else if (strcmp(spec->name, "kind") == 0) {
        snprintf(value.words, sizeof(value.words), "suspend teleport checkpoint");
    } else if (strcmp(spec->value_name, "SNAP") == 0) {
        value.operand = CLI_OPERAND_SNAPSHOT;
    } else if (strncmp(spec->value_name, "F[", 2) == 0 || strcmp(spec->value_name, "FILE") == 0 ||
               (strcmp(spec->value_name, "DIR") == 0 && !in_guest)) {
        value.operand = CLI_OPERAND_FILE;
    }
    return value;
}

static int completion_run(const struct cli_table *table, struct option_words *words) {
    ASSERT(table);
    ASSERT(words);
    int code = CLI_EXIT_OK;
    AUTO_MEM struct cli_operands *operands = calloc(1, sizeof(*operands));
    if (!operands) {
        return output_no_memory();
    }
    if (!cli_parse_all(&cli_completion, words, NULL, operands, &code)) {
        return code;
    }
    for (size_t i = 0; i < ARRAY_SIZE(shells); i++) {
        if (strcmp(shells[i].name, operands->words[0]) == 0) {
            shells[i].write(table, stdout);
            return fflush(stdout) == 0 ? CLI_EXIT_OK : CLI_EXIT_FAILED;
        }
    }
    struct kelpie_error err;
    error_set(&err, KELPIE_BAD_CONFIG, "there is no completion for \"%.60s\": bash, zsh or fish",
              operands->words[0]);
    output_error(NULL, &err);
    return CLI_EXIT_FAILED;
}

static const struct option_table completion_table = {NULL, 0};

const struct cli_command cli_completion = {
    .name = "completion",
    .summary = "Prints a script that completes commands, options and names in a shell",
    .synopsis = "bash|zsh|fish",
    .notes =
        "bash: source <(kelpie completion bash), in ~/.bashrc. zsh: kelpie completion zsh, into a "
        "file\n"
        "_kelpie of a folder in $fpath. fish: kelpie completion fish | source, in config.fish.\n",
    .options = &completion_table,
    .run = completion_run,
    .group = CLI_GROUP_HOST,
    .operands = {CLI_OPERAND_SHELL},
    .rule = {1, 1, "the shell's name"},
    .examples = "source <(kelpie completion bash)\n",
};
