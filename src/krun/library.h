/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * library.h: libkrun and libkrunfw, found and looked through. libkrun (https://github.com/libkrun/libkrun) is a monitor as a
 * shared library, libkrunfw the kernel that it boots. Neither is known when this is built: both are loaded here, and each
 * function is asked for by its name. So which version it is shows in what it has:
 *
 *   1.x  contexts by number, set up by krun_set_…(); krun_start_enter() takes the process over. From 1.17 on, since only
 *        these can be told to give the guest no vsock: an older one lets a guest without a network use this host's.
 *   2.x  objects, put together and handed to krun_vmm_run(); a handle of the running machine pauses it.
 *
 * The declarations are ours, after include/libkrun.h of 1.19 and of the builder's API of 2.0.
 *
 * Ownership: what is loaded stays so, for the life of the process.
 */
#ifndef KELPIE_KRUN_LIBRARY_H
#define KELPIE_KRUN_LIBRARY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kelpie.h"
#include "krun/control.h"
#include "krun/krun_limits.h"

#define KRUN_DISK_FORMAT_RAW 0
#define KRUN_KERNEL_FORMAT_ELF 1
#define KRUN_LOG_LEVEL_WARN 2
#define KRUN_LOG_STYLE_NEVER 2
#define KRUN_LOG_OPTION_NO_ENV 1

/* libkrun 1.x: 0 or more, or a negative errno. */
struct krun_functions_1 {
    int32_t (*create_ctx)(void);
    int32_t (*free_ctx)(uint32_t context);
    int32_t (*set_vm_config)(uint32_t context, uint8_t vcpu_count, uint32_t memory_mib);
    int32_t (*add_disk2)(uint32_t context, const char *id, const char *path, uint32_t format,
                         bool read_only);
    int32_t (*set_kernel)(uint32_t context, const char *path, uint32_t format,
                          const char *initramfs, const char *command_line);
    int32_t (*disable_implicit_console)(uint32_t context);
    int32_t (*disable_implicit_vsock)(uint32_t context);
    int32_t (*add_virtio_console_multiport)(uint32_t context);
    int32_t (*add_console_port_tty)(uint32_t context, uint32_t console, const char *name, int fd);
    int32_t (*add_console_port_inout)(uint32_t context, uint32_t console, const char *name,
                                      int input_fd, int output_fd);
    int32_t (*start_enter)(uint32_t context);
    int32_t (*init_log)(int fd, uint32_t level, uint32_t style, uint32_t options);
    /* It was built with NET=1, or it has none of them. */
    int32_t (*add_net_unixstream)(uint32_t context, const char *path, int fd, const uint8_t *mac,
                                  uint32_t features, uint32_t flags);
    int32_t (*add_net_tap)(uint32_t context, const char *name, const uint8_t *mac,
                           uint32_t features, uint32_t flags);
};

/* libkrun 2.x: strings (and bytes) with their size, objects, and an error to be filled. */
struct krun_text {
    const char *data;
    size_t size;
};
typedef void *krun_object;
typedef void *krun_error;

/* What an error's message is written to. */
struct krun_sink_calls {
    void (*drop)(void *self);
    bool (*push)(void *self, struct krun_text text);
};
struct krun_sink {
    uint32_t type_tag;
    uint32_t metadata;
    const struct krun_sink_calls *calls;
    const void *self;
    uint16_t calls_size;
};
#define KRUN_SINK_TYPE_TAG 16777228u

struct krun_functions_2 {
    uint64_t (*init_log)(int fd, uint32_t level, uint32_t style, uint32_t options, krun_error *err);
    krun_object (*payload_load_krunfw)(krun_error *err);
    void (*payload_append_cmdline)(krun_object payload, struct krun_text text);
    krun_object (*mmio_device_manager_new)(void);
    void (*mmio_device_manager_add)(krun_object devices, krun_object device);
    krun_object (*console_device_builder)(void);
    uint64_t (*console_builder_add_tty_port)(krun_object builder, struct krun_text name, int fd,
                                             uint32_t *ret_port, krun_error *err);
    uint64_t (*console_builder_add_inout_port)(krun_object builder, struct krun_text name,
                                               int input_fd, int output_fd, uint32_t *ret_port,
                                               krun_error *err);
    krun_object (*console_builder_build)(krun_object builder, krun_error *err);
    krun_object (*block_device_new)(struct krun_text id, struct krun_text path, uint32_t format,
                                    krun_error *err);
    void (*block_device_set_read_only)(krun_object device, bool read_only);
    krun_object (*rng_device_new)(krun_error *err);
    krun_object (*vmm_builder_new)(void);
    uint64_t (*vmm_builder_vcpus)(krun_object *builder, uint8_t count, krun_error *err);
    uint64_t (*vmm_builder_ram_mib)(krun_object *builder, uint32_t memory_mib, krun_error *err);
    void (*vmm_builder_payload)(krun_object *builder, krun_object payload);
    void (*vmm_builder_devices)(krun_object *builder, krun_object devices);
    krun_object (*vmm_builder_build)(krun_object *builder, krun_error *err);
    void (*vmm_run)(krun_object vmm);
    void (*error_message)(krun_error error, const struct krun_sink *sink);
    void (*error_destroy)(krun_error error);
    /* Where it was built with networks. */
    krun_object (*net_device_new_unixstream_fd)(struct krun_text id, int fd, struct krun_text mac,
                                                uint32_t features, uint32_t flags, krun_error *err);
    /* All or none: whether it can pause. */
    krun_object (*vmm_handle)(krun_object vmm, krun_error *err);
    uint64_t (*vmm_handle_pause)(krun_object handle, krun_error *err);
    uint64_t (*vmm_handle_resume)(krun_object handle, krun_error *err);
};

struct krun_library {
    unsigned abi;                            /* 1 or 2: which of the two below */
    uint32_t can;                            /* bits of enum krun_can */
    char version[KRUN_VERSION_SIZE_MAX + 1]; /* of its file's name, else what its functions show */
    char path[KELPIE_PATH_SIZE_MAX + 1];     /* as the system found it */
    char kernel_path[KELPIE_PATH_SIZE_MAX + 1];
    union {
        struct krun_functions_1 v1;
        struct krun_functions_2 v2;
    };
    char *(*get_kernel)(uint64_t *ret_load, uint64_t *ret_entry, size_t *ret_size);
};

/* library, kernel: paths or sonames; empty: those that there are. BACKEND_MISSING: there is none, it is another version, or
 * it was built without what is needed. */
KELPIE_CHECKED enum kelpie_status krun_library_load(struct krun_library *library, const char *path,
                                                    const char *kernel_path,
                                                    struct kelpie_error *err);

/* The version in a file's name: "1.19.0" of "…/libkrun.so.1.19.0". False: there is none, such as in "libkrun.so". Pure. */
bool krun_version_parse(const char *path, char *ret_version, size_t size);

#endif
