/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * kelpie-vmm: one machine, on orders from its owner (control.h). It is started with its descriptors open and opens
 * nothing. Its last line on stderr says why it ended; exit code 0: the guest powered off or reset its machine, or the
 * owner is gone; 1: anything else.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "vmm/confine.h"
#include "vmm/machine.h"

/* What the owner's next SAVE is for; -1: not passed. */
struct session {
    struct machine machine;
    bool made;
    int fds[CONTROL_ROLE_COUNT];
    struct io_source source;
};

/* ---- Messages --------------------------------------------------------------------------------- */

/* Takes the descriptor that came with a message, if there is one. */
static int attached_fd(struct msghdr *message) {
    int fd = -1;
    ASSERT(message);
    for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part; part = CMSG_NXTHDR(message, part)) {
        if (part->cmsg_level == SOL_SOCKET && part->cmsg_type == SCM_RIGHTS &&
            part->cmsg_len == CMSG_LEN(sizeof(int))) {
            memcpy(&fd, CMSG_DATA(part), sizeof(fd));
        }
    }
    ASSERT(fd >= -1);
    return fd;
}

/* Reads exactly size bytes. False: the owner is gone. */
static bool receive(void *buffer, size_t size, int *ret_fd) {
    ASSERT(buffer);
    ASSERT(ret_fd);
    for (size_t done = 0; done < size;) {
        union {
            struct cmsghdr align;
            char bytes[CMSG_SPACE(sizeof(int))];
        } space;
        struct iovec part = {.iov_base = (uint8_t *)buffer + done, .iov_len = size - done};
        struct msghdr message = {.msg_iov = &part,
                                 .msg_iovlen = 1,
                                 .msg_control = space.bytes,
                                 .msg_controllen = sizeof(space.bytes)};
        ssize_t count = recvmsg(CONTROL_CHILD_CONTROL, &message, MSG_CMSG_CLOEXEC);
        if (count < 0 && (errno == EINTR || errno == EAGAIN)) {
            continue;
        }
        if (count <= 0) {
            return false;
        }
        int fd = attached_fd(&message);
        *ret_fd = fd >= 0 ? fd : *ret_fd;
        done += (size_t)count;
    }
    return true;
}

static void answer(enum kelpie_status status, const struct kelpie_error *failure) {
    uint8_t bytes[CONTROL_MESSAGE_SIZE_MAX];
    struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
    if (status == KELPIE_OK) {
        control_encode_plain(&writer, CONTROL_DONE);
    } else {
        control_encode_failed(&writer, failure);
    }
    ASSERT(!writer.failed);
    ASSERT(writer.size > 0);
    (void)!send(CONTROL_CHILD_CONTROL, bytes, writer.size, MSG_NOSIGNAL); /* an owner that is gone
                                                                          * is noticed next */
}

/* ---- Orders ----------------------------------------------------------------------------------- */

/* A whole file, for reading. */
static enum kelpie_status map_file(int fd, const void **ret_data, size_t *ret_size,
                                   struct kelpie_error *err) {
    struct stat info;
    ASSERT(ret_data);
    ASSERT(ret_size);
    if (fstat(fd, &info) < 0 || info.st_size <= 0) {
        return error_set_os(err, errno, "cannot look at descriptor %d", fd);
    }
    void *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED) {
        return error_set_os(err, errno, "cannot map descriptor %d", fd);
    }
    *ret_data = data;
    *ret_size = (size_t)info.st_size;
    return KELPIE_OK;
}

static enum kelpie_status boot(struct session *session, const struct control_machine *config,
                               struct kelpie_error *err) {
    struct machine_image image = {0};
    ASSERT(!session->made);
    ASSERT(config);
    TRY(map_file(CONTROL_CHILD_KERNEL, &image.kernel, &image.kernel_size, err));
    if (!config->has_medium) {
        TRY(map_file(CONTROL_CHILD_INITRAMFS, &image.initramfs, &image.initramfs_size, err));
    }
    TRY(machine_boot(&session->machine, config, &image, err));
    munmap((void *)(uintptr_t)image.kernel, image.kernel_size);
    if (image.initramfs) {
        munmap((void *)(uintptr_t)image.initramfs, image.initramfs_size);
    }
    return KELPIE_OK;
}

static enum kelpie_status save(struct session *session, struct kelpie_error *err) {
    ASSERT(session->made);
    int state_fd = session->fds[CONTROL_ROLE_STATE];
    int memory_fd = session->fds[CONTROL_ROLE_MEMORY];
    enum kelpie_status status = KELPIE_OK;
    if (state_fd < 0 || memory_fd < 0) {
        status = error_set(err, KELPIE_INTERNAL, "there are no files to save to");
    } else {
        status = machine_save(&session->machine, state_fd, memory_fd, err);
    }
    for (size_t i = 0; i < CONTROL_ROLE_COUNT; i++) {
        if (session->fds[i] >= 0) {
            close(session->fds[i]);
        }
        session->fds[i] = -1;
    }
    return status;
}

