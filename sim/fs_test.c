/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What is seen of the simulated file system: names, bytes, holes, mappings, locks. fs_crash_test.c has the rest. */
#include "sim/fs_internal.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"

#define MIB (1ull << 20)
#define PAGE SIM_FS_PAGE_SIZE
#define CREATE (HOST_OPEN_READ | HOST_OPEN_WRITE | HOST_OPEN_CREATE)

static int setup(void **state) {
    *state = sim_fs_create(SIM_FS_CAPACITY_DEFAULT);
    return *state ? 0 : -1;
}

/* Each test releases what it opened. */
static int teardown(void **state) {
    struct sim_fs *fs = *state;
    sim_fs_assert_valid(fs);
    size_t open_count = sim_fs_open_count(fs);
    sim_fs_destroy(fs);
    return open_count == 0 ? 0 : -1;
}

static struct sim_inode *open_file(struct sim_fs *fs, const char *path) {
    struct sim_inode *inode = NULL;
    assert_int_equal(sim_fs_open(fs, path, CREATE, 0600, &inode), 0);
    return inode;
}

static void store(struct sim_fs *fs, const char *path, const char *text) {
    struct sim_inode *inode = open_file(fs, path);
    assert_int_equal(sim_inode_write(inode, text, strlen(text), 0), 0);
    sim_inode_release(inode);
}

static void assert_holds(struct sim_fs *fs, const char *path, const char *text) {
    struct sim_inode *inode = NULL;
    char buffer[64] = {0};
    size_t size = 0;
    assert_int_equal(sim_fs_open(fs, path, HOST_OPEN_READ, 0, &inode), 0);
    assert_int_equal(sim_inode_read(inode, buffer, sizeof(buffer) - 1, 0, &size), 0);
    assert_string_equal(buffer, text);
    assert_int_equal(size, strlen(text));
    sim_inode_release(inode);
}

static int try_open(struct sim_fs *fs, const char *path, uint32_t flags) {
    struct sim_inode *inode = NULL;
    int error = sim_fs_open(fs, path, flags, 0600, &inode);
    if (!error) {
        sim_inode_release(inode);
    }
    return error;
}

static int try_stat(struct sim_fs *fs, const char *path) {
    struct host_file_info info;
    return sim_fs_stat(fs, path, &info);
}

/* ---- Names ------------------------------------------------------------------------------------ */

static void paths_lead_where_linux_has_them(void **state) {
    struct sim_fs *fs = *state;
    assert_int_equal(sim_fs_mkdir(fs, "/a", 0700), 0);
    assert_int_equal(sim_fs_mkdir(fs, "/a/b/", 0700), 0);
    store(fs, "/a/b/file", "text");
    assert_holds(fs, "//a/./b//../b/file", "text");
    assert_holds(fs, "/../../a/b/file", "text");
    assert_int_equal(try_stat(fs, "/a/b/"), 0);
    assert_int_equal(try_stat(fs, "/"), 0);
    assert_int_equal(try_stat(fs, ""), ENOENT);
    assert_int_equal(try_stat(fs, "/a/b/file/"), ENOTDIR);
    assert_int_equal(try_stat(fs, "/a/b/file/x"), ENOTDIR);
    assert_int_equal(try_stat(fs, "/a/c/file"), ENOENT);
    assert_int_equal(try_open(fs, "/a/new/", CREATE), EISDIR);
    assert_int_equal(try_open(fs, "/a", HOST_OPEN_READ), 0);
    assert_int_equal(try_open(fs, "/a", HOST_OPEN_WRITE), EISDIR);
    assert_int_equal(try_open(fs, "/a/none", HOST_OPEN_READ), ENOENT);
    assert_int_equal(try_open(fs, "/a/b/file", CREATE | HOST_OPEN_EXCLUSIVE), EEXIST);
    assert_int_equal(sim_fs_mkdir(fs, "/a/b", 0700), EEXIST);
    assert_int_equal(sim_fs_mkdir(fs, "/a/.", 0700), EEXIST);
    assert_int_equal(sim_fs_mkdir(fs, "/none/b", 0700), ENOENT);
    char path[HOST_PATH_SIZE_MAX + 8] = "/";
    memset(path + 1, 'x', HOST_NAME_SIZE_MAX);
    assert_int_equal(sim_fs_mkdir(fs, path, 0700), 0);
    path[HOST_NAME_SIZE_MAX + 1] = 'x';
    assert_int_equal(sim_fs_mkdir(fs, path, 0700), ENAMETOOLONG);
    memset(path, '/', sizeof(path) - 1);
    assert_int_equal(try_stat(fs, path), ENAMETOOLONG);
    path[HOST_PATH_SIZE_MAX] = '\0';
    assert_int_equal(try_stat(fs, path), 0);
}

