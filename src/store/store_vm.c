/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* A VM's folder: its lock, its record, its making and its removal. The theory is in store.h. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "store/json_fields.h"
#include "store/store_internal.h"

#define RECORD_FILE "record.json"
#define LOCK_FILE "lock"
#define RECORD_VERSION 1
#define FOLDER_MODE 0700u
#define FILE_MODE 0600u
#define RANDOM_SIZE 8 /* bytes of a temporary name */

void store_record_destroy(struct store_record *record) {
    if (record) {
        store_config_destroy(record->config);
        free(record);
    }
}

/* ---- The record -------------------------------------------------------------------------------- */

static enum kelpie_status record_encode(const struct store_record *record, json_t *json,
                                        struct kelpie_error *err) {
    ASSERT(record->config);
    ASSERT(json);
    json_t *part = NULL;
    TRY(json_put(json, "version", json_integer(RECORD_VERSION), err));
    TRY(store_json_of(STORE_JSON_INFO, &record->info, &part, err));
    TRY(json_put(json, "info", part, err));
    TRY(store_json_config(&record->config->config, &part, err));
    TRY(json_put(json, "config", part, err));
    return record->restored_from[0] == 0
               ? KELPIE_OK
               : json_put(json, "restored_from", json_string(record->restored_from), err);
}

/* Writes it into a folder, in the place of the one before, through to the disk. */
static enum kelpie_status record_store(struct store *store, const char *folder,
                                       const struct store_record *record,
                                       struct kelpie_error *err) {
    ASSERT(store);
    ASSERT(folder[0] == '/');
    char path[KELPIE_PATH_SIZE_MAX + 1];
    if (snprintf(path, sizeof(path), "%s/" RECORD_FILE, folder) >= (int)sizeof(path)) {
        return error_set(err, KELPIE_BAD_CONFIG, "the path of the store is too long");
    }
    json_t *json = json_new(err);
    if (!json) {
        return KELPIE_NO_MEMORY;
    }
    enum kelpie_status status = record_encode(record, json, err);
    char *text = status == KELPIE_OK ? json_dumps(json, JSON_INDENT(2) | JSON_SORT_KEYS) : NULL;
    json_decref(json);
    if (status == KELPIE_OK) {
        status = text ? host_file_store(store->host, path, text, strlen(text), FILE_MODE, err)
                      : error_set(err, KELPIE_NO_MEMORY, "no memory for a VM's record");
    }
    free(text);
    return status;
}

static enum kelpie_status record_decode(struct host *host, const json_t *json,
                                        struct store_record *record, struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(record);
    const json_t *version = json_object_get(json, "version");
    if (!json_is_integer(version) || json_integer_value(version) != RECORD_VERSION) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "version", "it is of another version");
    }
    const json_t *info = json_object_get(json, "info");
    json_t *config = json_object_get(json, "config");
    if (!info || !config) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "info", "a part of it is missing");
    }
    TRY(store_json_to(STORE_JSON_INFO, info, &record->info, err));
    const char *from = json_string_value(json_object_get(json, "restored_from"));
    snprintf(record->restored_from, sizeof(record->restored_from), "%s", from ? from : "");
    return store_json_to_config(host, config, &record->config, err);
}

static enum kelpie_status record_load(struct store *store, const char *name,
                                      struct store_record **ret_record, struct kelpie_error *err) {
    ASSERT(store);
    ASSERT(name);
    char path[KELPIE_PATH_SIZE_MAX + 1];
    TRY(store_vm_path(store, name, RECORD_FILE, path, sizeof(path), err));
    AUTO_MEM char *text = NULL;
    size_t size = 0;
    TRY(host_file_load(store->host, path, STORE_RECORD_SIZE_MAX, &text, &size, err));
    json_t *json = json_loadb(text, size, JSON_REJECT_DUPLICATES, NULL);
    struct store_record *record = json ? host_allocate(store->host, sizeof(*record), err) : NULL;
    enum kelpie_status status = KELPIE_NO_MEMORY;
    if (!json) {
        status = error_set_field(err, KELPIE_INTERNAL, "record", "the record %s is damaged", path);
    } else if (record) {
        status = record_decode(store->host, json, record, err);
        if (status == KELPIE_BAD_CONFIG) {
            status = error_wrap(err, KELPIE_INTERNAL, "the record %s is damaged", path);
        }
    }
    json_decref(json);
    if (status != KELPIE_OK) {
        store_record_destroy(record);
        return status;
    }
    *ret_record = record;
    return KELPIE_OK;
}

