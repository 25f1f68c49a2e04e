/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* File names and their meaning: Linux, Documentation/admin-guide/cgroup-v2.rst. */
#include "cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"

#define CGROUP_DIR "/sys/fs/cgroup/kelpie"
#define CGROUP_BACKGROUND "background"
#define CGROUP_NAME_SIZE 16

static enum kelpie_status write_file(int dir_fd, const char *name, const char *text,
                                     struct kelpie_error *err) {
    ASSERT(dir_fd >= 0);
    ASSERT(text);
    int fd = openat(dir_fd, name, O_WRONLY | O_CLOEXEC);
    if (fd < 0) {
        return error_set_os(err, errno, "open the control group's %s", name);
    }
    ssize_t count = write(fd, text, strlen(text));
    int os_error = errno;
    close(fd);
    if (count < 0) {
        return error_set_os(err, os_error, "write %s to the control group's %s", text, name);
    }
    return KELPIE_OK;
}

/* Reads up to size - 1 bytes; an empty text when there is no such file. */
static void read_file(int dir_fd, const char *name, char *buffer, size_t size) {
    ASSERT(dir_fd >= 0);
    ASSERT(size > 1);
    buffer[0] = 0;
    int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return;
    }
    ssize_t count = read(fd, buffer, size - 1);
    buffer[count > 0 ? count : 0] = 0;
    close(fd);
}

static bool events_say(int dir_fd, const char *event) {
    ASSERT(dir_fd >= 0);
    ASSERT(event);
    char text[128];
    read_file(dir_fd, "cgroup.events", text, sizeof(text));
    return strstr(text, event) != NULL;
}

void cgroup_set_init(struct cgroup_set *set) {
    ASSERT(set);
    *set = (struct cgroup_set){.fd = -1};
}

enum kelpie_status cgroup_set_open(struct cgroup_set *set, struct kelpie_error *err) {
    ASSERT(set->fd == -1);
    ASSERT(set->spare_count == 0);
    if (mkdir(CGROUP_DIR, 0755) != 0 && errno != EEXIST) {
        return error_set_os(err, errno, "make %s", CGROUP_DIR);
    }
    int fd = open(CGROUP_DIR, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return error_set_os(err, errno, "open %s", CGROUP_DIR);
    }
    set->fd = fd;
    return KELPIE_OK;
}

static void group_remove(const struct cgroup_set *set, struct cgroup *group) {
    ASSERT(set->fd >= 0);
    ASSERT(group->fd >= 0);
    char name[CGROUP_NAME_SIZE];
    snprintf(name, sizeof(name), "%u", group->number);
    close(group->fd);
    group->fd = -1;
    (void)unlinkat(set->fd, name, AT_REMOVEDIR); /* stays when something still runs in it */
}

/*
 * Keeps an empty group for the next session, unless it was killed: Linux since 6.14, and 6.12's later versions, count how
 * often a group was killed, and kill at once what is cloned into one (CLONE_INTO_CGROUP) whose count is not that of
 * the cloning process's own group.
 */
static void group_spare(struct cgroup_set *set, struct cgroup *group) {
    ASSERT(group->fd >= 0);
    ASSERT(set->spare_count <= GUEST_SPARE_CGROUP_COUNT_MAX);
    if (group->killed || set->spare_count == GUEST_SPARE_CGROUP_COUNT_MAX) {
        group_remove(set, group);
        return;
    }
    set->spares[set->spare_count++] = *group;
    group->fd = -1;
}

/* The groups whose killed processes are gone meanwhile. */
static void dying_collect(struct cgroup_set *set) {
    ASSERT(set->dying_count <= PROTOCOL_SESSION_COUNT_MAX);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < set->dying_count; i++) {
        ASSERT(set->dying[i].fd >= 0);
        if (events_say(set->dying[i].fd, "populated 0")) {
            group_remove(set, &set->dying[i]);
        } else {
            set->dying[kept++] = set->dying[i];
        }
    }
    set->dying_count = kept;
}

