/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "backend/monitor/monitor_network.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "backend/monitor/monitor_console.h"
#include "base/assert.h"
#include "base/cleanup.h"
#include "base/cursor.h"

#define PASST "passt"
#define PASST_ENVIRONMENT "KELPIE_PASST"
#define STREAM_HEADER_SIZE                                                                         \
    4 /* a frame's length comes before it, big-endian: as passt and QEMU speak */
#define GATEWAY_MAC "02:00:0a:00:02:02"

/* The numbers of the descriptors in passt. */
enum child_fd { CHILD_STDERR = 2, CHILD_NETWORK };

static const uint8_t guest_address[4] = {BACKEND_NETWORK_ADDRESS};
static const uint8_t gateway_address[4] = {BACKEND_NETWORK_GATEWAY};
static const uint8_t dns_address[4] = {BACKEND_NETWORK_DNS};

static void network_check(const struct monitor_network *network) {
    ASSERT(network->host);
    ASSERT(!network->network || network->network->kind != KELPIE_NETWORK_NONE);
}

void monitor_network_init(struct monitor_network *network, struct host *host,
                          const struct kelpie_config *config) {
    ASSERT(host && config);
    ASSERT(!config->network || config->network->mac);
    *network = (struct monitor_network){
        .host = host,
        .network = config->network,
        .fd = HOST_FD_NONE,
    };
    monitor_words_init(&network->words);
}

void monitor_network_mac(const struct kelpie_config *config, uint8_t ret_mac[MAC_SIZE]) {
    ASSERT(config->network);
    bool parsed = mac_parse(config->network->mac, ret_mac);
    ASSERT(parsed); /* src/vm/ has checked it, or drawn it */
}

/* ---- The command line ------------------------------------------------------------------------- */

/* One more argument. What there can be is bounded, and fits. */
static void add(struct monitor_network_command *command, const char *format, ...)
    ERROR_PRINTF(2, 3);
static void add(struct monitor_network_command *command, const char *format, ...) {
    ASSERT(command->argc < MONITOR_NETWORK_ARGV_COUNT_MAX);
    size_t room = sizeof(command->text) - command->text_size;
    char *start = command->text + command->text_size;
    va_list args;
    va_start(args, format);
    int size = vsnprintf(start, room, format, args);
    va_end(args);
    ASSERT(size >= 0 && (size_t)size < room);
    command->argv[command->argc++] = start;
    command->text_size += (size_t)size + 1;
}

static void add_address(struct monitor_network_command *command, const char *option,
                        const uint8_t address[4]) {
    ASSERT(option[0] == '-');
    ASSERT(address[0] != 0);
    add(command, "%s", option);
    add(command, "%u.%u.%u.%u", address[0], address[1], address[2], address[3]);
}

void monitor_network_command(struct monitor_network_command *command, const char *program,
                             const struct kelpie_network *network) {
    ASSERT(network->kind == KELPIE_NETWORK_USER);
    ASSERT(network->forward_count <= KELPIE_FORWARD_COUNT_MAX);
    static const char *const fixed[] = {"--foreground", "--quiet", "--ipv4-only", "--no-dhcp"};
    command->argc = 0;
    command->text_size = 0;
    add(command, "%s", program);
    for (size_t i = 0; i < ARRAY_SIZE(fixed); i++) {
        add(command, "%s", fixed[i]);
    }
    add(command, "--fd");
    add(command, "%d", CHILD_NETWORK);
    add(command, "--mac-addr");
    add(command, GATEWAY_MAC);
    add_address(command, "--address", guest_address);
    add(command, "--netmask");
    add(command, "%d", BACKEND_NETWORK_PREFIX_SIZE);
    add_address(command, "--gateway", gateway_address);
    add_address(command, "--dns-forward", dns_address);
    if (!network->host_loopback) {
        add(command, "--no-map-gw");
    }
    /* Each in an option of its own: of several in one, passt is content with any that it gets. */
    for (size_t i = 0; i < network->forward_count; i++) {
        const struct kelpie_forward *forward = &network->forwards[i];
        add(command, "%s", forward->udp ? "--udp-ports" : "--tcp-ports");
        add(command, "127.0.0.1/%u:%u", forward->host_port, forward->guest_port);
    }
    ASSERT(command->argc <= MONITOR_NETWORK_ARGV_COUNT_MAX);
    command->argv[command->argc] = NULL;
}

/* ---- Start ------------------------------------------------------------------------------------ */

