/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * monitor_network.h: what a machine's network device is connected to: a socket to passt, or a tap.
 *
 * THEORY OF OPERATION
 *
 * passt (https://passt.top) is a program that takes a guest's Ethernet frames from a stream socket and makes
 * connections of this host's of them, without root. It is a second child beside the monitor: it dies with the owner, and
 * ends by itself when the monitor's end of the socket is closed, which is when the monitor is gone.
 *
 * It takes tens of milliseconds to come up. So it is started first, and waited for when the rest is prepared: an ARP request
 * for the gateway is sent to it from the guest's address. Its answer says that it runs, has its ports, and knows the
 * guest, so that a connection from outside finds it before it has said a word.
 *
 * The guest has one address in each VM, the same for all: its network is its own.
 *
 * What passt says on stderr is read as the monitor's is (monitor.h), and only its end is kept. When it ends while the
 * machine runs, the guest's link goes down, and the machine goes on.
 *
 * Threads: as in monitor.h, whose lock guards the descriptor of stderr and its text.
 */
#ifndef KELPIE_BACKEND_MONITOR_MONITOR_NETWORK_H
#define KELPIE_BACKEND_MONITOR_MONITOR_NETWORK_H

#include "backend/backend.h"
#include "backend/monitor/monitor_limits.h"
#include "backend/monitor/monitor_words.h"
#include "base/mac.h"

struct monitor_network {
    struct host *host;
    const struct kelpie_network *network; /* the config's; NULL: none */
    struct host_process *process;         /* passt; NULL: none */
    int fd;                               /* the machine's end, until it has it */
    struct monitor_words words;           /* passt's */
};

void monitor_network_init(struct monitor_network *network, struct host *host,
                          const struct kelpie_config *config);

/* Starts what the config asks for; nothing when it asks for none. After a failure too, close gives everything back.
 * BACKEND_MISSING: there is no passt. NOT_FOUND, field "network.tap": there is no such interface. */
KELPIE_CHECKED enum kelpie_status monitor_network_open(struct monitor_network *network,
                                                       struct kelpie_error *err);

/* Waits until it works. BOOT_FAILED, field "network", with passt's last words. */
KELPIE_CHECKED enum kelpie_status monitor_network_await(struct monitor_network *network,
                                                        const struct host_wait *wait,
                                                        struct kelpie_error *err);

/* The machine has a copy of the descriptor: ours is closed, so that passt notices the machine's end. */
void monitor_network_handed_over(struct monitor_network *network);
void monitor_network_close(struct monitor_network *network);

/* The MAC address of a config that has a network. */
void monitor_network_mac(const struct kelpie_config *config, uint8_t ret_mac[MAC_SIZE]);

/* Reads stderr; closes it at its end. Under the monitor's lock. */
void monitor_network_drain(struct monitor_network *network);

/* ---- For tests -------------------------------------------------------------------------------- */

struct monitor_network_command {
    const char *argv[MONITOR_NETWORK_ARGV_COUNT_MAX + 1]; /* NULL-terminated; into text */
    size_t argc;
    char text[MONITOR_NETWORK_COMMAND_SIZE_MAX];
    size_t text_size;
};

/* passt's command line. Pure. */
void monitor_network_command(struct monitor_network_command *command, const char *program,
                             const struct kelpie_network *network);

#define MONITOR_NETWORK_ARP_SIZE 42

/* An ARP request (RFC 826) in an Ethernet frame: the guest asks for its gateway. */
void monitor_network_arp(const uint8_t mac[MAC_SIZE], uint8_t ret_frame[MONITOR_NETWORK_ARP_SIZE]);

#endif
