/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What the scripted Firecracker's orders do: files, sockets, the guest. */
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "sim/peer/firecracker.h"

#define STDOUT 1
#define MIB (1024u * 1024u)
#define FILE_MODE 0600u
#define REASON_SIZE (FIRECRACKER_FAULT_SIZE / 2)

static void machine_check(const struct firecracker_machine *machine) {
    ASSERT(machine->peer);
    ASSERT(machine->host == machine->peer->host);
    ASSERT(!machine->guest || machine->memory_bytes > 0);
}

void firecracker_machine_init(struct firecracker_machine *machine, const struct sim_peer *peer) {
    ASSERT(machine && peer);
    memset(machine, 0, sizeof(*machine));
    machine->peer = peer;
    machine->host = peer->host;
    machine->seen = mock_bytes_init(peer->host);
    machine->mapped = mock_bytes_init(peer->host);
    firecracker_vsock_init(&machine->vsock, peer->host);
    machine_check(machine);
}

void firecracker_machine_deinit(struct firecracker_machine *machine) {
    machine_check(machine);
    peer_guest_destroy(machine->guest);
    machine->guest = NULL;
    firecracker_vsock_deinit(&machine->vsock);
    mock_bytes_deinit(&machine->seen);
    mock_bytes_deinit(&machine->mapped);
    ASSERT(machine->seen.size == 0);
}

bool firecracker_machine_runs(const struct firecracker_machine *machine) {
    machine_check(machine);
    ASSERT(!machine->guest || machine->vsock.channel_fd != HOST_FD_NONE);
    return machine->guest && !peer_guest_is_paused(machine->guest);
}

/* ---- The guest -------------------------------------------------------------------------------- */

/* A guest without anything in it, on a channel of its own. */
static enum kelpie_status guest_create(struct firecracker_machine *machine,
                                       struct peer_guest **ret_guest, struct kelpie_error *err) {
    machine_check(machine);
    ASSERT(machine->memory_bytes > 0);
    TRY(firecracker_vsock_plug(&machine->vsock, err));
    const struct peer_guest_config config = {.peer = machine->peer,
                                             .link = PEER_GUEST_VSOCK,
                                             .channel_fd = machine->vsock.channel_fd,
                                             .console_fd = STDOUT,
                                             .memory_bytes = machine->memory_bytes};
    return peer_guest_create(&config, ret_guest, err);
}

static enum kelpie_status guest_start(struct firecracker_machine *machine,
                                      struct kelpie_error *err) {
    struct peer_guest *guest = NULL;
    machine_check(machine);
    ASSERT(!machine->guest);
    TRY(guest_create(machine, &guest, err));
    enum kelpie_status status = peer_guest_boot(guest, err);
    if (status != KELPIE_OK) {
        peer_guest_destroy(guest);
        return status;
    }
    machine->guest = guest;
    return KELPIE_OK;
}

/* A new guest of that image, which stands still, in the place of the one there is. */
static enum kelpie_status guest_replace(struct firecracker_machine *machine,
                                        const struct mock_bytes *image, struct kelpie_error *err) {
    struct peer_guest *guest = NULL;
    machine_check(machine);
    ASSERT(image->size > 0);
    peer_guest_destroy(machine->guest);
    machine->guest = NULL;
    TRY(guest_create(machine, &guest, err));
    enum kelpie_status status = peer_guest_load(guest, image->data, image->size, err);
    if (status != KELPIE_OK) {
        peer_guest_destroy(guest);
        return status;
    }
    machine->guest = guest;
    return KELPIE_OK;
}

enum kelpie_status firecracker_machine_replug(struct firecracker_machine *machine,
                                              struct kelpie_error *err) {
    machine_check(machine);
    ASSERT(machine->guest);
    if (!machine->vsock.changed) {
        return KELPIE_OK;
    }
    bool paused = peer_guest_is_paused(machine->guest);
    struct mock_bytes image = mock_bytes_init(machine->host);
    enum kelpie_status status = peer_guest_save(machine->guest, &image, err);
    if (status == KELPIE_OK) {
        status = guest_replace(machine, &image, err);
    }
    mock_bytes_deinit(&image);
    if (status == KELPIE_OK && !paused) {
        peer_guest_resume(machine->guest);
    }
    return status;
}

/* ---- Snapshots -------------------------------------------------------------------------------- */

