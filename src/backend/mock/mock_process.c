/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "backend/mock/mock_process.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "backend/mock/mock_guest.h"
#include "backend/mock/mock_program.h"
#include "backend/mock/mock_shell.h"
#include "base/assert.h"
#include "base/checked.h"
#include "base/cleanup.h"

#define PATH_DEFAULT "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define SHEBANG_SIZE 2
#define SIGNAL_COUNT_MAX 64

void mock_process_check(const struct mock_process *process) {
    ASSERT(process);
    ASSERT(process->session);
    ASSERT(process->host);
    ASSERT(process->exited || !process->ended);
    ASSERT(process->exit_code <= 0xff);
}

/* ---- Finding the program ---------------------------------------------------------------------- */

struct found_program {
    uint32_t index;
    bool is_script; /* a file that begins with #!: the shell runs it */
};

/* What execve would say to this file. */
static int program_at(const struct mock_files *files, const char *path,
                      struct found_program *ret_found) {
    mock_files_check(files);
    ASSERT(path);
    ASSERT(ret_found);
    struct mock_file *file = NULL;
    int failure = mock_files_lookup(files, path, &file);
    if (failure != 0) {
        return failure;
    }
    if (file->type == MOCK_FILE_PROGRAM) {
        *ret_found = (struct found_program){mock_program_find(mock_path_name(path)), false};
        return ret_found->index == MOCK_PROGRAM_NONE ? ENOEXEC : 0;
    }
    if (file->type != MOCK_FILE_REGULAR || !(file->mode & 0111)) {
        return EACCES;
    }
    if (file->content.size < SHEBANG_SIZE || memcmp(file->content.data, "#!", SHEBANG_SIZE) != 0) {
        return ENOEXEC;
    }
    *ret_found = (struct found_program){mock_program_find("sh"), true};
    ASSERT(ret_found->index != MOCK_PROGRAM_NONE);
    return 0;
}

/* Looks a name without a slash up in PATH, as execvp does; writes the path to buffer. */
static int program_search(const struct mock_spawn *spawn, const struct mock_files *files,
                          const char *name, char *buffer, struct found_program *ret_found) {
    ASSERT(spawn);
    mock_files_check(files);
    ASSERT(name);
    ASSERT(buffer);
    ASSERT(ret_found);
    const char *path = mock_strings_value(spawn->env, "PATH", 4);
    path = path ? path : PATH_DEFAULT;
    int failure = ENOENT;
    while (*path && name[0] != '\0') {
        size_t size = strcspn(path, ":");
        char folder[MOCK_PATH_SIZE_MAX + 1];
        snprintf(folder, sizeof(folder), "%.*s", (int)min_size(size, MOCK_PATH_SIZE_MAX), path);
        if (mock_path_resolve(folder, name, buffer)) {
            int found = program_at(files, buffer, ret_found);
            if (found == 0) {
                return 0;
            }
            failure = found == EACCES ? EACCES : failure;
        }
        path += size;
        path += *path == ':';
    }
    return failure;
}

static int program_resolve(const struct mock_spawn *spawn, const struct mock_files *files,
                           char *buffer, struct found_program *ret_found) {
    ASSERT(spawn);
    mock_files_check(files);
    ASSERT(buffer);
    ASSERT(ret_found);
    const char *name = mock_strings_at(spawn->argv, 0);
    ASSERT(name);
    if (!strchr(name, '/')) {
        return program_search(spawn, files, name, buffer, ret_found);
    }
    if (!mock_path_resolve(spawn->folder, name, buffer)) {
        return ENAMETOOLONG;
    }
    return program_at(files, buffer, ret_found);
}

/* ---- Making ----------------------------------------------------------------------------------- */

static int spawn_check(const struct mock_spawn *spawn, const struct mock_files *files) {
    struct mock_file *folder = NULL;
    int failure = mock_files_lookup(files, spawn->folder, &folder);
    if (failure != 0) {
        return failure;
    }
    if (folder->type != MOCK_FILE_FOLDER) {
        return ENOTDIR;
    }
    const struct mock_strings *lists[] = {spawn->argv, spawn->env};
    for (size_t i = 0; i < ARRAY_SIZE(lists); i++) {
        size_t cursor = 0;
        const char *text = mock_strings_next(lists[i], &cursor);
        while (text) {
            if (strlen(text) > MOCK_ARGUMENT_SIZE_MAX) {
                return E2BIG;
            }
            text = mock_strings_next(lists[i], &cursor);
        }
    }
    return 0;
}

