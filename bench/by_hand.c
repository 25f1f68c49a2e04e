/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "by_hand.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"

#define APPEND "console=ttyS0 quiet panic=-1 reboot=t no_timer_check tsc=reliable mitigations=off"

/* What the processor's counter, which an emulated guest sees too, counts at: a guest that must find out by
 * itself on a busy host does not always come up. Asked once, and not part of any figure. */
static uint64_t tsc_khz(struct host *host) {
    static uint64_t khz;
    if (khz == 0) {
        struct host_wait wait = host_wait_ms(host, 100, HOST_FD_NONE);
        struct kelpie_error ignored;
        uint64_t start_ns = host_monotonic_ns(host);
        uint64_t start = __builtin_ia32_rdtsc();
        (void)!host_sleep(host, &wait, &ignored);
        khz = (__builtin_ia32_rdtsc() - start) * 1000000 / (host_monotonic_ns(host) - start_ns);
    }
    return khz;
}

/* Starts QEMU with its monitor on descriptor 3 and the agent's channel on 4. */
static enum kelpie_status spawn(struct by_hand *vm, const struct image_boot *boot,
                                uint32_t memory_mib, const char *state, struct kelpie_error *err) {
    char memory[16];
    char incoming[HOST_PATH_SIZE_MAX + 16];
    char append[256];
    snprintf(append, sizeof(append), APPEND " tsc_early_khz=%llu",
             (unsigned long long)tsc_khz(vm->host));
    snprintf(memory, sizeof(memory), "%uM", memory_mib);
    snprintf(incoming, sizeof(incoming), "exec:cat %s", state ? state : "");
    const char *argv[] = {
        "qemu-system-x86_64",
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-machine",
        "microvm,acpi=on,rtc=on,x-option-roms=off,auto-kernel-cmdline=off",
        "-accel",
        "tcg,thread=multi",
        "-cpu",
        "max",
        "-m",
        memory,
        "-chardev",
        "socket,id=qmp,fd=3",
        "-mon",
        "chardev=qmp,mode=control",
        "-chardev",
        "null,id=console",
        "-serial",
        "chardev:console",
        "-chardev",
        "socket,id=channel,fd=4",
        "-device",
        "virtio-serial-device",
        "-device",
        "virtserialport,chardev=channel,name=org.kelpie.channel",
        "-object",
        "rng-builtin,id=rng",
        "-device",
        "virtio-rng-device,rng=rng",
        "-kernel",
        boot->kernel.path,
        "-initrd",
        boot->initramfs_path,
        "-append",
        append,
        state ? "-incoming" : NULL,
        incoming,
        NULL,
    };
    int qmp[2];
    int channel[2];
    TRY(host_socket_pair(vm->host, qmp, err));
    vm->qmp = qmp[0];
    AUTO_FD struct host_fd qmp_theirs = {vm->host, qmp[1]};
    TRY(host_socket_pair(vm->host, channel, err));
    vm->channel = channel[0];
    AUTO_FD struct host_fd channel_theirs = {vm->host, channel[1]};
    const struct host_process_fd fds[] = {{3, qmp_theirs.fd}, {4, channel_theirs.fd}};
    const struct host_process_spec spec = {
        .argv = argv, .fds = fds, .fd_count = ARRAY_SIZE(fds), .dies_with_owner = true};
    return host_process_spawn(vm->host, &spec, &vm->process, err);
}

/* ---- QMP, the least of it --------------------------------------------------------------------- */

/* Reads lines until one holds the text. */
static enum kelpie_status await_line(struct by_hand *vm, const char *text,
                                     struct kelpie_error *err) {
    struct host_wait wait = host_wait_ms(vm->host, BY_HAND_TIMEOUT_MS, HOST_FD_NONE);
    for (;;) {
        char *end = memchr(vm->line, '\n', vm->line_size);
        if (end) {
            *end = 0;
            bool found = strstr(vm->line, text);
            memcpy(vm->answer, vm->line, (size_t)(end - vm->line) + 1);
            size_t used = (size_t)(end - vm->line) + 1;
            memmove(vm->line, vm->line + used, vm->line_size - used);
            vm->line_size -= used;
            if (found) {
                return KELPIE_OK;
            }
            continue;
        }
        size_t count = 0;
        TRY(host_read(vm->host, vm->qmp, vm->line + vm->line_size, sizeof(vm->line) - vm->line_size,
                      &wait, &count, err));
        if (count == 0) {
            return error_set(err, KELPIE_INTERNAL, "QEMU ended while \"%s\" was awaited", text);
        }
        vm->line_size += count;
    }
}

static enum kelpie_status command(struct by_hand *vm, const char *text, struct kelpie_error *err) {
    struct host_wait wait = host_wait_ms(vm->host, BY_HAND_TIMEOUT_MS, HOST_FD_NONE);
    TRY(host_write_all(vm->host, vm->qmp, text, strlen(text), &wait, err));
    return await_line(vm, "\"return\"", err);
}

/* Asks until the answer holds the text. */
static enum kelpie_status ask_until(struct by_hand *vm, const char *query, const char *text,
                                    struct kelpie_error *err) {
    for (size_t i = 0; i < BY_HAND_TIMEOUT_MS; i++) {
        TRY(command(vm, query, err));
        if (strstr(vm->answer, text)) {
            return KELPIE_OK;
        }
        struct host_wait pause = host_wait_ms(vm->host, 1, HOST_FD_NONE);
        TRY(host_sleep(vm->host, &pause, err));
    }
    return error_set(err, KELPIE_TIMED_OUT, "QEMU never answered %s", text);
}

/* ---- The agent -------------------------------------------------------------------------------- */

