/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "command.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <regex.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"

#define AWAIT_MS_MAX 10000
#define ENVIRONMENT_COUNT_MAX 512

/* What came out of one descriptor. */
struct capture {
    int fd; /* -1: it has ended */
    char *data;
    size_t size;
};

struct command {
    pid_t pid;
    char folder[64];
    struct capture out;
    struct capture err;
    int input; /* -1: closed */
    const char *input_data;
    size_t input_left;
    bool input_open;
    bool on_terminal;
    bool counts_processes;
    long long start_ms;
};

static long long now_ms(void) {
    struct timespec now;
    int result = clock_gettime(CLOCK_MONOTONIC, &now);
    ASSERT(result == 0);
    return now.tv_sec * 1000ll + now.tv_nsec / 1000000;
}

/* ---- Scratch ---------------------------------------------------------------------------------- */

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *walk) {
    (void)info;
    (void)type;
    (void)walk;
    return remove(path);
}

static void remove_tree(const char *path) {
    (void)nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static char *scratch_folder(void) {
    static char folder[64]; /* of this test program; tests are one program, one thread */
    return folder;
}

static void remove_scratch(void) {
    remove_tree(scratch_folder());
}

const char *command_scratch(const char *name, char path[COMMAND_PATH_SIZE]) {
    char *folder = scratch_folder();
    if (folder[0] == 0) {
        snprintf(folder, 64, "/tmp/kelpie-e2e-XXXXXX");
        char *made = mkdtemp(folder);
        ASSERT(made);
        atexit(remove_scratch);
    }
    snprintf(path, COMMAND_PATH_SIZE, "%s/%s", folder, name);
    return path;
}

/* The first name in the folder; none: empty. */
static void first_entry(const char *path, char *name, size_t size) {
    DIR *folder = opendir(path);
    ASSERT(folder);
    name[0] = 0;
    for (struct dirent *entry = readdir(folder); entry; entry = readdir(folder)) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            snprintf(name, size, "%s", entry->d_name);
        }
    }
    closedir(folder);
}

/* ---- Starting --------------------------------------------------------------------------------- */

/* build/tests/e2e/x_test stands two folders below build/kelpie. */
static void kelpie_path(char *path, size_t size) {
    char self[256];
    ssize_t count = readlink("/proc/self/exe", self, sizeof(self) - 1);
    ASSERT(count > 0);
    self[count] = 0;
    for (int i = 0; i < 3; i++) {
        char *slash = strrchr(self, '/');
        ASSERT(slash);
        *slash = 0;
    }
    snprintf(path, size, "%s/kelpie", self);
}

/* What we set ourselves. */
static bool is_ours(const char *variable) {
    static const char *const names[] = {
        "TMPDIR=", "XDG_RUNTIME_DIR=", "KELPIE_PROGRAM=", "XDG_STATE_HOME=", "XDG_DATA_HOME="};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        if (strncmp(variable, names[i], strlen(names[i])) == 0) {
            return true;
        }
    }
    return false;
}

static char **make_environment(const struct command *command, const struct command_spec *spec) {
    static char values[5][320];
    static char *result[ENVIRONMENT_COUNT_MAX + 8];
    const char *home = spec->home ? spec->home : command->folder;
    size_t count = 0;
    for (char **variable = environ; *variable && count < ENVIRONMENT_COUNT_MAX; variable++) {
        if (!is_ours(*variable)) {
            result[count++] = *variable;
        }
    }
    char path[256];
    kelpie_path(path, sizeof(path));
    snprintf(values[0], sizeof(values[0]), "TMPDIR=%s", command->folder);
    snprintf(values[1], sizeof(values[1]), "XDG_RUNTIME_DIR=%s", home);
    snprintf(values[2], sizeof(values[2]), "KELPIE_PROGRAM=%s", path);
    snprintf(values[3], sizeof(values[3]), "XDG_STATE_HOME=%s", home);
    snprintf(values[4], sizeof(values[4]), "XDG_DATA_HOME=%s", home);
    for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
        result[count++] = values[i];
    }
    if (spec->on_terminal && !getenv("TERM")) {
        result[count++] = (char *)(uintptr_t) "TERM=xterm";
    }
    if (spec->environment) {
        result[count++] = (char *)(uintptr_t)spec->environment;
    }
    result[count] = NULL;
    return result;
}

/* Where the child's 0, 1 and 2 lead, and our ends. */
struct ends {
    int ours[3];
    int theirs[3];
    char terminal[64]; /* or empty */
};

static void make_pipes(struct ends *ends) {
    for (int i = 0; i < 3; i++) {
        int fds[2];
        int result = pipe2(fds, O_CLOEXEC);
        ASSERT(result == 0);
        ends->ours[i] = fds[i == 0 ? 1 : 0];
        ends->theirs[i] = fds[i == 0 ? 0 : 1];
    }
}

