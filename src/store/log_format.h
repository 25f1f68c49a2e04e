/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * log_format.h: a VM's log on disk: what its detached commands wrote, in pieces, capped.
 *
 * THEORY OF OPERATION
 *
 * There are two files, "log", which grows, and "log.1", which "log" becomes when it has half of the bytes that are allowed; what was
 * log.1 is gone then. A file begins with its number, one more than that of the file before. Then come records, little-endian:
 *
 *     file:    u32 magic "KLF1" | u32 zero | u64 number, from 1
 *     record:  u32 magic "KLR1" | u32 stream | u64 unix_ms | u64 offset in the stream | u32 size | u32 checksum | bytes
 *
 * The checksum is XXH32 of the record's bytes, seeded with the XXH32 of its header before it. A record is one write, behind the last;
 * after a kill it may be there in part, and a power loss may leave anything. A reader stops at what is no whole record: if the
 * file is the last, the rest may come yet, or the next writer overwrites it; if another has followed, it is lost, and the reader
 * goes on there. So each reader gets every record once and in order, from the oldest that is left when it comes, as long
 * as it is not overtaken by two rotations. It keeps its file open, and so reads on in one that was thrown away.
 *
 * A log outlives the VM's starts: each start's command counts its offsets from 0 again.
 */
#ifndef KELPIE_STORE_LOG_FORMAT_H
#define KELPIE_STORE_LOG_FORMAT_H

#include "store/store_internal.h"

#define LOG_NAME "log"
#define LOG_OLD_NAME "log.1"
#define LOG_FILE_HEADER_SIZE 16
#define LOG_HEADER_SIZE 32
#define LOG_STREAM_COUNT 2

struct log_record {
    uint64_t unix_ms;
    uint64_t offset;
    uint32_t stream; /* 0 stdout, 1 stderr */
    uint32_t size;   /* 1 to STORE_LOG_PIECE_SIZE_MAX */
    uint32_t checksum;
};

/* The header, with the checksum of `data`, which has record->size bytes. */
void log_record_encode(const struct log_record *record, const void *data,
                       uint8_t ret_header[LOG_HEADER_SIZE]);

/* False: it is none. The checksum is not looked at. */
bool log_record_decode(const uint8_t header[LOG_HEADER_SIZE], struct log_record *ret_record);
bool log_record_is_whole(const uint8_t header[LOG_HEADER_SIZE], const void *data, size_t size);

void log_file_encode(uint64_t number, uint8_t ret_header[LOG_FILE_HEADER_SIZE]);

/* The file's number; 0: it is no log, or not yet. */
uint64_t log_file_number(struct host *host, int fd);

#endif
