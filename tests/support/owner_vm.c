/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "owner_vm.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

#define SERVED_COUNT_MAX 16
#define HANDLE_COUNT_MAX 16

/* A VM and its handles. */
struct served {
    struct kelpie_vm *vm; /* NULL: this place is free, or the owner died */
    char name[KELPIE_NAME_SIZE_MAX + 1];
    uint64_t machine; /* counts the machines that there were */
    uint32_t delay_ms;
    bool died;
    struct backend_instance *handles[HANDLE_COUNT_MAX];
};

/* A handle. */
struct backend_instance {
    struct host *host;
    struct served *served;
    int notify; /* an event: there is something to read */
    struct vm_relay *relay;
    uint64_t machine; /* that the relay is for */
    struct backend_owned_state coming;
    int coming_fd;
    struct backend_owned_state told;
    int told_fd;
    bool lost; /* its thread hears nothing any more */
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct served serveds[SERVED_COUNT_MAX];
static char passed[8192];
static size_t passed_size;

static void on_output(void *context, const struct vm_relay_piece *piece) {
    (void)context;
    size_t room = sizeof(passed) - 1 - passed_size;
    size_t size = piece->size < room ? piece->size : room;
    memcpy(passed + passed_size, piece->data, size);
    passed_size += size;
    passed[passed_size] = '\0';
}

const char *owner_vm_passed(void) {
    return passed;
}

static struct served *find(const char *name) {
    for (size_t i = 0; i < SERVED_COUNT_MAX; i++) {
        if (serveds[i].name[0] && strcmp(serveds[i].name, name) == 0) {
            return &serveds[i];
        }
    }
    return NULL;
}

/* ---- Telling ------------------------------------------------------------------------------------ */

static void open_relay(struct backend_instance *handle) {
    int fds[2];
    struct kelpie_vm *vm = handle->served->vm;
    const struct vm_relay_options options = {
        .ids_first = vm_relay_ids(vm), .ids_count = VM_RELAY_IDS_COUNT, .on_output = on_output};
    enum kelpie_status status = host_socket_pair(vm->host, fds, NULL);
    ASSERT(status == KELPIE_OK);
    handle->machine = handle->served->machine;
    if (vm_relay_open(vm, fds[0], &options, &handle->relay, NULL) != KELPIE_OK) {
        host_close(vm->host, fds[1]);
        return;
    }
    if (handle->coming_fd != HOST_FD_NONE && handle->coming_fd != handle->told_fd) {
        host_close(handle->host, handle->coming_fd);
    }
    handle->coming_fd = fds[1]; /* descriptors of one process */
    handle->coming.channel_number++;
    handle->coming.ids_first = options.ids_first;
    handle->coming.ids_count = options.ids_count;
}

/* mutex held. */
static void tell_one(struct backend_instance *handle) {
    struct served *served = handle->served;
    if (served->died) {
        handle->coming.state = KELPIE_STATE_CRASHED;
        snprintf(handle->coming.exit_text, sizeof(handle->coming.exit_text), "its owner is gone");
    } else {
        handle->coming.state = kelpie_vm_state(served->vm);
        snprintf(handle->coming.exit_text, sizeof(handle->coming.exit_text), "%s",
                 served->vm->exit_text);
    }
    bool reachable =
        handle->coming.state == KELPIE_STATE_RUNNING || handle->coming.state == KELPIE_STATE_PAUSED;
    if (handle->relay && (!reachable || handle->machine != served->machine)) {
        vm_relay_close(handle->relay);
        handle->relay = NULL;
    }
    if (reachable && handle->machine != served->machine) {
        open_relay(handle);
    }
    host_event_set(handle->host, handle->notify);
}

static void tell(struct served *served) {
    pthread_mutex_lock(&mutex);
    for (size_t i = 0; i < HANDLE_COUNT_MAX; i++) {
        if (served->handles[i]) {
            tell_one(served->handles[i]);
        }
    }
    pthread_mutex_unlock(&mutex);
}

void owner_vm_tell(const char *name) {
    tell(find(name));
}

void owner_vm_delay(const char *name, uint32_t delay_ms) {
    find(name)->delay_ms = delay_ms;
}

/* After an operation: word of what came of it, then the answer. */
static enum kelpie_status answer(struct backend_instance *instance, enum kelpie_status status,
                                 const struct host_wait *wait, struct kelpie_error *err) {
    struct served *served = instance->served;
    tell(served);
    if (served->delay_ms > 0) {
        struct host_wait pause = host_wait_ms(instance->host, served->delay_ms, wait->cancel_fd);
        if (host_sleep(instance->host, &pause, err) != KELPIE_OK) {
            return KELPIE_CANCELLED;
        }
    }
    return status;
}

/* ---- backend_owner_ops -------------------------------------------------------------------------- */

static void owner_state(struct backend_instance *instance, struct backend_owned_state *ret_state) {
    *ret_state = instance->told;
}

static const char *owner_backend(struct backend_instance *instance) {
    return kelpie_vm_backend(instance->served->vm);
}

static uint32_t owner_capabilities(struct backend_instance *instance) {
    return kelpie_vm_capabilities(instance->served->vm);
}

static const char *owner_id(struct backend_instance *instance) {
    return kelpie_vm_id(instance->served->vm);
}

static const struct kelpie_config *owner_config(struct backend_instance *instance) {
    return kelpie_vm_config(instance->served->vm);
}

/* The owner is gone: nothing can be asked of it. */
static enum kelpie_status ask(struct backend_instance *instance, struct kelpie_error *err) {
    if (instance->served->died || instance->lost) {
        return error_set(err, KELPIE_CRASHED, "the VM's owner is gone");
    }
    return KELPIE_OK;
}

static enum kelpie_status owner_start(struct backend_instance *instance,
                                      const struct host_wait *wait, struct kelpie_error *err) {
    TRY(ask(instance, err));
    enum kelpie_status status = kelpie_vm_start(instance->served->vm, err);
    instance->served->machine += status == KELPIE_OK;
    return answer(instance, status, wait, err);
}

static enum kelpie_status owner_stop(struct backend_instance *instance, uint32_t timeout_ms,
                                     const struct host_wait *wait, struct kelpie_error *err) {
    TRY(ask(instance, err));
    return answer(instance, kelpie_vm_stop(instance->served->vm, timeout_ms, err), wait, err);
}

static enum kelpie_status owner_pause(struct backend_instance *instance,
                                      const struct host_wait *wait, struct kelpie_error *err) {
    TRY(ask(instance, err));
    return answer(instance, kelpie_vm_pause(instance->served->vm, err), wait, err);
}

static enum kelpie_status owner_resume(struct backend_instance *instance,
                                       const struct host_wait *wait, struct kelpie_error *err) {
    TRY(ask(instance, err));
    return answer(instance, kelpie_vm_resume(instance->served->vm, err), wait, err);
}

static enum kelpie_status owner_restore(struct backend_instance *instance, const char *directory,
                                        const struct kelpie_restore_options *options,
                                        const struct host_wait *wait, struct kelpie_error *err) {
    TRY(ask(instance, err));
    enum kelpie_status status = kelpie_vm_restore(instance->served->vm, directory, options, err);
    instance->served->machine += status == KELPIE_OK;
    return answer(instance, status, wait, err);
}

static enum kelpie_status owner_report(struct backend_instance *instance,
                                       struct kelpie_restore_report *ret_report,
                                       const struct host_wait *wait, struct kelpie_error *err) {
    TRY(ask(instance, err));
    return answer(instance, kelpie_vm_restore_report(instance->served->vm, ret_report, err), wait,
                  err);
}

static enum kelpie_status owner_snapshot(struct backend_instance *instance, const char *directory,
                                         const struct kelpie_snapshot_options *options,
                                         struct kelpie_snapshot *ret_snapshot,
                                         const struct host_wait *wait, struct kelpie_error *err) {
    TRY(ask(instance, err));
    return answer(instance,
                  kelpie_vm_snapshot(instance->served->vm, directory, options, ret_snapshot, err),
                  wait, err);
}

static enum kelpie_status owner_record(struct backend_instance *instance,
                                       const struct host_wait *wait, struct kelpie_error *err) {
    TRY(ask(instance, err));
    return answer(instance, kelpie_vm_record_working_set(instance->served->vm, err), wait, err);
}

/* Registers a VM that runs already, or does not. */
static struct served *serve(struct kelpie_vm *vm) {
    for (size_t i = 0; i < SERVED_COUNT_MAX; i++) {
        if (serveds[i].name[0] == '\0') {
            serveds[i] = (struct served){.vm = vm, .machine = 1};
            snprintf(serveds[i].name, sizeof(serveds[i].name), "%s", kelpie_vm_config(vm)->name);
            return &serveds[i];
        }
    }
    UNREACHABLE();
}

static enum kelpie_status owner_fork(struct backend_instance *instance,
                                     const struct kelpie_fork_options *options,
                                     struct backend_offspring *offspring,
                                     const struct host_wait *wait, struct kelpie_error *err) {
    TRY(ask(instance, err));
    const size_t count = offspring->count;
    struct kelpie_fork_child *children = calloc(count, sizeof(*children));
    ASSERT(children);
    enum kelpie_status status = kelpie_vm_fork(instance->served->vm, options, count, children, err);
    for (size_t i = 0; status == KELPIE_OK && i < count; i++) {
        offspring->errors[i] = children[i].error;
        offspring->names[i][0] = '\0';
        if (children[i].vm) {
            memcpy(offspring->names[i], serve(children[i].vm)->name, sizeof(offspring->names[i]));
        }
    }
    free(children);
    return answer(instance, status, wait, err);
}

static enum kelpie_status owner_run_detached(struct backend_instance *instance,
                                             const struct kelpie_command *command,
                                             uint32_t *ret_exec_id, const struct host_wait *wait,
                                             struct kelpie_error *err) {
    TRY(ask(instance, err));
    struct kelpie_exec *exec = NULL;
    TRY(kelpie_exec_start(instance->served->vm, command, &exec, err));
    *ret_exec_id = kelpie_exec_id(exec);
    kelpie_exec_detach(exec);
    return answer(instance, KELPIE_OK, wait, err);
}

static enum kelpie_status owner_wait_detached(struct backend_instance *instance,
                                              struct kelpie_exit *ret_exit,
                                              const struct host_wait *wait,
                                              struct kelpie_error *err) {
    TRY(ask(instance, err));
    *ret_exit = (struct kelpie_exit){.code = 7};
    struct host_wait until = *wait;
    return host_sleep(instance->host, &until, err) == KELPIE_OK
               ? error_set(err, KELPIE_TIMED_OUT, "it still runs")
               : KELPIE_CANCELLED;
}

static enum kelpie_status owner_stats(struct backend_instance *instance,
                                      struct kelpie_stats *ret_stats, const struct host_wait *wait,
                                      struct kelpie_error *err) {
    TRY(ask(instance, err));
    return answer(instance, kelpie_vm_stats(instance->served->vm, ret_stats, err), wait, err);
}

static enum kelpie_status owner_lever(struct backend_instance *instance, int operation,
                                      uint32_t count, const struct host_wait *wait,
                                      struct kelpie_error *err) {
    TRY(ask(instance, err));
    struct kelpie_vm *vm = instance->served->vm;
    enum kelpie_status status =
        operation < 0 ? kelpie_mock_crash(vm, err)
                      : kelpie_mock_fail(vm, (enum kelpie_mock_operation)operation, count, err);
    enum kelpie_state state;
    if (operation < 0 && status == KELPIE_OK) {
        status = kelpie_vm_wait(vm, 1u << KELPIE_STATE_CRASHED, 10000, &state, err);
    }
    return answer(instance, status, wait, err);
}

/* mutex held. */
static void end_served(struct served *served) {
    for (size_t i = 0; i < HANDLE_COUNT_MAX; i++) {
        if (served->handles[i] && served->handles[i]->relay) {
            vm_relay_close(served->handles[i]->relay);
            served->handles[i]->relay = NULL;
        }
    }
    if (served->vm && !served->died) {
        (void)!kelpie_vm_stop(served->vm, 1, NULL);
    }
}

static void owner_lose(struct backend_instance *instance, const char *why) {
    pthread_mutex_lock(&mutex);
    instance->lost = true;
    instance->told.state = KELPIE_STATE_CRASHED;
    snprintf(instance->told.exit_text, sizeof(instance->told.exit_text), "%s", why);
    pthread_mutex_unlock(&mutex);
}

static void owner_end(struct backend_instance *instance) {
    pthread_mutex_lock(&mutex);
    end_served(instance->served);
    instance->served->died = true;
    pthread_mutex_unlock(&mutex);
}

static const struct backend_owner_ops owner_ops = {
    .state = owner_state,
    .backend = owner_backend,
    .capabilities = owner_capabilities,
    .id = owner_id,
    .config = owner_config,
    .start = owner_start,
    .stop = owner_stop,
    .pause = owner_pause,
    .resume = owner_resume,
    .restore = owner_restore,
    .restore_report = owner_report,
    .snapshot = owner_snapshot,
    .record_working_set = owner_record,
    .fork = owner_fork,
    .run_detached = owner_run_detached,
    .wait_detached = owner_wait_detached,
    .stats = owner_stats,
    .mock_lever = owner_lever,
    .lose = owner_lose,
    .end = owner_end,
};

/* ---- backend_ops -------------------------------------------------------------------------------- */

static enum kelpie_status handle_create(const struct backend_launch *launch,
                                        struct backend_instance **ret_instance,
                                        struct kelpie_error *err) {
    struct served *served = launch->open_name ? find(launch->open_name) : NULL;
    if (launch->open_name && !served) {
        return error_set(err, KELPIE_NOT_FOUND, "there is no VM %s", launch->open_name);
    }
    if (!served) {
        struct kelpie_config config = *launch->config;
        struct kelpie_vm *vm = NULL;
        config.owner = NULL;
        TRY(kelpie_vm_create(&config, &vm, err));
        served = serve(vm);
    }
    struct backend_instance *handle = calloc(1, sizeof(*handle));
    ASSERT(handle);
    handle->host = launch->host;
    handle->served = served;
    handle->coming_fd = HOST_FD_NONE;
    handle->told_fd = HOST_FD_NONE;
    TRY(host_event_create(launch->host, &handle->notify, err));
    pthread_mutex_lock(&mutex);
    for (size_t i = 0; i < HANDLE_COUNT_MAX; i++) {
        if (!served->handles[i]) {
            served->handles[i] = handle;
            break;
        }
    }
    tell_one(handle);
    handle->told.state = handle->coming.state; /* the channel comes a moment later */
    pthread_mutex_unlock(&mutex);
    *ret_instance = handle;
    return KELPIE_OK;
}

static void handle_destroy(struct backend_instance *handle) {
    pthread_mutex_lock(&mutex);
    for (size_t i = 0; i < HANDLE_COUNT_MAX; i++) {
        if (handle->served->handles[i] == handle) {
            handle->served->handles[i] = NULL;
        }
    }
    if (handle->coming_fd != HOST_FD_NONE && handle->coming_fd != handle->told_fd) {
        host_close(handle->host, handle->coming_fd);
    }
    host_close(handle->host, handle->told_fd);
    vm_relay_close(handle->relay);
    pthread_mutex_unlock(&mutex);
    host_close(handle->host, handle->notify);
    free(handle);
}

static int handle_channel_fd(struct backend_instance *handle) {
    return handle->told_fd;
}

static int handle_no_fd(struct backend_instance *handle) {
    (void)handle;
    return HOST_FD_NONE;
}

static int handle_process_id(struct backend_instance *handle) {
    return handle->served->died ? 0 : 4711;
}

static size_t handle_service_fds(struct backend_instance *handle, int *fds, size_t capacity) {
    ASSERT(capacity >= 1);
    fds[0] = handle->notify;
    return 1;
}

static void handle_service(struct backend_instance *handle, int fd) {
    ASSERT(fd == handle->notify);
    host_event_clear(handle->host, fd);
    pthread_mutex_lock(&mutex);
    if (handle->coming_fd != handle->told_fd) {
        host_close(handle->host, handle->told_fd);
        handle->told_fd = handle->coming_fd;
    }
    handle->told = handle->coming;
    pthread_mutex_unlock(&mutex);
}

static size_t handle_console(struct backend_instance *handle, void *buffer, size_t size) {
    return handle->served->died ? 0 : kelpie_vm_console(handle->served->vm, buffer, size);
}

static const struct backend_ops handle_ops = {
    .name = "remote",
    .description = "a VM with an owner, for tests",
    .owner = &owner_ops,
    .create = handle_create,
    .destroy = handle_destroy,
    .channel_fd = handle_channel_fd,
    .exit_fd = handle_no_fd,
    .process_id = handle_process_id,
    .service_fds = handle_service_fds,
    .service = handle_service,
    .console = handle_console,
};

/* ---- What tests call ---------------------------------------------------------------------------- */

struct kelpie_vm *owner_vm_create(const struct kelpie_config *config, struct kelpie_error *err) {
    struct kelpie_vm *vm = NULL;
    const struct vm_origin origin = {.config = config, .ops = &handle_ops};
    return vm_create(&origin, &vm, err) == KELPIE_OK ? vm : NULL;
}

struct kelpie_vm *owner_vm_open(const char *name, struct kelpie_error *err) {
    struct kelpie_vm *vm = NULL;
    const struct vm_origin origin = {.open_name = name, .ops = &handle_ops};
    return vm_create(&origin, &vm, err) == KELPIE_OK ? vm : NULL;
}

struct kelpie_vm *owner_vm_served(const char *name) {
    struct served *served = find(name);
    return served ? served->vm : NULL;
}

struct vm_relay *owner_vm_relay(struct kelpie_vm *handle) {
    return handle->instance->relay;
}

void owner_vm_die(const char *name) {
    owner_end(&(struct backend_instance){.served = find(name)});
    tell(find(name));
}

void owner_vm_forget(void) {
    for (size_t i = 0; i < SERVED_COUNT_MAX; i++) {
        if (serveds[i].name[0]) {
            pthread_mutex_lock(&mutex);
            end_served(&serveds[i]);
            pthread_mutex_unlock(&mutex);
            kelpie_vm_destroy(serveds[i].vm);
            serveds[i] = (struct served){0};
        }
    }
    passed_size = 0;
    passed[0] = '\0';
}
