/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The operations of a VM that another process owns: each is a request. The theory is in remote_instance.h. */
#include "backend/remote/remote.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/remote/remote_instance.h"
#include "base/assert.h"
#include "base/cleanup.h"

/* ---- An instance ----------------------------------------------------------------------------------- */

static void remote_probe(struct host *host, struct kelpie_probe *ret_probe) {
    ASSERT(host);
    ASSERT(ret_probe);
    *ret_probe = (struct kelpie_probe){0};
    snprintf(ret_probe->reason, sizeof(ret_probe->reason),
             "what runs the VM is its owner's matter");
}

static void remote_destroy(struct backend_instance *instance) {
    struct host *host = instance->host;
    ASSERT(host);
    ASSERT(!instance->pending);
    if (instance->reader.host) {
        control_reader_deinit(&instance->reader);
    }
    host_close(host, instance->channel_fd);
    host_close(host, instance->fd);
    host_condition_destroy(instance->changed);
    host_mutex_destroy(instance->mutex);
    store_config_destroy(instance->config);
    free(instance);
}

static enum kelpie_status remote_create(const struct backend_launch *launch,
                                        struct backend_instance **ret_instance,
                                        struct kelpie_error *err) {
    ASSERT(launch->host);
    ASSERT(launch->open_name || launch->config->owner);
    struct backend_instance *instance = host_allocate(launch->host, sizeof(*instance), err);
    if (!instance) {
        return KELPIE_NO_MEMORY;
    }
    instance->launch = launch;
    instance->host = launch->host;
    instance->fd = HOST_FD_NONE;
    instance->channel_fd = HOST_FD_NONE;
    enum kelpie_status status = host_mutex_create(launch->host, &instance->mutex, err);
    if (status == KELPIE_OK) {
        status = host_condition_create(launch->host, &instance->changed, err);
    }
    if (status == KELPIE_OK) {
        status = remote_connect(instance, err);
    }
    if (status != KELPIE_OK) {
        remote_destroy(instance);
        return status;
    }
    *ret_instance = instance;
    return KELPIE_OK;
}

static void remote_state(struct backend_instance *instance, struct backend_owned_state *ret_state) {
    ASSERT(instance->mutex);
    ASSERT(ret_state);
    host_mutex_lock(instance->mutex);
    *ret_state = instance->state;
    host_mutex_unlock(instance->mutex);
}

static const char *remote_backend(struct backend_instance *instance) {
    ASSERT(instance->backend[0]);
    ASSERT(instance->mutex);
    return instance->backend;
}

static uint32_t remote_capabilities(struct backend_instance *instance) {
    ASSERT(instance);
    ASSERT(instance->mutex);
    return instance->capabilities;
}

static const char *remote_id(struct backend_instance *instance) {
    ASSERT(instance->id[0]);
    ASSERT(instance->mutex);
    return instance->id;
}

static const struct kelpie_config *remote_config(struct backend_instance *instance) {
    ASSERT(instance->config);
    ASSERT(instance->mutex);
    return &instance->config->config;
}

/* ---- Operations ------------------------------------------------------------------------------------- */

static enum kelpie_status remote_start(struct backend_instance *instance,
                                       const struct host_wait *wait, struct kelpie_error *err) {
    ASSERT(instance);
    ASSERT(wait);
    return remote_ask(instance, "start", json_object(), wait, NULL, err);
}

static enum kelpie_status remote_stop(struct backend_instance *instance, uint32_t timeout_ms,
                                      const struct host_wait *wait, struct kelpie_error *err) {
    ASSERT(instance);
    ASSERT(wait);
    return remote_ask(instance, "stop", json_pack("{s:I}", "timeout_ms", (json_int_t)timeout_ms),
                      wait, NULL, err);
}

static enum kelpie_status remote_pause(struct backend_instance *instance,
                                       const struct host_wait *wait, struct kelpie_error *err) {
    ASSERT(instance);
    ASSERT(wait);
    return remote_ask(instance, "pause", json_object(), wait, NULL, err);
}

static enum kelpie_status remote_resume(struct backend_instance *instance,
                                        const struct host_wait *wait, struct kelpie_error *err) {
    ASSERT(instance);
    ASSERT(wait);
    return remote_ask(instance, "resume", json_object(), wait, NULL, err);
}

