/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * control.h: what the owner of a machine and kelpie-vmm say to each other, over a stream socket. Pure encoding and
 * decoding; both sides compile it, from the same tree: there are no versions.
 *
 * THEORY OF OPERATION
 *
 * A message is a header, u32 payload size and u32 type, and its payload, all little-endian. The owner asks, one thing at
 * a time; the monitor answers each with DONE or FAILED. Descriptors that the monitor works with from the start have
 * fixed numbers (below); those of a save come with an FD message each, attached to its first byte (SCM_RIGHTS).
 *
 *     BOOT  machine     loads kernel and initramfs, makes the vCPUs, and lets them run
 *     LOAD  machine     loads a saved state over a memory file; the vCPUs do not run
 *     PAUSE, RESUME     the vCPUs stop and go on
 *     FD    role        the attached descriptor is for the next SAVE
 *     SAVE              writes state and memory while the vCPUs stand; uses up the descriptors
 *
 * Trust: the owner is trusted, and is checked all the same, for a monitor that misunderstands is worth nothing. What the
 * monitor says is not trusted: it runs a hostile guest. The owner takes no sizes or places from it, only whether
 * something worked, and texts, which are bounded and printed with care.
 *
 * When the machine ends by itself, the monitor says why as its last line on stderr and exits.
 */
#ifndef KELPIE_VMM_CONTROL_H
#define KELPIE_VMM_CONTROL_H

#include "base/cursor.h"
#include "base/error.h"

#define CONTROL_HEADER_SIZE 8
#define CONTROL_MESSAGE_SIZE_MAX 8192
#define CONTROL_COMMAND_LINE_SIZE_MAX 2047 /* bytes, without the zero: what Linux takes */
#define CONTROL_GENERATION_SIZE 16
#define CONTROL_CHANNEL_PORT_END                                                                   \
    (1u << 30) /* above it lie the ports that the vsock device assigns */

/* The monitor's descriptors, beside those of every child monitor: 2 stderr, 3 channel, 4 console. */
enum control_child_fd {
    CONTROL_CHILD_CHANNEL = 3,
    CONTROL_CHILD_CONSOLE,
    CONTROL_CHILD_CONTROL,
    CONTROL_CHILD_KVM,
    CONTROL_CHILD_PROGRAM,   /* the monitor itself */
    CONTROL_CHILD_KERNEL,    /* BOOT: the kernel's file. LOAD: the state's */
    CONTROL_CHILD_INITRAMFS, /* BOOT: the initramfs, unless has_medium. LOAD: the memory's file */
    CONTROL_CHILD_DISK_0,
    CONTROL_CHILD_MEDIUM = CONTROL_CHILD_DISK_0 + KELPIE_DISK_COUNT_MAX, /* if has_medium */
    CONTROL_CHILD_END
};

enum control_type {
    CONTROL_BOOT = 1,
    CONTROL_LOAD,
    CONTROL_PAUSE,
    CONTROL_RESUME,
    CONTROL_FD,
    CONTROL_SAVE,
    CONTROL_DONE = 64,
    CONTROL_FAILED,
};

enum control_role { CONTROL_ROLE_STATE = 0, CONTROL_ROLE_MEMORY, CONTROL_ROLE_COUNT };

/* BOOT and LOAD. */
struct control_machine {
    uint32_t vcpu_count;
    uint32_t memory_mib;
    uint32_t channel_port; /* the host's vsock port of the channel */
    uint32_t disk_count;
    bool disk_read_only[KELPIE_DISK_COUNT_MAX];
    uint8_t generation[CONTROL_GENERATION_SIZE]; /* VMGenID: new for each boot and load */
    /* A raw kernel (libkrunfw): where its first byte goes, and where it begins. Both 0: the file says. Of a BOOT. */
    uint64_t kernel_load;
    uint64_t kernel_entry;
    /* The machine of a kernel that has neither initramfs nor ACPI nor a serial port: a read-only boot disk behind the
     * others, then a virtio console; told of by the command line and an MP table. */
    bool has_medium;
    char command_line[CONTROL_COMMAND_LINE_SIZE_MAX + 1];
};

struct control_header {
    uint32_t size; /* of the payload: at most CONTROL_MESSAGE_SIZE_MAX - CONTROL_HEADER_SIZE */
    enum control_type type;
};

/* False: no message of this protocol. */
bool control_decode_header(const uint8_t bytes[CONTROL_HEADER_SIZE], struct control_header *ret);

/* Each encodes a whole message; the writer has CONTROL_MESSAGE_SIZE_MAX bytes of room. */
void control_encode_machine(struct cursor_writer *writer, enum control_type type,
                            const struct control_machine *machine);
void control_encode_fd(struct cursor_writer *writer, enum control_role role);
void control_encode_plain(struct cursor_writer *writer, enum control_type type);
void control_encode_failed(struct cursor_writer *writer, const struct kelpie_error *failure);

/* The payload, whole. False: it is not one. */
bool control_decode_machine(const void *payload, size_t size, struct control_machine *ret);
bool control_decode_fd(const void *payload, size_t size, enum control_role *ret);
bool control_decode_failed(const void *payload, size_t size, struct kelpie_error *ret);

#endif
