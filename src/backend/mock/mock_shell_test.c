/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What lines do, each expectation checked once against busybox's ash. */
#include <signal.h>

#include "backend/mock/mock_harness_test.h"

#define EXPECT(...) harness_expect(&(struct harness_line){__VA_ARGS__})

static void test_lists(void **state) {
    (void)state;
    EXPECT("", 0, "", "");
    EXPECT("echo a; echo b\necho c", 0, "a\nb\nc\n", "");
    EXPECT("true && echo yes", 0, "yes\n", "");
    EXPECT("false && echo no", 1, "", "");
    EXPECT("false || echo yes", 0, "yes\n", "");
    EXPECT("true || echo no", 0, "", "");
    EXPECT("false && echo no || echo yes && echo also", 0, "yes\nalso\n", "");
    EXPECT("false &&\necho no", 1, "", "");
    EXPECT("echo $? $?; false; echo $?", 0, "0 0\n1\n", "");
    EXPECT("exit 3; echo no", 3, "", "");
    EXPECT("false; exit", 1, "", "");
    EXPECT("# nothing\necho a # b\necho c#d", 0, "a\nc#d\n", "");
}

static void test_words(void **state) {
    (void)state;
    EXPECT("echo 'a  b' \"c  d\" e  f", 0, "a  b c  d e f\n", "");
    EXPECT("X='a  b'; echo $X \"$X\"", 0, "a b a  b\n", "");
    EXPECT("X=1 Y=2; echo $X${Y}3 \"$X-$Z-\"", 0, "123 1--\n", "");
    EXPECT("echo \\$X '$X' \"\\$X\" a\\ b", 0, "$X $X $X a b\n", "");
    EXPECT("echo \"it's\" '\"' \"\\\"\"", 0, "it's \" \"\n", "");
    EXPECT("echo a\"b\"'c'd; echo ''; echo $EMPTY x", 0, "abcd\n\nx\n", "");
    EXPECT("echo $((1+2*3)) $((7/2)) $((7%4)) $((-2-3))", 0, "7 3 3 -5\n", "");
    EXPECT("i=5; i=$((i+1)); echo $i $(( $i * 2 ))", 0, "6 12\n", "");
    EXPECT("echo $((1/0))", 2, "", "sh: divide by zero\n");
    EXPECT("echo -n a; echo -n; echo b", 0, "ab\n", "");
    EXPECT("echo $", 0, "$\n", "");
}

static void test_control(void **state) {
    (void)state;
    EXPECT("if true; then echo a; else echo b; fi", 0, "a\n", "");
    EXPECT("if false; then echo a; elif true; then echo b; else echo c; fi; echo d", 0, "b\nd\n",
           "");
    EXPECT("if false; then echo a; fi", 0, "", "");
    EXPECT("i=0; while [ $i -lt 3 ]; do echo $i; i=$((i+1)); done", 0, "0\n1\n2\n", "");
    EXPECT("i=0; until [ $i = 2 ]; do i=$((i+1)); done; echo $i", 0, "2\n", "");
    EXPECT("while true; do if true; then break; fi; done; echo out", 0, "out\n", "");
    EXPECT(
        "i=0; while [ $i -lt 4 ]; do i=$((i+1)); if [ $i = 2 ]; then continue; fi; echo $i; done",
        0, "1\n3\n4\n", "");
    EXPECT("if true; then break; fi; if true; then continue; echo a; fi; echo b", 0, "a\nb\n", "");
    EXPECT("i=0; while [ $i -lt 2 ]; do j=0; while [ $j -lt 2 ]; do echo $i$j; j=$((j+1)); done; "
           "i=$((i+1)); done",
           0, "00\n01\n10\n11\n", "");
}

static void test_redirections(void **state) {
    (void)state;
    EXPECT("echo a > /tmp/f; echo b >> /tmp/f; cat /tmp/f; cat < /tmp/f", 0, "a\nb\na\nb\n", "");
    EXPECT("echo a > /tmp/f; > /tmp/f; cat /tmp/f", 0, "", "");
    EXPECT("echo err >&2; echo out 1>&2; echo x 2>&1", 0, "x\n", "err\nout\n");
    EXPECT("nope 2>/dev/null; echo $?", 0, "127\n", "");
    EXPECT("nope > /tmp/f 2>&1; cat /tmp/f", 0, "sh: nope: not found\n", "");
    EXPECT("echo a > /no/such; echo $?", 0, "1\n", NULL);
    EXPECT("cat < /no/such; echo $?", 0, "1\n", NULL);
    EXPECT("cd /tmp; echo a > f; cat /tmp/f; pwd", 0, "a\n/tmp\n", "");
}

