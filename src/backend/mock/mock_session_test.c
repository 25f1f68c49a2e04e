/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Sessions at their edges: frames that are wrong, programs and files that are not there, limits, signals, terminals. */
#include <errno.h>
#include <signal.h>

#include "backend/mock/mock_harness_test.h"
#include "base/assert.h"

/* A/aaaaaaaa… of 5120 bytes, longer than a path may be. */
#define LONG                                                                                       \
    "A=/aaaaaaaaa; A=$A$A; A=$A$A; A=$A$A; A=$A$A; A=$A$A; A=$A$A; A=$A$A; A=$A$A; A=$A$A; "
/* 160 bytes of one name; two of them are longer than a name may be. */
#define LONG_NAME "A=aaaaaaaaaa; A=$A$A; A=$A$A; A=$A$A; A=$A$A; "

static const struct harness_line limit_lines[] = {
    {LONG "cat $A", 1, "", NULL},
    {LONG "cat < $A", 2, "", "sh: file name too long\n"},
    {LONG "echo > $A", 2, "", "sh: file name too long\n"},
    {LONG "ls $A", 1, "", NULL},
    {LONG "mkdir $A", 1, "", NULL},
    {LONG "write $A x", 1, "", NULL},
    {LONG "cd $A 2> /dev/null", 2, "", NULL},
    {LONG "[ -e $A ]", 1, "", ""},
    {LONG "$A", 126, "", NULL},
    {LONG "cd /tmp; PATH=$A:/bin; cat nope", 1, "", NULL},
    {LONG_NAME "touch /tmp/$A; ls /tmp/$A > /dev/null", 0, "", ""},
    {LONG_NAME "touch /tmp/$A$A", 1, "", NULL},
    {"sleep 9& sleep 9& sleep 9& sleep 9& sleep 9& sleep 9& sleep 9& sleep 0", 126, "",
     "sh: sleep: Resource temporarily unavailable\n"},
    {"if true; then if true; then if true; then if true; then if true; then if true; then "
     "if true; then if true; then if true; then if true; then if true; then if true; then "
     "if true; then if true; then if true; then if true; then if true; then echo",
     2, "", "sh: syntax error\n"},
    {"mkdir /tmp/d; cd /tmp/d; rmdir /tmp/d; cat x", 127, "", NULL},
    {"mkdir /tmp/d; cd /tmp/d; rmdir /tmp/d; touch /tmp/e; write /tmp/d x; cat x", 127, "", NULL},
    {"''", 127, "", "sh: : not found\n"},
    {"touch /tmp/cat; PATH=/tmp:/bin; cat nope", 1, "", NULL},
    {"touch /tmp/nope; PATH=/bin:/tmp; nope", 126, "", "sh: nope: Permission denied\n"},
    {"PATH=; nope", 127, "", "sh: nope: not found\n"},
    {"sh -c 'rm /tmp/o; /bin/echo a; nope' > /tmp/o 2> /tmp/e; ls /tmp", 0, "e\n", ""},
    {"sh -c 'rm /tmp/e; nope' 2> /tmp/e; echo $?", 0, "127\n", ""},
};

static void test_limits(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(limit_lines); i++) {
        harness_expect(&limit_lines[i]);
    }
}

/* The disk is full: who writes is told, even when it has ended already, and what is there stays. */
static void test_a_full_disk(void **state) {
    (void)state;
    harness_expect(&(struct harness_line){
        "dd if=/dev/zero bs=1048576 count=65 > /tmp/big; echo $?; wc -c /tmp/big; echo a > /tmp/a; "
        "echo $?; write /tmp/b x; echo $?; nope 2> /tmp/e; echo $?; rm /tmp/big; echo b > /tmp/a; "
        "cat /tmp/a",
        0, "1\n67108864 /tmp/big\n1\n1\n1\nb\n", NULL});
}

/* ---- Frames ----------------------------------------------------------------------------------- */

