/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#ifndef KELPIE_BACKEND_MONITOR_MONITOR_LIMITS_H
#define KELPIE_BACKEND_MONITOR_MONITOR_LIMITS_H

#define MONITOR_CONSOLE_CHUNK_SIZE 16384
#define MONITOR_CONSOLE_READ_COUNT_MAX 4 /* reads of one service call: 64 KiB */
#define MONITOR_STDERR_TAIL_SIZE 4096
#define MONITOR_STDERR_READ_COUNT_MAX 64
#define MONITOR_LAST_WORDS_SIZE_MAX 255
#define MONITOR_PANIC_TAIL_SIZE 8192 /* of the console: a panic and the stack trace behind it */
#define MONITOR_EXIT_TEXT_SIZE 1024
#define MONITOR_EXIT_TIMEOUT_MS 5000 /* from SIGKILL to the end of the process */
#define MONITOR_CRASH_TIMEOUT_MS                                                                   \
    500 /* from the end of the control channel to that of the process */

#define MONITOR_SHARES_HELP_SIZE_MAX 32768 /* of what virtiofsd --help prints */
#define MONITOR_SHARES_LOOK_TIMEOUT_MS 5000

#define MONITOR_NETWORK_ARGV_COUNT_MAX (32 + 2 * KELPIE_FORWARD_COUNT_MAX)
#define MONITOR_NETWORK_COMMAND_SIZE_MAX (4096 + 1024 + 48 * KELPIE_FORWARD_COUNT_MAX)
#define MONITOR_NETWORK_FRAME_SIZE_MAX 128 /* of an answer to ARP, padded as it may be */

#endif
