/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * kernel.c: finds the guest's kernel, a bzImage or libkrunfw. What the caller or the environment names is used or refused, never
 * replaced. Otherwise each place is tried in turn; what is wrong with one is told only when all fail.
 */
#include "image/image_internal.h"

#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"

#define PACKAGE "linux-image-cloud-amd64"
#define SHELF "kernels"
#define PACKAGE_NAME_SIZE 256
#define IMAGE_PREFIX "vmlinuz-"

/* The file's SHA-256, remembered as long as the file stays as it is. */
static enum kelpie_status kernel_digest(struct host *host, const char *path, int fd,
                                        char ret_digest[IMAGE_DIGEST_SIZE],
                                        struct kelpie_error *err) {
    char name[sizeof("kernel-") + IMAGE_DIGEST_SIZE];
    char path_digest[IMAGE_DIGEST_SIZE];
    struct image_stamp stamp;
    ASSERT(ret_digest);
    ASSERT(fd != HOST_FD_NONE);
    ASSERT(path);
    TRY(image_digest_bytes(path, strlen(path), path_digest, err));
    snprintf(name, sizeof(name), "kernel-%s", path_digest);
    if (image_stamp_find(host, name, ret_digest)) {
        return KELPIE_OK;
    }
    TRY(image_stamp_init(&stamp, host, err));
    enum kelpie_status status = image_stamp_add(&stamp, path, err);
    if (status == KELPIE_OK) {
        status = image_digest_file(host, fd, IMAGE_KERNEL_SIZE_MAX, ret_digest, err);
    }
    if (status == KELPIE_OK) {
        status = image_stamp_store(&stamp, name, ret_digest, err);
    }
    image_stamp_deinit(&stamp);
    return status;
}

/* lib/modules/<release> beside the kernel's folder, as a package is unpacked, or the system's; or none. */
static enum kelpie_status find_modules(struct host *host, struct image_kernel *kernel,
                                       struct kelpie_error *err) {
    static const char *const beside[] = {"../lib/modules", "../usr/lib/modules"};
    const char *slash = strrchr(kernel->path, '/');
    int folder_size = slash ? (int)(slash - kernel->path) : 1;
    const char *folder = slash ? kernel->path : ".";
    struct image_path path;
    ASSERT(kernel->release[0] != '\0');
    ASSERT(kernel->modules_dir[0] == '\0');
    for (size_t i = 0; i < ARRAY_SIZE(beside); i++) {
        TRY(image_path_format(&path, err, "%.*s/%s/%s", folder_size, folder, beside[i],
                              kernel->release));
        if (image_path_exists(host, path.text)) {
            memcpy(kernel->modules_dir, path.text, sizeof(path.text));
            return KELPIE_OK;
        }
    }
    TRY(image_path_format(&path, err, "/lib/modules/%s", kernel->release));
    if (image_path_exists(host, path.text)) {
        memcpy(kernel->modules_dir, path.text, sizeof(path.text));
    }
    return KELPIE_OK;
}

static enum kelpie_status read_kernel(struct host *host, int fd, struct image_kernel *kernel,
                                      struct kelpie_error *err) {
    struct host_file_info info;
    size_t size = 0;
    ASSERT(fd != HOST_FD_NONE);
    AUTO_MEM uint8_t *header = host_allocate(host, IMAGE_KERNEL_HEADER_SIZE, err);
    if (!header) {
        return KELPIE_NO_MEMORY;
    }
    TRY(host_file_stat(host, fd, &info, err));
    if (info.type != HOST_FILE_REGULAR || info.size > IMAGE_KERNEL_SIZE_MAX) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "kernel",
                               "it is no regular file of at most %d bytes", IMAGE_KERNEL_SIZE_MAX);
    }
    TRY(host_file_read_at(host, fd, header, IMAGE_KERNEL_HEADER_SIZE, 0, &size, err));
    ASSERT(size <= IMAGE_KERNEL_HEADER_SIZE);
    if (size > info.size) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "kernel", "it changed while it was read");
    }
    if (image_elf_is_library_with(header, size, HOST_KRUNFW_SYMBOL)) {
        kernel->form = IMAGE_KERNEL_KRUNFW;
        return KELPIE_OK;
    }
    return image_kernel_header_parse(header, size, info.size, kernel->release, err);
}

