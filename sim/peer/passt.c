/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "sim/peer/passt.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"
#include "base/cursor.h"
#include "base/mac.h"

#define STDERR 2
#define FD_MAX 1023
#define LENGTH_SIZE 4 /* before each frame, big-endian */
#define ETHERNET_SIZE 14
#define ARP_SIZE 28 /* of IPv4 over Ethernet (RFC 826) */
#define ARP_FRAME_SIZE (ETHERNET_SIZE + ARP_SIZE)
#define LINE_SIZE_MAX 128
#define LAST_WORDS_MS 1000
#define CHUNK_SIZE 1024
#define DEATH_S_MAX 60

struct passt {
    const struct sim_peer *peer;
    struct host *host;
    int fd;
    uint8_t mac[MAC_SIZE];
};

static void passt_check(const struct passt *passt) {
    ASSERT(passt->peer);
    ASSERT(passt->host == passt->peer->host);
}

static int fail(const struct passt *passt, const char *why) {
    passt_check(passt);
    ASSERT(why);
    const struct host_wait wait = host_wait_ms(passt->host, LAST_WORDS_MS, HOST_FD_NONE);
    char line[LINE_SIZE_MAX];
    struct kelpie_error ignored;
    snprintf(line, sizeof(line), "%s\n", why);
    (void)!host_write_all(passt->host, STDERR, line, strlen(line), &wait, &ignored);
    return 1;
}

static void chatter(const struct passt *passt) {
    passt_check(passt);
    const struct host_wait no_wait = host_wait_none();
    uint64_t left = 1 + sim_peer_choose(passt->peer, PEER_PASST_CHATTER_SIZE_MAX);
    ASSERT(left <= PEER_PASST_CHATTER_SIZE_MAX);
    while (left > 0) {
        static const char line[] = "passt: no one has asked for this line\n";
        size_t size = 0;
        struct kelpie_error ignored;
        if (host_write(passt->host, STDERR, line, (size_t)min_u64(left, strlen(line)), &no_wait,
                       &size, &ignored) != KELPIE_OK) {
            return; /* nobody reads it */
        }
        left -= size;
    }
}

/* What follows an option; NULL: it was not given. */
static const char *option(const struct sim_peer *peer, const char *name) {
    ASSERT(peer->argv);
    ASSERT(name);
    for (size_t i = 1; i + 1 < peer->argc; i++) {
        if (strcmp(peer->argv[i], name) == 0) {
            return peer->argv[i + 1];
        }
    }
    return NULL;
}

/* Only what the answer depends on. */
static bool read_options(struct passt *passt) {
    passt_check(passt);
    const char *fd = option(passt->peer, "--fd");
    const char *mac = option(passt->peer, "--mac-addr");
    char *end = NULL;
    ASSERT(passt->fd == HOST_FD_NONE);
    long number = fd ? strtol(fd, &end, 10) : -1;
    if (!fd || *end != '\0' || number < 0 || number > FD_MAX || !mac ||
        !mac_parse(mac, passt->mac)) {
        return false;
    }
    passt->fd = (int)number;
    return true;
}

/* Exactly size bytes. False: the other end is gone. */
static bool receive(const struct passt *passt, uint8_t *buffer, size_t size) {
    passt_check(passt);
    ASSERT(buffer && size > 0);
    const struct host_wait wait = {.deadline_ns = UINT64_MAX, .cancel_fd = HOST_FD_NONE};
    for (size_t done = 0; done < size;) {
        size_t count = 0;
        struct kelpie_error ignored;
        if (host_read(passt->host, passt->fd, buffer + done, size - done, &wait, &count,
                      &ignored) != KELPIE_OK ||
            count == 0) {
            return false;
        }
        done += count;
    }
    return true;
}

/* Takes what comes, and forgets it. True: the deadline came; false: the other end is gone. */
static bool take_frames(const struct passt *passt, uint64_t deadline_ns) {
    passt_check(passt);
    const struct host_wait wait = {.deadline_ns = deadline_ns, .cancel_fd = HOST_FD_NONE};
    uint8_t chunk[CHUNK_SIZE];
    enum kelpie_status status = KELPIE_OK;
    size_t count = 1;
    ASSERT(deadline_ns > 0);
    while (status == KELPIE_OK && count > 0) {
        struct kelpie_error ignored;
        status = host_read(passt->host, passt->fd, chunk, sizeof(chunk), &wait, &count, &ignored);
    }
    return status == KELPIE_TIMED_OUT;
}

