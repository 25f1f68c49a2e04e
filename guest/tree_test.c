/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Trees in the guest: what is written lies below its folder, whatever lies there already; what is read is all of it. */
#include "tree.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "agent.h"
#include "file.h"

#define PATH_SIZE 256

struct fixture {
    struct agent *agent;
    struct session *session;
    char folder[64];
    uint8_t bytes[65536];
    struct cursor_writer writer;
    struct kelpie_error err;
};

static const char *at(const struct fixture *fixture, const char *name) {
    static char paths[4][PATH_SIZE];
    static size_t turn;
    char *path = paths[turn++ % 4];
    snprintf(path, PATH_SIZE, "%s/%s", fixture->folder, name);
    return path;
}

static int setup(void **state) {
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    assert_non_null(fixture);
    fixture->agent = calloc(1, sizeof(*fixture->agent));
    fixture->session = calloc(1, sizeof(*fixture->session));
    assert_true(fixture->agent && fixture->session);
    fixture->agent->root_fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    struct session *session = fixture->session;
    session->id = 1;
    session->kind = SESSION_FILE_PUT;
    session->file_fd = -1;
    session->dir_fd = -1;
    protocol_sender_init(&session->outputs[0].sender, session->output_bytes[0],
                         sizeof(session->output_bytes[0]));
    strcpy(fixture->folder, "/tmp/kelpie-guest-tree-XXXXXX");
    assert_non_null(mkdtemp(fixture->folder));
    fixture->writer = cursor_writer_init(fixture->bytes, sizeof(fixture->bytes));
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
    free(fixture);
    return 0;
}

static void say(struct fixture *fixture, enum protocol_tree_kind kind, const char *name,
                const char *content) {
    const struct protocol_tree_entry entry = {
        .kind = kind,
        .name = name,
        .mode = kind == PROTOCOL_TREE_FILE     ? 0640
                : kind == PROTOCOL_TREE_FOLDER ? 0750
                                               : 0,
        .size = kind == PROTOCOL_TREE_FILE ? strlen(content) : 0,
        .modified_ns = kind == PROTOCOL_TREE_FILE ? 1000000000ull * 1234567 : 0,
        .target = kind == PROTOCOL_TREE_LINK ? content : NULL,
    };
    protocol_encode_tree_entry(&fixture->writer, &entry);
    if (kind == PROTOCOL_TREE_FILE) {
        cursor_write_bytes(&fixture->writer, content, strlen(content));
    }
    assert_false(fixture->writer.failed);
}

