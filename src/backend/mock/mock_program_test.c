/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What the programs and the shell's own commands do, and say to what they do not take. */
#include <stdio.h>

#include "backend/mock/mock_harness_test.h"
#include "base/assert.h"

static void expect_all(const struct harness_line *lines, size_t count) {
    for (size_t i = 0; i < count; i++) {
        harness_expect(&lines[i]);
    }
}
#define EXPECT_ALL(lines) expect_all(lines, ARRAY_SIZE(lines))

#define ENV "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nHOME=/root\n"

/* ---- Programs --------------------------------------------------------------------------------- */

static const struct harness_line output_lines[] = {
    {"/bin/true", 0, "", ""},
    {"/bin/false", 1, "", ""},
    {"/bin/echo", 0, "\n", ""},
    {"env", 0, ENV, ""},
    {"A=1 env", 0, ENV "A=1\n", ""},
    {"export A=1; B=2 env", 0, ENV "A=1\nB=2\n", ""},
    {"seq 3", 0, "1\n2\n3\n", ""},
    {"seq 2 3", 0, "2\n3\n", ""},
    {"seq 3 2", 0, "", ""},
    {"seq", 1, "", "Usage: seq [FIRST] LAST\n"},
    {"seq x", 1, "", NULL},
    {"seq x 2", 1, "", NULL},
    {"seq 1 x", 1, "", NULL},
    {"seq 1 2 3", 1, "", NULL},
    {"seq -1", 1, "", NULL},
    {"seq -1 2", 1, "", NULL},
    {"count 2", 0, "1\n2\n", ""},
    {"count 2 0.001", 0, "1\n2\n", ""},
    {"count 0 1", 0, "", ""},
    {"count x", 1, "", "Usage: count [N] [SECONDS]\n"},
    {"count -1", 1, "", NULL},
    {"count 1 x", 1, "", NULL},
    {"pwd", 0, "/\n", ""},
    {"hostname", 0, "localhost\n", ""},
    {"id -u", 0, "0\n", ""},
    {"id -g", 0, "0\n", ""},
    {"id", 0, "uid=0 gid=0\n", ""},
    {"tty", 1, "not a tty\n", ""},
    {"stty", 1, "", "Usage: stty size\n"},
    {"stty size", 1, "", "stty: standard input: Inappropriate ioctl for device\n"},
    {"sleep", 1, "", "Usage: sleep SECONDS\n"},
    {"sleep x", 1, "", NULL},
    {"sleep ''", 1, "", NULL},
    {"sleep 1e5", 1, "", NULL},
    {"seq ' 1'", 1, "", NULL},
    {"seq ''", 1, "", NULL},
    {"seq 1x", 1, "", NULL},
    {"seq 99999999999999999999", 1, "", NULL},
    {"sleep .", 1, "", NULL},
    {"sleep -1", 1, "", NULL},
    {"sleep 1.2.3", 1, "", NULL},
    {"sleep 1000000001", 1, "", NULL},
    {"sleep 0x1", 1, "", NULL},
    {"sleep 0.01", 0, "", ""},
    {"date", 1, "", "Usage: date +%s|+%s.%N\n"},
    {"date +%Y", 1, "", NULL},
    {"date +%s > /tmp/d; wc -c < /tmp/d", 0, "2\n", ""},
    {"date +%s.%N > /tmp/d; wc -c < /tmp/d", 0, "12\n", ""},
    {"adjtimex > /tmp/d; test -s /tmp/d", 0, "", ""},
};

