/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "backend/mock/mock_program.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "backend/mock/mock_guest.h"
#include "backend/mock/mock_shell.h"
#include "base/assert.h"
#include "base/checked.h"

#define SECOND_NS ((uint64_t)1000000000)

static const char *argument(const struct mock_process *process, uint32_t index) {
    mock_process_check(process);
    return mock_strings_at(&process->argv, index);
}

static bool is_text(const char *text, const char *expected) {
    ASSERT(expected);
    return text && strcmp(text, expected) == 0;
}

static bool usage(struct mock_process *process, const char *text) {
    mock_process_check(process);
    ASSERT(text);
    mock_process_print(process, MOCK_ERR, "Usage: %s %s\n", mock_program_name(process->program),
                       text);
    mock_process_exit(process, 1);
    return true;
}

/* ---- Output ----------------------------------------------------------------------------------- */

static bool step_true(struct mock_process *process) {
    mock_process_check(process);
    mock_process_exit(process, 0);
    return true;
}

static bool step_false(struct mock_process *process) {
    mock_process_check(process);
    mock_process_exit(process, 1);
    return true;
}

static bool step_echo(struct mock_process *process) {
    mock_process_check(process);
    ASSERT(!process->exited);
    size_t cursor = 0;
    mock_strings_next(&process->argv, &cursor);
    const char *text = mock_strings_next(&process->argv, &cursor);
    bool newline = !is_text(text, "-n");
    text = newline ? text : mock_strings_next(&process->argv, &cursor);
    while (text) {
        mock_process_write(process, MOCK_OUT, text, strlen(text));
        text = mock_strings_next(&process->argv, &cursor);
        if (text) {
            mock_process_write(process, MOCK_OUT, " ", 1);
        }
    }
    if (newline) {
        mock_process_write(process, MOCK_OUT, "\n", 1);
    }
    return step_true(process);
}

static bool step_env(struct mock_process *process) {
    mock_process_check(process);
    ASSERT(!process->exited);
    size_t cursor = 0;
    const char *text = mock_strings_next(&process->env, &cursor);
    while (text) {
        mock_process_write(process, MOCK_OUT, text, strlen(text));
        mock_process_write(process, MOCK_OUT, "\n", 1);
        text = mock_strings_next(&process->env, &cursor);
    }
    return step_true(process);
}

static bool step_pwd(struct mock_process *process) {
    mock_process_check(process);
    mock_process_print(process, MOCK_OUT, "%s\n", process->folder);
    return step_true(process);
}

static bool step_yes(struct mock_process *process) {
    mock_process_check(process);
    const char *text = argument(process, 1);
    text = text ? text : "y";
    size_t size = 0;
    while (size < MOCK_CHUNK_SIZE) {
        mock_process_write(process, MOCK_OUT, text, strlen(text));
        mock_process_write(process, MOCK_OUT, "\n", 1);
        size += strlen(text) + 1;
    }
    return true;
}

/* Prints numbers[0] .. numbers[1], as many as a step may. */
static bool print_numbers(struct mock_process *process) {
    mock_process_check(process);
    uint64_t *numbers = process->numbers;
    for (size_t size = 0; size < MOCK_CHUNK_SIZE && numbers[0] <= numbers[1]; size += 8) {
        mock_process_print(process, MOCK_OUT, "%" PRIu64 "\n", numbers[0]++);
    }
    if (numbers[0] > numbers[1]) {
        mock_process_exit(process, 0);
    }
    return true;
}

static bool step_seq(struct mock_process *process) {
    mock_process_check(process);
    ASSERT(!process->exited);
    if (process->numbers[2] == 0) {
        int64_t first = 1;
        int64_t last = 0;
        uint32_t count = process->argv.count;
        bool valid = (count == 2 && mock_number_parse(argument(process, 1), &last)) ||
                     (count == 3 && mock_number_parse(argument(process, 1), &first) &&
                      mock_number_parse(argument(process, 2), &last));
        if (!valid || first < 0 || last < 0) {
            return usage(process, "[FIRST] LAST");
        }
        process->numbers[0] = (uint64_t)first;
        process->numbers[1] = (uint64_t)last;
        process->numbers[2] = 1;
    }
    return print_numbers(process);
}

