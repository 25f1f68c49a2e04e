/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* A command: what it may say, and how it is said to the guest. */
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "vm/vm.h"

static size_t key_size(const char *variable) {
    ASSERT(variable);
    const char *equals = strchr(variable, '=');
    ASSERT(equals);
    return (size_t)(equals - variable) + 1;
}

/* The command's own variables come before the config's of the same name. */
static bool is_overridden(const struct kelpie_command *command, const char *variable) {
    ASSERT(command);
    ASSERT(variable);
    size_t size = key_size(variable);
    for (size_t i = 0; command->env && command->env[i]; i++) {
        if (strncmp(command->env[i], variable, size) == 0) {
            return true;
        }
    }
    return false;
}

static enum kelpie_status add_bytes(size_t *total, const char *text, struct kelpie_error *err) {
    ASSERT(*total <= KELPIE_COMMAND_BYTES_MAX);
    ASSERT(text);
    size_t size = strnlen(text, KELPIE_COMMAND_BYTES_MAX) + 1;
    *total += size;
    if (*total > KELPIE_COMMAND_BYTES_MAX) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "argv",
                               "the command's arguments, environment and working folder have more "
                               "than %d bytes: pass large data on stdin or copy a file in",
                               KELPIE_COMMAND_BYTES_MAX);
    }
    return KELPIE_OK;
}

static const char *working_dir_of(const struct kelpie_config *config,
                                  const struct kelpie_command *command) {
    ASSERT(config->working_dir);
    ASSERT(command);
    return command->working_dir ? command->working_dir : config->working_dir;
}

static enum kelpie_status check_bytes(const struct kelpie_config *config,
                                      const struct kelpie_command *command,
                                      struct kelpie_error *err) {
    ASSERT(config);
    ASSERT(command->argv);
    size_t total = 0;
    size_t argv_count = 0;
    for (; command->argv[argv_count]; argv_count++) {
        if (argv_count == KELPIE_ARGV_COUNT_MAX) {
            return error_set_field(err, KELPIE_BAD_CONFIG, "argv",
                                   "argv has more than %d arguments", KELPIE_ARGV_COUNT_MAX);
        }
        TRY(add_bytes(&total, command->argv[argv_count], err));
    }
    for (size_t i = 0; command->env && command->env[i]; i++) {
        TRY(add_bytes(&total, command->env[i], err));
    }
    for (size_t i = 0; config->env && config->env[i]; i++) {
        TRY(add_bytes(&total, config->env[i], err));
    }
    return add_bytes(&total, working_dir_of(config, command), err);
}

static enum kelpie_status check_rlimits(const struct kelpie_command *command,
                                        struct kelpie_error *err) {
    ASSERT(command);
    ASSERT(command->argv);
    if (command->rlimit_count > KELPIE_RLIMIT_COUNT_MAX ||
        (command->rlimit_count > 0 && !command->rlimits)) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "rlimits", "rlimits may hold 0 to %d limits",
                               KELPIE_RLIMIT_COUNT_MAX);
    }
    for (size_t i = 0; i < command->rlimit_count; i++) {
        const struct kelpie_rlimit *limit = &command->rlimits[i];
        if (limit->resource > 15 || limit->soft > limit->hard) {
            char field[64];
            snprintf(field, sizeof(field), "rlimits[%zu]", i);
            return error_set_field(err, KELPIE_BAD_CONFIG, field,
                                   "%s must name a resource of 0 to 15 and a soft limit that is "
                                   "not above the hard one",
                                   field);
        }
    }
    return KELPIE_OK;
}

enum kelpie_status vm_command_check(const struct kelpie_config *config,
                                    const struct kelpie_command *command,
                                    struct kelpie_error *err) {
    ASSERT(config);
    ASSERT(command);
    if (!command->argv || !command->argv[0] || command->argv[0][0] == 0) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "argv", "argv[0] must name a program");
    }
    size_t env_count = 0;
    TRY(vm_check_env(command->env, &env_count, err));
    if (command->working_dir) {
        TRY(vm_check_path("working_dir", command->working_dir, true, err));
    }
    TRY(check_bytes(config, command, err));
    TRY(check_rlimits(command, err));
    TRY(vm_check_timeout("timeout_ms", command->timeout_ms, err));
    if (command->stdin_size > 0 && !command->stdin_data) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "stdin_data", "stdin_data is missing");
    }
    if (command->output_bytes_max > KELPIE_OUTPUT_BYTES_MAX) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "output_bytes_max",
                               "output_bytes_max is more than %d", KELPIE_OUTPUT_BYTES_MAX);
    }
    return vm_check_reserved("reserved", command->reserved, ARRAY_SIZE(command->reserved), err);
}

