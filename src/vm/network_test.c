/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* A VM's network in config, bundle and message. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"
#include "vm/vm.h"

static const struct kelpie_network user = {.kind = KELPIE_NETWORK_USER};
static const struct kelpie_network tap = {.kind = KELPIE_NETWORK_TAP, .tap = "tap0"};

/* ---- Config ----------------------------------------------------------------------------------- */

static const struct kelpie_forward forwards[] = {
    {.host_port = 8080, .guest_port = 80},
    {.host_port = 8080, .guest_port = 53, .udp = true},
    {.host_port = 65535, .guest_port = 80},
};
static const struct kelpie_forward no_host[] = {{.host_port = 1, .guest_port = 1},
                                                {.guest_port = 80}};
static const struct kelpie_forward no_guest[] = {{.host_port = 80}};
static const struct kelpie_forward twice[] = {{.host_port = 80, .guest_port = 1},
                                              {.host_port = 80, .guest_port = 2}};
static const struct kelpie_forward newer[] = {
    {.host_port = 80, .guest_port = 1, .reserved = {0, 1}}};

#define USER .kind = KELPIE_NETWORK_USER
#define TAP .kind = KELPIE_NETWORK_TAP

static const struct {
    struct kelpie_network network;
    const char *field; /* NULL: it is taken */
} rows[] = {
    {{.kind = KELPIE_NETWORK_NONE}, NULL},
    {{USER}, NULL},
    {{USER, .host_loopback = true, .mac = "02:00:00:00:00:0A"}, NULL},
    {{USER, .forwards = forwards, .forward_count = 3}, NULL},
    {{TAP, .tap = "a"}, NULL},
    {{TAP, .tap = "0123456789abcde"}, NULL},
    {{.kind = KELPIE_NETWORK_KIND_COUNT}, "network.kind"},
    {{USER, .reserved = {[7] = 1}}, "network.reserved"},
    {{USER, .mac = ""}, "network.mac"},
    {{USER, .mac = "02:00:00:00:00"}, "network.mac"},
    {{USER, .mac = "03:00:00:00:00:01"}, "network.mac"}, /* a group's */
    {{USER, .mac = "00:00:00:00:00:00"}, "network.mac"},
    {{USER, .tap = "tap0"}, "network.tap"},
    {{USER, .forward_count = 1}, "network.forwards"},
    {{USER, .forwards = forwards, .forward_count = KELPIE_FORWARD_COUNT_MAX + 1},
     "network.forward_count"},
    {{USER, .forwards = no_host, .forward_count = 2}, "network.forwards[1].host_port"},
    {{USER, .forwards = no_guest, .forward_count = 1}, "network.forwards[0].guest_port"},
    {{USER, .forwards = twice, .forward_count = 2}, "network.forwards[1].host_port"},
    {{USER, .forwards = newer, .forward_count = 1}, "network.forwards[0].reserved"},
    {{TAP}, "network.tap"},
    {{TAP, .tap = ""}, "network.tap"},
    {{TAP, .tap = "0123456789abcdef"}, "network.tap"},
    {{TAP, .tap = "../a"}, "network.tap"},
    {{TAP, .tap = "a/b"}, "network.tap"},
    {{TAP, .tap = "a b"}, "network.tap"},
    {{TAP, .tap = "tap0", .forwards = forwards, .forward_count = 1}, "network.forwards"},
    {{TAP, .tap = "tap0", .host_loopback = true}, "network.host_loopback"},
};

static void test_what_a_config_may_say(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct kelpie_error err = {0};
        const struct kelpie_config config = {.network = &rows[i].network};
        enum kelpie_status status = vm_check_config(&config, &err);
        if (!rows[i].field) {
            assert_int_equal(status, KELPIE_OK);
            continue;
        }
        assert_int_equal(status, KELPIE_BAD_CONFIG);
        assert_string_equal(err.field, rows[i].field);
        assert_non_null(strstr(err.message, rows[i].field));
    }
}

/* ---- The copy --------------------------------------------------------------------------------- */

static struct kelpie_config *copy_of(struct host *host, const struct kelpie_network *network) {
    struct kelpie_error err = {0};
    struct kelpie_config *copy = NULL;
    const struct kelpie_config config = {.network = network};
    assert_int_equal(vm_config_copy(host, &config, "0123", &copy, &err), KELPIE_OK);
    return copy;
}

