/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#ifndef KELPIE_IMAGE_IMAGE_LIMITS_H
#define KELPIE_IMAGE_IMAGE_LIMITS_H

#define IMAGE_RELEASE_SIZE_MAX 127
#define IMAGE_DIGEST_SIZE 65 /* 64 hexadecimal digits and a zero */
#define IMAGE_MODULE_COUNT_MAX 128
#define IMAGE_MODULE_NAME_SIZE_MAX 255
#define IMAGE_KERNEL_SIZE_MAX 268435456 /* 256 MiB */
#define IMAGE_MODULE_SIZE_MAX 67108864  /* 64 MiB, decompressed */
#define IMAGE_MODULES_DEP_SIZE_MAX 16777216
#define IMAGE_APPLET_COUNT_MAX 1024
#define IMAGE_APPLET_NAME_SIZE_MAX 63
#define IMAGE_BUSYBOX_SIZE_MAX 16777216
#define IMAGE_INITRAMFS_SIZE_MAX 268435456
#define IMAGE_FETCH_TIMEOUT_MS 300000
#define IMAGE_DYNAMIC_COUNT_MAX 256 /* entries of a library's dynamic section that are looked at */
#define IMAGE_DISK_SIZE_MIN 16777216
#define IMAGE_DISK_SIZE_MAX 17592186044416ull /* 16 TiB, of an image made of a folder */
#define IMAGE_DISK_SECTOR_SIZE 512

#define IMAGE_PACKAGE_ENTRY_COUNT_MAX 65536
#define IMAGE_PACKAGE_BYTES_MAX 2147483648ull /* unpacked */
#define IMAGE_PACKAGE_MEMBER_COUNT_MAX 16     /* of the outer ar */
#define IMAGE_PROGRAM_OUTPUT_SIZE_MAX 1048576 /* what a helper program may print */
#define IMAGE_PROGRAM_ERROR_SIZE_MAX 512      /* the end of its stderr, for messages */
#define IMAGE_STAMP_SIZE_MAX 262144
#define IMAGE_STAMP_SETTLED_NS 2000000000ull /* a file younger than this may change unnoticed */
#define IMAGE_LOCK_POLL_MS 50
#define IMAGE_TREE_STEP_COUNT_MAX 65536 /* folders visited when a tree is removed */

#endif
