/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What the host says to the guest's agent on session 0, and what it makes of the answers. */
#include <errno.h>
#include <string.h>

#include "base/assert.h"
#include "vm/vm.h"

#define SMALL_FRAME_SIZE 1024 /* room for every frame here but a SETUP with its paths */
#define SETUP_FRAME_SIZE                                                                           \
    (PROTOCOL_HEADER_SIZE + 1024 + KELPIE_DISK_COUNT_MAX * (KELPIE_PATH_SIZE_MAX + 16))

static enum kelpie_status say_empty(struct kelpie_vm *vm, enum protocol_type type,
                                    const struct vm_wait *wait, struct kelpie_error *err) {
    ASSERT(vm->locked);
    ASSERT(wait);
    struct cursor_writer writer;
    TRY(vm_channel_reserve(vm, SMALL_FRAME_SIZE, wait, &writer, err));
    protocol_encode_empty(&writer, type, 0);
    vm_channel_commit(vm, &writer);
    return KELPIE_OK;
}

static enum kelpie_status send_hello(struct kelpie_vm *vm, const struct vm_wait *wait,
                                     struct kelpie_error *err) {
    ASSERT(vm->locked);
    ASSERT(wait);
    struct cursor_writer writer;
    TRY(vm_channel_reserve(vm, SMALL_FRAME_SIZE, wait, &writer, err));
    struct protocol_hello hello;
    memcpy(hello.nonce, vm->channel.nonce, sizeof(hello.nonce));
    protocol_encode_hello(&writer, &hello);
    vm_channel_commit(vm, &writer);
    return KELPIE_OK;
}

/* Zeros are no frame: a guest that waits for the rest of one gets it, and then looks for a SYNC. */
static enum kelpie_status send_padding(struct kelpie_vm *vm, const struct vm_wait *wait,
                                       struct kelpie_error *err) {
    ASSERT(vm->locked);
    ASSERT(wait);
    struct cursor_writer writer;
    TRY(vm_channel_reserve(vm, PROTOCOL_FRAME_SIZE_MAX, wait, &writer, err));
    memset(writer.data, 0, PROTOCOL_FRAME_SIZE_MAX);
    writer.size = PROTOCOL_FRAME_SIZE_MAX;
    vm_channel_commit(vm, &writer);
    return KELPIE_OK;
}

enum kelpie_status vm_say_hello(struct kelpie_vm *vm, bool resync, const struct vm_wait *wait,
                                struct kelpie_error *err) {
    ASSERT(vm->locked);
    struct vm_channel *channel = &vm->channel;
    ASSERT(vm->busy);
    TRY(host_random(vm->host, channel->nonce, sizeof(channel->nonce), err));
    TRY(send_hello(vm, wait, err));
    uint64_t retry_ns = host_monotonic_ns(vm->host) + VM_HELLO_RETRY_MS * HOST_NS_PER_MS;
    bool padded = !resync;
    while (channel->answers.hello_count == 0) {
        struct vm_wait step = *wait;
        if (!padded && retry_ns < step.deadline_ns) {
            step.deadline_ns = retry_ns;
        }
        enum kelpie_status status = vm_wait_step(vm, &step, "the guest to answer", err);
        if (status == KELPIE_TIMED_OUT && !padded && step.deadline_ns == retry_ns) {
            padded = true;
            TRY(send_padding(vm, wait, err));
            TRY(send_hello(vm, wait, err));
        } else if (status != KELPIE_OK) {
            return status;
        }
    }
    return KELPIE_OK;
}

