/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The scripted Firecracker as a process: its command line, its loop, its connection, and the faults of a monitor. */
#include "sim/peer/firecracker.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "sim/peer/script.h"

#define STDOUT 1
#define STDERR 2
#define GOES_ON (-1)
#define EXIT_BAD_CONFIGURATION 152 /* Firecracker's own numbers */
#define EXIT_ARGUMENTS 153
#define DEFAULT_SOCKET "/run/firecracker.socket"
#define DEFAULT_ID "anonymous-instance"
#define ANSWER_SIZE_MAX (HTTP_HEAD_SIZE_MAX + FIRECRACKER_STATE_SIZE_MAX)

enum stage { STAGE_READING = 0, STAGE_HELD, STAGE_SENDING };

/* Large: not for a stack. */
struct firecracker {
    const struct sim_peer *peer;
    struct host *host;
    const char *socket;
    int listen_fd;
    int fd; /* the connection; HOST_FD_NONE: none */
    bool deaf;
    bool closing; /* the connection, after what is to be sent */
    enum stage stage;
    uint64_t due_ns; /* HELD, SENDING: not before */
    struct firecracker_api api;
    struct firecracker_machine machine;
    struct http_parser parser;
    char in[FIRECRACKER_READ_SIZE];
    size_t in_start;
    size_t in_end;
    char out[ANSWER_SIZE_MAX];
    size_t out_start;
    size_t out_end;
};

static void fc_check(const struct firecracker *fc) {
    ASSERT(fc->host == fc->peer->host);
    ASSERT(fc->in_start <= fc->in_end && fc->in_end <= sizeof(fc->in));
    ASSERT(fc->out_start <= fc->out_end && fc->out_end <= sizeof(fc->out));
}

/* ---- Words ------------------------------------------------------------------------------------ */

static void say(const struct sim_peer *peer, int fd, const char *text) {
    const struct host_wait wait = host_wait_ms(peer->host, FIRECRACKER_LAST_WORDS_MS, HOST_FD_NONE);
    char line[FIRECRACKER_SAID_SIZE_MAX];
    struct kelpie_error ignored;
    ASSERT(text);
    int size = snprintf(line, sizeof(line), "%.*s\n", (int)sizeof(line) - 2, text);
    ASSERT(size > 0 && (size_t)size < sizeof(line));
    (void)!host_write_all(peer->host, fd, line, (size_t)size, &wait, &ignored);
}

static void chatter(const struct sim_peer *peer) {
    const struct host_wait no_wait = host_wait_none();
    int fd = sim_peer_choose(peer, 2) == 0 ? STDOUT : STDERR;
    uint64_t left = 1 + sim_peer_choose(peer, FIRECRACKER_CHATTER_SIZE_MAX);
    ASSERT(left <= FIRECRACKER_CHATTER_SIZE_MAX);
    while (left > 0) {
        static const char line[] = "[vm:fc_api:WARN] a line of the log that nobody has asked for\n";
        struct kelpie_error ignored;
        size_t size = 0;
        if (host_write(peer->host, fd, line, (size_t)min_u64(left, strlen(line)), &no_wait, &size,
                       &ignored) != KELPIE_OK) {
            return; /* nobody reads it */
        }
        ASSERT(size <= left);
        left -= size;
    }
}

/* ---- The connection --------------------------------------------------------------------------- */

static void hang_up(struct firecracker *fc) {
    fc_check(fc);
    host_close(fc->host, fc->fd);
    fc->fd = HOST_FD_NONE;
    fc->closing = false;
    fc->stage = STAGE_READING;
    fc->in_start = fc->in_end = 0;
    fc->out_start = fc->out_end = 0;
    http_parser_init(&fc->parser);
    ASSERT(fc->fd == HOST_FD_NONE);
}

/* Behind what is to be sent already. */
static void queue(struct firecracker *fc, const struct http_response *response) {
    fc_check(fc);
    ASSERT(fc->fd != HOST_FD_NONE);
    size_t size = 0;
    struct kelpie_error err;
    if (http_response_encode(response, fc->out + fc->out_end, sizeof(fc->out) - fc->out_end, &size,
                             &err) != KELPIE_OK) {
        fc->closing = true; /* no config is that long */
        return;
    }
    fc->out_end += size;
    fc->stage = STAGE_SENDING;
}

