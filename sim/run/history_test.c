/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The check against a second notion of a VM: a toy that works as the real thing does, in steps (an operation waits for its
 * turn, holds the VM, captures, publishes; a guest lands writes of sessions that were given up), and that knows nothing of the
 * model's shortcuts. What the toy does must always be explained. What it cannot have done, as trying every one of its runs
 * shows, should be refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "sim/choices.h"
#include "sim/run/history.h"

#define TOY_FILE_COUNT 3
#define TOY_BUNDLE_COUNT 3
#define TOY_SLOT_COUNT 4
#define TOY_LOOSE_COUNT 6
#define TOY_STATE_COUNT_MAX 200000 /* of one exhaustive search */
#define TOY_TABLE_SIZE 524288

enum phase { FREE = 0, NEW, INTERRUPTING, HOLDS_VM, CAPTURED, SENT, LANDED, FINISHED };

struct toy_slot {
    uint8_t phase;
    uint8_t op_low, op_high;
    uint8_t older; /* loose writes whose callers had returned when this was called */
    uint8_t status;
    uint8_t value;
    uint8_t landed; /* the write came */
    uint8_t values[TOY_FILE_COUNT];
};

struct toy_loose {
    uint8_t used;
    uint8_t file, id;
    uint8_t returned; /* its caller has gone; 2: it came from a bundle */
    uint8_t slot;
    uint8_t exec;
};

struct toy_bundle {
    uint8_t made;
    uint8_t files[TOY_FILE_COUNT];
    uint8_t loose_count;
    uint8_t loose[TOY_LOOSE_COUNT][2];
};

/* Bytes alone, so that two can be compared as such. */
struct toy {
    uint8_t state;
    uint8_t alive;
    uint8_t busy; /* slot + 1 */
    uint8_t before;
    uint8_t stop_asked;
    uint8_t files[TOY_FILE_COUNT];
    struct toy_slot slots[TOY_SLOT_COUNT];
    struct toy_loose loose[TOY_LOOSE_COUNT];
    struct toy_bundle bundles[TOY_BUNDLE_COUNT];
    struct toy_bundle draft; /* what is being captured */
};

enum move {
    BEGIN = 0, /* takes its turn, or is refused */
    REFUSE,    /* BUSY or CANCELLED before its turn */
    OK_END,
    FAIL,
    FAIL_PAUSED,
    FAIL_CRASHED,
    CAPTURE,
    POWER_OFF,
    LAND,
    LOST,
    CRASH,
    LOOSE_LANDS,
    MOVE_COUNT
};

struct scene {
    struct history history;
    struct model_shelf shelf;
    char reason[1024];
    struct sim_choices choices;
    struct toy states[TOY_STATE_COUNT_MAX]; /* of the exhaustive search */
    uint32_t depths[TOY_STATE_COUNT_MAX];
    uint32_t table[TOY_TABLE_SIZE];
};

/* ---- The toy ----------------------------------------------------------------------------------- */

static const struct model_op *toy_op(const struct scene *scene, const struct toy_slot *slot) {
    return &scene->history.ops[slot->op_low | slot->op_high << 8].op;
}

static bool toy_up(const struct toy *toy) {
    return toy->state == KELPIE_STATE_RUNNING || toy->state == KELPIE_STATE_PAUSED;
}

static bool toy_allows(enum model_kind kind, uint8_t state) {
    switch ((int)kind) {
    case MODEL_START:
    case MODEL_RESTORE:
        return state == KELPIE_STATE_CREATED || state == KELPIE_STATE_STOPPED;
    case MODEL_STOP:
    case MODEL_SNAPSHOT:
    case MODEL_FORK:
        return state == KELPIE_STATE_RUNNING || state == KELPIE_STATE_PAUSED;
    case MODEL_RESUME:
        return state == KELPIE_STATE_PAUSED;
    default:
        return state == KELPIE_STATE_RUNNING;
    }
}

static bool is_guest(enum model_kind kind) {
    return kind == MODEL_COPY_IN || kind == MODEL_COPY_OUT || kind == MODEL_EXEC_WRITE ||
           kind == MODEL_EXEC_READ || kind == MODEL_EXEC_ECHO || kind == MODEL_PING;
}

