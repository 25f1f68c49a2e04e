/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "sim/run/model.h"

#include <stdio.h>
#include <string.h>

#include "base/assert.h"

#define BIT(number) (1u << (number))
#define CREATED BIT(KELPIE_STATE_CREATED)
#define RUNNING BIT(KELPIE_STATE_RUNNING)
#define PAUSED BIT(KELPIE_STATE_PAUSED)
#define STOPPED BIT(KELPIE_STATE_STOPPED)
#define ANY (BIT(KELPIE_STATE_COUNT) - 1)

/* What ends a call before anything was asked of the machine. */
#define NOT_BEGUN                                                                                  \
    (BIT(KELPIE_BAD_CONFIG) | BIT(KELPIE_BACKEND_MISSING) | BIT(KELPIE_UNSUPPORTED) |              \
     BIT(KELPIE_BUSY))
/* What ends a call that may have waited for its turn in any state. */
#define WITHOUT_TURN (NOT_BEGUN | BIT(KELPIE_CANCELLED) | BIT(KELPIE_NO_MEMORY))
#define ALL_STATUSES (BIT(KELPIE_STATUS_COUNT) - 1)

static_assert(sizeof(struct model) ==
                  sizeof(uint32_t) * MODEL_FILE_COUNT + sizeof(uint16_t) * MODEL_BUNDLE_COUNT + 4,
              "a model has no padding");
static_assert(KELPIE_STATUS_COUNT < 32, "statuses fit a mask");

/* One kind of operation: where it is allowed, and what a failure other than WRONG_STATE and CRASHED may leave. */
struct rule {
    const char *name;
    uint32_t allowed_in; /* states */
    uint32_t
        effect_unless; /* after a failure its effect may be there, unless it is one of these statuses */
    bool may_crash; /* a failure may leave a crashed VM where none ran before */
    bool may_pause; /* a failure may leave a running VM paused */
    bool in_guest;  /* it is the guest that does it */
    bool pure;      /* it only looks */
};

static const struct rule rules[] = {
    /* A failed start goes back to where it began, or its machine crashed as it came up. */
    [MODEL_START] = {"start", CREATED | STOPPED, ALL_STATUSES, .may_crash = true},
    /* A stop fails only while it waits for its turn. */
    [MODEL_STOP] = {"stop", RUNNING | PAUSED, ALL_STATUSES, .pure = false},
    /* A failed pause is undone: the vCPUs never stopped. */
    [MODEL_PAUSE] = {"pause", RUNNING, ALL_STATUSES, .pure = false},
    /* A failed resume stops the vCPUs again. */
    [MODEL_RESUME] = {"resume", PAUSED, ALL_STATUSES, .pure = false},
    /* "None was left behind" is promised of the statuses that are about the bundle. A running VM that could not go
     * on afterwards is paused. */
    [MODEL_SNAPSHOT] = {"snapshot", RUNNING | PAUSED,
                        NOT_BEGUN | BIT(KELPIE_SNAPSHOT_FAILED) | BIT(KELPIE_SNAPSHOT_TOO_LARGE) |
                            BIT(KELPIE_NO_SPACE) | BIT(KELPIE_WRONG_STATE),
                        .may_pause = true},
    /* As a start: it fails closed. */
    [MODEL_RESTORE] = {"restore", CREATED | STOPPED, ALL_STATUSES, .may_crash = true},
    /* The old file or the new one: the guest renames it, and its answer may be lost. It had no space only if it says so,
     * and then it kept the old one. */
    [MODEL_COPY_IN] = {"copy_in", RUNNING, NOT_BEGUN | BIT(KELPIE_NOT_FOUND) | BIT(KELPIE_NO_SPACE),
                       .in_guest = true},
    [MODEL_COPY_OUT] = {"copy_out", RUNNING, ALL_STATUSES, .in_guest = true, .pure = true},
    /* A command that could not be started did nothing; one that was given up may have done its work. */
    [MODEL_EXEC_WRITE] = {"exec_write", RUNNING, NOT_BEGUN | BIT(KELPIE_EXEC_FAILED),
                          .in_guest = true},
    [MODEL_EXEC_READ] = {"exec_read", RUNNING, ALL_STATUSES, .in_guest = true, .pure = true},
    [MODEL_EXEC_ECHO] = {"exec_echo", RUNNING, ALL_STATUSES, .in_guest = true, .pure = true},
    [MODEL_PING] = {"ping", RUNNING, ALL_STATUSES, .in_guest = true, .pure = true},
    [MODEL_STATE] = {"state", ANY, ALL_STATUSES, .pure = true},
    /* A snapshot in memory, which nobody sees when it failed. */
    [MODEL_FORK] = {"fork", RUNNING | PAUSED, ALL_STATUSES, .may_pause = true},
    /* It cannot fail. */
    [MODEL_DESTROY] = {"destroy", ANY, ALL_STATUSES, .pure = false},
};
static_assert(ARRAY_SIZE(rules) == MODEL_KIND_COUNT, "each kind has a rule");

