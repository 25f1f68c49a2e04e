/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "sim/peer/qemu_parser.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"

/* ---- Refusing --------------------------------------------------------------------------------- */

bool sim_qemu_parser_refuse(struct sim_qemu_parser *parser, const char *format, ...) {
    ASSERT(parser->error);
    ASSERT(format);
    char text[SIM_QEMU_ERROR_SIZE / 2];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    snprintf(parser->error, SIM_QEMU_ERROR_SIZE, SIM_QEMU_PROGRAM ": %s\n", text);
    return false;
}

bool sim_qemu_refuse_here(struct sim_qemu_parser *parser, const char *format, ...) {
    ASSERT(parser->name && parser->value);
    ASSERT(format);
    char text[SIM_QEMU_ERROR_SIZE / 2];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    snprintf(parser->error, SIM_QEMU_ERROR_SIZE, SIM_QEMU_PROGRAM ": %s %.200s: %.600s\n",
             parser->name, parser->value, text);
    return false;
}

/* ---- Pieces ----------------------------------------------------------------------------------- */

/* False: there is none left, or (then error is set) it is too long. */
bool sim_qemu_field_next(struct sim_qemu_parser *parser, struct sim_qemu_field *field) {
    ASSERT(parser->cursor);
    ASSERT(field);
    if (parser->cursor[0] == 0) {
        return false;
    }
    size_t size = strcspn(parser->cursor, ",");
    size_t key_size = strcspn(parser->cursor, "=,");
    bool has_key = key_size < size;
    size_t text_size = has_key ? size - key_size - 1 : size;
    if ((has_key && key_size > SIM_QEMU_NAME_SIZE_MAX) || text_size > SIM_QEMU_VALUE_SIZE_MAX) {
        return sim_qemu_refuse_here(parser, "%s is too long", "a property");
    }
    snprintf(field->key, sizeof(field->key), "%.*s", has_key ? (int)key_size : 0, parser->cursor);
    snprintf(field->text, sizeof(field->text), "%.*s", (int)text_size,
             parser->cursor + size - text_size);
    parser->cursor += size + (parser->cursor[size] == ',');
    return true;
}

bool sim_qemu_field_is(const struct sim_qemu_field *field, const char *key) {
    ASSERT(field);
    ASSERT(key);
    return strcmp(field->key, key) == 0;
}

/* A whole number up to max and nothing behind it. */
bool sim_qemu_number(const char *text, uint64_t max, uint64_t *ret) {
    ASSERT(text);
    ASSERT(ret);
    size_t digits = strspn(text, "0123456789");
    uint64_t value = 0;
    if (digits == 0 || digits > 18 || text[digits] != 0 || sscanf(text, "%" SCNu64, &value) != 1 ||
        value > max) {
        return false;
    }
    *ret = value;
    return true;
}

bool sim_qemu_on_off(struct sim_qemu_parser *parser, const struct sim_qemu_field *field,
                     bool *ret) {
    ASSERT(field);
    ASSERT(ret);
    bool on = strcmp(field->text, "on") == 0;
    if (!on && strcmp(field->text, "off") != 0) {
        return sim_qemu_refuse_here(parser, "Parameter '%s' expects 'on' or 'off'", field->key);
    }
    *ret = on;
    return true;
}

bool sim_qemu_fd_of(struct sim_qemu_parser *parser, const char *text, int *ret) {
    ASSERT(text);
    ASSERT(ret);
    uint64_t fd = 0;
    if (!sim_qemu_number(text, SIM_QEMU_FD_MAX, &fd) || fd < 3) {
        return sim_qemu_refuse_here(parser, "File descriptor '%s' is not a socket", text);
    }
    *ret = (int)fd;
    return true;
}

bool sim_qemu_unknown(struct sim_qemu_parser *parser, const struct sim_qemu_field *field) {
    ASSERT(parser);
    ASSERT(field);
    return sim_qemu_refuse_here(parser, "Invalid parameter '%s'",
                                field->key[0] ? field->key : field->text);
}

/* 64M. */
bool sim_qemu_size_of(const char *text, uint64_t *ret) {
    ASSERT(text);
    ASSERT(ret);
    size_t length = strlen(text);
    char digits[SIM_QEMU_NAME_SIZE_MAX + 1];
    uint64_t mib = 0;
    if (length < 2 || length > SIM_QEMU_NAME_SIZE_MAX || text[length - 1] != 'M') {
        return false;
    }
    snprintf(digits, sizeof(digits), "%.*s", (int)length - 1, text);
    if (!sim_qemu_number(digits, UINT32_MAX, &mib)) {
        return false;
    }
    *ret = mib << 20;
    return true;
}

/* The chardev of that name, once. */
bool sim_qemu_chardev_take(struct sim_qemu_parser *parser, const char *id, int *ret_fd) {
    ASSERT(id);
    ASSERT(parser->options->chardev_count <= SIM_QEMU_CHARDEV_COUNT_MAX);
    for (size_t i = 0; i < parser->options->chardev_count; i++) {
        struct sim_qemu_chardev *chardev = &parser->options->chardevs[i];
        if (strcmp(chardev->id, id) != 0) {
            continue;
        }
        if (chardev->in_use) {
            return sim_qemu_refuse_here(parser, "Device '%s' is in use", id);
        }
        chardev->in_use = true;
        *ret_fd = chardev->fd;
        return true;
    }
    return sim_qemu_refuse_here(parser, "chardev \"%s\" not found", id);
}
