/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"

static const char *const status_names[] = {
    [KELPIE_OK] = "ok",
    [KELPIE_BAD_CONFIG] = "bad-config",
    [KELPIE_BACKEND_MISSING] = "backend-missing",
    [KELPIE_UNSUPPORTED] = "unsupported",
    [KELPIE_WRONG_STATE] = "wrong-state",
    [KELPIE_BOOT_FAILED] = "boot-failed",
    [KELPIE_BOOT_TIMED_OUT] = "boot-timed-out",
    [KELPIE_EXEC_FAILED] = "exec-failed",
    [KELPIE_EXEC_TIMED_OUT] = "exec-timed-out",
    [KELPIE_CRASHED] = "crashed",
    [KELPIE_SNAPSHOT_FAILED] = "snapshot-failed",
    [KELPIE_SNAPSHOT_TOO_LARGE] = "snapshot-too-large",
    [KELPIE_SNAPSHOT_CORRUPT] = "snapshot-corrupt",
    [KELPIE_SNAPSHOT_INCOMPATIBLE] = "snapshot-incompatible",
    [KELPIE_RESTORE_FAILED] = "restore-failed",
    [KELPIE_NO_SPACE] = "no-space",
    [KELPIE_BUSY] = "busy",
    [KELPIE_INTERNAL] = "internal",
    [KELPIE_NOT_FOUND] = "not-found",
    [KELPIE_COPY_FAILED] = "copy-failed",
    [KELPIE_TIMED_OUT] = "timed-out",
    [KELPIE_CANCELLED] = "cancelled",
    [KELPIE_NO_MEMORY] = "no-memory",
    [KELPIE_IO_FAILED] = "io-failed",
};
static_assert(ARRAY_SIZE(status_names) == KELPIE_STATUS_COUNT, "each status has a name");

const char *kelpie_status_name(enum kelpie_status status) {
    if ((unsigned)status >= KELPIE_STATUS_COUNT) {
        return "unknown";
    }
    ASSERT(status_names[status]);
    return status_names[status];
}

static bool status_is_retriable(enum kelpie_status status) {
    return status == KELPIE_BUSY || status == KELPIE_TIMED_OUT || status == KELPIE_NO_SPACE ||
           status == KELPIE_NO_MEMORY || status == KELPIE_BOOT_TIMED_OUT ||
           status == KELPIE_CANCELLED;
}

ERROR_PRINTF(3, 0)
static void error_fill(struct kelpie_error *err, enum kelpie_status status, const char *format,
                       va_list args) {
    ASSERT(status != KELPIE_OK);
    ASSERT((unsigned)status < KELPIE_STATUS_COUNT);
    ASSERT(format);
    if (!err) {
        return;
    }
    *err = (struct kelpie_error){
        .status = status,
        .retriable = status_is_retriable(status),
        .requires_recreate = status == KELPIE_CRASHED,
    };
    vsnprintf(err->message, sizeof(err->message), format, args);
}

enum kelpie_status error_set(struct kelpie_error *err, enum kelpie_status status,
                             const char *format, ...) {
    ASSERT(format);
    va_list args;
    va_start(args, format);
    error_fill(err, status, format, args);
    va_end(args);
    return status;
}

enum kelpie_status error_set_field(struct kelpie_error *err, enum kelpie_status status,
                                   const char *field, const char *format, ...) {
    ASSERT(field);
    ASSERT(format);
    va_list args;
    va_start(args, format);
    error_fill(err, status, format, args);
    va_end(args);
    if (err) {
        ASSERT(err->status == status);
        snprintf(err->field, sizeof(err->field), "%s", field);
    }
    return status;
}

static enum kelpie_status status_of_os_error(int os_error) {
    ASSERT(os_error > 0);
    switch (os_error) {
    case ENOENT:
        return KELPIE_NOT_FOUND;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return KELPIE_NO_SPACE;
    case ENOMEM:
        return KELPIE_NO_MEMORY;
    case ETIMEDOUT:
        return KELPIE_TIMED_OUT;
    case ECANCELED:
        return KELPIE_CANCELLED;
    default:
        return KELPIE_IO_FAILED;
    }
}

enum kelpie_status error_set_os(struct kelpie_error *err, int os_error, const char *format, ...) {
    ASSERT(os_error > 0);
    ASSERT(format);
    enum kelpie_status status = status_of_os_error(os_error);
    va_list args;
    va_start(args, format);
    error_fill(err, status, format, args);
    va_end(args);
    if (err) {
        err->os_error = os_error;
        size_t used = strlen(err->message);
        ASSERT(used < sizeof(err->message));
        snprintf(err->message + used, sizeof(err->message) - used, ": %s", strerror(os_error));
    }
    return status;
}

enum kelpie_status error_wrap(struct kelpie_error *err, enum kelpie_status status,
                              const char *format, ...) {
    ASSERT(status != KELPIE_OK);
    ASSERT(format);
    if (!err) {
        return status;
    }
    struct kelpie_error inner = *err;
    va_list args;
    va_start(args, format);
    error_fill(err, status, format, args);
    va_end(args);
    err->os_error = inner.os_error;
    memcpy(err->field, inner.field, sizeof(err->field));
    size_t used = strlen(err->message);
    snprintf(err->message + used, sizeof(err->message) - used, ": %s", inner.message);
    return status;
}

void error_clear(struct kelpie_error *err) {
    if (err) {
        *err = (struct kelpie_error){0};
    }
}
