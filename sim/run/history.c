/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "sim/run/history.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

#define BIT(number) (1u << (number))
#define SLOT_COUNT MODEL_AROUND_COUNT_MAX
#define TABLE_SIZE (2 * HISTORY_CONFIG_COUNT_MAX) /* a power of two */
#define TOLD_COUNT 6                              /* operations that a reason tells of */

static_assert(SLOT_COUNT == 32, "slots are the bits of a mask");
static_assert((TABLE_SIZE & (TABLE_SIZE - 1)) == 0, "the table's size is a mask and 1");

/* ---- Recording --------------------------------------------------------------------------------- */

void history_init(struct history *history, bool faults) {
    ASSERT(history);
    ASSERT(HISTORY_OP_COUNT_MAX <= UINT16_MAX);
    history->faults = faults;
    history->op_count = 0;
    history->open_count = 0;
    history->event_count = 0;
}

size_t history_begin(struct history *history, const struct model_op *op) {
    ASSERT(op->file < MODEL_FILE_COUNT && op->bundle < MODEL_BUNDLE_COUNT);
    ASSERT((unsigned)op->kind < MODEL_KIND_COUNT);
    if (history->op_count == HISTORY_OP_COUNT_MAX ||
        history->open_count == HISTORY_OPEN_COUNT_MAX) {
        return HISTORY_FULL;
    }
    size_t index = history->op_count++;
    struct history_op *entry = &history->ops[index];
    entry->op = *op;
    entry->op.ended = false;
    entry->op.status = KELPIE_OK;
    entry->begin = (uint32_t)history->event_count;
    entry->end = UINT32_MAX;
    history->events[history->event_count++] = (uint16_t)index;
    history->open_count++;
    return index;
}

void history_end(struct history *history, size_t index, enum kelpie_status status, uint32_t value) {
    ASSERT(index < history->op_count);
    struct history_op *entry = &history->ops[index];
    ASSERT(!entry->op.ended);
    ASSERT((unsigned)status < KELPIE_STATUS_COUNT);
    entry->op.ended = true;
    entry->op.status = status;
    entry->op.value = value;
    entry->end = (uint32_t)history->event_count;
    history->events[history->event_count++] = (uint16_t)index;
    history->open_count--;
}

void history_end_fork(struct history *history, size_t index, enum kelpie_status status,
                      const uint32_t values[MODEL_FILE_COUNT]) {
    ASSERT(index < history->op_count);
    ASSERT(history->ops[index].op.kind == MODEL_FORK);
    memcpy(history->ops[index].op.values, values, sizeof(history->ops[index].op.values));
    history_end(history, index, status, 0);
}

/* ---- Configurations ---------------------------------------------------------------------------- */

/* One explanation. Without padding: compared as bytes. */
struct config {
    struct model model;
    uint32_t done;    /* slots of operations that have happened */
    uint32_t landed;  /* slots of writes that have come, or cannot come any more */
    uint32_t settled; /* slots of late writes that came before now, if they came */
};
static_assert(sizeof(struct config) == sizeof(struct model) + 12, "a config has no padding");

/* Each once. */
struct set {
    struct config *items;
    uint64_t *table; /* generation << 32 | index */
    uint32_t generation;
    size_t count;
};

struct check {
    const struct history *history;
    struct model_shelf *shelf;
    struct set now;
    struct set next;
    uint16_t slots[SLOT_COUNT]; /* the operation in it */
    uint32_t open;              /* slots of operations under way */
    uint32_t late;              /* slots of writes that returned and may still come */
    uint32_t older[SLOT_COUNT]; /* which of them had returned when this one was called */
    bool overflow;
};

static uint64_t hash_of(const struct config *config) {
    uint64_t hash = 0x9e3779b97f4a7c15ull;
    ASSERT(config);
    ASSERT(sizeof(*config) % sizeof(uint32_t) == 0);
    const char *bytes = (const char *)config;
    for (size_t i = 0; i < sizeof(*config); i += sizeof(uint32_t)) {
        uint32_t word;
        memcpy(&word, bytes + i, sizeof(word));
        hash = (hash ^ word) * 0x9fb21c651e98df25ull;
        hash ^= hash >> 29;
    }
    return hash;
}

