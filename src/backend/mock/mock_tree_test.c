/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Folders of the simulated guest as trees, out and in again. */
#include <errno.h>
#include <stdio.h>

#include "backend/mock/mock_harness_test.h"
#include "backend/mock/mock_tree.h"
#include "base/assert.h"
#include "protocol/tree.h"
#include "support/fault_host.h"

#define PLACES 1000

static void make(struct mock_files *files, const char *path, enum mock_file_type type,
                 const char *content) {
    struct mock_file *file = NULL;
    assert_int_equal(mock_files_add(files, path, type, 0750, &file), 0);
    if (content) {
        assert_int_equal(mock_files_append(files, file, content, strlen(content)), 0);
    }
}

/* A folder with one of each kind. */
static void make_folder(struct mock_files *files) {
    make(files, "/from", MOCK_FILE_FOLDER, NULL);
    make(files, "/from/file", MOCK_FILE_REGULAR, "content");
    make(files, "/from/sub", MOCK_FILE_FOLDER, NULL);
    make(files, "/from/sub/empty", MOCK_FILE_REGULAR, NULL);
    assert_int_equal(mock_files_link(files, "/from/link", "file", 4), 0);
}

static void expect_file(const struct mock_files *files, const char *path, enum mock_file_type type,
                        const char *content) {
    const struct mock_file *file = mock_files_find(files, path);
    assert_non_null(file);
    assert_int_equal(file->type, type);
    assert_int_equal(file->content.size, strlen(content));
    assert_memory_equal(file->content.size ? (const char *)file->content.data : "", content,
                        file->content.size);
}

static void test_what_went_out_comes_in(void **state) {
    static const char *const targets[] = {"/to", "/"};
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(targets); i++) {
        struct harness harness = harness_start();
        struct mock_files *files = &harness.guest->files;
        struct mock_bytes bytes = mock_bytes_init(harness.host);
        char path[64];
        make_folder(files);
        mock_tree_pack(files, "/from", false, &bytes);
        assert_false(bytes.failed);
        assert_int_equal(mock_tree_make_folder(files, targets[i], 0700), 0);
        assert_int_equal(mock_tree_unpack(files, targets[i], false, &bytes), 0);
        const char *base = i == 0 ? "/to" : "";
        snprintf(path, sizeof(path), "%s/file", base);
        expect_file(files, path, MOCK_FILE_REGULAR, "content");
        assert_int_equal(mock_files_find(files, path)->mode, 0750);
        snprintf(path, sizeof(path), "%s/link", base);
        expect_file(files, path, MOCK_FILE_LINK, "file");
        snprintf(path, sizeof(path), "%s/sub/empty", base);
        expect_file(files, path, MOCK_FILE_REGULAR, "");
        /* Once more, over what is there now. */
        assert_int_equal(mock_tree_unpack(files, targets[i], false, &bytes), 0);
        mock_bytes_deinit(&bytes);
        harness_stop(&harness);
    }
}

/* The tree's end tells of them: how many, and one by name. */
static void expect_left_out(struct mock_files *files, const char *folder, const char *name,
                            uint64_t count) {
    static struct protocol_tree_reader reader;
    struct protocol_tree_event event = {.kind = PROTOCOL_TREE_EVENT_ENTRY};
    struct mock_bytes bytes = mock_bytes_init(files->host);
    mock_tree_pack(files, folder, false, &bytes);
    const uint8_t *data = bytes.data;
    size_t size = bytes.size;
    protocol_tree_reader_init(&reader);
    while (event.kind != PROTOCOL_TREE_EVENT_END) {
        protocol_tree_read(&reader, &data, &size, &event);
        assert_int_not_equal(event.kind, PROTOCOL_TREE_EVENT_MALFORMED);
        assert_int_not_equal(event.kind, PROTOCOL_TREE_EVENT_NONE);
    }
    assert_string_equal(reader.entry.name, name);
    assert_int_equal(reader.entry.size, count);
    mock_bytes_deinit(&bytes);
}

