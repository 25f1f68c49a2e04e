/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The archive of a checkpoint: what a guest may say is written as any tar reads it, what it may not is refused; and what nobody may put in
 * an archive is found before a machine starts. */
#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/assert.h"
#include "base/checked.h"
#include "vm/checkpoint.h"

#define BYTES_SIZE (1u << 20)
#define MIB (1ull << 20)

struct fixture {
    struct host *host;
    uint8_t *bytes; /* a tree, or an archive */
    struct cursor_writer writer;
    size_t read; /* of the tree */
    size_t piece;
    int fd;
    struct vm_checkpoint_limits limits;
    struct kelpie_error err;
};

static int setup(void **state) {
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    assert_non_null(fixture);
    fixture->bytes = malloc(BYTES_SIZE);
    assert_non_null(fixture->bytes);
    assert_int_equal(host_linux_create(&fixture->host, NULL), KELPIE_OK);
    fixture->writer = cursor_writer_init(fixture->bytes, BYTES_SIZE);
    fixture->fd = memfd_create("archive", MFD_CLOEXEC);
    assert_true(fixture->fd >= 0);
    fixture->piece = 4096;
    fixture->limits = (struct vm_checkpoint_limits){UINT64_MAX, {KELPIE_TREE_BYTES_DEFAULT, 1000}};
    *state = fixture;
    return 0;
}

static int teardown(void **state) {
    struct fixture *fixture = *state;
    close(fixture->fd);
    host_destroy(fixture->host);
    free(fixture->bytes);
    free(fixture);
    return 0;
}

/* ---- Trees ------------------------------------------------------------------------------------ */

static void say(struct fixture *fixture, struct protocol_tree_entry entry, const char *content) {
    protocol_encode_tree_entry(&fixture->writer, &entry);
    cursor_write_bytes(&fixture->writer, content, strlen(content));
    assert_false(fixture->writer.failed);
}

#define SAY(content, ...) say(fixture, (struct protocol_tree_entry){__VA_ARGS__}, content)
#define ROOT SAY("", .kind = PROTOCOL_TREE_ROOT, .name = "", .mode = 0751, .modified_ns = 5)
#define END SAY("", .kind = PROTOCOL_TREE_END, .name = "")

static enum kelpie_status read_bytes(void *argument, void *buffer, size_t size, size_t *ret_size,
                                     struct kelpie_error *err) {
    struct fixture *fixture = argument;
    size_t count = min_size(min_size(size, fixture->piece), fixture->writer.size - fixture->read);
    (void)err;
    memcpy(buffer, fixture->bytes + fixture->read, count);
    fixture->read += count;
    *ret_size = count;
    return KELPIE_OK;
}

static enum kelpie_status pack(struct fixture *fixture) {
    const struct vm_tree_source source = {read_bytes, fixture};
    fixture->read = 0;
    assert_int_equal(ftruncate(fixture->fd, 0), 0);
    fixture->err = (struct kelpie_error){0};
    return vm_checkpoint_pack(fixture->host, &source, fixture->fd, &fixture->limits, &fixture->err);
}

static enum kelpie_status check_archive(struct fixture *fixture) {
    struct stat info;
    struct host_wait wait = host_wait_ms(fixture->host, 60000, HOST_FD_NONE);
    assert_int_equal(fstat(fixture->fd, &info), 0);
    fixture->err = (struct kelpie_error){0};
    return vm_checkpoint_unpack(fixture->host, fixture->fd, (uint64_t)info.st_size, NULL, &wait,
                                &fixture->err);
}

/* Begins anew. */
static void again(struct fixture *fixture) {
    fixture->writer.size = 0;
    fixture->writer.failed = false;
}

static struct archive *archive_of(struct fixture *fixture) {
    struct archive *archive = archive_read_new();
    assert_int_equal(lseek(fixture->fd, 0, SEEK_SET), 0);
    assert_int_equal(archive_read_support_format_tar(archive), ARCHIVE_OK);
    assert_int_equal(archive_read_open_fd(archive, fixture->fd, 10240), ARCHIVE_OK);
    return archive;
}

static struct archive_entry *next(struct archive *archive, const char *name, unsigned type) {
    struct archive_entry *entry = NULL;
    assert_int_equal(archive_read_next_header(archive, &entry), ARCHIVE_OK);
    assert_string_equal(archive_entry_pathname(entry), name);
    assert_int_equal(archive_entry_filetype(entry), type);
    return entry;
}

