/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Each rule of the model, by a history that it allows beside one that it does not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "sim/run/history.h"

struct scene {
    struct history history;
    struct model_shelf shelf;
    struct model start;
    char reason[1024];
};

static int set_up(void **state) {
    struct scene *scene = calloc(1, sizeof(*scene));
    assert_non_null(scene);
    *state = scene;
    return 0;
}

static int tear_down(void **state) {
    free(*state);
    return 0;
}

static void begin(struct scene *scene, bool faults) {
    history_init(&scene->history, faults);
    model_shelf_init(&scene->shelf);
    model_init(&scene->start);
}

static size_t call(struct scene *scene, struct model_op op) {
    size_t index = history_begin(&scene->history, &op);
    assert_int_not_equal(index, HISTORY_FULL);
    return index;
}

static void back(struct scene *scene, size_t index, enum kelpie_status status, uint32_t value) {
    history_end(&scene->history, index, status, value);
}

static void run(struct scene *scene, struct model_op op, enum kelpie_status status,
                uint32_t value) {
    back(scene, call(scene, op), status, value);
}

static struct model_op kind(enum model_kind kind) {
    return (struct model_op){.kind = kind};
}

static struct model_op file(enum model_kind kind, uint8_t number, uint32_t id) {
    return (struct model_op){.kind = kind, .file = number, .id = id};
}

static struct model_op bundle(enum model_kind kind, uint8_t number, bool paused) {
    return (struct model_op){.kind = kind, .bundle = number, .paused = paused};
}

static void started(struct scene *scene, bool faults) {
    begin(scene, faults);
    run(scene, kind(MODEL_START), KELPIE_OK, 0);
}

static void put(struct scene *scene, uint8_t number, uint32_t id) {
    run(scene, file(MODEL_COPY_IN, number, id), KELPIE_OK, 0);
}

static void got(struct scene *scene, uint8_t number, uint32_t id) {
    run(scene, file(MODEL_COPY_OUT, number, 0), id ? KELPIE_OK : KELPIE_NOT_FOUND, id);
}

static void seen(struct scene *scene, enum kelpie_state state) {
    run(scene, kind(MODEL_STATE), KELPIE_OK, state);
}

static enum history_verdict verdict(struct scene *scene) {
    return history_check(&scene->history, &scene->start, &scene->shelf, scene->reason,
                         sizeof(scene->reason));
}

#define HOLDS(scene) assert_int_equal(verdict(scene), HISTORY_HOLDS)
#define WRONG(scene) assert_int_equal(verdict(scene), HISTORY_WRONG)

static void a_success_needs_the_state_that_allows_it(void **state) {
    static const struct {
        enum model_kind kind;
        uint32_t allowed; /* created, running, paused, stopped */
    } rows[] = {
        {MODEL_START, 1 << 0 | 1 << 3},
        {MODEL_STOP, 1 << 1 | 1 << 2},
        {MODEL_PAUSE, 1 << 1},
        {MODEL_RESUME, 1 << 2},
        {MODEL_SNAPSHOT, 1 << 1 | 1 << 2},
        {MODEL_RESTORE, 1 << 0 | 1 << 3},
        {MODEL_COPY_IN, 1 << 1},
        {MODEL_COPY_OUT, 1 << 1},
        {MODEL_EXEC_WRITE, 1 << 1},
        {MODEL_EXEC_READ, 1 << 1},
        {MODEL_EXEC_ECHO, 1 << 1},
        {MODEL_PING, 1 << 1},
        {MODEL_FORK, 1 << 1 | 1 << 2},
    };
    struct scene *scene = *state;
    for (size_t i = 0; i < 8 * sizeof(rows) / sizeof(rows[0]); i++) {
        unsigned s = i / 2 % 4;
        bool refused = i % 2;
        begin(scene, false);
        model_shelf_allow(&scene->shelf, 0);
        if (s > 0) {
            run(scene, kind(MODEL_START), KELPIE_OK, 0);
        }
        if (s > 1) {
            run(scene, kind(s == 2 ? MODEL_PAUSE : MODEL_STOP), KELPIE_OK, 0);
        }
        run(scene, kind(rows[i / 8].kind), refused ? KELPIE_WRONG_STATE : KELPIE_OK, 0);
        bool fits = ((rows[i / 8].allowed >> s) & 1) != refused;
        assert_int_equal(verdict(scene), fits ? HISTORY_HOLDS : HISTORY_WRONG);
    }
}

