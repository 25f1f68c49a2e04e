/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The command line of the scripted QEMU: what is plugged into the machine. */
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/mac.h"
#include "sim/peer/qemu_parser.h"

bool sim_qemu_option_chardev(struct sim_qemu_parser *parser) {
    struct sim_qemu_options *options = parser->options;
    ASSERT(options->chardev_count <= SIM_QEMU_CHARDEV_COUNT_MAX);
    struct sim_qemu_field field = {0};
    if (!sim_qemu_field_next(parser, &field) || strcmp(field.text, "socket") != 0) {
        return sim_qemu_refuse_here(parser, "'%s' is not a valid char driver name", field.text);
    }
    if (options->chardev_count == SIM_QEMU_CHARDEV_COUNT_MAX) {
        return sim_qemu_refuse_here(parser, "%s: too many", "chardev");
    }
    struct sim_qemu_chardev chardev = {.fd = HOST_FD_NONE};
    while (sim_qemu_field_next(parser, &field)) {
        if (sim_qemu_field_is(&field, "id")) {
            snprintf(chardev.id, sizeof(chardev.id), "%.63s", field.text);
        } else if (!sim_qemu_field_is(&field, "fd")) {
            return sim_qemu_unknown(parser, &field);
        } else if (!sim_qemu_fd_of(parser, field.text, &chardev.fd)) {
            return false;
        }
    }
    if (parser->error[0] == 0 && (chardev.fd == HOST_FD_NONE || chardev.id[0] == 0)) {
        return sim_qemu_refuse_here(parser, "chardev: socket: no %s given", "id or fd");
    }
    ASSERT(parser->error[0] || chardev.fd > 2);
    options->chardevs[options->chardev_count++] = chardev;
    return parser->error[0] == 0;
}

bool sim_qemu_option_mon(struct sim_qemu_parser *parser) {
    ASSERT(parser->options);
    ASSERT(parser->cursor);
    struct sim_qemu_field field;
    while (sim_qemu_field_next(parser, &field)) {
        if (sim_qemu_field_is(&field, "chardev")) {
            if (!sim_qemu_chardev_take(parser, field.text, &parser->options->qmp_fd)) {
                return false;
            }
        } else if (!sim_qemu_field_is(&field, "mode") || strcmp(field.text, "control") != 0) {
            return sim_qemu_unknown(parser, &field);
        }
    }
    return parser->error[0] == 0;
}

bool sim_qemu_option_serial(struct sim_qemu_parser *parser) {
    ASSERT(parser->options);
    static const char prefix[] = "chardev:";
    const size_t prefix_size = sizeof(prefix) - 1;
    ASSERT(parser->value);
    if (strncmp(parser->value, prefix, prefix_size) != 0) {
        return sim_qemu_parser_refuse(
            parser, "could not connect serial device to character backend '%.64s'", parser->value);
    }
    return sim_qemu_chardev_take(parser, parser->value + prefix_size, &parser->options->console_fd);
}

bool sim_qemu_option_netdev(struct sim_qemu_parser *parser) {
    ASSERT(parser->options);
    struct sim_qemu_options *options = parser->options;
    struct sim_qemu_field field = {0};
    bool has_one = sim_qemu_field_next(parser, &field);
    bool tap = has_one && strcmp(field.text, "tap") == 0;
    if (!tap && (!has_one || strcmp(field.text, "socket") != 0)) {
        return sim_qemu_refuse_here(parser, "Parameter 'type' expects a netdev backend type");
    }
    while (sim_qemu_field_next(parser, &field)) {
        if (sim_qemu_field_is(&field, "id")) {
            snprintf(options->network_id, sizeof(options->network_id), "%.63s", field.text);
        } else if (sim_qemu_field_is(&field, "fd")) {
            if (!sim_qemu_fd_of(parser, field.text, &options->network_fd)) {
                return false;
            }
        } else if (!tap || !sim_qemu_field_is(&field, "vhost") || strcmp(field.text, "off") != 0) {
            return sim_qemu_unknown(parser, &field);
        }
    }
    ASSERT(options->network_fd >= HOST_FD_NONE);
    return parser->error[0] == 0;
}

