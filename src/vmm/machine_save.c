/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Writing a machine to files. machine_load.c reads it back. */
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/checked.h"
#include "vmm/machine.h"

#define PIECE_SIZE_MAX (8u << 20)
#define ZERO_STEP 128             /* bytes looked at at once */
#define WRITE_SIZE_MAX (1u << 20) /* bytes of memory in one system call */

/* ---- Files ------------------------------------------------------------------------------------ */

enum kelpie_status machine_write_file(int fd, const void *data, size_t size, uint64_t offset,
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
    /* By words, of which the compiler makes vectors: not every library's memcmp does. */
    for (size_t i = 0; i < VMM_PAGE_SIZE; i += ZERO_STEP) {
        uint64_t words[ZERO_STEP / sizeof(uint64_t)];
        uint64_t any = 0;
        memcpy(words, page + i, sizeof(words));
        for (size_t j = 0; j < ARRAY_SIZE(words); j++) {
            any |= words[j];
        }
        if (any != 0) {
            return false;
        }
    }
    return true;
}

uint64_t machine_page_run(const struct machine *machine, uint64_t offset, uint64_t limit,
                          bool *ret_zero) {
    const uint8_t *host = machine->memory.host;
    ASSERT(offset < limit && limit <= machine->memory.size);
    ASSERT(offset % VMM_PAGE_SIZE == 0);
    *ret_zero = page_is_zero(host + offset);
    uint64_t end = offset + VMM_PAGE_SIZE;
    while (end < limit && page_is_zero(host + end) == *ret_zero) {
        end += VMM_PAGE_SIZE;
    }
    return end;
}

/* The next piece of memory that may hold anything but zeros. A shared mapping's file has holes where nobody wrote: they
 * are not even looked at, for a look through the mapping would fill them. A private one has bytes of its own above
 * its file, so all of it counts. */
static enum kelpie_status next_data(const struct machine *machine, uint64_t offset,
                                    uint64_t *ret_start, uint64_t *ret_end,
                                    struct kelpie_error *err) {
    ASSERT(offset < machine->memory.size);
    ASSERT(ret_start && ret_end);
    *ret_start = offset;
    *ret_end = machine->memory.size;
    if (machine->memory_fd < 0) {
        return KELPIE_OK;
    }
    off_t start = lseek(machine->memory_fd, (off_t)offset, SEEK_DATA);
    if (start < 0 && errno == ENXIO) {
        *ret_start = machine->memory.size;
        return KELPIE_OK;
    }
    off_t end = start < 0 ? start : lseek(machine->memory_fd, start, SEEK_HOLE);
    if (end < 0) {
        return error_set_os(err, errno, "cannot find the memory's data");
    }
    *ret_start = (uint64_t)start / VMM_PAGE_SIZE * VMM_PAGE_SIZE;
    *ret_end = min_u64(machine->memory.size,
                       ((uint64_t)end + VMM_PAGE_SIZE - 1) / VMM_PAGE_SIZE * VMM_PAGE_SIZE);
    return KELPIE_OK;
}

/* All page tables of a piece at once, where the kernel can: that takes a tenth of as many faults. Never a piece with holes,
 * which it would fill. */
static void map_ahead(const struct machine *machine, uint64_t start, uint64_t end) {
    ASSERT(start < end);
    ASSERT(end <= machine->memory.size);
    (void)!madvise(machine->memory.host + start, (size_t)(end - start), MADV_POPULATE_READ);
}

/* Zero pages are holes. */
static enum kelpie_status save_piece(const struct machine *machine, int fd, uint64_t start,
                                     uint64_t end, struct kelpie_error *err) {
    ASSERT(start <= end);
    ASSERT(end <= machine->memory.size);
    while (start < end) {
        bool zero = false;
        uint64_t run =
            machine_page_run(machine, start, min_u64(end, start + WRITE_SIZE_MAX), &zero);
        if (!zero) {
            TRY(machine_write_file(fd, machine->memory.host + start, (size_t)(run - start), start,
                                   err));
        }
        start = run;
    }
    return KELPIE_OK;
}

/* Memory on its way to a file: what the threads that write it share. `lock` guards all but the first three. */
struct memory_save {
    struct machine *machine;
    int fd;
    pthread_mutex_t lock;
    uint64_t next; /* [next, data_end) holds data that nobody has taken */
    uint64_t data_end;
    enum kelpie_status status; /* the first failure */
    struct kelpie_error error;
};

