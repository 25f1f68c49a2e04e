/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Images of tar archives, folders and OCI layouts, read back by a reader of EROFS that is not ours. */
#include "image/rootfs.h"

#include <locale.h>

#include "support/image_fixture.h"

#define SECURITY 6u /* EROFS's numbers of namespaces */
#define USER 1u

static const struct oci_entry hello[] = {{.path = "hello", .data = "hello\n"}};

/* ---- What an image holds ---------------------------------------------------------------------- */

static void keeps_everything_of_a_tar(void **state) {
    (void)state;
    static char large[10000];
    memset(large, 'x', sizeof(large) - 1);
    const struct oci_entry entries[] = {
        {.path = "./", .type = S_IFDIR, .mode = 0711, .uid = 7, .gid = 8},
        {.path = "etc/shadow", .mode = 0640, .gid = 42, .data = "secret", .modified = 1234567890},
        {.path = "bin/su", .mode = 04755, .data = "su", .attribute = "security.capability"},
        {.path = "bin/sudo", .link = "bin/su"},
        {.path = "lib", .type = S_IFLNK, .mode = 0777, .target = "usr/lib"},
        {.path = "dev/null", .type = S_IFCHR, .mode = 0666, .device_major = 1, .device_minor = 3},
        {.path = "dev/vdb9",
         .type = S_IFBLK,
         .mode = 0660,
         .device_major = 259,
         .device_minor = 300},
        {.path = "run/fifo", .type = S_IFIFO, .mode = 0600},
        {.path = "large", .data = large, .uid = 100000, .gid = 4000000000},
        {.path = "empty", .mode = 0600, .modified = -86400},
    };
    write_tar("a.tar", entries, ARRAY_SIZE(entries), OCI_PLAIN);
    build_tar("a.tar");
    struct erofs_view_inode root = inode_at("");
    assert_int_equal(root.mode, S_IFDIR | 0711);
    assert_int_equal(root.uid, 7);
    assert_int_equal(root.link_count, 2 + 4);
    assert_int_equal(erofs_view_count(&view, &root), 2 + 7);
    struct erofs_view_inode shadow = inode_at("etc/shadow");
    assert_int_equal(shadow.mode, S_IFREG | 0640);
    assert_int_equal(shadow.gid, 42);
    assert_int_equal(shadow.modified, 1234567890);
    assert_content("etc/shadow", "secret");
    struct erofs_view_inode su = inode_at("bin/su");
    size_t size = 0;
    const uint8_t *capability = erofs_view_attribute(&view, &su, SECURITY, "capability", &size);
    assert_int_equal(su.mode, S_IFREG | 04755);
    assert_int_equal(su.link_count, 2);
    assert_non_null(capability);
    assert_int_equal(size, 8);
    assert_memory_equal(capability, "value\0\1", 8);
    assert_int_equal(inode_at("bin/sudo").offset, su.offset);
    assert_content("bin/sudo", "su");
    assert_content("lib", "usr/lib");
    assert_int_equal(inode_at("dev/null").raw, 1 << 8 | 3);
    assert_int_equal(inode_at("dev/vdb9").raw, (300 & 0xff) | 259 << 8 | (300 & ~0xff) << 12);
    assert_int_equal(inode_at("run/fifo").mode, S_IFIFO | 0600);
    assert_content("large", large);
    assert_int_equal(inode_at("large").uid, 100000);
    assert_int_equal(inode_at("large").gid, 4000000000);
    assert_int_equal(inode_at("empty").size, 0);
    assert_int_equal(inode_at("empty").modified, -86400);
}

static void takes_each_compression(void **state) {
    (void)state;
    char digest[IMAGE_DIGEST_SIZE] = "";
    for (int i = OCI_PLAIN; i <= OCI_BZIP2; i++) {
        write_tar("a.tar", hello, ARRAY_SIZE(hello), (enum oci_compression)i);
        build_tar("a.tar");
        assert_content("hello", "hello\n");
        assert_true(i == OCI_PLAIN || strcmp(digest, rootfs.digest) == 0);
        memcpy(digest, rootfs.digest, sizeof(digest));
    }
}

