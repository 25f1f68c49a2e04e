/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* kelpie run: a command in a VM of its own. Theory: run.h. */
#include "cli/run.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "cli/cli.h"
#include "cli/output.h"

static void run_check(const struct run *run) {
    ASSERT(run);
    ASSERT(run->options);
}

/* ---- Phases ----------------------------------------------------------------------------------- */

void run_publish_vm(struct run *run, struct kelpie_vm *vm) {
    run_check(run);
    ASSERT(vm);
    talk_set_vm(&run->talk, vm);
    snprintf(run->report.id, sizeof(run->report.id), "%s", kelpie_vm_id(vm));
    snprintf(run->report.backend, sizeof(run->report.backend), "%s", kelpie_vm_backend(vm));
}

static enum kelpie_status boot(struct run *run, struct kelpie_error *err) {
    run_check(run);
    ASSERT(!run->options->from);
    struct kelpie_config config = run_config(run);
    struct kelpie_vm *vm = NULL;
    progress_show(&run->talk.progress, "booting a VM");
    TRY(kelpie_vm_create(&config, &vm, err));
    run_publish_vm(run, vm);
    TRY(talk_check(&run->talk, err));
    return kelpie_vm_start(vm, err);
}

static enum kelpie_status restore(struct run *run, struct kelpie_error *err) {
    const struct run_options *options = run->options;
    run_check(run);
    ASSERT(options->from);
    struct kelpie_config config = {
        .name = options->machine.name,
        .backend = options->machine.backend,
        .hypervisor = options->machine.hypervisor,
        .hostname = options->machine.hostname,
        .console_log = options->machine.console,
        .network = machine_options_network(&options->machine),
    };
    struct kelpie_restore_options restore_options = {
        .allow_incomplete = options->allow_incomplete,
        .verify_memory = options->verify,
    };
    struct kelpie_vm *vm = NULL;
    progress_show(&run->talk.progress, "restoring %s", options->from);
    /* There is no handle to cancel yet: a signal is heard when the restore, which is bounded, is over. */
    TRY(kelpie_vm_create_from_snapshot(options->from, &config, &restore_options, &vm, err));
    run_publish_vm(run, vm);
    run->report.restored = true;
    struct kelpie_error ignored;
    run->report.report_known =
        kelpie_vm_restore_report(vm, &run->report.restore, &ignored) == KELPIE_OK;
    return KELPIE_OK;
}

static enum kelpie_status write_bundle(struct run *run, struct kelpie_error *err) {
    const struct run_options *options = run->options;
    run_check(run);
    ASSERT(run->talk.session_count == 0);
    uint64_t start_ns = cli_clock_ns();
    struct kelpie_snapshot_options snapshot_options = {.kind = KELPIE_SNAPSHOT_SUSPEND};
    progress_show(&run->talk.progress, "writing %s", options->snapshot);
    TRY(kelpie_vm_snapshot(run->talk.vm, options->snapshot, &snapshot_options,
                           &run->report.snapshot, err));
    run->report.snapshotted = true;
    run->report.snapshot_ns = cli_clock_ns() - start_ns;
    return KELPIE_OK;
}

/* ---- Sessions --------------------------------------------------------------------------------- */

static enum kelpie_status start_command(struct run *run, struct kelpie_command *command,
                                        struct kelpie_error *err) {
    run_check(run);
    ASSERT(command->argv);
    if (command->tty) {
        talk_size(&run->talk, command);
    }
    struct kelpie_exec *exec = NULL;
    TRY(kelpie_exec_start(run->talk.vm, command, &exec, err));
    talk_add(&run->talk, exec);
    return KELPIE_OK;
}

