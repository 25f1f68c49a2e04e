/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The HTTP server's parser, with requests cut at every byte, wrong ones, and random ones. */
#include "sim/peer/http.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "sim/choices.h"

#define TRANSCRIPT_SIZE 4096
#define MUTATION_COUNT 20000

static const char three_requests[] =
    "GET / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n"
    "PUT /actions HTTP/1.1\r\ncontent-LENGTH:  31 \r\nContent-Type: application/json\r\n\r\n"
    "{\"action_type\":\"InstanceStart\"}"
    "PATCH /vm HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: "
    "18\r\n\r\n{\"state\":\"Paused\"}";

static const char three_said[] = "GET /.1 []\n"
                                 "PUT /actions.1 [{\"action_type\":\"InstanceStart\"}]\n"
                                 "?\nPATCH /vm.0 [{\"state\":\"Paused\"}]\n"
                                 "idle\n";

static int setup(void **state) {
    struct http_parser *parser = malloc(sizeof(*parser));
    assert_non_null(parser);
    http_parser_init(parser);
    *state = parser;
    return 0;
}

static int teardown(void **state) {
    free(*state);
    return 0;
}

static void note(char *transcript, const char *text) {
    size_t used = strlen(transcript);
    assert_true(used + strlen(text) < TRANSCRIPT_SIZE);
    memcpy(transcript + used, text, strlen(text) + 1);
}

/* Feeds everything and writes down what came of it. */
static void feed(struct http_parser *parser, const char *data, size_t size, char *transcript) {
    size_t used = 0;
    char text[HTTP_PATH_SIZE_MAX + 1024];
    while (used < size) {
        size_t taken = 0;
        enum http_event event = http_parser_feed(parser, data + used, size - used, &taken);
        assert_true(taken <= size - used);
        used += taken;
        switch (event) {
        case HTTP_EVENT_MORE:
            assert_int_equal(used, size);
            break;
        case HTTP_EVENT_CONTINUE:
            note(transcript, "?\n");
            break;
        case HTTP_EVENT_REQUEST:
            snprintf(text, sizeof(text), "%s %s.%u [%.512s]\n",
                     http_method_name(parser->request.method), parser->request.path,
                     parser->request.minor_version, parser->request.body);
            note(transcript, text);
            break;
        case HTTP_EVENT_BAD:
            assert_true(parser->reason[0] != '\0');
            note(transcript, "bad: ");
            note(transcript, parser->reason);
            note(transcript, "\n");
            return;
        }
    }
    if (http_parser_is_idle(parser)) {
        note(transcript, "idle\n");
    }
}

static void expect(struct http_parser *parser, const char *data, const char *said) {
    char transcript[TRANSCRIPT_SIZE] = "";
    http_parser_init(parser);
    feed(parser, data, strlen(data), transcript);
    assert_string_equal(transcript, said);
}

static void expect_bad(struct http_parser *parser, const char *data, const char *part) {
    char transcript[TRANSCRIPT_SIZE] = "";
    http_parser_init(parser);
    feed(parser, data, strlen(data), transcript);
    assert_non_null(strstr(transcript, "bad: "));
    if (!strstr(transcript, part)) {
        assert_string_equal(transcript, part);
    }
}

/* ---- Requests --------------------------------------------------------------------------------- */

static void requests_are_read_one_after_another(void **state) {
    expect(*state, three_requests, three_said);
}

static void a_request_may_be_cut_at_every_byte(void **state) {
    struct http_parser *parser = *state;
    size_t size = sizeof(three_requests) - 1;
    for (size_t cut = 1; cut < size; cut++) {
        char transcript[TRANSCRIPT_SIZE] = "";
        http_parser_init(parser);
        feed(parser, three_requests, cut, transcript);
        char *idle = strstr(transcript, "idle\n"); /* the cut lies between two requests */
        if (idle) {
            *idle = '\0';
        }
        feed(parser, three_requests + cut, size - cut, transcript);
        assert_string_equal(transcript, three_said);
    }
}

