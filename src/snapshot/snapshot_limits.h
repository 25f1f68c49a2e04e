/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#ifndef KELPIE_SNAPSHOT_SNAPSHOT_LIMITS_H
#define KELPIE_SNAPSHOT_SNAPSHOT_LIMITS_H

#define SNAPSHOT_FORMAT_VERSION 1            /* of a bundle that stands for itself */
#define SNAPSHOT_FORMAT_VERSION_DIFF 2       /* of one that is a diff to its parent */
#define SNAPSHOT_FORMAT_VERSION_CHECKPOINT 3 /* of one that is files and no machine */
#define SNAPSHOT_CHAIN_LENGTH_MAX 8          /* bundles: a diff, its parent, and so on */
#define SNAPSHOT_PAGE_SIZE 4096 /* of memory: what a bit of the part `pages` stands for */
#define SNAPSHOT_MANIFEST_SIZE_MAX 4194304
#define SNAPSHOT_CHECKSUM_SIZE 33 /* 32 hexadecimal digits and a zero */
#define SNAPSHOT_DIGEST_SIZE 65   /* 64 hexadecimal digits and a zero */
#define SNAPSHOT_NAME_SIZE_MAX 31
#define SNAPSHOT_VALUE_SIZE_MAX 255
#define SNAPSHOT_FEATURE_COUNT_MAX 32
#define SNAPSHOT_PART_SIZE_MAX 281474976710656ull /* 256 TiB */
#define SNAPSHOT_COPY_CHUNK_SIZE 262144
#define SNAPSHOT_HOLE_CHUNK_SIZE                                                                   \
    67108864 /* bytes of a hole that are hashed without a look at the time */
#define SNAPSHOT_HOLES_SIZE_MIN 1073741824 /* hashing less than this takes no time that counts */
#define SNAPSHOT_HOLES_RATIO 8 /* a file of which less than this part is no hole is mostly holes */
#define SNAPSHOT_WORKING_SET_HEADER_SIZE 64
#define SNAPSHOT_WORKING_SET_MEMORY_MAX                                                            \
    1099511627776ull                 /* 1 TiB: larger ones have no working set */
#define SNAPSHOT_STALE_COUNT_MAX 256 /* partial folders looked at by one writer */

#endif