static void links_are_followed(void **state) {
    struct sim_fs *fs = *state;
    char text[16];
    assert_int_equal(sim_fs_mkdir(fs, "/a", 0700), 0);
    store(fs, "/a/file", "text");
    assert_int_equal(sim_fs_symlink(fs, "../a", "/a/self"), 0);
    assert_int_equal(sim_fs_symlink(fs, "/a/self/file", "/last"), 0);
    assert_int_equal(sim_fs_symlink(fs, "a/new", "/dangling"), 0);
    assert_holds(fs, "/a/self/self/file", "text");
    assert_holds(fs, "/last", "text");
    assert_int_equal(try_open(fs, "/last", HOST_OPEN_READ | HOST_OPEN_NO_FOLLOW), ELOOP);
    assert_int_equal(try_open(fs, "/a/self/file", HOST_OPEN_READ | HOST_OPEN_NO_FOLLOW), 0);
    assert_int_equal(try_open(fs, "/last/", HOST_OPEN_READ), ENOTDIR);
    assert_int_equal(try_open(fs, "/dangling", HOST_OPEN_READ), ENOENT);
    assert_int_equal(try_open(fs, "/dangling", CREATE | HOST_OPEN_EXCLUSIVE), EEXIST);
    assert_int_equal(try_open(fs, "/dangling", CREATE), 0);
    assert_int_equal(try_stat(fs, "/a/new"), 0);

    struct host_file_info info;
    assert_int_equal(sim_fs_stat(fs, "/a/self", &info), 0);
    assert_int_equal(info.type, HOST_FILE_LINK);
    assert_int_equal(info.size, 4);
    assert_int_equal(sim_fs_stat(fs, "/a/self/.", &info), 0);
    assert_int_equal(info.type, HOST_FILE_FOLDER);
    assert_int_equal(sim_fs_readlink(fs, "/a/self", text, 5), 0);
    assert_string_equal(text, "../a");
    assert_int_equal(sim_fs_readlink(fs, "/a/self", text, 4), ERANGE);
    assert_int_equal(sim_fs_readlink(fs, "/a/file", text, 16), EINVAL);
    assert_int_equal(sim_fs_unlink(fs, "/a/self"), 0);
    assert_int_equal(try_stat(fs, "/a/file"), 0);
}

static void loops_of_links_end(void **state) {
    struct sim_fs *fs = *state;
    char target[32];
    char path[32];
    assert_int_equal(sim_fs_symlink(fs, "/y", "/x"), 0);
    assert_int_equal(sim_fs_symlink(fs, "/x", "/y"), 0);
    assert_int_equal(sim_fs_symlink(fs, "grows/grows", "/grows"), 0);
    assert_int_equal(try_open(fs, "/x", HOST_OPEN_READ), ELOOP);
    assert_int_equal(try_open(fs, "/grows", HOST_OPEN_READ), ELOOP);
    assert_int_equal(try_stat(fs, "/x/z"), ELOOP);
    store(fs, "/0", "text");
    for (int i = 1; i <= SIM_FS_LINK_DEPTH_MAX + 1; i++) {
        snprintf(target, sizeof(target), "%d", i - 1);
        snprintf(path, sizeof(path), "/%d", i);
        assert_int_equal(sim_fs_symlink(fs, target, path), 0);
        int error = try_open(fs, path, HOST_OPEN_READ);
        assert_int_equal(error, i <= SIM_FS_LINK_DEPTH_MAX ? 0 : ELOOP);
    }
}

