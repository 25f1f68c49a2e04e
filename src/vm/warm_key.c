/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What names a template: lines of text about the machine, and their SHA-256. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "vm/warm.h"

#define CPU_INFO "/proc/cpuinfo"
#define CPU_INFO_SIZE_MAX 1048576
#define TEMPLATE_VERSION 1 /* of what a machine has done when its template is made */

/* Features that a load compares with a tolerance, or that differ from one start to the next. */
static const char *const volatile_features[] = {"tsc_khz"};

struct lines {
    char *text;
    size_t size;
    bool full;
};

static void add(struct lines *lines, const char *format, ...) ERROR_PRINTF(2, 3);
static void add(struct lines *lines, const char *format, ...) {
    ASSERT(lines->text);
    ASSERT(lines->size <= VM_WARM_TEXT_SIZE_MAX);
    va_list args;
    va_start(args, format);
    size_t room = VM_WARM_TEXT_SIZE_MAX - lines->size;
    int size = vsnprintf(lines->text + lines->size, room, format, args);
    va_end(args);
    ASSERT(size >= 0); /* no format here converts wide characters */
    lines->full = lines->full || (size_t)size >= room;
    lines->size += lines->full ? 0 : (size_t)size;
}

/* A file as far as its content can be told without reading it. */
static enum kelpie_status add_file(struct lines *lines, struct host *host, const char *path,
                                   struct kelpie_error *err) {
    struct host_file_info info = {0};
    ASSERT(host);
    ASSERT(path);
    TRY(host_path_stat(host, path, &info, err));
    add(lines, "file %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %s\n", info.size,
        info.modified_ns, info.inode, info.device, path);
    return KELPIE_OK;
}

/* Which processor a guest that is not emulated runs on: the first one's lines that say what it can do. What cannot be read now
 * may be read the next time, and would give another key. */
static enum kelpie_status add_processor(struct lines *lines, struct host *host,
                                        struct kelpie_error *err) {
    static const char *const wanted[] = {"vendor_id", "cpu family",      "model",    "stepping",
                                         "flags",     "CPU implementer", "CPU part", "Features"};
    AUTO_MEM char *text = NULL;
    size_t size = 0;
    ASSERT(host);
    ASSERT(lines->text);
    enum kelpie_status status =
        host_file_load(host, CPU_INFO, CPU_INFO_SIZE_MAX, &text, &size, err);
    if (status == KELPIE_NOT_FOUND) {
        return KELPIE_OK; /* no Linux */
    }
    TRY(status);
    char *rest = text;
    for (char *line = strsep(&rest, "\n"); line && *line; line = strsep(&rest, "\n")) {
        for (size_t i = 0; i < ARRAY_SIZE(wanted); i++) {
            size_t length = strlen(wanted[i]);
            if (strncmp(line, wanted[i], length) == 0) {
                add(lines, "%s\n", line);
                break;
            }
        }
    }
    return KELPIE_OK;
}

static bool is_volatile(const char *feature) {
    ASSERT(feature);
    for (size_t i = 0; i < ARRAY_SIZE(volatile_features); i++) {
        if (strcmp(feature, volatile_features[i]) == 0) {
            return true;
        }
    }
    return false;
}

/* What a load of a bundle that is made now would check. */
static void add_backend(struct lines *lines, const struct kelpie_vm *vm,
                        const struct snapshot_manifest *made) {
    ASSERT(vm->ops);
    ASSERT(made->feature_count <= SNAPSHOT_FEATURE_COUNT_MAX);
    add(lines, "backend %s %s %s\n", vm->ops->name, made->info.backend_version,
        made->info.architecture);
    add(lines, "boot %s %s\n", made->kernel_digest, made->initramfs_digest);
    for (size_t i = 0; i < made->feature_count; i++) {
        if (!is_volatile(made->features[i].name)) {
            add(lines, "feature %s %s\n", made->features[i].name, made->features[i].value);
        }
    }
}

static enum kelpie_status add_config(struct lines *lines, const struct kelpie_vm *vm,
                                     struct kelpie_error *err) {
    const struct kelpie_config *config = &vm->machine;
    ASSERT(config->disk_count <= KELPIE_DISK_COUNT_MAX);
    add(lines, "machine %" PRIu32 " %" PRIu32 " %s\n", config->vcpu_count, config->memory_mib,
        config->kernel_args);
    add(lines, "network %d\n", config->network ? (int)config->network->kind : -1);
    add(lines, "image %s %" PRIu32 "\n", vm->image_digest[0] ? vm->image_digest : "none",
        vm->image_digest[0] ? config->image_disk_mib : 0);
    for (size_t i = 0; i < vm->config->disk_count; i++) {
        const struct kelpie_disk *disk = &vm->config->disks[i];
        add(lines, "disk %zu %s\n", i, disk->mount ? disk->mount : "");
        TRY(add_file(lines, vm->host, disk->path, err));
    }
    if (config->mock && strcmp(vm->ops->name, "mock") == 0) {
        add(lines, "mock %s\n", config->mock->architecture ? config->mock->architecture : "");
    }
    return KELPIE_OK;
}

enum kelpie_status vm_warm_digest(const struct kelpie_vm *vm, const struct snapshot_manifest *made,
                                  char ret_key[WARM_KEY_SIZE], struct kelpie_error *err) {
    ASSERT(vm->ops && vm->config);
    ASSERT(made);
    static_assert(WARM_KEY_SIZE == IMAGE_DIGEST_SIZE, "the same digits");
    AUTO_MEM char *text = host_allocate(vm->host, VM_WARM_TEXT_SIZE_MAX, err);
    if (!text) {
        return KELPIE_NO_MEMORY;
    }
    struct lines lines = {.text = text};
    add(&lines, "template %d %s\n", TEMPLATE_VERSION, kelpie_version());
    add_backend(&lines, vm, made);
    TRY(add_config(&lines, vm, err));
    TRY(add_processor(&lines, vm->host, err));
    if (lines.full) {
        return error_set(err, KELPIE_INTERNAL, "the machine's description is too long for a key");
    }
    return image_digest_bytes(text, lines.size, ret_key, err);
}

enum kelpie_status vm_warm_key(struct kelpie_vm *vm, char ret_key[WARM_KEY_SIZE],
                               struct kelpie_error *err) {
    struct snapshot_manifest *made = NULL;
    ASSERT(vm->instance);
    ASSERT(ret_key);
    TRY(snapshot_manifest_create(vm->host, &made, err));
    enum kelpie_status status = KELPIE_OK;
    if (vm->ops->identify) {
        status = vm->ops->identify(vm->instance, made, err);
    }
    if (status == KELPIE_OK) {
        status = vm_warm_digest(vm, made, ret_key, err);
    }
    snapshot_manifest_destroy(made);
    return status;
}
