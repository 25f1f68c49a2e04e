/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "krun/library.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/error.h"

/* A function of the library, and where in a struct of functions it goes. */
struct symbol {
    const char *name;
    size_t offset;
};

#define SYMBOL_1(name)                                                                             \
    { "krun_" #name, offsetof(struct krun_functions_1, name) }
#define SYMBOL_2(name)                                                                             \
    { "krun_" #name, offsetof(struct krun_functions_2, name) }

static const struct symbol symbols_1[] = {
    SYMBOL_1(create_ctx),
    SYMBOL_1(free_ctx),
    SYMBOL_1(set_vm_config),
    SYMBOL_1(set_kernel),
    SYMBOL_1(disable_implicit_vsock),
    SYMBOL_1(disable_implicit_console),
    SYMBOL_1(add_virtio_console_multiport),
    SYMBOL_1(add_console_port_tty),
    SYMBOL_1(add_console_port_inout),
    SYMBOL_1(start_enter),
    SYMBOL_1(init_log),
    SYMBOL_1(add_disk2),
};

/* What it may have been built without. */
static const struct symbol symbols_1_stream[] = {SYMBOL_1(add_net_unixstream)};
static const struct symbol symbols_1_tap[] = {SYMBOL_1(add_net_tap)};
static_assert(sizeof(struct krun_functions_1) ==
                  (ARRAY_SIZE(symbols_1) + ARRAY_SIZE(symbols_1_stream) +
                   ARRAY_SIZE(symbols_1_tap)) *
                      sizeof(void *),
              "all");

static const struct symbol symbols_2[] = {
    SYMBOL_2(init_log),
    SYMBOL_2(payload_load_krunfw),
    SYMBOL_2(payload_append_cmdline),
    SYMBOL_2(mmio_device_manager_new),
    SYMBOL_2(mmio_device_manager_add),
    SYMBOL_2(console_device_builder),
    SYMBOL_2(console_builder_add_tty_port),
    SYMBOL_2(console_builder_add_inout_port),
    SYMBOL_2(console_builder_build),
    SYMBOL_2(rng_device_new),
    SYMBOL_2(vmm_builder_new),
    SYMBOL_2(vmm_builder_vcpus),
    SYMBOL_2(vmm_builder_ram_mib),
    SYMBOL_2(vmm_builder_payload),
    SYMBOL_2(vmm_builder_devices),
    SYMBOL_2(vmm_builder_build),
    SYMBOL_2(vmm_run),
    SYMBOL_2(error_message),
    SYMBOL_2(error_destroy),
    SYMBOL_2(block_device_new),
    SYMBOL_2(block_device_set_read_only),
};

static const struct symbol symbols_2_stream[] = {SYMBOL_2(net_device_new_unixstream_fd)};
static const struct symbol symbols_2_pause[] = {
    SYMBOL_2(vmm_handle),
    SYMBOL_2(vmm_handle_pause),
    SYMBOL_2(vmm_handle_resume),
};
static_assert(sizeof(struct krun_functions_2) ==
                  (ARRAY_SIZE(symbols_2) + ARRAY_SIZE(symbols_2_stream) +
                   ARRAY_SIZE(symbols_2_pause)) *
                      sizeof(void *),
              "all");

/* The released one first. Its kernel: the soname that every libkrun since 1.16 asks for. */
static const char *const library_names[] = {"libkrun.so.1", "libkrun.so.2"};
static const char *const kernel_names[] = {"libkrunfw.so.5"};

/* ---- Functions -------------------------------------------------------------------------------- */

/* The first that is not there; NULL: all are. */
static const char *find_all(void *handle, const struct symbol *symbols, size_t count,
                            void *functions) {
    ASSERT(handle && symbols);
    ASSERT(functions);
    for (size_t i = 0; i < count; i++) {
        void *address = dlsym(handle, symbols[i].name);
        if (!address) {
            return symbols[i].name;
        }
        /* POSIX: a function's address fits. */
        memcpy((uint8_t *)functions + symbols[i].offset, &address, sizeof(address));
    }
    return NULL;
}

/* The bit, when all of them are there. */
static uint32_t find_some(void *handle, const struct symbol *symbols, size_t count, void *functions,
                          enum krun_can can) {
    ASSERT(count > 0);
    ASSERT(can != 0);
    return find_all(handle, symbols, count, functions) ? 0 : (uint32_t)can;
}

static uint32_t find_more_1(void *handle, struct krun_functions_1 *functions) {
    ASSERT(handle);
    ASSERT(functions);
    return find_some(handle, symbols_1_stream, ARRAY_SIZE(symbols_1_stream), functions,
                     KRUN_CAN_STREAM) |
           find_some(handle, symbols_1_tap, ARRAY_SIZE(symbols_1_tap), functions, KRUN_CAN_TAP);
}

static uint32_t find_more_2(void *handle, struct krun_functions_2 *functions) {
    ASSERT(handle);
    ASSERT(functions);
    return find_some(handle, symbols_2_stream, ARRAY_SIZE(symbols_2_stream), functions,
                     KRUN_CAN_STREAM) |
           find_some(handle, symbols_2_pause, ARRAY_SIZE(symbols_2_pause), functions,
                     KRUN_CAN_PAUSE);
}

static enum kelpie_status lacks(const char *path, const char *name, struct kelpie_error *err) {
    ASSERT(path && name);
    ASSERT(name[0] != '\0');
    if (strcmp(name, "krun_disable_implicit_vsock") == 0) {
        return error_set(err, KELPIE_BACKEND_MISSING,
                         "%.512s is older than libkrun 1.17 (it has no %s): its guests would have "
                         "this host's network",
                         path, name);
    }
    bool disks = strstr(name, "add_disk") || strstr(name, "block_device");
    return error_set(err, KELPIE_BACKEND_MISSING, "%.512s has no %s%s", path, name,
                     disks ? ": it was built without disks (BLK=1)"
                           : ": it is another version of libkrun than 1.17 or later and 2");
}

static enum kelpie_status find_functions(void *handle, struct krun_library *library,
                                         struct kelpie_error *err) {
    const char *missing = NULL;
    ASSERT(handle);
    ASSERT(library->path[0] != '\0');
    if (dlsym(handle, "krun_vmm_builder_new")) {
        library->abi = 2;
        missing = find_all(handle, symbols_2, ARRAY_SIZE(symbols_2), &library->v2);
        library->can = find_more_2(handle, &library->v2);
    } else if (dlsym(handle, "krun_create_ctx")) {
        library->abi = 1;
        missing = find_all(handle, symbols_1, ARRAY_SIZE(symbols_1), &library->v1);
        library->can = find_more_1(handle, &library->v1);
    } else {
        return error_set(err, KELPIE_BACKEND_MISSING,
                         "%.512s is not libkrun: it has neither krun_create_ctx nor "
                         "krun_vmm_builder_new",
                         library->path);
    }
    return missing ? lacks(library->path, missing, err) : KELPIE_OK;
}

/* ---- Files ------------------------------------------------------------------------------------ */

bool krun_version_parse(const char *path, char *ret_version, size_t size) {
    ASSERT(path && ret_version);
    ASSERT(size > 0);
    const char *slash = strrchr(path, '/');
    const char *mark = strstr(slash ? slash : path, ".so.");
    const char *version = mark ? mark + strlen(".so.") : "";
    size_t length = strspn(version, "0123456789.");
    if (length == 0 || version[length] != '\0' || length >= size || !strchr(version, '.')) {
        return false;
    }
    memcpy(ret_version, version, length + 1);
    return true;
}

/* The file that has this function, without links. */
static void where(void *address, const char *asked, char ret_path[KELPIE_PATH_SIZE_MAX + 1]) {
    Dl_info info = {0};
    ASSERT(address && asked);
    ASSERT(ret_path);
    const char *path = dladdr(address, &info) != 0 && info.dli_fname ? info.dli_fname : asked;
    char *real = realpath(path, NULL);
    snprintf(ret_path, KELPIE_PATH_SIZE_MAX + 1, "%s", real ? real : path);
    free(real);
}

/* Loads what is asked for, else the first of the names that there is. NULL: why is in text. */
static void *load(const char *asked, const char *const *names, size_t name_count, int flags,
                  char text[KRUN_ERROR_TEXT_SIZE]) {
    ASSERT(asked && names);
    ASSERT(name_count > 0);
    bool any = asked[0] == '\0';
    size_t used = 0;
    text[0] = '\0';
    for (size_t i = 0; i < (any ? name_count : 1); i++) {
        void *handle = dlopen(any ? names[i] : asked, RTLD_NOW | flags);
        if (handle) {
            return handle;
        }
        const char *why = dlerror();
        int size = snprintf(text + used, KRUN_ERROR_TEXT_SIZE - used, "%s%s", used > 0 ? "; " : "",
                            why ? why : "no reason given");
        ASSERT(size > 0);
        used = used + (size_t)size < KRUN_ERROR_TEXT_SIZE ? used + (size_t)size
                                                          : KRUN_ERROR_TEXT_SIZE - 1;
    }
    return NULL;
}

static enum kelpie_status load_kernel(struct krun_library *library, const char *path,
                                      struct kelpie_error *err) {
    char text[KRUN_ERROR_TEXT_SIZE];
    ASSERT(library);
    ASSERT(path);
    /* Its symbols are for all: libkrun 2 loads it by its soname, and so finds this one. */
    void *handle = load(path, kernel_names, ARRAY_SIZE(kernel_names), RTLD_GLOBAL, text);
    if (!handle) {
        return error_set(err, KELPIE_BACKEND_MISSING, "libkrunfw cannot be loaded: %s", text);
    }
    void *address = dlsym(handle, "krunfw_get_kernel");
    if (!address) {
        return error_set(err, KELPIE_BACKEND_MISSING,
                         "%.512s is not libkrunfw: it has no krunfw_get_kernel", path);
    }
    memcpy(&library->get_kernel, &address, sizeof(address));
    where(address, path, library->kernel_path);
    return KELPIE_OK;
}

enum kelpie_status krun_library_load(struct krun_library *library, const char *path,
                                     const char *kernel_path, struct kelpie_error *err) {
    char text[KRUN_ERROR_TEXT_SIZE];
    ASSERT(library);
    ASSERT(path && kernel_path);
    *library = (struct krun_library){0};
    void *handle = load(path, library_names, ARRAY_SIZE(library_names), RTLD_LOCAL, text);
    if (!handle) {
        return error_set(err, KELPIE_BACKEND_MISSING, "libkrun cannot be loaded: %s", text);
    }
    snprintf(library->path, sizeof(library->path), "%s", path[0] ? path : "libkrun");
    TRY(find_functions(handle, library, err));
    where(dlsym(handle, library->abi == 2 ? "krun_vmm_builder_new" : "krun_create_ctx"), path,
          library->path);
    if (!krun_version_parse(library->path, library->version, sizeof(library->version))) {
        snprintf(library->version, sizeof(library->version), "%s",
                 library->abi == 2 ? "2" : "1.17 or later");
    }
    return load_kernel(library, kernel_path, err);
}
