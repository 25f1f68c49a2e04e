/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Interfaces are set by the kernel's older calls: netdevice(7), and SIOCADDRT with struct rtentry of linux/route.h. Their
 * drivers: /sys/class/net/X/device/driver leads to one. */
#include "network.h"

#include <errno.h>
#include <limits.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <net/route.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/assert.h"
#include "modules.h"
#include "system.h"

#define DRIVER_NAME "virtio_net"
#define RESOLVER_FILE "/etc/resolv.conf"

/* ---- Which interface -------------------------------------------------------------------------- */

static bool is_ours(const char *interface) {
    char path[64 + IF_NAMESIZE];
    char target[PATH_MAX];
    ASSERT(interface[0] != 0);
    ASSERT(strlen(interface) < IF_NAMESIZE);
    snprintf(path, sizeof(path), "/sys/class/net/%s/device/driver", interface);
    ssize_t size = readlink(path, target, sizeof(target) - 1);
    target[size > 0 ? size : 0] = 0;
    const char *name = strrchr(target, '/');
    ASSERT(size < (ssize_t)sizeof(target));
    return name && strcmp(name + 1, DRIVER_NAME) == 0;
}

static bool interface_find(char ret_name[IF_NAMESIZE]) {
    bool found = false;
    ASSERT(ret_name);
    struct if_nameindex *list = if_nameindex();
    for (uint32_t i = 0; list && !found && i < GUEST_INTERFACE_COUNT_MAX; i++) {
        if (!list[i].if_name) {
            break;
        }
        ASSERT(strlen(list[i].if_name) < IF_NAMESIZE);
        found = is_ours(list[i].if_name);
        if (found) {
            snprintf(ret_name, IF_NAMESIZE, "%s", list[i].if_name);
        }
    }
    if_freenameindex(list);
    return found;
}

/* The kernel finds it while we already run. */
static enum kelpie_status interface_wait(char ret_name[IF_NAMESIZE], struct kelpie_error *err) {
    ASSERT(ret_name);
    ASSERT(err);
    for (uint32_t waited_us = 0; waited_us < GUEST_DEVICE_WAIT_MS * 1000;
         waited_us += GUEST_POLL_STEP_US) {
        if (interface_find(ret_name)) {
            return KELPIE_OK;
        }
        usleep(GUEST_POLL_STEP_US);
    }
    return error_set_os(err, ENODEV, "find the network interface");
}

/* ---- What it is to be ------------------------------------------------------------------------- */

/* A socket to ask through, and the interface's name in each request. */
struct interface {
    int fd;
    char name[IF_NAMESIZE];
};

static struct ifreq request_of(const struct interface *interface) {
    struct ifreq request = {0};
    ASSERT(interface->fd >= 0);
    static_assert(sizeof(request.ifr_name) == IF_NAMESIZE, "a name fits");
    memcpy(request.ifr_name, interface->name, IF_NAMESIZE);
    return request;
}

static struct sockaddr_in address_of(const uint8_t ipv4[PROTOCOL_IPV4_SIZE]) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    ASSERT(ipv4);
    static_assert(sizeof(address.sin_addr) == PROTOCOL_IPV4_SIZE, "in the order of the network");
    memcpy(&address.sin_addr, ipv4, PROTOCOL_IPV4_SIZE);
    return address;
}

static bool is_none(const uint8_t ipv4[PROTOCOL_IPV4_SIZE]) {
    static const uint8_t none[PROTOCOL_IPV4_SIZE];
    ASSERT(ipv4);
    static_assert(sizeof(none) == 4, "all of it is compared");
    return memcmp(ipv4, none, sizeof(none)) == 0;
}

/* virtio_net takes a new one while it is up. */
static enum kelpie_status set_mac(const struct interface *interface, const uint8_t mac[MAC_SIZE],
                                  struct kelpie_error *err) {
    struct ifreq request = request_of(interface);
    ASSERT(mac_is_host(mac));
    static_assert(sizeof(request.ifr_hwaddr.sa_data) >= MAC_SIZE, "it fits");
    if (ioctl(interface->fd, SIOCGIFHWADDR, &request) == 0 &&
        memcmp(request.ifr_hwaddr.sa_data, mac, MAC_SIZE) == 0) {
        return KELPIE_OK;
    }
    request = request_of(interface);
    request.ifr_hwaddr.sa_family = ARPHRD_ETHER;
    memcpy(request.ifr_hwaddr.sa_data, mac, MAC_SIZE);
    if (ioctl(interface->fd, SIOCSIFHWADDR, &request) != 0) {
        return error_set_os(err, errno, "set the MAC address of %s", interface->name);
    }
    return KELPIE_OK;
}

enum which { ADDRESS, NETMASK };

/* One of them is asked for, and set when it is another: setting it anew would take the routes away that lead through
 * it. */
