/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* kelpie prune: gives disk space back. */
#include "base/assert.h"
#include "cli/cli.h"
#include "cli/human.h"
#include "cli/output.h"
#include "kelpie_store.h"

struct prune_options {
    bool dry_run;
    bool all;
    bool vms;
    bool images;
    bool templates;
    bool json;
};

#define OPTION(letter, long_name, member, text)                                                    \
    {                                                                                              \
        .short_name = (letter), .name = (long_name), .help = (text), .set = option_set_flag,       \
        .offset = offsetof(struct prune_options, member)                                           \
    }

static const struct option_spec prune_specs[] = {
    OPTION('n', "dry-run", dry_run, "only say what would go"),
    OPTION('a', "all", all, "VMs, images and templates"),
    OPTION(0, "vms", vms, "VMs that have ended, or were never started"),
    OPTION(0, "images", images, "images that no VM uses"),
    OPTION(0, "templates", templates,
           "all templates of warm starts, not only those beyond their room on disk"),
    OPTION(0, "json", json, "print one JSON object"),
};
static const struct option_table prune_table = {prune_specs, ARRAY_SIZE(prune_specs)};

static void print_count(uint32_t count, const char *one, const char *many, bool *any) {
    ASSERT(one);
    ASSERT(many);
    if (count > 0) {
        printf("%s%u %s", *any ? ", " : "", count, count == 1 ? one : many);
        *any = true;
    }
}

/* "removed 2 VMs, 1 template: 1.2GiB". */
static void print_report(const struct kelpie_prune_report *report, bool dry_run) {
    ASSERT(report);
    char bytes[HUMAN_SIZE];
    bool any = false;
    printf("%s ", dry_run ? "would remove" : "removed");
    print_count(report->vms, "VM", "VMs", &any);
    print_count(report->images, "image", "images", &any);
    print_count(report->templates, "template", "templates", &any);
    print_count(report->leftovers, "leftover", "leftovers", &any);
    printf("%s: %s\n", any ? "" : "nothing", human_bytes(report->bytes, bytes));
    ASSERT(any || report->vms == 0);
}

static int prune_run(const struct cli_table *table, struct option_words *words) {
    ASSERT(table);
    ASSERT(words);
    struct prune_options options = {0};
    struct kelpie_prune_report report = {0};
    struct kelpie_error err;
    int code = CLI_EXIT_OK;
    if (!cli_parse(&cli_prune, words, &options, 0, &code)) {
        return code;
    }
    struct kelpie_prune_options wanted = {
        .dry_run = options.dry_run,
        .vms = options.all || options.vms,
        .images = options.all || options.images,
        .templates = options.all || options.templates,
    };
    if (kelpie_prune(NULL, &wanted, &report, &err) != KELPIE_OK) {
        output_error(NULL, &err);
        return CLI_EXIT_FAILED;
    }
    if (options.json) {
        return output_json(
            json_pack("{s:b, s:I, s:I, s:I, s:I, s:I}", "dry_run", options.dry_run, "vms",
                      (json_int_t)report.vms, "images", (json_int_t)report.images, "templates",
                      (json_int_t)report.templates, "leftovers", (json_int_t)report.leftovers,
                      "bytes", (json_int_t)report.bytes),
            CLI_EXIT_OK);
    }
    print_report(&report, options.dry_run);
    return fflush(stdout) == 0 ? CLI_EXIT_OK : CLI_EXIT_FAILED;
}

const struct cli_command cli_prune = {
    .name = "prune",
    .summary = "Gives disk space back, and says how much",
    .synopsis = "[OPTIONS]",
    .notes = "Without options: what killed processes left, and templates beyond their room. "
             "Snapshots are never\n"
             "pruned: 'kelpie snapshots rm' removes them.\n",
    .options = &prune_table,
    .run = prune_run,
    .group = CLI_GROUP_HOST,
    .json = "dry_run                           nothing was removed\n"
            "vms, images, templates, leftovers  how many\n"
            "bytes                             that they took on disk\n",
};
