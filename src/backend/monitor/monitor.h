/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * monitor.h: a hypervisor as a child process, for the backends that have one.
 *
 * THEORY OF OPERATION
 *
 * The child is given descriptors and nothing else: sockets for the guest's channel, the console and stderr, and what
 * its backend adds. So there is nothing on disk to clean up, nothing to connect to from outside, and each of our ends
 * reads as ended when the child is gone. It dies with its owner.
 *
 * Its console is kept (monitor_console.h); its last words on stderr are part of every message about its end.
 *
 * Threads: `lock` guards what other threads look at while an operation runs: the process, the descriptors, the
 * console, stderr. It is held for short work only. Operations come one at a time, and only they launch and take down;
 * they may therefore read those fields without the lock. A backend keeps its own such fields under the same lock.
 */
#ifndef KELPIE_BACKEND_MONITOR_MONITOR_H
#define KELPIE_BACKEND_MONITOR_MONITOR_H

#include "backend/backend.h"
#include "backend/monitor/monitor_console.h"
#include "backend/monitor/monitor_limits.h"
#include "backend/monitor/monitor_network.h"
#include "backend/monitor/monitor_words.h"

/* The numbers of the descriptors in the child. A backend's own come from MONITOR_CHILD_NEXT on. */
enum monitor_child_fd {
    MONITOR_CHILD_STDERR = 2,
    MONITOR_CHILD_CHANNEL,
    MONITOR_CHILD_CONSOLE,
    MONITOR_CHILD_NEXT,
};

struct monitor {
    struct host *host;
    const char *name; /* of the program, for messages: "QEMU" */
    struct host_mutex *lock;
    struct monitor_console console;
    struct monitor_network
        network; /* opened by the backend before the launch; closed by take_down */
    char last_exit
        [MONITOR_EXIT_TEXT_SIZE]; /* how the one ended that was taken down last; or empty */

    /* Of the running child; none of them outlives it. */
    struct host_process *process;
    int channel_fd;
    int console_fd;
    struct monitor_words words;
};

/* What to start: a program, and the backend's own descriptors. */
struct monitor_launch {
    const char *const *argv;
    const struct host_process_fd *fds;
    size_t fd_count;
    const char *working_dir; /* NULL: ours */
    bool console_is_stdout;  /* MONITOR_CHILD_CONSOLE is its descriptor 1 instead */
};

/* The console is the launch's config's. name must outlive the monitor. */
KELPIE_CHECKED enum kelpie_status monitor_init(struct monitor *monitor, struct host *host,
                                               const struct kelpie_config *config, const char *name,
                                               struct kelpie_error *err);
void monitor_deinit(struct monitor *monitor); /* taken down; a zeroed or half-made one is allowed */

/* Starts the child and shows it to the other threads. On failure nothing runs. NOT_FOUND: no such program. */
KELPIE_CHECKED enum kelpie_status monitor_launch(struct monitor *monitor,
                                                 const struct monitor_launch *launch,
                                                 struct kelpie_error *err);

/* The console is read from this descriptor from now on. It becomes the monitor's. */
void monitor_console_take(struct monitor *monitor, int fd);

/* Kills it if it still runs, remembers how it ended, gives back its descriptors. Without a child: nothing.
 * reason: as below. */
void monitor_take_down(struct monitor *monitor, const char *reason);

/* Waits for its end by itself, until the wait is over. */
void monitor_await_end(struct monitor *monitor, const struct host_wait *wait);
void monitor_kill(struct monitor *monitor);

/* Describes how it ended: "QEMU was killed by signal 9; its last words: ...". reason: what the child said about it
 * on another way, such as "the guest reset its machine"; NULL: nothing. Under the lock. */
void monitor_exit_text(struct monitor *monitor, const char *reason, char *buffer, size_t size);

/* Its control channel has ended: waits a moment for the process and puts how it ended into err, as `status`. */
enum kelpie_status monitor_explain(struct monitor *monitor, const char *reason,
                                   enum kelpie_status status, struct kelpie_error *err);

/* Reads stderr; closes it at its end. Under the lock. */
void monitor_drain_stderr(struct monitor *monitor);

/* For struct backend_ops (monitor_ops.h). */
int monitor_channel_fd(struct monitor *monitor);
int monitor_exit_fd(struct monitor *monitor);
int monitor_process_id(struct monitor *monitor);
size_t monitor_service_fds(struct monitor *monitor, int *fds, size_t capacity);
bool monitor_service(struct monitor *monitor, int fd); /* false: it is none of the monitor's */
size_t monitor_console(struct monitor *monitor, void *buffer, size_t size);

#endif
