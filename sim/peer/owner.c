/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "sim/peer/owner.h"

#include <string.h>

#include "base/assert.h"
#include "kelpie_store.h"

#define CHANNEL_FD 3 /* what it is started with (docs/CONTROL.md) */
#define EXIT_USAGE 125

int peer_owner_main(const struct sim_peer *peer) {
    ASSERT(peer->host);
    ASSERT(peer->argc > 0);
    if (peer->argc != 2 || strcmp(peer->argv[1], "supervise") != 0) {
        return EXIT_USAGE;
    }
    return kelpie_supervise(peer->host, CHANNEL_FD, HOST_FD_NONE);
}
