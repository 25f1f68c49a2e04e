/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Templates: one maker for each key, kept while they are used, and the one that was not used for the longest time goes first. */
#include <pthread.h>
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
#include "store/template.h"
#include "support/store_fixture.h"

#define RACER_COUNT 4
#define RACE_ROUND_COUNT 30
#define FILE_BYTES 65536

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

/* A "bundle": the store does not look into it. */
static void write_bundle(const struct store_template *template) {
    char path[KELPIE_PATH_SIZE_MAX + 16];
    static char data[FILE_BYTES];
    memset(data, 'x', sizeof(data));
    assert_int_equal(mkdir(store_template_bundle(template), 0700), 0);
    snprintf(path, sizeof(path), "%s/memory", store_template_bundle(template));
    assert_int_equal(host_file_store(fixture.host, path, data, sizeof(data), 0600, NULL),
                     KELPIE_OK);
}

static void make(const char *key) {
    struct store_template *template = NULL;
    assert_int_equal(store_template_begin(fixture.store, key, &template, &err), KELPIE_OK);
    write_bundle(template);
    assert_int_equal(store_template_publish(template, &err), KELPIE_OK);
}

static bool is_there(const char *key) {
    char path[KELPIE_PATH_SIZE_MAX + 1];
    struct stat stat_of;
    assert_int_equal(store_path(fixture.store, STORE_TEMPLATES, key, path, sizeof(path), &err),
                     KELPIE_OK);
    return lstat(path, &stat_of) == 0;
}

static void use(const char *key) {
    struct store_template *template = NULL;
    assert_int_equal(usleep(1000), 0); /* times of use differ */
    assert_int_equal(store_template_open(fixture.store, key, &template, &err), KELPIE_OK);
    store_template_close(template);
}

static size_t count_entries(void) {
    struct host_dir_entry *entries = NULL;
    size_t count = 0;
    assert_int_equal(store_list(fixture.store, STORE_TEMPLATES, &entries, &count, NULL), KELPIE_OK);
    free(entries);
    return count;
}

static void a_template_is_found_when_it_is_published(void **state) {
    (void)state;
    char path[KELPIE_PATH_SIZE_MAX + 16];
    struct host_file_info info;
    struct store_template *made = NULL;
    struct store_template *used = NULL;
    assert_int_equal(store_template_open(fixture.store, "key", &used, &err), KELPIE_NOT_FOUND);
    assert_int_equal(store_template_begin(fixture.store, "key", &made, &err), KELPIE_OK);
    write_bundle(made);
    assert_int_equal(store_template_open(fixture.store, "key", &used, &err), KELPIE_NOT_FOUND);
    assert_int_equal(store_template_publish(made, &err), KELPIE_OK);
    assert_int_equal(store_template_open(fixture.store, "key", &used, &err), KELPIE_OK);
    snprintf(path, sizeof(path), "%s/memory", store_template_bundle(used));
    assert_int_equal(host_path_stat(fixture.host, path, &info, &err), KELPIE_OK);
    assert_int_equal(info.size, FILE_BYTES);
    store_template_close(used);
    assert_int_equal(store_template_begin(fixture.store, "key", &made, &err), KELPIE_BUSY);
    assert_int_equal(store_template_begin(fixture.store, "../key", &made, &err), KELPIE_BAD_CONFIG);
    assert_int_equal(count_entries(), 1);
}

static void what_is_given_up_leaves_nothing(void **state) {
    (void)state;
    struct store_template *template = NULL;
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(store_template_begin(fixture.store, "key", &template, &err), KELPIE_OK);
        write_bundle(template);
        (i == 0 ? store_template_close : store_template_discard)(template);
        assert_int_equal(count_entries(), 0);
    }
    store_template_close(NULL);
    store_template_discard(NULL);
    make("key");
    assert_int_equal(store_template_open(fixture.store, "key", &template, &err), KELPIE_OK);
    store_template_discard(template); /* a restore from it failed */
    assert_int_equal(count_entries(), 0);
    make("key");
}

/* Two who use it at once, of whom one finds that it is bad. */
static void a_template_may_be_thrown_away_while_it_is_used(void **state) {
    (void)state;
    struct store_template *first = NULL;
    struct store_template *second = NULL;
    make("key");
    assert_int_equal(store_template_open(fixture.store, "key", &first, &err), KELPIE_OK);
    assert_int_equal(store_template_open(fixture.store, "key", &second, &err), KELPIE_OK);
    store_template_discard(first);
    assert_false(is_there("key"));
    make("key");
    store_template_discard(second); /* it means the one that it opened, not the new one */
    assert_true(is_there("key"));
}

/* ---- Makers ----------------------------------------------------------------------------------- */

struct racer {
    pthread_t thread;
    pthread_barrier_t *barrier;
    bool made;
    enum kelpie_status status;
};

static void *race(void *argument) {
    struct racer *racer = argument;
    struct store_template *template = NULL;
    (void)pthread_barrier_wait(racer->barrier);
    racer->status = store_template_begin(fixture.store, "key", &template, NULL);
    if (racer->status == KELPIE_OK) {
        racer->made = mkdir(store_template_bundle(template), 0700) == 0 &&
                      store_template_publish(template, NULL) == KELPIE_OK;
    }
    return NULL;
}

