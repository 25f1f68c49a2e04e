/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vmm/device/virtio_vsock_socket.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/assert.h"

/* EINTR is "not now" too: the descriptor is still ready in the loop's next turn. */
static ssize_t call_result(ssize_t count) {
    if (count >= 0) {
        return count;
    }
    ASSERT(errno > 0);
    return errno == EINTR || errno == EWOULDBLOCK ? -EAGAIN : -errno;
}

ssize_t vsock_socket_receive(int fd, struct iovec *parts, size_t count) {
    ASSERT(fd >= 0);
    ASSERT(count > 0);
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = count};
    return call_result(recvmsg(fd, &message, MSG_DONTWAIT));
}

ssize_t vsock_socket_send(int fd, struct iovec *parts, size_t count) {
    ASSERT(fd >= 0);
    ASSERT(count > 0);
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = count};
    return call_result(sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL));
}

ssize_t vsock_socket_receive_line(int fd, char *buffer, size_t size) {
    ASSERT(fd >= 0);
    ASSERT(size > 0);
    ssize_t count = recv(fd, buffer, size, MSG_PEEK | MSG_DONTWAIT);
    if (count <= 0) {
        return call_result(count);
    }
    const char *newline = memchr(buffer, '\n', (size_t)count);
    size_t wanted = newline ? (size_t)(newline - buffer) + 1 : (size_t)count;
    ASSERT(wanted <= size);
    return call_result(recv(fd, buffer, wanted, MSG_DONTWAIT));
}

bool vsock_socket_readable(int fd) {
    ASSERT(fd >= 0);
    char byte = 0;
    struct iovec part = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    ssize_t count = call_result(recvmsg(fd, &message, MSG_PEEK | MSG_DONTWAIT));
    ASSERT(count <= 1);
    return count != -EAGAIN;
}

void vsock_socket_shutdown(int fd, int how) {
    ASSERT(fd >= 0);
    ASSERT(how == SHUT_RD || how == SHUT_WR);
    (void)shutdown(fd, how); /* ENOTCONN: the other end is gone, which the loop tells */
}

int vsock_socket_accept(int listen_fd) {
    ASSERT(listen_fd >= 0);
    int fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    ASSERT(fd >= -1);
    return fd >= 0 ? fd : (int)call_result(-1);
}

void vsock_socket_close(int fd) {
    ASSERT(fd >= 0);
    close(fd);
}

int vsock_event_open(void) {
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return fd >= 0 ? fd : -errno;
}

void vsock_event_raise(int fd) {
    ASSERT(fd >= 0);
    (void)eventfd_write(fd, 1); /* EAGAIN: it is raised, more than often enough */
}

void vsock_event_clear(int fd) {
    ASSERT(fd >= 0);
    eventfd_t value = 0;
    (void)eventfd_read(fd, &value);
}
