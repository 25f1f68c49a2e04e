/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Which pages of its memory a restored guest touches, and reading them ahead of the next one.
 *
 * THEORY OF OPERATION
 *
 * A restored machine's memory is a private mapping of a file, and KVM finds the guest's pages through this process's page
 * tables: what stands in them was touched, by the guest or by a device. The kernel maps neighbours of a page that
 * is read, up to 16 in all, if they are in the page cache. A load that is to be noted forbids it that, as far as the
 * kernel lets it (Linux 6.7): memory is registered for asynchronous write protection with a userfaultfd. Nothing is ever
 * protected, but a fault there is dealt with for its own page alone.
 *
 * When the file is not in the page cache, a guest waits for the disk at one page after another. Then the pages that were
 * noted are asked for, all at once, before it runs, and nobody waits for them: the disk works while the state is loaded
 * and the guest begins, which waits only for what has not come yet. When the file is in the page cache, nothing is done:
 * filling page tables ahead was measured to take longer than the faults that it saves. A sample of the pages tells
 * the one from the other. mincore() tells only the file's owner, or who may write it; to others it is always cached.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/checked.h"
#include "snapshot/snapshot_limits.h"
#include "vmm/machine.h"

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1 /* Linux 5.11: everybody may */
#endif
#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_ASYNC (1ull << 15) /* Linux 6.7 */
#endif

#define PAGES_IN_WORD 64u
#define COLD_PART 4          /* one in so many pages that is missing makes a file a cold one */
#define ENTRIES_AT_ONCE 2048 /* of the pagemap */
#define ENTRY_PRESENT (1ull << 63)
#define ENTRY_SWAPPED (1ull << 62)

static_assert(ENTRIES_AT_ONCE % PAGES_IN_WORD == 0, "whole words");

/* ---- Noting ----------------------------------------------------------------------------------- */

void machine_pagemap_open(struct machine *machine) {
    ASSERT(machine);
    ASSERT(machine->pagemap_fd == -1);
    machine->pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
}

/* Where it does not work, more pages than were touched are noted. */
void machine_note_exactly(struct machine *machine) {
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_WP_ASYNC};
    struct uffdio_register all = {
        .range = {.start = (uint64_t)(uintptr_t)machine->memory.host, .len = machine->memory.size},
        .mode = UFFDIO_REGISTER_MODE_WP};
    ASSERT(machine->memory.host);
    ASSERT(machine->faults_fd == -1);
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
    if (fd >= 0 && (ioctl(fd, UFFDIO_API, &api) != 0 || ioctl(fd, UFFDIO_REGISTER, &all) != 0)) {
        close(fd);
        fd = -1;
    }
    machine->faults_fd = fd;
}

/* The words of the bitmap for `count` pages from `page` on. */
static enum kelpie_status look_up(const struct machine *machine, uint64_t page, size_t count,
                                  uint64_t *words, struct kelpie_error *err) {
    uint64_t entries[ENTRIES_AT_ONCE]; /* proc(5), /proc/pid/pagemap */
    const uint64_t first = (uint64_t)(uintptr_t)machine->memory.host / VMM_PAGE_SIZE;
    ASSERT(count <= ENTRIES_AT_ONCE);
    ASSERT(count % PAGES_IN_WORD == 0);
    TRY(machine_read_file(machine->pagemap_fd, entries, count * sizeof(entries[0]),
                          (first + page) * sizeof(entries[0]), err));
    memset(words, 0, count / 8);
    for (size_t i = 0; i < count; i++) {
        bool touched = (entries[i] & (ENTRY_PRESENT | ENTRY_SWAPPED)) != 0;
        words[i / PAGES_IN_WORD] |= (uint64_t)touched << (i % PAGES_IN_WORD);
    }
    return KELPIE_OK;
}

