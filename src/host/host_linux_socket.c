/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The Linux host's UNIX sockets, streams and events.
 *
 * Theory of operation. A socket is asked not to block call by call (MSG_DONTWAIT), so it needs no
 * O_NONBLOCK, which would be shared with a child that gets the descriptor as its stdin. Any other
 * descriptor that is in blocking mode is polled first, and written in pieces that a pipe takes whole
 * once it is writable (PIPE_BUF, pipe(7)). Only such writes can raise SIGPIPE: it is blocked in this
 * thread for their time and taken off again, so that the embedding program never sees it.
 */
#include "host/host_linux.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/checked.h"
#include "base/error.h"

static bool would_block(int os_error) {
    return os_error == EAGAIN || os_error == EWOULDBLOCK;
}

/* ---- Sockets ---------------------------------------------------------------------------------- */

enum kelpie_status linux_socket_pair(struct host *host, int ret_fds[2], struct kelpie_error *err) {
    ASSERT(host);
    int fds[2] = {HOST_FD_NONE, HOST_FD_NONE};
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0) {
        return error_set_os(err, errno, "cannot create a pair of sockets");
    }
    ASSERT(fds[0] >= 0);
    ASSERT(fds[1] >= 0);
    ret_fds[0] = fds[0];
    ret_fds[1] = fds[1];
    return KELPIE_OK;
}

static enum kelpie_status socket_address(const char *path, struct sockaddr_un *ret_address,
                                         struct kelpie_error *err) {
    ASSERT(path && ret_address);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = strlen(path);
    if (length == 0 || length >= sizeof(address.sun_path)) {
        return error_set_os(err, length == 0 ? ENOENT : ENAMETOOLONG,
                            "the path of the socket '%s' has %zu bytes, %zu are allowed", path,
                            length, sizeof(address.sun_path) - 1);
    }
    memcpy(address.sun_path, path, length + 1);
    *ret_address = address;
    return KELPIE_OK;
}

/* bind(2) neither follows a link nor takes a name that exists. It gives the name the mode of the
 * socket, so that there is no moment at which others may connect. */
enum kelpie_status linux_socket_listen(struct host *host, const char *path, int *ret_fd,
                                       struct kelpie_error *err) {
    ASSERT(ret_fd);
    struct sockaddr_un address = {0};
    TRY(socket_address(path, &address, err));
    AUTO_FD struct host_fd listener = {
        host, socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
    if (listener.fd < 0) {
        return error_set_os(err, errno, "cannot create a socket for '%s'", path);
    }
    if (fchmod(listener.fd, 0600) < 0 ||
        bind(listener.fd, (const struct sockaddr *)&address, sizeof(address)) < 0) {
        return error_set_os(err, errno, "cannot create the socket '%s'", path);
    }
    if (listen(listener.fd, HOST_LISTEN_BACKLOG) < 0) {
        int os_error = errno;
        (void)unlink(path);
        return error_set_os(err, os_error, "cannot listen on the socket '%s'", path);
    }
    *ret_fd = host_fd_take(&listener);
    return KELPIE_OK;
}

enum kelpie_status linux_socket_accept(struct host *host, int fd, const struct host_wait *wait,
                                       int *ret_fd, struct kelpie_error *err) {
    ASSERT(fd >= 0);
    ASSERT(wait && ret_fd);
    for (;;) {
        int accepted = RETRY_EINTR(accept4(fd, NULL, NULL, SOCK_CLOEXEC));
        if (accepted >= 0) {
            *ret_fd = accepted;
            return KELPIE_OK;
        }
        if (!would_block(errno) && errno != ECONNABORTED) {
            return error_set_os(err, errno, "cannot accept a connection");
        }
        TRY(linux_wait_fd(host, fd, POLLIN, wait, "connection", err));
    }
}

/* A listener whose backlog is full answers EAGAIN, and no poll says when there is room. */
enum kelpie_status linux_socket_connect(struct host *host, const char *path,
                                        const struct host_wait *wait, int *ret_fd,
                                        struct kelpie_error *err) {
    ASSERT(wait && ret_fd);
    struct sockaddr_un address = {0};
    TRY(socket_address(path, &address, err));
    AUTO_FD struct host_fd peer = {host,
                                   socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
    if (peer.fd < 0) {
        return error_set_os(err, errno, "cannot create a socket for '%s'", path);
    }
    while (RETRY_EINTR(connect(peer.fd, (const struct sockaddr *)&address, sizeof(address))) < 0) {
        if (!would_block(errno)) {
            return error_set_os(err, errno, "cannot connect to '%s'", path);
        }
        struct host_wait pause = host_wait_ms(host, HOST_CONNECT_RETRY_MS, wait->cancel_fd);
        pause.deadline_ns = min_u64(pause.deadline_ns, wait->deadline_ns);
        TRY(linux_sleep(host, &pause, err));
        if (linux_monotonic_ns(host) >= wait->deadline_ns) {
            return error_set(err, KELPIE_TIMED_OUT, "'%s' did not take a connection in time", path);
        }
    }
    *ret_fd = host_fd_take(&peer);
    return KELPIE_OK;
}

enum kelpie_status linux_socket_peer(struct host *host, int fd, uint32_t *ret_uid,
                                     struct kelpie_error *err) {
    ASSERT(fd >= 0);
    ASSERT(host);
    ASSERT(ret_uid);
    struct ucred peer = {0};
    socklen_t size = sizeof(peer);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0) {
        return error_set_os(err, errno, "cannot ask who is at the other end of a socket");
    }
    ASSERT(size == sizeof(peer));
    *ret_uid = peer.uid;
    return KELPIE_OK;
}

enum kelpie_status linux_socket_send_fd(struct host *host, int fd, const void *data, size_t size,
                                        int passed_fd, struct kelpie_error *err) {
    ASSERT(fd >= 0);
    ASSERT(data && size > 0);
    ASSERT(passed_fd >= 0);
    struct iovec part = {.iov_base = (void *)(uintptr_t)data, .iov_len = size};
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {0};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof(control)};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &passed_fd, sizeof(int));

    struct host_wait wait = host_wait_ms(host, HOST_SEND_FD_TIMEOUT_MS, HOST_FD_NONE);
    ssize_t sent = 0;
    while ((sent = RETRY_EINTR(sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT))) < 0) {
        if (!would_block(errno)) {
            return error_set_os(err, errno, "cannot pass a descriptor over a socket");
        }
        TRY(linux_wait_fd(host, fd, POLLOUT, &wait, "room to pass a descriptor", err));
    }
    ASSERT(sent > 0 && (size_t)sent <= size);
    return host_write_all(host, fd, (const uint8_t *)data + sent, size - (size_t)sent, &wait, err);
}

