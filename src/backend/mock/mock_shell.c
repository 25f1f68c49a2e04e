/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "backend/mock/mock_shell.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "backend/mock/mock_guest.h"
#include "base/assert.h"
#include "base/cleanup.h"

#define STATUS_SYNTAX 2
#define STATUS_NOT_EXECUTABLE 126
#define STATUS_NOT_FOUND 127
#define STATUS_SIGNAL 128

void mock_shell_check(const struct mock_shell *shell) {
    ASSERT(shell);
    ASSERT(shell->depth <= MOCK_SHELL_DEPTH_MAX);
    ASSERT(shell->position <= shell->script.size);
    ASSERT(shell->child == MOCK_PROCESS_NONE || shell->child < MOCK_PROCESS_COUNT_MAX);
}

struct mock_shell *mock_shell_create(struct host *host) {
    ASSERT(host);
    struct mock_shell *shell = host_allocate(host, sizeof(*shell), NULL);
    if (!shell) {
        return NULL;
    }
    shell->script = mock_bytes_init(host);
    shell->variables = mock_strings_init(host);
    shell->child = MOCK_PROCESS_NONE;
    return shell;
}

void mock_shell_destroy(struct mock_shell *shell) {
    if (!shell) {
        return;
    }
    mock_bytes_deinit(&shell->script);
    mock_strings_deinit(&shell->variables);
    free(shell);
}

static void shell_error(struct mock_process *process, const char *text) {
    mock_process_check(process);
    ASSERT(text);
    mock_process_print(process, MOCK_ERR, "sh: %s\n", text);
    mock_process_exit(process, STATUS_SYNTAX);
}

/* ---- The script ------------------------------------------------------------------------------- */

static void script_complete(struct mock_process *process) {
    mock_process_check(process);
    struct mock_shell *shell = process->shell;
    bool has_zero =
        memchr(shell->script.data ? (void *)shell->script.data : "", 0, shell->script.size) != NULL;
    if (has_zero || shell->script.size > MOCK_SCRIPT_SIZE_MAX) {
        shell_error(process, "the script is too long, or no text");
        return;
    }
    if (!mock_bytes_append_byte(&shell->script, '\0')) {
        mock_process_fail(process, ENOMEM, "script");
        return;
    }
    shell->ready = true;
}

/* An interactive shell's line is over: it asks for the next one. */
static void script_next(struct mock_process *process) {
    mock_process_check(process);
    struct mock_shell *shell = process->shell;
    ASSERT(shell->interactive);
    shell->script.size = 0;
    shell->position = 0;
    shell->depth = 0;
    shell->last = MOCK_SHELL_THEN;
    shell->ready = false;
    shell->prompted = false;
}

/* What was read of it; of an interactive shell's, whether it ends. */
static void script_append(struct mock_process *process, const uint8_t *data, size_t size) {
    mock_process_check(process);
    struct mock_shell *shell = process->shell;
    ASSERT(size > 0);
    mock_bytes_append(&shell->script, data, size);
    if (shell->script.failed || shell->script.size > MOCK_SCRIPT_SIZE_MAX) {
        shell_error(process, "the script is too long");
    } else if (shell->interactive && data[size - 1] == '\n') {
        script_complete(process);
    }
}

/* sh -c LINE [NAME ARGUMENT…], sh FILE [ARGUMENT…], or sh [-l] with its script on standard input. */
static bool script_load(struct mock_process *process) {
    mock_process_check(process);
    struct mock_shell *shell = process->shell;
    const char *first = mock_strings_at(&process->argv, 1);
    if (first && strcmp(first, "-l") == 0) {
        first = NULL;
    }
    shell->interactive = !first && !process->input_path && mock_session_is_tty(process->session);
    if (shell->interactive && !shell->prompted) {
        shell->prompted = true;
        mock_process_print(process, MOCK_ERR, "$ ");
    }
    bool is_line = first && strcmp(first, "-c") == 0;
    if (is_line) {
        const char *line = mock_strings_at(&process->argv, 2);
        if (!line) {
            shell_error(process, "-c requires an argument");
            return true;
        }
        shell->argument_index = 3;
        mock_bytes_append(&shell->script, line, strlen(line));
        script_complete(process);
        return true;
    }
    uint8_t buffer[MOCK_CHUNK_SIZE];
    size_t size = sizeof(buffer);
    struct mock_source source = {.path = first, .offset = shell->script.size};
    shell->argument_index = first ? 1 : 0;
    enum mock_read result = mock_process_read(process, &source, buffer, &size);
    if (result == MOCK_READ_FAILED) {
        mock_process_print(process, MOCK_ERR, "sh: can't open '%s'\n", first ? first : "stdin");
        mock_process_exit(process, STATUS_SYNTAX);
    } else if (result == MOCK_READ_END && shell->interactive) {
        mock_process_exit(process, shell->status);
    } else if (result == MOCK_READ_END) {
        script_complete(process);
    } else if (result == MOCK_READ_BYTES) {
        script_append(process, buffer, size);
    }
    return result != MOCK_READ_WAIT;
}

