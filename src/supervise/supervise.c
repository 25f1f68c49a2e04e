/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* An owner's process: how it begins, what its main thread does, how it ends. The theory is in owner.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "supervise/owner.h"

#define EXIT_FAILED 1
#define ID_SIZE 16 /* bytes */

/* ---- Making -------------------------------------------------------------------------------------- */

static enum kelpie_status owner_init(struct owner *owner, struct kelpie_error *err) {
    ASSERT(owner->host);
    ASSERT(owner->listen_fd == HOST_FD_NONE);
    TRY(host_mutex_create(owner->host, &owner->mutex, err));
    TRY(host_mutex_create(owner->host, &owner->detached.log_mutex, err));
    TRY(host_condition_create(owner->host, &owner->changed, err));
    TRY(host_event_create(owner->host, &owner->stop_event, err));
    return store_open(owner->host, &owner->store, err);
}

static void owner_deinit(struct owner *owner) {
    struct host *host = owner->host;
    ASSERT(!owner->vm);
    ASSERT(!owner->watcher);
    store_vm_release(&owner->place);
    store_secrets_destroy(owner->secrets);
    store_record_destroy(owner->record);
    store_close(owner->store);
    for (size_t i = 0; i < owner->last_fd_count; i++) {
        host_close(host, owner->last_fds[i]);
    }
    host_close(host, owner->listen_fd);
    host_close(host, owner->stop_event);
    host_condition_destroy(owner->changed);
    host_mutex_destroy(owner->detached.log_mutex);
    host_mutex_destroy(owner->mutex);
}

/* The labels as lines, as far as they fit. */
static void join_labels(const char *const *labels, char *text, size_t size) {
    size_t used = 0;
    ASSERT(text);
    ASSERT(size > 0);
    for (size_t i = 0; labels && labels[i]; i++) {
        size_t length = strlen(labels[i]);
        if (used + length + 2 > size) {
            break;
        }
        memcpy(text + used, labels[i], length);
        used += length;
        text[used++] = '\n';
    }
    text[used] = 0;
}

/* The image by its digest, so that the VM keeps the one that it was made of, whatever its name comes to mean. */
static enum kelpie_status fix_image(struct owner *owner, struct kelpie_error *err) {
    struct kelpie_config *config = &owner->record->config->config;
    struct kelpie_vm_info *info = &owner->record->info;
    struct kelpie_image *image = NULL;
    ASSERT(owner->is_new);
    if (!config->image) {
        return KELPIE_OK;
    }
    enum kelpie_status status = kelpie_image_find(owner->host, config->image, &image, err);
    if (status == KELPIE_NOT_FOUND && strncmp(config->image, "sha256:", 7) == 0) {
        /* A bundle's that has it within itself. Otherwise the library says that it is missing. */
        snprintf(info->image, sizeof(info->image), "%.*s", KELPIE_NAME_SIZE_MAX, config->image);
        snprintf(info->image_digest, sizeof(info->image_digest), "%s", config->image);
        return KELPIE_OK;
    }
    TRY(status);
    memcpy(info->image, image->name, sizeof(info->image));
    memcpy(info->image_digest, image->digest, sizeof(info->image_digest));
    kelpie_list_free(image);
    ASSERT(info->image_digest[0]);
    config->image = info->image_digest;
    return KELPIE_OK;
}

static void describe(const struct owner *owner, struct kelpie_vm_info *info) {
    const struct kelpie_config *config = kelpie_vm_config(owner->vm);
    ASSERT(info->name[0]);
    ASSERT(owner->record);
    const struct kelpie_owner *wanted = owner->record->config->config.owner;
    snprintf(info->backend, sizeof(info->backend), "%s", kelpie_vm_backend(owner->vm));
    info->vcpu_count = config->vcpu_count;
    info->memory_mib = config->memory_mib;
    join_labels(wanted ? wanted->labels : NULL, info->labels, sizeof(info->labels));
}

/* The VM of the record, in its place. The config that it is made with has what only a VM of this process needs. */
static enum kelpie_status make_vm(struct owner *owner, struct kelpie_error *err) {
    struct kelpie_config config = owner->record->config->config;
    char folder[KELPIE_PATH_SIZE_MAX + 1];
    char console[KELPIE_PATH_SIZE_MAX + 1];
    ASSERT(!owner->vm);
    ASSERT(owner->place.lock_fd != HOST_FD_NONE);
    TRY(store_path(owner->store, STORE_VMS, owner->place.name, folder, sizeof(folder), err));
    TRY(store_vm_path(owner->store, owner->place.name, "console", console, sizeof(console), err));
    config.name = owner->place.name;
    config.owner = NULL;
    config.host = owner->host;
    config.disk_folder = config.disk_folder ? config.disk_folder : folder;
    config.console_log = config.console_log ? config.console_log : console;
    if (owner->secrets) {
        config.secrets = owner->secrets->secrets;
        config.secret_count = owner->secrets->count;
    }
    enum kelpie_status status = kelpie_vm_create(&config, &owner->vm, err);
    store_secrets_destroy(owner->secrets); /* the VM has a copy of its own */
    owner->secrets = NULL;
    return status;
}

