/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "pair.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "monitor_memory.h"

#define STILL_MS 500 /* after the last command, until a machine is taken for idle */
#define PEER_TIMEOUT_MS 60000
#define PEER_TIMEOUT_KVM_MS 20000
#define PEER_ATTEMPTS_KVM_MAX 6
#define OUR_MEMORY "/memfd:kelpie-memory (deleted)"

static const char *const true_argv[] = {"/bin/true", NULL};

void pair_check(enum kelpie_status status, const char *what, const struct kelpie_error *err) {
    if (status != KELPIE_OK) {
        fprintf(stderr, "bench: %s: %s\n", what, err->message);
        exit(1);
    }
}

struct pair_series pair_add(struct report *report, const char *name, const char *peer_name,
                            const char *unit, double ratio_limit) {
    struct series *ours = report_add(report, name, unit, peer_name, ratio_limit);
    return (struct pair_series){ours, report_add(report, peer_name, unit, NULL, 0)};
}

void pair_open(struct pair *pair, const char *backend, bool kvm) {
    struct kelpie_error err;
    *pair = (struct pair){.backend = backend};
    pair_check(host_linux_create(&pair->host, &err), "host", &err);
    struct host_wait wait = host_wait_ms(pair->host, IMAGE_FETCH_TIMEOUT_MS, HOST_FD_NONE);
    pair_check(image_boot_prepare(pair->host, NULL, &wait, &pair->boot, &err), "image", &err);
    pair->peer =
        (struct by_hand_machine){.boot = &pair->boot,
                                 .memory_mib = PAIR_MEMORY_MIB,
                                 .kvm = kvm,
                                 .timeout_ms = kvm ? PEER_TIMEOUT_KVM_MS : PEER_TIMEOUT_MS};
    pair->peer_attempts_max = kvm ? PEER_ATTEMPTS_KVM_MAX : 1;
    snprintf(pair->dir, sizeof(pair->dir), "%s/kelpie-bench-XXXXXX",
             getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    if (!mkdtemp(pair->dir)) {
        fprintf(stderr, "bench: no folder to work in: %s\n", strerror(errno));
        exit(1);
    }
    snprintf(pair->bundle, sizeof(pair->bundle), "%s/bundle", pair->dir);
    snprintf(pair->peer_state, sizeof(pair->peer_state), "%s/state", pair->dir);
    snprintf(pair->peer_memory, sizeof(pair->peer_memory), "%s/memory", pair->dir);
}

void pair_close(struct pair *pair) {
    struct kelpie_error ignored;
    (void)!host_path_remove_folder(pair->host, pair->bundle, &ignored);
    (void)!host_path_remove_folder(pair->host, pair->dir, &ignored);
    host_destroy(pair->host);
}

double pair_ms_since(struct pair *pair, uint64_t start_ns) {
    return (double)(host_monotonic_ns(pair->host) - start_ns) / 1e6;
}

void pair_exec_true(struct kelpie_vm *vm) {
    struct kelpie_error err;
    struct kelpie_output output = {0};
    pair_check(kelpie_vm_exec(vm, &(struct kelpie_command){.argv = true_argv}, &output, &err),
               "exec", &err);
    ASSERT(output.exit.code == 0);
    kelpie_output_free(&output);
}

struct kelpie_vm *pair_boot_ours(const char *backend) {
    struct kelpie_error err;
    struct kelpie_vm *vm = NULL;
    const struct kelpie_config config = {.backend = backend, .memory_mib = PAIR_MEMORY_MIB};
    pair_check(kelpie_vm_create(&config, &vm, &err), "create", &err);
    pair_check(kelpie_vm_start(vm, &err), "start", &err);
    return vm;
}

/* ---- The peer --------------------------------------------------------------------------------- */

/* As it is saved and restored. */
static struct by_hand_machine peer_to_save(const struct pair *pair) {
    struct by_hand_machine machine = pair->peer;
    machine.memory = machine.kvm ? pair->peer_memory : NULL;
    return machine;
}

/* Boots it, or restores it from `state`, until a command has ended. Returns how long that took, in ms. */
static double peer_begin(struct pair *pair, struct by_hand *peer,
                         const struct by_hand_machine *machine, const char *state) {
    struct kelpie_error err = {0};
    ASSERT(pair->peer_attempts_max > 0);
    for (size_t i = 0; i < pair->peer_attempts_max; i++) {
        uint64_t start_ns = host_monotonic_ns(pair->host);
        enum kelpie_status status = by_hand_start(peer, pair->host, machine, state, &err);
        if (status == KELPIE_OK) {
            status = by_hand_exec_true(peer, &err);
        }
        if (status == KELPIE_OK) {
            return pair_ms_since(pair, start_ns);
        }
        by_hand_end(peer);
        pair->peer_failures++;
        fprintf(stderr, "bench: QEMU by hand %s not come up: %s\n",
                state ? "(restored) did" : "did", err.message);
    }
    exit(1);
}

/* ---- What is measured ------------------------------------------------------------------------- */

void pair_save(struct pair *pair, struct series *snapshot, size_t runs) {
    struct kelpie_error err;
    struct kelpie_vm *vm = pair_boot_ours(pair->backend);
    ASSERT(runs > 0);
    pair_exec_true(vm);
    for (size_t i = 0; i < runs; i++) {
        struct kelpie_error ignored;
        (void)!host_path_remove_folder(pair->host, pair->bundle, &ignored);
        uint64_t start_ns = host_monotonic_ns(pair->host);
        pair_check(kelpie_vm_snapshot(vm, pair->bundle, NULL, NULL, &err), "snapshot", &err);
        if (snapshot) {
            series_put(snapshot, pair_ms_since(pair, start_ns));
        }
    }
    kelpie_vm_destroy(vm);

    static struct by_hand peer;
    const struct by_hand_machine machine = peer_to_save(pair);
    (void)peer_begin(pair, &peer, &machine, NULL);
    pair_check(by_hand_save(&peer, pair->peer_state, &err), "save by hand", &err);
    by_hand_end(&peer);
}

bool pair_put_memory(struct pair *pair, struct series *series, int process_id,
                     const char *guest_file) {
    struct kelpie_error err;
    const struct host_wait still = host_wait_ms(pair->host, STILL_MS, HOST_FD_NONE);
    pair_check(host_sleep(pair->host, &still, &err), "sleep", &err);
    long kib = monitor_memory_kib(process_id, guest_file, (uint64_t)PAIR_MEMORY_MIB << 20);
    if (kib >= 0) {
        series_put(series, (double)kib);
    }
    return kib >= 0;
}

static void put_memory_surely(struct pair *pair, struct series *series, int process_id,
                              const char *guest_file) {
    if (!pair_put_memory(pair, series, process_id, guest_file)) {
        exit(1);
    }
}

void pair_boot(struct pair *pair, const struct pair_series *time,
               const struct pair_series *memory) {
    uint64_t start_ns = host_monotonic_ns(pair->host);
    struct kelpie_vm *vm = pair_boot_ours(pair->backend);
    pair_exec_true(vm);
    series_put(time->ours, pair_ms_since(pair, start_ns));
    if (memory) {
        put_memory_surely(pair, memory->ours, kelpie_vm_process_id(vm), OUR_MEMORY);
    }
    kelpie_vm_destroy(vm);

    static struct by_hand peer;
    series_put(time->theirs, peer_begin(pair, &peer, &pair->peer, NULL));
    if (memory) {
        put_memory_surely(pair, memory->theirs, by_hand_process_id(&peer), "");
    }
    by_hand_end(&peer);
}

void pair_restore(struct pair *pair, const struct pair_series *time) {
    struct kelpie_error err;
    struct kelpie_vm *vm = NULL;
    uint64_t start_ns = host_monotonic_ns(pair->host);
    pair_check(kelpie_vm_create_from_snapshot(pair->bundle, NULL, NULL, &vm, &err), "restore",
               &err);
    pair_exec_true(vm);
    series_put(time->ours, pair_ms_since(pair, start_ns));
    kelpie_vm_destroy(vm);

    static struct by_hand peer;
    const struct by_hand_machine machine = peer_to_save(pair);
    series_put(time->theirs, peer_begin(pair, &peer, &machine, pair->peer_state));
    by_hand_end(&peer);
}