static const struct harness_line input_lines[] = {
    {"write /tmp/a one; write /tmp/b two; cat /tmp/a /tmp/b", 0, "onetwo", ""},
    {"write /tmp/a one; cat - < /tmp/a", 0, "one", ""},
    {"cat /nope", 1, "", "cat: /nope: No such file or directory\n"},
    {"cat /tmp", 1, "", "cat: /tmp: Is a directory\n"},
    {"cat /bin/cat/x", 1, "", "cat: /bin/cat/x: Not a directory\n"},
    {"cat /dev/null", 0, "", ""},
    {"write /tmp/a abc; head -c 2 /tmp/a", 0, "ab", ""},
    {"write /tmp/a abc; head -c 9 /tmp/a", 0, "abc", ""},
    {"head -c 0 /dev/zero", 0, "", ""},
    {"head -c 20000 /dev/urandom > /tmp/r; wc -c /tmp/r", 0, "20000 /tmp/r\n", ""},
    {"head", 1, "", "Usage: head -c N [FILE]\n"},
    {"head -n 1", 1, "", NULL},
    {"head -c", 1, "", NULL},
    {"head -c x", 1, "", NULL},
    {"head -c -1", 1, "", NULL},
    {"head -c 1 /nope", 1, "", "head: /nope: No such file or directory\n"},
    {"dd if=/dev/zero bs=100 count=2 > /tmp/z; wc -c /tmp/z", 0, "200 /tmp/z\n", ""},
    {"write /tmp/a abc; dd if=/tmp/a", 0, "abc", ""},
    {"dd of=/tmp/a", 1, "", "Usage: dd [if=FILE] [bs=N] [count=N]\n"},
    {"dd bs=x", 1, "", NULL},
    {"dd bs=0", 1, "", NULL},
    {"dd count=x", 1, "", NULL},
    {"dd count=-1", 1, "", NULL},
    {"dd x count=1", 1, "", NULL},
    {"dd count=x bs=1", 1, "", NULL},
    {"dd bs=9000000000000000000 count=9000000000000000000", 1, "", NULL},
    {"dd if=/nope", 1, "", "dd: /nope: No such file or directory\n"},
    {"write /tmp/a abc; wc -c < /tmp/a", 0, "3\n", ""},
    {"write /tmp/a abc; wc -c /tmp/a", 0, "3 /tmp/a\n", ""},
    {"wc", 1, "", "Usage: wc -c [FILE]\n"},
    {"wc -l", 1, "", NULL},
    {"wc -c /nope", 1, "", "wc: /nope: No such file or directory\n"},
    {"wc -c < /tmp", 1, "", "wc: stdin: Is a directory\n"},
    {"sh < /tmp", 2, "", "sh: can't open 'stdin'\n"},
};

static const struct harness_line file_lines[] = {
    {"cd /tmp; touch b a; touch a; mkdir c; touch c/d; ls", 0, "a\nb\nc\n", ""},
    {"cd /tmp; touch a; ls a", 0, "a\n", ""},
    {"cd /tmp; mkdir c; touch c/d; ls c; ls /tmp/c/d", 0, "d\n/tmp/c/d\n", ""},
    {"cd /tmp; mkdir c; ls c", 0, "", ""},
    {"ls .", 0, "bin\ndev\netc\nproc\nroot\nrun\nsys\ntmp\nusr\nvar\n", ""},
    {"ls /nope", 1, "", "ls: /nope: No such file or directory\n"},
    {"mkdir", 1, "", "Usage: mkdir PATH\n"},
    {"mkdir /tmp", 1, "", "mkdir: /tmp: File exists\n"},
    {"mkdir /nope/x", 1, "", "mkdir: /nope/x: No such file or directory\n"},
    {"rm", 1, "", "Usage: rm PATH\n"},
    {"rm -f", 1, "", "Usage: rm PATH\n"},
    {"rm /nope", 1, "", "rm: /nope: No such file or directory\n"},
    {"rm -f /nope", 0, "", ""},
    {"rm /tmp", 1, "", "rm: /tmp: Is a directory\n"},
    {"rm -f /tmp", 1, "", "rm: /tmp: Is a directory\n"},
    {"touch /tmp/a; rm /tmp/a; ls /tmp", 0, "", ""},
    {"rmdir /nope", 1, "", "rmdir: /nope: No such file or directory\n"},
    {"touch /tmp/a; rmdir /tmp/a", 1, "", "rmdir: /tmp/a: Not a directory\n"},
    {"touch /tmp/a; rmdir /tmp", 1, "", "rmdir: /tmp: Directory not empty\n"},
    {"mkdir /tmp/a; rmdir /tmp/a; ls /tmp", 0, "", ""},
    {"touch /tmp", 1, "", "touch: /tmp: Is a directory\n"},
    {"write", 1, "", "Usage: write PATH TEXT\n"},
    {"write /tmp/a", 1, "", NULL},
    {"write /tmp x", 1, "", "write: /tmp: Is a directory\n"},
    {"write /nope/a x", 1, "", "write: /nope/a: No such file or directory\n"},
    {"write /dev/null x", 0, "", ""},
    {"write /tmp/a long; write /tmp/a s; cat /tmp/a", 0, "s", ""},
    {"cd /tmp; mkdir d; cd d; touch ../x; cd ..; ls; cd ./d/../../; pwd", 0, "d\nx\n/\n", ""},
};

