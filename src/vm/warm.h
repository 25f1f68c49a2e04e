/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * warm.h: starts that restore from a template, a bundle of a machine that has just come up.
 *
 * THEORY OF OPERATION
 *
 * A template is found by its key, a digest of everything that made the machine (warm_key.c): a change of any of it is
 * another key, so that nothing has to be thrown away when a kernel, an image or a hypervisor is replaced; the store throws
 * away what was not used for the longest time.
 *
 * The first start of a key boots. SETUP gives the guest a neutral name, and when it is done, and before there is a command, a
 * secret or a share's content, the machine is saved. Then the guest goes on as one that was restored does: THAW gives it
 * time, entropy, MAC, hostname and machine-id, so that neither the template has what is this VM's, nor this VM what the
 * template has (hazards C1, C5). While the VM is used already, a thread of its own writes the bundle through to the disk,
 * reads it again to verify it, and publishes it; destroying the VM waits for that.
 *
 * The next starts restore, and fail closed as every restore. A restore that fails, however, is no failure of the start: the
 * template is thrown away, unless it was the time or this host's want of something that failed, and the VM boots.
 *
 * Nothing here makes a start fail that a boot would not have failed: no place in the store, a full disk, a
 * damaged template cost time and no more. What cannot be warm is cold without a word: a VM with writable disks of the
 * caller's, which a template would bring back to an old state; one that has a disk of its own already, for the same
 * reason; a tap; a backend without snapshots.
 */
#ifndef KELPIE_VM_WARM_H
#define KELPIE_VM_WARM_H

#include "vm/vm.h"

#define WARM_KEY_SIZE 65 /* 64 hexadecimal digits and a zero */

/* Whether a template may be used or made for the VM's next start. */
bool vm_warm_is_possible(struct kelpie_vm *vm);

/* What names its template. */
KELPIE_CHECKED enum kelpie_status vm_warm_key(struct kelpie_vm *vm, char ret_key[WARM_KEY_SIZE],
                                              struct kelpie_error *err);

/* The digest of a description of the machine: pure, but for what is asked of the host about disks. What of `made` a load
 * would compare counts, and nothing else of it. */
KELPIE_CHECKED enum kelpie_status vm_warm_digest(const struct kelpie_vm *vm,
                                                 const struct snapshot_manifest *made,
                                                 char ret_key[WARM_KEY_SIZE],
                                                 struct kelpie_error *err);

/* In place of vm_boot(), in a start of a VM with config.warm. */
KELPIE_CHECKED enum kelpie_status vm_warm_start(struct kelpie_vm *vm, const struct host_wait *wait,
                                                struct kelpie_error *err);

/* Waits for the template that is being made, if there is one. */
void vm_warm_finish(struct kelpie_vm *vm);

#endif