/* A whole frame of any type, with a payload that no message has. */
static void send_raw(struct mock_guest *guest, uint8_t type, uint32_t session) {
    struct cursor_writer writer = harness_writer();
    protocol_encode_empty(&writer, PROTOCOL_RELEASE, session != 0 ? session : 1);
    static const uint8_t payload[] = {0xff, 0xfe, 0xfd};
    cursor_write_bytes(&writer, payload, sizeof(payload));
    writer.data[0] = sizeof(payload);
    writer.data[5] = type;
    writer.data[8] = (uint8_t)session;
    harness_receive(guest, writer.data, writer.size);
}

static bool listens(struct mock_guest *guest) {
    guest->send.size = 0;
    harness_say(guest, PROTOCOL_LIST, 0);
    bool answered = guest->send.size > 0;
    guest->send.size = 0;
    return answered;
}

static void hazard_d1_a_wrong_frame_ends_the_connection_only(void **state) {
    (void)state;
    struct harness harness = harness_start();
    harness_hello(harness.guest);
    harness_exec(harness.guest, 1, PROTOCOL_EXEC_STDIN, ARGV("cat"));
    for (unsigned type = 0; type < 256; type++) {
        for (uint32_t session = 0; session < 3; session++) {
            assert_true(listens(harness.guest));
            send_raw(harness.guest, (uint8_t)type, session);
            assert_false(listens(harness.guest)); /* it scans for the next HELLO */
            harness_hello(harness.guest);
        }
    }
    assert_int_equal(harness.guest->session_count, 1);
    harness_stop(&harness);
}

/* What only a guest says, and what a session cannot take. */
static void test_frames_out_of_place(void **state) {
    (void)state;
    static const struct {
        enum protocol_stream stream;
        uint64_t offset;
        bool ack;
        uint32_t session;
        bool taken;
    } frames[] = {
        {PROTOCOL_STDIN, 0, false, 1, true},   {PROTOCOL_STDIN, 0, false, 1, false},
        {PROTOCOL_STDOUT, 1, false, 1, false}, {PROTOCOL_STDIN, 0, false, 2, true},
        {PROTOCOL_STDOUT, 0, true, 1, true},   {PROTOCOL_STDERR, 0, true, 1, true},
        {PROTOCOL_STDERR, 1, true, 1, false},  {PROTOCOL_STDIN, 0, true, 1, false},
        {PROTOCOL_STDIN, 0, true, 2, true},
    };
    struct harness harness = harness_start();
    harness_hello(harness.guest);
    harness_exec(harness.guest, 1, PROTOCOL_EXEC_STDIN, ARGV("sleep", "1000"));
    for (size_t i = 0; i < ARRAY_SIZE(frames); i++) {
        struct cursor_writer writer = harness_writer();
        const struct protocol_data data = {.stream = frames[i].stream,
                                           .offset = frames[i].offset,
                                           .bytes = (const uint8_t *)"x",
                                           .size = 1};
        const struct protocol_ack ack = {.stream = frames[i].stream, .offset = frames[i].offset};
        if (frames[i].ack) {
            protocol_encode_ack(&writer, frames[i].session, &ack);
        } else {
            protocol_encode_data(&writer, frames[i].session, &data);
        }
        harness_receive(harness.guest, writer.data, writer.size);
        if (listens(harness.guest) != frames[i].taken) {
            fail_msg("frame %zu was%s taken", i, frames[i].taken ? " not" : "");
        }
        harness_hello(harness.guest);
    }
    harness_exec(harness.guest, 1, 0, ARGV("true")); /* the number is in use */
    assert_false(listens(harness.guest));
    harness_stop(&harness);
}

static void test_signals_and_sizes_for_a_session_that_is_gone(void **state) {
    (void)state;
    struct harness harness = harness_start();
    harness_hello(harness.guest);
    struct cursor_writer writer = harness_writer();
    protocol_encode_signal(&writer, 9, &(struct protocol_signal){.number = SIGTERM});
    protocol_encode_resize(&writer, 9, &(struct protocol_resize){.rows = 1, .columns = 1});
    harness_receive(harness.guest, writer.data, writer.size);
    assert_true(listens(harness.guest));
    harness_exec(harness.guest, 1, 0, ARGV("true"));
    harness_run(harness.guest, 1);
    assert_true(harness.guest->sessions[0]->ended);
    mock_session_signal(harness.guest->sessions[0], SIGKILL);
    assert_int_equal(harness.guest->sessions[0]->end, PROTOCOL_END_EXITED);
    harness_stop(&harness);
}

