/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What the agent does for its host, from commands to files. */
#include "agent_rig_test.h"

/* ---- Commands ----------------------------------------------------------------------------------- */

static void test_exec(void **state) {
    struct fixture *fixture = *state;
    hello(fixture);
    struct result *result = run(fixture, 1, "sh|-c|echo out; echo err >&2; exit 7", NULL);
    expect_end(result, PROTOCOL_END_EXITED, 7);
    assert_string_equal(result->text[PROTOCOL_STDOUT], "out\n");
    assert_string_equal(result->text[PROTOCOL_STDERR], "err\n");
    expect_end(run(fixture, 2, "sh|-c|kill -9 $$", NULL), PROTOCOL_END_SIGNALED, 9);
    struct protocol_exec options = {.env = "A=b c\0PATH=/bin", .env_size = 16, .env_count = 2};
    options.working_dir = "/usr";
    result = run(fixture, 3, "sh|-c|echo $A $PATH $HOME; pwd", &options);
    assert_string_equal(strchr(result->text[PROTOCOL_STDOUT], '\n') + 1, "/usr\n");
    assert_memory_equal(result->text[PROTOCOL_STDOUT], "b c /bin /", 10);
    options = (struct protocol_exec){.rlimit_count = 1, .rlimits = {{7, 33, 44}}};
    result = run(fixture, 4, "sh|-c|ulimit -n", &options);
    assert_string_equal(result->text[PROTOCOL_STDOUT], "33\n");
}

static void test_exec_failures(void **state) {
    struct fixture *fixture = *state;
    hello(fixture);
    struct result *result = run(fixture, 1, "kelpie-no-such-command", NULL);
    expect_end(result, PROTOCOL_END_FAILED, ENOENT);
    expect_end(run(fixture, 2, "/etc/passwd", NULL), PROTOCOL_END_FAILED, EACCES);
    struct protocol_exec options = {.working_dir = "/no/such/folder"};
    expect_end(run(fixture, 3, "true", &options), PROTOCOL_END_FAILED, ENOENT);
    expect_end(run(fixture, 4, "true", NULL), PROTOCOL_END_EXITED, 0);
}

/* D2: a large command line works; one that the kernel refuses is an error of that command only. */
static void hazard_D2_long_command_line(void **state) {
    struct fixture *fixture = *state;
    static char argv[190000];
    hello(fixture);
    memset(argv, 'x', sizeof(argv));
    memcpy(argv, "echo|", 5);
    argv[100000] = '|';
    argv[130000] = 0;
    struct result *result = run(fixture, 1, argv, NULL);
    expect_end(result, PROTOCOL_END_EXITED, 0);
    assert_int_equal(result->bytes[PROTOCOL_STDOUT], 130000 - 4);
    argv[100000] = 'x';
    argv[130000] = 'x';
    argv[sizeof(argv) - 1] = 0; /* one argument above MAX_ARG_STRLEN */
    expect_end(run(fixture, 2, argv, NULL), PROTOCOL_END_FAILED, E2BIG);
    expect_end(run(fixture, 3, "true", NULL), PROTOCOL_END_EXITED, 0);
}

static void test_terminal(void **state) {
    struct fixture *fixture = *state;
    struct protocol_exec options = {
        .flags = PROTOCOL_EXEC_TTY | PROTOCOL_EXEC_STDIN, .rows = 33, .columns = 99};
    struct result result = {0};
    hello(fixture);
    start(fixture, 1, "sh|-c|stty -echo; stty size; read a; stty size; echo got $a", &options);
    (void)expect(fixture, PROTOCOL_STARTED);
    while (!strchr(result.text[PROTOCOL_STDOUT], '\n')) {
        struct protocol_frame frame;
        assert_true(next_frame(fixture, FRAME_WAIT_MS, &frame));
        take_data(fixture, &frame, &result);
    }
    struct protocol_resize resize = {.rows = 40, .columns = 120};
    struct cursor_writer writer = begin(fixture);
    protocol_encode_resize(&writer, 1, &resize);
    finish(fixture, &writer);
    put_data(fixture, 1, &(struct protocol_data){.bytes = (const uint8_t *)"line\n", .size = 5});
    collect(fixture, 1, &result);
    assert_string_equal(result.text[PROTOCOL_STDOUT], "33 99\r\n40 120\r\ngot line\r\n");
}