/* argv of a script: the shell, the script's path, and the arguments behind argv[0]. */
static bool script_argv(struct mock_strings *argv, const struct mock_strings *source,
                        const char *path) {
    mock_strings_check(argv);
    mock_strings_check(source);
    ASSERT(path);
    size_t cursor = 0;
    const char *text = mock_strings_next(source, &cursor);
    ASSERT(text);
    bool added = mock_strings_add(argv, "sh") && mock_strings_add(argv, path);
    text = mock_strings_next(source, &cursor);
    while (text && added) {
        added = mock_strings_add(argv, text);
        text = mock_strings_next(source, &cursor);
    }
    return added;
}

static bool copy_text(struct host *host, const char *text, char **ret_copy) {
    ASSERT(host);
    ASSERT(ret_copy);
    ASSERT(!*ret_copy);
    *ret_copy = text ? host_duplicate(host, text, NULL) : NULL;
    return !text || *ret_copy;
}

static bool process_fill(struct mock_process *process, const struct mock_spawn *spawn,
                         const struct found_program *found, const char *path) {
    mock_process_check(process);
    ASSERT(spawn);
    ASSERT(found);
    ASSERT(path);
    struct host *host = process->host;
    bool filled = found->is_script ? script_argv(&process->argv, spawn->argv, path)
                                   : mock_strings_copy(&process->argv, spawn->argv);
    filled = filled && mock_strings_copy(&process->env, spawn->env);
    filled = filled && copy_text(host, spawn->folder, &process->folder);
    filled = filled && copy_text(host, spawn->input_path, &process->input_path);
    for (size_t i = 0; i < MOCK_STREAM_COUNT; i++) {
        process->targets[i].stream = (enum mock_stream)i;
        if (spawn->targets && filled) {
            process->targets[i].stream = spawn->targets[i].stream;
            filled = copy_text(host, spawn->targets[i].path, &process->targets[i].path);
        }
    }
    if (filled && strcmp(mock_program_name(found->index), "sh") == 0) {
        process->shell = mock_shell_create(host);
        filled = process->shell != NULL;
    }
    return filled;
}

static uint32_t free_slot(const struct mock_session *session) {
    mock_session_check(session);
    for (uint32_t i = 0; i < MOCK_PROCESS_COUNT_MAX; i++) {
        if (!session->processes[i]) {
            return i;
        }
    }
    return MOCK_PROCESS_NONE;
}

int mock_process_spawn(struct mock_session *session, const struct mock_spawn *spawn,
                       uint32_t *ret_slot) {
    mock_session_check(session);
    ASSERT(spawn);
    ASSERT(ret_slot);
    ASSERT(spawn->argv->count > 0);
    struct mock_guest *guest = session->guest;
    int failure = spawn_check(spawn, &guest->files);
    struct found_program found = {0};
    char path[MOCK_PATH_SIZE_MAX + 1];
    if (failure == 0) {
        failure = program_resolve(spawn, &guest->files, path, &found);
    }
    if (failure != 0) {
        return failure;
    }
    uint32_t slot = free_slot(session);
    if (slot == MOCK_PROCESS_NONE) {
        return EAGAIN;
    }
    struct mock_process *process = host_allocate(guest->host, sizeof(*process), NULL);
    if (!process) {
        return ENOMEM;
    }
    *process = (struct mock_process){
        .session = session,
        .host = guest->host,
        .pid = guest->next_pid++,
        .parent = spawn->parent,
        .program = found.index,
        .background = spawn->background,
        .argv = mock_strings_init(guest->host),
        .env = mock_strings_init(guest->host),
        .ignored = spawn->ignored,
        .pending = {mock_bytes_init(guest->host), mock_bytes_init(guest->host)},
    };
    session->processes[slot] = process;
    if (!process_fill(process, spawn, &found, path)) {
        mock_process_free(session, slot);
        return ENOMEM;
    }
    *ret_slot = slot;
    return 0;
}

