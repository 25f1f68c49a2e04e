/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What an image makes of a config, a SETUP and a bundle. */
#include "vm/vm.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"

#define DIGEST "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static void expect_refused(const struct kelpie_config *config, const char *field) {
    struct kelpie_error err = {0};
    assert_int_equal(vm_check_config(config, &err), KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, field);
}

static void what_a_config_may_say(void **state) {
    (void)state;
    struct kelpie_disk disks[KELPIE_DISK_COUNT_MAX] = {{.path = "/a"}};
    for (size_t i = 0; i < ARRAY_SIZE(disks); i++) {
        disks[i].path = "/a";
    }
    struct kelpie_config config = {.image = "debian", .disks = disks, .disk_count = 6};
    assert_int_equal(vm_check_config(&config, NULL), KELPIE_OK);
    config.disk_count = 7;
    expect_refused(&config, "disk_count");
    config.disk_count = 1;
    disks[0].mount = "/";
    expect_refused(&config, "disks");
    disks[0].mount = "/data";
    assert_int_equal(vm_check_config(&config, NULL), KELPIE_OK);
    config.image = DIGEST;
    assert_int_equal(vm_check_config(&config, NULL), KELPIE_OK);
    static const char *const bad[] = {"", "../x", "a/b", "-x", ".", DIGEST "0"};
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        config.image = bad[i];
        expect_refused(&config, "image");
    }
    config.image = "debian";
    config.image_disk_mib = 15;
    expect_refused(&config, "image_disk_mib");
    config.image_disk_mib = KELPIE_IMAGE_DISK_MIB_MAX + 1;
    expect_refused(&config, "image_disk_mib");
    config.image_disk_mib = KELPIE_IMAGE_DISK_MIB_MAX;
    assert_int_equal(vm_check_config(&config, NULL), KELPIE_OK);
    config.disk_folder = "relative";
    expect_refused(&config, "disk_folder");
}

/* The config's disks keep their places, and the root is the last two. */
static void the_root_is_the_last_two_disks(void **state) {
    (void)state;
    struct kelpie_disk disks[] = {{.path = "/a", .mount = "/data"},
                                  {.path = "/b"},
                                  {.path = "/image", .read_only = true},
                                  {.path = ""}};
    static struct kelpie_vm vm;
    static struct protocol_setup setup;
    vm.machine = (struct kelpie_config){.disks = disks, .disk_count = ARRAY_SIZE(disks)};
    vm.launch.has_image = true;
    vm_image_mounts(&vm, &setup);
    assert_int_equal(setup.mount_count, 2);
    assert_int_equal(setup.mounts[0].disk_index, 0);
    assert_string_equal(setup.mounts[0].path, "/data");
    assert_false(setup.mounts[0].overlay);
    assert_int_equal(setup.mounts[1].disk_index, 2);
    assert_int_equal(setup.mounts[1].upper_index, 3);
    assert_true(setup.mounts[1].overlay);
    assert_true(setup.mounts[1].read_only);
    assert_string_equal(setup.mounts[1].path, "/");
    setup = (struct protocol_setup){0};
    vm.launch.has_image = false;
    vm_image_mounts(&vm, &setup);
    assert_int_equal(setup.mount_count, 1);
}

struct bundle {
    struct snapshot_manifest manifest;
    struct kelpie_config config;
};

static struct bundle *bundle_make(void) {
    struct bundle *bundle = calloc(1, sizeof(*bundle));
    assert_non_null(bundle);
    snprintf(bundle->manifest.info.backend, sizeof(bundle->manifest.info.backend), "qemu");
    assert_int_equal(
        snapshot_manifest_add_feature(&bundle->manifest, SNAPSHOT_FEATURE_IMAGE, DIGEST, NULL),
        KELPIE_OK);
    bundle->manifest.disk_count = 3;
    bundle->manifest.disks[1].read_only = true;
    bundle->manifest.disks[2].size = 512ull << 20;
    bundle->config.disk_count = 3;
    return bundle;
}

