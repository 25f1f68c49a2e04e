/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* kelpie exec, kelpie shell, kelpie attach. Theory: exec.h. */
#include "cli/exec.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "cli/cli.h"
#include "cli/output.h"
#include "cli/verb.h"

static void exec_check(const struct exec *exec) {
    ASSERT(exec);
    ASSERT(exec->open);
    ASSERT(exec->options.vm);
}

/* ---- Coming by a session ------------------------------------------------------------------------ */

static enum kelpie_status start_words(struct exec *exec, const char *const *argv,
                                      struct kelpie_exec **ret_session, struct kelpie_error *err) {
    struct exec_options *options = &exec->options;
    exec_check(exec);
    ASSERT(argv && argv[0]);
    struct kelpie_command command = {
        .argv = argv,
        .env = options->env.values,
        .working_dir = options->working_dir,
        .uid = options->user.uid,
        .gid = options->user.gid,
        .tty = options->tty,
        .stdin_open = options->interactive,
        .timeout_ms = options->timeout_ms,
    };
    if (options->tty) {
        talk_size(&exec->talk, &command);
    }
    return kelpie_exec_start(exec->talk.vm, &command, ret_session, err);
}

enum kelpie_status exec_open_command(struct exec *exec, struct kelpie_exec **ret_session,
                                     struct kelpie_error *err) {
    exec_check(exec);
    ASSERT(exec->options.command);
    return start_words(exec, exec->options.command, ret_session, err);
}

/* The best shell that the guest has, as a login shell. */
enum kelpie_status exec_open_shell(struct exec *exec, struct kelpie_exec **ret_session,
                                   struct kelpie_error *err) {
    static const char *const shells[] = {"bash", "sh"};
    exec_check(exec);
    ASSERT(exec->options.tty);
    enum kelpie_status status = KELPIE_OK;
    for (size_t i = 0; i < ARRAY_SIZE(shells); i++) {
        const char *const argv[] = {shells[i], "-l", NULL};
        status = start_words(exec, argv, ret_session, err);
        if (status != KELPIE_EXEC_FAILED || err->os_error != ENOENT) {
            break;
        }
    }
    return status;
}

/* "1, 2, 3": as many as an error's line takes. */
static void list_ids(const uint32_t *ids, size_t count, char *text, size_t size) {
    ASSERT(ids);
    ASSERT(size > 0);
    size_t used = 0;
    text[0] = 0;
    for (size_t i = 0; i < count && i < CLI_SHOWN_SESSIONS_MAX && used < size; i++) {
        int written = snprintf(text + used, size - used, i == 0 ? "%u" : ", %u", (unsigned)ids[i]);
        ASSERT(written > 0);
        used += (size_t)written;
    }
    if (count > CLI_SHOWN_SESSIONS_MAX && used < size) {
        snprintf(text + used, size - used, ", ...");
    }
}

static bool contains(const uint32_t *ids, size_t count, uint32_t id) {
    ASSERT(ids);
    ASSERT(count <= KELPIE_EXEC_COUNT_MAX);
    for (size_t i = 0; i < count; i++) {
        if (ids[i] == id) {
            return true;
        }
    }
    return false;
}

/* The session that is meant when none is named: the detached command's, or the only one. */
static enum kelpie_status choose_session(struct exec *exec, uint32_t *ret_id,
                                         struct kelpie_error *err) {
    exec_check(exec);
    ASSERT(exec->talk.vm);
    const char *vm = exec->options.vm;
    uint32_t ids[KELPIE_EXEC_COUNT_MAX];
    size_t count = 0;
    TRY(kelpie_exec_list(exec->talk.vm, ids, ARRAY_SIZE(ids), &count, err));
    size_t known = count < ARRAY_SIZE(ids) ? count : ARRAY_SIZE(ids);
    struct kelpie_vm_info info = {.command_known = false};
    struct kelpie_error ignored;
    bool has_command = kelpie_vm_find(NULL, vm, &info, &ignored) == KELPIE_OK && info.command_known;
    if (has_command && contains(ids, known, info.command_exec_id)) {
        *ret_id = info.command_exec_id;
        return KELPIE_OK;
    }
    if (count == 1) {
        *ret_id = ids[0];
        return KELPIE_OK;
    }
    if (count == 0) {
        return error_set_field(err, KELPIE_NOT_FOUND, "session",
                               "there is no session in the VM %s to attach to", vm);
    }
    char text[256];
    list_ids(ids, known, text, sizeof(text));
    return error_set_field(err, KELPIE_BAD_CONFIG, "session",
                           "the VM %s has %zu sessions, %s: say which", vm, count, text);
}

