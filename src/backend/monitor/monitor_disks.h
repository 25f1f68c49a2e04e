/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * monitor_disks.h: a VM's disks over boot, save and load. A writable disk's bytes travel in the bundle. What a load makes
 * of them is the VM's own, so that two restored VMs never share a disk (hazard C7): a sparse overlay over the bundle's
 * file, if the monitor can work with one (base/overlay.h), so that a load does not depend on the disk's size; else a
 * copy. The bundle may be removed meanwhile; its files must not change. A save puts base and overlay together. A
 * read-only disk that is a file of the caller's stays where it is, named by path, size and checksum, unless the bundle
 * is to be moved (teleport).
 */
#ifndef KELPIE_BACKEND_MONITOR_MONITOR_DISKS_H
#define KELPIE_BACKEND_MONITOR_MONITOR_DISKS_H

#include "image/image.h"
#include "snapshot/snapshot.h"

/* A disk as a monitor is given it. */
struct monitor_disk {
    int fd;         /* HOST_FD_NONE: not open */
    int overlay_fd; /* fd is the base of it, open for reading; HOST_FD_NONE: all is in fd */
    int bitmap_fd;  /* a memory file; the monitor writes it */
    uint64_t size;
    bool read_only;
    char *outside_path; /* it is this file as it stands, read-only; NULL: it is ours alone */
};

struct monitor_disks {
    struct host *host;
    const struct kelpie_config *config; /* says which; lives longer */
    bool overlays;                      /* the monitor can work with them */
    struct monitor_disk disks[KELPIE_DISK_COUNT_MAX];
};

void monitor_disks_init(struct monitor_disks *disks, struct host *host,
                        const struct kelpie_config *config, bool overlays);

/* Opens the config's disks. After a failure too, close gives back what is open. */
KELPIE_CHECKED enum kelpie_status monitor_disks_open(struct monitor_disks *disks,
                                                     const struct host_wait *wait,
                                                     struct kelpie_error *err);
void monitor_disks_close(struct monitor_disks *disks);

/* Writes what the bundle needs of the disks into the writer and its manifest. The guest's writes have reached the
 * files. */
KELPIE_CHECKED enum kelpie_status monitor_disks_save(const struct monitor_disks *disks,
                                                     enum kelpie_snapshot_kind kind,
                                                     struct snapshot_writer *writer,
                                                     const struct host_wait *wait,
                                                     struct kelpie_error *err);

/* Writes a disk's bytes, as they are now, into an empty file: what another VM's overlay can lie over. The guest's writes
 * have reached the files. */
KELPIE_CHECKED enum kelpie_status monitor_disks_copy(const struct monitor_disks *disks,
                                                     size_t index, int target_fd,
                                                     const struct host_wait *wait,
                                                     struct kelpie_error *err);

/* Opens a bundle's disks: over overlays, as copies, whose checksums are checked on the way, or the outside files, which
 * must be unchanged. SNAPSHOT_INCOMPATIBLE names the disk that differs, SNAPSHOT_CORRUPT the part that is damaged. The
 * reader may be closed afterwards. */
KELPIE_CHECKED enum kelpie_status monitor_disks_load(struct monitor_disks *disks,
                                                     struct snapshot_reader *reader,
                                                     const struct host_wait *wait,
                                                     struct kelpie_error *err);

#endif