/* count [N] [SECONDS]: 1 to N, or for ever, a line each, with a pause behind each. */
static bool step_count(struct mock_process *process) {
    mock_process_check(process);
    ASSERT(!process->exited);
    uint64_t *numbers = process->numbers;
    if (numbers[2] == 0) {
        int64_t last = INT64_MAX;
        uint64_t pause_ns = 0;
        const char *count = argument(process, 1);
        const char *seconds = argument(process, 2);
        if ((count && (!mock_number_parse(count, &last) || last < 0)) ||
            (seconds && !mock_seconds_parse(seconds, &pause_ns))) {
            return usage(process, "[N] [SECONDS]");
        }
        numbers[0] = 1;
        numbers[1] = (uint64_t)last;
        numbers[2] = 1;
        numbers[3] = pause_ns;
    }
    if (numbers[3] == 0 || numbers[0] > numbers[1]) {
        return print_numbers(process);
    }
    mock_process_print(process, MOCK_OUT, "%" PRIu64 "\n", numbers[0]++);
    mock_process_sleep(process, numbers[3]);
    return true;
}

/* ---- Input ------------------------------------------------------------------------------------ */

/* Passes up to `limit` bytes on. numbers[1]: passed so far, of this source. Returns false when it must
 * wait; *ret_over when the source has ended, or exits when it failed. */
static bool pass_on(struct mock_process *process, const char *path, uint64_t limit,
                    bool *ret_over) {
    mock_process_check(process);
    ASSERT(ret_over);
    uint8_t buffer[MOCK_CHUNK_SIZE];
    uint64_t *passed = &process->numbers[1];
    size_t size = *passed < limit ? (size_t)min_u64(sizeof(buffer), limit - *passed) : 0;
    if (size == 0) {
        *ret_over = true;
        return true;
    }
    struct mock_source source = {.path = is_text(path, "-") ? NULL : path, .offset = *passed};
    enum mock_read result = mock_process_read(process, &source, buffer, &size);
    if (result == MOCK_READ_WAIT) {
        return false;
    }
    if (result == MOCK_READ_FAILED) {
        mock_process_fail(process, source.os_error, source.path ? source.path : "stdin");
        return true;
    }
    if (result == MOCK_READ_END) {
        *ret_over = true;
        return true;
    }
    mock_process_write(process, MOCK_OUT, buffer, size);
    *passed += size;
    return true;
}

/* numbers[0]: the sources behind us. */
static bool step_cat(struct mock_process *process) {
    mock_process_check(process);
    ASSERT(!process->exited);
    uint32_t index = (uint32_t)process->numbers[0] + 1;
    bool is_over = false;
    if (!pass_on(process, argument(process, index), UINT64_MAX, &is_over)) {
        return false;
    }
    if (is_over && index + 1 >= process->argv.count) {
        return step_true(process);
    }
    if (is_over) {
        process->numbers[0]++;
        process->numbers[1] = 0;
    }
    return true;
}

static bool step_head(struct mock_process *process) {
    mock_process_check(process);
    ASSERT(!process->exited);
    int64_t limit = 0;
    const char *count = argument(process, 2);
    if (!is_text(argument(process, 1), "-c") || !count || !mock_number_parse(count, &limit) ||
        limit < 0) {
        return usage(process, "-c N [FILE]");
    }
    bool is_over = false;
    if (!pass_on(process, argument(process, 3), (uint64_t)limit, &is_over)) {
        return false;
    }
    if (is_over) {
        mock_process_exit(process, 0);
    }
    return true;
}

