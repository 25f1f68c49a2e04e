/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The monitor's state as anybody may write it (hazards B1, B3): what is accepted is written again byte for byte, and a
 * device that loads its section saves it again as it was (C9). Each input is read as it is, and once more with a
 * right checksum, so that the fuzzer gets past it.
 */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "vmm/device/reset.h"
#include "vmm/device/serial.h"
#include "vmm/state/state.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define END_SIZE 24 /* the end section: a header of 16, the checksum of 8 */
#define SAVED_SIZE_MAX 512

static void ignore(void *context) {
    (void)context;
}

static void ignore_byte(void *context, uint8_t byte) {
    (void)context;
    (void)byte;
}

/* What the reader found, written again: the very bytes. */
static void check_written_again(const struct state_reader *reader, const uint8_t *data,
                                size_t size) {
    AUTO_MEM uint8_t *again = malloc(size);
    struct state_writer writer;
    size_t again_size = 0;
    ASSERT(again);
    state_writer_init(&writer, again, size);
    for (size_t i = 0; i < reader->section_count; i++) {
        const struct state_section *section = &reader->sections[i];
        if (section->version == 0) {
            return; /* no writer gives that, and no device takes it */
        }
        cursor_write_bytes(state_begin(&writer, section->tag, section->version, section->instance),
                           section->payload, section->size);
        state_end(&writer);
    }
    if (reader->section_count == VMM_SECTION_COUNT_MAX) {
        return; /* with the end section one too many for the writer */
    }
    enum kelpie_status status = state_writer_finish(&writer, &again_size, NULL);
    ASSERT(status == KELPIE_OK);
    ASSERT(again_size == size);
    ASSERT(memcmp(again, data, size) == 0);
}

/* The one section of a device that loaded and was saved again stands so in the input. */
static void check_saved_again(struct state_writer *writer, const struct state_reader *reader) {
    struct state_reader again;
    size_t size = 0;
    enum kelpie_status status = state_writer_finish(writer, &size, NULL);
    ASSERT(status == KELPIE_OK);
    status = state_reader_init(&again, writer->cursor.data, size, NULL);
    ASSERT(status == KELPIE_OK);
    ASSERT(again.section_count == 1);
    const struct state_section *saved = &again.sections[0];
    for (size_t i = 0; i < reader->section_count; i++) {
        const struct state_section *section = &reader->sections[i];
        if (section->tag == saved->tag && section->instance == saved->instance) {
            ASSERT(section->size == saved->size);
            ASSERT(memcmp(section->payload, saved->payload, saved->size) == 0);
            return;
        }
    }
    UNREACHABLE();
}

static void check_devices(struct state_reader *reader) {
    uint8_t bytes[SAVED_SIZE_MAX];
    struct state_writer writer;
    struct serial serial;
    struct reset reset;
    serial_init(&serial, (struct device_irq){ignore, NULL},
                (struct serial_line){ignore_byte, NULL, NULL});
    reset_init(&reset, ignore, NULL);
    if (serial_load(&serial, reader, 0, NULL) == KELPIE_OK) {
        state_writer_init(&writer, bytes, sizeof(bytes));
        serial_save(&serial, &writer, 0);
        check_saved_again(&writer, reader);
    }
    if (reset_load(&reset, reader, NULL) == KELPIE_OK) {
        state_writer_init(&writer, bytes, sizeof(bytes));
        reset_save(&reset, &writer);
        check_saved_again(&writer, reader);
    }
    (void)state_reader_finish(reader, NULL);
}

static void check(const uint8_t *data, size_t size) {
    struct state_reader reader;
    if (state_reader_init(&reader, data, size, NULL) == KELPIE_OK) {
        check_written_again(&reader, data, size);
        check_devices(&reader);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    check(data, size);
    if (size < END_SIZE) {
        return 0;
    }
    AUTO_MEM uint8_t *sealed = malloc(size);
    ASSERT(sealed);
    memcpy(sealed, data, size);
    uint64_t checksum = XXH3_64bits(sealed, size - END_SIZE);
    struct cursor_writer writer = cursor_writer_init(sealed + size - sizeof(checksum), 8);
    cursor_write_u64(&writer, checksum);
    check(sealed, size);
    return 0;
}
