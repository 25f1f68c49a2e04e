/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * control.h: what the owner of a machine and kelpie-vmm say to each other, over a stream socket. Pure encoding and
 * decoding; both sides compile it, from the same tree: there are no versions.
 *
 * THEORY OF OPERATION
 *
 * A message is a header, u32 payload size and u32 type, and its payload, all little-endian. The owner asks, one thing at
 * a time; the monitor answers each order but FD with DONE, TOLD or FAILED. Descriptors that the monitor needs from the
 * start have fixed numbers (below); every other comes with an FD message, attached to its first byte (SCM_RIGHTS), and
 * waits for the order that uses it up. An order says what is missing. A writable disk that came with OVERLAY and BITMAP
 * is the base under them (base/overlay.h), and is open for reading alone.
 *
 *     PREPARE machine   makes memory, vCPUs and the devices that need no file; optional, before the next two
 *     BOOT  machine     loads KERNEL and INITRAMFS into the file MEMORY, and lets the vCPUs run
 *     LOAD  machine     loads STATE over MEMORY, which is mapped privately; the vCPUs run only if `run` says so
 *     PAUSE, RESUME     the vCPUs stop and go on
 *     SAVE              writes STATE, and MEMORY if there is one, while the vCPUs stand; with PAGES_0 a diff
 *     TRACK             from the last SAVE or LOAD on, note which pages are written: the vCPUs have not run since
 *     PRESAVE           writes what was written into MEMORY, while the vCPUs run: the SAVE that follows has the less to
 *                       write. The first for a diff comes with its MEMORY, others go on with it
 *     SEAL              the file of the guest's memory stays as it is from now on, for others to map: the machine
 *                       goes on over a private mapping of it. With MEMORY: memory is written there first, and that is
 *                       the file. While the vCPUs stand
 *     TOUCHED           writes into WORKING_SET which pages of memory were touched since the LOAD, also while the vCPUs run
 *     TELL              answered by TOLD: when things happened
 *
 * A diff is what was written since the last SAVE or LOAD: MEMORY holds those pages in their places and holes elsewhere,
 * and PAGES_0 a bit for each page, bit n % 8 of byte n / 8, set for those that are in it. SAVE's MEMORY is that of the
 * PRESAVE before it, or comes with it. A LOAD takes diffs over MEMORY: LAYER_0 with PAGES_0 is the oldest, and so on.
 *
 * WORKING_SET is a file as in a bundle (snapshot/working_set.h); only the bitmap behind its header is read or written here. A
 * LOAD that has one reads those pages ahead of the guest, where they are not in the host's memory. It is a hint, and
 * what is wrong with it is no error.
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
#include "base/mac.h"

#define CONTROL_HEADER_SIZE 8
#define CONTROL_MESSAGE_SIZE_MAX 8192
#define CONTROL_COMMAND_LINE_SIZE_MAX 2047 /* bytes, without the zero: what Linux takes */
#define CONTROL_GENERATION_SIZE 16
#define CONTROL_LAYER_COUNT_MAX 7 /* diffs that a LOAD puts over MEMORY */
#define CONTROL_CHANNEL_PORT_END                                                                   \
    (1u << 30) /* above it lie the ports that the vsock device assigns */

/* The monitor's descriptors, beside those of every child monitor: 2 stderr, 3 channel, 4 console. */
enum control_child_fd {
    CONTROL_CHILD_CHANNEL = 3,
    CONTROL_CHILD_CONSOLE,
    CONTROL_CHILD_CONTROL,
    CONTROL_CHILD_KVM,
    CONTROL_CHILD_PROGRAM, /* the monitor itself */
    CONTROL_CHILD_END
};

enum control_type {
    CONTROL_FD = 1,
    CONTROL_PREPARE,
    CONTROL_BOOT,
    CONTROL_LOAD,
    CONTROL_PAUSE,
    CONTROL_RESUME,
    CONTROL_SAVE,
    CONTROL_SEAL,
    CONTROL_TRACK,
    CONTROL_PRESAVE,
    CONTROL_TOUCHED,
    CONTROL_TELL,
    CONTROL_ORDER_END,
    CONTROL_DONE = 64,
    CONTROL_TOLD,
    CONTROL_FAILED,
};

