/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The scripted QEMU's process: its start, its loop, its end. The theory of operation is in qemu.h. */
#include "sim/peer/qemu.h"

#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"
#include "base/cleanup.h"

#define STDOUT_FD 1
#define STDERR_FD 2

void sim_qemu_check(const struct sim_qemu *qemu) {
    ASSERT(qemu->peer && qemu->host);
    ASSERT(qemu->options.disk_count <= SIM_QEMU_DISK_COUNT_MAX);
    ASSERT(qemu->qmp.out.size <= SIM_QEMU_OUT_SIZE_MAX);
}

/* ---- Words ------------------------------------------------------------------------------------ */

static void print(struct sim_qemu *qemu, int fd, const char *text) {
    ASSERT(qemu->host);
    ASSERT(text);
    const struct host_wait wait = host_wait_ms(qemu->host, SIM_QEMU_WORDS_MS, HOST_FD_NONE);
    struct kelpie_error ignored;
    enum kelpie_status status = host_write_all(qemu->host, fd, text, strlen(text), &wait, &ignored);
    (void)status; /* nobody reads it */
}

void sim_qemu_words(struct sim_qemu *qemu, const char *format, ...) {
    ASSERT(qemu->host);
    ASSERT(format);
    char text[SIM_QEMU_ERROR_SIZE];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    print(qemu, STDERR_FD, text);
}

void sim_qemu_mutter(struct sim_qemu *qemu) {
    ASSERT(qemu->peer);
    ASSERT(qemu->host);
    uint64_t count =
        SIM_QEMU_CHATTER_COUNT_MIN +
        sim_peer_choose(qemu->peer, SIM_QEMU_CHATTER_COUNT_MAX - SIM_QEMU_CHATTER_COUNT_MIN + 1);
    struct mock_bytes text = mock_bytes_init(qemu->host);
    for (uint64_t i = 0; i < count; i++) {
        mock_bytes_print(&text,
                         "qemu-system-x86_64: warning: TCG doesn't support requested feature: "
                         "CPUID.01H:ECX.x2apic [bit %" PRIu64 "]\n",
                         i);
    }
    if (mock_bytes_append_byte(&text, '\0')) {
        print(qemu, STDERR_FD, (const char *)text.data);
    }
    mock_bytes_deinit(&text);
}

/* ---- Faults ----------------------------------------------------------------------------------- */

struct sim_qemu_faults sim_qemu_faults_ask(struct sim_qemu *qemu) {
    ASSERT(qemu->peer);
    ASSERT(qemu->host);
    return (struct sim_qemu_faults){
        .silent = sim_peer_fault(qemu->peer, SIM_FAULT_PEER_SILENT),
        .slow = sim_peer_fault(qemu->peer, SIM_FAULT_PEER_SLOW),
        .refuses = sim_peer_fault(qemu->peer, SIM_FAULT_PEER_REFUSES),
        .garbage = sim_peer_fault(qemu->peer, SIM_FAULT_PEER_GARBAGE),
        .dies = sim_peer_fault(qemu->peer, SIM_FAULT_PEER_DIES),
        .chatters = sim_peer_fault(qemu->peer, SIM_FAULT_PEER_CHATTERS),
    };
}

void sim_qemu_exit(struct sim_qemu *qemu, int code) {
    ASSERT(qemu->host);
    ASSERT(code >= 0 && code < 256);
    if (!qemu->ends) {
        qemu->ends = true;
        qemu->exit_code = code;
    }
}

void sim_qemu_perish(struct sim_qemu *qemu) {
    ASSERT(qemu->peer);
    ASSERT(qemu->host);
    switch (sim_peer_choose(qemu->peer, 5)) {
    case 0:
        sim_qemu_words(qemu, "qemu-system-x86_64: Unexpected error in virtqueue_fetch(): "
                             "cannot allocate memory\n");
        sim_qemu_exit(qemu, 1);
        break;
    case 1:
        sim_qemu_exit(qemu, 0);
        break;
    case 2:
        sim_peer_die(qemu->peer, SIGKILL);
    case 3:
        sim_peer_die(qemu->peer, SIGSEGV);
    default:
        sim_qemu_words(qemu, "qemu-system-x86_64: ../softmmu/runstate.c:213: runstate_set: "
                             "Assertion `new_state < RUN_STATE__MAX' failed.\n");
        sim_peer_die(qemu->peer, SIGABRT);
    }
}