enum kelpie_status machine_touched(struct machine *machine, struct machine_files *files,
                                   struct kelpie_error *err) {
    const uint64_t page_count = machine->memory.size / VMM_PAGE_SIZE;
    ASSERT(files);
    ASSERT(page_count % PAGES_IN_WORD == 0);
    TRY(machine_file_check(files, CONTROL_ROLE_WORKING_SET, err));
    if (machine->memory_fd >= 0 || machine->pagemap_fd < 0) {
        return error_set(err, KELPIE_UNSUPPORTED,
                         "this machine does not know which pages its guest touched");
    }
    if (machine->memory_was_read) {
        return error_set(err, KELPIE_WRONG_STATE,
                         "a snapshot has read all of the memory: which pages the guest touched "
                         "is not known any more");
    }
    for (uint64_t page = 0; page < page_count; page += ENTRIES_AT_ONCE) {
        uint64_t words[ENTRIES_AT_ONCE / PAGES_IN_WORD];
        size_t count = (size_t)min_u64(ENTRIES_AT_ONCE, page_count - page);
        TRY(look_up(machine, page, count, words, err));
        TRY(machine_write_file(files->fds[CONTROL_ROLE_WORKING_SET], words, count / 8,
                               SNAPSHOT_WORKING_SET_HEADER_SIZE + page / 8, err));
    }
    return KELPIE_OK;
}

/* ---- Reading ahead ---------------------------------------------------------------------------- */

/* Whether so many of the pages are missing in the page cache that reading ahead pays. */
static bool is_cold(const struct machine *machine, const uint64_t *bitmap, uint64_t page_count) {
    size_t seen = 0;
    size_t missing = 0;
    ASSERT(bitmap);
    ASSERT(page_count > 0);
    for (uint64_t i = 0; i < VMM_PREFETCH_SAMPLE_COUNT; i++) {
        const uint64_t end = (i + 1) * page_count / VMM_PREFETCH_SAMPLE_COUNT;
        const uint64_t page =
            machine_next_set(bitmap, i * page_count / VMM_PREFETCH_SAMPLE_COUNT, end);
        unsigned char state = 1;
        if (page < end &&
            mincore(machine->memory.host + page * VMM_PAGE_SIZE, VMM_PAGE_SIZE, &state) == 0) {
            seen++;
            missing += (state & 1) == 0;
        }
    }
    return missing > 0 && missing * COLD_PART >= seen;
}

/* The end of the run that begins with the set bit `page`: over small gaps, and not too long. */
static uint64_t run_end(const uint64_t *bitmap, uint64_t page, uint64_t page_count) {
    const uint64_t limit = min_u64(page_count, page + VMM_PREFETCH_RUN_PAGES);
    uint64_t end = page + 1;
    ASSERT(page < page_count);
    while (end < limit) {
        const uint64_t look_end = min_u64(limit, end + VMM_PREFETCH_GAP_PAGES + 1);
        const uint64_t next = machine_next_set(bitmap, end, look_end);
        if (next == look_end) {
            break;
        }
        end = next + 1;
    }
    ASSERT(end <= page_count);
    return end;
}

void machine_prefetch(struct machine *machine, const struct machine_files *files) {
    uint64_t *bitmap = machine->changes.fetched; /* nobody uses it yet */
    const size_t size = machine->changes.word_count * sizeof(uint64_t);
    const uint64_t page_count = machine->changes.word_count * PAGES_IN_WORD;
    const int fd = files->fds[CONTROL_ROLE_WORKING_SET];
    ASSERT(bitmap && !machine->changes.tracked);
    ASSERT(machine->memory_fd < 0);
    if (fd < 0 ||
        machine_read_file(fd, bitmap, size, SNAPSHOT_WORKING_SET_HEADER_SIZE, NULL) != KELPIE_OK ||
        !is_cold(machine, bitmap, page_count)) {
        return;
    }
    uint64_t page = machine_next_set(bitmap, 0, page_count);
    while (page < page_count) {
        const uint64_t end = run_end(bitmap, page, page_count);
        (void)!madvise(machine->memory.host + page * VMM_PAGE_SIZE,
                       (size_t)((end - page) * VMM_PAGE_SIZE), MADV_WILLNEED);
        page = machine_next_set(bitmap, end, page_count);
    }
}
