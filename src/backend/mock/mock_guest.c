/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "backend/mock/mock_guest.h"

#include <string.h>

#include "base/assert.h"
#include "base/checked.h"
#include "base/cleanup.h"

#define FIRST_PID 100
#define FRAME_COUNT_MAX 64 /* handled in one turn */

void mock_guest_check(const struct mock_guest *guest) {
    ASSERT(guest);
    ASSERT(guest->host);
    ASSERT(guest->session_count <= PROTOCOL_SESSION_COUNT_MAX);
    ASSERT(guest->hostname[PROTOCOL_HOSTNAME_SIZE_MAX] == '\0');
    ASSERT(guest->machine_id[PROTOCOL_MACHINE_ID_SIZE] == '\0');
}

enum kelpie_status mock_guest_create(struct host *host, uint64_t memory_bytes,
                                     struct mock_guest **ret_guest, struct kelpie_error *err) {
    ASSERT(ret_guest);
    ASSERT(host);
    struct mock_guest *guest = host_allocate(host, sizeof(*guest), err);
    if (!guest) {
        return KELPIE_NO_MEMORY;
    }
    guest->host = host;
    guest->memory_bytes = memory_bytes;
    guest->next_pid = FIRST_PID;
    guest->files.host = host;
    guest->decoder_memory = host_allocate(host, PROTOCOL_FRAME_SIZE_MAX, err);
    guest->send_memory = host_allocate(host, MOCK_SEND_SIZE, err);
    guest->frame = host_allocate(host, PROTOCOL_FRAME_SIZE_MAX, err);
    enum kelpie_status status = KELPIE_NO_MEMORY;
    if (guest->decoder_memory && guest->send_memory && guest->frame) {
        status = mock_files_init(&guest->files, host, err);
    }
    if (status != KELPIE_OK) {
        mock_guest_destroy(guest);
        return status;
    }
    protocol_decoder_init(&guest->decoder, guest->decoder_memory, PROTOCOL_FRAME_SIZE_MAX);
    ring_init(&guest->send, guest->send_memory, MOCK_SEND_SIZE);
    mock_guest_skip(guest, host_monotonic_ns(host));
    *ret_guest = guest;
    return KELPIE_OK;
}

enum kelpie_status mock_guest_boot(struct mock_guest *guest, struct kelpie_error *err) {
    mock_guest_check(guest);
    ASSERT(guest->session_count == 0);
    memcpy(guest->hostname, "localhost", sizeof("localhost"));
    memset(guest->machine_id, '0', PROTOCOL_MACHINE_ID_SIZE);
    return mock_files_populate(&guest->files, err);
}

void mock_guest_destroy(struct mock_guest *guest) {
    if (!guest) {
        return;
    }
    for (size_t i = 0; i < guest->session_count; i++) {
        mock_session_destroy(guest->sessions[i]);
    }
    mock_files_deinit(&guest->files);
    free(guest->decoder_memory);
    free(guest->send_memory);
    free(guest->frame);
    free(guest);
}

/* ---- Time and chance -------------------------------------------------------------------------- */

void mock_guest_skip(struct mock_guest *guest, uint64_t now_ns) {
    mock_guest_check(guest);
    ASSERT(now_ns >= guest->clock_ns);
    guest->clock_ns = now_ns;
}

void mock_guest_advance(struct mock_guest *guest, uint64_t now_ns) {
    mock_guest_check(guest);
    ASSERT(now_ns >= guest->clock_ns);
    if (!guest->frozen) {
        guest->uptime_ns += now_ns - guest->clock_ns;
    }
    guest->clock_ns = now_ns;
}

uint64_t mock_guest_next_ns(const struct mock_guest *guest) {
    mock_guest_check(guest);
    if (guest->frozen) {
        return UINT64_MAX;
    }
    uint64_t next = UINT64_MAX;
    for (size_t i = 0; i < guest->session_count; i++) {
        next = min_u64(next, mock_session_next_ns(guest->sessions[i]));
    }
    if (next <= guest->uptime_ns) {
        return guest->clock_ns;
    }
    uint64_t at = 0;
    bool fits = checked_add_u64(guest->clock_ns, next - guest->uptime_ns, &at);
    return fits ? at : UINT64_MAX;
}

