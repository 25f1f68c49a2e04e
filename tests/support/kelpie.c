/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "kelpie.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"

#define PATH_MAX_HERE 300
#define POLL_NS 5000000
#define WORDS_MAX 64

extern char **environ;

/* Of this test program, which is one process with one thread. */
static struct {
    char folder[64];
    char program[PATH_MAX_HERE];
    char out[KELPIE_TEST_OUTPUT_MAX];
    char err[KELPIE_TEST_OUTPUT_MAX];
} home;

/* build/tests/e2e/x_test stands two folders below build/kelpie. */
const char *kelpie_program(void) {
    ssize_t count = readlink("/proc/self/exe", home.program, sizeof(home.program) - 8);
    ASSERT(count > 0);
    home.program[count] = 0;
    for (int i = 0; i < 3; i++) {
        char *slash = strrchr(home.program, '/');
        ASSERT(slash);
        *slash = 0;
    }
    strcat(home.program, "/kelpie");
    return home.program;
}

static void make_folder(const char *variable, const char *name) {
    char path[PATH_MAX_HERE];
    snprintf(path, sizeof(path), "%s/%s", home.folder, name);
    int result = mkdir(path, 0700);
    ASSERT(result == 0);
    result = setenv(variable, path, 1);
    ASSERT(result == 0);
}

void kelpie_home_create(void) {
    snprintf(home.folder, sizeof(home.folder), "/tmp/kelpie-home-XXXXXX");
    char *made = mkdtemp(home.folder);
    ASSERT(made);
    make_folder("XDG_STATE_HOME", "state");
    make_folder("XDG_DATA_HOME", "data");
    make_folder("XDG_RUNTIME_DIR", "run");
    make_folder("TMPDIR", "tmp");
    unsetenv("KELPIE_PROGRAM");
    int result = chdir(home.folder);
    ASSERT(result == 0);
}

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *walk) {
    (void)info;
    (void)type;
    (void)walk;
    return remove(path);
}

static int count_sockets(void) {
    char path[PATH_MAX_HERE];
    int count = 0;
    snprintf(path, sizeof(path), "%s/run/kelpie", home.folder);
    DIR *folder = opendir(path);
    for (struct dirent *entry = folder ? readdir(folder) : NULL; entry; entry = readdir(folder)) {
        count += strstr(entry->d_name, ".sock") != NULL;
    }
    if (folder) {
        closedir(folder);
    }
    return count;
}

int kelpie_home_remove(void) {
    struct kelpie_result list = kelpie_run(WORDS("ls", "-a", "-q"), NULL);
    const char *words[WORDS_MAX] = {"rm", "-f"};
    size_t count = 2;
    char *names = strdup(list.out);
    ASSERT(names);
    for (char *name = strtok(names, "\n"); name && count + 1 < WORDS_MAX;
         name = strtok(NULL, "\n")) {
        words[count++] = name;
    }
    if (count > 2) {
        (void)kelpie_run(words, NULL);
    }
    free(names);
    int left = count_sockets();
    int result = chdir("/");
    ASSERT(result == 0);
    (void)nftw(home.folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    return left;
}

static void read_file(const char *name, char *text) {
    char path[PATH_MAX_HERE];
    snprintf(path, sizeof(path), "%s/%s", home.folder, name);
    FILE *file = fopen(path, "r");
    ASSERT(file);
    size_t size = fread(text, 1, KELPIE_TEST_OUTPUT_MAX - 1, file);
    text[size] = 0;
    fclose(file);
}

/* Bounded: a command that hangs is killed, and the test fails by its code. */
static int await(pid_t pid) {
    struct timespec start = {0};
    struct timespec now = {0};
    int status = 0;
    clock_gettime(CLOCK_MONOTONIC, &start);
    while (waitpid(pid, &status, WNOHANG) == 0) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (now.tv_sec - start.tv_sec >= KELPIE_TEST_SECONDS_MAX) {
            kill(pid, SIGKILL);
            waitpid(pid, &status, 0);
            return -1;
        }
        nanosleep(&(struct timespec){.tv_nsec = POLL_NS}, NULL);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void write_input(const char *input) {
    FILE *file = fopen("in.txt", "w");
    ASSERT(file);
    if (input) {
        fputs(input, file);
    }
    int result = fclose(file);
    ASSERT(result == 0);
}

/* Output goes to files: who holds a descriptor of theirs, as an owner might by mistake, does not make us wait. */
struct kelpie_result kelpie_run_program(const char *const *argv, const char *input) {
    posix_spawn_file_actions_t actions;
    pid_t pid = 0;
    int result = chdir(home.folder);
    ASSERT(result == 0);
    write_input(input);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "in.txt", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 1, "out.txt", O_WRONLY | O_CREAT | O_TRUNC, 0600);
    posix_spawn_file_actions_addopen(&actions, 2, "err.txt", O_WRONLY | O_CREAT | O_TRUNC, 0600);
    result = posix_spawnp(&pid, argv[0], &actions, NULL, (char *const *)(uintptr_t)argv, environ);
    ASSERT(result == 0);
    posix_spawn_file_actions_destroy(&actions);
    int code = await(pid);
    read_file("out.txt", home.out);
    read_file("err.txt", home.err);
    return (struct kelpie_result){.code = code, .out = home.out, .err = home.err};
}

struct kelpie_result kelpie_run(const char *const *words, const char *input) {
    const char *argv[WORDS_MAX + 2] = {kelpie_program()};
    for (size_t i = 0; words[i]; i++) {
        ASSERT(i < WORDS_MAX);
        argv[i + 1] = words[i];
    }
    return kelpie_run_program(argv, input);
}
