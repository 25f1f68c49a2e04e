/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What kelpie-krun and its owner say to each other, and what it makes of the libraries; its process is tested with the
 * backend (src/backend/libkrun/libkrun_test.c). */
#include <elf.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/assert.h"
#include "krun/control.h"
#include "krun/kernel.h"
#include "krun/library.h"

/* ---- Orders ----------------------------------------------------------------------------------- */

static size_t argc_of(const struct krun_argv *argv) {
    size_t count = 0;
    while (argv->argv[count]) {
        count++;
    }
    return count;
}

static void an_order_comes_back_as_it_was(void **state) {
    const struct krun_order order = {
        .verb = KRUN_VERB_RUN,
        .library = "/lib/libkrun.so.1",
        .kernel = "",
        .vcpu_count = 32,
        .memory_mib = 65536,
        .disk_count = 3,
        .read_only = {false, true, false},
        .network = KRUN_NETWORK_TAP,
        .mac = {2, 0, 0, 0, 0, 9},
        .tap = "tap7",
        .command_line = "console=hvc0 a b",
    };
    struct krun_argv argv;
    struct krun_order back;
    (void)state;
    krun_argv_build(&argv, "program", &order);
    assert_string_equal(argv.argv[0], "program");
    assert_int_equal(argc_of(&argv), KRUN_ARGV_COUNT);
    assert_true(krun_argv_parse(KRUN_ARGV_COUNT, argv.argv, &back));
    assert_int_equal(back.verb, KRUN_VERB_RUN);
    assert_string_equal(back.library, order.library);
    assert_string_equal(back.kernel, "");
    assert_int_equal(back.vcpu_count, 32);
    assert_int_equal(back.memory_mib, 65536);
    assert_int_equal(back.disk_count, 3);
    assert_memory_equal(back.read_only, order.read_only, sizeof(order.read_only));
    assert_int_equal(back.network, KRUN_NETWORK_TAP);
    assert_memory_equal(back.mac, order.mac, MAC_SIZE);
    assert_string_equal(back.tap, "tap7");
    assert_string_equal(back.command_line, order.command_line);
    krun_argv_build(&argv, "program",
                    &(struct krun_order){.library = "", .kernel = "/lib/libkrunfw.so.5"});
    assert_int_equal(argc_of(&argv), 4);
    assert_true(krun_argv_parse(4, argv.argv, &back));
    assert_int_equal(back.verb, KRUN_VERB_PROBE);
    assert_string_equal(back.kernel, "/lib/libkrunfw.so.5");
}

static void what_is_no_order_is_refused(void **state) {
    static const char *const wrong[][KRUN_ARGV_COUNT] = {
        {"p", "run", "", ""},
        {"p", "probe", "", "", "1", "64", "", ""},
        {"p", "run", "", "", "", "64", "", ""},
        {"p", "run", "", "", "33", "64", "", ""},
        {"p", "run", "", "", "-1", "64", "", ""},
        {"p", "run", "", "", "1x", "64", "", ""},
        {"p", "run", "", "", "1", "65537", "", ""},
        {"p", "run", "", "", "1", "99999999999999999999", "", ""},
        {"p", "run", "", "", "1", "64", "x", ""},
        {"p", "run", "", "", "1", "64", "wwwwwwwww", ""},
        {"p", "run", "", "", "1", "64", "", "", "more", "02:00:00:00:00:01", ""},
        {"p", "run", "", "", "1", "64", "", "", "stream", "02:00:00:00:00", ""},
        {"p", "run", "", "", "1", "64", "", "", "stream", "02:00:00:00:00:01", "tap0"},
        {"p", "run", "", "", "1", "64", "", "", "tap", "02:00:00:00:00:01", ""},
    };
    static const char *const right[KRUN_ARGV_COUNT] = {
        "p", "run", "", "", "1", "64", "", "", "stream", "02:00:00:00:00:01", ""};
    struct krun_order order;
    (void)state;
    assert_true(krun_argv_parse(KRUN_ARGV_COUNT, right, &order));
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
        const char *words[KRUN_ARGV_COUNT];
        for (size_t j = 0; j < KRUN_ARGV_COUNT; j++) {
            words[j] = wrong[i][j] ? wrong[i][j] : right[j];
        }
        assert_false(krun_argv_parse(wrong[i][4] ? KRUN_ARGV_COUNT : 4, words, &order));
    }
    assert_false(krun_argv_parse(0, NULL, &order));
    assert_false(krun_argv_parse(5, wrong[2], &order));
}

