/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* kelpie_sim_internal.h: what the files behind kelpie_sim.h share. */
#ifndef KELPIE_SIM_KELPIE_SIM_INTERNAL_H
#define KELPIE_SIM_KELPIE_SIM_INTERNAL_H

#include "kelpie_sim.h"
#include "sim/world.h"

#define SIM_API_MAGIC 0x6b73696du

/* A thread, mutex or condition that a run handed out. Those that are left when it ends are freed then. */
struct sim_api_tool {
    struct kelpie_sim *sim;
    struct sim_api_tool *next;
};

struct kelpie_sim {
    uint32_t magic;
    struct sim_world *world;
    struct sim_machine *machine;
    struct sim_process *process; /* of the run; NULL: none */
    struct sim_api_tool *tools;
    kelpie_sim_entry entry;
    void *argument;
    kelpie_sim_line line;
    void *line_argument;
    bool telling; /* the line function is being called */
    bool owner_faults;
    uint64_t event_count_max; /* of one run */
    uint64_t choice_count;
};

void sim_api_check(const struct kelpie_sim *sim);

/* OK: the caller is a thread of the run. */
enum kelpie_status sim_api_inside(const struct kelpie_sim *sim, const char *what,
                                  struct kelpie_error *err);

/* size bytes that begin with a struct sim_api_tool. NULL: no memory. */
void *sim_api_tool_create(struct kelpie_sim *sim, size_t size, struct kelpie_error *err);
void sim_api_tool_destroy(struct sim_api_tool *tool);

/* All rates by the seed; those of owners only when wanted. */
void sim_api_draw(struct kelpie_sim *sim, uint32_t intensity_ppm);

#endif
