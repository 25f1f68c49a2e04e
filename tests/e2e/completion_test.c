/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What shells complete, asked of the shells themselves; one that is not here is skipped aloud. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "../support/command.h"
#include "../support/kelpie.h"
#include "base/assert.h"

#define WORDS_MAX 8

static int create_home(void **state) {
    (void)state;
    kelpie_home_create();
    char path[8192];
    char folder[300];
    snprintf(folder, sizeof(folder), "%s", kelpie_program());
    *strrchr(folder, '/') = 0;
    const char *old = getenv("PATH");
    snprintf(path, sizeof(path), "%s:%s", folder, old ? old : "");
    setenv("PATH", path, 1);
    setenv("HOME", getenv("TMPDIR"), 1); /* fish keeps things there */
    static const char *const names[] = {"web", "worker"};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        struct kelpie_result result =
            kelpie_run(WORDS("create", "--backend", "mock", "--name", names[i]), NULL);
        assert_int_equal(result.code, 0);
        result = kelpie_run(WORDS("start", names[i]), NULL);
        assert_int_equal(result.code, 0);
    }
    char tree[300];
    snprintf(tree, sizeof(tree), "%s/tree", getenv("TMPDIR"));
    assert_int_equal(mkdir(tree, 0700), 0);
    struct kelpie_result result = kelpie_run(WORDS("image", "build", "root", "--dir", tree), NULL);
    assert_int_equal(result.code, 0);
    result = kelpie_run(WORDS("snapshot", "web", "point"), NULL);
    assert_int_equal(result.code, 0);
    return 0;
}

static int remove_home(void **state) {
    (void)state;
    return kelpie_home_remove();
}

static void need_shell(const char *name) {
    struct kelpie_result result =
        kelpie_run_program(WORDS("sh", "-c", "command -v \"$1\"", "sh", name), NULL);
    if (result.code != 0) {
        print_message("there is no %s here\n", name);
        skip();
    }
}

static void expect(const struct kelpie_result *result, const char *what, const char *pattern) {
    if (result->code != 0 || !command_matches(result->out, pattern) || result->err[0] != 0) {
        fail_msg("%s: code %d, out: %s, err: %s", what, result->code, result->out, result->err);
    }
}

/* What is typed behind `kelpie`, the last word completed, and what is offered, a line each. */
static const struct {
    const char *words[WORDS_MAX];
    const char *bash;
    const char *fish; /* NULL: as bash */
} rows[] = {
    {{"sto"}, "^stop\n$", "^stop\t"},
    {{"bran"}, "^branch\n$", "^branch\t"},
    {{"superv"}, "^\n?$", "^$"},
    {{"ls", "--fo"}, "^--format\n$", "^--format\t"},
    {{"create", "--backend", "mo"}, "^mock\n$", "^mock\t"},
    {{"create", "--mem"}, "^--memory\n$", "^--memory\t"}, /* of an included table */
    {{"snapshot", "--kind", ""},
     "^suspend\nteleport\ncheckpoint\n$",
     "^checkpoint\t.*\nsuspend\t.*\nteleport\t"},
    {{"stop", ""}, "^web\nworker\n$", NULL},
    {{"stop", "web", "wo"}, "^worker\n$", NULL},
    {{"stop", "-t", "5s", "we"}, "^web\n$", NULL},
    {{"snapshot", "wor"}, "^worker\n$", NULL},
    {{"restore", ""}, "^point\n$", "(^|\n)point\n"},
    {{"cp", "we"}, "^web:\n$", NULL},
    {{"snapshots", ""}, "^rm\n$", "^rm"},
    {{"snapshots", "rm", ""}, "^point\n$", "^point\n$"},
    {{"image", ""}, "^build\nls\nrm\ninspect\n$", "^build\t.*\ninspect\t.*\nls\t.*\nrm\t"},
    {{"image", "ins"}, "^inspect\n$", "^inspect\t"},
    {{"image", "rm", ""}, "^root\n$", NULL},
    {{"image", "rm", "root", "ro"}, "^root\n$", NULL},
    {{"image", "build", "--ma"}, "^--max-size\n$", "^--max-size\t"},
    {{"image", "build", "x", "--tar", "/dev/nul"}, "^/dev/null\n$", NULL},
    {{"image", "ls", "--q"}, "^--quiet\n$", "^--quiet\t"},
    {{"image", "nothing", ""}, "^\n?$", "^$"},
    {{"help", "resto"}, "^restore\n$", "^restore"},
    {{"completion", "f"}, "^fish\n$", "^fish"},
};

