/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Reading commands and expanding words: POSIX Shell Command Language, 2.2 to 2.7, as far as mock_shell.h says. */
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "backend/mock/mock_files.h"
#include "backend/mock/mock_shell.h"
#include "base/assert.h"
#include "base/checked.h"
#include "base/cleanup.h"

static const char *const keywords[] = {
    [MOCK_KEYWORD_NONE] = "",       [MOCK_KEYWORD_IF] = "if",       [MOCK_KEYWORD_THEN] = "then",
    [MOCK_KEYWORD_ELIF] = "elif",   [MOCK_KEYWORD_ELSE] = "else",   [MOCK_KEYWORD_FI] = "fi",
    [MOCK_KEYWORD_WHILE] = "while", [MOCK_KEYWORD_UNTIL] = "until", [MOCK_KEYWORD_DO] = "do",
    [MOCK_KEYWORD_DONE] = "done",
};
static_assert(ARRAY_SIZE(keywords) == MOCK_KEYWORD_COUNT, "each keyword has its text");

/* The script's bytes from the position on; a zero ends them. */
static const char *here(const struct mock_process *process) {
    mock_process_check(process);
    const struct mock_shell *shell = process->shell;
    ASSERT(shell->position < shell->script.size);
    return (const char *)shell->script.data + shell->position;
}

static bool is_name_start(char byte) {
    return isalpha((unsigned char)byte) || byte == '_';
}

static size_t name_size(const char *text) {
    ASSERT(text);
    size_t size = is_name_start(text[0]) ? 1 : 0;
    while (size > 0 && (is_name_start(text[size]) || isdigit((unsigned char)text[size]))) {
        size++;
    }
    return size;
}

/* ---- Values ----------------------------------------------------------------------------------- */

static const char *variable_value(const struct mock_process *process, const char *name,
                                  size_t size) {
    mock_process_check(process);
    ASSERT(name);
    const char *value = mock_strings_value(&process->shell->variables, name, size);
    value = value ? value : mock_strings_value(&process->env, name, size);
    return value ? value : "";
}

/* $?, $$, $!, $#, $0 .. $9. Returns the value, in buffer where it is a number; NULL: no such thing. */
static const char *special_value(const struct mock_process *process, char name, char *buffer,
                                 size_t buffer_size) {
    mock_process_check(process);
    ASSERT(buffer);
    const struct mock_shell *shell = process->shell;
    uint32_t behind = process->argv.count > shell->argument_index + 1
                          ? process->argv.count - shell->argument_index - 1
                          : 0;
    uint32_t number = name == '?'   ? shell->status
                      : name == '$' ? process->pid
                      : name == '!' ? shell->background_pid
                                    : behind;
    if (isdigit((unsigned char)name)) {
        const char *value =
            mock_strings_at(&process->argv, shell->argument_index + (uint32_t)(name - '0'));
        return value ? value : (name == '0' ? "sh" : "");
    }
    if (!strchr("?$!#", name) || name == '\0') {
        return NULL;
    }
    snprintf(buffer, buffer_size, "%" PRIu32, number);
    return buffer;
}

/* ---- Arithmetic ------------------------------------------------------------------------------- */

struct arithmetic {
    const struct mock_process *process;
    const char *text;
    const char *error;
};

static void skip_blanks(struct arithmetic *sum) {
    ASSERT(sum);
    sum->text += strspn(sum->text, " \t\n");
}

/* A number or a variable, with signs before it. */
static int64_t arithmetic_operand(struct arithmetic *sum) {
    ASSERT(sum);
    bool negative = false;
    skip_blanks(sum);
    while (*sum->text == '-' || *sum->text == '+') {
        negative = negative != (*sum->text == '-');
        sum->text++;
        skip_blanks(sum);
    }
    sum->text += *sum->text == '$';
    size_t size = name_size(sum->text);
    int64_t value = 0;
    if (size > 0) {
        const char *text = variable_value(sum->process, sum->text, size);
        bool valid = *text == '\0' || mock_number_parse(text, &value);
        sum->error = valid ? sum->error : "arithmetic syntax error";
        sum->text += size;
    } else if (isdigit((unsigned char)*sum->text)) {
        char *end = NULL;
        value = strtoll(sum->text, &end, 10);
        sum->text = end;
    } else {
        sum->error = "arithmetic syntax error";
    }
    skip_blanks(sum);
    return negative ? (int64_t)(0 - (uint64_t)value) : value;
}

