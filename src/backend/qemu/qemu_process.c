/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "backend/qemu/qemu_instance.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"

void qemu_instance_check(const struct backend_instance *instance) {
    ASSERT(instance->host && instance->lock);
    ASSERT(instance->config);
    ASSERT(instance->config->disk_count <= KELPIE_DISK_COUNT_MAX);
    ASSERT((unsigned)instance->probe.accelerator < QEMU_ACCELERATOR_COUNT);
}

/* The numbers of the descriptors in QEMU's process. */
enum child_fd {
    CHILD_STDERR = 2,
    CHILD_QMP,
    CHILD_CHANNEL,
    CHILD_CONSOLE,
    CHILD_MEMORY,
    CHILD_DISK_0,
    CHILD_END = CHILD_DISK_0 + KELPIE_DISK_COUNT_MAX
};
static_assert(CHILD_END - CHILD_STDERR <= HOST_PROCESS_FD_COUNT_MAX, "the host passes so many");

/* Socket pairs that both sides of a start hold: ours and QEMU's. */
enum pair { PAIR_STDERR = 0, PAIR_QMP, PAIR_CHANNEL, PAIR_CONSOLE, PAIR_COUNT };

struct pairs {
    struct host *host;
    int ours[PAIR_COUNT];
    int theirs[PAIR_COUNT];
};

static void pairs_deinit(struct pairs *pairs) {
    ASSERT(pairs->host);
    for (size_t i = 0; i < PAIR_COUNT; i++) {
        host_close(pairs->host, pairs->ours[i]);
        host_close(pairs->host, pairs->theirs[i]);
    }
}
#define AUTO_PAIRS __attribute__((cleanup(pairs_deinit)))

static enum kelpie_status pairs_open(struct pairs *pairs, struct kelpie_error *err) {
    ASSERT(pairs->ours[0] == HOST_FD_NONE);
    ASSERT(pairs->host);
    for (size_t i = 0; i < PAIR_COUNT; i++) {
        int fds[2] = {HOST_FD_NONE, HOST_FD_NONE};
        TRY(host_socket_pair(pairs->host, fds, err));
        pairs->ours[i] = fds[0];
        pairs->theirs[i] = fds[1];
    }
    return KELPIE_OK;
}

/* ---- Last words ------------------------------------------------------------------------------- */

/* Keeps the last bytes. */
static void stderr_append(struct backend_instance *instance, const char *data, size_t size) {
    qemu_instance_check(instance);
    const size_t capacity = sizeof(instance->stderr_tail);
    ASSERT(size <= capacity);
    ASSERT(instance->stderr_size <= capacity);
    if (instance->stderr_size + size > capacity) {
        size_t kept = capacity - size;
        memmove(instance->stderr_tail, instance->stderr_tail + (instance->stderr_size - kept),
                kept);
        instance->stderr_size = kept;
    }
    memcpy(instance->stderr_tail + instance->stderr_size, data, size);
    instance->stderr_size += size;
}

void qemu_process_drain_stderr(struct backend_instance *instance) {
    qemu_instance_check(instance);
    const struct host_wait no_wait = host_wait_none();
    char chunk[1024];
    static_assert(sizeof(chunk) <= QEMU_STDERR_TAIL_SIZE, "a chunk fits");
    for (size_t i = 0; i < QEMU_STDERR_READ_COUNT_MAX && instance->stderr_fd != HOST_FD_NONE; i++) {
        size_t count = 0;
        enum kelpie_status status = host_read(instance->host, instance->stderr_fd, chunk,
                                              sizeof(chunk), &no_wait, &count, NULL);
        if (status == KELPIE_TIMED_OUT) {
            return;
        }
        if (status != KELPIE_OK || count == 0) {
            host_close(instance->host, instance->stderr_fd);
            instance->stderr_fd = HOST_FD_NONE;
            return;
        }
        stderr_append(instance, chunk, count);
    }
}

