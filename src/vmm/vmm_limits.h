/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#ifndef KELPIE_VMM_VMM_LIMITS_H
#define KELPIE_VMM_VMM_LIMITS_H

#define VMM_VCPU_COUNT_MAX 32
#define VMM_PAGE_SIZE 4096ull

/* The guest-physical map. Memory below the hole, devices in it, the rest of memory from 4 GiB on. */
#define VMM_MEMORY_LOW_END 0xc0000000ull /* 3 GiB */
#define VMM_MEMORY_HIGH_START 0x100000000ull
#define VMM_MEMORY_REGION_COUNT_MAX 2
#define VMM_MMIO_BASE 0xd0000000ull /* the first virtio-mmio window */
#define VMM_MMIO_WINDOW_SIZE 0x1000ull
#define VMM_MMIO_DEVICE_COUNT_MAX 16
#define VMM_MMIO_GSI_BASE 5  /* device 0 has GSI 5, device 1 GSI 6, … */
#define VMM_GENERATION_GSI 4 /* VMGenID's notification */
#define VMM_IOAPIC_GPA 0xfec00000ull
#define VMM_LAPIC_GPA 0xfee00000ull
#define VMM_RESET_PORT 0x604         /* FADT's RESET_REG: VMM_RESET_VALUE reboots */
#define VMM_SLEEP_CONTROL_PORT 0x605 /* FADT's SLEEP_CONTROL_REG */
#define VMM_SLEEP_STATUS_PORT 0x606  /* FADT's SLEEP_STATUS_REG */
#define VMM_RESET_VALUE 0x42
#define VMM_SLEEP_TYPE_OFF 5     /* of _S5: SLP_TYP for power off */
#define VMM_PANIC_PORT 0x505     /* pvpanic */
#define VMM_CF9_PORT 0xcf9       /* the chip sets' reset control register */
#define VMM_I8042_PORT 0x64      /* the keyboard controller's command and status */
#define VMM_SERIAL_PORT 0x3f8    /* COM1 */
#define VMM_SERIAL_GSI 3         /* not 4: ACPI says which */
#define VMM_GSI_COUNT 24         /* pins of the I/O APIC */
#define VMM_ACPI_BASE 0xe0000ull /* RSDP and tables: the BIOS area, reserved in the memory map */
#define VMM_ACPI_SIZE 0x10000ull
#define VMM_RSDP_GPA VMM_ACPI_BASE
#define VMM_GENERATION_GPA 0xf0000ull /* the 16 bytes of VMGenID, behind it: reserved too */

#define VMM_DISK_COUNT_MAX 8
#define VMM_QUEUE_COUNT_MAX 8          /* of one virtio device */
#define VMM_QUEUE_SIZE_MAX 256         /* descriptors; a power of two */
#define VMM_CHAIN_LENGTH_MAX 256       /* descriptors in one chain: no more than a queue has */
#define VMM_DIFF_RUN_PAGES_MAX 1024ull /* of a diff, written or mapped at once */
#define VMM_DIFF_MAPPING_COUNT_MAX                                                                 \
    8192 /* pieces of diffs in memory; more are copied. The host allows 65530 */
#define VMM_PREFETCH_GAP_PAGES 4ull  /* between pages to be read ahead: they are read too */
#define VMM_PREFETCH_RUN_PAGES 32ull /* read ahead at once: the kernel cuts longer requests off */
#define VMM_PREFETCH_SAMPLE_COUNT                                                                  \
    64 /* pages looked up to tell whether a file is in the page cache */
#define VMM_STATE_SIZE_MAX (16u << 20)
#define VMM_SECTION_COUNT_MAX 256
#define VMM_SECTION_SIZE_MAX (4u << 20)
#define VMM_IO_SOURCE_COUNT_MAX 1280 /* descriptors that the I/O thread waits for */
#define VMM_IO_EVENT_COUNT_MAX 64    /* in one turn of its loop */

#endif
