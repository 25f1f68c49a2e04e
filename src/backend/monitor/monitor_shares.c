/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "backend/monitor/monitor_shares.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/cursor.h"

#define PROGRAM_ENVIRONMENT "KELPIE_VIRTIOFSD"

/* The numbers of the descriptors in virtiofsd. */
enum child_fd { CHILD_STDOUT = 1, CHILD_LISTENER = 3 };

/* Where it lies: systems that have both have the older one in QEMU's folder. */
static const char *const places[] = {"virtiofsd", "/usr/libexec/virtiofsd", "/usr/lib/virtiofsd",
                                     "/usr/lib/qemu/virtiofsd"};

static void shares_check(const struct monitor_shares *shares) {
    ASSERT(shares->host);
    ASSERT(shares->config->share_count <= KELPIE_SHARE_COUNT_MAX);
}

void monitor_shares_init(struct monitor_shares *shares, struct host *host,
                         const struct kelpie_config *config) {
    ASSERT(host && config);
    *shares = (struct monitor_shares){.host = host, .config = config};
    for (size_t i = 0; i < KELPIE_SHARE_COUNT_MAX; i++) {
        shares->shares[i].fd = HOST_FD_NONE;
    }
    shares_check(shares);
}

/* ---- Which one there is ----------------------------------------------------------------------- */

bool monitor_virtiofsd_parse(const char *help, struct monitor_virtiofsd *virtiofsd) {
    ASSERT(help);
    ASSERT(virtiofsd);
    virtiofsd->is_rust = strstr(help, "--shared-dir") != NULL;
    virtiofsd->can_refuse_writes = virtiofsd->is_rust && strstr(help, "--readonly") != NULL;
    return virtiofsd->is_rust || strstr(help, "source=PATH") != NULL;
}

const char *monitor_virtiofsd_why_not(const struct monitor_virtiofsd *virtiofsd,
                                      const struct kelpie_share *share, uint32_t user_id) {
    ASSERT(share->path);
    ASSERT(virtiofsd);
    if (!virtiofsd->program[0]) {
        return "there is no program virtiofsd: install virtiofsd";
    }
    if (share->read_only && !virtiofsd->can_refuse_writes) {
        return "this virtiofsd cannot refuse writes: it takes one in Rust, 1.11 or later";
    }
    if (!virtiofsd->is_rust && user_id != 0) {
        return "this virtiofsd, QEMU's own, takes root: one in Rust does not";
    }
    if (!virtiofsd->is_rust && strpbrk(share->path, ",\\")) {
        return "this virtiofsd takes no path with a comma or a backslash";
    }
    return NULL;
}

void monitor_virtiofsd_describe(const struct monitor_virtiofsd *virtiofsd, uint32_t user_id,
                                char *text, size_t size) {
    const struct kelpie_share writable = {.path = "x"};
    const struct kelpie_share read_only = {.path = "x", .read_only = true};
    ASSERT(virtiofsd && text);
    ASSERT(size > 0);
    const char *why_not = monitor_virtiofsd_why_not(virtiofsd, &writable, user_id);
    const char *why_not_read_only = monitor_virtiofsd_why_not(virtiofsd, &read_only, user_id);
    if (why_not) {
        snprintf(text, size, "copied: %s", why_not);
    } else {
        snprintf(text, size, "live, through %.200s%s%s", virtiofsd->program,
                 why_not_read_only ? "; read-only ones copied: " : ", read-only ones too",
                 why_not_read_only ? why_not_read_only : "");
    }
}

/* What `program --help` prints. A failure is as good as none. */
static bool examine(struct host *host, const char *program, const struct host_wait *wait,
                    struct monitor_virtiofsd *virtiofsd) {
    int fds[2] = {HOST_FD_NONE, HOST_FD_NONE};
    char help[MONITOR_SHARES_HELP_SIZE_MAX + 1];
    struct host_process *process = NULL;
    struct kelpie_error ignored;
    ASSERT(program);
    ASSERT(wait);
    if (host_socket_pair(host, fds, &ignored) != KELPIE_OK) {
        return false;
    }
    AUTO_FD struct host_fd ours = {host, fds[0]};
    AUTO_FD struct host_fd theirs = {host, fds[1]};
    const char *const argv[] = {program, "--help", NULL};
    const struct host_process_fd child_fds[] = {{.child_fd = CHILD_STDOUT, .fd = theirs.fd}};
    const struct host_process_spec spec = {
        .argv = argv, .fds = child_fds, .fd_count = ARRAY_SIZE(child_fds), .dies_with_owner = true};
    if (host_process_spawn(host, &spec, &process, &ignored) != KELPIE_OK) {
        return false;
    }
    host_close(host, host_fd_take(&theirs));
    size_t size = 0;
    size_t count = 1;
    while (count > 0 && size < sizeof(help) - 1) {
        if (host_read(host, ours.fd, help + size, sizeof(help) - 1 - size, wait, &count,
                      &ignored) != KELPIE_OK) {
            count = 0;
        }
        size += count;
    }
    help[size] = 0;
    host_process_destroy(process);
    return monitor_virtiofsd_parse(help, virtiofsd);
}

