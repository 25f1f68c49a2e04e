/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#ifndef KELPIE_SIM_PEER_QEMU_LIMITS_H
#define KELPIE_SIM_PEER_QEMU_LIMITS_H

/* ---- The command line ---- */
#define SIM_QEMU_NAME_SIZE_MAX 63   /* of an id, a key, a device model */
#define SIM_QEMU_VALUE_SIZE_MAX 255 /* of a property */
#define SIM_QEMU_ERROR_SIZE 1024
#define SIM_QEMU_CHARDEV_COUNT_MAX 8
#define SIM_QEMU_DISK_COUNT_MAX 8
#define SIM_QEMU_CPU_COUNT_MAX 288
#define SIM_QEMU_FD_MAX 1023

/* ---- QMP ---- */
#define SIM_QEMU_LINE_SIZE_MAX 65536  /* of a command */
#define SIM_QEMU_OUT_SIZE_MAX 4194304 /* not yet written; more is lost, as events are */
#define SIM_QEMU_READ_SIZE 4096
#define SIM_QEMU_NAMED_FD_COUNT_MAX 4
#define SIM_QEMU_ENDLESS_SIZE_MAX 1048576 /* of a line without end */
#define SIM_QEMU_DEPTH_MAX 5000
#define SIM_QEMU_CHATTER_COUNT_MIN 100
#define SIM_QEMU_CHATTER_COUNT_MAX 600
#define SIM_QEMU_SLOW_S_MAX 40
#define SIM_QEMU_SPLIT_SIZE_MAX 48 /* of one write of a split answer */
#define SIM_QEMU_FAREWELL_MS 200   /* for what is still to be written when it ends */
#define SIM_QEMU_WORDS_MS 100      /* for stderr, when nobody reads it */

/* ---- Migration ---- */
#define SIM_QEMU_MIGRATION_MS_MAX 200
#define SIM_QEMU_MIGRATION_STEP_COUNT_MAX 8
#define SIM_QEMU_PAGE_SIZE 4096u

#endif