static void test_a_copy_owns_what_it_points_to(void **state) {
    (void)state;
    struct host *host = NULL;
    assert_int_equal(host_linux_create(&host, NULL), KELPIE_OK);
    char mac[] = "02:00:00:00:00:0A";
    struct kelpie_forward mine[] = {{.host_port = 1, .guest_port = 2}};
    const struct kelpie_network network = {USER, .mac = mac, .host_loopback = true,
                                           .forwards = mine, .forward_count = 1};
    struct kelpie_config *copy = copy_of(host, &network);
    memset(mac, '!', sizeof(mac) - 1);
    mine[0].host_port = 9;
    assert_string_equal(copy->network->mac, "02:00:00:00:00:0A");
    assert_int_equal(copy->network->forwards[0].host_port, 1);
    assert_true(copy->network->host_loopback);
    vm_config_destroy(copy);
    char name[] = "tap7";
    copy = copy_of(host, &(struct kelpie_network){TAP, .tap = name});
    name[0] = '!';
    assert_string_equal(copy->network->tap, "tap7");
    vm_config_destroy(copy);
    copy = copy_of(host, &(struct kelpie_network){0});
    assert_null(copy->network); /* one form of "none" */
    vm_config_destroy(copy);
    host_destroy(host);
}

static void hazard_c5_each_vm_draws_a_mac_of_its_own(void **state) {
    (void)state;
    struct host *host = NULL;
    assert_int_equal(host_linux_create(&host, NULL), KELPIE_OK);
    struct kelpie_config *a = copy_of(host, &user);
    struct kelpie_config *b = copy_of(host, &user);
    uint8_t mac[MAC_SIZE];
    assert_true(mac_parse(a->network->mac, mac));
    assert_true(mac_is_host(mac));
    assert_true(mac[0] & 2); /* made up locally */
    assert_string_not_equal(a->network->mac, b->network->mac);
    assert_null(user.mac);
    vm_config_destroy(a);
    vm_config_destroy(b);
    host_destroy(host);
}

/* What only one VM can have stays with the parent: its address, its ports, its log. */
static void hazard_c5_a_child_takes_what_can_be_shared(void **state) {
    (void)state;
    const struct kelpie_network network = {USER, .mac = "02:00:00:00:00:0A", .host_loopback = true,
                                           .forwards = forwards, .forward_count = 3};
    struct kelpie_config config = {.console_log = "log", .network = &network, .vcpu_count = 3};
    struct kelpie_network storage = {0};
    vm_child_config(&config, &storage);
    assert_null(config.console_log);
    assert_int_equal(config.vcpu_count, 3);
    assert_ptr_equal(config.network, &storage);
    assert_int_equal(config.network->kind, KELPIE_NETWORK_USER);
    assert_true(config.network->host_loopback);
    assert_null(config.network->mac);
    assert_null(config.network->forwards);
    assert_int_equal(config.network->forward_count, 0);
    config = (struct kelpie_config){0};
    vm_child_config(&config, &storage);
    assert_null(config.network);
}

/* ---- The guest -------------------------------------------------------------------------------- */

static void test_what_the_guest_is_told(void **state) {
    (void)state;
    struct protocol_network message =
        vm_network_message(&(struct kelpie_network){USER, .mac = "02:01:02:03:04:05"});
    assert_memory_equal(message.mac, ((const uint8_t[]){2, 1, 2, 3, 4, 5}), MAC_SIZE);
    assert_memory_equal(message.address, ((const uint8_t[]){10, 0, 2, 15}), PROTOCOL_IPV4_SIZE);
    assert_int_equal(message.prefix_size, 24);
    assert_memory_equal(message.gateway, ((const uint8_t[]){10, 0, 2, 2}), PROTOCOL_IPV4_SIZE);
    assert_memory_equal(message.dns, ((const uint8_t[]){10, 0, 2, 3}), PROTOCOL_IPV4_SIZE);
    message = vm_network_message(
        &(struct kelpie_network){TAP, .tap = "tap0", .mac = "02:01:02:03:04:05"});
    assert_int_equal(message.mac[5], 5);
    assert_int_equal(message.prefix_size, 0);
    assert_memory_equal(message.address, ((const uint8_t[]){0, 0, 0, 0}), PROTOCOL_IPV4_SIZE);
}

/* ---- Bundles ---------------------------------------------------------------------------------- */