/* Of a message: the texts in it are overwritten. */
static enum kelpie_status take_secrets(struct owner *owner, const json_t *json,
                                       struct kelpie_error *err) {
    json_t *secrets = json_incref(json_object_get(json, "secrets"));
    ASSERT(owner->record);
    ASSERT(!owner->secrets);
    if (!secrets) {
        return KELPIE_OK;
    }
    enum kelpie_status status = store_secrets_decode(owner->host, secrets, &owner->secrets, err);
    store_secrets_forget(secrets);
    owner->record->had_secrets = status == KELPIE_OK && owner->secrets->count > 0;
    return status;
}

/* A new id; and the name, which is the id when none is wanted. */
static enum kelpie_status name_it(struct owner *owner, struct kelpie_error *err) {
    struct kelpie_vm_info *info = &owner->record->info;
    const char *name = owner->record->config->config.name;
    uint8_t bytes[ID_SIZE];
    static_assert(2 * ID_SIZE + 1 == KELPIE_ID_SIZE, "an id has two digits for each byte");
    ASSERT(info->id[0] == 0);
    ASSERT(!owner->vm);
    TRY(host_random(owner->host, bytes, sizeof(bytes), err));
    for (size_t i = 0; i < sizeof(bytes); i++) {
        snprintf(info->id + 2 * i, 3, "%02x", bytes[i]);
    }
    if (name && strlen(name) > KELPIE_NAME_SIZE_MAX) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "name", "the name %.64s... is too long",
                               name);
    }
    snprintf(info->name, sizeof(info->name), "%s", name ? name : info->id);
    info->owner_pid = host_own_process_id(owner->host);
    info->created_unix_ms = host_realtime_ns(owner->host) / HOST_NS_PER_MS;
    return KELPIE_OK;
}

static enum kelpie_status take_config(struct owner *owner, json_t *json, struct kelpie_error *err) {
    ASSERT(!owner->record);
    ASSERT(json);
    json_t *config = json_object_get(json, "config");
    if (!config) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "config", "there is no config");
    }
    owner->record = host_allocate(owner->host, sizeof(*owner->record), err);
    if (!owner->record) {
        return KELPIE_NO_MEMORY;
    }
    TRY(store_json_to_config(owner->host, config, &owner->record->config, err));
    if (!owner->record->config->config.owner) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "owner", "the config has no owner");
    }
    return KELPIE_OK;
}

static enum kelpie_status create_new(struct owner *owner, json_t *json, struct kelpie_error *err) {
    ASSERT(owner->store);
    ASSERT(json);
    ASSERT(owner->is_new);
    TRY(take_config(owner, json, err));
    TRY(take_secrets(owner, json, err));
    TRY(name_it(owner, err));
    TRY(fix_image(owner, err));
    TRY(store_vm_create(owner->store, owner->record, &owner->place, err));
    enum kelpie_status status = make_vm(owner, err);
    if (status == KELPIE_OK) {
        describe(owner, &owner->record->info);
        status = store_vm_write(&owner->place, owner->record, err);
    }
    return status;
}

static enum kelpie_status adopt(struct owner *owner, const json_t *json, struct kelpie_error *err) {
    const char *name = control_text(json, "name");
    bool owned = false;
    ASSERT(owner->store);
    ASSERT(!owner->record);
    TRY(store_vm_adopt(owner->store, name, &owner->place, err));
    /* We hold the lock ourselves: it is the record of a VM that nobody owns but us, which is to be read as such. */
    TRY(store_vm_read(owner->store, name, &owner->record, &owned, err));
    store_info_bury(&owner->record->info);
    owner->record->info.owner_pid = host_own_process_id(owner->host);
    TRY(store_vm_write(&owner->place, owner->record, err));
    return make_vm(owner, err);
}