/* ---- The machine ------------------------------------------------------------------------------ */

void sim_qemu_run(struct sim_qemu *qemu) {
    sim_qemu_check(qemu);
    ASSERT(qemu->guest);
    if (qemu->state == SIM_QEMU_INMIGRATE) {
        qemu->autostart = true;
        return;
    }
    if (qemu->state == SIM_QEMU_RUNNING) {
        return;
    }
    if (qemu->booted) {
        peer_guest_resume(qemu->guest);
    } else if (peer_guest_boot(qemu->guest, NULL) != KELPIE_OK) {
        sim_qemu_words(qemu, "qemu-system-x86_64: cannot set up guest memory: no memory\n");
        sim_qemu_exit(qemu, 1);
        return;
    }
    qemu->booted = true;
    qemu->state = SIM_QEMU_RUNNING;
    qemu->migration.live = true;
    sim_qemu_memory_wipe(qemu);
    sim_qemu_event(qemu, "RESUME", NULL);
}

void sim_qemu_stop(struct sim_qemu *qemu, enum sim_qemu_state state) {
    sim_qemu_check(qemu);
    ASSERT(state == SIM_QEMU_PAUSED || state == SIM_QEMU_POSTMIGRATE);
    if (qemu->state == SIM_QEMU_INMIGRATE) {
        qemu->autostart = false;
        return;
    }
    if (qemu->state != SIM_QEMU_RUNNING) {
        return;
    }
    peer_guest_pause(qemu->guest);
    qemu->state = state;
    sim_qemu_memory_store(qemu);
    sim_qemu_event(qemu, "STOP", NULL);
}

void sim_qemu_shut_down(struct sim_qemu *qemu, bool by_guest, const char *reason) {
    sim_qemu_check(qemu);
    ASSERT(reason);
    sim_qemu_event(qemu, "SHUTDOWN", json_pack("{s:b, s:s}", "guest", by_guest, "reason", reason));
    sim_qemu_exit(qemu, 0);
}

static enum kelpie_status make_guest(struct sim_qemu *qemu, struct kelpie_error *err) {
    ASSERT(!qemu->guest);
    ASSERT(qemu->options.memory_size > 0);
    const struct peer_guest_config config = {
        .peer = qemu->peer,
        .link = PEER_GUEST_SERIAL,
        .channel_fd = qemu->options.channel_fd,
        .console_fd = qemu->options.console_fd,
        .memory_bytes = qemu->options.memory_size,
    };
    return peer_guest_create(&config, &qemu->guest, err);
}

/* The guest has reset its machine. */
static void reset(struct sim_qemu *qemu) {
    sim_qemu_check(qemu);
    ASSERT(qemu->state == SIM_QEMU_RUNNING);
    if (qemu->options.no_reboot) {
        sim_qemu_shut_down(qemu, true, "guest-reset");
        return;
    }
    sim_qemu_event(qemu, "RESET", json_pack("{s:b, s:s}", "guest", 1, "reason", "guest-reset"));
    peer_guest_destroy(TAKE(qemu->guest));
    if (make_guest(qemu, NULL) != KELPIE_OK || peer_guest_boot(qemu->guest, NULL) != KELPIE_OK) {
        sim_qemu_exit(qemu, 1);
    }
}

static void look_at_guest(struct sim_qemu *qemu) {
    sim_qemu_check(qemu);
    ASSERT(qemu->guest);
    switch (peer_guest_outcome(qemu->guest)) {
    case PEER_GUEST_RUNS:
        break;
    case PEER_GUEST_POWERED_OFF:
        sim_qemu_shut_down(qemu, true, "guest-shutdown");
        break;
    case PEER_GUEST_RESET:
        reset(qemu);
        break;
    case PEER_GUEST_PANICKED:
        if (sim_peer_choose(qemu->peer, 4) == 0) {
            reset(qemu); /* before the guest had a driver for pvpanic */
            break;
        }
        sim_qemu_event(qemu, "GUEST_PANICKED", json_pack("{s:s}", "action", "poweroff"));
        sim_qemu_event(qemu, "STOP", NULL);
        sim_qemu_shut_down(qemu, true, "guest-panic");
        break;
    default:
        UNREACHABLE();
    }
}