/* ---- The lock ---------------------------------------------------------------------------------- */

static enum kelpie_status lock_open(struct store *store, const char *folder, uint32_t flags,
                                    int *ret_fd, struct kelpie_error *err) {
    ASSERT(store);
    ASSERT(ret_fd);
    char path[KELPIE_PATH_SIZE_MAX + 1];
    if (snprintf(path, sizeof(path), "%s/" LOCK_FILE, folder) >= (int)sizeof(path)) {
        return error_set(err, KELPIE_BAD_CONFIG, "the path of the store is too long");
    }
    return host_file_open(store->host, path,
                          HOST_OPEN_READ | HOST_OPEN_WRITE | HOST_OPEN_NO_FOLLOW | flags, FILE_MODE,
                          ret_fd, err);
}

/* Whoever looks at the lock holds it, shared, for a moment: an owner that is there holds it all the time. */
static enum kelpie_status owner_lives(struct store *store, const char *folder, bool *ret_lives,
                                      struct kelpie_error *err) {
    ASSERT(store);
    ASSERT(ret_lives);
    AUTO_FD struct host_fd lock = {store->host, HOST_FD_NONE};
    TRY(lock_open(store, folder, 0, &lock.fd, err));
    enum kelpie_status status = host_file_lock(store->host, lock.fd, false, err);
    if (status != KELPIE_OK && status != KELPIE_BUSY) {
        return status;
    }
    *ret_lives = status == KELPIE_BUSY;
    return KELPIE_OK;
}

/* Takes the lock for an owner. */
static enum kelpie_status lock_take(struct store *store, int fd, struct kelpie_error *err) {
    ASSERT(store);
    ASSERT(fd >= 0);
    const uint64_t end_ns = host_monotonic_ns(store->host) + STORE_ADOPT_MS_MAX * HOST_NS_PER_MS;
    enum kelpie_status status = host_file_lock(store->host, fd, true, err);
    while (status == KELPIE_BUSY && host_monotonic_ns(store->host) < end_ns) {
        struct host_wait wait = host_wait_ms(store->host, STORE_ADOPT_PERIOD_MS, HOST_FD_NONE);
        TRY(host_sleep(store->host, &wait, err));
        status = host_file_lock(store->host, fd, true, err);
    }
    return status;
}

/* ---- Making ------------------------------------------------------------------------------------ */

/* A folder under a name that nothing else has: ".new-<digits>". */
static enum kelpie_status make_folder(struct store *store, char *path, size_t size,
                                      struct kelpie_error *err) {
    ASSERT(store);
    ASSERT(path);
    uint8_t bytes[RANDOM_SIZE];
    char digits[2 * RANDOM_SIZE + 1];
    TRY(host_random(store->host, bytes, sizeof(bytes), err));
    for (size_t i = 0; i < sizeof(bytes); i++) {
        snprintf(digits + 2 * i, 3, "%02x", bytes[i]);
    }
    if (snprintf(path, size, "%s/.new-%s", store->folders[STORE_VMS], digits) >= (int)size) {
        return error_set(err, KELPIE_BAD_CONFIG, "the path of the store is too long");
    }
    return host_path_mkdir(store->host, path, FOLDER_MODE, err);
}