static void test_devices_and_programs_are_left_out(void **state) {
    (void)state;
    struct harness harness = harness_start();
    struct mock_files *files = &harness.guest->files;
    size_t special = 0;
    const char *first = "";
    for (size_t i = 0; i < files->count; i++) {
        const struct mock_file *file = &files->entries[i];
        if (file->type != MOCK_FILE_REGULAR && file->type != MOCK_FILE_FOLDER &&
            file->type != MOCK_FILE_LINK) {
            first = special++ == 0 ? file->path + 1 : first;
        }
    }
    assert_true(special > 2);
    expect_left_out(files, "/", first, special);
    make_folder(files);
    expect_left_out(files, "/from", "", 0);
    harness_stop(&harness);
}

static void test_what_is_in_the_way_stays(void **state) {
    static const struct {
        const char *path; /* is there, of that type … */
        enum mock_file_type type;
        int failure; /* … and this comes of it */
    } cases[] = {
        {"/to/file", MOCK_FILE_FOLDER, EISDIR},
        {"/to/link", MOCK_FILE_FOLDER, EEXIST},
        {"/to/sub", MOCK_FILE_REGULAR, EEXIST},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct harness harness = harness_start();
        struct mock_files *files = &harness.guest->files;
        struct mock_bytes bytes = mock_bytes_init(harness.host);
        make_folder(files);
        mock_tree_pack(files, "/from", false, &bytes);
        make(files, "/to", MOCK_FILE_FOLDER, NULL);
        make(files, cases[i].path, cases[i].type, NULL);
        assert_int_equal(mock_tree_unpack(files, "/to", false, &bytes), cases[i].failure);
        assert_int_equal(mock_files_find(files, cases[i].path)->type, cases[i].type);
        mock_bytes_deinit(&bytes);
        harness_stop(&harness);
    }
}

static void say(struct mock_bytes *bytes, struct protocol_tree_entry entry, const char *content) {
    static uint8_t head[PROTOCOL_TREE_ENTRY_SIZE_MAX];
    struct cursor_writer writer = cursor_writer_init(head, sizeof(head));
    protocol_encode_tree_entry(&writer, &entry);
    assert_false(writer.failed);
    mock_bytes_append(bytes, head, writer.size);
    mock_bytes_append(bytes, content, strlen(content));
}

#define SAY(content, ...) say(&bytes, (struct protocol_tree_entry){__VA_ARGS__}, content)

static void test_an_exact_tree_takes_the_place_of_what_is_there(void **state) {
    (void)state;
    struct harness harness = harness_start();
    struct mock_files *files = &harness.guest->files;
    struct mock_bytes bytes = mock_bytes_init(harness.host);
    make(files, "/to", MOCK_FILE_FOLDER, NULL);
    make(files, "/to/old", MOCK_FILE_FOLDER, NULL);
    make(files, "/to/old/file", MOCK_FILE_REGULAR, "old");
    make(files, "/too", MOCK_FILE_REGULAR, "kept");
    SAY("", .kind = PROTOCOL_TREE_OWNER, .name = "", .size = 7);
    SAY("", .kind = PROTOCOL_TREE_ATTRIBUTE, .name = "user.a", .target = "b", .target_size = 1);
    SAY("", .kind = PROTOCOL_TREE_FOLDER, .name = "d", .mode = 0700);
    SAY("", .kind = PROTOCOL_TREE_SPARSE, .name = "d/s", .mode = 0640, .size = 5000);
    SAY("abc", .kind = PROTOCOL_TREE_EXTENT, .name = "", .size = 3, .modified_ns = 4990);
    SAY("", .kind = PROTOCOL_TREE_EXTENT, .name = "", .modified_ns = 5000);
    SAY("", .kind = PROTOCOL_TREE_HARD_LINK, .name = "h", .target = "d/s");
    SAY("", .kind = PROTOCOL_TREE_FOLDER, .name = "d", .mode = 0711); /* once more */
    SAY("", .kind = PROTOCOL_TREE_ROOT, .name = "", .mode = 01777);
    SAY("", .kind = PROTOCOL_TREE_END, .name = "");
    assert_int_equal(mock_tree_unpack(files, "/to", true, &bytes), 0);
    assert_null(mock_files_find(files, "/to/old"));
    assert_non_null(mock_files_find(files, "/too"));
    assert_int_equal(mock_files_find(files, "/to")->mode, 01777);
    assert_int_equal(mock_files_find(files, "/to/d")->mode, 0711);
    const struct mock_file *link = mock_files_find(files, "/to/h");
    assert_int_equal(link->mode, 0640);
    assert_int_equal(link->content.size, 5000);
    assert_memory_equal(link->content.data + 4990, "abc", 4);
    mock_bytes_deinit(&bytes);
    harness_stop(&harness);
}