static void queue_answer(struct firecracker *fc, const struct firecracker_answer *answer) {
    fc_check(fc);
    ASSERT(answer->status >= 200);
    const struct http_response response = {.status = answer->status,
                                           .deprecated = answer->deprecated,
                                           .body = answer->body,
                                           .body_size = answer->body_size};
    queue(fc, &response);
}

/* As Firecracker's server answers what is no request. */
static void queue_bad(struct firecracker *fc) {
    char body[HTTP_REASON_SIZE + 128];
    fc_check(fc);
    ASSERT(fc->parser.state == HTTP_STATE_BAD);
    int size = snprintf(body, sizeof(body),
                        "{ \"error\": \"%s\\nAll previous unanswered requests will be dropped.\" }",
                        fc->parser.reason);
    const struct http_response response = {.status = 400, .body = body, .body_size = (size_t)size};
    queue(fc, &response);
    fc->closing = true;
}

static void send_some(struct firecracker *fc) {
    const struct host_wait no_wait = host_wait_none();
    struct kelpie_error ignored;
    size_t size = 0;
    fc_check(fc);
    ASSERT(fc->out_start < fc->out_end);
    enum kelpie_status status = host_write(fc->host, fc->fd, fc->out + fc->out_start,
                                           fc->out_end - fc->out_start, &no_wait, &size, &ignored);
    if (status == KELPIE_TIMED_OUT) {
        return;
    }
    fc->out_start += status == KELPIE_OK ? size : 0;
    if (status != KELPIE_OK || (fc->out_start == fc->out_end && fc->closing)) {
        hang_up(fc);
    } else if (fc->out_start == fc->out_end) {
        fc->out_start = fc->out_end = 0;
        fc->stage = STAGE_READING;
    }
}

/* ---- Faults ----------------------------------------------------------------------------------- */

/* Each is asked about once for each request. */
static enum peer_script ask_faults(const struct sim_peer *peer) {
    ASSERT(peer);
    ASSERT(peer->host);
    if (sim_peer_fault(peer, SIM_FAULT_PEER_CHATTERS)) {
        chatter(peer);
    }
    return peer_script_ask(peer);
}

/* Returns the exit code, if it ends by itself. */
static int die(const struct sim_peer *peer) {
    ASSERT(peer);
    ASSERT(peer->host);
    switch (sim_peer_choose(peer, 3)) {
    case 0:
        sim_peer_die(peer, SIGKILL);
    case 1:
        sim_peer_die(peer, SIGSYS); /* what its own seccomp filter does to it */
    default:
        say(peer, STDERR, "[vm:main:ERROR] RunWithApiError error: something is wrong");
        return 1;
    }
}

static uint64_t later_ns(struct firecracker *fc) {
    fc_check(fc);
    uint64_t seconds = 1 + sim_peer_choose(fc->peer, FIRECRACKER_SLOW_S_MAX);
    ASSERT(seconds <= FIRECRACKER_SLOW_S_MAX);
    return host_monotonic_ns(fc->host) + seconds * HOST_NS_PER_S;
}

static void refuse(struct firecracker *fc) {
    struct firecracker_answer answer = {0};
    fc_check(fc);
    ASSERT(fc->stage == STAGE_READING);
    firecracker_answer_fault(&answer, sim_peer_choose(fc->peer, 2) == 0 ? 400 : 500,
                             "refused, for no reason that is told");
    queue_answer(fc, &answer);
    firecracker_answer_deinit(&answer);
}

