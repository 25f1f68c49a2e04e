/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * What --json tells of VMs and snapshots. Fields have the names that they have in the headers; they are only ever
 * added to. What there is not is null. Each returns NULL when there is no memory.
 */
#ifndef KELPIE_CLI_VM_JSON_H
#define KELPIE_CLI_VM_JSON_H

#include <jansson.h>

#include "kelpie_store.h"

json_t *vm_json_info(const struct kelpie_vm_info *info);
json_t *vm_json_exit(const struct kelpie_exit *exit);
json_t *vm_json_config(const struct kelpie_config *config);
json_t *vm_json_capabilities(uint32_t capabilities);
json_t *vm_json_snapshot(const struct kelpie_snapshot *snapshot);
json_t *vm_json_restore_report(const struct kelpie_restore_report *report);

/* The name of a snapshot's kind, "suspend", "teleport" or "checkpoint". */
const char *vm_json_kind(enum kelpie_snapshot_kind kind);

/* The value, or null (and the value is let go of). */
json_t *vm_json_or_null(bool present, json_t *value);

/* What a manual page says of an info's fields. */
#define VM_JSON_INFO_FIELDS                                                                        \
    "id, name          of the VM\n"                                                                \
    "state             created, starting, running, paused, stopped or crashed\n"                   \
    "backend           the hypervisor\n"                                                           \
    "image             its name, or null\n"                                                        \
    "vcpu_count        virtual processors\n"                                                       \
    "memory_mib        of the guest\n"                                                             \
    "created_unix_ms   when it was created\n"                                                      \
    "started_unix_ms   when it was started the last time, or null\n"                               \
    "ended_unix_ms     when it ended; null: it runs, or never ran\n"                               \
    "owner_pid         the process that owns it, or null\n"                                        \
    "command           null, or the detached command: exec_id, ended, and exit: null, or code, "   \
    "signal, timed_out\n"                                                                          \
    "reason            why it crashed or was stopped by its owner, or null\n"                      \
    "labels            an object\n"                                                                \
    "disk_bytes        what its folder takes on disk\n"                                            \
    "status            ok; else its record cannot be read, and only name, reason and disk_bytes "  \
    "are known\n"

#endif
