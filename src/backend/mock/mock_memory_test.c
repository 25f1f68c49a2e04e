/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* A guest whose host runs out of memory, at each allocation in turn: a command may fail or be killed, and the guest lives. */
#include "backend/mock/mock_harness_test.h"
#include "backend/mock/mock_state.h"
#include "base/assert.h"
#include "support/fault_host.h"

#define NTH_MAX 5000

static const char *const scripts[] = {
    "export A=1 B=2; C=3; A=4 env > /tmp/e; D=\"$A b\"; echo $D ${C} $((A+C)) >> /tmp/e; unset A",
    "if cat < /tmp/e > /tmp/f 2>&1; then nope 2> /dev/null; else :; fi; echo x > /tmp/g 2>&1",
    "sleep 0.001 & sh -c 'echo $0 $1' a b; wait; cd /tmp; mkdir d; write d/f text; ls d; rm d/f",
    "/tmp/script one two; exec cat /tmp/e",
};

static void send_file(struct mock_guest *guest, uint32_t id, const char *path, const char *text) {
    const struct protocol_file_put put = {.path = path, .mode = 0755, .size = strlen(text)};
    const struct protocol_data data = {.stream = PROTOCOL_STDIN,
                                       .flags = PROTOCOL_DATA_END,
                                       .bytes = (const uint8_t *)text,
                                       .size = strlen(text)};
    struct cursor_writer writer = harness_writer();
    protocol_encode_file_put(&writer, id, &put);
    protocol_encode_data(&writer, id, &data);
    harness_receive(guest, writer.data, writer.size);
}

static void live(struct mock_guest *guest) {
    send_file(guest, 1, "/tmp/script", "#!/bin/sh\necho $0 $1 $2\n");
    for (uint32_t i = 0; i < ARRAY_SIZE(scripts); i++) {
        harness_exec(guest, 2 + i, 0, SHELL(scripts[i]));
        harness_run(guest, 3);
    }
    struct cursor_writer writer = harness_writer();
    protocol_encode_file_get(&writer, 9, &(struct protocol_file_get){.path = "/tmp/e"});
    harness_receive(guest, writer.data, writer.size);
    harness_exec(guest, 10, PROTOCOL_EXEC_TTY | PROTOCOL_EXEC_STDIN, ARGV("cat"));
    writer = harness_writer();
    const struct protocol_data keys = {
        .stream = PROTOCOL_STDIN, .bytes = (const uint8_t *)"a line\nand", .size = 10};
    protocol_encode_data(&writer, 10, &keys);
    harness_receive(guest, writer.data, writer.size);
    harness_exec(guest, 11, 0, SHELL("trap '' TERM; while true; do sleep 9; done > /tmp/out"));
    harness_run(guest, 3);
}

/* Saves it, and loads it into another. What was saved is never called damaged. */
static void pass_on(struct host *host, const struct mock_guest *guest) {
    struct mock_bytes bytes = mock_bytes_init(host);
    struct mock_guest *other = NULL;
    struct kelpie_error err = {0};
    if (mock_state_save(guest, &bytes, &err) == KELPIE_OK &&
        mock_guest_create(host, HARNESS_MEMORY_BYTES, &other, &err) == KELPIE_OK &&
        mock_state_load(other, bytes.data, bytes.size, &err) == KELPIE_OK) {
        assert_int_equal(other->session_count, guest->session_count);
    } else {
        assert_int_equal(err.status, KELPIE_NO_MEMORY);
    }
    mock_bytes_deinit(&bytes);
    mock_guest_destroy(other);
}

/* Whether the fault fired. */
static bool run_once(struct host *host, uint64_t nth, bool sticky) {
    struct mock_guest *guest = NULL;
    struct kelpie_error err = {0};
    fault_host_arm(
        host, &(struct fault_plan){
                  .nth = nth, .sticky = sticky, .only = "allocate", .status = KELPIE_NO_MEMORY});
    bool made = mock_guest_create(host, HARNESS_MEMORY_BYTES, &guest, &err) == KELPIE_OK &&
                mock_guest_boot(guest, &err) == KELPIE_OK;
    if (made) {
        harness_hello(guest);
        live(guest);
        pass_on(host, guest);
    }
    bool fired = fault_host_fired(host);
    fault_host_disarm(host);
    assert_true(made || fired);
    if (made) { /* with memory again, it does what it is told */
        char out[64];
        harness_hello(guest);
        harness_exec(guest, 99, 0, SHELL("echo alive"));
        harness_run(guest, 5);
        harness_output(guest, guest->session_count - 1, MOCK_OUT, out, sizeof(out));
        assert_string_equal(out, "alive\n");
        pass_on(host, guest);
    }
    mock_guest_destroy(guest);
    return fired;
}

static void sweep(bool sticky) {
    struct host *inner = NULL;
    struct host *host = NULL;
    assert_int_equal(host_linux_create(&inner, NULL), KELPIE_OK);
    assert_int_equal(fault_host_create(inner, &host, NULL), KELPIE_OK);
    uint64_t nth = 1;
    while (run_once(host, nth, sticky)) {
        nth++;
        assert_true(nth < NTH_MAX);
    }
    print_message("%llu allocations failed in turn\n", (unsigned long long)nth - 1);
    assert_true(nth > 100);
    host_destroy(host);
    host_destroy(inner);
}

static void each_allocation_fails_once(void **state) {
    (void)state;
    sweep(false);
}

static void each_allocation_and_all_behind_it_fail(void **state) {
    (void)state;
    sweep(true);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_allocation_fails_once),
        cmocka_unit_test(each_allocation_and_all_behind_it_fail),
    };
    return cmocka_run_group_tests_name("mock_memory", tests, NULL, NULL);
}
