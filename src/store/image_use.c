/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Which VMs of the store have which image. */
#include "store/image_store.h"

#include <string.h>

#include "base/assert.h"
#include "base/error.h"

#define DIGEST_PREFIX "sha256:"

enum kelpie_status image_users_read(struct host *host, struct image_users *ret_users,
                                    struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(ret_users && !ret_users->vms);
    return kelpie_vm_list(host, &ret_users->vms, &ret_users->count, err);
}

void image_users_deinit(struct image_users *users) {
    ASSERT(users);
    ASSERT(users->vms || users->count == 0);
    kelpie_list_free(users->vms);
    users->vms = NULL;
    users->count = 0;
}

/* Whether what a config says of its image means this one. A digest's beginning means all that begin so. */
static bool means(const char *said, const char *name, const char *digest) {
    ASSERT(said[0] != '\0');
    ASSERT(digest);
    if (name[0] != '\0' && strcmp(said, name) == 0) {
        return true;
    }
    const char *digits = digest + strlen(DIGEST_PREFIX);
    return strncmp(digest, said, strlen(said)) == 0 || strncmp(digits, said, strlen(said)) == 0;
}

const char *image_users_find(const struct image_users *users, const char *name,
                             const char *digest) {
    ASSERT(users);
    ASSERT(strncmp(digest, DIGEST_PREFIX, strlen(DIGEST_PREFIX)) == 0);
    for (size_t i = 0; i < users->count; i++) {
        const struct kelpie_vm_info *vm = &users->vms[i];
        bool has = vm->image_digest[0] != '\0'
                       ? strcmp(vm->image_digest, digest) == 0
                       : vm->image[0] != '\0' && means(vm->image, name, digest);
        if (has) {
            return vm->name;
        }
    }
    return NULL;
}
