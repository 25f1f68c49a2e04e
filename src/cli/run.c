/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* kelpie run: a command in a VM of its own. Theory: run.h. */
#include "cli/run.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "cli/cli.h"
#include "cli/output.h"

/* ---- Phases ----------------------------------------------------------------------------------- */

/* From here on signals cancel what waits on this VM. */
static void publish_vm(struct run *run, struct kelpie_vm *vm) {
    run_check_parts(run);
    ASSERT(vm);
    ASSERT(!run->vm);
    run_lock(run);
    run->vm = vm;
    run_unlock(run);
    snprintf(run->report.id, sizeof(run->report.id), "%s", kelpie_vm_id(vm));
    snprintf(run->report.backend, sizeof(run->report.backend), "%s", kelpie_vm_backend(vm));
}

static enum kelpie_status boot(struct run *run, struct kelpie_error *err) {
    const struct run_options *options = run->options;
    run_check_parts(run);
    ASSERT(!run->options->from);
    struct kelpie_config config = {
        .name = options->name,
        .backend = options->backend,
        .vcpu_count = options->cpus,
        .memory_mib = options->memory_mib,
        .kernel = options->kernel,
        .disks = options->disks.disks,
        .disk_count = options->disks.count,
        .env = options->env.values,
        .working_dir = options->working_dir,
        .hostname = options->hostname,
        .console_log = options->console,
        .network = run_options_network(options),
    };
    struct kelpie_vm *vm = NULL;
    progress_show(&run->progress, "booting a VM");
    TRY(kelpie_vm_create(&config, &vm, err));
    publish_vm(run, vm);
    TRY(run_check(run, err));
    return kelpie_vm_start(vm, err);
}

static enum kelpie_status restore(struct run *run, struct kelpie_error *err) {
    const struct run_options *options = run->options;
    run_check_parts(run);
    ASSERT(run->options->from);
    struct kelpie_config config = {
        .name = options->name,
        .backend = options->backend,
        .hostname = options->hostname,
        .console_log = options->console,
        .network = run_options_network(options),
    };
    struct kelpie_restore_options restore_options = {
        .allow_incomplete = options->allow_incomplete,
        .verify_memory = options->verify,
    };
    struct kelpie_vm *vm = NULL;
    progress_show(&run->progress, "restoring %s", options->from);
    /* There is no handle to cancel yet: a signal is heard when the restore, which is bounded, is over. */
    TRY(kelpie_vm_create_from_snapshot(options->from, &config, &restore_options, &vm, err));
    publish_vm(run, vm);
    run->report.restored = true;
    struct kelpie_error ignored;
    run->report.report_known =
        kelpie_vm_restore_report(vm, &run->report.restore, &ignored) == KELPIE_OK;
    return KELPIE_OK;
}

static enum kelpie_status write_bundle(struct run *run, struct kelpie_error *err) {
    const struct run_options *options = run->options;
    run_check_parts(run);
    ASSERT(run->vm);
    ASSERT(options->snapshot);
    ASSERT(run->session_count == 0);
    uint64_t start_ns = run_clock_ns();
    struct kelpie_snapshot_options snapshot_options = {.kind = KELPIE_SNAPSHOT_SUSPEND};
    progress_show(&run->progress, "writing %s", options->snapshot);
    TRY(kelpie_vm_snapshot(run->vm, options->snapshot, &snapshot_options, &run->report.snapshot,
                           err));
    run->report.snapshotted = true;
    run->report.snapshot_ns = run_clock_ns() - start_ns;
    return KELPIE_OK;
}

static enum kelpie_status perform(struct run *run, struct kelpie_error *err) {
    run_check_parts(run);
    ASSERT(!run->vm);
    TRY(run->options->from ? restore(run, err) : boot(run, err));
    run->report.ready_ns = run_clock_ns() - run->report.start_ns;
    enum kelpie_status status = run_open_sessions(run, err);
    progress_clear(&run->progress);
    if (status != KELPIE_OK) {
        run_give_up(run, err);
    }
    /* Sessions that were opened before one failed are let go there too. */
    if (run->session_count > 0) {
        TRY(run_pump_sessions(run, err));
    }
    TRY(status);
    TRY(run_check(run, err));
    return run->options->snapshot ? write_bundle(run, err) : KELPIE_OK;
}

static void end_vm(struct run *run) {
    run_check_parts(run);
    ASSERT(run->session_count == 0);
    run_lock(run);
    struct kelpie_vm *vm = TAKE(run->vm);
    run_unlock(run);
    kelpie_vm_destroy(vm);
}

void run_perform(struct run *run) {
    ASSERT(run->options);
    ASSERT(!run->vm);
    struct run_report *report = &run->report;
    report->start_ns = run_clock_ns();
    run->progress = progress_init(!run->options->json);
    run->terminal = terminal_init(STDIN_FILENO);
    pthread_mutex_init(&run->lock, NULL);
    pthread_mutex_init(&run->output_lock, NULL);
    run->signals = (struct signals){
        .on_signal = run_on_signal,
        .on_tick = run_on_tick,
        .context = run,
    };
    run->stop_event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (run->stop_event < 0) {
        error_set_os(&report->err, errno, "cannot make an event");
        return;
    }
    if (signals_start(&run->signals, &report->err) == KELPIE_OK) {
        struct kelpie_error err;
        error_clear(&err);
        enum kelpie_status status = perform(run, &err);
        progress_clear(&run->progress);
        end_vm(run);
        signals_stop(&run->signals);
        /* What made us give up is the reason, not what came of it. */
        if (status != KELPIE_OK && report->err.status == KELPIE_OK) {
            report->err = err;
        }
    }
    close(run->stop_event);
}

/* ---- The command ------------------------------------------------------------------------------ */

static int report_run(struct run *run) {
    const struct run_report *report = &run->report;
    ASSERT(run->options);
    ASSERT(!run->vm);
    int code = run_report_exit_code(report);
    bool told_to_end = report->reader_gone || report->signal != 0;
    if (report->err.status != KELPIE_OK && !told_to_end) {
        output_error(&run_option_table, &report->err);
    } else if (report->exit.timed_out && !told_to_end) {
        fprintf(stderr, "kelpie: the command ran longer than %u ms and was killed\n",
                run->options->timeout_ms);
    }
    return run->options->json ? output_json(run_report_json(report), code) : code;
}

static enum kelpie_status check_terminal(const struct run_options *options,
                                         struct kelpie_error *err) {
    ASSERT(options);
    ASSERT(err);
    struct terminal terminal = terminal_init(STDIN_FILENO);
    if (options->tty && !terminal_present(&terminal)) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "--tty",
                               "--tty: standard input is not a terminal");
    }
    return KELPIE_OK;
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
    struct kelpie_error *err = &run->report.err;
    if (run_options_complete(options, words, err) == KELPIE_OK &&
        check_terminal(options, err) == KELPIE_OK) {
        run_perform(run);
    }
    int code = report_run(run);
    run_report_deinit(&run->report);
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
    .synopsis = "[OPTIONS] [--] COMMAND [ARGUMENT...]",
    .notes =
        "With --from and no command, the sessions that the bundle holds go on where they were.\n"
        "Exit codes: the command's own; 124 timed out; 125 kelpie failed; 126 the command cannot\n"
        "be executed; 127 it does not exist; 128 and N: ended by signal N.\n",
    .options = &run_option_table,
    .run = run_run,
};
