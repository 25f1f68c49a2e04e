/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* A relay's socket, its queue and its thread. See relay.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"
#include "vm/relay_internal.h"

enum { ITEM_WAKE = 0, ITEM_FAR, ITEM_COUNT };

/* ---- The queue to the far end ------------------------------------------------------------------- */

/* Other memory for the queue, with what is in it. False: there is none. */
static bool out_resize(struct vm_relay *relay, size_t capacity) {
    size_t size = relay->out_end - relay->out_start;
    ASSERT(size <= capacity);
    ASSERT(relay->out_start <= relay->out_end);
    struct kelpie_error ignored;
    uint8_t *out = host_allocate(relay->vm->host, capacity, &ignored);
    if (!out) {
        return false;
    }
    if (size > 0) {
        memcpy(out, relay->out + relay->out_start, size);
    }
    free(relay->out);
    relay->out = out;
    relay->out_capacity = capacity;
    relay->out_start = 0;
    relay->out_end = size;
    return true;
}

/* Makes room for size bytes behind out_end. */
static bool out_grow(struct vm_relay *relay, size_t size) {
    size_t held = relay->out_end - relay->out_start;
    ASSERT(size > 0);
    ASSERT(relay->out_end <= relay->out_capacity);
    if (relay->out_capacity - relay->out_end >= size) {
        return true;
    }
    if (held + size > VM_RELAY_OUT_SIZE_MAX) {
        return false;
    }
    size_t capacity = relay->out_capacity;
    while (capacity < 2 * held + size) { /* doubled, so that a byte is seldom moved */
        capacity *= 2;
    }
    if (capacity > relay->out_capacity) {
        return out_resize(relay, capacity);
    }
    memmove(relay->out, relay->out + relay->out_start, held);
    relay->out_start = 0;
    relay->out_end = held;
    return true;
}

struct cursor_writer relay_writer(struct vm_relay *relay, size_t size) {
    ASSERT(relay->vm->locked);
    ASSERT(size > 0);
    if (relay->ended || !out_grow(relay, size)) {
        relay_end(relay);
        struct cursor_writer none = cursor_writer_init(relay->out, 0);
        none.failed = true;
        return none;
    }
    return cursor_writer_init(relay->out + relay->out_end, size);
}

/* Writes what the socket takes now. */
static void out_write(struct vm_relay *relay) {
    ASSERT(relay->vm->locked);
    ASSERT(relay->out_start <= relay->out_end);
    struct host *host = relay->vm->host;
    struct host_wait none = host_wait_none();
    while (!relay->ended && !relay->deaf && relay->out_start < relay->out_end) {
        size_t written = 0;
        struct kelpie_error ignored;
        enum kelpie_status status =
            host_write(host, relay->fd, relay->out + relay->out_start,
                       relay->out_end - relay->out_start, &none, &written, &ignored);
        if (status == KELPIE_TIMED_OUT) {
            return;
        }
        /* It is gone, but what it said before, of what it had read, is still to be passed on: reading finds the end. */
        relay->deaf = status != KELPIE_OK;
        relay->out_start += written;
    }
    if (relay->deaf) {
        relay->out_start = relay->out_end;
    }
    if (relay->out_start == relay->out_end) {
        relay->out_start = 0;
        relay->out_end = 0;
        if (relay->out_capacity > VM_RELAY_OUT_SIZE_MIN) {
            (void)out_resize(relay, VM_RELAY_OUT_SIZE_MIN);
        }
    }
}

void relay_commit(struct vm_relay *relay, const struct cursor_writer *writer) {
    ASSERT(relay->vm->locked);
    if (writer->failed) {
        return; /* it has ended */
    }
    ASSERT(writer->data == relay->out + relay->out_end);
    ASSERT(writer->size <= relay->out_capacity - relay->out_end);
    relay->out_end += writer->size;
    out_write(relay);
    if (!relay->ended && relay->out_start < relay->out_end) {
        host_event_set(relay->vm->host, relay->wake_event); /* its thread writes on when it can */
    }
}

/* ---- Its end ------------------------------------------------------------------------------------ */

