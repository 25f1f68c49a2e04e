/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The kernel's modules, as the initramfs lists them (src/image/image.h). */
#ifndef KELPIE_GUEST_MODULES_H
#define KELPIE_GUEST_MODULES_H

#define MODULES_LIST "/etc/kelpie/modules"
#define MODULES_LIST_DISK "/etc/kelpie/modules.disk"
#define MODULES_LIST_NET "/etc/kelpie/modules.net"
#define MODULES_LIST_SHARE "/etc/kelpie/modules.share"
#define MODULES_LIST_VSOCK "/etc/kelpie/modules.vsock"

/* Loads each module of a list, in its order. What cannot be loaded is told on the console and passed over; what is
 * loaded already is not loaded again. */
void modules_load(const char *list_path);

#endif
