/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The scripted monitor's orders, done honestly. */
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"
#include "sim/peer/vmm.h"

#define STATE_MAGIC 0x45544154534d4d56ull /* "VMMSTATE" */
#define STATE_SIZE 40

static void vmm_check(const struct peer_vmm *vmm) {
    ASSERT(vmm->peer);
    ASSERT(vmm->host == vmm->peer->host);
    ASSERT(!vmm->guest || vmm->memory.size > 0);
}

/* ---- Files ------------------------------------------------------------------------------------ */

void peer_vmm_files_init(struct peer_vmm_files *files, struct host *host) {
    ASSERT(files);
    ASSERT(host);
    files->host = host;
    for (size_t i = 0; i < CONTROL_ROLE_COUNT; i++) {
        files->fds[i] = HOST_FD_NONE;
    }
}

void peer_vmm_files_close(struct peer_vmm_files *files) {
    ASSERT(files);
    ASSERT(files->host);
    for (size_t i = 0; i < CONTROL_ROLE_COUNT; i++) {
        host_close(files->host, files->fds[i]);
        files->fds[i] = HOST_FD_NONE;
    }
}

int peer_vmm_files_take(struct peer_vmm_files *files, enum control_role role) {
    ASSERT(files);
    ASSERT((unsigned)role < CONTROL_ROLE_COUNT);
    int fd = files->fds[role];
    files->fds[role] = HOST_FD_NONE;
    return fd;
}

enum kelpie_status peer_vmm_files_check(const struct peer_vmm_files *files, enum control_role role,
                                        struct kelpie_error *err) {
    ASSERT(files);
    ASSERT((unsigned)role < CONTROL_ROLE_COUNT);
    if (files->fds[role] == HOST_FD_NONE) {
        return error_set(err, KELPIE_INTERNAL, "there is no descriptor for the machine's %s",
                         control_role_name(role));
    }
    return KELPIE_OK;
}

static void keep(struct peer_vmm *vmm, enum control_role role) {
    vmm_check(vmm);
    ASSERT((unsigned)role < CONTROL_ROLE_COUNT);
    if (vmm->files.fds[role] != HOST_FD_NONE) {
        host_close(vmm->host, vmm->kept_fds[role]);
        vmm->kept_fds[role] = peer_vmm_files_take(&vmm->files, role);
    }
}

/* Disks, network, boot disk: they are the machine's as long as it lives. */
static enum kelpie_status keep_devices(struct peer_vmm *vmm, struct kelpie_error *err) {
    vmm_check(vmm);
    struct peer_vmm_files *files = &vmm->files;
    const struct control_machine *config = &vmm->config;
    ASSERT(config->disk_count <= KELPIE_DISK_COUNT_MAX);
    for (size_t i = 0; i < config->disk_count; i++) {
        enum control_role overlay = control_role_of_disk(CONTROL_ROLE_OVERLAY_0, i);
        enum control_role bitmap = control_role_of_disk(CONTROL_ROLE_BITMAP_0, i);
        TRY(peer_vmm_files_check(files, control_role_of_disk(CONTROL_ROLE_DISK_0, i), err));
        if (files->fds[overlay] != HOST_FD_NONE || files->fds[bitmap] != HOST_FD_NONE) {
            TRY(peer_vmm_files_check(files, overlay, err));
            TRY(peer_vmm_files_check(files, bitmap, err));
        }
        keep(vmm, control_role_of_disk(CONTROL_ROLE_DISK_0, i));
        keep(vmm, overlay);
        keep(vmm, bitmap);
    }
    if (config->network != CONTROL_NETWORK_NONE) {
        TRY(peer_vmm_files_check(files, CONTROL_ROLE_NETWORK, err));
        keep(vmm, CONTROL_ROLE_NETWORK);
    }
    if (config->has_medium) {
        TRY(peer_vmm_files_check(files, CONTROL_ROLE_MEDIUM, err));
        keep(vmm, CONTROL_ROLE_MEDIUM);
    }
    return KELPIE_OK;
}

/* ---- Making a machine ------------------------------------------------------------------------- */

