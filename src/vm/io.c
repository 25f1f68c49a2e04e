/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The I/O thread of a machine: reads what the guest says, writes what is queued for it, lets the
 * backend read its own descriptors, and notices at once when the machine has ended.
 */
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "vm/vm.h"

enum { ITEM_WAKE = 0, ITEM_EXIT, ITEM_CHANNEL, ITEM_SERVICE };

#define ITEM_COUNT_MAX (ITEM_SERVICE + BACKEND_SERVICE_FD_COUNT_MAX)

/* What to wait for now. Returns how many items; 0: the thread is to end. */
static size_t collect_items(struct kelpie_vm *vm, struct host_poll_item *items) {
    ASSERT(vm);
    ASSERT(items);
    struct vm_channel *channel = &vm->channel;
    vm_lock(vm);
    bool stop = vm->io_stop;
    bool talking = channel->open && channel->broken[0] == 0 && !channel->ended;
    bool pending = channel->out_start < channel->out_end;
    host_event_clear(vm->host, vm->wake_event);
    vm_unlock(vm);
    if (stop) {
        return 0;
    }
    items[ITEM_WAKE] = (struct host_poll_item){.fd = vm->wake_event, .asked = HOST_POLL_READ};
    items[ITEM_EXIT] =
        (struct host_poll_item){.fd = vm->ops->exit_fd(vm->instance), .asked = HOST_POLL_READ};
    items[ITEM_CHANNEL] = (struct host_poll_item){
        .fd = talking ? vm->ops->channel_fd(vm->instance) : HOST_FD_NONE,
        .asked = HOST_POLL_READ | (pending ? HOST_POLL_WRITE : 0u),
    };
    int fds[BACKEND_SERVICE_FD_COUNT_MAX];
    size_t count = vm->ops->service_fds(vm->instance, fds, BACKEND_SERVICE_FD_COUNT_MAX);
    ASSERT(count <= BACKEND_SERVICE_FD_COUNT_MAX);
    for (size_t i = 0; i < count; i++) {
        items[ITEM_SERVICE + i] = (struct host_poll_item){.fd = fds[i], .asked = HOST_POLL_READ};
    }
    return ITEM_SERVICE + count;
}

/* The channel ends a moment before its machine when that dies: then the exit is what matters. True: the
 * machine has ended, which the next turn notes. */
static bool exit_follows(struct kelpie_vm *vm) {
    ASSERT(vm->ops);
    ASSERT(vm->instance);
    struct host_poll_item item = {.fd = vm->ops->exit_fd(vm->instance), .asked = HOST_POLL_READ};
    struct host_wait wait = host_wait_ms(vm->host, VM_EXIT_GRACE_MS, HOST_FD_NONE);
    struct kelpie_error ignored;
    return host_poll(vm->host, &item, 1, &wait, &ignored) == KELPIE_OK;
}

/* The channel has ended, and the machine has not, as far as is known. */
static void note_channel_end(struct kelpie_vm *vm) {
    ASSERT(vm->instance);
    ASSERT(vm->channel.in);
    vm_lock(vm);
    if (vm_is_owned(vm)) {
        vm->channel.ended = true; /* the owner may be about to say why */
        vm->owner_channel_ended_ns = host_monotonic_ns(vm->host);
    } else {
        vm_channel_break(vm, "the guest's end of the channel was closed");
    }
    vm_unlock(vm);
}

/* Gives the decoder what the channel has now. False: there was nothing. */
static bool read_some(struct kelpie_vm *vm) {
    ASSERT(vm->ops);
    ASSERT(vm->instance);
    struct protocol_decoder *decoder = &vm->channel.decoder;
    size_t room = 0;
    uint8_t *space = protocol_decoder_space(decoder, &room);
    ASSERT(room > 0);
    struct host_wait none = host_wait_none();
    size_t count = 0;
    struct kelpie_error ignored;
    enum kelpie_status status = host_read(vm->host, vm->ops->channel_fd(vm->instance), space, room,
                                          &none, &count, &ignored);
    if (status == KELPIE_TIMED_OUT) {
        return false;
    }
    if (status != KELPIE_OK || count == 0) {
        if (vm_is_owned(vm) || !exit_follows(vm)) {
            note_channel_end(vm);
        }
        return false;
    }
    protocol_decoder_filled(decoder, count);
    return true;
}

static void read_channel(struct kelpie_vm *vm) {
    ASSERT(vm->instance);
    ASSERT(vm->channel.in);
    struct vm_channel *channel = &vm->channel;
    vm_lock(vm);
    bool open = channel->open; /* what an owner told just now may have closed it */
    vm_unlock(vm);
    if (!open || !read_some(vm)) {
        return;
    }
    vm_lock(vm);
    /* Bounded: the buffer holds so many bytes, and each round takes some out. */
    for (;;) {
        struct protocol_frame frame;
        enum protocol_result result = protocol_decoder_next(&channel->decoder, &frame);
        if (result == PROTOCOL_RESULT_MORE) {
            break;
        }
        if (result == PROTOCOL_RESULT_MALFORMED && channel->connected) {
            vm_channel_break(vm, "the guest sent bytes that are no frame");
            break;
        }
        if (result == PROTOCOL_RESULT_MALFORMED) {
            protocol_decoder_scan(&channel->decoder);
        } else if (!vm_channel_handle(vm, &frame)) {
            break;
        }
    }
    vm_channel_flush(vm);
    vm_relays_wake(vm);
    host_condition_broadcast(vm->changed);
    vm_unlock(vm);
}

