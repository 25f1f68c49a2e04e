/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Every message: round trip, every truncation, every single-byte change, and what must be refused. */
#include "protocol/message.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../../fuzz/protocol_reencode.h"

#define SAMPLE_SIZE_MAX 65536

static const char argv_bytes[] = "sh\0-c\0\0echo hello";
static const char env_bytes[] = "PATH=/bin\0EMPTY=";
static const char machine_id[] = "0123456789abcdef0123456789abcdef";

static struct protocol_identity sample_identity(void) {
    struct protocol_identity identity = {
        .realtime_ns = 1700000000123456789ull,
        .hostname = "kelpie-1.example",
        .machine_id = machine_id,
    };
    memset(identity.entropy, 0xe5, sizeof(identity.entropy));
    memset(identity.generation, 0x6e, sizeof(identity.generation));
    return identity;
}

static const struct protocol_network sample_network = {
    .mac = {0x02, 0xa0, 0xb1, 0xc2, 0xd3, 0xe4},
    .address = {10, 0, 2, 15},
    .prefix_size = 24,
    .gateway = {10, 0, 2, 2},
    .dns = {10, 0, 2, 3},
};

static struct protocol_setup sample_setup(void) {
    return (struct protocol_setup){
        .identity = sample_identity(),
        .mount_count = 3,
        .mounts =
            {{.disk_index = 0, .read_only = true, .path = "/"},
             {.disk_index = 7, .path = "/data"},
             {.disk_index = 1, .read_only = true, .overlay = true, .upper_index = 2, .path = "/"}},
    };
}

static struct protocol_exec sample_exec(void) {
    return (struct protocol_exec){
        .flags = PROTOCOL_EXEC_TTY | PROTOCOL_EXEC_STDIN,
        .uid = 1000,
        .gid = 1001,
        .timeout_ms = 5000,
        .rows = 24,
        .columns = 80,
        .rlimit_count = 2,
        .rlimits = {{.resource = 7, .soft = 64, .hard = 128}, {.resource = 15, .hard = UINT64_MAX}},
        .working_dir = "/tmp",
        .argv_count = 4,
        .argv = argv_bytes,
        .argv_size = sizeof(argv_bytes),
        .env_count = 2,
        .env = env_bytes,
        .env_size = sizeof(env_bytes),
    };
}

static void encode_channel_sample(struct cursor_writer *writer, size_t index) {
    struct protocol_hello hello = {.nonce = {1, 2, 3}};
    struct protocol_hello_ack hello_ack = {
        .nonce = {9}, .frozen = true, .generation = {4}, .memory_total_bytes = 1u << 28};
    struct protocol_ping ping = {.token = 0x1122334455667788ull};
    struct protocol_setup setup = sample_setup();
    struct protocol_done done = {.os_error = 2, .message = "mount /dev/vda"};
    struct protocol_share share = {.index = 7, .read_only = true, .path = "/srv/work"};
    struct protocol_sessions sessions = {.count = 3, .ids = {1, 7, UINT32_MAX}};
    struct protocol_frozen frozen = {.os_error = 16};
    struct protocol_figures figures = {.memory_total_bytes = 1u << 28,
                                       .memory_available_bytes = 1u << 27};
    struct protocol_thaw thaw = {.flags = PROTOCOL_THAW_RESTORED, .identity = sample_identity()};
    struct protocol_thawed thawed = {.clock = PROTOCOL_OUTCOME_DONE,
                                     .entropy = PROTOCOL_OUTCOME_FAILED,
                                     .network = PROTOCOL_OUTCOME_UNSUPPORTED,
                                     .clock_skew_ns = -5};
    switch (index) {
    case 0:
        return protocol_encode_hello(writer, &hello);
    case 1:
        return protocol_encode_hello_ack(writer, &hello_ack);
    case 2:
        return protocol_encode_ping(writer, PROTOCOL_PING, &ping);
    case 3:
        return protocol_encode_ping(writer, PROTOCOL_PONG, &ping);
    case 4:
        return protocol_encode_setup(writer, &setup);
    case 5:
        return protocol_encode_done(writer, &done);
    case 6:
        return protocol_encode_sessions(writer, &sessions);
    case 7:
        return protocol_encode_frozen(writer, &frozen);
    case 8:
        return protocol_encode_thaw(writer, &thaw);
    case 9:
        return protocol_encode_network(writer, &sample_network);
    case 10:
        return protocol_encode_figures(writer, &figures);
    case 11:
        return protocol_encode_share(writer, &share);
    case 12:
        return protocol_encode_shared(writer, &done);
    default:
        return protocol_encode_thawed(writer, &thawed);
    }
}

