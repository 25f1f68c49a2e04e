/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "image/image_internal.h"

#include <string.h>

#include "base/assert.h"
#include "base/checked.h"
#include "base/cleanup.h"

#define PACKAGE "busybox-static"
#define SHELF "busybox"
#define SHELF_COUNT_MAX 64
#define ELF_HEAD_SIZE 4096 /* program headers stand right behind the ELF header */

static bool is_static(struct host *host, const char *path) {
    ASSERT(host);
    ASSERT(path);
    uint8_t head[ELF_HEAD_SIZE];
    size_t size = 0;
    AUTO_FD struct host_fd fd = {host, HOST_FD_NONE};
    return host_file_open(host, path, HOST_OPEN_READ, 0, &fd.fd, NULL) == KELPIE_OK &&
           host_file_read_at(host, fd.fd, head, sizeof(head), 0, &size, NULL) == KELPIE_OK &&
           image_elf_is_static(head, size);
}

static bool find_in_cache(struct host *host, struct image_path *ret_path) {
    ASSERT(host);
    ASSERT(ret_path);
    struct image_path shelf;
    struct host_dir_entry entries[SHELF_COUNT_MAX];
    size_t count = 0;
    if (image_cache_folder(host, SHELF, &shelf, NULL) != KELPIE_OK ||
        host_dir_list(host, shelf.text, entries, SHELF_COUNT_MAX, &count, NULL) != KELPIE_OK) {
        return false;
    }
    for (size_t i = count; i > 0; i--) {
        struct image_path path;
        if (image_path_format(&path, NULL, "%s/%s/bin/busybox", shelf.text, entries[i - 1].name) ==
                KELPIE_OK &&
            is_static(host, path.text)) {
            *ret_path = path;
            return true;
        }
    }
    return false;
}

static enum kelpie_status fetch(struct host *host, const struct host_wait *wait,
                                struct image_path *ret_path, struct kelpie_error *err) {
    ASSERT(wait);
    ASSERT(ret_path);
    struct image_path folder;
    struct image_path path;
    AUTO_FD struct host_fd lock = {host, HOST_FD_NONE};
    TRY(image_cache_lock(host, SHELF, wait, &lock.fd, err));
    if (find_in_cache(host, ret_path)) {
        return KELPIE_OK; /* Another process fetched it while we waited. */
    }
    image_cache_sweep(host, SHELF);
    TRY(image_package_fetch(host, SHELF, PACKAGE, wait, &folder, err));
    TRY(image_path_format(&path, err, "%s/bin/busybox", folder.text));
    if (!is_static(host, path.text)) {
        return error_set(err, KELPIE_NOT_FOUND, "the package " PACKAGE " has no static busybox");
    }
    *ret_path = path;
    return KELPIE_OK;
}

enum kelpie_status image_busybox_find(struct host *host, const struct host_wait *wait,
                                      struct image_path *ret_path, struct kelpie_error *err) {
    static const char *const places[] = {"/bin/busybox", "/usr/bin/busybox"};
    ASSERT(host);
    ASSERT(ret_path);
    const char *named = host_environment(host, "KELPIE_BUSYBOX");
    if (named) {
        if (!is_static(host, named)) {
            return error_set(err, KELPIE_NOT_FOUND,
                             "KELPIE_BUSYBOX: %s is no static program for this machine", named);
        }
        return image_path_format(ret_path, err, "%s", named);
    }
    for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
        if (is_static(host, places[i])) {
            return image_path_format(ret_path, err, "%s", places[i]);
        }
    }
    if (find_in_cache(host, ret_path)) {
        return KELPIE_OK;
    }
    enum kelpie_status status = fetch(host, wait, ret_path, err);
    if (status != KELPIE_OK && status != KELPIE_TIMED_OUT && status != KELPIE_CANCELLED) {
        return error_wrap(err, KELPIE_NOT_FOUND,
                          "there is no static busybox: install busybox-static or set "
                          "KELPIE_BUSYBOX");
    }
    return status;
}

/* Applets become file names in the archive: one part, printable. "[" is one of them. */
static bool applet_is_valid(struct image_slice name) {
    ASSERT(name.size <= IMAGE_PROGRAM_OUTPUT_SIZE_MAX);
    ASSERT(name.data);
    bool dots = (name.size == 1 && name.data[0] == '.') ||
                (name.size == 2 && name.data[0] == '.' && name.data[1] == '.');
    if (dots || name.size == 0 || name.size > IMAGE_APPLET_NAME_SIZE_MAX) {
        return false;
    }
    for (size_t i = 0; i < name.size; i++) {
        if (name.data[i] <= ' ' || name.data[i] > '~' || name.data[i] == '/') {
            return false;
        }
    }
    return true;
}

enum kelpie_status image_busybox_applets(struct host *host, const char *path,
                                         const struct host_wait *wait,
                                         struct image_applet_list **ret_list,
                                         struct kelpie_error *err) {
    ASSERT(path);
    ASSERT(ret_list);
    const char *const argv[] = {path, "--list", NULL};
    const struct image_program program = {.argv = argv, .passed_fd = HOST_FD_NONE};
    AUTO_MEM struct image_applet_list *list = host_allocate(host, sizeof(*list), err);
    AUTO_MEM char *output = NULL;
    if (!list) {
        return KELPIE_NO_MEMORY;
    }
    /* The caller's time may be that of a download, and others wait for the images meanwhile. */
    struct host_wait soon = host_wait_ms(host, IMAGE_APPLETS_TIMEOUT_MS, wait->cancel_fd);
    if (wait->deadline_ns < soon.deadline_ns) {
        soon.deadline_ns = wait->deadline_ns;
    }
    TRY(image_program_run(host, &program, &soon, &output, err));
    struct image_slice text = {output, strlen(output)};
    struct image_slice name;
    while (image_slice_line(&text, &name)) {
        if (list->count == IMAGE_APPLET_COUNT_MAX || !applet_is_valid(name)) {
            return error_set(err, KELPIE_BAD_CONFIG, "%s --list does not print applet names", path);
        }
        if (name.size != strlen("busybox") || memcmp(name.data, "busybox", name.size) != 0) {
            memcpy(list->names[list->count++], name.data, name.size);
        }
    }
    *ret_list = TAKE(list);
    return KELPIE_OK;
}
