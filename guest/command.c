/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "command.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"
#include "base/assert.h"
#include "process.h"

#define DEFAULT_PATH "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

/* Linux, include/uapi/asm-generic/ioctls.h: opens a terminal's other end without its path. */
#ifndef TIOCGPTPEER
#define TIOCGPTPEER 0x5441
#endif

/* ---- Start -------------------------------------------------------------------------------------- */

/* Our ends of the command's streams, and the command's. */
struct plumbing {
    int ours[3];
    int theirs[3];
};

static void plumbing_close(const int fds[3]) {
    ASSERT(fds[0] != 0);
    ASSERT(fds);
    for (int i = 0; i < 3; i++) {
        bool is_shared = i > 0 && fds[i] == fds[0];
        if (fds[i] >= 0 && !is_shared) {
            close(fds[i]);
        }
    }
}

static enum kelpie_status plumb_pipes(struct agent *agent, bool with_stdin,
                                      struct plumbing *plumbing, struct kelpie_error *err) {
    ASSERT(agent->null_fd >= 0);
    for (int i = 0; i < 3; i++) {
        if (i == 0 && !with_stdin) {
            plumbing->theirs[0] = fcntl(agent->null_fd, F_DUPFD_CLOEXEC, 3);
            if (plumbing->theirs[0] < 0) {
                return error_set_os(err, errno, "open /dev/null");
            }
            continue;
        }
        int fds[2];
        if (pipe2(fds, O_CLOEXEC) != 0) {
            return error_set_os(err, errno, "make a pipe");
        }
        plumbing->theirs[i] = fds[i == 0 ? 0 : 1];
        plumbing->ours[i] = fds[i == 0 ? 1 : 0];
        if (fcntl(plumbing->ours[i], F_SETFL, O_NONBLOCK) != 0) {
            return error_set_os(err, errno, "make a pipe non-blocking");
        }
    }
    ASSERT(plumbing->ours[1] >= 0);
    return KELPIE_OK;
}

static enum kelpie_status plumb_terminal(const struct protocol_exec *exec,
                                         struct plumbing *plumbing, struct kelpie_error *err) {
    ASSERT((exec->flags & PROTOCOL_EXEC_TTY) != 0);
    int unlocked = 0;
    struct winsize window = {
        .ws_row = exec->rows != 0 ? exec->rows : GUEST_ROWS_DEFAULT,
        .ws_col = exec->columns != 0 ? exec->columns : GUEST_COLUMNS_DEFAULT,
    };
    int master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    plumbing->ours[1] = master;
    if (master < 0 || ioctl(master, TIOCSPTLCK, &unlocked) != 0 ||
        ioctl(master, TIOCSWINSZ, &window) != 0) {
        return error_set_os(err, errno, "open a terminal");
    }
    int slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (slave < 0) {
        return error_set_os(err, errno, "open the terminal's other end");
    }
    ASSERT(slave > 2);
    for (int i = 0; i < 3; i++) {
        plumbing->theirs[i] = slave;
    }
    plumbing->ours[0] = fcntl(master, F_DUPFD_CLOEXEC, 3);
    return plumbing->ours[0] < 0 ? error_set_os(err, errno, "duplicate the terminal") : KELPIE_OK;
}

/* The value of `key` (with its '=') in the command's environment, or NULL. */
static const char *env_find(char *const *env, const char *key) {
    ASSERT(env);
    ASSERT(key[0] != 0);
    size_t size = strlen(key);
    for (size_t i = 0; env[i]; i++) {
        if (strncmp(env[i], key, size) == 0) {
            return env[i] + size;
        }
    }
    return NULL;
}

