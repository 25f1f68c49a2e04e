/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* A simulated machine's files and faults, as others see them. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/error.h"
#include "sim/kelpie_sim_internal.h"

static_assert(KELPIE_SIM_PPM == SIM_PPM, "a rate is a rate");
static_assert(KELPIE_SIM_FAULT_COUNT_MAX >= SIM_FAULT_COUNT, "there is room for each");
static_assert(KELPIE_SIM_THREAD_NAME_SIZE_MAX == HOST_THREAD_NAME_SIZE_MAX, "as the host's");
static_assert(KELPIE_SIM_STACK_SIZE <= SIM_STACK_SIZE, "at least what is promised");

/* ---- Files ------------------------------------------------------------------------------------ */

static enum kelpie_status check_path(const char *path, struct kelpie_error *err) {
    if (!path || path[0] != '/' || strlen(path) > HOST_PATH_SIZE_MAX) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "path",
                               "a simulated file has an absolute path");
    }
    ASSERT(path[0] == '/');
    return KELPIE_OK;
}

/* The folders above a path, each on the disk. Returns 0 or an errno. */
static int make_folders(struct sim_fs *fs, const char *path) {
    char folder[HOST_PATH_SIZE_MAX + 1];
    char above[HOST_PATH_SIZE_MAX + 1] = "/";
    ASSERT(strlen(path) < sizeof(folder));
    snprintf(folder, sizeof(folder), "%s", path);
    for (char *slash = strchr(folder + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        int os_error = sim_fs_mkdir(fs, folder, 0755);
        if (os_error != 0 && os_error != EEXIST) {
            return os_error;
        }
        sim_fs_sync_folder(fs, above);
        snprintf(above, sizeof(above), "%s", folder);
        *slash = '/';
    }
    ASSERT(folder[0] == '/');
    return 0;
}

static int write_file(struct sim_fs *fs, const char *path, const void *data, size_t size) {
    const uint32_t flags = HOST_OPEN_READ | HOST_OPEN_WRITE | HOST_OPEN_CREATE;
    struct sim_inode *inode = NULL;
    char folder[HOST_PATH_SIZE_MAX + 1];
    int os_error = make_folders(fs, path);
    os_error = os_error != 0 ? os_error : sim_fs_open(fs, path, flags, 0644, &inode);
    if (os_error != 0) {
        return os_error;
    }
    os_error = sim_inode_truncate(inode, 0);
    os_error = os_error == 0 && size > 0 ? sim_inode_write(inode, data, size, 0) : os_error;
    sim_inode_sync(inode);
    sim_inode_release(inode);
    snprintf(folder, sizeof(folder), "%s", path);
    char *slash = strrchr(folder, '/');
    ASSERT(slash);
    slash[slash == folder ? 1 : 0] = '\0';
    sim_fs_sync_folder(fs, folder);
    ASSERT(os_error >= 0);
    return os_error;
}

enum kelpie_status kelpie_sim_file_write(struct kelpie_sim *sim, const char *path, const void *data,
                                         size_t size, struct kelpie_error *err) {
    sim_api_check(sim);
    ASSERT(data || size == 0);
    TRY(check_path(path, err));
    if (size > KELPIE_SIM_FILE_SIZE_MAX) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "size", "it is more than %d bytes",
                               KELPIE_SIM_FILE_SIZE_MAX);
    }
    int os_error = write_file(sim->machine->fs, path, data, size);
    return os_error == 0
               ? KELPIE_OK
               : error_set_os(err, os_error, "cannot write the simulated file %.200s", path);
}

static int read_file(struct sim_inode *inode, char **ret_data, size_t *ret_size) {
    struct host_file_info info;
    sim_inode_stat(inode, &info);
    ASSERT(ret_data && ret_size);
    if (info.type != HOST_FILE_REGULAR) {
        return EISDIR;
    }
    if (info.size > KELPIE_SIM_FILE_SIZE_MAX) {
        return EFBIG;
    }
    char *data = calloc(1, info.size + 1);
    size_t size = 0;
    int os_error = data ? sim_inode_read(inode, data, info.size, 0, &size) : ENOMEM;
    if (os_error != 0) {
        free(data);
        return os_error;
    }
    ASSERT(size <= info.size);
    *ret_data = data;
    *ret_size = size;
    return 0;
}