static void renames_are_refused_as_linux_does(void **state) {
    struct sim_fs *fs = *state;
    assert_int_equal(sim_fs_mkdir(fs, "/a", 0700), 0);
    assert_int_equal(sim_fs_mkdir(fs, "/a/b", 0700), 0);
    assert_int_equal(sim_fs_mkdir(fs, "/empty", 0700), 0);
    store(fs, "/f", "f");
    store(fs, "/g", "g");
    assert_int_equal(sim_fs_rename(fs, "/none", "/x", true), ENOENT);
    assert_int_equal(sim_fs_rename(fs, "/f", "/none/x", true), ENOENT);
    assert_int_equal(sim_fs_rename(fs, "/f", "/g", false), EEXIST);
    assert_int_equal(sim_fs_rename(fs, "/f", "/a", true), EISDIR);
    assert_int_equal(sim_fs_rename(fs, "/a", "/f", true), ENOTDIR);
    assert_int_equal(sim_fs_rename(fs, "/f", "/x/", true), ENOTDIR);
    assert_int_equal(sim_fs_rename(fs, "/a", "/a/b/c", true), EINVAL);
    assert_int_equal(sim_fs_rename(fs, "/a", "/a/c", true), EINVAL);
    assert_int_equal(sim_fs_rename(fs, "/a/b", "/a", true), ENOTEMPTY);
    assert_int_equal(sim_fs_rename(fs, "/empty", "/a", true), ENOTEMPTY);
    assert_int_equal(sim_fs_rename(fs, "/a/.", "/x", true), EBUSY);
    assert_int_equal(sim_fs_rename(fs, "/f", "/", true), EBUSY);
    assert_int_equal(sim_fs_rename(fs, "/f", "/f", true), 0);
    assert_holds(fs, "/f", "f");
    size_t count = sim_fs_inode_count(fs);
    assert_int_equal(sim_fs_rename(fs, "/f", "/g", true), 0);
    assert_int_equal(sim_fs_inode_count(fs), count - 1);
    assert_holds(fs, "/g", "f");
    assert_int_equal(try_stat(fs, "/f"), ENOENT);
    assert_int_equal(sim_fs_rename(fs, "/a", "/empty", true), 0);
    assert_int_equal(sim_fs_rename(fs, "/empty/b", "/b/", true), 0);
    assert_int_equal(try_stat(fs, "/b/../empty"), 0);
}

static void names_come_and_go(void **state) {
    struct sim_fs *fs = *state;
    assert_int_equal(sim_fs_mkdir(fs, "/a", 0700), 0);
    store(fs, "/a/file", "text");
    assert_int_equal(sim_fs_rmdir(fs, "/a"), ENOTEMPTY);
    assert_int_equal(sim_fs_rmdir(fs, "/a/file"), ENOTDIR);
    assert_int_equal(sim_fs_rmdir(fs, "/"), EBUSY);
    assert_int_equal(sim_fs_rmdir(fs, "/a/."), EINVAL);
    assert_int_equal(sim_fs_unlink(fs, "/a"), EISDIR);
    assert_int_equal(sim_fs_unlink(fs, "/a/file/"), ENOTDIR);
    assert_int_equal(sim_fs_unlink(fs, "/a/none"), ENOENT);
    assert_int_equal(sim_fs_used(fs), 2 * PAGE);
    assert_int_equal(sim_fs_inode_count(fs), 3);

    struct sim_inode *inode = open_file(fs, "/a/file");
    assert_int_equal(sim_fs_unlink(fs, "/a/file"), 0);
    assert_int_equal(sim_fs_inode_count(fs), 3); /* it is open */
    assert_int_equal(sim_fs_link(fs, inode, "/again"), ENOENT);
    sim_inode_release(inode);
    assert_int_equal(sim_fs_inode_count(fs), 2);
    assert_int_equal(sim_fs_used(fs), PAGE);
    assert_int_equal(sim_fs_rmdir(fs, "/a/"), 0);
    assert_int_equal(sim_fs_used(fs), 0);
    assert_int_equal(sim_fs_inode_count(fs), 1);
}

