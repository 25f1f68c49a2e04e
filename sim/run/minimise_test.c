/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "sim/run/minimise.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"
#include "sim/choices.h"

#define TERM_COUNT_MAX 4
#define TERM_SIZE_MAX 5
#define ROUND_COUNT 400

enum predicate_kind {
    NEEDS_ONE_TERM, /* monotone: all numbers of one of the terms */
    BLOCKED,        /* not monotone: term 0, and number `blocker` only together with `rescuer` */
    RANDOM,         /* not monotone at all: each set is drawn; the whole set fails */
};

struct predicate {
    enum predicate_kind kind;
    size_t count; /* of the whole set */
    uint32_t terms[TERM_COUNT_MAX][TERM_SIZE_MAX];
    size_t term_sizes[TERM_COUNT_MAX];
    size_t term_count;
    uint32_t blocker;
    uint32_t rescuer;
    uint64_t seed;
    size_t test_count;
    size_t stop_at; /* 0: never */
    uint32_t last[MINIMISE_COUNT_MAX];
    size_t last_count; /* of the last set that failed */
};

static bool has(const uint32_t *set, size_t count, uint32_t number) {
    for (size_t i = 0; i < count; i++) {
        if (set[i] == number) {
            return true;
        }
    }
    return false;
}

static bool has_term(const struct predicate *predicate, size_t term, const uint32_t *set,
                     size_t count) {
    for (size_t i = 0; i < predicate->term_sizes[term]; i++) {
        if (!has(set, count, predicate->terms[term][i])) {
            return false;
        }
    }
    return true;
}

static bool holds(const struct predicate *predicate, const uint32_t *set, size_t count) {
    uint64_t hash = predicate->seed;
    switch (predicate->kind) {
    case NEEDS_ONE_TERM:
        for (size_t i = 0; i < predicate->term_count; i++) {
            if (has_term(predicate, i, set, count)) {
                return true;
            }
        }
        return false;
    case BLOCKED:
        return has_term(predicate, 0, set, count) &&
               (!has(set, count, predicate->blocker) || has(set, count, predicate->rescuer));
    case RANDOM:
        for (size_t i = 0; i < count; i++) {
            hash = sim_mix(hash, set[i], i);
        }
        return count == predicate->count || hash % 4 == 0;
    default:
        fail();
        return false;
    }
}

static enum minimise_verdict test_predicate(void *context, const uint32_t *kept, size_t count) {
    struct predicate *predicate = context;
    predicate->test_count++;
    /* Always a part of the whole, in its order. */
    for (size_t i = 0; i < count; i++) {
        assert_true(kept[i] < predicate->count * 3);
        assert_true(i == 0 || kept[i - 1] < kept[i]);
    }
    if (predicate->stop_at > 0 && predicate->test_count >= predicate->stop_at) {
        return MINIMISE_STOP;
    }
    if (!holds(predicate, kept, count)) {
        return MINIMISE_PASSES;
    }
    memcpy(predicate->last, kept, count * sizeof(*kept));
    predicate->last_count = count;
    return MINIMISE_FAILS;
}

/* The numbers are not their own indexes. */
static size_t make_set(const struct predicate *predicate, uint32_t *set) {
    for (size_t i = 0; i < predicate->count; i++) {
        set[i] = (uint32_t)i * 3;
    }
    return predicate->count;
}

static void draw_term(struct sim_choices *choices, struct predicate *predicate, size_t term) {
    size_t size = 1 + sim_choose(choices, TERM_SIZE_MAX);
    predicate->term_sizes[term] = size;
    for (size_t i = 0; i < size; i++) {
        predicate->terms[term][i] = (uint32_t)sim_choose(choices, predicate->count) * 3;
    }
}

static void draw(struct sim_choices *choices, enum predicate_kind kind,
                 struct predicate *predicate) {
    *predicate = (struct predicate){.kind = kind, .count = 1 + sim_choose(choices, 200)};
    predicate->seed = sim_choose(choices, UINT32_MAX);
    predicate->term_count = 1 + sim_choose(choices, TERM_COUNT_MAX);
    for (size_t i = 0; i < predicate->term_count; i++) {
        draw_term(choices, predicate, i);
    }
    predicate->rescuer = (uint32_t)sim_choose(choices, predicate->count) * 3;
    predicate->blocker = (uint32_t)sim_choose(choices, predicate->count) * 3;
    if (predicate->kind == BLOCKED && has_term(predicate, 0, &predicate->blocker, 1)) {
        predicate->blocker = predicate->rescuer;
    }
}

/* It fails, and not without any one of its numbers: the smallest that can be asked for of any predicate. */
static void assert_minimal(const struct predicate *predicate, const uint32_t *set, size_t count) {
    uint32_t less[MINIMISE_COUNT_MAX];
    assert_true(holds(predicate, set, count));
    for (size_t i = 0; i < count; i++) {
        memcpy(less, set, i * sizeof(*set));
        memcpy(less + i, set + i + 1, (count - i - 1) * sizeof(*set));
        assert_false(holds(predicate, less, count - 1));
    }
}

