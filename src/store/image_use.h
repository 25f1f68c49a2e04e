/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* image_use.h: which VMs of the store have which image; and a host for as long as a function of the API runs. */
#ifndef KELPIE_STORE_IMAGE_USE_H
#define KELPIE_STORE_IMAGE_USE_H

#include "host/host.h"
#include "kelpie_store.h"

/* The VMs of the store, each with its image. */
struct image_users {
    struct kelpie_vm_info *vms;
    size_t count;
};
KELPIE_CHECKED enum kelpie_status image_users_read(struct host *host, struct image_users *ret_users,
                                                   struct kelpie_error *err);
void image_users_deinit(struct image_users *users);
#define AUTO_USERS __attribute__((cleanup(image_users_deinit)))

/* The name of a VM whose image has that name (may be empty) or digest ("sha256:…"), or NULL. */
const char *image_users_find(const struct image_users *users, const char *name, const char *digest);

/* The host that a caller gave, or this machine. */
struct open_host {
    struct host *host;
    bool owned;
};
KELPIE_CHECKED enum kelpie_status open_host(struct open_host *open, struct kelpie_error *err);
void open_host_cleanup(struct open_host *open);
#define AUTO_OPEN_HOST __attribute__((cleanup(open_host_cleanup)))

#endif
