/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "cli/options.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"

struct fragment {
    bool shared;
    const char *name;
};

struct settings {
    bool flag;
    bool other;
    const char *text;
    uint32_t count;
    uint32_t memory_mib;
    uint32_t duration_ms;
    struct option_list list;
    struct fragment fragment;
};

static const struct option_spec fragment_specs[] = {
    {'s', "shared", NULL, "a flag of several commands", option_set_flag,
     offsetof(struct fragment, shared), NULL, NULL},
    {0, "name", "NAME", "a name", option_set_text, offsetof(struct fragment, name), "name", NULL},
};
static const struct option_table fragment_table = {fragment_specs, ARRAY_SIZE(fragment_specs)};

#define ROW(letter, long_name, value, text, setter, member, config_field)                          \
    {                                                                                              \
        letter, long_name, value, text, setter, offsetof(struct settings, member), config_field,   \
            NULL                                                                                   \
    }

static const struct option_spec specs[] = {
    ROW('f', "flag", NULL, "a flag", option_set_flag, flag, NULL),
    ROW('o', "other", NULL, "another", option_set_flag, other, NULL),
    ROW('t', "text", "TEXT", "a text", option_set_text, text, "text_field"),
    {.include = &fragment_table, .offset = offsetof(struct settings, fragment)},
    ROW(0, "count", "N", "a number", option_set_count, count, NULL),
    ROW(0, "memory", "SIZE", "a size", option_set_memory, memory_mib, NULL),
    ROW(0, "duration", "TIME", "a time", option_set_duration, duration_ms, NULL),
    ROW('l', "list", "TEXT", "texts", option_add_text, list, NULL),
};
static const struct option_table table = {specs, ARRAY_SIZE(specs)};

struct parsed {
    enum kelpie_status status;
    struct settings settings;
    struct option_words words;
    struct kelpie_error err;
};

static struct parsed parse(const char *const *argv) {
    struct parsed parsed = {.words.words = argv};
    while (argv[parsed.words.count]) {
        parsed.words.count++;
    }
    parsed.status = options_parse(&table, &parsed.words, &parsed.settings, &parsed.err);
    return parsed;
}

#define PARSE(...) parse((const char *const[]){__VA_ARGS__ __VA_OPT__(, ) NULL})

static void test_no_words(void **state) {
    (void)state;
    struct parsed parsed = parse((const char *const[]){NULL});
    assert_int_equal(parsed.status, KELPIE_OK);
    assert_int_equal(parsed.words.index, 0);
}

static void test_every_spelling(void **state) {
    (void)state;
    static const char *const lines[][4] = {
        {"-ft", "x", NULL},           {"-ftx", NULL},
        {"-f", "-t", "x", NULL},      {"-f", "-tx", NULL},
        {"--flag", "--text=x", NULL}, {"--text", "x", "-f", NULL},
    };
    for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
        struct parsed parsed = parse(lines[i]);
        assert_int_equal(parsed.status, KELPIE_OK);
        assert_true(parsed.settings.flag);
        assert_false(parsed.settings.other);
        assert_string_equal(parsed.settings.text, "x");
        assert_int_equal(parsed.words.index, parsed.words.count);
    }
}

static void test_a_value_may_look_like_an_option(void **state) {
    (void)state;
    assert_string_equal(PARSE("--text", "-f").settings.text, "-f");
    assert_string_equal(PARSE("--text=--").settings.text, "--");
    assert_string_equal(PARSE("-t=x").settings.text, "=x");
    assert_string_equal(PARSE("--text=a=b").settings.text, "a=b");
}

static void test_where_options_end(void **state) {
    (void)state;
    struct parsed parsed = PARSE("-f", "--", "-o");
    assert_int_equal(parsed.words.index, 2);
    assert_true(parsed.words.ended);
    assert_false(parsed.settings.other);
    parsed = PARSE("-f", "word", "-o");
    assert_int_equal(parsed.words.index, 1);
    assert_false(parsed.words.ended);
    assert_false(parsed.settings.other);
    assert_int_equal(PARSE("-", "-o").words.index, 0); /* a dash alone is a word */
}

static void test_the_last_one_counts(void **state) {
    (void)state;
    assert_string_equal(PARSE("-ta", "--text", "b").settings.text, "b");
}

static void test_lists_keep_order_and_have_an_end(void **state) {
    (void)state;
    struct parsed parsed = PARSE("-la", "--list", "b");
    assert_int_equal(parsed.settings.list.count, 2);
    assert_string_equal(parsed.settings.list.values[0], "a");
    assert_string_equal(parsed.settings.list.values[1], "b");
    assert_null(parsed.settings.list.values[2]);

    static const char *words[KELPIE_ENV_COUNT_MAX + 2];
    for (size_t i = 0; i < KELPIE_ENV_COUNT_MAX + 1; i++) {
        words[i] = "-lx";
    }
    assert_int_equal(parse(words).status, KELPIE_BAD_CONFIG);
    words[KELPIE_ENV_COUNT_MAX] = NULL;
    assert_int_equal(parse(words).status, KELPIE_OK);
}

static void test_help_is_always_there(void **state) {
    (void)state;
    assert_true(PARSE("--help").words.help_asked);
    assert_true(PARSE("-fh").words.help_asked);
    assert_false(PARSE("--", "--help").words.help_asked);
}

