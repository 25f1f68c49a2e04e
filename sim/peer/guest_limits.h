/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#ifndef KELPIE_SIM_PEER_GUEST_LIMITS_H
#define KELPIE_SIM_PEER_GUEST_LIMITS_H

#define PEER_GUEST_BOOT_MS_MIN 50
#define PEER_GUEST_BOOT_MS_MAX 500
#define PEER_GUEST_SLOW_S_MAX 20 /* it does nothing for so long, at the most */
#define PEER_GUEST_CONSOLE_SIZE_MAX                                                                \
    524288 /* written by the guest, not yet taken; the rest is lost */
#define PEER_GUEST_CHATTER_LINE_COUNT_MIN 64
#define PEER_GUEST_CHATTER_LINE_COUNT_MAX 4096
#define PEER_GUEST_LINE_SIZE_MAX 128
#define PEER_GUEST_CONSOLE_WRITE_COUNT_MAX 64 /* in one go */
#define PEER_GUEST_GARBAGE_SIZE_MAX 4096
#define PEER_GUEST_PONG_COUNT_MAX 512
#define PEER_GUEST_FLIP_COUNT_MAX 4

#endif
