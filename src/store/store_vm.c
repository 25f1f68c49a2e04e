/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* A VM's folder: its making and its removal, who owns it, and finding it. The theory is in store.h and store_folder.h. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "store/store_folder.h"
#include "store/store_internal.h"

#define DIGITS_SIZE 17

/* ---- Making ----------------------------------------------------------------------------------- */

static enum kelpie_status check_count(struct store *store, struct kelpie_error *err) {
    AUTO_MEM struct host_dir_entry *entries = NULL;
    size_t entry_count = 0;
    size_t count = 0;
    ASSERT(store);
    TRY(store_list(store, STORE_VMS, &entries, &entry_count, err));
    for (size_t i = 0; i < entry_count; i++) {
        count += entries[i].name[0] != '.';
    }
    ASSERT(count <= entry_count);
    if (count >= KELPIE_VM_COUNT_MAX) {
        return error_set(err, KELPIE_BUSY,
                         "there are %zu VMs, and there can be no more: remove some, or prune",
                         count);
    }
    return KELPIE_OK;
}

/* A new folder, under a name that nothing else has. */
static enum kelpie_status make_folder(struct store *store, char path[KELPIE_PATH_SIZE_MAX + 1],
                                      int *ret_lock, struct kelpie_error *err) {
    char digits[DIGITS_SIZE];
    char name[sizeof(STORE_FOLDER_NEW) + sizeof(digits)];
    enum kelpie_status status = KELPIE_BUSY;
    ASSERT(store);
    ASSERT(ret_lock);
    for (size_t i = 0; status == KELPIE_BUSY && i < STORE_LOCK_ATTEMPT_COUNT_MAX; i++) {
        TRY(store_draw_digits(store->host, digits, sizeof(digits), err));
        snprintf(name, sizeof(name), STORE_FOLDER_NEW "%s", digits);
        TRY(store_folder_path(store, STORE_VMS, name, path, err));
        status = store_folder_make(store, path, ret_lock, err);
    }
    return status;
}

static enum kelpie_status publish(struct store *store, const char *path,
                                  const struct store_record *record, struct kelpie_error *err) {
    struct kelpie_error why = {0};
    ASSERT(store);
    ASSERT(path[0] == '/');
    TRY(store_record_write(store, path, record, err));
    enum kelpie_status status =
        store_folder_publish(store, STORE_VMS, path, record->info.name, &why);
    if (status != KELPIE_OK && why.os_error == EEXIST) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "name", "there is a VM %s already",
                               record->info.name);
    }
    return status == KELPIE_OK ? KELPIE_OK : store_error_pass(err, &why);
}

enum kelpie_status store_vm_create(struct store *store, const struct store_record *record,
                                   struct store_vm *ret_vm, struct kelpie_error *err) {
    char path[KELPIE_PATH_SIZE_MAX + 1];
    struct store_vm vm = {.store = store, .lock_fd = HOST_FD_NONE};
    ASSERT(record && ret_vm);
    ASSERT(record->info.id[0]);
    if (!store_name_is_good(record->info.name)) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "name", "\"%.80s\" is no name",
                               record->info.name);
    }
    TRY(check_count(store, err));
    TRY(make_folder(store, path, &vm.lock_fd, err));
    memcpy(vm.name, record->info.name, sizeof(vm.name));
    memcpy(vm.id, record->info.id, sizeof(vm.id));
    enum kelpie_status status = publish(store, path, record, err);
    if (status != KELPIE_OK) {
        (void)!host_path_remove_tree(store->host, path, NULL); /* else it is a leftover */
        store_vm_release(&vm);
        return status;
    }
    *ret_vm = vm;
    return KELPIE_OK;
}

/* ---- Owning ----------------------------------------------------------------------------------- */

bool store_state_is_live(enum kelpie_state state) {
    ASSERT((unsigned)state < KELPIE_STATE_COUNT);
    static_assert(KELPIE_STATE_COUNT == 6, "a new state is live or not");
    return state == KELPIE_STATE_STARTING || state == KELPIE_STATE_RUNNING ||
           state == KELPIE_STATE_PAUSED;
}

