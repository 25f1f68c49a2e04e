/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The scripted Firecracker as a process of a simulated world: what it does when it is honest. */
#include "support/firecracker_client.h"

/* ---- Honest ----------------------------------------------------------------------------------- */

static void body_version(struct rig *rig) {
    spawn(rig, "--version", NULL);
    assert_int_equal(await_end(rig).code, 0);
    assert_string_equal(listen_to(rig), "Firecracker v1.17.0\n");
}

static void the_version_is_printed(void **state) {
    (void)state;
    run(body_version);
}

static void body_config_file(struct rig *rig) {
    spawn(rig, "--config-file", "/tmp/config");
    assert_int_equal(await_end(rig).code, 152);
    assert_non_null(strstr(listen_to(rig), "--config-file"));
}

static void body_bogus(struct rig *rig) {
    spawn(rig, "--bogus", NULL);
    assert_int_equal(await_end(rig).code, 153);
}

static void body_taken(struct rig *rig) {
    struct kelpie_error err;
    ok(host_socket_listen(rig->host, API, &rig->listen_fd, &err));
    spawn(rig, "--api-sock", API);
    assert_int_equal(await_end(rig).code, 1);
    assert_non_null(strstr(listen_to(rig), "Failed to open the API socket"));
}

static void what_cannot_run_says_why(void **state) {
    (void)state;
    run(body_config_file);
    run(body_bogus);
    run(body_taken);
}

static void body_boot(struct rig *rig) {
    boot(rig, false);
    takes(rig, "GET", "/", NULL);
    assert_non_null(strstr(rig->answer, "\"state\":\"Running\""));
    run_script(rig, 1, "echo one; sleep 2; echo two", "one\ntwo\n");
    assert_non_null(strstr(listen_to(rig), "simulated guest: up"));
}

static void a_machine_boots_and_runs_commands(void **state) {
    (void)state;
    run(body_boot);
}

static void body_files(struct rig *rig) {
    open_firecracker(rig);
    refuses(rig, "PUT", "/boot-source", "{\"kernel_image_path\":\"/tmp/none\"}", "kernel file");
    refuses(rig, "PUT", "/drives/a",
            "{\"drive_id\":\"a\",\"is_root_device\":false,\"path_on_host\":\"/tmp/none\"}",
            "Drive config error");
    takes(rig, "PUT", "/drives/a",
          "{\"drive_id\":\"a\",\"is_root_device\":false,\"path_on_host\":\"/tmp/kernel\"}");
    refuses(rig, "PUT", "/actions", START, "without kernel");
    refuses(rig, "PUT", "/serial", "{\"serial_out_path\":\"/tmp/c\"}", "not simulated");
    refuses(rig, "PUT", "/vsock", "{\"guest_cid\":3,\"uds_path\":\"" API "\"}", "Vsock");
    takes(rig, "PUT", "/vsock", "{\"guest_cid\":3,\"uds_path\":\"" VSOCK "\"}");
    takes(rig, "PUT", "/vsock", "{\"guest_cid\":3,\"uds_path\":\"" VSOCK "\"}");
}

static void what_is_not_there_is_missed(void **state) {
    (void)state;
    run(body_files);
}

static void body_pause(struct rig *rig) {
    boot(rig, false);
    assert_true(pings(rig, 1));
    takes(rig, "PATCH", "/vm", PAUSE);
    assert_false(pings(rig, 2));
    takes(rig, "PATCH", "/vm", RESUME);
    struct protocol_frame frame;
    assert_true(next_frame(rig, SHORT_MS, &frame)); /* that of the pause */
    assert_true(pings(rig, 3));
}

static void a_paused_machine_stands_still(void **state) {
    (void)state;
    run(body_pause);
}