static void set_clear(struct set *set) {
    ASSERT(set->items);
    ASSERT(set->generation < UINT32_MAX);
    set->count = 0;
    set->generation++;
}

/* False: there is no room. */
static bool set_insert(struct set *set, const struct config *config) {
    ASSERT(set->generation > 0);
    ASSERT(set->count <= HISTORY_CONFIG_COUNT_MAX);
    size_t place = (size_t)hash_of(config) & (TABLE_SIZE - 1);
    while (set->table[place] >> 32 == set->generation) { /* it is half empty at least */
        if (memcmp(&set->items[(uint32_t)set->table[place]], config, sizeof(*config)) == 0) {
            return true;
        }
        place = (place + 1) & (TABLE_SIZE - 1);
    }
    if (set->count == HISTORY_CONFIG_COUNT_MAX) {
        return false;
    }
    set->table[place] = (uint64_t)set->generation << 32 | (uint32_t)set->count;
    set->items[set->count++] = *config;
    return true;
}

static bool set_init(struct set *set) {
    ASSERT(!set->items);
    ASSERT(HISTORY_CONFIG_COUNT_MAX < TABLE_SIZE);
    set->items = malloc(HISTORY_CONFIG_COUNT_MAX * sizeof(*set->items));
    set->table = calloc(TABLE_SIZE, sizeof(*set->table));
    set->generation = 1;
    return set->items && set->table;
}

static void set_deinit(struct set *set) {
    ASSERT(set);
    ASSERT(set->count <= HISTORY_CONFIG_COUNT_MAX);
    free(set->items);
    free(set->table);
}

/* ---- What happens next ------------------------------------------------------------------------- */

static const struct model_op *op_in(const struct check *check, unsigned slot) {
    ASSERT(slot < SLOT_COUNT);
    ASSERT((check->open | check->late) & BIT(slot));
    return &check->history->ops[check->slots[slot]].op;
}

/* It returned nothing that must be explained at any moment of its own. */
static bool needs_no_order(const struct model_op *op) {
    ASSERT(op);
    ASSERT((unsigned)op->kind < MODEL_KIND_COUNT);
    return model_is_vague(op) && (model_writes(op) || model_is_pure(op));
}

static bool brings_up(const struct model_op *op) {
    ASSERT(op);
    ASSERT((unsigned)op->kind < MODEL_KIND_COUNT);
    return (op->kind == MODEL_START || op->kind == MODEL_RESTORE) && model_began(op);
}

/* What is under way in that configuration. */
static void look_around(const struct check *check, const struct config *config,
                        struct model_around *around) {
    around->faults = check->history->faults;
    around->starting = false;
    around->interruptible = false;
    around->stopping = false;
    around->write_count = 0;
    ASSERT(!(check->open & check->late));
    for (uint32_t left = check->open | check->late; left != 0; left &= left - 1) {
        unsigned slot = (unsigned)__builtin_ctz(left);
        const struct model_op *op = op_in(check, slot);
        if (config->done & BIT(slot)) {
            continue;
        }
        around->starting |= brings_up(op);
        around->interruptible |= brings_up(op) && model_is_vague(op);
        around->stopping |=
            op->kind == MODEL_DESTROY || (op->kind == MODEL_STOP && model_began(op));
        bool optional = model_may_land(op);
        if (model_writes(op) && !(config->landed & BIT(slot)) &&
            (optional || op->status == KELPIE_OK)) {
            ASSERT(around->write_count < MODEL_AROUND_COUNT_MAX);
            around->writes[around->write_count++] =
                (struct model_around_write){{op->file, op->id}, optional, slot};
        }
    }
}

static bool unchanged(const struct config *config, const struct model_outcome *outcome) {
    ASSERT(config);
    ASSERT(outcome);
    return outcome->landed == MODEL_SLOT_NONE && !outcome->interrupts &&
           memcmp(&config->model, &outcome->model, sizeof(config->model)) == 0;
}

