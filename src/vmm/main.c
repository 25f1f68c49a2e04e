/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * kelpie-vmm: one machine, on orders from its owner (control.h). It is started with its descriptors open and opens
 * nothing but its own page map. Its last line on stderr says why it ended; exit code 0: the guest powered off or reset its machine, or the
 * owner is gone; 1: anything else.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/assert.h"
#include "vmm/confine.h"
#include "vmm/machine.h"

struct session {
    struct machine machine;
    uint64_t started_ns;
    bool confined;
    bool made;                  /* the machine is whole: it may run */
    struct machine_files files; /* that came, for the next order */
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

static void send_message(const struct cursor_writer *writer) {
    ASSERT(!writer->failed);
    ASSERT(writer->size > 0);
    /* An owner that is gone is noticed next. */
    (void)!send(CONTROL_CHILD_CONTROL, writer->data, writer->size, MSG_NOSIGNAL);
}

static void answer(enum kelpie_status status, const struct kelpie_error *failure) {
    uint8_t bytes[CONTROL_MESSAGE_SIZE_MAX];
    struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
    if (status == KELPIE_OK) {
        control_encode_plain(&writer, CONTROL_DONE);
    } else {
        control_encode_failed(&writer, failure);
    }
    ASSERT(status == KELPIE_OK || failure->status == status);
    ASSERT(!writer.failed);
    send_message(&writer);
}

/* ---- Orders ----------------------------------------------------------------------------------- */

/* Before the guest runs. */
static enum kelpie_status confine(struct session *session, struct kelpie_error *err) {
    ASSERT(session->machine.prepared);
    ASSERT(session->machine.threads_started);
    if (!session->confined) {
        TRY(confine_process(err));
    }
    session->confined = true;
    return KELPIE_OK;
}

static enum kelpie_status make(struct session *session, const struct control_header *header,
                               const void *payload, struct kelpie_error *err) {
    static struct control_machine config;
    struct machine *machine = &session->machine;
    ASSERT(payload);
    ASSERT(header->type == CONTROL_PREPARE || header->type == CONTROL_BOOT ||
           header->type == CONTROL_LOAD);
    if (session->made || !control_decode_machine(payload, header->size, &config)) {
        return error_set(err, KELPIE_INTERNAL, "that is no machine, or there is one");
    }
    if (header->type == CONTROL_PREPARE && machine->prepared) {
        return error_set(err, KELPIE_INTERNAL, "a machine is prepared already");
    }
    if (header->type == CONTROL_PREPARE) {
        TRY(machine_prepare(machine, &config, err));
        return confine(session, err);
    }
    if (header->type == CONTROL_LOAD) {
        TRY(machine_load(machine, &config, &session->files, err));
    } else {
        TRY(machine_boot(machine, &config, &session->files, err));
    }
    session->made = true;
    TRY(confine(session, err));
    return header->type == CONTROL_BOOT || config.run ? machine_resume(machine, err) : KELPIE_OK;
}

static enum kelpie_status obey(struct session *session, const struct control_header *header,
                               const void *payload, struct kelpie_error *err) {
    ASSERT(session);
    ASSERT(payload);
    if (header->type == CONTROL_PREPARE || header->type == CONTROL_BOOT ||
        header->type == CONTROL_LOAD) {
        return make(session, header, payload, err);
    }
    if (!session->made) {
        return error_set(err, KELPIE_WRONG_STATE, "there is no machine yet");
    }
    switch ((int)header->type) {
    case CONTROL_PAUSE:
        return machine_pause(&session->machine, err);
    case CONTROL_RESUME:
        return machine_resume(&session->machine, err);
    case CONTROL_TOUCHED:
        return machine_touched(&session->machine, &session->files, err);
    case CONTROL_SAVE:
        return machine_save(&session->machine, &session->files, err);
    case CONTROL_TRACK:
        return machine_track(&session->machine, err);
    case CONTROL_PRESAVE:
        return machine_presave(&session->machine, &session->files, err);
    case CONTROL_SEAL:
        return machine_seal(&session->machine, &session->files, err);
    default:
        return error_set(err, KELPIE_INTERNAL, "that is no order");
    }
}

/* What an order did not take. */
static void close_files(struct machine_files *files) {
    ASSERT(files);
    static_assert(ARRAY_SIZE(files->fds) == CONTROL_ROLE_COUNT, "one for each role");
    for (size_t i = 0; i < CONTROL_ROLE_COUNT; i++) {
        if (files->fds[i] >= 0) {
            close(files->fds[i]);
        }
        files->fds[i] = -1;
    }
}

/* Keeps a descriptor for the next order. False: that was no FD message. */
static bool keep_fd(struct machine_files *files, const void *payload, size_t size, int fd) {
    enum control_role role = CONTROL_ROLE_KERNEL;
    ASSERT(files);
    ASSERT(payload);
    if (fd < 0 || !control_decode_fd(payload, size, &role)) {
        return false;
    }
    if (files->fds[role] >= 0) {
        close(files->fds[role]);
    }
    files->fds[role] = fd;
    return true;
}

static void tell(const struct session *session) {
    uint8_t bytes[CONTROL_MESSAGE_SIZE_MAX];
    struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
    ASSERT(session->machine.vcpu_count > 0);
    const struct control_stamps stamps = {
        .started_ns = session->started_ns,
        .ready_ns = session->machine.ready_ns,
        .resumed_ns = session->machine.resumed_ns,
        .first_exit_ns = vcpu_first_exit_ns(&session->machine.vcpus[0]),
    };
    control_encode_stamps(&writer, &stamps);
    ASSERT(!writer.failed);
    send_message(&writer);
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
    ASSERT(header.size <= sizeof(payload));
    if (header.type == CONTROL_FD) {
        return keep_fd(&session->files, payload, header.size, fd);
    }
    if (header.type == CONTROL_TELL && session->made) {
        tell(session);
    } else {
        answer(obey(session, &header, payload, &err), &err);
    }
    close_files(&session->files);
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
    static struct session session;
    session.started_ns = machine_now_ns();
    memset(&session.files, 0xff, sizeof(session.files)); /* -1: none */
    ASSERT(session.files.fds[CONTROL_ROLE_MEMORY] == -1);
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
