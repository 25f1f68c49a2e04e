/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Each change of the store, with its first host call failing, the second, … once and from then on, and with the process killed
 * there: what is left is the old, the new, or a leftover that a prune removes; and nothing is held or lost in memory.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/assert.h"
#include "store/store_folder.h"
#include "store/template.h"
#include "support/fault_host.h"
#include "support/store_fixture.h"

#define CALL_COUNT_MAX 400

static struct store_fixture fixture;
static struct host *faulty;
static struct store *faulty_store;

static int set_up(void **state) {
    (void)state;
    return store_fixture_set_up(&fixture) &&
                   fault_host_create(fixture.host, &faulty, NULL) == KELPIE_OK &&
                   store_open(faulty, &faulty_store, NULL) == KELPIE_OK
               ? 0
               : -1;
}

static int tear_down(void **state) {
    (void)state;
    store_close(faulty_store);
    host_destroy(faulty);
    return store_fixture_tear_down(&fixture) ? 0 : -1;
}

/* The change failed, and nothing after the call that did: what it did has been taken back. */
static bool strict;

/* ---- What is tried ---------------------------------------------------------------------------- */

/* A change: what is there before, the change itself over a store, and what may be there afterwards. */
struct change {
    const char *name;
    void (*prepare)(void);
    enum kelpie_status (*apply)(struct store *store, struct host *host, struct kelpie_error *err);
    void (*check)(bool applied, bool unharmed);
    uint64_t calls_min; /* it makes at least so many */
};

static struct store_record *make_record(const char *name, uint32_t memory_mib) {
    struct store_record *record = store_fixture_record(fixture.host, name, NULL);
    record->info.memory_mib = memory_mib;
    record->info.state = KELPIE_STATE_STOPPED;
    return record;
}

static void make_vm(void) {
    struct store_vm vm;
    struct store_record *record = make_record("web", 1);
    assert_int_equal(store_vm_create(fixture.store, record, &vm, NULL), KELPIE_OK);
    store_record_destroy(record);
    store_vm_release(&vm);
}

/* How much memory the record of "web" says; 0: there is none. */
static uint32_t memory_of_vm(void) {
    struct store_record *record = NULL;
    struct kelpie_error err;
    bool owned = true;
    enum kelpie_status status = store_vm_read(fixture.store, "web", &record, &owned, &err);
    if (status == KELPIE_NOT_FOUND) {
        return 0;
    }
    assert_int_equal(status, KELPIE_OK); /* whole */
    assert_false(owned);                 /* nobody holds it any more */
    uint32_t memory_mib = record->info.memory_mib;
    store_record_destroy(record);
    return memory_mib;
}

static void remove_vm(void) {
    struct store_vm vm;
    assert_int_equal(store_vm_adopt(fixture.store, "web", &vm, NULL), KELPIE_OK);
    assert_int_equal(store_vm_remove(&vm, NULL), KELPIE_OK);
}

static void nothing(void) {
}

static enum kelpie_status apply_create(struct store *store, struct host *host,
                                       struct kelpie_error *err) {
    struct store_vm vm;
    struct store_record *record = make_record("web", 2);
    (void)host;
    enum kelpie_status status = store_vm_create(store, record, &vm, err);
    store_record_destroy(record);
    if (status == KELPIE_OK) {
        store_vm_release(&vm);
    }
    return status;
}

static void check_create(bool applied, bool unharmed) {
    uint32_t memory_mib = memory_of_vm();
    assert_true(memory_mib == 2 || (!applied && memory_mib == 0));
    assert_true(!unharmed || memory_mib == 2);
    assert_true(!strict || memory_mib == 0);
    if (memory_mib != 0) {
        remove_vm();
    }
}

static enum kelpie_status apply_write(struct store *store, struct host *host,
                                      struct kelpie_error *err) {
    struct store_vm vm;
    struct store_record *record = make_record("web", 2);
    (void)host;
    enum kelpie_status status = store_vm_adopt(store, "web", &vm, err);
    if (status == KELPIE_OK) {
        status = store_vm_write(&vm, record, err);
        store_vm_release(&vm);
    }
    store_record_destroy(record);
    return status;
}

