/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "backend/monitor/monitor.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"

static void monitor_check(const struct monitor *monitor) {
    ASSERT(monitor->host && monitor->lock);
    ASSERT(monitor->name);
}

enum kelpie_status monitor_init(struct monitor *monitor, struct host *host,
                                const struct kelpie_config *config, const char *name,
                                struct kelpie_error *err) {
    ASSERT(host && config);
    ASSERT(name);
    *monitor = (struct monitor){
        .host = host,
        .name = name,
        .channel_fd = HOST_FD_NONE,
        .console_fd = HOST_FD_NONE,
    };
    monitor_words_init(&monitor->words);
    monitor_network_init(&monitor->network, host, config);
    TRY(host_mutex_create(host, &monitor->lock, err));
    return monitor_console_init(&monitor->console, host, config->console_log,
                                config->console_bytes_max, err);
}

void monitor_deinit(struct monitor *monitor) {
    ASSERT(monitor);
    ASSERT(!monitor->process);
    monitor_console_deinit(&monitor->console);
    host_mutex_destroy(monitor->lock);
    monitor->lock = NULL;
}

/* ---- Launching -------------------------------------------------------------------------------- */

/* Socket pairs that both sides of a launch hold: ours and the child's. */
enum pair { PAIR_STDERR = 0, PAIR_CHANNEL, PAIR_CONSOLE, PAIR_COUNT };

struct pairs {
    struct host *host;
    int ours[PAIR_COUNT];
    int theirs[PAIR_COUNT];
};

static void pairs_deinit(struct pairs *pairs) {
    ASSERT(pairs->host);
    for (size_t i = 0; i < PAIR_COUNT; i++) {
        host_close(pairs->host, pairs->ours[i]);
        host_close(pairs->host, pairs->theirs[i]);
    }
}
#define AUTO_PAIRS __attribute__((cleanup(pairs_deinit)))

static enum kelpie_status pairs_open(struct pairs *pairs, struct kelpie_error *err) {
    ASSERT(pairs->ours[0] == HOST_FD_NONE);
    ASSERT(pairs->host);
    for (size_t i = 0; i < PAIR_COUNT; i++) {
        int fds[2] = {HOST_FD_NONE, HOST_FD_NONE};
        TRY(host_socket_pair(pairs->host, fds, err));
        pairs->ours[i] = fds[0];
        pairs->theirs[i] = fds[1];
    }
    return KELPIE_OK;
}

static enum kelpie_status spawn(struct monitor *monitor, const struct monitor_launch *launch,
                                const struct pairs *pairs, struct host_process **ret_process,
                                struct kelpie_error *err) {
    monitor_check(monitor);
    ASSERT(launch->argv && launch->argv[0]);
    ASSERT(MONITOR_CHILD_NEXT - MONITOR_CHILD_STDERR + launch->fd_count <=
           HOST_PROCESS_FD_COUNT_MAX);
    struct host_process_fd fds[HOST_PROCESS_FD_COUNT_MAX] = {
        {.child_fd = MONITOR_CHILD_STDERR, .fd = pairs->theirs[PAIR_STDERR]},
        {.child_fd = MONITOR_CHILD_CHANNEL, .fd = pairs->theirs[PAIR_CHANNEL]},
        {.child_fd = launch->console_is_stdout ? 1 : MONITOR_CHILD_CONSOLE,
         .fd = pairs->theirs[PAIR_CONSOLE]},
    };
    size_t fd_count = MONITOR_CHILD_NEXT - MONITOR_CHILD_STDERR;
    for (size_t i = 0; i < launch->fd_count; i++) {
        ASSERT(launch->fds[i].child_fd >= MONITOR_CHILD_NEXT);
        fds[fd_count++] = launch->fds[i];
    }
    const struct host_process_spec spec = {
        .argv = launch->argv,
        .fds = fds,
        .fd_count = fd_count,
        .working_dir = launch->working_dir,
        .dies_with_owner = true,
        .new_session = true,
    };
    return host_process_spawn(monitor->host, &spec, ret_process, err);
}

