/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * channel.h: finds the byte stream to the host: the virtio-serial port of a known name, or, on a machine that has no
 * virtio console but a vsock device, a connection to PROTOCOL_VSOCK_PORT of the host. A port stays when the host lets go of
 * it; a connection ends for good (also by a restore, which resets the transport), and another is made in its place.
 */
#ifndef KELPIE_GUEST_CHANNEL_H
#define KELPIE_GUEST_CHANNEL_H

#include <stdbool.h>

#include "base/error.h"

#define CHANNEL_PORT_NAME "org.kelpie.channel"

enum channel_progress { CHANNEL_PENDING, CHANNEL_CONNECTED, CHANNEL_FAILED };

/* Waits, bounded, until there is a channel. The descriptor does not block. load_vsock loads the modules for vsock; it is called
 * at most once, and only on a machine that needs them. *ret_is_vsock: when the channel ends, another is to be dialled. */
KELPIE_CHECKED enum kelpie_status channel_open(void (*load_vsock)(void), int *ret_fd,
                                               bool *ret_is_vsock, struct kelpie_error *err);

/* Begins to connect to the host over vsock, without waiting. -1: that is not possible now. */
int channel_dial(void);

/* How far a descriptor that was dialled is, after at most wait_ms. */
enum channel_progress channel_progress(int fd, int wait_ms);

#endif
