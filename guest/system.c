/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "system.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "file.h"
#include "network.h"

#define NS_PER_S 1000000000ull

/* Linux, include/uapi/linux/random.h. */
#define RANDOM_ADD_ENTROPY _IOW('R', 0x03, int[2])
#define RANDOM_RESEED _IO('R', 0x07)
struct random_pool_info {
    int entropy_bits;
    int size;
    uint8_t bytes[PROTOCOL_ENTROPY_SIZE];
};

void system_log(const char *format, ...) {
    ASSERT(format);
    char line[512];
    va_list args;
    va_start(args, format);
    int size = vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    ASSERT(size >= 0);
    (void)!fprintf(stderr, "kelpie-guest: %s\n", line);
}

/* ---- Clock, entropy, names ---------------------------------------------------------------------- */

static enum protocol_outcome set_clock(uint64_t realtime_ns, int64_t *ret_skew_ns) {
    ASSERT(realtime_ns <= INT64_MAX);
    ASSERT(ret_skew_ns);
    struct timespec now = {0};
    clock_gettime(CLOCK_REALTIME, &now);
    *ret_skew_ns = (int64_t)((uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec - realtime_ns);
    struct timespec time = {
        .tv_sec = (time_t)(realtime_ns / NS_PER_S),
        .tv_nsec = (long)(realtime_ns % NS_PER_S),
    };
    return clock_settime(CLOCK_REALTIME, &time) == 0 ? PROTOCOL_OUTCOME_DONE
                                                     : PROTOCOL_OUTCOME_FAILED;
}

/* Credits the bytes and makes the kernel's generator use them at once, not at its next turn. */
static enum protocol_outcome add_entropy(const uint8_t entropy[PROTOCOL_ENTROPY_SIZE]) {
    struct random_pool_info info = {
        .entropy_bits = PROTOCOL_ENTROPY_SIZE * 8,
        .size = PROTOCOL_ENTROPY_SIZE,
    };
    ASSERT(entropy);
    static_assert(sizeof(info) == 8 + PROTOCOL_ENTROPY_SIZE, "as the kernel reads it");
    memcpy(info.bytes, entropy, sizeof(info.bytes));
    int fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC);
    bool added =
        fd >= 0 && ioctl(fd, RANDOM_ADD_ENTROPY, &info) == 0 && ioctl(fd, RANDOM_RESEED, NULL) == 0;
    if (fd >= 0) {
        close(fd);
    }
    explicit_bzero(&info, sizeof(info));
    return added ? PROTOCOL_OUTCOME_DONE : PROTOCOL_OUTCOME_FAILED;
}

void system_read_text(const char *path, char *buffer, size_t size) {
    ASSERT(path[0] == '/');
    ASSERT(size > 1);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t used = 0;
    ssize_t count = 1;
    while (fd >= 0 && count > 0 && used < size - 1) {
        count = read(fd, buffer + used, size - 1 - used);
        used += count > 0 ? (size_t)count : 0;
    }
    if (fd >= 0) {
        close(fd);
    }
    buffer[used] = 0;
}

bool system_write_text(const struct agent *agent, const char *path, const char *text) {
    ASSERT(path[0] == '/');
    ASSERT(text);
    /* Cut afterwards and not before: ext4 takes a file that was emptied for one that is replaced, and closing it would
     * wait for the disk (its mount option auto_da_alloc). */
    int fd = file_open_in_root(agent->root_fd, path, O_WRONLY | O_CREAT);
    if (fd < 0) {
        return false;
    }
    size_t size = strlen(text);
    bool written = write(fd, text, size) == (ssize_t)size && ftruncate(fd, (off_t)size) == 0;
    return close(fd) == 0 && written;
}

