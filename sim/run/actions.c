/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Steps on a VM's life, its files, and those that look. Commands are in actions_exec.c, bundles in actions_bundle.c. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "kelpie_store.h"
#include "sim/run/scenario.h"

#define SETTLE_MS 100
#define SMALL_MIB 64
#define CONSOLE_BYTES_MAX 2000
#define CALL_NS_MAX (300ull * HOST_NS_PER_S) /* more than its turn and its own timeouts */
#define CANCEL_NS_MAX (10ull * HOST_NS_PER_S)

/* ---- Calls ------------------------------------------------------------------------------------ */

void actions_interrupt_begin(struct scenario *scenario, struct scenario_vm *slot) {
    ASSERT(slot->vm);
    ASSERT(scenario->world);
    slot->interrupt_count++;
    slot->interrupting++;
    ASSERT(slot->interrupting <= slot->interrupt_count);
}

void actions_interrupt_end(struct scenario *scenario, struct scenario_vm *slot) {
    ASSERT(slot->interrupting > 0);
    ASSERT(slot->vm);
    ASSERT(scenario->world);
    slot->interrupting--;
}

static bool nothing_went_wrong(const struct scenario *scenario) {
    uint64_t fired = 0;
    ASSERT(scenario->world);
    ASSERT(SIM_FAULT_COUNT > 0);
    for (size_t i = 0; i < SIM_FAULT_COUNT; i++) {
        fired += scenario->world->faults.fired[i];
    }
    return fired == 0 && !scenario->lever_pulled;
}

/* These wait for their turn and for their machine, each as long as the config says. */
static bool is_bounded(enum model_kind kind) {
    ASSERT((unsigned)kind < MODEL_KIND_COUNT);
    static_assert(MODEL_START == 0 && MODEL_RESTORE == 5, "those of a VM's life are the first");
    return kind <= MODEL_RESTORE || kind == MODEL_PING;
}

/* What needs a fault, if nobody interrupted the call. Whoever is not alone may wait in vain in a VM that another paused. */
static bool needs_a_fault(enum model_kind kind, enum kelpie_status status, bool alone) {
    ASSERT((unsigned)kind < MODEL_KIND_COUNT);
    ASSERT((unsigned)status < KELPIE_STATUS_COUNT);
    bool waited = status == KELPIE_TIMED_OUT || status == KELPIE_BUSY;
    return status == KELPIE_INTERNAL || status == KELPIE_IO_FAILED || status == KELPIE_CRASHED ||
           (status == KELPIE_COPY_FAILED && alone) || status == KELPIE_SNAPSHOT_FAILED ||
           status == KELPIE_SNAPSHOT_CORRUPT || status == KELPIE_RESTORE_FAILED ||
           status == KELPIE_BOOT_FAILED || status == KELPIE_BOOT_TIMED_OUT ||
           (waited && kind <= MODEL_RESTORE);
}

/* Who could not wait once has lost the other: an owner its handles, or a handle its owner. */
static bool may_be_deaf(const struct scenario *scenario, const struct scenario_vm *slot) {
    ASSERT(scenario->world);
    ASSERT(slot->vm);
    return slot->name[0] && scenario->world->faults.fired[SIM_FAULT_POLL_FAILS] > 0;
}

