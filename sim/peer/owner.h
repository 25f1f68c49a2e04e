/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* owner.h: `kelpie supervise`, the process that has a VM for others: not scripted, but the production code itself. */
#ifndef KELPIE_SIM_PEER_OWNER_H
#define KELPIE_SIM_PEER_OWNER_H

#include "sim/peer/peer.h"

#define PEER_OWNER_PROGRAM "kelpie"

int peer_owner_main(const struct sim_peer *peer);

#endif
