/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The root of a machine whose kernel takes no initramfs. It boots from a small read-only disk with this program and the
 * archive that the kernel would have unpacked (src/image/image.h). So this program does what the kernel did not: it
 * unpacks the archive into a tmpfs, makes that the root, and starts itself anew from there. The disk is then nobody's any more.
 */
#ifndef KELPIE_GUEST_ROOT_H
#define KELPIE_GUEST_ROOT_H

#include <stdbool.h>
#include <stddef.h>

/* Whether we run from such a disk. */
bool root_is_medium(void);

/* Does it. Returns only when it failed, with an error on the console. */
void root_leave_medium(void);

/* Unpacks a newc archive below a folder: folders, files and links, with their modes. False: it is malformed, its names
 * lead elsewhere, or the system refused. */
bool root_unpack(const void *archive, size_t size, int folder_fd);

#endif