static void test_the_table_of_sessions_is_full(void **state) {
    (void)state;
    struct harness harness = harness_start();
    harness_hello(harness.guest);
    for (uint32_t i = 0; i < PROTOCOL_SESSION_COUNT_MAX; i++) {
        harness_exec(harness.guest, i + 1, 0, ARGV("true"));
    }
    harness_run(harness.guest, 1);
    assert_int_equal(harness.guest->session_count, PROTOCOL_SESSION_COUNT_MAX);
    harness.guest->send.size = 0;
    harness_exec(harness.guest, PROTOCOL_SESSION_COUNT_MAX + 1, 0, ARGV("true"));
    struct protocol_frame frame = harness_next(harness.guest);
    struct protocol_ended ended;
    assert_true(protocol_decode_ended(&frame, &ended));
    assert_int_equal(ended.end, PROTOCOL_END_FAILED);
    assert_int_equal(harness.guest->session_count, PROTOCOL_SESSION_COUNT_MAX);
    harness_stop(&harness);
}

/* What a command is given beside its arguments: variables, and limits, one of which is ours. */
static struct protocol_exec exec_of_env(void) {
    static const char argv[] = "env";
    static const char env[] = "A=1\0HOME=/tmp";
    return (struct protocol_exec){
        .working_dir = "/",
        .argv = argv,
        .argv_size = sizeof(argv),
        .argv_count = 1,
        .env = env,
        .env_size = sizeof(env),
        .env_count = 2,
        .rlimit_count = 2,
        .rlimits = {{.resource = 0, .soft = 5, .hard = 5}, {.resource = 7, .soft = 9, .hard = 9}},
    };
}

static void test_what_a_command_is_given(void **state) {
    (void)state;
    struct harness harness = harness_start();
    char out[HARNESS_OUTPUT_SIZE];
    struct protocol_exec exec = exec_of_env();
    struct cursor_writer writer = harness_writer();
    harness_hello(harness.guest);
    protocol_encode_exec(&writer, 1, &exec);
    harness_receive(harness.guest, writer.data, writer.size);
    harness_run(harness.guest, 5);
    harness_output(harness.guest, 0, MOCK_OUT, out, sizeof(out));
    assert_non_null(strstr(out, "A=1\n"));
    assert_non_null(strstr(out, "HOME=/tmp\n"));
    assert_null(strstr(out, "HOME=/root"));
    assert_int_equal(harness.guest->sessions[0]->rlimit_nofile, 9);
    writer = harness_writer();
    exec.working_dir = "/bin/cat"; /* no folder */
    protocol_encode_exec(&writer, 2, &exec);
    harness_receive(harness.guest, writer.data, writer.size);
    harness_run(harness.guest, 5);
    assert_int_equal(harness.guest->sessions[1]->end, PROTOCOL_END_FAILED);
    assert_int_equal(harness.guest->sessions[1]->end_value, ENOTDIR);
    harness_stop(&harness);
}

/* ---- Files ------------------------------------------------------------------------------------ */

static struct mock_session *open_file(struct mock_guest *guest, const struct protocol_file_put *put,
                                      const char *get) {
    static uint32_t id = 100;
    struct cursor_writer writer = harness_writer();
    if (put) {
        protocol_encode_file_put(&writer, ++id, put);
    } else {
        protocol_encode_file_get(&writer, ++id, &(struct protocol_file_get){.path = get});
    }
    assert_false(writer.failed);
    harness_receive(guest, writer.data, writer.size);
    harness_run(guest, 1);
    return guest->sessions[guest->session_count - 1];
}

static void fill_file(struct mock_guest *guest, struct mock_session *session, const char *text) {
    struct cursor_writer writer = harness_writer();
    const struct protocol_data data = {.stream = PROTOCOL_STDIN,
                                       .flags = PROTOCOL_DATA_END,
                                       .bytes = (const uint8_t *)text,
                                       .size = strlen(text)};
    protocol_encode_data(&writer, session->id, &data);
    harness_receive(guest, writer.data, writer.size);
    harness_run(guest, 1);
}

