/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "cli/signals.h"

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/assert.h"
#include "cli/cli_limits.h"

static void signals_check(const struct signals *signals) {
    ASSERT(signals);
    ASSERT(signals->signal_fd >= 0);
    ASSERT(signals->wake_event >= 0);
}

static void signals_read(struct signals *signals) {
    signals_check(signals);
    struct signalfd_siginfo info;
    ssize_t size = read(signals->signal_fd, &info, sizeof(info));
    if (size == (ssize_t)sizeof(info) && (int)info.ssi_signo != SIGPIPE) {
        signals->on_signal(signals->context, (int)info.ssi_signo);
    }
}

static void *signals_main(void *argument) {
    struct signals *signals = argument;
    signals_check(signals);
    ASSERT(signals->on_signal);
    ASSERT(signals->on_tick);
    bool ticking = false;
    while (!__atomic_load_n(&signals->quit, __ATOMIC_ACQUIRE)) {
        struct pollfd items[] = {{.fd = signals->signal_fd, .events = POLLIN},
                                 {.fd = signals->wake_event, .events = POLLIN}};
        (void)poll(items, ARRAY_SIZE(items), ticking ? CLI_CANCEL_INTERVAL_MS : -1);
        if (items[0].revents & POLLIN) {
            signals_read(signals);
        }
        uint64_t count = 0;
        (void)eventfd_read(signals->wake_event, &count);
        ticking = signals->on_tick(signals->context);
    }
    return NULL;
}

/* Whoever started us may have said that we ignore a signal, as nohup does: then we do. */
static void choose_signals(sigset_t *ret_set) {
    ASSERT(ret_set);
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH, SIGCONT, SIGPIPE};
    sigemptyset(ret_set);
    for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
        struct sigaction action = {0};
        int result = sigaction(numbers[i], NULL, &action);
        ASSERT(result == 0);
        if (action.sa_handler != SIG_IGN) {
            sigaddset(ret_set, numbers[i]);
        }
    }
}

enum kelpie_status signals_start(struct signals *signals, struct kelpie_error *err) {
    ASSERT(signals->on_signal);
    ASSERT(signals->on_tick);
    sigset_t set;
    choose_signals(&set);
    int result = pthread_sigmask(SIG_BLOCK, &set, NULL);
    ASSERT(result == 0);
    signals->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (signals->signal_fd < 0) {
        return error_set_os(err, errno, "cannot listen to signals");
    }
    signals->wake_event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (signals->wake_event < 0) {
        int os_error = errno;
        close(signals->signal_fd);
        return error_set_os(err, os_error, "cannot listen to signals");
    }
    result = pthread_create(&signals->thread, NULL, signals_main, signals);
    if (result != 0) {
        close(signals->signal_fd);
        close(signals->wake_event);
        return error_set_os(err, result, "cannot start a thread for signals");
    }
    return KELPIE_OK;
}

void signals_tick(struct signals *signals) {
    signals_check(signals);
    ASSERT(signals->wake_event >= 0);
    int result = eventfd_write(signals->wake_event, 1);
    ASSERT(result == 0);
}

void signals_stop(struct signals *signals) {
    signals_check(signals);
    __atomic_store_n(&signals->quit, true, __ATOMIC_RELEASE);
    signals_tick(signals);
    int result = pthread_join(signals->thread, NULL);
    ASSERT(result == 0);
    close(signals->signal_fd);
    close(signals->wake_event);
}