static enum kelpie_status fill_folder(struct store *store, const char *folder,
                                      const struct store_record *record, int *ret_lock,
                                      struct kelpie_error *err) {
    ASSERT(store);
    ASSERT(folder[0] == '/');
    TRY(lock_open(store, folder, HOST_OPEN_CREATE | HOST_OPEN_EXCLUSIVE, ret_lock, err));
    TRY(lock_take(store, *ret_lock, err));
    TRY(record_store(store, folder, record, err));
    TRY(host_path_sync(store->host, folder, err));
    char path[KELPIE_PATH_SIZE_MAX + 1];
    TRY(store_path(store, STORE_VMS, record->info.name, path, sizeof(path), err));
    struct kelpie_error why;
    enum kelpie_status status = host_path_rename(store->host, folder, path, false, &why);
    if (status != KELPIE_OK && (why.os_error == EEXIST || why.os_error == ENOTEMPTY)) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "name", "there is a VM %s already",
                               record->info.name);
    }
    if (status != KELPIE_OK) {
        if (err) {
            *err = why;
        }
        return status;
    }
    return host_path_sync(store->host, store->folders[STORE_VMS], err);
}

enum kelpie_status store_vm_create(struct store *store, const struct store_record *record,
                                   struct store_vm *ret_vm, struct kelpie_error *err) {
    ASSERT(store);
    ASSERT(record);
    ASSERT(ret_vm);
    if (!store_name_is_good(record->info.name)) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "name", "\"%.80s\" is no name",
                               record->info.name);
    }
    char folder[KELPIE_PATH_SIZE_MAX + 1];
    TRY(make_folder(store, folder, sizeof(folder), err));
    struct store_vm vm = {.store = store, .lock_fd = HOST_FD_NONE};
    memcpy(vm.name, record->info.name, sizeof(vm.name));
    memcpy(vm.id, record->info.id, sizeof(vm.id));
    enum kelpie_status status = fill_folder(store, folder, record, &vm.lock_fd, err);
    if (status != KELPIE_OK) {
        struct kelpie_error ignored;
        host_close(store->host, vm.lock_fd);
        (void)!host_path_remove_tree(store->host, folder, &ignored); /* else prune does */
        return status;
    }
    *ret_vm = vm;
    return KELPIE_OK;
}

enum kelpie_status store_vm_adopt(struct store *store, const char *name, struct store_vm *ret_vm,
                                  struct kelpie_error *err) {
    ASSERT(store);
    ASSERT(ret_vm);
    char folder[KELPIE_PATH_SIZE_MAX + 1];
    TRY(store_path(store, STORE_VMS, name, folder, sizeof(folder), err));
    AUTO_FD struct host_fd lock = {store->host, HOST_FD_NONE};
    TRY(lock_open(store, folder, 0, &lock.fd, err));
    enum kelpie_status status = lock_take(store, lock.fd, err);
    if (status == KELPIE_BUSY) {
        return error_set(err, KELPIE_BUSY, "the VM %s has an owner already", name);
    }
    TRY(status);
    /* It may have been removed, and another of this name made, between the opening and the lock. */
    struct store_record *record = NULL;
    struct host_file_info ours;
    struct host_file_info there;
    char path[KELPIE_PATH_SIZE_MAX + 1];
    TRY(store_vm_path(store, name, LOCK_FILE, path, sizeof(path), err));
    TRY(host_file_stat(store->host, lock.fd, &ours, err));
    TRY(host_path_stat(store->host, path, &there, err));
    if (ours.inode != there.inode || ours.device != there.device) {
        return error_set(err, KELPIE_BUSY, "the VM %s is being removed", name);
    }
    TRY(record_load(store, name, &record, err));
    *ret_vm = (struct store_vm){.store = store, .lock_fd = host_fd_take(&lock)};
    snprintf(ret_vm->name, sizeof(ret_vm->name), "%s", name);
    memcpy(ret_vm->id, record->info.id, sizeof(ret_vm->id));
    store_record_destroy(record);
    return KELPIE_OK;
}

enum kelpie_status store_vm_write(struct store_vm *vm, const struct store_record *record,
                                  struct kelpie_error *err) {
    ASSERT(vm->lock_fd != HOST_FD_NONE);
    ASSERT(strcmp(vm->id, record->info.id) == 0);
    char folder[KELPIE_PATH_SIZE_MAX + 1];
    TRY(store_path(vm->store, STORE_VMS, vm->name, folder, sizeof(folder), err));
    return record_store(vm->store, folder, record, err);
}

