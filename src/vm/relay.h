/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * relay.h: lets a VM handle of another process (backend/remote) hold exec sessions of this VM.
 *
 * THEORY OF OPERATION
 *
 * At the other end of the relay's socket a kelpie_vm speaks protocol.h's frames as if to the guest. A relay passes on what
 * concerns sessions: EXEC, FILE_PUT, FILE_GET (with a session number of the relay's own block, so that no two holders choose
 * the same), ATTACH of a session that nobody holds, and DATA, ACK, SIGNAL, RESIZE, RELEASE of those that it holds; and back what
 * the guest says of them. PING and LIST it has answered by the guest. DETACH lets go of a session that stays in the guest;
 * only a relay hears it, so that a guest out of an old bundle need not know of it. There is no HELLO: bytes begin with
 * PROTOCOL_SYNC, in both directions.
 *
 * The far end is not trusted. What it says is decoded whole, and its offsets are checked against what passed before
 * (relay_far.c), because a guest that hears what it may not takes the whole channel for lost, and others use it too. Anything
 * that does not fit, and a malformed frame, ends the relay. So does a frame of the guest that does not fit one of its
 * sessions: whichever of the two is wrong, nobody else suffers.
 *
 * The guest keeps what the far reader has not acknowledged: when that one dies, its commands run on, held by nobody, and
 * whoever attaches goes on at the next byte. Files that were being copied are given up. A session that somebody else holds is
 * refused (ATTACHED with EBUSY), but for one whose handle in this process yields (vm_relay_yield()).
 *
 * While the guest stands still (channel.held) nothing is passed on to it: the relay does not read. What waits for a slow
 * reader is bounded by the sessions' windows, and by VM_RELAY_OUT_SIZE_MAX.
 *
 * A relay is for one machine: it ends with it, and another is opened for the next.
 *
 * Threads: a relay has one that reads and writes its socket; what the guest says is queued, and written as far as it goes, by the
 * VM's I/O thread. All is guarded by the VM's mutex.
 */
#ifndef KELPIE_VM_RELAY_H
#define KELPIE_VM_RELAY_H

#include "host/host.h"

struct vm_relay;

/* Output of a held session that passes by, on the VM's thread and with the VM locked: it must neither wait long nor call the
 * VM. Bytes that were not acknowledged come again to who attaches: see offset. */
struct vm_relay_piece {
    uint32_t exec_id;
    enum kelpie_stream stream;
    uint64_t offset; /* of the first byte in its stream */
    const void *data;
    size_t size;
};
typedef void vm_relay_output(void *context, const struct vm_relay_piece *piece);

/* A block is this large; the session numbers that the VM chooses for itself are below the first. */
#define VM_RELAY_IDS_COUNT 65536u

struct vm_relay_options {
    uint32_t
        ids_first; /* the block of session numbers: ids_count from here on, of vm_relay_ids() */
    uint32_t ids_count;
    vm_relay_output *on_output; /* or NULL */
    void *context;
};

/* The first of VM_RELAY_IDS_COUNT session numbers that no session of this VM has and no open relay may choose; another block each
 * time, until they have all been had. */
uint32_t vm_relay_ids(struct kelpie_vm *vm);

/* The VM is running or paused (WRONG_STATE). BUSY: it has VM_RELAY_COUNT_MAX already. fd, a connected socket, becomes the relay's,
 * also on failure. */
KELPIE_CHECKED enum kelpie_status vm_relay_open(struct kelpie_vm *vm, int fd,
                                                const struct vm_relay_options *options,
                                                struct vm_relay **ret_relay,
                                                struct kelpie_error *err);

/* It passes nothing on any more: the far end is gone, or broke the protocol, or the machine ended. Its sessions are held by
 * nobody already, and the socket is closed. */
bool vm_relay_has_ended(struct vm_relay *relay);

/* How many sessions it holds. */
size_t vm_relay_session_count(struct vm_relay *relay);

/* Ends it and frees it. Its sessions stay in the guest, held by nobody. To be done before the VM is destroyed. NULL is allowed. */
void vm_relay_close(struct vm_relay *relay);

/*
 * From now on a far end may take the session over from this handle. Meanwhile reads of the handle wait, and what its user wants
 * to say but for signals is said later; when the far end lets go, the handle goes on at the byte where that one left off. What the
 * far end reads passes through on_output; the command's end is heard here too. A far end that releases such a session kills the
 * command, and leaves the session to the handle. Closing the handle while a far end has the session leaves it to that one.
 */
void vm_relay_yield(struct kelpie_exec *exec);

/* From now on the handle yields no more. If a far end has the session, waits until that one lets go of it, or the machine ends, or
 * timeout_ms: so whoever attached reads the end of a command before its machine is stopped. False: a far end still has it. */
bool vm_relay_reclaim(struct kelpie_exec *exec, uint32_t timeout_ms);

/* How the machine ended, of a VM that crashed; else empty. For an owner, who tells it to others. */
void vm_relay_exit_text(struct kelpie_vm *vm, char *buffer, size_t size);

#endif
