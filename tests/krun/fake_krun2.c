/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* libkrun 2's functions. FAKE_OLD: without a handle that pauses, and without networks. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fake.h"
#include "krun/library.h"

static struct fake_machine machine;
static char device; /* of which every object is the address */

/* Errors are their messages. */
static krun_error refusal(const char *name) {
    char text[128];
    snprintf(text, sizeof(text), "the fake refuses %s", name);
    return strdup(text);
}

static uint64_t answer(bool ok, const char *name, krun_error *err) {
    *err = ok || fake_has("mute") ? NULL : refusal(name);
    return ok ? 0 : 22;
}

static krun_object make(bool ok, const char *name, krun_error *err) {
    return answer(ok, name, err) == 0 ? &device : NULL;
}

FAKE_API void krun_error_message(krun_error error, const struct krun_sink *sink);
void krun_error_message(krun_error error, const struct krun_sink *sink) {
    const char *text = error;
    void *self = NULL;
    memcpy(&self, &sink->self, sizeof(self));
    if (sink->type_tag != KRUN_SINK_TYPE_TAG || sink->calls_size != sizeof(*sink->calls)) {
        abort();
    }
    sink->calls->push(self, (struct krun_text){.data = text, .size = 4});
    sink->calls->push(self, (struct krun_text){.data = text + 4, .size = strlen(text + 4)});
}

FAKE_API void krun_error_destroy(krun_error error);
void krun_error_destroy(krun_error error) {
    free(error);
}

FAKE_API uint64_t krun_init_log(int fd, uint32_t level, uint32_t style, uint32_t options,
                                krun_error *err);
uint64_t krun_init_log(int fd, uint32_t level, uint32_t style, uint32_t options, krun_error *err) {
    return answer(fake_call("init_log", "%d %u %u %u", fd, level, style, options), "init_log", err);
}

FAKE_API krun_object krun_payload_load_krunfw(krun_error *err);
krun_object krun_payload_load_krunfw(krun_error *err) {
    return make(fake_call("payload_load_krunfw", "%s", ""), "payload_load_krunfw", err);
}

FAKE_API void krun_payload_append_cmdline(krun_object payload, struct krun_text text);
void krun_payload_append_cmdline(krun_object payload, struct krun_text text) {
    (void)payload;
    (void)fake_call("payload_append_cmdline", "%.*s", (int)text.size, text.data);
}

FAKE_API krun_object krun_mmio_device_manager_new(void);
krun_object krun_mmio_device_manager_new(void) {
    return fake_call("mmio_device_manager_new", "%s", "") ? &device : NULL;
}

FAKE_API void krun_mmio_device_manager_add(krun_object devices, krun_object added);
void krun_mmio_device_manager_add(krun_object devices, krun_object added) {
    (void)devices;
    (void)added;
    (void)fake_call("mmio_device_manager_add", "%s", "");
}

FAKE_API krun_object krun_console_device_builder(void);
krun_object krun_console_device_builder(void) {
    return fake_call("console_device_builder", "%s", "") ? &device : NULL;
}

FAKE_API uint64_t krun_console_builder_add_tty_port(krun_object builder, struct krun_text name,
                                                    int fd, uint32_t *ret_port, krun_error *err);
uint64_t krun_console_builder_add_tty_port(krun_object builder, struct krun_text name, int fd,
                                           uint32_t *ret_port, krun_error *err) {
    (void)builder;
    machine.console_fd = fd;
    *ret_port = 0;
    return answer(fake_call("console_builder_add_tty_port", "%.*s", (int)name.size, name.data) &&
                      isatty(fd) == 1,
                  "console_builder_add_tty_port", err);
}

FAKE_API uint64_t krun_console_builder_add_inout_port(krun_object builder, struct krun_text name,
                                                      int input_fd, int output_fd,
                                                      uint32_t *ret_port, krun_error *err);
uint64_t krun_console_builder_add_inout_port(krun_object builder, struct krun_text name,
                                             int input_fd, int output_fd, uint32_t *ret_port,
                                             krun_error *err) {
    (void)builder;
    machine.channel_fd = input_fd;
    *ret_port = 1;
    return answer(fake_call("console_builder_add_inout_port", "%.*s %d %d", (int)name.size,
                            name.data, input_fd, output_fd),
                  "console_builder_add_inout_port", err);
}

FAKE_API krun_object krun_console_builder_build(krun_object builder, krun_error *err);
krun_object krun_console_builder_build(krun_object builder, krun_error *err) {
    (void)builder;
    return make(fake_call("console_builder_build", "%s", ""), "console_builder_build", err);
}

FAKE_API krun_object krun_block_device_new(struct krun_text id, struct krun_text path,
                                           uint32_t format, krun_error *err);