static void encode_session_sample(struct cursor_writer *writer, size_t index) {
    struct protocol_exec exec = sample_exec();
    struct protocol_file_put put = {.path = "/tmp/file", .mode = 0644, .size = 1u << 30};
    struct protocol_file_get get = {.path = "/etc/passwd"};
    struct protocol_attach attach = {.stdout_offset = 5, .stderr_offset = 6};
    struct protocol_attached attached = {.flags = 2, .stdin_offset = 1, .stdout_offset = 2};
    struct protocol_signal sent = {.number = 15};
    struct protocol_resize resize = {.rows = 50, .columns = 132};
    struct protocol_data data = {.stream = PROTOCOL_STDERR,
                                 .flags = PROTOCOL_DATA_END,
                                 .offset = 1ull << 40,
                                 .bytes = (const uint8_t *)"bytes",
                                 .size = 5};
    struct protocol_ack ack = {
        .stream = PROTOCOL_STDIN, .flags = PROTOCOL_ACK_CLOSED, .offset = 77};
    struct protocol_started started = {.pid = 42, .mode = 0600, .size = 9};
    struct protocol_ended ended = {
        .end = PROTOCOL_END_FAILED, .value = 2, .stdout_bytes = 3, .message = "no such command"};
    switch (index) {
    case 0:
        return protocol_encode_exec(writer, 1, &exec);
    case 1:
        return protocol_encode_file_put(writer, 2, &put);
    case 2:
        return protocol_encode_file_get(writer, 3, &get);
    case 3:
        return protocol_encode_attach(writer, 4, &attach);
    case 4:
        return protocol_encode_attached(writer, 5, &attached);
    case 5:
        return protocol_encode_signal(writer, 6, &sent);
    case 6:
        return protocol_encode_resize(writer, 7, &resize);
    case 7:
        return protocol_encode_data(writer, 8, &data);
    case 8:
        return protocol_encode_ack(writer, 9, &ack);
    case 9:
        return protocol_encode_started(writer, 10, &started);
    default:
        return protocol_encode_ended(writer, UINT32_MAX, &ended);
    }
}

#define CHANNEL_SAMPLE_COUNT 14
#define SESSION_SAMPLE_COUNT 11
#define EMPTY_SAMPLE_COUNT 7
#define SAMPLE_COUNT (CHANNEL_SAMPLE_COUNT + SESSION_SAMPLE_COUNT + EMPTY_SAMPLE_COUNT)

static size_t encode_sample(uint8_t *buffer, size_t capacity, size_t index) {
    static const struct {
        enum protocol_type type;
        uint32_t session;
    } empty[EMPTY_SAMPLE_COUNT] = {
        {PROTOCOL_LIST, 0},   {PROTOCOL_FREEZE, 0}, {PROTOCOL_POWER_OFF, 0}, {PROTOCOL_RELEASE, 3},
        {PROTOCOL_DETACH, 3}, {PROTOCOL_STATUS, 0}, {PROTOCOL_HOLD, 0}};
    struct cursor_writer writer = cursor_writer_init(buffer, capacity);
    if (index < CHANNEL_SAMPLE_COUNT) {
        encode_channel_sample(&writer, index);
    } else if (index < CHANNEL_SAMPLE_COUNT + SESSION_SAMPLE_COUNT) {
        encode_session_sample(&writer, index - CHANNEL_SAMPLE_COUNT);
    } else {
        size_t at = index - CHANNEL_SAMPLE_COUNT - SESSION_SAMPLE_COUNT;
        protocol_encode_empty(&writer, empty[at].type, empty[at].session);
    }
    assert_int_equal(writer.failed, writer.size == 0);
    return writer.size;
}

