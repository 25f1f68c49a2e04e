/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * kelpie logs: what a VM's detached command wrote.
 *
 * THEORY OF OPERATION
 *
 * The log is pieces of two streams as they came, which begin and end anywhere. A line is of one stream, and has a number: the
 * order in which lines began. -n N reads the log twice: first it counts the lines, then it prints those whose number is one
 * of the last N. If the oldest piece went meanwhile, because the command writes on, it counts again.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "cli/cli.h"
#include "cli/human.h"
#include "cli/output.h"
#include "cli/verb.h"
#include "kelpie_store.h"

#define FOLLOW_INTERVAL_MS 1000
#define COUNT_TRY_COUNT_MAX 5

struct logs_options {
    bool follow;
    uint32_t tail; /* 0: all */
    bool times;
    bool console;
    bool json;
};

#define OPTION(letter, long_name, value, setter, member, text)                                     \
    {                                                                                              \
        .short_name = (letter), .name = (long_name), .value_name = (value), .help = (text),        \
        .set = (setter), .offset = offsetof(struct logs_options, member)                           \
    }

static const struct option_spec logs_specs[] = {
    OPTION('f', "follow", NULL, option_set_flag, follow, "go on until the command has ended"),
    OPTION('n', "tail", "N", option_set_count, tail, "only the last N lines"),
    OPTION('t', "timestamps", NULL, option_set_flag, times, "begin each line with its time (UTC)"),
    OPTION(0, "console", NULL, option_set_flag, console,
           "the tail of the guest's console instead, of a VM that has an owner"),
    OPTION(0, "json", NULL, option_set_flag, json, "print one JSON object a line for each piece"),
};
static const struct option_table logs_table = {logs_specs, ARRAY_SIZE(logs_specs)};

/* Where a reading of the log is. */
struct cursor {
    bool in_line[2];  /* of stdout, stderr: the last piece ended in the middle of a line */
    uint64_t line[2]; /* that line's number */
    uint64_t begun;   /* lines that have begun */
    bool any;         /* the oldest piece: */
    enum kelpie_stream first_stream;
    uint64_t first_offset;
};

static size_t stream_index(enum kelpie_stream stream) {
    ASSERT(stream != KELPIE_STREAM_NONE);
    ASSERT(stream == KELPIE_STREAM_STDOUT || stream == KELPIE_STREAM_STDERR);
    return stream == KELPIE_STREAM_STDERR ? 1 : 0;
}

/* Notes the piece's beginning. */
static void cursor_note(struct cursor *cursor, const struct kelpie_log_entry *entry) {
    ASSERT(cursor);
    ASSERT(entry->data || entry->size == 0);
    if (!cursor->any) {
        cursor->any = true;
        cursor->first_stream = entry->stream;
        cursor->first_offset = entry->offset;
    }
}

/* The next line, or part of one, of a piece: its size, its number, and whether it begins there. */
static size_t cursor_next(struct cursor *cursor, enum kelpie_stream stream, const char *data,
                          size_t size, bool *ret_begins) {
    ASSERT(size > 0);
    ASSERT(data);
    size_t index = stream_index(stream);
    *ret_begins = !cursor->in_line[index];
    if (*ret_begins) {
        cursor->line[index] = cursor->begun++;
    }
    const char *end = memchr(data, '\n', size);
    cursor->in_line[index] = !end;
    return end ? (size_t)(end - data) + 1 : size;
}

/* ---- Writing ---------------------------------------------------------------------------------- */

static enum kelpie_status write_all(enum kelpie_stream stream, const char *data, size_t size,
                                    struct kelpie_error *err) {
    ASSERT(data || size == 0);
    int fd = stream_index(stream) == 1 ? STDERR_FILENO : STDOUT_FILENO;
    ASSERT(fd > STDIN_FILENO);
    for (size_t done = 0; done < size;) {
        ssize_t count = write(fd, data + done, size - done);
        if (count >= 0) {
            done += (size_t)count;
        } else if (errno != EINTR) {
            return error_set_os(err, errno, "cannot write the log");
        }
    }
    return KELPIE_OK;
}