static void make_terminal(struct ends *ends) {
    int fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    ASSERT(fd >= 0);
    int result = grantpt(fd);
    ASSERT(result == 0);
    result = unlockpt(fd);
    ASSERT(result == 0);
    result = ptsname_r(fd, ends->terminal, sizeof(ends->terminal));
    ASSERT(result == 0);
    struct winsize size = {.ws_row = 24, .ws_col = 80};
    result = ioctl(fd, TIOCSWINSZ, &size);
    ASSERT(result == 0);
    /* Kept open by us too, or it is hung up between the child's end and our last look at it. */
    ends->ours[0] = open(ends->terminal, O_RDWR | O_NOCTTY | O_CLOEXEC);
    ASSERT(ends->ours[0] >= 0);
    ends->ours[1] = fd;
    ends->ours[2] = -1;
}

static void spawn(struct command *command, const struct command_spec *spec, struct ends *ends) {
    char path[300];
    kelpie_path(path, sizeof(path));
    bool is_kelpie = strcmp(spec->argv[0], "kelpie") == 0;
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    posix_spawn_file_actions_addchdir_np(&actions, command->folder);
    for (int fd = 0; fd < 3; fd++) {
        if (ends->terminal[0]) {
            posix_spawn_file_actions_addopen(&actions, fd, ends->terminal, O_RDWR, 0);
        } else {
            posix_spawn_file_actions_adddup2(&actions, ends->theirs[fd], fd);
        }
    }
    /* A session of its own, so that the terminal it opens is its own; signals as after a login. */
    sigset_t none;
    sigset_t all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    posix_spawnattr_setflags(&attributes,
                             POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    int result =
        posix_spawnp(&command->pid, is_kelpie ? path : spec->argv[0], &actions, &attributes,
                     (char *const *)(uintptr_t)spec->argv, make_environment(command, spec));
    ASSERT(result == 0);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
}

struct command *command_start(const struct command_spec *spec) {
    struct command *command = calloc(1, sizeof(*command));
    ASSERT(command);
    snprintf(command->folder, sizeof(command->folder), "/tmp/kelpie-test-XXXXXX");
    char *made = mkdtemp(command->folder);
    ASSERT(made);
    signal(SIGPIPE, SIG_IGN);
    int result = prctl(PR_SET_CHILD_SUBREAPER, 1);
    ASSERT(result == 0);
    struct ends ends = {.theirs = {-1, -1, -1}};
    if (spec->on_terminal) {
        make_terminal(&ends);
    } else {
        make_pipes(&ends);
    }
    command->start_ms = now_ms();
    spawn(command, spec, &ends);
    for (int i = 0; i < 3; i++) {
        if (ends.theirs[i] >= 0) {
            close(ends.theirs[i]);
        }
    }
    command->input = ends.ours[0];
    command->out.fd = ends.ours[1];
    command->err.fd = ends.ours[2];
    command->input_data = spec->input;
    command->input_left = spec->input_size      ? spec->input_size
                          : spec->input != NULL ? strlen(spec->input)
                                                : 0;
    command->input_open = spec->input_open;
    command->on_terminal = spec->on_terminal;
    command->counts_processes = !spec->home;
    return command;
}

/* ---- Running ---------------------------------------------------------------------------------- */

static void capture_read(struct capture *capture) {
    char *data = realloc(capture->data, capture->size + 65536 + 1);
    ASSERT(data);
    capture->data = data;
    ssize_t count = read(capture->fd, data + capture->size, 65536);
    if (count > 0) {
        capture->size += (size_t)count;
        data[capture->size] = 0;
        ASSERT(capture->size < COMMAND_OUTPUT_BYTES_MAX);
    } else {
        data[capture->size] = 0;
        close(capture->fd);
        capture->fd = -1;
    }
}

static void feed(struct command *command) {
    size_t size = command->input_left < 4096 ? command->input_left : 4096;
    ssize_t count = size > 0 ? write(command->input, command->input_data, size) : 0;
    if (count > 0) {
        command->input_data += count;
        command->input_left -= (size_t)count;
    }
    bool over = command->input_left == 0 && !command->input_open && !command->on_terminal;
    if (count < 0 || over) {
        close(command->input);
        command->input = -1;
    }
}

/* Moves what there is to move, waiting at most wait_ms. */
static void step(struct command *command, int wait_ms) {
    bool feeding = command->input >= 0 && !command->on_terminal &&
                   (command->input_left > 0 || !command->input_open);
    struct pollfd items[] = {{.fd = command->out.fd, .events = POLLIN},
                             {.fd = command->err.fd, .events = POLLIN},
                             {.fd = feeding ? command->input : -1, .events = POLLOUT}};
    (void)poll(items, ARRAY_SIZE(items), wait_ms);
    if (items[0].revents) {
        capture_read(&command->out);
    }
    if (items[1].revents) {
        capture_read(&command->err);
    }
    if (items[2].revents) {
        feed(command);
    }
}

bool command_await(struct command *command, const char *text) {
    long long deadline_ms = now_ms() + AWAIT_MS_MAX;
    while (now_ms() < deadline_ms) {
        if (command->out.data && memmem(command->out.data, command->out.size, text, strlen(text))) {
            return true;
        }
        if (command->out.fd < 0) {
            return false;
        }
        step(command, 50);
    }
    return false;
}

bool command_await_end(struct command *command, unsigned milliseconds) {
    long long deadline_ms = now_ms() + milliseconds;
    while (now_ms() < deadline_ms) {
        siginfo_t info = {0};
        int result = waitid(P_PID, (id_t)command->pid, &info, WEXITED | WNOHANG | WNOWAIT);
        ASSERT(result == 0);
        if (info.si_pid == command->pid) {
            return true;
        }
        struct timespec pause = {.tv_nsec = 5000000};
        nanosleep(&pause, NULL);
    }
    return false;
}

void command_signal(struct command *command, int number) {
    int result = kill(command->pid, number);
    ASSERT(result == 0);
}

void command_type(struct command *command, const char *keys) {
    ASSERT(command->on_terminal);
    ssize_t count = write(command->out.fd, keys, strlen(keys));
    ASSERT(count == (ssize_t)strlen(keys));
}

void command_resize(struct command *command, unsigned short rows, unsigned short columns) {
    ASSERT(command->on_terminal);
    struct winsize size = {.ws_row = rows, .ws_col = columns};
    int result = ioctl(command->out.fd, TIOCSWINSZ, &size);
    ASSERT(result == 0);
}

unsigned command_terminal_modes(struct command *command) {
    ASSERT(command->on_terminal);
    struct termios modes;
    int result = tcgetattr(command->input, &modes);
    ASSERT(result == 0);
    return modes.c_lflag;
}

void command_close_output(struct command *command) {
    close(command->out.fd);
    command->out.fd = -1;
}

const char *command_folder(const struct command *command) {
    return command->folder;
}

/* ---- Ending ----------------------------------------------------------------------------------- */

static int await_end(struct command *command) {
    long long deadline_ms = command->start_ms + COMMAND_SECONDS_MAX * 1000ll;
    int status = 0;
    while (waitpid(command->pid, &status, WNOHANG) == 0) {
        if (now_ms() > deadline_ms) {
            kill(command->pid, SIGKILL);
        }
        step(command, 5);
    }
    return status;
}

/* What outlived the command became our child. Its own guards may need a moment to end it. */
static unsigned count_left(void) {
    long long deadline_ms = now_ms() + 1000;
    for (;;) {
        pid_t reaped = waitpid(-1, NULL, WNOHANG);
        if (reaped < 0 && errno == ECHILD) {
            return 0;
        }
        if (reaped == 0 && now_ms() > deadline_ms) {
            return 1;
        }
        if (reaped == 0) {
            struct timespec pause = {.tv_nsec = 5000000};
            nanosleep(&pause, NULL);
        }
    }
}

struct command_result command_finish(struct command *command) {
    int status = await_end(command);
    struct command_result result = {.milliseconds = (unsigned)(now_ms() - command->start_ms)};
    result.processes_left = command->counts_processes ? count_left() : 0;
    /* A terminal that we hold open never ends: what is there now is all. */
    if (command->on_terminal) {
        step(command, 50);
        result.modes = command_terminal_modes(command);
        result.modes_checked = true;
    }
    while (!command->on_terminal && (command->out.fd >= 0 || command->err.fd >= 0)) {
        step(command, 1000);
    }
    for (int i = 0; i < 3; i++) {
        int *fd = i == 0 ? &command->input : i == 1 ? &command->out.fd : &command->err.fd;
        if (*fd >= 0) {
            close(*fd);
        }
    }
    result.signaled = WIFSIGNALED(status);
    result.code = result.signaled ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    result.out = command->out.data ? command->out.data : calloc(1, 1);
    result.out_size = command->out.size;
    result.err = command->err.data ? command->err.data : calloc(1, 1);
    result.err_size = command->err.size;
    first_entry(command->folder, result.files_left, sizeof(result.files_left));
    remove_tree(command->folder);
    free(command);
    return result;
}

struct command_result command_run(const struct command_spec *spec) {
    return command_finish(command_start(spec));
}

void command_result_free(struct command_result *result) {
    free(result->out);
    free(result->err);
    *result = (struct command_result){0};
}

bool command_matches(const char *text, const char *pattern) {
    regex_t regex;
    int result = regcomp(&regex, pattern, REG_EXTENDED | REG_NOSUB);
    ASSERT(result == 0);
    result = regexec(&regex, text, 0, NULL, 0);
    regfree(&regex);
    return result == 0;
}
