/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "sim/peer/busybox.h"

#include <string.h>

#include "base/assert.h"

#define STDOUT 1

int peer_busybox_main(const struct sim_peer *peer) {
    static const char applets[] = "[\ncat\necho\nls\nsh\n";
    const struct host_wait wait = {.deadline_ns = UINT64_MAX, .cancel_fd = HOST_FD_NONE};
    struct kelpie_error ignored;
    ASSERT(peer->argc > 0);
    ASSERT(peer->argv);
    if (peer->argc != 2 || strcmp(peer->argv[1], "--list") != 0) {
        return 1;
    }
    return host_write_all(peer->host, STDOUT, applets, strlen(applets), &wait, &ignored) ==
                   KELPIE_OK
               ? 0
               : 1;
}
