/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What a handle may ask for: a table of operations, each a call of the library. The theory is in owner.h. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "supervise/owner.h"

json_t *request_answer(uint64_t id, const struct kelpie_error *err) {
    ASSERT(err);
    ASSERT(err->status < KELPIE_STATUS_COUNT);
    json_t *error = NULL;
    json_t *answer = json_pack("{s:I}", "id", (json_int_t)id);
    if (!answer || store_json_of(STORE_JSON_ERROR, err, &error, NULL) != KELPIE_OK ||
        json_object_set_new(answer, "error", error) != 0) {
        json_decref(answer);
        return NULL;
    }
    return answer;
}

/* An operation: what it was asked with, and where what comes of it goes. */
typedef enum kelpie_status operation_run(struct request *request, json_t *answer,
                                         struct kelpie_error *err);

static struct owner *owner_of(const struct request *request) {
    ASSERT(request->connection);
    ASSERT(request->connection->owner);
    return request->connection->owner;
}

static enum kelpie_status put(json_t *answer, const char *name, json_t *value,
                              struct kelpie_error *err) {
    ASSERT(answer);
    ASSERT(name);
    return json_object_set_new(answer, name, value) == 0
               ? KELPIE_OK
               : error_set(err, KELPIE_NO_MEMORY, "no memory for an answer");
}

static enum kelpie_status put_value(json_t *answer, enum store_json_type type, const void *value,
                                    struct kelpie_error *err) {
    ASSERT(answer);
    ASSERT(value);
    json_t *json = NULL;
    TRY(store_json_of(type, value, &json, err));
    return put(answer, "value", json, err);
}

/* ---- The machine ------------------------------------------------------------------------------- */

static enum kelpie_status run_start(struct request *request, json_t *answer,
                                    struct kelpie_error *err) {
    ASSERT(request);
    ASSERT(answer);
    const struct owner *owner = owner_of(request);
    if (owner->record->had_secrets && !owner->is_new) {
        return error_set(
            err, KELPIE_UNSUPPORTED,
            "the VM cannot start: its secrets were known to the owner that is gone, and "
            "to nobody else; make it anew");
    }
    TRY(kelpie_vm_start(owner->vm, err));
    owner_note_machine(owner_of(request));
    return KELPIE_OK;
}

static enum kelpie_status run_stop(struct request *request, json_t *answer,
                                   struct kelpie_error *err) {
    ASSERT(request);
    ASSERT(answer);
    uint64_t timeout_ms = control_number(request->json, "timeout_ms");
    return kelpie_vm_stop(owner_of(request)->vm,
                          timeout_ms <= UINT32_MAX ? (uint32_t)timeout_ms : UINT32_MAX, err);
}

static enum kelpie_status run_pause(struct request *request, json_t *answer,
                                    struct kelpie_error *err) {
    ASSERT(request);
    ASSERT(answer);
    return kelpie_vm_pause(owner_of(request)->vm, err);
}

static enum kelpie_status run_resume(struct request *request, json_t *answer,
                                     struct kelpie_error *err) {
    ASSERT(request);
    ASSERT(answer);
    return kelpie_vm_resume(owner_of(request)->vm, err);
}

static enum kelpie_status run_restore(struct request *request, json_t *answer,
                                      struct kelpie_error *err) {
    ASSERT(request);
    ASSERT(answer);
    struct kelpie_restore_options options = {0};
    const json_t *wanted = json_object_get(request->json, "options");
    if (wanted) {
        TRY(store_json_to(STORE_JSON_RESTORE_OPTIONS, wanted, &options, err));
    }
    TRY(kelpie_vm_restore(owner_of(request)->vm, control_text(request->json, "directory"), &options,
                          err));
    owner_note_machine(owner_of(request));
    return KELPIE_OK;
}

static enum kelpie_status run_restore_report(struct request *request, json_t *answer,
                                             struct kelpie_error *err) {
    ASSERT(request);
    ASSERT(answer);
    struct kelpie_restore_report report = {0};
    TRY(kelpie_vm_restore_report(owner_of(request)->vm, &report, err));
    return put_value(answer, STORE_JSON_REPORT, &report, err);
}

static enum kelpie_status run_snapshot(struct request *request, json_t *answer,
                                       struct kelpie_error *err) {
    ASSERT(request);
    ASSERT(answer);
    struct kelpie_snapshot_options options = {0};
    struct kelpie_snapshot snapshot = {0};
    const json_t *wanted = json_object_get(request->json, "options");
    if (wanted) {
        TRY(store_json_to(STORE_JSON_SNAPSHOT_OPTIONS, wanted, &options, err));
    }
    TRY(kelpie_vm_snapshot(owner_of(request)->vm, control_text(request->json, "directory"),
                           &options, &snapshot, err));
    return put_value(answer, STORE_JSON_SNAPSHOT, &snapshot, err);
}

static enum kelpie_status run_record_working_set(struct request *request, json_t *answer,
                                                 struct kelpie_error *err) {
    ASSERT(request);
    ASSERT(answer);
    return kelpie_vm_record_working_set(owner_of(request)->vm, err);
}

