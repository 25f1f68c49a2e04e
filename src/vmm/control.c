/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vmm/control.h"

#include <stdio.h>
#include <string.h>

#include "base/assert.h"

/* Of those that there are several of, the first. */
static const char *const role_names[CONTROL_ROLE_COUNT] = {
    [CONTROL_ROLE_KERNEL] = "kernel",
    [CONTROL_ROLE_INITRAMFS] = "initramfs",
    [CONTROL_ROLE_STATE] = "state",
    [CONTROL_ROLE_MEMORY] = "memory",
    [CONTROL_ROLE_NETWORK] = "network",
    [CONTROL_ROLE_MEDIUM] = "boot disk",
    [CONTROL_ROLE_WORKING_SET] = "working set",
    [CONTROL_ROLE_DISK_0] = "disk",
    [CONTROL_ROLE_OVERLAY_0] = "overlay",
    [CONTROL_ROLE_BITMAP_0] = "bitmap",
    [CONTROL_ROLE_LAYER_0] = "diff's memory",
    [CONTROL_ROLE_PAGES_0] = "diff's pages",
};

enum control_role control_role_of_disk(enum control_role first, size_t index) {
    ASSERT(first >= CONTROL_ROLE_DISK_0);
    ASSERT(index < KELPIE_DISK_COUNT_MAX);
    return (enum control_role)((size_t)first + index);
}

const char *control_role_name(enum control_role role) {
    ASSERT((unsigned)role < CONTROL_ROLE_COUNT);
    while (!role_names[role]) {
        role--;
    }
    const char *name = role_names[role];
    ASSERT(name);
    return name;
}

bool control_decode_header(const uint8_t bytes[CONTROL_HEADER_SIZE], struct control_header *ret) {
    ASSERT(bytes);
    ASSERT(ret);
    struct cursor_reader reader = cursor_reader_init(bytes, CONTROL_HEADER_SIZE);
    ret->size = cursor_read_u32(&reader);
    uint32_t type = cursor_read_u32(&reader);
    ret->type = (enum control_type)type;
    bool request = type >= CONTROL_FD && type < CONTROL_ORDER_END;
    bool answer = type == CONTROL_DONE || type == CONTROL_TOLD || type == CONTROL_FAILED;
    return (request || answer) && ret->size <= CONTROL_MESSAGE_SIZE_MAX - CONTROL_HEADER_SIZE;
}

/* Writes the header with its size when the payload is there. */
static void begin(struct cursor_writer *writer, enum control_type type) {
    ASSERT(writer->size == 0);
    ASSERT(writer->capacity >= CONTROL_MESSAGE_SIZE_MAX);
    cursor_write_u32(writer, 0);
    cursor_write_u32(writer, type);
}

static void end(struct cursor_writer *writer) {
    ASSERT(!writer->failed);
    ASSERT(writer->size >= CONTROL_HEADER_SIZE && writer->size <= CONTROL_MESSAGE_SIZE_MAX);
    struct cursor_writer header = cursor_writer_init(writer->data, sizeof(uint32_t));
    cursor_write_u32(&header, (uint32_t)(writer->size - CONTROL_HEADER_SIZE));
}

void control_encode_machine(struct cursor_writer *writer, enum control_type type,
                            const struct control_machine *machine) {
    ASSERT(type == CONTROL_PREPARE || type == CONTROL_BOOT || type == CONTROL_LOAD);
    ASSERT(machine->disk_count <= KELPIE_DISK_COUNT_MAX);
    ASSERT((unsigned)machine->network < CONTROL_NETWORK_COUNT);
    begin(writer, type);
    cursor_write_u32(writer, machine->vcpu_count);
    cursor_write_u32(writer, machine->memory_mib);
    cursor_write_u32(writer, machine->channel_port);
    cursor_write_u32(writer, machine->disk_count);
    for (size_t i = 0; i < KELPIE_DISK_COUNT_MAX; i++) {
        cursor_write_u8(writer, machine->disk_read_only[i]);
    }
    cursor_write_u8(writer, machine->run);
    cursor_write_u8(writer, machine->note);
    cursor_write_u8(writer, (uint8_t)machine->network);
    cursor_write_bytes(writer, machine->mac, sizeof(machine->mac));
    cursor_write_bytes(writer, machine->generation, sizeof(machine->generation));
    cursor_write_u64(writer, machine->kernel_load);
    cursor_write_u64(writer, machine->kernel_entry);
    cursor_write_u8(writer, machine->has_medium);
    cursor_write_string(writer, machine->command_line);
    end(writer);
}