static bool finish(struct toy *toy, unsigned index, enum kelpie_status status, uint8_t value) {
    toy->slots[index].phase = FINISHED;
    toy->slots[index].status = (uint8_t)status;
    toy->slots[index].value = value;
    if (toy->busy == index + 1) {
        toy->busy = 0;
        toy->stop_asked = 0;
        memset(&toy->draft, 0, sizeof(toy->draft));
    }
    return true;
}

static void toy_lose(struct toy *toy, enum kelpie_state state) {
    toy->state = (uint8_t)state;
    toy->alive = 0;
    memset(toy->files, 0, sizeof(toy->files));
    memset(toy->loose, 0, sizeof(toy->loose));
}

static bool move_begin(const struct scene *scene, struct toy *toy, unsigned index) {
    struct toy_slot *slot = &toy->slots[index];
    const struct model_op *op = toy_op(scene, slot);
    if (op->kind == MODEL_STATE) {
        return finish(toy, index, KELPIE_OK, toy->state);
    }
    if (is_guest(op->kind)) {
        if (!toy_allows(op->kind, toy->state) || !toy->alive) {
            return finish(toy, index, KELPIE_WRONG_STATE, 0);
        }
        slot->phase = SENT;
        return true;
    }
    if (toy->busy != 0) {
        if (op->kind == MODEL_STOP && toy->state == KELPIE_STATE_STARTING) {
            toy->stop_asked = 1;
            slot->phase = INTERRUPTING;
            return true;
        }
        return false;
    }
    if (!toy_allows(op->kind, toy->state)) {
        return finish(toy, index, KELPIE_WRONG_STATE, 0);
    }
    slot->phase = HOLDS_VM;
    toy->busy = (uint8_t)(index + 1);
    toy->before = toy->state;
    if (op->kind == MODEL_START || op->kind == MODEL_RESTORE) {
        toy->state = KELPIE_STATE_STARTING;
    }
    return true;
}

static void toy_restore(struct toy *toy, const struct toy_bundle *bundle) {
    memcpy(toy->files, bundle->files, sizeof(toy->files));
    for (unsigned i = 0; i < bundle->loose_count; i++) {
        toy->loose[i] = (struct toy_loose){1, bundle->loose[i][0], bundle->loose[i][1], 2, 0, 1};
    }
}

/* A holder's success. */
static bool move_ok(const struct scene *scene, struct toy *toy, unsigned index) {
    struct toy_slot *slot = &toy->slots[index];
    const struct model_op *op = toy_op(scene, slot);
    bool crashed = toy->state == KELPIE_STATE_CRASHED;
    switch ((int)op->kind) {
    case MODEL_START:
    case MODEL_RESTORE:
        if (toy->stop_asked || (op->kind == MODEL_RESTORE && !toy->bundles[op->bundle].made)) {
            return false;
        }
        memset(toy->files, 0, sizeof(toy->files));
        memset(toy->loose, 0, sizeof(toy->loose));
        if (op->kind == MODEL_RESTORE) {
            toy_restore(toy, &toy->bundles[op->bundle]);
        }
        toy->state =
            op->kind == MODEL_RESTORE && op->paused ? KELPIE_STATE_PAUSED : KELPIE_STATE_RUNNING;
        toy->alive = 1;
        return finish(toy, index, KELPIE_OK, 0);
    case MODEL_STOP:
        toy_lose(toy, crashed ? KELPIE_STATE_CRASHED : KELPIE_STATE_STOPPED);
        return finish(toy, index, KELPIE_OK, 0);
    case MODEL_PAUSE:
    case MODEL_RESUME:
        toy->state = op->kind == MODEL_PAUSE ? KELPIE_STATE_PAUSED : KELPIE_STATE_RUNNING;
        return !crashed && finish(toy, index, KELPIE_OK, 0);
    case MODEL_SNAPSHOT:
        if (slot->phase != CAPTURED || toy->bundles[op->bundle].made) {
            return false;
        }
        toy->bundles[op->bundle] = toy->draft;
        toy->bundles[op->bundle].made = 1;
        return finish(toy, index, KELPIE_OK, 0);
    case MODEL_FORK:
        return slot->phase == CAPTURED && finish(toy, index, KELPIE_OK, 0);
    default:
        return false;
    }
}

