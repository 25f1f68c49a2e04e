/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The programs of sim/peer as "processes" that are threads of this one, with descriptors of their own numbers; the rest
 * is this machine's. They run as the production code starts them. One test program includes it, once.
 *
 *     peer_processes_init();    peer_owner is a host whose processes these are, and which has a /dev/kvm
 *     ...
 *     peer_processes_deinit();
 */
#ifndef KELPIE_TESTS_SUPPORT_PEER_PROCESS_H
#define KELPIE_TESTS_SUPPORT_PEER_PROCESS_H

#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "sim/peer/vmm.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/lsan_interface.h>
#endif

#define CHILD_FD_COUNT 16
#define CHILD_FD_RECEIVED 100000 /* added to what a child gets later */

/* What a child calls its host. */
struct child_host {
    struct host base; /* first */
    int fds[CHILD_FD_COUNT];
    int kill_fd;
};

struct host_process {
    struct host *host; /* first */
    struct sim_peer peer;
    struct child_host child;
    struct host_thread *thread;
    const struct sim_program *program;
    char *argv[64];
    struct sim_choices choices;
    int exit_fd;
    struct host_process_exit exit;
};

static struct host *peer_owner; /* the owner's, whose processes these are */
static struct host_ops owner_ops;
static const struct host_ops *real;
static uint32_t fault_fires[SIM_FAULT_COUNT]; /* so often, from the next question on */
static uint32_t fault_asked[SIM_FAULT_COUNT];
static uint64_t choices_seed;
static bool deaths_expected;

static int fd_of(struct host *host, int fd) {
    const struct child_host *self = (const struct child_host *)host;
    if (fd == HOST_FD_NONE) {
        return HOST_FD_NONE;
    }
    assert_true(fd >= 0);
    return fd >= CHILD_FD_RECEIVED ? fd - CHILD_FD_RECEIVED : self->fds[fd];
}

static struct host_wait wait_of(struct host *host, const struct host_wait *wait) {
    assert_int_equal(wait->cancel_fd, HOST_FD_NONE);
    return (struct host_wait){wait->deadline_ns, ((const struct child_host *)host)->kill_fd};
}

static uint64_t child_monotonic_ns(struct host *host) {
    (void)host;
    return real->monotonic_ns(peer_owner);
}

static enum kelpie_status child_sleep(struct host *host, const struct host_wait *wait,
                                      struct kelpie_error *err) {
    const struct host_wait until = wait_of(host, wait);
    return real->sleep(peer_owner, &until, err);
}

static void *child_allocate(struct host *host, size_t size) {
    (void)host;
    void *data = real->allocate(peer_owner, size);
#if defined(__SANITIZE_ADDRESS__)
    if (deaths_expected) {
        __lsan_ignore_object(data); /* nobody frees it when its process is killed */
    }
#endif
    return data;
}

static enum kelpie_status child_file_read_at(struct host *host, int fd, void *buffer, size_t size,
                                             uint64_t offset, size_t *ret_size,
                                             struct kelpie_error *err) {
    return real->file_read_at(peer_owner, fd_of(host, fd), buffer, size, offset, ret_size, err);
}

static enum kelpie_status child_file_write_at(struct host *host, int fd, const void *data,
                                              size_t size, uint64_t offset,
                                              struct kelpie_error *err) {
    return real->file_write_at(peer_owner, fd_of(host, fd), data, size, offset, err);
}

static enum kelpie_status child_file_stat(struct host *host, int fd, struct host_file_info *info,
                                          struct kelpie_error *err) {
    return real->file_stat(peer_owner, fd_of(host, fd), info, err);
}

static enum kelpie_status child_file_truncate(struct host *host, int fd, uint64_t size,
                                              struct kelpie_error *err) {
    return real->file_truncate(peer_owner, fd_of(host, fd), size, err);
}

static enum kelpie_status child_read(struct host *host, int fd, void *buffer, size_t size,
                                     const struct host_wait *wait, size_t *ret_size,
                                     struct kelpie_error *err) {
    const struct host_wait until = wait_of(host, wait);
    return real->read(peer_owner, fd_of(host, fd), buffer, size, &until, ret_size, err);
}

static enum kelpie_status child_write(struct host *host, int fd, const void *data, size_t size,
                                      const struct host_wait *wait, size_t *ret_size,
                                      struct kelpie_error *err) {
    const struct host_wait until = wait_of(host, wait);
    return real->write(peer_owner, fd_of(host, fd), data, size, &until, ret_size, err);
}

