/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The guest of the scripted monitors, over this machine's sockets, in time that the test makes. */
#include "sim/peer/guest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"

#define MEMORY_BYTES 268435456u
#define MS HOST_NS_PER_MS

/* What a simulated world does for a peer: faults on demand, choices of a seed, and time that goes on when everybody
 * waits. The host below is this machine's. */
struct stub {
    struct sim_peer peer; /* first */
    struct host *host;
    struct sim_choices choices;
    uint32_t asked[SIM_FAULT_COUNT];
    uint32_t fires[SIM_FAULT_COUNT]; /* so often, from the next question on */
};

/* One host at a time: its operations, and the clock. */
static struct host_ops stub_ops;
static const struct host_ops *stub_real_ops;
static uint64_t stub_now_ns;

static uint64_t stub_monotonic_ns(struct host *host) {
    (void)host;
    return stub_now_ns;
}

/* Time goes on to the deadline when nothing is ready. */
static enum kelpie_status stub_poll(struct host *host, struct host_poll_item *items, size_t count,
                                    const struct host_wait *wait, struct kelpie_error *err) {
    const struct host_wait none = host_wait_none();
    enum kelpie_status status = stub_real_ops->poll(host, items, count, &none, err);
    if (status == KELPIE_TIMED_OUT && wait->deadline_ns > stub_now_ns) {
        assert_true(wait->deadline_ns != UINT64_MAX); /* it would wait for ever */
        stub_now_ns = wait->deadline_ns;
    }
    return status;
}

static void stub_start(struct stub *stub) {
    struct kelpie_error err;
    *stub = (struct stub){0};
    assert_int_equal(host_linux_create(&stub->host, &err), KELPIE_OK);
    stub_real_ops = stub->host->ops;
    stub_ops = *stub_real_ops;
    stub_ops.monotonic_ns = stub_monotonic_ns;
    stub_ops.poll = stub_poll;
    stub->host->ops = &stub_ops;
    stub_now_ns = HOST_NS_PER_S;
    stub->peer.host = stub->host;
    sim_choices_init(&stub->choices, 1);
}

static void stub_stop(struct stub *stub) {
    stub->host->ops = stub_real_ops;
    host_destroy(stub->host);
}

static struct stub *stub_of(const struct sim_peer *peer) {
    return (struct stub *)(uintptr_t)peer;
}

bool sim_peer_fault(const struct sim_peer *peer, enum sim_fault fault) {
    struct stub *stub = stub_of(peer);
    stub->asked[fault]++;
    if (stub->fires[fault] == 0) {
        return false;
    }
    stub->fires[fault]--;
    return true;
}

uint64_t sim_peer_choose(const struct sim_peer *peer, uint64_t count) {
    return sim_choose(&stub_of(peer)->choices, count);
}

struct machine {
    struct stub *stub;
    enum peer_guest_link link;
    int channel[2]; /* ours, the guest's */
    int console[2];
    struct peer_guest *guest;
    struct protocol_decoder decoder;
    uint8_t in[PROTOCOL_FRAME_SIZE_MAX];
    char text[1048576]; /* of the console */
    size_t text_size;
};

static struct stub stub;
static struct machine machines[2];

static struct machine *machine_make(size_t index, enum peer_guest_link link) {
    struct machine *machine = &machines[index];
    struct kelpie_error err;
    *machine = (struct machine){.stub = &stub, .link = link};
    assert_int_equal(host_socket_pair(stub.host, machine->channel, &err), KELPIE_OK);
    assert_int_equal(host_socket_pair(stub.host, machine->console, &err), KELPIE_OK);
    const struct peer_guest_config config = {.peer = &stub.peer,
                                             .link = link,
                                             .channel_fd = machine->channel[1],
                                             .console_fd = machine->console[1],
                                             .memory_bytes = MEMORY_BYTES};
    assert_int_equal(peer_guest_create(&config, &machine->guest, &err), KELPIE_OK);
    protocol_decoder_init(&machine->decoder, machine->in, sizeof(machine->in));
    return machine;
}