static void calls_check(struct scenario *scenario, const struct scenario_vm *slot, size_t index,
                        enum kelpie_status status) {
    const struct scenario_call *call = &slot->calls[index];
    enum model_kind kind = slot->history.ops[index].op.kind;
    const char *name = model_kind_name(kind);
    uint64_t now_ns = scenario->world->now_ns;
    ASSERT(now_ns >= call->start_ns);
    ASSERT(call->interrupt_count <= slot->interrupt_count);
    ASSERT((unsigned)status < KELPIE_STATUS_COUNT);
    bool interrupted = call->interrupted || slot->interrupting > 0 ||
                       slot->interrupt_count != call->interrupt_count;
    /* An owner that cannot hear anybody ends, and what is under way with it. */
    bool deaf = may_be_deaf(scenario, slot);
    if (status == KELPIE_CANCELLED && !interrupted && !deaf) {
        sim_world_fail(scenario->world, "cancelled by nobody: %s", name);
    }
    if (is_bounded(kind) && now_ns - call->start_ns > CALL_NS_MAX) {
        sim_world_fail(scenario->world, "late: %s took %llu s", name,
                       (unsigned long long)((now_ns - call->start_ns) / HOST_NS_PER_S));
    }
    if (!nothing_went_wrong(scenario)) {
        return;
    }
    if (!interrupted && needs_a_fault(kind, status, scenario->plan.thread_count == 1)) {
        sim_world_fail(scenario->world, "without a fault: %s: %s", name,
                       kelpie_status_name(status));
    }
    if (slot->interrupted_ns > call->start_ns && now_ns - slot->interrupted_ns > CANCEL_NS_MAX) {
        sim_world_fail(scenario->world, "late: %s returned %llu s after it was cancelled", name,
                       (unsigned long long)((now_ns - slot->interrupted_ns) / HOST_NS_PER_S));
    }
}

/* ---- The model -------------------------------------------------------------------------------- */

size_t actions_begin(struct scenario *scenario, struct scenario_vm *slot,
                     const struct model_op *op) {
    ASSERT(op);
    ASSERT(slot->vm);
    size_t index = slot->blind ? HISTORY_FULL : history_begin(&slot->history, op);
    if (index != HISTORY_FULL) {
        slot->calls[index] = (struct scenario_call){scenario->world->now_ns, slot->interrupt_count,
                                                    slot->interrupting > 0};
    }
    sim_log_add(&scenario->world->log, (uint32_t)op->kind, SIM_EVENT_STEP, index);
    return index;
}

/* Nobody knows what became of a call whose answer did not come: because the owner of the VM's own is gone, or cannot be reached. */
static bool is_blinding(const struct scenario_vm *slot, const struct model_op *op,
                        enum kelpie_status status, uint32_t value) {
    ASSERT((unsigned)op->kind < MODEL_KIND_COUNT);
    ASSERT((unsigned)status < KELPIE_STATUS_COUNT);
    if (!slot->name[0]) {
        return false;
    }
    return op->kind == MODEL_STATE ? value == KELPIE_STATE_CRASHED
                                   : status != KELPIE_OK && status != KELPIE_WRONG_STATE;
}

void actions_end(struct scenario *scenario, struct scenario_vm *slot, size_t index,
                 enum kelpie_status status, uint32_t value) {
    ASSERT((unsigned)status < KELPIE_STATUS_COUNT);
    ASSERT(slot->vm);
    if (index != HISTORY_FULL) {
        calls_check(scenario, slot, index, status);
        slot->blind |= is_blinding(slot, &slot->history.ops[index].op, status, value);
    }
    if (index != HISTORY_FULL && !slot->blind) {
        history_end(&slot->history, index, status, value);
    }
    sim_log_add(&scenario->world->log, (uint32_t)status, SIM_EVENT_STEP, value);
}

static bool guests_are_honest(const struct scenario *scenario) {
    ASSERT(scenario->world);
    static_assert(SIM_FAULT_GUEST_HOSTILE < SIM_FAULT_COUNT, "it is in the table");
    return scenario->world->faults.fired[SIM_FAULT_GUEST_HOSTILE] == 0;
}

void actions_fail_bytes(struct scenario *scenario, const char *format, ...) {
    char text[RUN_REASON_SIZE / 2];
    va_list args;
    ASSERT(scenario->world);
    ASSERT(format);
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    if (guests_are_honest(scenario)) {
        sim_world_fail(scenario->world, "%s", text);
    }
}

static bool ends_with(const char *text, const char *end) {
    ASSERT(text);
    ASSERT(end[0] != '\0');
    size_t size = strlen(text);
    size_t end_size = strlen(end);
    return size >= end_size && strcmp(text + size - end_size, end) == 0;
}

