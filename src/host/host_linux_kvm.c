/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * THEORY OF OPERATION
 *
 * One VM, one page of memory, one vCPU in flat 32-bit protected mode at privilege level 0, and a loop that ends in HLT
 * (KVM API documentation, sections 4.1 to 4.12 and 4.32). The memory slot comes before the vCPU: the other
 * order waits for a grace period. The run must end in time whatever KVM does: a thread of our own, whose signals
 * are all blocked, sets a timer that signals it; KVM_SET_SIGNAL_MASK lets that signal through inside KVM_RUN only,
 * which then returns EINTR. The signal is never delivered, no handler is installed, and nobody else's signals change.
 */
#include "host/host_kvm.h"
#include "host/host_linux.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"

#if defined(__x86_64__)

#define GUEST_MEMORY_SIZE 4096u
#define GUEST_SIGNAL (SIGRTMAX - 1)
#define KERNEL_SIGNAL_MASK_SIZE 8u /* the kernel's sigset_t: 64 bits */

struct payload {
    uint64_t budget_ns;
    int kvm_fd;
    int vm_fd;
    int vcpu_fd;
    uint8_t *memory;
    struct kvm_run *run;
    size_t run_size;
    uint64_t took_ns;
    struct kelpie_error error;
    enum kelpie_status status;
};

static uint64_t now_ns(void) {
    struct timespec now;
    int result = clock_gettime(CLOCK_MONOTONIC, &now);
    ASSERT(result == 0);
    return (uint64_t)now.tv_sec * HOST_NS_PER_S + (uint64_t)now.tv_nsec;
}

static void payload_close(struct payload *payload) {
    if (payload->run) {
        munmap(payload->run, payload->run_size);
    }
    const int fds[] = {payload->vcpu_fd, payload->vm_fd, payload->kvm_fd};
    for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
        if (fds[i] >= 0) {
            close(fds[i]);
        }
    }
    if (payload->memory) {
        munmap(payload->memory, GUEST_MEMORY_SIZE);
    }
}

/* mov $count, %ecx; 1: dec %ecx; jnz 1b; hlt */
static void payload_write(uint8_t *memory) {
    const uint32_t count = HOST_KVM_INSTRUCTION_COUNT / 2;
    uint8_t code[] = {0xb9, 0, 0, 0, 0, 0x49, 0x75, 0xfd, 0xf4};
    memcpy(code + 1, &count, sizeof(count));
    static_assert(sizeof(code) < GUEST_MEMORY_SIZE, "it fits");
    memcpy(memory, code, sizeof(code));
}

