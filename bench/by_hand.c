/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "by_hand.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"

#define ARGV_COUNT_MAX 64
#define APPEND "console=ttyS0 quiet panic=-1 reboot=t no_timer_check"
#define APPEND_EMULATED " tsc=reliable mitigations=off tsc_early_khz="

/* The numbers of the descriptors in QEMU's process. */
enum { CHILD_QMP = 3, CHILD_CHANNEL, CHILD_STATE };

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

/* QEMU's command line, and the text that it points to. */
struct words {
    const char *argv[ARGV_COUNT_MAX + 1];
    size_t argc;
    char memory[16];
    char backend[HOST_PATH_SIZE_MAX + 128];
    char append[256];
};

static void add(struct words *words, const char *const *argv) {
    for (; *argv; argv++) {
        ASSERT(words->argc < ARGV_COUNT_MAX);
        words->argv[words->argc++] = *argv;
    }
}

#define ADD(...) add(words, (const char *const[]){__VA_ARGS__, NULL})

/* What depends on the machine. */
static void add_machine(struct words *words, struct host *host,
                        const struct by_hand_machine *machine, bool incoming) {
    snprintf(words->memory, sizeof(words->memory), "%uM", machine->memory_mib);
    snprintf(words->append, sizeof(words->append), "%s", APPEND);
    if (!machine->kvm) {
        snprintf(words->append, sizeof(words->append), "%s%llu", APPEND APPEND_EMULATED,
                 (unsigned long long)tsc_khz(host));
    }
    ADD("-accel", machine->kvm ? "kvm" : "tcg,thread=multi");
    ADD("-cpu", machine->kvm ? "host" : "max");
    ADD("-m", words->memory, "-kernel", machine->boot->kernel.path);
    ADD("-initrd", machine->boot->initramfs_path, "-append", words->append);
    if (machine->memory) {
        snprintf(words->backend, sizeof(words->backend),
                 "memory-backend-file,id=ram,mem-path=%s,size=%uM,share=%s", machine->memory,
                 machine->memory_mib, incoming ? "off" : "on");
        ADD("-object", words->backend, "-machine", "memory-backend=ram");
    }
    if (incoming) {
        ADD("-incoming", "defer");
    }
}

static void make_words(struct words *words, struct host *host,
                       const struct by_hand_machine *machine, bool incoming) {
    *words = (struct words){0};
    ADD("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none");
    ADD("-machine", "microvm,acpi=on,rtc=on,x-option-roms=off,auto-kernel-cmdline=off");
    ADD("-chardev", "socket,id=qmp,fd=3", "-mon", "chardev=qmp,mode=control");
    ADD("-chardev", "null,id=console", "-serial", "chardev:console");
    ADD("-chardev", "socket,id=channel,fd=4", "-device", "virtio-serial-device");
    ADD("-device", "virtserialport,chardev=channel,name=org.kelpie.channel");
    ADD("-object", "rng-builtin,id=rng", "-device", "virtio-rng-device,rng=rng");
    add_machine(words, host, machine, incoming);
}

static enum kelpie_status spawn(struct by_hand *vm, const struct by_hand_machine *machine,
                                const char *state, struct kelpie_error *err) {
    int qmp[2];
    int channel[2];
    TRY(host_socket_pair(vm->host, qmp, err));
    vm->qmp = qmp[0];
    AUTO_FD struct host_fd qmp_theirs = {vm->host, qmp[1]};
    TRY(host_socket_pair(vm->host, channel, err));
    vm->channel = channel[0];
    AUTO_FD struct host_fd channel_theirs = {vm->host, channel[1]};
    AUTO_FD struct host_fd saved = {vm->host, HOST_FD_NONE};
    if (state) {
        TRY(host_file_open(vm->host, state, HOST_OPEN_READ, 0, &saved.fd, err));
    }
    static_assert(CHILD_QMP == 3 && CHILD_CHANNEL == 4 && CHILD_STATE == 5, "as the words have it");
    const struct host_process_fd fds[] = {
        {CHILD_QMP, qmp_theirs.fd}, {CHILD_CHANNEL, channel_theirs.fd}, {CHILD_STATE, saved.fd}};
    struct words words;
    make_words(&words, vm->host, machine, state != NULL);
    const struct host_process_spec spec = {.argv = words.argv,
                                           .fds = fds,
                                           .fd_count = ARRAY_SIZE(fds) - (state ? 0 : 1),
                                           .dies_with_owner = true};
    return host_process_spawn(vm->host, &spec, &vm->process, err);
}

