/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "tmux.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "command.h"

#define WORDS_MAX 24
#define PATH_SIZE 512

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *walk) {
    (void)info;
    (void)type;
    (void)walk;
    return remove(path);
}

static void pause_ms(long ms) {
    struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    nanosleep(&pause, NULL);
}

/* The environment of the shell, and so of kelpie. */
static void set_environment(const struct tmux *tmux) {
    static const char *const names[] = {"XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR",
                                        "TMUX_TMPDIR", "TMPDIR"};
    char path[PATH_SIZE];
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        setenv(names[i], tmux->folder, 1);
    }
    char self[256];
    ssize_t count = readlink("/proc/self/exe", self, sizeof(self) - 1);
    ASSERT(count > 0);
    self[count] = 0;
    for (int i = 0; i < 3;
         i++) { /* build/tests/terminal/x_test stands two folders below build/kelpie */
        *strrchr(self, '/') = 0;
    }
    snprintf(path, sizeof(path), "%s:%s", self, getenv("PATH"));
    setenv("PATH", path, 1);
    snprintf(path, sizeof(path), "%s/kelpie", self);
    setenv("KELPIE_PROGRAM", path, 1);
    setenv("LC_ALL", "C.UTF-8", 1);
    unsetenv("TMUX");
    unsetenv("ENV");
    unsetenv("NO_COLOR");
}

/* Runs tmux with these words; what it prints goes to out[size] (NULL: nowhere). */
static bool run(const struct tmux *tmux, const char *const *words, char *out, size_t size) {
    const char *argv[WORDS_MAX + 6] = {"tmux", "-L", "kelpie-test", "-f", "/dev/null"};
    for (size_t i = 0; words[i]; i++) {
        ASSERT(i < WORDS_MAX);
        argv[5 + i] = words[i];
    }
    int fds[2];
    int result = pipe2(fds, O_CLOEXEC);
    ASSERT(result == 0);
    pid_t pid = fork();
    ASSERT(pid >= 0);
    if (pid == 0) {
        set_environment(tmux);
        dup2(fds[1], STDOUT_FILENO);
        execvp("tmux", (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    close(fds[1]);
    size_t used = 0;
    char scrap[4096];
    for (;;) {
        char *to = out && used + 1 < size ? out + used : scrap;
        ssize_t count = read(fds[0], to, to == scrap ? sizeof(scrap) : size - 1 - used);
        if (count <= 0) {
            break;
        }
        used += to == scrap ? 0 : (size_t)count;
    }
    close(fds[0]);
    if (out) {
        out[used] = 0;
    }
    int status = 0;
    result = waitpid(pid, &status, 0);
    ASSERT(result == pid);
    return status == 0;
}

#define WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})

/* A test that failed did not end its server: that is done when the program ends. */
static struct tmux **live(void) {
    static struct tmux *tmux; /* tests are one program, one thread, and one terminal at a time */
    return &tmux;
}

static void end_live(void) {
    if (*live()) {
        tmux_end(*live());
    }
}

static void left_over(struct tmux *tmux) {
    if (!*live()) {
        atexit(end_live);
    }
    end_live();
    *live() = tmux;
}

static void set_prompt(struct tmux *tmux) {
    tmux_type(tmux, "PS1='" TMUX_PROMPT " '; clear\r");
    (void)tmux_await(tmux, "^" TMUX_PROMPT); /* else the test says so, and what it sees instead */
}

struct tmux *tmux_start(int rows, int columns) {
    struct tmux *tmux = calloc(1, sizeof(*tmux));
    ASSERT(tmux);
    snprintf(tmux->folder, sizeof(tmux->folder), "/tmp/kelpie-tmux-XXXXXX");
    char *made = mkdtemp(tmux->folder);
    ASSERT(made);
    char height[16];
    char width[16];
    snprintf(height, sizeof(height), "%d", rows);
    snprintf(width, sizeof(width), "%d", columns);
    bool started =
        run(tmux, WORDS("new-session", "-d", "-x", width, "-y", height, "exec /bin/sh"), NULL, 0);
    ASSERT(started);
    set_prompt(tmux);
    char pid[32];
    bool told = run(tmux, WORDS("display-message", "-p", "#{pid}"), pid, sizeof(pid));
    ASSERT(told);
    tmux->server = (pid_t)strtol(pid, NULL, 10);
    left_over(tmux);
    ASSERT(tmux->server > 1);
    return tmux;
}

void tmux_end(struct tmux *tmux) {
    ASSERT(*live() == tmux);
    *live() = NULL;
    pid_t pid = fork();
    ASSERT(pid >= 0);
    if (pid == 0) {
        set_environment(tmux);
        int fd = open("/dev/null", O_RDWR);
        dup2(fd, STDERR_FILENO);
        execlp("kelpie", "kelpie", "rm", "-f", "box", (char *)NULL);
        _exit(127);
    }
    (void)waitpid(pid, NULL, 0);
    int result = kill(tmux->server, SIGTERM); /* its shells are hung up */
    ASSERT(result == 0 || errno == ESRCH);
    for (int i = 0; i < 100 && kill(tmux->server, 0) == 0; i++) {
        pause_ms(10);
    }
    (void)nftw(tmux->folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    free(tmux);
}

void tmux_type(struct tmux *tmux, const char *keys) {
    const char *words[WORDS_MAX + 1] = {"send-keys", "-H"};
    char bytes[WORDS_MAX][4];
    size_t left = strlen(keys);
    while (left > 0) {
        size_t count = left < WORDS_MAX - 2 ? left : WORDS_MAX - 2;
        for (size_t i = 0; i < count; i++) {
            snprintf(bytes[i], sizeof(bytes[i]), "%02x", (unsigned char)keys[i]);
            words[2 + i] = bytes[i];
        }
        words[2 + count] = NULL;
        bool typed = run(tmux, words, NULL, 0);
        ASSERT(typed);
        keys += count;
        left -= count;
    }
}

void tmux_resize(struct tmux *tmux, int rows, int columns) {
    char height[16];
    char width[16];
    snprintf(height, sizeof(height), "%d", rows);
    snprintf(width, sizeof(width), "%d", columns);
    bool resized = run(tmux, WORDS("resize-window", "-x", width, "-y", height), NULL, 0);
    ASSERT(resized);
}

void tmux_hang_up(struct tmux *tmux) {
    bool respawned = run(tmux, WORDS("respawn-pane", "-k", "exec /bin/sh"), NULL, 0);
    ASSERT(respawned);
    set_prompt(tmux);
}

const char *tmux_look(struct tmux *tmux, bool history) {
    bool looked = run(tmux, WORDS("capture-pane", "-p", "-S", history ? "-" : "0"), tmux->screen,
                      sizeof(tmux->screen));
    ASSERT(looked);
    return tmux->screen;
}

bool tmux_await(struct tmux *tmux, const char *pattern) {
    for (int waited_ms = 0; waited_ms < TMUX_AWAIT_MS; waited_ms += 50) {
        if (command_matches(tmux_look(tmux, false), pattern)) {
            return true;
        }
        pause_ms(50);
    }
    fprintf(stderr, "\"%s\" is not on the screen:\n%s", pattern, tmux->screen);
    return false;
}
