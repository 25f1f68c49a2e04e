/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Libraries that are libkrunfw, and that are not quite, made by the compiler that made this test. */
#include "host/host_krunfw.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "host/host_linux.h"

static struct host *host;
static char folder[] = "/tmp/kelpie-krunfw-XXXXXX";

/* A library whose function has this body. */
static void make_library(const char *name, const char *function, const char *body) {
    char path[128];
    char command[512];
    snprintf(path, sizeof(path), "%s/source.c", folder);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fprintf(file,
            "#include <stddef.h>\n#include <stdint.h>\n"
            "char *%s(uint64_t *load, uint64_t *entry, size_t *size) {\n%s\n}\n",
            function, body);
    assert_int_equal(fclose(file), 0);
    snprintf(command, sizeof(command), "cc -shared -fPIC -o %s/%s %s", folder, name, path);
    assert_int_equal(system(command), 0);
}

static enum kelpie_status load(const char *name, struct host_krunfw *ret_kernel) {
    char path[128];
    struct kelpie_error err = {.status = KELPIE_OK};
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    *ret_kernel = (struct host_krunfw){.fd = HOST_FD_NONE};
    enum kelpie_status status = host_krunfw_load(host, path, ret_kernel, &err);
    if (status != KELPIE_OK) {
        assert_int_equal(status, KELPIE_BAD_CONFIG);
        assert_string_equal(err.field, "kernel");
        assert_non_null(strstr(err.message, name));
        assert_int_equal(ret_kernel->fd, HOST_FD_NONE);
    }
    return status;
}

static void check_kernel(struct host_krunfw *kernel) {
    char bytes[64] = {0};
    assert_int_equal(kernel->size, 9);
    assert_int_equal(kernel->load_gpa, 0x1000000);
    assert_int_equal(kernel->entry_gpa, 0x1000123);
    assert_int_equal(pread(kernel->fd, bytes, sizeof(bytes), 0), 9);
    assert_memory_equal(bytes, "kernel...", 9);
    close(kernel->fd);
}

static void a_kernel_is_copied(void **state) {
    (void)state;
    struct host_krunfw kernel;
    make_library(
        "good.so", "krunfw_get_kernel",
        "static char bytes[] = \"kernel...\"; *load = 0x1000000; *entry = 0x1000123; *size "
        "= 9; return bytes;");
    assert_int_equal(load("good.so", &kernel), KELPIE_OK);
    check_kernel(&kernel);
}

/* A name alone is a file here, not one that the loader looks for. */
static void a_name_alone_is_a_file_of_the_working_folder(void **state) {
    (void)state;
    struct host_krunfw kernel = {.fd = HOST_FD_NONE};
    struct kelpie_error err = {.status = KELPIE_OK};
    char *here = getcwd(NULL, 0);
    assert_non_null(here);
    assert_int_equal(chdir(folder), 0);
    assert_int_equal(host_krunfw_load(host, "good.so", &kernel, &err), KELPIE_OK);
    check_kernel(&kernel);
    assert_int_equal(host_krunfw_load(host, "libm.so.6", &kernel, &err), KELPIE_BAD_CONFIG);
    assert_non_null(strstr(err.message, "cannot be loaded"));
    assert_int_equal(chdir(here), 0);
    free(here);
}

static void hazard_a17_a_library_that_says_nonsense(void **state) {
    static const char *const bodies[] = {
        "*load = *entry = 0x1000000; *size = 9; return NULL;",
        "*load = *entry = 0x1000000; *size = 0; static char b[9]; return b;",
        "*load = *entry = 0x1000000; *size = 268435457; static char b[9]; return b;",
        "*load = *entry = 0x1000000; *size = SIZE_MAX; static char b[9]; return b;",
        "static char b[9]; (void)load; (void)entry; (void)size; return b;",
    };
    (void)state;
    struct host_krunfw kernel;
    for (size_t i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++) {
        char name[32];
        snprintf(name, sizeof(name), "bad%zu.so", i);
        make_library(name, "krunfw_get_kernel", bodies[i]);
        assert_int_equal(load(name, &kernel), KELPIE_BAD_CONFIG);
    }
}

static void what_is_not_the_library_is_refused(void **state) {
    (void)state;
    struct host_krunfw kernel;
    char command[128];
    make_library("other.so", "something_else", "return NULL;");
    assert_int_equal(load("other.so", &kernel), KELPIE_BAD_CONFIG);
    snprintf(command, sizeof(command), "echo text >%s/text.so", folder);
    assert_int_equal(system(command), 0);
    assert_int_equal(load("text.so", &kernel), KELPIE_BAD_CONFIG);
    assert_int_equal(load("missing.so", &kernel), KELPIE_BAD_CONFIG);
}

static int setup(void **state) {
    (void)state;
    assert_non_null(mkdtemp(folder));
    return host_linux_create(&host, NULL) == KELPIE_OK ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    char command[128];
    host_destroy(host);
    snprintf(command, sizeof(command), "rm -r %s", folder);
    return system(command);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_kernel_is_copied),
        cmocka_unit_test(a_name_alone_is_a_file_of_the_working_folder),
        cmocka_unit_test(hazard_a17_a_library_that_says_nonsense),
        cmocka_unit_test(what_is_not_the_library_is_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
