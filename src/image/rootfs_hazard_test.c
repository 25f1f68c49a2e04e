/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Archives and image layouts that mean harm (hazard D4): each is refused, or does none. */
#include "image/rootfs.h"

#include <archive.h>
#include <archive_entry.h>

#include "support/image_fixture.h"

static const struct oci_entry hello[] = {{.path = "hello", .data = "hello\n"}};
static const struct oci_entry base_layer[] = {
    {.path = "etc/passwd", .data = "root:x:0:0::/root:/bin/sh\n"},
    {.path = "usr/lib/old", .data = "old"},
    {.path = "lib", .type = S_IFLNK, .target = "usr/lib"},
};

/* Layers that would write outside of a folder that they were unpacked into. */
static void hazard_d4_nothing_is_written_outside(void **state) {
    (void)state;
    char outside[128];
    snprintf(outside, sizeof(outside), "%s/outside", folder);
    const struct oci_entry entries[] = {
        {.path = outside, .data = "x"},
        {.path = "link", .type = S_IFLNK, .target = folder},
        {.path = "link/outside", .data = "x"},
        {.path = "up", .type = S_IFLNK, .target = "../../../../../../../../../tmp"},
        {.path = "up/kelpie-outside", .data = "x"},
    };
    struct oci_layer layers[] = {
        oci_layer_make(entries, ARRAY_SIZE(entries), OCI_GZIP),
        oci_layer_make(entries + 2, 1, OCI_GZIP),
    };
    write_layout(layers, 2, NULL);
    assert_int_equal(try_oci("layout"), KELPIE_OK);
    assert_int_equal(access(outside, F_OK), -1);
    assert_int_equal(access("/tmp/kelpie-outside", F_OK), -1);
    assert_content(outside + 1, "x");
    assert_content("tmp/kelpie-outside", "x");
}

/* An archive that names `path` is refused. */
static void assert_entry_refused(const struct oci_entry *entry, const char *why) {
    write_tar("a.tar", entry, 1, OCI_PLAIN);
    refused(try_build(&(struct image_rootfs_options){.source = IMAGE_ROOTFS_TAR, .path = "a.tar"}),
            why);
}

static void hazard_d4_entries_that_mean_harm_are_refused(void **state) {
    (void)state;
    static char name[300];
    memset(name, 'n', sizeof(name) - 1);
    assert_entry_refused(&(struct oci_entry){.path = "../../etc/passwd", .data = "x"}, "\"..\"");
    assert_entry_refused(&(struct oci_entry){.path = "a", .link = "/etc/passwd"}, "not there");
    assert_entry_refused(&(struct oci_entry){.path = "a", .link = "../../etc/passwd"}, "\"..\"");
    assert_entry_refused(&(struct oci_entry){.path = "a", .link = "a"}, "not there");
    assert_entry_refused(&(struct oci_entry){.path = name, .data = "x"}, "longer than a name");
    assert_entry_refused(&(struct oci_entry){.path = "a", .type = S_IFCHR, .device_major = 70000},
                         "device");
    assert_entry_refused(&(struct oci_entry){.path = "a", .uid = 1ll << 40}, "owner");
}

static void hazard_d4_giants_are_refused(void **state) {
    (void)state;
    /* 8 GiB of holes, in a few hundred bytes. */
    run("cd %s && mkdir d && truncate -s 8G d/hole && tar -C d --sparse -cf a.tar .", folder);
    assert_int_equal(
        try_build(&(struct image_rootfs_options){.source = IMAGE_ROOTFS_TAR, .path = "a.tar"}),
        KELPIE_NO_SPACE);
    assert_string_equal(err.field, "bytes_max");
    /* With room for them, they stay holes. */
    assert_int_equal(truncate(path_of("d/hole"), 32 << 20), 0);
    run("cd %s && tar -C d --sparse -cf a.tar .", folder);
    build_tar("a.tar");
    struct stat info;
    assert_int_equal(fstat(image_fd, &info), 0);
    assert_true(info.st_size > 32 << 20);
    assert_true(info.st_blocks * 512 < 1 << 20);
}

static void hazard_d4_bombs_are_refused(void **state) {
    (void)state;
    run("cd %s && truncate -s 80M zeros && tar -czf a.tar zeros && "
        "(gzip -c a.tar > b.tar) && truncate -s 70M c && gzip -c c > c.tar",
        folder);
    struct image_rootfs_options options = {.source = IMAGE_ROOTFS_TAR, .path = "a.tar"};
    assert_int_equal(try_build(&options), KELPIE_NO_SPACE);
    options.path = "b.tar"; /* compressed twice */
    refused(try_build(&options), "more than once");
    options.path = "c.tar"; /* nothing but zeros: the end of an archive, and more */
    assert_int_equal(try_build(&options), KELPIE_NO_SPACE);
}

