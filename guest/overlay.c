/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "overlay.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"

#define HEAD_SIZE 2048 /* of a device: every superblock's magic is in it */
#define OPTIONS_SIZE 512

/* Linux, include/uapi/linux/magic.h and the file systems' own headers. */
static const struct {
    const char *type;
    size_t offset;
    uint8_t magic[4];
    size_t magic_size;
} superblocks[] = {
    {"erofs", 1024, {0xe2, 0xe1, 0xf5, 0xe0}, 4},
    {"ext4", 1024 + 0x38, {0x53, 0xef}, 2},
    {"squashfs", 0, {'h', 's', 'q', 's'}, 4},
};

const char *overlay_lower_type(const char *device) {
    uint8_t head[HEAD_SIZE];
    ASSERT(device);
    int fd = open(device, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return NULL;
    }
    ssize_t size = pread(fd, head, sizeof(head), 0);
    close(fd);
    for (size_t i = 0; size == HEAD_SIZE && i < ARRAY_SIZE(superblocks); i++) {
        ASSERT(superblocks[i].offset + superblocks[i].magic_size <= HEAD_SIZE);
        if (memcmp(head + superblocks[i].offset, superblocks[i].magic, superblocks[i].magic_size) ==
            0) {
            return superblocks[i].type;
        }
    }
    return NULL;
}

enum kelpie_status overlay_mount(const char *lower, const char *upper, const char *target,
                                 struct kelpie_error *err) {
    char options[OPTIONS_SIZE];
    char folder[OPTIONS_SIZE];
    ASSERT(lower[0] == '/' && upper[0] == '/');
    ASSERT(target[0] == '/');
    static const char *const folders[] = {"upper", "work"};
    for (size_t i = 0; i < ARRAY_SIZE(folders); i++) {
        int length = snprintf(folder, sizeof(folder), "%s/%s", upper, folders[i]);
        ASSERT(length > 0 && (size_t)length < sizeof(folder));
        /* The upper folder's mode is the root's. */
        if (mkdir(folder, 0755) != 0 && errno != EEXIST) {
            return error_set_os(err, errno, "make the folder %.100s", folder);
        }
    }
    int length = snprintf(options, sizeof(options), "lowerdir=%s,upperdir=%s/upper,workdir=%s/work",
                          lower, upper, upper);
    ASSERT(length > 0 && (size_t)length < sizeof(options));
    if (mount("overlay", target, "overlay", MS_NOATIME, options) != 0) {
        return error_set_os(err, errno, "lay %.100s over %.100s", upper, lower);
    }
    return KELPIE_OK;
}
