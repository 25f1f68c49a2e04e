/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * network.h: the machine's network interface, the first that virtio_net drives: its MAC, address, route and name
 * server, as the host's NETWORK says. A restored machine gets a MAC of its own while it stands still; its interface stays
 * up meanwhile, so that routes and addresses that a user added stay too.
 */
#ifndef KELPIE_GUEST_NETWORK_H
#define KELPIE_GUEST_NETWORK_H

#include "agent.h"

/* Makes the interface what the last NETWORK said. The address of the file of the name server is in the root that commands
 * see, so disks are mounted first. */
KELPIE_CHECKED enum kelpie_status network_set_up(struct agent *agent, struct kelpie_error *err);

#endif
