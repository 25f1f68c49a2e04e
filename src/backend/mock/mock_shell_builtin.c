/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What the shell does itself, because it changes the shell: and test, which both it and /bin have. */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>

#include "backend/mock/mock_guest.h"
#include "backend/mock/mock_program.h"
#include "backend/mock/mock_shell.h"
#include "base/assert.h"
#include "base/cleanup.h"

#define BUILTIN_ARGV_COUNT_MAX 8
#define SIGNAL_NUMBER_MAX 64

/* The first words of a command, and how many there are in all. */
struct builtin {
    struct mock_process *process;
    const struct mock_command *command;
    const char *argv[BUILTIN_ARGV_COUNT_MAX];
    uint32_t count;
};

static void builtin_check(const struct builtin *call) {
    ASSERT(call);
    ASSERT(call->process);
    ASSERT(call->process->shell);
    ASSERT(call->argv[0]);
    ASSERT(call->count > 0);
}

/* ---- test ------------------------------------------------------------------------------------- */

static bool test_file(struct mock_process *process, char kind, const char *name) {
    mock_process_check(process);
    ASSERT(name);
    char path[MOCK_PATH_SIZE_MAX + 1];
    struct mock_file *file = NULL;
    if (!mock_path_resolve(process->folder, name, path) ||
        mock_files_lookup(&process->session->guest->files, path, &file) != 0) {
        return false;
    }
    switch (kind) {
    case 'd':
        return file->type == MOCK_FILE_FOLDER;
    case 'f':
        return file->type == MOCK_FILE_REGULAR || file->type == MOCK_FILE_PROGRAM;
    case 'x':
        return file->mode & 0111;
    case 's':
        return file->content.size > 0;
    default:
        return true;
    }
}

static uint32_t test_numbers(struct mock_process *process, const char *const *argv) {
    mock_process_check(process);
    int64_t left = 0;
    int64_t right = 0;
    if (!mock_number_parse(argv[0], &left) || !mock_number_parse(argv[2], &right)) {
        mock_process_print(process, MOCK_ERR, "sh: bad number\n");
        return 2;
    }
    const struct {
        const char *name;
        bool holds;
    } comparisons[] = {
        {"-eq", left == right}, {"-ne", left != right}, {"-lt", left < right},
        {"-le", left <= right}, {"-gt", left > right},  {"-ge", left >= right},
    };
    for (size_t i = 0; i < ARRAY_SIZE(comparisons); i++) {
        if (strcmp(argv[1], comparisons[i].name) == 0) {
            return comparisons[i].holds ? 0 : 1;
        }
    }
    mock_process_print(process, MOCK_ERR, "sh: %s: unknown operand\n", argv[1]);
    return 2;
}

static uint32_t test_pair(struct mock_process *process, const char *name, const char *operand) {
    mock_process_check(process);
    ASSERT(name);
    ASSERT(operand);
    if (strcmp(name, "-n") == 0 || strcmp(name, "-z") == 0) {
        bool is_empty = operand[0] == '\0';
        return is_empty == (name[1] == 'z') ? 0 : 1;
    }
    if (strlen(name) == 2 && name[0] == '-' && strchr("edfxsr", name[1])) {
        return test_file(process, name[1], operand) ? 0 : 1;
    }
    mock_process_print(process, MOCK_ERR, "sh: %s: unknown operand\n", name);
    return 2;
}

uint32_t mock_program_test(struct mock_process *process, const char *const *argv, uint32_t count) {
    mock_process_check(process);
    ASSERT(count > 0);
    if (strcmp(argv[0], "[") == 0) {
        if (strcmp(argv[count - 1], "]") != 0) {
            mock_process_print(process, MOCK_ERR, "sh: missing ]\n");
            return 2;
        }
        count--;
    }
    argv++;
    count--;
    bool negated = count > 1 && strcmp(argv[0], "!") == 0;
    argv += negated;
    count -= negated;
    uint32_t result = 2;
    if (count == 0) {
        result = 1;
    } else if (count == 1) {
        result = argv[0][0] ? 0 : 1;
    } else if (count == 2) {
        result = test_pair(process, argv[0], argv[1]);
    } else if (count == 3 && (strcmp(argv[1], "=") == 0 || strcmp(argv[1], "!=") == 0)) {
        bool is_equal = strcmp(argv[0], argv[2]) == 0;
        result = is_equal == (argv[1][0] == '=') ? 0 : 1;
    } else if (count == 3) {
        result = test_numbers(process, argv);
    }
    return negated && result < 2 ? !result : result;
}

/* ---- Variables -------------------------------------------------------------------------------- */

void mock_shell_assign(struct mock_process *process, const char *variable) {
    mock_process_check(process);
    ASSERT(variable);
    const char *equals = strchr(variable, '=');
    ASSERT(equals);
    bool exported = mock_strings_value(&process->env, variable, (size_t)(equals - variable));
    bool put = mock_strings_put(exported ? &process->env : &process->shell->variables, variable);
    if (!put) {
        mock_process_fail(process, ENOMEM, "variable");
    }
}