static enum kelpie_status payload_open(struct payload *payload, struct kelpie_error *err) {
    payload->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (payload->kvm_fd < 0) {
        return error_set_os(err, errno, "cannot open /dev/kvm");
    }
    payload->vm_fd = ioctl(payload->kvm_fd, KVM_CREATE_VM, 0);
    if (payload->vm_fd < 0) {
        return error_set_os(err, errno, "cannot create a VM with /dev/kvm");
    }
    void *memory =
        mmap(NULL, GUEST_MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        return error_set_os(err, errno, "cannot map a page for a guest");
    }
    payload->memory = memory;
    payload_write(payload->memory);
    const struct kvm_userspace_memory_region region = {
        .memory_size = GUEST_MEMORY_SIZE,
        .userspace_addr = (uint64_t)(uintptr_t)memory,
    };
    if (ioctl(payload->vm_fd, KVM_SET_USER_MEMORY_REGION, &region) < 0) {
        return error_set_os(err, errno, "KVM refused a guest's memory");
    }
    payload->vcpu_fd = ioctl(payload->vm_fd, KVM_CREATE_VCPU, 0);
    if (payload->vcpu_fd < 0) {
        return error_set_os(err, errno, "KVM refused a vCPU");
    }
    int run_size = ioctl(payload->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (run_size < (int)sizeof(struct kvm_run)) {
        return error_set_os(err, run_size < 0 ? errno : EINVAL, "KVM has no run structure");
    }
    void *run =
        mmap(NULL, (size_t)run_size, PROT_READ | PROT_WRITE, MAP_SHARED, payload->vcpu_fd, 0);
    if (run == MAP_FAILED) {
        return error_set_os(err, errno, "cannot map a vCPU's run structure");
    }
    payload->run = run;
    payload->run_size = (size_t)run_size;
    return KELPIE_OK;
}

/* Flat 32-bit segments (Intel SDM volume 3, 3.4.5.1: type 11 code, type 3 data). */
static enum kelpie_status payload_set_registers(struct payload *payload, struct kelpie_error *err) {
    ASSERT(payload->vcpu_fd >= 0);
    struct kvm_sregs sregs;
    if (ioctl(payload->vcpu_fd, KVM_GET_SREGS, &sregs) < 0) {
        return error_set_os(err, errno, "cannot read a vCPU's registers");
    }
    struct kvm_segment data = {
        .limit = 0xffffffff, .selector = 0x10, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1};
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
    sregs.cs = data;
    sregs.cs.selector = 0x08;
    sregs.cs.type = 11;
    sregs.cr0 |= 1; /* protection enable */
    const struct kvm_regs regs = {.rip = 0, .rflags = 2};
    if (ioctl(payload->vcpu_fd, KVM_SET_SREGS, &sregs) < 0 ||
        ioctl(payload->vcpu_fd, KVM_SET_REGS, &regs) < 0) {
        return error_set_os(err, errno, "cannot set a vCPU's registers");
    }
    return KELPIE_OK;
}

/* The timer's signal gets through inside KVM_RUN only. */
static enum kelpie_status payload_set_timer(struct payload *payload, timer_t *ret_timer,
                                            struct kelpie_error *err) {
    ASSERT(payload->budget_ns > 0);
    union {
        struct kvm_signal_mask mask;
        uint8_t bytes[sizeof(struct kvm_signal_mask) + KERNEL_SIGNAL_MASK_SIZE];
    } mask = {.mask = {.len = KERNEL_SIGNAL_MASK_SIZE}};
    const uint64_t blocked = ~(1ull << (GUEST_SIGNAL - 1));
    memcpy(mask.mask.sigset, &blocked, sizeof(blocked));
    if (ioctl(payload->vcpu_fd, KVM_SET_SIGNAL_MASK, &mask) < 0) {
        return error_set_os(err, errno, "KVM refused a signal mask");
    }
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = GUEST_SIGNAL};
    event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
    if (timer_create(CLOCK_MONOTONIC, &event, ret_timer) < 0) {
        return error_set_os(err, errno, "cannot create a timer");
    }
    const struct itimerspec when = {
        .it_value = {.tv_sec = (time_t)(payload->budget_ns / HOST_NS_PER_S),
                     .tv_nsec = (long)(payload->budget_ns % HOST_NS_PER_S)}};
    int result = timer_settime(*ret_timer, 0, &when, NULL);
    ASSERT(result == 0);
    return KELPIE_OK;
}

/* The loop was cut off after took_ns: how long it takes as a whole, by how far it had come. */
static enum kelpie_status payload_estimate(struct payload *payload, uint64_t took_ns,
                                           struct kelpie_error *err) {
    struct kvm_regs regs;
    ASSERT(took_ns > 0);
    if (ioctl(payload->vcpu_fd, KVM_GET_REGS, &regs) < 0) {
        return error_set_os(err, errno, "cannot read a vCPU's registers");
    }
    const uint64_t rounds = HOST_KVM_INSTRUCTION_COUNT / 2;
    bool began = regs.rip != 0 && regs.rcx < rounds;
    uint64_t rounds_done = began ? rounds - regs.rcx : 1;
    ASSERT(rounds_done > 0 && rounds_done <= rounds);
    uint64_t whole_ns = took_ns / rounds_done * rounds;
    payload->took_ns = whole_ns > payload->budget_ns ? whole_ns : payload->budget_ns;
    return KELPIE_OK;
}

