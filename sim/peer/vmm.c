/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The scripted monitor as a process: its loop, its messages, and the faults of a monitor. */
#include "sim/peer/vmm.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "sim/peer/script.h"

#define STDERR 2
#define LINE_SIZE_MAX 128

static void vmm_check(const struct peer_vmm *vmm) {
    ASSERT(vmm->peer);
    ASSERT(vmm->host == vmm->peer->host);
    ASSERT(vmm->files.host == vmm->host);
}

/* ---- Words ------------------------------------------------------------------------------------ */

/* As far as the owner reads them. */
static void say_last(struct peer_vmm *vmm, const char *text) {
    vmm_check(vmm);
    ASSERT(text);
    const struct host_wait wait = host_wait_ms(vmm->host, PEER_VMM_LAST_WORDS_MS, HOST_FD_NONE);
    char line[LINE_SIZE_MAX];
    struct kelpie_error ignored;
    snprintf(line, sizeof(line), "%s\n", text);
    (void)!host_write_all(vmm->host, STDERR, line, strlen(line), &wait, &ignored);
}

static void chatter(struct peer_vmm *vmm) {
    vmm_check(vmm);
    const struct host_wait no_wait = host_wait_none();
    uint64_t left = 1 + sim_peer_choose(vmm->peer, PEER_VMM_CHATTER_SIZE_MAX);
    ASSERT(left <= PEER_VMM_CHATTER_SIZE_MAX);
    while (left > 0) {
        char line[LINE_SIZE_MAX];
        size_t size = 0;
        struct kelpie_error ignored;
        snprintf(line, sizeof(line), "kelpie-vmm: chatter, %llu bytes of it to come\n",
                 (unsigned long long)left);
        if (host_write(vmm->host, STDERR, line, (size_t)min_u64(left, strlen(line)), &no_wait,
                       &size, &ignored) != KELPIE_OK) {
            return; /* nobody reads it */
        }
        left -= size;
    }
}

/* ---- Messages --------------------------------------------------------------------------------- */

/* Reads exactly size bytes. False: the owner is gone, or sends what cannot be. */
static bool receive(struct peer_vmm *vmm, void *buffer, size_t size, int *ret_fd) {
    vmm_check(vmm);
    ASSERT(buffer && ret_fd);
    const struct host_wait wait = {.deadline_ns = UINT64_MAX, .cancel_fd = HOST_FD_NONE};
    for (size_t done = 0; done < size;) {
        struct sim_peer_received received = {.buffer = (uint8_t *)buffer + done,
                                             .capacity = size - done};
        struct kelpie_error err;
        if (sim_peer_receive(vmm->peer, CONTROL_CHILD_CONTROL, &wait, &received, &err) !=
                KELPIE_OK ||
            received.size == 0) {
            return false;
        }
        done += received.size;
        for (size_t i = 0; i < received.fd_count; i++) {
            host_close(vmm->host, *ret_fd); /* one for each message, as the real one has it */
            *ret_fd = received.fds[i];
        }
    }
    return true;
}

static void send_bytes(struct peer_vmm *vmm, const void *data, size_t size) {
    vmm_check(vmm);
    ASSERT(data && size > 0);
    const struct host_wait wait = {.deadline_ns = UINT64_MAX, .cancel_fd = HOST_FD_NONE};
    struct kelpie_error ignored; /* an owner that is gone is noticed next */
    (void)!host_write_all(vmm->host, CONTROL_CHILD_CONTROL, data, size, &wait, &ignored);
}

static void answer(struct peer_vmm *vmm, enum kelpie_status status,
                   const struct kelpie_error *failure) {
    vmm_check(vmm);
    ASSERT(status == KELPIE_OK || failure->status == status);
    struct cursor_writer writer = cursor_writer_init(vmm->answer, sizeof(vmm->answer));
    if (status == KELPIE_OK) {
        control_encode_plain(&writer, CONTROL_DONE);
    } else {
        control_encode_failed(&writer, failure);
    }
    send_bytes(vmm, writer.data, writer.size);
}

