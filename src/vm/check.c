/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What a config may say. Every refusal names the field and what would be right. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "vm/populate.h"
#include "vm/vm.h"

enum kelpie_status vm_check_path(const char *field, const char *path, bool absolute,
                                 struct kelpie_error *err) {
    ASSERT(field);
    ASSERT(path);
    size_t size = strnlen(path, KELPIE_PATH_SIZE_MAX + 1);
    if (size == 0 || size > KELPIE_PATH_SIZE_MAX) {
        return error_set_field(err, KELPIE_BAD_CONFIG, field, "%s must have 1 to %d bytes", field,
                               KELPIE_PATH_SIZE_MAX);
    }
    if (absolute && path[0] != '/') {
        return error_set_field(err, KELPIE_BAD_CONFIG, field,
                               "%s must begin with a slash, and is \"%.100s\"", field, path);
    }
    return KELPIE_OK;
}

enum kelpie_status vm_check_name(const char *field, const char *name, const char *extra_characters,
                                 struct kelpie_error *err) {
    ASSERT(field);
    ASSERT(extra_characters);
    size_t size = strnlen(name, KELPIE_NAME_SIZE_MAX + 1);
    bool good = size >= 1 && size <= KELPIE_NAME_SIZE_MAX && isalnum((unsigned char)name[0]);
    for (size_t i = 0; good && i < size; i++) {
        good = isalnum((unsigned char)name[i]) || strchr(extra_characters, name[i]);
    }
    if (!good) {
        return error_set_field(err, KELPIE_BAD_CONFIG, field,
                               "%s must be 1 to %d letters, digits or one of \"%s\", a letter or "
                               "digit first, and is \"%.100s\"",
                               field, KELPIE_NAME_SIZE_MAX, extra_characters, name);
    }
    return KELPIE_OK;
}

enum kelpie_status vm_check_env(const char *const *env, size_t *ret_count,
                                struct kelpie_error *err) {
    ASSERT(ret_count);
    size_t count = 0;
    for (; env && env[count]; count++) {
        char field[32];
        snprintf(field, sizeof(field), "env[%zu]", count);
        if (count >= KELPIE_ENV_COUNT_MAX) {
            return error_set_field(err, KELPIE_BAD_CONFIG, "env", "env has more than %d variables",
                                   KELPIE_ENV_COUNT_MAX);
        }
        const char *equals = strchr(env[count], '=');
        if (!equals || equals == env[count]) {
            return error_set_field(err, KELPIE_BAD_CONFIG, field,
                                   "%s must be KEY=VALUE, and is \"%.100s\"", field, env[count]);
        }
        if (strnlen(env[count], KELPIE_COMMAND_BYTES_MAX) == KELPIE_COMMAND_BYTES_MAX) {
            return error_set_field(err, KELPIE_BAD_CONFIG, field, "%s has more than %d bytes",
                                   field, KELPIE_COMMAND_BYTES_MAX - 1);
        }
    }
    ASSERT(count <= KELPIE_ENV_COUNT_MAX);
    *ret_count = count;
    return KELPIE_OK;
}

enum kelpie_status vm_check_timeout(const char *field, uint32_t timeout_ms,
                                    struct kelpie_error *err) {
    ASSERT(field);
    ASSERT(*field);
    if (timeout_ms > KELPIE_TIMEOUT_MS_MAX) {
        return error_set_field(err, KELPIE_BAD_CONFIG, field, "%s is %u, more than a day (%d)",
                               field, timeout_ms, KELPIE_TIMEOUT_MS_MAX);
    }
    return KELPIE_OK;
}

enum kelpie_status vm_check_reserved(const char *field, const uint64_t *reserved, size_t count,
                                     struct kelpie_error *err) {
    ASSERT(field);
    ASSERT(reserved);
    for (size_t i = 0; i < count; i++) {
        if (reserved[i] != 0) {
            return error_set_field(err, KELPIE_BAD_CONFIG, field,
                                   "%s must be zero: the caller was built for a newer library, or "
                                   "the structure was not cleared",
                                   field);
        }
    }
    return KELPIE_OK;
}