/* What an FD message's descriptor is for. */
enum control_role {
    CONTROL_ROLE_KERNEL = 0,
    CONTROL_ROLE_INITRAMFS,
    CONTROL_ROLE_STATE,
    CONTROL_ROLE_MEMORY,
    CONTROL_ROLE_NETWORK, /* a tap, or a stream socket */
    CONTROL_ROLE_MEDIUM,  /* of a machine that has one */
    CONTROL_ROLE_WORKING_SET,
    CONTROL_ROLE_DISK_0,
    CONTROL_ROLE_OVERLAY_0 = CONTROL_ROLE_DISK_0 + KELPIE_DISK_COUNT_MAX,
    CONTROL_ROLE_BITMAP_0 = CONTROL_ROLE_OVERLAY_0 + KELPIE_DISK_COUNT_MAX,
    CONTROL_ROLE_LAYER_0 = CONTROL_ROLE_BITMAP_0 + KELPIE_DISK_COUNT_MAX,
    CONTROL_ROLE_PAGES_0 = CONTROL_ROLE_LAYER_0 + CONTROL_LAYER_COUNT_MAX,
    CONTROL_ROLE_COUNT = CONTROL_ROLE_PAGES_0 + CONTROL_LAYER_COUNT_MAX
};

/* The role of disk `index`, or of what belongs to it: first is CONTROL_ROLE_DISK_0, _OVERLAY_0 or _BITMAP_0. */
enum control_role control_role_of_disk(enum control_role first, size_t index);

/* "kernel", … Never NULL. */
const char *control_role_name(enum control_role role);

enum control_network {
    CONTROL_NETWORK_NONE = 0,
    CONTROL_NETWORK_TAP,
    CONTROL_NETWORK_STREAM,
    CONTROL_NETWORK_COUNT
};

/* PREPARE (vcpu_count and memory_mib alone), BOOT and LOAD. */
struct control_machine {
    uint32_t vcpu_count;
    uint32_t memory_mib;
    uint32_t channel_port; /* the host's vsock port of the channel */
    uint32_t disk_count;
    bool disk_read_only[KELPIE_DISK_COUNT_MAX];
    bool run;  /* LOAD: let the vCPUs run at once */
    bool note; /* LOAD: TOUCHED will be asked for: be exact, and so a little slower */
    enum control_network network;
    uint8_t
        mac[MAC_SIZE]; /* of a network; a load keeps the saved one, which the guest's driver has */
    uint8_t generation[CONTROL_GENERATION_SIZE]; /* VMGenID: new for each boot and load */
    /* A raw kernel (libkrunfw): where its first byte goes, and where it begins. Both 0: the file says. Of a BOOT. */
    uint64_t kernel_load;
    uint64_t kernel_entry;
    /* The machine of a kernel that has neither initramfs nor ACPI nor a serial port: a read-only boot disk behind the
     * others, then a virtio console; told of by the command line and an MP table. */
    bool has_medium;
    char command_line[CONTROL_COMMAND_LINE_SIZE_MAX + 1];
};

/* TOLD: moments on the monotonic clock in nanoseconds; 0: not yet. */
struct control_stamps {
    uint64_t started_ns;    /* the process runs */
    uint64_t ready_ns;      /* the last call that sets the machine up has returned */
    uint64_t resumed_ns;    /* the vCPUs were told to run, the last time */
    uint64_t first_exit_ns; /* the guest's first exit in this process */
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
void control_encode_stamps(struct cursor_writer *writer, const struct control_stamps *stamps);
void control_encode_failed(struct cursor_writer *writer, const struct kelpie_error *failure);

/* The payload, whole. False: it is not one. */
bool control_decode_machine(const void *payload, size_t size, struct control_machine *ret);
bool control_decode_fd(const void *payload, size_t size, enum control_role *ret);
bool control_decode_stamps(const void *payload, size_t size, struct control_stamps *ret);
bool control_decode_failed(const void *payload, size_t size, struct kelpie_error *ret);

#endif
