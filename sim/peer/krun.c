/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "sim/peer/krun.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "krun/control.h"
#include "sim/peer/guest.h"
#include "sim/peer/script.h"

#define STDERR 2
#define GOES_ON (-1)
#define ORDER_SIZE_MAX 16

struct krun {
    const struct sim_peer *peer;
    struct host *host;
    struct krun_order order;
    struct peer_guest *guest; /* NULL: it has not entered */
    bool deaf;
    size_t size; /* of the order that is being read */
    char line[ORDER_SIZE_MAX];
};

static void krun_check(const struct krun *krun) {
    ASSERT(krun->peer);
    ASSERT(krun->host == krun->peer->host);
    ASSERT(krun->size < sizeof(krun->line));
}

/* ---- Words ------------------------------------------------------------------------------------ */

/* An owner that is gone, or does not read, gets none. */
static void write_words(struct krun *krun, int fd, const char *text) {
    krun_check(krun);
    ASSERT(text);
    const struct host_wait wait = host_wait_ms(krun->host, PEER_KRUN_LAST_WORDS_MS, HOST_FD_NONE);
    struct kelpie_error ignored;
    (void)!host_write_all(krun->host, fd, text, strlen(text), &wait, &ignored);
}

static void say(struct krun *krun, const struct krun_message *message) {
    char line[KRUN_LINE_SIZE_MAX + 1];
    krun_check(krun);
    size_t size = krun_message_encode(message, line, sizeof(line));
    ASSERT(size > 0);
    write_words(krun, KRUN_CHILD_CONTROL, line);
}

static void say_found(struct krun *krun) {
    krun_check(krun);
    ASSERT(krun->order.kernel);
    say(krun, &(struct krun_message){.word = KRUN_WORD_FOUND,
                                     .abi = 2,
                                     .can = KRUN_CAN_ALL,
                                     .version = "2.0.0",
                                     .library = PEER_KRUN_LIBRARY,
                                     .kernel = PEER_KRUN_KERNEL});
}

static void refuse(struct krun *krun) {
    krun_check(krun);
    uint64_t choice = sim_peer_choose(krun->peer, KELPIE_STATUS_COUNT - 1);
    ASSERT(choice < KELPIE_STATUS_COUNT);
    say(krun, &(struct krun_message){.word = KRUN_WORD_FAILED,
                                     .status = (enum kelpie_status)(1 + choice),
                                     .text = "refused, for no reason that is told"});
}

/* Lines that are none, a path that is too long, and lines without an end. */
static void send_garbage(struct krun *krun) {
    static const char *const garbage[] = {"nothing of the kind\n", "found\t3\t2.0.0\t1\tx\ty\n",
                                          "failed\t0\tof nothing\n", "\n", "console\n"};
    char path[HOST_PATH_SIZE_MAX + 2];
    krun_check(krun);
    uint64_t choice = sim_peer_choose(krun->peer, ARRAY_SIZE(garbage) + 2);
    ASSERT(choice < ARRAY_SIZE(garbage) + 2);
    if (choice < ARRAY_SIZE(garbage)) {
        write_words(krun, KRUN_CHILD_CONTROL, garbage[choice]);
        return;
    }
    memset(path, 'x', sizeof(path) - 1);
    path[sizeof(path) - 1] = '\0';
    for (size_t i = 0; i < (choice > ARRAY_SIZE(garbage) ? PEER_KRUN_GARBAGE_COUNT : 1); i++) {
        say(krun, &(struct krun_message){.word = KRUN_WORD_FOUND,
                                         .abi = 2,
                                         .version = "2.0.0",
                                         .library = path,
                                         .kernel = PEER_KRUN_KERNEL});
    }
}