/* Gone, or not yet reaped by its new parent. */
static bool process_is_dead(pid_t pid) {
    char path[64];
    char status[64] = {0};
    snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t count = fd >= 0 ? read(fd, status, sizeof(status) - 1) : 0;
    if (fd >= 0) {
        close(fd);
    }
    return count <= 0 || strstr(status, ") Z ");
}

/* D3: the timeout ends a command together with its children. */
static void hazard_D3_timeout_kills_children(void **state) {
    struct fixture *fixture = *state;
    struct protocol_exec options = {.timeout_ms = 150};
    hello(fixture);
    uint64_t before = agent_now_ns();
    struct result *result = run(fixture, 1, "sh|-c|sleep 30 & echo $!; sleep 30", &options);
    expect_end(result, PROTOCOL_END_TIMED_OUT, 9);
    assert_true(agent_now_ns() - before < 5000000000ull);
    pid_t child = (pid_t)strtol(result->text[PROTOCOL_STDOUT], NULL, 10);
    assert_true(child > 1);
    bool dead = false;
    for (int i = 0; i < 500 && !dead; i++) {
        usleep(10000);
        dead = process_is_dead(child);
    }
    assert_true(dead);
}

/* D3: a grandchild that keeps the pipe open does not keep the session. */
static void hazard_D3_grandchild_keeps_the_pipe(void **state) {
    struct fixture *fixture = *state;
    hello(fixture);
    uint64_t before = agent_now_ns();
    struct result *result = run(fixture, 1, "sh|-c|sleep 20 & echo hi", NULL);
    expect_end(result, PROTOCOL_END_EXITED, 0);
    assert_string_equal(result->text[PROTOCOL_STDOUT], "hi\n");
    assert_true(agent_now_ns() - before < 5000000000ull);
    result = run(fixture, 2, "sh|-c|(yes & sleep 20 >/dev/null) & echo $$", NULL);
    expect_end(result, PROTOCOL_END_EXITED, 0);
}

/* A session that the host gives back takes its command along. */
static void hazard_D3_a_released_command_ends(void **state) {
    struct fixture *fixture = *state;
    struct result result = {0};
    hello(fixture);
    start(fixture, 1, "sh|-c|echo $$; exec sleep 30", NULL);
    (void)expect(fixture, PROTOCOL_STARTED);
    struct protocol_frame frame = expect(fixture, PROTOCOL_DATA);
    take_data(fixture, &frame, &result);
    pid_t child = (pid_t)strtol(result.text[PROTOCOL_STDOUT], NULL, 10);
    assert_true(child > 1);
    release(fixture, 1);
    for (int i = 0; i < 500 && !process_is_dead(child); i++) {
        usleep(10000);
    }
    assert_true(process_is_dead(child));
}

/* ---- Input -------------------------------------------------------------------------------------- */

static void test_stdin(void **state) {
    struct fixture *fixture = *state;
    struct protocol_exec options = {.flags = PROTOCOL_EXEC_STDIN};
    struct result result = {0};
    hello(fixture);
    start(fixture, 1, "cat", &options);
    struct protocol_data data = {.bytes = (const uint8_t *)"a\0b", .size = 3};
    put_data(fixture, 1, &data);
    data = (struct protocol_data){.offset = 3, .flags = PROTOCOL_DATA_END};
    put_data(fixture, 1, &data);
    collect(fixture, 1, &result);
    assert_int_equal(result.bytes[PROTOCOL_STDOUT], 3);
    assert_memory_equal(result.text[PROTOCOL_STDOUT], "a\0b", 3);
    assert_false(result.stdin_closed);
}

/* D3: a command that closed its stdin: the host is told, and the command goes on. */
static void hazard_D3_stdin_closed_by_the_command(void **state) {
    struct fixture *fixture = *state;
    static const uint8_t bytes[1000];
    struct protocol_exec options = {.flags = PROTOCOL_EXEC_STDIN};
    struct result result = {0};
    hello(fixture);
    start(fixture, 1, "sh|-c|exec <&-; sleep 0.3; echo on", &options);
    put_data(fixture, 1, &(struct protocol_data){.bytes = bytes, .size = sizeof(bytes)});
    collect(fixture, 1, &result);
    assert_true(result.stdin_closed);
    assert_string_equal(result.text[PROTOCOL_STDOUT], "on\n");
}

