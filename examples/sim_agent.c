/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * An agent's loop, and its test in a simulated machine. The loop does steps in a VM, takes a snapshot before each, and when
 * one fails goes back to the snapshot and tries again. It has a bug, which shows only when certain things go wrong one
 * after the other. The simulator finds it, and says what had to go wrong:
 *
 *     gcc sim_agent.c $(pkg-config --cflags --libs kelpie) -o sim_agent
 *     ./sim_agent                      seeds 1 to 1000, until one fails
 *     ./sim_agent --fixed              the repaired loop, all of them
 *     ./sim_agent --seed 7 [--fixed]   one of them, with all that happened
 *
 * docs/SIMULATION.md goes through it step by step.
 */
#include <kelpie_sim.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STEP_COUNT 5
#define FAILURE_COUNT_MAX 5
#define RESULT_PATH "/srv/result"

/* ---- The agent: nothing here knows of the simulator ------------------------------------------- */

struct agent {
    void *host;                                 /* of the config: NULL in real life */
    void (*wait_ms)(void *world, unsigned ms);  /* in real life: nanosleep() */
    void (*say)(void *world, const char *text); /* its log */
    void *world;                                /* of those two */
    bool fixed;
    struct kelpie_vm *vm; /* NULL: there is none now */
    unsigned step;        /* the next to do; STEP_COUNT: deliver */
    char bundle[64];      /* the last snapshot; or empty */
    unsigned bundle_step; /* the next step when it was taken */
    unsigned bundle_count;
};

static void say(const struct agent *agent, const char *what, unsigned step, const char *more) {
    char text[1200];
    snprintf(text, sizeof(text), "agent: step %u: %s%s", step, what, more);
    agent->say(agent->world, text);
}

/* What to go back to when the next step goes wrong. It is no great loss if there is none. */
static void checkpoint(struct agent *agent) {
    struct kelpie_error err;
    struct kelpie_snapshot snapshot;
    char bundle[sizeof(agent->bundle)];

    snprintf(bundle, sizeof(bundle), "/srv/bundle-%u", agent->bundle_count++);
    if (kelpie_vm_snapshot(agent->vm, bundle, NULL, &snapshot, &err) != KELPIE_OK) {
        say(agent, "no snapshot: ", agent->step, err.message);
        return;
    }
    memcpy(agent->bundle, bundle, sizeof(bundle));
    agent->bundle_step = agent->step;
}

/* A VM again: as it was at the last snapshot, or a new one. */
static bool come_back(struct agent *agent) {
    struct kelpie_error err;
    struct kelpie_config config = {.backend = "mock", .host = agent->host};

    if (agent->bundle[0] != '\0') {
        if (kelpie_vm_create_from_snapshot(agent->bundle, &config, NULL, &agent->vm, &err) !=
            KELPIE_OK) {
            say(agent, "no restore: ", agent->step, err.message);
            return false;
        }
        if (agent->fixed) {
            agent->step = agent->bundle_step;
        }
        /* The bug, without that line: the snapshot was taken before this step, so go on with this step. But if that one failed,
         * `bundle` is an older one, and what was done since is not in it. */
        say(agent, "restored ", agent->step, agent->bundle);
        return true;
    }
    if (kelpie_vm_create(&config, &agent->vm, &err) != KELPIE_OK ||
        kelpie_vm_start(agent->vm, &err) != KELPIE_OK) {
        say(agent, "no VM: ", agent->step, err.message);
        kelpie_vm_destroy(agent->vm);
        agent->vm = NULL;
        return false;
    }
    agent->step = 0;
    return true;
}

/* What the model wants done next: here it writes a number. At the end, the result is delivered. */
static bool do_step(struct agent *agent) {
    struct kelpie_error err;
    struct kelpie_output output = {0};
    char line[64];
    const char *argv[] = {"sh", "-c", line, NULL};
    const struct kelpie_command command = {.argv = argv, .timeout_ms = 10000};

    snprintf(line, sizeof(line), "echo %u >> /tmp/work", agent->step);
    enum kelpie_status status =
        agent->step == STEP_COUNT ? kelpie_copy_out(agent->vm, "/tmp/work", RESULT_PATH, NULL, &err)
                                  : kelpie_vm_exec(agent->vm, &command, &output, &err);
    bool done = status == KELPIE_OK && output.exit.code == 0;
    say(agent, done ? "done" : "failed: ", agent->step,
        done                  ? ""
        : status == KELPIE_OK ? "the command did not succeed"
                              : err.message);
    kelpie_output_free(&output);
    return done;
}

/* True: the result was delivered. */
static bool agent_run(struct agent *agent) {
    unsigned failure_count = 0;

    while (agent->step <= STEP_COUNT && failure_count < FAILURE_COUNT_MAX) {
        bool done = false;
        if (agent->vm || come_back(agent)) {
            checkpoint(agent);
            done = do_step(agent);
        }
        if (done) {
            agent->step++;
        } else {
            failure_count++;
            kelpie_vm_destroy(agent->vm);
            agent->vm = NULL;
            agent->wait_ms(agent->world, 1000);
        }
    }
    kelpie_vm_destroy(agent->vm);
    agent->vm = NULL;
    return agent->step > STEP_COUNT;
}

/* ---- Its test --------------------------------------------------------------------------------- */