static struct machine *machine_boot(void) {
    struct machine *machine = machine_make(0, PEER_GUEST_VSOCK);
    struct kelpie_error err;
    assert_int_equal(peer_guest_boot(machine->guest, &err), KELPIE_OK);
    return machine;
}

static void machine_end(struct machine *machine) {
    peer_guest_destroy(machine->guest);
    for (size_t i = 0; i < 2; i++) {
        host_close(stub.host, machine->channel[i]);
        host_close(stub.host, machine->console[i]);
    }
}

/* What the console has, and what the channel has: into the machine's buffers. */
static void machine_listen(struct machine *machine) {
    const struct host_wait none = host_wait_none();
    struct kelpie_error err;
    size_t size = 0;
    while (machine->text_size + 1 < sizeof(machine->text) &&
           host_read(stub.host, machine->console[0], machine->text + machine->text_size,
                     sizeof(machine->text) - 1 - machine->text_size, &none, &size,
                     &err) == KELPIE_OK &&
           size > 0) {
        machine->text_size += size;
    }
    machine->text[machine->text_size] = '\0';
    size_t room = 0;
    uint8_t *space = protocol_decoder_space(&machine->decoder, &room);
    if (room > 0 &&
        host_read(stub.host, machine->channel[0], space, room, &none, &size, &err) == KELPIE_OK) {
        protocol_decoder_filled(&machine->decoder, size);
    }
}

/* The monitor's loop, until that moment. */
static void machine_run(struct machine *machine, uint64_t until_ns) {
    while (stub_now_ns < until_ns && peer_guest_outcome(machine->guest) == PEER_GUEST_RUNS) {
        struct host_poll_item items[PEER_GUEST_ITEM_COUNT];
        peer_guest_items(machine->guest, items);
        uint64_t deadline_ns = peer_guest_deadline_ns(machine->guest);
        struct host_wait wait = {deadline_ns < until_ns ? deadline_ns : until_ns, HOST_FD_NONE};
        struct kelpie_error err;
        enum kelpie_status status = host_poll(stub.host, items, PEER_GUEST_ITEM_COUNT, &wait, &err);
        assert_true(status == KELPIE_OK || status == KELPIE_TIMED_OUT);
        peer_guest_service(machine->guest, items);
        machine_listen(machine);
    }
}

static void machine_send(struct machine *machine, const void *data, size_t size) {
    const struct host_wait none = host_wait_none();
    struct kelpie_error err;
    assert_int_equal(host_write_all(stub.host, machine->channel[0], data, size, &none, &err),
                     KELPIE_OK);
}

static struct cursor_writer writer_make(void) {
    static uint8_t bytes[PROTOCOL_FRAME_SIZE_MAX];
    return cursor_writer_init(bytes, sizeof(bytes));
}

/* The next frame, within that time; false: there is none. */
static bool machine_next(struct machine *machine, uint64_t ms, struct protocol_frame *ret) {
    const uint64_t until_ns = stub_now_ns + ms * MS;
    for (;;) {
        enum protocol_result result = protocol_decoder_next(&machine->decoder, ret);
        if (result == PROTOCOL_RESULT_FRAME) {
            return true;
        }
        assert_int_equal(result, PROTOCOL_RESULT_MORE);
        if (stub_now_ns >= until_ns || peer_guest_outcome(machine->guest) != PEER_GUEST_RUNS) {
            return false;
        }
        machine_run(machine, stub_now_ns + MS);
    }
}

static void say_hello(struct machine *machine) {
    struct cursor_writer writer = writer_make();
    protocol_encode_hello(&writer, &(struct protocol_hello){.nonce = {7}});
    machine_send(machine, writer.data, writer.size);
}