static void a_tree_becomes_an_archive(void **state) {
    struct fixture *fixture = *state;
    char text[8] = {0};
    ROOT;
    SAY("", .kind = PROTOCOL_TREE_OWNER, .name = "", .size = 7 | 3000000000ull << 32,
        .modified_ns = 99);
    SAY("", .kind = PROTOCOL_TREE_ATTRIBUTE, .name = "user.a", .target = "x\0y", .target_size = 3);
    SAY("hello", .kind = PROTOCOL_TREE_FILE, .name = "f", .mode = 04755, .size = 5,
        .modified_ns = 1000000000ull * 12 + 34);
    SAY("", .kind = PROTOCOL_TREE_OWNER, .name = "", .size = 7, .modified_ns = 99);
    SAY("hello", .kind = PROTOCOL_TREE_FILE, .name = "g", .mode = 04755, .size = 5);
    SAY("", .kind = PROTOCOL_TREE_FOLDER, .name = "d\xff", .mode = 0700);
    SAY("", .kind = PROTOCOL_TREE_LINK, .name = "d\xff/l", .target = "/etc/../x");
    SAY("", .kind = PROTOCOL_TREE_SPARSE, .name = "s", .mode = 0600, .size = 64 * MIB);
    SAY("mid", .kind = PROTOCOL_TREE_EXTENT, .name = "", .size = 3, .modified_ns = 5 * MIB);
    SAY("", .kind = PROTOCOL_TREE_EXTENT, .name = "", .modified_ns = 64 * MIB);
    SAY("", .kind = PROTOCOL_TREE_OWNER, .name = "", .size = 7, .modified_ns = 99);
    SAY("", .kind = PROTOCOL_TREE_SPARSE, .name = "t", .mode = 04755, .size = 5);
    SAY("lo", .kind = PROTOCOL_TREE_EXTENT, .name = "", .size = 2, .modified_ns = 3);
    SAY("", .kind = PROTOCOL_TREE_EXTENT, .name = "", .modified_ns = 5);
    END;
    for (fixture->piece = 1; fixture->piece < 9000; fixture->piece += 2999) {
        assert_int_equal(pack(fixture), KELPIE_OK);
        assert_int_equal(check_archive(fixture), KELPIE_OK);
    }
    struct stat info;
    assert_int_equal(fstat(fixture->fd, &info), 0);
    assert_true((uint64_t)info.st_size > 64 * MIB);
    assert_true((uint64_t)info.st_blocks * 512 < MIB); /* zeros are holes */

    struct archive *archive = archive_of(fixture);
    struct archive_entry *entry = next(archive, "./", AE_IFDIR);
    assert_int_equal(archive_entry_perm(entry), 0751);
    entry = next(archive, "f", AE_IFREG);
    assert_int_equal(archive_entry_perm(entry), 04755);
    assert_int_equal(archive_entry_uid(entry), 7);
    assert_int_equal(archive_entry_gid(entry), 3000000000);
    assert_int_equal(archive_entry_mtime(entry), 12);
    assert_int_equal(archive_entry_mtime_nsec(entry), 34);
    assert_int_equal(archive_entry_xattr_count(entry), 1);
    assert_int_equal(archive_read_data(archive, text, sizeof(text)), 5);
    assert_string_equal(text, "hello");
    assert_int_equal(archive_read_next_header(archive, &entry), ARCHIVE_OK);
    assert_string_equal(archive_entry_hardlink(entry), "f");
    entry = next(archive, "d\xff/", AE_IFDIR);
    assert_int_equal(archive_entry_uid(entry), 0); /* each owner is of one entry */
    assert_int_equal(archive_entry_xattr_count(entry), 0);
    entry = next(archive, "d\xff/l", AE_IFLNK);
    assert_string_equal(archive_entry_symlink(entry), "/etc/../x");
    entry = next(archive, "s", AE_IFREG);
    assert_int_equal(archive_entry_size(entry), 64 * MIB);
    assert_int_equal(archive_read_next_header(archive, &entry), ARCHIVE_OK);
    assert_string_equal(archive_entry_hardlink(entry), "f"); /* its bytes were there already */
    assert_int_equal(archive_read_next_header(archive, &entry), ARCHIVE_EOF);
    archive_read_free(archive);
}

static void refused(struct fixture *fixture, enum kelpie_status status, const char *field) {
    assert_int_equal(pack(fixture), status);
    assert_string_equal(fixture->err.field, field);
    assert_true(strlen(fixture->err.message) > 10);
    const struct vm_tree_source source = {read_bytes, fixture};
    fixture->read = 0;
    assert_int_equal(
        vm_checkpoint_pack(fixture->host, &source, fixture->fd, &fixture->limits, NULL), status);
    again(fixture);
}

