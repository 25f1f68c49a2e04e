/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* A relay of a mock, and a far end that says whatever it likes, frame by frame: what relay_test.c and relay_hostile_test.c
 * share. */
#ifndef TESTS_SUPPORT_RELAY_HARNESS_H
#define TESTS_SUPPORT_RELAY_HARNESS_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/assert.h"
#include "vm/relay_internal.h"

#define ARGV(...) ((const char *const[]){__VA_ARGS__, NULL})
#define OK(call) assert_int_equal(call, KELPIE_OK)
#define WAIT_MS 10000
#define SAID_SIZE (2 * PROTOCOL_FRAME_SIZE_MAX)

struct fixture {
    struct kelpie_vm *vm; /* running */
    struct vm_relay *relay;
    int fd;         /* the far end's */
    uint32_t first; /* of the relay's numbers */
    uint8_t *said;  /* SAID_SIZE bytes: what is to be said */
    struct cursor_writer writer;
    uint8_t *heard; /* the decoder's */
    struct protocol_decoder decoder;
};

static inline void open_relay(struct fixture *fixture) {
    int fds[2];
    fixture->first = vm_relay_ids(fixture->vm);
    const struct vm_relay_options options = {.ids_first = fixture->first,
                                             .ids_count = VM_RELAY_IDS_COUNT};
    OK(host_socket_pair(fixture->vm->host, fds, NULL));
    OK(vm_relay_open(fixture->vm, fds[0], &options, &fixture->relay, NULL));
    fixture->fd = fds[1];
    protocol_decoder_init(&fixture->decoder, fixture->heard, PROTOCOL_FRAME_SIZE_MAX);
    fixture->writer = cursor_writer_init(fixture->said, SAID_SIZE);
    cursor_write_bytes(&fixture->writer, PROTOCOL_SYNC, PROTOCOL_SYNC_SIZE);
}

static inline void close_relay(struct fixture *fixture) {
    vm_relay_close(fixture->relay);
    host_close(fixture->vm->host, fixture->fd);
    fixture->relay = NULL;
}

static inline struct fixture *open_fixture(void) {
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    assert_non_null(fixture);
    const struct kelpie_config config = {.backend = "mock", .memory_mib = 64};
    fixture->said = malloc(SAID_SIZE);
    fixture->heard = malloc(PROTOCOL_FRAME_SIZE_MAX);
    assert_true(fixture->said && fixture->heard);
    OK(kelpie_vm_create(&config, &fixture->vm, NULL));
    OK(kelpie_vm_start(fixture->vm, NULL));
    open_relay(fixture);
    return fixture;
}

static inline void close_fixture(struct fixture *fixture) {
    if (fixture->relay) {
        close_relay(fixture);
    }
    kelpie_vm_destroy(fixture->vm);
    free(fixture->said);
    free(fixture->heard);
    free(fixture);
}

/* Sends what the writer has. */
static inline void say(struct fixture *fixture) {
    struct host_wait wait = host_wait_ms(fixture->vm->host, WAIT_MS, HOST_FD_NONE);
    assert_false(fixture->writer.failed);
    (void)!host_write_all(fixture->vm->host, fixture->fd, fixture->said, fixture->writer.size,
                          &wait, NULL); /* the relay may be gone */
    fixture->writer = cursor_writer_init(fixture->said, SAID_SIZE);
}

/* The next frame. False: the relay has closed its end. */
static inline bool hear(struct fixture *fixture, struct protocol_frame *frame) {
    struct host_wait wait = host_wait_ms(fixture->vm->host, WAIT_MS, HOST_FD_NONE);
    for (;;) {
        enum protocol_result result = protocol_decoder_next(&fixture->decoder, frame);
        assert_int_not_equal(result, PROTOCOL_RESULT_MALFORMED);
        if (result == PROTOCOL_RESULT_FRAME) {
            return true;
        }
        size_t room = 0;
        size_t count = 0;
        uint8_t *space = protocol_decoder_space(&fixture->decoder, &room);
        OK(host_read(fixture->vm->host, fixture->fd, space, room, &wait, &count, NULL));
        if (count == 0) {
            return false;
        }
        protocol_decoder_filled(&fixture->decoder, count);
    }
}

static inline struct protocol_frame expect(struct fixture *fixture, enum protocol_type type,
                                           uint32_t session) {
    struct protocol_frame frame;
    assert_true(hear(fixture, &frame));
    assert_int_equal(frame.type, type);
    assert_int_equal(frame.session, session);
    return frame;
}

static inline void write_exec(struct fixture *fixture, uint32_t id, const char *program,
                              const char *argument) {
    char argv[64];
    size_t size = strlen(program) + 1;
    memcpy(argv, program, size);
    if (argument) {
        memcpy(argv + size, argument, strlen(argument) + 1);
        size += strlen(argument) + 1;
    }
    const struct protocol_exec exec = {
        .flags = strcmp(program, "cat") == 0 ? PROTOCOL_EXEC_STDIN : 0u,
        .rows = 24,
        .columns = 80,
        .working_dir = "/",
        .argv_count = argument ? 2 : 1,
        .argv = argv,
        .argv_size = size,
        .env = "",
    };
    protocol_encode_exec(&fixture->writer, id, &exec);
}

static inline void write_data(struct fixture *fixture, uint32_t id, uint64_t offset, size_t size) {
    static const uint8_t bytes[PROTOCOL_DATA_SIZE_MAX] = "input";
    const struct protocol_data data = {
        .stream = PROTOCOL_STDIN, .offset = offset, .bytes = bytes, .size = size};
    protocol_encode_data(&fixture->writer, id, &data);
}

static inline void write_ack(struct fixture *fixture, uint32_t id, enum protocol_stream stream,
                             uint64_t offset) {
    const struct protocol_ack ack = {.stream = stream, .offset = offset};
    protocol_encode_ack(&fixture->writer, id, &ack);
}

static inline void write_attach(struct fixture *fixture, uint32_t id) {
    const struct protocol_attach attach = {.from_acknowledged = true};
    protocol_encode_attach(&fixture->writer, id, &attach);
}

static inline uint32_t attached_error(struct fixture *fixture, uint32_t id) {
    struct protocol_frame frame = expect(fixture, PROTOCOL_ATTACHED, id);
    struct protocol_attached attached;
    assert_true(protocol_decode_attached(&frame, &attached));
    return attached.os_error;
}

/* A command of the far end that runs: `cat`. */
static inline void start_cat(struct fixture *fixture, uint32_t id) {
    write_exec(fixture, id, "cat", NULL);
    say(fixture);
    expect(fixture, PROTOCOL_STARTED, id);
}

/* Everybody else is served. */
static inline void expect_vm_works(struct kelpie_vm *vm) {
    struct kelpie_output output = {0};
    const struct kelpie_command command = {.argv = ARGV("echo", "hello")};
    OK(kelpie_vm_exec(vm, &command, &output, NULL));
    assert_string_equal(output.stdout_data, "hello\n");
    kelpie_output_free(&output);
}

static inline void expect_end(struct fixture *fixture, const char *name) {
    struct protocol_frame frame;
    while (hear(fixture, &frame)) {
    }
    if (!vm_relay_has_ended(fixture->relay)) {
        fail_msg("the relay goes on after %s", name);
    }
    assert_int_equal(vm_relay_session_count(fixture->relay), 0);
    expect_vm_works(fixture->vm);
}

#endif
