/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The sessions of a run: started or taken up, pumped, fed, signalled, let go. Theory: run.h. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "cli/output.h"
#include "cli/run.h"

#define NS_PER_MS 1000000ull
#define SIGNALS_TO_COMMAND_MAX 2 /* the next one gives up */

void run_check_parts(const struct run *run) {
    ASSERT(run);
    ASSERT(run->options);
    ASSERT(run->stop_event >= 0);
}

static void session_check(const struct run_session *session) {
    ASSERT(session->run);
    ASSERT(session->exec);
}

void run_lock(struct run *run) {
    int result = pthread_mutex_lock(&run->lock);
    ASSERT(result == 0);
}

void run_unlock(struct run *run) {
    int result = pthread_mutex_unlock(&run->lock);
    ASSERT(result == 0);
}

/* ---- Giving up -------------------------------------------------------------------------------- */

static void give_up_locked(struct run *run, const struct kelpie_error *err) {
    run_check_parts(run);
    ASSERT(!err || err->status != KELPIE_OK);
    if (err && !run->giving_up && run->report.err.status == KELPIE_OK) {
        run->report.err = *err;
    }
    run->giving_up = true;
    int result = eventfd_write(run->stop_event, 1);
    ASSERT(result == 0);
    signals_tick(&run->signals);
}

void run_give_up(struct run *run, const struct kelpie_error *err) {
    run_check_parts(run);
    run_lock(run);
    give_up_locked(run, err);
    run_unlock(run);
}

enum kelpie_status run_check(struct run *run, struct kelpie_error *err) {
    run_check_parts(run);
    run_lock(run);
    bool giving_up = run->giving_up;
    run_unlock(run);
    return giving_up ? error_set(err, KELPIE_CANCELLED, "the run was given up") : KELPIE_OK;
}

bool run_on_tick(void *context) {
    struct run *run = context;
    run_check_parts(run);
    run_lock(run);
    bool again = run->giving_up && run->vm;
    if (again) {
        kelpie_vm_cancel(run->vm);
    }
    run_unlock(run);
    return again;
}

/* ---- Signals ---------------------------------------------------------------------------------- */

static void resize_locked(struct run *run) {
    run_check_parts(run);
    uint16_t rows = 0;
    uint16_t columns = 0;
    struct kelpie_error err;
    if (run->options->tty && run->session_count == 1 &&
        terminal_size(&run->terminal, &rows, &columns)) {
        /* A session that is over needs no size. */
        (void)!kelpie_exec_resize(run->sessions[0].exec, rows, columns, &err);
    }
}

static bool pass_on_locked(struct run *run, int number) {
    run_check_parts(run);
    ASSERT(run->session_count > 0);
    bool passed = true;
    for (size_t i = 0; i < run->session_count; i++) {
        struct kelpie_error err;
        passed &= kelpie_exec_signal(run->sessions[i].exec, number, &err) == KELPIE_OK;
    }
    return passed;
}

static void interrupt_locked(struct run *run, int number) {
    run_check_parts(run);
    ASSERT(number > 0);
    run->signal_count++;
    bool to_command = run->session_count > 0 && run->signal_count <= SIGNALS_TO_COMMAND_MAX &&
                      number != SIGHUP && !run->giving_up;
    if (to_command && pass_on_locked(run, run->signal_count == 1 ? number : SIGKILL)) {
        return;
    }
    if (run->report.signal == 0) {
        run->report.signal = number;
    }
    give_up_locked(run, NULL);
}

void run_on_signal(void *context, int number) {
    struct run *run = context;
    run_check_parts(run);
    ASSERT(number > 0);
    run_lock(run);
    if (number == SIGWINCH) {
        resize_locked(run);
    } else {
        interrupt_locked(run, number);
    }
    run_unlock(run);
}

/* ---- Output ----------------------------------------------------------------------------------- */