static void each_success_leads_to_its_state(void **state) {
    struct scene *scene = *state;
    for (unsigned s = 0; s < KELPIE_STATE_COUNT; s++) {
        started(scene, false);
        seen(scene, (enum kelpie_state)s);
        assert_int_equal(verdict(scene), s == KELPIE_STATE_RUNNING ? HISTORY_HOLDS : HISTORY_WRONG);
        started(scene, false);
        run(scene, kind(MODEL_PAUSE), KELPIE_OK, 0);
        seen(scene, (enum kelpie_state)s);
        assert_int_equal(verdict(scene), s == KELPIE_STATE_PAUSED ? HISTORY_HOLDS : HISTORY_WRONG);
        run(scene, kind(MODEL_RESUME), KELPIE_OK, 0);
        run(scene, kind(MODEL_STOP), KELPIE_OK, 0);
        seen(scene, (enum kelpie_state)s);
        assert_int_equal(verdict(scene), HISTORY_WRONG); /* running or stopped, but not both */
        started(scene, false);
        run(scene, kind(MODEL_STOP), KELPIE_OK, 0);
        seen(scene, (enum kelpie_state)s);
        assert_int_equal(verdict(scene), s == KELPIE_STATE_STOPPED ? HISTORY_HOLDS : HISTORY_WRONG);
    }
}

static void what_was_put_is_got(void **state) {
    struct scene *scene = *state;
    started(scene, false);
    got(scene, 3, 0);
    put(scene, 3, 9);
    put(scene, 2, 5);
    got(scene, 3, 9);
    run(scene, file(MODEL_EXEC_WRITE, 3, 11), KELPIE_OK, 0);
    run(scene, file(MODEL_EXEC_READ, 3, 0), KELPIE_OK, 11);
    run(scene, file(MODEL_EXEC_ECHO, 0, 77), KELPIE_OK, 77);
    HOLDS(scene);
    got(scene, 3, 9);
    WRONG(scene);
    assert_string_equal(scene->reason, "#8 copy_out /f3 returned id 9 between 16 and 17, but the "
                                       "VM was running before and #5 had put "
                                       "id 11 there. Around it: #7 exec_echo of id 77 returned id "
                                       "77 between 14 and 15; #6 exec_read "
                                       "/f3 returned id 11 between 12 and 13; #5 exec_write /f3 of "
                                       "id 11 succeeded between 10 and 11; #4 "
                                       "copy_out /f3 returned id 9 between 8 and 9; #3 copy_in /f2 "
                                       "of id 5 succeeded between 6 and 7; #2 "
                                       "copy_in /f3 of id 9 succeeded between 4 and 5.");
    started(scene, false);
    put(scene, 3, 9);
    got(scene, 3, 0);
    WRONG(scene);
    started(scene, false);
    run(scene, file(MODEL_EXEC_ECHO, 0, 77), KELPIE_OK, 78);
    WRONG(scene);
}

static void files_live_as_long_as_the_machine(void **state) {
    struct scene *scene = *state;
    for (uint32_t id = 0; id <= 9; id += 9) {
        started(scene, false);
        put(scene, 1, 9);
        run(scene, kind(MODEL_STOP), KELPIE_OK, 0);
        run(scene, kind(MODEL_START), KELPIE_OK, 0);
        got(scene, 1, id);
        assert_int_equal(verdict(scene), id == 0 ? HISTORY_HOLDS : HISTORY_WRONG);
        started(scene, false);
        put(scene, 1, 9);
        run(scene, kind(MODEL_PAUSE), KELPIE_OK, 0);
        run(scene, kind(MODEL_RESUME), KELPIE_OK, 0);
        got(scene, 1, id);
        assert_int_equal(verdict(scene), id == 9 ? HISTORY_HOLDS : HISTORY_WRONG);
    }
}