/* The members "directory", absolute, and "options". */
static enum kelpie_status bundle_members(struct backend_instance *instance, const char *directory,
                                         enum store_json_type type, const void *options,
                                         json_t **ret_members, struct kelpie_error *err) {
    char absolute[KELPIE_PATH_SIZE_MAX + 1];
    json_t *json = NULL;
    ASSERT(directory);
    ASSERT(options);
    TRY(remote_absolute(instance->host, directory, absolute, sizeof(absolute), err));
    TRY(store_json_of(type, options, &json, err));
    *ret_members = json_pack("{s:s, s:o}", "directory", absolute, "options", json);
    return *ret_members ? KELPIE_OK
                        : error_set_field(err, KELPIE_BAD_CONFIG, "directory",
                                          "the path of the bundle is not valid UTF-8");
}

static enum kelpie_status remote_restore(struct backend_instance *instance, const char *directory,
                                         const struct kelpie_restore_options *options,
                                         const struct host_wait *wait, struct kelpie_error *err) {
    json_t *members = NULL;
    ASSERT(options);
    ASSERT(wait);
    TRY(bundle_members(instance, directory, STORE_JSON_RESTORE_OPTIONS, options, &members, err));
    return remote_ask(instance, "restore", members, wait, NULL, err);
}

/* A structure that an answer has in "value". */
struct value {
    enum store_json_type type;
    void *target; /* what is not in the answer stays as it is there */
};

static enum kelpie_status ask_value(struct backend_instance *instance, const char *op,
                                    json_t *members, const struct host_wait *wait,
                                    const struct value *wanted, struct kelpie_error *err) {
    json_t *answer = NULL;
    ASSERT(op);
    ASSERT(wanted->target);
    TRY(remote_ask(instance, op, members, wait, &answer, err));
    const json_t *value = json_object_get(answer, "value");
    enum kelpie_status status =
        value ? store_json_to(wanted->type, value, wanted->target, err)
              : error_set(err, KELPIE_INTERNAL, "the VM's owner left the answer out");
    json_decref(answer);
    return status;
}

static enum kelpie_status remote_restore_report(struct backend_instance *instance,
                                                struct kelpie_restore_report *ret_report,
                                                const struct host_wait *wait,
                                                struct kelpie_error *err) {
    struct kelpie_restore_report report = {0};
    ASSERT(ret_report);
    ASSERT(wait);
    TRY(ask_value(instance, "restore_report", json_object(), wait,
                  &(struct value){STORE_JSON_REPORT, &report}, err));
    *ret_report = report;
    return KELPIE_OK;
}

static enum kelpie_status remote_snapshot(struct backend_instance *instance, const char *directory,
                                          const struct kelpie_snapshot_options *options,
                                          struct kelpie_snapshot *ret_snapshot,
                                          const struct host_wait *wait, struct kelpie_error *err) {
    json_t *members = NULL;
    char parent[KELPIE_PATH_SIZE_MAX + 1];
    struct kelpie_snapshot_options sent = *options;
    struct kelpie_snapshot snapshot = {0};
    ASSERT(ret_snapshot);
    ASSERT(wait);
    if (options->parent) {
        TRY(remote_absolute(instance->host, options->parent, parent, sizeof(parent), err));
        sent.parent = parent;
    }
    TRY(bundle_members(instance, directory, STORE_JSON_SNAPSHOT_OPTIONS, &sent, &members, err));
    TRY(ask_value(instance, "snapshot", members, wait,
                  &(struct value){STORE_JSON_SNAPSHOT, &snapshot}, err));
    *ret_snapshot = snapshot;
    return KELPIE_OK;
}

static enum kelpie_status remote_record_working_set(struct backend_instance *instance,
                                                    const struct host_wait *wait,
                                                    struct kelpie_error *err) {
    ASSERT(instance);
    ASSERT(wait);
    return remote_ask(instance, "record_working_set", json_object(), wait, NULL, err);
}