static enum kelpie_status pass_chunk(struct run *run, const struct kelpie_chunk *chunk,
                                     struct kelpie_error *err) {
    run_check_parts(run);
    ASSERT(chunk->size > 0);
    ASSERT(chunk->stream != KELPIE_STREAM_NONE);
    bool is_stdout = chunk->stream == KELPIE_STREAM_STDOUT;
    if (run->options->json) {
        return run_collect(is_stdout ? &run->report.stdout_bytes : &run->report.stderr_bytes,
                           chunk->buffer, chunk->size, err);
    }
    return output_write(is_stdout ? STDOUT_FILENO : STDERR_FILENO, chunk->buffer, chunk->size,
                        run->stop_event, err);
}

/* How long a wait may take: 0 is for ever, which is how the library reads it. */
static bool time_left(const struct run *run, uint32_t *ret_ms) {
    ASSERT(run);
    *ret_ms = 0;
    if (run->deadline_ns == 0) {
        return true;
    }
    uint64_t now_ns = run_clock_ns();
    if (now_ns >= run->deadline_ns) {
        return false;
    }
    *ret_ms = (uint32_t)((run->deadline_ns - now_ns + NS_PER_MS - 1) / NS_PER_MS);
    ASSERT(*ret_ms > 0);
    return true;
}

/* Until the session has ended (then session->ended), or the time is up. */
static enum kelpie_status pump(struct run_session *session, struct kelpie_error *err) {
    struct run *run = session->run;
    session_check(session);
    AUTO_MEM char *buffer = malloc(CLI_CHUNK_SIZE);
    if (!buffer) {
        return error_set(err, KELPIE_NO_MEMORY, "no memory for the command's output");
    }
    uint32_t left_ms = 0;
    enum kelpie_stream stream = KELPIE_STREAM_STDOUT;
    while (stream != KELPIE_STREAM_NONE) {
        if (!time_left(run, &left_ms)) {
            return KELPIE_OK;
        }
        struct kelpie_chunk chunk = {.buffer = buffer, .size = CLI_CHUNK_SIZE};
        enum kelpie_status status = kelpie_exec_read(session->exec, &chunk, left_ms, err);
        if (status == KELPIE_TIMED_OUT && run->deadline_ns != 0) {
            continue; /* time_left() says that it is over */
        }
        TRY(status);
        stream = chunk.stream;
        if (stream != KELPIE_STREAM_NONE) {
            int result = pthread_mutex_lock(&run->output_lock);
            ASSERT(result == 0);
            status = pass_chunk(run, &chunk, err);
            result = pthread_mutex_unlock(&run->output_lock);
            ASSERT(result == 0);
            TRY(status);
        }
    }
    enum kelpie_status status = kelpie_exec_wait(session->exec, left_ms, &session->exit, err);
    session->ended = status == KELPIE_OK;
    return status == KELPIE_TIMED_OUT && run->deadline_ns != 0 ? KELPIE_OK : status;
}

static void *pump_main(void *argument) {
    struct run_session *session = argument;
    struct run *run = session->run;
    session_check(session);
    run_check_parts(run);
    struct kelpie_error err;
    if (pump(session, &err) == KELPIE_OK) {
        return NULL;
    }
    if (err.status == KELPIE_IO_FAILED && err.os_error == EPIPE) {
        run_lock(run);
        run->report.reader_gone = true;
        run_unlock(run);
    }
    run_give_up(run, &err);
    return NULL;
}

/* ---- Input ------------------------------------------------------------------------------------ */

/* False: there is no use in going on. */
static bool feed(struct run_session *session, const char *data, size_t size) {
    session_check(session);
    ASSERT(data);
    for (size_t done = 0; done < size;) {
        struct kelpie_error err;
        size_t count = 0;
        enum kelpie_status status =
            kelpie_exec_write(session->exec, data + done, size - done, &count, &err);
        done += count;
        /* A command that does not read now may do so later. */
        if (status == KELPIE_TIMED_OUT && run_check(session->run, &err) == KELPIE_OK) {
            continue;
        }
        if (status != KELPIE_OK) {
            return false;
        }
    }
    return true;
}

