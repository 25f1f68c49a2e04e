/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "backend/libkrun/libkrun_probe.h"

#include <stdio.h>
#include <string.h>

#include "backend/libkrun/libkrun_talk.h"
#include "backend/monitor/monitor_console.h"
#include "backend/monitor/monitor_words.h"
#include "base/assert.h"
#include "base/cleanup.h"

#define STDERR 2

/* One look. */
struct look {
    struct host *host;
    struct host_process *process;
    struct libkrun_talk talk;
    struct monitor_words words;
};

static void look_end(struct look *look) {
    ASSERT(look->host);
    ASSERT(look->words.fd != HOST_FD_NONE || !look->process);
    host_process_destroy(look->process);
    libkrun_talk_close(&look->talk);
    monitor_words_close(&look->words, look->host);
}

static enum kelpie_status spawn(struct look *look, const struct krun_order *order,
                                const struct host_process_fd *fds, size_t fd_count,
                                struct kelpie_error *err) {
    struct krun_argv argv;
    ASSERT(!look->process);
    ASSERT(fds);
    krun_argv_build(&argv, libkrun_program_path, order);
    const struct host_process_spec spec = {
        .argv = argv.argv,
        .fds = fds,
        .fd_count = fd_count,
        .dies_with_owner = true,
        .new_session = true,
    };
    return host_process_spawn(look->host, &spec, &look->process, err);
}

static enum kelpie_status look_begin(struct look *look, const struct krun_order *order,
                                     struct kelpie_error *err) {
    struct host *host = look->host;
    int talk[2] = {HOST_FD_NONE, HOST_FD_NONE};
    int words[2] = {HOST_FD_NONE, HOST_FD_NONE};
    ASSERT(order->verb == KRUN_VERB_PROBE);
    ASSERT(!look->process);
    AUTO_FD struct host_fd program = {host, HOST_FD_NONE};
    TRY(libkrun_program_open(host, &program.fd, err));
    TRY(host_socket_pair(host, talk, err));
    libkrun_talk_init(&look->talk, host, talk[0]);
    AUTO_FD struct host_fd their_talk = {host, talk[1]};
    TRY(host_socket_pair(host, words, err));
    monitor_words_open(&look->words, words[0]);
    AUTO_FD struct host_fd their_words = {host, words[1]};
    const struct host_process_fd fds[] = {
        {.child_fd = STDERR, .fd = their_words.fd},
        {.child_fd = KRUN_CHILD_CONTROL, .fd = their_talk.fd},
        {.child_fd = KRUN_CHILD_PROGRAM, .fd = program.fd},
    };
    return spawn(look, order, fds, ARRAY_SIZE(fds), err);
}

/* It did not say what it found: how it ended, or that it did not. */
static enum kelpie_status explain(struct look *look, enum kelpie_status status,
                                  struct kelpie_error *err) {
    struct host_process_exit end = {0};
    char line[MONITOR_LAST_WORDS_SIZE_MAX + 1];
    ASSERT(look->process);
    ASSERT(status != KELPIE_OK);
    if (status == KELPIE_TIMED_OUT) {
        return error_set(err, KELPIE_BACKEND_MISSING,
                         "libkrun did not come up within %d ms of being loaded",
                         LIBKRUN_PROBE_TIMEOUT_MS);
    }
    const struct host_wait wait = host_wait_ms(look->host, MONITOR_CRASH_TIMEOUT_MS, HOST_FD_NONE);
    if (status == KELPIE_CRASHED &&
        host_process_wait(look->process, &wait, &end, NULL) == KELPIE_OK) {
        monitor_words_drain(&look->words, look->host);
        monitor_last_line(look->words.text, look->words.size, line, sizeof(line));
        return error_set(err, KELPIE_BACKEND_MISSING, "loading libkrun %s %d%s%s",
                         end.signal != 0 ? "was ended by signal" : "ended with exit code",
                         end.signal != 0 ? end.signal : end.code, line[0] ? ": " : "", line);
    }
    return status;
}

static enum kelpie_status keep(const struct krun_message *message, struct libkrun_probe *ret_probe,
                               struct kelpie_error *err) {
    ASSERT(message->word == KRUN_WORD_FOUND);
    ASSERT(ret_probe);
    if (strlen(message->library) > HOST_PATH_SIZE_MAX ||
        strlen(message->kernel) > HOST_PATH_SIZE_MAX) {
        return error_set(err, KELPIE_INTERNAL, "libkrun's path is too long");
    }
    ret_probe->abi = message->abi;
    ret_probe->can = message->can;
    snprintf(ret_probe->version, sizeof(ret_probe->version), "%s", message->version);
    snprintf(ret_probe->library, sizeof(ret_probe->library), "%s", message->library);
    snprintf(ret_probe->kernel, sizeof(ret_probe->kernel), "%s", message->kernel);
    return KELPIE_OK;
}

static enum kelpie_status look_through(struct look *look, const struct krun_order *order,
                                       const struct host_wait *wait,
                                       struct libkrun_probe *ret_probe, struct kelpie_error *err) {
    struct krun_message message = {0};
    ASSERT(look->host);
    ASSERT(wait);
    TRY(look_begin(look, order, err));
    enum kelpie_status status = libkrun_talk_read(&look->talk, wait, &message, err);
    if (status != KELPIE_OK) {
        return explain(look, status, err);
    }
    if (message.word == KRUN_WORD_FAILED) {
        return libkrun_talk_failed(&message, err);
    }
    if (message.word != KRUN_WORD_FOUND) {
        return error_set(err, KELPIE_INTERNAL, "kelpie-krun does not say what it found");
    }
    return keep(&message, ret_probe, err);
}

static const char *asked_for(struct host *host, const char *named, const char *name) {
    ASSERT(host);
    ASSERT(name);
    const char *value = named ? named : host_environment(host, name);
    return value ? value : "";
}

enum kelpie_status libkrun_probe_run(struct host *host, const struct kelpie_config *config,
                                     int cancel_fd, struct libkrun_probe *ret_probe,
                                     struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(ret_probe);
    const struct krun_order order = {
        .verb = KRUN_VERB_PROBE,
        .library = asked_for(host, config ? config->hypervisor : NULL, "KELPIE_LIBKRUN"),
        .kernel = asked_for(host, config ? config->kernel : NULL, "KELPIE_KRUNFW"),
    };
    const struct host_wait wait = host_wait_ms(host, LIBKRUN_PROBE_TIMEOUT_MS, cancel_fd);
    AUTO_MEM struct look *look = host_allocate(host, sizeof(*look), err);
    if (!look) {
        return KELPIE_NO_MEMORY;
    }
    look->host = host;
    monitor_words_init(&look->words);
    enum kelpie_status status = look_through(look, &order, &wait, ret_probe, err);
    look_end(look);
    return status;
}