static enum kelpie_status say(struct by_hand *vm, const struct cursor_writer *writer,
                              struct kelpie_error *err) {
    ASSERT(!writer->failed);
    struct host_wait wait = host_wait_ms(vm->host, BY_HAND_TIMEOUT_MS, HOST_FD_NONE);
    return host_write_all(vm->host, vm->channel, writer->data, writer->size, &wait, err);
}

/* Reads frames until one of the type comes. */
static enum kelpie_status await_frame(struct by_hand *vm, enum protocol_type type,
                                      struct kelpie_error *err) {
    struct host_wait wait = host_wait_ms(vm->host, BY_HAND_TIMEOUT_MS, HOST_FD_NONE);
    for (;;) {
        struct protocol_frame frame;
        enum protocol_result result = protocol_decoder_next(&vm->decoder, &frame);
        if (result == PROTOCOL_RESULT_FRAME && frame.type == type) {
            return KELPIE_OK;
        }
        if (result == PROTOCOL_RESULT_MALFORMED) {
            return error_set(err, KELPIE_INTERNAL, "the agent sent no frame");
        }
        if (result == PROTOCOL_RESULT_MORE) {
            size_t room = 0;
            uint8_t *space = protocol_decoder_space(&vm->decoder, &room);
            size_t count = 0;
            TRY(host_read(vm->host, vm->channel, space, room, &wait, &count, err));
            if (count == 0) {
                return error_set(err, KELPIE_INTERNAL, "the agent's channel ended");
            }
            protocol_decoder_filled(&vm->decoder, count);
        }
    }
}

static struct protocol_identity identity(struct by_hand *vm) {
    return (struct protocol_identity){
        .realtime_ns = host_realtime_ns(vm->host),
        .hostname = "by-hand",
        .machine_id = "0123456789abcdef0123456789abcdef",
    };
}

static enum kelpie_status greet(struct by_hand *vm, bool restored, struct kelpie_error *err) {
    static uint8_t bytes[4096];
    struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
    struct protocol_hello hello = {.nonce = {1}};
    protocol_encode_hello(&writer, &hello);
    TRY(say(vm, &writer, err));
    TRY(await_frame(vm, PROTOCOL_HELLO_ACK, err));
    writer = cursor_writer_init(bytes, sizeof(bytes));
    if (restored) {
        struct protocol_thaw thaw = {.flags = PROTOCOL_THAW_RESTORED, .identity = identity(vm)};
        protocol_encode_thaw(&writer, &thaw);
        TRY(say(vm, &writer, err));
        return await_frame(vm, PROTOCOL_THAWED, err);
    }
    struct protocol_setup setup = {.identity = identity(vm)};
    protocol_encode_setup(&writer, &setup);
    TRY(say(vm, &writer, err));
    return await_frame(vm, PROTOCOL_SETUP_DONE, err);
}

enum kelpie_status by_hand_start(struct by_hand *vm, struct host *host,
                                 const struct image_boot *boot, uint32_t memory_mib,
                                 const char *state, struct kelpie_error *err) {
    *vm = (struct by_hand){
        .host = host, .qmp = HOST_FD_NONE, .channel = HOST_FD_NONE, .session_last = state ? 1 : 0};
    vm->frames = host_allocate(host, PROTOCOL_FRAME_SIZE_MAX, err);
    if (!vm->frames) {
        return KELPIE_NO_MEMORY;
    }
    protocol_decoder_init(&vm->decoder, vm->frames, PROTOCOL_FRAME_SIZE_MAX);
    TRY(spawn(vm, boot, memory_mib, state, err));
    TRY(await_line(vm, "\"QMP\"", err));
    TRY(command(vm, "{\"execute\":\"qmp_capabilities\"}\n", err));
    if (state) {
        /* It was saved while stopped, so that it arrives stopped: then it may run. */
        TRY(ask_until(vm, "{\"execute\":\"query-status\"}\n", "\"paused\"", err));
        TRY(command(vm, "{\"execute\":\"cont\"}\n", err));
    }
    return greet(vm, state != NULL, err);
}

enum kelpie_status by_hand_exec_true(struct by_hand *vm, struct kelpie_error *err) {
    uint8_t bytes[1024];
    struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
    struct protocol_exec exec = {
        .rows = 24,
        .columns = 80,
        .working_dir = "/",
        .argv_count = 1,
        .argv = "/bin/true",
        .argv_size = sizeof("/bin/true"),
        .env = "",
    };
    protocol_encode_exec(&writer, ++vm->session_last, &exec);
    TRY(say(vm, &writer, err));
    return await_frame(vm, PROTOCOL_ENDED, err);
}

enum kelpie_status by_hand_save(struct by_hand *vm, const char *state, struct kelpie_error *err) {
    uint8_t bytes[64];
    struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
    protocol_encode_empty(&writer, PROTOCOL_FREEZE, 0);
    TRY(say(vm, &writer, err));
    TRY(await_frame(vm, PROTOCOL_FROZEN, err));
    TRY(command(vm, "{\"execute\":\"stop\"}\n", err));
    char text[HOST_PATH_SIZE_MAX + 128];
    snprintf(text, sizeof(text),
             "{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"exec:cat > %s\"}}\n", state);
    TRY(command(vm,
                "{\"execute\":\"migrate-set-parameters\",\"arguments\":"
                "{\"max-bandwidth\":100000000000}}\n",
                err));
    TRY(command(vm, text, err));
    return ask_until(vm, "{\"execute\":\"query-migrate\"}\n", "\"completed\"", err);
}

void by_hand_end(struct by_hand *vm) {
    host_process_destroy(vm->process);
    host_close(vm->host, vm->qmp);
    host_close(vm->host, vm->channel);
    free(vm->frames);
    vm->process = NULL;
    vm->frames = NULL;
}
