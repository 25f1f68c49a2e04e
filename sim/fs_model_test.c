/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The simulated file system against a tiny model: random operations on a dozen names in two folders, a crash now and
 * then. The model is naive: whole files, each kept twice (as it is seen, and as it is on the disk), and for each name
 * all that it led to since its folder was synced. A second test moves whole folders about and only looks that the
 * file system stays whole.
 */
#include "sim/fs_internal.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"
#include "base/checked.h"

#define PAGE SIM_FS_PAGE_SIZE
#define SECTOR SIM_FS_SECTOR_SIZE
#define PAGE_COUNT 3
#define FILE_SIZE_MAX (PAGE_COUNT * PAGE)
#define FOLDER_COUNT 2
#define NAME_COUNT 6
#define FILE_COUNT_MAX 64  /* of one run, from crash to crash */
#define VALUE_COUNT_MAX 64 /* of one name, since the sync */
#define NO_FILE (-1)
#define SEED_COUNT 150
#define STEP_COUNT 400
#define TREE_STEP_COUNT 300

struct model_file {
    uint64_t inode;
    size_t size;
    size_t size_min; /* that it may have after a crash */
    size_t size_max;
    bool size_dirty;
    bool was_durable; /* its name was on the disk, and it was not removed since */
    bool has_data[PAGE_COUNT];
    bool dirty[PAGE_COUNT];
    uint8_t seen[FILE_SIZE_MAX];
    uint8_t disk[FILE_SIZE_MAX];
};

struct model_name {
    int file;
    int values[VALUE_COUNT_MAX]; /* since the sync; the first is on the disk */
    size_t value_count;
};

struct model {
    struct sim_fs *fs;
    struct sim_choices choices;
    struct model_name names[FOLDER_COUNT * NAME_COUNT];
    struct model_file files[FILE_COUNT_MAX];
    int file_count;
};

static const char *path_of(size_t name, char path[8]) {
    snprintf(path, 8, "/%c/%c", "ab"[name / NAME_COUNT], (char)('0' + name % NAME_COUNT));
    return path;
}

static size_t choose(struct model *model, size_t count) {
    return (size_t)sim_choose(&model->choices, count);
}

static void set_name(struct model *model, size_t index, int file) {
    struct model_name *name = &model->names[index];
    assert_true(name->value_count < VALUE_COUNT_MAX);
    name->file = file;
    name->values[name->value_count++] = file;
}

static struct sim_inode *open_name(struct model *model, size_t name) {
    struct sim_inode *inode = NULL;
    char path[8];
    uint32_t flags = HOST_OPEN_READ | HOST_OPEN_WRITE;
    assert_int_equal(sim_fs_open(model->fs, path_of(name, path), flags, 0, &inode), 0);
    return inode;
}

/* ---- Operations ------------------------------------------------------------------------------- */

static void sync_folder(struct model *model, size_t folder) {
    assert_int_equal(sim_fs_sync_folder(model->fs, folder ? "/b" : "/a"), 0);
    for (size_t i = folder * NAME_COUNT; i < (folder + 1) * NAME_COUNT; i++) {
        struct model_name *name = &model->names[i];
        name->values[0] = name->file;
        name->value_count = 1;
        if (name->file != NO_FILE) {
            model->files[name->file].was_durable = true;
        }
    }
}

static void make(struct model *model, size_t name) {
    struct sim_inode *inode = NULL;
    struct host_file_info info;
    char path[8];
    if (model->file_count == FILE_COUNT_MAX) {
        return;
    }
    path_of(name, path);
    bool unnamed = choose(model, 2);
    uint32_t flags = HOST_OPEN_READ | HOST_OPEN_WRITE;
    flags |= unnamed ? HOST_OPEN_UNNAMED : HOST_OPEN_CREATE | HOST_OPEN_EXCLUSIVE;
    int expected = model->names[name].file == NO_FILE ? 0 : EEXIST;
    int error = sim_fs_open(model->fs, unnamed ? "/a" : path, flags, 0600, &inode);
    assert_int_equal(error, unnamed ? 0 : expected);
    if (unnamed) {
        assert_int_equal(sim_fs_link(model->fs, inode, path), expected);
    }
    if (expected == 0) {
        sim_inode_stat(inode, &info);
        set_name(model, name, model->file_count);
        model->files[model->file_count++] = (struct model_file){.inode = info.inode};
    }
    if (inode) {
        sim_inode_release(inode);
    }
}

static void set_size(struct model_file *file, size_t size) {
    file->size_dirty |= size != file->size;
    file->size = size;
    file->size_min = min_size(file->size_min, size);
    file->size_max = file->size_max > size ? file->size_max : size;
}

