/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The simulated guest: files, sessions, a clock, a random generator, and the guest's side of the protocol.
 * It does no I/O and knows no thread: mock.c moves its bytes and tells it the time.
 *
 *     mock_guest_advance(guest, host_monotonic_ns(host));    the guest's clock goes on
 *     bytes into protocol_decoder_space(&guest->decoder);    what the host sent
 *     mock_guest_turn(guest);                                frames are answered, commands run
 *     bytes out of guest->send                               what the host is to get
 *
 * The guest's own time is its uptime, in nanoseconds: it goes on only while the guest neither is frozen
 * nor paused, so that every sleep and timeout stands with it. Its wall clock is uptime plus an offset,
 * which SETUP and THAW set.
 */
#ifndef KELPIE_BACKEND_MOCK_MOCK_GUEST_H
#define KELPIE_BACKEND_MOCK_MOCK_GUEST_H

#include "backend/mock/mock_files.h"
#include "backend/mock/mock_session.h"

struct mock_guest {
    struct host *host;

    /* The connection. */
    uint8_t *decoder_memory;
    struct protocol_decoder decoder;
    uint8_t *send_memory;
    struct ring send;
    uint8_t *frame; /* one frame being made, PROTOCOL_FRAME_SIZE_MAX */

    /* The machine. */
    uint64_t memory_bytes;
    uint64_t clock_ns;  /* the host's monotonic clock when the guest's last went on */
    uint64_t uptime_ns; /* the guest's own time */
    int64_t realtime_offset_ns;
    uint64_t random[4];
    bool set_up;
    bool frozen;
    bool holding; /* frozen, but for sessions that are exact */
    bool powered_off;
    uint32_t fail_exec_count; /* the next commands that fail */
    uint8_t generation[PROTOCOL_GENERATION_SIZE];
    char hostname[PROTOCOL_HOSTNAME_SIZE_MAX + 1];
    char machine_id[PROTOCOL_MACHINE_ID_SIZE + 1];
    uint32_t next_pid;
    struct mock_files files;
    struct mock_session *sessions[PROTOCOL_SESSION_COUNT_MAX];
    size_t session_count;
    size_t next_session; /* whose turn to send it is */
};

/* What always holds. */
void mock_guest_check(const struct mock_guest *guest);

/* A guest without files: one that mock_guest_boot() or mock_state_load() fills. */
KELPIE_CHECKED enum kelpie_status mock_guest_create(struct host *host, uint64_t memory_bytes,
                                                    struct mock_guest **ret_guest,
                                                    struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status mock_guest_boot(struct mock_guest *guest,
                                                  struct kelpie_error *err);
void mock_guest_destroy(struct mock_guest *guest); /* NULL is allowed */

/* The host's monotonic clock says now_ns. skip: the guest did not run meanwhile. */
void mock_guest_advance(struct mock_guest *guest, uint64_t now_ns);
void mock_guest_skip(struct mock_guest *guest, uint64_t now_ns);

/* Handles what was received, runs what can run, fills `send`. True: more could be done at once. */
bool mock_guest_turn(struct mock_guest *guest);

/* On the host's monotonic clock, when something is due by time; UINT64_MAX: nothing is. */
uint64_t mock_guest_next_ns(const struct mock_guest *guest);

uint64_t mock_guest_realtime_ns(const struct mock_guest *guest);

/* Bytes of the guest's generator: the same entropy gives the same bytes. */
void mock_guest_random(struct mock_guest *guest, void *buffer, size_t size);

/* mock_frame.c: does what one frame asks for. False: it is malformed. */
bool mock_guest_frame(struct mock_guest *guest, const struct protocol_frame *frame);

/* Appends a frame made in guest->frame to what is to be sent. */
void mock_guest_send(struct mock_guest *guest, const struct cursor_writer *writer);

#endif
