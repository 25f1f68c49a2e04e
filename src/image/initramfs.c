/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * initramfs.c: the archive that the kernel unpacks into its first file system (Linux documentation, "Ramfs, rootfs and
 * initramfs"; "initramfs buffer format" for newc). It is not compressed: a guest under emulation unpacks a
 * plain archive faster than it decompresses a smaller one.
 *
 * THEORY OF OPERATION
 *
 * Equal inputs give equal bytes, so the archive is named by the SHA-256 of its bytes and two processes that
 * build at once write the same file. A stamp (stamp.c) remembers which archive came of which input files,
 * so that the usual start reads no input at all.
 */
#include "image/image_internal.h"

#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"

#define SHELF "initramfs"
#define RECIPE_VERSION 1 /* of the folders, texts and links below; a change makes old stamps void */
#define FILE_MODE 0644
#define PROGRAM_MODE 0755
#define FOLDER_MODE 0755
#define ARCHIVE_MODE 0600
#define MODULE_FOLDER "lib/modules/kelpie/"
#define ARCHIVE_NAME_SIZE (IMAGE_MODULE_NAME_SIZE_MAX + sizeof(MODULE_FOLDER) + sizeof(".ko"))
#define LIST_SIZE_MAX (IMAGE_MODULE_COUNT_MAX * ARCHIVE_NAME_SIZE)

static size_t guest_size(void) {
    return (size_t)((uintptr_t)image_guest_data_end - (uintptr_t)image_guest_data);
}

/* The module lists of the archive. The first is what every guest needs to reach its host, and to tell it of a panic,
 * whichever backend runs it; the others leave out what it loads. ext4 asks for crc32c by its algorithm's name.
 * tests/lab/root.py reads the names from here. */
#define GROUP_COUNT 5
static const struct {
    const char *list_path;
    const char *wanted[8]; /* NULL-terminated */
} groups[GROUP_COUNT] = {
    {"etc/kelpie/modules",
     {"virtio_ring", "virtio", "virtio_mmio", "virtio_pci", "virtio_console", "virtio_rng",
      "pvpanic_mmio", NULL}},
    {"etc/kelpie/modules.disk", {"virtio_blk", "crc32c_generic", "ext4", "overlay", "erofs", NULL}},
    {"etc/kelpie/modules.net", {"virtio_net", NULL}},
    {"etc/kelpie/modules.share", {"fuse", "virtiofs", NULL}},
    {"etc/kelpie/modules.vsock", {"vsock", "vmw_vsock_virtio_transport", "virtio_balloon", NULL}},
};

struct initramfs_inputs {
    struct host *host;
    const struct image_kernel *kernel;
    const struct host_wait *wait;
    struct image_path busybox;
    struct image_applet_list *applets;
    struct image_module_list modules[GROUP_COUNT];
};

static void inputs_destroy(struct initramfs_inputs *inputs) {
    if (inputs) {
        free(inputs->applets);
        free(inputs);
    }
}

static void inputs_cleanup(struct initramfs_inputs **inputs) {
    ASSERT(inputs);
    inputs_destroy(*inputs);
}

/* ---- The modules ------------------------------------------------------------------------------ */

static bool list_has(const struct image_module_list *list, const char *name) {
    ASSERT(name);
    ASSERT(list->count <= IMAGE_MODULE_COUNT_MAX);
    for (size_t i = 0; i < list->count; i++) {
        if (strcmp(list->names[i], name) == 0) {
            return true;
        }
    }
    return false;
}

static enum kelpie_status choose_modules(struct initramfs_inputs *inputs,
                                         struct kelpie_error *err) {
    const char *folder = inputs->kernel->modules_dir;
    ASSERT(inputs->modules[0].count == 0);
    for (size_t i = 0; folder[0] != '\0' && i < GROUP_COUNT; i++) {
        struct image_module_list *list = &inputs->modules[i];
        size_t wanted_count = 0;
        while (groups[i].wanted[wanted_count]) {
            wanted_count++;
        }
        TRY(image_module_order(inputs->host, folder, groups[i].wanted, wanted_count, list, err));
        size_t kept = 0;
        for (size_t j = 0; j < list->count; j++) {
            if (i == 0 || !list_has(&inputs->modules[0], list->names[j])) {
                memmove(list->names[kept++], list->names[j], sizeof(list->names[j]));
            }
        }
        ASSERT(kept <= list->count);
        list->count = kept;
    }
    return KELPIE_OK;
}

/* "kernel/fs/ext4/ext4.ko.xz" is "ext4.ko" in the archive. */
static void archive_name(const char *module, char *ret_name, size_t size) {
    const char *slash = strrchr(module, '/');
    const char *name = slash ? slash + 1 : module;
    const char *end = strstr(name, ".ko");
    int length = end ? (int)(end - name) : (int)strlen(name);
    ASSERT(length >= 0);
    int printed = snprintf(ret_name, size, MODULE_FOLDER "%.*s.ko", length, name);
    ASSERT(printed > 0 && (size_t)printed < size);
}

static enum kelpie_status write_module(const struct initramfs_inputs *inputs, const char *module,
                                       const char *name, struct image_cpio *cpio,
                                       struct kelpie_error *err) {
    struct image_path path;
    AUTO_MEM char *data = NULL;
    struct image_cpio_file file = {.path = name, .mode = FILE_MODE};
    ASSERT(module[0] != '/');
    ASSERT(name[0] != '/');
    TRY(image_path_format(&path, err, "%s/%s", inputs->kernel->modules_dir, module));
    TRY(image_file_load(inputs->host, path.text, IMAGE_MODULE_SIZE_MAX, &data, &file.size, err));
    file.data = data;
    return image_cpio_file(cpio, &file, err);
}

/* The group's modules that no group before it has written, and its list. */
static enum kelpie_status write_group(const struct initramfs_inputs *inputs, size_t group,
                                      struct image_cpio *cpio, struct kelpie_error *err) {
    const struct image_module_list *list = &inputs->modules[group];
    size_t size = 0;
    ASSERT(group < GROUP_COUNT);
    ASSERT(list->count <= IMAGE_MODULE_COUNT_MAX);
    AUTO_MEM char *text = host_allocate(inputs->host, LIST_SIZE_MAX, err);
    if (!text) {
        return KELPIE_NO_MEMORY;
    }
    for (size_t i = 0; i < list->count; i++) {
        char name[ARCHIVE_NAME_SIZE];
        bool written = false;
        archive_name(list->names[i], name, sizeof(name));
        for (size_t j = 0; j < group; j++) {
            written = written || list_has(&inputs->modules[j], list->names[i]);
        }
        if (!written) {
            TRY(write_module(inputs, list->names[i], name, cpio, err));
        }
        size += (size_t)snprintf(text + size, LIST_SIZE_MAX - size, "/%s\n", name);
        ASSERT(size < LIST_SIZE_MAX);
    }
    const struct image_cpio_file file = {
        .path = groups[group].list_path, .mode = FILE_MODE, .data = text, .size = size};
    return image_cpio_file(cpio, &file, err);
}

/* ---- The rest of the archive ------------------------------------------------------------------ */

static enum kelpie_status write_folders(struct image_cpio *cpio, struct kelpie_error *err) {
    static const struct {
        const char *path;
        uint32_t mode;
    } folders[] = {
        {"bin", FOLDER_MODE}, {"dev", FOLDER_MODE},
        {"etc", FOLDER_MODE}, {"etc/kelpie", FOLDER_MODE},
        {"lib", FOLDER_MODE}, {"lib/modules", FOLDER_MODE},
        {"mnt", FOLDER_MODE}, {"proc", FOLDER_MODE},
        {"root", 0700},       {"run", FOLDER_MODE},
        {"sys", FOLDER_MODE}, {"tmp", 01777},
        {"usr", FOLDER_MODE}, {"lib/modules/kelpie", FOLDER_MODE},
    };
    static const struct {
        const char *path;
        const char *target;
    } links[] = {{"sbin", "bin"}, {"usr/bin", "../bin"}, {"usr/sbin", "../bin"}};
    ASSERT(ARRAY_SIZE(links) > 0);
    ASSERT(cpio);
    for (size_t i = 0; i < ARRAY_SIZE(folders); i++) {
        TRY(image_cpio_folder(cpio, folders[i].path, folders[i].mode, err));
    }
    for (size_t i = 0; i < ARRAY_SIZE(links); i++) {
        TRY(image_cpio_link(cpio, links[i].path, links[i].target, err));
    }
    return KELPIE_OK;
}

static enum kelpie_status write_texts(struct image_cpio *cpio, struct kelpie_error *err) {
    static const struct {
        const char *path;
        const char *text;
    } texts[] = {
        {"etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"
                       "nobody:x:65534:65534:nobody:/:/bin/false\n"},
        {"etc/group", "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"},
        {"etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"},
    };
    ASSERT(cpio);
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        const struct image_cpio_file file = {.path = texts[i].path,
                                             .mode = FILE_MODE,
                                             .data = texts[i].text,
                                             .size = strlen(texts[i].text)};
        TRY(image_cpio_file(cpio, &file, err));
    }
    return KELPIE_OK;
}