/* argv and env as execve() wants them: they point into the message. */
static void point_at_strings(struct agent *agent, const struct protocol_exec *exec) {
    ASSERT(exec->argv_count < ARRAY_SIZE(agent->argv));
    ASSERT(exec->env_count + 3 < ARRAY_SIZE(agent->env));
    const char *cursor = exec->argv;
    for (uint32_t i = 0; i < exec->argv_count; i++) {
        agent->argv[i] = (char *)protocol_strings_next(&cursor, exec->argv + exec->argv_size);
    }
    agent->argv[exec->argv_count] = NULL;
    cursor = exec->env;
    size_t count = 0;
    for (; count < exec->env_count; count++) {
        agent->env[count] = (char *)protocol_strings_next(&cursor, exec->env + exec->env_size);
    }
    agent->env[count] = NULL;
    static const char *const defaults[] = {DEFAULT_PATH, "HOME=/root", "TERM=xterm"};
    for (size_t i = 0; i < ARRAY_SIZE(defaults); i++) {
        bool is_term = i == 2;
        char key[8] = {0};
        memcpy(key, defaults[i], 5);
        if ((!is_term || (exec->flags & PROTOCOL_EXEC_TTY) != 0) && !env_find(agent->env, key)) {
            agent->env[count++] =
                (char *)(is_term || i == 0 || exec->uid == 0 ? defaults[i] : "HOME=/");
            agent->env[count] = NULL;
        }
    }
}

static enum kelpie_status start(struct agent *agent, struct session *session,
                                const struct protocol_exec *exec, struct plumbing *plumbing,
                                struct kelpie_error *err) {
    ASSERT(session->kind == SESSION_COMMAND);
    if ((exec->flags & PROTOCOL_EXEC_TTY) != 0) {
        TRY(plumb_terminal(exec, plumbing, err));
    } else {
        TRY(plumb_pipes(agent, (exec->flags & PROTOCOL_EXEC_STDIN) != 0, plumbing, err));
    }
    TRY(cgroup_take(&agent->cgroups, &session->cgroup, err));
    point_at_strings(agent, exec);
    struct process_spec spec = {
        .argv = agent->argv,
        .env = agent->env,
        .search_path = env_find(agent->env, "PATH="),
        .root = agent->root_is_disk ? AGENT_ROOT_DIR : NULL,
        .working_dir = exec->working_dir,
        .uid = exec->uid,
        .gid = exec->gid,
        .rlimits = exec->rlimits,
        .rlimit_count = exec->rlimit_count,
        .fds = {plumbing->theirs[0], plumbing->theirs[1], plumbing->theirs[2]},
        .tty = (exec->flags & PROTOCOL_EXEC_TTY) != 0,
        .cgroup_fd = session->cgroup.fd,
        .stack = agent->spawn_stack,
    };
    ASSERT(spec.search_path);
    return process_spawn(&spec, &session->pid, err);
}

static void watch_start(struct agent *agent, struct session *session, struct plumbing *plumbing) {
    ASSERT(session->running);
    session->outputs[0].fd = plumbing->ours[1];
    session->outputs[1].fd = plumbing->ours[2];
    for (size_t i = 0; i < SESSION_OUTPUT_COUNT; i++) {
        struct session_output *output = &session->outputs[i];
        if (output->fd < 0) {
            protocol_sender_end(&output->sender); /* a terminal has one output */
            continue;
        }
        output->watched = true;
        uint64_t source = i == 0 ? SESSION_SOURCE_STDOUT : SESSION_SOURCE_STDERR;
        agent_watch(agent, output->fd, ((uint64_t)session->id << 8) | source, EPOLLIN);
    }
    bool is_tty = (session->flags & PROTOCOL_EXEC_TTY) != 0;
    if (is_tty) {
        session->tty_fd = fcntl(plumbing->ours[0], F_DUPFD_CLOEXEC, 3);
    }
    if ((session->flags & PROTOCOL_EXEC_STDIN) == 0) {
        session->input.closed = true;
        if (plumbing->ours[0] >= 0) {
            close(plumbing->ours[0]);
        }
        return;
    }
    session->input.fd = plumbing->ours[0];
    ASSERT(session->input.fd >= 0);
    agent_watch(agent, session->input.fd, ((uint64_t)session->id << 8) | SESSION_SOURCE_STDIN, 0);
}