static void a_request_may_come_byte_by_byte(void **state) {
    struct http_parser *parser = *state;
    size_t request_count = 0;
    size_t continue_count = 0;
    for (size_t i = 0; i < sizeof(three_requests) - 1; i++) {
        size_t taken = 0;
        enum http_event event = http_parser_feed(parser, three_requests + i, 1, &taken);
        assert_int_equal(taken, 1);
        request_count += event == HTTP_EVENT_REQUEST;
        continue_count += event == HTTP_EVENT_CONTINUE;
    }
    assert_int_equal(request_count, 3);
    assert_int_equal(continue_count, 1);
    assert_true(http_parser_is_idle(parser));
}

static void nothing_fed_is_nothing_found(void **state) {
    struct http_parser *parser = *state;
    size_t taken = 7;
    assert_int_equal(http_parser_feed(parser, NULL, 0, &taken), HTTP_EVENT_MORE);
    assert_int_equal(taken, 0);
    assert_true(http_parser_is_idle(parser));
    assert_int_equal(http_parser_feed(parser, "G", 1, &taken), HTTP_EVENT_MORE);
    assert_false(http_parser_is_idle(parser));
}

static void a_request_without_a_body_owes_no_continue(void **state) {
    expect(*state, "GET /version HTTP/1.1\r\nExpect: 100-continue\r\n\r\n",
           "GET /version.1 []\nidle\n");
    expect(*state, "PUT /vm HTTP/1.1\r\nContent-Length: 0\r\n\r\n", "PUT /vm.1 []\nidle\n");
}

static void a_body_may_hold_anything(void **state) {
    struct http_parser *parser = *state;
    static const char data[] = "PUT /a HTTP/1.1\r\nContent-Length: 6\r\n\r\n\r\n\0\r\nG";
    size_t taken = 0;
    assert_int_equal(http_parser_feed(parser, data, sizeof(data) - 1, &taken), HTTP_EVENT_REQUEST);
    assert_int_equal(taken, sizeof(data) - 1);
    assert_int_equal(parser->request.body_size, 6);
    assert_memory_equal(parser->request.body, "\r\n\0\r\nG", 7);
}

static void a_body_does_not_stay_for_the_next_request(void **state) {
    expect(*state,
           "PUT /a HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n{}"
           "PUT /b HTTP/1.1\r\n\r\n",
           "?\nPUT /a.1 [{}]\nPUT /b.1 []\nidle\n");
    expect(*state,
           "PUT /a HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n{}"
           "PUT /b HTTP/1.1\r\nContent-Length: 1\r\n\r\n1",
           "?\nPUT /a.1 [{}]\nPUT /b.1 [1]\nidle\n");
}

/* ---- What is refused -------------------------------------------------------------------------- */

static void wrong_request_lines_are_refused(void **state) {
    expect_bad(*state, "\r\n", "The request line");
    expect_bad(*state, "GET\r\n", "The request line");
    expect_bad(*state, "GET /\r\n", "The request line");
    expect_bad(*state, "POST / HTTP/1.1\r\n", "method");
    expect_bad(*state, "get / HTTP/1.1\r\n", "method");
    expect_bad(*state, " GET / HTTP/1.1\r\n", "method");
    expect_bad(*state, "GETS / HTTP/1.1\r\n", "method");
    expect_bad(*state, "GET  / HTTP/1.1\r\n", "path");
    expect_bad(*state, "GET version HTTP/1.1\r\n", "path");
    expect_bad(*state, "GET / HTTP/1.1 \r\n", "version");
    expect_bad(*state, "GET / HTTP/2.0\r\n", "version");
    expect_bad(*state, "GET / x HTTP/1.1\r\n", "version");
    expect_bad(*state, "GET / HTTP/1.1\n", "CR LF");
    expect_bad(*state, "\n", "CR LF");
    expect_bad(*state, "GET /\x01 HTTP/1.1\r\n", "printable");
    expect_bad(*state, "GET /\xc3\xa4 HTTP/1.1\r\n", "printable");
    expect_bad(*state, "GET /\r HTTP/1.1\r\n", "printable");
}

