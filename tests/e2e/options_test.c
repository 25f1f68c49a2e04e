/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The command line, from outside: each option works, each bad value is refused in one line that names it,
 * with exit code 125, nothing on standard output and nothing left behind. On the mock backend. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "../support/command.h"
#include "base/assert.h"

#define WORDS_MAX 24
#define RUN "kelpie", "run", "--backend", "mock"
#define ONE_LINE "^kelpie: [^\n]*"

/* A NULL pattern asks for nothing at all. */
struct row {
    const char *name;
    const char *argv[WORDS_MAX];
    const char *input;
    int code;
    const char *out; /* extended regular expressions */
    const char *err;
};

static const struct row rows[] = {
    /* ---- every option ---- */
    {"help", {"kelpie", "help"}, NULL, 0, "run.*doctor.*version.*help", NULL},
    {"help_option", {"kelpie", "--help"}, NULL, 0, "usage: kelpie COMMAND", NULL},
    {"help_of_run", {"kelpie", "help", "run"}, NULL, 0, "--memory SIZE .*--snapshot DIR", NULL},
    {"run_help", {"kelpie", "run", "--help"}, NULL, 0, "^usage: kelpie run .*--timeout TIME", NULL},
    {"run_h", {"kelpie", "run", "-h"}, NULL, 0, "^usage: kelpie run ", NULL},
    {"version", {"kelpie", "version"}, NULL, 0, "^kelpie [0-9]+\\.[0-9]+\\.[0-9]+\n$", NULL},
    {"version_option", {"kelpie", "--version"}, NULL, 0, "^kelpie [0-9.]+\n$", NULL},
    {"version_json",
     {"kelpie", "version", "--json"},
     NULL,
     0,
     "^\\{\"version\":\"[0-9.]+\"\\}\n$",
     NULL},
    {"plain", {RUN, "--", "echo", "hello", "world"}, NULL, 0, "^hello world\n$", NULL},
    {"no_dashes", {RUN, "echo", "-n", "x"}, NULL, 0, "^x$", NULL},
    {"backend_with_equals",
     {"kelpie", "run", "--backend=mock", "--", "echo", "x"},
     NULL,
     0,
     "^x\n$",
     NULL},
    {"cpus", {RUN, "--cpus", "2", "--", "true"}, NULL, 0, NULL, NULL},
    {"net_none", {RUN, "--net", "none", "--", "true"}, NULL, 0, NULL, NULL},
    {"net_of_the_mock",
     {RUN, "--net", "user,loopback", "-p", "80:80", "-p", "80:80/udp", "--", "true"},
     NULL,
     125,
     NULL,
     ONE_LINE "--net: backend mock has no network"},
    {"memory_mib", {RUN, "--memory", "512", "--", "true"}, NULL, 0, NULL, NULL},
    {"memory_m", {RUN, "--memory=512M", "--", "true"}, NULL, 0, NULL, NULL},
    {"memory_g", {RUN, "--memory", "1G", "--", "true"}, NULL, 0, NULL, NULL},
    {"env",
     {RUN, "-e", "A=1", "--env=B=2", "-eC=3=4", "--", "env"},
     NULL,
     0,
     "A=1\nB=2\nC=3=4\n",
     NULL},
    {"workdir", {RUN, "-w", "/tmp", "--", "pwd"}, NULL, 0, "^/tmp\n$", NULL},
    {"workdir_long", {RUN, "--workdir", "/tmp", "--", "pwd"}, NULL, 0, "^/tmp\n$", NULL},
    {"user", {RUN, "--user", "1000", "--", "id"}, NULL, 0, "uid=1000 gid=1000", NULL},
    {"user_and_group", {RUN, "--user", "1000:50", "--", "id"}, NULL, 0, "uid=1000 gid=50", NULL},
    {"hostname", {RUN, "--hostname", "box", "--", "hostname"}, NULL, 0, "^box\n$", NULL},
    {"name", {RUN, "--name", "crate", "--", "hostname"}, NULL, 0, "^crate\n$", NULL},
    {"timeout_not_reached", {RUN, "--timeout", "1m", "--", "echo", "x"}, NULL, 0, "^x\n$", NULL},
    {"options_end", {RUN, "--", "echo", "--json"}, NULL, 0, "^--json\n$", NULL},

    /* ---- bad words ---- */
    {"nothing", {"kelpie"}, NULL, 125, NULL, "^usage: kelpie COMMAND"},
    {"unknown_command",
     {"kelpie", "rnu"},
     NULL,
     125,
     NULL,
     ONE_LINE "no command rnu; did you mean run\\?"},
    {"far_command", {"kelpie", "frobnicate"}, NULL, 125, NULL, ONE_LINE "no command frobnicate\n"},
    {"help_of_unknown", {"kelpie", "help", "dcotor"}, NULL, 125, NULL, ONE_LINE "mean doctor\\?"},
    {"help_too_many", {"kelpie", "help", "run", "run"}, NULL, 125, NULL, ONE_LINE "word too many"},
    {"version_operand", {"kelpie", "version", "x"}, NULL, 125, NULL, ONE_LINE "too many: \"x\""},
    {"doctor_operand", {"kelpie", "doctor", "x"}, NULL, 125, NULL, ONE_LINE "too many: \"x\""},
    {"unknown_option",
     {RUN, "--memroy", "1", "x"},
     NULL,
     125,
     NULL,
     ONE_LINE "did you mean --memory\\?"},
    {"unknown_letter", {RUN, "-x", "--", "x"}, NULL, 125, NULL, ONE_LINE "no option -x"},
    {"unknown_in_group", {RUN, "-iq", "--", "x"}, NULL, 125, NULL, ONE_LINE "no option -q"},
    {"flag_with_value",
     {RUN, "--json=yes", "--", "x"},
     NULL,
     125,
     NULL,
     ONE_LINE "--json: takes no value"},
    {"value_missing",
     {RUN, "--memory"},
     NULL,
     125,
     NULL,
     ONE_LINE "--memory: the value SIZE is missing"},
    {"letter_value_missing", {RUN, "-e"}, NULL, 125, NULL, ONE_LINE "--env: .* missing"},
    {"no_command", {RUN}, NULL, 125, NULL, ONE_LINE "no command"},
    {"no_command_after_dashes", {RUN, "--"}, NULL, 125, NULL, ONE_LINE "no command"},
    {"empty_command", {RUN, "--", ""}, NULL, 125, NULL, ONE_LINE "name is empty"},

    /* ---- bad values: each names its option ---- */
    {"bad_backend",
     {"kelpie", "run", "--backend", "nosuch", "x"},
     NULL,
     125,
     NULL,
     ONE_LINE "nosuch"},
    {"empty_backend",
     {"kelpie", "run", "--backend=", "x"},
     NULL,
     125,
     NULL,
     ONE_LINE "--backend: .*empty"},
    {"bad_cpus", {RUN, "--cpus", "two", "x"}, NULL, 125, NULL, ONE_LINE "--cpus: \"two\""},
    {"zero_cpus", {RUN, "--cpus", "0", "x"}, NULL, 125, NULL, ONE_LINE "--cpus: \"0\""},
    {"negative_cpus", {RUN, "--cpus", "-1", "x"}, NULL, 125, NULL, ONE_LINE "--cpus: \"-1\""},
    {"many_cpus", {RUN, "--cpus", "33", "x"}, NULL, 125, NULL, ONE_LINE "--cpus: .*33.*1 to 32"},
    {"huge_cpus",
     {RUN, "--cpus", "99999999999999999999", "x"},
     NULL,
     125,
     NULL,
     ONE_LINE "--cpus: "},
    {"bad_memory", {RUN, "--memory", "12x", "x"}, NULL, 125, NULL, ONE_LINE "--memory: \"12x\""},
    {"empty_memory", {RUN, "--memory", "", "x"}, NULL, 125, NULL, ONE_LINE "--memory: \"\""},
    {"unit_only", {RUN, "--memory", "M", "x"}, NULL, 125, NULL, ONE_LINE "--memory: \"M\""},
    {"fraction_memory", {RUN, "--memory", "1.5G", "x"}, NULL, 125, NULL, ONE_LINE "--memory: "},
    {"small_memory",
     {RUN, "--memory", "63", "x"},
     NULL,
     125,
     NULL,
     ONE_LINE "--memory: .*63.*64 to"},
    {"large_memory", {RUN, "--memory", "65G", "x"}, NULL, 125, NULL, ONE_LINE "--memory: .*65536"},
    {"overflowing_memory",
     {RUN, "--memory", "4194304G", "x"},
     NULL,
     125,
     NULL,
     ONE_LINE "--memory: "},
    {"bad_env", {RUN, "-e", "NOVALUE", "x"}, NULL, 125, NULL, ONE_LINE "--env: \"NOVALUE\""},
    {"env_without_key", {RUN, "-e", "=x", "x"}, NULL, 125, NULL, ONE_LINE "--env: \"=x\""},
    {"relative_workdir", {RUN, "-w", "tmp", "x"}, NULL, 125, NULL, ONE_LINE "--workdir: .*\"tmp\""},
    {"bad_user", {RUN, "--user", "root", "x"}, NULL, 125, NULL, ONE_LINE "--user: \"root\""},
    {"bad_group", {RUN, "--user", "0:", "x"}, NULL, 125, NULL, ONE_LINE "--user: \"0:\""},
    {"no_user", {RUN, "--user", "4294967295", "x"}, NULL, 125, NULL, ONE_LINE "--user: "},
    {"bad_timeout",
     {RUN, "--timeout", "soon", "x"},
     NULL,
     125,
     NULL,
     ONE_LINE "--timeout: \"soon\""},
    {"zero_timeout", {RUN, "--timeout", "0s", "x"}, NULL, 125, NULL, ONE_LINE "--timeout: \"0s\""},
    {"long_timeout",
     {RUN, "--timeout", "25h", "x"},
     NULL,
     125,
     NULL,
     ONE_LINE "--timeout: .*a day"},
    {"bad_name", {RUN, "--name", "a b", "x"}, NULL, 125, NULL, ONE_LINE "--name: .*\"a b\""},
    {"bad_hostname", {RUN, "--hostname", "-x", "x"}, NULL, 125, NULL, ONE_LINE "--hostname: "},
    {"disk_without_path", {RUN, "--disk", ":ro", "x"}, NULL, 125, NULL, ONE_LINE "--disk: .*empty"},
    {"disk_two_modes",
     {RUN, "--disk", "d:ro:rw", "x"},
     NULL,
     125,
     NULL,
     ONE_LINE "--disk: .*twice"},
    {"disk_two_mounts",
     {RUN, "--disk", "d:/a:/b", "x"},
     NULL,
     125,
     NULL,
     ONE_LINE "--disk: two folders"},
    {"nine_disks",
     {RUN, "--disk", "a", "--disk", "a", "--disk", "a", "--disk", "a", "--disk", "a", "--disk", "a",
      "--disk", "a", "--disk", "a", "--disk=a", "x"},
     NULL,
     125,
     NULL,
     ONE_LINE "--disk: .*8 times"},
    {"net_of_no_kind", {RUN, "--net", "wifi", "x"}, NULL, 125, NULL, ONE_LINE "--net: \"wifi\""},
    {"net_without_tap", {RUN, "--net", "tap:", "x"}, NULL, 125, NULL, ONE_LINE "--net: .*tap"},
    {"publish_one_port",
     {RUN, "--net", "user", "-p", "80", "x"},
     NULL,
     125,
     NULL,
     ONE_LINE "--publish: \"80\""},
    {"publish_a_port_too_high",
     {RUN, "--net", "user", "-p", "65536:80", "x"},
     NULL,
     125,
     NULL,
     ONE_LINE "--publish: \"65536:80\""},
    {"publish_port_zero",
     {RUN, "--net", "user", "-p", "80:0", "x"},
     NULL,
     125,
     NULL,
     ONE_LINE "--publish: \"80:0\""},
    {"publish_no_protocol",
     {RUN, "--net", "user", "-p", "80:80/sctp", "x"},
     NULL,
     125,
     NULL,
     ONE_LINE "--publish: "},
    {"publish_twice",
     {RUN, "--net", "user", "-p", "80:1", "-p80:2/tcp", "x"},
     NULL,
     125,
     NULL,
     ONE_LINE "--net: .*forwards\\[1\\].*80"},
    {"tty_without_terminal",
     {RUN, "-it", "--", "x"},
     NULL,
     125,
     NULL,
     ONE_LINE "--tty: .*terminal"},

    /* ---- words that do not fit together ---- */
    {"publish_alone", {RUN, "-p", "80:80", "x"}, NULL, 125, NULL, ONE_LINE "--publish: .*--net"},
    {"publish_on_a_tap",
     {RUN, "--net", "tap:a", "-p", "80:80", "x"},
     NULL,
     125,
     NULL,
     ONE_LINE "--publish: .*--net"},
    {"verify_alone", {RUN, "--verify", "x"}, NULL, 125, NULL, ONE_LINE "--verify: .*--from"},
    {"allow_alone",
     {RUN, "--allow-incomplete", "x"},
     NULL,
     125,
     NULL,
     ONE_LINE "--allow-incomplete: "},
    {"after_alone",
     {RUN, "--snapshot-after", "1s", "x"},
     NULL,
     125,
     NULL,
     ONE_LINE "--snapshot-after: "},
    {"after_without_command",
     {RUN, "--snapshot", "s", "--snapshot-after", "1s"},
     NULL,
     125,
     NULL,
     ONE_LINE "--snapshot-after: "},
    {"from_with_cpus",
     {RUN, "--from", "d", "--cpus", "1", "x"},
     NULL,
     125,
     NULL,
     ONE_LINE "--cpus: .*bundle"},
    {"from_with_memory",
     {RUN, "--from", "d", "--memory", "64", "x"},
     NULL,
     125,
     NULL,
     ONE_LINE "--memory: "},
    {"from_with_disk",
     {RUN, "--from", "d", "--disk", "d", "x"},
     NULL,
     125,
     NULL,
     ONE_LINE "--disk: "},
    {"from_with_kernel",
     {RUN, "--from", "d", "--kernel", "k", "x"},
     NULL,
     125,
     NULL,
     ONE_LINE "--kernel: "},
    {"timeout_of_nothing",
     {RUN, "--snapshot", "d", "--timeout", "1s"},
     NULL,
     125,
     NULL,
     ONE_LINE "--timeout: "},
    {"stdin_of_nothing",
     {RUN, "--snapshot", "d", "-i"},
     NULL,
     125,
     NULL,
     ONE_LINE "--interactive: "},
    {"user_of_nothing",
     {RUN, "--snapshot", "d", "--user", "1"},
     NULL,
     125,
     NULL,
     ONE_LINE "--user: "},
    {"from_nowhere", {RUN, "--from", "nosuch", "--", "x"}, NULL, 125, NULL, ONE_LINE "nosuch"},
};

