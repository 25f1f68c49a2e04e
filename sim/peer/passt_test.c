/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The scripted passt, as the monitors' network starts it and waits for it, in a simulated world. */
#include "sim/peer/passt.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/monitor/monitor_network.h"
#include "base/assert.h"
#include "sim/world.h"

struct rig {
    enum sim_fault fault; /* SIM_FAULT_COUNT: none */
    struct host *host;
    struct sim_world *world;
    enum kelpie_status status; /* of the wait for its answer */
    struct kelpie_error err;
    uint64_t taken_ms;
    bool ended; /* by itself, within two minutes */
};

static void use_network(struct rig *rig) {
    const struct kelpie_network kind = {.kind = KELPIE_NETWORK_USER, .mac = "02:00:00:00:00:07"};
    const struct kelpie_config config = {.network = &kind};
    struct monitor_network network;
    monitor_network_init(&network, rig->host, &config);
    assert_int_equal(monitor_network_open(&network, &rig->err), KELPIE_OK);
    struct host_wait wait = host_wait_ms(rig->host, 60000, HOST_FD_NONE);
    const uint64_t start_ns = host_monotonic_ns(rig->host);
    rig->status = monitor_network_await(&network, &wait, &rig->err);
    rig->taken_ms = (host_monotonic_ns(rig->host) - start_ns) / HOST_NS_PER_MS;
    struct host_process_exit end;
    struct kelpie_error ignored;
    wait = host_wait_ms(rig->host, 120000, HOST_FD_NONE);
    rig->ended = host_process_wait(network.process, &wait, &end, &ignored) == KELPIE_OK;
    monitor_network_handed_over(&network); /* nobody has it: an honest one ends now */
    wait = host_wait_ms(rig->host, 60000, HOST_FD_NONE);
    assert_int_equal(host_process_wait(network.process, &wait, &end, &ignored), KELPIE_OK);
    monitor_network_close(&network);
}

static int rig_main(void *argument) {
    use_network(argument);
    return 0;
}

/* One life of it, in which that fault happens whenever it is asked about. */
static struct rig run_rig(uint64_t seed, enum sim_fault fault) {
    struct rig rig = {.fault = fault};
    const struct sim_options options = {.seed = seed};
    const struct sim_process_options process_options = {
        .name = "test", .main = rig_main, .argument = &rig};
    rig.world = sim_world_create(&options);
    assert_non_null(rig.world);
    struct sim_machine *machine = sim_machine_create(rig.world, "host");
    assert_non_null(machine);
    assert_true(sim_machine_furnish(machine));
    if (fault != SIM_FAULT_COUNT) {
        rig.world->faults.ppm[fault] = SIM_PPM;
    }
    struct sim_process *process = sim_process_start(machine, &process_options);
    assert_non_null(process);
    rig.host = &process->host;
    assert_int_equal(sim_world_run(rig.world), SIM_END_QUIET);
    assert_string_equal(rig.world->failure, "");
    sim_process_forget(process);
    sim_world_destroy(rig.world);
    return rig;
}

static void test_it_answers_and_ends_with_its_socket(void **state) {
    (void)state;
    struct rig rig = run_rig(1, SIM_FAULT_COUNT);
    assert_int_equal(rig.status, KELPIE_OK);
    assert_true(rig.taken_ms <= PEER_PASST_START_MS_MAX + 10);
    assert_false(rig.ended);
}

static void test_a_slow_one_answers_in_the_end(void **state) {
    (void)state;
    struct rig rig = run_rig(1, SIM_FAULT_PEER_SLOW);
    assert_int_equal(rig.status, KELPIE_OK);
    assert_true(rig.taken_ms >= 1000);
}

static void test_a_silent_one_does_not(void **state) {
    (void)state;
    struct rig rig = run_rig(1, SIM_FAULT_PEER_SILENT);
    assert_int_equal(rig.status, KELPIE_TIMED_OUT);
    assert_false(rig.ended);
}

static void test_one_that_refuses_says_why(void **state) {
    (void)state;
    struct rig rig = run_rig(1, SIM_FAULT_PEER_REFUSES);
    assert_int_equal(rig.status, KELPIE_BOOT_FAILED);
    assert_string_equal(rig.err.field, "network");
    assert_non_null(strstr(rig.err.message, "failed to bind"));
}

static void test_an_answer_that_is_none(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 8; seed++) {
        assert_int_equal(run_rig(seed, SIM_FAULT_PEER_GARBAGE).status, KELPIE_INTERNAL);
    }
}

static void test_one_that_dies_has_answered(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 8; seed++) {
        struct rig rig = run_rig(seed, SIM_FAULT_PEER_DIES);
        assert_int_equal(rig.status, KELPIE_OK);
        assert_true(rig.ended);
    }
}

static void test_chatter_does_no_harm(void **state) {
    (void)state;
    struct rig rig = run_rig(1, SIM_FAULT_PEER_CHATTERS);
    assert_int_equal(rig.status, KELPIE_OK);
    assert_false(rig.ended);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_it_answers_and_ends_with_its_socket),
        cmocka_unit_test(test_a_slow_one_answers_in_the_end),
        cmocka_unit_test(test_a_silent_one_does_not),
        cmocka_unit_test(test_one_that_refuses_says_why),
        cmocka_unit_test(test_an_answer_that_is_none),
        cmocka_unit_test(test_one_that_dies_has_answered),
        cmocka_unit_test(test_chatter_does_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