/* What -i and -t talk to must be one command. */
static enum kelpie_status check_attach(const struct run *run, size_t count,
                                       struct kelpie_error *err) {
    const struct run_options *options = run->options;
    run_check(run);
    ASSERT(run->options->from);
    if (count == 0 && !options->snapshot) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "command",
                               "there is no command, and the bundle %s holds no session to go on "
                               "with",
                               options->from);
    }
    if (count != 1 && (options->interactive || options->tty)) {
        return error_set_field(
            err, KELPIE_BAD_CONFIG, options->tty ? "--tty" : "--interactive",
            "%s: the bundle %s holds %zu sessions, and only one can be talked to",
            options->tty ? "--tty" : "--interactive", options->from, count);
    }
    if (count > KELPIE_EXEC_COUNT_MAX) {
        return error_set(err, KELPIE_INTERNAL, "the guest claims to hold %zu sessions", count);
    }
    return KELPIE_OK;
}

static enum kelpie_status attach_sessions(struct run *run, struct kelpie_error *err) {
    run_check(run);
    ASSERT(run->talk.vm);
    uint32_t ids[KELPIE_EXEC_COUNT_MAX];
    size_t count = 0;
    TRY(kelpie_exec_list(run->talk.vm, ids, ARRAY_SIZE(ids), &count, err));
    TRY(check_attach(run, count, err));
    for (size_t i = 0; i < count; i++) {
        struct kelpie_exec *exec = NULL;
        TRY(kelpie_exec_attach(run->talk.vm, ids[i], &exec, err));
        talk_add(&run->talk, exec);
    }
    return KELPIE_OK;
}

static enum kelpie_status open_sessions(struct run *run, struct kelpie_error *err) {
    run_check(run);
    ASSERT(run->talk.session_count == 0);
    TRY(talk_check(&run->talk, err));
    struct kelpie_command command = run_command(run);
    if (command.argv) {
        return start_command(run, &command, err);
    }
    return run->options->from ? attach_sessions(run, err) : KELPIE_OK;
}

static enum kelpie_status perform(struct run *run, struct kelpie_error *err) {
    run_check(run);
    ASSERT(!run->talk.vm);
    struct talk *talk = &run->talk;
    TRY(run->options->machine.image ? run_image_load(run, err) : KELPIE_OK);
    if (run->options->detach) {
        return run_detached(run, err);
    }
    TRY(run->options->from ? restore(run, err) : boot(run, err));
    run->report.ready_ns = cli_clock_ns() - run->report.start_ns;
    enum kelpie_status status = open_sessions(run, err);
    progress_clear(&talk->progress);
    if (status != KELPIE_OK) {
        talk_give_up(talk, err);
    }
    /* Sessions that were opened before one failed are let go there too. */
    if (talk->session_count > 0) {
        TRY(talk_pump(talk, err));
    }
    TRY(status);
    TRY(talk_check(talk, err));
    return run->options->snapshot ? write_bundle(run, err) : KELPIE_OK;
}

void run_perform(struct run *run) {
    const struct run_options *options = run->options;
    run_check(run);
    ASSERT(!run->talk.vm);
    struct talk_options talk_options = {
        .kind = options->snapshot ? TALK_BUNDLE : TALK_RUN,
        .interactive = options->interactive,
        .tty = options->tty,
        .collect = options->json,
        .quiet = options->json,
        .pump_ms = options->snapshot_after_ms,
    };
    struct kelpie_error err;
    run->report.start_ns = cli_clock_ns();
    run->env = options->machine.env;
    if (options->tty) {
        option_pass_term(&run->env, run->term, sizeof(run->term));
    }
    if (talk_init(&run->talk, &talk_options, &run->talk.outcome.err) == KELPIE_OK) {
        error_clear(&err);
        enum kelpie_status status = perform(run, &err);
        progress_clear(&run->talk.progress);
        kelpie_vm_destroy(talk_take_vm(&run->talk));
        talk_note(&run->talk, status, &err);
        talk_deinit(&run->talk);
    }
}

void run_deinit(struct run *run) {
    run_check(run);
    ASSERT(!run->talk.vm);
    free(run->argv);
    kelpie_list_free(run->image);
    outcome_deinit(&run->talk.outcome);
}

