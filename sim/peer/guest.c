/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "sim/peer/guest.h"

#include <stdio.h>
#include <string.h>

#include "backend/mock/mock_state.h"
#include "base/assert.h"
#include "base/cleanup.h"

#define SAVED_MAGIC 0x5453455547504c4bull /* "KLPGUEST" */
#define SAVED_HEADER_SIZE 48

struct peer_guest {
    struct peer_guest_config config;
    struct host *host;
    struct mock_guest *mock;
    struct mock_bytes console; /* not written yet */
    enum peer_guest_outcome outcome;
    bool paused;
    bool more;        /* it could go on at once */
    bool hung_up;     /* nobody is at the other end of the channel */
    bool silent;      /* a fault: for ever */
    bool up;          /* booting is over */
    uint64_t busy_ns; /* it hears nothing before: it boots, or is slow */
    uint64_t paused_ns;
};

static void guest_check(const struct peer_guest *guest) {
    ASSERT(guest);
    ASSERT(guest->host && guest->mock);
    ASSERT(guest->console.size <= PEER_GUEST_CONSOLE_SIZE_MAX);
}

enum kelpie_status peer_guest_create(const struct peer_guest_config *config,
                                     struct peer_guest **ret_guest, struct kelpie_error *err) {
    ASSERT(config->peer);
    ASSERT(config->channel_fd != HOST_FD_NONE);
    struct host *host = config->peer->host;
    AUTO_MEM struct peer_guest *guest = host_allocate(host, sizeof(*guest), err);
    if (!guest) {
        return KELPIE_NO_MEMORY;
    }
    *guest = (struct peer_guest){
        .config = *config, .host = host, .console = mock_bytes_init(host), .paused = true};
    TRY(mock_guest_create(host, config->memory_bytes, &guest->mock, err));
    guest->paused_ns = guest->mock->clock_ns;
    *ret_guest = TAKE(guest);
    return KELPIE_OK;
}

void peer_guest_destroy(struct peer_guest *guest) {
    if (!guest) {
        return;
    }
    guest_check(guest);
    ASSERT(guest->config.peer);
    mock_guest_destroy(guest->mock);
    mock_bytes_deinit(&guest->console);
    free(guest);
}

/* ---- The console ------------------------------------------------------------------------------ */

static void console_flush(struct peer_guest *guest) {
    guest_check(guest);
    ASSERT(guest->config.peer);
    const struct host_wait no_wait = host_wait_none();
    struct mock_bytes *console = &guest->console;
    for (int i = 0; i < PEER_GUEST_CONSOLE_WRITE_COUNT_MAX && console->size > 0; i++) {
        size_t size = 0;
        struct kelpie_error ignored;
        enum kelpie_status status = host_write(guest->host, guest->config.console_fd, console->data,
                                               console->size, &no_wait, &size, &ignored);
        if (status == KELPIE_TIMED_OUT) {
            return;
        }
        if (status != KELPIE_OK) {
            guest->config.console_fd = HOST_FD_NONE; /* nobody reads it any more */
            mock_bytes_deinit(console);
            return;
        }
        mock_bytes_drop(console, size);
    }
}

/* One line; it is lost when too much waits already. */
static void console_say(struct peer_guest *guest, const char *line) {
    guest_check(guest);
    ASSERT(line);
    struct mock_bytes *console = &guest->console;
    size_t size = strlen(line);
    if (guest->config.console_fd == HOST_FD_NONE ||
        console->size + size > PEER_GUEST_CONSOLE_SIZE_MAX) {
        return;
    }
    mock_bytes_append(console, line, size);
    console->failed = false; /* a line without room in memory is lost, too */
}

static void console_chatter(struct peer_guest *guest) {
    guest_check(guest);
    const struct sim_peer *peer = guest->config.peer;
    ASSERT(peer);
    uint64_t count = PEER_GUEST_CHATTER_LINE_COUNT_MIN +
                     sim_peer_choose(peer, PEER_GUEST_CHATTER_LINE_COUNT_MAX -
                                               PEER_GUEST_CHATTER_LINE_COUNT_MIN);
    char line[PEER_GUEST_LINE_SIZE_MAX];
    for (uint64_t i = 0; i < count; i++) {
        snprintf(line, sizeof(line), "chatter: line %llu of %llu, and nobody had asked\n",
                 (unsigned long long)i, (unsigned long long)count);
        console_say(guest, line);
    }
}