/* The sample's frame, without the SYNC before it. */
static size_t sample_frame(uint8_t *buffer, size_t index) {
    size_t size = encode_sample(buffer, SAMPLE_SIZE_MAX, index);
    if (size >= PROTOCOL_SYNC_SIZE && memcmp(buffer, PROTOCOL_SYNC, PROTOCOL_SYNC_SIZE) == 0) {
        size -= PROTOCOL_SYNC_SIZE;
        memmove(buffer, buffer + PROTOCOL_SYNC_SIZE, size);
    }
    return size;
}

static struct protocol_frame frame_of(const uint8_t *bytes, size_t size) {
    struct cursor_reader reader = cursor_reader_init(bytes + 8, 4);
    return (struct protocol_frame){
        .type = (enum protocol_type)bytes[5],
        .session = cursor_read_u32(&reader),
        .payload = bytes + PROTOCOL_HEADER_SIZE,
        .payload_size = size - PROTOCOL_HEADER_SIZE,
    };
}

/* The payload in memory of exactly its size, so that a read behind it is seen by ASan. */
static bool reencode_copy(const struct protocol_frame *frame, uint8_t *output, size_t *ret_size) {
    uint8_t *copy = malloc(frame->payload_size + (frame->payload_size == 0));
    assert_non_null(copy);
    if (frame->payload_size > 0) {
        memcpy(copy, frame->payload, frame->payload_size);
    }
    struct protocol_frame copied = *frame;
    copied.payload = copy;
    struct cursor_writer writer = cursor_writer_init(output, SAMPLE_SIZE_MAX);
    bool taken = reencode(&copied, &writer);
    assert_false(writer.failed);
    *ret_size = writer.size;
    free(copy);
    return taken;
}

static void test_round_trip(void **state) {
    (void)state;
    static uint8_t bytes[SAMPLE_SIZE_MAX];
    static uint8_t again[SAMPLE_SIZE_MAX];
    for (size_t i = 0; i < SAMPLE_COUNT; i++) {
        size_t size = sample_frame(bytes, i);
        struct protocol_frame frame = frame_of(bytes, size);
        size_t again_size = 0;
        assert_true(reencode_copy(&frame, again, &again_size));
        assert_true(again_size >= size);
        assert_memory_equal(again + again_size - size, bytes, size);
    }
}

static void test_every_truncation_is_refused(void **state) {
    (void)state;
    static uint8_t bytes[SAMPLE_SIZE_MAX];
    static uint8_t again[SAMPLE_SIZE_MAX];
    for (size_t i = 0; i < SAMPLE_COUNT; i++) {
        size_t size = sample_frame(bytes, i);
        struct protocol_frame frame = frame_of(bytes, size);
        if (frame.type == PROTOCOL_DATA) {
            continue; /* its bytes have no length of their own: see the test of DATA */
        }
        for (frame.payload_size = 0; frame.payload_size < size - PROTOCOL_HEADER_SIZE;
             frame.payload_size++) {
            size_t again_size = 0;
            assert_false(reencode_copy(&frame, again, &again_size));
        }
    }
}

static void test_every_trailing_byte_is_refused(void **state) {
    (void)state;
    static uint8_t bytes[SAMPLE_SIZE_MAX];
    static uint8_t again[SAMPLE_SIZE_MAX];
    for (size_t i = 0; i < SAMPLE_COUNT; i++) {
        size_t size = sample_frame(bytes, i);
        struct protocol_frame frame = frame_of(bytes, size);
        if (frame.type == PROTOCOL_DATA) {
            continue;
        }
        bytes[size] = 0;
        frame.payload_size++;
        size_t again_size = 0;
        assert_false(reencode_copy(&frame, again, &again_size));
    }
}

/* Puts each value in the place of one byte. What is still taken must encode to the very same bytes:
 * nothing is ignored. Returns how many were refused. */
static size_t change_byte(uint8_t *bytes, size_t size, size_t at) {
    static uint8_t again[SAMPLE_SIZE_MAX];
    struct protocol_frame frame = frame_of(bytes, size);
    uint8_t before = bytes[at];
    size_t refused = 0;
    for (unsigned value = 0; value < 256; value++) {
        bytes[at] = (uint8_t)value;
        size_t again_size = 0;
        if (!reencode_copy(&frame, again, &again_size)) {
            refused++;
            continue;
        }
        assert_memory_equal(again + again_size - size, bytes, size);
    }
    bytes[at] = before;
    return refused;
}

