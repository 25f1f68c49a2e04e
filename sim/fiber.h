/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * fiber.h: functions with stacks of their own, on one thread. sim_fiber_switch() leaves one and goes on in another where that
 * was left. The address sanitizer is told of every switch.
 *
 * The stack is the caller's. Its lowest bytes hold a mark that every switch looks at: a stack that was too small is an
 * assertion and not a riddle.
 */
#ifndef KELPIE_SIM_FIBER_H
#define KELPIE_SIM_FIBER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

typedef void (*sim_fiber_entry)(void *argument);

struct sim_context {
#if defined(__x86_64__)
    void *stack_pointer;
#else
    ucontext_t context;
#endif
    void *stack; /* NULL: the thread's own */
    size_t stack_size;
    sim_fiber_entry entry;
    void *argument;
    void *sanitizer_stack;    /* what the address sanitizer keeps for it */
    const void *thread_stack; /* of the thread's own context: as the sanitizer says */
    size_t thread_stack_size;
    struct sim_context *came_from; /* who switched here last */
};

/* The thread's own: where the first switch comes from. */
void sim_context_init_thread(struct sim_context *context);

/* One that begins with entry(argument), which must not return, on the stack of `size` bytes. */
void sim_context_init(struct sim_context *context, void *stack, size_t size, sim_fiber_entry entry,
                      void *argument);

/* Goes on in `to`. Returns when something switches back. last: `from` will never be switched to again. */
void sim_context_switch(struct sim_context *from, struct sim_context *to, bool last);

#endif
