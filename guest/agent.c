/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/checked.h"
#include "channel.h"
#include "file.h"
#include "system.h"

#define NS_PER_MS 1000000ull

/* ---- Life --------------------------------------------------------------------------------------- */

uint64_t agent_now_ns(void) {
    struct timespec now = {0};
    int failed = clock_gettime(CLOCK_MONOTONIC, &now);
    ASSERT(failed == 0);
    ASSERT(now.tv_sec >= 0);
    return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

void agent_watch(struct agent *agent, int fd, uint64_t data, uint32_t events) {
    ASSERT(agent->epoll_fd >= 0);
    ASSERT(fd >= 0);
    struct epoll_event event = {.events = events, .data = {.u64 = data}};
    int failed = epoll_ctl(agent->epoll_fd, EPOLL_CTL_ADD, fd, &event);
    if (failed != 0 && errno == EEXIST) {
        failed = epoll_ctl(agent->epoll_fd, EPOLL_CTL_MOD, fd, &event);
    }
    ASSERT(failed == 0);
}

void agent_unwatch(struct agent *agent, int fd) {
    ASSERT(agent->epoll_fd >= 0);
    ASSERT(fd >= 0);
    int failed = epoll_ctl(agent->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
    ASSERT(failed == 0);
}

static enum kelpie_status agent_open(struct agent *agent, struct kelpie_error *err) {
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGCHLD);
    sigaddset(&signals, SIGPIPE); /* a write says EPIPE; commands start with nothing blocked */
    if (sigprocmask(SIG_BLOCK, &signals, NULL) != 0) {
        return error_set_os(err, errno, "block signals");
    }
    sigdelset(&signals, SIGPIPE);
    agent->signal_fd = signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC);
    agent->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    agent->null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    agent->root_fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (agent->signal_fd < 0 || agent->epoll_fd < 0 || agent->null_fd < 0 || agent->root_fd < 0) {
        return error_set_os(err, errno, "open the agent's descriptors");
    }
    ASSERT(agent->channel_fd >= 0);
    agent->channel_events = EPOLLIN;
    agent_watch(agent, agent->channel_fd, SESSION_SOURCE_CHANNEL, EPOLLIN);
    agent_watch(agent, agent->signal_fd, SESSION_SOURCE_SIGNAL, EPOLLIN);
    ASSERT(agent->session_count == 0);
    return KELPIE_OK;
}

enum kelpie_status agent_create(int channel_fd, bool is_init, struct agent **ret_agent,
                                struct kelpie_error *err) {
    ASSERT(channel_fd >= 0);
    ASSERT(ret_agent);
    struct agent *agent =
        mmap(NULL, sizeof(*agent), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (agent == MAP_FAILED) {
        return error_set_os(err, errno, "allocate the agent");
    }
    agent->channel_fd = channel_fd;
    agent->is_init = is_init;
    agent->epoll_fd = -1;
    agent->signal_fd = -1;
    agent->null_fd = -1;
    agent->root_fd = -1;
    cgroup_set_init(&agent->cgroups);
    protocol_decoder_init(&agent->decoder, agent->input, sizeof(agent->input));
    enum kelpie_status status = agent_open(agent, err);
    if (status != KELPIE_OK) {
        agent_destroy(agent);
        return status;
    }
    if (is_init) {
        struct kelpie_error cgroup_err;
        if (cgroup_set_open(&agent->cgroups, &cgroup_err) != KELPIE_OK) {
            system_log("%s", cgroup_err.message);
        }
    }
    *ret_agent = agent;
    return KELPIE_OK;
}

void agent_destroy(struct agent *agent) {
    ASSERT(agent);
    session_release_all(agent);
    ASSERT(agent->session_count == 0);
    int fds[] = {agent->channel_fd, agent->epoll_fd, agent->signal_fd, agent->null_fd,
                 agent->root_fd};
    for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
        if (fds[i] >= 0) {
            close(fds[i]);
        }
    }
    for (uint32_t i = 0; i < agent->spare_count; i++) {
        munmap(agent->spare_sessions[i], sizeof(struct session));
    }
    munmap(agent, sizeof(*agent));
}