static void test_every_byte_change_is_refused_or_kept(void **state) {
    (void)state;
    static uint8_t bytes[SAMPLE_SIZE_MAX];
    size_t refused = 0;
    for (size_t i = 0; i < SAMPLE_COUNT; i++) {
        size_t size = sample_frame(bytes, i);
        for (size_t at = PROTOCOL_HEADER_SIZE; at < size; at++) {
            refused += change_byte(bytes, size, at);
        }
    }
    assert_true(refused > 1000);
}

static void test_encoder_without_room_writes_nothing(void **state) {
    (void)state;
    static uint8_t bytes[SAMPLE_SIZE_MAX];
    for (size_t i = 0; i < SAMPLE_COUNT; i++) {
        size_t size = encode_sample(bytes, SAMPLE_SIZE_MAX, i);
        for (size_t capacity = 0; capacity < size; capacity++) {
            assert_int_equal(encode_sample(bytes, capacity, i), 0);
        }
        assert_int_equal(encode_sample(bytes, size, i), size);
    }
}

static bool exec_is_sent(const struct protocol_exec *exec) {
    static uint8_t bytes[PROTOCOL_FRAME_SIZE_MAX + 1000];
    struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
    protocol_encode_exec(&writer, 1, exec);
    assert_int_equal(writer.failed, writer.size == 0);
    return !writer.failed;
}

static void test_exec_strings(void **state) {
    (void)state;
    struct protocol_exec exec = sample_exec();
    assert_true(exec_is_sent(&exec));
    exec.argv_count = 3; /* one string more than said */
    assert_false(exec_is_sent(&exec));
    exec.argv_count = 5;
    assert_false(exec_is_sent(&exec));
    exec = sample_exec();
    exec.argv_size--; /* the last string's zero is missing */
    exec.argv_count--;
    assert_false(exec_is_sent(&exec));
    exec = sample_exec();
    exec.argv_count = 0;
    exec.argv_size = 0;
    assert_false(exec_is_sent(&exec));
    exec = sample_exec();
    exec.env = "NOVALUE";
    exec.env_size = 8;
    exec.env_count = 1;
    assert_false(exec_is_sent(&exec));
    exec.env = "=nokey";
    exec.env_size = 7;
    assert_false(exec_is_sent(&exec));
    exec = sample_exec();
    exec.working_dir = "tmp";
    assert_false(exec_is_sent(&exec));
    exec = sample_exec();
    exec.rlimits[0].soft = 129;
    assert_false(exec_is_sent(&exec));
}

/* D2: a command at its limit goes through, one above it is refused by the encoder. */
static void hazard_D2_command_over_the_limit_is_refused(void **state) {
    (void)state;
    static char argument[PROTOCOL_PAYLOAD_SIZE_MAX];
    memset(argument, 'a', sizeof(argument));
    argument[262143] = 0;
    struct protocol_exec exec = sample_exec();
    exec.argv = argument;
    exec.argv_count = 1;
    exec.argv_size = 262144;
    assert_true(exec_is_sent(&exec));
    argument[262143] = 'a';
    argument[sizeof(argument) - 1] = 0;
    exec.argv_size = sizeof(argument);
    assert_false(exec_is_sent(&exec));
}

static void test_strings_next(void **state) {
    (void)state;
    const char *cursor = argv_bytes;
    const char *end = argv_bytes + sizeof(argv_bytes);
    assert_string_equal(protocol_strings_next(&cursor, end), "sh");
    assert_string_equal(protocol_strings_next(&cursor, end), "-c");
    assert_string_equal(protocol_strings_next(&cursor, end), "");
    assert_string_equal(protocol_strings_next(&cursor, end), "echo hello");
    assert_null(protocol_strings_next(&cursor, end));
}

static bool identity_is_sent(const char *hostname, const char *id) {
    static uint8_t bytes[4096];
    struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
    struct protocol_thaw thaw = {.identity = sample_identity()};
    thaw.identity.hostname = hostname;
    thaw.identity.machine_id = id;
    protocol_encode_thaw(&writer, &thaw);
    return !writer.failed;
}

