/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Every command from outside: its help, a wrong command line, a VM that is not there, a VM in the wrong state; and a
 * VM's whole life. On the mock backend, with owners' processes of its own.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>
#include <jansson.h>

#include "../support/command.h"
#include "../support/kelpie.h"
#include "base/assert.h"

#define WORDS_MAX 10
#define ONE_ERROR "^kelpie: [^\n]*"

static int create_home(void **state) {
    (void)state;
    kelpie_home_create();
    return 0;
}

static int remove_home(void **state) {
    (void)state;
    return kelpie_home_remove();
}

static char *kept(const char *text) {
    char *copy = strdup(text);
    assert_non_null(copy);
    return copy;
}

static void fail_words(const char *const *words, const struct kelpie_result *result) {
    char line[512] = "kelpie";
    for (size_t i = 0; words[i]; i++) {
        size_t used = strlen(line);
        snprintf(line + used, sizeof(line) - used, " %s", words[i]);
    }
    fail_msg("%s: code %d, out: %s, err: %s", line, result->code, result->out, result->err);
}

/* Expects a code, and patterns on both streams; NULL: nothing at all. */
static void expect(const char *const *words, int code, const char *out, const char *err) {
    struct kelpie_result result = kelpie_run(words, NULL);
    bool fits = result.code == code &&
                (out ? command_matches(result.out, out) : result.out[0] == 0) &&
                (err ? command_matches(result.err, err) : result.err[0] == 0);
    if (!fits) {
        fail_words(words, &result);
    }
}

static json_t *expect_json(const char *const *words) {
    struct kelpie_result result = kelpie_run(words, NULL);
    json_error_t error;
    json_t *json = result.code == 0 ? json_loads(result.out, 0, &error) : NULL;
    if (!json || result.err[0] != 0) {
        fail_words(words, &result);
    }
    return json;
}

static const char *text_at(json_t *object, const char *key) {
    const char *text = json_string_value(json_object_get(object, key));
    if (!text) {
        fail_msg("there is no text \"%s\"", key);
    }
    return text;
}

/* ---- Every command's command line -------------------------------------------------------------- */

typedef void command_check(const char *name, json_t *command);

static void for_each_command(command_check *check) {
    json_t *help = expect_json(WORDS("help", "--json"));
    json_t *commands = json_object_get(help, "commands");
    assert_in_range(json_array_size(commands), 25, 100);
    for (size_t i = 0; i < json_array_size(commands); i++) {
        json_t *command = json_array_get(commands, i);
        if (!json_is_true(json_object_get(command, "hidden"))) {
            check(text_at(command, "name"), command);
        }
    }
    json_decref(help);
}

/* `kelpie` with a word before and one behind a command's name, which may be two; NULL: none. */
static void expect_command(const char *before, const char *name, const char *behind, int code,
                           const char *out, const char *err) {
    const char *words[5] = {0};
    size_t count = 0;
    char text[64];
    snprintf(text, sizeof(text), "%s", name);
    if (before) {
        words[count++] = before;
    }
    words[count++] = text;
    char *space = strchr(text, ' ');
    if (space) {
        *space = 0;
        words[count++] = space + 1;
    }
    words[count] = behind;
    expect(words, code, out, err);
}

static void check_help(const char *name, json_t *command) {
    char pattern[128];
    snprintf(pattern, sizeof(pattern), "^usage: kelpie %s .*--help", name);
    expect_command(NULL, name, "--help", 0, pattern, NULL);
    expect_command("help", name, NULL, 0, pattern, NULL);
    const char *alias = json_string_value(json_object_get(command, "alias"));
    if (alias) {
        expect(WORDS(alias, "--help"), 0, pattern, NULL);
    }
}

static void test_every_command_explains_itself(void **state) {
    (void)state;
    for_each_command(check_help);
}

static void check_unknown_option(const char *name, json_t *command) {
    (void)command;
    char pattern[160];
    snprintf(pattern, sizeof(pattern),
             ONE_ERROR "no option --zebra[^\n]*\nhint: 'kelpie %s --help' [^\n]*\n$", name);
    expect_command(NULL, name, "--zebra", 125, NULL, pattern);
}

static void test_every_command_refuses_an_unknown_option(void **state) {
    (void)state;
    for_each_command(check_unknown_option);
}

