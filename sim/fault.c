/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "sim/fault.h"

#include <string.h>

#include "base/assert.h"

#define RATES_STREAM 0x7261746573 /* "rates" */

static const struct sim_fault_info infos[] = {
    [SIM_FAULT_MEMORY_NONE] = {"memory-none", "allocate", "there is no memory",
                               "NO_MEMORY, nothing changed", 90, 2700},
    [SIM_FAULT_RANDOM_FAILS] = {"random-fails", "random", "the generator fails", "IO_FAILED", 1800,
                                55000},
    [SIM_FAULT_FILE_OPEN_FAILS] = {"file-open-fails", "file_open",
                                   "no descriptor is left (EMFILE), or EIO", "a clear error", 1200,
                                   37000},
    [SIM_FAULT_FILE_READ_FAILS] = {"file-read-fails", "file_read_at", "EIO", "a clear error", 1100,
                                   34000},
    [SIM_FAULT_FILE_WRITE_FAILS] = {"file-write-fails", "file_write_at", "EIO, nothing is written",
                                    "a clear error", 1000, 100000},
    [SIM_FAULT_FILE_BAD_SECTOR] = {"file-bad-sector", "file_read_at",
                                   "a page of the file cannot be read any more",
                                   "an error for whatever needs it", 1100, 34000},
    [SIM_FAULT_FILE_DISK_FULL] = {"file-disk-full", "file_write_at",
                                  "ENOSPC, after a part was written",
                                  "NO_SPACE, what is half-written is removed", 1000, 100000},
    [SIM_FAULT_FILE_SYNC_FAILS] = {"file-sync-fails", "file_sync",
                                   "EIO, and what was not synced may be lost",
                                   "nothing is acknowledged", 2000, 200000},
    [SIM_FAULT_FILE_STAT_FAILS] = {"file-stat-fails", "file_stat", "EIO", "a clear error", 830,
                                   25000},
    [SIM_FAULT_FILE_TRUNCATE_FAILS] = {"file-truncate-fails", "file_truncate", "EIO",
                                       "a clear error", 16000, 500000},
    [SIM_FAULT_FILE_LINK_FAILS] = {"file-link-fails", "file_link", "EIO", "a clear error, no file",
                                   2000, 300000},
    [SIM_FAULT_FILE_UNNAMED_UNSUPPORTED] = {"file-unnamed-unsupported", "file_open",
                                            "the file system has no unnamed files",
                                            "another way is taken", 100000, 1000000},
    [SIM_FAULT_FILE_MAP_FAILS] = {"file-map-fails", "file_map", "ENOMEM", "a clear error", 16000,
                                  500000},
    [SIM_FAULT_MEMORY_FILE_FAILS] = {"memory-file-fails", "memory_file", "ENOMEM", "a clear error",
                                     16000, 500000},
    [SIM_FAULT_PATH_STAT_FAILS] = {"path-stat-fails", "path_stat", "EIO", "a clear error", 1200,
                                   38000},
    [SIM_FAULT_PATH_RENAME_FAILS] = {"path-rename-fails", "path_rename", "EIO, the names stay",
                                     "a clear error, no bundle", 2000, 200000},
    [SIM_FAULT_PATH_UNLINK_FAILS] = {"path-unlink-fails", "path_unlink, path_rmdir", "EIO",
                                     "what is left has a temporary name", 16000, 500000},
    [SIM_FAULT_PATH_MKDIR_FAILS] = {"path-mkdir-fails", "path_mkdir", "EIO", "a clear error", 500,
                                    15000},
    [SIM_FAULT_PATH_SYNC_FAILS] = {"path-sync-fails", "path_sync", "EIO", "nothing is acknowledged",
                                   10000, 500000},
    [SIM_FAULT_PATH_LIST_FAILS] = {"path-list-fails", "dir_list", "EIO", "a clear error", 16000,
                                   500000},
    [SIM_FAULT_CRASH_LOSES_DATA] = {"crash-loses-data", "a machine's crash",
                                    "a page that was not synced has its old bytes",
                                    "what was acknowledged is there", 250000, 1000000},
    [SIM_FAULT_CRASH_TEARS_DATA] = {"crash-tears-data", "a machine's crash",
                                    "a page that was not synced has sectors of both",
                                    "what was acknowledged is there", 250000, 1000000},
    [SIM_FAULT_CRASH_LOSES_NAMES] = {"crash-loses-names", "a machine's crash",
                                     "a name that was not synced was never made, moved or removed",
                                     "what was acknowledged is there", 250000, 1000000},
    [SIM_FAULT_CRASH_REORDERS_NAMES] = {"crash-reorders-names", "a machine's crash",
                                        "later names without earlier ones",
                                        "a bundle is whole or not there", 250000, 1000000},
    [SIM_FAULT_STREAM_DELAYED] = {"stream-delayed", "write", "the bytes arrive later",
                                  "all of them arrive, in order", 1200, 37000},
    [SIM_FAULT_STREAM_SHORT_READ] = {"stream-short-read", "read", "fewer bytes than there are",
                                     "the rest is read next", 5000, 150000},
    [SIM_FAULT_STREAM_SHORT_WRITE] = {"stream-short-write", "write",
                                      "fewer bytes than there is room for",
                                      "the rest is written next", 3600, 110000},
    [SIM_FAULT_STREAM_RESET] = {"stream-reset", "write",
                                "the connection breaks, and what was under way is lost",
                                "the channel is given up", 150, 4600},
    [SIM_FAULT_STREAM_READ_FAILS] = {"stream-read-fails", "read", "EIO", "a clear error", 130,
                                     3900},
    [SIM_FAULT_STREAM_WRITE_FAILS] = {"stream-write-fails", "write", "EIO", "a clear error", 150,
                                      4600},
    [SIM_FAULT_SOCKET_PAIR_FAILS] = {"socket-pair-fails", "socket_pair", "EMFILE", "a clear error",
                                     2700, 83000},
    [SIM_FAULT_SOCKET_LISTEN_FAILS] = {"socket-listen-fails", "socket_listen", "EADDRINUSE",
                                       "a clear error", 16000, 500000},
    [SIM_FAULT_SOCKET_ACCEPT_FAILS] = {"socket-accept-fails", "socket_accept", "EMFILE",
                                       "a clear error", 16000, 500000},
    [SIM_FAULT_SOCKET_CONNECT_FAILS] = {"socket-connect-fails", "socket_connect", "ECONNREFUSED",
                                        "a clear error", 16000, 500000},
    [SIM_FAULT_SOCKET_SEND_FD_FAILS] = {"socket-send-fd-fails", "socket_send_fd", "EIO",
                                        "a clear error", 7600, 230000},
    [SIM_FAULT_POLL_FAILS] = {"poll-fails", "poll", "ENOMEM",
                              "the machine is ended, its end is seen", 43, 1300},
    [SIM_FAULT_EVENT_FAILS] = {"event-fails", "event_create", "EMFILE", "a clear error", 4000,
                               120000},
    [SIM_FAULT_NETWORK_CUT] = {"network-cut", "a step of the world",
                               "two machines do not reach each other for a while",
                               "what waits goes on when they do", 1200, 38000},
    [SIM_FAULT_NETWORK_CUT_ONE_WAY] = {"network-cut-one-way", "a step of the world",
                                       "one machine does not reach another for a while",
                                       "what waits goes on when it does", 1200, 38000},
    [SIM_FAULT_CLOCK_JUMPS_AHEAD] = {"clock-jumps-ahead", "a step of the world",
                                     "the wall clock is set ahead by up to a day",
                                     "timeouts stay right", 630, 19000},
    [SIM_FAULT_CLOCK_JUMPS_BACK] = {"clock-jumps-back", "a step of the world",
                                    "the wall clock is set back by up to a day",
                                    "timeouts stay right", 630, 19000},
    [SIM_FAULT_CLOCK_SKEWED] = {"clock-skewed", "a machine's start",
                                "its clocks run up to a hundredth too fast or slow",
                                "timeouts stay bounded", 50000, 500000},
    [SIM_FAULT_THREAD_FAILS] = {"thread-fails", "thread_start", "EAGAIN", "a clear error", 7300,
                                220000},
    [SIM_FAULT_THREAD_STARVES] = {"thread-starves", "a switch of threads",
                                  "a thread does not run for a while though it could",
                                  "others go on", 76, 2300},
    [SIM_FAULT_MUTEX_FAILS] = {"mutex-fails", "mutex_create", "no memory", "NO_MEMORY", 5300,
                               160000},
    [SIM_FAULT_CONDITION_FAILS] = {"condition-fails", "condition_create", "no memory", "NO_MEMORY",
                                   12000, 370000},
    [SIM_FAULT_CONDITION_WAKES_EARLY] = {"condition-wakes-early", "condition_wait",
                                         "a wait ends though nothing happened",
                                         "it is looked at again", 13000, 400000},
    [SIM_FAULT_PROCESS_SPAWN_FAILS] = {"process-spawn-fails", "process_spawn",
                                       "EAGAIN, or no such program", "a clear error, nothing runs",
                                       7600, 230000},
    [SIM_FAULT_PROCESS_STARTS_SLOWLY] = {"process-starts-slowly", "process_spawn",
                                         "its first instruction comes seconds later",
                                         "a timeout, or patience", 7600, 230000},
    [SIM_FAULT_PROCESS_KILLED] = {"process-killed", "a host call of a child", "SIGKILL",
                                  "crashed at once, nothing left", 56, 1700},
    [SIM_FAULT_PROCESS_CRASHES] = {"process-crashes", "a host call of a child", "SIGSEGV",
                                   "crashed at once, nothing left", 56, 1700},
    [SIM_FAULT_PROCESS_HANGS] = {"process-hangs", "a host call of a child",
                                 "it does nothing any more", "a timeout, then it is killed", 43,
                                 1300},
    [SIM_FAULT_OWNER_KILLED] = {"owner-killed", "a host call of the owner", "kill -9",
                                "no child lives on, bundles are whole, locks are free", 3, 150},
    [SIM_FAULT_MACHINE_CRASHES] = {"machine-crashes", "a host call of the owner", "the power goes",
                                   "what was acknowledged is there, bundles are whole", 3, 150},
    [SIM_FAULT_KVM_PROBE_FAILS] = {"kvm-probe-fails", "kvm_probe",
                                   "there is no /dev/kvm, or a slow one",
                                   "another backend, or a clear error", 16000, 500000},
    [SIM_FAULT_PEER_SILENT] = {"peer-silent", "an answer of a monitor", "no answer, ever",
                               "a timeout", 900, 27000},
    [SIM_FAULT_PEER_SLOW] = {"peer-slow", "an answer of a monitor", "it takes seconds",
                             "patience, or a timeout", 1500, 46000},
    [SIM_FAULT_PEER_REFUSES] = {"peer-refuses", "an answer of a monitor", "an error instead",
                                "an error that quotes it", 1200, 37000},
    [SIM_FAULT_PEER_GARBAGE] = {"peer-garbage", "an answer of a monitor",
                                "bytes that are no answer",
                                "a clear error, the monitor is given up", 900, 27000},
    [SIM_FAULT_PEER_DIES] = {"peer-dies", "an answer of a monitor",
                             "it exits, or is killed, instead", "crashed, with its last words", 900,
                             27000},
    [SIM_FAULT_PEER_CHATTERS] = {"peer-chatters", "an answer of a monitor",
                                 "a flood of events, of words on stderr",
                                 "bounded memory, the answer is found", 1800, 55000},
    [SIM_FAULT_GUEST_SLOW] = {"guest-slow", "a turn of a guest", "it does nothing for seconds",
                              "patience, or a timeout", 2400, 72000},
    [SIM_FAULT_GUEST_SILENT] = {"guest-silent", "a turn of a guest", "it says nothing any more",
                                "a timeout", 960, 29000},
    [SIM_FAULT_GUEST_HOSTILE] = {"guest-hostile", "a turn of a guest",
                                 "frames that are wrong, or no frames",
                                 "the channel ends, the owner does not", 800, 24000},
    [SIM_FAULT_GUEST_DIES] = {"guest-dies", "a turn of a guest", "its kernel panics",
                              "crashed, with its last words", 1200, 36000},
    [SIM_FAULT_GUEST_CHATTERS] = {"guest-chatters", "a turn of a guest", "a flood on its console",
                                  "bounded memory and log", 3200, 97000},
    [SIM_FAULT_VM_OWNER_KILLED] = {"vm-owner-killed", "a host call of a VM's owner", "kill -9",
                                   "crashed at once, its folder can be removed", 5, 200},
    [SIM_FAULT_CLIENT_KILLED] = {"client-killed", "a host call of one of a VM's users", "kill -9",
                                 "the VM and its other users go on", 200, 8000},
    [SIM_FAULT_CLIENT_HANGS] = {"client-hangs", "a host call of one of a VM's users",
                                "it does nothing any more", "the VM and its other users go on", 200,
                                8000},
};
static_assert(ARRAY_SIZE(infos) == SIM_FAULT_COUNT, "each fault has a row");

