/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Runs the suite for every backend that can be used here, or for those in $KELPIE_CONFORMANCE_BACKENDS
 * (names with commas). $KELPIE_CONFORMANCE_GROUPS limits the groups in the same way, $KELPIE_CONFORMANCE_CASES the
 * cases; $KELPIE_CONFORMANCE_LEAVE_OUT names groups of one backend (qemu.heavy) that are skipped, aloud.
 * $KELPIE_CONFORMANCE_UNPROBED runs a backend that cannot run Linux here: what it is given runs none.
 * $KELPIE_CONFORMANCE_VCPUS is how many vCPUs each VM has. With $KELPIE_CONFORMANCE_OWNED each has an owner of its own, which is
 * this program too.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "conformance.h"

#define ARRAY_COUNT(array) (sizeof(array) / sizeof((array)[0]))

static struct suite the_suite;
static size_t case_count; /* that were chosen */

struct suite *suite(void) {
    return &the_suite;
}

static const struct group *const groups[] = {
    &group_lifecycle, &group_exec,     &group_stream,     &group_files, &group_trees,
    &group_populate,  &group_snapshot, &group_checkpoint, &group_disks, &group_diff,
    &group_fork,      &group_network,  &group_heavy,
};

/* True when the list is missing, or names it. */
static bool is_listed(const char *list, const char *name) {
    size_t size = strlen(name);
    while (list && *list) {
        size_t part = strcspn(list, ",");
        if (part == size && strncmp(list, name, size) == 0) {
            return true;
        }
        list += part;
        list += *list == ',';
    }
    return !list;
}

static void test_left_out(void **state) {
    (void)state;
    skip_aloud("left out by KELPIE_CONFORMANCE_LEAVE_OUT");
}

/* One skipped case instead of the group's. */
static int leave_out_group(const char *name) {
    const struct CMUnitTest left_out = {.name = name, .test_func = test_left_out};
    case_count++;
    return _cmocka_run_group_tests(name, &left_out, 1, NULL, NULL);
}

static int run_group(const struct group *group) {
    char name[64];
    snprintf(name, sizeof(name), "%s.%s", suite()->backend, group->name);
    const char *left_out = getenv("KELPIE_CONFORMANCE_LEAVE_OUT");
    if (left_out && is_listed(left_out, name)) {
        return leave_out_group(name);
    }
    struct CMUnitTest *tests = calloc(group->count, sizeof(*tests));
    char(*names)[128] = calloc(group->count, sizeof(*names));
    if (!tests || !names) {
        abort();
    }
    size_t count = 0;
    for (size_t i = 0; i < group->count; i++) {
        if (is_listed(getenv("KELPIE_CONFORMANCE_CASES"), group->tests[i].name)) {
            snprintf(names[count], sizeof(names[count]), "%s.%s", name, group->tests[i].name);
            tests[count] = group->tests[i];
            tests[count].name = names[count];
            tests[count].teardown_func = folder_clear;
            count++;
        }
    }
    case_count += count;
    /* The macro for arrays counts its own way. */
    int failed = count == 0 ? 0
                            : _cmocka_run_group_tests(name, tests, count,
                                                      group->has_vm ? group_vm_start : NULL,
                                                      group->has_vm ? group_vm_stop : NULL);
    free(tests);
    free(names);
    return failed;
}

/* A VM may have fewer than its backend: the version that is here decides. */
static uint32_t capabilities_of(const struct kelpie_backend *backend) {
    struct kelpie_error err;
    struct kelpie_vm *vm = NULL;
    const struct kelpie_config config = {.backend = backend->name};
    if (kelpie_vm_create(&config, &vm, &err) != KELPIE_OK) {
        fprintf(stderr, "%s: no VM could be made: %s\n", backend->name, err.message);
        return backend->capabilities;
    }
    uint32_t capabilities = kelpie_vm_capabilities(vm);
    kelpie_vm_destroy(vm);
    return capabilities;
}

static int run_backend(const struct kelpie_backend *backend) {
    int failed = 0;
    suite()->backend = backend->name;
    suite()->capabilities = capabilities_of(backend);
    for (size_t i = 0; i < ARRAY_COUNT(groups); i++) {
        if (is_listed(getenv("KELPIE_CONFORMANCE_GROUPS"), groups[i]->name)) {
            failed += run_group(groups[i]);
        }
    }
    return failed;
}

