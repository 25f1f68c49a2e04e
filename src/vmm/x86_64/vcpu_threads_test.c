/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* vCPUs in threads of their own, on the real /dev/kvm: pausing, going on, stopping. */
#include "vmm/x86_64/vcpu_threads.h"

#include "support/vmm_guest.h"

#include <poll.h>

#define PAUSE_COUNT 1000
#define SOON_MS 5000

/* Counts in memory for ever, and in a device too when rbx is not 0. */
PAYLOAD(count, "1: incq (%rsi)\n"
               "test %rbx, %rbx\n"
               "jz 1b\n"
               "out %al, $0x10\n"
               "incq 8(%rsi)\n"
               "jmp 1b\n");

static void nothing_in(void *context, uint16_t port, void *data, uint32_t size) {
    (void)context;
    (void)port;
    memset(data, 0xff, size);
}

static void nothing_out(void *context, uint16_t port, const void *data, uint32_t size) {
    uint64_t *count = context;
    (void)port;
    (void)data;
    (void)size;
    __atomic_fetch_add(count, 1, __ATOMIC_SEQ_CST);
}

static void nothing_load(void *context, uint64_t gpa, void *data, uint32_t size) {
    (void)context;
    (void)gpa;
    memset(data, 0xff, size);
}

static void nothing_store(void *context, uint64_t gpa, const void *data, uint32_t size) {
    (void)context;
    (void)gpa;
    (void)data;
    (void)size;
}

static struct vcpu_ops counting_ops(uint64_t *count) {
    return (struct vcpu_ops){nothing_in, nothing_out, nothing_load, nothing_store, count, NULL};
}

/* Two vCPUs; the second counts at GUEST_DATA + 0x1000 and makes port writes. */
static void create_two(struct guest *guest) {
    guest_create(guest, GUEST_MEMORY_SIZE, 2, PAYLOAD_OF(count));
    guest_boot(guest, 1, GUEST_CODE);
    struct kvm_regs regs;
    struct kvm_mp_state runnable = {.mp_state = KVM_MP_STATE_RUNNABLE};
    assert_int_equal(kvm_ioctl(guest->vcpus[1].fd, KVM_GET_REGS, &regs), 0);
    regs.rsi += 0x1000;
    regs.rbx = 1;
    assert_int_equal(kvm_ioctl(guest->vcpus[1].fd, KVM_SET_REGS, &regs), 0);
    assert_int_equal(kvm_ioctl(guest->vcpus[1].fd, KVM_SET_MP_STATE, &runnable), 0);
}

static uint64_t count_of(const struct guest *guest, size_t index) {
    const uint64_t *word =
        (const uint64_t *)(const void *)(guest->host + GUEST_DATA + index * 0x1000);
    return __atomic_load_n(word, __ATOMIC_SEQ_CST);
}

static void wait_for_progress(const struct guest *guest, size_t index) {
    uint64_t start_ns = guest_now_ns();
    uint64_t first = count_of(guest, index);
    while (count_of(guest, index) == first) {
        assert_true(guest_now_ns() - start_ns < SOON_MS * 1000000ull);
        usleep(20);
    }
}