bool control_decode_machine(const void *payload, size_t size, struct control_machine *ret) {
    ASSERT(payload || size == 0);
    ASSERT(ret);
    struct cursor_reader reader = cursor_reader_init(payload, size);
    *ret = (struct control_machine){
        .vcpu_count = cursor_read_u32(&reader),
    };
    ret->memory_mib = cursor_read_u32(&reader);
    ret->channel_port = cursor_read_u32(&reader);
    ret->disk_count = cursor_read_u32(&reader);
    for (size_t i = 0; i < KELPIE_DISK_COUNT_MAX; i++) {
        ret->disk_read_only[i] = cursor_read_u8(&reader) != 0;
    }
    ret->run = cursor_read_u8(&reader) != 0;
    ret->note = cursor_read_u8(&reader) != 0;
    uint8_t network = cursor_read_u8(&reader);
    ret->network = (enum control_network)network;
    const uint8_t *mac = cursor_read_bytes(&reader, sizeof(ret->mac));
    const uint8_t *generation = cursor_read_bytes(&reader, sizeof(ret->generation));
    ret->kernel_load = cursor_read_u64(&reader);
    ret->kernel_entry = cursor_read_u64(&reader);
    ret->has_medium = cursor_read_u8(&reader) != 0;
    const char *line = cursor_read_string(&reader, CONTROL_COMMAND_LINE_SIZE_MAX);
    if (!mac || !generation || !line || !cursor_reader_finished(&reader)) {
        return false;
    }
    memcpy(ret->mac, mac, sizeof(ret->mac));
    memcpy(ret->generation, generation, sizeof(ret->generation));
    snprintf(ret->command_line, sizeof(ret->command_line), "%s", line);
    return ret->vcpu_count >= KELPIE_VCPU_COUNT_MIN && ret->vcpu_count <= KELPIE_VCPU_COUNT_MAX &&
           ret->memory_mib >= 1 && ret->memory_mib <= KELPIE_MEMORY_MIB_MAX &&
           ret->channel_port > 0 && ret->channel_port < CONTROL_CHANNEL_PORT_END &&
           ret->disk_count <= KELPIE_DISK_COUNT_MAX && network < CONTROL_NETWORK_COUNT &&
           (network == CONTROL_NETWORK_NONE || mac_is_host(ret->mac));
}

void control_encode_fd(struct cursor_writer *writer, enum control_role role) {
    ASSERT(writer);
    ASSERT((unsigned)role < CONTROL_ROLE_COUNT);
    begin(writer, CONTROL_FD);
    cursor_write_u32(writer, role);
    end(writer);
}

bool control_decode_fd(const void *payload, size_t size, enum control_role *ret) {
    ASSERT(payload || size == 0);
    ASSERT(ret);
    struct cursor_reader reader = cursor_reader_init(payload, size);
    uint32_t role = cursor_read_u32(&reader);
    *ret = (enum control_role)role;
    return cursor_reader_finished(&reader) && role < CONTROL_ROLE_COUNT;
}

void control_encode_plain(struct cursor_writer *writer, enum control_type type) {
    ASSERT(writer);
    ASSERT(type == CONTROL_DONE || (type >= CONTROL_PAUSE && type < CONTROL_ORDER_END));
    begin(writer, type);
    end(writer);
}

void control_encode_stamps(struct cursor_writer *writer, const struct control_stamps *stamps) {
    ASSERT(writer);
    ASSERT(stamps->started_ns > 0);
    begin(writer, CONTROL_TOLD);
    cursor_write_u64(writer, stamps->started_ns);
    cursor_write_u64(writer, stamps->ready_ns);
    cursor_write_u64(writer, stamps->resumed_ns);
    cursor_write_u64(writer, stamps->first_exit_ns);
    end(writer);
}

bool control_decode_stamps(const void *payload, size_t size, struct control_stamps *ret) {
    ASSERT(payload || size == 0);
    ASSERT(ret);
    struct cursor_reader reader = cursor_reader_init(payload, size);
    ret->started_ns = cursor_read_u64(&reader);
    ret->ready_ns = cursor_read_u64(&reader);
    ret->resumed_ns = cursor_read_u64(&reader);
    ret->first_exit_ns = cursor_read_u64(&reader);
    return cursor_reader_finished(&reader);
}

void control_encode_failed(struct cursor_writer *writer, const struct kelpie_error *failure) {
    ASSERT(writer);
    ASSERT(failure->status != KELPIE_OK);
    begin(writer, CONTROL_FAILED);
    cursor_write_u32(writer, failure->status);
    cursor_write_u32(writer, (uint32_t)failure->os_error);
    cursor_write_string(writer, failure->field);
    cursor_write_string(writer, failure->message);
    end(writer);
}

/* What is not plain text becomes a question mark: it is a monitor's, which a guest may have taken over. */
static void copy_text(char *target, size_t size, const char *text) {
    ASSERT(size > 0);
    ASSERT(text);
    snprintf(target, size, "%s", text);
    for (char *c = target; *c; c++) {
        if ((unsigned char)*c < 0x20 || (unsigned char)*c > 0x7e) {
            *c = '?';
        }
    }
}

bool control_decode_failed(const void *payload, size_t size, struct kelpie_error *ret) {
    ASSERT(payload || size == 0);
    ASSERT(ret);
    struct cursor_reader reader = cursor_reader_init(payload, size);
    uint32_t status = cursor_read_u32(&reader);
    uint32_t os_error = cursor_read_u32(&reader);
    const char *field = cursor_read_string(&reader, sizeof(ret->field) - 1);
    const char *message = cursor_read_string(&reader, sizeof(ret->message) - 1);
    if (!cursor_reader_finished(&reader) || !field || !message || status == KELPIE_OK ||
        status >= KELPIE_STATUS_COUNT || os_error > 4095) {
        return false;
    }
    char text[sizeof(ret->message)];
    char name[sizeof(ret->field)];
    copy_text(text, sizeof(text), message);
    copy_text(name, sizeof(name), field);
    error_set_field(ret, (enum kelpie_status)status, name, "%s", text);
    ret->os_error = (int)os_error;
    return true;
}
