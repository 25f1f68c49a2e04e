/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* kelpie image build|ls|rm|inspect: images of guests' root file systems, by name. */
#include "cli/image.h"

#include <string.h>

#include "base/assert.h"
#include "cli/output.h"
#include "cli/suggest.h"

struct show_options {
    bool quiet;
    bool json;
};

struct rm_options {
    bool force;
};

static const struct option_spec list_specs[] = {
    {
        .short_name = 'q',
        .name = "quiet",
        .help = "print names only",
        .set = option_set_flag,
        .offset = offsetof(struct show_options, quiet),
    },
    {
        .name = "json",
        .help = "print one JSON array",
        .set = option_set_flag,
        .offset = offsetof(struct show_options, json),
    },
};
static const struct option_table list_table = {list_specs, ARRAY_SIZE(list_specs)};

static const struct option_spec show_specs[] = {
    {
        .name = "json",
        .help = "print one JSON object",
        .set = option_set_flag,
        .offset = offsetof(struct show_options, json),
    },
};
static const struct option_table show_table = {show_specs, ARRAY_SIZE(show_specs)};

/* ---- ls --------------------------------------------------------------------------------------- */

static int fail(const struct kelpie_error *err) {
    ASSERT(err);
    ASSERT(err->status != KELPIE_OK);
    output_error(NULL, err);
    if (err->status == KELPIE_NOT_FOUND) {
        output_hint("'kelpie images' lists the images");
    } else if (err->status == KELPIE_BUSY) {
        output_hint("'kelpie image rm -f' removes it anyway");
    }
    return CLI_EXIT_FAILED;
}

static json_t *json_of_list(const struct kelpie_image *images, size_t count) {
    json_t *list = json_array();
    ASSERT(images || count == 0);
    for (size_t i = 0; i < count; i++) {
        json_array_append_new(list, image_json(&images[i]));
    }
    ASSERT(json_array_size(list) <= count);
    return list;
}

static int list_run(const struct cli_command *command, struct option_words *words) {
    struct show_options options = {0};
    struct kelpie_image *images = NULL;
    struct kelpie_error err;
    size_t count = 0;
    int code = CLI_EXIT_OK;
    ASSERT(command->options == &list_table);
    ASSERT(words);
    if (!cli_parse(command, words, &options, 0, &code)) {
        return code;
    }
    if (kelpie_image_list(NULL, &images, &count, &err) != KELPIE_OK) {
        return fail(&err);
    }
    if (options.json) {
        code = output_json(json_of_list(images, count), CLI_EXIT_OK);
    } else if (options.quiet) {
        for (size_t i = 0; i < count; i++) {
            puts(images[i].name);
        }
    } else {
        image_print_list(images, count);
    }
    kelpie_list_free(images);
    return fflush(stdout) == 0 ? code : CLI_EXIT_FAILED;
}

static int ls_run(const struct cli_table *table, struct option_words *words) {
    ASSERT(table);
    ASSERT(words);
    return list_run(&cli_image_ls, words);
}

static int images_run(const struct cli_table *table, struct option_words *words) {
    ASSERT(table);
    ASSERT(words);
    return list_run(&cli_images, words);
}

const struct cli_command cli_image_ls = {
    .name = "image ls",
    .summary = "Lists the images",
    .synopsis = "[-q | --json]",
    .options = &list_table,
    .group = CLI_GROUP_IMAGES,
    .json = image_json_fields,
    .run = ls_run,
};

const struct cli_command cli_images = {
    .name = "images",
    .summary = "Lists the images",
    .synopsis = "[-q | --json]",
    .options = &list_table,
    .group = CLI_GROUP_IMAGES,
    .json = image_json_fields,
    .run = images_run,
};

/* ---- inspect ---------------------------------------------------------------------------------- */

static int inspect_run(const struct cli_table *table, struct option_words *words) {
    struct show_options options = {0};
    struct cli_operands operands;
    struct kelpie_image *image = NULL;
    struct kelpie_error err;
    int code = CLI_EXIT_OK;
    ASSERT(table);
    ASSERT(words);
    if (!cli_parse_all(&cli_image_inspect, words, &options, &operands, &code)) {
        return code;
    }
    if (kelpie_image_find(NULL, operands.words[0], &image, &err) != KELPIE_OK) {
        return fail(&err);
    }
    if (options.json) {
        code = output_json(image_json(image), CLI_EXIT_OK);
    } else {
        image_print(image);
    }
    kelpie_list_free(image);
    return fflush(stdout) == 0 ? code : CLI_EXIT_FAILED;
}

