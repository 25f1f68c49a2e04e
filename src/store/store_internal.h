/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What the files of src/store/ share. */
#ifndef KELPIE_STORE_STORE_INTERNAL_H
#define KELPIE_STORE_STORE_INTERNAL_H

#include <stdarg.h>

#include "store/store.h"

struct store {
    struct host *host;
    char folders[STORE_ROOM_COUNT][KELPIE_PATH_SIZE_MAX + 1];
};

/* Hands on an error that was looked at before. */
static inline enum kelpie_status store_error_pass(struct kelpie_error *err,
                                                  const struct kelpie_error *why) {
    if (err) {
        *err = *why;
    }
    return why->status;
}

/* As a VM's name. */
bool store_name_is_good(const char *name);

/* A store on the host that a public function was given (NULL: this machine). Given back by store_session_close(). */
struct store_session {
    struct host *host;
    bool host_owned;
    struct store *store;
};
KELPIE_CHECKED enum kelpie_status store_session_open(void *host, struct store_session *ret_session,
                                                     struct kelpie_error *err);
void store_session_close(struct store_session *session);
#define AUTO_SESSION __attribute__((cleanup(store_session_close)))

#endif