static void test_bash(void **state) {
    (void)state;
    need_shell("bash");
    static const char script[] =
        "set -u; source <(kelpie completion bash) && complete -p kelpie >/dev/null || exit 1\n"
        "COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); _kelpie; printf '%s\\n' "
        "\"${COMPREPLY[@]}\"\n";
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        const char *argv[WORDS_MAX + 8] = {"bash", "-c", script, "bash", "kelpie"};
        for (size_t j = 0; rows[i].words[j]; j++) {
            argv[5 + j] = rows[i].words[j];
        }
        struct kelpie_result result = kelpie_run_program(argv, NULL);
        expect(&result, rows[i].words[0], rows[i].bash);
    }
}

/* bash makes three words of --backend=mo. */
static void test_bash_behind_an_equals_sign(void **state) {
    (void)state;
    need_shell("bash");
    static const char script[] = "source <(kelpie completion bash); COMP_WORDS=(kelpie create "
                                 "--backend = mo); COMP_CWORD=4\n"
                                 "_kelpie; printf '%s\\n' \"${COMPREPLY[@]}\"\n";
    struct kelpie_result result = kelpie_run_program(WORDS("bash", "-c", script), NULL);
    expect(&result, "--backend=mo", "^mock\n$");
}

static void test_fish(void **state) {
    (void)state;
    need_shell("fish");
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        char line[128] = "kelpie";
        for (size_t j = 0; rows[i].words[j]; j++) {
            size_t used = strlen(line);
            snprintf(line + used, sizeof(line) - used, " %s", rows[i].words[j]);
        }
        static const char script[] = "kelpie completion fish | source; complete -C $argv[1]";
        struct kelpie_result result =
            kelpie_run_program(WORDS("fish", "--no-config", "-c", script, line), NULL);
        expect(&result, line, rows[i].fish ? rows[i].fish : rows[i].bash);
    }
}

/* zsh completes only what is typed at it: a shell on a terminal of zsh's own, whose Tab has to make these lines right. */
static void test_zsh(void **state) {
    (void)state;
    need_shell("zsh");
    static const char script[] =
        "zmodload zsh/zpty || exit 1\n"
        "zpty shell zsh -f -i\n"
        "await() { # TEXT\n"
        "    local text='' piece='' end=$((SECONDS + 30))\n"
        "    while [[ $text != *$1* ]]; do\n"
        "        if zpty -rt shell piece; then text+=$piece; else sleep 0.02; fi\n"
        "        ((SECONDS > end)) && { print -r -- \"no $1 in $text\"; exit 1 }\n"
        "    done\n"
        "}\n"
        "zpty -w shell 'autoload -Uz compinit; compinit -u -D; source <(kelpie completion zsh); "
        "print RE''ADY'\n"
        "await READY\n"
        "zpty -w shell $'kelpie restar\\t --help'; await 'usage: kelpie restart'\n"
        "zpty -w shell $'kelpie inspect wor\\t'; await '\"name\":\"worker\"'\n"
        "zpty -w shell $'kelpie ls --forma\\t\"<{name}>\"'; await '<web>'\n"
        "zpty -w shell $'kelpie create --backend mo\\t --name zed'; await 'zed'\n"
        "zpty -w shell $'kelpie verify poi\\t && print DO\\'\\'NE'; await DONE\n"
        "zpty -w shell $'kelpie snapshots r\\tpoi\\t && print GO\\'\\'NE'; await GONE\n"
        "zpty -w shell $'kelpie image insp\tro\t && print IMA\'\'GE'; await IMAGE\n"
        "zpty -w shell $'kelpie image build --he\t'; await 'usage: kelpie image build'\n"
        "zpty -d shell; print complete\n";
    struct kelpie_result result = kelpie_run_program(WORDS("zsh", "-f", "-c", script), NULL);
    expect(&result, "zsh", "complete\n$");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bash),
        cmocka_unit_test(test_bash_behind_an_equals_sign),
        cmocka_unit_test(test_fish),
        cmocka_unit_test(test_zsh),
    };
    return cmocka_run_group_tests_name("e2e/completion", tests, create_home, remove_home);
}
