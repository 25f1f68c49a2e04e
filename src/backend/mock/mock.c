/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The mock backend: a machine that is only memory.
 *
 * THEORY OF OPERATION
 *
 * An instance with a running machine has a simulated guest (mock_guest.h), a socket pair, two events and a thread.
 * One end of the pair is the channel that src/vm/ talks to; the thread moves bytes between the other end and the
 * guest, tells it the time, and sleeps until bytes come, something is due in the guest, or `wake` is set.
 * Everything is guarded by the instance's mutex, which the thread does not hold while it sleeps, so that pausing is
 * no more than setting `paused` under it.
 *
 * The machine ends when the guest powers off, is killed or crashes: machine_end() says why and sets the exit
 * event at once; the thread then closes its end of the channel and returns. stop() joins it.
 */
#include "backend/mock/mock.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "backend/mock/mock_guest.h"
#include "backend/mock/mock_state.h"
#include "base/assert.h"
#include "base/checked.h"
#include "base/cleanup.h"

#define MOCK_VERSION "1"
#define MOCK_THREAD_NAME "kelpie-mock"
#define MOCK_CONSOLE_TEXT "kelpie mock guest: up\n"
#define MIB 1048576ull

#if defined(__x86_64__)
#define MOCK_ARCHITECTURE_DEFAULT "x86_64"
#elif defined(__aarch64__)
#define MOCK_ARCHITECTURE_DEFAULT "aarch64"
#else
#define MOCK_ARCHITECTURE_DEFAULT "unknown"
#endif

enum { WAKE = 0, CHANNEL = 1, POLL_COUNT = 2 };

struct backend_instance {
    struct host *host;
    const struct kelpie_config *config;
    struct host_mutex *mutex;
    uint32_t fail_counts[KELPIE_MOCK_OPERATION_COUNT];
    bool boot_failed; /* once, as mock.fail_boot asks */

    /* While there is a machine. */
    struct mock_guest *guest;
    struct host_thread *thread;
    int channel_fd; /* the caller's end */
    int guest_fd;   /* the guest's */
    int wake_fd;
    int exit_fd;
    uint64_t booted_ns; /* the guest hears nothing before */
    bool hung_up;       /* the caller's end was closed */
    bool paused;
    bool ended;
    char exit_text[128];
};

static void instance_check(const struct backend_instance *instance) {
    ASSERT(instance);
    ASSERT(instance->host);
    ASSERT(instance->config);
    ASSERT(instance->mutex);
}

/* ---- The thread ------------------------------------------------------------------------------- */

/* mutex held. */
static void machine_end(struct backend_instance *instance, const char *text) {
    instance_check(instance);
    ASSERT(text);
    if (instance->ended) {
        return;
    }
    instance->ended = true;
    snprintf(instance->exit_text, sizeof(instance->exit_text), "%s", text);
    host_event_set(instance->host, instance->exit_fd);
    host_event_set(instance->host, instance->wake_fd);
}

/* Runs the guest and says what to wait for. mutex held. */
static uint64_t machine_run(struct backend_instance *instance, struct host_poll_item *channel) {
    instance_check(instance);
    ASSERT(channel);
    struct mock_guest *guest = instance->guest;
    uint64_t now_ns = host_monotonic_ns(instance->host);
    *channel = (struct host_poll_item){.fd = HOST_FD_NONE};
    if (instance->paused) {
        return UINT64_MAX;
    }
    mock_guest_advance(guest, now_ns);
    if (now_ns < instance->booted_ns) {
        return instance->booted_ns;
    }
    bool more = mock_guest_turn(guest);
    if (guest->powered_off) {
        machine_end(instance, "the mock powered off");
        return 0;
    }
    size_t room = 0;
    protocol_decoder_space(&guest->decoder, &room);
    bool reads = room > 0 && !instance->hung_up;
    channel->asked = (reads ? HOST_POLL_READ : 0) | (guest->send.size > 0 ? HOST_POLL_WRITE : 0);
    channel->fd = channel->asked ? instance->guest_fd : HOST_FD_NONE;
    return more ? 0 : mock_guest_next_ns(guest);
}