/* What the guest holds: files, and commands under way. A fork's child may be ahead of it by one command. */
static bool move_capture(struct scene *scene, struct toy *toy, unsigned index, unsigned variant) {
    struct toy_slot *slot = &toy->slots[index];
    const struct model_op *op = toy_op(scene, slot);
    if (slot->phase != HOLDS_VM || (op->kind != MODEL_SNAPSHOT && op->kind != MODEL_FORK) ||
        !toy_up(toy)) {
        return false;
    }
    struct toy_bundle *draft = &toy->draft;
    memset(draft, 0, sizeof(*draft));
    memcpy(draft->files, toy->files, sizeof(toy->files));
    for (unsigned i = 0; i < TOY_LOOSE_COUNT; i++) {
        if (toy->loose[i].used && toy->loose[i].exec) {
            draft->loose[draft->loose_count][0] = toy->loose[i].file;
            draft->loose[draft->loose_count++][1] = toy->loose[i].id;
        }
    }
    for (unsigned i = 0; i < TOY_SLOT_COUNT; i++) {
        const struct toy_slot *other = &toy->slots[i];
        if (other->phase == SENT && !other->landed &&
            toy_op(scene, other)->kind == MODEL_EXEC_WRITE &&
            draft->loose_count < TOY_LOOSE_COUNT) {
            draft->loose[draft->loose_count][0] = toy_op(scene, other)->file;
            draft->loose[draft->loose_count++][1] = (uint8_t)toy_op(scene, other)->id;
        }
    }
    slot->phase = CAPTURED;
    memcpy(slot->values, draft->files, sizeof(slot->values));
    if (variant > draft->loose_count || (variant > 0 && op->kind == MODEL_SNAPSHOT)) {
        return false;
    }
    if (variant > 0) {
        slot->values[draft->loose[variant - 1][0]] = draft->loose[variant - 1][1];
    }
    return true;
}

/* The guest does it; what was sent before by those who have returned is over then. */
static bool move_land(const struct scene *scene, struct toy *toy, unsigned index) {
    struct toy_slot *slot = &toy->slots[index];
    const struct model_op *op = toy_op(scene, slot);
    if (slot->phase != SENT || toy->state != KELPIE_STATE_RUNNING || !toy->alive) {
        return false;
    }
    for (unsigned i = 0; i < TOY_LOOSE_COUNT; i++) {
        if (slot->older & (1u << i)) {
            toy->loose[i] = (struct toy_loose){0};
        }
    }
    if (model_writes(op)) {
        toy->files[op->file] = (uint8_t)op->id;
        slot->landed = 1;
    }
    bool reads = op->kind == MODEL_COPY_OUT || op->kind == MODEL_EXEC_READ;
    slot->value = reads ? toy->files[op->file] : op->kind == MODEL_EXEC_ECHO ? (uint8_t)op->id : 0;
    slot->phase = LANDED;
    return true;
}

static bool move_guest_fail(const struct scene *scene, struct toy *toy, unsigned index) {
    struct toy_slot *slot = &toy->slots[index];
    const struct model_op *op = toy_op(scene, slot);
    if (model_writes(op) && !slot->landed && toy->alive) {
        unsigned i = 0;
        while (i < TOY_LOOSE_COUNT && toy->loose[i].used) {
            i++;
        }
        if (i == TOY_LOOSE_COUNT) {
            return false;
        }
        toy->loose[i] = (struct toy_loose){1, op->file,       (uint8_t)op->id,
                                           0, (uint8_t)index, op->kind == MODEL_EXEC_WRITE};
    }
    return finish(toy, index, KELPIE_CANCELLED, 0);
}

