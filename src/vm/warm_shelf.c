/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vm/warm_shelf.h"

#include <stdio.h>

#include "base/assert.h"
#include "base/error.h"

enum kelpie_status vm_shelf_path(struct host *host, const char *key, char *path, size_t size,
                                 struct kelpie_error *err) {
    ASSERT(key[0]);
    ASSERT(size > 0);
    const char *base = host_environment(host, "XDG_STATE_HOME");
    const char *middle = "";
    if (!base || base[0] != '/') {
        base = host_environment(host, "HOME");
        middle = "/.local/state";
    }
    if (!base || base[0] != '/') {
        return error_set(err, KELPIE_BAD_CONFIG, "there is no place for templates: set HOME");
    }
    int length = snprintf(path, size, "%s%s/kelpie/templates", base, middle);
    if (length < 0 || (size_t)length + 80 >= size) {
        return error_set(err, KELPIE_BAD_CONFIG, "the path of templates is too long");
    }
    TRY(host_path_mkdir_all(host, path, 0700, err));
    length += snprintf(path + length, size - (size_t)length, "/%s", key);
    return KELPIE_OK;
}

void vm_shelf_discard(struct host *host, const char *path) {
    ASSERT(host);
    ASSERT(path[0]);
    (void)!host_path_remove_folder(host, path, NULL);
}
