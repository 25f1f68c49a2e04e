/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * kelpie-krun: the process that libkrun takes over, started by src/backend/libkrun/ (control.h). libkrun is loaded here and
 * nowhere else, so that one that is broken, or of another version, ends this process and not its owner's.
 *
 * The guest's console is a terminal of this process's own, since libkrun 1.x wants one. Its other end is sent to the owner, so
 * that what a guest says last is there when this process is gone: libkrun ends it by _exit(), without a word to us.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/error.h"
#include "krun/confine.h"
#include "krun/control.h"
#include "krun/machine.h"

/* ---- Saying ----------------------------------------------------------------------------------- */

/* passed_fd -1: none. An owner that is gone is noticed by the kernel: this process dies with it. */
static void say(const struct krun_message *message, int passed_fd) {
    char line[KRUN_LINE_SIZE_MAX + 1];
    size_t size = krun_message_encode(message, line, sizeof(line));
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } space = {0};
    struct iovec part = {.iov_base = line, .iov_len = size};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
    ASSERT(size > 0);
    ASSERT(passed_fd >= -1);
    if (passed_fd >= 0) {
        header.msg_control = space.bytes;
        header.msg_controllen = sizeof(space.bytes);
        struct cmsghdr *control = CMSG_FIRSTHDR(&header);
        control->cmsg_level = SOL_SOCKET;
        control->cmsg_type = SCM_RIGHTS;
        control->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(control), &passed_fd, sizeof(passed_fd));
    }
    while (sendmsg(KRUN_CHILD_CONTROL, &header, MSG_NOSIGNAL) < 0 && errno == EINTR) {
    }
}

static void say_failed(enum kelpie_status status, const struct kelpie_error *err) {
    ASSERT(status != KELPIE_OK);
    ASSERT(err->message[0] != '\0');
    say(&(struct krun_message){.word = KRUN_WORD_FAILED, .status = status, .text = err->message},
        -1);
}

static void say_found(const struct krun_library *library) {
    ASSERT(library->abi > 0);
    ASSERT(library->path[0] != '\0');
    say(&(struct krun_message){.word = KRUN_WORD_FOUND,
                               .abi = library->abi,
                               .can = library->can,
                               .version = library->version,
                               .library = library->path,
                               .kernel = library->kernel_path},
        -1);
}

/* ---- The console ------------------------------------------------------------------------------ */

/* Makes a terminal that changes nothing of what goes through it, and sends its other end to the owner. */
static enum kelpie_status make_terminal(int *ret_fd, struct kelpie_error *err) {
    char name[64];
    struct termios settings;
    ASSERT(ret_fd);
    int owner_fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (owner_fd < 0 || grantpt(owner_fd) != 0 || unlockpt(owner_fd) != 0 ||
        ptsname_r(owner_fd, name, sizeof(name)) != 0) {
        return error_set_os(err, errno, "cannot make a terminal for the console (/dev/ptmx)");
    }
    int fd = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (fd < 0 || tcgetattr(fd, &settings) != 0) {
        return error_set_os(err, errno, "cannot open the console's terminal %s", name);
    }
    cfmakeraw(&settings);
    if (tcsetattr(fd, TCSANOW, &settings) != 0) {
        return error_set_os(err, errno, "cannot set up the console's terminal");
    }
    ASSERT(fd > STDERR_FILENO);
    say(&(struct krun_message){.word = KRUN_WORD_CONSOLE}, owner_fd);
    close(owner_fd); /* of a failure: the process ends */
    *ret_fd = fd;
    return KELPIE_OK;
}

/* ---- Orders while it runs --------------------------------------------------------------------- */

/* Reads a line, without its newline. False: the owner is gone, or says what no line is. */
static bool read_line(char *line, size_t size) {
    size_t used = 0;
    ASSERT(line);
    ASSERT(size > 1);
    while (used < size) {
        ssize_t count = read(KRUN_CHILD_CONTROL, line + used, 1);
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count <= 0) {
            return false;
        }
        if (line[used] == '\n') {
            line[used] = '\0';
            return true;
        }
        used++;
    }
    return false;
}

/* The thread beside libkrun. */
static void *obey(void *argument) {
    struct krun_machine *machine = argument;
    struct kelpie_error err;
    char line[16];
    ASSERT(machine);
    ASSERT(machine->library);
    while (read_line(line, sizeof(line))) {
        bool pause = strcmp(line, "pause") == 0;
        enum kelpie_status status =
            pause || strcmp(line, "resume") == 0
                ? krun_machine_pause(machine, pause, &err)
                : error_set(&err, KELPIE_INTERNAL, "there is no order %s", line);
        if (status == KELPIE_OK) {
            say(&(struct krun_message){.word = KRUN_WORD_DONE}, -1);
        } else {
            say_failed(status, &err);
        }
    }
    return NULL;
}

/* ---- Main ------------------------------------------------------------------------------------- */

static enum kelpie_status run(struct krun_machine *machine, const struct krun_library *library,
                              const struct krun_order *order, struct kelpie_error *err) {
    int terminal_fd = -1;
    pthread_t thread;
    ASSERT(machine && library);
    ASSERT(order->verb == KRUN_VERB_RUN);
    TRY(make_terminal(&terminal_fd, err));
    TRY(krun_confine(order, err));
    TRY(krun_machine_make(machine, library, order, terminal_fd, err));
    if (machine->handle) {
        int os_error = pthread_create(&thread, NULL, obey, machine);
        if (os_error != 0) {
            return error_set_os(err, os_error, "cannot start a thread");
        }
    }
    say(&(struct krun_message){.word = KRUN_WORD_ENTERING}, -1);
    enum kelpie_status status = krun_machine_enter(machine, err);
    if (status != KELPIE_OK) {
        fprintf(stderr, "kelpie-krun: %s\n", err->message); /* the owner no longer listens */
    }
    return status;
}

int main(int argc, char **argv) {
    struct krun_library library;
    struct krun_machine machine;
    struct krun_order order;
    struct kelpie_error err = {0};
    ASSERT(argc >= 0);
    ASSERT(argv);
    if (!krun_argv_parse((size_t)argc, (const char *const *)argv, &order)) {
        fprintf(stderr, "kelpie-krun: it is started by kelpie, with a machine to run\n");
        return 2;
    }
    (void)signal(SIGPIPE, SIG_IGN);
    close(KRUN_CHILD_PROGRAM);
    enum kelpie_status status = krun_library_load(&library, order.library, order.kernel, &err);
    if (status == KELPIE_OK) {
        krun_machine_log(&library);
        status = order.verb == KRUN_VERB_PROBE ? krun_machine_try(&library, &err) : KELPIE_OK;
    }
    if (status == KELPIE_OK) {
        say_found(&library);
    }
    if (status == KELPIE_OK && order.verb == KRUN_VERB_RUN) {
        status = run(&machine, &library, &order, &err);
    }
    if (status != KELPIE_OK) {
        say_failed(status, &err);
    }
    /* What somebody else's library wants done at an exit is not done: the owner waits. */
    _exit(status == KELPIE_OK ? 0 : 1);
}
