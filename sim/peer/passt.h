/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * passt.h: the scripted passt, as backend/monitor/monitor_network.h starts it: "--fd N" names a stream socket, on which each
 * Ethernet frame comes behind its length. It answers the question that its owner asks first, by ARP, takes all
 * frames that come, and ends when the socket does.
 */
#ifndef KELPIE_SIM_PEER_PASST_H
#define KELPIE_SIM_PEER_PASST_H

#include "sim/peer/peer.h"

#define PEER_PASST_PROGRAM "passt"
#define PEER_PASST_START_MS_MAX 50
#define PEER_PASST_SLOW_S_MAX 40
#define PEER_PASST_CHATTER_SIZE_MAX 262144

int peer_passt_main(const struct sim_peer *peer);

#endif
