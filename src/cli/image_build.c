/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* kelpie image build NAME (--dir DIR | --tar FILE | --oci PATH) */
#include <string.h>

#include "base/assert.h"
#include "cli/human.h"
#include "cli/image.h"
#include "cli/output.h"
#include "cli/progress.h"

struct build_options {
    const char *dir;
    const char *tar;
    const char *oci;
    const char *reference;
    const char *architecture;
    uint32_t size_max_mib;
    bool json;
};

static const struct option_spec build_specs[] = {
    {
        .name = "dir",
        .value_name = "DIR",
        .help = "of a folder that holds a root file system",
        .set = option_set_text,
        .offset = offsetof(struct build_options, dir),
    },
    {
        .name = "tar",
        .value_name = "FILE",
        .help = "of a tar archive of one, compressed or not",
        .set = option_set_text,
        .offset = offsetof(struct build_options, tar),
    },
    {
        .name = "oci",
        .value_name = "PATH",
        .help = "of an OCI image layout: a folder, or a tar archive of one",
        .set = option_set_text,
        .offset = offsetof(struct build_options, oci),
    },
    {
        .name = "ref",
        .value_name = "REF",
        .help = "OCI: which of several images, by its name in the layout",
        .set = option_set_text,
        .offset = offsetof(struct build_options, reference),
        .field = "reference",
    },
    {
        .name = "arch",
        .value_name = "ARCH",
        .help = "OCI: for which processor (amd64, arm64); default: this machine's",
        .set = option_set_text,
        .offset = offsetof(struct build_options, architecture),
        .field = "architecture",
    },
    {
        .name = "max-size",
        .value_name = "SIZE",
        .help = "refuse what unpacks to more (512M, 4G); default: 16G",
        .set = option_set_memory,
        .offset = offsetof(struct build_options, size_max_mib),
        .field = "bytes_max",
    },
    {
        .name = "json",
        .help = "print one JSON object",
        .set = option_set_flag,
        .offset = offsetof(struct build_options, json),
    },
};
static const struct option_table build_table = {build_specs, ARRAY_SIZE(build_specs)};

/* Exactly one source. */
static bool choose_source(const struct build_options *options,
                          struct kelpie_image_options *ret_source) {
    const struct {
        const char *path;
        enum kelpie_image_source source;
    } sources[] = {
        {options->dir, KELPIE_IMAGE_FOLDER},
        {options->tar, KELPIE_IMAGE_TAR},
        {options->oci, KELPIE_IMAGE_OCI},
    };
    size_t count = 0;
    ASSERT(ret_source);
    ASSERT(ARRAY_SIZE(sources) == 3);
    for (size_t i = 0; i < ARRAY_SIZE(sources); i++) {
        if (sources[i].path) {
            ret_source->path = sources[i].path;
            ret_source->source = sources[i].source;
            count++;
        }
    }
    return count == 1;
}

static int build_failed(const struct kelpie_error *err, bool json) {
    ASSERT(err);
    ASSERT(err->status != KELPIE_OK);
    if (json) {
        (void)output_json(json_pack("{s:o}", "error", output_json_error(err)), CLI_EXIT_FAILED);
    }
    output_error(&build_table, err);
    return CLI_EXIT_FAILED;
}

static int build(const char *name, const struct kelpie_image_options *source, bool json) {
    struct kelpie_image *image = NULL;
    struct kelpie_error err;
    char size[HUMAN_SIZE];
    int code = CLI_EXIT_OK;
    ASSERT(name);
    ASSERT(source->path);
    struct progress progress;
    progress_init(&progress, !json);
    progress_show(&progress, "building %s of %s", name, source->path);
    enum kelpie_status status = kelpie_image_build(NULL, name, source, &image, &err);
    progress_clear(&progress);
    progress_deinit(&progress);
    if (status != KELPIE_OK) {
        return build_failed(&err, json);
    }
    if (json) {
        code = output_json(image_json(image), CLI_EXIT_OK);
    } else {
        printf("%s: %s, %s, %s\n", image->name, image->digest, image->format,
               human_bytes(image->bytes, size));
        code = fflush(stdout) == 0 ? CLI_EXIT_OK : CLI_EXIT_FAILED;
    }
    kelpie_list_free(image);
    return code;
}

static int build_run(const struct cli_table *table, struct option_words *words) {
    struct build_options options = {0};
    struct kelpie_image_options source = {0};
    struct cli_operands operands;
    struct kelpie_error err;
    int code = CLI_EXIT_OK;
    ASSERT(table);
    ASSERT(words);
    if (!cli_parse_all(&cli_image_build, words, &options, &operands, &code)) {
        return code;
    }
    if (!choose_source(&options, &source)) {
        error_set(&err, KELPIE_BAD_CONFIG, "one of --dir, --tar and --oci says what of");
        return build_failed(&err, options.json);
    }
    source.reference = options.reference;
    source.architecture = options.architecture;
    source.bytes_max = (uint64_t)options.size_max_mib << 20;
    return build(operands.words[0], &source, options.json);
}

const struct cli_command cli_image_build = {
    .name = "image build",
    .summary = "Builds an image of a folder, a tar archive or an OCI image",
    .synopsis = "NAME (--dir DIR | --tar FILE | --oci PATH) [OPTIONS]",
    .notes =
        "The image is a read-only file system (EROFS), made without root, with owners, device "
        "nodes, "
        "extended\nattributes and hard links as the source has them. The same source gives the "
        "same "
        "digest on every\nmachine. An image of that name is replaced; VMs that run go on with what "
        "they have.\n\n"
        "examples:\n"
        "  mmdebstrap --variant=minbase --include=python3-minimal bookworm root.tar\n"
        "  kelpie image build debian --tar root.tar\n"
        "  skopeo copy docker://busybox oci:layout:busybox\n"
        "  kelpie image build busybox --oci layout --ref busybox\n",
    .options = &build_table,
    .run = build_run,
    .group = CLI_GROUP_IMAGES,
    .operands = {CLI_OPERAND_FILE},
    .rule = {1, 1, "the image's name"},
    .json = image_json_fields,
};