/* Moves bytes as far as the channel is ready. mutex held. */
static void channel_move(struct backend_instance *instance, uint32_t ready) {
    instance_check(instance);
    struct mock_guest *guest = instance->guest;
    struct host_wait wait = host_wait_none();
    struct kelpie_error ignored;
    size_t size = 0;
    if (ready & HOST_POLL_READ) {
        size_t room = 0;
        uint8_t *space = protocol_decoder_space(&guest->decoder, &room);
        enum kelpie_status status =
            host_read(instance->host, instance->guest_fd, space, room, &wait, &size, &ignored);
        if (status == KELPIE_OK) {
            instance->hung_up = size == 0;
            protocol_decoder_filled(&guest->decoder, size);
        } else if (status != KELPIE_TIMED_OUT) {
            machine_end(instance, "the mock could not read its channel");
            return;
        }
    }
    if (ready & HOST_POLL_WRITE) {
        const uint8_t *data = NULL;
        size_t front = ring_front(&guest->send, &data);
        enum kelpie_status status =
            host_write(instance->host, instance->guest_fd, data, front, &wait, &size, &ignored);
        if (status == KELPIE_OK) {
            ring_drop(&guest->send, size);
        } else if (status != KELPIE_TIMED_OUT) {
            machine_end(instance, "the mock could not write to its channel");
        }
    }
}

static void machine_thread(void *argument) {
    ASSERT(argument);
    struct backend_instance *instance = argument;
    struct host *host = instance->host;
    host_mutex_lock(instance->mutex);
    while (!instance->ended) {
        struct host_poll_item items[POLL_COUNT] = {
            [WAKE] = {.fd = instance->wake_fd, .asked = HOST_POLL_READ}};
        struct host_wait wait = {.cancel_fd = HOST_FD_NONE};
        wait.deadline_ns = machine_run(instance, &items[CHANNEL]);
        host_mutex_unlock(instance->mutex);
        struct kelpie_error err;
        enum kelpie_status status = host_poll(host, items, POLL_COUNT, &wait, &err);
        host_mutex_lock(instance->mutex);
        if (status == KELPIE_OK && (items[WAKE].ready & HOST_POLL_READ)) {
            host_event_clear(host, instance->wake_fd);
        }
        if (status == KELPIE_OK && !instance->paused && !instance->ended) {
            channel_move(instance, items[CHANNEL].ready);
        } else if (status != KELPIE_OK && status != KELPIE_TIMED_OUT) {
            machine_end(instance, "the mock could not wait for its channel");
        }
    }
    host_close(host, instance->guest_fd);
    instance->guest_fd = HOST_FD_NONE;
    host_mutex_unlock(instance->mutex);
}

/* ---- Making and ending a machine -------------------------------------------------------------- */

/* Everything of the machine goes; exit_text stays. The thread has ended, or never was. */
static void machine_free(struct backend_instance *instance) {
    instance_check(instance);
    host_mutex_lock(instance->mutex);
    struct mock_guest *guest = TAKE(instance->guest);
    int *fds[] = {&instance->channel_fd, &instance->guest_fd, &instance->wake_fd,
                  &instance->exit_fd};
    for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
        host_close(instance->host, *fds[i]);
        *fds[i] = HOST_FD_NONE;
    }
    host_mutex_unlock(instance->mutex);
    mock_guest_destroy(guest);
}

static enum kelpie_status machine_parts(struct backend_instance *instance,
                                        struct kelpie_error *err) {
    instance_check(instance);
    struct host *host = instance->host;
    int pair[2] = {HOST_FD_NONE, HOST_FD_NONE};
    TRY(host_event_create(host, &instance->wake_fd, err));
    TRY(host_event_create(host, &instance->exit_fd, err));
    TRY(host_socket_pair(host, pair, err));
    instance->channel_fd = pair[0];
    instance->guest_fd = pair[1];
    return KELPIE_OK;
}

