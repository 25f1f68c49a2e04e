/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * VMs with owners when somebody dies, or several act at once, on the mock. This program is the owners' too
 * (`owner_test supervise`).
 */
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
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/assert.h"
#include "kelpie_store.h"
#include "support/command.h"

#define ARGV(...) ((const char *const[]){__VA_ARGS__, NULL})
#define OK(call) expect((call), KELPIE_OK, &err, #call, __LINE__)
#define FAILS(call, status) expect((call), status, &err, #call, __LINE__)
#define WAIT_MS 10000
#define CLIENT_COUNT 8
#define CLIENT_TURNS 60
#define OTHER_UID 54321
#define COUNTER "i=0; while true; do i=$((i+1)); echo $i; done"

static char program[4096];
static char folder[COMMAND_PATH_SIZE];
static pid_t self;
static const char owner_program[] = "supervise";

/* A child of this program has no test to fail. */
static void give_up(void) {
    if (getpid() != self) {
        _exit(1);
    }
    fail();
}

static void expect(enum kelpie_status status, enum kelpie_status expected,
                   const struct kelpie_error *err, const char *what, int line) {
    if (status != expected) {
        print_error("line %d: %s is %s, and should be %s: %s\n", line, what,
                    kelpie_status_name(status), kelpie_status_name(expected),
                    status != KELPIE_OK ? err->message : "");
        give_up();
    }
}

static struct kelpie_vm *make(const char *name) {
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = NULL;
    const struct kelpie_owner owner = {.program = program};
    const struct kelpie_config config = {.name = name, .backend = "mock", .owner = &owner};
    OK(kelpie_vm_create(&config, &vm, &err));
    OK(kelpie_vm_start(vm, &err));
    return vm;
}

static struct kelpie_vm_info info_of(const char *name) {
    struct kelpie_error err = {0};
    struct kelpie_vm_info info = {0};
    OK(kelpie_vm_find(NULL, name, &info, &err));
    return info;
}

static void sleep_ms(long ms) {
    const struct timespec pause = {.tv_nsec = ms * 1000000};
    nanosleep(&pause, NULL);
}

static void await_gone(int pid) {
    for (int i = 0; i < WAIT_MS / 10 && kill(pid, 0) == 0; i++) {
        sleep_ms(10);
    }
    assert_int_equal(kill(pid, 0), -1);
    assert_int_equal(errno, ESRCH);
}

static void echo(struct kelpie_vm *vm, const char *word) {
    struct kelpie_error err = {0};
    struct kelpie_output output = {0};
    char line[64];
    OK(kelpie_vm_exec(vm, &(struct kelpie_command){.argv = ARGV("echo", word)}, &output, &err));
    snprintf(line, sizeof(line), "%s\n", word);
    assert_string_equal(output.stdout_data, line);
    kelpie_output_free(&output);
}

/* ---- Deaths ------------------------------------------------------------------------------------ */

static void hazard_e1_an_owner_is_killed(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = make("orphan");
    struct kelpie_vm *second = NULL;
    OK(kelpie_vm_open(NULL, "orphan", &second, &err));
    int pid = info_of("orphan").owner_pid;
    assert_int_equal(kill(pid, SIGKILL), 0);
    enum kelpie_state now = KELPIE_STATE_RUNNING;
    /* Each handle hears of it by itself, without being used. */
    OK(kelpie_vm_wait(vm, 1u << KELPIE_STATE_CRASHED, WAIT_MS, &now, &err));
    OK(kelpie_vm_wait(second, 1u << KELPIE_STATE_CRASHED, WAIT_MS, &now, &err));
    struct kelpie_output output = {0};
    assert_int_not_equal(
        kelpie_vm_exec(vm, &(struct kelpie_command){.argv = ARGV("true")}, &output, &err),
        KELPIE_OK);
    FAILS(kelpie_vm_pause(vm, &err), KELPIE_CRASHED);
    assert_true(err.requires_recreate);
    kelpie_vm_close(vm);
    kelpie_vm_close(second);
    await_gone(pid);
    struct kelpie_vm_info info = info_of("orphan");
    assert_int_equal(info.state, KELPIE_STATE_CRASHED);
    assert_int_equal(info.owner_pid, 0);
    assert_true(strlen(info.reason) > 0);
    /* The next owner starts it anew. */
    OK(kelpie_vm_open(NULL, "orphan", &vm, &err));
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_CRASHED);
    OK(kelpie_vm_start(vm, &err));
    echo(vm, "again");
    kelpie_vm_destroy(vm);
    FAILS(kelpie_vm_find(NULL, "orphan", &info, &err), KELPIE_NOT_FOUND);
}

