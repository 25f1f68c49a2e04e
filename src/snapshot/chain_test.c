/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Diffs: their manifests, and chains of bundles on the real file system. */
#include "snapshot/snapshot_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/assert.h"
#include "support/fault_host.h"

#define MEMORY_SIZE (8 * SNAPSHOT_PAGE_SIZE) /* one byte of bits */

static struct host *host;
static struct host_wait forever;
static char folder[64];

struct place {
    char path[160];
};

static struct place place_of(const char *name) {
    struct place place;
    snprintf(place.path, sizeof(place.path), "%s/%s", folder, name);
    return place;
}

static int set_up(void **state) {
    (void)state;
    snprintf(folder, sizeof(folder), "/tmp/kelpie-chain-XXXXXX");
    if (host_linux_create(&host, NULL) != KELPIE_OK || !mkdtemp(folder)) {
        return -1;
    }
    forever = host_wait_ms(host, 600000, HOST_FD_NONE);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    int result = rmdir(folder); /* Fails, and with it the group, when a test leaves something. */
    host_destroy(host);
    return result;
}

static void remove_bundle(const char *name) {
    assert_int_equal(host_path_remove_folder(host, place_of(name).path, NULL), KELPIE_OK);
}

/* ---- Manifests -------------------------------------------------------------------------------- */

static struct snapshot_manifest *make_manifest(const char *parent_path) {
    struct snapshot_manifest *manifest = NULL;
    assert_int_equal(snapshot_manifest_create(host, &manifest, NULL), KELPIE_OK);
    memset(manifest->info.id, 'a', sizeof(manifest->info.id) - 1);
    memset(manifest->info.parent_id, 'b', sizeof(manifest->info.parent_id) - 1);
    snprintf(manifest->info.backend, sizeof(manifest->info.backend), "kvm");
    snprintf(manifest->info.architecture, sizeof(manifest->info.architecture), "x86_64");
    manifest->vcpu_count = 1;
    manifest->memory_mib = 64;
    snprintf(manifest->parent_path, sizeof(manifest->parent_path), "%s", parent_path);
    const uint64_t sizes[] = {0, MEMORY_SIZE, 1};
    for (size_t i = 0; i < (parent_path[0] ? 3 : 2); i++) {
        manifest->parts[i] = (struct snapshot_part_info){.present = true, .size = sizes[i]};
        memset(manifest->parts[i].checksum, 'c', SNAPSHOT_CHECKSUM_SIZE - 1);
    }
    return manifest;
}

/* Encodes and decodes; frees the manifest. */
static enum kelpie_status pass_on(struct snapshot_manifest *manifest, struct kelpie_error *err) {
    char *text = NULL;
    struct snapshot_manifest *decoded = NULL;
    assert_int_equal(snapshot_manifest_encode(manifest, &text, err), KELPIE_OK);
    enum kelpie_status status = snapshot_manifest_decode(host, text, strlen(text), &decoded, err);
    if (status == KELPIE_OK) {
        assert_string_equal(decoded->parent_path, manifest->parent_path);
        assert_string_equal(decoded->info.parent_id, manifest->info.parent_id);
        assert_memory_equal(decoded->parts, manifest->parts, sizeof(decoded->parts));
    }
    const char *version =
        manifest->parent_path[0] ? "\"format_version\": 2" : "\"format_version\": 1";
    assert_non_null(strstr(text, version));
    free(text);
    snapshot_manifest_destroy(manifest);
    snapshot_manifest_destroy(decoded);
    return status;
}

static void expect_wrong(struct snapshot_manifest *manifest, const char *text) {
    struct kelpie_error err = {0};
    assert_int_equal(pass_on(manifest, &err), KELPIE_SNAPSHOT_CORRUPT);
    assert_string_equal(err.field, "manifest");
    assert_non_null(strstr(err.message, text));
}

static void test_manifest_of_a_diff_is_version_2(void **state) {
    (void)state;
    struct kelpie_error err;
    assert_int_equal(pass_on(make_manifest("../base"), &err), KELPIE_OK);
    assert_int_equal(pass_on(make_manifest(""), &err), KELPIE_OK);
}

