/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "backend/vz/vz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/monitor/monitor_console.h"
#include "base/assert.h"
#include "base/cleanup.h"

#define CHANNEL_PORT "org.kelpie.channel" /* guest/channel.h */
#if defined(__aarch64__)
#define ARCHITECTURE "aarch64"
#else
#define ARCHITECTURE "x86_64"
#endif
/* Apple's framework saves machines on its own processors only. */
#if defined(__APPLE__) && !defined(__arm64__)
#define CAN_SAVE 0
#else
#define CAN_SAVE KELPIE_CAN_SUSPEND_SNAPSHOT
#endif
#define FEATURE_IDENTIFIER "vz-machine-identifier"

/* Whose end is whose: [0] is ours, [1] the machine's. */
struct pair {
    int fds[2];
};

struct backend_instance {
    struct host *host;
    const struct kelpie_config *config;
    const struct vz_machine_calls *calls;
    struct image_boot boot;
    struct host_mutex *lock; /* guards what follows: the framework's threads tell the end */
    struct monitor_console console;
    struct vz_machine *machine; /* NULL: there is none */
    struct pair channel;
    struct pair terminal;
    int exit_fd; /* an event: the machine has ended */
    char end_text[VZ_TEXT_SIZE];
};

static void vz_check(const struct backend_instance *instance) {
    ASSERT(instance->host && instance->lock);
    ASSERT(instance->config && instance->calls);
}

/* What is left of a wait. */
static uint32_t left_ms(const struct backend_instance *instance, const struct host_wait *wait) {
    uint64_t now_ns = host_monotonic_ns(instance->host);
    vz_check(instance);
    ASSERT(wait);
    uint64_t left = wait->deadline_ns > now_ns ? (wait->deadline_ns - now_ns) / HOST_NS_PER_MS : 0;
    return left < KELPIE_TIMEOUT_MS_MAX ? (uint32_t)left : KELPIE_TIMEOUT_MS_MAX;
}

/* ---- The machine ------------------------------------------------------------------------------ */

/* On a thread of the framework's. */
static void machine_ended(void *context, const char *text) {
    struct backend_instance *instance = context;
    vz_check(instance);
    ASSERT(text);
    host_mutex_lock(instance->lock);
    snprintf(instance->end_text, sizeof(instance->end_text), "%.200s",
             text[0] ? text : "the guest powered off");
    host_event_set(instance->host, instance->exit_fd);
    host_mutex_unlock(instance->lock);
}

static void close_pair(struct host *host, struct pair *pair) {
    ASSERT(host);
    ASSERT(pair);
    for (size_t i = 0; i < ARRAY_SIZE(pair->fds); i++) {
        host_close(host, pair->fds[i]);
        pair->fds[i] = HOST_FD_NONE;
    }
}

/* Everything of the machine goes; what it said and how it ended stays. */
static void take_down(struct backend_instance *instance) {
    vz_check(instance);
    host_mutex_lock(instance->lock);
    struct vz_machine *machine = TAKE(instance->machine);
    host_mutex_unlock(instance->lock);
    if (machine) {
        instance->calls->destroy(machine); /* no callback comes any more */
    }
    host_mutex_lock(instance->lock);
    if (instance->terminal.fds[0] != HOST_FD_NONE) {
        (void)monitor_console_drain(&instance->console, instance->terminal.fds[0]);
    }
    struct pair pairs[] = {instance->channel, instance->terminal};
    instance->channel = instance->terminal = (struct pair){{HOST_FD_NONE, HOST_FD_NONE}};
    int exit_fd = instance->exit_fd;
    instance->exit_fd = HOST_FD_NONE;
    host_mutex_unlock(instance->lock);
    close_pair(instance->host, &pairs[0]);
    close_pair(instance->host, &pairs[1]);
    host_close(instance->host, exit_fd);
    ASSERT(!instance->machine);
}

static enum kelpie_status open_all(struct backend_instance *instance, struct kelpie_error *err) {
    vz_check(instance);
    ASSERT(instance->exit_fd == HOST_FD_NONE);
    TRY(host_event_create(instance->host, &instance->exit_fd, err));
    TRY(host_socket_pair(instance->host, instance->channel.fds, err));
    return host_socket_pair(instance->host, instance->terminal.fds, err);
}

