/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The world: turns, time, streams, processes; and that a seed decides everything. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"
#include "host/host_below.h"
#include "sim/world.h"

#define SECOND_NS 1000000000ull

/* ---- A process that does what a test says ----------------------------------------------------- */

struct rig {
    struct sim_world *world;
    struct sim_machine *machine;
    struct sim_process *process;
    struct host *host;
    int (*body)(struct rig *rig);
    struct host_mutex *mutex;
    struct host_condition *condition;
    int fds[2];
    uint64_t count;
    uint64_t order;
    bool flag;
};

static int rig_main(void *argument) {
    struct rig *rig = argument;
    rig->host = &rig->process->host;
    return rig->body(rig);
}

static void rig_open(struct rig *rig, uint64_t seed) {
    const struct sim_options options = {.seed = seed, .event_count_max = 1000000};
    *rig = (struct rig){.world = sim_world_create(&options)};
    assert_non_null(rig->world);
    rig->machine = sim_machine_create(rig->world, "host");
    assert_non_null(rig->machine);
}

static void rig_start(struct rig *rig, int (*body)(struct rig *rig)) {
    const struct sim_process_options options = {
        .name = "test", .main = rig_main, .argument = rig, .owner = true};
    rig->body = body;
    rig->process = sim_process_start(rig->machine, &options);
    assert_non_null(rig->process);
}

static enum sim_end rig_run(struct rig *rig, uint64_t seed, int (*body)(struct rig *rig)) {
    rig_open(rig, seed);
    rig_start(rig, body);
    return sim_world_run(rig->world);
}

static void rig_close(struct rig *rig) {
    sim_process_forget(rig->process);
    sim_world_destroy(rig->world);
}

static void ok(enum kelpie_status status) {
    assert_int_equal(status, KELPIE_OK);
}

/* ---- Time ------------------------------------------------------------------------------------- */

static int body_sleep(struct rig *rig) {
    struct kelpie_error err;
    uint64_t before_ns = host_monotonic_ns(rig->host);
    struct host_wait wait = host_wait_ms(rig->host, 3600 * 1000, HOST_FD_NONE);
    ok(host_sleep(rig->host, &wait, &err));
    rig->count = host_monotonic_ns(rig->host) - before_ns;
    return 7;
}

static void test_an_hour_passes_at_once(void **state) {
    (void)state;
    struct rig rig;
    assert_int_equal(rig_run(&rig, 1, body_sleep), SIM_END_QUIET);
    assert_true(rig.count >= 3600 * SECOND_NS && rig.count < 3601 * SECOND_NS);
    assert_int_equal(rig.process->exit.code, 7);
    assert_string_equal(rig.world->failure, "");
    rig_close(&rig);
}

static void test_a_skewed_clock_reaches_its_deadline(void **state) {
    (void)state;
    for (int32_t skew = -SIM_SKEW_PPM_MAX; skew <= SIM_SKEW_PPM_MAX; skew += 777) {
        struct rig rig;
        rig_open(&rig, 1);
        rig.machine->skew_ppm = skew;
        rig_start(&rig, body_sleep);
        assert_int_equal(sim_world_run(rig.world), SIM_END_QUIET);
        assert_true(rig.count >= 3600 * SECOND_NS && rig.count < 3601 * SECOND_NS);
        rig_close(&rig);
    }
}

/* ---- Threads ---------------------------------------------------------------------------------- */

static void add_one(void *argument) {
    struct rig *rig = argument;
    for (size_t i = 0; i < 20; i++) {
        host_mutex_lock(rig->mutex);
        uint64_t seen = rig->count;
        (void)host_monotonic_ns(rig->host);
        host_condition_broadcast(rig->condition); /* a turn may end here */
        rig->count = seen + 1;
        rig->order = sim_mix(rig->order, rig->world->current->id, seen);
        host_mutex_unlock(rig->mutex);
    }
}