static void two_vcpus_pause_and_resume_a_thousand_times(void **state) {
    (void)state;
    struct guest guest;
    struct vcpu_threads threads;
    struct kelpie_error err;
    uint64_t out_count = 0;
    const struct vcpu_ops ops = counting_ops(&out_count);
    create_two(&guest);
    guest_check(vcpu_threads_start(&threads, guest.vcpus, 2, &ops, &err), &err);
    assert_int_equal(count_of(&guest, 0), 0); /* started is paused */
    uint64_t worst_ns = 0;
    uint64_t all_ns = 0;
    for (int i = 0; i < PAUSE_COUNT; i++) {
        guest_check(vcpu_threads_resume(&threads, &err), &err);
        if (i % 100 == 0) {
            wait_for_progress(&guest, 0);
            wait_for_progress(&guest, 1);
        }
        uint64_t start_ns = guest_now_ns();
        guest_check(vcpu_threads_pause(&threads, &err), &err);
        uint64_t took_ns = guest_now_ns() - start_ns;
        worst_ns = took_ns > worst_ns ? took_ns : worst_ns;
        all_ns += took_ns;
        uint64_t counts[] = {count_of(&guest, 0), count_of(&guest, 1)};
        uint64_t outs = __atomic_load_n(&out_count, __ATOMIC_SEQ_CST);
        if (i % 100 == 0) {
            usleep(500);
        }
        assert_int_equal(counts[0], count_of(&guest, 0));
        assert_int_equal(counts[1], count_of(&guest, 1));
        /* Each access that a device saw is finished for the guest too: it is behind it, or no further. */
        struct kvm_regs regs;
        assert_int_equal(kvm_ioctl(guest.vcpus[1].fd, KVM_GET_REGS, &regs), 0);
        assert_true(outs - guest_word(&guest, GUEST_DATA + 0x1008) <= 1);
        assert_true(counts[1] - outs <= 1);
    }
    print_message("a pause takes %llu us, at worst %llu us\n",
                  (unsigned long long)(all_ns / PAUSE_COUNT / 1000),
                  (unsigned long long)(worst_ns / 1000));
    vcpu_threads_join(&threads);
    guest_destroy(&guest);
}

static void waiting_vcpu_pauses_too(void **state) {
    (void)state;
    struct guest guest;
    struct vcpu_threads threads;
    struct kelpie_error err;
    uint64_t out_count = 0;
    const struct vcpu_ops ops = counting_ops(&out_count);
    guest_create(&guest, GUEST_MEMORY_SIZE, 2, PAYLOAD_OF(count)); /* the second waits for SIPI */
    guest_check(vcpu_threads_start(&threads, guest.vcpus, 2, &ops, &err), &err);
    for (int i = 0; i < 10; i++) {
        guest_check(vcpu_threads_resume(&threads, &err), &err);
        guest_check(vcpu_threads_resume(&threads, &err), &err); /* does nothing */
        wait_for_progress(&guest, 0);
        guest_check(vcpu_threads_pause(&threads, &err), &err);
        guest_check(vcpu_threads_pause(&threads, &err), &err);
    }
    assert_int_equal(count_of(&guest, 1), 0);
    vcpu_threads_join(&threads);
    guest_destroy(&guest);
}

static void wait_for_event(const struct vcpu_threads *threads) {
    struct pollfd event = {.fd = threads->event_fd, .events = POLLIN};
    assert_int_equal(poll(&event, 1, SOON_MS), 1);
}

PAYLOAD(fault, "lidt 1f(%rip)\n"
               "ud2\n"
               "1: .word 0; .quad 0\n");

static void one_that_stops_stops_all(void **state) {
    (void)state;
    struct guest guest;
    struct vcpu_threads threads;
    struct kelpie_error err;
    struct vcpu_result result;
    uint64_t out_count = 0;
    const struct vcpu_ops ops = counting_ops(&out_count);
    create_two(&guest);
    memcpy(guest.host + GUEST_CODE + 0x1000, payload_fault, 32);
    struct kvm_regs regs;
    assert_int_equal(kvm_ioctl(guest.vcpus[0].fd, KVM_GET_REGS, &regs), 0);
    regs.rip = GUEST_CODE + 0x1000;
    assert_int_equal(kvm_ioctl(guest.vcpus[0].fd, KVM_SET_REGS, &regs), 0);
    guest_check(vcpu_threads_start(&threads, guest.vcpus, 2, &ops, &err), &err);
    assert_false(vcpu_threads_result(&threads, &result));
    guest_check(vcpu_threads_resume(&threads, &err), &err);
    wait_for_event(&threads);
    assert_true(vcpu_threads_result(&threads, &result));
    assert_int_equal(result.stop, VCPU_STOP_TRIPLE_FAULT);
    assert_non_null(strstr(result.text, "vCPU 0"));
    guest_check(vcpu_threads_pause(&threads, &err), &err);
    uint64_t count = count_of(&guest, 1);
    usleep(1000);
    assert_int_equal(count, count_of(&guest, 1));
    assert_int_equal(vcpu_threads_resume(&threads, &err), KELPIE_WRONG_STATE);
    vcpu_threads_join(&threads);
    guest_destroy(&guest);
}