static enum kelpie_status command_line(const struct kelpie_config *config,
                                       char line[VZ_COMMAND_LINE_SIZE_MAX],
                                       struct kelpie_error *err) {
    ASSERT(config);
    ASSERT(line);
    const char *more = config->kernel_args ? config->kernel_args : "";
    int size = snprintf(line, VZ_COMMAND_LINE_SIZE_MAX, "console=hvc0 quiet panic=-1%s%s",
                        more[0] ? " " : "", more);
    if (size >= VZ_COMMAND_LINE_SIZE_MAX) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "kernel_args", "kernel_args are too long");
    }
    return KELPIE_OK;
}

/* A machine that has not started. identifier NULL: a new one. */
static enum kelpie_status make_machine(struct backend_instance *instance, const char *identifier,
                                       struct kelpie_error *err) {
    const struct kelpie_config *config = instance->config;
    struct vz_disk disks[KELPIE_DISK_COUNT_MAX];
    char line[VZ_COMMAND_LINE_SIZE_MAX];
    vz_check(instance);
    ASSERT(config->disk_count <= KELPIE_DISK_COUNT_MAX);
    TRY(command_line(config, line, err));
    TRY(open_all(instance, err));
    for (size_t i = 0; i < config->disk_count; i++) {
        disks[i] = (struct vz_disk){config->disks[i].path, config->disks[i].read_only};
    }
    const struct vz_description description = {
        .vcpu_count = config->vcpu_count,
        .memory_mib = config->memory_mib,
        .kernel = instance->boot.kernel.path,
        .initramfs = instance->boot.initramfs_path,
        .command_line = line,
        .channel_port = CHANNEL_PORT,
        .channel_fd = instance->channel.fds[1],
        .console_fd = instance->terminal.fds[1],
        .disks = disks,
        .disk_count = config->disk_count,
        .identifier = identifier,
        .ended = machine_ended,
        .context = instance,
    };
    struct vz_machine *machine = NULL;
    TRY(instance->calls->create(&description, &machine, err));
    host_mutex_lock(instance->lock);
    instance->machine = machine;
    instance->end_text[0] = '\0';
    host_mutex_unlock(instance->lock);
    return KELPIE_OK;
}

/* ---- Create and destroy ----------------------------------------------------------------------- */

static void vz_destroy(struct backend_instance *instance) {
    ASSERT(instance);
    ASSERT(instance->host);
    if (instance->lock) {
        take_down(instance);
    }
    monitor_console_deinit(&instance->console);
    host_mutex_destroy(instance->lock);
    free(instance);
}

static enum kelpie_status init(struct backend_instance *instance,
                               const struct backend_launch *launch, struct kelpie_error *err) {
    char text[VZ_TEXT_SIZE];
    ASSERT(instance->calls);
    ASSERT(launch->host);
    if (instance->calls->missing(text)) {
        return error_set(err, KELPIE_BACKEND_MISSING, "there is no Virtualization framework: %s",
                         text);
    }
    if (launch->has_image) {
        return error_set_field(err, KELPIE_UNSUPPORTED, "image",
                               "the vz backend has no images: its disks are raw files");
    }
    TRY(host_mutex_create(launch->host, &instance->lock, err));
    TRY(monitor_console_init(&instance->console, launch->host, launch->config->console_log,
                             launch->config->console_bytes_max, err));
    const struct host_wait wait =
        host_wait_ms(launch->host, IMAGE_FETCH_TIMEOUT_MS, launch->cancel_fd);
    return image_boot_prepare(launch->host, launch->config->kernel, &wait, &instance->boot, err);
}

enum kelpie_status vz_create_with(const struct vz_machine_calls *calls,
                                  const struct backend_launch *launch,
                                  struct backend_instance **ret_instance,
                                  struct kelpie_error *err) {
    ASSERT(calls && launch->host);
    ASSERT(launch->config);
    struct backend_instance *instance = host_allocate(launch->host, sizeof(*instance), err);
    if (!instance) {
        return KELPIE_NO_MEMORY;
    }
    instance->host = launch->host;
    instance->config = launch->config;
    instance->calls = calls;
    instance->exit_fd = HOST_FD_NONE;
    instance->channel = instance->terminal = (struct pair){{HOST_FD_NONE, HOST_FD_NONE}};
    enum kelpie_status status = init(instance, launch, err);
    if (status != KELPIE_OK) {
        vz_destroy(instance);
        return status;
    }
    *ret_instance = instance;
    return KELPIE_OK;
}