/* Reads numbers from a session, checks each byte against its offset, and returns the next offset. */
static uint64_t read_counter(struct kelpie_exec *exec, uint64_t offset, uint64_t size) {
    static char text[400000];
    struct kelpie_error err = {0};
    for (size_t used = 0, i = 1; text[0] == 0 || (used > 0 && used < sizeof(text) - 16); i++) {
        used += (size_t)snprintf(text + used, sizeof(text) - used, "%zu\n", i);
    }
    const uint64_t end = offset + size;
    while (offset < end) {
        char buffer[4096];
        struct kelpie_chunk chunk = {.buffer = buffer, .size = sizeof(buffer)};
        OK(kelpie_exec_read(exec, &chunk, WAIT_MS, &err));
        assert_true(chunk.offset == offset);
        assert_true(offset + chunk.size < sizeof(text) - 16);
        assert_memory_equal(buffer, text + offset, chunk.size);
        offset += chunk.size;
    }
    return offset;
}

/* A client that reads so much, says how far it came, and is killed in the middle of it all. */
static void be_killed_reading(int tell, uint64_t size) {
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = NULL;
    struct kelpie_exec *exec = NULL;
    OK(kelpie_vm_open(NULL, "reader", &vm, &err));
    OK(kelpie_exec_start(vm, &(struct kelpie_command){.argv = ARGV("sh", "-c", COUNTER)}, &exec,
                         &err));
    uint64_t told[2] = {kelpie_exec_id(exec), read_counter(exec, 0, size)};
    assert_int_equal(write(tell, told, sizeof(told)), sizeof(told));
    for (;;) { /* until it is killed */
        told[1] = read_counter(exec, told[1], 1);
        assert_int_equal(write(tell, told, sizeof(told)), sizeof(told));
    }
}

static void hazard_c6_a_client_is_killed_and_no_byte_is_lost(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = make("reader");
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    if (child == 0) {
        be_killed_reading(ends[1], 5000);
        _exit(1);
    }
    close(ends[1]);
    uint64_t told[2] = {0, 0};
    assert_int_equal(read(ends[0], told, sizeof(told)), sizeof(told));
    sleep_ms(20);
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(waitpid(child, NULL, 0), child);
    uint64_t last[2];
    while (read(ends[0], last, sizeof(last)) == sizeof(last)) {
        told[1] = last[1];
    }
    close(ends[0]);
    struct kelpie_exec *exec = NULL;
    enum kelpie_status status = KELPIE_BUSY;
    for (int i = 0; i < 100 && status == KELPIE_BUSY; i++) {
        status = kelpie_exec_attach(vm, (uint32_t)told[0], &exec, &err);
        sleep_ms(10);
    }
    expect(status, KELPIE_OK, &err, "attach", __LINE__);
    /* What it had read and not yet acknowledged comes again; nothing is left out. */
    char byte = 0;
    struct kelpie_chunk chunk = {.buffer = &byte, .size = 1};
    OK(kelpie_exec_read(exec, &chunk, WAIT_MS, &err));
    assert_true(chunk.offset <= told[1]);
    (void)read_counter(exec, chunk.offset + 1, 3000);
    kelpie_exec_close(exec);
    kelpie_vm_destroy(vm);
}

static void hazard_e1_a_client_is_killed_while_it_waits(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = make("waiter");
    uint32_t id = 0;
    OK(kelpie_vm_run_detached(vm, &(struct kelpie_command){.argv = ARGV("sleep", "1")}, &id, &err));
    pid_t child = fork();
    if (child == 0) {
        struct kelpie_vm *own = NULL;
        struct kelpie_exit ended;
        OK(kelpie_vm_open(NULL, "waiter", &own, &err));
        (void)!kelpie_vm_wait_detached(own, 0, &ended, &err);
        _exit(1);
    }
    sleep_ms(100);
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(waitpid(child, NULL, 0), child);
    echo(vm, "still there");
    struct kelpie_exit ended = {.code = 7};
    OK(kelpie_vm_wait_detached(vm, 0, &ended, &err));
    assert_int_equal(ended.code, 0);
    kelpie_vm_destroy(vm);
}

/* ---- Several at once --------------------------------------------------------------------------- */

