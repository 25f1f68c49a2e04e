/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * relay.h: lets a VM handle of another process (backend/remote) hold exec sessions of this VM.
 *
 * THEORY OF OPERATION
 *
 * At the other end of the relay's socket a kelpie_vm speaks protocol.h's frames as if to the guest. A relay passes on what
 * concerns sessions: EXEC, FILE_PUT, FILE_GET (with a session number of the relay's own block, so that no two holders choose
 * the same), ATTACH of a session that nobody holds, and DATA, ACK, SIGNAL, RESIZE, RELEASE of those that it holds; and back what
 * the guest says of them. PING and LIST it has answered by the guest. Anything else, or a malformed frame, ends the
 * relay. So the guest keeps what the far reader has not acknowledged: when that one dies, its sessions run on, held by nobody, and
 * whoever attaches goes on at the next byte. There is no HELLO: bytes begin with PROTOCOL_SYNC, in both directions.
 *
 * While the guest stands still (channel.held) nothing is passed on to it: the relay does not read. What waits for a
 * slow reader is bounded by the sessions' windows.
 *
 * A relay is for one machine: it ends with it, and another is opened for the next.
 */
#ifndef KELPIE_VM_RELAY_H
#define KELPIE_VM_RELAY_H

#include "host/host.h"

struct vm_relay;

/* Output of a held session that passes by, on the relay's or the VM's thread, which must not wait long. */
typedef void vm_relay_output(void *context, uint32_t exec_id, enum kelpie_stream stream,
                             uint64_t offset, const void *data, size_t size);

struct vm_relay_options {
    uint32_t ids_first; /* the block of session numbers: ids_count from here on */
    uint32_t ids_count;
    vm_relay_output *on_output; /* or NULL */
    void *context;
};

/* The VM is running or paused (WRONG_STATE). fd, a connected socket, becomes the relay's, also on failure. */
KELPIE_CHECKED enum kelpie_status vm_relay_open(struct kelpie_vm *vm, int fd,
                                                const struct vm_relay_options *options,
                                                struct vm_relay **ret_relay,
                                                struct kelpie_error *err);

/* It passes nothing on any more: the far end is gone, or broke the protocol, or the machine ended. */
bool vm_relay_has_ended(struct vm_relay *relay);

/* How many sessions it holds. */
size_t vm_relay_session_count(struct vm_relay *relay);

/* Ends it and frees it. Its sessions stay in the guest, held by nobody. To be done before the VM is destroyed. NULL is allowed. */
void vm_relay_close(struct vm_relay *relay);

#endif