/* Copies the strings behind one another into `buffer`. */
static void gather_argv(const struct kelpie_command *command, struct cursor_writer *strings,
                        struct protocol_exec *exec) {
    ASSERT(command->argv[0]);
    ASSERT(strings->size == 0);
    exec->argv = (const char *)strings->data;
    for (size_t i = 0; command->argv[i]; i++) {
        cursor_write_string(strings, command->argv[i]);
        exec->argv_count++;
    }
    exec->argv_size = strings->size;
}

static void gather_env(const struct kelpie_config *config, const struct kelpie_command *command,
                       struct cursor_writer *strings, struct protocol_exec *exec) {
    ASSERT(exec->argv_size == strings->size);
    ASSERT(exec->argv_count > 0);
    size_t start = strings->size;
    exec->env = (const char *)strings->data + start;
    for (size_t i = 0; config->env && config->env[i]; i++) {
        if (!is_overridden(command, config->env[i])) {
            cursor_write_string(strings, config->env[i]);
            exec->env_count++;
        }
    }
    for (size_t i = 0; command->env && command->env[i]; i++) {
        cursor_write_string(strings, command->env[i]);
        exec->env_count++;
    }
    exec->env_size = strings->size - start;
}

/* How long beyond its timeout a command is waited for. */
static uint64_t exec_grace_ms(const struct kelpie_vm *vm) {
    ASSERT(vm->locked);
    ASSERT(VM_OWNED_EXEC_GRACE_MS >= VM_EXEC_GRACE_MS);
    return vm_is_owned(vm) ? VM_OWNED_EXEC_GRACE_MS : VM_EXEC_GRACE_MS;
}

enum kelpie_status vm_command_send(struct kelpie_exec *session,
                                   const struct kelpie_command *command, const struct vm_wait *wait,
                                   struct kelpie_error *err) {
    ASSERT(session->vm->locked);
    ASSERT(!session->started);
    ASSERT(command->rlimit_count <= KELPIE_RLIMIT_COUNT_MAX);
    struct kelpie_vm *vm = session->vm;
    struct protocol_exec exec = {
        .flags = (command->tty ? PROTOCOL_EXEC_TTY : 0u) |
                 (session->input_refused ? 0u : PROTOCOL_EXEC_STDIN),
        .uid = command->uid,
        .gid = command->gid,
        .timeout_ms = command->timeout_ms,
        .rows = command->rows != 0 ? command->rows : 24,
        .columns = command->columns != 0 ? command->columns : 80,
        .rlimit_count = (uint32_t)command->rlimit_count,
        .working_dir = working_dir_of(vm->config, command),
    };
    for (size_t i = 0; i < command->rlimit_count; i++) {
        const struct kelpie_rlimit *limit = &command->rlimits[i];
        exec.rlimits[i] = (struct protocol_rlimit){limit->resource, limit->soft, limit->hard};
    }
    AUTO_MEM char *buffer = host_allocate(vm->host, KELPIE_COMMAND_BYTES_MAX, err);
    if (!buffer) {
        return KELPIE_NO_MEMORY;
    }
    struct cursor_writer strings = cursor_writer_init(buffer, KELPIE_COMMAND_BYTES_MAX);
    gather_argv(command, &strings, &exec);
    gather_env(vm->config, command, &strings, &exec);
    ASSERT(!strings.failed); /* vm_command_check() counted them */

    struct cursor_writer writer;
    vm_guest_sessions_make_room(vm);
    TRY(vm_channel_reserve(vm, strings.size + 8192, wait, &writer, err));
    protocol_encode_exec(&writer, session->id, &exec);
    vm_guest_session_opened(vm, session->id);
    vm_channel_commit(vm, &writer);
    if (command->timeout_ms != 0) {
        session->deadline_ns = host_monotonic_ns(vm->host) +
                               (command->timeout_ms + exec_grace_ms(vm)) * HOST_NS_PER_MS;
    }
    return KELPIE_OK;
}
