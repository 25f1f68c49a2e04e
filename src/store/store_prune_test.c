/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Snapshots by name, and what goes when nobody needs it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/assert.h"
#include "snapshot/snapshot.h"
#include "store/store_folder.h"
#include "store/template.h"
#include "support/store_fixture.h"

#define MEMORY_SIZE (8 * SNAPSHOT_PAGE_SIZE) /* one byte of bits */

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

static const char *path_of(const char *name) {
    static char path[256];
    snprintf(path, sizeof(path), "%s/%s", fixture.folder, name);
    return path;
}

static bool is_there(const char *name) {
    struct stat stat_of;
    return lstat(path_of(name), &stat_of) == 0;
}

static void write_file(const char *name, size_t size) {
    FILE *file = fopen(path_of(name), "w");
    assert_non_null(file);
    for (size_t i = 0; i < size; i++) {
        assert_int_equal(fputc('x', file), 'x');
    }
    assert_int_equal(fclose(file), 0);
}

/* ---- Snapshots -------------------------------------------------------------------------------- */

/* A bundle of zeros; a diff, if it has a parent. */
static void craft(const char *name, char id, char parent_id, const char *parent_path) {
    struct snapshot_manifest *manifest = NULL;
    char folder[256];
    char path[512];
    char *text = NULL;
    const uint64_t sizes[] = {0, MEMORY_SIZE, 1};
    snprintf(folder, sizeof(folder), "%s/state/kelpie/snapshots/%s", fixture.folder, name);
    assert_int_equal(mkdir(folder, 0700), 0);
    assert_int_equal(snapshot_manifest_create(fixture.host, &manifest, NULL), KELPIE_OK);
    memset(manifest->info.id, id, sizeof(manifest->info.id) - 1);
    memset(manifest->info.parent_id, parent_id, sizeof(manifest->info.parent_id) - 1);
    snprintf(manifest->info.backend, sizeof(manifest->info.backend), "kvm");
    snprintf(manifest->info.architecture, sizeof(manifest->info.architecture), "x86_64");
    snprintf(manifest->vm_name, sizeof(manifest->vm_name), "web");
    snprintf(manifest->parent_path, sizeof(manifest->parent_path), "%s", parent_path);
    manifest->vcpu_count = 1;
    manifest->memory_mib = 64;
    for (unsigned i = 0; i < (parent_path[0] ? 3u : 2u); i++) {
        manifest->parts[i] = (struct snapshot_part_info){.present = true, .size = sizes[i]};
        memset(manifest->parts[i].checksum, 'c', SNAPSHOT_CHECKSUM_SIZE - 1);
        snprintf(path, sizeof(path), "%s/%s", folder, snapshot_part_name(i));
        FILE *file = fopen(path, "w");
        assert_non_null(file);
        assert_int_equal(ftruncate(fileno(file), (off_t)sizes[i]), 0);
        assert_int_equal(fclose(file), 0);
    }
    snprintf(path, sizeof(path), "%s/manifest.json", folder);
    assert_int_equal(snapshot_manifest_encode(manifest, &text, NULL), KELPIE_OK);
    assert_int_equal(host_file_store(fixture.host, path, text, strlen(text), 0600, NULL),
                     KELPIE_OK);
    free(text);
    snapshot_manifest_destroy(manifest);
}

static void a_snapshot_has_a_path(void **state) {
    (void)state;
    char path[KELPIE_PATH_SIZE_MAX + 1];
    assert_int_equal(kelpie_snapshot_path(fixture.host, "before", path, sizeof(path), &err),
                     KELPIE_OK);
    assert_string_equal(path, path_of("state/kelpie/snapshots/before"));
    assert_int_equal(kelpie_snapshot_path(fixture.host, "./before", path, sizeof(path), &err),
                     KELPIE_OK);
    assert_string_equal(path, "./before");
    assert_int_equal(kelpie_snapshot_path(fixture.host, "a/b", path, 3, &err), KELPIE_BAD_CONFIG);
    assert_int_equal(kelpie_snapshot_path(fixture.host, "..", path, sizeof(path), &err),
                     KELPIE_BAD_CONFIG);
}