static int64_t arithmetic_product(struct arithmetic *sum) {
    ASSERT(sum);
    int64_t value = arithmetic_operand(sum);
    while (!sum->error && *sum->text && strchr("*/%", *sum->text)) {
        char sign = *sum->text++;
        int64_t right = arithmetic_operand(sum);
        if (sign == '*') {
            value = (int64_t)((uint64_t)value * (uint64_t)right);
        } else if (right == 0 || (right == -1 && value == INT64_MIN)) {
            sum->error = "divide by zero";
        } else {
            value = sign == '/' ? value / right : value % right;
        }
    }
    return value;
}

/* Evaluates up to the closing "))", which is left; wraps around as the hardware does. */
static int64_t arithmetic_sum(struct arithmetic *sum) {
    ASSERT(sum);
    int64_t value = arithmetic_product(sum);
    while (!sum->error && (*sum->text == '+' || *sum->text == '-')) {
        char sign = *sum->text++;
        uint64_t right = (uint64_t)arithmetic_product(sum);
        value = (int64_t)(sign == '+' ? (uint64_t)value + right : (uint64_t)value - right);
    }
    return value;
}

/* ---- Words ------------------------------------------------------------------------------------ */

/* A word being expanded. */
struct word {
    struct mock_process *process;
    struct mock_strings *fields;
    bool split;
    bool quoted; /* inside double quotes */
    bool open;   /* the current field exists, even if it is empty */
};

static void word_check(const struct word *word) {
    ASSERT(word->process);
    ASSERT(word->process->shell);
    ASSERT(word->fields);
}

static void word_add(struct word *word, const char *data, size_t size) {
    word_check(word);
    ASSERT(data);
    mock_bytes_append(&word->fields->bytes, data, size);
    word->open = true;
}

static void word_close(struct word *word) {
    word_check(word);
    if (word->open && mock_bytes_append_byte(&word->fields->bytes, '\0')) {
        word->fields->count++;
    }
    word->open = false;
}

/* A value: as it is, or split into fields at its blanks. */
static void word_add_value(struct word *word, const char *value) {
    word_check(word);
    ASSERT(value);
    if (word->quoted || !word->split) {
        word_add(word, value, strlen(value));
        return;
    }
    while (*value) {
        size_t size = strcspn(value, " \t\n");
        if (size > 0) {
            word_add(word, value, size);
        }
        value += size;
        if (*value) {
            word_close(word);
            value++;
        }
    }
}

/* "$((…))" with the position on its dollar. */
static const char *word_arithmetic(struct word *word) {
    word_check(word);
    const char *start = here(word->process);
    struct arithmetic sum = {.process = word->process, .text = start + 3};
    int64_t value = arithmetic_sum(&sum);
    if (sum.error || strncmp(sum.text, "))", 2) != 0) {
        return sum.error ? sum.error : "arithmetic syntax error";
    }
    char text[24];
    snprintf(text, sizeof(text), "%" PRId64, value);
    word_add_value(word, text);
    word->process->shell->position += (size_t)(sum.text + 2 - start);
    return NULL;
}

/* What a dollar begins. */
static const char *word_dollar(struct word *word) {
    word_check(word);
    struct mock_shell *shell = word->process->shell;
    const char *text = here(word->process) + 1;
    if (strncmp(text, "((", 2) == 0) {
        return word_arithmetic(word);
    }
    if (*text == '(') {
        return "command substitution is not supported";
    }
    bool braced = *text == '{';
    text += braced;
    char number[16];
    size_t size = name_size(text);
    const char *value = size > 0 ? variable_value(word->process, text, size)
                                 : special_value(word->process, *text, number, sizeof(number));
    if (!value && braced) {
        return "bad substitution";
    }
    if (!value) {
        word_add(word, "$", 1);
        shell->position++;
        return NULL;
    }
    size = size > 0 ? size : 1;
    if (braced && text[size] != '}') {
        return "bad substitution";
    }
    word_add_value(word, value);
    shell->position += 1 + size + (braced ? 2 : 0);
    return NULL;
}

static const char *word_single_quotes(struct word *word) {
    word_check(word);
    struct mock_shell *shell = word->process->shell;
    const char *start = here(word->process) + 1;
    const char *end = strchr(start, '\'');
    if (!end) {
        return "unterminated quoted string";
    }
    word_add(word, start, (size_t)(end - start));
    shell->position += (size_t)(end - start) + 2;
    return NULL;
}

