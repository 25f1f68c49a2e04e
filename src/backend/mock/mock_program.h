/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The programs of the simulated guest, each a file in its /bin. They speak as busybox's do. */
#ifndef KELPIE_BACKEND_MOCK_MOCK_PROGRAM_H
#define KELPIE_BACKEND_MOCK_MOCK_PROGRAM_H

#include <stdbool.h>
#include <stdint.h>

struct mock_process;

#define MOCK_PROGRAM_NONE UINT32_MAX

/* By index from 0; NULL behind the last. */
const char *mock_program_name(uint32_t index);

/* The index, or MOCK_PROGRAM_NONE. */
uint32_t mock_program_find(const char *name);

/* Makes one step. False: it waits for time, input or a child. */
bool mock_program_step(struct mock_process *process);

/* test and [: 0, 1, or 2 with a message. The shell has them built in too. */
uint32_t mock_program_test(struct mock_process *process, const char *const *argv, uint32_t count);

#endif
