/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What a power loss leaves of the simulated file system, hazard by hazard. fs_model_test.c does it at random. */
#include "sim/fs_internal.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"

#define PAGE SIM_FS_PAGE_SIZE
#define CREATE (HOST_OPEN_READ | HOST_OPEN_WRITE | HOST_OPEN_CREATE)
#define SEED_COUNT 200 /* in which what may happen must happen once, and what must not, never */

static const struct sim_fs_crash lose_all = {SIM_PPM, 0, SIM_PPM, 0};
static const struct sim_fs_crash lose_nothing = {0};
static const struct sim_fs_crash lose_data = {.lose_data_ppm = SIM_PPM};
static const struct sim_fs_crash tear_data = {.tear_data_ppm = SIM_PPM};
static const struct sim_fs_crash half_of_all = {500000, 500000, 500000, 500000};

static struct sim_fs *create(void) {
    struct sim_fs *fs = sim_fs_create(SIM_FS_CAPACITY_DEFAULT);
    assert_non_null(fs);
    assert_int_equal(sim_fs_mkdir(fs, "/a", 0700), 0);
    assert_int_equal(sim_fs_mkdir(fs, "/b", 0700), 0);
    assert_int_equal(sim_fs_sync_folder(fs, "/"), 0);
    return fs;
}

static int setup(void **state) {
    *state = create();
    return 0;
}

static int teardown(void **state) {
    size_t open_count = sim_fs_open_count(*state);
    sim_fs_destroy(*state);
    return open_count == 0 ? 0 : -1;
}

static struct sim_fs_crash_counts crash(struct sim_fs *fs, const struct sim_fs_crash *rates,
                                        uint64_t seed) {
    struct sim_choices choices;
    struct sim_fs_crash_counts counts = {0};
    sim_choices_init(&choices, seed);
    sim_fs_crash(fs, &choices, rates, &counts);
    assert_int_equal(sim_fs_open_count(fs), 0);
    return counts;
}

/* Makes or replaces a file's first bytes; synced: they are on the disk. */
static void store(struct sim_fs *fs, const char *path, const char *text, bool synced) {
    struct sim_inode *inode = NULL;
    assert_int_equal(sim_fs_open(fs, path, CREATE, 0600, &inode), 0);
    assert_int_equal(sim_inode_write(inode, text, strlen(text), 0), 0);
    if (synced) {
        sim_inode_sync(inode);
    }
    sim_inode_release(inode);
}

static bool exists(struct sim_fs *fs, const char *path) {
    struct host_file_info info;
    return sim_fs_stat(fs, path, &info) == 0;
}

static bool holds(struct sim_fs *fs, const char *path, const char *text) {
    struct sim_inode *inode = NULL;
    char buffer[64] = {0};
    size_t size = 0;
    if (sim_fs_open(fs, path, HOST_OPEN_READ, 0, &inode) != 0) {
        return false;
    }
    assert_int_equal(sim_inode_read(inode, buffer, sizeof(buffer) - 1, 0, &size), 0);
    sim_inode_release(inode);
    return size == strlen(text) && strcmp(buffer, text) == 0;
}

/* ---- Names ------------------------------------------------------------------------------------ */

static void a_files_sync_does_not_sync_its_name(void **state) {
    struct sim_fs *fs = *state;
    store(fs, "/a/lost", "text", true);
    struct sim_fs_crash_counts counts = crash(fs, &lose_all, 1);
    assert_false(exists(fs, "/a/lost"));
    assert_int_equal(counts.lost_names, 1);
    assert_int_equal(sim_fs_inode_count(fs), 3);
    assert_int_equal(sim_fs_used(fs), 2 * PAGE);
    store(fs, "/a/kept", "text", true);
    assert_int_equal(sim_fs_sync_folder(fs, "/a"), 0);
    counts = crash(fs, &lose_all, 1);
    assert_true(holds(fs, "/a/kept", "text"));
    assert_int_equal(counts.lost_names + counts.lost_data, 0);
}

