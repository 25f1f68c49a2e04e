/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Writing a machine to files. machine_load.c reads it back. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/checked.h"
#include "vmm/machine.h"

#define WRITE_SIZE_MAX (1u << 20) /* bytes of memory in one system call */

/* ---- Files ------------------------------------------------------------------------------------ */

static enum kelpie_status write_all(int fd, const void *data, size_t size, uint64_t offset,
                                    struct kelpie_error *err) {
    ASSERT(fd >= 0);
    ASSERT(data || size == 0);
    for (size_t done = 0; done < size;) {
        ssize_t count =
            pwrite(fd, (const uint8_t *)data + done, size - done, (off_t)(offset + done));
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count <= 0) {
            return error_set_os(err, count < 0 ? errno : ENOSPC, "cannot write %zu bytes", size);
        }
        done += (size_t)count;
    }
    return KELPIE_OK;
}

/* ---- Memory ----------------------------------------------------------------------------------- */

static bool page_is_zero(const uint8_t *page) {
    ASSERT(page);
    ASSERT((uintptr_t)page % VMM_PAGE_SIZE == 0);
    /* memcmp with itself, shifted by one word: as fast as the library can compare. */
    uint64_t first = 0;
    memcpy(&first, page, sizeof(first));
    return first == 0 && memcmp(page, page + sizeof(first), VMM_PAGE_SIZE - sizeof(first)) == 0;
}

/* The run of pages that are all zero, or all not, from offset on: its end, at most offset + WRITE_SIZE_MAX. */
static uint64_t run_end(const struct machine *machine, uint64_t offset, bool *ret_zero) {
    const uint8_t *host = machine->memory.host;
    uint64_t limit = min_u64(machine->memory.size, offset + WRITE_SIZE_MAX);
    ASSERT(offset < limit);
    ASSERT(offset % VMM_PAGE_SIZE == 0);
    *ret_zero = page_is_zero(host + offset);
    uint64_t end = offset + VMM_PAGE_SIZE;
    while (end < limit && page_is_zero(host + end) == *ret_zero) {
        end += VMM_PAGE_SIZE;
    }
    return end;
}

/* Zero pages are holes. */
static enum kelpie_status save_memory(const struct machine *machine, int fd,
                                      struct kelpie_error *err) {
    ASSERT(machine->memory.host);
    ASSERT(machine->memory.size % VMM_PAGE_SIZE == 0);
    if (ftruncate(fd, (off_t)machine->memory.size) < 0) {
        return error_set_os(err, errno, "cannot size the bundle's memory");
    }
    for (uint64_t offset = 0; offset < machine->memory.size;) {
        bool zero = false;
        uint64_t end = run_end(machine, offset, &zero);
        if (!zero) {
            TRY(write_all(fd, machine->memory.host + offset, (size_t)(end - offset), offset, err));
        }
        offset = end;
    }
    return KELPIE_OK;
}

/* ---- State ------------------------------------------------------------------------------------ */

enum kelpie_status machine_save_sections(struct machine *machine, struct state_writer *state,
                                         struct kelpie_error *err) {
    ASSERT(machine->vcpu_count > 0);
    ASSERT(machine->transport_count > 0);
    for (size_t i = 0; i < machine->vcpu_count; i++) {
        TRY(vcpu_state_save(&machine->vcpus[i], state, err));
    }
    TRY(kvm_state_save(&machine->kvm, state, err));
    machine_lock(machine);
    serial_save(&machine->serial, state, 0);
    reset_save(&machine->reset, state);
    for (size_t i = 0; i < machine->transport_count; i++) {
        virtio_mmio_save(&machine->transports[i], state, (uint16_t)i);
    }
    machine_unlock(machine);
    return KELPIE_OK;
}

static enum kelpie_status save_state(struct machine *machine, int fd, void *buffer,
                                     struct kelpie_error *err) {
    ASSERT(buffer);
    ASSERT(fd >= 0);
    struct state_writer state;
    size_t size = 0;
    state_writer_init(&state, buffer, VMM_STATE_SIZE_MAX);
    TRY(machine_save_sections(machine, &state, err));
    TRY(state_writer_finish(&state, &size, err));
    return write_all(fd, buffer, size, 0, err);
}

enum kelpie_status machine_save(struct machine *machine, int state_fd, int memory_fd,
                                struct kelpie_error *err) {
    ASSERT(machine->vcpus);
    ASSERT(state_fd >= 0);
    void *buffer = mmap(NULL, VMM_STATE_SIZE_MAX, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (buffer == MAP_FAILED) {
        return error_set_os(err, errno, "cannot get memory for the machine's state");
    }
    enum kelpie_status status = save_state(machine, state_fd, buffer, err);
    munmap(buffer, VMM_STATE_SIZE_MAX);
    return status == KELPIE_OK && memory_fd >= 0 ? save_memory(machine, memory_fd, err) : status;
}

enum kelpie_status machine_seal(struct machine *machine, struct machine_files *files,
                                struct kelpie_error *err) {
    ASSERT(machine->vcpus);
    ASSERT(files);
    int fd = files->fds[CONTROL_ROLE_MEMORY];
    if (fd >= 0) {
        TRY(save_memory(machine, fd, err));
    } else if (machine->memory_fd < 0) {
        return error_set(err, KELPIE_INTERNAL, "the machine's memory is private already");
    } else {
        fd = machine->memory_fd;
    }
    TRY(machine_map_memory(machine, fd, MAP_PRIVATE, err));
    if (machine->memory_fd >= 0) {
        close(machine->memory_fd);
    }
    machine->memory_fd = -1;
    machine->balloon.options.memory_is_shared = false;
    return KELPIE_OK;
}