static void expect_hello(struct machine *machine) {
    struct protocol_frame frame;
    struct protocol_hello_ack ack;
    assert_true(machine_next(machine, 1000, &frame));
    assert_true(protocol_decode_hello_ack(&frame, &ack));
    assert_int_equal(ack.nonce[0], 7);
}

static void say_ping(struct machine *machine, uint64_t token) {
    struct cursor_writer writer = writer_make();
    protocol_encode_ping(&writer, PROTOCOL_PING, &(struct protocol_ping){.token = token});
    machine_send(machine, writer.data, writer.size);
}

static void expect_pong(struct machine *machine, uint64_t token) {
    struct protocol_frame frame;
    struct protocol_ping pong;
    assert_true(machine_next(machine, 1000, &frame));
    assert_int_equal(frame.type, PROTOCOL_PONG);
    assert_true(protocol_decode_ping(&frame, &pong));
    assert_int_equal(pong.token, token);
}

static void say_exec(struct machine *machine, uint32_t id, const char *script) {
    char argv[256];
    int size = snprintf(argv, sizeof(argv), "sh%c-c%c%s", 0, 0, script);
    assert_true(size > 0 && (size_t)size < sizeof(argv));
    const struct protocol_exec exec = {.working_dir = "/",
                                       .argv_count = 3,
                                       .argv = argv,
                                       .argv_size = (size_t)size + 1,
                                       .env = ""};
    struct cursor_writer writer = writer_make();
    protocol_encode_exec(&writer, id, &exec);
    assert_false(writer.failed);
    machine_send(machine, writer.data, writer.size);
}

/* Waits for the session's end; its stdout. Acknowledges nothing. */
static void expect_output(struct machine *machine, uint32_t id, const char *text) {
    char output[4096] = {0};
    struct protocol_frame frame;
    for (;;) {
        assert_true(machine_next(machine, 60000, &frame));
        struct protocol_data data;
        if (protocol_decode_data(&frame, &data) && data.stream == PROTOCOL_STDOUT) {
            assert_int_equal(frame.session, id);
            assert_true(data.offset + data.size < sizeof(output));
            memcpy(output + data.offset, data.bytes, data.size);
        }
        if (frame.type == PROTOCOL_ENDED) {
            assert_string_equal(output, text);
            return;
        }
    }
}

/* Another machine that goes on from this one's memory. */
static struct machine *machine_restore(struct machine *machine) {
    struct mock_bytes bytes = mock_bytes_init(stub.host);
    struct mock_bytes again = mock_bytes_init(stub.host);
    struct machine *other = machine_make(1, machine->link);
    struct kelpie_error err;
    peer_guest_pause(machine->guest);
    assert_int_equal(peer_guest_save(machine->guest, &bytes, &err), KELPIE_OK);
    stub_now_ns += 3600 * HOST_NS_PER_S; /* it lies on a disk */
    assert_int_equal(peer_guest_load(other->guest, bytes.data, bytes.size, &err), KELPIE_OK);
    assert_true(peer_guest_is_paused(other->guest));
    assert_int_equal(peer_guest_save(other->guest, &again, &err), KELPIE_OK);
    assert_int_equal(again.size, bytes.size);
    assert_memory_equal(again.data, bytes.data, bytes.size);
    peer_guest_resume(other->guest);
    mock_bytes_deinit(&bytes);
    mock_bytes_deinit(&again);
    return other;
}

static int set_up(void **state) {
    (void)state;
    stub_start(&stub);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    stub_stop(&stub);
    return 0;
}

/* ---- Honest ----------------------------------------------------------------------------------- */

static void test_it_comes_up_after_a_while(void **state) {
    (void)state;
    const uint64_t start_ns = stub_now_ns;
    struct machine *machine = machine_boot();
    struct protocol_frame frame;
    say_hello(machine);
    assert_false(machine_next(machine, PEER_GUEST_BOOT_MS_MIN - 1, &frame));
    assert_null(strstr(machine->text, "up"));
    expect_hello(machine);
    assert_true(stub_now_ns - start_ns <= (PEER_GUEST_BOOT_MS_MAX + 1) * MS);
    assert_non_null(strstr(machine->text, "simulated guest: up\n"));
    machine_end(machine);
}

