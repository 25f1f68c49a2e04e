/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The cache, packages, the initramfs and disks, on the real file system. apt is played by shell scripts, so that
 * no test needs a network. */
#include "image/image_internal.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/assert.h"

#define KERNEL_SIZE 8192
#define RELEASE "6.1.0-9-cloud-amd64"
#define PACKAGE_FILE "linux-image-6.1.0-9-cloud-amd64_6.1.9_amd64.deb"

static struct host *host;
static struct host_wait forever;
static char folder[64];
static char *real_path;

static void run(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void run(const char *format, ...) {
    char command[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(command, sizeof(command), format, args);
    va_end(args);
    assert_int_equal(system(command), 0);
}

static void write_file(const char *name, const void *data, size_t size, mode_t mode) {
    char path[256];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, mode);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, data, size), size);
    close(fd);
}

static void make_kernel(uint8_t data[KERNEL_SIZE]) {
    static const char version[] = RELEASE " (test) #1";
    memset(data, 0, KERNEL_SIZE);
    data[0x1f1] = 3;
    data[0x1f4] = (KERNEL_SIZE - 2048) / 16 & 0xff;
    data[0x1f5] = (KERNEL_SIZE - 2048) / 16 >> 8;
    memcpy(data + 0x1fe, "\x55\xaaxxHdrS\x0f\x02", 10);
    data[0x20f] = 1;
    data[0x211] = 1;
    memcpy(data + 0x300, version, sizeof(version));
}

struct entry {
    const char *name;
    unsigned type;
    const char *link;
    const void *data;
    size_t size;
};

static void write_tar(struct archive *tar, const struct entry *entries, size_t count) {
    for (size_t i = 0; i < count; i++) {
        struct archive_entry *entry = archive_entry_new();
        archive_entry_set_pathname(entry, entries[i].name);
        archive_entry_set_filetype(entry, entries[i].type);
        archive_entry_set_perm(entry, 0777);
        archive_entry_set_size(entry, (la_int64_t)entries[i].size);
        if (entries[i].link && entries[i].type == AE_IFLNK) {
            archive_entry_set_symlink(entry, entries[i].link);
        } else if (entries[i].link) {
            archive_entry_set_hardlink(entry, entries[i].link);
        }
        assert_int_equal(archive_write_header(tar, entry), ARCHIVE_OK);
        assert_int_equal(archive_write_data(tar, entries[i].data, entries[i].size),
                         entries[i].size);
        archive_entry_free(entry);
    }
}

/* A package with these files, in the test's folder. */
static void make_package(const char *name, const struct entry *entries, size_t count) {
    char path[256];
    size_t size = 0;
    char *data = malloc(1048576);
    struct archive *tar = archive_write_new();
    assert_int_equal(archive_write_set_format_gnutar(tar), ARCHIVE_OK);
    assert_int_equal(archive_write_add_filter_xz(tar), ARCHIVE_OK);
    assert_int_equal(archive_write_open_memory(tar, data, 1048576, &size), ARCHIVE_OK);
    write_tar(tar, entries, count);
    archive_write_free(tar);
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    struct archive *outer = archive_write_new();
    assert_int_equal(archive_write_set_format_ar_svr4(outer), ARCHIVE_OK);
    assert_int_equal(archive_write_open_filename(outer, path), ARCHIVE_OK);
    const struct entry members[] = {{"debian-binary", AE_IFREG, NULL, "2.0\n", 4},
                                    {"data.tar.xz", AE_IFREG, NULL, data, size}};
    write_tar(outer, members, 2);
    archive_write_free(outer);
    free(data);
}

/* The kernel's package, and programs that play apt: each download is counted in "downloads". */
static void play_apt(void) {
    uint8_t kernel[KERNEL_SIZE];
    make_kernel(kernel);
    const struct entry entries[] = {
        {"./boot/vmlinuz-" RELEASE, AE_IFREG, NULL, kernel, sizeof(kernel)},
        {"./lib/modules/" RELEASE "/modules.order", AE_IFREG, NULL, "", 0},
    };
    char script[512];
    make_package(PACKAGE_FILE, entries, ARRAY_SIZE(entries));
    run("mkdir -p %s/bin", folder);
    int size = snprintf(script, sizeof(script),
                        "#!/bin/sh\nprintf 'Package: x\\nDepends: linux-image-6.1.0-9-cloud-amd64 "
                        "(= 6.1.9)\\n'\n");
    write_file("bin/apt-cache", script, (size_t)size, 0755);
    size = snprintf(script, sizeof(script),
                    "#!/bin/sh\necho x >>%s/downloads\nsleep 0.2\ncp %s/%s .\n", folder, folder,
                    PACKAGE_FILE);
    write_file("bin/apt-get", script, (size_t)size, 0755);
}