static enum kelpie_status write_programs(const struct initramfs_inputs *inputs,
                                         struct image_cpio *cpio, struct kelpie_error *err) {
    AUTO_MEM char *busybox = NULL;
    size_t busybox_size = 0;
    ASSERT(guest_size() > 0);
    ASSERT(inputs->applets);
    TRY(host_file_load(inputs->host, inputs->busybox.text, IMAGE_BUSYBOX_SIZE_MAX, &busybox,
                       &busybox_size, err));
    const struct image_cpio_file files[] = {
        {"init", PROGRAM_MODE, image_guest_data, guest_size()},
        {"bin/busybox", PROGRAM_MODE, busybox, busybox_size},
    };
    for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
        TRY(image_cpio_file(cpio, &files[i], err));
    }
    for (size_t i = 0; i < inputs->applets->count; i++) {
        char path[sizeof("bin/") + IMAGE_APPLET_NAME_SIZE_MAX];
        snprintf(path, sizeof(path), "bin/%s", inputs->applets->names[i]);
        TRY(image_cpio_link(cpio, path, "busybox", err));
    }
    return KELPIE_OK;
}

static enum kelpie_status write_archive(const struct initramfs_inputs *inputs,
                                        struct image_cpio *cpio, char ret_digest[IMAGE_DIGEST_SIZE],
                                        struct kelpie_error *err) {
    ASSERT(ret_digest);
    ASSERT(cpio);
    ASSERT(inputs);
    TRY(write_folders(cpio, err));
    TRY(write_texts(cpio, err));
    TRY(write_programs(inputs, cpio, err));
    for (size_t i = 0; i < GROUP_COUNT; i++) {
        TRY(write_group(inputs, i, cpio, err));
    }
    return image_cpio_finish(cpio, ret_digest, err);
}