static void snapshots_are_listed_the_bad_ones_too(void **state) {
    (void)state;
    struct kelpie_snapshot_info *list = NULL;
    size_t count = 7;
    assert_int_equal(kelpie_snapshot_list(fixture.host, &list, &count, &err), KELPIE_OK);
    assert_int_equal(count, 0);
    kelpie_list_free(list);
    craft("base", '1', '0', "");
    craft("diff", '2', '1', "../base");
    assert_int_equal(mkdir(path_of("state/kelpie/snapshots/broken"), 0700), 0);
    write_file("state/kelpie/snapshots/broken/manifest.json", 10);
    assert_int_equal(mkdir(path_of("state/kelpie/snapshots/x.partial-"
                                   "00000000000000000000000000000000"),
                           0700),
                     0);
    assert_int_equal(kelpie_snapshot_list(fixture.host, &list, &count, &err), KELPIE_OK);
    assert_int_equal(count, 3);
    assert_string_equal(list[0].name, "base");
    assert_int_equal(list[0].status, KELPIE_OK);
    assert_string_equal(list[0].vm_name, "web");
    assert_true(list[0].snapshot.bytes > 0);
    assert_true(list[0].snapshot.bytes < MEMORY_SIZE); /* its memory is one hole */
    assert_string_equal(list[1].name, "broken");
    assert_int_equal(list[1].status, KELPIE_SNAPSHOT_CORRUPT);
    assert_string_equal(list[2].snapshot.parent_id, list[0].snapshot.id);
    kelpie_list_free(list);
}

static void hazard_E5_a_parent_stays_while_a_diff_needs_it(void **state) {
    (void)state;
    craft("base", '1', '0', "");
    craft("one", '2', '1', "../base");
    craft("two", '3', '2', path_of("state/kelpie/snapshots/one"));
    assert_int_equal(kelpie_snapshot_remove(fixture.host, "base", &err), KELPIE_BUSY);
    assert_non_null(strstr(err.message, "one"));
    assert_int_equal(kelpie_snapshot_remove(fixture.host, "one", &err), KELPIE_BUSY);
    assert_non_null(strstr(err.message, "two"));
    assert_int_equal(kelpie_snapshot_remove(fixture.host, "two", &err), KELPIE_OK);
    assert_int_equal(kelpie_snapshot_remove(fixture.host, "one", &err), KELPIE_OK);
    assert_int_equal(kelpie_snapshot_remove(fixture.host, "base", &err), KELPIE_OK);
    assert_int_equal(kelpie_snapshot_remove(fixture.host, "base", &err), KELPIE_NOT_FOUND);
}

/* boxlite#1487: a snapshot that could not be deleted. */
static void hazard_E5_a_broken_snapshot_can_be_removed(void **state) {
    (void)state;
    assert_int_equal(mkdir(path_of("state/kelpie/snapshots/broken"), 0700), 0);
    assert_int_equal(kelpie_snapshot_remove(fixture.host, "broken", &err), KELPIE_OK);
    craft("base", '1', '0', "");
    craft("diff", '2', '9', "../base"); /* to another base than this one */
    assert_int_equal(kelpie_snapshot_remove(fixture.host, "base", &err), KELPIE_OK);
    assert_int_equal(kelpie_snapshot_remove(fixture.host, "diff", &err), KELPIE_OK);
    assert_int_equal(kelpie_snapshot_remove(fixture.host, "../vms", &err), KELPIE_BAD_CONFIG);
}

/* ---- Prune ------------------------------------------------------------------------------------ */

static struct kelpie_prune_report prune(const struct kelpie_prune_options *options) {
    struct kelpie_prune_report report = {0};
    assert_int_equal(kelpie_prune(fixture.host, options, &report, &err), KELPIE_OK);
    return report;
}

static void make_vm(const char *name, enum kelpie_state vm_state, struct store_vm *ret_vm) {
    assert_int_equal(store_fixture_vm(fixture.store, fixture.host, name, vm_state, ret_vm),
                     KELPIE_OK);
}