static void hazard_B3_members_of_a_diff_contradict_each_other(void **state) {
    (void)state;
    struct snapshot_manifest *manifest = make_manifest("../base");
    manifest->parts[SNAPSHOT_PART_PAGES].present = false;
    expect_wrong(manifest, "pages");
    manifest = make_manifest("");
    manifest->parts[SNAPSHOT_PART_PAGES] = manifest->parts[SNAPSHOT_PART_STATE];
    expect_wrong(manifest, "pages");
    for (uint64_t size = 0; size <= 2; size += 2) {
        manifest = make_manifest("../base");
        manifest->parts[SNAPSHOT_PART_PAGES].size = size;
        expect_wrong(manifest, "does not fit");
    }
    manifest = make_manifest("../base");
    manifest->parts[SNAPSHOT_PART_MEMORY].size += SNAPSHOT_PAGE_SIZE;
    expect_wrong(manifest, "does not fit");
    manifest = make_manifest("../base");
    manifest->parts[SNAPSHOT_PART_MEMORY].present = false;
    expect_wrong(manifest, "does not fit");
    manifest = make_manifest("../base");
    manifest->info.parent_id[0] = '\0';
    expect_wrong(manifest, "parent_id");
    manifest = make_manifest("../base");
    memcpy(manifest->info.parent_id, manifest->info.id, sizeof(manifest->info.id));
    expect_wrong(manifest, "parent_id");
    manifest = make_manifest("../base");
    manifest->info.kind = KELPIE_SNAPSHOT_CHECKPOINT;
    expect_wrong(manifest, "parent_id");
    manifest = make_manifest("../ba\nse");
    expect_wrong(manifest, "parent_path");
    manifest = make_manifest("../base");
    manifest->parts[SNAPSHOT_PART_MEMORY].present = false;
    manifest->memory_in_state = true;
    expect_wrong(manifest, "does not fit");
}

/* ---- Chains ----------------------------------------------------------------------------------- */

/* A bundle whose parts hold zeros, with that manifest, which it frees. */
static void craft_of(const char *name, struct snapshot_manifest *manifest) {
    struct place place = place_of(name);
    char *text = NULL;
    assert_int_equal(mkdir(place.path, 0700), 0);
    for (unsigned i = 0; i <= SNAPSHOT_PART_PAGES; i++) {
        char path[256];
        snprintf(path, sizeof(path), "%s/%s", place.path, snapshot_part_name(i));
        if (manifest->parts[i].present) {
            int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
            assert_int_equal(ftruncate(fd, (off_t)manifest->parts[i].size), 0);
            close(fd);
        }
    }
    char path[256];
    snprintf(path, sizeof(path), "%s/manifest.json", place.path);
    assert_int_equal(snapshot_manifest_encode(manifest, &text, NULL), KELPIE_OK);
    assert_int_equal(host_file_store(host, path, text, strlen(text), 0600, NULL), KELPIE_OK);
    free(text);
    snapshot_manifest_destroy(manifest);
}

static void craft_sized(const char *name, char id, char parent_id, const char *parent_path,
                        uint64_t memory_size) {
    struct snapshot_manifest *manifest = make_manifest(parent_path);
    memset(manifest->info.id, id, sizeof(manifest->info.id) - 1);
    memset(manifest->info.parent_id, parent_id, sizeof(manifest->info.parent_id) - 1);
    manifest->parts[SNAPSHOT_PART_MEMORY].size = memory_size;
    craft_of(name, manifest);
}

/* The bundle '1', of another machine than the others. */
static void craft_other(const char *name, const char *backend, bool memory_in_state) {
    struct snapshot_manifest *manifest = make_manifest("");
    memset(manifest->info.id, '1', sizeof(manifest->info.id) - 1);
    snprintf(manifest->info.backend, sizeof(manifest->info.backend), "%s", backend);
    manifest->memory_in_state = memory_in_state;
    manifest->parts[SNAPSHOT_PART_MEMORY].present = !memory_in_state;
    craft_of(name, manifest);
}

static void craft(const char *name, char id, char parent_id, const char *parent_path) {
    craft_sized(name, id, parent_id, parent_path, MEMORY_SIZE);
}

/* How many bundles the chain has; 0: it cannot be opened, with the error's field. */
static size_t length_of(const char *name, enum kelpie_status *ret_status,
                        struct kelpie_error *err) {
    struct snapshot_reader *reader = NULL;
    *ret_status = snapshot_reader_open(host, place_of(name).path, &reader, err);
    size_t length = *ret_status == KELPIE_OK ? snapshot_reader_chain_length(reader) : 0;
    snapshot_reader_close(reader);
    return length;
}