static enum kelpie_status run_fork(struct request *request, json_t *answer,
                                   struct kelpie_error *err) {
    ASSERT(request);
    ASSERT(answer);
    struct kelpie_fork_options options = {0};
    json_t *children = NULL;
    const json_t *wanted = json_object_get(request->json, "options");
    if (wanted) {
        TRY(store_json_to(STORE_JSON_FORK_OPTIONS, wanted, &options, err));
    }
    uint64_t count = control_number(request->json, "count");
    if (count == 0 || count > KELPIE_FORK_COUNT_MAX) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "count", "a fork has 1 to %d children",
                               KELPIE_FORK_COUNT_MAX);
    }
    TRY(owner_fork(owner_of(request), &options, (size_t)count, &children, err));
    return put(answer, "children", children, err);
}

static enum kelpie_status run_stats(struct request *request, json_t *answer,
                                    struct kelpie_error *err) {
    ASSERT(request);
    ASSERT(answer);
    struct kelpie_stats stats = {0};
    TRY(kelpie_vm_stats(owner_of(request)->vm, &stats, err));
    return put_value(answer, STORE_JSON_STATS, &stats, err);
}

/* The console's last bytes, as a text in which each byte is a character of the same number: a guest may write anything. */
static enum kelpie_status run_console(struct request *request, json_t *answer,
                                      struct kelpie_error *err) {
    struct owner *owner = owner_of(request);
    ASSERT(answer);
    ASSERT(owner->vm);
    enum { CONSOLE_SIZE = 65536 };
    AUTO_MEM uint8_t *bytes = host_allocate(owner->host, CONSOLE_SIZE, err);
    AUTO_MEM char *text = host_allocate(owner->host, 2 * CONSOLE_SIZE + 1, err);
    if (!bytes || !text) {
        return KELPIE_NO_MEMORY;
    }
    size_t count = kelpie_vm_console(owner->vm, bytes, CONSOLE_SIZE);
    size_t size = 0;
    for (size_t i = 0; i < count; i++) {
        if (bytes[i] < 0x80) {
            text[size++] = (char)bytes[i];
        } else {
            text[size++] = (char)(0xc0 | bytes[i] >> 6);
            text[size++] = (char)(0x80 | (bytes[i] & 0x3f));
        }
    }
    return put(answer, "text", json_stringn(text, size), err);
}

static enum kelpie_status run_mock_lever(struct request *request, json_t *answer,
                                         struct kelpie_error *err) {
    ASSERT(request);
    ASSERT(answer);
    struct kelpie_vm *vm = owner_of(request)->vm;
    if (json_is_true(json_object_get(request->json, "crash"))) {
        return kelpie_mock_crash(vm, err);
    }
    uint64_t operation = control_number(request->json, "operation");
    uint64_t count = control_number(request->json, "count");
    if (operation >= KELPIE_MOCK_OPERATION_COUNT || count > UINT32_MAX) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "operation", "there is no such operation");
    }
    return kelpie_mock_fail(vm, (enum kelpie_mock_operation)operation, (uint32_t)count, err);
}

/* ---- The detached command ----------------------------------------------------------------------- */

static enum kelpie_status run_detached(struct request *request, json_t *answer,
                                       struct kelpie_error *err) {
    struct owner *owner = owner_of(request);
    ASSERT(answer);
    ASSERT(owner->vm);
    json_t *wanted = json_object_get(request->json, "command");
    if (!wanted) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "command", "there is no command");
    }
    struct store_command *command = NULL;
    TRY(store_json_to_command(owner->host, wanted, &command, err));
    uint32_t exec_id = 0;
    enum kelpie_status status = detached_start(owner, &command->command, &exec_id, err);
    store_command_destroy(command);
    TRY(status);
    return put(answer, "exec_id", json_integer(exec_id), err);
}

/* What can be said of the command now; TIMED_OUT: nothing yet. mutex held. */
static enum kelpie_status detached_outcome(struct owner *owner, struct kelpie_error *err) {
    const struct kelpie_vm_info *info = &owner->record->info;
    ASSERT(info->state < KELPIE_STATE_COUNT);
    ASSERT(owner->record);
    if (!info->command_known) {
        return error_set(err, KELPIE_NOT_FOUND, "the VM has had no detached command");
    }
    if (info->command_ended) {
        return KELPIE_OK;
    }
    if (info->state == KELPIE_STATE_CRASHED) {
        return error_set(err, KELPIE_CRASHED, "the VM crashed before its command ended: %s",
                         info->reason);
    }
    if (!owner->detached.exec) {
        return error_set_field(err, KELPIE_WRONG_STATE, kelpie_state_name(info->state),
                               "the VM was stopped before its command ended");
    }
    return error_set(err, KELPIE_TIMED_OUT, "the command runs");
}

