/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "backend/mock/mock_state.h"

#include "backend/mock/mock_harness_test.h"
#include "backend/mock/mock_shell.h"
#include "base/assert.h"

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

/* ---- Every field ------------------------------------------------------------------------------ */

static struct mock_session *session_of(struct mock_guest *guest, uint32_t id) {
    for (size_t i = 0; i < guest->session_count; i++) {
        if (guest->sessions[i]->id == id) {
            return guest->sessions[i];
        }
    }
    fail_msg("there is no session %u", id);
    return NULL;
}

/* The session's process number `slot`. */
static struct mock_process *process_of(struct mock_guest *guest, uint32_t id, uint32_t slot) {
    struct mock_process *process = session_of(guest, id)->processes[slot];
    assert_non_null(process);
    return process;
}

#define CHANGE(name, statement)                                                                    \
    static void name(struct mock_guest *guest) {                                                   \
        statement;                                                                                 \
    }
CHANGE(nothing, (void)guest)
CHANGE(no_hostname, guest->hostname[0] = 0)
CHANGE(late_uptime, guest->uptime_ns = UINT64_MAX / 4 + 1)
CHANGE(large_pid, guest->next_pid = 0x40000001)
CHANGE(root_is_a_file, mock_files_find(&guest->files, "/")->type = MOCK_FILE_REGULAR)
CHANGE(root_is_another, mock_files_find(&guest->files, "/tmp")->path[1] = 0)
CHANGE(large_mode, mock_files_find(&guest->files, "/tmp")->mode = 010000)
CHANGE(odd_type, mock_files_find(&guest->files, "/tmp")->type = MOCK_FILE_TYPE_COUNT)
CHANGE(odd_path, mock_files_find(&guest->files, "/tmp")->path[0] = 'x')
CHANGE(folder_has_content,
       mock_bytes_append(&mock_files_find(&guest->files, "/tmp")->content, "x", 1))
CHANGE(same_id, session_of(guest, 2)->id = 1)
CHANGE(odd_kind, session_of(guest, 2)->kind = MOCK_SESSION_PUT)
CHANGE(early_value, session_of(guest, 2)->end_value = 1)
CHANGE(early_end, session_of(guest, 2)->end = PROTOCOL_END_SIGNALED)
CHANGE(early_message, session_of(guest, 2)->end_message[0] = 'x')
CHANGE(early_out, protocol_sender_end(&session_of(guest, 2)->outputs[MOCK_OUT]))
CHANGE(early_error, protocol_sender_end(&session_of(guest, 2)->outputs[MOCK_ERR]))
CHANGE(tty_error, session_of(guest, 4)->outputs[MOCK_ERR].ended = false)
CHANGE(put_has_flags, session_of(guest, 5)->flags = PROTOCOL_EXEC_STDIN)
CHANGE(put_has_no_path, session_of(guest, 5)->path[0] = 0)
CHANGE(put_path_is_relative, session_of(guest, 5)->path[0] = 'x')
CHANGE(put_is_behind, session_of(guest, 5)->file_offset = 9)
CHANGE(put_is_large, session_of(guest, 5)->file_size = MOCK_FILE_BYTES_MAX + 1)
CHANGE(large_code, session_of(guest, 7)->end_value = 256)
CHANGE(code_and_message, session_of(guest, 7)->end_message[0] = 'x')
CHANGE(late_out, session_of(guest, 7)->outputs[MOCK_OUT].ended = false)
CHANGE(late_error, session_of(guest, 7)->outputs[MOCK_ERR].ended = false)
CHANGE(ended_runs, session_of(guest, 2)->ended = true)
CHANGE(odd_end, session_of(guest, 7)->end = PROTOCOL_END_COUNT)
CHANGE(no_errno, session_of(guest, 9)->end_value = 0)
CHANGE(large_errno, session_of(guest, 9)->end_value = 4096)
CHANGE(large_flags, session_of(guest, 1)->flags = 64)
CHANGE(first_has_parent, process_of(guest, 3, 0)->parent = 1)
CHANGE(first_in_background, process_of(guest, 3, 0)->background = true)
CHANGE(child_without_parent, process_of(guest, 3, 1)->parent = MOCK_PROCESS_NONE)
CHANGE(own_parent, process_of(guest, 3, 1)->parent = 1)
CHANGE(missing_parent, process_of(guest, 3, 1)->parent = 7)
CHANGE(parent_is_behind, process_of(guest, 3, 1)->parent = MOCK_PROCESS_COUNT_MAX)
CHANGE(no_argv, process_of(guest, 2, 0)->argv.bytes.size = process_of(guest, 2, 0)->argv.count = 0)
CHANGE(no_shell, process_of(guest, 2, 0)->program = process_of(guest, 3, 0)->program)
CHANGE(shell_of_another, process_of(guest, 3, 0)->program = process_of(guest, 2, 0)->program)
CHANGE(process_signal, process_of(guest, 2, 0)->signal = 65)
CHANGE(odd_folder, process_of(guest, 2, 0)->folder[0] = 'x')
CHANGE(odd_stream, process_of(guest, 2, 0)->targets[0].stream = MOCK_STREAM_COUNT)
CHANGE(position_behind,
       process_of(guest, 3, 0)->shell->position = process_of(guest, 3, 0)->shell->script.size)
