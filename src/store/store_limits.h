/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Limits of src/store/. */
#ifndef KELPIE_STORE_STORE_LIMITS_H
#define KELPIE_STORE_STORE_LIMITS_H

#define STORE_RECORD_SIZE_MAX 1048576    /* bytes of a record, or of an image's description */
#define STORE_JSON_DEPTH_MAX 16          /* objects and arrays in each other */
#define STORE_ENTRY_COUNT_MAX 8192       /* of a folder, leftovers included */
#define STORE_FOLDER_ENTRY_COUNT_MAX 256 /* of a VM's, a template's, a bundle's folder */
#define STORE_WALK_FOLDER_COUNT_MAX 32   /* not yet looked at, when sizes are added up */
#define STORE_LOCK_WAIT_MS 500           /* until whoever looks whether an owner lives has looked */
#define STORE_LOCK_PERIOD_MS 5
#define STORE_LOCK_ATTEMPT_COUNT_MAX 8 /* when the folder is another each time */
#define STORE_REMOVE_WAIT_MS 10000     /* until an owner that was told to end a VM has removed it */
#define STORE_REMOVE_PERIOD_MS 10
#define STORE_LOG_BYTES_MIN 4096 /* both files of a log together */
#define STORE_LOG_PIECE_SIZE_MAX 65536
#define STORE_LOG_POLL_MS 20           /* how often a reader that waits looks */
#define STORE_SOCKET_PATH_SIZE_MAX 107 /* sun_path, without its zero */
#define STORE_IMAGE_LOCK_TIMEOUT_MS 30000
#define STORE_VM_FILE_COUNT_MAX 64
#define STORE_ADOPT_MS_MAX 500
#define STORE_ADOPT_PERIOD_MS 5

#endif
