/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * kelpie_sim.h: a simulated machine, in which a program that uses kelpie.h is tested: with files, clocks, threads and VMs, under
 * virtual time, with faults. All that happens comes of a seed: what went wrong once goes wrong again.
 *
 *     static void program(void *argument) {
 *         struct kelpie_sim *sim = argument;
 *         struct kelpie_config config = {.backend = "mock"};
 *         struct kelpie_vm *vm = NULL;
 *         struct kelpie_error err;
 *
 *         if (kelpie_sim_host(sim, &config.host, &err) != KELPIE_OK ||
 *             kelpie_vm_create(&config, &vm, &err) != KELPIE_OK ||
 *             kelpie_vm_start(vm, &err) != KELPIE_OK) {
 *             kelpie_sim_note(sim, err.message);
 *         }
 *         kelpie_vm_destroy(vm);
 *     }
 *
 *     for (uint64_t seed = 1; seed <= 1000; seed++) {
 *         struct kelpie_sim_options options = {.seed = seed, .faults = KELPIE_SIM_FAULTS_DRAWN};
 *         struct kelpie_sim *sim = NULL;
 *         struct kelpie_error err;
 *         if (kelpie_sim_create(&options, &sim, &err) != KELPIE_OK ||
 *             kelpie_sim_run(sim, program, sim, &err) != KELPIE_OK) {
 *             printf("seed %llu: %s\n", (unsigned long long)seed, err.message);
 *         }
 *         kelpie_sim_destroy(sim);
 *     }
 *
 * The machine has a process, the program's. kelpie_sim_run() calls a function as its first thread, and returns when
 * everything has come to rest. What that function does, and the threads that it starts here, is inside; all else is outside.
 * Each call says where it may be made; elsewhere it is KELPIE_WRONG_STATE. Everything runs on the one real thread that
 * called kelpie_sim_run(), and only that thread may use the handle. Turns change only within a call of the library.
 *
 * A program under test waits, locks and starts threads by the functions here, and lets its VMs run on kelpie_sim_host(). What it
 * does past them (a real file, a real lock, a thread of the system's) is not simulated. A simulated thread has a stack of
 * KELPIE_SIM_STACK_SIZE bytes. The library's assertions hold: a VM is used only inside, in the run that made it.
 *
 * Ownership, errors and `reserved` are as in kelpie.h. docs/SIMULATION.md has the rest.
 */
#ifndef KELPIE_SIM_H
#define KELPIE_SIM_H

#include "kelpie.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KELPIE_SIM_PPM 1000000u /* a rate of 1: always */
#define KELPIE_SIM_STACK_SIZE 262144
#define KELPIE_SIM_FAULT_COUNT_MAX 256
#define KELPIE_SIM_THREAD_NAME_SIZE_MAX 15     /* characters, without the closing zero */
#define KELPIE_SIM_FILE_SIZE_MAX 16777216      /* bytes, of kelpie_sim_file_write() and _read() */
#define KELPIE_SIM_SLEEP_MS_MAX 31622400000ull /* a year */
#define KELPIE_SIM_EVENT_COUNT_DEFAULT 5000000 /* of one run */

struct kelpie_sim;
struct kelpie_sim_thread;
struct kelpie_sim_mutex;
struct kelpie_sim_condition;

typedef void (*kelpie_sim_entry)(void *argument);

/* Takes one line of the timeline, without its end. Must not call the library. */
typedef void (*kelpie_sim_line)(void *argument, const char *text);

/* ---- A simulated machine ---------------------------------------------------------------------- */

enum kelpie_sim_faults {
    KELPIE_SIM_FAULTS_NONE = 0, /* turns are still dealt by the seed */
    KELPIE_SIM_FAULTS_DRAWN,    /* as kelpie_sim_faults_draw() does */
    KELPIE_SIM_FAULTS_COUNT
};

struct kelpie_sim_options {
    uint64_t seed;
    enum kelpie_sim_faults faults;
    uint32_t intensity_ppm; /* DRAWN: of all rates; 0: KELPIE_SIM_PPM, as the table has them */
    bool owner_faults;      /* DRAWN: also those that end the program itself: killed, power loss */
    uint64_t event_count_max; /* of one run; 0: KELPIE_SIM_EVENT_COUNT_DEFAULT */
    kelpie_sim_line line;     /* NULL: nobody reads the timeline */
    void *line_argument;
    uint64_t reserved[16];
};

/* Outside. options may be NULL. Errors: BAD_CONFIG (field), UNSUPPORTED (not on this processor), NO_MEMORY. */
KELPIE_API KELPIE_CHECKED enum kelpie_status
kelpie_sim_create(const struct kelpie_sim_options *options, struct kelpie_sim **ret_sim,
                  struct kelpie_error *err);

/* Outside; from inside nothing happens. NULL is allowed. */
KELPIE_API void kelpie_sim_destroy(struct kelpie_sim *sim);

/*
 * Outside. Runs entry(argument) as the first thread of a process on the simulated machine, and returns when all has come to
 * rest. It may be called again: that is another process on the same machine, whose files are what the one before left.
 * Errors, by err->field:
 *     TIMED_OUT  "stuck"   everybody waits for what cannot come; the message says who for what
 *     BUSY       "events"  events without end: event_count_max was reached
 *     INTERNAL   "leak"    the program ended and left descriptors, locks, threads or VMs
 *     CRASHED    "killed"  it was killed: by a fault, or by kelpie_sim_kill()
 *     CRASHED    "power"   the machine lost its power
 * and WRONG_STATE, NO_MEMORY. What still ran is killed then. What a thread that did not come to its end had allocated is lost,
 * and so is what a simulated monitor had that was killed.
 */
KELPIE_API KELPIE_CHECKED enum kelpie_status kelpie_sim_run(struct kelpie_sim *sim,
                                                            kelpie_sim_entry entry, void *argument,
                                                            struct kelpie_error *err);

/* Inside. What goes into kelpie_config.host; good until the run ends. On failure *ret_host stays as it was: NULL
 * in a config means the real machine, so look at the status. */
KELPIE_API KELPIE_CHECKED enum kelpie_status
kelpie_sim_host(struct kelpie_sim *sim, void **ret_host, struct kelpie_error *err);

/* Inside. The program's process is killed now, or the machine loses its power: what was written and not synced may be lost, as
 * the crash faults' rates have it. Returns only with an error. */
KELPIE_API enum kelpie_status kelpie_sim_kill(struct kelpie_sim *sim, struct kelpie_error *err);
KELPIE_API enum kelpie_status kelpie_sim_power_loss(struct kelpie_sim *sim,
                                                    struct kelpie_error *err);

/* ---- Time, choices, notes --------------------------------------------------------------------- */

/* Inside. Virtual time: a day costs nothing. Errors: WRONG_STATE, BAD_CONFIG (more than KELPIE_SIM_SLEEP_MS_MAX). */
KELPIE_API enum kelpie_status kelpie_sim_sleep_ms(struct kelpie_sim *sim, uint64_t ms,
                                                  struct kelpie_error *err);

/* Anywhere. The machine's monotonic clock. It goes on only in calls of the library: who does nothing but look at it looks
 * for ever. */
KELPIE_API uint64_t kelpie_sim_now_ns(const struct kelpie_sim *sim);
KELPIE_API uint64_t kelpie_sim_now_ms(const struct kelpie_sim *sim);

/* Anywhere. 0 … count - 1 for the program's or the test's own choices; of count 0: 0. The n-th is made of the seed, n and count
 * alone: faults do not change it. */
KELPIE_API uint64_t kelpie_sim_choose(struct kelpie_sim *sim, uint64_t count);

/* Anywhere. A line of the program's own in the timeline. */
KELPIE_API void kelpie_sim_note(struct kelpie_sim *sim, const char *text);

/* ---- Threads and locks of the program (inside) ------------------------------------------------ */

/* name: for the timeline; NULL: "thread". Freed by kelpie_sim_thread_join(), within the same run. Errors: BAD_CONFIG
 * (field "name"), WRONG_STATE, NO_MEMORY, IO_FAILED (a fault). */
KELPIE_API KELPIE_CHECKED enum kelpie_status
kelpie_sim_thread_start(struct kelpie_sim *sim, const char *name, kelpie_sim_entry entry,
                        void *argument, struct kelpie_sim_thread **ret_thread,
                        struct kelpie_error *err);

/* Waits for its end. Errors: WRONG_STATE (not inside, or by itself): then the handle is still good. */
KELPIE_API enum kelpie_status kelpie_sim_thread_join(struct kelpie_sim_thread *thread,
                                                     struct kelpie_error *err);

/* Not recursive. Errors: WRONG_STATE: not inside; it has the lock already; it does not have it; destroying one that is in
 * use. */
KELPIE_API KELPIE_CHECKED enum kelpie_status
kelpie_sim_mutex_create(struct kelpie_sim *sim, struct kelpie_sim_mutex **ret_mutex,
                        struct kelpie_error *err);
KELPIE_API enum kelpie_status kelpie_sim_mutex_lock(struct kelpie_sim_mutex *mutex,
                                                    struct kelpie_error *err);
KELPIE_API enum kelpie_status kelpie_sim_mutex_unlock(struct kelpie_sim_mutex *mutex,
                                                      struct kelpie_error *err);
KELPIE_API enum kelpie_status kelpie_sim_mutex_destroy(struct kelpie_sim_mutex *mutex,
                                                       struct kelpie_error *err);

/* A condition of the simulated machine, as pthread_cond_t is one. */
KELPIE_API KELPIE_CHECKED enum kelpie_status
kelpie_sim_condition_create(struct kelpie_sim *sim, struct kelpie_sim_condition **ret_condition,
                            struct kelpie_error *err);

/* Unlocks, waits for a broadcast, locks again. May return early for no reason, as any condition may. timeout_ms 0: no
 * timeout. Errors: TIMED_OUT, WRONG_STATE (the caller does not have the mutex). */
KELPIE_API enum kelpie_status kelpie_sim_condition_wait(struct kelpie_sim_condition *condition,
                                                        struct kelpie_sim_mutex *mutex,
                                                        uint32_t timeout_ms,
                                                        struct kelpie_error *err);
KELPIE_API enum kelpie_status kelpie_sim_condition_broadcast(struct kelpie_sim_condition *condition,
                                                             struct kelpie_error *err);
KELPIE_API enum kelpie_status kelpie_sim_condition_destroy(struct kelpie_sim_condition *condition,
                                                           struct kelpie_error *err);

/* ---- Files of the simulated machine (anywhere) ------------------------------------------------ */

/* Writes a whole file, synced, at an absolute path; folders above it are made. It takes no time and meets no fault.
 * Errors: BAD_CONFIG (field), NO_SPACE, NO_MEMORY, IO_FAILED (os_error). */
KELPIE_API KELPIE_CHECKED enum kelpie_status kelpie_sim_file_write(struct kelpie_sim *sim,
                                                                   const char *path,
                                                                   const void *data, size_t size,
                                                                   struct kelpie_error *err);

/* Reads it whole. *ret_data is zero-terminated beyond its size, and freed with free(). Errors: BAD_CONFIG, NOT_FOUND, NO_SPACE
 * (larger than KELPIE_SIM_FILE_SIZE_MAX), NO_MEMORY, IO_FAILED. */
KELPIE_API KELPIE_CHECKED enum kelpie_status kelpie_sim_file_read(struct kelpie_sim *sim,
                                                                  const char *path, char **ret_data,
                                                                  size_t *ret_size,
                                                                  struct kelpie_error *err);

/* ---- Faults ----------------------------------------------------------------------------------- */

/* One that can happen. The texts live for ever. */
struct kelpie_sim_fault {
    const char *name;   /* "file-sync-fails" */
    const char *where;  /* what is asked: "file_sync" */
    const char *what;   /* what happens then */
    const char *expect; /* what the library does about it */
    uint64_t reserved[4];
};

/* What became of one in this simulator so far. */
struct kelpie_sim_fault_counts {
    uint32_t rate_ppm; /* in force */
    uint64_t asked;    /* how often it could have happened */
    uint64_t fired;    /* … and did */
    uint64_t reserved[4];
};

/* Anywhere. Up to `capacity` of them; returns how many there are. */
KELPIE_API size_t kelpie_sim_fault_list(struct kelpie_sim_fault *faults, size_t capacity);

/* Anywhere. Draws a rate for each fault, by the seed: about half are off, the others anything from rare to frequent, so that
 * seeds differ in kind. intensity_ppm: of all rates, up to KELPIE_SIM_PPM. Those that end the program itself stay off unless
 * the options' owner_faults is set. Errors: BAD_CONFIG. */
KELPIE_API KELPIE_CHECKED enum kelpie_status
kelpie_sim_faults_draw(struct kelpie_sim *sim, uint32_t intensity_ppm, struct kelpie_error *err);

/* Anywhere. How often in a million that fault happens where it could; 0: never. Whether it happens the n-th time that it
 * could is made of the seed, the fault and n alone: without one fault, the others stay as they were, as long as the program
 * does the same. Errors: NOT_FOUND (no such fault), BAD_CONFIG. */
KELPIE_API KELPIE_CHECKED enum kelpie_status kelpie_sim_fault_set(struct kelpie_sim *sim,
                                                                  const char *name,
                                                                  uint32_t rate_ppm,
                                                                  struct kelpie_error *err);

/* Anywhere. All rates are 0, until they are set again, and networks are whole. What happened stays so: what hangs, hangs. */
KELPIE_API void kelpie_sim_faults_quiet(struct kelpie_sim *sim);

/* Anywhere. Errors: NOT_FOUND. */
KELPIE_API KELPIE_CHECKED enum kelpie_status
kelpie_sim_fault_counts(const struct kelpie_sim *sim, const char *name,
                        struct kelpie_sim_fault_counts *ret_counts, struct kelpie_error *err);

/* ---- What happened (anywhere) ----------------------------------------------------------------- */

/* A hash of all that happened: equal for a program that does the same with the same seed and faults. */
KELPIE_API uint64_t kelpie_sim_hash(const struct kelpie_sim *sim);
KELPIE_API uint64_t kelpie_sim_event_count(const struct kelpie_sim *sim);

#ifdef __cplusplus
}
#endif

#endif
