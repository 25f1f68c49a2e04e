/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* kelpie create: a VM with an owner of its own, not yet started. */
#include <stdlib.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "cli/cli.h"
#include "cli/machine_options.h"
#include "cli/names.h"
#include "cli/output.h"
#include "cli/progress.h"

struct create_options {
    struct machine_options machine;
    bool remove;
    uint32_t lifetime_ms;
    uint32_t idle_ms;
    uint32_t log_mib;
    bool json;
};

#define OPTION(long_name, value, setter, member, config_field, text)                               \
    {                                                                                              \
        .name = (long_name), .value_name = (value), .help = (text), .set = (setter),               \
        .offset = offsetof(struct create_options, member), .field = (config_field)                 \
    }

static const struct option_spec create_specs[] = {
    {.include = &machine_option_table, .offset = offsetof(struct create_options, machine)},
    OPTION("rm", NULL, option_set_flag, remove, NULL, "remove the VM when it has ended"),
    OPTION("lifetime", "TIME", option_set_duration, lifetime_ms, "owner.lifetime_ms",
           "stop the VM so long after it was created"),
    OPTION("idle", "TIME", option_set_duration, idle_ms, "owner.idle_ms",
           "stop it after so long without a command, a copy or a handle"),
    OPTION("log-size", "SIZE", option_set_memory, log_mib, "owner.log_bytes_max",
           "how much of its command's output is kept (16M)"),
    OPTION("json", NULL, option_set_flag, json, NULL, "print one JSON object"),
};
static const struct option_table create_table = {create_specs, ARRAY_SIZE(create_specs)};

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

static int print_vm(struct kelpie_vm *vm, bool json) {
    ASSERT(vm);
    ASSERT(kelpie_vm_config(vm));
    const char *name = kelpie_vm_config(vm)->name;
    ASSERT(name);
    if (json) {
        return output_json(json_pack("{s:s, s:s, s:s}", "id", kelpie_vm_id(vm), "name", name,
                                     "backend", kelpie_vm_backend(vm)),
                           CLI_EXIT_OK);
    }
    puts(name);
    return fflush(stdout) == 0 ? CLI_EXIT_OK : CLI_EXIT_FAILED;
}

/* With an image its environment stays, beside what the options say. */
static enum kelpie_status complete(struct machine_options *options, struct kelpie_error *err) {
    ASSERT(options);
    ASSERT(!options->joined_env);
    TRY(machine_options_check(options, err));
    if (!options->image) {
        return KELPIE_OK;
    }
    struct kelpie_image *image = NULL;
    TRY(kelpie_image_find(NULL, options->image, &image, err));
    enum kelpie_status status =
        options->env.count > 0 ? machine_options_join_env(options, image, err) : KELPIE_OK;
    kelpie_list_free(image);
    return status;
}

static int create_with(struct create_options *options) {
    ASSERT(options);
    struct kelpie_error err;
    struct kelpie_owner owner = {
        .lifetime_ms = options->lifetime_ms,
        .idle_ms = options->idle_ms,
        .log_bytes_max = (uint64_t)options->log_mib << 20,
        .remove = options->remove,
        .labels = options->machine.labels.count > 0 ? options->machine.labels.values : NULL,
    };
    struct creation creation = {.vm = NULL};
    struct progress progress;
    progress_init(&progress, !options->json);
    progress_show(&progress, "creating a VM"); /* a kernel may have to be fetched */
    enum kelpie_status status = complete(&options->machine, &err);
    if (status == KELPIE_OK) {
        creation.config = machine_options_config(&options->machine);
        creation.config.owner = &owner;
        status = names_try(options->machine.name, create_named, &creation, &err);
    }
    progress_clear(&progress);
    progress_deinit(&progress);
    if (status != KELPIE_OK) {
        output_error(&create_table, &err);
        if (status == KELPIE_NOT_FOUND && options->machine.image) {
            output_hint("'kelpie images' lists the images");
        }
        return CLI_EXIT_FAILED;
    }
    ASSERT(creation.vm);
    int code = print_vm(creation.vm, options->json);
    kelpie_vm_close(creation.vm);
    return code;
}

static int create_run(const struct cli_table *table, struct option_words *words) {
    ASSERT(table);
    ASSERT(words);
    int code = CLI_EXIT_OK;
    AUTO_MEM struct create_options *options = calloc(1, sizeof(*options));
    AUTO_MEM struct cli_operands *operands = calloc(1, sizeof(*operands));
    if (!options || !operands) {
        return output_no_memory();
    }
    if (cli_parse_all(&cli_create, words, options, operands, &code)) {
        options->machine.image = operands->count > 0 ? operands->words[0] : NULL;
        code = create_with(options);
    }
    machine_options_deinit(&options->machine);
    return code;
}

const struct cli_command cli_create = {
    .name = "create",
    .summary = "Creates a VM that outlives this command, and prints its name",
    .synopsis = "[OPTIONS] [IMAGE]",
    .notes = "It is not started: 'kelpie start' does that. 'kelpie run -d' creates and starts one "
             "and runs\n"
             "a command in it. Without an image its root is a small busybox system in memory.\n",
    .options = &create_table,
    .run = create_run,
    .group = CLI_GROUP_VMS,
    .operands = {CLI_OPERAND_IMAGE},
    .json = "id       32 hexadecimal digits\nname     of the VM\nbackend  the hypervisor that was "
            "chosen\n",
    .examples =
        "kelpie create --name web --memory 1G -p 8080:80 --net user nginx\nkelpie start web\n",
    .rule = {0, 1, NULL},
};