static void expect_parent_error(const char *name, enum kelpie_status expected) {
    struct kelpie_error err = {0};
    enum kelpie_status status = KELPIE_OK;
    assert_int_equal(length_of(name, &status, &err), 0);
    assert_int_equal(status, expected);
    assert_string_equal(err.field, "parent");
}

static void hazard_E5_parents_that_are_not_there(void **state) {
    (void)state;
    struct kelpie_error err;
    enum kelpie_status status = KELPIE_OK;
    craft("base", '1', '0', "");
    craft("one", '2', '1', "../base");
    craft("two", '3', '2', place_of("one").path);
    assert_int_equal(length_of("two", &status, &err), 3);
    remove_bundle("base");
    expect_parent_error("two", KELPIE_SNAPSHOT_CORRUPT);
    craft("base", '5', '0', ""); /* another one in its place */
    expect_parent_error("two", KELPIE_SNAPSHOT_INCOMPATIBLE);
    remove_bundle("base");
    craft_sized("base", '1', '0', "", 2 * MEMORY_SIZE); /* of another machine */
    expect_parent_error("two", KELPIE_SNAPSHOT_INCOMPATIBLE);
    remove_bundle("base");
    craft_other("base", "qemu", false);
    expect_parent_error("two", KELPIE_SNAPSHOT_INCOMPATIBLE);
    remove_bundle("base");
    craft_other("base", "kvm", true);
    expect_parent_error("two", KELPIE_SNAPSHOT_INCOMPATIBLE);
    remove_bundle("base");
    assert_int_equal(length_of("two", &status, NULL), 0); /* nobody asks why */
    assert_int_equal(status, KELPIE_SNAPSHOT_CORRUPT);
    craft("base", '1', '0', "");
    char path[256];
    snprintf(path, sizeof(path), "%s/memory", place_of("base").path);
    assert_int_equal(truncate(path, MEMORY_SIZE - 1), 0); /* damaged */
    expect_parent_error("two", KELPIE_SNAPSHOT_CORRUPT);
    remove_bundle("base");
    remove_bundle("one");
    remove_bundle("two");
}

static void test_a_parent_that_cannot_be_read_is_not_damaged(void **state) {
    (void)state;
    struct host *faulty = NULL;
    struct kelpie_error err = {0};
    craft("base", '1', '0', "");
    craft("one", '2', '1', "../base");
    assert_int_equal(fault_host_create(host, &faulty, NULL), KELPIE_OK);
    const char *fired = "";
    for (uint64_t nth = 1; fired; nth++) {
        struct snapshot_reader *reader = NULL;
        fault_host_arm(faulty, &(struct fault_plan){.nth = nth, .os_error = EMFILE});
        enum kelpie_status status =
            snapshot_reader_open(faulty, place_of("one").path, &reader, &err);
        snapshot_reader_close(reader);
        fired = fault_host_fired(faulty);
        fault_host_disarm(faulty);
        assert_true(fired || nth > 10);
        enum kelpie_status expected = !fired                           ? KELPIE_OK
                                      : strcmp(fired, "allocate") == 0 ? KELPIE_NO_MEMORY
                                                                       : KELPIE_IO_FAILED;
        assert_int_equal(status, expected);
    }
    host_destroy(faulty);
    remove_bundle("base");
    remove_bundle("one");
}

static void hazard_B3_chain_without_end(void **state) {
    (void)state;
    craft("a", '1', '2', "../b");
    craft("b", '2', '1', "../a");
    expect_parent_error("a", KELPIE_SNAPSHOT_CORRUPT);
    remove_bundle("a");
    remove_bundle("b");
}