/* One child, as the owner tells of it. */
static void take_child(const json_t *child, char name[KELPIE_NAME_SIZE_MAX + 1],
                       struct kelpie_error *error) {
    const json_t *told = json_object_get(child, "error");
    struct kelpie_error ignored;
    ASSERT(name);
    ASSERT(error);
    snprintf(name, KELPIE_NAME_SIZE_MAX + 1, "%.*s", KELPIE_NAME_SIZE_MAX,
             child ? control_text(child, "name") : "");
    error_clear(error);
    if (name[0] == 0 && (!told || store_json_to(STORE_JSON_ERROR, told, error, &ignored) ||
                         error->status == KELPIE_OK)) {
        error_set(error, KELPIE_INTERNAL, "the VM's owner does not say what became of it");
    }
}

static enum kelpie_status remote_fork(struct backend_instance *instance,
                                      const struct kelpie_fork_options *options,
                                      struct backend_offspring *offspring,
                                      const struct host_wait *wait, struct kelpie_error *err) {
    json_t *json = NULL;
    json_t *answer = NULL;
    ASSERT(offspring->count > 0);
    ASSERT(offspring->names && offspring->errors);
    TRY(store_json_of(STORE_JSON_FORK_OPTIONS, options, &json, err));
    json_t *members =
        json_pack("{s:o, s:I}", "options", json, "count", (json_int_t)offspring->count);
    TRY(remote_ask(instance, "fork", members, wait, &answer, err));
    const json_t *children = json_object_get(answer, "children");
    for (size_t i = 0; i < offspring->count; i++) {
        take_child(json_array_get(children, i), offspring->names[i], &offspring->errors[i]);
    }
    json_decref(answer);
    return KELPIE_OK;
}

static enum kelpie_status remote_run_detached(struct backend_instance *instance,
                                              const struct kelpie_command *command,
                                              uint32_t *ret_exec_id, const struct host_wait *wait,
                                              struct kelpie_error *err) {
    json_t *json = NULL;
    json_t *answer = NULL;
    ASSERT(command);
    ASSERT(ret_exec_id);
    TRY(store_json_command(command, &json, err));
    TRY(remote_ask(instance, "run_detached", json_pack("{s:o}", "command", json), wait, &answer,
                   err));
    uint64_t exec_id = control_number(answer, "exec_id");
    json_decref(answer);
    if (exec_id == 0 || exec_id > UINT32_MAX) {
        return error_set(err, KELPIE_INTERNAL, "the VM's owner left the answer out");
    }
    *ret_exec_id = (uint32_t)exec_id;
    return KELPIE_OK;
}

static enum kelpie_status remote_wait_detached(struct backend_instance *instance,
                                               struct kelpie_exit *ret_exit,
                                               const struct host_wait *wait,
                                               struct kelpie_error *err) {
    struct kelpie_exit ended_so = {0};
    ASSERT(ret_exit);
    ASSERT(wait);
    TRY(ask_value(instance, "wait_detached", json_object(), wait,
                  &(struct value){STORE_JSON_EXIT, &ended_so}, err));
    *ret_exit = ended_so;
    return KELPIE_OK;
}

static enum kelpie_status remote_stats(struct backend_instance *instance,
                                       struct kelpie_stats *ret_stats, const struct host_wait *wait,
                                       struct kelpie_error *err) {
    struct kelpie_stats stats = {0};
    ASSERT(ret_stats);
    ASSERT(wait);
    TRY(ask_value(instance, "stats", json_object(), wait, &(struct value){STORE_JSON_STATS, &stats},
                  err));
    *ret_stats = stats;
    return KELPIE_OK;
}

static enum kelpie_status remote_mock_lever(struct backend_instance *instance, int operation,
                                            uint32_t count, const struct host_wait *wait,
                                            struct kelpie_error *err) {
    ASSERT(instance);
    ASSERT(wait);
    json_t *members =
        operation < 0 ? json_pack("{s:b}", "crash", 1)
                      : json_pack("{s:i, s:I}", "operation", operation, "count", (json_int_t)count);
    return remote_ask(instance, "mock_lever", members, wait, NULL, err);
}

/* ---- What src/vm/ polls ------------------------------------------------------------------------------ */

