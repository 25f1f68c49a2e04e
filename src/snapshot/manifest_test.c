/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "snapshot/snapshot_internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <jansson.h>

#include "base/assert.h"

static struct host *host;

static int set_up(void **state) {
    (void)state;
    return host_linux_create(&host, NULL) == KELPIE_OK ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    host_destroy(host);
    return 0;
}

static struct snapshot_manifest *sample(void) {
    struct snapshot_manifest *manifest = NULL;
    assert_int_equal(snapshot_manifest_create(host, &manifest, NULL), KELPIE_OK);
    struct kelpie_snapshot *info = &manifest->info;
    memset(info->id, 'a', sizeof(info->id) - 1);
    memset(manifest->vm_id, 'b', sizeof(manifest->vm_id) - 1);
    memset(manifest->kernel_digest, 'c', sizeof(manifest->kernel_digest) - 1);
    strncpy(info->backend, "qemu", sizeof(info->backend) - 1);
    strncpy(info->backend_version, "7.2.22 (Debian)", sizeof(info->backend_version) - 1);
    strncpy(info->architecture, "x86_64", sizeof(info->architecture) - 1);
    info->quiesced = true;
    info->created_unix_ms = 1700000000123;
    strncpy(manifest->vm_name, "worker-1", sizeof(manifest->vm_name) - 1);
    strncpy(manifest->hostname, "worker", sizeof(manifest->hostname) - 1);
    strncpy(manifest->working_dir, "/root", sizeof(manifest->working_dir) - 1);
    strncpy(manifest->kernel_args, "quiet", sizeof(manifest->kernel_args) - 1);
    manifest->vcpu_count = 2;
    manifest->memory_mib = 512;
    manifest->memory_in_state = true;
    assert_int_equal(snapshot_manifest_add_env(host, manifest, "A=1", NULL), KELPIE_OK);
    assert_int_equal(snapshot_manifest_add_env(host, manifest, "B=\xc3\xbc \" \\ \n", NULL),
                     KELPIE_OK);
    assert_int_equal(snapshot_manifest_add_feature(manifest, "machine", "microvm", NULL),
                     KELPIE_OK);
    manifest->parts[SNAPSHOT_PART_STATE] = (struct snapshot_part_info){.present = true, .size = 7};
    memset(manifest->parts[SNAPSHOT_PART_STATE].checksum, 'd', SNAPSHOT_CHECKSUM_SIZE - 1);
    manifest->parts[SNAPSHOT_PART_DISK_0] =
        (struct snapshot_part_info){.present = true, .size = 1024};
    memset(manifest->parts[SNAPSHOT_PART_DISK_0].checksum, 'e', SNAPSHOT_CHECKSUM_SIZE - 1);
    manifest->disk_count = 2;
    for (size_t i = 0; i < 2; i++) {
        snprintf(manifest->disks[i].path, sizeof(manifest->disks[i].path), "/images/%zu", i);
        manifest->disks[i].size = 1024;
    }
    manifest->disks[0].in_bundle = true;
    manifest->disks[1].read_only = true;
    memset(manifest->disks[1].checksum, 'f', SNAPSHOT_CHECKSUM_SIZE - 1);
    strncpy(manifest->disks[1].mount, "/data", sizeof(manifest->disks[1].mount) - 1);
    manifest->session_count = 2;
    manifest->sessions[0] = (struct snapshot_session){1, false, 2, 3, 4};
    manifest->sessions[1] = (struct snapshot_session){9, true, 0, INT64_MAX, 0};
    return manifest;
}

static char *encode_sample(void) {
    char *text = NULL;
    struct snapshot_manifest *manifest = sample();
    assert_int_equal(snapshot_manifest_encode(manifest, &text, NULL), KELPIE_OK);
    snapshot_manifest_destroy(manifest);
    return text;
}

static enum kelpie_status decode(const char *text, size_t size, struct kelpie_error *err) {
    struct snapshot_manifest *manifest = NULL;
    enum kelpie_status status = snapshot_manifest_decode(host, text, size, &manifest, err);
    snapshot_manifest_destroy(manifest);
    return status;
}

