/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* A folder of a test's own, in which images are made of what it writes there, and then read back. */
#ifndef KELPIE_TESTS_SUPPORT_IMAGE_FIXTURE_H
#define KELPIE_TESTS_SUPPORT_IMAGE_FIXTURE_H

#include <fcntl.h>
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
#include "image/rootfs.h"
#include "support/erofs_view.h"
#include "support/oci_layout.h"

#define BYTES_MAX (64u << 20)

static struct host *host;
static struct host_wait wait;
static struct kelpie_error err;
static char folder[64];
static char cache[80];
static struct image_rootfs rootfs;
static int image_fd = -1;
static struct erofs_view view;

static inline void run(const char *format, ...) __attribute__((format(printf, 1, 2)));
static inline void run(const char *format, ...) {
    char command[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(command, sizeof(command), format, args);
    va_end(args);
    assert_int_equal(system(command), 0);
}

static inline int setup(void **state) {
    (void)state;
    snprintf(folder, sizeof(folder), "/tmp/kelpie-rootfs-XXXXXX");
    assert_non_null(mkdtemp(folder));
    snprintf(cache, sizeof(cache), "%s/cache", folder);
    assert_int_equal(setenv("XDG_CACHE_HOME", cache, 1), 0);
    assert_int_equal(host_linux_create(&host, NULL), KELPIE_OK);
    wait = host_wait_ms(host, 60000, HOST_FD_NONE);
    memset(&rootfs, 0, sizeof(rootfs));
    return 0;
}

static inline void forget(void) {
    image_rootfs_deinit(&rootfs);
    erofs_view_close(&view);
    if (image_fd >= 0) {
        close(image_fd);
    }
    image_fd = -1;
}

static inline int teardown(void **state) {
    (void)state;
    forget();
    run("rm -rf %s", folder);
    host_destroy(host);
    return 0;
}

static inline const char *path_of(const char *name) {
    static char path[512];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    return path;
}

static inline enum kelpie_status try_build(const struct image_rootfs_options *wanted) {
    struct image_rootfs_options options = *wanted;
    char path[512];
    snprintf(path, sizeof(path), "%s", path_of(wanted->path));
    options.path = path;
    options.architecture = options.architecture ? options.architecture : oci_this_architecture();
    options.bytes_max = options.bytes_max ? options.bytes_max : BYTES_MAX;
    forget();
    image_fd = open(folder, O_TMPFILE | O_RDWR, 0600);
    assert_true(image_fd >= 0);
    error_clear(&err);
    enum kelpie_status status = image_rootfs_build(host, &options, &wait, image_fd, &rootfs, &err);
    if (status == KELPIE_OK) {
        char digest[OCI_DIGEST_SIZE];
        view = erofs_view_open(image_fd);
        assert_int_equal(view.size, rootfs.size);
        oci_digest(view.data, view.size, digest);
        assert_string_equal(digest, rootfs.digest);
    }
    return status;
}

static inline void build_tar(const char *name) {
    assert_int_equal(
        try_build(&(struct image_rootfs_options){.source = IMAGE_ROOTFS_TAR, .path = name}),
        KELPIE_OK);
}

static inline enum kelpie_status try_oci(const char *name) {
    return try_build(&(struct image_rootfs_options){.source = IMAGE_ROOTFS_OCI, .path = name});
}

static inline void refused(enum kelpie_status status, const char *why) {
    assert_int_equal(status, KELPIE_BAD_CONFIG);
    assert_non_null(strstr(err.message, why));
}

static inline struct erofs_view_inode inode_at(const char *path) {
    struct erofs_view_inode inode;
    assert_true(erofs_view_find(&view, path, &inode));
    return inode;
}

static inline bool is_there(const char *path) {
    struct erofs_view_inode inode;
    return erofs_view_find(&view, path, &inode);
}

static inline void assert_content(const char *path, const char *expected) {
    struct erofs_view_inode inode = inode_at(path);
    char *data = erofs_view_read(&view, &inode);
    assert_string_equal(data, expected);
    assert_int_equal(inode.size, strlen(expected));
    free(data);
}

static inline void write_tar(const char *name, const struct oci_entry *entries, size_t count,
                             enum oci_compression compression) {
    struct oci_layer layer = oci_layer_make(entries, count, compression);
    oci_write_file(folder, name, layer.data, layer.size);
    oci_layer_free(&layer);
}

/* A layout "layout" of these layers, which are freed. */
static inline void write_layout(struct oci_layer *layers, size_t count, const char *config) {
    char descriptor[OCI_TEXT_SIZE];
    assert_int_equal(mkdir(path_of("layout"), 0755), 0);
    oci_layout_begin(path_of("layout"));
    oci_layout_image(path_of("layout"),
                     &(struct oci_image){.layers = layers, .layer_count = count, .config = config},
                     descriptor);
    oci_layout_index(path_of("layout"), descriptor);
    for (size_t i = 0; i < count; i++) {
        oci_layer_free(&layers[i]);
    }
}

#endif
