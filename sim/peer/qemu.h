/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * qemu.h: a scripted QEMU: what qemu-system-x86_64 is to src/backend/qemu. What an honest one says was taken down from
 * QEMU 7.2: its messages, its events and their order.
 *
 * THEORY OF OPERATION
 *
 * One thread with one loop (qemu.c) moves the guest, the control channel and a migration. Nothing of it waits for its owner: what cannot
 * be written yet waits in memory, and a slow answer holds back the control channel while the guest goes on, as vCPUs do.
 *
 * The machine's memory is the bytes of peer_guest_save(). Where real memory is shared, they lie in the memory file: the first page
 * says how many there are and their checksum, they follow from the second page on, written page by page whenever
 * the machine stops. When it runs again, that first page is wiped: a copy of memory made while the vCPUs run is of no use to
 * anyone, and a load says so. Where memory is private, it is in the stream of a migration.
 *
 * That stream (qemu_stream.h) begins with what the machine is made of; a machine made otherwise does not take it.
 *
 * Faults. At its start and for each command each PEER fault is asked about once, so that the n-th question is about the n-th
 * command of all QEMUs of a world. A fault is never an answer that QEMU could not give for honest reasons, but for garbage.
 */
#ifndef KELPIE_SIM_PEER_QEMU_H
#define KELPIE_SIM_PEER_QEMU_H

#include <jansson.h>

#include "backend/mock/mock_bytes.h"
#include "sim/peer/guest.h"
#include "sim/peer/peer.h"
#include "sim/peer/qemu_limits.h"

#define SIM_QEMU_PROGRAM "qemu-system-x86_64"
#define SIM_QEMU_VERSION "7.2.22"
#define SIM_QEMU_PACKAGE "Debian 1:7.2+dfsg-7+deb12u18"

int sim_qemu_main(const struct sim_peer *peer);

/* ---- qemu_options.c: the command line --------------------------------------------------------- */

enum sim_qemu_machine { SIM_QEMU_MICROVM = 0, SIM_QEMU_Q35, SIM_QEMU_MACHINE_COUNT };

struct sim_qemu_chardev {
    char id[SIM_QEMU_NAME_SIZE_MAX + 1];
    int fd;
    bool in_use;
};

/* A descriptor of -add-fd, and what becomes of it. */
struct sim_qemu_disk {
    int fd;
    uint32_t set;
    char node[SIM_QEMU_NAME_SIZE_MAX + 1]; /* empty: no -blockdev took it */
    bool read_only;
    bool in_use; /* a device has it */
};

struct sim_qemu_options {
    bool version; /* --version: nothing else matters */
    bool has_machine;
    enum sim_qemu_machine machine;
    bool has_cpu;
    bool cpu_is_host;
    bool accelerated; /* not tcg */
    uint32_t vcpu_count;
    uint64_t memory_size;
    char memory_id[SIM_QEMU_NAME_SIZE_MAX + 1];  /* that the machine wants */
    char backend_id[SIM_QEMU_NAME_SIZE_MAX + 1]; /* that there is */
    uint64_t backend_size;
    int memory_fd;
    bool memory_shared;
    bool incoming;
    bool stopped;   /* -S */
    bool no_reboot; /* a reset is an end */
    int qmp_fd;
    int channel_fd;
    int console_fd;
    int network_fd;
    char network_id[SIM_QEMU_NAME_SIZE_MAX + 1];
    char rng_id[SIM_QEMU_NAME_SIZE_MAX + 1];
    bool has_network;
    bool has_rng;
    bool has_serial_bus;
    const char *kernel;
    const char *initramfs;
    const char *append;
    struct sim_qemu_chardev chardevs[SIM_QEMU_CHARDEV_COUNT_MAX];
    size_t chardev_count;
    struct sim_qemu_disk disks[SIM_QEMU_DISK_COUNT_MAX];
    size_t disk_count;
};

/* False: QEMU refuses them; ret_error is what it says, with an end of line. Pure. */
KELPIE_CHECKED bool sim_qemu_options_parse(size_t argc, const char *const *argv,
                                           struct sim_qemu_options *ret_options,
                                           char ret_error[SIM_QEMU_ERROR_SIZE]);

const char *sim_qemu_machine_name(enum sim_qemu_machine machine);

/* ---- The process ------------------------------------------------------------------------------ */

enum sim_qemu_state {
    SIM_QEMU_PRELAUNCH = 0, /* no vCPU ran yet */
    SIM_QEMU_INMIGRATE,
    SIM_QEMU_RUNNING,
    SIM_QEMU_PAUSED,
    SIM_QEMU_POSTMIGRATE, /* saved, and not run since */
};

enum sim_qemu_migration_status {
    SIM_QEMU_MIGRATION_NONE = 0,
    SIM_QEMU_MIGRATION_ACTIVE,
    SIM_QEMU_MIGRATION_COMPLETED,
    SIM_QEMU_MIGRATION_FAILED,
    SIM_QEMU_MIGRATION_CANCELLED,
    SIM_QEMU_MIGRATION_STATUS_COUNT
};

struct sim_qemu_migration {
    enum sim_qemu_migration_status status;
    bool ignore_shared; /* capabilities */
    bool events;
    bool live; /* the vCPUs ran since its stream was made */
    int fd;
    struct mock_bytes stream; /* of one that goes out */
    uint64_t written;
    uint32_t steps_left;
    uint64_t next_ns; /* when the next step is due */
    uint64_t step_ns;
    char error[SIM_QEMU_ERROR_SIZE]; /* why it failed */
};

/* What happens to one command, or to the start. */
struct sim_qemu_faults {
    bool silent;
    bool slow;
    bool refuses;
    bool garbage;
    bool dies;
    bool chatters;
};

