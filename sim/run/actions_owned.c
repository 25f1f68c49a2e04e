/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * VMs with an owner of their own (kelpie_store.h): what only they have, and what is left of them.
 *
 * Such a VM is used by the steps like any other. It goes on when its user is killed, and its owner may be killed instead. Other
 * processes have handles of it, too: clients, which run commands, and are killed in the middle. They change no state and no file, so
 * that the history of the VM's first handle must still hold; what comes out of their commands is compared on the spot.
 */
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "kelpie_store.h"
#include "sim/run/scenario.h"

#define CLIENT_TURN_COUNT_MAX 6
#define CLIENT_PAUSE_MS_MAX 50
#define SOCKETS_OLD_NS                                                                             \
    (INT64_C(30) * 24 * 3600 * 1000000000) /* however often the clock was set back */
#define OWNERS_END_S_MAX 120               /* until those of VMs that are gone have gone, too */
#define LOOK_MS 100
#define LIST_COUNT_MAX 64
#define KILL_SIGNAL 9
#define OWNER_PROGRAM "kelpie"
#define STATE_FOLDER SCENARIO_FOLDER "/.local/state/kelpie/vms"
#define SOCKET_FOLDER "/run/user/1000/kelpie"
#define ARGV(...) ((const char *const[]){__VA_ARGS__, NULL})

bool owned_is(const struct scenario *scenario, uint32_t vm) {
    ASSERT(vm < scenario->plan.vm_count);
    ASSERT(scenario->plan.vm_count <= STEPS_VM_COUNT_MAX);
    return scenario->plan.features[vm] & STEPS_FEATURE_OWNED;
}

/* ---- Detached commands ------------------------------------------------------------------------ */

/* What the owner has read and written down: each piece is there once, from its offset on. */
static void read_log(struct scenario *scenario, struct host *host, const char *name) {
    struct kelpie_error err = {0};
    struct kelpie_log *log = NULL;
    struct kelpie_log_entry entry = {0};
    ASSERT(name[0]);
    ASSERT(host);
    enum kelpie_status status = kelpie_log_open(host, name, &log, &err);
    actions_expect_clear(scenario, "log open", status, &err);
    for (uint32_t i = 0; status == KELPIE_OK && i < LIST_COUNT_MAX; i++) {
        status = kelpie_log_read(log, 0, &entry, &err);
        if (status == KELPIE_OK && entry.stream == KELPIE_STREAM_STDOUT &&
            entry.offset + entry.size > 0 && entry.offset == 0 && entry.data[0] != 'w') {
            actions_fail_bytes(scenario, "wrong bytes: a log begins with \"%.8s\"", entry.data);
        }
    }
    kelpie_log_close(log);
}

static void run_detached(struct scenario *scenario, struct scenario_vm *slot, struct host *host,
                         uint32_t value) {
    struct kelpie_error err = {0};
    struct kelpie_exit ended = {0};
    struct kelpie_stats stats = {0};
    uint32_t id = 0;
    const struct kelpie_command command = {.argv = ARGV("echo", "words of a detached command")};
    ASSERT(slot->vm);
    ASSERT(slot->name[0]);
    enum kelpie_status status = kelpie_vm_run_detached(slot->vm, &command, &id, &err);
    actions_expect_clear(scenario, "run detached", status, &err);
    err = (struct kelpie_error){0};
    status = kelpie_vm_wait_detached(slot->vm, 1 + value % SCENARIO_TIMEOUT_MS, &ended, &err);
    actions_expect_clear(scenario, "wait detached", status, &err);
    err = (struct kelpie_error){0};
    status = kelpie_vm_stats(slot->vm, &stats, &err);
    actions_expect_clear(scenario, "stats", status, &err);
    read_log(scenario, host, slot->name);
}

/* ---- Clients ---------------------------------------------------------------------------------- */

/* The words that came back are those that went. */
static void check_echo(struct scenario *scenario, const struct history *history) {
    ASSERT(history->op_count <= HISTORY_OP_COUNT_MAX);
    ASSERT(scenario->world);
    if (history->op_count == 0) {
        return;
    }
    const struct model_op *op = &history->ops[history->op_count - 1].op;
    if (op->kind == MODEL_EXEC_ECHO && op->ended && op->status == KELPIE_OK &&
        op->value != op->id) {
        actions_fail_bytes(scenario, "wrong bytes: a client's echo of %u is %u", op->id, op->value);
    }
}