void relay_let_go(struct kelpie_exec *exec) {
    struct kelpie_vm *vm = exec->vm;
    ASSERT(vm->locked);
    ASSERT(exec->relay && !exec->closed);
    bool file = exec->kind == VM_SESSION_FILE;
    if (!file && (exec->started || exec->offsets_known)) {
        vm_session_note_offsets(exec);
    }
    vm_session_give_up_attach(exec);
    exec->closed = true;
    exec->release_wanted = file && !exec->lost; /* nobody can take it up */
    exec->relay = NULL;
    struct kelpie_exec *handle = vm_session_find_yielded(vm, exec->id);
    if (handle) {
        vm_session_take_back(handle);
    }
}

void relay_end(struct vm_relay *relay) {
    struct kelpie_vm *vm = relay->vm;
    ASSERT(vm->locked);
    ASSERT(vm->session_count <= KELPIE_EXEC_COUNT_MAX);
    if (relay->ended) {
        return;
    }
    relay->ended = true;
    for (size_t i = 0; i < vm->session_count; i++) {
        struct kelpie_exec *exec = vm->sessions[i];
        if (exec->relay == relay && !exec->closed) {
            relay_let_go(exec);
        }
    }
    host_event_set(vm->host, relay->wake_event);
    vm_relays_wake(vm); /* those who wait for its sessions */
    host_condition_broadcast(vm->changed);
}

bool vm_relay_has_looked(struct vm_relay *relay, struct vm_relay_look *look) {
    struct kelpie_vm *vm = relay->vm;
    ASSERT(vm->locked);
    ASSERT(look && look->ticket <= vm->relay_look_wanted);
    if (look->ticket == 0) {
        look->ticket = ++vm->relay_look_wanted;
        look->deadline_ns = host_wait_ms(vm->host, VM_RELAY_LOOK_MS, HOST_FD_NONE).deadline_ns;
        host_event_set(vm->host, relay->wake_event);
    }
    return relay->ended || relay->looked >= look->ticket ||
           host_monotonic_ns(vm->host) >= look->deadline_ns;
}

void vm_relays_catch_up(struct kelpie_vm *vm, const struct vm_wait *wait) {
    struct vm_relay_look look = {0};
    bool behind = true;
    ASSERT(vm->locked);
    ASSERT(wait);
    while (behind) {
        behind = false;
        uint64_t ticket = look.ticket;
        for (size_t i = 0; i < vm->relay_count; i++) {
            behind |= !vm_relay_has_looked(vm->relays[i], &look);
        }
        if (ticket == 0) { /* drawn just now: they are all to look */
            for (size_t i = 0; i < vm->relay_count; i++) {
                host_event_set(vm->host, vm->relays[i]->wake_event);
            }
        }
        uint64_t deadline_ns =
            look.deadline_ns < wait->deadline_ns ? look.deadline_ns : wait->deadline_ns;
        behind = behind && vm->channel.open && vm_wait_changed(vm, deadline_ns);
    }
}

void vm_relays_lose(struct kelpie_vm *vm) {
    ASSERT(vm->locked);
    ASSERT(!vm->channel.open);
    for (size_t i = 0; i < vm->relay_count; i++) {
        vm->relays[i]->lost = true;
        host_event_set(vm->host, vm->relays[i]->wake_event);
    }
    for (size_t i = 0; i < vm->session_count; i++) {
        struct kelpie_exec *exec = vm->sessions[i];
        if (exec->relay && !exec->closed) {
            exec->lost = true;
            exec->closed = true; /* it has no handle: nobody else frees it */
        }
    }
}

void vm_relays_wake(struct kelpie_vm *vm) {
    ASSERT(vm->locked);
    ASSERT(vm->relay_count <= VM_RELAY_COUNT_MAX);
    for (size_t i = 0; i < vm->relay_count; i++) {
        struct vm_relay *relay = vm->relays[i];
        if (relay->waits) {
            relay->waits = false;
            host_event_set(vm->host, relay->wake_event);
        }
    }
}

/* ---- The thread --------------------------------------------------------------------------------- */

/* Passes on what has been read, as far as that goes now. True: the far end is to be read. */
static bool pass_frames(struct vm_relay *relay) {
    ASSERT(relay->vm->locked);
    ASSERT(!relay->ended);
    /* Bounded: the buffer holds so many bytes, and each round takes some out. */
    for (;;) {
        if (!relay->has_frame) {
            enum protocol_result result = protocol_decoder_next(&relay->decoder, &relay->frame);
            if (result == PROTOCOL_RESULT_MORE) {
                return true;
            }
            if (result == PROTOCOL_RESULT_MALFORMED) {
                relay_end(relay);
                return false;
            }
            relay->has_frame = true;
        }
        switch (relay_pass(relay)) {
        case RELAY_PASSED:
            relay->has_frame = false;
            break;
        case RELAY_WAITS:
            relay->waits = true;
            return false;
        case RELAY_BROKEN:
            relay_end(relay);
            return false;
        }
        if (relay->ended) {
            return false; /* by what came of it */
        }
    }
}