/* ---- Life ------------------------------------------------------------------------------------- */

enum kelpie_status peer_guest_boot(struct peer_guest *guest, struct kelpie_error *err) {
    guest_check(guest);
    ASSERT(guest->outcome == PEER_GUEST_RUNS && !guest->up);
    TRY(mock_guest_boot(guest->mock, err));
    uint64_t boot_ms =
        PEER_GUEST_BOOT_MS_MIN +
        sim_peer_choose(guest->config.peer, PEER_GUEST_BOOT_MS_MAX - PEER_GUEST_BOOT_MS_MIN + 1);
    console_say(guest,
                "\x1b[0msimulated\tkernel: booting\r\n\x7f"); /* as kernels and terminals write */
    mock_guest_skip(guest->mock, host_monotonic_ns(guest->host));
    guest->busy_ns = guest->mock->clock_ns + boot_ms * HOST_NS_PER_MS;
    guest->paused = false;
    return KELPIE_OK;
}

static void end(struct peer_guest *guest, enum peer_guest_outcome outcome) {
    guest_check(guest);
    ASSERT(outcome != PEER_GUEST_RUNS);
    if (outcome == PEER_GUEST_PANICKED) {
        console_say(guest, "Kernel panic - not syncing: simulated\n");
    }
    if (outcome == PEER_GUEST_POWERED_OFF) {
        console_say(guest, "reboot: Power down\n");
    }
    guest->outcome = outcome;
    console_flush(guest);
}

void peer_guest_pause(struct peer_guest *guest) {
    guest_check(guest);
    ASSERT(guest->config.peer);
    if (guest->paused) {
        return;
    }
    guest->paused_ns = host_monotonic_ns(guest->host);
    mock_guest_advance(guest->mock, guest->paused_ns);
    guest->paused = true;
}

void peer_guest_resume(struct peer_guest *guest) {
    guest_check(guest);
    if (!guest->paused) {
        return;
    }
    uint64_t now_ns = host_monotonic_ns(guest->host);
    ASSERT(now_ns >= guest->paused_ns);
    if (guest->busy_ns > guest->paused_ns) {
        guest->busy_ns += now_ns - guest->paused_ns;
    }
    mock_guest_skip(guest->mock, now_ns);
    guest->more = true; /* what it was doing */
    guest->paused = false;
}

bool peer_guest_is_paused(const struct peer_guest *guest) {
    guest_check(guest);
    ASSERT(guest->config.peer);
    return guest->paused;
}

enum peer_guest_outcome peer_guest_outcome(const struct peer_guest *guest) {
    guest_check(guest);
    ASSERT(guest->config.peer);
    return guest->outcome;
}

/* ---- Its loop --------------------------------------------------------------------------------- */

/* Nothing happens in it now, and why does not matter. */
static bool stands(const struct peer_guest *guest) {
    guest_check(guest);
    ASSERT(guest->config.peer);
    return guest->paused || guest->outcome != PEER_GUEST_RUNS;
}

/* As mock_guest_turn() left it: room for what comes, and what is to go. */
static uint32_t channel_asked(const struct peer_guest *guest) {
    guest_check(guest);
    ASSERT(!stands(guest));
    size_t room = 0;
    struct mock_guest *mock = guest->mock;
    protocol_decoder_space(&mock->decoder, &room);
    uint32_t asked = !guest->hung_up && room > 0 ? HOST_POLL_READ : 0;
    return asked | (!guest->hung_up && mock->send.size > 0 ? HOST_POLL_WRITE : 0);
}