void monitor_virtiofsd_find(struct host *host, const struct host_wait *wait,
                            struct monitor_virtiofsd *ret_virtiofsd) {
    const char *named = host_environment(host, PROGRAM_ENVIRONMENT);
    size_t place_count = named ? 1 : ARRAY_SIZE(places);
    ASSERT(host);
    ASSERT(wait);
    *ret_virtiofsd = (struct monitor_virtiofsd){0};
    for (size_t i = 0; i < place_count; i++) {
        const char *program = named ? named : places[i];
        struct host_file_info info;
        bool there = program[0] != '/' || host_path_stat(host, program, &info, NULL) == KELPIE_OK;
        if (strlen(program) <= KELPIE_PATH_SIZE_MAX && there &&
            examine(host, program, wait, ret_virtiofsd)) {
            snprintf(ret_virtiofsd->program, sizeof(ret_virtiofsd->program), "%s", program);
            return;
        }
    }
}

/* ---- Starting one ----------------------------------------------------------------------------- */

/* A listener that nobody finds, and the one connection to it. */
static enum kelpie_status make_sockets(struct host *host, const struct host_wait *wait,
                                       int *ret_listener, int *ret_connected,
                                       struct kelpie_error *err) {
    char path[64];
    uint64_t number[2] = {0};
    AUTO_FD struct host_fd listener = {host, HOST_FD_NONE};
    ASSERT(ret_listener);
    ASSERT(ret_connected);
    TRY(host_random(host, number, sizeof(number), err));
    snprintf(path, sizeof(path), "/tmp/kelpie-%016" PRIx64 "%016" PRIx64, number[0], number[1]);
    TRY(host_socket_listen(host, path, &listener.fd, err));
    enum kelpie_status status = host_socket_connect(host, path, wait, ret_connected, err);
    struct kelpie_error ignored;
    (void)!host_path_unlink(host, path, &ignored);
    TRY(status);
    *ret_listener = host_fd_take(&listener);
    return KELPIE_OK;
}

static enum kelpie_status spawn(struct monitor_shares *shares, size_t index, int listener_fd,
                                struct kelpie_error *err) {
    const struct kelpie_share *share = &shares->config->shares[index];
    const char *program = shares->virtiofsd.program;
    char source[KELPIE_PATH_SIZE_MAX + 32];
    ASSERT(program[0] != 0);
    ASSERT(listener_fd != HOST_FD_NONE);
    snprintf(source, sizeof(source), "%s%s",
             shares->virtiofsd.is_rust ? "--shared-dir=" : "source=", share->path);
    const char *const rust[] = {program,
                                "--fd=3",
                                source,
                                "--sandbox=namespace",
                                "--cache=auto",
                                "--log-level=error",
                                share->read_only ? "--readonly" : NULL,
                                NULL};
    const char *const c[] = {
        program, "--fd=3",        "-f", "-o", source, "-o", "cache=auto", "-o", "sandbox=namespace",
        "-o",    "log_level=err", NULL};
    static_assert(CHILD_LISTENER == 3, "as --fd says");
    const struct host_process_fd fds[] = {{.child_fd = CHILD_LISTENER, .fd = listener_fd}};
    const struct host_process_spec spec = {
        .argv = shares->virtiofsd.is_rust ? rust : c,
        .fds = fds,
        .fd_count = ARRAY_SIZE(fds),
        .dies_with_owner = true,
        .new_session = true,
    };
    return host_process_spawn(shares->host, &spec, &shares->shares[index].process, err);
}

/* vhost-user, "Message Specification": request, flags, size of the payload, and that. It changes nothing for the
 * machine, which asks again. */
static enum kelpie_status greet(struct monitor_shares *shares, int fd, const struct host_wait *wait,
                                struct kelpie_error *err) {
    enum { GET_FEATURES = 1, VERSION = 1, HEADER_SIZE = 12, ANSWER_SIZE = HEADER_SIZE + 8 };
    uint8_t question[HEADER_SIZE] = {0};
    uint8_t answer[ANSWER_SIZE];
    struct cursor_writer writer = cursor_writer_init(question, sizeof(question));
    ASSERT(shares->host);
    ASSERT(fd != HOST_FD_NONE);
    cursor_write_u32(&writer, GET_FEATURES);
    cursor_write_u32(&writer, VERSION);
    cursor_write_u32(&writer, 0);
    if (host_write_all(shares->host, fd, question, writer.size, wait, err) == KELPIE_IO_FAILED) {
        return error_set(err, KELPIE_IO_FAILED, "it ended at once");
    }
    for (size_t size = 0; size < sizeof(answer);) {
        size_t count = 0;
        TRY(host_read(shares->host, fd, answer + size, sizeof(answer) - size, wait, &count, err));
        if (count == 0) {
            return error_set(err, KELPIE_IO_FAILED, "it ended at once");
        }
        size += count;
    }
    return KELPIE_OK;
}

