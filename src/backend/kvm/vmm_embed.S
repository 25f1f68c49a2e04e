/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* kelpie-vmm, as bytes. VMM_PATH is the program that was just built. */
    .section .rodata
    .global kvm_vmm_data
    .hidden kvm_vmm_data
    .global kvm_vmm_end
    .hidden kvm_vmm_end
    .balign 16
kvm_vmm_data:
    .incbin VMM_PATH
kvm_vmm_end:
    .section .note.GNU-stack, "", @progbits
