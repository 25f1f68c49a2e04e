/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* A VM made of an image in the store: whose words it takes, and that it keeps the image over which its disk is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/assert.h"
#include "support/fault_host.h"
#include "support/oci_layout.h"
#include "support/store_fixture.h"
#include "vm/vm.h"

#define OK(call) assert_int_equal(call, KELPIE_OK)

static struct store_fixture fixture;
static struct host *faulty;
static char disks[128];

/* An image of one file, with these words in its config. */
static void build(const char *name, const char *content, const char *config) {
    char folder[128];
    char descriptor[OCI_TEXT_SIZE];
    const struct oci_entry entry = {.path = "file", .data = content};
    struct oci_layer layer = oci_layer_make(&entry, 1, (enum oci_compression)0);
    struct kelpie_image *image = NULL;
    struct kelpie_error err = {0};
    snprintf(folder, sizeof(folder), "%s/layout-%s", fixture.folder, content);
    OK(host_path_mkdir(fixture.host, folder, 0755, NULL));
    oci_layout_begin(folder);
    oci_layout_image(folder,
                     &(struct oci_image){.layers = &layer, .layer_count = 1, .config = config},
                     descriptor);
    oci_layout_index(folder, descriptor);
    oci_layer_free(&layer);
    const struct kelpie_image_options options = {.source = KELPIE_IMAGE_OCI, .path = folder};
    if (kelpie_image_build(fixture.host, name, &options, &image, &err) != KELPIE_OK) {
        fail_msg("%s", err.message);
    }
    kelpie_list_free(image);
}

static enum kelpie_status make(const struct kelpie_config *wanted, struct kelpie_vm **ret_vm,
                               struct kelpie_error *err) {
    struct kelpie_config config = *wanted;
    config.backend = "mock";
    config.host = config.host ? config.host : fixture.host;
    *err = (struct kelpie_error){0};
    return kelpie_vm_create(&config, ret_vm, err);
}

static void test_the_images_words_and_the_callers(void **state) {
    (void)state;
    static const char *const env[] = {"MINE=1", NULL};
    struct kelpie_error err;
    struct kelpie_vm *vm = NULL;
    build("worded", "a", "{\"Env\": [\"A=1\"], \"WorkingDir\": \"/srv\"}");
    build("silent", "b", NULL);
    OK(make(&(struct kelpie_config){.image = "worded"}, &vm, &err));
    assert_string_equal(kelpie_vm_config(vm)->env[0], "A=1");
    assert_string_equal(kelpie_vm_config(vm)->working_dir, "/srv");
    kelpie_vm_destroy(vm);
    OK(make(&(struct kelpie_config){.image = "worded", .env = env}, &vm, &err));
    assert_string_equal(kelpie_vm_config(vm)->env[0], "MINE=1");
    assert_string_equal(kelpie_vm_config(vm)->working_dir, "/srv");
    kelpie_vm_destroy(vm);
    OK(make(&(struct kelpie_config){.image = "worded", .env = env, .working_dir = "/mine"}, &vm,
            &err));
    assert_string_equal(kelpie_vm_config(vm)->working_dir, "/mine");
    kelpie_vm_destroy(vm);
    OK(make(&(struct kelpie_config){.image = "silent"}, &vm, &err));
    assert_string_equal(kelpie_vm_config(vm)->working_dir, "/");
    kelpie_vm_destroy(vm);
    assert_int_equal(make(&(struct kelpie_config){.image = "nothing"}, &vm, &err),
                     KELPIE_NOT_FOUND);
    assert_string_equal(err.field, "image");
}

/* The name goes to another image: a VM whose disk is over the first one keeps that, until it is removed. */
static void hazard_c7_a_disk_keeps_its_image(void **state) {
    (void)state;
    struct kelpie_error err;
    struct kelpie_vm *vm = NULL;
    char digest[KELPIE_DIGEST_SIZE];
    char path[192];
    const struct kelpie_config config = {.image = "kept", .disk_folder = disks};
    build("kept", "c", NULL);
    OK(make(&config, &vm, &err));
    snprintf(digest, sizeof(digest), "%s", vm->image_digest);
    kelpie_vm_destroy(vm);
    build("kept", "d", NULL);
    OK(make(&config, &vm, &err));
    assert_string_equal(vm->image_digest, digest);
    kelpie_vm_destroy(vm);
    OK(make(&(struct kelpie_config){.image = "kept"}, &vm, &err)); /* one without disks */
    assert_string_not_equal(vm->image_digest, digest);
    kelpie_vm_destroy(vm);
    snprintf(path, sizeof(path), "%s/image", disks);
    static const struct {
        const char *bytes;
        size_t size;
        enum kelpie_status status;
    } damaged[] = {
        {"", 0, KELPIE_IO_FAILED},
        {"sha256:\0", 8, KELPIE_IO_FAILED},
        {"sha256:0000000000000000000000000000000000000000000000000000000000000000", 71,
         KELPIE_NOT_FOUND},
    };
    for (size_t i = 0; i < ARRAY_SIZE(damaged); i++) {
        OK(host_file_store(fixture.host, path, damaged[i].bytes, damaged[i].size, 0600, NULL));
        assert_int_equal(make(&config, &vm, &err), damaged[i].status);
        assert_true(strlen(err.message) > 10);
    }
    OK(host_path_unlink(fixture.host, path, NULL));
}