/* ---- if and while ----------------------------------------------------------------------------- */

/* Reads and drops commands until a keyword of this nesting that is in `stops` (bits), and takes it.
 * Returns it, or NONE when the script ends first or is wrong. */
static enum mock_shell_keyword skip_to(struct mock_process *process, uint32_t stops) {
    mock_process_check(process);
    uint32_t depth = 0;
    struct mock_shell *shell = process->shell;
    for (size_t i = 0; i < shell->script.size; i++) {
        struct mock_command command;
        mock_shell_read(process, &command);
        enum mock_shell_keyword keyword = command.keyword;
        bool is_over =
            command.error || (keyword == MOCK_KEYWORD_NONE && command.behind == MOCK_SHELL_END);
        mock_command_deinit(&command);
        if (is_over) {
            return MOCK_KEYWORD_NONE;
        }
        if (depth == 0 && (stops & (1u << keyword))) {
            return keyword;
        }
        bool opens = keyword == MOCK_KEYWORD_IF || keyword == MOCK_KEYWORD_WHILE ||
                     keyword == MOCK_KEYWORD_UNTIL;
        bool closes = keyword == MOCK_KEYWORD_FI || keyword == MOCK_KEYWORD_DONE;
        depth += opens;
        depth -= closes && depth > 0;
    }
    return MOCK_KEYWORD_NONE;
}

static bool frame_push(struct mock_shell *shell, enum mock_shell_kind kind) {
    mock_shell_check(shell);
    if (shell->depth == MOCK_SHELL_DEPTH_MAX) {
        return false;
    }
    shell->frames[shell->depth++] =
        (struct mock_shell_frame){.kind = kind, .start = shell->position};
    return true;
}

/* A condition that did not hold: on to the next branch, or behind the `fi`. */
static bool branch_skip(struct mock_process *process) {
    mock_process_check(process);
    struct mock_shell *shell = process->shell;
    enum mock_shell_keyword found =
        skip_to(process, 1u << MOCK_KEYWORD_ELIF | 1u << MOCK_KEYWORD_ELSE | 1u << MOCK_KEYWORD_FI);
    if (found == MOCK_KEYWORD_FI) {
        ASSERT(shell->depth > 0);
        shell->depth--;
        shell->status = 0;
    }
    return found != MOCK_KEYWORD_NONE;
}

static bool keyword_in_if(struct mock_process *process, enum mock_shell_keyword keyword) {
    mock_process_check(process);
    struct mock_shell *shell = process->shell;
    ASSERT(shell->depth > 0);
    if (keyword == MOCK_KEYWORD_THEN) {
        return shell->status == 0 || branch_skip(process);
    }
    if (keyword == MOCK_KEYWORD_FI) {
        shell->depth--;
        return true;
    }
    if (keyword == MOCK_KEYWORD_ELIF || keyword == MOCK_KEYWORD_ELSE) {
        shell->depth--;
        return skip_to(process, 1u << MOCK_KEYWORD_FI) == MOCK_KEYWORD_FI;
    }
    return false;
}

static bool keyword_in_loop(struct mock_process *process, enum mock_shell_keyword keyword) {
    mock_process_check(process);
    struct mock_shell *shell = process->shell;
    ASSERT(shell->depth > 0);
    const struct mock_shell_frame *frame = &shell->frames[shell->depth - 1];
    if (keyword == MOCK_KEYWORD_DONE) {
        shell->position = frame->start;
        return true;
    }
    if (keyword != MOCK_KEYWORD_DO) {
        return false;
    }
    bool goes_on = (shell->status == 0) == (frame->kind == MOCK_SHELL_WHILE);
    if (goes_on) {
        return true;
    }
    shell->depth--;
    shell->status = 0;
    return skip_to(process, 1u << MOCK_KEYWORD_DONE) == MOCK_KEYWORD_DONE;
}

