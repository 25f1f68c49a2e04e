/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "monitor_memory.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LINE_SIZE_MAX 8192

struct tally {
    const char *guest_file;
    uint64_t guest_size;
    uint64_t guest_found; /* bytes of mappings */
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
    bool whole = tally->guest_file[0] != 0 || end - start == tally->guest_size;
    tally->in_guest = whole && strcmp(name, tally->guest_file) == 0;
    if (tally->in_guest) {
        tally->guest_found += end - start;
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
                " bytes\n",
                path, tally.guest_found, guest_size);
        return -1;
    }
    return tally.own_kib;
}