static void word_backslash(struct word *word) {
    word_check(word);
    struct mock_shell *shell = word->process->shell;
    char next = here(word->process)[1];
    bool keeps = word->quoted && !strchr("$`\"\\\n", next);
    if (next == '\0' || keeps) {
        word_add(word, "\\", 1);
        shell->position++;
        return;
    }
    if (next != '\n') {
        word_add(word, &next, 1);
    }
    shell->position += 2;
}

/* Takes one piece of a word at the position. */
static const char *word_piece(struct word *word) {
    word_check(word);
    struct mock_shell *shell = word->process->shell;
    char byte = *here(word->process);
    switch (byte) {
    case '\\':
        word_backslash(word);
        return NULL;
    case '$':
        return word_dollar(word);
    case '`':
        return "command substitution is not supported";
    case '"':
        word->quoted = !word->quoted;
        word->open = true;
        shell->position++;
        return NULL;
    case '\'':
        if (!word->quoted) {
            return word_single_quotes(word);
        }
        break;
    default:
        break;
    }
    word_add(word, &byte, 1);
    shell->position++;
    return NULL;
}

const char *mock_shell_expand(struct mock_process *process, struct mock_strings *fields,
                              bool split) {
    mock_process_check(process);
    mock_strings_check(fields);
    struct word word = {.process = process, .fields = fields, .split = split};
    char byte = *here(process);
    while (byte != '\0' && (word.quoted || !strchr(" \t\n;&|<>()", byte))) {
        const char *error = word_piece(&word);
        if (error) {
            return error;
        }
        byte = *here(process);
    }
    if (word.quoted) {
        return "unterminated quoted string";
    }
    word.open = word.open || !split;
    word_close(&word);
    return fields->bytes.failed ? "out of memory" : NULL;
}

/* ---- Commands --------------------------------------------------------------------------------- */

static void skip_space(struct mock_process *process) {
    mock_process_check(process);
    struct mock_shell *shell = process->shell;
    shell->position += strspn(here(process), " \t");
    while (strncmp(here(process), "\\\n", 2) == 0) {
        shell->position += 2;
        shell->position += strspn(here(process), " \t");
    }
    if (*here(process) == '#') {
        shell->position += strcspn(here(process), "\n");
    }
}

/* Takes the operator at the position. False: none is there. */
static bool read_operator(struct mock_process *process, struct mock_command *command) {
    mock_process_check(process);
    ASSERT(command);
    struct mock_shell *shell = process->shell;
    const char *text = here(process);
    size_t size = 1;
    switch (*text) {
    case '\0':
        command->behind = MOCK_SHELL_END;
        return true;
    case ';':
    case '\n':
        command->behind = MOCK_SHELL_THEN;
        break;
    case '&':
        command->behind = text[1] == '&' ? MOCK_SHELL_AND : MOCK_SHELL_BACKGROUND;
        size = text[1] == '&' ? 2 : 1;
        break;
    case '|':
        command->behind = MOCK_SHELL_OR;
        command->error = text[1] == '|' ? NULL : "pipes are not supported";
        size = 2;
        break;
    case '(':
    case ')':
        command->error = "syntax error: unexpected parenthesis";
        return true;
    default:
        return false;
    }
    shell->position += command->error ? 0 : size;
    return true;
}

/* The file of a redirection. */
static const char *read_path(struct mock_process *process, char **ret_path) {
    mock_process_check(process);
    ASSERT(ret_path);
    struct host *host = process->host;
    AUTO_MEM char *path = host_allocate(host, MOCK_PATH_SIZE_MAX + 1, NULL);
    struct mock_strings fields = mock_strings_init(host);
    skip_space(process);
    const char *error = mock_shell_expand(process, &fields, true);
    if (!error && (fields.count != 1 || !path)) {
        error = "ambiguous redirect";
    }
    if (!error && !mock_path_resolve(process->folder, mock_strings_at(&fields, 0), path)) {
        error = "file name too long";
    }
    mock_strings_deinit(&fields);
    if (!error) {
        free(*ret_path);
        *ret_path = TAKE(path);
    }
    return error;
}