static void hazard_E1_prune_never_touches_a_vm_that_is_owned(void **state) {
    (void)state;
    struct store_vm owned[2];
    struct store_vm vm;
    static const char *const ended[] = {"created", "stopped", "crashed", "owner-died"};
    static const enum kelpie_state states[] = {KELPIE_STATE_CREATED, KELPIE_STATE_STOPPED,
                                               KELPIE_STATE_CRASHED, KELPIE_STATE_RUNNING};
    make_vm("running", KELPIE_STATE_RUNNING, &owned[0]);
    make_vm("lingering", KELPIE_STATE_STOPPED, &owned[1]);
    for (size_t i = 0; i < ARRAY_SIZE(ended); i++) {
        make_vm(ended[i], states[i], &vm);
        store_vm_release(&vm);
    }
    make_vm("damaged", KELPIE_STATE_STOPPED, &vm);
    store_vm_release(&vm);
    write_file("state/kelpie/vms/damaged/record.json", 3);
    assert_int_equal(prune(&(struct kelpie_prune_options){0}).vms, 0);
    struct kelpie_prune_report said =
        prune(&(struct kelpie_prune_options){.vms = true, .dry_run = true});
    assert_int_equal(said.vms, 5);
    assert_true(said.bytes > 0);
    assert_true(is_there("state/kelpie/vms/stopped"));
    struct kelpie_prune_report report = prune(&(struct kelpie_prune_options){.vms = true});
    assert_memory_equal(&report, &said, sizeof(report));
    assert_false(is_there("state/kelpie/vms/stopped"));
    assert_false(is_there("state/kelpie/vms/owner-died"));
    assert_false(is_there("state/kelpie/vms/damaged"));
    assert_true(is_there("state/kelpie/vms/running/record.json"));
    assert_true(is_there("state/kelpie/vms/lingering/record.json"));
    store_vm_release(&owned[0]);
    store_vm_release(&owned[1]);
}

static void hazard_E5_leftovers_of_killed_processes_go(void **state) {
    (void)state;
    int lock = HOST_FD_NONE;
    assert_int_equal(mkdir(path_of("state/kelpie/vms/.new-0123"), 0700), 0);
    write_file("state/kelpie/vms/.new-0123/lock", 0);
    write_file("state/kelpie/vms/.new-0123/record.json", 9000);
    assert_int_equal(mkdir(path_of("state/kelpie/vms/.new-4567"), 0700), 0); /* no lock yet */
    assert_int_equal(mkdir(path_of("state/kelpie/vms/.old-89ab"), 0700), 0);
    write_file("state/kelpie/vms/.old-89ab/disk", 9000);
    assert_int_equal(mkdir(path_of("state/kelpie/snapshots/.old-cdef"), 0700), 0);
    assert_int_equal(mkdir(path_of("state/kelpie/snapshots/x.partial-"
                                   "00000000000000000000000000000000"),
                           0700),
                     0);
    write_file("state/kelpie/snapshots/x.partial-00000000000000000000000000000000/manifest.json",
               0);
    assert_int_equal(mkdir(path_of("state/kelpie/templates/.new-key"), 0700), 0);
    /* These are not: one is being made, and one is nobody's that we know. */
    assert_int_equal(
        store_folder_make(fixture.store, path_of("state/kelpie/vms/.new-live"), &lock, &err),
        KELPIE_OK);
    assert_int_equal(mkdir(path_of("state/kelpie/vms/.unknown"), 0700), 0);
    struct kelpie_prune_report said = prune(&(struct kelpie_prune_options){.dry_run = true});
    assert_true(is_there("state/kelpie/vms/.new-0123/record.json"));
    assert_false(is_there("state/kelpie/vms/.new-4567/lock"));
    struct kelpie_prune_report report = prune(&(struct kelpie_prune_options){0});
    assert_int_equal(report.leftovers, 6);
    assert_true(report.bytes >= 2 * 9000);
    assert_true(said.leftovers >= 4); /* of a folder without a lock only a try can tell */
    assert_false(is_there("state/kelpie/vms/.new-0123"));
    assert_false(is_there("state/kelpie/vms/.new-4567"));
    assert_false(is_there("state/kelpie/vms/.old-89ab"));
    assert_false(is_there("state/kelpie/snapshots/.old-cdef"));
    assert_false(is_there("state/kelpie/templates/.new-key"));
    assert_true(is_there("state/kelpie/vms/.new-live"));
    assert_true(is_there("state/kelpie/vms/.unknown"));
    assert_int_equal(prune(&(struct kelpie_prune_options){0}).leftovers, 0);
    host_close(fixture.host, lock);
    assert_int_equal(prune(&(struct kelpie_prune_options){0}).leftovers, 1);
}