static enum kelpie_status check_image(struct peer_vmm *vmm, enum control_role role,
                                      struct kelpie_error *err) {
    vmm_check(vmm);
    ASSERT(role == CONTROL_ROLE_KERNEL || role == CONTROL_ROLE_INITRAMFS);
    struct host_file_info info = {0};
    TRY(peer_vmm_files_check(&vmm->files, role, err));
    TRY(host_file_stat(vmm->host, vmm->files.fds[role], &info, err));
    return info.size > 0
               ? KELPIE_OK
               : error_set(err, KELPIE_BOOT_FAILED, "the %s is empty", control_role_name(role));
}

static enum kelpie_status check_memory_file(struct peer_vmm *vmm, struct kelpie_error *err) {
    vmm_check(vmm);
    struct host_file_info info = {0};
    ASSERT(vmm->memory.size > 0);
    TRY(peer_vmm_files_check(&vmm->files, CONTROL_ROLE_MEMORY, err));
    TRY(host_file_stat(vmm->host, vmm->files.fds[CONTROL_ROLE_MEMORY], &info, err));
    return info.size == vmm->memory.size
               ? KELPIE_OK
               : error_set_field(err, KELPIE_SNAPSHOT_CORRUPT, "memory",
                                 "the memory's file has not the memory's size");
}

static enum kelpie_status create_guest(struct peer_vmm *vmm, struct peer_guest **ret_guest,
                                       struct kelpie_error *err) {
    vmm_check(vmm);
    ASSERT(!vmm->guest);
    const struct peer_guest_config config = {
        .peer = vmm->peer,
        .link = PEER_GUEST_VSOCK,
        .channel_fd = CONTROL_CHILD_CHANNEL,
        .console_fd = CONTROL_CHILD_CONSOLE,
        .memory_bytes = vmm->memory.size,
    };
    return peer_guest_create(&config, ret_guest, err);
}

static enum kelpie_status boot(struct peer_vmm *vmm, struct peer_guest *guest,
                               struct kelpie_error *err) {
    vmm_check(vmm);
    ASSERT(guest);
    TRY(check_memory_file(vmm, err));
    TRY(check_image(vmm, CONTROL_ROLE_KERNEL, err));
    if (!vmm->config.has_medium) {
        TRY(check_image(vmm, CONTROL_ROLE_INITRAMFS, err));
    }
    TRY(keep_devices(vmm, err));
    TRY(peer_guest_boot(guest, err));
    host_close(vmm->host, vmm->memory.shared_fd);
    vmm->memory.shared_fd = peer_vmm_files_take(&vmm->files, CONTROL_ROLE_MEMORY);
    return KELPIE_OK;
}

/* STATE: magic, the memory's size, the image's size and checksum, and a sum of these. */
static void state_encode(uint8_t bytes[STATE_SIZE], uint64_t memory_size,
                         const struct mock_bytes *image) {
    const uint64_t checksum = peer_guest_checksum(image->data, image->size);
    struct cursor_writer writer = cursor_writer_init(bytes, STATE_SIZE);
    ASSERT(memory_size > 0);
    cursor_write_u64(&writer, STATE_MAGIC);
    cursor_write_u64(&writer, memory_size);
    cursor_write_u64(&writer, image->size);
    cursor_write_u64(&writer, checksum);
    cursor_write_u64(&writer, STATE_MAGIC ^ memory_size ^ image->size ^ checksum);
    ASSERT(!writer.failed && writer.size == STATE_SIZE);
}

static enum kelpie_status corrupt(const char *field, const char *what, struct kelpie_error *err) {
    ASSERT(field);
    ASSERT(what);
    return error_set_field(err, KELPIE_SNAPSHOT_CORRUPT, field, "%s", what);
}

