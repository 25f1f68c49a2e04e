/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Steps that make bundles and VMs of them: snapshots, restores, forks, pools. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "sim/run/scenario.h"

#define CHILD_COUNT_MAX 3
#define BUNDLE_BYTES_SMALL 4096 /* less than any bundle takes */
#define WORKSPACE "/tmp"        /* where all files of the model are */
#define CHECKPOINT_ONE_IN 4
#define ARGV(...) ((const char *const[]){__VA_ARGS__, NULL})

/* ---- Snapshots -------------------------------------------------------------------------------- */

static bool is_kvm(const struct scenario_vm *slot) {
    ASSERT(slot->vm);
    const char *backend = kelpie_vm_backend(slot->vm);
    ASSERT(backend);
    return strcmp(backend, "kvm") == 0;
}

/* One that is there, or was to be; -1: none yet. */
static int32_t some_bundle(const struct scenario *scenario, const struct steps_step *step) {
    ASSERT(step->bundle < STEPS_BUNDLE_COUNT);
    if (scenario->bundle_count == 0) {
        return -1;
    }
    uint32_t number = step->bundle % scenario->bundle_count;
    ASSERT(number < MODEL_BUNDLE_COUNT);
    return scenario->bundles[number].state == SCENARIO_BUNDLE_DONE ? (int32_t)number : -1;
}

/* A diff is asked for where there is a parent; another backend than kvm refuses it. */
static void snapshot(struct scenario *scenario, struct scenario_vm *slot,
                     const struct steps_step *step) {
    struct kelpie_error err = {0};
    struct kelpie_snapshot made = {0};
    ASSERT(scenario->bundle_count <= MODEL_BUNDLE_COUNT);
    if (scenario->bundle_count == MODEL_BUNDLE_COUNT) {
        return;
    }
    uint32_t number = scenario->bundle_count++;
    struct scenario_bundle *bundle = &scenario->bundles[number];
    *bundle = (struct scenario_bundle){.backend = kelpie_vm_backend(slot->vm),
                                       .vm = step->vm,
                                       .session_id = slot->session_id,
                                       .session_offset = slot->session_offset};
    snprintf(bundle->path, sizeof(bundle->path), SCENARIO_FOLDER "/bundle-%u", number);
    /* Most are to the last bundle. One to another must be refused, or be right. */
    int32_t parent = step->value % 4 == 1 ? some_bundle(scenario, step) : slot->parent;
    bool diff = step->action == STEPS_DIFF && parent >= 0;
    /* Most are such as there can be. One of a diff must be refused. */
    bool checkpoint = step->value % CHECKPOINT_ONE_IN == 0 && (!diff || step->value % 7 == 0);
    const struct kelpie_snapshot_options options = {
        .kind = checkpoint             ? KELPIE_SNAPSHOT_CHECKPOINT
                : step->value % 3 == 0 ? KELPIE_SNAPSHOT_TELEPORT
                                       : KELPIE_SNAPSHOT_SUSPEND,
        .bytes_max = step->value % 17 == 0 ? BUNDLE_BYTES_SMALL : 0,
        .track = is_kvm(slot) && step->value % 2 == 0 && !checkpoint,
        .parent = diff ? scenario->bundles[parent].path : NULL,
        .workspace = checkpoint ? WORKSPACE : NULL,
    };
    if (checkpoint) { /* no command goes on in it */
        bundle->checkpoint = true;
        bundle->session_id = 0;
    }
    const struct model_op op = {.kind = MODEL_SNAPSHOT, .bundle = (uint8_t)number};
    size_t index = actions_begin(scenario, slot, &op);
    enum kelpie_status status = kelpie_vm_snapshot(slot->vm, bundle->path, &options, &made, &err);
    bundle->quiesced = made.quiesced;
    bundle->state = status == KELPIE_OK ? SCENARIO_BUNDLE_DONE : SCENARIO_BUNDLE_FAILED;
    bundle->none_left = status == KELPIE_SNAPSHOT_FAILED || status == KELPIE_NO_SPACE ||
                        status == KELPIE_SNAPSHOT_TOO_LARGE;
    if (!checkpoint) { /* which leaves alone what is counted as written */
        slot->parent = status == KELPIE_OK ? (int32_t)number : -1;
    }
    actions_end(scenario, slot, index, status, 0);
    actions_expect_clear(scenario,
                         checkpoint ? "checkpoint"
                         : diff     ? "diff snapshot"
                                    : "snapshot",
                         status, &err);
}