/* Takes the guest, also when it fails. */
static enum kelpie_status machine_start(struct backend_instance *instance, struct mock_guest *guest,
                                        bool paused, struct kelpie_error *err) {
    instance_check(instance);
    mock_guest_check(guest);
    ASSERT(!instance->guest);
    ASSERT(!instance->thread);
    host_mutex_lock(instance->mutex);
    instance->guest = guest;
    instance->paused = paused;
    instance->ended = false;
    instance->hung_up = false;
    instance->exit_text[0] = '\0';
    guest->fail_exec_count = instance->fail_counts[KELPIE_MOCK_EXEC];
    instance->fail_counts[KELPIE_MOCK_EXEC] = 0;
    mock_guest_skip(guest, host_monotonic_ns(instance->host));
    enum kelpie_status status = machine_parts(instance, err);
    host_mutex_unlock(instance->mutex);
    if (status == KELPIE_OK) {
        status = host_thread_start(instance->host, MOCK_THREAD_NAME, machine_thread, instance,
                                   &instance->thread, err);
    }
    if (status != KELPIE_OK) {
        machine_free(instance);
    }
    return status;
}

/* One of the failures that the caller ordered. mutex not held. */
static bool fails_now(struct backend_instance *instance, enum kelpie_mock_operation operation) {
    instance_check(instance);
    ASSERT(operation < KELPIE_MOCK_OPERATION_COUNT);
    host_mutex_lock(instance->mutex);
    bool fails = instance->fail_counts[operation] > 0;
    instance->fail_counts[operation] -= fails ? 1 : 0;
    host_mutex_unlock(instance->mutex);
    return fails;
}

static const char *architecture_of(const struct kelpie_config *config) {
    ASSERT(config);
    bool is_chosen = config->mock && config->mock->architecture;
    return is_chosen ? config->mock->architecture : MOCK_ARCHITECTURE_DEFAULT;
}

/* ---- Operations ------------------------------------------------------------------------------- */

static void mock_probe(struct host *host, struct kelpie_probe *ret_probe) {
    ASSERT(host);
    ASSERT(ret_probe);
    *ret_probe = (struct kelpie_probe){
        .usable = true,
        .reason = "it is only memory: for tests of your own code, never chosen by itself",
        .version = MOCK_VERSION,
        .accelerator = "none",
    };
}

static enum kelpie_status mock_create(const struct backend_launch *launch,
                                      struct backend_instance **ret_instance,
                                      struct kelpie_error *err) {
    ASSERT(launch);
    ASSERT(ret_instance);
    ASSERT(launch->host);
    ASSERT(launch->config);
    AUTO_MEM struct backend_instance *instance =
        host_allocate(launch->host, sizeof(*instance), err);
    if (!instance) {
        return KELPIE_NO_MEMORY;
    }
    *instance = (struct backend_instance){
        .host = launch->host,
        .config = launch->config,
        .channel_fd = HOST_FD_NONE,
        .guest_fd = HOST_FD_NONE,
        .wake_fd = HOST_FD_NONE,
        .exit_fd = HOST_FD_NONE,
    };
    TRY(host_mutex_create(launch->host, &instance->mutex, err));
    *ret_instance = TAKE(instance);
    return KELPIE_OK;
}

static void mock_kill(struct backend_instance *instance) {
    instance_check(instance);
    host_mutex_lock(instance->mutex);
    if (instance->guest) {
        machine_end(instance, "the mock was killed");
    }
    host_mutex_unlock(instance->mutex);
}

/* Ends the machine, if there is one. */
static void machine_stop(struct backend_instance *instance) {
    instance_check(instance);
    mock_kill(instance);
    host_thread_join(TAKE(instance->thread));
    machine_free(instance);
}

static void mock_destroy(struct backend_instance *instance) {
    instance_check(instance);
    machine_stop(instance);
    host_mutex_destroy(instance->mutex);
    free(instance);
}

