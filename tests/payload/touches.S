/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Writes to 4,096 pages, then waits for the machine's generation to change, which a load does. Then it reads one page in
 * 64 of them, writes to two others, says the sum, and begins to wait again.
 */
#include "payload.inc"

#define AREA 0x800000
#define PAGES 4096
#define STRIDE 0x40000
#define OTHER 0x1900000

start:
    mov $STACK, %esp
    mov $AREA, %edi
    mov $PAGES, %ecx
1:  mov %ecx, (%rdi)
    add $0x1000, %edi
    dec %ecx
    jnz 1b
    mov GENERATION, %rbx
    puts "ready\n"
wait:
    pause
    cmp GENERATION, %rbx
    je wait
    mov GENERATION, %rbx
    mov $AREA, %edi
    mov $PAGES / 64, %ecx
    xor %eax, %eax
1:  add (%rdi), %eax
    add $STRIDE, %edi
    dec %ecx
    jnz 1b
    movl $7, OTHER
    movl $7, OTHER + 0x8000
    call write_decimal
    puts " touched\n"
    jmp wait