void session_exec(struct agent *agent, uint32_t id, const struct protocol_exec *exec) {
    ASSERT(exec->argv_count > 0);
    struct session *session = session_open(agent, id, SESSION_COMMAND);
    if (!session) {
        return;
    }
    ASSERT(!session->over);
    session->flags = exec->flags;
    struct plumbing plumbing = {.ours = {-1, -1, -1}, .theirs = {-1, -1, -1}};
    struct kelpie_error err;
    enum kelpie_status status = start(agent, session, exec, &plumbing, &err);
    plumbing_close(plumbing.theirs);
    if (status != KELPIE_OK) {
        plumbing_close(plumbing.ours);
        session_fail(session, &err);
        return;
    }
    session->running = true;
    session->started.pid = (uint32_t)session->pid;
    if (exec->timeout_ms != 0) {
        session->timeout_at_ns = agent_now_ns() + exec->timeout_ms * 1000000ull;
    }
    watch_start(agent, session, &plumbing);
}

/* ---- While it runs ------------------------------------------------------------------------------ */

void command_kill(struct session *session) {
    ASSERT(session->kind == SESSION_COMMAND);
    if (session->cgroup.fd >= 0) {
        cgroup_kill(&session->cgroup);
    }
    if (session->running) {
        ASSERT(session->pid > 1);
        (void)kill(-session->pid, SIGKILL);
        (void)kill(session->pid, SIGKILL); /* it may have left its group */
    }
}

void session_signal(struct session *session, uint32_t number) {
    ASSERT(number >= 1);
    ASSERT(number <= 64);
    if (session->kind == SESSION_COMMAND && session->running) {
        (void)kill(-session->pid, (int)number);
    }
}

void session_resize(struct session *session, const struct protocol_resize *resize) {
    ASSERT(resize);
    ASSERT(session);
    if (session->tty_fd >= 0) {
        struct winsize window = {.ws_row = resize->rows, .ws_col = resize->columns};
        (void)ioctl(session->tty_fd, TIOCSWINSZ, &window);
    }
}

/* ---- End ---------------------------------------------------------------------------------------- */

void command_settle(struct agent *agent, struct session *session) {
    ASSERT(agent);
    ASSERT(session->kind == SESSION_COMMAND);
    if (session->over || session->running || session->outputs[0].fd >= 0 ||
        session->outputs[1].fd >= 0) {
        return;
    }
    int status = session->wait_status;
    session->grace_at_ns = 0;
    session->over = true;
    if (session->timed_out) {
        session->ended.end = PROTOCOL_END_TIMED_OUT;
        session->ended.value = WIFSIGNALED(status) ? (uint32_t)WTERMSIG(status) : SIGKILL;
    } else if (WIFSIGNALED(status)) {
        session->ended.end = PROTOCOL_END_SIGNALED;
        session->ended.value = (uint32_t)WTERMSIG(status);
    } else {
        session->ended.end = PROTOCOL_END_EXITED;
        session->ended.value = (uint32_t)WEXITSTATUS(status);
    }
}

/* The grace is over: what lies in the pipes now is the last that is taken of them. */
static void grace_end(struct agent *agent, struct session *session) {
    ASSERT(!session->running);
    ASSERT(session->grace_at_ns != 0);
    session->grace_at_ns = 0;
    for (size_t i = 0; i < SESSION_OUTPUT_COUNT; i++) {
        struct session_output *output = &session->outputs[i];
        int left = 0;
        if (output->fd >= 0 && ioctl(output->fd, FIONREAD, &left) == 0) {
            output->drain_left = left > 0 ? (size_t)left : 0;
        }
        output->draining = true;
        enum session_source source = i == 0 ? SESSION_SOURCE_STDOUT : SESSION_SOURCE_STDERR;
        session_event(agent, session, source, EPOLLIN);
    }
}

void session_tick(struct agent *agent, struct session *session, uint64_t now_ns) {
    ASSERT(now_ns > 0);
    ASSERT(session->id != 0);
    if (session->grace_at_ns != 0 && now_ns >= session->grace_at_ns) {
        grace_end(agent, session);
    }
    if (session->timeout_at_ns != 0 && now_ns >= session->timeout_at_ns) {
        session->timeout_at_ns = 0;
        session->timed_out = true;
        command_kill(session);
    }
}