static void a_folders_sync_does_not_sync_bytes(void **state) {
    struct sim_fs *fs = *state;
    store(fs, "/a/file", "text", false);
    assert_int_equal(sim_fs_sync_folder(fs, "/a"), 0);
    struct sim_fs_crash_counts counts = crash(fs, &lose_all, 1);
    assert_true(holds(fs, "/a/file", ""));
    assert_int_equal(counts.lost_data, 2); /* a page, and the length */
    assert_int_equal(sim_fs_used(fs), 2 * PAGE);
}

static void what_chance_leaves_alone_is_all_there(void **state) {
    struct sim_fs *fs = *state;
    store(fs, "/a/file", "text", false);
    assert_int_equal(sim_fs_rename(fs, "/a/file", "/b/file", true), 0);
    struct sim_fs_crash_counts counts = crash(fs, &lose_nothing, 1);
    assert_true(holds(fs, "/b/file", "text"));
    assert_false(exists(fs, "/a/file"));
    assert_int_equal(counts.lost_names + counts.lost_data + counts.torn_data, 0);
    counts = crash(fs, &lose_all, 1); /* and is on the disk now */
    assert_true(holds(fs, "/b/file", "text"));
    assert_int_equal(counts.lost_names + counts.lost_data, 0);
}

static void a_rename_without_a_sync_may_be_undone(void **state) {
    (void)state;
    size_t old_count = 0;
    for (uint64_t seed = 0; seed < SEED_COUNT; seed++) {
        struct sim_fs *fs = create();
        store(fs, "/a/file", "old", true);
        store(fs, "/a/new", "new", true);
        assert_int_equal(sim_fs_sync_folder(fs, "/a"), 0);
        assert_int_equal(sim_fs_rename(fs, "/a/new", "/a/file", true), 0);
        crash(fs, &half_of_all, seed);
        bool is_old = holds(fs, "/a/file", "old");
        assert_true(is_old || holds(fs, "/a/file", "new"));
        assert_int_equal(exists(fs, "/a/new"), is_old);
        assert_true(!is_old || holds(fs, "/a/new", "new"));
        assert_int_equal(sim_fs_used(fs), (is_old ? 4 : 3) * PAGE);
        old_count += is_old;
        sim_fs_destroy(fs);
    }
    assert_in_range(old_count, SEED_COUNT / 4, SEED_COUNT * 3 / 4);
}

static void a_rename_with_a_sync_is_never_undone(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < SEED_COUNT; seed++) {
        struct sim_fs *fs = create();
        store(fs, "/a/file", "old", true);
        assert_int_equal(sim_fs_sync_folder(fs, "/a"), 0);
        store(fs, "/a/new", "new", true);
        assert_int_equal(sim_fs_rename(fs, "/a/new", "/a/file", true), 0);
        assert_int_equal(sim_fs_sync_folder(fs, "/a"), 0);
        crash(fs, &half_of_all, seed);
        assert_true(holds(fs, "/a/file", "new"));
        assert_false(exists(fs, "/a/new"));
        assert_int_equal(sim_fs_inode_count(fs), 4);
        sim_fs_destroy(fs);
    }
}

static void a_rename_between_folders_is_atomic(void **state) {
    (void)state;
    size_t old_count = 0;
    for (uint64_t seed = 0; seed < SEED_COUNT; seed++) {
        struct sim_fs *fs = create();
        store(fs, "/a/file", "text", true);
        assert_int_equal(sim_fs_sync_folder(fs, "/a"), 0);
        store(fs, "/b/other", "x", false);
        assert_int_equal(sim_fs_rename(fs, "/a/file", "/b/file", true), 0);
        bool synced = seed % 4 < 2;
        if (synced) {
            assert_int_equal(sim_fs_sync_folder(fs, seed % 4 ? "/a" : "/b"), 0);
        }
        crash(fs, &half_of_all, seed);
        bool is_old = holds(fs, "/a/file", "text");
        assert_int_equal(holds(fs, "/b/file", "text"), !is_old);
        assert_false(synced && is_old);
        old_count += is_old;
        sim_fs_destroy(fs);
    }
    assert_in_range(old_count, SEED_COUNT / 8, SEED_COUNT / 2);
}