static void a_bundle_says_which_image(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    struct bundle *bundle = bundle_make();
    bundle->config.warm = true;
    assert_int_equal(vm_image_of_bundle(&bundle->manifest, &bundle->config, &err), KELPIE_OK);
    assert_string_equal(bundle->config.image, DIGEST);
    assert_int_equal(bundle->config.disk_count, 1);
    assert_int_equal(bundle->config.image_disk_mib, 512);
    assert_false(bundle->config.warm);

    static struct kelpie_vm vm;
    vm.ops = backend_find("mock");
    snprintf(vm.image_digest, sizeof(vm.image_digest), DIGEST);
    assert_int_equal(vm_image_fits(&vm, &bundle->manifest, &err), KELPIE_OK);
    vm.image_digest[10] ^= 1;
    assert_int_equal(vm_image_fits(&vm, &bundle->manifest, &err), KELPIE_SNAPSHOT_INCOMPATIBLE);
    assert_string_equal(err.field, "image");
    vm.image_digest[0] = '\0';
    assert_int_equal(vm_image_fits(&vm, &bundle->manifest, &err), KELPIE_SNAPSHOT_INCOMPATIBLE);
    bundle->manifest.feature_count = 0;
    assert_int_equal(vm_image_fits(&vm, &bundle->manifest, &err), KELPIE_OK);
    snprintf(vm.image_digest, sizeof(vm.image_digest), DIGEST);
    assert_int_equal(vm_image_fits(&vm, &bundle->manifest, &err), KELPIE_SNAPSHOT_INCOMPATIBLE);
    assert_non_null(strstr(err.message, "has none as its image"));
    /* And a VM of an image says so in its bundles, a mock's without disks. */
    assert_int_equal(vm_image_describe(&vm, &bundle->manifest, &err), KELPIE_OK);
    assert_int_equal(vm_image_fits(&vm, &bundle->manifest, &err), KELPIE_OK);
    snprintf(bundle->manifest.info.backend, sizeof(bundle->manifest.info.backend), "mock");
    bundle->manifest.disk_count = bundle->config.disk_count = 0;
    assert_int_equal(vm_image_of_bundle(&bundle->manifest, &bundle->config, &err), KELPIE_OK);
    assert_string_equal(bundle->config.image, DIGEST);
    bundle->manifest.feature_count = 0;
    for (size_t i = 0; i < SNAPSHOT_FEATURE_COUNT_MAX; i++) {
        char name[16];
        snprintf(name, sizeof(name), "feature%zu", i);
        assert_int_equal(snapshot_manifest_add_feature(&bundle->manifest, name, "1", NULL),
                         KELPIE_OK);
    }
    assert_int_not_equal(vm_image_describe(&vm, &bundle->manifest, &err), KELPIE_OK);
    free(bundle);
}

static void hazard_b1_a_bundles_disks_must_be_an_images(void **state) {
    (void)state;
    for (int wrong = 0; wrong < 4; wrong++) {
        struct kelpie_error err = {0};
        struct bundle *bundle = bundle_make();
        switch (wrong) {
        case 0:
            bundle->manifest.disk_count = bundle->config.disk_count = 1;
            break;
        case 1:
            bundle->manifest.disks[1].read_only = false;
            break;
        case 2:
            bundle->manifest.disks[2].read_only = true;
            break;
        default:
            bundle->manifest.disks[2].size = (1u << 20) - 1;
            break;
        }
        assert_int_equal(vm_image_of_bundle(&bundle->manifest, &bundle->config, &err),
                         KELPIE_SNAPSHOT_CORRUPT);
        assert_string_equal(err.field, "manifest");
        free(bundle);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_a_config_may_say),
        cmocka_unit_test(the_root_is_the_last_two_disks),
        cmocka_unit_test(a_bundle_says_which_image),
        cmocka_unit_test(hazard_b1_a_bundles_disks_must_be_an_images),
    };
    return cmocka_run_group_tests_name("vm image", tests, NULL, NULL);
}