static void check_write(bool applied, bool unharmed) {
    uint32_t memory_mib = memory_of_vm();
    assert_true(memory_mib == 2 || (!applied && memory_mib == 1));
    assert_true(!unharmed || memory_mib == 2);
    remove_vm();
}

static enum kelpie_status apply_remove(struct store *store, struct host *host,
                                       struct kelpie_error *err) {
    struct store_vm vm;
    (void)host;
    enum kelpie_status status = store_vm_adopt(store, "web", &vm, err);
    if (status == KELPIE_OK) {
        status = store_vm_remove(&vm, err);
        store_vm_release(&vm);
    }
    return status;
}

static void check_remove(bool applied, bool unharmed) {
    uint32_t memory_mib = memory_of_vm();
    assert_true(memory_mib == 0 || (!applied && memory_mib == 1));
    assert_true(!unharmed || memory_mib == 0);
    if (memory_mib != 0) {
        remove_vm();
    }
}

static enum kelpie_status apply_template(struct store *store, struct host *host,
                                         struct kelpie_error *err) {
    struct store_template *template = NULL;
    TRY(store_template_begin(store, "key", &template, err));
    enum kelpie_status status = host_path_mkdir(host, store_template_bundle(template), 0700, err);
    if (status != KELPIE_OK) {
        store_template_discard(template);
        return status;
    }
    return store_template_publish(template, err);
}

static void check_template(bool applied, bool unharmed) {
    struct store_template *template = NULL;
    struct host_file_info info;
    enum kelpie_status status = store_template_open(fixture.store, "key", &template, NULL);
    assert_true(status == KELPIE_OK || (!applied && status == KELPIE_NOT_FOUND));
    assert_true(!unharmed || status == KELPIE_OK);
    assert_true(!strict || status == KELPIE_NOT_FOUND);
    if (status != KELPIE_OK) { /* then it can be made */
        assert_int_equal(apply_template(fixture.store, fixture.host, NULL), KELPIE_OK);
        assert_int_equal(store_template_open(fixture.store, "key", &template, NULL), KELPIE_OK);
    }
    assert_int_equal(host_path_stat(fixture.host, store_template_bundle(template), &info, NULL),
                     KELPIE_OK);
    store_template_discard(template);
}

static void make_template(void) {
    assert_int_equal(apply_template(fixture.store, fixture.host, NULL), KELPIE_OK);
}

static enum kelpie_status apply_evict(struct store *store, struct host *host,
                                      struct kelpie_error *err) {
    struct store_evicted evicted;
    (void)host;
    TRY(store_template_evict(store, 0, false, &evicted, err));
    return evicted.count == 1 ? KELPIE_OK : error_set(err, KELPIE_IO_FAILED, "it stayed");
}

static void check_evict(bool applied, bool unharmed) {
    struct store_template *template = NULL;
    enum kelpie_status status = store_template_open(fixture.store, "key", &template, NULL);
    assert_true(status == KELPIE_NOT_FOUND || (!applied && status == KELPIE_OK));
    assert_true(!unharmed || status == KELPIE_NOT_FOUND);
    store_template_discard(template);
}

static void make_snapshot(void) {
    char path[256];
    snprintf(path, sizeof(path), "%s/state/kelpie/snapshots/snap", fixture.folder);
    assert_int_equal(mkdir(path, 0700), 0);
    strcat(path, "/state");
    assert_int_equal(host_file_store(fixture.host, path, "x", 1, 0600, NULL), KELPIE_OK);
}

static enum kelpie_status apply_snapshot_remove(struct store *store, struct host *host,
                                                struct kelpie_error *err) {
    (void)store;
    return kelpie_snapshot_remove(host, "snap", err);
}

static void check_snapshot_remove(bool applied, bool unharmed) {
    char path[256];
    struct host_file_info info;
    snprintf(path, sizeof(path), "%s/state/kelpie/snapshots/snap/state", fixture.folder);
    enum kelpie_status status = host_path_stat(fixture.host, path, &info, NULL);
    assert_true(status == KELPIE_NOT_FOUND || (!applied && status == KELPIE_OK));
    assert_true(!unharmed || status == KELPIE_NOT_FOUND);
    if (status == KELPIE_OK) {
        assert_int_equal(kelpie_snapshot_remove(fixture.host, "snap", NULL), KELPIE_OK);
    }
}