/* ---- What is asked of an operation ------------------------------------------------------------- */

static const struct rule *rule_of(const struct model_op *op) {
    ASSERT(op);
    ASSERT((unsigned)op->kind < MODEL_KIND_COUNT);
    return &rules[op->kind];
}

const char *model_kind_name(enum model_kind kind) {
    ASSERT((unsigned)kind < MODEL_KIND_COUNT);
    ASSERT(rules[kind].name);
    return rules[kind].name;
}

bool model_writes(const struct model_op *op) {
    ASSERT(op);
    return op->kind == MODEL_COPY_IN || op->kind == MODEL_EXEC_WRITE;
}

/* A copy_out that found nothing has read that there is nothing. */
static bool succeeded(const struct model_op *op) {
    ASSERT(op);
    ASSERT((unsigned)op->status < KELPIE_STATUS_COUNT);
    return op->ended && (op->status == KELPIE_OK ||
                         (op->kind == MODEL_COPY_OUT && op->status == KELPIE_NOT_FOUND));
}

/* Starts do not say what the VM is when their machine died. */
static bool says_crashed(const struct model_op *op) {
    ASSERT((unsigned)op->status < KELPIE_STATUS_COUNT);
    return op->ended && op->status == KELPIE_CRASHED && !rule_of(op)->may_crash;
}

bool model_is_vague(const struct model_op *op) {
    ASSERT(op);
    return !succeeded(op) && !says_crashed(op) && !(op->ended && op->status == KELPIE_WRONG_STATE);
}

bool model_began(const struct model_op *op) {
    ASSERT(op);
    ASSERT((unsigned)op->status < KELPIE_STATUS_COUNT);
    return !op->ended || !((NOT_BEGUN | BIT(KELPIE_WRONG_STATE)) & BIT(op->status));
}

bool model_had_turn(const struct model_op *op) {
    ASSERT(op);
    ASSERT((unsigned)op->status < KELPIE_STATUS_COUNT);
    return op->ended && !rule_of(op)->in_guest && !(WITHOUT_TURN & BIT(op->status));
}

bool model_may_land(const struct model_op *op) {
    ASSERT(op);
    return model_writes(op) && !succeeded(op) &&
           (!op->ended || !(rule_of(op)->effect_unless & BIT(op->status)));
}

bool model_passed_guest(const struct model_op *op) {
    ASSERT(op);
    return rule_of(op)->in_guest && succeeded(op);
}

bool model_is_pure(const struct model_op *op) {
    ASSERT(op);
    return rule_of(op)->pure ||
           (op->ended && op->status == KELPIE_WRONG_STATE && !model_writes(op));
}

/* ---- Images ------------------------------------------------------------------------------------ */

void model_shelf_init(struct model_shelf *shelf) {
    ASSERT(shelf);
    ASSERT(MODEL_IMAGE_COUNT_MAX < UINT16_MAX);
    memset(shelf, 0, sizeof(*shelf));
    for (size_t i = 0; i < MODEL_FILE_COUNT; i++) {
        shelf->images[0].files[i] = MODEL_UNKNOWN;
    }
    shelf->image_count = 1;
}

