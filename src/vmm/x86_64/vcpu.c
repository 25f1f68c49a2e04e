/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * THEORY OF OPERATION
 *
 * KVM_RUN enters the guest and comes back with an exit, which the one switch in handle_exit() answers through
 * the table of functions; then KVM_RUN again. KVM finishes an access (puts what was read into its register, goes on to the
 * next instruction) at the start of the next KVM_RUN. So the loop never ends after an access: a kick sets
 * immediate_exit, with which the next KVM_RUN finishes the access and returns EINTR before it enters the guest.
 * That EINTR is the only place where a vCPU pauses, and there its state is whole. An access that KVM splits (a
 * string instruction, memory across a page) comes back as further exits, and they are answered likewise.
 *
 * The signal covers the moments inside the guest, immediate_exit those outside: whichever side of KVM_RUN's start
 * the kick falls on, one of them ends the run. The signal is blocked outside KVM_RUN and is taken off after it, or the
 * next run would end for nothing.
 */
#include "vmm/x86_64/vcpu.h"

#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"

#define KERNEL_SIGNAL_MASK_SIZE 8u /* the kernel's sigset_t: 64 bits */
#define MMIO_SIZE_MAX 8u
#define PENDING_SIGNALS_MAX 1024

void vcpu_kick(struct vcpu *vcpu) {
    ASSERT(vcpu);
    ASSERT(vcpu->run);
    __atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
}

void vcpu_unkick(struct vcpu *vcpu) {
    ASSERT(vcpu);
    ASSERT(vcpu->run);
    __atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
}

/* Section 4.13. */
enum kelpie_status vcpu_mask_signals(struct vcpu *vcpu, struct kelpie_error *err) {
    ASSERT(vcpu);
    ASSERT(vcpu->fd >= 0);
    sigset_t all;
    sigfillset(&all);
    int mask_error = pthread_sigmask(SIG_SETMASK, &all, NULL);
    ASSERT(mask_error == 0);
    union {
        struct kvm_signal_mask mask;
        uint8_t bytes[sizeof(struct kvm_signal_mask) + KERNEL_SIGNAL_MASK_SIZE];
    } request = {.mask = {.len = KERNEL_SIGNAL_MASK_SIZE}};
    const uint64_t blocked = ~(1ull << (VCPU_KICK_SIGNAL - 1));
    memcpy(request.mask.sigset, &blocked, sizeof(blocked));
    int result = kvm_ioctl(vcpu->fd, KVM_SET_SIGNAL_MASK, &request);
    if (result < 0) {
        return error_set_os(err, -result, "KVM refused a signal mask");
    }
    return KELPIE_OK;
}

/* Section 4.84. EINVAL: the guest has no such clock. */
enum kelpie_status vcpu_clock_stopped(struct vcpu *vcpu, struct kelpie_error *err) {
    ASSERT(vcpu);
    ASSERT(vcpu->fd >= 0);
    int result = kvm_ioctl(vcpu->fd, KVM_KVMCLOCK_CTRL, NULL);
    if (result < 0 && result != -EINVAL) {
        return error_set_os(err, -result, "KVM cannot tell the guest's clock of a pause");
    }
    return KELPIE_OK;
}

/* ---- the run loop ------------------------------------------------------------------------------- */

static const char *const stop_names[] = {
    [VCPU_STOP_PAUSED] = "paused",
    [VCPU_STOP_SHUTDOWN] = "shutdown",
    [VCPU_STOP_RESET] = "reset",
    [VCPU_STOP_CRASHED] = "crashed",
    [VCPU_STOP_TRIPLE_FAULT] = "triple fault",
    [VCPU_STOP_HALTED] = "halted",
    [VCPU_STOP_ERROR] = "error",
};
static_assert(ARRAY_SIZE(stop_names) == VCPU_STOP_COUNT, "each stop has a name");

const char *vcpu_stop_name(enum vcpu_stop stop) {
    ASSERT((unsigned)stop < VCPU_STOP_COUNT);
    ASSERT(stop_names[stop]);
    return stop_names[stop];
}

__attribute__((format(printf, 3, 4))) static bool
stopped(struct vcpu_result *ret, enum vcpu_stop stop, const char *format, ...) {
    ASSERT(ret);
    ASSERT(stop != VCPU_STOP_PAUSED);
    va_list args;
    va_start(args, format);
    ret->stop = stop;
    vsnprintf(ret->text, sizeof(ret->text), format, args);
    va_end(args);
    return false;
}

