/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Writing a VM's log. The theory is in log_format.h. */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/assert.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/cursor.h"
#include "store/log_format.h"

#define FILE_MAGIC 0x31464c4bu   /* "KLF1" */
#define RECORD_MAGIC 0x31524c4bu /* "KLR1" */
#define FILE_MODE 0600u
#define CHECKSUM_OFFSET (LOG_HEADER_SIZE - 4)

/* ---- Format ----------------------------------------------------------------------------------- */

static uint32_t checksum_of(const uint8_t header[LOG_HEADER_SIZE], const void *data, size_t size) {
    ASSERT(header);
    ASSERT(data && size > 0);
    return XXH32(data, size, XXH32(header, CHECKSUM_OFFSET, 0));
}

void log_record_encode(const struct log_record *record, const void *data,
                       uint8_t ret_header[LOG_HEADER_SIZE]) {
    ASSERT(record->size > 0 && record->size <= STORE_LOG_PIECE_SIZE_MAX);
    ASSERT(record->stream < LOG_STREAM_COUNT);
    struct cursor_writer writer = cursor_writer_init(ret_header, LOG_HEADER_SIZE);
    cursor_write_u32(&writer, RECORD_MAGIC);
    cursor_write_u32(&writer, record->stream);
    cursor_write_u64(&writer, record->unix_ms);
    cursor_write_u64(&writer, record->offset);
    cursor_write_u32(&writer, record->size);
    cursor_write_u32(&writer, checksum_of(ret_header, data, record->size));
    ASSERT(!writer.failed);
}

bool log_record_decode(const uint8_t header[LOG_HEADER_SIZE], struct log_record *ret_record) {
    struct log_record record;
    ASSERT(header);
    ASSERT(ret_record);
    struct cursor_reader reader = cursor_reader_init(header, LOG_HEADER_SIZE);
    if (cursor_read_u32(&reader) != RECORD_MAGIC) {
        return false;
    }
    record.stream = cursor_read_u32(&reader);
    record.unix_ms = cursor_read_u64(&reader);
    record.offset = cursor_read_u64(&reader);
    record.size = cursor_read_u32(&reader);
    record.checksum = cursor_read_u32(&reader);
    if (record.stream >= LOG_STREAM_COUNT || record.size == 0 ||
        record.size > STORE_LOG_PIECE_SIZE_MAX) {
        return false;
    }
    *ret_record = record;
    return true;
}

bool log_record_is_whole(const uint8_t header[LOG_HEADER_SIZE], const void *data, size_t size) {
    struct log_record record;
    ASSERT(data);
    ASSERT(size > 0);
    return log_record_decode(header, &record) && record.size == size &&
           record.checksum == checksum_of(header, data, size);
}

void log_file_encode(uint64_t number, uint8_t ret_header[LOG_FILE_HEADER_SIZE]) {
    ASSERT(number > 0);
    ASSERT(ret_header);
    struct cursor_writer writer = cursor_writer_init(ret_header, LOG_FILE_HEADER_SIZE);
    cursor_write_u32(&writer, FILE_MAGIC);
    cursor_write_u32(&writer, 0);
    cursor_write_u64(&writer, number);
    ASSERT(!writer.failed);
}

uint64_t log_file_number(struct host *host, int fd) {
    uint8_t header[LOG_FILE_HEADER_SIZE];
    size_t size = 0;
    ASSERT(host);
    ASSERT(fd >= 0);
    if (host_file_read_at(host, fd, header, sizeof(header), 0, &size, NULL) != KELPIE_OK ||
        size != sizeof(header)) {
        return 0;
    }
    struct cursor_reader reader = cursor_reader_init(header, sizeof(header));
    uint32_t magic = cursor_read_u32(&reader);
    (void)cursor_read_u32(&reader);
    uint64_t number = cursor_read_u64(&reader);
    return magic == FILE_MAGIC ? number : 0;
}

/* ---- The writer ------------------------------------------------------------------------------- */

