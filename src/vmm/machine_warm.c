/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * THEORY OF OPERATION
 *
 * The first KVM_RUN of a vCPU takes 70 microseconds more than the second, where KVM is nested: it makes the tables
 * that translate the guest's memory. The first load of a state is slower than the second as well: pages of this program, of
 * stacks and of the kernel are touched for the first time. A prepared machine has that behind it: its first vCPU has
 * run a few instructions in memory that is thrown away, and the state that it had before has been saved and
 * loaded again. So nothing is left of the rehearsal.
 */
#include <sys/mman.h>
#include <time.h>

#include "base/assert.h"
#include "vmm/boot/boot.h"
#include "vmm/machine.h"

#define REHEARSAL_GPA 0x100000ull
#define REHEARSAL_PORT 0x80     /* what PCs use to say how far they are; nobody answers it here */
#define REHEARSAL_WAIT_MAX 2000 /* of 10 microseconds each */
#define REHEARSAL_STATE_SIZE_MAX (1u << 20)

/* 1: out %al, $0x80; jmp 1b */
static const uint8_t code[] = {0xe6, REHEARSAL_PORT, 0xeb, 0xfc};

/* Until the first exit, or not much longer than one takes: a guest that is slower is only not warm. */
static void await_exit(const struct vcpu *vcpu) {
    const struct timespec moment = {.tv_nsec = 10000};
    ASSERT(vcpu);
    ASSERT(REHEARSAL_WAIT_MAX > 0);
    for (int i = 0; i < REHEARSAL_WAIT_MAX && vcpu_first_exit_ns(vcpu) == 0; i++) {
        clock_nanosleep(CLOCK_MONOTONIC, 0, &moment, NULL);
    }
}

static enum kelpie_status run(struct machine *machine, struct kelpie_error *err) {
    struct vcpu *vcpu = &machine->vcpus[0];
    struct boot_entry entry = {0};
    ASSERT(machine->prepared);
    ASSERT(vcpu_first_exit_ns(vcpu) == 0);
    const struct boot_image image = {.kernel = {code, sizeof(code)},
                                     .raw_load_gpa = REHEARSAL_GPA,
                                     .raw_entry_gpa = REHEARSAL_GPA};
    TRY(boot_load(&machine->memory, &image, &entry, err));
    const struct vcpu_boot registers = {
        .rip = entry.rip, .rsi = entry.rsi, .cr3 = BOOT_PML4_GPA, .gdt = BOOT_GDT_GPA};
    TRY(vcpu_boot(vcpu, &registers, err));
    TRY(vcpu_threads_resume(&machine->threads, err));
    await_exit(vcpu);
    TRY(vcpu_threads_pause(&machine->threads, err));
    vcpu_forget_first_exit(vcpu);
    return KELPIE_OK;
}

static enum kelpie_status rehearse(struct machine *machine, void *buffer,
                                   struct kelpie_error *err) {
    struct state_writer writer;
    static struct state_reader reader; /* large; used once in a process */
    size_t size = 0;
    ASSERT(machine->prepared);
    ASSERT(buffer);
    state_writer_init(&writer, buffer, REHEARSAL_STATE_SIZE_MAX);
    TRY(machine_save_sections(machine, &writer, err));
    TRY(state_writer_finish(&writer, &size, err));
    TRY(run(machine, err));
    TRY(state_reader_init(&reader, buffer, size, err));
    TRY(machine_load_sections(machine, &reader, err));
    for (size_t i = 0; i < machine->vcpu_count; i++) {
        vcpu_refresh(&machine->vcpus[i]);
    }
    return KELPIE_OK;
}

enum kelpie_status machine_warm_up(struct machine *machine, struct kelpie_error *err) {
    ASSERT(machine->prepared);
    ASSERT(machine->threads_started);
    void *buffer = mmap(NULL, REHEARSAL_STATE_SIZE_MAX, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (buffer == MAP_FAILED) {
        return error_set(err, KELPIE_NO_MEMORY, "there is no memory to rehearse a load");
    }
    enum kelpie_status status = rehearse(machine, buffer, err);
    int result = munmap(buffer, REHEARSAL_STATE_SIZE_MAX);
    ASSERT(result == 0);
    return status;
}
