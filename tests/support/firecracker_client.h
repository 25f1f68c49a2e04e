/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * A scripted Firecracker as a process of a simulated world, a small HTTP client, and the host's end of the guest's channel:
 * for its tests alone.
 */
#ifndef KELPIE_TESTS_SUPPORT_FIRECRACKER_CLIENT_H
#define KELPIE_TESTS_SUPPORT_FIRECRACKER_CLIENT_H

#include "sim/peer/firecracker.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"
#include "base/cursor.h"
#include "protocol/protocol.h"
#include "sim/world.h"

#define API "/tmp/api"
#define VSOCK "/tmp/v"
#define WAIT_MS 120000 /* of virtual time */
#define SHORT_MS 2000
#define TEXT_SIZE 4096
#define MEMORY_MIB 8
#define STORM_PPM 80000 /* of each fault of a monitor, in every second storm */

/* What a test needs: a world, the client's process in it, and what that has open. */
struct rig {
    struct sim_world *world;
    struct sim_machine *machine;
    struct sim_process *process;
    struct host *host;
    void (*body)(struct rig *rig);
    bool gentle; /* Firecracker is made to end by itself: what is killed gives no memory back */

    struct host_process *firecracker;
    int out_fd; /* its stdout and stderr */
    int api_fd;
    size_t answer_count;
    uint32_t status;
    size_t body_size;
    char answer[65536];

    int listen_fd;  /* for the guest that dials */
    int channel_fd; /* to its agent */
    struct protocol_decoder decoder;
    uint8_t in[PROTOCOL_FRAME_SIZE_MAX];
    uint8_t out[PROTOCOL_FRAME_SIZE_MAX];
    char said[65536]; /* by stdout and stderr */
    size_t said_size;
};

static inline void ok(enum kelpie_status status) {
    assert_int_equal(status, KELPIE_OK);
}

static inline void shut(struct rig *rig, int *fd) {
    host_close(rig->host, *fd);
    *fd = HOST_FD_NONE;
}

static inline void end_firecracker(struct rig *rig);

static inline int rig_main(void *argument) {
    struct rig *rig = argument;
    struct kelpie_error err;
    static const char kernel[] = "a kernel";
    rig->host = &rig->process->host;
    ok(host_file_store(rig->host, "/tmp/kernel", kernel, sizeof(kernel), 0600, &err));
    rig->body(rig);
    end_firecracker(rig);
    host_process_destroy(rig->firecracker);
    shut(rig, &rig->out_fd);
    shut(rig, &rig->api_fd);
    shut(rig, &rig->listen_fd);
    shut(rig, &rig->channel_fd);
    return 0;
}

/* storm: faults hit everything but the client, at rates that the seed draws. Returns how many answers came. */
static inline size_t run_rig(uint64_t seed, void (*body)(struct rig *rig), bool storm,
                             bool gentle) {
    struct rig *rig = calloc(1, sizeof(*rig));
    const struct sim_options options = {.seed = seed, .event_count_max = 5000000};
    assert_non_null(rig);
    rig->body = body;
    rig->gentle = gentle;
    rig->out_fd = rig->api_fd = rig->listen_fd = rig->channel_fd = HOST_FD_NONE;
    rig->world = sim_world_create(&options);
    assert_non_null(rig->world);
    if (storm) {
        sim_faults_draw(&rig->world->faults, SIM_PPM);
        for (size_t i = SIM_FAULT_PEER_SILENT; i <= SIM_FAULT_PEER_CHATTERS && seed % 2 == 0; i++) {
            rig->world->faults.ppm[i] = STORM_PPM;
        }
    }
    rig->machine = sim_machine_create(rig->world, "host");
    assert_true(rig->machine && sim_machine_furnish(rig->machine));
    const struct sim_process_options process = {
        .name = "client", .main = rig_main, .argument = rig, .immune = storm};
    rig->process = sim_process_start(rig->machine, &process);
    assert_non_null(rig->process);
    assert_int_equal(sim_world_run(rig->world), SIM_END_QUIET);
    assert_string_equal(rig->world->failure, "");
    sim_process_forget(rig->process);
    sim_world_destroy(rig->world);
    size_t answer_count = rig->answer_count;
    free(rig);
    return answer_count;
}

static inline void run_seed_of(uint64_t seed, void (*body)(struct rig *rig)) {
    (void)run_rig(seed, body, false, false);
}

static inline void run(void (*body)(struct rig *rig)) {
    (void)run_rig(1, body, false, true);
}