static void write_some(struct model *model, size_t name) {
    struct model_file *file = &model->files[model->names[name].file];
    struct sim_inode *inode = open_name(model, name);
    uint8_t data[FILE_SIZE_MAX];
    size_t offset = choose(model, FILE_SIZE_MAX);
    size_t size = 1 + choose(model, FILE_SIZE_MAX - offset);
    memset(data, (int)(1 + choose(model, 255)), size);
    assert_int_equal(sim_inode_write(inode, data, size, offset), 0);
    memcpy(file->seen + offset, data, size);
    for (size_t i = offset / PAGE; i * PAGE < offset + size; i++) {
        file->dirty[i] = true;
        file->has_data[i] = true;
    }
    set_size(file, file->size > offset + size ? file->size : offset + size);
    sim_inode_release(inode);
}

static void cut(struct model *model, size_t name) {
    struct model_file *file = &model->files[model->names[name].file];
    struct sim_inode *inode = open_name(model, name);
    size_t size = choose(model, FILE_SIZE_MAX + 1);
    assert_int_equal(sim_inode_truncate(inode, size), 0);
    for (size_t i = 0; i < PAGE_COUNT && size < file->size; i++) {
        if ((i + 1) * PAGE > size && file->has_data[i]) {
            file->dirty[i] = true;
            file->has_data[i] = i * PAGE < size;
        }
    }
    if (size < file->size) {
        memset(file->seen + size, 0, FILE_SIZE_MAX - size);
    }
    set_size(file, size);
    sim_inode_release(inode);
}

static void sync_file(struct model *model, size_t name, bool fails) {
    struct model_file *file = &model->files[model->names[name].file];
    struct sim_inode *inode = open_name(model, name);
    fails ? sim_inode_sync_failed(inode) : sim_inode_sync(inode);
    for (size_t i = 0; i < PAGE_COUNT; i++) {
        if (file->dirty[i] && !fails) {
            memcpy(file->disk + i * PAGE, file->seen + i * PAGE, PAGE);
        }
        file->dirty[i] = false;
    }
    if (file->size_dirty && !fails) {
        file->size_min = file->size;
        file->size_max = file->size;
    }
    file->size_dirty = false;
    sim_inode_release(inode);
}

static void rename_some(struct model *model, size_t from, size_t to) {
    char paths[2][8];
    bool replace = choose(model, 2);
    int file = model->names[from].file;
    int replaced = model->names[to].file;
    int expected = file == NO_FILE ? ENOENT : replaced != NO_FILE && !replace ? EEXIST : 0;
    int error = sim_fs_rename(model->fs, path_of(from, paths[0]), path_of(to, paths[1]), replace);
    assert_int_equal(error, expected);
    if (error || from == to) {
        return;
    }
    if (replaced != NO_FILE) {
        model->files[replaced].was_durable = false;
    }
    set_name(model, from, NO_FILE);
    set_name(model, to, file);
}

static void remove_some(struct model *model, size_t name) {
    char path[8];
    int file = model->names[name].file;
    int error = sim_fs_unlink(model->fs, path_of(name, path));
    assert_int_equal(error, file == NO_FILE ? ENOENT : 0);
    if (file != NO_FILE) {
        model->files[file].was_durable = false;
        set_name(model, name, NO_FILE);
    }
}

/* ---- What is there ---------------------------------------------------------------------------- */

static size_t load(struct model *model, size_t name, uint8_t bytes[FILE_SIZE_MAX]) {
    struct sim_inode *inode = open_name(model, name);
    struct host_file_info info;
    size_t size = 0;
    memset(bytes, 0, FILE_SIZE_MAX);
    sim_inode_stat(inode, &info);
    assert_true(info.size <= FILE_SIZE_MAX);
    assert_int_equal(sim_inode_read(inode, bytes, FILE_SIZE_MAX, 0, &size), 0);
    assert_int_equal(size, info.size);
    sim_inode_release(inode);
    return size;
}

/* Before a crash, or after one that lost nothing. */
static void assert_as_seen(struct model *model) {
    uint8_t bytes[FILE_SIZE_MAX];
    for (size_t i = 0; i < ARRAY_SIZE(model->names); i++) {
        struct host_file_info info;
        char path[8];
        int index = model->names[i].file;
        int error = sim_fs_stat(model->fs, path_of(i, path), &info);
        assert_int_equal(error, index == NO_FILE ? ENOENT : 0);
        if (index != NO_FILE) {
            const struct model_file *file = &model->files[index];
            assert_int_equal(info.inode, file->inode);
            assert_int_equal(load(model, i, bytes), file->size);
            assert_memory_equal(bytes, file->seen, FILE_SIZE_MAX);
            size_t page_count = 0;
            for (size_t j = 0; j < PAGE_COUNT; j++) {
                page_count += file->has_data[j];
            }
            assert_int_equal(info.allocated_size, page_count * PAGE);
        }
    }
}