bool store_info_bury(struct kelpie_vm_info *info) {
    ASSERT(info);
    ASSERT((unsigned)info->state < KELPIE_STATE_COUNT);
    bool changed = info->owner_pid != 0;
    info->owner_pid = 0;
    if (store_state_is_live(info->state)) {
        info->state = KELPIE_STATE_CRASHED;
        snprintf(info->reason, sizeof(info->reason), "its owner died, and the VM with it");
        changed = true;
    }
    return changed;
}

enum kelpie_status store_vm_lock(struct store *store, const char *name, uint64_t wait_ms,
                                 struct store_vm *ret_vm, struct kelpie_error *err) {
    char path[KELPIE_PATH_SIZE_MAX + 1];
    struct store_vm vm = {.store = store, .lock_fd = HOST_FD_NONE};
    ASSERT(store);
    ASSERT(ret_vm);
    TRY(store_path(store, STORE_VMS, name, path, sizeof(path), err));
    enum kelpie_status status = store_folder_lock(store, path, true, wait_ms, &vm.lock_fd, err);
    if (status == KELPIE_BUSY) {
        return error_set(err, KELPIE_BUSY, "the VM %s has an owner already", name);
    }
    if (status == KELPIE_NOT_FOUND) {
        return error_set(err, KELPIE_NOT_FOUND, "there is no VM %s", name);
    }
    TRY(status);
    snprintf(vm.name, sizeof(vm.name), "%s", name);
    *ret_vm = vm;
    return KELPIE_OK;
}

/* The record says what is true before anybody else can ask: now the lock is taken, and nobody would know. */
static enum kelpie_status settle(struct store_vm *vm, struct kelpie_error *err) {
    struct store_record *record = NULL;
    ASSERT(vm->lock_fd != HOST_FD_NONE);
    ASSERT(vm->name[0]);
    TRY(store_record_read(vm->store, vm->name, &record, err));
    memcpy(vm->id, record->info.id, sizeof(vm->id));
    enum kelpie_status status = KELPIE_OK;
    if (store_info_bury(&record->info)) {
        if (record->info.ended_unix_ms == 0) {
            record->info.ended_unix_ms = host_realtime_ns(vm->store->host) / HOST_NS_PER_MS;
        }
        status = store_vm_write(vm, record, err);
    }
    store_record_destroy(record);
    return status;
}

enum kelpie_status store_vm_adopt(struct store *store, const char *name, struct store_vm *ret_vm,
                                  struct kelpie_error *err) {
    struct store_vm vm;
    ASSERT(store);
    ASSERT(ret_vm);
    TRY(store_vm_lock(store, name, STORE_LOCK_WAIT_MS, &vm, err));
    enum kelpie_status status = settle(&vm, err);
    if (status != KELPIE_OK) {
        store_vm_release(&vm);
        return status;
    }
    *ret_vm = vm;
    return KELPIE_OK;
}

enum kelpie_status store_vm_write(struct store_vm *vm, const struct store_record *record,
                                  struct kelpie_error *err) {
    char folder[KELPIE_PATH_SIZE_MAX + 1];
    ASSERT(vm->lock_fd != HOST_FD_NONE);
    ASSERT(strcmp(vm->id, record->info.id) == 0);
    ASSERT(strcmp(vm->name, record->info.name) == 0);
    TRY(store_path(vm->store, STORE_VMS, vm->name, folder, sizeof(folder), err));
    return store_record_write(vm->store, folder, record, err);
}

enum kelpie_status store_vm_remove(struct store_vm *vm, struct kelpie_error *err) {
    char path[KELPIE_PATH_SIZE_MAX + 1];
    ASSERT(vm->store);
    ASSERT(vm->lock_fd != HOST_FD_NONE);
    TRY(store_path(vm->store, STORE_VMS, vm->name, path, sizeof(path), err));
    /* The socket first: who is killed here leaves a VM, and with it the name of the socket. */
    store_socket_remove(vm->store, vm->id);
    TRY(store_folder_remove(vm->store, STORE_VMS, path, err));
    store_vm_release(vm);
    return KELPIE_OK;
}

void store_vm_release(struct store_vm *vm) {
    ASSERT(vm);
    ASSERT(vm->store || vm->lock_fd <= 0);
    if (vm->store && vm->lock_fd != HOST_FD_NONE) {
        host_close(vm->store->host, vm->lock_fd);
        vm->lock_fd = HOST_FD_NONE;
    }
}