static void test_programs(void **state) {
    (void)state;
    EXPECT_ALL(output_lines);
    EXPECT_ALL(input_lines);
    EXPECT_ALL(file_lines);
}

/* ---- test ------------------------------------------------------------------------------------- */

/* The condition, and what it says: 0 it holds, 1 it does not, 2 it is none. */
static const struct {
    const char *text;
    uint32_t code;
} conditions[] = {
    {"", 1},
    {"x", 0},
    {"''", 1},
    {"!", 0},
    {"! x", 1},
    {"! ''", 0},
    {"-n x", 0},
    {"-n ''", 1},
    {"-z x", 1},
    {"-z ''", 0},
    {"! -z ''", 1},
    {"a = a", 0},
    {"a = b", 1},
    {"a != b", 0},
    {"a != a", 1},
    {"! a = b", 0},
    {"1 -eq 1", 0},
    {"1 -eq 2", 1},
    {"1 -ne 2", 0},
    {"1 -ne 1", 1},
    {"1 -lt 2", 0},
    {"2 -lt 2", 1},
    {"2 -le 2", 0},
    {"3 -le 2", 1},
    {"3 -gt 2", 0},
    {"2 -gt 2", 1},
    {"2 -ge 2", 0},
    {"1 -ge 2", 1},
    {"x -eq 1", 2},
    {"1 -eq x", 2},
    {"1 -eq ''", 2},
    {"1 -eq 99999999999999999999", 2},
    {"1 -xx 1", 2},
    {"! 1 -xx 1", 2},
    {"-q x", 2},
    {"-qq x", 2},
    {"qq x", 2},
    {"q x", 2},
    {"1 2 3 4", 2},
    {"-e /tmp", 0},
    {"-e /nope", 1},
    {"-d /tmp", 0},
    {"-d /bin/cat", 1},
    {"-f /bin/cat", 0},
    {"-f /tmp/full", 0},
    {"-f /tmp", 1},
    {"-x /bin/cat", 0},
    {"-x /tmp/full", 1},
    {"-s /tmp/full", 0},
    {"-s /tmp/empty", 1},
    {"-r /tmp/full", 0},
};

static void test_conditions(void **state) {
    (void)state;
    static const char *const forms[] = {"[ %s ]", "test %s", "/bin/test %s", "/bin/[ %s ]"};
    char line[512];
    for (size_t i = 0; i < ARRAY_SIZE(conditions); i++) {
        for (size_t j = 0; j < ARRAY_SIZE(forms); j++) {
            int size = snprintf(line, sizeof(line), "touch /tmp/empty; write /tmp/full x; ");
            size_t at = (size_t)size;
            const char *mark = strstr(forms[j], "%s");
            snprintf(line + at, sizeof(line) - at, "%.*s%s%s", (int)(mark - forms[j]), forms[j],
                     conditions[i].text, mark + 2);
            harness_expect(&(struct harness_line){line, conditions[i].code, "", NULL});
        }
    }
    harness_expect(&(struct harness_line){"[ x", 2, "", "sh: missing ]\n"});
    harness_expect(&(struct harness_line){"[ 1 2 3 4 5 6 7 8 ]", 2, "", NULL});
}

/* ---- The shell's own -------------------------------------------------------------------------- */

