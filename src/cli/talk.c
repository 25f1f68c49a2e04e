/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Beginning, giving up, signals. Theory: talk.h. */
#include "cli/talk.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "cli/cli.h"

#define SIGNALS_TO_COMMAND_MAX 2 /* the next one gives up */

void talk_check_parts(const struct talk *talk) {
    ASSERT(talk);
    ASSERT((unsigned)talk->options.kind < TALK_KIND_COUNT);
    ASSERT(talk->stop_event >= 0);
    ASSERT(talk->give_up_event >= 0);
}

void talk_lock(struct talk *talk) {
    ASSERT(talk);
    int result = pthread_mutex_lock(&talk->lock);
    ASSERT(result == 0);
}

void talk_unlock(struct talk *talk) {
    ASSERT(talk);
    int result = pthread_mutex_unlock(&talk->lock);
    ASSERT(result == 0);
}

/* ---- Ending early ------------------------------------------------------------------------------- */

static void set_event(int fd) {
    ASSERT(fd >= 0);
    int result = eventfd_write(fd, 1);
    ASSERT(result == 0);
}

void talk_stop_locked(struct talk *talk) {
    talk_check_parts(talk);
    ASSERT(!talk->outcome.let_go || !talk->giving_up || talk->stopping);
    talk->stopping = true;
    set_event(talk->stop_event);
    signals_tick(&talk->signals);
}

void talk_give_up_locked(struct talk *talk, const struct kelpie_error *err) {
    talk_check_parts(talk);
    ASSERT(!err || err->status != KELPIE_OK);
    if (err && !talk->stopping && talk->outcome.err.status == KELPIE_OK) {
        talk->outcome.err = *err;
    }
    talk->giving_up = true;
    set_event(talk->give_up_event);
    talk_stop_locked(talk);
}

void talk_give_up(struct talk *talk, const struct kelpie_error *err) {
    talk_check_parts(talk);
    talk_lock(talk);
    talk_give_up_locked(talk, err);
    talk_unlock(talk);
}

static void let_go_locked(struct talk *talk) {
    talk_check_parts(talk);
    ASSERT(!talk->giving_up || talk->stopping);
    if (!talk->giving_up) {
        talk->outcome.let_go = true;
        talk_stop_locked(talk);
    }
}

void talk_let_go(struct talk *talk) {
    talk_check_parts(talk);
    ASSERT(talk->options.kind != TALK_RUN);
    talk_lock(talk);
    let_go_locked(talk);
    talk_unlock(talk);
}

bool talk_stopping(struct talk *talk) {
    talk_check_parts(talk);
    talk_lock(talk);
    bool stopping = talk->stopping;
    ASSERT(stopping || !talk->giving_up);
    talk_unlock(talk);
    return stopping;
}

enum kelpie_status talk_check(struct talk *talk, struct kelpie_error *err) {
    talk_check_parts(talk);
    return talk_stopping(talk) ? error_set(err, KELPIE_CANCELLED, "it was given up") : KELPIE_OK;
}

void talk_note(struct talk *talk, enum kelpie_status status, const struct kelpie_error *err) {
    talk_check_parts(talk);
    ASSERT(status == KELPIE_OK || err->status == status);
    talk_lock(talk);
    bool told = talk->outcome.let_go || talk->outcome.signal != 0;
    if (status != KELPIE_OK && !told && talk->outcome.err.status == KELPIE_OK) {
        talk->outcome.err = *err;
    }
    talk_unlock(talk);
}

/* The signal thread's. A cancel ends only what waits now. */
static bool on_tick(void *context) {
    struct talk *talk = context;
    talk_check_parts(talk);
    ASSERT(talk->signals.context == talk);
    talk_lock(talk);
    bool again = talk->stopping && talk->vm;
    if (again) {
        kelpie_vm_cancel(talk->vm);
    }
    talk_unlock(talk);
    return again;
}

/* ---- Signals ------------------------------------------------------------------------------------ */

static bool vm_is_ours(const struct talk *talk) {
    talk_check_parts(talk);
    ASSERT(talk->options.kind != TALK_KIND_COUNT);
    return talk->options.kind == TALK_RUN || talk->options.kind == TALK_BUNDLE;
}

static void resize_locked(struct talk *talk) {
    talk_check_parts(talk);
    ASSERT(talk->session_count <= KELPIE_EXEC_COUNT_MAX);
    uint16_t rows = 0;
    uint16_t columns = 0;
    struct kelpie_error err;
    if (talk->options.tty && talk->session_count == 1 &&
        terminal_size(&talk->terminal, &rows, &columns)) {
        /* A session that is over needs no size. */
        (void)!kelpie_exec_resize(talk->sessions[0].exec, rows, columns, &err);
    }
}

static void hang_up_locked(struct talk *talk) {
    talk_check_parts(talk);
    ASSERT(talk->session_count <= KELPIE_EXEC_COUNT_MAX);
    if (talk->outcome.signal == 0) {
        talk->outcome.signal = SIGHUP;
    }
    if (vm_is_ours(talk) || talk->session_count == 0) {
        talk_give_up_locked(talk, NULL);
    } else {
        let_go_locked(talk);
    }
}

