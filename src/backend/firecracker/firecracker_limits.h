/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#ifndef KELPIE_BACKEND_FIRECRACKER_FIRECRACKER_LIMITS_H
#define KELPIE_BACKEND_FIRECRACKER_FIRECRACKER_LIMITS_H

#define FIRECRACKER_MAJOR_MIN 1
#define FIRECRACKER_MINOR_MIN 7 /* 1.7: the oldest whose snapshots and vsock were looked at */
#define FIRECRACKER_MINOR_OVERRIDES 12      /* 1.12: network_overrides at a load */
#define FIRECRACKER_MINOR_REPORTING 14      /* 1.14: a balloon's free page reporting */
#define FIRECRACKER_MINOR_CLOCK_REALTIME 16 /* 1.16: clock_realtime at a load */
#define FIRECRACKER_MINOR_DIFFS 13 /* 1.13: diffs by mincore, without a log of what is written */
#define FIRECRACKER_MINOR_DIFFS_LARGE 15 /* 1.15: right above 3 GiB, too (hazard C8) */
#define FIRECRACKER_DIFFS_MIB_MAX 3072   /* of the versions before */
#define FIRECRACKER_SCRATCH_MIB_MAX                                                                \
    1024 /* memory is written to a file in memory first, if it is not more */
#define FIRECRACKER_SWAPS_SIZE_MAX 4096 /* of /proc/swaps */
#define FIRECRACKER_VERSION_SIZE_MAX 31
#define FIRECRACKER_VERSION_OUTPUT_SIZE_MAX 1023
#define FIRECRACKER_VERSION_TIMEOUT_MS 5000
#define FIRECRACKER_CPU_SIZE_MAX 63
#define FIRECRACKER_CPU_INFO_SIZE_MAX 4096 /* of /proc/cpuinfo: the first processor */

#define FIRECRACKER_LINE_SIZE_MAX 1024 /* of a response's head, with its CR LF */
#define FIRECRACKER_HEADER_COUNT_MAX 64
#define FIRECRACKER_BODY_SIZE_MAX 65536     /* of a response */
#define FIRECRACKER_REQUEST_SIZE_MAX 32768  /* Firecracker takes 51200 */
#define FIRECRACKER_FAULT_TEXT_SIZE_MAX 400 /* of a fault in a message */
#define FIRECRACKER_ANSWERS_OWED_MAX 4
#define FIRECRACKER_CONNECT_RETRY_NS 1000000ull /* until its socket is there */

#define FIRECRACKER_RING_SIZE 65536 /* bytes of the channel on their way, each way */
#define FIRECRACKER_CHUNK_SIZE 16384

#define FIRECRACKER_NAP_MS 10    /* after a connection that could not be accepted */
#define FIRECRACKER_LOST_MS 5000 /* from the end of the guest's connection to that of its machine */

#define FIRECRACKER_FOLDER_SIZE_MAX 70 /* of a VM's folder: its sockets' paths fit into 107 */
#define FIRECRACKER_FOLDER_TRIES 3
#define FIRECRACKER_BOOT_ARGS_SIZE_MAX 1800 /* Linux takes 2048, and Firecracker adds to them */

#endif
