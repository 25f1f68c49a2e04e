/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The fields of mock_state.h's records. One visitor both saves and loads, so that the two cannot differ:
 * saving, it appends what the pointers point at; loading, it sets that, and fails for a value that cannot be.
 */
#ifndef KELPIE_BACKEND_MOCK_MOCK_STATE_FIELDS_H
#define KELPIE_BACKEND_MOCK_MOCK_STATE_FIELDS_H

#include "backend/mock/mock_session.h"
#include "base/cursor.h"

struct mock_state_visitor {
    bool saves;
    struct mock_bytes *bytes;    /* when it saves */
    struct cursor_reader reader; /* when it loads */
    struct host *host;
    bool failed;    /* when it loads: something is wrong or does not fit */
    bool no_memory; /* it failed for want of memory, and nothing is wrong with what is loaded */
};

/* What always holds. */
void mock_visitor_check(const struct mock_state_visitor *visitor);

/* Something could not be allocated. */
void mock_visitor_starve(struct mock_state_visitor *visitor);

void mock_state_u32(struct mock_state_visitor *visitor, uint32_t *value, uint32_t max);
void mock_state_u64(struct mock_state_visitor *visitor, uint64_t *value, uint64_t max);
void mock_state_bool(struct mock_state_visitor *visitor, bool *value);
void mock_state_array(struct mock_state_visitor *visitor, uint8_t *data, size_t size);

/* A zero-terminated text in an array of `capacity` bytes. */
void mock_state_chars(struct mock_state_visitor *visitor, char *text, size_t capacity);

/* An absolute, normalised path; loading allocates it. It may be missing unless it is required. */
void mock_state_path(struct mock_state_visitor *visitor, char **path, bool required);
void mock_state_blob(struct mock_state_visitor *visitor, struct mock_bytes *bytes, size_t max);
void mock_state_strings(struct mock_state_visitor *visitor, struct mock_strings *strings);

/* A ring's bytes, in order; loading puts them at its front. */
void mock_state_ring(struct mock_state_visitor *visitor, struct ring *ring);

/* mock_state_process.c: a process with its shell; loading fills one that was created for it. */
void mock_state_process(struct mock_state_visitor *visitor, struct mock_process *process);
struct mock_process *mock_state_process_create(struct mock_session *session);

/* What must hold between a loaded process and the others of its session. */
bool mock_process_is_sound(const struct mock_session *session, uint32_t slot);

#endif