static int set_up(void **state) {
    char text[4096];
    (void)state;
    snprintf(folder, sizeof(folder), "/tmp/kelpie-image-XXXXXX");
    if (host_linux_create(&host, NULL) != KELPIE_OK || !mkdtemp(folder)) {
        return -1;
    }
    forever = host_wait_ms(host, 600000, HOST_FD_NONE);
    real_path = strdup(getenv("PATH"));
    snprintf(text, sizeof(text), "%s/bin:%s", folder, real_path);
    setenv("PATH", text, 1);
    snprintf(text, sizeof(text), "%s/cache", folder);
    setenv("XDG_CACHE_HOME", text, 1);
    unsetenv("KELPIE_KERNEL");
    unsetenv("KELPIE_BUSYBOX");
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    setenv("PATH", real_path, 1);
    free(real_path);
    run("rm -rf %s", folder);
    host_destroy(host);
    return 0;
}

static size_t count_in(const char *name) {
    char path[256];
    struct host_dir_entry entries[32];
    size_t count = 0;
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    assert_int_equal(host_dir_list(host, path, entries, ARRAY_SIZE(entries), &count, NULL),
                     KELPIE_OK);
    return count;
}

static size_t download_count(void) {
    char path[128];
    struct stat info;
    snprintf(path, sizeof(path), "%s/downloads", folder);
    return stat(path, &info) == 0 ? (size_t)info.st_size / 2 : 0;
}

static void test_package_keeps_only_known_regular_files(void **state) {
    static const struct entry entries[] = {
        {"./boot/vmlinuz-1", AE_IFREG, NULL, "kernel", 6},
        {"./lib/modules/1/a.ko", AE_IFREG, NULL, "module", 6},
        {"./lib/modules/../../../escaped", AE_IFREG, NULL, "x", 1},
        {"/lib/modules/absolute", AE_IFREG, NULL, "x", 1},
        {"../escaped", AE_IFREG, NULL, "x", 1},
        {"./lib/modules/1/build", AE_IFLNK, "/tmp", "", 0},
        {"./lib/modules/1/hard", AE_IFREG, "./boot/vmlinuz-1", "", 0},
        {"./lib/modules/1/fifo", AE_IFIFO, NULL, "", 0},
        {"./etc/passwd", AE_IFREG, NULL, "x", 1},
    };
    (void)state;
    char package[128];
    char target[128];
    struct kelpie_error err;
    make_package("hostile.deb", entries, ARRAY_SIZE(entries));
    snprintf(package, sizeof(package), "%s/hostile.deb", folder);
    snprintf(target, sizeof(target), "%s/out/in", folder);
    run("mkdir -p %s", target);
    assert_int_equal(image_package_unpack(host, package, target, &forever, &err), KELPIE_OK);
    assert_int_equal(count_in("out"), 1);
    assert_int_equal(count_in("out/in"), 2);
    assert_int_equal(count_in("out/in/boot"), 1);
    assert_int_equal(count_in("out/in/lib/modules"), 1);
    assert_int_equal(count_in("out/in/lib/modules/1"), 1);
    /* A link that another entry writes through cannot exist; a name that comes twice is refused. */
    const struct entry twice[] = {entries[0], entries[0]};
    make_package("twice.deb", twice, 2);
    snprintf(package, sizeof(package), "%s/twice.deb", folder);
    run("rm -rf %s/*", target);
    assert_int_equal(image_package_unpack(host, package, target, &forever, &err), KELPIE_IO_FAILED);
    run("rm -rf %s/out", folder);
}

static void test_package_that_is_cut_is_refused(void **state) {
    (void)state;
    char path[128];
    struct image_path made;
    struct kelpie_error err;
    struct stat info;
    play_apt();
    snprintf(path, sizeof(path), "%s/%s", folder, PACKAGE_FILE);
    assert_int_equal(stat(path, &info), 0);
    for (off_t size = 0; size < info.st_size - 64; size += info.st_size / 7) {
        play_apt();
        assert_int_equal(truncate(path, size), 0);
        assert_int_equal(image_package_fetch(host, "kernels", "linux-image", &forever, &made, &err),
                         KELPIE_IO_FAILED);
        assert_int_equal(count_in("cache/kelpie/kernels"), 0);
        assert_int_equal(count_in("cache/kelpie/tmp"), 0);
    }
    run("rm -rf %s/cache %s/downloads", folder, folder);
}

