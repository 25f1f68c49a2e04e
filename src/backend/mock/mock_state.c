/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "backend/mock/mock_state.h"

#include <errno.h>
#include <string.h>

#include "backend/mock/mock_program.h"
#include "backend/mock/mock_state_fields.h"
#include "base/assert.h"
#include "base/checked.h"
#include "base/cleanup.h"

#define STATE_MAGIC "KELPMOCK"
#define STATE_MAGIC_SIZE 8
#define STATE_VERSION 1
#define STATE_TIME_MAX (UINT64_MAX / 4) /* of clocks and offsets: sums of two always fit */
#define STATE_MODE_MAX 07777
#define STATE_EXIT_CODE_MAX 255
#define STATE_SIGNAL_MAX 64
#define STATE_OS_ERROR_MAX 4095 /* Linux's MAX_ERRNO */
#define STATE_PID_MAX 0x40000000

enum state_tag {
    STATE_MACHINE = 1,
    STATE_FILE = 2,
    STATE_SESSION = 3,
    STATE_PROCESS = 4,
    STATE_END = 5,
};

/* ---- Machine and files ------------------------------------------------------------------------ */

static void machine_visit(struct mock_state_visitor *visitor, struct mock_guest *guest) {
    mock_visitor_check(visitor);
    mock_guest_check(guest);
    mock_state_u64(visitor, &guest->uptime_ns, STATE_TIME_MAX);
    uint64_t offset = (uint64_t)guest->realtime_offset_ns;
    mock_state_u64(visitor, &offset, UINT64_MAX);
    guest->realtime_offset_ns = (int64_t)offset;
    for (size_t i = 0; i < ARRAY_SIZE(guest->random); i++) {
        mock_state_u64(visitor, &guest->random[i], UINT64_MAX);
    }
    mock_state_bool(visitor, &guest->set_up);
    mock_state_bool(visitor, &guest->frozen);
    mock_state_array(visitor, guest->generation, sizeof(guest->generation));
    mock_state_chars(visitor, guest->hostname, sizeof(guest->hostname));
    mock_state_chars(visitor, guest->machine_id, sizeof(guest->machine_id));
    mock_state_u32(visitor, &guest->next_pid, STATE_PID_MAX);
}

static void file_visit(struct mock_state_visitor *visitor, struct mock_files *files,
                       struct mock_file *file) {
    ASSERT(visitor);
    ASSERT(files);
    mock_visitor_check(visitor);
    mock_files_check(files);
    struct mock_file read = {.content = mock_bytes_init(files->host)};
    struct mock_file *fields = file ? file : &read;
    uint32_t type = fields->type;
    mock_state_u32(visitor, &type, MOCK_FILE_TYPE_COUNT - 1);
    mock_state_u32(visitor, &fields->mode, STATE_MODE_MAX);
    mock_state_path(visitor, &fields->path, true);
    mock_state_blob(visitor, &fields->content, MOCK_FILE_BYTES_MAX);
    if (!file && !visitor->failed) {
        bool has_content = read.content.size > 0;
        int failure = mock_files_add(files, read.path, (enum mock_file_type)type, read.mode, &file);
        if (failure == 0 && has_content) {
            ASSERT(files->bytes <= MOCK_FILE_BYTES_MAX);
            bool fits = read.content.size <= MOCK_FILE_BYTES_MAX - files->bytes;
            failure = type == MOCK_FILE_LINK
                          ? mock_files_link(files, read.path, read.content.data, read.content.size)
                          : mock_files_append(files, file, read.content.data, read.content.size);
            failure = failure == ENOSPC && fits ? ENOMEM : failure;
        }
        bool may_have = type == MOCK_FILE_REGULAR || type == MOCK_FILE_LINK;
        visitor->failed =
            failure != 0 || (has_content && !may_have) || (!has_content && type == MOCK_FILE_LINK);
        if (failure == ENOMEM) {
            mock_visitor_starve(visitor);
        }
    }
    free(read.path);
    mock_bytes_deinit(&read.content);
}

/* ---- Sessions --------------------------------------------------------------------------------- */

static void output_visit(struct mock_state_visitor *visitor, struct protocol_sender *sender) {
    ASSERT(visitor);
    mock_visitor_check(visitor);
    ASSERT(sender);
    uint64_t acked = sender->acked;
    mock_state_u64(visitor, &acked, STATE_TIME_MAX);
    mock_state_bool(visitor, &sender->ended);
    mock_state_ring(visitor, &sender->ring);
    if (!visitor->saves) {
        sender->acked = acked;
        sender->sent = acked;
    }
}

