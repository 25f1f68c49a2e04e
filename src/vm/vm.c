/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The VM as an object: making and freeing it, waiting on it, one operation at a time. See vm.h. */
#include "vm/warm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"

void vm_check(const struct kelpie_vm *vm) {
    ASSERT(vm);
    ASSERT(vm->magic == VM_MAGIC);
}

void vm_lock(struct kelpie_vm *vm) {
    host_mutex_lock(vm->mutex);
    ASSERT(!vm->locked);
    vm->locked = true;
}

void vm_unlock(struct kelpie_vm *vm) {
    ASSERT(vm->locked);
    vm->locked = false;
    host_mutex_unlock(vm->mutex);
}

bool vm_wait_changed(struct kelpie_vm *vm, uint64_t deadline_ns) {
    ASSERT(vm->locked);
    vm->locked = false;
    bool changed = host_condition_wait(vm->changed, vm->mutex, deadline_ns);
    ASSERT(!vm->locked);
    vm->locked = true;
    return changed;
}

enum kelpie_status vm_random_hex(struct host *host, char *text, size_t digits,
                                 struct kelpie_error *err) {
    uint8_t bytes[32];
    ASSERT(digits % 2 == 0);
    ASSERT(digits / 2 <= sizeof(bytes));
    TRY(host_random(host, bytes, digits / 2, err));
    for (size_t i = 0; i < digits / 2; i++) {
        snprintf(text + 2 * i, 3, "%02x", bytes[i]);
    }
    return KELPIE_OK;
}

enum kelpie_status vm_host_open(const struct kelpie_config *config, struct host **ret_host,
                                bool *ret_owned, struct kelpie_error *err) {
    ASSERT(ret_host);
    ASSERT(ret_owned);
    if (config && config->host) {
        *ret_host = config->host;
        *ret_owned = false;
        return KELPIE_OK;
    }
    TRY(host_linux_create(ret_host, err));
    *ret_owned = true;
    return KELPIE_OK;
}

/* Frees a VM however far it was made. */
static void vm_free(struct kelpie_vm *vm) {
    struct host *host = vm->host;
    bool host_owned = vm->host_owned;
    vm_warm_finish(vm);
    ASSERT(!vm->io_thread);
    ASSERT(vm->session_count == 0);
    if (vm->instance) {
        vm->ops->destroy(vm->instance);
    }
    if (vm->cancel_event != HOST_FD_NONE) {
        host_close(host, vm->cancel_event);
    }
    if (vm->wake_event != HOST_FD_NONE) {
        host_close(host, vm->wake_event);
    }
    host_condition_destroy(vm->changed);
    host_mutex_destroy(vm->mutex);
    vm_config_destroy(vm->config_copy);
    free(vm->channel.in);
    free(vm->channel.out);
    vm->magic = 0;
    free(vm);
    if (host_owned) {
        host_destroy(host);
    }
}

/* Which program it names depends on the backend, and so on whoever chooses that. */
static enum kelpie_status check_hypervisor(const struct kelpie_vm *vm, struct kelpie_error *err) {
    ASSERT(vm->ops);
    ASSERT(vm->config);
    if (!vm->config->hypervisor) {
        return KELPIE_OK;
    }
    if (strcmp(vm->config->backend, "auto") == 0) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "hypervisor",
                               "hypervisor is the program of one backend: name the backend too");
    }
    if (!vm->ops->has_hypervisor) {
        return error_set_field(err, KELPIE_UNSUPPORTED, "hypervisor",
                               "backend %s has no program that could be another one",
                               vm_backend_name(vm));
    }
    return KELPIE_OK;
}

/* What its backend must be able to do. */
static enum kelpie_status check_backend(const struct kelpie_vm *vm, struct kelpie_error *err) {
    ASSERT(vm->ops);
    ASSERT(vm->config);
    if (vm->config->disk_count > 0 && !(vm_capabilities(vm) & KELPIE_CAN_DISKS)) {
        return error_set_field(err, KELPIE_UNSUPPORTED, "disks", "backend %s has no disks",
                               vm_backend_name(vm));
    }
    const struct kelpie_network *network = vm->config->network;
    bool tap = network && network->kind == KELPIE_NETWORK_TAP;
    uint32_t wanted = KELPIE_CAN_NETWORK | (tap ? (uint32_t)KELPIE_CAN_NETWORK_TAP : 0u);
    if (network && !(vm_capabilities(vm) & wanted)) {
        return error_set_field(err, KELPIE_UNSUPPORTED, "network",
                               "backend %s has no network of this kind", vm_backend_name(vm));
    }
    return KELPIE_OK;
}