static void test_manifest_survives_encoding(void **state) {
    (void)state;
    struct snapshot_manifest *manifest = sample();
    struct snapshot_manifest *decoded = NULL;
    char *text = NULL;
    char *again = NULL;
    assert_int_equal(snapshot_manifest_encode(manifest, &text, NULL), KELPIE_OK);
    assert_int_equal(snapshot_manifest_decode(host, text, strlen(text), &decoded, NULL), KELPIE_OK);
    assert_int_equal(snapshot_manifest_encode(decoded, &again, NULL), KELPIE_OK);
    assert_string_equal(text, again);
    assert_memory_equal(&manifest->info, &decoded->info, sizeof(manifest->info));
    assert_memory_equal(manifest->parts, decoded->parts, sizeof(manifest->parts));
    assert_memory_equal(manifest->disks, decoded->disks, sizeof(manifest->disks));
    assert_int_equal(decoded->session_count, 2);
    assert_int_equal(decoded->sessions[1].id, 9);
    assert_true(decoded->sessions[1].tty);
    assert_int_equal(decoded->sessions[1].stdout_offset, INT64_MAX);
    assert_string_equal(snapshot_manifest_feature(decoded, "machine"), "microvm");
    assert_null(snapshot_manifest_feature(decoded, "cpu"));
    assert_int_equal(decoded->env_count, 2);
    assert_string_equal(decoded->env[1], manifest->env[1]);
    free(text);
    free(again);
    snapshot_manifest_destroy(manifest);
    snapshot_manifest_destroy(decoded);
}

/* Jansson takes no argument for its allocator. */
static size_t allocations_left;
static bool allocation_failed;

static void *allocate_json(size_t size) {
    if (allocations_left == 0 && !allocation_failed) {
        allocation_failed = true;
        return NULL;
    }
    allocations_left -= allocations_left > 0;
    return malloc(size);
}

/* With each allocation failing once: an error, or a manifest that is whole. */
static void test_manifest_without_memory_is_none(void **state) {
    (void)state;
    char *whole = encode_sample();
    struct snapshot_manifest *manifest = sample();
    size_t refused = 0;
    allocation_failed = true;
    for (size_t nth = 0; allocation_failed; nth++) {
        char *text = NULL;
        allocations_left = nth;
        allocation_failed = false;
        json_set_alloc_funcs(allocate_json, free);
        enum kelpie_status status = snapshot_manifest_encode(manifest, &text, NULL);
        json_set_alloc_funcs(malloc, free);
        if (status == KELPIE_OK) {
            assert_string_equal(text, whole);
        }
        refused += status != KELPIE_OK;
        free(text);
    }
    assert_true(refused > 100);
    snapshot_manifest_destroy(manifest);
    free(whole);
}

static void test_manifest_refuses_text_that_is_not_utf8(void **state) {
    (void)state;
    struct snapshot_manifest *manifest = sample();
    struct kelpie_error err;
    char *text = NULL;
    strncpy(manifest->kernel_args, "\xff\xfe", sizeof(manifest->kernel_args) - 1);
    assert_int_equal(snapshot_manifest_encode(manifest, &text, &err), KELPIE_SNAPSHOT_FAILED);
    assert_non_null(strstr(err.message, "UTF-8"));
    assert_null(text);
    strncpy(manifest->kernel_args, "", sizeof(manifest->kernel_args) - 1);
    assert_int_equal(snapshot_manifest_add_env(host, manifest, "X=\xff", NULL), KELPIE_OK);
    assert_int_equal(snapshot_manifest_encode(manifest, &text, &err), KELPIE_SNAPSHOT_FAILED);
    snapshot_manifest_destroy(manifest);
}

/* A flip that still decodes must mean the same: it can only have hit white space. */
static void expect_refused_or_same(const char *text, size_t size, const char *original) {
    struct kelpie_error err = {0};
    struct snapshot_manifest *manifest = NULL;
    char *again = NULL;
    enum kelpie_status status = snapshot_manifest_decode(host, text, size, &manifest, &err);
    if (status != KELPIE_OK) {
        assert_true(status == KELPIE_SNAPSHOT_CORRUPT || status == KELPIE_SNAPSHOT_INCOMPATIBLE);
        assert_true(strcmp(err.field, "manifest") == 0 || strcmp(err.field, "format_version") == 0);
        return;
    }
    assert_int_equal(snapshot_manifest_encode(manifest, &again, NULL), KELPIE_OK);
    assert_string_equal(again, original);
    free(again);
    snapshot_manifest_destroy(manifest);
}

static void hazard_B3_every_manifest_byte_flipped(void **state) {
    static const uint8_t flips[] = {0x01, 0x02, 0x04, 0x10, 0x20, 0x80, 0xff};
    (void)state;
    char *text = encode_sample();
    char *copy = strdup(text);
    size_t size = strlen(text);
    for (size_t i = 0; i < size; i++) {
        for (size_t j = 0; j < ARRAY_SIZE(flips); j++) {
            copy[i] = (char)((uint8_t)text[i] ^ flips[j]);
            expect_refused_or_same(copy, size, text);
        }
        copy[i] = text[i];
    }
    free(copy);
    free(text);
}

