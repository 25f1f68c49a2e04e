/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "backend_vm.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define HELLO_AGAIN_MS 500
#define OPERATION_MS 60000

void backend_vm_init(struct backend_vm *vm, struct host *host, const struct backend_ops *ops) {
    memset(vm, 0, sizeof(*vm));
    vm->host = host;
    vm->ops = ops;
    vm->config = (struct kelpie_config){
        .name = "test",
        .hostname = "test",
        .working_dir = "/",
        .vcpu_count = 1,
        .memory_mib = 192,
        .console_bytes_max = KELPIE_CONSOLE_BYTES_DEFAULT,
        .disks = vm->disks,
    };
    vm->launch = (struct backend_launch){
        .host = host,
        .config = &vm->config,
        .id = "0123456789abcdef0123456789abcdef",
        .cancel_fd = HOST_FD_NONE,
    };
}

enum kelpie_status backend_vm_create(struct backend_vm *vm, struct kelpie_error *err) {
    assert_null(vm->instance);
    return vm->ops->create(&vm->launch, &vm->instance, err);
}

static void connect_again(struct backend_vm *vm) {
    protocol_decoder_init(&vm->decoder, vm->buffer, sizeof(vm->buffer));
}

enum kelpie_status backend_vm_start(struct backend_vm *vm, uint32_t timeout_ms,
                                    struct kelpie_error *err) {
    const struct host_wait wait = host_wait_ms(vm->host, timeout_ms, HOST_FD_NONE);
    connect_again(vm);
    return vm->ops->start(vm->instance, &wait, err);
}

/* ---- The channel ------------------------------------------------------------------------------ */

static bool send_bytes(struct backend_vm *vm, const void *data, size_t size) {
    const struct host_wait wait = host_wait_ms(vm->host, OPERATION_MS, HOST_FD_NONE);
    return host_write_all(vm->host, vm->ops->channel_fd(vm->instance), data, size, &wait, NULL) ==
           KELPIE_OK;
}

/* Waits for the channel, serving the backend meanwhile. False: the time is over. */
static bool await_channel(struct backend_vm *vm, const struct host_wait *wait) {
    for (;;) {
        int fds[BACKEND_SERVICE_FD_COUNT_MAX];
        size_t count = vm->ops->service_fds(vm->instance, fds, BACKEND_SERVICE_FD_COUNT_MAX);
        struct host_poll_item items[1 + BACKEND_SERVICE_FD_COUNT_MAX] = {
            {.fd = vm->ops->channel_fd(vm->instance), .asked = HOST_POLL_READ}};
        for (size_t i = 0; i < count; i++) {
            items[i + 1] = (struct host_poll_item){.fd = fds[i], .asked = HOST_POLL_READ};
        }
        if (host_poll(vm->host, items, count + 1, wait, NULL) != KELPIE_OK) {
            return false;
        }
        for (size_t i = 0; i < count; i++) {
            if (items[i + 1].ready) {
                vm->ops->service(vm->instance, fds[i]);
            }
        }
        if (items[0].ready) {
            return true;
        }
        if (host_monotonic_ns(vm->host) >= wait->deadline_ns) {
            return false;
        }
    }
}

/* The next frame that comes before the wait is over. */
static bool next_frame(struct backend_vm *vm, const struct host_wait *wait,
                       struct protocol_frame *ret_frame) {
    for (;;) {
        enum protocol_result result = protocol_decoder_next(&vm->decoder, ret_frame);
        if (result == PROTOCOL_RESULT_FRAME) {
            return true;
        }
        if (result == PROTOCOL_RESULT_MALFORMED || !await_channel(vm, wait)) {
            return false;
        }
        size_t room = 0;
        size_t count = 0;
        uint8_t *space = protocol_decoder_space(&vm->decoder, &room);
        if (host_read(vm->host, vm->ops->channel_fd(vm->instance), space, room, wait, &count,
                      NULL) != KELPIE_OK ||
            count == 0) {
            return false;
        }
        protocol_decoder_filled(&vm->decoder, count);
    }
}

static bool await_hello_ack(struct backend_vm *vm, const struct protocol_hello *hello,
                            struct protocol_hello_ack *ret_ack) {
    const struct host_wait wait = host_wait_ms(vm->host, HELLO_AGAIN_MS, HOST_FD_NONE);
    struct protocol_frame frame;
    while (next_frame(vm, &wait, &frame)) {
        if (frame.type == PROTOCOL_HELLO_ACK && protocol_decode_hello_ack(&frame, ret_ack) &&
            memcmp(ret_ack->nonce, hello->nonce, sizeof(hello->nonce)) == 0) {
            return true;
        }
    }
    return false;
}

bool backend_vm_hello(struct backend_vm *vm, uint32_t timeout_ms,
                      struct protocol_hello_ack *ret_ack) {
    struct protocol_hello hello;
    assert_int_equal(host_random(vm->host, hello.nonce, sizeof(hello.nonce), NULL), KELPIE_OK);
    uint64_t deadline_ns = host_wait_ms(vm->host, timeout_ms, HOST_FD_NONE).deadline_ns;
    while (host_monotonic_ns(vm->host) < deadline_ns && !backend_vm_ended(vm, 0)) {
        uint8_t bytes[256];
        struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
        protocol_encode_hello(&writer, &hello);
        assert_false(writer.failed);
        if (!send_bytes(vm, bytes, writer.size)) {
            return false;
        }
        if (await_hello_ack(vm, &hello, ret_ack)) {
            return true;
        }
    }
    return false;
}

