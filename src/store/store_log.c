/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * A VM's log: what its detached command wrote, in pieces, capped.
 *
 * Two files: "log", which grows, and "log.1", which "log" becomes when it has half of the bytes; what was log.1 is gone
 * then. A record is a header of LOG_HEADER_SIZE bytes, little-endian, and the piece:
 *
 *     u32 magic | u8 stream | u8[3] zero | u64 unix_ms | u64 offset in the stream | u32 size | u32 XXH32 of the piece
 *
 * A record is one write. After a kill the last may be cut short: its reader waits for the rest, and the next writer cuts it
 * off. A reader keeps its file open, so that a rotation takes nothing away from under it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/cursor.h"
#include "store/store_internal.h"

#define LOG_MAGIC 0x474f4c4bu /* "KLOG" */
#define LOG_HEADER_SIZE 32
#define LOG_PIECE_SIZE_MAX 65536
#define LOG_FILE "log"
#define LOG_OLD_FILE "log.1"
#define LOG_FILE_MODE 0600u
#define LOG_STREAM_COUNT 2
#define LOG_POLL_MS 20 /* how often a reader that waits looks */

struct record {
    uint64_t unix_ms;
    uint64_t offset;
    uint32_t stream; /* 0 stdout, 1 stderr */
    uint32_t size;
    uint32_t sum;
};

static void record_encode(const struct record *record, uint8_t bytes[LOG_HEADER_SIZE]) {
    ASSERT(record->size <= LOG_PIECE_SIZE_MAX);
    ASSERT(record->stream < LOG_STREAM_COUNT);
    struct cursor_writer writer = cursor_writer_init(bytes, LOG_HEADER_SIZE);
    cursor_write_u32(&writer, LOG_MAGIC);
    cursor_write_u32(&writer, record->stream);
    cursor_write_u64(&writer, record->unix_ms);
    cursor_write_u64(&writer, record->offset);
    cursor_write_u32(&writer, record->size);
    cursor_write_u32(&writer, record->sum);
    ASSERT(!writer.failed);
}

/* False: it is none. */
static bool record_decode(const uint8_t bytes[LOG_HEADER_SIZE], struct record *ret_record) {
    ASSERT(bytes);
    ASSERT(ret_record);
    struct cursor_reader reader = cursor_reader_init(bytes, LOG_HEADER_SIZE);
    if (cursor_read_u32(&reader) != LOG_MAGIC) {
        return false;
    }
    ret_record->stream = cursor_read_u32(&reader);
    ret_record->unix_ms = cursor_read_u64(&reader);
    ret_record->offset = cursor_read_u64(&reader);
    ret_record->size = cursor_read_u32(&reader);
    ret_record->sum = cursor_read_u32(&reader);
    return ret_record->stream < LOG_STREAM_COUNT && ret_record->size > 0 &&
           ret_record->size <= LOG_PIECE_SIZE_MAX;
}

/* Reads the record at an offset of a file. NOT_FOUND: there is none, or not all of it. */
static enum kelpie_status record_read(struct host *host, int fd, uint64_t at,
                                      struct record *ret_record, uint8_t *piece,
                                      struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(piece);
    uint8_t header[LOG_HEADER_SIZE];
    size_t size = 0;
    TRY(host_file_read_at(host, fd, header, sizeof(header), at, &size, err));
    if (size < sizeof(header)) {
        return error_set(err, KELPIE_NOT_FOUND, "the log ends here");
    }
    struct record record;
    if (!record_decode(header, &record)) {
        return error_set(err, KELPIE_INTERNAL, "the log is damaged at byte %llu",
                         (unsigned long long)at);
    }
    TRY(host_file_read_at(host, fd, piece, record.size, at + sizeof(header), &size, err));
    if (size < record.size) {
        return error_set(err, KELPIE_NOT_FOUND, "the log ends here");
    }
    if (XXH32(piece, size, 0) != record.sum) {
        return error_set(err, KELPIE_INTERNAL, "the log is damaged at byte %llu",
                         (unsigned long long)at);
    }
    *ret_record = record;
    return KELPIE_OK;
}

/* ---- Writing ----------------------------------------------------------------------------------- */

struct store_log {
    struct host *host;
    char path[KELPIE_PATH_SIZE_MAX + 1];
    char old_path[KELPIE_PATH_SIZE_MAX + 1];
    uint64_t file_bytes_max;
    int fd;
    uint64_t size;
    uint64_t next[LOG_STREAM_COUNT]; /* offset of the first byte that is not there yet */
    uint8_t record[LOG_HEADER_SIZE + LOG_PIECE_SIZE_MAX];
};

void store_log_close(struct store_log *log) {
    if (log) {
        host_close(log->host, log->fd);
        free(log);
    }
}