static enum kelpie_status child_poll(struct host *host, struct host_poll_item *items, size_t count,
                                     const struct host_wait *wait, struct kelpie_error *err) {
    struct host_poll_item mapped[HOST_POLL_COUNT_MAX];
    const struct host_wait until = wait_of(host, wait);
    for (size_t i = 0; i < count; i++) {
        mapped[i] = items[i];
        mapped[i].fd = fd_of(host, items[i].fd);
    }
    enum kelpie_status status = real->poll(peer_owner, mapped, count, &until, err);
    for (size_t i = 0; i < count; i++) {
        items[i].ready = mapped[i].ready;
    }
    return status;
}

static void child_close(struct host *host, int fd) {
    struct child_host *self = (struct child_host *)host;
    int mine = fd_of(host, fd);
    assert_int_not_equal(mine, HOST_FD_NONE); /* it was open */
    real->close(peer_owner, mine);
    if (fd < CHILD_FD_RECEIVED) {
        self->fds[fd] = HOST_FD_NONE;
    }
}

static const struct host_ops child_ops = {
    .monotonic_ns = child_monotonic_ns,
    .sleep = child_sleep,
    .allocate = child_allocate,
    .file_read_at = child_file_read_at,
    .file_write_at = child_file_write_at,
    .file_stat = child_file_stat,
    .file_truncate = child_file_truncate,
    .read = child_read,
    .write = child_write,
    .poll = child_poll,
    .close = child_close,
};

static struct host_process *process_of(const struct sim_peer *peer) {
    return (struct host_process *)((uintptr_t)peer - offsetof(struct host_process, peer));
}

static void process_end(struct host_process *process) {
    for (size_t i = 0; i < CHILD_FD_COUNT; i++) {
        if (process->child.fds[i] != HOST_FD_NONE) {
            real->close(peer_owner, process->child.fds[i]);
        }
    }
    real->event_set(peer_owner, process->exit_fd);
}

static void process_thread(void *argument) {
    struct host_process *process = argument;
    int code = process->program->main(&process->peer);
    if (__atomic_load_n(&process->exit.signal, __ATOMIC_SEQ_CST) == 0) {
        process->exit.code = code;
    }
    process_end(process);
}

bool sim_peer_fault(const struct sim_peer *peer, enum sim_fault fault) {
    (void)peer;
    __atomic_fetch_add(&fault_asked[fault], 1, __ATOMIC_SEQ_CST);
    uint32_t left = __atomic_load_n(&fault_fires[fault], __ATOMIC_SEQ_CST);
    while (left > 0 && !__atomic_compare_exchange_n(&fault_fires[fault], &left, left - 1, false,
                                                    __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
    }
    return left > 0;
}

uint64_t sim_peer_choose(const struct sim_peer *peer, uint64_t count) {
    return sim_choose(&process_of(peer)->choices, count);
}

_Noreturn void sim_peer_die(const struct sim_peer *peer, int signal_number) {
    struct host_process *process = process_of(peer);
    process->exit.signal = signal_number;
    process_end(process);
    pthread_exit(NULL);
}

_Noreturn void sim_peer_hang(const struct sim_peer *peer) {
    struct host_process *process = process_of(peer);
    struct host_wait wait = {UINT64_MAX, process->child.kill_fd};
    struct kelpie_error err;
    assert_int_equal(real->sleep(peer_owner, &wait, &err), KELPIE_CANCELLED);
    process_end(process);
    pthread_exit(NULL);
}

enum kelpie_status sim_peer_receive(const struct sim_peer *host, int fd, void *buffer, size_t size,
                                    const struct host_wait *wait, struct sim_peer_received *ret,
                                    struct kelpie_error *err) {
    struct host_poll_item item = {.fd = fd, .asked = HOST_POLL_READ};
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } space;
    struct iovec part = {.iov_base = buffer, .iov_len = size};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = space.bytes,
                             .msg_controllen = sizeof(space.bytes)};
    *ret = (struct sim_peer_received){0};
    TRY(host_poll(host->host, &item, 1, wait, err));
    ssize_t count = recvmsg(fd_of(host->host, fd), &message, MSG_CMSG_CLOEXEC);
    ret->size = count > 0 ? (size_t)count : 0;
    struct cmsghdr *first = count > 0 ? CMSG_FIRSTHDR(&message) : NULL;
    if (first) {
        memcpy(&ret->fds[0], CMSG_DATA(first), sizeof(int));
        ret->fds[0] += CHILD_FD_RECEIVED;
        ret->fd_count = 1;
    }
    return KELPIE_OK;
}

/* ---- … as their owner sees them --------------------------------------------------------------- */