static inline void pass(struct rig *rig, uint64_t ms) {
    struct kelpie_error err;
    const struct host_wait wait = host_wait_ms(rig->host, ms, HOST_FD_NONE);
    ok(host_sleep(rig->host, &wait, &err));
}

/* ---- The process ------------------------------------------------------------------------------ */

static inline void spawn(struct rig *rig, const char *option, const char *value) {
    const char *const argv[] = {"firecracker", option, value, NULL};
    struct kelpie_error err;
    int fds[2];
    ok(host_socket_pair(rig->host, fds, &err));
    const struct host_process_fd child[] = {{.child_fd = 1, .fd = fds[1]},
                                            {.child_fd = 2, .fd = fds[1]}};
    const struct host_process_spec spec = {
        .argv = argv, .fds = child, .fd_count = 2, .dies_with_owner = true};
    ok(host_process_spawn(rig->host, &spec, &rig->firecracker, &err));
    rig->world->processes->immune = false; /* the newest, whatever the client is */
    host_close(rig->host, fds[1]);
    rig->out_fd = fds[0];
}

/* What it has said so far. */
static inline const char *listen_to(struct rig *rig) {
    const struct host_wait none = host_wait_none();
    struct kelpie_error err;
    size_t size = 1;
    while (size > 0 && rig->said_size + 1 < sizeof(rig->said) &&
           host_read(rig->host, rig->out_fd, rig->said + rig->said_size,
                     sizeof(rig->said) - 1 - rig->said_size, &none, &size, &err) == KELPIE_OK) {
        rig->said_size += size;
    }
    rig->said[rig->said_size] = '\0';
    return rig->said;
}

static inline void hang_up(struct rig *rig) {
    shut(rig, &rig->api_fd);
}

static inline void call(struct rig *rig) {
    struct kelpie_error err;
    enum kelpie_status status = KELPIE_NOT_FOUND;
    for (int i = 0; status != KELPIE_OK && i < 1000; i++) {
        const struct host_wait wait = host_wait_ms(rig->host, WAIT_MS, HOST_FD_NONE);
        status = host_socket_connect(rig->host, API, &wait, &rig->api_fd, &err);
        if (status != KELPIE_OK) {
            pass(rig, 1);
        }
    }
    ok(status);
}

static inline void open_firecracker(struct rig *rig) {
    spawn(rig, "--api-sock", API);
    call(rig);
}

static inline struct host_process_exit await_end(struct rig *rig) {
    struct host_process_exit end = {0};
    struct kelpie_error err;
    const struct host_wait wait = host_wait_ms(rig->host, WAIT_MS, HOST_FD_NONE);
    ok(host_process_wait(rig->firecracker, &wait, &end, &err));
    return end;
}

/* The next one may have its sockets. */
static inline void close_firecracker(struct rig *rig) {
    struct kelpie_error err;
    end_firecracker(rig);
    hang_up(rig);
    shut(rig, &rig->channel_fd);
    host_process_destroy(rig->firecracker);
    rig->firecracker = NULL;
    shut(rig, &rig->out_fd);
    ok(host_path_unlink(rig->host, API, &err));
    (void)!host_path_unlink(rig->host, VSOCK, &err);
}

/* ---- HTTP ------------------------------------------------------------------------------------- */

enum outcome { ANSWERED, SILENT, BROKEN };

static inline void send_text(struct rig *rig, const char *text) {
    const struct host_wait wait = host_wait_ms(rig->host, WAIT_MS, HOST_FD_NONE);
    struct kelpie_error err;
    ok(host_write_all(rig->host, rig->api_fd, text, strlen(text), &wait, &err));
}

/* Exactly size bytes. */
static inline enum outcome receive(struct rig *rig, char *buffer, size_t size, uint64_t ms) {
    const struct host_wait wait = host_wait_ms(rig->host, ms, HOST_FD_NONE);
    size_t done = 0;
    while (done < size) {
        struct kelpie_error err;
        size_t count = 0;
        enum kelpie_status status =
            host_read(rig->host, rig->api_fd, buffer + done, size - done, &wait, &count, &err);
        if (status == KELPIE_TIMED_OUT) {
            return SILENT;
        }
        if (status != KELPIE_OK || count == 0) {
            return BROKEN;
        }
        done += count;
    }
    return ANSWERED;
}

