/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vmm/acpi/aml.h"

#include <string.h>

#include "base/assert.h"

#define NAME_SIZE 4
#define LENGTH_SIZE 3 /* of a PkgLength: 4 bits in the first byte, 8 in each that follows */
#define LENGTH_MAX (1u << 20)
#define LENGTH_LEAD 0x80 /* two bytes follow */
#define PACKAGE_COUNT_MAX 8

/* Opcodes (20.2.5, 20.3). */
#define OP_NAME 0x08
#define OP_BYTE 0x0a
#define OP_WORD 0x0b
#define OP_DWORD 0x0c
#define OP_STRING 0x0d
#define OP_SCOPE 0x10
#define OP_BUFFER 0x11
#define OP_PACKAGE 0x12
#define OP_METHOD 0x14
#define OP_EXTENDED 0x5b
#define OP_ROOT 0x5c
#define OP_ARGUMENT_0 0x68
#define OP_EXTENDED_DEVICE 0x82
#define OP_NOTIFY 0x86
#define OP_EQUAL 0x93
#define OP_IF 0xa0

#define ARGUMENT_COUNT_MAX 7
#define METHOD_SERIALIZED 0x08

/* Resource descriptors (6.4.2, 6.4.3). */
#define RESOURCE_PORTS 0x47
#define RESOURCE_PORTS_DECODE_16 0x01
#define RESOURCE_END 0x79
#define RESOURCE_MEMORY 0x86
#define RESOURCE_MEMORY_SIZE 9
#define RESOURCE_MEMORY_WRITABLE 0x01
#define RESOURCE_INTERRUPT 0x89
#define RESOURCE_INTERRUPT_SIZE 6
#define RESOURCE_INTERRUPT_FLAGS 0x03 /* consumer, edge; active high, exclusive */

void aml_init(struct aml *aml, void *buffer, size_t capacity) {
    ASSERT(aml);
    ASSERT(buffer && capacity < LENGTH_MAX);
    *aml = (struct aml){.out = cursor_writer_init(buffer, capacity)};
}

static void name(struct aml *aml, const char *text) {
    ASSERT(text);
    ASSERT(strlen(text) == NAME_SIZE);
    cursor_write_bytes(&aml->out, text, NAME_SIZE);
}

/* Room for the length of what begins here. */
static void open(struct aml *aml) {
    static const uint8_t room[LENGTH_SIZE];
    ASSERT(aml);
    ASSERT(aml->depth < AML_DEPTH_MAX);
    aml->open[aml->depth++] = aml->out.size;
    cursor_write_bytes(&aml->out, room, sizeof(room));
}

/* A PkgLength counts itself. */
void aml_end(struct aml *aml) {
    ASSERT(aml);
    ASSERT(aml->depth > 0);
    size_t at = aml->open[--aml->depth];
    if (aml->out.failed) {
        return;
    }
    ASSERT(aml->out.size >= at + LENGTH_SIZE);
    size_t length = aml->out.size - at;
    ASSERT(length < LENGTH_MAX);
    aml->out.data[at] = (uint8_t)(LENGTH_LEAD | (length & 0x0f));
    aml->out.data[at + 1] = (uint8_t)(length >> 4);
    aml->out.data[at + 2] = (uint8_t)(length >> 12);
}

void aml_scope_begin(struct aml *aml, const char *scope) {
    ASSERT(aml);
    ASSERT(scope);
    cursor_write_u8(&aml->out, OP_SCOPE);
    open(aml);
    cursor_write_u8(&aml->out, OP_ROOT);
    name(aml, scope);
}

void aml_device_begin(struct aml *aml, const char *device) {
    ASSERT(aml);
    ASSERT(device);
    cursor_write_u8(&aml->out, OP_EXTENDED);
    cursor_write_u8(&aml->out, OP_EXTENDED_DEVICE);
    open(aml);
    name(aml, device);
}

void aml_method_begin(struct aml *aml, const char *method, uint8_t argument_count) {
    ASSERT(method);
    ASSERT(argument_count <= ARGUMENT_COUNT_MAX);
    cursor_write_u8(&aml->out, OP_METHOD);
    open(aml);
    name(aml, method);
    cursor_write_u8(&aml->out, (uint8_t)(argument_count | METHOD_SERIALIZED));
}

static void integer(struct aml *aml, uint32_t value) {
    ASSERT(aml);
    static_assert(OP_BYTE + 1 == OP_WORD && OP_WORD + 1 == OP_DWORD, "in order of size");
    if (value <= 1) {
        cursor_write_u8(&aml->out, (uint8_t)value); /* ZeroOp, OneOp */
    } else if (value <= UINT8_MAX) {
        cursor_write_u8(&aml->out, OP_BYTE);
        cursor_write_u8(&aml->out, (uint8_t)value);
    } else if (value <= UINT16_MAX) {
        cursor_write_u8(&aml->out, OP_WORD);
        cursor_write_u16(&aml->out, (uint16_t)value);
    } else {
        cursor_write_u8(&aml->out, OP_DWORD);
        cursor_write_u32(&aml->out, value);
    }
}

void aml_if_argument_begin(struct aml *aml, uint8_t argument, uint32_t value) {
    ASSERT(aml);
    ASSERT(argument < ARGUMENT_COUNT_MAX);
    cursor_write_u8(&aml->out, OP_IF);
    open(aml);
    cursor_write_u8(&aml->out, OP_EQUAL);
    cursor_write_u8(&aml->out, (uint8_t)(OP_ARGUMENT_0 + argument));
    integer(aml, value);
}

static void name_op(struct aml *aml, const char *text) {
    ASSERT(aml);
    ASSERT(text);
    cursor_write_u8(&aml->out, OP_NAME);
    name(aml, text);
}

