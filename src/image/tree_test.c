/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The tree of an image: names, links, layers, and what an archive must not reach (hazard D4). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "image/tree.h"

static struct host *host;
static struct image_tree *tree;
static struct kelpie_error err;

static int setup(void **state) {
    (void)state;
    assert_int_equal(host_linux_create(&host, NULL), KELPIE_OK);
    assert_int_equal(image_tree_create(host, &tree, NULL), KELPIE_OK);
    image_tree_begin_layer(tree, true);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    image_tree_destroy(tree);
    host_destroy(host);
    return 0;
}

static enum kelpie_status try_add(const char *path, uint32_t mode, const char *target) {
    const struct image_entry entry = {
        .path = path, .mode = mode, .target = target, .size = 7, .uid = 5};
    return image_tree_add(tree, &entry, &err);
}

static void add(const char *path, uint32_t mode) {
    assert_int_equal(try_add(path, mode, NULL), KELPIE_OK);
}

static void file(const char *path) {
    add(path, S_IFREG | 0644);
}

static void folder(const char *path) {
    add(path, S_IFDIR | 0750);
}

static void symlink_to(const char *path, const char *target) {
    assert_int_equal(try_add(path, S_IFLNK | 0777, target), KELPIE_OK);
}

static void whiteout(const char *path) {
    file(path);
}

static void layer(void) {
    image_tree_begin_layer(tree, true);
}

static void refused(enum kelpie_status status, const char *why) {
    assert_int_equal(status, KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, "path");
    assert_non_null(strstr(err.message, why));
}

static const struct image_inode *inode_at(const char *path) {
    uint32_t node = 0;
    assert_true(image_tree_find(tree, path, &node));
    return image_tree_inode(tree, image_tree_inode_of(tree, node));
}

/* The tree as text: every path but the root's, in order, folders with a slash. */
static void assert_tree(const char *expected) {
    static char text[8192];
    char paths[64][256];
    uint32_t nodes[64];
    size_t count = 1;
    size_t used = 0;
    nodes[0] = IMAGE_NODE_ROOT;
    paths[0][0] = '\0';
    text[0] = '\0';
    while (count > 0) {
        char path[256];
        uint32_t node = nodes[--count];
        uint32_t *children = NULL;
        size_t child_count = 0;
        memcpy(path, paths[count], sizeof(path));
        uint32_t mode = image_tree_inode(tree, image_tree_inode_of(tree, node))->mode;
        bool is_folder = (mode & S_IFMT) == S_IFDIR;
        if (node != IMAGE_NODE_ROOT) {
            used += (size_t)snprintf(text + used, sizeof(text) - used, "%s%s ", path,
                                     is_folder ? "/" : "");
        }
        if (!is_folder) {
            continue;
        }
        assert_int_equal(image_tree_children(tree, node, &children, &child_count, NULL), KELPIE_OK);
        for (size_t i = child_count; i > 0; i--) {
            size_t size = 0;
            const char *name = image_tree_name(tree, children[i - 1], &size);
            assert_true(count < 64);
            assert_int_equal(image_tree_parent_of(tree, children[i - 1]), node);
            nodes[count] = children[i - 1];
            snprintf(paths[count++], 256, "%.120s%s%.*s", path, path[0] ? "/" : "", (int)size,
                     name);
        }
        free(children);
    }
    assert_string_equal(text, expected);
}

/* ---- What entries do -------------------------------------------------------------------------- */

static void keeps_what_an_entry_says(void **state) {
    (void)state;
    const struct image_entry device = {
        .path = "./dev//sda1/",
        .mode = S_IFBLK | 0660,
        .uid = 4000000000u,
        .gid = 6,
        .device_major = 8,
        .device_minor = 1,
        .modified_s = -5,
        .modified_ns = 7,
        .size = 99,
    };
    assert_int_equal(image_tree_add(tree, &device, &err), KELPIE_OK);
    const struct image_inode *inode = inode_at("/dev/./sda1");
    assert_int_equal(inode->mode, S_IFBLK | 0660);
    assert_int_equal(inode->uid, 4000000000u);
    assert_int_equal(inode->gid, 6);
    assert_int_equal(inode->device_major, 8);
    assert_int_equal(inode->device_minor, 1);
    assert_int_equal(inode->modified_s, -5);
    assert_int_equal(inode->modified_ns, 7);
    assert_int_equal(inode->size, 0);
    assert_int_equal(inode_at("dev")->mode, S_IFDIR | 0755);
    assert_tree("dev/ dev/sda1 ");
}

static void sorts_names_by_their_bytes(void **state) {
    (void)state;
    file("b");
    file("a\xff");
    file("a");
    file("a b");
    file("B");
    assert_tree("B a a b a\xff b ");
}

