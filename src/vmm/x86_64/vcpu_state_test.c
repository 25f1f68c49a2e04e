/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* A machine's state, saved and loaded on the real /dev/kvm: the same machine goes on. */
#include "support/vmm_saved.h"
#include "vmm/x86_64/vcpu_threads.h"

/* What time alone changes: the TSC, the clock, and so the checksum. */
static void mask_time(struct saved *saved) {
    size_t msrs_size[2];
    size_t vm_size = 0;
    uint8_t *msrs[] = {section_of(saved, TAG_MSRS, 0, &msrs_size[0]),
                       section_of(saved, TAG_MSRS, 1, &msrs_size[1])};
    uint8_t *vm = section_of(saved, TAG_VM, 0, &vm_size);
    for (size_t i = 0; i < ARRAY_SIZE(msrs); i++) {
        for (size_t offset = 4; offset + 12 <= msrs_size[i]; offset += 12) {
            if (guest_value(msrs[i] + offset, 4) == 0x10) {
                memset(msrs[i] + offset + 4, 0, 8);
            }
        }
    }
    assert_int_equal(vm_size, VM_CLOCK + 20);
    memset(vm + VM_CLOCK, 0, 8);
    memset(vm + VM_CLOCK + 12, 0, 8);
    memset(saved->bytes + saved->size - 8, 0, 8);
}

static void hazard_c9_save_after_load_is_the_same(void **state) {
    (void)state;
    static struct saved first, second;
    struct guest guest, twin;
    struct kelpie_error err;
    create_used(&guest);
    guest_create_bare(&twin, GUEST_MEMORY_SIZE, 2);
    uint64_t start_ns = guest_now_ns();
    save(&guest, &first);
    uint64_t saved_ns = guest_now_ns();
    guest_check(load(&twin, &first, &err), &err);
    uint64_t loaded_ns = guest_now_ns();
    save(&twin, &second);
    print_message("%zu bytes; save %llu us, load %llu us, both of 2 vCPUs\n", first.size,
                  (unsigned long long)(saved_ns - start_ns) / 1000,
                  (unsigned long long)(loaded_ns - saved_ns) / 1000);
    assert_int_equal(get_msr(&twin.vcpus[0], 0xc0000082), 0xffffffff81000000);
    assert_int_equal(get_msr(&twin.vcpus[0], 0x277), 0x0007010600070106);
    mask_time(&first);
    mask_time(&second);
    assert_int_equal(first.size, second.size);
    for (size_t i = 0; i < first.size; i++) {
        if (first.bytes[i] != second.bytes[i]) {
            print_error("byte %zu: %#x, was %#x\n", i, second.bytes[i], first.bytes[i]);
        }
    }
    assert_memory_equal(first.bytes, second.bytes, first.size);
    guest_destroy(&guest);
    guest_destroy(&twin);
}

/* ---- what a fresh vCPU has already -------------------------------------------------------------- */

#define VCPU_DEBUGREGS (VCPU_LAPIC - 48) /* DB0 to DB3, DR6, DR7 */

static void create_unused(struct guest *guest) {
    guest_create(guest, GUEST_MEMORY_SIZE, 2, PAYLOAD_OF(chips));
}

/* One register of each kind differs from what it is after a reset, and all others do not. */
static void one_debug_register_is_enough(void **state) {
    (void)state;
    static struct saved saved, again;
    static const uint64_t values[] = {0x400000, 0x401000, 0x402000, 0x403000, 0xffff0ff1, 0x401};
    struct guest guest;
    struct kelpie_error err;
    create_unused(&guest);
    save(&guest, &saved);
    guest_destroy(&guest);
    for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
        size_t size = 0;
        guest_create_bare(&guest, GUEST_MEMORY_SIZE, 2);
        guest_check(load_with(&guest, &saved,
                              (struct change){TAG_VCPU, VCPU_DEBUGREGS + 8 * i, values[i], 8},
                              &err),
                    &err);
        save(&guest, &again);
        const uint8_t *vcpu = section_of(&again, TAG_VCPU, 0, &size);
        assert_int_equal(guest_value(vcpu + VCPU_DEBUGREGS + 8 * i, 8), values[i]);
        guest_destroy(&guest);
    }
}