static void body_connections(struct rig *rig) {
    open_firecracker(rig);
    send_text(rig, "GET /version HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n");
    assert_int_equal(read_answer(rig, WAIT_MS), ANSWERED);
    assert_string_equal(rig->answer, "{\"firecracker_version\":\"1.17.0\"}");
    assert_int_equal(read_answer(rig, WAIT_MS), ANSWERED);
    assert_non_null(strstr(rig->answer, "Not started"));
    send_text(rig, "PUT /entropy HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    assert_int_equal(read_answer(rig, WAIT_MS), ANSWERED);
    assert_int_equal(rig->status, 100);
    send_text(rig, "{");
    assert_int_equal(read_answer(rig, SHORT_MS), SILENT);
    send_text(rig, "}");
    assert_int_equal(read_answer(rig, WAIT_MS), ANSWERED);
    assert_int_equal(rig->status, 204);
    hang_up(rig);
    call(rig);
    takes(rig, "GET", "/version", NULL);
    send_text(rig, "POST / HTTP/1.1\r\n\r\n");
    assert_int_equal(read_answer(rig, WAIT_MS), ANSWERED);
    assert_int_equal(rig->status, 400);
    assert_non_null(strstr(rig->answer, "Unsupported HTTP method"));
    assert_int_equal(read_answer(rig, WAIT_MS), BROKEN); /* it has hung up */
    hang_up(rig);
    call(rig);
    takes(rig, "GET", "/version", NULL);
}

static void connections_come_one_after_another(void **state) {
    (void)state;
    run(body_connections);
}

/* Connects to the device and says that; what it answers, up to a line's end. */
static void connect_to_vsock(struct rig *rig, const char *text, char *answer, size_t size) {
    const struct host_wait wait = host_wait_ms(rig->host, SHORT_MS, HOST_FD_NONE);
    struct kelpie_error err;
    size_t used = 0;
    size_t count = 1;
    ok(host_socket_connect(rig->host, VSOCK, &wait, &rig->channel_fd, &err));
    ok(host_write_all(rig->host, rig->channel_fd, text, strlen(text), &wait, &err));
    while (used + 1 < size && count > 0 && (used == 0 || answer[used - 1] != '\n')) {
        ok(host_read(rig->host, rig->channel_fd, answer + used, 1, &wait, &count, &err));
        used += count;
    }
    answer[used] = '\0';
}

static void body_host_connects(struct rig *rig) {
    char answer[64];
    static const char *const wrong[] = {
        "CONNECT 99\n",         "CONNECT \n",
        "CONNECT 1024x\n",      "connect 1024\n",
        "CONNECT 4294968320\n", "CONNECT 00000000000000000000000000000000001024\n"};
    open_firecracker(rig);
    configure(rig, false);
    takes(rig, "PUT", "/actions", START);
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
        connect_to_vsock(rig, wrong[i], answer, sizeof(answer));
        assert_string_equal(answer, "");
        shut(rig, &rig->channel_fd);
    }
    connect_to_vsock(rig, "CONNECT 1024\n", answer, sizeof(answer));
    assert_string_equal(answer, "OK 1073741824\n");
    say_hello(rig);
    run_script(rig, 1, "echo yes > /tmp/x", "");
    shut(rig, &rig->channel_fd);
    connect_to_vsock(rig, "CONNECT 1024\n", answer, sizeof(answer));
    assert_string_equal(answer, "OK 1073741825\n");
    say_hello(rig);
    run_script(rig, 2, "cat /tmp/x", "yes\n");
}

static void the_host_connects_to_the_guest(void **state) {
    (void)state;
    run(body_host_connects);
}

static void body_redial(struct rig *rig) {
    boot(rig, false);
    run_script(rig, 1, "echo kept > /tmp/x", "");
    shut(rig, &rig->channel_fd);
    expect_guest(rig);
    run_script(rig, 2, "cat /tmp/x", "kept\n");
    const struct host_wait wait = host_wait_ms(rig->host, WAIT_MS, HOST_FD_NONE);
    struct cursor_writer writer = cursor_writer_init(rig->out, sizeof(rig->out));
    struct kelpie_error err;
    protocol_encode_ping(&writer, PROTOCOL_PING, &(struct protocol_ping){.token = 1});
    ok(host_write_all(rig->host, rig->channel_fd, writer.data, writer.size - 1, &wait, &err));
    pass(rig, 1000); /* half a frame, of which the next connection knows nothing */
    shut(rig, &rig->channel_fd);
    shut(rig, &rig->listen_fd); /* nobody listens for a while */
    ok(host_path_unlink(rig->host, VSOCK "_1024", &err));
    pass(rig, 5000);
    listen_for_guest(rig);
    expect_guest(rig);
    run_script(rig, 3, "cat /tmp/x", "kept\n");
}

static void a_guest_dials_again(void **state) {
    (void)state;
    run(body_redial);
}

static void body_ctrl_alt_del(struct rig *rig) {
    boot(rig, false);
    takes(rig, "PUT", "/actions", "{\"action_type\":\"SendCtrlAltDel\"}");
    const struct host_process_exit end = await_end(rig);
    assert_int_equal(end.code, 0);
    assert_int_equal(end.signal, 0);
}

static void body_guest_dies(struct rig *rig) {
    boot(rig, false);
    rig->world->faults.ppm[SIM_FAULT_GUEST_DIES] = SIM_PPM;
    assert_false(pings(rig, 1));
    const struct host_process_exit end = await_end(rig);
    assert_int_equal(end.code, 0);
    assert_int_equal(end.signal, 0);
    assert_non_null(strstr(listen_to(rig), "exit_code=0"));
}