static void tell(struct peer_vmm *vmm) {
    vmm_check(vmm);
    ASSERT(vmm->guest);
    struct cursor_writer writer = cursor_writer_init(vmm->answer, sizeof(vmm->answer));
    vmm->stamps.first_exit_ns = vmm->stamps.resumed_ns;
    control_encode_stamps(&writer, &vmm->stamps);
    ASSERT(!writer.failed);
    send_bytes(vmm, writer.data, writer.size);
}

/* Keeps a descriptor for the next order. False: that was no FD message. */
static bool keep_fd(struct peer_vmm *vmm, size_t size, int fd) {
    enum control_role role = CONTROL_ROLE_KERNEL;
    vmm_check(vmm);
    ASSERT(size <= sizeof(vmm->payload));
    if (fd == HOST_FD_NONE || !control_decode_fd(vmm->payload, size, &role)) {
        return false;
    }
    host_close(vmm->host, vmm->files.fds[role]);
    vmm->files.fds[role] = fd;
    return true;
}

/* ---- Faults ----------------------------------------------------------------------------------- */

/* Each is asked about once for each order. */
static enum peer_script ask_faults(struct peer_vmm *vmm) {
    vmm_check(vmm);
    const struct sim_peer *peer = vmm->peer;
    ASSERT(!vmm->deaf);
    if (sim_peer_fault(peer, SIM_FAULT_PEER_CHATTERS)) {
        chatter(vmm);
    }
    return peer_script_ask(peer);
}

/* Returns the exit code, if it ends by itself. */
static int die(struct peer_vmm *vmm) {
    vmm_check(vmm);
    ASSERT(vmm->host);
    switch (sim_peer_choose(vmm->peer, 3)) {
    case 0:
        sim_peer_die(vmm->peer, SIGKILL);
    case 1:
        sim_peer_die(vmm->peer, SIGSEGV);
    default:
        say_last(vmm, "something is wrong, and this is all that is said of it");
        return 1;
    }
}

static void stand_still(struct peer_vmm *vmm) {
    vmm_check(vmm);
    uint64_t seconds = 1 + sim_peer_choose(vmm->peer, PEER_VMM_SLOW_S_MAX);
    ASSERT(seconds <= PEER_VMM_SLOW_S_MAX);
    const struct host_wait wait = host_wait_ms(vmm->host, seconds * 1000, HOST_FD_NONE);
    struct kelpie_error ignored;
    (void)!host_sleep(vmm->host, &wait, &ignored);
}

static void refuse(struct peer_vmm *vmm) {
    vmm_check(vmm);
    struct kelpie_error failure = {0};
    enum kelpie_status status =
        (enum kelpie_status)(1 + sim_peer_choose(vmm->peer, KELPIE_STATUS_COUNT - 1));
    ASSERT(status != KELPIE_OK);
    answer(vmm, error_set(&failure, status, "refused, for no reason that is told"), &failure);
}

/* In the place of an answer: bytes, a header that cannot be, another kind of message, a message that is none. */
static void send_garbage(struct peer_vmm *vmm) {
    vmm_check(vmm);
    const struct sim_peer *peer = vmm->peer;
    struct cursor_writer writer = cursor_writer_init(vmm->answer, sizeof(vmm->answer));
    uint64_t size = 1 + sim_peer_choose(peer, PEER_VMM_GARBAGE_SIZE_MAX);
    switch (sim_peer_choose(peer, 5)) {
    case 0:
        for (uint64_t i = 0; i < size; i++) {
            cursor_write_u8(&writer, (uint8_t)sim_peer_choose(peer, 256));
        }
        break;
    case 1:
        cursor_write_u32(&writer, UINT32_MAX - (uint32_t)size);
        cursor_write_u32(&writer, CONTROL_DONE);
        break;
    case 2:
        control_encode_plain(&writer, CONTROL_PAUSE);
        break;
    case 3: /* FAILED, with nothing wrong */
        cursor_write_u32(&writer, 2 * sizeof(uint32_t) + 2);
        cursor_write_u32(&writer, CONTROL_FAILED);
        cursor_write_u64(&writer, KELPIE_OK);
        cursor_write_u16(&writer, 0);
        break;
    default:
        control_encode_stamps(&writer, &vmm->stamps);
        break;
    }
    ASSERT(!writer.failed && writer.size > 0);
    send_bytes(vmm, writer.data, writer.size);
}