/* What a load leaves out for a fresh vCPU, the next does not: there it has another value. */
static void second_load_sets_what_the_first_left_out(void **state) {
    (void)state;
    static struct saved used, unused, again;
    struct guest guest;
    struct kelpie_error err;
    create_used(&guest);
    save(&guest, &used);
    guest_destroy(&guest);
    create_unused(&guest);
    save(&guest, &unused);
    guest_destroy(&guest);
    guest_create_bare(&guest, GUEST_MEMORY_SIZE, 2);
    guest_check(load(&guest, &used, &err), &err);
    guest_check(load(&guest, &unused, &err), &err);
    save(&guest, &again);
    for (uint16_t i = 0; i < 2; i++) {
        size_t sizes[2];
        const uint8_t *wanted = section_of(&unused, TAG_VCPU, i, &sizes[0]);
        const uint8_t *vcpu = section_of(&again, TAG_VCPU, i, &sizes[1]);
        assert_int_equal(sizes[0], sizes[1]);
        assert_memory_equal(vcpu, wanted, sizes[0]);
    }
    guest_destroy(&guest);
}

/* The first vCPU is made ready to run, the others are not. */
static void processors_stand_as_they_stood(void **state) {
    (void)state;
    static struct saved saved;
    static const uint32_t states[][2] = {
        {KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_UNINITIALIZED},
        {KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_RUNNABLE},
        {KVM_MP_STATE_HALTED, KVM_MP_STATE_HALTED},
    };
    struct guest guest;
    struct kelpie_error err;
    for (size_t i = 0; i < ARRAY_SIZE(states); i++) {
        create_unused(&guest);
        for (uint32_t j = 0; j < 2; j++) {
            struct kvm_mp_state mp_state = {.mp_state = states[i][j]};
            assert_int_equal(kvm_ioctl(guest.vcpus[j].fd, KVM_SET_MP_STATE, &mp_state), 0);
        }
        save(&guest, &saved);
        guest_destroy(&guest);
        guest_create_bare(&guest, GUEST_MEMORY_SIZE, 2);
        guest_check(load(&guest, &saved, &err), &err);
        for (uint32_t j = 0; j < 2; j++) {
            struct kvm_mp_state mp_state = {.mp_state = UINT32_MAX};
            assert_int_equal(kvm_ioctl(guest.vcpus[j].fd, KVM_GET_MP_STATE, &mp_state), 0);
            assert_int_equal(mp_state.mp_state, states[i][j]);
        }
        guest_destroy(&guest);
    }
}

/* One bit of CPUID is another than a fresh vCPU has: a feature that the snapshot's host did not have. */
static void hazard_c4_one_bit_of_cpuid_is_enough(void **state) {
    (void)state;
    static struct saved saved;
    struct guest guest;
    struct kelpie_error err;
    size_t size = 0;
    create_unused(&guest);
    save(&guest, &saved);
    guest_destroy(&guest);
    const uint8_t *cpuid = section_of(&saved, TAG_CPUID, 0, &size);
    uint32_t i = 0;
    while (guest_value(cpuid + CPUID_ENTRIES + i * CPUID_ENTRY_SIZE, 8) != 7) { /* 7.0 */
        i++;
        assert_true(CPUID_ENTRIES + (i + 1) * CPUID_ENTRY_SIZE <= size);
    }
    const size_t ebx = CPUID_ENTRIES + i * CPUID_ENTRY_SIZE + 16;
    const uint64_t features = guest_value(cpuid + ebx, 4);
    assert_true(features != 0);
    guest_create_bare(&guest, GUEST_MEMORY_SIZE, 2);
    guest_check(load_with(&guest, &saved,
                          (struct change){TAG_CPUID, ebx, features & (features - 1), 4}, &err),
                &err);
    assert_int_equal(guest.vcpus[0].cpuid.entries[i].ebx, features & (features - 1));
    guest_destroy(&guest);
}

/* ---- runs --------------------------------------------------------------------------------------- */