static void *feed_main(void *argument) {
    struct run_session *session = argument;
    session_check(session);
    AUTO_MEM char *buffer = malloc(CLI_CHUNK_SIZE);
    struct kelpie_error err;
    while (buffer) {
        struct pollfd items[] = {{.fd = STDIN_FILENO, .events = POLLIN},
                                 {.fd = session->run->stop_event, .events = POLLIN}};
        if (poll(items, ARRAY_SIZE(items), -1) < 0) {
            continue;
        }
        if (items[1].revents != 0) {
            return NULL;
        }
        ssize_t count = read(STDIN_FILENO, buffer, CLI_CHUNK_SIZE);
        if (count < 0 && (errno == EINTR || errno == EAGAIN)) {
            continue;
        }
        if (count <= 0) {
            break;
        }
        if (!feed(session, buffer, (size_t)count)) {
            return NULL;
        }
    }
    /* A command that has ended already does not mind. */
    (void)!kelpie_exec_close_stdin(session->exec, &err);
    return NULL;
}

static enum kelpie_status start_feeding(struct run *run, struct kelpie_error *err) {
    run_check_parts(run);
    ASSERT(!run->feeding);
    if (!run->options->interactive) {
        return KELPIE_OK;
    }
    int result = pthread_create(&run->feeder, NULL, feed_main, &run->sessions[0]);
    if (result != 0) {
        return error_set_os(err, result, "cannot start a thread for standard input");
    }
    run->feeding = true;
    return KELPIE_OK;
}

/* The pumps are over. The feeder may wait for a terminal, or for a command that does not read and goes on
 * into a bundle: that is ended by giving up for a moment. */
static void stop_feeding(struct run *run) {
    run_check_parts(run);
    if (!run->feeding) {
        return;
    }
    run_lock(run);
    bool given_up_before = run->giving_up;
    give_up_locked(run, NULL);
    run_unlock(run);
    int result = pthread_join(run->feeder, NULL);
    ASSERT(result == 0);
    run->feeding = false;
    run_lock(run);
    run->giving_up = given_up_before || run->report.signal != 0;
    run_unlock(run);
}

/* ---- Opening and letting go ------------------------------------------------------------------- */

static void add_session(struct run *run, struct kelpie_exec *exec, size_t index) {
    run_check_parts(run);
    ASSERT(exec);
    ASSERT(index < KELPIE_EXEC_COUNT_MAX);
    run->sessions[index] = (struct run_session){.run = run, .exec = exec};
}

static enum kelpie_status start_command(struct run *run, struct kelpie_error *err) {
    const struct run_options *options = run->options;
    run_check_parts(run);
    ASSERT(run->options->command);
    struct kelpie_command command = {
        .argv = options->command,
        .env = options->env.values,
        .working_dir = options->working_dir,
        .uid = options->user.uid,
        .gid = options->user.gid,
        .tty = options->tty,
        .stdin_open = options->interactive,
        .timeout_ms = options->timeout_ms,
    };
    if (options->tty) {
        (void)terminal_size(&run->terminal, &command.rows, &command.columns);
    }
    struct kelpie_exec *exec = NULL;
    TRY(kelpie_exec_start(run->vm, &command, &exec, err));
    add_session(run, exec, 0);
    run_lock(run);
    run->session_count = 1;
    run_unlock(run);
    return KELPIE_OK;
}

/* What -i and -t talk to must be one command. */
static enum kelpie_status check_attach(const struct run *run, size_t count,
                                       struct kelpie_error *err) {
    const struct run_options *options = run->options;
    run_check_parts(run);
    ASSERT(run->options->from);
    if (count == 0 && !options->snapshot) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "command",
                               "there is no command, and the bundle %s holds no session to go on "
                               "with",
                               options->from);
    }
    if (count != 1 && (options->interactive || options->tty)) {
        return error_set_field(
            err, KELPIE_BAD_CONFIG, options->tty ? "--tty" : "--interactive",
            "%s: the bundle %s holds %zu sessions, and only one can be talked to",
            options->tty ? "--tty" : "--interactive", options->from, count);
    }
    if (count > KELPIE_EXEC_COUNT_MAX) {
        return error_set(err, KELPIE_INTERNAL, "the guest claims to hold %zu sessions", count);
    }
    return KELPIE_OK;
}

