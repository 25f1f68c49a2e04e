/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * firecracker_folder.h: the folder in which a Firecracker has its sockets: "<base>/kelpie-fc-<16 digits>", 0700, made anew (an existing
 * one is never used: hazard E4), in $XDG_RUNTIME_DIR, or in /tmp when that is missing or so long that a socket's path would not
 * fit. It holds a file "lock", locked as long as its owner lives: one whose lock is free is nobody's, and is removed by the next
 * who makes a folder beside it.
 */
#ifndef KELPIE_BACKEND_FIRECRACKER_FIRECRACKER_FOLDER_H
#define KELPIE_BACKEND_FIRECRACKER_FIRECRACKER_FOLDER_H

#include "backend/firecracker/firecracker_limits.h"
#include "host/host.h"

struct firecracker_folder {
    char path[FIRECRACKER_FOLDER_SIZE_MAX + 1]; /* empty: there is none */
    int lock_fd;
};

KELPIE_CHECKED enum kelpie_status firecracker_folder_make(struct firecracker_folder *folder,
                                                          struct host *host,
                                                          struct kelpie_error *err);

/* With everything in it. One that was not made, or is removed already, is allowed. */
void firecracker_folder_remove(struct firecracker_folder *folder, struct host *host);

#endif
