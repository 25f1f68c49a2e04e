/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What a config may say of shared folders and secrets, and what becomes of a secret's copy. */
#include "vm/populate.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"

static void check_share(struct kelpie_share share, const char *field) {
    static const struct kelpie_disk disk = {.path = "disk", .mount = "/data"};
    const struct kelpie_share shares[] = {{.path = "a", .mount = "/a"}, share};
    const struct kelpie_config config = {
        .disks = &disk, .disk_count = 1, .shares = shares, .share_count = 2};
    struct kelpie_error err = {0};
    enum kelpie_status status = vm_check_config(&config, &err);
    assert_int_equal(status, field ? KELPIE_BAD_CONFIG : KELPIE_OK);
    assert_string_equal(err.field, field ? field : "");
}

static void test_shares(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    check_share((struct kelpie_share){.path = "b", .mount = "/b"}, NULL);
    check_share((struct kelpie_share){.path = "a", .mount = "/a/below"}, NULL);
    check_share((struct kelpie_share){.mount = "/b"}, "shares[1].path");
    check_share((struct kelpie_share){.path = "", .mount = "/b"}, "shares[1].path");
    check_share((struct kelpie_share){.path = "b"}, "shares[1].mount");
    check_share((struct kelpie_share){.path = "b", .mount = "b"}, "shares[1].mount");
    check_share((struct kelpie_share){.path = "b", .mount = "/"}, "shares[1].mount");
    check_share((struct kelpie_share){.path = "b", .mount = "//"}, "shares[1].mount");
    check_share((struct kelpie_share){.path = "b", .mount = "/a"}, "shares[1].mount");
    check_share((struct kelpie_share){.path = "b", .mount = "/data"}, "shares[1].mount");
    check_share((struct kelpie_share){.path = "b", .mount = "/b", .live = true}, NULL);
    check_share((struct kelpie_share){.path = "b", .mount = "/b", .live = true, .copy = true},
                "shares[1].live");
    check_share((struct kelpie_share){.path = "b", .mount = "/b", .reserved = {1}},
                "shares[1].reserved");
    assert_int_equal(vm_check_config(&(struct kelpie_config){.share_count = 1}, &err),
                     KELPIE_BAD_CONFIG);
    struct kelpie_share many[KELPIE_SHARE_COUNT_MAX + 1] = {{0}};
    assert_int_equal(
        vm_check_config(&(struct kelpie_config){.shares = many, .share_count = ARRAY_SIZE(many)},
                        &err),
        KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, "shares");
}

static void check_secret(struct kelpie_secret secret, const char *field) {
    const struct kelpie_secret secrets[] = {{.name = "a"}, secret};
    const struct kelpie_config config = {.secrets = secrets, .secret_count = 2};
    struct kelpie_error err = {0};
    enum kelpie_status status = vm_check_config(&config, &err);
    assert_int_equal(status, field ? KELPIE_BAD_CONFIG : KELPIE_OK);
    assert_string_equal(err.field, field ? field : "");
}

static void test_secrets(void **state) {
    (void)state;
    static const uint8_t data[KELPIE_SECRET_BYTES_MAX + 1] = {0};
    struct kelpie_error err = {0};
    check_secret((struct kelpie_secret){.name = "b"}, NULL);
    check_secret((struct kelpie_secret){.name = "b.c_d-e", .data = data, .size = 1}, NULL);
    check_secret((struct kelpie_secret){.name = "b", .data = data, .size = KELPIE_SECRET_BYTES_MAX},
                 NULL);
    check_secret(
        (struct kelpie_secret){.name = "b", .data = data, .size = KELPIE_SECRET_BYTES_MAX + 1},
        "secrets[1].data");
    check_secret((struct kelpie_secret){.name = "b", .size = 1}, "secrets[1].data");
    static const char *const names[] = {NULL, "", "../b", "a/b", ".b", "b c", "a"};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        check_secret((struct kelpie_secret){.name = names[i]}, "secrets[1].name");
    }
    check_secret((struct kelpie_secret){.name = "b", .reserved = {[3] = 1}}, "secrets[1].reserved");
    assert_int_equal(vm_check_config(&(struct kelpie_config){.secret_count = 1}, &err),
                     KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, "secrets");
}

static void test_a_copy_is_its_own_and_is_wiped(void **state) {
    (void)state;
    struct host *host = NULL;
    struct kelpie_config *copy = NULL;
    char data[] = "a secret";
    const struct kelpie_secret secret = {.name = "token", .data = data, .size = sizeof(data)};
    const struct kelpie_share share = {.path = "here", .mount = "/there", .read_only = true};
    const struct kelpie_config config = {
        .secrets = &secret, .secret_count = 1, .shares = &share, .share_count = 1};
    assert_int_equal(host_linux_create(&host, NULL), KELPIE_OK);
    assert_int_equal(vm_config_copy(host, &config, "id", &copy, NULL), KELPIE_OK);
    memset(data, 'x', sizeof(data));
    assert_string_equal(copy->secrets[0].name, "token");
    assert_string_equal(copy->secrets[0].data, "a secret");
    assert_string_equal(copy->shares[0].path, "here");
    assert_string_equal(copy->shares[0].mount, "/there");
    assert_true(copy->shares[0].read_only);
    vm_populate_wipe(copy);
    const uint8_t zeros[sizeof(data)] = {0};
    assert_memory_equal(copy->secrets[0].data, zeros, sizeof(zeros));
    vm_config_destroy(copy);
    host_destroy(host);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shares),
        cmocka_unit_test(test_secrets),
        cmocka_unit_test(test_a_copy_is_its_own_and_is_wiped),
    };
    return cmocka_run_group_tests_name("vm_populate", tests, NULL, NULL);
}