/* Each sector is the one that was seen or the one on the disk, as far as the file reaches. */
static void assert_bytes_possible(const struct model_file *file, const uint8_t *bytes,
                                  size_t size) {
    assert_in_range(size, file->size_min, file->size_max);
    for (size_t start = 0; start < size; start += SECTOR) {
        size_t count = min_size(SECTOR, size - start);
        bool as_seen = memcmp(bytes + start, file->seen + start, count) == 0;
        assert_true(as_seen || memcmp(bytes + start, file->disk + start, count) == 0);
    }
}

/* What a name leads to is one of what it led to since the sync; takes it over. */
static void look_at_name(struct model *model, size_t index, size_t found[FILE_COUNT_MAX]) {
    struct model_name *name = &model->names[index];
    struct host_file_info info = {0};
    char path[8];
    bool exists = sim_fs_stat(model->fs, path_of(index, path), &info) == 0;
    int file = NO_FILE;
    bool possible = false;
    for (size_t i = 0; i < name->value_count; i++) {
        int value = name->values[i];
        if (value == NO_FILE ? !exists : exists && model->files[value].inode == info.inode) {
            possible = true;
            file = value;
        }
    }
    assert_true(possible);
    *name = (struct model_name){.file = file, .values[0] = file, .value_count = 1};
    if (file != NO_FILE) {
        uint8_t bytes[FILE_SIZE_MAX];
        size_t size = load(model, index, bytes);
        assert_bytes_possible(&model->files[file], bytes, size);
        found[file]++;
    }
}

/* The model goes on with what is there. Unused places of files are given back. */
static void adopt(struct model *model) {
    struct model_file *files = calloc(FILE_COUNT_MAX, sizeof(*files));
    assert_non_null(files);
    int count = 0;
    for (size_t i = 0; i < ARRAY_SIZE(model->names); i++) {
        struct model_name *name = &model->names[i];
        if (name->file == NO_FILE) {
            continue;
        }
        struct model_file *file = &files[count];
        struct sim_inode *inode = open_name(model, i);
        file->inode = model->files[name->file].inode;
        file->was_durable = true;
        file->size = load(model, i, file->seen);
        file->size_min = file->size;
        file->size_max = file->size;
        memcpy(file->disk, file->seen, FILE_SIZE_MAX);
        for (size_t j = 0; j < PAGE_COUNT; j++) {
            file->has_data[j] = sim_page_has_data(inode, j);
        }
        sim_inode_release(inode);
        name->file = count++;
        name->values[0] = name->file;
        name->value_count = 1;
    }
    memcpy(model->files, files, FILE_COUNT_MAX * sizeof(*files));
    model->file_count = count;
    free(files);
}

static void crash(struct model *model) {
    static const uint32_t ppms[] = {0, 200000, 500000, SIM_PPM};
    struct sim_fs_crash rates = {ppms[choose(model, 4)], ppms[choose(model, 4)],
                                 ppms[choose(model, 4)], ppms[choose(model, 4)]};
    struct sim_fs_crash_counts counts;
    size_t found[FILE_COUNT_MAX] = {0};
    sim_fs_crash(model->fs, &model->choices, &rates, &counts);
    bool names_stay = rates.lose_name_ppm == 0;
    if (names_stay && rates.lose_data_ppm == 0 && rates.tear_data_ppm == 0) {
        assert_as_seen(model);
    }
    for (size_t i = 0; i < ARRAY_SIZE(model->names); i++) {
        int before = model->names[i].file;
        look_at_name(model, i, found);
        assert_true(!names_stay || model->names[i].file == before);
    }
    size_t named = 0;
    for (int i = 0; i < model->file_count; i++) {
        assert_true(found[i] <= 1);
        assert_true(found[i] == 1 || !model->files[i].was_durable);
        named += found[i];
    }
    assert_int_equal(sim_fs_inode_count(model->fs), named + FOLDER_COUNT + 1);
    adopt(model);
}

static void step(struct model *model) {
    size_t name = choose(model, ARRAY_SIZE(model->names));
    size_t other = choose(model, ARRAY_SIZE(model->names));
    bool has_file = model->names[name].file != NO_FILE;
    /* A name that changed a lot since its folder's sync has no room for more. */
    for (size_t i = 0; i < ARRAY_SIZE(model->names); i++) {
        if (model->names[i].value_count + 2 > VALUE_COUNT_MAX) {
            sync_folder(model, i / NAME_COUNT);
        }
    }
    switch (choose(model, 16)) {
    case 0:
    case 1:
    case 2:
        make(model, name);
        break;
    case 3:
        remove_some(model, name);
        break;
    case 4:
    case 5:
    case 6:
        rename_some(model, name, other);
        break;
    case 7:
        has_file ? cut(model, name) : make(model, name);
        break;
    case 8:
    case 9:
        has_file ? sync_file(model, name, choose(model, 3) == 0) : make(model, name);
        break;
    case 10:
        sync_folder(model, choose(model, FOLDER_COUNT));
        break;
    case 11:
        choose(model, 8) == 0 ? crash(model) : assert_as_seen(model);
        break;
    default:
        has_file ? write_some(model, name) : make(model, name);
        break;
    }
}

