/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * bench: what a backend costs, beside a QEMU driven by hand in the same run.
 *
 * Every figure is the median of the runs, ours and the peer's taken in turn (pair.h). Prints a table and writes it to
 * build/bench.json.
 *
 *     usage: bench [RUNS [qemu | kvm | lab]]  (1 to 100 runs; the default is 10, of qemu and kvm)
 *
 *     qemu   the qemu backend and its peer, both emulated
 *     kvm    our own monitor, with a guest of a few instructions: on any /dev/kvm
 *     lab    our own monitor and QEMU, each with Linux on a /dev/kvm that runs it, as tests/lab/lab has one; and Firecracker and
 *            libkrun, where $KELPIE_FIRECRACKER and $KELPIE_LIBKRUN name them
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kvm_fork.h"
#include "kvm_prefetch.h"
#include "kvm_restore.h"
#include "kvm_snapshot.h"
#include "base/assert.h"
#include "other.h"
#include "pair.h"

#define RUNS_DEFAULT 10
#define RUNS_MAX 100
#define EXEC_RUNS 200
#define PING_RUNS 500
#define KVM_RUNS_FACTOR 10 /* a run takes milliseconds */
#define COPY_BYTES (32u << 20)
#define OUTPUT_JSON "build/bench.json"

/* ---- A running VM ----------------------------------------------------------------------------- */

static void measure_round_trips(struct pair *pair, struct report *report, struct kelpie_vm *vm) {
    struct series *execs = report_add(report, "qemu.exec_true", "ms", NULL, 15);
    for (size_t i = 0; i < EXEC_RUNS; i++) {
        uint64_t start_ns = host_monotonic_ns(pair->host);
        pair_exec_true(vm);
        series_put(execs, pair_ms_since(pair, start_ns));
    }
    struct series *pings = report_add(report, "qemu.ping", "ms", NULL, 0);
    for (size_t i = 0; i < PING_RUNS; i++) {
        struct kelpie_error err;
        uint64_t round_trip_ns = 0;
        pair_check(kelpie_vm_ping(vm, &round_trip_ns, &err), "ping", &err);
        series_put(pings, (double)round_trip_ns / 1e6);
    }
}

static void measure_copies(struct pair *pair, struct report *report, struct kelpie_vm *vm,
                           size_t runs) {
    struct series *in = report_add(report, "qemu.copy_in", "MB/s", NULL, 0);
    struct series *out = report_add(report, "qemu.copy_out", "MB/s", NULL, 0);
    char source[512];
    char target[512];
    struct kelpie_error err;
    snprintf(source, sizeof(source), "%s/source", pair->dir);
    snprintf(target, sizeof(target), "%s/target", pair->dir);
    static uint8_t bytes[COPY_BYTES];
    pair_check(host_random(pair->host, bytes, HOST_RANDOM_SIZE_MAX, &err), "random", &err);
    pair_check(host_file_store(pair->host, source, bytes, sizeof(bytes), 0600, &err), "store",
               &err);
    for (size_t i = 0; i < runs; i++) {
        uint64_t start_ns = host_monotonic_ns(pair->host);
        pair_check(kelpie_copy_in(vm, source, "/tmp/copied", NULL, &err), "copy in", &err);
        series_put(in, COPY_BYTES / 1e3 / pair_ms_since(pair, start_ns));
        start_ns = host_monotonic_ns(pair->host);
        pair_check(kelpie_copy_out(vm, "/tmp/copied", target, NULL, &err), "copy out", &err);
        series_put(out, COPY_BYTES / 1e3 / pair_ms_since(pair, start_ns));
    }
}

/* ---- The owner's memory ----------------------------------------------------------------------- */

/* The peak resident set of this process, in KiB, as the kernel tells it. */
static long peak_rss_kib(void) {
    FILE *status = fopen("/proc/self/status", "re");
    char line[256];
    long peak = -1;
    while (status && fgets(line, sizeof(line), status)) {
        if (strncmp(line, "VmHWM:", 6) == 0) {
            peak = strtol(line + 6, NULL, 10);
        }
    }
    if (status) {
        fclose(status);
    }
    return peak;
}

/* An owner that does a little of everything, in a process of its own. Prints its peak. */
static int be_owner(void) {
    struct kelpie_vm *vm = pair_boot_ours("qemu");
    pair_exec_true(vm);
    kelpie_vm_destroy(vm);
    printf("%ld\n", peak_rss_kib());
    return 0;
}

static void measure_owner(const char *program, struct series *series) {
    char command[4096];
    snprintf(command, sizeof(command), "'%s' --owner", program);
    FILE *pipe = popen(command, "re");
    char line[64] = "";
    if (!pipe || !fgets(line, sizeof(line), pipe) || pclose(pipe) != 0) {
        fprintf(stderr, "bench: the owner did not say its memory\n");
        exit(1);
    }
    series_put(series, strtod(line, NULL) / 1024);
}