static void a_new_folders_name_needs_the_folder_above(void **state) {
    struct sim_fs *fs = *state;
    assert_int_equal(sim_fs_mkdir(fs, "/a/new", 0700), 0);
    store(fs, "/a/new/file", "text", true);
    assert_int_equal(sim_fs_sync_folder(fs, "/a/new"), 0);
    assert_int_equal(sim_fs_mkdir(fs, "/a/new/deep", 0700), 0);
    crash(fs, &lose_all, 1);
    assert_false(exists(fs, "/a/new"));
    assert_int_equal(sim_fs_inode_count(fs), 3); /* no orphans */
    assert_int_equal(sim_fs_mkdir(fs, "/a/new", 0700), 0);
    store(fs, "/a/new/file", "text", true);
    assert_int_equal(sim_fs_sync_folder(fs, "/a"), 0);
    crash(fs, &lose_all, 1);
    assert_true(exists(fs, "/a/new"));
    assert_false(exists(fs, "/a/new/file"));
}

static void a_file_is_not_lost_in_a_lost_folder(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < SEED_COUNT; seed++) {
        struct sim_fs *fs = create();
        store(fs, "/a/file", "text", true);
        assert_int_equal(sim_fs_sync_folder(fs, "/a"), 0);
        assert_int_equal(sim_fs_mkdir(fs, "/b/new", 0700), 0);
        assert_int_equal(sim_fs_rename(fs, "/a/file", "/b/new/file", true), 0);
        bool synced = seed % 2;
        if (synced) {
            assert_int_equal(sim_fs_sync_folder(fs, "/a"), 0);
        }
        crash(fs, &half_of_all, seed);
        bool is_new = holds(fs, "/b/new/file", "text");
        assert_int_equal(holds(fs, "/a/file", "text"), !is_new);
        assert_true(is_new || !synced);
        sim_fs_destroy(fs);
    }
}

static void a_folder_goes_only_when_what_was_in_it_went(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < SEED_COUNT; seed++) {
        struct sim_fs *fs = create();
        store(fs, "/a/file", "text", true);
        assert_int_equal(sim_fs_sync_folder(fs, "/a"), 0);
        assert_int_equal(sim_fs_rename(fs, "/a/file", "/b/file", true), 0);
        assert_int_equal(sim_fs_rmdir(fs, "/a"), 0);
        bool synced = seed % 2;
        if (synced) {
            assert_int_equal(sim_fs_sync_folder(fs, "/"), 0);
        }
        crash(fs, &half_of_all, seed);
        assert_int_equal(holds(fs, "/a/file", "text") + holds(fs, "/b/file", "text"), 1);
        assert_true(!synced || !exists(fs, "/a"));
        sim_fs_destroy(fs);
    }
}

static void folders_never_end_up_in_themselves(void **state) {
    (void)state;
    size_t moved_count = 0;
    for (uint64_t seed = 0; seed < SEED_COUNT; seed++) {
        struct sim_fs *fs = create();
        assert_int_equal(sim_fs_mkdir(fs, "/a/inner", 0700), 0);
        assert_int_equal(sim_fs_sync_folder(fs, "/a"), 0);
        assert_int_equal(sim_fs_rename(fs, "/a/inner", "/b/inner", true), 0);
        assert_int_equal(sim_fs_rename(fs, "/a", "/b/inner/a", true), 0);
        crash(fs, &half_of_all, seed);
        moved_count += exists(fs, "/b/inner/a");
        assert_int_equal(exists(fs, "/a/inner") + exists(fs, "/b/inner"), 1);
        assert_int_equal(exists(fs, "/a") + exists(fs, "/b/inner/a"), 1);
        sim_fs_destroy(fs);
    }
    assert_in_range(moved_count, 1, SEED_COUNT / 2);
}