static void an_unnamed_file_gets_one_name(void **state) {
    struct sim_fs *fs = *state;
    struct sim_inode *inode = NULL;
    uint32_t flags = HOST_OPEN_READ | HOST_OPEN_WRITE | HOST_OPEN_UNNAMED;
    assert_int_equal(sim_fs_open(fs, "/none", flags, 0600, &inode), ENOENT);
    assert_int_equal(sim_fs_open(fs, "/", flags, 0640, &inode), 0);
    assert_int_equal(sim_inode_write(inode, "text", 4, 0), 0);
    size_t count = 1;
    assert_int_equal(sim_fs_list(fs, "/", NULL, 0, &count), 0);
    assert_int_equal(count, 0);
    store(fs, "/taken", "taken");
    assert_int_equal(sim_fs_link(fs, inode, "/taken"), EEXIST);
    assert_int_equal(sim_fs_link(fs, inode, "/none/x"), ENOENT);
    assert_int_equal(sim_fs_link(fs, inode, "/file"), 0);
    assert_int_equal(sim_fs_link(fs, inode, "/twice"), ENOENT);
    sim_inode_release(inode);
    assert_holds(fs, "/file", "text");
    assert_holds(fs, "/taken", "taken");
    struct host_file_info info;
    assert_int_equal(sim_fs_stat(fs, "/file", &info), 0);
    assert_int_equal(info.mode, 0640);

    count = sim_fs_inode_count(fs);
    assert_int_equal(sim_fs_open(fs, "/", flags, 0600, &inode), 0);
    sim_inode_release(inode);
    assert_int_equal(sim_fs_inode_count(fs), count);
    inode = sim_inode_create_memory(fs, 0);
    assert_int_equal(sim_fs_link(fs, inode, "/memory"), EXDEV);
    sim_inode_release(inode);
}

static void lists_are_sorted_by_bytes(void **state) {
    struct sim_fs *fs = *state;
    static const char *const paths[] = {"/b", "/ab", "/a", "/\xc3\xa9", "/a-", "/B"};
    static const char *const sorted[] = {"B", "a", "a-", "ab", "b", "\xc3\xa9"};
    struct host_dir_entry entries[8];
    size_t count = 0;
    for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
        store(fs, paths[i], "x");
    }
    assert_int_equal(sim_fs_list(fs, "/", entries, 5, &count), ERANGE);
    assert_int_equal(sim_fs_list(fs, "/a", entries, 8, &count), ENOTDIR);
    assert_int_equal(sim_fs_list(fs, "/", entries, 6, &count), 0);
    assert_int_equal(count, 6);
    for (size_t i = 0; i < count; i++) {
        assert_string_equal(entries[i].name, sorted[i]);
    }
}

static void folders_have_their_limit(void **state) {
    struct sim_fs *fs = *state;
    char path[32];
    for (unsigned i = 0; i < SIM_FS_FOLDER_ENTRY_COUNT_MAX; i++) {
        snprintf(path, sizeof(path), "/%u", i * 7919 % SIM_FS_FOLDER_ENTRY_COUNT_MAX);
        assert_int_equal(try_open(fs, path, CREATE | HOST_OPEN_EXCLUSIVE), 0);
    }
    assert_int_equal(try_open(fs, "/more", CREATE), ENOSPC);
    assert_int_equal(sim_fs_rename(fs, "/1", "/0", true), 0);
    assert_int_equal(try_open(fs, "/more", CREATE), 0);
    assert_true(fs->change_count <= SIM_FS_CHANGE_COUNT_MAX);
}

static void a_socket_has_a_name_only(void **state) {
    struct sim_fs *fs = *state;
    struct host_file_info info;
    assert_int_equal(sim_fs_socket(fs, "/socket", 0700), 0);
    assert_int_equal(sim_fs_socket(fs, "/socket", 0700), EEXIST);
    assert_int_equal(sim_fs_stat(fs, "/socket", &info), 0);
    assert_int_equal(info.type, HOST_FILE_OTHER);
    assert_int_equal(try_open(fs, "/socket", HOST_OPEN_READ), ENXIO);
    assert_int_equal(sim_fs_unlink(fs, "/socket"), 0);
}

static void changes_are_stamped(void **state) {
    struct sim_fs *fs = *state;
    struct host_file_info info;
    sim_fs_set_time(fs, 100);
    store(fs, "/file", "text");
    sim_fs_set_time(fs, 200);
    assert_holds(fs, "/file", "text");
    assert_int_equal(sim_fs_stat(fs, "/file", &info), 0);
    assert_int_equal(info.modified_ns, 100);
    store(fs, "/file", "more");
    assert_int_equal(sim_fs_stat(fs, "/file", &info), 0);
    assert_int_equal(info.modified_ns, 200);
    assert_int_equal(sim_fs_stat(fs, "/", &info), 0);
    assert_int_equal(info.modified_ns, 100);
}

/* ---- Bytes ------------------------------------------------------------------------------------ */

