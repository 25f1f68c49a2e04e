/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vmm/x86_64/kvm.h"

#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/assert.h"

#define PAGES_IN_WORD 64u
#define IOCTL_TRIES_MAX 1000

int kvm_ioctl(int fd, unsigned long request, void *argument) {
    ASSERT(fd >= 0);
    ASSERT(request != KVM_RUN);
    int result = -1;
    int tries = 0;
    do {
        result = ioctl(fd, request, argument);
    } while (result < 0 && errno == EINTR && ++tries < IOCTL_TRIES_MAX);
    return result < 0 ? -errno : result;
}

/* A call whose argument is a number. */
static int kvm_ioctl_number(int fd, unsigned long request, unsigned long argument) {
    ASSERT(fd >= 0);
    int result = kvm_ioctl(fd, request, (void *)argument); /* NOLINT: the call's own type */
    ASSERT(result >= -4095);
    return result;
}

struct capability {
    unsigned long number;
    const char *name;
};

/* Sections 4.4 and 8. All are in every kernel since 4.11. */
static const struct capability needed[] = {
    {KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"},
    {KVM_CAP_SET_TSS_ADDR, "KVM_CAP_SET_TSS_ADDR"},
    {KVM_CAP_SET_IDENTITY_MAP_ADDR, "KVM_CAP_SET_IDENTITY_MAP_ADDR"},
    {KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID"},
    {KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP"},
    {KVM_CAP_PIT2, "KVM_CAP_PIT2"},
    {KVM_CAP_PIT_STATE2, "KVM_CAP_PIT_STATE2"},
    {KVM_CAP_IRQFD, "KVM_CAP_IRQFD"},
    {KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD"},
    {KVM_CAP_MP_STATE, "KVM_CAP_MP_STATE"},
    {KVM_CAP_VCPU_EVENTS, "KVM_CAP_VCPU_EVENTS"},
    {KVM_CAP_DEBUGREGS, "KVM_CAP_DEBUGREGS"},
    {KVM_CAP_XSAVE, "KVM_CAP_XSAVE"},
    {KVM_CAP_XCRS, "KVM_CAP_XCRS"},
    {KVM_CAP_ADJUST_CLOCK, "KVM_CAP_ADJUST_CLOCK"},
    {KVM_CAP_GET_TSC_KHZ, "KVM_CAP_GET_TSC_KHZ"},
    {KVM_CAP_KVMCLOCK_CTRL, "KVM_CAP_KVMCLOCK_CTRL"},
    {KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"},
};

static int capability(const struct kvm *kvm, unsigned long number) {
    ASSERT(kvm->vm_fd >= 0);
    int result = kvm_ioctl_number(kvm->vm_fd, KVM_CHECK_EXTENSION, number);
    ASSERT(result >= -4095);
    return result < 0 ? 0 : result;
}

static enum kelpie_status check_capabilities(struct kvm *kvm, struct kelpie_error *err) {
    ASSERT(kvm->vm_fd >= 0);
    for (size_t i = 0; i < ARRAY_SIZE(needed); i++) {
        if (capability(kvm, needed[i].number) == 0) {
            return error_set(err, KELPIE_UNSUPPORTED,
                             "this host's KVM has no %s: Linux 4.11 or later is needed",
                             needed[i].name);
        }
    }
    int xsave_size = capability(kvm, KVM_CAP_XSAVE2);
    kvm->has_xsave2 = xsave_size >= (int)VCPU_XSAVE_SIZE_MIN;
    kvm->xsave_size = kvm->has_xsave2 ? (size_t)xsave_size : VCPU_XSAVE_SIZE_MIN;
    if (kvm->xsave_size > VCPU_XSAVE_SIZE_MAX) {
        return error_set(err, KELPIE_UNSUPPORTED, "this host's extended registers take %zu bytes",
                         kvm->xsave_size);
    }
    kvm->has_tsc_scaling = capability(kvm, KVM_CAP_TSC_CONTROL) != 0;
    kvm->has_tsc_deadline = capability(kvm, KVM_CAP_TSC_DEADLINE_TIMER) != 0;
    kvm->has_clock_realtime = (capability(kvm, KVM_CAP_ADJUST_CLOCK) & KVM_CLOCK_REALTIME) != 0;
    int run_size = kvm_ioctl_number(kvm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (run_size < (int)sizeof(struct kvm_run) || run_size > (int)KVM_RUN_SIZE_MAX) {
        return error_set(err, KELPIE_UNSUPPORTED, "KVM's run structure has the size %d", run_size);
    }
    kvm->run_size = (size_t)run_size;
    return KELPIE_OK;
}

/* Section 4.35. Slot i is region i, for the VM's whole life. */
static enum kelpie_status set_slots(struct kvm *kvm, uint32_t flags, struct kelpie_error *err) {
    ASSERT(kvm->vm_fd >= 0);
    ASSERT(kvm->memory->region_count <= VMM_MEMORY_REGION_COUNT_MAX);
    for (uint32_t i = 0; i < kvm->memory->region_count; i++) {
        const struct memory_region *region = &kvm->memory->regions[i];
        struct kvm_userspace_memory_region slot = {
            .slot = i,
            .flags = flags,
            .guest_phys_addr = region->gpa,
            .memory_size = region->size,
            .userspace_addr = (uint64_t)(uintptr_t)kvm->memory->host + region->offset,
        };
        int result = kvm_ioctl(kvm->vm_fd, KVM_SET_USER_MEMORY_REGION, &slot);
        if (result < 0) {
            return error_set_os(err, -result, "KVM refused %llu MiB of memory at %#llx",
                                (unsigned long long)(region->size >> 20),
                                (unsigned long long)region->gpa);
        }
    }
    return KELPIE_OK;
}

/* Sections 4.39, 4.41, 4.24 and 4.71. In this order, after the memory slots. */
static enum kelpie_status create_chips(struct kvm *kvm, struct kelpie_error *err) {
    ASSERT(kvm->vm_fd >= 0);
    ASSERT(kvm->memory);
    uint64_t identity_map = KVM_IDENTITY_MAP_GPA;
    struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
    int result = kvm_ioctl_number(kvm->vm_fd, KVM_SET_TSS_ADDR, KVM_TSS_GPA);
    if (result < 0) {
        return error_set_os(err, -result, "KVM refused a place for its task state");
    }
    result = kvm_ioctl(kvm->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map);
    if (result < 0) {
        return error_set_os(err, -result, "KVM refused a place for its identity map");
    }
    result = kvm_ioctl_number(kvm->vm_fd, KVM_CREATE_IRQCHIP, 0);
    if (result < 0) {
        return error_set_os(err, -result, "KVM cannot create interrupt controllers");
    }
    result = kvm_ioctl(kvm->vm_fd, KVM_CREATE_PIT2, &pit);
    if (result < 0) {
        return error_set_os(err, -result, "KVM cannot create a timer");
    }
    return KELPIE_OK;
}

static enum kelpie_status create(struct kvm *kvm, struct kelpie_error *err) {
    ASSERT(kvm->kvm_fd >= 0);
    ASSERT(kvm->vm_fd < 0);
    int version = kvm_ioctl_number(kvm->kvm_fd, KVM_GET_API_VERSION, 0);
    if (version != KVM_API_VERSION) {
        return error_set(err, KELPIE_BACKEND_MISSING,
                         "the descriptor %d is no KVM of API version %d (it answered %d): is it "
                         "/dev/kvm?",
                         kvm->kvm_fd, KVM_API_VERSION, version);
    }
    int vm_fd = kvm_ioctl_number(kvm->kvm_fd, KVM_CREATE_VM, 0);
    if (vm_fd < 0) {
        return error_set_os(err, -vm_fd, "KVM cannot create a VM");
    }
    kvm->vm_fd = vm_fd;
    TRY(check_capabilities(kvm, err));
    TRY(set_slots(kvm, 0, err));
    TRY(create_chips(kvm, err));
    kvm->supported.count = CPUID_ENTRY_COUNT_MAX;
    int result = kvm_ioctl(kvm->kvm_fd, KVM_GET_SUPPORTED_CPUID, &kvm->supported);
    if (result < 0) {
        kvm->supported.count = 0;
        return error_set_os(err, -result, "KVM does not say what processor it can be");
    }
    ASSERT(kvm->supported.count <= CPUID_ENTRY_COUNT_MAX);
    return kvm_list_msrs(kvm, err);
}

enum kelpie_status kvm_create(struct kvm *kvm, int kvm_fd, const struct memory *memory,
                              struct kelpie_error *err) {
    ASSERT(kvm && kvm_fd >= 0);
    ASSERT(memory && memory->region_count > 0);
    *kvm = (struct kvm){.kvm_fd = kvm_fd, .vm_fd = -1, .memory = memory};
    enum kelpie_status status = create(kvm, err);
    if (status != KELPIE_OK) {
        kvm_destroy(kvm);
    }
    return status;
}

void kvm_destroy(struct kvm *kvm) {
    ASSERT(kvm);
    ASSERT(kvm->irq_count <= KVM_IRQ_COUNT_MAX);
    if (!kvm->memory) {
        return; /* zeroed, or destroyed already */
    }
    for (size_t i = 0; i < kvm->irq_count; i++) {
        close(kvm->irqs[i].fd);
    }
    if (kvm->vm_fd >= 0) {
        close(kvm->vm_fd);
    }
    *kvm = (struct kvm){.kvm_fd = -1, .vm_fd = -1};
}

/* ---- events ------------------------------------------------------------------------------------- */

enum kelpie_status kvm_irq_add(struct kvm *kvm, uint32_t gsi, int *ret_fd,
                               struct kelpie_error *err) {
    ASSERT(kvm && kvm->vm_fd >= 0);
    ASSERT(gsi < VMM_GSI_COUNT);
    ASSERT(ret_fd);
    ASSERT(kvm->irq_count < KVM_IRQ_COUNT_MAX);
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0) {
        return error_set_os(err, errno, "cannot make an event descriptor for interrupt %u", gsi);
    }
    kvm->irqs[kvm->irq_count++] = (struct kvm_irq){.gsi = gsi, .fd = fd};
    *ret_fd = fd;
    return KELPIE_OK;
}

enum kelpie_status kvm_ioeventfd_add(struct kvm *kvm, uint64_t gpa, const uint32_t *match, int fd,
                                     struct kelpie_error *err) {
    ASSERT(kvm && kvm->vm_fd >= 0);
    ASSERT(fd >= 0);
    if (kvm->event_count >= KVM_IOEVENTFD_COUNT_MAX) {
        return error_set(err, KELPIE_BUSY, "a VM has at most %d kick descriptors",
                         KVM_IOEVENTFD_COUNT_MAX);
    }
    kvm->events[kvm->event_count++] = (struct kvm_event){
        .gpa = gpa, .has_match = match != NULL, .match = match ? *match : 0, .fd = fd};
    return KELPIE_OK;
}

/* Section 4.75. KVM looks whether the descriptor was written already. */
static enum kelpie_status connect_irq(struct kvm *kvm, struct kvm_irq *irq,
                                      struct kelpie_error *err) {
    ASSERT(kvm->vm_fd >= 0);
    ASSERT(!irq->connected);
    struct kvm_irqfd request = {.fd = (uint32_t)irq->fd, .gsi = irq->gsi};
    int result = kvm_ioctl(kvm->vm_fd, KVM_IRQFD, &request);
    if (result < 0) {
        return error_set_os(err, -result, "KVM refused a descriptor for interrupt %u", irq->gsi);
    }
    irq->connected = true;
    return KELPIE_OK;
}

/* Section 4.59. */
static enum kelpie_status connect_event(struct kvm *kvm, struct kvm_event *event,
                                        struct kelpie_error *err) {
    ASSERT(kvm->vm_fd >= 0);
    ASSERT(!event->connected);
    struct kvm_ioeventfd request = {
        .addr = event->gpa,
        .len = 4,
        .fd = event->fd,
        .datamatch = event->match,
        .flags = event->has_match ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0,
    };
    int result = kvm_ioctl(kvm->vm_fd, KVM_IOEVENTFD, &request);
    if (result < 0) {
        return error_set_os(err, -result, "KVM refused a kick descriptor at %#llx",
                            (unsigned long long)event->gpa);
    }
    event->connected = true;
    return KELPIE_OK;
}

enum kelpie_status kvm_connect(struct kvm *kvm, struct kelpie_error *err) {
    ASSERT(kvm && kvm->vm_fd >= 0);
    ASSERT(kvm->event_count <= KVM_IOEVENTFD_COUNT_MAX);
    for (size_t i = 0; i < kvm->irq_count; i++) {
        if (!kvm->irqs[i].connected) {
            TRY(connect_irq(kvm, &kvm->irqs[i], err));
        }
    }
    for (size_t i = 0; i < kvm->event_count; i++) {
        if (!kvm->events[i].connected) {
            TRY(connect_event(kvm, &kvm->events[i], err));
        }
    }
    return KELPIE_OK;
}

/* ---- the dirty log ------------------------------------------------------------------------------ */

size_t kvm_dirty_word_count(const struct kvm *kvm) {
    ASSERT(kvm && kvm->memory);
    ASSERT(kvm->memory->size % VMM_PAGE_SIZE == 0);
    uint64_t pages = kvm->memory->size / VMM_PAGE_SIZE;
    return (size_t)((pages + PAGES_IN_WORD - 1) / PAGES_IN_WORD);
}

enum kelpie_status kvm_dirty_start(struct kvm *kvm, struct kelpie_error *err) {
    ASSERT(kvm && kvm->vm_fd >= 0);
    ASSERT(!kvm->dirty_started);
    TRY(set_slots(kvm, KVM_MEM_LOG_DIRTY_PAGES, err));
    kvm->dirty_started = true;
    return KELPIE_OK;
}

/* Section 4.8: KVM's bitmap of a slot begins with the slot. Regions begin at whole words of ours. */
enum kelpie_status kvm_dirty_fetch(struct kvm *kvm, uint64_t *bitmap, size_t word_count,
                                   struct kelpie_error *err) {
    ASSERT(kvm && kvm->dirty_started);
    ASSERT(bitmap && word_count == kvm_dirty_word_count(kvm));
    for (uint32_t i = 0; i < kvm->memory->region_count; i++) {
        uint64_t first_page = kvm->memory->regions[i].offset / VMM_PAGE_SIZE;
        ASSERT(first_page % PAGES_IN_WORD == 0);
        struct kvm_dirty_log log = {.slot = i, .dirty_bitmap = bitmap + first_page / PAGES_IN_WORD};
        int result = kvm_ioctl(kvm->vm_fd, KVM_GET_DIRTY_LOG, &log);
        if (result < 0) {
            return error_set_os(err, -result, "KVM does not say which pages were written");
        }
    }
    return KELPIE_OK;
}

enum kelpie_status kvm_dirty_stop(struct kvm *kvm, struct kelpie_error *err) {
    ASSERT(kvm && kvm->vm_fd >= 0);
    ASSERT(kvm->dirty_started);
    TRY(set_slots(kvm, 0, err));
    kvm->dirty_started = false;
    return KELPIE_OK;
}