static void test_an_exact_tree_that_cannot_be_is_refused(void **state) {
    (void)state;
    const struct protocol_tree_entry sparse = {
        .kind = PROTOCOL_TREE_SPARSE, .name = "s", .mode = 0600, .size = 10};
    const struct protocol_tree_entry huge = {
        .kind = PROTOCOL_TREE_SPARSE, .name = "s", .size = MOCK_FILE_BYTES_MAX + 1ull};
    const struct protocol_tree_entry end = {.kind = PROTOCOL_TREE_END, .name = ""};
    struct {
        struct protocol_tree_entry first;
        struct protocol_tree_entry second;
        int failure;
    } cases[] = {
        {{.kind = PROTOCOL_TREE_EXTENT, .name = ""}, end, EBADMSG},
        {sparse, {.kind = PROTOCOL_TREE_EXTENT, .name = "", .modified_ns = 11}, EBADMSG},
        {sparse, {.kind = PROTOCOL_TREE_EXTENT, .name = "", .size = 3, .modified_ns = 8}, EBADMSG},
        {sparse, end, EBADMSG},
        {sparse, sparse, EBADMSG},
        {huge, {.kind = PROTOCOL_TREE_EXTENT, .name = ""}, ENOSPC},
        {{.kind = PROTOCOL_TREE_HARD_LINK, .name = "h", .target = "none"}, end, ENOENT},
        {{.kind = PROTOCOL_TREE_FOLDER, .name = "d"},
         {.kind = PROTOCOL_TREE_HARD_LINK, .name = "h", .target = "d"},
         EBADMSG},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct harness harness = harness_start();
        struct mock_bytes bytes = mock_bytes_init(harness.host);
        make(&harness.guest->files, "/to", MOCK_FILE_FOLDER, NULL);
        say(&bytes, cases[i].first, "");
        say(&bytes, cases[i].second, cases[i].second.size > 0 ? "123" : "");
        assert_int_equal(mock_tree_unpack(&harness.guest->files, "/to", true, &bytes),
                         cases[i].failure);
        mock_bytes_deinit(&bytes);
        harness_stop(&harness);
    }
}

static void test_a_tree_that_is_cut_or_wrong_is_refused(void **state) {
    (void)state;
    struct harness harness = harness_start();
    struct mock_files *files = &harness.guest->files;
    struct mock_bytes bytes = mock_bytes_init(harness.host);
    make_folder(files);
    mock_tree_pack(files, "/from", false, &bytes);
    make(files, "/to", MOCK_FILE_FOLDER, NULL);
    const size_t whole = bytes.size;
    for (bytes.size = 0; bytes.size < whole; bytes.size++) {
        assert_int_equal(mock_tree_unpack(files, "/to", false, &bytes), EBADMSG);
    }
    assert_int_equal(mock_tree_unpack(files, "/to", false, &bytes), 0);
    bytes.data[0] ^= 0xff;
    assert_int_equal(mock_tree_unpack(files, "/to", false, &bytes), EBADMSG);
    mock_bytes_deinit(&bytes);
    harness_stop(&harness);
}