/* A new identity; machine_id has PROTOCOL_MACHINE_ID_SIZE + 1 bytes and outlives it. */
static enum kelpie_status make_identity(struct kelpie_vm *vm, char *machine_id,
                                        struct protocol_identity *ret_identity,
                                        struct kelpie_error *err) {
    ASSERT(ret_identity);
    ASSERT(vm->locked);
    ASSERT(machine_id);
    struct protocol_identity identity = {
        .hostname = vm->neutral ? VM_NEUTRAL_NAME : vm->config->hostname,
        .machine_id = machine_id,
    };
    TRY(vm_random_hex(vm->host, machine_id, PROTOCOL_MACHINE_ID_SIZE, err));
    TRY(host_random(vm->host, identity.entropy, sizeof(identity.entropy), err));
    TRY(host_random(vm->host, identity.generation, sizeof(identity.generation), err));
    identity.realtime_ns = host_realtime_ns(vm->host);
    *ret_identity = identity;
    return KELPIE_OK;
}

/* What the next SETUP or THAW makes of the network interface. It has no answer of its own. */
static enum kelpie_status say_network(struct kelpie_vm *vm, const struct vm_wait *wait,
                                      struct kelpie_error *err) {
    ASSERT(vm->locked);
    ASSERT(wait);
    if (!vm->config->network) {
        return KELPIE_OK;
    }
    struct protocol_network network = vm_network_message(vm->config->network);
    struct cursor_writer writer;
    TRY(vm_channel_reserve(vm, SMALL_FRAME_SIZE, wait, &writer, err));
    protocol_encode_network(&writer, &network);
    vm_channel_commit(vm, &writer);
    return KELPIE_OK;
}

enum kelpie_status vm_say_setup(struct kelpie_vm *vm, const struct vm_wait *wait,
                                struct kelpie_error *err) {
    ASSERT(vm->locked);
    ASSERT(vm->busy);
    struct protocol_setup setup = {0};
    char machine_id[PROTOCOL_MACHINE_ID_SIZE + 1];
    TRY(make_identity(vm, machine_id, &setup.identity, err));
    vm_image_mounts(vm, &setup);
    TRY(say_network(vm, wait, err));
    struct cursor_writer writer;
    TRY(vm_channel_reserve(vm, SETUP_FRAME_SIZE, wait, &writer, err));
    protocol_encode_setup(&writer, &setup);
    vm_channel_commit(vm, &writer);

    struct vm_answers *answers = &vm->channel.answers;
    while (answers->setup_count == 0) {
        TRY(vm_wait_step(vm, wait, "the guest to set itself up", err));
    }
    if (answers->setup_os_error != 0) {
        return error_set_os(err, (int)(answers->setup_os_error & 0xfff),
                            "the guest could not set itself up: %s", answers->setup_message);
    }
    return KELPIE_OK;
}

enum kelpie_status vm_say_share(struct kelpie_vm *vm, const struct protocol_share *share,
                                const struct vm_wait *wait, struct kelpie_error *err) {
    ASSERT(vm->locked);
    ASSERT(vm->busy);
    struct vm_answers *answers = &vm->channel.answers;
    uint64_t before = answers->shared_count;
    struct cursor_writer writer;
    TRY(vm_channel_reserve(vm, SMALL_FRAME_SIZE + KELPIE_PATH_SIZE_MAX, wait, &writer, err));
    protocol_encode_share(&writer, share);
    vm_channel_commit(vm, &writer);
    while (answers->shared_count == before) {
        TRY(vm_wait_step(vm, wait, "the guest to mount a shared folder", err));
    }
    if (answers->shared_os_error == ENODEV) {
        return error_set_field(err, KELPIE_UNSUPPORTED, "kernel",
                               "the guest's kernel has no virtio-fs, which live folders take");
    }
    if (answers->shared_os_error != 0) {
        return error_set_os(err, (int)(answers->shared_os_error & 0xfff),
                            "the guest could not mount a shared folder: %s",
                            answers->shared_message);
    }
    return KELPIE_OK;
}

