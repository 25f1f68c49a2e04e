/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Real QEMU, killed at random moments of a VM's life, and its owner likewise. Afterwards the state is right, the error
 * says what happened, a bundle is there whole or not at all, and nothing runs or lies around.
 */
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/assert.h"
#include "base/error.h"
#include "kelpie.h"
#include "support/command.h"

#if defined(__SANITIZE_ADDRESS__)
#define ROUND_COUNT 40 /* the same paths, more slowly */
#else
#define ROUND_COUNT 200
#endif
#define BOOT_PERIOD 20 /* each such round boots; the others restore, which is faster */
#define MOMENT_MS_LEAST                                                                            \
    250 /* after the beginning of a life that is restored: so far at least, and */
#define MOMENT_MS_MOST 5000     /* at most, else as far as one round of it takes on this machine */
#define BOOT_MOMENT_MS_MAX 2500 /* after that of one that boots */
#define GONE_MS_MAX 5000
#define FOLDER_ENTRY_COUNT 1 /* the bundle that every life begins with */

#define ARGV(...) ((const char *const[]){__VA_ARGS__, NULL})

/* ---- A life ----------------------------------------------------------------------------------- */

enum stage { STAGE_BEGIN = 0, STAGE_EXEC, STAGE_COPY, STAGE_PAUSE, STAGE_SNAPSHOT, STAGE_COUNT };

static const char *const stage_names[] = {"start or restore", "exec", "copy", "pause", "snapshot"};
static_assert(ARRAY_SIZE(stage_names) == STAGE_COUNT, "each stage has a name");

struct life {
    const char *bundle; /* to restore; NULL: it boots */
    char snapshot[256]; /* where it writes its own */
    char file[256];
    struct kelpie_vm *vm;
    volatile enum stage stage;
};

static const struct kelpie_config config = {.backend = "qemu", .memory_mib = 128};

static enum kelpie_status exec_once(struct life *life, struct kelpie_error *err) {
    struct kelpie_output output = {0};
    const struct kelpie_command command = {.argv = ARGV("head", "-c", "300000", "/dev/zero")};
    enum kelpie_status status = kelpie_vm_exec(life->vm, &command, &output, err);
    if (status == KELPIE_OK && output.stdout_size != 300000) {
        status = error_set(err, KELPIE_INTERNAL, "only %zu bytes came", output.stdout_size);
    }
    kelpie_output_free(&output);
    return status;
}

static void empty_folder(const char *path) {
    static const char *const parts[] = {"manifest.json", "state", "memory"};
    char file[512];
    for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
        snprintf(file, sizeof(file), "%s/%s", path, parts[i]);
        unlink(file);
    }
    rmdir(path);
}

/* Renamed first: an owner that is killed meanwhile leaves no half of a bundle under its name. */
static void remove_bundle(const char *path) {
    char removed[300];
    snprintf(removed, sizeof(removed), "%s-removed", path);
    empty_folder(removed);
    if (rename(path, removed) == 0) {
        empty_folder(removed);
    }
}

static enum kelpie_status begin(struct life *life, struct kelpie_error *err) {
    life->stage = STAGE_BEGIN;
    return life->bundle ? kelpie_vm_restore(life->vm, life->bundle, NULL, err)
                        : kelpie_vm_start(life->vm, err);
}

/* What users do, once. */
static enum kelpie_status go_round(struct life *life, struct kelpie_error *err) {
    life->stage = STAGE_EXEC;
    TRY(exec_once(life, err));
    life->stage = STAGE_COPY;
    TRY(kelpie_copy_out(life->vm, "/bin/busybox", life->file, NULL, err));
    TRY(kelpie_copy_in(life->vm, life->file, "/tmp/busybox", NULL, err));
    unlink(life->file);
    life->stage = STAGE_PAUSE;
    TRY(kelpie_vm_pause(life->vm, err));
    TRY(kelpie_vm_resume(life->vm, err));
    life->stage = STAGE_SNAPSHOT;
    TRY(kelpie_vm_snapshot(life->vm, life->snapshot, NULL, NULL, err));
    remove_bundle(life->snapshot);
    return KELPIE_OK;
}