/* ---- All of it -------------------------------------------------------------------------------- */

static void measure_qemu(struct pair *pair, struct report *report, const char *program,
                         size_t runs) {
    struct pair_series boot = pair_add(report, "qemu.boot_exec", "by_hand.boot_exec", "ms", 0);
    struct pair_series restore =
        pair_add(report, "qemu.restore_exec", "by_hand.restore_exec", "ms", 1.2);
    struct series *snapshot = report_add(report, "qemu.snapshot", "ms", NULL, 0);
    struct series *rss = report_add(report, "qemu.owner_rss", "MiB", NULL, 12);
    pair_save(pair, snapshot, runs);
    for (size_t i = 0; i < runs; i++) {
        pair_boot(pair, &boot, NULL);
        pair_restore(pair, &restore);
        measure_owner(program, rss);
        fprintf(stderr, "\rrun %zu of %zu", i + 1, runs);
    }
    fprintf(stderr, "\n");
    struct kelpie_vm *vm = pair_boot_ours(pair->backend);
    pair_exec_true(vm);
    measure_round_trips(pair, report, vm);
    measure_copies(pair, report, vm, runs);
    kelpie_vm_destroy(vm);
}

static void measure_kvm(struct pair *pair, struct report *report, const char *program,
                        size_t runs) {
    char floor[4096];
    snprintf(floor, sizeof(floor), "%.*s/floor", (int)(strrchr(program, '/') - program), program);
    kvm_monitor_measure(pair->host, pair->dir, report);
    kvm_fork_measure(pair->host, floor, report, runs);
    kvm_restore_measure(pair->host, pair->dir, floor, report, runs * KVM_RUNS_FACTOR);
    kvm_prefetch_measure(pair->host, pair->dir, report, runs);
    kvm_snapshot_measure(pair->host, pair->dir, report, runs * KVM_RUNS_FACTOR);
}

/* Monitors of others, when they are there. libkrun's has no memory of a size of its own to tell the guest's by, and saves none. */
static const struct other_spec others[] = {
    {.backend = "firecracker",
     .variable = "KELPIE_FIRECRACKER",
     .install = "the path of a Firecracker 1.7 or newer",
     .boot = "lab.firecracker_boot",
     .restore = "lab.firecracker_restore",
     .memory = "lab.firecracker_memory"},
    {.backend = "libkrun",
     .variable = "KELPIE_LIBKRUN",
     .install = "the path of a libkrun.so.1 (1.17 or newer) or libkrun.so.2",
     .boot = "lab.libkrun_boot"},
};

static void measure_lab(struct pair *pair, struct report *report, size_t runs) {
    struct pair_series boot = pair_add(report, "lab.boot_exec", "lab.qemu_boot_exec", "ms", 1);
    struct pair_series restore =
        pair_add(report, "lab.restore_exec", "lab.qemu_restore_exec", "ms", 1);
    struct pair_series memory = pair_add(report, "lab.memory", "lab.qemu_memory", "KiB", 1);
    struct other other[ARRAY_SIZE(others)];
    pair_save(pair, NULL, 1);
    for (size_t i = 0; i < ARRAY_SIZE(others); i++) {
        other_open(&other[i], &others[i], pair, report);
    }
    for (size_t i = 0; i < runs; i++) {
        pair_boot(pair, &boot, &memory);
        pair_restore(pair, &restore);
        for (size_t j = 0; j < ARRAY_SIZE(others); j++) {
            other_run(&other[j], pair);
        }
    }
    for (size_t i = 0; i < ARRAY_SIZE(others); i++) {
        other_close(&other[i], pair);
    }
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "--owner") == 0) {
        return be_owner();
    }
    long runs = argc >= 2 ? strtol(argv[1], NULL, 10) : RUNS_DEFAULT;
    const char *only = argc == 3 ? argv[2] : "";
    bool lab = strcmp(only, "lab") == 0;
    bool qemu = !lab && strcmp(only, "kvm") != 0;
    bool kvm = !lab && strcmp(only, "qemu") != 0;
    if (argc > 3 || runs < 1 || runs > RUNS_MAX || (only[0] && qemu && kvm)) {
        fprintf(stderr, "usage: bench [RUNS [qemu | kvm | lab]]\n");
        return 2;
    }
    static struct pair pair;
    static struct report report;
    pair_open(&pair, lab ? "kvm" : "qemu", lab);
    if (qemu) {
        measure_qemu(&pair, &report, argv[0], (size_t)runs);
    }
    if (kvm) {
        measure_kvm(&pair, &report, argv[0], (size_t)runs);
    }
    if (lab) {
        measure_lab(&pair, &report, (size_t)runs);
    }
    int result = report_print(&report, OUTPUT_JSON);
    pair_close(&pair);
    return result == 0 ? 0 : 1;
}
