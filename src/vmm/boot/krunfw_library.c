/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vmm/boot/krunfw_library.h"

#include <dlfcn.h>
#include <string.h>

#include "base/assert.h"

/* The library's one function that matters, as its version 5 has it. The bytes stay its own. */
typedef char *krunfw_get_kernel_function(uint64_t *ret_load, uint64_t *ret_entry, size_t *ret_size);

enum kelpie_status krunfw_library_open(const char *path, struct krunfw_library *ret_library,
                                       struct kelpie_error *err) {
    ASSERT(ret_library);
    ASSERT(!path || path[0] != '\0');
    const char *name = path ? path : KRUNFW_LIBRARY_DEFAULT;
    struct krunfw_library library = {.handle = dlopen(name, RTLD_NOW | RTLD_LOCAL)};
    if (!library.handle) {
        const char *why = dlerror();
        return error_set_field(err, KELPIE_BACKEND_MISSING, "kernel",
                               "the library %s cannot be loaded: %s; install libkrunfw", name,
                               why ? why : "no reason given");
    }
    krunfw_get_kernel_function *get_kernel = NULL;
    void *symbol = dlsym(library.handle, "krunfw_get_kernel");
    static_assert(sizeof(get_kernel) == sizeof(symbol), "POSIX: a function's address fits");
    memcpy(&get_kernel, &symbol, sizeof(get_kernel));
    if (get_kernel) {
        library.kernel.data = (const uint8_t *)get_kernel(&library.load_gpa, &library.entry_gpa,
                                                          &library.kernel.size);
    }
    if (!library.kernel.data || library.kernel.size == 0) {
        krunfw_library_close(&library);
        return error_set_field(err, KELPIE_BACKEND_MISSING, "kernel",
                               "%s gives no kernel: it is not libkrunfw 5", name);
    }
    *ret_library = library;
    return KELPIE_OK;
}

void krunfw_library_close(struct krunfw_library *library) {
    ASSERT(library);
    if (library->handle) {
        (void)dlclose(library->handle);
    }
    *library = (struct krunfw_library){.handle = NULL};
    ASSERT(!library->kernel.data);
}