static void note_failure(struct memory_save *save, enum kelpie_status status,
                         const struct kelpie_error *failure) {
    ASSERT(status != KELPIE_OK);
    pthread_mutex_lock(&save->lock);
    if (save->status == KELPIE_OK) {
        save->status = status;
        save->error = *failure;
    }
    pthread_mutex_unlock(&save->lock);
    ASSERT(save->status != KELPIE_OK);
}

/* With the lock. False: there is none left, or something failed. One search finds the end of what may be many pieces: it
 * takes a look at every page. */
static bool find_piece(struct memory_save *save, uint64_t *ret_start, uint64_t *ret_end) {
    const uint64_t size = save->machine->memory.size;
    ASSERT(save->next <= save->data_end);
    ASSERT(save->data_end <= size);
    if (save->status == KELPIE_OK && save->next == save->data_end && save->next < size) {
        save->status =
            next_data(save->machine, save->next, &save->next, &save->data_end, &save->error);
    }
    if (save->status != KELPIE_OK || save->next == size) {
        return false;
    }
    *ret_start = save->next;
    *ret_end = min_u64(save->data_end, save->next + PIECE_SIZE_MAX);
    save->next = *ret_end;
    return true;
}

/* In each of the threads. */
static void save_pieces(void *context) {
    struct memory_save *save = context;
    uint64_t start = 0;
    uint64_t end = 0;
    ASSERT(save->fd >= 0);
    for (;;) {
        pthread_mutex_lock(&save->lock);
        bool found = find_piece(save, &start, &end);
        pthread_mutex_unlock(&save->lock);
        if (!found) {
            return;
        }
        ASSERT(start < end);
        map_ahead(save->machine, start, end);
        struct kelpie_error failure = {0};
        enum kelpie_status status = save_piece(save->machine, save->fd, start, end, &failure);
        if (status != KELPIE_OK) {
            note_failure(save, status, &failure);
        }
    }
}

/* The vCPUs' threads, which have nothing else to do, help: what takes time is the kernel's copying. */
static enum kelpie_status save_memory(struct machine *machine, int fd, struct kelpie_error *err) {
    ASSERT(machine->memory.host);
    ASSERT(machine->memory.size % VMM_PAGE_SIZE == 0);
    machine->memory_was_read = true;
    if (ftruncate(fd, (off_t)machine->memory.size) < 0) {
        return error_set_os(err, errno, "cannot size the bundle's memory");
    }
    struct memory_save save = {
        .machine = machine, .fd = fd, .lock = PTHREAD_MUTEX_INITIALIZER, .status = KELPIE_OK};
    vcpu_threads_lend(&machine->threads, save_pieces, &save);
    pthread_mutex_destroy(&save.lock);
    if (save.status != KELPIE_OK && err) {
        *err = save.error;
    }
    return save.status;
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
    return machine_write_file(fd, buffer, size, 0, err);
}

static enum kelpie_status save_state_file(struct machine *machine, int fd,
                                          struct kelpie_error *err) {
    ASSERT(machine->vcpus);
    ASSERT(fd >= 0);
    void *buffer = mmap(NULL, VMM_STATE_SIZE_MAX, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (buffer == MAP_FAILED) {
        return error_set_os(err, errno, "cannot get memory for the machine's state");
    }
    enum kelpie_status status = save_state(machine, fd, buffer, err);
    munmap(buffer, VMM_STATE_SIZE_MAX);
    return status;
}

enum kelpie_status machine_save(struct machine *machine, struct machine_files *files,
                                struct kelpie_error *err) {
    ASSERT(machine->vcpus);
    ASSERT(files);
    TRY(machine_file_check(files, CONTROL_ROLE_STATE, err));
    TRY(save_state_file(machine, files->fds[CONTROL_ROLE_STATE], err));
    if (files->fds[CONTROL_ROLE_PAGES_0] >= 0) {
        return machine_save_diff(machine, files, err);
    }
    if (files->fds[CONTROL_ROLE_MEMORY] < 0) {
        return KELPIE_OK;
    }
    TRY(save_memory(machine, files->fds[CONTROL_ROLE_MEMORY], err));
    return machine_changes_reset(machine, err);
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
    machine->memory_was_read = true; /* or its page tables are to be empty: the same to who asks */
    TRY(machine_map_memory(machine, fd, MAP_PRIVATE, err));
    if (machine->memory_fd >= 0) {
        close(machine->memory_fd);
    }
    machine->memory_fd = -1;
    machine->balloon.options.memory_is_shared = false;
    return KELPIE_OK;
}
