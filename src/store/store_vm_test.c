/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* VMs on disk: whose they are, what their records say, how they are found, made and removed. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/assert.h"
#include "store/store_folder.h"
#include "support/fault_host.h"
#include "support/store_fixture.h"

#define RACE_ROUND_COUNT 50
#define RACER_COUNT 4
#define MANY_VM_COUNT 4000
#define MANY_LIST_MS_MAX 3000 /* of a machine that is busy; alone it is a tenth */

static struct store_fixture fixture;
static struct kelpie_error err;

static int set_up(void **state) {
    (void)state;
    return store_fixture_set_up(&fixture) ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    return store_fixture_tear_down(&fixture) ? 0 : -1;
}

static struct store_vm make(const char *name, enum kelpie_state vm_state) {
    struct store_vm vm = {0};
    assert_int_equal(store_fixture_vm(fixture.store, fixture.host, name, vm_state, &vm), KELPIE_OK);
    return vm;
}

static void make_with_id(const char *name, const char *id) {
    struct store_vm vm;
    struct store_record *record = store_fixture_record(fixture.host, name, id);
    assert_int_equal(store_vm_create(fixture.store, record, &vm, &err), KELPIE_OK);
    store_record_destroy(record);
    store_vm_release(&vm);
}

/* What is found under that word. */
static enum kelpie_status look(const char *word, struct kelpie_vm_info *ret_info, bool *ret_owned) {
    struct store_record *record = NULL;
    enum kelpie_status status = store_vm_read(fixture.store, word, &record, ret_owned, &err);
    if (status == KELPIE_OK) {
        *ret_info = record->info;
        store_record_destroy(record);
    }
    return status;
}

static void write_file(const char *file, const char *text) {
    char path[256];
    snprintf(path, sizeof(path), "%s/state/kelpie/vms/%s", fixture.folder, file);
    assert_int_equal(host_file_store(fixture.host, path, text, strlen(text), 0600, NULL),
                     KELPIE_OK);
}

static size_t count_entries(enum store_room room) {
    struct host_dir_entry *entries = NULL;
    size_t count = 0;
    assert_int_equal(store_list(fixture.store, room, &entries, &count, NULL), KELPIE_OK);
    free(entries);
    return count;
}

/* ---- Records ---------------------------------------------------------------------------------- */

static void a_record_comes_back_as_it_was(void **state) {
    (void)state;
    struct store_vm vm;
    struct store_record *back = NULL;
    bool owned = false;
    struct store_record *record = store_fixture_record(fixture.host, "web", NULL);
    record->info.state = KELPIE_STATE_PAUSED;
    record->info.memory_mib = 512;
    record->info.command_ended = true;
    record->info.command_exit.code = 3;
    snprintf(record->info.labels, sizeof(record->info.labels), "a=b\nc=\xff\xfe");
    snprintf(record->restored_from, sizeof(record->restored_from), "/tmp/\xc3\x28/x");
    assert_int_equal(store_vm_create(fixture.store, record, &vm, &err), KELPIE_OK);
    record->info.memory_mib = 1024;
    assert_int_equal(store_vm_write(&vm, record, &err), KELPIE_OK);
    assert_int_equal(store_vm_read(fixture.store, "web", &back, &owned, &err), KELPIE_OK);
    assert_true(owned);
    assert_memory_equal(&back->info, &record->info, sizeof(back->info));
    assert_string_equal(back->restored_from, record->restored_from);
    assert_string_equal(back->config->config.name, "web");
    store_record_destroy(back);
    store_record_destroy(record);
    store_vm_release(&vm);
}

static void a_record_that_is_too_long_is_refused_and_the_old_one_stays(void **state) {
    (void)state;
    struct store_vm vm = make("web", KELPIE_STATE_STOPPED);
    struct kelpie_vm_info info;
    bool owned = false;
    char *huge = malloc(STORE_RECORD_SIZE_MAX);
    assert_non_null(huge);
    memset(huge, 'x', STORE_RECORD_SIZE_MAX - 1);
    huge[STORE_RECORD_SIZE_MAX - 1] = '\0';
    struct store_record *record = store_fixture_record(fixture.host, "web", NULL);
    record->config->config.kernel_args = huge;
    assert_int_equal(store_vm_write(&vm, record, &err), KELPIE_BAD_CONFIG);
    free(huge);
    store_record_destroy(record);
    assert_int_equal(look("web", &info, &owned), KELPIE_OK);
    assert_int_equal(info.state, KELPIE_STATE_STOPPED);
    store_vm_release(&vm);
}

