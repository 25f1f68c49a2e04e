/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Diffs: what was written since the last save or load, and putting it over memory again.
 *
 * THEORY OF OPERATION
 *
 * KVM's log forgets what it tells, so each look is added to `changed`, which is the diff, and to `pending`, which is
 * what its file lacks. A page is taken out of `pending` before it is copied: a guest that writes to it meanwhile is
 * seen by the next look, and the page is copied again. So most of a diff is written while the guest runs (presave),
 * and the last look, while it stands, finds little.
 *
 * The I/O thread does all of it, between two turns of its loop, and no device keeps a place in memory from one turn to the
 * next: what a device has noted, it has written.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/checked.h"
#include "vmm/machine.h"

#define PAGES_IN_WORD 64u
#define BITMAP_COUNT 4u

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "a file's bitmap is one of words");

enum kelpie_status machine_changes_init(struct machine *machine, struct kelpie_error *err) {
    struct machine_changes *changes = &machine->changes;
    ASSERT(!changes->bitmaps);
    ASSERT(machine->memory.size % (PAGES_IN_WORD * VMM_PAGE_SIZE) == 0);
    size_t count = (size_t)(machine->memory.size / VMM_PAGE_SIZE / PAGES_IN_WORD);
    void *bitmaps = mmap(NULL, BITMAP_COUNT * count * sizeof(uint64_t), PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (bitmaps == MAP_FAILED) {
        return error_set_os(err, errno, "cannot get memory to note what the guest writes");
    }
    changes->bitmaps = bitmaps;
    changes->word_count = count;
    changes->changed = bitmaps;
    changes->pending = changes->changed + count;
    changes->fetched = changes->pending + count;
    machine->memory.dirty = changes->fetched + count;
    return KELPIE_OK;
}

/* Adds what was written since the last look. */
static enum kelpie_status look(struct machine *machine, struct kelpie_error *err) {
    struct machine_changes *changes = &machine->changes;
    ASSERT(changes->tracked);
    ASSERT(machine->memory.dirty);
    TRY(kvm_dirty_fetch(&machine->kvm, changes->fetched, changes->word_count, err));
    machine_lock(machine); /* a device notes a page and then writes it */
    for (size_t i = 0; i < changes->word_count; i++) {
        uint64_t word = changes->fetched[i];
        if (machine->memory.dirty[i] != 0) {
            word |= __atomic_exchange_n(&machine->memory.dirty[i], 0, __ATOMIC_RELAXED);
        }
        if (word != 0) {
            changes->changed[i] |= word;
            changes->pending[i] |= word;
        }
    }
    machine_unlock(machine);
    return KELPIE_OK;
}

static void end_layer(struct machine_changes *changes) {
    ASSERT(changes->layer_fd >= -1);
    if (changes->layer_fd >= 0) {
        close(changes->layer_fd);
    }
    changes->layer_fd = -1;
    ASSERT(changes->layer_fd == -1);
}

enum kelpie_status machine_changes_reset(struct machine *machine, struct kelpie_error *err) {
    struct machine_changes *changes = &machine->changes;
    ASSERT(changes->bitmaps);
    end_layer(changes);
    if (changes->tracked) {
        TRY(look(machine, err)); /* what the log holds is saved now */
    }
    size_t size = changes->word_count * sizeof(uint64_t);
    memset(machine->memory.dirty, 0, size);
    memset(changes->changed, 0, size);
    memset(changes->pending, 0, size);
    changes->complete = true;
    return KELPIE_OK;
}

enum kelpie_status machine_track(struct machine *machine, struct kelpie_error *err) {
    struct machine_changes *changes = &machine->changes;
    ASSERT(changes->bitmaps);
    if (!changes->complete) {
        return error_set(err, KELPIE_WRONG_STATE, "the guest ran since it was saved");
    }
    if (!changes->tracked) {
        TRY(kvm_dirty_start(&machine->kvm, err));
    }
    changes->tracked = true;
    ASSERT(machine->kvm.dirty_started);
    return KELPIE_OK;
}

/* ---- Writing ---------------------------------------------------------------------------------- */

uint64_t machine_next_set(const uint64_t *bitmap, uint64_t from, uint64_t end) {
    ASSERT(bitmap);
    ASSERT(from <= end);
    while (from < end) {
        uint64_t word = bitmap[from / PAGES_IN_WORD] >> (from % PAGES_IN_WORD);
        if (word != 0) {
            return min_u64(end, from + (uint64_t)__builtin_ctzll(word));
        }
        from = (from / PAGES_IN_WORD + 1) * PAGES_IN_WORD;
    }
    return end;
}

/* The next run of set bits from `page` on, of at most VMM_DIFF_RUN_PAGES_MAX pages. False: there is none. */
static bool next_run(const uint64_t *bitmap, uint64_t page_count, uint64_t *page,
                     uint64_t *ret_end) {
    ASSERT(bitmap && ret_end);
    ASSERT(page_count % PAGES_IN_WORD == 0);
    uint64_t first = machine_next_set(bitmap, *page, page_count);
    if (first == page_count) {
        return false;
    }
    uint64_t end = first + 1;
    uint64_t limit = min_u64(page_count, first + VMM_DIFF_RUN_PAGES_MAX);
    while (end < limit && (bitmap[end / PAGES_IN_WORD] >> (end % PAGES_IN_WORD) & 1) != 0) {
        end++;
    }
    *page = first;
    *ret_end = end;
    return true;
}

/* Pages that are zero now are holes, also where an earlier presave wrote something else. */
static enum kelpie_status write_zeros(int fd, uint64_t offset, uint64_t size,
                                      struct kelpie_error *err) {
    ASSERT(fd >= 0);
    ASSERT(size > 0);
    if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)size) < 0) {
        return error_set_os(err, errno, "cannot make a hole in the diff's memory");
    }
    return KELPIE_OK;
}