static enum kelpie_status payload_run(struct payload *payload, struct kelpie_error *err) {
    timer_t timer;
    TRY(payload_set_timer(payload, &timer, err));
    uint64_t start_ns = now_ns();
    int result = ioctl(payload->vcpu_fd, KVM_RUN, 0);
    int run_error = result < 0 ? errno : 0;
    uint64_t took_ns = now_ns() - start_ns;
    timer_delete(timer);
    if (run_error == EINTR) {
        return payload_estimate(payload, took_ns, err);
    }
    if (run_error != 0) {
        return error_set_os(err, run_error, "KVM cannot run a vCPU");
    }
    if (payload->run->exit_reason != KVM_EXIT_HLT) {
        return error_set(err, KELPIE_IO_FAILED, "KVM cannot run kernel-mode code: exit reason %u",
                         payload->run->exit_reason);
    }
    payload->took_ns = took_ns;
    return KELPIE_OK;
}

static void payload_thread(void *argument) {
    struct payload *payload = argument;
    payload->status = payload_open(payload, &payload->error);
    if (payload->status == KELPIE_OK) {
        payload->status = payload_set_registers(payload, &payload->error);
    }
    if (payload->status == KELPIE_OK) {
        payload->status = payload_run(payload, &payload->error);
    }
    payload_close(payload);
}

static enum kelpie_status probe_once(struct host *host, uint64_t budget_ns, uint64_t *ret_ns,
                                     struct kelpie_error *err) {
    ASSERT(budget_ns > 0);
    ASSERT(ret_ns);
    if (access("/dev/kvm", F_OK) != 0) {
        return error_set_os(err, errno, "there is no /dev/kvm");
    }
    struct payload payload = {.budget_ns = budget_ns, .kvm_fd = -1, .vm_fd = -1, .vcpu_fd = -1};
    struct host_thread *thread = NULL;
    TRY(host_thread_start(host, "kvm-probe", payload_thread, &payload, &thread, err));
    host_thread_join(thread);
    if (payload.status != KELPIE_OK) {
        if (err) {
            *err = payload.error;
        }
        return payload.status;
    }
    *ret_ns = payload.took_ns;
    return KELPIE_OK;
}

#else

static enum kelpie_status probe_once(struct host *host, uint64_t budget_ns, uint64_t *ret_ns,
                                     struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(budget_ns > 0 && ret_ns);
    return error_set(err, KELPIE_UNSUPPORTED, "there is no KVM payload for this processor");
}

#endif

static enum kelpie_status probe_locked(struct host *host, uint64_t budget_ns,
                                       struct kelpie_error *err) {
    struct linux_kvm *kvm = &host_linux_of(host)->kvm;
    ASSERT(host);
    ASSERT(budget_ns > 0);
    uint64_t shortest_ns = UINT64_MAX;
    for (int i = 0; i < HOST_KVM_ATTEMPT_COUNT && !host_kvm_is_native(shortest_ns); i++) {
        uint64_t taken_ns = 0;
        TRY(probe_once(host, budget_ns, &taken_ns, err));
        shortest_ns = taken_ns < shortest_ns ? taken_ns : shortest_ns;
    }
    kvm->budget_ns = budget_ns;
    kvm->taken_ns = shortest_ns;
    return KELPIE_OK;
}

enum kelpie_status linux_kvm_probe(struct host *host, uint64_t budget_ns, uint64_t *ret_ns,
                                   struct kelpie_error *err) {
    struct linux_kvm *kvm = &host_linux_of(host)->kvm;
    ASSERT(budget_ns > 0);
    ASSERT(ret_ns);
    pthread_mutex_lock(&kvm->lock);
    enum kelpie_status status =
        kvm->budget_ns == budget_ns ? KELPIE_OK : probe_locked(host, budget_ns, err);
    if (status == KELPIE_OK) {
        *ret_ns = kvm->taken_ns;
    }
    pthread_mutex_unlock(&kvm->lock);
    return status;
}
