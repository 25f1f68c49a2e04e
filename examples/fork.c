/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Boots a VM, prepares something in it, and forks it: four children go on from there, each in its own way.
 *
 *     gcc fork.c $(pkg-config --cflags --libs kelpie) -o fork && ./fork [BACKEND]
 */
#include <kelpie.h>
#include <stdio.h>

#define CHILD_COUNT 4

/* Runs a line of shell and prints what it wrote. */
static bool run(struct kelpie_vm *vm, const char *line) {
    struct kelpie_error err;
    struct kelpie_output output = {0};
    const char *argv[] = {"sh", "-c", line, NULL};

    if (kelpie_vm_exec(vm, &(struct kelpie_command){.argv = argv}, &output, &err) != KELPIE_OK) {
        fprintf(stderr, "fork: %s\n", err.message);
        return false;
    }
    fwrite(output.stdout_data, 1, output.stdout_size, stdout);
    bool succeeded = output.exit.code == 0;
    kelpie_output_free(&output);
    return succeeded;
}

/* Each child finds what the parent prepared, and changes it for itself alone. */
static bool use_children(struct kelpie_fork_child *children) {
    bool succeeded = true;
    for (size_t i = 0; i < CHILD_COUNT; i++) {
        char line[128];
        if (!children[i].vm) { /* the others are none the worse for it */
            fprintf(stderr, "fork: child %zu: %s\n", i + 1, children[i].error.message);
            succeeded = false;
            continue;
        }
        snprintf(line, sizeof(line), "echo plan %zu >> /tmp/work; hostname; cat /tmp/work", i + 1);
        succeeded = run(children[i].vm, line) && succeeded;
        kelpie_vm_destroy(children[i].vm);
    }
    return succeeded;
}

int main(int argc, char **argv) {
    struct kelpie_error err;
    struct kelpie_vm *vm = NULL;
    struct kelpie_fork_child children[CHILD_COUNT] = {0};
    const struct kelpie_config config = {.name = "agent", .backend = argc > 1 ? argv[1] : NULL};
    bool succeeded = false;

    if (kelpie_vm_create(&config, &vm, &err) != KELPIE_OK ||
        kelpie_vm_start(vm, &err) != KELPIE_OK) {
        fprintf(stderr, "fork: %s\n", err.message);
    } else if (!run(vm, "echo prepared > /tmp/work")) {
        fprintf(stderr, "fork: a command failed\n");
    } else if (kelpie_vm_fork(vm, NULL, CHILD_COUNT, children, &err) != KELPIE_OK) {
        fprintf(stderr, "fork: %s\n", err.message);
    } else {
        succeeded = use_children(children) && run(vm, "hostname; cat /tmp/work");
    }
    kelpie_vm_destroy(vm);
    return succeeded ? 0 : 1;
}
