/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * choices.h: where every choice of the simulator comes from: a generator that a seed starts, or, for a fuzzer, bytes.
 * The same seed gives the same choices. Pure.
 *
 *     struct sim_choices choices;
 *     sim_choices_init(&choices, 42);
 *     uint64_t which = sim_choose(&choices, 6);
 */
#ifndef KELPIE_SIM_CHOICES_H
#define KELPIE_SIM_CHOICES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SIM_PPM 1000000u /* a rate of 1 */

struct sim_choices {
    uint64_t state;
    const uint8_t *bytes; /* NULL: the generator alone */
    size_t byte_count;
    size_t byte_next;
};

void sim_choices_init(struct sim_choices *choices, uint64_t seed);

/* Choices from bytes, which stay the caller's; when they are used up, every choice is 0. */
void sim_choices_init_bytes(struct sim_choices *choices, const void *bytes, size_t count);

/* 0 … count - 1. count > 0. */
uint64_t sim_choose(struct sim_choices *choices, uint64_t count);

/* True at a rate of ppm in a million. 0: never, and nothing is drawn. */
bool sim_chance(struct sim_choices *choices, uint32_t ppm);

/* A well mixed 64-bit number of three: for a choice that depends on nothing but what it is about. */
uint64_t sim_mix(uint64_t a, uint64_t b, uint64_t c);

#endif
