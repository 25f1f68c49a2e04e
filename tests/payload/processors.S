/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Starts every other processor by INIT and SIPI, waits until as many have come as the command line's last number says, and
 * until the machine is restored (its generation changes); then until each has done something again. Powers off.
 */
#include "payload.inc"

#define LAPIC 0xfee00000
#define PLACE 0x8000 /* where the others begin, in real mode */
#define SELF_EXCLUDED 0xc0000
#define INIT 0x4500
#define STARTUP 0x4600

start:
    mov $STACK, %esp
    call command_line_end
    lea -1(%rax), %r8d
    mov GENERATION, %r9
    lea others(%rip), %rsi
    mov $PLACE, %edi
    mov $others_end - others, %ecx
    rep movsb
    mov $LAPIC, %ebx
    movl $0x1ff, 0xf0(%rbx)
    movl $SELF_EXCLUDED | INIT, 0x300(%rbx)
    mov $10000, %ecx
1:  pause
    dec %ecx
    jnz 1b
    movl $SELF_EXCLUDED | STARTUP | PLACE >> 12, 0x300(%rbx)
2:  pause
    cmp %r8d, PLACE + came - others
    jne 2b
    puts "came "
    mov %r8d, %eax
    call write_decimal
    puts "\n"
3:  pause
    cmp %r9, GENERATION
    je 3b
    movl $1, PLACE + go - others
4:  pause
    cmp %r8d, PLACE + went - others
    jne 4b
    puts "went "
    mov %r8d, %eax
    call write_decimal
    puts "\n"
    jmp power_off

    .code16
others:
    mov %cs, %ax
    mov %ax, %ds
    lock incl came - others
1:  pause
    cmpl $0, go - others
    je 1b
    lock incl went - others
2:  cli
    hlt
    jmp 2b
    .balign 64
came:
    .long 0
went:
    .long 0
go:
    .long 0
others_end:
