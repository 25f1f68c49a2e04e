/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Logs: written in pieces, capped, followed, cut short by a kill. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/assert.h"
#include "store/log_format.h"
#include "support/store_fixture.h"

#define FOLLOWED_BYTES 4000000u
#define SMALL_LOG_BYTES 65536u

static struct store_fixture fixture;
static struct kelpie_error err;
static struct store_vm vm;
static struct store_record *record;

static int set_up(void **state) {
    (void)state;
    if (!store_fixture_set_up(&fixture)) {
        return -1;
    }
    record = store_fixture_record(fixture.host, "web", NULL);
    record->info.state = KELPIE_STATE_RUNNING;
    record->info.command_known = true;
    return store_vm_create(fixture.store, record, &vm, &err) == KELPIE_OK ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    store_vm_release(&vm);
    store_record_destroy(record);
    return store_fixture_tear_down(&fixture) ? 0 : -1;
}

static struct store_log *create(uint64_t bytes_max) {
    struct store_log *log = NULL;
    assert_int_equal(store_log_create(&vm, bytes_max, &log, &err), KELPIE_OK);
    return log;
}

static void append(struct store_log *log, enum kelpie_stream stream, uint64_t offset,
                   const char *text) {
    assert_int_equal(store_log_append(log, stream, offset, text, strlen(text), &err), KELPIE_OK);
}

static struct kelpie_log *open_log(void) {
    struct kelpie_log *log = NULL;
    assert_int_equal(kelpie_log_open(fixture.host, "web", &log, &err), KELPIE_OK);
    return log;
}

static void assert_entry(struct kelpie_log *log, enum kelpie_stream stream, uint64_t offset,
                         const char *text) {
    struct kelpie_log_entry entry;
    assert_int_equal(kelpie_log_read(log, 0, &entry, &err), KELPIE_OK);
    assert_int_equal(entry.stream, stream);
    assert_int_equal(entry.offset, offset);
    assert_int_equal(entry.size, strlen(text));
    assert_memory_equal(entry.data, text, entry.size);
    assert_true(entry.unix_ms > 1000000000000ull);
}

static void assert_none(struct kelpie_log *log, enum kelpie_status status) {
    struct kelpie_log_entry entry;
    assert_int_equal(kelpie_log_read(log, 0, &entry, &err), status);
}

static const char *file_path(const char *name) {
    static char path[256];
    snprintf(path, sizeof(path), "%s/state/kelpie/vms/web/%s", fixture.folder, name);
    return path;
}

static uint64_t file_size(const char *name) {
    struct stat stat_of;
    return lstat(file_path(name), &stat_of) == 0 ? (uint64_t)stat_of.st_size : 0;
}

/* The command's end, as its owner writes it down. */
static void end_command(void) {
    record->info.command_ended = true;
    assert_int_equal(store_vm_write(&vm, record, &err), KELPIE_OK);
}

/* ---- Order and ends --------------------------------------------------------------------------- */

static void pieces_come_as_they_were_written(void **state) {
    (void)state;
    static const char binary[] = "\x00\xff\n\x00\x1b[0m";
    struct kelpie_log_entry entry;
    struct kelpie_log *reader = open_log(); /* before there is anything */
    assert_none(reader, KELPIE_TIMED_OUT);
    struct store_log *log = create(0);
    append(log, KELPIE_STREAM_STDOUT, 0, "one\n");
    append(log, KELPIE_STREAM_STDERR, 0, "two\n");
    append(log, KELPIE_STREAM_STDOUT, 4, "three\n");
    assert_entry(reader, KELPIE_STREAM_STDOUT, 0, "one\n");
    assert_entry(reader, KELPIE_STREAM_STDERR, 0, "two\n");
    assert_entry(reader, KELPIE_STREAM_STDOUT, 4, "three\n");
    assert_none(reader, KELPIE_TIMED_OUT);
    assert_int_equal(store_log_append(log, KELPIE_STREAM_STDOUT, 10, binary, sizeof(binary), &err),
                     KELPIE_OK);
    assert_int_equal(kelpie_log_read(reader, 0, &entry, &err), KELPIE_OK);
    assert_int_equal(entry.size, sizeof(binary));
    assert_memory_equal(entry.data, binary, sizeof(binary));
    store_log_close(log);
    kelpie_log_close(reader);
}

static void a_large_piece_comes_in_several(void **state) {
    (void)state;
    struct kelpie_log_entry entry;
    uint64_t offset = 7;
    const size_t size = 3 * STORE_LOG_PIECE_SIZE_MAX + 5;
    char *data = malloc(size);
    assert_non_null(data);
    for (size_t i = 0; i < size; i++) {
        data[i] = (char)(i * 31 >> 3);
    }
    struct store_log *log = create(0);
    assert_int_equal(store_log_append(log, KELPIE_STREAM_STDERR, offset, data, size, &err),
                     KELPIE_OK);
    struct kelpie_log *reader = open_log();
    while (offset < 7 + size) {
        assert_int_equal(kelpie_log_read(reader, 0, &entry, &err), KELPIE_OK);
        assert_int_equal(entry.offset, offset);
        assert_memory_equal(entry.data, data + offset - 7, entry.size);
        offset += entry.size;
    }
    assert_none(reader, KELPIE_TIMED_OUT);
    free(data);
    store_log_close(log);
    kelpie_log_close(reader);
}

static void bytes_that_come_twice_are_there_once(void **state) {
    (void)state;
    struct store_log *log = create(0);
    struct kelpie_log *reader = open_log();
    append(log, KELPIE_STREAM_STDOUT, 0, "hello");
    append(log, KELPIE_STREAM_STDOUT, 0, "hello");      /* all of it */
    append(log, KELPIE_STREAM_STDOUT, 2, "ll");         /* some of it */
    append(log, KELPIE_STREAM_STDOUT, 3, "lo world");   /* some and more */
    append(log, KELPIE_STREAM_STDERR, 0, "hello");      /* another stream */
    append(log, KELPIE_STREAM_STDOUT, 100, "far away"); /* a gap is a gap */
    append(log, KELPIE_STREAM_STDOUT, 11, "late");
    append(log, KELPIE_STREAM_STDOUT, 108, "");
    assert_entry(reader, KELPIE_STREAM_STDOUT, 0, "hello");
    assert_entry(reader, KELPIE_STREAM_STDOUT, 5, " world");
    assert_entry(reader, KELPIE_STREAM_STDERR, 0, "hello");
    assert_entry(reader, KELPIE_STREAM_STDOUT, 100, "far away");
    assert_none(reader, KELPIE_TIMED_OUT);
    store_log_close(log);
    kelpie_log_close(reader);
}

static void a_log_is_read_after_the_vm_has_ended(void **state) {
    (void)state;
    struct store_log *log = create(0);
    append(log, KELPIE_STREAM_STDOUT, 0, "last words");
    store_log_close(log);
    store_vm_release(&vm); /* its owner was killed: the record says still that it runs */
    struct kelpie_log *reader = open_log();
    assert_entry(reader, KELPIE_STREAM_STDOUT, 0, "last words");
    assert_none(reader, KELPIE_NOT_FOUND);
    kelpie_log_close(reader);
}

static void the_end_of_the_command_is_the_end_of_the_log(void **state) {
    (void)state;
    struct kelpie_log_entry entry;
    struct store_log *log = create(0);
    struct kelpie_log *reader = open_log();
    append(log, KELPIE_STREAM_STDOUT, 0, "last words");
    end_command();
    assert_entry(reader, KELPIE_STREAM_STDOUT, 0, "last words");
    /* At once, and not when the time is over. */
    assert_int_equal(kelpie_log_read(reader, 60000, &entry, &err), KELPIE_NOT_FOUND);
    store_log_close(log);
    kelpie_log_close(reader);
}

static void a_removed_vms_log_ends(void **state) {
    (void)state;
    struct store_vm other;
    struct store_log *log = create(0);
    struct kelpie_log *reader = open_log();
    append(log, KELPIE_STREAM_STDOUT, 0, "one");
    assert_entry(reader, KELPIE_STREAM_STDOUT, 0, "one");
    append(log, KELPIE_STREAM_STDOUT, 3, "two");
    store_log_close(log);
    assert_int_equal(store_vm_remove(&vm, &err), KELPIE_OK);
    /* Another of its name has another log. */
    struct store_record *next =
        store_fixture_record(fixture.host, "web", "00000000000000000000000000000001");
    assert_int_equal(store_vm_create(fixture.store, next, &other, &err), KELPIE_OK);
    assert_int_equal(store_log_create(&other, 0, &log, &err), KELPIE_OK);
    append(log, KELPIE_STREAM_STDOUT, 0, "of another");
    assert_entry(reader, KELPIE_STREAM_STDOUT, 3, "two"); /* its file is still open */
    assert_none(reader, KELPIE_NOT_FOUND);
    store_log_close(log);
    store_vm_release(&other);
    store_record_destroy(next);
    kelpie_log_close(reader);
}

