/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* kelpie inspect: all that is known of VMs, as JSON. */
#include <stdlib.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "cli/cli.h"
#include "cli/output.h"
#include "cli/verb.h"
#include "cli/vm_json.h"

static const struct option_table inspect_table = {NULL, 0};

/* Where in the guest a folder of this host is seen itself. */
static json_t *json_of_live_shares(struct kelpie_vm *vm) {
    const struct kelpie_config *config = kelpie_vm_config(vm);
    uint32_t live = kelpie_vm_live_shares(vm);
    json_t *array = json_array();
    ASSERT(config);
    ASSERT(config->share_count <= KELPIE_SHARE_COUNT_MAX);
    for (size_t i = 0; i < config->share_count; i++) {
        if (live & (uint32_t)1 << i) {
            json_array_append_new(array, json_string(config->shares[i].mount));
        }
    }
    return array;
}

/* What only the owner knows. Of a VM that has none we do not start one: looking changes nothing. */
static void add_owned(json_t *object, const char *id) {
    struct kelpie_vm *vm = NULL;
    struct kelpie_restore_report report = {0};
    ASSERT(object);
    ASSERT(id);
    if (kelpie_vm_open(NULL, id, &vm, NULL) != KELPIE_OK) {
        return;
    }
    bool restored = kelpie_vm_restore_report(vm, &report, NULL) == KELPIE_OK;
    json_object_set_new(object, "capabilities", vm_json_capabilities(kelpie_vm_capabilities(vm)));
    json_object_set_new(object, "config", vm_json_config(kelpie_vm_config(vm)));
    json_object_set_new(object, "live_shares", json_of_live_shares(vm));
    json_object_set_new(object, "restore",
                        vm_json_or_null(restored, vm_json_restore_report(&report)));
    json_object_set_new(object, "process_id", json_integer(kelpie_vm_process_id(vm)));
    kelpie_vm_close(vm);
}

static enum kelpie_status inspect_vm(const char *name, json_t *array, struct kelpie_error *err) {
    struct kelpie_vm_info info = {0};
    ASSERT(name);
    TRY(kelpie_vm_find(NULL, name, &info, err));
    json_t *object = vm_json_info(&info);
    if (!object) {
        return error_set(err, KELPIE_NO_MEMORY, "no memory");
    }
    ASSERT(json_is_object(object));
    json_object_set_new(object, "capabilities", json_null());
    json_object_set_new(object, "config", json_null());
    json_object_set_new(object, "live_shares", json_null());
    json_object_set_new(object, "restore", json_null());
    json_object_set_new(object, "process_id", json_null());
    if (info.owner_pid != 0) {
        add_owned(object, info.id);
    }
    json_array_append_new(array, object);
    return KELPIE_OK;
}

static int inspect_run(const struct cli_table *table, struct option_words *words) {
    ASSERT(table);
    ASSERT(words);
    int code = CLI_EXIT_OK;
    AUTO_MEM struct cli_operands *names = calloc(1, sizeof(*names));
    if (!names) {
        return output_no_memory();
    }
    if (!cli_parse_all(&cli_inspect, words, NULL, names, &code)) {
        return code;
    }
    json_t *array = json_array();
    for (size_t i = 0; i < names->count; i++) {
        struct kelpie_error err;
        if (inspect_vm(names->words[i], array, &err) != KELPIE_OK) {
            verb_say_error(names->words[i], &err);
            code = CLI_EXIT_FAILED;
        }
    }
    return output_json(array, code);
}

const struct cli_command cli_inspect = {
    .name = "inspect",
    .summary = "Prints all that is known of VMs, as one JSON array",
    .synopsis = "VM...",
    .notes = "Looking changes nothing: of a VM that has no owner at the moment, what only its "
             "owner knows is\n"
             "null. A VM that is not there is told on standard error, and the exit code is 125.\n",
    .options = &inspect_table,
    .run = inspect_run,
    .group = CLI_GROUP_VMS,
    .operands = {CLI_OPERAND_VM},
    .operands_repeat = true,
    .json = VM_JSON_INFO_FIELDS
    "capabilities      what the backend can do, an array of names; or null\n"
    "config            null, or the config in force: backend, image, vcpu_count, memory_mib, "
    "kernel, kernel_args, "
    "hostname, working_dir, env, disks, network, shares, console_log, boot_timeout_ms, "
    "stop_timeout_ms, "
    "operation_timeout_ms, warm\n"
    "live_shares       null, or the mounts of shared folders that the guest sees themselves now; "
    "each other "
    "is a copy\n"
    "restore           null, or the report of its last restore: entropy, generation, clock, "
    "network, hostname, "
    "machine_id, each done, failed, unsupported or pending, and clock_skew_ns\n"
    "process_id        of the monitor, or 0; or null\n",
    .rule = {1, KELPIE_VM_COUNT_MAX, "a VM's name"},
};
