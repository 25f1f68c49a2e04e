/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Asks the entropy device for 16 bytes, reads sector 1 of the disk and writes what it is not to sector 2; says what came of
 * each, and powers off. */
#include "payload.inc"

start:
    mov $STACK, %esp
    mov $RNG_WINDOW, %ebx
    mov $RINGS, %edi
    mov $4, %edx
    call virtio_start
    movq $DATA, 0x00(%rdi)
    movl $16, 0x08(%rdi)
    movl $2, 0x0c(%rdi)
    call virtio_request
    mov %eax, %ebp
    puts "entropy "
    mov %ebp, %eax
    call write_decimal
    puts " "
    mov $DATA, %ebp
1:  mov (%rbp), %al
    call write_hex
    inc %ebp
    cmp $DATA + 16, %ebp
    jne 1b

    mov $BLK_WINDOW, %ebx
    mov $RINGS + 0x10000, %edi
    mov $2, %edx
    call virtio_start
    xor %eax, %eax
    mov $1, %edx
    call blk_request
    mov %eax, %ebp
    puts "\nread "
    call write_result
    mov $DATA + 0x200, %ebp
1:  notq (%rbp)
    add $8, %ebp
    cmp $DATA + 0x400, %ebp
    jne 1b
    mov $1, %eax
    mov $2, %edx
    call blk_request
    mov %eax, %ebp
    puts "\nwrite "
    call write_result
    puts "\n"
    jmp power_off

/* EBP: how many bytes the device wrote; and its status. */
write_result:
    mov %ebp, %eax
    call write_decimal
    puts " "
    movzbl DATA + 0x10, %eax
    jmp write_decimal