static void a_machine_that_ends_ends_the_process(void **state) {
    (void)state;
    run(body_ctrl_alt_del);
    run(body_guest_dies);
}

/* ---- Snapshots -------------------------------------------------------------------------------- */

static void body_snapshot(struct rig *rig) {
    boot(rig, false);
    run_script(rig, 1, "echo saved > /tmp/x", "");
    takes(rig, "PATCH", "/vm", PAUSE);
    save(rig, "Full", "/tmp/state", "/tmp/memory");
    close_firecracker(rig);
    open_firecracker(rig);
    assert_int_equal(ask_load(rig, "/tmp/state", "/tmp/memory", ""), 204);
    expect_guest(rig);
    run_script(rig, 2, "cat /tmp/x", "saved\n");
    takes(rig, "GET", "/machine-config", NULL);
    assert_non_null(strstr(rig->answer, "\"mem_size_mib\":8"));
    refuses(rig, "PUT", "/vsock", "{\"guest_cid\":3,\"uds_path\":\"/tmp/w\"}", "after starting");
}

static void a_snapshot_is_loaded_by_another_process(void **state) {
    (void)state;
    run(body_snapshot);
}

static void body_override(struct rig *rig) {
    struct kelpie_error err;
    boot(rig, false);
    takes(rig, "PATCH", "/vm", PAUSE);
    save(rig, "Full", "/tmp/state", "/tmp/memory");
    close_firecracker(rig);
    open_firecracker(rig);
    shut(rig, &rig->listen_fd);
    ok(host_socket_listen(rig->host, "/tmp/w_1024", &rig->listen_fd, &err));
    assert_int_equal(
        ask_load(rig, "/tmp/state", "/tmp/memory", ",\"vsock_override\":{\"uds_path\":\"/tmp/w\"}"),
        204);
    expect_guest(rig);
    assert_true(pings(rig, 1));
}

static void a_load_may_have_another_socket(void **state) {
    (void)state;
    run(body_override);
}

static void body_saved_goes_on(struct rig *rig) {
    boot(rig, false);
    run_script(rig, 1, "echo kept > /tmp/x", "");
    takes(rig, "PATCH", "/vm", PAUSE);
    save(rig, "Full", "/tmp/state", "/tmp/memory");
    takes(rig, "PATCH", "/vm", RESUME);
    const struct host_wait wait = host_wait_ms(rig->host, WAIT_MS, HOST_FD_NONE);
    struct kelpie_error err;
    size_t size = 1;
    char byte = 0;
    ok(host_read(rig->host, rig->channel_fd, &byte, 1, &wait, &size, &err));
    assert_int_equal(size, 0); /* the transport was reset */
    shut(rig, &rig->channel_fd);
    expect_guest(rig);
    run_script(rig, 2, "cat /tmp/x", "kept\n");
}

static void a_machine_that_was_saved_goes_on(void **state) {
    (void)state;
    run(body_saved_goes_on);
}

/* The data of one file over another, as a client merges a diff. Returns how many bytes that were. */
static uint64_t merge(struct rig *rig, const char *diff, const char *base) {
    AUTO_FD struct host_fd from = {rig->host, HOST_FD_NONE};
    AUTO_FD struct host_fd to = {rig->host, HOST_FD_NONE};
    struct kelpie_error err;
    uint64_t total = 0;
    uint64_t start = 0;
    uint64_t end = 0;
    ok(host_file_open(rig->host, diff, HOST_OPEN_READ, 0, &from.fd, &err));
    ok(host_file_open(rig->host, base, HOST_OPEN_WRITE, 0, &to.fd, &err));
    for (;;) {
        char page[FIRECRACKER_PAGE_SIZE];
        size_t size = 0;
        ok(host_file_next_data(rig->host, from.fd, end, &start, &end, &err));
        if (start == end) {
            assert_int_equal(start, MEMORY_MIB << 20);
            return total;
        }
        for (; start < end; start += sizeof(page)) {
            ok(host_file_read_at(rig->host, from.fd, page, sizeof(page), start, &size, &err));
            ok(host_file_write_at(rig->host, to.fd, page, size, start, &err));
            total += size;
        }
    }
}

static uint64_t allocated(struct rig *rig, const char *path) {
    struct host_file_info info;
    struct kelpie_error err;
    ok(host_path_stat(rig->host, path, &info, &err));
    assert_int_equal(info.size, MEMORY_MIB << 20);
    return info.allocated_size;
}

