/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What kelpie doctor looks at beside backends: the store's folders, and programs that some things take. */
#ifndef KELPIE_CLI_DOCTOR_PARTS_H
#define KELPIE_CLI_DOCTOR_PARTS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "kelpie_store.h"

#define DOCTOR_PART_COUNT 4

struct doctor_part {
    const char *name;    /* "store", "mkfs.ext4", … */
    const char *purpose; /* what it is for */
    const char *install; /* what to do when it is not there; or NULL */
    bool present;
    char detail[512]; /* its path, or what is wrong */
};

void doctor_find_parts(struct doctor_part parts[DOCTOR_PART_COUNT]);
void doctor_print_parts(const struct doctor_part parts[DOCTOR_PART_COUNT]);

/* NULL: no memory. */
json_t *doctor_json_parts(const struct doctor_part parts[DOCTOR_PART_COUNT]);

#endif
