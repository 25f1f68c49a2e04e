/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What a restore refuses before it makes anything: there is no KVM here. */
#include "vmm/machine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/assert.h"

#define MEMORY_MIB 2u
#define MEMORY_SIZE ((off_t)MEMORY_MIB << 20)

static int file_of(off_t size) {
    int fd = memfd_create("part", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, size), 0);
    return fd;
}

static void expect_corrupt(off_t state_size, off_t memory_size, const char *part) {
    static struct machine machine;
    static const struct control_machine config = {
        .vcpu_count = 1, .memory_mib = MEMORY_MIB, .channel_port = 1024};
    struct kelpie_error err = {0};
    struct machine_files files;
    memset(&files, 0xff, sizeof(files)); /* -1: none */
    files.fds[CONTROL_ROLE_STATE] = file_of(state_size);
    files.fds[CONTROL_ROLE_MEMORY] = file_of(memory_size);
    memset(&machine, 0, sizeof(machine));
    assert_int_equal(machine_load(&machine, &config, &files, &err), KELPIE_SNAPSHOT_CORRUPT);
    assert_string_equal(err.field, part);
    assert_null(machine.host_memory);
    close(files.fds[CONTROL_ROLE_STATE]);
    close(files.fds[CONTROL_ROLE_MEMORY]);
}

/* No memory, too little, too much, a part of a page more or less. */
static void hazard_b2_a_memory_of_another_size_is_refused(void **state) {
    static const off_t sizes[] = {
        0,
        1,
        VMM_PAGE_SIZE,
        MEMORY_SIZE - (off_t)VMM_PAGE_SIZE,
        MEMORY_SIZE - 1,
        MEMORY_SIZE + 1,
        MEMORY_SIZE + (off_t)VMM_PAGE_SIZE,
        2 * MEMORY_SIZE,
        MEMORY_SIZE + ((off_t)1 << 32),
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        expect_corrupt(64, sizes[i], "memory");
    }
}

static void hazard_b2_a_state_of_an_impossible_size_is_refused(void **state) {
    (void)state;
    expect_corrupt(0, MEMORY_SIZE, "state");
    expect_corrupt((off_t)VMM_STATE_SIZE_MAX + 1, MEMORY_SIZE, "state");
    expect_corrupt((off_t)1 << 40, MEMORY_SIZE, "state");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hazard_b2_a_memory_of_another_size_is_refused),
        cmocka_unit_test(hazard_b2_a_state_of_an_impossible_size_is_refused),
    };
    return cmocka_run_group_tests_name("machine", tests, NULL, NULL);
}