/* dd if=FILE bs=N count=N, to standard output. */
static bool step_dd(struct mock_process *process) {
    mock_process_check(process);
    ASSERT(!process->exited);
    const char *path = NULL;
    int64_t block = 512;
    int64_t count = INT64_MAX / (1 << 30);
    bool valid = true;
    for (uint32_t i = 1; i < process->argv.count; i++) {
        const char *text = argument(process, i);
        if (strncmp(text, "if=", 3) == 0) {
            path = text + 3;
        } else if (strncmp(text, "bs=", 3) == 0) {
            valid = valid && mock_number_parse(text + 3, &block);
        } else {
            valid = valid && strncmp(text, "count=", 6) == 0 && mock_number_parse(text + 6, &count);
        }
    }
    int64_t limit = 0;
    if (!valid || block <= 0 || count < 0 || __builtin_mul_overflow(block, count, &limit)) {
        return usage(process, "[if=FILE] [bs=N] [count=N]");
    }
    bool is_over = false;
    if (!pass_on(process, path, (uint64_t)limit, &is_over)) {
        return false;
    }
    if (is_over) {
        mock_process_exit(process, 0);
    }
    return true;
}

static bool step_wc(struct mock_process *process) {
    mock_process_check(process);
    ASSERT(!process->exited);
    if (!is_text(argument(process, 1), "-c")) {
        return usage(process, "-c [FILE]");
    }
    uint8_t buffer[MOCK_CHUNK_SIZE];
    size_t size = sizeof(buffer);
    const char *path = argument(process, 2);
    struct mock_source source = {.path = path, .offset = process->numbers[0]};
    enum mock_read result = mock_process_read(process, &source, buffer, &size);
    if (result == MOCK_READ_BYTES) {
        process->numbers[0] += size;
    } else if (result == MOCK_READ_FAILED) {
        mock_process_fail(process, source.os_error, path ? path : "stdin");
    } else if (result == MOCK_READ_END) {
        mock_process_print(process, MOCK_OUT, "%" PRIu64 "%s%s\n", process->numbers[0],
                           path ? " " : "", path ? path : "");
        mock_process_exit(process, 0);
    }
    return result != MOCK_READ_WAIT;
}

/* ---- Time, names, the terminal ---------------------------------------------------------------- */

static bool step_sleep(struct mock_process *process) {
    mock_process_check(process);
    ASSERT(!process->exited);
    if (process->numbers[0] == 1) {
        return step_true(process);
    }
    uint64_t ns = 0;
    const char *seconds = argument(process, 1);
    if (!seconds || !mock_seconds_parse(seconds, &ns)) {
        return usage(process, "SECONDS");
    }
    process->numbers[0] = 1;
    mock_process_sleep(process, ns);
    return true;
}

static bool step_date(struct mock_process *process) {
    mock_process_check(process);
    uint64_t now_ns = mock_guest_realtime_ns(process->session->guest);
    const char *format = argument(process, 1);
    if (is_text(format, "+%s.%N")) {
        mock_process_print(process, MOCK_OUT, "%" PRIu64 ".%09" PRIu64 "\n", now_ns / SECOND_NS,
                           now_ns % SECOND_NS);
    } else if (is_text(format, "+%s")) {
        mock_process_print(process, MOCK_OUT, "%" PRIu64 "\n", now_ns / SECOND_NS);
    } else {
        return usage(process, "+%s|+%s.%N");
    }
    return step_true(process);
}

/* The part of busybox's adjtimex that says what the clock is, to the microsecond. */
static bool step_adjtimex(struct mock_process *process) {
    mock_process_check(process);
    uint64_t now_ns = mock_guest_realtime_ns(process->session->guest);
    mock_process_print(process, MOCK_OUT,
                       "    time.tv_sec:  %" PRIu64 "\n    time.tv_usec: %" PRIu64 "\n",
                       now_ns / SECOND_NS, now_ns % SECOND_NS / 1000);
    return step_true(process);
}