void actions_expect_clear(struct scenario *scenario, const char *what, enum kelpie_status status,
                          const struct kelpie_error *err) {
    ASSERT(what);
    ASSERT(scenario->world);
    if (scenario->options->timeline) {
        fprintf(scenario->options->timeline, "             %s: %s%s%s\n", what,
                kelpie_status_name(status), status == KELPIE_OK ? "" : ": ",
                status == KELPIE_OK ? "" : err->message);
    }
    if (status == KELPIE_OK) {
        return;
    }
    if (err->status != status || strlen(err->message) < 10 || strstr(err->message, "(null)") ||
        ends_with(err->message, "crashed: ") || ends_with(err->message, "came up: ")) {
        sim_world_fail(scenario->world, "unclear error: %s: %s says \"%.200s\"", what,
                       kelpie_status_name(status), err->message);
    }
}

/* ---- Life ------------------------------------------------------------------------------------- */

static bool is_one_of(const char *backend, const char *const *names) {
    ASSERT(backend);
    ASSERT(names);
    while (*names && strcmp(backend, *names) != 0) {
        names++;
    }
    return *names != NULL;
}

/* NULL: none, or none that the backend has. */
static const struct kelpie_network *network_of(const char *backend, uint32_t features) {
    static const struct kelpie_network user = {.kind = KELPIE_NETWORK_USER};
    static const struct kelpie_network tap = {.kind = KELPIE_NETWORK_TAP, .tap = SIM_TAP_NAME};
    static const char *const none[] = {"mock", NULL};
    static const char *const only_tap[] = {"firecracker", NULL};
    ASSERT(backend);
    ASSERT(features < STEPS_FEATURE_OWNED << 1);
    if (!(features & STEPS_FEATURE_NETWORK) || is_one_of(backend, none)) {
        return NULL;
    }
    return (features & STEPS_FEATURE_TAP) || is_one_of(backend, only_tap) ? &tap : &user;
}

struct kelpie_config actions_config(struct scenario *scenario, uint32_t vm) {
    static const char *const env[] = {"A=1", NULL};
    static const char *const boots_krunfw[] = {"kvm", "libkrun", NULL};
    ASSERT(vm < scenario->plan.vm_count);
    ASSERT(scenario->host);
    static const char *const logs[STEPS_VM_COUNT_MAX] = {
        SCENARIO_FOLDER "/out-log-0", SCENARIO_FOLDER "/out-log-1", SCENARIO_FOLDER "/out-log-2"};
    static const struct kelpie_owner owner = {0};
    static const struct kelpie_mock_config delayed = {.boot_delay_ms = 20};
    static const struct kelpie_disk disks[2][STEPS_VM_COUNT_MAX] = {
        {{.path = SCENARIO_DISK "0"}, {.path = SCENARIO_DISK "1"}, {.path = SCENARIO_DISK "2"}},
        {{.path = SCENARIO_DISK "0", .read_only = true},
         {.path = SCENARIO_DISK "1", .read_only = true},
         {.path = SCENARIO_DISK "2", .read_only = true}}};
    uint32_t features = scenario->plan.features[vm];
    const char *backend = scenario->plan.backends[vm];
    bool mock = strcmp(backend, "mock") == 0;
    bool owned = features & STEPS_FEATURE_OWNED;
    /* One that its user left behind would have the disk still. */
    bool disk = !mock && !owned && (features & STEPS_FEATURE_DISK);
    bool read_only = features & STEPS_FEATURE_READ_ONLY;
    bool texts = features & STEPS_FEATURE_TEXTS;
    bool krunfw = (features & STEPS_FEATURE_KRUNFW) && is_one_of(backend, boots_krunfw);
    return (struct kelpie_config){
        .backend = backend,
        .console_log = features & STEPS_FEATURE_CONSOLE_LOG ? logs[vm] : NULL,
        .console_bytes_max = CONSOLE_BYTES_MAX,
        .network = network_of(backend, features),
        .hostname = texts ? "sim-host" : NULL,
        .working_dir = texts ? "/tmp" : NULL,
        .kernel_args = texts ? "quiet" : NULL,
        .mock = texts ? &delayed : NULL,
        .kernel = krunfw ? SIM_KRUNFW_PATH : NULL,
        .disks = disk ? &disks[read_only][vm] : NULL,
        .disk_count = disk ? 1 : 0,
        .memory_mib = SMALL_MIB,
        .env = env,
        .owner = owned ? &owner : NULL,
        .boot_timeout_ms = SCENARIO_TIMEOUT_MS,
        .operation_timeout_ms = SCENARIO_TIMEOUT_MS,
        .stop_timeout_ms = SCENARIO_TIMEOUT_MS / 10,
        .host = scenario->host,
    };
}

