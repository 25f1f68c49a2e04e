/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * As much of libdispatch as vz_machine.m uses: serial queues with a thread each, and semaphores. Both are objects, as on macOS, and
 * are kept and released by the compiler. What libdispatch ends a program for ends this one too: a queue that waits for
 * itself, and a semaphore that goes while somebody waits.
 */
#import <Foundation/Foundation.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "vz/framework.h"

BOOL GSRegisterCurrentThread(void);
void GSUnregisterCurrentThread(void);
void *_Block_copy(const void *block);

static void refuse(const char *text) {
    fprintf(stderr, "libdispatch: %s\n", text);
    abort();
}

/* ---- Queues ----------------------------------------------------------------------------------- */

struct item {
    struct item *next;
    void *block;
    void *queue; /* kept as long as one of its blocks waits */
};

/* Of the queue's thread, which frees it when the queue is gone. */
struct core {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    pthread_t thread;
    struct item *first;
    struct item **last;
    bool is_closing;
};

static _Thread_local const struct core *current;
static atomic_int queue_count;

@interface QueueDouble : NSObject <OS_dispatch_queue> {
  @public
    struct core *core;
}
@end

@implementation QueueDouble
- (void)dealloc {
    pthread_t thread = core->thread;
    pthread_mutex_lock(&core->lock);
    core->is_closing = true;
    pthread_cond_signal(&core->changed);
    pthread_mutex_unlock(&core->lock);
    if (pthread_equal(thread, pthread_self())) {
        pthread_detach(thread);
    } else {
        pthread_join(thread, NULL);
    }
}
@end

static struct item *next_item(struct core *core) {
    pthread_mutex_lock(&core->lock);
    while (!core->first && !core->is_closing) {
        pthread_cond_wait(&core->changed, &core->lock);
    }
    struct item *item = core->first;
    if (item) {
        core->first = item->next;
        core->last = core->first ? core->last : &core->first;
    }
    pthread_mutex_unlock(&core->lock);
    return item;
}

static void run(struct item *item) {
    @autoreleasepool {
        void (^block)(void) = (__bridge_transfer void (^)(void))item->block;
        block();
    }
    id queue = (__bridge_transfer id)item->queue;
    (void)queue; /* the last one, maybe */
    free(item);
}

static void *serve(void *context) {
    struct core *core = context;
    struct item *item = NULL;
    GSRegisterCurrentThread();
    current = core;
    while ((item = next_item(core))) {
        run(item);
    }
    GSUnregisterCurrentThread();
    pthread_cond_destroy(&core->changed);
    pthread_mutex_destroy(&core->lock);
    free(core);
    atomic_fetch_sub(&queue_count, 1);
    return NULL;
}

dispatch_queue_t dispatch_queue_create(const char *label, id attributes) {
    QueueDouble *queue = [[QueueDouble alloc] init];
    struct core *core = calloc(1, sizeof(*core));
    (void)label;
    (void)attributes;
    if (!core) {
        refuse("no memory");
    }
    pthread_mutex_init(&core->lock, NULL);
    pthread_cond_init(&core->changed, NULL);
    core->last = &core->first;
    queue->core = core;
    atomic_fetch_add(&queue_count, 1);
    if (pthread_create(&core->thread, NULL, serve, core) != 0) {
        refuse("no thread");
    }
    return queue;
}

void dispatch_async(dispatch_queue_t queue, void (^block)(void)) {
    struct core *core = ((QueueDouble *)queue)->core;
    struct item *item = calloc(1, sizeof(*item));
    if (!item) {
        refuse("no memory");
    }
    item->block = _Block_copy((__bridge const void *)block);
    item->queue = (__bridge_retained void *)queue;
    pthread_mutex_lock(&core->lock);
    *core->last = item;
    core->last = &item->next;
    pthread_cond_signal(&core->changed);
    pthread_mutex_unlock(&core->lock);
}

void dispatch_sync(dispatch_queue_t queue, void (^block)(void)) {
    dispatch_semaphore_t done = dispatch_semaphore_create(0);
    if (vz_double_is_on(queue)) {
        refuse("dispatch_sync() called on the queue itself");
    }
    dispatch_async(queue, ^{
      block();
      dispatch_semaphore_signal(done);
    });
    dispatch_semaphore_wait(done, DISPATCH_TIME_FOREVER);
}

bool vz_double_is_on(dispatch_queue_t queue) {
    return ((QueueDouble *)queue)->core == current;
}

int vz_double_queue_count(void) {
    return atomic_load(&queue_count);
}

/* ---- Semaphores ------------------------------------------------------------------------------- */

@interface SemaphoreDouble : NSObject <OS_dispatch_semaphore> {
  @public
    pthread_mutex_t lock;
    pthread_cond_t changed;
    intptr_t count;
    intptr_t waiting;
}
@end

@implementation SemaphoreDouble
- (void)dealloc {
    if (waiting != 0) {
        refuse("a semaphore is released that somebody waits for");
    }
    pthread_cond_destroy(&changed);
    pthread_mutex_destroy(&lock);
}
@end

dispatch_semaphore_t dispatch_semaphore_create(intptr_t value) {
    SemaphoreDouble *semaphore = [[SemaphoreDouble alloc] init];
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&semaphore->lock, NULL);
    pthread_cond_init(&semaphore->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    semaphore->count = value;
    return semaphore;
}

intptr_t dispatch_semaphore_signal(dispatch_semaphore_t semaphore) {
    SemaphoreDouble *own = (SemaphoreDouble *)semaphore;
    pthread_mutex_lock(&own->lock);
    own->count++;
    pthread_cond_signal(&own->changed);
    pthread_mutex_unlock(&own->lock);
    return 0;
}

#define NS_PER_S 1000000000ull

intptr_t dispatch_semaphore_wait(dispatch_semaphore_t semaphore, dispatch_time_t deadline) {
    SemaphoreDouble *own = (SemaphoreDouble *)semaphore;
    const struct timespec until = {.tv_sec = (time_t)(deadline / NS_PER_S),
                                   .tv_nsec = (long)(deadline % NS_PER_S)};
    int failure = 0;
    pthread_mutex_lock(&own->lock);
    own->waiting++;
    while (own->count == 0 && failure == 0) {
        failure = deadline == DISPATCH_TIME_FOREVER
                      ? pthread_cond_wait(&own->changed, &own->lock)
                      : pthread_cond_timedwait(&own->changed, &own->lock, &until);
    }
    own->waiting--;
    if (own->count > 0) {
        own->count--;
        failure = 0;
    }
    pthread_mutex_unlock(&own->lock);
    return failure;
}

dispatch_time_t dispatch_time(dispatch_time_t when, int64_t delta_ns) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (when != DISPATCH_TIME_NOW) {
        refuse("only times from now");
    }
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec + (uint64_t)delta_ns;
}
