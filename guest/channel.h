/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * channel.h: finds the byte stream to the host. Today that is the virtio-serial port of a known name. A
 * hypervisor that offers vsock instead gets a second function here, which listens on a port and accepts once.
 */
#ifndef KELPIE_GUEST_CHANNEL_H
#define KELPIE_GUEST_CHANNEL_H

#include "base/error.h"

#define CHANNEL_PORT_NAME "org.kelpie.channel"

/* Waits, bounded, until the driver has found the port. The descriptor does not block. */
KELPIE_CHECKED enum kelpie_status channel_open(int *ret_fd, struct kelpie_error *err);

#endif
