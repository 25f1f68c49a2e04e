/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The guest's side of the protocol, a frame at a time. */
#include <errno.h>
#include <string.h>

#include "backend/mock/mock_guest.h"
#include "base/assert.h"

static struct cursor_writer frame_writer(struct mock_guest *guest) {
    mock_guest_check(guest);
    return cursor_writer_init(guest->frame, PROTOCOL_FRAME_SIZE_MAX);
}

static struct mock_session *session_find(struct mock_guest *guest, uint32_t id, size_t *ret_index) {
    mock_guest_check(guest);
    ASSERT(ret_index);
    ASSERT(guest->session_count <= PROTOCOL_SESSION_COUNT_MAX);
    for (size_t i = 0; i < guest->session_count; i++) {
        if (guest->sessions[i]->id == id) {
            *ret_index = i;
            return guest->sessions[i];
        }
    }
    return NULL;
}

/* ---- The channel ------------------------------------------------------------------------------ */

static uint64_t memory_available(const struct mock_guest *guest) {
    mock_guest_check(guest);
    uint64_t used = guest->files.bytes;
    return used < guest->memory_bytes ? guest->memory_bytes - used : 0;
}

static bool on_hello(struct mock_guest *guest, const struct protocol_frame *frame) {
    mock_guest_check(guest);
    ASSERT(frame);
    struct protocol_hello hello;
    if (!protocol_decode_hello(frame, &hello)) {
        return false;
    }
    ring_drop(&guest->send, guest->send.size);
    guest->holding = false; /* whoever asked for it is gone */
    for (size_t i = 0; i < guest->session_count; i++) {
        mock_session_detach(guest->sessions[i]);
    }
    struct protocol_hello_ack answer = {
        .frozen = guest->frozen,
        .set_up = guest->set_up,
        .memory_total_bytes = guest->memory_bytes,
        .memory_available_bytes = memory_available(guest),
    };
    memcpy(answer.nonce, hello.nonce, sizeof(answer.nonce));
    memcpy(answer.generation, guest->generation, sizeof(answer.generation));
    struct cursor_writer writer = frame_writer(guest);
    protocol_encode_hello_ack(&writer, &answer);
    mock_guest_send(guest, &writer);
    return true;
}

static bool on_ping(struct mock_guest *guest, const struct protocol_frame *frame) {
    mock_guest_check(guest);
    ASSERT(frame);
    struct protocol_ping ping;
    if (!protocol_decode_ping(frame, &ping)) {
        return false;
    }
    struct cursor_writer writer = frame_writer(guest);
    protocol_encode_ping(&writer, PROTOCOL_PONG, &ping);
    mock_guest_send(guest, &writer);
    return true;
}

static bool on_status(struct mock_guest *guest, const struct protocol_frame *frame) {
    mock_guest_check(guest);
    ASSERT(frame);
    if (!protocol_decode_empty(frame)) {
        return false;
    }
    const struct protocol_figures answer = {
        .memory_total_bytes = guest->memory_bytes,
        .memory_available_bytes = memory_available(guest),
    };
    struct cursor_writer writer = frame_writer(guest);
    protocol_encode_figures(&writer, &answer);
    mock_guest_send(guest, &writer);
    return true;
}

static bool on_list(struct mock_guest *guest, const struct protocol_frame *frame) {
    mock_guest_check(guest);
    ASSERT(frame);
    if (!protocol_decode_empty(frame)) {
        return false;
    }
    struct protocol_sessions answer = {.count = (uint32_t)guest->session_count};
    for (size_t i = 0; i < guest->session_count; i++) {
        answer.ids[i] = guest->sessions[i]->id;
    }
    struct cursor_writer writer = frame_writer(guest);
    protocol_encode_sessions(&writer, &answer);
    mock_guest_send(guest, &writer);
    return true;
}

/* ---- Identity --------------------------------------------------------------------------------- */

static int64_t clock_set(struct mock_guest *guest, uint64_t realtime_ns) {
    mock_guest_check(guest);
    int64_t skew = (int64_t)(mock_guest_realtime_ns(guest) - realtime_ns);
    guest->realtime_offset_ns = (int64_t)(realtime_ns - guest->uptime_ns);
    return skew;
}