void peer_guest_items(const struct peer_guest *guest,
                      struct host_poll_item items[PEER_GUEST_ITEM_COUNT]) {
    guest_check(guest);
    ASSERT(items);
    for (size_t i = 0; i < PEER_GUEST_ITEM_COUNT; i++) {
        items[i] = (struct host_poll_item){.fd = HOST_FD_NONE};
    }
    if (stands(guest)) {
        return;
    }
    bool deaf = guest->silent || guest->mock->clock_ns < guest->busy_ns;
    uint32_t asked = deaf ? 0 : channel_asked(guest);
    if (asked) {
        items[PEER_GUEST_CHANNEL] =
            (struct host_poll_item){.fd = guest->config.channel_fd, .asked = asked};
    }
    if (guest->console.size > 0) {
        items[PEER_GUEST_CONSOLE] =
            (struct host_poll_item){.fd = guest->config.console_fd, .asked = HOST_POLL_WRITE};
    }
}

uint64_t peer_guest_deadline_ns(const struct peer_guest *guest) {
    guest_check(guest);
    ASSERT(guest->config.peer);
    if (stands(guest) || guest->silent) {
        return UINT64_MAX;
    }
    if (guest->mock->clock_ns < guest->busy_ns) {
        return guest->busy_ns;
    }
    return guest->more ? 0 : mock_guest_next_ns(guest->mock);
}

/* Returns how many bytes came. */
static size_t channel_read(struct peer_guest *guest) {
    guest_check(guest);
    ASSERT(!guest->hung_up);
    const struct host_wait no_wait = host_wait_none();
    struct kelpie_error ignored;
    size_t room = 0;
    size_t size = 0;
    uint8_t *space = protocol_decoder_space(&guest->mock->decoder, &room);
    if (room == 0) {
        return 0;
    }
    enum kelpie_status status =
        host_read(guest->host, guest->config.channel_fd, space, room, &no_wait, &size, &ignored);
    if (status != KELPIE_OK) {
        guest->hung_up = status != KELPIE_TIMED_OUT;
        return 0;
    }
    guest->hung_up = size == 0;
    protocol_decoder_filled(&guest->mock->decoder, size);
    return size;
}

static void channel_write(struct peer_guest *guest) {
    guest_check(guest);
    ASSERT(!guest->hung_up);
    const struct host_wait no_wait = host_wait_none();
    struct kelpie_error ignored;
    const uint8_t *data = NULL;
    size_t size = 0;
    size_t front = ring_front(&guest->mock->send, &data);
    if (front == 0) {
        return;
    }
    enum kelpie_status status =
        host_write(guest->host, guest->config.channel_fd, data, front, &no_wait, &size, &ignored);
    if (status == KELPIE_OK) {
        ring_drop(&guest->mock->send, size);
    } else if (status != KELPIE_TIMED_OUT) {
        guest->hung_up = true;
    }
}

/* Once for each turn in which there is something to do. True: it goes on with it. */
static bool ask_faults(struct peer_guest *guest, bool *ret_hostile) {
    guest_check(guest);
    ASSERT(ret_hostile);
    const struct sim_peer *peer = guest->config.peer;
    if (sim_peer_fault(peer, SIM_FAULT_GUEST_CHATTERS)) {
        console_chatter(guest);
    }
    if (sim_peer_fault(peer, SIM_FAULT_GUEST_SLOW)) {
        guest->busy_ns = guest->mock->clock_ns +
                         (1 + sim_peer_choose(peer, PEER_GUEST_SLOW_S_MAX)) * HOST_NS_PER_S;
        guest->more = true;
        return false;
    }
    if (sim_peer_fault(peer, SIM_FAULT_GUEST_SILENT)) {
        guest->silent = true;
        return false;
    }
    if (sim_peer_fault(peer, SIM_FAULT_GUEST_DIES)) {
        end(guest, sim_peer_choose(peer, 4) == 0 ? PEER_GUEST_RESET : PEER_GUEST_PANICKED);
        return false;
    }
    *ret_hostile = sim_peer_fault(peer, SIM_FAULT_GUEST_HOSTILE);
    return true;
}