static void restore(struct scenario *scenario, struct scenario_vm *slot,
                    const struct steps_step *step) {
    struct kelpie_error err = {0};
    int32_t number = some_bundle(scenario, step);
    bool paused = step->action == STEPS_RESTORE_PAUSED;
    ASSERT(slot->vm);
    if (number < 0) {
        return;
    }
    const struct scenario_bundle *bundle = &scenario->bundles[number];
    const struct kelpie_restore_options options = {
        .paused = paused,
        .allow_incomplete = !bundle->quiesced,
        .verify_memory = step->value % 2 == 0,
        .track = is_kvm(slot) && step->value % 3 == 0 && !bundle->checkpoint,
        .no_prefetch = step->value % 5 == 0,
        .note_working_set = step->value % 7 == 0,
    };
    const struct model_op op = {.kind = MODEL_RESTORE, .bundle = (uint8_t)number, .paused = paused};
    size_t index = actions_begin(scenario, slot, &op);
    slot->start_count++;
    slot->starting++;
    enum kelpie_status status = kelpie_vm_restore(slot->vm, bundle->path, &options, &err);
    slot->starting--;
    actions_end(scenario, slot, index, status, 0);
    actions_expect_clear(scenario, "restore", status, &err);
    if (status == KELPIE_OK) {
        slot->parent = bundle->checkpoint ? -1 : number;
        slot->session_id = bundle->session_id;
        /* Only where nobody could read on while it was saved. */
        slot->session_offset =
            scenario->plan.thread_count == 1 ? bundle->session_offset : SCENARIO_OFFSET_UNKNOWN;
    }
}

/* ---- Children --------------------------------------------------------------------------------- */

/* What the child's files are, as far as it says. */
static void read_files(struct scenario *scenario, struct kelpie_vm *child,
                       uint32_t values[MODEL_FILE_COUNT]) {
    char path[SCENARIO_PATH_SIZE];
    ASSERT(child);
    for (uint32_t i = 0; i < MODEL_FILE_COUNT; i++) {
        struct kelpie_error err = {0};
        struct kelpie_output output = {0};
        snprintf(path, sizeof(path), "/tmp/%c%u", i < STEPS_FILE_COUNT ? 'f' : 'e',
                 i % STEPS_FILE_COUNT);
        const struct kelpie_command command = {.argv = ARGV("cat", path),
                                               .timeout_ms = SCENARIO_TIMEOUT_MS};
        enum kelpie_status status = kelpie_vm_exec(child, &command, &output, &err);
        values[i] = MODEL_UNKNOWN;
        if (status != KELPIE_OK && scenario->world->faults.quiet) {
            actions_fail_bytes(scenario, "not at rest: exec: %s: %.300s",
                               kelpie_status_name(status), err.message);
        }
        if (status == KELPIE_OK && output.exit.code == 1) {
            values[i] = MODEL_ABSENT;
        } else if (status == KELPIE_OK && output.exit.code == 0) {
            values[i] = i < STEPS_FILE_COUNT
                            ? contents_recognize(output.stdout_data, output.stdout_size)
                            : (uint32_t)strtoul(output.stdout_data, NULL, 10);
            if (values[i] == 0 && output.stdout_size == 0 &&
                scenario->world->faults.fired[SIM_FAULT_MEMORY_NONE] > 0) {
                values[i] = MODEL_UNKNOWN; /* the guest's shell ran out of memory as it wrote */
            } else if (values[i] == 0) {
                actions_fail_bytes(scenario, "wrong bytes: a child's %s", path);
            }
        }
        kelpie_output_free(&output);
    }
}