static void a_failed_write_leaves_the_old_or_the_new(void **state) {
    static const enum kelpie_status statuses[] = {KELPIE_CANCELLED, KELPIE_COPY_FAILED,
                                                  KELPIE_TIMED_OUT, KELPIE_INTERNAL,
                                                  KELPIE_IO_FAILED, KELPIE_NO_MEMORY};
    struct scene *scene = *state;
    for (size_t i = 0; i < sizeof(statuses) / sizeof(statuses[0]); i++) {
        for (uint32_t id = 8; id <= 10; id++) {
            started(scene, false);
            put(scene, 1, 8);
            run(scene, file(MODEL_COPY_IN, 1, 9), statuses[i], 0);
            got(scene, 1, id);
            got(scene, 1, id); /* what it is, it stays */
            assert_int_equal(verdict(scene), id <= 9 ? HISTORY_HOLDS : HISTORY_WRONG);
        }
    }
}

static void a_write_that_was_not_begun_leaves_the_old(void **state) {
    static const struct {
        enum model_kind kind;
        enum kelpie_status status;
    } rows[] = {{MODEL_COPY_IN, KELPIE_BUSY},      {MODEL_COPY_IN, KELPIE_NO_SPACE},
                {MODEL_COPY_IN, KELPIE_NOT_FOUND}, {MODEL_COPY_IN, KELPIE_BAD_CONFIG},
                {MODEL_EXEC_WRITE, KELPIE_BUSY},   {MODEL_EXEC_WRITE, KELPIE_EXEC_FAILED}};
    struct scene *scene = *state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        for (uint32_t id = 8; id <= 9; id++) {
            started(scene, false);
            put(scene, 1, 8);
            run(scene, file(rows[i].kind, 1, 9), rows[i].status, 0);
            got(scene, 1, id);
            assert_int_equal(verdict(scene), id == 8 ? HISTORY_HOLDS : HISTORY_WRONG);
        }
    }
}

static void a_late_write_comes_before_the_guest_answers_something_newer(void **state) {
    struct scene *scene = *state;
    for (unsigned pinged = 0; pinged < 2; pinged++) {
        started(scene, false);
        put(scene, 1, 8);
        size_t before = call(scene, kind(MODEL_PING)); /* under way: it says nothing */
        run(scene, file(MODEL_EXEC_WRITE, 1, 9), KELPIE_CANCELLED, 0);
        size_t read = call(scene, file(MODEL_COPY_OUT, 1, 0));
        size_t again = call(scene, file(MODEL_COPY_OUT, 1, 0));
        back(scene, before, KELPIE_OK, 0);
        back(scene, read, KELPIE_OK, 8); /* this one is over it */
        if (pinged) {
            back(scene, again, KELPIE_CANCELLED, 0);
            got(scene, 1, 9);
            WRONG(scene);
        } else {
            back(scene, again, KELPIE_OK, 8);
            HOLDS(scene);
        }
    }
    started(scene, false);
    put(scene, 1, 8);
    run(scene, file(MODEL_EXEC_WRITE, 1, 9), KELPIE_CANCELLED, 0);
    run(scene, kind(MODEL_PAUSE), KELPIE_OK, 0); /* the agent answered, but it was no session */
    run(scene, kind(MODEL_RESUME), KELPIE_OK, 0);
    got(scene, 1, 9);
    HOLDS(scene);
    started(scene, false); /* and it goes with its machine */
    run(scene, file(MODEL_EXEC_WRITE, 1, 9), KELPIE_CANCELLED, 0);
    run(scene, kind(MODEL_STOP), KELPIE_OK, 0);
    run(scene, kind(MODEL_START), KELPIE_OK, 0);
    got(scene, 1, 9);
    WRONG(scene);
}