static void an_empty_archive_is_an_empty_image(void **state) {
    (void)state;
    write_tar("a.tar", NULL, 0, OCI_PLAIN);
    build_tar("a.tar");
    struct erofs_view_inode root = inode_at("");
    assert_int_equal(erofs_view_count(&view, &root), 2);
    assert_int_equal(rootfs.size, 4096);
}

static void folders_of_any_size_are_sorted(void **state) {
    (void)state;
    enum { COUNT = 3000 };
    static struct oci_entry entries[COUNT];
    static char names[COUNT][128];
    for (size_t i = 0; i < COUNT; i++) {
        snprintf(names[i], sizeof(names[i]), "d/%c%0*zu", "-.!az"[i % 5], (int)(i % 97 + 1), i);
        entries[i] = (struct oci_entry){.path = names[i], .data = names[i]};
    }
    write_tar("a.tar", entries, COUNT, OCI_PLAIN);
    build_tar("a.tar");
    struct erofs_view_inode directory = inode_at("d");
    assert_int_equal(erofs_view_count(&view, &directory), COUNT + 2);
    for (size_t i = 0; i < COUNT; i += 97) {
        assert_content(names[i], names[i]);
    }
}

/* Whatever size a file has, its bytes are all there: whole blocks, a tail beside the inode, a tail that does not fit. */
static void files_of_any_size_are_whole(void **state) {
    (void)state;
    static const size_t sizes[] = {1, 31, 4031, 4032, 4033, 4095, 4096, 4097, 8191, 8192, 12345};
    static char data[16384];
    struct oci_entry entries[ARRAY_SIZE(sizes)];
    char names[ARRAY_SIZE(sizes)][16];
    for (size_t i = 0; i < sizeof(data); i++) {
        data[i] = (char)('a' + i % 23);
    }
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        snprintf(names[i], sizeof(names[i]), "f%zu", i);
        entries[i] = (struct oci_entry){.path = names[i], .data = data, .size = sizes[i]};
    }
    write_tar("a.tar", entries, ARRAY_SIZE(entries), OCI_GZIP);
    build_tar("a.tar");
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        struct erofs_view_inode inode = inode_at(names[i]);
        char *got = erofs_view_read(&view, &inode);
        assert_int_equal(inode.size, sizes[i]);
        assert_memory_equal(got, data, sizes[i]);
        free(got);
    }
}

static void names_are_bytes_whatever_the_language(void **state) {
    (void)state;
    const struct oci_entry entries[] = {
        {.path = "u\xcc\x88", .data = "decomposed"}, /* not to become one letter */
        {.path = "\xc3\xbc", .data = "composed"},
        {.path = "\xff\xfe", .data = "no text"},
        {.path = "l", .type = S_IFLNK, .target = "\xff\xc3\xbc"},
    };
    write_tar("a.tar", entries, ARRAY_SIZE(entries), OCI_PLAIN);
    assert_non_null(setlocale(LC_ALL, "C.UTF-8"));
    build_tar("a.tar");
    assert_non_null(setlocale(LC_ALL, "C"));
    assert_content("u\xcc\x88", "decomposed");
    assert_content("\xc3\xbc", "composed");
    assert_content("\xff\xfe", "no text");
    assert_content("l", "\xff\xc3\xbc");
}

