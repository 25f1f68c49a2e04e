/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Machines: their clocks, their disks, the networks between them, and power loss. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "sim/world.h"

#define BOOT_REALTIME_NS 1790000000000000000ull /* in 2026 */
#define CRASH_DRAWS 2
#define RUNTIME_FOLDER "/run/user/1000/kelpie" /* of $XDG_RUNTIME_DIR, which furnish.c makes */

/* What the machine has from its start on: the same clocks and disk after a crash. */
static void draw_clock(struct sim_machine *machine) {
    struct sim_world *world = machine->world;
    ASSERT(machine->index < SIM_MACHINE_COUNT_MAX);
    machine->origin_ns = 0;
    machine->realtime_offset_ns = (int64_t)BOOT_REALTIME_NS;
    if (sim_faults_ask(&world->faults, SIM_FAULT_CLOCK_SKEWED)) {
        machine->skew_ppm =
            (int32_t)sim_choose(&world->choices, 2 * SIM_SKEW_PPM_MAX + 1) - SIM_SKEW_PPM_MAX;
    }
    machine->unnamed_files = !sim_faults_ask(&world->faults, SIM_FAULT_FILE_UNNAMED_UNSUPPORTED);
    ASSERT(machine->skew_ppm >= -SIM_SKEW_PPM_MAX && machine->skew_ppm <= SIM_SKEW_PPM_MAX);
}

struct sim_machine *sim_machine_create(struct sim_world *world, const char *name) {
    ASSERT(world && name);
    ASSERT(strlen(name) <= SIM_NAME_SIZE_MAX);
    if (world->machine_count == SIM_MACHINE_COUNT_MAX) {
        return NULL;
    }
    struct sim_machine *machine = calloc(1, sizeof(*machine));
    struct sim_fs *fs = sim_fs_create(SIM_FS_CAPACITY_DEFAULT);
    if (!machine || !fs) {
        free(machine);
        if (fs) {
            sim_fs_destroy(fs);
        }
        return NULL;
    }
    machine->world = world;
    machine->fs = fs;
    machine->up = true;
    machine->index = world->machine_count;
    snprintf(machine->name, sizeof(machine->name), "%s", name);
    world->machines[world->machine_count++] = machine;
    draw_clock(machine);
    return machine;
}

void sim_machine_destroy(struct sim_machine *machine) {
    ASSERT(machine);
    ASSERT(!machine->listeners);
    sim_fs_destroy(machine->fs);
    free(machine);
}

/* ---- Clocks ----------------------------------------------------------------------------------- */

__extension__ typedef unsigned __int128 wide;

uint64_t sim_machine_monotonic_ns(const struct sim_machine *machine) {
    uint64_t elapsed_ns = machine->world->now_ns - machine->origin_ns;
    ASSERT(machine->world->now_ns >= machine->origin_ns);
    ASSERT(machine->skew_ppm > -(int32_t)SIM_PPM);
    uint64_t rate = (uint64_t)((int64_t)SIM_PPM + machine->skew_ppm);
    return rate == SIM_PPM ? elapsed_ns : (uint64_t)((wide)elapsed_ns * rate / SIM_PPM);
}

uint64_t sim_machine_realtime_ns(const struct sim_machine *machine) {
    int64_t now_ns = (int64_t)sim_machine_monotonic_ns(machine) + machine->realtime_offset_ns;
    ASSERT(now_ns > 0);
    ASSERT(machine->world);
    return (uint64_t)now_ns;
}

uint64_t sim_machine_true_ns(const struct sim_machine *machine, uint64_t monotonic_ns) {
    ASSERT(machine->world);
    ASSERT(machine->skew_ppm > -(int32_t)SIM_PPM);
    if (monotonic_ns >= UINT64_MAX / 4) {
        return UINT64_MAX;
    }
    uint64_t rate = (uint64_t)((int64_t)SIM_PPM + machine->skew_ppm);
    /* Rounded up: at that true time the machine's clock has come to the deadline. */
    wide elapsed_ns = ((wide)monotonic_ns * SIM_PPM + rate - 1) / rate;
    return machine->origin_ns + (uint64_t)elapsed_ns;
}

/* ---- Power loss ------------------------------------------------------------------------------- */

static uint32_t crash_rate(struct sim_world *world, enum sim_fault fault) {
    ASSERT((unsigned)fault < SIM_FAULT_COUNT);
    ASSERT(CRASH_DRAWS > 0);
    return world->faults.quiet ? 0 : world->faults.ppm[fault];
}

/* What the file system says that happened is what fired: it asks of each page and name itself. */
static void note_crash(struct sim_world *world, const struct sim_fs_crash_counts *counts) {
    const struct {
        enum sim_fault fault;
        uint64_t count;
    } notes[] = {
        {SIM_FAULT_CRASH_LOSES_DATA, counts->lost_data},
        {SIM_FAULT_CRASH_TEARS_DATA, counts->torn_data},
        {SIM_FAULT_CRASH_LOSES_NAMES, counts->lost_names},
        {SIM_FAULT_CRASH_REORDERS_NAMES, counts->reordered_names},
    };
    ASSERT(world);
    static_assert(ARRAY_SIZE(notes) > 0, "each is noted");
    for (size_t i = 0; i < ARRAY_SIZE(notes); i++) {
        world->faults.asked[notes[i].fault] += 1;
        world->faults.fired[notes[i].fault] += notes[i].count > 0;
        sim_log_add(&world->log, 0, SIM_EVENT_MACHINE_CRASHES, notes[i].count);
    }
}