static void expect_failed(const struct mock_session *session, uint32_t os_error) {
    assert_true(session->ended);
    assert_int_equal(session->end, PROTOCOL_END_FAILED);
    assert_int_equal(session->end_value, os_error);
}

static void test_files_that_cannot_be_had(void **state) {
    (void)state;
    static const struct {
        struct protocol_file_put put; /* .path NULL: a get */
        const char *get;
        uint32_t os_error;
    } cases[] = {
        {{.path = "/tmp", .size = 1}, NULL, EISDIR},
        {{.path = "/nope/a", .size = 1}, NULL, ENOENT},
        {{.path = "/bin/cat/a", .size = 1}, NULL, ENOTDIR},
        {{.path = "/tmp/a", .size = MOCK_FILE_BYTES_MAX + 1}, NULL, ENOSPC},
        {{0}, "/dev/zero", EINVAL},
        {{0}, "/bin/cat", EINVAL},
        {{0}, "/nope", ENOENT},
        {{0}, "/bin/cat/a", ENOTDIR},
    };
    struct harness harness = harness_start();
    harness_hello(harness.guest);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        const struct mock_session *session =
            open_file(harness.guest, cases[i].put.path ? &cases[i].put : NULL, cases[i].get);
        expect_failed(session, cases[i].os_error);
    }
    harness_stop(&harness);
}

static void hazard_d5_a_file_is_whole_or_not_there(void **state) {
    (void)state;
    static const struct protocol_file_put put = {.path = "/tmp/a", .mode = 0600, .size = 3};
    static const struct protocol_file_put deep = {.path = "/tmp/d/a", .mode = 0600, .size = 3};
    struct harness harness = harness_start();
    struct mock_guest *guest = harness.guest;
    harness_hello(guest);
    struct mock_session *session = open_file(guest, &put, NULL);
    fill_file(guest, session, "ab");
    expect_failed(session, EINVAL);
    assert_null(mock_files_find(&guest->files, "/tmp/a"));
    session = open_file(guest, &put, NULL);
    fill_file(guest, session, "abcd");
    expect_failed(session, EINVAL);
    assert_null(mock_files_find(&guest->files, "/tmp/a"));
    /* What was a file's place when it began is none at its end. */
    session = open_file(guest, &put, NULL);
    assert_int_equal(mock_files_add(&guest->files, "/tmp/a", MOCK_FILE_FOLDER, 0755, NULL), 0);
    fill_file(guest, session, "abc");
    expect_failed(session, EISDIR);
    assert_int_equal(mock_files_remove(&guest->files, "/tmp/a"), 0);
    assert_int_equal(mock_files_add(&guest->files, "/tmp/d", MOCK_FILE_FOLDER, 0755, NULL), 0);
    session = open_file(guest, &deep, NULL);
    assert_int_equal(mock_files_remove(&guest->files, "/tmp/d"), 0);
    fill_file(guest, session, "abc");
    expect_failed(session, ENOENT);
    session = open_file(guest, &put, NULL);
    fill_file(guest, session, "abc");
    assert_int_equal(session->end, PROTOCOL_END_EXITED);
    assert_int_equal(mock_files_find(&guest->files, "/tmp/a")->content.size, 3);
    harness_stop(&harness);
}

/* A file that goes away, or shrinks, while it is read. */
/* As of an open file: what is put in its place meanwhile is another. */
static void test_a_file_that_changes_under_its_reader(void **state) {
    (void)state;
    static uint8_t bytes[2 * MOCK_OUTPUT_SIZE];
    memset(bytes, 'o', sizeof(bytes));
    for (int shrinks = 0; shrinks < 2; shrinks++) {
        struct harness harness = harness_start();
        struct mock_files *files = &harness.guest->files;
        harness_hello(harness.guest);
        assert_int_equal(mock_files_open(files, "/tmp/a", false), 0);
        assert_int_equal(
            mock_files_append(files, mock_files_find(files, "/tmp/a"), bytes, sizeof(bytes)), 0);
        const struct mock_session *session = open_file(harness.guest, NULL, "/tmp/a");
        assert_false(session->ended); /* it is larger than what is under way at once */
        int changed =
            shrinks ? mock_files_open(files, "/tmp/a", false) : mock_files_remove(files, "/tmp/a");
        assert_int_equal(changed, 0);
        harness_run(harness.guest, 1);
        assert_false(session->ended);
        assert_int_equal(session->content.size, sizeof(bytes));
        assert_memory_equal(session->content.data, bytes, sizeof(bytes));
        harness_stop(&harness);
    }
}