/* D3: a command that never reads its stdin stops neither the channel nor another session. */
static void hazard_D3_stdin_never_read(void **state) {
    struct fixture *fixture = *state;
    static const uint8_t bytes[PROTOCOL_DATA_SIZE_MAX];
    struct protocol_exec options = {.flags = PROTOCOL_EXEC_STDIN};
    hello(fixture);
    start(fixture, 1, "sleep|30", &options);
    (void)expect(fixture, PROTOCOL_STARTED);
    for (uint64_t sent = 0; sent < PROTOCOL_WINDOW_SIZE; sent += sizeof(bytes)) {
        struct protocol_data data = {.offset = sent, .bytes = bytes, .size = sizeof(bytes)};
        put_data(fixture, 1, &data);
    }
    ping(fixture, 5);
    struct protocol_frame frame;
    do {
        assert_true(next_frame(fixture, FRAME_WAIT_MS, &frame));
    } while (frame.type == PROTOCOL_ACK);
    assert_int_equal(frame.type, PROTOCOL_PONG);
    expect_end(run(fixture, 2, "true", NULL), PROTOCOL_END_EXITED, 0);
    release(fixture, 1);
}

/* ---- Many, much --------------------------------------------------------------------------------- */

static void test_sixty_four_sessions_at_once(void **state) {
    struct fixture *fixture = *state;
    uint64_t bytes[65] = {0};
    uint32_t ended = 0;
    hello(fixture);
    for (uint32_t id = 1; id <= 64; id++) {
        start(fixture, id, "sh|-c|head -c 300000 /dev/zero", NULL);
    }
    while (ended < 64) {
        struct protocol_frame frame;
        struct protocol_data data;
        assert_true(next_frame(fixture, FRAME_WAIT_MS, &frame));
        assert_in_range(frame.session, 1, 64);
        if (frame.type == PROTOCOL_DATA && protocol_decode_data(&frame, &data) &&
            data.stream == PROTOCOL_STDOUT) {
            assert_int_equal(data.offset, bytes[frame.session]);
            bytes[frame.session] += data.size;
            acknowledge(fixture, frame.session, PROTOCOL_STDOUT, bytes[frame.session]);
        }
        ended += frame.type == PROTOCOL_ENDED;
    }
    for (uint32_t id = 1; id <= 64; id++) {
        assert_int_equal(bytes[id], 300000);
    }
}

static void test_one_session_too_many(void **state) {
    struct fixture *fixture = *state;
    struct protocol_file_get get = {.path = "/etc/passwd"};
    hello(fixture);
    for (uint32_t id = 1; id <= PROTOCOL_SESSION_COUNT_MAX + 1; id++) {
        struct cursor_writer writer = begin(fixture);
        protocol_encode_file_get(&writer, id, &get);
        finish(fixture, &writer);
    }
    struct protocol_ended ended = {0};
    uint32_t seen = 0;
    while (seen < PROTOCOL_SESSION_COUNT_MAX + 1) {
        struct protocol_frame frame;
        assert_true(next_frame(fixture, FRAME_WAIT_MS, &frame));
        if (frame.type != PROTOCOL_ENDED) {
            continue;
        }
        assert_true(protocol_decode_ended(&frame, &ended));
        bool is_last = frame.session == PROTOCOL_SESSION_COUNT_MAX + 1;
        assert_int_equal(ended.end, is_last ? PROTOCOL_END_FAILED : PROTOCOL_END_EXITED);
        assert_int_equal(ended.value, is_last ? EAGAIN : 0);
        seen++;
    }
}

static void test_one_gibibyte(void **state) {
    struct fixture *fixture = *state;
    hello(fixture);
    struct result *result = run(fixture, 1, "head|-c|1073741824|/dev/zero", NULL);
    expect_end(result, PROTOCOL_END_EXITED, 0);
    assert_int_equal(result->bytes[PROTOCOL_STDOUT], 1073741824);
}

/* ---- Reconnecting ------------------------------------------------------------------------------- */

