/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * What a monitor's own memory is: the proportional set size of its process (proc(5), smaps: Pss), without the mappings
 * that are its guest's memory.
 *
 * A guest's memory is told by name and size. It is every mapping of the file of that name; without a name, the
 * mapping of no file that is as large as the guest's memory, or little larger: Linux makes one of neighbours that are alike, and
 * what it added is taken for the guest's too, and said. Their sizes must add up to the guest's, or it was not
 * understood what they are. What the kernel holds for the process, such as page tables, is not counted.
 */
#ifndef KELPIE_BENCH_MONITOR_MEMORY_H
#define KELPIE_BENCH_MONITOR_MEMORY_H

#include <stdint.h>

/* In KiB. guest_file: such as "/memfd:name (deleted)", or "": none. -1, said on stderr: it cannot be told. */
long monitor_memory_kib(int process_id, const char *guest_file, uint64_t guest_size);

#endif