static enum kelpie_status write_json(const struct kelpie_log_entry *entry,
                                     struct kelpie_error *err) {
    ASSERT(entry);
    json_t *object = output_json_bytes(entry->data, entry->size);
    if (!object) {
        return error_set(err, KELPIE_NO_MEMORY, "no memory for a piece of the log");
    }
    ASSERT(json_is_object(object));
    json_object_set_new(object, "unix_ms", json_integer((json_int_t)entry->unix_ms));
    json_object_set_new(object, "stream",
                        json_string(stream_index(entry->stream) == 1 ? "stderr" : "stdout"));
    json_object_set_new(object, "offset", json_integer((json_int_t)entry->offset));
    return output_json(object, CLI_EXIT_OK) == CLI_EXIT_OK
               ? KELPIE_OK
               : error_set_os(err, EPIPE, "cannot write the log");
}

/* Prints those lines of the piece whose number is `skip` or more. */
static enum kelpie_status write_entry(const struct logs_options *options, struct cursor *cursor,
                                      const struct kelpie_log_entry *entry, uint64_t skip,
                                      struct kelpie_error *err) {
    ASSERT(cursor);
    ASSERT(options);
    const char *data = entry->data;
    size_t left = entry->size;
    while (left > 0) {
        bool begins = false;
        size_t size = cursor_next(cursor, entry->stream, data, left, &begins);
        bool shown = cursor->line[stream_index(entry->stream)] >= skip;
        if (shown && options->json) {
            struct kelpie_log_entry piece = *entry;
            piece.offset += entry->size - left;
            piece.data = data;
            piece.size = size;
            TRY(write_json(&piece, err));
        } else if (shown) {
            char time[HUMAN_TIME_SIZE + 1] = "";
            if (begins && options->times) {
                human_time(entry->unix_ms, time);
                strcat(time, " ");
            }
            TRY(write_all(entry->stream, time, strlen(time), err));
            TRY(write_all(entry->stream, data, size, err));
        }
        data += size;
        left -= size;
    }
    return KELPIE_OK;
}

/* ---- Reading ---------------------------------------------------------------------------------- */

/* Whether reading ends here: there is no more, for now or for ever. */
static bool is_end(enum kelpie_status status) {
    ASSERT((unsigned)status < KELPIE_STATUS_COUNT);
    return status == KELPIE_NOT_FOUND || status == KELPIE_TIMED_OUT;
}

static enum kelpie_status count_lines(const char *name, struct cursor *cursor,
                                      struct kelpie_error *err) {
    struct kelpie_log *log = NULL;
    ASSERT(name);
    *cursor = (struct cursor){.any = false};
    TRY(kelpie_log_open(NULL, name, &log, err));
    ASSERT(log);
    struct kelpie_log_entry entry = {0};
    enum kelpie_status status = KELPIE_OK;
    while ((status = kelpie_log_read(log, 0, &entry, err)) == KELPIE_OK) {
        cursor_note(cursor, &entry);
        for (size_t done = 0; done < entry.size;) {
            bool begins = false;
            done +=
                cursor_next(cursor, entry.stream, entry.data + done, entry.size - done, &begins);
        }
    }
    kelpie_log_close(log);
    return is_end(status) ? KELPIE_OK : status;
}

/* Prints from line `skip` on. *ret_moved: the oldest piece is not the one that was counted from; nothing was printed. */
static enum kelpie_status print_from(const char *name, const struct logs_options *options,
                                     const struct cursor *counted, uint64_t skip, bool *ret_moved,
                                     struct kelpie_error *err) {
    struct kelpie_log *log = NULL;
    struct cursor cursor = {.any = false};
    ASSERT(name);
    ASSERT(ret_moved);
    *ret_moved = false;
    TRY(kelpie_log_open(NULL, name, &log, err));
    struct kelpie_log_entry entry = {0};
    enum kelpie_status status = KELPIE_OK;
    while (status == KELPIE_OK) {
        status = kelpie_log_read(log, options->follow ? FOLLOW_INTERVAL_MS : 0, &entry, err);
        if (status == KELPIE_TIMED_OUT && options->follow) {
            status = KELPIE_OK;
            continue;
        }
        if (status != KELPIE_OK) {
            break;
        }
        cursor_note(&cursor, &entry);
        *ret_moved = counted->any && (cursor.first_stream != counted->first_stream ||
                                      cursor.first_offset != counted->first_offset);
        if (*ret_moved) {
            break;
        }
        status = write_entry(options, &cursor, &entry, skip, err);
    }
    kelpie_log_close(log);
    return is_end(status) ? KELPIE_OK : status;
}

