/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * fake.h: a libkrun that is none, for the tests of src/krun and src/backend/libkrun: the same functions, and behind them the
 * mock's guest. kelpie-krun loads it like the real one. $FAKE_KRUN says what is wrong with it, words with commas:
 *
 *     load-crash, load-fault, load-hang    when it is loaded
 *     load-noise               a word on stderr, as it is loaded, and its end with code 3
 *     fail=NAME                the function krun_NAME refuses
 *     enter-crash, enter-hang, enter-exit, enter-return    instead of the guest
 *     last-words               the guest powers off with a line on its console
 *     slow-pause               a pause takes PAUSE_SLOW_MS
 *     garbage                  lines that are none, on the control socket, when it is entered
 *
 * $FAKE_KRUN_LOG names a file to which each call is appended, a line each.
 */
#ifndef KELPIE_TESTS_KRUN_FAKE_H
#define KELPIE_TESTS_KRUN_FAKE_H

#include <stdbool.h>
#include <stdint.h>

#define FAKE_API __attribute__((visibility("default")))
#define PAUSE_SLOW_MS 700

/* Whether $FAKE_KRUN has this word. */
bool fake_has(const char *word);

/* Notes a call: its name and what it was given. False: it is to refuse. */
bool fake_call(const char *name, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The machine: its console and its channel. Returns when it has ended by itself, with an exit code. */
struct fake_machine {
    int console_fd;
    int channel_fd;
    uint32_t memory_mib;
    bool paused; /* atomic */
};
int fake_run(struct fake_machine *machine);

#endif
