/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "sim/run/child.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"

#define READ_SIZE 16384

#if defined(KELPIE_COVERAGE)
void __gcov_dump(void); /* what was counted goes to its files (gcc manual, "gcov") */
#endif

void tail_add(struct tail *tail, const char *text, size_t size) {
    ASSERT(tail && tail->size <= TAIL_SIZE);
    ASSERT(text || size == 0);
    if (size > TAIL_SIZE) {
        text += size - TAIL_SIZE;
        size = TAIL_SIZE;
    }
    if (size > TAIL_SIZE - tail->size) {
        /* Half at a time, so that not every line moves all of it. */
        size_t kept = TAIL_SIZE - size < TAIL_SIZE / 2 ? TAIL_SIZE - size : TAIL_SIZE / 2;
        kept = kept < tail->size ? kept : tail->size;
        memmove(tail->text, tail->text + tail->size - kept, kept);
        tail->size = kept;
    }
    for (size_t i = 0; i < size; i++) {
        tail->text[tail->size + i] = text[i] ? text[i] : '?';
    }
    tail->size += size;
    tail->text[tail->size] = '\0';
    ASSERT(tail->size <= TAIL_SIZE);
}

static _Noreturn void in_child(child_body *body, void *context, int data_fd, int words_fd) {
    static const struct rlimit no_core = {0, 0};
    ASSERT(data_fd >= 0);
    ASSERT(words_fd >= 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setrlimit(RLIMIT_CORE, &no_core);
    dup2(words_fd, STDERR_FILENO);
    body(context, data_fd);
    fflush(NULL);
#if defined(KELPIE_COVERAGE)
    __gcov_dump(); /* _exit() does not */
#endif
    _exit(0);
}

bool child_start(struct child *child, child_body *body, void *context) {
    int data[2] = {-1, -1};
    int words[2] = {-1, -1};
    ASSERT(child);
    ASSERT(body);
    /* What is buffered would be written by both. */
    fflush(NULL);
    *child = (struct child){.pid = 0, .data_fd = -1, .words_fd = -1};
    if (pipe2(data, O_CLOEXEC) == 0 && pipe2(words, O_CLOEXEC) == 0) {
        child->pid = fork();
    } else {
        child->pid = -1;
    }
    if (child->pid == 0) {
        close(data[0]);
        close(words[0]);
        in_child(body, context, data[1], words[1]);
    }
    int os_error = errno;
    bool started = child->pid > 0;
    child->pid = started ? child->pid : 0;
    child->data_fd = data[0];
    child->words_fd = words[0];
    int closed[] = {data[1], words[1], started ? -1 : data[0], started ? -1 : words[0]};
    for (size_t i = 0; i < ARRAY_SIZE(closed); i++) {
        if (closed[i] >= 0) {
            close(closed[i]);
        }
    }
    errno = os_error;
    return started;
}

void child_read_tail(int *fd, struct tail *tail) {
    char text[READ_SIZE];
    ASSERT(fd && *fd >= 0);
    ASSERT(tail);
    ssize_t count = read(*fd, text, sizeof(text));
    if (count > 0) {
        tail_add(tail, text, (size_t)count);
    } else if (count == 0 || errno != EINTR) {
        close(*fd);
        *fd = -1;
    }
}

void child_kill(struct child *child) {
    ASSERT(child);
    ASSERT(child->pid > 0);
    kill(child->pid, SIGKILL);
}

int child_end(struct child *child) {
    int wait_status = 0;
    ASSERT(child);
    ASSERT(child->pid > 0);
    while (child->words_fd >= 0) {
        child_read_tail(&child->words_fd, &child->words);
    }
    if (child->data_fd >= 0) {
        close(child->data_fd);
        child->data_fd = -1;
    }
    pid_t waited;
    do {
        waited = waitpid(child->pid, &wait_status, 0);
    } while (waited < 0 && errno == EINTR);
    ASSERT(waited == child->pid);
    child->pid = 0;
    return wait_status;
}

uint64_t child_clock_ns(void) {
    struct timespec now = {0, 0};
    int failed = clock_gettime(CLOCK_MONOTONIC, &now);
    ASSERT(failed == 0);
    ASSERT(now.tv_sec >= 0);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}
