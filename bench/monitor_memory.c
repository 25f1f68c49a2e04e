/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "monitor_memory.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LINE_SIZE_MAX 8192
#define NEIGHBOUR_SIZE_MAX (16u << 20) /* of no file, and one mapping with the guest's memory */

struct tally {
    const char *guest_file;
    uint64_t guest_size;
    uint64_t guest_found; /* bytes of mappings, … */
    uint64_t neighbours;  /* … and of what is one mapping with them */
    uint64_t largest;     /* of no file */
    bool in_guest;        /* the mapping whose lines are being read */
    long own_kib;
};

/* The first line of a mapping: "start-end permissions offset device inode", spaces and a name, which may be empty. */
static bool take_head(struct tally *tally, const char *line) {
    uint64_t start = 0;
    uint64_t end = 0;
    int name_at = 0;
    if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %*s %*s %*s %*s %n", &start, &end, &name_at) != 2 ||
        name_at == 0) {
        return false;
    }
    const char *name = line + name_at;
    uint64_t size = end - start;
    bool named = tally->guest_file[0] != 0;
    bool whole =
        named || (size >= tally->guest_size && size - tally->guest_size <= NEIGHBOUR_SIZE_MAX);
    tally->in_guest = whole && strcmp(name, tally->guest_file) == 0;
    if (tally->in_guest) {
        tally->guest_found += named ? size : tally->guest_size;
        tally->neighbours += named ? 0 : size - tally->guest_size;
    }
    if (name[0] == 0 && size > tally->largest) {
        tally->largest = size;
    }
    return true;
}

static void take_line(struct tally *tally, char *line) {
    line[strcspn(line, "\n")] = 0;
    if (take_head(tally, line) || tally->in_guest) {
        return;
    }
    static const char name[] = "Pss:";
    if (strncmp(line, name, sizeof(name) - 1) == 0) {
        tally->own_kib += strtol(line + sizeof(name) - 1, NULL, 10);
    }
}

long monitor_memory_kib(int process_id, const char *guest_file, uint64_t guest_size) {
    struct tally tally = {.guest_file = guest_file, .guest_size = guest_size};
    char path[64];
    char line[LINE_SIZE_MAX];
    snprintf(path, sizeof(path), "/proc/%d/smaps", process_id);
    FILE *file = fopen(path, "re");
    if (!file) {
        fprintf(stderr, "bench: there is no %s\n", path);
        return -1;
    }
    while (fgets(line, sizeof(line), file)) {
        take_line(&tally, line);
    }
    fclose(file);
    if (tally.guest_found != guest_size || tally.own_kib <= 0) {
        fprintf(stderr,
                "bench: %s: mappings of %" PRIu64 " bytes look like the guest's memory of %" PRIu64
                " bytes; the largest of no file has %" PRIu64 "\n",
                path, tally.guest_found, guest_size, tally.largest);
        return -1;
    }
    if (tally.neighbours > 0) {
        fprintf(stderr, "bench: %s: %" PRIu64 " KiB are one mapping with the guest's memory\n",
                path, tally.neighbours >> 10);
    }
    return tally.own_kib;
}