static enum kelpie_status group_make(struct cgroup_set *set, struct cgroup *group,
                                     struct kelpie_error *err) {
    ASSERT(set->fd >= 0);
    ASSERT(group->fd == -1);
    char name[CGROUP_NAME_SIZE];
    group->number = set->next_number++;
    snprintf(name, sizeof(name), "%u", group->number);
    if (mkdirat(set->fd, name, 0755) != 0) {
        return error_set_os(err, errno, "make the control group %s", name);
    }
    group->fd = openat(set->fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return group->fd < 0 ? error_set_os(err, errno, "open the control group %s", name) : KELPIE_OK;
}

enum kelpie_status cgroup_take(struct cgroup_set *set, struct cgroup *ret_group,
                               struct kelpie_error *err) {
    ASSERT(set->spare_count <= GUEST_SPARE_CGROUP_COUNT_MAX);
    ASSERT(ret_group);
    struct cgroup group = {.fd = -1};
    if (set->spare_count > 0) {
        group = set->spares[--set->spare_count];
    } else if (set->fd >= 0) {
        TRY(group_make(set, &group, err));
    }
    *ret_group = group;
    return KELPIE_OK;
}

/* Moves what runs in the group to the background. Processes fork meanwhile: several passes. */
static void group_empty(const struct cgroup_set *set, const struct cgroup *group) {
    ASSERT(set->fd >= 0);
    ASSERT(group->fd >= 0);
    (void)mkdirat(set->fd, CGROUP_BACKGROUND, 0755); /* it may be there already */
    for (uint32_t round = 0; round < GUEST_MOVE_ROUND_COUNT_MAX; round++) {
        char text[GUEST_SMALL_FILE_SIZE_MAX];
        read_file(group->fd, "cgroup.procs", text, sizeof(text));
        if (text[0] == 0) {
            return;
        }
        char *rest = text;
        for (char *pid = strsep(&rest, "\n"); pid && rest; pid = strsep(&rest, "\n")) {
            struct kelpie_error ignored; /* it ended meanwhile, or the next pass gets it */
            (void)!write_file(set->fd, CGROUP_BACKGROUND "/cgroup.procs", pid, &ignored);
        }
    }
}

void cgroup_give_back(struct cgroup_set *set, struct cgroup *group) {
    ASSERT(set);
    ASSERT(group->fd == -1 || set->fd >= 0);
    if (group->fd < 0) {
        return;
    }
    dying_collect(set);
    bool is_populated = events_say(group->fd, "populated 1");
    if (is_populated && group->killed && set->dying_count < PROTOCOL_SESSION_COUNT_MAX) {
        set->dying[set->dying_count++] = *group;
        group->fd = -1;
        return;
    }
    if (is_populated) {
        group_empty(set, group);
    }
    if (events_say(group->fd, "populated 0")) {
        group_spare(set, group);
    } else {
        group_remove(set, group);
    }
    ASSERT(group->fd == -1);
}

void cgroup_kill(struct cgroup *group) {
    ASSERT(group);
    ASSERT(group->fd >= 0);
    group->killed = true;
    struct kelpie_error ignored; /* the process group is killed as well */
    (void)!write_file(group->fd, "cgroup.kill", "1", &ignored);
}

void cgroup_set_kill(const struct cgroup_set *set) {
    ASSERT(set);
    ASSERT(set->fd >= 0);
    struct kelpie_error ignored;
    (void)!write_file(set->fd, "cgroup.kill", "1", &ignored);
}

enum kelpie_status cgroup_set_freeze(const struct cgroup_set *set, struct kelpie_error *err) {
    ASSERT(err);
    ASSERT(set);
    if (set->fd < 0) {
        return error_set_os(err, EOPNOTSUPP, "freeze: there are no control groups");
    }
    TRY(write_file(set->fd, "cgroup.freeze", "1", err));
    for (uint32_t waited_us = 0; waited_us < GUEST_FREEZE_WAIT_MS * 1000;
         waited_us += GUEST_POLL_STEP_US) {
        if (events_say(set->fd, "frozen 1")) {
            return KELPIE_OK;
        }
        usleep(GUEST_POLL_STEP_US);
    }
    struct kelpie_error ignored;
    (void)!write_file(set->fd, "cgroup.freeze", "0", &ignored);
    return error_set_os(err, ETIMEDOUT, "freeze: a process did not stand still");
}

enum kelpie_status cgroup_set_thaw(const struct cgroup_set *set, struct kelpie_error *err) {
    ASSERT(set);
    ASSERT(err);
    return set->fd < 0 ? KELPIE_OK : write_file(set->fd, "cgroup.freeze", "0", err);
}
