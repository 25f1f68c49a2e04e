/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "sim/peer/script.h"

#include "base/assert.h"

enum peer_script peer_script_ask(const struct sim_peer *peer) {
    ASSERT(peer);
    ASSERT(peer->host);
    bool silent = sim_peer_fault(peer, SIM_FAULT_PEER_SILENT);
    bool slow = sim_peer_fault(peer, SIM_FAULT_PEER_SLOW);
    bool refuses = sim_peer_fault(peer, SIM_FAULT_PEER_REFUSES);
    bool garbage = sim_peer_fault(peer, SIM_FAULT_PEER_GARBAGE);
    bool dies = sim_peer_fault(peer, SIM_FAULT_PEER_DIES);
    if (dies) {
        return sim_peer_choose(peer, 2) == 0 ? SCRIPT_DIES_BEFORE : SCRIPT_DIES_AFTER;
    }
    if (silent) {
        return sim_peer_choose(peer, 2) == 0 ? SCRIPT_DEAF : SCRIPT_UNANSWERED;
    }
    if (slow) {
        return sim_peer_choose(peer, 2) == 0 ? SCRIPT_SLOW_BEFORE : SCRIPT_SLOW_AFTER;
    }
    if (refuses) {
        return SCRIPT_REFUSES;
    }
    return garbage ? SCRIPT_GARBAGE : SCRIPT_HONEST;
}
