/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#ifndef KELPIE_PROTOCOL_PROTOCOL_LIMITS_H
#define KELPIE_PROTOCOL_PROTOCOL_LIMITS_H

#define PROTOCOL_VERSION 1
#define PROTOCOL_VSOCK_PORT                                                                        \
    1024 /* of the host, CID 2: where a guest without a virtio port connects */
#define PROTOCOL_HEADER_SIZE 16
#define PROTOCOL_PAYLOAD_SIZE_MAX 294912 /* 288 KiB: a command at its limit, and its fields */
#define PROTOCOL_FRAME_SIZE_MAX (PROTOCOL_HEADER_SIZE + PROTOCOL_PAYLOAD_SIZE_MAX)
#define PROTOCOL_DATA_SIZE_MAX 32768 /* stream bytes in one frame */
#define PROTOCOL_WINDOW_SIZE 131072  /* bytes of one stream sent and not yet acknowledged */
#define PROTOCOL_SESSION_COUNT_MAX 256
#define PROTOCOL_SYNC_SIZE 16
#define PROTOCOL_NONCE_SIZE 16
#define PROTOCOL_ENTROPY_SIZE 64
#define PROTOCOL_GENERATION_SIZE 16
#define PROTOCOL_MACHINE_ID_SIZE 32 /* hexadecimal digits */
#define PROTOCOL_HOSTNAME_SIZE_MAX 64
#define PROTOCOL_IPV4_SIZE 4
#define PROTOCOL_PATH_SIZE_MAX 4095
#define PROTOCOL_NAME_SIZE_MAX 255 /* bytes of one part of a path */
#define PROTOCOL_TREE_DEPTH_MAX 60 /* parts of a name in a tree */
#define PROTOCOL_TREE_HEADER_SIZE 24
#define PROTOCOL_MODE_FOLDER                                                                       \
    040000u /* a bit of a mode: it is a folder, and a tree (tree.h) is its content */
#define PROTOCOL_MESSAGE_SIZE_MAX 255 /* an error's text */
#define PROTOCOL_ARGV_COUNT_MAX 16384
#define PROTOCOL_ENV_COUNT_MAX 2048
#define PROTOCOL_RLIMIT_COUNT_MAX 16
#define PROTOCOL_MOUNT_COUNT_MAX 8
#define PROTOCOL_SHARE_COUNT_MAX 8
#define PROTOCOL_SHARE_TAG "kelpie%u" /* of a share's virtio-fs device, by its index */

#endif