const struct sim_fault_info *sim_fault_info(enum sim_fault fault) {
    ASSERT((unsigned)fault < SIM_FAULT_COUNT);
    ASSERT(infos[fault].name);
    return &infos[fault];
}

enum sim_fault sim_fault_find(const char *name) {
    unsigned found = 0;
    ASSERT(name);
    while (found < SIM_FAULT_COUNT && strcmp(infos[found].name, name) != 0) {
        found++;
    }
    ASSERT(found <= SIM_FAULT_COUNT);
    return (enum sim_fault)found;
}

void sim_faults_init(struct sim_faults *faults, uint64_t seed) {
    ASSERT(faults);
    *faults = (struct sim_faults){.seed = seed};
    ASSERT(!faults->quiet);
    ASSERT(faults->event_count == 0);
}

/* Small rates are as likely as large ones: each doubling of the rate is. */
static uint32_t draw_rate(struct sim_choices *choices, const struct sim_fault_info *info) {
    ASSERT(info->ppm_min > 0);
    ASSERT(info->ppm_min <= info->ppm_max && info->ppm_max <= SIM_PPM);
    uint64_t low = info->ppm_min;
    while (low * 2 <= info->ppm_max && sim_choose(choices, 4) != 0) {
        low *= 2;
    }
    return (uint32_t)(low + sim_choose(choices, low));
}