static void hazard_B3_manifest_truncated_anywhere(void **state) {
    (void)state;
    char *text = encode_sample();
    for (size_t size = 0; size < strlen(text); size++) {
        char *cut = malloc(size + 1); /* So that reading beyond is seen. */
        memcpy(cut, text, size);
        struct kelpie_error err;
        assert_int_equal(decode(cut, size, &err), KELPIE_SNAPSHOT_CORRUPT);
        assert_string_equal(err.field, "manifest");
        free(cut);
    }
    free(text);
}

/* Decodes a manifest whose checksum is made right first. */
static enum kelpie_status decode_signed(json_t *root, struct kelpie_error *err) {
    json_object_del(root, "checksum");
    char checksum[SNAPSHOT_CHECKSUM_SIZE];
    char *text = json_dumps(root, JSON_COMPACT | JSON_SORT_KEYS);
    snapshot_checksum_bytes(text, strlen(text), checksum);
    free(text);
    json_object_set_new(root, "checksum", json_string(checksum));
    text = json_dumps(root, 0);
    enum kelpie_status status = decode(text, strlen(text), err);
    free(text);
    return status;
}

static json_t *sample_json(void) {
    char *text = encode_sample();
    json_t *root = json_loads(text, 0, NULL);
    assert_non_null(root);
    free(text);
    return root;
}

/* The sample with one change. */
static enum kelpie_status decode_changed(void (*change)(json_t *root), struct kelpie_error *err) {
    json_t *root = sample_json();
    change(root);
    enum kelpie_status status = decode_signed(root, err);
    json_decref(root);
    return status;
}

static void change_nothing(json_t *root) {
    (void)root;
}

static void change_extension(json_t *root) {
    json_object_set_new(root, "x-note", json_string("kept by others"));
}

static void change_version(json_t *root) {
    json_object_set_new(root, "format_version", json_integer(4));
    json_object_del(root, "sessions"); /* A later version may lack anything. */
}

static void change_unknown(json_t *root) {
    json_object_set_new(root, "surprise", json_true());
}

static void change_nested_unknown(json_t *root) {
    json_object_set_new(json_object_get(root, "config"), "x-note", json_true());
}

static void change_missing(json_t *root) {
    json_object_del(root, "quiesced");
}

static void change_part_path(json_t *root) {
    json_object_set(json_object_get(root, "parts"), "../../etc/passwd",
                    json_object_get(json_object_get(root, "parts"), "state"));
}

static void change_part_size(json_t *root) {
    json_t *state = json_object_get(json_object_get(root, "parts"), "state");
    json_object_set_new(state, "size", json_integer(INT64_MAX));
}

static void change_part_negative(json_t *root) {
    json_t *state = json_object_get(json_object_get(root, "parts"), "state");
    json_object_set_new(state, "size", json_integer(-1));
}

static void change_part_real(json_t *root) {
    json_t *state = json_object_get(json_object_get(root, "parts"), "state");
    json_object_set_new(state, "size", json_real(7.0));
}

static void change_state_missing(json_t *root) {
    json_object_del(json_object_get(root, "parts"), "state");
}

static void change_memory_twice(json_t *root) {
    json_t *parts = json_object_get(root, "parts");
    json_object_set(parts, "memory", json_object_get(parts, "state"));
}

/* ---- Checkpoints ---- */

static void change_to_checkpoint(json_t *root) {
    json_t *parts = json_object_get(root, "parts");
    json_object_set_new(root, "format_version", json_integer(SNAPSHOT_FORMAT_VERSION_CHECKPOINT));
    json_object_set_new(root, "kind", json_string("checkpoint"));
    json_object_set_new(root, "workspace", json_string("/job/a b"));
    json_object_set_new(root, "memory_in_state", json_false());
    json_object_set(parts, "files", json_object_get(parts, "state"));
    json_object_del(parts, "state");
    json_object_del(parts, "disk-0");
    json_array_clear(json_object_get(root, "disks"));
    json_array_clear(json_object_get(root, "sessions"));
}

static void change_kind_alone(json_t *root) {
    json_object_set_new(root, "kind", json_string("checkpoint"));
}

static void change_checkpoint_kind(json_t *root) {
    change_to_checkpoint(root);
    json_object_set_new(root, "kind", json_string("suspend"));
}

