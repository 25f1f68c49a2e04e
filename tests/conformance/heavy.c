/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What takes long: much output through a small owner, which is a process of its own, so that its memory is its own. */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conformance.h"

#define GIB ((uint64_t)1 << 30)
#define OWNER_KIB_MAX 65536
#define READ_SIZE 65536

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MEMORY_IS_OURS false /* a sanitizer's shadow counts too */
#else
#define MEMORY_IS_OURS true
#endif

/* The peak of this process's memory. */
static uint64_t peak_memory_kib(void) {
    FILE *file = fopen("/proc/self/status", "re");
    char line[256];
    unsigned long long peak = 0;
    while (file && fgets(line, sizeof(line), file)) {
        if (strncmp(line, "VmHWM:", 6) == 0) {
            peak = strtoull(line + 6, NULL, 10);
        }
    }
    if (file) {
        fclose(file);
    }
    return peak;
}

/* Reads all that the command writes. Returns how much was right. */
static uint64_t read_zeros(struct kelpie_exec *exec, struct kelpie_error *err) {
    static char buffer[READ_SIZE];
    static const char zeros[READ_SIZE];
    uint64_t done = 0;
    struct kelpie_chunk chunk = {.stream = KELPIE_STREAM_STDOUT};
    while (chunk.stream == KELPIE_STREAM_STDOUT) {
        chunk = (struct kelpie_chunk){.buffer = buffer, .size = sizeof(buffer)};
        if (kelpie_exec_read(exec, &chunk, WAIT_MS, err) != KELPIE_OK ||
            chunk.stream != KELPIE_STREAM_STDOUT || chunk.offset != done ||
            memcmp(buffer, zeros, chunk.size) != 0) {
            break;
        }
        done += chunk.size;
    }
    return done;
}

int heavy_owner(const char *backend) {
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = NULL;
    struct kelpie_exec *exec = NULL;
    const struct kelpie_config config = {.backend = backend};
    const struct kelpie_command command = {
        .argv = SHELL("dd if=/dev/zero bs=65536 count=16384 2>/dev/null")};
    uint64_t done = 0;
    struct kelpie_exit ended = {0};
    if (kelpie_vm_create(&config, &vm, &err) == KELPIE_OK &&
        kelpie_vm_start(vm, &err) == KELPIE_OK &&
        kelpie_exec_start(vm, &command, &exec, &err) == KELPIE_OK) {
        done = read_zeros(exec, &err);
    }
    if (done == GIB && kelpie_exec_wait(exec, WAIT_MS, &ended, &err) == KELPIE_OK) {
        done = ended.stdout_bytes;
    }
    kelpie_exec_close(exec);
    kelpie_vm_destroy(vm);
    uint64_t peak_kib = peak_memory_kib();
    printf("%" PRIu64 " bytes, %" PRIu64 " KiB of memory at most %s\n", done, peak_kib,
           err.message);
    bool is_small = !MEMORY_IS_OURS || (peak_kib > 0 && peak_kib < OWNER_KIB_MAX);
    return done == GIB && is_small ? 0 : 1;
}

/* 1 GiB goes by, in order and whole, and the owner stays small. */
static void test_a_gibibyte_of_output(void **state) {
    (void)state;
    assert_int_equal(run_new_process(ARGV("heavy", suite()->backend)), 0);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_a_gibibyte_of_output),
};
const struct group group_heavy = {
    .name = "heavy", .tests = tests, .count = sizeof(tests) / sizeof(tests[0])};