struct trial {
    uint64_t seed;
    bool fixed;
    bool told;                            /* print the timeline */
    bool off[KELPIE_SIM_FAULT_COUNT_MAX]; /* faults that are left out */
    uint64_t fired[KELPIE_SIM_FAULT_COUNT_MAX];
    struct kelpie_sim *sim;
    bool delivered;  /* the agent says so */
    char wrong[256]; /* what did not hold; or empty */
};

static void wait_ms(void *world, unsigned ms) {
    (void)kelpie_sim_sleep_ms(world, ms, NULL);
}

static void note(void *world, const char *text) {
    kelpie_sim_note(world, text);
}

static void print_line(void *argument, const char *text) {
    (void)argument;
    puts(text);
}

static void program(void *argument) {
    struct trial *trial = argument;
    struct agent agent = {
        .wait_ms = wait_ms, .say = note, .world = trial->sim, .fixed = trial->fixed};

    if (kelpie_sim_host(trial->sim, &agent.host, NULL) == KELPIE_OK) {
        trial->delivered = agent_run(&agent);
    }
}

/* What is delivered is right. An agent that gives up delivers nothing. */
static void check_result(struct trial *trial) {
    struct kelpie_error err;
    char *data = NULL;
    size_t size = 0;

    if (!trial->delivered) {
        return;
    }
    if (kelpie_sim_file_read(trial->sim, RESULT_PATH, &data, &size, &err) != KELPIE_OK) {
        snprintf(trial->wrong, sizeof(trial->wrong), "it delivered nothing: %.200s", err.message);
    } else if (strcmp(data, "0\n1\n2\n3\n4\n") != 0) {
        for (char *end = strchr(data, '\n'); end; end = strchr(end, '\n')) {
            *end = ' ';
        }
        snprintf(trial->wrong, sizeof(trial->wrong), "it delivered \"%.100s\", not \"0 1 2 3 4 \"",
                 data);
    }
    free(data);
}

/* One seed. False: something did not hold. */
static bool try_seed(struct trial *trial, const struct kelpie_sim_fault *faults, size_t count) {
    struct kelpie_error err;
    struct kelpie_sim_options options = {.seed = trial->seed,
                                         .faults = KELPIE_SIM_FAULTS_DRAWN,
                                         .line = trial->told ? print_line : NULL};

    trial->delivered = false;
    trial->wrong[0] = '\0';
    if (kelpie_sim_create(&options, &trial->sim, &err) != KELPIE_OK) {
        fprintf(stderr, "sim_agent: %s\n", err.message);
        exit(2);
    }
    for (size_t i = 0; i < count; i++) {
        if (trial->off[i] &&
            kelpie_sim_fault_set(trial->sim, faults[i].name, 0, &err) != KELPIE_OK) {
            exit(2);
        }
    }
    if (kelpie_sim_file_write(trial->sim, "/srv/.keep", "", 0, &err) != KELPIE_OK ||
        kelpie_sim_run(trial->sim, program, trial, &err) != KELPIE_OK) {
        snprintf(trial->wrong, sizeof(trial->wrong), "%.250s", err.message);
    } else {
        check_result(trial);
    }
    for (size_t i = 0; i < count; i++) {
        struct kelpie_sim_fault_counts counts = {0};
        (void)!kelpie_sim_fault_counts(trial->sim, faults[i].name, &counts, NULL);
        trial->fired[i] = counts.fired;
    }
    kelpie_sim_destroy(trial->sim);
    return trial->wrong[0] == '\0';
}

/* Says what had to go wrong: a fault without which the seed still fails is left out. */
static void explain(struct trial *trial, const struct kelpie_sim_fault *faults, size_t count) {
    printf("seed %llu: %s\n", (unsigned long long)trial->seed, trial->wrong);
    for (size_t i = 0; i < count; i++) {
        trial->off[i] = true;
        trial->off[i] = !try_seed(trial, faults, count);
    }
    (void)try_seed(trial, faults, count);
    for (size_t i = 0; i < count; i++) {
        if (trial->fired[i] > 0) {
            printf("    it takes %s (%llu times): %s\n", faults[i].name,
                   (unsigned long long)trial->fired[i], faults[i].what);
        }
    }
}

int main(int argc, char **argv) {
    static struct kelpie_sim_fault faults[KELPIE_SIM_FAULT_COUNT_MAX];
    static struct trial trial;
    uint64_t first = 1;
    uint64_t last = 1000;
    unsigned delivered = 0;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--fixed") == 0) {
            trial.fixed = true;
        } else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc) {
            first = last = strtoull(argv[++i], NULL, 10);
            trial.told = true;
        } else {
            fprintf(stderr, "usage: sim_agent [--fixed] [--seed N]\n");
            return 2;
        }
    }
    size_t count = kelpie_sim_fault_list(faults, KELPIE_SIM_FAULT_COUNT_MAX);
    for (trial.seed = first; trial.seed <= last; trial.seed++) {
        if (!try_seed(&trial, faults, count)) {
            trial.told = false;
            explain(&trial, faults, count);
            return 1;
        }
        delivered += trial.delivered;
    }
    printf("%llu seeds: %u delivered, the others gave up, none delivered anything wrong\n",
           (unsigned long long)(last - first + 1), delivered);
    return 0;
}