static void test_kernel_is_fetched_once_by_many(void **state) {
    (void)state;
    struct image_kernel *kernel = calloc(1, sizeof(*kernel));
    struct kelpie_error err;
    play_apt();
    /* What a fetcher that was killed has left. */
    run("mkdir -p %s/cache/kelpie/tmp/kernels-dead/root/a/b && touch "
        "%s/cache/kelpie/tmp/kernels-dead/"
        "root/a/b/c",
        folder, folder);
    for (int i = 0; i < 3; i++) {
        if (fork() == 0) {
            struct host *own = NULL;
            bool made = host_linux_create(&own, NULL) == KELPIE_OK &&
                        image_kernel_find(own, NULL, &forever, kernel, NULL) == KELPIE_OK;
            _exit(made ? 0 : 1);
        }
    }
    for (int i = 0; i < 3; i++) {
        int status = -1;
        assert_true(wait(&status) > 0);
        assert_int_equal(status, 0);
    }
    assert_int_equal(download_count(), 1);
    assert_int_equal(image_kernel_find(host, NULL, &forever, kernel, &err), KELPIE_OK);
    assert_int_equal(download_count(), 1); /* The cache answers, not apt. */
    assert_string_equal(kernel->release, RELEASE);
    assert_non_null(strstr(kernel->path, "/cache/kelpie/kernels/linux-image-6.1.0-9"));
    assert_non_null(strstr(kernel->modules_dir, "lib/modules/" RELEASE));
    assert_int_equal(strlen(kernel->digest), 64);
    assert_int_equal(count_in("cache/kelpie/tmp"), 0);
    free(kernel);
}

static void test_requested_kernel_is_never_replaced(void **state) {
    static const char *const names[] = {"none", "text"};
    (void)state;
    char path[128];
    struct image_kernel *kernel = calloc(1, sizeof(*kernel));
    struct kelpie_error err;
    play_apt();
    write_file("text", "no kernel", 9, 0600);
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        snprintf(path, sizeof(path), "%s/%s", folder, names[i]);
        assert_int_equal(image_kernel_find(host, path, &forever, kernel, &err), KELPIE_BAD_CONFIG);
        assert_string_equal(err.field, "kernel");
        assert_non_null(strstr(err.message, path));
        setenv("KELPIE_KERNEL", path, 1);
        assert_int_equal(image_kernel_find(host, NULL, &forever, kernel, &err), KELPIE_BAD_CONFIG);
        unsetenv("KELPIE_KERNEL");
    }
    free(kernel);
}

static void test_stamp_holds_until_a_file_changes(void **state) {
    (void)state;
    char path[128];
    char digest[IMAGE_DIGEST_SIZE];
    char found[IMAGE_DIGEST_SIZE];
    struct image_stamp stamp;
    snprintf(path, sizeof(path), "%s/input", folder);
    assert_int_equal(image_digest_bytes("x", 1, digest, NULL), KELPIE_OK);
    /* Just written: it could be written again within the clock's grain. */
    write_file("input", "one", 3, 0600);
    assert_int_equal(image_stamp_init(&stamp, host, NULL), KELPIE_OK);
    assert_int_equal(image_stamp_add(&stamp, path, NULL), KELPIE_OK);
    assert_int_equal(image_stamp_store(&stamp, "test", digest, NULL), KELPIE_OK);
    image_stamp_deinit(&stamp);
    assert_false(image_stamp_find(host, "test", found));
    run("touch -d '1 hour ago' %s", path);
    assert_int_equal(image_stamp_init(&stamp, host, NULL), KELPIE_OK);
    assert_int_equal(image_stamp_add(&stamp, path, NULL), KELPIE_OK);
    assert_int_equal(image_stamp_add(&stamp, "/nowhere/at/all", NULL), KELPIE_OK);
    assert_int_equal(image_stamp_store(&stamp, "test", digest, NULL), KELPIE_OK);
    image_stamp_deinit(&stamp);
    assert_true(image_stamp_find(host, "test", found));
    assert_string_equal(found, digest);
    run("touch %s", path);
    assert_false(image_stamp_find(host, "test", found));
    run("touch -d '1 hour ago' %s; printf x >>%s/cache/kelpie/stamps/test", path, folder);
    assert_false(image_stamp_find(host, "test", found));
}

