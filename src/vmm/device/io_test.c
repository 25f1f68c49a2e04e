/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vmm/device/io.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#define PEER_COUNT 3

struct peer {
    struct io_source source;
    struct io *io;
    int calls;
    uint32_t events;
    struct peer *victim; /* that the handler removes */
    struct peer *heir;   /* that the handler then adds */
    bool stops;
};

struct fixture {
    struct io io;
    struct peer peers[PEER_COUNT];
    int depth; /* of the lock */
    int locks;
};

static void lock(void *context) {
    struct fixture *fixture = context;
    assert_int_equal(fixture->depth, 0);
    fixture->depth++;
    fixture->locks++;
}

static void unlock(void *context) {
    struct fixture *fixture = context;
    assert_int_equal(fixture->depth, 1);
    fixture->depth--;
}

static void handle(void *context, uint32_t events) {
    struct peer *peer = context;
    peer->calls++;
    peer->events = events;
    if (peer->victim) {
        io_remove(peer->io, &peer->victim->source);
    }
    if (peer->heir) {
        assert_int_equal(io_add(peer->io, &peer->heir->source, EPOLLIN, NULL), KELPIE_OK);
        peer->heir = NULL;
    }
    if (peer->stops) {
        io_stop(peer->io);
    }
}

static int setup(void **state) {
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    assert_non_null(fixture);
    assert_int_equal(io_init(&fixture->io, NULL), KELPIE_OK);
    fixture->io.lock = lock;
    fixture->io.unlock = unlock;
    fixture->io.lock_context = fixture;
    for (int index = 0; index < PEER_COUNT; index++) {
        struct peer *peer = &fixture->peers[index];
        peer->io = &fixture->io;
        peer->source.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        assert_true(peer->source.fd >= 0);
        peer->source.handler = handle;
        peer->source.context = peer;
    }
    *state = fixture;
    return 0;
}

static int teardown(void **state) {
    struct fixture *fixture = *state;
    io_deinit(&fixture->io);
    for (int index = 0; index < PEER_COUNT; index++) {
        close(fixture->peers[index].source.fd);
    }
    free(fixture);
    return 0;
}

static void add(struct fixture *fixture, int index, uint32_t events) {
    assert_int_equal(io_add(&fixture->io, &fixture->peers[index].source, events, NULL), KELPIE_OK);
}

static void raise_event(struct peer *peer) {
    assert_int_equal(eventfd_write(peer->source.fd, 1), 0);
}

static void handler_is_called_with_its_events_and_the_lock(void **state) {
    struct fixture *fixture = *state;
    add(fixture, 0, EPOLLIN);
    add(fixture, 1, EPOLLIN);
    assert_int_equal(io_turn(&fixture->io, 0), 0);
    raise_event(&fixture->peers[1]);
    assert_int_equal(io_turn(&fixture->io, -1), 1);
    assert_int_equal(fixture->peers[0].calls, 0);
    assert_int_equal(fixture->peers[1].calls, 1);
    assert_int_equal(fixture->peers[1].events, EPOLLIN);
    assert_int_equal(fixture->locks, 1);
    assert_int_equal(fixture->depth, 0);
}

static void events_last_until_they_are_taken(void **state) {
    struct fixture *fixture = *state;
    eventfd_t value = 0;
    add(fixture, 0, EPOLLIN);
    raise_event(&fixture->peers[0]);
    assert_int_equal(io_turn(&fixture->io, 0), 1);
    assert_int_equal(io_turn(&fixture->io, 0), 1);
    assert_int_equal(eventfd_read(fixture->peers[0].source.fd, &value), 0);
    assert_int_equal(io_turn(&fixture->io, 0), 0);
    assert_int_equal(fixture->peers[0].calls, 2);
}

static void change_says_what_is_waited_for(void **state) {
    struct fixture *fixture = *state;
    add(fixture, 0, EPOLLIN);
    raise_event(&fixture->peers[0]);
    io_change(&fixture->io, &fixture->peers[0].source, 0);
    assert_int_equal(io_turn(&fixture->io, 0), 0);
    io_change(&fixture->io, &fixture->peers[0].source, EPOLLIN | EPOLLOUT);
    assert_int_equal(io_turn(&fixture->io, 0), 1);
    assert_int_equal(fixture->peers[0].events, EPOLLIN | EPOLLOUT);
}

static void removed_source_gets_nothing(void **state) {
    struct fixture *fixture = *state;
    add(fixture, 0, EPOLLIN);
    raise_event(&fixture->peers[0]);
    io_remove(&fixture->io, &fixture->peers[0].source);
    assert_int_equal(io_turn(&fixture->io, 0), 0);
    io_remove(&fixture->io, &fixture->peers[0].source); /* again: nothing happens */
    io_remove(&fixture->io, &fixture->peers[1].source); /* never added; slot 0 is not its own */
    add(fixture, 0, EPOLLIN);
    io_remove(&fixture->io, &fixture->peers[1].source);
    assert_int_equal(io_turn(&fixture->io, 0), 1);
}