static enum kelpie_status check_range(const char *field, uint32_t value, uint32_t min, uint32_t max,
                                      struct kelpie_error *err) {
    ASSERT(field);
    ASSERT(min <= max);
    if (value != 0 && (value < min || value > max)) {
        return error_set_field(err, KELPIE_BAD_CONFIG, field, "%s is %u, and must be %u to %u",
                               field, value, min, max);
    }
    return KELPIE_OK;
}

static enum kelpie_status check_disk(const struct kelpie_config *config, size_t index,
                                     struct kelpie_error *err) {
    ASSERT(index < config->disk_count);
    ASSERT(config->disks);
    const struct kelpie_disk *disk = &config->disks[index];
    char field[64];
    snprintf(field, sizeof(field), "disks[%zu].path", index);
    if (!disk->path) {
        return error_set_field(err, KELPIE_BAD_CONFIG, field, "%s is missing", field);
    }
    TRY(vm_check_path(field, disk->path, false, err));
    snprintf(field, sizeof(field), "disks[%zu].reserved", index);
    TRY(vm_check_reserved(field, disk->reserved, ARRAY_SIZE(disk->reserved), err));
    if (!disk->mount) {
        return KELPIE_OK;
    }
    snprintf(field, sizeof(field), "disks[%zu].mount", index);
    TRY(vm_check_path(field, disk->mount, true, err));
    for (size_t i = 0; i < index; i++) {
        if (config->disks[i].mount && strcmp(config->disks[i].mount, disk->mount) == 0) {
            return error_set_field(err, KELPIE_BAD_CONFIG, field,
                                   "%s is \"%.100s\", where disks[%zu] is mounted already", field,
                                   disk->mount, i);
        }
    }
    return KELPIE_OK;
}

static enum kelpie_status check_kernel_args(const char *args, struct kelpie_error *err) {
    ASSERT(args);
    size_t size = strnlen(args, KELPIE_KERNEL_ARGS_SIZE_MAX + 1);
    if (size > KELPIE_KERNEL_ARGS_SIZE_MAX) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "kernel_args",
                               "kernel_args has more than %d bytes", KELPIE_KERNEL_ARGS_SIZE_MAX);
    }
    for (size_t i = 0; i < size; i++) {
        if (!isprint((unsigned char)args[i])) {
            return error_set_field(err, KELPIE_BAD_CONFIG, "kernel_args",
                                   "kernel_args has a byte at offset %zu that is not printable", i);
        }
    }
    return KELPIE_OK;
}

static enum kelpie_status check_texts(const struct kelpie_config *config,
                                      struct kelpie_error *err) {
    ASSERT(config);
    if (config->name) {
        TRY(vm_check_name("name", config->name, "_.-", err));
    }
    if (config->hostname) {
        TRY(vm_check_name("hostname", config->hostname, ".-", err));
    }
    if (config->backend) {
        TRY(vm_check_name("backend", config->backend, "-", err));
    }
    if (config->kernel) {
        TRY(vm_check_path("kernel", config->kernel, false, err));
    }
    if (config->hypervisor) {
        TRY(vm_check_path("hypervisor", config->hypervisor, false, err));
    }
    if (config->kernel_args) {
        TRY(check_kernel_args(config->kernel_args, err));
    }
    if (config->working_dir) {
        TRY(vm_check_path("working_dir", config->working_dir, true, err));
    }
    if (config->console_log) {
        TRY(vm_check_path("console_log", config->console_log, false, err));
    }
    if (config->mock && config->mock->architecture) {
        TRY(vm_check_name("mock.architecture", config->mock->architecture, "_", err));
        if (strlen(config->mock->architecture) >=
            sizeof(((struct kelpie_snapshot *)0)->architecture)) {
            return error_set_field(err, KELPIE_BAD_CONFIG, "mock.architecture",
                                   "mock.architecture has more than 15 characters");
        }
    }
    return KELPIE_OK;
}

