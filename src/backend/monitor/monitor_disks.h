/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * monitor_disks.h: a VM's disks over boot, save and load. A writable disk's bytes travel in the bundle. What a load makes
 * of them is the VM's own, so that two restored VMs never share a disk (hazard C7): a sparse overlay over the bundle's
 * file, if the monitor can work with one (base/overlay.h), so that a load does not depend on the disk's size; else a
 * copy. The bundle may be removed meanwhile; its files must not change. A save puts base and overlay together. A
 * read-only disk that is a file of the caller's stays where it is, named by path, size and checksum, unless the bundle
 * is to be moved (teleport). An image's file never changes, so that its checksum is computed once (image_note_find()).
 *
 * A VM's own disks, those of a load and the one over an image, stay its own when its machine ends, and the next start uses
 * them: that start must not open the file that the config names, which is the disk of the VM that the bundle was made of.
 * Without a folder they are kept open, without a name; with one they are files there, "disk-N", and a load makes copies
 * and no overlays, so that each is whole by itself. What a load brings takes the place of what the VM had when
 * monitor_disks_settle() says that it has come up ("disk-N.new" until then). A named disk is locked while it is open.
 */
#ifndef KELPIE_BACKEND_MONITOR_MONITOR_DISKS_H
#define KELPIE_BACKEND_MONITOR_MONITOR_DISKS_H

#include "backend/backend.h"
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
    bool own;           /* stays the VM's when the machine ends */
    bool fresh;         /* own, of a load that is not settled */
};

struct monitor_disks {
    struct host *host;
    const struct kelpie_config *config;  /* says which; lives longer */
    const struct backend_launch *launch; /* the same */
    bool overlays;                       /* the monitor can work with them, and is to */
    struct monitor_disk disks[KELPIE_DISK_COUNT_MAX]; /* of the machine */
    struct monitor_disk kept[KELPIE_DISK_COUNT_MAX];  /* the VM's own while there is no machine */
};

/* overlays: the monitor can work with them. */
void monitor_disks_init(struct monitor_disks *disks, const struct backend_launch *launch,
                        bool overlays);
void monitor_disks_deinit(struct monitor_disks *disks);

/* Opens the config's disks, and makes the one over an image if the VM has none yet. After a failure too, close gives
 * back what is open. BUSY: another VM has a disk open that is kept in the folder. NOT_FOUND, field "image". */
KELPIE_CHECKED enum kelpie_status monitor_disks_open(struct monitor_disks *disks,
                                                     const struct host_wait *wait,
                                                     struct kelpie_error *err);

/* The machine is gone: of its disks, only the VM's own stay. */
void monitor_disks_close(struct monitor_disks *disks);

/* The VM is up after a load: see backend.h, settle and has_disks. */
KELPIE_CHECKED enum kelpie_status monitor_disks_settle(struct monitor_disks *disks,
                                                       struct kelpie_error *err);
bool monitor_disks_are_kept(const struct monitor_disks *disks);

/* What the machine's writable disks take on this host's; of one over a bundle's file, only what is over it. */
uint64_t monitor_disks_bytes(const struct monitor_disks *disks);

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