static bool step_hostname(struct mock_process *process) {
    mock_process_check(process);
    mock_process_print(process, MOCK_OUT, "%s\n", process->session->guest->hostname);
    return step_true(process);
}

static bool step_id(struct mock_process *process) {
    mock_process_check(process);
    const struct mock_session *session = process->session;
    if (is_text(argument(process, 1), "-u")) {
        mock_process_print(process, MOCK_OUT, "%" PRIu32 "\n", session->uid);
    } else if (is_text(argument(process, 1), "-g")) {
        mock_process_print(process, MOCK_OUT, "%" PRIu32 "\n", session->gid);
    } else {
        mock_process_print(process, MOCK_OUT, "uid=%" PRIu32 " gid=%" PRIu32 "\n", session->uid,
                           session->gid);
    }
    return step_true(process);
}

static bool step_tty(struct mock_process *process) {
    mock_process_check(process);
    bool is_tty = mock_session_is_tty(process->session);
    mock_process_print(process, MOCK_OUT, "%s\n", is_tty ? "/dev/pts/0" : "not a tty");
    mock_process_exit(process, is_tty ? 0 : 1);
    return true;
}

static bool step_stty(struct mock_process *process) {
    mock_process_check(process);
    const struct mock_session *session = process->session;
    if (!is_text(argument(process, 1), "size")) {
        return usage(process, "size");
    }
    if (!mock_session_is_tty(session)) {
        mock_process_fail(process, ENOTTY, "standard input");
        return true;
    }
    mock_process_print(process, MOCK_OUT, "%u %u\n", session->rows, session->columns);
    return step_true(process);
}

/* ---- Files ------------------------------------------------------------------------------------ */

static void list_folder(struct mock_process *process, const char *folder) {
    mock_process_check(process);
    ASSERT(folder);
    const struct mock_files *files = &process->session->guest->files;
    const char *last = "";
    for (size_t turn = 0; turn < files->count; turn++) {
        const char *next = NULL;
        for (size_t i = 0; i < files->count; i++) {
            const char *path = files->entries[i].path;
            bool is_next = mock_path_is_in(path, folder) && strcmp(path, last) > 0;
            if (is_next && (!next || strcmp(path, next) < 0)) {
                next = path;
            }
        }
        if (!next) {
            return;
        }
        mock_process_print(process, MOCK_OUT, "%s\n", mock_path_name(next));
        last = next;
    }
}

/* Resolves an argument; a failure is said and ends the process. */
static bool resolve(struct mock_process *process, const char *name, char *path) {
    mock_process_check(process);
    ASSERT(name);
    ASSERT(path);
    if (!mock_path_resolve(process->folder, name, path)) {
        mock_process_fail(process, ENAMETOOLONG, name);
        return false;
    }
    return true;
}

static bool step_ls(struct mock_process *process) {
    mock_process_check(process);
    ASSERT(!process->exited);
    const char *name = argument(process, 1);
    name = name ? name : process->folder;
    char path[MOCK_PATH_SIZE_MAX + 1];
    struct mock_file *file = NULL;
    if (!resolve(process, name, path)) {
        return true;
    }
    int failure = mock_files_lookup(&process->session->guest->files, path, &file);
    if (failure != 0) {
        mock_process_fail(process, failure, name);
        return true;
    }
    if (file->type == MOCK_FILE_FOLDER) {
        list_folder(process, path);
    } else {
        mock_process_print(process, MOCK_OUT, "%s\n", name);
    }
    return step_true(process);
}

/* What the programs do that take a path and change something there. */
static int file_change(struct mock_files *files, const char *program, const char *path) {
    mock_files_check(files);
    ASSERT(program);
    ASSERT(path);
    if (strcmp(program, "mkdir") == 0) {
        return mock_files_add(files, path, MOCK_FILE_FOLDER, 0755, NULL);
    }
    if (strcmp(program, "rm") == 0) {
        const struct mock_file *file = mock_files_find(files, path);
        bool is_folder = file && file->type == MOCK_FILE_FOLDER;
        return is_folder ? EISDIR : mock_files_remove(files, path);
    }
    if (strcmp(program, "rmdir") == 0) {
        const struct mock_file *file = mock_files_find(files, path);
        bool is_folder = !file || file->type == MOCK_FILE_FOLDER;
        return is_folder ? mock_files_remove(files, path) : ENOTDIR;
    }
    ASSERT(strcmp(program, "touch") == 0);
    return mock_files_open(files, path, true);
}