enum kelpie_status exec_open_session(struct exec *exec, struct kelpie_exec **ret_session,
                                     struct kelpie_error *err) {
    struct exec_options *options = &exec->options;
    exec_check(exec);
    ASSERT(exec->talk.vm);
    uint32_t id = options->exec_id;
    if (id == 0) {
        TRY(choose_session(exec, &id, err));
    }
    struct kelpie_exec *session = NULL;
    TRY(kelpie_exec_attach(exec->talk.vm, id, &session, err));
    bool on_terminal = talk_check_terminal(true, err) == KELPIE_OK;
    options->tty = on_terminal && kelpie_exec_has_tty(session);
    options->interactive = options->interactive || (on_terminal && !options->no_stdin);
    *ret_session = session;
    return KELPIE_OK;
}

/* ---- The whole ---------------------------------------------------------------------------------- */

/* The session goes on: how it is found again. */
static void say_left(const struct exec *exec) {
    exec_check(exec);
    ASSERT(exec->exec_id != 0);
    /* On a terminal its last line has hardly ended. */
    fprintf(stderr, "%skelpie: session %u goes on: 'kelpie attach %s %u' takes it up again\n",
            exec->options.tty ? "\n" : "", (unsigned)exec->exec_id, exec->options.vm,
            (unsigned)exec->exec_id);
}

static enum kelpie_status leave(struct exec *exec, struct kelpie_exec *session,
                                struct kelpie_error *err) {
    exec_check(exec);
    ASSERT(session);
    kelpie_exec_detach(session);
    if (printf("%u\n", (unsigned)exec->exec_id) < 0 || fflush(stdout) != 0) {
        return error_set_os(err, errno, "cannot print the session's number, which is %u",
                            (unsigned)exec->exec_id);
    }
    return KELPIE_OK;
}

static enum kelpie_status perform(struct exec *exec, struct kelpie_vm *vm,
                                  struct kelpie_error *err) {
    struct talk *talk = &exec->talk;
    exec_check(exec);
    ASSERT(!talk->vm);
    progress_show(&talk->progress, "connecting to %s", exec->options.vm);
    if (!vm) {
        TRY(kelpie_vm_open(NULL, exec->options.vm, &vm, err));
    }
    talk_set_vm(talk, vm);
    TRY(talk_check(talk, err));
    struct kelpie_exec *session = NULL;
    TRY(exec->open(exec, &session, err));
    exec->exec_id = kelpie_exec_id(session);
    progress_clear(&talk->progress);
    if (exec->options.detach) {
        return leave(exec, session, err);
    }
    talk->options.tty = exec->options.tty;
    talk->options.interactive = exec->options.interactive;
    talk_add(talk, session);
    return talk_pump(talk, err);
}

void exec_perform(struct exec *exec, struct kelpie_vm *vm) {
    const struct exec_options *options = &exec->options;
    exec_check(exec);
    ASSERT(!exec->talk.vm);
    struct talk_options talk_options = {
        .kind = exec->open == exec_open_session ? TALK_ATTACH : TALK_EXEC,
        .collect = options->json,
        .quiet = options->json,
        .keep_signals = options->no_signals,
    };
    if (options->tty || exec->open == exec_open_session) {
        talk_options.detach_keys = options->detach_keys;
    }
    if (options->tty) {
        option_pass_term(&exec->options.env, exec->options.term, sizeof(exec->options.term));
    }
    if (talk_init(&exec->talk, &talk_options, &exec->talk.outcome.err) != KELPIE_OK) {
        return;
    }
    struct kelpie_error err;
    error_clear(&err);
    enum kelpie_status status = perform(exec, vm, &err);
    struct kelpie_vm *opened = talk_take_vm(&exec->talk);
    if (!vm) {
        kelpie_vm_close(opened);
    }
    talk_note(&exec->talk, status, &err);
    talk_deinit(&exec->talk);
}

/* ---- The commands ------------------------------------------------------------------------------- */

static json_t *exec_json(const struct exec *exec) {
    exec_check(exec);
    ASSERT(exec->options.json);
    json_t *object =
        json_pack("{s:o}", "exec_id",
                  exec->exec_id != 0 ? json_integer((json_int_t)exec->exec_id) : json_null());
    if (!object || !outcome_json(&exec->talk.outcome, object)) {
        json_decref(object);
        return NULL;
    }
    json_object_set_new(object, "timings",
                        json_pack("{s:o}", "exec_ms", outcome_json_ms(exec->talk.outcome.exec_ns)));
    return object;
}

