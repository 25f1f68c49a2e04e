/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Linux, Documentation/ABI/testing/sysfs-class-virtio-ports (drivers/char/virtio_console.c): each port has
 * its name in /sys/class/virtio-ports/vportXpY/name and a device of the same name in /dev. */
#include "channel.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "guest_limits.h"

#define PORTS_DIR "/sys/class/virtio-ports"

static bool port_is_ours(const char *port) {
    ASSERT(port);
    char path[PATH_MAX];
    char name[sizeof(CHANNEL_PORT_NAME) + 1] = {0};
    snprintf(path, sizeof(path), "%s/%.64s/name", PORTS_DIR, port);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t count = fd >= 0 ? read(fd, name, sizeof(name) - 1) : 0;
    if (fd >= 0) {
        close(fd);
    }
    name[strcspn(name, "\n")] = 0;
    ASSERT(count <= (ssize_t)sizeof(name));
    return strcmp(name, CHANNEL_PORT_NAME) == 0;
}

/* -1: not yet. */
static int port_find(void) {
    DIR *ports = opendir(PORTS_DIR);
    int fd = -1;
    for (uint32_t i = 0; ports && fd < 0 && i < GUEST_PORT_COUNT_MAX; i++) {
        const struct dirent *entry = readdir(ports);
        if (!entry) {
            break;
        }
        if (entry->d_name[0] != '.' && port_is_ours(entry->d_name)) {
            char path[PATH_MAX];
            int size = snprintf(path, sizeof(path), "/dev/%.64s", entry->d_name);
            ASSERT(size > 0 && (size_t)size < sizeof(path));
            fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
        }
    }
    if (ports) {
        closedir(ports);
    }
    ASSERT(fd == -1 || fd > 2);
    return fd;
}

enum kelpie_status channel_open(int *ret_fd, struct kelpie_error *err) {
    ASSERT(ret_fd);
    ASSERT(err);
    for (uint32_t waited_us = 0; waited_us < GUEST_CHANNEL_WAIT_MS * 1000;
         waited_us += GUEST_POLL_STEP_US) {
        int fd = port_find();
        if (fd >= 0) {
            *ret_fd = fd;
            return KELPIE_OK;
        }
        usleep(GUEST_POLL_STEP_US);
    }
    return error_set_os(err, ENODEV, "find the virtio port %s", CHANNEL_PORT_NAME);
}