void model_shelf_note(struct model_shelf *shelf, uint8_t bundle, uint16_t image) {
    ASSERT(bundle < MODEL_BUNDLE_COUNT);
    ASSERT(image < shelf->image_count);
    uint16_t *alternatives = shelf->alternatives[bundle];
    size_t *count = &shelf->alternative_count[bundle];
    for (size_t i = 0; i < *count; i++) {
        if (alternatives[i] == image || alternatives[i] == 0) {
            return;
        }
    }
    if (*count == MODEL_ALTERNATIVE_COUNT_MAX || image == 0) {
        alternatives[0] = 0; /* too many to tell apart */
        *count = 1;
        return;
    }
    alternatives[(*count)++] = image;
}

void model_shelf_allow(struct model_shelf *shelf, uint8_t bundle) {
    ASSERT(shelf);
    ASSERT(shelf->image_count > 0);
    model_shelf_note(shelf, bundle, 0);
}

static void image_add_loose(struct model_image *image, struct model_write write) {
    ASSERT(image->loose_count <= MODEL_LOOSE_COUNT_MAX);
    ASSERT(write.file < MODEL_FILE_COUNT);
    for (uint32_t i = 0; i < image->loose_count; i++) {
        if (memcmp(&image->loose[i], &write, sizeof(write)) == 0) {
            return;
        }
    }
    if (image->loose_count == MODEL_LOOSE_COUNT_MAX) {
        image->files[write.file] = MODEL_UNKNOWN; /* weaker, and still true */
        return;
    }
    image->loose[image->loose_count++] = write;
}

/* The VM as it is, with what is under way in it. Returns the image's index. */
static uint16_t image_of(const struct model *model, const struct model_around *around,
                         struct model_shelf *shelf) {
    struct model_image image = {.loose_count = 0};
    ASSERT(shelf->image_count > 0);
    ASSERT(model->loose_image < shelf->image_count);
    memcpy(image.files, model->files, sizeof(image.files));
    const struct model_image *before = &shelf->images[model->loose_image];
    for (uint32_t i = 0; i < before->loose_count; i++) {
        if (model->loose_mask & BIT(i)) {
            image_add_loose(&image, before->loose[i]);
        }
    }
    for (size_t i = 0; i < around->write_count; i++) {
        image_add_loose(&image, around->writes[i].write);
    }
    for (size_t i = shelf->image_count; i > 0; i--) {
        if (memcmp(&shelf->images[i - 1], &image, sizeof(image)) == 0) {
            return (uint16_t)(i - 1);
        }
    }
    if (shelf->image_count == MODEL_IMAGE_COUNT_MAX) {
        shelf->full = true;
        return 0;
    }
    shelf->images[shelf->image_count] = image;
    return (uint16_t)shelf->image_count++;
}

/* ---- The machine ------------------------------------------------------------------------------- */

void model_init(struct model *model) {
    ASSERT(model);
    ASSERT(MODEL_ABSENT == 0);
    memset(model, 0, sizeof(*model));
    model->state = KELPIE_STATE_CREATED;
}

bool model_has_machine(const struct model *model) {
    ASSERT(model);
    ASSERT(model->state <= MODEL_GONE);
    return model->state == KELPIE_STATE_RUNNING || model->state == KELPIE_STATE_PAUSED;
}

/* Its files and what was loose go with it. */
static void lose_machine(struct model *model, uint8_t state) {
    ASSERT(model->state <= MODEL_GONE);
    ASSERT(state <= MODEL_GONE);
    memset(model->files, 0, sizeof(model->files));
    model->loose_image = 0;
    model->loose_mask = 0;
    model->state = state;
}

void model_crash(struct model *model) {
    ASSERT(model_has_machine(model));
    lose_machine(model, KELPIE_STATE_CRASHED);
    ASSERT(!model_has_machine(model));
}

/* ---- Outcomes ---------------------------------------------------------------------------------- */

struct step {
    const struct model *model;
    const struct model_op *op;
    const struct model_around *around;
    struct model_shelf *shelf;
    struct model_outcome *outcomes;
    size_t count;
};