static int report(const struct exec *exec, const struct option_table *table) {
    const struct outcome *outcome = &exec->talk.outcome;
    ASSERT(exec);
    ASSERT(table);
    int code = outcome_exit_code(outcome);
    if (outcome->let_go && outcome->signal == 0) {
        say_left(exec);
    }
    outcome_say(outcome, table, exec->options.timeout_ms);
    if (outcome->err.status == KELPIE_NOT_FOUND && outcome->err.field[0] == 0) {
        verb_hint_vms(exec->options.vm);
    }
    return exec->options.json ? output_json(exec_json(exec), code) : code;
}

typedef enum kelpie_status complete(struct exec_options *options, const struct option_words *words,
                                    struct kelpie_error *err);

static int run_command(const struct cli_command *command, struct option_words *words,
                       complete *completed, exec_open *open) {
    ASSERT(command);
    ASSERT(completed && open);
    AUTO_MEM struct exec *exec = calloc(1, sizeof(*exec));
    if (!exec) {
        fputs("kelpie: no memory\n", stderr);
        return CLI_EXIT_FAILED;
    }
    exec->options.detach_keys = detach_keys_default();
    exec->open = open;
    int code = CLI_EXIT_OK;
    if (!cli_parse(command, words, &exec->options, SIZE_MAX, &code)) {
        return code;
    }
    struct kelpie_error *err = &exec->talk.outcome.err;
    if (completed(&exec->options, words, err) != KELPIE_OK) {
        output_error(NULL, err);
        output_hint("'kelpie %s --help' lists the options", command->name);
        return CLI_EXIT_FAILED;
    }
    if (exec->options.detach || talk_check_terminal(exec->options.tty, err) == KELPIE_OK) {
        exec_perform(exec, NULL);
    }
    code = report(exec, command->options);
    outcome_deinit(&exec->talk.outcome);
    return code;
}

static int exec_run(const struct cli_table *table, struct option_words *words) {
    ASSERT(table);
    ASSERT(words);
    return run_command(&cli_exec, words, exec_options_complete, exec_open_command);
}

static int shell_run(const struct cli_table *table, struct option_words *words) {
    ASSERT(table);
    ASSERT(words);
    return run_command(&cli_shell, words, shell_options_complete, exec_open_shell);
}

static int attach_run(const struct cli_table *table, struct option_words *words) {
    ASSERT(table);
    ASSERT(words);
    return run_command(&cli_attach, words, attach_options_complete, exec_open_session);
}

const struct cli_command cli_exec = {
    .name = "exec",
    .summary = "Runs a command in a VM that runs",
    .synopsis = "[OPTIONS] VM [--] COMMAND [ARGUMENT...]",
    .notes =
        "A command that we let go of (" DETACH_KEYS_DEFAULT
        " on a terminal), or whose kelpie was killed,\n"
        "goes on, and 'kelpie attach' takes it up at the next byte.\n"
        "Exit codes: the command's own; 124 timed out; 125 kelpie failed; 126 the command cannot\n"
        "be executed; 127 it does not exist; 128 and N: ended by signal N.\n",
    .options = &exec_option_table,
    .run = exec_run,
    .json = "exec_id        the session's number\n"
            "exit_code, signal, timed_out, stdout, stderr, timings, error\n"
            "               as kelpie-run(1) has them\n",
    .operands = {CLI_OPERAND_VM},
};

const struct cli_command cli_shell = {
    .name = "shell",
    .summary = "Opens a login shell in a VM that runs",
    .synopsis = "[OPTIONS] VM",
    .notes = "The shell is bash where the guest has it, else sh.\n",
    .options = &shell_option_table,
    .run = shell_run,
    .operands = {CLI_OPERAND_VM},
};

const struct cli_command cli_attach = {
    .name = "attach",
    .summary = "Takes up a command that runs in a VM, at the next byte of its output",
    .synopsis = "[OPTIONS] VM [SESSION]",
    .notes = "Without SESSION: the command of 'kelpie run --detach', or the only session.\n"
             "What ends us does not end the command.\n",
    .options = &attach_option_table,
    .run = attach_run,
    .operands = {CLI_OPERAND_VM},
};