static void bytes_are_where_they_were_written(void **state) {
    struct sim_fs *fs = *state;
    struct sim_inode *inode = open_file(fs, "/file");
    char buffer[3 * PAGE];
    size_t size = 0;
    assert_int_equal(sim_inode_write(inode, "over the edge", 13, PAGE - 4), 0);
    assert_int_equal(sim_inode_read(inode, buffer, sizeof(buffer), PAGE - 5, &size), 0);
    assert_int_equal(size, 14);
    assert_memory_equal(buffer, "\0over the edge", 14);
    assert_int_equal(sim_inode_read(inode, buffer, 4, PAGE + 9, &size), 0);
    assert_int_equal(size, 0);
    assert_int_equal(sim_inode_read(inode, buffer, 4, UINT64_MAX, &size), 0);
    assert_int_equal(size, 0);
    assert_int_equal(sim_inode_write(inode, "x", 1, SIM_FS_FILE_SIZE_MAX), EFBIG);
    assert_int_equal(sim_inode_write(inode, "x", 1, UINT64_MAX), EFBIG);
    assert_int_equal(sim_inode_truncate(inode, SIM_FS_FILE_SIZE_MAX + 1), EFBIG);
    assert_int_equal(sim_inode_truncate(inode, PAGE - 2), 0);
    assert_int_equal(sim_inode_truncate(inode, 3 * PAGE), 0);
    assert_int_equal(sim_inode_read(inode, buffer, sizeof(buffer), 0, &size), 0);
    assert_int_equal(size, 3 * PAGE);
    assert_memory_equal(buffer + PAGE - 4, "ov\0\0\0\0\0\0", 8);
    assert_int_equal(sim_fs_used(fs), PAGE);
    sim_inode_release(inode);
    assert_int_equal(try_open(fs, "/file", HOST_OPEN_WRITE | HOST_OPEN_TRUNCATE), 0);
    assert_int_equal(sim_fs_used(fs), 0);
}

static void assert_next_data(const struct sim_inode *inode, uint64_t offset, uint64_t start,
                             uint64_t end) {
    uint64_t found[2] = {1, 1};
    sim_inode_next_data(inode, offset, &found[0], &found[1]);
    assert_int_equal(found[0], start);
    assert_int_equal(found[1], end);
}

static void holes_are_found(void **state) {
    struct sim_fs *fs = *state;
    struct sim_inode *inode = open_file(fs, "/file");
    assert_next_data(inode, 0, 0, 0);
    assert_int_equal(sim_inode_truncate(inode, 1ull << 35), 0);
    assert_next_data(inode, 0, 1ull << 35, 1ull << 35);
    assert_int_equal(sim_inode_write(inode, "x", 1, 5 * PAGE + 7), 0);
    assert_int_equal(sim_inode_write(inode, "x", 1, 6 * PAGE), 0);
    assert_int_equal(sim_inode_write(inode, "x", 1, 300 * PAGE), 0);
    assert_int_equal(sim_inode_write(inode, "x", 1, (1ull << 35) - 1), 0);
    assert_next_data(inode, 0, 5 * PAGE, 7 * PAGE);
    assert_next_data(inode, 5 * PAGE + 100, 5 * PAGE + 100, 7 * PAGE);
    assert_next_data(inode, 7 * PAGE, 300 * PAGE, 301 * PAGE);
    assert_next_data(inode, 301 * PAGE, (1ull << 35) - PAGE, 1ull << 35);
    assert_next_data(inode, 1ull << 35, 1ull << 35, 1ull << 35);
    assert_next_data(inode, UINT64_MAX, 1ull << 35, 1ull << 35);
    assert_int_equal(sim_fs_used(fs), 4 * PAGE);
    assert_int_equal(sim_inode_truncate(inode, 300 * PAGE + 1), 0);
    assert_next_data(inode, 7 * PAGE, 300 * PAGE, 300 * PAGE + 1);
    struct host_file_info info;
    sim_inode_stat(inode, &info);
    assert_int_equal(info.allocated_size, 3 * PAGE);
    sim_inode_release(inode);
}