static void the_root_takes_attributes(void **state) {
    (void)state;
    folder("./");
    assert_int_equal(inode_at("/")->mode, S_IFDIR | 0750);
    assert_int_equal(inode_at("")->uid, 5);
    refused(try_add("/", S_IFREG | 0644, NULL), "is the root");
    refused(image_tree_link(tree, ".", "x", &err), "is the root");
}

static void a_later_entry_replaces_an_earlier_one(void **state) {
    (void)state;
    file("a/b/c");
    file("a/d");
    folder("a");
    assert_tree("a/ a/b/ a/b/c a/d ");
    assert_int_equal(inode_at("a")->mode, S_IFDIR | 0750);
    file("a");
    assert_tree("a ");
    folder("a");
    assert_tree("a/ ");
}

static void a_folder_takes_the_place_of_a_link(void **state) {
    (void)state;
    folder("real");
    symlink_to("link", "real");
    folder("link");
    file("link/x");
    assert_tree("link/ link/x real/ ");
}

static void links_share_what_they_name(void **state) {
    (void)state;
    file("a");
    symlink_to("s", "a");
    assert_int_equal(image_tree_link(tree, "b/c", "./a", &err), KELPIE_OK);
    assert_int_equal(image_tree_link(tree, "t", "s", &err), KELPIE_OK);
    assert_int_equal(inode_at("a")->link_count, 2);
    assert_ptr_equal(inode_at("a"), inode_at("b/c"));
    assert_tree("a b/ b/c s t ");
    file("a");
    assert_int_equal(inode_at("a")->link_count, 1);
    assert_int_equal(inode_at("b/c")->link_count, 1);
    assert_ptr_not_equal(inode_at("a"), inode_at("b/c"));
}

static void a_link_to_itself_is_nothing(void **state) {
    (void)state;
    file("a");
    assert_int_equal(image_tree_link(tree, "a", "a", &err), KELPIE_OK);
    assert_int_equal(inode_at("a")->link_count, 1);
}

/* What the link replaces has the target's only other name. */
static void a_link_may_replace_the_folder_of_its_target(void **state) {
    (void)state;
    file("b/a");
    assert_int_equal(image_tree_link(tree, "b", "b/a", &err), KELPIE_OK);
    assert_tree("b ");
    assert_int_equal(inode_at("b")->link_count, 1);
    assert_int_equal(inode_at("b")->size, 7);
    file("c");
    assert_tree("b c ");
}

static void many_names_are_found_again(void **state) {
    (void)state;
    char path[64];
    for (unsigned i = 0; i < 5000; i++) {
        snprintf(path, sizeof(path), "d%u/f%u", i % 7, i);
        file(path);
    }
    for (unsigned i = 0; i < 5000; i += 2) {
        snprintf(path, sizeof(path), "d%u/.wh.f%u", i % 7, i);
        image_tree_begin_layer(tree, true);
        whiteout(path);
    }
    uint32_t node = 0;
    for (unsigned i = 0; i < 5000; i++) {
        snprintf(path, sizeof(path), "d%u/f%u", i % 7, i);
        assert_int_equal(image_tree_find(tree, path, &node), i % 2);
    }
}

/* ---- Layers ----------------------------------------------------------------------------------- */

static void a_whiteout_hides_what_lies_below(void **state) {
    (void)state;
    file("etc/a");
    file("etc/b/c");
    layer();
    whiteout("etc/.wh.b");
    whiteout("etc/.wh.nothing");
    whiteout("nowhere/.wh.x");
    assert_tree("etc/ etc/a ");
}

/* In whichever order the two come (image-spec, layer.md). */
static void a_whiteout_spares_its_own_layer(void **state) {
    (void)state;
    file("a");
    file("b");
    file("d/old");
    layer();
    whiteout(".wh.a");
    file("a");
    file("b");
    whiteout(".wh.b");
    file("d/new");
    whiteout(".wh.d");
    assert_tree("a b d/ d/new ");
}

static void an_opaque_folder_hides_all_below(void **state) {
    (void)state;
    file("d/old");
    file("d/sub/old");
    file("d/sub/deep/old");
    file("e/old");
    layer();
    file("d/new");
    file("d/sub/deep/new");
    whiteout("d/.wh..wh..opq");
    whiteout("nowhere/.wh..wh..opq");
    assert_tree("d/ d/new d/sub/ d/sub/deep/ d/sub/deep/new e/ e/old ");
}

static void a_builders_own_notes_are_left_out(void **state) {
    (void)state;
    file("d/a");
    layer();
    whiteout(".wh..wh.plnk");
    whiteout("d/.wh..wh.aufs");
    assert_tree("d/ d/a ");
}