/* A port access, or a string of them: `count` items one behind the other in the run structure. */
static void handle_io(struct vcpu *vcpu, const struct vcpu_ops *ops) {
    const uint64_t offset = vcpu->run->io.data_offset;
    const uint32_t size = vcpu->run->io.size;
    const uint32_t count = vcpu->run->io.count;
    ASSERT(size == 1 || size == 2 || size == 4);
    ASSERT(offset <= vcpu->kvm->run_size);
    ASSERT((uint64_t)size * count <= vcpu->kvm->run_size - offset);
    uint8_t *data = (uint8_t *)vcpu->run + offset;
    for (uint32_t i = 0; i < count; i++, data += size) {
        if (vcpu->run->io.direction == KVM_EXIT_IO_OUT) {
            ops->io_write(ops->context, vcpu->run->io.port, data, size);
        } else {
            ops->io_read(ops->context, vcpu->run->io.port, data, size);
        }
    }
}

/* An access to memory that is none. One that is not of a register's size (it crosses a page, say) is made in
 * pieces that are. */
static void handle_mmio(struct vcpu *vcpu, const struct vcpu_ops *ops) {
    const uint32_t size = vcpu->run->mmio.len;
    const uint64_t gpa = vcpu->run->mmio.phys_addr;
    uint8_t *data = vcpu->run->mmio.data;
    ASSERT(size > 0);
    ASSERT(size <= MMIO_SIZE_MAX);
    uint32_t piece = MMIO_SIZE_MAX;
    for (uint32_t done = 0; done < size; done += piece) {
        while (piece > size - done) {
            piece /= 2;
        }
        if (vcpu->run->mmio.is_write) {
            ops->mmio_write(ops->context, gpa + done, data + done, piece);
        } else {
            ops->mmio_read(ops->context, gpa + done, data + done, piece);
        }
    }
}

static bool handle_system_event(const struct kvm_run *run, struct vcpu_result *ret) {
    ASSERT(run->exit_reason == KVM_EXIT_SYSTEM_EVENT);
    ASSERT(ret);
    switch (run->system_event.type) {
    case KVM_SYSTEM_EVENT_SHUTDOWN:
        return stopped(ret, VCPU_STOP_SHUTDOWN, "the guest shut down");
    case KVM_SYSTEM_EVENT_RESET:
        return stopped(ret, VCPU_STOP_RESET, "the guest asked for a reset");
    case KVM_SYSTEM_EVENT_CRASH:
        return stopped(ret, VCPU_STOP_CRASHED, "the guest says that it crashed");
    default:
        return stopped(ret, VCPU_STOP_ERROR, "KVM reports the system event %u",
                       run->system_event.type);
    }
}

/* Suberror 1 is an instruction that KVM can neither run nor emulate. */
static bool handle_internal_error(struct vcpu *vcpu, struct vcpu_result *ret) {
    const struct kvm_run *run = vcpu->run;
    ASSERT(run->exit_reason == KVM_EXIT_INTERNAL_ERROR);
    ASSERT(ret);
    struct kvm_regs regs = {0};
    if (kvm_ioctl(vcpu->fd, KVM_GET_REGS, &regs) < 0) {
        regs.rip = 0;
    }
    uint32_t count = run->internal.ndata;
    return stopped(
        ret, VCPU_STOP_ERROR,
        "KVM gave up on vCPU %u at %#llx: internal error %u, %u words of data: %#llx %#llx "
        "%#llx",
        vcpu->index, regs.rip, run->internal.suberror, count, count > 0 ? run->internal.data[0] : 0,
        count > 1 ? run->internal.data[1] : 0, count > 2 ? run->internal.data[2] : 0);
}

