/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* relay_internal.h: what relay.c (socket and thread), relay_far.c (what the far end says) and relay_guest.c (what the guest
 * says) have in common. Everything is guarded by the VM's mutex, but for the decoder, which is the thread's. */
#ifndef KELPIE_VM_RELAY_INTERNAL_H
#define KELPIE_VM_RELAY_INTERNAL_H

#include "vm/vm.h"

struct vm_relay {
    struct kelpie_vm *vm;
    struct vm_relay_options options;
    int fd;
    int wake_event; /* makes the thread look again */
    struct host_thread *thread;

    uint8_t *in; /* PROTOCOL_FRAME_SIZE_MAX bytes, the decoder's */
    struct protocol_decoder decoder;
    struct protocol_frame frame; /* the far end's, that is still to be passed on */
    bool has_frame;
    bool waits; /* for room in the channel, or for the guest to go on */

    uint8_t *out; /* to the far end: out_capacity bytes; [out_start, out_end) wait */
    size_t out_capacity;
    size_t out_start;
    size_t out_end;

    uint64_t looked; /* the last of vm->relay_look_wanted for which the socket was empty */
    struct vm_relay_look look; /* of an ATTACH of its own that waits for another relay */

    bool closing; /* the thread is to end */
    bool lost;    /* its machine has ended: what is queued is still written, for a while */
    bool deaf;    /* the far end hears nothing more: what is queued for it is dropped */
    bool ended;   /* nothing is passed on any more */

    uint32_t id_last; /* the last session that the far end opened */
    /* At most one of each is under way; the relay does not read on before it is answered. */
    uint64_t ping_mine;  /* the token of our PING to the guest; 0: none */
    uint64_t ping_token; /* and of the far end's */
    uint64_t list_mine;  /* which of the channel's LISTs is for it; 0: none */
};

/* ---- relay.c: mutex held ------------------------------------------------------------------------ */

/* Queues a frame for the far end: relay_writer() says where, relay_commit() queues what was written there. No memory, or
 * too much queued: the relay ends, and the writer has failed. */
struct cursor_writer relay_writer(struct vm_relay *relay, size_t size);
void relay_commit(struct vm_relay *relay, const struct cursor_writer *writer);

/* Nothing is passed on any more, and its sessions are held by nobody. */
void relay_end(struct vm_relay *relay);

/* Lets go of one session, which stays in the guest unless it is a file's. */
void relay_let_go(struct kelpie_exec *exec);

/* ---- relay_far.c: mutex held -------------------------------------------------------------------- */

enum relay_step {
    RELAY_PASSED,
    RELAY_WAITS, /* it cannot be passed on now */
    RELAY_BROKEN /* the far end may not say that */
};

/* What becomes of relay->frame. */
enum relay_step relay_pass(struct vm_relay *relay);

#endif