struct store_log {
    struct host *host;
    char path[KELPIE_PATH_SIZE_MAX + 1];
    char old_path[KELPIE_PATH_SIZE_MAX + 1];
    uint64_t file_bytes_max;
    size_t piece_size_max;
    int fd;
    uint64_t number;                 /* of the file that grows */
    uint64_t size;                   /* of it: where the next record begins */
    uint64_t next[LOG_STREAM_COUNT]; /* offset of the first byte that is not there yet */
    uint8_t record[LOG_HEADER_SIZE + STORE_LOG_PIECE_SIZE_MAX];
};

void store_log_close(struct store_log *log) {
    if (log) {
        ASSERT(log->host);
        ASSERT(log->fd >= 0 || log->fd == HOST_FD_NONE);
        host_close(log->host, log->fd);
        free(log);
    }
}

/* Begins a new file in the place of "log", whatever is there. */
static enum kelpie_status begin_file(struct store_log *log, uint64_t number,
                                     struct kelpie_error *err) {
    uint8_t header[LOG_FILE_HEADER_SIZE];
    AUTO_FD struct host_fd fd = {log->host, HOST_FD_NONE};
    ASSERT(number > log->number);
    ASSERT(log->path[0] == '/');
    TRY(host_file_open(log->host, log->path,
                       HOST_OPEN_READ | HOST_OPEN_WRITE | HOST_OPEN_CREATE | HOST_OPEN_TRUNCATE |
                           HOST_OPEN_NO_FOLLOW,
                       FILE_MODE, &fd.fd, err));
    log_file_encode(number, header);
    TRY(host_file_write_at(log->host, fd.fd, header, sizeof(header), 0, err));
    host_close(log->host, log->fd);
    log->fd = host_fd_take(&fd);
    log->number = number;
    log->size = sizeof(header);
    return KELPIE_OK;
}

/* Where the last whole record ends: behind it, a writer that was killed may have left a piece of one. Headers are looked at, and
 * not what is behind them: the reader does that. */
static enum kelpie_status find_end(struct store_log *log, int fd, uint64_t *ret_end,
                                   struct kelpie_error *err) {
    struct host_file_info info;
    uint64_t end = LOG_FILE_HEADER_SIZE;
    uint64_t buffer_start = 0;
    size_t buffer_size = 0;
    ASSERT(fd >= 0);
    ASSERT(ret_end);
    TRY(host_file_stat(log->host, fd, &info, err));
    while (end + LOG_HEADER_SIZE <= info.size) {
        struct log_record record;
        if (end + LOG_HEADER_SIZE > buffer_start + buffer_size) {
            buffer_start = end;
            TRY(host_file_read_at(log->host, fd, log->record, sizeof(log->record), end,
                                  &buffer_size, err));
        }
        if (buffer_size < LOG_HEADER_SIZE ||
            !log_record_decode(log->record + (end - buffer_start), &record) ||
            end + LOG_HEADER_SIZE + record.size > info.size) {
            break;
        }
        end += LOG_HEADER_SIZE + record.size;
    }
    *ret_end = end;
    return KELPIE_OK;
}

/* The number of a file; 0: there is none, or it is no log. */
static uint64_t number_at(struct host *host, const char *path, struct host_fd *fd) {
    ASSERT(host);
    ASSERT(fd->fd == HOST_FD_NONE);
    return host_file_open(host, path, HOST_OPEN_READ | HOST_OPEN_WRITE | HOST_OPEN_NO_FOLLOW, 0,
                          &fd->fd, NULL) == KELPIE_OK
               ? log_file_number(host, fd->fd)
               : 0;
}

/* Goes on with the file that is there, or begins one. */
static enum kelpie_status continue_file(struct store_log *log, struct kelpie_error *err) {
    AUTO_FD struct host_fd fd = {log->host, HOST_FD_NONE};
    AUTO_FD struct host_fd old_fd = {log->host, HOST_FD_NONE};
    uint64_t end = 0;
    ASSERT(log->fd == HOST_FD_NONE);
    ASSERT(log->number == 0);
    uint64_t number = number_at(log->host, log->path, &fd);
    if (number == 0 || number == UINT64_MAX) {
        uint64_t old_number = number_at(log->host, log->old_path, &old_fd);
        return begin_file(log, old_number == UINT64_MAX ? 1 : old_number + 1, err);
    }
    TRY(find_end(log, fd.fd, &end, err));
    TRY(host_file_truncate(log->host, fd.fd, end, err));
    log->fd = host_fd_take(&fd);
    log->number = number;
    log->size = end;
    return KELPIE_OK;
}