static bool touches(const struct model_op *op, const struct model_op *write) {
    ASSERT(model_writes(write));
    ASSERT(op);
    bool reads = op->kind == MODEL_COPY_OUT || op->kind == MODEL_EXEC_READ;
    return (reads || model_writes(op)) && op->file == write->file;
}

/* What late writes know of it when the guest has done an operation: those before it came before, or never; and of
 * these, those to the same file are decided. */
static void settle(const struct check *check, struct config *config, unsigned slot) {
    const struct model_op *op = op_in(check, slot);
    ASSERT(!(check->open & check->late));
    ASSERT(!(check->older[slot] & ~check->late));
    if (!model_passed_guest(op)) {
        return;
    }
    config->settled |= check->older[slot];
    for (uint32_t left = config->settled & ~config->landed; left != 0; left &= left - 1) {
        unsigned write = (unsigned)__builtin_ctz(left);
        config->landed |= touches(op, op_in(check, write)) ? BIT(write) : 0;
    }
}

/* What only looks, and fits now, has happened: that spoils nothing for what comes. */
static void look_early(struct check *check, struct config *config) {
    struct model_outcome outcomes[MODEL_OUTCOME_COUNT_MAX];
    struct model_around around;
    bool looked = false;
    ASSERT(check->shelf);
    ASSERT(config);
    for (uint32_t left = check->open & ~config->done; left != 0; left &= left - 1) {
        unsigned slot = (unsigned)__builtin_ctz(left);
        const struct model_op *op = op_in(check, slot);
        if (!model_is_pure(op) || needs_no_order(op)) {
            continue;
        }
        if (!looked) { /* what looks is nothing to what is around */
            look_around(check, config, &around);
            looked = true;
        }
        size_t count = model_step(&config->model, op, &around, check->shelf, outcomes);
        struct config after = *config;
        settle(check, &after, slot);
        bool same = memcmp(&after, config, sizeof(after)) == 0;
        for (size_t i = 0; i < count && same; i++) {
            config->done |= unchanged(config, &outcomes[i]) ? BIT(slot) : 0;
        }
    }
}

/* The operation in `wanted` returns: explanations in which it has happened are kept for what follows. */
static void offer(struct check *check, struct config *config, uint32_t wanted, uint32_t forget) {
    ASSERT(check);
    ASSERT((wanted & ~forget) == 0);
    look_early(check, config);
    bool kept = false;
    if (config->done & wanted) {
        struct config after = *config;
        after.done &= ~forget;
        after.landed &= ~forget;
        after.settled &= ~forget;
        kept = set_insert(&check->next, &after);
    } else {
        kept = set_insert(&check->now, config);
    }
    check->overflow |= !kept;
}

/* The start under way ends with the stop that interrupted it, and so may other stops: one of them is enough for all. */
static void follow_interrupt(struct check *check, const struct config *from,
                             const uint32_t masks[2]) {
    uint32_t starts = 0;
    uint32_t stops = 0;
    for (uint32_t left = check->open & ~from->done; left != 0; left &= left - 1) {
        const struct model_op *op = op_in(check, (unsigned)__builtin_ctz(left));
        uint32_t bit = left & (~left + 1);
        starts |= brings_up(op) && model_is_vague(op) ? bit : 0;
        stops |= op->kind == MODEL_STOP && op->status == KELPIE_OK ? bit : 0;
    }
    ASSERT(starts != 0);
    ASSERT(!(starts & stops));
    for (; starts != 0; starts &= starts - 1) {
        /* Every subset of them, the empty one last. */
        for (uint32_t subset = stops, turn = 0; turn < 1u << HISTORY_OPEN_COUNT_MAX; turn++) {
            struct config config = *from;
            config.done |= (starts & (~starts + 1)) | subset;
            offer(check, &config, masks[0], masks[1]);
            if (subset == 0) {
                break;
            }
            subset = (subset - 1) & stops;
        }
    }
}