/* What it was started for. */
static enum kelpie_status begin(struct owner *owner, json_t *json, struct kelpie_error *err) {
    const char *op = control_text(json, "op");
    char path[KELPIE_PATH_SIZE_MAX + 1];
    ASSERT(owner);
    ASSERT(!owner->vm);
    uint64_t version = control_number(json, "version");
    if (version != CONTROL_VERSION) {
        return error_set(
            err, KELPIE_INTERNAL,
            "the program that owns VMs speaks version %d of kelpie's control protocol, "
            "and not %llu",
            CONTROL_VERSION, (unsigned long long)version);
    }
    if (strcmp(op, "create") == 0) {
        owner->is_new = true;
        TRY(create_new(owner, json, err));
    } else if (strcmp(op, "adopt") == 0) {
        TRY(adopt(owner, json, err));
    } else {
        return error_set(err, KELPIE_INTERNAL, "an owner cannot begin with \"%.40s\"", op);
    }
    struct kelpie_error ignored;
    TRY(store_socket_path(owner->store, owner->place.id, path, sizeof(path), err));
    (void)!host_path_unlink(owner->host, path,
                            &ignored); /* of an owner that died: we hold the lock */
    return host_socket_listen(owner->host, path, &owner->listen_fd, err);
}

/* ---- The main thread ------------------------------------------------------------------------------ */

static void accept_one(struct owner *owner) {
    ASSERT(owner->listen_fd != HOST_FD_NONE);
    ASSERT(owner->store);
    struct host_wait none = host_wait_none();
    struct kelpie_error ignored;
    struct connection *connection = NULL;
    uint32_t uid = 0;
    int fd = HOST_FD_NONE;
    if (host_socket_accept(owner->host, owner->listen_fd, &none, &fd, &ignored) != KELPIE_OK) {
        /* Mostly for want of descriptors: whoever waits there goes on waiting. */
        struct host_wait pause = host_wait_ms(owner->host, SUPERVISE_PAUSE_MS, HOST_FD_NONE);
        (void)!host_sleep(owner->host, &pause, &ignored);
        return;
    }
    if (host_socket_peer(owner->host, fd, &uid, &ignored) != KELPIE_OK ||
        uid != host_user_id(owner->host)) {
        host_close(owner->host, fd);
        return;
    }
    (void)!connection_open(owner, fd, &connection,
                           &ignored); /* one that does not fit sees its end */
}

/* Connections whose handle has gone. Returns how many there still are. */
static size_t collect_connections(struct owner *owner, bool all) {
    size_t left = 0;
    ASSERT(owner->mutex);
    ASSERT(owner->host);
    for (size_t i = 0; i < SUPERVISE_CONNECTION_COUNT_MAX; i++) {
        owner_lock(owner);
        struct connection *connection = owner->connections[i];
        bool over = connection && (all || connection->ended);
        owner_unlock(owner);
        if (over) {
            connection_close(connection);
        } else if (connection) {
            left++;
        }
    }
    return left;
}

/* Stops the VM for a reason of the owner's own. */
static void stop_for(struct owner *owner, const char *reason) {
    struct kelpie_error ignored;
    ASSERT(owner->vm);
    ASSERT(reason);
    owner_lock(owner);
    snprintf(owner->record->info.reason, sizeof(owner->record->info.reason), "%s", reason);
    owner_unlock(owner);
    (void)!kelpie_vm_stop(owner->vm, 0, &ignored);
    owner_note_state(owner);
}

static bool is_over(uint64_t since_ns, uint64_t now_ns, uint64_t limit_ms) {
    ASSERT(since_ns <= now_ns);
    return limit_ms != 0 && (now_ns - since_ns) / HOST_NS_PER_MS >= limit_ms;
}

/* Looks at the clocks. False: it is time to end. */
static bool tick(struct owner *owner, size_t connection_count) {
    const struct kelpie_owner *wanted = owner->record->config->config.owner;
    ASSERT(wanted);
    owner_lock(owner);
    /* Read with the lock: what others note as past must not be later than it. */
    const uint64_t now_ns = host_monotonic_ns(owner->host);
    enum kelpie_state state = owner->record->info.state;
    bool runs = state == KELPIE_STATE_RUNNING || state == KELPIE_STATE_PAUSED;
    if (connection_count > 0 || owner->detached.exec || state == KELPIE_STATE_STARTING) {
        owner->quiet_since_ns = now_ns;
    }
    uint64_t quiet_since_ns = owner->quiet_since_ns;
    uint64_t ended_ns = owner->ended_ns;
    bool asked = owner->removal_asked || owner->signalled;
    owner_unlock(owner);
    ASSERT(quiet_since_ns <= now_ns);
    if (asked) {
        return false;
    }
    if (runs) {
        if (is_over(owner->created_ns, now_ns, wanted->lifetime_ms)) {
            stop_for(owner, "its time to live was over");
        } else if (is_over(quiet_since_ns, now_ns, wanted->idle_ms)) {
            stop_for(owner, "nobody had used it");
        }
        return true;
    }
    if (wanted->remove && ended_ns != 0 &&
        (connection_count == 0 || is_over(ended_ns, now_ns, SUPERVISE_GONE_MS))) {
        owner_lock(owner);
        owner->removal_asked = true;
        owner_unlock(owner);
        return false;
    }
    /* One that crashed can be started by the next owner. */
    uint64_t linger_ms = state == KELPIE_STATE_CRASHED ? 1 : KELPIE_OWNER_LINGER_MS;
    return connection_count > 0 || !is_over(quiet_since_ns, now_ns, linger_ms);
}