static void wrong_headers_are_refused(void **state) {
    expect_bad(*state, "GET / HTTP/1.1\r\nHost\r\n", "colon");
    expect_bad(*state, "GET / HTTP/1.1\r\n: x\r\n", "colon");
    expect_bad(*state, "GET / HTTP/1.1\r\nHost : x\r\n", "colon");
    expect_bad(*state, "GET / HTTP/1.1\r\n folded: x\r\n", "colon");
    expect_bad(*state, "GET / HTTP/1.1\r\nHost: \x7f\r\n", "printable");
    expect_bad(*state, "GET / HTTP/1.1\r\nHost: x\n", "CR LF");
    expect_bad(*state, "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding");
}

static void wrong_lengths_are_refused(void **state) {
    expect_bad(*state, "PUT / HTTP/1.1\r\nContent-Length:\r\n", "number");
    expect_bad(*state, "PUT / HTTP/1.1\r\nContent-Length: -1\r\n", "number");
    expect_bad(*state, "PUT / HTTP/1.1\r\nContent-Length: +1\r\n", "number");
    expect_bad(*state, "PUT / HTTP/1.1\r\nContent-Length: 0x1\r\n", "number");
    expect_bad(*state, "PUT / HTTP/1.1\r\nContent-Length: 1 1\r\n", "number");
    expect_bad(*state, "PUT / HTTP/1.1\r\nContent-Length: 4294967297\r\n", "large");
    expect_bad(*state, "PUT / HTTP/1.1\r\nContent-Length: 18446744073709551617\r\n", "large");
    expect_bad(*state, "PUT / HTTP/1.1\r\nContent-Length: 51201\r\n", "longer");
    expect_bad(*state, "PUT / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n", "two");
    expect_bad(*state, "PUT / HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 2\r\n", "two");
    expect(*state, "PUT / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n1",
           "PUT /.1 [1]\nidle\n");
}

static void nothing_is_read_behind_what_is_wrong(void **state) {
    struct http_parser *parser = *state;
    size_t taken = 0;
    assert_int_equal(http_parser_feed(parser, "X\r\nGET / HTTP/1.1\r\n\r\n", 21, &taken),
                     HTTP_EVENT_BAD);
    assert_int_equal(taken, 3);
    assert_int_equal(http_parser_feed(parser, "GET / HTTP/1.1\r\n\r\n", 18, &taken),
                     HTTP_EVENT_BAD);
    assert_int_equal(taken, 0);
    assert_false(http_parser_is_idle(parser));
}

/* ---- Limits: what is as long as allowed is taken, one more is not --------------------------------- */

/* A header of `size` bytes with its CR LF. */
static void feed_header_of(struct http_parser *parser, size_t size, char *transcript) {
    char line[HTTP_LINE_SIZE_MAX + 2];
    static const char start[] = "GET / HTTP/1.1\r\n";
    assert_true(size <= sizeof(line));
    memset(line, 'x', sizeof(line));
    memcpy(line, "X: ", 3);
    memcpy(line + size - 2, "\r\n", 2);
    http_parser_init(parser);
    feed(parser, start, sizeof(start) - 1, transcript);
    feed(parser, line, size, transcript);
}

static void a_line_has_a_limit(void **state) {
    char transcript[TRANSCRIPT_SIZE] = "";
    struct http_parser *parser = *state;
    feed_header_of(parser, HTTP_LINE_SIZE_MAX, transcript);
    assert_string_equal(transcript, "");
    feed_header_of(parser, HTTP_LINE_SIZE_MAX + 1, transcript);
    assert_string_equal(transcript, "bad: A line is too long.\n");
}

static void an_endless_line_ends(void **state) {
    struct http_parser *parser = *state;
    size_t fed = 0;
    enum http_event event = HTTP_EVENT_MORE;
    while (event == HTTP_EVENT_MORE && fed < 2 * (size_t)HTTP_LINE_SIZE_MAX) {
        size_t taken = 0;
        event = http_parser_feed(parser, "/", 1, &taken);
        fed += taken;
    }
    assert_int_equal(event, HTTP_EVENT_BAD);
    assert_int_equal(fed, HTTP_LINE_SIZE_MAX);
}