static void input_visit(struct mock_state_visitor *visitor, struct mock_session *session) {
    ASSERT(visitor);
    mock_visitor_check(visitor);
    mock_session_check(session);
    uint64_t received = session->input.received;
    bool ended = session->input.ended;
    mock_state_u64(visitor, &received, STATE_TIME_MAX);
    mock_state_bool(visitor, &ended);
    mock_state_bool(visitor, &session->input_closed);
    mock_state_ring(visitor, &session->input_ring);
    if (!visitor->saves) {
        protocol_receiver_init(&session->input, received);
        session->input.ended = ended;
        session->input_debt = session->input_ring.size;
    }
}

static void session_visit(struct mock_state_visitor *visitor, struct mock_session *session) {
    mock_visitor_check(visitor);
    mock_session_check(session);
    uint32_t end = session->end;
    uint32_t rows = session->rows;
    uint32_t columns = session->columns;
    mock_state_bool(visitor, &session->ended);
    mock_state_u32(visitor, &end, PROTOCOL_END_COUNT - 1);
    mock_state_u32(visitor, &session->end_value, UINT32_MAX);
    mock_state_chars(visitor, session->end_message, sizeof(session->end_message));
    output_visit(visitor, &session->outputs[MOCK_OUT]);
    output_visit(visitor, &session->outputs[MOCK_ERR]);
    input_visit(visitor, session);
    mock_state_u32(visitor, &session->flags, PROTOCOL_EXEC_TTY | PROTOCOL_EXEC_STDIN);
    mock_state_u32(visitor, &session->uid, UINT32_MAX);
    mock_state_u32(visitor, &session->gid, UINT32_MAX);
    mock_state_u32(visitor, &rows, UINT16_MAX);
    mock_state_u32(visitor, &columns, UINT16_MAX);
    mock_state_u64(visitor, &session->rlimit_nofile, UINT64_MAX);
    mock_state_u64(visitor, &session->timeout_ns, UINT64_MAX);
    mock_state_bool(visitor, &session->timed_out);
    mock_state_bool(visitor, &session->stopped);
    mock_state_blob(visitor, &session->tty_line, 2 * MOCK_TTY_LINE_SIZE_MAX);
    mock_state_blob(visitor, &session->tty_ready, 4 * MOCK_TTY_LINE_SIZE_MAX);
    mock_state_bool(visitor, &session->tty_end);
    mock_state_path(visitor, &session->path, false);
    mock_state_u32(visitor, &session->mode, STATE_MODE_MAX | PROTOCOL_MODE_FOLDER);
    mock_state_u64(visitor, &session->file_size, MOCK_FILE_BYTES_MAX);
    mock_state_u64(visitor, &session->file_offset, session->file_size);
    mock_state_blob(visitor, &session->content, MOCK_FILE_BYTES_MAX);
    session->end = (enum protocol_end)end;
    session->rows = (uint16_t)rows;
    session->columns = (uint16_t)columns;
}

/* What ENDED may say (protocol.h). */
static bool end_is_sound(const struct mock_session *session) {
    mock_session_check(session);
    uint32_t value = session->end_value;
    bool has_message = session->end_message[0] != '\0';
    if (!session->ended) {
        return session->end == PROTOCOL_END_EXITED && value == 0 && !has_message;
    }
    switch (session->end) {
    case PROTOCOL_END_EXITED:
        return value <= STATE_EXIT_CODE_MAX && !has_message;
    case PROTOCOL_END_SIGNALED:
    case PROTOCOL_END_TIMED_OUT:
        return value >= 1 && value <= STATE_SIGNAL_MAX && !has_message;
    case PROTOCOL_END_FAILED:
        return value >= 1 && value <= STATE_OS_ERROR_MAX;
    case PROTOCOL_END_COUNT:
    default:
        UNREACHABLE(); /* the field's limit is lower */
    }
}

/* What must hold between the fields of a session and its processes. */
static bool session_is_sound(const struct mock_session *session) {
    mock_session_check(session);
    bool is_exec = session->kind == MOCK_SESSION_EXEC;
    bool is_tty = is_exec && mock_session_is_tty(session);
    bool out_ended = session->outputs[MOCK_OUT].ended;
    bool error_ended = session->outputs[MOCK_ERR].ended;
    bool has_process = false;
    if (!end_is_sound(session)) {
        return false;
    }
    for (uint32_t i = 0; i < MOCK_PROCESS_COUNT_MAX; i++) {
        const struct mock_process *process = session->processes[i];
        if (process && !mock_process_is_sound(session, i)) {
            return false;
        }
        has_process = has_process || process;
    }
    if (session->ended) {
        return !has_process && out_ended && error_ended;
    }
    if (out_ended || error_ended != is_tty || (!is_exec && session->flags != 0)) {
        return false;
    }
    if ((session->mode & ~PROTOCOL_MODE_FOLDER) > STATE_MODE_MAX) {
        return false;
    }
    if (session->kind == MOCK_SESSION_GET && session->content.size != session->file_size) {
        return false;
    }
    return is_exec ? session->processes[0] != NULL : session->path && !has_process;
}