static enum kelpie_status owner_spawn(struct host *host, const struct host_process_spec *spec,
                                      struct host_process **ret_process, struct kelpie_error *err) {
    const char *slash = strrchr(spec->argv[0], '/');
    const char *name = slash ? slash + 1 : spec->argv[0];
    const struct sim_program *program =
        sim_program_find(strcmp(name, "7") == 0 ? PEER_VMM_PROGRAM : name);
    if (!program) {
        return error_set(err, KELPIE_NOT_FOUND, "there is no program %s", name);
    }
    struct host_process *process = calloc(1, sizeof(*process));
    assert_non_null(process);
    process->host = host;
    process->program = program;
    process->child = (struct child_host){.base.ops = &child_ops};
    process->peer.host = &process->child.base;
    process->peer.argv = (const char *const *)process->argv;
    for (; spec->argv[process->peer.argc]; process->peer.argc++) {
        process->argv[process->peer.argc] = strdup(spec->argv[process->peer.argc]);
    }
    for (size_t i = 0; i < CHILD_FD_COUNT; i++) {
        process->child.fds[i] = HOST_FD_NONE;
    }
    for (size_t i = 0; i < spec->fd_count; i++) {
        process->child.fds[spec->fds[i].child_fd] = fcntl(spec->fds[i].fd, F_DUPFD_CLOEXEC, 0);
        assert_true(process->child.fds[spec->fds[i].child_fd] >= 0);
    }
    sim_choices_init(&process->choices, choices_seed);
    assert_int_equal(real->event_create(host, &process->child.kill_fd, err), KELPIE_OK);
    assert_int_equal(real->event_create(host, &process->exit_fd, err), KELPIE_OK);
    assert_int_equal(
        real->thread_start(host, "peer", process_thread, process, &process->thread, err),
        KELPIE_OK);
    *ret_process = process;
    return KELPIE_OK;
}

static int owner_process_fd(struct host_process *process) {
    return process->exit_fd;
}

static int owner_process_id(struct host_process *process) {
    return 100000 + process->exit_fd;
}

static enum kelpie_status owner_process_signal(struct host_process *process, int number,
                                               struct kelpie_error *err) {
    struct host_poll_item item = {.fd = process->exit_fd, .asked = HOST_POLL_READ};
    const struct host_wait none = host_wait_none();
    if (real->poll(peer_owner, &item, 1, &none, err) != KELPIE_OK) {
        __atomic_store_n(&process->exit.signal, number, __ATOMIC_SEQ_CST);
        real->event_set(peer_owner, process->child.kill_fd);
    }
    return KELPIE_OK;
}

static enum kelpie_status owner_process_wait(struct host_process *process,
                                             const struct host_wait *wait,
                                             struct host_process_exit *ret_exit,
                                             struct kelpie_error *err) {
    struct host_poll_item item = {.fd = process->exit_fd, .asked = HOST_POLL_READ};
    TRY(real->poll(peer_owner, &item, 1, wait, err));
    *ret_exit = process->exit;
    return KELPIE_OK;
}

static void owner_process_destroy(struct host_process *process) {
    assert_int_equal(owner_process_signal(process, SIGKILL, NULL), KELPIE_OK);
    real->thread_join(process->thread);
    real->close(peer_owner, process->exit_fd);
    real->close(peer_owner, process->child.kill_fd);
    for (size_t i = 0; i < process->peer.argc; i++) {
        free(process->argv[i]);
    }
    free(process);
}

static enum kelpie_status owner_file_open(struct host *host, const char *path, uint32_t flags,
                                          uint32_t mode, int *ret_fd, struct kelpie_error *err) {
    return real->file_open(host, strcmp(path, "/dev/kvm") == 0 ? "/dev/null" : path, flags, mode,
                           ret_fd, err);
}

static enum kelpie_status owner_kvm_probe(struct host *host, uint64_t budget_ns, uint64_t *ret_ns,
                                          struct kelpie_error *err) {
    (void)host;
    (void)err;
    *ret_ns = budget_ns / 1000;
    return KELPIE_OK;
}

static void peer_processes_init(void) {
    struct kelpie_error err;
    assert_int_equal(host_linux_create(&peer_owner, &err), KELPIE_OK);
    real = peer_owner->ops;
    owner_ops = *real;
    owner_ops.process_spawn = owner_spawn;
    owner_ops.process_fd = owner_process_fd;
    owner_ops.process_id = owner_process_id;
    owner_ops.process_signal = owner_process_signal;
    owner_ops.process_wait = owner_process_wait;
    owner_ops.process_destroy = owner_process_destroy;
    owner_ops.file_open = owner_file_open;
    owner_ops.kvm_probe = owner_kvm_probe;
    peer_owner->ops = &owner_ops;
}

static void peer_processes_deinit(void) {
    peer_owner->ops = real;
    host_destroy(peer_owner);
}

#endif