static bool move_fail(const struct scene *scene, struct toy *toy, unsigned index, enum move move) {
    struct toy_slot *slot = &toy->slots[index];
    const struct model_op *op = toy_op(scene, slot);
    bool starts = op->kind == MODEL_START || op->kind == MODEL_RESTORE;
    bool copies = op->kind == MODEL_SNAPSHOT || op->kind == MODEL_FORK;
    if (is_guest(op->kind)) {
        return move == FAIL && (slot->phase == SENT || slot->phase == LANDED) &&
               move_guest_fail(scene, toy, index);
    }
    if ((slot->phase != HOLDS_VM && slot->phase != CAPTURED) || op->kind == MODEL_STOP) {
        return false;
    }
    if (toy->state == KELPIE_STATE_CRASHED) {
        return move == FAIL && finish(toy, index, KELPIE_CRASHED, 0);
    }
    if (move == FAIL_CRASHED) {
        if (!starts || !scene->history.faults || toy->stop_asked) {
            return false;
        }
        toy_lose(toy, KELPIE_STATE_CRASHED);
        return finish(toy, index, KELPIE_BOOT_FAILED, 0);
    }
    if (move == FAIL_PAUSED) {
        bool running = copies && toy->state == KELPIE_STATE_RUNNING;
        toy->state = KELPIE_STATE_PAUSED;
        return running && slot->phase == CAPTURED && finish(toy, index, KELPIE_SNAPSHOT_FAILED, 0);
    }
    if (starts) {
        toy->state = toy->stop_asked ? KELPIE_STATE_STOPPED : toy->before;
        for (unsigned i = 0; i < TOY_SLOT_COUNT; i++) { /* those who waited for that */
            if (toy->slots[i].phase == INTERRUPTING) {
                finish(toy, i, KELPIE_OK, 0);
            }
        }
        return finish(toy, index, KELPIE_BOOT_FAILED, 0);
    }
    return finish(toy, index, copies ? KELPIE_SNAPSHOT_FAILED : KELPIE_TIMED_OUT, 0);
}

/* The machine went while the guest had it. */
static bool move_lost(const struct scene *scene, struct toy *toy, unsigned index) {
    struct toy_slot *slot = &toy->slots[index];
    bool guest = is_guest(toy_op(scene, slot)->kind);
    if (!guest || toy->alive || (slot->phase != SENT && slot->phase != LANDED)) {
        return false;
    }
    return finish(toy, index,
                  toy->state == KELPIE_STATE_CRASHED ? KELPIE_CRASHED : KELPIE_WRONG_STATE, 0);
}

static bool move_end(struct scene *scene, struct toy *toy, unsigned index) {
    struct toy_slot *slot = &toy->slots[index];
    const struct model_op *op = toy_op(scene, slot);
    if (slot->phase == LANDED) {
        bool none = op->kind == MODEL_COPY_OUT && slot->value == 0;
        return finish(toy, index, none ? KELPIE_NOT_FOUND : KELPIE_OK, slot->value);
    }
    return (slot->phase == HOLDS_VM || slot->phase == CAPTURED) && move_ok(scene, toy, index);
}

/* False: that cannot happen now; *toy is of no use then. variant: which, where there are several. */
static bool toy_move(struct scene *scene, struct toy *toy, unsigned index, enum move move,
                     unsigned variant) {
    struct toy_slot *slot = &toy->slots[index];
    if (move == CRASH) {
        bool can = scene->history.faults && toy_up(toy) && toy->alive && index == 0;
        if (can) {
            toy_lose(toy, KELPIE_STATE_CRASHED);
        }
        return can && variant == 0;
    }
    if (move == LOOSE_LANDS) {
        struct toy_loose loose = toy->loose[variant];
        if (index != 0 || !loose.used || toy->state != KELPIE_STATE_RUNNING || !toy->alive) {
            return false;
        }
        toy->files[loose.file] = loose.id;
        toy->loose[variant] = (struct toy_loose){0};
        return true;
    }
    if (slot->phase == FREE || slot->phase == FINISHED || (variant > 0 && move != CAPTURE)) {
        return false;
    }
    const struct model_op *op = toy_op(scene, slot);
    switch ((int)move) {
    case BEGIN:
        return slot->phase == NEW && move_begin(scene, toy, index);
    case REFUSE:
        return slot->phase == NEW && op->kind != MODEL_STATE && finish(toy, index, KELPIE_BUSY, 0);
    case OK_END:
        return move_end(scene, toy, index);
    case FAIL:
    case FAIL_PAUSED:
    case FAIL_CRASHED:
        return move_fail(scene, toy, index, move);
    case CAPTURE:
        return move_capture(scene, toy, index, variant);
    case POWER_OFF: /* what was loose finds nothing alive, and ends with the machine */
        toy->alive = 0;
        return op->kind == MODEL_STOP && slot->phase == HOLDS_VM && toy_up(toy);
    case LAND:
        return move_land(scene, toy, index);
    case LOST:
        return move_lost(scene, toy, index);
    default:
        return false;
    }
}

static void toy_call(struct toy *toy, unsigned index, size_t op) {
    struct toy_slot *slot = &toy->slots[index];
    memset(slot, 0, sizeof(*slot));
    slot->phase = NEW;
    slot->op_low = (uint8_t)op;
    slot->op_high = (uint8_t)(op >> 8);
    for (unsigned i = 0; i < TOY_LOOSE_COUNT; i++) {
        if (toy->loose[i].used && toy->loose[i].returned == 1) {
            slot->older |= (uint8_t)(1u << i);
        }
    }
}