/* The first descriptor of those that came, or none; the others are closed. */
static int keep_first_fd(struct host *host, struct msghdr *message) {
    int kept = HOST_FD_NONE;
    ASSERT(host && message);
    for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header;
         header = CMSG_NXTHDR(message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        ASSERT(count <= HOST_RECEIVE_FD_COUNT_MAX + 1);
        for (size_t i = 0; i < count; i++) {
            int fd = HOST_FD_NONE;
            memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
            if (kept == HOST_FD_NONE) {
                kept = fd;
            } else {
                linux_close(host, fd);
            }
        }
    }
    return kept;
}

/* recvmsg(2) on a stream never goes on behind the message whose descriptors it took (unix(7)). Descriptors for
 * which there is no room are closed by the system (MSG_CTRUNC), so that they cannot pile up here. */
enum kelpie_status linux_receive(struct host *host, int fd, void *buffer, size_t size,
                                 const struct host_wait *wait, struct host_received *ret_received,
                                 struct kelpie_error *err) {
    ASSERT(buffer && size > 0);
    ASSERT(wait && ret_received);
    for (;;) {
        _Alignas(struct cmsghdr) char control[CMSG_SPACE(HOST_RECEIVE_FD_COUNT_MAX * sizeof(int))];
        struct iovec part = {.iov_base = buffer, .iov_len = size};
        struct msghdr message = {.msg_iov = &part,
                                 .msg_iovlen = 1,
                                 .msg_control = control,
                                 .msg_controllen = sizeof(control)};
        ssize_t count = RETRY_EINTR(recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC));
        if (count < 0 && errno == ECONNRESET) {
            count = 0;
            message.msg_controllen = 0;
        }
        if (count >= 0) {
            *ret_received =
                (struct host_received){.size = (size_t)count, .fd = keep_first_fd(host, &message)};
            return KELPIE_OK;
        }
        if (!would_block(errno)) {
            return error_set_os(err, errno, "cannot read from a socket");
        }
        TRY(linux_wait_fd(host, fd, POLLIN, wait, "data to read", err));
    }
}

/* ---- Streams ---------------------------------------------------------------------------------- */

static bool is_blocking(int fd) {
    ASSERT(fd >= 0);
    int flags = fcntl(fd, F_GETFL);
    return flags >= 0 && !(flags & O_NONBLOCK);
}

