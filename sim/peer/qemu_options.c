/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The command line of the scripted QEMU: what the backend may say is understood, the rest is refused, in QEMU's words. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "sim/peer/qemu_parser.h"

static const char *const machine_names[] = {
    [SIM_QEMU_MICROVM] = "microvm",
    [SIM_QEMU_Q35] = "q35",
};

const char *sim_qemu_machine_name(enum sim_qemu_machine machine) {
    static_assert(ARRAY_SIZE(machine_names) == SIM_QEMU_MACHINE_COUNT, "each has a name");
    ASSERT((unsigned)machine < SIM_QEMU_MACHINE_COUNT);
    return machine_names[machine];
}

/* ---- Each option ------------------------------------------------------------------------------ */

static bool option_machine(struct sim_qemu_parser *parser) {
    static const char *const properties[SIM_QEMU_MACHINE_COUNT][6] = {
        [SIM_QEMU_MICROVM] = {"acpi", "rtc", "x-option-roms", "auto-kernel-cmdline", "pic", "pit"},
        [SIM_QEMU_Q35] = {"vmport", "sata", "smbus", "graphics", "acpi", "hpet"},
    };
    struct sim_qemu_options *options = parser->options;
    struct sim_qemu_field field;
    bool first = true;
    while (sim_qemu_field_next(parser, &field)) {
        bool known = false;
        bool ignored = false;
        for (size_t i = 0; first && i < SIM_QEMU_MACHINE_COUNT; i++) {
            if (strcmp(field.text, machine_names[i]) == 0) {
                options->machine = (enum sim_qemu_machine)i;
                known = true;
            }
        }
        if (first && !known) {
            return sim_qemu_parser_refuse(
                parser, "unsupported machine type\nUse -machine help to list supported "
                        "machines");
        }
        for (size_t i = 0; !known && i < ARRAY_SIZE(properties[0]); i++) {
            known = sim_qemu_field_is(&field, properties[options->machine][i]);
            if (known && !sim_qemu_on_off(parser, &field, &ignored)) {
                return false;
            }
        }
        if (sim_qemu_field_is(&field, "memory-backend")) {
            snprintf(options->memory_id, sizeof(options->memory_id), "%.63s", field.text);
        } else if (!known) {
            return sim_qemu_parser_refuse(parser, "Property '%s-machine.%s' not found",
                                          machine_names[options->machine], field.key);
        }
        first = false;
    }
    ASSERT(options->machine < SIM_QEMU_MACHINE_COUNT);
    options->has_machine = !first;
    return parser->error[0] == 0;
}

static bool option_accel(struct sim_qemu_parser *parser) {
    ASSERT(parser->value);
    struct sim_qemu_field field = {0};
    bool has_one = sim_qemu_field_next(parser, &field);
    bool tcg = has_one && strcmp(field.text, "tcg") == 0;
    if (!tcg && (!has_one || strcmp(field.text, "kvm") != 0)) {
        return sim_qemu_refuse_here(parser, "invalid accelerator %s", field.text);
    }
    parser->options->accelerated = !tcg;
    while (sim_qemu_field_next(parser, &field)) {
        if (!tcg ||
            (!sim_qemu_field_is(&field, "thread") && !sim_qemu_field_is(&field, "tb-size"))) {
            return sim_qemu_parser_refuse(parser, "Property '%s-accel.%s' not found",
                                          tcg ? "tcg" : "kvm", field.key);
        }
    }
    return parser->error[0] == 0;
}

static bool option_cpu(struct sim_qemu_parser *parser) {
    ASSERT(parser->options);
    ASSERT(parser->value);
    parser->options->cpu_is_host = strcmp(parser->value, "host") == 0;
    parser->options->has_cpu = true;
    if (!parser->options->cpu_is_host && strcmp(parser->value, "max") != 0) {
        return sim_qemu_parser_refuse(parser, "unable to find CPU model '%.64s'", parser->value);
    }
    return true;
}

static bool option_smp(struct sim_qemu_parser *parser) {
    ASSERT(parser->options);
    ASSERT(parser->value);
    uint64_t count = 0;
    if (!sim_qemu_number(parser->value, UINT32_MAX, &count)) {
        return sim_qemu_parser_refuse(parser, "Parameter 'smp.cpus' expects integer");
    }
    if (count == 0 || count > SIM_QEMU_CPU_COUNT_MAX) {
        return sim_qemu_parser_refuse(
            parser, "Invalid SMP CPUs %" PRIu64 ". The max CPUs supported by this machine is %d",
            count, SIM_QEMU_CPU_COUNT_MAX);
    }
    parser->options->vcpu_count = (uint32_t)count;
    return true;
}

