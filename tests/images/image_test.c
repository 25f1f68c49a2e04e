/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * An image made on the spot of a busybox and of what file systems can hold: through the command, past fsck.erofs where there is one,
 * and booted under QEMU where there is one, so that a Linux says what it finds. What is left out is said aloud.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/assert.h"
#include "kelpie_store.h"
#include "support/command.h"
#include "support/oci_layout.h"

#define BUSYBOX_SIZE_MAX (4u << 20)
#define BOOT_TIMEOUT_MS 120000

static char folder[64];
static char busybox[BUSYBOX_SIZE_MAX];
static size_t busybox_size;

static void run(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void run(const char *format, ...) {
    char command[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(command, sizeof(command), format, args);
    va_end(args);
    assert_int_equal(system(command), 0);
}

static bool load_busybox(void) {
    const char *const paths[] = {getenv("KELPIE_BUSYBOX"), "/bin/busybox", "/usr/bin/busybox"};
    for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
        FILE *stream = paths[i] ? fopen(paths[i], "r") : NULL;
        if (stream) {
            busybox_size = fread(busybox, 1, sizeof(busybox), stream);
            fclose(stream);
            return busybox_size > 0 && busybox_size < sizeof(busybox);
        }
    }
    return false;
}

/* CAP_DAC_OVERRIDE, permitted and effective (struct vfs_cap_data, revision 2). */
static const char capability[20] = {1, 0, 0, 2, 2};

/* Two layers: the second has a file with a capability, hides one file, and links to one of the first. */
static void write_layout(void) {
    static char long_name[256];
    char descriptor[OCI_TEXT_SIZE];
    char path[128];
    memset(long_name, 'n', sizeof(long_name) - 1);
    const struct oci_entry base[] = {
        {.path = "bin/busybox", .data = busybox, .size = busybox_size},
        {.path = "bin/sh", .type = S_IFLNK, .target = "busybox"},
        {.path = "etc/passwd", .data = "root:x:0:0::/:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n"},
        {.path = "etc/secret", .mode = 0600, .data = "secret\n"},
        {.path = "etc/owned",
         .mode = 0640,
         .uid = 70000,
         .gid = 4000000000,
         .data = "x",
         .modified = 1234567890},
        {.path = "etc/hidden", .data = "x"},
        {.path = "node", .type = S_IFCHR, .mode = 0622, .device_major = 259, .device_minor = 300},
        {.path = "fifo", .type = S_IFIFO, .mode = 0644},
        {.path = "tmp", .type = S_IFDIR, .mode = 01777},
        {.path = long_name, .data = "long\n"},
    };
    const struct oci_entry upper[] = {
        {.path = "cap/cat",
         .data = busybox,
         .size = busybox_size,
         .attribute = "security.capability",
         .attribute_value = capability,
         .attribute_size = sizeof(capability)},
        {.path = "etc/.wh.hidden"},
        {.path = "bin/linked", .link = "bin/busybox"},
    };
    struct oci_layer layers[] = {oci_layer_make(base, ARRAY_SIZE(base), OCI_GZIP),
                                 oci_layer_make(upper, ARRAY_SIZE(upper), OCI_ZSTD)};
    snprintf(path, sizeof(path), "%s/layout", folder);
    assert_int_equal(mkdir(path, 0755), 0);
    oci_layout_begin(path);
    oci_layout_image(path,
                     &(struct oci_image){.layers = layers,
                                         .layer_count = 2,
                                         .config = "{\"Cmd\": [\"sh\"], \"User\": \"user\", "
                                                   "\"Env\": [\"FROM=image\"]}"},
                     descriptor);
    oci_layout_index(path, descriptor);
    oci_layer_free(&layers[0]);
    oci_layer_free(&layers[1]);
}

static int setup(void **state) {
    (void)state;
    static const char *const variables[] = {"XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"};
    char path[128];
    snprintf(folder, sizeof(folder), "/tmp/kelpie-images-XXXXXX");
    assert_non_null(mkdtemp(folder));
    for (size_t i = 0; i < ARRAY_SIZE(variables); i++) {
        snprintf(path, sizeof(path), "%s/%s", folder, variables[i]);
        assert_int_equal(mkdir(path, 0700), 0);
        assert_int_equal(setenv(variables[i], path, 1), 0);
    }
    if (load_busybox()) {
        write_layout();
    }
    return 0;
}

static int teardown(void **state) {
    (void)state;
    run("rm -rf %s", folder);
    return 0;
}

static bool skip_without_busybox(void) {
    if (busybox_size == 0) {
        print_message("SKIPPED: there is no busybox of less than %u bytes\n", BUSYBOX_SIZE_MAX);
        skip();
    }
    return busybox_size == 0;
}

static void command(const char *const *argv, int code, const char *out, const char *error) {
    struct command_result result =
        command_run(&(struct command_spec){.argv = argv, .home = folder});
    if (result.code != code || (out && !strstr(result.out, out)) ||
        (error && !strstr(result.err, error))) {
        print_message("%s %s: code %d\n%s%s", argv[1], argv[2], result.code, result.out,
                      result.err);
        fail();
    }
    command_result_free(&result);
}

#define COMMAND(code, out, error, ...)                                                             \
    command((const char *const[]){"kelpie", __VA_ARGS__, NULL}, code, out, error)

static void the_command_keeps_images(void **state) {
    (void)state;
    char layout[128];
    if (skip_without_busybox()) {
        return;
    }
    snprintf(layout, sizeof(layout), "%s/layout", folder);
    COMMAND(0, "box: sha256:", NULL, "image", "build", "box", "--oci", layout);
    COMMAND(0, "\"name\":\"other\"", NULL, "image", "build", "--json", "--oci", layout, "other");
    COMMAND(0, "NAME   DIGEST", NULL, "images");
    COMMAND(0, "box\nother\n", NULL, "images", "-q");
    COMMAND(0, "\nbox    sha256:", NULL, "image", "ls");
    COMMAND(0, "\"env\":[\"FROM=image\"]", NULL, "images", "--json");
    COMMAND(0, "user          1000:1000\n", NULL, "image", "inspect", "box");
    COMMAND(0, "\"argv\":[\"sh\"],\"entrypoint_count\":0", NULL, "image", "inspect", "--json",
            "box");
    COMMAND(0, NULL, NULL, "image", "rm", "other");
    COMMAND(125, NULL, "there is no image other", "image", "rm", "other", "box");
    COMMAND(0, "[]\n", NULL, "images", "--json");
}

static void the_command_says_what_is_wrong(void **state) {
    (void)state;
    COMMAND(125, NULL, "the image's name is missing", "image", "build", "--tar", "x");
    COMMAND(125, NULL, "one of --dir, --tar and --oci", "image", "build", "x");
    COMMAND(125, NULL, "one of --dir, --tar and --oci", "image", "build", "x", "--tar", "a",
            "--dir", "b");
    COMMAND(125, NULL, "word too many", "image", "build", "x", "y", "--tar", "a");
    COMMAND(125, NULL, "there is no source", "image", "build", "x", "--tar", "/nowhere/x.tar");
    COMMAND(125, "\"status\":", "there is no source", "image", "build", "x", "--json", "--tar",
            "/nowhere/x.tar");
    COMMAND(125, NULL, "did you mean build?", "image", "biuld");
    COMMAND(125, NULL, "there is no image nothing", "image", "inspect", "nothing");
    COMMAND(125, NULL, "--arch: ", "image", "build", "x", "--arch", "", "--oci", "a");
    COMMAND(125, "usage: kelpie image", NULL, "image");
    COMMAND(0, "usage: kelpie image build NAME", NULL, "image", "build", "--help");
    COMMAND(0, "usage: kelpie image COMMAND", NULL, "image", "--help");
}

/* The image "box", as the library knows it; for kelpie_list_free(). */
static struct kelpie_image *build_box(void) {
    char layout[128];
    struct kelpie_image *image = NULL;
    struct kelpie_error err;
    snprintf(layout, sizeof(layout), "%s/layout", folder);
    if (kelpie_image_build(
            NULL, "box", &(struct kelpie_image_options){.source = KELPIE_IMAGE_OCI, .path = layout},
            &image, &err) != KELPIE_OK) {
        fail_msg("%s", err.message);
    }
    return image;
}

static void fsck_finds_nothing_wrong(void **state) {
    (void)state;
    if (skip_without_busybox()) {
        return;
    }
    if (system("command -v fsck.erofs > /dev/null") != 0) {
        print_message("SKIPPED: there is no fsck.erofs (erofs-utils)\n");
        skip();
    }
    struct kelpie_image *image = build_box();
    run("fsck.erofs %s > %s/fsck 2>&1 || { cat %s/fsck; exit 1; }", image->path, folder, folder);
    kelpie_list_free(image);
}

/* What Linux says of the image. A user with the capability reads what only root may; that user may not without. */
static const char script[] =
    "stat -c '%n %a %u:%g %h %t,%T %F' /etc/owned /etc/secret /bin/busybox /bin/linked /node "
    "/fifo "
    "/tmp /cap/cat\n"
    "stat -c '%n %Y' /etc/owned; readlink /bin/sh; ls /n*n | wc -c; cat /n*n\n"
    "test -e /etc/hidden || echo hidden\n"
    "cmp /bin/busybox /cap/cat && echo same\n"
    "echo written > /etc/secret; cat /etc/secret; rm /fifo; test -e /fifo || echo removed\n";
static const char expected[] = "/etc/owned 640 70000:4000000000 1 0,0 regular file\n"
                               "/etc/secret 600 0:0 1 0,0 regular file\n"
                               "/bin/busybox 755 0:0 2 0,0 regular file\n"
                               "/bin/linked 755 0:0 2 0,0 regular file\n"
                               "/node 622 0:0 1 103,12c character special file\n"
                               "/fifo 644 0:0 1 0,0 fifo\n"
                               "/tmp 1777 0:0 2 0,0 directory\n"
                               "/cap/cat 755 0:0 1 0,0 regular file\n"
                               "/etc/owned 1234567890\n"
                               "busybox\n"
                               "257\n"
                               "long\n"
                               "hidden\n"
                               "same\n"
                               "written\n"
                               "removed\n";

static void assert_command(struct kelpie_vm *vm, const struct kelpie_command *said, int code,
                           const char *out) {
    struct kelpie_output output;
    struct kelpie_error err;
    if (kelpie_vm_exec(vm, said, &output, &err) != KELPIE_OK) {
        fail_msg("%s", err.message);
    }
    if (output.exit.code != code || strcmp(output.stdout_data, out) != 0) {
        print_message("%s%s", output.stdout_data, output.stderr_data);
    }
    assert_int_equal(output.exit.code, code);
    assert_string_equal(output.stdout_data, out);
    kelpie_output_free(&output);
}

static void linux_finds_what_the_layers_had(void **state) {
    (void)state;
    struct kelpie_probe probe;
    struct kelpie_vm *vm = NULL;
    struct kelpie_error err;
    if (skip_without_busybox()) {
        return;
    }
    if (kelpie_backend_probe("qemu", &probe, &err) != KELPIE_OK || !probe.usable) {
        print_message("SKIPPED: no QEMU: %s\n", probe.reason);
        skip();
    }
    kelpie_list_free(build_box());
    const struct kelpie_config config = {
        .backend = "qemu", .image = "box", .boot_timeout_ms = BOOT_TIMEOUT_MS};
    if (kelpie_vm_create(&config, &vm, &err) != KELPIE_OK ||
        kelpie_vm_start(vm, &err) != KELPIE_OK) {
        fail_msg("%s", err.message);
    }
    const char *const look[] = {"/bin/sh", "-c", script, NULL};
    const char *const cat[] = {"/cap/cat", "/etc/secret", NULL};
    const char *const plain[] = {"/bin/busybox", "cat", "/etc/secret", NULL};
    assert_command(vm, &(struct kelpie_command){.argv = cat, .uid = 1000, .gid = 1000}, 0,
                   "secret\n");
    assert_command(vm, &(struct kelpie_command){.argv = plain, .uid = 1000, .gid = 1000}, 1, "");
    assert_command(vm, &(struct kelpie_command){.argv = look}, 0, expected);
    kelpie_vm_destroy(vm);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(the_command_keeps_images),
        TEST(the_command_says_what_is_wrong),
        TEST(fsck_finds_nothing_wrong),
        TEST(linux_finds_what_the_layers_had),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