static void *open_one(void *argument) {
    struct kelpie_vm **place = argument;
    struct kelpie_error err = {0};
    OK(kelpie_vm_open(NULL, "sought", place, &err));
    return NULL;
}

static void hazard_e3_many_open_a_vm_without_an_owner(void **state) {
    (void)state;
    struct kelpie_vm *vms[CLIENT_COUNT] = {NULL};
    pthread_t threads[CLIENT_COUNT];
    struct kelpie_vm *vm = make("sought");
    int pid = info_of("sought").owner_pid;
    kelpie_vm_close(vm);
    assert_int_equal(kill(pid, SIGKILL), 0);
    await_gone(pid);
    for (size_t i = 0; i < CLIENT_COUNT; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, open_one, &vms[i]), 0);
    }
    for (size_t i = 0; i < CLIENT_COUNT; i++) {
        pthread_join(threads[i], NULL);
        assert_non_null(vms[i]);
    }
    struct kelpie_error err = {0};
    OK(kelpie_vm_start(vms[0], &err));
    /* They have the same VM. */
    for (size_t i = 1; i < CLIENT_COUNT; i++) {
        enum kelpie_state now = KELPIE_STATE_CREATED;
        OK(kelpie_vm_wait(vms[i], 1u << KELPIE_STATE_RUNNING, WAIT_MS, &now, &err));
        echo(vms[i], "one");
        kelpie_vm_close(vms[i]);
    }
    kelpie_vm_destroy(vms[0]);
}

/* One turn of a client; what may fail so is what another's turn brings about. */
static void take_turn(struct kelpie_vm *vm, unsigned choice) {
    struct kelpie_error err = {0};
    struct kelpie_output output = {0};
    enum kelpie_status status = KELPIE_OK;
    switch (choice % 8) {
    case 0:
        status = kelpie_vm_pause(vm, &err);
        break;
    case 1:
        status = kelpie_vm_resume(vm, &err);
        break;
    case 2:
        status = kelpie_vm_stop(vm, 0, &err);
        break;
    case 3:
    case 4:
        status = kelpie_vm_start(vm, &err);
        break;
    default:
        status = kelpie_vm_exec(
            vm, &(struct kelpie_command){.argv = ARGV("echo", "said"), .timeout_ms = 2000}, &output,
            &err);
        if (status == KELPIE_OK) {
            assert_string_equal(output.stdout_data, "said\n");
        }
        kelpie_output_free(&output);
        /* Its machine was stopped meanwhile. */
        status = status == KELPIE_CRASHED ? KELPIE_OK : status;
    }
    if (status != KELPIE_OK && status != KELPIE_WRONG_STATE && status != KELPIE_BUSY &&
        status != KELPIE_BOOT_FAILED && status != KELPIE_EXEC_TIMED_OUT &&
        status != KELPIE_CANCELLED /* a start that another stopped */) {
        print_error("turn %u: %s: %s\n", choice % 8, kelpie_status_name(status), err.message);
        give_up();
    }
}

static void hazard_e3_many_clients_act_at_random(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = make("busy");
    pid_t children[CLIENT_COUNT];
    for (unsigned i = 0; i < CLIENT_COUNT; i++) {
        children[i] = fork();
        if (children[i] == 0) {
            struct kelpie_vm *own = NULL;
            unsigned seed = i + 1;
            OK(kelpie_vm_open(NULL, "busy", &own, &err));
            for (int turn = 0; turn < CLIENT_TURNS; turn++) {
                take_turn(own, (unsigned)rand_r(&seed));
            }
            kelpie_vm_close(own);
            _exit(0);
        }
    }
    for (unsigned i = 0; i < CLIENT_COUNT; i++) {
        int status = 0;
        assert_int_equal(waitpid(children[i], &status, 0), children[i]);
        assert_int_equal(status, 0);
    }
    /* Wherever it was left, it can be brought back, and works. */
    if (kelpie_vm_state(vm) == KELPIE_STATE_PAUSED) {
        OK(kelpie_vm_resume(vm, &err));
    } else if (kelpie_vm_state(vm) == KELPIE_STATE_STOPPED) {
        OK(kelpie_vm_start(vm, &err));
    }
    echo(vm, "well");
    kelpie_vm_destroy(vm);
}

/* ---- Strangers --------------------------------------------------------------------------------- */

