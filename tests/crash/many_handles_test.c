/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* A VM that is opened, used and closed again and again: nothing of a handle stays in its owner, its session numbers least of all. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "../support/kelpie.h"
#include "kelpie_store.h"

#define HANDLE_COUNT 5000 /* more than an owner could keep anything of */
#define EXEC_PERIOD 50    /* a command in each so many-th */

static int create_home(void **state) {
    (void)state;
    kelpie_home_create();
    return 0;
}

static int remove_home(void **state) {
    (void)state;
    return kelpie_home_remove();
}

static void use(struct kelpie_vm *vm, size_t number) {
    struct kelpie_error err = {0};
    struct kelpie_output output = {0};
    uint64_t ns = 0;
    const struct kelpie_command command = {.argv = WORDS("echo", "here")};
    enum kelpie_status status = kelpie_vm_ping(vm, &ns, &err);
    if (status == KELPIE_OK && number % EXEC_PERIOD == 0) {
        status = kelpie_vm_exec(vm, &command, &output, &err);
    }
    if (status != KELPIE_OK) {
        fail_msg("handle %zu: %s", number, err.message);
    }
    kelpie_output_free(&output);
}

static void a_vm_is_opened_thousands_of_times(void **state) {
    (void)state;
    const char *asked = getenv("KELPIE_HANDLES"); /* 70000 goes once around the numbers */
    size_t count = asked ? strtoul(asked, NULL, 10) : HANDLE_COUNT;
    struct kelpie_result result =
        kelpie_run(WORDS("create", "--backend", "mock", "--name", "web"), NULL);
    assert_int_equal(result.code, 0);
    result = kelpie_run(WORDS("start", "web"), NULL);
    assert_int_equal(result.code, 0);
    for (size_t i = 0; i < count; i++) {
        struct kelpie_error err = {0};
        struct kelpie_vm *vm = NULL;
        if (kelpie_vm_open(NULL, "web", &vm, &err) != KELPIE_OK) {
            fail_msg("handle %zu: %s", i, err.message);
        }
        use(vm, i);
        kelpie_vm_close(vm);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_vm_is_opened_thousands_of_times, create_home,
                                        remove_home),
    };
    return cmocka_run_group_tests_name("crash/many_handles", tests, NULL, NULL);
}
