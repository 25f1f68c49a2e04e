/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Moving bytes, and what becomes of the sessions then. Theory: talk.h. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "cli/cli.h"
#include "cli/output.h"
#include "cli/talk.h"

#define NS_PER_MS 1000000ull

static void session_check(const struct talk_session *session) {
    ASSERT(session->talk);
    ASSERT(session->exec);
}

/* ---- Output ----------------------------------------------------------------------------------- */

static enum kelpie_status pass_chunk(struct talk *talk, const struct kelpie_chunk *chunk,
                                     struct kelpie_error *err) {
    talk_check_parts(talk);
    ASSERT(chunk->size > 0);
    ASSERT(chunk->stream != KELPIE_STREAM_NONE);
    bool is_stdout = chunk->stream == KELPIE_STREAM_STDOUT;
    if (talk->options.collect) {
        return outcome_collect(is_stdout ? &talk->outcome.stdout_bytes
                                         : &talk->outcome.stderr_bytes,
                               chunk->buffer, chunk->size, err);
    }
    return output_write(is_stdout ? STDOUT_FILENO : STDERR_FILENO, chunk->buffer, chunk->size,
                        talk->give_up_event, err);
}

/* How long a wait may take: 0 is for ever, which is how the library reads it. */
static bool time_left(const struct talk *talk, uint32_t *ret_ms) {
    ASSERT(talk);
    ASSERT(ret_ms);
    *ret_ms = 0;
    if (talk->deadline_ns == 0) {
        return true;
    }
    uint64_t now_ns = cli_clock_ns();
    if (now_ns >= talk->deadline_ns) {
        return false;
    }
    *ret_ms = (uint32_t)((talk->deadline_ns - now_ns + NS_PER_MS - 1) / NS_PER_MS);
    ASSERT(*ret_ms > 0);
    return true;
}

/* Until the session has ended (then session->ended), the time is up, or we let go. */
static enum kelpie_status pump(struct talk_session *session, struct kelpie_error *err) {
    struct talk *talk = session->talk;
    session_check(session);
    AUTO_MEM char *buffer = malloc(CLI_CHUNK_SIZE);
    if (!buffer) {
        return error_set(err, KELPIE_NO_MEMORY, "no memory for the command's output");
    }
    uint32_t left_ms = 0;
    enum kelpie_stream stream = KELPIE_STREAM_STDOUT;
    while (stream != KELPIE_STREAM_NONE) {
        if (!time_left(talk, &left_ms)) {
            return KELPIE_OK;
        }
        TRY(talk_check(talk, err));
        struct kelpie_chunk chunk = {.buffer = buffer, .size = CLI_CHUNK_SIZE};
        enum kelpie_status status = kelpie_exec_read(session->exec, &chunk, left_ms, err);
        if (status == KELPIE_TIMED_OUT && talk->deadline_ns != 0) {
            continue; /* time_left() says that it is over */
        }
        TRY(status);
        stream = chunk.stream;
        if (stream != KELPIE_STREAM_NONE) {
            int result = pthread_mutex_lock(&talk->output_lock);
            ASSERT(result == 0);
            status = pass_chunk(talk, &chunk, err);
            result = pthread_mutex_unlock(&talk->output_lock);
            ASSERT(result == 0);
            TRY(status);
        }
    }
    enum kelpie_status status = kelpie_exec_wait(session->exec, left_ms, &session->exit, err);
    session->ended = status == KELPIE_OK;
    return status == KELPIE_TIMED_OUT && talk->deadline_ns != 0 ? KELPIE_OK : status;
}

static void *pump_main(void *argument) {
    struct talk_session *session = argument;
    struct talk *talk = session->talk;
    session_check(session);
    talk_check_parts(talk);
    struct kelpie_error err;
    if (pump(session, &err) == KELPIE_OK) {
        return NULL;
    }
    bool ours = err.status == KELPIE_IO_FAILED; /* writing failed */
    if (ours && err.os_error == EIO && isatty(STDOUT_FILENO) == 1) {
        talk_hang_up(talk);
        return NULL;
    }
    talk_lock(talk);
    talk->outcome.reader_gone |= ours && err.os_error == EPIPE;
    if (!(talk->outcome.let_go && err.status == KELPIE_CANCELLED)) {
        talk_give_up_locked(talk, &err);
    }
    talk_unlock(talk);
    return NULL;
}