enum kelpie_status monitor_launch(struct monitor *monitor, const struct monitor_launch *launch,
                                  struct kelpie_error *err) {
    monitor_check(monitor);
    ASSERT(!monitor->process);
    AUTO_PAIRS struct pairs pairs = {.host = monitor->host};
    for (size_t i = 0; i < PAIR_COUNT; i++) {
        pairs.ours[i] = pairs.theirs[i] = HOST_FD_NONE;
    }
    TRY(pairs_open(&pairs, err));
    struct host_process *process = NULL;
    TRY(spawn(monitor, launch, &pairs, &process, err));
    host_mutex_lock(monitor->lock);
    monitor->process = process;
    monitor->channel_fd = pairs.ours[PAIR_CHANNEL];
    monitor->console_fd = pairs.ours[PAIR_CONSOLE];
    monitor_words_open(&monitor->words, pairs.ours[PAIR_STDERR]);
    host_mutex_unlock(monitor->lock);
    pairs.ours[PAIR_CHANNEL] = pairs.ours[PAIR_CONSOLE] = pairs.ours[PAIR_STDERR] = HOST_FD_NONE;
    return KELPIE_OK;
}

void monitor_console_take(struct monitor *monitor, int fd) {
    monitor_check(monitor);
    ASSERT(monitor->process);
    ASSERT(fd != HOST_FD_NONE);
    host_mutex_lock(monitor->lock);
    int before = monitor->console_fd;
    monitor->console_fd = fd;
    host_mutex_unlock(monitor->lock);
    host_close(monitor->host, before);
}

/* ---- Last words ------------------------------------------------------------------------------- */

void monitor_drain_stderr(struct monitor *monitor) {
    monitor_check(monitor);
    monitor_words_drain(&monitor->words, monitor->host);
}

void monitor_exit_text(struct monitor *monitor, const char *reason, char *buffer, size_t size) {
    monitor_check(monitor);
    ASSERT(buffer && size > 0);
    if (!monitor->process) {
        bool known = monitor->last_exit[0] != '\0';
        snprintf(buffer, size, "%s%s", known ? monitor->last_exit : monitor->name,
                 known ? "" : " is not running");
        return;
    }
    const struct host_wait no_wait = host_wait_none();
    struct host_process_exit end = {0};
    if (host_process_wait(monitor->process, &no_wait, &end, NULL) != KELPIE_OK) {
        snprintf(buffer, size, "%s is running", monitor->name);
        return;
    }
    monitor_drain_stderr(monitor);
    char words[MONITOR_LAST_WORDS_SIZE_MAX + 1];
    char line[MONITOR_LAST_WORDS_SIZE_MAX + 1];
    monitor_last_line(monitor->words.text, monitor->words.size, words, sizeof(words));
    monitor_console_last_line(&monitor->console, line, sizeof(line));
    char how[64];
    if (end.signal != 0) {
        snprintf(how, sizeof(how), "was killed by signal %d", end.signal);
    } else {
        snprintf(how, sizeof(how), "exited with code %d", end.code);
    }
    snprintf(buffer, size, "%s %s%s%s%s%s%s%s%s", monitor->name, how, reason ? " after " : "",
             reason ? reason : "", words[0] ? "; its last words: " : "", words,
             line[0] ? "; the console's last line: " : "", line,
             words[0] || line[0] ? "" : "; it said nothing");
}

enum kelpie_status monitor_explain(struct monitor *monitor, const char *reason,
                                   enum kelpie_status status, struct kelpie_error *err) {
    monitor_check(monitor);
    ASSERT(status != KELPIE_OK);
    if (!monitor->process) {
        return status;
    }
    const struct host_wait wait =
        host_wait_ms(monitor->host, MONITOR_CRASH_TIMEOUT_MS, HOST_FD_NONE);
    struct host_process_exit end = {0};
    if (host_process_wait(monitor->process, &wait, &end, NULL) != KELPIE_OK) {
        monitor_kill(monitor); /* it lives, and is of no use */
        return error_wrap(err, status, "%s let go of its control channel", monitor->name);
    }
    char text[768];
    host_mutex_lock(monitor->lock);
    monitor_exit_text(monitor, reason, text, sizeof(text));
    host_mutex_unlock(monitor->lock);
    return error_set(err, status, "%s", text);
}

/* ---- Ending ----------------------------------------------------------------------------------- */

/* Not under the lock while it waits: only operations open and close it. */
static void close_network(struct monitor *monitor) {
    monitor_check(monitor);
    host_mutex_lock(monitor->lock);
    struct monitor_network network = monitor->network;
    monitor->network.process = NULL;
    monitor->network.fd = monitor->network.words.fd = HOST_FD_NONE;
    host_mutex_unlock(monitor->lock);
    monitor_network_close(&network);
    ASSERT(!monitor->network.process);
}