static void hard_links_reach_across_layers(void **state) {
    (void)state;
    file("a");
    layer();
    assert_int_equal(image_tree_link(tree, "b", "a", &err), KELPIE_OK);
    whiteout(".wh.a");
    assert_tree("b ");
    assert_int_equal(inode_at("b")->link_count, 1);
}

static void without_whiteouts_their_names_are_names(void **state) {
    (void)state;
    file("a");
    image_tree_begin_layer(tree, false);
    file(".wh.a");
    file(".wh.d/x");
    assert_tree(".wh.a .wh.d/ .wh.d/x a ");
}

/* ---- Hazard D4 -------------------------------------------------------------------------------- */

static void hazard_d4_absolute_names_stay_inside(void **state) {
    (void)state;
    file("/etc/passwd");
    file("///etc/shadow");
    assert_tree("etc/ etc/passwd etc/shadow ");
}

static void hazard_d4_dots_are_refused(void **state) {
    (void)state;
    static const char *const paths[] = {"..", "../x", "a/../x", "/..", "a/..", "./../../x"};
    for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
        refused(try_add(paths[i], S_IFREG | 0644, NULL), "\"..\"");
        refused(try_add(paths[i], S_IFDIR | 0755, NULL), "\"..\"");
    }
    assert_tree("");
    file("f");
    refused(image_tree_link(tree, "x", "../f", &err), "\"..\"");
    refused(image_tree_link(tree, "a/../x", "f", &err), "\"..\"");
}

static void hazard_d4_a_link_as_a_parent_leads_inside(void **state) {
    (void)state;
    folder("etc");
    symlink_to("out", "/etc");
    symlink_to("up", "../../../../etc");
    file("out/a");
    file("up/b");
    assert_tree("etc/ etc/a etc/b out up ");
}

static void hazard_d4_a_link_of_another_layer_leads_inside(void **state) {
    (void)state;
    symlink_to("lib", "usr/lib");
    symlink_to("tmp", "/var/../../tmp2");
    layer();
    file("lib/x");
    file("tmp/x");
    assert_tree("lib tmp tmp2/ tmp2/x usr/ usr/lib/ usr/lib/x var/ ");
}

static void hazard_d4_links_in_a_circle_end(void **state) {
    (void)state;
    uint32_t node = 0;
    symlink_to("a", "b");
    symlink_to("b", "a");
    symlink_to("self", "self/self/self");
    refused(try_add("a/x", S_IFREG | 0644, NULL), "circle");
    refused(try_add("self/x", S_IFREG | 0644, NULL), "circle");
    assert_false(image_tree_find(tree, "a", &node));
    assert_false(image_tree_find(tree, "self/x", &node));
}

static void hazard_d4_links_cannot_grow_a_path_without_end(void **state) {
    (void)state;
    static char target[4096];
    memset(target, 'x', 4000);
    symlink_to("a", target);
    char path[256];
    memset(path, 0, sizeof(path));
    snprintf(path, sizeof(path), "a/%0200d", 0);
    refused(try_add(path, S_IFREG | 0644, NULL), "too long");
    symlink_to("b", target);
    refused(try_add("b/x/y", S_IFREG | 0644, NULL), "too long");
}

static void hazard_d4_hard_links_lead_to_what_is_there(void **state) {
    (void)state;
    folder("d");
    symlink_to("out", "/etc");
    refused(image_tree_link(tree, "a", "later", &err), "not there");
    refused(image_tree_link(tree, "a", "/etc/passwd", &err), "not there");
    refused(image_tree_link(tree, "a", "out/passwd", &err), "not there");
    refused(image_tree_link(tree, "a", "d", &err), "to a folder");
    refused(image_tree_link(tree, "a", "/", &err), "not there");
    refused(image_tree_link(tree, "a", "", &err), "not there");
    file("later");
    assert_tree("d/ later out ");
}

static void hazard_d4_whiteouts_hide_plain_names_only(void **state) {
    (void)state;
    file("a/b");
    layer();
    static const char *const paths[] = {".wh.", ".wh..", ".wh...", "a/.wh..."};
    for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
        refused(try_add(paths[i], S_IFREG | 0644, NULL), "no name");
    }
    refused(try_add(".wh.a/b", S_IFREG | 0644, NULL), "for a folder");
    refused(try_add(".wh.../a", S_IFREG | 0644, NULL), "for a folder");
    refused(try_add("a/../.wh.a", S_IFREG | 0644, NULL), "\"..\"");
    assert_tree("a/ a/b ");
}