/* Which backend, and the instance. */
static enum kelpie_status make_instance(struct kelpie_vm *vm, const struct vm_origin *origin,
                                        struct kelpie_error *err) {
    ASSERT(!vm->instance);
    ASSERT(vm->config || origin->open_name);
    vm->ops = origin->ops;
    if (!vm->ops && (origin->open_name || vm->config->owner)) {
        TRY(vm_backend_of_owners(&vm->ops, err));
    } else if (!vm->ops) {
        TRY(vm_backend_choose(vm->host, vm->config->backend, &vm->ops, err));
    }
    if (!vm_is_owned(vm)) {
        TRY(check_hypervisor(vm, err));
        TRY(check_backend(vm, err));
    }
    if (origin->config) {
        TRY(vm_image_apply(vm, origin->config, origin->for_bundle, err));
    } else {
        vm->launch = (struct backend_launch){
            .host = vm->host,
            .open_name = origin->open_name,
            .id = vm->id,
            .cancel_fd = vm->cancel_event,
        };
    }
    TRY(vm->ops->create(&vm->launch, &vm->instance, err));
    return vm_is_owned(vm) ? vm_owned_open(vm, err) : KELPIE_OK;
}

static enum kelpie_status vm_init(struct kelpie_vm *vm, const struct vm_origin *origin,
                                  struct kelpie_error *err) {
    ASSERT(vm->host);
    ASSERT(origin->config || origin->open_name);
    struct host *host = vm->host;
    TRY(vm_random_hex(host, vm->id, KELPIE_ID_SIZE - 1, err));
    if (origin->config) {
        TRY(vm_config_copy(host, origin->config, vm->id, &vm->config_copy, err));
        vm->config = vm->config_copy;
    }
    vm->ids_first = 1;
    vm->ids_count = VM_RELAY_IDS_COUNT - 1;
    TRY(host_mutex_create(host, &vm->mutex, err));
    TRY(host_condition_create(host, &vm->changed, err));
    TRY(host_event_create(host, &vm->cancel_event, err));
    TRY(host_event_create(host, &vm->wake_event, err));
    vm->channel.in = host_allocate(host, PROTOCOL_FRAME_SIZE_MAX, err);
    vm->channel.out = host_allocate(host, VM_OUT_CAPACITY, err);
    if (!vm->channel.in || !vm->channel.out) {
        return KELPIE_NO_MEMORY;
    }
    return make_instance(vm, origin, err);
}

enum kelpie_status vm_create(const struct vm_origin *origin, struct kelpie_vm **ret_vm,
                             struct kelpie_error *err) {
    ASSERT(ret_vm);
    ASSERT(!origin->config != !origin->open_name);
    const struct kelpie_config at_host = {.host = origin->host};
    if (origin->config) {
        TRY(vm_check_config(origin->config, err));
    }
    struct host *host = NULL;
    bool owned = false;
    TRY(vm_host_open(origin->config ? origin->config : &at_host, &host, &owned, err));
    struct kelpie_vm *vm = host_allocate(host, sizeof(*vm), err);
    if (!vm) {
        if (owned) {
            host_destroy(host);
        }
        return KELPIE_NO_MEMORY;
    }
    vm->magic = VM_MAGIC;
    vm->reference_count = 1;
    vm->host = host;
    vm->host_owned = owned;
    vm->cancel_event = HOST_FD_NONE;
    vm->wake_event = HOST_FD_NONE;
    enum kelpie_status status = vm_init(vm, origin, err);
    if (status != KELPIE_OK) {
        vm_free(vm);
        return status;
    }
    *ret_vm = vm;
    return KELPIE_OK;
}

void vm_share_host(struct kelpie_vm *vm) {
    vm_check(vm);
    ASSERT(!vm->host_owned);
    host_share(vm->host);
    vm->host_owned = true;
}