static void test_identity(void **state) {
    (void)state;
    char name[PROTOCOL_HOSTNAME_SIZE_MAX + 2];
    memset(name, 'n', sizeof(name));
    name[PROTOCOL_HOSTNAME_SIZE_MAX] = 0;
    assert_true(identity_is_sent(name, machine_id));
    name[PROTOCOL_HOSTNAME_SIZE_MAX] = 'n';
    name[PROTOCOL_HOSTNAME_SIZE_MAX + 1] = 0;
    assert_false(identity_is_sent(name, machine_id));
    assert_false(identity_is_sent("", machine_id));
    assert_false(identity_is_sent("-x", machine_id));
    assert_false(identity_is_sent("a b", machine_id));
    assert_false(identity_is_sent("a/../b", machine_id));
    assert_false(identity_is_sent("a\n", machine_id));
    assert_false(identity_is_sent("a", "0123456789abcdef0123456789abcde"));
    assert_false(identity_is_sent("a", "0123456789abcdef0123456789abcdef0"));
    assert_false(identity_is_sent("a", "0123456789ABCDEF0123456789abcdef"));
    assert_false(identity_is_sent("a", "0123456789abcdeg0123456789abcdef"));
}

static void test_data_size(void **state) {
    (void)state;
    static uint8_t payload[16 + PROTOCOL_DATA_SIZE_MAX + 1];
    payload[0] = PROTOCOL_STDOUT;
    struct protocol_frame frame = {.type = PROTOCOL_DATA, .session = 1, .payload = payload};
    struct protocol_data data = {.size = 99};
    for (frame.payload_size = 0; frame.payload_size < 16; frame.payload_size++) {
        assert_false(protocol_decode_data(&frame, &data));
    }
    assert_int_equal(data.size, 99);
    frame.payload_size = 16;
    assert_true(protocol_decode_data(&frame, &data));
    assert_int_equal(data.size, 0);
    frame.payload_size = 16 + PROTOCOL_DATA_SIZE_MAX;
    assert_true(protocol_decode_data(&frame, &data));
    assert_int_equal(data.size, PROTOCOL_DATA_SIZE_MAX);
    frame.payload_size++;
    assert_false(protocol_decode_data(&frame, &data));
    frame.payload_size = 17;
    memset(payload + 8, 0xff, 8); /* the offset's end would overflow */
    assert_false(protocol_decode_data(&frame, &data));
}

/* Whether the decoder of `type` takes the frame, whatever the frame's own type is. */
static bool is_taken_as(enum protocol_type type, const struct protocol_frame *frame) {
    union reencode_message message;
    switch (type) {
    case PROTOCOL_HELLO:
        return protocol_decode_hello(frame, &message.hello);
    case PROTOCOL_HELLO_ACK:
        return protocol_decode_hello_ack(frame, &message.hello_ack);
    case PROTOCOL_SETUP:
        return protocol_decode_setup(frame, &message.setup);
    case PROTOCOL_SETUP_DONE:
        return protocol_decode_done(frame, &message.done);
    case PROTOCOL_EXEC:
        return protocol_decode_exec(frame, &message.exec);
    case PROTOCOL_FILE_PUT:
        return protocol_decode_file_put(frame, &message.file_put);
    case PROTOCOL_FILE_GET:
        return protocol_decode_file_get(frame, &message.file_get);
    case PROTOCOL_ATTACH:
        return protocol_decode_attach(frame, &message.attach);
    case PROTOCOL_ATTACHED:
        return protocol_decode_attached(frame, &message.attached);
    case PROTOCOL_SIGNAL:
        return protocol_decode_signal(frame, &message.signal);
    case PROTOCOL_RESIZE:
        return protocol_decode_resize(frame, &message.resize);
    case PROTOCOL_DATA:
        return protocol_decode_data(frame, &message.data);
    case PROTOCOL_ACK:
        return protocol_decode_ack(frame, &message.ack);
    case PROTOCOL_STARTED:
        return protocol_decode_started(frame, &message.started);
    case PROTOCOL_ENDED:
        return protocol_decode_ended(frame, &message.ended);
    case PROTOCOL_FIGURES:
        return protocol_decode_figures(frame, &message.figures);
    case PROTOCOL_SESSIONS:
        return protocol_decode_sessions(frame, &message.sessions);
    case PROTOCOL_FROZEN:
        return protocol_decode_frozen(frame, &message.frozen);
    case PROTOCOL_NETWORK:
        return protocol_decode_network(frame, &message.network);
    case PROTOCOL_SHARE:
        return protocol_decode_share(frame, &message.share);
    case PROTOCOL_SHARED:
        return protocol_decode_shared(frame, &message.done);
    case PROTOCOL_THAW:
        return protocol_decode_thaw(frame, &message.thaw);
    case PROTOCOL_THAWED:
        return protocol_decode_thawed(frame, &message.thawed);
    case PROTOCOL_PING:
    case PROTOCOL_PONG:
        return protocol_decode_ping(frame, &message.ping);
    case PROTOCOL_LIST:
    case PROTOCOL_FREEZE:
    case PROTOCOL_POWER_OFF:
    case PROTOCOL_RELEASE:
    case PROTOCOL_DETACH:
    case PROTOCOL_STATUS:
    case PROTOCOL_HOLD:
        return protocol_decode_empty(frame);
    default:
        fail_msg("%d is no type", (int)type);
        return false;
    }
}

