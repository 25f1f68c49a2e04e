/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The floor: the KVM calls that a restored machine takes, in the best order known, and nothing else. It is started like
 * kelpie-vmm, maps the same memory file, runs the payload to its first exit, and writes to the console when it was started,
 * had everything set up, and had that exit.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define CONSOLE_FD 4
#define KVM_FD 6
#define MEMORY_FD 7
#define LOOP_RIP 0x100006 /* the payload's loop, and what it has in its registers there */
#define PAGE_TABLES 0x9000
#define CPUID_COUNT_MAX 256

struct cpuid {
    struct kvm_cpuid2 head;
    struct kvm_cpuid_entry2 entries[CPUID_COUNT_MAX];
};

/* The exit code says which call it was. */
static int checked(int result, int code) {
    if (result < 0) {
        _exit(code);
    }
    return result;
}

static int make_vm(void *memory, uint64_t size) {
    int vm = checked(ioctl(KVM_FD, KVM_CREATE_VM, 0), 2);
    struct kvm_userspace_memory_region slot = {.memory_size = size,
                                               .userspace_addr = (uintptr_t)memory};
    struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
    uint64_t identity = 0xfffbc000;
    checked(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot), 3);
    checked(ioctl(vm, KVM_SET_IDENTITY_MAP_ADDR, &identity), 4);
    checked(ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000), 5);
    checked(ioctl(vm, KVM_CREATE_IRQCHIP, 0), 6);
    checked(ioctl(vm, KVM_CREATE_PIT2, &pit), 7);
    return vm;
}

static void set_registers(int vcpu) {
    struct kvm_sregs sregs;
    checked(ioctl(vcpu, KVM_GET_SREGS, &sregs), 8);
    struct kvm_segment code = {
        .limit = 0xffffffff, .selector = 0x10, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1};
    struct kvm_segment data = {
        .limit = 0xffffffff, .selector = 0x18, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1};
    sregs.cs = code;
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
    sregs.cr0 = 0x80000011;
    sregs.cr3 = PAGE_TABLES;
    sregs.cr4 = 0x20;
    sregs.efer = 0x500;
    struct kvm_regs regs = {.rip = LOOP_RIP, .rax = 'x', .rdx = 0x3f8, .rflags = 2};
    checked(ioctl(vcpu, KVM_SET_SREGS, &sregs), 9);
    checked(ioctl(vcpu, KVM_SET_REGS, &regs), 10);
}

static uint64_t now_ns(void) {
    struct timespec now = {0};
    checked(clock_gettime(CLOCK_MONOTONIC, &now), 18);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

int main(void) {
    uint64_t stamps[3] = {now_ns()};
    struct stat info;
    static struct cpuid cpuid = {.head.nent = CPUID_COUNT_MAX};
    checked(fstat(MEMORY_FD, &info), 11);
    uint64_t size = (uint64_t)info.st_size;
    void *memory =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, MEMORY_FD, 0);
    int vm = make_vm(memory, size);
    int vcpu = checked(ioctl(vm, KVM_CREATE_VCPU, 0), 12);
    size_t run_size = (size_t)checked(ioctl(KVM_FD, KVM_GET_VCPU_MMAP_SIZE, 0), 13);
    struct kvm_run *run = mmap(NULL, run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    checked(ioctl(KVM_FD, KVM_GET_SUPPORTED_CPUID, &cpuid), 14);
    checked(ioctl(vcpu, KVM_SET_CPUID2, &cpuid), 15);
    set_registers(vcpu);
    stamps[1] = now_ns();
    checked(ioctl(vcpu, KVM_RUN, 0), 16);
    stamps[2] = now_ns();
    if (run->exit_reason != KVM_EXIT_IO ||
        write(CONSOLE_FD, stamps, sizeof(stamps)) != sizeof(stamps)) {
        _exit(17);
    }
    pause();
    return 0;
}