/* Names that an archive has as text in UTF-8, as Go's and libarchive's own have them, are not composed anew. */
static void names_in_utf8_are_left_as_they_are(void **state) {
    (void)state;
    const struct oci_entry entries[] = {
        {.path = "u\xcc\x88", .data = "decomposed"},
        {.path = "\xc3\xbc", .data = "composed"},
        {.path = "l", .type = S_IFLNK, .target = "u\xcc\x88"},
        {.path = "h\xcc\x88", .link = "u\xcc\x88"},
    };
    static const char *const languages[] = {"C", "C.UTF-8"};
    assert_non_null(setlocale(LC_ALL, "C.UTF-8"));
    write_tar("a.tar", entries, ARRAY_SIZE(entries), OCI_PLAIN);
    for (size_t i = 0; i < ARRAY_SIZE(languages); i++) {
        assert_non_null(setlocale(LC_ALL, languages[i]));
        build_tar("a.tar");
        assert_non_null(setlocale(LC_ALL, "C"));
        assert_content("u\xcc\x88", "decomposed");
        assert_content("\xc3\xbc", "composed");
        assert_content("l", "u\xcc\x88");
        assert_content("h\xcc\x88", "decomposed");
    }
}

static void a_folder_is_as_its_tar(void **state) {
    (void)state;
    char digest[IMAGE_DIGEST_SIZE];
    run("cd %s && mkdir -p d/bin d/empty && echo hello > d/bin/hello && ln d/bin/hello d/bin/other "
        "&& "
        "ln -s bin/hello d/link && mkfifo d/fifo && chmod 4711 d/bin/hello && "
        "truncate -s 1M d/hole && find d -exec touch -hd @1000000000.5 '{}' + && "
        "tar -C d -cf d.tar --format=posix --sort=name .",
        folder);
    build_tar("d.tar");
    memcpy(digest, rootfs.digest, sizeof(digest));
    assert_int_equal(
        try_build(&(struct image_rootfs_options){.source = IMAGE_ROOTFS_FOLDER, .path = "d"}),
        KELPIE_OK);
    assert_string_equal(rootfs.digest, digest);
    assert_content("bin/other", "hello\n");
    assert_int_equal(inode_at("bin/hello").link_count, 2);
    assert_int_equal(inode_at("bin/hello").mode, S_IFREG | 04711);
    assert_int_equal(inode_at("hole").size, 1 << 20);
}

static void the_order_of_an_archive_does_not_matter(void **state) {
    (void)state;
    char digest[IMAGE_DIGEST_SIZE];
    const struct oci_entry forth[] = {
        {.path = "d", .type = S_IFDIR}, {.path = "d/a", .data = "a"}, {.path = "b", .data = "b"}};
    const struct oci_entry back[] = {{.path = "b", .data = "old"},
                                     {.path = "d/a", .data = "a"},
                                     {.path = "b", .data = "b"},
                                     {.path = "d", .type = S_IFDIR}};
    write_tar("a.tar", forth, ARRAY_SIZE(forth), OCI_PLAIN);
    build_tar("a.tar");
    memcpy(digest, rootfs.digest, sizeof(digest));
    write_tar("a.tar", back, ARRAY_SIZE(back), OCI_ZSTD);
    build_tar("a.tar");
    assert_string_equal(rootfs.digest, digest);
}

static void attributes_that_steer_an_overlay_are_left_out(void **state) {
    (void)state;
    const struct oci_entry entries[] = {
        {.path = "a", .data = "a", .attribute = "trusted.overlay.redirect"},
        {.path = "b", .data = "b", .attribute = "user.kept"},
        {.path = "c", .data = "c", .attribute = "com.apple.quarantine"},
    };
    size_t size = 0;
    write_tar("a.tar", entries, ARRAY_SIZE(entries), OCI_PLAIN);
    build_tar("a.tar");
    struct erofs_view_inode kept = inode_at("b");
    assert_int_equal(inode_at("a").attributes_size, 0);
    assert_non_null(erofs_view_attribute(&view, &kept, USER, "kept", &size));
    assert_int_equal(inode_at("c").attributes_size, 0);
}

/* ---- OCI images ------------------------------------------------------------------------------- */