/* Each VM has an owner, which this program is too; what they keep is beside the suite's folder, which is emptied. */
static void have_owners(void) {
    static char store[sizeof(((struct suite *)0)->folder) + 16];
    snprintf(store, sizeof(store), "%s.store", suite()->folder);
    if (mkdir(store, 0700) != 0) {
        perror(store);
        exit(1);
    }
    suite()->store = store;
    setenv("XDG_STATE_HOME", store, 1);
    setenv("XDG_DATA_HOME", store, 1);
    setenv("XDG_RUNTIME_DIR", store, 1);
}

/* Returns how many VMs were left behind. */
static int count_what_owners_left(void) {
    struct kelpie_vm_info *list = NULL;
    size_t count = 0;
    char command[sizeof(((struct suite *)0)->folder) + 32];
    if (!suite()->store) {
        return 0;
    }
    if (kelpie_vm_list(NULL, &list, &count, NULL) != KELPIE_OK || count > 0) {
        fprintf(stderr, "%s: %zu VMs were left behind\n", suite()->store, count);
        return 1;
    }
    kelpie_list_free(list);
    snprintf(command, sizeof(command), "rm -r %s", suite()->store);
    return system(command) == 0 ? 0 : 1;
}

int main(int argc, char **argv) {
    if (argc == 5 && strcmp(argv[1], "go-on") == 0) {
        return snapshot_go_on(argv[2], argv[3], argv[4]);
    }
    if (argc == 3 && strcmp(argv[1], "heavy") == 0) {
        return heavy_owner(argv[2]);
    }
    if (argc == 2 && strcmp(argv[1], "supervise") == 0) {
        return kelpie_supervise(NULL, 3, -1);
    }
    const char *wanted = getenv("KELPIE_CONFORMANCE_BACKENDS");
    const char *temporary = getenv("TMPDIR");
    static char program[4096];
    ssize_t size = readlink("/proc/self/exe", program, sizeof(program) - 1);
    suite()->program = size > 0 ? program : argv[0];
    snprintf(suite()->folder, sizeof(suite()->folder), "%s/kelpie-conformance-XXXXXX",
             temporary ? temporary : "/tmp");
    if (!mkdtemp(suite()->folder)) {
        perror(suite()->folder);
        return 1;
    }
    if (getenv("KELPIE_CONFORMANCE_OWNED")) {
        have_owners();
    }
    const char *vcpus = getenv("KELPIE_CONFORMANCE_VCPUS");
    suite()->vcpu_count = vcpus ? (uint32_t)strtoul(vcpus, NULL, 10) : 0;
    struct kelpie_backend backends[KELPIE_BACKEND_COUNT_MAX];
    size_t count = kelpie_backend_list(backends, KELPIE_BACKEND_COUNT_MAX);
    int failed = 0;
    size_t run = 0;
    for (size_t i = 0; i < count; i++) {
        struct kelpie_probe probe = {0};
        struct kelpie_error err = {0};
        if (!is_listed(wanted, backends[i].name)) {
            printf("skipped backend %s: not asked for\n", backends[i].name);
        } else if (kelpie_backend_probe(backends[i].name, &probe, &err) != KELPIE_OK ||
                   (!probe.usable && !getenv("KELPIE_CONFORMANCE_UNPROBED"))) {
            printf("skipped backend %s: %s %s\n", backends[i].name, probe.reason, err.message);
            failed += wanted != NULL; /* who asks for it wants it tested */
        } else {
            failed += run_backend(&backends[i]);
            run++;
        }
        fflush(stdout);
    }
    printf("conformance: %zu backends, %u cases skipped, %d failed\n", run, suite()->skipped,
           failed);
    if (run > 0 && case_count == 0) {
        fprintf(stderr, "no case has one of these names\n");
        failed++;
    }
    failed += count_what_owners_left();
    if (rmdir(suite()->folder) != 0) {
        fprintf(stderr, "%s is not empty: a case left something behind\n", suite()->folder);
        failed++;
    }
    return failed == 0 && run > 0 ? 0 : 1;
}