static void test_errors_name_the_option(void **state) {
    (void)state;
    static const struct {
        const char *words[3];
        const char *field;
        const char *message;
    } rows[] = {
        {{"--nosuch"}, "--nosuch", "there is no option --nosuch"},
        {{"--txet", "x"}, "--txet", "there is no option --txet; did you mean --text?"},
        {{"--halp"}, "--halp", "there is no option --halp; did you mean --help?"},
        {{"--=x"}, "--", "there is no option --"},
        {{"-fq"}, "-q", "there is no option -q"},
        {{"--flag=x"}, "--flag", "--flag: takes no value"},
        {{"--text"}, "--text", "--text: the value TEXT is missing"},
        {{"-t"}, "--text", "--text: the value TEXT is missing"},
        {{"--text="}, "--text", "--text: the value is empty"},
        {{"--count", "x"}, "--count", "--count: \"x\" is not a number of 1 or more"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct parsed parsed = parse(rows[i].words);
        assert_int_equal(parsed.status, KELPIE_BAD_CONFIG);
        assert_string_equal(parsed.err.field, rows[i].field);
        assert_string_equal(parsed.err.message, rows[i].message);
    }
}

static void test_long_words_are_cut_in_messages(void **state) {
    (void)state;
    char word[5000];
    memset(word, '-', 2);
    memset(word + 2, 'x', sizeof(word) - 3);
    word[sizeof(word) - 1] = 0;
    struct parsed parsed = PARSE(word);
    assert_int_equal(parsed.status, KELPIE_BAD_CONFIG);
    assert_true(strlen(parsed.err.message) < 200);
    parsed = PARSE("--count", word);
    assert_int_equal(parsed.status, KELPIE_BAD_CONFIG);
    assert_true(strlen(parsed.err.message) < 200);
}

/* 0: refused. */
static uint32_t set(option_setter *setter, const char *value) {
    uint32_t number = 0;
    struct kelpie_error err;
    enum kelpie_status status = setter(&number, value, &err);
    assert_true((status == KELPIE_OK) == (number != 0));
    return number;
}

static void test_counts(void **state) {
    (void)state;
    assert_int_equal(set(option_set_count, "1"), 1);
    assert_int_equal(set(option_set_count, "4294967295"), UINT32_MAX);
    static const char *const bad[] = {"",
                                      "0",
                                      "-1",
                                      "+1",
                                      " 1",
                                      "1 ",
                                      "0x10",
                                      "1.0",
                                      "4294967296",
                                      "18446744073709551616",
                                      "99999999999999999999999"};
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        assert_int_equal(set(option_set_count, bad[i]), 0);
    }
}

static void test_sizes(void **state) {
    (void)state;
    assert_int_equal(set(option_set_memory, "512"), 512);
    assert_int_equal(set(option_set_memory, "512M"), 512);
    assert_int_equal(set(option_set_memory, "512m"), 512);
    assert_int_equal(set(option_set_memory, "512MiB"), 512);
    assert_int_equal(set(option_set_memory, "2G"), 2048);
    assert_int_equal(set(option_set_memory, "2GiB"), 2048);
    assert_int_equal(set(option_set_memory, "4194303G"), 4294966272);
    static const char *const bad[] = {"",   "M",   "0",   "0G",  "1K",       "1T",        "1.5G",
                                      "-1", "1 G", "1GB", "1MM", "4194304G", "4294967296"};
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        assert_int_equal(set(option_set_memory, bad[i]), 0);
    }
}

static void test_durations(void **state) {
    (void)state;
    assert_int_equal(set(option_set_duration, "500ms"), 500);
    assert_int_equal(set(option_set_duration, "30s"), 30000);
    assert_int_equal(set(option_set_duration, "30"), 30000);
    assert_int_equal(set(option_set_duration, "2m"), 120000);
    assert_int_equal(set(option_set_duration, "24h"), KELPIE_TIMEOUT_MS_MAX);
    static const char *const bad[] = {"",    "s",   "0",    "0s",         "1d",  "1.5s",
                                      "-1s", "1 s", "soon", "86400001ms", "25h", "4294967295h"};
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        assert_int_equal(set(option_set_duration, bad[i]), 0);
    }
}

static void test_an_included_table_is_part_of_the_table(void **state) {
    (void)state;
    struct parsed parsed = PARSE("-fs", "--name", "x", "--count=3");
    assert_int_equal(parsed.status, KELPIE_OK);
    assert_true(parsed.settings.flag);
    assert_true(parsed.settings.fragment.shared);
    assert_string_equal(parsed.settings.fragment.name, "x");
    assert_int_equal(parsed.settings.count, 3);
    assert_string_equal(options_by_field(&table, "name")->name, "name");
    assert_string_equal(options_at(&table, 2).spec->name, "text");
    assert_string_equal(options_at(&table, 3).spec->name, "shared");
    assert_string_equal(options_at(&table, 5).spec->name, "count");
    assert_null(options_at(&table, 9).spec);
}

static void test_a_field_of_the_library_has_its_option(void **state) {
    (void)state;
    assert_ptr_equal(options_by_field(&table, "text_field"), &specs[2]);
    assert_ptr_equal(options_by_field(&table, "text_field[3].path"), &specs[2]);
    assert_null(options_by_field(&table, "text_fiel"));
    assert_null(options_by_field(&table, "text_field2"));
    assert_null(options_by_field(&table, ""));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_words),
        cmocka_unit_test(test_every_spelling),
        cmocka_unit_test(test_a_value_may_look_like_an_option),
        cmocka_unit_test(test_where_options_end),
        cmocka_unit_test(test_the_last_one_counts),
        cmocka_unit_test(test_lists_keep_order_and_have_an_end),
        cmocka_unit_test(test_help_is_always_there),
        cmocka_unit_test(test_errors_name_the_option),
        cmocka_unit_test(test_long_words_are_cut_in_messages),
        cmocka_unit_test(test_counts),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_durations),
        cmocka_unit_test(test_an_included_table_is_part_of_the_table),
        cmocka_unit_test(test_a_field_of_the_library_has_its_option),
    };
    return cmocka_run_group_tests_name("cli/options", tests, NULL, NULL);
}