void vm_release(struct kelpie_vm *vm) {
    vm_check(vm);
    vm_lock(vm);
    ASSERT(vm->reference_count > 0);
    vm->reference_count--;
    bool last = vm->reference_count == 0;
    if (last) {
        vm_sessions_collect(vm);
    }
    vm_unlock(vm);
    if (last) {
        vm_free(vm);
    }
}

void kelpie_vm_destroy(struct kelpie_vm *vm) {
    if (!vm) {
        return;
    }
    vm_check(vm);
    ASSERT(vm->ops);
    if (vm_is_owned(vm)) {
        vm_owned_close(vm, true);
        return;
    }
    vm_lock(vm);
    vm->stopping = true;
    if (vm->busy) {
        vm->ops->kill(vm->instance); /* another thread's operation ends at once */
    }
    vm->cancel_count++;
    host_event_set(vm->host, vm->cancel_event);
    host_condition_broadcast(vm->changed);
    while (vm->busy) {
        vm_wait_changed(vm, host_monotonic_ns(vm->host) + VM_POLL_PERIOD_MS * HOST_NS_PER_MS);
    }
    vm->busy = true;
    vm_unlock(vm);

    vm_machine_kill(vm);
    vm_lock(vm);
    if (vm_state_may_follow(vm->state, KELPIE_STATE_STOPPED)) {
        vm_set_state(vm, KELPIE_STATE_STOPPED);
    }
    vm->busy = false;
    vm_unlock(vm);
    vm_release(vm);
}

void kelpie_vm_close(struct kelpie_vm *vm) {
    if (vm && vm_is_owned(vm)) {
        vm_owned_close(vm, false);
    } else {
        kelpie_vm_destroy(vm);
    }
}

/* ---- Waiting ---------------------------------------------------------------------------------- */

struct vm_wait vm_wait_start(struct kelpie_vm *vm, uint64_t timeout_ms) {
    ASSERT(vm->locked);
    ASSERT(vm->reference_count > 0);
    struct vm_wait wait = {.deadline_ns = UINT64_MAX, .cancel_count = vm->cancel_count};
    if (timeout_ms != 0) {
        wait.deadline_ns = host_wait_ms(vm->host, timeout_ms, HOST_FD_NONE).deadline_ns;
    }
    return wait;
}

enum kelpie_status vm_check_alive(struct kelpie_vm *vm, const char *what,
                                  struct kelpie_error *err) {
    ASSERT(vm->locked);
    ASSERT(what);
    if (!vm->channel.open || (!vm->machine_alive && !vm->stopping)) {
        if (vm->state == KELPIE_STATE_CRASHED || (!vm->machine_alive && !vm->stopping)) {
            return error_set(err, KELPIE_CRASHED, "cannot %s: %s", what,
                             vm->exit_text[0] ? vm->exit_text : "the VM crashed");
        }
        return error_set_field(err, KELPIE_WRONG_STATE, kelpie_state_name(vm->state),
                               "cannot %s: the VM is %s", what, kelpie_state_name(vm->state));
    }
    if (vm->channel.broken[0]) {
        enum kelpie_status status =
            error_set(err, KELPIE_INTERNAL, "cannot %s: %s", what, vm->channel.broken);
        if (err) {
            err->requires_recreate = !vm_is_owned(vm); /* another handle has another channel */
        }
        return status;
    }
    return KELPIE_OK;
}

enum kelpie_status vm_check_awaited(struct kelpie_vm *vm, const char *what,
                                    struct kelpie_error *err) {
    ASSERT(vm->locked);
    ASSERT(what);
    char attempt[128];
    snprintf(attempt, sizeof(attempt), "wait for %s", what);
    return vm_check_alive(vm, attempt, err);
}

enum kelpie_status vm_wait_step(struct kelpie_vm *vm, const struct vm_wait *wait, const char *what,
                                struct kelpie_error *err) {
    ASSERT(vm->locked);
    ASSERT(wait);
    ASSERT(what);
    if (wait->cancel_count != VM_CANCEL_COUNT_NONE && vm->cancel_count != wait->cancel_count) {
        return error_set(err, KELPIE_CANCELLED, "waiting for %s was cancelled", what);
    }
    TRY(vm_check_awaited(vm, what, err));
    if (!vm_wait_changed(vm, wait->deadline_ns) &&
        host_monotonic_ns(vm->host) >= wait->deadline_ns) {
        return error_set(err, KELPIE_TIMED_OUT, "waited in vain for %s", what);
    }
    return KELPIE_OK;
}

