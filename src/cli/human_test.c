/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What people read: sizes, times, tables, names. */
#include "cli/human.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"
#include "cli/names.h"
#include "cli/table.h"

static void test_sizes(void **state) {
    (void)state;
    static const struct {
        uint64_t bytes;
        const char *text;
    } rows[] = {
        {0, "0B"},
        {1, "1B"},
        {1023, "1023B"},
        {1024, "1.0KiB"},
        {1536, "1.5KiB"},
        {102348, "99.9KiB"},
        {102399, "100KiB"},
        {1048575, "1.0MiB"}, /* not 1024KiB */
        {256ull << 20, "256MiB"},
        {8ull << 30, "8.0GiB"},
        {UINT64_MAX, "16.0EiB"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        char text[HUMAN_SIZE];
        assert_string_equal(human_bytes(rows[i].bytes, text), rows[i].text);
    }
}

static void test_durations(void **state) {
    (void)state;
    static const struct {
        uint64_t seconds;
        const char *text;
    } rows[] = {
        {0, "0s"},    {59, "59s"},     {119, "119s"},  {120, "2m"},           {7199, "119m"},
        {7200, "2h"}, {172799, "47h"}, {172800, "2d"}, {86400 * 400, "400d"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        char text[HUMAN_SIZE];
        assert_string_equal(human_duration(rows[i].seconds * 1000 + 999, text), rows[i].text);
    }
    char text[HUMAN_SIZE];
    assert_string_equal(human_duration(UINT64_MAX, text), "213503982334d");
    assert_string_equal(human_age(0, text), "-");
    assert_string_equal(human_age(human_now_unix_ms() + 60000, text), "0s");
    assert_string_equal(human_age(human_now_unix_ms() - 300500, text), "5m");
}

static void test_times(void **state) {
    (void)state;
    char text[HUMAN_TIME_SIZE];
    assert_string_equal(human_time(0, text), "1970-01-01T00:00:00.000Z");
    assert_string_equal(human_time(1795906246900ull, text), "2026-11-28T22:50:46.900Z");
    assert_string_equal(human_time(UINT64_MAX, text), "9999-12-31T23:59:59.615Z");
}

/* ---- Tables ------------------------------------------------------------------------------------ */

static char *printed(size_t width) {
    static const struct table_column columns[] = {
        {"NAME", 6, false}, {"IMAGE", 4, false}, {"CPUS", 0, true}, {"AGE", 0, true}};
    struct table *table = table_create(columns, ARRAY_SIZE(columns));
    assert_non_null(table);
    static const char *const names[] = {"a", "a-long-name", "tab\there"};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        table_cell(table, "%s", names[i]);
        table_cell(table, "%s", i == 1 ? "debian-bookworm" : "-");
        table_cell(table, "%zu", i * 10);
        table_cell(table, "%us", 5);
    }
    char *text = NULL;
    size_t size = 0;
    FILE *stream = open_memstream(&text, &size);
    assert_non_null(stream);
    table_print(table, stream, width);
    fclose(stream);
    table_destroy(table);
    return text;
}

static void expect_table(size_t width, const char *wanted) {
    char *text = printed(width);
    assert_string_equal(text, wanted);
    free(text);
}

static void test_a_table_is_whole_on_a_pipe(void **state) {
    (void)state;
    expect_table(0, "NAME         IMAGE            CPUS  AGE\n"
                    "a            -                   0   5s\n"
                    "a-long-name  debian-bookworm    10   5s\n"
                    "tab here     -                  20   5s\n");
}

static void test_a_table_fits_its_terminal(void **state) {
    (void)state;
    /* The widest shrinks first, then both, down to their least; then columns go. */
    expect_table(34, "NAME        IMAGE        CPUS  AGE\n"
                     "a           -               0   5s\n"
                     "a-long-na…  debian-boo…    10   5s\n"
                     "tab here    -              20   5s\n");
    expect_table(23, "NAME    IMA…  CPUS  AGE\n"
                     "a       -        0   5s\n"
                     "a-lon…  deb…    10   5s\n"
                     "tab h…  -       20   5s\n");
    expect_table(22, "NAME    IMA…  CPUS\n"
                     "a       -        0\n"
                     "a-lon…  deb…    10\n"
                     "tab h…  -       20\n");
    expect_table(1, "NAME\na\na-lon…\ntab h…\n");
}

static void test_no_line_is_wider_than_the_terminal(void **state) {
    (void)state;
    for (size_t width = 6; width < 60; width++) {
        char *text = printed(width);
        for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
            size_t columns = 0;
            for (const char *byte = line; *byte; byte++) {
                columns += ((unsigned char)*byte & 0xc0) != 0x80;
            }
            assert_in_range(columns, 1, width);
        }
        free(text);
    }
}

/* ---- Names ------------------------------------------------------------------------------------- */

static void test_each_number_has_its_name(void **state) {
    (void)state;
    char a[NAMES_SIZE];
    char b[NAMES_SIZE];
    names_make(0, a);
    assert_string_equal(a, "able-alder");
    for (uint64_t i = 1; i < names_count(); i++) {
        names_make(i, b);
        assert_string_not_equal(a, b);
        assert_in_range(strspn(b, "abcdefghijklmnopqrstuvwxyz-"), 5, KELPIE_NAME_SIZE_MAX);
    }
    names_make(names_count(), b);
    assert_string_equal(b, "able-alder-2");
    names_make(UINT64_MAX, b);
    assert_in_range(strlen(b), 5, NAMES_SIZE - 1);
}

struct taken {
    size_t count; /* names that are taken yet */
    size_t tried;
    char name[NAMES_SIZE];
};

static enum kelpie_status make(void *context, const char *name, struct kelpie_error *err) {
    struct taken *taken = context;
    taken->tried++;
    snprintf(taken->name, sizeof(taken->name), "%s", name);
    return taken->count-- > 0 ? error_set_field(err, KELPIE_BAD_CONFIG, "name", "it is taken")
                              : KELPIE_OK;
}

static void test_a_taken_name_leads_to_another(void **state) {
    (void)state;
    struct kelpie_error err;
    struct taken taken = {.count = 3};
    assert_int_equal(names_try(NULL, make, &taken, &err), KELPIE_OK);
    assert_int_equal(taken.tried, 4);
    taken = (struct taken){.count = 1};
    assert_int_equal(names_try("mine", make, &taken, &err), KELPIE_BAD_CONFIG);
    assert_int_equal(taken.tried, 1);
    assert_string_equal(taken.name, "mine");
    taken = (struct taken){.count = SIZE_MAX};
    assert_int_equal(names_try(NULL, make, &taken, &err), KELPIE_BAD_CONFIG);
    assert_int_equal(taken.tried, CLI_NAME_TRY_COUNT_MAX);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_durations),
        cmocka_unit_test(test_times),
        cmocka_unit_test(test_a_table_is_whole_on_a_pipe),
        cmocka_unit_test(test_a_table_fits_its_terminal),
        cmocka_unit_test(test_no_line_is_wider_than_the_terminal),
        cmocka_unit_test(test_each_number_has_its_name),
        cmocka_unit_test(test_a_taken_name_leads_to_another),
    };
    return cmocka_run_group_tests_name("cli/human", tests, NULL, NULL);
}