/* Losing one change loses all later ones of that folder, unless asked otherwise. */
static void changes_of_a_folder_keep_their_order(void **state) {
    (void)state;
    static const struct sim_fs_crash in_order = {.lose_name_ppm = 300000};
    static const struct sim_fs_crash reordered = {.lose_name_ppm = 300000, .reorder_ppm = 500000};
    size_t reordered_count = 0;
    size_t both_count = 0;
    for (uint64_t seed = 0; seed < 2 * SEED_COUNT; seed++) {
        struct sim_fs *fs = create();
        store(fs, "/a/1", "", false);
        store(fs, "/a/2", "", false);
        store(fs, "/b/1", "", false);
        bool asked = seed % 2;
        struct sim_fs_crash_counts counts = crash(fs, asked ? &reordered : &in_order, seed);
        bool is_late = !exists(fs, "/a/1") && exists(fs, "/a/2");
        assert_true(asked || !is_late);
        assert_int_equal(counts.reordered_names, is_late);
        assert_int_equal(counts.lost_names,
                         3 - exists(fs, "/a/1") - exists(fs, "/a/2") - exists(fs, "/b/1"));
        reordered_count += is_late;
        both_count += !exists(fs, "/a/1") && exists(fs, "/b/1"); /* another folder's may be there */
        sim_fs_destroy(fs);
    }
    assert_in_range(reordered_count, 1, SEED_COUNT / 2);
    assert_true(both_count > 0);
}

static void a_removed_file_may_come_back_as_it_was(void **state) {
    struct sim_fs *fs = *state;
    store(fs, "/a/file", "text", true);
    assert_int_equal(sim_fs_sync_folder(fs, "/a"), 0);
    assert_int_equal(sim_fs_unlink(fs, "/a/file"), 0);
    assert_int_equal(sim_fs_used(fs), 2 * PAGE);
    assert_int_equal(sim_fs_inode_count(fs), 3);
    crash(fs, &lose_all, 1);
    assert_true(holds(fs, "/a/file", "text"));
    assert_int_equal(sim_fs_used(fs), 3 * PAGE);
    assert_int_equal(sim_fs_inode_count(fs), 4);
    assert_int_equal(sim_fs_unlink(fs, "/a/file"), 0);
    assert_int_equal(sim_fs_sync_folder(fs, "/a"), 0);
    crash(fs, &lose_all, 1);
    assert_false(exists(fs, "/a/file"));
}

static void an_unnamed_file_is_gone_or_linked(void **state) {
    struct sim_fs *fs = *state;
    struct sim_inode *inode = NULL;
    uint32_t flags = HOST_OPEN_WRITE | HOST_OPEN_UNNAMED;
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(sim_fs_open(fs, "/a", flags, 0600, &inode), 0);
        assert_int_equal(sim_inode_write(inode, "text", 4, 0), 0);
        sim_inode_sync(inode);
        if (i > 0) {
            assert_int_equal(sim_fs_link(fs, inode, "/a/file"), 0);
        }
        sim_inode_release(inode);
        if (i > 1) {
            assert_int_equal(sim_fs_sync_folder(fs, "/a"), 0);
        }
        crash(fs, &lose_all, 1);
        assert_int_equal(holds(fs, "/a/file", "text"), i > 1);
        assert_int_equal(sim_fs_inode_count(fs), i > 1 ? 4 : 3);
    }
}

static void a_full_log_is_written_oldest_first(void **state) {
    struct sim_fs *fs = *state;
    char path[32];
    for (unsigned i = 0; i < SIM_FS_CHANGE_COUNT_MAX + 1; i++) {
        snprintf(path, sizeof(path), "/a/%u", i);
        store(fs, path, "", false);
    }
    crash(fs, &lose_all, 1);
    assert_true(exists(fs, "/a/0"));
    snprintf(path, sizeof(path), "/a/%u", SIM_FS_CHANGE_COUNT_MAX / 2);
    assert_false(exists(fs, path));
}

/* ---- Bytes ------------------------------------------------------------------------------------ */

/* A file of pages with one byte each, on the disk, and then pages with another. */
static void overwrite(struct sim_fs *fs, size_t page_count, bool synced) {
    struct sim_inode *inode = NULL;
    uint8_t page[PAGE];
    assert_int_equal(sim_fs_open(fs, "/a/file", CREATE, 0600, &inode), 0);
    for (size_t i = 0; i < 2 * page_count; i++) {
        memset(page, i < page_count ? 'o' : 'n', sizeof(page));
        assert_int_equal(sim_inode_write(inode, page, PAGE, i % page_count * PAGE), 0);
        if (i + 1 == page_count || synced) {
            sim_inode_sync(inode);
        }
    }
    sim_inode_release(inode);
    assert_int_equal(sim_fs_sync_folder(fs, "/a"), 0);
}