/* C6: output goes on at exactly the byte that the host asks for, after the host came back. */
static void hazard_C6_attach_goes_on_at_the_byte(void **state) {
    struct fixture *fixture = *state;
    struct result result = {0};
    hello(fixture);
    start(fixture, 1, "sh|-c|printf 0123456789; sleep 0.2; printf abc", NULL);
    (void)expect(fixture, PROTOCOL_STARTED);
    (void)expect(fixture, PROTOCOL_DATA);
    acknowledge(fixture, 1, PROTOCOL_STDOUT, 4);
    hello(fixture);
    usleep(500000); /* it ends while nobody listens */
    struct protocol_frame frame;
    assert_false(next_frame(fixture, 0, &frame));
    struct protocol_attach attach = {.stdout_offset = 3}; /* below what was acknowledged */
    struct protocol_attached attached;
    struct cursor_writer writer = begin(fixture);
    protocol_encode_attach(&writer, 1, &attach);
    finish(fixture, &writer);
    frame = expect(fixture, PROTOCOL_ATTACHED);
    assert_true(protocol_decode_attached(&frame, &attached));
    assert_int_equal(attached.os_error, EINVAL);
    attach.stdout_offset = 7;
    writer = begin(fixture);
    protocol_encode_attach(&writer, 1, &attach);
    finish(fixture, &writer);
    frame = expect(fixture, PROTOCOL_ATTACHED);
    assert_true(protocol_decode_attached(&frame, &attached));
    assert_int_equal(attached.os_error, 0);
    assert_int_equal(attached.stdout_offset, 7);
    result.bytes[PROTOCOL_STDOUT] = 7;
    collect(fixture, 1, &result);
    assert_string_equal(result.text[PROTOCOL_STDOUT] + 7, "789abc");
    assert_int_equal(result.bytes[PROTOCOL_STDOUT], 13);
}

/* A host whose first reader gave its handle away, within one connection. */
static void hazard_C6_attach_takes_over_from_another_reader(void **state) {
    struct fixture *fixture = *state;
    struct result result = {0};
    hello(fixture);
    start(fixture, 1, "sh|-c|printf 01234; sleep 0.2; printf 56789", NULL);
    (void)expect(fixture, PROTOCOL_STARTED);
    (void)expect(fixture, PROTOCOL_DATA);
    acknowledge(fixture, 1, PROTOCOL_STDOUT, 2);
    struct protocol_attach attach = {.stdout_offset = 3};
    struct protocol_attached attached;
    struct cursor_writer writer = begin(fixture);
    protocol_encode_attach(&writer, 1, &attach);
    finish(fixture, &writer);
    struct protocol_frame frame = expect(fixture, PROTOCOL_ATTACHED);
    assert_true(protocol_decode_attached(&frame, &attached));
    assert_int_equal(attached.os_error, 0);
    assert_int_equal(attached.stdout_offset, 3);
    result.bytes[PROTOCOL_STDOUT] = 3;
    collect(fixture, 1, &result);
    assert_string_equal(result.text[PROTOCOL_STDOUT] + 3, "3456789");
}

/* Whoever attaches when the end of stdin was said cannot know, and is told. */
static void hazard_C6_attach_after_the_end_of_stdin(void **state) {
    struct fixture *fixture = *state;
    const struct protocol_exec with_stdin = {.flags = PROTOCOL_EXEC_STDIN};
    hello(fixture);
    for (uint32_t id = 1; id <= 2; id++) {
        struct protocol_attached attached;
        start(fixture, id, "sleep|1000", &with_stdin);
        (void)expect(fixture, PROTOCOL_STARTED);
        struct cursor_writer writer = begin(fixture);
        if (id == 2) {
            const struct protocol_data end = {.stream = PROTOCOL_STDIN, .flags = PROTOCOL_DATA_END};
            protocol_encode_data(&writer, id, &end);
        }
        protocol_encode_attach(&writer, id, &(struct protocol_attach){0});
        finish(fixture, &writer);
        struct protocol_frame frame;
        do {
            assert_true(next_frame(fixture, FRAME_WAIT_MS, &frame));
        } while (frame.type != PROTOCOL_ATTACHED);
        assert_true(protocol_decode_attached(&frame, &attached));
        assert_int_equal(attached.os_error, 0);
        assert_int_equal(attached.flags, id == 1 ? PROTOCOL_EXEC_STDIN : 0);
        release(fixture, id);
    }
}