/* A machine that boots has an empty tmpfs at /run: no socket is there but those that are made then. */
static void empty_runtime_folder(struct sim_fs *fs) {
    struct host_dir_entry entry;
    int os_error = 0;
    ASSERT(fs);
    ASSERT(sim_fs_open_count(fs) == 0);
    /* Ends: each round takes out an entry. */
    while (os_error == 0 && sim_fs_first(fs, RUNTIME_FOLDER, &entry) == 0) {
        char path[sizeof(RUNTIME_FOLDER) + 1 + sizeof(entry.name)];
        snprintf(path, sizeof(path), RUNTIME_FOLDER "/%s", entry.name);
        os_error = sim_fs_unlink(fs, path);
    }
}

void sim_machine_crash(struct sim_machine *machine) {
    struct sim_world *world = machine->world;
    ASSERT(machine->up);
    sim_log_add(&world->log, 0, SIM_EVENT_MACHINE_CRASHES, machine->index);
    if (world->log.line) {
        sim_log_print(&world->log, "%14.6f ms  %s: the power goes", (double)world->now_ns / 1e6,
                      machine->name);
    }
    for (struct sim_process *p = world->processes; p; p = p->next) {
        if (p->machine == machine && !p->ended) {
            sim_process_end(p, 9);
        }
    }
    const struct sim_fs_crash crash = {
        .lose_data_ppm = crash_rate(world, SIM_FAULT_CRASH_LOSES_DATA),
        .tear_data_ppm = crash_rate(world, SIM_FAULT_CRASH_TEARS_DATA),
        .lose_name_ppm = crash_rate(world, SIM_FAULT_CRASH_LOSES_NAMES),
        .reorder_ppm = crash_rate(world, SIM_FAULT_CRASH_REORDERS_NAMES),
    };
    struct sim_fs_crash_counts counts = {0};
    ASSERT(sim_fs_open_count(machine->fs) == 0);
    sim_fs_crash(machine->fs, &world->choices, &crash, &counts);
    empty_runtime_folder(machine->fs);
    note_crash(world, &counts);
    if (world->zombie) {
        sim_fiber_leave(world);
    }
}

/* ---- What happens by itself ------------------------------------------------------------------- */

uint64_t sim_cut_until(const struct sim_world *world, const struct sim_machine *from,
                       const struct sim_machine *to) {
    ASSERT(from && to);
    ASSERT(from->index < SIM_MACHINE_COUNT_MAX && to->index < SIM_MACHINE_COUNT_MAX);
    uint64_t until_ns = world->cut_until_ns[from->index][to->index];
    return until_ns > world->now_ns ? until_ns : 0;
}

static void step_network(struct sim_world *world, enum sim_fault fault) {
    ASSERT(world->machine_count > 1);
    ASSERT(fault == SIM_FAULT_NETWORK_CUT || fault == SIM_FAULT_NETWORK_CUT_ONE_WAY);
    if (!sim_faults_ask(&world->faults, fault)) {
        return;
    }
    size_t from = sim_choose(&world->choices, world->machine_count);
    size_t to =
        (from + 1 + sim_choose(&world->choices, world->machine_count - 1)) % world->machine_count;
    uint64_t until_ns = world->now_ns + 1 + sim_choose(&world->choices, SIM_CUT_NS_MAX);
    world->cut_until_ns[from][to] = until_ns;
    if (fault == SIM_FAULT_NETWORK_CUT) {
        world->cut_until_ns[to][from] = until_ns;
    }
    sim_log_add(&world->log, 0, SIM_EVENT_STEP, from << 8 | to);
    sim_wake(&world->cut_changed);
}

void sim_world_step(struct sim_world *world) {
    ASSERT(!world->current);
    ASSERT(world->machine_count <= SIM_MACHINE_COUNT_MAX);
    for (size_t i = 0; i < world->machine_count; i++) {
        uint64_t jump_ns = sim_choose(&world->choices, SIM_CLOCK_JUMP_NS_MAX);
        if (sim_faults_ask(&world->faults, SIM_FAULT_CLOCK_JUMPS_AHEAD)) {
            world->machines[i]->realtime_offset_ns += (int64_t)jump_ns;
        }
        if (sim_faults_ask(&world->faults, SIM_FAULT_CLOCK_JUMPS_BACK)) {
            world->machines[i]->realtime_offset_ns -= (int64_t)jump_ns;
        }
    }
    if (world->machine_count > 1) {
        step_network(world, SIM_FAULT_NETWORK_CUT);
        step_network(world, SIM_FAULT_NETWORK_CUT_ONE_WAY);
    }
}
