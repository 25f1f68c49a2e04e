/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The VM, its memory, events and dirty log, on the real /dev/kvm. */
#include "vmm/x86_64/kvm.h"

#include "support/vmm_guest.h"

#include <poll.h>
#include <sys/eventfd.h>

#define HIGH_MEMORY_SIZE ((3ull << 30) + (64ull << 20)) /* 64 MiB of it from 4 GiB on */
#define WORD_COUNT_MAX (HIGH_MEMORY_SIZE / VMM_PAGE_SIZE / 64)

static void descriptor_that_is_no_kvm_is_refused(void **state) {
    (void)state;
    static uint8_t page[VMM_PAGE_SIZE];
    struct memory memory;
    struct kelpie_error err;
    struct kvm kvm;
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    memory_init(&memory, page, sizeof(page));
    assert_int_equal(kvm_create(&kvm, fd, &memory, &err), KELPIE_BACKEND_MISSING);
    assert_non_null(strstr(err.message, "/dev/kvm"));
    kvm_destroy(&kvm); /* once more does no harm */
    close(fd);
}

static int open_fd_count(void) {
    int count = 0;
    for (int fd = 0; fd < 256; fd++) {
        count += fcntl(fd, F_GETFD) >= 0;
    }
    return count;
}

static void destroy_closes_everything(void **state) {
    (void)state;
    int before = open_fd_count();
    for (int i = 0; i < 3; i++) {
        struct guest guest;
        struct kelpie_error err;
        int fd = -1;
        guest_create_bare(&guest, GUEST_MEMORY_SIZE, 2);
        guest_check(kvm_irq_add(&guest.kvm, 5, &fd, &err), &err);
        guest_check(kvm_connect(&guest.kvm, &err), &err);
        guest_destroy(&guest);
    }
    assert_int_equal(open_fd_count(), before);
}

/* Pin 5 of the I/O APIC gives vector 0x30 to the local APIC; the handler counts and ends the run. */
PAYLOAD(irq, "mov $0xfee00000, %ebx\n"
             "movl $0x1ff, 0xf0(%rbx)\n"
             "mov $0xfec00000, %ecx\n"
             "movl $0x1b, (%rcx)\n"
             "movl $0, 0x10(%rcx)\n"
             "movl $0x1a, (%rcx)\n"
             "movl $0x30, 0x10(%rcx)\n"
             "out %al, $0xf4\n"
             "sti\n"
             "1: hlt\n"
             "jmp 1b\n"
             ".globl payload_irq_handler\n"
             "payload_irq_handler: incq (%rsi)\n"
             "movl $0, 0xb0(%rbx)\n"
             "out %al, $0xf4\n"
             "iretq\n");
extern const uint8_t payload_irq_handler[];

/* The same in real mode: line 5 of the old controller, whose vectors begin at 0x30, and which comes through LINT0. */
PAYLOAD(irq_real, ".code16\n"
                  "mov $0x11, %al\n"
                  "out %al, $0x20\n"
                  "mov $0x30, %al\n"
                  "out %al, $0x21\n"
                  "mov $4, %al\n"
                  "out %al, $0x21\n"
                  "mov $1, %al\n"
                  "out %al, $0x21\n"
                  "mov $0xdf, %al\n"
                  "out %al, $0x21\n"
                  "out %al, $0xf4\n"
                  "sti\n"
                  "1: hlt\n"
                  "jmp 1b\n"
                  ".globl payload_irq_real_handler\n"
                  "payload_irq_real_handler: incw 0\n"
                  "mov $0x20, %al\n"
                  "out %al, $0x20\n"
                  "out %al, $0xf4\n"
                  "iret\n"
                  ".code64\n");
extern const uint8_t payload_irq_real_handler[];

PAYLOAD(can_interrupt, "int $0x30\n"
                       "out %al, $0xf4\n");

static bool interrupts_reach_long_mode(void) {
    struct guest guest;
    guest_create(&guest, GUEST_MEMORY_SIZE, 1, PAYLOAD_OF(can_interrupt));
    guest_write_gate(guest.host, 0x30, GUEST_CODE + 2);
    enum vcpu_stop stop = guest_run(&guest);
    guest_destroy(&guest);
    return stop == VCPU_STOP_PAUSED;
}