static void test_chain_is_as_long_as_it_may_be(void **state) {
    (void)state;
    struct kelpie_error err;
    enum kelpie_status status = KELPIE_OK;
    struct snapshot_reader *reader = NULL;
    struct snapshot_writer *writer = NULL;
    char name[16];
    char parent[24] = "";
    for (int i = 1; i <= SNAPSHOT_CHAIN_LENGTH_MAX; i++) {
        snprintf(name, sizeof(name), "%d", i);
        craft(name, (char)('0' + i), (char)('0' + i - 1), parent);
        snprintf(parent, sizeof(parent), "../%s", name);
        assert_int_equal(length_of(name, &status, &err), i);
    }
    assert_int_equal(snapshot_reader_open(host, place_of(name).path, &reader, &err), KELPIE_OK);
    assert_int_equal(snapshot_writer_create(host, place_of("new").path, 0, &writer, &err),
                     KELPIE_OK);
    assert_int_equal(snapshot_writer_set_parent(writer, place_of(name).path, reader, &err),
                     KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, "parent");
    snapshot_writer_destroy(writer);
    snapshot_reader_close(reader);
    craft("9", '9', '8', parent);
    expect_parent_error("9", KELPIE_SNAPSHOT_CORRUPT);
    for (int i = 1; i <= SNAPSHOT_CHAIN_LENGTH_MAX + 1; i++) {
        snprintf(name, sizeof(name), "%d", i);
        remove_bundle(name);
    }
}

/* What the manifest says of a parent that the caller names so; NULL: it is refused. */
static void expect_place(struct snapshot_reader *base, const char *directory, const char *place) {
    struct snapshot_writer *writer = NULL;
    struct kelpie_error err = {0};
    assert_int_equal(snapshot_writer_create(host, place_of("new").path, 0, &writer, &err),
                     KELPIE_OK);
    enum kelpie_status status = snapshot_writer_set_parent(writer, directory, base, &err);
    assert_int_equal(status, place ? KELPIE_OK : KELPIE_BAD_CONFIG);
    if (place) {
        assert_string_equal(snapshot_writer_manifest(writer)->parent_path, place);
        assert_string_equal(snapshot_writer_manifest(writer)->info.parent_id,
                            snapshot_reader_manifest(base)->info.id);
    } else {
        assert_string_equal(err.field, "parent");
    }
    snapshot_writer_destroy(writer);
}

static void expect_refused_place(struct snapshot_reader *base, const char *directory,
                                 const char *field) {
    struct snapshot_writer *writer = NULL;
    struct kelpie_error err = {0};
    assert_int_equal(snapshot_writer_create(host, place_of("new").path, 0, &writer, &err),
                     KELPIE_OK);
    assert_int_equal(snapshot_writer_set_parent(writer, directory, base, &err), KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, field);
    assert_string_equal(snapshot_writer_manifest(writer)->parent_path, "");
    snapshot_writer_destroy(writer);
}

static void test_place_of_a_parent_is_beside_or_absolute(void **state) {
    (void)state;
    struct kelpie_error err;
    struct snapshot_reader *base = NULL;
    char path[256];
    craft("base", '1', '0', "");
    assert_int_equal(snapshot_reader_open(host, place_of("base").path, &base, &err), KELPIE_OK);
    expect_place(base, place_of("base").path, "../base");
    expect_place(base, place_of("base//").path, "../base");
    expect_place(base, "/elsewhere/base", "/elsewhere/base");
    expect_place(base, "elsewhere/base", NULL);
    expect_place(base, "base", NULL);
    snprintf(path, sizeof(path), "%s/base/..", folder);
    expect_place(base, path, path);
    snprintf(path, sizeof(path), "%s/..", folder); /* beside in name only */
    expect_place(base, path, path);
    expect_place(base, "/", "/"); /* no bundle, which is found out when it is opened */
    char long_path[2 * HOST_PATH_SIZE_MAX];
    memset(long_path, '/', sizeof(long_path));
    long_path[sizeof(long_path) - 1] = '\0';
    memcpy(long_path, "/elsewhere/base", strlen("/elsewhere/base"));
    expect_place(base, long_path, NULL);
    memset(long_path, 'a', sizeof(long_path) - 1);
    long_path[0] = '/';
    expect_refused_place(base, long_path, "directory");
    snapshot_reader_close(base);
    remove_bundle("base");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_manifest_of_a_diff_is_version_2),
        cmocka_unit_test(hazard_B3_members_of_a_diff_contradict_each_other),
        cmocka_unit_test(hazard_E5_parents_that_are_not_there),
        cmocka_unit_test(test_a_parent_that_cannot_be_read_is_not_damaged),
        cmocka_unit_test(hazard_B3_chain_without_end),
        cmocka_unit_test(test_chain_is_as_long_as_it_may_be),
        cmocka_unit_test(test_place_of_a_parent_is_beside_or_absolute),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