static void a_failed_operation_leaves_its_states(void **state) {
    static const struct {
        enum model_kind kind;
        enum kelpie_state from;
        uint32_t leaves; /* without faults */
        uint32_t faulty; /* with faults, too */
    } rows[] = {
        {MODEL_START, KELPIE_STATE_CREATED, 1 << KELPIE_STATE_CREATED, 1 << KELPIE_STATE_CRASHED},
        {MODEL_RESTORE, KELPIE_STATE_CREATED, 1 << KELPIE_STATE_CREATED, 1 << KELPIE_STATE_CRASHED},
        {MODEL_START, KELPIE_STATE_STOPPED, 1 << KELPIE_STATE_STOPPED, 1 << KELPIE_STATE_CRASHED},
        {MODEL_STOP, KELPIE_STATE_RUNNING, 1 << KELPIE_STATE_RUNNING, 1 << KELPIE_STATE_CRASHED},
        {MODEL_PAUSE, KELPIE_STATE_RUNNING, 1 << KELPIE_STATE_RUNNING, 1 << KELPIE_STATE_CRASHED},
        {MODEL_RESUME, KELPIE_STATE_PAUSED, 1 << KELPIE_STATE_PAUSED, 1 << KELPIE_STATE_CRASHED},
        {MODEL_SNAPSHOT, KELPIE_STATE_RUNNING, 1 << KELPIE_STATE_RUNNING | 1 << KELPIE_STATE_PAUSED,
         1 << KELPIE_STATE_CRASHED},
        {MODEL_FORK, KELPIE_STATE_RUNNING, 1 << KELPIE_STATE_RUNNING | 1 << KELPIE_STATE_PAUSED,
         1 << KELPIE_STATE_CRASHED},
        {MODEL_SNAPSHOT, KELPIE_STATE_PAUSED, 1 << KELPIE_STATE_PAUSED, 1 << KELPIE_STATE_CRASHED},
    };
    struct scene *scene = *state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        for (unsigned s = 0; s < 2 * KELPIE_STATE_COUNT; s++) {
            bool faults = s >= KELPIE_STATE_COUNT;
            begin(scene, faults);
            model_shelf_allow(&scene->shelf, 0);
            if (rows[i].from != KELPIE_STATE_CREATED) {
                run(scene, kind(MODEL_START), KELPIE_OK, 0);
            }
            if (rows[i].from == KELPIE_STATE_PAUSED) {
                run(scene, kind(MODEL_PAUSE), KELPIE_OK, 0);
            } else if (rows[i].from == KELPIE_STATE_STOPPED) {
                run(scene, kind(MODEL_STOP), KELPIE_OK, 0);
            }
            run(scene, kind(rows[i].kind), KELPIE_CANCELLED, 0);
            seen(scene, (enum kelpie_state)(s % KELPIE_STATE_COUNT));
            uint32_t leaves = rows[i].leaves | (faults ? rows[i].faulty : 0);
            bool fits = (leaves >> (s % KELPIE_STATE_COUNT)) & 1;
            assert_int_equal(verdict(scene), fits ? HISTORY_HOLDS : HISTORY_WRONG);
        }
    }
}

/* What waited for its turn may end so in any state; what held the VM was allowed to. */
static void a_failure_that_had_its_turn_was_allowed(void **state) {
    static const struct {
        enum model_kind kind;
        enum kelpie_status status;
        bool anywhere;
    } rows[] = {{MODEL_START, KELPIE_BOOT_FAILED, false}, {MODEL_START, KELPIE_BUSY, true},
                {MODEL_START, KELPIE_CANCELLED, true},    {MODEL_RESUME, KELPIE_TIMED_OUT, false},
                {MODEL_RESTORE, KELPIE_NOT_FOUND, false}, {MODEL_RESUME, KELPIE_BUSY, true},
                {MODEL_RESTORE, KELPIE_NO_MEMORY, true}};
    struct scene *scene = *state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        started(scene, false);
        run(scene, kind(rows[i].kind), rows[i].status, 0);
        assert_int_equal(verdict(scene), rows[i].anywhere ? HISTORY_HOLDS : HISTORY_WRONG);
    }
    begin(scene, true); /* what was refused left nothing */
    run(scene, kind(MODEL_START), KELPIE_BUSY, 0);
    seen(scene, KELPIE_STATE_CRASHED);
    WRONG(scene);
    begin(scene, false); /* one that was refused is no start that a stop could end */
    size_t start = call(scene, kind(MODEL_START));
    run(scene, kind(MODEL_STOP), KELPIE_OK, 0);
    back(scene, start, KELPIE_BUSY, 0);
    WRONG(scene);
    begin(scene, false); /* but one such start is enough for two stops */
    start = call(scene, kind(MODEL_START));
    size_t stop = call(scene, kind(MODEL_STOP));
    run(scene, kind(MODEL_STOP), KELPIE_OK, 0);
    back(scene, stop, KELPIE_OK, 0);
    back(scene, start, KELPIE_BOOT_FAILED, 0);
    HOLDS(scene);
    run(scene, kind(MODEL_STOP), KELPIE_OK, 0);
    WRONG(scene);
}