void actions_create(struct scenario *scenario, uint32_t vm) {
    struct scenario_vm *slot = &scenario->vms[vm];
    struct kelpie_vm *made = NULL;
    struct kelpie_error err = {0};
    ASSERT(vm < scenario->plan.vm_count);
    if (slot->vm || slot->closing) {
        return;
    }
    slot->closing = true; /* nobody else makes it meanwhile */
    struct kelpie_config config = actions_config(scenario, vm);
    if (owned_is(scenario, vm)) {
        snprintf(slot->name, sizeof(slot->name), "sim-%u", ++scenario->name_last);
        config.name = slot->name;
    }
    enum kelpie_status status = kelpie_vm_create(&config, &made, &err);
    slot->closing = false;
    actions_expect_clear(scenario, "create", status, &err);
    ASSERT((status == KELPIE_OK) == (made != NULL));
    if (made) {
        slot->vm = made;
        slot->session_id = 0;
        slot->interrupt_count = 0;
        slot->interrupted_ns = 0;
        slot->parent = -1;
        slot->blind = false;
        /* A mock has a lever for a crash, which works also when nothing goes wrong by itself. */
        bool mock = strcmp(kelpie_vm_backend(made), "mock") == 0;
        history_init(&slot->history, mock || !scenario->world->faults.quiet);
    }
}

void actions_check_history(struct scenario *scenario, uint32_t vm) {
    const struct scenario_vm *slot = &scenario->vms[vm];
    struct model start;
    char reason[RUN_REASON_SIZE / 2];
    ASSERT(vm < scenario->plan.vm_count);
    model_init(&start);
    for (uint32_t i = 0; i < scenario->bundle_count; i++) {
        if (scenario->bundles[i].vm != vm && scenario->vms[scenario->bundles[i].vm].vm) {
            model_shelf_allow(&scenario->shelf, (uint8_t)i);
        }
    }
    enum history_verdict verdict =
        history_check(&slot->history, &start, &scenario->shelf, reason, sizeof(reason));
    if (verdict == HISTORY_WRONG) {
        actions_fail_bytes(scenario, "not linearizable: %s", reason);
    }
    for (uint32_t i = 0; (verdict != HISTORY_HOLDS || slot->blind) && i < scenario->bundle_count;
         i++) {
        if (scenario->bundles[i].vm == vm) {
            model_shelf_allow(&scenario->shelf, (uint8_t)i); /* nobody knows what it holds */
        }
    }
    ASSERT(slot->history.op_count <= HISTORY_OP_COUNT_MAX);
}

