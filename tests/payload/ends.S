/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Ends in the way that the command line's last letter names. */
#include "payload.inc"

start:
    mov $STACK, %esp
    call command_line_end
    push %rcx
    puts "Kernel panic - not syncing: or so it says\n trace\n"
    pop %rcx
    cmp $'p', %cl
    je panic
    cmp $'t', %cl
    je triple_fault
    cmp $'r', %cl
    je reset
    jmp power_off

panic: /* pvpanic */
    mov $0x505, %edx
    in (%dx), %al
    out %al, (%dx)
    jmp power_off

triple_fault: /* no gate for the exception, nor for the one that follows */
    lidt no_gates(%rip)
    ud2
no_gates:
    .word 0
    .quad 0

reset: /* the FADT's reset register */
    mov $0x604, %edx
    mov $0x42, %al
    out %al, (%dx)
1:  jmp 1b