enum kelpie_status vm_say_freeze(struct kelpie_vm *vm, const struct vm_wait *wait,
                                 struct kelpie_error *err) {
    ASSERT(vm->locked);
    ASSERT(vm->busy);
    struct vm_answers *answers = &vm->channel.answers;
    uint64_t before = answers->frozen_count;
    vm_sessions_want_acks(vm);
    vm_channel_flush(vm);
    vm_relays_catch_up(vm, wait);
    vm->channel.held = true;
    vm->channel.holding = false;
    TRY(say_empty(vm, PROTOCOL_FREEZE, wait, err));
    while (answers->frozen_count == before) {
        TRY(vm_wait_step(vm, wait, "the guest's commands to stand still", err));
    }
    if (answers->frozen.os_error != 0) {
        return error_set_os(err, (int)(answers->frozen.os_error & 0xfff),
                            "the guest could not stop its commands");
    }
    return KELPIE_OK;
}

enum kelpie_status vm_say_hold(struct kelpie_vm *vm, const struct vm_wait *wait,
                               struct kelpie_error *err) {
    ASSERT(vm->locked);
    ASSERT(vm->busy);
    struct vm_channel *channel = &vm->channel;
    uint64_t before = channel->answers.frozen_count;
    vm_sessions_want_acks(vm);
    vm_channel_flush(vm);
    vm_relays_catch_up(vm, wait);
    channel->held = true;
    struct cursor_writer writer;
    TRY(vm_channel_reserve(vm, SMALL_FRAME_SIZE, wait, &writer, err));
    struct protocol_ping ping = {.token = ++channel->ping_token};
    protocol_encode_hold(&writer);
    protocol_encode_ping(&writer, PROTOCOL_PING, &ping); /* which every guest answers */
    vm_channel_commit(vm, &writer);
    while (channel->answers.frozen_count == before && channel->answers.pong_token < ping.token) {
        TRY(vm_wait_step(vm, wait, "the guest's commands to stand still", err));
    }
    if (channel->answers.frozen_count == before) {
        return error_set_field(err, KELPIE_UNSUPPORTED, "guest",
                               "the guest's agent is of an earlier version, which cannot keep a "
                               "folder while its commands stand still");
    }
    if (channel->answers.frozen.os_error != 0) {
        return error_set_os(err, (int)(channel->answers.frozen.os_error & 0xfff),
                            "the guest could not stop its commands");
    }
    channel->holding = true;
    return KELPIE_OK;
}

static enum kelpie_outcome outcome_of(enum protocol_outcome outcome) {
    static_assert((int)KELPIE_OUTCOME_COUNT == (int)PROTOCOL_OUTCOME_COUNT, "the same outcomes");
    ASSERT((unsigned)outcome < PROTOCOL_OUTCOME_COUNT);
    return (enum kelpie_outcome)outcome;
}

enum kelpie_status vm_say_thaw(struct kelpie_vm *vm, bool restored, const struct vm_wait *wait,
                               struct kelpie_error *err) {
    ASSERT(vm->locked);
    ASSERT(vm->busy);
    struct vm_answers *answers = &vm->channel.answers;
    uint64_t before = answers->thawed_count;
    struct protocol_thaw thaw = {.flags = restored ? PROTOCOL_THAW_RESTORED : 0};
    char machine_id[PROTOCOL_MACHINE_ID_SIZE + 1];
    TRY(make_identity(vm, machine_id, &thaw.identity, err));
    if (restored) {
        TRY(say_network(vm, wait, err));
    }
    struct cursor_writer writer;
    TRY(vm_channel_reserve(vm, SMALL_FRAME_SIZE, wait, &writer, err));
    protocol_encode_thaw(&writer, &thaw);
    vm_channel_commit(vm, &writer);
    while (answers->thawed_count == before) {
        TRY(vm_wait_step(vm, wait, "the guest to go on", err));
    }
    if (restored) {
        const struct protocol_thawed *thawed = &answers->thawed;
        vm->report = (struct kelpie_restore_report){
            .entropy = outcome_of(thawed->entropy),
            .generation = outcome_of(thawed->generation),
            .clock = outcome_of(thawed->clock),
            .network = outcome_of(thawed->network),
            .hostname = outcome_of(thawed->hostname),
            .machine_id = outcome_of(thawed->machine_id),
            .clock_skew_ns = thawed->clock_skew_ns,
        };
    }
    vm->channel.held = false;
    vm->channel.holding = false;
    vm_channel_flush(vm);
    vm_relays_wake(vm);
    host_condition_broadcast(vm->changed);
    return KELPIE_OK;
}

