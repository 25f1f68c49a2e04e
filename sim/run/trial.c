/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "sim/run/trial.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>

#include "base/assert.h"
#include "sim/run/reason.h"

#define NS_PER_MS 1000000u

bool trial_init(struct trial *trial, run_function *run) {
    ASSERT(trial);
    ASSERT(run);
    memset(trial, 0, sizeof(*trial));
    void *shared = mmap(NULL, sizeof(*trial->shared), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    trial->run = run;
    trial->ms_max = TRIAL_MS_MAX;
    trial->shared = shared == MAP_FAILED ? NULL : shared;
    return trial->shared != NULL;
}

void trial_deinit(struct trial *trial) {
    ASSERT(trial);
    ASSERT(trial->child.pid == 0);
    if (trial->shared) {
        munmap(trial->shared, sizeof(*trial->shared));
        trial->shared = NULL;
    }
}

static void body(void *context, int data_fd) {
    struct trial *trial = context;
    struct run_options options = *trial->options;
    ASSERT(trial->shared);
    ASSERT(!trial->shared->ended);
    if (trial->keep_timeline) {
        options.timeline = fdopen(data_fd, "w");
    }
    if (options.timeline) {
        /* What is buffered is lost when an assertion fails. */
        setvbuf(options.timeline, NULL, _IOLBF, 0);
    }
    trial->run(&options, &trial->shared->result);
    trial->shared->ended = true;
}

/* Until both pipes are at their end. False: it took too long. */
static bool follow(struct trial *trial, uint64_t deadline_ns) {
    struct child *child = &trial->child;
    ASSERT(child->pid > 0);
    ASSERT(deadline_ns > 0);
    while (child->data_fd >= 0 || child->words_fd >= 0) {
        struct pollfd fds[2] = {{.fd = child->data_fd, .events = POLLIN},
                                {.fd = child->words_fd, .events = POLLIN}};
        uint64_t now = child_clock_ns();
        if (now >= deadline_ns) {
            return false;
        }
        poll(fds, 2, (int)((deadline_ns - now) / NS_PER_MS + 1));
        if (child->data_fd >= 0 && fds[0].revents) {
            child_read_tail(&child->data_fd, &trial->timeline);
        }
        if (child->words_fd >= 0 && fds[1].revents) {
            child_read_tail(&child->words_fd, &child->words);
        }
    }
    return true;
}

/* What the child's memory holds is nothing to rely on: a run that went wrong may have written anything to it. */
static void look_at_result(struct run_result *result) {
    ASSERT(result);
    ASSERT(RUN_REASON_SIZE > 1);
    result->reason[RUN_REASON_SIZE - 1] = '\0';
    if (result->event_fault_count > SIM_FAULT_FIRED_COUNT_MAX) {
        result->event_fault_count = 0;
    }
    for (size_t i = 0; i < result->event_fault_count; i++) {
        if (result->events[i].fault >= SIM_FAULT_COUNT) {
            result->event_fault_count = i;
        }
    }
    if (result->step_count > RUN_STEP_COUNT_MAX) {
        result->step_count = 0;
    }
}

bool trial_run(struct trial *trial, const struct run_options *options) {
    ASSERT(trial && trial->shared);
    ASSERT(options);
    struct run_result *result = &trial->shared->result;
    memset(trial->shared, 0, sizeof(*trial->shared));
    trial->timeline.size = 0;
    trial->timeline.text[0] = '\0';
    trial->options = options;
    uint64_t start_ns = child_clock_ns();
    if (!child_start(&trial->child, body, trial)) {
        return false;
    }
    bool in_time = follow(trial, start_ns + (uint64_t)trial->ms_max * NS_PER_MS);
    if (!in_time) {
        child_kill(&trial->child);
    }
    int wait_status = child_end(&trial->child);
    trial->elapsed_ns = child_clock_ns() - start_ns;
    look_at_result(result);
    if (!in_time) {
        snprintf(result->reason, sizeof(result->reason), "hangs: no end after %u ms",
                 trial->ms_max);
        result->failed = true;
    } else if (wait_status != 0 || !trial->shared->ended) {
        reason_of_death(wait_status, trial->child.words.text, result->reason,
                        sizeof(result->reason));
        result->failed = true;
    }
    return true;
}

const struct run_result *trial_result(const struct trial *trial) {
    ASSERT(trial);
    ASSERT(trial->shared);
    return &trial->shared->result;
}