enum kelpie_status kelpie_sim_file_read(struct kelpie_sim *sim, const char *path, char **ret_data,
                                        size_t *ret_size, struct kelpie_error *err) {
    sim_api_check(sim);
    ASSERT(ret_data && ret_size);
    TRY(check_path(path, err));
    struct sim_inode *inode = NULL;
    int os_error = sim_fs_open(sim->machine->fs, path, HOST_OPEN_READ, 0, &inode);
    if (os_error == 0) {
        os_error = read_file(inode, ret_data, ret_size);
        sim_inode_release(inode);
    }
    return os_error == 0
               ? KELPIE_OK
               : error_set_os(err, os_error, "cannot read the simulated file %.200s", path);
}

/* ---- Faults ----------------------------------------------------------------------------------- */

size_t kelpie_sim_fault_list(struct kelpie_sim_fault *faults, size_t capacity) {
    ASSERT(faults || capacity == 0);
    for (size_t i = 0; i < SIM_FAULT_COUNT && i < capacity; i++) {
        const struct sim_fault_info *info = sim_fault_info((enum sim_fault)i);
        faults[i] = (struct kelpie_sim_fault){
            .name = info->name, .where = info->where, .what = info->what, .expect = info->expect};
        ASSERT(faults[i].name);
    }
    return SIM_FAULT_COUNT;
}

static enum kelpie_status find_fault(const char *name, enum sim_fault *ret_fault,
                                     struct kelpie_error *err) {
    enum sim_fault fault = sim_fault_find(name ? name : "");
    ASSERT(ret_fault);
    if (fault == SIM_FAULT_COUNT) {
        return error_set_field(err, KELPIE_NOT_FOUND, "name", "there is no fault \"%.40s\"",
                               name ? name : "");
    }
    ASSERT((unsigned)fault < SIM_FAULT_COUNT);
    *ret_fault = fault;
    return KELPIE_OK;
}

static enum kelpie_status check_rate(uint32_t rate_ppm, struct kelpie_error *err) {
    ASSERT(KELPIE_SIM_PPM > 0);
    return rate_ppm <= KELPIE_SIM_PPM
               ? KELPIE_OK
               : error_set_field(err, KELPIE_BAD_CONFIG, "rate_ppm", "%u is more than %u", rate_ppm,
                                 KELPIE_SIM_PPM);
}

void sim_api_draw(struct kelpie_sim *sim, uint32_t intensity_ppm) {
    struct sim_faults *faults = &sim->world->faults;
    ASSERT(intensity_ppm <= KELPIE_SIM_PPM);
    sim_faults_draw(faults, intensity_ppm);
    if (!sim->owner_faults) {
        faults->ppm[SIM_FAULT_OWNER_KILLED] = 0;
        faults->ppm[SIM_FAULT_MACHINE_CRASHES] = 0;
    }
    ASSERT(!faults->quiet);
}

enum kelpie_status kelpie_sim_faults_draw(struct kelpie_sim *sim, uint32_t intensity_ppm,
                                          struct kelpie_error *err) {
    sim_api_check(sim);
    ASSERT(sim->world);
    TRY(check_rate(intensity_ppm, err));
    sim_api_draw(sim, intensity_ppm);
    return KELPIE_OK;
}

enum kelpie_status kelpie_sim_fault_set(struct kelpie_sim *sim, const char *name, uint32_t rate_ppm,
                                        struct kelpie_error *err) {
    enum sim_fault fault = SIM_FAULT_COUNT;
    sim_api_check(sim);
    TRY(find_fault(name, &fault, err));
    TRY(check_rate(rate_ppm, err));
    sim->world->faults.ppm[fault] = rate_ppm;
    return KELPIE_OK;
}

/* By rates alone, so that they can be set again. */
void kelpie_sim_faults_quiet(struct kelpie_sim *sim) {
    struct sim_faults *faults = &sim->world->faults;
    sim_api_check(sim);
    sim_world_quiet(sim->world);
    memset(faults->ppm, 0, sizeof(faults->ppm));
    ASSERT(faults->quiet);
    faults->quiet = false;
}

enum kelpie_status kelpie_sim_fault_counts(const struct kelpie_sim *sim, const char *name,
                                           struct kelpie_sim_fault_counts *ret_counts,
                                           struct kelpie_error *err) {
    enum sim_fault fault = SIM_FAULT_COUNT;
    sim_api_check(sim);
    ASSERT(ret_counts);
    TRY(find_fault(name, &fault, err));
    *ret_counts = (struct kelpie_sim_fault_counts){
        .rate_ppm = sim->world->faults.ppm[fault],
        .asked = sim->world->faults.asked[fault],
        .fired = sim->world->faults.fired[fault],
    };
    return KELPIE_OK;
}