static void test_it_runs_commands(void **state) {
    (void)state;
    struct machine *machine = machine_boot();
    say_hello(machine);
    expect_hello(machine);
    say_exec(machine, 1, "echo one; sleep 2; echo two");
    const uint64_t start_ns = stub_now_ns;
    expect_output(machine, 1, "one\ntwo\n");
    assert_true(stub_now_ns - start_ns >= 2 * HOST_NS_PER_S);
    machine_end(machine);
}

static void test_a_paused_one_stands_still(void **state) {
    (void)state;
    struct machine *machine = machine_boot();
    struct protocol_frame frame;
    say_hello(machine);
    expect_hello(machine);
    peer_guest_pause(machine->guest);
    peer_guest_pause(machine->guest);
    say_ping(machine, 1);
    assert_false(machine_next(machine, 5000, &frame));
    peer_guest_resume(machine->guest);
    expect_pong(machine, 1);
    say_exec(machine, 1, "sleep 2; echo done");
    machine_run(machine, stub_now_ns + HOST_NS_PER_S);
    peer_guest_pause(machine->guest);
    stub_now_ns += 3600 * HOST_NS_PER_S;
    peer_guest_resume(machine->guest);
    const uint64_t start_ns = stub_now_ns;
    expect_output(machine, 1, "done\n"); /* it still has a second to sleep */
    assert_true(stub_now_ns - start_ns >= HOST_NS_PER_S - 10 * MS);
    machine_end(machine);
}

static void test_booting_stands_still_too(void **state) {
    (void)state;
    struct machine *machine = machine_boot();
    struct protocol_frame frame;
    peer_guest_pause(machine->guest);
    stub_now_ns += 100 * HOST_NS_PER_S;
    peer_guest_resume(machine->guest);
    say_hello(machine);
    assert_false(machine_next(machine, PEER_GUEST_BOOT_MS_MIN - 1, &frame));
    struct machine *other = machine_restore(machine);
    say_hello(other);
    assert_false(machine_next(other, 0, &frame));
    expect_hello(other);
    machine_end(other);
    machine_end(machine);
}

static void test_it_powers_off(void **state) {
    (void)state;
    struct machine *machine = machine_boot();
    struct cursor_writer writer = writer_make();
    say_hello(machine);
    expect_hello(machine);
    protocol_encode_empty(&writer, PROTOCOL_POWER_OFF, 0);
    machine_send(machine, writer.data, writer.size);
    machine_run(machine, stub_now_ns + HOST_NS_PER_S);
    assert_int_equal(peer_guest_outcome(machine->guest), PEER_GUEST_POWERED_OFF);
    assert_int_equal(peer_guest_deadline_ns(machine->guest), UINT64_MAX);
    machine_listen(machine);
    assert_non_null(strstr(machine->text, "Power down"));
    machine_end(machine);
}

static void test_a_host_that_hangs_up_is_no_reason_to_spin(void **state) {
    (void)state;
    struct machine *machine = machine_boot();
    struct host_poll_item items[PEER_GUEST_ITEM_COUNT];
    say_hello(machine);
    expect_hello(machine);
    host_close(stub.host, machine->channel[0]);
    machine->channel[0] = HOST_FD_NONE;
    for (size_t i = 0; i < 3; i++) {
        peer_guest_items(machine->guest, items);
        items[PEER_GUEST_CHANNEL].ready = items[PEER_GUEST_CHANNEL].asked;
        peer_guest_service(machine->guest, items);
    }
    peer_guest_items(machine->guest, items);
    assert_int_equal(items[PEER_GUEST_CHANNEL].fd, HOST_FD_NONE);
    assert_int_equal(peer_guest_deadline_ns(machine->guest), UINT64_MAX);
    assert_int_equal(peer_guest_outcome(machine->guest), PEER_GUEST_RUNS);
    machine_end(machine);
}

