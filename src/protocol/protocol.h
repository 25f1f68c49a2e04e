/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * protocol.h: what the host and the guest say to each other. Pure encoding and decoding: bytes in,
 * structures out, no I/O, no allocation. Both sides compile this code. docs/PROTOCOL.md has the bytes.
 *
 * THEORY OF OPERATION
 *
 * The channel is a byte stream (virtio-serial, vsock, a socketpair). Everything on it is a frame: a
 * 16-byte header and a payload, all numbers little-endian:
 *
 *     u32 payload size | u8 version | u8 type | u16 zero | u32 session | u32 zero
 *
 * Session 0 is the channel itself; others are exec sessions, numbered by the host from 1.
 *
 * Connecting. The channel may be opened anew while the guest goes on (restore, fork, reconnect), so
 * both sides must find a frame's start in the middle of anything. A HELLO and its HELLO_ACK are
 * therefore preceded by PROTOCOL_SYNC, 16 bytes whose first four are no legal size. A decoder that
 * scans drops bytes until it has seen them; one that does not takes them at a frame's start only.
 *   host:  sends SYNC, HELLO{nonce}. Drops everything before a SYNC with a HELLO_ACK of that nonce.
 *          No answer for 500 ms: pads with PROTOCOL_FRAME_SIZE_MAX zero bytes, which end whatever frame the
 *          guest is in the middle of, and says SYNC, HELLO again.
 *   guest: on HELLO forgets what it had queued for the old connection, answers SYNC, HELLO_ACK{nonce}.
 *          Its sessions stay, detached: they run on and keep their output, but send none until ATTACH.
 *   A malformed frame: the host ends the channel. The guest scans for the next SYNC.
 *
 * Sessions. EXEC, FILE_PUT and FILE_GET open one; STARTED or ENDED{failure} answers. From then on a
 * session has up to three byte streams, each numbered by offset from 0: stdin to the guest, stdout and
 * stderr to the host. A sender keeps what is not acknowledged and has at most PROTOCOL_WINDOW_SIZE bytes
 * beyond the last acknowledged offset under way. DATA carries stream, offset, bytes; ACK says "all below
 * this offset was taken"; DATA with PROTOCOL_DATA_END ends the stream at offset + size. The host
 * acknowledges what its reader has consumed; the guest what the command has taken (or what can no longer
 * be delivered, once the command has closed its stdin: ACK with PROTOCOL_ACK_CLOSED).
 *   opened -> STARTED -> DATA/ACK in both directions -> ENDED (after both output streams' END was sent)
 * ENDED is sent when the command has ended and its output was sent; the session stays, with what is
 * unacknowledged, until the host says RELEASE. RELEASE before ENDED kills what the session runs.
 * ATTACH{stdout, stderr offsets} takes a session up, detached or not (the host may have given its handle
 * away): the guest answers ATTACHED and sends from those offsets on (which must lie between the last
 * acknowledged and the last written), and repeats ENDED. What the host hears of it before ATTACHED was meant for
 * whoever held it before.
 * DETACH is for a relay between host and guest (vm/relay.h): the session stays, held by nobody.
 *   FILE_PUT: stdin carries the file; its END commits it: the guest checks the size, renames it into place,
 *   then ENDED. FILE_GET: STARTED carries the mode and size; stdout carries the file; ENDED.
 *   Of a folder the same, with a tree (tree.h) in the place of the file's bytes: FILE_PUT makes the folder, unless it is there,
 *   and puts each entry in its place as it comes.
 *
 * Standing still. FREEZE stops every user process (cgroup freezer), flushes file systems, and the guest
 * answers FROZEN as its last frame: nothing is in flight until THAW or the next HELLO. THAW sets the clock,
 * and after a restore (PROTOCOL_THAW_RESTORED) credits entropy, changes generation, hostname and machine-id,
 * all before a user process runs again; THAWED reports each. A frozen guest answers HELLO, PING and LIST.
 *
 * HOLD does the same, or takes up a guest that stands still already, and yet files go on moving: FILE_PUT and FILE_GET may be said, and their
 * sessions speak; those that were there before do not have to be listened to. What they move is exact (tree.h), and a FILE_PUT of a folder
 * replaces what is in it, when all has come. A FREEZE makes it silent, a THAW ends it. As STATUS, it is followed by a SYNC.
 *
 * Figures. STATUS asks what the guest has now. Guests of before do not know it, and live on in bundles: to them it is a
 * malformed frame, after which they scan. That is why a SYNC follows it: they find it at once, have missed nothing, and only do not
 * answer.
 *
 * Network. NETWORK says what the guest's network interface is to be; it has no answer. The next SETUP, or THAW of
 * a restore, makes it so, and SETUP_DONE or THAWED says whether that worked. Without one they leave it alone.
 *
 * Shares. SHARE says where a virtio-fs device is mounted, once the guest is set up; SHARED answers it. A failure changes nothing.
 *
 * Trust. The host believes nothing: sizes, counts, offsets, ids are checked by the decoders here and, where
 * they depend on what was sent before, by src/vm/.
 */
#ifndef KELPIE_PROTOCOL_PROTOCOL_H
#define KELPIE_PROTOCOL_PROTOCOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cursor.h"
#include "base/mac.h"
#include "protocol/protocol_limits.h"

extern const uint8_t PROTOCOL_SYNC[PROTOCOL_SYNC_SIZE];

enum protocol_type {
    /* host to guest */
    PROTOCOL_HELLO = 1,
    PROTOCOL_PING = 2,
    PROTOCOL_SETUP =
        3, /* once after boot: hostname, mounts, clock, entropy; answered by SETUP_DONE */
    PROTOCOL_EXEC = 4,
    PROTOCOL_FILE_PUT = 5,
    PROTOCOL_FILE_GET = 6,
    PROTOCOL_ATTACH = 7,
    PROTOCOL_RELEASE = 8,
    PROTOCOL_SIGNAL = 9,
    PROTOCOL_RESIZE = 10,
    PROTOCOL_LIST = 11,
    PROTOCOL_FREEZE = 12,
    PROTOCOL_THAW = 13,
    PROTOCOL_POWER_OFF = 14,
    PROTOCOL_NETWORK = 15, /* before SETUP, and before the THAW of a restore */
    PROTOCOL_STATUS = 17,  /* answered by FIGURES; a SYNC follows it */
    PROTOCOL_DETACH = 16,  /* to a relay (vm/relay.h), never to a guest: the session is let go of */
    PROTOCOL_SHARE = 18,   /* answered by SHARED */
    PROTOCOL_HOLD = 19,    /* answered by FROZEN; a SYNC follows it */
    /* both ways */
    PROTOCOL_DATA = 32,
    PROTOCOL_ACK = 33,
    /* guest to host */
    PROTOCOL_HELLO_ACK = 64,
    PROTOCOL_PONG = 65,
    PROTOCOL_SETUP_DONE = 66,
    PROTOCOL_STARTED = 67,
    PROTOCOL_ENDED = 68,
    PROTOCOL_ATTACHED = 69,
    PROTOCOL_SESSIONS = 70,
    PROTOCOL_FROZEN = 71,
    PROTOCOL_THAWED = 72,
    PROTOCOL_FIGURES = 73,
    PROTOCOL_SHARED = 74,
};

enum protocol_stream {
    PROTOCOL_STDIN = 0,
    PROTOCOL_STDOUT = 1,
    PROTOCOL_STDERR = 2,
    PROTOCOL_STREAM_COUNT
};

enum protocol_outcome { /* as in enum kelpie_outcome */
                        PROTOCOL_OUTCOME_PENDING = 0,
                        PROTOCOL_OUTCOME_DONE = 1,
                        PROTOCOL_OUTCOME_FAILED = 2,
                        PROTOCOL_OUTCOME_UNSUPPORTED = 3,
                        PROTOCOL_OUTCOME_COUNT
};

/* ---- Frames ----------------------------------------------------------------------------------- */

/* One frame as it came: the payload lies in the decoder's buffer until the next call. */
struct protocol_frame {
    enum protocol_type type;
    uint32_t session;
    const uint8_t *payload;
    size_t payload_size;
};

enum protocol_result {
    PROTOCOL_RESULT_FRAME,     /* *ret_frame is filled */
    PROTOCOL_RESULT_MORE,      /* more bytes are needed */
    PROTOCOL_RESULT_MALFORMED, /* the bytes at the front are no frame; see protocol_decoder_scan() */
};

/* Finds frames in a byte stream. The buffer is the caller's, PROTOCOL_FRAME_SIZE_MAX bytes at least. */
struct protocol_decoder {
    uint8_t *buffer;
    size_t capacity;
    size_t start; /* first byte not yet given out */
    size_t end;   /* behind the last byte */
    bool scanning;
};

/* A new decoder scans for the first PROTOCOL_SYNC. */
void protocol_decoder_init(struct protocol_decoder *decoder, uint8_t *buffer, size_t capacity);

/* Where the next bytes go and how many fit (always > 0 after protocol_decoder_next() said MORE). */
uint8_t *protocol_decoder_space(struct protocol_decoder *decoder, size_t *ret_room);

/* `size` bytes were put there. */
void protocol_decoder_filled(struct protocol_decoder *decoder, size_t size);

/* The next frame. Call it until it says MORE. */
enum protocol_result protocol_decoder_next(struct protocol_decoder *decoder,
                                           struct protocol_frame *ret_frame);

/* Drops bytes from here on until a PROTOCOL_SYNC has gone by. */
void protocol_decoder_scan(struct protocol_decoder *decoder);

/* ---- Messages --------------------------------------------------------------------------------- */

struct protocol_hello { /* HELLO */
    uint8_t nonce[PROTOCOL_NONCE_SIZE];
};

struct protocol_hello_ack { /* HELLO_ACK */
    uint8_t nonce[PROTOCOL_NONCE_SIZE];
    bool frozen; /* FREEZE was the last word: it waits for THAW */
    bool set_up; /* SETUP was done already */
    uint8_t generation[PROTOCOL_GENERATION_SIZE];
    uint64_t memory_total_bytes;
    uint64_t memory_available_bytes;
};

struct protocol_ping { /* PING, PONG: the same token back */
    uint64_t token;
};

struct protocol_mount {
    uint32_t disk_index; /* 0 is /dev/vda */
    bool read_only;
    bool overlay;         /* only of "/": the disk is the lower layer, and read-only */
    uint32_t upper_index; /* overlay: the disk of the upper layer, which is another one; else 0 */
    const char *path;     /* "/": the root of every command */
};

struct protocol_identity { /* what makes a machine itself, in SETUP and THAW */
    uint64_t realtime_ns;
    uint8_t entropy[PROTOCOL_ENTROPY_SIZE];
    uint8_t generation[PROTOCOL_GENERATION_SIZE];
    const char *hostname;   /* 1 to PROTOCOL_HOSTNAME_SIZE_MAX bytes */
    const char *machine_id; /* PROTOCOL_MACHINE_ID_SIZE hexadecimal digits */
};

struct protocol_setup { /* SETUP */
    struct protocol_identity identity;
    uint32_t mount_count;
    struct protocol_mount mounts[PROTOCOL_MOUNT_COUNT_MAX];
};

struct protocol_done { /* SETUP_DONE, SHARED: 0, or the errno and text of what failed */
    uint32_t os_error;
    const char *message;
};

enum protocol_exec_flag {
    PROTOCOL_EXEC_TTY = 1 << 0,
    PROTOCOL_EXEC_STDIN = 1 << 1, /* stdin is a stream; without it, it is /dev/null */
};

struct protocol_rlimit {
    uint32_t resource;
    uint64_t soft;
    uint64_t hard;
};

/* EXEC. Strings lie one behind the other with their zeros: iterate with protocol_strings_next(). */
struct protocol_exec {
    uint32_t flags;
    uint32_t uid;
    uint32_t gid;
    uint32_t timeout_ms; /* 0: none */
    uint16_t rows;
    uint16_t columns;
    uint32_t rlimit_count;
    struct protocol_rlimit rlimits[PROTOCOL_RLIMIT_COUNT_MAX];
    const char *working_dir;
    uint32_t argv_count; /* 1 .. PROTOCOL_ARGV_COUNT_MAX */
    const char *argv;    /* argv_count strings */
    size_t argv_size;
    uint32_t env_count;
    const char *env; /* env_count strings "KEY=VALUE" */
    size_t env_size;
};

struct
    protocol_share { /* SHARE: the virtio-fs device with that tag (PROTOCOL_SHARE_TAG) is mounted at path */
    uint32_t index; /* below PROTOCOL_SHARE_COUNT_MAX */
    bool read_only;
    const char *path;
};

struct protocol_file_put { /* FILE_PUT */
    const char *path;      /* absolute */
    uint32_t mode;         /* with PROTOCOL_MODE_FOLDER: of a folder, and stdin is a tree */
    uint64_t size;         /* of a file; 0 for a folder */
};

struct protocol_file_get { /* FILE_GET */
    const char *path;
};

struct protocol_attach {    /* ATTACH */
    bool from_acknowledged; /* ignore the offsets: go on behind what was acknowledged */
    uint64_t stdout_offset;
    uint64_t stderr_offset;
};

struct protocol_attached { /* ATTACHED: where each stream goes on; or os_error (ENOENT, EINVAL) */
    uint32_t os_error;
    uint32_t flags; /* as in EXEC */
    uint64_t stdin_offset;
    uint64_t stdout_offset;
    uint64_t stderr_offset;
};

struct protocol_signal { /* SIGNAL: to the process group */
    uint32_t number;     /* 1 .. 64 */
};

struct protocol_resize { /* RESIZE */
    uint16_t rows;
    uint16_t columns;
};

enum protocol_data_flag { PROTOCOL_DATA_END = 1 << 0 };

struct protocol_data { /* DATA */
    enum protocol_stream stream;
    uint32_t flags;
    uint64_t offset;
    const uint8_t *bytes;
    size_t size; /* 0 .. PROTOCOL_DATA_SIZE_MAX */
};

enum protocol_ack_flag { PROTOCOL_ACK_CLOSED = 1 << 0 };

struct protocol_ack { /* ACK */
    enum protocol_stream stream;
    uint32_t flags;
    uint64_t offset;
};

struct protocol_started { /* STARTED */
    uint32_t pid;         /* in the guest; 0 for files */
    uint32_t mode;        /* FILE_GET; with PROTOCOL_MODE_FOLDER: stdout is a tree */
    uint64_t size;        /* FILE_GET, of a file */
};

enum protocol_end {
    PROTOCOL_END_EXITED = 0,    /* value: exit code */
    PROTOCOL_END_SIGNALED = 1,  /* value: signal */
    PROTOCOL_END_TIMED_OUT = 2, /* value: signal */
    PROTOCOL_END_FAILED = 3,    /* value: errno: it never started, or the file could not be moved */
    PROTOCOL_END_COUNT
};

struct protocol_ended { /* ENDED */
    enum protocol_end end;
    uint32_t value;
    uint64_t stdout_bytes;
    uint64_t stderr_bytes;
    const char *message; /* FAILED: what was tried; else "" */
};

struct protocol_sessions { /* SESSIONS: the answer to LIST */
    uint32_t count;
    uint32_t ids[PROTOCOL_SESSION_COUNT_MAX];
};

struct protocol_frozen { /* FROZEN */
    uint32_t os_error;   /* 0, or why user processes could not be stopped */
};

enum protocol_thaw_flag {
    PROTOCOL_THAW_RESTORED = 1 << 0, /* entropy, generation, hostname, machine-id are new */
};

struct protocol_thaw { /* THAW */
    uint32_t flags;
    struct protocol_identity identity;
};

/* NETWORK: what the guest's first virtio-net interface is to be. Addresses are IPv4's, in the order in which they
 * are written. */
struct protocol_network {
    uint8_t mac[MAC_SIZE];               /* one host's */
    uint8_t address[PROTOCOL_IPV4_SIZE]; /* all zeros: none, and neither of what follows */
    uint8_t prefix_size;                 /* bits of the address that the network has; 1 to 32 */
    uint8_t gateway[PROTOCOL_IPV4_SIZE]; /* all zeros: none */
    uint8_t dns[PROTOCOL_IPV4_SIZE];     /* all zeros: none */
};

struct protocol_thawed { /* THAWED: user processes run again */
    enum protocol_outcome clock;
    enum protocol_outcome entropy;
    enum protocol_outcome generation;
    enum protocol_outcome network;
    enum protocol_outcome hostname;
    enum protocol_outcome machine_id;
    int64_t clock_skew_ns; /* guest's clock minus ours, before it was set */
};

struct protocol_figures { /* FIGURES: what the guest has now */
    uint64_t memory_total_bytes;
    uint64_t memory_available_bytes;
};

/* LIST, FREEZE, HOLD, POWER_OFF, RELEASE, DETACH, STATUS have no payload. */

/* The next string of an EXEC's list, or NULL behind the last: start with *cursor = argv. */
const char *protocol_strings_next(const char **cursor, const char *end);

/* The frame as it came, for who passes it on. */
void protocol_encode_frame(struct cursor_writer *writer, const struct protocol_frame *frame);

/*
 * Encoders append one whole frame to the writer; it fails (writer->failed, nothing half-written) when
 * there is no room. Decoders return false for a payload that is not exactly one such message; pointers
 * point into the payload.
 */
void protocol_encode_empty(struct cursor_writer *writer, enum protocol_type type, uint32_t session);
void protocol_encode_hello(struct cursor_writer *writer,
                           const struct protocol_hello *message); /* with SYNC */
void protocol_encode_hello_ack(struct cursor_writer *writer,
                               const struct protocol_hello_ack *message); /* with SYNC */
void protocol_encode_status(struct cursor_writer *writer);                /* with SYNC behind it */
void protocol_encode_hold(struct cursor_writer *writer);                  /* the same */
void protocol_encode_figures(struct cursor_writer *writer, const struct protocol_figures *message);
void protocol_encode_ping(struct cursor_writer *writer, enum protocol_type type,
                          const struct protocol_ping *message);
void protocol_encode_setup(struct cursor_writer *writer, const struct protocol_setup *message);
void protocol_encode_done(struct cursor_writer *writer, const struct protocol_done *message);
void protocol_encode_exec(struct cursor_writer *writer, uint32_t session,
                          const struct protocol_exec *message);
void protocol_encode_file_put(struct cursor_writer *writer, uint32_t session,
                              const struct protocol_file_put *message);
void protocol_encode_file_get(struct cursor_writer *writer, uint32_t session,
                              const struct protocol_file_get *message);
void protocol_encode_attach(struct cursor_writer *writer, uint32_t session,
                            const struct protocol_attach *message);
void protocol_encode_attached(struct cursor_writer *writer, uint32_t session,
                              const struct protocol_attached *message);
void protocol_encode_signal(struct cursor_writer *writer, uint32_t session,
                            const struct protocol_signal *message);
void protocol_encode_resize(struct cursor_writer *writer, uint32_t session,
                            const struct protocol_resize *message);
void protocol_encode_data(struct cursor_writer *writer, uint32_t session,
                          const struct protocol_data *message);
void protocol_encode_ack(struct cursor_writer *writer, uint32_t session,
                         const struct protocol_ack *message);
void protocol_encode_started(struct cursor_writer *writer, uint32_t session,
                             const struct protocol_started *message);
void protocol_encode_ended(struct cursor_writer *writer, uint32_t session,
                           const struct protocol_ended *message);
void protocol_encode_sessions(struct cursor_writer *writer,
                              const struct protocol_sessions *message);
void protocol_encode_frozen(struct cursor_writer *writer, const struct protocol_frozen *message);
void protocol_encode_share(struct cursor_writer *writer, const struct protocol_share *message);
void protocol_encode_shared(struct cursor_writer *writer, const struct protocol_done *message);
void protocol_encode_network(struct cursor_writer *writer, const struct protocol_network *message);
void protocol_encode_thaw(struct cursor_writer *writer, const struct protocol_thaw *message);
void protocol_encode_thawed(struct cursor_writer *writer, const struct protocol_thawed *message);

#define PROTOCOL_CHECKED __attribute__((warn_unused_result))
PROTOCOL_CHECKED bool protocol_decode_empty(const struct protocol_frame *frame);
PROTOCOL_CHECKED bool protocol_decode_hello(const struct protocol_frame *frame,
                                            struct protocol_hello *ret);
PROTOCOL_CHECKED bool protocol_decode_hello_ack(const struct protocol_frame *frame,
                                                struct protocol_hello_ack *ret);
PROTOCOL_CHECKED bool protocol_decode_ping(const struct protocol_frame *frame,
                                           struct protocol_ping *ret);
PROTOCOL_CHECKED bool protocol_decode_setup(const struct protocol_frame *frame,
                                            struct protocol_setup *ret);
PROTOCOL_CHECKED bool protocol_decode_done(const struct protocol_frame *frame,
                                           struct protocol_done *ret);
PROTOCOL_CHECKED bool protocol_decode_exec(const struct protocol_frame *frame,
                                           struct protocol_exec *ret);
PROTOCOL_CHECKED bool protocol_decode_file_put(const struct protocol_frame *frame,
                                               struct protocol_file_put *ret);
PROTOCOL_CHECKED bool protocol_decode_file_get(const struct protocol_frame *frame,
                                               struct protocol_file_get *ret);
PROTOCOL_CHECKED bool protocol_decode_attach(const struct protocol_frame *frame,
                                             struct protocol_attach *ret);
PROTOCOL_CHECKED bool protocol_decode_attached(const struct protocol_frame *frame,
                                               struct protocol_attached *ret);
PROTOCOL_CHECKED bool protocol_decode_signal(const struct protocol_frame *frame,
                                             struct protocol_signal *ret);
PROTOCOL_CHECKED bool protocol_decode_resize(const struct protocol_frame *frame,
                                             struct protocol_resize *ret);
PROTOCOL_CHECKED bool protocol_decode_data(const struct protocol_frame *frame,
                                           struct protocol_data *ret);
PROTOCOL_CHECKED bool protocol_decode_figures(const struct protocol_frame *frame,
                                              struct protocol_figures *ret);
PROTOCOL_CHECKED bool protocol_decode_ack(const struct protocol_frame *frame,
                                          struct protocol_ack *ret);
PROTOCOL_CHECKED bool protocol_decode_started(const struct protocol_frame *frame,
                                              struct protocol_started *ret);
PROTOCOL_CHECKED bool protocol_decode_ended(const struct protocol_frame *frame,
                                            struct protocol_ended *ret);
PROTOCOL_CHECKED bool protocol_decode_sessions(const struct protocol_frame *frame,
                                               struct protocol_sessions *ret);
PROTOCOL_CHECKED bool protocol_decode_frozen(const struct protocol_frame *frame,
                                             struct protocol_frozen *ret);
PROTOCOL_CHECKED bool protocol_decode_share(const struct protocol_frame *frame,
                                            struct protocol_share *ret);
PROTOCOL_CHECKED bool protocol_decode_shared(const struct protocol_frame *frame,
                                             struct protocol_done *ret);
PROTOCOL_CHECKED bool protocol_decode_network(const struct protocol_frame *frame,
                                              struct protocol_network *ret);
PROTOCOL_CHECKED bool protocol_decode_thaw(const struct protocol_frame *frame,
                                           struct protocol_thaw *ret);
PROTOCOL_CHECKED bool protocol_decode_thawed(const struct protocol_frame *frame,
                                             struct protocol_thawed *ret);

#endif