/* Bytes in the place of an answer, and no more on this connection or, as far as the client can tell, more to come. */
static void queue_garbage(struct firecracker *fc) {
    static const char *const wrong[] = {
        "HTP/1.1 2o4 \r\n\r\n",
        "HTTP/1.1 204\r\nno colon here\r\n\r\n",
        "HTTP/1.1 200 \r\nContent-Length: 4000\r\n\r\n{\"id\":",
        "HTTP/1.1 200 \r\nContent-Length: -7\r\n\r\n{}",
        "HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\n{}, and what no one expects",
        "HTTP/1.1 400 \r\nContent-Length: 18\r\n\r\n{\"fault_message\": 7",
        "HTTP/1.1 200 \r\nContent-Length: 9\r\n\r\nnot JSON!",
        "HTTP/1.1 200 \r\nContent-Length: 18446744073709551617\r\n\r\n",
    };
    fc_check(fc);
    uint64_t which = sim_peer_choose(fc->peer, ARRAY_SIZE(wrong) + 1);
    size_t size = 1 + (size_t)sim_peer_choose(fc->peer, FIRECRACKER_GARBAGE_SIZE_MAX);
    fc->out_start = 0;
    if (which < ARRAY_SIZE(wrong)) {
        size = strlen(wrong[which]);
        memcpy(fc->out, wrong[which], size);
    } else {
        for (size_t i = 0; i < size; i++) {
            fc->out[i] = (char)sim_peer_choose(fc->peer, 256);
        }
    }
    fc->out_end = size;
    fc->stage = STAGE_SENDING;
    fc->closing = sim_peer_choose(fc->peer, 2) == 0;
    ASSERT(fc->out_end > 0);
}

/* ---- Requests --------------------------------------------------------------------------------- */

/* Does what the request says and leaves its answer. */
static void carry_out(struct firecracker *fc) {
    struct firecracker_order order = {0};
    struct firecracker_answer answer = {0};
    char fault[FIRECRACKER_FAULT_SIZE];
    fc_check(fc);
    ASSERT(fc->fd != HOST_FD_NONE);
    if (firecracker_api_begin(&fc->api, &fc->parser.request, &order, &answer)) {
        const char *failure = firecracker_machine_obey(&fc->machine, &fc->api, &order, fault);
        firecracker_api_end(&fc->api, &order, failure, &answer);
    }
    queue_answer(fc, &answer);
    firecracker_answer_deinit(&answer);
}

static void drop_answer(struct firecracker *fc) {
    fc_check(fc);
    ASSERT(fc->stage == STAGE_SENDING);
    fc->out_start = fc->out_end = 0;
    fc->stage = STAGE_READING;
}

/* A whole request is there. Returns an exit code, or GOES_ON. */
static int take_request(struct firecracker *fc) {
    fc_check(fc);
    ASSERT(fc->stage == STAGE_READING);
    enum peer_script script = ask_faults(fc->peer);
    fc->due_ns = 0;
    switch (script) {
    case SCRIPT_DEAF:
        fc->deaf = true;
        return GOES_ON;
    case SCRIPT_DIES_BEFORE:
        return die(fc->peer);
    case SCRIPT_REFUSES:
        refuse(fc);
        return GOES_ON;
    case SCRIPT_SLOW_BEFORE:
        fc->stage = STAGE_HELD;
        fc->due_ns = later_ns(fc);
        return GOES_ON;
    case SCRIPT_HONEST:
    case SCRIPT_UNANSWERED:
    case SCRIPT_SLOW_AFTER:
    case SCRIPT_GARBAGE:
    case SCRIPT_DIES_AFTER:
        carry_out(fc);
        break;
    default:
        UNREACHABLE();
    }
    if (script == SCRIPT_DIES_AFTER) {
        return die(fc->peer);
    }
    if (script == SCRIPT_UNANSWERED) {
        drop_answer(fc);
    } else if (script == SCRIPT_GARBAGE) {
        queue_garbage(fc);
    } else if (script == SCRIPT_SLOW_AFTER) {
        fc->due_ns = later_ns(fc);
    }
    return GOES_ON;
}