const struct cli_command cli_image_inspect = {
    .name = "image inspect",
    .summary = "Says what an image is, and what its maker wants run",
    .synopsis = "[--json] IMAGE",
    .notes = "IMAGE is a name, or a digest or the beginning of one.\n",
    .options = &show_table,
    .run = inspect_run,
    .group = CLI_GROUP_IMAGES,
    .operands = {CLI_OPERAND_IMAGE},
    .rule = {1, 1, "an image"},
    .json = image_json_fields,
};

/* ---- rm --------------------------------------------------------------------------------------- */

static const struct option_spec rm_specs[] = {
    {
        .short_name = 'f',
        .name = "force",
        .help = "remove one that a VM or a snapshot needs, too",
        .set = option_set_flag,
        .offset = offsetof(struct rm_options, force),
    },
};
static const struct option_table rm_table = {rm_specs, ARRAY_SIZE(rm_specs)};

static int rm_run(const struct cli_table *table, struct option_words *words) {
    struct rm_options options = {0};
    struct cli_operands operands;
    struct kelpie_error err;
    int code = CLI_EXIT_OK;
    ASSERT(table);
    ASSERT(words);
    if (!cli_parse_all(&cli_image_rm, words, &options, &operands, &code)) {
        return code;
    }
    for (size_t i = 0; i < operands.count; i++) {
        if (kelpie_image_remove(NULL, operands.words[i], options.force, &err) == KELPIE_OK) {
            puts(operands.words[i]);
        } else {
            code = fail(&err);
        }
    }
    return fflush(stdout) == 0 ? code : CLI_EXIT_FAILED;
}

static const struct option_table no_options = {NULL, 0};

const struct cli_command cli_image_rm = {
    .name = "image rm",
    .summary = "Removes images",
    .synopsis = "[-f] IMAGE...",
    .notes = "An image that a VM, running or not, or a snapshot needs stays: remove that first "
             "('kelpie rm',\n'kelpie snapshots rm'). With -f it goes, and they can no longer be "
             "started or restored; a VM that\nruns goes on.\n",
    .options = &rm_table,
    .run = rm_run,
    .group = CLI_GROUP_IMAGES,
    .operands = {CLI_OPERAND_IMAGE},
    .operands_repeat = true,
    .rule = {1, CLI_OPERAND_COUNT_MAX, "an image"},
};

/* ---- The table -------------------------------------------------------------------------------- */

static const struct cli_command *const subcommands[] = {
    &cli_image_build, &cli_image_ls, &cli_image_rm, &cli_image_inspect, NULL,
};

static int unknown(const char *name) {
    struct kelpie_error err;
    struct suggestion suggestion = suggestion_init(name, strlen(name));
    ASSERT(name);
    ASSERT(subcommands[0]);
    for (size_t i = 0; subcommands[i]; i++) {
        suggestion_offer(&suggestion, cli_subcommand_word(subcommands[i]));
    }
    error_set(&err, KELPIE_BAD_CONFIG, "there is no command image %.60s%s%s%s", name,
              suggestion.best ? "; did you mean " : "", suggestion.best ? suggestion.best : "",
              suggestion.best ? "?" : "");
    output_error(NULL, &err);
    output_hint("'kelpie image --help' lists the commands");
    return CLI_EXIT_FAILED;
}

static int image_run(const struct cli_table *table, struct option_words *words) {
    int code = CLI_EXIT_OK;
    ASSERT(table);
    ASSERT(words);
    if (!cli_parse(&cli_image, words, NULL, words->count, &code)) {
        return code;
    }
    if (words->index == words->count) {
        (void)cli_help_command(&cli_image);
        return CLI_EXIT_FAILED;
    }
    const char *name = words->words[words->index++];
    const struct cli_command *subcommand = cli_find_subcommand(&cli_image, name);
    return subcommand ? subcommand->run(table, words) : unknown(name);
}

const struct cli_command cli_image = {
    .name = "image",
    .summary = "Builds, lists and removes images of guests' file systems",
    .synopsis = "COMMAND [OPTIONS]",
    .notes = "  build NAME (--dir DIR | --tar FILE | --oci PATH) [--ref REF] [--arch ARCH] "
             "[--max-size SIZE]\n"
             "                builds an image of a folder, a tar archive or an OCI image\n"
             "  ls            lists the images\n"
             "  rm IMAGE...   removes images\n"
             "  inspect IMAGE says what an image is\n\n"
             "'kelpie image COMMAND --help' explains one of them; each takes --json but rm. "
             "'kelpie run IMAGE'\nuses an image.\n",
    .examples = "# a Debian with Python\n"
                "mmdebstrap --variant=minbase --include=python3-minimal bookworm root.tar\n"
                "kelpie image build debian --tar root.tar\n"
                "kelpie run debian -- python3 -c 'print(1)'\n",
    .options = &no_options,
    .run = image_run,
    .subcommands = subcommands,
    .group = CLI_GROUP_IMAGES,
};