static uint32_t run_export(struct builtin *call) {
    builtin_check(call);
    struct mock_process *process = call->process;
    for (uint32_t i = 1; i < call->count && i < BUILTIN_ARGV_COUNT_MAX; i++) {
        const char *text = call->argv[i];
        size_t size = strcspn(text, "=");
        const char *value = mock_strings_value(&process->shell->variables, text, size);
        struct mock_bytes variable = mock_bytes_init(process->host);
        bool added = mock_bytes_append(&variable, text, size);
        if (text[size] == '=') {
            value = text + size + 1;
        }
        if (value) {
            added = added && mock_bytes_append(&variable, "=", 1) &&
                    mock_bytes_append(&variable, value, strlen(value) + 1);
            mock_strings_remove(&process->shell->variables, text, size);
            added = added && mock_strings_put(&process->env, (const char *)variable.data);
        }
        mock_bytes_deinit(&variable);
        if (!added) {
            return 1;
        }
    }
    return 0;
}

static uint32_t run_unset(struct builtin *call) {
    builtin_check(call);
    for (uint32_t i = 1; i < call->count && i < BUILTIN_ARGV_COUNT_MAX; i++) {
        const char *name = call->argv[i];
        mock_strings_remove(&call->process->shell->variables, name, strlen(name));
        mock_strings_remove(&call->process->env, name, strlen(name));
    }
    return 0;
}

/* ---- Processes -------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    uint32_t number;
} signals[] = {
    {"HUP", SIGHUP},   {"INT", SIGINT},   {"QUIT", SIGQUIT}, {"KILL", SIGKILL},
    {"USR1", SIGUSR1}, {"USR2", SIGUSR2}, {"PIPE", SIGPIPE}, {"ALRM", SIGALRM},
    {"TERM", SIGTERM}, {"CONT", SIGCONT}, {"STOP", SIGSTOP}, {"TSTP", SIGTSTP},
};

/* A signal by number or name, with or without SIG. 0: none of that name. */
static uint32_t signal_parse(const char *text) {
    ASSERT(text);
    int64_t number = 0;
    if (mock_number_parse(text, &number)) {
        return number >= 1 && number <= SIGNAL_NUMBER_MAX ? (uint32_t)number : 0;
    }
    text += strncmp(text, "SIG", 3) == 0 ? 3 : 0;
    for (size_t i = 0; i < ARRAY_SIZE(signals); i++) {
        if (strcmp(signals[i].name, text) == 0) {
            return signals[i].number;
        }
    }
    return 0;
}

/* trap '' SIGNAL… and trap - SIGNAL…; handlers are not there. */
static uint32_t run_trap(struct builtin *call) {
    builtin_check(call);
    struct mock_process *process = call->process;
    bool ignores = call->count > 1 && call->argv[1][0] == '\0';
    bool resets = call->count > 1 && strcmp(call->argv[1], "-") == 0;
    if (!ignores && !resets) {
        mock_process_print(process, MOCK_ERR, "sh: trap: handlers are not supported\n");
        return 2;
    }
    for (uint32_t i = 2; i < call->count && i < BUILTIN_ARGV_COUNT_MAX; i++) {
        uint32_t number = signal_parse(call->argv[i]);
        if (number == 0) {
            mock_process_print(process, MOCK_ERR, "sh: trap: bad signal\n");
            return 1;
        }
        uint64_t bit = 1ull << (number - 1);
        process->ignored = ignores ? process->ignored | bit : process->ignored & ~bit;
    }
    return 0;
}

/* Any process of the guest by its pid, or NULL. */
static struct mock_process *process_of(struct mock_guest *guest, int64_t pid) {
    mock_guest_check(guest);
    for (size_t i = 0; i < guest->session_count; i++) {
        for (size_t j = 0; j < MOCK_PROCESS_COUNT_MAX; j++) {
            struct mock_process *process = guest->sessions[i]->processes[j];
            if (process && !process->ended && process->pid == pid) {
                return process;
            }
        }
    }
    return NULL;
}

/* kill [-SIGNAL] PID… */
static uint32_t run_kill(struct builtin *call) {
    builtin_check(call);
    struct mock_process *process = call->process;
    bool has_signal = call->count > 1 && call->argv[1][0] == '-';
    bool asks = has_signal && strcmp(call->argv[1], "-0") == 0;
    uint32_t number = has_signal ? signal_parse(call->argv[1] + 1) : SIGTERM;
    uint32_t first = has_signal ? 2 : 1;
    if ((number == 0 && !asks) || first >= call->count) {
        mock_process_print(process, MOCK_ERR, "sh: kill: usage: kill [-SIGNAL] PID\n");
        return 2;
    }
    uint32_t status = 0;
    for (uint32_t i = first; i < call->count && i < BUILTIN_ARGV_COUNT_MAX; i++) {
        int64_t pid = 0;
        bool valid = mock_number_parse(call->argv[i], &pid);
        struct mock_process *target = valid ? process_of(process->session->guest, pid) : NULL;
        if (!target) {
            mock_process_print(process, MOCK_ERR, "sh: can't kill pid %s: No such process\n",
                               call->argv[i]);
            status = 1;
        } else if (!asks) {
            mock_process_signal(target, number);
        }
    }
    return status;
}

