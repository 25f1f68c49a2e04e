/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* script.h: what a monitor that answers one order after the other does with the next, honest or not. */
#ifndef KELPIE_SIM_PEER_SCRIPT_H
#define KELPIE_SIM_PEER_SCRIPT_H

#include "sim/peer/peer.h"

enum peer_script {
    SCRIPT_HONEST = 0,
    SCRIPT_DEAF,        /* no answer, to nothing from now on; the guest runs on */
    SCRIPT_UNANSWERED,  /* done, without an answer */
    SCRIPT_SLOW_BEFORE, /* done late */
    SCRIPT_SLOW_AFTER,  /* answered late */
    SCRIPT_REFUSES,
    SCRIPT_GARBAGE, /* done, and then the answer is none */
    SCRIPT_DIES_BEFORE,
    SCRIPT_DIES_AFTER,
};

/* Each fault but PEER_CHATTERS is asked about once. */
enum peer_script peer_script_ask(const struct sim_peer *peer);

#endif
