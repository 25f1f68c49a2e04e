/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Finding a VM's owner, or starting one, and the first words with it. The theory is in remote_instance.h. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "backend/remote/remote_instance.h"
#include "base/assert.h"
#include "base/cleanup.h"
#include "store/store.h"
#include "store/store_secrets.h"

#define PROGRAM_DEFAULT "kelpie"
#define PROGRAM_VARIABLE "KELPIE_PROGRAM"

/* ---- Paths --------------------------------------------------------------------------------------- */

enum kelpie_status remote_absolute(struct host *host, const char *path, char *absolute, size_t size,
                                   struct kelpie_error *err) {
    ASSERT(path);
    ASSERT(absolute);
    char folder[KELPIE_PATH_SIZE_MAX + 1] = "";
    if (path[0] != '/') {
        TRY(host_working_dir(host, folder, sizeof(folder), err));
    }
    int length = snprintf(absolute, size, "%s%s%s", folder, folder[0] ? "/" : "", path);
    return length > 0 && (size_t)length < size
               ? KELPIE_OK
               : error_set_field(err, KELPIE_BAD_CONFIG, "path", "the path %.80s... is too long",
                                 path);
}

/* A member that is a path, if it is there. */
static enum kelpie_status make_absolute(struct host *host, json_t *object, const char *name,
                                        struct kelpie_error *err) {
    ASSERT(object);
    ASSERT(name);
    const char *path = json_string_value(json_object_get(object, name));
    char absolute[KELPIE_PATH_SIZE_MAX + 1];
    if (!path || path[0] == '/') {
        return KELPIE_OK;
    }
    TRY(remote_absolute(host, path, absolute, sizeof(absolute), err));
    return json_object_set_new(object, name, json_string(absolute)) == 0
               ? KELPIE_OK
               : error_set(err, KELPIE_NO_MEMORY, "no memory for a path");
}

/* A name without a slash is looked up by whoever uses it. */
static enum kelpie_status make_name_absolute(struct host *host, json_t *object, const char *name,
                                             struct kelpie_error *err) {
    const char *value = json_string_value(json_object_get(object, name));
    ASSERT(host);
    ASSERT(name);
    return value && strchr(value, '/') ? make_absolute(host, object, name, err) : KELPIE_OK;
}

/* The owner has another working folder. */
static enum kelpie_status make_paths_absolute(struct host *host, json_t *config,
                                              struct kelpie_error *err) {
    static const char *const members[] = {"kernel", "console_log", "disk_folder"};
    static const char *const lists[] = {"disks", "shares"};
    ASSERT(json_is_object(config));
    ASSERT(host);
    for (size_t i = 0; i < ARRAY_SIZE(members); i++) {
        TRY(make_absolute(host, config, members[i], err));
    }
    for (size_t i = 0; i < ARRAY_SIZE(lists); i++) {
        const json_t *list = json_object_get(config, lists[i]);
        for (size_t j = 0; j < json_array_size(list); j++) {
            TRY(make_absolute(host, json_array_get(list, j), "path", err));
        }
    }
    json_t *owner = json_object_get(config, "owner");
    TRY(make_name_absolute(host, config, "hypervisor", err));
    return make_name_absolute(host, owner, "program", err);
}

/* ---- Greeting ------------------------------------------------------------------------------------- */

static enum kelpie_status take_welcome(struct backend_instance *instance, const json_t *answer,
                                       struct kelpie_error *err) {
    json_t *config = json_object_get(answer, "config");
    ASSERT(answer);
    ASSERT(!instance->config);
    TRY(remote_outcome(answer, err));
    if (!config || control_number(answer, "version") != CONTROL_VERSION) {
        return error_set(err, KELPIE_INTERNAL, "the VM's owner is of another version of kelpie");
    }
    snprintf(instance->name, sizeof(instance->name), "%.*s", KELPIE_NAME_SIZE_MAX,
             control_text(answer, "name"));
    snprintf(instance->id, sizeof(instance->id), "%.*s", KELPIE_ID_SIZE - 1,
             control_text(answer, "vm_id"));
    snprintf(instance->backend, sizeof(instance->backend), "%.15s",
             control_text(answer, "backend"));
    instance->capabilities = (uint32_t)control_number(answer, "capabilities");
    TRY(store_json_to_config(instance->host, config, &instance->config, err));
    const struct kelpie_config *shown = &instance->config->config;
    if (!shown->name || !shown->working_dir || shown->operation_timeout_ms == 0 ||
        shown->boot_timeout_ms == 0 || shown->stop_timeout_ms == 0) {
        return error_set(err, KELPIE_INTERNAL, "the VM's owner does not say what the VM is");
    }
    return KELPIE_OK;
}