static enum protocol_outcome set_generation(struct agent *agent, const uint8_t *generation) {
    ASSERT(generation);
    char text[2 * PROTOCOL_GENERATION_SIZE + 2];
    for (size_t i = 0; i < PROTOCOL_GENERATION_SIZE; i++) {
        snprintf(text + 2 * i, 3, "%02x", generation[i]);
    }
    ASSERT(strlen(text) == 2 * PROTOCOL_GENERATION_SIZE);
    text[sizeof(text) - 2] = '\n';
    text[sizeof(text) - 1] = 0;
    memcpy(agent->generation, generation, PROTOCOL_GENERATION_SIZE);
    return system_write_text(agent, "/run/kelpie/generation", text) ? PROTOCOL_OUTCOME_DONE
                                                                    : PROTOCOL_OUTCOME_FAILED;
}

/* The kernel's name is what counts; the file may lie on a disk that cannot be written. */
static enum protocol_outcome set_hostname(const struct agent *agent, const char *hostname) {
    ASSERT(hostname[0] != 0);
    char line[PROTOCOL_HOSTNAME_SIZE_MAX + 2];
    int size = snprintf(line, sizeof(line), "%s\n", hostname);
    ASSERT(size > 1 && (size_t)size < sizeof(line));
    (void)system_write_text(agent, "/etc/hostname", line);
    return sethostname(hostname, (size_t)size - 1) == 0 ? PROTOCOL_OUTCOME_DONE
                                                        : PROTOCOL_OUTCOME_FAILED;
}

static enum protocol_outcome set_machine_id(const struct agent *agent, const char *machine_id) {
    char line[PROTOCOL_MACHINE_ID_SIZE + 2];
    int size = snprintf(line, sizeof(line), "%s\n", machine_id);
    ASSERT(size == PROTOCOL_MACHINE_ID_SIZE + 1);
    ASSERT(agent->is_init);
    return system_write_text(agent, "/etc/machine-id", line) ? PROTOCOL_OUTCOME_DONE
                                                             : PROTOCOL_OUTCOME_FAILED;
}

static void set_names(struct agent *agent, const struct protocol_identity *identity,
                      struct protocol_thawed *outcomes) {
    ASSERT(identity->hostname);
    ASSERT(identity->machine_id);
    outcomes->generation = set_generation(agent, identity->generation);
    outcomes->hostname = set_hostname(agent, identity->hostname);
    outcomes->machine_id = set_machine_id(agent, identity->machine_id);
}

enum kelpie_status system_set_up(struct agent *agent, const struct protocol_setup *setup,
                                 struct kelpie_error *err) {
    ASSERT(setup->mount_count <= PROTOCOL_MOUNT_COUNT_MAX);
    if (agent->set_up) {
        return error_set_os(err, EALREADY, "set the machine up");
    }
    if (agent->is_init) {
        struct protocol_thawed outcomes = {0};
        outcomes.clock = set_clock(setup->identity.realtime_ns, &outcomes.clock_skew_ns);
        outcomes.entropy = add_entropy(setup->identity.entropy);
        TRY(system_mount_disks(agent, setup, err));
        set_names(agent, &setup->identity, &outcomes);
        if (outcomes.clock != PROTOCOL_OUTCOME_DONE || outcomes.entropy != PROTOCOL_OUTCOME_DONE ||
            outcomes.hostname != PROTOCOL_OUTCOME_DONE) {
            return error_set_os(err, EIO, "set the clock, entropy or hostname");
        }
        if (agent->network_given) {
            TRY(network_set_up(agent, err));
        }
    }
    memcpy(agent->generation, setup->identity.generation, PROTOCOL_GENERATION_SIZE);
    agent->set_up = true;
    ASSERT(agent->root_fd >= 0);
    return KELPIE_OK;
}

/* ---- Standing still ----------------------------------------------------------------------------- */

enum kelpie_status system_freeze(struct agent *agent, struct kelpie_error *err) {
    ASSERT(err);
    if (agent->frozen) {
        return KELPIE_OK;
    }
    TRY(cgroup_set_freeze(&agent->cgroups, err));
    sync();
    agent->frozen = true;
    agent->frozen_at_ns = agent_now_ns();
    ASSERT(agent->frozen_at_ns > 0);
    return KELPIE_OK;
}