/* ---- Messages of the channel -------------------------------------------------------------------- */

static void on_hello(struct agent *agent, const struct protocol_hello *hello) {
    ASSERT(hello);
    outbox_clear(&agent->outbox);
    for (uint32_t i = 0; i < agent->session_count; i++) {
        session_detach(agent->sessions[i]);
    }
    agent->holding = false; /* whoever asked for it is gone */
    struct protocol_hello_ack ack = {.frozen = agent->frozen, .set_up = agent->set_up};
    memcpy(ack.nonce, hello->nonce, sizeof(ack.nonce));
    memcpy(ack.generation, agent->generation, sizeof(ack.generation));
    system_memory(&ack.memory_total_bytes, &ack.memory_available_bytes);
    struct cursor_writer writer = outbox_writer(&agent->outbox);
    protocol_encode_hello_ack(&writer, &ack);
    outbox_commit(&agent->outbox, &writer, true);
    ASSERT(!outbox_is_empty(&agent->outbox));
}

static void on_ping(struct agent *agent, const struct protocol_ping *ping) {
    ASSERT(ping);
    struct cursor_writer writer = outbox_writer(&agent->outbox);
    protocol_encode_ping(&writer, PROTOCOL_PONG, ping);
    outbox_commit(&agent->outbox, &writer, true);
    ASSERT(!outbox_is_empty(&agent->outbox));
}

static void on_setup(struct agent *agent, const struct protocol_setup *setup) {
    ASSERT(setup);
    struct kelpie_error err = {0};
    struct protocol_done done = {.message = err.message};
    if (system_set_up(agent, setup, &err) != KELPIE_OK) {
        ASSERT(err.os_error > 0);
        err.message[PROTOCOL_MESSAGE_SIZE_MAX] = 0;
        done.os_error = (uint32_t)err.os_error;
    }
    struct cursor_writer writer = outbox_writer(&agent->outbox);
    protocol_encode_done(&writer, &done);
    outbox_commit(&agent->outbox, &writer, true);
}

static void on_list(struct agent *agent) {
    ASSERT(agent->channel_fd >= 0);
    struct protocol_sessions sessions = {.count = agent->session_count};
    ASSERT(sessions.count <= ARRAY_SIZE(sessions.ids));
    for (uint32_t i = 0; i < agent->session_count; i++) {
        sessions.ids[i] = agent->sessions[i]->id;
    }
    struct cursor_writer writer = outbox_writer(&agent->outbox);
    protocol_encode_sessions(&writer, &sessions);
    outbox_commit(&agent->outbox, &writer, true);
}

static void on_status(struct agent *agent) {
    struct protocol_figures figures = {0};
    ASSERT(agent->channel_fd >= 0);
    system_memory(&figures.memory_total_bytes, &figures.memory_available_bytes);
    struct cursor_writer writer = outbox_writer(&agent->outbox);
    protocol_encode_figures(&writer, &figures);
    ASSERT(!writer.failed);
    outbox_commit(&agent->outbox, &writer, true);
}

/* FREEZE, and HOLD. */
static void on_freeze(struct agent *agent, bool holding) {
    struct kelpie_error err = {0};
    struct protocol_frozen frozen = {0};
    if (system_freeze(agent, &err) != KELPIE_OK) {
        ASSERT(err.os_error > 0);
        frozen.os_error = (uint32_t)err.os_error;
        system_log("%s", err.message);
    }
    ASSERT(!holding || frozen.os_error != 0 || agent->frozen);
    agent->holding = holding && frozen.os_error == 0;
    struct cursor_writer writer = outbox_writer(&agent->outbox);
    protocol_encode_frozen(&writer, &frozen);
    outbox_commit(&agent->outbox, &writer, true);
    ASSERT(agent->frozen == (frozen.os_error == 0));
}