static void chatter(struct krun *krun) {
    krun_check(krun);
    const struct host_wait no_wait = host_wait_none();
    static const char text[] = "libkrun: chatter, and more of it to come\n";
    uint64_t count = 1 + sim_peer_choose(krun->peer, PEER_KRUN_CHATTER_COUNT_MAX);
    ASSERT(count <= PEER_KRUN_CHATTER_COUNT_MAX);
    for (uint64_t i = 0; i < count; i++) {
        size_t size = 0;
        struct kelpie_error ignored;
        if (host_write(krun->host, STDERR, text, sizeof(text) - 1, &no_wait, &size, &ignored) !=
            KELPIE_OK) {
            return; /* nobody reads it */
        }
    }
}

/* ---- Faults ----------------------------------------------------------------------------------- */

/* Returns the exit code, if it ends by itself. */
static int die(struct krun *krun) {
    krun_check(krun);
    ASSERT(krun->host);
    switch (sim_peer_choose(krun->peer, 3)) {
    case 0:
        sim_peer_die(krun->peer, SIGKILL);
    case 1:
        sim_peer_die(krun->peer, SIGSEGV);
    default:
        write_words(krun, STDERR, "thread 'main' panicked, and this is all that is said of it\n");
        return 1;
    }
}

static void stand_still(struct krun *krun) {
    krun_check(krun);
    uint64_t seconds = 1 + sim_peer_choose(krun->peer, PEER_KRUN_SLOW_S_MAX);
    ASSERT(seconds <= PEER_KRUN_SLOW_S_MAX);
    const struct host_wait wait = host_wait_ms(krun->host, seconds * 1000, HOST_FD_NONE);
    struct kelpie_error ignored;
    (void)!host_sleep(krun->host, &wait, &ignored);
}

/* ---- What it is asked ------------------------------------------------------------------------- */

static int enter(struct krun *krun) {
    struct kelpie_error err = {0};
    const struct peer_guest_config config = {
        .peer = krun->peer,
        .link = PEER_GUEST_SERIAL,
        .channel_fd = KRUN_CHILD_CHANNEL,
        .console_fd = KRUN_CHILD_CONSOLE,
        .memory_bytes = (uint64_t)krun->order.memory_mib << 20,
    };
    krun_check(krun);
    ASSERT(!krun->guest);
    enum kelpie_status status = peer_guest_create(&config, &krun->guest, &err);
    if (status == KELPIE_OK) {
        status = peer_guest_boot(krun->guest, &err);
    }
    if (status != KELPIE_OK) {
        say(krun, &(struct krun_message){
                      .word = KRUN_WORD_FAILED, .status = status, .text = err.message});
        return 1;
    }
    say(krun, &(struct krun_message){.word = KRUN_WORD_CONSOLE});
    say(krun, &(struct krun_message){.word = KRUN_WORD_ENTERING});
    return GOES_ON;
}

static void carry_out(struct krun *krun) {
    krun_check(krun);
    ASSERT(krun->guest);
    if (strcmp(krun->line, "pause") == 0) {
        peer_guest_pause(krun->guest);
    } else {
        peer_guest_resume(krun->guest);
    }
}

/* The first answer, to how it was started: found. */
static int begin(struct krun *krun) {
    krun_check(krun);
    ASSERT(!krun->guest);
    say_found(krun);
    return krun->order.verb == KRUN_VERB_PROBE ? 0 : enter(krun);
}

/* The answer to pause or resume. */
static int obey(struct krun *krun, bool answers) {
    krun_check(krun);
    ASSERT(krun->guest);
    carry_out(krun);
    if (answers) {
        say(krun, &(struct krun_message){.word = KRUN_WORD_DONE});
    }
    return GOES_ON;
}

