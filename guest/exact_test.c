/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Exact trees in the guest: what goes out and comes in again is the same, and takes the place of what was there, or of nothing. */
#include "exact.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cmocka.h>

#include "agent.h"
#include "base/checked.h"
#include "file.h"
#include "tree.h"

#define PATH_SIZE 256
#define BYTES_SIZE (4u << 20)
#define TIME_NS (1000000000ull * 1234567 + 89)

struct fixture {
    struct agent *agent;
    struct session *session;
    char folder[64];
    uint8_t *bytes;
    size_t size;
    struct kelpie_error err;
};

static const char *at(const struct fixture *fixture, const char *name) {
    static char paths[4][PATH_SIZE];
    static size_t turn;
    char *path = paths[turn++ % 4];
    snprintf(path, PATH_SIZE, "%s/%s", fixture->folder, name);
    return path;
}

static void session_renew(struct fixture *fixture, enum session_kind kind) {
    struct session *session = fixture->session;
    file_close(session);
    memset(session, 0, sizeof(*session));
    session->id = 1;
    session->kind = kind;
    session->exact = true;
    session->file_fd = -1;
    session->dir_fd = -1;
    protocol_sender_init(&session->outputs[0].sender, session->output_bytes[0],
                         sizeof(session->output_bytes[0]));
}

static int setup(void **state) {
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    assert_non_null(fixture);
    fixture->agent = calloc(1, sizeof(*fixture->agent));
    fixture->session = calloc(1, sizeof(*fixture->session));
    fixture->bytes = malloc(BYTES_SIZE);
    assert_true(fixture->agent && fixture->session && fixture->bytes);
    fixture->agent->root_fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    fixture->session->file_fd = -1;
    fixture->session->dir_fd = -1;
    session_renew(fixture, SESSION_FILE_PUT);
    strcpy(fixture->folder, "/tmp/kelpie-guest-exact-XXXXXX");
    assert_non_null(mkdtemp(fixture->folder));
    *state = fixture;
    return 0;
}

static int teardown(void **state) {
    struct fixture *fixture = *state;
    char command[PATH_SIZE];
    file_close(fixture->session);
    close(fixture->agent->root_fd);
    snprintf(command, sizeof(command), "rm -rf '%s'", fixture->folder);
    assert_int_equal(system(command), 0);
    free(fixture->agent);
    free(fixture->session);
    free(fixture->bytes);
    free(fixture);
    return 0;
}

static void file_make(const struct fixture *fixture, const char *name, const char *content) {
    int fd = open(at(fixture, name), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, content, strlen(content)), strlen(content));
    close(fd);
}

static bool holds(const struct fixture *fixture, const char *name, const char *content) {
    char text[64] = {0};
    int fd = open(at(fixture, name), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    ssize_t count = fd >= 0 ? read(fd, text, sizeof(text) - 1) : -1;
    if (fd >= 0) {
        close(fd);
    }
    return count >= 0 && strcmp(text, content) == 0;
}

/* The folder's tree, into fixture->bytes. */
static enum kelpie_status get(struct fixture *fixture, const char *name) {
    struct protocol_sender *sender = &fixture->session->outputs[0].sender;
    session_renew(fixture, SESSION_FILE_GET);
    fixture->size = 0;
    int fd = open(at(fixture, name), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    TRY(tree_get_prepare(fixture->session, fd, &fixture->err));
    bool done = false;
    bool sent = true;
    while (!done || sent) {
        struct protocol_data data;
        if (!done) {
            TRY(tree_get_fill(fixture->agent, fixture->session, &done, &fixture->err));
        }
        assert_true(BYTES_SIZE - fixture->size >= PROTOCOL_DATA_SIZE_MAX);
        sent = protocol_sender_next(sender, fixture->bytes + fixture->size, PROTOCOL_DATA_SIZE_MAX,
                                    &data);
        if (sent) {
            fixture->size += data.size;
            assert_true(protocol_sender_ack(sender, fixture->size));
        }
    }
    return KELPIE_OK;
}

/* All of it goes into the folder, or the first `size` bytes do and then nothing. */
static enum kelpie_status put(struct fixture *fixture, const char *path, size_t size) {
    const struct protocol_file_put message = {.path = path, .mode = 0711 | PROTOCOL_MODE_FOLDER};
    const size_t piece = 30000;
    session_renew(fixture, SESSION_FILE_PUT);
    TRY(tree_put_prepare(fixture->agent, fixture->session, &message, &fixture->err));
    for (size_t done = 0; done < size; done += piece) {
        size_t left = size - done;
        struct protocol_data data = {.bytes = fixture->bytes + done, .size = min_size(left, piece)};
        data.flags = left <= piece ? PROTOCOL_DATA_END : 0;
        TRY(tree_put_bytes(fixture->session, &data, &fixture->err));
    }
    return KELPIE_OK;
}

static void time_set(const struct fixture *fixture, const char *name) {
    const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT},
                                      {.tv_sec = TIME_NS / 1000000000, .tv_nsec = 89}};
    assert_int_equal(utimensat(AT_FDCWD, at(fixture, name), times, AT_SYMLINK_NOFOLLOW), 0);
}

