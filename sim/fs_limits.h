/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#ifndef KELPIE_SIM_FS_LIMITS_H
#define KELPIE_SIM_FS_LIMITS_H

#define SIM_FS_INODE_COUNT_MAX 65536u       /* of one file system: ENOSPC */
#define SIM_FS_FOLDER_ENTRY_COUNT_MAX 8192u /* of one folder, more than a host may list: ENOSPC */
#define SIM_FS_FILE_SIZE_MAX (1ull << 40)   /* EFBIG */
#define SIM_FS_CHANGE_COUNT_MAX 1024u       /* of names, that are not on the disk: then it writes */
#define SIM_FS_LOCK_COUNT_MAX 256u          /* of one file: ENOLCK */

#endif