enum kelpie_status vm_say_list(struct kelpie_vm *vm, const struct vm_wait *wait,
                               struct kelpie_error *err) {
    struct vm_channel *channel = &vm->channel;
    ASSERT(vm->locked);
    TRY(say_empty(vm, PROTOCOL_LIST, wait, err));
    uint64_t mine = ++channel->list_count;
    while (channel->answers.sessions_count < mine) {
        TRY(vm_wait_step(vm, wait, "the guest to list its sessions", err));
    }
    ASSERT(channel->answers.sessions.count <= PROTOCOL_SESSION_COUNT_MAX);
    return KELPIE_OK;
}

enum kelpie_status vm_say_status(struct kelpie_vm *vm, const struct vm_wait *wait, bool *ret_known,
                                 struct kelpie_error *err) {
    struct vm_channel *channel = &vm->channel;
    ASSERT(vm->locked);
    ASSERT(ret_known);
    uint64_t before = channel->answers.figures_count;
    struct cursor_writer writer;
    TRY(vm_channel_reserve(vm, SMALL_FRAME_SIZE, wait, &writer, err));
    struct protocol_ping ping = {.token = ++channel->ping_token};
    protocol_encode_status(&writer);
    protocol_encode_ping(&writer, PROTOCOL_PING, &ping); /* which every guest answers */
    vm_channel_commit(vm, &writer);
    while (channel->answers.pong_token < ping.token) {
        TRY(vm_wait_step(vm, wait, "the guest to say what it has", err));
    }
    *ret_known = channel->answers.figures_count != before;
    return KELPIE_OK;
}

enum kelpie_status vm_say_power_off(struct kelpie_vm *vm, const struct vm_wait *wait,
                                    struct kelpie_error *err) {
    ASSERT(vm->locked);
    ASSERT(vm->stopping);
    return say_empty(vm, PROTOCOL_POWER_OFF, wait, err);
}

static enum kelpie_status ping_locked(struct kelpie_vm *vm, struct kelpie_error *err) {
    struct vm_channel *channel = &vm->channel;
    ASSERT(vm->locked);
    ASSERT(vm->ops);
    struct vm_wait wait = vm_wait_start(vm, vm->config->operation_timeout_ms);
    if (!vm_state_allows(VM_OPERATION_EXEC, vm->state)) {
        return vm_state_error(VM_OPERATION_EXEC, vm->state, err);
    }
    TRY(vm_channel_await_unheld(vm, &wait, err));
    struct cursor_writer writer;
    TRY(vm_channel_reserve(vm, SMALL_FRAME_SIZE, &wait, &writer, err));
    struct protocol_ping ping = {.token = ++channel->ping_token};
    protocol_encode_ping(&writer, PROTOCOL_PING, &ping);
    vm_channel_commit(vm, &writer);
    while (channel->answers.pong_token < ping.token) {
        TRY(vm_wait_step(vm, &wait, "the guest to answer a ping", err));
    }
    return KELPIE_OK;
}

enum kelpie_status kelpie_vm_ping(struct kelpie_vm *vm, uint64_t *ret_ns,
                                  struct kelpie_error *err) {
    vm_check(vm);
    ASSERT(ret_ns);
    uint64_t start_ns = host_monotonic_ns(vm->host);
    vm_lock(vm);
    enum kelpie_status status = ping_locked(vm, err);
    vm_unlock(vm);
    if (status == KELPIE_OK) {
        *ret_ns = host_monotonic_ns(vm->host) - start_ns;
    }
    return status;
}
