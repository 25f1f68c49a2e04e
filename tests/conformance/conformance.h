/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The conformance suite: what every backend must do, tested through kelpie.h and nothing else.
 *
 * conformance_test.c runs the groups of cases below once for each backend; a backend's capabilities say which
 * cases it can run, and what is skipped is said and counted. Booting is dear under emulation, so the cases of
 * exec.c, stream.c and files.c share one VM; those of lifecycle.c, snapshot.c and heavy.c have their own.
 * Commands are written for busybox and for the mock's shell alike.
 */
#ifndef KELPIE_TESTS_CONFORMANCE_H
#define KELPIE_TESTS_CONFORMANCE_H

/* cmocka.h wants these before it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kelpie.h"
#include "kelpie_store.h"

#define WAIT_MS 60000 /* of a single wait: generous, for emulation on a busy machine */
#define COUNTER_SIZE 600000

#define ARGV(...) ((const char *const[]){__VA_ARGS__, NULL})
#define SHELL(line) ARGV("sh", "-c", line)

/* Fails the test, with the error's text, unless the call is KELPIE_OK, or fails as it must. */
#define OK(call) expect((call), KELPIE_OK, &err, #call, __FILE__, __LINE__)
#define FAILS(call, status) expect((call), status, &err, #call, __FILE__, __LINE__)
void expect(enum kelpie_status status, enum kelpie_status expected, const struct kelpie_error *err,
            const char *what, const char *file, int line);

/* What the cases of one run share. */
struct suite {
    const char *backend;
    const char *program; /* this program, for a second process */
    uint32_t capabilities;
    uint32_t vcpu_count;  /* of each VM; 0: the default */
    struct kelpie_vm *vm; /* the shared one, running; NULL in groups that have none */
    const char *store;    /* where owners keep VMs; NULL: they are this process's */
    char folder[256];     /* an empty folder of this host */
    uint32_t skipped;
};
struct suite *suite(void);

/* cmocka's group set-ups: with and without a shared VM. */
int group_vm_start(void **state);
int group_vm_stop(void **state);

/* Empties the suite's folder: after each case, so that one that failed does not fail the next. */
int folder_clear(void **state);

/* Skips the case, aloud, unless the backend can. */
void need(enum kelpie_capability capability, const char *what);

/* Skips the rest of a case for a reason that no capability says. */
void skip_aloud(const char *reason);

/* A VM of the suite's backend. */
struct kelpie_vm *make_vm(void);
struct kelpie_vm *start_vm(void);

/* Kills the VM as a crash would. */
void crash_vm(struct kelpie_vm *vm);

/* Removes a bundle. */
void bundle_remove(const char *path);

/* Both run the shell line, and say different things of the same length. */
void expect_different(struct kelpie_vm *a, struct kelpie_vm *b, const char *line);

/* Every line of the VM's restore report is done, or is of something that does not exist there. */
void expect_fresh(struct kelpie_vm *vm);

/* A path in the suite's folder. The text lives until the next call but seven. */
const char *host_path(const char *name);
void host_file_write(const char *path, const void *data, size_t size, unsigned mode);
char *host_file_read(const char *path, size_t *ret_size); /* for free() */

/* Runs a shell line and expects its exit code and standard output (NULL: any). */
void expect_shell(struct kelpie_vm *vm, const char *line, int code, const char *output);

/* Reads standard output until `size` bytes have come or it ends; returns how many came. */
size_t read_stdout(struct kelpie_exec *exec, char *buffer, size_t size);

/* A command that counts for ever, "1\n2\n…", and the bytes that it prints. */
struct kelpie_exec *counter_start(struct kelpie_vm *vm);
const char *counter_text(void);

/* Reads at least `size` bytes of the counter and checks each against its offset; returns the next offset. */
uint64_t counter_check(struct kelpie_exec *exec, uint64_t offset, size_t size);

/* Bytes that look random, the same each time. */
void pattern_fill(uint8_t *data, size_t size, uint32_t seed);

/* The cases, a group each. */
struct group {
    const char *name;
    const struct CMUnitTest *tests;
    size_t count;
    int has_vm;
};
extern const struct group group_lifecycle;
extern const struct group group_exec;
extern const struct group group_stream;
extern const struct group group_files;
extern const struct group group_trees;
extern const struct group group_populate;
extern const struct group group_snapshot;
extern const struct group group_checkpoint;
extern const struct group group_disks;
extern const struct group group_diff;
extern const struct group group_fork;
extern const struct group group_network;
extern const struct group group_heavy;

/* Runs this program anew with these arguments and returns its exit code. */
int run_new_process(const char *const *arguments);

/* What it does then: snapshot.c's restores and goes on; heavy.c's is an owner that does nothing else. */
int snapshot_go_on(const char *directory, const char *exec_id, const char *offset);
int heavy_owner(const char *backend);

#endif
