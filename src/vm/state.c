/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The state machine, as two tables: which operation is allowed where, and which state may follow. */
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "vm/vm.h"

#define BIT(state) (1u << (state))

static const char *const state_names[] = {
    [KELPIE_STATE_CREATED] = "created", [KELPIE_STATE_STARTING] = "starting",
    [KELPIE_STATE_RUNNING] = "running", [KELPIE_STATE_PAUSED] = "paused",
    [KELPIE_STATE_STOPPED] = "stopped", [KELPIE_STATE_CRASHED] = "crashed",
};
static_assert(ARRAY_SIZE(state_names) == KELPIE_STATE_COUNT, "each state has a name");

static const struct {
    const char *name;
    uint32_t allowed_in;
} operations[] = {
    [VM_OPERATION_START] = {"start", BIT(KELPIE_STATE_CREATED) | BIT(KELPIE_STATE_STOPPED)},
    [VM_OPERATION_STOP] = {"stop", BIT(KELPIE_STATE_STARTING) | BIT(KELPIE_STATE_RUNNING) |
                                       BIT(KELPIE_STATE_PAUSED)},
    [VM_OPERATION_PAUSE] = {"pause", BIT(KELPIE_STATE_RUNNING)},
    [VM_OPERATION_RESUME] = {"resume", BIT(KELPIE_STATE_PAUSED)},
    [VM_OPERATION_EXEC] = {"exec", BIT(KELPIE_STATE_RUNNING)},
    [VM_OPERATION_COPY] = {"copy", BIT(KELPIE_STATE_RUNNING)},
    [VM_OPERATION_SNAPSHOT] = {"snapshot", BIT(KELPIE_STATE_RUNNING) | BIT(KELPIE_STATE_PAUSED)},
    [VM_OPERATION_FORK] = {"fork", BIT(KELPIE_STATE_RUNNING) | BIT(KELPIE_STATE_PAUSED)},
    [VM_OPERATION_RECORD] = {"record the working set of",
                             BIT(KELPIE_STATE_RUNNING) | BIT(KELPIE_STATE_PAUSED)},
    [VM_OPERATION_MEASURE] = {"measure", BIT(KELPIE_STATE_RUNNING) | BIT(KELPIE_STATE_PAUSED)},
    [VM_OPERATION_RESTORE] = {"restore", BIT(KELPIE_STATE_CREATED) | BIT(KELPIE_STATE_STOPPED)},
};
static_assert(ARRAY_SIZE(operations) == VM_OPERATION_COUNT, "each operation has a row");

/* An attempt to start or restore that fails before a machine ran goes back to where it began. */
static const uint32_t followers[] = {
    [KELPIE_STATE_CREATED] = BIT(KELPIE_STATE_STARTING),
    [KELPIE_STATE_STARTING] = BIT(KELPIE_STATE_CREATED) | BIT(KELPIE_STATE_RUNNING) |
                              BIT(KELPIE_STATE_PAUSED) | BIT(KELPIE_STATE_STOPPED) |
                              BIT(KELPIE_STATE_CRASHED),
    [KELPIE_STATE_RUNNING] =
        BIT(KELPIE_STATE_PAUSED) | BIT(KELPIE_STATE_STOPPED) | BIT(KELPIE_STATE_CRASHED),
    [KELPIE_STATE_PAUSED] =
        BIT(KELPIE_STATE_RUNNING) | BIT(KELPIE_STATE_STOPPED) | BIT(KELPIE_STATE_CRASHED),
    [KELPIE_STATE_STOPPED] = BIT(KELPIE_STATE_STARTING),
    [KELPIE_STATE_CRASHED] = 0,
};
static_assert(ARRAY_SIZE(followers) == KELPIE_STATE_COUNT, "each state has a row");

const char *kelpie_state_name(enum kelpie_state state) {
    if ((unsigned)state >= KELPIE_STATE_COUNT) {
        return "unknown";
    }
    return state_names[state];
}

bool vm_state_allows(enum vm_operation operation, enum kelpie_state state) {
    ASSERT((unsigned)operation < VM_OPERATION_COUNT);
    ASSERT((unsigned)state < KELPIE_STATE_COUNT);
    return operations[operation].allowed_in & BIT(state);
}

bool vm_state_may_follow(enum kelpie_state from, enum kelpie_state to) {
    ASSERT((unsigned)from < KELPIE_STATE_COUNT);
    ASSERT((unsigned)to < KELPIE_STATE_COUNT);
    return followers[from] & BIT(to);
}

enum kelpie_status vm_state_error(enum vm_operation operation, enum kelpie_state state,
                                  struct kelpie_error *err) {
    ASSERT(!vm_state_allows(operation, state));
    char allowed[96] = "";
    size_t used = 0;
    for (unsigned i = 0; i < KELPIE_STATE_COUNT; i++) {
        if (operations[operation].allowed_in & BIT(i)) {
            int count = snprintf(allowed + used, sizeof(allowed) - used, "%s%s",
                                 used == 0 ? "" : " or ", state_names[i]);
            ASSERT(count > 0);
            used += (size_t)count;
            ASSERT(used < sizeof(allowed));
        }
    }
    enum kelpie_status status = error_set_field(
        err, KELPIE_WRONG_STATE, state_names[state], "cannot %s a VM that is %s; it must be %s",
        operations[operation].name, state_names[state], allowed);
    if (err) {
        err->requires_recreate = state == KELPIE_STATE_CRASHED;
    }
    return status;
}