void kelpie_vm_cancel(struct kelpie_vm *vm) {
    vm_check(vm);
    ASSERT(vm->ops);
    vm_lock(vm);
    vm->cancel_count++;
    host_event_set(vm->host, vm->cancel_event);
    host_condition_broadcast(vm->changed);
    vm_unlock(vm);
}

enum kelpie_status kelpie_vm_wait(struct kelpie_vm *vm, uint32_t states, uint32_t timeout_ms,
                                  enum kelpie_state *ret_state, struct kelpie_error *err) {
    vm_check(vm);
    ASSERT(ret_state);
    if (states == 0 || states >= 1u << KELPIE_STATE_COUNT) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "states", "states names no state: 0x%x",
                               states);
    }
    TRY(vm_check_timeout("timeout_ms", timeout_ms, err));
    vm_lock(vm);
    struct vm_wait wait =
        vm_wait_start(vm, timeout_ms != 0 ? timeout_ms : vm->config->operation_timeout_ms);
    enum kelpie_status status = KELPIE_OK;
    while (status == KELPIE_OK && !(states & (1u << vm->state))) {
        if (vm->cancel_count != wait.cancel_count) {
            status = error_set(err, KELPIE_CANCELLED, "waiting for a state was cancelled");
        } else if (!vm_wait_changed(vm, wait.deadline_ns)) {
            status = error_set(err, KELPIE_TIMED_OUT, "the VM is still %s",
                               kelpie_state_name(vm->state));
        }
    }
    if (status == KELPIE_OK) {
        *ret_state = vm->state;
    }
    vm_unlock(vm);
    return status;
}

/* ---- One operation at a time ------------------------------------------------------------------ */

static uint32_t capability_of(enum vm_operation operation) {
    ASSERT((unsigned)operation < VM_OPERATION_COUNT);
    switch (operation) {
    case VM_OPERATION_PAUSE:
    case VM_OPERATION_RESUME:
        return KELPIE_CAN_PAUSE;
    case VM_OPERATION_SNAPSHOT:
    case VM_OPERATION_RESTORE:
        return KELPIE_CAN_CHECKPOINT; /* other kinds are looked at where the kind is known */
    case VM_OPERATION_FORK:
        return KELPIE_CAN_FORK;
    case VM_OPERATION_EXEC:
        return KELPIE_CAN_EXEC;
    case VM_OPERATION_COPY:
        return KELPIE_CAN_COPY;
    case VM_OPERATION_START:
    case VM_OPERATION_STOP:
    case VM_OPERATION_RECORD:
    case VM_OPERATION_MEASURE:
        return 0;
    case VM_OPERATION_COUNT:
    default:
        UNREACHABLE();
    }
}

static enum kelpie_status begin_locked(struct kelpie_vm *vm, enum vm_operation operation,
                                       uint64_t timeout_ms, struct kelpie_error *err) {
    ASSERT(vm->locked);
    ASSERT(timeout_ms > 0);
    uint32_t capability = capability_of(operation);
    if ((vm_capabilities(vm) & capability) != capability) {
        return error_set(err, KELPIE_UNSUPPORTED, "backend %s cannot do that", vm_backend_name(vm));
    }
    struct vm_wait wait = vm_wait_start(vm, timeout_ms);
    while (vm->busy) {
        if (vm->cancel_count != wait.cancel_count) {
            return error_set(err, KELPIE_CANCELLED, "waiting for another operation was cancelled");
        }
        if (!vm_wait_changed(vm, wait.deadline_ns)) {
            return error_set(err, KELPIE_BUSY, "another operation still holds the VM");
        }
    }
    if (!vm_state_allows(operation, vm->state)) {
        return vm_state_error(operation, vm->state, err);
    }
    vm->busy = true;
    vm->begun_cancel_count = vm->cancel_count;
    host_event_clear(vm->host, vm->cancel_event);
    return KELPIE_OK;
}

