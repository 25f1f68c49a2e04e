/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "backend/firecracker/firecracker_http.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"

static struct firecracker_http http;

static enum firecracker_http_result feed(const char *text, size_t *ret_taken) {
    return firecracker_http_feed(&http, text, strlen(text), ret_taken);
}

static void test_responses_follow_each_other(void **state) {
    (void)state;
    static const char text[] =
        "HTTP/1.1 400 \r\nServer: Firecracker API\r\ncontent-length:  2 \r\n\r\n{}"
        "HTTP/1.1 204 No Content\r\n\r\n"
        "HTTP/1.1 200 \r\nContent-Lengtx: 9\r\nContent-Length: 0\r\n\r\n";
    const unsigned expected[] = {400, 204, 200};
    for (size_t piece = 1; piece <= sizeof(text); piece += 7) {
        size_t used = 0;
        size_t count = 0;
        firecracker_http_init(&http);
        while (used < sizeof(text) - 1) {
            size_t taken = 0;
            size_t left = sizeof(text) - 1 - used;
            enum firecracker_http_result result =
                firecracker_http_feed(&http, text + used, left < piece ? left : piece, &taken);
            used += taken;
            assert_int_not_equal(result, FIRECRACKER_HTTP_BAD);
            if (result == FIRECRACKER_HTTP_RESPONSE) {
                assert_int_equal(http.status, expected[count]);
                assert_string_equal(http.body, count == 0 ? "{}" : "");
                count++;
            }
        }
        assert_int_equal(count, ARRAY_SIZE(expected));
    }
    size_t taken = 1;
    assert_int_equal(firecracker_http_feed(&http, NULL, 0, &taken), FIRECRACKER_HTTP_MORE);
    assert_int_equal(taken, 0);
}

static void test_what_is_no_response_is_told(void **state) {
    (void)state;
    static const char *const wrong[] = {
        "HTP/1.1 204 \r\n",
        "HTTP/1.1 204 \r\n{: x\r\n",
        "HTTP/1.1 204 \r\nheader\r\n",
        "HTTP/1.1 2o4 \r\n",
        "HTTP/1.1 20x \r\n",
        "HTTP/1.1 x04 \r\n",
        "HTTP/1.1 2040\r\n\r\n",
        "HTTP/1.1 204\r\n",
        "HTTP/1.1 100 \r\n\r\n",
        "HTTP/1.1 600 \r\n\r\n",
        "HTTP/1.0 204 \r\n\r\n",
        "\n",
        "HTTP/1.1 204 \n",
        "HTTP/1.1 204 \x01\r\n",
        "HTTP/1.1 204 \x7f\r\n",
        "HTTP/1.1 204 \r\nno colon here\r\n",
        "HTTP/1.1 204 \r\n: nothing\r\n",
        "HTTP/1.1 204 \r\na[: 1\r\n",
        "HTTP/1.1 204 \r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 \r\n\r\n",
        "HTTP/1.1 200 \r\nContent-Length: -7\r\n",
        "HTTP/1.1 200 \r\nContent-Length: 7;\r\n",
        "HTTP/1.1 200 \r\nContent-Length:\r\n",
        "HTTP/1.1 200 \r\nContent-Length: 65537\r\n",
        "HTTP/1.1 200 \r\nContent-Length: 18446744073709551617\r\n",
        "HTTP/1.1 200 \r\nContent-Length: 1\r\nContent-Length: 1\r\n",
        "HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n",
    };
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
        size_t taken = 0;
        firecracker_http_init(&http);
        if (feed(wrong[i], &taken) != FIRECRACKER_HTTP_BAD) {
            fail_msg("%s", wrong[i]);
        }
        assert_non_null(http.reason);
        assert_int_equal(feed("HTTP/1.1 204 \r\n\r\n", &taken),
                         FIRECRACKER_HTTP_BAD); /* for good */
        assert_int_equal(taken, 0);
    }
}

static void test_lines_and_headers_have_an_end(void **state) {
    (void)state;
    char line[2 * FIRECRACKER_LINE_SIZE_MAX];
    size_t taken = 0;
    memset(line, 'a', sizeof(line));
    firecracker_http_init(&http);
    assert_int_equal(firecracker_http_feed(&http, line, FIRECRACKER_LINE_SIZE_MAX, &taken),
                     FIRECRACKER_HTTP_MORE);
    assert_int_equal(firecracker_http_feed(&http, line, 1, &taken), FIRECRACKER_HTTP_BAD);
    firecracker_http_init(&http);
    assert_int_equal(feed("HTTP/1.1 204 \r\n", &taken), FIRECRACKER_HTTP_MORE);
    for (size_t i = 0; i < FIRECRACKER_HEADER_COUNT_MAX; i++) {
        assert_int_equal(feed("X-1: 2\r\n", &taken), FIRECRACKER_HTTP_MORE);
    }
    assert_int_equal(feed("X-1: 2\r\n", &taken), FIRECRACKER_HTTP_BAD);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_responses_follow_each_other),
        cmocka_unit_test(test_what_is_no_response_is_told),
        cmocka_unit_test(test_lines_and_headers_have_an_end),
    };
    return cmocka_run_group_tests_name("backend/firecracker_http", tests, NULL, NULL);
}
