/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* kelpie run --detach: the VM and its command go on without us. */
#include <stdio.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "cli/names.h"
#include "cli/run.h"

static enum kelpie_status print_vm(const struct run *run, uint32_t exec_id,
                                   struct kelpie_error *err) {
    const struct kelpie_config *config = kelpie_vm_config(run->talk.vm);
    const char *name = config->name ? config->name : run->report.id;
    ASSERT(name);
    bool written = false;
    if (run->options->json) {
        json_t *object = json_pack("{s:s, s:s, s:s, s:o}", "id", run->report.id, "name", name,
                                   "backend", run->report.backend, "exec_id",
                                   exec_id != 0 ? json_integer((json_int_t)exec_id) : json_null());
        written = object && json_dumpf(object, stdout, JSON_COMPACT) == 0 && puts("") >= 0;
        json_decref(object);
    } else {
        written = puts(name) >= 0;
    }
    if (!written || fflush(stdout) != 0) {
        return error_set(err, KELPIE_IO_FAILED, "cannot print the VM's name, which is %s", name);
    }
    return KELPIE_OK;
}

static enum kelpie_status start(struct run *run, const struct kelpie_command *command,
                                uint32_t *ret_exec_id, struct kelpie_error *err) {
    struct kelpie_vm *vm = run->talk.vm;
    ASSERT(vm);
    ASSERT(command);
    TRY(talk_check(&run->talk, err));
    TRY(kelpie_vm_start(vm, err));
    TRY(talk_check(&run->talk, err));
    return command->argv ? kelpie_vm_run_detached(vm, command, ret_exec_id, err) : KELPIE_OK;
}

struct creation {
    struct kelpie_config config;
    struct kelpie_vm *vm;
};

static enum kelpie_status create_named(void *context, const char *name, struct kelpie_error *err) {
    struct creation *creation = context;
    ASSERT(!creation->vm);
    ASSERT(name);
    creation->config.name = name;
    return kelpie_vm_create(&creation->config, &creation->vm, err);
}

enum kelpie_status run_detached(struct run *run, struct kelpie_error *err) {
    const struct run_options *options = run->options;
    ASSERT(options->detach);
    ASSERT(!run->talk.vm);
    struct kelpie_command command = run_command(run);
    struct kelpie_owner owner = {
        .remove = options->remove,
        .ends_with_command = command.argv != NULL,
        .labels = options->machine.labels.count > 0 ? options->machine.labels.values : NULL,
    };
    struct creation creation = {.config = run_config(run)};
    creation.config.owner = &owner;
    progress_show(&run->talk.progress, "booting a VM");
    TRY(names_try(options->machine.name, create_named, &creation, err));
    run_publish_vm(run, creation.vm);
    uint32_t exec_id = 0;
    enum kelpie_status status = start(run, &command, &exec_id, err);
    progress_clear(&run->talk.progress);
    if (status == KELPIE_OK) {
        status = print_vm(run, exec_id, err);
        kelpie_vm_close(talk_take_vm(&run->talk));
    } else {
        kelpie_vm_destroy(
            talk_take_vm(&run->talk)); /* a VM that never ran its command is of no use */
    }
    return status;
}