enum kelpie_status store_log_create(struct store_vm *vm, uint64_t bytes_max,
                                    struct store_log **ret_log, struct kelpie_error *err) {
    ASSERT(vm->lock_fd != HOST_FD_NONE);
    ASSERT(bytes_max > 0);
    struct host *host = vm->store->host;
    struct store_log *log = host_allocate(host, sizeof(*log), err);
    if (!log) {
        return KELPIE_NO_MEMORY;
    }
    log->host = host;
    log->fd = HOST_FD_NONE;
    log->file_bytes_max = bytes_max / 2;
    struct kelpie_error ignored;
    enum kelpie_status status =
        store_vm_path(vm->store, vm->name, LOG_FILE, log->path, sizeof(log->path), err);
    if (status == KELPIE_OK) {
        status = store_vm_path(vm->store, vm->name, LOG_OLD_FILE, log->old_path,
                               sizeof(log->old_path), err);
    }
    if (status == KELPIE_OK) {
        (void)!host_path_unlink(host, log->old_path, &ignored); /* of the command before */
        (void)!host_path_unlink(host, log->path, &ignored);
        status = host_file_open(host, log->path,
                                HOST_OPEN_WRITE | HOST_OPEN_CREATE | HOST_OPEN_EXCLUSIVE,
                                LOG_FILE_MODE, &log->fd, err);
    }
    if (status != KELPIE_OK) {
        store_log_close(log);
        return status;
    }
    *ret_log = log;
    return KELPIE_OK;
}

static enum kelpie_status rotate(struct store_log *log, struct kelpie_error *err) {
    ASSERT(log->fd != HOST_FD_NONE);
    ASSERT(log->size > 0);
    int fd = HOST_FD_NONE;
    TRY(host_path_rename(log->host, log->path, log->old_path, true, err));
    TRY(host_file_open(log->host, log->path,
                       HOST_OPEN_WRITE | HOST_OPEN_CREATE | HOST_OPEN_TRUNCATE, LOG_FILE_MODE, &fd,
                       err));
    host_close(log->host, log->fd);
    log->fd = fd;
    log->size = 0;
    return KELPIE_OK;
}

static enum kelpie_status append_piece(struct store_log *log, uint32_t stream, uint64_t offset,
                                       const uint8_t *data, uint32_t size,
                                       struct kelpie_error *err) {
    ASSERT(size > 0 && size <= LOG_PIECE_SIZE_MAX);
    ASSERT(stream < LOG_STREAM_COUNT);
    if (log->size > 0 && log->size + LOG_HEADER_SIZE + size > log->file_bytes_max) {
        TRY(rotate(log, err));
    }
    const struct record record = {
        .unix_ms = host_realtime_ns(log->host) / HOST_NS_PER_MS,
        .offset = offset,
        .stream = stream,
        .size = size,
        .sum = XXH32(data, size, 0),
    };
    record_encode(&record, log->record);
    memcpy(log->record + LOG_HEADER_SIZE, data, size);
    TRY(host_file_write_at(log->host, log->fd, log->record, LOG_HEADER_SIZE + size, log->size,
                           err));
    log->size += LOG_HEADER_SIZE + size;
    log->next[stream] = offset + size;
    return KELPIE_OK;
}

enum kelpie_status store_log_append(struct store_log *log, enum kelpie_stream stream,
                                    uint64_t offset, const void *data, size_t size,
                                    struct kelpie_error *err) {
    ASSERT(log);
    ASSERT(stream == KELPIE_STREAM_STDOUT || stream == KELPIE_STREAM_STDERR);
    const uint8_t *bytes = data;
    uint32_t index = stream == KELPIE_STREAM_STDOUT ? 0 : 1;
    if (offset < log->next[index]) {
        uint64_t known = log->next[index] - offset;
        if (known >= size) {
            return KELPIE_OK;
        }
        bytes += known;
        size -= known;
        offset += known;
    }
    while (size > 0) {
        uint32_t piece = (uint32_t)(size < LOG_PIECE_SIZE_MAX ? size : LOG_PIECE_SIZE_MAX);
        TRY(append_piece(log, index, offset, bytes, piece, err));
        bytes += piece;
        offset += piece;
        size -= piece;
    }
    return KELPIE_OK;
}

/* ---- Reading ----------------------------------------------------------------------------------- */

struct kelpie_log {
    struct store_session session;
    char name[KELPIE_NAME_SIZE_MAX + 1];
    char id[KELPIE_ID_SIZE];
    int fd;         /* the file that is being read; HOST_FD_NONE: none yet */
    uint64_t inode; /* its */
    uint64_t at;
    bool begun; /* the oldest file was looked for */
    uint8_t piece[LOG_PIECE_SIZE_MAX];
};

enum kelpie_status kelpie_log_open(void *host, const char *name, struct kelpie_log **ret_log,
                                   struct kelpie_error *err) {
    ASSERT(name);
    ASSERT(ret_log);
    struct store_session session = {0};
    TRY(store_session_open(host, &session, err));
    struct store_record *record = NULL;
    bool owned = false;
    enum kelpie_status status = store_vm_read(session.store, name, &record, &owned, err);
    struct kelpie_log *log =
        status == KELPIE_OK ? host_allocate(session.host, sizeof(*log), err) : NULL;
    if (!log) {
        store_record_destroy(record);
        store_session_close(&session);
        return status == KELPIE_OK ? KELPIE_NO_MEMORY : status;
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
        host_close(log->session.host, log->fd);
        store_session_close(&log->session);
        free(log);
    }
}

