/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * What the guest learns of the machine that it cannot probe: ACPI tables (ACPI specification 6.4).
 *
 * THEORY OF OPERATION
 *
 * The machine is "hardware-reduced" (section 4.1): it has no PM1 block, no SCI, no power button, and Linux then also
 * leaves the legacy timer and interrupt controllers alone. What is left needs three registers at ports, which the
 * FADT names: RESET_REG (VMM_RESET_PORT; writing VMM_RESET_VALUE reboots), SLEEP_CONTROL_REG and SLEEP_STATUS_REG
 * (writing SLP_EN with _S5's type to the first powers off). reset.h answers at them. Linux takes the first only when its
 * command line says "reboot=a"; else it ends at the same port by way of boot.h's BOOT_RESET_VECTOR_GPA.
 *
 * Without the legacy timer, a guest's clocks are its local APIC's timer and the TSC. So the vCPUs must offer
 * KVM's clock, and TSC_DEADLINE and ARAT in CPUID.
 *
 * Interrupts go to one I/O APIC with GSIs from 0 on, all of them edge-triggered and active high, as each device says
 * for itself. There is no override of ISA interrupts, for there is none: no ISA timer and no SCI.
 *
 * The tables, each aligned to 64 bytes, in [VMM_ACPI_BASE, + VMM_ACPI_SIZE):
 *
 *     RSDP   at VMM_RSDP_GPA, where the zero page's acpi_rsdp_addr points
 *     DSDT   the devices: COM1 (PNP0501), pvpanic (QEMU0001), the virtio-mmio devices (LNRO0005), VMGenID (KLPI0001),
 *            and a Generic Event Device (ACPI0013), which tells VMGenID's driver of VMM_GENERATION_GSI; and _S5
 *     FADT, MADT, XSDT
 */
#ifndef KELPIE_VMM_ACPI_ACPI_H
#define KELPIE_VMM_ACPI_ACPI_H

#include "base/error.h"
#include "vmm/memory/memory.h"

struct acpi_description {
    uint32_t vcpu_count;        /* 1 … VMM_VCPU_COUNT_MAX; a vCPU's APIC id is its index */
    uint32_t mmio_device_count; /* at most VMM_MMIO_DEVICE_COUNT_MAX, from window 0 on */
    bool has_serial;
};

/* Writes the tables; the area is the caller's to reserve in the memory map, and what it held is gone.
 * BAD_CONFIG, field "memory_mib": the memory ends before the area does. */
KELPIE_CHECKED enum kelpie_status acpi_build(const struct memory *memory,
                                             const struct acpi_description *description,
                                             struct kelpie_error *err);

#endif
