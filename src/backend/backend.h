/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * backend.h: what a hypervisor must do for a VM. One folder implements one backend; backend_table.c lists
 * them. A backend runs the machine and moves its state; it knows nothing of exec sessions, of the state machine or
 * of what the guest says: src/vm/ does.
 *
 * Calls. src/vm/ makes the calls of one instance one at a time, but for kill(), service() and the functions that
 * only return a descriptor, which another thread may call at any moment between create and destroy (kill while
 * an operation waits makes that operation return soon). Every call is bounded by its wait.
 *   create -> start | [prepare ->] load -> (pause, resume, save)* -> stop | kill -> (start | load again) -> destroy
 * A failed start or load leaves the instance as after create. destroy is allowed at any time and leaves no process,
 * descriptor or file behind.
 *
 * The channel. After start or load, channel_fd is one end of a byte stream whose other end is the guest's
 * agent (protocol.h). The instance owns it. It reads as ended when the machine is gone.
 *
 * Death. exit_fd becomes readable when the machine's process has ended, for whatever reason; then exit_text says
 * how it ended, with the last words of the monitor.
 */
#ifndef KELPIE_BACKEND_BACKEND_H
#define KELPIE_BACKEND_BACKEND_H

#include "host/host.h"
#include "image/image.h"
#include "kelpie_store.h"
#include "snapshot/snapshot.h"

struct backend_instance;

#define BACKEND_CONSOLE_TAIL_SIZE 65536 /* the console's last bytes, kept in memory */
#define BACKEND_SERVICE_FD_COUNT_MAX 4

/* Everything about a VM that its backend needs. Lives longer than the instance. */
struct backend_launch {
    struct host *host;
    const struct kelpie_config
        *config; /* valid, every default filled in, strings owned by the VM */
    const char *
        open_name; /* of an owner's backend: open the VM of that name, or whose id begins so, instead of making
                              one, and config is NULL; else NULL */
    const char *id;
    int cancel_fd;   /* the VM's cancel event: in every wait already */
    bool for_bundle; /* a load comes before any start: what only a boot needs is not looked for */
    /* Where disks that are the VM's own are kept, as files disk-N; NULL: they have no names, and go with the instance. */
    const char *disk_folder;
    /* The config's last two disks are an image's: a read-only file that never changes (its path may be empty for a bundle that
     * has it), and one of the VM's own over it, with no path, of config->image_disk_mib. */
    bool has_image;
};

/* A guest's network of kind KELPIE_NETWORK_USER: what a backend gives it, and what src/vm/ tells the guest. */
#define BACKEND_NETWORK_ADDRESS 10, 0, 2, 15
#define BACKEND_NETWORK_PREFIX_SIZE 24
#define BACKEND_NETWORK_GATEWAY 10, 0, 2, 2
#define BACKEND_NETWORK_DNS 10, 0, 2, 3

/* What a VM of another process is known to be (backend/remote). */
struct backend_owned_state {
    enum kelpie_state state;
    char exit_text[512]; /* crashed: how */
    uint64_t
        channel_number; /* counts the channels that there were: another number, another channel */
    uint32_t ids_first; /* session numbers that this handle may choose: ids_count of them */
    uint32_t ids_count;
    uint32_t live_shares; /* kelpie_vm_live_shares() */
};

/* A fork's children: `count` names, empty for one that failed, and why. Both arrays are the caller's. */
struct backend_offspring {
    size_t count;
    char (*names)[KELPIE_NAME_SIZE_MAX + 1];
    struct kelpie_error *errors;
};

/*
 * For a VM whose machine another process owns: src/vm/ asks whole operations of it and follows the state that it tells.
 * Sessions and files go over the channel as ever (vm/relay.h is at its other end), which is there while the VM is running or
 * paused. exit_fd is HOST_FD_NONE. Operations may be called from several threads at once; the owner orders them. CRASHED,
 * requires_recreate: the owner is gone.
 *
 * From the end of create to destroy a thread of the VM polls service_fds and calls service() when one is readable, with the VM
 * locked: it reads what the owner tells, never waits, and wakes the operations that wait for their answers. Only it may change
 * what state() and channel_fd() say, the latter with another channel_number (and the end of the one before, whose descriptor
 * it closes). state(), channel_fd() and capabilities() only look. When the owner is gone, state() says crashed, and why.
 *
 * Paths in configs, commands and options may be relative to this process's working folder: the backend makes them absolute.
 */