static void a_log_of_no_vm_is_not_found(void **state) {
    (void)state;
    struct kelpie_log *reader = NULL;
    assert_int_equal(kelpie_log_open(fixture.host, "nope", &reader, &err), KELPIE_NOT_FOUND);
    assert_null(reader);
}

static void the_next_start_goes_on_in_the_same_log(void **state) {
    (void)state;
    struct store_log *log = create(0);
    append(log, KELPIE_STREAM_STDOUT, 0, "first");
    store_log_close(log);
    struct kelpie_log *reader = open_log();
    assert_entry(reader, KELPIE_STREAM_STDOUT, 0, "first");
    log = create(0);
    append(log, KELPIE_STREAM_STDOUT, 0, "second"); /* its offsets begin anew */
    store_log_close(log);
    assert_entry(reader, KELPIE_STREAM_STDOUT, 0, "second");
    kelpie_log_close(reader);
}

/* ---- The cap ---------------------------------------------------------------------------------- */

static void fill(struct store_log *log, uint64_t from, uint64_t to) {
    char piece[128];
    for (uint64_t offset = from; offset < to; offset += sizeof(piece)) {
        for (size_t i = 0; i < sizeof(piece); i++) {
            piece[i] = (char)((offset + i) % 251);
        }
        assert_int_equal(
            store_log_append(log, KELPIE_STREAM_STDOUT, offset, piece, sizeof(piece), &err),
            KELPIE_OK);
    }
}

static void assert_bytes(const struct kelpie_log_entry *entry) {
    for (size_t i = 0; i < entry->size; i++) {
        assert_int_equal((unsigned char)entry->data[i], (entry->offset + i) % 251);
    }
}

static void hazard_D6_a_log_takes_no_more_than_it_may(void **state) {
    (void)state;
    static const uint64_t sizes[] = {1, STORE_LOG_BYTES_MIN, SMALL_LOG_BYTES};
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        uint64_t bytes_max = sizes[i] < STORE_LOG_BYTES_MIN ? STORE_LOG_BYTES_MIN : sizes[i];
        uint64_t most = 0;
        struct store_log *log = create(sizes[i]);
        for (uint64_t offset = 0; offset < 4 * SMALL_LOG_BYTES; offset += 1280) {
            fill(log, offset, offset + 1280);
            uint64_t size = file_size(LOG_NAME) + file_size(LOG_OLD_NAME);
            most = size > most ? size : most;
        }
        char *huge = calloc(1, SMALL_LOG_BYTES);
        assert_non_null(huge);
        assert_int_equal(
            store_log_append(log, KELPIE_STREAM_STDERR, 0, huge, SMALL_LOG_BYTES, &err), KELPIE_OK);
        free(huge);
        assert_true(most <= bytes_max);
        assert_true(most >= bytes_max / 2);
        assert_true(file_size(LOG_NAME) + file_size(LOG_OLD_NAME) <= bytes_max);
        store_log_close(log);
    }
}

static void who_comes_late_gets_what_is_left(void **state) {
    (void)state;
    struct kelpie_log_entry entry;
    struct store_log *log = create(SMALL_LOG_BYTES);
    const uint64_t end = 10 * SMALL_LOG_BYTES;
    fill(log, 0, end);
    struct kelpie_log *reader = open_log();
    assert_int_equal(kelpie_log_read(reader, 0, &entry, &err), KELPIE_OK);
    assert_true(entry.offset > 0);
    uint64_t first = entry.offset;
    assert_bytes(&entry);
    for (uint64_t offset = first + entry.size; offset < end; offset += entry.size) {
        assert_int_equal(kelpie_log_read(reader, 0, &entry, &err), KELPIE_OK);
        assert_int_equal(entry.offset, offset);
        assert_bytes(&entry);
    }
    assert_none(reader, KELPIE_TIMED_OUT);
    assert_true(end - first > SMALL_LOG_BYTES / 3);
    store_log_close(log);
    kelpie_log_close(reader);
}

