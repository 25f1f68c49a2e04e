/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * monitor_ops.h: the operations of struct backend_ops that do no more than ask the monitor, once for all backends that have one.
 *
 * Their instances begin with it, which each says beside its struct:
 *
 *     struct backend_instance {
 *         struct monitor monitor;
 *         ...
 *     };
 *     MONITOR_IS_FIRST(struct backend_instance);
 *
 * A pointer to the one is then a pointer to the other (C17, 6.7.2.1). Threads: as backend.h says of each.
 */
#ifndef KELPIE_BACKEND_MONITOR_MONITOR_OPS_H
#define KELPIE_BACKEND_MONITOR_MONITOR_OPS_H

#include <assert.h>

#include "backend/monitor/monitor.h"

#define MONITOR_IS_FIRST(type)                                                                     \
    static_assert(offsetof(type, monitor) == 0, "the monitor's operations find it there")

void monitor_op_kill(struct backend_instance *instance);
int monitor_op_channel_fd(struct backend_instance *instance);
int monitor_op_exit_fd(struct backend_instance *instance);
int monitor_op_process_id(struct backend_instance *instance);
void monitor_op_exit_text(struct backend_instance *instance, char *buffer,
                          size_t size); /* no reason but the process's */
size_t monitor_op_service_fds(struct backend_instance *instance, int *fds, size_t capacity);
void monitor_op_service(struct backend_instance *instance, int fd);
size_t monitor_op_console(struct backend_instance *instance, void *buffer, size_t size);

#endif
