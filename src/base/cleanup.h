/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Cleanup at the end of a scope, and taking a value out of it:
 *
 *     AUTO_MEM char *path = strdup(name);
 *     ...
 *     *ret_path = TAKE(path);      // now the caller frees it
 */
#ifndef KELPIE_BASE_CLEANUP_H
#define KELPIE_BASE_CLEANUP_H

#include <stdlib.h>

static inline void cleanup_mem(void *pointer_to_pointer) {
    free(*(void **)pointer_to_pointer);
}

/* Frees what the pointer holds when the scope ends. */
#define AUTO_MEM __attribute__((cleanup(cleanup_mem)))

/* The pointer's value; the pointer itself becomes NULL. */
#define TAKE(pointer)                                                                              \
    __extension__({                                                                                \
        __typeof__(pointer) taken_ = (pointer);                                                    \
        (pointer) = NULL;                                                                          \
        taken_;                                                                                    \
    })

#endif