/* C6: HELLO in the middle of a frame that will never be whole, after the padding. */
static void hazard_C6_hello_in_the_middle_of_a_frame(void **state) {
    struct fixture *fixture = *state;
    static const uint8_t zeros[PROTOCOL_FRAME_SIZE_MAX];
    hello(fixture);
    struct protocol_data data = {.bytes = zeros, .size = 1000};
    struct cursor_writer writer = begin(fixture);
    protocol_encode_data(&writer, 9, &data);
    send_bytes(fixture, writer.data, 500);
    send_bytes(fixture, zeros, sizeof(zeros));
    hello(fixture);
    ping(fixture, 1);
    (void)expect(fixture, PROTOCOL_PONG);
}

/* C6: a connection that ends for good, as by a restore: the agent makes another, and no session is lost. */
static void hazard_C6_ended_connection_is_dialled_again(void **state) {
    struct fixture *fixture = *state;
    struct result result = {0};
    hello(fixture);
    start(fixture, 1, "sh|-c|printf 0123456789; sleep 0.3; printf abc", NULL);
    (void)expect(fixture, PROTOCOL_STARTED);
    (void)expect(fixture, PROTOCOL_DATA);
    acknowledge(fixture, 1, PROTOCOL_STDOUT, 4);
    /* A frame that is never whole: what comes over another connection is no part of it. */
    static const uint8_t half[PROTOCOL_HEADER_SIZE] = {0, 4, 0, 0, PROTOCOL_VERSION, PROTOCOL_DATA,
                                                       0, 0, 1};
    for (int i = 0; i < 3; i++) {
        send_bytes(fixture, half, sizeof(half));
        close(fixture->fd);
        struct pollfd item = {.fd = fixture->listen_fd, .events = POLLIN};
        assert_int_equal(poll(&item, 1, FRAME_WAIT_MS), 1);
        fixture->fd = accept4(fixture->listen_fd, NULL, NULL, SOCK_CLOEXEC);
        assert_true(fixture->fd >= 0);
        protocol_decoder_init(&fixture->decoder, fixture->input, sizeof(fixture->input));
        hello(fixture);
    }
    struct protocol_attach attach = {.stdout_offset = 7};
    struct protocol_attached attached;
    struct cursor_writer writer = begin(fixture);
    protocol_encode_attach(&writer, 1, &attach);
    finish(fixture, &writer);
    struct protocol_frame frame = expect(fixture, PROTOCOL_ATTACHED);
    assert_true(protocol_decode_attached(&frame, &attached));
    assert_int_equal(attached.os_error, 0);
    result.bytes[PROTOCOL_STDOUT] = 7;
    collect(fixture, 1, &result);
    assert_string_equal(result.text[PROTOCOL_STDOUT] + 7, "789abc");
    expect_end(run(fixture, 2, "true", NULL), PROTOCOL_END_EXITED, 0);
}

/* What it has; and a question that it does not know, with a SYNC behind it, is no harm. */
static void test_figures(void **state) {
    struct fixture *fixture = *state;
    struct protocol_figures figures;
    hello(fixture);
    for (int unknown = 0; unknown <= 1; unknown++) {
        struct cursor_writer writer = begin(fixture);
        protocol_encode_status(&writer);
        writer.data[5] = unknown ? 255 : writer.data[5]; /* the type */
        protocol_encode_ping(&writer, PROTOCOL_PING, &(struct protocol_ping){.token = 3});
        finish(fixture, &writer);
        if (!unknown) {
            struct protocol_frame frame = expect(fixture, PROTOCOL_FIGURES);
            assert_true(protocol_decode_figures(&frame, &figures));
            assert_true(figures.memory_total_bytes >= figures.memory_available_bytes);
            assert_true(figures.memory_available_bytes > 0);
        }
        (void)expect(fixture, PROTOCOL_PONG);
    }
}

static void test_malformed_input(void **state) {
    struct fixture *fixture = *state;
    uint8_t noise[3000];
    for (size_t i = 0; i < sizeof(noise); i++) {
        noise[i] = (uint8_t)(i * 31 + i / 7);
    }
    hello(fixture);
    for (size_t round = 0; round < 50; round++) {
        send_bytes(fixture, noise + round, sizeof(noise) - round);
        hello(fixture);
    }
    expect_end(run(fixture, 1, "true", NULL), PROTOCOL_END_EXITED, 0);
}

/* ---- Files -------------------------------------------------------------------------------------- */