bool sim_qemu_option_add_fd(struct sim_qemu_parser *parser) {
    struct sim_qemu_options *options = parser->options;
    ASSERT(options->disk_count <= SIM_QEMU_DISK_COUNT_MAX);
    struct sim_qemu_disk disk = {.fd = HOST_FD_NONE};
    struct sim_qemu_field field;
    while (sim_qemu_field_next(parser, &field)) {
        uint64_t set = 0;
        if (sim_qemu_field_is(&field, "fd")) {
            if (!sim_qemu_fd_of(parser, field.text, &disk.fd)) {
                return false;
            }
        } else if (!sim_qemu_field_is(&field, "set") ||
                   !sim_qemu_number(field.text, UINT32_MAX, &set)) {
            return sim_qemu_unknown(parser, &field);
        } else {
            disk.set = (uint32_t)set;
        }
    }
    if (parser->error[0]) {
        return false;
    }
    for (size_t i = 0; i < options->disk_count; i++) {
        if (options->disks[i].fd == disk.fd) {
            return sim_qemu_refuse_here(parser, "%s is not valid or already in use", "fd");
        }
    }
    if (options->disk_count == SIM_QEMU_DISK_COUNT_MAX || disk.fd == HOST_FD_NONE) {
        return sim_qemu_refuse_here(parser, "Parameter '%s' is missing", "fd");
    }
    ASSERT(disk.fd > 2);
    options->disks[options->disk_count++] = disk;
    return true;
}

/* What -blockdev says, before it is known which set it means. */
struct block {
    char node[SIM_QEMU_NAME_SIZE_MAX + 1];
    char file[SIM_QEMU_VALUE_SIZE_MAX + 1];
    bool read_only;
    bool raw;
    bool of_file;
};

static bool block_fields(struct sim_qemu_parser *parser, struct block *block) {
    ASSERT(parser->cursor);
    ASSERT(block);
    struct sim_qemu_field field;
    while (sim_qemu_field_next(parser, &field)) {
        if (sim_qemu_field_is(&field, "driver")) {
            block->raw = strcmp(field.text, "raw") == 0;
        } else if (sim_qemu_field_is(&field, "node-name")) {
            snprintf(block->node, sizeof(block->node), "%.63s", field.text);
        } else if (sim_qemu_field_is(&field, "file.driver")) {
            block->of_file = strcmp(field.text, "file") == 0;
        } else if (sim_qemu_field_is(&field, "file.filename")) {
            snprintf(block->file, sizeof(block->file), "%s", field.text);
        } else if (!sim_qemu_field_is(&field, "read-only")) {
            return sim_qemu_unknown(parser, &field);
        } else if (!sim_qemu_on_off(parser, &field, &block->read_only)) {
            return false;
        }
    }
    if (parser->error[0] == 0 && (!block->raw || !block->of_file)) {
        return sim_qemu_refuse_here(parser, "Unknown driver");
    }
    return parser->error[0] == 0;
}

bool sim_qemu_option_blockdev(struct sim_qemu_parser *parser) {
    struct sim_qemu_options *options = parser->options;
    static const char folder[] = "/dev/fdset/";
    const size_t folder_size = sizeof(folder) - 1;
    ASSERT(options->disk_count <= SIM_QEMU_DISK_COUNT_MAX);
    struct block block = {0};
    if (!block_fields(parser, &block)) {
        return false;
    }
    ASSERT(block.raw);
    uint64_t set = 0;
    bool in_set = strncmp(block.file, folder, folder_size) == 0 &&
                  sim_qemu_number(block.file + folder_size, UINT32_MAX, &set);
    for (size_t i = 0; in_set && i < options->disk_count; i++) {
        struct sim_qemu_disk *disk = &options->disks[i];
        if (disk->set == set && disk->node[0] == 0) {
            snprintf(disk->node, sizeof(disk->node), "%s", block.node);
            disk->read_only = block.read_only;
            return true;
        }
    }
    return sim_qemu_refuse_here(parser, "Could not open '%s': No such file or directory",
                                block.file);
}

/* ---- Devices ---------------------------------------------------------------------------------- */

static bool device_port(struct sim_qemu_parser *parser) {
    ASSERT(parser->cursor);
    ASSERT(parser->options);
    if (!parser->options->has_serial_bus) {
        return sim_qemu_refuse_here(parser, "No 'virtio-serial-bus' bus found for device '%s'",
                                    "virtserialport");
    }
    struct sim_qemu_field field;
    while (sim_qemu_field_next(parser, &field)) {
        if (sim_qemu_field_is(&field, "chardev")) {
            if (!sim_qemu_chardev_take(parser, field.text, &parser->options->channel_fd)) {
                return false;
            }
        } else if (!sim_qemu_field_is(&field, "name")) {
            return sim_qemu_unknown(parser, &field);
        }
    }
    return parser->error[0] == 0;
}