/* A tar archive of a file of zeros, by zstd, which gets a lot out of them. */
static void write_zeros(const char *name, long long size) {
    static const char zeros[65536];
    struct archive *tar = archive_write_new();
    struct archive_entry *entry = archive_entry_new();
    assert_int_equal(archive_write_set_format_pax_restricted(tar), ARCHIVE_OK);
    assert_int_equal(archive_write_add_filter_zstd(tar), ARCHIVE_OK);
    assert_int_equal(archive_write_open_filename(tar, path_of(name)), ARCHIVE_OK);
    archive_entry_set_pathname(entry, "zeros");
    archive_entry_set_filetype(entry, AE_IFREG);
    archive_entry_set_perm(entry, 0644);
    archive_entry_set_size(entry, size);
    assert_int_equal(archive_write_header(tar, entry), ARCHIVE_OK);
    for (long long done = 0; done < size; done += (long long)sizeof(zeros)) {
        assert_int_equal(archive_write_data(tar, zeros, sizeof(zeros)), sizeof(zeros));
    }
    archive_entry_free(entry);
    assert_int_equal(archive_write_close(tar), ARCHIVE_OK);
    archive_write_free(tar);
}

static void hazard_d4_ratios_are_bounded(void **state) {
    (void)state;
    write_zeros("a.tar", 300ll << 20);
    assert_int_equal(try_build(&(struct image_rootfs_options){
                         .source = IMAGE_ROOTFS_TAR, .path = "a.tar", .bytes_max = 4ull << 30}),
                     KELPIE_NO_SPACE);
    assert_non_null(strstr(err.message, "times its size"));
}

static void hazard_d4_archives_that_are_cut_are_refused(void **state) {
    (void)state;
    static char data[50000];
    for (size_t i = 0; i < sizeof(data); i++) {
        data[i] = (char)(i * i >> 3);
    }
    const struct oci_entry entry = {.path = "a", .data = data, .size = sizeof(data)};
    for (int i = OCI_PLAIN; i <= OCI_XZ; i++) {
        write_tar("a.tar", &entry, 1, (enum oci_compression)i);
        struct stat info;
        assert_int_equal(stat(path_of("a.tar"), &info), 0);
        assert_int_equal(truncate(path_of("a.tar"), info.st_size / 2), 0);
        assert_int_not_equal(
            try_build(&(struct image_rootfs_options){.source = IMAGE_ROOTFS_TAR, .path = "a.tar"}),
            KELPIE_OK);
        assert_int_equal(err.status, KELPIE_BAD_CONFIG);
    }
    run("head -c 3000 /dev/urandom > %s", path_of("a.tar"));
    assert_int_equal(
        try_build(&(struct image_rootfs_options){.source = IMAGE_ROOTFS_TAR, .path = "a.tar"}),
        KELPIE_BAD_CONFIG);
}

/* Puts something else in the place of the layout's blob that `grep` finds. */
static void spoil(const char *shell) {
    run("cd %s/layout && layer=$(ls -S blobs/sha256 | tail -1) && for b in blobs/sha256/*; do "
        "case \"$(head -c 2 $b | od -An -tx1)\" in *1f*8b*) layer=$b;; esac; done && %s",
        folder, shell);
}

static void fresh_layout(void) {
    struct oci_layer layer = oci_layer_make(base_layer, ARRAY_SIZE(base_layer), OCI_GZIP);
    run("rm -rf %s", path_of("layout"));
    write_layout(&layer, 1, NULL);
}

static void hazard_d4_blobs_are_what_their_digests_say(void **state) {
    (void)state;
    fresh_layout();
    assert_int_equal(try_oci("layout"), KELPIE_OK);
    spoil("printf x >> $layer");
    refused(try_oci("layout"), "instead of");
    fresh_layout();
    spoil("printf '\\0' | dd of=$layer bs=1 seek=4 conv=notrunc 2> /dev/null && "
          "printf '\\7' | dd of=$layer bs=1 seek=4 conv=notrunc 2> /dev/null");
    refused(try_oci("layout"), "another digest");
    fresh_layout();
    run("cd %s/layout/blobs/sha256 && for b in *; do case \"$(cat $b | tr -d '\\0')\" in "
        "*diff_ids*) sed -i 's/linux/lin\\x75X/; s/X//; s/\"os\"/\"oS\"/' $b;; esac; done",
        folder);
    assert_int_equal(try_oci("layout"), KELPIE_BAD_CONFIG);
}