/* One outcome of the operation in a slot. */
static void follow(struct check *check, const struct config *from, unsigned slot,
                   const struct model_outcome *outcome, const uint32_t masks[2]) {
    struct config config = *from;
    ASSERT(slot < SLOT_COUNT);
    ASSERT(!(from->done & BIT(slot)));
    config.model = outcome->model;
    config.done |= BIT(slot);
    if (outcome->landed != MODEL_SLOT_NONE) {
        config.landed |= BIT(outcome->landed);
    }
    settle(check, &config, slot);
    if (outcome->machine_lost) {
        config.landed |= check->late;
    }
    if (!outcome->interrupts) {
        offer(check, &config, masks[0], masks[1]);
        return;
    }
    follow_interrupt(check, &config, masks);
}

static bool speaks_of_crash(const struct model_op *op) {
    ASSERT(op);
    ASSERT((unsigned)op->status < KELPIE_STATUS_COUNT);
    return op->ended && (op->status == KELPIE_CRASHED || op->status == KELPIE_WRONG_STATE ||
                         (op->kind == MODEL_STATE && op->value == KELPIE_STATE_CRASHED));
}

/* A crash comes no sooner than somebody speaks of it. */
static void crash(struct check *check, const struct config *from, const uint32_t masks[2]) {
    bool spoken = false;
    ASSERT(check->history);
    ASSERT(from);
    for (uint32_t left = check->open & ~from->done; left != 0; left &= left - 1) {
        spoken |= speaks_of_crash(op_in(check, (unsigned)__builtin_ctz(left)));
    }
    if (spoken && check->history->faults && model_has_machine(&from->model)) {
        struct config config = *from;
        model_crash(&config.model);
        config.landed |= check->late;
        offer(check, &config, masks[0], masks[1]);
    }
}

/* Everything that may happen next in one explanation. masks: what is wanted, and what is forgotten then. */
static void expand(struct check *check, const struct config *config, const uint32_t masks[2]) {
    struct model_outcome outcomes[MODEL_OUTCOME_COUNT_MAX];
    struct model_around around;
    ASSERT(!(config->done & masks[0]));
    ASSERT(check->shelf);
    look_around(check, config, &around);
    for (uint32_t left = check->open & ~config->done; left != 0; left &= left - 1) {
        unsigned slot = (unsigned)__builtin_ctz(left);
        const struct model_op *op = op_in(check, slot);
        if (needs_no_order(op)) {
            continue;
        }
        size_t count = model_step(&config->model, op, &around, check->shelf, outcomes);
        for (size_t i = 0; i < count; i++) {
            /* A failure that left nothing can as well be explained when it returns. */
            bool idle = model_is_vague(op) && !model_had_turn(op) && !(masks[0] & BIT(slot)) &&
                        unchanged(config, &outcomes[i]);
            if (!idle) {
                follow(check, config, slot, &outcomes[i], masks);
            }
        }
    }
    crash(check, config, masks);
}

/* ---- Calls and returns ------------------------------------------------------------------------- */

static void swap_sets(struct check *check) {
    struct set now = check->now;
    ASSERT(check->next.count > 0);
    check->now = check->next;
    check->next = now;
    ASSERT(check->now.count <= HISTORY_CONFIG_COUNT_MAX);
}

/* Slots of late writes that no explanation has a use for any more. */
static void reclaim(struct check *check) {
    uint32_t over = check->late;
    ASSERT(check->now.count > 0);
    ASSERT(!(check->open & check->late));
    for (size_t i = 0; i < check->now.count; i++) {
        over &= check->now.items[i].landed;
    }
    if (over == 0) {
        return;
    }
    set_clear(&check->next);
    for (size_t i = 0; i < check->now.count; i++) {
        struct config config = check->now.items[i];
        config.landed &= ~over;
        config.settled &= ~over;
        check->overflow |= !set_insert(&check->next, &config);
    }
    for (size_t i = 0; i < SLOT_COUNT; i++) {
        check->older[i] &= ~over;
    }
    check->late &= ~over;
    swap_sets(check);
}

static bool on_call(struct check *check, size_t index) {
    reclaim(check);
    uint32_t used = check->open | check->late;
    ASSERT(index < check->history->op_count);
    if (used == UINT32_MAX) {
        check->overflow = true;
        return false;
    }
    unsigned slot = (unsigned)__builtin_ctz(~used);
    ASSERT(slot < SLOT_COUNT);
    check->slots[slot] = (uint16_t)index;
    check->older[slot] = check->late;
    check->open |= BIT(slot);
    return true;
}