static void a_crash_needs_faults_and_a_machine(void **state) {
    struct scene *scene = *state;
    for (unsigned faults = 0; faults < 2; faults++) {
        started(scene, faults);
        run(scene, kind(MODEL_PING), KELPIE_CRASHED, 0);
        seen(scene, KELPIE_STATE_CRASHED);
        assert_int_equal(verdict(scene), faults ? HISTORY_HOLDS : HISTORY_WRONG);
        started(scene, faults);
        run(scene, kind(MODEL_PING), KELPIE_WRONG_STATE, 0);
        assert_int_equal(verdict(scene), faults ? HISTORY_HOLDS : HISTORY_WRONG);
        begin(scene, faults);
        seen(scene, KELPIE_STATE_CRASHED);
        WRONG(scene);
        started(scene, faults);
        run(scene, kind(MODEL_STOP), KELPIE_OK, 0);
        seen(scene, KELPIE_STATE_CRASHED);
        assert_int_equal(verdict(scene), faults ? HISTORY_HOLDS : HISTORY_WRONG);
    }
}

static void nothing_leads_out_of_a_crash(void **state) {
    static const enum model_kind kinds[] = {MODEL_START, MODEL_RESTORE, MODEL_PING,
                                            MODEL_STOP,  MODEL_RESUME,  MODEL_COPY_OUT};
    struct scene *scene = *state;
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        started(scene, true);
        model_shelf_allow(&scene->shelf, 0);
        seen(scene, KELPIE_STATE_CRASHED);
        HOLDS(scene);
        run(scene, kind(kinds[i]), KELPIE_OK, 0);
        WRONG(scene);
    }
    started(scene, true);
    seen(scene, KELPIE_STATE_CRASHED);
    run(scene, kind(MODEL_DESTROY), KELPIE_OK, 0);
    HOLDS(scene);
    run(scene, kind(MODEL_START), KELPIE_OK, 0);
    WRONG(scene);
}

static void a_bundle_brings_its_files(void **state) {
    struct scene *scene = *state;
    for (uint32_t id = 8; id <= 9; id++) {
        for (unsigned paused = 0; paused < 2; paused++) {
            started(scene, false);
            put(scene, 1, 8);
            run(scene, bundle(MODEL_SNAPSHOT, 2, false), KELPIE_OK, 0);
            put(scene, 1, 9);
            run(scene, kind(MODEL_STOP), KELPIE_OK, 0);
            run(scene, bundle(MODEL_RESTORE, 2, paused), KELPIE_OK, 0);
            seen(scene, paused ? KELPIE_STATE_PAUSED : KELPIE_STATE_RUNNING);
            HOLDS(scene);
            if (paused) {
                run(scene, kind(MODEL_RESUME), KELPIE_OK, 0);
            }
            got(scene, 1, id);
            assert_int_equal(verdict(scene), id == 8 ? HISTORY_HOLDS : HISTORY_WRONG);
        }
    }
}

static void a_bundle_that_was_not_made_cannot_be_restored(void **state) {
    static const struct {
        enum kelpie_status status;
        bool may_be;
    } rows[] = {{KELPIE_OK, true},
                {KELPIE_SNAPSHOT_FAILED, false},
                {KELPIE_SNAPSHOT_TOO_LARGE, false},
                {KELPIE_NO_SPACE, false},
                {KELPIE_CANCELLED, true}};
    struct scene *scene = *state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        started(scene, false);
        run(scene, bundle(MODEL_SNAPSHOT, 2, false), rows[i].status, 0);
        run(scene, kind(MODEL_STOP), KELPIE_OK, 0);
        run(scene, bundle(MODEL_RESTORE, 2, false), KELPIE_OK, 0);
        assert_int_equal(verdict(scene), rows[i].may_be ? HISTORY_HOLDS : HISTORY_WRONG);
    }
    started(scene, false);
    run(scene, bundle(MODEL_SNAPSHOT, 2, false), KELPIE_OK, 0);
    run(scene, bundle(MODEL_SNAPSHOT, 2, false), KELPIE_OK, 0); /* never written over */
    WRONG(scene);
}

