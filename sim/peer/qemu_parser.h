/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * qemu_parser.h: the command line of the scripted QEMU, taken to pieces. For qemu_parser.c, qemu_options.c and
 * qemu_devices.c only. Each function that returns bool says false when the command line is refused, and what QEMU says then
 * is in the parser.
 */
#ifndef KELPIE_SIM_PEER_QEMU_PARSER_H
#define KELPIE_SIM_PEER_QEMU_PARSER_H

#include "sim/peer/qemu.h"

struct sim_qemu_parser {
    struct sim_qemu_options *options;
    char *error;      /* SIM_QEMU_ERROR_SIZE bytes; empty: all is well */
    const char *name; /* of the option that is looked at, and its value */
    const char *value;
    const char *cursor; /* into the value */
};

/* One "key=value" of a value; the first may be a value alone. */
struct sim_qemu_field {
    char key[SIM_QEMU_NAME_SIZE_MAX + 1]; /* empty: a value alone */
    char text[SIM_QEMU_VALUE_SIZE_MAX + 1];
};

/* Both return false. The second names the option. */
bool sim_qemu_parser_refuse(struct sim_qemu_parser *parser, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
bool sim_qemu_refuse_here(struct sim_qemu_parser *parser, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
bool sim_qemu_unknown(struct sim_qemu_parser *parser, const struct sim_qemu_field *field);

/* False: there is none left, or (then there is an error) it is too long. */
bool sim_qemu_field_next(struct sim_qemu_parser *parser, struct sim_qemu_field *field);
bool sim_qemu_field_is(const struct sim_qemu_field *field, const char *key);

/* A whole number up to max and nothing behind it; and "64M" in bytes. */
bool sim_qemu_number(const char *text, uint64_t max, uint64_t *ret);
bool sim_qemu_size_of(const char *text, uint64_t *ret);

bool sim_qemu_on_off(struct sim_qemu_parser *parser, const struct sim_qemu_field *field, bool *ret);
bool sim_qemu_fd_of(struct sim_qemu_parser *parser, const char *text, int *ret);

/* The chardev of that name, once. */
bool sim_qemu_chardev_take(struct sim_qemu_parser *parser, const char *id, int *ret_fd);

/* ---- qemu_devices.c --------------------------------------------------------------------------- */

bool sim_qemu_option_chardev(struct sim_qemu_parser *parser);
bool sim_qemu_option_mon(struct sim_qemu_parser *parser);
bool sim_qemu_option_serial(struct sim_qemu_parser *parser);
bool sim_qemu_option_netdev(struct sim_qemu_parser *parser);
bool sim_qemu_option_add_fd(struct sim_qemu_parser *parser);
bool sim_qemu_option_blockdev(struct sim_qemu_parser *parser);
bool sim_qemu_option_device(struct sim_qemu_parser *parser);

#endif
