/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "owner_host.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/error.h"
#include "kelpie_store.h"

/* An owner's process, as whoever started it sees it. */
struct host_process {
    struct host *host;
};

struct played {
    struct host *host;
    int fd;
    owner_host_main *play;
    void *context;
    struct host_thread *thread;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct host_ops ops; /* this machine's, with what is below in place of its processes */
static struct played *owners[OWNER_HOST_OWNER_COUNT_MAX];
static size_t owner_count;
static size_t alive_count;
static owner_host_main *play_next;
static void *context_next;
static enum kelpie_status refused;

static void supervise(struct host *host, int fd, void *context) {
    (void)context;
    (void)kelpie_supervise(host, fd, HOST_FD_NONE);
}

static void play_main(void *argument) {
    struct played *owner = argument;
    owner->play(owner->host, owner->fd, owner->context);
    pthread_mutex_lock(&mutex);
    alive_count--;
    pthread_mutex_unlock(&mutex);
}

/* With the lock held. */
static enum kelpie_status start_owner(struct host *host, int fd, struct kelpie_error *err) {
    ASSERT(owner_count < OWNER_HOST_OWNER_COUNT_MAX);
    struct played *owner = calloc(1, sizeof(*owner));
    ASSERT(owner);
    *owner = (struct played){.host = host,
                             .fd = fcntl(fd, F_DUPFD_CLOEXEC, 3),
                             .play = play_next ? play_next : supervise,
                             .context = context_next};
    ASSERT(owner->fd >= 0);
    enum kelpie_status status =
        host_thread_start(host, "owner", play_main, owner, &owner->thread, err);
    if (status != KELPIE_OK) {
        close(owner->fd);
        free(owner);
        return status;
    }
    owners[owner_count++] = owner;
    alive_count++;
    return KELPIE_OK;
}

static enum kelpie_status spawn(struct host *host, const struct host_process_spec *spec,
                                struct host_process **ret_process, struct kelpie_error *err) {
    ASSERT(strcmp(spec->argv[1], "supervise") == 0);
    ASSERT(spec->detached && spec->fd_count == 1);
    pthread_mutex_lock(&mutex);
    enum kelpie_status status = refused;
    if (status != KELPIE_OK) {
        error_set(err, status, "no owner is to start");
    } else {
        status = start_owner(host, spec->fds[0].fd, err);
    }
    pthread_mutex_unlock(&mutex);
    if (status == KELPIE_OK) {
        *ret_process = calloc(1, sizeof(**ret_process));
        ASSERT(*ret_process);
        (*ret_process)->host = host;
    }
    return status;
}

static void process_destroy(struct host_process *process) {
    free(process);
}

enum kelpie_status owner_host_create(struct host **ret_host) {
    struct host *host = NULL;
    TRY(host_linux_create(&host, NULL));
    ASSERT(owner_count == 0);
    ops = *host->ops;
    ops.process_spawn = spawn;
    ops.process_destroy = process_destroy;
    host->ops = &ops;
    play_next = NULL;
    refused = KELPIE_OK;
    *ret_host = host;
    return KELPIE_OK;
}

void owner_host_play(owner_host_main *play, void *context) {
    pthread_mutex_lock(&mutex);
    play_next = play;
    context_next = context;
    pthread_mutex_unlock(&mutex);
}

void owner_host_refuse(enum kelpie_status status) {
    pthread_mutex_lock(&mutex);
    refused = status;
    pthread_mutex_unlock(&mutex);
}

size_t owner_host_alive(void) {
    pthread_mutex_lock(&mutex);
    size_t count = alive_count;
    pthread_mutex_unlock(&mutex);
    return count;
}

size_t owner_host_join(void) {
    size_t count = 0;
    for (;;) { /* one may start others while it ends */
        pthread_mutex_lock(&mutex);
        struct played *owner = owner_count > 0 ? owners[--owner_count] : NULL;
        pthread_mutex_unlock(&mutex);
        if (!owner) {
            return count;
        }
        host_thread_join(owner->thread);
        free(owner);
        count++;
    }
}