/* Goes on with a file of the VM's folder, if it is there and another than the one that is open. */
static bool turn_to(struct kelpie_log *log, const char *file) {
    ASSERT(log);
    ASSERT(file);
    struct host *host = log->session.host;
    char path[KELPIE_PATH_SIZE_MAX + 1];
    int fd = HOST_FD_NONE;
    struct host_file_info info;
    struct kelpie_error ignored;
    if (store_vm_path(log->session.store, log->name, file, path, sizeof(path), &ignored) !=
            KELPIE_OK ||
        host_file_open(host, path, HOST_OPEN_READ | HOST_OPEN_NO_FOLLOW, 0, &fd, &ignored) !=
            KELPIE_OK) {
        return false;
    }
    if (host_file_stat(host, fd, &info, &ignored) != KELPIE_OK ||
        (log->fd != HOST_FD_NONE && info.inode == log->inode)) {
        host_close(host, fd);
        return false;
    }
    host_close(host, log->fd);
    log->fd = fd;
    log->inode = info.inode;
    log->at = 0;
    return true;
}

/* Whether the file that is open has this name now. */
static bool is_file(struct kelpie_log *log, const char *file) {
    ASSERT(log->fd != HOST_FD_NONE);
    ASSERT(file);
    char path[KELPIE_PATH_SIZE_MAX + 1];
    struct host_file_info info;
    struct kelpie_error ignored;
    return store_vm_path(log->session.store, log->name, file, path, sizeof(path), &ignored) ==
               KELPIE_OK &&
           host_path_stat(log->session.host, path, &info, &ignored) == KELPIE_OK &&
           info.inode == log->inode;
}

/* The file was read to its end: another may follow. Who was overtaken by two rotations has missed what was between. */
static bool next_file(struct kelpie_log *log) {
    ASSERT(log);
    ASSERT(log->session.store);
    if (!log->begun) {
        log->begun = true;
        return turn_to(log, LOG_OLD_FILE) || turn_to(log, LOG_FILE);
    }
    if (log->fd == HOST_FD_NONE) {
        return turn_to(log, LOG_FILE);
    }
    if (is_file(log, LOG_FILE)) {
        return false;
    }
    return is_file(log, LOG_OLD_FILE) ? turn_to(log, LOG_FILE)
                                      : turn_to(log, LOG_OLD_FILE) || turn_to(log, LOG_FILE);
}

/* Whether more may come. */
static bool is_written(struct kelpie_log *log) {
    ASSERT(log);
    struct store_record *record = NULL;
    bool owned = false;
    struct kelpie_error ignored;
    if (store_vm_read(log->session.store, log->name, &record, &owned, &ignored) != KELPIE_OK) {
        return false;
    }
    bool same = strcmp(record->info.id, log->id) == 0;
    bool ended = record->info.command_ended;
    store_record_destroy(record);
    return owned && same && !ended;
}

static enum kelpie_status try_read(struct kelpie_log *log, struct kelpie_log_entry *ret_entry,
                                   struct kelpie_error *err) {
    ASSERT(log);
    ASSERT(ret_entry);
    struct record record;
    if (log->fd == HOST_FD_NONE && !next_file(log)) {
        return error_set(err, KELPIE_NOT_FOUND, "there is no log yet");
    }
    enum kelpie_status status =
        record_read(log->session.host, log->fd, log->at, &record, log->piece, err);
    /* Two files at most follow. */
    for (int i = 0; i < 2 && status == KELPIE_NOT_FOUND && next_file(log); i++) {
        status = record_read(log->session.host, log->fd, log->at, &record, log->piece, err);
    }
    TRY(status);
    log->at += LOG_HEADER_SIZE + record.size;
    *ret_entry = (struct kelpie_log_entry){
        .unix_ms = record.unix_ms,
        .stream = record.stream == 0 ? KELPIE_STREAM_STDOUT : KELPIE_STREAM_STDERR,
        .offset = record.offset,
        .data = (const char *)log->piece,
        .size = record.size,
    };
    return KELPIE_OK;
}

enum kelpie_status kelpie_log_read(struct kelpie_log *log, uint32_t timeout_ms,
                                   struct kelpie_log_entry *ret_entry, struct kelpie_error *err) {
    ASSERT(log);
    ASSERT(ret_entry);
    struct host *host = log->session.host;
    const struct host_wait end = host_wait_ms(host, timeout_ms, HOST_FD_NONE);
    for (;;) { /* until the deadline */
        /* Asked before: what is written after the answer is found by the read. */
        bool written = is_written(log);
        enum kelpie_status status = try_read(log, ret_entry, err);
        if (status != KELPIE_NOT_FOUND || !written) {
            return status;
        }
        if (host_monotonic_ns(host) >= end.deadline_ns) {
            return error_set(err, KELPIE_TIMED_OUT, "nothing more was written to the log of %s",
                             log->name);
        }
        struct host_wait wait = host_wait_ms(host, LOG_POLL_MS, HOST_FD_NONE);
        TRY(host_sleep(host, &wait, err));
    }
}
