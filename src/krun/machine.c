/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "krun/machine.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/error.h"
#include "krun/kernel.h"

#define PATH_SIZE 32
#define ID_SIZE 16

static void fd_path(int fd, char path[PATH_SIZE]) {
    ASSERT(fd >= 0);
    int size = snprintf(path, PATH_SIZE, "/proc/self/fd/%d", fd);
    ASSERT(size > 0 && size < PATH_SIZE);
}

/* The disks, and behind them the boot disk, which nobody writes to. */
struct disk {
    char id[ID_SIZE];
    char path[PATH_SIZE];
    bool read_only;
};

static struct disk disk_of(const struct krun_order *order, size_t index) {
    struct disk disk = {.read_only = true};
    ASSERT(order->disk_count <= KELPIE_DISK_COUNT_MAX);
    ASSERT(index <= order->disk_count);
    if (index == order->disk_count) {
        snprintf(disk.id, sizeof(disk.id), "boot");
        fd_path(KRUN_CHILD_MEDIUM, disk.path);
        return disk;
    }
    snprintf(disk.id, sizeof(disk.id), "disk-%zu", index);
    fd_path(KRUN_CHILD_DISK_0 + (int)index, disk.path);
    disk.read_only = order->read_only[index];
    return disk;
}

/* ---- libkrun 1 -------------------------------------------------------------------------------- */

static enum kelpie_status check_1(int32_t result, const char *name, struct kelpie_error *err) {
    ASSERT(name);
    ASSERT(name[0] != '\0');
    if (result >= 0) {
        return KELPIE_OK;
    }
    (void)error_set_os(err, -result, "libkrun's %s failed", name);
    return error_wrap(err, KELPIE_BOOT_FAILED, "the machine was not made");
}

static enum kelpie_status make_console_1(const struct krun_functions_1 *krun, uint32_t context,
                                         int terminal_fd, struct kelpie_error *err) {
    ASSERT(krun);
    ASSERT(terminal_fd > 0);
    TRY(check_1(krun->disable_implicit_console(context), "krun_disable_implicit_console", err));
    int32_t console = krun->add_virtio_console_multiport(context);
    TRY(check_1(console, "krun_add_virtio_console_multiport", err));
    TRY(check_1(krun->add_console_port_tty(context, (uint32_t)console, "", terminal_fd),
                "krun_add_console_port_tty", err));
    return check_1(krun->add_console_port_inout(context, (uint32_t)console, KRUN_CHANNEL_PORT,
                                                KRUN_CHILD_CHANNEL, KRUN_CHILD_CHANNEL),
                   "krun_add_console_port_inout", err);
}

/* No offloads: what crosses is whole frames with their checksums. A tap is opened by its name. */
static enum kelpie_status add_network_1(const struct krun_library *library, uint32_t context,
                                        const struct krun_order *order, struct kelpie_error *err) {
    ASSERT(library->abi == 1);
    ASSERT((unsigned)order->network < KRUN_NETWORK_COUNT);
    if (order->network == KRUN_NETWORK_NONE) {
        return KELPIE_OK;
    }
    bool tap = order->network == KRUN_NETWORK_TAP;
    const char *name = tap ? "krun_add_net_tap" : "krun_add_net_unixstream";
    if (!(library->can & (tap ? KRUN_CAN_TAP : KRUN_CAN_STREAM))) {
        return error_set(err, KELPIE_UNSUPPORTED, "this libkrun has no %s", name);
    }
    return check_1(
        tap ? library->v1.add_net_tap(context, order->tap, order->mac, 0, 0)
            : library->v1.add_net_unixstream(context, NULL, KRUN_CHILD_NETWORK, order->mac, 0, 0),
        name, err);
}

