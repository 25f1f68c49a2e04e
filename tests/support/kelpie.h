/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The command, several times over one store: what `kelpie` is to somebody whose VMs outlive it.
 *
 *     kelpie_home_create();                    // a store of its own, in a scratch folder
 *     struct kelpie_result result = kelpie_run(WORDS("ls", "-a"), NULL);
 *     assert_int_equal(result.code, 0);
 *     kelpie_home_remove();                    // fails when an owner's process is left
 */
#ifndef KELPIE_TESTS_SUPPORT_KELPIE_H
#define KELPIE_TESTS_SUPPORT_KELPIE_H

#include <stddef.h>

#define KELPIE_TEST_SECONDS_MAX 60
#define KELPIE_TEST_OUTPUT_MAX 262144
#define WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})

struct kelpie_result {
    int code; /* exit code, or 128 + the signal that killed it; -1: it took longer than KELPIE_TEST_SECONDS_MAX */
    char *out; /* valid until the next kelpie_run() */
    char *err;
};

/* Points XDG_STATE_HOME, XDG_DATA_HOME and XDG_RUNTIME_DIR to a new folder, and goes there. */
void kelpie_home_create(void);

/* Removes every VM and the folder. Returns how many owners' sockets were left. */
int kelpie_home_remove(void);

/* Runs the `kelpie` that was built with this test; `words` are what stands behind it. */
struct kelpie_result kelpie_run(const char *const *words, const char *input);

/* Runs any program so. */
struct kelpie_result kelpie_run_program(const char *const *argv, const char *input);

/* Where that `kelpie` lies. */
const char *kelpie_program(void);

#endif
