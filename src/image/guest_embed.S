/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* kelpie-guest's bytes, from image_guest_data to image_guest_data_end. */
    .section .rodata
    .balign 16
    .hidden image_guest_data
    .globl image_guest_data
image_guest_data:
    .incbin GUEST_PATH
    .hidden image_guest_data_end
    .globl image_guest_data_end
image_guest_data_end:
    .byte 0
    .section .note.GNU-stack, "", @progbits
