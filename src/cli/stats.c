/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * kelpie stats: what VMs use.
 *
 * THEORY OF OPERATION
 *
 * The share of a processor is a difference: each line needs two samples. What is printed first, or once, is of two that lie
 * STATS_FIRST_MS apart. On a terminal the table is then drawn over itself every STATS_INTERVAL_MS: the cursor goes up by as many
 * lines as were drawn, each line is erased to its end, and what is left below is erased too. Since the table is cut to
 * the terminal's width and height no line wraps and nothing scrolls. When the terminal has another size, nobody knows where
 * its lines are now (some terminals wrap them anew, some cut them): the next drawing begins on an empty screen.
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "cli/cli.h"
#include "cli/human.h"
#include "cli/output.h"
#include "cli/table.h"
#include "cli/terminal.h"
#include "cli/verb.h"
#include "kelpie_store.h"

#define STATS_FIRST_MS 250
#define STATS_INTERVAL_MS 1000
#define STATS_ROW_COUNT_MAX 512
#define NS_PER_MS 1000000ull
#define NS_PER_S 1000000000ull
#define ROWS_DEFAULT 24

/* ECMA-48: "cursor up" (8.3.22), "erase in line" (8.3.41), "erase in page" (8.3.39). */
#define CURSOR_UP "\r\033[%zuA"
#define ERASE_LINE "\033[K"
#define ERASE_BELOW "\033[J"
#define ERASE_ALL "\033[H\033[2J"

struct stats_options {
    bool no_stream;
    bool json;
};

static const struct option_spec stats_specs[] = {
    {
        .name = "no-stream",
        .help = "print once and return, as on a pipe",
        .set = option_set_flag,
        .offset = offsetof(struct stats_options, no_stream),
    },
    {
        .name = "json",
        .help = "print one JSON array, once",
        .set = option_set_flag,
        .offset = offsetof(struct stats_options, json),
    },
};
static const struct option_table stats_table = {stats_specs, ARRAY_SIZE(stats_specs)};

/* A VM, its last sample, and what came of taking it. */
struct row {
    char id[KELPIE_ID_SIZE];
    char name[KELPIE_NAME_SIZE_MAX + 1];
    enum kelpie_status status;
    struct kelpie_error err;
    struct kelpie_stats stats;
    uint64_t taken_ns;
    double cpu_share; /* processors; below 0: not known yet */
    bool seen;        /* in the last list */
};

struct rows {
    struct row rows[STATS_ROW_COUNT_MAX];
    size_t count;
};

static void sleep_ms(uint64_t duration_ms) {
    struct timespec duration = {.tv_sec = (time_t)(duration_ms / 1000),
                                .tv_nsec = (long)(duration_ms % 1000 * NS_PER_MS)};
    ASSERT(duration_ms > 0);
    ASSERT(duration.tv_nsec < (long)NS_PER_S);
    (void)nanosleep(&duration, NULL);
}

/* ---- Samples ---------------------------------------------------------------------------------- */

static enum kelpie_status take(const char *id, struct kelpie_stats *ret_stats,
                               struct kelpie_error *err) {
    struct kelpie_vm *vm = NULL;
    ASSERT(id);
    ASSERT(ret_stats);
    TRY(kelpie_vm_open(NULL, id, &vm, err));
    enum kelpie_status status = kelpie_vm_stats(vm, ret_stats, err);
    kelpie_vm_close(vm);
    return status;
}

static void sample(struct row *row) {
    struct kelpie_stats stats = {0};
    ASSERT(row->id[0] != 0);
    row->status = take(row->id, &stats, &row->err);
    uint64_t now_ns = cli_clock_ns();
    ASSERT(now_ns >= row->taken_ns);
    if (row->status != KELPIE_OK) {
        row->taken_ns = 0;
        return;
    }
    bool known = row->taken_ns != 0 && now_ns > row->taken_ns && stats.cpu_ns >= row->stats.cpu_ns;
    row->cpu_share =
        known ? (double)(stats.cpu_ns - row->stats.cpu_ns) / (double)(now_ns - row->taken_ns) : -1;
    row->stats = stats;
    row->taken_ns = now_ns;
}

