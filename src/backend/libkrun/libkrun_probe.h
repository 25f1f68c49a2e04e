/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What libkrun is here: found out by a process that loads it, says what it has, and ends. */
#ifndef KELPIE_BACKEND_LIBKRUN_LIBKRUN_PROBE_H
#define KELPIE_BACKEND_LIBKRUN_LIBKRUN_PROBE_H

#include "host/host.h"
#include "krun/krun_limits.h"

struct libkrun_probe {
    unsigned abi; /* 1 or 2 */
    uint32_t can; /* bits of enum krun_can */
    char version[KRUN_VERSION_SIZE_MAX + 1];
    char library[HOST_PATH_SIZE_MAX + 1];
    char kernel[HOST_PATH_SIZE_MAX + 1]; /* libkrunfw */
};

/* The config's (NULL: there is none) `hypervisor` and `kernel`, else $KELPIE_LIBKRUN and $KELPIE_KRUNFW, else what the system finds. BACKEND_MISSING: it is not there, of another
 * version, or it crashes or hangs when it is loaded. CANCELLED, IO_FAILED, NO_MEMORY. */
KELPIE_CHECKED enum kelpie_status libkrun_probe_run(struct host *host,
                                                    const struct kelpie_config *config,
                                                    int cancel_fd, struct libkrun_probe *ret_probe,
                                                    struct kelpie_error *err);

#endif
