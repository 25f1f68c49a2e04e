/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Each fault of the scripted Firecracker, as its client sees it. */
#include "support/firecracker_client.h"

/* For the leak sanitizer: a process that is killed leaves its memory behind, and here most are killed. */
__attribute__((visibility("default"))) int __lsan_is_turned_off(void);
int __lsan_is_turned_off(void) {
    return 1;
}

#define SEED_COUNT 24 /* each chooses what kind of the fault it is */
#define STORM_COUNT 200

static void let_happen(struct rig *rig, enum sim_fault fault, bool happens) {
    rig->world->faults.ppm[fault] = happens ? SIM_PPM : 0;
}

static void body_silent(struct rig *rig) {
    boot(rig, false);
    let_happen(rig, SIM_FAULT_PEER_SILENT, true);
    send_request(rig, "GET", "/version", NULL);
    assert_int_equal(read_answer(rig, WAIT_MS), SILENT);
    let_happen(rig, SIM_FAULT_PEER_SILENT, false);
    assert_true(pings(rig, 1)); /* the guest does not care */
    assert_int_equal(rig->world->faults.fired[SIM_FAULT_PEER_SILENT], 1);
}

static void a_silent_one_does_not_answer(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < SEED_COUNT; seed++) {
        run_seed_of(seed, body_silent);
    }
}

static void body_slow(struct rig *rig) {
    boot(rig, false);
    let_happen(rig, SIM_FAULT_PEER_SLOW, true);
    uint64_t before_ns = host_monotonic_ns(rig->host);
    send_request(rig, "GET", "/version", NULL);
    assert_true(pings(rig, 1));
    assert_int_equal(read_answer(rig, WAIT_MS), ANSWERED);
    uint64_t ms = (host_monotonic_ns(rig->host) - before_ns) / HOST_NS_PER_MS;
    assert_in_range(ms, 1000, FIRECRACKER_SLOW_S_MAX * 1000 + SHORT_MS);
    assert_int_equal(rig->status, 200);
}

static void a_slow_one_answers_late_and_its_guest_does_not(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < SEED_COUNT; seed++) {
        run_seed_of(seed, body_slow);
    }
}

static void body_refuses(struct rig *rig) {
    open_firecracker(rig);
    let_happen(rig, SIM_FAULT_PEER_REFUSES, true);
    uint32_t status = ask(rig, "PUT", "/boot-source", "{\"kernel_image_path\":\"/tmp/kernel\"}");
    let_happen(rig, SIM_FAULT_PEER_REFUSES, false);
    assert_true(status == 400 || status == 500);
    assert_non_null(strstr(rig->answer, "fault_message"));
    refuses(rig, "PUT", "/actions", START, "without kernel"); /* it was not done */
}

static void one_that_refuses_does_nothing(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < SEED_COUNT; seed++) {
        run_seed_of(seed, body_refuses);
    }
}

static void body_garbage(struct rig *rig) {
    open_firecracker(rig);
    let_happen(rig, SIM_FAULT_PEER_GARBAGE, true);
    send_request(rig, "PUT", "/boot-source", "{\"kernel_image_path\":\"/tmp/kernel\"}");
    assert_int_not_equal(read_answer(rig, SHORT_MS), ANSWERED);
    let_happen(rig, SIM_FAULT_PEER_GARBAGE, false);
    hang_up(rig);
    call(rig);
    takes(rig, "PUT", "/actions", START); /* it was done */
}

static void garbage_is_no_answer(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < SEED_COUNT; seed++) {
        run_seed_of(seed, body_garbage);
    }
}

static void body_dies(struct rig *rig) {
    open_firecracker(rig);
    let_happen(rig, SIM_FAULT_PEER_DIES, true);
    send_request(rig, "GET", "/version", NULL);
    assert_int_equal(read_answer(rig, WAIT_MS), BROKEN);
    const struct host_process_exit end = await_end(rig);
    assert_true(end.signal != 0 || end.code == 1);
    assert_int_equal(strstr(listen_to(rig), "RunWithApiError") != NULL, end.signal == 0);
}

static void one_that_dies_does_not_answer(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < SEED_COUNT; seed++) {
        run_seed_of(seed, body_dies);
    }
}

static void body_chatters(struct rig *rig) {
    open_firecracker(rig);
    (void)listen_to(rig);
    size_t before = rig->said_size;
    let_happen(rig, SIM_FAULT_PEER_CHATTERS, true);
    takes(rig, "GET", "/version", NULL);
    (void)listen_to(rig);
    assert_true(rig->said_size > before);
    assert_int_equal(rig->said[before], '['); /* the first byte of a line of the log */
}