/* ---- Messages --------------------------------------------------------------------------------- */

static void decode(const struct krun_message *message, struct krun_message *ret_back) {
    static char line[KRUN_LINE_SIZE_MAX + 1];
    size_t size = krun_message_encode(message, line, sizeof(line));
    assert_true(size > 0 && size <= KRUN_LINE_SIZE_MAX);
    assert_int_equal(strlen(line), size);
    assert_int_equal(line[size - 1], '\n');
    line[size - 1] = '\0';
    assert_null(strchr(line, '\n'));
    assert_true(krun_message_decode(line, ret_back));
    assert_int_equal(ret_back->word, message->word);
}

static void a_message_comes_back_as_it_was(void **state) {
    struct krun_message back;
    (void)state;
    for (unsigned word = KRUN_WORD_CONSOLE; word <= KRUN_WORD_DONE; word++) {
        decode(&(struct krun_message){.word = (enum krun_word)word}, &back);
    }
    decode(&(struct krun_message){.word = KRUN_WORD_FOUND,
                                  .abi = 2,
                                  .can = KRUN_CAN_PAUSE | KRUN_CAN_STREAM,
                                  .version = "2.0.0",
                                  .library = "/a b/libkrun.so.2",
                                  .kernel = "k"},
           &back);
    assert_int_equal(back.abi, 2);
    assert_int_equal(back.can, KRUN_CAN_PAUSE | KRUN_CAN_STREAM);
    assert_string_equal(back.version, "2.0.0");
    assert_string_equal(back.library, "/a b/libkrun.so.2");
    assert_string_equal(back.kernel, "k");
    decode(&(struct krun_message){.word = KRUN_WORD_FAILED,
                                  .status = KELPIE_BOOT_FAILED,
                                  .text = "a\ttab and\na newline"},
           &back);
    assert_int_equal(back.status, KELPIE_BOOT_FAILED);
    assert_string_equal(back.text, "a tab and a newline");
}

static void a_message_is_never_too_long(void **state) {
    struct krun_message back;
    static char text[3 * KRUN_LINE_SIZE_MAX];
    (void)state;
    memset(text, 'x', sizeof(text) - 1);
    decode(
        &(struct krun_message){
            .word = KRUN_WORD_FOUND, .abi = 1, .version = "1", .library = text, .kernel = text},
        &back);
    assert_true(strlen(back.library) > 2 * KELPIE_PATH_SIZE_MAX);
    assert_string_equal(back.kernel, "");
}

static void what_is_no_message_is_refused(void **state) {
    static const char *const wrong[] = {
        "",
        "\t",
        "foun",
        "found",
        "found\t1\t1.0\t0\tlibrary",
        "found\t1\t1.0\t0\tlibrary\tkernel\tmore",
        "found\t0\t1.0\t0\tlibrary\tkernel",
        "found\t3\t1.0\t0\tlibrary\tkernel",
        "found\tx\t1.0\t0\tlibrary\tkernel",
        "found\t1\t1.0\t8\tlibrary\tkernel",
        "found\t1\t01234567890123456789012345678901\t0\tlibrary\tkernel",
        "console\tmore",
        "done\t",
        "failed\t1",
        "failed\t0\tnothing",
        "failed\t9999\ttext",
        "failed\t-1\ttext",
        "failed\t1\ttext\tmore",
    };
    struct krun_message message;
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
        char line[128];
        snprintf(line, sizeof(line), "%s", wrong[i]);
        assert_false(krun_message_decode(line, &message));
    }
}

/* ---- Libraries -------------------------------------------------------------------------------- */

static void a_version_is_that_of_the_files_name(void **state) {
    static const struct {
        const char *path;
        const char *version; /* NULL: none */
    } paths[] = {
        {"/usr/lib/libkrun.so.1.19.0", "1.19.0"},
        {"libkrun.so.2.0", "2.0"},
        {"/usr/lib/libkrun.so.1", NULL},
        {"/usr/lib/libkrun.so", NULL},
        {"/usr/lib.so.1.2.3/libkrun", NULL},
        {"/usr/lib/libkrun.so.1.2.3-beta", NULL},
        {"/usr/lib/libkrun.so.", NULL},
        {"/usr/lib/libkrun.so.1.2222222222222222222222222222222222222222222", NULL},
        {"", NULL},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
        char version[KRUN_VERSION_SIZE_MAX + 1] = "unchanged";
        bool has = krun_version_parse(paths[i].path, version, sizeof(version));
        assert_int_equal(has, paths[i].version != NULL);
        assert_string_equal(version, has ? paths[i].version : "unchanged");
    }
}

