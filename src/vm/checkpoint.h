/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * checkpoint.h: snapshots of one folder's files, the workspace, for any backend and architecture.
 *
 * THEORY OF OPERATION
 *
 * Taking one. The guest stops commands but goes on to move files (vm_hold(), HOLD of the protocol), so that what is read is of one
 * moment. The folder comes as an exact tree (protocol/tree.h) and is written down as a pax archive, the bundle's part `files`:
 * what every tar reads. Commands go on as soon as all of it is in the page cache; checksums and the disk come after.
 * A paused VM's vCPUs run meanwhile, while its commands stand still as before.
 *
 * Restoring one. The archive is read from one end to the other before anything starts (vm_checkpoint_unpack() without a
 * transfer): what it names must lie in the folder, and its budgets are those of a copy. Then the VM boots as it always does, gets
 * its shares and secrets, and the archive goes in as an exact tree, which the guest exchanges for what was there when it has come
 * whole. Folders come twice, because making what is in one changes its time.
 *
 * Nothing of either side is believed. The guest's tree is what any other guest's would be; the archive may be anybody's. The host makes no
 * file of any name in it.
 *
 * What is mounted in the workspace is not of it, and would be lost or, behind a live share, destroyed on the host by a
 * restore: it is refused on both ways. So are /run, where the secrets are, and the kernel's own folders.
 */
#ifndef KELPIE_VM_CHECKPOINT_H
#define KELPIE_VM_CHECKPOINT_H

#include "vm/tree.h"
#include "vm/vm.h"

/* The folder that the options name, or the config: without slashes that say nothing. BAD_CONFIG, field "workspace". */
KELPIE_CHECKED enum kelpie_status vm_checkpoint_workspace(const char *wanted,
                                                          const char *working_dir,
                                                          char ret_path[KELPIE_PATH_SIZE_MAX + 1],
                                                          struct kelpie_error *err);

/* Whether something that the config mounts, or the host shows, lies in the workspace. */
KELPIE_CHECKED enum kelpie_status
vm_checkpoint_check_mounts(struct kelpie_vm *vm, const char *workspace, struct kelpie_error *err);

/* snapshot.c's: fills the writer's part and its manifest but for what every manifest has. busy, mutex not held. */
KELPIE_CHECKED enum kelpie_status vm_checkpoint_capture(struct kelpie_vm *vm, const char *workspace,
                                                        uint64_t bytes_max,
                                                        struct snapshot_writer *writer,
                                                        const struct host_wait *wait,
                                                        struct kelpie_error *err);

/* restore.c's: the VM is starting; it boots, and has the bundle's files, and runs or is paused. */
KELPIE_CHECKED enum kelpie_status
vm_checkpoint_restore(struct kelpie_vm *vm, struct snapshot_reader *reader,
                      const struct kelpie_restore_options *options, const struct host_wait *wait,
                      struct kelpie_error *err);

/* Looks at the part `files`, all of it. SNAPSHOT_CORRUPT, field "files". */
KELPIE_CHECKED enum kelpie_status vm_checkpoint_verify(struct host *host,
                                                       const struct snapshot_reader *reader,
                                                       const struct host_wait *wait,
                                                       struct kelpie_error *err);

/* The config of a VM that is made for the bundle: what `wanted` (may be NULL) says, and the bundle's for the rest. *network is
 * where a network is made. Strings stay theirs. */
KELPIE_CHECKED enum kelpie_status
vm_checkpoint_config(struct host *host, const struct snapshot_manifest *manifest,
                     const struct kelpie_config *wanted, struct kelpie_network *network,
                     struct kelpie_config *ret_config, struct kelpie_error *err);

/* ---- The archive (checkpoint_pack.c, checkpoint_unpack.c) -------------------------------------- */

struct vm_checkpoint_limits {
    uint64_t stored_max; /* bytes of the archive that are no zeros */
    struct vm_tree_limits tree;
};

/* Writes the exact tree as an archive to the empty file. SNAPSHOT_TOO_LARGE; COPY_FAILED: it is no such tree. */
KELPIE_CHECKED enum kelpie_status vm_checkpoint_pack(struct host *host,
                                                     const struct vm_tree_source *source, int fd,
                                                     const struct vm_checkpoint_limits *limits,
                                                     struct kelpie_error *err);

/* Reads the archive of `size` bytes, and sends it as an exact tree; transfer NULL: only reads. */
KELPIE_CHECKED enum kelpie_status vm_checkpoint_unpack(struct host *host, int fd, uint64_t size,
                                                       struct vm_transfer *transfer,
                                                       const struct host_wait *wait,
                                                       struct kelpie_error *err);

#endif