static int body_threads(struct rig *rig) {
    struct kelpie_error err;
    struct host_thread *threads[3];
    ok(host_mutex_create(rig->host, &rig->mutex, &err));
    ok(host_condition_create(rig->host, &rig->condition, &err));
    for (size_t i = 0; i < 3; i++) {
        ok(host_thread_start(rig->host, "adder", add_one, rig, &threads[i], &err));
    }
    host_mutex_lock(rig->mutex);
    while (rig->count < 60) {
        assert_true(host_condition_wait(rig->condition, rig->mutex, UINT64_MAX));
    }
    host_mutex_unlock(rig->mutex);
    for (size_t i = 0; i < 3; i++) {
        host_thread_join(threads[i]);
    }
    host_condition_destroy(rig->condition);
    host_mutex_destroy(rig->mutex);
    return 0;
}

static void test_a_mutex_excludes(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 200; seed++) {
        struct rig rig;
        assert_int_equal(rig_run(&rig, seed, body_threads), SIM_END_QUIET);
        assert_int_equal(rig.count, 60);
        assert_string_equal(rig.world->failure, "");
        rig_close(&rig);
    }
}

static void test_a_seed_decides_everything(void **state) {
    (void)state;
    uint64_t first_order = 0;
    size_t different = 0;
    for (uint64_t seed = 0; seed < 50; seed++) {
        struct rig rigs[2];
        for (size_t i = 0; i < 2; i++) {
            assert_int_equal(rig_run(&rigs[i], seed, body_threads), SIM_END_QUIET);
        }
        assert_int_equal(rigs[0].world->log.hash, rigs[1].world->log.hash);
        assert_int_equal(rigs[0].order, rigs[1].order);
        different += seed > 0 && rigs[0].order != first_order;
        first_order = seed == 0 ? rigs[0].order : first_order;
        rig_close(&rigs[0]);
        rig_close(&rigs[1]);
    }
    assert_true(different > 30);
}

static int body_deadlock(struct rig *rig) {
    struct kelpie_error err;
    ok(host_mutex_create(rig->host, &rig->mutex, &err));
    ok(host_condition_create(rig->host, &rig->condition, &err));
    host_mutex_lock(rig->mutex);
    (void)host_condition_wait(rig->condition, rig->mutex, UINT64_MAX);
    return 0;
}

static void test_a_deadlock_is_told(void **state) {
    (void)state;
    struct rig rig;
    assert_int_equal(rig_run(&rig, 1, body_deadlock), SIM_END_STUCK);
    assert_string_equal(rig.process->fibers->waits_for, "a condition");
    rig_close(&rig);
}

static int body_forever(struct rig *rig) {
    while (rig->host) {
        free(host_allocate(rig->host, 1, NULL));
    }
    return 0;
}

static void test_a_loop_without_end_is_ended(void **state) {
    (void)state;
    struct rig rig;
    rig_open(&rig, 3);
    rig.world->event_count_max = 10000;
    rig_start(&rig, body_forever);
    assert_int_equal(sim_world_run(rig.world), SIM_END_LIMIT);
    rig_close(&rig);
}

static int body_leak(struct rig *rig) {
    struct kelpie_error err;
    return host_event_create(rig->host, &rig->fds[0], &err) == KELPIE_OK ? 0 : 1;
}

static void test_a_leak_is_told(void **state) {
    (void)state;
    struct rig rig;
    assert_int_equal(rig_run(&rig, 1, body_leak), SIM_END_QUIET);
    assert_non_null(strstr(rig.world->failure, "leak: test ended with 1 descriptors"));
    rig_close(&rig);
}

/* ---- Streams ---------------------------------------------------------------------------------- */

#define STREAM_BYTES 100000u

static uint8_t byte_at(uint64_t offset) {
    return (uint8_t)sim_mix(offset, 5, 5);
}

static void write_stream(void *argument) {
    struct rig *rig = argument;
    struct kelpie_error err;
    struct host_wait wait = host_wait_ms(rig->host, 1000000, HOST_FD_NONE);
    uint8_t piece[777];
    for (uint64_t sent = 0; sent < STREAM_BYTES;) {
        size_t size =
            STREAM_BYTES - sent < sizeof(piece) ? (size_t)(STREAM_BYTES - sent) : sizeof(piece);
        for (size_t i = 0; i < size; i++) {
            piece[i] = byte_at(sent + i);
        }
        size_t count = 0;
        ok(host_write(rig->host, rig->fds[0], piece, size, &wait, &count, &err));
        sent += count;
    }
    host_close(rig->host, rig->fds[0]);
}

