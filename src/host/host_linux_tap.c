/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Tap interfaces: Linux, Documentation/networking/tuntap.rst. */
#include "host/host_linux.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdio.h>
#include <sys/ioctl.h>

#include "base/assert.h"

#define TUN_DEVICE "/dev/net/tun"

enum kelpie_status linux_tap_open(struct host *host, const char *name, int *ret_fd,
                                  struct kelpie_error *err) {
    ASSERT(name[0] != 0);
    ASSERT(ret_fd);
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI};
    /* TUNSETIFF would make one that is missing; only one that is there was asked for. */
    if (if_nametoindex(name) == 0) {
        return error_set_field(err, KELPIE_NOT_FOUND, "network.tap",
                               "there is no interface %.40s: make it, such as by: ip tuntap add "
                               "%.40s mode tap",
                               name, name);
    }
    AUTO_FD struct host_fd tun = {host,
                                  RETRY_EINTR(open(TUN_DEVICE, O_RDWR | O_CLOEXEC | O_NONBLOCK))};
    if (tun.fd < 0) {
        return error_set_os(err, errno, "cannot open " TUN_DEVICE);
    }
    snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
    if (ioctl(tun.fd, TUNSETIFF, &request) < 0) {
        return error_set_os(err, errno, "cannot use the tap interface %.40s", name);
    }
    *ret_fd = host_fd_take(&tun);
    return KELPIE_OK;
}