static void change_checkpoint_version(json_t *root) {
    change_to_checkpoint(root);
    json_object_set_new(root, "format_version", json_integer(SNAPSHOT_FORMAT_VERSION));
}

static void change_checkpoint_nowhere(json_t *root) {
    change_to_checkpoint(root);
    json_object_del(root, "workspace");
}

static void change_workspace(json_t *root, const char *workspace) {
    change_to_checkpoint(root);
    json_object_set_new(root, "workspace", json_string(workspace));
}

static void change_workspace_root(json_t *root) {
    change_workspace(root, "/");
}

static void change_workspace_empty(json_t *root) {
    change_workspace(root, "");
}

static void change_workspace_relative(json_t *root) {
    change_workspace(root, "work");
}

static void change_workspace_up(json_t *root) {
    change_workspace(root, "/job/../etc");
}

static void change_workspace_slash(json_t *root) {
    change_workspace(root, "/job/");
}

static void change_checkpoint_empty(json_t *root) {
    change_to_checkpoint(root);
    json_object_clear(json_object_get(root, "parts"));
}

static void change_checkpoint_memory(json_t *root) {
    change_to_checkpoint(root);
    json_t *parts = json_object_get(root, "parts");
    json_object_set(parts, "memory", json_object_get(parts, "files"));
}

static void change_checkpoint_running(json_t *root) {
    change_to_checkpoint(root);
    json_object_set_new(root, "quiesced", json_false());
}

static void change_checkpoint_in_state(json_t *root) {
    change_to_checkpoint(root);
    json_object_set_new(root, "memory_in_state", json_true());
}

static void change_checkpoint_disk(json_t *root) {
    json_t *disk = json_incref(json_array_get(json_object_get(root, "disks"), 1));
    change_to_checkpoint(root);
    json_array_append_new(json_object_get(root, "disks"), disk);
}

static void change_checkpoint_session(json_t *root) {
    json_t *session = json_incref(json_array_get(json_object_get(root, "sessions"), 0));
    change_to_checkpoint(root);
    json_array_append_new(json_object_get(root, "sessions"), session);
}

static void change_files_beside(json_t *root) {
    json_t *parts = json_object_get(root, "parts");
    json_object_set(parts, "files", json_object_get(parts, "state"));
}

static void change_workspace_beside(json_t *root) {
    json_object_set_new(root, "workspace", json_string("/job"));
}

static void change_parent_path_empty(json_t *root) {
    json_object_set_new(root, "format_version", json_integer(SNAPSHOT_FORMAT_VERSION_DIFF));
    json_object_set_new(root, "parent_path", json_string(""));
}

static void change_disk_dropped(json_t *root) {
    json_array_clear(json_object_get(root, "disks"));
}

static void change_disk_resized(json_t *root) {
    json_t *disk = json_array_get(json_object_get(root, "disks"), 0);
    json_object_set_new(disk, "size", json_integer(512));
}

static void change_disks_too_many(json_t *root) {
    json_t *disks = json_object_get(root, "disks");
    for (int i = 0; i < KELPIE_DISK_COUNT_MAX; i++) {
        json_array_append(disks, json_array_get(disks, 1));
    }
}

static void change_session_twice(json_t *root) {
    json_t *sessions = json_object_get(root, "sessions");
    json_array_append(sessions, json_array_get(sessions, 0));
}

static void change_sessions_too_many(json_t *root) {
    json_t *sessions = json_object_get(root, "sessions");
    for (int i = 0; i < KELPIE_EXEC_COUNT_MAX; i++) {
        json_array_append(sessions, json_array_get(sessions, 0));
    }
}

static void change_session_id(json_t *root) {
    json_t *session = json_array_get(json_object_get(root, "sessions"), 0);
    json_object_set_new(session, "id", json_integer(4294967296));
}

static void change_memory_size(json_t *root) {
    json_object_set_new(json_object_get(root, "config"), "memory_mib",
                        json_integer(KELPIE_MEMORY_MIB_MAX + 1));
}

static void change_memory_none(json_t *root) {
    json_object_set_new(json_object_get(root, "config"), "memory_mib", json_integer(0));
}

static void change_memory_overflow(json_t *root) {
    json_object_set_new(json_object_get(root, "config"), "memory_mib",
                        json_integer((1ll << 32) + 64));
}

static void change_vcpus(json_t *root) {
    json_object_set_new(json_object_get(root, "config"), "vcpu_count", json_integer(0));
}

