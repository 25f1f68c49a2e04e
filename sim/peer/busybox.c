/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "sim/peer/busybox.h"

#include <string.h>

#include "base/assert.h"

#define STDOUT_FD 1
#define TIMEOUT_MS 60000

int peer_busybox_main(const struct sim_peer *peer) {
    static const char applets[] = "[\nbusybox\ncat\nls\nmount\nsh\n";
    struct kelpie_error ignored;
    ASSERT(peer->host);
    ASSERT(peer->argc > 0);
    if (peer->argc != 2 || strcmp(peer->argv[1], "--list") != 0) {
        return 1;
    }
    if (sim_peer_fault(peer, SIM_FAULT_PEER_DIES)) {
        return 2;
    }
    if (sim_peer_fault(peer, SIM_FAULT_PEER_SILENT)) {
        sim_peer_hang(peer);
    }
    bool garbage = sim_peer_fault(peer, SIM_FAULT_PEER_GARBAGE);
    const struct host_wait wait = host_wait_ms(peer->host, TIMEOUT_MS, HOST_FD_NONE);
    return host_write_all(peer->host, STDOUT_FD, garbage ? "\1\2/\n" : applets,
                          garbage ? 4 : sizeof(applets) - 1, &wait, &ignored) == KELPIE_OK
               ? 0
               : 3;
}
