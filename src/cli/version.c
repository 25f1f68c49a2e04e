/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* kelpie version [--json] */
#include "base/assert.h"
#include "cli/cli.h"
#include "cli/output.h"

struct version_options {
    bool json;
};

static const struct option_spec version_specs[] = {
    {
        .name = "json",
        .help = "print one JSON object",
        .set = option_set_flag,
        .offset = offsetof(struct version_options, json),
    },
};

static int version_run(const struct cli_table *table, struct option_words *words) {
    ASSERT(table);
    ASSERT(words);
    struct version_options options = {0};
    int code = CLI_EXIT_OK;
    if (!cli_parse(&cli_version, words, &options, 0, &code)) {
        return code;
    }
    if (options.json) {
        return output_json(json_pack("{s:s}", "version", kelpie_version()), CLI_EXIT_OK);
    }
    printf("kelpie %s\n", kelpie_version());
    return fflush(stdout) == 0 ? CLI_EXIT_OK : CLI_EXIT_FAILED;
}

static const struct option_table version_table = {version_specs, ARRAY_SIZE(version_specs)};

const struct cli_command cli_version = {
    .name = "version",
    .summary = "Prints the version",
    .synopsis = "[--json]",
    .options = &version_table,
    .group = CLI_GROUP_HOST,
    .json = "version  of kelpie, major.minor.patch\n",
    .run = version_run,
};