static void change_env(json_t *root) {
    json_array_append_new(json_object_get(json_object_get(root, "config"), "env"),
                          json_string("no equals sign"));
}

static void change_working_dir(json_t *root) {
    json_object_set_new(json_object_get(root, "config"), "working_dir", json_string("relative"));
}

static void change_kernel_args(json_t *root) {
    json_object_set_new(json_object_get(root, "config"), "kernel_args", json_string("a\nb"));
}

static void change_id(json_t *root) {
    json_object_set_new(root, "id", json_string("../../../../../../../../../../../"));
}

static void change_backend(json_t *root) {
    json_object_set_new(root, "backend", json_string("a-backend-with-a-long-name"));
}

static void change_kind(json_t *root) {
    json_object_set_new(root, "kind", json_string("hibernate"));
}

static void change_digest(json_t *root) {
    json_object_set_new(root, "kernel_sha256", json_string("CC"));
}

static void change_feature(json_t *root) {
    json_object_set_new(json_object_get(root, "features"), "a b", json_string("x"));
}

static void hazard_B3_wrong_members_with_a_right_checksum(void **state) {
    static const struct {
        void (*change)(json_t *root);
        enum kelpie_status status;
        const char *text; /* in the message */
    } cases[] = {
        {change_nothing, KELPIE_OK, NULL},
        {change_extension, KELPIE_OK, NULL},
        {change_version, KELPIE_SNAPSHOT_INCOMPATIBLE, "format version 4"},
        {change_unknown, KELPIE_SNAPSHOT_CORRUPT, "surprise is unknown"},
        {change_nested_unknown, KELPIE_SNAPSHOT_CORRUPT, "config.x-note is unknown"},
        {change_missing, KELPIE_SNAPSHOT_CORRUPT, "quiesced is missing"},
        {change_part_path, KELPIE_SNAPSHOT_CORRUPT, "no part of a bundle"},
        {change_part_size, KELPIE_SNAPSHOT_CORRUPT, "parts.size is out of range"},
        {change_part_negative, KELPIE_SNAPSHOT_CORRUPT, "parts.size is out of range"},
        {change_part_real, KELPIE_SNAPSHOT_CORRUPT, "parts.size is not an integer"},
        {change_state_missing, KELPIE_SNAPSHOT_CORRUPT, "parts.state is missing"},
        {change_memory_twice, KELPIE_SNAPSHOT_CORRUPT, "memory_in_state"},
        {change_to_checkpoint, KELPIE_OK, NULL},
        {change_kind_alone, KELPIE_SNAPSHOT_CORRUPT, "kind and format_version contradict"},
        {change_checkpoint_kind, KELPIE_SNAPSHOT_CORRUPT, "kind and format_version contradict"},
        {change_checkpoint_version, KELPIE_SNAPSHOT_CORRUPT, "workspace is unknown"},
        {change_checkpoint_nowhere, KELPIE_SNAPSHOT_CORRUPT, "workspace is missing"},
        {change_workspace_root, KELPIE_SNAPSHOT_CORRUPT, "workspace is no absolute path"},
        {change_workspace_empty, KELPIE_SNAPSHOT_CORRUPT, "workspace is no absolute path"},
        {change_workspace_relative, KELPIE_SNAPSHOT_CORRUPT, "workspace is not an absolute path"},
        {change_workspace_up, KELPIE_SNAPSHOT_CORRUPT, "workspace is no absolute path"},
        {change_workspace_slash, KELPIE_SNAPSHOT_CORRUPT, "workspace is no absolute path"},
        {change_checkpoint_empty, KELPIE_SNAPSHOT_CORRUPT, "parts.files is missing"},
        {change_checkpoint_memory, KELPIE_SNAPSHOT_CORRUPT, "parts.memory does not fit the kind"},
        {change_checkpoint_running, KELPIE_SNAPSHOT_CORRUPT, "kind is one of files"},
        {change_checkpoint_in_state, KELPIE_SNAPSHOT_CORRUPT, "kind is one of files"},
        {change_checkpoint_disk, KELPIE_SNAPSHOT_CORRUPT, "kind is one of files"},
        {change_checkpoint_session, KELPIE_SNAPSHOT_CORRUPT, "kind is one of files"},
        {change_files_beside, KELPIE_SNAPSHOT_CORRUPT, "parts.files does not fit the kind"},
        {change_workspace_beside, KELPIE_SNAPSHOT_CORRUPT, "workspace is unknown"},
        {change_parent_path_empty, KELPIE_SNAPSHOT_CORRUPT, "parent_path is empty"},
        {change_disk_dropped, KELPIE_SNAPSHOT_CORRUPT, "contradict"},
        {change_disk_resized, KELPIE_SNAPSHOT_CORRUPT, "contradict"},
        {change_disks_too_many, KELPIE_SNAPSHOT_CORRUPT, "too long"},
        {change_session_twice, KELPIE_SNAPSHOT_CORRUPT, "same id twice"},
        {change_sessions_too_many, KELPIE_SNAPSHOT_CORRUPT, "too long"},
        {change_session_id, KELPIE_SNAPSHOT_CORRUPT, "sessions.id is out of range"},
        {change_memory_size, KELPIE_SNAPSHOT_CORRUPT, "config.memory_mib is out of range"},
        {change_memory_none, KELPIE_SNAPSHOT_CORRUPT, "config.memory_mib is out of range"},
        {change_memory_overflow, KELPIE_SNAPSHOT_CORRUPT, "config.memory_mib is out of range"},
        {change_vcpus, KELPIE_SNAPSHOT_CORRUPT, "config.vcpu_count is out of range"},
        {change_env, KELPIE_SNAPSHOT_CORRUPT, "KEY=VALUE"},
        {change_working_dir, KELPIE_SNAPSHOT_CORRUPT, "config.working_dir"},
        {change_kernel_args, KELPIE_SNAPSHOT_CORRUPT, "config.kernel_args"},
        {change_id, KELPIE_SNAPSHOT_CORRUPT, "id "},
        {change_backend, KELPIE_SNAPSHOT_CORRUPT, "backend"},
        {change_kind, KELPIE_SNAPSHOT_CORRUPT, "kind is none of"},
        {change_digest, KELPIE_SNAPSHOT_CORRUPT, "kernel_sha256"},
        {change_feature, KELPIE_SNAPSHOT_CORRUPT, "features.a b"},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct kelpie_error err = {0};
        assert_int_equal(decode_changed(cases[i].change, &err), cases[i].status);
        if (cases[i].text && !strstr(err.message, cases[i].text)) {
            fail_msg("case %zu: \"%s\" is not in \"%s\"", i, cases[i].text, err.message);
        }
    }
}