static int body_stream(struct rig *rig) {
    struct kelpie_error err;
    struct host_thread *thread = NULL;
    struct host_wait wait = host_wait_ms(rig->host, 1000000, HOST_FD_NONE);
    uint8_t piece[1000];
    size_t size = 1;
    ok(host_socket_pair(rig->host, rig->fds, &err));
    ok(host_thread_start(rig->host, "writer", write_stream, rig, &thread, &err));
    while (size > 0) {
        ok(host_read(rig->host, rig->fds[1], piece, sizeof(piece), &wait, &size, &err));
        for (size_t i = 0; i < size; i++) {
            assert_int_equal(piece[i], byte_at(rig->count + i));
        }
        rig->count += size;
    }
    host_thread_join(thread);
    host_close(rig->host, rig->fds[1]);
    return 0;
}

static void test_a_stream_keeps_its_bytes(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 100; seed++) {
        struct rig rig;
        rig_open(&rig, seed);
        rig.world->faults.ppm[SIM_FAULT_STREAM_DELAYED] = seed % 3 == 0 ? 300000 : 0;
        rig.world->faults.ppm[SIM_FAULT_STREAM_SHORT_READ] = seed % 2 == 0 ? 500000 : 0;
        rig.world->faults.ppm[SIM_FAULT_STREAM_SHORT_WRITE] = seed % 5 == 0 ? 500000 : 0;
        rig_start(&rig, body_stream);
        assert_int_equal(sim_world_run(rig.world), SIM_END_QUIET);
        assert_int_equal(rig.count, STREAM_BYTES);
        assert_string_equal(rig.world->failure, "");
        rig_close(&rig);
    }
}

/* What is attached to a byte arrives with it, once, and two never in one read. */
static int body_receive(struct rig *rig) {
    struct host *host = rig->host;
    struct kelpie_error err;
    struct host_wait wait = host_wait_ms(host, 1000, HOST_FD_NONE);
    uint8_t bytes[16];
    struct host_received received = {0};
    int passed[2];
    ok(host_socket_pair(host, rig->fds, &err));
    ok(host_socket_pair(host, passed, &err));
    ok(host_write_all(host, rig->fds[0], "-", 1, &wait, &err));
    ok(host_socket_send_fd(host, rig->fds[0], "one", 3, passed[0], &err));
    ok(host_socket_send_fd(host, rig->fds[0], "two", 3, passed[1], &err));
    host_close(host, passed[0]);
    host_close(host, passed[1]);
    size_t fd_count = 0;
    for (size_t used = 0; used < 7; used += received.size) {
        ok(host_receive(host, rig->fds[1], bytes + used, sizeof(bytes) - used, &wait, &received,
                        &err));
        if (received.fd != HOST_FD_NONE) {
            passed[fd_count++] = received.fd;
        }
    }
    assert_int_equal(fd_count, 2);
    assert_memory_equal(bytes, "-onetwo", 7);
    ok(host_write_all(host, passed[0], "x", 1, &wait, &err));
    ok(host_receive(host, passed[1], bytes, sizeof(bytes), &wait, &received, &err));
    assert_int_equal(received.fd, HOST_FD_NONE);
    rig->count = received.size;
    for (size_t i = 0; i < 2; i++) {
        host_close(host, passed[i]);
        host_close(host, rig->fds[i]);
    }
    return 0;
}

static void test_a_descriptor_is_received_once(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct rig rig;
        assert_int_equal(rig_run(&rig, seed, body_receive), SIM_END_QUIET);
        assert_int_equal(rig.count, 1);
        assert_string_equal(rig.world->failure, "");
        rig_close(&rig);
    }
}

