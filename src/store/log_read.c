/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Reading a VM's log, while it is written, and when the VM has ended. The theory is in log_format.h. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"
#include "store/log_format.h"

struct kelpie_log {
    struct store_session session;
    char name[KELPIE_NAME_SIZE_MAX + 1];
    char id[KELPIE_ID_SIZE];
    int fd;          /* the file that is being read; HOST_FD_NONE: none yet */
    uint64_t number; /* its */
    uint64_t at;     /* the next record's place */
    uint8_t piece[STORE_LOG_PIECE_SIZE_MAX];
};

enum kelpie_status kelpie_log_open(void *host, const char *name, struct kelpie_log **ret_log,
                                   struct kelpie_error *err) {
    struct store_session session = {0};
    struct store_record *record = NULL;
    struct kelpie_log *log = NULL;
    bool owned = false;
    ASSERT(name);
    ASSERT(ret_log);
    TRY(store_session_open(host, &session, err));
    enum kelpie_status status = store_vm_read(session.store, name, &record, &owned, err);
    if (status == KELPIE_OK) {
        log = host_allocate(session.host, sizeof(*log), err);
        status = log ? KELPIE_OK : KELPIE_NO_MEMORY;
    }
    if (status != KELPIE_OK) {
        store_record_destroy(record);
        store_session_close(&session);
        return status;
    }
    log->session = session;
    log->fd = HOST_FD_NONE;
    memcpy(log->name, record->info.name, sizeof(log->name));
    memcpy(log->id, record->info.id, sizeof(log->id));
    store_record_destroy(record);
    *ret_log = log;
    return KELPIE_OK;
}

void kelpie_log_close(struct kelpie_log *log) {
    if (log) {
        ASSERT(log->session.host);
        ASSERT(log->fd >= 0 || log->fd == HOST_FD_NONE);
        host_close(log->session.host, log->fd);
        store_session_close(&log->session);
        free(log);
    }
}

/* Opens a file of the VM's. Its number; 0: there is none. */
static uint64_t open_file(struct kelpie_log *log, const char *file, struct host_fd *fd) {
    char path[KELPIE_PATH_SIZE_MAX + 1];
    ASSERT(log->session.store);
    ASSERT(fd->fd == HOST_FD_NONE);
    if (store_vm_path(log->session.store, log->name, file, path, sizeof(path), NULL) != KELPIE_OK ||
        host_file_open(log->session.host, path, HOST_OPEN_READ | HOST_OPEN_NO_FOLLOW, 0, &fd->fd,
                       NULL) != KELPIE_OK) {
        return 0;
    }
    return log_file_number(log->session.host, fd->fd);
}

/* What the owner last knew of the VM. False: it is gone, or cannot be looked at; another may have its name. */
static bool look(struct kelpie_log *log, bool *ret_owned, bool *ret_ended) {
    struct store_record *record = NULL;
    ASSERT(ret_owned);
    ASSERT(ret_ended);
    if (store_vm_read_named(log->session.store, log->name, &record, ret_owned, NULL) != KELPIE_OK) {
        return false;
    }
    bool same = strcmp(record->info.id, log->id) == 0;
    *ret_ended = record->info.command_ended;
    store_record_destroy(record);
    return same;
}

/* The file after the one that is being read, or the oldest: "log" is opened first, so that a rotation meanwhile hides nothing. */
static bool open_next(struct kelpie_log *log, struct host_fd *ret_fd, uint64_t *ret_number) {
    struct host *host = log->session.host;
    AUTO_FD struct host_fd new_fd = {host, HOST_FD_NONE};
    AUTO_FD struct host_fd old_fd = {host, HOST_FD_NONE};
    bool owned = false;
    bool ended = false;
    ASSERT(ret_fd->fd == HOST_FD_NONE);
    ASSERT(ret_number);
    uint64_t new_number = open_file(log, LOG_NAME, &new_fd);
    uint64_t old_number = open_file(log, LOG_OLD_NAME, &old_fd);
    bool take_old =
        old_number > log->number && (new_number <= log->number || old_number < new_number);
    uint64_t number = take_old ? old_number : new_number;
    if (number <= log->number || !look(log, &owned, &ended)) {
        return false;
    }
    ret_fd->fd = host_fd_take(take_old ? &old_fd : &new_fd);
    *ret_number = number;
    return true;
}

enum found {
    FOUND_RECORD,
    FOUND_DAMAGED, /* one, or several: log->at is behind it */
    FOUND_NONE,    /* that is whole */
};