static void hazard_E3_of_several_makers_one_makes(void **state) {
    (void)state;
    pthread_barrier_t barrier;
    assert_int_equal(pthread_barrier_init(&barrier, NULL, RACER_COUNT), 0);
    for (size_t round = 0; round < RACE_ROUND_COUNT; round++) {
        struct racer racers[RACER_COUNT] = {0};
        struct store_template *template = NULL;
        size_t made = 0;
        for (size_t i = 0; i < RACER_COUNT; i++) {
            racers[i].barrier = &barrier;
            assert_int_equal(pthread_create(&racers[i].thread, NULL, race, &racers[i]), 0);
        }
        for (size_t i = 0; i < RACER_COUNT; i++) {
            assert_int_equal(pthread_join(racers[i].thread, NULL), 0);
            assert_true(racers[i].made || racers[i].status == KELPIE_BUSY);
            made += racers[i].made;
        }
        assert_int_equal(made, 1);
        assert_int_equal(count_entries(), 1);
        assert_int_equal(store_template_open(fixture.store, "key", &template, &err), KELPIE_OK);
        store_template_discard(template);
    }
    assert_int_equal(pthread_barrier_destroy(&barrier), 0);
}

/* A maker in another process is known as such while it lives; what it leaves when it is killed is in nobody's way. */
static void hazard_E3_a_killed_maker_is_not_waited_for(void **state) {
    (void)state;
    int ready[2];
    char byte = 0;
    struct store_template *template = NULL;
    assert_int_equal(pipe(ready), 0);
    pid_t pid = fork();
    if (pid == 0) {
        (void)alarm(60); /* should the test fail */
        bool begun = store_template_begin(fixture.store, "key", &template, NULL) == KELPIE_OK;
        _exit(begun && write(ready[1], "x", 1) == 1 && pause() ? 0 : 1);
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    assert_int_equal(store_template_begin(fixture.store, "key", &template, &err), KELPIE_BUSY);
    assert_int_equal(store_template_begin(fixture.store, "other", &template, &err), KELPIE_OK);
    store_template_close(template);
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    make("key");
    assert_int_equal(count_entries(), 1);
    close(ready[0]);
    close(ready[1]);
}

static void a_maker_that_was_killed_at_its_first_step_is_not_waited_for(void **state) {
    (void)state;
    char path[KELPIE_PATH_SIZE_MAX + 16];
    assert_int_equal(store_path(fixture.store, STORE_TEMPLATES, NULL, path, sizeof(path), &err),
                     KELPIE_OK);
    strncat(path, "/.new-key", 15);
    assert_int_equal(mkdir(path, 0700), 0); /* without a lock yet */
    make("key");
    assert_int_equal(count_entries(), 1);
}

/* ---- Eviction --------------------------------------------------------------------------------- */

static void what_was_not_used_for_the_longest_time_goes_first(void **state) {
    (void)state;
    static const char *const keys[] = {"a", "b", "c", "d"};
    struct store_evicted evicted;
    for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
        make(keys[i]);
        assert_int_equal(usleep(1000), 0);
    }
    use("a");
    use("c");
    /* b, d, a, c. */
    assert_int_equal(store_template_evict(fixture.store, UINT64_MAX, false, &evicted, &err),
                     KELPIE_OK);
    assert_int_equal(evicted.count, 0);
    const uint64_t room_for_two = 2 * FILE_BYTES + 3 * 16384;
    assert_int_equal(store_template_evict(fixture.store, room_for_two, true, &evicted, &err),
                     KELPIE_OK);
    assert_int_equal(evicted.count, 2);
    assert_int_equal(count_entries(), 4); /* only said */
    assert_int_equal(store_template_evict(fixture.store, room_for_two, false, &evicted, &err),
                     KELPIE_OK);
    assert_int_equal(evicted.count, 2);
    assert_true(evicted.bytes >= 2 * FILE_BYTES);
    assert_true(is_there("a"));
    assert_true(is_there("c"));
    assert_int_equal(count_entries(), 2);
}

static void what_is_used_or_made_stays(void **state) {
    (void)state;
    struct store_evicted evicted;
    struct store_template *used = NULL;
    struct store_template *made = NULL;
    make("used");
    make("idle");
    assert_int_equal(store_template_open(fixture.store, "used", &used, &err), KELPIE_OK);
    assert_int_equal(store_template_begin(fixture.store, "made", &made, &err), KELPIE_OK);
    write_bundle(made);
    assert_int_equal(store_template_evict(fixture.store, 0, false, &evicted, &err), KELPIE_OK);
    assert_int_equal(evicted.count, 1);
    assert_true(is_there("used"));
    assert_false(is_there("idle"));
    assert_int_equal(store_template_publish(made, &err), KELPIE_OK);
    store_template_close(used);
    assert_int_equal(store_template_evict(fixture.store, 0, false, &evicted, &err), KELPIE_OK);
    assert_int_equal(evicted.count, 2);
    assert_int_equal(count_entries(), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_template_is_found_when_it_is_published, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(what_is_given_up_leaves_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_template_may_be_thrown_away_while_it_is_used, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(hazard_E3_of_several_makers_one_makes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(hazard_E3_a_killed_maker_is_not_waited_for, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_maker_that_was_killed_at_its_first_step_is_not_waited_for,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_was_not_used_for_the_longest_time_goes_first, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(what_is_used_or_made_stays, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