static void client_turn(struct scenario_client *client, struct host *host, uint32_t value) {
    static const enum steps_action actions[] = {
        STEPS_EXEC_ECHO, STEPS_EXEC_LARGE, STEPS_EXEC_TIMEOUT, STEPS_STREAM, STEPS_TERMINAL,
        STEPS_DETACH,    STEPS_ATTACH,     STEPS_PING,         STEPS_STATE,  STEPS_WAIT,
        STEPS_LOOK,      STEPS_CANCEL,     STEPS_DETACHED,
    };
    const struct steps_step step = {.action = actions[value % ARRAY_SIZE(actions)],
                                    .value = value / ARRAY_SIZE(actions)};
    struct kelpie_error ignored;
    ASSERT(client->slot.vm);
    ASSERT(client->scenario);
    if (step.action == STEPS_DETACHED) {
        run_detached(client->scenario, &client->slot, host, step.value);
    } else {
        actions_on(client->scenario, &client->slot, &step);
    }
    check_echo(client->scenario, &client->slot.history);
    struct host_wait wait = host_wait_ms(host, value % CLIENT_PAUSE_MS_MAX, HOST_FD_NONE);
    (void)!host_sleep(host, &wait, &ignored);
}

static int client_main(void *argument) {
    struct scenario_client *client = argument;
    struct scenario_vm *slot = &client->slot;
    struct kelpie_error err = {0};
    struct host *host = &client->scenario->world->current->process->host;
    uint32_t value = client->value;
    ASSERT(!slot->vm);
    ASSERT(client->name[0]);
    enum kelpie_status status = kelpie_vm_open(host, client->name, &slot->vm, &err);
    actions_expect_clear(client->scenario, "open", status, &err);
    if (status != KELPIE_OK) {
        return 0;
    }
    slot->users = 1;
    slot->interrupting = slot->interrupt_count = 1; /* by the others, at any time */
    history_init(&slot->history, true);
    for (uint32_t i = 0; i < 1 + client->value % CLIENT_TURN_COUNT_MAX; i++) {
        client_turn(client, host, value >> 8);
        value = value * 1664525u + 1013904223u; /* Numerical Recipes' generator */
    }
    kelpie_vm_close(slot->vm);
    return 0;
}

static void client_start(struct scenario *scenario, const struct scenario_vm *slot,
                         uint32_t value) {
    struct scenario_client *client = NULL;
    for (size_t i = 0; i < SCENARIO_CLIENT_COUNT_MAX && !client; i++) {
        struct sim_process *process = scenario->clients[i].process;
        if (!process || process->ended) {
            client = &scenario->clients[i];
        }
    }
    ASSERT(slot->name[0]);
    if (!client) {
        return;
    }
    if (client->process) {
        sim_process_forget(client->process);
    }
    memset(client, 0, sizeof(*client));
    client->scenario = scenario;
    client->value = value;
    memcpy(client->name, slot->name, sizeof(client->name));
    memcpy(client->slot.name, slot->name, sizeof(slot->name));
    const struct sim_process_options options = {
        .name = "client", .main = client_main, .argument = client, .client = true};
    client->process = sim_process_start(scenario->machine, &options);
    ASSERT(client->process || scenario->world);
}

void owned_do(struct scenario *scenario, struct scenario_vm *slot, const struct steps_step *step) {
    ASSERT(slot->vm);
    ASSERT(step->action == STEPS_DETACHED || step->action == STEPS_CLIENT);
    if (!owned_is(scenario, step->vm)) {
        return;
    }
    if (step->action == STEPS_DETACHED) {
        run_detached(scenario, slot, scenario->host, step->value);
    } else {
        client_start(scenario, slot, step->value);
    }
}

/* ---- What an owner before this one left ------------------------------------------------------- */