static enum kelpie_status set_ipv4(const struct interface *interface, enum which which,
                                   const uint8_t ipv4[PROTOCOL_IPV4_SIZE],
                                   struct kelpie_error *err) {
    struct ifreq request = request_of(interface);
    const struct sockaddr_in wanted = address_of(ipv4);
    struct sockaddr_in now = {0};
    ASSERT(which == ADDRESS || which == NETMASK);
    static_assert(sizeof(request.ifr_addr) == sizeof(now), "one has the other's room");
    int failed = which == ADDRESS ? ioctl(interface->fd, SIOCGIFADDR, &request)
                                  : ioctl(interface->fd, SIOCGIFNETMASK, &request);
    if (failed == 0) {
        memcpy(&now, &request.ifr_addr, sizeof(now));
    }
    if (now.sin_addr.s_addr == wanted.sin_addr.s_addr) {
        return KELPIE_OK;
    }
    request = request_of(interface);
    memcpy(&request.ifr_addr, &wanted, sizeof(wanted));
    failed = which == ADDRESS ? ioctl(interface->fd, SIOCSIFADDR, &request)
                              : ioctl(interface->fd, SIOCSIFNETMASK, &request);
    return failed == 0 ? KELPIE_OK
                       : error_set_os(err, errno, "set the address of %s", interface->name);
}

static enum kelpie_status raise(const struct interface *interface, struct kelpie_error *err) {
    struct ifreq request = request_of(interface);
    ASSERT(interface->name[0] != 0);
    ASSERT(interface->fd >= 0);
    bool raised = ioctl(interface->fd, SIOCGIFFLAGS, &request) == 0;
    request.ifr_flags = (short)(request.ifr_flags | IFF_UP);
    raised = raised && ioctl(interface->fd, SIOCSIFFLAGS, &request) == 0;
    return raised ? KELPIE_OK : error_set_os(err, errno, "raise %s", interface->name);
}

static enum kelpie_status add_default_route(struct interface *interface, const uint8_t *gateway,
                                            struct kelpie_error *err) {
    static const uint8_t any[PROTOCOL_IPV4_SIZE];
    const struct sockaddr_in to = address_of(any);
    const struct sockaddr_in through = address_of(gateway);
    struct rtentry route = {.rt_flags = RTF_UP | RTF_GATEWAY, .rt_dev = interface->name};
    ASSERT(!is_none(gateway));
    ASSERT(interface->name[0] != 0);
    memcpy(&route.rt_dst, &to, sizeof(to));
    memcpy(&route.rt_genmask, &to, sizeof(to));
    memcpy(&route.rt_gateway, &through, sizeof(through));
    if (ioctl(interface->fd, SIOCADDRT, &route) != 0 && errno != EEXIST) {
        return error_set_os(err, errno, "set the default route through %s", interface->name);
    }
    return KELPIE_OK;
}

static void mask_of(uint8_t prefix_size, uint8_t ret_mask[PROTOCOL_IPV4_SIZE]) {
    ASSERT(prefix_size >= 1 && prefix_size <= PROTOCOL_IPV4_SIZE * 8);
    ASSERT(ret_mask);
    uint32_t mask = UINT32_MAX << (32 - prefix_size);
    for (int i = 0; i < PROTOCOL_IPV4_SIZE; i++) {
        ret_mask[i] = (uint8_t)(mask >> (24 - 8 * i));
    }
}

static enum kelpie_status apply(struct interface *interface, const struct protocol_network *network,
                                struct kelpie_error *err) {
    ASSERT(interface->fd >= 0);
    ASSERT(network);
    TRY(set_mac(interface, network->mac, err));
    if (!is_none(network->address)) {
        uint8_t mask[PROTOCOL_IPV4_SIZE];
        mask_of(network->prefix_size, mask);
        TRY(set_ipv4(interface, ADDRESS, network->address, err));
        TRY(set_ipv4(interface, NETMASK, mask, err));
    }
    TRY(raise(interface, err));
    return is_none(network->gateway) ? KELPIE_OK
                                     : add_default_route(interface, network->gateway, err);
}

/* A root that cannot be written keeps its own; names may be of no use then, addresses are. */
static void set_resolver(const struct agent *agent, const uint8_t dns[PROTOCOL_IPV4_SIZE]) {
    char line[64];
    ASSERT(!is_none(dns));
    int size =
        snprintf(line, sizeof(line), "nameserver %u.%u.%u.%u\n", dns[0], dns[1], dns[2], dns[3]);
    ASSERT(size > 0 && (size_t)size < sizeof(line));
    if (!system_write_text(agent, RESOLVER_FILE, line)) {
        system_log("write %s: %s", RESOLVER_FILE, strerror(errno));
    }
}

enum kelpie_status network_set_up(struct agent *agent, struct kelpie_error *err) {
    ASSERT(agent->is_init);
    ASSERT(agent->network_given);
    struct interface interface = {.fd = -1};
    const struct protocol_network *network = &agent->network;
    agent->network_given = false; /* the next restore has one of its own */
    if (!interface_find(interface.name)) {
        modules_load(MODULES_LIST_NET);
        TRY(interface_wait(interface.name, err));
    }
    interface.fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (interface.fd < 0) {
        return error_set_os(err, errno, "open a socket");
    }
    enum kelpie_status status = apply(&interface, network, err);
    close(interface.fd);
    if (status == KELPIE_OK && !is_none(network->dns) &&
        memcmp(agent->network_dns, network->dns, PROTOCOL_IPV4_SIZE) != 0) {
        set_resolver(agent, network->dns);
        memcpy(agent->network_dns, network->dns, PROTOCOL_IPV4_SIZE);
    }
    return status;
}