static enum kelpie_status vz_create(const struct backend_launch *launch,
                                    struct backend_instance **ret_instance,
                                    struct kelpie_error *err) {
    ASSERT(launch->host);
    ASSERT(ret_instance);
#if defined(__APPLE__)
    return vz_create_with(&vz_machine_calls, launch, ret_instance, err);
#else
    return error_set(err, KELPIE_BACKEND_MISSING, "the Virtualization framework is part of macOS");
#endif
}

static void vz_probe(struct host *host, struct kelpie_probe *ret_probe) {
    ASSERT(host);
    ASSERT(ret_probe);
    *ret_probe = (struct kelpie_probe){.accelerator = "vz"};
#if defined(__APPLE__)
    char text[VZ_TEXT_SIZE];
    ret_probe->usable = !vz_machine_calls.missing(text);
    snprintf(ret_probe->reason, sizeof(ret_probe->reason), "%s",
             ret_probe->usable ? "the framework is there; this backend has never been run on a Mac"
                               : text);
#else
    snprintf(
        ret_probe->reason, sizeof(ret_probe->reason),
        "the Virtualization framework is part of macOS, where this backend has never been run");
#endif
}

/* ---- Run -------------------------------------------------------------------------------------- */

static enum kelpie_status vz_start(struct backend_instance *instance, const struct host_wait *wait,
                                   struct kelpie_error *err) {
    vz_check(instance);
    ASSERT(!instance->machine);
    enum kelpie_status status = make_machine(instance, NULL, err);
    if (status == KELPIE_OK) {
        status = instance->calls->start(instance->machine, left_ms(instance, wait), err);
    }
    if (status != KELPIE_OK) {
        take_down(instance);
    }
    if (status == KELPIE_TIMED_OUT) {
        return error_wrap(err, KELPIE_BOOT_TIMED_OUT, "the machine did not start in time");
    }
    return status == KELPIE_INTERNAL
               ? error_wrap(err, KELPIE_BOOT_FAILED, "the machine was not made")
               : status;
}

static enum kelpie_status vz_pause(struct backend_instance *instance, const struct host_wait *wait,
                                   struct kelpie_error *err) {
    vz_check(instance);
    ASSERT(wait);
    if (!instance->machine) {
        return error_set(err, KELPIE_WRONG_STATE, "there is no machine");
    }
    return instance->calls->pause(instance->machine, left_ms(instance, wait), err);
}

static enum kelpie_status vz_resume(struct backend_instance *instance, const struct host_wait *wait,
                                    struct kelpie_error *err) {
    vz_check(instance);
    ASSERT(wait);
    if (!instance->machine) {
        return error_set(err, KELPIE_WRONG_STATE, "there is no machine");
    }
    return instance->calls->resume(instance->machine, left_ms(instance, wait), err);
}

static void vz_kill(struct backend_instance *instance) {
    vz_check(instance);
    ASSERT(instance->calls->stop);
    host_mutex_lock(instance->lock);
    if (instance->machine) {
        instance->calls->stop(instance->machine);
    }
    host_mutex_unlock(instance->lock);
}

static enum kelpie_status vz_stop(struct backend_instance *instance, const struct host_wait *wait,
                                  struct kelpie_error *err) {
    struct host_poll_item item = {.fd = instance->exit_fd, .asked = HOST_POLL_READ};
    vz_check(instance);
    ASSERT(wait);
    (void)err;
    if (instance->machine) {
        enum kelpie_status ignored = host_poll(instance->host, &item, 1, wait, NULL);
        (void)ignored; /* what did not end by itself is ended now */
    }
    take_down(instance);
    return KELPIE_OK;
}

/* ---- Save and load ---------------------------------------------------------------------------- */

/* What is on a disk is not in the framework's file. */
static enum kelpie_status check_disks(const struct backend_instance *instance,
                                      struct kelpie_error *err) {
    vz_check(instance);
    ASSERT(instance->config->disk_count <= KELPIE_DISK_COUNT_MAX);
    for (size_t i = 0; i < instance->config->disk_count; i++) {
        if (!instance->config->disks[i].read_only) {
            return error_set_field(err, KELPIE_UNSUPPORTED, "disks",
                                   "the vz backend saves no machine with a writable disk");
        }
    }
    return KELPIE_OK;
}