static void test_manifest_refuses_duplicate_keys_and_depth(void **state) {
    (void)state;
    struct kelpie_error err;
    char deep[8192];
    memset(deep, '[', sizeof(deep));
    assert_int_equal(decode(deep, sizeof(deep), &err), KELPIE_SNAPSHOT_CORRUPT);
    char *text = encode_sample();
    size_t size = strlen(text) + 64;
    char *twice = malloc(size);
    snprintf(twice, size, "{\"quiesced\": false,%s", text + 1);
    assert_int_equal(decode(twice, strlen(twice), &err), KELPIE_SNAPSHOT_CORRUPT);
    assert_non_null(strstr(err.message, "duplicate"));
    free(twice);
    free(text);
}

/* ---- Every member ----------------------------------------------------------------------------- */

/* What lies at a place such as "config.env.1"; NULL: nothing. */
static json_t *at(json_t *root, const char *place) {
    json_t *value = root;
    while (value && *place) {
        char key[64];
        size_t size = strcspn(place, ".");
        snprintf(key, sizeof(key), "%.*s", (int)size, place);
        value = json_is_array(value) ? json_array_get(value, (size_t)atoi(key))
                                     : json_object_get(value, key);
        place += size + (place[size] == '.');
    }
    return value;
}

static void refuse_member(const char *container, const char *key, json_t *wrong, const char *why) {
    struct kelpie_error err = {0};
    json_t *root = sample_json();
    json_t *object = at(root, container);
    assert_int_equal(wrong ? json_object_set_new(object, key, wrong) : json_object_del(object, key),
                     0);
    enum kelpie_status status = decode_signed(root, &err);
    if (status != KELPIE_SNAPSHOT_CORRUPT || !strstr(err.message, key) ||
        !strstr(err.message, why)) {
        fail_msg("%s.%s: %s: %s", container, key, kelpie_status_name(status), err.message);
    }
    json_decref(root);
}