/* Kept for the SETUP or THAW that follows. */
static void on_network(struct agent *agent, const struct protocol_network *network) {
    ASSERT(agent);
    ASSERT(mac_is_host(network->mac));
    agent->network = *network;
    agent->network_given = true;
}

static void on_share(struct agent *agent, const struct protocol_share *share) {
    struct kelpie_error err = {0};
    struct protocol_done done = {.message = ""};
    ASSERT(share->path[0] == '/');
    if (system_mount_share(agent, share, &err) != KELPIE_OK) {
        ASSERT(err.os_error > 0);
        done = (struct protocol_done){.os_error = (uint32_t)err.os_error, .message = err.message};
        err.message[min_size(sizeof(err.message) - 1, PROTOCOL_MESSAGE_SIZE_MAX)] = 0;
    }
    struct cursor_writer writer = outbox_writer(&agent->outbox);
    protocol_encode_shared(&writer, &done);
    outbox_commit(&agent->outbox, &writer, true);
}

static void on_thaw(struct agent *agent, const struct protocol_thaw *thaw) {
    ASSERT(thaw);
    struct protocol_thawed thawed;
    agent->holding = false;
    system_thaw(agent, thaw, &thawed);
    struct cursor_writer writer = outbox_writer(&agent->outbox);
    protocol_encode_thawed(&writer, &thawed);
    outbox_commit(&agent->outbox, &writer, true);
    ASSERT(!agent->frozen);
}

/* ---- Dispatch ----------------------------------------------------------------------------------- */

union message {
    struct protocol_hello hello;
    struct protocol_ping ping;
    struct protocol_setup setup;
    struct protocol_exec exec;
    struct protocol_file_put file_put;
    struct protocol_file_get file_get;
    struct protocol_attach attach;
    struct protocol_signal signal;
    struct protocol_resize resize;
    struct protocol_data data;
    struct protocol_ack ack;
    struct protocol_network network;
    struct protocol_share share;
    struct protocol_thaw thaw;
};

/* Does when the frame is well-formed; a malformed one makes the switch return false. */
#define WHEN(decoded, action)                                                                      \
    if (!(decoded)) {                                                                              \
        return false;                                                                              \
    }                                                                                              \
    action;                                                                                        \
    return true

/* A message to a session that is not there, or not of this connection, crossed its end: it is dropped. */
static bool dispatch_to_session(struct agent *agent, struct session *session,
                                const struct protocol_frame *frame) {
    union message message;
    ASSERT(frame->session != 0);
    bool reachable = session && session->attached;
    switch ((int)frame->type) {
    case PROTOCOL_RELEASE:
        WHEN(
            protocol_decode_empty(frame), if (session) { session_release(agent, session); });
    case PROTOCOL_SIGNAL:
        WHEN(
            protocol_decode_signal(frame, &message.signal),
            if (reachable) { session_signal(session, message.signal.number); });
    case PROTOCOL_RESIZE:
        WHEN(
            protocol_decode_resize(frame, &message.resize),
            if (reachable) { session_resize(session, &message.resize); });
    case PROTOCOL_DATA:
        return protocol_decode_data(frame, &message.data) &&
               (!reachable || session_data(agent, session, &message.data));
    case PROTOCOL_ACK:
        return protocol_decode_ack(frame, &message.ack) &&
               (!reachable || session_ack(agent, session, &message.ack));
    default:
        UNREACHABLE();
    }
}