/* Goes on with what was read, up to the next answer. Returns an exit code, or GOES_ON. */
static int take_bytes(struct firecracker *fc) {
    fc_check(fc);
    ASSERT(fc->fd != HOST_FD_NONE);
    int code = GOES_ON;
    while (code == GOES_ON && !fc->deaf && fc->stage == STAGE_READING &&
           fc->in_start < fc->in_end) {
        const struct http_response go_on = {.status = 100};
        size_t taken = 0;
        enum http_event event =
            http_parser_feed(&fc->parser, fc->in + fc->in_start, fc->in_end - fc->in_start, &taken);
        fc->in_start += taken;
        switch (event) {
        case HTTP_EVENT_MORE:
            break;
        case HTTP_EVENT_CONTINUE:
            fc->due_ns = 0;
            queue(fc, &go_on);
            break;
        case HTTP_EVENT_REQUEST:
            code = take_request(fc);
            break;
        case HTTP_EVENT_BAD:
            fc->due_ns = 0;
            queue_bad(fc);
            break;
        }
    }
    return code;
}

static int read_some(struct firecracker *fc) {
    const struct host_wait no_wait = host_wait_none();
    struct kelpie_error ignored;
    size_t size = 0;
    fc_check(fc);
    ASSERT(fc->in_start == fc->in_end);
    enum kelpie_status status =
        host_read(fc->host, fc->fd, fc->in, sizeof(fc->in), &no_wait, &size, &ignored);
    if (status == KELPIE_TIMED_OUT) {
        return GOES_ON;
    }
    if (status != KELPIE_OK || size == 0) {
        hang_up(fc);
        return GOES_ON;
    }
    fc->in_start = 0;
    fc->in_end = size;
    return take_bytes(fc);
}

/* ---- The loop --------------------------------------------------------------------------------- */

enum item {
    ITEM_API = PEER_GUEST_ITEM_COUNT + FIRECRACKER_VSOCK_ITEM_COUNT, /* before: the machine's */
    ITEM_COUNT
};
static_assert(ITEM_COUNT <= HOST_POLL_COUNT_MAX, "one call waits for all of them");

static void api_item(const struct firecracker *fc, struct host_poll_item *item) {
    fc_check(fc);
    ASSERT(item);
    bool due = host_monotonic_ns(fc->host) >= fc->due_ns;
    *item = (struct host_poll_item){.fd = HOST_FD_NONE};
    if (fc->deaf) {
        return;
    }
    if (fc->fd == HOST_FD_NONE) {
        *item = (struct host_poll_item){.fd = fc->listen_fd, .asked = HOST_POLL_READ};
    } else if (fc->stage == STAGE_READING) {
        *item = (struct host_poll_item){.fd = fc->fd, .asked = HOST_POLL_READ};
    } else if (fc->stage == STAGE_SENDING && due) {
        *item = (struct host_poll_item){.fd = fc->fd, .asked = HOST_POLL_WRITE};
    }
}

static void fill_items(struct firecracker *fc, struct host_poll_item items[ITEM_COUNT],
                       struct host_wait *wait) {
    fc_check(fc);
    ASSERT(wait->cancel_fd == HOST_FD_NONE);
    struct firecracker_machine *machine = &fc->machine;
    for (size_t i = 0; i < ITEM_COUNT; i++) {
        items[i] = (struct host_poll_item){.fd = HOST_FD_NONE};
    }
    wait->deadline_ns = UINT64_MAX;
    if (!fc->deaf && fc->stage != STAGE_READING && fc->due_ns > host_monotonic_ns(fc->host)) {
        wait->deadline_ns = fc->due_ns;
    }
    if (firecracker_machine_runs(machine)) {
        peer_guest_items(machine->guest, items);
        firecracker_vsock_items(&machine->vsock, items + PEER_GUEST_ITEM_COUNT);
        wait->deadline_ns = min_u64(wait->deadline_ns, peer_guest_deadline_ns(machine->guest));
        wait->deadline_ns =
            min_u64(wait->deadline_ns, firecracker_vsock_deadline_ns(&machine->vsock));
    }
    api_item(fc, &items[ITEM_API]);
}

/* The guest's turn. Returns an exit code, or GOES_ON. */
static int service_machine(struct firecracker *fc, const struct host_poll_item items[ITEM_COUNT]) {
    struct firecracker_machine *machine = &fc->machine;
    struct kelpie_error err;
    fc_check(fc);
    ASSERT(firecracker_machine_runs(machine));
    peer_guest_service(machine->guest, items);
    if (peer_guest_outcome(machine->guest) != PEER_GUEST_RUNS) {
        say(fc->peer, STDOUT,
            "[vm:main] Vmm is stopping. Firecracker exiting successfully. "
            "exit_code=0");
        return 0;
    }
    firecracker_vsock_service(&machine->vsock, items + PEER_GUEST_ITEM_COUNT);
    if (firecracker_machine_replug(machine, &err) != KELPIE_OK) {
        say(fc->peer, STDERR, err.message);
        return 1;
    }
    return GOES_ON;
}