/* ">&N": the stream goes where stream N goes now. */
static const char *read_duplicate(struct mock_process *process, struct mock_target *target,
                                  const struct mock_command *command) {
    mock_process_check(process);
    ASSERT(target);
    ASSERT(command);
    char number = *here(process);
    if (number != '1' && number != '2') {
        return "bad file descriptor";
    }
    process->shell->position++;
    const struct mock_target *source = &command->targets[number - '1'];
    AUTO_MEM char *path = source->path ? host_duplicate(process->host, source->path, NULL) : NULL;
    if (source->path && !path) {
        return "out of memory";
    }
    target->stream = source->stream;
    if (source != target) {
        free(target->path);
        target->path = TAKE(path);
    }
    return NULL;
}

/* Takes a redirection at the position. False: none is there. */
static bool read_redirection(struct mock_process *process, struct mock_command *command) {
    mock_process_check(process);
    ASSERT(command);
    struct mock_shell *shell = process->shell;
    const char *text = here(process);
    bool numbered = (text[0] >= '0' && text[0] <= '2') && (text[1] == '>' || text[1] == '<');
    const char *sign = text + numbered;
    if (*sign != '>' && *sign != '<') {
        return false;
    }
    bool is_input = *sign == '<';
    uint32_t number = numbered ? (uint32_t)(text[0] - '0') : (is_input ? 0 : 1);
    if (is_input != (number == 0) || (is_input && sign[1] == '<')) {
        command->error = "redirection is not supported";
        return true;
    }
    bool append = !is_input && sign[1] == '>';
    bool duplicate = sign[1] == '&';
    shell->position += numbered + 1u + (append || duplicate);
    if (is_input) {
        command->error =
            duplicate ? "bad file descriptor" : read_path(process, &command->input_path);
        return true;
    }
    struct mock_target *target = &command->targets[number - 1];
    if (duplicate) {
        command->error = read_duplicate(process, target, command);
        return true;
    }
    command->error = read_path(process, &target->path);
    command->truncates |= append ? 0 : 1u << (number - 1);
    return true;
}

static enum mock_shell_keyword read_keyword(struct mock_process *process) {
    mock_process_check(process);
    const char *text = here(process);
    size_t size = strspn(text, "abcdefghijklmnopqrstuvwxyz");
    if (text[size] != '\0' && !strchr(" \t\n;&|<>()", text[size])) {
        return MOCK_KEYWORD_NONE;
    }
    for (uint32_t i = 1; i < MOCK_KEYWORD_COUNT; i++) {
        if (strlen(keywords[i]) == size && memcmp(keywords[i], text, size) == 0) {
            process->shell->position += size;
            return (enum mock_shell_keyword)i;
        }
    }
    return MOCK_KEYWORD_NONE;
}

static void read_word(struct mock_process *process, struct mock_command *command) {
    mock_process_check(process);
    ASSERT(command);
    const char *text = here(process);
    size_t size = name_size(text);
    bool assigns = command->words.count == 0 && size > 0 && text[size] == '=';
    if (strncmp(text, "{ ", 2) == 0 || strncmp(text, "case ", 5) == 0 ||
        strncmp(text, "for ", 4) == 0) {
        command->error = command->words.count == 0 ? "syntax error: not supported" : NULL;
    }
    if (!command->error) {
        command->error =
            mock_shell_expand(process, assigns ? &command->assignments : &command->words, !assigns);
    }
}

void mock_shell_read(struct mock_process *process, struct mock_command *ret_command) {
    mock_process_check(process);
    ASSERT(ret_command);
    struct host *host = process->host;
    struct mock_shell *shell = process->shell;
    *ret_command = (struct mock_command){
        .assignments = mock_strings_init(host),
        .words = mock_strings_init(host),
        .targets = {{.stream = MOCK_OUT}, {.stream = MOCK_ERR}},
    };
    bool is_first = true;
    for (size_t i = 0; i < shell->script.size && !ret_command->error; i++) {
        skip_space(process);
        if (read_operator(process, ret_command)) {
            return;
        }
        if (is_first) {
            ret_command->keyword = read_keyword(process);
        }
        if (ret_command->keyword != MOCK_KEYWORD_NONE) {
            return;
        }
        is_first = false;
        if (!read_redirection(process, ret_command)) {
            read_word(process, ret_command);
        }
    }
}

void mock_command_deinit(struct mock_command *command) {
    ASSERT(command);
    mock_strings_deinit(&command->assignments);
    mock_strings_deinit(&command->words);
    free(command->input_path);
    for (size_t i = 0; i < MOCK_STREAM_COUNT; i++) {
        free(command->targets[i].path);
    }
}
