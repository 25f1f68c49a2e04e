/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The Linux host's TCP sockets: making them. Accepting, reading, writing and polling are those of
 * host_linux_socket.c.
 *
 * Theory of operation. An address is numbers, so nothing is looked up and only the connect itself can wait.
 * A non-blocking connect(2) says EINPROGRESS; the socket is writable once the handshake is over, and
 * SO_ERROR says how it went. Small messages are sent at once (TCP_NODELAY), for what is said over these
 * sockets is question and answer. A listener's option goes over to what it accepts, tcp(7).
 */
#include "host/host_linux.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/assert.h"
#include "base/error.h"

/* Either kind of address, as the socket calls take it. */
union tcp_address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

static socklen_t address_size(const union tcp_address *address) {
    ASSERT(address);
    ASSERT(address->any.sa_family == AF_INET || address->any.sa_family == AF_INET6);
    return address->any.sa_family == AF_INET ? sizeof(address->v4) : sizeof(address->v6);
}

static enum kelpie_status address_parse(const char *text, uint16_t port,
                                        union tcp_address *ret_address, struct kelpie_error *err) {
    ASSERT(text);
    ASSERT(ret_address);
    union tcp_address address = {.v6 = {0}};
    if (inet_pton(AF_INET, text, &address.v4.sin_addr) == 1) {
        address.v4.sin_family = AF_INET;
        address.v4.sin_port = htons(port);
    } else if (inet_pton(AF_INET6, text, &address.v6.sin6_addr) == 1) {
        address.v6.sin6_family = AF_INET6;
        address.v6.sin6_port = htons(port);
    } else {
        return error_set(err, KELPIE_BAD_CONFIG,
                         "'%.100s' is no IPv4 or IPv6 address: give it in numbers", text);
    }
    *ret_address = address;
    return KELPIE_OK;
}

static enum kelpie_status set_option(int fd, int level, int option, const char *name,
                                     struct kelpie_error *err) {
    ASSERT(fd >= 0);
    ASSERT(name);
    int on = 1;
    if (setsockopt(fd, level, option, &on, sizeof(on)) < 0) {
        return error_set_os(err, errno, "cannot set %s of a socket", name);
    }
    return KELPIE_OK;
}

static enum kelpie_status socket_open(const union tcp_address *address, int *ret_fd,
                                      struct kelpie_error *err) {
    ASSERT(address);
    ASSERT(ret_fd);
    *ret_fd = socket(address->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (*ret_fd < 0) {
        return error_set_os(err, errno, "cannot create a TCP socket");
    }
    return set_option(*ret_fd, IPPROTO_TCP, TCP_NODELAY, "TCP_NODELAY", err);
}

static enum kelpie_status port_of(int fd, uint16_t *ret_port, struct kelpie_error *err) {
    ASSERT(fd >= 0);
    union tcp_address bound = {.v6 = {0}};
    socklen_t size = sizeof(bound);
    if (getsockname(fd, &bound.any, &size) < 0) {
        return error_set_os(err, errno, "cannot ask for the port of a socket");
    }
    ASSERT(size == address_size(&bound));
    *ret_port = ntohs(bound.any.sa_family == AF_INET ? bound.v4.sin_port : bound.v6.sin6_port);
    ASSERT(*ret_port != 0);
    return KELPIE_OK;
}

/* SO_REUSEADDR: a listener that ends can come back at its port at once, whatever its old connections are doing.
 * It takes no port from a listener that lives. IPV6_V6ONLY: "::" means IPv6, whatever the machine's setting. */
enum kelpie_status linux_socket_listen_tcp(struct host *host, const char *address, uint16_t port,
                                           int *ret_fd, uint16_t *ret_port,
                                           struct kelpie_error *err) {
    ASSERT(ret_fd);
    ASSERT(ret_port);
    union tcp_address place = {.v6 = {0}};
    TRY(address_parse(address, port, &place, err));
    AUTO_FD struct host_fd listener = {host, HOST_FD_NONE};
    TRY(socket_open(&place, &listener.fd, err));
    TRY(set_option(listener.fd, SOL_SOCKET, SO_REUSEADDR, "SO_REUSEADDR", err));
    if (place.any.sa_family == AF_INET6) {
        TRY(set_option(listener.fd, IPPROTO_IPV6, IPV6_V6ONLY, "IPV6_V6ONLY", err));
    }
    if (bind(listener.fd, &place.any, address_size(&place)) < 0 ||
        listen(listener.fd, HOST_LISTEN_BACKLOG) < 0) {
        return error_set_os(err, errno, "cannot listen at %s, port %u", address, (unsigned)port);
    }
    TRY(port_of(listener.fd, ret_port, err));
    ASSERT(port == 0 || *ret_port == port);
    *ret_fd = host_fd_take(&listener);
    return KELPIE_OK;
}

/* The error of a connect(2) that is over, 0 for none. */
static int connect_error(int fd) {
    ASSERT(fd >= 0);
    int os_error = 0;
    socklen_t size = sizeof(os_error);
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &os_error, &size) < 0) {
        return errno;
    }
    ASSERT(size == sizeof(os_error));
    return os_error;
}

enum kelpie_status linux_socket_connect_tcp(struct host *host, const char *address, uint16_t port,
                                            const struct host_wait *wait, int *ret_fd,
                                            struct kelpie_error *err) {
    ASSERT(wait);
    ASSERT(ret_fd);
    union tcp_address place = {.v6 = {0}};
    TRY(address_parse(address, port, &place, err));
    if (port == 0) {
        return error_set(err, KELPIE_BAD_CONFIG, "cannot connect to port 0 of %s", address);
    }
    AUTO_FD struct host_fd peer = {host, HOST_FD_NONE};
    TRY(socket_open(&place, &peer.fd, err));
    int os_error = 0;
    if (connect(peer.fd, &place.any, address_size(&place)) < 0) {
        os_error = errno;
    }
    if (os_error == EINPROGRESS) {
        TRY(linux_wait_fd(host, peer.fd, POLLOUT, wait, "answer to a TCP connection", err));
        os_error = connect_error(peer.fd);
    }
    if (os_error != 0) {
        return error_set_os(err, os_error, "cannot connect to %s, port %u", address,
                            (unsigned)port);
    }
    *ret_fd = host_fd_take(&peer);
    return KELPIE_OK;
}
