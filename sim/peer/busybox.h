/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* busybox.h: the scripted busybox: "--list" says which applets it has, as whoever makes an initramfs asks. */
#ifndef KELPIE_SIM_PEER_BUSYBOX_H
#define KELPIE_SIM_PEER_BUSYBOX_H

#include "sim/peer/peer.h"

#define PEER_BUSYBOX_PROGRAM "busybox"

int peer_busybox_main(const struct sim_peer *peer);

#endif