/* Time that a command could not use does not count against its timeout. */
static void shift_deadlines(struct agent *agent) {
    ASSERT(agent->frozen);
    uint64_t stood_ns = agent_now_ns() - agent->frozen_at_ns;
    for (uint32_t i = 0; i < agent->session_count; i++) {
        struct session *session = agent->sessions[i];
        ASSERT(session);
        session->timeout_at_ns += session->timeout_at_ns != 0 ? stood_ns : 0;
        session->grace_at_ns += session->grace_at_ns != 0 ? stood_ns : 0;
    }
}

static enum protocol_outcome refresh_network(struct agent *agent) {
    struct kelpie_error err = {0};
    ASSERT(agent->is_init);
    if (!agent->network_given) {
        return PROTOCOL_OUTCOME_UNSUPPORTED;
    }
    if (network_set_up(agent, &err) != KELPIE_OK) {
        ASSERT(err.message[0] != 0);
        system_log("%s", err.message);
        return PROTOCOL_OUTCOME_FAILED;
    }
    return PROTOCOL_OUTCOME_DONE;
}

void system_thaw(struct agent *agent, const struct protocol_thaw *thaw,
                 struct protocol_thawed *ret_thawed) {
    ASSERT(ret_thawed);
    struct protocol_thawed thawed = {
        .clock = PROTOCOL_OUTCOME_UNSUPPORTED,
        .entropy = PROTOCOL_OUTCOME_UNSUPPORTED,
        .generation = PROTOCOL_OUTCOME_UNSUPPORTED,
        .network = PROTOCOL_OUTCOME_UNSUPPORTED,
        .hostname = PROTOCOL_OUTCOME_UNSUPPORTED,
        .machine_id = PROTOCOL_OUTCOME_UNSUPPORTED,
    };
    if (agent->is_init) {
        thawed.clock = set_clock(thaw->identity.realtime_ns, &thawed.clock_skew_ns);
        thawed.entropy = add_entropy(thaw->identity.entropy);
        if ((thaw->flags & PROTOCOL_THAW_RESTORED) != 0) {
            set_names(agent, &thaw->identity, &thawed);
            thawed.network = refresh_network(agent);
        }
    }
    if (agent->frozen) {
        struct kelpie_error err;
        shift_deadlines(agent);
        if (cgroup_set_thaw(&agent->cgroups, &err) != KELPIE_OK) {
            system_log("%s", err.message);
        }
        agent->frozen = false;
    }
    ASSERT(!agent->frozen);
    *ret_thawed = thawed;
}

/* ---- Memory, the end ---------------------------------------------------------------------------- */

static uint64_t meminfo_bytes(const char *text, const char *key) {
    ASSERT(text);
    ASSERT(key);
    const char *line = strstr(text, key);
    return line ? strtoull(line + strlen(key), NULL, 10) * 1024 : 0;
}

void system_memory(uint64_t *ret_total_bytes, uint64_t *ret_available_bytes) {
    ASSERT(ret_total_bytes);
    ASSERT(ret_available_bytes);
    char text[GUEST_SMALL_FILE_SIZE_MAX];
    int fd = open("/proc/meminfo", O_RDONLY | O_CLOEXEC);
    ssize_t count = fd >= 0 ? read(fd, text, sizeof(text) - 1) : 0;
    if (fd >= 0) {
        close(fd);
    }
    text[count > 0 ? count : 0] = 0;
    *ret_total_bytes = meminfo_bytes(text, "MemTotal:");
    *ret_available_bytes = meminfo_bytes(text, "MemAvailable:");
}

void system_shut_down(struct agent *agent) {
    session_release_all(agent);
    ASSERT(agent->session_count == 0);
    if (!agent->is_init) {
        return;
    }
    ASSERT(getpid() == 1);
    (void)kill(-1, SIGKILL);
    for (uint32_t waited_us = 0; waited_us < GUEST_KILL_WAIT_MS * 1000;
         waited_us += GUEST_POLL_STEP_US) {
        if (waitpid(-1, NULL, WNOHANG) < 0) {
            break;
        }
        usleep(GUEST_POLL_STEP_US);
    }
    sync();
}