static void entropy_credit(struct mock_guest *guest, const uint8_t *entropy) {
    mock_guest_check(guest);
    ASSERT(entropy);
    for (size_t i = 0; i < PROTOCOL_ENTROPY_SIZE; i++) {
        uint64_t *word = &guest->random[i % 4];
        *word = (*word ^ entropy[i]) * 0x9e3779b97f4a7c15ull + i + 1;
    }
    uint64_t first = 0;
    mock_guest_random(guest, &first, sizeof(first));
}

static int file_set(struct mock_guest *guest, const char *path, const char *line) {
    mock_guest_check(guest);
    ASSERT(path);
    ASSERT(line);
    struct mock_bytes content = mock_bytes_init(guest->host);
    int failure = mock_bytes_print(&content, "%s\n", line)
                      ? mock_files_replace(&guest->files, path, 0644, &content)
                      : ENOMEM;
    mock_bytes_deinit(&content);
    return failure;
}

/* ret_hostname, ret_machine_id: 0 or an errno. */
static void identity_set(struct mock_guest *guest, const struct protocol_identity *identity,
                         int *ret_hostname, int *ret_machine_id) {
    mock_guest_check(guest);
    ASSERT(identity);
    ASSERT(ret_hostname);
    ASSERT(ret_machine_id);
    ASSERT(strlen(identity->hostname) < sizeof(guest->hostname));
    ASSERT(strlen(identity->machine_id) < sizeof(guest->machine_id));
    entropy_credit(guest, identity->entropy);
    memcpy(guest->generation, identity->generation, sizeof(guest->generation));
    memcpy(guest->hostname, identity->hostname, strlen(identity->hostname) + 1);
    memcpy(guest->machine_id, identity->machine_id, strlen(identity->machine_id) + 1);
    *ret_hostname = file_set(guest, "/etc/hostname", identity->hostname);
    *ret_machine_id = file_set(guest, "/etc/machine-id", identity->machine_id);
}

static bool on_setup(struct mock_guest *guest, const struct protocol_frame *frame) {
    mock_guest_check(guest);
    ASSERT(frame);
    struct protocol_setup setup;
    if (!protocol_decode_setup(frame, &setup)) {
        return false;
    }
    struct protocol_done done = {.message = ""};
    int hostname = 0;
    int machine_id = 0;
    clock_set(guest, setup.identity.realtime_ns);
    identity_set(guest, &setup.identity, &hostname, &machine_id);
    if (hostname != 0 || machine_id != 0) {
        done = (struct protocol_done){(uint32_t)(hostname ? hostname : machine_id), "identity"};
    } else if (setup.mount_count > 0) {
        done = (struct protocol_done){ENODEV, "the mock has no disks"};
    }
    guest->set_up = done.os_error == 0;
    struct cursor_writer writer = frame_writer(guest);
    protocol_encode_done(&writer, &done);
    mock_guest_send(guest, &writer);
    return true;
}

static bool on_freeze(struct mock_guest *guest, const struct protocol_frame *frame) {
    mock_guest_check(guest);
    ASSERT(frame);
    if (!protocol_decode_empty(frame)) {
        return false;
    }
    guest->frozen = true;
    guest->holding = frame->type == PROTOCOL_HOLD;
    struct cursor_writer writer = frame_writer(guest);
    protocol_encode_frozen(&writer, &(struct protocol_frozen){0});
    mock_guest_send(guest, &writer);
    return true;
}

static enum protocol_outcome outcome_of(int os_error) {
    return os_error == 0 ? PROTOCOL_OUTCOME_DONE : PROTOCOL_OUTCOME_FAILED;
}

static bool on_thaw(struct mock_guest *guest, const struct protocol_frame *frame) {
    mock_guest_check(guest);
    ASSERT(frame);
    struct protocol_thaw thaw;
    if (!protocol_decode_thaw(frame, &thaw)) {
        return false;
    }
    struct protocol_thawed answer = {
        .clock = PROTOCOL_OUTCOME_DONE,
        .network = PROTOCOL_OUTCOME_UNSUPPORTED,
        .clock_skew_ns = clock_set(guest, thaw.identity.realtime_ns),
    };
    if (thaw.flags & PROTOCOL_THAW_RESTORED) {
        int hostname = 0;
        int machine_id = 0;
        identity_set(guest, &thaw.identity, &hostname, &machine_id);
        answer.entropy = PROTOCOL_OUTCOME_DONE;
        answer.generation = PROTOCOL_OUTCOME_DONE;
        answer.hostname = outcome_of(hostname);
        answer.machine_id = outcome_of(machine_id);
    }
    guest->frozen = false;
    guest->holding = false;
    struct cursor_writer writer = frame_writer(guest);
    protocol_encode_thawed(&writer, &answer);
    mock_guest_send(guest, &writer);
    return true;
}