static void test_commands_that_fail(void **state) {
    (void)state;
    EXPECT("nope", 127, "", "sh: nope: not found\n");
    EXPECT("/etc", 126, "", "sh: /etc: Permission denied\n");
    EXPECT("cat /nope", 1, "", NULL);
    EXPECT("sh -c 'exit 4'; echo $?", 0, "4\n", "");
    EXPECT("sh -c 'kill -TERM $$'; echo $?", 0, "143\n", "");
    EXPECT("sh -c 'echo $1-$0-$#' name one two", 0, "one-name-2\n", "");
    EXPECT("/bin/[ a = a ]; echo $?; /bin/[ a = b ]; echo $?; /bin/[ a; echo $?", 0, "0\n1\n2\n",
           NULL);
    EXPECT("exec echo gone; echo no", 0, "gone\n", "");
    EXPECT("X=1 env | cat", 2, "", "sh: pipes are not supported\n");
    EXPECT("echo $(pwd)", 2, "", "sh: command substitution is not supported\n");
    EXPECT("echo 'open", 2, "", "sh: unterminated quoted string\n");
    EXPECT("while true", 2, "", NULL);
    EXPECT("fi", 2, "", "sh: syntax error\n");
}

/* Scripts that are no text, or too much of it, from a file and from standard input. */
static void test_scripts_that_are_none(void **state) {
    (void)state;
    EXPECT("dd if=/dev/zero bs=10 count=1 > /tmp/zeros; sh /tmp/zeros", 2, "",
           "sh: the script is too long, or no text\n");
    EXPECT("dd if=/dev/zero bs=1048576 count=2 > /tmp/zeros; sh < /tmp/zeros", 2, "",
           "sh: the script is too long\n");
    EXPECT("sh /nope", 2, "", "sh: can't open '/nope'\n");
    EXPECT("sh < /tmp", 2, "", NULL);
    EXPECT("sh -c", 2, "", "sh: -c requires an argument\n");
    EXPECT("echo 'echo $1' > /tmp/s; sh /tmp/s a", 0, "a\n", "");
    EXPECT("echo 'echo in' > /tmp/s; sh -l < /tmp/s; sh < /tmp/s", 0, "in\nin\n", "");
}

static void test_numbers_and_times(void **state) {
    (void)state;
    EXPECT("echo $((7 / -1)) $((7 % -1)) $((0 / 5))", 0, "-7 0 0\n", "");
    EXPECT("i=9223372036854775807; echo $(((-i - 1) / -1))", 2, "", NULL);
    EXPECT("echo $((1 % 0))", 2, "", "sh: divide by zero\n");
    EXPECT("sleep 9999999999", 1, "", NULL);
    EXPECT("sleep -1", 1, "", NULL);
    EXPECT("sleep 1x", 1, "", NULL);
    EXPECT("sleep .", 1, "", NULL);
    EXPECT("sleep 0.001 && echo woke", 0, "woke\n", "");
}

static void test_children_in_the_background(void **state) {
    (void)state;
    EXPECT("sleep 0.02 & wait; echo waited", 0, "waited\n", "");
    EXPECT("sleep 1000 & kill -9 $!; wait; echo gone", 0, "gone\n", "");
    EXPECT("sleep 1000 & echo first", 0, "first\n", "");
    EXPECT("kill -0 99999; echo $?", 0, "1\n", NULL);
}

static void test_signals(void **state) {
    (void)state;
    struct harness harness = harness_start();
    harness_hello(harness.guest);
    harness_exec(harness.guest, 1, 0, SHELL("trap '' TERM; sleep 1000; sleep 1000"));
    harness_run(harness.guest, 1);
    struct mock_session *session = harness.guest->sessions[0];
    mock_session_signal(session, SIGTERM);
    harness_run(harness.guest, 1);
    assert_false(session->ended);
    mock_session_signal(session, SIGSTOP);
    assert_int_equal(mock_session_next_ns(session), UINT64_MAX);
    mock_session_signal(session, SIGINT);
    harness_run(harness.guest, 1);
    assert_false(session->ended); /* it stands still */
    mock_session_signal(session, SIGCONT);
    harness_run(harness.guest, 1);
    assert_true(session->ended);
    assert_int_equal(session->end, PROTOCOL_END_SIGNALED);
    assert_int_equal(session->end_value, SIGINT);
    harness_stop(&harness);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lists),
        cmocka_unit_test(test_words),
        cmocka_unit_test(test_control),
        cmocka_unit_test(test_redirections),
        cmocka_unit_test(test_commands_that_fail),
        cmocka_unit_test(test_scripts_that_are_none),
        cmocka_unit_test(test_numbers_and_times),
        cmocka_unit_test(test_children_in_the_background),
        cmocka_unit_test(test_signals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