static void turn(struct peer_guest *guest, bool busy) {
    guest_check(guest);
    ASSERT(!stands(guest));
    struct mock_guest *mock = guest->mock;
    bool hostile = false;
    if (busy && !ask_faults(guest, &hostile)) {
        return;
    }
    size_t before = mock->send.size;
    guest->more = mock_guest_turn(mock);
    if (hostile) {
        /* A HELLO has emptied the queue first: what is there then is all new. */
        size_t fresh = mock->send.size > before ? mock->send.size - before : 0;
        peer_guest_hostile(guest->config.peer, mock, fresh);
    }
    if (mock->powered_off) {
        end(guest, PEER_GUEST_POWERED_OFF);
    }
}

void peer_guest_service(struct peer_guest *guest,
                        const struct host_poll_item items[PEER_GUEST_ITEM_COUNT]) {
    guest_check(guest);
    ASSERT(items);
    if (stands(guest)) {
        return;
    }
    struct mock_guest *mock = guest->mock;
    uint64_t now_ns = host_monotonic_ns(guest->host);
    if (items[PEER_GUEST_CONSOLE].ready & HOST_POLL_WRITE) {
        console_flush(guest);
    }
    mock_guest_advance(mock, now_ns);
    if (guest->silent || now_ns < guest->busy_ns) {
        return;
    }
    if (!guest->up) {
        guest->up = true;
        console_say(guest, "simulated guest: up\n");
    }
    uint32_t ready = guest->hung_up ? 0 : items[PEER_GUEST_CHANNEL].ready;
    size_t came = ready & HOST_POLL_READ ? channel_read(guest) : 0;
    if ((ready & HOST_POLL_WRITE) && !guest->hung_up) {
        channel_write(guest);
    }
    turn(guest, came > 0 || guest->more || mock_guest_next_ns(mock) <= now_ns);
}

/* ---- Its memory ------------------------------------------------------------------------------- */

uint64_t peer_guest_checksum(const void *data, size_t size) {
    const uint8_t *bytes = data;
    uint64_t sum = 0xcbf29ce484222325ull;
    ASSERT(bytes || size == 0);
    for (size_t i = 0; i < size; i++) {
        sum = (sum ^ bytes[i]) * 0x100000001b3ull;
    }
    return sum;
}

/* What is not taken of the channel, and what is not written to it: where there is no connection that could break. */
static bool stream_save(const struct peer_guest *guest, struct mock_bytes *bytes) {
    guest_check(guest);
    ASSERT(bytes);
    const struct protocol_decoder *decoder = &guest->mock->decoder;
    const struct ring *send = &guest->mock->send;
    if (guest->config.link == PEER_GUEST_VSOCK) {
        return true;
    }
    struct ring left = *send;
    bool saved =
        mock_bytes_append(bytes, decoder->buffer + decoder->start, decoder->end - decoder->start);
    while (saved && left.size > 0) {
        const uint8_t *data = NULL;
        size_t front = ring_front(&left, &data);
        saved = mock_bytes_append(bytes, data, front);
        ring_drop(&left, front);
    }
    return saved;
}

enum kelpie_status peer_guest_save(struct peer_guest *guest, struct mock_bytes *bytes,
                                   struct kelpie_error *err) {
    guest_check(guest);
    ASSERT(bytes->size == 0);
    struct mock_guest *mock = guest->mock;
    if (!stands(guest)) {
        mock_guest_advance(mock, host_monotonic_ns(guest->host));
    }
    struct mock_bytes state = mock_bytes_init(guest->host);
    enum kelpie_status status = mock_state_save(mock, &state, err);
    bool serial = guest->config.link == PEER_GUEST_SERIAL;
    uint64_t clock_ns = guest->paused ? guest->paused_ns : mock->clock_ns;
    uint8_t header[SAVED_HEADER_SIZE];
    struct cursor_writer writer = cursor_writer_init(header, sizeof(header));
    cursor_write_u64(&writer, SAVED_MAGIC);
    cursor_write_u64(&writer, guest->busy_ns > clock_ns ? guest->busy_ns - clock_ns : 0);
    cursor_write_u64(&writer, state.size);
    cursor_write_u64(&writer, peer_guest_checksum(state.data, state.size));
    cursor_write_u32(&writer, serial ? (uint32_t)(mock->decoder.end - mock->decoder.start) : 0);
    cursor_write_u32(&writer, serial ? (uint32_t)mock->send.size : 0);
    cursor_write_u32(&writer, !serial || mock->decoder.scanning);
    cursor_write_u32(&writer, guest->up);
    ASSERT(!writer.failed && writer.size == SAVED_HEADER_SIZE);
    if (status == KELPIE_OK &&
        (!mock_bytes_append(bytes, header, sizeof(header)) ||
         !mock_bytes_append(bytes, state.data, state.size) || !stream_save(guest, bytes))) {
        status = error_set(err, KELPIE_NO_MEMORY, "the guest does not fit into memory");
    }
    mock_bytes_deinit(&state);
    return status;
}

