/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Tiny guests for tests on the real /dev/kvm: a payload of some instructions at GUEST_CODE, in long mode at privilege
 * level 0, over page tables that map 6 GiB one to one. What it does is noted, access by access. A write to
 * GUEST_PORT_END pauses the vCPU that made it.
 *
 * A payload is assembled with the test: it may use labels, but no absolute addresses of its own.
 *
 *     PAYLOAD(hello, "mov $0x42, %al; out %al, $0x10; out %al, $0xf4");
 *     struct guest guest;
 *     guest_create(&guest, GUEST_MEMORY_SIZE, 1, PAYLOAD_OF(hello));    skips the test where there is no /dev/kvm
 */
#ifndef KELPIE_TESTS_SUPPORT_VMM_GUEST_H
#define KELPIE_TESTS_SUPPORT_VMM_GUEST_H

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/assert.h"
#include "vmm/x86_64/kvm.h"
#include "vmm/x86_64/vcpu.h"

#define GUEST_MEMORY_SIZE (2ull << 20)
#define GUEST_GDT 0x500ull
#define GUEST_TABLES 0x1000ull /* one top, one second, six third level */
#define GUEST_GIB_COUNT 6u
#define GUEST_IDT 0x9000ull
#define GUEST_STACK 0x10000ull /* its end; vCPU i's is i pages higher in none of the tests */
#define GUEST_CODE 0x10000ull
#define GUEST_DATA 0x20000ull /* for payloads */
#define GUEST_PORT_END 0xf4
#define GUEST_ACCESS_COUNT_MAX 64

#define PAYLOAD(name, text)                                                                        \
    extern const uint8_t payload_##name[], payload_##name##_end[];                                 \
    __asm__(".pushsection .rodata\n"                                                               \
            "payload_" #name ":\n" text "\npayload_" #name "_end:\n"                               \
            ".popsection\n")
#define PAYLOAD_OF(name) payload_##name, (size_t)(payload_##name##_end - payload_##name)

enum guest_access_kind { GUEST_IN, GUEST_OUT, GUEST_LOAD, GUEST_STORE };

struct guest_access {
    enum guest_access_kind kind;
    uint64_t address;
    uint64_t value; /* of a write */
    uint32_t size;
};

struct guest {
    int kvm_fd;
    uint8_t *host;
    struct memory memory;
    struct kvm kvm;
    struct vcpu vcpus[2];
    uint32_t vcpu_count;
    struct vcpu_ops ops;
    struct guest_access accesses[GUEST_ACCESS_COUNT_MAX];
    size_t access_count; /* also those for which there was no room */
    uint64_t answer;     /* to each read; it counts up */
};

static inline uint64_t guest_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline void guest_note(struct guest *guest, struct guest_access access) {
    if (guest->access_count < GUEST_ACCESS_COUNT_MAX) {
        guest->accesses[guest->access_count] = access;
    }
    guest->access_count++;
}

static inline uint64_t guest_value(const void *data, uint32_t size) {
    uint64_t value = 0;
    memcpy(&value, data, size);
    return value;
}

static inline void guest_io_read(void *context, uint16_t port, void *data, uint32_t size) {
    struct guest *guest = context;
    guest_note(guest, (struct guest_access){GUEST_IN, port, 0, size});
    memcpy(data, &guest->answer, size);
    guest->answer++;
}

static inline void guest_io_write(void *context, uint16_t port, const void *data, uint32_t size) {
    struct guest *guest = context;
    if (port == GUEST_PORT_END) {
        vcpu_kick(&guest->vcpus[0]);
        return;
    }
    guest_note(guest, (struct guest_access){GUEST_OUT, port, guest_value(data, size), size});
}

static inline void guest_mmio_read(void *context, uint64_t gpa, void *data, uint32_t size) {
    struct guest *guest = context;
    guest_note(guest, (struct guest_access){GUEST_LOAD, gpa, 0, size});
    memcpy(data, &guest->answer, size);
    guest->answer++;
}

static inline void guest_mmio_write(void *context, uint64_t gpa, const void *data, uint32_t size) {
    guest_note(context, (struct guest_access){GUEST_STORE, gpa, guest_value(data, size), size});
}

/* 2 MiB pages, present and writable (Intel SDM volume 3, 4.5). */
static inline void guest_write_tables(uint8_t *host) {
    uint64_t *tables = (uint64_t *)(void *)(host + GUEST_TABLES);
    tables[0] = (GUEST_TABLES + 0x1000) | 3;
    for (uint64_t gib = 0; gib < GUEST_GIB_COUNT; gib++) {
        tables[512 + gib] = (GUEST_TABLES + 0x2000 + gib * 0x1000) | 3;
        for (uint64_t i = 0; i < 512; i++) {
            tables[1024 + gib * 512 + i] = gib << 30 | i << 21 | 0x83;
        }
    }
    memcpy(host + GUEST_GDT, vcpu_gdt, sizeof(vcpu_gdt));
}

/* An interrupt gate (Intel SDM volume 3, 6.14.1). */
static inline void guest_write_gate(uint8_t *host, uint8_t vector, uint64_t handler) {
    const uint64_t gate[2] = {(handler & 0xffff) | (uint64_t)VCPU_CODE_SELECTOR << 16 |
                                  0x8e00ull << 32 | (handler >> 16 & 0xffff) << 48,
                              handler >> 32};
    memcpy(host + GUEST_IDT + vector * 16u, gate, sizeof(gate));
}

static inline void guest_check(enum kelpie_status status, const struct kelpie_error *err) {
    if (status != KELPIE_OK) {
        print_error("%s: %s\n", kelpie_status_name(status), err->message);
    }
    assert_int_equal(status, KELPIE_OK);
}

