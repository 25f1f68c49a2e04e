/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * fault.h: everything that can go wrong in a simulated world, as a table (fault.c).
 *
 * THEORY OF OPERATION
 *
 * Wherever something can go wrong, the simulator asks sim_fault() whether it does now. Each run draws its own rates
 * (swarm: about half of the faults are off, the others are anything from rare to frequent), so that runs differ in kind and
 * not only in luck. The n-th question about one fault is answered by the seed, the fault and n alone: leaving one fault
 * out (sim_faults_suppress) does not change the answers about the others, which is what makes a failing run small.
 *
 * A run of many steps says when each begins (sim_faults_begin_step). From then on questions are numbered within that step, so that
 * leaving a step out does not change the answers in the others either: what is asked of step 7 stays what it was.
 *
 * In the quiet phase nothing goes wrong any more. What went wrong before stays so: a killed process stays dead.
 */
#ifndef KELPIE_SIM_FAULT_H
#define KELPIE_SIM_FAULT_H

#include "sim/choices.h"

enum sim_fault {
    /* memory and random bytes */
    SIM_FAULT_MEMORY_NONE = 0,
    SIM_FAULT_RANDOM_FAILS,
    /* files */
    SIM_FAULT_FILE_OPEN_FAILS,
    SIM_FAULT_FILE_READ_FAILS,
    SIM_FAULT_FILE_WRITE_FAILS,
    SIM_FAULT_FILE_BAD_SECTOR,
    SIM_FAULT_FILE_DISK_FULL,
    SIM_FAULT_FILE_SYNC_FAILS,
    SIM_FAULT_FILE_STAT_FAILS,
    SIM_FAULT_FILE_TRUNCATE_FAILS,
    SIM_FAULT_FILE_LINK_FAILS,
    SIM_FAULT_FILE_UNNAMED_UNSUPPORTED,
    SIM_FAULT_FILE_MAP_FAILS,
    SIM_FAULT_MEMORY_FILE_FAILS,
    SIM_FAULT_PATH_STAT_FAILS,
    SIM_FAULT_PATH_RENAME_FAILS,
    SIM_FAULT_PATH_UNLINK_FAILS,
    SIM_FAULT_PATH_MKDIR_FAILS,
    SIM_FAULT_PATH_SYNC_FAILS,
    SIM_FAULT_PATH_LIST_FAILS,
    /* what a crash of a machine leaves of what was not synced */
    SIM_FAULT_CRASH_LOSES_DATA,
    SIM_FAULT_CRASH_TEARS_DATA,
    SIM_FAULT_CRASH_LOSES_NAMES,
    SIM_FAULT_CRASH_REORDERS_NAMES,
    /* streams */
    SIM_FAULT_STREAM_DELAYED,
    SIM_FAULT_STREAM_SHORT_READ,
    SIM_FAULT_STREAM_SHORT_WRITE,
    SIM_FAULT_STREAM_RESET,
    SIM_FAULT_STREAM_READ_FAILS,
    SIM_FAULT_STREAM_WRITE_FAILS,
    SIM_FAULT_SOCKET_PAIR_FAILS,
    SIM_FAULT_SOCKET_LISTEN_FAILS,
    SIM_FAULT_SOCKET_ACCEPT_FAILS,
    SIM_FAULT_SOCKET_CONNECT_FAILS,
    SIM_FAULT_SOCKET_SEND_FD_FAILS,
    SIM_FAULT_POLL_FAILS,
    SIM_FAULT_EVENT_FAILS,
    SIM_FAULT_NETWORK_CUT,
    SIM_FAULT_NETWORK_CUT_ONE_WAY,
    /* clocks */
    SIM_FAULT_CLOCK_JUMPS_AHEAD,
    SIM_FAULT_CLOCK_JUMPS_BACK,
    SIM_FAULT_CLOCK_SKEWED,
    /* threads */
    SIM_FAULT_THREAD_FAILS,
    SIM_FAULT_THREAD_STARVES,
    SIM_FAULT_MUTEX_FAILS,
    SIM_FAULT_CONDITION_FAILS,
    SIM_FAULT_CONDITION_WAKES_EARLY,
    /* processes and machines */
    SIM_FAULT_PROCESS_SPAWN_FAILS,
    SIM_FAULT_PROCESS_STARTS_SLOWLY,
    SIM_FAULT_PROCESS_KILLED,
    SIM_FAULT_PROCESS_CRASHES,
    SIM_FAULT_PROCESS_HANGS,
    SIM_FAULT_OWNER_KILLED,
    SIM_FAULT_MACHINE_CRASHES,
    SIM_FAULT_KVM_PROBE_FAILS,
    /* what monitors do (sim/peer) */
    SIM_FAULT_PEER_SILENT,
    SIM_FAULT_PEER_SLOW,
    SIM_FAULT_PEER_REFUSES,
    SIM_FAULT_PEER_GARBAGE,
    SIM_FAULT_PEER_DIES,
    SIM_FAULT_PEER_CHATTERS,
    /* what guests do */
    SIM_FAULT_GUEST_SLOW,
    SIM_FAULT_GUEST_SILENT,
    SIM_FAULT_GUEST_HOSTILE,
    SIM_FAULT_GUEST_DIES,
    SIM_FAULT_GUEST_CHATTERS,
    /* VMs with an owner of their own */
    SIM_FAULT_VM_OWNER_KILLED,
    SIM_FAULT_CLIENT_KILLED,
    SIM_FAULT_CLIENT_HANGS,
    SIM_FAULT_COUNT
};