/* Counts the sectors that are old and new; nothing else may be there, and no sector of both. */
static void count_sectors(struct sim_fs *fs, size_t page, size_t *ret_old, size_t *ret_new) {
    struct sim_inode *inode = NULL;
    uint8_t sector[SIM_FS_SECTOR_SIZE];
    size_t size = 0;
    *ret_old = 0;
    *ret_new = 0;
    assert_int_equal(sim_fs_open(fs, "/a/file", HOST_OPEN_READ, 0, &inode), 0);
    for (size_t i = 0; i < PAGE; i += sizeof(sector)) {
        assert_int_equal(sim_inode_read(inode, sector, sizeof(sector), page * PAGE + i, &size), 0);
        assert_int_equal(size, sizeof(sector));
        assert_memory_equal(sector, sector + 1, sizeof(sector) - 1);
        assert_true(sector[0] == 'o' || sector[0] == 'n');
        *ret_old += sector[0] == 'o';
        *ret_new += sector[0] == 'n';
    }
    sim_inode_release(inode);
}

static void a_torn_page_has_sectors_of_both(void **state) {
    struct sim_fs *fs = *state;
    size_t old = 0;
    size_t new = 0;
    overwrite(fs, 50, false);
    struct sim_fs_crash_counts counts = crash(fs, &tear_data, 1);
    assert_int_equal(counts.torn_data, 50);
    for (size_t i = 0; i < 50; i++) {
        count_sectors(fs, i, &old, &new);
        assert_true(old > 0 && new > 0);
    }
}

static void pages_are_lost_one_by_one(void **state) {
    struct sim_fs *fs = *state;
    static const struct sim_fs_crash some = {.lose_data_ppm = 300000};
    size_t old = 0;
    size_t new = 0;
    size_t lost_count = 0;
    overwrite(fs, 200, false);
    struct sim_fs_crash_counts counts = crash(fs, &some, 1);
    for (size_t i = 0; i < 200; i++) {
        count_sectors(fs, i, &old, &new);
        assert_true(old == 0 || new == 0);
        lost_count += old > 0;
    }
    assert_in_range(lost_count, 30, 90);
    assert_int_equal(counts.lost_data, lost_count);
}

static void what_was_synced_stays(void **state) {
    struct sim_fs *fs = *state;
    size_t old = 0;
    size_t new = 0;
    overwrite(fs, 3, true);
    struct sim_fs_crash_counts counts = crash(fs, &lose_all, 1);
    counts.lost_data += crash(fs, &tear_data, 1).torn_data;
    assert_int_equal(counts.lost_data, 0);
    for (size_t i = 0; i < 3; i++) {
        count_sectors(fs, i, &old, &new);
        assert_int_equal(old, 0);
    }
}

static void a_length_lies_between_old_and_new(void **state) {
    (void)state;
    bool seen[3] = {0};
    for (uint64_t seed = 0; seed < SEED_COUNT; seed++) {
        struct sim_fs *fs = create();
        struct sim_inode *inode = NULL;
        struct host_file_info info;
        assert_int_equal(sim_fs_open(fs, "/a/file", CREATE, 0600, &inode), 0);
        assert_int_equal(sim_inode_write(inode, "0123456789", 10, 0), 0);
        sim_inode_sync(inode);
        assert_int_equal(sim_inode_truncate(inode, 4), 0);
        assert_int_equal(sim_inode_write(inode, "abcdefghij", 10, PAGE), 0);
        assert_int_equal(sim_inode_truncate(inode, PAGE + 2), 0);
        sim_inode_release(inode);
        assert_int_equal(sim_fs_sync_folder(fs, "/a"), 0);
        crash(fs, &half_of_all, seed);
        assert_int_equal(sim_fs_stat(fs, "/a/file", &info), 0);
        assert_in_range(info.size, 4, PAGE + 10);
        seen[0] |= info.size == 10;
        seen[1] |= info.size == PAGE + 2;
        seen[2] |= info.size != 10 && info.size != PAGE + 2;
        /* Behind the end there is nothing, should it grow again. */
        uint8_t bytes[PAGE + 100];
        size_t size = 0;
        assert_int_equal(sim_fs_open(fs, "/a/file", CREATE, 0600, &inode), 0);
        assert_int_equal(sim_inode_truncate(inode, sizeof(bytes)), 0);
        assert_int_equal(sim_inode_read(inode, bytes, sizeof(bytes), 0, &size), 0);
        for (size_t i = info.size; i < sizeof(bytes); i++) {
            assert_int_equal(bytes[i], 0);
        }
        sim_inode_release(inode);
        sim_fs_destroy(fs);
    }
    assert_true(seen[0] && seen[1] && seen[2]);
}