static bool option_m(struct sim_qemu_parser *parser) {
    ASSERT(parser->options);
    ASSERT(parser->value);
    return sim_qemu_size_of(parser->value, &parser->options->memory_size)
               ? true
               : sim_qemu_refuse_here(
                     parser, "Parameter '%s' expects a non-negative number below 2^64", "size");
}

static bool object_memory(struct sim_qemu_parser *parser) {
    ASSERT(parser->options);
    struct sim_qemu_options *options = parser->options;
    static const char folder[] = "/proc/self/fd/";
    const size_t folder_size = sizeof(folder) - 1;
    struct sim_qemu_field field;
    while (sim_qemu_field_next(parser, &field)) {
        uint64_t fd = 0;
        if (sim_qemu_field_is(&field, "id")) {
            snprintf(options->backend_id, sizeof(options->backend_id), "%.63s", field.text);
        } else if (sim_qemu_field_is(&field, "mem-path")) {
            if (strncmp(field.text, folder, folder_size) != 0 ||
                !sim_qemu_number(field.text + folder_size, SIM_QEMU_FD_MAX, &fd)) {
                return sim_qemu_parser_refuse(
                    parser, "can't open backing store %s for guest RAM: No such file or directory",
                    field.text);
            }
            options->memory_fd = (int)fd;
        } else if (sim_qemu_field_is(&field, "size")) {
            if (!sim_qemu_size_of(field.text, &options->backend_size)) {
                return sim_qemu_unknown(parser, &field);
            }
        } else if (!sim_qemu_field_is(&field, "share")) {
            return sim_qemu_unknown(parser, &field);
        } else if (!sim_qemu_on_off(parser, &field, &options->memory_shared)) {
            return false;
        }
    }
    ASSERT(options->memory_fd >= HOST_FD_NONE);
    if (parser->error[0] == 0 && options->memory_fd == HOST_FD_NONE) {
        return sim_qemu_refuse_here(parser, "Parameter '%s' is missing", "mem-path");
    }
    return parser->error[0] == 0;
}

static bool option_object(struct sim_qemu_parser *parser) {
    ASSERT(parser->options);
    struct sim_qemu_field field = {0};
    bool has_one = sim_qemu_field_next(parser, &field);
    if (has_one && strcmp(field.text, "memory-backend-file") == 0) {
        return object_memory(parser);
    }
    if (!has_one || strcmp(field.text, "rng-builtin") != 0) {
        return sim_qemu_refuse_here(parser, "invalid object type: %s", field.text);
    }
    ASSERT(has_one);
    while (sim_qemu_field_next(parser, &field)) {
        if (!sim_qemu_field_is(&field, "id")) {
            return sim_qemu_unknown(parser, &field);
        }
        snprintf(parser->options->rng_id, sizeof(parser->options->rng_id), "%.63s", field.text);
    }
    return parser->error[0] == 0;
}

/* ---- All of them ------------------------------------------------------------------------------ */

static bool option_sandbox(struct sim_qemu_parser *parser) {
    ASSERT(parser->cursor);
    static const char *const keys[] = {"obsolete", "elevateprivileges", "spawn", "resourcecontrol"};
    struct sim_qemu_field field;
    while (sim_qemu_field_next(parser, &field)) {
        bool known = field.key[0] == 0 && strcmp(field.text, "on") == 0;
        for (size_t i = 0; i < ARRAY_SIZE(keys) && !known; i++) {
            known = sim_qemu_field_is(&field, keys[i]);
        }
        if (!known) {
            return sim_qemu_unknown(parser, &field);
        }
    }
    ASSERT(parser->cursor[0] == 0 || parser->error[0]);
    return parser->error[0] == 0;
}

static bool option_display(struct sim_qemu_parser *parser) {
    ASSERT(parser->options);
    ASSERT(parser->value);
    return strcmp(parser->value, "none") == 0
               ? true
               : sim_qemu_refuse_here(parser, "Parameter 'type' does not accept value '%s'",
                                      parser->value);
}

static bool option_incoming(struct sim_qemu_parser *parser) {
    ASSERT(parser->options);
    ASSERT(parser->value);
    parser->options->incoming = true;
    return strcmp(parser->value, "defer") == 0
               ? true
               : sim_qemu_refuse_here(parser, "unknown migration protocol: %s", parser->value);
}

static bool option_text(struct sim_qemu_parser *parser) {
    struct sim_qemu_options *options = parser->options;
    ASSERT(options);
    ASSERT(parser->name && parser->value);
    const char **target = strcmp(parser->name, "-kernel") == 0   ? &options->kernel
                          : strcmp(parser->name, "-initrd") == 0 ? &options->initramfs
                                                                 : &options->append;
    *target = parser->value;
    return true;
}

