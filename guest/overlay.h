/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * A root of two layers: a file system that is never written, an image's, and over it a disk that is this machine's own
 * (overlayfs). The upper disk has two folders, `upper` with what was changed and `work`, which overlayfs needs beside it;
 * they are made when they are missing, so that a freshly formatted disk and one that was used before are the same to us.
 */
#ifndef KELPIE_GUEST_OVERLAY_H
#define KELPIE_GUEST_OVERLAY_H

#include "base/error.h"

/* What the file system on a device is, by its superblock: "erofs", "ext4", "squashfs"; NULL: none of these. */
const char *overlay_lower_type(const char *device);

/* Mounts both at `target`, a folder. */
KELPIE_CHECKED enum kelpie_status overlay_mount(const char *lower, const char *upper,
                                                const char *target, struct kelpie_error *err);

#endif