/* ---- The rest --------------------------------------------------------------------------------- */

static uint32_t run_cd(struct builtin *call) {
    builtin_check(call);
    struct mock_process *process = call->process;
    const char *name = call->count > 1 ? call->argv[1] : "/root";
    char path[MOCK_PATH_SIZE_MAX + 1];
    struct mock_file *file = NULL;
    int failure = mock_path_resolve(process->folder, name, path)
                      ? mock_files_lookup(&process->session->guest->files, path, &file)
                      : ENAMETOOLONG;
    failure = failure == 0 && file->type != MOCK_FILE_FOLDER ? ENOTDIR : failure;
    char *folder = failure == 0 ? host_duplicate(process->host, path, NULL) : NULL;
    if (!folder) {
        mock_process_print(process, MOCK_ERR, "sh: cd: can't cd to %s: %s\n", name,
                           strerror(failure != 0 ? failure : ENOMEM));
        return 2;
    }
    free(process->folder);
    process->folder = folder;
    return 0;
}

static uint32_t run_exit(struct builtin *call) {
    builtin_check(call);
    struct mock_process *process = call->process;
    int64_t code = process->shell->status;
    if (call->count > 1 && !mock_number_parse(call->argv[1], &code)) {
        mock_process_print(process, MOCK_ERR, "sh: exit: bad number\n");
        code = 2;
    }
    mock_process_exit(process, (uint32_t)code);
    return process->exit_code;
}

static uint32_t run_nothing(struct builtin *call) {
    builtin_check(call);
    return strcmp(call->argv[0], "false") == 0 ? 1 : 0;
}

static uint32_t run_test(struct builtin *call) {
    builtin_check(call);
    uint32_t count = call->count < BUILTIN_ARGV_COUNT_MAX ? call->count : BUILTIN_ARGV_COUNT_MAX;
    return mock_program_test(call->process, call->argv, count);
}

static uint32_t run_loop(struct builtin *call) {
    builtin_check(call);
    bool found = mock_shell_break(call->process, strcmp(call->argv[0], "continue") == 0);
    return found ? 0 : 2;
}

static uint32_t run_wait(struct builtin *call) {
    builtin_check(call);
    call->process->shell->waits = mock_process_has_background(call->process);
    return 0;
}

static uint32_t run_ulimit(struct builtin *call) {
    builtin_check(call);
    struct mock_process *process = call->process;
    if (call->count != 2 || strcmp(call->argv[1], "-n") != 0) {
        mock_process_print(process, MOCK_ERR, "sh: ulimit: only -n is known\n");
        return 2;
    }
    mock_process_print(process, call->command->targets[MOCK_OUT].stream, "%" PRIu64 "\n",
                       process->session->rlimit_nofile);
    return 0;
}

static const struct {
    const char *name;
    uint32_t (*run)(struct builtin *call);
} builtins[] = {
    {":", run_nothing},     {"true", run_nothing}, {"false", run_nothing}, {"[", run_test},
    {"test", run_test},     {"cd", run_cd},        {"exit", run_exit},     {"export", run_export},
    {"unset", run_unset},   {"trap", run_trap},    {"kill", run_kill},     {"break", run_loop},
    {"continue", run_loop}, {"wait", run_wait},    {"ulimit", run_ulimit},
};

/* `exec`: the words behind it run, and the shell ends as they do. */
static void run_exec(struct mock_process *process, const struct mock_command *command) {
    mock_process_check(process);
    ASSERT(command);
    struct mock_command rest = *command;
    size_t cursor = 0;
    mock_strings_next(&command->words, &cursor);
    if (command->words.count == 1) {
        process->shell->status = 0;
        return;
    }
    rest.words.bytes.data += cursor;
    rest.words.bytes.size -= cursor;
    rest.words.count--;
    rest.behind = MOCK_SHELL_THEN;
    process->shell->replaced = true;
    mock_shell_run_child(process, &rest);
}

bool mock_shell_builtin(struct mock_process *process, const struct mock_command *command) {
    mock_process_check(process);
    ASSERT(command);
    struct builtin call = {.process = process, .command = command, .count = command->words.count};
    size_t cursor = 0;
    for (uint32_t i = 0; i < BUILTIN_ARGV_COUNT_MAX && i < call.count; i++) {
        call.argv[i] = mock_strings_next(&command->words, &cursor);
    }
    ASSERT(call.argv[0]);
    if (strcmp(call.argv[0], "exec") == 0) {
        run_exec(process, command);
        return true;
    }
    for (size_t i = 0; i < ARRAY_SIZE(builtins); i++) {
        if (strcmp(builtins[i].name, call.argv[0]) == 0) {
            process->shell->status = builtins[i].run(&call);
            return true;
        }
    }
    return false;
}
