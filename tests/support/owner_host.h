/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * owner_host.h: this machine, where a VM's owner is a thread of this process: what is started as `PROGRAM supervise` is
 * kelpie_supervise(), or whatever a test puts in its place. Nothing else can be started.
 *
 *     struct host *host = NULL;
 *     owner_host_create(&host);
 *     kelpie_vm_create(&(struct kelpie_config){.owner = &owner, .backend = "mock", .host = host}, &vm, &err);
 *     …
 *     owner_host_join();
 *     host_destroy(host);
 *
 * There is one at a time. Threads: owners are started from several at once; the rest is done by one.
 */
#ifndef TESTS_SUPPORT_OWNER_HOST_H
#define TESTS_SUPPORT_OWNER_HOST_H

#include "host/host.h"

#define OWNER_HOST_OWNER_COUNT_MAX 512 /* between two owner_host_join() */

/* An owner: fd is its end of the first connection, and its to close with `host`. */
typedef void owner_host_main(struct host *host, int fd, void *context);

KELPIE_CHECKED enum kelpie_status owner_host_create(struct host **ret_host);

/* From now on owners do this; NULL: kelpie_supervise(). */
void owner_host_play(owner_host_main *play, void *context);

/* From now on starting one fails with this; OK: no more. */
void owner_host_refuse(enum kelpie_status status);

/* How many have not ended yet. */
size_t owner_host_alive(void);

/* Waits until all owners have ended. Returns how many there were since the last time. */
size_t owner_host_join(void);

#endif