static int body_timeout(struct rig *rig) {
    struct kelpie_error err;
    char byte = 0;
    size_t size = 0;
    int event = HOST_FD_NONE;
    ok(host_socket_pair(rig->host, rig->fds, &err));
    ok(host_event_create(rig->host, &event, &err));
    struct host_wait wait = host_wait_ms(rig->host, 5, event);
    uint64_t before_ns = host_monotonic_ns(rig->host);
    assert_int_equal(host_read(rig->host, rig->fds[0], &byte, 1, &wait, &size, &err),
                     KELPIE_TIMED_OUT);
    rig->count = host_monotonic_ns(rig->host) - before_ns;
    host_event_set(rig->host, event);
    wait = host_wait_ms(rig->host, 5, event);
    assert_int_equal(host_read(rig->host, rig->fds[0], &byte, 1, &wait, &size, &err),
                     KELPIE_CANCELLED);
    host_close(rig->host, rig->fds[1]);
    ok(host_read(rig->host, rig->fds[0], &byte, 1, &wait, &size, &err)); /* readiness goes first */
    assert_int_equal(size, 0);
    assert_int_equal(host_write(rig->host, rig->fds[0], &byte, 1, &wait, &size, &err),
                     KELPIE_IO_FAILED);
    host_close(rig->host, rig->fds[0]);
    host_close(rig->host, event);
    return 0;
}

static void test_waits_end_as_on_linux(void **state) {
    (void)state;
    struct rig rig;
    assert_int_equal(rig_run(&rig, 1, body_timeout), SIM_END_QUIET);
    assert_true(rig.count >= 5000000 && rig.count < 6000000);
    rig_close(&rig);
}

/* ---- Processes -------------------------------------------------------------------------------- */

static int body_wait_for_ever(struct rig *rig) {
    struct kelpie_error err;
    char byte = 0;
    size_t size = 0;
    ok(host_socket_pair(rig->host, rig->fds, &err));
    struct host_wait wait = {.deadline_ns = UINT64_MAX, .cancel_fd = HOST_FD_NONE};
    rig->flag = true;
    ok(host_read(rig->host, rig->fds[0], &byte, 1, &wait, &size, &err));
    return 0;
}

struct killer {
    struct rig *rig;
    struct sim_process *self;
};

static int kill_other(void *argument) {
    struct killer *killer = argument;
    struct host *host = &killer->self->host;
    struct kelpie_error err;
    struct host_wait wait = host_wait_ms(host, 10, HOST_FD_NONE);
    ok(host_sleep(host, &wait, &err));
    assert_true(killer->rig->flag);
    sim_process_kill(killer->rig->process, 9);
    sim_process_await(killer->rig->process);
    return 0;
}

static void test_a_killed_process_leaves_nothing(void **state) {
    (void)state;
    struct rig rig;
    rig_open(&rig, 1);
    rig_start(&rig, body_wait_for_ever);
    struct killer killer = {.rig = &rig};
    const struct sim_process_options options = {
        .name = "killer", .main = kill_other, .argument = &killer, .immune = true};
    killer.self = sim_process_start(rig.machine, &options);
    assert_int_equal(sim_world_run(rig.world), SIM_END_QUIET);
    assert_true(rig.process->ended);
    assert_int_equal(rig.process->exit.signal, 9);
    assert_int_equal(rig.process->handle_count, 0);
    assert_true(rig.process->killed);
    assert_string_equal(rig.world->failure, "");
    sim_process_forget(killer.self);
    rig_close(&rig);
}

/* A passt with both ends of its socket waits for ever, and so nothing but a signal ends it. */
static struct host_process *start_detached(struct rig *rig) {
    const char *const argv[] = {"passt", "--fd", "3", "--mac-addr", "02:00:00:00:00:01", NULL};
    struct kelpie_error err;
    ok(host_socket_pair(rig->host, rig->fds, &err));
    const struct host_process_fd fds[] = {{.child_fd = 3, .fd = rig->fds[0]},
                                          {.child_fd = 4, .fd = rig->fds[1]}};
    const struct host_process_spec spec = {
        .argv = argv, .fds = fds, .fd_count = 2, .detached = true};
    struct host_process *process = NULL;
    ok(host_process_spawn(rig->host, &spec, &process, &err));
    host_close(rig->host, rig->fds[0]);
    host_close(rig->host, rig->fds[1]);
    return process;
}

static int body_detach(struct rig *rig) {
    host_process_destroy(start_detached(rig));
    return 0;
}

