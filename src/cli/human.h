/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Sizes, times and ages as people read them. Programs read --json, which has bytes and milliseconds. */
#ifndef KELPIE_CLI_HUMAN_H
#define KELPIE_CLI_HUMAN_H

#include <stddef.h>
#include <stdint.h>

#define HUMAN_SIZE 24 /* room for each of them */

/* "0B", "812B", "3.4MiB", "128MiB", "2.0GiB". Returns `text`. */
const char *human_bytes(uint64_t bytes, char text[HUMAN_SIZE]);

/* The largest unit that it has one of, and no second: "0s", "59s", "3m", "26h", "4d". Returns `text`. */
const char *human_duration(uint64_t duration_ms, char text[HUMAN_SIZE]);

/* How long ago that was; "-" for 0, which is never. A time that lies ahead, as when a clock was set back, is "0s". */
const char *human_age(uint64_t unix_ms, char text[HUMAN_SIZE]);

/* "2026-01-31T12:34:56.789Z" (RFC 3339, in UTC). Returns `text`. */
#define HUMAN_TIME_SIZE 32
const char *human_time(uint64_t unix_ms, char text[HUMAN_TIME_SIZE]);

/* Now, by the wall clock. */
uint64_t human_now_unix_ms(void);

#endif