/* The framework's file, under a name of its own, becomes the bundle's part. */
static enum kelpie_status move_state(struct backend_instance *instance, const char *path,
                                     struct snapshot_writer *writer, const struct host_wait *wait,
                                     struct kelpie_error *err) {
    struct host_file_info info;
    vz_check(instance);
    ASSERT(path && writer);
    AUTO_FD struct host_fd file = {instance->host, HOST_FD_NONE};
    TRY(host_file_open(instance->host, path, HOST_OPEN_READ, 0, &file.fd, err));
    TRY(host_file_stat(instance->host, file.fd, &info, err));
    return snapshot_writer_copy(writer, SNAPSHOT_PART_STATE, file.fd, info.size, wait, err);
}

/* What a load must find the same: the framework compares the rest. */
static enum kelpie_status fill_manifest(struct backend_instance *instance,
                                        struct snapshot_manifest *manifest,
                                        struct kelpie_error *err) {
    const struct image_boot *boot = &instance->boot;
    char identifier[VZ_IDENTIFIER_SIZE_MAX + 1];
    vz_check(instance);
    ASSERT(instance->machine);
    instance->calls->identifier(instance->machine, identifier, sizeof(identifier));
    if (identifier[0] == '\0') {
        return error_set(err, KELPIE_INTERNAL, "the machine has no identifier that fits");
    }
    snprintf(manifest->info.architecture, sizeof(manifest->info.architecture), ARCHITECTURE);
    snprintf(manifest->info.backend_version, sizeof(manifest->info.backend_version), "%s",
             kelpie_version());
    snprintf(manifest->kernel_digest, sizeof(manifest->kernel_digest), "%s", boot->kernel.digest);
    snprintf(manifest->initramfs_digest, sizeof(manifest->initramfs_digest), "%s",
             boot->initramfs_digest);
    manifest->vcpu_count = instance->config->vcpu_count;
    manifest->memory_mib = instance->config->memory_mib;
    manifest->memory_in_state = true;
    return snapshot_manifest_add_feature(manifest, FEATURE_IDENTIFIER, identifier, err);
}

static enum kelpie_status vz_save(struct backend_instance *instance, enum kelpie_snapshot_kind kind,
                                  struct snapshot_writer *writer, const struct host_wait *wait,
                                  struct kelpie_error *err) {
    char folder[HOST_PATH_SIZE_MAX + 1];
    char path[HOST_PATH_SIZE_MAX + 64];
    struct snapshot_manifest *manifest = snapshot_writer_manifest(writer);
    vz_check(instance);
    ASSERT(wait);
    (void)kind;
    if (!instance->machine) {
        return error_set(err, KELPIE_WRONG_STATE, "there is no machine");
    }
    TRY(check_disks(instance, err));
    TRY(fill_manifest(instance, manifest, err));
    TRY(image_cache_dir(instance->host, folder, sizeof(folder), err));
    snprintf(path, sizeof(path), "%s/vz-%s.state", folder, manifest->info.id);
    enum kelpie_status status =
        instance->calls->save(instance->machine, path, left_ms(instance, wait), err);
    if (status == KELPIE_OK) {
        status = move_state(instance, path, writer, wait, err);
    }
    enum kelpie_status ignored = host_path_unlink(instance->host, path, NULL);
    (void)ignored; /* it may not be there */
    return status;
}

