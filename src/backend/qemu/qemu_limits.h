/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#ifndef KELPIE_BACKEND_QEMU_QEMU_LIMITS_H
#define KELPIE_BACKEND_QEMU_QEMU_LIMITS_H

#define QEMU_VERSION_MAJOR_MIN                                                                     \
    6 /* 6.2: the first whose microvm, fd passing and JSON were all tried */
#define QEMU_VERSION_MINOR_MIN 2
#define QEMU_VERSION_SIZE_MAX 31
#define QEMU_VERSION_OUTPUT_SIZE_MAX 1023
#define QEMU_VERSION_TIMEOUT_MS 5000

#define QEMU_ARGV_COUNT_MAX 127
#define QEMU_COMMAND_SIZE_MAX 32768 /* all arguments with their zeros */
#define QEMU_APPEND_SIZE_MAX 2047   /* the kernel's command line; Linux takes 2048 with the zero */
#define QEMU_TB_SIZE_MIB 64         /* TCG's cache of translated code */

#define QEMU_QMP_LINE_SIZE_MAX 65536
#define QEMU_QMP_READ_COUNT_MAX 16 /* reads of one look at the socket */
#define QEMU_QMP_NAME_SIZE_MAX 63
#define QEMU_QMP_TEXT_SIZE_MAX 511

#define QEMU_MIGRATION_POLL_NS 1000000ull
#define QEMU_MIGRATION_BANDWIDTH 1099511627776ll /* bytes a second: no limit in practice */
#define QEMU_TSC_SAMPLE_NS_MIN 10000000ull       /* shortest span that a TSC rate is taken from */
#define QEMU_TSC_TRIES 8
#define QEMU_TSC_TOLERANCE_PPM 500 /* what an NTP client can still steer away */

#endif