static const struct oci_entry base_layer[] = {
    {.path = "etc/passwd", .data = "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/:/bin/sh\n"},
    {.path = "etc/group", .data = "root:x:0:\nteam:x:2000:app\n"},
    {.path = "usr/lib/old", .data = "old"},
    {.path = "usr/lib/kept", .data = "kept"},
    {.path = "lib", .type = S_IFLNK, .target = "usr/lib"},
    {.path = "var/cache/a", .data = "a"},
    {.path = "bin/tool", .data = "tool"},
};
static const struct oci_entry upper_layer[] = {
    {.path = "lib/new", .data = "new"},        {.path = "usr/lib/.wh.old"},
    {.path = "var/cache/.wh..wh..opq"},        {.path = "var/cache/b", .data = "b"},
    {.path = "bin/alias", .link = "bin/tool"},
};

static void merges_layers(void **state) {
    (void)state;
    static const enum oci_compression compressions[] = {OCI_PLAIN, OCI_GZIP, OCI_ZSTD};
    char digest[IMAGE_DIGEST_SIZE] = "";
    for (size_t i = 0; i < ARRAY_SIZE(compressions); i++) {
        struct oci_layer layers[] = {
            oci_layer_make(base_layer, ARRAY_SIZE(base_layer), compressions[i]),
            oci_layer_make(upper_layer, ARRAY_SIZE(upper_layer), compressions[(i + 1) % 3]),
        };
        write_layout(layers, 2, NULL);
        assert_int_equal(try_oci("layout"), KELPIE_OK);
        assert_content("usr/lib/new", "new");
        assert_content("usr/lib/kept", "kept");
        assert_false(is_there("usr/lib/old"));
        assert_false(is_there("usr/lib/.wh.old"));
        assert_false(is_there("var/cache/a"));
        assert_false(is_there("var/cache/.wh..wh..opq"));
        assert_content("var/cache/b", "b");
        assert_int_equal(inode_at("bin/alias").offset, inode_at("bin/tool").offset);
        assert_int_equal(inode_at("bin/alias").link_count, 2);
        assert_content("lib", "usr/lib");
        assert_true(i == 0 || strcmp(digest, rootfs.digest) == 0);
        memcpy(digest, rootfs.digest, sizeof(digest));
        run("rm -r %s", path_of("layout"));
    }
}

static void takes_a_layout_in_a_tar(void **state) {
    (void)state;
    struct oci_layer layers[] = {
        oci_layer_make(base_layer, ARRAY_SIZE(base_layer), OCI_GZIP),
        oci_layer_make(upper_layer, ARRAY_SIZE(upper_layer), OCI_GZIP),
    };
    write_layout(layers, 2, "{\"Cmd\": [\"sh\"]}");
    assert_int_equal(try_oci("layout"), KELPIE_OK);
    char digest[IMAGE_DIGEST_SIZE];
    memcpy(digest, rootfs.digest, sizeof(digest));
    run("cd %s && tar -C layout -cf l.tar . && gzip -k l.tar && tar -C layout -cf m.tar "
        "blobs index.json oci-layout",
        folder);
    static const char *const names[] = {"l.tar", "l.tar.gz", "m.tar"};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        assert_int_equal(try_oci(names[i]), KELPIE_OK);
        assert_string_equal(rootfs.digest, digest);
        assert_int_equal(json_array_size(rootfs.argv), 1);
    }
}

static void assert_user(const char *user, uint32_t uid, uint32_t gid) {
    char config[256];
    struct oci_layer layer = oci_layer_make(base_layer, ARRAY_SIZE(base_layer), OCI_GZIP);
    snprintf(config, sizeof(config), "{\"User\": \"%s\"}", user);
    write_layout(&layer, 1, config);
    enum kelpie_status status = try_oci("layout");
    run("rm -r %s", path_of("layout"));
    if (uid == UINT32_MAX) {
        assert_int_equal(status, KELPIE_BAD_CONFIG);
        assert_string_equal(err.field, "user");
        return;
    }
    assert_int_equal(status, KELPIE_OK);
    assert_int_equal(rootfs.uid, uid);
    assert_int_equal(rootfs.gid, gid);
}

