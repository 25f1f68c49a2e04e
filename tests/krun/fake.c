/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "fake.h"

#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/mock/mock_guest.h"
#include "krun/control.h"

#define STEP_MS 20
#define CHUNK_SIZE 65536

static int log_fd = -1; /* opened when it is loaded: when it runs, nothing can be opened */

bool fake_has(const char *word) {
    const char *list = getenv("FAKE_KRUN");
    size_t size = strlen(word);
    while (list && *list) {
        size_t part = strcspn(list, ",");
        if (part == size && memcmp(list, word, size) == 0) {
            return true;
        }
        list += part;
        list += *list == ',';
    }
    return false;
}

bool fake_call(const char *name, const char *format, ...) {
    char word[96];
    if (log_fd >= 0) {
        char text[4096];
        va_list arguments;
        va_start(arguments, format);
        int size = vsnprintf(text, sizeof(text), format, arguments);
        va_end(arguments);
        if (size >= 0 && dprintf(log_fd, "%s %s\n", name, text) < 0) {
            abort();
        }
    }
    snprintf(word, sizeof(word), "fail=%s", name);
    return !fake_has(word);
}

__attribute__((constructor)) static void loaded(void) {
    const char *path = getenv("FAKE_KRUN_LOG");
    log_fd = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
    if (fake_has("load-crash")) {
        raise(SIGABRT);
    }
    if (fake_has("load-fault")) {
        signal(SIGSEGV, SIG_DFL); /* a sanitizer would make it another signal */
        raise(SIGSEGV);
    }
    if (fake_has("load-hang")) {
        for (;;) {
            pause();
        }
    }
    if (fake_has("load-noise")) {
        fprintf(stderr, "the fake does not like it here\n");
        _exit(3);
    }
}

/* ---- The guest -------------------------------------------------------------------------------- */

/* Moves what the guest has to say, and what is said to it. False: the owner is gone. */
static bool move(struct host *host, struct mock_guest *guest, int fd, bool more) {
    static uint8_t chunk[CHUNK_SIZE];
    const struct host_wait now = host_wait_none();
    const struct host_wait soon = host_wait_ms(host, more ? 0 : STEP_MS, HOST_FD_NONE);
    size_t size = ring_peek(&guest->send, 0, chunk, sizeof(chunk));
    size_t count = 0;
    if (size > 0 && host_write(host, fd, chunk, size, &now, &count, NULL) == KELPIE_OK) {
        ring_drop(&guest->send, count);
    }
    size_t room = 0;
    uint8_t *space = protocol_decoder_space(&guest->decoder, &room);
    if (room == 0) {
        return true;
    }
    enum kelpie_status status =
        host_read(host, fd, space, room, guest->send.size > 0 ? &now : &soon, &count, NULL);
    if (status == KELPIE_OK && count > 0) {
        protocol_decoder_filled(&guest->decoder, count);
    }
    return status == KELPIE_TIMED_OUT || (status == KELPIE_OK && count > 0);
}

static void say(int fd, const char *text) {
    if (write(fd, text, strlen(text)) < 0) {
        abort();
    }
}

static int run_guest(struct host *host, struct fake_machine *machine) {
    struct mock_guest *guest = NULL;
    bool more = false;
    if (mock_guest_create(host, (uint64_t)machine->memory_mib << 20, &guest, NULL) != KELPIE_OK ||
        mock_guest_boot(guest, NULL) != KELPIE_OK) {
        return 1;
    }
    mock_guest_skip(guest, host_monotonic_ns(host));
    say(machine->console_fd, "the fake's guest is up\n");
    while (!guest->powered_off || guest->send.size > 0) {
        if (__atomic_load_n(&machine->paused, __ATOMIC_ACQUIRE)) {
            usleep(STEP_MS * 1000);
            mock_guest_skip(guest, host_monotonic_ns(host));
            continue;
        }
        if (!move(host, guest, machine->channel_fd, more)) {
            break;
        }
        mock_guest_advance(guest, host_monotonic_ns(host));
        more = mock_guest_turn(guest);
    }
    if (fake_has("last-words")) {
        say(machine->console_fd, "these are the last words\n");
    }
    mock_guest_destroy(guest);
    return 0;
}

int fake_run(struct fake_machine *machine) {
    struct host *host = NULL;
    if (fake_has("enter-crash")) {
        fprintf(stderr, "the fake is about to crash\n");
        raise(SIGABRT);
    }
    if (fake_has("enter-exit")) {
        say(machine->console_fd, "the fake's kernel panicked\n");
        return 7;
    }
    if (fake_has("garbage")) {
        say(KRUN_CHILD_CONTROL, "this is\tno message\n");
    }
    while (fake_has("enter-hang")) {
        pause();
    }
    if (host_linux_create(&host, NULL) != KELPIE_OK) {
        return 1;
    }
    int code = run_guest(host, machine);
    host_destroy(host);
    return code;
}
