/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * image.h: `kelpie image build|ls|rm|inspect`. A sub-command is a command (cli.h) whose name is two words; image.c has the table of
 * them, image_show.c prints what an image is.
 */
#ifndef KELPIE_CLI_IMAGE_H
#define KELPIE_CLI_IMAGE_H

#include <jansson.h>

#include "cli/cli.h"
#include "kelpie_store.h"

extern const struct cli_command cli_image;
extern const struct cli_command cli_images; /* `kelpie image ls` */

extern const struct cli_command cli_image_build;
extern const struct cli_command cli_image_ls;
extern const struct cli_command cli_image_rm;
extern const struct cli_command cli_image_inspect;

/* An image as --json prints it, for manual pages. */
extern const char image_json_fields[];

/* ---- image_show.c ----------------------------------------------------------------------------- */

/* NULL: no memory. */
json_t *image_json(const struct kelpie_image *image);

/* One image as lines for people, and a list as a table. */
void image_print(const struct kelpie_image *image);
void image_print_list(const struct kelpie_image *images, size_t count);

#endif