static const struct harness_line builtin_lines[] = {
    {":; echo $?", 0, "0\n", ""},
    {"A=1; export A; env", 0, ENV "A=1\n", ""},
    {"export A=1 B=2; A=3; env", 0, ENV "B=2\nA=3\n", ""},
    {"export A; env", 0, ENV, ""},
    {"A=1; export A=2; env", 0, ENV "A=2\n", ""},
    {"export A=1; B=2; unset A B; env; echo $A$B.", 0, ENV ".\n", ""},
    {"trap", 2, "", "sh: trap: handlers are not supported\n"},
    {"trap 'echo x' TERM", 2, "", NULL},
    {"trap '' NOPE", 1, "", "sh: trap: bad signal\n"},
    {"trap '' 0", 1, "", NULL},
    {"trap '' 65", 1, "", NULL},
    {"trap '' 64; trap - 1; trap '' KILL; kill -KILL $$", 0, NULL, NULL},
    {"sh -c \"trap '' TERM; kill \\$\\$; trap - TERM; kill -SIGTERM \\$\\$\"; echo $?", 0, "143\n",
     ""},
    {"sh -c 'kill -15 $$'; echo $?", 0, "143\n", ""},
    {"sh -c 'kill $$'; echo $?", 0, "143\n", ""},
    {"kill", 2, "", "sh: kill: usage: kill [-SIGNAL] PID\n"},
    {"kill -9", 2, "", NULL},
    {"kill -NOPE 1", 2, "", NULL},
    {"kill -0 $$", 0, "", ""},
    {"kill x", 1, "", "sh: can't kill pid x: No such process\n"},
    {"kill -CHLD 99", 2, "", NULL},
    {"kill -CONT $$; kill -USR1 99999 $$", 0, NULL, NULL},
    {"sleep 1000 & kill $!; kill -0 $!; wait; kill -0 $!", 1, "", NULL},
    {"cd; pwd", 0, "/root\n", ""},
    {"cd /bin/cat", 2, "", "sh: cd: can't cd to /bin/cat: Not a directory\n"},
    {"cd /nope", 2, "", "sh: cd: can't cd to /nope: No such file or directory\n"},
    {"exit x", 2, "", "sh: exit: bad number\n"},
    {"exit 257", 1, "", ""},
    {"ulimit", 2, "", "sh: ulimit: only -n is known\n"},
    {"ulimit -c", 2, "", NULL},
    {"ulimit -n", 0, "1024\n", ""},
    {"wait", 0, "", ""},
    {"break; echo a; continue; echo b", 0, "a\nb\n", ""},
    {"if true; then break; fi; echo a", 0, "a\n", ""},
    {"exec; echo a", 0, "a\n", ""},
    {"exec nope; echo a", 127, "", "sh: nope: not found\n"},
    {"sh -c", 2, "", "sh: -c requires an argument\n"},
    {"sh /nope", 2, "", "sh: can't open '/nope'\n"},
    {"write /tmp/s 'echo $0 $1'; sh /tmp/s x", 0, "/tmp/s x\n", ""},
    {"write /tmp/s 'echo $0'; sh < /tmp/s", 0, "sh\n", ""},
};

/* A line that ends by a signal has no code; the two that do are looked at apart. */
static void test_builtins(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(builtin_lines); i++) {
        if (builtin_lines[i].out) {
            harness_expect(&builtin_lines[i]);
            continue;
        }
        struct harness harness = harness_start();
        harness_hello(harness.guest);
        harness_exec(harness.guest, 1, 0, SHELL(builtin_lines[i].text));
        harness_run(harness.guest, 10);
        assert_true(harness.guest->sessions[0]->ended);
        assert_int_equal(harness.guest->sessions[0]->end, PROTOCOL_END_SIGNALED);
        harness_stop(&harness);
    }
}

static const struct harness_line word_lines[] = {
    {"echo $((+1)) $((- -1)) $((1 - 2)) $((2*-3))", 0, "1 1 -1 -6\n", ""},
    {"x=y; echo $((x))", 2, "", "sh: arithmetic syntax error\n"},
    {"echo $((nope+1)) $(($nope))", 0, "1 0\n", ""},
    {"echo $((1+))", 2, "", "sh: arithmetic syntax error\n"},
    {"echo $((1)", 2, "", "sh: arithmetic syntax error\n"},
    {"echo $((1%0))", 2, "", "sh: divide by zero\n"},
    {"m=-9223372036854775808; echo $((m/1)); echo $((m/-1))", 2, "-9223372036854775808\n",
     "sh: divide by zero\n"},
    {"echo $((1 * 2 + 3 % 2 - 4))", 0, "-1\n", ""},
    {"echo ${A", 2, "", "sh: bad substitution\n"},
    {"echo ${}", 2, "", "sh: bad substitution\n"},
    {"A=1; echo ${A:-2}", 2, "", "sh: bad substitution\n"},
    {"A=1; echo ${A}x ${?}y $#", 0, "1x 0y 0\n", ""},
    {"echo $0 ${1}. $9.", 0, "sh . .\n", ""},
    {"_a1=2; echo $_a1", 0, "2\n", ""},
    {"echo `pwd`", 2, "", "sh: command substitution is not supported\n"},
    {"echo \"\\a\\$\\`\\\\\"", 0, "\\a$`\\\n", ""},
    {"echo a\\\nb \"c\\\nd\"", 0, "ab cd\n", ""},
    {"echo a \\\n  b; echo c\\", 0, "a b\nc\\\n", ""},
    {"  \\\n \\\n echo a", 0, "a\n", ""},
    {"(echo a)", 2, "", "sh: syntax error: unexpected parenthesis\n"},
    {"echo a )", 2, "", "sh: syntax error: unexpected parenthesis\n"},
    {"{ echo a; }", 2, "", "sh: syntax error: not supported\n"},
    {"case a in a) ;; esac", 2, "", "sh: syntax error: not supported\n"},
    {"for i in a; do echo; done", 2, "", "sh: syntax error: not supported\n"},
    {"echo for i; echo case a; echo { b", 0, "for i\ncase a\n{ b\n", ""},
    {"A=\" a  b \"; echo x$A.", 0, "x a b .\n", ""},
    {"A=1 B=$A; echo $A$B", 0, "1\n", NULL},
};