static void serve(struct owner *owner) {
    ASSERT(owner->listen_fd != HOST_FD_NONE);
    ASSERT(owner->vm);
    for (;;) { /* until it is time to end */
        struct host_poll_item items[] = {
            {.fd = owner->listen_fd, .asked = HOST_POLL_READ},
            {.fd = owner->stop_event, .asked = HOST_POLL_READ},
            {.fd = owner->signal_fd, .asked = HOST_POLL_READ},
        };
        struct host_wait wait = host_wait_ms(owner->host, SUPERVISE_TICK_MS, HOST_FD_NONE);
        struct kelpie_error err;
        enum kelpie_status status = host_poll(owner->host, items, ARRAY_SIZE(items), &wait, &err);
        if (status != KELPIE_OK && status != KELPIE_TIMED_OUT) {
            return; /* deaf: nobody could end the VM any more */
        }
        if (status == KELPIE_OK && items[1].ready) {
            host_event_clear(owner->host, owner->stop_event);
        }
        owner->signalled |= status == KELPIE_OK && items[2].ready;
        if (status == KELPIE_OK && items[0].ready) {
            accept_one(owner);
        }
        if (!tick(owner, collect_connections(owner, false))) {
            return;
        }
    }
}

/* ---- Beginning and end ---------------------------------------------------------------------------- */

/* A cancel ends no wait that begins after it: it is repeated until the watcher has seen that the owner ends. */
static void end_watcher(struct owner *owner) {
    ASSERT(owner->vm);
    ASSERT(owner->ending);
    if (!owner->watcher) {
        return;
    }
    owner_lock(owner);
    while (!owner->watched) {
        owner_unlock(owner);
        kelpie_vm_cancel(owner->vm);
        owner_lock(owner);
        if (!owner->watched) {
            const struct host_wait step =
                host_wait_ms(owner->host, SUPERVISE_CANCEL_MS, HOST_FD_NONE);
            (void)host_condition_wait(owner->changed, owner->mutex, step.deadline_ns);
        }
    }
    owner_unlock(owner);
    host_thread_join(TAKE(owner->watcher));
}

/* The VM ends in order if there is time: it was not asked to go at once. */
static void finish(struct owner *owner) {
    struct kelpie_error ignored;
    ASSERT(owner->vm);
    ASSERT(owner->record);
    owner_lock(owner);
    bool remove = owner->removal_asked;
    owner_unlock(owner);
    enum kelpie_state state = kelpie_vm_state(owner->vm);
    bool runs = state == KELPIE_STATE_RUNNING || state == KELPIE_STATE_PAUSED;
    if (!remove && runs) {
        stop_for(owner, "its owner was told to end");
    } else if (runs || state == KELPIE_STATE_STARTING) {
        (void)!kelpie_vm_stop(owner->vm, KELPIE_STOP_AT_ONCE, &ignored);
    }
    owner_lock(owner);
    owner->ending = true;
    host_condition_broadcast(owner->changed);
    owner_unlock(owner);
    kelpie_vm_cancel(owner->vm);
    (void)collect_connections(owner, true);
    detached_join(owner);
    end_watcher(owner);
    owner->record->info.owner_pid = 0;
    kelpie_vm_destroy(TAKE(owner->vm));
    if (remove) {
        (void)!store_vm_remove(&owner->place, &ignored);
        return;
    }
    owner_write_record(owner);
    char path[KELPIE_PATH_SIZE_MAX + 1];
    if (store_socket_path(owner->store, owner->place.id, path, sizeof(path), &ignored) ==
        KELPIE_OK) {
        (void)!host_path_unlink(owner->host, path, &ignored);
    }
}