static void check_valued_options(const char *name, json_t *command) {
    json_t *options = json_object_get(command, "options");
    for (size_t i = 0; i < json_array_size(options); i++) {
        json_t *option = json_array_get(options, i);
        if (json_is_string(json_object_get(option, "value"))) {
            char word[64];
            char pattern[128];
            snprintf(word, sizeof(word), "--%s", text_at(option, "name"));
            snprintf(pattern, sizeof(pattern), ONE_ERROR "%s: the value [^\n]* is missing\n", word);
            expect_command(NULL, name, word, 125, NULL, pattern);
        }
    }
}

static void test_every_valued_option_misses_its_value(void **state) {
    (void)state;
    for_each_command(check_valued_options);
}

static void test_wrong_words(void **state) {
    (void)state;
    static const struct {
        const char *words[WORDS_MAX];
        const char *err;
    } rows[] = {
        {{"start"}, "a VM's name is missing: kelpie start "},
        {{"stop"}, "a VM's name is missing"},
        {{"kill"}, "a VM's name is missing"},
        {{"restart"}, "a VM's name is missing"},
        {{"pause"}, "a VM's name is missing"},
        {{"resume"}, "a VM's name is missing"},
        {{"rm"}, "a VM's name is missing"},
        {{"rm", "-f"}, "a VM's name is missing"},
        {{"wait"}, "a VM's name is missing"},
        {{"inspect"}, "a VM's name is missing"},
        {{"logs"}, "a VM's name is missing"},
        {{"logs", "a", "b"}, "a word too many: \"b\""},
        {{"logs", "-n", "0", "a"}, "--tail: \"0\" is not a number of 1 or more"},
        {{"ls", "a"}, "a word too many: \"a\""},
        {{"create", "a", "b"}, "a word too many: \"b\""},
        {{"create", "-e", "x"}, "--env: \"x\" is not KEY=VALUE"},
        {{"create", "--label", "x"}, "--label: \"x\" is not KEY=VALUE"},
        {{"create", "-p", "1:2"}, "--publish: there is no network of kind user"},
        {{"create", "--backend", "nosuch"}, "nosuch"},
        {{"create", "--backend", "mock", "--name", "a/b"}, "--name: "},
        {{"cp"}, "is missing: kelpie cp "},
        {{"cp", "a"}, "is missing: kelpie cp "},
        {{"cp", "a", "b"}, "neither side is VM:PATH"},
        {{"cp", "a", "b", "c"}, "a word too many: \"c\""},
        {{"cp", "a", "vm:"}, "\"vm:\": the path is missing"},
        {{"cp", "a", "vm:b"}, "a path in a VM is absolute"},
        {{"cp", "nosuch", "vm:/b"}, "cannot read nosuch: No such file"},
        {{"snapshot"}, "is missing: kelpie snapshot "},
        {{"snapshot", "a"}, "is missing: kelpie snapshot "},
        {{"snapshot", "a", "b", "c"}, "a word too many: \"c\""},
        {{"snapshot", "a", "b", "--kind", "c"},
         "--kind: \"c\" is not suspend, teleport or checkpoint"},
        {{"restore"}, "a snapshot's name is missing"},
        {{"restore", "a", "b", "c"}, "a word too many: \"c\""},
        {{"snapshots", "a"}, "\"rm\" is the only word that can stand here, not a"},
        {{"snapshots", "rm"}, "a snapshot's name is missing"},
        {{"fork"}, "a VM's name is missing"},
        {{"fork", "a", "-n", "1025"}, "--count: 1025 are more than 1024"},
        {{"fork", "a", "-n", "0"}, "--count: \"0\" is not a number"},
        {{"verify"}, "a snapshot's name is missing"},
        {{"prune", "a"}, "a word too many: \"a\""},
        {{"completion"}, "the shell's name is missing"},
        {{"completion", "csh"}, "there is no completion for \"csh\": bash, zsh or fish"},
        {{"stop", "-t", "x", "a"}, "--timeout: \"x\" is not a time"},
        {{"rm", ""}, "a word is empty"},
        {{"stpo", "a"}, "there is no command stpo; did you mean stop\\?"},
        {{"branhc", "a"}, "did you mean branch\\?"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        char pattern[256];
        snprintf(pattern, sizeof(pattern), ONE_ERROR "%s[^\n]*\n(hint: [^\n]*\n)?$", rows[i].err);
        expect(rows[i].words, 125, NULL, pattern);
    }
}

static void test_a_vm_that_is_not_there(void **state) {
    (void)state;
    static const char *const rows[][WORDS_MAX] = {
        {"start", "nosuch"},
        {"stop", "nosuch"},
        {"kill", "nosuch"},
        {"restart", "nosuch"},
        {"pause", "nosuch"},
        {"resume", "nosuch"},
        {"rm", "nosuch"},
        {"rm", "-f", "nosuch"},
        {"wait", "nosuch"},
        {"logs", "nosuch"},
        {"logs", "--console", "nosuch"},
        {"stats", "--no-stream", "nosuch"},
        {"exec", "nosuch", "true"},
        {"attach", "nosuch"},
        {"cp", "nosuch:/a", "b"},
        {"cp", "in.txt", "nosuch:/b"},
        {"snapshot", "nosuch", "snap"},
        {"fork", "nosuch"},
        {"restore", "nosuch"},
        {"snapshots", "rm", "nosuch"},
        {"verify", "nosuch"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        expect(rows[i], 125, NULL, ONE_ERROR "nosuch[^\n]*\n(hint: [^\n]*\n)?$");
    }
    expect(WORDS("inspect", "nosuch"), 125, "^\\[\\]\n$", ONE_ERROR "nosuch");
    expect(WORDS("stop", "nosuch", "neither", "--json"), 125,
           "^\\[\\{\"name\":\"nosuch\",\"error\":\\{\"status\":\"not-found\"", ONE_ERROR "nosuch");
}

static void test_with_nothing_there(void **state) {
    (void)state;
    expect(WORDS("ls"), 0, "^NAME +STATE +BACKEND +IMAGE +AGE +CPUS +MEMORY\n$", NULL);
    expect(WORDS("ls", "-a", "-q"), 0, NULL, NULL);
    expect(WORDS("ls", "--json"), 0, "^\\[\\]\n$", NULL);
    expect(WORDS("stats", "--json"), 0, "^\\[\\]\n$", NULL);
    expect(WORDS("snapshots"), 0, "^NAME +VM +KIND +BACKEND +PARENT +AGE +SIZE +STATUS\n$", NULL);
    expect(WORDS("snapshots", "--json"), 0, "^\\[\\]\n$", NULL);
}

/* ---- States ------------------------------------------------------------------------------------ */

static void create(const char *name) {
    char pattern[96];
    snprintf(pattern, sizeof(pattern), "^%s\n$", name);
    expect(WORDS("create", "--backend", "mock", "--name", name), 0, pattern, NULL);
}

static void start(const char *name) {
    create(name);
    expect(WORDS("start", name), 0, name, NULL);
}

static void remove_vm(const char *name) {
    expect(WORDS("rm", "-f", name), 0, name, NULL);
}

static void test_wrong_states(void **state) {
    (void)state;
    static const struct {
        const char *words[WORDS_MAX];
        const char *err;
    } rows[] = {
        {{"pause", "made"}, "created"},
        {{"resume", "made"}, "created"},
        {{"stop", "made"}, "created"},
        {{"snapshot", "made", "snap"}, "created"},
        {{"fork", "made"}, "created"},
        {{"exec", "made", "true"}, "created"},
        {{"cp", "in.txt", "made:/tmp/x"}, "created"},
        {{"stats", "--no-stream", "--json", "made"}, "created"},
        {{"start", "runs"}, "running"},
        {{"resume", "runs"}, "running"},
        {{"rm", "runs"}, "running"},
        {{"pause", "still"}, "paused"},
        {{"start", "still"}, "paused"},
        {{"exec", "still", "true"}, "paused"},
        {{"rm", "still"}, "paused"},
        {{"wait", "runs"}, "runs"},
        {{"create", "--backend", "mock", "--name", "runs"}, "runs"},
    };
    create("made");
    start("runs");
    start("still");
    expect(WORDS("pause", "still"), 0, "^still\n$", NULL);
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct kelpie_result result = kelpie_run(rows[i].words, NULL);
        char pattern[160];
        snprintf(pattern, sizeof(pattern), ONE_ERROR "%s[^\n]*\n(hint: [^\n]*\n)?$", rows[i].err);
        if (result.code != 125 || !command_matches(result.err, pattern)) {
            fail_words(rows[i].words, &result);
        }
    }
    expect(WORDS("ls", "-a", "--format", "{name} {state}"), 0,
           "^made created\nruns running\nstill paused\n$", NULL);
    expect(WORDS("rm", "-f", "made", "runs", "still"), 0, "^made\nruns\nstill\n$", NULL);
}

static void test_one_of_several_fails(void **state) {
    (void)state;
    start("one");
    start("two");
    expect(WORDS("stop", "one", "nosuch", "two"), 125, "^one\ntwo\n$",
           ONE_ERROR "nosuch[^\n]*\nhint: 'kelpie ls -a'[^\n]*\n$");
    expect(WORDS("stop", "oen"), 125, NULL, "\nhint: did you mean one\\? 'kelpie ls -a'[^\n]*\n$");
    expect(WORDS("exec", "oen", "true"), 125, NULL, "\nhint: did you mean one\\? ");
    expect(WORDS("rm", "one", "two"), 0, "^one\ntwo\n$", NULL);
}

/* ---- Lists ------------------------------------------------------------------------------------- */

static void test_names_are_made_up(void **state) {
    (void)state;
    char *names[3] = {NULL};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        struct kelpie_result result = kelpie_run(WORDS("create", "--backend", "mock"), NULL);
        assert_int_equal(result.code, 0);
        assert_true(command_matches(result.out, "^[a-z]+-[a-z]+\n$"));
        names[i] = kept(result.out);
        names[i][strcspn(names[i], "\n")] = 0;
    }
    assert_string_not_equal(names[0], names[1]);
    assert_string_not_equal(names[1], names[2]);
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        remove_vm(names[i]);
        free(names[i]);
    }
}