static void test_a_detached_process_outlives_its_maker(void **state) {
    (void)state;
    struct rig rig;
    assert_int_equal(rig_run(&rig, 1, body_detach), SIM_END_STUCK);
    assert_true(rig.process->ended);
    assert_string_equal(rig.world->failure, "");
    const struct sim_process *left = rig.world->processes;
    while (left && strcmp(left->program, "passt") != 0) {
        left = left->next;
    }
    assert_non_null(left);
    assert_false(left->ended);
    assert_int_equal(left->holder_count, 0);
    rig_close(&rig);
}

static int body_detach_and_wait(struct rig *rig) {
    struct host_process *process = start_detached(rig);
    struct host_wait wait = host_wait_ms(rig->host, 10000, HOST_FD_NONE);
    struct host_process_exit end = {.code = 42};
    struct kelpie_error err;
    ok(host_process_signal(process, 15, &err));
    assert_int_equal(host_process_wait(process, &wait, &end, &err), KELPIE_UNSUPPORTED);
    rig->count = (uint64_t)end.code;
    host_process_destroy(process);
    return 0;
}

static void test_how_a_detached_process_ended_is_not_told(void **state) {
    (void)state;
    struct rig rig;
    assert_int_equal(rig_run(&rig, 1, body_detach_and_wait), SIM_END_QUIET);
    assert_int_equal(rig.count, 42);
    rig_close(&rig);
}

/* ---- What a process is told of itself and others ---------------------------------------------- */

static int body_usage(struct rig *rig) {
    struct kelpie_error err;
    struct host_process_usage before = {0};
    struct host_process_usage after = {0};
    char folder[16];
    ok(host_process_usage(rig->host, rig->process->id, &before, &err));
    for (size_t i = 0; i < 100; i++) {
        ok(host_working_dir(rig->host, folder, sizeof(folder), &err));
    }
    ok(host_process_usage(rig->host, rig->process->id, &after, &err));
    assert_true(after.cpu_ns > before.cpu_ns + 1000);
    assert_true(after.resident_bytes > 0);
    assert_int_equal(host_process_usage(rig->host, 4711, &after, &err), KELPIE_NOT_FOUND);
    assert_string_equal(folder, "/root");
    assert_int_equal(host_working_dir(rig->host, folder, 5, &err), KELPIE_NO_SPACE);
    rig->count = host_user_id(rig->host);
    return 0;
}

static void test_usage_grows(void **state) {
    (void)state;
    struct rig rig;
    assert_int_equal(rig_run(&rig, 1, body_usage), SIM_END_QUIET);
    assert_int_equal(rig.count, 1000);
    rig_close(&rig);
}

static int body_remove_tree(struct rig *rig) {
    struct host *host = rig->host;
    struct kelpie_error err;
    struct host_file_info info;
    ok(host_path_mkdir_all(host, "/kept", 0700, &err));
    ok(host_file_store(host, "/kept/file", "x", 1, 0600, &err));
    ok(host_path_mkdir_all(host, "/tree/a/b", 0700, &err));
    ok(host_path_mkdir_all(host, "/tree/c", 0700, &err));
    ok(host_file_store(host, "/tree/a/b/file", "x", 1, 0600, &err));
    ok(host_file_store(host, "/tree/file", "x", 1, 0600, &err));
    ok(host_path_symlink(host, "/kept", "/tree/a/link", &err));
    ok(host_path_symlink(host, "/tree", "/link", &err));
    assert_int_equal(host_path_remove_tree(host, "/link", &err), KELPIE_IO_FAILED);
    assert_int_equal(host_path_remove_tree(host, "/tree/file", &err), KELPIE_IO_FAILED);
    ok(host_path_remove_tree(host, "/tree", &err));
    assert_int_equal(host_path_stat(host, "/tree", &info, &err), KELPIE_NOT_FOUND);
    ok(host_path_stat(host, "/kept/file", &info, &err));
    ok(host_path_remove_tree(host, "/tree", &err)); /* it is gone already */

    char deep[4 * HOST_TREE_DEPTH_MAX] = "/deep";
    for (size_t i = 0; i < HOST_TREE_DEPTH_MAX; i++) {
        strcat(deep, "/d");
    }
    ok(host_path_mkdir_all(host, deep, 0700, &err));
    assert_int_equal(host_path_remove_tree(host, "/deep", &err), KELPIE_IO_FAILED);
    assert_int_equal(err.os_error, ELOOP);
    ok(host_path_rmdir(host, deep, &err));
    ok(host_path_remove_tree(host, "/deep", &err));
    return 0;
}