/* Gives the decoder what the socket has now. False: there is nothing. */
static bool read_far(struct vm_relay *relay) {
    ASSERT(!relay->has_frame);
    size_t room = 0;
    uint8_t *space = protocol_decoder_space(&relay->decoder, &room);
    ASSERT(room > 0);
    struct host_wait none = host_wait_none();
    size_t count = 0;
    struct kelpie_error ignored;
    enum kelpie_status status =
        host_read(relay->vm->host, relay->fd, space, room, &none, &count, &ignored);
    if (status == KELPIE_TIMED_OUT) {
        return false;
    }
    if (status == KELPIE_OK && count > 0) {
        protocol_decoder_filled(&relay->decoder, count);
        return true;
    }
    vm_lock(relay->vm);
    relay_end(relay);
    vm_unlock(relay->vm);
    return false;
}

/* Whoever closes the relay may be quicker than it: what the far end has said before is still passed on, if it can be. */
static void pass_last_words(struct vm_relay *relay) {
    struct kelpie_vm *vm = relay->vm;
    ASSERT(vm);
    ASSERT(relay->in);
    bool more = true;
    for (size_t i = 0; more && i < VM_RELAY_LAST_READ_COUNT_MAX; i++) {
        vm_lock(vm);
        more = !relay->ended && !relay->lost && pass_frames(relay);
        vm_unlock(vm);
        more = more && read_far(relay);
    }
}

/* Somebody wants to know whether all that the far end has said was passed on. reads: as far as it was read, it was. */
static void look(struct vm_relay *relay, bool reads) {
    struct kelpie_vm *vm = relay->vm;
    ASSERT(!relay->has_frame || !reads);
    vm_lock(vm);
    uint64_t wanted = vm->relay_look_wanted;
    bool looks = reads && wanted > relay->looked;
    vm_unlock(vm);
    if (!looks) {
        return;
    }
    bool more = read_far(relay);
    vm_lock(vm);
    ASSERT(wanted <= vm->relay_look_wanted);
    if (more) {
        host_event_set(vm->host, relay->wake_event); /* another turn, and another look */
    } else {
        relay->looked = wanted;
        vm_relays_wake(vm);
        host_condition_broadcast(vm->changed);
    }
    vm_unlock(vm);
}

/* One look at everything: what to wait for. False: the thread is to end. */
static bool relay_turn(struct vm_relay *relay, uint64_t *lost_ns, struct host_poll_item *items) {
    struct kelpie_vm *vm = relay->vm;
    ASSERT(items);
    ASSERT(lost_ns);
    vm_lock(vm);
    host_event_clear(vm->host, relay->wake_event);
    bool reads = !relay->lost && !relay->closing && !relay->ended && pass_frames(relay);
    if (!relay->ended) {
        out_write(relay);
    }
    bool pending = !relay->ended && relay->out_start < relay->out_end;
    if (relay->lost && !relay->ended) {
        uint64_t now_ns = host_monotonic_ns(vm->host);
        *lost_ns = *lost_ns == 0 ? now_ns : *lost_ns;
        if (!pending || now_ns - *lost_ns > VM_RELAY_DRAIN_MS * HOST_NS_PER_MS) {
            relay_end(relay);
        }
    }
    bool goes_on = !relay->ended && !relay->closing;
    vm_unlock(vm);
    look(relay, reads && goes_on);
    items[ITEM_WAKE] = (struct host_poll_item){.fd = relay->wake_event, .asked = HOST_POLL_READ};
    items[ITEM_FAR] = (struct host_poll_item){
        .fd = reads || pending ? relay->fd : HOST_FD_NONE,
        .asked = (reads ? HOST_POLL_READ : 0u) | (pending ? HOST_POLL_WRITE : 0u),
    };
    return goes_on;
}

