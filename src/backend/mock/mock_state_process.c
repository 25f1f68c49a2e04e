/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* PROCESS records of mock_state.h. */
#include <string.h>

#include "backend/mock/mock_guest.h"
#include "backend/mock/mock_program.h"
#include "backend/mock/mock_shell.h"
#include "backend/mock/mock_state_fields.h"
#include "base/assert.h"

#define STATE_PROGRAM_NAME_SIZE 16
#define STATE_SIGNAL_MAX 64
#define STATE_EXIT_CODE_MAX 255
#define STATE_ARGUMENT_INDEX_MAX 3

struct mock_process *mock_state_process_create(struct mock_session *session) {
    mock_session_check(session);
    struct host *host = session->guest->host;
    struct mock_process *process = host_allocate(host, sizeof(*process), NULL);
    if (!process) {
        return NULL;
    }
    *process = (struct mock_process){
        .session = session,
        .host = host,
        .argv = mock_strings_init(host),
        .env = mock_strings_init(host),
        .pending = {mock_bytes_init(host), mock_bytes_init(host)},
    };
    return process;
}

static void shell_visit(struct mock_state_visitor *visitor, struct mock_shell *shell) {
    ASSERT(visitor);
    mock_visitor_check(visitor);
    mock_shell_check(shell);
    uint64_t position = shell->position;
    uint32_t last = shell->last;
    mock_state_blob(visitor, &shell->script, MOCK_SCRIPT_SIZE_MAX + MOCK_CHUNK_SIZE);
    mock_state_bool(visitor, &shell->interactive);
    mock_state_bool(visitor, &shell->prompted);
    mock_state_bool(visitor, &shell->ready);
    mock_state_u64(visitor, &position, MOCK_SCRIPT_SIZE_MAX);
    mock_state_u32(visitor, &shell->status, UINT32_MAX);
    mock_state_u32(visitor, &shell->child, UINT32_MAX);
    mock_state_bool(visitor, &shell->replaced);
    mock_state_bool(visitor, &shell->waits);
    mock_state_u32(visitor, &last, MOCK_SHELL_OPERATOR_COUNT - 1);
    mock_state_u32(visitor, &shell->argument_index, STATE_ARGUMENT_INDEX_MAX);
    mock_state_u32(visitor, &shell->background_pid, UINT32_MAX);
    mock_state_strings(visitor, &shell->variables);
    mock_state_u32(visitor, &shell->depth, MOCK_SHELL_DEPTH_MAX);
    for (uint32_t i = 0; i < shell->depth && !visitor->failed; i++) {
        uint32_t kind = shell->frames[i].kind;
        uint64_t start = shell->frames[i].start;
        mock_state_u32(visitor, &kind, MOCK_SHELL_KIND_COUNT - 1);
        mock_state_u64(visitor, &start, MOCK_SCRIPT_SIZE_MAX);
        shell->frames[i] = (struct mock_shell_frame){(enum mock_shell_kind)kind, (size_t)start};
    }
    shell->position = (size_t)position;
    shell->last = (enum mock_shell_operator)last;
}

static void program_visit(struct mock_state_visitor *visitor, struct mock_process *process) {
    ASSERT(visitor);
    mock_visitor_check(visitor);
    mock_process_check(process);
    char name[STATE_PROGRAM_NAME_SIZE] = "";
    if (visitor->saves) {
        size_t size = strlen(mock_program_name(process->program));
        ASSERT(size < sizeof(name));
        memcpy(name, mock_program_name(process->program), size + 1);
    }
    mock_state_chars(visitor, name, sizeof(name));
    process->program = mock_program_find(name);
    visitor->failed = visitor->failed || process->program == MOCK_PROGRAM_NONE;
}

