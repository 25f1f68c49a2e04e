/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * table.h: a table on standard output, for people.
 *
 *     static const struct table_column columns[] = {{"NAME", 12, false}, {"CPUS", 0, true}};
 *     struct table *table = table_create(columns, ARRAY_SIZE(columns));
 *     table_cell(table, "%s", name);
 *     table_cell(table, "%u", cpus);      // the row is full: the next cell begins another
 *     table_print(table, stdout, terminal_columns);
 *     table_destroy(table);
 *
 * THEORY OF OPERATION
 *
 * Each column is as wide as its widest cell. When that is more than the terminal has, columns that may shrink do, the
 * widest first, down to their least width; then columns are left out from the right. What is cut ends in "…". Where there
 * is no terminal nothing is cut, since it is read by a program. A cell's text is made safe for a terminal (output_clean)
 * and measured in bytes that begin a character, which is right for what we print: names are ASCII, and labels are
 * somebody's own.
 */
#ifndef KELPIE_CLI_TABLE_H
#define KELPIE_CLI_TABLE_H

#include <stdbool.h>
#include <stdio.h>

#include "base/error.h"
#include "cli/cli_limits.h"

struct table_column {
    const char *title;
    size_t shrinks_to; /* columns of the terminal; 0: it does not shrink */
    bool right;        /* numbers */
};

struct table;

/* The columns must live as long. NULL: no memory. */
struct table *table_create(const struct table_column *columns, size_t count);
void table_destroy(struct table *table); /* NULL is allowed */

/* Fills the next cell; one for which there is no memory, or beyond CLI_TABLE_ROW_COUNT_MAX rows, is left out. */
void table_cell(struct table *table, const char *format, ...) ERROR_PRINTF(2, 3);

/* width 0: as wide as it needs. */
void table_print(const struct table *table, FILE *stream, size_t width);

/* How wide standard output's terminal is; 0: it is none, or has no width. */
size_t table_terminal_width(void);

#endif