static void hazard_d4_a_file_is_no_folder(void **state) {
    (void)state;
    file("a");
    add("dev", S_IFCHR | 0600);
    refused(try_add("a/b", S_IFREG | 0644, NULL), "no folder");
    refused(try_add("dev/b", S_IFREG | 0644, NULL), "no folder");
    symlink_to("l", "a");
    refused(try_add("l/b", S_IFREG | 0644, NULL), "no folder");
}

static void hazard_d4_names_and_depths_are_bounded(void **state) {
    (void)state;
    static char path[5000];
    memset(path, 'x', 255);
    file(path);
    memset(path, 'x', 256);
    refused(try_add(path, S_IFREG | 0644, NULL), "longer than a name");
    refused(try_add("", S_IFLNK | 0777, path), "");
    for (size_t i = 0; i < 4998; i += 2) {
        memcpy(path + i, "a/", 2);
    }
    refused(try_add(path, S_IFREG | 0644, NULL), "longer than a path");
    path[2 * IMAGE_TREE_DEPTH_MAX + 2] = '\0';
    assert_int_equal(try_add(path, S_IFDIR | 0755, NULL), KELPIE_BAD_CONFIG);
    assert_non_null(strstr(err.message, "deep"));
    path[2 * IMAGE_TREE_DEPTH_MAX] = '\0';
    folder(path);
}

static void hazard_d4_control_characters_do_not_reach_messages(void **state) {
    (void)state;
    file("a\n\x1b[31m");
    assert_tree("a\n\x1b[31m ");
    refused(try_add("a\x1b[31m\n/../x", S_IFREG | 0644, NULL), "'a?[31m?/../x'");
}

static void hazard_d4_odd_kinds_are_refused(void **state) {
    (void)state;
    refused(try_add("a", 0644, NULL), "of a kind");
    refused(try_add("a", S_IFLNK | 0777, NULL), "nowhere");
    refused(try_add("a", S_IFLNK | 0777, ""), "nowhere");
    assert_tree("");
}

/* ---- Attributes ------------------------------------------------------------------------------- */

static void attributes_come_back(void **state) {
    (void)state;
    static char records[IMAGE_ATTRIBUTES_SIZE_MAX];
    static char big[IMAGE_ATTRIBUTES_SIZE_MAX];
    size_t size = 0;
    size_t offset = 0;
    struct image_attribute got;
    const struct image_attribute one = {"user.a", 6, "1\0002", 3};
    const struct image_attribute none = {"user.b", 6, NULL, 0};
    const struct image_attribute large = {"user.c", 6, big, sizeof(big)};
    assert_true(image_attributes_append(records, &size, &one));
    assert_true(image_attributes_append(records, &size, &none));
    assert_false(image_attributes_append(records, &size, &large));
    assert_true(image_attributes_next(records, size, &offset, &got));
    assert_int_equal(got.value_size, 3);
    assert_memory_equal(got.value, "1\0002", 3);
    assert_true(image_attributes_next(records, size, &offset, &got));
    assert_memory_equal(got.name, "user.b", 6);
    assert_int_equal(got.value_size, 0);
    assert_false(image_attributes_next(records, size, &offset, &got));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(keeps_what_an_entry_says),
        TEST(sorts_names_by_their_bytes),
        TEST(the_root_takes_attributes),
        TEST(a_later_entry_replaces_an_earlier_one),
        TEST(a_folder_takes_the_place_of_a_link),
        TEST(links_share_what_they_name),
        TEST(a_link_to_itself_is_nothing),
        TEST(a_link_may_replace_the_folder_of_its_target),
        TEST(many_names_are_found_again),
        TEST(a_whiteout_hides_what_lies_below),
        TEST(a_whiteout_spares_its_own_layer),
        TEST(an_opaque_folder_hides_all_below),
        TEST(a_builders_own_notes_are_left_out),
        TEST(hard_links_reach_across_layers),
        TEST(without_whiteouts_their_names_are_names),
        TEST(hazard_d4_absolute_names_stay_inside),
        TEST(hazard_d4_dots_are_refused),
        TEST(hazard_d4_a_link_as_a_parent_leads_inside),
        TEST(hazard_d4_a_link_of_another_layer_leads_inside),
        TEST(hazard_d4_links_in_a_circle_end),
        TEST(hazard_d4_links_cannot_grow_a_path_without_end),
        TEST(hazard_d4_hard_links_lead_to_what_is_there),
        TEST(hazard_d4_whiteouts_hide_plain_names_only),
        TEST(hazard_d4_a_file_is_no_folder),
        TEST(hazard_d4_names_and_depths_are_bounded),
        TEST(hazard_d4_control_characters_do_not_reach_messages),
        TEST(hazard_d4_odd_kinds_are_refused),
        TEST(attributes_come_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
