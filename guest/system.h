/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * system.h: what concerns the whole machine: its clock, entropy and names, disks, standing still, its end.
 * Not as process 1, nothing of the machine is touched: outcomes are UNSUPPORTED.
 */
#ifndef KELPIE_GUEST_SYSTEM_H
#define KELPIE_GUEST_SYSTEM_H

#include "agent.h"

/* SETUP: clock, entropy, disks, names, in this order. */
KELPIE_CHECKED enum kelpie_status
system_set_up(struct agent *agent, const struct protocol_setup *setup, struct kelpie_error *err);

/* Mounts the disks; "/" first, with the kernel's file systems inside. */
KELPIE_CHECKED enum kelpie_status system_mount_disks(struct agent *agent,
                                                     const struct protocol_setup *setup,
                                                     struct kelpie_error *err);

/* SHARE. After a failure nothing is mounted; ENODEV: this kernel has no virtio-fs. */
KELPIE_CHECKED enum kelpie_status system_mount_share(struct agent *agent,
                                                     const struct protocol_share *share,
                                                     struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status system_freeze(struct agent *agent, struct kelpie_error *err);

/* THAW: makes the machine itself again, then lets user processes go on. */
void system_thaw(struct agent *agent, const struct protocol_thaw *thaw,
                 struct protocol_thawed *ret_thawed);
void system_memory(uint64_t *ret_total_bytes, uint64_t *ret_available_bytes);

/* Kills everything, writes file systems back. */
void system_shut_down(struct agent *agent);

/* Reads up to size - 1 bytes of a file and a zero behind them; an empty text when there is no such file. */
void system_read_text(const char *path, char *buffer, size_t size);

/* Writes a small file inside the root that commands see. False, with errno: it could not. */
bool system_write_text(const struct agent *agent, const char *path, const char *text);

/* One line on the console. */
void system_log(const char *format, ...) ERROR_PRINTF(1, 2);

#endif