/* ---- Orders ----------------------------------------------------------------------------------- */

#define GOES_ON (-1)

static void carry_out(struct peer_vmm *vmm, const struct control_header *header,
                      enum peer_script script) {
    vmm_check(vmm);
    ASSERT(script != SCRIPT_DEAF && script != SCRIPT_DIES_BEFORE);
    struct kelpie_error err = {0};
    bool told = header->type == CONTROL_TELL && vmm->guest;
    enum kelpie_status status = KELPIE_OK;
    if (header->type == CONTROL_TELL && !told) {
        status = error_set(&err, KELPIE_WRONG_STATE, "there is no machine yet");
    } else if (!told) {
        status = peer_vmm_obey(vmm, header, &err);
    }
    peer_vmm_files_close(&vmm->files);
    if (script == SCRIPT_UNANSWERED || script == SCRIPT_DIES_AFTER) {
        return;
    }
    if (script == SCRIPT_GARBAGE) {
        send_garbage(vmm);
        return;
    }
    if (script == SCRIPT_SLOW_AFTER) {
        stand_still(vmm);
    }
    if (told) {
        tell(vmm);
    } else {
        answer(vmm, status, &err);
    }
}

/* Returns an exit code, or GOES_ON. */
static int obey(struct peer_vmm *vmm, const struct control_header *header) {
    vmm_check(vmm);
    ASSERT(header->type != CONTROL_FD);
    enum peer_script script = ask_faults(vmm);
    switch (script) {
    case SCRIPT_DEAF:
        vmm->deaf = true;
        peer_vmm_files_close(&vmm->files);
        return GOES_ON;
    case SCRIPT_REFUSES:
        refuse(vmm);
        peer_vmm_files_close(&vmm->files);
        return GOES_ON;
    case SCRIPT_DIES_BEFORE:
        return die(vmm);
    case SCRIPT_DIES_AFTER:
        carry_out(vmm, header, script);
        return die(vmm);
    case SCRIPT_SLOW_BEFORE:
        stand_still(vmm);
        carry_out(vmm, header, script);
        return GOES_ON;
    case SCRIPT_HONEST:
    case SCRIPT_UNANSWERED:
    case SCRIPT_SLOW_AFTER:
    case SCRIPT_GARBAGE:
        carry_out(vmm, header, script);
        return GOES_ON;
    default:
        UNREACHABLE();
    }
}

/* One message. Returns an exit code, or GOES_ON. */
static int serve(struct peer_vmm *vmm) {
    vmm_check(vmm);
    uint8_t bytes[CONTROL_HEADER_SIZE];
    struct control_header header = {0};
    int fd = HOST_FD_NONE;
    bool whole = receive(vmm, bytes, sizeof(bytes), &fd) && control_decode_header(bytes, &header) &&
                 (header.size == 0 || receive(vmm, vmm->payload, header.size, &fd));
    if (whole && header.type == CONTROL_FD) {
        if (keep_fd(vmm, header.size, fd)) {
            return GOES_ON;
        }
        whole = false;
    }
    if (!whole) {
        host_close(vmm->host, fd);
        return 0;
    }
    host_close(vmm->host, fd); /* no other message has one */
    return obey(vmm, &header);
}

/* ---- The process ------------------------------------------------------------------------------ */