static enum kelpie_status attach_sessions(struct run *run, struct kelpie_error *err) {
    run_check_parts(run);
    ASSERT(run->vm);
    uint32_t ids[KELPIE_EXEC_COUNT_MAX];
    size_t count = 0;
    TRY(kelpie_exec_list(run->vm, ids, ARRAY_SIZE(ids), &count, err));
    TRY(check_attach(run, count, err));
    for (size_t i = 0; i < count; i++) {
        struct kelpie_exec *exec = NULL;
        TRY(kelpie_exec_attach(run->vm, ids[i], &exec, err));
        add_session(run, exec, i);
        run_lock(run);
        run->session_count = i + 1;
        resize_locked(run);
        run_unlock(run);
    }
    return KELPIE_OK;
}

enum kelpie_status run_open_sessions(struct run *run, struct kelpie_error *err) {
    run_check_parts(run);
    ASSERT(run->vm);
    ASSERT(run->session_count == 0);
    TRY(run_check(run, err));
    if (run->options->command) {
        return start_command(run, err);
    }
    return run->options->from ? attach_sessions(run, err) : KELPIE_OK;
}

/* With a bundle to write, what the commands left running stays; else it goes with the VM. */
static void close_sessions(struct run *run) {
    run_check_parts(run);
    run_lock(run);
    size_t count = run->session_count;
    run->session_count = 0;
    run_unlock(run);
    for (size_t i = 0; i < count; i++) {
        if (run->options->snapshot) {
            kelpie_exec_detach(run->sessions[i].exec);
        } else {
            kelpie_exec_close(run->sessions[i].exec);
        }
        run->sessions[i].exec = NULL;
    }
}

/* Of several sessions, the first that failed speaks for all. */
static void note_exits(struct run *run, size_t count) {
    run_check_parts(run);
    ASSERT(count <= KELPIE_EXEC_COUNT_MAX);
    for (size_t i = 0; i < count; i++) {
        const struct run_session *session = &run->sessions[i];
        if (session->ended && (!run->report.ended || run->report.exit.code == 0)) {
            run->report.ended = true;
            run->report.exit = session->exit;
        }
    }
}

static enum kelpie_status start_pumps(struct run *run, struct kelpie_error *err) {
    run_check_parts(run);
    ASSERT(run->session_count > 0);
    if (run->options->snapshot_after_ms != 0) {
        run->deadline_ns = run_clock_ns() + run->options->snapshot_after_ms * NS_PER_MS;
    }
    if (run->options->tty && run->options->interactive) {
        TRY(terminal_make_raw(&run->terminal, err));
    }
    TRY(start_feeding(run, err));
    for (size_t i = 0; i < run->session_count; i++) {
        struct run_session *session = &run->sessions[i];
        int result = pthread_create(&session->thread, NULL, pump_main, session);
        if (result != 0) {
            return error_set_os(err, result, "cannot start a thread for the command's output");
        }
        session->pumping = true;
    }
    return KELPIE_OK;
}

enum kelpie_status run_pump_sessions(struct run *run, struct kelpie_error *err) {
    run_check_parts(run);
    ASSERT(run->vm);
    ASSERT(run->session_count <= KELPIE_EXEC_COUNT_MAX);
    uint64_t start_ns = run_clock_ns();
    size_t count = run->session_count;
    enum kelpie_status status = start_pumps(run, err);
    if (status != KELPIE_OK) {
        run_give_up(run, err);
    }
    for (size_t i = 0; i < count; i++) {
        if (run->sessions[i].pumping) {
            int result = pthread_join(run->sessions[i].thread, NULL);
            ASSERT(result == 0);
        }
    }
    stop_feeding(run);
    terminal_restore(&run->terminal);
    close_sessions(run);
    note_exits(run, count);
    run->report.exec_ns = run_clock_ns() - start_ns;
    return status == KELPIE_OK ? run_check(run, err) : status;
}