void sim_faults_draw(struct sim_faults *faults, uint32_t intensity_ppm) {
    ASSERT(faults);
    ASSERT(intensity_ppm <= SIM_PPM);
    struct sim_choices choices;
    /* Not of how many faults there are: a new one, at the end, leaves the rates of the others as they were. */
    sim_choices_init(&choices, sim_mix(faults->seed, RATES_STREAM, 0));
    for (size_t i = 0; i < SIM_FAULT_COUNT; i++) {
        bool on = sim_choose(&choices, 2) == 0;
        uint64_t rate = draw_rate(&choices, &infos[i]);
        bool is_share = infos[i].ppm_max == SIM_PPM; /* of what happens anyway: no rate */
        rate = is_share ? rate : rate * intensity_ppm / SIM_PPM;
        rate = rate < infos[i].ppm_max ? rate : infos[i].ppm_max;
        faults->ppm[i] = on ? (uint32_t)rate : 0;
    }
}

int sim_fault_event_compare(const void *left, const void *right) {
    const struct sim_fault_event *a = left;
    const struct sim_fault_event *b = right;
    ASSERT(a);
    ASSERT(b);
    if (a->fault != b->fault) {
        return a->fault < b->fault ? -1 : 1;
    }
    return a->number == b->number ? 0 : a->number < b->number ? -1 : 1;
}