static void put_open(struct fixture *fixture, uint32_t id, const char *path, uint64_t size) {
    struct protocol_file_put put = {.path = path, .mode = 0640, .size = size};
    struct cursor_writer writer = begin(fixture);
    protocol_encode_file_put(&writer, id, &put);
    finish(fixture, &writer);
}

static void test_put_and_get(void **state) {
    struct fixture *fixture = *state;
    char dir[] = "/tmp/kelpie-agent-test-XXXXXX";
    char path[64];
    struct stat info;
    struct result result = {0};
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/file", dir);
    hello(fixture);
    put_open(fixture, 1, path, 5);
    struct protocol_data data = {
        .flags = PROTOCOL_DATA_END, .bytes = (const uint8_t *)"bytes", .size = 5};
    put_data(fixture, 1, &data);
    collect(fixture, 1, &result);
    expect_end(&result, PROTOCOL_END_EXITED, 0);
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 07777, 0640);
    struct protocol_file_get get = {.path = path};
    struct cursor_writer writer = begin(fixture);
    protocol_encode_file_get(&writer, 2, &get);
    finish(fixture, &writer);
    struct protocol_frame frame = expect(fixture, PROTOCOL_STARTED);
    struct protocol_started started;
    assert_true(protocol_decode_started(&frame, &started));
    assert_int_equal(started.size, 5);
    assert_int_equal(started.mode, 0640);
    result = (struct result){0};
    collect(fixture, 2, &result);
    assert_string_equal(result.text[PROTOCOL_STDOUT], "bytes");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(dir), 0);
}

/* D5: an upload that is cut, or too long, is an error and leaves nothing: neither file nor rest. */
static void hazard_D5_cut_upload_leaves_nothing(void **state) {
    struct fixture *fixture = *state;
    char dir[] = "/tmp/kelpie-agent-test-XXXXXX";
    char path[64];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/file", dir);
    hello(fixture);
    for (uint32_t id = 1; id <= 2; id++) {
        struct result result = {0};
        put_open(fixture, id, path, id == 1 ? 6 : 4);
        struct protocol_data data = {
            .flags = PROTOCOL_DATA_END, .bytes = (const uint8_t *)"bytes", .size = 5};
        put_data(fixture, id, &data);
        collect(fixture, id, &result);
        expect_end(&result, PROTOCOL_END_FAILED, id == 1 ? EIO : EFBIG);
        release(fixture, id);
    }
    put_open(fixture, 3, path, 5);
    (void)expect(fixture, PROTOCOL_STARTED);
    release(fixture, 3); /* in the middle */
    ping(fixture, 1);
    struct protocol_frame frame;
    do {
        assert_true(next_frame(fixture, FRAME_WAIT_MS, &frame));
    } while (frame.type != PROTOCOL_PONG);
    assert_int_equal(rmdir(dir), 0); /* it is empty */
}

#define AGENT_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        AGENT_TEST(test_exec),
        AGENT_TEST(test_exec_failures),
        AGENT_TEST(hazard_D2_long_command_line),
        AGENT_TEST(test_terminal),
        AGENT_TEST(hazard_D3_timeout_kills_children),
        AGENT_TEST(hazard_D3_grandchild_keeps_the_pipe),
        AGENT_TEST(hazard_D3_a_released_command_ends),
        AGENT_TEST(test_stdin),
        AGENT_TEST(hazard_D3_stdin_closed_by_the_command),
        AGENT_TEST(hazard_D3_stdin_never_read),
        AGENT_TEST(test_sixty_four_sessions_at_once),
        AGENT_TEST(test_one_session_too_many),
        AGENT_TEST(test_one_gibibyte),
        AGENT_TEST(hazard_C6_attach_goes_on_at_the_byte),
        AGENT_TEST(hazard_C6_attach_takes_over_from_another_reader),
        AGENT_TEST(hazard_C6_attach_after_the_end_of_stdin),
        AGENT_TEST(hazard_C6_hello_in_the_middle_of_a_frame),
        cmocka_unit_test_setup_teardown(hazard_C6_ended_connection_is_dialled_again, setup_dialling,
                                        teardown_dialling),
        AGENT_TEST(test_figures),
        AGENT_TEST(test_malformed_input),
        AGENT_TEST(test_put_and_get),
        AGENT_TEST(hazard_D5_cut_upload_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
