/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "host/host_krunfw.h"
#include "host/host_linux.h"

/* The library's one function that matters, as its version 5 has it. The bytes stay its own. */
typedef char *krunfw_get_kernel(uint64_t *ret_load, uint64_t *ret_entry, size_t *ret_size);

/* Asks the library and copies what it gives. */
static enum kelpie_status copy_kernel(struct host *host, void *library, const char *path,
                                      struct host_krunfw *ret_kernel, struct kelpie_error *err) {
    struct host_krunfw kernel = {.fd = HOST_FD_NONE};
    AUTO_FD struct host_fd file = {host, HOST_FD_NONE};
    krunfw_get_kernel *get_kernel = NULL;
    const char *bytes = NULL;
    size_t size = 0;
    ASSERT(library);
    ASSERT(ret_kernel);
    void *symbol = dlsym(library, HOST_KRUNFW_SYMBOL);
    static_assert(sizeof(get_kernel) == sizeof(symbol), "POSIX: a function's address fits");
    memcpy(&get_kernel, &symbol, sizeof(get_kernel));
    if (get_kernel) {
        bytes = get_kernel(&kernel.load_gpa, &kernel.entry_gpa, &size);
    }
    if (!bytes || size == 0 || size > HOST_KRUNFW_SIZE_MAX) {
        return error_set_field(
            err, KELPIE_BAD_CONFIG, "kernel",
            "%.512s gives no kernel of at most %llu bytes: it is not libkrunfw 5", path,
            HOST_KRUNFW_SIZE_MAX);
    }
    kernel.size = size;
    TRY(linux_memory_file(host, "kelpie-kernel", size, &file.fd, err));
    TRY(linux_file_write_at(host, file.fd, bytes, size, 0, err));
    kernel.fd = host_fd_take(&file);
    *ret_kernel = kernel;
    return KELPIE_OK;
}

enum kelpie_status linux_krunfw_load(struct host *host, const char *path,
                                     struct host_krunfw *ret_kernel, struct kelpie_error *err) {
    char file[HOST_PATH_SIZE_MAX + sizeof("./")];
    ASSERT(path && path[0] != '\0');
    ASSERT(ret_kernel);
    /* A name without a slash would be searched for in the system's folders. */
    int length = snprintf(file, sizeof(file), "%s%s", strchr(path, '/') ? "" : "./", path);
    if (length < 0 || (size_t)length >= sizeof(file)) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "kernel", "the path is too long");
    }
    void *library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        const char *why = dlerror();
        return error_set_field(err, KELPIE_BAD_CONFIG, "kernel", "%.256s cannot be loaded: %.512s",
                               path, why ? why : "no reason given");
    }
    enum kelpie_status status = copy_kernel(host, library, path, ret_kernel, err);
    (void)dlclose(library);
    return status;
}