/* Two are ready in one turn, and the one that comes first removes the other. */
static void source_removed_in_the_same_turn_gets_nothing(void **state) {
    struct fixture *fixture = *state;
    for (int index = 0; index < 2; index++) {
        add(fixture, index, EPOLLIN);
        raise_event(&fixture->peers[index]);
        fixture->peers[index].victim = &fixture->peers[1 - index];
    }
    assert_int_equal(io_turn(&fixture->io, 0), 2);
    assert_int_equal(fixture->peers[0].calls + fixture->peers[1].calls, 1);
}

/* The same, and a third takes the slot over: the event that was fetched is not for it. */
static void source_added_in_the_same_turn_gets_no_event_of_another(void **state) {
    struct fixture *fixture = *state;
    for (int index = 0; index < 2; index++) {
        add(fixture, index, EPOLLIN);
        raise_event(&fixture->peers[index]);
        fixture->peers[index].victim = &fixture->peers[1 - index];
        fixture->peers[index].heir = &fixture->peers[2];
    }
    assert_int_equal(io_turn(&fixture->io, 0), 2);
    assert_int_equal(fixture->peers[0].calls + fixture->peers[1].calls, 1);
    assert_int_equal(fixture->peers[2].calls, 0);
    raise_event(&fixture->peers[2]);
    assert_int_equal(io_turn(&fixture->io, 0), 2);
    assert_int_equal(fixture->peers[2].calls, 1);
}

static void handler_may_remove_its_own_source(void **state) {
    struct fixture *fixture = *state;
    add(fixture, 0, EPOLLIN);
    raise_event(&fixture->peers[0]);
    fixture->peers[0].victim = &fixture->peers[0];
    assert_int_equal(io_turn(&fixture->io, 0), 1);
    assert_int_equal(io_turn(&fixture->io, 0), 0);
    assert_int_equal(fixture->peers[0].calls, 1);
}

static void run_ends_when_a_handler_stops_it(void **state) {
    struct fixture *fixture = *state;
    add(fixture, 0, EPOLLIN);
    raise_event(&fixture->peers[0]);
    fixture->peers[0].stops = true;
    io_run(&fixture->io);
    assert_int_equal(fixture->peers[0].calls, 1);
}

static void loop_works_without_a_lock(void **state) {
    struct fixture *fixture = *state;
    fixture->io.lock = NULL;
    fixture->io.unlock = NULL;
    add(fixture, 0, EPOLLIN);
    raise_event(&fixture->peers[0]);
    assert_int_equal(io_turn(&fixture->io, 0), 1);
    assert_int_equal(fixture->locks, 0);
}

static void sources_are_bounded(void **state) {
    struct fixture *fixture = *state;
    struct kelpie_error err;
    for (int slot = 1; slot < VMM_IO_SOURCE_COUNT_MAX; slot++) {
        fixture->io.sources[slot] = &fixture->peers[0].source;
    }
    add(fixture, 1, EPOLLIN);
    assert_int_equal(io_add(&fixture->io, &fixture->peers[2].source, EPOLLIN, &err),
                     KELPIE_NO_SPACE);
    io_remove(&fixture->io, &fixture->peers[1].source);
    add(fixture, 2, EPOLLIN);
}

static void what_cannot_be_waited_for_is_an_error(void **state) {
    struct fixture *fixture = *state;
    struct kelpie_error err;
    struct io_source source = {.fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC),
                               .handler = handle};
    assert_true(source.fd >= 0);
    assert_int_equal(io_add(&fixture->io, &source, EPOLLIN, &err), KELPIE_IO_FAILED);
    close(source.fd);
    assert_int_equal(io_add(&fixture->io, &source, EPOLLIN, &err), KELPIE_IO_FAILED);
    io_remove(&fixture->io, &source);
    add(fixture, 0, EPOLLIN); /* the slot is free still */
    assert_int_equal(fixture->peers[0].source.slot, 0);
}

static void deinit_takes_what_init_did_not_make(void **state) {
    (void)state;
    struct io io = {0};
    io_deinit(&io);
    assert_int_equal(io_init(&io, NULL), KELPIE_OK);
    io_deinit(&io);
    io_deinit(&io);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(handler_is_called_with_its_events_and_the_lock, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(events_last_until_they_are_taken, setup, teardown),
        cmocka_unit_test_setup_teardown(change_says_what_is_waited_for, setup, teardown),
        cmocka_unit_test_setup_teardown(removed_source_gets_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(source_removed_in_the_same_turn_gets_nothing, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(source_added_in_the_same_turn_gets_no_event_of_another,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(handler_may_remove_its_own_source, setup, teardown),
        cmocka_unit_test_setup_teardown(run_ends_when_a_handler_stops_it, setup, teardown),
        cmocka_unit_test_setup_teardown(loop_works_without_a_lock, setup, teardown),
        cmocka_unit_test_setup_teardown(sources_are_bounded, setup, teardown),
        cmocka_unit_test_setup_teardown(what_cannot_be_waited_for_is_an_error, setup, teardown),
        cmocka_unit_test(deinit_takes_what_init_did_not_make),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