/* The question's sender gets to know the address that it asked for. */
static void write_answer(const struct passt *passt, const uint8_t question[ARP_FRAME_SIZE],
                         struct cursor_writer *writer) {
    passt_check(passt);
    static const uint8_t kind[] = {8, 6, 0, 1, 8, 0, MAC_SIZE, 4, 0, 2};
    const uint8_t *sender = question + ETHERNET_SIZE + 8;
    const uint8_t *sender_address = sender + MAC_SIZE;
    const uint8_t *asked_address = sender_address + 4 + MAC_SIZE;
    cursor_write_bytes(writer, sender, MAC_SIZE);
    cursor_write_bytes(writer, passt->mac, MAC_SIZE);
    cursor_write_bytes(writer, kind, sizeof(kind));
    cursor_write_bytes(writer, passt->mac, MAC_SIZE);
    cursor_write_bytes(writer, asked_address, 4);
    cursor_write_bytes(writer, sender, MAC_SIZE);
    cursor_write_bytes(writer, sender_address, 4);
    ASSERT(!writer->failed);
}

static bool send_answer(const struct passt *passt, const uint8_t question[ARP_FRAME_SIZE],
                        bool garbage) {
    passt_check(passt);
    uint8_t bytes[LENGTH_SIZE + ARP_FRAME_SIZE];
    const struct host_wait wait = {.deadline_ns = UINT64_MAX, .cancel_fd = HOST_FD_NONE};
    struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
    struct kelpie_error ignored;
    for (size_t i = 0; i < LENGTH_SIZE; i++) {
        cursor_write_u8(&writer, i + 1 < LENGTH_SIZE ? 0 : ARP_FRAME_SIZE);
    }
    write_answer(passt, question, &writer);
    ASSERT(writer.size == sizeof(bytes));
    if (garbage) {
        bytes[sim_peer_choose(passt->peer, LENGTH_SIZE)] ^= 0xff;
    }
    return host_write_all(passt->host, passt->fd, bytes, sizeof(bytes), &wait, &ignored) ==
           KELPIE_OK;
}

static void wait_ms(const struct passt *passt, uint64_t ms) {
    passt_check(passt);
    const struct host_wait wait = host_wait_ms(passt->host, ms, HOST_FD_NONE);
    struct kelpie_error ignored;
    ASSERT(ms <= PEER_PASST_SLOW_S_MAX * 1000u);
    (void)!host_sleep(passt->host, &wait, &ignored);
}

/* Some time while the machine runs. */
static int die_later(const struct passt *passt) {
    passt_check(passt);
    uint64_t seconds = sim_peer_choose(passt->peer, DEATH_S_MAX);
    ASSERT(seconds < DEATH_S_MAX);
    uint64_t deadline_ns = host_monotonic_ns(passt->host) + seconds * HOST_NS_PER_S + 1;
    if (take_frames(passt, deadline_ns)) {
        if (sim_peer_choose(passt->peer, 2) == 0) {
            sim_peer_die(passt->peer, SIGKILL);
        }
        return fail(passt, "passt: cannot go on");
    }
    return 0;
}

int peer_passt_main(const struct sim_peer *peer) {
    struct passt passt = {.peer = peer, .host = peer->host, .fd = HOST_FD_NONE};
    uint8_t length[LENGTH_SIZE];
    uint8_t question[ARP_FRAME_SIZE];
    ASSERT(peer->argc > 0);
    if (!read_options(&passt)) {
        return fail(&passt, "passt: no socket or no address was given");
    }
    if (sim_peer_fault(peer, SIM_FAULT_PEER_CHATTERS)) {
        chatter(&passt);
    }
    bool slow = sim_peer_fault(peer, SIM_FAULT_PEER_SLOW);
    wait_ms(&passt, slow ? 1000 * (1 + sim_peer_choose(peer, PEER_PASST_SLOW_S_MAX))
                         : sim_peer_choose(peer, PEER_PASST_START_MS_MAX));
    if (sim_peer_fault(peer, SIM_FAULT_PEER_REFUSES)) {
        return fail(&passt, "passt: failed to bind port 1234: address already in use");
    }
    bool silent = sim_peer_fault(peer, SIM_FAULT_PEER_SILENT);
    bool garbage = sim_peer_fault(peer, SIM_FAULT_PEER_GARBAGE);
    bool dies = sim_peer_fault(peer, SIM_FAULT_PEER_DIES);
    if (!receive(&passt, length, sizeof(length))) {
        return 0;
    }
    if (length[0] != 0 || length[1] != 0 || length[2] != 0 || length[3] != ARP_FRAME_SIZE) {
        return fail(&passt, "passt: this is not what its owner asks");
    }
    if (!receive(&passt, question, sizeof(question)) ||
        (!silent && !send_answer(&passt, question, garbage))) {
        return 0;
    }
    if (dies) {
        return die_later(&passt);
    }
    (void)!take_frames(&passt, UINT64_MAX);
    return 0;
}