/* Again and again, until something fails. */
static enum kelpie_status live(struct life *life, struct kelpie_error *err) {
    TRY(begin(life, err));
    for (;;) { /* the killer ends it */
        TRY(go_round(life, err));
    }
}

/* ---- Chance and looking around ---------------------------------------------------------------- */

static void sleep_ms(unsigned ms) {
    struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    nanosleep(&pause, NULL);
}

/* The same moments in each run; what they hit differs. */
static unsigned random_ms(unsigned round, unsigned max_ms) {
    uint64_t value = (round + 1) * 0x9e3779b97f4a7c15ull;
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9ull;
    return (unsigned)((value >> 33) % max_ms);
}

static size_t entry_count(const char *path) {
    DIR *folder = opendir(path);
    assert_non_null(folder);
    size_t count = 0;
    for (struct dirent *entry = readdir(folder); entry; entry = readdir(folder)) {
        count += entry->d_name[0] != '.';
    }
    closedir(folder);
    return count;
}

static bool process_is_gone(int pid) {
    for (unsigned waited_ms = 0; waited_ms < GONE_MS_MAX; waited_ms += 10) {
        if (kill(pid, 0) != 0 && errno == ESRCH) {
            return true;
        }
        sleep_ms(10);
    }
    return false;
}

/* There, and whole, or not there. Removes it. */
static void check_bundle(const char *path) {
    struct kelpie_error err = {0};
    enum kelpie_status status = kelpie_snapshot_verify(path, &err);
    if (status != KELPIE_OK && status != KELPIE_NOT_FOUND) {
        fail_msg("a broken bundle: %s: %s", kelpie_status_name(status), err.message);
    }
    remove_bundle(path);
}

static void print_stages(const unsigned counts[STAGE_COUNT]) {
    unsigned reached = 0;
    for (size_t i = 0; i < STAGE_COUNT; i++) {
        print_message("killed in %s: %u\n", stage_names[i], counts[i]);
        reached += counts[i] > 0;
    }
    assert_true(reached >= STAGE_COUNT - 1); /* pause is short: chance may miss it */
}

/* ---- QEMU dies -------------------------------------------------------------------------------- */

struct killer {
    struct life *life;
    unsigned moment_ms;
    volatile bool over;
    int pid;
};

static void *killer_run(void *argument) {
    struct killer *killer = argument;
    sleep_ms(killer->moment_ms);
    while (!killer->over && killer->pid == 0) {
        int pid = kelpie_vm_process_id(killer->life->vm);
        if (pid > 0 && kill(pid, SIGKILL) == 0) {
            killer->pid = pid;
        } else {
            sleep_ms(1);
        }
    }
    return NULL;
}

static void check_error(const struct life *life, enum kelpie_status status,
                        const struct kelpie_error *err) {
    bool began = life->stage != STAGE_BEGIN;
    enum kelpie_state state = kelpie_vm_state(life->vm);
    bool right = status == KELPIE_CRASHED ||
                 (began && status == KELPIE_WRONG_STATE) || /* it died between two calls */
                 (!began && status == KELPIE_BOOT_FAILED) ||
                 (!began && status == KELPIE_RESTORE_FAILED);
    if (!right || strlen(err->message) == 0) {
        fail_msg("in %s: %s: %s", stage_names[life->stage], kelpie_status_name(status),
                 err->message);
    }
    if (state != KELPIE_STATE_CRASHED && (began || state != KELPIE_STATE_CREATED)) {
        fail_msg("in %s: the state is %s (%s)", stage_names[life->stage], kelpie_state_name(state),
                 err->message);
    }
    bool says_why = strstr(err->message, "signal 9") || status == KELPIE_WRONG_STATE;
    if (!says_why) {
        fail_msg("in %s it does not say why: %s", stage_names[life->stage], err->message);
    }
}