static void a_path_has_a_limit(void **state) {
    for (size_t extra = 0; extra < 2; extra++) {
        char path[HTTP_PATH_SIZE_MAX + 2] = "";
        char data[HTTP_LINE_SIZE_MAX] = "";
        char transcript[TRANSCRIPT_SIZE] = "";
        memset(path, 'p', HTTP_PATH_SIZE_MAX + extra);
        path[0] = '/';
        snprintf(data, sizeof(data), "GET %s HTTP/1.1\r\n\r\n", path);
        http_parser_init(*state);
        feed(*state, data, strlen(data), transcript);
        assert_int_equal(strncmp(transcript, "bad", 3) == 0, extra == 1);
    }
}

static void the_number_of_headers_has_a_limit(void **state) {
    struct http_parser *parser = *state;
    for (size_t extra = 0; extra < 2; extra++) {
        char transcript[TRANSCRIPT_SIZE] = "";
        http_parser_init(parser);
        feed(parser, "GET / HTTP/1.1\r\n", 16, transcript);
        for (size_t i = 0; i < HTTP_HEADER_COUNT_MAX + extra; i++) {
            feed(parser, "X: y\r\n", 6, transcript);
        }
        assert_string_equal(transcript, extra == 0 ? "" : "bad: There are too many headers.\n");
    }
}

static void a_body_as_long_as_allowed_is_taken(void **state) {
    struct http_parser *parser = *state;
    AUTO_MEM char *body = malloc(HTTP_BODY_SIZE_MAX);
    char head[64];
    size_t taken = 0;
    assert_non_null(body);
    memset(body, ' ', HTTP_BODY_SIZE_MAX);
    snprintf(head, sizeof(head), "PUT / HTTP/1.1\r\nContent-Length: %u\r\n\r\n",
             (unsigned)HTTP_BODY_SIZE_MAX);
    assert_int_equal(http_parser_feed(parser, head, strlen(head), &taken), HTTP_EVENT_MORE);
    assert_int_equal(http_parser_feed(parser, body, HTTP_BODY_SIZE_MAX, &taken),
                     HTTP_EVENT_REQUEST);
    assert_int_equal(taken, HTTP_BODY_SIZE_MAX);
    assert_int_equal(parser->request.body_size, HTTP_BODY_SIZE_MAX);
}

/* ---- Random bytes ----------------------------------------------------------------------------- */

static size_t mutate(struct sim_choices *choices, char *data, size_t size, size_t capacity) {
    static const char pieces[] = "\r\n: \0/GETPUT0159Content-Length{}\x7f\xff";
    for (uint64_t i = 1 + sim_choose(choices, 4); i > 0 && size > 0; i--) {
        size_t at = sim_choose(choices, size);
        char byte = pieces[sim_choose(choices, sizeof(pieces))];
        switch (sim_choose(choices, 4)) {
        case 0:
            data[at] = byte;
            break;
        case 1: /* cut */
            size = at;
            break;
        case 2: /* leave one out */
            memmove(data + at, data + at + 1, size - at - 1);
            size--;
            break;
        default: /* add one */
            size -= size == capacity;
            memmove(data + at + 1, data + at, size - at);
            data[at] = byte;
            size++;
            break;
        }
    }
    return size;
}

/* Whatever comes, it ends, it stays within its limits, and the way that it is cut makes no difference. */
static void random_bytes_are_read_alike_however_cut(void **state) {
    struct http_parser *parser = *state;
    struct sim_choices choices;
    size_t bad_count = 0;
    sim_choices_init(&choices, 4711);
    for (size_t i = 0; i < MUTATION_COUNT; i++) {
        char data[sizeof(three_requests) + 8];
        char whole[TRANSCRIPT_SIZE] = "";
        char cut[TRANSCRIPT_SIZE] = "";
        memcpy(data, three_requests, sizeof(three_requests));
        size_t size = mutate(&choices, data, sizeof(three_requests) - 1, sizeof(data) - 4);
        http_parser_init(parser);
        feed(parser, data, size, whole);
        http_parser_init(parser);
        feed(parser, data, 0, cut);
        for (size_t used = 0; used < size && parser->state != HTTP_STATE_BAD;) {
            size_t piece = 1 + sim_choose(&choices, 40);
            piece = piece < size - used ? piece : size - used;
            char *idle = strstr(cut, "idle\n");
            if (idle) {
                *idle = '\0';
            }
            feed(parser, data + used, piece, cut);
            used += piece;
        }
        assert_string_equal(cut, whole);
        assert_true(parser->line_size <= HTTP_LINE_SIZE_MAX);
        assert_true(parser->request.body_size <= HTTP_BODY_SIZE_MAX);
        bad_count += parser->state == HTTP_STATE_BAD;
    }
    assert_in_range(bad_count, MUTATION_COUNT / 10, MUTATION_COUNT - 1);
}

