/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Messages between owners and handles: whole, in pieces, with descriptors, and none at all. */
#include "supervise/control.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"

struct rig {
    struct host *host;
    int fds[2];
    struct control_reader reader; /* of fds[1] */
};

static struct rig rig_open(void) {
    struct rig rig = {0};
    struct kelpie_error err;
    assert_int_equal(host_linux_create(&rig.host, &err), KELPIE_OK);
    assert_int_equal(host_socket_pair(rig.host, rig.fds, &err), KELPIE_OK);
    control_reader_init(&rig.reader, rig.host, rig.fds[1]);
    return rig;
}

static void rig_close(struct rig *rig) {
    control_reader_deinit(&rig->reader);
    host_close(rig->host, rig->fds[0]);
    host_close(rig->host, rig->fds[1]);
    host_destroy(rig->host);
}

static void send_bytes(struct rig *rig, const void *bytes, size_t size) {
    struct host_wait wait = host_wait_ms(rig->host, 1000, HOST_FD_NONE);
    struct kelpie_error err;
    assert_int_equal(host_write_all(rig->host, rig->fds[0], bytes, size, &wait, &err), KELPIE_OK);
}

static void send(struct rig *rig, json_t *json, int passed_fd) {
    struct host_wait wait = host_wait_ms(rig->host, 1000, HOST_FD_NONE);
    struct kelpie_error err;
    assert_int_equal(control_send(rig->host, rig->fds[0], json, passed_fd, &wait, &err), KELPIE_OK);
    json_decref(json);
}

static enum kelpie_status receive(struct rig *rig, struct control_message *ret_message) {
    struct host_wait wait = host_wait_ms(rig->host, 200, HOST_FD_NONE);
    struct kelpie_error err;
    return control_receive(&rig->reader, &wait, ret_message, &err);
}

static void test_messages_come_as_they_went(void **state) {
    (void)state;
    struct rig rig = rig_open();
    for (int i = 0; i < 3; i++) {
        send(&rig, json_pack("{s:s, s:i}", "op", "start", "id", i), HOST_FD_NONE);
    }
    for (uint64_t i = 0; i < 3; i++) {
        struct control_message message = {.fd = HOST_FD_NONE};
        assert_int_equal(receive(&rig, &message), KELPIE_OK);
        assert_string_equal(control_text(message.json, "op"), "start");
        assert_true(control_number(message.json, "id") == i);
        assert_int_equal(message.fd, HOST_FD_NONE);
        control_message_clear(rig.host, &message);
    }
    struct control_message none = {.fd = HOST_FD_NONE};
    assert_int_equal(receive(&rig, &none), KELPIE_TIMED_OUT);
    rig_close(&rig);
}

static void test_a_message_comes_in_pieces(void **state) {
    (void)state;
    static const char bytes[] = "\x0b\0\0\0{\"op\":\"is\"}";
    struct rig rig = rig_open();
    struct kelpie_error err;
    for (size_t i = 0; i < sizeof(bytes) - 1; i++) {
        struct control_message message = {.fd = HOST_FD_NONE};
        bool found = false;
        bool ended = false;
        struct host_wait wait = host_wait_ms(rig.host, 1000, HOST_FD_NONE);
        send_bytes(&rig, bytes + i, 1);
        assert_int_equal(control_reader_fill(&rig.reader, &wait, &ended, &err), KELPIE_OK);
        assert_int_equal(control_reader_next(&rig.reader, &message, &found, &err), KELPIE_OK);
        assert_int_equal(found, i == sizeof(bytes) - 2);
        control_message_clear(rig.host, &message);
    }
    rig_close(&rig);
}