static void toy_return(struct toy *toy, unsigned index) {
    memset(&toy->slots[index], 0, sizeof(toy->slots[index]));
    for (unsigned i = 0; i < TOY_LOOSE_COUNT; i++) {
        if (toy->loose[i].used && toy->loose[i].returned == 0 && toy->loose[i].slot == index) {
            toy->loose[i].returned = 1;
        }
    }
}

/* ---- Chance: a run of the toy ------------------------------------------------------------------ */

static struct model_op draw_op(struct scene *scene, const struct toy *toy) {
    static const enum model_kind up[] = {
        MODEL_COPY_IN,   MODEL_COPY_IN,   MODEL_COPY_OUT,  MODEL_COPY_OUT, MODEL_EXEC_WRITE,
        MODEL_EXEC_READ, MODEL_EXEC_READ, MODEL_EXEC_ECHO, MODEL_PING,     MODEL_STATE,
        MODEL_PAUSE,     MODEL_STOP,      MODEL_SNAPSHOT,  MODEL_FORK,     MODEL_START};
    static const enum model_kind down[] = {MODEL_START, MODEL_START, MODEL_RESTORE,  MODEL_RESTORE,
                                           MODEL_STATE, MODEL_STOP,  MODEL_COPY_OUT, MODEL_RESUME};
    static const enum model_kind paused[] = {MODEL_RESUME,   MODEL_RESUME, MODEL_RESUME,
                                             MODEL_SNAPSHOT, MODEL_STOP,   MODEL_COPY_IN,
                                             MODEL_STATE,    MODEL_FORK};
    struct model_op op = {.kind = MODEL_PING};
    if (toy->state == KELPIE_STATE_RUNNING) {
        op.kind = up[sim_choose(&scene->choices, sizeof(up) / sizeof(up[0]))];
    } else if (toy->state == KELPIE_STATE_PAUSED) {
        op.kind = paused[sim_choose(&scene->choices, sizeof(paused) / sizeof(paused[0]))];
    } else {
        op.kind = down[sim_choose(&scene->choices, sizeof(down) / sizeof(down[0]))];
    }
    op.file = (uint8_t)sim_choose(&scene->choices, TOY_FILE_COUNT);
    op.bundle = (uint8_t)sim_choose(&scene->choices, TOY_BUNDLE_COUNT);
    op.paused = op.kind == MODEL_RESTORE && sim_chance(&scene->choices, SIM_PPM / 4);
    op.id = (uint32_t)(scene->history.op_count % 250 + 1);
    return op;
}

static void record_return(struct scene *scene, const struct toy_slot *slot) {
    size_t index = slot->op_low | (size_t)slot->op_high << 8;
    if (toy_op(scene, slot)->kind == MODEL_FORK) {
        uint32_t values[MODEL_FILE_COUNT];
        for (size_t i = 0; i < MODEL_FILE_COUNT; i++) {
            values[i] = i < TOY_FILE_COUNT ? slot->values[i] : MODEL_UNKNOWN;
        }
        history_end_fork(&scene->history, index, (enum kelpie_status)slot->status, values);
    } else {
        history_end(&scene->history, index, (enum kelpie_status)slot->status, slot->value);
    }
}

/* Failures are rarer than chance would have them, so that something happens. */
static void random_move(struct scene *scene, struct toy *toy, uint32_t failure_ppm) {
    enum move move = (enum move)sim_choose(&scene->choices, MOVE_COUNT);
    unsigned index = (unsigned)sim_choose(&scene->choices, TOY_SLOT_COUNT);
    unsigned variant = 0;
    if (move == CAPTURE || move == LOOSE_LANDS) {
        variant = (unsigned)sim_choose(&scene->choices, move == CAPTURE ? 3 : TOY_LOOSE_COUNT);
    }
    bool fails = move == REFUSE || move == FAIL || move == FAIL_PAUSED || move == FAIL_CRASHED;
    if ((fails && toy->state != KELPIE_STATE_CRASHED &&
         !sim_chance(&scene->choices, failure_ppm)) ||
        (move == CRASH && !sim_chance(&scene->choices, failure_ppm / 20))) {
        return;
    }
    struct toy after = *toy;
    if (toy_move(scene, &after, index, move, variant)) {
        *toy = after;
    }
}

