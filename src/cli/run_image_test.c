/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What is run in an image: the image's words, place and user, and what the command line says instead. */
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "base/assert.h"
#include "cli/run.h"
#include "support/oci_layout.h"

static char folder[64];

static void build_image(const char *name, const char *config) {
    char path[128];
    char descriptor[OCI_TEXT_SIZE];
    snprintf(path, sizeof(path), "%s/layout-%s", folder, name);
    const struct oci_entry entries[] = {{.path = "a", .data = "a"}};
    struct oci_layer layer = oci_layer_make(entries, ARRAY_SIZE(entries), OCI_PLAIN);
    assert_int_equal(mkdir(path, 0700), 0);
    oci_layout_begin(path);
    oci_layout_image(path,
                     &(struct oci_image){.layers = &layer, .layer_count = 1, .config = config},
                     descriptor);
    oci_layout_index(path, descriptor);
    oci_layer_free(&layer);
    struct kelpie_error err;
    struct kelpie_image *image = NULL;
    struct kelpie_image_options options = {.source = KELPIE_IMAGE_OCI, .path = path};
    if (kelpie_image_build(NULL, name, &options, &image, &err) != KELPIE_OK) {
        fail_msg("%s", err.message);
    }
    kelpie_list_free(image);
}

static int build_images(void **state) {
    (void)state;
    snprintf(folder, sizeof(folder), "/tmp/kelpie-image-XXXXXX");
    assert_non_null(mkdtemp(folder));
    setenv("XDG_DATA_HOME", folder, 1);
    setenv("XDG_STATE_HOME", folder, 1);
    setenv("XDG_RUNTIME_DIR", folder, 1);
    build_image("both", "{\"Entrypoint\": [\"/e\", \"-x\"], \"Cmd\": [\"one\", \"two\"], "
                        "\"User\": \"12:34\", \"WorkingDir\": \"/w\", \"Env\": [\"A=1\"]}");
    build_image("cmd", "{\"Cmd\": [\"sh\"]}");
    build_image("none", "{}");
    return 0;
}

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *walk) {
    (void)info;
    (void)type;
    (void)walk;
    return remove(path);
}

static int remove_images(void **state) {
    (void)state;
    return nftw(folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

/* The command's words with spaces between, for `kelpie run <words>`. */
static enum kelpie_status load(const char *const *argv, struct run_options *options,
                               struct run *run, struct kelpie_error *err) {
    struct option_words words = {.words = argv};
    while (argv[words.count]) {
        words.count++;
    }
    TRY(options_parse(&run_option_table, &words, options, err));
    TRY(run_options_complete(options, &words, err));
    run->options = options;
    run->env = options->machine.env;
    return run_image_load(run, err);
}

static const char *join(const char *const *argv) {
    static char text[256];
    size_t used = 0;
    text[0] = 0;
    for (size_t i = 0; argv && argv[i]; i++) {
        used += (size_t)snprintf(text + used, sizeof(text) - used, i == 0 ? "%s" : " %s", argv[i]);
    }
    return argv ? text : "nothing";
}

static void test_the_words(void **state) {
    (void)state;
    static const struct {
        const char *argv[8];
        const char *words; /* NULL: an error */
        uint32_t uid;
        uint32_t gid;
    } rows[] = {
        {{"both"}, "/e -x one two", 12, 34},
        {{"both", "--", "three"}, "/e -x three", 12, 34},
        {{"-u", "7", "both"}, "/e -x one two", 7, 7},
        {{"-u", "0", "both"}, "/e -x one two", 0, 0}, /* root is said, not left out */
        {{"cmd"}, "sh", 0, 0},
        {{"cmd", "--", "ls", "-l"}, "ls -l", 0, 0},
        {{"none", "--", "ls"}, "ls", 0, 0},
        {{"none"}, NULL, 0, 0},
        {{"-d", "none"}, "nothing", 0, 0}, /* a VM that waits for others */
        {{"nosuch", "--", "ls"}, NULL, 0, 0},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct run_options *options = calloc(1, sizeof(*options));
        struct run *run = calloc(1, sizeof(*run));
        assert_non_null(options);
        assert_non_null(run);
        struct kelpie_error err;
        enum kelpie_status status = load(rows[i].argv, options, run, &err);
        assert_int_equal(status == KELPIE_OK, rows[i].words != NULL);
        if (status == KELPIE_OK) {
            struct kelpie_command command = run_command(run);
            assert_string_equal(join(command.argv), rows[i].words);
            assert_int_equal(command.uid, rows[i].uid);
            assert_int_equal(command.gid, rows[i].gid);
        }
        run->options = options;
        run_deinit(run);
        run_options_deinit(options);
        free(run);
        free(options);
    }
}

/* The image's environment and folder stay the VM's, and those of the command line are the command's beside them. */
static void test_the_machine(void **state) {
    (void)state;
    static const char *const argv[] = {"-e", "B=2", "-w", "/v", "--cold", "both", NULL};
    struct run_options *options = calloc(1, sizeof(*options));
    struct run *run = calloc(1, sizeof(*run));
    assert_non_null(options);
    assert_non_null(run);
    struct kelpie_error err;
    assert_int_equal(load(argv, options, run, &err), KELPIE_OK);
    struct kelpie_config config = run_config(run);
    struct kelpie_command command = run_command(run);
    assert_string_equal(config.image, "both");
    assert_false(config.warm);
    assert_null(config.env);
    assert_null(config.working_dir);
    assert_string_equal(join(command.env), "B=2");
    assert_string_equal(command.working_dir, "/v");
    run_deinit(run);
    run_options_deinit(options);
    free(run);
    free(options);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_words),
        cmocka_unit_test(test_the_machine),
    };
    return cmocka_run_group_tests_name("cli/run_image", tests, build_images, remove_images);
}