/* Each member of each object: left out, and of another type. */
static void hazard_B3_every_member_is_needed_and_of_its_type(void **state) {
    static const char *const containers[] = {"", "config", "parts.state", "disks.1", "sessions.0"};
    (void)state;
    json_t *root = sample_json();
    for (size_t i = 0; i < ARRAY_SIZE(containers); i++) {
        const char *key = NULL;
        json_t *value = NULL;
        json_object_foreach(at(root, containers[i]), key, value) {
            if (strcmp(key, "checksum") == 0) {
                continue; /* decode_signed() makes it */
            }
            bool version = strcmp(key, "format_version") == 0;
            refuse_member(containers[i], key, NULL, version ? "is not an integer" : "is missing");
            refuse_member(containers[i], key, json_null(), " ");
            bool array = json_is_array(value);
            refuse_member(containers[i], key, array ? json_object() : json_array(), "is ");
        }
    }
    json_decref(root);
}

/* One value elsewhere, as JSON; and the words of the message, or NULL where it is taken. */
static const struct {
    const char *container;
    const char *key;
    const char *value;
    const char *why;
} values[] = {
    {"", "id", "\"\"", "hexadecimal"},
    {"", "id", "\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"", "hexadecimal"},
    {"", "id", "\"aaaa\"", "hexadecimal"},
    {"", "parent_id", "\"\"", NULL},
    {"", "parent_id", "\"x\"", "hexadecimal"},
    {"", "architecture", "\"\"", "not a name"},
    {"", "architecture", "\"-x\"", "not a name"},
    {"", "architecture", "\"x y\"", "not a name"},
    {"", "backend", "\".x\"", "not a name"},
    {"", "backend_version", "\"\"", NULL},
    {"", "backend_version", "\"a\\u007fb\"", "control characters"},
    {"", "backend_version", "\"a\\u001fb\"", "control characters"},
    {"", "quiesced", "0", "neither true nor false"},
    {"", "created_unix_ms", "-1", "out of range"},
    {"", "created_unix_ms", "1.5", "not an integer"},
    {"", "kind", "\"teleport\"", NULL},
    {"", "vm_id", "\"\"", NULL},
    {"", "vm_name", "\"\"", NULL},
    {"", "vm_name", "\"_a\"", "not a name"},
    {"", "initramfs_sha256", "\"00\"", "hexadecimal"},
    {"", "memory_in_state", "false", NULL},
    {"", "parts", "{\"state\": 1}", "is not an object"},
    {"", "disks", "[1, 2]", "is not an object"},
    {"", "sessions", "[1]", "is not an object"},
    {"", "features", "{\"machine\": 1}", "not a string"},
    {"", "features", "{\"a-name-that-is-longer-than-31-characters\": \"\"}", "not a name"},
    {"", "format_version", "2", "parent_path is missing"},
    {"", "parent_path", "\"../a\"", "parent_path is unknown"},
    {"config", "hostname", "\"\"", NULL},
    {"config", "hostname", "\"-a\"", "not a name"},
    {"config", "working_dir", "\"\"", NULL},
    {"config", "env", "[1]", "KEY=VALUE"},
    {"config", "env", "[\"=a\"]", "KEY=VALUE"},
    {"config", "env", "[\"a\"]", "KEY=VALUE"},
    {"config", "env", "[\"a=\"]", NULL},
    {"config", "vcpu_count", "33", "out of range"},
    {"parts.state", "size", "281474976710657", "out of range"},
    {"parts.state", "xxh3_128", "\"\"", "hexadecimal"},
    {"parts.state", "more", "1", "unknown"},
    {"disks.1", "path", "\"\"", "is empty"},
    {"disks.1", "mount", "\"\"", NULL},
    {"disks.1", "mount", "\"data\"", "absolute"},
    {"disks.1", "in_bundle", "true", "contradict"},
    {"disks.1", "xxh3_128", "\"\"", NULL},
    {"disks.0", "in_bundle", "false", "contradict"},
    {"sessions.0", "id", "4294967296", "out of range"},
    {"sessions.0", "stdin_offset", "-1", "out of range"},
};

static void hazard_B3_every_value_has_its_range(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
        struct kelpie_error err = {0};
        json_t *root = sample_json();
        json_t *value = json_loads(values[i].value, JSON_DECODE_ANY, NULL);
        assert_non_null(value);
        json_object_set_new(at(root, values[i].container), values[i].key, value);
        enum kelpie_status status = decode_signed(root, &err);
        json_decref(root);
        bool right = values[i].why ? status == KELPIE_SNAPSHOT_CORRUPT &&
                                         strcmp(err.field, "manifest") == 0 &&
                                         strstr(err.message, values[i].why)
                                   : status == KELPIE_OK;
        if (!right) {
            fail_msg("%s.%s = %s: %s: %s", values[i].container, values[i].key, values[i].value,
                     kelpie_status_name(status), err.message);
        }
    }
}