/* ---- Saved and loaded ------------------------------------------------------------------------- */

static void test_a_restored_one_goes_on(void **state) {
    (void)state;
    struct machine *machine = machine_boot();
    say_hello(machine);
    expect_hello(machine);
    say_exec(machine, 4, "echo kept; sleep 9; echo more");
    machine_run(machine, stub_now_ns + HOST_NS_PER_S);
    struct machine *other = machine_restore(machine);
    say_hello(other);
    expect_hello(other);
    struct cursor_writer writer = writer_make();
    protocol_encode_attach(&writer, 4, &(struct protocol_attach){0});
    machine_send(other, writer.data, writer.size);
    const uint64_t start_ns = stub_now_ns;
    expect_output(other, 4, "kept\nmore\n");
    assert_true(stub_now_ns - start_ns >= 7 * HOST_NS_PER_S);
    assert_true(stub_now_ns - start_ns <= 9 * HOST_NS_PER_S);
    machine_end(other);
    machine_end(machine);
}

/* The first half of a frame before the save, the second behind it. */
static bool halves_meet(enum peer_guest_link link) {
    struct machine *machine = machine_make(0, link);
    struct kelpie_error err;
    struct protocol_frame frame;
    assert_int_equal(peer_guest_boot(machine->guest, &err), KELPIE_OK);
    say_hello(machine);
    expect_hello(machine);
    struct cursor_writer writer = writer_make();
    protocol_encode_ping(&writer, PROTOCOL_PING, &(struct protocol_ping){.token = 5});
    machine_send(machine, writer.data, 10);
    machine_run(machine, stub_now_ns + 10 * MS);
    struct machine *other = machine_restore(machine);
    other->decoder.scanning = false; /* as if it were the same connection */
    writer = writer_make();
    protocol_encode_ping(&writer, PROTOCOL_PING, &(struct protocol_ping){.token = 5});
    machine_send(other, writer.data + 10, writer.size - 10);
    bool met = machine_next(other, 100, &frame) && frame.type == PROTOCOL_PONG;
    machine_end(other);
    machine_end(machine);
    return met;
}

static void test_only_a_port_keeps_what_was_under_way(void **state) {
    (void)state;
    assert_true(halves_meet(PEER_GUEST_SERIAL));
    assert_false(halves_meet(PEER_GUEST_VSOCK));
}

/* An answer that the guest had made, and not yet written. */
static void test_what_was_not_written_is_written_after_the_load(void **state) {
    (void)state;
    for (int link = PEER_GUEST_VSOCK; link <= PEER_GUEST_SERIAL; link++) {
        struct machine *machine = machine_make(0, (enum peer_guest_link)link);
        struct kelpie_error err;
        struct protocol_frame frame;
        assert_int_equal(peer_guest_boot(machine->guest, &err), KELPIE_OK);
        say_hello(machine);
        expect_hello(machine);
        say_ping(machine, 9);
        struct host_poll_item items[PEER_GUEST_ITEM_COUNT] = {
            [PEER_GUEST_CHANNEL] = {.fd = machine->channel[1], .ready = HOST_POLL_READ}};
        peer_guest_service(machine->guest, items);
        struct machine *other = machine_restore(machine);
        other->decoder.scanning = false;
        assert_int_equal(machine_next(other, 100, &frame), link == PEER_GUEST_SERIAL);
        machine_end(other);
        machine_end(machine);
    }
}

