/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Exits, on the real /dev/kvm. */
#include "vmm/x86_64/vcpu.h"

#include "support/vmm_guest.h"
#include "vmm/device/bus.h"

PAYLOAD(accesses, "mov $0x11, %al\n"
                  "out %al, $0x10\n"
                  "mov $0x2222, %ax\n"
                  "out %ax, $0x11\n"
                  "mov $0x44444444, %eax\n"
                  "mov $0x3f8, %dx\n"
                  "out %eax, %dx\n"
                  "xor %eax, %eax\n"
                  "in $0x12, %al\n"
                  "mov %rax, (%rsi)\n"
                  "mov $0xd0000000, %ebx\n"
                  "movl $0x12345678, 0x10(%rbx)\n"
                  "mov 0x20(%rbx), %ecx\n"
                  "mov %rcx, 8(%rsi)\n"
                  "movb $0x99, 0x31(%rbx)\n"
                  "mov 0x40(%rbx), %rcx\n"
                  "mov %rcx, 16(%rsi)\n"
                  "out %al, $0xf4\n"
                  "hlt\n");

static void ports_and_memory_reach_the_table(void **state) {
    (void)state;
    struct guest guest;
    guest_create(&guest, GUEST_MEMORY_SIZE, 1, PAYLOAD_OF(accesses));
    guest.answer = 0x60;
    assert_int_equal(guest_run(&guest), VCPU_STOP_PAUSED);
    assert_int_equal(guest.access_count, 8);
    guest_expect(&guest, 0, (struct guest_access){GUEST_OUT, 0x10, 0x11, 1});
    guest_expect(&guest, 1, (struct guest_access){GUEST_OUT, 0x11, 0x2222, 2});
    guest_expect(&guest, 2, (struct guest_access){GUEST_OUT, 0x3f8, 0x44444444, 4});
    guest_expect(&guest, 3, (struct guest_access){GUEST_IN, 0x12, 0, 1});
    guest_expect(&guest, 4, (struct guest_access){GUEST_STORE, 0xd0000010, 0x12345678, 4});
    guest_expect(&guest, 5, (struct guest_access){GUEST_LOAD, 0xd0000020, 0, 4});
    guest_expect(&guest, 6, (struct guest_access){GUEST_STORE, 0xd0000031, 0x99, 1});
    guest_expect(&guest, 7, (struct guest_access){GUEST_LOAD, 0xd0000040, 0, 8});
    assert_int_equal(guest_word(&guest, GUEST_DATA), 0x60);
    assert_int_equal(guest_word(&guest, GUEST_DATA + 8), 0x61);
    assert_int_equal(guest_word(&guest, GUEST_DATA + 16), 0x62);
    guest_destroy(&guest);
}

PAYLOAD(strings, "lea text(%rip), %rsi\n"
                 "mov $5, %ecx\n"
                 "mov $0x3f8, %dx\n"
                 "rep outsb\n"
                 "mov $0x20000, %edi\n"
                 "mov $4, %ecx\n"
                 "mov $0x60, %dx\n"
                 "rep insw\n"
                 "out %al, $0xf4\n"
                 "hlt\n"
                 "text: .ascii \"hello\"\n");

static void strings_are_item_for_item(void **state) {
    (void)state;
    struct guest guest;
    guest_create(&guest, GUEST_MEMORY_SIZE, 1, PAYLOAD_OF(strings));
    guest.answer = 0x1001;
    assert_int_equal(guest_run(&guest), VCPU_STOP_PAUSED);
    assert_true(guest.access_count >= 5 + 4);
    for (size_t i = 0; i < 5; i++) {
        guest_expect(&guest, i, (struct guest_access){GUEST_OUT, 0x3f8, (uint8_t) "hello"[i], 1});
    }
    /* KVM may read ahead of the guest: what is seen first is what was read first. */
    assert_int_equal(guest_word(&guest, GUEST_DATA), 0x1004100310021001);
    guest_destroy(&guest);
}

