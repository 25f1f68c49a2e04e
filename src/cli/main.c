/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The command `kelpie`: a table of commands. What a command is: cli.h. */
#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/assert.h"
#include "cli/cli.h"
#include "cli/image.h"
#include "cli/output.h"

/* clang-format off */
static const struct cli_command *const commands[] = {
    &cli_run,
    &cli_exec,
    &cli_shell,
    &cli_attach,
    &cli_create,
    &cli_start,
    &cli_stop,
    &cli_kill,
    &cli_restart,
    &cli_pause,
    &cli_resume,
    &cli_rm,
    &cli_ls,
    &cli_inspect,
    &cli_logs,
    &cli_cp,
    &cli_stats,
    &cli_wait,
    &cli_snapshot,
    &cli_restore,
    &cli_snapshots,
    &cli_fork,
    &cli_verify,
    &cli_prune,
    &cli_image,
    &cli_images,
    &cli_doctor,
    &cli_completion,
    &cli_version,
    &cli_help,
    &cli_supervise,
};
/* clang-format on */

/* VMs that outlive us are owned by this very program, wherever it lies, unless the user names another. */
static void name_owner_program(void) {
    char path[KELPIE_PATH_SIZE_MAX + 1];
    ssize_t size = readlink("/proc/self/exe", path, sizeof(path) - 1);
    ASSERT(size < (ssize_t)sizeof(path));
    if (size > 0) {
        path[size] = 0;
        ASSERT(path[0] != 0);
        if (access(path, X_OK) == 0) {
            (void)setenv("KELPIE_PROGRAM", path, 0);
        }
    }
}

int main(int argc, char **argv) {
    static const struct cli_table table = {commands, ARRAY_SIZE(commands)};
    output_init();
    name_owner_program();
    struct option_words words = {
        .words = (const char *const *)argv,
        .count = (size_t)argc,
        .index = argc > 0 ? 1 : 0,
    };
    return cli_main(&table, &words);
}
