/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* libkrunfw's function, with a kernel that nobody runs; $FAKE_KRUNFW "empty": without one. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

__attribute__((visibility("default"))) char *
krunfw_get_kernel(uint64_t *ret_load, uint64_t *ret_entry, size_t *ret_size);
char *krunfw_get_kernel(uint64_t *ret_load, uint64_t *ret_entry, size_t *ret_size) {
    static char kernel[] = "these are a kernel's bytes";
    *ret_load = 0x1000000;
    *ret_entry = 0x1000123;
    *ret_size = sizeof(kernel);
    return getenv("FAKE_KRUNFW") ? NULL : kernel;
}
