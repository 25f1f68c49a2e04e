/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "cli/doctor_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "cli/output.h"

/* Where programs lie that no shell finds: a user's PATH has no sbin. */
#define MORE_FOLDERS ":/usr/sbin:/sbin"
#define PATH_SIZE_MAX 16384

static const struct {
    const char *name;
    const char *variable; /* that names another program; or NULL */
    const char *purpose;
    const char *install;
} programs[] = {
    {"mkfs.ext4", NULL, "folders as disks, disks over images", "install e2fsprogs"},
    {"passt", "KELPIE_PASST", "networks of kind user", "install passt"},
};

/* The first file of that name in the folders of `path` that can be executed. */
static bool find_in(const char *path, const char *name, char *found, size_t size) {
    ASSERT(path);
    ASSERT(name);
    ASSERT(size > 0);
    while (*path != 0) {
        size_t length = strcspn(path, ":");
        int needed = snprintf(found, size, "%.*s/%s", (int)length, path, name);
        if (length > 0 && needed > 0 && (size_t)needed < size && access(found, X_OK) == 0) {
            return true;
        }
        path += path[length] == ':' ? length + 1 : length;
    }
    return false;
}

static struct doctor_part find_program(size_t index) {
    ASSERT(index < ARRAY_SIZE(programs));
    struct doctor_part part = {.name = programs[index].name,
                               .purpose = programs[index].purpose,
                               .install = programs[index].install};
    const char *chosen = programs[index].variable ? getenv(programs[index].variable) : NULL;
    const char *path = getenv("PATH");
    char folders[PATH_SIZE_MAX];
    snprintf(folders, sizeof(folders), "%s%s", path ? path : "", MORE_FOLDERS);
    if (chosen && strchr(chosen, '/')) {
        snprintf(part.detail, sizeof(part.detail), "%s", chosen);
        part.present = access(chosen, X_OK) == 0;
    } else {
        part.present =
            find_in(folders, chosen ? chosen : part.name, part.detail, sizeof(part.detail));
    }
    if (!part.present) {
        snprintf(part.detail, sizeof(part.detail), "not found");
    }
    ASSERT(part.detail[0] != 0);
    return part;
}

/* Folders of VMs, snapshots and sockets: listing what is there checks, and makes, them all. */
static struct doctor_part find_store(void) {
    struct doctor_part part = {.name = "store",
                               .purpose = "VMs that outlive the command, snapshots"};
    struct kelpie_error err;
    struct kelpie_vm_info *list = NULL;
    size_t count = 0;
    char path[KELPIE_PATH_SIZE_MAX + 1];
    part.present = kelpie_vm_list(NULL, &list, &count, &err) == KELPIE_OK &&
                   kelpie_snapshot_path(NULL, "x", path, sizeof(path), &err) == KELPIE_OK;
    ASSERT(list || count == 0);
    kelpie_list_free(list);
    if (!part.present) {
        snprintf(part.detail, sizeof(part.detail), "%.500s", err.message);
        return part;
    }
    /* Two names above a snapshot is the folder of it all. */
    for (size_t i = 0; i < 2; i++) {
        char *slash = strrchr(path, '/');
        ASSERT(slash);
        *slash = 0;
    }
    snprintf(part.detail, sizeof(part.detail), "%.440s, with %zu VM%s", path, count,
             count == 1 ? "" : "s");
    return part;
}

static struct doctor_part find_images(void) {
    struct doctor_part part = {.name = "images", .purpose = "guests' file systems"};
    struct kelpie_error err;
    struct kelpie_image *list = NULL;
    size_t count = 0;
    part.present = kelpie_image_list(NULL, &list, &count, &err) == KELPIE_OK;
    ASSERT(list || count == 0);
    kelpie_list_free(list);
    if (part.present) {
        snprintf(part.detail, sizeof(part.detail), "%zu image%s", count, count == 1 ? "" : "s");
    } else {
        snprintf(part.detail, sizeof(part.detail), "%.500s", err.message);
    }
    ASSERT(part.detail[0] != 0);
    return part;
}

void doctor_find_parts(struct doctor_part parts[DOCTOR_PART_COUNT]) {
    static_assert(ARRAY_SIZE(programs) + 2 == DOCTOR_PART_COUNT, "all parts are looked for");
    ASSERT(parts);
    ASSERT(ARRAY_SIZE(programs) < DOCTOR_PART_COUNT);
    parts[0] = find_store();
    parts[1] = find_images();
    for (size_t i = 0; i < ARRAY_SIZE(programs); i++) {
        parts[i + 2] = find_program(i);
    }
    for (size_t i = 0; i < DOCTOR_PART_COUNT; i++) {
        output_clean(parts[i].detail);
    }
}

void doctor_print_parts(const struct doctor_part parts[DOCTOR_PART_COUNT]) {
    ASSERT(parts);
    printf("\n%-13s%-8s%s\n", "PART", "USABLE", "WHAT IT IS FOR");
    for (size_t i = 0; i < DOCTOR_PART_COUNT; i++) {
        const struct doctor_part *part = &parts[i];
        ASSERT(part->name && part->purpose);
        printf("%-13s%-8s%s\n%-13s%s: %s\n", part->name, part->present ? "yes" : "no",
               part->purpose, "", part->present ? "found" : "why not", part->detail);
        if (!part->present && part->install) {
            printf("%-13sto do: %s\n", "", part->install);
        }
    }
}

json_t *doctor_json_parts(const struct doctor_part parts[DOCTOR_PART_COUNT]) {
    ASSERT(parts);
    json_t *array = json_array();
    for (size_t i = 0; i < DOCTOR_PART_COUNT; i++) {
        const struct doctor_part *part = &parts[i];
        json_t *detail = json_string(part->detail);
        ASSERT(part->name && part->purpose);
        json_array_append_new(array,
                              json_pack("{s:s, s:s, s:b, s:o, s:s}", "name", part->name, "purpose",
                                        part->purpose, "present", part->present, "detail",
                                        detail ? detail : json_null(), "install",
                                        !part->present && part->install ? part->install : ""));
    }
    return array;
}