enum kelpie_status store_vm_remove(struct store_vm *vm, struct kelpie_error *err) {
    ASSERT(vm->store);
    ASSERT(vm->lock_fd != HOST_FD_NONE);
    struct store *store = vm->store;
    char folder[KELPIE_PATH_SIZE_MAX + 1];
    char away[KELPIE_PATH_SIZE_MAX + 1];
    char socket[KELPIE_PATH_SIZE_MAX + 1];
    struct kelpie_error ignored;
    if (store_socket_path(store, vm->id, socket, sizeof(socket), &ignored) == KELPIE_OK) {
        (void)!host_path_unlink(store->host, socket, &ignored);
    }
    TRY(store_path(store, STORE_VMS, vm->name, folder, sizeof(folder), err));
    if (snprintf(away, sizeof(away), "%s/.old-%s", store->folders[STORE_VMS], vm->id) >=
        (int)sizeof(away)) {
        return error_set(err, KELPIE_BAD_CONFIG, "the path of the store is too long");
    }
    /* From the rename on the name is free, and what is left is a leftover. */
    TRY(host_path_rename(store->host, folder, away, false, err));
    TRY(host_path_remove_tree(store->host, away, err));
    store_vm_release(vm);
    return KELPIE_OK;
}

void store_vm_release(struct store_vm *vm) {
    if (vm->store && vm->lock_fd != HOST_FD_NONE) {
        host_close(vm->store->host, vm->lock_fd);
        vm->lock_fd = HOST_FD_NONE;
    }
}

/* ---- Looking ----------------------------------------------------------------------------------- */

void store_info_bury(struct kelpie_vm_info *info) {
    ASSERT(info);
    ASSERT(info->state < KELPIE_STATE_COUNT);
    info->owner_pid = 0;
    if (info->state == KELPIE_STATE_STARTING || info->state == KELPIE_STATE_RUNNING ||
        info->state == KELPIE_STATE_PAUSED) {
        info->state = KELPIE_STATE_CRASHED;
        snprintf(info->reason, sizeof(info->reason), "its owner died, and the VM with it");
    }
}

static enum kelpie_status read_named(struct store *store, const char *name,
                                     struct store_record **ret_record, bool *ret_owned,
                                     struct kelpie_error *err) {
    ASSERT(store);
    ASSERT(ret_record && ret_owned);
    char folder[KELPIE_PATH_SIZE_MAX + 1];
    TRY(store_path(store, STORE_VMS, name, folder, sizeof(folder), err));
    /* In this order: an owner that ends meanwhile has written its last word before it lets go. */
    bool owned = false;
    TRY(owner_lives(store, folder, &owned, err));
    struct store_record *record = NULL;
    TRY(record_load(store, name, &record, err));
    if (!owned) {
        store_info_bury(&record->info);
    }
    *ret_record = record;
    *ret_owned = owned;
    return KELPIE_OK;
}

/* The only VM whose id begins so. */
static enum kelpie_status find_by_id(struct store *store, const char *beginning,
                                     char ret_name[KELPIE_NAME_SIZE_MAX + 1],
                                     struct kelpie_error *err) {
    ASSERT(store);
    ASSERT(beginning[0]);
    AUTO_MEM struct host_dir_entry *entries = NULL;
    size_t count = 0;
    TRY(store_list(store, STORE_VMS, &entries, &count, err));
    size_t found = 0;
    for (size_t i = 0; i < count; i++) {
        struct store_record *record = NULL;
        struct kelpie_error ignored;
        if (entries[i].name[0] == '.' ||
            record_load(store, entries[i].name, &record, &ignored) != KELPIE_OK) {
            continue;
        }
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

enum kelpie_status store_vm_read(struct store *store, const char *name,
                                 struct store_record **ret_record, bool *ret_owned,
                                 struct kelpie_error *err) {
    ASSERT(store);
    ASSERT(name);
    if (!store_name_is_good(name)) {
        return error_set(err, KELPIE_NOT_FOUND, "there is no VM \"%.80s\"", name);
    }
    enum kelpie_status status = read_named(store, name, ret_record, ret_owned, err);
    if (status != KELPIE_NOT_FOUND) {
        return status;
    }
    char found[KELPIE_NAME_SIZE_MAX + 1];
    TRY(find_by_id(store, name, found, err));
    return read_named(store, found, ret_record, ret_owned, err);
}