/* Everything about the kernel at a path. */
static enum kelpie_status inspect(struct host *host, const char *path,
                                  struct image_kernel *ret_kernel, struct kelpie_error *err) {
    ASSERT(path);
    ASSERT(ret_kernel);
    AUTO_MEM struct image_kernel *kernel = host_allocate(host, sizeof(*kernel), err);
    AUTO_FD struct host_fd fd = {host, HOST_FD_NONE};
    if (!kernel) {
        return KELPIE_NO_MEMORY;
    }
    if (strlen(path) > HOST_PATH_SIZE_MAX) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "kernel", "the path is too long");
    }
    memcpy(kernel->path, path, strlen(path));
    TRY(host_file_open(host, path, HOST_OPEN_READ, 0, &fd.fd, err));
    enum kelpie_status status = read_kernel(host, fd.fd, kernel, err);
    if (status != KELPIE_OK) {
        return error_wrap(err, status, "the kernel %s", path);
    }
    TRY(kernel_digest(host, path, fd.fd, kernel->digest, err));
    if (kernel->form == IMAGE_KERNEL_BZIMAGE) {
        TRY(find_modules(host, kernel, err));
    }
    *ret_kernel = *kernel;
    return KELPIE_OK;
}

/* What was asked for by name: an unreadable one is as wrong as a malformed one. */
static enum kelpie_status inspect_named(struct host *host, const char *path, const char *who,
                                        struct image_kernel *ret_kernel, struct kelpie_error *err) {
    ASSERT(ret_kernel);
    ASSERT(path);
    ASSERT(who);
    enum kelpie_status status = inspect(host, path, ret_kernel, err);
    if (status == KELPIE_NOT_FOUND || status == KELPIE_IO_FAILED) {
        status = error_wrap(err, KELPIE_BAD_CONFIG, "%s", who);
        if (err) {
            snprintf(err->field, sizeof(err->field), "kernel");
        }
    }
    return status;
}

/* The newest name in a folder, by its version, that is older than `name` (empty: of all of them). */
static enum kelpie_status newest_name(struct host *host, const char *folder, const char *prefix,
                                      struct host_dir_entry *name, struct kelpie_error *err) {
    size_t count = 0;
    const char *newest = NULL;
    ASSERT(name);
    ASSERT(folder);
    ASSERT(prefix);
    AUTO_MEM struct host_dir_entry *entries =
        host_allocate(host, HOST_DIR_ENTRY_COUNT_MAX * sizeof(*entries), err);
    if (!entries) {
        return KELPIE_NO_MEMORY;
    }
    TRY(host_dir_list(host, folder, entries, HOST_DIR_ENTRY_COUNT_MAX, &count, err));
    for (size_t i = 0; i < count; i++) {
        const char *candidate = entries[i].name;
        bool fits = strncmp(candidate, prefix, strlen(prefix)) == 0 && candidate[0] != '.';
        bool older = name->name[0] == '\0' || strverscmp(candidate, name->name) < 0;
        if (fits && older && (!newest || strverscmp(candidate, newest) > 0)) {
            newest = candidate;
        }
    }
    if (!newest) {
        return error_set(err, KELPIE_NOT_FOUND, "%s holds no usable kernel", folder);
    }
    snprintf(name->name, sizeof(name->name), "%s", newest);
    return KELPIE_OK;
}

/* The newest usable kernel in a folder like /boot. */
static enum kelpie_status find_in_folder(struct host *host, const char *folder,
                                         struct image_kernel *ret_kernel,
                                         struct kelpie_error *err) {
    struct host_dir_entry name = {.name = ""};
    ASSERT(folder);
    ASSERT(ret_kernel);
    for (size_t i = 0; i < HOST_DIR_ENTRY_COUNT_MAX; i++) {
        struct image_path path;
        TRY(newest_name(host, folder, IMAGE_PREFIX, &name, err));
        TRY(image_path_format(&path, err, "%s/%s", folder, name.name));
        if (inspect(host, path.text, ret_kernel, err) == KELPIE_OK) {
            return KELPIE_OK;
        }
    }
    return error_set(err, KELPIE_NOT_FOUND, "%s holds no usable kernel", folder);
}