struct backend_owner_ops {
    void (*state)(struct backend_instance *instance, struct backend_owned_state *ret_state);
    const char *(*backend)(struct backend_instance *instance); /* that runs it */
    uint32_t (*capabilities)(struct backend_instance *instance);
    const char *(*id)(struct backend_instance *instance);
    const struct kelpie_config *(*config)(struct backend_instance *instance);
    enum kelpie_status (*start)(struct backend_instance *instance, const struct host_wait *wait,
                                struct kelpie_error *err);
    enum kelpie_status (*stop)(struct backend_instance *instance, uint32_t timeout_ms,
                               const struct host_wait *wait, struct kelpie_error *err);
    enum kelpie_status (*pause)(struct backend_instance *instance, const struct host_wait *wait,
                                struct kelpie_error *err);
    enum kelpie_status (*resume)(struct backend_instance *instance, const struct host_wait *wait,
                                 struct kelpie_error *err);
    enum kelpie_status (*restore)(struct backend_instance *instance, const char *directory,
                                  const struct kelpie_restore_options *options,
                                  const struct host_wait *wait, struct kelpie_error *err);
    enum kelpie_status (*restore_report)(struct backend_instance *instance,
                                         struct kelpie_restore_report *ret_report,
                                         const struct host_wait *wait, struct kelpie_error *err);
    enum kelpie_status (*snapshot)(struct backend_instance *instance, const char *directory,
                                   const struct kelpie_snapshot_options *options,
                                   struct kelpie_snapshot *ret_snapshot,
                                   const struct host_wait *wait, struct kelpie_error *err);
    enum kelpie_status (*record_working_set)(struct backend_instance *instance,
                                             const struct host_wait *wait,
                                             struct kelpie_error *err);
    /* Children have an owner each; src/vm/ opens them. */
    enum kelpie_status (*fork)(struct backend_instance *instance,
                               const struct kelpie_fork_options *options,
                               struct backend_offspring *offspring, const struct host_wait *wait,
                               struct kelpie_error *err);
    enum kelpie_status (*run_detached)(struct backend_instance *instance,
                                       const struct kelpie_command *command, uint32_t *ret_exec_id,
                                       const struct host_wait *wait, struct kelpie_error *err);
    enum kelpie_status (*wait_detached)(struct backend_instance *instance,
                                        struct kelpie_exit *ret_exit, const struct host_wait *wait,
                                        struct kelpie_error *err);
    enum kelpie_status (*stats)(struct backend_instance *instance, struct kelpie_stats *ret_stats,
                                const struct host_wait *wait, struct kelpie_error *err);
    enum kelpie_status (*mock_lever)(struct backend_instance *instance, int operation,
                                     uint32_t count, const struct host_wait *wait,
                                     struct kelpie_error *err); /* operation < 0: crash */
    /* The thread that calls service() can do so no more: state() says crashed from now on, and every operation ends with that. */
    void (*lose)(struct backend_instance *instance, const char *why);
    /* Ends the VM and removes it; the instance is then only to be destroyed. Without it, destroy leaves the VM to its owner.
     * The thread that calls service() is no more: what it waits for, it reads itself. */
    void (*end)(struct backend_instance *instance);
};

struct backend_ops {
    const char *name;
    const char *description;
    uint32_t capabilities; /* bits of enum kelpie_capability */
    bool in_auto;          /* may be chosen by "auto" */
    bool has_hypervisor; /* somebody else's program or library, which config->hypervisor may name */

    const struct backend_owner_ops *owner; /* NULL: the machine is this process's */

    /* Looks whether this machine can run a guest with it. Never fails: says why not. */
    void (*probe)(struct host *host, struct kelpie_probe *ret_probe);

    enum kelpie_status (*create)(const struct backend_launch *launch,
                                 struct backend_instance **ret_instance, struct kelpie_error *err);
    void (*destroy)(struct backend_instance *instance);

    /* Which of the capabilities this instance has; NULL: all of them. */
    uint32_t (*instance_capabilities)(struct backend_instance *instance);

    /* Boots: returns when the machine's process runs and the channel exists, not when the guest answers. */
    enum kelpie_status (*start)(struct backend_instance *instance, const struct host_wait *wait,
                                struct kelpie_error *err);

    /* Does what can be done ahead of a load of this bundle. Optional, before that load; NULL: there is nothing. */
    enum kelpie_status (*prepare)(struct backend_instance *instance, struct snapshot_reader *reader,
                                  const struct host_wait *wait, struct kelpie_error *err);

    /* Loads a bundle: returns with the machine in memory and its vCPUs not running. Checks that the bundle fits
     * this backend, version, machine and host: SNAPSHOT_INCOMPATIBLE names what differs. */
    enum kelpie_status (*load)(struct backend_instance *instance, struct snapshot_reader *reader,
                               const struct host_wait *wait, struct kelpie_error *err);

    /* As load, but the vCPUs run as soon as they can; resume is called all the same. NULL: load does. */
    enum kelpie_status (*load_running)(struct backend_instance *instance,
                                       struct snapshot_reader *reader, const struct host_wait *wait,
                                       struct kelpie_error *err);