static void test_ls_chooses_and_formats(void **state) {
    (void)state;
    expect(WORDS("create", "--backend", "mock", "--name", "a", "--label", "team=red", "--cpus", "2",
                 "--memory", "1G"),
           0, "^a\n$", NULL);
    expect(WORDS("create", "--backend", "mock", "--name", "b", "--label", "team=blue", "--label",
                 "tmp="),
           0, "^b\n$", NULL);
    expect(WORDS("ls", "-q"), 0, NULL, NULL);
    expect(WORDS("ls", "-aq"), 0, "^a\nb\n$", NULL);
    expect(WORDS("ps", "-a"), 0, "\na +created +mock +- +[0-9]+s +2 +1.0GiB\nb ", NULL);
    expect(WORDS("ls", "-aq", "--label", "team"), 0, "^a\nb\n$", NULL);
    expect(WORDS("ls", "-aq", "--label", "team=red"), 0, "^a\n$", NULL);
    expect(WORDS("ls", "-aq", "--label", "team=re"), 0, NULL, NULL);
    expect(WORDS("ls", "-aq", "--label", "team", "--label", "tmp"), 0, "^b\n$", NULL);
    expect(WORDS("ls", "-a", "--format", "{{{name}}}\\t{vcpu_count}"), 0, "^\\{a\\}\t2\n", NULL);
    expect(WORDS("ls", "-a", "--format", "{nosuch}"), 125, NULL,
           ONE_ERROR "--format: there is no field \\{nosuch\\}\n");
    json_t *list = expect_json(WORDS("ls", "-a", "--json"));
    assert_int_equal(json_array_size(list), 2);
    json_t *a = json_array_get(list, 0);
    assert_string_equal(text_at(a, "name"), "a");
    assert_string_equal(text_at(a, "state"), "created");
    assert_string_equal(text_at(json_object_get(a, "labels"), "team"), "red");
    assert_int_equal(json_integer_value(json_object_get(a, "memory_mib")), 1024);
    assert_true(json_is_null(json_object_get(a, "started_unix_ms")));
    json_decref(list);
    expect(WORDS("rm", "a", "b"), 0, "^a\nb\n$", NULL);
}