void qemu_process_exit_text(struct backend_instance *instance, char *buffer, size_t size) {
    qemu_instance_check(instance);
    ASSERT(buffer);
    ASSERT(size > 0);
    if (!instance->process) {
        snprintf(buffer, size, "%s",
                 instance->last_exit[0] ? instance->last_exit : "QEMU is not running");
        return;
    }
    const struct host_wait no_wait = host_wait_none();
    struct host_process_exit end = {0};
    if (host_process_wait(instance->process, &no_wait, &end, NULL) != KELPIE_OK) {
        snprintf(buffer, size, "QEMU is running");
        return;
    }
    qemu_process_drain_stderr(instance);
    struct qmp_events events = {0};
    if (instance->qmp) {
        qmp_service(instance->qmp);
        qmp_events_get(instance->qmp, &events);
    }
    char words[QEMU_LAST_WORDS_SIZE_MAX + 1];
    qemu_last_line(instance->stderr_tail, instance->stderr_size, words, sizeof(words));
    if (!words[0]) {
        qemu_console_last_line(&instance->console, words, sizeof(words));
    }
    char how[64];
    if (end.signal != 0) {
        snprintf(how, sizeof(how), "was killed by signal %d", end.signal);
    } else {
        snprintf(how, sizeof(how), "exited with code %d", end.code);
    }
    snprintf(buffer, size, "QEMU %s%s%s%s%s%s", how, events.shutdown ? " after " : "",
             events.shutdown ? events.shutdown_reason : "", words[0] ? "; its last words: " : "",
             words, words[0] ? "" : "; it said nothing");
}

enum kelpie_status qemu_process_explain(struct backend_instance *instance,
                                        enum kelpie_status status, struct kelpie_error *err) {
    qemu_instance_check(instance);
    ASSERT(status != KELPIE_OK);
    if (!instance->process) {
        return status;
    }
    const struct host_wait wait = host_wait_ms(instance->host, QEMU_CRASH_TIMEOUT_MS, HOST_FD_NONE);
    struct host_process_exit end = {0};
    if (host_process_wait(instance->process, &wait, &end, NULL) != KELPIE_OK) {
        return error_wrap(err, status, "QEMU let go of its control channel");
    }
    char text[768];
    host_mutex_lock(instance->lock);
    qemu_process_exit_text(instance, text, sizeof(text));
    host_mutex_unlock(instance->lock);
    return error_set(err, status, "%s", text);
}

enum kelpie_status qemu_execute(struct backend_instance *instance, const char *name,
                                json_t *arguments, const struct host_wait *wait,
                                struct kelpie_error *err) {
    qemu_instance_check(instance);
    ASSERT(name);
    if (!instance->qmp) {
        json_decref(arguments);
        return error_set(err, KELPIE_WRONG_STATE, "QEMU is not running");
    }
    const struct qmp_command command = {
        .name = name, .arguments = arguments, .passed_fd = HOST_FD_NONE};
    enum kelpie_status status = qmp_execute(instance->qmp, &command, wait, NULL, err);
    return status == KELPIE_CRASHED ? qemu_process_explain(instance, status, err) : status;
}

enum kelpie_status qemu_cont(struct backend_instance *instance, const struct host_wait *wait,
                             struct kelpie_error *err) {
    qemu_instance_check(instance);
    ASSERT(wait);
    TRY(qemu_execute(instance, "cont", NULL, wait, err));
    instance->migrated = false;
    return KELPIE_OK;
}

/* ---- Start ------------------------------------------------------------------------------------ */