    /* vCPUs stop and go on. The guest was asked to stand still, or told to go on, by the caller. A pause that failed may be
     * carried out later: resume undoes it. To resume vCPUs that run changes nothing. */
    enum kelpie_status (*pause)(struct backend_instance *instance, const struct host_wait *wait,
                                struct kelpie_error *err);
    enum kelpie_status (*resume)(struct backend_instance *instance, const struct host_wait *wait,
                                 struct kelpie_error *err);

    /* The VM is up after a load: its disks are now those of the load, for this start and the next ones. Until then those
     * that it had before are kept. NULL: it has no disks. */
    enum kelpie_status (*settle)(struct backend_instance *instance, struct kelpie_error *err);

    /* Whether the VM has a disk of its own, kept from a start or load before. NULL: it never has. */
    bool (*has_disks)(struct backend_instance *instance);

    /* Says, for a user, how guests here get shared folders: "live, …" or "copied: …". Beside the others. NULL: they are copied. */
    void (*probe_shares)(struct host *host, char *text, size_t size);

    /* Whether the machine that was started has a virtio-fs device for that shared folder of the config (protocol.h,
     * SHARE). A start fails when it has none for one that must be `live`. NULL: it never has; src/vm/ copies it. */
    bool (*shows_share)(struct backend_instance *instance, size_t index);

    /* Writes into the manifest what a bundle made of a machine that is started now would say of what made it, and a load
     * check: version, architecture, digests, features. In state created or stopped. NULL: nothing but the config. */
    enum kelpie_status (*identify)(struct backend_instance *instance,
                                   struct snapshot_manifest *manifest, struct kelpie_error *err);

    /* For backends that can make diffs; NULL: it cannot. track: from now on, notes what is written; just after a save or
     * load, with the vCPUs stopped. The manifest of a diff's writer has the parent (parent_id, parent_path). presave
     * writes most of a diff while the vCPUs run; the save that follows writes the rest. BAD_CONFIG, field "parent": what
     * was written is not counted from there. */
    enum kelpie_status (*track)(struct backend_instance *instance, const struct host_wait *wait,
                                struct kelpie_error *err);
    enum kelpie_status (*presave)(struct backend_instance *instance, struct snapshot_writer *writer,
                                  const struct host_wait *wait, struct kelpie_error *err);

    /* For backends that can read ahead what a restored guest touches; NULL: it cannot. touched: writes into the file the
     * bitmap of a working set (snapshot/working_set.h), of a machine that was loaded and whose memory no save has read
     * since (WRONG_STATE). expect: what the next load may use; fd becomes the instance's, HOST_FD_NONE: nothing is read
     * ahead. note: touched will be asked for. */
    enum kelpie_status (*touched)(struct backend_instance *instance, int fd,
                                  const struct host_wait *wait, struct kelpie_error *err);
    void (*expect)(struct backend_instance *instance, int fd, bool note);

    /* Writes state, memory and disks into the writer's parts, and what a load must check into its manifest
     * (backend_version, features, digests, disks). The vCPUs are stopped and stay so. A writer in memory is one for a
     * fork: what it is given may be shared with the machine, as long as neither's writes reach the other. */
    enum kelpie_status (*save)(struct backend_instance *instance, enum kelpie_snapshot_kind kind,
                               struct snapshot_writer *writer, const struct host_wait *wait,
                               struct kelpie_error *err);

    /* Waits for the machine to end by itself (the guest was told to power off), until the wait is over; then
     * kills it. OK when nothing runs any more. */
    enum kelpie_status (*stop)(struct backend_instance *instance, const struct host_wait *wait,
                               struct kelpie_error *err);
    void (*kill)(struct backend_instance *instance);

    /* HOST_FD_NONE before start and after stop. */
    int (*channel_fd)(struct backend_instance *instance);
    int (*exit_fd)(struct backend_instance *instance);
    int (*process_id)(struct backend_instance *instance); /* 0: none */

    /* One line: "QEMU was killed by signal 9", with its last words. Valid until the next call. */
    void (*exit_text)(struct backend_instance *instance, char *buffer, size_t size);

    /* Descriptors that the backend wants read (console, events): up to capacity of them; and what to do when one
     * is readable. Both are called by the VM's I/O thread; service never waits. */
    size_t (*service_fds)(struct backend_instance *instance, int *fds, size_t capacity);
    void (*service)(struct backend_instance *instance, int fd);

    /* What the machine's writable disks take on this host's. NULL: it has none of its own. */
    uint64_t (*disk_bytes)(struct backend_instance *instance);

    /* The console's last bytes, up to size. */
    size_t (*console)(struct backend_instance *instance, void *buffer, size_t size);
};

/* Every backend built in, in the order in which "auto" tries them. */
const struct backend_ops *const *backend_table(size_t *ret_count);

/* By name; NULL: there is none. */
const struct backend_ops *backend_find(const char *name);

#endif