void actions_destroy(struct scenario *scenario, uint32_t vm) {
    struct scenario_vm *slot = &scenario->vms[vm];
    struct kelpie_error ignored;
    ASSERT(vm < scenario->plan.vm_count);
    if (!slot->vm || slot->closing) {
        return;
    }
    slot->closing = true;
    while (slot->users > 0) {
        actions_interrupt_begin(scenario, slot);
        actions_interrupt_end(scenario, slot);
        kelpie_vm_cancel(slot->vm); /* a command of a paused VM does not end by itself */
        struct host_wait wait = host_wait_ms(scenario->host, SETTLE_MS, HOST_FD_NONE);
        (void)!host_sleep(scenario->host, &wait, &ignored);
    }
    const struct model_op op = {.kind = MODEL_DESTROY};
    size_t index = actions_begin(scenario, slot, &op);
    bool deaf = may_be_deaf(scenario, slot);
    kelpie_vm_destroy(slot->vm);
    if (deaf) {
        (void)!kelpie_vm_remove(scenario->host, slot->name, true, &ignored);
    }
    actions_end(scenario, slot, index, KELPIE_OK, 0);
    actions_check_history(scenario, vm);
    slot->vm = NULL;
    slot->closing = false;
    ASSERT(slot->users == 0);
}

/* How many starts there were when a stop began, and how many of them were under way, or waited for their turn. */
struct starts {
    uint32_t count;
    uint32_t under_way;
    bool begun; /* one of them is what the VM was at */
};

/* The start that the VM was at has ended with the stop that interrupted it. One that waited may have begun. */
static void check_stopped(struct scenario *scenario, const struct scenario_vm *slot,
                          const struct starts *before) {
    ASSERT(slot->vm);
    ASSERT(before->count <= slot->start_count);
    if (slot->start_count == before->count && before->under_way == (before->begun ? 1 : 0) &&
        kelpie_vm_state(slot->vm) == KELPIE_STATE_STARTING) {
        sim_world_fail(scenario->world, "wrong state: a VM that was stopped is starting");
    }
}

static void change(struct scenario *scenario, struct scenario_vm *slot, enum model_kind kind) {
    struct kelpie_error err = {0};
    enum kelpie_status status = KELPIE_OK;
    const struct model_op op = {.kind = kind};
    ASSERT(slot->vm);
    ASSERT(slot->users > 0);
    size_t index = actions_begin(scenario, slot, &op);
    if (kind == MODEL_START) {
        slot->start_count++;
        slot->starting++;
        status = kelpie_vm_start(slot->vm, &err);
        slot->starting--;
    } else if (kind == MODEL_STOP) {
        const struct starts before = {slot->start_count, slot->starting,
                                      kelpie_vm_state(slot->vm) == KELPIE_STATE_STARTING};
        actions_interrupt_begin(scenario, slot);
        status = kelpie_vm_stop(slot->vm, 0, &err);
        actions_interrupt_end(scenario, slot);
        if (status == KELPIE_OK) {
            check_stopped(scenario, slot, &before);
        }
    } else if (kind == MODEL_PAUSE) {
        status = kelpie_vm_pause(slot->vm, &err);
    } else {
        ASSERT(kind == MODEL_RESUME);
        status = kelpie_vm_resume(slot->vm, &err);
    }
    actions_end(scenario, slot, index, status, 0);
    actions_expect_clear(scenario, model_kind_name(kind), status, &err);
}

/* ---- Files ------------------------------------------------------------------------------------ */

static void copy_in(struct scenario *scenario, struct scenario_vm *slot,
                    const struct steps_step *step) {
    struct kelpie_error err = {0};
    char source[SCENARIO_PATH_SIZE];
    char target[SCENARIO_PATH_SIZE];
    uint32_t id = ++scenario->content_id_last;
    ASSERT(step->file < STEPS_FILE_COUNT);
    snprintf(source, sizeof(source), SCENARIO_FOLDER "/in-%u", step->thread);
    snprintf(target, sizeof(target), "/tmp/f%u", step->file);
    if (!contents_put(scenario, source, id)) {
        return;
    }
    const struct model_op op = {.kind = MODEL_COPY_IN, .file = (uint8_t)step->file, .id = id};
    size_t index = actions_begin(scenario, slot, &op);
    enum kelpie_status status = kelpie_copy_in(slot->vm, source, target, NULL, &err);
    actions_end(scenario, slot, index, status, 0);
    actions_expect_clear(scenario, "copy in", status, &err);
}