static struct qemu_description describe(const struct backend_instance *instance,
                                        const struct qemu_process_spec *spec) {
    qemu_instance_check(instance);
    ASSERT(instance->probe.binary[0]);
    const struct kelpie_config *config = instance->config;
    struct qemu_description description = {
        .binary = instance->probe.binary,
        .machine = instance->machine,
        .accelerator = instance->probe.accelerator,
        .vcpu_count = config->vcpu_count,
        .memory_mib = config->memory_mib,
        .kernel = instance->boot.kernel.path,
        .initramfs = instance->boot.initramfs_path,
        .kernel_args = config->kernel_args,
        .tsc_khz = instance->tsc_khz,
        .qmp_fd = CHILD_QMP,
        .channel_fd = CHILD_CHANNEL,
        .console_fd = CHILD_CONSOLE,
        .memory_fd = CHILD_MEMORY,
        .memory_private = spec->memory_private,
        .incoming = spec->incoming,
        .disk_count = config->disk_count,
    };
    ASSERT(config->disk_count <= KELPIE_DISK_COUNT_MAX);
    for (size_t i = 0; i < config->disk_count; i++) {
        description.disks[i].fd = CHILD_DISK_0 + (int)i;
        description.disks[i].read_only = instance->disks[i].read_only;
    }
    return description;
}

static enum kelpie_status spawn(struct backend_instance *instance,
                                const struct qemu_process_spec *spec, const struct pairs *pairs,
                                struct host_process **ret_process, struct kelpie_error *err) {
    qemu_instance_check(instance);
    ASSERT(spec->memory_fd != HOST_FD_NONE);
    AUTO_MEM struct qemu_command *command = host_allocate(instance->host, sizeof(*command), err);
    if (!command) {
        return KELPIE_NO_MEMORY;
    }
    const struct qemu_description description = describe(instance, spec);
    TRY(qemu_command_build(command, &description, err));
    struct host_process_fd fds[CHILD_END] = {
        {.child_fd = CHILD_STDERR, .fd = pairs->theirs[PAIR_STDERR]},
        {.child_fd = CHILD_QMP, .fd = pairs->theirs[PAIR_QMP]},
        {.child_fd = CHILD_CHANNEL, .fd = pairs->theirs[PAIR_CHANNEL]},
        {.child_fd = CHILD_CONSOLE, .fd = pairs->theirs[PAIR_CONSOLE]},
        {.child_fd = CHILD_MEMORY, .fd = spec->memory_fd},
    };
    size_t fd_count = CHILD_DISK_0 - CHILD_STDERR;
    for (size_t i = 0; i < description.disk_count; i++) {
        ASSERT(instance->disks[i].fd != HOST_FD_NONE);
        fds[fd_count].child_fd = description.disks[i].fd;
        fds[fd_count].fd = instance->disks[i].fd;
        fd_count++;
    }
    const struct host_process_spec process_spec = {
        .argv = command->argv,
        .fds = fds,
        .fd_count = fd_count,
        .dies_with_owner = true,
        .new_session = true,
    };
    enum kelpie_status status = host_process_spawn(instance->host, &process_spec, ret_process, err);
    if (status == KELPIE_NOT_FOUND) {
        return error_wrap(err, KELPIE_BACKEND_MISSING,
                          "QEMU is gone; install it (" QEMU_INSTALL_HINT ")");
    }
    return status;
}

/* Spawns and shows the process to the other threads. */
static enum kelpie_status launch(struct backend_instance *instance,
                                 const struct qemu_process_spec *spec, struct kelpie_error *err) {
    qemu_instance_check(instance);
    ASSERT(!instance->process);
    ASSERT(!instance->qmp);
    AUTO_PAIRS struct pairs pairs = {.host = instance->host};
    for (size_t i = 0; i < PAIR_COUNT; i++) {
        pairs.ours[i] = pairs.theirs[i] = HOST_FD_NONE;
    }
    TRY(pairs_open(&pairs, err));
    struct qmp *qmp = NULL;
    int qmp_socket = pairs.ours[PAIR_QMP];
    pairs.ours[PAIR_QMP] = HOST_FD_NONE; /* qmp_create takes it over, whatever happens */
    TRY(qmp_create(instance->host, qmp_socket, &qmp, err));
    struct host_process *process = NULL;
    enum kelpie_status status = spawn(instance, spec, &pairs, &process, err);
    if (status != KELPIE_OK) {
        qmp_destroy(qmp);
        return status;
    }
    host_mutex_lock(instance->lock);
    instance->process = process;
    instance->qmp = qmp;
    instance->channel_fd = pairs.ours[PAIR_CHANNEL];
    instance->console_fd = pairs.ours[PAIR_CONSOLE];
    instance->stderr_fd = pairs.ours[PAIR_STDERR];
    instance->stderr_size = 0;
    host_mutex_unlock(instance->lock);
    pairs.ours[PAIR_CHANNEL] = pairs.ours[PAIR_CONSOLE] = pairs.ours[PAIR_STDERR] = HOST_FD_NONE;
    return KELPIE_OK;
}