static void relay_main(void *argument) {
    struct vm_relay *relay = argument;
    struct kelpie_vm *vm = relay->vm;
    struct host_poll_item items[ITEM_COUNT];
    uint64_t lost_ns = 0;
    ASSERT(relay->fd != HOST_FD_NONE);
    ASSERT(relay->wake_event != HOST_FD_NONE);
    /* Ends with the far end, the machine, or by vm_relay_close(); each turn waits a bounded time. */
    while (relay_turn(relay, &lost_ns, items)) {
        struct host_wait wait = host_wait_ms(vm->host, VM_POLL_PERIOD_MS, HOST_FD_NONE);
        struct kelpie_error ignored;
        enum kelpie_status status = host_poll(vm->host, items, ITEM_COUNT, &wait, &ignored);
        if (status != KELPIE_OK && status != KELPIE_TIMED_OUT) {
            break; /* blind */
        }
        if (status == KELPIE_OK && (items[ITEM_FAR].ready & HOST_POLL_READ)) {
            (void)read_far(relay);
        }
    }
    pass_last_words(relay);
    vm_lock(vm);
    relay_end(relay);
    vm_channel_flush(vm);            /* what its sessions have still to say */
    host_close(vm->host, relay->fd); /* the far end sees it at once */
    relay->fd = HOST_FD_NONE;
    vm_unlock(vm);
}

/* ---- Opening and closing ------------------------------------------------------------------------ */

uint32_t vm_relay_ids(struct kelpie_vm *vm) {
    vm_check(vm);
    const uint32_t block_count = UINT32_MAX / VM_RELAY_IDS_COUNT; /* the last is not whole */
    vm_lock(vm);
    ASSERT(vm->relay_block_last <= block_count);
    bool taken = true;
    uint32_t block = vm->relay_block_last;
    /* Ends: there are more blocks than sessions and relays. */
    while (taken) {
        block = block + 1 < block_count ? block + 1 : 1;
        taken = false;
        for (size_t i = 0; i < vm->guest_session_count; i++) {
            taken |= vm->guest_sessions[i].id / VM_RELAY_IDS_COUNT == block;
        }
        for (size_t i = 0; i < vm->saved_session_count; i++) {
            taken |= vm->saved_sessions[i].id / VM_RELAY_IDS_COUNT == block;
        }
        for (size_t i = 0; i < vm->relay_count; i++) {
            taken |= vm->relays[i]->options.ids_first / VM_RELAY_IDS_COUNT == block;
        }
    }
    vm->relay_block_last = block;
    vm_unlock(vm);
    return block * VM_RELAY_IDS_COUNT;
}

/* Everything but the thread, of a relay that has its VM and its socket. */
static enum kelpie_status relay_init(struct vm_relay *relay, struct kelpie_error *err) {
    struct host *host = relay->vm->host;
    ASSERT(relay->fd != HOST_FD_NONE);
    ASSERT(relay->wake_event == HOST_FD_NONE);
    TRY(host_event_create(host, &relay->wake_event, err));
    relay->in = host_allocate(host, PROTOCOL_FRAME_SIZE_MAX, err);
    if (!relay->in) {
        return KELPIE_NO_MEMORY;
    }
    relay->out = host_allocate(host, VM_RELAY_OUT_SIZE_MIN, err);
    if (!relay->out) {
        return KELPIE_NO_MEMORY;
    }
    relay->out_capacity = VM_RELAY_OUT_SIZE_MIN;
    protocol_decoder_init(&relay->decoder, relay->in, PROTOCOL_FRAME_SIZE_MAX);
    memcpy(relay->out, PROTOCOL_SYNC, PROTOCOL_SYNC_SIZE);
    relay->out_end = PROTOCOL_SYNC_SIZE;
    return KELPIE_OK;
}

static void relay_free(struct vm_relay *relay) {
    struct host *host = relay->vm->host;
    ASSERT(!relay->thread);
    host_close(host, relay->fd);
    host_close(host, relay->wake_event);
    free(relay->in);
    free(relay->out);
    free(relay);
}

/* The VM knows of it from here on. */
static enum kelpie_status relay_add(struct vm_relay *relay, struct kelpie_error *err) {
    struct kelpie_vm *vm = relay->vm;
    ASSERT(vm->locked);
    ASSERT(vm->relay_count <= VM_RELAY_COUNT_MAX);
    if (vm->state != KELPIE_STATE_RUNNING && vm->state != KELPIE_STATE_PAUSED) {
        return error_set_field(err, KELPIE_WRONG_STATE, kelpie_state_name(vm->state),
                               "cannot relay to a VM that is %s; it must be running or paused",
                               kelpie_state_name(vm->state));
    }
    TRY(vm_check_alive(vm, "relay to the guest", err));
    if (vm->relay_count == VM_RELAY_COUNT_MAX) {
        return error_set(err, KELPIE_BUSY, "the VM has %d relays already", VM_RELAY_COUNT_MAX);
    }
    vm->relays[vm->relay_count++] = relay;
    return KELPIE_OK;
}

