/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * bench: what the qemu backend costs, beside a QEMU driven by hand in the same run.
 *
 * Every figure is the median of the runs, ours and the peer's taken in turn, so that a machine whose speed drifts
 * drifts for both. Prints a table and writes bench.json beside the program's folder.
 *
 *     usage: bench [RUNS [qemu | kvm]]        (1 to 100 runs; the default is 10, of everything)
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/assert.h"
#include "by_hand.h"
#include "kvm_fork.h"
#include "kvm_prefetch.h"
#include "kvm_restore.h"
#include "kvm_snapshot.h"
#include "series.h"

#define MEMORY_MIB 256
#define RUNS_DEFAULT 10
#define RUNS_MAX 100
#define EXEC_RUNS 200
#define PING_RUNS 500
#define KVM_RUNS_FACTOR 10 /* a run takes milliseconds */
#define COPY_BYTES (32u << 20)
#define OUTPUT_JSON "build/bench.json"

static const char *const true_argv[] = {"/bin/true", NULL};

struct bench {
    struct host *host;
    struct image_boot boot;
    char dir[256];
    char bundle[300];
    char by_hand_state[300];
    struct report report;
};

static void check(enum kelpie_status status, const char *what, const struct kelpie_error *err) {
    if (status != KELPIE_OK) {
        fprintf(stderr, "bench: %s: %s\n", what, err->message);
        exit(1);
    }
}

static double ms_since(struct bench *bench, uint64_t start_ns) {
    return (double)(host_monotonic_ns(bench->host) - start_ns) / 1e6;
}

static void exec_true(struct kelpie_vm *vm) {
    struct kelpie_error err;
    struct kelpie_output output = {0};
    check(kelpie_vm_exec(vm, &(struct kelpie_command){.argv = true_argv}, &output, &err), "exec",
          &err);
    ASSERT(output.exit.code == 0);
    kelpie_output_free(&output);
}

static struct kelpie_vm *boot_ours(void) {
    struct kelpie_error err;
    struct kelpie_vm *vm = NULL;
    const struct kelpie_config config = {.backend = "qemu", .memory_mib = MEMORY_MIB};
    check(kelpie_vm_create(&config, &vm, &err), "create", &err);
    check(kelpie_vm_start(vm, &err), "start", &err);
    return vm;
}

/* ---- Boot and restore to the first exec ------------------------------------------------------- */

static void run_boot(struct bench *bench, struct series *ours, struct series *theirs) {
    struct kelpie_error err;
    uint64_t start_ns = host_monotonic_ns(bench->host);
    struct kelpie_vm *vm = boot_ours();
    exec_true(vm);
    series_put(ours, ms_since(bench, start_ns));
    kelpie_vm_destroy(vm);

    static struct by_hand peer;
    start_ns = host_monotonic_ns(bench->host);
    check(by_hand_start(&peer, bench->host, &bench->boot, MEMORY_MIB, NULL, &err), "boot by hand",
          &err);
    check(by_hand_exec_true(&peer, &err), "exec by hand", &err);
    series_put(theirs, ms_since(bench, start_ns));
    by_hand_end(&peer);
}

static void run_restore(struct bench *bench, struct series *ours, struct series *theirs) {
    struct kelpie_error err;
    struct kelpie_vm *vm = NULL;
    uint64_t start_ns = host_monotonic_ns(bench->host);
    check(kelpie_vm_create_from_snapshot(bench->bundle, NULL, NULL, &vm, &err), "restore", &err);
    exec_true(vm);
    series_put(ours, ms_since(bench, start_ns));
    kelpie_vm_destroy(vm);

    static struct by_hand peer;
    start_ns = host_monotonic_ns(bench->host);
    check(by_hand_start(&peer, bench->host, &bench->boot, MEMORY_MIB, bench->by_hand_state, &err),
          "restore by hand", &err);
    check(by_hand_exec_true(&peer, &err), "exec by hand", &err);
    series_put(theirs, ms_since(bench, start_ns));
    by_hand_end(&peer);
}

static void make_snapshots(struct bench *bench, struct series *snapshot, size_t runs) {
    struct kelpie_error err;
    struct kelpie_vm *vm = boot_ours();
    exec_true(vm);
    for (size_t i = 0; i < runs; i++) {
        struct kelpie_error ignored;
        (void)!host_path_remove_folder(bench->host, bench->bundle, &ignored);
        uint64_t start_ns = host_monotonic_ns(bench->host);
        check(kelpie_vm_snapshot(vm, bench->bundle, NULL, NULL, &err), "snapshot", &err);
        series_put(snapshot, ms_since(bench, start_ns));
    }
    kelpie_vm_destroy(vm);

    static struct by_hand peer;
    check(by_hand_start(&peer, bench->host, &bench->boot, MEMORY_MIB, NULL, &err), "boot by hand",
          &err);
    check(by_hand_exec_true(&peer, &err), "exec by hand", &err);
    check(by_hand_save(&peer, bench->by_hand_state, &err), "save by hand", &err);
    by_hand_end(&peer);
}

/* ---- A running VM ----------------------------------------------------------------------------- */

static void measure_round_trips(struct bench *bench, struct kelpie_vm *vm) {
    struct series *execs = report_add(&bench->report, "qemu.exec_true", "ms", NULL, 15);
    for (size_t i = 0; i < EXEC_RUNS; i++) {
        uint64_t start_ns = host_monotonic_ns(bench->host);
        exec_true(vm);
        series_put(execs, ms_since(bench, start_ns));
    }
    struct series *pings = report_add(&bench->report, "qemu.ping", "ms", NULL, 0);
    for (size_t i = 0; i < PING_RUNS; i++) {
        struct kelpie_error err;
        uint64_t round_trip_ns = 0;
        check(kelpie_vm_ping(vm, &round_trip_ns, &err), "ping", &err);
        series_put(pings, (double)round_trip_ns / 1e6);
    }
}