static void hazard_e4_another_user_is_not_heard(void **state) {
    (void)state;
    if (geteuid() != 0) {
        print_message("SKIPPED: only root can be another user\n");
        skip();
    }
    struct kelpie_vm *vm = make("private");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "%.60s/run/kelpie/%.16s.sock", folder,
             info_of("private").id);
    /* A socket in a folder of 0700 cannot even be reached: let it be, so that the second wall is seen to stand. */
    assert_int_equal(chmod(folder, 0711), 0);
    char inner[COMMAND_PATH_SIZE];
    snprintf(inner, sizeof(inner), "%.200s/run", folder);
    assert_int_equal(chmod(inner, 0711), 0);
    snprintf(inner, sizeof(inner), "%.200s/run/kelpie", folder);
    assert_int_equal(chmod(inner, 0711), 0);
    assert_int_equal(chmod(address.sun_path, 0777), 0);
    pid_t child = fork();
    if (child == 0) {
        char byte = 0;
        if (setgid(OTHER_UID) != 0 || setuid(OTHER_UID) != 0) {
            _exit(2);
        }
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) != 0) {
            _exit(3);
        }
        static const char hello[] = "\x20\0\0\0{\"op\":\"hello\",\"id\":0,\"version\":1}";
        (void)!send(fd, hello, sizeof(hello) - 1, MSG_NOSIGNAL);
        _exit(recv(fd, &byte, 1, 0) > 0 ? 4 : 0);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_int_equal(chmod(inner, 0700), 0);
    echo(vm, "mine");
    kelpie_vm_destroy(vm);
}

static void hazard_e4_a_folder_of_somebody_elses_is_refused(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = NULL;
    char path[COMMAND_PATH_SIZE];
    const struct kelpie_owner owner = {.program = program};
    const struct kelpie_config config = {.backend = "mock", .owner = &owner};
    snprintf(path, sizeof(path), "%.200s/run/kelpie", folder);
    assert_int_equal(chmod(path, 0770), 0);
    FAILS(kelpie_vm_create(&config, &vm, &err), KELPIE_IO_FAILED);
    assert_non_null(strstr(err.message, path));
    assert_null(vm);
    assert_int_equal(chmod(path, 0700), 0);
}

static void test_a_time_to_live_and_an_idle_time_end_it(void **state) {
    (void)state;
    static const struct {
        struct kelpie_owner owner;
        const char *reason;
    } rows[] = {
        {{.lifetime_ms = 300}, "live"},
        {{.idle_ms = 300}, "used"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct kelpie_error err = {0};
        struct kelpie_vm *vm = NULL;
        struct kelpie_owner owner = rows[i].owner;
        owner.program = program;
        const struct kelpie_config config = {.name = "brief", .backend = "mock", .owner = &owner};
        OK(kelpie_vm_create(&config, &vm, &err));
        OK(kelpie_vm_start(vm, &err));
        kelpie_vm_close(vm);
        struct kelpie_vm_info info = info_of("brief");
        for (int turn = 0; turn < WAIT_MS / 20 && info.state == KELPIE_STATE_RUNNING; turn++) {
            sleep_ms(20);
            info = info_of("brief");
        }
        assert_int_equal(info.state, KELPIE_STATE_STOPPED);
        assert_non_null(strstr(info.reason, rows[i].reason));
        OK(kelpie_vm_remove(NULL, "brief", false, &err));
    }
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], owner_program) == 0) {
        return kelpie_supervise(NULL, 3, -1);
    }
    ssize_t size = readlink("/proc/self/exe", program, sizeof(program) - 1);
    ASSERT(size > 0);
    self = getpid();
    static const char *const variables[] = {"XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR"};
    static const char *const names[] = {"state", "data", "run"};
    char path[COMMAND_PATH_SIZE];
    command_scratch("x", folder);
    *strrchr(folder, '/') = 0;
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        setenv(variables[i], command_scratch(names[i], path), 1);
        int result = mkdir(path, 0700);
        ASSERT(result == 0);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hazard_e1_an_owner_is_killed),
        cmocka_unit_test(hazard_c6_a_client_is_killed_and_no_byte_is_lost),
        cmocka_unit_test(hazard_e1_a_client_is_killed_while_it_waits),
        cmocka_unit_test(hazard_e3_many_open_a_vm_without_an_owner),
        cmocka_unit_test(hazard_e3_many_clients_act_at_random),
        cmocka_unit_test(hazard_e4_another_user_is_not_heard),
        cmocka_unit_test(hazard_e4_a_folder_of_somebody_elses_is_refused),
        cmocka_unit_test(test_a_time_to_live_and_an_idle_time_end_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