void mock_process_free(struct mock_session *session, uint32_t slot) {
    mock_session_check(session);
    ASSERT(slot < MOCK_PROCESS_COUNT_MAX);
    struct mock_process *process = TAKE(session->processes[slot]);
    ASSERT(process);
    for (size_t i = 0; i < MOCK_PROCESS_COUNT_MAX; i++) { /* its children get its parent */
        struct mock_process *child = session->processes[i];
        if (child && child->parent == slot) {
            child->parent = process->parent;
            child->background = true;
        }
    }
    for (size_t i = 0; i < MOCK_STREAM_COUNT; i++) {
        free(process->targets[i].path);
        mock_bytes_deinit(&process->pending[i]);
    }
    mock_strings_deinit(&process->argv);
    mock_strings_deinit(&process->env);
    free(process->folder);
    free(process->input_path);
    mock_shell_destroy(process->shell);
    free(process);
}

uint32_t mock_process_slot(const struct mock_process *process) {
    mock_process_check(process);
    for (uint32_t i = 0; i < MOCK_PROCESS_COUNT_MAX; i++) {
        if (process->session->processes[i] == process) {
            return i;
        }
    }
    UNREACHABLE();
}

bool mock_process_has_background(const struct mock_process *process) {
    mock_process_check(process);
    uint32_t slot = mock_process_slot(process);
    for (uint32_t i = 0; i < MOCK_PROCESS_COUNT_MAX; i++) {
        const struct mock_process *other = process->session->processes[i];
        if (other && other->background && other->parent == slot) {
            return true;
        }
    }
    return false;
}

/* ---- Running ---------------------------------------------------------------------------------- */

/* Writes what is pending of one stream. Returns how much went. */
static size_t stream_drain(struct mock_process *process, enum mock_stream stream) {
    mock_process_check(process);
    struct mock_bytes *pending = &process->pending[stream];
    const struct mock_target *target = &process->targets[stream];
    if (pending->size == 0) {
        return 0;
    }
    size_t size = pending->size;
    if (!target->path) {
        size = mock_session_write(process->session, target->stream, pending->data, pending->size);
        mock_bytes_drop(pending, size);
        return size;
    }
    struct mock_files *files = &process->session->guest->files;
    struct mock_file *file = mock_files_find(files, target->path);
    int failure = file ? mock_files_append(files, file, pending->data, pending->size) : 0;
    mock_bytes_drop(pending, size);
    if (failure != 0 && !process->exited) {
        mock_process_fail(process, failure, "write error");
    } else if (failure != 0) {
        process->exit_code = 1;
    }
    return size;
}

bool mock_process_turn(struct mock_process *process) {
    mock_process_check(process);
    ASSERT(!process->ended);
    bool moved = false;
    bool waits = false;
    for (size_t i = 0; i < MOCK_STREAM_COUNT; i++) {
        if (process->pending[i].failed) { /* no memory: as the kernel's last resort does */
            process->pending[i].failed = false;
            mock_process_signal(process, SIGKILL);
        }
        moved = stream_drain(process, (enum mock_stream)i) > 0 || moved;
        waits = waits || process->pending[i].size > 0;
    }
    if (waits) {
        return moved;
    }
    if (process->exited) {
        process->ended = true;
        return true;
    }
    if (process->wake_ns > process->session->guest->uptime_ns) {
        return moved;
    }
    process->wake_ns = 0;
    return mock_program_step(process) || moved;
}