static void use_once(struct scenario *scenario, const char *name) {
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = NULL;
    struct kelpie_output output = {0};
    const struct kelpie_command command = {.argv = ARGV("echo", "here"),
                                           .timeout_ms = SCENARIO_TIMEOUT_MS};
    ASSERT(name[0]);
    ASSERT(scenario->host);
    enum kelpie_status status = kelpie_vm_open(scenario->host, name, &vm, &err);
    actions_expect_clear(scenario, "open", status, &err);
    if (status != KELPIE_OK) {
        return;
    }
    err = (struct kelpie_error){0};
    status = kelpie_vm_exec(vm, &command, &output, &err);
    actions_expect_clear(scenario, "exec", status, &err);
    if (status == KELPIE_OK && output.exit.code == 0 && strcmp(output.stdout_data, "here\n") != 0 &&
        scenario->world->faults.fired[SIM_FAULT_MEMORY_NONE] == 0) {
        actions_fail_bytes(scenario, "wrong bytes: a VM that was left says \"%.40s\"",
                           output.stdout_data);
    }
    kelpie_output_free(&output);
    kelpie_vm_close(vm);
}

void owned_revisit(struct scenario *scenario) {
    ASSERT(scenario->host);
    ASSERT(scenario->plan.vm_count <= STEPS_VM_COUNT_MAX);
    for (uint32_t i = 0; i < scenario->plan.vm_count; i++) {
        const char *name = scenario->vms[i].name;
        struct kelpie_error err = {0};
        if (!name[0]) {
            continue;
        }
        if (scenario->owner_count % 2 == 0) {
            use_once(scenario, name);
        }
        enum kelpie_status status = kelpie_vm_remove(scenario->host, name, true, &err);
        actions_expect_clear(scenario, "remove", status, &err);
    }
}

/* ---- At rest ---------------------------------------------------------------------------------- */

/* One that hangs is left alone, unless `all` are to end. */
static void await_clients(struct scenario *scenario, bool all) {
    ASSERT(scenario->world->faults.quiet);
    ASSERT(scenario->host);
    for (size_t i = 0; i < SCENARIO_CLIENT_COUNT_MAX; i++) {
        struct sim_process *process = scenario->clients[i].process;
        if (process && (all || !process->hung)) {
            if (process->hung) {
                sim_process_kill(process, 9);
            }
            sim_process_await(process);
            sim_process_forget(process);
            scenario->clients[i].process = NULL;
        }
    }
}

static bool some_client(const struct scenario *scenario) {
    ASSERT(scenario->machine);
    size_t count = 0;
    for (size_t i = 0; i < SCENARIO_CLIENT_COUNT_MAX; i++) {
        count += scenario->clients[i].process != NULL;
    }
    ASSERT(count <= SCENARIO_CLIENT_COUNT_MAX);
    return count > 0;
}

/* A process that has a VM; NULL: none is left. */
static struct sim_process *some_owner(const struct scenario *scenario) {
    struct sim_process *process = scenario->world->processes;
    ASSERT(scenario->machine);
    while (process && (process->ended || process->machine != scenario->machine ||
                       strcmp(process->program, OWNER_PROGRAM) != 0)) {
        process = process->next;
    }
    ASSERT(!process || !process->owner);
    return process;
}

/* What is left can be removed, and was no VM that runs without an owner. Two cannot yet: what a client that hangs was about to start an
 * owner for, and whose record cannot be read while its owner lives. */
static void remove_all(struct scenario *scenario) {
    struct kelpie_error err = {0};
    struct kelpie_vm_info *list = NULL;
    size_t count = 0;
    ASSERT(scenario->world->faults.quiet);
    enum kelpie_status status = kelpie_vm_list(scenario->host, &list, &count, &err);
    if (status != KELPIE_OK) {
        sim_world_fail(scenario->world, "not at rest: list of VMs: %.300s", err.message);
        return;
    }
    ASSERT(count <= LIST_COUNT_MAX * LIST_COUNT_MAX);
    for (size_t i = 0; i < count; i++) {
        err = (struct kelpie_error){0};
        if (list[i].owner_pid == 0 &&
            (list[i].state == KELPIE_STATE_RUNNING || list[i].state == KELPIE_STATE_PAUSED)) {
            sim_world_fail(scenario->world, "wrong state: %.60s has no owner, and is %s",
                           list[i].name, kelpie_state_name(list[i].state));
        }
        status = kelpie_vm_remove(scenario->host, list[i].name, true, &err);
        bool held =
            status == KELPIE_BUSY &&
            (some_client(scenario) || (list[i].status != KELPIE_OK && some_owner(scenario)));
        if (status != KELPIE_OK && status != KELPIE_NOT_FOUND && !held) {
            sim_world_fail(scenario->world, "not at rest: remove of %.60s: %s: %.300s",
                           list[i].name, kelpie_status_name(status), err.message);
        }
    }
    kelpie_list_free(list);
}