static inline int guest_open_kvm(void) {
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        print_message("skipped: /dev/kvm cannot be opened: %s\n", strerror(errno));
        skip();
    }
    return fd;
}

/* VM and vCPUs over memory that the caller gives or (NULL) that is made; no registers are set. */
static inline void guest_create_bare(struct guest *guest, uint64_t size, uint32_t vcpu_count) {
    struct kelpie_error err;
    *guest = (struct guest){.kvm_fd = guest_open_kvm(), .vcpu_count = vcpu_count, .answer = 0x5a};
    guest->ops = (struct vcpu_ops){guest_io_read,    guest_io_write, guest_mmio_read,
                                   guest_mmio_write, guest,          NULL};
    void *host = mmap(NULL, size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert_ptr_not_equal(host, MAP_FAILED);
    guest->host = host;
    memory_init(&guest->memory, host, size);
    guest_check(kvm_create(&guest->kvm, guest->kvm_fd, &guest->memory, &err), &err);
    for (uint32_t i = 0; i < vcpu_count; i++) {
        guest_check(vcpu_create(&guest->vcpus[i], &guest->kvm, i, vcpu_count, &err), &err);
        guest_check(vcpu_mask_signals(&guest->vcpus[i], &err), &err);
    }
}

static inline void guest_boot(struct guest *guest, uint32_t index, uint64_t rip) {
    struct kelpie_error err;
    const struct vcpu_boot boot = {
        .rip = rip, .rsi = GUEST_DATA, .cr3 = GUEST_TABLES, .gdt = GUEST_GDT};
    guest_check(vcpu_boot(&guest->vcpus[index], &boot, &err), &err);
    struct kvm_sregs sregs;
    struct kvm_regs regs;
    assert_int_equal(kvm_ioctl(guest->vcpus[index].fd, KVM_GET_SREGS, &sregs), 0);
    assert_int_equal(kvm_ioctl(guest->vcpus[index].fd, KVM_GET_REGS, &regs), 0);
    sregs.idt.base = GUEST_IDT;
    sregs.idt.limit = 0xfff;
    regs.rsp = GUEST_STACK;
    assert_int_equal(kvm_ioctl(guest->vcpus[index].fd, KVM_SET_SREGS, &sregs), 0);
    assert_int_equal(kvm_ioctl(guest->vcpus[index].fd, KVM_SET_REGS, &regs), 0);
}

static inline void guest_create(struct guest *guest, uint64_t size, uint32_t vcpu_count,
                                const uint8_t *payload, size_t payload_size) {
    guest_create_bare(guest, size, vcpu_count);
    guest_write_tables(guest->host);
    memcpy(guest->host + GUEST_CODE, payload, payload_size);
    guest_boot(guest, 0, GUEST_CODE);
}

/* Real mode, for what interrupts do: not every KVM delivers them to long mode (nested page-table KVM does not).
 * Code and data are where a long-mode guest has them, in segments of their own. */
static inline void guest_boot_real(struct guest *guest) {
    struct kvm_sregs sregs;
    struct kvm_regs regs = {.rip = 0, .rsp = 0xff00, .rflags = 2};
    assert_int_equal(kvm_ioctl(guest->vcpus[0].fd, KVM_GET_SREGS, &sregs), 0);
    sregs.cs.base = GUEST_CODE;
    sregs.cs.selector = GUEST_CODE >> 4;
    sregs.ds.base = GUEST_DATA;
    sregs.ds.selector = GUEST_DATA >> 4;
    assert_int_equal(kvm_ioctl(guest->vcpus[0].fd, KVM_SET_SREGS, &sregs), 0);
    assert_int_equal(kvm_ioctl(guest->vcpus[0].fd, KVM_SET_REGS, &regs), 0);
}

static inline void guest_create_real(struct guest *guest, const uint8_t *payload,
                                     size_t payload_size) {
    guest_create_bare(guest, GUEST_MEMORY_SIZE, 1);
    memcpy(guest->host + GUEST_CODE, payload, payload_size);
    guest_boot_real(guest);
}

/* A real-mode vector: the handler is at `offset` of the payload. */
static inline void guest_write_vector(uint8_t *host, uint8_t vector, uint64_t offset) {
    const uint16_t entry[2] = {(uint16_t)offset, GUEST_CODE >> 4};
    memcpy(host + vector * 4u, entry, sizeof(entry));
}

static inline void guest_destroy(struct guest *guest) {
    for (uint32_t i = 0; i < guest->vcpu_count; i++) {
        vcpu_destroy(&guest->vcpus[i]);
    }
    kvm_destroy(&guest->kvm);
    munmap(guest->host, guest->memory.size);
    close(guest->kvm_fd);
}

/* Runs vCPU 0 until it stops, and lets the next run go on. */
static inline enum vcpu_stop guest_run(struct guest *guest) {
    struct vcpu_result result = {.stop = VCPU_STOP_ERROR};
    vcpu_run(&guest->vcpus[0], &guest->ops, &result);
    vcpu_unkick(&guest->vcpus[0]);
    if (result.text[0]) {
        print_message("%s: %s\n", vcpu_stop_name(result.stop), result.text);
    }
    return result.stop;
}

static inline uint64_t guest_word(const struct guest *guest, uint64_t gpa) {
    uint64_t value = 0;
    assert_true(memory_read(&guest->memory, gpa, &value, sizeof(value)));
    return value;
}

static inline void guest_expect(const struct guest *guest, size_t index,
                                struct guest_access expected) {
    assert_true(index < guest->access_count);
    const struct guest_access *access = &guest->accesses[index];
    assert_int_equal(access->kind, expected.kind);
    assert_int_equal(access->address, expected.address);
    assert_int_equal(access->value, expected.value);
    assert_int_equal(access->size, expected.size);
}

#endif