/* ---- The loop --------------------------------------------------------------------------------- */

static void turn(struct sim_qemu *qemu) {
    sim_qemu_check(qemu);
    ASSERT(!qemu->ends);
    struct host_poll_item items[1 + PEER_GUEST_ITEM_COUNT];
    items[0] = sim_qemu_qmp_item(qemu);
    peer_guest_items(qemu->guest, items + 1);
    uint64_t deadline_ns =
        min_u64(sim_qemu_qmp_deadline_ns(qemu),
                min_u64(sim_qemu_migrate_deadline_ns(qemu), peer_guest_deadline_ns(qemu->guest)));
    const struct host_wait wait = {.deadline_ns = deadline_ns, .cancel_fd = HOST_FD_NONE};
    struct kelpie_error ignored;
    if (host_poll(qemu->host, items, ARRAY_SIZE(items), &wait, &ignored) != KELPIE_OK) {
        for (size_t i = 0; i < ARRAY_SIZE(items); i++) {
            items[i].ready = 0;
        }
    }
    sim_qemu_qmp_service(qemu, items[0].ready);
    if (!qemu->ends) {
        sim_qemu_migrate_service(qemu);
    }
    if (!qemu->ends) {
        peer_guest_service(qemu->guest, items + 1);
        look_at_guest(qemu);
    }
}

/* A file that QEMU reads at its start. */
static bool can_read(struct sim_qemu *qemu, const char *path, const char *what) {
    ASSERT(qemu->host);
    ASSERT(what);
    struct kelpie_error error;
    int fd = HOST_FD_NONE;
    if (!path) {
        return true;
    }
    if (host_file_open(qemu->host, path, HOST_OPEN_READ, 0, &fd, &error) != KELPIE_OK) {
        sim_qemu_words(qemu, "qemu: could not %s '%.200s': %s\n", what, path,
                       error.os_error ? strerror(error.os_error) : "no memory");
        return false;
    }
    host_close(qemu->host, fd);
    return true;
}

/* What only opening shows. False: QEMU has said why it ends. */
static bool open_parts(struct sim_qemu *qemu) {
    ASSERT(qemu->host);
    ASSERT(qemu->options.memory_fd != HOST_FD_NONE);
    struct host_file_info info = {0};
    struct kelpie_error error;
    const struct sim_qemu_options *options = &qemu->options;
    if (host_file_stat(qemu->host, options->memory_fd, &info, &error) != KELPIE_OK) {
        sim_qemu_words(qemu, "qemu-system-x86_64: can't open backing store for guest RAM: %s\n",
                       strerror(error.os_error));
        return false;
    }
    if (info.size < options->memory_size) {
        sim_qemu_words(qemu,
                       "qemu-system-x86_64: backing store size 0x%" PRIx64
                       " does not match 'size' option 0x%" PRIx64 "\n",
                       info.size, options->memory_size);
        return false;
    }
    if (!can_read(qemu, options->kernel, "open kernel file") ||
        !can_read(qemu, options->initramfs, "load initrd")) {
        return false;
    }
    if (make_guest(qemu, &error) != KELPIE_OK) {
        sim_qemu_words(qemu, "qemu-system-x86_64: cannot set up guest memory 'ram': Cannot "
                             "allocate memory\n");
        return false;
    }
    return true;
}

/* ---- The start -------------------------------------------------------------------------------- */

static void start_refuse(struct sim_qemu *qemu) {
    ASSERT(qemu->peer);
    ASSERT(qemu->host);
    static const char *const words[] = {
        "cannot set up guest memory 'ram': Cannot allocate memory",
        "-sandbox on: failed to install seccomp syscall filter in the kernel: Invalid argument",
        "failed to initialize the accelerator: Device or resource busy",
    };
    sim_qemu_words(qemu, "qemu-system-x86_64: %s\n",
                   words[sim_peer_choose(qemu->peer, ARRAY_SIZE(words))]);
    sim_qemu_exit(qemu, 1);
}

static void start_dies(struct sim_qemu *qemu) {
    ASSERT(qemu->peer);
    ASSERT(qemu->host);
    bool microvm = !qemu->options.version && qemu->options.machine == SIM_QEMU_MICROVM;
    if (microvm && sim_peer_choose(qemu->peer, 2) == 0) {
        sim_qemu_words(qemu, "qemu-system-x86_64: unsupported machine type\nUse -machine help to "
                             "list supported machines\n");
        sim_qemu_exit(qemu, 1);
        return;
    }
    sim_qemu_perish(qemu);
}

