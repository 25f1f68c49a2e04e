/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Two layers as one root, over folders in a mount namespace of this process's own; and what a superblock says. */
#include "overlay.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define PATH_SIZE 128

static char folder[] = "/tmp/kelpie-overlay-XXXXXX";
static char lower[PATH_SIZE];
static char upper[PATH_SIZE];
static char target[PATH_SIZE];
static bool may_mount;

static void path_of(char path[PATH_SIZE], const char *base, const char *name) {
    int size = snprintf(path, PATH_SIZE, "%s/%s", base, name);
    assert_in_range(size, 1, PATH_SIZE - 1);
}

static void store(const char *base, const char *name, const char *text) {
    char path[PATH_SIZE];
    path_of(path, base, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
}

static void expect(const char *base, const char *name, const char *text) {
    char path[PATH_SIZE];
    char found[64] = "";
    path_of(path, base, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        assert_null(text);
        return;
    }
    ssize_t size = read(fd, found, sizeof(found) - 1);
    close(fd);
    assert_true(size >= 0);
    assert_non_null(text);
    assert_string_equal(found, text);
}

/* Overlayfs wants an upper layer that can hold its attributes: a tmpfs. */
static int setup(void **state) {
    (void)state;
    if (!mkdtemp(folder)) {
        return -1;
    }
    path_of(lower, folder, "lower");
    path_of(upper, folder, "upper");
    path_of(target, folder, "target");
    if (mkdir(lower, 0755) != 0 || mkdir(upper, 0755) != 0 || mkdir(target, 0755) != 0) {
        return -1;
    }
    may_mount = unshare(CLONE_NEWNS) == 0 &&
                mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
                mount("tmpfs", upper, "tmpfs", 0, NULL) == 0;
    return 0;
}

static int teardown(void **state) {
    (void)state;
    char command[256];
    (void)umount2(target, MNT_DETACH);
    (void)umount2(upper, MNT_DETACH);
    snprintf(command, sizeof(command), "rm -rf %s", folder);
    return system(command);
}

static void what_is_written_goes_to_the_upper_layer(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    if (!may_mount) {
        skip();
    }
    store(lower, "kept", "of the image");
    store(lower, "changed", "before");
    store(lower, "removed", "soon gone");
    if (overlay_mount(lower, upper, target, &err) != KELPIE_OK) {
        assert_true(err.os_error == ENODEV || err.os_error == EPERM); /* no overlayfs here */
        skip();
    }
    char path[PATH_SIZE];
    store(target, "changed", "after");
    store(target, "new", "new");
    path_of(path, target, "removed");
    assert_int_equal(unlink(path), 0);
    expect(target, "kept", "of the image");
    expect(target, "changed", "after");
    expect(lower, "changed", "before");
    expect(lower, "removed", "soon gone");
    expect(lower, "new", NULL);

    /* The same layers again, as after a new start: what was written is there. */
    assert_int_equal(umount2(target, 0), 0);
    assert_int_equal(overlay_mount(lower, upper, target, &err), KELPIE_OK);
    expect(target, "changed", "after");
    expect(target, "new", "new");
    expect(target, "removed", NULL);
    expect(target, "kept", "of the image");
}

static void an_upper_layer_that_is_missing_is_said(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    assert_int_equal(overlay_mount(lower, "/nowhere-at-all", target, &err), KELPIE_NOT_FOUND);
    assert_int_equal(err.os_error, ENOENT);
    assert_non_null(strstr(err.message, "/nowhere-at-all/upper"));
}

static const char *type_of(size_t size, size_t offset, const char *magic, size_t magic_size) {
    char path[PATH_SIZE];
    uint8_t head[4096] = {0};
    path_of(path, folder, "head");
    memcpy(head + offset, magic, magic_size);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, head, size), size);
    close(fd);
    return overlay_lower_type(path);
}

static void superblocks_say_what_they_are(void **state) {
    (void)state;
    assert_string_equal(type_of(4096, 1024, "\xe2\xe1\xf5\xe0", 4), "erofs");
    assert_string_equal(type_of(4096, 1080, "\x53\xef", 2), "ext4");
    assert_string_equal(type_of(4096, 0, "hsqs", 4), "squashfs");
    assert_null(type_of(4096, 0, "\0", 1));
    assert_null(type_of(1080, 1024, "\xe2\xe1\xf5\xe0", 4)); /* cut */
    assert_null(type_of(4096, 1024, "\xe0\xf5\xe1\xe2", 4)); /* the other byte order */
    assert_null(overlay_lower_type("/nowhere-at-all"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_goes_to_the_upper_layer),
        cmocka_unit_test(an_upper_layer_that_is_missing_is_said),
        cmocka_unit_test(superblocks_say_what_they_are),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