/* One answer, as strictly as a client may be: the head, then a JSON body of the length that the head says. */
static inline enum outcome read_answer(struct rig *rig, uint64_t ms) {
    char head[1024] = "";
    size_t size = 0;
    enum outcome outcome = ANSWERED;
    while (outcome == ANSWERED && size + 1 < sizeof(head) && !strstr(head, "\r\n\r\n")) {
        outcome = receive(rig, head + size, 1, ms);
        head[++size] = '\0';
    }
    if (outcome != ANSWERED) {
        return outcome;
    }
    const char *length = strstr(head, "Content-Length: ");
    char *end = NULL;
    if (sscanf(head, "HTTP/1.1 %3u \r\n", &rig->status) != 1 || !strstr(head, "Server: ")) {
        return BROKEN;
    }
    rig->body_size = length ? strtoul(length + 16, &end, 10) : 0;
    if (rig->body_size >= sizeof(rig->answer) || (length && *end != '\r')) {
        return BROKEN;
    }
    outcome = receive(rig, rig->answer, rig->body_size, ms);
    rig->answer[rig->body_size] = '\0';
    if (outcome == ANSWERED && length) {
        json_t *json = json_loads(rig->answer, 0, NULL);
        outcome = json ? ANSWERED : BROKEN;
        json_decref(json);
    }
    rig->answer_count += outcome == ANSWERED;
    return outcome;
}

static inline void send_request(struct rig *rig, const char *method, const char *path,
                                const char *body) {
    char text[TEXT_SIZE];
    char length[64] = "";
    if (body) {
        snprintf(length, sizeof(length), "Content-Length: %zu\r\n", strlen(body));
    }
    int size = snprintf(text, sizeof(text), "%s %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n%s", method,
                        path, length, body ? body : "");
    assert_true(size > 0 && (size_t)size < sizeof(text));
    send_text(rig, text);
}

static inline uint32_t ask(struct rig *rig, const char *method, const char *path,
                           const char *body) {
    send_request(rig, method, path, body);
    assert_int_equal(read_answer(rig, WAIT_MS), ANSWERED);
    return rig->status;
}

static inline void takes(struct rig *rig, const char *method, const char *path, const char *body) {
    uint32_t status = ask(rig, method, path, body);
    if (status != 200 && status != 204) {
        fail_msg("%s %s: %u %s", method, path, status, rig->answer);
    }
}

static inline void refuses(struct rig *rig, const char *method, const char *path, const char *body,
                           const char *part) {
    assert_int_equal(ask(rig, method, path, body), 400);
    if (!strstr(rig->answer, part)) {
        fail_msg("%s %s: %s", method, path, rig->answer);
    }
}

/* By Ctrl-Alt-Del, for which it has to be started. */
static inline void end_firecracker(struct rig *rig) {
    const struct host_wait none = host_wait_none();
    struct host_process_exit end;
    struct kelpie_error err;
    if (!rig->gentle || !rig->firecracker ||
        host_process_wait(rig->firecracker, &none, &end, &err) == KELPIE_OK) {
        return;
    }
    (void)ask(rig, "PUT", "/boot-source", "{\"kernel_image_path\":\"/tmp/kernel\"}");
    (void)ask(rig, "PUT", "/actions", "{\"action_type\":\"InstanceStart\"}");
    takes(rig, "PUT", "/actions", "{\"action_type\":\"SendCtrlAltDel\"}");
    assert_int_equal(await_end(rig).code, 0);
}

/* ---- The guest's agent ------------------------------------------------------------------------ */

static inline void send_frame(struct rig *rig, const struct cursor_writer *writer) {
    const struct host_wait wait = host_wait_ms(rig->host, WAIT_MS, HOST_FD_NONE);
    struct kelpie_error err;
    assert_false(writer->failed);
    ok(host_write_all(rig->host, rig->channel_fd, writer->data, writer->size, &wait, &err));
}

/* The next frame, within that time; false: there is none, or the channel has ended. */
static inline bool next_frame(struct rig *rig, uint64_t ms, struct protocol_frame *ret_frame) {
    const struct host_wait wait = host_wait_ms(rig->host, ms, HOST_FD_NONE);
    for (;;) {
        enum protocol_result result = protocol_decoder_next(&rig->decoder, ret_frame);
        struct kelpie_error err;
        size_t room = 0;
        size_t size = 0;
        if (result == PROTOCOL_RESULT_FRAME) {
            return true;
        }
        assert_int_equal(result, PROTOCOL_RESULT_MORE);
        uint8_t *space = protocol_decoder_space(&rig->decoder, &room);
        if (host_read(rig->host, rig->channel_fd, space, room, &wait, &size, &err) != KELPIE_OK ||
            size == 0) {
            return false;
        }
        protocol_decoder_filled(&rig->decoder, size);
    }
}

