/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * transfer.h: bytes on their way into a file or folder of the guest, or out of it: one session (protocol.h, FILE_PUT and FILE_GET)
 * from its opening to its end, for copy.c (files), tree.c (folders) and populate.c (what a guest gets as it starts).
 *
 *     struct vm_transfer *transfer = NULL;
 *     TRY(vm_transfer_create(vm, host_path, guest_path, &transfer, err))
 *     status = vm_transfer_put(transfer, mode, size, err), then write as often as needed, then finish
 *     vm_transfer_destroy(transfer);
 *
 * The functions take the VM's mutex themselves. Each wait is one of the VM's operation_timeout_ms, and ends by a cancel.
 */
#ifndef KELPIE_VM_TRANSFER_H
#define KELPIE_VM_TRANSFER_H

#include "vm/vm.h"

struct vm_transfer {
    struct kelpie_vm *vm;
    const char *host_path; /* for messages; the caller's */
    const char *guest_path;
    bool at_start;        /* the VM is starting, and only its start uses the guest */
    bool still;           /* the guest stands still (vm_hold()), and folders are exact trees */
    uint64_t deadline_ns; /* still: of all waits together */
    struct kelpie_exec *exec;
    uint8_t chunk[VM_COPY_CHUNK_SIZE]; /* the user's */
};

/* Checks both paths, and that the backend can copy. */
KELPIE_CHECKED enum kelpie_status vm_transfer_create(struct kelpie_vm *vm, const char *host_path,
                                                     const char *guest_path,
                                                     struct vm_transfer **ret_transfer,
                                                     struct kelpie_error *err);
void vm_transfer_destroy(struct vm_transfer *transfer); /* NULL is allowed */

/* Opens the session for a file (or, with PROTOCOL_MODE_FOLDER, a tree) that comes in; writes; says that this was all, and waits until
 * the guest has put it in place. */
KELPIE_CHECKED enum kelpie_status vm_transfer_put(struct vm_transfer *transfer, uint32_t mode,
                                                  uint64_t size, struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status vm_transfer_write(struct vm_transfer *transfer, const void *data,
                                                    size_t size, struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status vm_transfer_finish(struct vm_transfer *transfer,
                                                     struct kelpie_error *err);

/* Opens it for what goes out: what it is, as the guest says. Reads at least a byte, or none at its end, which then is the
 * session's too. */
KELPIE_CHECKED enum kelpie_status vm_transfer_get(struct vm_transfer *transfer, uint32_t *ret_mode,
                                                  uint64_t *ret_size, struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status vm_transfer_read(struct vm_transfer *transfer, void *buffer,
                                                   size_t size, size_t *ret_size,
                                                   struct kelpie_error *err);

/* What comes of a copy that failed so: what a caller treats differently stays, anything else is COPY_FAILED. */
enum kelpie_status vm_transfer_status(const struct vm_transfer *transfer, enum kelpie_status status,
                                      struct kelpie_error *err);

#endif