static void run_script(struct mock_guest *guest, const char *content, uint32_t id) {
    const struct protocol_file_put put = {
        .path = "/tmp/script", .mode = 0755, .size = strlen(content)};
    fill_file(guest, open_file(guest, &put, NULL), content);
    harness_exec(guest, id, 0, ARGV("/tmp/script", "one", "two"));
    harness_run(guest, 10);
}

static void test_a_script_is_a_program(void **state) {
    (void)state;
    static const char *const no_scripts[] = {"", "#", "echo a", "##!/bin/sh\n"};
    struct harness harness = harness_start();
    char out[256];
    harness_hello(harness.guest);
    run_script(harness.guest, "#!/bin/sh\necho $0 $1 $2 $#\n", 1);
    assert_string_equal(
        harness_output(harness.guest, harness.guest->session_count - 1, MOCK_OUT, out, sizeof(out)),
        "/tmp/script one two 2\n");
    for (uint32_t i = 0; i < ARRAY_SIZE(no_scripts); i++) {
        run_script(harness.guest, no_scripts[i], 2 + i);
        expect_failed(harness.guest->sessions[harness.guest->session_count - 1], ENOEXEC);
    }
    harness_stop(&harness);
}

/* ---- Signals ---------------------------------------------------------------------------------- */

static void test_what_each_signal_does(void **state) {
    (void)state;
    static const uint32_t harmless[] = {SIGCHLD, SIGCONT, SIGURG,  SIGWINCH,
                                        SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU};
    for (uint32_t number = 1; number <= 64; number++) {
        bool kills = true;
        for (size_t i = 0; i < ARRAY_SIZE(harmless); i++) {
            kills = kills && number != harmless[i];
        }
        struct harness harness = harness_start();
        harness_hello(harness.guest);
        harness_exec(harness.guest, 1, 0, ARGV("sleep", "1000"));
        struct mock_session *session = harness.guest->sessions[0];
        mock_session_signal(session, number);
        harness_run(harness.guest, 1);
        assert_int_equal(session->ended, kills);
        if (kills) {
            assert_int_equal(session->end, PROTOCOL_END_SIGNALED);
            assert_int_equal(session->end_value, number);
        } else {
            assert_int_equal(session->stopped, number == SIGSTOP || number == SIGTSTP);
        }
        harness_stop(&harness);
    }
}

/* ---- Terminals -------------------------------------------------------------------------------- */

static void type_text(struct mock_guest *guest, const char *text, bool is_end) {
    struct mock_session *session = guest->sessions[0];
    struct cursor_writer writer = harness_writer();
    const struct protocol_data data = {.stream = PROTOCOL_STDIN,
                                       .flags = is_end ? PROTOCOL_DATA_END : 0,
                                       .offset = session->input.received,
                                       .bytes = (const uint8_t *)text,
                                       .size = strlen(text)};
    protocol_encode_data(&writer, session->id, &data);
    harness_receive(guest, writer.data, writer.size);
    harness_run(guest, 2);
}

