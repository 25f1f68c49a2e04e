/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "sim/run/minimise.h"

#include <string.h>

#include "base/assert.h"

/* One search: the set, and what is tried next. */
struct search {
    struct minimise *minimise;
    uint32_t *set;
    size_t count;
    size_t chunk_count;
    uint32_t kept[MINIMISE_COUNT_MAX];
};

static bool fails(struct search *search, size_t count) {
    struct minimise *minimise = search->minimise;
    ASSERT(minimise->test);
    ASSERT(count < search->count);
    if (minimise->stopped || minimise->trial_count >= minimise->trial_count_max) {
        minimise->stopped = true;
        return false;
    }
    minimise->trial_count++;
    enum minimise_verdict verdict = minimise->test(minimise->context, search->kept, count);
    minimise->stopped = verdict == MINIMISE_STOP;
    return verdict == MINIMISE_FAILS;
}

/* The chunks differ in size by one at most. */
static size_t chunk_start(const struct search *search, size_t chunk) {
    ASSERT(chunk <= search->chunk_count);
    ASSERT(search->chunk_count <= search->count);
    return search->count * chunk / search->chunk_count;
}

static void take(struct search *search, size_t count) {
    ASSERT(count < search->count);
    ASSERT(count > 0);
    memcpy(search->set, search->kept, count * sizeof(search->set[0]));
    search->count = count;
}

/* One chunk alone. */
static bool reduce_to_chunk(struct search *search) {
    ASSERT(search->chunk_count >= 2);
    for (size_t i = 0; i < search->chunk_count; i++) {
        size_t start = chunk_start(search, i);
        size_t count = chunk_start(search, i + 1) - start;
        ASSERT(count > 0);
        memcpy(search->kept, search->set + start, count * sizeof(search->set[0]));
        if (fails(search, count)) {
            take(search, count);
            search->chunk_count = 2;
            return true;
        }
    }
    return false;
}

/* All chunks but one, again and again: what can go goes. With two chunks that is the other chunk, which is tried alone. */
static bool reduce_by_chunks(struct search *search) {
    bool reduced = false;
    size_t i = 0;
    ASSERT(search->chunk_count >= 2);
    while (search->chunk_count > 2 && i < search->chunk_count) {
        size_t start = chunk_start(search, i);
        size_t end = chunk_start(search, i + 1);
        ASSERT(start < end);
        memcpy(search->kept, search->set, start * sizeof(search->set[0]));
        memcpy(search->kept + start, search->set + end,
               (search->count - end) * sizeof(search->set[0]));
        size_t count = search->count - (end - start);
        if (fails(search, count)) {
            take(search, count);
            search->chunk_count--;
            reduced = true;
        } else {
            i++;
        }
    }
    return reduced;
}

size_t minimise_set(struct minimise *minimise, uint32_t *set, size_t count) {
    ASSERT(minimise);
    ASSERT(set || count == 0);
    ASSERT(count <= MINIMISE_COUNT_MAX);
    struct search search = {.minimise = minimise, .set = set, .count = count, .chunk_count = 2};
    /* Often nothing of it matters. */
    if (count > 0 && fails(&search, 0)) {
        return 0;
    }
    while (search.count >= 2 && !minimise->stopped) {
        if (reduce_to_chunk(&search)) {
            continue;
        }
        bool reduced = reduce_by_chunks(&search);
        bool finest = search.chunk_count == search.count;
        if (finest && !reduced) {
            break;
        }
        /* At the finest, what was needed before may not be needed any more: once more. */
        if (!finest) {
            search.chunk_count *= 2;
        }
        if (search.chunk_count > search.count) {
            search.chunk_count = search.count;
        }
    }
    ASSERT(search.count <= count);
    return search.count;
}