/* The state, and the channel if there is a machine: all that a handle begins with is told before "ready". */
static enum kelpie_status take_beginning(struct backend_instance *instance,
                                         const struct host_wait *wait, struct kelpie_error *err) {
    ASSERT(instance->mutex);
    ASSERT(instance->reader.host);
    bool ready = false;
    while (!ready) { /* until the deadline */
        struct control_message message = {.fd = HOST_FD_NONE};
        TRY(control_receive(&instance->reader, wait, &message, err));
        ready = strcmp(control_text(message.json, "event"), "ready") == 0;
        bool good = remote_take(instance, &message);
        control_message_clear(instance->host, &message);
        if (!good) {
            return error_set(err, KELPIE_INTERNAL, "the VM's owner says what cannot be");
        }
    }
    return KELPIE_OK;
}

/* Says the first word on instance->fd, and takes what is answered. */
static enum kelpie_status greet(struct backend_instance *instance, json_t *request,
                                struct kelpie_error *err) {
    struct host *host = instance->host;
    struct host_wait wait = host_wait_ms(host, REMOTE_GREET_MS, instance->launch->cancel_fd);
    ASSERT(request);
    ASSERT(instance->fd != HOST_FD_NONE);
    control_reader_init(&instance->reader, host, instance->fd);
    TRY(control_send(host, instance->fd, request, HOST_FD_NONE, &wait, err));
    struct control_message message = {.fd = HOST_FD_NONE};
    TRY(control_receive(&instance->reader, &wait, &message, err));
    enum kelpie_status status = take_welcome(instance, message.json, err);
    control_message_clear(host, &message);
    TRY(status);
    return take_beginning(instance, &wait, err);
}

static void disconnect(struct backend_instance *instance) {
    ASSERT(instance->host);
    ASSERT(!instance->pending);
    control_reader_deinit(&instance->reader);
    host_close(instance->host, instance->fd);
    instance->fd = HOST_FD_NONE;
    store_config_destroy(instance->config);
    instance->config = NULL;
}

/* ---- Starting an owner ----------------------------------------------------------------------------- */

static enum kelpie_status spawn(struct backend_instance *instance, const char *program,
                                struct kelpie_error *err) {
    struct host *host = instance->host;
    ASSERT(instance->fd == HOST_FD_NONE);
    ASSERT(instance->launch);
    const char *from_environment = host_environment(host, PROGRAM_VARIABLE);
    const char *path = program ? program : from_environment ? from_environment : PROGRAM_DEFAULT;
    int fds[2];
    TRY(host_socket_pair(host, fds, err));
    const struct host_process_fd passed = {.child_fd = CONTROL_CHANNEL_FD, .fd = fds[1]};
    const char *const argv[] = {path, "supervise", NULL};
    const struct host_process_spec spec = {
        .argv = argv,
        .working_dir = "/",
        .fds = &passed,
        .fd_count = 1,
        .detached = true,
    };
    struct host_process *process = NULL;
    enum kelpie_status status = host_process_spawn(host, &spec, &process, err);
    host_close(host, fds[1]);
    if (status != KELPIE_OK) {
        host_close(host, fds[0]);
        return status == KELPIE_NOT_FOUND
                   ? error_set_field(err, KELPIE_NOT_FOUND, "owner.program",
                                     "there is no program %.200s to own the VM: name it by "
                                     "$" PROGRAM_VARIABLE,
                                     path)
                   : status;
    }
    host_process_destroy(process);
    instance->fd = fds[0];
    return KELPIE_OK;
}

/* The greeting of who has just started an owner; one that ends at once says no word. */
static enum kelpie_status greet_new(struct backend_instance *instance, json_t *request,
                                    struct kelpie_error *err) {
    ASSERT(instance->fd != HOST_FD_NONE);
    ASSERT(instance->launch);
    enum kelpie_status status =
        request ? greet(instance, request, err)
                : error_set(err, KELPIE_NO_MEMORY, "no memory for a VM's owner");
    if (status != KELPIE_OK) {
        disconnect(instance);
    }
    json_decref(request);
    return status;
}