void mock_process_signal(struct mock_process *process, uint32_t number) {
    mock_process_check(process);
    ASSERT(number >= 1);
    ASSERT(number <= SIGNAL_COUNT_MAX);
    bool of_keyboard = number == SIGINT || number == SIGQUIT || number == SIGTERM;
    bool is_ignored = (process->ignored & (1ull << (number - 1))) ||
                      (of_keyboard && process->shell && process->shell->interactive);
    bool harmless = number == SIGCHLD || number == SIGCONT || number == SIGURG ||
                    number == SIGWINCH || number == SIGSTOP || number == SIGTSTP ||
                    number == SIGTTIN || number == SIGTTOU;
    if (process->ended || harmless || (is_ignored && number != SIGKILL)) {
        return;
    }
    for (size_t i = 0; i < MOCK_STREAM_COUNT; i++) {
        mock_bytes_deinit(&process->pending[i]);
    }
    process->exited = true;
    process->signal = number;
    process->wake_ns = 0;
}

/* ---- For programs ----------------------------------------------------------------------------- */

void mock_process_exit(struct mock_process *process, uint32_t code) {
    mock_process_check(process);
    ASSERT(!process->ended);
    process->exited = true;
    process->exit_code = code & 0xff;
}

void mock_process_write(struct mock_process *process, enum mock_stream stream, const void *data,
                        size_t size) {
    mock_process_check(process);
    ASSERT(stream < MOCK_STREAM_COUNT);
    mock_bytes_append(&process->pending[stream], data, size);
}

void mock_process_print(struct mock_process *process, enum mock_stream stream, const char *format,
                        ...) {
    mock_process_check(process);
    ASSERT(format);
    ASSERT(stream < MOCK_STREAM_COUNT);
    char text[MOCK_PRINT_SIZE_MAX];
    va_list args;
    va_start(args, format);
    int size = vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    ASSERT(size >= 0);
    mock_process_write(process, stream, text, min_size((size_t)size, sizeof(text) - 1));
}

void mock_process_fail(struct mock_process *process, int os_error, const char *what) {
    mock_process_check(process);
    ASSERT(os_error > 0);
    mock_process_print(process, MOCK_ERR, "%s: %s: %s\n", mock_program_name(process->program), what,
                       strerror(os_error));
    mock_process_exit(process, 1);
}

void mock_process_sleep(struct mock_process *process, uint64_t ns) {
    mock_process_check(process);
    uint64_t wake_ns = 0;
    if (!checked_add_u64(process->session->guest->uptime_ns, ns, &wake_ns)) {
        wake_ns = UINT64_MAX;
    }
    process->wake_ns = wake_ns;
}

static enum mock_read regular_read(const struct mock_file *file, uint64_t offset, void *buffer,
                                   size_t *size) {
    ASSERT(file);
    ASSERT(buffer);
    ASSERT(size);
    ASSERT(file->type == MOCK_FILE_REGULAR);
    if (offset >= file->content.size) {
        return MOCK_READ_END;
    }
    *size = min_size(*size, file->content.size - (size_t)offset);
    memcpy(buffer, file->content.data + offset, *size);
    return MOCK_READ_BYTES;
}

enum mock_read mock_process_read(struct mock_process *process, struct mock_source *source,
                                 void *buffer, size_t *size) {
    mock_process_check(process);
    ASSERT(source);
    ASSERT(buffer);
    ASSERT(size);
    ASSERT(*size > 0);
    const char *name = source->path ? source->path : process->input_path;
    if (!name) {
        return process->background ? MOCK_READ_END
                                   : mock_session_read(process->session, buffer, size);
    }
    struct mock_guest *guest = process->session->guest;
    char path[MOCK_PATH_SIZE_MAX + 1];
    struct mock_file *file = NULL;
    source->os_error = mock_path_resolve(process->folder, name, path)
                           ? mock_files_lookup(&guest->files, path, &file)
                           : ENAMETOOLONG;
    if (source->os_error == 0 && file->type == MOCK_FILE_FOLDER) {
        source->os_error = EISDIR;
    }
    if (source->os_error != 0) {
        return MOCK_READ_FAILED;
    }
    if (file->type == MOCK_FILE_REGULAR) {
        return regular_read(file, source->offset, buffer, size);
    }
    if (file->type == MOCK_FILE_ZERO) {
        memset(buffer, 0, *size);
        return MOCK_READ_BYTES;
    }
    if (file->type == MOCK_FILE_RANDOM) {
        mock_guest_random(guest, buffer, *size);
        return MOCK_READ_BYTES;
    }
    return MOCK_READ_END;
}