CHANGE(script_without_end, process_of(guest, 3, 0)->shell->script.size--)
CHANGE(script_with_two_ends, process_of(guest, 3, 0)->shell->script.data[3] = 0)
CHANGE(not_ready_yet_running, process_of(guest, 3, 0)->shell->ready = false)
CHANGE(frame_behind, process_of(guest, 3, 0)->shell->frames[0].start = 100000)
CHANGE(odd_frame, process_of(guest, 3, 0)->shell->frames[0].kind = MOCK_SHELL_KIND_COUNT)
CHANGE(missing_child, process_of(guest, 3, 0)->shell->child = 7)
CHANGE(child_is_itself, process_of(guest, 3, 0)->shell->child = 0)
CHANGE(child_in_background, process_of(guest, 3, 1)->background = true)
CHANGE(odd_operator, process_of(guest, 3, 0)->shell->last = MOCK_SHELL_OPERATOR_COUNT)

static void end_by(struct mock_guest *guest, enum protocol_end end, uint32_t value) {
    session_of(guest, 7)->end = end;
    session_of(guest, 7)->end_value = value;
}
CHANGE(signaled, end_by(guest, PROTOCOL_END_SIGNALED, 64))
CHANGE(signaled_by_none, end_by(guest, PROTOCOL_END_SIGNALED, 0))
CHANGE(signaled_by_65, end_by(guest, PROTOCOL_END_SIGNALED, 65))
CHANGE(timed_out, end_by(guest, PROTOCOL_END_TIMED_OUT, 9))
CHANGE(signaled_with_message,
       (end_by(guest, PROTOCOL_END_SIGNALED, 9), session_of(guest, 7)->end_message[0] = 'x'))