static unsigned slot_of(const struct check *check, size_t index) {
    uint32_t left = check->open;
    ASSERT(left != 0);
    while (check->slots[__builtin_ctz(left)] != index) {
        left &= left - 1;
        ASSERT(left != 0);
    }
    return (unsigned)__builtin_ctz(left);
}

/* A write that may still come keeps its slot, unless all is full of them: then no more is known. */
static void on_vague_return(struct check *check, const struct model_op *op, unsigned slot) {
    ASSERT(needs_no_order(op));
    ASSERT(check->open & BIT(slot));
    check->open &= ~BIT(slot);
    if (model_may_land(op)) {
        check->late |= BIT(slot);
        return;
    }
    for (size_t i = 0; i < check->now.count; i++) { /* nothing was noted of it */
        ASSERT(!((check->now.items[i].done | check->now.items[i].landed) & BIT(slot)));
    }
}

/* False: nothing explains it. */
static bool on_return(struct check *check, size_t index) {
    const struct history_op *entry = &check->history->ops[index];
    unsigned slot = slot_of(check, index);
    ASSERT(entry->op.ended);
    ASSERT(check->now.count > 0);
    if (needs_no_order(&entry->op)) {
        on_vague_return(check, &entry->op, slot);
        return true;
    }
    const uint32_t masks[2] = {BIT(slot), BIT(slot)};
    set_clear(&check->next);
    /* Each turn takes up one explanation of a bounded set, and may add to it. */
    for (size_t i = 0; i < check->now.count && !check->overflow; i++) {
        struct config config = check->now.items[i];
        look_early(check, &config);
        if (config.done & masks[0]) {
            offer(check, &config, masks[0], masks[1]);
        } else {
            expand(check, &config, masks);
        }
    }
    if (check->next.count == 0) {
        return false;
    }
    check->open &= ~BIT(slot);
    swap_sets(check);
    return true;
}

/* What bundles may hold, also those whose maker never returned. */
static void note_bundles(struct check *check) {
    static const uint32_t none[2] = {0, 0};
    ASSERT(check->now.count > 0);
    ASSERT(check->shelf->image_count > 0);
    for (size_t i = 0; i < check->now.count && !check->overflow; i++) {
        struct config config = check->now.items[i];
        expand(check, &config, none);
    }
    for (size_t i = 0; i < check->now.count; i++) {
        for (uint8_t b = 0; b < MODEL_BUNDLE_COUNT; b++) {
            uint16_t image = check->now.items[i].model.bundles[b];
            if (image != 0) {
                model_shelf_note(check->shelf, b, (uint16_t)(image - 1));
            }
        }
    }
}

/* ---- Words ------------------------------------------------------------------------------------- */

struct text {
    char *data;
    size_t size;
    size_t used;
};

static void text_op(struct text *text, const struct history *history, size_t index) {
    const struct history_op *entry = &history->ops[index];
    char words[128];
    char until[24] = "the end";
    ASSERT(index < history->op_count);
    ASSERT(text->used < text->size);
    model_describe(&entry->op, words, sizeof(words));
    if (entry->op.ended) {
        snprintf(until, sizeof(until), "%u", entry->end);
    }
    int count = snprintf(text->data + text->used, text->size - text->used,
                         "#%zu %s between %u and %s", index, words, entry->begin, until);
    ASSERT(count > 0);
    text->used +=
        (size_t)count < text->size - text->used ? (size_t)count : text->size - text->used - 1;
}

static void text_add(struct text *text, const char *words) {
    ASSERT(text->used < text->size);
    ASSERT(words);
    int count = snprintf(text->data + text->used, text->size - text->used, "%s", words);
    ASSERT(count >= 0);
    text->used +=
        (size_t)count < text->size - text->used ? (size_t)count : text->size - text->used - 1;
}