/* ---- Responses -------------------------------------------------------------------------------- */

static void a_response_is_encoded(void **state) {
    char buffer[512];
    size_t size = 0;
    const struct http_response with = {.status = 200, .body = "{}", .body_size = 2};
    const struct http_response without = {.status = 204};
    const struct http_response old = {.status = 204, .deprecated = true};
    (void)state;
    assert_int_equal(http_response_encode(&with, buffer, sizeof(buffer), &size, NULL), KELPIE_OK);
    buffer[size] = '\0';
    assert_string_equal(buffer, "HTTP/1.1 200 \r\nServer: Firecracker API\r\n"
                                "Connection: keep-alive\r\nContent-Type: application/json\r\n"
                                "Content-Length: 2\r\n\r\n{}");
    assert_int_equal(http_response_encode(&without, buffer, sizeof(buffer), &size, NULL),
                     KELPIE_OK);
    buffer[size] = '\0';
    assert_string_equal(buffer, "HTTP/1.1 204 \r\nServer: Firecracker API\r\n"
                                "Connection: keep-alive\r\n\r\n");
    assert_int_equal(http_response_encode(&old, buffer, sizeof(buffer), &size, NULL), KELPIE_OK);
    buffer[size] = '\0';
    assert_non_null(strstr(buffer, "Deprecation: true\r\n"));
}

static void a_response_that_does_not_fit_is_an_error(void **state) {
    char buffer[512];
    size_t size = 0;
    size_t whole = 0;
    const struct http_response with = {.status = 400, .body = "{\"a\": 1}", .body_size = 8};
    (void)state;
    assert_int_equal(http_response_encode(&with, buffer, sizeof(buffer), &whole, NULL), KELPIE_OK);
    for (size_t capacity = 0; capacity < whole; capacity++) {
        memset(buffer, '#', sizeof(buffer));
        assert_int_equal(http_response_encode(&with, buffer, capacity, &size, NULL),
                         KELPIE_NO_SPACE);
        assert_int_equal(buffer[capacity], '#');
    }
    assert_int_equal(http_response_encode(&with, buffer, whole, &size, NULL), KELPIE_OK);
    assert_int_equal(size, whole);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(requests_are_read_one_after_another, setup, teardown),
        cmocka_unit_test_setup_teardown(a_request_may_be_cut_at_every_byte, setup, teardown),
        cmocka_unit_test_setup_teardown(a_request_may_come_byte_by_byte, setup, teardown),
        cmocka_unit_test_setup_teardown(nothing_fed_is_nothing_found, setup, teardown),
        cmocka_unit_test_setup_teardown(a_request_without_a_body_owes_no_continue, setup, teardown),
        cmocka_unit_test_setup_teardown(a_body_may_hold_anything, setup, teardown),
        cmocka_unit_test_setup_teardown(a_body_does_not_stay_for_the_next_request, setup, teardown),
        cmocka_unit_test_setup_teardown(wrong_request_lines_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(wrong_headers_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(wrong_lengths_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(nothing_is_read_behind_what_is_wrong, setup, teardown),
        cmocka_unit_test_setup_teardown(a_line_has_a_limit, setup, teardown),
        cmocka_unit_test_setup_teardown(an_endless_line_ends, setup, teardown),
        cmocka_unit_test_setup_teardown(a_path_has_a_limit, setup, teardown),
        cmocka_unit_test_setup_teardown(the_number_of_headers_has_a_limit, setup, teardown),
        cmocka_unit_test_setup_teardown(a_body_as_long_as_allowed_is_taken, setup, teardown),
        cmocka_unit_test_setup_teardown(random_bytes_are_read_alike_however_cut, setup, teardown),
        cmocka_unit_test(a_response_is_encoded),
        cmocka_unit_test(a_response_that_does_not_fit_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