bool backend_vm_ping(struct backend_vm *vm, uint32_t timeout_ms) {
    uint8_t bytes[64];
    struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
    const struct protocol_ping ping = {.token = ++vm->ping_token};
    protocol_encode_ping(&writer, PROTOCOL_PING, &ping);
    assert_false(writer.failed);
    if (!send_bytes(vm, bytes, writer.size)) {
        return false;
    }
    const struct host_wait wait = host_wait_ms(vm->host, timeout_ms, HOST_FD_NONE);
    struct protocol_frame frame;
    struct protocol_ping pong = {0};
    while (next_frame(vm, &wait, &frame)) {
        if (frame.type == PROTOCOL_PONG && protocol_decode_ping(&frame, &pong) &&
            pong.token == ping.token) {
            return true;
        }
    }
    return false;
}

void backend_vm_power_off(struct backend_vm *vm) {
    uint8_t bytes[64];
    struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
    protocol_encode_empty(&writer, PROTOCOL_POWER_OFF, 0);
    assert_false(writer.failed);
    assert_true(send_bytes(vm, bytes, writer.size));
}

/* ---- Operations ------------------------------------------------------------------------------- */

void backend_vm_pause(struct backend_vm *vm) {
    const struct host_wait wait = host_wait_ms(vm->host, OPERATION_MS, HOST_FD_NONE);
    assert_int_equal(vm->ops->pause(vm->instance, &wait, NULL), KELPIE_OK);
}

void backend_vm_resume(struct backend_vm *vm) {
    const struct host_wait wait = host_wait_ms(vm->host, OPERATION_MS, HOST_FD_NONE);
    assert_int_equal(vm->ops->resume(vm->instance, &wait, NULL), KELPIE_OK);
}

enum kelpie_status backend_vm_save(struct backend_vm *vm, const char *directory,
                                   enum kelpie_snapshot_kind kind, struct kelpie_error *err) {
    const struct host_wait wait = host_wait_ms(vm->host, OPERATION_MS, HOST_FD_NONE);
    struct snapshot_writer *writer = NULL;
    TRY(snapshot_writer_create(vm->host, directory, 0, &writer, err));
    struct snapshot_manifest *manifest = snapshot_writer_manifest(writer);
    manifest->info.kind = kind;
    manifest->info.created_unix_ms = 1;
    snprintf(manifest->info.backend, sizeof(manifest->info.backend), "%s", vm->ops->name);
    snprintf(manifest->vm_id, sizeof(manifest->vm_id), "%s", vm->launch.id);
    snprintf(manifest->vm_name, sizeof(manifest->vm_name), "%s", vm->config.name);
    snprintf(manifest->hostname, sizeof(manifest->hostname), "%s", vm->config.hostname);
    snprintf(manifest->working_dir, sizeof(manifest->working_dir), "%s", vm->config.working_dir);
    enum kelpie_status status = vm->ops->save(vm->instance, kind, writer, &wait, err);
    struct kelpie_snapshot snapshot;
    if (status == KELPIE_OK) {
        status = snapshot_writer_publish(writer, &wait, &snapshot, err);
    }
    snapshot_writer_destroy(writer);
    return status;
}

enum kelpie_status backend_vm_load(struct backend_vm *vm, const char *directory,
                                   struct kelpie_error *err) {
    const struct host_wait wait = host_wait_ms(vm->host, OPERATION_MS, HOST_FD_NONE);
    struct snapshot_reader *reader = NULL;
    TRY(snapshot_reader_open(vm->host, directory, &reader, err));
    connect_again(vm);
    enum kelpie_status status = vm->ops->load(vm->instance, reader, &wait, err);
    snapshot_reader_close(reader);
    return status;
}

bool backend_vm_ended(struct backend_vm *vm, uint32_t timeout_ms) {
    struct host_poll_item item = {.fd = vm->ops->exit_fd(vm->instance), .asked = HOST_POLL_READ};
    const struct host_wait wait = host_wait_ms(vm->host, timeout_ms, HOST_FD_NONE);
    assert_int_not_equal(item.fd, HOST_FD_NONE);
    return host_poll(vm->host, &item, 1, &wait, NULL) == KELPIE_OK;
}

void backend_vm_stop(struct backend_vm *vm, uint32_t timeout_ms) {
    const struct host_wait wait = host_wait_ms(vm->host, timeout_ms, HOST_FD_NONE);
    assert_int_equal(vm->ops->stop(vm->instance, &wait, NULL), KELPIE_OK);
}

void backend_vm_destroy(struct backend_vm *vm) {
    if (vm->instance) {
        vm->ops->destroy(vm->instance);
        vm->instance = NULL;
    }
}