static enum kelpie_status mock_start(struct backend_instance *instance,
                                     const struct host_wait *wait, struct kelpie_error *err) {
    instance_check(instance);
    ASSERT(wait);
    const struct kelpie_mock_config *levers = instance->config->mock;
    bool boot_fails = levers && levers->fail_boot && !instance->boot_failed;
    if (fails_now(instance, KELPIE_MOCK_START) || boot_fails) {
        instance->boot_failed = true;
        return error_set(err, KELPIE_BOOT_FAILED, "the mock was told to fail this start");
    }
    struct mock_guest *guest = NULL;
    TRY(mock_guest_create(instance->host, instance->config->memory_mib * MIB, &guest, err));
    enum kelpie_status status = mock_guest_boot(guest, err);
    if (status != KELPIE_OK) {
        mock_guest_destroy(guest);
        return status;
    }
    uint32_t delay_ms = levers ? levers->boot_delay_ms : 0;
    instance->booted_ns = host_monotonic_ns(instance->host) + delay_ms * HOST_NS_PER_MS;
    return machine_start(instance, guest, false, err);
}

static enum kelpie_status mock_pause(struct backend_instance *instance,
                                     const struct host_wait *wait, struct kelpie_error *err) {
    instance_check(instance);
    ASSERT(wait);
    if (fails_now(instance, KELPIE_MOCK_PAUSE)) {
        return error_set(err, KELPIE_IO_FAILED, "the mock was told to fail this pause");
    }
    host_mutex_lock(instance->mutex);
    ASSERT(instance->guest);
    bool ended = instance->ended;
    if (!ended && !instance->paused) {
        mock_guest_advance(instance->guest, host_monotonic_ns(instance->host));
        instance->paused = true;
    }
    host_mutex_unlock(instance->mutex);
    return ended ? error_set(err, KELPIE_CRASHED, "the mock has ended") : KELPIE_OK;
}

static enum kelpie_status mock_resume(struct backend_instance *instance,
                                      const struct host_wait *wait, struct kelpie_error *err) {
    instance_check(instance);
    ASSERT(wait);
    if (fails_now(instance, KELPIE_MOCK_RESUME)) {
        return error_set(err, KELPIE_IO_FAILED, "the mock was told to fail this resume");
    }
    host_mutex_lock(instance->mutex);
    ASSERT(instance->guest);
    bool ended = instance->ended;
    if (!ended && instance->paused) {
        mock_guest_skip(instance->guest, host_monotonic_ns(instance->host));
        instance->paused = false;
        host_event_set(instance->host, instance->wake_fd);
    }
    host_mutex_unlock(instance->mutex);
    return ended ? error_set(err, KELPIE_CRASHED, "the mock has ended") : KELPIE_OK;
}

static enum kelpie_status manifest_fill(struct backend_instance *instance,
                                        struct snapshot_manifest *manifest,
                                        struct kelpie_error *err) {
    instance_check(instance);
    ASSERT(manifest);
    manifest->memory_in_state = true;
    snprintf(manifest->info.backend_version, sizeof(manifest->info.backend_version), "%s",
             MOCK_VERSION);
    snprintf(manifest->info.architecture, sizeof(manifest->info.architecture), "%s",
             architecture_of(instance->config));
    return snapshot_manifest_add_feature(manifest, "machine", "mock", err);
}

static enum kelpie_status mock_save(struct backend_instance *instance,
                                    enum kelpie_snapshot_kind kind, struct snapshot_writer *writer,
                                    const struct host_wait *wait, struct kelpie_error *err) {
    instance_check(instance);
    ASSERT(writer);
    ASSERT(kind == KELPIE_SNAPSHOT_SUSPEND || kind == KELPIE_SNAPSHOT_TELEPORT);
    ASSERT(wait);
    if (fails_now(instance, KELPIE_MOCK_SNAPSHOT)) {
        return error_set(err, KELPIE_SNAPSHOT_FAILED, "the mock was told to fail this snapshot");
    }
    struct mock_bytes bytes = mock_bytes_init(instance->host);
    host_mutex_lock(instance->mutex);
    ASSERT(instance->guest);
    ASSERT(instance->paused);
    enum kelpie_status status = mock_state_save(instance->guest, &bytes, err);
    host_mutex_unlock(instance->mutex);
    int fd = HOST_FD_NONE;
    if (status == KELPIE_OK) {
        status = snapshot_writer_part(writer, SNAPSHOT_PART_STATE, &fd, err);
    }
    if (status == KELPIE_OK) {
        status = host_file_write_at(instance->host, fd, bytes.data, bytes.size, 0, err);
    }
    if (status == KELPIE_OK) {
        status = manifest_fill(instance, snapshot_writer_manifest(writer), err);
    }
    mock_bytes_deinit(&bytes);
    return status;
}