static void finds_the_user_in_the_image(void **state) {
    (void)state;
    assert_user("", 0, 0);
    assert_user("app", 1000, 1001);
    assert_user("1000", 1000, 1001);
    assert_user("app:team", 1000, 2000);
    assert_user("app:77", 1000, 77);
    assert_user("5:6", 5, 6);
    assert_user("5", 5, 0);
    assert_user("nobody", UINT32_MAX, 0);
    assert_user("app:nobody", UINT32_MAX, 0);
    assert_user(":5", UINT32_MAX, 0);
    assert_user("app:", UINT32_MAX, 0);
    assert_user("99999999999", UINT32_MAX, 0);
}

static void says_what_its_maker_wants_run(void **state) {
    (void)state;
    struct oci_layer layer = oci_layer_make(hello, ARRAY_SIZE(hello), OCI_GZIP);
    write_layout(&layer, 1,
                 "{\"Entrypoint\": [\"/e\", \"x\"], \"Cmd\": [\"y\"], \"Env\": [\"A=1\", \"B=\"], "
                 "\"WorkingDir\": \"/srv\", \"ExposedPorts\": {\"80/tcp\": {}}}");
    assert_int_equal(try_oci("layout"), KELPIE_OK);
    assert_int_equal(json_array_size(rootfs.argv), 3);
    assert_string_equal(json_string_value(json_array_get(rootfs.argv, 2)), "y");
    assert_int_equal(rootfs.entrypoint_count, 2);
    assert_int_equal(json_array_size(rootfs.env), 2);
    assert_string_equal(rootfs.working_dir, "/srv");
    assert_string_equal(rootfs.architecture, oci_this_architecture());
}

/* Two images by name, and each for two architectures through an index of its own. */
static void chooses_by_name_and_architecture(void **state) {
    (void)state;
    static const char *const architectures[] = {"amd64", "arm64"};
    char descriptors[2][OCI_TEXT_SIZE];
    static char index[3 * OCI_TEXT_SIZE];
    char inner[OCI_TEXT_SIZE];
    assert_int_equal(mkdir(path_of("layout"), 0755), 0);
    oci_layout_begin(path_of("layout"));
    for (size_t i = 0; i < 2; i++) {
        char extra[128];
        struct oci_entry entry = {.path = architectures[i], .data = "x"};
        struct oci_layer layer = oci_layer_make(&entry, 1, OCI_GZIP);
        snprintf(extra, sizeof(extra),
                 ", \"platform\": {\"architecture\": \"%s\", \"os\": \"linux\"}", architectures[i]);
        oci_layout_image(path_of("layout"),
                         &(struct oci_image){.layers = &layer,
                                             .layer_count = 1,
                                             .architecture = architectures[i],
                                             .extra = extra},
                         descriptors[i]);
        oci_layer_free(&layer);
    }
    snprintf(index, sizeof(index), "{\"schemaVersion\": 2, \"manifests\": [%s, %s]}",
             descriptors[0], descriptors[1]);
    oci_blob(path_of("layout"), "application/vnd.oci.image.index.v1+json", index, strlen(index),
             inner);
    snprintf(index, sizeof(index),
             "{%s, \"annotations\": {\"org.opencontainers.image.ref.name\": \"one\"}}, "
             "{%.500s, \"annotations\": {\"org.opencontainers.image.ref.name\": \"two\"}}",
             inner, descriptors[0] + 1);
    index[strlen(index)] = '\0';
    char *brace =
        strstr(index, "}, \"annotations\": {\"org.opencontainers.image.ref.name\": \"two\"");
    if (brace) {
        memmove(brace, brace + 1, strlen(brace));
    }
    oci_layout_index(path_of("layout"), index);
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(
            try_build(&(struct image_rootfs_options){.source = IMAGE_ROOTFS_OCI,
                                                     .path = "layout",
                                                     .reference = "one",
                                                     .architecture = architectures[i]}),
            KELPIE_OK);
        assert_true(is_there(architectures[i]));
        assert_string_equal(rootfs.architecture, architectures[i]);
    }
    refused(try_build(&(struct image_rootfs_options){.source = IMAGE_ROOTFS_OCI,
                                                     .path = "layout",
                                                     .reference = "one",
                                                     .architecture = "riscv64"}),
            "for amd64, arm64, not for riscv64");
    refused(try_build(&(struct image_rootfs_options){
                .source = IMAGE_ROOTFS_OCI, .path = "layout", .architecture = "amd64"}),
            "one, two");
    assert_int_equal(try_build(&(struct image_rootfs_options){
                         .source = IMAGE_ROOTFS_OCI, .path = "layout", .reference = "three"}),
                     KELPIE_NOT_FOUND);
    assert_non_null(strstr(err.message, "it has one, two"));
}

