/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * What frame.c and the message_*.c files share: how a frame begins and ends in a writer, which types
 * exist, and the checks that several messages need. Inside src/protocol/ only.
 *
 * An encoder writes all it has; message_end() then patches the size into the header, or takes the
 * whole frame back when something did not fit or was not fit to be sent.
 */
#ifndef KELPIE_PROTOCOL_MESSAGE_H
#define KELPIE_PROTOCOL_MESSAGE_H

#include "protocol/protocol.h"

#define MESSAGE_OS_ERROR_MAX                                                                       \
    4095 /* Linux keeps errno below this (include/linux/err.h, MAX_ERRNO) */
#define MESSAGE_SIGNAL_MAX 64
#define MESSAGE_EXIT_CODE_MAX 255
#define MESSAGE_FILE_MODE_MAX 07777
#define MESSAGE_FILE_SIZE_MAX ((uint64_t)INT64_MAX)
#define MESSAGE_OFFSET_MAX ((uint64_t)INT64_MAX)
#define MESSAGE_RLIMIT_RESOURCE_MAX 15 /* RLIM_NLIMITS - 1 */

/* The type is known, and `session` is 0 exactly when the type speaks for the channel. */
bool message_header_is_valid(uint8_t type, uint32_t session);

/* Starts a frame; returns where its header lies. */
size_t message_begin(struct cursor_writer *writer, enum protocol_type type, uint32_t session);

/* Finishes the frame whose header lies at `header`. If it failed, the writer's size goes back to `start`
 * (which is before the header when a SYNC precedes it). */
void message_end(struct cursor_writer *writer, size_t start, size_t header);

/* Writes the string, or fails when it is longer than size_max. */
void message_write_string(struct cursor_writer *writer, const char *text, size_t size_max);

/* The writer fails when the value may not be sent. */
void message_require(struct cursor_writer *writer, bool holds);

/* A reader over the payload of a frame of that type; false: the frame is of another type. */
PROTOCOL_CHECKED bool message_open(const struct protocol_frame *frame, enum protocol_type type,
                                   struct cursor_reader *ret_reader);

/* One byte that is 0 or 1; anything else fails the reader. */
bool message_read_bool(struct cursor_reader *reader);

/* An absolute path of at most PROTOCOL_PATH_SIZE_MAX bytes; anything else fails the reader. */
const char *message_read_path(struct cursor_reader *reader);

bool message_path_is_valid(const char *path);

#endif