struct bundle_row {
    const struct kelpie_network *saved;  /* of the VM that was saved; NULL: none */
    const struct kelpie_network *wanted; /* what the caller says; NULL: nothing */
    enum kelpie_status status;
    enum kelpie_network_kind kind; /* that comes of it */
};

static void check_bundle(struct host *host, const struct bundle_row *row) {
    struct snapshot_manifest *manifest = NULL;
    struct kelpie_network storage = {0};
    const struct kelpie_network *network = NULL;
    struct kelpie_error err = {0};
    const struct kelpie_config saved = {.network = row->saved};
    const struct kelpie_config wanted = {.network = row->wanted};
    assert_int_equal(snapshot_manifest_create(host, &manifest, NULL), KELPIE_OK);
    assert_int_equal(vm_network_describe(&saved, manifest, NULL), KELPIE_OK);
    enum kelpie_status status = vm_network_of_bundle(manifest, &wanted, &storage, &network, &err);
    assert_int_equal(status, row->status);
    if (status == KELPIE_OK) {
        assert_int_equal(network ? network->kind : KELPIE_NETWORK_NONE, row->kind);
        const struct kelpie_config made = {.network = network};
        assert_int_equal(vm_network_fits(&made, manifest, &err), KELPIE_OK);
    } else {
        assert_string_equal(err.field, "network");
    }
    snapshot_manifest_destroy(manifest);
}

static void test_the_bundle_says_whether_the_caller_through_what(void **state) {
    (void)state;
    static const struct kelpie_network none = {.kind = KELPIE_NETWORK_NONE};
    static const struct bundle_row bundles[] = {
        {NULL, NULL, KELPIE_OK, KELPIE_NETWORK_NONE},
        {NULL, &none, KELPIE_OK, KELPIE_NETWORK_NONE},
        {NULL, &user, KELPIE_SNAPSHOT_INCOMPATIBLE, 0},
        {&user, NULL, KELPIE_OK, KELPIE_NETWORK_USER},
        {&user, &none, KELPIE_OK, KELPIE_NETWORK_USER},
        {&user, &tap, KELPIE_OK, KELPIE_NETWORK_TAP},
        {&tap, NULL, KELPIE_SNAPSHOT_INCOMPATIBLE, 0}, /* which one is this host's matter */
        {&tap, &tap, KELPIE_OK, KELPIE_NETWORK_TAP},
        {&tap, &user, KELPIE_OK, KELPIE_NETWORK_USER},
    };
    struct host *host = NULL;
    assert_int_equal(host_linux_create(&host, NULL), KELPIE_OK);
    for (size_t i = 0; i < ARRAY_SIZE(bundles); i++) {
        check_bundle(host, &bundles[i]);
    }
    host_destroy(host);
}

static void test_a_bundle_fits_no_vm_that_differs(void **state) {
    (void)state;
    struct host *host = NULL;
    struct snapshot_manifest *manifest = NULL;
    struct kelpie_error err = {0};
    const struct kelpie_config with = {.network = &user};
    const struct kelpie_config without = {0};
    assert_int_equal(host_linux_create(&host, NULL), KELPIE_OK);
    assert_int_equal(snapshot_manifest_create(host, &manifest, NULL), KELPIE_OK);
    assert_int_equal(vm_network_fits(&without, manifest, &err), KELPIE_OK);
    assert_int_equal(vm_network_fits(&with, manifest, &err), KELPIE_SNAPSHOT_INCOMPATIBLE);
    assert_int_equal(vm_network_describe(&with, manifest, NULL), KELPIE_OK);
    assert_int_equal(vm_network_fits(&with, manifest, &err), KELPIE_OK);
    assert_int_equal(vm_network_fits(&without, manifest, &err), KELPIE_SNAPSHOT_INCOMPATIBLE);
    assert_string_equal(err.field, "network");
    snapshot_manifest_destroy(manifest);
    host_destroy(host);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_a_config_may_say),
        cmocka_unit_test(test_a_copy_owns_what_it_points_to),
        cmocka_unit_test(hazard_c5_each_vm_draws_a_mac_of_its_own),
        cmocka_unit_test(hazard_c5_a_child_takes_what_can_be_shared),
        cmocka_unit_test(test_what_the_guest_is_told),
        cmocka_unit_test(test_the_bundle_says_whether_the_caller_through_what),
        cmocka_unit_test(test_a_bundle_fits_no_vm_that_differs),
    };
    return cmocka_run_group_tests_name("vm_network", tests, NULL, NULL);
}