/* A socket file of this name and age; listening, or left by who is dead. */
static int make_socket(const char *name, time_t age_s, bool listening) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "%s/run/kelpie/%s", fixture.folder, name);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(fd, 4), 0);
    struct timeval times[2] = {{.tv_sec = time(NULL) - age_s}, {.tv_sec = time(NULL) - age_s}};
    assert_int_equal(utimes(address.sun_path, times), 0);
    if (!listening) {
        close(fd);
        return -1;
    }
    return fd;
}

static void hazard_E5_sockets_that_nobody_listens_to_go(void **state) {
    (void)state;
    (void)make_socket("0000000000000001.sock", 600, false);
    (void)make_socket("0000000000000002.sock", 0, false); /* too young to be sure */
    int live = make_socket("0000000000000003.sock", 600, true);
    write_file("run/kelpie/note.sock", 1);
    assert_int_equal(prune(&(struct kelpie_prune_options){.dry_run = true}).leftovers, 1);
    assert_true(is_there("run/kelpie/0000000000000001.sock"));
    assert_int_equal(prune(&(struct kelpie_prune_options){0}).leftovers, 1);
    assert_false(is_there("run/kelpie/0000000000000001.sock"));
    assert_true(is_there("run/kelpie/0000000000000002.sock"));
    assert_true(is_there("run/kelpie/0000000000000003.sock"));
    assert_true(is_there("run/kelpie/note.sock"));
    close(live);
}

static void a_dead_owners_socket_goes_when_its_vm_is_looked_at(void **state) {
    (void)state;
    struct kelpie_vm_info *list = NULL;
    size_t count = 0;
    struct store_vm vm;
    char name[64];
    make_vm("web", KELPIE_STATE_RUNNING, &vm);
    snprintf(name, sizeof(name), "%.16s.sock", vm.id);
    (void)make_socket(name, 0, false);
    assert_int_equal(kelpie_vm_list(fixture.host, &list, &count, &err), KELPIE_OK);
    kelpie_list_free(list);
    snprintf(name, sizeof(name), "run/kelpie/%.16s.sock", vm.id);
    assert_true(is_there(name)); /* its owner lives */
    store_vm_release(&vm);
    assert_int_equal(kelpie_vm_list(fixture.host, &list, &count, &err), KELPIE_OK);
    kelpie_list_free(list);
    assert_false(is_there(name));
}

static void make_template(const char *key) {
    struct store_template *template = NULL;
    char path[256];
    assert_int_equal(store_template_begin(fixture.store, key, &template, &err), KELPIE_OK);
    assert_int_equal(mkdir(store_template_bundle(template), 0700), 0);
    assert_int_equal(store_template_publish(template, &err), KELPIE_OK);
    snprintf(path, sizeof(path), "state/kelpie/templates/%s/bundle/memory", key);
    write_file(path, 65536);
}

static void templates_beyond_the_budget_go(void **state) {
    (void)state;
    make_template("a");
    assert_int_equal(usleep(1000), 0);
    make_template("b");
    assert_int_equal(prune(&(struct kelpie_prune_options){0}).templates, 0);
    assert_int_equal(
        prune(&(struct kelpie_prune_options){.template_bytes_max = 65536 + 32768}).templates, 1);
    assert_false(is_there("state/kelpie/templates/a"));
    struct kelpie_prune_report report = prune(&(struct kelpie_prune_options){.templates = true});
    assert_int_equal(report.templates, 1);
    assert_true(report.bytes >= 65536);
    assert_false(is_there("state/kelpie/templates/b"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_snapshot_has_a_path, set_up, tear_down),
        cmocka_unit_test_setup_teardown(snapshots_are_listed_the_bad_ones_too, set_up, tear_down),
        cmocka_unit_test_setup_teardown(hazard_E5_a_parent_stays_while_a_diff_needs_it, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(hazard_E5_a_broken_snapshot_can_be_removed, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(hazard_E1_prune_never_touches_a_vm_that_is_owned, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(hazard_E5_leftovers_of_killed_processes_go, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(hazard_E5_sockets_that_nobody_listens_to_go, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_dead_owners_socket_goes_when_its_vm_is_looked_at, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(templates_beyond_the_budget_go, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
