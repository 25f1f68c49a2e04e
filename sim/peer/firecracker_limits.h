/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#ifndef KELPIE_SIM_PEER_FIRECRACKER_LIMITS_H
#define KELPIE_SIM_PEER_FIRECRACKER_LIMITS_H

#define FIRECRACKER_READ_SIZE 4096 /* bytes of requests that are read at once */
#define FIRECRACKER_PAGE_SIZE 4096u
#define FIRECRACKER_IMAGE_SIZE_MAX 67108864u     /* 64 MiB: of a guest as bytes */
#define FIRECRACKER_STATE_SIZE_MAX 65536         /* of a state file's JSON */
#define FIRECRACKER_PATH_SIZE_MAX 107            /* of a socket, without its zero */
#define FIRECRACKER_VSOCK_RING_SIZE 65536        /* bytes on their way, each way */
#define FIRECRACKER_VSOCK_LINE_SIZE_MAX 31       /* of "CONNECT <port>\n" */
#define FIRECRACKER_VSOCK_PORT_FIRST 1073741824u /* of the host's, for connections that it begins */
#define FIRECRACKER_DIAL_MS 100                  /* between two tries of the guest */
#define FIRECRACKER_SLOW_S_MAX 40
#define FIRECRACKER_CHATTER_SIZE_MAX 262144
#define FIRECRACKER_SAID_SIZE_MAX 256
#define FIRECRACKER_LAST_WORDS_MS 1000
#define FIRECRACKER_GARBAGE_SIZE_MAX 512

#endif