/* The payload has come to its first end: its interrupt controller is set up. */
static void interrupt_five_times(struct guest *guest) {
    struct kelpie_error err;
    int fd = -1;
    const eventfd_t one = 1;
    guest_check(kvm_irq_add(&guest->kvm, 5, &fd, &err), &err);
    /* Written before it is connected: not lost. */
    assert_int_equal(write(fd, &one, sizeof(one)), sizeof(one));
    guest_check(kvm_connect(&guest->kvm, &err), &err);
    guest_check(kvm_connect(&guest->kvm, &err), &err); /* there is nothing left to connect */
    for (uint64_t i = 1; i <= 5; i++) {
        assert_int_equal(guest_run(guest), VCPU_STOP_PAUSED);
        assert_int_equal(guest_word(guest, GUEST_DATA), i);
        assert_int_equal(write(fd, &one, sizeof(one)), sizeof(one));
    }
}

static void irqfd_reaches_a_handler_through_the_io_apic(void **state) {
    (void)state;
    struct guest guest;
    if (!interrupts_reach_long_mode()) {
        print_message("skipped: this KVM delivers no interrupts to long mode\n");
        skip();
    }
    guest_create(&guest, GUEST_MEMORY_SIZE, 1, PAYLOAD_OF(irq));
    guest_write_gate(guest.host, 0x30, GUEST_CODE + (uint64_t)(payload_irq_handler - payload_irq));
    assert_int_equal(guest_run(&guest), VCPU_STOP_PAUSED);
    interrupt_five_times(&guest);
    guest_destroy(&guest);
}

static void irqfd_reaches_a_handler_through_the_old_controller(void **state) {
    (void)state;
    struct guest guest;
    guest_create_real(&guest, PAYLOAD_OF(irq_real));
    guest_write_vector(guest.host, 0x35, (uint64_t)(payload_irq_real_handler - payload_irq_real));
    assert_int_equal(guest_run(&guest), VCPU_STOP_PAUSED);
    interrupt_five_times(&guest);
    guest_destroy(&guest);
}

PAYLOAD(kick, "mov $0xd0005050, %ebx\n"
              "movl $7, (%rbx)\n"
              "movl $1, 0x1000(%rbx)\n"
              "movl $2, 0x1000(%rbx)\n"
              "out %al, $0xf4\n"
              "hlt\n");

static uint64_t kicks(int fd) {
    eventfd_t count = 0;
    return eventfd_read(fd, &count) == 0 ? count : 0;
}

static void ioeventfd_is_no_exit(void **state) {
    (void)state;
    struct guest guest;
    struct kelpie_error err;
    int any = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int matching = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    const uint32_t match = 2;
    guest_create(&guest, GUEST_MEMORY_SIZE, 1, PAYLOAD_OF(kick));
    guest_check(kvm_ioeventfd_add(&guest.kvm, 0xd0005050, NULL, any, &err), &err);
    guest_check(kvm_ioeventfd_add(&guest.kvm, 0xd0006050, &match, matching, &err), &err);
    guest_check(kvm_connect(&guest.kvm, &err), &err);
    assert_int_equal(guest_run(&guest), VCPU_STOP_PAUSED);
    assert_int_equal(kicks(any), 1);
    assert_int_equal(kicks(matching), 1);
    assert_int_equal(guest.access_count, 1); /* the value that did not match */
    guest_expect(&guest, 0, (struct guest_access){GUEST_STORE, 0xd0006050, 1, 4});
    guest_destroy(&guest);
    close(any);
    close(matching);
}

/* Three pages, again and again. */
PAYLOAD(writer, "1: movq $0x55, 0x20000\n"
                "movb $1, 0x23fff\n"
                "movb $1, 0x1f0000\n"
                "out %al, $0xf4\n"
                "jmp 1b\n");

static size_t set_bits_of(const uint64_t *bitmap, size_t word_count) {
    size_t count = 0;
    for (size_t i = 0; i < word_count; i++) {
        count += (size_t)__builtin_popcountll(bitmap[i]);
    }
    return count;
}

static bool bit_of(const uint64_t *bitmap, uint64_t page) {
    return (bitmap[page / 64] >> (page % 64) & 1) != 0;
}