/* ---- Building and remembering ----------------------------------------------------------------- */

static enum kelpie_status archive_path(struct host *host, const char *digest,
                                       struct image_path *ret_path, struct kelpie_error *err) {
    struct image_path shelf;
    ASSERT(ret_path);
    ASSERT(strlen(digest) == IMAGE_DIGEST_SIZE - 1);
    TRY(image_cache_folder(host, SHELF, &shelf, err));
    return image_path_format(ret_path, err, "%s/%s.cpio", shelf.text, digest);
}

/* Notes every input file, before any of them is read for its content. */
static enum kelpie_status stamp_inputs(const struct initramfs_inputs *inputs,
                                       struct image_stamp *stamp, struct kelpie_error *err) {
    static const char *const texts[] = {"modules.dep", "modules.order", "modules.builtin"};
    struct image_path path;
    const char *folder = inputs->kernel->modules_dir;
    ASSERT(stamp->size == 0);
    TRY(image_stamp_add(stamp, inputs->busybox.text, err));
    for (size_t i = 0; folder[0] != '\0' && i < ARRAY_SIZE(texts); i++) {
        TRY(image_path_format(&path, err, "%s/%s", folder, texts[i]));
        TRY(image_stamp_add(stamp, path.text, err));
    }
    for (size_t i = 0; i < GROUP_COUNT; i++) {
        for (size_t j = 0; j < inputs->modules[i].count; j++) {
            TRY(image_path_format(&path, err, "%s/%s", folder, inputs->modules[i].names[j]));
            TRY(image_stamp_add(stamp, path.text, err));
        }
    }
    ASSERT(stamp->size > 0);
    return KELPIE_OK;
}

/* The stamp's name: what the archive depends on beside files. */
static enum kelpie_status stamp_name(const struct initramfs_inputs *inputs,
                                     char ret_name[IMAGE_DIGEST_SIZE + 16],
                                     struct kelpie_error *err) {
    struct image_path recipe[3];
    char guest[IMAGE_DIGEST_SIZE];
    char digest[IMAGE_DIGEST_SIZE];
    ASSERT(inputs->busybox.text[0] != '\0');
    ASSERT(guest_size() > 0);
    TRY(image_digest_bytes(image_guest_data, guest_size(), guest, err));
    memset(recipe, 0, sizeof(recipe));
    TRY(image_path_format(&recipe[0], err, "%d %s %s", RECIPE_VERSION, guest,
                          inputs->busybox.text));
    TRY(image_path_format(&recipe[1], err, "%s", inputs->kernel->modules_dir));
    for (size_t i = 0; i < GROUP_COUNT; i++) {
        for (size_t j = 0; groups[i].wanted[j]; j++) {
            TRY(image_path_format(&recipe[2], err, "%.3000s %zu:%s", recipe[2].text, i,
                                  groups[i].wanted[j]));
        }
    }
    TRY(image_digest_bytes(recipe, sizeof(recipe), digest, err));
    snprintf(ret_name, IMAGE_DIGEST_SIZE + 16, "initramfs-%s", digest);
    return KELPIE_OK;
}

