/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Where templates are: $XDG_STATE_HOME/kelpie/templates/<key>. */
#ifndef KELPIE_VM_WARM_SHELF_H
#define KELPIE_VM_WARM_SHELF_H

#include "host/host.h"

KELPIE_CHECKED enum kelpie_status vm_shelf_path(struct host *host, const char *key, char *path,
                                                size_t size, struct kelpie_error *err);
void vm_shelf_discard(struct host *host, const char *path);

#endif