void store_socket_remove(struct store *store, const char *id) {
    char path[KELPIE_PATH_SIZE_MAX + 1];
    ASSERT(store);
    ASSERT(id);
    if (id[0] && store_socket_path(store, id, path, sizeof(path), NULL) == KELPIE_OK) {
        (void)!host_path_unlink(store->host, path, NULL);
    }
}

/* ---- Looking ---------------------------------------------------------------------------------- */

enum kelpie_status store_vm_read_named(struct store *store, const char *name,
                                       struct store_record **ret_record, bool *ret_owned,
                                       struct kelpie_error *err) {
    char path[KELPIE_PATH_SIZE_MAX + 1];
    struct store_record *record = NULL;
    AUTO_FD struct host_fd lock = {store->host, HOST_FD_NONE};
    ASSERT(store);
    ASSERT(ret_record && ret_owned);
    TRY(store_path(store, STORE_VMS, name, path, sizeof(path), err));
    /* Held until the record is read, so that no owner comes meanwhile, whose VM would be taken for a dead one's. */
    enum kelpie_status status = store_folder_lock(store, path, false, 0, &lock.fd, err);
    if (status != KELPIE_BUSY) {
        TRY(status);
    }
    TRY(store_record_read(store, name, &record, err));
    if (status == KELPIE_OK) {
        store_info_bury(&record->info);
        store_socket_remove(store, record->info.id);
    }
    *ret_record = record;
    *ret_owned = status == KELPIE_BUSY;
    return KELPIE_OK;
}

/* The only VM whose id begins so. */
static enum kelpie_status find_by_id(struct store *store, const char *beginning,
                                     char ret_name[KELPIE_NAME_SIZE_MAX + 1],
                                     struct kelpie_error *err) {
    AUTO_MEM struct host_dir_entry *entries = NULL;
    size_t count = 0;
    size_t found = 0;
    ASSERT(store);
    ASSERT(beginning[0]);
    TRY(store_list(store, STORE_VMS, &entries, &count, err));
    for (size_t i = 0; i < count; i++) {
        struct store_record *record = NULL;
        if (!store_name_is_good(entries[i].name)) {
            continue;
        }
        enum kelpie_status status = store_record_read(store, entries[i].name, &record, err);
        if (status == KELPIE_INTERNAL || status == KELPIE_NOT_FOUND) { /* damaged, or just gone */
            continue;
        }
        TRY(status);
        if (strncmp(record->info.id, beginning, strlen(beginning)) == 0) {
            found++;
            snprintf(ret_name, KELPIE_NAME_SIZE_MAX + 1, "%s", record->info.name);
        }
        store_record_destroy(record);
    }
    if (found > 1) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "name",
                               "%zu VMs have an id that begins with %s", found, beginning);
    }
    return found == 1 ? KELPIE_OK
                      : error_set(err, KELPIE_NOT_FOUND, "there is no VM %.80s", beginning);
}

enum kelpie_status store_vm_resolve(struct store *store, const char *name,
                                    char ret_name[KELPIE_NAME_SIZE_MAX + 1],
                                    struct kelpie_error *err) {
    char path[KELPIE_PATH_SIZE_MAX + 1];
    struct host_file_info info;
    ASSERT(store);
    ASSERT(name);
    if (!store_name_is_good(name)) {
        return error_set(err, KELPIE_NOT_FOUND, "there is no VM \"%.80s\"", name);
    }
    TRY(store_path(store, STORE_VMS, name, path, sizeof(path), err));
    enum kelpie_status status = host_path_stat(store->host, path, &info, err);
    if (status == KELPIE_OK) {
        memcpy(ret_name, name, strlen(name) + 1);
        return KELPIE_OK;
    }
    return status == KELPIE_NOT_FOUND ? find_by_id(store, name, ret_name, err) : status;
}

enum kelpie_status store_vm_read(struct store *store, const char *name,
                                 struct store_record **ret_record, bool *ret_owned,
                                 struct kelpie_error *err) {
    char found[KELPIE_NAME_SIZE_MAX + 1];
    ASSERT(ret_record);
    ASSERT(ret_owned);
    TRY(store_vm_resolve(store, name, found, err));
    return store_vm_read_named(store, found, ret_record, ret_owned, err);
}