/* ---- The command ------------------------------------------------------------------------------ */

static int report_run(struct run *run) {
    const struct outcome *outcome = &run->talk.outcome;
    run_check(run);
    ASSERT(!run->talk.vm);
    int code = outcome_exit_code(outcome);
    outcome_say(outcome, &run_option_table, run->options->timeout_ms);
    const char *image = run->options->machine.image;
    bool no_image = image && !run->image && outcome->err.status == KELPIE_NOT_FOUND;
    if (no_image && !run->options->command) {
        output_hint("'kelpie run -- %.60s' runs a command without an image", image);
    }
    bool printed = run->options->detach && outcome->err.status == KELPIE_OK;
    return run->options->json && !printed
               ? output_json(run_report_json(&run->report, outcome), code)
               : code;
}

static int run_with_options(struct run_options *options, const struct option_words *words) {
    ASSERT(options);
    ASSERT(words);
    AUTO_MEM struct run *run = calloc(1, sizeof(*run));
    if (!run) {
        fputs("kelpie: no memory\n", stderr);
        return CLI_EXIT_FAILED;
    }
    run->options = options;
    struct kelpie_error *err = &run->talk.outcome.err;
    if (run_options_complete(options, words, err) == KELPIE_OK &&
        (options->detach || talk_check_terminal(options->tty, err) == KELPIE_OK)) {
        run_perform(run);
    }
    int code = report_run(run);
    run_deinit(run);
    return code;
}

static int run_run(const struct cli_table *table, struct option_words *words) {
    ASSERT(table);
    ASSERT(words);
    AUTO_MEM struct run_options *options = calloc(1, sizeof(*options));
    if (!options) {
        fputs("kelpie: no memory\n", stderr);
        return CLI_EXIT_FAILED;
    }
    int code = CLI_EXIT_OK;
    if (cli_parse(&cli_run, words, options, SIZE_MAX, &code)) {
        code = run_with_options(options, words);
    }
    run_options_deinit(options);
    return code;
}

const struct cli_command cli_run = {
    .name = "run",
    .summary = "Runs a command in a VM of its own, which is gone when the command has ended",
    .synopsis = "[OPTIONS] [IMAGE] [-- COMMAND ARGUMENT...]",
    .notes =
        "  kelpie run -- uname -a                 a command, without an image\n"
        "  kelpie run debian                      the image's own command\n"
        "  kelpie run debian -- python3 -c 'print(1)'\n"
        "  kelpie run -d --name box debian        goes on in a VM with that name\n"
        "\n"
        "Without --detach the VM is always gone afterwards, as with --rm. With --from and no\n"
        "command, the sessions that the bundle holds go on where they were.\n"
        "Exit codes: the command's own; 124 timed out; 125 kelpie failed; 126 the command cannot\n"
        "be executed; 127 it does not exist; 128 and N: ended by signal N.\n",
    .options = &run_option_table,
    .run = run_run,
    .operands = {CLI_OPERAND_IMAGE},
    .json = "id, backend    of the VM\n"
            "exit_code      what kelpie ends with\n"
            "signal         that ended the command; 0: none did\n"
            "timed_out      it ran longer than --timeout\n"
            "stdout, stderr  each with encoding (utf-8, or base64 for bytes that are not that or "
            "hold a zero), data, "
            "bytes and truncated\n"
            "timings        boot_ms, restore_ms, exec_ms, snapshot_ms, total_ms; null: that was "
            "not done\n"
            "restore        null, or the report: entropy, generation, clock, network, hostname, "
            "machine_id, each done, "
            "failed, unsupported or pending, and clock_skew_ns\n"
            "snapshot       null, or id, parent_id, quiesced, bytes and created_unix_ms\n"
            "error          null, or an object with status, field, message and os_error\n"
            "name, exec_id  of --detach, which prints these, id and backend only\n",
};
