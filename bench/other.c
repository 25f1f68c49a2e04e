/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "other.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/assert.h"

/* An emulated machine's guests stand still now and then: whose they are makes no difference. What comes up counts. */
#define ATTEMPTS_MAX 6
#define TIMEOUT_MS 60000

/* Boots, or restores from the bundle, until a command has ended. */
static enum kelpie_status begin(const struct other *other, bool restored, struct kelpie_vm **ret_vm,
                                struct kelpie_error *err) {
    static const char *const argv[] = {"/bin/true", NULL};
    struct kelpie_vm *vm = NULL;
    struct kelpie_output output = {0};
    const struct kelpie_config config = {.backend = other->spec->backend,
                                         .memory_mib = PAIR_MEMORY_MIB,
                                         .boot_timeout_ms = TIMEOUT_MS};
    enum kelpie_status status = KELPIE_OK;
    if (restored) {
        status = kelpie_vm_create_from_snapshot(other->bundle, NULL, NULL, &vm, err);
    } else {
        status = kelpie_vm_create(&config, &vm, err);
        status = status == KELPIE_OK ? kelpie_vm_start(vm, err) : status;
    }
    if (status == KELPIE_OK) {
        status = kelpie_vm_exec(
            vm, &(struct kelpie_command){.argv = argv, .timeout_ms = TIMEOUT_MS}, &output, err);
    }
    if (status != KELPIE_OK) {
        kelpie_vm_destroy(vm);
        return status;
    }
    ASSERT(output.exit.code == 0);
    kelpie_output_free(&output);
    *ret_vm = vm;
    return KELPIE_OK;
}

/* time: of the attempt that came up; may be NULL. */
static struct kelpie_vm *begin_surely(const struct other *other, struct pair *pair, bool restored,
                                      struct series *time) {
    struct kelpie_error err = {0};
    ASSERT(other->used);
    for (size_t i = 0; i < ATTEMPTS_MAX; i++) {
        struct kelpie_vm *vm = NULL;
        uint64_t start_ns = host_monotonic_ns(pair->host);
        if (begin(other, restored, &vm, &err) == KELPIE_OK) {
            if (time) {
                series_put(time, pair_ms_since(pair, start_ns));
            }
            return vm;
        }
        fprintf(stderr, "bench: %s did not %s: %s\n", other->spec->backend,
                restored ? "restore" : "boot", err.message);
    }
    exit(1);
}

void other_open(struct other *other, const struct other_spec *spec, struct pair *pair,
                struct report *report) {
    struct kelpie_probe probe = {0};
    struct kelpie_error err = {0};
    ASSERT(spec->boot);
    ASSERT(!spec->memory || spec->restore);
    const char *program = getenv(spec->variable);
    *other = (struct other){.spec = spec, .used = program && program[0]};
    if (!other->used) {
        return;
    }
    pair_check(kelpie_backend_probe(spec->backend, &probe, &err), spec->backend, &err);
    if (!probe.usable) {
        fprintf(stderr, "bench: %s is %s: %s\n", spec->variable, program, probe.reason);
        exit(1);
    }
    printf("%s: %s\n", spec->backend, probe.reason);
    other->boot = report_add(report, spec->boot, "ms", "lab.boot_exec", 0);
    if (spec->restore) {
        other->restore = report_add(report, spec->restore, "ms", "lab.restore_exec", 0);
        snprintf(other->bundle, sizeof(other->bundle), "%s/%s", pair->dir, spec->backend);
        struct kelpie_vm *vm = begin_surely(other, pair, false, NULL);
        pair_check(kelpie_vm_snapshot(vm, other->bundle, NULL, NULL, &err), "snapshot", &err);
        kelpie_vm_destroy(vm);
    }
    if (spec->memory) {
        other->memory = report_add(report, spec->memory, "KiB", "lab.memory", 0);
    }
}

void other_run(struct other *other, struct pair *pair) {
    if (!other->used) {
        return;
    }
    struct kelpie_vm *vm = begin_surely(other, pair, false, other->boot);
    if (other->memory && !pair_put_memory(pair, other->memory, kelpie_vm_process_id(vm), "")) {
        other->memory = NULL; /* the rest counts all the same */
    }
    kelpie_vm_destroy(vm);
    if (other->restore) {
        kelpie_vm_destroy(begin_surely(other, pair, true, other->restore));
    }
}

void other_close(struct other *other, struct pair *pair) {
    struct kelpie_error ignored;
    const struct other_spec *spec = other->spec;
    if (!other->used) {
        printf("%s: SKIPPED: set %s to %s\n", spec->backend, spec->variable, spec->install);
        return;
    }
    if (other->bundle[0]) {
        (void)!host_path_remove_folder(pair->host, other->bundle, &ignored);
    }
}