/* Returns with `ends` when it came to its end. */
static void start_faults(struct sim_qemu *qemu, const struct sim_qemu_faults *faults) {
    ASSERT(qemu->peer);
    ASSERT(faults);
    if (faults->slow) {
        uint64_t seconds = 1 + sim_peer_choose(qemu->peer, SIM_QEMU_SLOW_S_MAX);
        const struct host_wait wait = host_wait_ms(qemu->host, seconds * 1000, HOST_FD_NONE);
        enum kelpie_status ignored = host_sleep(qemu->host, &wait, NULL);
        (void)ignored;
    }
    if (faults->chatters) {
        sim_qemu_mutter(qemu);
    }
    if (faults->silent) {
        sim_peer_hang(qemu->peer);
    }
    if (faults->dies) {
        start_dies(qemu);
    } else if (faults->refuses) {
        start_refuse(qemu);
    }
}

static void version(struct sim_qemu *qemu, const struct sim_qemu_faults *faults) {
    ASSERT(qemu->options.version);
    ASSERT(faults);
    print(qemu, STDOUT_FD,
          faults->garbage ? "\x01\xff version of nothing\n\n"
                          : "QEMU emulator version " SIM_QEMU_VERSION " (" SIM_QEMU_PACKAGE ")\n"
                            "Copyright (c) 2003-2022 Fabrice Bellard and the QEMU Project "
                            "developers\n");
    sim_qemu_exit(qemu, 0);
}

static void serve(struct sim_qemu *qemu, const struct sim_qemu_faults *faults) {
    sim_qemu_check(qemu);
    ASSERT(faults);
    if (qemu->options.qmp_fd == HOST_FD_NONE || qemu->options.channel_fd == HOST_FD_NONE) {
        sim_qemu_words(qemu, "qemu-system-x86_64: this one wants a monitor and a channel\n");
        sim_qemu_exit(qemu, 1);
        return;
    }
    if (!open_parts(qemu)) {
        sim_qemu_exit(qemu, 1);
        return;
    }
    qemu->qmp.fd = qemu->options.qmp_fd;
    qemu->state = qemu->options.incoming ? SIM_QEMU_INMIGRATE : SIM_QEMU_PRELAUNCH;
    qemu->autostart = !qemu->options.stopped;
    sim_qemu_qmp_greet(qemu, faults->garbage);
    if (!qemu->options.stopped) {
        sim_qemu_run(qemu);
    }
    while (!qemu->ends) {
        turn(qemu);
    }
    sim_qemu_qmp_farewell(qemu);
}

int sim_qemu_main(const struct sim_peer *peer) {
    ASSERT(peer->host);
    ASSERT(peer->argc > 0);
    struct sim_qemu *qemu = host_allocate(peer->host, sizeof(*qemu), NULL);
    char error[SIM_QEMU_ERROR_SIZE];
    if (!qemu) {
        return 1;
    }
    qemu->peer = peer;
    qemu->host = peer->host;
    qemu->migration.fd = qemu->qmp.fd = qemu->qmp.passed_fd = HOST_FD_NONE;
    qemu->migration.stream = mock_bytes_init(peer->host);
    qemu->qmp.in = mock_bytes_init(peer->host);
    qemu->qmp.out = mock_bytes_init(peer->host);
    if (!sim_qemu_options_parse(peer->argc, peer->argv, &qemu->options, error)) {
        sim_qemu_words(qemu, "%s", error);
        sim_qemu_exit(qemu, 1);
    }
    const struct sim_qemu_faults faults = sim_qemu_faults_ask(qemu);
    if (!qemu->ends) {
        start_faults(qemu, &faults);
    }
    if (!qemu->ends && qemu->options.version) {
        version(qemu, &faults);
    } else if (!qemu->ends) {
        serve(qemu, &faults);
    }
    sim_qemu_migrate_close(qemu);
    sim_qemu_qmp_close(qemu);
    peer_guest_destroy(qemu->guest);
    int code = qemu->exit_code;
    free(qemu);
    return code;
}