static enum kelpie_status load_check(struct backend_instance *instance,
                                     const struct snapshot_manifest *manifest,
                                     struct kelpie_error *err) {
    const char *architecture = architecture_of(instance->config);
    if (strcmp(manifest->info.architecture, architecture) != 0) {
        return error_set_field(err, KELPIE_SNAPSHOT_INCOMPATIBLE, "architecture",
                               "the bundle is for %s, the mock for %s", manifest->info.architecture,
                               architecture);
    }
    if (strcmp(manifest->info.backend_version, MOCK_VERSION) != 0) {
        return error_set_field(err, KELPIE_SNAPSHOT_INCOMPATIBLE, "backend_version",
                               "the bundle is of the mock's version %s, this one is version %s",
                               manifest->info.backend_version, MOCK_VERSION);
    }
    return KELPIE_OK;
}

/* The state part's bytes, for free(). */
static enum kelpie_status state_read(struct host *host, const struct snapshot_reader *reader,
                                     uint8_t **ret_data, size_t *ret_size,
                                     struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(reader);
    ASSERT(ret_data);
    ASSERT(ret_size);
    int fd = snapshot_reader_part(reader, SNAPSHOT_PART_STATE);
    struct host_file_info info = {0};
    if (fd != HOST_FD_NONE) {
        TRY(host_file_stat(host, fd, &info, err));
    }
    if (info.size == 0 || info.size > MOCK_STATE_SIZE_MAX) {
        return error_set_field(err, KELPIE_SNAPSHOT_CORRUPT, "state",
                               "the bundle's state is missing, empty or too large");
    }
    AUTO_MEM uint8_t *data = host_allocate(host, (size_t)info.size, err);
    if (!data) {
        return KELPIE_NO_MEMORY;
    }
    size_t size = 0;
    TRY(host_file_read_at(host, fd, data, (size_t)info.size, 0, &size, err));
    *ret_size = size;
    *ret_data = TAKE(data);
    return KELPIE_OK;
}

static enum kelpie_status mock_load(struct backend_instance *instance,
                                    struct snapshot_reader *reader, const struct host_wait *wait,
                                    struct kelpie_error *err) {
    instance_check(instance);
    ASSERT(reader);
    ASSERT(wait);
    if (fails_now(instance, KELPIE_MOCK_RESTORE)) {
        return error_set(err, KELPIE_RESTORE_FAILED, "the mock was told to fail this restore");
    }
    TRY(load_check(instance, snapshot_reader_manifest(reader), err));
    AUTO_MEM uint8_t *data = NULL;
    size_t size = 0;
    TRY(state_read(instance->host, reader, &data, &size, err));
    struct mock_guest *guest = NULL;
    TRY(mock_guest_create(instance->host, instance->config->memory_mib * MIB, &guest, err));
    enum kelpie_status status = mock_state_load(guest, data, size, err);
    if (status != KELPIE_OK) {
        mock_guest_destroy(guest);
        return status;
    }
    instance->booted_ns = 0;
    return machine_start(instance, guest, true, err);
}

static enum kelpie_status mock_stop(struct backend_instance *instance, const struct host_wait *wait,
                                    struct kelpie_error *err) {
    instance_check(instance);
    ASSERT(wait);
    (void)err; /* what does not end by itself is killed: nothing here can fail */
    if (instance->guest) {
        struct host_poll_item item = {.fd = instance->exit_fd, .asked = HOST_POLL_READ};
        struct kelpie_error ignored;
        (void)!host_poll(instance->host, &item, 1, wait, &ignored);
    }
    machine_stop(instance);
    return KELPIE_OK;
}