krun_object krun_block_device_new(struct krun_text id, struct krun_text path, uint32_t format,
                                  krun_error *err) {
    char file[64];
    snprintf(file, sizeof(file), "%.*s", (int)path.size, path.data);
    return make(fake_call("block_device_new", "%.*s %u", (int)id.size, id.data, format) &&
                    access(file, R_OK) == 0,
                "block_device_new", err);
}

FAKE_API void krun_block_device_set_read_only(krun_object disk, bool read_only);
void krun_block_device_set_read_only(krun_object disk, bool read_only) {
    (void)disk;
    (void)fake_call("block_device_set_read_only", "%s", read_only ? "read-only" : "writable");
}

FAKE_API krun_object krun_rng_device_new(krun_error *err);
krun_object krun_rng_device_new(krun_error *err) {
    return make(fake_call("rng_device_new", "%s", ""), "rng_device_new", err);
}

FAKE_API krun_object krun_vmm_builder_new(void);
krun_object krun_vmm_builder_new(void) {
    return fake_call("vmm_builder_new", "%s", "") ? &device : NULL;
}

FAKE_API uint64_t krun_vmm_builder_vcpus(krun_object *builder, uint8_t count, krun_error *err);
uint64_t krun_vmm_builder_vcpus(krun_object *builder, uint8_t count, krun_error *err) {
    (void)builder;
    return answer(fake_call("vmm_builder_vcpus", "%u", count), "vmm_builder_vcpus", err);
}

FAKE_API uint64_t krun_vmm_builder_ram_mib(krun_object *builder, uint32_t memory_mib,
                                           krun_error *err);
uint64_t krun_vmm_builder_ram_mib(krun_object *builder, uint32_t memory_mib, krun_error *err) {
    (void)builder;
    machine.memory_mib = memory_mib;
    return answer(fake_call("vmm_builder_ram_mib", "%u", memory_mib), "vmm_builder_ram_mib", err);
}

FAKE_API void krun_vmm_builder_payload(krun_object *builder, krun_object payload);
void krun_vmm_builder_payload(krun_object *builder, krun_object payload) {
    (void)builder;
    (void)payload;
}

FAKE_API void krun_vmm_builder_devices(krun_object *builder, krun_object devices);
void krun_vmm_builder_devices(krun_object *builder, krun_object devices) {
    (void)builder;
    (void)devices;
}

FAKE_API krun_object krun_vmm_builder_build(krun_object *builder, krun_error *err);
krun_object krun_vmm_builder_build(krun_object *builder, krun_error *err) {
    *builder = NULL;
    return make(fake_call("vmm_builder_build", "%s", ""), "vmm_builder_build", err);
}

FAKE_API void krun_vmm_run(krun_object vmm);
void krun_vmm_run(krun_object vmm) {
    (void)vmm;
    (void)fake_call("vmm_run", "%s", "");
    int code = fake_has("enter-return") ? 0 : fake_run(&machine);
    if (code != 0) {
        _exit(code);
    }
}

#ifndef FAKE_OLD
FAKE_API krun_object krun_net_device_new_unixstream_fd(struct krun_text id, int fd,
                                                       struct krun_text mac, uint32_t features,
                                                       uint32_t flags, krun_error *err);
krun_object krun_net_device_new_unixstream_fd(struct krun_text id, int fd, struct krun_text mac,
                                              uint32_t features, uint32_t flags, krun_error *err) {
    bool there = fcntl(fd, F_GETFD) >= 0 && mac.size == 6;
    return make(fake_call("net_device_new_unixstream_fd", "%.*s %d %u %u", (int)id.size, id.data,
                          fd, features, flags) &&
                    there,
                "net_device_new_unixstream_fd", err);
}

FAKE_API krun_object krun_vmm_handle(krun_object vmm, krun_error *err);
krun_object krun_vmm_handle(krun_object vmm, krun_error *err) {
    (void)vmm;
    return make(fake_call("vmm_handle", "%s", ""), "vmm_handle", err);
}

static uint64_t set_paused(bool paused, const char *name, krun_error *err) {
    if (fake_has("slow-pause")) {
        usleep(PAUSE_SLOW_MS * 1000);
    }
    bool ok = fake_call(name, "%s", "");
    if (ok) {
        __atomic_store_n(&machine.paused, paused, __ATOMIC_RELEASE);
    }
    return answer(ok, name, err);
}

FAKE_API uint64_t krun_vmm_handle_pause(krun_object handle, krun_error *err);
uint64_t krun_vmm_handle_pause(krun_object handle, krun_error *err) {
    (void)handle;
    return set_paused(true, "vmm_handle_pause", err);
}

FAKE_API uint64_t krun_vmm_handle_resume(krun_object handle, krun_error *err);
uint64_t krun_vmm_handle_resume(krun_object handle, krun_error *err) {
    (void)handle;
    return set_paused(false, "vmm_handle_resume", err);
}
#endif