/* A reader that keeps up gets each byte, whatever is rotated under it; one that is overtaken misses some, and gets none twice. */
static void a_rotation_takes_nothing_from_who_keeps_up(void **state) {
    (void)state;
    struct kelpie_log_entry entry;
    struct store_log *log = create(STORE_LOG_BYTES_MIN);
    struct kelpie_log *reader = open_log();
    struct kelpie_log *slow = open_log();
    uint64_t read = 0;
    uint64_t slow_read = 0;
    for (uint64_t offset = 0; offset < SMALL_LOG_BYTES; offset += 384) {
        fill(log, offset, offset + 384);
        while (kelpie_log_read(reader, 0, &entry, &err) == KELPIE_OK) {
            assert_int_equal(entry.offset, read);
            assert_bytes(&entry);
            read += entry.size;
        }
        if (kelpie_log_read(slow, 0, &entry, &err) == KELPIE_OK) { /* a third of what is written */
            assert_true(entry.offset >= slow_read);
            assert_bytes(&entry);
            slow_read = entry.offset + entry.size;
        }
    }
    assert_int_equal(read, (SMALL_LOG_BYTES + 383) / 384 * 384);
    assert_true(slow_read > SMALL_LOG_BYTES / 2);
    store_log_close(log);
    kelpie_log_close(reader);
    kelpie_log_close(slow);
}

/* The same with a writer that does not wait: a reader in another thread, with a log that it cannot be overtaken in. */
static void *follow(void *argument) {
    uint64_t *read = argument;
    struct kelpie_log_entry entry;
    struct kelpie_log *reader = NULL;
    if (kelpie_log_open(NULL, "web", &reader, NULL) != KELPIE_OK) {
        return NULL;
    }
    while (*read < FOLLOWED_BYTES && kelpie_log_read(reader, 10000, &entry, NULL) == KELPIE_OK) {
        bool right = entry.offset == *read;
        for (size_t i = 0; i < entry.size; i++) {
            right = right && (unsigned char)entry.data[i] == (entry.offset + i) % 251;
        }
        if (!right) {
            break;
        }
        __atomic_store_n(read, *read + entry.size, __ATOMIC_RELEASE);
    }
    kelpie_log_close(reader);
    return NULL;
}

static void a_follower_loses_nothing_at_a_rotation(void **state) {
    (void)state;
    pthread_t thread;
    uint64_t read = 0;
    const uint64_t bytes_max = 4 * SMALL_LOG_BYTES;
    struct store_log *log = create(bytes_max);
    assert_int_equal(pthread_create(&thread, NULL, follow, &read), 0);
    for (uint64_t offset = 0; offset < FOLLOWED_BYTES; offset += 128) {
        for (size_t i = 0;
             i < 1000 && offset > __atomic_load_n(&read, __ATOMIC_ACQUIRE) + bytes_max / 4; i++) {
            assert_int_equal(usleep(1000), 0); /* it is not to be overtaken */
        }
        fill(log, offset, offset + 128);
    }
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_true(read >= FOLLOWED_BYTES);
    store_log_close(log);
}

static void a_reader_that_waits_is_told(void **state) {
    (void)state;
    struct kelpie_log_entry entry;
    struct store_log *log = create(0);
    struct kelpie_log *reader = open_log();
    assert_int_equal(kelpie_log_read(reader, 50, &entry, &err), KELPIE_TIMED_OUT);
    assert_true(err.retriable);
    append(log, KELPIE_STREAM_STDOUT, 0, "x");
    assert_int_equal(kelpie_log_read(reader, 10000, &entry, &err), KELPIE_OK);
    store_log_close(log);
    kelpie_log_close(reader);
}

/* ---- Kills and damage ------------------------------------------------------------------------- */

static void a_torn_last_record_is_ignored_and_overwritten(void **state) {
    (void)state;
    struct store_log *log = create(0);
    append(log, KELPIE_STREAM_STDOUT, 0, "whole");
    uint64_t size = file_size(LOG_NAME);
    append(log, KELPIE_STREAM_STDOUT, 5, "torn apart by a kill");
    uint64_t whole_size = file_size(LOG_NAME);
    store_log_close(log);
    for (uint64_t cut = whole_size - 1; cut > size; cut--) {
        assert_int_equal(truncate(file_path(LOG_NAME), (off_t)cut), 0);
        struct kelpie_log *reader = open_log();
        assert_entry(reader, KELPIE_STREAM_STDOUT, 0, "whole");
        assert_none(reader, KELPIE_TIMED_OUT);
        /* The next writer begins where the last whole record ends, and the reader goes on there. */
        log = create(0);
        assert_int_equal(file_size(LOG_NAME), size);
        append(log, KELPIE_STREAM_STDOUT, 5, "torn apart by a kill");
        assert_entry(reader, KELPIE_STREAM_STDOUT, 5, "torn apart by a kill");
        store_log_close(log);
        kelpie_log_close(reader);
    }
}