uint64_t mock_guest_realtime_ns(const struct mock_guest *guest) {
    mock_guest_check(guest);
    return guest->uptime_ns + (uint64_t)guest->realtime_offset_ns;
}

/* xoshiro256** (Blackman and Vigna, 2018): good enough to look random, and the same everywhere. */
static uint64_t random_next(struct mock_guest *guest) {
    mock_guest_check(guest);
    uint64_t *state = guest->random;
    uint64_t scaled = state[1] * 5;
    uint64_t result = (scaled << 7 | scaled >> 57) * 9;
    uint64_t shifted = state[1] << 17;
    state[2] ^= state[0];
    state[3] ^= state[1];
    state[1] ^= state[2];
    state[0] ^= state[3];
    state[2] ^= shifted;
    state[3] = state[3] << 45 | state[3] >> 19;
    return result;
}

void mock_guest_random(struct mock_guest *guest, void *buffer, size_t size) {
    mock_guest_check(guest);
    ASSERT(buffer);
    uint8_t *bytes = buffer;
    for (size_t offset = 0; offset < size; offset += sizeof(uint64_t)) {
        uint64_t value = random_next(guest);
        memcpy(bytes + offset, &value, min_size(sizeof(value), size - offset));
    }
}

/* ---- Turns ------------------------------------------------------------------------------------ */

void mock_guest_send(struct mock_guest *guest, const struct cursor_writer *writer) {
    mock_guest_check(guest);
    ASSERT(writer);
    ASSERT(!writer->failed);
    ASSERT(writer->size <= ring_room(&guest->send));
    size_t written = ring_write(&guest->send, writer->data, writer->size);
    ASSERT(written == writer->size);
}

/* Answers frames as long as there is room for the answers. True: more are waiting. */
static bool frames_handle(struct mock_guest *guest) {
    mock_guest_check(guest);
    for (int i = 0; i < FRAME_COUNT_MAX; i++) {
        if (ring_room(&guest->send) < MOCK_SEND_RESERVE_SIZE) {
            return false;
        }
        struct protocol_frame frame = {0};
        switch (protocol_decoder_next(&guest->decoder, &frame)) {
        case PROTOCOL_RESULT_MORE:
            return false;
        case PROTOCOL_RESULT_MALFORMED:
            protocol_decoder_scan(&guest->decoder);
            break;
        case PROTOCOL_RESULT_FRAME:
            if (!mock_guest_frame(guest, &frame)) {
                protocol_decoder_scan(&guest->decoder);
            }
            break;
        }
    }
    return true;
}

/* While commands stand still, only files move that were asked for since. */
static bool may_go_on(const struct mock_guest *guest, const struct mock_session *session) {
    ASSERT(guest);
    ASSERT(session);
    return !guest->frozen || (session->exact && session->kind != MOCK_SESSION_EXEC);
}

/* Sends what the sessions have, one frame of each in turn, while there is room. */
static void sessions_send(struct mock_guest *guest) {
    mock_guest_check(guest);
    size_t idle = 0;
    ASSERT(!guest->holding || guest->frozen);
    while (idle < guest->session_count &&
           ring_room(&guest->send) >= MOCK_SEND_RESERVE_SIZE + PROTOCOL_HEADER_SIZE +
                                          PROTOCOL_DATA_SIZE_MAX + MOCK_SEND_RESERVE_SIZE) {
        guest->next_session = (guest->next_session + 1) % guest->session_count;
        struct cursor_writer writer = cursor_writer_init(guest->frame, PROTOCOL_FRAME_SIZE_MAX);
        struct mock_session *session = guest->sessions[guest->next_session];
        if (may_go_on(guest, session) && mock_session_send(session, &writer)) {
            mock_guest_send(guest, &writer);
            idle = 0;
        } else {
            idle++;
        }
    }
}

bool mock_guest_turn(struct mock_guest *guest) {
    mock_guest_check(guest);
    bool more = frames_handle(guest);
    if ((guest->frozen && !guest->holding) || guest->powered_off) {
        return more;
    }
    for (size_t i = 0; i < guest->session_count; i++) {
        more =
            (may_go_on(guest, guest->sessions[i]) && mock_session_run(guest->sessions[i])) || more;
    }
    sessions_send(guest);
    return more;
}