/* Everything that the host may say. False: it may not. */
static bool dispatch(struct agent *agent, const struct protocol_frame *frame) {
    ASSERT(!agent->finished);
    union message message;
    ASSERT(frame->payload_size <= PROTOCOL_PAYLOAD_SIZE_MAX);
    struct session *session = frame->session != 0 ? session_find(agent, frame->session) : NULL;
    uint32_t id = frame->session;
    switch ((int)frame->type) {
    case PROTOCOL_HELLO:
        WHEN(protocol_decode_hello(frame, &message.hello), on_hello(agent, &message.hello));
    case PROTOCOL_PING:
        WHEN(protocol_decode_ping(frame, &message.ping), on_ping(agent, &message.ping));
    case PROTOCOL_SETUP:
        WHEN(protocol_decode_setup(frame, &message.setup), on_setup(agent, &message.setup));
    case PROTOCOL_EXEC:
        WHEN(!session && protocol_decode_exec(frame, &message.exec),
             session_exec(agent, id, &message.exec));
    case PROTOCOL_FILE_PUT:
        WHEN(!session && protocol_decode_file_put(frame, &message.file_put),
             file_put_open(agent, id, &message.file_put));
    case PROTOCOL_FILE_GET:
        WHEN(!session && protocol_decode_file_get(frame, &message.file_get),
             file_get_open(agent, id, &message.file_get));
    case PROTOCOL_ATTACH:
        WHEN(protocol_decode_attach(frame, &message.attach),
             session_attach(agent, id, &message.attach));
    case PROTOCOL_RELEASE:
    case PROTOCOL_SIGNAL:
    case PROTOCOL_RESIZE:
    case PROTOCOL_DATA:
    case PROTOCOL_ACK:
        return dispatch_to_session(agent, session, frame);
    case PROTOCOL_LIST:
        WHEN(protocol_decode_empty(frame), on_list(agent));
    case PROTOCOL_STATUS:
        WHEN(protocol_decode_empty(frame), on_status(agent));
    case PROTOCOL_FREEZE:
        WHEN(protocol_decode_empty(frame), on_freeze(agent, false));
    case PROTOCOL_HOLD:
        WHEN(protocol_decode_empty(frame), on_freeze(agent, true));
    case PROTOCOL_NETWORK:
        WHEN(protocol_decode_network(frame, &message.network), on_network(agent, &message.network));
    case PROTOCOL_SHARE:
        WHEN(protocol_decode_share(frame, &message.share), on_share(agent, &message.share));
    case PROTOCOL_THAW:
        WHEN(protocol_decode_thaw(frame, &message.thaw), on_thaw(agent, &message.thaw));
    case PROTOCOL_POWER_OFF:
        WHEN(protocol_decode_empty(frame), agent->powering_off = true);
    default:
        return false; /* what only a guest says */
    }
}

/* ---- The channel -------------------------------------------------------------------------------- */

static void channel_lost(struct agent *agent) {
    ASSERT(!agent->channel_gone);
    if (!agent->is_init && !agent->channel_dial) {
        agent->finished = true;
        return;
    }
    agent->channel_gone = true;
    outbox_clear(&agent->outbox);
    protocol_decoder_scan(&agent->decoder);
    agent_unwatch(agent, agent->channel_fd);
    if (agent->channel_dial) {
        close(agent->channel_fd);
        agent->channel_fd = -1;
    }
    ASSERT(outbox_is_empty(&agent->outbox));
}

/* A closed port would be reported again and again: it is only looked at from time to time. */
static bool port_is_back(const struct agent *agent) {
    ASSERT(agent->is_init);
    ASSERT(agent->channel_fd >= 0);
    struct pollfd item = {.fd = agent->channel_fd, .events = POLLIN};
    return poll(&item, 1, 0) >= 0 && (item.revents & (POLLHUP | POLLERR)) == 0;
}

/* A host that is there answers at once, so a fresh call is waited for a moment; then it is looked at from time to time. */
static bool dial_succeeds(struct agent *agent) {
    ASSERT(agent->channel_gone);
    bool fresh = agent->channel_fd < 0;
    if (fresh) {
        agent->channel_fd = agent->channel_dial();
    }
    if (agent->channel_fd < 0) {
        return false;
    }
    enum channel_progress progress =
        channel_progress(agent->channel_fd, fresh ? GUEST_DIAL_WAIT_MS : 0);
    if (progress == CHANNEL_FAILED) {
        close(agent->channel_fd);
        agent->channel_fd = -1;
    }
    return progress == CHANNEL_CONNECTED;
}