static void hazard_B3_an_environment_is_bounded(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    static char variable[KELPIE_COMMAND_BYTES_MAX + 1];
    for (size_t extra = 0; extra < 2; extra++) {
        json_t *root = sample_json();
        json_t *env = json_object_get(json_object_get(root, "config"), "env");
        memset(variable, 'x', sizeof(variable) - 1);
        variable[1] = '=';
        variable[sizeof(variable) - 2 + extra] = 0;
        json_array_clear(env);
        json_array_append_new(env, json_string(variable));
        assert_int_equal(decode_signed(root, &err), extra ? KELPIE_SNAPSHOT_CORRUPT : KELPIE_OK);
        json_array_clear(env);
        for (size_t i = 0; i < KELPIE_ENV_COUNT_MAX + extra; i++) {
            json_array_append_new(env, json_string("A=1"));
        }
        assert_int_equal(decode_signed(root, &err), extra ? KELPIE_SNAPSHOT_CORRUPT : KELPIE_OK);
        json_t *features = json_object_get(root, "features");
        json_array_clear(env);
        json_object_clear(features);
        for (size_t i = 0; i < SNAPSHOT_FEATURE_COUNT_MAX + extra; i++) {
            char name[16];
            snprintf(name, sizeof(name), "f%zu", i);
            json_object_set_new(features, name, json_string("x"));
        }
        assert_int_equal(decode_signed(root, &err), extra ? KELPIE_SNAPSHOT_CORRUPT : KELPIE_OK);
        json_decref(root);
    }
}

/* What is more than a manifest can hold is refused where it is put in. */
static void test_manifest_refuses_what_is_too_much(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    struct snapshot_manifest *manifest = sample();
    char value[SNAPSHOT_VALUE_SIZE_MAX + 2];
    memset(value, 'v', sizeof(value));
    value[sizeof(value) - 1] = 0;
    assert_int_equal(snapshot_manifest_add_feature(manifest, "long", value, &err),
                     KELPIE_SNAPSHOT_FAILED);
    assert_int_equal(snapshot_manifest_add_feature(manifest, value, "long", &err),
                     KELPIE_SNAPSHOT_FAILED);
    value[sizeof(value) - 2] = 0;
    assert_int_equal(snapshot_manifest_add_feature(manifest, "fits", value, &err), KELPIE_OK);
    while (manifest->feature_count < SNAPSHOT_FEATURE_COUNT_MAX) {
        char name[16];
        snprintf(name, sizeof(name), "f%zu", manifest->feature_count);
        assert_int_equal(snapshot_manifest_add_feature(manifest, name, "", &err), KELPIE_OK);
    }
    assert_int_equal(snapshot_manifest_add_feature(manifest, "one", "", &err),
                     KELPIE_SNAPSHOT_FAILED);
    while (manifest->env_count < KELPIE_ENV_COUNT_MAX) {
        assert_int_equal(snapshot_manifest_add_env(host, manifest, "A=1", &err), KELPIE_OK);
    }
    assert_int_equal(snapshot_manifest_add_env(host, manifest, "A=1", &err), KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, "env");
    snapshot_manifest_destroy(manifest);
    assert_int_equal(decode(NULL, 0, &err), KELPIE_SNAPSHOT_CORRUPT);
    assert_int_equal(decode("[]", 2, &err), KELPIE_SNAPSHOT_CORRUPT);
    static char much[SNAPSHOT_MANIFEST_SIZE_MAX + 1];
    memset(much, ' ', sizeof(much));
    assert_int_equal(decode(much, sizeof(much), &err), KELPIE_SNAPSHOT_CORRUPT);
    assert_non_null(strstr(err.message, "too long"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_manifest_survives_encoding),
        cmocka_unit_test(test_manifest_without_memory_is_none),
        cmocka_unit_test(test_manifest_refuses_text_that_is_not_utf8),
        cmocka_unit_test(hazard_B3_every_manifest_byte_flipped),
        cmocka_unit_test(hazard_B3_manifest_truncated_anywhere),
        cmocka_unit_test(hazard_B3_wrong_members_with_a_right_checksum),
        cmocka_unit_test(hazard_B3_every_member_is_needed_and_of_its_type),
        cmocka_unit_test(hazard_B3_every_value_has_its_range),
        cmocka_unit_test(hazard_B3_an_environment_is_bounded),
        cmocka_unit_test(test_manifest_refuses_what_is_too_much),
        cmocka_unit_test(test_manifest_refuses_duplicate_keys_and_depth),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