/* The pages [page, end) of memory, to their place. */
static enum kelpie_status write_pages(const struct machine *machine, uint64_t page, uint64_t end,
                                      struct kelpie_error *err) {
    uint64_t offset = page * VMM_PAGE_SIZE;
    const uint64_t limit = end * VMM_PAGE_SIZE;
    int fd = machine->changes.layer_fd;
    ASSERT(page < end);
    ASSERT(limit <= machine->memory.size);
    while (offset < limit) {
        bool zero = false;
        uint64_t run = machine_page_run(machine, offset, limit, &zero);
        if (zero) {
            TRY(write_zeros(fd, offset, run - offset, err));
        } else {
            TRY(machine_write_file(fd, machine->memory.host + offset, (size_t)(run - offset),
                                   offset, err));
        }
        offset = run;
    }
    return KELPIE_OK;
}

static enum kelpie_status write_pending(struct machine *machine, struct kelpie_error *err) {
    struct machine_changes *changes = &machine->changes;
    const uint64_t page_count = changes->word_count * PAGES_IN_WORD;
    uint64_t page = 0;
    uint64_t end = 0;
    ASSERT(changes->layer_fd >= 0);
    ASSERT(changes->tracked);
    for (; next_run(changes->pending, page_count, &page, &end); page = end) {
        for (uint64_t i = page; i < end; i++) {
            changes->pending[i / PAGES_IN_WORD] &= ~(1ull << (i % PAGES_IN_WORD));
        }
        TRY(write_pages(machine, page, end, err));
    }
    return KELPIE_OK;
}

/* The diff's file: a new one, which lacks everything, or the one that is being written. */
static enum kelpie_status begin_layer(struct machine *machine, struct machine_files *files,
                                      struct kelpie_error *err) {
    struct machine_changes *changes = &machine->changes;
    ASSERT(files);
    ASSERT(changes->bitmaps);
    if (!changes->tracked) {
        return error_set(err, KELPIE_WRONG_STATE, "nobody notes what the guest writes");
    }
    if (files->fds[CONTROL_ROLE_MEMORY] < 0 && changes->layer_fd >= 0) {
        return KELPIE_OK;
    }
    TRY(machine_file_check(files, CONTROL_ROLE_MEMORY, err));
    end_layer(changes);
    changes->layer_fd = machine_file_take(files, CONTROL_ROLE_MEMORY);
    memcpy(changes->pending, changes->changed, changes->word_count * sizeof(uint64_t));
    if (ftruncate(changes->layer_fd, (off_t)machine->memory.size) < 0) {
        return error_set_os(err, errno, "cannot size the diff's memory");
    }
    return KELPIE_OK;
}