static void libraries_are_told_apart_by_what_they_have(void **state) {
    static struct krun_library library;
    struct kelpie_error err;
    (void)state;
    unsetenv("FAKE_KRUN");
    assert_int_equal(krun_library_load(&library, KRUN_FAKE_FOLDER "libkrun.so.1.17.0",
                                       KRUN_FAKE_FOLDER "libkrunfw.so.5.0.0", &err),
                     KELPIE_OK);
    assert_int_equal(library.abi, 1);
    assert_int_equal(library.can, KRUN_CAN_STREAM | KRUN_CAN_TAP);
    assert_string_equal(library.version, "1.17.0");
    assert_non_null(strstr(library.kernel_path, "/libkrunfw.so.5.0.0"));
    assert_int_equal(library.path[0], '/'); /* without links, and not what was asked for */
    assert_int_equal(krun_library_load(&library, KRUN_FAKE_FOLDER "libkrun-still.so.2.0.0",
                                       KRUN_FAKE_FOLDER "libkrunfw.so.5.0.0", &err),
                     KELPIE_OK);
    assert_int_equal(library.abi, 2);
    assert_int_equal(library.can, 0);
    assert_int_equal(krun_library_load(&library, "", "", &err), KELPIE_BACKEND_MISSING);
}

/* ---- The kernel ------------------------------------------------------------------------------- */

static char *no_kernel(uint64_t *ret_load, uint64_t *ret_entry, size_t *ret_size) {
    *ret_load = *ret_entry = 0;
    *ret_size = 0;
    static char byte[1];
    return byte;
}

static char *large_kernel(uint64_t *ret_load, uint64_t *ret_entry, size_t *ret_size) {
    char *bytes = no_kernel(ret_load, ret_entry, ret_size);
    *ret_size = KRUN_KERNEL_SIZE_MAX + 1;
    return bytes;
}

static char *small_kernel(uint64_t *ret_load, uint64_t *ret_entry, size_t *ret_size) {
    static char bytes[] = "kernel";
    *ret_load = 0x1000000;
    *ret_entry = 0x1000200;
    *ret_size = sizeof(bytes);
    return bytes;
}

static void a_kernel_becomes_a_file_that_libkrun_boots(void **state) {
    struct kelpie_error err;
    uint8_t file[KRUN_ELF_HEADER_SIZE + 16];
    Elf64_Ehdr header;
    Elf64_Phdr segment;
    int fd = -1;
    (void)state;
    assert_int_equal(krun_kernel_file(small_kernel, &fd, &err), KELPIE_OK);
    assert_int_equal(pread(fd, file, sizeof(file), 0), KRUN_ELF_HEADER_SIZE + 7);
    close(fd);
    memcpy(&header, file, sizeof(header));
    memcpy(&segment, file + header.e_phoff, sizeof(segment));
    assert_memory_equal(header.e_ident, ELFMAG, SELFMAG);
    assert_int_equal(header.e_entry, 0x1000200);
    assert_int_equal(header.e_phnum, 1);
    assert_int_equal(segment.p_type, PT_LOAD);
    assert_int_equal(segment.p_paddr, 0x1000000);
    assert_int_equal(segment.p_filesz, 7);
    assert_int_equal(segment.p_memsz, 7);
    assert_string_equal(file + segment.p_offset, "kernel");
}

static void hazard_a17_what_is_no_kernel_is_refused(void **state) {
    struct kelpie_error err;
    int fd = -1;
    (void)state;
    assert_int_equal(krun_kernel_file(no_kernel, &fd, &err), KELPIE_BAD_CONFIG);
    assert_int_equal(krun_kernel_file(large_kernel, &fd, &err), KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, "kernel");
    assert_int_equal(fd, -1);
    assert_false(krun_kernel_is_there(no_kernel));
    assert_false(krun_kernel_is_there(large_kernel));
    assert_true(krun_kernel_is_there(small_kernel));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_order_comes_back_as_it_was),
        cmocka_unit_test(what_is_no_order_is_refused),
        cmocka_unit_test(a_message_comes_back_as_it_was),
        cmocka_unit_test(a_message_is_never_too_long),
        cmocka_unit_test(what_is_no_message_is_refused),
        cmocka_unit_test(a_version_is_that_of_the_files_name),
        cmocka_unit_test(libraries_are_told_apart_by_what_they_have),
        cmocka_unit_test(a_kernel_becomes_a_file_that_libkrun_boots),
        cmocka_unit_test(hazard_a17_what_is_no_kernel_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
