/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "backend/mock/mock_state.h"

#include "backend/mock/mock_harness_test.h"

static void send_input(struct mock_guest *guest, uint32_t id, uint64_t offset, const char *text) {
    struct cursor_writer writer = harness_writer();
    const struct protocol_data data = {.stream = PROTOCOL_STDIN,
                                       .offset = offset,
                                       .bytes = (const uint8_t *)text,
                                       .size = strlen(text)};
    protocol_encode_data(&writer, id, &data);
    harness_receive(guest, writer.data, writer.size);
}

static void open_put(struct mock_guest *guest, uint32_t id) {
    struct cursor_writer writer = harness_writer();
    const struct protocol_file_put put = {.path = "/tmp/put", .mode = 0640, .size = 8};
    protocol_encode_file_put(&writer, id, &put);
    harness_receive(guest, writer.data, writer.size);
    send_input(guest, id, 0, "half");
}

/* A guest in the middle of everything that a snapshot must hold. */
static void busy_guest(struct mock_guest *guest) {
    harness_hello(guest);
    harness_exec(guest, 1, PROTOCOL_EXEC_STDIN, ARGV("cat"));
    send_input(guest, 1, 0, "unacknowledged");
    harness_exec(guest, 2, 0, ARGV("sleep", "5"));
    harness_exec(
        guest, 3, 0,
        SHELL("i=0; while true; do i=$((i+1)); if true; then echo $i; fi; sleep 0.01; done"));
    harness_exec(guest, 4, PROTOCOL_EXEC_TTY | PROTOCOL_EXEC_STDIN, ARGV("cat"));
    send_input(guest, 4, 0, "line\nhalf a li");
    open_put(guest, 5);
    harness_exec(guest, 6, 0, SHELL("sleep 9 & exec sleep 8 > /tmp/out"));
    harness_exec(guest, 7, 0, SHELL("echo over; exit 3"));
    harness_exec(guest, 8, PROTOCOL_EXEC_STDIN, ARGV("sleep", "7"));
    send_input(guest, 8, 0, "nobody reads this");
    harness_exec(guest, 9, 0, ARGV("no-such-program"));
    harness_run(guest, 55);
    assert_int_equal(guest->session_count, 9);
}

static struct mock_bytes save(struct mock_guest *guest) {
    struct kelpie_error err;
    struct mock_bytes bytes = mock_bytes_init(guest->host);
    assert_int_equal(mock_state_save(guest, &bytes, &err), KELPIE_OK);
    return bytes;
}

/* NULL: it was refused, properly. */
static struct mock_guest *load(struct host *host, const void *data, size_t size) {
    struct kelpie_error err = {0};
    struct mock_guest *guest = NULL;
    assert_int_equal(mock_guest_create(host, HARNESS_MEMORY_BYTES, &guest, &err), KELPIE_OK);
    if (mock_state_load(guest, data, size, &err) != KELPIE_OK) {
        assert_int_equal(err.status, KELPIE_SNAPSHOT_CORRUPT);
        assert_string_equal(err.field, "state");
        mock_guest_destroy(guest);
        return NULL;
    }
    return guest;
}

static void attach(struct mock_guest *guest, uint32_t id) {
    struct cursor_writer writer = harness_writer();
    protocol_encode_attach(&writer, id, &(struct protocol_attach){.from_acknowledged = true});
    harness_receive(guest, writer.data, writer.size);
}

static void test_hazard_C9_what_was_loaded_is_saved_the_same(void **state) {
    (void)state;
    struct harness harness = harness_start();
    busy_guest(harness.guest);
    struct mock_bytes first = save(harness.guest);
    struct mock_bytes again = save(harness.guest);
    assert_int_equal(again.size, first.size); /* saving changes nothing */
    assert_memory_equal(again.data, first.data, first.size);
    mock_bytes_deinit(&again);
    struct mock_guest *loaded = load(harness.host, first.data, first.size);
    assert_non_null(loaded);
    struct mock_bytes second = save(loaded);
    assert_int_equal(second.size, first.size);
    assert_memory_equal(second.data, first.data, first.size);
    mock_bytes_deinit(&first);
    mock_bytes_deinit(&second);
    mock_guest_destroy(loaded);
    harness_stop(&harness);
}