enum kelpie_status store_log_create(struct store_vm *vm, uint64_t bytes_max,
                                    struct store_log **ret_log, struct kelpie_error *err) {
    struct store *store = vm->store;
    ASSERT(vm->lock_fd != HOST_FD_NONE);
    ASSERT(ret_log);
    struct store_log *log = host_allocate(store->host, sizeof(*log), err);
    if (!log) {
        return KELPIE_NO_MEMORY;
    }
    log->host = store->host;
    log->fd = HOST_FD_NONE;
    uint64_t bytes = bytes_max ? bytes_max : KELPIE_LOG_BYTES_DEFAULT;
    log->file_bytes_max = (bytes < STORE_LOG_BYTES_MIN ? STORE_LOG_BYTES_MIN : bytes) / 2;
    log->piece_size_max = (size_t)min_u64(
        STORE_LOG_PIECE_SIZE_MAX, log->file_bytes_max - LOG_FILE_HEADER_SIZE - LOG_HEADER_SIZE);
    enum kelpie_status status =
        store_vm_path(store, vm->name, LOG_NAME, log->path, sizeof(log->path), err);
    if (status == KELPIE_OK) {
        status =
            store_vm_path(store, vm->name, LOG_OLD_NAME, log->old_path, sizeof(log->old_path), err);
    }
    if (status == KELPIE_OK) {
        status = continue_file(log, err);
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
    ASSERT(log->size > LOG_FILE_HEADER_SIZE);
    enum kelpie_status status = host_path_rename(log->host, log->path, log->old_path, true, err);
    if (status !=
        KELPIE_NOT_FOUND) { /* it was renamed before, and the new file could not be made */
        TRY(status);
    }
    return begin_file(log, log->number + 1, err);
}

static enum kelpie_status append_piece(struct store_log *log, struct log_record *record,
                                       const uint8_t *data, struct kelpie_error *err) {
    size_t size = LOG_HEADER_SIZE + record->size;
    ASSERT(record->size > 0 && record->size <= log->piece_size_max);
    ASSERT(record->stream < LOG_STREAM_COUNT);
    if (log->size > LOG_FILE_HEADER_SIZE && log->size + size > log->file_bytes_max) {
        TRY(rotate(log, err));
    }
    record->unix_ms = host_realtime_ns(log->host) / HOST_NS_PER_MS;
    log_record_encode(record, data, log->record);
    memcpy(log->record + LOG_HEADER_SIZE, data, record->size);
    enum kelpie_status status =
        host_file_write_at(log->host, log->fd, log->record, size, log->size, err);
    if (status != KELPIE_OK) {
        (void)!host_file_truncate(log->host, log->fd, log->size, NULL);
        return status;
    }
    log->size += size;
    log->next[record->stream] = record->offset + record->size;
    return KELPIE_OK;
}

enum kelpie_status store_log_append(struct store_log *log, enum kelpie_stream stream,
                                    uint64_t offset, const void *data, size_t size,
                                    struct kelpie_error *err) {
    const uint8_t *bytes = data;
    ASSERT(stream == KELPIE_STREAM_STDOUT || stream == KELPIE_STREAM_STDERR);
    ASSERT(data || size == 0);
    struct log_record record = {.stream = stream == KELPIE_STREAM_STDOUT ? 0 : 1, .offset = offset};
    uint64_t next = log->next[record.stream];
    uint64_t known = offset < next ? min_u64(next - offset, size) : 0;
    bytes += known;
    size -= known;
    record.offset += known;
    while (size > 0) {
        record.size = (uint32_t)min_size(size, log->piece_size_max);
        TRY(append_piece(log, &record, bytes, err));
        bytes += record.size;
        size -= record.size;
        record.offset += record.size;
    }
    return KELPIE_OK;
}
