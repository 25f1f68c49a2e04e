/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * VMs with owners in a simulated world: the owner is a process of its own and runs the production code. Each seed is another
 * order of what clients, owner and guest do. A case is the body of a client; others join it, and are killed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"
#include "kelpie_store.h"
#include "sim/peer/owner.h"
#include "sim/world.h"

/* What a process and its threads had allocated is nobody's when it is killed; jansson is built without frame pointers. Asked
 * by the leak sanitizer. */
__attribute__((visibility("default"))) const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) {
    return "leak:fiber_main\nleak:libjansson\n";
}

#define WAIT_MS 20000
#define SEED_COUNT 20
#define BUNDLE "/root/bundle"
#define CHILD_COUNT 2
#define LINE_COUNT 2000
#define HUNG_EVENT_COUNT_MAX 5000 /* in two seconds */
#define KILL_SIGNAL 9
#define COUNTER "i=0; while true; do i=$((i+1)); echo $i; done"
#define ARGV(...) ((const char *const[]){__VA_ARGS__, NULL})
#define OK(call) expect((call), KELPIE_OK, &err, #call, __LINE__)
#define FAILS(call, status) expect((call), status, &err, #call, __LINE__)

static struct sim_world *world;
static struct sim_machine *machine;
static struct host *host; /* of the client that the case is the body of */
static uint64_t seed;

static int run_body(void *argument) {
    void (*const *body)(void) = argument;
    (*body)();
    return 0;
}

static struct sim_process *client_start(void (**body)(void)) {
    const struct sim_process_options options = {
        .name = "client", .main = run_body, .argument = (void *)body, .owner = true};
    struct sim_process *process = sim_process_start(machine, &options);
    assert_non_null(process);
    return process;
}

/* Whoever has a turn now. */
static struct host *host_of_now(void) {
    assert_non_null(world->current);
    return &world->current->process->host;
}

static const struct sim_process *owner_process(void) {
    const struct sim_process *found = NULL;
    for (const struct sim_process *p = world->processes; p; p = p->next) {
        found = !p->ended && strcmp(p->program, PEER_OWNER_PROGRAM) == 0 ? p : found;
    }
    return found;
}

/* All is over: no process, no descriptor, no thread of anybody's is left. */
static void run_world(void (*body)(void)) {
    const struct sim_options options = {.seed = seed};
    world = sim_world_create(&options);
    assert_non_null(world);
    machine = sim_machine_create(world, "host");
    assert_non_null(machine);
    assert_true(sim_machine_furnish(machine));
    struct sim_process *process = client_start(&body);
    host = &process->host;
    assert_int_equal(sim_world_run(world), SIM_END_QUIET);
    assert_string_equal(world->failure, "");
    assert_true(process->ended);
    assert_null(owner_process());
    sim_process_forget(process);
    sim_world_destroy(world);
}

static void expect(enum kelpie_status status, enum kelpie_status expected,
                   const struct kelpie_error *err, const char *what, int line) {
    if (status != expected) {
        fail_msg("seed %llu, line %d: %s is %s, and should be %s: %s", (unsigned long long)seed,
                 line, what, kelpie_status_name(status), kelpie_status_name(expected),
                 status != KELPIE_OK ? err->message : "");
    }
}

static void sleep_for(uint64_t us) {
    struct kelpie_error err = {0};
    const struct host_wait wait = {.deadline_ns = host_monotonic_ns(host_of_now()) + us * 1000,
                                   .cancel_fd = HOST_FD_NONE};
    OK(host_sleep(host_of_now(), &wait, &err));
}