static bool device_rng(struct sim_qemu_parser *parser) {
    ASSERT(parser->cursor);
    ASSERT(parser->options);
    struct sim_qemu_field field;
    while (sim_qemu_field_next(parser, &field)) {
        if (!sim_qemu_field_is(&field, "rng")) {
            return sim_qemu_unknown(parser, &field);
        }
        if (strcmp(field.text, parser->options->rng_id) != 0) {
            return sim_qemu_refuse_here(parser, "Device '%s' not found", field.text);
        }
        parser->options->has_rng = true;
    }
    return parser->error[0] == 0;
}

static bool device_net(struct sim_qemu_parser *parser) {
    struct sim_qemu_options *options = parser->options;
    ASSERT(parser->cursor);
    ASSERT(options->machine < SIM_QEMU_MACHINE_COUNT);
    bool pci = options->machine == SIM_QEMU_Q35;
    struct sim_qemu_field field;
    while (sim_qemu_field_next(parser, &field)) {
        uint8_t mac[MAC_SIZE];
        if (sim_qemu_field_is(&field, "netdev")) {
            if (options->network_fd == HOST_FD_NONE ||
                strcmp(field.text, options->network_id) != 0) {
                return sim_qemu_refuse_here(
                    parser, "Property 'virtio-net-device.netdev' can't find value '%s'",
                    field.text);
            }
            options->has_network = true;
        } else if (sim_qemu_field_is(&field, "mac")) {
            if (!mac_parse(field.text, mac)) {
                return sim_qemu_refuse_here(parser, "Property '.mac' doesn't take value '%s'",
                                            field.text);
            }
        } else if (!pci || !sim_qemu_field_is(&field, "romfile")) {
            return sim_qemu_unknown(parser, &field);
        }
    }
    return parser->error[0] == 0;
}

static bool device_disk(struct sim_qemu_parser *parser) {
    struct sim_qemu_options *options = parser->options;
    ASSERT(options->disk_count <= SIM_QEMU_DISK_COUNT_MAX);
    ASSERT(parser->cursor);
    struct sim_qemu_field field;
    while (sim_qemu_field_next(parser, &field)) {
        bool found = false;
        if (!sim_qemu_field_is(&field, "drive")) {
            return sim_qemu_unknown(parser, &field);
        }
        for (size_t i = 0; i < options->disk_count && !found; i++) {
            struct sim_qemu_disk *disk = &options->disks[i];
            found = strcmp(disk->node, field.text) == 0 && !disk->in_use;
            disk->in_use = disk->in_use || found;
        }
        if (!found) {
            return sim_qemu_refuse_here(
                parser, "Property 'virtio-blk-device.drive' can't find value '%s'", field.text);
        }
    }
    return parser->error[0] == 0;
}

bool sim_qemu_option_device(struct sim_qemu_parser *parser) {
    struct sim_qemu_options *options = parser->options;
    ASSERT(options->machine < SIM_QEMU_MACHINE_COUNT);
    /* On a bus that the machine has: "-device" is virtio-mmio's, "-pci" needs one. */
    const char *bus = options->machine == SIM_QEMU_MICROVM ? "device" : "pci";
    struct sim_qemu_field field = {0};
    char model[SIM_QEMU_NAME_SIZE_MAX + 1];
    bool has_one = sim_qemu_field_next(parser, &field);
    static const char *const models[] = {"virtio-serial", "virtio-rng", "virtio-net", "virtio-blk"};
    size_t which = 0;
    for (; has_one && which < ARRAY_SIZE(models); which++) {
        snprintf(model, sizeof(model), "%s-%s", models[which], bus);
        if (strcmp(field.text, model) == 0) {
            break;
        }
    }
    ASSERT(which <= ARRAY_SIZE(models));
    switch (has_one ? which : ARRAY_SIZE(models)) {
    case 0:
        options->has_serial_bus = true;
        return true;
    case 1:
        return device_rng(parser);
    case 2:
        return device_net(parser);
    case 3:
        return device_disk(parser);
    default:
        break;
    }
    if (strcmp(field.text, "virtserialport") == 0) {
        return device_port(parser);
    }
    return strcmp(field.text, "pvpanic") == 0
               ? true
               : sim_qemu_refuse_here(parser, "'%s' is not a valid device model name", field.text);
}