static void a_damaged_record_is_named_listed_and_removed(void **state) {
    (void)state;
    static const char *const texts[] = {
        "",
        "{",
        "[]",
        "{\"version\":1}",
        "{\"version\":2,\"info\":{},\"config\":{}}",
        "{\"version\":1,\"info\":{\"id\":\"xyz\",\"name\":\"web\"},\"config\":{}}",
        "{\"version\":1,\"info\":{\"id\":\"abc\",\"name\":\"other\"},\"config\":{}}",
        "{\"version\":1,\"info\":{\"id\":\"abc\",\"name\":\"web\",\"state\":99},\"config\":{}}",
        "{\"version\":1,\"info\":{\"id\":\"abc\",\"name\":\"web\"},\"config\":{\"disks\":7}}",
    };
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        struct kelpie_vm_info info;
        struct kelpie_vm_info *list = NULL;
        size_t count = 0;
        bool owned = false;
        struct store_vm vm = make("web", KELPIE_STATE_STOPPED);
        store_vm_release(&vm);
        write_file("web/record.json", texts[i]);
        assert_int_equal(look("web", &info, &owned), KELPIE_INTERNAL);
        assert_non_null(strstr(err.message, "web/record.json"));
        assert_int_equal(kelpie_vm_list(fixture.host, &list, &count, &err), KELPIE_OK);
        assert_int_equal(count, 1);
        assert_string_equal(list[0].name, "web");
        assert_int_equal(list[0].state, KELPIE_STATE_CRASHED);
        assert_non_null(strstr(list[0].reason, "damaged"));
        assert_int_equal(list[0].status, KELPIE_INTERNAL);
        kelpie_list_free(list);
        assert_int_equal(kelpie_vm_remove(fixture.host, "web", false, &err), KELPIE_OK);
        assert_int_equal(count_entries(STORE_VMS), 0);
    }
}

/* One VM is listed as one that is lost, and the other two as they are, when a host's operation fails for one. */
static void lists_with_one_lost(const char *operation, enum kelpie_status expected) {
    struct kelpie_vm_info *list = NULL;
    struct host *faulty = NULL;
    size_t count = 0;
    size_t lost_count = 0;
    assert_int_equal(fault_host_create(fixture.host, &faulty, NULL), KELPIE_OK);
    fault_host_arm(faulty, &(struct fault_plan){.nth = 2, .only = operation, .os_error = EIO});
    assert_int_equal(kelpie_vm_list(faulty, &list, &count, &err), KELPIE_OK);
    assert_non_null(fault_host_fired(faulty));
    assert_int_equal(count, 3);
    for (size_t i = 0; i < count; i++) {
        bool lost = list[i].status != KELPIE_OK;
        lost_count += lost;
        assert_int_equal(list[i].status, lost ? expected : KELPIE_OK);
        assert_true(lost == (list[i].id[0] == '\0'));
        assert_true(lost == (list[i].reason[0] != '\0'));
        assert_string_not_equal(list[i].name, "");
    }
    assert_int_equal(lost_count, 1);
    kelpie_list_free(list);
    host_destroy(faulty);
}

static void one_unreadable_record_does_not_hide_the_others(void **state) {
    (void)state;
    make_with_id("api", "a1");
    make_with_id("db", "d1");
    make_with_id("web", "e1");
    lists_with_one_lost("file_read_at", KELPIE_INTERNAL);
    lists_with_one_lost("file_lock", KELPIE_IO_FAILED);
}