/* A base of 64 KiB and more, and a diff with a word changed. */
static void save_base_and_diff(struct rig *rig, bool track) {
    boot(rig, track);
    run_script(rig, 1, "seq 1 40000 > /tmp/big; echo old > /tmp/x", "");
    takes(rig, "PATCH", "/vm", PAUSE);
    save(rig, "Full", "/tmp/state0", "/tmp/memory0");
    takes(rig, "PATCH", "/vm", RESUME);
    shut(rig, &rig->channel_fd);
    expect_guest(rig);
    run_script(rig, 2, "echo new > /tmp/x", "");
    takes(rig, "PATCH", "/vm", PAUSE);
    save(rig, "Diff", "/tmp/state1", "/tmp/memory1");
    close_firecracker(rig);
}

static void expect_load_fails(struct rig *rig, const char *state, const char *memory,
                              const char *part) {
    open_firecracker(rig);
    assert_int_equal(ask_load(rig, state, memory, ""), 400);
    if (!strstr(rig->answer, part)) {
        fail_msg("%s %s: %s", state, memory, rig->answer);
    }
    const struct host_process_exit end = await_end(rig);
    assert_int_equal(end.code, 1);
    close_firecracker(rig);
}

static void body_diff(struct rig *rig) {
    save_base_and_diff(rig, true);
    uint64_t base = allocated(rig, "/tmp/memory0");
    assert_true(base > 0 && base < (MEMORY_MIB << 20) / 2); /* it is sparse */
    assert_true(allocated(rig, "/tmp/memory1") < base);
    expect_load_fails(rig, "/tmp/state1", "/tmp/memory1", "not what was saved");
    expect_load_fails(rig, "/tmp/state1", "/tmp/memory0", "not what was saved");
    assert_true(merge(rig, "/tmp/memory1", "/tmp/memory0") > 0);
    open_firecracker(rig);
    assert_int_equal(ask_load(rig, "/tmp/state1", "/tmp/memory0", ""), 204);
    expect_guest(rig);
    run_script(rig, 3, "cat /tmp/x", "new\n");
}

static void body_diff_untracked(struct rig *rig) {
    save_base_and_diff(rig, false);
    open_firecracker(rig);
    assert_int_equal(ask_load(rig, "/tmp/state1", "/tmp/memory1", ""), 204);
    expect_guest(rig);
    run_script(rig, 3, "cat /tmp/x", "new\n");
}

static void a_diff_has_what_has_changed(void **state) {
    (void)state;
    run(body_diff);
    run(body_diff_untracked);
}

static void body_diff_of_restored(struct rig *rig) {
    save_base_and_diff(rig, false);
    open_firecracker(rig);
    assert_int_equal(ask_load(rig, "/tmp/state1", "/tmp/memory1", ",\"track_dirty_pages\":true"),
                     204);
    expect_guest(rig);
    run_script(rig, 3, "echo newer > /tmp/x", "");
    takes(rig, "PATCH", "/vm", PAUSE);
    save(rig, "Diff", "/tmp/state2", "/tmp/memory2");
    save(rig, "Diff", "/tmp/state2", "/tmp/memory2"); /* nothing has changed: it stays as it is */
    close_firecracker(rig);
    assert_true(allocated(rig, "/tmp/memory2") < allocated(rig, "/tmp/memory1") / 2);
    assert_true(merge(rig, "/tmp/memory2", "/tmp/memory1") > 0);
    open_firecracker(rig);
    assert_int_equal(ask_load(rig, "/tmp/state2", "/tmp/memory1", ""), 204);
    expect_guest(rig);
    run_script(rig, 4, "cat /tmp/x", "newer\n");
}

static void a_diff_follows_a_load(void **state) {
    (void)state;
    run(body_diff_of_restored);
}

