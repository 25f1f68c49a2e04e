/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vmm/device/io_again.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

struct worker {
    struct io_again again;
    unsigned calls;
    unsigned left; /* how often it asks again by itself */
};

static void work(void *context) {
    struct worker *worker = context;
    worker->calls++;
    if (worker->left > 0) {
        worker->left--;
        io_again_ask(&worker->again);
    }
}

static void worker_open(struct worker *worker, struct io *io) {
    *worker = (struct worker){0};
    assert_int_equal(io_init(io, NULL), KELPIE_OK);
    assert_int_equal(io_again_init(&worker->again, io, work, worker, NULL), KELPIE_OK);
}

static void test_asking_often_is_asking_once(void **state) {
    (void)state;
    static struct io io;
    struct worker worker;
    worker_open(&worker, &io);
    assert_int_equal(io_turn(&io, 0), 0);
    for (int i = 0; i < 5; i++) {
        io_again_ask(&worker.again);
    }
    assert_int_equal(worker.calls, 0); /* never within the call */
    assert_int_equal(io_turn(&io, 0), 1);
    assert_int_equal(worker.calls, 1);
    assert_int_equal(io_turn(&io, 0), 0);
    io_again_ask(&worker.again);
    assert_int_equal(io_turn(&io, 0), 1);
    assert_int_equal(worker.calls, 2);
    io_again_deinit(&worker.again);
    io_deinit(&io);
}

static void test_a_handler_that_asks_is_called_in_the_next_turn(void **state) {
    (void)state;
    static struct io io;
    struct worker worker;
    worker_open(&worker, &io);
    worker.left = 3;
    io_again_ask(&worker.again);
    for (unsigned i = 1; i <= 4; i++) {
        assert_int_equal(io_turn(&io, 0), 1);
        assert_int_equal(worker.calls, i);
    }
    assert_int_equal(io_turn(&io, 0), 0);
    io_again_deinit(&worker.again);
    io_deinit(&io);
}

static void test_after_deinit_nothing_is_called(void **state) {
    (void)state;
    static struct io io;
    struct worker worker;
    worker_open(&worker, &io);
    io_again_ask(&worker.again);
    io_again_deinit(&worker.again);
    assert_int_equal(io_turn(&io, 0), 0);
    assert_int_equal(worker.calls, 0);
    io_again_deinit(&worker.again); /* a second time, as of one that was never made */
    io_deinit(&io);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_asking_often_is_asking_once),
        cmocka_unit_test(test_a_handler_that_asks_is_called_in_the_next_turn),
        cmocka_unit_test(test_after_deinit_nothing_is_called),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
