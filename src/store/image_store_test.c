/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Images by name, on the real file system: built, found, shared, replaced, kept while a VM uses them, pruned. */
#include "store/image_store.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/assert.h"
#include "snapshot/snapshot.h"
#include "support/oci_layout.h"

static char folder[64];
static struct kelpie_error err;

static void run(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void run(const char *format, ...) {
    char command[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(command, sizeof(command), format, args);
    va_end(args);
    assert_int_equal(system(command), 0);
}

static int setup(void **state) {
    (void)state;
    static const char *const variables[] = {"XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR",
                                            "XDG_CACHE_HOME"};
    char path[128];
    snprintf(folder, sizeof(folder), "/tmp/kelpie-images-XXXXXX");
    assert_non_null(mkdtemp(folder));
    for (size_t i = 0; i < ARRAY_SIZE(variables); i++) {
        snprintf(path, sizeof(path), "%s/%s", folder, variables[i]);
        assert_int_equal(mkdir(path, 0700), 0);
        assert_int_equal(setenv(variables[i], path, 1), 0);
    }
    return 0;
}

static int teardown(void **state) {
    (void)state;
    run("rm -rf %s", folder);
    return 0;
}

static void write_tar(const char *name, const char *data) {
    const struct oci_entry entry = {.path = "file", .data = data};
    struct oci_layer layer = oci_layer_make(&entry, 1, OCI_PLAIN);
    oci_write_file(folder, name, layer.data, layer.size);
    oci_layer_free(&layer);
}

static enum kelpie_status try_build(const char *name, const char *tar,
                                    struct kelpie_image **ret_image) {
    char path[256];
    snprintf(path, sizeof(path), "%s/%s", folder, tar);
    return kelpie_image_build(
        NULL, name, &(struct kelpie_image_options){.source = KELPIE_IMAGE_TAR, .path = path},
        ret_image, &err);
}

/* Builds an image of a file with that content; returns its digest. */
static const char *build(const char *name, const char *data) {
    static char digests[8][KELPIE_DIGEST_SIZE];
    static size_t next;
    struct kelpie_image *image = NULL;
    char *digest = digests[next++ % 8];
    write_tar("a.tar", data);
    assert_int_equal(try_build(name, "a.tar", &image), KELPIE_OK);
    assert_string_equal(image->name, name);
    assert_string_equal(image->format, "erofs");
    assert_int_equal(access(image->path, R_OK), 0);
    memcpy(digest, image->digest, KELPIE_DIGEST_SIZE);
    kelpie_list_free(image);
    return digest;
}

static size_t count_files(const char *ending) {
    char command[256];
    unsigned count = 0;
    snprintf(command, sizeof(command), "ls %s/XDG_DATA_HOME/kelpie/images | grep -c '%s$'", folder,
             ending);
    FILE *stream = popen(command, "r");
    assert_non_null(stream);
    assert_int_equal(fscanf(stream, "%u", &count), 1);
    pclose(stream);
    return count;
}

/* A VM in the store with that image. */
static void make_vm(const char *name, const char *image) {
    struct host *host = NULL;
    struct store *store = NULL;
    struct store_vm vm;
    struct kelpie_config config = {.name = name, .image = image};
    struct store_record *record = calloc(1, sizeof(*record));
    assert_non_null(record);
    assert_int_equal(host_linux_create(&host, NULL), KELPIE_OK);
    assert_int_equal(store_open(host, &store, &err), KELPIE_OK);
    snprintf(record->info.name, sizeof(record->info.name), "%s", name);
    snprintf(record->info.id, sizeof(record->info.id), "00000000000000%02zx", strlen(name));
    snprintf(record->info.image, sizeof(record->info.image), "%s", image);
    record->info.state = KELPIE_STATE_STOPPED;
    json_t *json = NULL;
    assert_int_equal(store_json_config(&config, &json, &err), KELPIE_OK);
    assert_int_equal(store_json_to_config(host, json, &record->config, &err), KELPIE_OK);
    json_decref(json);
    assert_int_equal(store_vm_create(store, record, &vm, &err), KELPIE_OK);
    store_vm_release(&vm);
    store_record_destroy(record);
    store_close(store);
    host_destroy(host);
}

static struct kelpie_prune_report prune(bool images, bool dry_run) {
    struct host *host = NULL;
    struct store *store = NULL;
    struct kelpie_prune_report report = {0};
    assert_int_equal(host_linux_create(&host, NULL), KELPIE_OK);
    assert_int_equal(store_open(host, &store, &err), KELPIE_OK);
    assert_int_equal(store_image_prune(store, images, dry_run, &report, &err), KELPIE_OK);
    store_close(store);
    host_destroy(host);
    return report;
}

static void assert_found(const char *word, const char *name) {
    struct kelpie_image *image = NULL;
    assert_int_equal(kelpie_image_find(NULL, word, &image, &err), KELPIE_OK);
    assert_string_equal(image->name, name);
    kelpie_list_free(image);
}

static void assert_missing(const char *word, enum kelpie_status status) {
    struct kelpie_image *image = NULL;
    assert_int_equal(kelpie_image_find(NULL, word, &image, &err), status);
    assert_null(image);
}

/* ---- Finding ---------------------------------------------------------------------------------- */

static void finds_by_name_and_digest(void **state) {
    (void)state;
    char beginning[16];
    const char *digest = build("one", "1");
    (void)build("two", "2");
    assert_found("one", "one");
    assert_found("two", "two");
    assert_found(digest, "one");
    assert_found(digest + 7, "one");
    memcpy(beginning, digest, 12);
    beginning[12] = '\0';
    assert_found(beginning, "one");
    assert_found(beginning + 7, "one");
    assert_missing("three", KELPIE_NOT_FOUND);
    assert_missing("sha256:", KELPIE_NOT_FOUND);
    assert_missing("../one", KELPIE_NOT_FOUND);
    assert_missing("", KELPIE_NOT_FOUND);
}

static void lists_by_name(void **state) {
    (void)state;
    struct kelpie_image *list = NULL;
    size_t count = 7;
    assert_int_equal(kelpie_image_list(NULL, &list, &count, &err), KELPIE_OK);
    assert_int_equal(count, 0);
    kelpie_list_free(list);
    (void)build("b", "1");
    (void)build("a-b", "2");
    (void)build("a", "3");
    assert_int_equal(kelpie_image_list(NULL, &list, &count, &err), KELPIE_OK);
    assert_int_equal(count, 3);
    assert_string_equal(list[0].name, "a");
    assert_string_equal(list[1].name, "a-b");
    assert_string_equal(list[2].name, "b");
    assert_null(list[2].argv[0]);
    assert_null(list[2].env[0]);
    assert_true(list[0].bytes > 0);
    assert_true(list[0].created_unix_ms > 1600000000000ull);
    kelpie_list_free(list);
}

static void keeps_what_the_maker_wants_run(void **state) {
    (void)state;
    struct oci_entry entry = {.path = "etc/passwd", .data = "app:x:7:8::/:/bin/sh\n"};
    struct oci_layer layer = oci_layer_make(&entry, 1, OCI_GZIP);
    struct kelpie_image *image = NULL;
    char descriptor[OCI_TEXT_SIZE];
    char path[128];
    snprintf(path, sizeof(path), "%s/layout", folder);
    assert_int_equal(mkdir(path, 0755), 0);
    oci_layout_begin(path);
    oci_layout_image(path,
                     &(struct oci_image){.layers = &layer,
                                         .layer_count = 1,
                                         .config = "{\"Entrypoint\": [\"/bin/e\"], \"Cmd\": "
                                                   "[\"a b\", \"\"], \"Env\": [\"K=V\"], "
                                                   "\"WorkingDir\": \"/w\", \"User\": \"app\"}"},
                     descriptor);
    oci_layout_index(path, descriptor);
    oci_layer_free(&layer);
    assert_int_equal(
        kelpie_image_build(NULL, "app",
                           &(struct kelpie_image_options){.source = KELPIE_IMAGE_OCI, .path = path},
                           &image, &err),
        KELPIE_OK);
    kelpie_list_free(image);
    assert_int_equal(kelpie_image_find(NULL, "app", &image, &err), KELPIE_OK);
    assert_string_equal(image->argv[0], "/bin/e");
    assert_string_equal(image->argv[1], "a b");
    assert_string_equal(image->argv[2], "");
    assert_null(image->argv[3]);
    assert_int_equal(image->entrypoint_count, 1);
    assert_string_equal(image->env[0], "K=V");
    assert_null(image->env[1]);
    assert_string_equal(image->working_dir, "/w");
    assert_int_equal(image->uid, 7);
    assert_int_equal(image->gid, 8);
    assert_string_equal(image->architecture, oci_this_architecture());
    kelpie_list_free(image);
}

/* ---- Names and file systems ------------------------------------------------------------------- */

static void names_share_a_file_system(void **state) {
    (void)state;
    const char *one = build("one", "same");
    const char *two = build("two", "same");
    assert_string_equal(one, two);
    assert_int_equal(count_files(".erofs"), 1);
    assert_int_equal(kelpie_image_remove(NULL, "one", false, &err), KELPIE_OK);
    assert_found("two", "two");
    assert_int_equal(count_files(".erofs"), 1);
    assert_int_equal(kelpie_image_remove(NULL, "two", false, &err), KELPIE_OK);
    run("test -z \"$(ls %s/XDG_DATA_HOME/kelpie/images | grep -v lock)\"", folder);
}

static void a_replaced_image_stays_for_who_has_its_digest(void **state) {
    (void)state;
    const char *old = build("name", "old");
    const char *new = build("name", "new");
    assert_string_not_equal(old, new);
    assert_found("name", "name");
    assert_found(new, "name");
    assert_found(old, ""); /* it has no name any more */
    make_vm("user", old);
    assert_int_equal(prune(false, false).leftovers, 0);
    assert_found(old, "");
    assert_int_equal(kelpie_vm_remove(NULL, "user", false, &err), KELPIE_OK);
    assert_int_equal(prune(false, true).leftovers, 1);
    assert_found(old, "");
    struct kelpie_prune_report report = prune(false, false);
    assert_int_equal(report.leftovers, 1);
    assert_true(report.bytes > 0);
    assert_missing(old, KELPIE_NOT_FOUND);
    assert_found(new, "name");
}

static void an_image_in_use_stays(void **state) {
    (void)state;
    const char *digest = build("one", "1");
    (void)build("two", "2");
    make_vm("web", "one");
    assert_int_equal(kelpie_image_remove(NULL, "one", false, &err), KELPIE_BUSY);
    assert_non_null(strstr(err.message, "web"));
    assert_int_equal(kelpie_image_remove(NULL, digest, false, &err), KELPIE_BUSY);
    struct kelpie_prune_report report = prune(true, true);
    assert_int_equal(report.images, 1);
    assert_int_equal(count_files(".json"), 2);
    report = prune(true, false);
    assert_int_equal(report.images, 1);
    assert_found("one", "one");
    assert_missing("two", KELPIE_NOT_FOUND);
    assert_int_equal(count_files(".erofs"), 1);
    assert_int_equal(kelpie_vm_remove(NULL, "web", false, &err), KELPIE_OK);
    assert_int_equal(kelpie_image_remove(NULL, digest + 7, false, &err), KELPIE_OK);
    assert_int_equal(kelpie_image_remove(NULL, "one", false, &err), KELPIE_NOT_FOUND);
}

/* A snapshot in the store whose VM has a disk over that image; as much of one as can be read. */
static void make_snapshot(const char *name, const char *digest) {
    struct host *host = NULL;
    struct snapshot_manifest *manifest = NULL;
    char *text = NULL;
    char path[256];
    assert_int_equal(host_linux_create(&host, NULL), KELPIE_OK);
    assert_int_equal(snapshot_manifest_create(host, &manifest, &err), KELPIE_OK);
    memset(manifest->info.id, '1', sizeof(manifest->info.id) - 1);
    memset(manifest->info.parent_id, '0', sizeof(manifest->info.parent_id) - 1);
    snprintf(manifest->info.backend, sizeof(manifest->info.backend), "mock");
    snprintf(manifest->info.architecture, sizeof(manifest->info.architecture), "x86_64");
    snprintf(manifest->vm_name, sizeof(manifest->vm_name), "web");
    manifest->vcpu_count = 1;
    manifest->memory_mib = 64;
    run("mkdir -p %s/XDG_STATE_HOME/kelpie/snapshots/%s", folder, name);
    for (unsigned i = 0; i < 2; i++) {
        manifest->parts[i] = (struct snapshot_part_info){.present = true, .size = 0};
        memset(manifest->parts[i].checksum, 'c', SNAPSHOT_CHECKSUM_SIZE - 1);
        run(": > %s/XDG_STATE_HOME/kelpie/snapshots/%s/%s", folder, name, snapshot_part_name(i));
    }
    assert_int_equal(snapshot_manifest_add_feature(manifest, SNAPSHOT_FEATURE_IMAGE, digest, &err),
                     KELPIE_OK);
    assert_int_equal(snapshot_manifest_encode(manifest, &text, &err), KELPIE_OK);
    snprintf(path, sizeof(path), "%s/XDG_STATE_HOME/kelpie/snapshots/%s/manifest.json", folder,
             name);
    assert_int_equal(host_file_store(host, path, text, strlen(text), 0600, &err), KELPIE_OK);
    free(text);
    snapshot_manifest_destroy(manifest);
    host_destroy(host);
}

static void an_image_that_a_snapshot_needs_stays(void **state) {
    (void)state;
    const char *digest = build("one", "1");
    make_snapshot("point", digest);
    make_snapshot("other",
                  "sha256:0000000000000000000000000000000000000000000000000000000000000000");
    assert_int_equal(kelpie_image_remove(NULL, "one", false, &err), KELPIE_BUSY);
    assert_string_equal(err.field, "image");
    assert_non_null(strstr(err.message, "the snapshot point"));
    struct kelpie_prune_report report = prune(true, false);
    assert_int_equal(report.images, 0);
    /* Its name goes to another, and what the snapshot is over stays, nameless. */
    (void)build("one", "2");
    report = prune(true, false);
    assert_int_equal(count_files(".erofs"), 1);
    struct kelpie_image *image = NULL;
    assert_int_equal(kelpie_image_find(NULL, digest, &image, &err), KELPIE_OK);
    kelpie_list_free(image);
    assert_int_equal(kelpie_image_remove(NULL, digest, false, &err), KELPIE_BUSY);
    assert_int_equal(kelpie_image_remove(NULL, digest, true, &err), KELPIE_OK);
    assert_missing(digest, KELPIE_NOT_FOUND);
}

static void force_removes_what_is_needed(void **state) {
    (void)state;
    (void)build("one", "1");
    make_vm("web", "one");
    assert_int_equal(kelpie_image_remove(NULL, "one", false, &err), KELPIE_BUSY);
    assert_int_equal(kelpie_image_remove(NULL, "one", true, &err), KELPIE_OK);
    assert_missing("one", KELPIE_NOT_FOUND);
}

static void leftovers_are_pruned(void **state) {
    (void)state;
    (void)build("one", "1");
    run("cd %s/XDG_DATA_HOME/kelpie/images && head -c 5000 /dev/zero > build.0123456789abcdef.tmp "
        "&& "
        "head -c 5000 /dev/zero > build.fedcba9876543210.tmp && "
        "touch -d '2 days ago' build.0123456789abcdef.tmp && "
        "echo > %064d.erofs && echo > other",
        folder, 7);
    struct kelpie_prune_report report = prune(false, false);
    assert_int_equal(report.leftovers, 2); /* the other draft is young: somebody may write it */
    assert_found("one", "one");
    assert_int_equal(count_files(".tmp"), 1);
    assert_int_equal(count_files("other"), 1);
}

/* What a later version of ours wrote is not taken for nobody's. */
static void descriptions_that_cannot_be_read_keep_their_images(void **state) {
    (void)state;
    (void)build("one", "1");
    run("sed -i 's/\"version\": 1/\"version\": 2/' %s/XDG_DATA_HOME/kelpie/images/one.json",
        folder);
    assert_missing("one", KELPIE_BAD_CONFIG);
    assert_int_equal(prune(true, false).leftovers, 0);
    assert_int_equal(count_files(".erofs"), 1);
}

static void damaged_descriptions_are_named(void **state) {
    (void)state;
    static const char *const changes[] = {
        "s/sha256:../sha256:/",
        "s/\"erofs\"/\"ext4\"/",
        "s/\"name\": \"one\"/\"name\": \"..\"/",
        "s/\"uid\": 0/\"uid\": -1/",
        "s/\"env\": \\[\\]/\"env\": [1]/",
        "s/\"argv\": \\[\\]/\"argv\": 5/",
        "s/\"entrypoint_count\": 0/\"entrypoint_count\": 3/",
        "s/{/[/",
    };
    for (size_t i = 0; i < ARRAY_SIZE(changes); i++) {
        (void)build("one", "1");
        assert_found("one", "one");
        run("sed -i '%s' %s/XDG_DATA_HOME/kelpie/images/one.json", changes[i], folder);
        assert_missing("one", KELPIE_BAD_CONFIG);
    }
}

/* ---- Building --------------------------------------------------------------------------------- */

static void a_failed_build_leaves_nothing(void **state) {
    (void)state;
    struct kelpie_image *image = NULL;
    const char *digest = build("one", "1");
    oci_write_file(folder, "bad.tar", "no archive at all, and long enough to be looked at", 50);
    assert_int_equal(try_build("one", "bad.tar", &image), KELPIE_BAD_CONFIG);
    assert_int_equal(try_build("two", "nothing.tar", &image), KELPIE_NOT_FOUND);
    assert_null(image);
    assert_found(digest, "one");
    run("test $(ls -A %s/XDG_DATA_HOME/kelpie/images | wc -l) = 3", folder);
    run("test -z \"$(ls -A %s/XDG_CACHE_HOME/kelpie/tmp)\"", folder);
}

static void names_are_plain(void **state) {
    (void)state;
    static const char *const names[] = {"", ".", "..", "a/b", "../a", "-a", "a b", "a\n", "é"};
    struct kelpie_image *image = NULL;
    write_tar("a.tar", "1");
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        assert_int_equal(try_build(names[i], "a.tar", &image), KELPIE_BAD_CONFIG);
        assert_string_equal(err.field, "name");
    }
    assert_int_equal(kelpie_image_build(NULL, "a",
                                        &(struct kelpie_image_options){.source = KELPIE_IMAGE_TAR},
                                        &image, &err),
                     KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, "path");
}

/* Whoever has the lock publishes; the other waits for it. */
static void builds_wait_for_each_other(void **state) {
    (void)state;
    char path[256];
    struct kelpie_image *image = NULL;
    (void)build("one", "1");
    write_tar("a.tar", "2");
    snprintf(path, sizeof(path), "%s/XDG_DATA_HOME/kelpie/images/lock", folder);
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        usleep(200000);
        _exit(0); /* its copy of the lock goes with it */
    }
    close(fd);
    struct timespec before;
    struct timespec after;
    clock_gettime(CLOCK_MONOTONIC, &before);
    assert_int_equal(try_build("two", "a.tar", &image), KELPIE_OK);
    clock_gettime(CLOCK_MONOTONIC, &after);
    kelpie_list_free(image);
    double waited =
        (double)(after.tv_sec - before.tv_sec) + (double)(after.tv_nsec - before.tv_nsec) / 1e9;
    assert_true(waited > 0.1);
    assert_found("two", "two");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(finds_by_name_and_digest),
        TEST(lists_by_name),
        TEST(keeps_what_the_maker_wants_run),
        TEST(names_share_a_file_system),
        TEST(a_replaced_image_stays_for_who_has_its_digest),
        TEST(an_image_in_use_stays),
        TEST(an_image_that_a_snapshot_needs_stays),
        TEST(force_removes_what_is_needed),
        TEST(leftovers_are_pruned),
        TEST(descriptions_that_cannot_be_read_keep_their_images),
        TEST(damaged_descriptions_are_named),
        TEST(a_failed_build_leaves_nothing),
        TEST(names_are_plain),
        TEST(builds_wait_for_each_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