static void random_operations_do_what_the_model_does(void **state) {
    (void)state;
    struct model *model = calloc(1, sizeof(*model));
    assert_non_null(model);
    for (uint64_t seed = 0; seed < SEED_COUNT; seed++) {
        *model = (struct model){.fs = sim_fs_create(SIM_FS_CAPACITY_DEFAULT)};
        assert_non_null(model->fs);
        sim_choices_init(&model->choices, seed);
        for (size_t i = 0; i < ARRAY_SIZE(model->names); i++) {
            model->names[i] = (struct model_name){NO_FILE, {NO_FILE}, 1};
        }
        assert_int_equal(sim_fs_mkdir(model->fs, "/a", 0700), 0);
        assert_int_equal(sim_fs_mkdir(model->fs, "/b", 0700), 0);
        assert_int_equal(sim_fs_sync_folder(model->fs, "/"), 0);
        for (size_t i = 0; i < STEP_COUNT; i++) {
            step(model);
        }
        crash(model);
        sim_fs_destroy(model->fs);
    }
    free(model);
}

/* ---- Folders ---------------------------------------------------------------------------------- */

/* One to four parts of three names, "..", and what is made of them. */
static const char *random_path(struct sim_choices *choices, char path[16]) {
    size_t count = 1 + sim_choose(choices, 4);
    for (size_t i = 0; i < count; i++) {
        path[2 * i] = '/';
        path[2 * i + 1] = "xyzxyz."[sim_choose(choices, 7)];
    }
    path[2 * count] = '\0';
    return path;
}

static int tree_step(struct sim_fs *fs, struct sim_choices *choices) {
    char path[16];
    char other[16];
    struct sim_inode *inode = NULL;
    random_path(choices, path);
    random_path(choices, other);
    switch (sim_choose(choices, 9)) {
    case 0:
    case 1:
    case 2:
        return sim_fs_mkdir(fs, path, 0700);
    case 3:
        return sim_fs_rmdir(fs, path);
    case 4:
    case 5:
        return sim_fs_rename(fs, path, other, true);
    case 6:
        return sim_fs_sync_folder(fs, path);
    case 7:
        return sim_choose(choices, 4) ? sim_fs_unlink(fs, path) : sim_fs_symlink(fs, other, path);
    default:
        break;
    }
    int error = sim_fs_open(fs, path, HOST_OPEN_WRITE | HOST_OPEN_CREATE, 0600, &inode);
    if (!error) {
        error = sim_inode_write(inode, "x", 1, 0);
        sim_inode_release(inode);
    }
    return error;
}

/* All that is drawn and done, in one number. */
static uint64_t run_tree(uint64_t seed, uint64_t *ret_done) {
    struct sim_fs *fs = sim_fs_create(SIM_FS_CAPACITY_DEFAULT);
    struct sim_choices choices;
    struct sim_fs_crash_counts counts;
    static const struct sim_fs_crash rates = {300000, 300000, 200000, 500000};
    uint64_t trace = seed;
    assert_non_null(fs);
    sim_choices_init(&choices, seed);
    for (size_t i = 0; i < TREE_STEP_COUNT; i++) {
        int error = tree_step(fs, &choices);
        *ret_done += error == 0;
        sim_fs_assert_valid(fs);
        if (sim_choose(&choices, 40) == 0) {
            sim_fs_crash(fs, &choices, &rates, &counts);
            trace = sim_mix(trace, counts.lost_names, counts.reordered_names);
        }
        trace = sim_mix(trace, (uint64_t)error, sim_fs_inode_count(fs));
        trace = sim_mix(trace, sim_fs_used(fs), 0);
    }
    sim_fs_destroy(fs);
    return trace;
}

static void moved_folders_leave_a_tree_and_the_same_one_each_time(void **state) {
    (void)state;
    uint64_t done = 0;
    for (uint64_t seed = 0; seed < SEED_COUNT; seed++) {
        uint64_t trace = run_tree(seed, &done);
        void *elsewhere = malloc(1 + seed % 977); /* other addresses */
        assert_int_equal(run_tree(seed, &done), trace);
        free(elsewhere);
    }
    assert_true(done > SEED_COUNT * TREE_STEP_COUNT / 4);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_operations_do_what_the_model_does),
        cmocka_unit_test(moved_folders_leave_a_tree_and_the_same_one_each_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
