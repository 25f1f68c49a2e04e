/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The line editor of a session's terminal, as Linux's n_tty behaves by default (termios(3): ICANON, ECHO,
 * ISIG, ICRNL, ONLCR): what is typed is echoed, collected until the line ends, and only then readable.
 */
#include <signal.h>
#include <string.h>

#include "backend/mock/mock_session.h"
#include "base/assert.h"
#include "base/checked.h"

#define TTY_INTERRUPT 0x03 /* ^C */
#define TTY_END 0x04       /* ^D */
#define TTY_QUIT 0x1c      /* ^\ */
#define TTY_ERASE 0x7f
#define TTY_ECHO_SIZE_MAX 8 /* bytes that the echo of one byte takes at most */

static void tty_line_push(struct mock_session *session) {
    mock_session_check(session);
    mock_bytes_append(&session->tty_ready, session->tty_line.data, session->tty_line.size);
    session->tty_line.size = 0;
}

static void tty_signal(struct mock_session *session, uint32_t number, const char *echo) {
    mock_session_check(session);
    ASSERT(echo);
    mock_session_write(session, MOCK_OUT, echo, 2);
    session->tty_line.size = 0;
    mock_session_signal(session, number);
}

static void tty_erase(struct mock_session *session) {
    mock_session_check(session);
    if (session->tty_line.size > 0) {
        session->tty_line.size--;
        mock_session_write(session, MOCK_OUT, "\b \b", 3);
    }
}

static void tty_byte(struct mock_session *session, char byte) {
    mock_session_check(session);
    ASSERT(mock_session_is_tty(session));
    byte = byte == '\r' ? '\n' : byte;
    if (byte == TTY_INTERRUPT) {
        tty_signal(session, SIGINT, "^C");
    } else if (byte == TTY_QUIT) {
        tty_signal(session, SIGQUIT, "^\\");
    } else if (byte == TTY_ERASE) {
        tty_erase(session);
    } else if (byte == TTY_END) {
        session->tty_end = session->tty_line.size == 0;
        tty_line_push(session);
    } else if (session->tty_line.size < MOCK_TTY_LINE_SIZE_MAX || byte == '\n') {
        mock_session_write(session, MOCK_OUT, &byte, 1);
        mock_bytes_append_byte(&session->tty_line, byte);
        if (byte == '\n') {
            tty_line_push(session);
        }
    }
}

bool mock_tty_run(struct mock_session *session) {
    mock_session_check(session);
    ASSERT(mock_session_is_tty(session));
    bool moved = false;
    bool room = protocol_sender_room(&session->outputs[MOCK_OUT]) >= TTY_ECHO_SIZE_MAX;
    while (room && session->input_ring.size > 0 &&
           session->tty_ready.size <= MOCK_TTY_LINE_SIZE_MAX) {
        char byte = 0;
        size_t count = ring_read(&session->input_ring, &byte, 1);
        ASSERT(count == 1);
        mock_session_consumed(session, 1);
        tty_byte(session, byte);
        room = protocol_sender_room(&session->outputs[MOCK_OUT]) >= TTY_ECHO_SIZE_MAX;
        moved = true;
    }
    return moved;
}

enum mock_read mock_tty_read(struct mock_session *session, void *buffer, size_t *size) {
    mock_session_check(session);
    ASSERT(buffer);
    ASSERT(size);
    ASSERT(mock_session_is_tty(session));
    ASSERT(*size > 0);
    struct mock_bytes *ready = &session->tty_ready;
    if (ready->size > 0) {
        /* One line at most, as a terminal's reader gets it: the next one may be another process's. */
        const uint8_t *newline = memchr(ready->data, '\n', ready->size);
        const size_t there = newline ? (size_t)(newline - ready->data) + 1 : ready->size;
        *size = min_size(*size, there);
        memcpy(buffer, ready->data, *size);
        mock_bytes_drop(ready, *size);
        return MOCK_READ_BYTES;
    }
    bool input_is_over = session->input.ended && session->input_ring.size == 0;
    if (session->tty_end || input_is_over) {
        session->tty_end = false;
        return MOCK_READ_END;
    }
    return MOCK_READ_WAIT;
}
