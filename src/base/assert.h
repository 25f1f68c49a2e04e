/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Assertions: always on, in every build. They state what must hold if our own code is right:
 * arguments, results, invariants. What a guest, a file, a peer or a user sends is never asserted;
 * that is an error with a status. A condition has no side effect.
 */
#ifndef KELPIE_BASE_ASSERT_H
#define KELPIE_BASE_ASSERT_H

#define ASSERT(condition)                                                                          \
    do {                                                                                           \
        if (__builtin_expect(!(condition), 0)) {                                                   \
            base_assert_fail(#condition, __FILE__, __LINE__);                                      \
        }                                                                                          \
    } while (0)

/* For a branch that cannot be reached. */
#define UNREACHABLE() base_assert_fail("unreachable", __FILE__, __LINE__)

/* C17's own name for it, without <assert.h> and its assert(). */
#ifndef static_assert
#define static_assert _Static_assert
#endif

#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))

/* Writes one line to stderr and aborts. */
_Noreturn void base_assert_fail(const char *condition, const char *file, int line);

#endif
