/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Who owns a host, whichever it is. */
#include "host/host.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

struct counting_host {
    struct host host;
    size_t destroyed_count;
};

static void count_destroy(struct host *host) {
    ((struct counting_host *)host)->destroyed_count++;
}

static void the_last_owner_destroys(void **state) {
    static const struct host_ops ops = {.destroy = count_destroy};
    (void)state;
    for (size_t more = 0; more < 4; more++) {
        struct counting_host counting = {.host.ops = &ops};
        for (size_t i = 0; i < more; i++) {
            host_share(&counting.host);
        }
        for (size_t i = 0; i < more; i++) {
            host_destroy(&counting.host);
            assert_int_equal(counting.destroyed_count, 0);
        }
        host_destroy(&counting.host);
        assert_int_equal(counting.destroyed_count, 1);
    }
    host_destroy(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_last_owner_destroys),
    };
    return cmocka_run_group_tests_name("host", tests, NULL, NULL);
}
