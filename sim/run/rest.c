/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* When faults have ended: everything comes to rest, and nothing is left that should not be. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "sim/run/scenario.h"

#define REST_NS_MAX 3600000000000ull /* an hour of the world: far more than all timeouts together */
#define BEFORE_COUNT_MAX 256
#define ARGV(...) ((const char *const[]){__VA_ARGS__, NULL})

/* A status that must be OK now that nothing goes wrong. */
static bool must(struct scenario *scenario, const char *what, const char *on,
                 enum kelpie_status status, const struct kelpie_error *err) {
    ASSERT(what);
    ASSERT(on);
    actions_expect_clear(scenario, what, status, err);
    if (status != KELPIE_OK) {
        sim_world_fail(scenario->world, "not at rest: %s of %s: %s: %.300s", what, on,
                       kelpie_status_name(status), err->message);
    }
    return status == KELPIE_OK;
}

/* None was told to be silent, and nothing that it said or heard was lost. */
static bool guests_answer(const struct scenario *scenario) {
    static const enum sim_fault excuses[] = {
        SIM_FAULT_GUEST_SILENT,      SIM_FAULT_GUEST_HOSTILE,      SIM_FAULT_GUEST_SLOW,
        SIM_FAULT_GUEST_DIES,        SIM_FAULT_PROCESS_HANGS,      SIM_FAULT_PEER_SILENT,
        SIM_FAULT_STREAM_RESET,      SIM_FAULT_PEER_REFUSES,       SIM_FAULT_PEER_SLOW,
        SIM_FAULT_STREAM_READ_FAILS, SIM_FAULT_STREAM_WRITE_FAILS,
    };
    bool answer = true;
    ASSERT(scenario->world);
    ASSERT(ARRAY_SIZE(excuses) > 0);
    for (size_t i = 0; i < ARRAY_SIZE(excuses); i++) {
        answer = answer && scenario->world->faults.fired[excuses[i]] == 0;
    }
    return answer;
}

/* No call is under way: the VM is in a state that lasts, and says whether it is of use. */
static void look_at(struct scenario *scenario, uint32_t vm) {
    struct scenario_vm *slot = &scenario->vms[vm];
    struct kelpie_error err = {0};
    uint64_t ns = 0;
    ASSERT(slot->users == 0);
    if (!slot->vm) {
        return;
    }
    enum kelpie_state state = kelpie_vm_state(slot->vm);
    if (state == KELPIE_STATE_STARTING) {
        sim_world_fail(scenario->world, "not at rest: VM %u is starting, and nobody starts it", vm);
    }
    if (state == KELPIE_STATE_RUNNING) {
        enum kelpie_status status = kelpie_vm_ping(slot->vm, &ns, &err);
        actions_expect_clear(scenario, "ping", status, &err);
        if (status == KELPIE_TIMED_OUT && guests_answer(scenario)) {
            sim_world_fail(scenario->world, "not at rest: VM %u is running, and does not answer",
                           vm);
        }
    }
    actions_destroy(scenario, vm);
    ASSERT(!slot->vm);
}

/* ---- Bundles ---------------------------------------------------------------------------------- */

/* Restores it and compares what the guest holds with what the bundle may hold. */
static void restore_bundle(struct scenario *scenario, uint32_t number) {
    struct scenario_bundle *bundle = &scenario->bundles[number];
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = NULL;
    struct kelpie_config config = actions_config(scenario, bundle->vm);
    const struct kelpie_restore_options options = {.verify_memory = true,
                                                   .allow_incomplete = !bundle->quiesced};
    ASSERT(bundle->backend);
    ASSERT(scenario->world->faults.quiet);
    enum kelpie_status status =
        kelpie_vm_create_from_snapshot(bundle->path, &config, &options, &vm, &err);
    if (status == KELPIE_OK && bundle->none_left &&
        scenario->world->faults.fired[SIM_FAULT_PATH_RENAME_FAILS] == 0) {
        sim_world_fail(scenario->world, "a bundle of a snapshot that failed: %s", bundle->path);
    }
    /* A machine on which /dev/kvm came or went is another one for whoever notes how it ran. */
    bool other = status == KELPIE_SNAPSHOT_INCOMPATIBLE &&
                 scenario->world->faults.fired[SIM_FAULT_KVM_PROBE_FAILS] > 0;
    bool acknowledged = bundle->state == SCENARIO_BUNDLE_DONE && !other;
    if (acknowledged ? must(scenario, "restore", bundle->path, status, &err)
                     : status == KELPIE_OK) {
        actions_compare_with_bundle(scenario, vm, number);
        identity_check(scenario, vm);
    } else if (!acknowledged && !other && status != KELPIE_NOT_FOUND) {
        sim_world_fail(scenario->world, "half a bundle: %s: %s: %.300s", bundle->path,
                       kelpie_status_name(status), err.message);
    }
    kelpie_vm_destroy(vm);
}

/* ---- Fresh VMs -------------------------------------------------------------------------------- */

