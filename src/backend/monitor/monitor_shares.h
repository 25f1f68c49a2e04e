/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * monitor_shares.h: folders of this host that a guest sees themselves, by virtio-fs.
 *
 * THEORY OF OPERATION
 *
 * A virtiofsd serves one folder to one machine over a socket (vhost-user). Each is a child beside the monitor, as passt is:
 * it dies with the owner, and ends by itself when the monitor's end of the socket is closed. The socket needs a name to
 * be made, which is random and gone before the other program runs.
 *
 * There are two programs of that name, told apart by what their --help names. What they cannot do is copied (vm/populate.h), or
 * is an error when the config insists (`live`); nothing is pretended:
 *     - The one of QEMU up to 7.2, in C, takes root for the namespaces that it shuts itself up in, and cannot refuse
 *       writes: for other users, and read-only, folders are copied. (A read-only mount is the guest's, whose root undoes it.)
 *     - Its successor, in Rust, runs for every user, in a namespace of users too, and has --readonly since 1.11.
 * Whether one is up in its sandbox is asked before the machine starts, in its own language (GET_FEATURES): what a machine of
 * this host's may not do (a container without namespaces) is then a reason to copy, and not a machine that hangs.
 *
 * What such a daemon holds of the guest is in no saved state: a machine with such a folder is not saved, nor forked, and a
 * machine that a template is made of, or is loaded, has none.
 *
 * It is confined by itself: it changes its root to the folder, and has namespaces, a seccomp filter and few capabilities. What a
 * guest's root makes in a folder belongs to the host's user who shares it (to root, with the mode that it chose, when root
 * does): a guest that is not trusted gets a copy, or a folder on a file system that is mounted nosuid.
 *
 * Threads: one at a time, as the backend's operations; monitor_shares_has() too.
 */
#ifndef KELPIE_BACKEND_MONITOR_MONITOR_SHARES_H
#define KELPIE_BACKEND_MONITOR_MONITOR_SHARES_H

#include "backend/backend.h"
#include "backend/monitor/monitor_limits.h"

/* Which virtiofsd there is, and what it can do. */
struct monitor_virtiofsd {
    char program[KELPIE_PATH_SIZE_MAX + 1]; /* empty: there is none */
    bool is_rust;
    bool can_refuse_writes;
};

struct monitor_share {
    struct host_process *process; /* NULL: the folder is not shown */
    int fd;                       /* the machine's end, until it has it */
};

struct monitor_shares {
    struct host *host;
    const struct kelpie_config *config;
    struct monitor_virtiofsd virtiofsd;
    struct monitor_share shares[KELPIE_SHARE_COUNT_MAX];
};

void monitor_shares_init(struct monitor_shares *shares, struct host *host,
                         const struct kelpie_config *config);

/* Starts a virtiofsd for each folder that can be shown. UNSUPPORTED, field "shares[i].live": one that must be shown cannot be.
 * After a failure too, close gives everything back. */
KELPIE_CHECKED enum kelpie_status monitor_shares_open(struct monitor_shares *shares,
                                                      const struct host_wait *wait,
                                                      struct kelpie_error *err);
bool monitor_shares_has(const struct monitor_shares *shares, size_t index);

/* The machine has copies of the descriptors: ours are closed. */
void monitor_shares_handed_over(struct monitor_shares *shares);
void monitor_shares_close(struct monitor_shares *shares);

/* Looks for a virtiofsd: what KELPIE_VIRTIOFSD names, or the first of the places where systems have it. */
void monitor_virtiofsd_find(struct host *host, const struct host_wait *wait,
                            struct monitor_virtiofsd *ret_virtiofsd);

/* Says, for a user, how shared folders come to guests. */
void monitor_virtiofsd_describe(const struct monitor_virtiofsd *virtiofsd, uint32_t user_id,
                                char *text, size_t size);

/* For tests: what --help says of it; and why it cannot show that folder, NULL: it can. Pure. */
bool monitor_virtiofsd_parse(const char *help, struct monitor_virtiofsd *virtiofsd);
const char *monitor_virtiofsd_why_not(const struct monitor_virtiofsd *virtiofsd,
                                      const struct kelpie_share *share, uint32_t user_id);

#endif
