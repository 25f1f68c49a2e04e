/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * krun.h: the scripted kelpie-krun: krun/control.h over a simulated guest, as if libkrun 2 were there. It finds it, enters,
 * pauses and resumes.
 */
#ifndef KELPIE_SIM_PEER_KRUN_H
#define KELPIE_SIM_PEER_KRUN_H

#include "sim/peer/peer.h"

#define PEER_KRUN_PROGRAM "kelpie-krun"
#define PEER_KRUN_LIBRARY "/usr/lib/libkrun.so.2.0.0"
#define PEER_KRUN_KERNEL "/boot/libkrunfw.so.5"
#define PEER_KRUN_SLOW_S_MAX 40 /* an answer comes so late, at the most */
#define PEER_KRUN_LAST_WORDS_MS 1000
#define PEER_KRUN_CHATTER_COUNT_MAX 4096

int peer_krun_main(const struct sim_peer *peer);

#endif