/* Each host call fails in turn: what is kept is then whole, or not there. */
static void hazard_d2_an_image_is_looked_up(void **state) {
    (void)state;
    const char *fired = "";
    build("swept", "e", "{\"Env\": [\"A=1\"]}");
    for (uint64_t nth = 1; fired; nth++) {
        struct kelpie_error err;
        struct kelpie_vm *vm = NULL;
        char path[192];
        char text[256];
        snprintf(path, sizeof(path), "%s/image", disks);
        (void)!host_path_unlink(fixture.host, path, NULL);
        const struct kelpie_config config = {
            .image = "swept", .disk_folder = disks, .host = faulty};
        fault_host_arm(faulty, &(struct fault_plan){.nth = nth});
        enum kelpie_status status = make(&config, &vm, &err);
        fired = fault_host_fired(faulty);
        fault_host_disarm(faulty);
        kelpie_vm_destroy(vm);
        assert_true(status == KELPIE_OK || err.status == status);
        assert_true(status == KELPIE_OK || (fired && strlen(err.message) > 5));
        if (fault_host_leaks(faulty, text, sizeof(text)) != 0) {
            fail_msg("%s left open: %s", fired ? fired : "nothing", text);
        }
        assert_true(nth < 1000);
    }
}

/* ---- Backends that have disks, and that have none ----------------------------------------------- */

static struct backend_ops ops;
static struct kelpie_config seen; /* by the backend, of the last VM that was made */

static enum kelpie_status create_without_disks(const struct backend_launch *launch,
                                               struct backend_instance **ret_instance,
                                               struct kelpie_error *err) {
    static struct kelpie_config config;
    struct backend_launch other = *launch;
    seen = *launch->config;
    config = *launch->config;
    config.disk_count = 0; /* the mock takes none */
    other.config = &config;
    return backend_find("mock")->create(&other, ret_instance, err);
}

static enum kelpie_status make_with(const struct kelpie_config *wanted, bool for_bundle,
                                    struct kelpie_vm **ret_vm, struct kelpie_error *err) {
    struct kelpie_config config = *wanted;
    config.backend = "mock";
    config.host = fixture.host;
    const struct vm_origin origin = {.config = &config, .for_bundle = for_bundle, .ops = &ops};
    return vm_create(&origin, ret_vm, err);
}

static void test_an_image_is_two_disks_more(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = NULL;
    const struct kelpie_disk disk = {.path = "/dev/null", .mount = "/data"};
    const struct kelpie_config config = {.image = "disks", .disks = &disk, .disk_count = 1};
    build("disks", "f", NULL);
    ops = *backend_find("mock");
    ops.create = create_without_disks;
    ops.capabilities |= KELPIE_CAN_DISKS;
    OK(make_with(&config, false, &vm, &err));
    assert_int_equal(seen.disk_count, 3);
    assert_string_equal(seen.disks[0].mount, "/data");
    assert_true(seen.disks[1].read_only);
    assert_string_equal(seen.disks[1].path, vm->image_path);
    assert_false(seen.disks[2].read_only);
    assert_int_equal(kelpie_vm_config(vm)->disk_count, 1); /* which callers see as they gave it */
    assert_true(vm->launch.has_image);
    kelpie_vm_destroy(vm);
    ops.capabilities &= ~(uint32_t)KELPIE_CAN_DISKS;
    ops.name = "diskless";
    assert_int_equal(make_with(&(struct kelpie_config){.image = "disks"}, false, &vm, &err),
                     KELPIE_UNSUPPORTED);
    assert_string_equal(err.field, "image");
}

/* A restore brings the image's disk along: the image need not be here. */
static void test_a_bundles_image_need_not_be_here(void **state) {
    (void)state;
    static const char digest[] =
        "sha256:0000000000000000000000000000000000000000000000000000000000000000";
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = NULL;
    const struct kelpie_config config = {.image = digest, .disk_folder = disks};
    ops = *backend_find("mock");
    OK(make_with(&config, true, &vm, &err));
    assert_string_equal(vm->image_digest, digest);
    kelpie_vm_destroy(vm);
    assert_int_equal(make_with(&(struct kelpie_config){.image = digest}, false, &vm, NULL),
                     KELPIE_NOT_FOUND);
}

/* What says what is kept must have a place for it. */
static void test_a_folder_whose_name_is_too_long(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = NULL;
    char folder[KELPIE_PATH_SIZE_MAX + 1];
    memset(folder, 'x', sizeof(folder) - 1);
    folder[0] = '/';
    folder[sizeof(folder) - 1] = '\0';
    build("long", "g", NULL);
    ops = *backend_find("mock");
    for (int for_bundle = 0; for_bundle < 2; for_bundle++) {
        const struct kelpie_config config = {.image = "long", .disk_folder = folder};
        assert_int_equal(make_with(&config, for_bundle, &vm, &err), KELPIE_BAD_CONFIG);
        assert_string_equal(err.field, "disk_folder");
    }
}

static int set_up(void **state) {
    (void)state;
    if (!store_fixture_set_up(&fixture)) {
        return -1;
    }
    snprintf(disks, sizeof(disks), "%s/disks", fixture.folder);
    return host_path_mkdir(fixture.host, disks, 0700, NULL) == KELPIE_OK &&
                   fault_host_create(fixture.host, &faulty, NULL) == KELPIE_OK
               ? 0
               : -1;
}

static int tear_down(void **state) {
    (void)state;
    host_destroy(faulty);
    return store_fixture_tear_down(&fixture) ? 0 : -1;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_images_words_and_the_callers),
        cmocka_unit_test(hazard_c7_a_disk_keeps_its_image),
        cmocka_unit_test(hazard_d2_an_image_is_looked_up),
        cmocka_unit_test(test_an_image_is_two_disks_more),
        cmocka_unit_test(test_a_bundles_image_need_not_be_here),
        cmocka_unit_test(test_a_folder_whose_name_is_too_long),
    };
    return cmocka_run_group_tests_name("vm image keep", tests, set_up, tear_down);
}
