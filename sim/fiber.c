/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "sim/fiber.h"

#include <string.h>

#include "base/assert.h"
#include "sim/sim_limits.h"

#if defined(SIM_WITH_SANITIZER)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#define STACK_SIZE_MIN 16384
#define STACK_MARK 0x6b656c7069657374ull
#define SAVED_REGISTER_COUNT 6
#define STACK_TOP_SIZE 64 /* above the first frame */

#if defined(__x86_64__)
void sim_fiber_swap(void **ret_from, void *to);
void sim_fiber_begin(void);
#endif

static void mark_check(const struct sim_context *context) {
    uint64_t mark = STACK_MARK;
    if (context->stack) {
        memcpy(&mark, context->stack, sizeof(mark));
    }
    ASSERT(mark == STACK_MARK); /* else it needs a larger stack */
}

/* On the new stack: tells the sanitizer that it is there. */
static void arrived(struct sim_context *here) {
    ASSERT(here);
    ASSERT(here->came_from);
#if defined(SIM_WITH_SANITIZER)
    struct sim_context *from = here->came_from;
    const void *bottom = NULL;
    size_t size = 0;
    __sanitizer_finish_switch_fiber(here->sanitizer_stack, &bottom, &size);
    if (!from->stack) {
        from->thread_stack = bottom;
        from->thread_stack_size = size;
    }
#endif
}

static void fiber_main(void *argument) {
    struct sim_context *context = argument;
    ASSERT(context->entry);
    arrived(context);
    context->entry(context->argument);
    UNREACHABLE();
}

#if !defined(__x86_64__)
/* makecontext() hands over ints alone. */
static void fiber_main_halves(int high, int low) {
    static_assert(sizeof(uintptr_t) == 2 * sizeof(int), "a pointer is two of them");
    fiber_main((void *)((uintptr_t)(unsigned)high << 32 | (unsigned)low));
}
#endif

void sim_context_init_thread(struct sim_context *context) {
    ASSERT(context);
    *context = (struct sim_context){.stack = NULL};
    ASSERT(!context->came_from);
}

void sim_context_init(struct sim_context *context, void *stack, size_t size, sim_fiber_entry entry,
                      void *argument) {
    ASSERT(context && stack && entry);
    ASSERT(size >= STACK_SIZE_MIN);
    const uint64_t mark = STACK_MARK;
#if defined(SIM_WITH_SANITIZER)
    ASAN_UNPOISON_MEMORY_REGION(stack, size); /* what was dropped there has left its marks */
#endif
    *context = (struct sim_context){
        .stack = stack, .stack_size = size, .entry = entry, .argument = argument};
    memcpy(stack, &mark, sizeof(mark));
#if defined(__x86_64__)
    /* As if it had been left in sim_fiber_swap(): r15, r14, r13, r12, rbx, rbp, the address to return to. After that return
     * the stack is aligned as before a call. */
    uintptr_t top = (((uintptr_t)stack + size) & ~(uintptr_t)15) - STACK_TOP_SIZE;
    uint64_t *frame = (uint64_t *)top - (SAVED_REGISTER_COUNT + 1);
    memset(frame, 0, (SAVED_REGISTER_COUNT + 1) * sizeof(*frame));
    frame[2] = (uint64_t)(uintptr_t)fiber_main;
    frame[3] = (uint64_t)(uintptr_t)context;
    frame[SAVED_REGISTER_COUNT] = (uint64_t)(uintptr_t)sim_fiber_begin;
    context->stack_pointer = frame;
#else
    getcontext(&context->context);
    context->context.uc_stack.ss_sp = stack;
    context->context.uc_stack.ss_size = size;
    uint64_t address = (uint64_t)(uintptr_t)context;
    makecontext(&context->context, (void (*)(void))fiber_main_halves, 2, (int)(address >> 32),
                (int)address);
#endif
}

void sim_context_switch(struct sim_context *from, struct sim_context *to, bool last) {
    ASSERT(from && to);
    ASSERT(from != to);
    mark_check(from);
    mark_check(to);
    to->came_from = from;
#if defined(SIM_WITH_SANITIZER)
    const void *bottom = to->stack ? to->stack : to->thread_stack;
    size_t size = to->stack ? to->stack_size : to->thread_stack_size;
    __sanitizer_start_switch_fiber(last ? NULL : &from->sanitizer_stack, bottom, size);
#else
    (void)last;
#endif
#if defined(__x86_64__)
    sim_fiber_swap(&from->stack_pointer, to->stack_pointer);
#else
    swapcontext(&from->context, &to->context);
#endif
    arrived(from);
}