static const char *text_of(const struct firecracker_order *order, const char *name) {
    ASSERT(order->body);
    ASSERT(name);
    return json_string_value(json_object_get(order->body, name));
}

static enum kelpie_status see(struct firecracker_machine *machine, const struct mock_bytes *image,
                              struct kelpie_error *err) {
    machine_check(machine);
    ASSERT(image != &machine->seen);
    mock_bytes_deinit(&machine->seen);
    machine->has_seen = mock_bytes_append(&machine->seen, image->data, image->size);
    return machine->has_seen ? KELPIE_OK
                             : error_set(err, KELPIE_NO_MEMORY, "there is no room for an image");
}

static enum kelpie_status write_files(struct firecracker_machine *machine,
                                      const struct firecracker_api *api,
                                      const struct firecracker_order *order,
                                      const struct mock_bytes *image, struct kelpie_error *err) {
    machine_check(machine);
    ASSERT(order->effect == FIRECRACKER_EFFECT_SAVE);
    const char *type = text_of(order, "snapshot_type");
    bool diff = type && strcmp(type, "Diff") == 0;
    const struct mock_bytes *seen = NULL;
    if (diff) {
        seen = machine->has_seen && firecracker_api_tracks(api) ? &machine->seen : &machine->mapped;
    }
    struct firecracker_saved saved = {.memory_bytes = machine->memory_bytes,
                                      .image_size = image->size,
                                      .image_checksum =
                                          firecracker_checksum(image->data, image->size),
                                      .config = firecracker_api_saved(api)};
    if (!saved.config) {
        return error_set(err, KELPIE_NO_MEMORY, "there is no room for a config");
    }
    enum kelpie_status status =
        firecracker_state_write(machine->host, text_of(order, "snapshot_path"), &saved, err);
    json_decref(saved.config);
    if (status == KELPIE_OK) {
        status = firecracker_memory_write(machine->host, text_of(order, "mem_file_path"),
                                          machine->memory_bytes, image, seen, err);
    }
    return status;
}

static enum kelpie_status save(struct firecracker_machine *machine,
                               const struct firecracker_api *api,
                               const struct firecracker_order *order, struct kelpie_error *err) {
    machine_check(machine);
    ASSERT(machine->guest && peer_guest_is_paused(machine->guest));
    struct mock_bytes image = mock_bytes_init(machine->host);
    enum kelpie_status status = peer_guest_save(machine->guest, &image, err);
    if (status == KELPIE_OK) {
        status = write_files(machine, api, order, &image, err);
    }
    if (status == KELPIE_OK) {
        status = see(machine, &image, err);
    }
    mock_bytes_deinit(&image);
    /* As Firecracker: a guest that was saved is told that its connections are gone, also where it goes on. */
    firecracker_vsock_reset(&machine->vsock);
    return status;
}

/* A drive that is read-only is opened so. */
static uint32_t drive_flags(const json_t *drive) {
    ASSERT(drive);
    ASSERT(json_is_object(drive));
    bool read_only = json_is_true(json_object_get(drive, "is_read_only"));
    return HOST_OPEN_READ | (read_only ? 0u : (uint32_t)HOST_OPEN_WRITE);
}

/* The devices that a restored config has, and then the guest. */
static enum kelpie_status revive(struct firecracker_machine *machine,
                                 const struct firecracker_api *api, const struct mock_bytes *image,
                                 struct kelpie_error *err) {
    machine_check(machine);
    ASSERT(!machine->guest);
    const char *path = firecracker_api_text(api, "vsock", "uds_path");
    if (path) {
        TRY(firecracker_vsock_listen(&machine->vsock, path, err));
    }
    json_t *drives = json_object_get(api->config, "drives");
    for (size_t i = 0; i < json_array_size(drives); i++) {
        const json_t *drive = json_array_get(drives, i);
        const char *file = json_string_value(json_object_get(drive, "path_on_host"));
        AUTO_FD struct host_fd fd = {machine->host, HOST_FD_NONE};
        if (file) {
            TRY(host_file_open(machine->host, file, drive_flags(drive), 0, &fd.fd, err));
        }
    }
    json_t *interfaces = json_object_get(api->config, "network-interfaces");
    for (size_t i = 0; i < json_array_size(interfaces); i++) {
        const char *tap =
            json_string_value(json_object_get(json_array_get(interfaces, i), "host_dev_name"));
        AUTO_FD struct host_fd fd = {machine->host, HOST_FD_NONE};
        if (tap) {
            TRY(host_tap_open(machine->host, tap, &fd.fd, err));
        }
    }
    TRY(see(machine, image, err));
    if (!mock_bytes_append(&machine->mapped, image->data, image->size)) {
        return error_set(err, KELPIE_NO_MEMORY, "there is no room for an image");
    }
    return guest_replace(machine, image, err);
}