static void kill_qemu_once(struct life *life, unsigned round, unsigned moment_ms_max) {
    struct kelpie_error err = {0};
    unsigned moment_max_ms = life->bundle ? moment_ms_max : BOOT_MOMENT_MS_MAX;
    struct killer killer = {.life = life, .moment_ms = random_ms(round, moment_max_ms)};
    pthread_t thread;
    assert_int_equal(kelpie_vm_create(&config, &life->vm, &err), KELPIE_OK);
    assert_int_equal(pthread_create(&thread, NULL, killer_run, &killer), 0);
    enum kelpie_status status = live(life, &err);
    killer.over = true;
    pthread_join(thread, NULL);
    assert_true(killer.pid > 0);
    if (life->stage != STAGE_BEGIN) {
        enum kelpie_state state = KELPIE_STATE_CREATED;
        struct kelpie_error ignored;
        assert_int_equal(
            kelpie_vm_wait(life->vm, 1u << KELPIE_STATE_CRASHED, 5000, &state, &ignored),
            KELPIE_OK);
    }
    check_error(life, status, &err);
    kelpie_vm_destroy(life->vm);
    life->vm = NULL;
    assert_true(process_is_gone(killer.pid));
    unlink(life->file);
    check_bundle(life->snapshot);
}

struct fixture {
    char folder[64];
    char bundle[96];
    unsigned moment_ms_max;
};

static void init_life(struct life *life, const char *folder, const char *bundle) {
    *life = (struct life){.bundle = bundle};
    snprintf(life->snapshot, sizeof(life->snapshot), "%s/snapshot", folder);
    snprintf(life->file, sizeof(life->file), "%s/file", folder);
}

static void hazard_e1_qemu_killed_at_random_moments(void **state) {
    struct fixture *fixture = *state;
    struct life life;
    unsigned counts[STAGE_COUNT] = {0};
    init_life(&life, fixture->folder, fixture->bundle);
    kill_qemu_once(&life, 0, fixture->moment_ms_max); /* what is opened once for ever is open now */
    size_t fd_count = entry_count("/proc/self/fd");
    for (unsigned round = 0; round < ROUND_COUNT; round++) {
        life.bundle = round % BOOT_PERIOD == 0 ? NULL : fixture->bundle;
        kill_qemu_once(&life, round, fixture->moment_ms_max);
        counts[life.stage]++;
        assert_int_equal(entry_count(fixture->folder), FOLDER_ENTRY_COUNT);
        assert_int_equal(entry_count("/proc/self/fd"), fd_count);
    }
    print_stages(counts);
}

/* ---- The owner dies --------------------------------------------------------------------------- */

/* In a process of its own: says what it does, and does it until it is killed. */
static int be_owner(const char *folder, const char *bundle) {
    struct life life;
    struct kelpie_error err = {0};
    init_life(&life, folder, bundle[0] ? bundle : NULL);
    if (kelpie_vm_create(&config, &life.vm, &err) == KELPIE_OK) {
        enum kelpie_status status = live(&life, &err);
        fprintf(stderr, "in %s: %s: ", stage_names[life.stage], kelpie_status_name(status));
    }
    fprintf(stderr, "%s\n", err.message);
    return 1;
}

static void kill_owner_once(struct fixture *fixture, const char *program, unsigned round) {
    bool boots = round % BOOT_PERIOD == 0;
    struct command *command = command_start(&(struct command_spec){
        .argv = ARGV(program, "own", fixture->folder, boots ? "" : fixture->bundle)});
    sleep_ms(random_ms(round, boots ? BOOT_MOMENT_MS_MAX : fixture->moment_ms_max));
    command_signal(command, SIGKILL);
    struct command_result result = command_finish(command);
    if (result.code != 128 + SIGKILL) {
        fail_msg("the owner ended before: %s", result.err);
    }
    if (result.processes_left > 0 || result.files_left[0]) {
        fail_msg("it left %u processes, and %s", result.processes_left, result.files_left);
    }
    command_result_free(&result);
    char path[128];
    snprintf(path, sizeof(path), "%s/snapshot", fixture->folder);
    check_bundle(path);
}