/* The first child that lives is asked for its files; all are destroyed. */
static void end_children(struct scenario *scenario, struct kelpie_fork_child *children,
                         size_t count, uint32_t values[MODEL_FILE_COUNT]) {
    bool asked = false;
    ASSERT(count <= CHILD_COUNT_MAX);
    for (size_t i = 0; i < MODEL_FILE_COUNT; i++) {
        values[i] = MODEL_UNKNOWN;
    }
    for (size_t i = 0; i < count; i++) {
        actions_expect_clear(scenario, "a child",
                             children[i].vm ? KELPIE_OK : children[i].error.status,
                             &children[i].error);
        if (children[i].vm && !asked) {
            read_files(scenario, children[i].vm, values);
            asked = true;
        }
        if (children[i].vm) {
            const struct kelpie_config *config = kelpie_vm_config(children[i].vm);
            if (strcmp(config->hostname, config->name) != 0) {
                sim_world_fail(scenario->world, "a child is %.40s, and its guest %.40s",
                               config->name, config->hostname);
            }
            identity_check(scenario, children[i].vm);
        }
        kelpie_vm_destroy(children[i].vm);
    }
    ASSERT(values);
    ASSERT(children);
}

/* A history of its own: restored, looked at. Whose model says that this is right for this bundle. */
void actions_compare_with_bundle(struct scenario *scenario, struct kelpie_vm *vm, uint32_t bundle) {
    struct history *history = calloc(1, sizeof(*history));
    uint32_t values[MODEL_FILE_COUNT];
    struct model start;
    char reason[RUN_REASON_SIZE / 2];
    ASSERT(vm);
    ASSERT(bundle < scenario->bundle_count);
    if (!history) {
        return;
    }
    history_init(history, false);
    model_init(&start);
    if (scenario->bundles[bundle].state == SCENARIO_BUNDLE_FAILED &&
        scenario->shelf.alternative_count[bundle] == 0) {
        /* It was whole, could not be synced, and could not be taken away either: kelpie.h promises no more than that. */
        model_shelf_allow(&scenario->shelf, (uint8_t)bundle);
    }
    const struct model_op restored = {.kind = MODEL_RESTORE, .bundle = (uint8_t)bundle};
    history_end(history, history_begin(history, &restored), KELPIE_OK, 0);
    read_files(scenario, vm, values);
    const struct model_op looked = {.kind = MODEL_FORK};
    history_end_fork(history, history_begin(history, &looked), KELPIE_OK, values);
    if (history_check(history, &start, &scenario->shelf, reason, sizeof(reason)) == HISTORY_WRONG) {
        actions_fail_bytes(scenario, "wrong contents: %s: %s", scenario->bundles[bundle].path,
                           reason);
    }
    free(history);
}

static void fork_vm(struct scenario *scenario, struct scenario_vm *slot,
                    const struct steps_step *step) {
    struct kelpie_error err = {0};
    struct kelpie_fork_child children[CHILD_COUNT_MAX] = {0};
    uint32_t values[MODEL_FILE_COUNT];
    size_t count = 1 + step->value % CHILD_COUNT_MAX;
    const struct model_op op = {.kind = MODEL_FORK};
    ASSERT(slot->vm);
    size_t index = actions_begin(scenario, slot, &op);
    const struct kelpie_config config = actions_config(scenario, step->vm);
    const struct kelpie_config of_children = {.boot_timeout_ms = config.boot_timeout_ms,
                                              .operation_timeout_ms = config.operation_timeout_ms,
                                              .network = config.network,
                                              .host = scenario->host};
    const struct kelpie_fork_options options = {.config = &of_children};
    enum kelpie_status status =
        kelpie_vm_fork(slot->vm, step->value % 2 == 0 ? &options : NULL, count, children, &err);
    actions_expect_clear(scenario, "fork", status, &err);
    slot->parent = -1; /* what was written is counted from the fork on */
    /* Ended here: what children say later is what was so at the fork. */
    if (status == KELPIE_OK) {
        end_children(scenario, children, count, values);
    } else {
        end_children(scenario, children, 0, values);
    }
    slot->blind |= slot->name[0] && status != KELPIE_OK && status != KELPIE_WRONG_STATE;
    if (index != HISTORY_FULL && !slot->blind) {
        history_end_fork(&slot->history, index, status, values);
    }
}