/* rax = a step of a generator, rdx steps; then ends. */
PAYLOAD(steps, "mov $1, %eax\n"
               "mov $20000, %edx\n"
               "mov $0x5851f42d4c957f2d, %rbx\n"
               "1: imul %rbx, %rax\n"
               "add $12345, %rax\n"
               "mov %rax, (%rsi)\n"
               "mov %rdx, %rcx\n"
               "and $0x3f8, %ecx\n"
               "add %rax, 0x1000(%rsi,%rcx)\n"
               "test $0x3f, %dl\n"
               "jnz 2f\n"
               "out %eax, $0x10\n"
               "in $0x11, %eax\n"
               "add %rax, 8(%rsi)\n"
               "2: dec %edx\n"
               "jnz 1b\n"
               "out %al, $0x12\n"
               "hlt\n");

/* Port 0x11 answers with what was written to 0x10 last; 0x12 ends. */
struct steps_machine {
    struct vcpu_threads *threads;
    uint32_t last;
};

static void steps_read(void *context, uint16_t port, void *data, uint32_t size) {
    struct steps_machine *machine = context;
    assert_int_equal(port, 0x11);
    memcpy(data, &machine->last, size);
}

static void steps_write(void *context, uint16_t port, const void *data, uint32_t size) {
    struct steps_machine *machine = context;
    if (port == 0x12) {
        vcpu_threads_stop(machine->threads, VCPU_STOP_SHUTDOWN, "done");
        return;
    }
    memcpy(&machine->last, data, size);
}

/* Runs for a while. True: it has ended. */
static bool run_for(struct guest *guest, struct steps_machine *machine, useconds_t us) {
    struct vcpu_threads threads;
    struct kelpie_error err;
    struct vcpu_result result;
    const struct vcpu_ops ops = {steps_read,       steps_write, guest_mmio_read,
                                 guest_mmio_write, machine,     NULL};
    machine->threads = &threads;
    guest_check(vcpu_threads_start(&threads, guest->vcpus, 1, &ops, &err), &err);
    guest_check(vcpu_threads_resume(&threads, &err), &err);
    uint64_t start_ns = guest_now_ns();
    while (!vcpu_threads_result(&threads, &result) && guest_now_ns() - start_ns < us * 1000ull) {
        usleep(100);
    }
    guest_check(vcpu_threads_pause(&threads, &err), &err);
    bool ended = vcpu_threads_result(&threads, &result);
    if (ended) {
        assert_int_equal(result.stop, VCPU_STOP_SHUTDOWN);
    }
    vcpu_threads_join(&threads);
    return ended;
}

static void interrupted_run_gives_the_same_result(void **state) {
    (void)state;
    static struct saved saved;
    struct guest guest;
    struct kelpie_error err;
    struct steps_machine machine = {0};
    static uint8_t expected[0x2000];
    guest_create(&guest, GUEST_MEMORY_SIZE, 1, PAYLOAD_OF(steps));
    assert_true(run_for(&guest, &machine, 20000000));
    memcpy(expected, guest.host + GUEST_DATA, sizeof(expected));
    guest_destroy(&guest);

    machine = (struct steps_machine){0};
    guest_create(&guest, GUEST_MEMORY_SIZE, 1, PAYLOAD_OF(steps));
    int moves = 0;
    while (!run_for(&guest, &machine, 7000) && moves < 1000) {
        struct guest twin;
        save(&guest, &saved);
        guest_create_bare(&twin, GUEST_MEMORY_SIZE, 1);
        memcpy(twin.host, guest.host, GUEST_MEMORY_SIZE);
        guest_destroy(&guest);
        guest_check(load(&twin, &saved, &err), &err);
        guest = twin;
        guest.vcpus[0].kvm = &guest.kvm; /* it was copied */
        guest.kvm.memory = &guest.memory;
        moves++;
    }
    print_message("moved %d times\n", moves);
    assert_true(moves >= 2);
    assert_memory_equal(guest.host + GUEST_DATA, expected, sizeof(expected));
    guest_destroy(&guest);
}

/* ---- time --------------------------------------------------------------------------------------- */

