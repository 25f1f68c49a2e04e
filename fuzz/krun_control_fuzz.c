/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * A line from the process in which libkrun runs: any bytes are refused, or are a message; and one that is written again is read
 * as the same, but for control characters in its texts.
 */
#include <string.h>

#include "base/assert.h"
#include "krun/control.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char line[KRUN_LINE_SIZE_MAX + 1];
    char again[KRUN_LINE_SIZE_MAX + 1];
    struct krun_message message;
    struct krun_message copy;
    if (size > KRUN_LINE_SIZE_MAX) {
        return 0;
    }
    memcpy(line, data, size);
    line[size] = '\0';
    if (!krun_message_decode(line, &message)) {
        return 0;
    }
    size_t again_size = krun_message_encode(&message, again, sizeof(again));
    ASSERT(again_size > 0 && again[again_size - 1] == '\n');
    again[again_size - 1] = '\0';
    ASSERT(!strchr(again, '\n'));
    bool decoded = krun_message_decode(again, &copy);
    ASSERT(decoded);
    ASSERT(copy.word == message.word && copy.abi == message.abi);
    ASSERT(copy.can == message.can && copy.status == message.status);
    return 0;
}
