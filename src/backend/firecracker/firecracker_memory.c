/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * firecracker_memory.c: how a machine's memory comes into a bundle, and out of a chain of them.
 *
 * THEORY OF OPERATION
 *
 * A full snapshot of Firecracker's has all of memory, zeros too, and touches every page of it. Its diff of a machine that does
 * not log what is written has the pages that are in core (mincore(2)): of a machine that booted, all that were ever
 * touched, and holes are zeros; of one that was restored, at least those that are not as in the file that it maps. So that is what
 * we ask for, and the file that it goes into has the mapped file's bytes already, over which Firecracker writes: it
 * results in all of memory, whatever the file system makes of holes. It is not right when a page is in swap, nor in the versions
 * that mix up pages above 3 GiB (hazard C8, firecracker#5705); then we ask for a full one.
 *
 * The file is a scratch file; from there memory is copied to its part without its zeros when the guest goes on already
 * (snapshot_writer_take_memory()). For a fork it is the part.
 *
 * For a diff of ours, what Firecracker wrote is compared with the parent's memory then, and only what differs is kept. Firecracker can log what is written, but only from the boot or the load on, at a cost to every guest, and nobody says
 * at the boot whether there will be diffs. So `track` is nothing but a note of the bundle that the next diff is to, and costs
 * the guest nothing; a diff is small, but the guest stands still for it as long as for a full snapshot.
 *
 * Firecracker maps one file. The bundles of a chain are put together in one that lives in memory.
 */
#include <stdlib.h>
#include <string.h>

#include "backend/firecracker/firecracker_instance.h"
#include "base/assert.h"
#include "base/cleanup.h"

#define SWAPS "/proc/swaps"

static uint64_t memory_size(const struct backend_instance *instance) {
    firecracker_instance_check(instance);
    ASSERT(instance->config->memory_mib <= KELPIE_MEMORY_MIB_MAX);
    return (uint64_t)instance->config->memory_mib << 20;
}

/* ---- What can be asked for -------------------------------------------------------------------- */

bool firecracker_diffs_are_right(const struct firecracker_probe *probe, uint32_t memory_mib) {
    ASSERT(probe);
    ASSERT(memory_mib > 0);
    return firecracker_probe_has(probe, memory_mib > FIRECRACKER_DIFFS_MIB_MAX
                                            ? FIRECRACKER_MINOR_DIFFS_LARGE
                                            : FIRECRACKER_MINOR_DIFFS);
}

/* The file has a line of titles, and one for each swap space; a kernel that has no swap has no such file. */
bool firecracker_swap_is_off(struct host *host) {
    AUTO_MEM char *text = NULL;
    size_t size = 0;
    ASSERT(host);
    enum kelpie_status status =
        host_file_load(host, SWAPS, FIRECRACKER_SWAPS_SIZE_MAX, &text, &size, NULL);
    if (status != KELPIE_OK) {
        return status == KELPIE_NOT_FOUND;
    }
    ASSERT(text);
    const char *line_end = strchr(text, '\n');
    return line_end && line_end[1] == '\0';
}

/* ---- Load ------------------------------------------------------------------------------------- */

static enum kelpie_status merge(struct backend_instance *instance, struct snapshot_reader *reader,
                                int *ret_fd, const struct host_wait *wait,
                                struct kelpie_error *err) {
    AUTO_FD struct host_fd fd = {instance->host, HOST_FD_NONE};
    ASSERT(snapshot_reader_parent(reader));
    ASSERT(ret_fd);
    TRY(host_memory_file(instance->host, "kelpie-memory", 0, &fd.fd, err));
    TRY(snapshot_reader_merge(instance->host, reader, fd.fd, wait, err));
    *ret_fd = host_fd_take(&fd);
    return KELPIE_OK;
}

enum kelpie_status firecracker_memory_open(struct backend_instance *instance,
                                           struct snapshot_reader *reader,
                                           const struct host_wait *wait, struct kelpie_error *err) {
    struct firecracker_memory *memory = &instance->memory;
    const char *id = snapshot_reader_manifest(reader)->info.id;
    firecracker_instance_check(instance);
    ASSERT(memory->fd == HOST_FD_NONE);
    if (snapshot_reader_parent(reader)) {
        TRY(merge(instance, reader, &memory->fd, wait, err));
    } else {
        TRY(snapshot_reader_part_open(reader, SNAPSHOT_PART_MEMORY, &memory->fd, err));
    }
    memcpy(memory->base_id, id, sizeof(memory->base_id));
    return KELPIE_OK;
}

void firecracker_memory_close(struct backend_instance *instance) {
    firecracker_instance_check(instance);
    ASSERT(!instance->monitor.process);
    host_close(instance->host, instance->memory.fd);
    instance->memory = (struct firecracker_memory){.fd = HOST_FD_NONE};
}

/* ---- Diffs ------------------------------------------------------------------------------------ */

enum kelpie_status firecracker_track(struct backend_instance *instance,
                                     const struct host_wait *wait, struct kelpie_error *err) {
    firecracker_instance_check(instance);
    ASSERT(wait);
    (void)err;
    instance->memory.tracked = true;
    return KELPIE_OK;
}

static enum kelpie_status check_base(const struct backend_instance *instance,
                                     const struct snapshot_manifest *manifest,
                                     struct kelpie_error *err) {
    const struct firecracker_memory *memory = &instance->memory;
    firecracker_instance_check(instance);
    ASSERT(manifest->parent_path[0] != '\0');
    if (!memory->tracked || strcmp(memory->base_id, manifest->info.parent_id) != 0) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "parent",
                               "a diff to %.512s cannot be made: it is not the VM's last snapshot, "
                               "nor what it was restored from, or was made without `track`",
                               manifest->parent_path);
    }
    return KELPIE_OK;
}