/* ---- Sessions --------------------------------------------------------------------------------- */

/* A new session in the table. NULL: the frame's id is wrong, or (answered) there is no room. */
static struct mock_session *session_open(struct mock_guest *guest, uint32_t id,
                                         enum mock_session_kind kind) {
    mock_guest_check(guest);
    struct mock_session *session = NULL;
    if (guest->session_count < PROTOCOL_SESSION_COUNT_MAX) {
        session = mock_session_create(guest, id, kind);
    }
    if (session) {
        session->exact = guest->holding;
        guest->sessions[guest->session_count++] = session;
        return session;
    }
    const struct protocol_ended ended = {
        .end = PROTOCOL_END_FAILED, .value = EAGAIN, .message = "the guest has no room for more"};
    struct cursor_writer writer = frame_writer(guest);
    protocol_encode_ended(&writer, id, &ended);
    mock_guest_send(guest, &writer);
    return NULL;
}

static bool on_open(struct mock_guest *guest, const struct protocol_frame *frame) {
    mock_guest_check(guest);
    ASSERT(frame);
    struct protocol_exec exec;
    struct protocol_file_put put;
    struct protocol_file_get get;
    size_t index = 0;
    bool is_exec = frame->type == PROTOCOL_EXEC;
    bool is_put = frame->type == PROTOCOL_FILE_PUT;
    bool valid = is_exec  ? protocol_decode_exec(frame, &exec)
                 : is_put ? protocol_decode_file_put(frame, &put)
                          : protocol_decode_file_get(frame, &get);
    if (!valid || frame->session == 0 || session_find(guest, frame->session, &index)) {
        return false;
    }
    struct mock_session *session = session_open(guest, frame->session,
                                                is_exec  ? MOCK_SESSION_EXEC
                                                : is_put ? MOCK_SESSION_PUT
                                                         : MOCK_SESSION_GET);
    if (!session) {
        return true;
    }
    if (is_exec) {
        mock_session_exec(session, &exec);
    } else if (is_put) {
        mock_session_put(session, &put);
    } else {
        mock_session_get(session, &get);
    }
    return true;
}

static bool on_attach(struct mock_guest *guest, const struct protocol_frame *frame) {
    mock_guest_check(guest);
    ASSERT(frame);
    struct protocol_attach attach;
    if (!protocol_decode_attach(frame, &attach)) {
        return false;
    }
    struct protocol_attached answer = {.os_error = ENOENT};
    size_t index = 0;
    struct mock_session *session = session_find(guest, frame->session, &index);
    if (session) {
        mock_session_attach(session, &attach, &answer);
    }
    struct cursor_writer writer = frame_writer(guest);
    protocol_encode_attached(&writer, frame->session, &answer);
    mock_guest_send(guest, &writer);
    return true;
}

static void session_release(struct mock_guest *guest, size_t index) {
    mock_guest_check(guest);
    ASSERT(index < guest->session_count);
    mock_session_destroy(guest->sessions[index]);
    size_t behind = guest->session_count - index - 1;
    memmove(&guest->sessions[index], &guest->sessions[index + 1],
            behind * sizeof(guest->sessions[0]));
    guest->session_count--;
}