/* A power loss leaves anything: what is damaged is left out, and the rest is read. */
static void damage_costs_the_records_that_it_hits(void **state) {
    (void)state;
    struct kelpie_log_entry entry;
    struct store_log *log = create(0);
    append(log, KELPIE_STREAM_STDOUT, 0, "aaaa");
    append(log, KELPIE_STREAM_STDOUT, 4, "bbbb");
    append(log, KELPIE_STREAM_STDOUT, 8, "cccc");
    store_log_close(log);
    uint64_t size = file_size(LOG_NAME);
    for (uint64_t at = 0; at < size; at++) {
        uint64_t last = 0;
        FILE *file = fopen(file_path(LOG_NAME), "r+");
        assert_non_null(file);
        assert_int_equal(fseek(file, (long)at, SEEK_SET), 0);
        int byte = fgetc(file);
        assert_int_equal(fseek(file, (long)at, SEEK_SET), 0);
        assert_int_equal(fputc(byte ^ 0x55, file), byte ^ 0x55);
        assert_int_equal(fclose(file), 0);
        struct kelpie_log *reader = open_log();
        size_t count = 0;
        while (kelpie_log_read(reader, 0, &entry, &err) == KELPIE_OK) {
            assert_true(count == 0 || entry.offset > last);
            assert_int_equal(entry.size, 4);
            assert_memory_equal(entry.data,
                                entry.offset == 0   ? "aaaa"
                                : entry.offset == 4 ? "bbbb"
                                                    : "cccc",
                                4);
            last = entry.offset;
            count++;
        }
        assert_true(count < 3 || (at >= 4 && at < 16)); /* the file's number is not a record's */
        kelpie_log_close(reader);
        file = fopen(file_path(LOG_NAME), "r+");
        assert_non_null(file);
        assert_int_equal(fseek(file, (long)at, SEEK_SET), 0);
        assert_int_equal(fputc(byte, file), byte);
        assert_int_equal(fclose(file), 0);
    }
}

/* A kill between the two steps of a rotation leaves no "log"; a full disk, one without a header. */
static void a_rotation_that_was_cut_short_is_gone_on_with(void **state) {
    (void)state;
    char old_path[256];
    struct store_log *log = create(0);
    struct kelpie_log *reader = open_log();
    append(log, KELPIE_STREAM_STDOUT, 0, "one");
    store_log_close(log);
    snprintf(old_path, sizeof(old_path), "%s", file_path(LOG_OLD_NAME));
    assert_int_equal(rename(file_path(LOG_NAME), old_path), 0);
    assert_entry(reader, KELPIE_STREAM_STDOUT, 0, "one");
    log = create(0);
    append(log, KELPIE_STREAM_STDOUT, 3, "two");
    assert_entry(reader, KELPIE_STREAM_STDOUT, 3, "two");
    store_log_close(log);
    assert_int_equal(rename(file_path(LOG_NAME), old_path), 0);
    FILE *file = fopen(file_path(LOG_NAME), "w");
    assert_non_null(file);
    assert_true(fputs("KLF", file) >= 0);
    assert_int_equal(fclose(file), 0);
    assert_none(reader, KELPIE_TIMED_OUT);
    log = create(0);
    append(log, KELPIE_STREAM_STDOUT, 6, "three");
    assert_entry(reader, KELPIE_STREAM_STDOUT, 6, "three");
    store_log_close(log);
    kelpie_log_close(reader);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(pieces_come_as_they_were_written, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_large_piece_comes_in_several, set_up, tear_down),
        cmocka_unit_test_setup_teardown(bytes_that_come_twice_are_there_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_log_is_read_after_the_vm_has_ended, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_end_of_the_command_is_the_end_of_the_log, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_removed_vms_log_ends, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_log_of_no_vm_is_not_found, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_next_start_goes_on_in_the_same_log, set_up, tear_down),
        cmocka_unit_test_setup_teardown(hazard_D6_a_log_takes_no_more_than_it_may, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(who_comes_late_gets_what_is_left, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_rotation_takes_nothing_from_who_keeps_up, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_follower_loses_nothing_at_a_rotation, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_reader_that_waits_is_told, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_torn_last_record_is_ignored_and_overwritten, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(damage_costs_the_records_that_it_hits, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_rotation_that_was_cut_short_is_gone_on_with, set_up,
                                        tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