static enum kelpie_status load_saved(struct firecracker_machine *machine,
                                     struct firecracker_api *api,
                                     const struct firecracker_order *order,
                                     const struct firecracker_saved *saved,
                                     struct kelpie_error *err) {
    machine_check(machine);
    ASSERT(order->effect == FIRECRACKER_EFFECT_LOAD);
    char fault[FIRECRACKER_FAULT_SIZE] = "";
    json_t *backend = json_object_get(order->body, "mem_backend");
    const char *path = backend ? json_string_value(json_object_get(backend, "backend_path"))
                               : text_of(order, "mem_file_path");
    const char *type = json_string_value(json_object_get(backend, "backend_type"));
    if (type && strcmp(type, "File") != 0) {
        return error_set(err, KELPIE_UNSUPPORTED, "a Uffd memory backend is not simulated");
    }
    /* A KVM that knows no real time of its clock is a member of the state that a test may put there. */
    if (json_is_true(json_object_get(order->body, "clock_realtime")) &&
        json_is_false(json_object_get(saved->config, FIRECRACKER_CLOCK_MEMBER))) {
        return error_set(err, KELPIE_SNAPSHOT_CORRUPT,
                         "clock_realtime requested but not present in the snapshot state");
    }
    if (!firecracker_api_restore(api, order, saved->config, fault)) {
        return error_set(err, KELPIE_SNAPSHOT_CORRUPT, "%s", fault);
    }
    machine->memory_bytes = firecracker_api_memory_mib(api) * MIB;
    if (machine->memory_bytes != saved->memory_bytes) {
        return error_set(err, KELPIE_SNAPSHOT_CORRUPT, "the state file has two memory sizes");
    }
    struct mock_bytes image = mock_bytes_init(machine->host);
    enum kelpie_status status = firecracker_memory_read(machine->host, path, saved, &image, err);
    if (status == KELPIE_OK && image.size == 0) {
        status = error_set(err, KELPIE_SNAPSHOT_CORRUPT, "there is no guest in the memory file");
    }
    if (status == KELPIE_OK) {
        status = revive(machine, api, &image, err);
    }
    mock_bytes_deinit(&image);
    if (status == KELPIE_OK && json_is_true(json_object_get(order->body, "resume_vm"))) {
        peer_guest_resume(machine->guest);
    }
    return status;
}

static enum kelpie_status load(struct firecracker_machine *machine, struct firecracker_api *api,
                               const struct firecracker_order *order, struct kelpie_error *err) {
    machine_check(machine);
    ASSERT(!machine->guest);
    struct firecracker_saved saved = {0};
    enum kelpie_status status =
        firecracker_state_read(machine->host, text_of(order, "snapshot_path"), &saved, err);
    if (status == KELPIE_OK) {
        status = load_saved(machine, api, order, &saved, err);
    }
    json_decref(saved.config);
    if (status != KELPIE_OK) {
        machine->ends = true;
        machine->exit_code = 1;
    }
    return status;
}

/* ---- Orders ----------------------------------------------------------------------------------- */

/* The file can be opened; whether it is used later does not matter here. */
static enum kelpie_status open_once(struct firecracker_machine *machine, const char *path,
                                    uint32_t flags, struct kelpie_error *err) {
    machine_check(machine);
    ASSERT(flags != 0);
    AUTO_FD struct host_fd fd = {machine->host, HOST_FD_NONE};
    if (!path) {
        return KELPIE_OK;
    }
    if (path[0] == '\0') {
        return error_set_os(err, 2, "No such file");
    }
    return host_file_open(machine->host, path, flags, FILE_MODE, &fd.fd, err);
}

static enum kelpie_status start(struct firecracker_machine *machine,
                                const struct firecracker_api *api, struct kelpie_error *err) {
    machine_check(machine);
    ASSERT(!machine->guest);
    machine->memory_bytes = firecracker_api_memory_mib(api) * MIB;
    return guest_start(machine, err);
}

