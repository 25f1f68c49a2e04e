/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * history.h: what several threads did with one VM, and whether one VM as the model has it could have answered so. Pure.
 *
 * THEORY OF OPERATION
 *
 * The check is Wing and Gong's ("Testing and verifying concurrent objects", 1993), in the forward form: it goes through calls
 * and returns in order and keeps every configuration that explains all of it so far: a model, and which of the operations under
 * way have happened already. Only when an operation returns must it have happened; then those under way are tried in every
 * order until it has. Equal configurations are kept once (Lowe, "Testing for linearizability", 2017). When none is left,
 * the history up to that return is the shortest that cannot be explained.
 *
 * What only looks happens as soon as it fits, which never spoils anything. A write that did not succeed happens only before
 * a read that saw it: it needs no order of its own. The guest takes up one thing after the other: when it has done something
 * that was called after such a write's return, the write has come or never will ("settled"), and the next that touches
 * the file decides.
 *
 *     size_t index = history_begin(history, &op);
 *     status = kelpie_copy_in(…);
 *     history_end(history, index, status, 0);
 *     …
 *     if (history_check(history, &start, shelf, reason, sizeof(reason)) == HISTORY_WRONG) …
 */
#ifndef KELPIE_SIM_RUN_HISTORY_H
#define KELPIE_SIM_RUN_HISTORY_H

#include "sim/run/model.h"

#define HISTORY_OP_COUNT_MAX 4096
#define HISTORY_OPEN_COUNT_MAX 8 /* operations under way at once, and those that never returned */
#define HISTORY_CONFIG_COUNT_MAX 16384 /* explanations kept at once */
#define HISTORY_FULL SIZE_MAX

struct history_op {
    struct model_op op;
    uint32_t begin; /* the number of the event that it was called with */
    uint32_t end;   /* … and returned with; UINT32_MAX: never */
};

struct history {
    bool faults; /* the VM may crash by itself */
    size_t op_count;
    size_t open_count;
    size_t event_count;
    struct history_op ops[HISTORY_OP_COUNT_MAX];
    uint16_t events[2 * HISTORY_OP_COUNT_MAX]; /* which operation is called, or returns, then */
};

enum history_verdict {
    HISTORY_HOLDS = 0,
    HISTORY_WRONG,
    HISTORY_UNDECIDED, /* a limit was reached, or there was no memory: the reason says which */
};

void history_init(struct history *history, bool faults);

/* An operation is called: its kind and arguments. Returns its index, or HISTORY_FULL: it is not noted, and the history must
 * not be checked beyond it. */
size_t history_begin(struct history *history, const struct model_op *op);

/* It returns. An operation whose caller was killed is never ended. */
void history_end(struct history *history, size_t index, enum kelpie_status status, uint32_t value);

/* The same of a fork: what one child's files were. */
void history_end_fork(struct history *history, size_t index, enum kelpie_status status,
                      const uint32_t values[MODEL_FILE_COUNT]);

/*
 * Can it be explained? `reason` says why not. If it can, the bundles that were made are noted on the shelf, for the
 * histories of the VMs that were restored from them, which are to be checked later (or see model_shelf_allow()).
 */
enum history_verdict history_check(const struct history *history, const struct model *start,
                                   struct model_shelf *shelf, char *reason, size_t size);

#endif
