/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * scenario.h: a run from within: its world, the owner whose threads use VMs, and what is known of them. For the files of
 * sim/run/ only.
 *
 * THEORY OF OPERATION
 *
 * There is one machine with an owner on it, and an operator on a machine of its own, whom no fault reaches. The owner has
 * threads, which do the plan's steps (steps.h) on a few VMs, shared among them. When the owner is killed, or its machine loses
 * power, the operator starts it again, and it goes on behind the last step that was begun. When all steps are done, faults
 * end, and everything must come to rest: VMs are looked at and destroyed, each bundle that was acknowledged is restored and
 * compared, and fresh VMs must work.
 *
 * Nothing here needs a lock: a thread loses its turn in host calls alone.
 */
#ifndef KELPIE_SIM_RUN_SCENARIO_H
#define KELPIE_SIM_RUN_SCENARIO_H

#include "sim/run/history.h"
#include "sim/run/model.h"
#include "sim/run/run.h"
#include "sim/run/steps.h"
#include "sim/world.h"

#define SCENARIO_OWNER_COUNT_MAX 4 /* times that the owner may be killed before faults end */
#define SCENARIO_CLIENT_COUNT_MAX 3
#define SCENARIO_FOLDER "/root"
#define SCENARIO_DISK SCENARIO_FOLDER "/in-disk-" /* and the VM's number */
#define SCENARIO_DISK_SIZE 262144u
#define SCENARIO_PATH_SIZE 64
#define SCENARIO_CONTENT_SIZE_MAX 300000u
#define SCENARIO_TIMEOUT_MS 30000u

#define SCENARIO_OFFSET_UNKNOWN UINT64_MAX
#define SCENARIO_IDENTITY_COUNT_MAX 256
#define SCENARIO_IDENTITY_SIZE 64

/* How a call began. */
struct scenario_call {
    uint64_t start_ns;
    uint32_t interrupt_count;
    bool interrupted;
};

/* A VM of the plan. */
struct scenario_vm {
    struct kelpie_vm *vm;          /* NULL: there is none now */
    char name[SCENARIO_PATH_SIZE]; /* of the last one that had an owner of its own; or empty */
    uint32_t users;                /* threads that are in a call on it */
    bool closing;                  /* no new one may begin */
    uint32_t session_id;           /* one that was detached; 0: none */
    uint64_t session_offset;       /* where its reader stopped; SCENARIO_OFFSET_UNKNOWN */
    int32_t parent;           /* the bundle that it was saved to or restored from last; -1: none */
    uint32_t interrupt_count; /* how often its calls were cancelled */
    uint32_t interrupting;    /* threads that may do so now */
    uint32_t start_count;     /* starts and restores that began */
    uint32_t starting;        /* … and have not ended */
    uint64_t interrupted_ns;  /* the last time */
    struct scenario_call calls[HISTORY_OP_COUNT_MAX]; /* of the history's operations */
    bool
        blind; /* what the owner of its own did with the last call is not known: history says no more */
    struct history history;
};

/* Another process, with a handle of its own of a VM that has an owner. */
struct scenario_client {
    struct scenario *scenario;
    struct sim_process *process; /* NULL: none */
    uint32_t value;              /* what it does */
    char name[SCENARIO_PATH_SIZE];
    struct scenario_vm slot; /* its own: nothing in it is compared with the others' */
};

enum scenario_bundle_state {
    SCENARIO_BUNDLE_PENDING = 0,
    SCENARIO_BUNDLE_DONE,
    SCENARIO_BUNDLE_FAILED
};

struct scenario_bundle {
    enum scenario_bundle_state state;
    char path[SCENARIO_PATH_SIZE];
    const char *backend;
    uint32_t vm;         /* of the plan */
    bool none_left;      /* it failed in a way that leaves none */
    bool checkpoint;     /* of files alone: it fits any VM */
    bool quiesced;       /* the guest's commands stood still in it */
    uint32_t session_id; /* that was detached when it was made; 0: none */
    uint64_t session_offset;
};

struct scenario {
    const struct run_options *options;
    struct run_result *result;
    struct steps_plan plan;
    struct sim_world *world;
    struct sim_machine *machine; /* the owner's */
    struct sim_process *owner;   /* NULL: none */
    struct sim_process *operator_;
    struct sim_process *echo; /* on the operator's machine: not immune */
    struct host *host;        /* the owner's */
    uint32_t
        step_next[STEPS_THREAD_COUNT_MAX]; /* of each thread: the first that it has not begun */
    uint32_t owner_count;
    uint32_t owner_id; /* of the last, when it ended by itself; else 0 */
    bool steps_done;
    int steps_done_event; /* the owner's */
    uint32_t content_id_last;
    struct scenario_vm vms[STEPS_VM_COUNT_MAX];
    struct scenario_bundle bundles[MODEL_BUNDLE_COUNT];
    uint32_t bundle_count;
    uint32_t name_last; /* of VMs that have an owner of their own */
    struct scenario_client clients[SCENARIO_CLIENT_COUNT_MAX];
    bool lever_pulled;
    char identities[SCENARIO_IDENTITY_COUNT_MAX][SCENARIO_IDENTITY_SIZE]; /* that guests said */
    uint32_t identity_count;
    struct model_shelf shelf;
};

