/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * control.h: what kelpie-krun and its owner say to each other. kelpie-krun (main.c) is the process that libkrun takes over.
 *
 * THEORY OF OPERATION
 *
 * The owner starts it with everything as arguments (struct krun_order), and with descriptors (enum krun_child_fd). What it
 * then says on KRUN_CHILD_CONTROL are lines, of fields with tabs between them:
 *
 *     probe:  found ABI VERSION CAN LIBKRUN LIBKRUNFW     and it exits with code 0
 *     run:    found …, console (with a descriptor, from which the guest's console is read), entering
 *     either: failed STATUS TEXT                          and it exits with code 1
 *
 * ABI is 1 or 2, CAN has bits of enum krun_can. After "entering" the process is libkrun's. Where it can pause, each
 * line "pause" or "resume" from the owner is answered: "done", or "failed STATUS TEXT".
 *
 * Ownership: none; everything here is pure. A line is decoded in place.
 */
#ifndef KELPIE_KRUN_CONTROL_H
#define KELPIE_KRUN_CONTROL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mac.h"
#include "kelpie.h"
#include "krun/krun_limits.h"

/* The numbers of the descriptors in the child. */
enum krun_child_fd {
    KRUN_CHILD_CHANNEL = 3, /* the guest's, of a run */
    KRUN_CHILD_CONSOLE = 4, /* not used: the console is a terminal, which the owner is given */
    KRUN_CHILD_CONTROL,
    KRUN_CHILD_PROGRAM,
    KRUN_CHILD_MEDIUM,  /* the boot disk, of a run */
    KRUN_CHILD_NETWORK, /* of a run whose network is a stream */
    KRUN_CHILD_DISK_0,
    KRUN_CHILD_END = KRUN_CHILD_DISK_0 + KELPIE_DISK_COUNT_MAX
};

/* The name by which the guest's agent finds its channel among the ports of the console device (guest/channel.h). */
#define KRUN_CHANNEL_PORT "org.kelpie.channel"

/* What a library can that another one cannot. */
enum krun_can {
    KRUN_CAN_PAUSE = 1 << 0,
    KRUN_CAN_STREAM = 1 << 1, /* a network over a socket, to passt */
    KRUN_CAN_TAP = 1 << 2,    /* a network over a tap interface, which it opens by name */
    KRUN_CAN_ALL = (1 << 3) - 1,
};

enum krun_network {
    KRUN_NETWORK_NONE = 0,
    KRUN_NETWORK_STREAM,
    KRUN_NETWORK_TAP,
    KRUN_NETWORK_COUNT
};

enum krun_verb { KRUN_VERB_PROBE = 0, KRUN_VERB_RUN, KRUN_VERB_COUNT };

struct krun_order {
    enum krun_verb verb;
    const char *library; /* a path or a soname; empty: those that there are, in their order */
    const char *kernel;  /* the same of libkrunfw */
    uint32_t vcpu_count; /* from here on: of a run */
    uint32_t memory_mib;
    size_t disk_count;
    bool read_only[KELPIE_DISK_COUNT_MAX];
    enum krun_network network;
    uint8_t mac[MAC_SIZE]; /* of a network */
    const char *tap;       /* TAP: the interface's name; else empty */
    const char *command_line;
};

/* argv of an order: program is argv[0], the strings are the order's. */
struct krun_argv {
    const char *argv[KRUN_ARGV_COUNT + 1];
    char vcpu_count[16];
    char memory_mib[16];
    char disks[KELPIE_DISK_COUNT_MAX + 1]; /* "w" and "r", one for each */
    char mac[MAC_TEXT_SIZE];
};
void krun_argv_build(struct krun_argv *argv, const char *program, const struct krun_order *order);

/* False: that is none. The order's strings are argv's. */
bool krun_argv_parse(size_t argc, const char *const *argv, struct krun_order *ret_order);

enum krun_word {
    KRUN_WORD_FOUND = 0,
    KRUN_WORD_CONSOLE,
    KRUN_WORD_ENTERING,
    KRUN_WORD_DONE,
    KRUN_WORD_FAILED,
    KRUN_WORD_COUNT
};

struct krun_message {
    enum krun_word word;
    unsigned abi; /* FOUND */
    uint32_t can; /* bits of enum krun_can */
    const char *version;
    const char *library;
    const char *kernel;
    enum kelpie_status status; /* FAILED */
    const char *text;
};

/* Writes a line with its newline and a closing zero; what would make it malformed in a text becomes a space. Returns its
 * size. size is at least KRUN_LINE_SIZE_MAX + 1. */
size_t krun_message_encode(const struct krun_message *message, char *line, size_t size);

/* The strings point into the line, which is changed. False: it is none. line is without its newline. */
bool krun_message_decode(char *line, struct krun_message *ret_message);

#endif
