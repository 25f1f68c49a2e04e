/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What a control channel carries that nobody asked for: events of no interest, and what is no answer at all. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "sim/peer/qemu.h"

void sim_qemu_noise_event(struct sim_qemu *qemu) {
    sim_qemu_check(qemu);
    ASSERT(qemu->peer);
    switch (sim_peer_choose(qemu->peer, 4)) {
    case 0:
        sim_qemu_event(qemu, "RTC_CHANGE",
                       json_pack("{s:i, s:s}", "offset", 3, "qom-path", "/machine/rtc"));
        break;
    case 1:
        sim_qemu_event(qemu, "VSERPORT_CHANGE",
                       json_pack("{s:b, s:s}", "open", 1, "id", "channel"));
        break;
    case 2:
        sim_qemu_event(qemu, "X_OF_A_LATER_QEMU",
                       json_pack("{s:i, s:{s:[n, s]}}", "reason", 7, "more", "list", "SHUTDOWN"));
        break;
    default:
        sim_qemu_event(qemu, "WATCHDOG", NULL);
        break;
    }
}

/* A line that is not over yet, and never will be. */
static void say_endless(struct sim_qemu *qemu) {
    sim_qemu_check(qemu);
    static const char start[] = "{\"return\": {}, \"text\": \"";
    char piece[1024];
    memset(piece, 'x', sizeof(piece));
    uint64_t size = 1 + sim_peer_choose(qemu->peer, SIM_QEMU_ENDLESS_SIZE_MAX);
    ASSERT(size <= SIM_QEMU_ENDLESS_SIZE_MAX);
    sim_qemu_qmp_say_bytes(qemu, start, sizeof(start) - 1);
    for (; size > 0;) {
        size_t count = size < sizeof(piece) ? (size_t)size : sizeof(piece);
        sim_qemu_qmp_say_bytes(qemu, piece, count);
        size -= count;
    }
}

static void say_deep(struct sim_qemu *qemu) {
    sim_qemu_check(qemu);
    static const char start[] = "{\"return\": ";
    size_t depth = 1 + (size_t)sim_peer_choose(qemu->peer, SIM_QEMU_DEPTH_MAX);
    ASSERT(depth <= SIM_QEMU_DEPTH_MAX);
    sim_qemu_qmp_say_bytes(qemu, start, sizeof(start) - 1);
    for (size_t i = 0; i < depth; i++) {
        sim_qemu_qmp_say_bytes(qemu, "[", 1);
    }
    for (size_t i = 0; i < depth; i++) {
        sim_qemu_qmp_say_bytes(qemu, "]", 1);
    }
    sim_qemu_qmp_say_bytes(qemu, "}\r\n", 3);
}

static void say_bytes(struct sim_qemu *qemu) {
    sim_qemu_check(qemu);
    uint8_t bytes[64];
    size_t size = 1 + (size_t)sim_peer_choose(qemu->peer, sizeof(bytes));
    ASSERT(size <= sizeof(bytes));
    for (size_t i = 0; i < size; i++) {
        bytes[i] = (uint8_t)sim_peer_choose(qemu->peer, 256);
    }
    sim_qemu_qmp_say_bytes(qemu, bytes, size);
    sim_qemu_qmp_say_bytes(qemu, "\n", 1);
}

/* An answer that has the id, and nothing else as it should be. */
static void say_wrong_type(struct sim_qemu *qemu, json_t *id) {
    sim_qemu_check(qemu);
    ASSERT(id);
    json_incref(id);
    switch (sim_peer_choose(qemu->peer, 4)) {
    case 0:
        sim_qemu_qmp_say(qemu, json_pack("{s:i, s:o}", "return", 5, "id", id));
        break;
    case 1:
        sim_qemu_qmp_say(qemu,
                         json_pack("{s:{s:i, s:[]}, s:o}", "error", "class", 5, "desc", "id", id));
        break;
    case 2:
        sim_qemu_qmp_say(qemu, json_pack("{s:{s:[i], s:b}, s:o}", "return", "status", 1,
                                         "error-desc", 1, "id", id));
        break;
    default:
        sim_qemu_qmp_say(qemu, json_pack("{s:n, s:o}", "return", "id", id));
        break;
    }
}

bool sim_qemu_noise_garbage(struct sim_qemu *qemu, json_t *id) {
    sim_qemu_check(qemu);
    ASSERT(!id || id->refcount > 0);
    static const char broken[] = "{\"return\": {}, \"id\"\r\n";
    json_int_t number = json_integer_value(id);
    switch (sim_peer_choose(qemu->peer, 10)) {
    case 0:
        sim_qemu_qmp_say_bytes(qemu, broken, sizeof(broken) - 1);
        break;
    case 1:
        say_endless(qemu);
        return true;
    case 2:
        sim_qemu_qmp_say(qemu, json_pack("{s:{}, s:I}", "return", "id", number + 1000));
        break;
    case 3:
        sim_qemu_qmp_say(qemu, json_pack("{s:{}}", "return"));
        break;
    case 4:
        say_deep(qemu);
        break;
    case 5:
        say_bytes(qemu);
        break;
    case 6:
        sim_qemu_qmp_say(qemu, json_pack("{s:{s:{}}}", "QMP", "version"));
        break;
    case 7:
        sim_qemu_qmp_say(qemu, json_pack("{s:{}, s:I}", "return", "id", number - 1));
        break;
    case 8:
        sim_qemu_qmp_say_bytes(qemu, "\r\n{}\r\n", 6);
        break;
    default:
        if (id) {
            say_wrong_type(qemu, id);
            return true;
        }
        break;
    }
    return sim_peer_choose(qemu->peer, 2) == 0;
}