/* The one that came first belongs to the message that first asks for one. */
static void test_descriptors_come_with_their_messages(void **state) {
    (void)state;
    struct rig rig = rig_open();
    struct kelpie_error err;
    int pairs[2][2];
    for (int i = 0; i < 2; i++) {
        assert_int_equal(host_socket_pair(rig.host, pairs[i], &err), KELPIE_OK);
        send(&rig, json_pack("{s:i}", "plain", i), HOST_FD_NONE);
        send(&rig, json_pack("{s:b, s:i}", "fd", 1, "number", i), pairs[i][0]);
        host_close(rig.host, pairs[i][0]);
    }
    for (int i = 0; i < 2; i++) {
        struct control_message message = {.fd = HOST_FD_NONE};
        char text[8] = "";
        size_t size = 0;
        struct host_wait wait = host_wait_ms(rig.host, 1000, HOST_FD_NONE);
        assert_int_equal(receive(&rig, &message), KELPIE_OK);
        assert_int_equal(message.fd, HOST_FD_NONE);
        control_message_clear(rig.host, &message);
        assert_int_equal(receive(&rig, &message), KELPIE_OK);
        assert_int_equal(host_write_all(rig.host, message.fd, "hello", 5, &wait, &err), KELPIE_OK);
        assert_int_equal(host_read(rig.host, pairs[i][1], text, 5, &wait, &size, &err), KELPIE_OK);
        assert_string_equal(text, "hello");
        control_message_clear(rig.host, &message);
        host_close(rig.host, pairs[i][1]);
    }
    rig_close(&rig);
}

static void hazard_e4_what_is_no_message_is_refused(void **state) {
    (void)state;
    static const struct {
        const char *bytes;
        size_t size;
    } rows[] = {
        {"\0\0\0\0", 4},                     /* of no bytes */
        {"\xff\xff\xff\xff{}", 6},           /* of four gigabytes */
        {"\x01\0\x80\0", 4},                 /* of one byte more than may be */
        {"\x02\0\0\0[]", 6},                 /* no object */
        {"\x02\0\0\0{x", 6},                 /* no JSON */
        {"\x0d\0\0\0{\"a\":1,\"a\":2}", 17}, /* the same member twice */
        {"\x0b\0\0\0{\"fd\":true}", 15},     /* a descriptor that did not come */
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct rig rig = rig_open();
        struct control_message message = {.fd = HOST_FD_NONE};
        send_bytes(&rig, rows[i].bytes, rows[i].size);
        assert_int_equal(receive(&rig, &message), KELPIE_INTERNAL);
        rig_close(&rig);
    }
}

static void hazard_e4_descriptors_do_not_pile_up(void **state) {
    (void)state;
    struct rig rig = rig_open();
    struct kelpie_error err;
    int pair[2];
    assert_int_equal(host_socket_pair(rig.host, pair, &err), KELPIE_OK);
    for (int i = 0; i <= CONTROL_FD_COUNT_MAX; i++) {
        send(&rig, json_pack("{s:i}", "plain", i), pair[0]);
    }
    enum kelpie_status status = KELPIE_OK;
    for (int i = 0; i <= CONTROL_FD_COUNT_MAX && status == KELPIE_OK; i++) {
        struct control_message message = {.fd = HOST_FD_NONE};
        status = receive(&rig, &message);
        control_message_clear(rig.host, &message);
    }
    assert_int_equal(status, KELPIE_INTERNAL);
    host_close(rig.host, pair[0]);
    host_close(rig.host, pair[1]);
    rig_close(&rig);
}

static void test_an_end_is_told(void **state) {
    (void)state;
    struct rig rig = rig_open();
    struct control_message message = {.fd = HOST_FD_NONE};
    host_close(rig.host, rig.fds[0]);
    assert_int_equal(receive(&rig, &message), KELPIE_INTERNAL);
    rig.fds[0] = HOST_FD_NONE;
    rig_close(&rig);
}

static void test_members_of_other_types_are_missing(void **state) {
    (void)state;
    json_t *json = json_pack("{s:s, s:i, s:i}", "text", "7", "number", 7, "negative", -7);
    assert_true(control_number(json, "number") == 7);
    assert_true(control_number(json, "text") == 0);
    assert_true(control_number(json, "negative") == 0);
    assert_true(control_number(json, "nothing") == 0);
    assert_string_equal(control_text(json, "number"), "");
    assert_string_equal(control_text(json, "nothing"), "");
    json_decref(json);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_messages_come_as_they_went),
        cmocka_unit_test(test_a_message_comes_in_pieces),
        cmocka_unit_test(test_descriptors_come_with_their_messages),
        cmocka_unit_test(hazard_e4_what_is_no_message_is_refused),
        cmocka_unit_test(hazard_e4_descriptors_do_not_pile_up),
        cmocka_unit_test(test_an_end_is_told),
        cmocka_unit_test(test_members_of_other_types_are_missing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