static enum kelpie_status apply_vm_remove(struct store *store, struct host *host,
                                          struct kelpie_error *err) {
    (void)store;
    return kelpie_vm_remove(host, "web", true, err);
}

static enum kelpie_status apply_prune(struct store *store, struct host *host,
                                      struct kelpie_error *err) {
    struct kelpie_prune_report report;
    (void)store;
    TRY(kelpie_prune(host, &(struct kelpie_prune_options){.vms = true}, &report, err));
    return report.vms == 1 ? KELPIE_OK : error_set(err, KELPIE_IO_FAILED, "it stayed");
}

/* Whether the list has it, if there is one. */
static enum kelpie_status apply_list(struct store *store, struct host *host,
                                     struct kelpie_error *err) {
    struct kelpie_vm_info *list = NULL;
    size_t count = 0;
    (void)store;
    TRY(kelpie_vm_list(host, &list, &count, err));
    assert_int_equal(count, 1);
    assert_string_equal(list[0].name, "web");
    enum kelpie_status status = list[0].status; /* of a record that could not be read just then */
    if (status == KELPIE_OK) {
        assert_int_equal(list[0].memory_mib, 1);
    } else {
        assert_true(list[0].reason[0] != '\0');
        error_set(err, status, "%s", list[0].reason);
    }
    kelpie_list_free(list);
    return status;
}

static void check_list(bool applied, bool unharmed) {
    (void)applied;
    (void)unharmed;
    assert_int_equal(memory_of_vm(), 1);
    remove_vm();
}

/* ---- How it is tried -------------------------------------------------------------------------- */

/* Nothing is left in the rooms, but for what a prune removes. */
static void assert_clean(void) {
    static const enum store_room rooms[] = {STORE_VMS, STORE_SNAPSHOTS, STORE_TEMPLATES,
                                            STORE_SOCKETS};
    struct kelpie_prune_report report;
    assert_int_equal(kelpie_prune(fixture.host, &(struct kelpie_prune_options){0}, &report, NULL),
                     KELPIE_OK);
    for (size_t i = 0; i < ARRAY_SIZE(rooms); i++) {
        struct host_dir_entry *entries = NULL;
        size_t count = 0;
        assert_int_equal(store_list(fixture.store, rooms[i], &entries, &count, NULL), KELPIE_OK);
        assert_int_equal(count, 0);
        free(entries);
    }
}

static void fail_at_each_call(const struct change *change, bool sticky) {
    const char *fired = "";
    uint64_t nth = 1;
    for (; fired; nth++) {
        char leaks[512] = "";
        struct kelpie_error err = {0};
        assert_true(nth < CALL_COUNT_MAX);
        change->prepare();
        fault_host_arm(faulty, &(struct fault_plan){.nth = nth, .sticky = sticky});
        enum kelpie_status status = change->apply(faulty_store, faulty, &err);
        fired = fault_host_fired(faulty);
        fault_host_disarm(faulty);
        assert_int_equal(fault_host_leaks(faulty, leaks, sizeof(leaks)), 0);
        assert_true(fired || status == KELPIE_OK);
        if (status != KELPIE_OK) {
            assert_int_equal(err.status, status);
            assert_string_not_equal(err.message, "");
        }
        strict = status != KELPIE_OK && !sticky;
        change->check(status == KELPIE_OK, !fired);
        strict = false;
        assert_clean();
    }
    assert_true(nth > change->calls_min);
}

static void kill_at_each_call(const struct change *change) {
    bool killed = true;
    uint64_t nth = 1;
    for (; killed; nth++) {
        int ending = 0;
        assert_true(nth < CALL_COUNT_MAX);
        change->prepare();
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            fault_host_arm(faulty, &(struct fault_plan){.nth = nth, .kills = true});
            _exit(change->apply(faulty_store, faulty, NULL) == KELPIE_OK ? 0 : 1);
        }
        assert_int_equal(waitpid(child, &ending, 0), child);
        killed = WIFSIGNALED(ending);
        assert_true(killed || WEXITSTATUS(ending) == 0);
        change->check(!killed, !killed);
        assert_clean();
    }
    assert_true(nth > change->calls_min);
}