struct sim_qemu_named_fd {
    char name[SIM_QEMU_NAME_SIZE_MAX + 1]; /* empty: a free place */
    int fd;
};

struct sim_qemu_qmp {
    int fd; /* HOST_FD_NONE: its owner has closed it */
    bool negotiated;
    bool deaf; /* a fault: no command is answered any more */
    struct mock_bytes in;
    struct mock_bytes out;
    size_t write_size_max; /* of one write; 0: as much as there is */
    uint64_t take_ns;      /* no command is taken before */
    uint64_t say_ns;       /* nothing is written before */
    bool asked;            /* about the faults of the next command */
    struct sim_qemu_faults faults;
    int passed_fd; /* came last with a command */
    struct sim_qemu_named_fd named[SIM_QEMU_NAMED_FD_COUNT_MAX];
};

struct sim_qemu {
    const struct sim_peer *peer;
    struct host *host;
    struct sim_qemu_options options;
    struct peer_guest *guest;
    enum sim_qemu_state state;
    bool booted;    /* there is something in the guest's memory */
    bool autostart; /* the vCPUs run as soon as they can */
    struct sim_qemu_qmp qmp;
    struct sim_qemu_migration migration;
    bool ends; /* the loop is over */
    int exit_code;
};

void sim_qemu_check(const struct sim_qemu *qemu);

/* ---- qemu.c ----------------------------------------------------------------------------------- */

/* Words on stderr; what nobody reads in time is lost. */
void sim_qemu_words(struct sim_qemu *qemu, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* The loop ends, the process exits with this code. */
void sim_qemu_exit(struct sim_qemu *qemu, int code);

/* The vCPUs run, or stand still; events say so if that is new. */
void sim_qemu_run(struct sim_qemu *qemu);
void sim_qemu_stop(struct sim_qemu *qemu, enum sim_qemu_state state);

/* The machine ends: an event with this reason, then the process. */
void sim_qemu_shut_down(struct sim_qemu *qemu, bool by_guest, const char *reason);

/* Each PEER fault is asked about once. */
struct sim_qemu_faults sim_qemu_faults_ask(struct sim_qemu *qemu);

/* What a fault makes of the process: an exit or a signal, with words or without. May return. */
void sim_qemu_perish(struct sim_qemu *qemu);

/* Noise: many words on stderr. */
void sim_qemu_mutter(struct sim_qemu *qemu);

/* ---- qemu_qmp.c ------------------------------------------------------------------------------- */

/* garbage: it says something else. */
void sim_qemu_qmp_greet(struct sim_qemu *qemu, bool garbage);
struct host_poll_item sim_qemu_qmp_item(const struct sim_qemu *qemu);
uint64_t sim_qemu_qmp_deadline_ns(const struct sim_qemu *qemu);
void sim_qemu_qmp_service(struct sim_qemu *qemu, uint32_t ready);

/* Without waiting for anything but the owner, and not for long. */
void sim_qemu_qmp_farewell(struct sim_qemu *qemu);
void sim_qemu_qmp_close(struct sim_qemu *qemu);

/* data: taken over; NULL: none. Before the negotiation nobody hears of events. */
void sim_qemu_event(struct sim_qemu *qemu, const char *name, json_t *data);

/* One message as a line; taken over. */
void sim_qemu_qmp_say(struct sim_qemu *qemu, json_t *message);
void sim_qemu_qmp_say_bytes(struct sim_qemu *qemu, const void *data, size_t size);

/* ---- qemu_noise.c: what nobody asked for ------------------------------------------------------ */

/* An event that an owner need not know. */
void sim_qemu_noise_event(struct sim_qemu *qemu);

/* Instead of an answer, whose id that would be (may be NULL). True: it counts as the answer. */
bool sim_qemu_noise_garbage(struct sim_qemu *qemu, json_t *id);

/* ---- qemu_commands.c -------------------------------------------------------------------------- */

/* What an answer says. Either data or an error. */
struct sim_qemu_answer {
    json_t *data;      /* "return"; NULL: {} */
    const char *class; /* of an error; NULL: none */
    char desc[SIM_QEMU_ERROR_SIZE];
};
void sim_qemu_refuse(struct sim_qemu_answer *answer, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Executes one command: a whole JSON object. */
void sim_qemu_execute(struct sim_qemu *qemu, json_t *command, struct sim_qemu_answer *answer);

/* The descriptor of that name, which is the caller's now; HOST_FD_NONE: there is none. */
int sim_qemu_named_fd_take(struct sim_qemu *qemu, const char *name);

/* ---- qemu_migrate.c, qemu_incoming.c, qemu_memory.c -------------------------------------------- */

void sim_qemu_migrate(struct sim_qemu *qemu, const char *uri, struct sim_qemu_answer *answer);
void sim_qemu_migrate_incoming(struct sim_qemu *qemu, const char *uri,
                               struct sim_qemu_answer *answer);
void sim_qemu_migrate_cancel(struct sim_qemu *qemu);
json_t *sim_qemu_migrate_query(const struct sim_qemu *qemu);
uint64_t sim_qemu_migrate_deadline_ns(const struct sim_qemu *qemu);
void sim_qemu_migrate_service(struct sim_qemu *qemu);
void sim_qemu_migrate_close(struct sim_qemu *qemu);

/* The machine stands still: its memory is in the memory file; or runs again, and the file has nothing of use. Only where
 * memory is shared. */
void sim_qemu_memory_store(struct sim_qemu *qemu);
void sim_qemu_memory_wipe(struct sim_qemu *qemu);

#endif
