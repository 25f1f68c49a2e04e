/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * steps.h: what the owners of a run do, as a list that the seed alone makes. Step n is the same whatever the others did, so
 * that some can be left out. Pure.
 */
#ifndef KELPIE_SIM_RUN_STEPS_H
#define KELPIE_SIM_RUN_STEPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sim/choices.h"

#define STEPS_THREAD_COUNT_MAX 4
#define STEPS_VM_COUNT_MAX 3
#define STEPS_FILE_COUNT 4
#define STEPS_BUNDLE_COUNT 6
#define STEPS_COUNT_MAX 120
#define STEPS_PAUSE_MS_MAX 20000

/* What a VM of the plan has beside the least. */
enum steps_feature {
    STEPS_FEATURE_DISK = 1 << 0,
    STEPS_FEATURE_NETWORK = 1 << 1,
    STEPS_FEATURE_CONSOLE_LOG = 1 << 2,
    STEPS_FEATURE_READ_ONLY = 1 << 3, /* the disk is */
    STEPS_FEATURE_TAP = 1 << 4,       /* the network is one */
    STEPS_FEATURE_TEXTS = 1 << 5,     /* hostname, working folder, kernel arguments */
    STEPS_FEATURE_KRUNFW = 1 << 6,    /* the kernel comes out of a library */
    STEPS_FEATURE_END = 1 << 7,
    STEPS_FEATURE_OWNED =
        1 << 7, /* it has an owner of its own; drawn by itself, as most have none */
};

/* The kinds, with their names in a report. */
#define STEPS_ACTIONS(X)                                                                           \
    X(CREATE, "create")                                                                            \
    X(START, "start")                                                                              \
    X(STOP, "stop")                                                                                \
    X(PAUSE, "pause")                                                                              \
    X(RESUME, "resume")                                                                            \
    X(SNAPSHOT, "snapshot")                                                                        \
    X(DIFF, "diff snapshot")                                                                       \
    X(RESTORE, "restore")                                                                          \
    X(RESTORE_PAUSED, "restore paused")                                                            \
    X(FORK, "fork")                                                                                \
    X(FORK_BUNDLE, "fork a bundle")                                                                \
    X(POOL, "pool")                                                                                \
    X(COPY_IN, "copy in")                                                                          \
    X(COPY_OUT, "copy out")                                                                        \
    X(EXEC_WRITE, "exec write")                                                                    \
    X(EXEC_READ, "exec read")                                                                      \
    X(EXEC_ECHO, "exec echo")                                                                      \
    X(EXEC_LARGE, "exec of a long line")                                                           \
    X(EXEC_TIMEOUT, "exec with a timeout")                                                         \
    X(STREAM, "stream")                                                                            \
    X(TERMINAL, "terminal")                                                                        \
    X(DETACH, "detach")                                                                            \
    X(ATTACH, "attach")                                                                            \
    X(PING, "ping")                                                                                \
    X(STATE, "state")                                                                              \
    X(WAIT, "wait")                                                                                \
    X(CANCEL, "cancel")                                                                            \
    X(CRASH, "crash")                                                                              \
    X(FAIL_NEXT, "fail the next")                                                                  \
    X(WORKING_SET, "record working set")                                                           \
    X(LOOK, "look")                                                                                \
    X(DETACHED, "detached command")                                                                \
    X(CLIENT, "client")                                                                            \
    X(HOST, "host")                                                                                \
    X(DESTROY, "destroy")                                                                          \
    X(SLEEP, "sleep")

enum steps_action {
#define STEPS_ENUM(name, text) STEPS_##name,
    STEPS_ACTIONS(STEPS_ENUM)
#undef STEPS_ENUM
        STEPS_ACTION_COUNT
};

struct steps_step {
    enum steps_action action;
    uint32_t thread;
    uint32_t vm;
    uint32_t file;
    uint32_t bundle;
    uint32_t value;    /* whatever else the action needs, such as a size */
    uint32_t pause_ms; /* before it */
};

/* What a run is like. */
struct steps_plan {
    const char *backends[STEPS_VM_COUNT_MAX]; /* of each VM */
    uint32_t features[STEPS_VM_COUNT_MAX];    /* bits of enum steps_feature */
    uint32_t vm_count;
    uint32_t thread_count;
    uint32_t step_count;
    struct steps_step steps[STEPS_COUNT_MAX];
};

/* choices: of the run, or a fuzzer's bytes. */
void steps_plan_init(struct steps_plan *plan, struct sim_choices *choices);

const char *steps_action_name(enum steps_action action);

#endif