/* ---- Saving ----------------------------------------------------------------------------------- */

/* Begins a record; returns where its size goes. */
static size_t record_begin(struct mock_bytes *bytes, enum state_tag tag) {
    mock_bytes_check(bytes);
    struct mock_state_visitor visitor = {.saves = true, .bytes = bytes};
    uint32_t value = tag;
    mock_state_u32(&visitor, &value, UINT32_MAX);
    size_t place = bytes->size;
    value = 0;
    mock_state_u32(&visitor, &value, UINT32_MAX);
    return place;
}

static void record_end(struct mock_bytes *bytes, size_t place) {
    mock_bytes_check(bytes);
    if (bytes->failed) {
        return;
    }
    ASSERT(bytes->size >= place + 4);
    size_t size = bytes->size - place - 4;
    for (size_t i = 0; i < 4; i++) {
        bytes->data[place + i] = (uint8_t)(size >> (8 * i));
    }
}

static void session_save(struct mock_state_visitor *visitor, struct mock_session *session) {
    ASSERT(visitor);
    mock_visitor_check(visitor);
    mock_session_check(session);
    size_t place = record_begin(visitor->bytes, STATE_SESSION);
    uint32_t kind = session->kind;
    mock_state_u32(visitor, &session->id, UINT32_MAX);
    mock_state_u32(visitor, &kind, MOCK_SESSION_KIND_COUNT - 1);
    session_visit(visitor, session);
    record_end(visitor->bytes, place);
    for (uint32_t i = 0; i < MOCK_PROCESS_COUNT_MAX; i++) {
        if (session->processes[i]) {
            place = record_begin(visitor->bytes, STATE_PROCESS);
            uint32_t slot = i;
            mock_state_u32(visitor, &slot, MOCK_PROCESS_COUNT_MAX - 1);
            mock_state_process(visitor, session->processes[i]);
            record_end(visitor->bytes, place);
        }
    }
}

enum kelpie_status mock_state_save(const struct mock_guest *guest, struct mock_bytes *bytes,
                                   struct kelpie_error *err) {
    mock_guest_check(guest);
    mock_bytes_check(bytes);
    ASSERT(bytes->size == 0);
    /* The visitor that saves changes nothing; it has pointers to change because the one that loads
     * shares its code. */
    struct mock_guest *source = (struct mock_guest *)guest;
    struct mock_state_visitor visitor = {.saves = true, .bytes = bytes, .host = guest->host};
    uint32_t version = STATE_VERSION;
    mock_bytes_append(bytes, STATE_MAGIC, STATE_MAGIC_SIZE);
    mock_state_u32(&visitor, &version, UINT32_MAX);
    size_t place = record_begin(bytes, STATE_MACHINE);
    machine_visit(&visitor, source);
    record_end(bytes, place);
    for (size_t i = 0; i < source->files.count; i++) {
        place = record_begin(bytes, STATE_FILE);
        file_visit(&visitor, &source->files, &source->files.entries[i]);
        record_end(bytes, place);
    }
    for (size_t i = 0; i < source->session_count; i++) {
        session_save(&visitor, source->sessions[i]);
    }
    record_end(bytes, record_begin(bytes, STATE_END));
    if (bytes->failed) {
        return error_set(err, KELPIE_NO_MEMORY, "the mock's state does not fit into memory");
    }
    return KELPIE_OK;
}

/* ---- Loading ---------------------------------------------------------------------------------- */

static bool session_load(struct mock_state_visitor *visitor, struct mock_guest *guest) {
    ASSERT(visitor);
    mock_visitor_check(visitor);
    mock_guest_check(guest);
    uint32_t id = 0;
    uint32_t kind = 0;
    mock_state_u32(visitor, &id, UINT32_MAX);
    mock_state_u32(visitor, &kind, MOCK_SESSION_KIND_COUNT - 1);
    for (size_t i = 0; i < guest->session_count; i++) {
        if (guest->sessions[i]->id == id) {
            return false;
        }
    }
    if (visitor->failed || id == 0 || guest->session_count == PROTOCOL_SESSION_COUNT_MAX) {
        return false;
    }
    struct mock_session *session = mock_session_create(guest, id, (enum mock_session_kind)kind);
    if (!session) {
        mock_visitor_starve(visitor);
        return false;
    }
    guest->sessions[guest->session_count++] = session;
    session_visit(visitor, session);
    mock_session_detach(session);
    return !visitor->failed;
}

