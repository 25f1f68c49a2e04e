/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* An owner on a thread of this process, spoken to by hand: what no handle of ours would say. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kelpie_store.h"
#include "supervise/control.h"
#include "support/store_fixture.h"

#define WAIT_MS 10000
#define ROUNDS 20

struct rig {
    struct host *host;
    int fd;        /* the maker's end */
    int owners_fd; /* the owner's, and its to close */
    struct control_reader reader;
    struct host_thread *thread;
    int code;
};

static void owner_main(void *argument) {
    struct rig *rig = argument;
    rig->code = kelpie_supervise(rig->host, rig->owners_fd, HOST_FD_NONE);
}

static void rig_open(struct rig *rig, struct host *host) {
    int fds[2];
    *rig = (struct rig){.host = host, .code = -1};
    assert_int_equal(host_socket_pair(host, fds, NULL), KELPIE_OK);
    rig->fd = fds[0];
    rig->owners_fd = fds[1];
    control_reader_init(&rig->reader, host, rig->fd);
    assert_int_equal(host_thread_start(host, "owner", owner_main, rig, &rig->thread, NULL),
                     KELPIE_OK);
}

static void rig_close(struct rig *rig) {
    host_thread_join(rig->thread);
    control_reader_deinit(&rig->reader);
    host_close(rig->host, rig->fd);
}

static void say(struct rig *rig, json_t *json) {
    struct host_wait wait = host_wait_ms(rig->host, WAIT_MS, HOST_FD_NONE);
    assert_int_equal(control_send(rig->host, rig->fd, json, HOST_FD_NONE, &wait, NULL), KELPIE_OK);
    json_decref(json);
}

/* The status of the next answer; CANCELLED: the owner has gone. Events are counted. */
static enum kelpie_status hear(struct rig *rig, int *ready_count) {
    for (;;) { /* until the deadline */
        struct host_wait wait = host_wait_ms(rig->host, WAIT_MS, HOST_FD_NONE);
        struct control_message message = {.fd = HOST_FD_NONE};
        struct kelpie_error err = {0};
        enum kelpie_status status = control_receive(&rig->reader, &wait, &message, NULL);
        assert_int_not_equal(status, KELPIE_TIMED_OUT);
        if (status != KELPIE_OK) {
            return KELPIE_CANCELLED;
        }
        const json_t *error = json_object_get(message.json, "error");
        *ready_count += strcmp(control_text(message.json, "event"), "ready") == 0;
        if (error) {
            assert_int_equal(store_json_to(STORE_JSON_ERROR, error, &err, NULL), KELPIE_OK);
        }
        control_message_clear(rig->host, &message);
        if (error) {
            return err.status;
        }
    }
}

static json_t *create_request(const char *name, int version) {
    const struct kelpie_owner owner = {.remove = true};
    const struct kelpie_config config = {.name = name, .backend = "mock", .owner = &owner};
    json_t *json = NULL;
    assert_int_equal(store_json_config(&config, &json, NULL), KELPIE_OK);
    return json_pack("{s:s, s:i, s:i, s:o}", "op", "create", "id", 1, "version", version, "config",
                     json);
}

/* Until the first request has been read: what comes with it is not the next. */
static void await_begun(const struct store_fixture *fixture, const char *name) {
    enum kelpie_status status = KELPIE_NOT_FOUND;
    for (int i = 0; i < WAIT_MS && status != KELPIE_OK; i++) {
        struct store_record *record = NULL;
        bool owned = false;
        struct host_wait pause = host_wait_ms(fixture->host, 1, HOST_FD_NONE);
        (void)!host_sleep(fixture->host, &pause, NULL);
        status = store_vm_read(fixture->store, name, &record, &owned, NULL);
        store_record_destroy(record);
    }
    assert_int_equal(status, KELPIE_OK);
}

/* A maker need not wait for its answer before it says hello: it is greeted, and the owner lives. */
static void hazard_e4_a_maker_that_says_hello_too_soon(void **state) {
    const struct store_fixture *fixture = *state;
    for (int i = 0; i < ROUNDS; i++) {
        struct rig rig;
        int ready_count = 0;
        rig_open(&rig, fixture->host);
        say(&rig, create_request("hasty", CONTROL_VERSION));
        await_begun(fixture, "hasty");
        say(&rig, json_pack("{s:s, s:i, s:i}", "op", "hello", "id", 2, "version", CONTROL_VERSION));
        assert_int_equal(hear(&rig, &ready_count), KELPIE_OK);
        /* Too late to be a greeting, it is a request that nobody knows. */
        enum kelpie_status second = hear(&rig, &ready_count);
        assert_true(second == KELPIE_OK || second == KELPIE_UNSUPPORTED);
        say(&rig, json_pack("{s:s, s:i}", "op", "end", "id", 3));
        /* It goes at once, with or without an answer. */
        while (hear(&rig, &ready_count) != KELPIE_CANCELLED) {
        }
        assert_int_equal(ready_count, 1);
        rig_close(&rig);
        assert_int_equal(rig.code, 0);
    }
}

static void test_another_version_is_refused(void **state) {
    const struct store_fixture *fixture = *state;
    struct rig rig;
    int ready_count = 0;
    rig_open(&rig, fixture->host);
    say(&rig, create_request("newer", CONTROL_VERSION + 1));
    assert_int_equal(hear(&rig, &ready_count), KELPIE_INTERNAL);
    rig_close(&rig);
    assert_int_equal(rig.code, 1);
    struct store_record *record = NULL;
    bool owned = false;
    assert_int_equal(store_vm_read(fixture->store, "newer", &record, &owned, NULL),
                     KELPIE_NOT_FOUND);
}

static int set_up(void **state) {
    static struct store_fixture fixture;
    *state = &fixture;
    return store_fixture_set_up(&fixture) ? 0 : -1;
}

static int tear_down(void **state) {
    return store_fixture_tear_down(*state) ? 0 : -1;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hazard_e4_a_maker_that_says_hello_too_soon),
        cmocka_unit_test(test_another_version_is_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