/* One more, that begins as the VM is. */
static struct model_outcome *add(struct step *step) {
    ASSERT(step->count < MODEL_OUTCOME_COUNT_MAX);
    ASSERT(step->model->state <= MODEL_GONE);
    struct model_outcome *outcome = &step->outcomes[step->count++];
    outcome->model = *step->model;
    outcome->machine_lost = false;
    outcome->interrupts = false;
    outcome->landed = MODEL_SLOT_NONE;
    return outcome;
}

static void add_lost(struct step *step, uint8_t state) {
    ASSERT(state <= MODEL_GONE);
    struct model_outcome *outcome = add(step);
    ASSERT(outcome);
    lose_machine(&outcome->model, state);
    outcome->machine_lost = true;
}

static bool allowed(const struct step *step) {
    ASSERT(step->model->state <= MODEL_GONE);
    ASSERT(step->model->state != KELPIE_STATE_STARTING);
    return step->model->state != MODEL_GONE &&
           (rule_of(step->op)->allowed_in & BIT(step->model->state)) != 0;
}

/* The file holds it, or a loose write put it there just before. */
static void step_read(struct step *step, uint32_t value) {
    const struct model *model = step->model;
    uint32_t file = step->op->file;
    ASSERT(file < MODEL_FILE_COUNT);
    ASSERT(model->loose_image < step->shelf->image_count);
    if (model->files[file] == value || model->files[file] == MODEL_UNKNOWN) {
        add(step)->model.files[file] = value;
        return;
    }
    const struct model_image *image = &step->shelf->images[model->loose_image];
    for (uint32_t i = 0; i < image->loose_count; i++) {
        if ((model->loose_mask & BIT(i)) && image->loose[i].file == file &&
            image->loose[i].id == value) {
            struct model_outcome *outcome = add(step);
            outcome->model.files[file] = value;
            outcome->model.loose_mask &= (uint8_t)~BIT(i);
        }
    }
    for (size_t i = 0; i < step->around->write_count; i++) {
        const struct model_around_write *around = &step->around->writes[i];
        if (around->optional && around->write.file == file && around->write.id == value) {
            struct model_outcome *outcome = add(step);
            outcome->model.files[file] = value;
            outcome->landed = around->slot;
        }
    }
}

/* What was under way in the parent goes on in the child. */
static bool child_may_hold(const struct step *step, uint32_t file, uint32_t value) {
    const struct model *model = step->model;
    ASSERT(file < MODEL_FILE_COUNT);
    ASSERT(model->loose_image < step->shelf->image_count);
    if (value == MODEL_UNKNOWN || model->files[file] == MODEL_UNKNOWN ||
        model->files[file] == value) {
        return true;
    }
    const struct model_image *image = &step->shelf->images[model->loose_image];
    for (uint32_t i = 0; i < image->loose_count; i++) {
        if ((model->loose_mask & BIT(i)) && image->loose[i].file == file &&
            image->loose[i].id == value) {
            return true;
        }
    }
    for (size_t i = 0; i < step->around->write_count; i++) {
        const struct model_write *write = &step->around->writes[i].write;
        if (write->file == file && write->id == value) {
            return true;
        }
    }
    return false;
}

static void step_fork(struct step *step) {
    ASSERT(step->op->kind == MODEL_FORK);
    ASSERT(model_has_machine(step->model));
    for (uint32_t i = 0; i < MODEL_FILE_COUNT; i++) {
        if (!child_may_hold(step, i, step->op->values[i])) {
            return;
        }
    }
    add(step);
}

static void step_snapshot(struct step *step) {
    const struct model_op *op = step->op;
    ASSERT(op->bundle < MODEL_BUNDLE_COUNT);
    ASSERT(model_has_machine(step->model));
    if (step->model->bundles[op->bundle] == 0) { /* a bundle is never written over */
        struct model_outcome *outcome = add(step);
        outcome->model.bundles[op->bundle] =
            (uint16_t)(image_of(step->model, step->around, step->shelf) + 1);
    }
}