/* Says how it began; the first connection is served like any other then. */
static enum kelpie_status welcome(struct owner *owner, int fd, uint64_t id,
                                  struct kelpie_error *err) {
    struct connection *connection = NULL;
    ASSERT(owner->vm);
    ASSERT(fd != HOST_FD_NONE);
    TRY(connection_open(owner, fd, &connection, err));
    owner_lock(owner);
    json_t *answer = connection_welcome(owner, id);
    owner_unlock(owner);
    connection_send(connection, answer, HOST_FD_NONE, SUPERVISE_SEND_MS);
    connection_greeted(connection);
    return KELPIE_OK;
}

static void tell_failure(struct host *host, int fd, uint64_t id, const struct kelpie_error *err) {
    ASSERT(err->status != KELPIE_OK);
    ASSERT(fd != HOST_FD_NONE);
    json_t *answer = request_answer(id, err);
    struct host_wait wait = host_wait_ms(host, SUPERVISE_SEND_MS, HOST_FD_NONE);
    struct kelpie_error ignored;
    if (answer) {
        (void)!control_send(host, fd, answer, HOST_FD_NONE, &wait, &ignored);
        json_decref(answer);
    }
}

/* The first request, which comes before anything is there that could serve it. */
static enum kelpie_status greet(struct owner *owner, int fd, json_t **ret_json,
                                struct kelpie_error *err) {
    struct control_reader reader;
    struct control_message message = {.fd = HOST_FD_NONE};
    ASSERT(ret_json);
    ASSERT(fd != HOST_FD_NONE);
    control_reader_init(&reader, owner->host, fd);
    struct host_wait wait = host_wait_ms(owner->host, SUPERVISE_GREET_MS, HOST_FD_NONE);
    enum kelpie_status status = control_receive(&reader, &wait, &message, err);
    /* Whoever has begun an owner waits for its answer before the next request: nothing more can be there. */
    control_reader_deinit(&reader);
    TRY(status);
    *ret_json = json_incref(message.json);
    control_message_clear(owner->host, &message);
    return KELPIE_OK;
}

static enum kelpie_status run(struct owner *owner, int fd, struct kelpie_error *err) {
    json_t *json = NULL;
    ASSERT(fd != HOST_FD_NONE);
    ASSERT(owner->host);
    /* Heard before anything can fail: whoever is still speaking would not hear why. */
    enum kelpie_status status = greet(owner, fd, &json, err);
    uint64_t id = json ? control_number(json, "id") : 0;
    if (status == KELPIE_OK) {
        status = owner_init(owner, err);
    }
    if (status == KELPIE_OK) {
        status = begin(owner, json, err);
    }
    json_decref(json);
    owner->created_ns = host_monotonic_ns(owner->host);
    owner->quiet_since_ns = owner->created_ns;
    if (status == KELPIE_OK) {
        status = host_thread_start(owner->host, "kelpie-watch", owner_watch, owner, &owner->watcher,
                                   err);
    }
    if (status != KELPIE_OK) {
        tell_failure(owner->host, fd, id, err);
        host_close(owner->host, fd);
    } else {
        /* A maker that is gone already has made a VM all the same. */
        (void)!welcome(owner, fd, id, err);
        serve(owner);
    }
    if (owner->vm) {
        owner->removal_asked |= status != KELPIE_OK && owner->is_new;
        finish(owner);
    } else if (owner->is_new && owner->place.lock_fd != HOST_FD_NONE) {
        struct kelpie_error ignored;
        (void)!store_vm_remove(&owner->place, &ignored);
    }
    owner_deinit(owner);
    return status;
}

int kelpie_supervise(void *wanted_host, int fd, int stop_fd) {
    struct host *host = wanted_host;
    struct kelpie_error err = {0};
    ASSERT(fd >= 0);
    ASSERT(stop_fd >= HOST_FD_NONE);
    if (!host && host_linux_create(&host, &err) != KELPIE_OK) {
        return EXIT_FAILED;
    }
    struct owner *owner = host_allocate(host, sizeof(*owner), &err);
    enum kelpie_status status = KELPIE_NO_MEMORY;
    if (owner) {
        owner->host = host;
        owner->listen_fd = HOST_FD_NONE;
        owner->stop_event = HOST_FD_NONE;
        owner->signal_fd = stop_fd;
        owner->place.lock_fd = HOST_FD_NONE;
        status = run(owner, fd, &err);
        free(owner);
    } else {
        host_close(host, fd);
    }
    if (!wanted_host) {
        host_destroy(host);
    }
    return status == KELPIE_OK ? 0 : EXIT_FAILED;
}