/* Two types that one decoder takes. */
static bool is_of_a_kind(enum protocol_type a, enum protocol_type b) {
    bool both_ping =
        (a == PROTOCOL_PING || a == PROTOCOL_PONG) && (b == PROTOCOL_PING || b == PROTOCOL_PONG);
    uint64_t empty = 1ull << PROTOCOL_LIST | 1ull << PROTOCOL_FREEZE | 1ull << PROTOCOL_POWER_OFF |
                     1ull << PROTOCOL_RELEASE | 1ull << PROTOCOL_DETACH | 1ull << PROTOCOL_STATUS |
                     1ull << PROTOCOL_HOLD;
    bool both_empty = (a < 64 && empty >> a & 1) && (b < 64 && empty >> b & 1);
    return a == b || both_ping || both_empty;
}

/* A decoder looks at the type, not at what happens to fit. */
static void test_a_frame_of_another_type_is_refused(void **state) {
    (void)state;
    static uint8_t bytes[SAMPLE_SIZE_MAX];
    enum protocol_type types[SAMPLE_COUNT];
    for (size_t i = 0; i < SAMPLE_COUNT; i++) {
        types[i] = frame_of(bytes, sample_frame(bytes, i)).type;
    }
    for (size_t i = 0; i < SAMPLE_COUNT; i++) {
        const struct protocol_frame frame = frame_of(bytes, sample_frame(bytes, i));
        for (size_t j = 0; j < SAMPLE_COUNT; j++) {
            assert_int_equal(is_taken_as(types[j], &frame), is_of_a_kind(types[j], frame.type));
        }
    }
}

/* What our own side asks for and may not say: nothing is written. */
static void test_what_may_not_be_sent(void **state) {
    (void)state;
    static uint8_t bytes[SAMPLE_SIZE_MAX];
    static const struct {
        uint32_t number;
        bool sent;
    } signals[] = {{0, false}, {1, true}, {64, true}, {65, false}};
    for (size_t i = 0; i < ARRAY_SIZE(signals); i++) {
        struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
        protocol_encode_signal(&writer, 1, &(struct protocol_signal){signals[i].number});
        assert_int_equal(!writer.failed, signals[i].sent);
        assert_int_equal(writer.size > 0, signals[i].sent);
    }
    struct protocol_exec execs[] = {sample_exec(), sample_exec()};
    execs[0].argv_size = PROTOCOL_PAYLOAD_SIZE_MAX + 1;
    execs[1].env_size = PROTOCOL_PAYLOAD_SIZE_MAX + 1;
    for (size_t i = 0; i < ARRAY_SIZE(execs); i++) {
        struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
        protocol_encode_exec(&writer, 1, &execs[i]);
        assert_true(writer.failed);
        assert_int_equal(writer.size, 0);
    }
    char path[PROTOCOL_PATH_SIZE_MAX + 2];
    memset(path, 'p', sizeof(path));
    path[sizeof(path) - 1] = 0;
    path[0] = '/';
    struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
    protocol_encode_file_get(&writer, 1, &(struct protocol_file_get){.path = path});
    assert_true(writer.failed);
}