static void live(struct scene *scene, size_t op_count, unsigned threads, uint32_t failure_ppm) {
    struct toy toy;
    memset(&toy, 0, sizeof(toy));
    for (size_t turn = 0; turn < 4000 * op_count; turn++) {
        unsigned busy = 0;
        unsigned free_slot = TOY_SLOT_COUNT;
        for (unsigned i = TOY_SLOT_COUNT; i > 0; i--) {
            busy += toy.slots[i - 1].phase != FREE;
            free_slot = toy.slots[i - 1].phase == FREE ? i - 1 : free_slot;
        }
        unsigned index = (unsigned)sim_choose(&scene->choices, TOY_SLOT_COUNT);
        uint64_t what = sim_choose(&scene->choices, 16);
        if (what == 0 && busy < threads && scene->history.op_count < op_count) {
            struct model_op op = draw_op(scene, &toy);
            toy_call(&toy, free_slot, history_begin(&scene->history, &op));
        } else if (what == 1 && toy.slots[index].phase == FINISHED) {
            record_return(scene, &toy.slots[index]);
            toy_return(&toy, index);
        } else if (busy == 0 && scene->history.op_count == op_count) {
            return;
        } else {
            random_move(scene, &toy, failure_ppm);
        }
    }
}

static void draw_history(struct scene *scene, uint64_t seed, size_t op_count, unsigned threads) {
    sim_choices_init(&scene->choices, seed);
    history_init(&scene->history, sim_chance(&scene->choices, SIM_PPM / 2));
    static const uint32_t rates[] = {20000, 200000, SIM_PPM};
    live(scene, op_count, threads, rates[sim_choose(&scene->choices, 3)]);
}

static enum history_verdict verdict(struct scene *scene) {
    struct model start;
    model_init(&start);
    model_shelf_init(&scene->shelf);
    return history_check(&scene->history, &start, &scene->shelf, scene->reason,
                         sizeof(scene->reason));
}

/* ---- Every run of the toy ---------------------------------------------------------------------- */

enum possible { IMPOSSIBLE = 0, POSSIBLE, TOO_LARGE };

static bool result_fits(const struct scene *scene, const struct toy_slot *slot) {
    const struct model_op *op = toy_op(scene, slot);
    if (!op->ended || op->status != slot->status) {
        return !op->ended;
    }
    if (op->kind == MODEL_FORK && op->status == KELPIE_OK) {
        for (size_t i = 0; i < TOY_FILE_COUNT; i++) {
            if (op->values[i] != slot->values[i]) {
                return false;
            }
        }
    }
    return op->kind == MODEL_FORK || op->status != KELPIE_OK || op->value == slot->value;
}

/* False: there is no room. */
static bool remember(struct scene *scene, const struct toy *toy, uint32_t depth, uint32_t *count) {
    uint64_t hash = depth + 1;
    const uint8_t *bytes = (const uint8_t *)toy;
    for (size_t i = 0; i < sizeof(*toy); i++) {
        hash = (hash ^ bytes[i]) * 0x100000001b3ull;
    }
    uint32_t place = (uint32_t)sim_mix(hash, 0, 0) & (TOY_TABLE_SIZE - 1);
    while (scene->table[place] != 0) {
        uint32_t found = scene->table[place] - 1;
        if (scene->depths[found] == depth &&
            memcmp(&scene->states[found], toy, sizeof(*toy)) == 0) {
            return true;
        }
        place = (place + 1) & (TOY_TABLE_SIZE - 1);
    }
    if (*count == TOY_STATE_COUNT_MAX) {
        return false;
    }
    scene->states[*count] = *toy;
    scene->depths[*count] = depth;
    scene->table[place] = ++*count;
    return true;
}

/* The next event, if it can be that one now. */
static bool toy_event(struct scene *scene, struct toy *toy, uint32_t depth) {
    size_t op = scene->history.events[depth];
    bool calls = scene->history.ops[op].begin == depth;
    for (unsigned i = 0; i < TOY_SLOT_COUNT; i++) {
        struct toy_slot *slot = &toy->slots[i];
        if (calls && slot->phase == FREE) {
            toy_call(toy, i, op);
            return true;
        }
        if (!calls && slot->phase == FINISHED && (slot->op_low | slot->op_high << 8) == (int)op) {
            toy_return(toy, i);
            return true;
        }
    }
    return false;
}

