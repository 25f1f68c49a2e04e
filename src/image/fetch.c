/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * fetch.c: gets a Debian package by apt, which checks its signature, and unpacks it into the cache. Nothing is
 * installed and nothing of the system changes.
 */
#include "image/image_internal.h"

#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"
#include "base/cleanup.h"

#define PACKAGE_NAME_SIZE_MAX 200
#define FOLDER_MODE 0700

/* Debian policy 5.6.7 and 5.6.12, and what apt makes of them in a file's name ("%3a" for ':'). */
static bool name_is_valid(const char *name, size_t size) {
    static const char valid[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                "+.-_~%";
    ASSERT(name);
    ASSERT(size <= strlen(name));
    return size > 0 && size <= PACKAGE_NAME_SIZE_MAX && strspn(name, valid) >= size &&
           name[0] != '.' && name[0] != '-';
}

enum kelpie_status image_package_dependency(struct host *host, const char *package,
                                            const struct host_wait *wait, char *ret_name,
                                            size_t size, struct kelpie_error *err) {
    static const char key[] = "\nDepends: ";
    ASSERT(name_is_valid(package, strlen(package)));
    ASSERT(ret_name);
    const char *const argv[] = {"apt-cache", "show", "--no-all-versions", package, NULL};
    AUTO_MEM char *output = NULL;
    TRY(image_program_run(host, &(struct image_program){.argv = argv, .passed_fd = HOST_FD_NONE},
                          wait, &output, err));
    const char *found = strstr(output, key);
    found = found ? found + strlen(key) : "";
    size_t length = strcspn(found, " ,|\n");
    if (!name_is_valid(found, length) || length >= size) {
        return error_set(err, KELPIE_NOT_FOUND,
                         "apt-cache names no package that %s depends on; run apt-get update",
                         package);
    }
    memcpy(ret_name, found, length);
    ret_name[length] = '\0';
    return KELPIE_OK;
}

/* The name of the one package in the folder, without .deb. */
static enum kelpie_status find_download(struct host *host, const char *folder,
                                        struct host_dir_entry *ret_name, struct kelpie_error *err) {
    ASSERT(folder);
    ASSERT(ret_name);
    size_t count = 0;
    struct host_dir_entry entries[8];
    TRY(host_dir_list(host, folder, entries, ARRAY_SIZE(entries), &count, err));
    for (size_t i = 0; i < count; i++) {
        size_t size = strlen(entries[i].name);
        if (size > 4 && strcmp(entries[i].name + size - 4, ".deb") == 0 &&
            name_is_valid(entries[i].name, size)) {
            *ret_name = entries[i];
            ret_name->name[size - 4] = '\0';
            return KELPIE_OK;
        }
    }
    return error_set(err, KELPIE_NOT_FOUND, "apt-get download left no package in %s", folder);
}

/* In a temporary folder: the package, and beside it what it unpacks to, which is then renamed. */
static enum kelpie_status fetch_into(struct host *host, const char *package,
                                     const struct host_wait *wait, const char *folder,
                                     struct host_dir_entry *ret_name, struct kelpie_error *err) {
    ASSERT(name_is_valid(package, strlen(package)));
    ASSERT(folder[0] == '/');
    const char *const argv[] = {"apt-get", "-qq", "download", package, NULL};
    const struct image_program program = {
        .argv = argv, .working_dir = folder, .passed_fd = HOST_FD_NONE};
    AUTO_MEM char *output = NULL;
    struct host_dir_entry name;
    struct image_path package_path;
    struct image_path root;
    TRY(image_program_run(host, &program, wait, &output, err));
    TRY(find_download(host, folder, &name, err));
    TRY(image_path_format(&package_path, err, "%s/%s.deb", folder, name.name));
    TRY(image_path_format(&root, err, "%s/root", folder));
    TRY(host_path_mkdir(host, root.text, FOLDER_MODE, err));
    TRY(image_package_unpack(host, package_path.text, root.text, wait, err));
    TRY(host_path_sync(host, root.text, err));
    *ret_name = name;
    return KELPIE_OK;
}

enum kelpie_status image_package_fetch(struct host *host, const char *kind, const char *package,
                                       const struct host_wait *wait, struct image_path *ret_folder,
                                       struct kelpie_error *err) {
    ASSERT(image_path_is_plain(kind));
    ASSERT(ret_folder);
    struct host_wait limited = host_wait_ms(host, IMAGE_FETCH_TIMEOUT_MS, wait->cancel_fd);
    limited.deadline_ns = min_u64(limited.deadline_ns, wait->deadline_ns);
    struct image_path shelf;
    struct image_path temporary;
    struct image_path made;
    struct image_path target;
    struct host_dir_entry name;
    TRY(image_cache_folder(host, kind, &shelf, err));
    TRY(image_cache_temporary(host, kind, &temporary, err));
    TRY(host_path_mkdir(host, temporary.text, FOLDER_MODE, err));
    enum kelpie_status status = fetch_into(host, package, &limited, temporary.text, &name, err);
    if (status == KELPIE_OK) {
        status = image_path_format(&made, err, "%s/root", temporary.text);
    }
    if (status == KELPIE_OK) {
        status = image_path_format(&target, err, "%s/%s", shelf.text, name.name);
    }
    if (status == KELPIE_OK && !image_path_exists(host, target.text)) {
        status = host_path_rename(host, made.text, target.text, false, err);
    }
    enum kelpie_status ignored = image_tree_remove(host, temporary.text, NULL);
    (void)ignored;
    TRY(status);
    *ret_folder = target;
    return host_path_sync(host, shelf.text, err);
}
