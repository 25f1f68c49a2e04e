/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The Linux host's processes: finding a program, preparing its launch, signals, its end. How it is
 * started, and what a watcher is, stands in host_linux_spawner.c.
 */
#include "host/host_linux.h"
#include "host/host_linux_launch.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/error.h"

#define PATH_DEFAULT "/usr/local/bin:/usr/bin:/bin"

/* ---- Finding the program ---------------------------------------------------------------------- */

static bool is_program(const char *path) {
    ASSERT(path);
    struct stat info = {0};
    return stat(path, &info) == 0 && S_ISREG(info.st_mode) && access(path, X_OK) == 0;
}

/* The path of argv[0] in `path`. An empty part of PATH would be the current folder: it is left out,
 * because what is found there is rarely what was meant. */
static enum kelpie_status find_program(struct host *host, const char *name,
                                       char path[HOST_PATH_SIZE_MAX + 1],
                                       struct kelpie_error *err) {
    ASSERT(name && path);
    size_t path_size = HOST_PATH_SIZE_MAX + 1;
    if (strchr(name, '/')) {
        int length = snprintf(path, path_size, "%s", name);
        return (size_t)length < path_size
                   ? KELPIE_OK
                   : error_set_os(err, ENAMETOOLONG, "cannot start '%s'", name);
    }
    const char *folders = host_environment(host, "PATH");
    folders = folders ? folders : PATH_DEFAULT;
    while (*folders) {
        size_t size = strcspn(folders, ":");
        int length = snprintf(path, path_size, "%.*s/%s", (int)size, folders, name);
        ASSERT(length > 0);
        if (size > 0 && size <= HOST_PATH_SIZE_MAX && (size_t)length < path_size &&
            is_program(path)) {
            return KELPIE_OK;
        }
        folders += size;
        folders += *folders == ':' ? 1 : 0;
    }
    return error_set(err, KELPIE_NOT_FOUND, "there is no program '%s' in PATH", name);
}

/* ---- Preparing a launch ----------------------------------------------------------------------- */

static void insert_fd(struct linux_launch *launch, struct host_process_fd added) {
    ASSERT(launch->fd_count < LAUNCH_FD_COUNT_MAX);
    size_t place = launch->fd_count;
    while (place > 0 && launch->fds[place - 1].child_fd > added.child_fd) {
        launch->fds[place] = launch->fds[place - 1];
        place--;
    }
    ASSERT(place == 0 || launch->fds[place - 1].child_fd != added.child_fd);
    launch->fds[place] = added;
    launch->fd_count++;
}

static bool has_child_fd(const struct linux_launch *launch, int child_fd) {
    ASSERT(child_fd >= 0);
    ASSERT(launch->fd_count <= LAUNCH_FD_COUNT_MAX);
    for (size_t i = 0; i < launch->fd_count; i++) {
        if (launch->fds[i].child_fd == child_fd) {
            return true;
        }
    }
    return false;
}

static void list_fds(struct linux_launch *launch, const struct host_process_spec *spec,
                     int null_fd) {
    ASSERT(null_fd >= 0);
    for (size_t i = 0; i < spec->fd_count; i++) {
        insert_fd(launch, spec->fds[i]);
    }
    for (int child_fd = 0; child_fd <= 2; child_fd++) {
        if (!has_child_fd(launch, child_fd)) {
            insert_fd(launch, (struct host_process_fd){.child_fd = child_fd, .fd = null_fd});
        }
    }
    ASSERT(launch->fd_count >= 3);
}

static void free_process(struct host_process *process) {
    ASSERT(process);
    ASSERT(process->host);
    host_close(process->host, process->watcher_fd);
    host_close(process->host, process->program_fd);
    if (process->stacks) {
        munmap(process->stacks, (size_t)2 * HOST_PROCESS_STACK_SIZE);
    }
    free(process);
}

