/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "base/assert.h"

#include <stdio.h>
#include <stdlib.h>

_Noreturn void base_assert_fail(const char *condition, const char *file, int line) {
    fprintf(stderr, "kelpie: assertion failed: %s at %s:%d\n", condition, file, line);
    abort();
}