struct option {
    const char *name;
    bool (*take)(struct sim_qemu_parser *parser); /* NULL: it has no value */
};

static const struct option option_table[] = {
    {"-nodefaults", NULL},
    {"-no-user-config", NULL},
    {"-no-reboot", NULL},
    {"-S", NULL},
    {"--version", NULL},
    {"-version", NULL},
    {"-display", option_display},
    {"-sandbox", option_sandbox},
    {"-machine", option_machine},
    {"-accel", option_accel},
    {"-cpu", option_cpu},
    {"-smp", option_smp},
    {"-m", option_m},
    {"-object", option_object},
    {"-chardev", sim_qemu_option_chardev},
    {"-mon", sim_qemu_option_mon},
    {"-serial", sim_qemu_option_serial},
    {"-netdev", sim_qemu_option_netdev},
    {"-add-fd", sim_qemu_option_add_fd},
    {"-blockdev", sim_qemu_option_blockdev},
    {"-device", sim_qemu_option_device},
    {"-kernel", option_text},
    {"-initrd", option_text},
    {"-append", option_text},
    {"-incoming", option_incoming},
};

/* What each alone cannot know. */
static bool options_fit(struct sim_qemu_parser *parser) {
    const struct sim_qemu_options *options = parser->options;
    ASSERT(options->chardev_count <= SIM_QEMU_CHARDEV_COUNT_MAX);
    ASSERT(parser->error[0] == 0);
    if (!options->has_machine) {
        return sim_qemu_parser_refuse(parser,
                                      "No machine specified, and there is no default\nUse -machine "
                                      "help to list supported machines");
    }
    if (options->memory_id[0] == 0 || strcmp(options->memory_id, options->backend_id) != 0) {
        return sim_qemu_parser_refuse(parser, "Memory backend '%s' not found", options->memory_id);
    }
    if (options->memory_size != options->backend_size || options->memory_size == 0) {
        return sim_qemu_parser_refuse(
            parser, "Machine memory size does not match the size of the memory backend");
    }
    if (options->cpu_is_host && !options->accelerated) {
        return sim_qemu_parser_refuse(parser, "CPU model 'host' requires KVM or HVF");
    }
    if (options->network_fd != HOST_FD_NONE && !options->has_network) {
        /* Only a warning of QEMU, and a machine without a network: no owner means that. */
        return sim_qemu_parser_refuse(parser, "warning: netdev %s has no peer",
                                      options->network_id);
    }
    return true;
}

static void option_alone(struct sim_qemu_parser *parser, const char *name) {
    ASSERT(parser->options);
    ASSERT(name);
    parser->options->stopped = parser->options->stopped || strcmp(name, "-S") == 0;
    parser->options->no_reboot = parser->options->no_reboot || strcmp(name, "-no-reboot") == 0;
    parser->options->version =
        parser->options->version || strcmp(name, "--version") == 0 || strcmp(name, "-version") == 0;
}

static const struct option *option_find(const char *name) {
    ASSERT(name);
    ASSERT(ARRAY_SIZE(option_table) > 0);
    for (size_t i = 0; i < ARRAY_SIZE(option_table); i++) {
        if (strcmp(option_table[i].name, name) == 0) {
            return &option_table[i];
        }
    }
    return NULL;
}

bool sim_qemu_options_parse(size_t argc, const char *const *argv,
                            struct sim_qemu_options *ret_options,
                            char ret_error[SIM_QEMU_ERROR_SIZE]) {
    ASSERT(argv && ret_options);
    ASSERT(ret_error);
    *ret_options = (struct sim_qemu_options){
        .vcpu_count = 1,
        .memory_fd = HOST_FD_NONE,
        .qmp_fd = HOST_FD_NONE,
        .channel_fd = HOST_FD_NONE,
        .console_fd = HOST_FD_NONE,
        .network_fd = HOST_FD_NONE,
    };
    ret_error[0] = 0;
    struct sim_qemu_parser parser = {.options = ret_options, .error = ret_error};
    for (size_t i = 1; i < argc; i++) {
        const struct option *option = option_find(argv[i]);
        if (!option) {
            return sim_qemu_parser_refuse(&parser, "%.200s: invalid option", argv[i]);
        }
        parser.name = argv[i];
        if (!option->take) {
            option_alone(&parser, argv[i]);
            continue;
        }
        if (i + 1 == argc) {
            return sim_qemu_parser_refuse(&parser, "%s: requires an argument", argv[i]);
        }
        parser.value = argv[++i];
        parser.cursor = parser.value;
        if (!option->take(&parser)) {
            return false;
        }
    }
    return ret_options->version || options_fit(&parser);
}