/* The machine has ended by itself, or because somebody wanted it to. */
static void note_exit(struct kelpie_vm *vm) {
    ASSERT(vm->instance);
    ASSERT(vm->ops);
    char text[sizeof(vm->exit_text)];
    vm->ops->exit_text(vm->instance, text, sizeof(text));
    vm_lock(vm);
    memcpy(vm->exit_text, text, sizeof(text));
    vm->machine_alive = false;
    vm->machine_ended = !vm->stopping;
    vm_channel_close(vm);
    /* While starting, the starter says what became of it. */
    if (!vm->stopping && vm->state != KELPIE_STATE_STARTING) {
        vm_set_state(vm, KELPIE_STATE_CRASHED);
    }
    host_condition_broadcast(vm->changed);
    vm_unlock(vm);
}

static void serve(struct kelpie_vm *vm, int fd) {
    ASSERT(vm->instance);
    ASSERT(fd != HOST_FD_NONE);
    if (vm_is_owned(vm)) {
        vm_owned_service(vm, fd);
    } else {
        vm->ops->service(vm->instance, fd);
    }
}

static void io_main(void *argument) {
    ASSERT(argument);
    struct kelpie_vm *vm = argument;
    struct host_poll_item items[ITEM_COUNT_MAX];
    /* Ends with the machine or by vm_io_stop(); each turn waits a bounded time. */
    for (;;) {
        size_t count = collect_items(vm, items);
        if (count == 0) {
            return;
        }
        struct host_wait wait = host_wait_ms(vm->host, VM_POLL_PERIOD_MS, HOST_FD_NONE);
        struct kelpie_error err;
        enum kelpie_status status = host_poll(vm->host, items, count, &wait, &err);
        if (vm_is_owned(vm)) {
            vm_owned_watch(vm);
        }
        if (status == KELPIE_TIMED_OUT) {
            continue;
        }
        if (status != KELPIE_OK) {
            /* Blind: the machine cannot be looked after any more. */
            if (vm_is_owned(vm)) {
                vm_owned_blind(vm);
                return;
            }
            vm->ops->kill(vm->instance);
            note_exit(vm);
            return;
        }
        for (size_t i = ITEM_SERVICE; i < count; i++) {
            if (items[i].ready) {
                serve(vm, items[i].fd);
            }
        }
        if ((items[ITEM_CHANNEL].ready & HOST_POLL_READ) &&
            items[ITEM_CHANNEL].fd == vm->ops->channel_fd(vm->instance)) {
            read_channel(vm);
        }
        if (items[ITEM_CHANNEL].ready & HOST_POLL_WRITE) {
            vm_lock(vm);
            vm_channel_flush(vm);
            vm_unlock(vm);
        }
        if (items[ITEM_EXIT].ready) {
            note_exit(vm);
            return;
        }
    }
}

enum kelpie_status vm_io_thread_start(struct kelpie_vm *vm, struct kelpie_error *err) {
    ASSERT(vm->instance);
    ASSERT(!vm->io_thread);
    return host_thread_start(vm->host, "kelpie-io", io_main, vm, &vm->io_thread, err);
}

enum kelpie_status vm_io_start(struct kelpie_vm *vm, struct kelpie_error *err) {
    ASSERT(vm->busy);
    ASSERT(!vm->channel.open);
    ASSERT(!vm->io_thread);
    vm_lock(vm);
    vm->machine_alive = true;
    vm->machine_started_ns = host_monotonic_ns(vm->host);
    vm->stopping = vm->stop_asked; /* by whoever could not kill what did not run yet */
    vm->io_stop = false;
    vm->exit_text[0] = 0;
    vm_channel_open(vm);
    vm_unlock(vm);
    enum kelpie_status status = vm_io_thread_start(vm, err);
    if (status != KELPIE_OK) {
        vm_lock(vm);
        vm->machine_alive = false;
        vm_channel_close(vm);
        vm_unlock(vm);
    }
    return status;
}

void vm_io_stop(struct kelpie_vm *vm) {
    ASSERT(vm->busy);
    ASSERT(vm->instance);
    if (!vm->io_thread) {
        return;
    }
    vm_lock(vm);
    vm->io_stop = true;
    host_event_set(vm->host, vm->wake_event);
    vm_unlock(vm);
    host_thread_join(vm->io_thread);
    vm->io_thread = NULL;
    vm_lock(vm);
    vm->machine_alive = false;
    if (vm->channel.open) {
        vm_channel_close(vm);
    }
    vm_unlock(vm);
}
