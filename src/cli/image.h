/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * image.h: `kelpie image build|ls|rm|inspect`. A sub-command is a command (cli.h) whose name is two words; image.c has the table of
 * them, and the others print what an image is.
 */
#ifndef KELPIE_CLI_IMAGE_H
#define KELPIE_CLI_IMAGE_H

#include <jansson.h>

#include "cli/cli.h"
#include "kelpie_store.h"

#define IMAGE_OPERAND_COUNT_MAX 64

extern const struct cli_command cli_image;
extern const struct cli_command cli_images; /* `kelpie image ls` */

extern const struct cli_command cli_image_build;
extern const struct cli_command cli_image_ls;
extern const struct cli_command cli_image_rm;
extern const struct cli_command cli_image_inspect;

/* The words of a command line that are no options; options may stand before, between and behind them. */
struct image_words {
    size_t count_min; /* how many there may be */
    size_t count_max;
    const char *words[IMAGE_OPERAND_COUNT_MAX];
    size_t count;
};

/* As cli_parse(), for as many words as `operands` says, which it fills. */
bool image_parse(const struct cli_command *command, struct option_words *words, void *target,
                 struct image_words *operands, int *ret_code);

/* ---- image_show.c ----------------------------------------------------------------------------- */

/* NULL: no memory. */
json_t *image_json(const struct kelpie_image *image);

/* "12.3 MiB", into at least 16 bytes. */
void image_size_text(uint64_t bytes, char *text, size_t size);

/* One image as lines for people, and a list as a table. */
void image_print(const struct kelpie_image *image);
void image_print_list(const struct kelpie_image *images, size_t count);

/* What a manual page says of an image's fields. */
#define IMAGE_JSON_FIELDS                                                                          \
    "name              of the image\n"                                                             \
    "digest            of the file system's bytes\n"                                               \
    "format            of the file system, such as erofs\n"                                        \
    "architecture      that it is for, or empty\n"                                                 \
    "path              of the file system here\n"                                                  \
    "bytes             on disk\n"                                                                  \
    "created_unix_ms   when it was built\n"                                                        \
    "uid, gid          of the image's user\n"                                                      \
    "working_dir       or empty\n"                                                                 \
    "argv              entrypoint and command\n"                                                   \
    "entrypoint_count  how many of argv stay when a user gives words of their own\n"               \
    "env               an array of KEY=VALUE\n"

#endif