/* A folder's path and a name, each of which is short enough, and not both together. */
static void test_a_path_that_is_too_long_is_refused(void **state) {
    (void)state;
    struct harness harness = harness_start();
    struct mock_files *files = &harness.guest->files;
    struct mock_bytes bytes = mock_bytes_init(harness.host);
    char path[MOCK_PATH_SIZE_MAX + 1] = "";
    make_folder(files);
    mock_tree_pack(files, "/from", false, &bytes);
    for (size_t size = 0; size + 100 <= MOCK_PATH_SIZE_MAX; size += 100) {
        path[size] = '/';
        memset(path + size + 1, 'd', 99);
        path[size + 100] = '\0';
    }
    const size_t size = strlen(path);
    memset(path + size, 'd', MOCK_PATH_SIZE_MAX - 2 - size);
    path[MOCK_PATH_SIZE_MAX - 2] = '\0';
    assert_int_equal(mock_tree_make_folder(files, path, 0700), 0);
    assert_int_equal(mock_tree_unpack(files, path, false, &bytes), ENAMETOOLONG);
    assert_non_null(mock_files_find(files, path));
    mock_bytes_deinit(&bytes);
    harness_stop(&harness);
}

/* The nth allocation fails: the bytes have failed, or the files are as far as they came. */
static void test_any_allocation_may_fail(void **state) {
    (void)state;
    struct host *inner = NULL;
    struct host *faulty = NULL;
    uint64_t nth = 1;
    assert_int_equal(host_linux_create(&inner, NULL), KELPIE_OK);
    for (const char *fired = ""; fired && nth < PLACES; nth++) {
        struct mock_guest *guest = NULL;
        struct kelpie_error err;
        assert_int_equal(fault_host_create(inner, &faulty, NULL), KELPIE_OK);
        assert_int_equal(mock_guest_create(faulty, HARNESS_MEMORY_BYTES, &guest, &err), KELPIE_OK);
        assert_int_equal(mock_guest_boot(guest, &err), KELPIE_OK);
        struct mock_bytes bytes = mock_bytes_init(faulty);
        make_folder(&guest->files);
        make(&guest->files, "/to", MOCK_FILE_FOLDER, NULL);
        fault_host_arm(faulty, &(struct fault_plan){.nth = nth, .only = "allocate"});
        mock_tree_pack(&guest->files, "/from", false, &bytes);
        int failure = bytes.failed ? ENOMEM : mock_tree_unpack(&guest->files, "/to", false, &bytes);
        fired = fault_host_fired(faulty);
        fault_host_disarm(faulty);
        assert_int_equal(failure == 0, !fired);
        assert_true(failure == 0 || failure == ENOMEM || failure == ENOSPC);
        if (!fired) {
            expect_file(&guest->files, "/to/file", MOCK_FILE_REGULAR, "content");
        }
        mock_bytes_deinit(&bytes);
        mock_guest_destroy(guest);
        host_destroy(faulty);
    }
    assert_true(nth > 5 && nth < PLACES);
    host_destroy(inner);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_exact_tree_takes_the_place_of_what_is_there),
        cmocka_unit_test(test_an_exact_tree_that_cannot_be_is_refused),
        cmocka_unit_test(test_what_went_out_comes_in),
        cmocka_unit_test(test_devices_and_programs_are_left_out),
        cmocka_unit_test(test_what_is_in_the_way_stays),
        cmocka_unit_test(test_a_tree_that_is_cut_or_wrong_is_refused),
        cmocka_unit_test(test_a_path_that_is_too_long_is_refused),
        cmocka_unit_test(test_any_allocation_may_fail),
    };
    return cmocka_run_group_tests_name("mock trees", tests, NULL, NULL);
}