static const struct change changes[] = {
    {"create", nothing, apply_create, check_create, 15},
    {"write", make_vm, apply_write, check_write, 10},
    {"remove", make_vm, apply_remove, check_remove, 10},
    {"remove by name", make_vm, apply_vm_remove, check_remove, 25},
    {"prune", make_vm, apply_prune, check_remove, 25},
    {"template", nothing, apply_template, check_template, 12},
    {"evict", make_template, apply_evict, check_evict, 10},
    {"remove snapshot", make_snapshot, apply_snapshot_remove, check_snapshot_remove, 15},
    {"list", make_vm, apply_list, check_list, 20},
};

static void hazard_E5_each_call_fails_once(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(changes); i++) {
        print_message("%s\n", changes[i].name);
        fail_at_each_call(&changes[i], false);
    }
}

static void hazard_E5_each_call_fails_from_then_on(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(changes); i++) {
        print_message("%s\n", changes[i].name);
        fail_at_each_call(&changes[i], true);
    }
}

static void hazard_E1_killed_at_each_call(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(changes); i++) {
        print_message("%s\n", changes[i].name);
        kill_at_each_call(&changes[i]);
    }
}

/* ---- Logs ------------------------------------------------------------------------------------- */

#define PIECE_SIZE 1000
#define PIECE_COUNT 20

/* Writes the pieces. Returns the offset of the one that could not be written; UINT64_MAX: all were. */
static uint64_t write_pieces(struct store_log *log) {
    char piece[PIECE_SIZE];
    uint64_t failed = UINT64_MAX;
    memset(piece, 'x', sizeof(piece));
    for (uint64_t i = 0; i < PIECE_COUNT; i++) {
        if (store_log_append(log, KELPIE_STREAM_STDOUT, i * PIECE_SIZE, piece, sizeof(piece),
                             NULL) != KELPIE_OK) {
            assert_int_equal(failed, UINT64_MAX); /* once */
            failed = i * PIECE_SIZE;
        }
    }
    return failed;
}

/* What could not be written is missing, and what came after it is there. */
static void check_pieces(uint64_t failed) {
    struct kelpie_log *reader = NULL;
    struct kelpie_log_entry entry;
    uint64_t last = 0;
    assert_int_equal(kelpie_log_open(fixture.host, "web", &reader, NULL), KELPIE_OK);
    while (kelpie_log_read(reader, 0, &entry, NULL) == KELPIE_OK) {
        assert_int_not_equal(entry.offset, failed);
        last = entry.offset;
    }
    assert_int_equal(last, (PIECE_COUNT - (failed == (PIECE_COUNT - 1) * PIECE_SIZE ? 2 : 1)) *
                               PIECE_SIZE);
    kelpie_log_close(reader);
}

static void a_log_goes_on_after_a_failure(void **state) {
    (void)state;
    const char *fired = "";
    make_vm();
    for (uint64_t nth = 1; fired; nth++) {
        struct store_vm vm;
        struct store_log *log = NULL;
        assert_int_equal(store_vm_adopt(faulty_store, "web", &vm, NULL), KELPIE_OK);
        fault_host_arm(faulty, &(struct fault_plan){.nth = nth, .os_error = ENOSPC});
        if (store_log_create(&vm, STORE_LOG_BYTES_MIN, &log, NULL) == KELPIE_OK) {
            uint64_t failed = write_pieces(log);
            store_log_close(log);
            check_pieces(failed);
        }
        fired = fault_host_fired(faulty);
        fault_host_disarm(faulty);
        store_vm_release(&vm);
        assert_true(nth < CALL_COUNT_MAX);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(hazard_E5_each_call_fails_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(hazard_E5_each_call_fails_from_then_on, set_up, tear_down),
        cmocka_unit_test_setup_teardown(hazard_E1_killed_at_each_call, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_log_goes_on_after_a_failure, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
