/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* firecracker_probe.h: which Firecracker is here, and what its version can do. */
#ifndef KELPIE_BACKEND_FIRECRACKER_FIRECRACKER_PROBE_H
#define KELPIE_BACKEND_FIRECRACKER_FIRECRACKER_PROBE_H

#include "backend/firecracker/firecracker_limits.h"
#include "host/host.h"

#define FIRECRACKER_INSTALL_HINT                                                                   \
    "download a release of Firecracker 1.7 or newer from "                                         \
    "https://github.com/firecracker-microvm/firecracker/releases, and put it in PATH or set "      \
    "KELPIE_FIRECRACKER to its path"

struct firecracker_probe {
    char binary[HOST_PATH_SIZE_MAX + 1]; /* an absolute path, or a name to be found in PATH */
    char version[FIRECRACKER_VERSION_SIZE_MAX + 1]; /* "1.13.1" */
    unsigned major;
    unsigned minor;
    char cpu[FIRECRACKER_CPU_SIZE_MAX + 1]; /* this host's: vendor, family, model; or "unknown" */
};

/* Runs `firecracker --version`. Errors: BACKEND_MISSING (none, too old, or it crashed), UNSUPPORTED ($KELPIE_JAILER asks for
 * what there is not), CANCELLED, NO_MEMORY. */
KELPIE_CHECKED enum kelpie_status firecracker_probe_run(struct host *host, const char *named,
                                                        int cancel_fd,
                                                        struct firecracker_probe *ret_probe,
                                                        struct kelpie_error *err);

/* Whether it is of that version or newer; of a major version above 1, whatever came before is taken to be there. */
bool firecracker_probe_has(const struct firecracker_probe *probe, unsigned minor);

/* Finds "Firecracker vX.Y[.Z]" in what `firecracker --version` printed. Pure. False: there is none. */
KELPIE_CHECKED bool firecracker_version_parse(const char *text, struct firecracker_probe *probe);

/* "GenuineIntel-6-143" of the first processor in /proc/cpuinfo (Linux, arch/x86/kernel/cpu/proc.c). Pure. */
void firecracker_cpu_parse(const char *text, char ret_cpu[FIRECRACKER_CPU_SIZE_MAX + 1]);

#endif