static void test_a_terminals_keys(void **state) {
    (void)state;
    static const struct {
        const char *keys;
        bool is_end;
        const char *shown;
        bool ended;
        uint32_t signal; /* 0: it exited */
    } cases[] = {
        {"a\x7f\x7f\x7f\n", false, "a\b \b\r\n\r\n", false, 0},
        {"ab\x04", false, "abab", false, 0}, /* the end of a part of a line hands it out */
        {"\x04", false, "", true, 0},
        {"ab\x03", false, "ab^C", true, SIGINT},
        {"ab\x1c", false, "ab^\\", true, SIGQUIT},
        {"ab", true, "ab", true, 0},
        {"", true, "", true, 0},
        {"a\r", true, "a\r\na\r\n", true, 0},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct harness harness = harness_start();
        char out[256];
        harness_hello(harness.guest);
        harness_exec(harness.guest, 1, PROTOCOL_EXEC_TTY | PROTOCOL_EXEC_STDIN, ARGV("cat"));
        type_text(harness.guest, cases[i].keys, cases[i].is_end);
        const struct mock_session *session = harness.guest->sessions[0];
        harness_output(harness.guest, 0, MOCK_OUT, out, sizeof(out));
        bool right =
            strcmp(out, cases[i].shown) == 0 && session->ended == cases[i].ended &&
            (!session->ended || (session->end == PROTOCOL_END_SIGNALED) == (cases[i].signal != 0));
        if (!right || (session->ended && session->end_value != cases[i].signal)) {
            fail_msg("keys %zu: '%s', ended %d", i, out, session->ended);
        }
        harness_stop(&harness);
    }
}

static void test_a_terminals_line_is_bounded(void **state) {
    (void)state;
    struct harness harness = harness_start();
    char line[MOCK_TTY_LINE_SIZE_MAX + 100];
    memset(line, 'x', sizeof(line));
    memcpy(line + sizeof(line) - 2, "\n", 2);
    harness_hello(harness.guest);
    harness_exec(harness.guest, 1, PROTOCOL_EXEC_TTY | PROTOCOL_EXEC_STDIN, ARGV("wc", "-c"));
    type_text(harness.guest, line, false);
    assert_int_equal(harness.guest->sessions[0]->processes[0]->numbers[0],
                     MOCK_TTY_LINE_SIZE_MAX + 1);
    harness_stop(&harness);
    /* Lines that nobody reads stop the typing, not the guest. */
    harness = harness_start();
    harness_hello(harness.guest);
    harness_exec(harness.guest, 1, PROTOCOL_EXEC_TTY | PROTOCOL_EXEC_STDIN, ARGV("sleep", "1000"));
    type_text(harness.guest, line, false);
    type_text(harness.guest, line, false);
    assert_true(harness.guest->sessions[0]->input_ring.size > 0);
    assert_true(harness.guest->sessions[0]->tty_ready.size <= 2 * MOCK_TTY_LINE_SIZE_MAX + 2);
    harness_stop(&harness);
}

static void test_a_terminal_is_one(void **state) {
    (void)state;
    struct harness harness = harness_start();
    char out[256];
    harness_hello(harness.guest);
    harness_exec(harness.guest, 1, PROTOCOL_EXEC_TTY,
                 SHELL("tty; stty size; cat; sleep 0 & cat &"));
    harness_run(harness.guest, 10);
    assert_string_equal(harness_output(harness.guest, 0, MOCK_OUT, out, sizeof(out)),
                        "/dev/pts/0\r\n24 80\r\n");
    harness_stop(&harness);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_a_full_disk),
        cmocka_unit_test(hazard_d1_a_wrong_frame_ends_the_connection_only),
        cmocka_unit_test(test_frames_out_of_place),
        cmocka_unit_test(test_signals_and_sizes_for_a_session_that_is_gone),
        cmocka_unit_test(test_what_a_command_is_given),
        cmocka_unit_test(test_the_table_of_sessions_is_full),
        cmocka_unit_test(test_files_that_cannot_be_had),
        cmocka_unit_test(hazard_d5_a_file_is_whole_or_not_there),
        cmocka_unit_test(test_a_file_that_changes_under_its_reader),
        cmocka_unit_test(test_a_script_is_a_program),
        cmocka_unit_test(test_what_each_signal_does),
        cmocka_unit_test(test_a_terminals_keys),
        cmocka_unit_test(test_a_terminals_line_is_bounded),
        cmocka_unit_test(test_a_terminal_is_one),
    };
    return cmocka_run_group_tests_name("mock_session", tests, NULL, NULL);
}
