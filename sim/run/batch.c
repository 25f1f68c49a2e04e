/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "sim/run/batch.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "sim/run/child.h"
#include "sim/run/reason.h"

#define NS_PER_S 1000000000u
#define NS_PER_MS 1000000u

enum message_kind {
    MESSAGE_BEGINS = 1,
    MESSAGE_ENDED,
};

/* What a worker tells. */
struct message {
    uint32_t kind;
    uint32_t failed;
    uint64_t index;
    uint64_t hash;
    uint64_t event_count;
    uint64_t simulated_ns;
    uint64_t cpu_ns;
    uint32_t asked[SIM_FAULT_COUNT];
    uint32_t fired[SIM_FAULT_COUNT];
    char reason[RUN_REASON_SIZE];
};
static_assert(sizeof(struct message) <= PIPE_BUF, "a pipe keeps a message whole");

struct worker {
    const struct batch_options *options;
    uint64_t next; /* the run that it has begun, or begins next */
    uint64_t end;  /* behind its last run */
    uint64_t begun_ns;
    bool hangs;
    struct message message; /* as much as has arrived of it */
    size_t message_size;
    struct child child;
};

struct batch {
    const struct batch_options *options;
    struct batch_summary *summary;
    struct worker *workers;
    uint64_t next; /* the first run that no worker has */
    uint64_t worker_run_count;
};

static uint64_t seed_of(const struct batch_options *options, uint64_t index) {
    ASSERT(options);
    ASSERT(index < options->run_count);
    return options->same_seed ? options->seed_first : options->seed_first + index;
}

/* ---- in the worker ----------------------------------------------------------------------------- */

