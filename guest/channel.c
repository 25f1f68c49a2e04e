/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Linux, Documentation/ABI/testing/sysfs-class-virtio-ports (drivers/char/virtio_console.c): each port has
 * its name in /sys/class/virtio-ports/vportXpY/name and a device of the same name in /dev.
 * Linux, drivers/virtio/virtio.c: /sys/bus/virtio/devices/virtioN/device is the type (virtio 1.2, chapter 5) in hexadecimal.
 * Addresses of AF_VSOCK: vsock(7).
 */
#include "channel.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/assert.h"
#include "guest_limits.h"

#define PORTS_DIR "/sys/class/virtio-ports"
#define DEVICES_DIR "/sys/bus/virtio/devices"
#define DEVICE_VSOCK 19
#define CID_HOST 2
#define US_PER_MS 1000

/* struct sockaddr_vm of linux/vm_sockets.h, which musl's headers do not come with. */
struct vsock_address {
    sa_family_t family;
    uint16_t reserved;
    uint32_t port;
    uint32_t cid;
    uint8_t flags;
    uint8_t zero[3];
};
static_assert(sizeof(struct vsock_address) == sizeof(struct sockaddr), "as the kernel wants it");

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

int channel_dial(void) {
    struct vsock_address address = {
        .family = AF_VSOCK, .port = PROTOCOL_VSOCK_PORT, .cid = CID_HOST};
    int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    ASSERT(fd == -1 || fd > 2);
    if (fd >= 0 && connect(fd, (const struct sockaddr *)&address, sizeof(address)) != 0 &&
        errno != EINPROGRESS) {
        close(fd);
        return -1;
    }
    ASSERT(address.cid == CID_HOST);
    return fd;
}

enum channel_progress channel_progress(int fd, int wait_ms) {
    ASSERT(fd >= 0);
    ASSERT(wait_ms >= 0);
    struct pollfd item = {.fd = fd, .events = POLLOUT};
    int os_error = 0;
    socklen_t size = sizeof(os_error);
    if (poll(&item, 1, wait_ms) <= 0) {
        return CHANNEL_PENDING;
    }
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &os_error, &size) != 0 || os_error != 0 ||
        item.revents != POLLOUT) {
        return CHANNEL_FAILED;
    }
    return CHANNEL_CONNECTED;
}

/* The type of a device on the virtio bus; 0: it does not say. */
static unsigned long device_type(const char *device) {
    ASSERT(device);
    char path[PATH_MAX];
    char text[16] = {0};
    snprintf(path, sizeof(path), "%s/%.64s/device", DEVICES_DIR, device);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t count = fd >= 0 ? read(fd, text, sizeof(text) - 1) : 0;
    if (fd >= 0) {
        close(fd);
    }
    ASSERT(count < (ssize_t)sizeof(text));
    return strtoul(text, NULL, 16);
}

/* A machine with vsock has the channel there, even if it has a console besides. */
static bool bus_has_vsock(void) {
    DIR *devices = opendir(DEVICES_DIR);
    bool has_vsock = false;
    static_assert(GUEST_DEVICE_COUNT_MAX > 0, "there is something to look at");
    ASSERT(getpid() == 1);
    for (uint32_t i = 0; devices && !has_vsock && i < GUEST_DEVICE_COUNT_MAX; i++) {
        const struct dirent *entry = readdir(devices);
        if (!entry) {
            break;
        }
        has_vsock = entry->d_name[0] != '.' && device_type(entry->d_name) == DEVICE_VSOCK;
    }
    if (devices) {
        closedir(devices);
    }
    return has_vsock;
}

/* Dials, and dials again, until `waited_us` has come to the limit. -1: the host did not answer. */
static int dial_and_wait(uint32_t waited_us) {
    ASSERT(waited_us <= GUEST_CHANNEL_WAIT_MS * US_PER_MS);
    int fd = -1;
    while (waited_us < GUEST_CHANNEL_WAIT_MS * US_PER_MS) {
        fd = fd >= 0 ? fd : channel_dial();
        enum channel_progress progress =
            fd >= 0 ? channel_progress(fd, GUEST_DIAL_WAIT_MS) : CHANNEL_FAILED;
        if (progress == CHANNEL_CONNECTED) {
            return fd;
        }
        if (progress == CHANNEL_FAILED) {
            if (fd >= 0) {
                close(fd);
                fd = -1;
            }
            usleep(GUEST_POLL_STEP_US);
            waited_us += GUEST_POLL_STEP_US;
        } else {
            waited_us += GUEST_DIAL_WAIT_MS * US_PER_MS;
        }
    }
    if (fd >= 0) {
        close(fd);
    }
    return -1;
}

enum kelpie_status channel_open(void (*load_vsock)(void), int *ret_fd, bool *ret_is_vsock,
                                struct kelpie_error *err) {
    ASSERT(load_vsock);
    ASSERT(ret_fd);
    ASSERT(ret_is_vsock);
    for (uint32_t waited_us = 0; waited_us < GUEST_CHANNEL_WAIT_MS * US_PER_MS;
         waited_us += GUEST_POLL_STEP_US) {
        int fd = port_find();
        if (fd < 0 && bus_has_vsock()) {
            load_vsock();
            fd = dial_and_wait(waited_us);
            if (fd < 0) {
                return error_set_os(err, ETIMEDOUT, "connect to port %d of the host over vsock",
                                    PROTOCOL_VSOCK_PORT);
            }
            *ret_is_vsock = true;
        }
        if (fd >= 0) {
            *ret_fd = fd;
            return KELPIE_OK;
        }
        usleep(GUEST_POLL_STEP_US);
    }
    return error_set_os(err, ENODEV, "find the virtio port %s, or a vsock device",
                        CHANNEL_PORT_NAME);
}