/* ---- Input ------------------------------------------------------------------------------------ */

/* False: there is no use in going on. */
static bool feed(struct talk_session *session, const char *data, size_t size) {
    session_check(session);
    ASSERT(data);
    for (size_t done = 0; done < size;) {
        struct kelpie_error err;
        size_t count = 0;
        enum kelpie_status status =
            kelpie_exec_write(session->exec, data + done, size - done, &count, &err);
        done += count;
        /* A command that reads nothing for a long time is no error. One that has closed its stdin, or ended,
         * is the pump's to notice. */
        if (status != KELPIE_OK && !(status == KELPIE_TIMED_OUT && !talk_stopping(session->talk))) {
            return false;
        }
    }
    return true;
}

/* Waits until there is input. False: the talk is over. */
static bool await_input(struct talk *talk) {
    talk_check_parts(talk);
    ASSERT(talk->options.interactive);
    for (;;) {
        struct pollfd items[] = {{.fd = STDIN_FILENO, .events = POLLIN},
                                 {.fd = talk->stop_event, .events = POLLIN}};
        int count = poll(items, ARRAY_SIZE(items), -1);
        if (count < 0 && errno != EINTR) {
            return false;
        }
        if (count > 0 && items[1].revents != 0) {
            return false;
        }
        if (count > 0) {
            return true;
        }
    }
}

/* Passes on what was read. False: the session is to have no more. */
static bool pass_input(struct talk_session *session, struct detach_match *match, const char *data,
                       size_t size) {
    session_check(session);
    ASSERT(size <= CLI_CHUNK_SIZE);
    char passed[CLI_CHUNK_SIZE + CLI_DETACH_KEY_COUNT_MAX];
    bool detached = false;
    size_t count = detach_match_pass(match, data, size, passed, &detached);
    bool fed = feed(session, passed, count);
    if (detached) {
        talk_let_go(session->talk);
    }
    return fed && !detached;
}

static void *feed_main(void *argument) {
    struct talk_session *session = argument;
    struct talk *talk = session->talk;
    session_check(session);
    talk_check_parts(talk);
    struct detach_match match = {.keys = talk->options.detach_keys};
    struct kelpie_error err;
    AUTO_MEM char *buffer = malloc(CLI_CHUNK_SIZE);
    if (!buffer) {
        error_set(&err, KELPIE_NO_MEMORY, "no memory for standard input");
        talk_give_up(talk, &err);
        return NULL;
    }
    ssize_t count = 0;
    while (await_input(talk)) {
        count = read(STDIN_FILENO, buffer, CLI_CHUNK_SIZE);
        if (count < 0 && (errno == EINTR || errno == EAGAIN)) {
            continue;
        }
        if (count <= 0) {
            break;
        }
        if (!pass_input(session, &match, buffer, (size_t)count)) {
            return NULL;
        }
    }
    if (talk_stopping(talk)) {
        return NULL;
    }
    if (talk->terminal.raw) {
        talk_hang_up(talk); /* a raw terminal ends in no other way */
        return NULL;
    }
    /* A command that has ended already does not mind. */
    (void)!kelpie_exec_close_stdin(session->exec, &err);
    return NULL;
}

static enum kelpie_status start_feeding(struct talk *talk, struct kelpie_error *err) {
    talk_check_parts(talk);
    ASSERT(!talk->feeding);
    if (!talk->options.interactive) {
        return KELPIE_OK;
    }
    int result = pthread_create(&talk->feeder, NULL, feed_main, &talk->sessions[0]);
    if (result != 0) {
        return error_set_os(err, result, "cannot start a thread for standard input");
    }
    talk->feeding = true;
    return KELPIE_OK;
}

/* The pumps are over. The feeder may wait for a terminal, or for a command that does not read and goes on
 * without us: that is ended by stopping for a moment. */
static void stop_feeding(struct talk *talk) {
    talk_check_parts(talk);
    ASSERT(!talk->feeding || talk->session_count == 1);
    if (talk->feeding) {
        talk_lock(talk);
        talk_stop_locked(talk);
        talk_unlock(talk);
        int result = pthread_join(talk->feeder, NULL);
        ASSERT(result == 0);
        talk->feeding = false;
    }
    /* From here on only giving up cancels what waits. */
    talk_lock(talk);
    talk->stopping = talk->giving_up;
    talk_unlock(talk);
}