static void what_another_time_may_be_read_is_no_unreadable_record(void **state) {
    struct kelpie_vm_info *list = NULL;
    struct host *faulty = NULL;
    size_t count = 0;
    (void)state;
    make_with_id("web", "e1");
    assert_int_equal(fault_host_create(fixture.host, &faulty, NULL), KELPIE_OK);
    static const int errors[] = {EMFILE, ENFILE};
    for (size_t i = 0; i < ARRAY_SIZE(errors); i++) {
        fault_host_arm(
            faulty, &(struct fault_plan){.nth = 1, .only = "file_read_at", .os_error = errors[i]});
        assert_int_equal(kelpie_vm_list(faulty, &list, &count, &err), KELPIE_IO_FAILED);
    }
    fault_host_disarm(faulty);
    assert_int_equal(kelpie_vm_list(faulty, &list, &count, &err), KELPIE_OK);
    assert_int_equal(count, 1);
    kelpie_list_free(list);
    host_destroy(faulty);
}

/* By whoever asks, until its owner, if one lives, has gone: without the record nobody can speak to it. */
static void a_vm_whose_record_cannot_be_read_is_removed(void **state) {
    struct host *faulty = NULL;
    (void)state;
    assert_int_equal(fault_host_create(fixture.host, &faulty, NULL), KELPIE_OK);
    struct store_vm vm = make("web", KELPIE_STATE_RUNNING);
    const struct fault_plan plan = {
        .nth = 1, .sticky = true, .only = "file_read_at", .os_error = EIO};
    fault_host_arm(faulty, &plan);
    assert_int_equal(kelpie_vm_remove(faulty, "web", true, &err), KELPIE_BUSY);
    assert_non_null(strstr(err.message, "kelpie supervise"));
    assert_int_equal(count_entries(STORE_VMS), 1);
    store_vm_release(&vm);
    assert_int_equal(kelpie_vm_remove(faulty, "web", false, &err), KELPIE_OK);
    assert_int_equal(count_entries(STORE_VMS), 0);
    vm = make("web", KELPIE_STATE_STOPPED);
    store_vm_release(&vm);
    struct kelpie_prune_report report = {0};
    assert_int_equal(
        kelpie_prune(faulty, &(struct kelpie_prune_options){.vms = true}, &report, &err),
        KELPIE_OK);
    assert_int_equal(report.vms, 1);
    assert_int_equal(count_entries(STORE_VMS), 0);
    host_destroy(faulty);
}

/* ---- Whose it is ------------------------------------------------------------------------------ */

static void hazard_E1_a_vm_whose_owner_died_has_crashed(void **state) {
    (void)state;
    static const enum kelpie_state live[] = {KELPIE_STATE_STARTING, KELPIE_STATE_RUNNING,
                                             KELPIE_STATE_PAUSED};
    for (size_t i = 0; i < ARRAY_SIZE(live); i++) {
        struct kelpie_vm_info info;
        bool owned = false;
        struct store_vm vm = make("web", live[i]);
        assert_int_equal(look("web", &info, &owned), KELPIE_OK);
        assert_true(owned);
        assert_int_equal(info.state, live[i]);
        store_vm_release(&vm); /* as the kernel does when a process ends */
        assert_int_equal(look("web", &info, &owned), KELPIE_OK);
        assert_false(owned);
        assert_int_equal(info.state, KELPIE_STATE_CRASHED);
        assert_int_equal(info.owner_pid, 0);
        assert_string_not_equal(info.reason, "");
        assert_int_equal(kelpie_vm_remove(fixture.host, "web", false, &err), KELPIE_OK);
    }
}

static void hazard_E1_what_had_ended_stays_what_it_was(void **state) {
    (void)state;
    static const enum kelpie_state ended[] = {KELPIE_STATE_CREATED, KELPIE_STATE_STOPPED,
                                              KELPIE_STATE_CRASHED};
    static const char *const names[] = {"a", "b", "c"};
    for (size_t i = 0; i < ARRAY_SIZE(ended); i++) {
        struct kelpie_vm_info info;
        bool owned = false;
        struct store_vm vm = make(names[i], ended[i]);
        store_vm_release(&vm);
        assert_int_equal(look(names[i], &info, &owned), KELPIE_OK);
        assert_int_equal(info.state, ended[i]);
        assert_string_equal(info.reason, "");
    }
}