static void what_is_no_tree_is_refused(void **state) {
    struct fixture *fixture = *state;
    ROOT;
    refused(fixture, KELPIE_COPY_FAILED, ""); /* only a part of it */
    cursor_write_bytes(&fixture->writer, "0123456789012345678901234567", 28);
    refused(fixture, KELPIE_COPY_FAILED, "");
    SAY("", .kind = PROTOCOL_TREE_FILE, .name = "f");
    SAY("", .kind = PROTOCOL_TREE_HARD_LINK, .name = "g", .target = "f");
    END;
    refused(fixture, KELPIE_COPY_FAILED, "");
    SAY("", .kind = PROTOCOL_TREE_EXTENT, .name = "");
    refused(fixture, KELPIE_COPY_FAILED, "");
    SAY("", .kind = PROTOCOL_TREE_SPARSE, .name = "s", .size = 10);
    END;
    refused(fixture, KELPIE_COPY_FAILED, "");
    SAY("", .kind = PROTOCOL_TREE_SPARSE, .name = "s", .size = 10);
    SAY("", .kind = PROTOCOL_TREE_EXTENT, .name = "", .modified_ns = 11);
    refused(fixture, KELPIE_COPY_FAILED, "");
    SAY("", .kind = PROTOCOL_TREE_SPARSE, .name = "s", .size = 10);
    SAY("", .kind = PROTOCOL_TREE_FOLDER, .name = "d");
    refused(fixture, KELPIE_COPY_FAILED, "");
    SAY("", .kind = PROTOCOL_TREE_SPARSE, .name = "s", .size = 10);
    SAY("12345678901", .kind = PROTOCOL_TREE_EXTENT, .name = "", .size = 11);
    refused(fixture, KELPIE_COPY_FAILED, "");
    SAY("", .kind = PROTOCOL_TREE_SPARSE, .name = "s", .size = 10);
    SAY("123", .kind = PROTOCOL_TREE_EXTENT, .name = "", .size = 3, .modified_ns = 5);
    SAY("1", .kind = PROTOCOL_TREE_EXTENT, .name = "", .size = 1, .modified_ns = 7);
    refused(fixture, KELPIE_COPY_FAILED, "");
    for (int i = 0; i <= VM_CHECKPOINT_ATTRIBUTE_COUNT_MAX; i++) {
        char name[32];
        snprintf(name, sizeof(name), "user.%d", i);
        SAY("", .kind = PROTOCOL_TREE_ATTRIBUTE, .name = name, .target = "");
    }
    refused(fixture, KELPIE_COPY_FAILED, "");
}

static void budgets_are_kept(void **state) {
    struct fixture *fixture = *state;
    fixture->limits.tree.count_max = 2;
    for (int i = 0; i < 2; i++) {
        ROOT;
        SAY("", .kind = PROTOCOL_TREE_FOLDER, .name = "a");
        if (i == 0) {
            SAY("", .kind = PROTOCOL_TREE_FOLDER, .name = "b");
        }
        SAY("1", .kind = PROTOCOL_TREE_FILE, .name = "f", .size = 1);
        END;
        if (i == 0) {
            refused(fixture, KELPIE_SNAPSHOT_TOO_LARGE, "count_max");
        }
    }
    assert_int_equal(pack(fixture), KELPIE_OK);
    fixture->limits.tree.bytes_max = 0;
    refused(fixture, KELPIE_SNAPSHOT_TOO_LARGE, "bytes_max");
    fixture->limits.tree.bytes_max = 10;
    SAY("", .kind = PROTOCOL_TREE_SPARSE, .name = "s", .size = 64 * MIB);
    SAY("123456", .kind = PROTOCOL_TREE_EXTENT, .name = "", .size = 6);
    SAY("12345", .kind = PROTOCOL_TREE_EXTENT, .name = "", .size = 5, .modified_ns = MIB);
    refused(fixture, KELPIE_SNAPSHOT_TOO_LARGE, "bytes_max");
    SAY("", .kind = PROTOCOL_TREE_SPARSE, .name = "s", .size = SNAPSHOT_PART_SIZE_MAX + 1);
    refused(fixture, KELPIE_SNAPSHOT_TOO_LARGE, "bytes_max");
    /* Of the archive itself: what is not zero of it. */
    fixture->limits.stored_max = 1000;
    ROOT;
    END;
    refused(fixture, KELPIE_SNAPSHOT_TOO_LARGE, "bytes_max");
}