/* By name or by digest; whether there is one is found out when it is looked for. */
static enum kelpie_status check_image_name(const char *image, struct kelpie_error *err) {
    ASSERT(image);
    size_t size = strnlen(image, KELPIE_DIGEST_SIZE);
    bool good = size >= 1 && size < KELPIE_DIGEST_SIZE && isalnum((unsigned char)image[0]);
    for (size_t i = 0; good && i < size; i++) {
        good = isalnum((unsigned char)image[i]) || strchr("_.-:", image[i]);
    }
    if (!good) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "image",
                               "image must be an image's name or digest, and is \"%.100s\"", image);
    }
    return KELPIE_OK;
}

static enum kelpie_status check_image(const struct kelpie_config *config,
                                      struct kelpie_error *err) {
    ASSERT(config);
    TRY(check_range("image_disk_mib", config->image_disk_mib, VM_IMAGE_DISK_MIB_MIN,
                    KELPIE_IMAGE_DISK_MIB_MAX, err));
    if (config->disk_folder) {
        TRY(vm_check_path("disk_folder", config->disk_folder, true, err));
    }
    if (!config->image) {
        return KELPIE_OK;
    }
    TRY(check_image_name(config->image, err));
    if (config->disk_count + VM_IMAGE_DISK_COUNT > KELPIE_DISK_COUNT_MAX) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "disk_count",
                               "disk_count is %zu, and must be at most %d with an image",
                               config->disk_count, KELPIE_DISK_COUNT_MAX - VM_IMAGE_DISK_COUNT);
    }
    for (size_t i = 0; i < config->disk_count; i++) {
        if (config->disks[i].mount && strcmp(config->disks[i].mount, "/") == 0) {
            return error_set_field(err, KELPIE_BAD_CONFIG, "disks",
                                   "disks[%zu] is to be the root, which the image is", i);
        }
    }
    return KELPIE_OK;
}

enum kelpie_status vm_check_config(const struct kelpie_config *config, struct kelpie_error *err) {
    ASSERT(config);
    TRY(check_range("vcpu_count", config->vcpu_count, KELPIE_VCPU_COUNT_MIN, KELPIE_VCPU_COUNT_MAX,
                    err));
    TRY(check_range("memory_mib", config->memory_mib, KELPIE_MEMORY_MIB_MIN, KELPIE_MEMORY_MIB_MAX,
                    err));
    TRY(check_texts(config, err));
    if (config->disk_count > KELPIE_DISK_COUNT_MAX) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "disk_count",
                               "disk_count is %zu, and must be at most %d", config->disk_count,
                               KELPIE_DISK_COUNT_MAX);
    }
    if (config->disk_count > 0 && !config->disks) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "disks", "disks is missing");
    }
    for (size_t i = 0; i < config->disk_count; i++) {
        TRY(check_disk(config, i, err));
    }
    TRY(check_image(config, err));
    if (config->network) {
        TRY(vm_check_network(config->network, err));
    }
    TRY(vm_check_populate(config, err));
    size_t env_count = 0;
    TRY(vm_check_env(config->env, &env_count, err));
    TRY(vm_check_timeout("boot_timeout_ms", config->boot_timeout_ms, err));
    TRY(vm_check_timeout("stop_timeout_ms", config->stop_timeout_ms, err));
    TRY(vm_check_timeout("operation_timeout_ms", config->operation_timeout_ms, err));
    if (config->mock) {
        TRY(vm_check_timeout("mock.boot_delay_ms", config->mock->boot_delay_ms, err));
        TRY(vm_check_reserved("mock.reserved", config->mock->reserved,
                              ARRAY_SIZE(config->mock->reserved), err));
    }
    return vm_check_reserved("reserved", config->reserved, ARRAY_SIZE(config->reserved), err);
}
