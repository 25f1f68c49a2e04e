/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The simulator as others see it: making one, running a program in it, and what came of that. */
#include "kelpie_sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/error.h"
#include "sim/kelpie_sim_internal.h"

#define KILL_SIGNAL 9
#define NS_PER_MS 1000000ull

void sim_api_check(const struct kelpie_sim *sim) {
    ASSERT(sim);
    ASSERT(sim->magic == SIM_API_MAGIC);
}

enum kelpie_status sim_api_inside(const struct kelpie_sim *sim, const char *what,
                                  struct kelpie_error *err) {
    sim_api_check(sim);
    ASSERT(what);
    const struct sim_fiber *current = sim->world->current;
    if (!current || current->process != sim->process || sim->telling) {
        return error_set(err, KELPIE_WRONG_STATE,
                         "cannot %s: it is for threads of the program inside kelpie_sim_run()",
                         what);
    }
    return KELPIE_OK;
}

/* ---- Making one ------------------------------------------------------------------------------- */

static void tell(void *argument, const char *text) {
    struct kelpie_sim *sim = argument;
    sim_api_check(sim);
    ASSERT(sim->line);
    sim->telling = true;
    sim->line(sim->line_argument, text);
    sim->telling = false;
}

static enum kelpie_status check_options(const struct kelpie_sim_options *options,
                                        struct kelpie_error *err) {
    ASSERT(options);
    if ((unsigned)options->faults >= KELPIE_SIM_FAULTS_COUNT) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "faults",
                               "there is no such choice of faults");
    }
    if (options->intensity_ppm > KELPIE_SIM_PPM) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "intensity_ppm", "it is more than %u",
                               KELPIE_SIM_PPM);
    }
    for (size_t i = 0; i < ARRAY_SIZE(options->reserved); i++) {
        if (options->reserved[i] != 0) {
            return error_set_field(err, KELPIE_BAD_CONFIG, "reserved", "it must be zero");
        }
    }
#if !defined(__x86_64__)
    return error_set(err, KELPIE_UNSUPPORTED, "the simulator does not know this processor yet");
#else
    ASSERT(sizeof(void *) == 8);
    return KELPIE_OK;
#endif
}

enum kelpie_status kelpie_sim_create(const struct kelpie_sim_options *options,
                                     struct kelpie_sim **ret_sim, struct kelpie_error *err) {
    static const struct kelpie_sim_options defaults = {0};
    ASSERT(ret_sim);
    options = options ? options : &defaults;
    TRY(check_options(options, err));
    struct kelpie_sim *sim = calloc(1, sizeof(*sim));
    if (!sim) {
        return error_set(err, KELPIE_NO_MEMORY, "no memory for a simulator");
    }
    *sim = (struct kelpie_sim){
        .magic = SIM_API_MAGIC,
        .line = options->line,
        .line_argument = options->line_argument,
        .owner_faults = options->owner_faults,
        .event_count_max =
            options->event_count_max ? options->event_count_max : KELPIE_SIM_EVENT_COUNT_DEFAULT,
    };
    const struct sim_options world_options = {
        .seed = options->seed, .line = options->line ? tell : NULL, .line_argument = sim};
    sim->world = sim_world_create(&world_options);
    if (sim->world && options->faults == KELPIE_SIM_FAULTS_DRAWN) {
        sim_api_draw(sim, options->intensity_ppm ? options->intensity_ppm : KELPIE_SIM_PPM);
    }
    sim->machine = sim->world ? sim_machine_create(sim->world, "host") : NULL;
    if (!sim->machine || !sim_machine_furnish(sim->machine)) {
        kelpie_sim_destroy(sim);
        return error_set(err, KELPIE_NO_MEMORY, "no memory for a simulated machine");
    }
    ASSERT(!sim->process);
    *ret_sim = sim;
    return KELPIE_OK;
}

void kelpie_sim_destroy(struct kelpie_sim *sim) {
    if (!sim) {
        return;
    }
    sim_api_check(sim);
    if (sim->world && (sim->world->current || sim->telling)) {
        return;
    }
    ASSERT(!sim->tools);
    if (sim->world) {
        sim_world_destroy(sim->world);
    }
    sim->magic = 0;
    free(sim);
}

/* ---- What a run handed out -------------------------------------------------------------------- */