static enum kelpie_status allocate_process(struct host *host, struct host_process **ret_process,
                                           struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(ret_process);
    struct host_process *process = calloc(1, sizeof(*process));
    if (!process) {
        return error_set(err, KELPIE_NO_MEMORY, "cannot allocate a process");
    }
    process->host = host;
    process->watcher_fd = HOST_FD_NONE;
    process->program_fd = HOST_FD_NONE;
    void *stacks = mmap(NULL, (size_t)2 * HOST_PROCESS_STACK_SIZE, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (stacks == MAP_FAILED) {
        int os_error = errno;
        free_process(process);
        return error_set_os(err, os_error, "cannot allocate a process");
    }
    process->stacks = stacks;
    *ret_process = process;
    return KELPIE_OK;
}

/* Waits for the watcher's end and reaps it. False: it did not end in time. */
static bool reap_watcher(struct host_process *process) {
    ASSERT(process->watcher_fd >= 0);
    struct host_wait wait = host_wait_ms(process->host, HOST_PROCESS_KILL_WAIT_MS, HOST_FD_NONE);
    if (linux_wait_fd(process->host, process->watcher_fd, POLLIN, &wait, "end of a process",
                      NULL) != KELPIE_OK) {
        return false;
    }
    /* Whoever waits for clones (__WALL) in this program may have reaped it before: ECHILD is fine. */
    siginfo_t ignored = {0};
    (void)RETRY_EINTR(waitid(P_PIDFD, (id_t)process->watcher_fd, &ignored, WEXITED | __WALL));
    return true;
}

/* The watcher of a detached program ends by itself. One that does not (somebody stopped it) keeps its memory. */
static void dismiss_watcher(struct host_process *process) {
    ASSERT(process->program_fd >= 0);
    ASSERT(process->stacks);
    if (reap_watcher(process)) {
        munmap(process->stacks, (size_t)2 * HOST_PROCESS_STACK_SIZE);
    }
    process->stacks = NULL;
    host_close(process->host, process->watcher_fd);
    process->watcher_fd = HOST_FD_NONE;
}

static bool is_detached(const struct host_process *process) {
    ASSERT(process->program_fd >= 0);
    ASSERT(process->stacks || process->watcher_fd == HOST_FD_NONE);
    return process->watcher_fd == HOST_FD_NONE;
}

enum kelpie_status linux_process_spawn(struct host *host, const struct host_process_spec *spec,
                                       struct host_process **ret_process,
                                       struct kelpie_error *err) {
    ASSERT(spec->argv && spec->argv[0]);
    char path[HOST_PATH_SIZE_MAX + 1];
    TRY(find_program(host, spec->argv[0], path, err));
    AUTO_FD struct host_fd null_file = {host, RETRY_EINTR(open("/dev/null", O_RDWR | O_CLOEXEC))};
    if (null_file.fd < 0) {
        return error_set_os(err, errno, "cannot open '/dev/null'");
    }
    struct linux_launch launch = {
        .program = path,
        .argv = spec->argv,
        .env = spec->env ? spec->env : (const char *const *)environ,
        .working_dir = spec->working_dir,
        .dies_with_owner = spec->dies_with_owner,
        .new_session = spec->new_session,
        .detached = spec->detached,
        .started_fd = HOST_FD_NONE,
    };
    list_fds(&launch, spec, null_file.fd);
    TRY(allocate_process(host, &launch.process, err));
    struct host_process *process = launch.process;
    enum kelpie_status status = linux_spawner_run(&host_linux_of(host)->spawner, &launch, err);
    if (status != KELPIE_OK) {
        if (process->watcher_fd >= 0) {
            (void)reap_watcher(process);
        }
        free_process(process);
        return status;
    }
    ASSERT(process->watcher_fd >= 0 && process->program_fd >= 0);
    ASSERT(process->program_id > 0);
    if (spec->detached) {
        dismiss_watcher(process);
    }
    *ret_process = process;
    return KELPIE_OK;
}

/* ---- Living and ending ------------------------------------------------------------------------ */

int linux_process_fd(struct host_process *process) {
    ASSERT(process->program_fd >= 0);
    return is_detached(process) ? process->program_fd : process->watcher_fd;
}

int linux_process_id(struct host_process *process) {
    ASSERT(process->program_id > 0);
    return (int)process->program_id;
}

/* /proc/PID/statm: pages, those resident second (proc(5)). */
static enum kelpie_status resident_bytes(int process_id, uint64_t *ret_bytes,
                                         struct kelpie_error *err) {
    char path[64];
    char text[256] = {0};
    ASSERT(process_id > 0);
    ASSERT(ret_bytes);
    snprintf(path, sizeof(path), "/proc/%d/statm", process_id);
    int fd = RETRY_EINTR(open(path, O_RDONLY | O_CLOEXEC));
    if (fd < 0) {
        return error_set_os(err, errno, "cannot look at the memory of process %d", process_id);
    }
    ssize_t count = RETRY_EINTR(read(fd, text, sizeof(text) - 1));
    int os_error = count < 0 ? errno : 0;
    close(fd);
    const char *resident = count > 0 ? strchr(text, ' ') : NULL;
    if (!resident) {
        return error_set_os(err, os_error ? os_error : ESRCH,
                            "cannot look at the memory of process %d", process_id);
    }
    *ret_bytes = strtoull(resident, NULL, 10) * (uint64_t)sysconf(_SC_PAGESIZE);
    return KELPIE_OK;
}

/* The clock of a process (clock_getcpuclockid(3)) counts in nanoseconds, what /proc says in hundredths of seconds. */
enum kelpie_status linux_process_usage(struct host *host, int process_id,
                                       struct host_process_usage *ret_usage,
                                       struct kelpie_error *err) {
    clockid_t clock = 0;
    struct timespec used = {0};
    struct host_process_usage usage = {0};
    ASSERT(host);
    ASSERT(ret_usage);
    int os_error = clock_getcpuclockid((pid_t)process_id, &clock);
    if (os_error == 0 && clock_gettime(clock, &used) < 0) {
        os_error = errno == EINVAL ? ESRCH : errno; /* it ended meanwhile */
    }
    if (os_error == ESRCH) {
        return error_set(err, KELPIE_NOT_FOUND, "there is no process %d", process_id);
    }
    if (os_error != 0) {
        return error_set_os(err, os_error, "cannot look at what process %d uses", process_id);
    }
    TRY(resident_bytes(process_id, &usage.resident_bytes, err));
    usage.cpu_ns = (uint64_t)used.tv_sec * HOST_NS_PER_S + (uint64_t)used.tv_nsec;
    *ret_usage = usage;
    return KELPIE_OK;
}

/* pidfd_send_signal(2): ESRCH says that it has ended; another process is never meant. */
enum kelpie_status linux_process_signal(struct host_process *process, int signal_number,
                                        struct kelpie_error *err) {
    ASSERT(process->program_fd >= 0);
    ASSERT(signal_number > 0 && signal_number <= HOST_SIGNAL_MAX);
    long result = syscall(SYS_pidfd_send_signal, process->program_fd, signal_number, NULL, 0);
    if (result < 0 && errno != ESRCH) {
        return error_set_os(err, errno, "cannot send signal %d to process %d", signal_number,
                            (int)process->program_id);
    }
    return KELPIE_OK;
}

enum kelpie_status linux_process_wait(struct host_process *process, const struct host_wait *wait,
                                      struct host_process_exit *ret_exit,
                                      struct kelpie_error *err) {
    ASSERT(process && ret_exit);
    ASSERT(process->program_fd >= 0);
    TRY(linux_wait_fd(process->host, linux_process_fd(process), POLLIN, wait, "end of a process",
                      err));
    if (is_detached(process)) {
        return error_set(err, KELPIE_UNSUPPORTED,
                         "how process %d ended is not known: it was detached",
                         (int)process->program_id);
    }
    /* The watcher has ended, so nobody writes here any more. */
    const siginfo_t *end = &process->end;
    if (end->si_pid != process->program_id) {
        return error_set(err, KELPIE_IO_FAILED,
                         "how process %d ended is not known: its watcher was killed",
                         (int)process->program_id);
    }
    bool exited = end->si_code == CLD_EXITED;
    *ret_exit = (struct host_process_exit){
        .code = exited ? end->si_status : 0,
        .signal = exited ? 0 : end->si_status,
    };
    return KELPIE_OK;
}

/* A process that does not die of SIGKILL hangs in the kernel. Its watcher needs the memory, which is
 * then left to it rather than waiting without end. */
void linux_process_destroy(struct host_process *process) {
    ASSERT(process);
    ASSERT(process->program_fd >= 0);
    if (is_detached(process)) {
        free_process(process);
        return;
    }
    (void)syscall(SYS_pidfd_send_signal, process->program_fd, SIGKILL, NULL, 0);
    if (reap_watcher(process)) {
        free_process(process);
        return;
    }
    host_close(process->host, process->watcher_fd);
    host_close(process->host, process->program_fd);
}