static bool process_load(struct mock_state_visitor *visitor, struct mock_guest *guest) {
    ASSERT(visitor);
    mock_visitor_check(visitor);
    mock_guest_check(guest);
    uint32_t slot = 0;
    mock_state_u32(visitor, &slot, MOCK_PROCESS_COUNT_MAX - 1);
    if (visitor->failed || guest->session_count == 0) {
        return false;
    }
    struct mock_session *session = guest->sessions[guest->session_count - 1];
    for (uint32_t i = slot; i < MOCK_PROCESS_COUNT_MAX; i++) {
        if (session->processes[i]) {
            return false; /* they come in order, each once */
        }
    }
    session->processes[slot] = mock_state_process_create(session);
    if (!session->processes[slot]) {
        mock_visitor_starve(visitor);
        return false;
    }
    mock_state_process(visitor, session->processes[slot]);
    return !visitor->failed;
}

/* Where the loading stands: which record may come next. */
struct loader {
    struct mock_guest *guest;
    uint32_t last; /* tag of the record before */
};

static bool record_load(struct loader *loader, uint32_t tag, struct mock_state_visitor *visitor) {
    ASSERT(visitor);
    ASSERT(loader);
    mock_visitor_check(visitor);
    struct mock_guest *guest = loader->guest;
    bool is_first = loader->last == 0;
    if (is_first != (tag == STATE_MACHINE)) {
        return false;
    }
    switch (tag) {
    case STATE_MACHINE:
        machine_visit(visitor, guest);
        return !visitor->failed;
    case STATE_FILE:
        if (loader->last > STATE_FILE) {
            return false;
        }
        file_visit(visitor, &guest->files, NULL);
        return !visitor->failed;
    case STATE_SESSION:
        return session_load(visitor, guest);
    case STATE_PROCESS:
        return loader->last >= STATE_SESSION && process_load(visitor, guest);
    case STATE_END:
        return true;
    default:
        return false;
    }
}

static bool guest_is_sound(const struct mock_guest *guest) {
    mock_guest_check(guest);
    const struct mock_file *root = mock_files_find(&guest->files, "/");
    if (!root || root->type != MOCK_FILE_FOLDER || guest->hostname[0] == '\0') {
        return false;
    }
    for (size_t i = 0; i < guest->session_count; i++) {
        if (!session_is_sound(guest->sessions[i])) {
            return false;
        }
    }
    return true;
}

static enum kelpie_status corrupt(size_t offset, const char *what, struct kelpie_error *err) {
    ASSERT(what);
    return error_set_field(err, KELPIE_SNAPSHOT_CORRUPT, "state",
                           "the mock's state is damaged at byte %zu: %s", offset, what);
}

enum kelpie_status mock_state_load(struct mock_guest *guest, const void *data, size_t size,
                                   struct kelpie_error *err) {
    mock_guest_check(guest);
    ASSERT(guest->session_count == 0);
    ASSERT(guest->files.count == 0);
    struct cursor_reader reader = cursor_reader_init(data, size);
    const uint8_t *magic = cursor_read_bytes(&reader, STATE_MAGIC_SIZE);
    if (!magic || memcmp(magic, STATE_MAGIC, STATE_MAGIC_SIZE) != 0) {
        return corrupt(0, "it does not begin as it must", err);
    }
    if (cursor_read_u32(&reader) != STATE_VERSION) {
        return corrupt(STATE_MAGIC_SIZE, "its version is unknown", err);
    }
    struct loader loader = {.guest = guest};
    for (size_t i = 0; i < MOCK_RECORD_COUNT_MAX && loader.last != STATE_END; i++) {
        size_t offset = reader.offset;
        uint32_t tag = cursor_read_u32(&reader);
        uint32_t payload_size = cursor_read_u32(&reader);
        const uint8_t *payload = cursor_read_bytes(&reader, payload_size);
        if (!payload) {
            return corrupt(offset, "it is cut off", err);
        }
        struct mock_state_visitor visitor = {.host = guest->host,
                                             .reader = cursor_reader_init(payload, payload_size)};
        bool loaded = record_load(&loader, tag, &visitor);
        if (visitor.no_memory) {
            return error_set(err, KELPIE_NO_MEMORY, "the mock's state does not fit into memory");
        }
        if (!loaded || !cursor_reader_finished(&visitor.reader)) {
            return corrupt(offset, "a record is wrong", err);
        }
        loader.last = tag;
    }
    if (loader.last != STATE_END || !cursor_reader_finished(&reader)) {
        return corrupt(reader.offset, "it does not end where it must", err);
    }
    return guest_is_sound(guest) ? KELPIE_OK : corrupt(0, "its records contradict", err);
}