void monitor_take_down(struct monitor *monitor, const char *reason) {
    monitor_check(monitor);
    close_network(monitor);
    if (!monitor->process) {
        return;
    }
    const struct host_wait wait =
        host_wait_ms(monitor->host, MONITOR_EXIT_TIMEOUT_MS, HOST_FD_NONE);
    struct host_process_exit end = {0};
    enum kelpie_status ignored = host_process_signal(monitor->process, SIGKILL, NULL);
    ignored = host_process_wait(monitor->process, &wait, &end, NULL);
    (void)ignored; /* host_process_destroy() has the last word */
    host_mutex_lock(monitor->lock);
    if (monitor->console_fd != HOST_FD_NONE) {
        (void)monitor_console_drain(&monitor->console, monitor->console_fd);
    }
    char text[sizeof(monitor->last_exit)];
    monitor_exit_text(monitor, reason, text, sizeof(text));
    memcpy(monitor->last_exit, text, sizeof(text));
    struct host_process *process = TAKE(monitor->process);
    const int fds[] = {monitor->channel_fd, monitor->console_fd, monitor->words.fd};
    monitor->channel_fd = monitor->console_fd = monitor->words.fd = HOST_FD_NONE;
    host_mutex_unlock(monitor->lock);
    for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
        host_close(monitor->host, fds[i]);
    }
    host_process_destroy(process);
}

void monitor_await_end(struct monitor *monitor, const struct host_wait *wait) {
    monitor_check(monitor);
    ASSERT(wait);
    struct host_process_exit end = {0};
    if (monitor->process) {
        /* A wait that fails ends like one that is over: the child is killed next. */
        enum kelpie_status ignored = host_process_wait(monitor->process, wait, &end, NULL);
        (void)ignored;
    }
}

void monitor_kill(struct monitor *monitor) {
    monitor_check(monitor);
    host_mutex_lock(monitor->lock);
    if (monitor->process) {
        enum kelpie_status ignored = host_process_signal(monitor->process, SIGKILL, NULL);
        (void)ignored; /* it has ended already */
    }
    host_mutex_unlock(monitor->lock);
}

/* ---- What other threads ask ------------------------------------------------------------------- */

int monitor_channel_fd(struct monitor *monitor) {
    monitor_check(monitor);
    host_mutex_lock(monitor->lock);
    int fd = monitor->channel_fd;
    host_mutex_unlock(monitor->lock);
    return fd;
}

int monitor_exit_fd(struct monitor *monitor) {
    monitor_check(monitor);
    host_mutex_lock(monitor->lock);
    int fd = monitor->process ? host_process_fd(monitor->process) : HOST_FD_NONE;
    host_mutex_unlock(monitor->lock);
    return fd;
}

int monitor_process_id(struct monitor *monitor) {
    monitor_check(monitor);
    host_mutex_lock(monitor->lock);
    int id = monitor->process ? host_process_id(monitor->process) : 0;
    host_mutex_unlock(monitor->lock);
    return id;
}

size_t monitor_service_fds(struct monitor *monitor, int *fds, size_t capacity) {
    monitor_check(monitor);
    ASSERT(fds || capacity == 0);
    host_mutex_lock(monitor->lock);
    const int wanted[] = {monitor->console_fd, monitor_words_fd(&monitor->words),
                          monitor_words_fd(&monitor->network.words)};
    host_mutex_unlock(monitor->lock);
    size_t count = 0;
    for (size_t i = 0; i < ARRAY_SIZE(wanted) && count < capacity; i++) {
        if (wanted[i] != HOST_FD_NONE) {
            fds[count++] = wanted[i];
        }
    }
    return count;
}

bool monitor_service(struct monitor *monitor, int fd) {
    monitor_check(monitor);
    ASSERT(fd != HOST_FD_NONE);
    host_mutex_lock(monitor->lock);
    bool console = fd == monitor->console_fd;
    bool words = fd == monitor->words.fd;
    bool network = fd == monitor->network.words.fd;
    if (console && !monitor_console_drain(&monitor->console, fd)) {
        host_close(monitor->host, monitor->console_fd);
        monitor->console_fd = HOST_FD_NONE;
    } else if (words) {
        monitor_drain_stderr(monitor);
    } else if (network) {
        monitor_network_drain(&monitor->network);
    }
    host_mutex_unlock(monitor->lock);
    return console || words || network;
}

size_t monitor_console(struct monitor *monitor, void *buffer, size_t size) {
    monitor_check(monitor);
    ASSERT(buffer || size == 0);
    host_mutex_lock(monitor->lock);
    size_t count = monitor_console_tail(&monitor->console, buffer, size);
    host_mutex_unlock(monitor->lock);
    return count;
}