/* Reads the record at log->at, and goes behind it. */
static enum kelpie_status read_record(struct kelpie_log *log, struct log_record *ret_record,
                                      enum found *ret_found, struct kelpie_error *err) {
    struct host *host = log->session.host;
    struct host_file_info info;
    uint8_t header[LOG_HEADER_SIZE];
    size_t size = 0;
    ASSERT(log->fd != HOST_FD_NONE);
    ASSERT(log->at >= LOG_FILE_HEADER_SIZE);
    *ret_found = FOUND_NONE;
    TRY(host_file_read_at(host, log->fd, header, sizeof(header), log->at, &size, err));
    if (size < sizeof(header) || !log_record_decode(header, ret_record)) {
        return KELPIE_OK;
    }
    TRY(host_file_read_at(host, log->fd, log->piece, ret_record->size, log->at + sizeof(header),
                          &size, err));
    if (size < ret_record->size) {
        return KELPIE_OK;
    }
    uint64_t end = log->at + sizeof(header) + size;
    *ret_found = FOUND_RECORD;
    if (!log_record_is_whole(header, log->piece, size)) {
        TRY(host_file_stat(host, log->fd, &info, err));
        *ret_found =
            info.size > end ? FOUND_DAMAGED : FOUND_NONE; /* the last may be just written */
    }
    log->at = *ret_found == FOUND_NONE ? log->at : end;
    return KELPIE_OK;
}

/* The same, past what is damaged. */
static enum kelpie_status read_file(struct kelpie_log *log, struct log_record *ret_record,
                                    bool *ret_found, struct kelpie_error *err) {
    enum found found = FOUND_DAMAGED;
    ASSERT(ret_record);
    ASSERT(ret_found);
    while (found == FOUND_DAMAGED) { /* each time further on in the file */
        TRY(read_record(log, ret_record, &found, err));
    }
    *ret_found = found == FOUND_RECORD;
    return KELPIE_OK;
}

/* The next record, in whichever file. */
static enum kelpie_status read_next(struct kelpie_log *log, struct log_record *ret_record,
                                    bool *ret_found, struct kelpie_error *err) {
    bool found = false;
    ASSERT(ret_record);
    ASSERT(ret_found);
    if (log->fd != HOST_FD_NONE) {
        TRY(read_file(log, ret_record, &found, err));
    }
    while (!found) { /* each time a file with a higher number */
        uint64_t number = 0;
        AUTO_FD struct host_fd fd = {log->session.host, HOST_FD_NONE};
        if (!open_next(log, &fd, &number)) {
            break;
        }
        /* Now nothing is added to the file before any more, but that may have been so only since we looked. */
        if (log->fd != HOST_FD_NONE) {
            TRY(read_file(log, ret_record, &found, err));
        }
        if (!found) {
            host_close(log->session.host, log->fd);
            log->fd = host_fd_take(&fd);
            log->number = number;
            log->at = LOG_FILE_HEADER_SIZE;
            TRY(read_file(log, ret_record, &found, err));
        }
    }
    *ret_found = found;
    return KELPIE_OK;
}

/* Asks for more, and whether more may come. */
static enum kelpie_status try_read(struct kelpie_log *log, struct log_record *ret_record,
                                   bool *ret_found, bool *ret_may_come, struct kelpie_error *err) {
    bool owned = false;
    bool ended = false;
    ASSERT(ret_found);
    ASSERT(ret_may_come);
    *ret_may_come = true;
    TRY(read_next(log, ret_record, ret_found, err));
    if (!*ret_found) {
        *ret_may_come = look(log, &owned, &ended) && owned && !ended;
        /* What was written before the owner said so. */
        TRY(*ret_may_come ? KELPIE_OK : read_next(log, ret_record, ret_found, err));
    }
    return KELPIE_OK;
}

enum kelpie_status kelpie_log_read(struct kelpie_log *log, uint32_t timeout_ms,
                                   struct kelpie_log_entry *ret_entry, struct kelpie_error *err) {
    struct host *host = log->session.host;
    const struct host_wait end = host_wait_ms(host, timeout_ms, HOST_FD_NONE);
    struct log_record record;
    bool found = false;
    bool may_come = true;
    ASSERT(log->session.store);
    ASSERT(ret_entry);
    TRY(try_read(log, &record, &found, &may_come, err));
    while (!found && may_come && host_monotonic_ns(host) < end.deadline_ns) {
        struct host_wait pause = host_wait_ms(host, STORE_LOG_POLL_MS, HOST_FD_NONE);
        pause.deadline_ns = min_u64(pause.deadline_ns, end.deadline_ns);
        TRY(host_sleep(host, &pause, err));
        TRY(try_read(log, &record, &found, &may_come, err));
    }
    if (!found && may_come) {
        return error_set(err, KELPIE_TIMED_OUT, "nothing more was written to the log of %s",
                         log->name);
    }
    if (!found) {
        return error_set(err, KELPIE_NOT_FOUND, "the log of %s ends here", log->name);
    }
    *ret_entry = (struct kelpie_log_entry){
        .unix_ms = record.unix_ms,
        .stream = record.stream == 0 ? KELPIE_STREAM_STDOUT : KELPIE_STREAM_STDERR,
        .offset = record.offset,
        .data = (const char *)log->piece,
        .size = record.size,
    };
    return KELPIE_OK;
}