static size_t line_count(const char *text) {
    size_t count = 0;
    for (; *text; text++) {
        count += *text == '\n';
    }
    return count;
}

/* One line, and perhaps a hint; the usage of `kelpie` alone is longer. */
static void check_message(const struct row *row, const char *err) {
    if (row->code != 125 || strncmp(err, "usage:", 6) == 0) {
        return;
    }
    size_t lines = line_count(err);
    assert_true(lines == 1 || (lines == 2 && strstr(err, "\nhint: ")));
}

static void test_row(void **state) {
    const struct row *row = *state;
    struct command_result result =
        command_run(&(struct command_spec){.argv = row->argv, .input = row->input});
    bool right = result.code == row->code && !result.signaled &&
                 command_matches(result.out, row->out ? row->out : "^$") &&
                 command_matches(result.err, row->err ? row->err : "^$");
    if (!right) {
        fail_msg("%s: code %d, wanted %d; out: %s; err: %s", row->name, result.code, row->code,
                 result.out, result.err);
    }
    check_message(row, result.err);
    assert_string_equal(result.files_left, "");
    assert_int_equal(result.processes_left, 0);
    command_result_free(&result);
}

int main(void) {
    static struct CMUnitTest tests[ARRAY_SIZE(rows)];
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        tests[i] = (struct CMUnitTest){
            .name = rows[i].name,
            .test_func = test_row,
            .initial_state = (void *)(uintptr_t)&rows[i],
        };
    }
    return cmocka_run_group_tests_name("kelpie's options", tests, NULL, NULL);
}