void *sim_api_tool_create(struct kelpie_sim *sim, size_t size, struct kelpie_error *err) {
    sim_api_check(sim);
    ASSERT(size >= sizeof(struct sim_api_tool));
    struct sim_api_tool *tool = calloc(1, size);
    if (!tool) {
        error_set(err, KELPIE_NO_MEMORY, "no memory for a thread or a lock");
        return NULL;
    }
    tool->sim = sim;
    tool->next = sim->tools;
    sim->tools = tool;
    return tool;
}

void sim_api_tool_destroy(struct sim_api_tool *tool) {
    struct sim_api_tool **place = &tool->sim->tools;
    sim_api_check(tool->sim);
    while (*place != tool) {
        ASSERT(*place);
        place = &(*place)->next;
    }
    *place = tool->next;
    free(tool);
}

/* ---- Running ---------------------------------------------------------------------------------- */

static int run_entry(void *argument) {
    struct kelpie_sim *sim = argument;
    sim_api_check(sim);
    ASSERT(sim->entry);
    sim->entry(sim->argument);
    return 0;
}

/* Who waits for what. */
static void say_who(const struct kelpie_sim *sim, char *text, size_t size) {
    size_t used = 0;
    ASSERT(size > 0);
    text[0] = '\0';
    for (const struct sim_process *p = sim->world->processes; p; p = p->next) {
        for (const struct sim_fiber *f = p->fibers; f; f = f->next) {
            bool waits = f->state == SIM_FIBER_WAITING && f->waits_for;
            int length = snprintf(text + used, size - used, "; %s/%s %s%s", p->program, f->name,
                                  waits ? "waits for " : "can go on", waits ? f->waits_for : "");
            used += length > 0 && (size_t)length < size - used ? (size_t)length : 0;
            ASSERT(used < size);
        }
    }
}

static enum kelpie_status run_failed(struct kelpie_error *err, enum kelpie_status status,
                                     const char *field, const char *message, const char *who) {
    ASSERT(status != KELPIE_OK);
    ASSERT(message && who);
    error_set_field(err, status, field, "%s%s", message, who);
    if (err) {
        err->retriable = false; /* a seed does the same again */
        err->requires_recreate = false;
    }
    return status;
}

/* What the run came to. */
static enum kelpie_status judge(struct kelpie_sim *sim, enum sim_end end, bool power_lost,
                                struct kelpie_error *err) {
    char who[SIM_REASON_SIZE_MAX + 1];
    ASSERT(sim->process);
    say_who(sim, who, sizeof(who));
    if (end == SIM_END_LIMIT) {
        return run_failed(err, KELPIE_BUSY, "events", "no rest: events without end", who);
    }
    if (sim->process->killed) {
        return power_lost
                   ? run_failed(err, KELPIE_CRASHED, "power", "the machine lost its power", "")
                   : run_failed(err, KELPIE_CRASHED, "killed", "the program was killed", "");
    }
    if (end == SIM_END_STUCK) {
        return sim->process->ended
                   ? run_failed(err, KELPIE_INTERNAL, "leak",
                                "leak: the program has ended, and others live on", who)
                   : run_failed(err, KELPIE_TIMED_OUT, "stuck", "stuck: everybody waits", who);
    }
    ASSERT(sim->process->ended);
    return sim->world->failure[0] != '\0'
               ? run_failed(err, KELPIE_INTERNAL, "leak", sim->world->failure, "")
               : KELPIE_OK;
}

/* Nothing of the run is left but the machine's disk. */
static void clear(struct kelpie_sim *sim) {
    ASSERT(!sim->world->current);
    for (struct sim_process *p = sim->world->processes; p; p = p->next) {
        sim_process_kill(p, KILL_SIGNAL);
    }
    ASSERT(sim->process->ended);
    ASSERT(sim->world->fiber_count == 0);
    sim_process_forget(sim->process);
    sim->process = NULL;
    /* Bounded: each turn takes one out. */
    while (sim->tools) {
        sim_api_tool_destroy(sim->tools);
    }
    ASSERT(!sim->tools);
}

