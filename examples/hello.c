/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Boots a VM, runs commands in it, snapshots it to disk, destroys it, and restores it.
 *
 *     gcc hello.c $(pkg-config --cflags --libs kelpie) -o hello && ./hello [BACKEND]
 */
#include <kelpie.h>
#include <stdio.h>
#include <stdlib.h>

/* Runs one command and prints what it wrote. False: it could not be run, or it failed. */
static bool run(struct kelpie_vm *vm, const char *const *argv) {
    struct kelpie_error err;
    struct kelpie_output output = {0};
    struct kelpie_command command = {.argv = argv, .timeout_ms = 30000};

    if (kelpie_vm_exec(vm, &command, &output, &err) != KELPIE_OK) {
        fprintf(stderr, "hello: %s\n", err.message);
        return false;
    }
    fwrite(output.stdout_data, 1, output.stdout_size, stdout);
    bool succeeded = output.exit.code == 0;
    kelpie_output_free(&output);
    return succeeded;
}

/* Boots, writes a file in the guest, and snapshots. */
static bool make_bundle(const char *backend, const char *bundle) {
    struct kelpie_error err;
    struct kelpie_config config = {.backend = backend, .memory_mib = 256};
    struct kelpie_vm *vm = NULL;
    struct kelpie_snapshot snapshot;
    const char *const greet[] = {"echo", "hello from the guest", NULL};
    const char *const remember[] = {"sh", "-c", "echo remembered > /tmp/note", NULL};

    bool done = false;
    if (kelpie_vm_create(&config, &vm, &err) != KELPIE_OK ||
        kelpie_vm_start(vm, &err) != KELPIE_OK) {
        fprintf(stderr, "hello: %s\n", err.message);
    } else if (!run(vm, greet) || !run(vm, remember)) {
        fprintf(stderr, "hello: a command failed\n");
    } else if (kelpie_vm_snapshot(vm, bundle, NULL, &snapshot, &err) != KELPIE_OK) {
        fprintf(stderr, "hello: %s\n", err.message);
    } else {
        printf("%s snapshot %s\n", kelpie_vm_backend(vm), snapshot.id);
        done = true;
    }
    kelpie_vm_destroy(vm);
    return done;
}

/* Restores and reads the file. */
static bool use_bundle(const char *bundle) {
    struct kelpie_error err;
    struct kelpie_vm *vm = NULL;
    const char *const recall[] = {"cat", "/tmp/note", NULL};

    if (kelpie_vm_create_from_snapshot(bundle, NULL, NULL, &vm, &err) != KELPIE_OK) {
        fprintf(stderr, "hello: %s\n", err.message);
        return false;
    }
    bool done = run(vm, recall);
    kelpie_vm_destroy(vm);
    return done;
}

int main(int argc, char **argv) {
    const char *backend = argc > 1 ? argv[1] : "auto";
    const char *bundle = "hello.bundle";

    return make_bundle(backend, bundle) && use_bundle(bundle) ? EXIT_SUCCESS : EXIT_FAILURE;
}
