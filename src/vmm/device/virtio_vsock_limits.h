/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#ifndef KELPIE_VMM_DEVICE_VIRTIO_VSOCK_LIMITS_H
#define KELPIE_VMM_DEVICE_VIRTIO_VSOCK_LIMITS_H

#define VSOCK_CONNECTION_COUNT_MAX 256
#define VSOCK_BUFFER_SIZE 65536u   /* bytes of one connection on their way to the host */
#define VSOCK_DATA_SIZE_MAX 65536u /* bytes in one packet to the guest */
#define VSOCK_CREDIT_STEP                                                                          \
    (VSOCK_BUFFER_SIZE / 2)       /* taken bytes that the guest is told about unasked */
#define VSOCK_PORT_COUNT_MAX 8    /* prepared ports */
#define VSOCK_CLIENT_COUNT_MAX 16 /* clients that have not yet said where to */
#define VSOCK_LINE_SIZE_MAX 32    /* bytes of "CONNECT <port>\n" */
#define VSOCK_REPLY_COUNT_MAX 64  /* RSTs that wait for buffers and belong to no connection */
#define VSOCK_TX_BURST 256        /* packets of the guest taken in one go */
#define VSOCK_RX_BURST 64         /* packets given to the guest in one go */
#define VSOCK_CID_MIN 3u /* of guests; 0 to 2 and 2^32 - 1 are reserved (virtio 1.2, 5.10.4) */
#define VSOCK_CID_MAX 0xfffffffeu
#define VSOCK_HOST_PORT_MIN (1u << 30) /* of the ports that the device assigns */
#define VSOCK_HOST_PORT_MAX 0x7fffffffu

#endif