static void hazard_d4_blobs_are_regular_files(void **state) {
    (void)state;
    fresh_layout();
    spoil("mv $layer ../away && ln -s ../../../away $layer");
    refused(try_oci("layout"), "not a regular file");
    fresh_layout();
    spoil("rm $layer && mkfifo $layer");
    refused(try_oci("layout"), "not a regular file");
    fresh_layout();
    spoil("rm $layer");
    refused(try_oci("layout"), "lacks");
    fresh_layout();
    run("cd %s/layout && mv index.json ../away && ln -s ../away index.json", folder);
    refused(try_oci("layout"), "not a regular file");
    fresh_layout();
    run("cd %s/layout && tar -cf ../l.tar oci-layout blobs && ln -sf /etc/passwd index.json && "
        "tar -rf ../l.tar index.json",
        folder);
    refused(try_oci("l.tar"), "lacks index.json");
}

static void hazard_d4_digests_are_no_paths(void **state) {
    (void)state;
    static const char *const digests[] = {
        "sha256:../../../../etc/passwd",
        "../x",
        "sha256:",
        "sha512:aaaa",
        "sha256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa/",
        "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa/../x",
    };
    fresh_layout();
    for (size_t i = 0; i < ARRAY_SIZE(digests); i++) {
        char descriptor[512];
        snprintf(descriptor, sizeof(descriptor),
                 "{\"mediaType\": \"application/vnd.oci.image.manifest.v1+json\", \"digest\": "
                 "\"%s\", \"size\": 1}",
                 digests[i]);
        oci_layout_index(path_of("layout"), descriptor);
        refused(try_oci("layout"), "digest");
    }
}

/* No file can hold its own digest, so that a loop is a chain that is too long. */
static void hazard_d4_indexes_in_indexes_end(void **state) {
    (void)state;
    char descriptor[OCI_TEXT_SIZE];
    char braced[OCI_TEXT_SIZE];
    char text[2 * OCI_TEXT_SIZE];
    fresh_layout();
    run("sed -n 's/.*\\[{\\(.*\\)}\\].*/\\1/p' %s/layout/index.json | tr -d '\\n' > %s/inner",
        folder, folder);
    FILE *stream = fopen(path_of("inner"), "r");
    assert_non_null(stream);
    assert_non_null(fgets(descriptor, sizeof(descriptor), stream));
    fclose(stream);
    for (unsigned depth = 0; depth < IMAGE_OCI_INDEX_DEPTH_MAX + 1; depth++) {
        snprintf(text, sizeof(text), "{\"schemaVersion\": 2, \"manifests\": [{%s}]}", descriptor);
        oci_blob(path_of("layout"), "application/vnd.oci.image.index.v1+json", text, strlen(text),
                 descriptor);
        snprintf(braced, sizeof(braced), "{%.4000s}", descriptor);
        oci_layout_index(path_of("layout"), braced);
        if (depth < IMAGE_OCI_INDEX_DEPTH_MAX) {
            assert_int_equal(try_oci("layout"), KELPIE_OK);
        }
    }
    refused(try_oci("layout"), "index");
}

static void hazard_d4_documents_are_bounded(void **state) {
    (void)state;
    fresh_layout();
    run("cd %s/layout && truncate -s 5M index.json", folder);
    refused(try_oci("layout"), "larger than");
    /* Deeper than any parser should go. */
    run("cd %s/layout && (head -c 100000 /dev/zero | tr '\\0' '[') > index.json", folder);
    refused(try_oci("layout"), "no JSON object");
    run("cd %s/layout && printf '[]' > index.json", folder);
    refused(try_oci("layout"), "no JSON object");
    run("cd %s/layout && : > index.json", folder);
    refused(try_oci("layout"), "no JSON object");
}

static void hazard_d4_media_types_are_what_they_say(void **state) {
    (void)state;
    static const char *const types[] = {
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
        "text/plain",
        "application/vnd.oci.image.manifest.v1+json",
    };
    for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
        struct oci_layer layer = oci_layer_make(hello, ARRAY_SIZE(hello), OCI_GZIP);
        layer.media_type = types[i];
        write_layout(&layer, 1, NULL);
        assert_int_equal(try_oci("layout"), KELPIE_BAD_CONFIG);
        run("rm -r %s", path_of("layout"));
    }
    struct oci_layer layer = oci_layer_make(hello, ARRAY_SIZE(hello), OCI_PLAIN);
    layer.media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
    write_layout(&layer, 1, NULL);
    refused(try_oci("layout"), "as its media type says");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(hazard_d4_nothing_is_written_outside),
        TEST(hazard_d4_entries_that_mean_harm_are_refused),
        TEST(hazard_d4_giants_are_refused),
        TEST(hazard_d4_bombs_are_refused),
        TEST(hazard_d4_ratios_are_bounded),
        TEST(hazard_d4_archives_that_are_cut_are_refused),
        TEST(hazard_d4_blobs_are_what_their_digests_say),
        TEST(hazard_d4_blobs_are_regular_files),
        TEST(hazard_d4_digests_are_no_paths),
        TEST(hazard_d4_indexes_in_indexes_end),
        TEST(hazard_d4_documents_are_bounded),
        TEST(hazard_d4_media_types_are_what_they_say),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