/* ---- The whole -------------------------------------------------------------------------------- */

static bool session_stays(const struct talk *talk, const struct talk_session *session) {
    talk_check_parts(talk);
    switch (talk->options.kind) {
    case TALK_BUNDLE:
        return true;
    case TALK_EXEC:
        return talk->outcome.let_go && !session->ended;
    case TALK_ATTACH:
        return !session->ended;
    case TALK_RUN:
        return false;
    case TALK_KIND_COUNT:
    default:
        UNREACHABLE();
    }
}

static void close_sessions(struct talk *talk) {
    talk_check_parts(talk);
    ASSERT(!talk->feeding);
    talk_lock(talk);
    size_t count = talk->session_count;
    talk->session_count = 0;
    talk_unlock(talk);
    for (size_t i = 0; i < count; i++) {
        if (session_stays(talk, &talk->sessions[i])) {
            kelpie_exec_detach(talk->sessions[i].exec);
        } else {
            kelpie_exec_close(talk->sessions[i].exec);
        }
        talk->sessions[i].exec = NULL;
    }
}

/* Of several sessions, the first that failed speaks for all. */
static void note_exits(struct talk *talk, size_t count) {
    talk_check_parts(talk);
    ASSERT(count <= KELPIE_EXEC_COUNT_MAX);
    for (size_t i = 0; i < count; i++) {
        const struct talk_session *session = &talk->sessions[i];
        if (session->ended && (!talk->outcome.ended || talk->outcome.exit.code == 0)) {
            talk->outcome.ended = true;
            talk->outcome.exit = session->exit;
        }
    }
    if (talk->outcome.ended && talk->outcome.signal == 0) {
        talk->outcome.let_go = false; /* it ended before we could */
    }
}

static enum kelpie_status make_raw(struct talk *talk, struct kelpie_error *err) {
    talk_check_parts(talk);
    ASSERT(!talk->feeding);
    if (!talk->options.tty || !talk->options.interactive) {
        return KELPIE_OK;
    }
    talk_lock(talk);
    enum kelpie_status status = terminal_make_raw(&talk->terminal, err);
    talk_unlock(talk);
    return status;
}

static enum kelpie_status start_pumps(struct talk *talk, struct kelpie_error *err) {
    talk_check_parts(talk);
    ASSERT(talk->session_count > 0);
    if (talk->options.pump_ms != 0) {
        talk->deadline_ns = cli_clock_ns() + talk->options.pump_ms * NS_PER_MS;
    }
    TRY(make_raw(talk, err));
    TRY(start_feeding(talk, err));
    for (size_t i = 0; i < talk->session_count; i++) {
        struct talk_session *session = &talk->sessions[i];
        int result = pthread_create(&session->thread, NULL, pump_main, session);
        if (result != 0) {
            return error_set_os(err, result, "cannot start a thread for the command's output");
        }
        session->pumping = true;
    }
    return KELPIE_OK;
}

enum kelpie_status talk_pump(struct talk *talk, struct kelpie_error *err) {
    talk_check_parts(talk);
    ASSERT(talk->session_count <= KELPIE_EXEC_COUNT_MAX);
    ASSERT(talk->session_count <= 1 || !talk->options.interactive);
    uint64_t start_ns = cli_clock_ns();
    size_t count = talk->session_count;
    enum kelpie_status status = start_pumps(talk, err);
    if (status != KELPIE_OK) {
        talk_give_up(talk, err);
    }
    for (size_t i = 0; i < count; i++) {
        if (talk->sessions[i].pumping) {
            int result = pthread_join(talk->sessions[i].thread, NULL);
            ASSERT(result == 0);
        }
    }
    stop_feeding(talk);
    talk_lock(talk);
    terminal_restore(&talk->terminal);
    talk_unlock(talk);
    note_exits(talk, count);
    close_sessions(talk);
    talk->outcome.exec_ns = cli_clock_ns() - start_ns;
    return status == KELPIE_OK ? talk_check(talk, err) : status;
}
