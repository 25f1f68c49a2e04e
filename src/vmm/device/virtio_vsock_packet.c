/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vmm/device/virtio_vsock_packet.h"

#include "base/assert.h"
#include "base/cursor.h"

void vsock_packet_encode(const struct vsock_packet *packet, uint8_t ret_header[VSOCK_HEADER_SIZE]) {
    ASSERT(packet);
    struct cursor_writer writer = cursor_writer_init(ret_header, VSOCK_HEADER_SIZE);
    cursor_write_u64(&writer, packet->src_cid);
    cursor_write_u64(&writer, packet->dst_cid);
    cursor_write_u32(&writer, packet->src_port);
    cursor_write_u32(&writer, packet->dst_port);
    cursor_write_u32(&writer, packet->size);
    cursor_write_u16(&writer, packet->type);
    cursor_write_u16(&writer, packet->op);
    cursor_write_u32(&writer, packet->flags);
    cursor_write_u32(&writer, packet->buffer_size);
    cursor_write_u32(&writer, packet->forwarded);
    ASSERT(!writer.failed);
    ASSERT(writer.size == VSOCK_HEADER_SIZE);
}

struct vsock_packet vsock_packet_decode(const uint8_t header[VSOCK_HEADER_SIZE]) {
    ASSERT(header);
    struct cursor_reader reader = cursor_reader_init(header, VSOCK_HEADER_SIZE);
    struct vsock_packet packet = {0};
    packet.src_cid = cursor_read_u64(&reader);
    packet.dst_cid = cursor_read_u64(&reader);
    packet.src_port = cursor_read_u32(&reader);
    packet.dst_port = cursor_read_u32(&reader);
    packet.size = cursor_read_u32(&reader);
    packet.type = cursor_read_u16(&reader);
    packet.op = cursor_read_u16(&reader);
    packet.flags = cursor_read_u32(&reader);
    packet.buffer_size = cursor_read_u32(&reader);
    packet.forwarded = cursor_read_u32(&reader);
    ASSERT(cursor_reader_finished(&reader));
    return packet;
}