static int remote_channel_fd(struct backend_instance *instance) {
    ASSERT(instance);
    ASSERT(instance->mutex);
    return instance->channel_fd;
}

static int remote_exit_fd(struct backend_instance *instance) {
    ASSERT(instance);
    ASSERT(instance->mutex);
    return HOST_FD_NONE;
}

static int remote_process_id(struct backend_instance *instance) {
    ASSERT(instance->mutex);
    ASSERT(instance->changed);
    host_mutex_lock(instance->mutex);
    int process_id = instance->process_id;
    host_mutex_unlock(instance->mutex);
    return process_id;
}

static void remote_exit_text(struct backend_instance *instance, char *buffer, size_t size) {
    struct backend_owned_state state;
    ASSERT(buffer);
    ASSERT(size > 0);
    remote_state(instance, &state);
    snprintf(buffer, size, "%s", state.exit_text);
}

static size_t remote_service_fds(struct backend_instance *instance, int *fds, size_t capacity) {
    ASSERT(fds);
    ASSERT(capacity > 0);
    host_mutex_lock(instance->mutex);
    bool gone = instance->gone;
    host_mutex_unlock(instance->mutex);
    fds[0] = instance->fd;
    return gone ? 0 : 1;
}

static void remote_service_fd(struct backend_instance *instance, int fd) {
    ASSERT(fd == instance->fd);
    ASSERT(instance->mutex);
    remote_service(instance);
}

/* A text in which each character is a byte. */
static size_t bytes_of(const char *text, uint8_t *bytes, size_t capacity) {
    size_t count = 0;
    ASSERT(text);
    ASSERT(bytes || capacity == 0);
    for (size_t i = 0; text[i] && count < capacity; i++) {
        uint8_t byte = (uint8_t)text[i];
        if ((byte & 0xe0) == 0xc0 && text[i + 1]) {
            byte = (uint8_t)(byte << 6 | ((uint8_t)text[++i] & 0x3f));
        }
        bytes[count++] = byte;
    }
    return count;
}

static size_t remote_console(struct backend_instance *instance, void *buffer, size_t size) {
    struct host_wait wait = host_wait_ms(instance->host, REMOTE_SEND_MS, HOST_FD_NONE);
    struct kelpie_error ignored;
    json_t *answer = NULL;
    ASSERT(buffer || size == 0);
    ASSERT(instance->mutex);
    if (remote_ask(instance, "console", json_object(), &wait, &answer, &ignored) != KELPIE_OK) {
        return 0;
    }
    const char *text = control_text(answer, "text");
    size_t skipped = 0;
    /* The last of them. */
    size_t all = 0;
    for (const char *c = text; *c; c++) {
        all += ((uint8_t)*c & 0xc0) != 0x80;
    }
    while (all - skipped > size) {
        skipped++;
        text++;
        text += ((uint8_t)*text & 0xc0) == 0x80;
    }
    size_t count = bytes_of(text, buffer, size);
    json_decref(answer);
    return count;
}

static const struct backend_owner_ops owner_ops = {
    .state = remote_state,
    .backend = remote_backend,
    .capabilities = remote_capabilities,
    .id = remote_id,
    .config = remote_config,
    .start = remote_start,
    .stop = remote_stop,
    .pause = remote_pause,
    .resume = remote_resume,
    .restore = remote_restore,
    .restore_report = remote_restore_report,
    .snapshot = remote_snapshot,
    .record_working_set = remote_record_working_set,
    .fork = remote_fork,
    .run_detached = remote_run_detached,
    .wait_detached = remote_wait_detached,
    .stats = remote_stats,
    .mock_lever = remote_mock_lever,
    .lose = remote_lose,
    .end = remote_end,
};

const struct backend_ops backend_remote_ops = {
    .name = "remote",
    .description = "a VM that a process of its own owns",
    .owner = &owner_ops,
    .probe = remote_probe,
    .create = remote_create,
    .destroy = remote_destroy,
    .channel_fd = remote_channel_fd,
    .exit_fd = remote_exit_fd,
    .process_id = remote_process_id,
    .exit_text = remote_exit_text,
    .service_fds = remote_service_fds,
    .service = remote_service_fd,
    .console = remote_console,
};