static const struct {
    const char *name;
    void (*change)(struct mock_guest *guest);
    bool taken;
} changes[] = {
#define REFUSED(name)                                                                              \
    { #name, name, false }
    {"nothing", nothing, true},
    {"signaled", signaled, true},
    {"timed_out", timed_out, true},
    REFUSED(no_hostname),
    REFUSED(late_uptime),
    REFUSED(large_pid),
    REFUSED(root_is_a_file),
    REFUSED(root_is_another),
    REFUSED(large_mode),
    REFUSED(odd_type),
    REFUSED(odd_path),
    REFUSED(folder_has_content),
    REFUSED(same_id),
    REFUSED(odd_kind),
    REFUSED(early_value),
    REFUSED(early_end),
    REFUSED(early_message),
    REFUSED(early_out),
    REFUSED(early_error),
    REFUSED(tty_error),
    REFUSED(put_has_flags),
    REFUSED(put_has_no_path),
    REFUSED(put_path_is_relative),
    REFUSED(put_is_behind),
    REFUSED(put_is_large),
    REFUSED(large_code),
    REFUSED(code_and_message),
    REFUSED(late_out),
    REFUSED(late_error),
    REFUSED(ended_runs),
    REFUSED(odd_end),
    REFUSED(no_errno),
    REFUSED(large_errno),
    REFUSED(large_flags),
    REFUSED(first_has_parent),
    REFUSED(first_in_background),
    REFUSED(child_without_parent),
    REFUSED(own_parent),
    REFUSED(missing_parent),
    REFUSED(parent_is_behind),
    REFUSED(no_argv),
    REFUSED(no_shell),
    REFUSED(shell_of_another),
    REFUSED(process_signal),
    REFUSED(odd_folder),
    REFUSED(odd_stream),
    REFUSED(position_behind),
    REFUSED(script_without_end),
    REFUSED(script_with_two_ends),
    REFUSED(not_ready_yet_running),
    REFUSED(frame_behind),
    REFUSED(odd_frame),
    REFUSED(missing_child),
    REFUSED(child_is_itself),
    REFUSED(child_in_background),
    REFUSED(odd_operator),
    REFUSED(signaled_by_none),
    REFUSED(signaled_by_65),
    REFUSED(signaled_with_message),
};

static void hazard_b3_each_field_that_is_wrong(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(changes); i++) {
        struct harness harness = harness_start();
        busy_guest(harness.guest);
        changes[i].change(harness.guest);
        struct mock_bytes bytes = save(harness.guest);
        struct mock_guest *guest = load(harness.host, bytes.data, bytes.size);
        if ((guest != NULL) != changes[i].taken) {
            fail_msg("%s was%s taken", changes[i].name, guest ? "" : " not");
        }
        mock_guest_destroy(guest);
        mock_bytes_deinit(&bytes);
        harness_stop(&harness);
    }
}

/* A file that is on its way out goes on from its bytes as it was opened; with less of them it is refused. */
static void test_a_file_on_its_way_is_saved(void **state) {
    (void)state;
    static uint8_t content[2 * MOCK_OUTPUT_SIZE];
    struct harness harness = harness_start();
    struct mock_files *files = &harness.guest->files;
    struct cursor_writer writer = harness_writer();
    memset(content, 'c', sizeof(content));
    harness_hello(harness.guest);
    assert_int_equal(mock_files_open(files, "/tmp/large", false), 0);
    assert_int_equal(
        mock_files_append(files, mock_files_find(files, "/tmp/large"), content, sizeof(content)),
        0);
    protocol_encode_file_get(&writer, 1, &(struct protocol_file_get){.path = "/tmp/large"});
    harness_receive(harness.guest, writer.data, writer.size);
    harness_run(harness.guest, 2);
    struct mock_session *session = session_of(harness.guest, 1);
    assert_false(session->ended);
    struct mock_bytes bytes = save(harness.guest);
    struct mock_guest *guest = load(harness.host, bytes.data, bytes.size);
    assert_non_null(guest);
    assert_memory_equal(session_of(guest, 1)->content.data, content, sizeof(content));
    mock_guest_destroy(guest);
    mock_bytes_deinit(&bytes);
    session->content.size--;
    bytes = save(harness.guest);
    assert_null(load(harness.host, bytes.data, bytes.size));
    mock_bytes_deinit(&bytes);
    harness_stop(&harness);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hazard_C9_what_was_loaded_is_saved_the_same),
        cmocka_unit_test(test_a_loaded_guest_goes_on_as_the_saved_one),
        cmocka_unit_test(test_an_attached_session_is_sent_from_its_first_byte),
        cmocka_unit_test(test_a_file_on_its_way_is_saved),
        cmocka_unit_test(hazard_b3_each_field_that_is_wrong),
        cmocka_unit_test(test_hazard_B3_every_byte_flipped),
        cmocka_unit_test(test_hazard_B3_every_length_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