static struct row *row_of(struct rows *rows, const struct kelpie_vm_info *info) {
    ASSERT(rows->count <= STATS_ROW_COUNT_MAX);
    ASSERT(info);
    for (size_t i = 0; i < rows->count; i++) {
        if (strcmp(rows->rows[i].id, info->id) == 0) {
            return &rows->rows[i];
        }
    }
    if (rows->count == STATS_ROW_COUNT_MAX) {
        return NULL;
    }
    struct row *row = &rows->rows[rows->count++];
    *row = (struct row){.cpu_share = -1};
    memcpy(row->id, info->id, sizeof(row->id));
    memcpy(row->name, info->name, sizeof(row->name));
    return row;
}

/* The VMs that run now: new ones join, those that have ended leave. */
static enum kelpie_status find_running(struct rows *rows, struct kelpie_error *err) {
    struct kelpie_vm_info *list = NULL;
    size_t count = 0;
    ASSERT(rows);
    TRY(kelpie_vm_list(NULL, &list, &count, err));
    for (size_t i = 0; i < rows->count; i++) {
        rows->rows[i].seen = false;
    }
    for (size_t i = 0; i < count; i++) {
        bool runs = list[i].state == KELPIE_STATE_RUNNING || list[i].state == KELPIE_STATE_PAUSED;
        struct row *row = runs ? row_of(rows, &list[i]) : NULL;
        if (row) {
            row->seen = true;
        }
    }
    kelpie_list_free(list);
    size_t kept = 0;
    for (size_t i = 0; i < rows->count; i++) {
        if (rows->rows[i].seen) {
            rows->rows[kept++] = rows->rows[i];
        }
    }
    ASSERT(kept <= rows->count);
    rows->count = kept;
    return KELPIE_OK;
}

static enum kelpie_status find_named(struct rows *rows, const struct cli_operands *names,
                                     const char **ret_name, struct kelpie_error *err) {
    ASSERT(rows);
    ASSERT(names->count > 0);
    rows->count = 0;
    for (size_t i = 0; i < names->count; i++) {
        struct kelpie_vm_info info = {0};
        *ret_name = names->words[i];
        TRY(kelpie_vm_find(NULL, names->words[i], &info, err));
        (void)row_of(rows, &info);
    }
    return KELPIE_OK;
}

static void sample_all(struct rows *rows) {
    ASSERT(rows);
    ASSERT(rows->count <= STATS_ROW_COUNT_MAX);
    for (size_t i = 0; i < rows->count; i++) {
        sample(&rows->rows[i]);
    }
}

/* ---- Telling ---------------------------------------------------------------------------------- */

static json_t *json_of_row(const struct row *row) {
    ASSERT(row);
    const struct kelpie_stats *stats = &row->stats;
    if (row->status != KELPIE_OK) {
        return json_pack("{s:s, s:s, s:o}", "name", row->name, "id", row->id, "error",
                         output_json_error(&row->err));
    }
    ASSERT(row->taken_ns > 0);
    return json_pack(
        "{s:s, s:s, s:n, s:o, s:I, s:I, s:I, s:o, s:I, s:I, s:I}", "name", row->name, "id", row->id,
        "error", "cpu_percent", row->cpu_share < 0 ? json_null() : json_real(row->cpu_share * 100),
        "cpu_ns", (json_int_t)stats->cpu_ns, "memory_bytes", (json_int_t)stats->memory_bytes,
        "guest_memory_bytes", (json_int_t)stats->guest_memory_bytes, "guest_available_bytes",
        stats->guest_available_bytes > 0 ? json_integer((json_int_t)stats->guest_available_bytes)
                                         : json_null(),
        "disk_bytes", (json_int_t)stats->disk_bytes, "uptime_ns", (json_int_t)stats->uptime_ns,
        "exec_count", (json_int_t)stats->exec_count);
}

