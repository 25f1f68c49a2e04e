/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What was read over a relay and is not: whose reader came back for more, let go, or died with it in its hands. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"
#include "support/owner_vm.h"

#define ARGV(...) ((const char *const[]){__VA_ARGS__, NULL})
#define OK(call) assert_int_equal(call, KELPIE_OK)
#define WAIT_MS 10000

static int forget(void **state) {
    (void)state;
    owner_vm_forget();
    return 0;
}

/* One read, which gives all of it. */
static void read_one(struct kelpie_exec *exec, const char *text) {
    char buffer[64];
    struct kelpie_chunk chunk = {.buffer = buffer, .size = sizeof(buffer)};
    OK(kelpie_exec_read(exec, &chunk, WAIT_MS, NULL));
    assert_int_equal(chunk.size, strlen(text));
    assert_memory_equal(buffer, text, chunk.size);
}

static void write_all(struct kelpie_exec *exec, const char *text) {
    size_t written = 0;
    OK(kelpie_exec_write(exec, text, strlen(text), &written, NULL));
    assert_int_equal(written, strlen(text));
}

enum end { DIES, COMES_BACK_AND_DIES, DETACHES };

/* The text that another handle reads after "abc" was read and "def" was written. */
static void read_and_end(enum end end, const char *comes_again) {
    struct kelpie_error err = {0};
    const struct kelpie_config config = {.name = "a", .backend = "mock", .memory_mib = 64};
    const struct kelpie_command command = {.argv = ARGV("cat"), .stdin_open = true};
    struct kelpie_vm *a = owner_vm_create(&config, &err);
    assert_non_null(a);
    OK(kelpie_vm_start(a, NULL));
    struct kelpie_vm *b = owner_vm_open("a", &err);
    assert_non_null(b);
    struct kelpie_exec *exec = NULL;
    uint64_t ns = 0;
    OK(kelpie_exec_start(b, &command, &exec, NULL));
    const uint32_t id = kelpie_exec_id(exec);
    write_all(exec, "abc");
    read_one(exec, "abc");
    if (end == COMES_BACK_AND_DIES) {
        char byte;
        struct kelpie_chunk chunk = {.buffer = &byte, .size = 1};
        assert_int_equal(kelpie_exec_read(exec, &chunk, 20, NULL), KELPIE_TIMED_OUT);
    }
    if (end == DETACHES) {
        kelpie_exec_detach(exec);
    } else {
        OK(kelpie_vm_ping(b, &ns, NULL)); /* what was said has arrived */
        vm_lock(b);                       /* it says nothing any more */
        vm_channel_break(b, "killed");
        vm_unlock(b);
        kelpie_exec_detach(exec);
    }
    kelpie_vm_close(b);
    OK(kelpie_exec_attach(a, id, &exec, NULL));
    if (comes_again[0]) {
        read_one(exec, comes_again);
    }
    write_all(exec, "def");
    read_one(exec, "def");
    kelpie_exec_close(exec);
    kelpie_vm_destroy(a);
}

static void hazard_c6_what_a_dead_reader_had_in_its_hands(void **state) {
    (void)state;
    read_and_end(DIES, "abc");
}

static void test_a_reader_that_came_back(void **state) {
    (void)state;
    read_and_end(COMES_BACK_AND_DIES, "");
}

static void test_a_reader_that_let_go(void **state) {
    (void)state;
    read_and_end(DETACHES, "");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(hazard_c6_what_a_dead_reader_had_in_its_hands, forget),
        cmocka_unit_test_teardown(test_a_reader_that_came_back, forget),
        cmocka_unit_test_teardown(test_a_reader_that_let_go, forget),
    };
    return cmocka_run_group_tests_name("owned reads", tests, NULL, NULL);
}
