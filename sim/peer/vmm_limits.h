/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#ifndef KELPIE_SIM_PEER_VMM_LIMITS_H
#define KELPIE_SIM_PEER_VMM_LIMITS_H

#include "backend/mock/mock_limits.h"

#define PEER_VMM_PAGE_SIZE 4096u
#define PEER_VMM_IMAGE_SIZE_MAX MOCK_BYTES_SIZE_MAX /* of a guest as bytes */
#define PEER_VMM_IMAGE_PAGE_COUNT_MAX (PEER_VMM_IMAGE_SIZE_MAX / PEER_VMM_PAGE_SIZE)
#define PEER_VMM_IMAGE_WORD_COUNT (PEER_VMM_IMAGE_PAGE_COUNT_MAX / 64)
#define PEER_VMM_SLOW_S_MAX 40 /* an answer comes so late, at the most */
#define PEER_VMM_CHATTER_SIZE_MAX 262144
#define PEER_VMM_GARBAGE_SIZE_MAX 512
#define PEER_VMM_LAST_WORDS_MS 1000         /* whoever does not read them so long gets none */
#define PEER_VMM_WORKING_SET_HEADER_SIZE 64 /* docs/SNAPSHOT_FORMAT.md */

#endif
