/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* A vsock packet's header as it stands in the virtqueues (virtio 1.2, 5.10.6, struct virtio_vsock_hdr). */
#ifndef KELPIE_VMM_DEVICE_VIRTIO_VSOCK_PACKET_H
#define KELPIE_VMM_DEVICE_VIRTIO_VSOCK_PACKET_H

#include <stdint.h>

#define VSOCK_HEADER_SIZE 44u
#define VSOCK_CID_HOST 2u
#define VSOCK_TYPE_STREAM 1u
#define VSOCK_SHUTDOWN_RECEIVE 1u /* will receive no more */
#define VSOCK_SHUTDOWN_SEND 2u    /* will send no more */
#define VSOCK_SHUTDOWN_BOTH 3u

enum vsock_op {
    VSOCK_OP_INVALID,
    VSOCK_OP_REQUEST,
    VSOCK_OP_RESPONSE,
    VSOCK_OP_RST,
    VSOCK_OP_SHUTDOWN,
    VSOCK_OP_RW,
    VSOCK_OP_CREDIT_UPDATE,
    VSOCK_OP_CREDIT_REQUEST,
};

struct vsock_packet {
    uint64_t src_cid;
    uint64_t dst_cid;
    uint32_t src_port;
    uint32_t dst_port;
    uint32_t size; /* bytes behind the header */
    uint16_t type;
    uint16_t op; /* enum vsock_op, or what the guest says */
    uint32_t flags;
    uint32_t buffer_size; /* buf_alloc */
    uint32_t forwarded;   /* fwd_cnt */
};

void vsock_packet_encode(const struct vsock_packet *packet, uint8_t ret_header[VSOCK_HEADER_SIZE]);
struct vsock_packet vsock_packet_decode(const uint8_t header[VSOCK_HEADER_SIZE]);

#endif