static int service_api(struct firecracker *fc, uint32_t ready) {
    const struct host_wait no_wait = host_wait_none();
    struct kelpie_error ignored;
    fc_check(fc);
    ASSERT(!fc->deaf);
    if (fc->fd == HOST_FD_NONE) {
        int fd = HOST_FD_NONE;
        if ((ready & HOST_POLL_READ) &&
            host_socket_accept(fc->host, fc->listen_fd, &no_wait, &fd, &ignored) == KELPIE_OK) {
            fc->fd = fd;
        }
        return GOES_ON;
    }
    if (fc->stage == STAGE_HELD && host_monotonic_ns(fc->host) >= fc->due_ns) {
        carry_out(fc);
    } else if (fc->stage == STAGE_SENDING && (ready & HOST_POLL_WRITE)) {
        send_some(fc);
    } else if (fc->stage == STAGE_READING && (ready & HOST_POLL_READ)) {
        return read_some(fc);
    }
    /* What came behind the last request. */
    return fc->fd != HOST_FD_NONE ? take_bytes(fc) : GOES_ON;
}

/* An order ended the machine; its answer is sent first. */
static bool has_ended(const struct firecracker *fc) {
    fc_check(fc);
    ASSERT(fc->stage != STAGE_SENDING || fc->fd != HOST_FD_NONE);
    return fc->machine.ends && (fc->deaf || fc->stage != STAGE_SENDING);
}

static int run(struct firecracker *fc) {
    fc_check(fc);
    ASSERT(!fc->machine.guest);
    int code = GOES_ON;
    while (code == GOES_ON) {
        struct host_poll_item items[ITEM_COUNT];
        struct host_wait wait = {.cancel_fd = HOST_FD_NONE};
        struct kelpie_error err;
        if (fc->deaf && !fc->machine.guest) {
            sim_peer_hang(fc->peer);
        }
        fill_items(fc, items, &wait);
        enum kelpie_status status = host_poll(fc->host, items, ITEM_COUNT, &wait, &err);
        if (status != KELPIE_OK && status != KELPIE_TIMED_OUT) {
            say(fc->peer, STDERR, err.message);
            return 1;
        }
        if (firecracker_machine_runs(&fc->machine)) {
            code = service_machine(fc, items);
        }
        if (code == GOES_ON && !fc->deaf) {
            code = service_api(fc, items[ITEM_API].ready);
        }
        if (code == GOES_ON && has_ended(fc)) {
            code = fc->machine.exit_code;
        }
    }
    return code;
}

/* ---- The process ------------------------------------------------------------------------------ */

struct options {
    const char *socket;
    const char *id;
    bool version;
};

static bool takes_value(const char *option) {
    static const char *const known[] = {"--api-sock",      "--id",         "--log-path", "--level",
                                        "--start-time-us", "--config-file"};
    ASSERT(option);
    size_t i = 0;
    while (i < ARRAY_SIZE(known) && strcmp(known[i], option) != 0) {
        i++;
    }
    ASSERT(i <= ARRAY_SIZE(known));
    return i < ARRAY_SIZE(known);
}