enum kelpie_status vm_begin(struct kelpie_vm *vm, enum vm_operation operation, uint64_t timeout_ms,
                            struct host_wait *ret_wait, struct kelpie_error *err) {
    vm_check(vm);
    ASSERT(timeout_ms > 0);
    vm_lock(vm);
    enum kelpie_status status = begin_locked(vm, operation, timeout_ms, err);
    if (status == KELPIE_OK && ret_wait) {
        *ret_wait = host_wait_ms(vm->host, timeout_ms, vm->cancel_event);
    }
    vm_unlock(vm);
    return status;
}

void vm_end(struct kelpie_vm *vm, enum kelpie_status status) {
    ASSERT(vm->instance);
    vm_lock(vm);
    ASSERT(vm->busy);
    /* The backend may know of the machine's end before the I/O thread does. */
    const uint64_t deadline_ns = host_wait_ms(vm->host, VM_EXIT_GRACE_MS, HOST_FD_NONE).deadline_ns;
    while (status == KELPIE_CRASHED && vm->machine_alive &&
           host_monotonic_ns(vm->host) < deadline_ns) {
        vm_wait_changed(vm, deadline_ns);
    }
    vm->busy = false;
    host_condition_broadcast(vm->changed);
    vm_unlock(vm);
}

bool vm_machine_is_alive(struct kelpie_vm *vm) {
    ASSERT(vm->instance);
    vm_lock(vm);
    bool alive = vm->machine_alive;
    vm_unlock(vm);
    return alive;
}

void vm_set_state(struct kelpie_vm *vm, enum kelpie_state state) {
    ASSERT(vm->locked);
    ASSERT(vm_state_may_follow(vm->state, state));
    vm->state = state;
    host_condition_broadcast(vm->changed);
}

/* ---- What a caller may look at ---------------------------------------------------------------- */

enum kelpie_state kelpie_vm_state(struct kelpie_vm *vm) {
    vm_check(vm);
    ASSERT(vm->ops);
    vm_lock(vm);
    enum kelpie_state state = vm->state;
    vm_unlock(vm);
    return state;
}

const char *kelpie_vm_id(const struct kelpie_vm *vm) {
    vm_check(vm);
    ASSERT(vm->id[0] != 0);
    return vm->id;
}

const char *kelpie_vm_backend(const struct kelpie_vm *vm) {
    vm_check(vm);
    ASSERT(vm->ops);
    return vm_backend_name(vm);
}

const char *vm_backend_name(const struct kelpie_vm *vm) {
    ASSERT(vm->ops);
    return vm_is_owned(vm) ? vm->ops->owner->backend(vm->instance) : vm->ops->name;
}

uint32_t kelpie_vm_capabilities(const struct kelpie_vm *vm) {
    vm_check(vm);
    ASSERT(vm->ops);
    return vm_capabilities(vm);
}

uint32_t vm_capabilities(const struct kelpie_vm *vm) {
    ASSERT(vm->ops);
    if (vm_is_owned(vm)) {
        return vm->ops->owner->capabilities(vm->instance);
    }
    bool all = !vm->instance || !vm->ops->instance_capabilities;
    return vm_capabilities_of(vm->ops->capabilities &
                              (all ? UINT32_MAX : vm->ops->instance_capabilities(vm->instance)));
}

uint32_t vm_capabilities_of(uint32_t backend) {
    const uint32_t needed = KELPIE_CAN_EXEC | KELPIE_CAN_COPY;
    ASSERT((backend & KELPIE_CAN_CHECKPOINT) == 0); /* is no backend's to say */
    return (backend & needed) == needed ? backend | KELPIE_CAN_CHECKPOINT : backend;
}

const struct kelpie_config *kelpie_vm_config(const struct kelpie_vm *vm) {
    vm_check(vm);
    ASSERT(vm->config);
    return vm->config;
}

size_t kelpie_vm_console(struct kelpie_vm *vm, void *buffer, size_t size) {
    vm_check(vm);
    ASSERT(buffer || size == 0);
    return vm->ops->console(vm->instance, buffer, size);
}

int kelpie_vm_process_id(struct kelpie_vm *vm) {
    vm_check(vm);
    ASSERT(vm->instance);
    return vm->ops->process_id(vm->instance);
}