/* Who put that content there; or SIZE_MAX. */
static size_t writer_of(const struct history *history, size_t before, uint8_t file, uint32_t id) {
    ASSERT(before < history->op_count);
    ASSERT(file < MODEL_FILE_COUNT);
    for (size_t i = before; i > 0; i--) {
        const struct model_op *op = &history->ops[i - 1].op;
        if (model_writes(op) && op->file == file && op->id == id) {
            return i - 1;
        }
    }
    return SIZE_MAX;
}

/* The VM as one of the last explanations had it. */
static void text_model(struct text *text, const struct check *check, size_t index) {
    const struct model_op *op = &check->history->ops[index].op;
    const struct model *model = &check->now.items[0].model;
    char words[160];
    ASSERT(check->now.count > 0);
    ASSERT(model->state <= MODEL_GONE);
    const char *state = model->state == MODEL_GONE
                            ? "destroyed"
                            : kelpie_state_name((enum kelpie_state)model->state);
    snprintf(words, sizeof(words), ", but the VM was %s before", state);
    text_add(text, words);
    if (op->kind != MODEL_COPY_OUT && op->kind != MODEL_EXEC_READ) {
        return;
    }
    uint32_t id = model->files[op->file];
    size_t writer = writer_of(check->history, index, op->file, id);
    if (id == MODEL_ABSENT) {
        snprintf(words, sizeof(words), " and had no /f%u", op->file);
    } else if (writer == SIZE_MAX) {
        snprintf(words, sizeof(words), " and had id %u there, from a bundle", id);
    } else {
        snprintf(words, sizeof(words), " and #%zu had put id %u there", writer, id);
    }
    text_add(text, words);
}

static void explain(const struct check *check, size_t index, char *reason, size_t size) {
    const struct history *history = check->history;
    struct text text = {reason, size, 0};
    size_t told = 0;
    ASSERT(index < history->op_count);
    ASSERT(size > 0);
    text_op(&text, history, index);
    text_model(&text, check, index);
    text_add(&text, ". Around it:");
    for (size_t i = history->op_count; i > 0 && told < TOLD_COUNT; i--) {
        if (i - 1 != index && history->ops[i - 1].begin < history->ops[index].end) {
            text_add(&text, told == 0 ? " " : "; ");
            text_op(&text, history, i - 1);
            told++;
        }
    }
    text_add(&text, told == 0 ? " nothing." : ".");
}

/* ---- The check --------------------------------------------------------------------------------- */

static enum history_verdict undecided(char *reason, size_t size, const char *why) {
    ASSERT(reason);
    ASSERT(why);
    snprintf(reason, size, "the history was not checked to its end: %s", why);
    return HISTORY_UNDECIDED;
}

static enum history_verdict run_check(struct check *check, char *reason, size_t size) {
    const struct history *history = check->history;
    ASSERT(check->now.count == 1);
    ASSERT(history->event_count <= 2 * HISTORY_OP_COUNT_MAX);
    for (size_t i = 0; i < history->event_count; i++) {
        size_t index = history->events[i];
        bool fits =
            history->ops[index].begin == i ? on_call(check, index) : on_return(check, index);
        if (check->overflow || check->shelf->full) {
            return undecided(reason, size, "too many explanations, late writes or images");
        }
        if (!fits) {
            explain(check, index, reason, size);
            return HISTORY_WRONG;
        }
    }
    note_bundles(check);
    if (check->overflow || check->shelf->full) {
        return undecided(reason, size, "too many explanations or images at its end");
    }
    return HISTORY_HOLDS;
}

enum history_verdict history_check(const struct history *history, const struct model *start,
                                   struct model_shelf *shelf, char *reason, size_t size) {
    ASSERT(history && start);
    ASSERT(shelf && reason && size > 0);
    struct check check = {.history = history, .shelf = shelf};
    reason[0] = '\0';
    bool made = set_init(&check.now);
    made = set_init(&check.next) && made;
    enum history_verdict verdict = HISTORY_UNDECIDED;
    if (made) {
        struct config first = {.model = *start};
        made = set_insert(&check.now, &first);
        ASSERT(made);
        verdict = run_check(&check, reason, size);
    } else {
        undecided(reason, size, "there is no memory");
    }
    set_deinit(&check.now);
    set_deinit(&check.next);
    return verdict;
}