static void a_failed_sync_is_not_made_good_by_a_later_one(void **state) {
    struct sim_fs *fs = *state;
    struct sim_inode *inode = NULL;
    store(fs, "/a/file", "old", true);
    assert_int_equal(sim_fs_sync_folder(fs, "/a"), 0);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(sim_fs_open(fs, "/a/file", CREATE, 0600, &inode), 0);
        assert_int_equal(sim_inode_write(inode, "newer", 5, 0), 0);
        sim_inode_sync_failed(inode);
        if (i == 1) {
            assert_int_equal(sim_inode_write(inode, "x", 1, 2 * PAGE), 0); /* another page */
        }
        if (i == 2) {
            assert_int_equal(sim_inode_write(inode, "newer", 5, 0), 0); /* all of it, again */
        }
        sim_inode_sync(inode);
        sim_inode_release(inode);
        crash(fs, &lose_data, 1);
        char text[2 * PAGE + 2] = {0};
        size_t size = 0;
        assert_int_equal(sim_fs_open(fs, "/a/file", CREATE, 0600, &inode), 0);
        assert_int_equal(sim_inode_read(inode, text, sizeof(text) - 1, 0, &size), 0);
        assert_string_equal(text, i == 2 ? "newer" : "old");
        assert_int_equal(size, i == 1 ? 2 * PAGE + 1 : strlen(text));
        assert_int_equal(sim_inode_truncate(inode, strlen(text)), 0);
        sim_inode_sync(inode);
        sim_inode_release(inode);
    }
    /* What chance leaves alone is there, though the sync failed. */
    assert_int_equal(sim_fs_open(fs, "/a/file", CREATE, 0600, &inode), 0);
    assert_int_equal(sim_inode_write(inode, "again", 5, 0), 0);
    sim_inode_sync_failed(inode);
    sim_inode_release(inode);
    crash(fs, &lose_nothing, 1);
    assert_true(holds(fs, "/a/file", "again"));
}

static void an_emptied_file_may_have_its_old_bytes(void **state) {
    struct sim_fs *fs = *state;
    store(fs, "/a/file", "a long text", true);
    assert_int_equal(sim_fs_sync_folder(fs, "/a"), 0);
    struct sim_inode *inode = NULL;
    assert_int_equal(sim_fs_open(fs, "/a/file", HOST_OPEN_WRITE | HOST_OPEN_TRUNCATE, 0, &inode),
                     0);
    assert_int_equal(sim_inode_write(inode, "short", 5, 0), 0);
    sim_inode_release(inode);
    crash(fs, &lose_all, 1);
    assert_true(holds(fs, "/a/file", "a long text"));
}

static void a_bad_sector_survives_and_so_does_its_repair(void **state) {
    struct sim_fs *fs = *state;
    uint8_t page[PAGE] = {1};
    size_t size = 0;
    for (size_t i = 0; i < 3; i++) {
        struct sim_inode *inode = NULL;
        overwrite(fs, 1, true);
        assert_int_equal(sim_fs_open(fs, "/a/file", CREATE, 0600, &inode), 0);
        sim_inode_spoil(inode, 0);
        if (i > 0) {
            assert_int_equal(sim_inode_write(inode, page, PAGE, 0), 0);
        }
        if (i > 1) {
            sim_inode_sync(inode);
        }
        sim_inode_release(inode);
        crash(fs, &lose_all, 1);
        assert_int_equal(sim_fs_open(fs, "/a/file", CREATE, 0600, &inode), 0);
        int expected = i > 1 ? 0 : EIO;
        assert_int_equal(sim_inode_read(inode, page, PAGE, 0, &size), expected);
        sim_inode_release(inode);
    }
}