static enum kelpie_status state_read(struct peer_vmm *vmm, uint64_t *ret_image_size,
                                     uint64_t *ret_checksum, struct kelpie_error *err) {
    vmm_check(vmm);
    ASSERT(ret_image_size && ret_checksum);
    uint8_t bytes[STATE_SIZE + 1];
    size_t size = 0;
    TRY(peer_vmm_files_check(&vmm->files, CONTROL_ROLE_STATE, err));
    TRY(host_file_read_at(vmm->host, vmm->files.fds[CONTROL_ROLE_STATE], bytes, sizeof(bytes), 0,
                          &size, err));
    struct cursor_reader reader = cursor_reader_init(bytes, size);
    uint64_t magic = cursor_read_u64(&reader);
    uint64_t memory_size = cursor_read_u64(&reader);
    uint64_t image_size = cursor_read_u64(&reader);
    uint64_t checksum = cursor_read_u64(&reader);
    uint64_t sum = cursor_read_u64(&reader);
    if (!cursor_reader_finished(&reader) || magic != STATE_MAGIC || image_size == 0 ||
        sum != (magic ^ memory_size ^ image_size ^ checksum)) {
        return corrupt("state", "this is no state of this monitor", err);
    }
    if (memory_size != vmm->memory.size || image_size > memory_size ||
        image_size > PEER_VMM_IMAGE_SIZE_MAX) {
        return corrupt("state", "the state is of another machine", err);
    }
    *ret_image_size = image_size;
    *ret_checksum = checksum;
    return KELPIE_OK;
}

static enum kelpie_status load_image(struct peer_vmm *vmm, struct peer_guest *guest,
                                     struct mock_bytes *image, struct kelpie_error *err) {
    vmm_check(vmm);
    ASSERT(guest);
    uint64_t size = 0;
    uint64_t checksum = 0;
    TRY(state_read(vmm, &size, &checksum, err));
    TRY(peer_vmm_memory_load(&vmm->memory, &vmm->files, size, image, err));
    if (peer_guest_checksum(image->data, image->size) != checksum) {
        return corrupt("memory", "the memory is not what the state was saved with", err);
    }
    TRY(peer_guest_load(guest, image->data, image->size, err));
    TRY(keep_devices(vmm, err));
    return peer_vmm_memory_reset(&vmm->memory, image, err);
}

static enum kelpie_status load(struct peer_vmm *vmm, struct peer_guest *guest,
                               struct kelpie_error *err) {
    vmm_check(vmm);
    ASSERT(guest);
    struct mock_bytes image = mock_bytes_init(vmm->host);
    enum kelpie_status status = load_image(vmm, guest, &image, err);
    mock_bytes_deinit(&image);
    return status;
}

static void resume(struct peer_vmm *vmm) {
    vmm_check(vmm);
    ASSERT(vmm->guest);
    vmm->stamps.resumed_ns = host_monotonic_ns(vmm->host);
    vmm->memory.complete = vmm->memory.tracked;
    peer_guest_resume(vmm->guest);
}

static enum kelpie_status make(struct peer_vmm *vmm, const struct control_header *header,
                               struct kelpie_error *err) {
    vmm_check(vmm);
    ASSERT(header);
    struct control_machine *config = &vmm->config;
    const struct control_machine before = *config;
    if (vmm->guest || !control_decode_machine(vmm->payload, header->size, config)) {
        return error_set(err, KELPIE_INTERNAL, "that is no machine, or there is one");
    }
    if (vmm->prepared &&
        (header->type == CONTROL_PREPARE || config->vcpu_count != before.vcpu_count ||
         config->memory_mib != before.memory_mib || config->channel_port != before.channel_port)) {
        return error_set(err, KELPIE_INTERNAL, "another machine was prepared");
    }
    vmm->memory.size = (uint64_t)config->memory_mib << 20;
    vmm->prepared = true;
    if (header->type == CONTROL_PREPARE) {
        return KELPIE_OK;
    }
    struct peer_guest *guest = NULL;
    TRY(create_guest(vmm, &guest, err));
    enum kelpie_status status =
        header->type == CONTROL_BOOT ? boot(vmm, guest, err) : load(vmm, guest, err);
    if (status != KELPIE_OK) {
        peer_guest_destroy(guest);
        return status;
    }
    vmm->guest = guest;
    vmm->stamps.ready_ns = host_monotonic_ns(vmm->host);
    if (header->type == CONTROL_BOOT || config->run) {
        resume(vmm);
    }
    return KELPIE_OK;
}