static enum kelpie_status corrupt(const char *what, struct kelpie_error *err) {
    ASSERT(what);
    ASSERT(what[0]);
    return error_set_field(err, KELPIE_SNAPSHOT_CORRUPT, "memory",
                           "the guest's memory is not what was saved: %s", what);
}

static void stream_load(struct peer_guest *guest, const uint8_t *incoming, size_t incoming_size,
                        const uint8_t *outgoing, size_t outgoing_size) {
    guest_check(guest);
    ASSERT(guest->mock->send.size == 0);
    size_t room = 0;
    uint8_t *space = protocol_decoder_space(&guest->mock->decoder, &room);
    ASSERT(incoming_size <= room);
    if (incoming_size > 0) {
        memcpy(space, incoming, incoming_size);
        protocol_decoder_filled(&guest->mock->decoder, incoming_size);
    }
    size_t written = ring_write(&guest->mock->send, outgoing, outgoing_size);
    ASSERT(written == outgoing_size);
}

enum kelpie_status peer_guest_load(struct peer_guest *guest, const void *data, size_t size,
                                   struct kelpie_error *err) {
    guest_check(guest);
    ASSERT(guest->outcome == PEER_GUEST_RUNS && !guest->up);
    struct mock_guest *mock = guest->mock;
    struct cursor_reader reader = cursor_reader_init(data, size);
    uint64_t magic = cursor_read_u64(&reader);
    uint64_t busy_ns = cursor_read_u64(&reader);
    uint64_t state_size = cursor_read_u64(&reader);
    uint64_t checksum = cursor_read_u64(&reader);
    uint32_t incoming_size = cursor_read_u32(&reader);
    uint32_t outgoing_size = cursor_read_u32(&reader);
    uint32_t scanning = cursor_read_u32(&reader);
    uint32_t up = cursor_read_u32(&reader);
    if (reader.failed || magic != SAVED_MAGIC || state_size > size || scanning > 1 || up > 1 ||
        busy_ns > PEER_GUEST_SLOW_S_MAX * HOST_NS_PER_S ||
        incoming_size > PROTOCOL_FRAME_SIZE_MAX || outgoing_size > MOCK_SEND_SIZE) {
        return corrupt("it does not begin as it must", err);
    }
    const uint8_t *state = cursor_read_bytes(&reader, (size_t)state_size);
    const uint8_t *incoming = cursor_read_bytes(&reader, incoming_size);
    const uint8_t *outgoing = cursor_read_bytes(&reader, outgoing_size);
    if (!cursor_reader_finished(&reader)) {
        return corrupt("it has another size", err);
    }
    if (peer_guest_checksum(state, (size_t)state_size) != checksum) {
        return corrupt("it is another", err);
    }
    if (mock_state_load(mock, state, (size_t)state_size, err) != KELPIE_OK) {
        return error_set(err, KELPIE_NO_MEMORY, "there is no memory for the guest");
    }
    stream_load(guest, incoming, incoming_size, outgoing, outgoing_size);
    mock->decoder.scanning = scanning == 1;
    guest->paused_ns = host_monotonic_ns(guest->host);
    mock_guest_skip(mock, guest->paused_ns);
    guest->busy_ns = busy_ns > 0 ? guest->paused_ns + busy_ns : 0;
    guest->up = up == 1;
    guest->paused = true;
    return KELPIE_OK;
}
