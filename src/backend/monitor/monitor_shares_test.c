/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Which virtiofsd can do what, and what becomes of one that does not come up. Machines with one are in tests/conformance/. */
#include "backend/monitor/monitor_shares.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/assert.h"

#define RUST "      --shared-dir <SHARED_DIR>\n      --fd <FD>\n"
#define C "    -o source=PATH             shared directory tree\n    --fd=FDNUM\n"

static void each_is_known_by_its_help(void **state) {
    (void)state;
    struct monitor_virtiofsd virtiofsd = {0};
    assert_true(monitor_virtiofsd_parse(RUST, &virtiofsd));
    assert_true(virtiofsd.is_rust);
    assert_false(virtiofsd.can_refuse_writes);
    assert_true(monitor_virtiofsd_parse(RUST "      --readonly\n", &virtiofsd));
    assert_true(virtiofsd.can_refuse_writes);
    assert_true(monitor_virtiofsd_parse(C, &virtiofsd));
    assert_false(virtiofsd.is_rust);
    assert_false(virtiofsd.can_refuse_writes);
    assert_true(monitor_virtiofsd_parse(C "--readonly", &virtiofsd));
    assert_false(virtiofsd.can_refuse_writes);
    assert_false(monitor_virtiofsd_parse("", &virtiofsd));
    assert_false(monitor_virtiofsd_parse("usage: ls", &virtiofsd));
}

static void what_one_cannot_do_is_said(void **state) {
    (void)state;
    const struct monitor_virtiofsd none = {0};
    const struct monitor_virtiofsd c = {.program = "/c"};
    const struct monitor_virtiofsd old = {.program = "/old", .is_rust = true};
    const struct monitor_virtiofsd rust = {
        .program = "/rust", .is_rust = true, .can_refuse_writes = true};
    static const struct {
        const char *path;
        bool read_only;
        uint32_t user_id;
        const char *none, *c, *old, *rust; /* a word of why not; NULL: it can */
    } rows[] = {
        {"/a b", false, 0, "install", NULL, NULL, NULL},
        {"/a b", true, 0, "install", "writes", "writes", NULL},
        {"/a b", false, 1000, "install", "root", NULL, NULL},
        {"/a,b", false, 0, "install", "comma", NULL, NULL},
        {"/a\\b", false, 0, "install", "comma", NULL, NULL},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        const struct kelpie_share share = {.path = rows[i].path, .read_only = rows[i].read_only};
        const struct {
            const struct monitor_virtiofsd *which;
            const char *word;
        } all[] = {
            {&none, rows[i].none}, {&c, rows[i].c}, {&old, rows[i].old}, {&rust, rows[i].rust}};
        for (size_t j = 0; j < ARRAY_SIZE(all); j++) {
            const char *why = monitor_virtiofsd_why_not(all[j].which, &share, rows[i].user_id);
            assert_int_equal(why != NULL, all[j].word != NULL);
            assert_true(!why || strstr(why, all[j].word));
        }
    }
}

static void a_user_is_told_which_it_is(void **state) {
    (void)state;
    char text[512];
    const struct monitor_virtiofsd rust = {
        .program = "/rust", .is_rust = true, .can_refuse_writes = true};
    const struct monitor_virtiofsd c = {.program = "/c"};
    monitor_virtiofsd_describe(&rust, 1000, text, sizeof(text));
    assert_string_equal(text, "live, through /rust, read-only ones too");
    monitor_virtiofsd_describe(&c, 0, text, sizeof(text));
    assert_non_null(strstr(text, "live, through /c; read-only ones copied: "));
    monitor_virtiofsd_describe(&c, 1000, text, sizeof(text));
    assert_memory_equal(text, "copied: ", 8);
    monitor_virtiofsd_describe(&(struct monitor_virtiofsd){0}, 0, text, sizeof(text));
    assert_memory_equal(text, "copied: there is no", 19);
}

/* ---- Ones that are played --------------------------------------------------------------------- */

struct fixture {
    struct host *host;
    char program[64];
    uint32_t wait_ms;
};

/* As one in Rust that does the line when it is to serve. */
static void play(struct fixture *fixture, const char *line) {
    struct kelpie_error err = {0};
    fixture->wait_ms = 20000;
    assert_int_equal(host_linux_create(&fixture->host, &err), KELPIE_OK);
    snprintf(fixture->program, sizeof(fixture->program), "/tmp/kelpie-virtiofsd-test-%d", getpid());
    unlink(fixture->program);
    FILE *file = fopen(fixture->program, "w");
    assert_non_null(file);
    fprintf(file, "#!/bin/sh\n[ \"$1\" = --help ] && echo --shared-dir && exit 0\n%s\n", line);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(chmod(fixture->program, 0700), 0);
    assert_int_equal(setenv("KELPIE_VIRTIOFSD", fixture->program, 1), 0);
}