static void a_run_of_data_crosses_chunks(void **state) {
    struct sim_fs *fs = *state;
    struct sim_inode *inode = open_file(fs, "/file");
    uint8_t *data = calloc(200, PAGE);
    assert_non_null(data);
    assert_int_equal(sim_inode_write(inode, data, 200 * PAGE, 10 * PAGE), 0);
    assert_next_data(inode, 0, 10 * PAGE, 210 * PAGE);
    assert_next_data(inode, 64 * PAGE, 64 * PAGE, 210 * PAGE);
    free(data);
    sim_inode_release(inode);
}

static void a_full_disk_takes_what_fits(void **state) {
    struct sim_fs *fs = *state;
    uint8_t data[4 * PAGE];
    memset(data, 7, sizeof(data));
    sim_fs_set_capacity(fs, 3 * PAGE);
    struct sim_inode *inode = open_file(fs, "/file");
    assert_int_equal(sim_inode_write(inode, data, 4 * PAGE, 10), ENOSPC);
    struct host_file_info info;
    sim_inode_stat(inode, &info);
    assert_int_equal(info.size, 3 * PAGE);
    assert_int_equal(sim_fs_used(fs), 3 * PAGE);
    assert_int_equal(sim_inode_write(inode, data, 100, PAGE), 0); /* no page more */
    assert_int_equal(sim_inode_write(inode, data, 1, 3 * PAGE), ENOSPC);
    assert_int_equal(sim_fs_mkdir(fs, "/folder", 0700), ENOSPC);
    struct sim_inode *memory = sim_inode_create_memory(fs, PAGE);
    assert_int_equal(sim_inode_write(memory, data, PAGE, 0), 0); /* not on the disk */
    sim_inode_release(memory);
    sim_fs_set_capacity(fs, PAGE);
    assert_int_equal(sim_inode_truncate(inode, PAGE), 0);
    assert_int_equal(sim_inode_write(inode, data, 1, PAGE), ENOSPC);
    sim_inode_release(inode);
    assert_int_equal(sim_fs_unlink(fs, "/file"), 0);
    assert_int_equal(sim_fs_mkdir(fs, "/folder", 0700), 0);
}

static void a_bad_page_is_good_when_written_whole(void **state) {
    struct sim_fs *fs = *state;
    struct sim_inode *inode = open_file(fs, "/file");
    uint8_t data[3 * PAGE];
    size_t size = 0;
    memset(data, 7, sizeof(data));
    assert_int_equal(sim_inode_write(inode, data, 2 * PAGE + 100, 0), 0);
    sim_inode_spoil(inode, 2 * PAGE + 200);
    assert_int_equal(sim_inode_read(inode, data, 1, 2 * PAGE, &size), 0);
    sim_inode_spoil(inode, PAGE + 5);
    sim_inode_spoil(inode, 2 * PAGE + 5);
    assert_int_equal(sim_inode_read(inode, data, PAGE, 0, &size), 0);
    assert_int_equal(sim_inode_read(inode, data, 2, PAGE - 1, &size), EIO);
    assert_int_equal(sim_inode_write(inode, data, PAGE - 1, PAGE + 1), EIO);
    assert_int_equal(sim_inode_read(inode, data, 1, PAGE, &size), EIO);
    assert_int_equal(sim_inode_write(inode, data, PAGE, PAGE), 0);
    assert_int_equal(sim_inode_read(inode, data, PAGE, PAGE, &size), 0);
    assert_int_equal(sim_inode_read(inode, data, 1, 2 * PAGE, &size), EIO);
    assert_int_equal(sim_inode_write(inode, data, 99, 2 * PAGE), EIO);
    assert_int_equal(sim_inode_write(inode, data, 100, 2 * PAGE), 0); /* all of it that there is */
    assert_int_equal(sim_inode_read(inode, data, 100, 2 * PAGE, &size), 0);
    sim_inode_release(inode);
}

/* ---- Mappings --------------------------------------------------------------------------------- */