/* Returns an exit code, or GOES_ON. */
static int read_options(const struct sim_peer *peer, struct options *ret_options) {
    struct options options = {.socket = DEFAULT_SOCKET, .id = DEFAULT_ID};
    ASSERT(peer->argc > 0);
    ASSERT(peer->argv);
    for (size_t i = 1; i < peer->argc; i++) {
        const char *option = peer->argv[i];
        bool has_value = takes_value(option);
        const char *value = has_value && i + 1 < peer->argc ? peer->argv[i + 1] : NULL;
        i += has_value;
        if (has_value && !value) {
            say(peer, STDERR, "Arguments parsing error: the argument requires a value.");
            return EXIT_ARGUMENTS;
        }
        if (strcmp(option, "--version") == 0) {
            options.version = true;
        } else if (strcmp(option, "--api-sock") == 0) {
            options.socket = value;
        } else if (strcmp(option, "--id") == 0) {
            options.id = value;
        } else if (strcmp(option, "--config-file") == 0) {
            say(peer, STDERR, "Bad configuration: --config-file is not simulated.");
            return EXIT_BAD_CONFIGURATION;
        } else if (!has_value && strcmp(option, "--no-seccomp") != 0 &&
                   strcmp(option, "--show-level") != 0) {
            say(peer, STDERR, "Arguments parsing error: found an argument that was not expected.");
            return EXIT_ARGUMENTS;
        }
    }
    if (!firecracker_id_is_valid(options.id)) {
        say(peer, STDERR, "Invalid instance ID.");
        return EXIT_ARGUMENTS;
    }
    *ret_options = options;
    return GOES_ON;
}

static void fc_deinit(struct firecracker *fc) {
    fc_check(fc);
    host_close(fc->host, fc->fd);
    host_close(fc->host, fc->listen_fd);
    fc->fd = fc->listen_fd = HOST_FD_NONE;
    firecracker_machine_deinit(&fc->machine);
    firecracker_api_deinit(&fc->api);
    ASSERT(!fc->machine.guest);
}

static int serve(struct firecracker *fc, const struct options *options) {
    struct kelpie_error err;
    fc->fd = fc->listen_fd = HOST_FD_NONE;
    firecracker_machine_init(&fc->machine, fc->peer);
    http_parser_init(&fc->parser);
    fc_check(fc);
    ASSERT(options->socket);
    bool made = firecracker_api_init(&fc->api, options->id);
    int code = 1;
    if (!made || host_socket_listen(fc->host, options->socket, &fc->listen_fd, &err) != KELPIE_OK) {
        say(fc->peer, STDERR,
            "RunWithApiError error: Failed to open the API socket. Check that it is not already "
            "used.");
    } else {
        say(fc->peer, STDOUT, "[vm:main] Running Firecracker v" FIRECRACKER_VERSION);
        code = run(fc);
    }
    fc_deinit(fc);
    return code;
}

/* --version. Returns the exit code. */
static int tell_version(const struct sim_peer *peer) {
    ASSERT(peer);
    ASSERT(peer->host);
    const enum peer_script script = peer_script_ask(peer);
    struct kelpie_error ignored;
    if (script == SCRIPT_DEAF || script == SCRIPT_UNANSWERED) {
        sim_peer_hang(peer);
    }
    if (script == SCRIPT_DIES_BEFORE || script == SCRIPT_DIES_AFTER) {
        return die(peer);
    }
    if (script == SCRIPT_SLOW_BEFORE || script == SCRIPT_SLOW_AFTER) {
        const struct host_wait slow = host_wait_ms(
            peer->host, (1 + sim_peer_choose(peer, FIRECRACKER_SLOW_S_MAX)) * 1000, HOST_FD_NONE);
        (void)!host_sleep(peer->host, &slow, &ignored);
    }
    if (script == SCRIPT_REFUSES) {
        say(peer, STDERR, "Arguments parsing error: found an argument that was not expected.");
        return EXIT_ARGUMENTS;
    }
    say(peer, STDOUT,
        script == SCRIPT_GARBAGE ? "a version of nothing" : "Firecracker v" FIRECRACKER_VERSION);
    return 0;
}

int peer_firecracker_main(const struct sim_peer *peer) {
    struct options options = {0};
    struct kelpie_error err;
    ASSERT(peer);
    ASSERT(peer->host);
    int code = read_options(peer, &options);
    if (code != GOES_ON) {
        return code;
    }
    if (options.version) {
        return tell_version(peer);
    }
    AUTO_MEM struct firecracker *fc = host_allocate(peer->host, sizeof(*fc), &err);
    if (!fc) {
        return 1;
    }
    fc->peer = peer;
    fc->host = peer->host;
    return serve(fc, &options);
}
