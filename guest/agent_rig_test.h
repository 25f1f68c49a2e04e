/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The whole agent as an ordinary process over a socketpair; the test is its host. */
#ifndef KELPIE_GUEST_AGENT_RIG_TEST_H
#define KELPIE_GUEST_AGENT_RIG_TEST_H

#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/assert.h"

#define FRAME_WAIT_MS 20000
#define TEXT_SIZE_MAX 4096

/* The host's side: a socket, a decoder, and what a session said so far. */
struct fixture {
    int fd;
    int listen_fd;
    pid_t pid;
    uint8_t nonce;
    struct protocol_decoder decoder;
    uint8_t input[PROTOCOL_FRAME_SIZE_MAX];
    uint8_t output[PROTOCOL_FRAME_SIZE_MAX + PROTOCOL_SYNC_SIZE];
};

struct result {
    struct protocol_ended ended;
    uint64_t bytes[PROTOCOL_STREAM_COUNT];
    char text[PROTOCOL_STREAM_COUNT][TEXT_SIZE_MAX + 1];
    bool stdin_closed;
};

/* ---- The host ----------------------------------------------------------------------------------- */

/* Where the agent under test dials, as it would over vsock. Set before it is made; its process's alone. */
static struct sockaddr_un dial_address __attribute__((unused));
static int dial_count __attribute__((unused));

static inline int dial(void) {
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    dial_count++;
    /* The first ones fail, as on a host that is not there yet. */
    if (dial_count > 2 &&
        connect(fd, (const struct sockaddr *)&dial_address, sizeof(dial_address)) == 0) {
        return fd;
    }
    if (dial_count == 2) { /* this one later, at the look at it */
        return fd;
    }
    close(fd);
    return -1;
}

static inline int start_agent(void **state, int (*channel_dial)(void)) {
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    int fds[2];
    assert_non_null(fixture);
    fixture->listen_fd = -1;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    fixture->pid = fork();
    if (fixture->pid == 0) {
        struct agent *agent = NULL;
        struct kelpie_error err;
        close(fds[0]);
        (void)fcntl(fds[1], F_SETFL, O_NONBLOCK);
        if (agent_create(fds[1], false, &agent, &err) != KELPIE_OK) {
            _exit(1);
        }
        agent->channel_dial = channel_dial;
        agent_run(agent);
        agent_destroy(agent);
        _exit(0);
    }
    close(fds[1]);
    fixture->fd = fds[0];
    protocol_decoder_init(&fixture->decoder, fixture->input, sizeof(fixture->input));
    *state = fixture;
    return 0;
}

static inline int setup(void **state) {
    return start_agent(state, NULL);
}

static inline int setup_dialling(void **state) {
    int listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    dial_address = (struct sockaddr_un){.sun_family = AF_UNIX};
    /* An abstract name: nothing is left behind. */
    snprintf(dial_address.sun_path + 1, sizeof(dial_address.sun_path) - 1, "kelpie-agent-test-%d",
             (int)getpid());
    assert_int_equal(bind(listen_fd, (const struct sockaddr *)&dial_address, sizeof(dial_address)),
                     0);
    assert_int_equal(listen(listen_fd, 4), 0);
    assert_int_equal(start_agent(state, dial), 0);
    ((struct fixture *)*state)->listen_fd = listen_fd;
    return 0;
}

/* An agent that dials goes on without a host. */
static inline int teardown_dialling(void **state) {
    struct fixture *fixture = *state;
    int status = 0;
    close(fixture->fd);
    close(fixture->listen_fd);
    usleep(50000);
    bool runs = waitpid(fixture->pid, &status, WNOHANG) == 0;
    (void)kill(fixture->pid, SIGKILL);
    if (runs) {
        (void)waitpid(fixture->pid, &status, 0);
    }
    free(fixture);
    return runs ? 0 : -1;
}

/* The agent ends when its channel does, by itself and without a crash. */
static inline int teardown(void **state) {
    struct fixture *fixture = *state;
    int status = 0;
    close(fixture->fd);
    for (int i = 0; i < 500 && waitpid(fixture->pid, &status, WNOHANG) == 0; i++) {
        usleep(10000);
    }
    bool clean = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    if (!clean) {
        (void)kill(fixture->pid, SIGKILL);
    }
    free(fixture);
    return clean ? 0 : -1;
}

static inline void send_bytes(struct fixture *fixture, const void *bytes, size_t size) {
    const uint8_t *at = bytes;
    while (size > 0) {
        ssize_t count = send(fixture->fd, at, size, MSG_NOSIGNAL);
        assert_true(count > 0);
        at += count;
        size -= (size_t)count;
    }
}

static inline struct cursor_writer begin(struct fixture *fixture) {
    return cursor_writer_init(fixture->output, sizeof(fixture->output));
}

static inline void finish(struct fixture *fixture, const struct cursor_writer *writer) {
    assert_false(writer->failed);
    send_bytes(fixture, writer->data, writer->size);
}

/* Waits for more bytes; false: none came in time. */
static inline bool fill(struct fixture *fixture, int wait_ms) {
    struct pollfd item = {.fd = fixture->fd, .events = POLLIN};
    if (poll(&item, 1, wait_ms) != 1) {
        return false;
    }
    size_t room = 0;
    uint8_t *space = protocol_decoder_space(&fixture->decoder, &room);
    ssize_t count = recv(fixture->fd, space, room, 0);
    assert_true(count > 0);
    protocol_decoder_filled(&fixture->decoder, (size_t)count);
    return true;
}