static void writes_through_a_mapping_need_a_sync_too(void **state) {
    struct sim_fs *fs = *state;
    for (size_t i = 0; i < 2; i++) {
        struct sim_inode *inode = NULL;
        store(fs, "/a/file", "old", true);
        assert_int_equal(sim_fs_open(fs, "/a/file", CREATE, 0600, &inode), 0);
        assert_int_equal(sim_inode_truncate(inode, 4 * PAGE), 0);
        sim_inode_sync(inode);
        assert_int_equal(sim_fs_sync_folder(fs, "/a"), 0);
        char *data = sim_inode_map(inode, 4 * PAGE, HOST_MAP_SHARED_WRITE);
        assert_non_null(data);
        memcpy(data, "new", 3);
        data[2 * PAGE] = 'x';
        if (i > 0) {
            sim_inode_sync(inode);
            data[1] = 'w'; /* and once more */
        }
        sim_inode_unmap(inode, data, 4 * PAGE);
        sim_inode_release(inode);
        assert_int_equal(sim_fs_used(fs), 4 * PAGE);
        crash(fs, &lose_data, 1);
        char text[2 * PAGE + 1];
        size_t size = 0;
        assert_int_equal(sim_fs_open(fs, "/a/file", CREATE, 0600, &inode), 0);
        assert_int_equal(sim_inode_read(inode, text, sizeof(text), 0, &size), 0);
        assert_string_equal(text, i ? "new" : "old");
        assert_int_equal(text[2 * PAGE], i ? 'x' : 0);
        sim_inode_release(inode);
        assert_int_equal(sim_fs_used(fs), (i ? 4 : 3) * PAGE);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_files_sync_does_not_sync_its_name, setup, teardown),
        cmocka_unit_test_setup_teardown(a_folders_sync_does_not_sync_bytes, setup, teardown),
        cmocka_unit_test_setup_teardown(what_chance_leaves_alone_is_all_there, setup, teardown),
        cmocka_unit_test(a_rename_without_a_sync_may_be_undone),
        cmocka_unit_test(a_rename_with_a_sync_is_never_undone),
        cmocka_unit_test(a_rename_between_folders_is_atomic),
        cmocka_unit_test_setup_teardown(a_new_folders_name_needs_the_folder_above, setup, teardown),
        cmocka_unit_test(a_file_is_not_lost_in_a_lost_folder),
        cmocka_unit_test(a_folder_goes_only_when_what_was_in_it_went),
        cmocka_unit_test(folders_never_end_up_in_themselves),
        cmocka_unit_test(changes_of_a_folder_keep_their_order),
        cmocka_unit_test_setup_teardown(a_removed_file_may_come_back_as_it_was, setup, teardown),
        cmocka_unit_test_setup_teardown(an_unnamed_file_is_gone_or_linked, setup, teardown),
        cmocka_unit_test_setup_teardown(a_full_log_is_written_oldest_first, setup, teardown),
        cmocka_unit_test_setup_teardown(a_torn_page_has_sectors_of_both, setup, teardown),
        cmocka_unit_test_setup_teardown(pages_are_lost_one_by_one, setup, teardown),
        cmocka_unit_test_setup_teardown(what_was_synced_stays, setup, teardown),
        cmocka_unit_test(a_length_lies_between_old_and_new),
        cmocka_unit_test_setup_teardown(a_failed_sync_is_not_made_good_by_a_later_one, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(an_emptied_file_may_have_its_old_bytes, setup, teardown),
        cmocka_unit_test_setup_teardown(a_bad_sector_survives_and_so_does_its_repair, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(writes_through_a_mapping_need_a_sync_too, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
