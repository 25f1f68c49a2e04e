/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* A machine that goes on from files. */
#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "vmm/machine.h"

enum kelpie_status machine_read_file(int fd, void *buffer, size_t size, uint64_t offset,
                                     struct kelpie_error *err) {
    ASSERT(fd >= 0);
    ASSERT(buffer);
    for (size_t done = 0; done < size;) {
        ssize_t count = pread(fd, (uint8_t *)buffer + done, size - done, (off_t)(offset + done));
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count <= 0) {
            return error_set_os(err, count < 0 ? errno : EIO, "cannot read %zu bytes of the bundle",
                                size);
        }
        done += (size_t)count;
    }
    return KELPIE_OK;
}

/* The order matters: a clock counts with TSCs, and CPUID comes before MSRs (vcpu_state_load). */
enum kelpie_status machine_load_sections(struct machine *machine, struct state_reader *state,
                                         struct kelpie_error *err) {
    ASSERT(machine->vcpu_count > 0);
    ASSERT(machine->transport_count > 0);
    for (size_t i = 0; i < machine->vcpu_count; i++) {
        TRY(vcpu_state_load(&machine->vcpus[i], state, err));
    }
    TRY(kvm_state_load(&machine->kvm, state, err));
    TRY(serial_load(&machine->serial, state, 0, err));
    TRY(reset_load(&machine->reset, state, err));
    for (size_t i = 0; i < machine->transport_count; i++) {
        TRY(virtio_mmio_load(&machine->transports[i], state, (uint16_t)i, err));
    }
    return state_reader_finish(state, err);
}

static enum kelpie_status load_state(struct machine *machine, int fd, void *buffer, size_t size,
                                     struct kelpie_error *err) {
    ASSERT(buffer);
    ASSERT(size > 0);
    static struct state_reader state; /* large; used once in a process */
    TRY(machine_read_file(fd, buffer, size, 0, err));
    TRY(state_reader_init(&state, buffer, size, err));
    return machine_load_sections(machine, &state, err);
}

/* What the driver offered before the save and the device had not taken yet. */
static void kick_everything(struct machine *machine) {
    ASSERT(machine->kick_count > 0);
    ASSERT(machine->kick_count <= MACHINE_KICK_COUNT_MAX);
    machine_lock(machine);
    for (size_t i = 0; i < machine->kick_count; i++) {
        virtio_mmio_notify(machine->kicks[i].transport, machine->kicks[i].queue_index);
    }
    machine_unlock(machine);
}

/* The guest's kernel learns that it is another machine now (VMGenID), as soon as it runs. */
static enum kelpie_status change_generation(struct machine *machine, struct kelpie_error *err) {
    ASSERT(machine->irq_fds[VMM_GENERATION_GSI] >= 0);
    ASSERT(machine->memory.host);
    const uint64_t one = 1;
    if (!memory_write(&machine->memory, VMM_GENERATION_GPA, machine->config.generation,
                      sizeof(machine->config.generation)) ||
        write(machine->irq_fds[VMM_GENERATION_GSI], &one, sizeof(one)) != sizeof(one)) {
        return error_set(err, KELPIE_RESTORE_FAILED, "cannot change the machine's generation");
    }
    return KELPIE_OK;
}

/* Before anything is made. */
static enum kelpie_status check_state(int state_fd, size_t *ret_size, struct kelpie_error *err) {
    struct stat info;
    ASSERT(state_fd >= 0);
    ASSERT(ret_size);
    if (fstat(state_fd, &info) < 0) {
        return error_set_os(err, errno, "cannot look at the machine's state");
    }
    if (info.st_size <= 0 || info.st_size > VMM_STATE_SIZE_MAX) {
        return error_set_field(err, KELPIE_SNAPSHOT_CORRUPT, "state", "the state's size cannot be");
    }
    *ret_size = (size_t)info.st_size;
    return KELPIE_OK;
}

static enum kelpie_status load_file(struct machine *machine, int state_fd, size_t size,
                                    struct kelpie_error *err) {
    ASSERT(machine->prepared);
    ASSERT(size > 0 && size <= VMM_STATE_SIZE_MAX);
    void *buffer =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (buffer == MAP_FAILED) {
        return error_set_os(err, errno, "cannot get memory for the machine's state");
    }
    enum kelpie_status status = load_state(machine, state_fd, buffer, size, err);
    munmap(buffer, size);
    return status;
}

enum kelpie_status machine_load(struct machine *machine, const struct control_machine *config,
                                struct machine_files *files, struct kelpie_error *err) {
    ASSERT(machine && config);
    ASSERT(files);
    size_t state_size = 0;
    const bool confined = machine->prepared; /* since then */
    TRY(machine_file_check(files, CONTROL_ROLE_STATE, err));
    TRY(check_state(files->fds[CONTROL_ROLE_STATE], &state_size, err));
    TRY(machine_build(machine, config, files, MAP_PRIVATE, err));
    TRY(machine_load_layers(machine, files, err));
    if (config->note && !confined) {
        machine_note_exactly(machine);
    }
    machine_prefetch(machine, files);
    machine->changes.complete = true; /* from here on, devices may write */
    TRY(load_file(machine, files->fds[CONTROL_ROLE_STATE], state_size, err));
    TRY(kvm_connect(&machine->kvm, err));
    kick_everything(machine);
    TRY(change_generation(machine, err));
    machine->ready_ns = machine_now_ns();
    return KELPIE_OK;
}
