/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* kelpie-krun, as bytes. KRUN_PATH is the program that was just built. */
    .section .rodata
    .global libkrun_program_data
    .hidden libkrun_program_data
    .global libkrun_program_end
    .hidden libkrun_program_end
    .balign 16
libkrun_program_data:
    .incbin KRUN_PATH
libkrun_program_end:
    .section .note.GNU-stack, "", @progbits