static void test_a_loaded_guest_goes_on_as_the_saved_one(void **state) {
    (void)state;
    struct harness harness = harness_start();
    busy_guest(harness.guest);
    struct mock_bytes bytes = save(harness.guest);
    struct mock_guest *loaded = load(harness.host, bytes.data, bytes.size);
    assert_non_null(loaded);
    mock_bytes_deinit(&bytes);
    loaded->clock_ns = harness.guest->clock_ns;
    harness_hello(harness.guest);
    harness_hello(loaded);
    harness_run(harness.guest, 400);
    harness_run(loaded, 400);
    struct mock_bytes first = save(harness.guest);
    struct mock_bytes second = save(loaded);
    assert_int_equal(second.size, first.size);
    assert_memory_equal(second.data, first.data, first.size);
    mock_bytes_deinit(&first);
    mock_bytes_deinit(&second);
    mock_guest_destroy(loaded);
    harness_stop(&harness);
}

static void test_an_attached_session_is_sent_from_its_first_byte(void **state) {
    (void)state;
    struct harness harness = harness_start();
    busy_guest(harness.guest);
    struct mock_bytes bytes = save(harness.guest);
    struct mock_guest *loaded = load(harness.host, bytes.data, bytes.size);
    assert_non_null(loaded);
    harness_hello(loaded);
    harness_run(loaded, 5);
    assert_int_equal(loaded->send.size, 0); /* detached: it says nothing */
    attach(loaded, 1);
    struct protocol_frame frame = harness_next(loaded);
    struct protocol_attached attached;
    assert_true(protocol_decode_attached(&frame, &attached));
    assert_int_equal(attached.os_error, 0);
    assert_int_equal(attached.stdin_offset, strlen("unacknowledged"));
    assert_int_equal(attached.flags, PROTOCOL_EXEC_STDIN);
    frame = harness_next(loaded);
    struct protocol_data data;
    assert_true(protocol_decode_data(&frame, &data));
    assert_int_equal(data.offset, 0);
    assert_memory_equal(data.bytes, "unacknowledged", data.size);
    attach(loaded, 7);
    frame = harness_next(loaded);
    assert_int_equal(frame.type, PROTOCOL_ATTACHED);
    harness_next(loaded); /* ACK: its stdin is closed */
    frame = harness_next(loaded);
    assert_true(protocol_decode_data(&frame, &data));
    assert_memory_equal(data.bytes, "over\n", 5);
    mock_bytes_deinit(&bytes);
    mock_guest_destroy(loaded);
    harness_stop(&harness);
}

/* Uses a guest that came of damaged bytes: it may do anything but harm. */
static void use(struct mock_guest *guest) {
    harness_hello(guest);
    guest->frozen = false;
    harness_run(guest, 3);
    for (uint32_t id = 1; id <= 9; id++) {
        guest->send.size = 0;
        attach(guest, id);
    }
    guest->send.size = 0;
    harness_run(guest, 10);
    struct mock_bytes bytes = save(guest);
    mock_bytes_deinit(&bytes);
}

static void test_hazard_B3_every_byte_flipped(void **state) {
    (void)state;
    struct harness harness = harness_start();
    busy_guest(harness.guest);
    struct mock_bytes bytes = save(harness.guest);
    size_t accepted = 0;
    for (size_t i = 0; i < bytes.size; i++) {
        uint8_t flip = (uint8_t)(1u << (i % 8));
        bytes.data[i] ^= flip;
        struct mock_guest *guest = load(harness.host, bytes.data, bytes.size);
        bytes.data[i] ^= flip;
        if (guest) {
            accepted++;
            use(guest);
            mock_guest_destroy(guest);
        }
    }
    assert_true(accepted > 0);
    assert_true(accepted < bytes.size);
    print_message("%zu bytes flipped, %zu refused\n", bytes.size, bytes.size - accepted);
    mock_bytes_deinit(&bytes);
    harness_stop(&harness);
}

static void test_hazard_B3_every_length_cut(void **state) {
    (void)state;
    struct harness harness = harness_start();
    busy_guest(harness.guest);
    struct mock_bytes bytes = save(harness.guest);
    for (size_t size = 0; size < bytes.size; size += 1 + size / 512) {
        uint8_t *cut = malloc(size + 1); /* so that a sanitizer sees a read behind it */
        assert_non_null(cut);
        memcpy(cut, bytes.data, size);
        assert_null(load(harness.host, cut, size));
        free(cut);
    }
    assert_true(mock_bytes_append(&bytes, "x", 1));
    assert_null(load(harness.host, bytes.data, bytes.size)); /* one too many */
    mock_bytes_deinit(&bytes);
    harness_stop(&harness);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hazard_C9_what_was_loaded_is_saved_the_same),
        cmocka_unit_test(test_a_loaded_guest_goes_on_as_the_saved_one),
        cmocka_unit_test(test_an_attached_session_is_sent_from_its_first_byte),
        cmocka_unit_test(test_hazard_B3_every_byte_flipped),
        cmocka_unit_test(test_hazard_B3_every_length_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