static void test_a_tree_is_removed_without_what_its_links_name(void **state) {
    (void)state;
    struct rig rig;
    assert_int_equal(rig_run(&rig, 1, body_remove_tree), SIM_END_QUIET);
    rig_close(&rig);
}

static int body_below(struct rig *rig) {
    struct host *host = rig->host;
    struct kelpie_error err;
    struct host_file_info info;
    struct host_dir_entry entry;
    char text[8];
    int root_fd = HOST_FD_NONE;
    int fd = HOST_FD_NONE;
    size_t count = 0;
    ok(host_path_mkdir_all(host, "/x/tree", 0700, &err));
    ok(host_path_mkdir_all(host, "/other", 0700, &err));
    ok(host_file_open(host, "/x/tree", HOST_OPEN_READ | HOST_OPEN_NO_FOLLOW, 0, &root_fd, &err));
    ok(host_path_rename(host, "/x", "/y", false, &err)); /* it is the same folder */
    ok(host_below_mkdir(host, root_fd, "a", 0700, &err));
    ok(host_below_open(host, root_fd, "a/file", HOST_OPEN_WRITE | HOST_OPEN_CREATE, 0600, &fd,
                       &err));
    host_close(host, fd);
    ok(host_path_stat(host, "/y/tree/a/file", &info, &err));
    ok(host_below_symlink(host, root_fd, "/other", "out", &err));
    ok(host_below_stat(host, root_fd, "out", &info, &err));
    assert_int_equal(info.type, HOST_FILE_LINK);
    ok(host_below_readlink(host, root_fd, "out", text, sizeof(text), &err));
    assert_string_equal(text, "/other");
    ok(host_below_list(host, root_fd, "a", &entry, 1, &count, &err));
    assert_string_equal(entry.name, "file");
    assert_int_equal(host_below_mkdir(host, root_fd, "out/made", 0700, &err), KELPIE_IO_FAILED);
    assert_int_equal(host_below_list(host, root_fd, "out", &entry, 1, &count, &err),
                     KELPIE_IO_FAILED);
    assert_int_equal(host_below_open(host, root_fd, "out", HOST_OPEN_READ, 0, &fd, &err),
                     KELPIE_IO_FAILED);
    assert_int_equal(host_below_stat(host, root_fd, "b/c", &info, &err), KELPIE_NOT_FOUND);
    host_close(host, root_fd);
    return 0;
}

static void test_no_link_is_followed_below_a_folder(void **state) {
    (void)state;
    struct rig rig;
    assert_int_equal(rig_run(&rig, 1, body_below), SIM_END_QUIET);
    assert_string_equal(rig.world->failure, "");
    rig_close(&rig);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_hour_passes_at_once),
        cmocka_unit_test(test_a_skewed_clock_reaches_its_deadline),
        cmocka_unit_test(test_a_mutex_excludes),
        cmocka_unit_test(test_a_seed_decides_everything),
        cmocka_unit_test(test_a_deadlock_is_told),
        cmocka_unit_test(test_a_loop_without_end_is_ended),
        cmocka_unit_test(test_a_leak_is_told),
        cmocka_unit_test(test_a_stream_keeps_its_bytes),
        cmocka_unit_test(test_waits_end_as_on_linux),
        cmocka_unit_test(test_a_descriptor_is_received_once),
        cmocka_unit_test(test_a_killed_process_leaves_nothing),
        cmocka_unit_test(test_a_detached_process_outlives_its_maker),
        cmocka_unit_test(test_no_link_is_followed_below_a_folder),
        cmocka_unit_test(test_usage_grows),
        cmocka_unit_test(test_a_tree_is_removed_without_what_its_links_name),
        cmocka_unit_test(test_how_a_detached_process_ended_is_not_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
