/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What kelpie_store.h says of VMs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "store/store_folder.h"
#include "store/store_internal.h"

enum kelpie_status store_session_open(void *host, struct store_session *ret_session,
                                      struct kelpie_error *err) {
    ASSERT(ret_session);
    ASSERT(!ret_session->store);
    struct store_session session = {.host = host, .host_owned = !host};
    if (!host) {
        TRY(host_linux_create(&session.host, err));
    }
    enum kelpie_status status = store_open(session.host, &session.store, err);
    if (status != KELPIE_OK) {
        store_session_close(&session);
        return status;
    }
    *ret_session = session;
    return KELPIE_OK;
}

void store_session_close(struct store_session *session) {
    ASSERT(session);
    ASSERT(session->host || !session->host_owned);
    store_close(session->store);
    session->store = NULL;
    if (session->host_owned) {
        host_destroy(session->host);
        session->host_owned = false;
    }
}

void kelpie_list_free(void *list) {
    free(list);
}

/* ---- VMs -------------------------------------------------------------------------------------- */

/* Of a VM that is gone meanwhile: NOT_FOUND. */
static enum kelpie_status read_info(struct store *store, const char *name,
                                    struct kelpie_vm_info *ret_info, struct kelpie_error *err) {
    char path[KELPIE_PATH_SIZE_MAX + 1];
    struct store_record *record = NULL;
    bool owned = false;
    ASSERT(store);
    ASSERT(ret_info);
    TRY(store_path(store, STORE_VMS, name, path, sizeof(path), err));
    TRY(store_vm_read_named(store, name, &record, &owned, err));
    *ret_info = record->info;
    store_record_destroy(record);
    ret_info->disk_bytes = store_folder_bytes(store, path);
    return KELPIE_OK;
}

/* A VM whose record cannot be read is to be seen, and to be removed. */
static void describe_unreadable(struct store *store, const char *name,
                                const struct kelpie_error *why, struct kelpie_vm_info *info) {
    char path[KELPIE_PATH_SIZE_MAX + 1];
    ASSERT(store_name_is_good(name));
    ASSERT(info);
    *info = (struct kelpie_vm_info){.state = KELPIE_STATE_CRASHED, .status = why->status};
    memcpy(info->name, name, strlen(name) + 1);
    snprintf(info->reason, sizeof(info->reason), "%.255s", why->message);
    if (store_path(store, STORE_VMS, name, path, sizeof(path), NULL) == KELPIE_OK) {
        info->disk_bytes = store_folder_bytes(store, path);
    }
}

static int older_first(const void *a, const void *b) {
    const struct kelpie_vm_info *left = a;
    const struct kelpie_vm_info *right = b;
    ASSERT(left);
    ASSERT(right);
    if (left->created_unix_ms != right->created_unix_ms) {
        return left->created_unix_ms < right->created_unix_ms ? -1 : 1;
    }
    return strcmp(left->name, right->name);
}

enum kelpie_status store_vm_list(struct store *store, struct kelpie_vm_info **ret_list,
                                 size_t *ret_count, struct kelpie_error *err) {
    AUTO_MEM struct host_dir_entry *entries = NULL;
    size_t entry_count = 0;
    size_t count = 0;
    ASSERT(ret_list);
    ASSERT(ret_count);
    TRY(store_list(store, STORE_VMS, &entries, &entry_count, err));
    AUTO_MEM struct kelpie_vm_info *list =
        host_allocate(store->host, (entry_count + 1) * sizeof(*list), err);
    if (!list) {
        return KELPIE_NO_MEMORY;
    }
    for (size_t i = 0; i < entry_count; i++) {
        struct kelpie_error why = {0};
        if (!store_name_is_good(entries[i].name)) {
            continue;
        }
        enum kelpie_status status = read_info(store, entries[i].name, &list[count], &why);
        if (status == KELPIE_INTERNAL || (status != KELPIE_OK && store_error_is_of_file(&why))) {
            describe_unreadable(store, entries[i].name, &why, &list[count]);
        } else if (status == KELPIE_NOT_FOUND) {
            continue;
        } else if (status != KELPIE_OK) {
            return store_error_pass(err, &why);
        }
        count++;
    }
    qsort(list, count, sizeof(*list), older_first);
    *ret_list = TAKE(list);
    *ret_count = count;
    return KELPIE_OK;
}

enum kelpie_status kelpie_vm_list(void *host, struct kelpie_vm_info **ret_list, size_t *ret_count,
                                  struct kelpie_error *err) {
    AUTO_SESSION struct store_session session = {0};
    ASSERT(ret_list);
    ASSERT(ret_count);
    TRY(store_session_open(host, &session, err));
    return store_vm_list(session.store, ret_list, ret_count, err);
}

enum kelpie_status kelpie_vm_find(void *host, const char *name, struct kelpie_vm_info *ret_info,
                                  struct kelpie_error *err) {
    char found[KELPIE_NAME_SIZE_MAX + 1];
    AUTO_SESSION struct store_session session = {0};
    ASSERT(name);
    ASSERT(ret_info);
    TRY(store_session_open(host, &session, err));
    TRY(store_vm_resolve(session.store, name, found, err));
    return read_info(session.store, found, ret_info, err);
}

/* ---- Removing a VM ---------------------------------------------------------------------------- */