/* Gives back the process and its descriptors, not the disks and the memory. */
static void process_take_down(struct backend_instance *instance) {
    qemu_instance_check(instance);
    if (!instance->process) {
        return;
    }
    const struct host_wait wait = host_wait_ms(instance->host, QEMU_EXIT_TIMEOUT_MS, HOST_FD_NONE);
    struct host_process_exit end = {0};
    enum kelpie_status ignored = host_process_signal(instance->process, SIGKILL, NULL);
    ignored = host_process_wait(instance->process, &wait, &end, NULL);
    (void)ignored; /* host_process_destroy() has the last word */
    host_mutex_lock(instance->lock);
    if (instance->console_fd != HOST_FD_NONE) {
        (void)qemu_console_drain(&instance->console, instance->console_fd);
    }
    char text[sizeof(instance->last_exit)];
    qemu_process_exit_text(instance, text, sizeof(text));
    memcpy(instance->last_exit, text, sizeof(text));
    struct host_process *process = TAKE(instance->process);
    struct qmp *qmp = TAKE(instance->qmp);
    const int fds[] = {instance->channel_fd, instance->console_fd, instance->stderr_fd};
    instance->channel_fd = instance->console_fd = instance->stderr_fd = HOST_FD_NONE;
    host_mutex_unlock(instance->lock);
    for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
        host_close(instance->host, fds[i]);
    }
    qmp_destroy(qmp);
    host_process_destroy(process);
}

void qemu_process_take_down(struct backend_instance *instance) {
    qemu_instance_check(instance);
    process_take_down(instance);
    ASSERT(!instance->process);
    instance->migrated = false;
    host_close(instance->host, instance->memory_fd);
    instance->memory_fd = HOST_FD_NONE;
    qemu_disks_close(instance);
}

/* Whether QEMU ended because it was built without this machine. */
static bool machine_is_missing(struct backend_instance *instance) {
    qemu_instance_check(instance);
    ASSERT(instance->process);
    static const char words[] = "unsupported machine type";
    host_mutex_lock(instance->lock);
    qemu_process_drain_stderr(instance);
    bool missing =
        memmem(instance->stderr_tail, instance->stderr_size, words, sizeof(words) - 1) != NULL;
    host_mutex_unlock(instance->lock);
    return missing;
}

enum kelpie_status qemu_process_start(struct backend_instance *instance,
                                      const struct qemu_process_spec *spec,
                                      const struct host_wait *wait, struct kelpie_error *err) {
    qemu_instance_check(instance);
    ASSERT(!instance->process);
    ASSERT(spec->memory_fd != HOST_FD_NONE);
    for (;;) {
        TRY(launch(instance, spec, err));
        enum kelpie_status status = qmp_greet(instance->qmp, wait, err);
        if (status == KELPIE_OK) {
            return KELPIE_OK;
        }
        if (status == KELPIE_CRASHED) {
            status = qemu_process_explain(instance, KELPIE_BOOT_FAILED, err);
        }
        bool retry = instance->machine == QEMU_MACHINE_MICROVM && machine_is_missing(instance);
        process_take_down(instance);
        if (!retry) {
            return status;
        }
        instance->machine = QEMU_MACHINE_Q35;
    }
}