static void a_private_mapping_is_a_copy(void **state) {
    struct sim_fs *fs = *state;
    struct sim_inode *inode = open_file(fs, "/file");
    char text[8] = {0};
    size_t size = 0;
    assert_int_equal(sim_inode_truncate(inode, 64 * MIB), 0);
    assert_int_equal(sim_inode_write(inode, "text", 4, 9 * MIB), 0);
    char *data = sim_inode_map(inode, 64 * MIB, HOST_MAP_PRIVATE_WRITE);
    assert_non_null(data);
    assert_int_equal((uintptr_t)data % PAGE, 0);
    assert_memory_equal(data + 9 * MIB, "text", 5);
    memcpy(data + 9 * MIB, "TEXT", 4);
    assert_int_equal(sim_inode_read(inode, text, 4, 9 * MIB, &size), 0);
    assert_string_equal(text, "text");
    assert_int_equal(sim_inode_write(inode, "more", 4, 9 * MIB), 0);
    assert_memory_equal(data + 9 * MIB, "TEXT", 5);
    sim_inode_unmap(inode, data, 64 * MIB);
    assert_int_equal(sim_fs_used(fs), PAGE);

    /* Only a part, which ends within a page. */
    data = sim_inode_map(inode, 9 * MIB + 2, HOST_MAP_PRIVATE_WRITE);
    assert_memory_equal(data + 9 * MIB, "mo\0\0", 4);
    sim_inode_unmap(inode, data, 9 * MIB + 2);
    sim_inode_release(inode);
}

static void a_shared_mapping_is_the_file(void **state) {
    struct sim_fs *fs = *state;
    struct sim_inode *inode = open_file(fs, "/file");
    char text[8] = {0};
    size_t size = 0;
    assert_int_equal(sim_inode_truncate(inode, 8 * MIB), 0);
    assert_int_equal(sim_inode_write(inode, "text", 4, MIB), 0);
    char *data = sim_inode_map(inode, 8 * MIB, HOST_MAP_SHARED_WRITE);
    const char *seen = sim_inode_map(inode, 4 * MIB, HOST_MAP_READ);
    assert_non_null(data);
    assert_memory_equal(seen + MIB, "text", 5);
    assert_int_equal(sim_inode_write(inode, "later", 5, 2 * MIB), 0);
    assert_memory_equal(seen + 2 * MIB, "later", 6);
    memcpy(data + 3 * MIB, "hole", 4);
    memcpy(data + MIB, "TEXT", 4);
    assert_memory_equal(seen + 3 * MIB, "hole", 5);
    assert_int_equal(sim_inode_read(inode, text, 4, 3 * MIB, &size), 0);
    assert_string_equal(text, "hole");
    assert_next_data(inode, 2 * MIB + PAGE, 3 * MIB, 3 * MIB + PAGE);
    assert_null(sim_inode_map(inode, 8 * MIB + 1, HOST_MAP_READ)); /* it cannot move */
    sim_inode_unmap(inode, (void *)(uintptr_t)seen, 4 * MIB);
    sim_inode_unmap(inode, data, 8 * MIB);
    assert_int_equal(sim_fs_used(fs), 3 * PAGE);
    assert_int_equal(sim_inode_read(inode, text, 4, MIB, &size), 0);
    assert_string_equal(text, "TEXT");
    assert_int_equal(sim_inode_truncate(inode, MIB), 0);
    assert_int_equal(sim_inode_truncate(inode, 9 * MIB), 0);
    data = sim_inode_map(inode, 9 * MIB, HOST_MAP_READ); /* it may move again */
    assert_non_null(data);
    assert_memory_equal(data + 3 * MIB, "\0\0\0\0", 4);
    sim_inode_unmap(inode, data, 9 * MIB);
    sim_inode_release(inode);
}

static void a_memory_file_knows_its_holes(void **state) {
    struct sim_fs *fs = *state;
    struct sim_inode *inode = sim_inode_create_memory(fs, 4 * MIB);
    char *data = sim_inode_map(inode, 4 * MIB, HOST_MAP_SHARED_WRITE);
    assert_non_null(data);
    assert_next_data(inode, 0, 4 * MIB, 4 * MIB);
    data[MIB + 17] = 1;
    assert_next_data(inode, 0, MIB, MIB + PAGE);
    sim_inode_unmap(inode, data, 4 * MIB);
    assert_next_data(inode, 0, MIB, MIB + PAGE);
    assert_int_equal(sim_inode_truncate(inode, 8 * MIB), 0);
    data = sim_inode_map(inode, 8 * MIB, HOST_MAP_READ);
    assert_int_equal(data[MIB + 17], 1);
    sim_inode_unmap(inode, data, 8 * MIB);
    assert_int_equal(sim_fs_used(fs), 0);
    struct host_file_info root;
    struct host_file_info info;
    assert_int_equal(sim_fs_stat(fs, "/", &root), 0);
    sim_inode_stat(inode, &info);
    assert_int_not_equal(info.device, root.device);
    sim_inode_release(inode);
    assert_int_equal(sim_fs_inode_count(fs), 1);
}