static void test_an_id_names_a_vm_too(void **state) {
    (void)state;
    json_t *made = expect_json(WORDS("create", "--backend", "mock", "--name", "c", "--json"));
    char id[16];
    snprintf(id, sizeof(id), "%.12s", text_at(made, "id"));
    json_decref(made);
    expect(WORDS("start", id), 0, id, NULL);
    json_t *list = expect_json(WORDS("inspect", id));
    json_t *vm = json_array_get(list, 0);
    assert_string_equal(text_at(vm, "name"), "c");
    assert_string_equal(text_at(json_object_get(vm, "config"), "hostname"), "c");
    assert_true(json_array_size(json_object_get(vm, "capabilities")) > 3);
    json_decref(list);
    expect(WORDS("rm", "-f", id), 0, id, NULL);
}

/* ---- Files and logs ----------------------------------------------------------------------------- */

static void write_file(const char *path, const char *text) {
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void expect_file(const char *path, const char *text) {
    char buffer[64] = "";
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    size_t size = fread(buffer, 1, sizeof(buffer) - 1, file);
    buffer[size] = 0;
    fclose(file);
    assert_string_equal(buffer, text);
}

static void test_files_go_where_docker_would_put_them(void **state) {
    (void)state;
    start("box");
    write_file("a.txt", "from here");
    /* To a name, to a folder, to a folder by its slash. */
    expect(WORDS("cp", "a.txt", "box:/tmp/b.txt"), 0, NULL, NULL);
    expect(WORDS("cp", "a.txt", "box:/tmp"), 0, NULL, NULL);
    expect(WORDS("cp", "./a.txt", "box:/root/"), 0, NULL, NULL);
    expect(WORDS("exec", "box", "cat", "/tmp/b.txt", "/tmp/a.txt", "/root/a.txt"), 0,
           "^from herefrom herefrom here$", NULL);
    expect(WORDS("cp", "box:/tmp/b.txt", "c.txt"), 0, NULL, NULL);
    expect_file("c.txt", "from here");
    assert_int_equal(mkdir("d", 0700), 0);
    expect(WORDS("cp", "box:/tmp/b.txt", "d"), 0, NULL, NULL);
    expect_file("d/b.txt", "from here");
    expect(WORDS("cp", "box:/tmp/a.txt", "d/"), 0, NULL, NULL);
    expect_file("d/a.txt", "from here");
    expect(WORDS("cp", "box:/tmp/b.txt", "nosuch/"), 125, NULL, ONE_ERROR "no folder nosuch/");
    expect(WORDS("cp", "box:/nosuch", "e"), 125, NULL, ONE_ERROR "/nosuch");
    /* Streams. */
    struct kelpie_result result = kelpie_run(WORDS("cp", "-", "box:/tmp/in"), "streamed");
    assert_int_equal(result.code, 0);
    expect(WORDS("cp", "box:/tmp/in", "-"), 0, "^streamed$", NULL);
    expect(WORDS("cp", "-", "box:/tmp"), 125, NULL, ONE_ERROR "give the name too\n");
    /* From one to another. */
    start("other");
    expect(WORDS("cp", "box:/tmp/in", "other:/tmp/in2"), 0, NULL, NULL);
    expect(WORDS("exec", "other", "cat", "/tmp/in2"), 0, "^streamed$", NULL);
    expect(WORDS("rm", "-f", "box", "other"), 0, "", NULL);
}

static void test_folders_go_where_docker_would_put_them(void **state) {
    (void)state;
    start("box");
    assert_int_equal(mkdir("src", 0755), 0);
    assert_int_equal(mkdir("src/sub", 0755), 0);
    write_file("src/sub/b", "below");
    /* To a new name, into a folder, and what is in it. */
    expect(WORDS("cp", "src", "box:/tmp/new"), 0, NULL, NULL);
    expect(WORDS("exec", "box", "cat", "/tmp/new/sub/b"), 0, "^below$", NULL);
    expect(WORDS("cp", "src", "box:/tmp"), 0, NULL, NULL);
    expect(WORDS("exec", "box", "cat", "/tmp/src/sub/b"), 0, "^below$", NULL);
    expect(WORDS("cp", "src/.", "box:/root"), 0, NULL, NULL);
    expect(WORDS("exec", "box", "cat", "/root/sub/b"), 0, "^below$", NULL);
    expect(WORDS("cp", "box:/tmp/new", "copy"), 0, NULL, NULL);
    expect_file("copy/sub/b", "below");
    expect(WORDS("cp", "box:/tmp/new", "src"), 0, NULL, NULL);
    expect_file("src/new/sub/b", "below");
    expect(WORDS("cp", "box:/tmp/new", "src"), 125, NULL, ONE_ERROR "File exists");
    expect(WORDS("cp", "box:/tmp/new", "-"), 125, NULL, ONE_ERROR "/tmp/new is a folder");
    remove_vm("box");
}

static void run_job(const char *name, const char *script) {
    char pattern[96];
    snprintf(pattern, sizeof(pattern), "^%s\n$", name);
    expect(WORDS("run", "-d", "--backend", "mock", "--name", name, "--", "sh", "-c", script), 0,
           pattern, NULL);
}

static void test_logs_and_waiting(void **state) {
    (void)state;
    run_job("both", "echo one; echo bad >&2; echo two");
    expect(WORDS("wait", "both"), 0, "^0\n$", NULL);
    expect(WORDS("logs", "both"), 0, "^one\ntwo\n$", "^bad\n$");
    expect(WORDS("logs", "-n", "100", "both"), 0, "^one\ntwo\n$", "^bad\n$");
    expect(WORDS("logs", "-f", "both"), 0, "^one\ntwo\n$", "^bad\n$");
    remove_vm("both");
    /* One stream: how two of them lie between each other is chance. */
    run_job("job", "echo one; echo two; echo three; exit 7");
    expect(WORDS("wait", "job"), 0, "^7\n$", NULL);
    expect(WORDS("logs", "-n", "1", "job"), 0, "^three\n$", NULL);
    expect(WORDS("logs", "-tn", "2", "job"), 0,
           "^20[0-9-]*T[0-9:.]*Z two\n20[0-9-]*T[0-9:.]*Z three\n$", NULL);
    struct kelpie_result result = kelpie_run(WORDS("logs", "--json", "-n", "1", "job"), NULL);
    json_t *piece = json_loads(result.out, 0, NULL);
    assert_non_null(piece);
    assert_string_equal(text_at(piece, "stream"), "stdout");
    assert_string_equal(text_at(piece, "data"), "three\n");
    assert_int_equal(json_integer_value(json_object_get(piece, "offset")), 8);
    json_decref(piece);
    json_t *waited = expect_json(WORDS("wait", "--json", "job"));
    json_t *exit = json_object_get(json_array_get(waited, 0), "exit");
    assert_int_equal(json_integer_value(json_object_get(exit, "code")), 7);
    json_decref(waited);
    expect(WORDS("ls", "-a"), 0, "job +stopped \\(7\\) ", NULL);
    remove_vm("job");
}

static void test_waiting_for_one_that_runs(void **state) {
    (void)state;
    run_job("slow", "sleep 1; exit 3");
    expect(WORDS("wait", "--timeout", "50ms", "slow"), 125, NULL, ONE_ERROR);
    expect(WORDS("wait", "slow"), 0, "^3\n$", NULL);
    remove_vm("slow");
}

/* ---- A whole life ------------------------------------------------------------------------------- */

static void check_states(const char *name, const char *wanted) {
    char pattern[96];
    snprintf(pattern, sizeof(pattern), "(^|\n)%s %s\n", name, wanted);
    expect(WORDS("ls", "-a", "--format", "{name} {state}"), 0, pattern, NULL);
}

static void fork_and_look(void) {
    json_t *children =
        expect_json(WORDS("fork", "life", "--count", "3", "--name", "kid", "--json"));
    assert_int_equal(json_array_size(children), 3);
    for (size_t i = 0; i < 3; i++) {
        json_t *child = json_array_get(children, i);
        char name[16];
        snprintf(name, sizeof(name), "kid-%zu", i + 1);
        assert_string_equal(text_at(child, "name"), name);
        assert_string_equal(text_at(child, "state"), "running");
        assert_true(json_is_null(json_object_get(child, "error")));
        expect(WORDS("exec", name, "cat", "/tmp/note"), 0, "^noted$", NULL);
    }
    json_decref(children);
    /* Taken names are left out. */
    expect(WORDS("branch", "life", "-n", "2", "--name", "kid"), 0, "^kid-[45]\nkid-[45]\n$", NULL);
    expect(WORDS("fork", "life", "--name", "a/b"), 125, NULL, ONE_ERROR "a/b");
    expect(WORDS("rm", "-f", "kid-1", "kid-2", "kid-3", "kid-4", "kid-5"), 0, "", NULL);
}

static void snapshot_and_restore(void) {
    json_t *snapshot = expect_json(WORDS("snapshot", "life", "point", "--json"));
    assert_string_equal(text_at(snapshot, "kind"), "suspend");
    assert_string_equal(text_at(snapshot, "name"), "point");
    json_decref(snapshot);
    expect(WORDS("snapshot", "life", "point"), 125, NULL, ONE_ERROR "point");
    expect(WORDS("verify", "point"), 0, "^point\n$", NULL);
    json_t *list = expect_json(WORDS("snapshots", "--json"));
    assert_int_equal(json_array_size(list), 1);
    assert_string_equal(text_at(json_array_get(list, 0), "status"), "ok");
    json_decref(list);
    expect(WORDS("exec", "life", "rm", "/tmp/note"), 0, NULL, NULL);
    /* In place: not while it runs, but with -f; and a new one. */
    expect(WORDS("restore", "point", "life"), 125, NULL,
           ONE_ERROR "running[^\n]*\nhint: 'kelpie restore -f'");
    expect(WORDS("restore", "-f", "point", "life"), 0, "^life\n$", NULL);
    expect(WORDS("exec", "life", "cat", "/tmp/note"), 0, "^noted$", NULL);
    expect(WORDS("restore", "-f", "--backend", "mock", "point", "life"), 125, NULL,
           ONE_ERROR "--backend: it is for a new VM");
    expect(WORDS("restore", "--backend", "qemu", "point", "twin"), 125, NULL,
           ONE_ERROR "was made by backend mock");
    expect(WORDS("restore", "--backend", "mock", "point", "twin"), 0, "^twin\n$", NULL);
    expect(WORDS("exec", "twin", "cat", "/tmp/note"), 0, "^noted$", NULL);
    json_t *restored = expect_json(WORDS("restore", "point", "--paused", "--json"));
    assert_string_equal(text_at(restored, "state"), "paused");
    char *name = kept(text_at(restored, "name"));
    json_decref(restored);
    check_states(name, "paused");
    expect(WORDS("rm", "-f", "twin", name), 0, "", NULL);
    free(name);
    expect(WORDS("snapshots", "rm", "point"), 0, "^point\n$", NULL);
    expect(WORDS("snapshots", "-q"), 0, NULL, NULL);
}

static void checkpoint_and_restore(void) {
    expect(WORDS("exec", "life", "mkdir", "/job"), 0, NULL, NULL);
    struct kelpie_result result = kelpie_run(WORDS("cp", "-", "life:/job/file"), "kept");
    assert_int_equal(result.code, 0);
    expect(WORDS("snapshot", "life", "files", "--kind", "checkpoint"), 125, NULL,
           ONE_ERROR "--workspace: ");
    expect(WORDS("snapshot", "life", "files", "--kind", "checkpoint", "--workspace", "/run"), 125,
           NULL, ONE_ERROR "--workspace: ");
    expect(WORDS("snapshot", "life", "files", "--workspace", "/job"), 125, NULL,
           ONE_ERROR "--workspace: ");
    json_t *snapshot = expect_json(
        WORDS("snapshot", "life", "files", "--kind=checkpoint", "--workspace=/job", "--json"));
    assert_string_equal(text_at(snapshot, "kind"), "checkpoint");
    assert_string_equal(text_at(snapshot, "architecture"), "any");
    json_decref(snapshot);
    check_states("life", "running");
    expect(WORDS("verify", "files"), 0, "^files\n$", NULL);
    expect(WORDS("snapshots"), 0, "files +life +checkpoint", NULL);
    expect(WORDS("exec", "life", "rm", "/job/file"), 0, NULL, NULL);
    expect(WORDS("restore", "-f", "files", "life"), 0, "^life\n$", NULL);
    expect(WORDS("exec", "life", "cat", "/job/file"), 0, "^kept$", NULL);
    json_t *restored = expect_json(WORDS("restore", "files", "other", "--json"));
    assert_string_equal(text_at(restored, "state"), "running");
    assert_string_equal(text_at(json_object_get(restored, "restore"), "entropy"), "done");
    json_decref(restored);
    expect(WORDS("exec", "other", "cat", "/job/file"), 0, "^kept$", NULL);
    expect(WORDS("prune", "-a"), 0, "removed nothing", NULL);
    expect(WORDS("rm", "-f", "other"), 0, "", NULL);
    expect(WORDS("snapshots", "rm", "files"), 0, "^files\n$", NULL);
    result = kelpie_run(WORDS("cp", "-", "life:/tmp/note"), "noted"); /* it has booted since */
    assert_int_equal(result.code, 0);
}

static void test_a_whole_life(void **state) {
    (void)state;
    create("life");
    check_states("life", "created");
    expect(WORDS("start", "life"), 0, "^life\n$", NULL);
    check_states("life", "running");
    struct kelpie_result result = kelpie_run(WORDS("cp", "-", "life:/tmp/note"), "noted");
    assert_int_equal(result.code, 0);
    expect(WORDS("exec", "life", "cat", "/tmp/note"), 0, "^noted$", NULL);
    expect(WORDS("pause", "life"), 0, "^life\n$", NULL);
    check_states("life", "paused");
    expect(WORDS("resume", "life"), 0, "^life\n$", NULL);
    json_t *stats = expect_json(WORDS("stats", "--json", "life"));
    assert_true(json_is_null(json_object_get(json_array_get(stats, 0), "error")));
    json_decref(stats);
    expect(WORDS("stats"), 0, "^NAME +CPU +MEMORY +RESIDENT +DISK +COMMANDS +UP\nlife ", NULL);
    fork_and_look();
    snapshot_and_restore();
    checkpoint_and_restore();
    expect(WORDS("restart", "life"), 0, "^life\n$", NULL);
    expect(WORDS("exec", "life", "cat", "/tmp/note"), 1, NULL, "/tmp/note"); /* memory is gone */
    expect(WORDS("kill", "life"), 0, "^life\n$", NULL);
    check_states("life", "stopped");
    expect(WORDS("start", "life"), 0, "^life\n$", NULL);
    expect(WORDS("stop", "-t", "5s", "life"), 0, "^life\n$", NULL);
    expect(WORDS("rm", "life"), 0, "^life\n$", NULL);
    expect(WORDS("ls", "-aq"), 0, NULL, NULL);
}

/* An owner that is killed leaves a VM without one, as does one that ends by itself some seconds later. */
static void kill_owner(const char *name) {
    json_t *list = expect_json(WORDS("inspect", name));
    json_int_t pid = json_integer_value(json_object_get(json_array_get(list, 0), "owner_pid"));
    json_decref(list);
    if (pid > 1) {
        assert_int_equal(kill((pid_t)pid, SIGKILL), 0);
    }
    for (int i = 0; pid > 1 && i < 200; i++) {
        list = expect_json(WORDS("ls", "-a", "--json"));
        pid = json_integer_value(json_object_get(json_array_get(list, 0), "owner_pid"));
        json_decref(list);
    }
    assert_int_equal(pid, 0);
}

static void test_prune_says_what_it_freed(void **state) {
    (void)state;
    create("old");
    start("new");
    kill_owner("old");
    json_t *report = expect_json(WORDS("prune", "--vms", "--dry-run", "--json"));
    assert_int_equal(json_integer_value(json_object_get(report, "vms")), 1);
    json_decref(report);
    expect(WORDS("ls", "-aq"), 0, "^old\nnew\n$", NULL);
    expect(WORDS("prune", "-n", "--vms"), 0, "^would remove 1 VM", NULL);
    expect(WORDS("prune", "--vms"), 0, "^removed 1 VM", NULL);
    expect(WORDS("ls", "-aq"), 0, "^new\n$", NULL);
    remove_vm("new");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_command_explains_itself),
        cmocka_unit_test(test_every_command_refuses_an_unknown_option),
        cmocka_unit_test(test_every_valued_option_misses_its_value),
        cmocka_unit_test(test_wrong_words),
        cmocka_unit_test(test_a_vm_that_is_not_there),
        cmocka_unit_test(test_with_nothing_there),
        cmocka_unit_test(test_wrong_states),
        cmocka_unit_test(test_one_of_several_fails),
        cmocka_unit_test(test_names_are_made_up),
        cmocka_unit_test(test_ls_chooses_and_formats),
        cmocka_unit_test(test_an_id_names_a_vm_too),
        cmocka_unit_test(test_files_go_where_docker_would_put_them),
        cmocka_unit_test(test_folders_go_where_docker_would_put_them),
        cmocka_unit_test(test_logs_and_waiting),
        cmocka_unit_test(test_waiting_for_one_that_runs),
        cmocka_unit_test(test_a_whole_life),
        cmocka_unit_test(test_prune_says_what_it_freed),
    };
    return cmocka_run_group_tests_name("e2e/verbs", tests, create_home, remove_home);
}