static void close_one(struct monitor_shares *shares, size_t index) {
    struct monitor_share *share = &shares->shares[index];
    ASSERT(index < KELPIE_SHARE_COUNT_MAX);
    shares_check(shares);
    host_close(shares->host, share->fd);
    share->fd = HOST_FD_NONE;
    host_process_destroy(share->process);
    share->process = NULL;
}

static enum kelpie_status start_one(struct monitor_shares *shares, size_t index,
                                    const struct host_wait *wait, struct kelpie_error *err) {
    struct host *host = shares->host;
    struct monitor_share *share = &shares->shares[index];
    AUTO_FD struct host_fd listener = {host, HOST_FD_NONE};
    ASSERT(!share->process);
    ASSERT(share->fd == HOST_FD_NONE);
    TRY(make_sockets(host, wait, &listener.fd, &share->fd, err));
    TRY(spawn(shares, index, listener.fd, err));
    host_close(host, host_fd_take(&listener)); /* else its end would not be seen */
    return greet(shares, share->fd, wait, err);
}

/* One that does not come up is a reason to copy, unless it must; one that did not in time is not. */
static enum kelpie_status open_one(struct monitor_shares *shares, size_t index,
                                   const struct host_wait *wait, struct kelpie_error *err) {
    const struct kelpie_share *share = &shares->config->shares[index];
    char field[64];
    struct kelpie_error inner;
    ASSERT(index < shares->config->share_count);
    ASSERT(!share->copy);
    const char *why_not =
        monitor_virtiofsd_why_not(&shares->virtiofsd, share, host_user_id(shares->host));
    if (!why_not) {
        enum kelpie_status status = start_one(shares, index, wait, &inner);
        if (status == KELPIE_OK) {
            return KELPIE_OK;
        }
        close_one(shares, index);
        if (status == KELPIE_CANCELLED || status == KELPIE_TIMED_OUT ||
            status == KELPIE_NO_MEMORY) {
            *err = inner;
            return status;
        }
    }
    if (!share->live) {
        return KELPIE_OK;
    }
    snprintf(field, sizeof(field), "shares[%zu].live", index);
    return error_set_field(err, KELPIE_UNSUPPORTED, field,
                           "the folder %.200s cannot be shown to the guest itself: %s%s%.200s",
                           share->path, why_not ? why_not : shares->virtiofsd.program,
                           why_not ? "" : " did not come up: ", why_not ? "" : inner.message);
}

enum kelpie_status monitor_shares_open(struct monitor_shares *shares, const struct host_wait *wait,
                                       struct kelpie_error *err) {
    const struct kelpie_config *config = shares->config;
    bool looked = false;
    shares_check(shares);
    ASSERT(wait);
    for (size_t i = 0; i < config->share_count; i++) {
        const struct kelpie_share *share = &config->shares[i];
        if (share->copy || (config->warm && !share->live)) {
            continue; /* a template could not be made of the machine */
        }
        if (!looked) {
            monitor_virtiofsd_find(shares->host, wait, &shares->virtiofsd);
            looked = true;
        }
        TRY(open_one(shares, i, wait, err));
    }
    return KELPIE_OK;
}

/* ---- The machine's life ----------------------------------------------------------------------- */

bool monitor_shares_has(const struct monitor_shares *shares, size_t index) {
    shares_check(shares);
    ASSERT(index < KELPIE_SHARE_COUNT_MAX);
    return shares->shares[index].process != NULL;
}

void monitor_shares_handed_over(struct monitor_shares *shares) {
    shares_check(shares);
    for (size_t i = 0; i < KELPIE_SHARE_COUNT_MAX; i++) {
        host_close(shares->host, shares->shares[i].fd);
        shares->shares[i].fd = HOST_FD_NONE;
    }
    ASSERT(shares->host);
}

void monitor_shares_close(struct monitor_shares *shares) {
    shares_check(shares);
    for (size_t i = 0; i < KELPIE_SHARE_COUNT_MAX; i++) {
        close_one(shares, i);
    }
    ASSERT(shares->shares[0].fd == HOST_FD_NONE);
}