static void bundles_go_from_one_history_to_another(void **state) {
    struct scene *scene = *state;
    started(scene, false);
    put(scene, 1, 8);
    size_t snapshot = call(scene, bundle(MODEL_SNAPSHOT, 3, false));
    size_t write = call(scene, file(MODEL_COPY_IN, 1, 9));
    back(scene, snapshot, KELPIE_OK, 0);
    back(scene, write, KELPIE_OK, 0);
    HOLDS(scene);
    for (uint32_t id = 7; id <= 9; id++) {
        history_init(&scene->history, false);
        run(scene, bundle(MODEL_RESTORE, 3, false), KELPIE_OK, 0);
        got(scene, 1, id);
        assert_int_equal(verdict(scene), id >= 8 ? HISTORY_HOLDS : HISTORY_WRONG);
    }
    history_init(&scene->history, false);
    run(scene, bundle(MODEL_RESTORE, 4, false), KELPIE_OK, 0);
    WRONG(scene);
    model_shelf_allow(&scene->shelf, 4);
    HOLDS(scene);
    got(scene, 1, 5); /* whatever it is, it stays so */
    got(scene, 1, 5);
    HOLDS(scene);
    got(scene, 1, 6);
    WRONG(scene);
}

static void a_command_in_a_bundle_goes_on(void **state) {
    struct scene *scene = *state;
    for (unsigned after = 0; after < 2; after++) {
        started(scene, false);
        put(scene, 1, 8);
        size_t write = 0;
        if (!after) {
            write = call(scene, file(MODEL_EXEC_WRITE, 1, 9));
        }
        run(scene, bundle(MODEL_SNAPSHOT, 2, false), KELPIE_OK, 0);
        got(scene, 1, 8); /* not yet */
        if (after) {
            write = call(scene, file(MODEL_EXEC_WRITE, 1, 9));
        }
        back(scene, write, KELPIE_OK, 0);
        got(scene, 1, 9);
        run(scene, kind(MODEL_STOP), KELPIE_OK, 0);
        run(scene, bundle(MODEL_RESTORE, 2, false), KELPIE_OK, 0);
        got(scene, 1, 8);
        HOLDS(scene);
        got(scene, 1, 9); /* now it did, in the other machine too */
        assert_int_equal(verdict(scene), after ? HISTORY_WRONG : HISTORY_HOLDS);
        got(scene, 1, 8);
        WRONG(scene);
    }
}

static void a_fork_reads_every_file(void **state) {
    struct scene *scene = *state;
    for (unsigned i = 0; i < 4; i++) {
        uint32_t values[MODEL_FILE_COUNT] = {0, 8, MODEL_UNKNOWN, 0, 0, 0, 0, 0};
        started(scene, false);
        put(scene, 1, 8);
        put(scene, 2, 5);
        values[1] = i == 1 ? 7 : 8;
        values[0] = i == 2 ? 3 : 0;
        values[2] = i == 3 ? 0 : MODEL_UNKNOWN;
        history_end_fork(&scene->history, call(scene, kind(MODEL_FORK)), KELPIE_OK, values);
        assert_int_equal(verdict(scene), i == 0 ? HISTORY_HOLDS : HISTORY_WRONG);
    }
}