/* The VM that is to go, and no other that has got its name meanwhile. */
struct removal {
    struct store_session *session;
    char name[KELPIE_NAME_SIZE_MAX + 1];
    char id[KELPIE_ID_SIZE]; /* empty: its record cannot be read */
    bool force;
    bool asked;       /* its owner has been told */
    bool unreachable; /* it has an owner, who cannot be told */
};

/* The owner does it: it alone can end the VM without leaving a trace. */
static enum kelpie_status ask_owner(struct removal *removal, enum kelpie_state state,
                                    struct kelpie_error *err) {
    struct kelpie_vm *vm = NULL;
    ASSERT(removal->id[0]);
    ASSERT((unsigned)state < KELPIE_STATE_COUNT);
    if (store_state_is_live(state) && !removal->force) {
        return error_set_field(err, KELPIE_WRONG_STATE, kelpie_state_name(state),
                               "the VM %s is %s: stop it before, or use force", removal->name,
                               kelpie_state_name(state));
    }
    TRY(kelpie_vm_open(removal->session->host, removal->name, &vm, err));
    if (strcmp(kelpie_vm_id(vm), removal->id) == 0) {
        kelpie_vm_destroy(vm);
    } else {
        kelpie_vm_close(vm);
    }
    removal->asked = true;
    return KELPIE_OK;
}

/* Of a VM without an owner. A record that cannot be read is no hindrance, but then an owner that lives cannot be asked either. */
static enum kelpie_status remove_unowned(struct removal *removal, struct kelpie_error *err) {
    struct store *store = removal->session->store;
    struct store_record *record = NULL;
    struct store_vm vm = {0};
    ASSERT(store);
    ASSERT(removal->name[0]);
    enum kelpie_status status = store_vm_lock(store, removal->name, STORE_LOCK_WAIT_MS, &vm, err);
    if (status == KELPIE_BUSY && removal->id[0] == '\0') {
        removal->unreachable = true;
        return error_set(
            err, KELPIE_BUSY,
            "the record of the VM %s cannot be read, and its owner runs: end that process "
            "(kelpie supervise), and remove the VM then",
            removal->name);
    }
    TRY(status);
    status = store_record_read(store, removal->name, &record, err);
    bool same = status == KELPIE_INTERNAL || status == KELPIE_NOT_FOUND
                    ? removal->id[0] == '\0'
                    : status == KELPIE_OK && strcmp(record->info.id, removal->id) == 0;
    if (same) {
        memcpy(vm.id, removal->id, sizeof(vm.id));
        status = store_vm_remove(&vm, err);
    } else if (status == KELPIE_OK) {
        status =
            error_set(err, KELPIE_NOT_FOUND, "another VM has the name %s by now", removal->name);
    }
    store_record_destroy(record);
    store_vm_release(&vm);
    return status;
}

/* Looks at what there is, and removes it, or has it removed. OK: it was told to go; NOT_FOUND: it is gone; BUSY: not now. */
static enum kelpie_status remove_step(struct removal *removal, struct kelpie_error *err) {
    struct store_record *record = NULL;
    bool owned = false;
    ASSERT(removal->session->store);
    ASSERT(removal->name[0]);
    enum kelpie_status status =
        store_vm_read_named(removal->session->store, removal->name, &record, &owned, err);
    if (status == KELPIE_INTERNAL) {
        return remove_unowned(removal, err);
    }
    TRY(status);
    enum kelpie_state state = record->info.state;
    bool other = removal->id[0] && strcmp(record->info.id, removal->id) != 0;
    memcpy(removal->id, record->info.id, sizeof(removal->id));
    store_record_destroy(record);
    if (other) {
        return error_set(err, KELPIE_NOT_FOUND, "the VM is gone");
    }
    if (!owned) {
        return remove_unowned(removal, err);
    }
    if (removal->asked) {
        return error_set(err, KELPIE_BUSY, "the VM %s is still being ended by its owner",
                         removal->name);
    }
    return ask_owner(removal, state, err);
}

enum kelpie_status kelpie_vm_remove(void *host, const char *name, bool force,
                                    struct kelpie_error *err) {
    AUTO_SESSION struct store_session session = {0};
    struct removal removal = {.session = &session, .force = force};
    ASSERT(name);
    ASSERT(STORE_REMOVE_WAIT_MS > STORE_REMOVE_PERIOD_MS);
    TRY(store_session_open(host, &session, err));
    TRY(store_vm_resolve(session.store, name, removal.name, err));
    const struct host_wait end = host_wait_ms(session.host, STORE_REMOVE_WAIT_MS, HOST_FD_NONE);
    enum kelpie_status status = remove_step(&removal, err);
    if (status != KELPIE_BUSY || removal.unreachable) {
        TRY(status);
    }
    /* Until it is gone: what an owner was told it does in its own time, or dies before. */
    do {
        struct host_wait pause = host_wait_ms(session.host, STORE_REMOVE_PERIOD_MS, HOST_FD_NONE);
        status = remove_step(&removal, err);
        if (status != KELPIE_OK && status != KELPIE_BUSY) {
            break;
        }
        TRY(host_sleep(session.host, &pause, err));
    } while (host_monotonic_ns(session.host) < end.deadline_ns);
    if (status != KELPIE_NOT_FOUND) {
        return status;
    }
    error_clear(err);
    return KELPIE_OK;
}