/* What comes out is some content, whole; which one is the history's business. */
static void copy_out(struct scenario *scenario, struct scenario_vm *slot,
                     const struct steps_step *step) {
    struct kelpie_error err = {0};
    char source[SCENARIO_PATH_SIZE];
    char target[SCENARIO_PATH_SIZE];
    ASSERT(step->file < STEPS_FILE_COUNT);
    snprintf(source, sizeof(source), "/tmp/f%u", step->file);
    snprintf(target, sizeof(target), SCENARIO_FOLDER "/out-%u", step->thread);
    const struct model_op op = {.kind = MODEL_COPY_OUT, .file = (uint8_t)step->file};
    size_t index = actions_begin(scenario, slot, &op);
    enum kelpie_status status = kelpie_copy_out(slot->vm, source, target, NULL, &err);
    uint32_t id = status == KELPIE_OK ? contents_get(scenario, target) : 0;
    if (status == KELPIE_OK && id == 0) {
        actions_fail_bytes(scenario, "wrong bytes: copy out of %s", source);
    }
    actions_end(scenario, slot, index, status, id);
    actions_expect_clear(scenario, "copy out", status, &err);
}

/* ---- Looking ---------------------------------------------------------------------------------- */

static void ping(struct scenario *scenario, struct scenario_vm *slot) {
    struct kelpie_error err = {0};
    uint64_t ns = 0;
    const struct model_op op = {.kind = MODEL_PING};
    ASSERT(slot->vm);
    ASSERT(slot->users > 0);
    size_t index = actions_begin(scenario, slot, &op);
    enum kelpie_status status = kelpie_vm_ping(slot->vm, &ns, &err);
    actions_end(scenario, slot, index, status, 0);
    actions_expect_clear(scenario, "ping", status, &err);
}

static void look_at_state(struct scenario *scenario, struct scenario_vm *slot) {
    const struct model_op op = {.kind = MODEL_STATE};
    ASSERT(slot->vm);
    size_t index = actions_begin(scenario, slot, &op);
    enum kelpie_state state = kelpie_vm_state(slot->vm);
    ASSERT((unsigned)state < KELPIE_STATE_COUNT);
    actions_end(scenario, slot, index, KELPIE_OK, (uint32_t)state);
}

static void wait_for(struct scenario *scenario, struct scenario_vm *slot,
                     const struct steps_step *step) {
    struct kelpie_error err = {0};
    enum kelpie_state state = KELPIE_STATE_COUNT;
    uint32_t states = step->value % (1u << KELPIE_STATE_COUNT);
    ASSERT(slot->vm);
    states = states ? states : 1u << KELPIE_STATE_RUNNING;
    enum kelpie_status status =
        kelpie_vm_wait(slot->vm, states, 1 + step->value % 5000, &state, &err);
    if (status == KELPIE_OK && !(states & (1u << (unsigned)state))) {
        sim_world_fail(scenario->world, "wrong state: waited for 0x%x, got %s", states,
                       kelpie_state_name(state));
    }
    actions_expect_clear(scenario, "wait", status, &err);
}

/* What only describes the VM. */
static void look(struct scenario *scenario, struct scenario_vm *slot) {
    char console[1000];
    uint32_t ids[4];
    size_t count = 0;
    struct kelpie_restore_report report;
    struct kelpie_error err = {0};
    size_t size = kelpie_vm_console(slot->vm, console, sizeof(console));
    ASSERT(size <= sizeof(console));
    ASSERT(kelpie_vm_process_id(slot->vm) >= 0);
    enum kelpie_status status = kelpie_exec_list(slot->vm, ids, ARRAY_SIZE(ids), &count, &err);
    actions_expect_clear(scenario, "exec list", status, &err);
    err = (struct kelpie_error){0};
    status = kelpie_vm_restore_report(slot->vm, &report, &err);
    actions_expect_clear(scenario, "restore report", status, &err);
}