/* A snapshot that is made where others were cut short removes what they left. */
static void expect_clean_after_a_snapshot(struct fixture *fixture) {
    struct kelpie_error err = {0};
    struct life life;
    init_life(&life, fixture->folder, fixture->bundle);
    assert_int_equal(kelpie_vm_create(&config, &life.vm, &err), KELPIE_OK);
    assert_int_equal(kelpie_vm_restore(life.vm, life.bundle, NULL, &err), KELPIE_OK);
    assert_int_equal(kelpie_vm_snapshot(life.vm, life.snapshot, NULL, NULL, &err), KELPIE_OK);
    kelpie_vm_destroy(life.vm);
    remove_bundle(life.snapshot);
    unlink(life.file);
    assert_int_equal(entry_count(fixture->folder), FOLDER_ENTRY_COUNT);
}

static void hazard_e1_owner_killed_at_random_moments(void **state) {
    struct fixture *fixture = *state;
    char program[256];
    size_t most = 0;
    ssize_t size = readlink("/proc/self/exe", program, sizeof(program) - 1);
    assert_true(size > 0);
    program[size] = 0;
    for (unsigned round = 0; round < ROUND_COUNT; round++) {
        kill_owner_once(fixture, program, round);
        size_t count = entry_count(fixture->folder);
        most = count > most ? count : most;
    }
    print_message("at most %zu entries were in the folder\n", most);
    assert_true(most <= FOLDER_ENTRY_COUNT + 2); /* a bundle in the making, one being removed */
    expect_clean_after_a_snapshot(fixture);
}

/* ---- Set-up ----------------------------------------------------------------------------------- */

/* How long a restored life takes that nobody ends: chance must be able to hit each of its stages, on a slow machine too. */
static void measure_life(struct fixture *fixture) {
    struct kelpie_error err = {0};
    struct life life;
    struct timespec start, end;
    init_life(&life, fixture->folder, fixture->bundle);
    assert_int_equal(kelpie_vm_create(&config, &life.vm, &err), KELPIE_OK);
    clock_gettime(CLOCK_MONOTONIC, &start);
    if (begin(&life, &err) != KELPIE_OK || go_round(&life, &err) != KELPIE_OK) {
        fail_msg("%s", err.message);
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    kelpie_vm_destroy(life.vm);
    long ms = (end.tv_sec - start.tv_sec) * 1000 + (end.tv_nsec - start.tv_nsec) / 1000000;
    fixture->moment_ms_max = ms < MOMENT_MS_LEAST  ? MOMENT_MS_LEAST
                             : ms > MOMENT_MS_MOST ? MOMENT_MS_MOST
                                                   : (unsigned)ms;
    print_message("one round takes %ld ms: killed within %u ms\n", ms, fixture->moment_ms_max);
}

static int setup(void **state) {
    static struct fixture fixture;
    struct kelpie_error err = {0};
    struct kelpie_probe probe = {0};
    struct kelpie_vm *vm = NULL;
    assert_int_equal(kelpie_backend_probe("qemu", &probe, &err), KELPIE_OK);
    if (!probe.usable) {
        print_error("QEMU cannot be used here: %s\n", probe.reason);
        return 1;
    }
    snprintf(fixture.folder, sizeof(fixture.folder), "/tmp/kelpie-kill-XXXXXX");
    assert_non_null(mkdtemp(fixture.folder));
    snprintf(fixture.bundle, sizeof(fixture.bundle), "%s/bundle", fixture.folder);
    assert_int_equal(kelpie_vm_create(&config, &vm, &err), KELPIE_OK);
    if (kelpie_vm_start(vm, &err) != KELPIE_OK ||
        kelpie_vm_snapshot(vm, fixture.bundle, NULL, NULL, &err) != KELPIE_OK) {
        fail_msg("%s", err.message);
    }
    kelpie_vm_destroy(vm);
    measure_life(&fixture);
    *state = &fixture;
    return 0;
}

static int teardown(void **state) {
    struct fixture *fixture = *state;
    remove_bundle(fixture->bundle);
    assert_int_equal(rmdir(fixture->folder), 0);
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 4 && strcmp(argv[1], "own") == 0) {
        return be_owner(argv[2], argv[3]);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(hazard_e1_qemu_killed_at_random_moments, setup, teardown),
        cmocka_unit_test_setup_teardown(hazard_e1_owner_killed_at_random_moments, setup, teardown),
    };
    return cmocka_run_group_tests_name("kill", tests, NULL, NULL);
}