static enum kelpie_status print_log(const char *name, const struct logs_options *options,
                                    struct kelpie_error *err) {
    struct cursor counted = {.any = false};
    bool moved = true;
    ASSERT(name);
    for (size_t i = 0; moved && i < COUNT_TRY_COUNT_MAX; i++) {
        uint64_t skip = 0;
        if (options->tail > 0) {
            TRY(count_lines(name, &counted, err));
            skip = counted.begun > options->tail ? counted.begun - options->tail : 0;
        }
        TRY(print_from(name, options, &counted, skip, &moved, err));
    }
    ASSERT(options->tail > 0 || !moved);
    return moved ? error_set(err, KELPIE_BUSY, "the log grows faster than it can be read")
                 : KELPIE_OK;
}

static enum kelpie_status print_console(const char *name, struct kelpie_error *err) {
    struct kelpie_vm *vm = NULL;
    ASSERT(name);
    char *console = malloc(KELPIE_CONSOLE_BYTES_DEFAULT);
    if (!console) {
        return error_set(err, KELPIE_NO_MEMORY, "no memory for the console");
    }
    enum kelpie_status status = kelpie_vm_open(NULL, name, &vm, err);
    if (status == KELPIE_OK) {
        size_t size = kelpie_vm_console(vm, console, KELPIE_CONSOLE_BYTES_DEFAULT);
        ASSERT(size <= KELPIE_CONSOLE_BYTES_DEFAULT);
        status = write_all(KELPIE_STREAM_STDOUT, console, size, err);
        kelpie_vm_close(vm);
    }
    free(console);
    return status;
}

static int logs_run(const struct cli_table *table, struct option_words *words) {
    ASSERT(table);
    ASSERT(words);
    struct logs_options options = {0};
    struct kelpie_error err;
    int code = CLI_EXIT_OK;
    struct cli_operands *operands = calloc(1, sizeof(*operands));
    if (!operands) {
        return output_no_memory();
    }
    bool go_on = cli_parse_all(&cli_logs, words, &options, operands, &code);
    const char *name = operands->words[0];
    free(operands);
    if (!go_on) {
        return code;
    }
    enum kelpie_status status =
        options.console ? print_console(name, &err) : print_log(name, &options, &err);
    if (status != KELPIE_OK && err.os_error != EPIPE) {
        verb_say_error(name, &err);
    }
    return status == KELPIE_OK ? CLI_EXIT_OK : CLI_EXIT_FAILED;
}

const struct cli_command cli_logs = {
    .name = "logs",
    .summary = "Prints what a VM's detached command wrote",
    .synopsis = "[OPTIONS] VM",
    .notes = "What the command wrote to its standard error goes to ours. A VM that has ended has "
             "its log until\n"
             "it is removed. Of a long log the oldest part is gone ('kelpie create --log-size').\n",
    .options = &logs_table,
    .run = logs_run,
    .group = CLI_GROUP_VMS,
    .operands = {CLI_OPERAND_VM},
    .json = "unix_ms   when it came\n"
            "stream    stdout or stderr\n"
            "offset    of its first byte in its stream\n"
            "encoding  utf-8, or base64 for bytes that are not that or hold a zero\n"
            "data      a line, or a part of one\n"
            "bytes     how many they were\n",
    .examples = "kelpie logs -f -n 20 web\n",
    .rule = {1, 1, "a VM's name"},
};