static void target_visit(struct mock_state_visitor *visitor, struct mock_target *target) {
    mock_visitor_check(visitor);
    ASSERT(target);
    uint32_t stream = target->stream;
    mock_state_u32(visitor, &stream, MOCK_STREAM_COUNT - 1);
    mock_state_path(visitor, &target->path, false);
    target->stream = (enum mock_stream)stream;
}

void mock_state_process(struct mock_state_visitor *visitor, struct mock_process *process) {
    ASSERT(visitor);
    mock_visitor_check(visitor);
    mock_process_check(process);
    mock_state_u32(visitor, &process->pid, UINT32_MAX);
    mock_state_u32(visitor, &process->parent, UINT32_MAX);
    program_visit(visitor, process);
    mock_state_bool(visitor, &process->background);
    mock_state_strings(visitor, &process->argv);
    mock_state_strings(visitor, &process->env);
    mock_state_path(visitor, &process->folder, true);
    mock_state_path(visitor, &process->input_path, false);
    for (size_t i = 0; i < MOCK_STREAM_COUNT; i++) {
        target_visit(visitor, &process->targets[i]);
        mock_state_blob(visitor, &process->pending[i], MOCK_SCRIPT_SIZE_MAX);
    }
    mock_state_u64(visitor, &process->ignored, UINT64_MAX);
    mock_state_bool(visitor, &process->exited);
    mock_state_bool(visitor, &process->ended);
    mock_state_u32(visitor, &process->exit_code, STATE_EXIT_CODE_MAX);
    mock_state_u32(visitor, &process->signal, STATE_SIGNAL_MAX);
    mock_state_u64(visitor, &process->wake_ns, UINT64_MAX);
    for (size_t i = 0; i < sizeof(process->numbers) / sizeof(process->numbers[0]); i++) {
        mock_state_u64(visitor, &process->numbers[i], UINT64_MAX);
    }
    bool has_shell = process->shell;
    mock_state_bool(visitor, &has_shell);
    if (!visitor->saves && !visitor->failed && has_shell) {
        process->shell = mock_shell_create(visitor->host);
        if (!process->shell) {
            mock_visitor_starve(visitor);
        }
    }
    if (process->shell) {
        shell_visit(visitor, process->shell);
    }
}

static bool shell_is_sound(const struct mock_session *session, uint32_t slot) {
    mock_session_check(session);
    const struct mock_shell *shell = session->processes[slot]->shell;
    const struct mock_bytes *script = &shell->script;
    if (shell->ready) {
        const uint8_t *zero = script->size > 0 ? memchr(script->data, 0, script->size) : NULL;
        if (!zero || zero != script->data + script->size - 1 || shell->position >= script->size) {
            return false;
        }
    } else if (shell->depth > 0 || shell->position > 0) {
        return false;
    }
    for (uint32_t i = 0; i < shell->depth; i++) {
        if (shell->frames[i].start >= script->size) {
            return false;
        }
    }
    if (shell->child == MOCK_PROCESS_NONE) {
        return true;
    }
    const struct mock_process *child =
        shell->child < MOCK_PROCESS_COUNT_MAX ? session->processes[shell->child] : NULL;
    return child && child->parent == slot && !child->background;
}

bool mock_process_is_sound(const struct mock_session *session, uint32_t slot) {
    mock_session_check(session);
    ASSERT(slot < MOCK_PROCESS_COUNT_MAX);
    const struct mock_process *process = session->processes[slot];
    bool is_first = slot == 0;
    if (is_first != (process->parent == MOCK_PROCESS_NONE) || process->argv.count == 0) {
        return false;
    }
    if (!is_first && (process->parent >= MOCK_PROCESS_COUNT_MAX || process->parent == slot ||
                      !session->processes[process->parent])) {
        return false;
    }
    if ((process->ended && !process->exited) || (is_first && process->background)) {
        return false;
    }
    bool is_shell = strcmp(mock_program_name(process->program), "sh") == 0;
    if (is_shell != (process->shell != NULL)) {
        return false;
    }
    return !is_shell || shell_is_sound(session, slot);
}