static void await_owners(struct scenario *scenario) {
    struct kelpie_error ignored;
    ASSERT(scenario->host);
    ASSERT(scenario->world->faults.quiet);
    for (uint32_t i = 0; some_owner(scenario) && i < OWNERS_END_S_MAX * 1000 / LOOK_MS; i++) {
        struct host_wait wait = host_wait_ms(scenario->host, LOOK_MS, HOST_FD_NONE);
        (void)!host_sleep(scenario->host, &wait, &ignored);
    }
}

/* Owners whose VM's record cannot be read: nobody can ask them, so their user ends them, and removes the VM then. */
static void end_unreachable(struct scenario *scenario) {
    ASSERT(scenario->world->faults.quiet);
    ASSERT(scenario->world->faults.fired[SIM_FAULT_FILE_BAD_SECTOR] > 0);
    /* Bounded: each turn ends one. */
    for (struct sim_process *p = some_owner(scenario); p; p = some_owner(scenario)) {
        sim_process_kill(p, KILL_SIGNAL);
    }
    remove_all(scenario);
}

static void expect_empty(struct scenario *scenario, const char *path) {
    struct host_dir_entry entries[LIST_COUNT_MAX];
    size_t count = 0;
    ASSERT(path[0] == '/');
    ASSERT(scenario->world->faults.quiet);
    if (sim_fs_list(scenario->machine->fs, path, entries, LIST_COUNT_MAX, &count) == 0 &&
        count > 0) {
        sim_world_fail(scenario->world, "left behind: %s/%.60s", path, entries[0].name);
    }
}

/* On a disk that has bad sectors, one is in a VM's record: seldom would it lie there by itself when all has come to rest. */
static void spoil_record(struct scenario *scenario) {
    struct sim_fs *fs = scenario->machine->fs;
    struct host_dir_entry entries[LIST_COUNT_MAX];
    size_t count = 0;
    char path[sizeof(STATE_FOLDER) + sizeof(entries[0].name) + sizeof("/record.json")];
    struct sim_inode *inode = NULL;
    ASSERT(scenario->world->faults.quiet);
    ASSERT(scenario->world->faults.fired[SIM_FAULT_FILE_BAD_SECTOR] > 0);
    if (sim_fs_list(fs, STATE_FOLDER, entries, LIST_COUNT_MAX, &count) != 0) {
        return;
    }
    for (size_t i = 0; i < count; i++) {
        snprintf(path, sizeof(path), "%s/%s/record.json", STATE_FOLDER, entries[i].name);
        if (sim_fs_open(fs, path, HOST_OPEN_READ, 0, &inode) == 0) {
            sim_inode_spoil(inode, 0);
            sim_inode_release(inode);
            return;
        }
    }
}

void owned_rest(struct scenario *scenario) {
    struct kelpie_error err = {0};
    struct kelpie_prune_report report = {0};
    const struct kelpie_prune_options options = {.vms = true};
    ASSERT(scenario->world->faults.quiet);
    ASSERT(scenario->host);
    await_clients(scenario, false);
    if (scenario->name_last == 0) {
        return;
    }
    if (scenario->world->faults.fired[SIM_FAULT_FILE_BAD_SECTOR] > 0) {
        spoil_record(scenario);
    }
    remove_all(scenario);
    if (some_client(scenario)) {
        await_clients(scenario, true);
        remove_all(scenario);
    }
    await_owners(scenario);
    if (scenario->world->faults.fired[SIM_FAULT_FILE_BAD_SECTOR] > 0) {
        end_unreachable(scenario);
    }
    /* A socket that nobody could remove, or whose VM nobody could read, is removed when it is old. */
    scenario->machine->realtime_offset_ns += SOCKETS_OLD_NS;
    enum kelpie_status status = kelpie_prune(scenario->host, &options, &report, &err);
    if (status != KELPIE_OK) {
        sim_world_fail(scenario->world, "not at rest: prune: %s: %.300s",
                       kelpie_status_name(status), err.message);
    }
    expect_empty(scenario, STATE_FOLDER);
    expect_empty(scenario, SOCKET_FOLDER);
}