static enum kelpie_status obey(struct firecracker_machine *machine, struct firecracker_api *api,
                               const struct firecracker_order *order, struct kelpie_error *err) {
    const uint32_t log_flags = HOST_OPEN_WRITE | HOST_OPEN_CREATE;
    machine_check(machine);
    ASSERT(order->body);
    switch (order->effect) {
    case FIRECRACKER_EFFECT_NONE:
        return KELPIE_OK;
    case FIRECRACKER_EFFECT_KERNEL:
        TRY(open_once(machine, text_of(order, "kernel_image_path"), HOST_OPEN_READ, err));
        return open_once(machine, text_of(order, "initrd_path"), HOST_OPEN_READ, err);
    case FIRECRACKER_EFFECT_DRIVE:
        return open_once(machine, text_of(order, "path_on_host"), drive_flags(order->body), err);
    case FIRECRACKER_EFFECT_INTERFACE: {
        AUTO_FD struct host_fd fd = {machine->host, HOST_FD_NONE};
        return host_tap_open(machine->host, text_of(order, "host_dev_name"), &fd.fd, err);
    }
    case FIRECRACKER_EFFECT_VSOCK:
        return firecracker_vsock_listen(&machine->vsock, text_of(order, "uds_path"), err);
    case FIRECRACKER_EFFECT_LOG:
        TRY(open_once(machine, text_of(order, "metrics_path"), log_flags, err));
        return open_once(machine, text_of(order, "log_path"), log_flags, err);
    case FIRECRACKER_EFFECT_SERIAL:
        return text_of(order, "serial_out_path")
                   ? error_set(err, KELPIE_UNSUPPORTED, "serial_out_path is not simulated")
                   : KELPIE_OK;
    case FIRECRACKER_EFFECT_START:
        return start(machine, api, err);
    case FIRECRACKER_EFFECT_PAUSE:
        peer_guest_pause(machine->guest);
        return KELPIE_OK;
    case FIRECRACKER_EFFECT_RESUME:
        peer_guest_resume(machine->guest);
        return KELPIE_OK;
    case FIRECRACKER_EFFECT_SAVE:
        return save(machine, api, order, err);
    case FIRECRACKER_EFFECT_LOAD:
        return load(machine, api, order, err);
    case FIRECRACKER_EFFECT_CTRL_ALT_DEL:
        machine->ends = true;
        return KELPIE_OK;
    }
    UNREACHABLE();
}

const char *firecracker_machine_obey(struct firecracker_machine *machine,
                                     struct firecracker_api *api,
                                     const struct firecracker_order *order,
                                     char fault[FIRECRACKER_FAULT_SIZE]) {
    static const char *const prefixes[] = {
        [FIRECRACKER_EFFECT_NONE] = "",
        [FIRECRACKER_EFFECT_KERNEL] = "Boot source error: The kernel file cannot be opened: ",
        [FIRECRACKER_EFFECT_DRIVE] =
            "Drive config error: Unable to create the virtio block device: ",
        [FIRECRACKER_EFFECT_INTERFACE] = "Network config error: Cannot open/create the tap: ",
        [FIRECRACKER_EFFECT_VSOCK] = "Vsock config error: Cannot create backend for vsock device: ",
        [FIRECRACKER_EFFECT_LOG] = "Logger error: Failed to open target file: ",
        [FIRECRACKER_EFFECT_SERIAL] = "Serial device error: ",
        [FIRECRACKER_EFFECT_START] = "Start microvm error: ",
        [FIRECRACKER_EFFECT_PAUSE] = "",
        [FIRECRACKER_EFFECT_RESUME] = "",
        [FIRECRACKER_EFFECT_SAVE] = "Create snapshot error: ",
        [FIRECRACKER_EFFECT_LOAD] = "Load snapshot error: Failed to restore from snapshot: ",
        [FIRECRACKER_EFFECT_CTRL_ALT_DEL] = "",
    };
    struct kelpie_error err = {0};
    ASSERT(order->effect < ARRAY_SIZE(prefixes));
    ASSERT(fault);
    if (obey(machine, api, order, &err) == KELPIE_OK) {
        return NULL;
    }
    snprintf(fault, FIRECRACKER_FAULT_SIZE, "%s%.*s", prefixes[order->effect], REASON_SIZE,
             err.message);
    return fault;
}