static enum kelpie_status make(struct session *session, enum control_type type, const void *payload,
                               size_t size, struct kelpie_error *err) {
    static struct control_machine config;
    ASSERT(type == CONTROL_BOOT || type == CONTROL_LOAD);
    ASSERT(payload || size == 0);
    if (session->made || !control_decode_machine(payload, size, &config)) {
        return error_set(err, KELPIE_INTERNAL, "that is no machine, or there is one");
    }
    enum kelpie_status status = type == CONTROL_BOOT
                                    ? boot(session, &config, err)
                                    : machine_load(&session->machine, &config, CONTROL_CHILD_KERNEL,
                                                   CONTROL_CHILD_INITRAMFS, err);
    TRY(status);
    session->made = true;
    TRY(confine_process(err)); /* before the guest runs */
    return type == CONTROL_BOOT ? machine_resume(&session->machine, err) : KELPIE_OK;
}

static enum kelpie_status obey(struct session *session, const struct control_header *header,
                               const void *payload, int fd, struct kelpie_error *err) {
    ASSERT(session);
    ASSERT(payload);
    enum control_role role = CONTROL_ROLE_STATE;
    if (header->type == CONTROL_BOOT || header->type == CONTROL_LOAD) {
        return make(session, header->type, payload, header->size, err);
    }
    if (!session->made) {
        return error_set(err, KELPIE_WRONG_STATE, "there is no machine yet");
    }
    switch ((int)header->type) {
    case CONTROL_PAUSE:
        return machine_pause(&session->machine, err);
    case CONTROL_RESUME:
        return machine_resume(&session->machine, err);
    case CONTROL_SAVE:
        return save(session, err);
    case CONTROL_FD:
        if (fd >= 0 && control_decode_fd(payload, header->size, &role)) {
            session->fds[role] = fd;
            return KELPIE_OK;
        }
        return error_set(err, KELPIE_INTERNAL, "no descriptor came");
    default:
        return error_set(err, KELPIE_INTERNAL, "that is no order");
    }
}

/* One order and its answer. False: the owner is gone, or speaks nonsense. */
static bool serve(struct session *session) {
    static uint8_t payload[CONTROL_MESSAGE_SIZE_MAX];
    uint8_t header_bytes[CONTROL_HEADER_SIZE];
    struct control_header header;
    struct kelpie_error err = {0};
    int fd = -1;
    ASSERT(session);
    static_assert(sizeof(payload) >= CONTROL_MESSAGE_SIZE_MAX - CONTROL_HEADER_SIZE, "it fits");
    if (!receive(header_bytes, sizeof(header_bytes), &fd) ||
        !control_decode_header(header_bytes, &header) ||
        (header.size > 0 && !receive(payload, header.size, &fd))) {
        return false;
    }
    answer(obey(session, &header, payload, fd, &err), &err);
    ASSERT(header.size <= sizeof(payload));
    return true;
}

/* Orders wait for vCPUs, which may wait for the lock: it is not held meanwhile. */
static void on_order(void *context, uint32_t events) {
    struct session *session = context;
    ASSERT(session->made);
    ASSERT(events != 0);
    machine_unlock(&session->machine);
    if (!serve(session)) {
        _exit(0);
    }
    machine_lock(&session->machine);
}

/* ---- The end ---------------------------------------------------------------------------------- */

static int report(struct machine *machine) {
    struct vcpu_result result = {.stop = VCPU_STOP_ERROR};
    ASSERT(machine->vcpu_count > 0);
    ASSERT(machine->threads_started);
    bool stopped = vcpu_threads_result(&machine->threads, &result);
    ASSERT(stopped);
    dprintf(STDERR_FILENO, "%s\n", result.text[0] ? result.text : vcpu_stop_name(result.stop));
    return result.stop == VCPU_STOP_SHUTDOWN || result.stop == VCPU_STOP_RESET ? 0 : 1;
}

int main(void) {
    static struct session session = {.fds = {-1, -1}};
    ASSERT(session.fds[CONTROL_ROLE_STATE] < 0 && session.fds[CONTROL_ROLE_MEMORY] < 0);
    ASSERT(!session.made);
    prctl(PR_SET_NAME, "kelpie-vmm");
    close(CONTROL_CHILD_PROGRAM);
    /* A machine that could not be made was answered for, and so was the end of the owner. */
    while (!session.made) {
        if (!serve(&session)) {
            return 0;
        }
    }
    struct kelpie_error err = {0};
    session.source =
        (struct io_source){.fd = CONTROL_CHILD_CONTROL, .handler = on_order, .context = &session};
    if (io_add(&session.machine.io, &session.source, EPOLLIN, &err) != KELPIE_OK) {
        dprintf(STDERR_FILENO, "%s\n", err.message);
        return 1;
    }
    io_run(&session.machine.io);
    _exit(report(&session.machine));
}