static enum kelpie_status make_1(struct krun_machine *machine, const struct krun_order *order,
                                 int terminal_fd, struct kelpie_error *err) {
    const struct krun_functions_1 *krun = &machine->library->v1;
    char path[PATH_SIZE];
    int kernel_fd = -1;
    ASSERT(machine->library->abi == 1);
    ASSERT(order->verb == KRUN_VERB_RUN);
    int32_t context = krun->create_ctx();
    TRY(check_1(context, "krun_create_ctx", err));
    machine->context = (uint32_t)context;
    TRY(check_1(
        krun->set_vm_config(machine->context, (uint8_t)order->vcpu_count, order->memory_mib),
        "krun_set_vm_config", err));
    TRY(check_1(krun->disable_implicit_vsock(machine->context), "krun_disable_implicit_vsock",
                err));
    TRY(krun_kernel_file(machine->library->get_kernel, &kernel_fd, err));
    fd_path(kernel_fd, path);
    TRY(check_1(
        krun->set_kernel(machine->context, path, KRUN_KERNEL_FORMAT_ELF, NULL, order->command_line),
        "krun_set_kernel", err));
    TRY(make_console_1(krun, machine->context, terminal_fd, err));
    for (size_t i = 0; i <= order->disk_count; i++) {
        const struct disk disk = disk_of(order, i);
        TRY(check_1(krun->add_disk2(machine->context, disk.id, disk.path, KRUN_DISK_FORMAT_RAW,
                                    disk.read_only),
                    "krun_add_disk2", err));
    }
    return add_network_1(machine->library, machine->context, order, err);
}

/* ---- libkrun 2 -------------------------------------------------------------------------------- */

static struct krun_text text_of(const char *text) {
    ASSERT(text);
    return (struct krun_text){.data = text, .size = strlen(text)};
}

struct words {
    size_t size;
    char text[KRUN_ERROR_TEXT_SIZE];
};

static bool push_words(void *self, struct krun_text text) {
    struct words *words = self;
    ASSERT(words->size < sizeof(words->text));
    ASSERT(text.data || text.size == 0);
    size_t room = sizeof(words->text) - 1 - words->size;
    size_t size = text.size < room ? text.size : room;
    memcpy(words->text + words->size, text.data, size);
    words->size += size;
    words->text[words->size] = '\0';
    return true;
}

/* What an error says; it is freed. */
static enum kelpie_status explain_2(const struct krun_functions_2 *krun, krun_error error,
                                    const char *name, enum kelpie_status status,
                                    struct kelpie_error *err) {
    static const struct krun_sink_calls calls = {.drop = NULL, .push = push_words};
    struct words words = {0};
    const struct krun_sink sink = {.type_tag = KRUN_SINK_TYPE_TAG,
                                   .calls = &calls,
                                   .self = &words,
                                   .calls_size = sizeof(calls)};
    ASSERT(name);
    ASSERT(status != KELPIE_OK);
    if (error) {
        krun->error_message(error, &sink);
        krun->error_destroy(error);
    }
    return error_set(err, status, "libkrun's %s failed: %s", name,
                     words.size > 0 ? words.text : "it does not say why");
}

static enum kelpie_status made_2(const struct krun_functions_2 *krun, krun_object object,
                                 krun_error error, const char *name, struct kelpie_error *err) {
    ASSERT(krun);
    ASSERT(name);
    return object && !error ? KELPIE_OK : explain_2(krun, error, name, KELPIE_BOOT_FAILED, err);
}

static enum kelpie_status done_2(const struct krun_functions_2 *krun, uint64_t result,
                                 krun_error error, const char *name, struct kelpie_error *err) {
    ASSERT(krun);
    ASSERT(name);
    return result == 0 && !error ? KELPIE_OK
                                 : explain_2(krun, error, name, KELPIE_BOOT_FAILED, err);
}

static enum kelpie_status add_console_2(const struct krun_functions_2 *krun, krun_object devices,
                                        int terminal_fd, struct kelpie_error *err) {
    krun_error error = NULL;
    uint32_t port = 0;
    ASSERT(devices);
    ASSERT(terminal_fd > 0);
    krun_object builder = krun->console_device_builder();
    TRY(made_2(krun, builder, NULL, "krun_console_device_builder", err));
    uint64_t result =
        krun->console_builder_add_tty_port(builder, text_of("console"), terminal_fd, &port, &error);
    TRY(done_2(krun, result, error, "krun_console_builder_add_tty_port", err));
    result = krun->console_builder_add_inout_port(
        builder, text_of(KRUN_CHANNEL_PORT), KRUN_CHILD_CHANNEL, KRUN_CHILD_CHANNEL, &port, &error);
    TRY(done_2(krun, result, error, "krun_console_builder_add_inout_port", err));
    krun_object console = krun->console_builder_build(builder, &error);
    TRY(made_2(krun, console, error, "krun_console_builder_build", err));
    krun->mmio_device_manager_add(devices, console);
    return KELPIE_OK;
}

