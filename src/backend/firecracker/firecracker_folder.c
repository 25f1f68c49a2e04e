/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "backend/firecracker/firecracker_folder.h"

#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"

#define PREFIX "kelpie-fc-"
#define DIGITS_COUNT 16
#define NAME_SIZE (sizeof(PREFIX) - 1 + DIGITS_COUNT)
#define FOLDER_MODE 0700
#define LOCK_MODE 0600
#define PATH_SIZE (FIRECRACKER_FOLDER_SIZE_MAX + 16)

static const char *base_of(struct host *host) {
    const char *base = host_environment(host, "XDG_RUNTIME_DIR");
    size_t room = FIRECRACKER_FOLDER_SIZE_MAX - sizeof("/" PREFIX) - DIGITS_COUNT;
    ASSERT(host);
    static_assert(FIRECRACKER_FOLDER_SIZE_MAX > sizeof("/tmp/" PREFIX) + DIGITS_COUNT, "/tmp fits");
    return base && base[0] == '/' && strlen(base) <= room ? base : "/tmp";
}

/* Removes a folder whose owner is gone. One that is being made has no lock yet: it is left alone. */
static void sweep_one(struct host *host, const char *path) {
    char lock[PATH_SIZE];
    AUTO_FD struct host_fd fd = {host, HOST_FD_NONE};
    ASSERT(host);
    ASSERT(path[0] == '/');
    snprintf(lock, sizeof(lock), "%s/lock", path);
    if (host_file_open(host, lock, HOST_OPEN_READ | HOST_OPEN_WRITE | HOST_OPEN_NO_FOLLOW, 0,
                       &fd.fd, NULL) == KELPIE_OK &&
        host_file_lock(host, fd.fd, true, NULL) == KELPIE_OK) {
        (void)!host_path_remove_folder(host, path, NULL);
    }
}

/* What cannot be looked at stays. */
static void sweep(struct host *host, const char *base) {
    size_t count = 0;
    ASSERT(host);
    ASSERT(base[0] == '/');
    AUTO_MEM struct host_dir_entry *entries =
        host_allocate(host, HOST_DIR_ENTRY_COUNT_MAX * sizeof(*entries), NULL);
    if (!entries ||
        host_dir_list(host, base, entries, HOST_DIR_ENTRY_COUNT_MAX, &count, NULL) != KELPIE_OK) {
        return;
    }
    for (size_t i = 0; i < count; i++) {
        const char *name = entries[i].name;
        char path[FIRECRACKER_FOLDER_SIZE_MAX + 1];
        if (strncmp(name, PREFIX, sizeof(PREFIX) - 1) == 0 && strlen(name) == NAME_SIZE) {
            snprintf(path, sizeof(path), "%s/%.*s", base, (int)NAME_SIZE, name);
            sweep_one(host, path);
        }
    }
}

static enum kelpie_status make_one(struct firecracker_folder *folder, struct host *host,
                                   const char *base, struct kelpie_error *err) {
    uint64_t number = 0;
    char lock[PATH_SIZE];
    ASSERT(folder->path[0] == '\0');
    ASSERT(folder->lock_fd == HOST_FD_NONE);
    TRY(host_random(host, &number, sizeof(number), err));
    char path[FIRECRACKER_FOLDER_SIZE_MAX + 1];
    int size =
        snprintf(path, sizeof(path), "%s/" PREFIX "%016llx", base, (unsigned long long)number);
    ASSERT(size > 0 && (size_t)size < sizeof(path));
    TRY(host_path_mkdir(host, path, FOLDER_MODE, err));
    memcpy(folder->path, path, sizeof(path)); /* from here on it is removed */
    snprintf(lock, sizeof(lock), "%s/lock", path);
    TRY(host_file_open(host, lock,
                       HOST_OPEN_READ | HOST_OPEN_WRITE | HOST_OPEN_CREATE | HOST_OPEN_EXCLUSIVE |
                           HOST_OPEN_NO_FOLLOW,
                       LOCK_MODE, &folder->lock_fd, err));
    TRY(host_file_lock(host, folder->lock_fd, true, err));
    /* Who took it for nobody's has removed it before letting go of the lock. */
    struct host_file_info info;
    enum kelpie_status status = host_path_stat(host, lock, &info, err);
    return status == KELPIE_NOT_FOUND ? KELPIE_BUSY : status;
}

enum kelpie_status firecracker_folder_make(struct firecracker_folder *folder, struct host *host,
                                           struct kelpie_error *err) {
    const char *base = base_of(host);
    enum kelpie_status status = KELPIE_BUSY;
    ASSERT(folder->path[0] == '\0');
    sweep(host, base);
    /* Somebody who sweeps may come between the file and its lock, and take it for nobody's. */
    for (int i = 0; i < FIRECRACKER_FOLDER_TRIES && status == KELPIE_BUSY; i++) {
        firecracker_folder_remove(folder, host);
        status = make_one(folder, host, base, err);
    }
    if (status != KELPIE_OK) {
        firecracker_folder_remove(folder, host);
        return error_wrap(err, status, "a folder for Firecracker's sockets cannot be made");
    }
    return KELPIE_OK;
}

void firecracker_folder_remove(struct firecracker_folder *folder, struct host *host) {
    ASSERT(folder);
    ASSERT(host);
    if (folder->path[0] != '\0') {
        (void)!host_path_remove_folder(host, folder->path, NULL);
    }
    host_close(host, folder->lock_fd);
    *folder = (struct firecracker_folder){.lock_fd = HOST_FD_NONE};
}
