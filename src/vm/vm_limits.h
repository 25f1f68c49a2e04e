/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#ifndef KELPIE_VM_VM_LIMITS_H
#define KELPIE_VM_VM_LIMITS_H

#include "protocol/protocol_limits.h"

#define VM_OUT_CAPACITY (2 * PROTOCOL_FRAME_SIZE_MAX) /* bytes queued for the guest */
#define VM_POLL_PERIOD_MS 1000    /* the I/O thread looks up at least so often */
#define VM_WAKE_TRIES 3           /* of a guest that stands still, in a VM that runs */
#define VM_FREEZE_TIMEOUT_MS 5000 /* then a VM is paused although its commands were not */
#define VM_EXIT_GRACE_MS 1000     /* between the channel's end and the machine's */
#define VM_HELLO_RETRY_MS 2000    /* a restored guest that is silent so long is resynchronised */
#define VM_EXEC_GRACE_MS 3000     /* beyond a command's timeout, before we act without the guest */
#define VM_OWNED_EXEC_GRACE_MS                                                                     \
    60000 /* the same where we do not see how long a snapshot stands still */
#define VM_OWNED_IDS_COUNT_MIN 1024 /* session numbers that an owner gives a handle */
#define VM_OWNED_CHANNEL_MS 5000    /* between word of a machine and a channel to it */
#define VM_OWNED_ANSWER_MS 5000     /* beyond an operation's own time, for its owner to answer */
#define VM_OWNED_LAST_WORDS_MS 1000 /* of closed sessions, before a handle is given up */
#define VM_STATUS_TIMEOUT_MS 2000   /* for a guest to say what memory it has */
#define VM_KILL_TIMEOUT_MS 5000     /* to reap a machine that was killed */
#define VM_COLLECT_SIZE_MIN 4096    /* first allocation of a collected output */
#define VM_COPY_CHUNK_SIZE 65536
#define VM_COPY_OUT_BYTES_DEFAULT 17179869184ull
#define VM_TREE_QUEUE_SIZE_MIN 65536   /* bytes of names of folders that wait */
#define VM_TREE_LIST_COUNT_MIN 1024    /* entries of one folder, at first */
#define VM_TREE_LIST_COUNT_MAX 1048576 /* … and at most */
#define VM_TREE_DRAFT_DIGITS 8
#define VM_CHECKPOINT_BLOCK_SIZE 4096 /* zeros that fill so much of a file are a hole */
#define VM_CHECKPOINT_ATTRIBUTE_COUNT_MAX 64
#define VM_CONSOLE_IN_ERROR_SIZE 400 /* last bytes of the console quoted in an error */
#define VM_SIGNAL_MAX 64
#define VM_SIGNAL_KILL 9

/* A relay (relay.h). Windows of all its sessions, and an eighth more for headers. */
#define VM_RELAY_COUNT_MAX 256
#define VM_RELAY_OUT_SIZE_MIN 65536 /* what its queue begins with, and goes back to */
#define VM_RELAY_OUT_SIZE_MAX                                                                      \
    (2ull * KELPIE_EXEC_COUNT_MAX * (PROTOCOL_WINDOW_SIZE + PROTOCOL_WINDOW_SIZE / 8))
#define VM_RELAY_LAST_READ_COUNT_MAX 64 /* of what a far end said before it went */
#define VM_RELAY_LOOK_MS 200 /* for another relay to see whether its far end let go of a session */
#define VM_RELAY_DRAIN_MS 2000 /* for the last words of a machine that has ended */

/* From so many sessions in the guest on, of those that have ended and that nobody holds the oldest are forgotten. */
#define VM_GUEST_SESSION_KEEP_MAX 224

#define VM_FORK_THREAD_COUNT_MAX 8   /* that make a fork's children, the caller's among them */
#define VM_POOL_RETRY_PERIOD_MS 1000 /* after a machine that could not be prepared */

#define VM_MEMORY_SMALL_MIB 128 /* below, a guest that does not come up may lack memory */

#define VM_IMAGE_DISK_MIB_MIN 16
#define VM_IMAGE_DISK_COUNT 2 /* disks that an image takes: itself, and the one over it */

#define VM_NEUTRAL_NAME "template" /* what a template's guest and manifest are called */
#define VM_WARM_TEXT_SIZE_MAX 262144
#define VM_WARM_SAVE_TIMEOUT_MS 10000
#define VM_WARM_RESTORE_TIMEOUT_MS 20000
#define VM_WARM_PUBLISH_TIMEOUT_MS 30000

#endif
