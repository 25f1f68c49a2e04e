/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What a process in which a broken library runs may say: any bytes, in any pieces, with any descriptors. */
#include "backend/libkrun/libkrun_talk.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/assert.h"

struct fixture {
    struct host *host;
    struct libkrun_talk talk;
    int theirs;
};

static int setup(void **state) {
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    int fds[2];
    assert_non_null(fixture);
    assert_int_equal(host_linux_create(&fixture->host, NULL), KELPIE_OK);
    assert_int_equal(host_socket_pair(fixture->host, fds, NULL), KELPIE_OK);
    libkrun_talk_init(&fixture->talk, fixture->host, fds[0]);
    fixture->theirs = fds[1];
    *state = fixture;
    return 0;
}

static int teardown(void **state) {
    struct fixture *fixture = *state;
    libkrun_talk_close(&fixture->talk);
    host_close(fixture->host, fixture->theirs);
    host_destroy(fixture->host);
    free(fixture);
    return 0;
}

static void send(struct fixture *fixture, const char *text, size_t size) {
    const struct host_wait wait = host_wait_ms(fixture->host, 5000, HOST_FD_NONE);
    assert_int_equal(host_write_all(fixture->host, fixture->theirs, text, size, &wait, NULL),
                     KELPIE_OK);
}

static enum kelpie_status read_message(struct fixture *fixture, struct krun_message *ret_message) {
    const struct host_wait wait = host_wait_ms(fixture->host, 100, HOST_FD_NONE);
    struct kelpie_error err;
    return libkrun_talk_read(&fixture->talk, &wait, ret_message, &err);
}

static void lines_come_in_any_pieces(void **state) {
    struct fixture *fixture = *state;
    struct krun_message message;
    send(fixture, "done\nent", 8);
    assert_int_equal(read_message(fixture, &message), KELPIE_OK);
    assert_int_equal(message.word, KRUN_WORD_DONE);
    assert_int_equal(read_message(fixture, &message), KELPIE_TIMED_OUT);
    send(fixture, "ering\nfailed\t1\tall of it\n", 25);
    assert_int_equal(read_message(fixture, &message), KELPIE_OK);
    assert_int_equal(message.word, KRUN_WORD_ENTERING);
    assert_int_equal(read_message(fixture, &message), KELPIE_OK);
    struct kelpie_error err;
    assert_int_equal(libkrun_talk_failed(&message, &err), KELPIE_BAD_CONFIG);
    message.status = KELPIE_WRONG_STATE; /* which is not its to say */
    assert_int_equal(libkrun_talk_failed(&message, NULL), KELPIE_INTERNAL);
    assert_string_equal(err.message, "all of it");
    assert_string_equal(err.field, "kernel");
}

static void a_line_without_an_end_is_an_error(void **state) {
    struct fixture *fixture = *state;
    struct krun_message message;
    static char text[KRUN_LINE_SIZE_MAX];
    memset(text, 'x', sizeof(text));
    send(fixture, text, sizeof(text));
    assert_int_equal(read_message(fixture, &message), KELPIE_INTERNAL);
    assert_int_equal(read_message(fixture, &message), KELPIE_INTERNAL);
}

static void its_end_is_told_and_stays(void **state) {
    struct fixture *fixture = *state;
    struct krun_message message;
    send(fixture, "don", 3);
    host_close(fixture->host, fixture->theirs);
    fixture->theirs = HOST_FD_NONE;
    assert_int_equal(read_message(fixture, &message), KELPIE_CRASHED);
    libkrun_talk_close(&fixture->talk);
    assert_int_equal(read_message(fixture, &message), KELPIE_CRASHED);
}

static void descriptors_that_nobody_takes_are_closed(void **state) {
    struct fixture *fixture = *state;
    struct krun_message message;
    int before = open("/dev/null", O_RDONLY | O_CLOEXEC); /* the lowest that is free */
    close(before);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(host_socket_send_fd(fixture->host, fixture->theirs, "console\n", 8,
                                             fixture->theirs, NULL),
                         KELPIE_OK);
        assert_int_equal(read_message(fixture, &message), KELPIE_OK);
    }
    int fd = libkrun_talk_take_fd(&fixture->talk);
    assert_int_not_equal(fd, HOST_FD_NONE);
    assert_int_equal(libkrun_talk_take_fd(&fixture->talk), HOST_FD_NONE);
    host_close(fixture->host, fd);
    int after = open("/dev/null", O_RDONLY | O_CLOEXEC);
    close(after);
    assert_int_equal(after, before);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(lines_come_in_any_pieces, setup, teardown),
        cmocka_unit_test_setup_teardown(a_line_without_an_end_is_an_error, setup, teardown),
        cmocka_unit_test_setup_teardown(its_end_is_told_and_stays, setup, teardown),
        cmocka_unit_test_setup_teardown(descriptors_that_nobody_takes_are_closed, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
