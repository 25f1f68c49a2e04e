/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What a VM uses: the monitor's process as the host counts it, and what the guest says of its memory. */
#include "base/assert.h"
#include "vm/vm.h"

/* Of the monitor's process; a machine that is none (the mock) uses nothing that could be told from ours. */
static enum kelpie_status measure_process(struct kelpie_vm *vm, struct kelpie_stats *stats,
                                          struct kelpie_error *err) {
    ASSERT(vm->busy);
    ASSERT(vm->instance);
    int process_id = vm->ops->process_id(vm->instance);
    if (process_id != 0) {
        struct host_process_usage usage = {0};
        TRY(host_process_usage(vm->host, process_id, &usage, err));
        stats->cpu_ns = usage.cpu_ns;
        stats->memory_bytes = usage.resident_bytes;
    }
    if (vm->ops->disk_bytes) {
        stats->disk_bytes = vm->ops->disk_bytes(vm->instance);
    }
    return KELPIE_OK;
}

void vm_stats_take_figures(const struct kelpie_vm *vm, struct kelpie_stats *stats) {
    const struct protocol_figures *figures = &vm->channel.answers.figures;
    const uint64_t memory_bytes = (uint64_t)vm->config->memory_mib << 20;
    ASSERT(vm->locked);
    ASSERT(memory_bytes > 0);
    bool possible = figures->memory_available_bytes <= figures->memory_total_bytes &&
                    figures->memory_total_bytes <= memory_bytes;
    stats->guest_memory_bytes = possible ? figures->memory_total_bytes : memory_bytes;
    stats->guest_available_bytes = possible ? figures->memory_available_bytes : 0;
}

/* One that does not answer has told nothing. */
static void ask_guest(struct kelpie_vm *vm, struct kelpie_stats *stats) {
    ASSERT(vm->locked);
    ASSERT(vm->busy);
    bool known = false;
    struct kelpie_error ignored;
    struct vm_wait wait = vm_wait_start(vm, VM_STATUS_TIMEOUT_MS);
    stats->guest_memory_bytes = (uint64_t)vm->config->memory_mib << 20;
    bool asked = vm->state == KELPIE_STATE_RUNNING && vm_channel_is_heard(vm) &&
                 vm_say_status(vm, &wait, &known, &ignored) == KELPIE_OK;
    if (asked && known) {
        vm_stats_take_figures(vm, stats);
    }
}

enum kelpie_status kelpie_vm_stats(struct kelpie_vm *vm, struct kelpie_stats *ret_stats,
                                   struct kelpie_error *err) {
    vm_check(vm);
    ASSERT(ret_stats);
    if (vm_is_owned(vm)) {
        return vm_owned_stats(vm, ret_stats, err);
    }
    struct kelpie_stats stats = {0};
    TRY(vm_begin(vm, VM_OPERATION_MEASURE, vm->config->operation_timeout_ms, NULL, err));
    enum kelpie_status status = measure_process(vm, &stats, err);
    vm_lock(vm);
    if (!vm->machine_alive) {
        status = error_set(err, KELPIE_CRASHED, "the VM crashed: %s", vm->exit_text);
    }
    if (status == KELPIE_OK) {
        ask_guest(vm, &stats);
        stats.exec_count = (uint32_t)vm->guest_session_count;
        stats.uptime_ns = host_monotonic_ns(vm->host) - vm->machine_started_ns;
        *ret_stats = stats;
    }
    vm_unlock(vm);
    vm_end(vm, status);
    return status;
}