/* One row of the table. */
struct sim_fault_info {
    const char *name;   /* "file-sync-fails" */
    const char *where;  /* what is asked: "file_sync" */
    const char *what;   /* what happens then */
    const char *expect; /* what must hold nevertheless */
    uint32_t ppm_min;   /* the rates that a run may draw, of each question */
    uint32_t ppm_max;
};

/* Never NULL. */
const struct sim_fault_info *sim_fault_info(enum sim_fault fault);

/* By name; SIM_FAULT_COUNT: there is none. */
enum sim_fault sim_fault_find(const char *name);

#define SIM_FAULT_FIRED_COUNT_MAX 4096 /* of one run, that are remembered */

/* The n-th question about a fault, from 0: of a step, or before the first one. */
struct sim_fault_event {
    uint32_t fault;
    uint32_t number; /* SIM_FAULT_NUMBER(); before the first step just n */
};

#define SIM_FAULT_QUESTION_BITS                                                                    \
    19u /* of a number; more questions in one step get the same answers again */
#define SIM_FAULT_STEP_COUNT_MAX 4096u
#define SIM_FAULT_NUMBER(step, n)                                                                  \
    (((uint32_t)(step) + 1u) << SIM_FAULT_QUESTION_BITS | (uint32_t)(n))
#define SIM_FAULT_IN_STEP(number) ((number) >> SIM_FAULT_QUESTION_BITS != 0)
#define SIM_FAULT_STEP(number) (((number) >> SIM_FAULT_QUESTION_BITS) - 1u)
#define SIM_FAULT_QUESTION(number) ((number) & ((1u << SIM_FAULT_QUESTION_BITS) - 1u))

/* By fault, then number: for qsort(). */
int sim_fault_event_compare(const void *left, const void *right);

struct sim_faults {
    uint64_t seed;
    struct sim_choices *choices; /* of a fuzzer, which answers instead of the seed; or NULL */
    bool quiet;
    uint32_t ppm[SIM_FAULT_COUNT];
    uint32_t asked[SIM_FAULT_COUNT];
    uint32_t fired[SIM_FAULT_COUNT];
    uint32_t number_base;                                     /* of the step's questions */
    uint32_t asked_before[SIM_FAULT_COUNT];                   /* asked when the step began */
    struct sim_fault_event events[SIM_FAULT_FIRED_COUNT_MAX]; /* those that fired */
    size_t event_count;
    const struct sim_fault_event *suppressed; /* sorted, the caller's */
    size_t suppressed_count;
    bool suppress_others;         /* the other way round: these alone may fire */
    struct sim_fault_event *copy; /* of events, the caller's; NULL: none */
    size_t *copy_count;
};

/* All rates are 0. */
void sim_faults_init(struct sim_faults *faults, uint64_t seed);

/* Draws a rate for each fault. intensity_ppm: of all rates; SIM_PPM: as the table says. */
void sim_faults_draw(struct sim_faults *faults, uint32_t intensity_ppm);

/* These events do not fire. Sorted by fault, then number. */
void sim_faults_suppress(struct sim_faults *faults, const struct sim_fault_event *events,
                         size_t count);

/* No other events than these fire. They fire only where the seed says so too. Sorted as well. */
void sim_faults_allow(struct sim_faults *faults, const struct sim_fault_event *events,
                      size_t count);

/* Writes each event that fires to copy too (room for SIM_FAULT_FIRED_COUNT_MAX), and how many there are to copy_count: for
 * memory that is shared with another process, which wants to know them when this one aborts. Sets *copy_count to 0. */
void sim_faults_copy(struct sim_faults *faults, struct sim_fault_event *copy, size_t *copy_count);

/* From now on questions belong to step n, until the next one begins. Each step begins once. */
void sim_faults_begin_step(struct sim_faults *faults, uint32_t step);

/* Does it happen now? */
bool sim_faults_ask(struct sim_faults *faults, enum sim_fault fault);

#endif
