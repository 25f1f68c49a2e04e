/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The messages of the channel itself (session 0): connecting, setting up, standing still. */
#include "protocol/message.h"

#include <string.h>

#include "base/assert.h"

/* ---- Checks ----------------------------------------------------------------------------------- */

static bool is_alphanumeric(char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* What sethostname() takes and a file can name: letters, digits, "-", "_" and "."; a letter or digit
 * first. */
static bool hostname_is_valid(const char *name) {
    ASSERT(name);
    size_t size = strnlen(name, PROTOCOL_HOSTNAME_SIZE_MAX + 1);
    if (size > PROTOCOL_HOSTNAME_SIZE_MAX || !is_alphanumeric(name[0])) {
        return false;
    }
    for (size_t i = 1; i < size; i++) {
        if (!is_alphanumeric(name[i]) && name[i] != '-' && name[i] != '_' && name[i] != '.') {
            return false;
        }
    }
    ASSERT(size > 0);
    return true;
}

/* Lower-case digits only: machine-id(5). */
static bool machine_id_is_valid(const char *id) {
    ASSERT(id);
    size_t size = strnlen(id, PROTOCOL_MACHINE_ID_SIZE + 1);
    if (size != PROTOCOL_MACHINE_ID_SIZE) {
        return false;
    }
    for (size_t i = 0; i < size; i++) {
        bool is_digit = (id[i] >= '0' && id[i] <= '9') || (id[i] >= 'a' && id[i] <= 'f');
        if (!is_digit) {
            return false;
        }
    }
    return true;
}

static void read_fixed(struct cursor_reader *reader, uint8_t *buffer, size_t size) {
    ASSERT(size > 0);
    const uint8_t *bytes = cursor_read_bytes(reader, size);
    ASSERT(bytes || reader->failed);
    if (bytes) {
        memcpy(buffer, bytes, size);
    }
}

/* ---- HELLO, HELLO_ACK, PING, PONG ------------------------------------------------------------- */

void protocol_encode_hello(struct cursor_writer *writer, const struct protocol_hello *message) {
    ASSERT(writer);
    ASSERT(message);
    size_t start = writer->size;
    cursor_write_bytes(writer, PROTOCOL_SYNC, PROTOCOL_SYNC_SIZE);
    size_t header = message_begin(writer, PROTOCOL_HELLO, 0);
    cursor_write_bytes(writer, message->nonce, PROTOCOL_NONCE_SIZE);
    message_end(writer, start, header);
}

bool protocol_decode_hello(const struct protocol_frame *frame, struct protocol_hello *ret) {
    ASSERT(frame);
    ASSERT(ret);
    struct cursor_reader reader;
    if (!message_open(frame, PROTOCOL_HELLO, &reader)) {
        return false;
    }
    struct protocol_hello message = {0};
    read_fixed(&reader, message.nonce, PROTOCOL_NONCE_SIZE);
    if (!cursor_reader_finished(&reader)) {
        return false;
    }
    *ret = message;
    return true;
}

void protocol_encode_hello_ack(struct cursor_writer *writer,
                               const struct protocol_hello_ack *message) {
    ASSERT(writer);
    ASSERT(message);
    size_t start = writer->size;
    cursor_write_bytes(writer, PROTOCOL_SYNC, PROTOCOL_SYNC_SIZE);
    size_t header = message_begin(writer, PROTOCOL_HELLO_ACK, 0);
    cursor_write_bytes(writer, message->nonce, PROTOCOL_NONCE_SIZE);
    cursor_write_u8(writer, message->frozen);
    cursor_write_u8(writer, message->set_up);
    cursor_write_bytes(writer, message->generation, PROTOCOL_GENERATION_SIZE);
    cursor_write_u64(writer, message->memory_total_bytes);
    cursor_write_u64(writer, message->memory_available_bytes);
    message_end(writer, start, header);
}

bool protocol_decode_hello_ack(const struct protocol_frame *frame, struct protocol_hello_ack *ret) {
    ASSERT(frame);
    ASSERT(ret);
    struct cursor_reader reader;
    if (!message_open(frame, PROTOCOL_HELLO_ACK, &reader)) {
        return false;
    }
    struct protocol_hello_ack message = {0};
    read_fixed(&reader, message.nonce, PROTOCOL_NONCE_SIZE);
    message.frozen = message_read_bool(&reader);
    message.set_up = message_read_bool(&reader);
    read_fixed(&reader, message.generation, PROTOCOL_GENERATION_SIZE);
    message.memory_total_bytes = cursor_read_u64(&reader);
    message.memory_available_bytes = cursor_read_u64(&reader);
    if (!cursor_reader_finished(&reader)) {
        return false;
    }
    *ret = message;
    return true;
}

void protocol_encode_ping(struct cursor_writer *writer, enum protocol_type type,
                          const struct protocol_ping *message) {
    ASSERT(writer);
    ASSERT(message);
    ASSERT(type == PROTOCOL_PING || type == PROTOCOL_PONG);
    size_t header = message_begin(writer, type, 0);
    cursor_write_u64(writer, message->token);
    message_end(writer, header, header);
}

/* What guests of before take for malformed, with what lets them go on. */
static void encode_with_sync(struct cursor_writer *writer, enum protocol_type type) {
    ASSERT(writer);
    ASSERT(type == PROTOCOL_STATUS || type == PROTOCOL_HOLD);
    size_t start = writer->size;
    protocol_encode_empty(writer, type, 0);
    cursor_write_bytes(writer, PROTOCOL_SYNC, PROTOCOL_SYNC_SIZE);
    if (writer->failed) {
        writer->size = start; /* all of it or nothing */
    }
    ASSERT(writer->size >= start);
}

void protocol_encode_status(struct cursor_writer *writer) {
    ASSERT(writer);
    encode_with_sync(writer, PROTOCOL_STATUS);
}

void protocol_encode_hold(struct cursor_writer *writer) {
    ASSERT(writer);
    encode_with_sync(writer, PROTOCOL_HOLD);
}

void protocol_encode_figures(struct cursor_writer *writer, const struct protocol_figures *message) {
    ASSERT(writer);
    ASSERT(message);
    size_t header = message_begin(writer, PROTOCOL_FIGURES, 0);
    cursor_write_u64(writer, message->memory_total_bytes);
    cursor_write_u64(writer, message->memory_available_bytes);
    message_end(writer, header, header);
}

bool protocol_decode_figures(const struct protocol_frame *frame, struct protocol_figures *ret) {
    ASSERT(frame);
    ASSERT(ret);
    struct cursor_reader reader;
    if (!message_open(frame, PROTOCOL_FIGURES, &reader)) {
        return false;
    }
    struct protocol_figures message = {
        .memory_total_bytes = cursor_read_u64(&reader),
        .memory_available_bytes = cursor_read_u64(&reader),
    };
    if (!cursor_reader_finished(&reader)) {
        return false;
    }
    *ret = message;
    return true;
}

bool protocol_decode_ping(const struct protocol_frame *frame, struct protocol_ping *ret) {
    ASSERT(frame);
    ASSERT(ret);
    struct cursor_reader reader;
    if (!message_open(frame, PROTOCOL_PING, &reader) &&
        !message_open(frame, PROTOCOL_PONG, &reader)) {
        return false;
    }
    uint64_t token = cursor_read_u64(&reader);
    if (!cursor_reader_finished(&reader)) {
        return false;
    }
    ret->token = token;
    return true;
}

/* ---- SETUP, SETUP_DONE ------------------------------------------------------------------------ */

static void identity_write(struct cursor_writer *writer, const struct protocol_identity *identity) {
    ASSERT(identity->hostname);
    ASSERT(identity->machine_id);
    message_require(writer, hostname_is_valid(identity->hostname));
    message_require(writer, machine_id_is_valid(identity->machine_id));
    cursor_write_u64(writer, identity->realtime_ns);
    cursor_write_bytes(writer, identity->entropy, PROTOCOL_ENTROPY_SIZE);
    cursor_write_bytes(writer, identity->generation, PROTOCOL_GENERATION_SIZE);
    message_write_string(writer, identity->hostname, PROTOCOL_HOSTNAME_SIZE_MAX);
    message_write_string(writer, identity->machine_id, PROTOCOL_MACHINE_ID_SIZE);
}

static void identity_read(struct cursor_reader *reader, struct protocol_identity *ret) {
    ASSERT(ret);
    struct protocol_identity identity = {0};
    identity.realtime_ns = cursor_read_u64(reader);
    read_fixed(reader, identity.entropy, PROTOCOL_ENTROPY_SIZE);
    read_fixed(reader, identity.generation, PROTOCOL_GENERATION_SIZE);
    identity.hostname = cursor_read_string(reader, PROTOCOL_HOSTNAME_SIZE_MAX);
    identity.machine_id = cursor_read_string(reader, PROTOCOL_MACHINE_ID_SIZE);
    if (reader->failed || identity.realtime_ns > INT64_MAX ||
        !hostname_is_valid(identity.hostname) || !machine_id_is_valid(identity.machine_id)) {
        reader->failed = true;
    }
    *ret = identity;
}

static bool mount_is_valid(const struct protocol_mount *mount) {
    ASSERT(mount);
    static_assert(PROTOCOL_MOUNT_COUNT_MAX <= 26, "a disk's name is one letter");
    if (mount->disk_index >= PROTOCOL_MOUNT_COUNT_MAX ||
        mount->upper_index >= PROTOCOL_MOUNT_COUNT_MAX) {
        return false;
    }
    if (!mount->overlay) {
        return mount->upper_index == 0;
    }
    return mount->read_only && mount->upper_index != mount->disk_index && mount->path &&
           strcmp(mount->path, "/") == 0;
}

void protocol_encode_setup(struct cursor_writer *writer, const struct protocol_setup *message) {
    ASSERT(writer);
    ASSERT(message);
    ASSERT(message->mount_count <= PROTOCOL_MOUNT_COUNT_MAX);
    size_t header = message_begin(writer, PROTOCOL_SETUP, 0);
    identity_write(writer, &message->identity);
    cursor_write_u32(writer, message->mount_count);
    for (uint32_t i = 0; i < message->mount_count; i++) {
        const struct protocol_mount *mount = &message->mounts[i];
        message_require(writer, message_path_is_valid(mount->path));
        message_require(writer, mount_is_valid(mount));
        cursor_write_u32(writer, mount->disk_index);
        cursor_write_u8(writer, mount->read_only);
        cursor_write_u8(writer, mount->overlay);
        cursor_write_u32(writer, mount->upper_index);
        message_write_string(writer, mount->path, PROTOCOL_PATH_SIZE_MAX);
    }
    message_end(writer, header, header);
}

bool protocol_decode_setup(const struct protocol_frame *frame, struct protocol_setup *ret) {
    ASSERT(frame);
    ASSERT(ret);
    struct cursor_reader reader;
    if (!message_open(frame, PROTOCOL_SETUP, &reader)) {
        return false;
    }
    struct protocol_setup message = {0};
    identity_read(&reader, &message.identity);
    message.mount_count = cursor_read_u32(&reader);
    if (message.mount_count > PROTOCOL_MOUNT_COUNT_MAX) {
        return false;
    }
    for (uint32_t i = 0; i < message.mount_count; i++) {
        struct protocol_mount *mount = &message.mounts[i];
        mount->disk_index = cursor_read_u32(&reader);
        mount->read_only = message_read_bool(&reader);
        mount->overlay = message_read_bool(&reader);
        mount->upper_index = cursor_read_u32(&reader);
        mount->path = message_read_path(&reader);
        if (reader.failed || !mount_is_valid(mount)) {
            return false;
        }
    }
    if (!cursor_reader_finished(&reader)) {
        return false;
    }
    *ret = message;
    return true;
}

static void encode_outcome(struct cursor_writer *writer, enum protocol_type type,
                           const struct protocol_done *message) {
    ASSERT(writer);
    ASSERT(type == PROTOCOL_SETUP_DONE || type == PROTOCOL_SHARED);
    ASSERT(message->message);
    ASSERT(message->os_error <= MESSAGE_OS_ERROR_MAX);
    size_t header = message_begin(writer, type, 0);
    cursor_write_u32(writer, message->os_error);
    message_write_string(writer, message->message, PROTOCOL_MESSAGE_SIZE_MAX);
    message_end(writer, header, header);
}

static bool decode_outcome(const struct protocol_frame *frame, enum protocol_type type,
                           struct protocol_done *ret) {
    ASSERT(frame);
    ASSERT(type == PROTOCOL_SETUP_DONE || type == PROTOCOL_SHARED);
    ASSERT(ret);
    struct cursor_reader reader;
    if (!message_open(frame, type, &reader)) {
        return false;
    }
    struct protocol_done message = {0};
    message.os_error = cursor_read_u32(&reader);
    message.message = cursor_read_string(&reader, PROTOCOL_MESSAGE_SIZE_MAX);
    if (!cursor_reader_finished(&reader) || message.os_error > MESSAGE_OS_ERROR_MAX) {
        return false;
    }
    *ret = message;
    return true;
}

void protocol_encode_done(struct cursor_writer *writer, const struct protocol_done *message) {
    ASSERT(writer);
    ASSERT(message);
    encode_outcome(writer, PROTOCOL_SETUP_DONE, message);
}

bool protocol_decode_done(const struct protocol_frame *frame, struct protocol_done *ret) {
    ASSERT(frame);
    ASSERT(ret);
    return decode_outcome(frame, PROTOCOL_SETUP_DONE, ret);
}

/* ---- SHARE, SHARED ---------------------------------------------------------------------------- */

void protocol_encode_share(struct cursor_writer *writer, const struct protocol_share *message) {
    ASSERT(writer);
    ASSERT(message->path);
    size_t header = message_begin(writer, PROTOCOL_SHARE, 0);
    message_require(writer, message->index < PROTOCOL_SHARE_COUNT_MAX);
    message_require(writer, message_path_is_valid(message->path));
    cursor_write_u32(writer, message->index);
    cursor_write_u8(writer, message->read_only);
    message_write_string(writer, message->path, PROTOCOL_PATH_SIZE_MAX);
    message_end(writer, header, header);
}

bool protocol_decode_share(const struct protocol_frame *frame, struct protocol_share *ret) {
    ASSERT(frame);
    ASSERT(ret);
    struct cursor_reader reader;
    if (!message_open(frame, PROTOCOL_SHARE, &reader)) {
        return false;
    }
    struct protocol_share message = {0};
    message.index = cursor_read_u32(&reader);
    uint8_t read_only = cursor_read_u8(&reader);
    message.path = message_read_path(&reader);
    if (!cursor_reader_finished(&reader) || message.index >= PROTOCOL_SHARE_COUNT_MAX ||
        read_only > 1) {
        return false;
    }
    message.read_only = read_only == 1;
    *ret = message;
    return true;
}

void protocol_encode_shared(struct cursor_writer *writer, const struct protocol_done *message) {
    ASSERT(writer);
    ASSERT(message);
    encode_outcome(writer, PROTOCOL_SHARED, message);
}

bool protocol_decode_shared(const struct protocol_frame *frame, struct protocol_done *ret) {
    ASSERT(frame);
    ASSERT(ret);
    return decode_outcome(frame, PROTOCOL_SHARED, ret);
}

/* ---- NETWORK ---------------------------------------------------------------------------------- */

static bool ipv4_is_none(const uint8_t address[PROTOCOL_IPV4_SIZE]) {
    static const uint8_t none[PROTOCOL_IPV4_SIZE];
    ASSERT(address);
    static_assert(sizeof(none) == 4, "all of it is compared");
    return memcmp(address, none, sizeof(none)) == 0;
}

static bool network_is_valid(const struct protocol_network *network) {
    ASSERT(network);
    static_assert(PROTOCOL_IPV4_SIZE * 8 == 32, "a prefix has so many bits");
    bool none = ipv4_is_none(network->address);
    bool fits = none ? network->prefix_size == 0 && ipv4_is_none(network->gateway) &&
                           ipv4_is_none(network->dns)
                     : network->prefix_size >= 1 && network->prefix_size <= PROTOCOL_IPV4_SIZE * 8;
    return fits && mac_is_host(network->mac);
}

void protocol_encode_network(struct cursor_writer *writer, const struct protocol_network *message) {
    ASSERT(writer);
    ASSERT(message);
    size_t header = message_begin(writer, PROTOCOL_NETWORK, 0);
    message_require(writer, network_is_valid(message));
    cursor_write_bytes(writer, message->mac, MAC_SIZE);
    cursor_write_u8(writer, message->prefix_size);
    cursor_write_u8(writer, 0);
    cursor_write_bytes(writer, message->address, PROTOCOL_IPV4_SIZE);
    cursor_write_bytes(writer, message->gateway, PROTOCOL_IPV4_SIZE);
    cursor_write_bytes(writer, message->dns, PROTOCOL_IPV4_SIZE);
    message_end(writer, header, header);
}

bool protocol_decode_network(const struct protocol_frame *frame, struct protocol_network *ret) {
    ASSERT(frame);
    ASSERT(ret);
    struct cursor_reader reader;
    if (!message_open(frame, PROTOCOL_NETWORK, &reader)) {
        return false;
    }
    struct protocol_network message = {0};
    read_fixed(&reader, message.mac, MAC_SIZE);
    message.prefix_size = cursor_read_u8(&reader);
    uint8_t zero = cursor_read_u8(&reader);
    read_fixed(&reader, message.address, PROTOCOL_IPV4_SIZE);
    read_fixed(&reader, message.gateway, PROTOCOL_IPV4_SIZE);
    read_fixed(&reader, message.dns, PROTOCOL_IPV4_SIZE);
    if (!cursor_reader_finished(&reader) || zero != 0 || !network_is_valid(&message)) {
        return false;
    }
    *ret = message;
    return true;
}

/* ---- SESSIONS --------------------------------------------------------------------------------- */

void protocol_encode_sessions(struct cursor_writer *writer,
                              const struct protocol_sessions *message) {
    ASSERT(writer);
    ASSERT(message);
    ASSERT(message->count <= PROTOCOL_SESSION_COUNT_MAX);
    size_t header = message_begin(writer, PROTOCOL_SESSIONS, 0);
    cursor_write_u32(writer, message->count);
    for (uint32_t i = 0; i < message->count; i++) {
        ASSERT(message->ids[i] != 0);
        cursor_write_u32(writer, message->ids[i]);
    }
    message_end(writer, header, header);
}

bool protocol_decode_sessions(const struct protocol_frame *frame, struct protocol_sessions *ret) {
    ASSERT(frame);
    ASSERT(ret);
    struct cursor_reader reader;
    if (!message_open(frame, PROTOCOL_SESSIONS, &reader)) {
        return false;
    }
    struct protocol_sessions message = {0};
    message.count = cursor_read_u32(&reader);
    if (message.count > PROTOCOL_SESSION_COUNT_MAX) {
        return false;
    }
    for (uint32_t i = 0; i < message.count; i++) {
        message.ids[i] = cursor_read_u32(&reader);
        if (message.ids[i] == 0) {
            return false;
        }
    }
    if (!cursor_reader_finished(&reader)) {
        return false;
    }
    *ret = message;
    return true;
}

/* ---- FROZEN, THAW, THAWED --------------------------------------------------------------------- */

void protocol_encode_frozen(struct cursor_writer *writer, const struct protocol_frozen *message) {
    ASSERT(writer);
    ASSERT(message);
    ASSERT(message->os_error <= MESSAGE_OS_ERROR_MAX);
    size_t header = message_begin(writer, PROTOCOL_FROZEN, 0);
    cursor_write_u32(writer, message->os_error);
    message_end(writer, header, header);
}

bool protocol_decode_frozen(const struct protocol_frame *frame, struct protocol_frozen *ret) {
    ASSERT(frame);
    ASSERT(ret);
    struct cursor_reader reader;
    if (!message_open(frame, PROTOCOL_FROZEN, &reader)) {
        return false;
    }
    uint32_t os_error = cursor_read_u32(&reader);
    if (!cursor_reader_finished(&reader) || os_error > MESSAGE_OS_ERROR_MAX) {
        return false;
    }
    ret->os_error = os_error;
    return true;
}

void protocol_encode_thaw(struct cursor_writer *writer, const struct protocol_thaw *message) {
    ASSERT(writer);
    ASSERT(message);
    ASSERT((message->flags & ~(uint32_t)PROTOCOL_THAW_RESTORED) == 0);
    size_t header = message_begin(writer, PROTOCOL_THAW, 0);
    cursor_write_u32(writer, message->flags);
    identity_write(writer, &message->identity);
    message_end(writer, header, header);
}

bool protocol_decode_thaw(const struct protocol_frame *frame, struct protocol_thaw *ret) {
    ASSERT(frame);
    ASSERT(ret);
    struct cursor_reader reader;
    if (!message_open(frame, PROTOCOL_THAW, &reader)) {
        return false;
    }
    struct protocol_thaw message = {0};
    message.flags = cursor_read_u32(&reader);
    identity_read(&reader, &message.identity);
    bool flags_known = (message.flags & ~(uint32_t)PROTOCOL_THAW_RESTORED) == 0;
    if (!cursor_reader_finished(&reader) || !flags_known) {
        return false;
    }
    *ret = message;
    return true;
}

static enum protocol_outcome read_outcome(struct cursor_reader *reader) {
    ASSERT(reader);
    uint8_t value = cursor_read_u8(reader);
    if (value >= PROTOCOL_OUTCOME_COUNT) {
        reader->failed = true;
        return PROTOCOL_OUTCOME_FAILED;
    }
    return (enum protocol_outcome)value;
}

void protocol_encode_thawed(struct cursor_writer *writer, const struct protocol_thawed *message) {
    ASSERT(writer);
    ASSERT(message);
    size_t header = message_begin(writer, PROTOCOL_THAWED, 0);
    cursor_write_u8(writer, (uint8_t)message->clock);
    cursor_write_u8(writer, (uint8_t)message->entropy);
    cursor_write_u8(writer, (uint8_t)message->generation);
    cursor_write_u8(writer, (uint8_t)message->network);
    cursor_write_u8(writer, (uint8_t)message->hostname);
    cursor_write_u8(writer, (uint8_t)message->machine_id);
    cursor_write_u16(writer, 0);
    cursor_write_u64(writer, (uint64_t)message->clock_skew_ns);
    message_end(writer, header, header);
}

bool protocol_decode_thawed(const struct protocol_frame *frame, struct protocol_thawed *ret) {
    ASSERT(frame);
    ASSERT(ret);
    struct cursor_reader reader;
    if (!message_open(frame, PROTOCOL_THAWED, &reader)) {
        return false;
    }
    struct protocol_thawed message = {0};
    message.clock = read_outcome(&reader);
    message.entropy = read_outcome(&reader);
    message.generation = read_outcome(&reader);
    message.network = read_outcome(&reader);
    message.hostname = read_outcome(&reader);
    message.machine_id = read_outcome(&reader);
    uint16_t zero = cursor_read_u16(&reader);
    message.clock_skew_ns = (int64_t)cursor_read_u64(&reader);
    if (!cursor_reader_finished(&reader) || zero != 0) {
        return false;
    }
    *ret = message;
    return true;
}