static void a_mapping_keeps_the_file(void **state) {
    struct sim_fs *fs = *state;
    store(fs, "/file", "text");
    struct sim_inode *inode = open_file(fs, "/file");
    char *data = sim_inode_map(inode, 4, HOST_MAP_READ);
    sim_inode_release(inode);
    assert_int_equal(sim_fs_unlink(fs, "/file"), 0);
    assert_int_equal(sim_fs_open_count(fs), 1);
    assert_memory_equal(data, "text", 4);
    sim_inode_unmap(inode, data, 4);
    assert_int_equal(sim_fs_inode_count(fs), 1);
}

/* ---- Locks ------------------------------------------------------------------------------------ */

static void locks_die_with_their_owner(void **state) {
    struct sim_fs *fs = *state;
    struct sim_inode *inode = open_file(fs, "/file");
    int owners[3] = {0};
    assert_int_equal(sim_inode_lock(inode, &owners[0], true), 0);
    assert_int_equal(sim_inode_lock(inode, &owners[1], true), EWOULDBLOCK);
    assert_int_equal(sim_inode_lock(inode, &owners[1], false), EWOULDBLOCK);
    sim_inode_unlock(inode, &owners[1]);
    assert_int_equal(sim_inode_lock(inode, &owners[1], false), EWOULDBLOCK);
    sim_inode_unlock(inode, &owners[0]);
    assert_int_equal(sim_inode_lock(inode, &owners[1], false), 0);
    assert_int_equal(sim_inode_lock(inode, &owners[2], false), 0);
    assert_int_equal(sim_inode_lock(inode, &owners[0], true), EWOULDBLOCK);
    assert_int_equal(sim_inode_lock(inode, &owners[1], true), EWOULDBLOCK); /* and loses its own */
    assert_int_equal(sim_inode_lock(inode, &owners[2], true), 0);
    sim_inode_unlock(inode, &owners[2]);
    int many[SIM_FS_LOCK_COUNT_MAX + 1] = {0};
    for (size_t i = 0; i < ARRAY_SIZE(many); i++) {
        int expected = i < SIM_FS_LOCK_COUNT_MAX ? 0 : ENOLCK;
        assert_int_equal(sim_inode_lock(inode, &many[i], false), expected);
    }
    sim_inode_release(inode);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(paths_lead_where_linux_has_them, setup, teardown),
        cmocka_unit_test_setup_teardown(links_are_followed, setup, teardown),
        cmocka_unit_test_setup_teardown(loops_of_links_end, setup, teardown),
        cmocka_unit_test_setup_teardown(renames_are_refused_as_linux_does, setup, teardown),
        cmocka_unit_test_setup_teardown(names_come_and_go, setup, teardown),
        cmocka_unit_test_setup_teardown(an_unnamed_file_gets_one_name, setup, teardown),
        cmocka_unit_test_setup_teardown(lists_are_sorted_by_bytes, setup, teardown),
        cmocka_unit_test_setup_teardown(folders_have_their_limit, setup, teardown),
        cmocka_unit_test_setup_teardown(a_socket_has_a_name_only, setup, teardown),
        cmocka_unit_test_setup_teardown(changes_are_stamped, setup, teardown),
        cmocka_unit_test_setup_teardown(bytes_are_where_they_were_written, setup, teardown),
        cmocka_unit_test_setup_teardown(holes_are_found, setup, teardown),
        cmocka_unit_test_setup_teardown(a_run_of_data_crosses_chunks, setup, teardown),
        cmocka_unit_test_setup_teardown(a_full_disk_takes_what_fits, setup, teardown),
        cmocka_unit_test_setup_teardown(a_bad_page_is_good_when_written_whole, setup, teardown),
        cmocka_unit_test_setup_teardown(a_private_mapping_is_a_copy, setup, teardown),
        cmocka_unit_test_setup_teardown(a_shared_mapping_is_the_file, setup, teardown),
        cmocka_unit_test_setup_teardown(a_memory_file_knows_its_holes, setup, teardown),
        cmocka_unit_test_setup_teardown(a_mapping_keeps_the_file, setup, teardown),
        cmocka_unit_test_setup_teardown(locks_die_with_their_owner, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
