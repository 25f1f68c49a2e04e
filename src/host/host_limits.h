/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#ifndef KELPIE_HOST_HOST_LIMITS_H
#define KELPIE_HOST_HOST_LIMITS_H

#define HOST_NAME_SIZE_MAX 255     /* bytes of a file's name, without the zero */
#define HOST_PATH_SIZE_MAX 4095    /* bytes of a path, without the zero */
#define HOST_RANDOM_SIZE_MAX 65536 /* bytes in one call */
#define HOST_POLL_COUNT_MAX 32     /* descriptors in one call */
#define HOST_PROCESS_FD_COUNT_MAX 32
#define HOST_PROCESS_ARGV_COUNT_MAX 256
#define HOST_DIR_ENTRY_COUNT_MAX 4096
#define HOST_TREE_DEPTH_MAX 64       /* folders in folders that are removed together */
#define HOST_TREE_PASS_COUNT_MAX 8   /* over one of them, when entries are added meanwhile */
#define HOST_SEND_FD_SIZE_MAX 4096   /* bytes sent beside a descriptor */
#define HOST_RECEIVE_FD_COUNT_MAX 8  /* taken of one message; the system closes those beyond */
#define HOST_SEND_FD_TIMEOUT_MS 5000 /* for a peer that does not read */
#define HOST_THREAD_NAME_SIZE_MAX 15
#define HOST_CONNECT_RETRY_MS 5         /* between two tries at a full backlog */
#define HOST_LISTEN_BACKLOG 64          /* connections not yet accepted */
#define HOST_PROCESS_STACK_SIZE 32768   /* of a watcher, and of a program before its exec */
#define HOST_PROCESS_KILL_WAIT_MS 10000 /* for a killed process to be gone */
#define HOST_SIGNAL_MAX 64
#define HOST_KRUNFW_SIZE_MAX 268435456ull /* bytes of a kernel in a library: 256 MiB */
#define HOST_KRUNFW_SYMBOL "krunfw_get_kernel"

#endif