static int mock_channel_fd(struct backend_instance *instance) {
    instance_check(instance);
    host_mutex_lock(instance->mutex);
    int fd = instance->channel_fd;
    host_mutex_unlock(instance->mutex);
    return fd;
}

static int mock_exit_fd(struct backend_instance *instance) {
    instance_check(instance);
    host_mutex_lock(instance->mutex);
    int fd = instance->exit_fd;
    host_mutex_unlock(instance->mutex);
    return fd;
}

static int mock_process_id(struct backend_instance *instance) {
    instance_check(instance);
    return 0;
}

static void mock_exit_text(struct backend_instance *instance, char *buffer, size_t size) {
    instance_check(instance);
    ASSERT(buffer);
    ASSERT(size > 0);
    host_mutex_lock(instance->mutex);
    snprintf(buffer, size, "%s", instance->exit_text);
    host_mutex_unlock(instance->mutex);
}

static size_t mock_service_fds(struct backend_instance *instance, int *fds, size_t capacity) {
    instance_check(instance);
    ASSERT(fds || capacity == 0);
    return 0;
}

static void mock_service(struct backend_instance *instance, int fd) {
    instance_check(instance);
    ASSERT(fd == HOST_FD_NONE); /* it never asked for any */
}

static size_t mock_console(struct backend_instance *instance, void *buffer, size_t size) {
    instance_check(instance);
    ASSERT(buffer);
    host_mutex_lock(instance->mutex);
    bool is_up = instance->guest && host_monotonic_ns(instance->host) >= instance->booted_ns;
    host_mutex_unlock(instance->mutex);
    size_t count = is_up ? min_size(size, strlen(MOCK_CONSOLE_TEXT)) : 0;
    if (count > 0) {
        memcpy(buffer, MOCK_CONSOLE_TEXT, count);
    }
    return count;
}

/* ---- Levers ----------------------------------------------------------------------------------- */

void backend_mock_fail(struct backend_instance *instance, enum kelpie_mock_operation operation,
                       uint32_t count) {
    instance_check(instance);
    ASSERT(operation < KELPIE_MOCK_OPERATION_COUNT);
    host_mutex_lock(instance->mutex);
    if (operation == KELPIE_MOCK_EXEC && instance->guest) {
        instance->guest->fail_exec_count = count;
    } else {
        instance->fail_counts[operation] = count;
    }
    host_mutex_unlock(instance->mutex);
}

void backend_mock_crash(struct backend_instance *instance) {
    instance_check(instance);
    host_mutex_lock(instance->mutex);
    if (instance->guest) {
        machine_end(instance, "the mock crashed, as it was told to");
    }
    host_mutex_unlock(instance->mutex);
}

const struct backend_ops backend_mock_ops = {
    .name = "mock",
    .description = "a simulated VM in this process's memory, for tests",
    .capabilities = KELPIE_CAN_EXEC | KELPIE_CAN_COPY | KELPIE_CAN_PAUSE |
                    KELPIE_CAN_SUSPEND_SNAPSHOT | KELPIE_CAN_TELEPORT_SNAPSHOT | KELPIE_CAN_TTY |
                    KELPIE_CAN_FORK,
    .in_auto = false,
    .probe = mock_probe,
    .create = mock_create,
    .destroy = mock_destroy,
    .start = mock_start,
    .load = mock_load,
    .pause = mock_pause,
    .resume = mock_resume,
    .save = mock_save,
    .stop = mock_stop,
    .kill = mock_kill,
    .channel_fd = mock_channel_fd,
    .exit_fd = mock_exit_fd,
    .process_id = mock_process_id,
    .exit_text = mock_exit_text,
    .service_fds = mock_service_fds,
    .service = mock_service,
    .console = mock_console,
};