static void measure_copies(struct bench *bench, struct kelpie_vm *vm, size_t runs) {
    struct series *in = report_add(&bench->report, "qemu.copy_in", "MB/s", NULL, 0);
    struct series *out = report_add(&bench->report, "qemu.copy_out", "MB/s", NULL, 0);
    char source[512];
    char target[512];
    struct kelpie_error err;
    snprintf(source, sizeof(source), "%s/source", bench->dir);
    snprintf(target, sizeof(target), "%s/target", bench->dir);
    static uint8_t bytes[COPY_BYTES];
    check(host_random(bench->host, bytes, HOST_RANDOM_SIZE_MAX, &err), "random", &err);
    check(host_file_store(bench->host, source, bytes, sizeof(bytes), 0600, &err), "store", &err);
    for (size_t i = 0; i < runs; i++) {
        uint64_t start_ns = host_monotonic_ns(bench->host);
        check(kelpie_copy_in(vm, source, "/tmp/copied", NULL, &err), "copy in", &err);
        series_put(in, COPY_BYTES / 1e3 / ms_since(bench, start_ns));
        start_ns = host_monotonic_ns(bench->host);
        check(kelpie_copy_out(vm, "/tmp/copied", target, NULL, &err), "copy out", &err);
        series_put(out, COPY_BYTES / 1e3 / ms_since(bench, start_ns));
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
    struct kelpie_vm *vm = boot_ours();
    exec_true(vm);
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

static void open_bench(struct bench *bench) {
    struct kelpie_error err;
    check(host_linux_create(&bench->host, &err), "host", &err);
    struct host_wait wait = host_wait_ms(bench->host, IMAGE_FETCH_TIMEOUT_MS, HOST_FD_NONE);
    check(image_boot_prepare(bench->host, NULL, &wait, &bench->boot, &err), "image", &err);
    snprintf(bench->dir, sizeof(bench->dir), "%s/kelpie-bench-XXXXXX",
             getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    if (!mkdtemp(bench->dir)) {
        fprintf(stderr, "bench: no folder to work in: %s\n", strerror(errno));
        exit(1);
    }
    snprintf(bench->bundle, sizeof(bench->bundle), "%s/bundle", bench->dir);
    snprintf(bench->by_hand_state, sizeof(bench->by_hand_state), "%s/state", bench->dir);
}

static void close_bench(struct bench *bench) {
    struct kelpie_error ignored;
    (void)!host_path_remove_folder(bench->host, bench->bundle, &ignored);
    (void)!host_path_remove_folder(bench->host, bench->dir, &ignored);
    host_destroy(bench->host);
}

static void measure_qemu(struct bench *bench, const char *program, size_t runs) {
    struct report *report = &bench->report;
    struct series *boot = report_add(report, "qemu.boot_exec", "ms", "by_hand.boot_exec", 0);
    struct series *boot_peer = report_add(report, "by_hand.boot_exec", "ms", NULL, 0);
    struct series *restore =
        report_add(report, "qemu.restore_exec", "ms", "by_hand.restore_exec", 1.2);
    struct series *restore_peer = report_add(report, "by_hand.restore_exec", "ms", NULL, 0);
    struct series *snapshot = report_add(report, "qemu.snapshot", "ms", NULL, 0);
    struct series *rss = report_add(report, "qemu.owner_rss", "MiB", NULL, 12);
    make_snapshots(bench, snapshot, runs);
    for (size_t i = 0; i < runs; i++) {
        run_boot(bench, boot, boot_peer);
        run_restore(bench, restore, restore_peer);
        measure_owner(program, rss);
        fprintf(stderr, "\rrun %zu of %zu", i + 1, runs);
    }
    fprintf(stderr, "\n");
    struct kelpie_vm *vm = boot_ours();
    exec_true(vm);
    measure_round_trips(bench, vm);
    measure_copies(bench, vm, runs);
    kelpie_vm_destroy(vm);
}

static void measure_kvm(struct bench *bench, const char *program, size_t runs) {
    char floor[4096];
    snprintf(floor, sizeof(floor), "%.*s/floor", (int)(strrchr(program, '/') - program), program);
    kvm_monitor_measure(bench->host, bench->dir, &bench->report);
    kvm_fork_measure(bench->host, floor, &bench->report, runs);
    kvm_restore_measure(bench->host, bench->dir, floor, &bench->report, runs * KVM_RUNS_FACTOR);
    kvm_prefetch_measure(bench->host, bench->dir, &bench->report, runs);
    kvm_snapshot_measure(bench->host, bench->dir, &bench->report, runs * KVM_RUNS_FACTOR);
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "--owner") == 0) {
        return be_owner();
    }
    long runs = argc >= 2 ? strtol(argv[1], NULL, 10) : RUNS_DEFAULT;
    const char *only = argc == 3 ? argv[2] : "";
    bool qemu = strcmp(only, "kvm") != 0;
    bool kvm = strcmp(only, "qemu") != 0;
    if (argc > 3 || runs < 1 || runs > RUNS_MAX || (only[0] && qemu && kvm)) {
        fprintf(stderr, "usage: bench [RUNS [qemu | kvm]]\n");
        return 2;
    }
    static struct bench bench;
    open_bench(&bench);
    if (qemu) {
        measure_qemu(&bench, argv[0], (size_t)runs);
    }
    if (kvm) {
        measure_kvm(&bench, argv[0], (size_t)runs);
    }
    int result = report_print(&bench.report, OUTPUT_JSON);
    close_bench(&bench);
    return result == 0 ? 0 : 1;
}
