/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "cli/table.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "cli/output.h"
#include "cli/terminal.h"

#define GAP_SIZE 2 /* between columns */

struct table {
    const struct table_column *columns;
    size_t column_count;
    char **cells; /* row by row, without the titles */
    size_t cell_count;
    size_t capacity;
};

static void table_check(const struct table *table) {
    ASSERT(table);
    ASSERT(table->column_count > 0 && table->column_count <= CLI_TABLE_COLUMN_COUNT_MAX);
    ASSERT(table->cell_count <= table->capacity);
}

struct table *table_create(const struct table_column *columns, size_t count) {
    ASSERT(columns);
    ASSERT(count > 0 && count <= CLI_TABLE_COLUMN_COUNT_MAX);
    struct table *table = calloc(1, sizeof(*table));
    if (table) {
        *table = (struct table){.columns = columns, .column_count = count};
    }
    return table;
}

void table_destroy(struct table *table) {
    if (!table) {
        return;
    }
    table_check(table);
    for (size_t i = 0; i < table->cell_count; i++) {
        free(table->cells[i]);
    }
    free(table->cells);
    free(table);
}

static bool table_grow(struct table *table) {
    table_check(table);
    ASSERT(table->cells || table->capacity == 0);
    size_t cells_max = CLI_TABLE_ROW_COUNT_MAX * table->column_count;
    if (table->cell_count < table->capacity) {
        return true;
    }
    size_t capacity = table->capacity == 0 ? 16 * table->column_count : 2 * table->capacity;
    if (table->cell_count >= cells_max) {
        return false;
    }
    char **cells = realloc(table->cells, capacity * sizeof(*cells));
    if (!cells) {
        return false;
    }
    table->cells = cells;
    table->capacity = capacity;
    return true;
}

void table_cell(struct table *table, const char *format, ...) {
    table_check(table);
    ASSERT(format);
    char text[CLI_TABLE_CELL_SIZE_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    output_clean(text);
    if (table_grow(table)) {
        char *cell = strdup(text);
        if (cell) {
            table->cells[table->cell_count++] = cell;
        }
    }
}

/* ---- Widths ----------------------------------------------------------------------------------- */

static size_t text_width(const char *text) {
    ASSERT(text);
    size_t width = 0;
    for (; *text; text++) {
        width += ((unsigned char)*text & 0xc0) != 0x80; /* not in the middle of a UTF-8 character */
    }
    return width;
}

/* The bytes of the first `width` characters. */
static size_t text_bytes(const char *text, size_t width) {
    ASSERT(text);
    size_t size = 0;
    size_t count = 0;
    for (; text[size]; size++) {
        if (((unsigned char)text[size] & 0xc0) != 0x80 && count++ == width) {
            break;
        }
    }
    return size;
}

static void measure(const struct table *table, size_t *widths) {
    table_check(table);
    ASSERT(widths);
    for (size_t i = 0; i < table->column_count; i++) {
        widths[i] = text_width(table->columns[i].title);
    }
    for (size_t i = 0; i < table->cell_count; i++) {
        size_t *width = &widths[i % table->column_count];
        size_t needed = text_width(table->cells[i]);
        *width = needed > *width ? needed : *width;
    }
}

static size_t sum(const size_t *widths, size_t count) {
    ASSERT(widths);
    ASSERT(count > 0);
    size_t total = (count - 1) * GAP_SIZE;
    for (size_t i = 0; i < count; i++) {
        total += widths[i];
    }
    return total;
}

/* The widest column that can still shrink; the number of columns when none can. */
static size_t widest_that_shrinks(const struct table *table, const size_t *widths) {
    table_check(table);
    ASSERT(widths);
    size_t best = table->column_count;
    for (size_t i = 0; i < table->column_count; i++) {
        size_t least = table->columns[i].shrinks_to;
        if (least > 0 && widths[i] > least &&
            (best == table->column_count || widths[i] > widths[best])) {
            best = i;
        }
    }
    return best;
}

/* Makes the widths fit, and returns how many columns there is room for. */
static size_t fit(const struct table *table, size_t *widths, size_t width) {
    table_check(table);
    size_t count = table->column_count;
    while (width > 0 && sum(widths, count) > width) {
        size_t column = widest_that_shrinks(table, widths);
        if (column == table->column_count) {
            break;
        }
        widths[column]--;
    }
    while (width > 0 && count > 1 && sum(widths, count) > width) {
        count--;
    }
    ASSERT(count > 0);
    return count;
}

/* ---- Printing --------------------------------------------------------------------------------- */

static void print_cell(FILE *stream, const char *text, size_t width, bool right, bool last) {
    ASSERT(stream);
    ASSERT(text);
    size_t needed = text_width(text);
    if (needed > width) {
        size_t kept = width > 0 ? width - 1 : 0;
        fprintf(stream, "%.*s…", (int)text_bytes(text, kept), text);
        needed = width;
    } else if (right) {
        fprintf(stream, "%*s%s", (int)(width - needed), "", text);
    } else {
        fprintf(stream, "%s%*s", text, last ? 0 : (int)(width - needed), "");
    }
    fprintf(stream, "%*s", last ? 0 : GAP_SIZE, "");
}

void table_print(const struct table *table, FILE *stream, size_t width) {
    table_check(table);
    ASSERT(stream);
    size_t widths[CLI_TABLE_COLUMN_COUNT_MAX] = {0};
    measure(table, widths);
    size_t count = fit(table, widths, width);
    for (size_t i = 0; i < count; i++) {
        print_cell(stream, table->columns[i].title, widths[i], table->columns[i].right,
                   i + 1 == count);
    }
    fputc('\n', stream);
    for (size_t i = 0; i < table->cell_count; i++) {
        size_t column = i % table->column_count;
        if (column < count) {
            print_cell(stream, table->cells[i], widths[column], table->columns[column].right,
                       column + 1 == count);
        }
        if (column + 1 == table->column_count) {
            fputc('\n', stream);
        }
    }
}

size_t table_terminal_width(void) {
    struct terminal terminal = terminal_init(STDOUT_FILENO);
    uint16_t rows = 0;
    uint16_t columns = 0;
    ASSERT(!terminal.raw);
    ASSERT(terminal.fd == STDOUT_FILENO);
    bool known = terminal_present(&terminal) && terminal_size(&terminal, &rows, &columns);
    ASSERT(!known || columns > 0);
    return known ? columns : 0;
}