static const struct harness_line redirection_lines[] = {
    {"echo a > ", 2, "", "sh: ambiguous redirect\n"},
    {"A='a b'; echo a > $A", 2, "", "sh: ambiguous redirect\n"},
    {"echo a > 'open", 2, "", "sh: unterminated quoted string\n"},
    {"echo a >&3", 2, "", "sh: bad file descriptor\n"},
    {"echo a <&1", 2, "", "sh: bad file descriptor\n"},
    {"echo a << b", 2, "", "sh: redirection is not supported\n"},
    {"echo a 0> b", 2, "", "sh: redirection is not supported\n"},
    {"echo a 1< b", 2, "", "sh: redirection is not supported\n"},
    {"write /tmp/a x; cat 0< /tmp/a", 0, "x", ""},
    {"echo a 1>&1", 0, "a\n", ""},
    {"cat /nope > /tmp/a 2>&1 2>&2; cat /tmp/a", 0, "cat: /nope: No such file or directory\n", ""},
    {"cat /nope 2> /tmp/a; cat /nope 2>> /tmp/a; wc -c /tmp/a", 0, "76 /tmp/a\n", ""},
    {"echo a > /tmp/a; echo b >> /dev/null; echo c > /dev/null; cat /tmp/a", 0, "a\n", ""},
    {"echo a > /tmp; echo $?", 0, "1\n", "sh: can't create /tmp: Is a directory\n"},
    {"nope 2> /dev/null", 127, "", ""},
    {"exec echo a > /tmp/a", 0, "", ""},
    {"exec cat < /dev/null", 0, "", ""},
    {"sh -c 'echo a; echo b >&2' > /tmp/a 2> /tmp/b; cat /tmp/b /tmp/a", 0, "b\na\n", ""},
    {"ulimit -n >&2", 0, "", "1024\n"},
};

static const struct harness_line control_lines[] = {
    {"if true; then if false; then echo a; else echo b; fi; else echo c; fi", 0, "b\n", ""},
    {"if false; then if true; then echo a; fi; while x; do y; done; else echo c; fi", 0, "c\n", ""},
    {"if false; then until x; do y; done; elif false; then echo a; fi; echo $?", 0, "0\n", ""},
    {"if true; then echo a; elif true; then echo b; else echo c; fi", 0, "a\n", ""},
    {"while false; do while x; do if y; then z; fi; done; done; echo a", 0, "a\n", ""},
    {"if false; then echo", 2, "", "sh: syntax error\n"},
    {"if false; then 'open; fi", 2, "", NULL},
    {"while false; do echo", 2, "", "sh: syntax error\n"},
    {"while true; do break; echo", 2, "", NULL},
    {"if true; do echo; done", 2, "", "sh: syntax error\n"},
    {"while true; then echo; fi", 2, "", "sh: syntax error\n"},
    {"else", 2, "", "sh: syntax error\n"},
    {"if true; then true; else", 2, "", "sh: syntax error\n"},
    {"true; true ||", 0, "", ""},
    {"sleep 0 & echo $?", 0, "0\n", ""},
    {"until false; do exit 3; done", 3, "", ""},
};

static void test_the_shells_language(void **state) {
    (void)state;
    EXPECT_ALL(word_lines);
    EXPECT_ALL(redirection_lines);
    EXPECT_ALL(control_lines);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_programs),
        cmocka_unit_test(test_conditions),
        cmocka_unit_test(test_builtins),
        cmocka_unit_test(test_the_shells_language),
    };
    return cmocka_run_group_tests_name("mock_program", tests, NULL, NULL);
}