/* Nothing can be written ahead: only whether there can be a diff is said before the guest stands still. */
enum kelpie_status firecracker_presave(struct backend_instance *instance,
                                       struct snapshot_writer *writer, const struct host_wait *wait,
                                       struct kelpie_error *err) {
    firecracker_instance_check(instance);
    ASSERT(writer && wait);
    return check_base(instance, snapshot_writer_manifest(writer), err);
}

/* ---- Save ------------------------------------------------------------------------------------- */

/* All of memory, into an empty file. */
static enum kelpie_status write_memory(struct backend_instance *instance,
                                       struct snapshot_writer *writer, int fd,
                                       const struct host_wait *wait, struct kelpie_error *err) {
    int fds[2] = {HOST_FD_NONE, fd};
    const uint64_t size = memory_size(instance);
    ASSERT(fd != HOST_FD_NONE);
    ASSERT(instance->monitor.process);
    TRY(snapshot_writer_part(writer, SNAPSHOT_PART_STATE, &fds[0], err));
    if (!firecracker_diffs_are_right(&instance->probe, instance->config->memory_mib) ||
        !firecracker_swap_is_off(instance->host)) {
        return firecracker_write(instance, "Full", fds, wait, err);
    }
    if (instance->memory.fd != HOST_FD_NONE) {
        TRY(snapshot_copy_sparse(instance->host, instance->memory.fd, fd, size, wait, NULL, err));
    }
    return firecracker_write(instance, "Diff", fds, wait, err);
}

/* The file that Firecracker writes into. A disk that it waits for makes the guest stand still for long. */
static enum kelpie_status open_scratch(struct backend_instance *instance,
                                       struct snapshot_writer *writer, int *ret_fd,
                                       struct kelpie_error *err) {
    ASSERT(!snapshot_writer_is_in_memory(writer));
    ASSERT(ret_fd);
    return instance->config->memory_mib <= FIRECRACKER_SCRATCH_MIB_MAX
               ? host_memory_file(instance->host, "kelpie-scratch", 0, ret_fd, err)
               : snapshot_writer_scratch(writer, ret_fd, err);
}

static enum kelpie_status save_to_disk(struct backend_instance *instance,
                                       struct snapshot_writer *writer, const struct host_wait *wait,
                                       struct kelpie_error *err) {
    AUTO_FD struct host_fd scratch = {instance->host, HOST_FD_NONE};
    ASSERT(writer && wait);
    TRY(open_scratch(instance, writer, &scratch.fd, err));
    TRY(write_memory(instance, writer, scratch.fd, wait, err));
    snapshot_writer_take_memory(writer, host_fd_take(&scratch), memory_size(instance));
    return KELPIE_OK;
}

enum kelpie_status firecracker_memory_save(struct backend_instance *instance,
                                           struct snapshot_writer *writer,
                                           const struct host_wait *wait, struct kelpie_error *err) {
    const struct snapshot_manifest *manifest = snapshot_writer_manifest(writer);
    struct firecracker_memory *memory = &instance->memory;
    firecracker_instance_check(instance);
    if (snapshot_writer_is_in_memory(
            writer)) { /* for a fork, which is no snapshot to make diffs to */
        int fd = HOST_FD_NONE;
        TRY(snapshot_writer_part(writer, SNAPSHOT_PART_MEMORY, &fd, err));
        return write_memory(instance, writer, fd, wait, err);
    }
    ASSERT(manifest->info.id[0] != '\0');
    if (manifest->parent_path[0] != '\0') {
        TRY(check_base(instance, manifest, err));
    }
    memory->base_id[0] = '\0';
    TRY(save_to_disk(instance, writer, wait, err));
    memcpy(memory->base_id, manifest->info.id, sizeof(memory->base_id));
    return KELPIE_OK;
}