static void test_initramfs_is_built_once_and_again_when_inputs_change(void **state) {
    (void)state;
    struct image_boot *boot = calloc(2, sizeof(*boot));
    struct kelpie_error err;
    struct stat before;
    struct stat after;
    play_apt();
    assert_int_equal(image_boot_prepare(host, NULL, &forever, &boot[0], &err), KELPIE_OK);
    assert_int_equal(stat(boot[0].initramfs_path, &before), 0);
    uint64_t start_ns = host_monotonic_ns(host);
    assert_int_equal(image_boot_prepare(host, NULL, &forever, &boot[1], &err), KELPIE_OK);
    print_message("a hit in the cache took %.2f ms\n",
                  (double)(host_monotonic_ns(host) - start_ns) / 1e6);
    assert_int_equal(stat(boot[1].initramfs_path, &after), 0);
    assert_string_equal(boot[0].initramfs_digest, boot[1].initramfs_digest);
    assert_int_equal(before.st_ino, after.st_ino); /* It was not written again. */
    assert_int_equal(count_in("cache/kelpie/initramfs"), 1);
    /* Somebody wrote into the archive: it is made again, with the bytes that its name promises. */
    run("printf x >>%s", boot[0].initramfs_path);
    assert_int_equal(image_boot_prepare(host, NULL, &forever, &boot[1], &err), KELPIE_OK);
    assert_string_equal(boot[0].initramfs_digest, boot[1].initramfs_digest);
    char digest[IMAGE_DIGEST_SIZE];
    int fd = HOST_FD_NONE;
    assert_int_equal(host_file_open(host, boot[1].initramfs_path, HOST_OPEN_READ, 0, &fd, NULL),
                     KELPIE_OK);
    assert_int_equal(image_digest_file(host, fd, IMAGE_INITRAMFS_SIZE_MAX, digest, NULL),
                     KELPIE_OK);
    host_close(host, fd);
    assert_string_equal(digest, boot[1].initramfs_digest);
    /* A modules.dep appears: the stamp no longer holds, the bytes are the same. */
    run("touch %s/modules.dep", boot[0].kernel.modules_dir);
    assert_int_equal(image_boot_prepare(host, NULL, &forever, &boot[1], &err), KELPIE_OK);
    assert_string_equal(boot[0].initramfs_digest, boot[1].initramfs_digest);
    free(boot);
}

static void test_modules_are_ordered_by_their_needs(void **state) {
    static const char dep[] = "k/c.ko.xz: k/b.ko k/a.ko\nk/b.ko: k/a.ko\nk/a.ko:\n"
                              "k/x.ko: k/y.ko\nk/y.ko: k/x.ko\nk/e.ko: ../../e.ko\n";
    static const char *const wanted[] = {"c", "a", "absent", "builtin"};
    static const char *const circle[] = {"x"};
    static const char *const escape[] = {"e"};
    (void)state;
    char modules[128];
    struct kelpie_error err;
    struct image_module_list *list = calloc(1, sizeof(*list));
    snprintf(modules, sizeof(modules), "%s/modules", folder);
    run("mkdir -p %s/k && cd %s/k && touch a.ko b.ko c.ko.xz x.ko y.ko e.ko", modules, modules);
    assert_int_equal(image_module_order(host, modules, wanted, 1, list, &err), KELPIE_BAD_CONFIG);
    write_file("modules/modules.dep", dep, strlen(dep), 0600);
    write_file("modules/modules.builtin", "k/builtin.ko\n", 13, 0600);
    assert_int_equal(image_module_order(host, modules, wanted, 4, list, &err), KELPIE_OK);
    assert_int_equal(list->count, 3);
    assert_string_equal(list->names[0], "k/a.ko");
    assert_string_equal(list->names[1], "k/b.ko");
    assert_string_equal(list->names[2], "k/c.ko.xz");
    assert_int_equal(image_module_order(host, modules, circle, 1, list, &err), KELPIE_BAD_CONFIG);
    assert_non_null(strstr(err.message, "circle"));
    assert_int_equal(image_module_order(host, modules, escape, 1, list, &err), KELPIE_BAD_CONFIG);
    free(list);
}

static void test_compressed_files_are_read(void **state) {
    (void)state;
    static const char *const tools[] = {"xz", "zstd -q", "gzip"};
    static const char *const endings[] = {"xz", "zst", "gz"};
    for (size_t i = 0; i < ARRAY_SIZE(tools); i++) {
        char path[128];
        char *data = NULL;
        size_t size = 0;
        struct kelpie_error err;
        snprintf(path, sizeof(path), "%s/zeros.%s", folder, endings[i]);
        run("head -c 100000 /dev/zero | %s -c >%s", tools[i], path);
        assert_int_equal(image_file_load(host, path, 100000, &data, &size, &err), KELPIE_OK);
        assert_int_equal(size, 100000);
        free(data);
        assert_int_equal(image_file_load(host, path, 99999, &data, &size, &err), KELPIE_NO_SPACE);
        run("head -c 20 %s >%s.cut; mv %s.cut %s", path, path, path, path);
        assert_int_equal(image_file_load(host, path, 100000, &data, &size, &err), KELPIE_IO_FAILED);
    }
}