static struct kelpie_vm *make(const char *name) {
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = NULL;
    const struct kelpie_owner owner = {0};
    const struct kelpie_config config = {
        .name = name, .backend = "mock", .memory_mib = 64, .owner = &owner, .host = host};
    OK(kelpie_vm_create(&config, &vm, &err));
    OK(kelpie_vm_start(vm, &err));
    return vm;
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

/* The name is free, and nothing of the VM stays. */
static void expect_removed(const char *name) {
    struct kelpie_error err = {0};
    struct kelpie_vm_info info = {0};
    struct host_dir_entry entries[4];
    size_t count = 0;
    FAILS(kelpie_vm_find(host, name, &info, &err), KELPIE_NOT_FOUND);
    OK(host_dir_list(host, "/root/.local/state/kelpie/vms", entries, ARRAY_SIZE(entries), &count,
                     &err));
    assert_int_equal(count, 0);
    OK(host_dir_list(host, "/run/user/1000/kelpie", entries, ARRAY_SIZE(entries), &count, &err));
    assert_int_equal(count, 0);
}

/* ---- A life ----------------------------------------------------------------------------------- */

static void write_file(struct kelpie_vm *vm, const char *text) {
    struct kelpie_error err = {0};
    struct kelpie_output output = {0};
    const struct kelpie_command command = {.argv = ARGV("sh", "-c", "cat > /tmp/file"),
                                           .stdin_data = text,
                                           .stdin_size = strlen(text)};
    OK(kelpie_vm_exec(vm, &command, &output, &err));
    assert_int_equal(output.exit.code, 0);
    kelpie_output_free(&output);
}

static void expect_file(struct kelpie_vm *vm, const char *text) {
    struct kelpie_error err = {0};
    struct kelpie_output output = {0};
    OK(kelpie_vm_exec(vm, &(struct kelpie_command){.argv = ARGV("cat", "/tmp/file")}, &output,
                      &err));
    assert_string_equal(output.stdout_data, text);
    kelpie_output_free(&output);
}

static void fork_some(struct kelpie_vm *vm) {
    struct kelpie_error err = {0};
    struct kelpie_fork_child children[CHILD_COUNT] = {{0}};
    OK(kelpie_vm_fork(vm, NULL, CHILD_COUNT, children, &err));
    for (size_t i = 0; i < CHILD_COUNT; i++) {
        assert_non_null(children[i].vm);
        expect_file(children[i].vm, "first");
        kelpie_vm_destroy(children[i].vm);
    }
}

static void body_life(void) {
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = make("life");
    struct kelpie_vm *second = NULL;
    enum kelpie_state now = KELPIE_STATE_STOPPED;
    write_file(vm, "first");
    OK(kelpie_vm_snapshot(vm, BUNDLE, NULL, NULL, &err));
    fork_some(vm);
    write_file(vm, "second");
    OK(kelpie_vm_open(host, "life", &second, &err));
    expect_file(second, "second");
    OK(kelpie_vm_stop(vm, 0, &err));
    OK(kelpie_vm_restore(second, BUNDLE, NULL, &err));
    OK(kelpie_vm_wait(vm, 1u << KELPIE_STATE_RUNNING, WAIT_MS, &now,
                      &err)); /* it is told a moment later */
    expect_file(vm, "first");
    kelpie_vm_close(second);
    kelpie_vm_destroy(vm);
    expect_removed("life");
}

/* ---- The owner is killed ---------------------------------------------------------------------- */

static void body_owner_killed(void) {
    struct kelpie_error err = {0};
    struct kelpie_vm_info info = {0};
    struct kelpie_vm *vm = make("orphan");
    enum kelpie_state now = KELPIE_STATE_RUNNING;
    OK(kelpie_vm_find(host, "orphan", &info, &err));
    struct sim_process *owner = (struct sim_process *)(uintptr_t)owner_process();
    assert_non_null(owner);
    assert_int_equal(info.owner_pid, owner->id);
    sleep_for(sim_choose(&world->choices, 1000));
    sim_process_kill(owner, KILL_SIGNAL);
    OK(kelpie_vm_wait(vm, 1u << KELPIE_STATE_CRASHED, WAIT_MS, &now, &err));
    FAILS(kelpie_vm_pause(vm, &err), KELPIE_CRASHED);
    kelpie_vm_close(vm);
    OK(kelpie_vm_find(host, "orphan", &info, &err));
    assert_int_equal(info.state, KELPIE_STATE_CRASHED);
    assert_int_equal(info.owner_pid, 0);
    OK(kelpie_vm_open(host, "orphan", &vm, &err));
    OK(kelpie_vm_start(vm, &err));
    echo(vm, "again");
    kelpie_vm_destroy(vm);
    expect_removed("orphan");
}

/* Who takes it over fails, says so, and leaves it to the next. */
static void body_adopted_in_vain(void) {
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = make("orphan");
    sim_process_kill((struct sim_process *)(uintptr_t)owner_process(), KILL_SIGNAL);
    kelpie_vm_close(vm);
    world->faults.ppm[SIM_FAULT_SOCKET_LISTEN_FAILS] = SIM_PPM;
    FAILS(kelpie_vm_open(host, "orphan", &vm, &err), KELPIE_IO_FAILED);
    world->faults.ppm[SIM_FAULT_SOCKET_LISTEN_FAILS] = 0;
    OK(kelpie_vm_open(host, "orphan", &vm, &err));
    OK(kelpie_vm_start(vm, &err));
    echo(vm, "again");
    kelpie_vm_destroy(vm);
    expect_removed("orphan");
}

static void body_owner_killed_and_removed(void) {
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = make("orphan");
    sim_process_kill((struct sim_process *)(uintptr_t)owner_process(), KILL_SIGNAL);
    kelpie_vm_close(vm);
    OK(kelpie_vm_remove(host, "orphan", false, &err));
    expect_removed("orphan");
}

/* ---- A client is killed ----------------------------------------------------------------------- */

/* What a killed reader had come to. */
static struct {
    uint32_t id;
    uint64_t offset;
    char text[LINE_COUNT * 6];
} told;

/* Each byte stands where the counter wrote it. */
static uint64_t read_counter(struct kelpie_exec *exec, uint64_t offset, uint64_t end) {
    struct kelpie_error err = {0};
    while (offset < end) {
        char buffer[512];
        struct kelpie_chunk chunk = {.buffer = buffer, .size = sizeof(buffer)};
        OK(kelpie_exec_read(exec, &chunk, WAIT_MS, &err));
        assert_true(chunk.offset == offset);
        assert_true(chunk.size > 0 && offset + chunk.size < strlen(told.text));
        assert_memory_equal(buffer, told.text + offset, chunk.size);
        offset += chunk.size;
        told.offset = offset;
    }
    return offset;
}

static void be_killed_reading(void) {
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = NULL;
    struct kelpie_exec *exec = NULL;
    OK(kelpie_vm_open(host_of_now(), "reader", &vm, &err));
    OK(kelpie_exec_start(vm, &(struct kelpie_command){.argv = ARGV("sh", "-c", COUNTER)}, &exec,
                         &err));
    told.id = kelpie_exec_id(exec);
    (void)read_counter(exec, 0, strlen(told.text) / 2);
    sleep_for(WAIT_MS * 1000);
}

static void fill_counter(void) {
    told.id = 0;
    told.offset = 0;
    for (size_t i = 1, used = 0; i <= LINE_COUNT; i++) {
        used += (size_t)snprintf(told.text + used, sizeof(told.text) - used, "%zu\n", i);
    }
}

static void body_client_killed(void) {
    static void (*reader)(void) = be_killed_reading;
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = make("reader");
    struct kelpie_exec *exec = NULL;
    struct kelpie_chunk chunk = {.buffer = (char[1]){0}, .size = 1};
    fill_counter();
    struct sim_process *process = client_start(&reader);
    while (told.offset == 0) {
        sleep_for(sim_choose(&world->choices, 1000));
    }
    sim_process_kill(process, KILL_SIGNAL);
    sim_process_forget(process);
    while (kelpie_exec_attach(vm, told.id, &exec, &err) == KELPIE_BUSY) {
        sleep_for(1000); /* until the owner has noticed */
    }
    assert_non_null(exec);
    OK(kelpie_exec_read(exec, &chunk, WAIT_MS, &err));
    assert_true(chunk.offset <= told.offset); /* again, perhaps; nothing is left out */
    (void)read_counter(exec, chunk.offset + 1, told.offset + 500);
    kelpie_exec_close(exec);
    kelpie_vm_destroy(vm);
    expect_removed("reader");
}

/* It holds the VM and does not read what comes. The owner waits, and does not look again and again. */
static void body_client_hangs(void) {
    static void (*reader)(void) = be_killed_reading;
    struct kelpie_vm *vm = make("reader");
    fill_counter();
    struct sim_process *process = client_start(&reader);
    while (told.offset == 0) {
        sleep_for(1000);
    }
    process->hung = true;
    sleep_for(WAIT_MS * 100);
    uint64_t before = world->event_count;
    sleep_for(WAIT_MS * 100);
    assert_true(world->event_count - before < HUNG_EVENT_COUNT_MAX);
    sim_process_kill(process, KILL_SIGNAL);
    sim_process_forget(process);
    kelpie_vm_destroy(vm);
    expect_removed("reader");
}

/* ---- Others ------------------------------------------------------------------------------------ */

static void be_there_when_the_power_goes(void) {
    struct kelpie_vm *vm = make("dark");
    echo(vm, "light");
    sim_machine_crash(machine);
    kelpie_vm_close(vm);
}

static void find_what_the_power_left(void) {
    struct kelpie_error err = {0};
    struct kelpie_vm_info info = {0};
    OK(kelpie_vm_find(host, "dark", &info, &err));
    assert_int_equal(info.state, KELPIE_STATE_CRASHED);
    assert_int_equal(info.owner_pid, 0);
    OK(kelpie_vm_remove(host, "dark", false, &err));
    expect_removed("dark");
}

static void test_the_power_goes(void **state) {
    (void)state;
    static void (*bodies[])(void) = {be_there_when_the_power_goes, find_what_the_power_left};
    const struct sim_options options = {.seed = seed = 1};
    world = sim_world_create(&options);
    assert_non_null(world);
    machine = sim_machine_create(world, "host");
    assert_true(machine && sim_machine_furnish(machine));
    for (size_t i = 0; i < ARRAY_SIZE(bodies); i++) {
        struct sim_process *process = client_start(&bodies[i]);
        host = &process->host;
        assert_int_equal(sim_world_run(world), SIM_END_QUIET);
        assert_string_equal(world->failure, "");
        assert_true(process->killed == (i == 0));
        assert_null(owner_process());
        assert_int_equal(world->fiber_count, 0);
        sim_process_forget(process);
    }
    sim_world_destroy(world);
}

/* Started in another way, it says so. */
static void body_wrong_arguments(void) {
    struct kelpie_error err = {0};
    struct host_process *process = NULL;
    struct host_process_exit ended = {0};
    const struct host_process_spec spec = {.argv = ARGV(PEER_OWNER_PROGRAM, "list")};
    const struct host_wait wait = host_wait_ms(host, WAIT_MS, HOST_FD_NONE);
    OK(host_process_spawn(host, &spec, &process, &err));
    OK(host_process_wait(process, &wait, &ended, &err));
    assert_int_equal(ended.code, 125);
    host_process_destroy(process);
}

/* ---- All of them ------------------------------------------------------------------------------ */

static void run_all(void **state) {
    void (*const *body)(void) = *state;
    for (seed = 1; seed <= SEED_COUNT; seed++) {
        run_world(*body);
    }
}

int main(int argc, char **argv) {
    static void (*bodies[])(void) = {
        body_life,
        body_owner_killed,
        body_owner_killed_and_removed,
        body_client_killed,
        body_wrong_arguments,
        body_client_hangs,
        body_adopted_in_vain,
    };
    const struct CMUnitTest tests[] = {
        {"test_a_life_with_an_owner", run_all, NULL, NULL, &bodies[0]},
        {"test_the_owner_is_killed", run_all, NULL, NULL, &bodies[1]},
        {"test_what_a_killed_owner_had_is_removed", run_all, NULL, NULL, &bodies[2]},
        {"test_a_client_is_killed", run_all, NULL, NULL, &bodies[3]},
        {"test_an_owner_is_started_wrongly", run_all, NULL, NULL, &bodies[4]},
        {"test_a_client_that_hangs_is_waited_for_idly", run_all, NULL, NULL, &bodies[5]},
        {"test_it_is_adopted_in_vain", run_all, NULL, NULL, &bodies[6]},
        cmocka_unit_test(test_the_power_goes),
    };
    if (argc > 1) {
        cmocka_set_test_filter(argv[1]);
    }
    return cmocka_run_group_tests_name("owner", tests, NULL, NULL);
}
