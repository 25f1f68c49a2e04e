/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* busybox.h: `busybox --list`, which is all that the library asks of it on the host. */
#ifndef KELPIE_SIM_PEER_BUSYBOX_H
#define KELPIE_SIM_PEER_BUSYBOX_H

#include "sim/peer/peer.h"

int peer_busybox_main(const struct sim_peer *peer);

#endif
