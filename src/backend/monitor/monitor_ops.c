/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "backend/monitor/monitor_ops.h"

#include "base/assert.h"

static struct monitor *monitor_of(struct backend_instance *instance) {
    struct monitor *monitor = (struct monitor *)instance;
    ASSERT(monitor);
    ASSERT(monitor->host && monitor->lock);
    ASSERT(monitor->name);
    return monitor;
}

void monitor_op_kill(struct backend_instance *instance) {
    monitor_kill(monitor_of(instance));
}

int monitor_op_channel_fd(struct backend_instance *instance) {
    int fd = monitor_channel_fd(monitor_of(instance));
    ASSERT(fd >= 0 || fd == HOST_FD_NONE);
    return fd;
}

int monitor_op_exit_fd(struct backend_instance *instance) {
    int fd = monitor_exit_fd(monitor_of(instance));
    ASSERT(fd >= 0 || fd == HOST_FD_NONE);
    return fd;
}

int monitor_op_process_id(struct backend_instance *instance) {
    int id = monitor_process_id(monitor_of(instance));
    ASSERT(id >= 0);
    return id;
}

void monitor_op_exit_text(struct backend_instance *instance, char *buffer, size_t size) {
    struct monitor *monitor = monitor_of(instance);
    ASSERT(buffer && size > 0);
    host_mutex_lock(monitor->lock);
    monitor_exit_text(monitor, NULL, buffer, size);
    host_mutex_unlock(monitor->lock);
}

size_t monitor_op_service_fds(struct backend_instance *instance, int *fds, size_t capacity) {
    ASSERT(fds || capacity == 0);
    size_t count = monitor_service_fds(monitor_of(instance), fds, capacity);
    ASSERT(count <= capacity);
    return count;
}

void monitor_op_service(struct backend_instance *instance, int fd) {
    bool known = monitor_service(monitor_of(instance), fd);
    ASSERT(known || fd != HOST_FD_NONE); /* one that was closed meanwhile is nobody's any more */
}

size_t monitor_op_console(struct backend_instance *instance, void *buffer, size_t size) {
    ASSERT(buffer || size == 0);
    size_t count = monitor_console(monitor_of(instance), buffer, size);
    ASSERT(count <= size);
    return count;
}
