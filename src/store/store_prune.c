/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * What nobody needs any more (hazard E5): VMs that have ended, templates beyond their budget, images that no VM uses, and what processes
 * left that were killed. VMs go first, since they hold images.
 */
#include <errno.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "store/image_store.h"
#include "store/store_folder.h"
#include "store/store_internal.h"
#include "store/template.h"

#define SOCKET_ENDING ".sock"
#define SOCKET_AGE_MIN_NS                                                                          \
    (60 * HOST_NS_PER_S) /* one that is younger may be about to be listened to */

struct prune {
    struct store *store;
    const struct kelpie_prune_options *options;
    struct kelpie_prune_report report;
};

/* ---- VMs -------------------------------------------------------------------------------------- */

/* A VM whose lock can be had has no owner, and so has ended, whatever its record says. */
static enum kelpie_status prune_vm(struct prune *prune, const char *name,
                                   struct kelpie_error *err) {
    char path[KELPIE_PATH_SIZE_MAX + 1];
    struct store_record *record = NULL;
    struct store_vm vm = {0};
    ASSERT(prune->store);
    ASSERT(store_name_is_good(name));
    TRY(store_path(prune->store, STORE_VMS, name, path, sizeof(path), err));
    enum kelpie_status status = store_vm_lock(
        prune->store, name, prune->options->dry_run ? 0 : STORE_LOCK_PERIOD_MS, &vm, err);
    if (status == KELPIE_BUSY || status == KELPIE_NOT_FOUND) {
        return KELPIE_OK;
    }
    TRY(status);
    uint64_t bytes = store_folder_bytes(prune->store, path);
    if (store_record_read(prune->store, name, &record, NULL) == KELPIE_OK) {
        memcpy(vm.id, record->info.id, sizeof(vm.id));
        store_record_destroy(record);
    }
    if (!prune->options->dry_run) {
        status = store_vm_remove(&vm, err);
    }
    store_vm_release(&vm);
    TRY(status);
    prune->report.vms++;
    prune->report.bytes += bytes;
    return KELPIE_OK;
}

static enum kelpie_status prune_vms(struct prune *prune, struct kelpie_error *err) {
    AUTO_MEM struct host_dir_entry *entries = NULL;
    size_t count = 0;
    ASSERT(prune->store);
    ASSERT(prune->options->vms);
    TRY(store_list(prune->store, STORE_VMS, &entries, &count, err));
    for (size_t i = 0; i < count; i++) {
        if (store_name_is_good(entries[i].name)) {
            TRY(prune_vm(prune, entries[i].name, err));
        }
    }
    return KELPIE_OK;
}

/* ---- Sockets ---------------------------------------------------------------------------------- */

/* Nobody listens there, and has not for a while. Another store of this user may have its sockets here too: only the socket itself
 * tells. */
static bool is_dead_socket(struct host *host, const char *path) {
    struct host_file_info info;
    struct kelpie_error why = {0};
    struct host_wait wait = host_wait_none();
    int fd = HOST_FD_NONE;
    ASSERT(host);
    ASSERT(path[0] == '/');
    if (host_path_stat(host, path, &info, NULL) != KELPIE_OK || info.type != HOST_FILE_OTHER) {
        return false;
    }
    uint64_t now_ns = host_realtime_ns(host);
    if (info.modified_ns > now_ns || now_ns - info.modified_ns < SOCKET_AGE_MIN_NS) {
        return false;
    }
    if (host_socket_connect(host, path, &wait, &fd, &why) == KELPIE_OK) {
        host_close(host, fd);
        return false;
    }
    return why.os_error == ECONNREFUSED;
}

static enum kelpie_status prune_sockets(struct prune *prune, struct kelpie_error *err) {
    struct host *host = prune->store->host;
    AUTO_MEM struct host_dir_entry *entries = NULL;
    size_t count = 0;
    const size_t ending = strlen(SOCKET_ENDING);
    ASSERT(host);
    ASSERT(ending > 0);
    TRY(store_list(prune->store, STORE_SOCKETS, &entries, &count, err));
    for (size_t i = 0; i < count; i++) {
        char path[KELPIE_PATH_SIZE_MAX + 1];
        size_t size = strlen(entries[i].name);
        if (size <= ending || strcmp(entries[i].name + size - ending, SOCKET_ENDING) != 0) {
            continue;
        }
        TRY(store_folder_path(prune->store, STORE_SOCKETS, entries[i].name, path, err));
        if (is_dead_socket(host, path) &&
            (prune->options->dry_run || host_path_unlink(host, path, NULL) == KELPIE_OK)) {
            prune->report.leftovers++;
        }
    }
    return KELPIE_OK;
}

/* ---- All -------------------------------------------------------------------------------------- */

static enum kelpie_status prune_templates(struct prune *prune, struct kelpie_error *err) {
    struct store_evicted evicted = {0};
    uint64_t bytes_max = prune->options->template_bytes_max;
    ASSERT(prune->store);
    ASSERT(prune->report.templates == 0);
    bytes_max = prune->options->templates ? 0
                : bytes_max > 0           ? bytes_max
                                          : KELPIE_TEMPLATE_BYTES_DEFAULT;
    TRY(store_template_evict(prune->store, bytes_max, prune->options->dry_run, &evicted, err));
    prune->report.templates = evicted.count;
    prune->report.bytes += evicted.bytes;
    return KELPIE_OK;
}

static enum kelpie_status prune_leftovers(struct prune *prune, struct kelpie_error *err) {
    static const enum store_room rooms[] = {STORE_VMS, STORE_SNAPSHOTS, STORE_TEMPLATES};
    ASSERT(prune->store);
    ASSERT(prune->report.leftovers == 0);
    for (size_t i = 0; i < ARRAY_SIZE(rooms); i++) {
        TRY(store_folder_sweep(prune->store, rooms[i], prune->options->dry_run, &prune->report,
                               err));
    }
    return prune_sockets(prune, err);
}

enum kelpie_status kelpie_prune(void *host, const struct kelpie_prune_options *options,
                                struct kelpie_prune_report *ret_report, struct kelpie_error *err) {
    AUTO_SESSION struct store_session session = {0};
    ASSERT(options);
    ASSERT(ret_report);
    TRY(store_session_open(host, &session, err));
    struct prune prune = {.store = session.store, .options = options};
    TRY(options->vms ? prune_vms(&prune, err) : KELPIE_OK);
    TRY(prune_templates(&prune, err));
    TRY(prune_leftovers(&prune, err));
    TRY(store_image_prune(session.store, options->images, options->dry_run, &prune.report, err));
    *ret_report = prune.report;
    return KELPIE_OK;
}
