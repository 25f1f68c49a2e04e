/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * As many steps as the command line's last number says of a calculation whose result depends on each of its steps, on the disk, on a device's register and on every register
 * that it uses. It tells the console how it goes, and at its end stands in one instruction, so that its
 * registers are the same however often it was interrupted.
 */
#include "payload.inc"

#define TABLE 0x300000

start:
    mov $STACK, %esp
    call command_line_end
    mov %eax, %r9d
    mov $BLK_WINDOW, %ebx
    mov $RINGS, %edi
    mov $2, %edx
    call virtio_start
    mov $1, %r8d /* the value */
    mov $0x5851f42d4c957f2d, %r10
step:
    imul %r10, %r8
    add $12345, %r8
    mov %r9d, %ecx
    and $0x3ff8, %ecx
    add %r8, TABLE(%rcx)
    test $0xff, %r9b
    jnz 1f
    mov $SERIAL_SCRATCH, %edx /* a register of the serial port that only keeps what it is given */
    in (%dx), %al
    movzbl %al, %eax
    add %rax, %r8
    mov %r8, %rax
    out %al, (%dx)
    and $15, %al
    add $'a', %al
    mov $SERIAL, %edx
    out %al, (%dx)
    xor %eax, %eax
    mov %r9d, %edx
    shr $8, %edx
    and $7, %edx
    call blk_request
    add DATA + 0x200, %r8
1:  dec %r9d
    jnz step
    puts "\nend"
    mov $SERIAL, %edx
    mov $'\n', %al
    out %al, (%dx) /* whoever sees it finds the processor behind it, for good */
2:  jmp 2b
