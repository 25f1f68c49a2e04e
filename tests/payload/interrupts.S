/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Three requests to the entropy device, each of which ends with its interrupt: GSI 6 of the I/O APIC, vector 0x50. */
#include "payload.inc"

#define GATES 0x300000
#define VECTOR 0x50
#define LAPIC 0xfee00000
#define IOAPIC 0xfec00000
#define GSI 6

start:
    mov $STACK, %esp
    lea handler(%rip), %rax
    mov $GATES + VECTOR * 16, %ebp
    mov %ax, 0(%rbp)
    movl $0x8e000010, 2(%rbp) /* an interrupt gate, code selector 0x10 */
    shr $16, %rax
    mov %ax, 6(%rbp)
    lidt gates(%rip)
    mov $0xff, %al /* the old controllers have the lines too, and pass them on until they are told not to */
    out %al, $0x21
    out %al, $0xa1
    mov $LAPIC, %ebp
    movl $0x1ff, 0xf0(%rbp)
    mov $IOAPIC, %ebp
    movl $0x11 + 2 * GSI, 0(%rbp)
    movl $0, 0x10(%rbp)
    movl $0x10 + 2 * GSI, 0(%rbp)
    movl $VECTOR, 0x10(%rbp)
    mov $RNG_WINDOW, %ebx
    mov $RINGS, %edi
    mov $4, %edx
    call virtio_start
    movq $DATA, 0x00(%rdi)
    movl $16, 0x08(%rdi)
    movl $2, 0x0c(%rdi)
    xor %r8d, %r8d /* requests */
    xor %r9d, %r9d /* interrupts */
1:  inc %r8d
    call virtio_offer
2:  cli
    cmp %r8d, %r9d
    je 3f
    sti
    hlt
    jmp 2b
3:  cmp %cx, 0x802(%rdi)
    jne virtio_wrong
    cmp $3, %r8d
    jne 1b
    puts "interrupts "
    mov %r9d, %eax
    call write_decimal
    puts "\n"
    jmp power_off

handler:
    push %rax
    inc %r9d
    mov 0x60(%rbx), %eax
    mov %eax, 0x64(%rbx)
    mov $LAPIC, %eax
    movl $0, 0xb0(%rax)
    pop %rax
    iretq

gates:
    .word 0xfff
    .quad GATES
