/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * event.h: what happens in a world, one after the other: a hash of all of it, and, when asked for, a line for each.
 */
#ifndef KELPIE_SIM_EVENT_H
#define KELPIE_SIM_EVENT_H

#include <stdint.h>

/* The kinds, with their names in a timeline. */
#define SIM_EVENTS(X)                                                                              \
    X(SLEEP, "sleep")                                                                              \
    X(RANDOM, "random")                                                                            \
    X(WORKING_DIR, "working-dir")                                                                  \
    X(ALLOCATE, "allocate")                                                                        \
    X(FILE_OPEN, "file-open")                                                                      \
    X(FILE_READ, "file-read")                                                                      \
    X(FILE_WRITE, "file-write")                                                                    \
    X(FILE_STAT, "file-stat")                                                                      \
    X(FILE_TRUNCATE, "file-truncate")                                                              \
    X(FILE_SYNC, "file-sync")                                                                      \
    X(FILE_LINK, "file-link")                                                                      \
    X(FILE_NEXT_DATA, "file-next-data")                                                            \
    X(FILE_LOCK, "file-lock")                                                                      \
    X(FILE_MAP, "file-map")                                                                        \
    X(FILE_UNMAP, "file-unmap")                                                                    \
    X(MEMORY_FILE, "memory-file")                                                                  \
    X(PATH_STAT, "path-stat")                                                                      \
    X(PATH_RENAME, "path-rename")                                                                  \
    X(PATH_UNLINK, "path-unlink")                                                                  \
    X(PATH_MKDIR, "path-mkdir")                                                                    \
    X(PATH_RMDIR, "path-rmdir")                                                                    \
    X(BELOW, "below")                                                                              \
    X(PATH_REMOVE_TREE, "path-remove-tree")                                                        \
    X(PATH_SYMLINK, "path-symlink")                                                                \
    X(PATH_READLINK, "path-readlink")                                                              \
    X(PATH_SYNC, "path-sync")                                                                      \
    X(DIR_LIST, "dir-list")                                                                        \
    X(KVM_PROBE, "kvm-probe")                                                                      \
    X(KRUNFW_LOAD, "krunfw-load")                                                                  \
    X(TAP_OPEN, "tap-open")                                                                        \
    X(SOCKET_PAIR, "socket-pair")                                                                  \
    X(SOCKET_LISTEN, "socket-listen")                                                              \
    X(SOCKET_ACCEPT, "socket-accept")                                                              \
    X(SOCKET_CONNECT, "socket-connect")                                                            \
    X(SOCKET_PEER, "socket-peer")                                                                  \
    X(SOCKET_SEND_FD, "socket-send-fd")                                                            \
    X(RECEIVE, "receive")                                                                          \
    X(READ, "read")                                                                                \
    X(WRITE, "write")                                                                              \
    X(POLL, "poll")                                                                                \
    X(EVENT_CREATE, "event-create")                                                                \
    X(EVENT_SET, "event-set")                                                                      \
    X(EVENT_CLEAR, "event-clear")                                                                  \
    X(CLOSE, "close")                                                                              \
    X(PROCESS_SPAWN, "process-spawn")                                                              \
    X(PROCESS_USAGE, "process-usage")                                                              \
    X(PROCESS_SIGNAL, "process-signal")                                                            \
    X(PROCESS_WAIT, "process-wait")                                                                \
    X(PROCESS_DESTROY, "process-destroy")                                                          \
    X(THREAD_START, "thread-start")                                                                \
    X(THREAD_JOIN, "thread-join")                                                                  \
    X(MUTEX_CREATE, "mutex-create")                                                                \
    X(MUTEX_LOCK, "mutex-lock")                                                                    \
    X(MUTEX_UNLOCK, "mutex-unlock")                                                                \
    X(CONDITION_CREATE, "condition-create")                                                        \
    X(CONDITION_WAIT, "condition-wait")                                                            \
    X(CONDITION_BROADCAST, "condition-broadcast")                                                  \
    X(FAULT, "FAULT")                                                                              \
    X(PROCESS_ENDS, "process-ends")                                                                \
    X(MACHINE_CRASHES, "machine-crashes")                                                          \
    X(STEP, "STEP")

enum sim_event {
#define SIM_EVENT_ENUM(name, text) SIM_EVENT_##name,
    SIM_EVENTS(SIM_EVENT_ENUM)
#undef SIM_EVENT_ENUM
        SIM_EVENT_COUNT
};

#define SIM_LINE_SIZE 512

/* Takes one line of a timeline, without its end. */
typedef void (*sim_line)(void *argument, const char *text);

struct sim_log {
    uint64_t hash;
    sim_line line; /* NULL: nobody reads */
    void *line_argument;
};

const char *sim_event_name(enum sim_event event);

/* Mixes it into the hash: who (a fiber's id, or 0), what, and a number that says more. */
void sim_log_add(struct sim_log *log, uint32_t who, enum sim_event event, uint64_t value);

/* A line for whoever reads the timeline; one that is too long is cut. */
void sim_log_print(const struct sim_log *log, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
