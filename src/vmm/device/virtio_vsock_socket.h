/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The system calls of the socket device, in a file of their own: its fuzzer is linked with others in their place. None of
 * them waits. Those that return a count return -errno when they fail, and -EAGAIN when nothing can be done now.
 */
#ifndef KELPIE_VMM_DEVICE_VIRTIO_VSOCK_SOCKET_H
#define KELPIE_VMM_DEVICE_VIRTIO_VSOCK_SOCKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

/* 0: the other end sends no more. */
ssize_t vsock_socket_receive(int fd, struct iovec *parts, size_t count);
ssize_t vsock_socket_send(int fd, struct iovec *parts, size_t count);

/* Receives up to size bytes, and none behind a newline. 0: the other end sends no more. */
ssize_t vsock_socket_receive_line(int fd, char *buffer, size_t size);

/* Are there bytes to receive, or an end? */
bool vsock_socket_readable(int fd);

/* how: SHUT_RD or SHUT_WR. */
void vsock_socket_shutdown(int fd, int how);
int vsock_socket_accept(int listen_fd);
void vsock_socket_close(int fd);

/* An eventfd, with which the device calls itself. */
int vsock_event_open(void);
void vsock_event_raise(int fd);
void vsock_event_clear(int fd);

#endif
