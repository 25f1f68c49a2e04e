/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Which sessions the guest has, held or not. It has room for so many; a client that is killed gives none back, and so a VM
 * that lives long would run out of them. Those whose command has ended and that nobody holds are therefore forgotten, the
 * oldest first, when there is little room.
 *
 * What is not known: that a session ended that nobody held (the guest tells only whoever attached last, and only once all output
 * is under way), or before a restore. Such a session stays until somebody attaches to it.
 */
#include "base/assert.h"
#include "vm/vm.h"

static struct vm_guest_session *find(struct kelpie_vm *vm, uint32_t id) {
    ASSERT(vm->locked);
    ASSERT(vm->guest_session_count <= PROTOCOL_SESSION_COUNT_MAX);
    for (size_t i = 0; i < vm->guest_session_count; i++) {
        if (vm->guest_sessions[i].id == id) {
            return &vm->guest_sessions[i];
        }
    }
    return NULL;
}

void vm_guest_session_opened(struct kelpie_vm *vm, uint32_t id) {
    ASSERT(vm->locked);
    ASSERT(id != 0);
    /* One that is beyond what the guest has room for is refused by it. */
    if (!find(vm, id) && vm->guest_session_count < PROTOCOL_SESSION_COUNT_MAX) {
        vm->guest_sessions[vm->guest_session_count++] = (struct vm_guest_session){.id = id};
    }
}

void vm_guest_session_ended(struct kelpie_vm *vm, uint32_t id) {
    ASSERT(vm->locked);
    ASSERT(id != 0);
    struct vm_guest_session *session = find(vm, id);
    if (session && session->end_number == 0) {
        session->end_number = ++vm->guest_session_ends;
    }
}

void vm_guest_session_released(struct kelpie_vm *vm, uint32_t id) {
    ASSERT(vm->locked);
    ASSERT(id != 0);
    struct vm_guest_session *session = find(vm, id);
    struct protocol_attach ignored;
    if (session) {
        *session = vm->guest_sessions[--vm->guest_session_count];
    }
    (void)vm_session_recall_offsets(vm, id, &ignored);
}

bool vm_guest_session_is_known(const struct kelpie_vm *vm, uint32_t id) {
    ASSERT(vm->locked);
    ASSERT(id != 0);
    for (size_t i = 0; i < vm->guest_session_count; i++) {
        if (vm->guest_sessions[i].id == id) {
            return true;
        }
    }
    return false;
}

/* The one that ended first of those that nobody holds; 0: there is none. */
static uint32_t oldest_to_forget(struct kelpie_vm *vm) {
    ASSERT(vm->locked);
    ASSERT(vm->guest_session_count <= PROTOCOL_SESSION_COUNT_MAX);
    const struct vm_guest_session *oldest = NULL;
    for (size_t i = 0; i < vm->guest_session_count; i++) {
        const struct vm_guest_session *session = &vm->guest_sessions[i];
        bool older =
            session->end_number != 0 && (!oldest || session->end_number < oldest->end_number);
        if (older && !vm_session_find(vm, session->id)) {
            oldest = session;
        }
    }
    return oldest ? oldest->id : 0;
}

void vm_guest_sessions_make_room(struct kelpie_vm *vm) {
    ASSERT(vm->locked);
    static_assert(VM_GUEST_SESSION_KEEP_MAX < PROTOCOL_SESSION_COUNT_MAX, "some are left");
    bool owned = vm->ops->owner != NULL; /* its owner does it */
    ASSERT(vm->guest_session_count <= PROTOCOL_SESSION_COUNT_MAX);
    while (!owned && vm->guest_session_count >= VM_GUEST_SESSION_KEEP_MAX) {
        uint32_t id = oldest_to_forget(vm);
        struct cursor_writer writer;
        if (id == 0 || !vm_channel_try_reserve(vm, PROTOCOL_HEADER_SIZE, &writer)) {
            return; /* the guest says whether there is room for one more */
        }
        protocol_encode_empty(&writer, PROTOCOL_RELEASE, id);
        vm_guest_session_released(vm, id);
        vm_channel_commit(vm, &writer);
    }
}
