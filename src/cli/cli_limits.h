/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#ifndef KELPIE_CLI_CLI_LIMITS_H
#define KELPIE_CLI_CLI_LIMITS_H

#include "kelpie_store.h"

#define CLI_OPTION_COUNT_MAX 32                   /* of one command */
#define CLI_WORD_COUNT_MAX KELPIE_ARGV_COUNT_MAX  /* of our own command line */
#define CLI_OPERAND_COUNT_MAX KELPIE_VM_COUNT_MAX /* words of a command line that are no options */
#define CLI_OPERAND_KIND_MAX 4                    /* of one command */
#define CLI_NAME_SIZE_MAX 64                      /* of a command's or an option's name */
#define CLI_SUGGESTION_DISTANCE_MAX 2             /* typing errors that a suggestion forgives */
#define CLI_CHUNK_SIZE 65536                      /* bytes of output or input moved at once */
#define CLI_COLLECT_SIZE_MAX KELPIE_OUTPUT_BYTES_DEFAULT /* of each stream, for --json */
#define CLI_CANCEL_INTERVAL_MS 50 /* a cancel is repeated until it was heard */
#define CLI_TABLE_COLUMN_COUNT_MAX 16
#define CLI_TABLE_ROW_COUNT_MAX 8192
#define CLI_TABLE_CELL_SIZE_MAX 1025 /* with the closing zero */
#define CLI_VERB_THREADS_MAX 8       /* VMs that a verb is applied to at once */
#define CLI_NAME_TRY_COUNT_MAX 64    /* names that are drawn until one is free */
#define CLI_HELP_COLUMN 30           /* where the text begins in --help */
#define CLI_DETACH_KEY_COUNT_MAX 16
#define CLI_PROGRESS_SIZE_MAX 256 /* bytes of a line of progress */
#define CLI_SHOWN_SESSIONS_MAX 16 /* that an error lists by number */
#define CLI_TERM_SIZE_MAX 72      /* of TERM=... as it is passed on */

#endif
