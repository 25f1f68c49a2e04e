/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vmm/control.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"

static uint8_t bytes[CONTROL_MESSAGE_SIZE_MAX];

static const struct control_machine machine = {
    .vcpu_count = 3,
    .memory_mib = 512,
    .channel_port = 1024,
    .disk_count = 2,
    .disk_read_only = {false, true},
    .generation = "0123456789abcde",
    .kernel_load = 0x1000000,
    .kernel_entry = 0x1000123,
    .has_medium = true,
    .command_line = "console=ttyS0",
};

static struct control_header header_of(const struct cursor_writer *writer) {
    struct control_header header;
    assert_true(control_decode_header(writer->data, &header));
    assert_int_equal(header.size + CONTROL_HEADER_SIZE, writer->size);
    return header;
}

static void test_messages_survive(void **state) {
    (void)state;
    struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
    struct control_machine back;
    control_encode_machine(&writer, CONTROL_LOAD, &machine);
    assert_int_equal(header_of(&writer).type, CONTROL_LOAD);
    assert_true(control_decode_machine(bytes + CONTROL_HEADER_SIZE,
                                       writer.size - CONTROL_HEADER_SIZE, &back));
    assert_int_equal(back.vcpu_count, 3);
    assert_int_equal(back.memory_mib, 512);
    assert_true(!back.disk_read_only[0] && back.disk_read_only[1]);
    assert_memory_equal(back.generation, machine.generation, CONTROL_GENERATION_SIZE);
    assert_int_equal(back.kernel_load, machine.kernel_load);
    assert_int_equal(back.kernel_entry, machine.kernel_entry);
    assert_true(back.has_medium);
    assert_string_equal(back.command_line, machine.command_line);

    struct kelpie_error failure = {0};
    struct kelpie_error heard = {0};
    error_set_field(&failure, KELPIE_SNAPSHOT_INCOMPATIBLE, "tsc_khz", "too \x01 fast");
    writer = cursor_writer_init(bytes, sizeof(bytes));
    control_encode_failed(&writer, &failure);
    assert_int_equal(header_of(&writer).type, CONTROL_FAILED);
    assert_true(control_decode_failed(bytes + CONTROL_HEADER_SIZE,
                                      writer.size - CONTROL_HEADER_SIZE, &heard));
    assert_int_equal(heard.status, KELPIE_SNAPSHOT_INCOMPATIBLE);
    assert_string_equal(heard.field, "tsc_khz");
    assert_string_equal(heard.message, "too ? fast");
}

static void hazard_d1_what_is_no_message_is_refused(void **state) {
    (void)state;
    struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
    struct control_machine back;
    struct control_header header;
    control_encode_machine(&writer, CONTROL_BOOT, &machine);
    size_t size = writer.size - CONTROL_HEADER_SIZE;
    for (size_t length = 0; length < size; length++) {
        assert_false(control_decode_machine(bytes + CONTROL_HEADER_SIZE, length, &back));
    }
    assert_false(control_decode_machine(bytes + CONTROL_HEADER_SIZE, size + 1, &back));
    bytes[CONTROL_HEADER_SIZE] = 33; /* vCPUs */
    assert_false(control_decode_machine(bytes + CONTROL_HEADER_SIZE, size, &back));
    static const uint8_t too_long[CONTROL_HEADER_SIZE] = {0xff, 0xff, 0, 0, 1};
    static const uint8_t no_type[CONTROL_HEADER_SIZE] = {0, 0, 0, 0, 7};
    assert_false(control_decode_header(too_long, &header));
    assert_false(control_decode_header(no_type, &header));
    struct kelpie_error heard = {0};
    static const uint8_t ok_as_failure[12] = {0};
    assert_false(control_decode_failed(ok_as_failure, sizeof(ok_as_failure), &heard));
    enum control_role role;
    assert_false(control_decode_fd("\x02\0\0\0", 4, &role));
    assert_true(control_decode_fd("\x01\0\0\0", 4, &role));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_messages_survive),
        cmocka_unit_test(hazard_d1_what_is_no_message_is_refused),
    };
    return cmocka_run_group_tests_name("control", tests, NULL, NULL);
}