static void a_stop_ends_a_start(void **state) {
    struct scene *scene = *state;
    for (unsigned i = 0; i < 3; i++) {
        begin(scene, false);
        size_t start = call(scene, kind(MODEL_START));
        size_t stop = call(scene, kind(MODEL_STOP));
        seen(scene, KELPIE_STATE_STARTING);
        back(scene, stop, KELPIE_OK, 0);
        back(scene, start, i == 1 ? KELPIE_OK : KELPIE_BOOT_FAILED, 0);
        seen(scene, i == 2 ? KELPIE_STATE_CREATED : KELPIE_STATE_STOPPED);
        /* Both succeed when the stop came second. What it stopped is not "created" again. */
        assert_int_equal(verdict(scene), i == 2 ? HISTORY_WRONG : HISTORY_HOLDS);
    }
    begin(scene, false);
    run(scene, kind(MODEL_START), KELPIE_BOOT_FAILED, 0);
    run(scene, kind(MODEL_STOP), KELPIE_OK, 0);
    WRONG(scene);
    begin(scene, false);
    size_t start = call(scene, kind(MODEL_START));
    run(scene, kind(MODEL_STOP), KELPIE_OK, 0);
    seen(scene, KELPIE_STATE_STOPPED);
    back(scene, start, KELPIE_OK, 0);
    HOLDS(scene);
    seen(scene, KELPIE_STATE_RUNNING);
    WRONG(scene); /* resurrected */
}

static void starting_is_seen_while_a_start_runs(void **state) {
    struct scene *scene = *state;
    begin(scene, false);
    seen(scene, KELPIE_STATE_STARTING);
    WRONG(scene);
    started(scene, false);
    size_t start = call(scene, kind(MODEL_START));
    seen(scene, KELPIE_STATE_STARTING);
    back(scene, start, KELPIE_WRONG_STATE, 0);
    WRONG(scene); /* it never began */
    begin(scene, false);
    start = call(scene, kind(MODEL_START));
    seen(scene, KELPIE_STATE_CREATED);
    seen(scene, KELPIE_STATE_STARTING);
    seen(scene, KELPIE_STATE_RUNNING);
    back(scene, start, KELPIE_OK, 0);
    HOLDS(scene);
    begin(scene, false);
    start = call(scene, kind(MODEL_START));
    seen(scene, KELPIE_STATE_RUNNING);
    seen(scene, KELPIE_STATE_STARTING);
    back(scene, start, KELPIE_OK, 0);
    WRONG(scene);
}

static void a_write_may_come_before_its_machine_goes(void **state) {
    struct scene *scene = *state;
    for (unsigned i = 0; i < 2; i++) {
        started(scene, true);
        put(scene, 1, 8);
        size_t write = call(scene, file(MODEL_EXEC_WRITE, 1, 9));
        got(scene, 1, 9);
        if (i == 0) {
            run(scene, kind(MODEL_STOP), KELPIE_OK, 0);
        }
        back(scene, write, i == 0 ? KELPIE_WRONG_STATE : KELPIE_CRASHED, 0);
        HOLDS(scene);
        got(scene, 1, 9);
        WRONG(scene);
    }
    started(scene, false);
    size_t write = call(scene, file(MODEL_EXEC_WRITE, 1, 9));
    got(scene, 1, 9);
    back(scene, write, KELPIE_WRONG_STATE, 0); /* nothing ended that machine */
    WRONG(scene);
}

static void the_guest_is_gone_before_a_stop_says_so(void **state) {
    struct scene *scene = *state;
    started(scene, false);
    size_t stop = call(scene, kind(MODEL_STOP));
    run(scene, kind(MODEL_PING), KELPIE_WRONG_STATE, 0);
    seen(scene, KELPIE_STATE_RUNNING);
    back(scene, stop, KELPIE_OK, 0);
    HOLDS(scene);
    started(scene, false);
    stop = call(scene, kind(MODEL_STOP));
    run(scene, kind(MODEL_RESUME), KELPIE_WRONG_STATE, 0);
    run(scene, kind(MODEL_PAUSE), KELPIE_WRONG_STATE, 0); /* but a pause waits for it */
    seen(scene, KELPIE_STATE_RUNNING);
    back(scene, stop, KELPIE_OK, 0);
    WRONG(scene);
}