/* A mock's levers, which other backends refuse. */
static void pull_lever(struct scenario *scenario, struct scenario_vm *slot,
                       const struct steps_step *step) {
    struct kelpie_error err = {0};
    ASSERT(slot->users > 0);
    bool mock = strcmp(kelpie_vm_backend(slot->vm), "mock") == 0;
    enum kelpie_status status =
        step->action == STEPS_CRASH
            ? kelpie_mock_crash(slot->vm, &err)
            : kelpie_mock_fail(
                  slot->vm, (enum kelpie_mock_operation)(step->value % KELPIE_MOCK_OPERATION_COUNT),
                  1, &err);
    ASSERT(step->action == STEPS_CRASH || step->action == STEPS_FAIL_NEXT);
    scenario->lever_pulled = true;
    if (!mock && status != KELPIE_UNSUPPORTED) {
        sim_world_fail(scenario->world, "a lever of the mock works on another backend");
    }
    actions_expect_clear(scenario, "lever", status, &err);
}

/* ---- All of them ------------------------------------------------------------------------------ */

void actions_on(struct scenario *scenario, struct scenario_vm *slot,
                const struct steps_step *step) {
    ASSERT(slot->vm);
    ASSERT((unsigned)step->action < STEPS_ACTION_COUNT);
    /* A table would need one signature for all; most share one of a few. */
    switch ((int)step->action) {
    case STEPS_START:
        change(scenario, slot, MODEL_START);
        break;
    case STEPS_STOP:
        change(scenario, slot, MODEL_STOP);
        break;
    case STEPS_PAUSE:
        change(scenario, slot, MODEL_PAUSE);
        break;
    case STEPS_RESUME:
        change(scenario, slot, MODEL_RESUME);
        break;
    case STEPS_COPY_IN:
        copy_in(scenario, slot, step);
        break;
    case STEPS_COPY_OUT:
        copy_out(scenario, slot, step);
        break;
    case STEPS_PING:
        ping(scenario, slot);
        break;
    case STEPS_STATE:
        look_at_state(scenario, slot);
        break;
    case STEPS_WAIT:
        wait_for(scenario, slot, step);
        break;
    case STEPS_LOOK:
        look(scenario, slot);
        break;
    case STEPS_CANCEL:
        actions_interrupt_begin(scenario, slot);
        kelpie_vm_cancel(slot->vm);
        slot->interrupted_ns = scenario->world->now_ns;
        actions_interrupt_end(scenario, slot);
        break;
    case STEPS_CRASH:
    case STEPS_FAIL_NEXT:
        pull_lever(scenario, slot, step);
        break;
    case STEPS_DETACHED:
    case STEPS_CLIENT:
        owned_do(scenario, slot, step);
        break;
    default:
        if (step->action >= STEPS_EXEC_WRITE && step->action <= STEPS_ATTACH) {
            actions_exec(scenario, slot, step);
        } else {
            actions_bundle(scenario, slot, step);
        }
        break;
    }
}

void actions_do(struct scenario *scenario, const struct steps_step *step) {
    struct scenario_vm *slot = &scenario->vms[step->vm];
    struct kelpie_error ignored;
    ASSERT(step->vm < scenario->plan.vm_count);
    ASSERT(scenario->host);
    if (scenario->options->timeline) {
        fprintf(scenario->options->timeline, "             STEP %s of VM %u by thread %u\n",
                steps_action_name(step->action), step->vm, step->thread);
    }
    if (step->pause_ms > 0) {
        struct host_wait wait = host_wait_ms(scenario->host, step->pause_ms, HOST_FD_NONE);
        (void)!host_sleep(scenario->host, &wait, &ignored);
    }
    if (step->action == STEPS_CREATE) {
        actions_create(scenario, step->vm);
    } else if (step->action == STEPS_DESTROY) {
        actions_destroy(scenario, step->vm);
    } else if (step->action == STEPS_HOST) {
        actions_host(scenario, step);
    } else if (step->action != STEPS_SLEEP && slot->vm && !slot->closing) {
        slot->users++;
        actions_on(scenario, slot, step);
        slot->users--;
    }
}
