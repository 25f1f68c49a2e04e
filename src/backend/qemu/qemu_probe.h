/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* qemu_probe.h: which QEMU is here, and what it can be accelerated with. */
#ifndef KELPIE_BACKEND_QEMU_QEMU_PROBE_H
#define KELPIE_BACKEND_QEMU_QEMU_PROBE_H

#include "backend/qemu/qemu_command.h"
#include "host/host.h"

#define QEMU_INSTALL_HINT "apt-get install qemu-system-x86"

struct qemu_probe {
    char binary[HOST_PATH_SIZE_MAX +
                1]; /* the config's, $KELPIE_QEMU, or a name to be found in PATH */
    char version[QEMU_VERSION_SIZE_MAX + 1]; /* "7.2.22" */
    enum qemu_accelerator accelerator;
    uint64_t ring0_ns;      /* 0: not run */
    char acceleration[256]; /* one sentence: why this accelerator */
};

/* Runs `qemu --version` and, beside it, the ring-0 payload. named: the config's, or NULL. Errors: BACKEND_MISSING (none, or too old),
 * CANCELLED, NO_MEMORY. */
KELPIE_CHECKED enum kelpie_status qemu_probe_run(struct host *host, const char *named,
                                                 int cancel_fd, struct qemu_probe *ret_probe,
                                                 struct kelpie_error *err);

/* Finds "version X.Y[.Z]" in what `qemu --version` printed. Pure. False: there is none. */
KELPIE_CHECKED bool qemu_version_parse(const char *text, char *ret_version, size_t size,
                                       unsigned *ret_major, unsigned *ret_minor);

/* What the host's TSC reads at a moment. Two samples, QEMU_TSC_SAMPLE_NS_MIN apart or more, make a rate. */
struct qemu_tsc_sample {
    uint64_t ticks;
    uint64_t ns;
};
struct qemu_tsc_sample qemu_tsc_sample(struct host *host);

/* In kHz; 0: unknown (too short a span, or this processor has no TSC). */
uint64_t qemu_tsc_khz(const struct qemu_tsc_sample *from, const struct qemu_tsc_sample *to);

#endif