/* Frames of a session that is there. One that is gone is no error: the frames crossed. */
static bool on_session(struct mock_guest *guest, const struct protocol_frame *frame) {
    mock_guest_check(guest);
    ASSERT(frame);
    struct protocol_data data;
    struct protocol_ack ack;
    struct protocol_signal signal;
    struct protocol_resize resize;
    size_t index = 0;
    struct mock_session *session = session_find(guest, frame->session, &index);
    bool valid = true;
    if (frame->type == PROTOCOL_DATA) {
        valid = protocol_decode_data(frame, &data);
        return valid && (!session || mock_session_data(session, &data));
    }
    if (frame->type == PROTOCOL_ACK) {
        valid = protocol_decode_ack(frame, &ack);
        return valid && (!session || mock_session_ack(session, &ack));
    }
    if (frame->type == PROTOCOL_SIGNAL) {
        valid = protocol_decode_signal(frame, &signal);
        if (valid && session) {
            mock_session_signal(session, signal.number);
        }
        return valid;
    }
    if (frame->type == PROTOCOL_RESIZE) {
        valid = protocol_decode_resize(frame, &resize);
        if (valid && session) {
            session->rows = resize.rows;
            session->columns = resize.columns;
        }
        return valid;
    }
    ASSERT(frame->type == PROTOCOL_RELEASE);
    valid = protocol_decode_empty(frame);
    if (valid && session) {
        session_release(guest, index);
    }
    return valid;
}

static bool on_power_off(struct mock_guest *guest, const struct protocol_frame *frame) {
    mock_guest_check(guest);
    ASSERT(frame);
    if (!protocol_decode_empty(frame)) {
        return false;
    }
    guest->powered_off = true;
    return true;
}

/* Nothing goes through the interface of a simulated machine, if it has one: there is nothing to set up. */
static bool on_network(const struct protocol_frame *frame) {
    ASSERT(frame);
    ASSERT(frame->type == PROTOCOL_NETWORK);
    struct protocol_network network;
    return protocol_decode_network(frame, &network);
}

/* It has no such device. */
static bool on_share(struct mock_guest *guest, const struct protocol_frame *frame) {
    mock_guest_check(guest);
    ASSERT(frame->type == PROTOCOL_SHARE);
    struct protocol_share share;
    if (!protocol_decode_share(frame, &share)) {
        return false;
    }
    const struct protocol_done done = {ENODEV, "the mock has no virtio-fs"};
    struct cursor_writer writer = frame_writer(guest);
    protocol_encode_shared(&writer, &done);
    mock_guest_send(guest, &writer);
    return true;
}

bool mock_guest_frame(struct mock_guest *guest, const struct protocol_frame *frame) {
    mock_guest_check(guest);
    ASSERT(frame);
    ASSERT(ring_room(&guest->send) >= MOCK_SEND_RESERVE_SIZE);
    switch (frame->type) {
    case PROTOCOL_HELLO:
        return on_hello(guest, frame);
    case PROTOCOL_PING:
        return on_ping(guest, frame);
    case PROTOCOL_SETUP:
        return on_setup(guest, frame);
    case PROTOCOL_EXEC:
    case PROTOCOL_FILE_PUT:
    case PROTOCOL_FILE_GET:
        return on_open(guest, frame);
    case PROTOCOL_ATTACH:
        return on_attach(guest, frame);
    case PROTOCOL_RELEASE:
    case PROTOCOL_SIGNAL:
    case PROTOCOL_RESIZE:
    case PROTOCOL_DATA:
    case PROTOCOL_ACK:
        return on_session(guest, frame);
    case PROTOCOL_LIST:
        return on_list(guest, frame);
    case PROTOCOL_STATUS:
        return on_status(guest, frame);
    case PROTOCOL_FREEZE:
    case PROTOCOL_HOLD:
        return on_freeze(guest, frame);
    case PROTOCOL_THAW:
        return on_thaw(guest, frame);
    case PROTOCOL_POWER_OFF:
        return on_power_off(guest, frame);
    case PROTOCOL_NETWORK:
        return on_network(frame);
    case PROTOCOL_SHARE:
        return on_share(guest, frame);
    case PROTOCOL_DETACH:
    case PROTOCOL_HELLO_ACK:
    case PROTOCOL_PONG:
    case PROTOCOL_SHARED:
    case PROTOCOL_SETUP_DONE:
    case PROTOCOL_STARTED:
    case PROTOCOL_ENDED:
    case PROTOCOL_ATTACHED:
    case PROTOCOL_SESSIONS:
    case PROTOCOL_FROZEN:
    case PROTOCOL_THAWED:
    case PROTOCOL_FIGURES:
        return false;
    }
    return false;
}
