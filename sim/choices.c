/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "sim/choices.h"

#include "base/assert.h"

#define GOLDEN 0x9e3779b97f4a7c15ull

/* SplitMix64's finaliser (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014). */
static uint64_t finalize(uint64_t value) {
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9ull;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebull;
    return value ^ (value >> 31);
}

void sim_choices_init(struct sim_choices *choices, uint64_t seed) {
    ASSERT(choices);
    *choices = (struct sim_choices){.state = finalize(seed + GOLDEN)};
    ASSERT(!choices->bytes);
}

void sim_choices_init_bytes(struct sim_choices *choices, const void *bytes, size_t count) {
    static const uint8_t none[1] = {0};
    ASSERT(choices);
    ASSERT(bytes || count == 0);
    *choices = (struct sim_choices){.bytes = bytes ? bytes : none, .byte_count = count};
}

/* As many bytes as the count needs, so that a fuzzer's mutation of one changes one choice. */
static uint64_t from_bytes(struct sim_choices *choices, uint64_t count) {
    uint64_t value = 0;
    ASSERT(choices->bytes);
    ASSERT(choices->byte_next <= choices->byte_count);
    for (uint64_t left = count - 1; left > 0; left >>= 8) {
        if (choices->byte_next == choices->byte_count) {
            return 0;
        }
        value = value << 8 | choices->bytes[choices->byte_next++];
    }
    return value % count;
}

uint64_t sim_choose(struct sim_choices *choices, uint64_t count) {
    ASSERT(choices);
    ASSERT(count > 0);
    if (choices->bytes) {
        return from_bytes(choices, count);
    }
    ASSERT(choices->byte_count == 0);
    choices->state += GOLDEN;
    __extension__ typedef unsigned __int128 wide;
    return (uint64_t)(((wide)finalize(choices->state) * count) >> 64);
}

bool sim_chance(struct sim_choices *choices, uint32_t ppm) {
    ASSERT(choices);
    ASSERT(ppm <= SIM_PPM);
    if (ppm == 0) {
        return false;
    }
    /* The rare side is the one that used-up bytes do not take. */
    return sim_choose(choices, SIM_PPM) >= SIM_PPM - ppm;
}

uint64_t sim_mix(uint64_t a, uint64_t b, uint64_t c) {
    uint64_t value = finalize(a + GOLDEN);
    value = finalize(value ^ (b + GOLDEN));
    return finalize(value ^ (c + GOLDEN));
}