/* What the guest uses of what it has; "-" when it does not say. */
static void print_guest_memory(struct table *table, const struct kelpie_stats *stats) {
    ASSERT(table);
    ASSERT(stats);
    char used[HUMAN_SIZE];
    char all[HUMAN_SIZE];
    human_bytes(stats->guest_memory_bytes, all);
    if (stats->guest_available_bytes == 0 ||
        stats->guest_available_bytes > stats->guest_memory_bytes) {
        table_cell(table, "-/%s", all);
    } else {
        human_bytes(stats->guest_memory_bytes - stats->guest_available_bytes, used);
        table_cell(table, "%s/%s", used, all);
    }
}

static void print_row(struct table *table, const struct row *row) {
    ASSERT(table);
    ASSERT(row);
    char text[HUMAN_SIZE];
    table_cell(table, "%s", row->name);
    if (row->status != KELPIE_OK) {
        for (size_t i = 0; i < 6; i++) {
            table_cell(table, "-");
        }
        return;
    }
    if (row->cpu_share < 0) {
        table_cell(table, "-");
    } else {
        table_cell(table, "%.1f%%", row->cpu_share * 100);
    }
    print_guest_memory(table, &row->stats);
    table_cell(table, "%s", human_bytes(row->stats.memory_bytes, text));
    table_cell(table, "%s", human_bytes(row->stats.disk_bytes, text));
    table_cell(table, "%u", row->stats.exec_count);
    table_cell(table, "%s", human_duration(row->stats.uptime_ns / NS_PER_MS, text));
}

static void print_rows(const struct rows *rows, FILE *stream, size_t row_count, size_t width) {
    static const struct table_column columns[] = {
        {"NAME", 12, false}, {"CPU", 0, true},      {"MEMORY", 0, true}, {"RESIDENT", 0, true},
        {"DISK", 0, true},   {"COMMANDS", 0, true}, {"UP", 0, true},
    };
    ASSERT(rows);
    ASSERT(row_count <= rows->count);
    struct table *table = table_create(columns, ARRAY_SIZE(columns));
    if (!table) {
        return;
    }
    for (size_t i = 0; i < row_count; i++) {
        print_row(table, &rows->rows[i]);
    }
    table_print(table, stream, width);
    table_destroy(table);
}

/* What was drawn last, and how large the terminal was. */
struct drawing {
    size_t lines;
    uint16_t height;
    uint16_t width;
};

/* Goes to where the table is to begin. */
static void go_back(struct drawing *drawing, uint16_t height, uint16_t width) {
    ASSERT(drawing);
    ASSERT(height > 0);
    bool resized = drawing->height != height || drawing->width != width;
    if (drawing->lines > 0 && resized) {
        fputs(ERASE_ALL, stdout);
    } else if (drawing->lines > 0) {
        printf(CURSOR_UP, drawing->lines);
    }
    *drawing = (struct drawing){.height = height, .width = width};
}

/* Draws the table over what was drawn before. */
static bool draw(const struct rows *rows, struct drawing *drawing) {
    ASSERT(rows);
    ASSERT(drawing);
    struct terminal terminal = terminal_init(STDOUT_FILENO);
    uint16_t height = ROWS_DEFAULT;
    uint16_t width = 0;
    (void)terminal_size(&terminal, &height, &width);
    AUTO_MEM char *text = NULL;
    size_t size = 0;
    FILE *stream = open_memstream(&text, &size);
    if (!stream) {
        return false;
    }
    /* The titles, and one line left for the cursor. */
    size_t room = height > 2 ? height - 2u : 1;
    size_t row_count = rows->count < room ? rows->count : room;
    print_rows(rows, stream, row_count, width);
    fclose(stream);
    go_back(drawing, height, width);
    for (char *line = text; *line != 0; drawing->lines++) {
        char *end = strchr(line, '\n');
        ASSERT(end);
        printf("%.*s" ERASE_LINE "\n", (int)(end - line), line);
        line = end + 1;
    }
    fputs(ERASE_BELOW, stdout);
    ASSERT(drawing->lines > 0);
    return fflush(stdout) == 0;
}

/* ---- The command ------------------------------------------------------------------------------ */