enum kelpie_status kelpie_sim_run(struct kelpie_sim *sim, kelpie_sim_entry entry, void *argument,
                                  struct kelpie_error *err) {
    sim_api_check(sim);
    ASSERT(entry);
    struct sim_world *world = sim->world;
    if (world->current || sim->telling) {
        return error_set(err, KELPIE_WRONG_STATE, "cannot run: a run is under way");
    }
    const struct sim_process_options options = {
        .name = "program", .main = run_entry, .argument = sim, .owner = true};
    sim->entry = entry;
    sim->argument = argument;
    ASSERT(!sim->process && !sim->tools);
    ASSERT(world->runnable_count == 0);
    world->failure[0] = '\0';
    world->event_count_max = world->event_count + sim->event_count_max;
    uint32_t crash_count = world->faults.asked[SIM_FAULT_CRASH_LOSES_DATA];
    sim->process = sim_process_start(sim->machine, &options);
    if (!sim->process) {
        return error_set(err, KELPIE_NO_MEMORY, "no memory for a simulated process");
    }
    enum sim_end end = sim_world_run(world);
    bool power_lost = world->faults.asked[SIM_FAULT_CRASH_LOSES_DATA] != crash_count;
    enum kelpie_status status = judge(sim, end, power_lost, err);
    clear(sim);
    return status;
}

enum kelpie_status kelpie_sim_host(struct kelpie_sim *sim, void **ret_host,
                                   struct kelpie_error *err) {
    ASSERT(ret_host);
    TRY(sim_api_inside(sim, "hand out a host", err));
    ASSERT(sim->process);
    *ret_host = &sim->process->host;
    return KELPIE_OK;
}

enum kelpie_status kelpie_sim_kill(struct kelpie_sim *sim, struct kelpie_error *err) {
    TRY(sim_api_inside(sim, "kill the program", err));
    ASSERT(!sim->process->ended);
    sim_process_kill(sim->process, KILL_SIGNAL);
    UNREACHABLE();
}

enum kelpie_status kelpie_sim_power_loss(struct kelpie_sim *sim, struct kelpie_error *err) {
    TRY(sim_api_inside(sim, "take the power away", err));
    ASSERT(sim->machine->up);
    sim_machine_crash(sim->machine);
    UNREACHABLE();
}

/* ---- Time, choices, notes --------------------------------------------------------------------- */

enum kelpie_status kelpie_sim_sleep_ms(struct kelpie_sim *sim, uint64_t ms,
                                       struct kelpie_error *err) {
    TRY(sim_api_inside(sim, "sleep", err));
    ASSERT(sim->process);
    if (ms > KELPIE_SIM_SLEEP_MS_MAX) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "ms", "it is more than a year");
    }
    struct host *host = &sim->process->host;
    const struct host_wait wait = {.deadline_ns = host_monotonic_ns(host) + ms * NS_PER_MS,
                                   .cancel_fd = HOST_FD_NONE};
    return host_sleep(host, &wait, err);
}

uint64_t kelpie_sim_now_ns(const struct kelpie_sim *sim) {
    sim_api_check(sim);
    ASSERT(sim->machine);
    return sim_machine_monotonic_ns(sim->machine);
}

uint64_t kelpie_sim_now_ms(const struct kelpie_sim *sim) {
    return kelpie_sim_now_ns(sim) / NS_PER_MS;
}

uint64_t kelpie_sim_choose(struct kelpie_sim *sim, uint64_t count) {
    sim_api_check(sim);
    uint64_t number = sim->choice_count++;
    uint64_t chosen = count > 0 ? sim_mix(sim->world->faults.seed, UINT64_MAX, number) % count : 0;
    ASSERT(count == 0 || chosen < count);
    return chosen;
}

void kelpie_sim_note(struct kelpie_sim *sim, const char *text) {
    sim_api_check(sim);
    ASSERT(text);
    if (sim->line && !sim->telling) {
        sim_log_print(&sim->world->log, "%14.6f ms  NOTE: %s", (double)sim->world->now_ns / 1e6,
                      text);
    }
}

uint64_t kelpie_sim_hash(const struct kelpie_sim *sim) {
    sim_api_check(sim);
    ASSERT(sim->world);
    return sim->world->log.hash;
}

uint64_t kelpie_sim_event_count(const struct kelpie_sim *sim) {
    sim_api_check(sim);
    ASSERT(sim->world);
    return sim->world->event_count;
}
