/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * void sim_fiber_swap(void **ret_from, void *to): pushes what a function must preserve (System V AMD64 ABI, 3.2.1), keeps the
 * stack pointer in *ret_from, and pops the same from the other stack.
 * sim_fiber_begin: where a new fiber's first swap returns to; r12 holds its argument, r13 its function.
 */
#if defined(__x86_64__)
    .text
    .globl sim_fiber_swap
    .hidden sim_fiber_swap
    .type sim_fiber_swap, @function
sim_fiber_swap:
    push %rbp
    push %rbx
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, (%rdi)
    mov %rsi, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbx
    pop %rbp
    ret
    .size sim_fiber_swap, . - sim_fiber_swap

    .globl sim_fiber_begin
    .hidden sim_fiber_begin
    .type sim_fiber_begin, @function
sim_fiber_begin:
    mov %r12, %rdi
    call *%r13
    ud2
    .size sim_fiber_begin, . - sim_fiber_begin
#endif
    .section .note.GNU-stack, "", @progbits