static enum kelpie_status build_file(const struct initramfs_inputs *inputs, const char *path,
                                     char ret_digest[IMAGE_DIGEST_SIZE], struct kelpie_error *err) {
    struct host *host = inputs->host;
    struct image_cpio *cpio = NULL;
    AUTO_FD struct host_fd fd = {host, HOST_FD_NONE};
    ASSERT(ret_digest);
    ASSERT(path[0] == '/');
    TRY(host_file_open(host, path, HOST_OPEN_WRITE | HOST_OPEN_CREATE | HOST_OPEN_EXCLUSIVE,
                       ARCHIVE_MODE, &fd.fd, err));
    TRY(image_cpio_create(host, fd.fd, &cpio, err));
    enum kelpie_status status = write_archive(inputs, cpio, ret_digest, err);
    image_cpio_destroy(cpio);
    TRY(status);
    return host_file_sync(host, fd.fd, err);
}

static enum kelpie_status build(struct initramfs_inputs *inputs, const char *name,
                                char ret_digest[IMAGE_DIGEST_SIZE], struct kelpie_error *err) {
    struct host *host = inputs->host;
    struct image_path temporary;
    struct image_path target;
    struct image_stamp stamp;
    AUTO_FD struct host_fd lock = {host, HOST_FD_NONE};
    ASSERT(inputs->wait);
    ASSERT(ret_digest);
    ASSERT(name);
    TRY(image_cache_lock(host, SHELF, inputs->wait, &lock.fd, err));
    if (image_stamp_find(host, name, ret_digest)) {
        return KELPIE_OK; /* Another process built it while we waited. */
    }
    image_cache_sweep(host, SHELF);
    TRY(choose_modules(inputs, err));
    TRY(image_busybox_applets(host, inputs->busybox.text, inputs->wait, &inputs->applets, err));
    TRY(image_cache_temporary(host, SHELF, &temporary, err));
    TRY(image_stamp_init(&stamp, host, err));
    enum kelpie_status status = stamp_inputs(inputs, &stamp, err);
    if (status == KELPIE_OK) {
        status = build_file(inputs, temporary.text, ret_digest, err);
    }
    if (status == KELPIE_OK) {
        status = archive_path(host, ret_digest, &target, err);
    }
    if (status == KELPIE_OK) {
        status = host_path_rename(host, temporary.text, target.text, true, err);
    }
    if (status == KELPIE_OK) {
        status = image_stamp_add(&stamp, target.text, err);
    }
    if (status == KELPIE_OK) {
        status = image_stamp_store(&stamp, name, ret_digest, err);
    } else {
        enum kelpie_status ignored = image_tree_remove(host, temporary.text, NULL);
        (void)ignored;
    }
    image_stamp_deinit(&stamp);
    return status;
}

enum kelpie_status image_initramfs_build(struct host *host, const struct image_kernel *kernel,
                                         const struct host_wait *wait, char *ret_path,
                                         size_t path_size, char ret_digest[IMAGE_DIGEST_SIZE],
                                         struct kelpie_error *err) {
    ASSERT(kernel);
    ASSERT(ret_path);
    char name[IMAGE_DIGEST_SIZE + 16];
    char digest[IMAGE_DIGEST_SIZE];
    struct image_path path;
    __attribute__((cleanup(inputs_cleanup))) struct initramfs_inputs *inputs =
        host_allocate(host, sizeof(*inputs), err);
    if (!inputs) {
        return KELPIE_NO_MEMORY;
    }
    inputs->host = host;
    inputs->kernel = kernel;
    inputs->wait = wait;
    TRY(image_busybox_find(host, wait, &inputs->busybox, err));
    TRY(stamp_name(inputs, name, err));
    if (!image_stamp_find(host, name, digest)) {
        TRY(build(inputs, name, digest, err));
    }
    TRY(archive_path(host, digest, &path, err));
    if (strlen(path.text) >= path_size) {
        return error_set(err, KELPIE_BAD_CONFIG, "the cache's path %s is too long", path.text);
    }
    memcpy(ret_path, path.text, strlen(path.text) + 1);
    memcpy(ret_digest, digest, sizeof(digest));
    return KELPIE_OK;
}

enum kelpie_status image_boot_prepare(struct host *host, const char *requested_kernel,
                                      const struct host_wait *wait, struct image_boot *ret_boot,
                                      struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(ret_boot);
    AUTO_MEM struct image_boot *boot = host_allocate(host, sizeof(*boot), err);
    if (!boot) {
        return KELPIE_NO_MEMORY;
    }
    TRY(image_kernel_find(host, requested_kernel, wait, &boot->kernel, err));
    TRY(image_initramfs_build(host, &boot->kernel, wait, boot->initramfs_path,
                              sizeof(boot->initramfs_path), boot->initramfs_digest, err));
    *ret_boot = *boot;
    return KELPIE_OK;
}