static void use_fresh(struct scenario *scenario, uint32_t number) {
    struct kelpie_vm *vm = NULL;
    struct kelpie_error err = {0};
    struct kelpie_output output = {0};
    const struct kelpie_config config = actions_config(scenario, number);
    const char *backend = config.backend;
    const struct kelpie_command command = {.argv = ARGV("echo", "fresh"),
                                           .timeout_ms = SCENARIO_TIMEOUT_MS};
    ASSERT(backend);
    ASSERT(scenario->world->faults.quiet);
    enum kelpie_status status = kelpie_vm_create(&config, &vm, &err);
    if (status == KELPIE_TIMED_OUT && owned_is(scenario, number) &&
        scenario->world->faults.fired[SIM_FAULT_PROCESS_HANGS] > 0) {
        return; /* an owner that nobody waits for any more waits for who hangs, and has the lock of a file of all */
    }
    if (must(scenario, "create", backend, status, &err) &&
        must(scenario, "start", backend, kelpie_vm_start(vm, &err), &err) &&
        must(scenario, "exec", backend, kelpie_vm_exec(vm, &command, &output, &err), &err) &&
        must(scenario, "stop", backend, kelpie_vm_stop(vm, 0, &err), &err)) {
        if (strcmp(output.stdout_data, "fresh\n") != 0) {
            actions_fail_bytes(scenario, "wrong bytes: a fresh VM says \"%.40s\"",
                               output.stdout_data);
        }
    }
    kelpie_output_free(&output);
    kelpie_vm_destroy(vm);
}

/* ---- Leftovers -------------------------------------------------------------------------------- */

/* The names that a run may leave in the owner's folder. */
static bool is_known(const char *name) {
    static const char *const beginnings[] = {"bundle-", "in-", "out-", ".cache", ".local"};
    ASSERT(name);
    ASSERT(ARRAY_SIZE(beginnings) > 0);
    for (size_t i = 0; i < ARRAY_SIZE(beginnings); i++) {
        if (strncmp(name, beginnings[i], strlen(beginnings[i])) == 0 && !strstr(name, ".tmp") &&
            !strstr(name, ".partial")) {
            return true;
        }
    }
    return false;
}

/* A temporary name stays only where nobody could take it away. */
static void look_for_leftovers(struct scenario *scenario) {
    struct host_dir_entry *entries = calloc(BEFORE_COUNT_MAX, sizeof(*entries));
    size_t count = 0;
    bool excused = scenario->owner_count > 1 ||
                   scenario->world->faults.fired[SIM_FAULT_VM_OWNER_KILLED] > 0 ||
                   scenario->world->faults.fired[SIM_FAULT_PATH_UNLINK_FAILS] > 0 ||
                   scenario->world->faults.fired[SIM_FAULT_PATH_LIST_FAILS] > 0 ||
                   scenario->world->faults.fired[SIM_FAULT_PATH_STAT_FAILS] > 0 ||
                   scenario->world->faults.fired[SIM_FAULT_MEMORY_NONE] > 0;
    ASSERT(scenario->machine);
    if (entries && sim_fs_list(scenario->machine->fs, SCENARIO_FOLDER, entries, BEFORE_COUNT_MAX,
                               &count) == 0) {
        for (size_t i = 0; i < count && !excused; i++) {
            if (!is_known(entries[i].name)) {
                sim_world_fail(scenario->world, "left behind: %s", entries[i].name);
            }
        }
    }
    ASSERT(count <= BEFORE_COUNT_MAX);
    free(entries);
}

void rest_check(struct scenario *scenario) {
    struct sim_world *world = scenario->world;
    ASSERT(world->faults.quiet);
    ASSERT(scenario->host);
    uint64_t start_ns = world->now_ns;
    /* What was damaged is repaired, as whoever looks after such a machine would. */
    if (!sim_machine_repair(scenario->machine)) {
        return;
    }
    for (uint32_t i = 0; i < scenario->plan.vm_count; i++) {
        look_at(scenario, i);
    }
    bool damaged = world->faults.fired[SIM_FAULT_FILE_BAD_SECTOR] > 0;
    for (uint32_t i = 0; i < scenario->bundle_count && !damaged; i++) {
        restore_bundle(scenario, i);
    }
    for (uint32_t i = 0; i < scenario->plan.vm_count; i++) {
        use_fresh(scenario, i);
    }
    owned_rest(scenario);
    look_for_leftovers(scenario);
    if (world->now_ns - start_ns > REST_NS_MAX) {
        sim_world_fail(world, "not at rest: it took %llu s",
                       (unsigned long long)((world->now_ns - start_ns) / HOST_NS_PER_S));
    }
}

void rest_check_machine(struct scenario *scenario) {
    struct sim_world *world = scenario->world;
    ASSERT(scenario->machine);
    ASSERT(world->machine_count > 0);
    for (const struct sim_process *p = world->processes; p; p = p->next) {
        if (p->machine == scenario->machine && !p->ended) {
            sim_world_fail(world, "orphan: %s[%d] lives on", p->program, p->id);
        }
    }
}