/* The newest package in the cache that holds a usable kernel. */
static enum kelpie_status find_in_cache(struct host *host, struct image_kernel *ret_kernel,
                                        struct kelpie_error *err) {
    struct host_dir_entry name = {.name = ""};
    struct image_path shelf;
    ASSERT(host);
    ASSERT(ret_kernel);
    TRY(image_cache_folder(host, SHELF, &shelf, err));
    for (size_t i = 0; i < HOST_DIR_ENTRY_COUNT_MAX; i++) {
        struct image_path boot;
        TRY(newest_name(host, shelf.text, "", &name, err));
        TRY(image_path_format(&boot, err, "%s/%s/boot", shelf.text, name.name));
        if (find_in_folder(host, boot.text, ret_kernel, err) == KELPIE_OK) {
            return KELPIE_OK;
        }
    }
    return error_set(err, KELPIE_NOT_FOUND, "%s holds no usable kernel", shelf.text);
}

static enum kelpie_status fetch(struct host *host, const struct host_wait *wait,
                                struct image_kernel *ret_kernel, struct kelpie_error *err) {
    char package[PACKAGE_NAME_SIZE];
    struct image_path folder;
    struct image_path boot;
    AUTO_FD struct host_fd lock = {host, HOST_FD_NONE};
    ASSERT(ret_kernel);
    TRY(image_cache_lock(host, SHELF, wait, &lock.fd, err));
    if (find_in_cache(host, ret_kernel, err) == KELPIE_OK) {
        return KELPIE_OK; /* Another process fetched it while we waited. */
    }
    image_cache_sweep(host, SHELF);
    TRY(image_package_dependency(host, PACKAGE, wait, package, sizeof(package), err));
    ASSERT(package[0] != '\0');
    TRY(image_package_fetch(host, SHELF, package, wait, &folder, err));
    TRY(image_path_format(&boot, err, "%s/boot", folder.text));
    return find_in_folder(host, boot.text, ret_kernel, err);
}

/* The running system's own kernel, or the newest installed one. */
static enum kelpie_status find_in_boot(struct host *host, struct image_kernel *ret_kernel,
                                       struct kelpie_error *err) {
    AUTO_MEM char *release = NULL;
    size_t size = 0;
    struct image_path path;
    ASSERT(host);
    ASSERT(ret_kernel);
    if (host_file_load(host, "/proc/sys/kernel/osrelease", IMAGE_RELEASE_SIZE_MAX, &release, &size,
                       err) == KELPIE_OK) {
        release[strcspn(release, "\n")] = '\0';
        TRY(image_path_format(&path, err, "/boot/" IMAGE_PREFIX "%s", release));
        if (image_path_is_plain(release) &&
            inspect(host, path.text, ret_kernel, err) == KELPIE_OK) {
            return KELPIE_OK;
        }
    }
    return find_in_folder(host, "/boot", ret_kernel, err);
}

enum kelpie_status image_kernel_find(struct host *host, const char *requested,
                                     const struct host_wait *wait, struct image_kernel *ret_kernel,
                                     struct kelpie_error *err) {
    ASSERT(wait);
    ASSERT(ret_kernel);
    struct kelpie_error why;
    const char *named = host_environment(host, "KELPIE_KERNEL");
    if (requested) {
        return inspect_named(host, requested, "the config", ret_kernel, err);
    }
    if (named) {
        return inspect_named(host, named, "KELPIE_KERNEL", ret_kernel, err);
    }
    if (find_in_cache(host, ret_kernel, err) == KELPIE_OK) {
        return KELPIE_OK;
    }
    enum kelpie_status status = fetch(host, wait, ret_kernel, &why);
    if (status == KELPIE_TIMED_OUT || status == KELPIE_CANCELLED) {
        return error_set(err, status, "fetching " PACKAGE ": %.900s", why.message);
    }
    if (status == KELPIE_OK || find_in_boot(host, ret_kernel, err) == KELPIE_OK) {
        return KELPIE_OK;
    }
    return error_set(
        err, KELPIE_NOT_FOUND,
        "there is no guest kernel: none was named (--kernel, KELPIE_KERNEL), the cache "
        "and /boot hold none, and fetching Debian's " PACKAGE " failed (%.400s); name "
        "a bzImage, or run apt-get update and try again",
        why.message);
}
