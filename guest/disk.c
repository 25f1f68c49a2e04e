/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Disks: /dev/vdX, ext4, mounted where SETUP says; and the root of two layers (overlay.h). */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "file.h"
#include "modules.h"
#include "overlay.h"
#include "system.h"

#define DEVICE_SIZE_MAX 16
#define LOWER_DIR "/lower" /* outside the new root: commands do not see them */
#define UPPER_DIR "/upper"

/* The kernel finds disks while we already run. */
static enum kelpie_status device_wait(const char *device, struct kelpie_error *err) {
    ASSERT(device[0] == '/');
    struct stat info;
    for (uint32_t waited_us = 0; waited_us < GUEST_DEVICE_WAIT_MS * 1000;
         waited_us += GUEST_POLL_STEP_US) {
        if (stat(device, &info) == 0) {
            return KELPIE_OK;
        }
        usleep(GUEST_POLL_STEP_US);
    }
    ASSERT(err);
    return error_set_os(err, ENODEV, "find the disk %s", device);
}

/* Makes each folder of the path below root_fd that is missing, and opens the last. */
static enum kelpie_status folder_make(int root_fd, const char *path, int *ret_fd,
                                      struct kelpie_error *err) {
    ASSERT(path[0] == '/');
    ASSERT(ret_fd);
    char part[PROTOCOL_PATH_SIZE_MAX + 1];
    const char *slash = path;
    for (uint32_t depth = 0; slash && depth < GUEST_PATH_DEPTH_MAX; depth++) {
        slash = strchr(slash + 1, '/');
        size_t size = slash ? (size_t)(slash - path) : strlen(path);
        memcpy(part, path, size);
        part[size] = 0;
        const char *name = strrchr(part, '/') + 1;
        char parent[PROTOCOL_PATH_SIZE_MAX + 1];
        snprintf(parent, sizeof(parent), "%.*s", (int)(name - part), part);
        int parent_fd = file_open_in_root(root_fd, parent, O_PATH | O_DIRECTORY);
        if (parent_fd >= 0) {
            (void)mkdirat(parent_fd, name, 0755); /* opening it says whether it is there */
            close(parent_fd);
        }
    }
    int fd = file_open_in_root(root_fd, path, O_PATH | O_DIRECTORY);
    if (fd < 0) {
        return error_set_os(err, errno, "make the folder %.100s", path);
    }
    *ret_fd = fd;
    return KELPIE_OK;
}

static enum kelpie_status device_of(uint32_t disk_index, char ret_device[DEVICE_SIZE_MAX],
                                    struct kelpie_error *err) {
    ASSERT(disk_index < PROTOCOL_MOUNT_COUNT_MAX);
    ASSERT(ret_device);
    snprintf(ret_device, DEVICE_SIZE_MAX, "/dev/vd%c", (char)('a' + disk_index));
    return device_wait(ret_device, err);
}

static enum kelpie_status disk_mount(const struct protocol_mount *disk, const char *target,
                                     struct kelpie_error *err) {
    char device[DEVICE_SIZE_MAX];
    ASSERT(!disk->overlay);
    ASSERT(target);
    TRY(device_of(disk->disk_index, device, err));
    unsigned long flags = disk->read_only ? MS_RDONLY : 0;
    /* A disk that is read-only for the monitor cannot replay its journal. */
    const char *options = disk->read_only ? "noload" : NULL;
    if (mount(device, target, "ext4", flags | MS_NOATIME, options) != 0) {
        return error_set_os(err, errno, "mount %s at %.100s", device, disk->path);
    }
    return KELPIE_OK;
}

/* The lower layer may be of any kind that images are made of. */
static enum kelpie_status lower_mount(const char *device, struct kelpie_error *err) {
    ASSERT(device[0] == '/');
    ASSERT(err);
    const char *type = overlay_lower_type(device);
    if (!type) {
        return error_set_os(err, EINVAL, "find a file system on %s", device);
    }
    const char *options = strcmp(type, "ext4") == 0 ? "noload" : NULL;
    (void)mkdir(LOWER_DIR, 0700);
    if (mount(device, LOWER_DIR, type, MS_RDONLY | MS_NOATIME, options) != 0) {
        return error_set_os(err, errno, "mount %s (%s) below the root", device, type);
    }
    return KELPIE_OK;
}

/* Inode tables were made of holes, which read as zeros: nothing has to write them. */
static enum kelpie_status upper_mount(const char *device, struct kelpie_error *err) {
    ASSERT(device[0] == '/');
    ASSERT(err);
    (void)mkdir(UPPER_DIR, 0700);
    if (mount(device, UPPER_DIR, "ext4", MS_NOATIME, "noinit_itable") != 0) {
        return error_set_os(err, errno, "mount %s over the root", device);
    }
    return KELPIE_OK;
}