/* ---- Saving one ------------------------------------------------------------------------------- */

static enum kelpie_status save(struct peer_vmm *vmm, const struct mock_bytes *image,
                               struct kelpie_error *err) {
    vmm_check(vmm);
    ASSERT(image->size > 0);
    uint8_t state[STATE_SIZE];
    struct peer_vmm_files *files = &vmm->files;
    TRY(peer_vmm_files_check(files, CONTROL_ROLE_STATE, err));
    state_encode(state, vmm->memory.size, image);
    TRY(host_file_write_at(vmm->host, files->fds[CONTROL_ROLE_STATE], state, sizeof(state), 0,
                           err));
    if (files->fds[CONTROL_ROLE_PAGES_0] != HOST_FD_NONE) {
        return peer_vmm_memory_save_diff(&vmm->memory, files, image, err);
    }
    if (files->fds[CONTROL_ROLE_MEMORY] == HOST_FD_NONE) {
        return KELPIE_OK;
    }
    TRY(peer_vmm_memory_save(&vmm->memory, files->fds[CONTROL_ROLE_MEMORY], image, err));
    return peer_vmm_memory_reset(&vmm->memory, image, err);
}

/* What needs the guest as bytes. */
static enum kelpie_status obey_with_image(struct peer_vmm *vmm, enum control_type type,
                                          const struct mock_bytes *image,
                                          struct kelpie_error *err) {
    vmm_check(vmm);
    ASSERT(vmm->guest);
    bool stands = peer_guest_is_paused(vmm->guest);
    if (!stands && (type == CONTROL_SAVE || type == CONTROL_SEAL)) {
        return error_set(err, KELPIE_WRONG_STATE, "the vCPUs run");
    }
    switch ((int)type) {
    case CONTROL_SAVE:
        return save(vmm, image, err);
    case CONTROL_SEAL:
        return peer_vmm_memory_seal(&vmm->memory, &vmm->files, image, err);
    case CONTROL_PRESAVE:
        return peer_vmm_memory_presave(&vmm->memory, &vmm->files, image, err);
    case CONTROL_TOUCHED:
        return peer_vmm_memory_touched(&vmm->memory, &vmm->files, image, err);
    default:
        UNREACHABLE();
    }
}

static enum kelpie_status obey_about_memory(struct peer_vmm *vmm, enum control_type type,
                                            struct kelpie_error *err) {
    vmm_check(vmm);
    ASSERT(vmm->guest);
    struct mock_bytes image = mock_bytes_init(vmm->host);
    enum kelpie_status status = peer_guest_save(vmm->guest, &image, err);
    if (status == KELPIE_OK) {
        status = obey_with_image(vmm, type, &image, err);
    }
    mock_bytes_deinit(&image);
    return status;
}

enum kelpie_status peer_vmm_obey(struct peer_vmm *vmm, const struct control_header *header,
                                 struct kelpie_error *err) {
    vmm_check(vmm);
    ASSERT(header->type != CONTROL_FD && header->type != CONTROL_TELL);
    if (header->type == CONTROL_PREPARE || header->type == CONTROL_BOOT ||
        header->type == CONTROL_LOAD) {
        return make(vmm, header, err);
    }
    if (!vmm->guest) {
        return error_set(err, KELPIE_WRONG_STATE, "there is no machine yet");
    }
    switch ((int)header->type) {
    case CONTROL_PAUSE:
        peer_guest_pause(vmm->guest);
        return KELPIE_OK;
    case CONTROL_RESUME:
        resume(vmm);
        return KELPIE_OK;
    case CONTROL_TRACK:
        return peer_vmm_memory_track(&vmm->memory, err);
    case CONTROL_SAVE:
    case CONTROL_SEAL:
    case CONTROL_PRESAVE:
    case CONTROL_TOUCHED:
        return obey_about_memory(vmm, header->type, err);
    default:
        return error_set(err, KELPIE_INTERNAL, "that is no order");
    }
}