static uint64_t cpu_clock_ns(void) {
    struct timespec now = {0, 0};
    int failed = clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    ASSERT(failed == 0);
    ASSERT(now.tv_sec >= 0);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

static void tell(int fd, const struct message *message) {
    ASSERT(message->kind == MESSAGE_BEGINS || message->kind == MESSAGE_ENDED);
    ssize_t count;
    do {
        count = write(fd, message, sizeof(*message));
    } while (count < 0 && errno == EINTR);
    ASSERT(count == (ssize_t)sizeof(*message));
}

static void one_run(const struct worker *worker, uint64_t index, struct run_result *result,
                    int fd) {
    struct run_options options = worker->options->base;
    struct message message = {.kind = MESSAGE_BEGINS, .index = index};
    ASSERT(index < worker->end);
    ASSERT(result);
    tell(fd, &message);
    options.seed = seed_of(worker->options, index);
    memset(result, 0, sizeof(*result));
    uint64_t start_ns = cpu_clock_ns();
    worker->options->run(&options, result);
    message.cpu_ns = cpu_clock_ns() - start_ns;
    message.kind = MESSAGE_ENDED;
    message.failed = result->failed;
    message.hash = result->hash;
    message.event_count = result->event_count;
    message.simulated_ns = result->simulated_ns;
    memcpy(message.asked, result->asked, sizeof(message.asked));
    memcpy(message.fired, result->fired, sizeof(message.fired));
    memcpy(message.reason, result->reason, sizeof(message.reason));
    tell(fd, &message);
}

static void worker_body(void *context, int data_fd) {
    const struct worker *worker = context;
    struct run_result *result = malloc(sizeof(*result));
    ASSERT(result);
    ASSERT(worker->next < worker->end);
    for (uint64_t i = worker->next; i < worker->end; i++) {
        one_run(worker, i, result, data_fd);
    }
    free(result);
}

/* ---- in the parent ----------------------------------------------------------------------------- */

/* Keeps those with the smallest numbers: which worker was faster decides nothing. */
static void add_failure(struct batch *batch, uint64_t index, const char *reason) {
    struct batch_summary *summary = batch->summary;
    ASSERT(index < batch->options->run_count);
    ASSERT(summary->failure_count <= BATCH_FAILURE_COUNT_MAX);
    size_t at = summary->failure_count;
    summary->failed_count++;
    while (at > 0 && summary->failures[at - 1].index > index) {
        at--;
    }
    if (at == BATCH_FAILURE_COUNT_MAX) {
        return;
    }
    if (summary->failure_count < BATCH_FAILURE_COUNT_MAX) {
        summary->failure_count++;
    }
    memmove(&summary->failures[at + 1], &summary->failures[at],
            (summary->failure_count - at - 1) * sizeof(summary->failures[0]));
    struct batch_failure *failure = &summary->failures[at];
    failure->index = index;
    failure->seed = seed_of(batch->options, index);
    snprintf(failure->reason, sizeof(failure->reason), "%s", reason);
}

static void add_result(struct batch *batch, const struct message *message) {
    struct batch_summary *summary = batch->summary;
    char reason[RUN_REASON_SIZE];
    ASSERT(message->kind == MESSAGE_ENDED);
    ASSERT(summary->ended_count <= summary->run_count);
    summary->run_count++;
    summary->ended_count++;
    summary->event_count += message->event_count;
    summary->simulated_ns += message->simulated_ns;
    summary->cpu_ns += message->cpu_ns;
    for (size_t i = 0; i < SIM_FAULT_COUNT; i++) {
        summary->asked[i] += message->asked[i];
        summary->fired[i] += message->fired[i];
        summary->fired_runs[i] += message->fired[i] > 0;
    }
    if (message->index == 0) {
        summary->hash = message->hash;
    }
    if (message->failed) {
        snprintf(reason, sizeof(reason), "%.*s", RUN_REASON_SIZE - 1, message->reason);
        add_failure(batch, message->index, reason);
    } else if (batch->options->same_seed && message->hash != summary->hash) {
        snprintf(reason, sizeof(reason), "not deterministic: hash %016llx, run 0 had %016llx",
                 (unsigned long long)message->hash, (unsigned long long)summary->hash);
        add_failure(batch, message->index, reason);
    }
}

/* False: it is no message that this worker can send now. A run that went wrong may have written anything. */
static bool take_message(struct batch *batch, struct worker *worker) {
    const struct message *message = &worker->message;
    ASSERT(worker->message_size == sizeof(*message));
    ASSERT(worker->next <= worker->end);
    worker->message_size = 0;
    /* What comes after the time limit comes too late: the run is not told as another one's failure. */
    if (worker->hangs || message->index != worker->next || worker->next == worker->end) {
        return false;
    }
    if (message->kind == MESSAGE_ENDED) {
        add_result(batch, message);
        worker->next++;
    }
    worker->begun_ns = child_clock_ns();
    return message->kind == MESSAGE_BEGINS || message->kind == MESSAGE_ENDED;
}

static void read_messages(struct batch *batch, struct worker *worker) {
    char *bytes = (char *)&worker->message;
    ASSERT(worker->child.data_fd >= 0);
    ASSERT(worker->message_size < sizeof(worker->message));
    ssize_t count = read(worker->child.data_fd, bytes + worker->message_size,
                         sizeof(worker->message) - worker->message_size);
    if (count < 0 && errno == EINTR) {
        return;
    }
    worker->message_size += count > 0 ? (size_t)count : 0;
    bool sound = count > 0;
    if (worker->message_size == sizeof(worker->message)) {
        sound = take_message(batch, worker);
    }
    if (!sound) {
        close(worker->child.data_fd);
        worker->child.data_fd = -1;
    }
}

/* Both pipes are at their end, so the process is too, or soon. Its run has failed unless it made all of them. */
static void end_worker(struct batch *batch, struct worker *worker) {
    char reason[RUN_REASON_SIZE];
    ASSERT(worker->child.pid > 0);
    ASSERT(worker->child.data_fd < 0);
    if (worker->next < worker->end) {
        /* It said something that makes no sense, and may be alive. */
        child_kill(&worker->child);
    }
    int wait_status = child_end(&worker->child);
    if (worker->next == worker->end && wait_status == 0) {
        return;
    }
    if (worker->hangs) {
        snprintf(reason, sizeof(reason), "hangs: no end after %u ms", batch->options->run_ms_max);
    } else {
        reason_of_death(wait_status, worker->child.words.text, reason, sizeof(reason));
    }
    /* Dead behind its last run: that one has left something behind. */
    uint64_t index = worker->next < worker->end ? worker->next : worker->end - 1;
    batch->summary->run_count += worker->next < worker->end;
    add_failure(batch, index, reason);
    worker->next = index + 1;
}

static bool start_worker(struct batch *batch, struct worker *worker) {
    ASSERT(worker->child.pid == 0);
    ASSERT(batch->next <= batch->options->run_count);
    if (worker->next == worker->end) {
        uint64_t left = batch->options->run_count - batch->next;
        worker->next = batch->next;
        worker->end =
            batch->next + (left < batch->worker_run_count ? left : batch->worker_run_count);
        batch->next = worker->end;
    }
    if (worker->next == worker->end) {
        return true;
    }
    /* Without this a same_seed run could be compared with a hash that has not arrived. */
    if (batch->options->same_seed && worker->next > 0 && batch->summary->run_count == 0) {
        batch->next = worker->next;
        worker->end = worker->next;
        return true;
    }
    worker->options = batch->options;
    worker->message_size = 0;
    worker->hangs = false;
    worker->begun_ns = child_clock_ns();
    return child_start(&worker->child, worker_body, worker);
}

/* Waits for news of any worker, until one is late. */
static void wait_for_news(struct batch *batch, struct pollfd *fds, size_t count) {
    uint64_t now = child_clock_ns();
    uint64_t limit_ns = (uint64_t)batch->options->run_ms_max * NS_PER_MS;
    uint64_t wait_ns = limit_ns;
    ASSERT(count > 0);
    ASSERT(limit_ns > 0);
    for (size_t i = 0; i < count; i++) {
        struct worker *worker = &batch->workers[i];
        fds[i * 2] = (struct pollfd){.fd = -1};
        fds[i * 2 + 1] = (struct pollfd){.fd = -1};
        if (worker->child.pid == 0) {
            continue;
        }
        fds[i * 2] = (struct pollfd){.fd = worker->child.data_fd, .events = POLLIN};
        fds[i * 2 + 1] = (struct pollfd){.fd = worker->child.words_fd, .events = POLLIN};
        uint64_t spent_ns = now - worker->begun_ns;
        uint64_t left_ns = spent_ns < limit_ns ? limit_ns - spent_ns : 0;
        if (!worker->hangs && left_ns < wait_ns) {
            wait_ns = left_ns;
        }
    }
    poll(fds, count * 2, (int)(wait_ns / NS_PER_MS + 1));
}

static void take_news(struct batch *batch, const struct pollfd *fds, size_t count) {
    ASSERT(fds);
    ASSERT(count > 0);
    for (size_t i = 0; i < count; i++) {
        struct worker *worker = &batch->workers[i];
        if (worker->child.pid == 0) {
            continue;
        }
        if (worker->child.words_fd >= 0 && fds[i * 2 + 1].revents) {
            child_read_tail(&worker->child.words_fd, &worker->child.words);
        }
        if (worker->child.data_fd >= 0 && fds[i * 2].revents) {
            read_messages(batch, worker);
        }
        if (worker->child.data_fd < 0) {
            end_worker(batch, worker);
        }
    }
}

/* Only after what there was to read was read: it is not the worker's fault when this process had to wait. */
static void kill_late_workers(struct batch *batch, size_t count) {
    uint64_t now = child_clock_ns();
    uint64_t limit_ns = (uint64_t)batch->options->run_ms_max * NS_PER_MS;
    ASSERT(limit_ns > 0);
    ASSERT(count <= BATCH_JOB_COUNT_MAX);
    for (size_t i = 0; i < count; i++) {
        struct worker *worker = &batch->workers[i];
        if (worker->child.pid > 0 && !worker->hangs && now - worker->begun_ns >= limit_ns) {
            worker->hangs = true;
            child_kill(&worker->child);
        }
    }
}

static bool start_workers(struct batch *batch, size_t *ret_running_count) {
    size_t running_count = 0;
    bool started = true;
    ASSERT(ret_running_count);
    ASSERT(batch->summary->job_count > 0);
    for (size_t i = 0; i < batch->summary->job_count && started; i++) {
        struct worker *worker = &batch->workers[i];
        if (worker->child.pid == 0) {
            started = start_worker(batch, worker);
        }
        running_count += worker->child.pid > 0;
    }
    *ret_running_count = running_count;
    return started;
}

static bool run_all(struct batch *batch, struct pollfd *fds) {
    const struct batch_options *options = batch->options;
    const struct batch_summary *summary = batch->summary;
    size_t running_count = 0;
    ASSERT(batch->workers);
    ASSERT(fds);
    while (start_workers(batch, &running_count)) {
        if (running_count == 0) {
            ASSERT(summary->run_count == options->run_count);
            return true;
        }
        wait_for_news(batch, fds, summary->job_count);
        take_news(batch, fds, summary->job_count);
        kill_late_workers(batch, summary->job_count);
        if (options->progress) {
            options->progress(options->progress_context, summary->run_count, summary->failed_count);
        }
        if (options->stop_at_failure && summary->failed_count > 0) {
            return true;
        }
    }
    return false;
}

static void end_all(struct batch *batch) {
    ASSERT(batch->workers);
    ASSERT(batch->summary->job_count <= BATCH_JOB_COUNT_MAX);
    for (size_t i = 0; i < batch->summary->job_count; i++) {
        if (batch->workers[i].child.pid > 0) {
            child_kill(&batch->workers[i].child);
            child_end(&batch->workers[i].child);
        }
    }
}

bool batch_run(const struct batch_options *options, struct batch_summary *ret_summary) {
    ASSERT(options && options->run && options->run_count > 0);
    ASSERT(options->job_count > 0 && options->job_count <= BATCH_JOB_COUNT_MAX);
    ASSERT(options->run_ms_max > 0);
    struct batch batch = {.options = options, .summary = ret_summary};
    uint64_t start_ns = child_clock_ns();
    memset(ret_summary, 0, sizeof(*ret_summary));
    ret_summary->job_count = options->job_count;
    /* Few runs are shared out too: each worker gets several portions. */
    batch.worker_run_count = options->run_count / (options->job_count * 4u) + 1;
    if (batch.worker_run_count > BATCH_WORKER_RUN_COUNT_MAX) {
        batch.worker_run_count = BATCH_WORKER_RUN_COUNT_MAX;
    }
    batch.workers = calloc(options->job_count, sizeof(*batch.workers));
    struct pollfd *fds = calloc(options->job_count, 2 * sizeof(*fds));
    bool done = batch.workers && fds && run_all(&batch, fds);
    if (batch.workers) {
        int os_error = errno;
        end_all(&batch);
        errno = os_error;
    }
    free(fds);
    free(batch.workers);
    ret_summary->elapsed_ns = child_clock_ns() - start_ns;
    return done;
}