static void dirty_log_sees_exactly_what_is_written(void **state) {
    (void)state;
    struct guest guest;
    struct kelpie_error err;
    uint64_t bitmap[GUEST_MEMORY_SIZE / VMM_PAGE_SIZE / 64];
    memset(bitmap, 0xff, sizeof(bitmap));
    guest_create(&guest, GUEST_MEMORY_SIZE, 1, PAYLOAD_OF(writer));
    assert_int_equal(kvm_dirty_word_count(&guest.kvm), ARRAY_SIZE(bitmap));
    /* Once without the log: the processor notes in the page tables that they were used. */
    assert_int_equal(guest_run(&guest), VCPU_STOP_PAUSED);
    for (int round = 0; round < 2; round++) {
        guest_check(kvm_dirty_start(&guest.kvm, &err), &err);
        guest_check(kvm_dirty_fetch(&guest.kvm, bitmap, ARRAY_SIZE(bitmap), &err), &err);
        assert_int_equal(set_bits_of(bitmap, ARRAY_SIZE(bitmap)), 0);
        for (int i = 0; i < 3; i++) {
            assert_int_equal(guest_run(&guest), VCPU_STOP_PAUSED);
            guest_check(kvm_dirty_fetch(&guest.kvm, bitmap, ARRAY_SIZE(bitmap), &err), &err);
            assert_int_equal(set_bits_of(bitmap, ARRAY_SIZE(bitmap)), 3);
            assert_true(bit_of(bitmap, 0x20) && bit_of(bitmap, 0x23) && bit_of(bitmap, 0x1f0));
        }
        guest_check(kvm_dirty_fetch(&guest.kvm, bitmap, ARRAY_SIZE(bitmap), &err), &err);
        assert_int_equal(set_bits_of(bitmap, ARRAY_SIZE(bitmap)), 0);
        guest_check(kvm_dirty_stop(&guest.kvm, &err), &err);
        assert_int_equal(guest_run(&guest), VCPU_STOP_PAUSED);
    }
    guest_destroy(&guest);
}

/* The last word below the hole, the first in it, the first of the second slot, and one that the host wrote. */
PAYLOAD(high, "mov $0xbffffff8, %ebx\n"
              "mov $0x100000000, %rcx\n"
              "1: movq $0x11, (%rbx)\n"
              "movl $0x22, 8(%rbx)\n"
              "movq $0x33, (%rcx)\n"
              "mov 0x7000(%rcx), %rax\n"
              "mov %rax, 0x5008(%rcx)\n"
              "out %al, $0xf4\n"
              "jmp 1b\n");

static void hazard_c8_memory_above_the_hole_is_a_slot_of_its_own(void **state) {
    (void)state;
    static uint64_t bitmap[WORD_COUNT_MAX];
    const uint64_t first =
        VMM_MEMORY_LOW_END / VMM_PAGE_SIZE; /* of the second region, in the mapping */
    const uint64_t word = 0x1234567887654321;
    struct guest guest;
    struct kelpie_error err;
    guest_create(&guest, HIGH_MEMORY_SIZE, 1, PAYLOAD_OF(high));
    assert_true(memory_write(&guest.memory, VMM_MEMORY_HIGH_START + 0x7000, &word, sizeof(word)));
    assert_int_equal(guest_run(&guest), VCPU_STOP_PAUSED);
    assert_int_equal(guest_word(&guest, VMM_MEMORY_LOW_END - 8), 0x11);
    assert_int_equal(guest_word(&guest, VMM_MEMORY_HIGH_START), 0x33);
    assert_int_equal(guest_word(&guest, VMM_MEMORY_HIGH_START + 0x5008), word);
    assert_int_equal(guest_value(guest.host + VMM_MEMORY_LOW_END, 8), 0x33);
    assert_int_equal(guest.access_count, 1);
    guest_expect(&guest, 0, (struct guest_access){GUEST_STORE, VMM_MEMORY_LOW_END, 0x22, 4});

    guest_check(kvm_dirty_start(&guest.kvm, &err), &err);
    assert_int_equal(guest_run(&guest), VCPU_STOP_PAUSED);
    guest_check(kvm_dirty_fetch(&guest.kvm, bitmap, WORD_COUNT_MAX, &err), &err);
    assert_int_equal(set_bits_of(bitmap, WORD_COUNT_MAX), 3);
    assert_true(bit_of(bitmap, first - 1));
    assert_true(bit_of(bitmap, first));
    assert_true(bit_of(bitmap, first + 5));
    guest_destroy(&guest);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(descriptor_that_is_no_kvm_is_refused),
        cmocka_unit_test(destroy_closes_everything),
        cmocka_unit_test(irqfd_reaches_a_handler_through_the_io_apic),
        cmocka_unit_test(irqfd_reaches_a_handler_through_the_old_controller),
        cmocka_unit_test(ioeventfd_is_no_exit),
        cmocka_unit_test(dirty_log_sees_exactly_what_is_written),
        cmocka_unit_test(hazard_c8_memory_above_the_hole_is_a_slot_of_its_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