static int report(struct peer_vmm *vmm, enum peer_guest_outcome outcome) {
    vmm_check(vmm);
    ASSERT(outcome != PEER_GUEST_RUNS);
    switch (outcome) {
    case PEER_GUEST_POWERED_OFF:
        say_last(vmm, "the guest powered off");
        return 0;
    case PEER_GUEST_PANICKED:
        say_last(vmm, "the guest reset its machine");
        return 0;
    case PEER_GUEST_RESET: /* a guest that is out of its mind resets by a triple fault */
        say_last(vmm, "vCPU 0 had a triple fault");
        return 1;
    case PEER_GUEST_RUNS:
    default:
        UNREACHABLE();
    }
}

/* Orders alone, until there is a machine; then the guest runs beside them. Returns an exit code. */
static int run(struct peer_vmm *vmm) {
    vmm_check(vmm);
    int code = GOES_ON;
    ASSERT(!vmm->guest);
    while (code == GOES_ON) {
        struct host_poll_item items[PEER_GUEST_ITEM_COUNT + 1] = {0};
        struct host_wait wait = {.deadline_ns = UINT64_MAX, .cancel_fd = HOST_FD_NONE};
        struct host_poll_item *control = &items[PEER_GUEST_ITEM_COUNT];
        for (size_t i = 0; i < PEER_GUEST_ITEM_COUNT; i++) {
            items[i].fd = HOST_FD_NONE;
        }
        *control = (struct host_poll_item){.fd = vmm->deaf ? HOST_FD_NONE : CONTROL_CHILD_CONTROL,
                                           .asked = HOST_POLL_READ};
        if (vmm->guest) {
            peer_guest_items(vmm->guest, items);
            wait.deadline_ns = peer_guest_deadline_ns(vmm->guest);
        } else if (vmm->deaf) {
            sim_peer_hang(vmm->peer);
        }
        struct kelpie_error err;
        enum kelpie_status status = host_poll(vmm->host, items, ARRAY_SIZE(items), &wait, &err);
        if (status != KELPIE_OK && status != KELPIE_TIMED_OUT) {
            say_last(vmm, err.message);
            return 1;
        }
        if (vmm->guest) {
            peer_guest_service(vmm->guest, items);
            enum peer_guest_outcome outcome = peer_guest_outcome(vmm->guest);
            if (outcome != PEER_GUEST_RUNS) {
                return report(vmm, outcome);
            }
        }
        code = control->ready & HOST_POLL_READ ? serve(vmm) : GOES_ON;
    }
    return code;
}

static void vmm_init(struct peer_vmm *vmm, const struct sim_peer *peer) {
    ASSERT(vmm && peer);
    ASSERT(peer->host);
    vmm->peer = peer;
    vmm->host = peer->host;
    vmm->stamps.started_ns = host_monotonic_ns(peer->host) + 1; /* never 0 */
    peer_vmm_files_init(&vmm->files, peer->host);
    peer_vmm_memory_init(&vmm->memory, peer->host);
    for (size_t i = 0; i < CONTROL_ROLE_COUNT; i++) {
        vmm->kept_fds[i] = HOST_FD_NONE;
    }
}

int peer_vmm_main(const struct sim_peer *peer) {
    struct kelpie_error err;
    ASSERT(peer);
    ASSERT(peer->host);
    struct peer_vmm *vmm = host_allocate(peer->host, sizeof(*vmm), &err);
    if (!vmm) {
        return 1;
    }
    vmm_init(vmm, peer);
    host_close(peer->host, CONTROL_CHILD_PROGRAM);
    int code = run(vmm);
    peer_guest_destroy(vmm->guest);
    peer_vmm_memory_deinit(&vmm->memory);
    peer_vmm_files_close(&vmm->files);
    for (size_t i = 0; i < CONTROL_ROLE_COUNT; i++) {
        host_close(peer->host, vmm->kept_fds[i]);
    }
    free(vmm);
    return code;
}
