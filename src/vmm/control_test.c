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
    .run = true,
    .note = true,
    .network = CONTROL_NETWORK_STREAM,
    .mac = {2, 1, 2, 3, 4, 5},
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
    assert_true(back.run);
    assert_true(back.note);
    assert_true(!back.disk_read_only[0] && back.disk_read_only[1]);
    assert_int_equal(back.network, CONTROL_NETWORK_STREAM);
    assert_memory_equal(back.mac, machine.mac, MAC_SIZE);
    assert_memory_equal(back.generation, machine.generation, CONTROL_GENERATION_SIZE);
    assert_int_equal(back.kernel_load, machine.kernel_load);
    assert_int_equal(back.kernel_entry, machine.kernel_entry);
    assert_true(back.has_medium);
    assert_string_equal(back.command_line, machine.command_line);

    const struct control_stamps stamps = {1, 2, 3, 4};
    struct control_stamps told = {0};
    writer = cursor_writer_init(bytes, sizeof(bytes));
    control_encode_stamps(&writer, &stamps);
    assert_int_equal(header_of(&writer).type, CONTROL_TOLD);
    assert_true(control_decode_stamps(bytes + CONTROL_HEADER_SIZE,
                                      writer.size - CONTROL_HEADER_SIZE, &told));
    assert_memory_equal(&told, &stamps, sizeof(stamps));

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
    bytes[CONTROL_HEADER_SIZE] = 3;
    assert_true(control_decode_machine(bytes + CONTROL_HEADER_SIZE, size, &back));
    struct control_machine wrong = machine;
    wrong.mac[0] |= 1; /* a group's */
    writer = cursor_writer_init(bytes, sizeof(bytes));
    control_encode_machine(&writer, CONTROL_BOOT, &wrong);
    assert_false(control_decode_machine(bytes + CONTROL_HEADER_SIZE, size, &back));
    const size_t network_at = CONTROL_HEADER_SIZE + 16 + KELPIE_DISK_COUNT_MAX + 2; /* run, note */
    assert_int_equal(bytes[network_at], CONTROL_NETWORK_STREAM);
    bytes[network_at] = CONTROL_NETWORK_NONE;
    assert_true(control_decode_machine(bytes + CONTROL_HEADER_SIZE, size, &back));
    bytes[network_at] = CONTROL_NETWORK_COUNT;
    assert_false(control_decode_machine(bytes + CONTROL_HEADER_SIZE, size, &back));
    static const uint8_t too_long[CONTROL_HEADER_SIZE] = {0xff, 0xff, 0, 0, 1};
    static const uint8_t no_type[CONTROL_HEADER_SIZE] = {0, 0, 0, 0, CONTROL_ORDER_END};
    assert_false(control_decode_header(too_long, &header));
    assert_false(control_decode_header(no_type, &header));
    struct kelpie_error heard = {0};
    static const uint8_t ok_as_failure[12] = {0};
    assert_false(control_decode_failed(ok_as_failure, sizeof(ok_as_failure), &heard));
    enum control_role role;
    const uint8_t behind[4] = {CONTROL_ROLE_COUNT};
    const uint8_t last[4] = {CONTROL_ROLE_COUNT - 1};
    assert_false(control_decode_fd(behind, 4, &role));
    assert_true(control_decode_fd(last, 4, &role));
}

static void test_each_role_has_a_name(void **state) {
    (void)state;
    for (unsigned role = 0; role < CONTROL_ROLE_COUNT; role++) {
        assert_true(strlen(control_role_name((enum control_role)role)) > 0);
    }
    const size_t last = KELPIE_DISK_COUNT_MAX - 1;
    static const struct {
        enum control_role first;
        const char *name;
    } disks[] = {{CONTROL_ROLE_DISK_0, "disk"},
                 {CONTROL_ROLE_OVERLAY_0, "overlay"},
                 {CONTROL_ROLE_BITMAP_0, "bitmap"}};
    assert_string_equal(control_role_name(CONTROL_ROLE_COUNT - 1), "diff's pages");
    assert_string_equal(control_role_name(CONTROL_ROLE_PAGES_0 - 1), "diff's memory");
    for (size_t i = 0; i < ARRAY_SIZE(disks); i++) {
        assert_int_equal(control_role_of_disk(disks[i].first, 0), disks[i].first);
        assert_string_equal(control_role_name(control_role_of_disk(disks[i].first, last)),
                            disks[i].name);
    }
}

/* Memory of no size, or more than there may be; as many vCPUs and disks. */
static void hazard_b2_a_machine_that_cannot_be_is_refused(void **state) {
    static const struct {
        uint32_t vcpu_count;
        uint32_t memory_mib;
        uint32_t port;
        uint32_t disk_count;
        bool possible;
    } cases[] = {
        {1, 1, 1024, 0, true},
        {KELPIE_VCPU_COUNT_MAX, KELPIE_MEMORY_MIB_MAX, 1, KELPIE_DISK_COUNT_MAX, true},
        {1, 0, 1024, 0, false},
        {1, KELPIE_MEMORY_MIB_MAX + 1, 1024, 0, false},
        {1, UINT32_MAX, 1024, 0, false},
        {0, 64, 1024, 0, false},
        {KELPIE_VCPU_COUNT_MAX + 1, 64, 1024, 0, false},
        {1, 64, 0, 0, false},
        {1, 64, CONTROL_CHANNEL_PORT_END, 0, false},
        {1, 64, 1024, KELPIE_DISK_COUNT_MAX + 1, false},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
        struct control_machine back;
        control_encode_machine(&writer, CONTROL_LOAD, &machine);
        struct cursor_writer head = cursor_writer_init(bytes + CONTROL_HEADER_SIZE, 16);
        cursor_write_u32(&head, cases[i].vcpu_count);
        cursor_write_u32(&head, cases[i].memory_mib);
        cursor_write_u32(&head, cases[i].port);
        cursor_write_u32(&head, cases[i].disk_count);
        assert_int_equal(control_decode_machine(bytes + CONTROL_HEADER_SIZE,
                                                writer.size - CONTROL_HEADER_SIZE, &back),
                         cases[i].possible);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_messages_survive),
        cmocka_unit_test(hazard_d1_what_is_no_message_is_refused),
        cmocka_unit_test(test_each_role_has_a_name),
        cmocka_unit_test(hazard_b2_a_machine_that_cannot_be_is_refused),
    };
    return cmocka_run_group_tests_name("control", tests, NULL, NULL);
}
