/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Limits of src/store/. */
#ifndef KELPIE_STORE_STORE_LIMITS_H
#define KELPIE_STORE_STORE_LIMITS_H

#define STORE_RECORD_SIZE_MAX 1048576 /* bytes of a record, or of an image's description */
#define STORE_IMAGE_LOCK_TIMEOUT_MS 30000

#endif