/* A word whose halves lie in a page of a device and the next: seven bytes are no register. */
PAYLOAD(crossing, "mov $0xd0000ff9, %ebx\n"
                  "mov $0x0807060504030201, %rax\n"
                  "mov %rax, (%rbx)\n"
                  "out %al, $0xf4\n"
                  "hlt\n");

static void odd_sizes_come_in_pieces(void **state) {
    (void)state;
    struct guest guest;
    guest_create(&guest, GUEST_MEMORY_SIZE, 1, PAYLOAD_OF(crossing));
    assert_int_equal(guest_run(&guest), VCPU_STOP_PAUSED);
    uint64_t next = 0xd0000ff9;
    uint64_t seen = 0;
    for (size_t i = 0; i < guest.access_count; i++) {
        const struct guest_access *access = &guest.accesses[i];
        assert_int_equal(access->kind, GUEST_STORE);
        assert_int_equal(access->address, next);
        assert_true(access->size == 1 || access->size == 2 || access->size == 4 ||
                    access->size == 8);
        seen |= access->value << (8 * (next - 0xd0000ff9));
        next += access->size;
    }
    assert_int_equal(next, 0xd0000ff9 + 8);
    assert_int_equal(seen, 0x0807060504030201);
    guest_destroy(&guest);
}

struct bus_machine {
    struct guest *guest;
    struct bus ports;
};

static void bus_io_read(void *context, uint16_t port, void *data, uint32_t size) {
    struct bus_machine *machine = context;
    if (!bus_read(&machine->ports, port, data, size)) {
        guest_note(machine->guest, (struct guest_access){GUEST_IN, port, 0, size});
    }
}

static void bus_io_write(void *context, uint16_t port, const void *data, uint32_t size) {
    struct bus_machine *machine = context;
    if (!bus_write(&machine->ports, port, data, size)) {
        guest_io_write(machine->guest, port, data, size);
    }
}

PAYLOAD(unknown_port, "xor %eax, %eax\n"
                      "mov $0x1234, %dx\n"
                      "in %dx, %eax\n"
                      "mov %rax, (%rsi)\n"
                      "out %al, %dx\n"
                      "out %al, $0xf4\n"
                      "hlt\n");

static void unknown_port_reads_as_ones(void **state) {
    (void)state;
    struct guest guest;
    guest_create(&guest, GUEST_MEMORY_SIZE, 1, PAYLOAD_OF(unknown_port));
    struct bus_machine machine = {.guest = &guest};
    bus_init(&machine.ports);
    guest.ops.io_read = bus_io_read;
    guest.ops.io_write = bus_io_write;
    guest.ops.context = &machine;
    assert_int_equal(guest_run(&guest), VCPU_STOP_PAUSED);
    assert_int_equal(guest_word(&guest, GUEST_DATA), 0xffffffff);
    guest_expect(&guest, 0, (struct guest_access){GUEST_IN, 0x1234, 0, 4});
    guest_expect(&guest, 1, (struct guest_access){GUEST_OUT, 0x1234, 0xff, 1});
    guest_destroy(&guest);
}

/* No handler, none for that either, and none for that. */
PAYLOAD(triple_fault, "lidt limit(%rip)\n"
                      "ud2\n"
                      "limit: .word 0; .quad 0\n");

static void triple_fault_is_told(void **state) {
    (void)state;
    struct guest guest;
    guest_create(&guest, GUEST_MEMORY_SIZE, 1, PAYLOAD_OF(triple_fault));
    assert_int_equal(guest_run(&guest), VCPU_STOP_TRIPLE_FAULT);
    guest_destroy(&guest);
}

/* Code where a device is can be neither run nor emulated. */
static void error_of_kvm_has_its_numbers(void **state) {
    (void)state;
    struct guest guest;
    guest_create(&guest, GUEST_MEMORY_SIZE, 1, PAYLOAD_OF(unknown_port));
    struct kvm_regs regs = {.rip = 0xd0000123, .rflags = 2};
    struct vcpu_result result = {.stop = VCPU_STOP_PAUSED};
    assert_int_equal(kvm_ioctl(guest.vcpus[0].fd, KVM_SET_REGS, &regs), 0);
    vcpu_run(&guest.vcpus[0], &guest.ops, &result);
    print_message("%s\n", result.text);
    assert_int_equal(result.stop, VCPU_STOP_ERROR);
    assert_non_null(strstr(result.text, "vCPU 0 at 0xd0000123: internal error 1"));
    guest_destroy(&guest);
}