static void channel_retry(struct agent *agent) {
    ASSERT(agent->channel_gone);
    ASSERT(agent->is_init || agent->channel_dial);
    if (agent->channel_dial ? dial_succeeds(agent) : port_is_back(agent)) {
        ASSERT(agent->channel_fd >= 0);
        agent->channel_gone = false;
        agent->channel_events = EPOLLIN;
        agent_watch(agent, agent->channel_fd, SESSION_SOURCE_CHANNEL, EPOLLIN);
    }
}

/* Takes frames as long as there is room for what they may make us answer. */
static void channel_decode(struct agent *agent) {
    ASSERT(!agent->channel_gone);
    ASSERT(!agent->finished);
    struct protocol_frame frame;
    while (!agent->powering_off && outbox_room(&agent->outbox) >= GUEST_FRAME_ROOM_MIN) {
        enum protocol_result result = protocol_decoder_next(&agent->decoder, &frame);
        if (result == PROTOCOL_RESULT_MORE) {
            return;
        }
        if (result == PROTOCOL_RESULT_MALFORMED || !dispatch(agent, &frame)) {
            protocol_decoder_scan(&agent->decoder);
        }
    }
}

static void channel_read(struct agent *agent) {
    ASSERT(!agent->channel_gone);
    size_t room = 0;
    uint8_t *space = protocol_decoder_space(&agent->decoder, &room);
    ASSERT(space);
    if (room == 0) {
        return; /* full of frames that wait for room in the outbox */
    }
    ssize_t count = read(agent->channel_fd, space, room);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (count <= 0) {
        channel_lost(agent);
        return;
    }
    ASSERT((size_t)count <= room);
    protocol_decoder_filled(&agent->decoder, (size_t)count);
}

/* Reads only when there is room for answers, waits for writability only when there was none. */
static void channel_watch(struct agent *agent) {
    ASSERT(agent->epoll_fd >= 0);
    if (agent->channel_gone || agent->finished) {
        return;
    }
    bool reads = outbox_room(&agent->outbox) >= GUEST_FRAME_ROOM_MIN;
    uint32_t events =
        (reads ? (uint32_t)EPOLLIN : 0) | (agent->outbox.blocked ? (uint32_t)EPOLLOUT : 0);
    if (events != agent->channel_events) {
        agent->channel_events = events;
        agent_watch(agent, agent->channel_fd, SESSION_SOURCE_CHANNEL, events);
    }
    ASSERT(agent->channel_events == events);
}

/* ---- The loop ----------------------------------------------------------------------------------- */

static void reap(struct agent *agent) {
    struct signalfd_siginfo info;
    (void)!read(agent->signal_fd, &info, sizeof(info)); /* one stands for all: waitpid tells */
    for (uint32_t i = 0; i < GUEST_REAP_COUNT_MAX; i++) {
        int wait_status = 0;
        pid_t pid = waitpid(-1, &wait_status, WNOHANG);
        if (pid <= 0) {
            return;
        }
        ASSERT(WIFEXITED(wait_status) || WIFSIGNALED(wait_status));
        for (uint32_t j = 0; j < agent->session_count; j++) {
            if (session_reaped(agent, agent->sessions[j], pid, wait_status)) {
                break;
            }
        }
    }
    ASSERT(agent->signal_fd >= 0);
}