static enum kelpie_status layers_mount(const struct protocol_mount *disk,
                                       struct kelpie_error *err) {
    char lower[DEVICE_SIZE_MAX];
    char upper[DEVICE_SIZE_MAX];
    ASSERT(disk->overlay);
    ASSERT(disk->upper_index != disk->disk_index);
    TRY(device_of(disk->disk_index, lower, err));
    TRY(device_of(disk->upper_index, upper, err));
    TRY(lower_mount(lower, err));
    TRY(upper_mount(upper, err));
    return overlay_mount(LOWER_DIR, UPPER_DIR, AGENT_ROOT_DIR, err);
}

/* What every command expects of its root lies in ours already. */
static void bind_kernel_folders(void) {
    static const char *const folders[] = {"/proc", "/sys", "/dev", "/run", "/tmp"};
    ASSERT(ARRAY_SIZE(folders) == 5);
    for (size_t i = 0; i < ARRAY_SIZE(folders); i++) {
        char target[64];
        int size = snprintf(target, sizeof(target), "%s%s", AGENT_ROOT_DIR, folders[i]);
        ASSERT(size > 0 && (size_t)size < sizeof(target));
        (void)mkdir(target, 0755); /* a root that is read-only must have it */
        if (mount(folders[i], target, NULL, MS_BIND | MS_REC, NULL) != 0) {
            system_log("mount %s: %s", target, strerror(errno));
        }
    }
}

static enum kelpie_status root_mount(struct agent *agent, const struct protocol_mount *disk,
                                     struct kelpie_error *err) {
    ASSERT(!agent->root_is_disk);
    (void)mkdir(AGENT_ROOT_DIR, 0755);
    TRY(disk->overlay ? layers_mount(disk, err) : disk_mount(disk, AGENT_ROOT_DIR, err));
    int fd = open(AGENT_ROOT_DIR, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return error_set_os(err, errno, "open the root disk");
    }
    bind_kernel_folders();
    close(agent->root_fd);
    agent->root_fd = fd;
    agent->root_is_disk = true;
    ASSERT(agent->root_fd >= 0);
    return KELPIE_OK;
}

static enum kelpie_status folder_mount(struct agent *agent, const struct protocol_mount *disk,
                                       struct kelpie_error *err) {
    ASSERT(strcmp(disk->path, "/") != 0);
    int fd = -1;
    TRY(folder_make(agent->root_fd, disk->path, &fd, err));
    ASSERT(fd >= 0);
    char target[32];
    snprintf(target, sizeof(target), "/proc/self/fd/%d", fd);
    enum kelpie_status status = disk_mount(disk, target, err);
    close(fd);
    return status;
}

enum kelpie_status system_mount_disks(struct agent *agent, const struct protocol_setup *setup,
                                      struct kelpie_error *err) {
    ASSERT(agent->is_init);
    ASSERT(setup->mount_count <= PROTOCOL_MOUNT_COUNT_MAX);
    for (uint32_t i = 0; i < setup->mount_count; i++) {
        if (strcmp(setup->mounts[i].path, "/") == 0 && !agent->root_is_disk) {
            TRY(root_mount(agent, &setup->mounts[i], err));
        }
    }
    for (uint32_t i = 0; i < setup->mount_count; i++) {
        if (strcmp(setup->mounts[i].path, "/") != 0) {
            TRY(folder_mount(agent, &setup->mounts[i], err));
        }
    }
    return KELPIE_OK;
}

/* The driver has found a device of that tag once EINVAL is over; it may still be on its way. */
static bool share_mount(const char *tag, const char *target, unsigned long flags) {
    ASSERT(tag[0] != 0);
    ASSERT(target[0] == '/');
    for (uint32_t waited_us = 0; waited_us < GUEST_DEVICE_WAIT_MS * 1000;
         waited_us += GUEST_POLL_STEP_US) {
        if (mount(tag, target, "virtiofs", flags, NULL) == 0) {
            return true;
        }
        if (errno != EINVAL) {
            return false;
        }
        usleep(GUEST_POLL_STEP_US);
    }
    return false;
}

/* nosuid, nodev: what lies there belongs to another machine. */
enum kelpie_status system_mount_share(struct agent *agent, const struct protocol_share *share,
                                      struct kelpie_error *err) {
    char tag[32];
    char target[32];
    int fd = -1;
    ASSERT(share->index < PROTOCOL_SHARE_COUNT_MAX);
    ASSERT(err);
    if (!agent->is_init || !agent->set_up) {
        return error_set_os(err, EPERM, "mount the shared folder at %.100s", share->path);
    }
    modules_load(MODULES_LIST_SHARE); /* what is loaded already is nothing new */
    TRY(folder_make(agent->root_fd, share->path, &fd, err));
    snprintf(tag, sizeof(tag), PROTOCOL_SHARE_TAG, share->index);
    snprintf(target, sizeof(target), "/proc/self/fd/%d", fd);
    bool mounted =
        share_mount(tag, target, MS_NOSUID | MS_NODEV | (share->read_only ? MS_RDONLY : 0ul));
    int os_error = errno;
    close(fd);
    return mounted ? KELPIE_OK
                   : error_set_os(err, os_error, "mount the shared folder at %.100s", share->path);
}
