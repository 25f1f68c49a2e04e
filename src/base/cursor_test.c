/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "base/cursor.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void numbers_are_little_endian(void **state) {
    (void)state;
    uint8_t bytes[15];
    struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
    cursor_write_u8(&writer, 0x01);
    cursor_write_u16(&writer, 0x0302);
    cursor_write_u32(&writer, 0x07060504);
    cursor_write_u64(&writer, 0x0f0e0d0c0b0a0908ull);
    assert_false(writer.failed);
    assert_int_equal(writer.size, sizeof(bytes));
    for (size_t i = 0; i < sizeof(bytes); i++) {
        assert_int_equal(bytes[i], i + 1);
    }
    struct cursor_reader reader = cursor_reader_init(bytes, sizeof(bytes));
    assert_int_equal(cursor_reader_left(&reader), sizeof(bytes));
    assert_int_equal(cursor_read_u8(&reader), 0x01);
    assert_int_equal(cursor_read_u16(&reader), 0x0302);
    assert_int_equal(cursor_read_u32(&reader), 0x07060504);
    assert_false(cursor_reader_finished(&reader));
    assert_true(cursor_read_u64(&reader) == 0x0f0e0d0c0b0a0908ull);
    assert_true(cursor_reader_finished(&reader));
}

/* Every size of input that is too small for what is read. */
static void an_overrun_reads_zeros_from_then_on(void **state) {
    (void)state;
    const uint8_t bytes[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    for (size_t size = 0; size < 8; size++) {
        struct cursor_reader reader = cursor_reader_init(bytes, size);
        assert_true(cursor_read_u64(&reader) == 0);
        assert_true(reader.failed);
        assert_int_equal(cursor_read_u8(&reader), 0); /* though there may be one */
        assert_null(cursor_read_bytes(&reader, 1));
        assert_null(cursor_read_string(&reader, 8));
        assert_false(cursor_reader_finished(&reader));
    }
}

static void bytes_are_read_in_place(void **state) {
    (void)state;
    const uint8_t bytes[4] = {1, 2, 3, 4};
    struct cursor_reader reader = cursor_reader_init(bytes, sizeof(bytes));
    assert_ptr_equal(cursor_read_bytes(&reader, 3), bytes);
    assert_int_equal(cursor_reader_left(&reader), 1);
    assert_null(cursor_read_bytes(&reader, SIZE_MAX));
    assert_true(reader.failed);
}

static void strings_end_where_they_must(void **state) {
    (void)state;
    const char text[] = "one\0two";
    struct cursor_reader reader = cursor_reader_init(text, sizeof(text));
    assert_string_equal(cursor_read_string(&reader, 3), "one");
    assert_string_equal(cursor_read_string(&reader, 100), "two");
    assert_true(cursor_reader_finished(&reader));

    reader = cursor_reader_init(text, sizeof(text));
    assert_null(cursor_read_string(&reader, 2)); /* longer than allowed */
    assert_true(reader.failed);
    reader = cursor_reader_init(text, 3);
    assert_null(cursor_read_string(&reader, 100)); /* no zero */
    assert_true(reader.failed);
    reader = cursor_reader_init("", 1);
    assert_string_equal(cursor_read_string(&reader, 0), "");
    assert_true(cursor_reader_finished(&reader));
}

static void a_full_writer_writes_nothing_more(void **state) {
    (void)state;
    uint8_t bytes[8];
    memset(bytes, 0xee, sizeof(bytes));
    struct cursor_writer writer = cursor_writer_init(bytes, 6);
    cursor_write_u32(&writer, 0);
    cursor_write_u32(&writer, 0);
    assert_true(writer.failed);
    assert_int_equal(writer.size, 4);
    cursor_write_u8(&writer, 1); /* it would fit, but what came before is missing */
    assert_true(writer.failed);
    assert_int_equal(writer.size, 4);
    for (size_t i = 4; i < sizeof(bytes); i++) {
        assert_int_equal(bytes[i], 0xee);
    }
}

static void strings_are_written_with_their_zero(void **state) {
    (void)state;
    uint8_t bytes[8] = {0xee, 0xee, 0xee, 0xee};
    struct cursor_writer writer = cursor_writer_init(bytes, 4);
    cursor_write_string(&writer, "abc");
    assert_false(writer.failed);
    assert_memory_equal(bytes, "abc", 4);
    cursor_write_bytes(&writer, NULL, 0);
    assert_false(writer.failed);
    cursor_write_string(&writer, "");
    assert_true(writer.failed);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_little_endian),
        cmocka_unit_test(an_overrun_reads_zeros_from_then_on),
        cmocka_unit_test(bytes_are_read_in_place),
        cmocka_unit_test(strings_end_where_they_must),
        cmocka_unit_test(a_full_writer_writes_nothing_more),
        cmocka_unit_test(strings_are_written_with_their_zero),
    };
    return cmocka_run_group_tests_name("cursor", tests, NULL, NULL);
}