static void on_event(struct agent *agent, const struct epoll_event *event) {
    ASSERT(!agent->finished);
    enum session_source source = (enum session_source)(event->data.u64 & 0xff);
    ASSERT(source <= SESSION_SOURCE_STDERR);
    if (source == SESSION_SOURCE_CHANNEL) {
        agent->outbox.blocked =
            agent->outbox.blocked && (event->events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) == 0;
        if ((event->events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) {
            channel_read(agent);
        }
    } else if (source == SESSION_SOURCE_SIGNAL) {
        reap(agent);
    } else {
        struct session *session = session_find(agent, (uint32_t)(event->data.u64 >> 8));
        if (session && session->kind == SESSION_COMMAND) {
            session_event(agent, session, source, event->events);
        }
    }
}

/* Lets the sessions speak in turn until the outbox is full or nobody has anything to say. True: full. */
static bool pump(struct agent *agent) {
    ASSERT(!agent->channel_gone);
    uint32_t silent = 0;
    ASSERT(!agent->frozen || agent->holding);
    while (silent < agent->session_count) {
        if (outbox_room(&agent->outbox) < GUEST_FRAME_ROOM_MIN) {
            return true;
        }
        agent->next_turn = (agent->next_turn + 1) % agent->session_count;
        struct session *session = agent->sessions[agent->next_turn];
        ASSERT(session);
        silent = session_pump(agent, session) ? 0 : silent + 1;
    }
    return false;
}

static void send_all(struct agent *agent) {
    ASSERT(!agent->channel_gone);
    struct outbox *outbox = &agent->outbox;
    for (uint32_t round = 0; round < GUEST_PUMP_ROUND_COUNT_MAX; round++) {
        bool speaks = !agent->frozen || agent->holding;
        bool full = speaks && !agent->channel_gone && pump(agent);
        if (outbox->blocked || !(outbox->urgent || full)) {
            return;
        }
        ASSERT(agent->channel_fd >= 0);
        if (!outbox_flush(outbox, agent->channel_fd)) {
            channel_lost(agent);
            return;
        }
        channel_decode(agent);
        if (!full && !outbox->urgent) {
            return;
        }
    }
}

static int wait_ms(const struct agent *agent) {
    ASSERT(!agent->finished);
    uint64_t deadline = UINT64_MAX;
    for (uint32_t i = 0; i < agent->session_count && !agent->frozen; i++) {
        ASSERT(agent->sessions[i]);
        deadline = min_u64(deadline, session_deadline(agent->sessions[i]));
    }
    uint64_t wait = UINT64_MAX;
    if (deadline != UINT64_MAX) {
        uint64_t now = agent_now_ns();
        wait = deadline > now ? (deadline - now + NS_PER_MS - 1) / NS_PER_MS : 0;
    }
    if (outbox_is_lazy(&agent->outbox)) {
        wait = min_u64(wait, GUEST_LAZY_MS);
    }
    if (agent->channel_gone) {
        wait = min_u64(wait, GUEST_CHANNEL_RETRY_MS);
    }
    ASSERT(agent->session_count <= PROTOCOL_SESSION_COUNT_MAX);
    return wait > INT32_MAX ? -1 : (int)wait;
}

static void tick(struct agent *agent) {
    ASSERT(!agent->finished);
    uint64_t now = 0;
    for (uint32_t i = 0; i < agent->session_count && !agent->frozen; i++) {
        struct session *session = agent->sessions[i];
        ASSERT(session);
        if (session_deadline(session) == UINT64_MAX) {
            continue;
        }
        now = now == 0 ? agent_now_ns() : now;
        session_tick(agent, session, now);
    }
    ASSERT(agent->session_count <= PROTOCOL_SESSION_COUNT_MAX);
}

static void turn(struct agent *agent) {
    ASSERT(agent->epoll_fd >= 0);
    struct epoll_event events[GUEST_EVENT_COUNT_MAX];
    struct outbox *outbox = &agent->outbox;
    int count = epoll_wait(agent->epoll_fd, events, GUEST_EVENT_COUNT_MAX, wait_ms(agent));
    ASSERT(count >= 0 || errno == EINTR);
    if (outbox_is_lazy(outbox)) {
        outbox->lazy_rounds++;
        outbox->urgent = count == 0 || outbox->lazy_rounds >= GUEST_LAZY_ROUND_COUNT;
    }
    for (int i = 0; i < count && !agent->finished; i++) {
        on_event(agent, &events[i]);
    }
    if (agent->finished) {
        return;
    }
    tick(agent);
    if (agent->channel_gone) {
        channel_retry(agent);
    } else {
        channel_decode(agent);
        send_all(agent);
        channel_watch(agent);
    }
}

void agent_run(struct agent *agent) {
    ASSERT(agent);
    ASSERT(agent->epoll_fd >= 0);
    while (!agent->finished && !agent->powering_off) {
        turn(agent);
    }
    system_shut_down(agent);
}