/* ---- Archives --------------------------------------------------------------------------------- */

struct spec {
    const char *name;
    unsigned type;
    const char *target; /* of a link */
    bool hard;
    la_int64_t uid;
    la_int64_t size;
    time_t modified;
    const char *attribute;
    size_t value_size;
};

static void put(struct archive *archive, const struct spec *spec) {
    static const char value[8192];
    struct archive_entry *entry = archive_entry_new();
    archive_entry_set_pathname(entry, spec->name);
    archive_entry_set_filetype(entry, spec->type);
    archive_entry_set_perm(entry, 0700);
    archive_entry_set_uid(entry, spec->uid);
    archive_entry_set_mtime(entry, spec->modified, 0);
    archive_entry_set_size(entry, spec->size);
    if (spec->target && spec->hard) {
        archive_entry_set_hardlink(entry, spec->target);
    } else if (spec->target) {
        archive_entry_set_symlink(entry, spec->target);
    }
    if (spec->attribute) {
        archive_entry_xattr_add_entry(entry, spec->attribute, value, spec->value_size);
    }
    assert_int_equal(archive_write_header(archive, entry), ARCHIVE_OK);
    archive_entry_free(entry);
}

/* An archive with that entry, and one of the folder itself. */
static void make_archive(struct fixture *fixture, const struct spec *spec, bool root) {
    static const struct spec folder = {.name = "./", .type = AE_IFDIR};
    struct archive *archive = archive_write_new();
    assert_int_equal(ftruncate(fixture->fd, 0), 0);
    assert_int_equal(lseek(fixture->fd, 0, SEEK_SET), 0);
    assert_int_equal(archive_write_set_format_pax(archive), ARCHIVE_OK);
    assert_int_equal(archive_write_open_fd(archive, fixture->fd), ARCHIVE_OK);
    if (root) {
        put(archive, &folder);
    }
    if (spec) {
        put(archive, spec);
    }
    assert_int_equal(archive_write_close(archive), ARCHIVE_OK);
    archive_write_free(archive);
}

static void expect_corrupt(struct fixture *fixture) {
    assert_int_equal(check_archive(fixture), KELPIE_SNAPSHOT_CORRUPT);
    assert_string_equal(fixture->err.field, "files");
}

static void what_no_workspace_has_is_found(void **state) {
    struct fixture *fixture = *state;
    static char deep[256];
    static char wide[300];
    for (int i = 0; i <= KELPIE_TREE_DEPTH_MAX; i++) {
        strcat(deep, "d/");
    }
    memset(wide, 'w', 256);
    const struct spec specs[] = {
        {.name = "/etc/passwd", .type = AE_IFREG},
        {.name = "../x", .type = AE_IFREG},
        {.name = "a/../../x", .type = AE_IFDIR},
        {.name = "a//b", .type = AE_IFREG},
        {.name = deep, .type = AE_IFDIR},
        {.name = wide, .type = AE_IFREG},
        {.name = ".", .type = AE_IFREG},
        {.name = "fifo", .type = AE_IFIFO},
        {.name = "device", .type = AE_IFCHR},
        {.name = "l", .type = AE_IFREG, .target = "../x", .hard = true},
        {.name = "l", .type = AE_IFREG, .target = "/x", .hard = true},
        {.name = "l", .type = AE_IFREG, .target = "./", .hard = true},
        {.name = "./", .type = AE_IFREG, .target = "f", .hard = true},
        {.name = "f", .type = AE_IFREG, .uid = 1ll << 32},
        {.name = "f", .type = AE_IFREG, .attribute = "user.a", .value_size = 4096},
        {.name = "f", .type = AE_IFREG, .attribute = wide, .value_size = 1},
    };
    for (size_t i = 0; i < ARRAY_SIZE(specs); i++) {
        make_archive(fixture, &specs[i], true);
        if (check_archive(fixture) != KELPIE_SNAPSHOT_CORRUPT) {
            fail_msg("%s was taken", specs[i].name);
        }
        assert_string_equal(fixture->err.field, "files");
    }
    const struct spec good[] = {
        {.name = "././a", .type = AE_IFREG, .size = 0},
        {.name = "l", .type = AE_IFLNK, .target = "/../anywhere"},
        {.name = "d///", .type = AE_IFDIR, .modified = -5},
        {.name = "l", .type = AE_IFREG, .target = "./f", .hard = true},
        {.name = "f", .type = AE_IFREG, .uid = UINT32_MAX},
        {.name = "f", .type = AE_IFREG, .modified = INT64_MAX / 2},
        {.name = "f", .type = AE_IFREG, .attribute = "user.a", .value_size = 4095},
    };
    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        make_archive(fixture, &good[i], true);
        if (check_archive(fixture) != KELPIE_OK) {
            fail_msg("%s: %s", good[i].name, fixture->err.message);
        }
    }
}