static void test_what_was_not_saved_is_not_loaded(void **state) {
    (void)state;
    struct machine *machine = machine_boot();
    struct mock_bytes bytes = mock_bytes_init(stub.host);
    struct kelpie_error err;
    say_hello(machine);
    expect_hello(machine);
    peer_guest_pause(machine->guest);
    assert_int_equal(peer_guest_save(machine->guest, &bytes, &err), KELPIE_OK);
    const size_t cuts[] = {0, 1, 47, 48, bytes.size / 2, bytes.size - 1};
    for (size_t i = 0; i < ARRAY_SIZE(cuts); i++) {
        struct machine *other = machine_make(1, PEER_GUEST_VSOCK);
        assert_int_equal(peer_guest_load(other->guest, bytes.data, cuts[i], &err),
                         KELPIE_SNAPSHOT_CORRUPT);
        machine_end(other);
        other = machine_make(1, PEER_GUEST_VSOCK);
        bytes.data[cuts[i]] ^= 1;
        assert_int_equal(peer_guest_load(other->guest, bytes.data, bytes.size, &err),
                         KELPIE_SNAPSHOT_CORRUPT);
        bytes.data[cuts[i]] ^= 1;
        machine_end(other);
    }
    struct machine *other = machine_make(1, PEER_GUEST_VSOCK);
    assert_int_equal(peer_guest_load(other->guest, bytes.data, bytes.size, &err), KELPIE_OK);
    machine_end(other);
    mock_bytes_deinit(&bytes);
    machine_end(machine);
}

/* ---- Faults ----------------------------------------------------------------------------------- */

static void test_an_idle_guest_is_not_asked(void **state) {
    (void)state;
    struct machine *machine = machine_boot();
    say_hello(machine);
    expect_hello(machine);
    machine_run(machine, stub_now_ns + HOST_NS_PER_S);
    const uint32_t before = stub.asked[SIM_FAULT_GUEST_DIES];
    for (size_t i = 0; i < 100; i++) {
        machine_run(machine, stub_now_ns + MS);
    }
    assert_int_equal(stub.asked[SIM_FAULT_GUEST_DIES], before);
    say_ping(machine, 1);
    expect_pong(machine, 1);
    assert_int_equal(stub.asked[SIM_FAULT_GUEST_DIES], before + 1);
    machine_end(machine);
}

static void test_a_slow_one_answers_in_the_end(void **state) {
    (void)state;
    struct machine *machine = machine_boot();
    struct protocol_frame frame;
    say_hello(machine);
    expect_hello(machine);
    stub.fires[SIM_FAULT_GUEST_SLOW] = 1;
    say_ping(machine, 3);
    assert_false(machine_next(machine, 999, &frame));
    machine_run(machine, stub_now_ns + PEER_GUEST_SLOW_S_MAX * HOST_NS_PER_S);
    expect_pong(machine, 3);
    machine_end(machine);
}

static void test_a_silent_one_never_speaks_again_but_a_restored_one_does(void **state) {
    (void)state;
    struct machine *machine = machine_boot();
    struct protocol_frame frame;
    say_hello(machine);
    expect_hello(machine);
    stub.fires[SIM_FAULT_GUEST_SILENT] = 1;
    say_ping(machine, 3);
    assert_false(machine_next(machine, 100000, &frame));
    assert_int_equal(peer_guest_outcome(machine->guest), PEER_GUEST_RUNS);
    struct machine *other = machine_restore(machine);
    say_hello(other);
    expect_hello(other);
    machine_end(other);
    machine_end(machine);
}

static void test_one_that_dies_says_so_on_its_console(void **state) {
    (void)state;
    size_t panics = 0;
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct machine *machine = machine_boot();
        sim_choices_init(&stub.choices, seed);
        say_hello(machine);
        expect_hello(machine);
        stub.fires[SIM_FAULT_GUEST_DIES] = 1;
        say_ping(machine, 3);
        machine_run(machine, stub_now_ns + HOST_NS_PER_S);
        machine_listen(machine);
        bool panicked = peer_guest_outcome(machine->guest) == PEER_GUEST_PANICKED;
        assert_int_equal(panicked, strstr(machine->text, "Kernel panic") != NULL);
        assert_true(panicked || peer_guest_outcome(machine->guest) == PEER_GUEST_RESET);
        panics += panicked;
        machine_end(machine);
    }
    assert_true(panics > 0 && panics < 20);
}