static enum kelpie_status add_disks_2(const struct krun_functions_2 *krun, krun_object devices,
                                      const struct krun_order *order, struct kelpie_error *err) {
    ASSERT(devices);
    ASSERT(order->disk_count <= KELPIE_DISK_COUNT_MAX);
    for (size_t i = 0; i <= order->disk_count; i++) {
        const struct disk disk = disk_of(order, i);
        krun_error error = NULL;
        krun_object device = krun->block_device_new(text_of(disk.id), text_of(disk.path),
                                                    KRUN_DISK_FORMAT_RAW, &error);
        TRY(made_2(krun, device, error, "krun_block_device_new", err));
        krun->block_device_set_read_only(device, disk.read_only);
        krun->mmio_device_manager_add(devices, device);
    }
    return KELPIE_OK;
}

static enum kelpie_status add_network_2(const struct krun_library *library, krun_object devices,
                                        const struct krun_order *order, struct kelpie_error *err) {
    const struct krun_functions_2 *krun = &library->v2;
    krun_error error = NULL;
    ASSERT(library->abi == 2);
    ASSERT(devices);
    if (order->network == KRUN_NETWORK_NONE) {
        return KELPIE_OK;
    }
    if (order->network != KRUN_NETWORK_STREAM || !(library->can & KRUN_CAN_STREAM)) {
        return error_set(err, KELPIE_UNSUPPORTED, "this libkrun has no network of that kind");
    }
    const struct krun_text mac = {.data = (const char *)order->mac, .size = MAC_SIZE};
    krun_object device = krun->net_device_new_unixstream_fd(text_of("network"), KRUN_CHILD_NETWORK,
                                                            mac, 0, 0, &error);
    TRY(made_2(krun, device, error, "krun_net_device_new_unixstream_fd", err));
    krun->mmio_device_manager_add(devices, device);
    return KELPIE_OK;
}

static enum kelpie_status make_devices_2(const struct krun_library *library,
                                         const struct krun_order *order, int terminal_fd,
                                         krun_object *ret_devices, struct kelpie_error *err) {
    const struct krun_functions_2 *krun = &library->v2;
    krun_error error = NULL;
    ASSERT(library->abi == 2);
    ASSERT(ret_devices);
    krun_object devices = krun->mmio_device_manager_new();
    TRY(made_2(krun, devices, NULL, "krun_mmio_device_manager_new", err));
    TRY(add_console_2(krun, devices, terminal_fd, err));
    TRY(add_disks_2(krun, devices, order, err));
    TRY(add_network_2(library, devices, order, err));
    krun_object random = krun->rng_device_new(&error);
    TRY(made_2(krun, random, error, "krun_rng_device_new", err));
    krun->mmio_device_manager_add(devices, random);
    *ret_devices = devices;
    return KELPIE_OK;
}

static enum kelpie_status build_2(struct krun_machine *machine, krun_object *builder,
                                  struct kelpie_error *err) {
    const struct krun_functions_2 *krun = &machine->library->v2;
    krun_error error = NULL;
    ASSERT(!machine->vmm);
    ASSERT(*builder);
    machine->vmm = krun->vmm_builder_build(builder, &error);
    TRY(made_2(krun, machine->vmm, error, "krun_vmm_builder_build", err));
    if (machine->library->can & KRUN_CAN_PAUSE) {
        machine->handle = krun->vmm_handle(machine->vmm, &error);
        TRY(made_2(krun, machine->handle, error, "krun_vmm_handle", err));
    }
    return KELPIE_OK;
}

static enum kelpie_status make_2(struct krun_machine *machine, const struct krun_order *order,
                                 int terminal_fd, struct kelpie_error *err) {
    const struct krun_functions_2 *krun = &machine->library->v2;
    krun_error error = NULL;
    krun_object devices = NULL;
    ASSERT(machine->library->abi == 2);
    ASSERT(order->verb == KRUN_VERB_RUN);
    krun_object payload = krun->payload_load_krunfw(&error);
    TRY(made_2(krun, payload, error, "krun_payload_load_krunfw", err));
    krun->payload_append_cmdline(payload, text_of(order->command_line));
    TRY(make_devices_2(machine->library, order, terminal_fd, &devices, err));
    krun_object builder = krun->vmm_builder_new();
    TRY(made_2(krun, builder, NULL, "krun_vmm_builder_new", err));
    uint64_t result = krun->vmm_builder_vcpus(&builder, (uint8_t)order->vcpu_count, &error);
    TRY(done_2(krun, result, error, "krun_vmm_builder_vcpus", err));
    result = krun->vmm_builder_ram_mib(&builder, order->memory_mib, &error);
    TRY(done_2(krun, result, error, "krun_vmm_builder_ram_mib", err));
    krun->vmm_builder_payload(&builder, payload);
    krun->vmm_builder_devices(&builder, devices);
    return build_2(machine, &builder, err);
}

