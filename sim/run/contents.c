/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What files hold: bytes that a number decides, and that say which number. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "sim/run/scenario.h"

#define ID_SIZE sizeof(uint32_t)

static size_t size_of(uint32_t id) {
    static const size_t sizes[] = {ID_SIZE, 5, 100, 4096, 70000, SCENARIO_CONTENT_SIZE_MAX};
    ASSERT(id != 0);
    size_t size = sizes[sim_mix(id, 1, 1) % ARRAY_SIZE(sizes)];
    ASSERT(size >= ID_SIZE && size <= SCENARIO_CONTENT_SIZE_MAX);
    return size;
}

size_t contents_make(uint32_t id, uint8_t buffer[SCENARIO_CONTENT_SIZE_MAX]) {
    size_t size = size_of(id);
    ASSERT(buffer);
    ASSERT(size <= SCENARIO_CONTENT_SIZE_MAX);
    for (size_t i = 0; i < size; i += sizeof(uint64_t)) {
        uint64_t word = sim_mix(id, 2, i);
        memcpy(buffer + i, &word, size - i < sizeof(word) ? size - i : sizeof(word));
    }
    memcpy(buffer, &id, ID_SIZE);
    return size;
}

uint32_t contents_recognize(const void *data, size_t size) {
    const uint8_t *bytes = data;
    uint32_t id = 0;
    ASSERT(data || size == 0);
    if (size < ID_SIZE) {
        return 0;
    }
    memcpy(&id, bytes, ID_SIZE);
    if (id == 0 || size_of(id) != size) {
        return 0;
    }
    for (size_t i = 0; i < size; i += sizeof(uint64_t)) {
        uint64_t word = sim_mix(id, 2, i);
        size_t start = i == 0 ? ID_SIZE : 0;
        size_t end = size - i < sizeof(word) ? size - i : sizeof(word);
        if (end > start &&
            memcmp(bytes + i + start, (const uint8_t *)&word + start, end - start) != 0) {
            return 0;
        }
    }
    ASSERT(id != 0);
    return id;
}

/* ---- Files of the owner's machine ------------------------------------------------------------- */

bool contents_put(struct scenario *scenario, const char *path, uint32_t id) {
    struct sim_inode *inode = NULL;
    uint8_t *data = malloc(SCENARIO_CONTENT_SIZE_MAX);
    ASSERT(path[0] == '/');
    if (!data) {
        return false;
    }
    size_t size = contents_make(id, data);
    const uint32_t flags = HOST_OPEN_READ | HOST_OPEN_WRITE | HOST_OPEN_CREATE | HOST_OPEN_TRUNCATE;
    bool put = sim_fs_open(scenario->machine->fs, path, flags, 0644, &inode) == 0;
    if (put) {
        put = sim_inode_write(inode, data, size, 0) == 0;
        sim_inode_release(inode);
    }
    free(data);
    ASSERT(size > 0);
    return put;
}

bool contents_put_disk(struct scenario *scenario, uint32_t vm) {
    struct sim_fs *fs = scenario->machine->fs;
    struct sim_inode *inode = NULL;
    uint8_t piece[4096];
    char path[SCENARIO_PATH_SIZE];
    int os_error = 0;
    ASSERT(vm < STEPS_VM_COUNT_MAX);
    snprintf(path, sizeof(path), SCENARIO_DISK "%u", vm);
    if (sim_fs_open(fs, path, HOST_OPEN_READ | HOST_OPEN_WRITE | HOST_OPEN_CREATE, 0644, &inode) !=
        0) {
        return false;
    }
    /* Every second page is a hole. */
    for (uint64_t at = 0; os_error == 0 && at < SCENARIO_DISK_SIZE; at += 2 * sizeof(piece)) {
        memset(piece, (int)(1 + at / sizeof(piece)), sizeof(piece));
        os_error = sim_inode_write(inode, piece, sizeof(piece), at);
    }
    os_error = os_error == 0 ? sim_inode_truncate(inode, SCENARIO_DISK_SIZE) : os_error;
    sim_inode_sync(inode);
    sim_inode_release(inode);
    ASSERT(os_error >= 0);
    return os_error == 0 && sim_fs_sync_folder(fs, SCENARIO_FOLDER) == 0;
}

uint32_t contents_get(struct scenario *scenario, const char *path) {
    struct sim_inode *inode = NULL;
    size_t size = 0;
    uint8_t *data = malloc(SCENARIO_CONTENT_SIZE_MAX + 1);
    ASSERT(path[0] == '/');
    if (!data || sim_fs_open(scenario->machine->fs, path, HOST_OPEN_READ, 0, &inode) != 0) {
        free(data);
        return 0;
    }
    int os_error = sim_inode_read(inode, data, SCENARIO_CONTENT_SIZE_MAX + 1, 0, &size);
    sim_inode_release(inode);
    uint32_t id = os_error == 0 ? contents_recognize(data, size) : 0;
    free(data);
    ASSERT(size <= SCENARIO_CONTENT_SIZE_MAX + 1);
    return id;
}
