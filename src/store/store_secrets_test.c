/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Secrets over the owner's socket: what goes in comes out, and nothing else does. */
#include "store/store_secrets.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static int setup(void **state) {
    struct host *host = NULL;
    assert_int_equal(host_linux_create(&host, NULL), KELPIE_OK);
    *state = host;
    return 0;
}

static int teardown(void **state) {
    host_destroy(*state);
    return 0;
}

static void what_goes_in_comes_out(void **state) {
    struct host *host = *state;
    static uint8_t large[KELPIE_SECRET_BYTES_MAX];
    memset(large, 0xa5, sizeof(large));
    const struct kelpie_secret secrets[] = {
        {.name = "empty"},
        {.name = "one", .data = "\0", .size = 1},
        {.name = "two", .data = "\xff\xfe", .size = 2},
        {.name = "text", .data = "abc", .size = 3},
        {.name = "large", .data = large, .size = sizeof(large)},
    };
    const struct kelpie_config config = {.secrets = secrets, .secret_count = 5};
    json_t *json = NULL;
    struct store_secrets *found = NULL;
    assert_int_equal(store_secrets_encode(&config, &json, NULL), KELPIE_OK);
    assert_string_equal(json_string_value(json_object_get(json_array_get(json, 3), "data")),
                        "YWJj");
    assert_int_equal(store_secrets_decode(host, json, &found, NULL), KELPIE_OK);
    assert_int_equal(found->count, 5);
    for (size_t i = 0; i < 5; i++) {
        assert_string_equal(found->secrets[i].name, secrets[i].name);
        assert_int_equal(found->secrets[i].size, secrets[i].size);
        assert_true(secrets[i].size == 0 ||
                    memcmp(found->secrets[i].data, secrets[i].data, secrets[i].size) == 0);
    }
    json_t *kept = json_incref(json_object_get(json_array_get(json, 3), "data"));
    store_secrets_forget(json);
    assert_string_equal(json_string_value(kept), ""); /* it was overwritten */
    json_decref(kept);
    store_secrets_destroy(found);
}

static void none_is_none(void **state) {
    struct host *host = *state;
    json_t *json = NULL;
    struct store_secrets *found = NULL;
    assert_int_equal(store_secrets_encode(&(struct kelpie_config){0}, &json, NULL), KELPIE_OK);
    assert_int_equal(store_secrets_decode(host, json, &found, NULL), KELPIE_OK);
    assert_int_equal(found->count, 0);
    store_secrets_forget(json);
    store_secrets_destroy(found);
    store_secrets_forget(NULL);
    store_secrets_destroy(NULL);
}

static void what_is_none_is_refused(void **state) {
    struct host *host = *state;
    static const char *const texts[] = {
        "{}",
        "[1]",
        "[{}]",
        "[{\"name\": \"a\"}]",
        "[{\"data\": \"\"}]",
        "[{\"name\": \"a\", \"data\": 1}]",
        "[{\"name\": \"a\", \"data\": \"YWJ\"}]",
        "[{\"name\": \"a\", \"data\": \"YWJj \"}]",
        "[{\"name\": \"a\", \"data\": \"Y=Jj\"}]",
        "[{\"name\": \"a\", \"data\": \"YWJj====\"}]",
        "[{\"name\": \"a\", \"data\": \"Y!Jj\"}]",
        "[{\"name\": \"a\", \"data\": \"YWJj\\u0000\"}]",
    };
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        struct kelpie_error err = {0};
        struct store_secrets *found = NULL;
        json_t *json = json_loads(texts[i], JSON_ALLOW_NUL, NULL);
        assert_non_null(json);
        assert_int_equal(store_secrets_decode(host, json, &found, &err), KELPIE_BAD_CONFIG);
        assert_string_equal(err.field, "secrets");
        assert_null(found);
        json_decref(json);
    }
    json_t *many = json_array();
    for (size_t i = 0; i <= KELPIE_SECRET_COUNT_MAX; i++) {
        json_array_append_new(many, json_pack("{s:s, s:s}", "name", "a", "data", ""));
    }
    struct store_secrets *found = NULL;
    assert_int_equal(store_secrets_decode(host, many, &found, NULL), KELPIE_BAD_CONFIG);
    json_decref(many);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_goes_in_comes_out, setup, teardown),
        cmocka_unit_test_setup_teardown(none_is_none, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_none_is_refused, setup, teardown),
    };
    return cmocka_run_group_tests_name("store_secrets", tests, NULL, NULL);
}