static enum kelpie_status vz_load(struct backend_instance *instance, struct snapshot_reader *reader,
                                  const struct host_wait *wait, struct kelpie_error *err) {
    char path[HOST_PATH_SIZE_MAX + 16];
    vz_check(instance);
    ASSERT(reader && wait);
    ASSERT(!instance->machine);
    const char *identifier =
        snapshot_manifest_feature(snapshot_reader_manifest(reader), FEATURE_IDENTIFIER);
    if (!identifier) {
        return error_set_field(err, KELPIE_SNAPSHOT_INCOMPATIBLE, FEATURE_IDENTIFIER,
                               "the bundle is not one of the vz backend");
    }
    if (strcmp(snapshot_reader_manifest(reader)->info.architecture, ARCHITECTURE) != 0) {
        return error_set_field(err, KELPIE_SNAPSHOT_INCOMPATIBLE, "architecture",
                               "the bundle is of another architecture than this " ARCHITECTURE);
    }
    snprintf(path, sizeof(path), "%s/state", snapshot_reader_directory(reader));
    enum kelpie_status status = make_machine(instance, identifier, err);
    if (status == KELPIE_OK) {
        status = instance->calls->load(instance->machine, path, left_ms(instance, wait), err);
    }
    if (status != KELPIE_OK) {
        take_down(instance);
    }
    return status;
}

/* ---- What other threads ask ------------------------------------------------------------------- */

static int vz_channel_fd(struct backend_instance *instance) {
    vz_check(instance);
    ASSERT(!instance->machine || instance->exit_fd != HOST_FD_NONE);
    host_mutex_lock(instance->lock);
    int fd = instance->machine ? instance->channel.fds[0] : HOST_FD_NONE;
    host_mutex_unlock(instance->lock);
    return fd;
}

static int vz_exit_fd(struct backend_instance *instance) {
    vz_check(instance);
    ASSERT(!instance->machine || instance->exit_fd != HOST_FD_NONE);
    host_mutex_lock(instance->lock);
    int fd = instance->machine ? instance->exit_fd : HOST_FD_NONE;
    host_mutex_unlock(instance->lock);
    return fd;
}

/* The framework's process is nobody's child. */
static int vz_process_id(struct backend_instance *instance) {
    vz_check(instance);
    ASSERT(instance->calls);
    return 0;
}

static void vz_exit_text(struct backend_instance *instance, char *buffer, size_t size) {
    vz_check(instance);
    ASSERT(buffer && size > 0);
    host_mutex_lock(instance->lock);
    snprintf(buffer, size, "the machine %s%s",
             instance->end_text[0] ? "ended: "
             : instance->machine   ? "is running"
                                   : "is not running",
             instance->end_text);
    host_mutex_unlock(instance->lock);
}

static size_t vz_service_fds(struct backend_instance *instance, int *fds, size_t capacity) {
    vz_check(instance);
    ASSERT(fds || capacity == 0);
    host_mutex_lock(instance->lock);
    size_t count = capacity > 0 && instance->terminal.fds[0] != HOST_FD_NONE;
    if (count > 0) {
        fds[0] = instance->terminal.fds[0];
    }
    host_mutex_unlock(instance->lock);
    return count;
}

static void vz_service(struct backend_instance *instance, int fd) {
    vz_check(instance);
    ASSERT(fd != HOST_FD_NONE);
    host_mutex_lock(instance->lock);
    if (fd == instance->terminal.fds[0] && !monitor_console_drain(&instance->console, fd)) {
        host_close(instance->host, fd);
        instance->terminal.fds[0] = HOST_FD_NONE;
    }
    host_mutex_unlock(instance->lock);
}

static size_t vz_console(struct backend_instance *instance, void *buffer, size_t size) {
    vz_check(instance);
    ASSERT(buffer || size == 0);
    host_mutex_lock(instance->lock);
    size_t count = monitor_console_tail(&instance->console, buffer, size);
    host_mutex_unlock(instance->lock);
    return count;
}

const struct backend_ops backend_vz_ops = {
    .name = "vz",
    .description = "Apple's Virtualization framework, on macOS; never run there",
    .capabilities = KELPIE_CAN_EXEC | KELPIE_CAN_COPY | KELPIE_CAN_PAUSE | CAN_SAVE |
                    KELPIE_CAN_DISKS | KELPIE_CAN_TTY,
    .in_auto = false,
    .probe = vz_probe,
    .create = vz_create,
    .destroy = vz_destroy,
    .start = vz_start,
    .load = vz_load,
    .pause = vz_pause,
    .resume = vz_resume,
    .save = vz_save,
    .stop = vz_stop,
    .kill = vz_kill,
    .channel_fd = vz_channel_fd,
    .exit_fd = vz_exit_fd,
    .process_id = vz_process_id,
    .exit_text = vz_exit_text,
    .service_fds = vz_service_fds,
    .service = vz_service,
    .console = vz_console,
};
