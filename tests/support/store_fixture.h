/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* A store in a temporary folder of its own, and records to put there. */
#ifndef KELPIE_TESTS_SUPPORT_STORE_FIXTURE_H
#define KELPIE_TESTS_SUPPORT_STORE_FIXTURE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/assert.h"
#include "store/store.h"

struct store_fixture {
    char folder[64];
    struct host *host;
    struct store *store;
};

static inline void store_fixture_path(const struct store_fixture *fixture, const char *name,
                                      char *path, size_t size) {
    int length = snprintf(path, size, "%s/%s", fixture->folder, name);
    ASSERT(length > 0);
    ASSERT((size_t)length < size);
}

static inline bool store_fixture_set_up(struct store_fixture *fixture) {
    static const char *const variables[] = {"XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR"};
    static const char *const names[] = {"state", "data", "run"};
    snprintf(fixture->folder, sizeof(fixture->folder), "/tmp/kelpie-store-XXXXXX");
    if (!mkdtemp(fixture->folder)) {
        return false;
    }
    for (size_t i = 0; i < ARRAY_SIZE(variables); i++) {
        char path[128];
        store_fixture_path(fixture, names[i], path, sizeof(path));
        if (setenv(variables[i], path, 1) != 0) {
            return false;
        }
    }
    return host_linux_create(&fixture->host, NULL) == KELPIE_OK &&
           store_open(fixture->host, &fixture->store, NULL) == KELPIE_OK;
}

static inline bool store_fixture_tear_down(struct store_fixture *fixture) {
    store_close(fixture->store);
    bool gone = host_path_remove_tree(fixture->host, fixture->folder, NULL) == KELPIE_OK;
    host_destroy(fixture->host);
    *fixture = (struct store_fixture){0};
    return gone;
}

/* A record of that name; id: 32 digits, or NULL: one made of the name. NULL: no memory. */
static inline struct store_record *store_fixture_record(struct host *host, const char *name,
                                                        const char *id) {
    json_t *json = json_pack("{s:s}", "name", name);
    struct store_record *record = calloc(1, sizeof(*record));
    uint64_t sum = 14695981039346656037ull;
    ASSERT(json && record);
    for (size_t i = 0; name[i]; i++) {
        sum = (sum ^ (unsigned char)name[i]) * 1099511628211ull;
    }
    snprintf(record->info.name, sizeof(record->info.name), "%s", name);
    snprintf(record->info.id, sizeof(record->info.id), "%016llx%016llx", (unsigned long long)sum,
             (unsigned long long)(sum * 7));
    if (id) {
        snprintf(record->info.id, sizeof(record->info.id), "%s", id);
    }
    enum kelpie_status status = store_json_to_config(host, json, &record->config, NULL);
    ASSERT(status == KELPIE_OK);
    json_decref(json);
    return record;
}

/* Makes a VM in that state and keeps its lock. */
static inline enum kelpie_status store_fixture_vm(struct store *store, struct host *host,
                                                  const char *name, enum kelpie_state state,
                                                  struct store_vm *ret_vm) {
    struct store_record *record = store_fixture_record(host, name, NULL);
    record->info.state = state;
    enum kelpie_status status = store_vm_create(store, record, ret_vm, NULL);
    store_record_destroy(record);
    return status;
}

#endif