/* VMs that are no part of the plan: they are made of a bundle, used and ended at once. */
static void fork_bundle(struct scenario *scenario, struct scenario_vm *slot,
                        const struct steps_step *step) {
    struct kelpie_error err = {0};
    struct kelpie_fork_child children[CHILD_COUNT_MAX] = {0};
    uint32_t values[MODEL_FILE_COUNT];
    size_t count = 1 + step->value % CHILD_COUNT_MAX;
    int32_t number = some_bundle(scenario, step);
    ASSERT(slot->vm);
    if (number < 0) {
        return;
    }
    struct kelpie_config config = actions_config(scenario, step->vm);
    config.backend = NULL;
    const struct kelpie_fork_options options = {.config = &config};
    enum kelpie_status status =
        kelpie_snapshot_fork(scenario->bundles[number].path, &options, count, children, &err);
    actions_expect_clear(scenario, "fork a bundle", status, &err);
    end_children(scenario, children, status == KELPIE_OK ? count : 0, values);
    ASSERT(count > 0);
}

static void pool(struct scenario *scenario, const struct steps_step *step) {
    struct kelpie_error err = {0};
    struct kelpie_pool *made = NULL;
    int32_t number = some_bundle(scenario, step);
    ASSERT(step->vm < scenario->plan.vm_count);
    ASSERT(step->action == STEPS_POOL);
    if (number < 0) {
        return;
    }
    struct kelpie_config config = actions_config(scenario, step->vm);
    config.backend = NULL;
    const struct kelpie_pool_options options = {.config = &config, .size = 1 + step->value % 2};
    enum kelpie_status status =
        kelpie_pool_create(scenario->bundles[number].path, &options, &made, &err);
    actions_expect_clear(scenario, "pool create", status, &err);
    for (uint32_t i = 0; status == KELPIE_OK && i < 1 + step->value % CHILD_COUNT_MAX; i++) {
        struct kelpie_vm *vm = NULL;
        err = (struct kelpie_error){0};
        enum kelpie_status taken = kelpie_pool_take(made, NULL, &vm, &err);
        actions_expect_clear(scenario, "pool take", taken, &err);
        ASSERT((taken == KELPIE_OK) == (vm != NULL));
        kelpie_vm_destroy(vm);
    }
    kelpie_pool_destroy(made);
}

void actions_bundle(struct scenario *scenario, struct scenario_vm *slot,
                    const struct steps_step *step) {
    struct kelpie_error err = {0};
    ASSERT(slot->vm);
    ASSERT((unsigned)step->action < STEPS_ACTION_COUNT);
    switch ((int)step->action) {
    case STEPS_SNAPSHOT:
    case STEPS_DIFF:
        snapshot(scenario, slot, step);
        break;
    case STEPS_RESTORE:
    case STEPS_RESTORE_PAUSED:
        restore(scenario, slot, step);
        break;
    case STEPS_FORK:
        fork_vm(scenario, slot, step);
        break;
    case STEPS_FORK_BUNDLE:
        fork_bundle(scenario, slot, step);
        break;
    case STEPS_POOL:
        pool(scenario, step);
        break;
    default:
        ASSERT(step->action == STEPS_WORKING_SET);
        actions_expect_clear(scenario, "record working set",
                             kelpie_vm_record_working_set(slot->vm, &err), &err);
        break;
    }
}
