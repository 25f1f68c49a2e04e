/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#ifndef KELPIE_GUEST_GUEST_LIMITS_H
#define KELPIE_GUEST_GUEST_LIMITS_H

#include "protocol/protocol_limits.h"

#define GUEST_OUTBOX_SIZE 131072   /* bytes on their way to the channel */
#define GUEST_FRAME_ROOM_MIN 36864 /* room in the outbox below which nothing new is encoded */
#define GUEST_PUMP_ROUND_COUNT_MAX                                                                 \
    64                            /* times the outbox is filled before the channel is read again */
#define GUEST_READ_SIZE_MAX 65536 /* bytes of a pipe or file in one read */
#define GUEST_EVENT_COUNT_MAX 64  /* events in one turn of the loop */
#define GUEST_REAP_COUNT_MAX 1024 /* children reaped in one turn of the loop */

#define GUEST_GRACE_MS 100        /* output of a grandchild is waited for so long */
#define GUEST_LAZY_MS 5           /* STARTED waits so long for company */
#define GUEST_LAZY_ROUND_COUNT 8  /* turns of the loop */
#define GUEST_CHANNEL_RETRY_MS 10 /* how often a closed channel is looked at */
#define GUEST_DIAL_WAIT_MS 5      /* a new connection to the host is waited for so long at once */

#define GUEST_CHANNEL_WAIT_MS 20000
#define GUEST_DEVICE_WAIT_MS 5000
#define GUEST_FREEZE_WAIT_MS 2000
#define GUEST_KILL_WAIT_MS 500
#define GUEST_POLL_STEP_US 500 /* between two looks at something that comes soon */

#define GUEST_SPAWN_STACK_SIZE 65536
#define GUEST_SPARE_SESSION_COUNT_MAX 4
#define GUEST_SPARE_CGROUP_COUNT_MAX 8
#define GUEST_MOVE_ROUND_COUNT_MAX 8 /* passes over a cgroup whose processes are moved */
#define GUEST_TEMP_TRY_COUNT_MAX 16
#define GUEST_ATTRIBUTES_SIZE_MAX 32768 /* bytes of all extended attributes of one file */
#define GUEST_ATTRIBUTES_COUNT_MAX 64
#define GUEST_CLEAR_STEP_COUNT_MAX                                                                 \
    16777216 /* twice the folders that a folder which is emptied may have */
#define GUEST_ROWS_DEFAULT 24
#define GUEST_COLUMNS_DEFAULT 80

#define GUEST_MODULE_COUNT_MAX 256
#define GUEST_LIST_SIZE_MAX 65536     /* bytes of /etc/kelpie/modules */
#define GUEST_PORT_COUNT_MAX 64       /* virtio ports looked at */
#define GUEST_INTERFACE_COUNT_MAX 256 /* network interfaces looked at */
#define GUEST_DEVICE_COUNT_MAX 64     /* virtio devices looked at */
#define GUEST_SMALL_FILE_SIZE_MAX 4096
#define GUEST_PATH_DEPTH_MAX 64
#define GUEST_ARCHIVE_ENTRY_COUNT_MAX 4096
#define GUEST_ARCHIVE_NAME_SIZE_MAX 1024 /* bytes of a name or a link's target */

#endif