static int print_once(struct rows *rows, bool json) {
    ASSERT(rows);
    int code = CLI_EXIT_OK;
    if (rows->count > 0) {
        sample_all(rows);
        sleep_ms(STATS_FIRST_MS);
        sample_all(rows);
    }
    for (size_t i = 0; i < rows->count; i++) {
        if (rows->rows[i].status != KELPIE_OK) {
            code = CLI_EXIT_FAILED;
            verb_say_error(rows->rows[i].name, &rows->rows[i].err);
        }
    }
    if (json) {
        json_t *array = json_array();
        for (size_t i = 0; i < rows->count; i++) {
            json_array_append_new(array, json_of_row(&rows->rows[i]));
        }
        return output_json(array, code);
    }
    print_rows(rows, stdout, rows->count, table_terminal_width());
    ASSERT(code >= 0);
    return fflush(stdout) == 0 ? code : CLI_EXIT_FAILED;
}

/* Until a signal ends us: between two drawings the terminal is always as it should be. */
static int print_always(struct rows *rows, bool named) {
    struct kelpie_error err;
    struct drawing drawing = {.lines = 0};
    ASSERT(rows);
    sample_all(rows);
    for (uint64_t wait_ms = STATS_FIRST_MS;; wait_ms = STATS_INTERVAL_MS) {
        sleep_ms(wait_ms);
        if (!named && find_running(rows, &err) != KELPIE_OK) {
            output_error(NULL, &err);
            return CLI_EXIT_FAILED;
        }
        sample_all(rows);
        if (!draw(rows, &drawing)) {
            return CLI_EXIT_FAILED;
        }
        ASSERT(drawing.lines > 0);
    }
}

static int stats_with(const struct stats_options *options, const struct cli_operands *names) {
    struct kelpie_error err;
    const char *name = NULL;
    ASSERT(options);
    ASSERT(names);
    AUTO_MEM struct rows *rows = calloc(1, sizeof(*rows));
    if (!rows) {
        return output_no_memory();
    }
    bool named = names->count > 0;
    enum kelpie_status status =
        named ? find_named(rows, names, &name, &err) : find_running(rows, &err);
    if (status != KELPIE_OK) {
        if (name) {
            verb_say_error(name, &err);
        } else {
            output_error(NULL, &err);
        }
        return CLI_EXIT_FAILED;
    }
    struct terminal terminal = terminal_init(STDOUT_FILENO);
    const char *term = getenv("TERM");
    bool able = terminal_present(&terminal) && term && strcmp(term, "dumb") != 0;
    return able && !options->no_stream && !options->json ? print_always(rows, named)
                                                         : print_once(rows, options->json);
}

static int stats_run(const struct cli_table *table, struct option_words *words) {
    ASSERT(table);
    ASSERT(words);
    struct stats_options options = {0};
    int code = CLI_EXIT_OK;
    AUTO_MEM struct cli_operands *names = calloc(1, sizeof(*names));
    if (!names) {
        return output_no_memory();
    }
    return cli_parse_all(&cli_stats, words, &options, names, &code) ? stats_with(&options, names)
                                                                    : code;
}

const struct cli_command cli_stats = {
    .name = "stats",
    .summary = "Shows what VMs use: processor, memory, disk",
    .synopsis = "[OPTIONS] [VM...]",
    .notes = "Without names: all that run. On a terminal the table is drawn anew every second "
             "until Ctrl-C; a pipe\n"
             "gets it once. CPU is of one processor: two that are busy are 200%. MEMORY is what "
             "the guest uses of\n"
             "what it has, RESIDENT what that takes of this machine's.\n",
    .options = &stats_table,
    .run = stats_run,
    .group = CLI_GROUP_VMS,
    .operands = {CLI_OPERAND_VM},
    .operands_repeat = true,
    .json = "name, id               of the VM\n"
            "error                  null, or an object with status, field, message and os_error: "
            "then nothing follows\n"
            "cpu_percent            of one processor, over the last quarter of a second; or null\n"
            "cpu_ns                 that its monitor used since it started\n"
            "memory_bytes           resident, of its monitor\n"
            "guest_memory_bytes     that the guest has\n"
            "guest_available_bytes  of it, what the guest has left; or null\n"
            "disk_bytes             its writable disks, on disk\n"
            "uptime_ns              since it was started or restored\n"
            "exec_count             sessions in the guest\n",
    .rule = {0, STATS_ROW_COUNT_MAX, NULL},
};
