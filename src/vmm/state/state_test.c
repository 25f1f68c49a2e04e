/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vmm/state/state.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>
#include <xxhash.h>

#include "base/assert.h"

#define TAG_ONE STATE_TAG('O', 'N', 'E', ' ')
#define TAG_TWO STATE_TAG('T', 'W', 'O', ' ')

static uint8_t bytes[4096];

/* Two sections: a number, and a text. Returns the size. */
static size_t write_two(void) {
    struct state_writer state;
    size_t size = 0;
    state_writer_init(&state, bytes, sizeof(bytes));
    cursor_write_u32(state_begin(&state, TAG_ONE, 1, 0), 0x12345678);
    state_end(&state);
    cursor_write_bytes(state_begin(&state, TAG_TWO, 3, 7), "text", 4);
    state_end(&state);
    assert_int_equal(state_writer_finish(&state, &size, NULL), KELPIE_OK);
    return size;
}

/* Puts the checksum right again, so that what lies behind it is reached. */
static void seal(size_t size) {
    uint64_t sum = XXH3_64bits(bytes, size - 24);
    struct cursor_writer writer = cursor_writer_init(bytes + size - 8, 8);
    cursor_write_u64(&writer, sum);
}

static void expect_corrupt(size_t size) {
    struct state_reader state;
    struct kelpie_error err = {0};
    assert_int_equal(state_reader_init(&state, bytes, size, &err), KELPIE_SNAPSHOT_CORRUPT);
    assert_string_equal(err.field, "state");
}

static void test_what_was_written_is_read(void **state) {
    (void)state;
    struct state_reader reader;
    struct cursor_reader section;
    size_t size = write_two();
    assert_int_equal(state_reader_init(&reader, bytes, size, NULL), KELPIE_OK);
    assert_int_equal(state_reader_finish(&reader, NULL), KELPIE_SNAPSHOT_CORRUPT); /* unread */
    assert_int_equal(state_find(&reader, TAG_TWO, 3, 7, &section, NULL), KELPIE_OK);
    assert_memory_equal(cursor_read_bytes(&section, 4), "text", 4);
    assert_int_equal(state_check(&section, true, "two", NULL), KELPIE_OK);
    assert_int_equal(state_find(&reader, TAG_ONE, 1, 0, &section, NULL), KELPIE_OK);
    assert_int_equal(state_check(&section, true, "one", NULL), KELPIE_SNAPSHOT_CORRUPT);
    assert_int_equal(cursor_read_u32(&section), 0x12345678);
    assert_int_equal(state_check(&section, true, "one", NULL), KELPIE_OK);
    assert_int_equal(state_check(&section, false, "one", NULL), KELPIE_SNAPSHOT_CORRUPT);
    assert_int_equal(state_reader_finish(&reader, NULL), KELPIE_OK);
}

static void test_what_is_not_there_is_named(void **state) {
    (void)state;
    struct state_reader reader;
    struct cursor_reader section;
    struct kelpie_error err = {0};
    size_t size = write_two();
    assert_int_equal(state_reader_init(&reader, bytes, size, NULL), KELPIE_OK);
    assert_int_equal(state_find(&reader, TAG_TWO, 3, 0, &section, &err), KELPIE_SNAPSHOT_CORRUPT);
    assert_non_null(strstr(err.message, "TWO  0"));
    assert_int_equal(state_find(&reader, TAG_TWO, 2, 7, &section, &err),
                     KELPIE_SNAPSHOT_INCOMPATIBLE);
    assert_int_equal(state_find(&reader, TAG_ONE, 1, 0, &section, &err), KELPIE_OK);
    assert_int_equal(state_find(&reader, TAG_ONE, 1, 0, &section, &err), KELPIE_SNAPSHOT_CORRUPT);
}

static void hazard_b3_every_byte_flipped_and_every_length(void **state) {
    (void)state;
    size_t size = write_two();
    for (size_t i = 0; i < size; i++) {
        bytes[i] ^= 0x10;
        expect_corrupt(size);
        bytes[i] ^= 0x10;
    }
    for (size_t length = 0; length < size; length++) {
        expect_corrupt(length);
    }
    bytes[size] = 0;
    expect_corrupt(size + 1);
}

static void hazard_b1_frames_that_cannot_be_under_a_right_checksum(void **state) {
    (void)state;
    size_t size = write_two();
    bytes[8 + 12] = 1; /* the reserved zero */
    seal(size);
    expect_corrupt(size);
    size = write_two();
    memset(bytes + 8 + 8, 0xff, 4); /* a payload of 4 GiB */
    seal(size);
    expect_corrupt(size);
    size = write_two();
    memcpy(bytes + 8 + 16 + 4, bytes + 8, 8); /* the same tag and instance twice */
    seal(size);
    expect_corrupt(size);
    struct state_writer many;
    static uint8_t large[VMM_SECTION_COUNT_MAX * 16 + 64];
    size_t written = 0;
    state_writer_init(&many, large, sizeof(large));
    for (uint16_t i = 0; i < VMM_SECTION_COUNT_MAX; i++) {
        state_begin(&many, TAG_ONE, 1, i);
        state_end(&many);
    }
    assert_int_equal(state_writer_finish(&many, &written, NULL), KELPIE_SNAPSHOT_FAILED);
}

static void test_what_does_not_fit_is_an_error(void **state) {
    (void)state;
    struct state_writer writer;
    size_t size = 0;
    state_writer_init(&writer, bytes, 64);
    struct cursor_writer *cursor = state_begin(&writer, TAG_ONE, 1, 0);
    for (int i = 0; i < 100; i++) {
        cursor_write_u8(cursor, 1);
    }
    state_end(&writer);
    assert_int_equal(state_writer_finish(&writer, &size, NULL), KELPIE_SNAPSHOT_FAILED);
    assert_int_equal(size, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_was_written_is_read),
        cmocka_unit_test(test_what_is_not_there_is_named),
        cmocka_unit_test(hazard_b3_every_byte_flipped_and_every_length),
        cmocka_unit_test(hazard_b1_frames_that_cannot_be_under_a_right_checksum),
        cmocka_unit_test(test_what_does_not_fit_is_an_error),
    };
    return cmocka_run_group_tests_name("state", tests, NULL, NULL);
}