static inline bool next_frame(struct fixture *fixture, int wait_ms,
                              struct protocol_frame *ret_frame) {
    enum protocol_result result = protocol_decoder_next(&fixture->decoder, ret_frame);
    while (result == PROTOCOL_RESULT_MORE) {
        if (!fill(fixture, wait_ms)) {
            return false;
        }
        result = protocol_decoder_next(&fixture->decoder, ret_frame);
    }
    assert_int_equal(result, PROTOCOL_RESULT_FRAME);
    return true;
}

static inline struct protocol_frame expect(struct fixture *fixture, enum protocol_type type) {
    struct protocol_frame frame;
    assert_true(next_frame(fixture, FRAME_WAIT_MS, &frame));
    assert_int_equal(frame.type, type);
    return frame;
}

static inline void hello(struct fixture *fixture) {
    struct protocol_hello message = {.nonce = {++fixture->nonce}};
    struct protocol_hello_ack ack = {0};
    struct cursor_writer writer = begin(fixture);
    protocol_encode_hello(&writer, &message);
    finish(fixture, &writer);
    struct protocol_frame frame;
    protocol_decoder_scan(&fixture->decoder);
    do {
        assert_true(next_frame(fixture, FRAME_WAIT_MS, &frame));
    } while (!protocol_decode_hello_ack(&frame, &ack) || ack.nonce[0] != fixture->nonce);
    assert_true(ack.memory_total_bytes >= ack.memory_available_bytes);
}

static inline void ping(struct fixture *fixture, uint64_t token) {
    struct protocol_ping message = {.token = token};
    struct cursor_writer writer = begin(fixture);
    protocol_encode_ping(&writer, PROTOCOL_PING, &message);
    finish(fixture, &writer);
}

/* `argv`: words separated by a single '|'. */
static inline void start(struct fixture *fixture, uint32_t id, const char *argv,
                         const struct protocol_exec *options) {
    static char strings[200000];
    struct protocol_exec exec = options ? *options : (struct protocol_exec){0};
    size_t size = strlen(argv) + 1;
    assert_true(size <= sizeof(strings));
    memcpy(strings, argv, size);
    exec.argv_count = 1;
    for (size_t i = 0; i < size; i++) {
        if (strings[i] == '|') {
            strings[i] = 0;
            exec.argv_count++;
        }
    }
    exec.argv = strings;
    exec.argv_size = size;
    exec.uid = getuid();
    exec.gid = getgid();
    exec.working_dir = exec.working_dir ? exec.working_dir : "/";
    struct cursor_writer writer = begin(fixture);
    protocol_encode_exec(&writer, id, &exec);
    finish(fixture, &writer);
}

static inline void acknowledge(struct fixture *fixture, uint32_t id, enum protocol_stream stream,
                               uint64_t offset) {
    struct protocol_ack ack = {.stream = stream, .offset = offset};
    struct cursor_writer writer = begin(fixture);
    protocol_encode_ack(&writer, id, &ack);
    finish(fixture, &writer);
}

static inline void put_data(struct fixture *fixture, uint32_t id,
                            const struct protocol_data *data) {
    struct cursor_writer writer = begin(fixture);
    protocol_encode_data(&writer, id, data);
    finish(fixture, &writer);
}

static inline void release(struct fixture *fixture, uint32_t id) {
    struct cursor_writer writer = begin(fixture);
    protocol_encode_empty(&writer, PROTOCOL_RELEASE, id);
    finish(fixture, &writer);
}

static inline void take_data(struct fixture *fixture, const struct protocol_frame *frame,
                             struct result *result) {
    struct protocol_data data;
    assert_true(protocol_decode_data(frame, &data));
    uint64_t *bytes = &result->bytes[data.stream];
    assert_int_equal(data.offset, *bytes);
    for (size_t i = 0; i < data.size && *bytes + i < TEXT_SIZE_MAX; i++) {
        result->text[data.stream][*bytes + i] = (char)data.bytes[i];
    }
    *bytes += data.size;
    if (data.size > 0) {
        acknowledge(fixture, frame->session, data.stream, *bytes);
    }
}

/* Reads, acknowledging all, until the session's end. */
static inline void collect(struct fixture *fixture, uint32_t id, struct result *result) {
    struct protocol_frame frame;
    struct protocol_ack ack;
    do {
        assert_true(next_frame(fixture, FRAME_WAIT_MS, &frame));
        if (frame.type == PROTOCOL_ACK && frame.session != id) {
            continue; /* another session takes its stdin meanwhile */
        }
        assert_int_equal(frame.session, id);
        if (frame.type == PROTOCOL_DATA) {
            take_data(fixture, &frame, result);
        } else if (frame.type == PROTOCOL_ACK) {
            assert_true(protocol_decode_ack(&frame, &ack));
            result->stdin_closed = result->stdin_closed || ack.flags == PROTOCOL_ACK_CLOSED;
        }
    } while (frame.type != PROTOCOL_ENDED);
    assert_true(protocol_decode_ended(&frame, &result->ended));
    assert_int_equal(result->ended.stdout_bytes, result->bytes[PROTOCOL_STDOUT]);
    assert_int_equal(result->ended.stderr_bytes, result->bytes[PROTOCOL_STDERR]);
}

static inline struct result *run(struct fixture *fixture, uint32_t id, const char *argv,
                                 const struct protocol_exec *options) {
    static struct result result;
    result = (struct result){0};
    start(fixture, id, argv, options);
    collect(fixture, id, &result);
    release(fixture, id);
    return &result;
}

static inline void expect_end(const struct result *result, enum protocol_end end, uint32_t value) {
    assert_int_equal(result->ended.end, end);
    assert_int_equal(result->ended.value, value);
}

#endif