static bool try_move(struct scene *scene, const struct toy *from, uint32_t depth, uint32_t which,
                     uint32_t *count) {
    unsigned variant = which % TOY_LOOSE_COUNT;
    unsigned index = which / TOY_LOOSE_COUNT % TOY_SLOT_COUNT;
    enum move move = (enum move)(which / (TOY_LOOSE_COUNT * TOY_SLOT_COUNT));
    struct toy toy = *from;
    if (!toy_move(scene, &toy, index, move, variant)) {
        return true;
    }
    for (unsigned i = 0; i < TOY_SLOT_COUNT; i++) {
        if (toy.slots[i].phase == FINISHED && from->slots[i].phase != FINISHED &&
            !result_fits(scene, &toy.slots[i])) {
            return true;
        }
    }
    return remember(scene, &toy, depth, count);
}

static enum possible try_every_run(struct scene *scene) {
    struct toy toy;
    uint32_t count = 0;
    memset(&toy, 0, sizeof(toy));
    memset(scene->table, 0, sizeof(scene->table));
    remember(scene, &toy, 0, &count);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t depth = scene->depths[i];
        if (depth == scene->history.event_count) {
            return POSSIBLE;
        }
        bool room = true;
        for (uint32_t m = 0; m < MOVE_COUNT * TOY_SLOT_COUNT * TOY_LOOSE_COUNT && room; m++) {
            room = try_move(scene, &scene->states[i], depth, m, &count);
        }
        toy = scene->states[i];
        if (toy_event(scene, &toy, depth)) {
            room = room && remember(scene, &toy, depth + 1, &count);
        }
        if (!room) {
            return TOO_LARGE;
        }
    }
    return IMPOSSIBLE;
}

/* ---- Tests ------------------------------------------------------------------------------------- */

static int set_up(void **state) {
    struct scene *scene = calloc(1, sizeof(*scene));
    assert_non_null(scene);
    *state = scene;
    return 0;
}

static int tear_down(void **state) {
    free(*state);
    return 0;
}

static void assert_explained(struct scene *scene, uint64_t seed) {
    if (verdict(scene) == HISTORY_HOLDS) {
        return;
    }
    print_message("seed %llu: %s\n", (unsigned long long)seed, scene->reason);
    for (size_t i = 0; i < scene->history.op_count; i++) {
        const struct history_op *entry = &scene->history.ops[i];
        char words[128];
        model_describe(&entry->op, words, sizeof(words));
        print_message("#%zu %u..%u %s\n", i, entry->begin, entry->end, words);
    }
    fail();
}

static void what_the_toy_does_is_explained(void **state) {
    struct scene *scene = *state;
    for (uint64_t seed = 0; seed < 6000; seed++) {
        draw_history(scene, seed, 4 + seed % 60, 1 + seed % TOY_SLOT_COUNT);
        assert_explained(scene, seed);
    }
}

/* Its owner is killed at any moment: what did not return stays open. */
static void a_history_may_end_anywhere(void **state) {
    struct scene *scene = *state;
    for (uint64_t seed = 0; seed < 3000; seed++) {
        draw_history(scene, seed, 4 + seed % 60, 1 + seed % TOY_SLOT_COUNT);
        struct history *history = &scene->history;
        history->event_count = sim_choose(&scene->choices, history->event_count + 1);
        while (history->op_count > 0 &&
               history->ops[history->op_count - 1].begin >= history->event_count) {
            history->op_count--;
        }
        for (size_t i = 0; i < history->op_count; i++) {
            if (history->ops[i].end >= history->event_count) {
                history->ops[i].op.ended = false;
                history->ops[i].op.status = KELPIE_OK;
                history->ops[i].op.value = 0;
                history->ops[i].end = UINT32_MAX;
            }
        }
        assert_explained(scene, seed);
    }
}