/* The whole tree, in pieces. */
static enum kelpie_status put(struct fixture *fixture, const char *path, size_t piece) {
    const struct protocol_file_put message = {.path = path, .mode = 0711 | PROTOCOL_MODE_FOLDER};
    TRY(tree_put_prepare(fixture->agent, fixture->session, &message, &fixture->err));
    for (size_t done = 0; done <= fixture->writer.size; done += piece) {
        size_t left = fixture->writer.size - done;
        struct protocol_data data = {.bytes = fixture->bytes + done,
                                     .size = left < piece ? left : piece};
        data.flags = data.size < piece ? PROTOCOL_DATA_END : 0;
        TRY(tree_put_bytes(fixture->session, &data, &fixture->err));
    }
    return KELPIE_OK;
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

static void entries_are_put_in_their_places(void **state) {
    struct fixture *fixture = *state;
    struct stat info;
    char target[16] = {0};
    say(fixture, PROTOCOL_TREE_FOLDER, "a", "");
    say(fixture, PROTOCOL_TREE_FILE, "a/file", "content");
    say(fixture, PROTOCOL_TREE_FILE, "empty", "");
    say(fixture, PROTOCOL_TREE_LINK, "a/link", "/x/y");
    say(fixture, PROTOCOL_TREE_END, "", "");
    for (size_t piece = 1; piece < 40; piece += 6) {
        assert_int_equal(put(fixture, at(fixture, "new/place//"), piece), KELPIE_OK);
        file_close(fixture->session);
        assert_true(holds(fixture, "new/place/a/file", "content"));
        assert_true(holds(fixture, "new/place/empty", ""));
        assert_int_equal(readlink(at(fixture, "new/place/a/link"), target, sizeof(target)), 4);
        assert_string_equal(target, "/x/y");
    }
    assert_int_equal(stat(at(fixture, "new"), &info), 0);
    assert_int_equal(info.st_mode & 07777, 0755);
    assert_int_equal(stat(at(fixture, "new/place"), &info), 0);
    assert_int_equal(info.st_mode & 07777, 0711);
    assert_int_equal(stat(at(fixture, "new/place/a"), &info), 0);
    assert_int_equal(info.st_mode & 07777, 0750);
    assert_int_equal(stat(at(fixture, "new/place/a/file"), &info), 0);
    assert_int_equal(info.st_mode & 07777, 0640);
    assert_int_equal(info.st_mtim.tv_sec, 1234567);
}

/* A link that lies in the folder leads the rest nowhere. */
static void no_link_is_followed(void **state) {
    struct fixture *fixture = *state;
    struct stat info;
    assert_int_equal(mkdir(at(fixture, "place"), 0700), 0);
    assert_int_equal(mkdir(at(fixture, "outside"), 0700), 0);
    assert_int_equal(symlink("../outside", at(fixture, "place/a")), 0);
    say(fixture, PROTOCOL_TREE_FILE, "a/file", "content");
    say(fixture, PROTOCOL_TREE_END, "", "");
    assert_int_not_equal(put(fixture, at(fixture, "place"), 1000), KELPIE_OK);
    assert_int_equal(fixture->err.os_error, ELOOP);
    assert_int_not_equal(lstat(at(fixture, "outside/file"), &info), 0);
    file_close(fixture->session);

    /* One that is in a file's way is replaced. */
    fixture->writer.size = 0;
    say(fixture, PROTOCOL_TREE_FILE, "a", "content");
    say(fixture, PROTOCOL_TREE_END, "", "");
    assert_int_equal(put(fixture, at(fixture, "place"), 1000), KELPIE_OK);
    assert_true(holds(fixture, "place/a", "content"));
}

static void what_is_no_tree_is_refused(void **state) {
    struct fixture *fixture = *state;
    say(fixture, PROTOCOL_TREE_FILE, "file", "content");
    assert_int_not_equal(put(fixture, at(fixture, "place"), 1000), KELPIE_OK); /* no END */
    assert_int_equal(fixture->err.os_error, EBADMSG);
    file_close(fixture->session);
    say(fixture, PROTOCOL_TREE_END, "", "");
    say(fixture, PROTOCOL_TREE_FILE, "more", "");
    assert_int_not_equal(put(fixture, at(fixture, "place"), 1000), KELPIE_OK);
    file_close(fixture->session);
    fixture->bytes[0] = 77;
    assert_int_not_equal(put(fixture, at(fixture, "place"), 1), KELPIE_OK);
    assert_int_equal(fixture->err.os_error, EBADMSG);
}

/* A file that was not whole when its session ended leaves nothing. */
static void half_a_file_leaves_nothing(void **state) {
    struct fixture *fixture = *state;
    say(fixture, PROTOCOL_TREE_FILE, "file", "content");
    const struct protocol_file_put message = {.path = at(fixture, "place"),
                                              .mode = 0700 | PROTOCOL_MODE_FOLDER};
    assert_int_equal(tree_put_prepare(fixture->agent, fixture->session, &message, &fixture->err),
                     KELPIE_OK);
    const struct protocol_data data = {.bytes = fixture->bytes, .size = fixture->writer.size - 1};
    assert_int_equal(tree_put_bytes(fixture->session, &data, &fixture->err), KELPIE_OK);
    file_close(fixture->session);
    assert_int_equal(rmdir(at(fixture, "place")), 0); /* it is empty */
}

/* Everything that the session's ring can take, again and again. */
static size_t get_all(struct fixture *fixture, uint8_t *bytes, size_t size) {
    struct protocol_sender *sender = &fixture->session->outputs[0].sender;
    size_t used = 0;
    bool done = false;
    bool sent = true;
    while (!done || sent) {
        struct protocol_data data;
        if (!done) {
            assert_int_equal(tree_get_fill(fixture->agent, fixture->session, &done, &fixture->err),
                             KELPIE_OK);
        }
        assert_true(size - used >= PROTOCOL_DATA_SIZE_MAX);
        sent = protocol_sender_next(sender, bytes + used, PROTOCOL_DATA_SIZE_MAX, &data);
        if (sent) {
            used += data.size;
            assert_true(protocol_sender_ack(sender, used));
        }
    }
    return used;
}

static void all_of_a_folder_is_sent(void **state) {
    struct fixture *fixture = *state;
    static uint8_t bytes[4 << 20];
    assert_int_equal(mkdir(at(fixture, "from"), 0700), 0);
    assert_int_equal(mkdir(at(fixture, "from/a"), 0700), 0);
    assert_int_equal(mkfifo(at(fixture, "from/a/fifo"), 0600), 0);
    for (int i = 0; i < 500; i++) {
        char name[32];
        snprintf(name, sizeof(name), "from/a/%0*d", 20, i);
        int fd = open(at(fixture, name), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        assert_int_equal(ftruncate(fd, i == 7 ? 2 << 20 : i), 0);
        close(fd);
    }
    assert_int_equal(symlink("nowhere", at(fixture, "from/link")), 0);
    fixture->session->kind = SESSION_FILE_GET;
    int folder_fd = open(at(fixture, "from"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(tree_get_prepare(fixture->session, folder_fd, &fixture->err), KELPIE_OK);
    size_t size = get_all(fixture, bytes, sizeof(bytes));

    static struct protocol_tree_reader reader;
    protocol_tree_reader_init(&reader);
    const uint8_t *left = bytes;
    size_t counts[PROTOCOL_TREE_END + 1] = {0};
    uint64_t content = 0;
    struct protocol_tree_event event = {.kind = PROTOCOL_TREE_EVENT_ENTRY};
    while (event.kind != PROTOCOL_TREE_EVENT_NONE) {
        protocol_tree_read(&reader, &left, &size, &event);
        assert_int_not_equal(event.kind, PROTOCOL_TREE_EVENT_MALFORMED);
        if (event.kind == PROTOCOL_TREE_EVENT_ENTRY || event.kind == PROTOCOL_TREE_EVENT_END) {
            counts[event.entry->kind]++;
        }
        content += event.kind == PROTOCOL_TREE_EVENT_CONTENT ? event.size : 0;
    }
    assert_int_equal(counts[PROTOCOL_TREE_FILE], 500);
    assert_int_equal(counts[PROTOCOL_TREE_FOLDER], 1);
    assert_int_equal(counts[PROTOCOL_TREE_LINK], 1);
    assert_int_equal(counts[PROTOCOL_TREE_END], 1);
    assert_int_equal(content, (2 << 20) + 499 * 500 / 2 - 7);
    assert_int_equal(reader.entry.size, 1); /* the fifo */
    assert_string_equal(reader.entry.name, "a/fifo");
}

#define TREE_TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TREE_TEST(entries_are_put_in_their_places), TREE_TEST(no_link_is_followed),
        TREE_TEST(what_is_no_tree_is_refused),      TREE_TEST(half_a_file_leaves_nothing),
        TREE_TEST(all_of_a_folder_is_sent),
    };
    return cmocka_run_group_tests_name("guest_tree", tests, NULL, NULL);
}