static inline void say_hello(struct rig *rig) {
    struct cursor_writer writer = cursor_writer_init(rig->out, sizeof(rig->out));
    struct protocol_frame frame;
    struct protocol_hello_ack ack;
    protocol_decoder_init(&rig->decoder, rig->in, sizeof(rig->in));
    protocol_encode_hello(&writer, &(struct protocol_hello){.nonce = {7}});
    send_frame(rig, &writer);
    assert_true(next_frame(rig, WAIT_MS, &frame));
    assert_true(protocol_decode_hello_ack(&frame, &ack));
    assert_int_equal(ack.nonce[0], 7);
}

/* Is the guest there? */
static inline bool pings(struct rig *rig, uint64_t token) {
    struct cursor_writer writer = cursor_writer_init(rig->out, sizeof(rig->out));
    struct protocol_frame frame;
    struct protocol_ping pong;
    protocol_encode_ping(&writer, PROTOCOL_PING, &(struct protocol_ping){.token = token});
    send_frame(rig, &writer);
    return next_frame(rig, SHORT_MS, &frame) && protocol_decode_ping(&frame, &pong) &&
           pong.token == token;
}

static inline void run_script(struct rig *rig, uint32_t id, const char *script,
                              const char *expected) {
    char argv[256];
    char output[TEXT_SIZE] = "";
    int size = snprintf(argv, sizeof(argv), "sh%c-c%c%s", 0, 0, script);
    const struct protocol_exec exec = {.working_dir = "/",
                                       .argv_count = 3,
                                       .argv = argv,
                                       .argv_size = (size_t)size + 1,
                                       .env = ""};
    struct cursor_writer writer = cursor_writer_init(rig->out, sizeof(rig->out));
    struct protocol_frame frame = {0};
    protocol_encode_exec(&writer, id, &exec);
    send_frame(rig, &writer);
    while (frame.type != PROTOCOL_ENDED) {
        struct protocol_data data;
        assert_true(next_frame(rig, WAIT_MS, &frame));
        if (protocol_decode_data(&frame, &data) && data.stream == PROTOCOL_STDOUT) {
            assert_true(data.offset + data.size < sizeof(output));
            memcpy(output + data.offset, data.bytes, data.size);
        }
    }
    assert_string_equal(output, expected);
}

static inline void expect_guest(struct rig *rig) {
    struct kelpie_error err;
    const struct host_wait wait = host_wait_ms(rig->host, WAIT_MS, HOST_FD_NONE);
    ok(host_socket_accept(rig->host, rig->listen_fd, &wait, &rig->channel_fd, &err));
    say_hello(rig);
}

/* ---- A machine -------------------------------------------------------------------------------- */

#define START "{\"action_type\":\"InstanceStart\"}"
#define PAUSE "{\"state\":\"Paused\"}"
#define RESUME "{\"state\":\"Resumed\"}"

static inline void listen_for_guest(struct rig *rig) {
    struct kelpie_error err;
    ok(host_socket_listen(rig->host, VSOCK "_1024", &rig->listen_fd, &err));
}

static inline void configure(struct rig *rig, bool track) {
    takes(rig, "PUT", "/boot-source", "{\"kernel_image_path\":\"/tmp/kernel\"}");
    takes(rig, "PUT", "/vsock", "{\"guest_cid\":3,\"uds_path\":\"" VSOCK "\"}");
    takes(rig, "PUT", "/machine-config",
          track ? "{\"vcpu_count\":1,\"mem_size_mib\":8,\"track_dirty_pages\":true}"
                : "{\"vcpu_count\":1,\"mem_size_mib\":8}");
}

/* One that runs, and whose agent answers. */
static inline void boot(struct rig *rig, bool track) {
    open_firecracker(rig);
    listen_for_guest(rig);
    configure(rig, track);
    takes(rig, "PUT", "/actions", START);
    expect_guest(rig);
}

static inline void save(struct rig *rig, const char *type, const char *state, const char *memory) {
    char body[256];
    snprintf(body, sizeof(body),
             "{\"snapshot_type\":\"%s\",\"snapshot_path\":\"%s\",\"mem_file_path\":\"%s\"}", type,
             state, memory);
    takes(rig, "PUT", "/snapshot/create", body);
}

static inline uint32_t ask_load(struct rig *rig, const char *state, const char *memory,
                                const char *more) {
    char body[512];
    snprintf(body, sizeof(body),
             "{\"snapshot_path\":\"%s\",\"mem_backend\":{\"backend_type\":\"File\","
             "\"backend_path\":\"%s\"},\"resume_vm\":true%s}",
             state, memory, more);
    return ask(rig, "PUT", "/snapshot/load", body);
}

#endif