/* Does what is asked, honestly or not. Returns an exit code, or GOES_ON. */
static int answer(struct krun *krun, bool first) {
    krun_check(krun);
    ASSERT(first == !krun->guest);
    if (sim_peer_fault(krun->peer, SIM_FAULT_PEER_CHATTERS)) {
        chatter(krun);
    }
    switch (peer_script_ask(krun->peer)) {
    case SCRIPT_HONEST:
        return first ? begin(krun) : obey(krun, true);
    case SCRIPT_DEAF:
    case SCRIPT_UNANSWERED:
        krun->deaf = true;
        return first ? GOES_ON : obey(krun, false);
    case SCRIPT_SLOW_BEFORE:
    case SCRIPT_SLOW_AFTER:
        stand_still(krun);
        return first ? begin(krun) : obey(krun, true);
    case SCRIPT_REFUSES:
        refuse(krun);
        return first ? 1 : GOES_ON;
    case SCRIPT_GARBAGE:
        send_garbage(krun);
        return GOES_ON;
    case SCRIPT_DIES_BEFORE:
    case SCRIPT_DIES_AFTER:
        return die(krun);
    default:
        UNREACHABLE();
    }
}

/* A byte of an order. Returns an exit code, or GOES_ON. */
static int serve(struct krun *krun) {
    const struct host_wait no_wait = host_wait_none();
    struct kelpie_error err;
    size_t count = 0;
    krun_check(krun);
    ASSERT(krun->guest);
    enum kelpie_status status = host_read(krun->host, KRUN_CHILD_CONTROL, krun->line + krun->size,
                                          1, &no_wait, &count, &err);
    if (status == KELPIE_TIMED_OUT) {
        return GOES_ON;
    }
    if (status != KELPIE_OK || count == 0) {
        krun->deaf = true; /* the real one runs on */
        return GOES_ON;
    }
    if (krun->line[krun->size] != '\n') {
        krun->size++;
        return krun->size + 1 < sizeof(krun->line) ? GOES_ON : 1;
    }
    krun->line[krun->size] = '\0';
    krun->size = 0;
    return answer(krun, false);
}

/* ---- The process ------------------------------------------------------------------------------ */

/* As libkrun: a reset, of whatever reason, ends it with code 0. */
static int report(struct krun *krun, enum peer_guest_outcome outcome) {
    krun_check(krun);
    ASSERT(outcome != PEER_GUEST_RUNS);
    return outcome == PEER_GUEST_RESET ? die(krun) : 0;
}

static int run(struct krun *krun) {
    int code = answer(krun, true);
    krun_check(krun);
    ASSERT(krun->order.verb < KRUN_VERB_COUNT);
    while (code == GOES_ON) {
        struct host_poll_item items[PEER_GUEST_ITEM_COUNT + 1] = {0};
        struct host_poll_item *control = &items[PEER_GUEST_ITEM_COUNT];
        if (!krun->guest) {
            sim_peer_hang(krun->peer);
        }
        peer_guest_items(krun->guest, items);
        *control = (struct host_poll_item){.fd = krun->deaf ? HOST_FD_NONE : KRUN_CHILD_CONTROL,
                                           .asked = HOST_POLL_READ};
        const struct host_wait wait = {.deadline_ns = peer_guest_deadline_ns(krun->guest),
                                       .cancel_fd = HOST_FD_NONE};
        struct kelpie_error err;
        enum kelpie_status status = host_poll(krun->host, items, ARRAY_SIZE(items), &wait, &err);
        if (status != KELPIE_OK && status != KELPIE_TIMED_OUT) {
            write_words(krun, STDERR, err.message);
            return 1;
        }
        peer_guest_service(krun->guest, items);
        enum peer_guest_outcome outcome = peer_guest_outcome(krun->guest);
        if (outcome != PEER_GUEST_RUNS) {
            return report(krun, outcome);
        }
        code = control->ready & HOST_POLL_READ ? serve(krun) : GOES_ON;
    }
    return code;
}

int peer_krun_main(const struct sim_peer *peer) {
    struct krun krun = {.peer = peer, .host = peer->host};
    ASSERT(peer->argc > 0);
    ASSERT(peer->host);
    bool parsed = krun_argv_parse(peer->argc, peer->argv, &krun.order);
    ASSERT(parsed); /* its owner is the real one */
    host_close(peer->host, KRUN_CHILD_PROGRAM);
    int code = run(&krun);
    peer_guest_destroy(krun.guest);
    return code;
}