static void add_restored(struct step *step, uint16_t image) {
    const struct model_image *from = &step->shelf->images[image];
    ASSERT(image < step->shelf->image_count);
    ASSERT(from->loose_count <= MODEL_LOOSE_COUNT_MAX);
    struct model *model = &add(step)->model;
    memcpy(model->files, from->files, sizeof(model->files));
    model->loose_image = from->loose_count > 0 ? image : 0;
    model->loose_mask = (uint8_t)(BIT(from->loose_count) - 1);
    model->state = step->op->paused ? KELPIE_STATE_PAUSED : KELPIE_STATE_RUNNING;
}

static void step_restore(struct step *step) {
    uint8_t bundle = step->op->bundle;
    ASSERT(bundle < MODEL_BUNDLE_COUNT);
    ASSERT(!model_has_machine(step->model));
    if (step->model->bundles[bundle] != 0) {
        add_restored(step, (uint16_t)(step->model->bundles[bundle] - 1));
        return;
    }
    for (size_t i = 0; i < step->shelf->alternative_count[bundle]; i++) {
        add_restored(step, step->shelf->alternatives[bundle][i]);
    }
}

static void step_state(struct step *step) {
    uint32_t value = step->op->value;
    uint8_t state = step->model->state;
    ASSERT(step->op->kind == MODEL_STATE);
    ASSERT(state < MODEL_GONE);
    bool down = state == KELPIE_STATE_CREATED || state == KELPIE_STATE_STOPPED;
    if (value == state || (value == KELPIE_STATE_STARTING && step->around->starting && down)) {
        add(step);
    }
}

/* The effect of an operation that is allowed now. */
static void step_effect(struct step *step) {
    const struct model_op *op = step->op;
    ASSERT(allowed(step));
    ASSERT(op->file < MODEL_FILE_COUNT);
    switch (op->kind) {
    case MODEL_START:
        add(step)->model.state = KELPIE_STATE_RUNNING;
        break;
    case MODEL_STOP:
        add_lost(step, KELPIE_STATE_STOPPED);
        if (step->around->faults) { /* it crashed before the stop came to it, which is content */
            add_lost(step, KELPIE_STATE_CRASHED);
        }
        break;
    case MODEL_PAUSE:
        add(step)->model.state = KELPIE_STATE_PAUSED;
        break;
    case MODEL_RESUME:
        add(step)->model.state = KELPIE_STATE_RUNNING;
        break;
    case MODEL_SNAPSHOT:
        step_snapshot(step);
        break;
    case MODEL_RESTORE:
        step_restore(step);
        break;
    case MODEL_COPY_IN:
    case MODEL_EXEC_WRITE:
        add(step)->model.files[op->file] = op->id;
        break;
    case MODEL_COPY_OUT:
        step_read(step, op->status == KELPIE_NOT_FOUND ? MODEL_ABSENT : op->value);
        break;
    case MODEL_EXEC_READ:
        step_read(step, op->value);
        break;
    case MODEL_EXEC_ECHO:
        if (op->value == op->id) {
            add(step);
        }
        break;
    case MODEL_PING:
        add(step);
        break;
    case MODEL_STATE:
        step_state(step);
        break;
    case MODEL_FORK:
        step_fork(step);
        break;
    case MODEL_DESTROY:
        add_lost(step, MODEL_GONE);
        break;
    case MODEL_KIND_COUNT:
    default:
        UNREACHABLE();
    }
}

/* A stop ends a start that is under way: both are over, and the VM is stopped. */
static void step_interrupt(struct step *step) {
    uint8_t state = step->model->state;
    ASSERT(state <= MODEL_GONE);
    ASSERT(step->around);
    bool down = state == KELPIE_STATE_CREATED || state == KELPIE_STATE_STOPPED;
    if (step->op->kind == MODEL_STOP && down && step->around->interruptible) {
        struct model_outcome *outcome = add(step);
        outcome->model.state = KELPIE_STATE_STOPPED;
        outcome->interrupts = true;
    }
}

/* The state did not allow it. What the guest does is refused too as soon as a stop has taken its machine. */
static void step_refused(struct step *step) {
    ASSERT(step->op->status == KELPIE_WRONG_STATE);
    ASSERT(step->op->ended);
    if (!allowed(step) || (rule_of(step->op)->in_guest && step->around->stopping)) {
        add(step);
    }
}