static enum kelpie_status create_owner(struct backend_instance *instance,
                                       struct kelpie_error *err) {
    const struct kelpie_config *config = instance->launch->config;
    json_t *json = NULL;
    json_t *secrets = NULL;
    ASSERT(config->owner);
    ASSERT(instance->fd == HOST_FD_NONE);
    TRY(store_json_config(config, &json, err));
    enum kelpie_status status = make_paths_absolute(instance->host, json, err);
    if (status == KELPIE_OK) {
        status = store_secrets_encode(config, &secrets, err);
    }
    if (status == KELPIE_OK) {
        status = spawn(instance, config->owner->program, err);
    }
    if (status == KELPIE_OK) {
        status =
            greet_new(instance,
                      json_pack("{s:s, s:i, s:i, s:O, s:O}", "op", "create", "id", 0, "version",
                                CONTROL_VERSION, "config", json, "secrets", secrets),
                      err);
    }
    json_decref(json);
    store_secrets_forget(secrets);
    return status;
}

/* ---- Reaching one ----------------------------------------------------------------------------------- */

static enum kelpie_status reach(struct backend_instance *instance, const struct store *store,
                                const struct store_record *record, struct kelpie_error *err) {
    char path[KELPIE_PATH_SIZE_MAX + 1];
    struct host_wait wait =
        host_wait_ms(instance->host, REMOTE_SEND_MS, instance->launch->cancel_fd);
    ASSERT(instance->fd == HOST_FD_NONE);
    ASSERT(record);
    TRY(store_socket_path(store, record->info.id, path, sizeof(path), err));
    TRY(host_socket_connect(instance->host, path, &wait, &instance->fd, err));
    uint32_t uid = 0;
    enum kelpie_status status = host_socket_peer(instance->host, instance->fd, &uid, err);
    if (status == KELPIE_OK && uid != host_user_id(instance->host)) {
        status = error_set(err, KELPIE_INTERNAL, "somebody else (uid %u) listens at %s", uid, path);
    }
    if (status != KELPIE_OK) {
        disconnect(instance);
        return status;
    }
    return greet_new(
        instance, json_pack("{s:s, s:i, s:i}", "op", "hello", "id", 0, "version", CONTROL_VERSION),
        err);
}

static enum kelpie_status reach_or_adopt(struct backend_instance *instance, struct store *store,
                                         bool *ret_may_come, struct kelpie_error *err) {
    struct store_record *record = NULL;
    bool owned = false;
    ASSERT(ret_may_come);
    ASSERT(store);
    *ret_may_come = false;
    TRY(store_vm_read(store, instance->launch->open_name, &record, &owned, err));
    enum kelpie_status status = KELPIE_OK;
    if (owned) {
        status = reach(instance, store, record, err);
        /* It does not listen yet, or not any more. */
        *ret_may_come =
            status == KELPIE_NOT_FOUND || status == KELPIE_IO_FAILED || status == KELPIE_INTERNAL;
    } else {
        const struct kelpie_owner *wanted = record->config->config.owner;
        status = spawn(instance, wanted ? wanted->program : NULL, err);
        if (status == KELPIE_OK) {
            status = greet_new(instance,
                               json_pack("{s:s, s:i, s:i, s:s}", "op", "adopt", "id", 0, "version",
                                         CONTROL_VERSION, "name", record->info.name),
                               err);
            *ret_may_come = status == KELPIE_BUSY; /* somebody else's was quicker */
        }
    }
    store_record_destroy(record);
    return status;
}

static enum kelpie_status open_owner(struct backend_instance *instance, struct store *store,
                                     struct kelpie_error *err) {
    struct host *host = instance->host;
    const struct host_wait all = host_wait_ms(host, REMOTE_OPEN_MS, HOST_FD_NONE);
    ASSERT(instance->launch->open_name);
    ASSERT(store);
    for (;;) { /* until the deadline */
        bool may_come = false;
        enum kelpie_status status = reach_or_adopt(instance, store, &may_come, err);
        if (status == KELPIE_OK || !may_come || host_monotonic_ns(host) >= all.deadline_ns) {
            return status;
        }
        struct host_wait wait =
            host_wait_ms(host, REMOTE_OPEN_PERIOD_MS, instance->launch->cancel_fd);
        TRY(host_sleep(host, &wait, err));
    }
}

enum kelpie_status remote_connect(struct backend_instance *instance, struct kelpie_error *err) {
    ASSERT(instance->launch);
    ASSERT(instance->fd == HOST_FD_NONE);
    if (!instance->launch->open_name) {
        return create_owner(instance, err);
    }
    struct store *store = NULL;
    TRY(store_open(instance->host, &store, err));
    enum kelpie_status status = open_owner(instance, store, err);
    store_close(store);
    return status;
}
