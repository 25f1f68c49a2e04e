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
#define IMAGE_APPLETS_TIMEOUT_MS 10000 /* busybox prints a list */
#define IMAGE_DYNAMIC_COUNT_MAX 256 /* entries of a library's dynamic section that are looked at */
#define IMAGE_DISK_SIZE_MIN 16777216
#define IMAGE_DISK_SIZE_MAX 17592186044416ull /* 16 TiB, of an image made of a folder */
#define IMAGE_DISK_SECTOR_SIZE 512

#define IMAGE_TREE_NODE_COUNT_MAX 1048576u /* names in an image */
#define IMAGE_TREE_TEXT_BYTES_MAX                                                                  \
    268435456u                         /* of names, links' texts and attributes, removed ones too */
#define IMAGE_TREE_DEPTH_MAX 256u      /* folders in folders */
#define IMAGE_TREE_PATH_SIZE_MAX 4095u /* of an entry's path, and of a link's text */
#define IMAGE_TREE_LINK_DEPTH_MAX 40u  /* links on the way of one path */
#define IMAGE_ATTRIBUTE_NAME_SIZE_MAX 255u
#define IMAGE_ATTRIBUTES_SIZE_MAX 65535u  /* of one file's extended attributes, with their heads */
#define IMAGE_RATIO_MAX 4096u             /* unpacked to packed, */
#define IMAGE_RATIO_FREE_BYTES 268435456u /* of an archive that unpacks to more than this */
#define IMAGE_OCI_DOCUMENT_SIZE_MAX 4194304u /* of an index, manifest or config */
#define IMAGE_OCI_MANIFEST_COUNT_MAX 1024u   /* in one index */
#define IMAGE_OCI_LAYER_COUNT_MAX 256u
#define IMAGE_OCI_INDEX_DEPTH_MAX 4u       /* an index in an index */
#define IMAGE_BYTES_DEFAULT 17179869184ull /* an image unpacks to: 16 GiB */
#define IMAGE_BYTES_MAX 1099511627776ull   /* and at most: 1 TiB */
#define IMAGE_BUILD_TIMEOUT_MS 3600000
#define IMAGE_ACCOUNTS_SIZE_MAX 4194304u /* of an image's /etc/passwd or group */

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