static void test_disk_images_are_checked(void **state) {
    (void)state;
    char path[128];
    struct image_disk disk = {.fd = HOST_FD_NONE};
    struct kelpie_error err;
    snprintf(path, sizeof(path), "%s/disk", folder);
    assert_int_equal(image_disk_open(host, path, true, 3, &forever, &disk, &err),
                     KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, "disks[3].path");
    write_file("disk", "odd", 3, 0600);
    assert_int_equal(image_disk_open(host, path, true, 0, &forever, &disk, &err),
                     KELPIE_BAD_CONFIG);
    run("truncate -s 1024 %s", path);
    assert_int_equal(image_disk_open(host, path, false, 0, &forever, &disk, &err), KELPIE_OK);
    assert_int_equal(disk.size, 1024);
    host_close(host, disk.fd);
    assert_int_equal(image_disk_open(host, path, true, 0, &forever, &disk, &err), KELPIE_OK);
    assert_int_not_equal(host_file_write_at(host, disk.fd, "x", 1, 0, NULL), KELPIE_OK);
    host_close(host, disk.fd);
    assert_int_equal(image_disk_open(host, "/dev/null", true, 0, &forever, &disk, &err),
                     KELPIE_BAD_CONFIG);
}

static void test_folder_becomes_a_disk_without_a_name(void **state) {
    (void)state;
    char path[128];
    struct image_disk disk = {.fd = HOST_FD_NONE};
    struct kelpie_error err;
    uint8_t magic[2] = {0};
    size_t size = 0;
    snprintf(path, sizeof(path), "%s/tree", folder);
    run("mkdir -p %s/a/b && head -c 1000000 /dev/urandom >%s/a/b/file", path, path);
    enum kelpie_status status = image_disk_open(host, path, false, 0, &forever, &disk, &err);
    if (status == KELPIE_BACKEND_MISSING) {
        print_message("skipped: a folder as a disk (there is no mkfs.ext4)\n");
        skip();
    }
    assert_int_equal(status, KELPIE_OK);
    assert_int_equal(disk.size, IMAGE_DISK_SIZE_MIN);
    /* ext4's superblock: s_magic at 1024 + 0x38. */
    assert_int_equal(host_file_read_at(host, disk.fd, magic, 2, 1024 + 0x38, &size, NULL),
                     KELPIE_OK);
    assert_memory_equal(magic, "\x53\xef", 2);
    assert_int_equal(count_in("cache/kelpie/tmp"), 0);
    host_close(host, disk.fd);
}

static void test_program_that_hangs_or_floods_is_ended(void **state) {
    static const char *const hang[] = {"sh", "-c", "sleep 600", NULL};
    static const char *const flood[] = {"sh", "-c", "while :; do echo flood; done", NULL};
    static const char *const fail[] = {"sh", "-c", "echo why >&2; exit 7", NULL};
    (void)state;
    char *output = NULL;
    struct kelpie_error err;
    struct host_wait short_wait = host_wait_ms(host, 100, HOST_FD_NONE);
    struct image_program program = {.argv = hang, .passed_fd = HOST_FD_NONE};
    assert_int_equal(image_program_run(host, &program, &short_wait, &output, &err),
                     KELPIE_TIMED_OUT);
    program.argv = flood;
    assert_int_equal(image_program_run(host, &program, &forever, &output, &err), KELPIE_IO_FAILED);
    program.argv = fail;
    assert_int_equal(image_program_run(host, &program, &forever, &output, &err), KELPIE_IO_FAILED);
    assert_non_null(strstr(err.message, "code 7: why"));
    assert_null(output);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_package_keeps_only_known_regular_files),
        cmocka_unit_test(test_package_that_is_cut_is_refused),
        cmocka_unit_test(test_kernel_is_fetched_once_by_many),
        cmocka_unit_test(test_requested_kernel_is_never_replaced),
        cmocka_unit_test(test_stamp_holds_until_a_file_changes),
        cmocka_unit_test(test_initramfs_is_built_once_and_again_when_inputs_change),
        cmocka_unit_test(test_modules_are_ordered_by_their_needs),
        cmocka_unit_test(test_compressed_files_are_read),
        cmocka_unit_test(test_disk_images_are_checked),
        cmocka_unit_test(test_folder_becomes_a_disk_without_a_name),
        cmocka_unit_test(test_program_that_hangs_or_floods_is_ended),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
