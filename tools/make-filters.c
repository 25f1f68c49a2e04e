/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Makes the system call filters of kelpie-vmm (src/vmm/confine_calls.h: what it may call) and of kelpie-krun
 * (src/krun/confine_calls.h: what it may not) into C headers with their BPF programs, by libseccomp; or lists the calls.
 *
 *     make-filters > filters.h        make-filters --krun > filter.h        make-filters --list
 */
#include <errno.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <seccomp.h>

#include "krun/confine_calls.h"
#include "vmm/confine_calls.h"

#define NAME(call) #call,
static const char *const vcpu_calls[] = {CONFINE_VCPU_CALLS(NAME)};
static const char *const io_calls[] = {CONFINE_IO_CALLS(NAME)};
static const char *const krun_denied_calls[] = {KRUN_DENIED_CALLS(NAME)};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
_Static_assert(COUNT(vcpu_calls) <= CONFINE_VCPU_COUNT_MAX, "a vCPU's list is short");
_Static_assert(COUNT(io_calls) <= CONFINE_IO_COUNT_MAX, "so is the other");

static void die(const char *what, const char *name) {
    fprintf(stderr, "make-filters: %s: %s\n", what, name);
    exit(1);
}

/* The program's instructions, as the rows of an array. */
static void print_program(scmp_filter_ctx filter, const char *name) {
    FILE *file = tmpfile();
    struct sock_filter step;
    if (!file || seccomp_export_bpf(filter, fileno(file)) != 0) {
        die("cannot export", name);
    }
    rewind(file);
    printf("static const struct sock_filter %s[] = {\n", name);
    while (fread(&step, sizeof(step), 1, file) == 1) {
        printf("    {0x%x, %u, %u, 0x%x},\n", step.code, step.jt, step.jf, step.k);
    }
    printf("};\n\n");
    fclose(file);
}

static void make(const char *const *calls, size_t count, const char *name) {
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
    if (!filter || seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2) != 0) {
        die("cannot begin", name);
    }
    for (size_t i = 0; i < count; i++) {
        int number = seccomp_syscall_resolve_name(calls[i]);
        if (number == __NR_SCMP_ERROR ||
            seccomp_rule_add(filter, SCMP_ACT_ALLOW, number, 0) != 0) {
            die("there is no such call here", calls[i]);
        }
    }
    print_program(filter, name);
    seccomp_release(filter);
}

static void deny(scmp_filter_ctx filter, const char *call) {
    int number = seccomp_syscall_resolve_name(call);
    if (number == __NR_SCMP_ERROR ||
        seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), number, 0) != 0) {
        die("there is no such call here", call);
    }
}

/* Everything is allowed but the list, and new processes, which only their flags tell from threads. */
static void make_denying(const char *const *calls, size_t count, const char *name) {
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
    if (!filter || seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2) != 0) {
        die("cannot begin", name);
    }
    for (size_t i = 0; i < count; i++) {
        deny(filter, calls[i]);
    }
    if (seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(clone), 1,
                         SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, 0)) != 0 ||
        seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0) != 0) {
        die("cannot tell threads from processes", name);
    }
    print_program(filter, name);
    seccomp_release(filter);
}

static void list(const char *const *calls, size_t count, const char *title) {
    printf("%s, %zu:", title, count);
    for (size_t i = 0; i < count; i++) {
        printf(" %s", calls[i]);
    }
    printf("\n");
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "--list") == 0) {
        list(vcpu_calls, COUNT(vcpu_calls), "a vCPU's thread");
        list(io_calls, COUNT(io_calls), "the I/O thread");
        list(krun_denied_calls, COUNT(krun_denied_calls), "not libkrun's process");
        return 0;
    }
    if (argc == 2 && strcmp(argv[1], "--krun") == 0) {
        printf("/* Made by tools/make-filters.c of src/krun/confine_calls.h. */\n"
               "#include <linux/filter.h>\n\n");
        make_denying(krun_denied_calls, COUNT(krun_denied_calls), "krun_filter");
        return 0;
    }
    printf("/* Made by tools/make-filters.c of src/vmm/confine_calls.h. */\n"
           "#include <linux/filter.h>\n\n");
    make(vcpu_calls, COUNT(vcpu_calls), "confine_vcpu_filter");
    make(io_calls, COUNT(io_calls), "confine_io_filter");
    return 0;
}
