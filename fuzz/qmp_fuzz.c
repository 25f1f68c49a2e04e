/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* One line of QMP: any bytes are refused or make a message whose texts are bounded. */
#include <stdint.h>
#include <string.h>

#include "backend/qemu/qmp.h"
#include "base/assert.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct qmp_message message = {0};
    if (size > QEMU_QMP_LINE_SIZE_MAX || !qmp_parse((const char *)data, size, &message)) {
        return 0;
    }
    ASSERT(memchr(message.name, 0, sizeof(message.name)));
    ASSERT(memchr(message.text, 0, sizeof(message.text)));
    ASSERT((message.kind == QMP_RETURN) == (message.data != NULL));
    ASSERT(message.has_id == (message.id != 0));
    qmp_message_deinit(&message);
    return 0;
}
