/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Which VMs and snapshots of the store have which image. */
#include "store/image_store.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/error.h"

#define DIGEST_PREFIX "sha256:"

enum kelpie_status image_users_read(struct store *store, struct image_users *ret_users,
                                    struct kelpie_error *err) {
    ASSERT(store);
    ASSERT(ret_users && !ret_users->vms && !ret_users->snapshots);
    TRY(kelpie_vm_list(store->host, &ret_users->vms, &ret_users->count, err));
    return store_snapshot_images(store, &ret_users->snapshots, &ret_users->snapshot_count, err);
}

void image_users_deinit(struct image_users *users) {
    ASSERT(users);
    ASSERT(users->vms || users->count == 0);
    kelpie_list_free(users->vms);
    free(users->snapshots);
    *users = (struct image_users){0};
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

struct image_user image_users_find(const struct image_users *users, const char *name,
                                   const char *digest) {
    ASSERT(users);
    ASSERT(strncmp(digest, DIGEST_PREFIX, strlen(DIGEST_PREFIX)) == 0);
    for (size_t i = 0; i < users->count; i++) {
        const struct kelpie_vm_info *vm = &users->vms[i];
        if (vm->status != KELPIE_OK) { /* nobody knows which it has */
            return (struct image_user){"unreadable VM", vm->name};
        }
        bool has = vm->image_digest[0] != '\0'
                       ? strcmp(vm->image_digest, digest) == 0
                       : vm->image[0] != '\0' && means(vm->image, name, digest);
        if (has) {
            return (struct image_user){"VM", vm->name};
        }
    }
    for (size_t i = 0; i < users->snapshot_count; i++) {
        if (strcmp(users->snapshots[i].digest, digest) == 0) {
            return (struct image_user){"snapshot", users->snapshots[i].name};
        }
    }
    return (struct image_user){0};
}