static void what_is_no_archive_is_found(void **state) {
    struct fixture *fixture = *state;
    make_archive(fixture, NULL, false);
    expect_corrupt(fixture); /* nothing says what the folder is */
    assert_int_equal(ftruncate(fixture->fd, 0), 0);
    expect_corrupt(fixture);
    memset(fixture->bytes, 'x', 4096);
    assert_int_equal(pwrite(fixture->fd, fixture->bytes, 4096, 0), 4096);
    expect_corrupt(fixture);
    /* Cut off in the middle of a file. */
    const struct spec large = {.name = "f", .type = AE_IFREG, .size = 200000};
    make_archive(fixture, &large, true);
    assert_int_equal(ftruncate(fixture->fd, 100000), 0);
    expect_corrupt(fixture);
    /* A compressed one is no such archive. */
    assert_int_equal(ftruncate(fixture->fd, 0), 0);
    assert_int_equal(pwrite(fixture->fd, "\x1f\x8b\x08\0\0\0\0\0\0\x03\0", 11, 0), 11);
    expect_corrupt(fixture);
}

/* A file that is said to have more than a workspace may, without the bytes for it; and one whose bytes are all holes. */
static void holes_are_free(void **state) {
    struct fixture *fixture = *state;
    ROOT;
    SAY("", .kind = PROTOCOL_TREE_SPARSE, .name = "s", .mode = 0600, .size = 300 * MIB);
    SAY("", .kind = PROTOCOL_TREE_EXTENT, .name = "", .modified_ns = 300 * MIB);
    END;
    fixture->limits.tree.bytes_max = 0;
    fixture->limits.stored_max = 8192;
    assert_int_equal(pack(fixture), KELPIE_OK);
    assert_int_equal(check_archive(fixture), KELPIE_OK);
}

static void it_ends_in_time(void **state) {
    struct fixture *fixture = *state;
    struct stat info;
    make_archive(fixture, NULL, true);
    assert_int_equal(fstat(fixture->fd, &info), 0);
    const struct host_wait past = {.deadline_ns = 1, .cancel_fd = HOST_FD_NONE};
    assert_int_equal(vm_checkpoint_unpack(fixture->host, fixture->fd, (uint64_t)info.st_size, NULL,
                                          &past, &fixture->err),
                     KELPIE_TIMED_OUT);
}

static void a_folder_of_files_lies_where_it_says(void **state) {
    (void)state;
    static const struct {
        const char *wanted;
        const char *working_dir;
        const char *path; /* NULL: it is refused */
    } cases[] = {
        {NULL, "/", NULL},        {NULL, "/a//b/", "/a/b"}, {"/x", "/", "/x"},
        {"/run", "/x", NULL},     {"/run/y", "/x", NULL},   {"/runs", "/x", "/runs"},
        {"/a/../run", "/", NULL}, {"/...", "/", "/..."},    {"/.a/b.", "/", "/.a/b."},
        {"/dev/shm", "/", NULL},  {"/.", "/", NULL},        {"/srv/run", "/", "/srv/run"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        char path[KELPIE_PATH_SIZE_MAX + 1];
        struct kelpie_error err = {0};
        enum kelpie_status status =
            vm_checkpoint_workspace(cases[i].wanted, cases[i].working_dir, path, &err);
        assert_int_equal(status, cases[i].path ? KELPIE_OK : KELPIE_BAD_CONFIG);
        assert_string_equal(cases[i].path ? path : err.field,
                            cases[i].path ? cases[i].path : "workspace");
    }
}

#define ARCHIVE_TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        ARCHIVE_TEST(a_tree_becomes_an_archive),
        ARCHIVE_TEST(what_is_no_tree_is_refused),
        ARCHIVE_TEST(budgets_are_kept),
        ARCHIVE_TEST(what_no_workspace_has_is_found),
        ARCHIVE_TEST(what_is_no_archive_is_found),
        ARCHIVE_TEST(holes_are_free),
        ARCHIVE_TEST(it_ends_in_time),
        cmocka_unit_test(a_folder_of_files_lies_where_it_says),
    };
    return cmocka_run_group_tests_name("checkpoint archive", tests, NULL, NULL);
}
