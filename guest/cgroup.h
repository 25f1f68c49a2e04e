/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * cgroup.h: every session runs in a control group of its own below /sys/fs/cgroup/kelpie, so that all it
 * started can be killed, and all sessions frozen, whatever they forked.
 *
 * Making and removing a group costs more than starting a small command: empty groups are kept and used
 * again, but for those that were killed. What a command left running when its session was released goes on in kelpie/background.
 * Without control groups (the agent as an ordinary process) a session's group has fd -1.
 */
#ifndef KELPIE_GUEST_CGROUP_H
#define KELPIE_GUEST_CGROUP_H

#include "base/error.h"
#include "guest_limits.h"

struct cgroup {
    int fd; /* its folder; -1: none */
    uint32_t number;
    bool killed;
};

struct cgroup_set {
    int fd; /* the folder of them all; -1: there are no control groups here */
    uint32_t next_number;
    uint32_t spare_count;
    uint32_t dying_count;
    struct cgroup spares[GUEST_SPARE_CGROUP_COUNT_MAX];
    struct cgroup dying[PROTOCOL_SESSION_COUNT_MAX]; /* killed, not yet empty */
};

/* Without control groups; cgroup_set_open() finds them. */
void cgroup_set_init(struct cgroup_set *set);
KELPIE_CHECKED enum kelpie_status cgroup_set_open(struct cgroup_set *set, struct kelpie_error *err);

KELPIE_CHECKED enum kelpie_status cgroup_take(struct cgroup_set *set, struct cgroup *ret_group,
                                              struct kelpie_error *err);

/* What still runs in it, unless it was killed, goes to the background. */
void cgroup_give_back(struct cgroup_set *set, struct cgroup *group);
void cgroup_kill(struct cgroup *group);
void cgroup_set_kill(const struct cgroup_set *set);

/* Stops every process of every session and waits until they stand; or lets them go on. */
KELPIE_CHECKED enum kelpie_status cgroup_set_freeze(const struct cgroup_set *set,
                                                    struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status cgroup_set_thaw(const struct cgroup_set *set,
                                                  struct kelpie_error *err);

#endif