static bool step_change(struct mock_process *process) {
    mock_process_check(process);
    ASSERT(!process->exited);
    const char *name = argument(process, 1);
    bool force = is_text(name, "-f");
    name = force ? argument(process, 2) : name;
    if (!name) {
        return usage(process, "PATH");
    }
    char path[MOCK_PATH_SIZE_MAX + 1];
    if (!resolve(process, name, path)) {
        return true;
    }
    int failure =
        file_change(&process->session->guest->files, mock_program_name(process->program), path);
    if (failure != 0 && !(force && failure == ENOENT)) {
        mock_process_fail(process, failure, name);
        return true;
    }
    return step_true(process);
}

static bool step_write(struct mock_process *process) {
    mock_process_check(process);
    ASSERT(!process->exited);
    const char *name = argument(process, 1);
    const char *text = argument(process, 2);
    char path[MOCK_PATH_SIZE_MAX + 1];
    if (!name || !text) {
        return usage(process, "PATH TEXT");
    }
    if (!resolve(process, name, path)) {
        return true;
    }
    struct mock_files *files = &process->session->guest->files;
    int failure = mock_files_open(files, path, false);
    if (failure == 0) {
        failure = mock_files_append(files, mock_files_find(files, path), text, strlen(text));
    }
    if (failure != 0) {
        mock_process_fail(process, failure, name);
        return true;
    }
    return step_true(process);
}

static bool step_test(struct mock_process *process) {
    mock_process_check(process);
    ASSERT(!process->exited);
    /* By the program's name: it may have been started by a path. */
    const char *argv[8] = {mock_program_name(process->program)};
    uint32_t count = 1;
    for (; count < ARRAY_SIZE(argv) && count < process->argv.count; count++) {
        argv[count] = argument(process, count);
    }
    mock_process_exit(process, mock_program_test(process, argv, count));
    return true;
}

/* ---- The table -------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    bool (*step)(struct mock_process *process);
} programs[] = {
    {"[", step_test},
    {"adjtimex", step_adjtimex},
    {"cat", step_cat},
    {"count", step_count},
    {"date", step_date},
    {"dd", step_dd},
    {"echo", step_echo},
    {"env", step_env},
    {"false", step_false},
    {"head", step_head},
    {"hostname", step_hostname},
    {"id", step_id},
    {"ls", step_ls},
    {"mkdir", step_change},
    {"pwd", step_pwd},
    {"rm", step_change},
    {"rmdir", step_change},
    {"seq", step_seq},
    {"sh", mock_shell_step},
    {"sleep", step_sleep},
    {"stty", step_stty},
    {"test", step_test},
    {"touch", step_change},
    {"true", step_true},
    {"tty", step_tty},
    {"wc", step_wc},
    {"write", step_write},
    {"yes", step_yes},
};

const char *mock_program_name(uint32_t index) {
    return index < ARRAY_SIZE(programs) ? programs[index].name : NULL;
}

uint32_t mock_program_find(const char *name) {
    ASSERT(name);
    for (uint32_t i = 0; i < ARRAY_SIZE(programs); i++) {
        if (strcmp(programs[i].name, name) == 0) {
            return i;
        }
    }
    return MOCK_PROGRAM_NONE;
}

bool mock_program_step(struct mock_process *process) {
    mock_process_check(process);
    ASSERT(process->program < ARRAY_SIZE(programs));
    ASSERT(!process->exited);
    return programs[process->program].step(process);
}
