/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The ring-0 payload on whatever /dev/kvm there is. */
#include "host/host_kvm.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

#define BUDGET_NS 20000000ull
#define LATE_NS 2000000000ull /* how late an answer may be on a busy machine */

/* Each ends the test early, and says so, where KVM cannot be used at all. */
static bool kvm_is_here(struct host *host) {
    uint64_t ns = 0;
    struct kelpie_error err;
    enum kelpie_status status = host_kvm_probe(host, BUDGET_NS, &ns, &err);
    if (status != KELPIE_OK) {
        assert_true(status == KELPIE_NOT_FOUND || status == KELPIE_IO_FAILED ||
                    status == KELPIE_UNSUPPORTED);
        assert_true(err.message[0] != 0);
        print_message("skipped: %s\n", err.message);
        skip();
    }
    return status == KELPIE_OK;
}

static int setup(void **state) {
    struct host *host = NULL;
    assert_int_equal(host_linux_create(&host, NULL), KELPIE_OK);
    *state = host;
    return 0;
}

static int teardown(void **state) {
    host_destroy(*state);
    return 0;
}

static void payload_ends_or_is_cut_off_in_time(void **state) {
    struct host *host = *state;
    if (!kvm_is_here(host)) {
        return;
    }
    uint64_t ns = 0;
    uint64_t start_ns = host_monotonic_ns(host);
    /* Another budget than before: the answer to that one is remembered. */
    assert_int_equal(host_kvm_probe(host, BUDGET_NS - 1, &ns, NULL), KELPIE_OK);
    assert_true(ns > 0);
    assert_true(host_monotonic_ns(host) - start_ns < LATE_NS);
    print_message("ring 0: %llu us\n", (unsigned long long)(ns / 1000));
}

/* No processor runs the payload in a microsecond: this one is always cut off. */
static void payload_beyond_its_budget_says_so(void **state) {
    struct host *host = *state;
    if (!kvm_is_here(host)) {
        return;
    }
    uint64_t ns = 0;
    assert_int_equal(host_kvm_probe(host, 1000, &ns, NULL), KELPIE_OK);
    assert_true(ns >= 1000);
}

/* Two looks never take the same number of nanoseconds. */
static void answer_is_remembered_for_its_budget(void **state) {
    struct host *host = *state;
    if (!kvm_is_here(host)) {
        return;
    }
    uint64_t first_ns = 0;
    uint64_t again_ns = 0;
    assert_int_equal(host_kvm_probe(host, 1000, &first_ns, NULL), KELPIE_OK);
    assert_int_equal(host_kvm_probe(host, 1000, &again_ns, NULL), KELPIE_OK);
    assert_true(first_ns == again_ns);
}

static void signals_of_the_caller_stay_as_they_are(void **state) {
    struct host *host = *state;
    if (!kvm_is_here(host)) {
        return;
    }
    uint64_t ns = 0;
    sigset_t before;
    sigset_t after;
    sigset_t pending;
    assert_int_equal(pthread_sigmask(SIG_SETMASK, NULL, &before), 0);
    assert_int_equal(host_kvm_probe(host, 1000, &ns, NULL), KELPIE_OK);
    assert_int_equal(pthread_sigmask(SIG_SETMASK, NULL, &after), 0);
    assert_int_equal(sigpending(&pending), 0);
    for (int number = 1; number <= SIGRTMAX; number++) {
        assert_int_equal(sigismember(&before, number), sigismember(&after, number));
        assert_int_not_equal(sigismember(&pending, number), 1);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(payload_ends_or_is_cut_off_in_time, setup, teardown),
        cmocka_unit_test_setup_teardown(payload_beyond_its_budget_says_so, setup, teardown),
        cmocka_unit_test_setup_teardown(answer_is_remembered_for_its_budget, setup, teardown),
        cmocka_unit_test_setup_teardown(signals_of_the_caller_stay_as_they_are, setup, teardown),
    };
    return cmocka_run_group_tests_name("host_linux_kvm", tests, NULL, NULL);
}