static void test_chatter_is_bounded_and_does_no_harm(void **state) {
    (void)state;
    struct machine *machine = machine_boot();
    say_hello(machine);
    expect_hello(machine);
    const size_t before = machine->text_size;
    stub.fires[SIM_FAULT_GUEST_CHATTERS] = 1;
    say_ping(machine, 3);
    expect_pong(machine, 3);
    machine_run(machine, stub_now_ns + HOST_NS_PER_S);
    assert_true(machine->text_size - before >= 1000);
    assert_true(machine->text_size - before <= PEER_GUEST_CONSOLE_SIZE_MAX);
    assert_non_null(strstr(machine->text + before, "nobody had asked"));
    machine_end(machine);
}

/* What a reader makes of what came beside the honest answer: 'b' bytes that are no frame, 'f' frames, 'n' nothing. */
static char hostile_kind(struct machine *machine) {
    struct protocol_frame frame;
    size_t count = 0;
    machine_run(machine, stub_now_ns + 100 * MS);
    machine_listen(machine);
    for (;;) {
        enum protocol_result result = protocol_decoder_next(&machine->decoder, &frame);
        if (result == PROTOCOL_RESULT_MALFORMED) {
            return 'b';
        }
        if (result == PROTOCOL_RESULT_MORE) {
            break;
        }
        count++;
    }
    if (machine->decoder.start < machine->decoder.end) {
        return 'b';
    }
    return count > 1 ? 'f' : 'n';
}

static void test_a_hostile_one_lies_in_every_way(void **state) {
    (void)state;
    size_t counts[256] = {0};
    for (uint64_t seed = 0; seed < 300; seed++) {
        struct machine *machine = machine_boot();
        struct protocol_frame frame = {0};
        say_hello(machine);
        expect_hello(machine);
        sim_choices_init(&stub.choices, seed);
        if (seed % 2 == 0) {
            say_exec(machine, 1, "echo some; sleep 100");
            machine_run(machine, stub_now_ns + 10 * MS);
            machine_listen(machine);
            while (protocol_decoder_next(&machine->decoder, &frame) == PROTOCOL_RESULT_FRAME) {
            }
        }
        stub.fires[SIM_FAULT_GUEST_HOSTILE] = 1;
        say_ping(machine, 3);
        counts[(uint8_t)hostile_kind(machine)]++;
        assert_int_equal(peer_guest_outcome(machine->guest), PEER_GUEST_RUNS);
        machine_end(machine);
    }
    assert_true(counts['b'] + counts['f'] > 200); /* it did lie */
    assert_true(counts['b'] > 50);
    assert_true(counts['f'] > 50);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_it_comes_up_after_a_while),
        TEST(test_it_runs_commands),
        TEST(test_a_paused_one_stands_still),
        TEST(test_booting_stands_still_too),
        TEST(test_it_powers_off),
        TEST(test_a_host_that_hangs_up_is_no_reason_to_spin),
        TEST(test_a_restored_one_goes_on),
        TEST(test_only_a_port_keeps_what_was_under_way),
        TEST(test_what_was_not_written_is_written_after_the_load),
        TEST(test_what_was_not_saved_is_not_loaded),
        TEST(test_an_idle_guest_is_not_asked),
        TEST(test_a_slow_one_answers_in_the_end),
        TEST(test_a_silent_one_never_speaks_again_but_a_restored_one_does),
        TEST(test_one_that_dies_says_so_on_its_console),
        TEST(test_chatter_is_bounded_and_does_no_harm),
        TEST(test_a_hostile_one_lies_in_every_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