/* Of three pages the first stays, the second changes and the third is not there any more. */
static void body_zero_again(struct rig *rig) {
    uint8_t pages[3 * FIRECRACKER_PAGE_SIZE];
    uint8_t read[sizeof(pages)];
    struct mock_bytes before = mock_bytes_init(rig->host);
    struct mock_bytes after = mock_bytes_init(rig->host);
    struct kelpie_error err;
    size_t size = 0;
    memset(pages, 1, sizeof(pages));
    assert_true(mock_bytes_append(&before, pages, sizeof(pages)));
    pages[FIRECRACKER_PAGE_SIZE] = 2;
    assert_true(mock_bytes_append(&after, pages, 2 * FIRECRACKER_PAGE_SIZE));
    memset(pages + 2 * FIRECRACKER_PAGE_SIZE, 0, FIRECRACKER_PAGE_SIZE);
    ok(firecracker_memory_write(rig->host, "/tmp/m", MEMORY_MIB << 20, &before, NULL, &err));
    ok(firecracker_memory_write(rig->host, "/tmp/m", MEMORY_MIB << 20, &after, &before, &err));
    AUTO_FD struct host_fd fd = {rig->host, HOST_FD_NONE};
    ok(host_file_open(rig->host, "/tmp/m", HOST_OPEN_READ, 0, &fd.fd, &err));
    ok(host_file_read_at(rig->host, fd.fd, read, sizeof(read), 0, &size, &err));
    assert_int_equal(size, sizeof(pages));
    assert_memory_equal(read, pages, sizeof(pages));
    mock_bytes_deinit(&before);
    mock_bytes_deinit(&after);
}

static void a_diff_has_what_is_zero_again(void **state) {
    (void)state;
    run(body_zero_again);
}

static void flip(struct rig *rig, const char *path, uint64_t offset) {
    AUTO_FD struct host_fd fd = {rig->host, HOST_FD_NONE};
    struct kelpie_error err;
    uint8_t byte = 0;
    size_t size = 0;
    ok(host_file_open(rig->host, path, HOST_OPEN_READ | HOST_OPEN_WRITE, 0, &fd.fd, &err));
    ok(host_file_read_at(rig->host, fd.fd, &byte, 1, offset, &size, &err));
    byte ^= 0x10;
    ok(host_file_write_at(rig->host, fd.fd, &byte, 1, offset, &err));
}

static void cut(struct rig *rig, const char *path, uint64_t size) {
    AUTO_FD struct host_fd fd = {rig->host, HOST_FD_NONE};
    struct kelpie_error err;
    ok(host_file_open(rig->host, path, HOST_OPEN_WRITE, 0, &fd.fd, &err));
    ok(host_file_truncate(rig->host, fd.fd, size, &err));
}

static void body_damage(struct rig *rig) {
    struct host_file_info info;
    struct kelpie_error err;
    boot(rig, false);
    takes(rig, "PATCH", "/vm", PAUSE);
    save(rig, "Full", "/tmp/state", "/tmp/memory");
    close_firecracker(rig);
    ok(host_path_stat(rig->host, "/tmp/state", &info, &err));
    for (uint64_t offset = 0; offset < info.size; offset += 5) {
        flip(rig, "/tmp/state", offset);
        expect_load_fails(rig, "/tmp/state", "/tmp/memory", "Load snapshot error");
        flip(rig, "/tmp/state", offset);
    }
    flip(rig, "/tmp/memory", 77);
    expect_load_fails(rig, "/tmp/state", "/tmp/memory", "not what was saved");
    flip(rig, "/tmp/memory", 77);
    expect_load_fails(rig, "/tmp/none", "/tmp/memory", "Load snapshot error");
    expect_load_fails(rig, "/tmp/state", "/tmp/none", "Load snapshot error");
    open_firecracker(rig);
    assert_int_equal(ask_load(rig, "/tmp/state", "/tmp/memory", ""), 204);
    close_firecracker(rig);
    cut(rig, "/tmp/memory", 4096);
    expect_load_fails(rig, "/tmp/state", "/tmp/memory", "another size");
    cut(rig, "/tmp/state", info.size - 1);
    expect_load_fails(rig, "/tmp/state", "/tmp/memory", "cut");
}

static void a_damaged_snapshot_ends_the_process(void **state) {
    (void)state;
    run(body_damage);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_version_is_printed),
        cmocka_unit_test(what_cannot_run_says_why),
        cmocka_unit_test(a_machine_boots_and_runs_commands),
        cmocka_unit_test(what_is_not_there_is_missed),
        cmocka_unit_test(a_paused_machine_stands_still),
        cmocka_unit_test(connections_come_one_after_another),
        cmocka_unit_test(the_host_connects_to_the_guest),
        cmocka_unit_test(a_guest_dials_again),
        cmocka_unit_test(a_machine_that_ends_ends_the_process),
        cmocka_unit_test(a_snapshot_is_loaded_by_another_process),
        cmocka_unit_test(a_load_may_have_another_socket),
        cmocka_unit_test(a_machine_that_was_saved_goes_on),
        cmocka_unit_test(a_diff_has_what_has_changed),
        cmocka_unit_test(a_diff_follows_a_load),
        cmocka_unit_test(a_diff_has_what_is_zero_again),
        cmocka_unit_test(a_damaged_snapshot_ends_the_process),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