static void what_never_returned_may_have_happened(void **state) {
    struct scene *scene = *state;
    for (uint32_t id = 8; id <= 10; id++) {
        started(scene, false);
        put(scene, 1, 8);
        call(scene, file(MODEL_COPY_IN, 1, 9));
        got(scene, 1, id);
        assert_int_equal(verdict(scene), id <= 9 ? HISTORY_HOLDS : HISTORY_WRONG);
        put(scene, 2, id);
        got(scene, 1, 9);
        assert_int_equal(verdict(scene), id <= 9 ? HISTORY_HOLDS : HISTORY_WRONG);
    }
    for (unsigned s = 0; s < KELPIE_STATE_COUNT; s++) {
        started(scene, false);
        call(scene, kind(MODEL_PAUSE));
        seen(scene, (enum kelpie_state)s);
        bool fits = s == KELPIE_STATE_RUNNING || s == KELPIE_STATE_PAUSED;
        assert_int_equal(verdict(scene), fits ? HISTORY_HOLDS : HISTORY_WRONG);
    }
    started(scene, false); /* a bundle, too */
    put(scene, 1, 8);
    call(scene, bundle(MODEL_SNAPSHOT, 5, false));
    HOLDS(scene);
    history_init(&scene->history, false);
    run(scene, bundle(MODEL_RESTORE, 5, false), KELPIE_OK, 0);
    got(scene, 1, 8);
    HOLDS(scene);
}

static void limits_are_told(void **state) {
    struct scene *scene = *state;
    const struct model_op ping = {.kind = MODEL_PING};
    const struct model_op start = {.kind = MODEL_START};
    begin(scene, false);
    for (size_t i = 0; i < HISTORY_OPEN_COUNT_MAX; i++) {
        assert_int_equal(history_begin(&scene->history, &ping), i);
    }
    assert_int_equal(history_begin(&scene->history, &ping), HISTORY_FULL);
    history_end(&scene->history, 3, KELPIE_BUSY, 0);
    assert_int_equal(history_begin(&scene->history, &ping), HISTORY_OPEN_COUNT_MAX);
    history_init(&scene->history, false);
    history_end(&scene->history, history_begin(&scene->history, &start), KELPIE_OK, 0);
    for (size_t i = 1; i < HISTORY_OP_COUNT_MAX; i++) {
        history_end(&scene->history, history_begin(&scene->history, &ping), KELPIE_OK, 0);
    }
    assert_int_equal(history_begin(&scene->history, &ping), HISTORY_FULL);
    assert_int_equal(verdict(scene), HISTORY_HOLDS);
    history_init(&scene->history, false); /* writes that may all still come */
    history_end(&scene->history, history_begin(&scene->history, &start), KELPIE_OK, 0);
    for (uint32_t i = 0; i < MODEL_AROUND_COUNT_MAX; i++) {
        const struct model_op put = {.kind = MODEL_COPY_IN, .id = i + 1};
        history_end(&scene->history, history_begin(&scene->history, &put), KELPIE_CANCELLED, 0);
    }
    assert_int_equal(verdict(scene), HISTORY_HOLDS);
    history_end(&scene->history, history_begin(&scene->history, &ping), KELPIE_CANCELLED, 0);
    assert_int_equal(verdict(scene), HISTORY_UNDECIDED);
    assert_non_null(strstr(scene->reason, "not checked to its end"));
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(a_success_needs_the_state_that_allows_it),
        TEST(each_success_leads_to_its_state),
        TEST(what_was_put_is_got),
        TEST(files_live_as_long_as_the_machine),
        TEST(a_failed_write_leaves_the_old_or_the_new),
        TEST(a_write_that_was_not_begun_leaves_the_old),
        TEST(a_late_write_comes_before_the_guest_answers_something_newer),
        TEST(a_failed_operation_leaves_its_states),
        TEST(a_failure_that_had_its_turn_was_allowed),
        TEST(a_crash_needs_faults_and_a_machine),
        TEST(nothing_leads_out_of_a_crash),
        TEST(a_bundle_brings_its_files),
        TEST(a_bundle_that_was_not_made_cannot_be_restored),
        TEST(bundles_go_from_one_history_to_another),
        TEST(a_command_in_a_bundle_goes_on),
        TEST(a_fork_reads_every_file),
        TEST(a_stop_ends_a_start),
        TEST(starting_is_seen_while_a_start_runs),
        TEST(a_write_may_come_before_its_machine_goes),
        TEST(the_guest_is_gone_before_a_stop_says_so),
        TEST(what_never_returned_may_have_happened),
        TEST(limits_are_told),
    };
    return cmocka_run_group_tests_name("sim model", tests, NULL, NULL);
}