static void relay_remove(struct vm_relay *relay) {
    struct kelpie_vm *vm = relay->vm;
    ASSERT(vm->locked);
    ASSERT(relay->ended);
    size_t kept = 0;
    for (size_t i = 0; i < vm->relay_count; i++) {
        if (vm->relays[i] != relay) {
            vm->relays[kept++] = vm->relays[i];
        }
    }
    ASSERT(kept + 1 == vm->relay_count);
    vm->relay_count = kept;
    vm_sessions_collect(vm);
}

static enum kelpie_status relay_start(struct vm_relay *relay, struct kelpie_error *err) {
    struct kelpie_vm *vm = relay->vm;
    TRY(relay_init(relay, err));
    ASSERT(!relay->thread);
    vm_lock(vm);
    enum kelpie_status status = relay_add(relay, err);
    vm_unlock(vm);
    TRY(status);
    ASSERT(vm->relay_count > 0);
    status = host_thread_start(vm->host, "kelpie-relay", relay_main, relay, &relay->thread, err);
    if (status != KELPIE_OK) {
        vm_lock(vm);
        relay_end(relay);
        relay_remove(relay);
        vm_unlock(vm);
    }
    return status;
}

enum kelpie_status vm_relay_open(struct kelpie_vm *vm, int fd,
                                 const struct vm_relay_options *options,
                                 struct vm_relay **ret_relay, struct kelpie_error *err) {
    vm_check(vm);
    ASSERT(fd != HOST_FD_NONE);
    ASSERT(options && ret_relay);
    ASSERT(options->ids_first >= VM_RELAY_IDS_COUNT);
    ASSERT(options->ids_count > 1 && options->ids_count <= UINT32_MAX - options->ids_first);
    struct vm_relay *relay = host_allocate(vm->host, sizeof(*relay), err);
    if (!relay) {
        host_close(vm->host, fd);
        return KELPIE_NO_MEMORY;
    }
    relay->vm = vm;
    relay->options = *options;
    relay->fd = fd;
    relay->wake_event = HOST_FD_NONE;
    relay->id_last = options->ids_first - 1;
    enum kelpie_status status = relay_start(relay, err);
    if (status != KELPIE_OK) {
        relay_free(relay);
        return status;
    }
    *ret_relay = relay;
    return KELPIE_OK;
}

bool vm_relay_has_ended(struct vm_relay *relay) {
    ASSERT(relay);
    vm_lock(relay->vm);
    bool ended = relay->ended || relay->lost;
    vm_unlock(relay->vm);
    return ended;
}

size_t vm_relay_session_count(struct vm_relay *relay) {
    ASSERT(relay);
    struct kelpie_vm *vm = relay->vm;
    size_t count = 0;
    vm_lock(vm);
    ASSERT(vm->session_count <= KELPIE_EXEC_COUNT_MAX);
    for (size_t i = 0; i < vm->session_count; i++) {
        count += vm->sessions[i]->relay == relay && !vm->sessions[i]->closed;
    }
    vm_unlock(vm);
    return count;
}

void vm_relay_close(struct vm_relay *relay) {
    if (!relay) {
        return;
    }
    struct kelpie_vm *vm = relay->vm;
    vm_check(vm);
    vm_lock(vm);
    relay->closing = true;
    host_event_set(vm->host, relay->wake_event);
    vm_unlock(vm);
    host_thread_join(relay->thread);
    relay->thread = NULL;
    vm_lock(vm);
    ASSERT(relay->ended);
    relay_remove(relay);
    vm_unlock(vm);
    relay_free(relay);
}

void vm_relay_exit_text(struct kelpie_vm *vm, char *buffer, size_t size) {
    vm_check(vm);
    ASSERT(buffer && size > 0);
    vm_lock(vm);
    snprintf(buffer, size, "%s", vm->state == KELPIE_STATE_CRASHED ? vm->exit_text : "");
    vm_unlock(vm);
}