void monitor_network_arp(const uint8_t mac[MAC_SIZE], uint8_t ret_frame[MONITOR_NETWORK_ARP_SIZE]) {
    static const uint8_t everyone[MAC_SIZE] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    static const uint8_t nobody[MAC_SIZE];
    /* ARP; and then: Ethernet and IPv4 addresses, of 6 and 4 bytes, a request. */
    static const uint8_t kind[] = {0x08, 0x06, 0, 1, 0x08, 0, MAC_SIZE, 4, 0, 1};
    struct cursor_writer writer = cursor_writer_init(ret_frame, MONITOR_NETWORK_ARP_SIZE);
    ASSERT(mac_is_host(mac));
    cursor_write_bytes(&writer, everyone, MAC_SIZE);
    cursor_write_bytes(&writer, mac, MAC_SIZE);
    cursor_write_bytes(&writer, kind, sizeof(kind));
    cursor_write_bytes(&writer, mac, MAC_SIZE);
    cursor_write_bytes(&writer, guest_address, sizeof(guest_address));
    cursor_write_bytes(&writer, nobody, MAC_SIZE);
    cursor_write_bytes(&writer, gateway_address, sizeof(gateway_address));
    ASSERT(!writer.failed && writer.size == MONITOR_NETWORK_ARP_SIZE);
}

static enum kelpie_status spawn(struct monitor_network *network, int network_fd, int stderr_fd,
                                struct kelpie_error *err) {
    network_check(network);
    ASSERT(!network->process);
    struct host *host = network->host;
    const char *program = host_environment(host, PASST_ENVIRONMENT);
    AUTO_MEM struct monitor_network_command *command = host_allocate(host, sizeof(*command), err);
    if (!command) {
        return KELPIE_NO_MEMORY;
    }
    monitor_network_command(command, program ? program : PASST, network->network);
    const struct host_process_fd fds[] = {
        {.child_fd = CHILD_STDERR, .fd = stderr_fd},
        {.child_fd = CHILD_NETWORK, .fd = network_fd},
    };
    const struct host_process_spec spec = {
        .argv = command->argv,
        .fds = fds,
        .fd_count = ARRAY_SIZE(fds),
        .dies_with_owner = true,
        .new_session = true,
    };
    enum kelpie_status status = host_process_spawn(host, &spec, &network->process, err);
    if (status == KELPIE_NOT_FOUND) {
        return error_set_field(err, KELPIE_BACKEND_MISSING, "network",
                               "there is no program %s, which a network of kind user goes through: "
                               "install passt",
                               program ? program : PASST);
    }
    return status;
}

/* Its question waits in the socket until passt runs. */
static enum kelpie_status ask(struct monitor_network *network, struct kelpie_error *err) {
    uint8_t bytes[STREAM_HEADER_SIZE + MONITOR_NETWORK_ARP_SIZE] = {0, 0, 0,
                                                                    MONITOR_NETWORK_ARP_SIZE};
    uint8_t mac[MAC_SIZE];
    network_check(network);
    ASSERT(network->fd != HOST_FD_NONE);
    const struct host_wait no_wait = host_wait_none();
    bool parsed = mac_parse(network->network->mac, mac);
    ASSERT(parsed);
    monitor_network_arp(mac, bytes + STREAM_HEADER_SIZE);
    return host_write_all(network->host, network->fd, bytes, sizeof(bytes), &no_wait, err);
}

static enum kelpie_status open_user(struct monitor_network *network, struct kelpie_error *err) {
    network_check(network);
    ASSERT(network->fd == HOST_FD_NONE);
    struct host *host = network->host;
    int frames[2] = {HOST_FD_NONE, HOST_FD_NONE};
    int words[2] = {HOST_FD_NONE, HOST_FD_NONE};
    TRY(host_socket_pair(host, frames, err));
    network->fd = frames[0];
    AUTO_FD struct host_fd theirs = {host, frames[1]};
    TRY(host_socket_pair(host, words, err));
    monitor_words_open(&network->words, words[0]);
    AUTO_FD struct host_fd their_words = {host, words[1]};
    TRY(ask(network, err));
    return spawn(network, theirs.fd, their_words.fd, err);
}

enum kelpie_status monitor_network_open(struct monitor_network *network, struct kelpie_error *err) {
    network_check(network);
    ASSERT(!network->process && network->fd == HOST_FD_NONE);
    if (!network->network) {
        return KELPIE_OK;
    }
    return network->network->kind == KELPIE_NETWORK_TAP
               ? host_tap_open(network->host, network->network->tap, &network->fd, err)
               : open_user(network, err);
}