static struct vcpu_threads *stopping_threads; /* the one that reset_out stops */

static void reset_out(void *context, uint16_t port, const void *data, uint32_t size) {
    nothing_out(context, port, data, size);
    vcpu_threads_stop(stopping_threads, VCPU_STOP_RESET, "the reset port");
    vcpu_threads_stop(stopping_threads, VCPU_STOP_ERROR, "a second stop");
}

static void device_stops_the_machine(void **state) {
    (void)state;
    struct guest guest;
    struct vcpu_threads threads;
    struct kelpie_error err;
    struct vcpu_result result;
    uint64_t out_count = 0;
    struct vcpu_ops ops = counting_ops(&out_count);
    ops.io_write = reset_out;
    stopping_threads = &threads;
    create_two(&guest);
    guest_check(vcpu_threads_start(&threads, guest.vcpus, 2, &ops, &err), &err);
    guest_check(vcpu_threads_resume(&threads, &err), &err);
    wait_for_event(&threads);
    assert_true(vcpu_threads_result(&threads, &result));
    assert_int_equal(result.stop, VCPU_STOP_RESET);
    assert_string_equal(result.text, "the reset port");
    vcpu_threads_join(&threads);
    assert_int_equal(out_count, 1); /* the vCPU did not go on after it */
    guest_destroy(&guest);
}

struct round {
    pthread_t seen[4];
    uint32_t count; /* atomically */
};

static void take_part(void *context) {
    struct round *round = context;
    uint32_t index = __atomic_fetch_add(&round->count, 1, __ATOMIC_RELAXED);
    assert_true(index < 4);
    round->seen[index] = pthread_self();
    usleep(1000);
}

/* Each round has all threads, each once, and none is left when it ends; in between the vCPUs run. */
static void paused_threads_are_lent(void **state) {
    (void)state;
    struct guest guest;
    struct vcpu_threads threads;
    struct kelpie_error err;
    uint64_t out_count = 0;
    const struct vcpu_ops ops = counting_ops(&out_count);
    create_two(&guest);
    guest_check(vcpu_threads_start(&threads, guest.vcpus, 2, &ops, &err), &err);
    for (int i = 0; i < 20; i++) {
        struct round round = {.count = 0};
        vcpu_threads_lend(&threads, take_part, &round);
        assert_int_equal(round.count, 3);
        assert_false(pthread_equal(round.seen[0], round.seen[1]) ||
                     pthread_equal(round.seen[0], round.seen[2]) ||
                     pthread_equal(round.seen[1], round.seen[2]));
        uint64_t count = count_of(&guest, 1);
        guest_check(vcpu_threads_resume(&threads, &err), &err);
        for (int wait = 0; wait < 5000 && count_of(&guest, 1) == count; wait++) {
            usleep(1000);
        }
        guest_check(vcpu_threads_pause(&threads, &err), &err);
        assert_true(count_of(&guest, 1) > count);
        assert_int_equal(round.count, 3);
    }
    vcpu_threads_join(&threads);
    guest_destroy(&guest);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_vcpus_pause_and_resume_a_thousand_times),
        cmocka_unit_test(waiting_vcpu_pauses_too),
        cmocka_unit_test(one_that_stops_stops_all),
        cmocka_unit_test(device_stops_the_machine),
        cmocka_unit_test(paused_threads_are_lent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