static struct stat look(const struct fixture *fixture, const char *name) {
    struct stat info;
    assert_int_equal(lstat(at(fixture, name), &info), 0);
    return info;
}

static bool attributes_work(const struct fixture *fixture, const char *name) {
    return setxattr(at(fixture, name), "user.colour", "gr\0een", 6, 0) == 0;
}

static void what_goes_out_comes_in_again(void **state) {
    struct fixture *fixture = *state;
    bool is_root = geteuid() == 0;
    assert_int_equal(mkdir(at(fixture, "from"), 0751), 0);
    assert_int_equal(mkdir(at(fixture, "from/a"), 0700), 0);
    file_make(fixture, "from/a/file", "content");
    file_make(fixture, "from/b", "bits");
    assert_int_equal(link(at(fixture, "from/a/file"), at(fixture, "from/other")), 0);
    assert_int_equal(symlink("/x/../y", at(fixture, "from/link")), 0);
    assert_int_equal(mkfifo(at(fixture, "from/fifo"), 0600), 0);
    if (is_root) {
        assert_int_equal(chown(at(fixture, "from/b"), 12, 34), 0);
        assert_int_equal(lchown(at(fixture, "from/link"), 56, 78), 0);
        assert_int_equal(chown(at(fixture, "from/a"), 9, 8), 0);
    }
    assert_int_equal(chmod(at(fixture, "from/b"), 04711), 0);
    assert_int_equal(chmod(at(fixture, "from/a"), 02510), 0);
    int fd = open(at(fixture, "from/sparse"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(pwrite(fd, "middle", 6, 40 << 20), 6);
    assert_int_equal(ftruncate(fd, 80 << 20), 0);
    close(fd);
    bool attributes = attributes_work(fixture, "from/b");
    time_set(fixture, "from/b");
    time_set(fixture, "from/link");
    time_set(fixture, "from");

    assert_int_equal(get(fixture, "from"), KELPIE_OK);
    assert_true(fixture->size < 2 << 20); /* holes are not sent */
    assert_int_equal(mkdir(at(fixture, "to"), 0700), 0);
    assert_int_equal(put(fixture, at(fixture, "to"), fixture->size), KELPIE_OK);

    assert_true(holds(fixture, "to/a/file", "content"));
    assert_true(
        holds(fixture, "to/other", "content")); /* the host makes hard links of the numbers */
    assert_int_equal(look(fixture, "to/a").st_mode & 07777, 02510);
    assert_int_equal(look(fixture, "to/b").st_mode & 07777, 04711);
    assert_int_equal(look(fixture, "to").st_mode & 07777, 0751);
    assert_int_equal(look(fixture, "to/b").st_mtim.tv_nsec, 89);
    assert_int_equal(look(fixture, "to/link").st_mtim.tv_nsec, 89);
    assert_int_equal(look(fixture, "to").st_mtim.tv_nsec, 89);
    assert_int_equal(access(at(fixture, "to/fifo"), F_OK), -1);
    assert_int_equal(look(fixture, "to/sparse").st_size, 80 << 20);
    assert_true(look(fixture, "to/sparse").st_blocks < 1000);
    if (is_root) {
        assert_int_equal(look(fixture, "to/b").st_uid, 12);
        assert_int_equal(look(fixture, "to/b").st_gid, 34);
        assert_int_equal(look(fixture, "to/link").st_uid, 56);
        assert_int_equal(look(fixture, "to/a").st_gid, 8);
    }
    char value[8] = {0};
    if (attributes) {
        assert_int_equal(getxattr(at(fixture, "to/b"), "user.colour", value, sizeof(value)), 6);
        assert_memory_equal(value, "gr\0een", 6);
    }
    fd = open(at(fixture, "to/sparse"), O_RDONLY | O_CLOEXEC);
    assert_int_equal(pread(fd, value, 6, 40 << 20), 6);
    assert_memory_equal(value, "middle", 6);
    close(fd);
}

static void fill_place(const struct fixture *fixture) {
    char name[PATH_SIZE] = "to";
    assert_int_equal(mkdir(at(fixture, "to"), 0700), 0);
    for (int depth = 0; depth < 40; depth++) {
        strcat(name, "/d");
        assert_int_equal(mkdir(at(fixture, name), 0700), 0);
    }
    strcat(name, "/deep");
    file_make(fixture, name, "x");
    file_make(fixture, "to/old", "old");
    assert_int_equal(symlink(fixture->folder, at(fixture, "to/d/out")), 0);
    file_make(fixture, "kept", "kept");
}

static void what_was_there_goes_when_all_has_come(void **state) {
    struct fixture *fixture = *state;
    assert_int_equal(mkdir(at(fixture, "from"), 0700), 0);
    file_make(fixture, "from/new", "new");
    fill_place(fixture);
    assert_int_equal(get(fixture, "from"), KELPIE_OK);
    /* Not all: what was there stays, and nothing is beside it. */
    for (size_t size = 0; size < fixture->size; size++) {
        (void)!put(fixture, at(fixture, "to"), size);
        file_close(fixture->session);
        assert_true(holds(fixture, "to/old", "old"));
        assert_int_equal(access(at(fixture, "to/new"), F_OK), -1);
    }
    assert_int_equal(look(fixture, "to").st_nlink, 3);
    assert_int_equal(put(fixture, at(fixture, "to"), fixture->size), KELPIE_OK);
    assert_true(holds(fixture, "to/new", "new"));
    assert_int_equal(access(at(fixture, "to/old"), F_OK), -1);
    assert_int_equal(access(at(fixture, "to/d"), F_OK), -1);
    assert_int_equal(look(fixture, "to").st_nlink, 2);
    assert_true(holds(fixture, "kept", "kept")); /* no link was followed */
}

static void a_link_leads_nowhere(void **state) {
    struct fixture *fixture = *state;
    assert_int_equal(mkdir(at(fixture, "from"), 0700), 0);
    assert_int_equal(mkdir(at(fixture, "to"), 0700), 0);
    file_make(fixture, "to/old", "old");
    assert_int_equal(symlink("to", at(fixture, "link")), 0);
    assert_int_equal(get(fixture, "from"), KELPIE_OK);
    assert_int_not_equal(put(fixture, at(fixture, "link"), fixture->size), KELPIE_OK);
    assert_int_equal(fixture->err.os_error, ELOOP);
    assert_true(holds(fixture, "to/old", "old"));
    const struct protocol_file_get message = {.path = at(fixture, "link")};
    fixture->agent->holding = true;
    fixture->agent->frozen = true;
    file_get_open(fixture->agent, 7, &message);
    assert_int_equal(fixture->agent->session_count, 1);
    assert_int_equal(fixture->agent->sessions[0]->ended.value, ELOOP);
    session_release_all(fixture->agent);
}

static void what_has_no_files_of_its_own_is_refused(void **state) {
    struct fixture *fixture = *state;
    session_renew(fixture, SESSION_FILE_GET);
    int fd = open("/proc/sys", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(tree_get_prepare(fixture->session, fd, &fixture->err), KELPIE_IO_FAILED);
    assert_int_equal(put(fixture, "/proc/sys", 0), KELPIE_IO_FAILED);
    assert_int_equal(fixture->err.os_error, EINVAL);
}

static void add(struct cursor_writer *writer, struct protocol_tree_entry entry) {
    protocol_encode_tree_entry(writer, &entry);
    assert_false(writer->failed);
}

/* A tree that says what cannot be. */
static void assert_refused(struct fixture *fixture, const struct cursor_writer *writer,
                           int os_error) {
    fixture->size = writer->size;
    fixture->err = (struct kelpie_error){0};
    assert_int_not_equal(put(fixture, at(fixture, "to"), fixture->size), KELPIE_OK);
    assert_int_equal(fixture->err.os_error, os_error);
    file_close(fixture->session);
    assert_true(holds(fixture, "to/old", "old"));
    assert_int_equal(look(fixture, "to").st_nlink, 2);
}

static void pieces_of_no_file_are_refused(void **state) {
    struct fixture *fixture = *state;
    const struct protocol_tree_entry file = {
        .kind = PROTOCOL_TREE_SPARSE, .name = "f", .mode = 0600, .size = 100};
    const struct protocol_tree_entry end = {.kind = PROTOCOL_TREE_END, .name = ""};
    struct protocol_tree_entry extent = {.kind = PROTOCOL_TREE_EXTENT, .name = ""};
    assert_int_equal(mkdir(at(fixture, "to"), 0700), 0);
    file_make(fixture, "to/old", "old");
    struct cursor_writer writer = cursor_writer_init(fixture->bytes, BYTES_SIZE);
    add(&writer, extent); /* of nothing */
    assert_refused(fixture, &writer, EBADMSG);
    writer.size = 0;
    add(&writer, file);
    extent.modified_ns = 101; /* beyond it */
    add(&writer, extent);
    assert_refused(fixture, &writer, EBADMSG);
    writer.size = 0;
    add(&writer, file);
    extent.modified_ns = 50;
    extent.size = 51;
    add(&writer, extent);
    assert_refused(fixture, &writer, EBADMSG);
    writer.size = 0;
    add(&writer, file);
    extent.size = 1;
    add(&writer, extent);
    cursor_write_u8(&writer, 7);
    extent.modified_ns = 50; /* back */
    add(&writer, extent);
    cursor_write_u8(&writer, 7);
    assert_refused(fixture, &writer, EBADMSG);
    writer.size = 0;
    add(&writer, file);
    add(&writer, end); /* the last piece is missing */
    assert_refused(fixture, &writer, EBADMSG);
    writer.size = 0;
    add(&writer, file);
    add(&writer, file);
    assert_refused(fixture, &writer, EBADMSG);
    writer.size = 0;
    add(&writer, (struct protocol_tree_entry){
                     .kind = PROTOCOL_TREE_HARD_LINK, .name = "f", .target = "nothing"});
    assert_refused(fixture, &writer, ENOENT);
}

static void names_of_one_file_share_a_number(void **state) {
    struct fixture *fixture = *state;
    static struct protocol_tree_reader reader;
    uint64_t numbers[3] = {0};
    size_t count = 0;
    assert_int_equal(mkdir(at(fixture, "from"), 0700), 0);
    file_make(fixture, "from/a", "one");
    file_make(fixture, "from/b", "two");
    assert_int_equal(link(at(fixture, "from/a"), at(fixture, "from/c")), 0);
    assert_int_equal(get(fixture, "from"), KELPIE_OK);
    protocol_tree_reader_init(&reader);
    reader.exact = true;
    const uint8_t *left = fixture->bytes;
    uint64_t number = 0;
    struct protocol_tree_event event = {.kind = PROTOCOL_TREE_EVENT_ENTRY};
    while (event.kind != PROTOCOL_TREE_EVENT_NONE) {
        protocol_tree_read(&reader, &left, &fixture->size, &event);
        assert_int_not_equal(event.kind, PROTOCOL_TREE_EVENT_MALFORMED);
        if (event.kind != PROTOCOL_TREE_EVENT_ENTRY) {
            continue;
        }
        if (event.entry->kind == PROTOCOL_TREE_OWNER) {
            number = event.entry->modified_ns;
        } else if (event.entry->kind == PROTOCOL_TREE_FILE) {
            assert_true(count < 3);
            count++;
            numbers[event.entry->name[0] - 'a'] = number;
            number = 0;
        }
    }
    assert_int_equal(count, 3);
    assert_true(numbers[0] != 0 && numbers[0] == numbers[2]);
    assert_int_equal(numbers[1], geteuid() == 0 ? 0 : numbers[1]);
}

static void a_hard_link_is_one(void **state) {
    struct fixture *fixture = *state;
    struct cursor_writer writer = cursor_writer_init(fixture->bytes, BYTES_SIZE);
    add(&writer,
        (struct protocol_tree_entry){.kind = PROTOCOL_TREE_FOLDER, .name = "d", .mode = 0700});
    add(&writer, (struct protocol_tree_entry){
                     .kind = PROTOCOL_TREE_SPARSE, .name = "d/f", .mode = 0600, .size = 3});
    add(&writer, (struct protocol_tree_entry){.kind = PROTOCOL_TREE_EXTENT, .name = "", .size = 3});
    cursor_write_bytes(&writer, "abc", 3);
    add(&writer,
        (struct protocol_tree_entry){.kind = PROTOCOL_TREE_EXTENT, .name = "", .modified_ns = 3});
    add(&writer, (struct protocol_tree_entry){
                     .kind = PROTOCOL_TREE_HARD_LINK, .name = "g", .target = "d/f"});
    add(&writer, (struct protocol_tree_entry){.kind = PROTOCOL_TREE_END, .name = ""});
    assert_int_equal(put(fixture, at(fixture, "to"), writer.size), KELPIE_OK); /* and it is made */
    assert_true(holds(fixture, "to/d/f", "abc"));
    assert_true(look(fixture, "to/g").st_ino == look(fixture, "to/d/f").st_ino);
}

static void too_many_attributes_are_refused(void **state) {
    (void)state;
    static struct exact_meta meta;
    static char value[4000];
    struct kelpie_error err;
    exact_meta_clear(&meta);
    for (int i = 0; i < 8; i++) {
        assert_int_equal(exact_add_attribute(&meta, "user.a", value, sizeof(value), &err),
                         KELPIE_OK);
    }
    assert_int_equal(exact_add_attribute(&meta, "user.a", value, sizeof(value), &err),
                     KELPIE_IO_FAILED);
    assert_int_equal(err.os_error, E2BIG);
}

#define EXACT_TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        EXACT_TEST(what_goes_out_comes_in_again),
        EXACT_TEST(what_was_there_goes_when_all_has_come),
        EXACT_TEST(a_link_leads_nowhere),
        EXACT_TEST(what_has_no_files_of_its_own_is_refused),
        EXACT_TEST(names_of_one_file_share_a_number),
        EXACT_TEST(a_hard_link_is_one),
        EXACT_TEST(pieces_of_no_file_are_refused),
        EXACT_TEST(too_many_attributes_are_refused),
    };
    return cmocka_run_group_tests_name("guest_exact", tests, NULL, NULL);
}