/* Changes what one operation returned. False: nothing was changed. */
static bool falsify(struct scene *scene) {
    struct model_op *op =
        &scene->history.ops[sim_choose(&scene->choices, scene->history.op_count)].op;
    const struct model_op was = *op;
    bool reads = op->kind == MODEL_COPY_OUT || op->kind == MODEL_EXEC_READ;
    switch (sim_choose(&scene->choices, 3)) {
    case 0: /* a wrong value */
        if (op->kind == MODEL_STATE) {
            op->value = (uint32_t)sim_choose(&scene->choices, KELPIE_STATE_COUNT);
        } else if (op->kind == MODEL_FORK) {
            op->values[sim_choose(&scene->choices, TOY_FILE_COUNT)] =
                (uint32_t)sim_choose(&scene->choices, scene->history.op_count + 1);
        } else if (reads || op->kind == MODEL_EXEC_ECHO) {
            op->value = (uint32_t)sim_choose(&scene->choices, scene->history.op_count + 1);
            if (op->kind == MODEL_COPY_OUT && was.status != KELPIE_WRONG_STATE) {
                op->status = op->value == 0 ? KELPIE_NOT_FOUND : KELPIE_OK;
            }
        }
        break;
    case 1: /* a success that was none: a lost write, a success in a wrong state, a machine that came back */
        op->status = KELPIE_OK;
        if (op->kind == MODEL_COPY_OUT && op->value == 0) {
            op->status = KELPIE_NOT_FOUND;
        }
        break;
    default: /* a success that is denied */
        if (op->kind != MODEL_STATE) {
            op->status = KELPIE_WRONG_STATE;
        }
        break;
    }
    return memcmp(op, &was, sizeof(was)) != 0;
}

static void what_the_toy_cannot_do_is_refused(void **state) {
    struct scene *scene = *state;
    unsigned counts[3] = {0}; /* by enum possible */
    unsigned refused = 0;
    for (uint64_t seed = 0; seed < 1500; seed++) {
        draw_history(scene, seed, 3 + seed % 5, 2 + seed % 2);
        if (!falsify(scene)) {
            continue;
        }
        enum possible truth = try_every_run(scene);
        enum history_verdict found = verdict(scene);
        assert_int_not_equal(found, HISTORY_UNDECIDED);
        if (truth == POSSIBLE) {
            assert_explained(scene, seed);
        }
        counts[truth]++;
        refused += truth == IMPOSSIBLE && found == HISTORY_WRONG;
    }
    print_message("%u wrong, %u of them refused; %u possible after all; %u too large to tell\n",
                  counts[IMPOSSIBLE], refused, counts[POSSIBLE], counts[TOO_LARGE]);
    assert_true(counts[IMPOSSIBLE] > 500 && counts[POSSIBLE] > 100 && counts[TOO_LARGE] < 30);
    assert_true(refused * 100 >= counts[IMPOSSIBLE] * 95);
}

/* The exhaustive search itself must find what the toy did. */
static void the_search_of_every_run_finds_the_one_that_was(void **state) {
    for (uint64_t seed = 0; seed < 300; seed++) {
        draw_history(*state, seed, 3 + seed % 5, 2 + seed % 2);
        assert_int_not_equal(try_every_run(*state), IMPOSSIBLE);
    }
}

/* Says what it costs; the bound is far above what was ever seen, for machines that are busy. */
static void it_is_quick(void **state) {
    struct scene *scene = *state;
    uint64_t ops = 0;
    uint64_t total_ns = 0;
    uint64_t worst_ns = 0;
    for (uint64_t seed = 0; seed < 60; seed++) {
        struct timespec a;
        struct timespec b;
        draw_history(scene, seed, 500, TOY_SLOT_COUNT);
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
        assert_int_equal(verdict(scene), HISTORY_HOLDS);
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
        uint64_t ns = (uint64_t)((b.tv_sec - a.tv_sec) * 1000000000 + b.tv_nsec - a.tv_nsec);
        ops += scene->history.op_count;
        total_ns += ns;
        worst_ns = ns > worst_ns ? ns : worst_ns;
    }
    print_message("%llu ns an operation; a history of 500: %llu us, the worst %llu us\n",
                  (unsigned long long)(total_ns / ops), (unsigned long long)(total_ns / 60 / 1000),
                  (unsigned long long)(worst_ns / 1000));
    assert_true(total_ns / 60 < 50000000);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(what_the_toy_does_is_explained),
        TEST(a_history_may_end_anywhere),
        TEST(the_search_of_every_run_finds_the_one_that_was),
        TEST(what_the_toy_cannot_do_is_refused),
        TEST(it_is_quick),
    };
    return cmocka_run_group_tests_name("sim history", tests, NULL, NULL);
}
