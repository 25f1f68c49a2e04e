/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The payloads again, by a user who is not root and may open /dev/kvm. What differs are limits that do not bind root, such as
 * that of processes, which KVM needs too: it starts a thread of its own in the process of each VM.
 */
#include <libgen.h>
#include <linux/capability.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define NOBODY 65534
#define PATH_SIZE 4096
#define OUTPUT_SIZE 65536

/* Nobody, but for files' permissions: /dev/kvm is another user's on some machines. */
static int become_nobody(void) {
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    const uint32_t files = 1u << CAP_DAC_OVERRIDE;
    struct __user_cap_data_struct data[2] = {
        {.effective = files, .permitted = files, .inheritable = files}};
    return prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) == 0 && setresgid(NOBODY, NOBODY, NOBODY) == 0 &&
                   setresuid(NOBODY, NOBODY, NOBODY) == 0 &&
                   syscall(SYS_capset, &header, data) == 0 &&
                   prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_OVERRIDE, 0, 0) == 0
               ? 0
               : -1;
}

static void payloads_run_without_root(void **state) {
    (void)state;
    char self[PATH_SIZE] = "";
    char program[2 * PATH_SIZE];
    static char text[OUTPUT_SIZE];
    if (geteuid() != 0 || access("/dev/kvm", R_OK | W_OK) != 0) {
        print_message("skipped: this is not root, or there is no /dev/kvm\n");
        skip();
    }
    assert_true(readlink("/proc/self/exe", self, sizeof(self) - 1) > 0);
    snprintf(program, sizeof(program), "%s/payload_test", dirname(self));
    int output = memfd_create("output", MFD_CLOEXEC);
    assert_true(output >= 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        if (become_nobody() == 0) {
            dup2(output, STDOUT_FILENO);
            execl(program, program, (char *)NULL);
        }
        _exit(99);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_true(pread(output, text, sizeof(text) - 1, 0) > 0);
    if (WEXITSTATUS(status) != 0 || !strstr(text, "[       OK ]")) {
        /* Not as it is: its lines would be counted as tests of this program. */
        for (char *c = strchr(text, '['); c; c = strchr(c, '[')) {
            *c = '(';
        }
        print_error("it ended with code %d:\n%s\n", WEXITSTATUS(status), text);
        fail();
    }
    close(output);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(payloads_run_without_root),
    };
    return cmocka_run_group_tests_name("payloads of a user", tests, NULL, NULL);
}