void sim_faults_suppress(struct sim_faults *faults, const struct sim_fault_event *events,
                         size_t count) {
    ASSERT(faults);
    ASSERT(events || count == 0);
    for (size_t i = 1; i < count; i++) {
        ASSERT(sim_fault_event_compare(&events[i - 1], &events[i]) < 0);
    }
    faults->suppressed = events;
    faults->suppressed_count = count;
    faults->suppress_others = false;
}

void sim_faults_allow(struct sim_faults *faults, const struct sim_fault_event *events,
                      size_t count) {
    sim_faults_suppress(faults, events, count);
    faults->suppress_others = true;
    ASSERT(faults->suppressed_count == count);
}

void sim_faults_copy(struct sim_faults *faults, struct sim_fault_event *copy, size_t *copy_count) {
    ASSERT(faults);
    ASSERT(copy && copy_count);
    ASSERT(faults->event_count == 0);
    faults->copy = copy;
    faults->copy_count = copy_count;
    *copy_count = 0;
}

static void remember(struct sim_faults *faults, const struct sim_fault_event *event) {
    ASSERT(event->fault < SIM_FAULT_COUNT);
    ASSERT(faults->event_count <= SIM_FAULT_FIRED_COUNT_MAX);
    if (faults->event_count == SIM_FAULT_FIRED_COUNT_MAX) {
        return;
    }
    if (faults->copy) {
        faults->copy[faults->event_count] = *event;
        *faults->copy_count = faults->event_count + 1;
    }
    faults->events[faults->event_count++] = *event;
}