static void one_that_chatters_answers(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < SEED_COUNT; seed++) {
        run_seed_of(seed, body_chatters);
    }
}

/* ---- All of them ------------------------------------------------------------------------------ */

/* A request whose answer does not matter. True: there was one. */
static bool try_ask(struct rig *rig, const char *method, const char *path, const char *body) {
    const struct host_wait wait = host_wait_ms(rig->host, SHORT_MS, HOST_FD_NONE);
    char text[TEXT_SIZE];
    struct kelpie_error err;
    if (rig->api_fd == HOST_FD_NONE &&
        host_socket_connect(rig->host, API, &wait, &rig->api_fd, &err) != KELPIE_OK) {
        pass(rig, 1000);
        return false;
    }
    snprintf(text, sizeof(text), "%s %s HTTP/1.1\r\nContent-Length: %zu\r\n\r\n%s", method, path,
             strlen(body), body);
    if (host_write_all(rig->host, rig->api_fd, text, strlen(text), &wait, &err) != KELPIE_OK ||
        read_answer(rig, FIRECRACKER_SLOW_S_MAX * 1000 / 4) != ANSWERED) {
        hang_up(rig);
        return false;
    }
    return true;
}

static void try_life(struct rig *rig) {
    static const struct {
        const char *method;
        const char *path;
        const char *body;
    } steps[] = {
        {"GET", "/", ""},
        {"PUT", "/boot-source", "{\"kernel_image_path\":\"/tmp/kernel\"}"},
        {"PUT", "/vsock", "{\"guest_cid\":3,\"uds_path\":\"" VSOCK "\"}"},
        {"PUT", "/machine-config", "{\"vcpu_count\":1,\"mem_size_mib\":8}"},
        {"PUT", "/actions", START},
        {"PATCH", "/vm", PAUSE},
        {"PUT", "/snapshot/create", "{\"snapshot_path\":\"/tmp/s\",\"mem_file_path\":\"/tmp/m\"}"},
        {"PATCH", "/vm", RESUME},
        {"PATCH", "/vm", PAUSE},
        {"PUT", "/snapshot/create",
         "{\"snapshot_path\":\"/tmp/s\",\"mem_file_path\":\"/tmp/m\",\"snapshot_type\":\"Diff\"}"},
        {"PUT", "/snapshot/load",
         "{\"snapshot_path\":\"/tmp/s\",\"mem_file_path\":\"/tmp/m\",\"resume_vm\":true}"},
        {"PUT", "/actions", "{\"action_type\":\"SendCtrlAltDel\"}"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
        (void)try_ask(rig, steps[i].method, steps[i].path, steps[i].body);
        (void)listen_to(rig);
        rig->said_size = 0;
    }
}

/* A life, and another one that begins with the snapshot of the first, if there is one. */
static void body_storm(struct rig *rig) {
    for (int i = 0; i < 2; i++) {
        struct kelpie_error err;
        int fd = HOST_FD_NONE;
        const struct host_wait none = host_wait_none();
        spawn(rig, "--api-sock", API);
        if (i == 0) {
            listen_for_guest(rig);
        } else {
            (void)try_ask(rig, "PUT", "/snapshot/load",
                          "{\"snapshot_path\":\"/tmp/s\",\"mem_file_path\":\"/tmp/m\"}");
        }
        try_life(rig);
        while (host_socket_accept(rig->host, rig->listen_fd, &none, &fd, &err) == KELPIE_OK) {
            host_close(rig->host, fd);
        }
        hang_up(rig);
        host_process_destroy(rig->firecracker);
        rig->firecracker = NULL;
        shut(rig, &rig->out_fd);
        (void)!host_path_unlink(rig->host, API, &err);
        (void)!host_path_unlink(rig->host, VSOCK, &err);
    }
}

/* Nothing of it may end in an assertion, a descriptor that is left, or a world that stands still. */
static void it_survives_every_fault_of_the_world(void **state) {
    size_t answer_count = 0;
    (void)state;
    for (uint64_t seed = 0; seed < STORM_COUNT; seed++) {
        answer_count += run_rig(seed, body_storm, true, false);
    }
    print_message("%zu answers in %d lives\n", answer_count, 2 * STORM_COUNT);
    assert_true(answer_count > 2 * STORM_COUNT); /* it got somewhere */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_silent_one_does_not_answer),
        cmocka_unit_test(a_slow_one_answers_late_and_its_guest_does_not),
        cmocka_unit_test(one_that_refuses_does_nothing),
        cmocka_unit_test(garbage_is_no_answer),
        cmocka_unit_test(one_that_dies_does_not_answer),
        cmocka_unit_test(one_that_chatters_answers),
        cmocka_unit_test(it_survives_every_fault_of_the_world),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