static void hazard_c2_clock_goes_on_and_never_back(void **state) {
    (void)state;
    static struct saved saved;
    struct guest guest, twin;
    struct kelpie_error err;
    create_used(&guest); /* its clock stands at an hour */
    save(&guest, &saved);
    size_t size = 0;
    const uint8_t *vm = section_of(&saved, TAG_VM, 0, &size);
    uint64_t saved_clock = guest_value(vm + VM_CLOCK, 8);
    assert_true(saved_clock >= 3600ull * 1000000000u);
    guest_destroy(&guest);
    usleep(50000);
    guest_create_bare(&twin, GUEST_MEMORY_SIZE, 2);
    guest_check(load(&twin, &saved, &err), &err);
    struct kvm_clock_data clock = {0};
    assert_int_equal(kvm_ioctl(twin.kvm.vm_fd, KVM_GET_CLOCK, &clock), 0);
    uint64_t passed_ns = clock.clock - saved_clock;
    assert_true(clock.clock >= saved_clock);
    bool has_wall_time = guest_value(vm + VM_CLOCK + 8, 4) == 1;
    assert_true(passed_ns >= (has_wall_time && twin.kvm.has_clock_realtime ? 50000000u : 0u));
    assert_true(passed_ns < 10ull * 1000000000u);
    /* A snapshot of a host whose clock is ahead by a day is no reason to go back. */
    guest_check(
        load_with(&twin, &saved,
                  (struct change){TAG_VM, VM_CLOCK + 12,
                                  guest_value(vm + VM_CLOCK + 12, 8) + 86400ull * 1000000000u, 8},
                  &err),
        &err);
    assert_int_equal(kvm_ioctl(twin.kvm.vm_fd, KVM_GET_CLOCK, &clock), 0);
    assert_true(clock.clock >= saved_clock);
    assert_true(clock.clock - saved_clock < 10ull * 1000000000u);
    guest_destroy(&twin);
}

static void hazard_c3_other_tsc_frequency_is_refused(void **state) {
    (void)state;
    static struct saved saved;
    struct guest guest, twin;
    struct kelpie_error err;
    create_used(&guest);
    save(&guest, &saved);
    guest_destroy(&guest);
    guest_create_bare(&twin, GUEST_MEMORY_SIZE, 2);
    twin.kvm.has_tsc_scaling = false;
    size_t size = 0;
    uint64_t khz = guest_value(section_of(&saved, TAG_CPUID, 0, &size) + CPUID_KHZ, 4);
    const uint64_t others[] = {khz * 2, khz / 2, khz + khz / 1000, khz - khz / 1000, 1, 0xffffffff};
    for (size_t i = 0; i < ARRAY_SIZE(others); i++) {
        assert_int_equal(
            load_with(&twin, &saved, (struct change){TAG_CPUID, CPUID_KHZ, others[i], 4}, &err),
            KELPIE_SNAPSHOT_INCOMPATIBLE);
        assert_string_equal(err.field, "tsc_khz");
    }
    assert_int_equal(load_with(&twin, &saved, (struct change){TAG_CPUID, CPUID_KHZ, 0, 4}, &err),
                     KELPIE_SNAPSHOT_CORRUPT);
    /* What a clock that is corrected drifts by is no other frequency. */
    guest_check(
        load_with(&twin, &saved, (struct change){TAG_CPUID, CPUID_KHZ, khz + khz / 10000, 4}, &err),
        &err);
    guest_destroy(&twin);
}

/* Real mode, for the interrupt: waits for the timer. */
PAYLOAD(timer, ".code16\n"
               "sti\n"
               "1: hlt\n"
               "jmp 1b\n"
               ".globl payload_timer_handler\n"
               "payload_timer_handler: incw 0\n"
               "out %al, $0x12\n"
               "iret\n"
               ".code64\n");
extern const uint8_t payload_timer_handler[];

#define TSC_AHEAD (1ull << 46) /* hours */
#define TSC_NEAR (1ull << 36)

/* On a vCPU of its own: a KVM that cannot set it may still reckon with what it was told. */
static bool can_set_tsc(void) {
    struct guest guest;
    guest_create_bare(&guest, GUEST_MEMORY_SIZE, 1);
    set_msr(&guest.vcpus[0], 0x10, TSC_AHEAD);
    uint64_t now = get_msr(&guest.vcpus[0], 0x10);
    guest_destroy(&guest);
    return now >= TSC_AHEAD && now < TSC_AHEAD + TSC_NEAR;
}