void talk_hang_up(struct talk *talk) {
    talk_check_parts(talk);
    ASSERT(talk->session_count <= KELPIE_EXEC_COUNT_MAX);
    talk_lock(talk);
    hang_up_locked(talk);
    talk_unlock(talk);
}

static bool pass_on_locked(struct talk *talk, int number) {
    talk_check_parts(talk);
    ASSERT(talk->session_count > 0);
    bool passed = true;
    for (size_t i = 0; i < talk->session_count; i++) {
        struct kelpie_error err;
        passed &= kelpie_exec_signal(talk->sessions[i].exec, number, &err) == KELPIE_OK;
    }
    return passed;
}

/* We were told to end and asked for it again: whatever takes so long. */
static _Noreturn void end_at_once(struct talk *talk, int number) {
    talk_check_parts(talk);
    ASSERT(number > 0);
    terminal_restore(&talk->terminal);
    progress_clear(&talk->progress);
    _exit(CLI_EXIT_SIGNAL + number);
}

static void interrupt_locked(struct talk *talk, int number) {
    talk_check_parts(talk);
    ASSERT(number > 0);
    if ((talk->giving_up || talk->outcome.let_go) && talk->outcome.signal != 0) {
        end_at_once(talk, number);
    }
    talk->signal_count++;
    bool to_command = talk->session_count > 0 && !talk->options.keep_signals &&
                      talk->signal_count <= SIGNALS_TO_COMMAND_MAX && !talk->stopping;
    if (to_command && pass_on_locked(talk, talk->signal_count == 1 ? number : SIGKILL)) {
        return;
    }
    if (talk->outcome.signal == 0) {
        talk->outcome.signal = number;
    }
    if (talk->options.kind == TALK_ATTACH && talk->session_count > 0) {
        let_go_locked(talk);
    } else {
        talk_give_up_locked(talk, NULL);
    }
}

static void on_signal(void *context, int number) {
    struct talk *talk = context;
    talk_check_parts(talk);
    ASSERT(number > 0);
    talk_lock(talk);
    if (number == SIGWINCH || number == SIGCONT) {
        terminal_renew(&talk->terminal);
        resize_locked(talk);
        progress_resize(&talk->progress);
    } else if (number == SIGHUP && !talk->giving_up) {
        hang_up_locked(talk);
    } else {
        interrupt_locked(talk, number);
    }
    talk_unlock(talk);
}

void talk_size(struct talk *talk, struct kelpie_command *command) {
    talk_check_parts(talk);
    ASSERT(command);
    (void)terminal_size(&talk->terminal, &command->rows, &command->columns);
}

enum kelpie_status talk_check_terminal(bool tty, struct kelpie_error *err) {
    struct terminal terminal = terminal_init(STDIN_FILENO);
    ASSERT(err);
    if (tty && !terminal_present(&terminal)) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "--tty",
                               "--tty: standard input is not a terminal");
    }
    return KELPIE_OK;
}

/* ---- Beginning and end -------------------------------------------------------------------------- */

enum kelpie_status talk_init(struct talk *talk, const struct talk_options *options,
                             struct kelpie_error *err) {
    ASSERT(options);
    ASSERT(!talk->vm && talk->session_count == 0);
    talk->options = *options;
    talk->terminal = terminal_init(STDIN_FILENO);
    talk->stop_event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    talk->give_up_event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (talk->stop_event < 0 || talk->give_up_event < 0) {
        return error_set_os(err, errno, "cannot make an event");
    }
    pthread_mutex_init(&talk->lock, NULL);
    pthread_mutex_init(&talk->output_lock, NULL);
    progress_init(&talk->progress, !options->quiet);
    talk->signals = (struct signals){.on_signal = on_signal, .on_tick = on_tick, .context = talk};
    return signals_start(&talk->signals, err);
}

void talk_deinit(struct talk *talk) {
    talk_check_parts(talk);
    ASSERT(!talk->vm);
    ASSERT(talk->session_count == 0);
    progress_clear(&talk->progress);
    signals_stop(&talk->signals);
    progress_deinit(&talk->progress);
    (void)pthread_mutex_destroy(&talk->lock);
    (void)pthread_mutex_destroy(&talk->output_lock);
    close(talk->stop_event);
    close(talk->give_up_event);
}

void talk_set_vm(struct talk *talk, struct kelpie_vm *vm) {
    talk_check_parts(talk);
    ASSERT(vm);
    ASSERT(!talk->vm);
    talk_lock(talk);
    talk->vm = vm;
    talk_unlock(talk);
}

struct kelpie_vm *talk_take_vm(struct talk *talk) {
    talk_check_parts(talk);
    ASSERT(talk->session_count == 0);
    talk_lock(talk);
    struct kelpie_vm *vm = TAKE(talk->vm);
    talk_unlock(talk);
    return vm;
}

void talk_add(struct talk *talk, struct kelpie_exec *exec) {
    talk_check_parts(talk);
    ASSERT(exec);
    ASSERT(talk->session_count < KELPIE_EXEC_COUNT_MAX);
    talk_lock(talk);
    talk->sessions[talk->session_count] = (struct talk_session){.talk = talk, .exec = exec};
    talk->session_count++;
    resize_locked(talk);
    talk_unlock(talk);
}