static void check_kind(enum predicate_kind kind) {
    struct sim_choices choices;
    struct predicate predicate;
    uint32_t set[MINIMISE_COUNT_MAX];
    sim_choices_init(&choices, 7 + (uint64_t)kind);
    for (size_t round = 0; round < ROUND_COUNT; round++) {
        draw(&choices, kind, &predicate);
        struct minimise minimise = {
            .test = test_predicate, .context = &predicate, .trial_count_max = SIZE_MAX};
        size_t count = minimise_set(&minimise, set, make_set(&predicate, set));
        assert_minimal(&predicate, set, count);
        assert_false(minimise.stopped);
        assert_int_equal(minimise.trial_count, predicate.test_count);
        /* The paper's worst case, and the empty set. */
        assert_true(minimise.trial_count <=
                    predicate.count * predicate.count + 3 * predicate.count + 1);
        if (kind == NEEDS_ONE_TERM && predicate.term_count == 1) {
            for (size_t i = 0; i < count; i++) {
                assert_true(has(predicate.terms[0], predicate.term_sizes[0], set[i]));
            }
        }
    }
}

static void what_one_term_needs_is_found(void **state) {
    (void)state;
    check_kind(NEEDS_ONE_TERM);
}

static void a_blocked_failure_is_made_minimal(void **state) {
    (void)state;
    check_kind(BLOCKED);
}

static void a_random_failure_is_made_minimal(void **state) {
    (void)state;
    check_kind(RANDOM);
}

static void three_of_many_take_few_trials(void **state) {
    (void)state;
    struct predicate predicate = {.count = MINIMISE_COUNT_MAX, .term_count = 1};
    struct minimise minimise = {
        .test = test_predicate, .context = &predicate, .trial_count_max = 200};
    uint32_t set[MINIMISE_COUNT_MAX];
    const uint32_t needed[] = {3 * 17, 3 * 2048, 3 * 4095};
    memcpy(predicate.terms[0], needed, sizeof(needed));
    predicate.term_sizes[0] = ARRAY_SIZE(needed);
    size_t count = minimise_set(&minimise, set, make_set(&predicate, set));
    assert_false(minimise.stopped);
    assert_int_equal(count, ARRAY_SIZE(needed));
    assert_memory_equal(set, needed, sizeof(needed));
}

static void the_empty_set_is_enough(void **state) {
    (void)state;
    struct predicate predicate = {.count = 100, .term_count = 1};
    struct minimise minimise = {
        .test = test_predicate, .context = &predicate, .trial_count_max = 10};
    uint32_t set[MINIMISE_COUNT_MAX];
    assert_int_equal(minimise_set(&minimise, set, make_set(&predicate, set)), 0);
    assert_int_equal(minimise.trial_count, 1);
    assert_int_equal(minimise_set(&minimise, set, 0), 0);
    assert_int_equal(minimise.trial_count, 1);
}

/* What is given back is the smallest set that failed until then, or the whole. */
static void assert_last_failing(const struct predicate *predicate, const uint32_t *set,
                                size_t count) {
    assert_true(holds(predicate, set, count));
    if (predicate->last_count > 0) {
        assert_int_equal(count, predicate->last_count);
        assert_memory_equal(set, predicate->last, count * sizeof(*set));
    } else {
        assert_int_equal(count, predicate->count);
    }
}

static void the_bound_on_trials_is_kept(void **state) {
    (void)state;
    uint32_t set[MINIMISE_COUNT_MAX];
    for (size_t bound = 0; bound < 40; bound++) {
        struct predicate predicate = {.count = 300, .term_count = 1};
        struct minimise minimise = {
            .test = test_predicate, .context = &predicate, .trial_count_max = bound};
        const uint32_t needed[] = {3, 300, 600, 897};
        memcpy(predicate.terms[0], needed, sizeof(needed));
        predicate.term_sizes[0] = ARRAY_SIZE(needed);
        size_t count = minimise_set(&minimise, set, make_set(&predicate, set));
        assert_true(minimise.stopped);
        assert_int_equal(predicate.test_count, bound);
        assert_last_failing(&predicate, set, count);
    }
}

static void the_caller_can_stop_it(void **state) {
    (void)state;
    uint32_t set[MINIMISE_COUNT_MAX];
    for (size_t stop_at = 1; stop_at < 40; stop_at++) {
        struct predicate predicate = {.count = 300, .term_count = 1, .stop_at = stop_at};
        struct minimise minimise = {
            .test = test_predicate, .context = &predicate, .trial_count_max = SIZE_MAX};
        const uint32_t needed[] = {3, 300, 600, 897};
        memcpy(predicate.terms[0], needed, sizeof(needed));
        predicate.term_sizes[0] = ARRAY_SIZE(needed);
        size_t count = minimise_set(&minimise, set, make_set(&predicate, set));
        assert_true(minimise.stopped);
        assert_int_equal(predicate.test_count, stop_at);
        assert_last_failing(&predicate, set, count);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_one_term_needs_is_found),
        cmocka_unit_test(a_blocked_failure_is_made_minimal),
        cmocka_unit_test(a_random_failure_is_made_minimal),
        cmocka_unit_test(three_of_many_take_few_trials),
        cmocka_unit_test(the_empty_set_is_enough),
        cmocka_unit_test(the_bound_on_trials_is_kept),
        cmocka_unit_test(the_caller_can_stop_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