/* ---- QMP, the least of it --------------------------------------------------------------------- */

/* Reads lines until one holds the text. */
static enum kelpie_status await_line(struct by_hand *vm, const char *text,
                                     struct kelpie_error *err) {
    struct host_wait wait = host_wait_ms(vm->host, vm->timeout_ms, HOST_FD_NONE);
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
    struct host_wait wait = host_wait_ms(vm->host, vm->timeout_ms, HOST_FD_NONE);
    TRY(host_write_all(vm->host, vm->qmp, text, strlen(text), &wait, err));
    return await_line(vm, "\"return\"", err);
}

/* Asks until the answer holds the text. */
static enum kelpie_status ask_until(struct by_hand *vm, const char *query, const char *text,
                                    struct kelpie_error *err) {
    for (size_t i = 0; i < vm->timeout_ms; i++) {
        TRY(command(vm, query, err));
        if (strstr(vm->answer, text)) {
            return KELPIE_OK;
        }
        struct host_wait pause = host_wait_ms(vm->host, 1, HOST_FD_NONE);
        TRY(host_sleep(vm->host, &pause, err));
    }
    return error_set(err, KELPIE_TIMED_OUT, "QEMU never answered %s", text);
}

/* Memory in a file of its own is no part of the migration. */
static enum kelpie_status leave_out_memory(struct by_hand *vm, struct kelpie_error *err) {
    if (!vm->memory_in_file) {
        return KELPIE_OK;
    }
    return command(vm,
                   "{\"execute\":\"migrate-set-capabilities\",\"arguments\":{\"capabilities\":"
                   "[{\"capability\":\"x-ignore-shared\",\"state\":true}]}}\n",
                   err);
}

/* It was saved while stopped, so that it arrives stopped: then it may run. */
static enum kelpie_status take_up(struct by_hand *vm, struct kelpie_error *err) {
    TRY(leave_out_memory(vm, err));
    TRY(command(vm, "{\"execute\":\"migrate-incoming\",\"arguments\":{\"uri\":\"fd:5\"}}\n", err));
    TRY(ask_until(vm, "{\"execute\":\"query-status\"}\n", "\"paused\"", err));
    return command(vm, "{\"execute\":\"cont\"}\n", err);
}

/* ---- The agent -------------------------------------------------------------------------------- */

static enum kelpie_status say(struct by_hand *vm, const struct cursor_writer *writer,
                              struct kelpie_error *err) {
    ASSERT(!writer->failed);
    struct host_wait wait = host_wait_ms(vm->host, vm->timeout_ms, HOST_FD_NONE);
    return host_write_all(vm->host, vm->channel, writer->data, writer->size, &wait, err);
}

/* Reads frames until one of the type comes. */
static enum kelpie_status await_frame(struct by_hand *vm, enum protocol_type type,
                                      struct kelpie_error *err) {
    struct host_wait wait = host_wait_ms(vm->host, vm->timeout_ms, HOST_FD_NONE);
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
                                 const struct by_hand_machine *machine, const char *state,
                                 struct kelpie_error *err) {
    *vm = (struct by_hand){.host = host,
                           .memory_in_file = machine->memory != NULL,
                           .timeout_ms = machine->timeout_ms,
                           .qmp = HOST_FD_NONE,
                           .channel = HOST_FD_NONE,
                           .session_last = state ? 1 : 0};
    vm->frames = host_allocate(host, PROTOCOL_FRAME_SIZE_MAX, err);
    if (!vm->frames) {
        return KELPIE_NO_MEMORY;
    }
    protocol_decoder_init(&vm->decoder, vm->frames, PROTOCOL_FRAME_SIZE_MAX);
    TRY(spawn(vm, machine, state, err));
    TRY(await_line(vm, "\"QMP\"", err));
    TRY(command(vm, "{\"execute\":\"qmp_capabilities\"}\n", err));
    if (state) {
        TRY(take_up(vm, err));
    }
    return greet(vm, state != NULL, err);
}

int by_hand_process_id(struct by_hand *vm) {
    ASSERT(vm->process);
    return host_process_id(vm->process);
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
    TRY(leave_out_memory(vm, err));
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