/* ---- Either ----------------------------------------------------------------------------------- */

void krun_machine_log(const struct krun_library *library) {
    ASSERT(library->abi == 1 || library->abi == 2);
    krun_error error = NULL;
    if (library->abi == 1) {
        (void)library->v1.init_log(STDERR_FILENO, KRUN_LOG_LEVEL_WARN, KRUN_LOG_STYLE_NEVER,
                                   KRUN_LOG_OPTION_NO_ENV);
        return;
    }
    (void)library->v2.init_log(STDERR_FILENO, KRUN_LOG_LEVEL_WARN, KRUN_LOG_STYLE_NEVER,
                               KRUN_LOG_OPTION_NO_ENV, &error);
    if (error) {
        library->v2.error_destroy(error); /* it says less, then */
    }
}

static enum kelpie_status try_1(const struct krun_functions_1 *krun, struct kelpie_error *err) {
    ASSERT(krun->create_ctx);
    ASSERT(krun->free_ctx);
    int32_t context = krun->create_ctx();
    TRY(check_1(context, "krun_create_ctx", err));
    return check_1(krun->free_ctx((uint32_t)context), "krun_free_ctx", err);
}

static enum kelpie_status try_2(const struct krun_functions_2 *krun, struct kelpie_error *err) {
    krun_error error = NULL;
    ASSERT(krun->payload_load_krunfw);
    krun_object payload = krun->payload_load_krunfw(&error);
    ASSERT(krun->error_destroy);
    return made_2(krun, payload, error, "krun_payload_load_krunfw", err);
}

enum kelpie_status krun_machine_try(const struct krun_library *library, struct kelpie_error *err) {
    ASSERT(library->get_kernel);
    ASSERT(library->abi == 1 || library->abi == 2);
    if (!krun_kernel_is_there(library->get_kernel)) {
        return error_set(err, KELPIE_BACKEND_MISSING, "%.512s has no kernel", library->kernel_path);
    }
    enum kelpie_status status =
        library->abi == 1 ? try_1(&library->v1, err) : try_2(&library->v2, err);
    return status == KELPIE_OK
               ? status
               : error_wrap(err, KELPIE_BACKEND_MISSING, "this libkrun does not work here");
}

enum kelpie_status krun_machine_make(struct krun_machine *machine,
                                     const struct krun_library *library,
                                     const struct krun_order *order, int terminal_fd,
                                     struct kelpie_error *err) {
    ASSERT(machine && library);
    ASSERT(order->command_line);
    *machine = (struct krun_machine){.library = library};
    return library->abi == 1 ? make_1(machine, order, terminal_fd, err)
                             : make_2(machine, order, terminal_fd, err);
}

enum kelpie_status krun_machine_enter(struct krun_machine *machine, struct kelpie_error *err) {
    const struct krun_library *library = machine->library;
    ASSERT(library);
    ASSERT(library->abi == 1 || machine->vmm);
    if (library->abi == 1) {
        int32_t result = library->v1.start_enter(machine->context);
        return result < 0 ? check_1(result, "krun_start_enter", err)
                          : error_set(err, KELPIE_BOOT_FAILED,
                                      "libkrun's krun_start_enter came back, with %d", result);
    }
    library->v2.vmm_run(machine->vmm);
    return KELPIE_OK;
}

enum kelpie_status krun_machine_pause(struct krun_machine *machine, bool pause,
                                      struct kelpie_error *err) {
    const struct krun_library *library = machine->library;
    krun_error error = NULL;
    ASSERT(library);
    ASSERT(library->abi == 2 || !machine->handle);
    if (!machine->handle) {
        return error_set(err, KELPIE_UNSUPPORTED, "this libkrun cannot pause");
    }
    const struct krun_functions_2 *krun = &library->v2;
    uint64_t result = pause ? krun->vmm_handle_pause(machine->handle, &error)
                            : krun->vmm_handle_resume(machine->handle, &error);
    if (result != 0 || error) {
        return explain_2(krun, error, pause ? "krun_vmm_handle_pause" : "krun_vmm_handle_resume",
                         KELPIE_UNSUPPORTED, err);
    }
    return KELPIE_OK;
}