void aml_name_integer(struct aml *aml, const char *text, uint32_t value) {
    ASSERT(aml);
    ASSERT(text);
    name_op(aml, text);
    integer(aml, value);
}

static void string(struct aml *aml, const char *value) {
    ASSERT(aml);
    ASSERT(value);
    cursor_write_u8(&aml->out, OP_STRING);
    cursor_write_string(&aml->out, value);
}

void aml_name_string(struct aml *aml, const char *text, const char *value) {
    ASSERT(aml);
    ASSERT(value);
    name_op(aml, text);
    string(aml, value);
}

void aml_name_strings(struct aml *aml, const char *text, const char *const *values, uint8_t count) {
    ASSERT(values);
    ASSERT(count <= PACKAGE_COUNT_MAX);
    name_op(aml, text);
    cursor_write_u8(&aml->out, OP_PACKAGE);
    open(aml);
    cursor_write_u8(&aml->out, count);
    for (uint8_t i = 0; i < count; i++) {
        string(aml, values[i]);
    }
    aml_end(aml);
}

/* A digit of an EISA id. */
static uint32_t hexadecimal(char digit) {
    static const char digits[] = "0123456789ABCDEF";
    const char *found = strchr(digits, digit);
    ASSERT(digit != '\0');
    ASSERT(found);
    return (uint32_t)(found - digits);
}

/* Three letters of 5 bits and four digits of 4 bits, the most significant byte first (ASL: EISAID). */
void aml_name_eisa_id(struct aml *aml, const char *text, const char *id) {
    ASSERT(id);
    ASSERT(strlen(id) == 7);
    uint32_t value = 0;
    for (size_t i = 0; i < 3; i++) {
        ASSERT(id[i] >= 'A' && id[i] <= 'Z');
        value = value << 5 | (uint32_t)(id[i] - '@');
    }
    for (size_t i = 3; i < 7; i++) {
        value = value << 4 | hexadecimal(id[i]);
    }
    name_op(aml, text);
    cursor_write_u8(&aml->out, OP_DWORD);
    cursor_write_u32(&aml->out, __builtin_bswap32(value));
}

void aml_name_integers(struct aml *aml, const char *text, const uint32_t *values, uint8_t count) {
    ASSERT(values);
    ASSERT(count <= PACKAGE_COUNT_MAX);
    name_op(aml, text);
    cursor_write_u8(&aml->out, OP_PACKAGE);
    open(aml);
    cursor_write_u8(&aml->out, count);
    for (uint8_t i = 0; i < count; i++) {
        integer(aml, values[i]);
    }
    aml_end(aml);
}

void aml_notify(struct aml *aml, const char *device, uint8_t value) {
    ASSERT(aml);
    ASSERT(device);
    cursor_write_u8(&aml->out, OP_NOTIFY);
    name(aml, device);
    integer(aml, value);
}

/* A buffer's length stands twice: as a PkgLength, and as an integer, which is filled in at the end too. */
void aml_resources_begin(struct aml *aml) {
    ASSERT(aml);
    ASSERT(aml->depth < AML_DEPTH_MAX);
    name_op(aml, "_CRS");
    cursor_write_u8(&aml->out, OP_BUFFER);
    open(aml);
    cursor_write_u8(&aml->out, OP_WORD);
    cursor_write_u16(&aml->out, 0);
}

void aml_resource_memory(struct aml *aml, uint32_t base, uint32_t size) {
    ASSERT(aml->depth > 0);
    ASSERT(size > 0 && base <= UINT32_MAX - size);
    cursor_write_u8(&aml->out, RESOURCE_MEMORY);
    cursor_write_u16(&aml->out, RESOURCE_MEMORY_SIZE);
    cursor_write_u8(&aml->out, RESOURCE_MEMORY_WRITABLE);
    cursor_write_u32(&aml->out, base);
    cursor_write_u32(&aml->out, size);
}

void aml_resource_ports(struct aml *aml, uint16_t base, uint8_t count) {
    ASSERT(aml->depth > 0);
    ASSERT(count > 0);
    cursor_write_u8(&aml->out, RESOURCE_PORTS);
    cursor_write_u8(&aml->out, RESOURCE_PORTS_DECODE_16);
    cursor_write_u16(&aml->out, base); /* the lowest and the highest base */
    cursor_write_u16(&aml->out, base);
    cursor_write_u8(&aml->out, 1); /* alignment */
    cursor_write_u8(&aml->out, count);
}

void aml_resource_interrupt(struct aml *aml, uint32_t gsi) {
    ASSERT(aml);
    ASSERT(aml->depth > 0);
    cursor_write_u8(&aml->out, RESOURCE_INTERRUPT);
    cursor_write_u16(&aml->out, RESOURCE_INTERRUPT_SIZE);
    cursor_write_u8(&aml->out, RESOURCE_INTERRUPT_FLAGS);
    cursor_write_u8(&aml->out, 1); /* how many interrupts follow */
    cursor_write_u32(&aml->out, gsi);
}

void aml_resources_end(struct aml *aml) {
    ASSERT(aml->depth > 0);
    size_t integer_at = aml->open[aml->depth - 1] + LENGTH_SIZE;
    size_t data_at = integer_at + 1 + sizeof(uint16_t);
    cursor_write_u8(&aml->out, RESOURCE_END);
    cursor_write_u8(&aml->out, 0); /* its checksum; 0: not used */
    if (!aml->out.failed) {
        ASSERT(aml->out.size > data_at);
        size_t size = aml->out.size - data_at;
        aml->out.data[integer_at + 1] = (uint8_t)size;
        aml->out.data[integer_at + 2] = (uint8_t)(size >> 8);
    }
    aml_end(aml);
}
