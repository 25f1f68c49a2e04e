/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Which faults are left out, and what is told of those that fire. */
#include "sim/fault.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"

#define QUESTION_COUNT 200
#define RATE_PPM 300000

struct answers {
    bool fired[SIM_FAULT_COUNT][QUESTION_COUNT];
};

static void ask_all(struct sim_faults *faults, struct answers *ret_answers) {
    for (uint32_t n = 0; n < QUESTION_COUNT; n++) {
        for (unsigned i = 0; i < SIM_FAULT_COUNT; i += 7) {
            faults->ppm[i] = RATE_PPM;
            ret_answers->fired[i][n] = sim_faults_ask(faults, (enum sim_fault)i);
        }
    }
}

static void only_what_is_allowed_fires(void **state) {
    (void)state;
    static struct sim_faults faults;
    static struct answers all;
    static struct answers some;
    struct sim_fault_event allowed[40];
    size_t count = 0;
    sim_faults_init(&faults, 9);
    ask_all(&faults, &all);
    for (uint32_t i = 0; i < SIM_FAULT_COUNT && count < ARRAY_SIZE(allowed); i += 7) {
        for (uint32_t n = 0; n < QUESTION_COUNT && count < ARRAY_SIZE(allowed); n += 31) {
            /* Those that do not fire by themselves do not fire because they may. */
            allowed[count++] = (struct sim_fault_event){i, n};
        }
    }
    sim_faults_init(&faults, 9);
    sim_faults_allow(&faults, allowed, count);
    ask_all(&faults, &some);
    size_t at = 0;
    size_t fired_count = 0;
    for (uint32_t i = 0; i < SIM_FAULT_COUNT; i++) {
        for (uint32_t n = 0; n < QUESTION_COUNT; n++) {
            bool listed = at < count && allowed[at].fault == i && allowed[at].number == n;
            at += listed;
            assert_int_equal(some.fired[i][n], listed && all.fired[i][n]);
            fired_count += some.fired[i][n];
        }
    }
    assert_int_equal(at, count);
    assert_int_equal(faults.event_count, fired_count);
    assert_true(fired_count > 0 && fired_count < count);
}

#define STEP_COUNT 10

struct step_answers {
    bool fired[STEP_COUNT][QUESTION_COUNT];
};

/* Each answer that is yes is the next event. */
static void ask_step(struct sim_faults *faults, uint32_t step, bool *ret_fired) {
    sim_faults_begin_step(faults, step);
    for (uint32_t n = 0; n < QUESTION_COUNT; n++) {
        size_t before = faults->event_count;
        ret_fired[n] = sim_faults_ask(faults, SIM_FAULT_PEER_DIES);
        assert_int_equal(faults->event_count, before + ret_fired[n]);
        if (ret_fired[n]) {
            uint32_t number = faults->events[before].number;
            assert_int_equal(number, SIM_FAULT_NUMBER(step, n));
            assert_true(SIM_FAULT_IN_STEP(number));
            assert_int_equal(SIM_FAULT_STEP(number), step);
            assert_int_equal(SIM_FAULT_QUESTION(number), n);
        }
    }
}

/* All steps but one, with some questions before them. */
static void ask_steps(uint32_t skipped, struct step_answers *ret_answers) {
    static struct sim_faults faults;
    sim_faults_init(&faults, 4);
    faults.ppm[SIM_FAULT_PEER_DIES] = RATE_PPM;
    for (uint32_t n = 0; n < skipped; n++) {
        (void)sim_faults_ask(&faults, SIM_FAULT_PEER_DIES);
    }
    for (uint32_t i = 0; i < STEP_COUNT; i++) {
        if (i != skipped) {
            ask_step(&faults, i, ret_answers->fired[i]);
        }
    }
}

/* Leaving out steps changes nothing in the others; the numbers say which question it was. */
static void a_step_has_questions_of_its_own(void **state) {
    (void)state;
    struct step_answers all;
    struct step_answers some;
    ask_steps(STEP_COUNT, &all);
    assert_true(memcmp(all.fired[0], all.fired[1], sizeof(all.fired[0])) != 0);
    for (uint32_t skipped = 0; skipped < STEP_COUNT; skipped++) {
        some = all;
        ask_steps(skipped, &some);
        assert_memory_equal(&some, &all, sizeof(all));
    }
}

static void nothing_fires_when_nothing_is_allowed(void **state) {
    (void)state;
    static struct sim_faults faults;
    static struct answers answers;
    sim_faults_init(&faults, 9);
    sim_faults_allow(&faults, NULL, 0);
    ask_all(&faults, &answers);
    assert_int_equal(faults.event_count, 0);
    /* And everything when nothing is left out. */
    sim_faults_suppress(&faults, NULL, 0);
    ask_all(&faults, &answers);
    assert_true(faults.event_count > 0);
}

static void the_copy_is_always_current(void **state) {
    (void)state;
    static struct sim_faults faults;
    static struct sim_fault_event copy[SIM_FAULT_FIRED_COUNT_MAX];
    size_t copy_count = 5;
    sim_faults_init(&faults, 9);
    sim_faults_copy(&faults, copy, &copy_count);
    assert_int_equal(copy_count, 0);
    faults.ppm[SIM_FAULT_PEER_DIES] = SIM_PPM / 2;
    for (size_t i = 0; i < SIM_FAULT_FIRED_COUNT_MAX * 3; i++) {
        (void)sim_faults_ask(&faults, SIM_FAULT_PEER_DIES);
        assert_int_equal(copy_count, faults.event_count);
    }
    assert_int_equal(copy_count, SIM_FAULT_FIRED_COUNT_MAX);
    assert_memory_equal(copy, faults.events, sizeof(copy));
    assert_true(faults.fired[SIM_FAULT_PEER_DIES] > SIM_FAULT_FIRED_COUNT_MAX);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_what_is_allowed_fires),
        cmocka_unit_test(a_step_has_questions_of_its_own),
        cmocka_unit_test(nothing_fires_when_nothing_is_allowed),
        cmocka_unit_test(the_copy_is_always_current),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