static enum kelpie_status run_wait_detached(struct request *request, json_t *answer,
                                            struct kelpie_error *err) {
    struct owner *owner = owner_of(request);
    ASSERT(answer);
    ASSERT(owner->record);
    owner_lock(owner);
    enum kelpie_status status = detached_outcome(owner, err);
    while (status == KELPIE_TIMED_OUT && !request->cancelled && !owner->ending) {
        host_condition_wait(owner->changed, owner->mutex, UINT64_MAX);
        status = detached_outcome(owner, err);
    }
    struct kelpie_exit ended_so = owner->record->info.command_exit;
    owner_unlock(owner);
    if (status == KELPIE_TIMED_OUT) {
        return error_set(err, KELPIE_CANCELLED, "waiting for the command was cancelled");
    }
    TRY(status);
    return put_value(answer, STORE_JSON_EXIT, &ended_so, err);
}

static enum kelpie_status run_end(struct request *request, json_t *answer,
                                  struct kelpie_error *err) {
    struct owner *owner = owner_of(request);
    (void)err;
    ASSERT(answer);
    ASSERT(owner->stop_event != HOST_FD_NONE);
    owner_lock(owner);
    owner->removal_asked = true;
    owner_unlock(owner);
    host_event_set(owner->host, owner->stop_event);
    return KELPIE_OK;
}

/* ---- The table ---------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    operation_run *run;
    bool in_turn; /* one of them at a time */
} operations[] = {
    {"start", run_start, true},
    {"stop", run_stop, false}, /* it ends a start that is under way */
    {"pause", run_pause, true},
    {"resume", run_resume, true},
    {"restore", run_restore, true},
    {"restore_report", run_restore_report, false},
    {"snapshot", run_snapshot, true},
    {"record_working_set", run_record_working_set, true},
    {"fork", run_fork, true},
    {"run_detached", run_detached, true},
    {"wait_detached", run_wait_detached, false},
    {"stats", run_stats, false},
    {"console", run_console, false},
    {"mock_lever", run_mock_lever, false},
    {"end", run_end, false},
};

/* Waits for the operation before. */
static enum kelpie_status turn_begin(struct request *request, struct kelpie_error *err) {
    struct owner *owner = owner_of(request);
    const uint32_t timeout_ms = kelpie_vm_config(owner->vm)->operation_timeout_ms;
    const uint64_t deadline_ns = host_wait_ms(owner->host, timeout_ms, HOST_FD_NONE).deadline_ns;
    enum kelpie_status status = KELPIE_OK;
    ASSERT(timeout_ms > 0);
    ASSERT(owner->operating != request);
    owner_lock(owner);
    while (status == KELPIE_OK && owner->operating) {
        if (request->cancelled) {
            status =
                error_set(err, KELPIE_CANCELLED, "waiting for another operation was cancelled");
        } else if (!host_condition_wait(owner->changed, owner->mutex, deadline_ns)) {
            status = error_set(err, KELPIE_BUSY, "another operation still holds the VM");
        }
    }
    if (status == KELPIE_OK && request->cancelled) {
        status = error_set(err, KELPIE_CANCELLED, "the operation was cancelled");
    }
    if (status == KELPIE_OK) {
        owner->operating = request;
    }
    owner_unlock(owner);
    return status;
}

static void turn_end(struct request *request) {
    struct owner *owner = owner_of(request);
    owner_lock(owner);
    ASSERT(owner->operating == request);
    ASSERT(!request->finished);
    owner->operating = NULL;
    host_condition_broadcast(owner->changed);
    owner_unlock(owner);
}

static enum kelpie_status request_do(struct request *request, json_t *answer,
                                     struct kelpie_error *err) {
    ASSERT(request->json);
    ASSERT(answer);
    const char *name = control_text(request->json, "op");
    for (size_t i = 0; i < ARRAY_SIZE(operations); i++) {
        if (strcmp(operations[i].name, name) != 0) {
            continue;
        }
        if (operations[i].in_turn) {
            TRY(turn_begin(request, err));
        }
        enum kelpie_status status = operations[i].run(request, answer, err);
        if (operations[i].in_turn) {
            turn_end(request);
        }
        return status;
    }
    return error_set(err, KELPIE_UNSUPPORTED, "the VM's owner knows no operation \"%.40s\"", name);
}

void request_main(void *argument) {
    struct request *request = argument;
    struct owner *owner = owner_of(request);
    struct kelpie_error err = {0};
    ASSERT(request->json);
    ASSERT(!request->finished);
    json_t *answer = json_object();
    enum kelpie_status status = answer
                                    ? request_do(request, answer, &err)
                                    : error_set(&err, KELPIE_NO_MEMORY, "no memory for an answer");
    owner_note_state(owner);
    if (status == KELPIE_OK) {
        err = (struct kelpie_error){.status = KELPIE_OK};
    }
    json_t *whole = request_answer(request->id, &err);
    if (whole && answer) {
        (void)!json_object_update_missing(whole, answer);
    }
    json_decref(answer);
    connection_send(request->connection, whole, HOST_FD_NONE, SUPERVISE_SEND_MS);
    owner_lock(owner);
    request->finished = true;
    host_condition_broadcast(owner->changed);
    owner_unlock(owner);
}
