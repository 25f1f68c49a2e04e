/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What a VM uses, as far as a mock can show it; and guests that say nothing, or what cannot be. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/assert.h"
#include "vm/vm.h"

#define ARGV(...) ((const char *const[]){__VA_ARGS__, NULL})
#define OK(call) assert_int_equal(call, KELPIE_OK)
#define MEMORY_BYTES (64ull << 20)

static struct kelpie_vm *create(void) {
    struct kelpie_vm *vm = NULL;
    const struct kelpie_config config = {.backend = "mock", .memory_mib = 64};
    OK(kelpie_vm_create(&config, &vm, NULL));
    return vm;
}

static void test_in_which_state(void **state) {
    (void)state;
    struct kelpie_vm *vm = create();
    struct kelpie_stats stats = {.exec_count = 77};
    struct kelpie_error err = {0};
    assert_int_equal(kelpie_vm_stats(vm, &stats, &err), KELPIE_WRONG_STATE);
    assert_string_equal(err.field, "created");
    assert_int_equal(stats.exec_count, 77);
    OK(kelpie_vm_start(vm, NULL));
    OK(kelpie_vm_stats(vm, &stats, NULL));
    OK(kelpie_vm_pause(vm, NULL));
    uint64_t before_ns = host_monotonic_ns(vm->host);
    OK(kelpie_vm_stats(vm, &stats, NULL)); /* who cannot answer is not asked */
    assert_true(host_monotonic_ns(vm->host) - before_ns < VM_STATUS_TIMEOUT_MS * HOST_NS_PER_MS);
    assert_int_equal(stats.guest_memory_bytes, MEMORY_BYTES);
    assert_int_equal(stats.guest_available_bytes, 0);
    OK(kelpie_vm_stop(vm, 0, NULL));
    assert_int_equal(kelpie_vm_stats(vm, &stats, &err), KELPIE_WRONG_STATE);
    kelpie_vm_destroy(vm);
}

static void test_what_is_counted(void **state) {
    (void)state;
    struct kelpie_vm *vm = create();
    struct kelpie_stats before = {0};
    struct kelpie_stats after = {0};
    struct kelpie_exec *exec = NULL;
    struct kelpie_output output = {0};
    OK(kelpie_vm_start(vm, NULL));
    OK(kelpie_vm_stats(vm, &before, NULL));
    assert_int_equal(before.exec_count, 0);
    assert_int_equal(before.guest_memory_bytes, MEMORY_BYTES);
    assert_true(before.guest_available_bytes > 0);
    assert_true(before.guest_available_bytes < MEMORY_BYTES);
    OK(kelpie_exec_start(vm, &(struct kelpie_command){.argv = ARGV("sleep", "1000")}, &exec, NULL));
    usleep(2000);
    const struct kelpie_command fill = {
        .argv = ARGV("sh", "-c", "cat > /tmp/a"), .stdin_data = "12345678", .stdin_size = 8};
    OK(kelpie_vm_exec(vm, &fill, &output, NULL));
    kelpie_output_free(&output);
    OK(kelpie_vm_stats(vm, &after, NULL));
    assert_int_equal(after.exec_count, 1);
    assert_true(after.uptime_ns >= before.uptime_ns + 2000000);
    assert_int_equal(after.guest_available_bytes, before.guest_available_bytes - 8);
    kelpie_exec_detach(exec);
    OK(kelpie_vm_stats(vm, &after, NULL));
    assert_int_equal(after.exec_count, 1); /* it is still there */
    OK(kelpie_vm_stop(vm, 0, NULL));
    OK(kelpie_vm_start(vm, NULL));
    OK(kelpie_vm_stats(vm, &before, NULL));
    assert_int_equal(before.exec_count, 0);
    assert_true(before.uptime_ns < after.uptime_ns || after.uptime_ns < 10 * HOST_NS_PER_MS);
    kelpie_vm_destroy(vm);
}

/* What a guest says is taken only if it can be. */
static void hazard_d1_figures_that_cannot_be(void **state) {
    (void)state;
    static const struct {
        struct protocol_figures figures;
        bool taken;
    } cases[] = {
        {{MEMORY_BYTES - 5, 7}, true},     {{MEMORY_BYTES, MEMORY_BYTES}, true},
        {{MEMORY_BYTES + 1, 7}, false},    {{100, 101}, false},
        {{UINT64_MAX, UINT64_MAX}, false},
    };
    struct kelpie_vm *vm = create();
    OK(kelpie_vm_start(vm, NULL));
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        uint8_t bytes[64];
        struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
        struct kelpie_stats stats = {0};
        protocol_encode_figures(&writer, &cases[i].figures);
        const struct protocol_frame frame = {.type = PROTOCOL_FIGURES,
                                             .payload = bytes + PROTOCOL_HEADER_SIZE,
                                             .payload_size = writer.size - PROTOCOL_HEADER_SIZE};
        vm_lock(vm);
        vm->busy = true; /* as in kelpie_vm_stats() */
        uint64_t before = vm->channel.answers.figures_count;
        assert_true(vm_channel_handle(vm, &frame));
        assert_int_equal(vm->channel.answers.figures_count, before + 1);
        vm_stats_take_figures(vm, &stats);
        vm->busy = false;
        vm_unlock(vm);
        assert_int_equal(stats.guest_available_bytes,
                         cases[i].taken ? cases[i].figures.memory_available_bytes : 0);
        assert_int_equal(stats.guest_memory_bytes,
                         cases[i].taken ? cases[i].figures.memory_total_bytes : MEMORY_BYTES);
    }
    kelpie_vm_destroy(vm);
}

/* A guest of before takes STATUS for malformed, and goes on at the SYNC behind it. */
static void test_a_guest_that_does_not_know_the_question(void **state) {
    (void)state;
    static uint8_t buffer[PROTOCOL_FRAME_SIZE_MAX];
    uint8_t bytes[256];
    struct cursor_writer writer = cursor_writer_init(bytes, sizeof(bytes));
    const struct protocol_ping ping = {.token = 5};
    struct protocol_decoder decoder;
    struct protocol_frame frame;
    cursor_write_bytes(&writer, PROTOCOL_SYNC, PROTOCOL_SYNC_SIZE);
    protocol_encode_ping(&writer, PROTOCOL_PING, &ping);
    size_t at = writer.size;
    protocol_encode_status(&writer);
    protocol_encode_ping(&writer, PROTOCOL_PING, &ping);
    bytes[at + 5] = 255; /* a type that no guest knows stands for it */
    protocol_decoder_init(&decoder, buffer, sizeof(buffer));
    size_t room = 0;
    memcpy(protocol_decoder_space(&decoder, &room), bytes, writer.size);
    protocol_decoder_filled(&decoder, writer.size);
    assert_int_equal(protocol_decoder_next(&decoder, &frame), PROTOCOL_RESULT_FRAME);
    assert_int_equal(protocol_decoder_next(&decoder, &frame), PROTOCOL_RESULT_MALFORMED);
    protocol_decoder_scan(&decoder);
    assert_int_equal(protocol_decoder_next(&decoder, &frame), PROTOCOL_RESULT_FRAME);
    assert_int_equal(frame.type, PROTOCOL_PING);
    assert_int_equal(protocol_decoder_next(&decoder, &frame), PROTOCOL_RESULT_MORE);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_in_which_state),
        cmocka_unit_test(test_what_is_counted),
        cmocka_unit_test(hazard_d1_figures_that_cannot_be),
        cmocka_unit_test(test_a_guest_that_does_not_know_the_question),
    };
    return cmocka_run_group_tests_name("stats", tests, NULL, NULL);
}