static void play_end(struct fixture *fixture) {
    unlink(fixture->program);
    assert_int_equal(unsetenv("KELPIE_VIRTIOFSD"), 0);
    host_destroy(fixture->host);
}

static enum kelpie_status open_with(struct fixture *fixture, struct kelpie_share share, bool warm,
                                    bool *ret_has, struct kelpie_error *err) {
    const struct kelpie_config config = {.shares = &share, .share_count = 1, .warm = warm};
    const struct host_wait wait = host_wait_ms(fixture->host, fixture->wait_ms, HOST_FD_NONE);
    struct monitor_shares *shares = calloc(1, sizeof(*shares));
    assert_non_null(shares);
    monitor_shares_init(shares, fixture->host, &config);
    enum kelpie_status status = monitor_shares_open(shares, &wait, err);
    *ret_has = monitor_shares_has(shares, 0);
    monitor_shares_handed_over(shares);
    assert_int_equal(shares->shares[0].fd, HOST_FD_NONE);
    monitor_shares_close(shares);
    assert_false(monitor_shares_has(shares, 0));
    free(shares);
    return status;
}

/* A sandbox that cannot be made here ends it: its folder is copied, unless it must be live. */
static void one_that_ends_at_once_is_a_reason_to_copy(void **state) {
    (void)state;
    struct fixture fixture;
    struct kelpie_error err = {0};
    bool has = true;
    play(&fixture, "exit 1");
    const struct kelpie_share share = {.path = "/tmp", .mount = "/x"};
    assert_int_equal(open_with(&fixture, share, false, &has, &err), KELPIE_OK);
    assert_false(has);
    const struct kelpie_share live = {.path = "/tmp", .mount = "/x", .live = true};
    assert_int_equal(open_with(&fixture, live, false, &has, &err), KELPIE_UNSUPPORTED);
    assert_string_equal(err.field, "shares[0].live");
    assert_non_null(strstr(err.message, "it ended at once"));
    play_end(&fixture);
}

static void one_that_says_nothing_is_waited_for_in_vain(void **state) {
    (void)state;
    struct fixture fixture;
    struct kelpie_error err = {0};
    bool has = true;
    play(&fixture, "exec sleep 60");
    fixture.wait_ms = 1500;
    const struct kelpie_share share = {.path = "/tmp", .mount = "/x"};
    assert_int_equal(open_with(&fixture, share, false, &has, &err), KELPIE_TIMED_OUT);
    assert_false(has);
    play_end(&fixture);
}

/* It answers as vhost-user says: 12 bytes of header and 8 of features. */
static void one_that_answers_is_kept(void **state) {
    (void)state;
    struct fixture fixture;
    struct kelpie_error err = {0};
    bool has = false;
    play(&fixture, "exec python3 -c 'import socket; s = socket.socket(fileno=3).accept()[0]; "
                   "s.sendall(bytes(20)) if s.recv(12) == bytes([1,0,0,0,1,0,0,0,0,0,0,0]) else 0; "
                   "s.recv(1)'");
    const struct kelpie_share share = {.path = "/tmp", .mount = "/x", .live = true};
    const struct kelpie_share copy = {.path = "/tmp", .mount = "/x", .copy = true};
    const struct kelpie_share any = {.path = "/tmp", .mount = "/x"};
    assert_int_equal(open_with(&fixture, any, true, &has, &err), KELPIE_OK);
    assert_false(has); /* a template could not be made of it */
    assert_int_equal(open_with(&fixture, copy, false, &has, &err), KELPIE_OK);
    assert_false(has);
    assert_int_equal(open_with(&fixture, share, true, &has, &err), KELPIE_OK);
    assert_true(has);
    play_end(&fixture);
}

static void without_a_program_folders_are_copied(void **state) {
    (void)state;
    struct fixture fixture;
    struct kelpie_error err = {0};
    bool has = true;
    play(&fixture, "exit 1");
    assert_int_equal(setenv("KELPIE_VIRTIOFSD", "/nonexistent/virtiofsd", 1), 0);
    const struct kelpie_share share = {.path = "/tmp", .mount = "/x"};
    assert_int_equal(open_with(&fixture, share, false, &has, &err), KELPIE_OK);
    assert_false(has);
    assert_int_equal(setenv("KELPIE_VIRTIOFSD", "/bin/ls", 1), 0); /* which is another program */
    assert_int_equal(open_with(&fixture, share, false, &has, &err), KELPIE_OK);
    assert_false(has);
    play_end(&fixture);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_is_known_by_its_help),
        cmocka_unit_test(what_one_cannot_do_is_said),
        cmocka_unit_test(a_user_is_told_which_it_is),
        cmocka_unit_test(one_that_ends_at_once_is_a_reason_to_copy),
        cmocka_unit_test(one_that_says_nothing_is_waited_for_in_vain),
        cmocka_unit_test(one_that_answers_is_kept),
        cmocka_unit_test(without_a_program_folders_are_copied),
    };
    return cmocka_run_group_tests_name("monitor_shares", tests, NULL, NULL);
}