/* Every exit there is. True: go on. */
static bool handle_exit(struct vcpu *vcpu, const struct vcpu_ops *ops, struct vcpu_result *ret) {
    const struct kvm_run *run = vcpu->run;
    ASSERT(ops);
    ASSERT(ret);
    switch (run->exit_reason) {
    case KVM_EXIT_IO:
        handle_io(vcpu, ops);
        return true;
    case KVM_EXIT_MMIO:
        handle_mmio(vcpu, ops);
        return true;
    case KVM_EXIT_INTR:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
        return true;
    case KVM_EXIT_HLT:
        return stopped(ret, VCPU_STOP_HALTED, "vCPU %u halted", vcpu->index);
    case KVM_EXIT_SHUTDOWN:
        return stopped(ret, VCPU_STOP_TRIPLE_FAULT, "vCPU %u had a triple fault", vcpu->index);
    case KVM_EXIT_SYSTEM_EVENT:
        return handle_system_event(run, ret);
    case KVM_EXIT_FAIL_ENTRY:
        return stopped(ret, VCPU_STOP_ERROR,
                       "the processor refused to enter vCPU %u: reason %#llx on processor %u",
                       vcpu->index, run->fail_entry.hardware_entry_failure_reason,
                       run->fail_entry.cpu);
    case KVM_EXIT_INTERNAL_ERROR:
        return handle_internal_error(vcpu, ret);
    default:
        return stopped(ret, VCPU_STOP_ERROR, "vCPU %u has the unknown exit %u", vcpu->index,
                       run->exit_reason);
    }
}

/* Signals queue up: takes off all that wait. */
static void take_signals(void) {
    const struct timespec at_once = {0};
    sigset_t kick;
    sigemptyset(&kick);
    int result = sigaddset(&kick, VCPU_KICK_SIGNAL);
    ASSERT(result == 0);
    int taken = 0;
    while (taken < PENDING_SIGNALS_MAX && sigtimedwait(&kick, NULL, &at_once) > 0) {
        taken++;
    }
    ASSERT(taken <= PENDING_SIGNALS_MAX);
}

/* KVM_RUN came back with an error. EAGAIN: the vCPU waited for INIT and SIPI and was woken. */
static bool handle_error(struct vcpu *vcpu, int run_error, struct vcpu_result *ret) {
    ASSERT(vcpu);
    ASSERT(run_error > 0);
    if (run_error == EAGAIN) {
        return true;
    }
    if (run_error != EINTR) {
        return stopped(ret, VCPU_STOP_ERROR, "KVM cannot run vCPU %u: %s (error %d, exit %u)",
                       vcpu->index, strerrordesc_np(run_error), run_error, vcpu->run->exit_reason);
    }
    take_signals();
    if (__atomic_load_n(&vcpu->run->immediate_exit, __ATOMIC_SEQ_CST) == 0) {
        return true;
    }
    *ret = (struct vcpu_result){.stop = VCPU_STOP_PAUSED};
    return false;
}

uint64_t vcpu_first_exit_ns(const struct vcpu *vcpu) {
    ASSERT(vcpu);
    ASSERT(vcpu->run);
    return __atomic_load_n(&vcpu->first_exit_ns, __ATOMIC_RELAXED);
}

void vcpu_forget_first_exit(struct vcpu *vcpu) {
    ASSERT(vcpu);
    ASSERT(vcpu->run);
    __atomic_store_n(&vcpu->first_exit_ns, 0, __ATOMIC_RELAXED);
}

void vcpu_refresh(struct vcpu *vcpu) {
    ASSERT(vcpu);
    ASSERT(vcpu->fd >= 0);
    vcpu->is_fresh = true;
}

static void note_first_exit(struct vcpu *vcpu) {
    struct timespec now = {0};
    int result = clock_gettime(CLOCK_MONOTONIC, &now);
    ASSERT(result == 0);
    ASSERT(vcpu->first_exit_ns == 0);
    uint64_t now_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    __atomic_store_n(&vcpu->first_exit_ns, now_ns, __ATOMIC_RELAXED);
}

void vcpu_run(struct vcpu *vcpu, const struct vcpu_ops *ops, struct vcpu_result *ret) {
    ASSERT(vcpu && vcpu->run);
    ASSERT(ops && ops->io_read && ops->io_write);
    ASSERT(ops->mmio_read && ops->mmio_write);
    bool going = true;
    while (going) {
        int result = ioctl(vcpu->fd, KVM_RUN, 0);
        if (result == 0 && vcpu->first_exit_ns == 0) {
            note_first_exit(vcpu);
        }
        going = result < 0 ? handle_error(vcpu, errno, ret) : handle_exit(vcpu, ops, ret);
    }
}
