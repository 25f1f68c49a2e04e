/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * populate.h: what a guest gets when it has come up and before any command: the content of shared folders, and secrets.
 *
 * A shared folder for which the machine has a device is mounted by the guest (SHARE); each other is copied into it (vm/tree.h), at each start anew. Secrets are the
 * files of one tree at /run/secrets, a folder that the guest has in memory whatever its root is; their bytes go nowhere but
 * over the channel. Both come after a template is saved or restored (vm/warm.h), so that none has them.
 *
 * A restored or forked VM has what its memory has: nothing is sent to it.
 */
#ifndef KELPIE_VM_POPULATE_H
#define KELPIE_VM_POPULATE_H

#include "vm/vm.h"

/* What a config says of them. */
KELPIE_CHECKED enum kelpie_status vm_check_populate(const struct kelpie_config *config,
                                                    struct kelpie_error *err);

/* Before the machine starts: whether the shared folders are there. BAD_CONFIG, field "shares[i].path". UNSUPPORTED, field
 * "shares[i].live": one must be live, and the backend never shows one. */
KELPIE_CHECKED enum kelpie_status vm_populate_prepare(struct kelpie_vm *vm,
                                                      struct kelpie_error *err);

/* Whether a machine that sees such folders may be saved: UNSUPPORTED. */
KELPIE_CHECKED enum kelpie_status vm_check_shares_for_save(struct kelpie_vm *vm,
                                                           struct kelpie_error *err);

/* Of a VM that is starting, whose guest is set up. mutex not held. */
KELPIE_CHECKED enum kelpie_status vm_populate(struct kelpie_vm *vm, struct kelpie_error *err);

/* Overwrites the secrets of a config that is about to be freed. */
void vm_populate_wipe(struct kelpie_config *config);

#endif