/* Reads without blocking a descriptor that is not a socket. EAGAIN like one that has nothing. */
static ssize_t read_plain(int fd, void *buffer, size_t size) {
    ASSERT(fd >= 0);
    struct pollfd ready = {.fd = fd, .events = POLLIN};
    if (is_blocking(fd) && RETRY_EINTR(poll(&ready, 1, 0)) == 0) {
        errno = EAGAIN;
        return -1;
    }
    return RETRY_EINTR(read(fd, buffer, size));
}

enum kelpie_status linux_read(struct host *host, int fd, void *buffer, size_t size,
                              const struct host_wait *wait, size_t *ret_size,
                              struct kelpie_error *err) {
    ASSERT(fd >= 0);
    ASSERT(buffer && size > 0);
    ASSERT(ret_size);
    for (;;) {
        ssize_t count = RETRY_EINTR(recv(fd, buffer, size, MSG_DONTWAIT));
        if (count < 0 && errno == ENOTSOCK) {
            count = read_plain(fd, buffer, size);
        }
        if (count < 0 && errno == ECONNRESET) {
            count = 0;
        }
        if (count >= 0) {
            *ret_size = (size_t)count;
            return KELPIE_OK;
        }
        if (!would_block(errno)) {
            return error_set_os(err, errno, "cannot read");
        }
        TRY(linux_wait_fd(host, fd, POLLIN, wait, "data to read", err));
    }
}

/* write(2) whose EPIPE raises no signal. A SIGPIPE that was pending before is left alone. */
static ssize_t write_without_sigpipe(int fd, const void *data, size_t size) {
    ASSERT(fd >= 0);
    sigset_t sigpipe;
    sigset_t before;
    sigset_t pending;
    sigemptyset(&sigpipe);
    sigaddset(&sigpipe, SIGPIPE);
    int result = sigpending(&pending);
    ASSERT(result == 0);
    result = pthread_sigmask(SIG_BLOCK, &sigpipe, &before);
    ASSERT(result == 0);

    ssize_t count = RETRY_EINTR(write(fd, data, size));
    int os_error = errno;
    if (count < 0 && os_error == EPIPE && !sigismember(&pending, SIGPIPE)) {
        struct timespec now = {0};
        (void)RETRY_EINTR(sigtimedwait(&sigpipe, NULL, &now));
    }
    result = pthread_sigmask(SIG_SETMASK, &before, NULL);
    ASSERT(result == 0);
    errno = os_error;
    return count;
}

static ssize_t write_plain(int fd, const void *data, size_t size) {
    ASSERT(fd >= 0);
    ASSERT(size > 0);
    size_t piece = size;
    if (is_blocking(fd)) {
        struct pollfd ready = {.fd = fd, .events = POLLOUT};
        if (RETRY_EINTR(poll(&ready, 1, 0)) == 0) {
            errno = EAGAIN;
            return -1;
        }
        piece = min_size(size, PIPE_BUF);
    }
    return write_without_sigpipe(fd, data, piece);
}

enum kelpie_status linux_write(struct host *host, int fd, const void *data, size_t size,
                               const struct host_wait *wait, size_t *ret_size,
                               struct kelpie_error *err) {
    ASSERT(fd >= 0);
    ASSERT(data && size > 0);
    ASSERT(ret_size);
    for (;;) {
        ssize_t count = RETRY_EINTR(send(fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT));
        if (count < 0 && errno == ENOTSOCK) {
            count = write_plain(fd, data, size);
        }
        if (count > 0) {
            *ret_size = (size_t)count;
            return KELPIE_OK;
        }
        if (count < 0 && !would_block(errno)) {
            return error_set_os(err, errno, "cannot write %zu bytes", size);
        }
        TRY(linux_wait_fd(host, fd, POLLOUT, wait, "room to write", err));
    }
}

/* ---- Events ----------------------------------------------------------------------------------- */

enum kelpie_status linux_event_create(struct host *host, int *ret_fd, struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(ret_fd);
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0) {
        return error_set_os(err, errno, "cannot create an event");
    }
    *ret_fd = fd;
    return KELPIE_OK;
}

/* EAGAIN: the counter is at its maximum, so it is set. */
void linux_event_set(struct host *host, int fd) {
    ASSERT(fd >= 0);
    ASSERT(host);
    uint64_t one = 1;
    ssize_t count = RETRY_EINTR(write(fd, &one, sizeof(one)));
    ASSERT(count == sizeof(one) || would_block(errno));
}

/* EAGAIN: it was not set. */
void linux_event_clear(struct host *host, int fd) {
    ASSERT(fd >= 0);
    ASSERT(host);
    uint64_t counter = 0;
    ssize_t count = RETRY_EINTR(read(fd, &counter, sizeof(counter)));
    ASSERT(count == sizeof(counter) || would_block(errno));
}