static bool is_listed(const struct sim_faults *faults, const struct sim_fault_event *event) {
    size_t low = 0;
    size_t high = faults->suppressed_count;
    ASSERT(event->fault < SIM_FAULT_COUNT);
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = sim_fault_event_compare(&faults->suppressed[middle], event);
        if (order == 0) {
            return true;
        }
        if (order < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    ASSERT(low == high);
    return false;
}

void sim_faults_begin_step(struct sim_faults *faults, uint32_t step) {
    ASSERT(faults);
    ASSERT(step < SIM_FAULT_STEP_COUNT_MAX);
    faults->number_base = SIM_FAULT_NUMBER(step, 0);
    memcpy(faults->asked_before, faults->asked, sizeof(faults->asked_before));
}

static uint32_t next_number(const struct sim_faults *faults, enum sim_fault fault) {
    uint32_t question = faults->asked[fault] - faults->asked_before[fault];
    ASSERT(faults->asked[fault] >= faults->asked_before[fault]);
    ASSERT(SIM_FAULT_QUESTION(faults->number_base) == 0);
    return faults->number_base | SIM_FAULT_QUESTION(question);
}

bool sim_faults_ask(struct sim_faults *faults, enum sim_fault fault) {
    ASSERT(faults);
    ASSERT((unsigned)fault < SIM_FAULT_COUNT);
    const struct sim_fault_event event = {.fault = (uint32_t)fault,
                                          .number = next_number(faults, fault)};
    uint32_t ppm = faults->ppm[fault];
    faults->asked[fault]++;
    if (faults->quiet || ppm == 0) {
        return false;
    }
    bool now = faults->choices ? sim_chance(faults->choices, ppm)
                               : sim_mix(faults->seed, event.fault, event.number) % SIM_PPM < ppm;
    if (!now || is_listed(faults, &event) != faults->suppress_others) {
        return false;
    }
    faults->fired[fault]++;
    remember(faults, &event);
    return true;
}