/* ---- Waiting ---------------------------------------------------------------------------------- */

/* Exactly size bytes. CRASHED: passt let go of the socket. */
static enum kelpie_status receive(struct monitor_network *network, uint8_t *buffer, size_t size,
                                  const struct host_wait *wait, struct kelpie_error *err) {
    network_check(network);
    ASSERT(buffer && size > 0);
    for (size_t done = 0; done < size;) {
        size_t count = 0;
        TRY(host_read(network->host, network->fd, buffer + done, size - done, wait, &count, err));
        if (count == 0) {
            return error_set(err, KELPIE_CRASHED, "passt ended");
        }
        done += count;
    }
    return KELPIE_OK;
}

/* One frame, whole: behind it the machine goes on reading. */
static enum kelpie_status receive_answer(struct monitor_network *network,
                                         const struct host_wait *wait, struct kelpie_error *err) {
    uint8_t header[STREAM_HEADER_SIZE];
    uint8_t frame[MONITOR_NETWORK_FRAME_SIZE_MAX];
    network_check(network);
    ASSERT(wait);
    TRY(receive(network, header, sizeof(header), wait, err));
    size_t size = (size_t)header[0] << 24 | (size_t)header[1] << 16 | (size_t)header[2] << 8 |
                  (size_t)header[3];
    if (size < MONITOR_NETWORK_ARP_SIZE || size > sizeof(frame)) {
        return error_set(err, KELPIE_INTERNAL, "passt answered with a frame of %zu bytes", size);
    }
    return receive(network, frame, size, wait, err);
}

/* How it ended, with its last words. */
static enum kelpie_status explain(struct monitor_network *network, struct kelpie_error *err) {
    network_check(network);
    ASSERT(network->process);
    const struct host_wait wait =
        host_wait_ms(network->host, MONITOR_CRASH_TIMEOUT_MS, HOST_FD_NONE);
    struct host_process_exit end = {0};
    bool known = host_process_wait(network->process, &wait, &end, NULL) == KELPIE_OK;
    char words[MONITOR_LAST_WORDS_SIZE_MAX + 1];
    monitor_network_drain(network);
    monitor_last_line(network->words.text, network->words.size, words, sizeof(words));
    char how[64];
    if (!known) {
        snprintf(how, sizeof(how), "let go of its socket and runs on");
    } else if (end.signal != 0) {
        snprintf(how, sizeof(how), "ended with signal %d", end.signal);
    } else {
        snprintf(how, sizeof(how), "ended with code %d", end.code);
    }
    return error_set_field(err, KELPIE_BOOT_FAILED, "network",
                           "there is no network for the guest: passt %s%s%s", how,
                           words[0] ? "; its last words: " : "", words);
}

enum kelpie_status monitor_network_await(struct monitor_network *network,
                                         const struct host_wait *wait, struct kelpie_error *err) {
    network_check(network);
    ASSERT(wait);
    if (!network->process) {
        return KELPIE_OK;
    }
    enum kelpie_status status = receive_answer(network, wait, err);
    return status == KELPIE_CRASHED ? explain(network, err) : status;
}

/* ---- stderr and the end ----------------------------------------------------------------------- */

void monitor_network_drain(struct monitor_network *network) {
    network_check(network);
    monitor_words_drain(&network->words, network->host);
}

void monitor_network_handed_over(struct monitor_network *network) {
    network_check(network);
    ASSERT(!network->process || network->fd != HOST_FD_NONE);
    host_close(network->host, network->fd);
    network->fd = HOST_FD_NONE;
}

void monitor_network_close(struct monitor_network *network) {
    network_check(network);
    struct host_process *process = network->process;
    if (process) {
        const struct host_wait wait =
            host_wait_ms(network->host, MONITOR_EXIT_TIMEOUT_MS, HOST_FD_NONE);
        struct host_process_exit end = {0};
        enum kelpie_status ignored = host_process_signal(process, SIGKILL, NULL);
        ignored = host_process_wait(process, &wait, &end, NULL);
        (void)ignored; /* host_process_destroy() has the last word */
        host_process_destroy(process);
    }
    network->process = NULL;
    host_close(network->host, network->fd);
    network->fd = HOST_FD_NONE;
    monitor_words_close(&network->words, network->host);
    ASSERT(!network->process);
}