/* A failure, or nobody knows: nothing came of it, or what its rule allows. */
static void step_vague(struct step *step) {
    const struct model_op *op = step->op;
    const struct rule *rule = rule_of(op);
    ASSERT(model_is_vague(op));
    ASSERT(!op->ended || op->status != KELPIE_OK);
    if (allowed(step) || !model_had_turn(op)) {
        add(step);
    }
    step_interrupt(step);
    if (!allowed(step) || !model_began(op)) {
        return;
    }
    if (!op->ended) {
        step_effect(step);
    } else if (op->kind == MODEL_SNAPSHOT && !(rule->effect_unless & BIT(op->status))) {
        step_snapshot(step);
    }
    if (rule->may_crash && step->around->faults) {
        add_lost(step, KELPIE_STATE_CRASHED);
    }
    if (rule->may_pause && step->model->state == KELPIE_STATE_RUNNING) {
        size_t made = step->count;
        for (size_t i = 0; i < made; i++) { /* with the bundle, and without it */
            struct model_outcome *outcome = add(step);
            outcome->model = step->outcomes[i].model;
            outcome->model.state = KELPIE_STATE_PAUSED;
        }
    }
}

size_t model_step(const struct model *model, const struct model_op *op,
                  const struct model_around *around, struct model_shelf *shelf,
                  struct model_outcome outcomes[MODEL_OUTCOME_COUNT_MAX]) {
    ASSERT(model && op && around);
    ASSERT(shelf && outcomes);
    struct step step = {model, op, around, shelf, outcomes, 0};
    if (model_is_vague(op)) {
        step_vague(&step);
    } else if (says_crashed(op)) {
        if (model->state == KELPIE_STATE_CRASHED ||
            (around->stopping && model_has_machine(model) && around->faults)) {
            add(&step);
        }
    } else if (op->status == KELPIE_WRONG_STATE) {
        step_refused(&step);
    } else {
        if (allowed(&step)) {
            step_effect(&step);
        }
        step_interrupt(&step);
    }
    return step.count;
}

/* ---- Words ------------------------------------------------------------------------------------- */

static void describe_call(const struct model_op *op, char *text, size_t size) {
    const char *name = model_kind_name(op->kind);
    ASSERT(text);
    ASSERT(size > 0);
    if (model_writes(op)) {
        snprintf(text, size, "%s /f%u of id %u", name, op->file, op->id);
    } else if (op->kind == MODEL_COPY_OUT || op->kind == MODEL_EXEC_READ) {
        snprintf(text, size, "%s /f%u", name, op->file);
    } else if (op->kind == MODEL_EXEC_ECHO) {
        snprintf(text, size, "%s of id %u", name, op->id);
    } else if (op->kind == MODEL_SNAPSHOT || op->kind == MODEL_RESTORE) {
        snprintf(text, size, "%s %s bundle %u%s", name, op->kind == MODEL_SNAPSHOT ? "to" : "from",
                 op->bundle, op->paused ? ", paused" : "");
    } else {
        snprintf(text, size, "%s", name);
    }
}

size_t model_describe(const struct model_op *op, char *text, size_t size) {
    ASSERT(text);
    ASSERT(size > 0);
    char call[64];
    int count = 0;
    describe_call(op, call, sizeof(call));
    if (!op->ended) {
        count = snprintf(text, size, "%s never returned", call);
    } else if (op->status != KELPIE_OK) {
        count = snprintf(text, size, "%s said %s", call, kelpie_status_name(op->status));
    } else if (op->kind == MODEL_STATE) {
        count = snprintf(text, size, "%s was %s", call,
                         kelpie_state_name((enum kelpie_state)op->value));
    } else if (op->kind == MODEL_COPY_OUT || op->kind == MODEL_EXEC_READ ||
               op->kind == MODEL_EXEC_ECHO) {
        count = snprintf(text, size, "%s returned id %u", call, op->value);
    } else {
        count = snprintf(text, size, "%s succeeded", call);
    }
    ASSERT(count > 0);
    return (size_t)count < size ? (size_t)count : size - 1;
}