PAYLOAD(interrupted_read, "1: in $0x12, %al\n"
                          "mov %al, (%rsi)\n"
                          "inc %rsi\n"
                          "jmp 1b\n");

static void io_read_and_kick(void *context, uint16_t port, void *data, uint32_t size) {
    struct guest *guest = context;
    guest_io_read(context, port, data, size);
    vcpu_kick(&guest->vcpus[0]);
}

/* A kick while a read is under way: the state that is seen afterwards has the answer, and is after the instruction. */
static void kick_finishes_the_access_first(void **state) {
    (void)state;
    struct guest guest;
    guest_create(&guest, GUEST_MEMORY_SIZE, 1, PAYLOAD_OF(interrupted_read));
    guest.ops.io_read = io_read_and_kick;
    for (uint64_t i = 0; i < 20; i++) {
        struct kvm_regs regs;
        assert_int_equal(guest_run(&guest), VCPU_STOP_PAUSED);
        assert_int_equal(kvm_ioctl(guest.vcpus[0].fd, KVM_GET_REGS, &regs), 0);
        assert_int_equal(regs.rax & 0xff, 0x5a + i);
        assert_int_equal(regs.rip, GUEST_CODE + 2); /* behind `in` */
    }
    assert_int_equal(guest.access_count, 20);
    guest_destroy(&guest);
}

PAYLOAD(first, "out %al, $0xf4\n hlt\n");

static void first_exit_comes_soon(void **state) {
    (void)state;
    uint64_t best_ns = UINT64_MAX;
    for (int i = 0; i < 20; i++) {
        struct guest guest;
        struct kelpie_error err;
        uint64_t start_ns = guest_now_ns();
        guest_create_bare(&guest, GUEST_MEMORY_SIZE, 1);
        uint64_t created_ns = guest_now_ns();
        guest_write_tables(guest.host);
        memcpy(guest.host + GUEST_CODE, payload_first, 3);
        guest_boot(&guest, 0, GUEST_CODE);
        uint64_t fresh_ns = guest_now_ns();
        int fd = -1;
        for (uint32_t gsi = 5; gsi < 9; gsi++) {
            guest_check(kvm_irq_add(&guest.kvm, gsi, &fd, &err), &err);
            guest_check(kvm_ioeventfd_add(&guest.kvm, 0xd0000050 + gsi * 0x1000, NULL, fd, &err),
                        &err);
        }
        guest_check(kvm_connect(&guest.kvm, &err), &err);
        uint64_t connected_ns = guest_now_ns();
        assert_int_equal(guest_run(&guest), VCPU_STOP_PAUSED);
        uint64_t end_ns = guest_now_ns();
        if (end_ns - start_ns < best_ns) {
            best_ns = end_ns - start_ns;
            print_message("VM and vCPU %llu us, 8 events %llu us, to the first exit %llu us; "
                          "all %llu us\n",
                          (unsigned long long)(created_ns - start_ns) / 1000,
                          (unsigned long long)(connected_ns - fresh_ns) / 1000,
                          (unsigned long long)(end_ns - connected_ns) / 1000,
                          (unsigned long long)(end_ns - start_ns) / 1000);
        }
        guest_destroy(&guest);
    }
    assert_true(best_ns <
                1000000000); /* a bound for a busy machine; the number is in the message */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ports_and_memory_reach_the_table),
        cmocka_unit_test(strings_are_item_for_item),
        cmocka_unit_test(odd_sizes_come_in_pieces),
        cmocka_unit_test(unknown_port_reads_as_ones),
        cmocka_unit_test(triple_fault_is_told),
        cmocka_unit_test(error_of_kvm_has_its_numbers),
        cmocka_unit_test(kick_finishes_the_access_first),
        cmocka_unit_test(first_exit_comes_soon),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