/* ---- contents.c: what files hold -------------------------------------------------------------- */

/* The bytes of content `id` (not 0); their number. */
size_t contents_make(uint32_t id, uint8_t buffer[SCENARIO_CONTENT_SIZE_MAX]);

/* Which content this is, whole; 0: none. */
uint32_t contents_recognize(const void *data, size_t size);

/* A file of the owner's machine, put or read without a host call; false: it cannot be. */
bool contents_put(struct scenario *scenario, const char *path, uint32_t id);

/* The disk of a VM of the plan, on the disk. */
bool contents_put_disk(struct scenario *scenario, uint32_t vm);
uint32_t contents_get(struct scenario *scenario, const char *path);

/* ---- owner.c ---------------------------------------------------------------------------------- */

/* The owner's main function: argument is the scenario. */
int owner_main(void *argument);

/* ---- actions*.c: one step each ---------------------------------------------------------------- */

/* Does the step on its VM, which exists. */
void actions_do(struct scenario *scenario, const struct steps_step *step);
void actions_exec(struct scenario *scenario, struct scenario_vm *slot,
                  const struct steps_step *step);
void actions_bundle(struct scenario *scenario, struct scenario_vm *slot,
                    const struct steps_step *step);

void actions_host(struct scenario *scenario, const struct steps_step *step);

/* The step on this handle, whoever's it is. */
void actions_on(struct scenario *scenario, struct scenario_vm *slot, const struct steps_step *step);

/* ---- actions_owned.c: VMs with an owner of their own ------------------------------------------- */

bool owned_is(const struct scenario *scenario, uint32_t vm);

/* A detached command, or another process that uses the VM. */
void owned_do(struct scenario *scenario, struct scenario_vm *slot, const struct steps_step *step);

/* By an owner that was started again: what the one before it left is opened, or removed. */
void owned_revisit(struct scenario *scenario);

/* When faults have ended: clients end, every VM that is left can be removed, and nothing stays of it. */
void owned_rest(struct scenario *scenario);

/* The main function of the process that sends back what it gets. */
int actions_echo_main(void *argument);

/* Makes the plan's VM, if there is none. */
void actions_create(struct scenario *scenario, uint32_t vm);

/* Ends it, whoever uses it: waits for them. What its history says is checked. */
void actions_destroy(struct scenario *scenario, uint32_t vm);

/* Is what threads saw of this VM explained? */
void actions_check_history(struct scenario *scenario, uint32_t vm);

/* What the guest of a VM that was restored from the bundle holds is what the bundle may hold. */
void actions_compare_with_bundle(struct scenario *scenario, struct kelpie_vm *vm, uint32_t bundle);

/* No other guest has its machine id or its random numbers, and its name and clock are right. */
void identity_check(struct scenario *scenario, struct kelpie_vm *vm);

struct kelpie_config actions_config(struct scenario *scenario, uint32_t vm);

/* From here to there, calls on the VM may be cancelled. */
void actions_interrupt_begin(struct scenario *scenario, struct scenario_vm *slot);
void actions_interrupt_end(struct scenario *scenario, struct scenario_vm *slot);

/* One operation of the model begins and ends. */
size_t actions_begin(struct scenario *scenario, struct scenario_vm *slot,
                     const struct model_op *op);
void actions_end(struct scenario *scenario, struct scenario_vm *slot, size_t index,
                 enum kelpie_status status, uint32_t value);

/* What came out of a guest is not what must. A hostile guest says what it likes: then it is no failure. */
void actions_fail_bytes(struct scenario *scenario, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* A status that no fault explains, for kelpie.h does not name it there. */
void actions_expect_clear(struct scenario *scenario, const char *what, enum kelpie_status status,
                          const struct kelpie_error *err);

/* ---- rest.c ----------------------------------------------------------------------------------- */

/* No fault happens any more: everything must come to rest. By the owner. */
void rest_check(struct scenario *scenario);

/* What is left when the owner has gone. By the operator. */
void rest_check_machine(struct scenario *scenario);

#endif
