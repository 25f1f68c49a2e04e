/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What an image brings to a run, and what the options say instead. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "cli/run.h"

static size_t count_words(const char *const *words) {
    size_t count = 0;
    while (words && words[count]) {
        count++;
    }
    ASSERT(count < SIZE_MAX);
    return count;
}

/* The entrypoint, and behind it the user's words or the image's own. */
static enum kelpie_status join_words(struct run *run, struct kelpie_error *err) {
    const struct kelpie_image *image = run->image;
    const char *const *command = run->options->command;
    ASSERT(image);
    size_t image_count = count_words(image->argv);
    size_t kept = image_count;
    if (command) {
        kept = image->entrypoint_count < image_count ? image->entrypoint_count : image_count;
    }
    size_t command_count = count_words(command);
    run->argv = calloc(kept + command_count + 1, sizeof(*run->argv));
    if (!run->argv) {
        return error_set(err, KELPIE_NO_MEMORY, "no memory for the command");
    }
    for (size_t i = 0; i < kept; i++) {
        run->argv[i] = image->argv[i];
    }
    for (size_t i = 0; i < command_count; i++) {
        run->argv[kept + i] = command[i];
    }
    ASSERT(!run->argv[kept + command_count]);
    return KELPIE_OK;
}

enum kelpie_status run_image_load(struct run *run, struct kelpie_error *err) {
    const struct run_options *options = run->options;
    ASSERT(options->machine.image);
    ASSERT(!run->image && !run->argv);
    TRY(kelpie_image_find(NULL, options->machine.image, &run->image, err));
    TRY(join_words(run, err));
    if (!run->argv[0] && !options->snapshot && !options->detach) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "command",
                               "the image %s names no command: try 'kelpie run %s -- COMMAND'",
                               options->machine.image, options->machine.image);
    }
    return KELPIE_OK;
}

struct kelpie_command run_command(struct run *run) {
    const struct run_options *options = run->options;
    ASSERT(options);
    ASSERT(!run->argv || run->image);
    struct kelpie_command command = {
        .argv = run->argv ? (run->argv[0] ? run->argv : NULL) : options->command,
        .env = run->env.values,
        .working_dir = options->machine.working_dir,
        .tty = options->tty,
        .stdin_open = options->interactive,
        .timeout_ms = options->timeout_ms,
    };
    if (options->user.given) {
        command.uid = options->user.uid;
        command.gid = options->user.gid;
    } else if (run->image) {
        command.uid = run->image->uid;
        command.gid = run->image->gid;
    }
    return command;
}

/* With an image, environment and folder of the config stay the image's: those of the options are the command's. */
struct kelpie_config run_config(const struct run *run) {
    const struct run_options *options = run->options;
    ASSERT(options);
    ASSERT(!options->from);
    struct kelpie_config config = machine_options_config(&options->machine);
    if (options->machine.image) {
        config.env = NULL;
        config.working_dir = NULL;
    }
    return config;
}