static bool keyword_run(struct mock_process *process, enum mock_shell_keyword keyword) {
    mock_process_check(process);
    struct mock_shell *shell = process->shell;
    shell->last = MOCK_SHELL_THEN;
    if (keyword == MOCK_KEYWORD_IF) {
        return frame_push(shell, MOCK_SHELL_IF);
    }
    if (keyword == MOCK_KEYWORD_WHILE || keyword == MOCK_KEYWORD_UNTIL) {
        return frame_push(shell,
                          keyword == MOCK_KEYWORD_WHILE ? MOCK_SHELL_WHILE : MOCK_SHELL_UNTIL);
    }
    if (shell->depth == 0) {
        return false;
    }
    return shell->frames[shell->depth - 1].kind == MOCK_SHELL_IF
               ? keyword_in_if(process, keyword)
               : keyword_in_loop(process, keyword);
}

bool mock_shell_break(struct mock_process *process, bool go_on) {
    mock_process_check(process);
    struct mock_shell *shell = process->shell;
    uint32_t depth = shell->depth;
    while (depth > 0 && shell->frames[depth - 1].kind == MOCK_SHELL_IF) {
        depth--;
    }
    if (depth == 0) { /* no loop: it does nothing */
        return true;
    }
    shell->depth = depth;
    if (go_on) {
        shell->position = shell->frames[shell->depth - 1].start;
        return true;
    }
    shell->depth--;
    return skip_to(process, 1u << MOCK_KEYWORD_DONE) == MOCK_KEYWORD_DONE;
}

/* ---- Commands --------------------------------------------------------------------------------- */

/* Opens the files that the command's output goes to. */
static int targets_open(struct mock_process *process, const struct mock_command *command) {
    mock_process_check(process);
    ASSERT(command);
    struct mock_files *files = &process->session->guest->files;
    for (uint32_t i = 0; i < MOCK_STREAM_COUNT; i++) {
        const char *path = command->targets[i].path;
        bool append = !(command->truncates & (1u << i));
        int failure = path ? mock_files_open(files, path, append) : 0;
        if (failure != 0) {
            mock_process_print(process, MOCK_ERR, "sh: can't create %s: %s\n", path,
                               strerror(failure));
            return failure;
        }
    }
    struct mock_file *file = NULL;
    int failure = command->input_path ? mock_files_lookup(files, command->input_path, &file) : 0;
    if (failure != 0) {
        mock_process_print(process, MOCK_ERR, "sh: can't open %s: %s\n", command->input_path,
                           strerror(failure));
    }
    return failure;
}

static void spawn_failed(struct mock_process *process, const struct mock_command *command,
                         int failure) {
    mock_process_check(process);
    ASSERT(command);
    struct mock_shell *shell = process->shell;
    bool is_missing = failure == ENOENT;
    const char *name = mock_strings_at(&command->words, 0);
    char text[MOCK_PRINT_SIZE_MAX / 2];
    snprintf(text, sizeof(text), "sh: %s: %s\n", name,
             is_missing ? "not found" : strerror(failure));
    shell->status = is_missing ? STATUS_NOT_FOUND : STATUS_NOT_EXECUTABLE;
    const struct mock_target *target = &command->targets[MOCK_ERR];
    struct mock_files *files = &process->session->guest->files;
    struct mock_file *file = target->path ? mock_files_find(files, target->path) : NULL;
    if (!target->path) {
        mock_process_write(process, target->stream, text, strlen(text));
    } else if (file && mock_files_append(files, file, text, strlen(text)) != 0) {
        shell->status = 1;
    }
    if (shell->replaced) {
        mock_process_exit(process, shell->status);
    }
}