/* What a peer may not say about an end: an exit code above 255, signal 0 or 65, a text without a failure. */
static void test_ended_values(void **state) {
    (void)state;
    static const struct {
        uint32_t end;
        uint32_t value;
        const char *message;
        bool taken;
    } cases[] = {
        {0, 255, "", true},  {0, 256, "", false},  {1, 0, "", false}, {1, 64, "", true},
        {1, 65, "", false},  {2, 9, "", true},     {2, 0, "", false}, {3, 0, "x", false},
        {3, 4095, "", true}, {3, 4096, "", false}, {4, 0, "", false}, {0, 0, "text", false},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        uint8_t payload[64];
        struct cursor_writer writer = cursor_writer_init(payload, sizeof(payload));
        cursor_write_u32(&writer, cases[i].end);
        cursor_write_u32(&writer, cases[i].value);
        cursor_write_u64(&writer, 0);
        cursor_write_u64(&writer, 0);
        cursor_write_string(&writer, cases[i].message);
        struct protocol_frame frame = {
            .type = PROTOCOL_ENDED, .session = 1, .payload = payload, .payload_size = writer.size};
        struct protocol_ended ended;
        assert_int_equal(protocol_decode_ended(&frame, &ended), cases[i].taken);
    }
}

static bool network_is_sent(const struct protocol_network *network) {
    static uint8_t bytes[SAMPLE_SIZE_MAX];
    struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
    protocol_encode_network(&writer, network);
    return !writer.failed;
}

static void test_network(void **state) {
    (void)state;
    struct protocol_network network = sample_network;
    assert_true(network_is_sent(&network));
    network.prefix_size = 0;
    assert_false(network_is_sent(&network));
    network.prefix_size = 33;
    assert_false(network_is_sent(&network));
    network.prefix_size = 32;
    assert_true(network_is_sent(&network));
    network.mac[0] |= 1; /* a group's */
    assert_false(network_is_sent(&network));
    /* Without an address there is nothing beside the MAC. */
    network = (struct protocol_network){.mac = {2}};
    assert_true(network_is_sent(&network));
    network.prefix_size = 24;
    assert_false(network_is_sent(&network));
    network = (struct protocol_network){.mac = {2}, .gateway = {1}};
    assert_false(network_is_sent(&network));
    network = (struct protocol_network){.mac = {2}, .dns = {0, 0, 0, 1}};
    assert_false(network_is_sent(&network));
}

/* A mount of each shape, encoded and decoded; false: it was refused by the encoder. */
static bool mount_travels(struct protocol_mount mount) {
    static uint8_t bytes[PROTOCOL_FRAME_SIZE_MAX];
    struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
    struct protocol_setup setup = {.identity = sample_identity(), .mount_count = 1};
    setup.mounts[0] = mount;
    protocol_encode_setup(&writer, &setup);
    return !writer.failed;
}

static void an_overlay_is_of_the_root_and_of_two_disks(void **state) {
    (void)state;
    const struct protocol_mount good = {
        .disk_index = 3, .read_only = true, .overlay = true, .upper_index = 4, .path = "/"};
    assert_true(mount_travels(good));
    struct protocol_mount mount = good;
    mount.path = "/data";
    assert_false(mount_travels(mount));
    mount = good;
    mount.read_only = false;
    assert_false(mount_travels(mount));
    mount = good;
    mount.upper_index = 3;
    assert_false(mount_travels(mount));
    mount = good;
    mount.upper_index = PROTOCOL_MOUNT_COUNT_MAX;
    assert_false(mount_travels(mount));
    mount = good;
    mount.overlay = false; /* and an upper disk all the same */
    assert_false(mount_travels(mount));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_every_truncation_is_refused),
        cmocka_unit_test(test_every_trailing_byte_is_refused),
        cmocka_unit_test(test_every_byte_change_is_refused_or_kept),
        cmocka_unit_test(test_encoder_without_room_writes_nothing),
        cmocka_unit_test(test_exec_strings),
        cmocka_unit_test(hazard_D2_command_over_the_limit_is_refused),
        cmocka_unit_test(test_strings_next),
        cmocka_unit_test(test_identity),
        cmocka_unit_test(test_network),
        cmocka_unit_test(test_data_size),
        cmocka_unit_test(test_a_frame_of_another_type_is_refused),
        cmocka_unit_test(test_what_may_not_be_sent),
        cmocka_unit_test(test_ended_values),
        cmocka_unit_test(an_overlay_is_of_the_root_and_of_two_disks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
