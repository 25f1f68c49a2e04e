/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "outbox.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"

void outbox_clear(struct outbox *outbox) {
    ASSERT(outbox);
    outbox->start = 0;
    outbox->end = 0;
    outbox->urgent = false;
    outbox->blocked = false;
    outbox->lazy_rounds = 0;
}

size_t outbox_room(const struct outbox *outbox) {
    ASSERT(outbox->start <= outbox->end);
    ASSERT(outbox->end <= sizeof(outbox->bytes));
    return sizeof(outbox->bytes) - (outbox->end - outbox->start);
}

bool outbox_is_empty(const struct outbox *outbox) {
    ASSERT(outbox);
    ASSERT(outbox->start <= outbox->end);
    return outbox->start == outbox->end;
}

bool outbox_is_lazy(const struct outbox *outbox) {
    ASSERT(outbox);
    ASSERT(outbox->end <= sizeof(outbox->bytes));
    return !outbox_is_empty(outbox) && !outbox->urgent;
}

struct cursor_writer outbox_writer(struct outbox *outbox) {
    ASSERT(outbox->start <= outbox->end);
    ASSERT(outbox->end <= sizeof(outbox->bytes));
    if (outbox->start > 0) {
        memmove(outbox->bytes, outbox->bytes + outbox->start, outbox->end - outbox->start);
        outbox->end -= outbox->start;
        outbox->start = 0;
    }
    return cursor_writer_init(outbox->bytes + outbox->end, sizeof(outbox->bytes) - outbox->end);
}

void outbox_commit(struct outbox *outbox, const struct cursor_writer *writer, bool urgent) {
    ASSERT(writer->data == outbox->bytes + outbox->end);
    ASSERT(!writer->failed); /* the caller asked outbox_room() */
    outbox->end += writer->size;
    outbox->urgent = outbox->urgent || urgent;
}

bool outbox_flush(struct outbox *outbox, int fd) {
    ASSERT(fd >= 0);
    outbox->blocked = false;
    while (outbox->start < outbox->end) {
        ssize_t count = write(fd, outbox->bytes + outbox->start, outbox->end - outbox->start);
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count <= 0) {
            outbox->blocked = true;
            return count < 0 && errno == EAGAIN;
        }
        ASSERT((size_t)count <= outbox->end - outbox->start);
        outbox->start += (size_t)count;
    }
    outbox_clear(outbox);
    return true;
}