enum kelpie_status machine_presave(struct machine *machine, struct machine_files *files,
                                   struct kelpie_error *err) {
    ASSERT(machine && files);
    ASSERT(machine->prepared);
    TRY(begin_layer(machine, files, err));
    TRY(look(machine, err));
    return write_pending(machine, err);
}

enum kelpie_status machine_save_diff(struct machine *machine, struct machine_files *files,
                                     struct kelpie_error *err) {
    struct machine_changes *changes = &machine->changes;
    ASSERT(machine && files);
    ASSERT(files->fds[CONTROL_ROLE_PAGES_0] >= 0);
    TRY(machine_presave(machine, files, err));
    TRY(machine_write_file(files->fds[CONTROL_ROLE_PAGES_0], changes->changed,
                           changes->word_count * sizeof(uint64_t), 0, err));
    return machine_changes_reset(machine, err);
}

/* ---- Loading ---------------------------------------------------------------------------------- */

static enum kelpie_status check_size(int fd, uint64_t size, const char *field,
                                     struct kelpie_error *err) {
    struct stat info = {0};
    ASSERT(fd >= 0);
    ASSERT(field);
    if (fstat(fd, &info) < 0) {
        return error_set_os(err, errno, "cannot look at a diff's %s", field);
    }
    if ((uint64_t)info.st_size != size) {
        return error_set_field(err, KELPIE_SNAPSHOT_CORRUPT, field,
                               "a diff's %s has %lld bytes and not %llu", field,
                               (long long)info.st_size, (unsigned long long)size);
    }
    return KELPIE_OK;
}

/* Pages of a diff over memory: mapped, as memory is, or, when there are mappings enough, copied. */
static enum kelpie_status load_run(struct machine *machine, int fd, uint64_t page, uint64_t end,
                                   bool map, struct kelpie_error *err) {
    uint64_t offset = page * VMM_PAGE_SIZE;
    size_t size = (size_t)((end - page) * VMM_PAGE_SIZE);
    void *place = machine->memory.host + offset;
    ASSERT(page < end);
    ASSERT(offset + size <= machine->memory.size);
    if (!map) {
        return machine_read_file(fd, place, size, offset, err);
    }
    void *mapped = mmap(place, size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, fd, (off_t)offset);
    if (mapped != place) {
        return error_set_os(err, errno, "cannot map a diff's memory");
    }
    return KELPIE_OK;
}

static enum kelpie_status load_layer(struct machine *machine, int layer_fd, int pages_fd,
                                     size_t *mapping_count, struct kelpie_error *err) {
    uint64_t *bitmap = machine->changes.fetched; /* nobody uses it yet */
    const size_t size = machine->changes.word_count * sizeof(uint64_t);
    uint64_t page = 0;
    uint64_t end = 0;
    ASSERT(bitmap);
    ASSERT(!machine->changes.tracked);
    TRY(check_size(layer_fd, machine->memory.size, "memory", err));
    TRY(check_size(pages_fd, size, "pages", err));
    TRY(machine_read_file(pages_fd, bitmap, size, 0, err));
    const uint64_t page_count = machine->changes.word_count * PAGES_IN_WORD;
    for (; next_run(bitmap, page_count, &page, &end); page = end) {
        bool map = *mapping_count < VMM_DIFF_MAPPING_COUNT_MAX;
        TRY(load_run(machine, layer_fd, page, end, map, err));
        *mapping_count += map ? 1 : 0;
    }
    return KELPIE_OK;
}

enum kelpie_status machine_load_layers(struct machine *machine, const struct machine_files *files,
                                       struct kelpie_error *err) {
    size_t mapping_count = 0;
    ASSERT(machine->prepared);
    ASSERT(machine->memory_fd < 0);
    for (int i = 0; i < CONTROL_LAYER_COUNT_MAX; i++) {
        int layer_fd = files->fds[CONTROL_ROLE_LAYER_0 + i];
        if (layer_fd < 0) {
            break;
        }
        TRY(machine_file_check(files, CONTROL_ROLE_PAGES_0 + (unsigned)i, err));
        TRY(load_layer(machine, layer_fd, files->fds[CONTROL_ROLE_PAGES_0 + i], &mapping_count,
                       err));
    }
    ASSERT(mapping_count <= VMM_DIFF_MAPPING_COUNT_MAX);
    return KELPIE_OK;
}
