/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Names for VMs that were given none: an adjective and a noun, such as "brisk-otter". */
#ifndef KELPIE_CLI_NAMES_H
#define KELPIE_CLI_NAMES_H

#include <stdint.h>

#include "base/error.h"

#define NAMES_SIZE 32 /* with the closing zero */

/* The name of that number; numbers beyond NAMES_COUNT begin again, with "-2", "-3", … behind the name. */
void names_make(uint64_t number, char name[NAMES_SIZE]);

/* How many names there are without a number behind. */
uint64_t names_count(void);

/* Somewhere in them, by chance: add 1 for the next when that name is taken. Errors: IO_FAILED. */
KELPIE_CHECKED enum kelpie_status names_draw(uint64_t *ret_number, struct kelpie_error *err);

/*
 * Makes something under a name: the one that was given, else names drawn until one is free. `make` says that a name is taken
 * by BAD_CONFIG with the field "name", as kelpie_vm_create() does.
 */
typedef enum kelpie_status names_maker(void *context, const char *name, struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status names_try(const char *given, names_maker *make, void *context,
                                            struct kelpie_error *err);

#endif
