/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What the tests of warm starts have in common: a store of their own, its templates, and VMs on the mock. */
#ifndef KELPIE_VM_WARM_HARNESS_TEST_H
#define KELPIE_VM_WARM_HARNESS_TEST_H

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/assert.h"
#include "vm/warm.h"

#define PATH_SIZE 512
#define MEMORY_MIB 64

static char folder[64];
static char shelf[PATH_SIZE];

static int setup(void **state) {
    (void)state;
    snprintf(folder, sizeof(folder), "/tmp/kelpie-warm-XXXXXX");
    if (!mkdtemp(folder)) {
        return -1;
    }
    snprintf(shelf, sizeof(shelf), "%s/kelpie/templates", folder);
    return setenv("XDG_STATE_HOME", folder, 1) | setenv("XDG_DATA_HOME", folder, 1) |
           setenv("XDG_RUNTIME_DIR", folder, 1) | setenv("XDG_CACHE_HOME", folder, 1);
}

static int teardown(void **state) {
    (void)state;
    char command[PATH_SIZE];
    snprintf(command, sizeof(command), "rm -rf %s", folder);
    return system(command);
}

/* Templates that are whole; and, if wanted, where the first is. */
static size_t templates(char *ret_path) {
    size_t count = 0;
    DIR *entries = opendir(shelf);
    for (struct dirent *entry = entries ? readdir(entries) : NULL; entry;
         entry = readdir(entries)) {
        if (entry->d_name[0] == '.' || strchr(entry->d_name, '.')) {
            continue; /* in the making, or the store's own */
        }
        if (ret_path) {
            snprintf(ret_path, PATH_SIZE, "%.200s/%.200s", shelf, entry->d_name);
        }
        count++;
    }
    if (entries) {
        closedir(entries);
    }
    return count;
}

static void forget_templates(void) {
    char command[2 * PATH_SIZE];
    snprintf(command, sizeof(command), "rm -rf %s", shelf);
    assert_int_equal(system(command), 0);
}

static struct kelpie_vm *vm_make(const struct kelpie_config *config) {
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = NULL;
    if (kelpie_vm_create(config, &vm, &err) != KELPIE_OK) {
        fail_msg("%s", err.message);
    }
    return vm;
}

static struct kelpie_config config_of(const char *name) {
    return (struct kelpie_config){
        .backend = "mock", .name = name, .memory_mib = MEMORY_MIB, .warm = true};
}

static void vm_start(struct kelpie_vm *vm) {
    struct kelpie_error err = {0};
    if (kelpie_vm_start(vm, &err) != KELPIE_OK) {
        fail_msg("%s", err.message);
    }
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_RUNNING);
}

static bool was_warm(struct kelpie_vm *vm) {
    struct kelpie_restore_report report;
    return kelpie_vm_restore_report(vm, &report, NULL) == KELPIE_OK;
}

#endif