static void a_config_of_another_architecture_is_named(void **state) {
    (void)state;
    char descriptor[OCI_TEXT_SIZE];
    struct oci_layer layer = oci_layer_make(hello, ARRAY_SIZE(hello), OCI_GZIP);
    write_layout(&layer, 1, NULL);
    layer = oci_layer_make(hello, ARRAY_SIZE(hello), OCI_GZIP);
    oci_layout_image(
        path_of("layout"),
        &(struct oci_image){.layers = &layer, .layer_count = 1, .architecture = "s390x"},
        descriptor);
    oci_layout_index(path_of("layout"), descriptor);
    oci_layer_free(&layer);
    char expected[64];
    snprintf(expected, sizeof(expected), "for s390x, not for %s", oci_this_architecture());
    refused(try_oci("layout"), expected);
    assert_string_equal(err.field, "architecture");
}

/* ---- Sources that are none -------------------------------------------------------------------- */

static void sources_must_be_what_they_are_said_to_be(void **state) {
    (void)state;
    struct image_rootfs_options options = {.source = IMAGE_ROOTFS_TAR, .path = "nothing"};
    assert_int_equal(try_build(&options), KELPIE_NOT_FOUND);
    options.source = IMAGE_ROOTFS_FOLDER;
    assert_int_equal(try_build(&options), KELPIE_NOT_FOUND);
    options.source = IMAGE_ROOTFS_OCI;
    assert_int_equal(try_build(&options), KELPIE_NOT_FOUND);
    options.path = ".";
    refused(try_build(&options), "lacks oci-layout");
    options.source = IMAGE_ROOTFS_TAR;
    refused(try_build(&options), "not a regular file");
    oci_write_file(folder, "file", "x", 1);
    options = (struct image_rootfs_options){.source = IMAGE_ROOTFS_FOLDER, .path = "file"};
    refused(try_build(&options), "not a folder");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(keeps_everything_of_a_tar),
        TEST(takes_each_compression),
        TEST(an_empty_archive_is_an_empty_image),
        TEST(folders_of_any_size_are_sorted),
        TEST(files_of_any_size_are_whole),
        TEST(names_are_bytes_whatever_the_language),
        TEST(names_in_utf8_are_left_as_they_are),
        TEST(a_folder_is_as_its_tar),
        TEST(the_order_of_an_archive_does_not_matter),
        TEST(attributes_that_steer_an_overlay_are_left_out),
        TEST(merges_layers),
        TEST(takes_a_layout_in_a_tar),
        TEST(finds_the_user_in_the_image),
        TEST(says_what_its_maker_wants_run),
        TEST(chooses_by_name_and_architecture),
        TEST(a_config_of_another_architecture_is_named),
        TEST(sources_must_be_what_they_are_said_to_be),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