/* Where KVM can set the TSC, it is hours ahead of a new vCPU's: a deadline that is set before it, is hours away. */
static void hazard_c3_deadline_is_kept_after_the_tsc(void **state) {
    (void)state;
    static struct saved saved;
    struct guest guest, twin;
    struct kelpie_error err;
    struct steps_machine machine = {0};
    guest_create_real(&guest, PAYLOAD_OF(timer));
    guest_write_vector(guest.host, 0x40, (uint64_t)(payload_timer_handler - payload_timer));
    struct kvm_lapic_state lapic;
    const uint32_t enabled = 0x1ff;
    const uint32_t deadline_mode = 2u << 17 | 0x40;
    assert_int_equal(kvm_ioctl(guest.vcpus[0].fd, KVM_GET_LAPIC, &lapic), 0);
    memcpy(lapic.regs + 0xf0, &enabled, 4);
    memcpy(lapic.regs + 0x320, &deadline_mode, 4);
    assert_int_equal(kvm_ioctl(guest.vcpus[0].fd, KVM_SET_LAPIC, &lapic), 0);
    if (can_set_tsc()) {
        set_msr(&guest.vcpus[0], 0x10, TSC_AHEAD);
    } else {
        print_message("this KVM cannot set the TSC: of the order, what is saved first is tested\n");
    }
    const uint64_t tsc = get_msr(&guest.vcpus[0], 0x10);
    const uint64_t deadline = tsc + (200ull << 20); /* some tens of milliseconds */
    set_msr(&guest.vcpus[0], 0x6e0, deadline);
    save(&guest, &saved);
    assert_true(place_of_msr(&saved, 0x10) < place_of_msr(&saved, 0x6e0));
    guest_create_bare(&twin, GUEST_MEMORY_SIZE, 1);
    memcpy(twin.host, guest.host, GUEST_MEMORY_SIZE);
    guest_destroy(&guest);
    guest_check(load(&twin, &saved, &err), &err);
    uint64_t now = get_msr(&twin.vcpus[0], 0x10);
    assert_true(now >= tsc && now < tsc + TSC_NEAR);
    assert_int_equal(get_msr(&twin.vcpus[0], 0x6e0), deadline);
    assert_true(run_for(&twin, &machine, 5000000));
    assert_int_equal(guest_word(&twin, GUEST_DATA), 1);
    assert_true(get_msr(&twin.vcpus[0], 0x10) >= deadline);
    guest_destroy(&twin);
}

static void hazard_c3_tsc_never_goes_back(void **state) {
    (void)state;
    static struct saved saved;
    struct guest guest;
    struct kelpie_error err;
    create_used(&guest);
    save(&guest, &saved);
    guest_destroy(&guest);
    const uint64_t ahead = 1ull << 60;
    guest_create_bare(&guest, GUEST_MEMORY_SIZE, 2);
    enum kelpie_status status = load_with(
        &guest, &saved, (struct change){TAG_MSRS, place_of_msr(&saved, 0x10) + 4, ahead, 8}, &err);
    if (status == KELPIE_OK) {
        assert_true(get_msr(&guest.vcpus[0], 0x10) >= ahead);
    } else {
        assert_int_equal(status, KELPIE_SNAPSHOT_INCOMPATIBLE);
        assert_string_equal(err.field, "tsc");
    }
    guest_destroy(&guest);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hazard_c9_save_after_load_is_the_same),
        cmocka_unit_test(one_debug_register_is_enough),
        cmocka_unit_test(second_load_sets_what_the_first_left_out),
        cmocka_unit_test(processors_stand_as_they_stood),
        cmocka_unit_test(hazard_c4_one_bit_of_cpuid_is_enough),
        cmocka_unit_test(interrupted_run_gives_the_same_result),
        cmocka_unit_test(hazard_c2_clock_goes_on_and_never_back),
        cmocka_unit_test(hazard_c3_other_tsc_frequency_is_refused),
        cmocka_unit_test(hazard_c3_deadline_is_kept_after_the_tsc),
        cmocka_unit_test(hazard_c3_tsc_never_goes_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