void mock_shell_run_child(struct mock_process *process, const struct mock_command *command) {
    mock_process_check(process);
    ASSERT(command);
    struct mock_shell *shell = process->shell;
    struct mock_strings env = mock_strings_init(process->host);
    bool copied = mock_strings_copy(&env, &process->env);
    size_t cursor = 0;
    const char *variable = mock_strings_next(&command->assignments, &cursor);
    while (variable && copied) {
        copied = mock_strings_put(&env, variable);
        variable = mock_strings_next(&command->assignments, &cursor);
    }
    struct mock_target targets[MOCK_STREAM_COUNT];
    for (size_t i = 0; i < MOCK_STREAM_COUNT;
         i++) { /* what is not redirected goes where ours goes */
        const struct mock_target *own = &process->targets[command->targets[i].stream];
        targets[i] = command->targets[i].path ? command->targets[i] : *own;
    }
    const struct mock_spawn spawn = {
        .parent = mock_process_slot(process),
        .background = command->behind == MOCK_SHELL_BACKGROUND,
        .argv = &command->words,
        .env = &env,
        .folder = process->folder,
        .input_path = command->input_path ? command->input_path : process->input_path,
        .targets = targets,
        .ignored = process->ignored,
    };
    uint32_t slot = MOCK_PROCESS_NONE;
    int failure = copied ? mock_process_spawn(process->session, &spawn, &slot) : ENOMEM;
    mock_strings_deinit(&env);
    if (failure != 0) {
        spawn_failed(process, command, failure);
    } else if (spawn.background) {
        shell->background_pid = process->session->processes[slot]->pid;
        shell->status = 0;
    } else {
        shell->child = slot;
    }
}

static void command_run(struct mock_process *process, const struct mock_command *command) {
    mock_process_check(process);
    ASSERT(command);
    struct mock_shell *shell = process->shell;
    if (targets_open(process, command) != 0) {
        shell->status = 1;
        return;
    }
    if (command->words.count == 0) {
        size_t cursor = 0;
        const char *variable = mock_strings_next(&command->assignments, &cursor);
        shell->status = variable ? 0 : shell->status;
        while (variable) {
            mock_shell_assign(process, variable);
            variable = mock_strings_next(&command->assignments, &cursor);
        }
        return;
    }
    if (!mock_shell_builtin(process, command)) {
        mock_shell_run_child(process, command);
    }
}

/* ---- Steps ------------------------------------------------------------------------------------ */

/* Takes the child's status. False: it still runs. */
static bool child_take(struct mock_process *process) {
    mock_process_check(process);
    struct mock_shell *shell = process->shell;
    struct mock_session *session = process->session;
    ASSERT(shell->child < MOCK_PROCESS_COUNT_MAX);
    const struct mock_process *child = session->processes[shell->child];
    ASSERT(child);
    if (!child->ended) {
        return false;
    }
    shell->status = child->signal ? STATUS_SIGNAL + child->signal : child->exit_code;
    mock_process_free(session, shell->child);
    shell->child = MOCK_PROCESS_NONE;
    if (shell->replaced) {
        mock_process_exit(process, shell->status);
    }
    return true;
}

bool mock_shell_step(struct mock_process *process) {
    mock_process_check(process);
    struct mock_shell *shell = process->shell;
    ASSERT(shell);
    if (!shell->ready) {
        return script_load(process);
    }
    if (shell->child != MOCK_PROCESS_NONE) {
        return child_take(process);
    }
    if (shell->waits) {
        shell->waits = mock_process_has_background(process);
        return !shell->waits;
    }
    bool skip = (shell->last == MOCK_SHELL_AND && shell->status != 0) ||
                (shell->last == MOCK_SHELL_OR && shell->status == 0);
    struct mock_command command;
    mock_shell_read(process, &command);
    bool is_empty = command.words.count == 0 && command.assignments.count == 0;
    if (command.error) {
        shell_error(process, command.error);
    } else if (command.keyword != MOCK_KEYWORD_NONE) {
        if (!keyword_run(process, command.keyword)) {
            shell_error(process, "syntax error");
        }
    } else {
        bool is_end = command.behind == MOCK_SHELL_END;
        bool is_blank = is_empty && command.behind == MOCK_SHELL_THEN;
        shell->last = is_blank ? shell->last : command.behind; /* a line may end behind && */
        if (!skip) {
            command_run(process, &command);
        }
        bool waits = shell->child != MOCK_PROCESS_NONE || shell->waits;
        bool is_over = is_end && is_empty && !process->exited && !waits;
        if (is_over && shell->interactive) {
            script_next(process);
        } else if (is_over) {
            bool is_open = shell->depth > 0;
            mock_process_exit(process, is_open ? STATUS_SYNTAX : shell->status);
        }
    }
    mock_command_deinit(&command);
    return true;
}