/* Who adopts it writes down at once that it crashed, since from then on its lock no longer says so. */
static void hazard_E1_an_adopted_vm_does_not_seem_to_run(void **state) {
    (void)state;
    struct kelpie_vm_info info;
    bool owned = false;
    struct store_vm vm = make("web", KELPIE_STATE_RUNNING);
    store_vm_release(&vm);
    assert_int_equal(store_vm_adopt(fixture.store, "web", &vm, &err), KELPIE_OK);
    assert_int_equal(look("web", &info, &owned), KELPIE_OK);
    assert_true(owned);
    assert_int_equal(info.state, KELPIE_STATE_CRASHED);
    assert_true(info.ended_unix_ms > 0);
    store_vm_release(&vm);
}

/* The owner is killed: the kernel lets go of its lock, and nobody needs its process id. */
static void hazard_E1_the_lock_of_a_killed_owner_is_free(void **state) {
    (void)state;
    struct kelpie_vm_info info;
    bool owned = false;
    int ready[2];
    char byte = 0;
    assert_int_equal(pipe(ready), 0);
    pid_t pid = fork();
    if (pid == 0) {
        (void)alarm(60); /* should the test fail */
        struct store_vm vm;
        bool made = store_fixture_vm(fixture.store, fixture.host, "web", KELPIE_STATE_RUNNING,
                                     &vm) == KELPIE_OK;
        _exit(made && write(ready[1], "x", 1) == 1 && pause() ? 0 : 1);
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    assert_int_equal(look("web", &info, &owned), KELPIE_OK);
    assert_true(owned);
    assert_int_equal(info.state, KELPIE_STATE_RUNNING);
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_int_equal(look("web", &info, &owned), KELPIE_OK);
    assert_false(owned);
    assert_int_equal(info.state, KELPIE_STATE_CRASHED);
    close(ready[0]);
    close(ready[1]);
}

static void hazard_E3_a_vm_has_one_owner(void **state) {
    (void)state;
    struct store_vm second = {0};
    struct store_vm vm = make("web", KELPIE_STATE_CREATED);
    assert_int_equal(store_vm_adopt(fixture.store, "web", &second, &err), KELPIE_BUSY);
    store_vm_release(&vm);
    assert_int_equal(store_vm_adopt(fixture.store, "web", &second, &err), KELPIE_OK);
    assert_int_equal(store_vm_adopt(fixture.store, "web", &vm, &err), KELPIE_BUSY);
    store_vm_release(&second);
    store_vm_release(&second); /* of one that was let go of: nothing */
    assert_int_equal(store_vm_adopt(fixture.store, "nope", &vm, &err), KELPIE_NOT_FOUND);
}

/* agentconnect#2018: a child that outlives its parent kept the parent's locks. */
static void hazard_E3_children_do_not_inherit_the_lock(void **state) {
    (void)state;
    static const char *const argv[] = {"sleep", "60", NULL};
    struct host_process_spec spec = {.argv = argv};
    struct host_process *child = NULL;
    struct store_vm second = {0};
    struct store_vm vm = make("web", KELPIE_STATE_CREATED);
    assert_int_equal(host_process_spawn(fixture.host, &spec, &child, &err), KELPIE_OK);
    store_vm_release(&vm);
    assert_int_equal(store_vm_adopt(fixture.store, "web", &second, &err), KELPIE_OK);
    store_vm_release(&second);
    host_process_destroy(child);
}

/* Many look while one owner after the other comes and goes: nobody is kept out by those who only look, and nobody ever sees a VM
 * crashed whose owner lives. */
struct looker {
    pthread_t thread;
    bool stop;
    size_t wrong;
    size_t looks;
};

static void *look_on(void *argument) {
    struct looker *looker = argument;
    struct host *host = NULL;
    struct store *store = NULL;
    if (host_linux_create(&host, NULL) != KELPIE_OK ||
        store_open(host, &store, NULL) != KELPIE_OK) {
        __atomic_store_n(&looker->wrong, 1000, __ATOMIC_RELAXED);
        return NULL;
    }
    while (!__atomic_load_n(&looker->stop, __ATOMIC_RELAXED)) {
        struct store_record *record = NULL;
        bool owned = false;
        if (store_vm_read(store, "web", &record, &owned, NULL) != KELPIE_OK) {
            looker->wrong++;
            continue;
        }
        /* Each owner writes "running" when it comes and "stopped" before it goes. */
        looker->wrong += record->info.state == KELPIE_STATE_CRASHED;
        looker->looks++;
        store_record_destroy(record);
    }
    store_close(store);
    host_destroy(host);
    return NULL;
}

static void hazard_E1_a_live_vm_is_never_seen_as_dead(void **state) {
    (void)state;
    struct looker lookers[2] = {0};
    struct store_vm vm = make("web", KELPIE_STATE_STOPPED);
    struct store_record *record = store_fixture_record(fixture.host, "web", NULL);
    store_vm_release(&vm);
    for (size_t i = 0; i < ARRAY_SIZE(lookers); i++) {
        assert_int_equal(pthread_create(&lookers[i].thread, NULL, look_on, &lookers[i]), 0);
    }
    for (size_t i = 0; i < RACE_ROUND_COUNT; i++) {
        /* Lookers on a slow machine may keep it waiting for longer than it waits. */
        enum kelpie_status status = KELPIE_BUSY;
        for (int attempt = 0; attempt < 20 && status == KELPIE_BUSY; attempt++) {
            status = store_vm_adopt(fixture.store, "web", &vm, &err);
        }
        assert_int_equal(status, KELPIE_OK);
        record->info.state = KELPIE_STATE_RUNNING;
        assert_int_equal(store_vm_write(&vm, record, &err), KELPIE_OK);
        record->info.state = KELPIE_STATE_STOPPED;
        assert_int_equal(store_vm_write(&vm, record, &err), KELPIE_OK);
        store_vm_release(&vm);
    }
    for (size_t i = 0; i < ARRAY_SIZE(lookers); i++) {
        __atomic_store_n(&lookers[i].stop, true, __ATOMIC_RELAXED);
        assert_int_equal(pthread_join(lookers[i].thread, NULL), 0);
        assert_int_equal(lookers[i].wrong, 0);
        assert_true(lookers[i].looks > 0);
    }
    store_record_destroy(record);
}

/* ---- Names ------------------------------------------------------------------------------------ */

struct racer {
    pthread_t thread;
    pthread_barrier_t *barrier;
    enum kelpie_status status;
    struct store_vm vm;
};

static void *race(void *argument) {
    struct racer *racer = argument;
    struct kelpie_error why = {0};
    struct store_record *record = store_fixture_record(fixture.host, "web", NULL);
    (void)pthread_barrier_wait(racer->barrier);
    racer->status = store_vm_create(fixture.store, record, &racer->vm, &why);
    if (racer->status == KELPIE_BAD_CONFIG && strcmp(why.field, "name") != 0) {
        racer->status = KELPIE_INTERNAL;
    }
    store_record_destroy(record);
    return NULL;
}

static void hazard_E3_of_several_creators_one_wins(void **state) {
    (void)state;
    pthread_barrier_t barrier;
    assert_int_equal(pthread_barrier_init(&barrier, NULL, RACER_COUNT), 0);
    for (size_t round = 0; round < RACE_ROUND_COUNT; round++) {
        struct racer racers[RACER_COUNT] = {0};
        size_t winner = RACER_COUNT;
        size_t count = 0;
        for (size_t i = 0; i < RACER_COUNT; i++) {
            racers[i].barrier = &barrier;
            assert_int_equal(pthread_create(&racers[i].thread, NULL, race, &racers[i]), 0);
        }
        for (size_t i = 0; i < RACER_COUNT; i++) {
            assert_int_equal(pthread_join(racers[i].thread, NULL), 0);
            winner = racers[i].status == KELPIE_OK ? i : winner;
            count += racers[i].status == KELPIE_OK;
            assert_true(racers[i].status == KELPIE_OK || racers[i].status == KELPIE_BAD_CONFIG);
        }
        assert_int_equal(count, 1);
        assert_int_equal(count_entries(STORE_VMS), 1);
        assert_int_equal(store_vm_remove(&racers[winner].vm, &err), KELPIE_OK);
        assert_int_equal(count_entries(STORE_VMS), 0);
    }
    assert_int_equal(pthread_barrier_destroy(&barrier), 0);
}

static void a_vm_is_found_by_name_and_by_the_beginning_of_its_id(void **state) {
    (void)state;
    struct kelpie_vm_info info;
    bool owned = false;
    make_with_id("one", "aaaa0000000000000000000000000001");
    make_with_id("two", "aaaa0000000000000000000000000002");
    make_with_id("three", "bbbb0000000000000000000000000003");
    make_with_id("bbbb", "cccc0000000000000000000000000004"); /* a name that looks like an id */
    assert_int_equal(look("one", &info, &owned), KELPIE_OK);
    assert_string_equal(info.id, "aaaa0000000000000000000000000001");
    assert_int_equal(look("aaaa0000000000000000000000000002", &info, &owned), KELPIE_OK);
    assert_string_equal(info.name, "two");
    assert_int_equal(look("bb", &info, &owned), KELPIE_OK);
    assert_string_equal(info.name, "three");
    assert_int_equal(look("bbbb", &info, &owned), KELPIE_OK); /* the exact name wins */
    assert_string_equal(info.name, "bbbb");
    assert_int_equal(look("bbbb0", &info, &owned), KELPIE_OK);
    assert_string_equal(info.name, "three");
    assert_int_equal(look("aaaa", &info, &owned), KELPIE_BAD_CONFIG); /* which one? */
    assert_int_equal(look("aaaa00000000000000000000000000011", &info, &owned), KELPIE_NOT_FOUND);
    assert_int_equal(look("dd", &info, &owned), KELPIE_NOT_FOUND);
    assert_int_equal(look("on", &info, &owned), KELPIE_NOT_FOUND); /* names have no beginnings */
    assert_int_equal(look("", &info, &owned), KELPIE_NOT_FOUND);
    assert_int_equal(look("../vms/one", &info, &owned), KELPIE_NOT_FOUND);
}

/* ---- Removing --------------------------------------------------------------------------------- */

static void a_removed_vm_leaves_nothing_and_its_name_is_free(void **state) {
    (void)state;
    char socket[KELPIE_PATH_SIZE_MAX + 1];
    struct store_vm vm = make("web", KELPIE_STATE_STOPPED);
    write_file("web/disk", "data");
    assert_int_equal(store_socket_path(fixture.store, vm.id, socket, sizeof(socket), &err),
                     KELPIE_OK);
    assert_int_equal(host_file_store(fixture.host, socket, "", 0, 0600, &err), KELPIE_OK);
    assert_int_equal(store_vm_remove(&vm, &err), KELPIE_OK);
    assert_int_equal(count_entries(STORE_VMS), 0);
    assert_int_equal(count_entries(STORE_SOCKETS), 0);
    vm = make("web", KELPIE_STATE_CREATED);
    store_vm_release(&vm);
    assert_int_equal(kelpie_vm_remove(fixture.host, "we", false, &err), KELPIE_NOT_FOUND);
    assert_int_equal(kelpie_vm_remove(fixture.host, "web", false, &err), KELPIE_OK);
    assert_int_equal(kelpie_vm_remove(fixture.host, "web", false, &err), KELPIE_NOT_FOUND);
}

/* Whoever waits for the lock of a VM that is removed does not get that of another, which has its name by then. */
static void hazard_E3_a_lock_of_what_was_removed_is_worth_nothing(void **state) {
    (void)state;
    char path[KELPIE_PATH_SIZE_MAX + 1];
    char name[KELPIE_PATH_SIZE_MAX + 1];
    int lock = HOST_FD_NONE;
    int old = HOST_FD_NONE;
    struct store_vm vm = make("web", KELPIE_STATE_STOPPED);
    assert_int_equal(store_path(fixture.store, STORE_VMS, "web", path, sizeof(path), &err),
                     KELPIE_OK);
    assert_int_equal(store_folder_file(path, "lock", name, &err), KELPIE_OK);
    assert_int_equal(host_file_open(fixture.host, name, HOST_OPEN_READ, 0, &old, &err), KELPIE_OK);
    assert_int_equal(store_vm_remove(&vm, &err), KELPIE_OK);
    vm = make("web", KELPIE_STATE_STOPPED);
    assert_int_equal(host_file_lock(fixture.host, old, true, &err), KELPIE_OK); /* of nothing */
    assert_int_equal(store_folder_lock(fixture.store, path, true, 0, &lock, &err), KELPIE_BUSY);
    store_vm_release(&vm);
    assert_int_equal(store_folder_lock(fixture.store, path, true, 0, &lock, &err), KELPIE_OK);
    host_close(fixture.host, lock);
    host_close(fixture.host, old);
}

static void *adopt_web(void *argument) {
    struct racer *racer = argument;
    racer->status = store_vm_adopt(fixture.store, "web", &racer->vm, NULL);
    return NULL;
}

/* The same while it waits: the lock that it waits for becomes free, but the name is another VM's, which has an owner. */
static void hazard_E3_who_waits_for_a_lock_looks_again(void **state) {
    (void)state;
    struct racer racer = {0};
    struct store_vm vm = make("web", KELPIE_STATE_STOPPED);
    assert_int_equal(pthread_create(&racer.thread, NULL, adopt_web, &racer), 0);
    assert_int_equal(usleep(100000), 0);
    int old = vm.lock_fd;
    vm.lock_fd = dup(old); /* held until the other is there */
    assert_true(vm.lock_fd >= 0);
    assert_int_equal(store_vm_remove(&vm, &err), KELPIE_OK);
    vm = make("web", KELPIE_STATE_RUNNING);
    close(old);
    assert_int_equal(pthread_join(racer.thread, NULL), 0);
    /* It may have looked when the first VM was gone and the second not yet there. */
    assert_true(racer.status == KELPIE_BUSY || racer.status == KELPIE_NOT_FOUND);
    store_vm_release(&vm);
}

/* Looks whether there is an owner, and takes its time. */
static void *look_slowly(void *argument) {
    const int *lock = argument;
    (void)usleep(100000);
    host_close(fixture.host, *lock);
    return NULL;
}

static void hazard_E3_who_only_looks_keeps_no_owner_out(void **state) {
    (void)state;
    char path[KELPIE_PATH_SIZE_MAX + 1];
    pthread_t thread;
    int lock = HOST_FD_NONE;
    struct store_vm vm = make("web", KELPIE_STATE_STOPPED);
    store_vm_release(&vm);
    assert_int_equal(store_path(fixture.store, STORE_VMS, "web", path, sizeof(path), &err),
                     KELPIE_OK);
    assert_int_equal(store_folder_lock(fixture.store, path, false, 0, &lock, &err), KELPIE_OK);
    assert_int_equal(pthread_create(&thread, NULL, look_slowly, &lock), 0);
    assert_int_equal(store_vm_adopt(fixture.store, "web", &vm, &err), KELPIE_OK);
    assert_int_equal(pthread_join(thread, NULL), 0);
    store_vm_release(&vm);
}

static void a_vm_that_runs_is_removed_by_force_only(void **state) {
    (void)state;
    struct kelpie_vm_info info;
    struct store_vm vm = make("web", KELPIE_STATE_RUNNING);
    assert_int_equal(kelpie_vm_remove(fixture.host, "web", false, &err), KELPIE_WRONG_STATE);
    assert_string_equal(err.field, "running");
    assert_int_equal(kelpie_vm_find(fixture.host, "web", &info, &err), KELPIE_OK);
    store_vm_release(&vm);
    assert_int_equal(kelpie_vm_remove(fixture.host, "web", false, &err), KELPIE_OK);
}

/* ---- Many ------------------------------------------------------------------------------------- */

static uint64_t now_ms(void) {
    struct timespec now;
    assert_int_equal(clock_gettime(CLOCK_MONOTONIC, &now), 0);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Made by hand: each store_vm_create() waits for the disk. */
static void make_many(size_t count) {
    char text[512];
    for (size_t i = 0; i < count; i++) {
        char path[256];
        snprintf(path, sizeof(path), "%s/state/kelpie/vms/vm-%zu", fixture.folder, i);
        assert_int_equal(mkdir(path, 0700), 0);
        snprintf(path, sizeof(path), "%s/state/kelpie/vms/vm-%zu/lock", fixture.folder, i);
        FILE *file = fopen(path, "w");
        assert_non_null(file);
        assert_int_equal(fclose(file), 0);
        snprintf(path, sizeof(path), "%s/state/kelpie/vms/vm-%zu/record.json", fixture.folder, i);
        file = fopen(path, "w");
        assert_non_null(file);
        snprintf(text, sizeof(text),
                 "{\"version\":1,\"info\":{\"id\":\"%032zx\",\"name\":\"vm-%zu\",\"state\":4,"
                 "\"created_unix_ms\":%zu,\"unknown\":[1]},\"config\":{\"name\":\"vm-%zu\"}}",
                 i, i, count - i, i);
        assert_true(fputs(text, file) >= 0);
        assert_int_equal(fclose(file), 0);
    }
}

static void thousands_of_vms_are_listed_at_once(void **state) {
    (void)state;
    struct kelpie_vm_info *list = NULL;
    struct kelpie_vm_info info;
    size_t count = 0;
    make_many(MANY_VM_COUNT);
    uint64_t start_ms = now_ms();
    assert_int_equal(kelpie_vm_list(fixture.host, &list, &count, &err), KELPIE_OK);
    uint64_t list_ms = now_ms() - start_ms;
    print_message("%zu VMs in %llu ms\n", count, (unsigned long long)list_ms);
    assert_true(list_ms < MANY_LIST_MS_MAX);
    assert_int_equal(count, MANY_VM_COUNT);
    for (size_t i = 0; i < count; i++) { /* the oldest first */
        assert_int_equal(list[i].created_unix_ms, i + 1);
        assert_int_equal(list[i].state, KELPIE_STATE_STOPPED);
        assert_true(list[i].disk_bytes > 0);
    }
    kelpie_list_free(list);
    assert_int_equal(kelpie_vm_find(fixture.host, "00000000000000000000000000000f9f", &info, &err),
                     KELPIE_OK);
    assert_string_equal(info.name, "vm-3999");
    /* There is a limit to their number. */
    make_with_id("one-more", NULL);
    for (size_t i = MANY_VM_COUNT + 1; i < KELPIE_VM_COUNT_MAX; i++) {
        char path[256];
        snprintf(path, sizeof(path), "%s/state/kelpie/vms/more-%zu", fixture.folder, i);
        assert_int_equal(mkdir(path, 0700), 0);
    }
    struct store_vm vm;
    struct store_record *record = store_fixture_record(fixture.host, "too-many", NULL);
    assert_int_equal(store_vm_create(fixture.store, record, &vm, &err), KELPIE_BUSY);
    store_record_destroy(record);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_record_comes_back_as_it_was, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_record_that_is_too_long_is_refused_and_the_old_one_stays,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_damaged_record_is_named_listed_and_removed, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(one_unreadable_record_does_not_hide_the_others, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(what_another_time_may_be_read_is_no_unreadable_record,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_vm_whose_record_cannot_be_read_is_removed, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(hazard_E1_a_vm_whose_owner_died_has_crashed, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(hazard_E1_what_had_ended_stays_what_it_was, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(hazard_E1_an_adopted_vm_does_not_seem_to_run, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(hazard_E1_the_lock_of_a_killed_owner_is_free, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(hazard_E3_a_vm_has_one_owner, set_up, tear_down),
        cmocka_unit_test_setup_teardown(hazard_E3_children_do_not_inherit_the_lock, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(hazard_E1_a_live_vm_is_never_seen_as_dead, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(hazard_E3_of_several_creators_one_wins, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_vm_is_found_by_name_and_by_the_beginning_of_its_id,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_removed_vm_leaves_nothing_and_its_name_is_free, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(hazard_E3_a_lock_of_what_was_removed_is_worth_nothing,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(hazard_E3_who_waits_for_a_lock_looks_again, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(hazard_E3_who_only_looks_keeps_no_owner_out, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_vm_that_runs_is_removed_by_force_only, set_up, tear_down),
        cmocka_unit_test_setup_teardown(thousands_of_vms_are_listed_at_once, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
