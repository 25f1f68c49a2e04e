/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * vm.h: the VM behind a kelpie_vm handle, for the files of src/vm/ only.
 *
 * THEORY OF OPERATION
 *
 * A VM is a backend's machine, a channel to the guest's agent, and the exec sessions on it.
 *
 * Threads. Callers' threads run operations; one I/O thread (io.c) exists while there is a machine: it
 * reads the channel, the machine's own descriptors and its exit. Everything in struct kelpie_vm is
 * guarded by `mutex`, but for what is written once at create. Every change is announced by a broadcast
 * of `changed`, and every wait is a loop around vm_wait_step(), which ends it at its deadline, at a
 * cancel, and when the machine is gone.
 *
 * Operations that change the machine (start, stop, pause, resume, snapshot, restore) exclude each
 * other: vm_begin() checks the state table (state.c) and takes `busy`, vm_end() gives it back. The
 * backend's calls are made while busy and without the mutex; only kill, which makes them return, may
 * come in between.
 *
 * The channel (channel.c) holds one queue of bytes to the guest. Whoever has something to say puts it
 * there under the mutex and writes at once what the channel takes; the I/O thread writes the rest.
 * While the guest stands still (`held`, from FREEZE to THAWED) sessions say nothing, so that a snapshot
 * has no byte in flight: what they want to say is kept in them as state, and said afterwards.
 *
 * A VM with an owner (owned.c) is one whose machine another process has: whole operations are asked of it, its state is what
 * the owner tells, and its channel leads to a relay there. Sessions are the same.
 *
 * Lifetime. The VM is freed when its handle was destroyed and the last exec handle closed.
 */
#ifndef KELPIE_VM_VM_H
#define KELPIE_VM_VM_H

#include "backend/backend.h"
#include "base/cursor.h"
#include "protocol/protocol.h"
#include "protocol/stream.h"
#include "vm/relay.h"
#include "vm/vm_limits.h"

#define VM_MAGIC 0x4b4c5056u
#define EXEC_MAGIC 0x4b4c5058u

/* ---- State machine (state.c) ------------------------------------------------------------------ */

enum vm_operation {
    VM_OPERATION_START = 0,
    VM_OPERATION_STOP,
    VM_OPERATION_PAUSE,
    VM_OPERATION_RESUME,
    VM_OPERATION_EXEC,
    VM_OPERATION_COPY,
    VM_OPERATION_SNAPSHOT,
    VM_OPERATION_RESTORE,
    VM_OPERATION_FORK,
    VM_OPERATION_RECORD,
    VM_OPERATION_MEASURE,
    VM_OPERATION_COUNT
};

/* May the operation be done in this state? */
bool vm_state_allows(enum vm_operation operation, enum kelpie_state state);

/* May the VM go from one state to the other? Every change is asserted against it. */
bool vm_state_may_follow(enum kelpie_state from, enum kelpie_state to);

/* WRONG_STATE, naming the operation, the state, and the states that would be right. */
enum kelpie_status vm_state_error(enum vm_operation operation, enum kelpie_state state,
                                  struct kelpie_error *err);

/* ---- Config (config.c, check.c) --------------------------------------------------------------- */

/* A checked copy with every default filled in; freed by vm_config_destroy(). hostname and name
 * are the caller's to default. */
KELPIE_CHECKED enum kelpie_status vm_config_copy(struct host *host,
                                                 const struct kelpie_config *config, const char *id,
                                                 struct kelpie_config **ret_config,
                                                 struct kelpie_error *err);
void vm_config_destroy(struct kelpie_config *config);

/* Checks of single values, for commands too. `field` names the value in the error. */
KELPIE_CHECKED enum kelpie_status vm_check_path(const char *field, const char *path, bool absolute,
                                                struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status vm_check_name(const char *field, const char *name,
                                                const char *extra_characters,
                                                struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status vm_check_env(const char *const *env, size_t *ret_count,
                                               struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status vm_check_timeout(const char *field, uint32_t timeout_ms,
                                                   struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status vm_check_reserved(const char *field, const uint64_t *reserved,
                                                    size_t count, struct kelpie_error *err);

/* The whole config. */
KELPIE_CHECKED enum kelpie_status vm_check_config(const struct kelpie_config *config,
                                                  struct kelpie_error *err);

/* ---- The channel to the guest ----------------------------------------------------------------- */

/* What the guest answered on session 0: the last of each kind, and how many came. */
struct vm_answers {
    uint64_t hello_count;
    struct protocol_hello_ack hello;
    uint64_t setup_count;
    uint32_t setup_os_error;
    char setup_message[PROTOCOL_MESSAGE_SIZE_MAX + 1];
    uint64_t shared_count;
    uint32_t shared_os_error;
    char shared_message[PROTOCOL_MESSAGE_SIZE_MAX + 1];
    uint64_t frozen_count;
    struct protocol_frozen frozen;
    uint64_t thawed_count;
    struct protocol_thawed thawed;
    uint64_t sessions_count;
    struct protocol_sessions sessions;
    uint64_t figures_count;
    struct protocol_figures figures;
    uint64_t pong_token; /* the last that came back */
};

struct vm_channel {
    uint8_t *in;                     /* PROTOCOL_FRAME_SIZE_MAX bytes, the decoder's */
    struct protocol_decoder decoder; /* used by the I/O thread only */
    uint8_t *out;                    /* VM_OUT_CAPACITY bytes; [out_start, out_end) wait */
    size_t out_start;
    size_t out_end;
    bool open;        /* a machine is at the other end */
    bool ended;       /* a VM with an owner: there is nothing more to read */
    bool connected;   /* HELLO was answered */
    bool held;        /* the guest stands still: sessions say nothing */
    bool holding;     /* but for those that are `still` */
    char broken[192]; /* why the channel was given up; empty: it was not */
    uint8_t nonce[PROTOCOL_NONCE_SIZE];
    uint64_t ping_token; /* the last one sent */
    uint64_t list_count; /* LISTs sent */
    struct vm_answers answers;
};

/* ---- Exec sessions ---------------------------------------------------------------------------- */

enum vm_session_kind { VM_SESSION_COMMAND = 0, VM_SESSION_FILE };

#define VM_OUTPUT_COUNT 2 /* 0 stdout, 1 stderr */

struct vm_output {
    struct protocol_receiver receiver;
    struct ring ring; /* received, not yet read */
    size_t
        lent; /* bytes read whose reader has not come back yet: not consumed, vm_session_lend() */
    bool ack_wanted;
};

struct kelpie_exec {
    uint32_t magic;
    uint32_t id;
    struct kelpie_vm *vm;
    enum vm_session_kind kind;
    uint8_t *buffer; /* three windows: stdin, stdout, stderr */
    struct protocol_sender input;
    struct vm_output outputs[VM_OUTPUT_COUNT];
    bool input_refused; /* the command closed its stdin, or never had one */
    bool tty;           /* on a terminal; does not change once the handle is the caller's */
    bool started;
    struct protocol_started started_info;
    bool ended;
    struct protocol_ended ended_info;
    char ended_message[PROTOCOL_MESSAGE_SIZE_MAX + 1];
    bool attaching; /* ATTACH was said and not yet answered */
    struct protocol_attached attached;
    bool lost;   /* its machine is gone */
    bool closed; /* no handle any more: freed when nothing is left to say */
    bool release_wanted;
    bool detach_wanted; /* of a VM with an owner: its relay is told that the session is let go of */
    uint64_t signals_wanted; /* bit n-1: signal n is still to be said */
    bool resize_wanted;
    struct protocol_resize resize;
    uint64_t deadline_ns;  /* when we stop waiting for the guest to enforce the timeout; 0: none */
    uint64_t cancel_count; /* of the VM, when the session was made */

    bool still; /* it moves files while the guest stands still (HOLD) */

    bool yields;        /* a relay may take the session over from this handle (relay.h) */
    bool reclaimed;     /* but no more */
    bool yielded;       /* and one has: the handle says and hears nothing */
    bool attach_wanted; /* it was given back: ATTACH is to be said */

    /* A far end's session: no handle, no buffers and no rings; outputs[].receiver are what passed by, and `input_said` is what
     * the far end has said of stdin (received) and the guest has taken (acked). */
    struct vm_relay *relay; /* NULL: it is this process's */
    struct protocol_receiver input_said;
    bool offsets_known; /* those of outputs[], though the guest has not answered the ATTACH */
};

/* A session that the guest has, held or not, as far as is known. */
struct vm_guest_session {
    uint32_t id;
    uint64_t end_number; /* its command was the end_number-th to end; 0: it is not known to have */
};

/* ---- The VM ----------------------------------------------------------------------------------- */

struct kelpie_vm {
    uint32_t magic;
    uint32_t reference_count; /* the handle, and each exec handle */
    struct host *host;
    bool host_owned;
    const struct kelpie_config *config; /* in force: config_copy, or what the owner says */
    struct kelpie_config *config_copy;
    struct kelpie_config machine; /* the config with an image's disks: what the backend is given */
    struct kelpie_disk machine_disks[KELPIE_DISK_COUNT_MAX];
    char image_path[KELPIE_PATH_SIZE_MAX + 1]; /* of the image's file system; empty: not here */
    char image_digest[KELPIE_DIGEST_SIZE];     /* empty: no image */
    char id[KELPIE_ID_SIZE];
    const struct backend_ops *ops;
    struct backend_launch launch;
    struct backend_instance *instance;

    struct host_mutex *mutex; /* taken by vm_lock() */
    bool locked;              /* somebody holds it: what "mutex held" below asserts */
    struct host_condition *changed;
    int cancel_event; /* set by kelpie_vm_cancel(), cleared when the next operation begins */
    int wake_event;   /* makes the I/O thread look again */
    uint64_t cancel_count;
    uint64_t begun_cancel_count; /* when the operation, or the first request, under way began */

    enum kelpie_state state;
    bool busy;
    bool stopping;        /* the machine's end is wanted */
    bool stop_asked;      /* a stop interrupted the start in progress */
    bool machine_ended;   /* by itself, since the last start */
    uint32_t live_shares; /* bit i: the guest has mounted config->shares[i]; or its owner says so */
    bool machine_alive;   /* started or loaded, and not known to have ended */
    uint64_t machine_started_ns; /* or restored */
    char exit_text[512];
    struct host_thread *io_thread;
    bool io_stop;

    struct vm_channel channel;
    struct kelpie_exec *sessions[KELPIE_EXEC_COUNT_MAX];
    size_t session_count;
    size_t session_turn; /* which session speaks first next time */
    uint32_t session_id_last;
    uint32_t ids_first; /* this handle chooses session numbers out of ids_count from here on */
    uint32_t ids_count;
    struct vm_guest_session guest_sessions[PROTOCOL_SESSION_COUNT_MAX];
    size_t guest_session_count;
    uint64_t guest_session_ends; /* how many have ended */
    struct vm_relay *relays[VM_RELAY_COUNT_MAX];
    size_t relay_count;
    uint64_t relay_look_wanted; /* how often relays were asked to look (vm_relay_ask_to_look()) */
    uint32_t relay_block_last;  /* blocks of session numbers that were given out: from 1 */

    uint64_t owner_channel_number; /* of the channel that is open, or was last */
    uint64_t owner_channel_ended_ns;
    size_t owner_request_count; /* operations that the owner was asked for and has not answered */

    bool quiesced;      /* the guest stands still and said so */
    uint64_t paused_ns; /* since when */
    bool may_run;  /* paused, and yet the vCPUs were not stopped again after a resume that failed */
    bool restored; /* the report below is of this machine */
    bool fresh_wanted; /* restored and not yet run: clock, entropy, identity are to be made fresh */
    bool allow_incomplete;
    bool neutral;                 /* SETUP gives the guest a template's name and not the VM's */
    struct vm_template *template; /* in the making (warm.h); or NULL */
    struct kelpie_restore_report report;
    char parent_id[KELPIE_ID_SIZE];
    char bundle_directory[KELPIE_PATH_SIZE_MAX + 1]; /* where the bundle parent_id was; or empty */
    struct snapshot_session saved_sessions[KELPIE_EXEC_COUNT_MAX]; /* of the bundle */
    size_t saved_session_count;
    uint32_t stale_attaches[KELPIE_EXEC_COUNT_MAX]; /* sessions: vm_session_give_up_attach() */
    size_t stale_attach_count;
};

/* Asserts that the handle is one. */
void vm_check(const struct kelpie_vm *vm);

void vm_lock(struct kelpie_vm *vm);
void vm_unlock(struct kelpie_vm *vm);

/* Lets go of the mutex until something changes, or the deadline: false. */
bool vm_wait_changed(struct kelpie_vm *vm, uint64_t deadline_ns);

/* A wait of this VM: until when, and which cancels count. */
struct vm_wait {
    uint64_t deadline_ns;
    uint64_t cancel_count; /* another one ends it; VM_CANCEL_COUNT_NONE: no cancel does */
};
#define VM_CANCEL_COUNT_NONE UINT64_MAX

/* timeout_ms 0: for ever (the machine's end and a cancel still end it). mutex held. */
struct vm_wait vm_wait_start(struct kelpie_vm *vm, uint64_t timeout_ms);

/* Waits for a change: OK says look again; else TIMED_OUT (naming `what`), CANCELLED, or the machine's
 * end. mutex held. */
KELPIE_CHECKED enum kelpie_status vm_wait_step(struct kelpie_vm *vm, const struct vm_wait *wait,
                                               const char *what, struct kelpie_error *err);

/* OK while the machine and its channel are there, else why not: "cannot <what>: ...", so `what` says what to do, such as
 * "talk to the guest". mutex held. */
KELPIE_CHECKED enum kelpie_status vm_check_alive(struct kelpie_vm *vm, const char *what,
                                                 struct kelpie_error *err);

/* The same of a wait for `what`, such as "the guest to answer". */
KELPIE_CHECKED enum kelpie_status vm_check_awaited(struct kelpie_vm *vm, const char *what,
                                                   struct kelpie_error *err);

/* One lifecycle operation at a time: begin waits for the one before, up to timeout_ms (BUSY), and
 * checks capability and state. *ret_wait, for the backend's calls, ends at the same time. */
KELPIE_CHECKED enum kelpie_status vm_begin(struct kelpie_vm *vm, enum vm_operation operation,
                                           uint64_t timeout_ms, struct host_wait *ret_wait,
                                           struct kelpie_error *err);

/* status: what comes of the operation. After CRASHED the VM's state says the same. */
void vm_end(struct kelpie_vm *vm, enum kelpie_status status);

/* Whether the machine is there, as far as is known now. mutex not held. */
bool vm_machine_is_alive(struct kelpie_vm *vm);

/* Changes the state and tells everyone. mutex held. */
void vm_set_state(struct kelpie_vm *vm, enum kelpie_state state);

/* Gives back a reference; the last one frees. mutex not held. */
void vm_release(struct kelpie_vm *vm);

/* What a VM is made of. */
struct vm_origin {
    const struct kelpie_config *config; /* checked; NULL: open_name */
    const char *open_name;              /* a VM that has an owner already */
    bool for_bundle;                    /* a restore comes first */
    const struct backend_ops *ops;      /* NULL: as the config says */
    void *host;                         /* as a config's; NULL: a new one */
};

/* Makes a handle: of a VM in state created, or of one that has an owner, in whichever. */
KELPIE_CHECKED enum kelpie_status vm_create(const struct vm_origin *origin,
                                            struct kelpie_vm **ret_vm, struct kelpie_error *err);

/* The backend that runs it, and what that can do. */
const char *vm_backend_name(const struct kelpie_vm *vm);
uint32_t vm_capabilities(const struct kelpie_vm *vm);

/* The VM, which was made with another's host as its config's, becomes one of that host's owners. */
void vm_share_host(struct kelpie_vm *vm);

/* The host that a config asks for (may be NULL): its own, or a new one of this machine. */
KELPIE_CHECKED enum kelpie_status vm_host_open(const struct kelpie_config *config,
                                               struct host **ret_host, bool *ret_owned,
                                               struct kelpie_error *err);

/* `digits` random lower-case hexadecimal digits and a zero. */
KELPIE_CHECKED enum kelpie_status vm_random_hex(struct host *host, char *text, size_t digits,
                                                struct kelpie_error *err);

/* The backend that a config names, or the first that "auto" may take; and the one of VMs with an owner. */
KELPIE_CHECKED enum kelpie_status vm_backend_choose(struct host *host, const char *name,
                                                    const struct backend_ops **ret_ops,
                                                    struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status vm_backend_of_owners(const struct backend_ops **ret_ops,
                                                       struct kelpie_error *err);

/* ---- VMs with an owner (owned.c) -------------------------------------------------------------- */

/* Its machine is another process's. */
bool vm_is_owned(const struct kelpie_vm *vm);

/* From when the instance is made until it is destroyed: the thread that hears the owner. */
KELPIE_CHECKED enum kelpie_status vm_owned_open(struct kelpie_vm *vm, struct kelpie_error *err);

/* Gives the handle up; end: and the VM. */
void vm_owned_close(struct kelpie_vm *vm, bool end);

/* The I/O thread's: reads what the owner tells, and follows it; and looks whether a channel that ended has been followed by
 * word of it. */
void vm_owned_service(struct kelpie_vm *vm, int fd);
void vm_owned_watch(struct kelpie_vm *vm);

/* The channel of a VM that runs comes a moment after word of that. BUSY (retriable): it did not. mutex held. */
KELPIE_CHECKED enum kelpie_status
vm_owned_await_channel(struct kelpie_vm *vm, const struct vm_wait *wait, struct kelpie_error *err);

/* It cannot listen any more. */
void vm_owned_blind(struct kelpie_vm *vm);

/* The public operations of the same names, arguments checked. mutex not held. */
KELPIE_CHECKED enum kelpie_status vm_owned_start(struct kelpie_vm *vm, struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status vm_owned_stop(struct kelpie_vm *vm, uint32_t timeout_ms,
                                                struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status vm_owned_pause(struct kelpie_vm *vm, struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status vm_owned_resume(struct kelpie_vm *vm, struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status vm_owned_snapshot(struct kelpie_vm *vm, const char *directory,
                                                    const struct kelpie_snapshot_options *options,
                                                    struct kelpie_snapshot *ret_snapshot,
                                                    struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status vm_owned_restore(struct kelpie_vm *vm, const char *directory,
                                                   const struct kelpie_restore_options *options,
                                                   struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status vm_owned_restore_report(struct kelpie_vm *vm,
                                                          struct kelpie_restore_report *ret_report,
                                                          struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status vm_owned_record_working_set(struct kelpie_vm *vm,
                                                              struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status vm_owned_fork(struct kelpie_vm *vm,
                                                const struct kelpie_fork_options *options,
                                                size_t count, struct kelpie_fork_child *children,
                                                struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status
vm_owned_stats(struct kelpie_vm *vm, struct kelpie_stats *ret_stats, struct kelpie_error *err);

/* operation -1: crash. */
KELPIE_CHECKED enum kelpie_status vm_owned_mock_lever(struct kelpie_vm *vm, int operation,
                                                      uint32_t count, struct kelpie_error *err);

/* ---- The image (image.c) ---------------------------------------------------------------------- */

/*
 * Finds the image that vm->config names, fills in what is the image's where the caller's config `wanted` says nothing, and
 * makes vm->machine and vm->launch; without an image those too. for_bundle: the image need not be here.
 * NOT_FOUND, field "image"; UNSUPPORTED.
 */
KELPIE_CHECKED enum kelpie_status vm_image_apply(struct kelpie_vm *vm,
                                                 const struct kelpie_config *wanted,
                                                 bool for_bundle, struct kelpie_error *err);

/* The mounts of a SETUP. */
void vm_image_mounts(const struct kelpie_vm *vm, struct protocol_setup *setup);

/* What a manifest has to say of the image: written; compared at a restore; and as a config, with the bundle's disks but
 * for those that the image adds. SNAPSHOT_INCOMPATIBLE, SNAPSHOT_CORRUPT. */
KELPIE_CHECKED enum kelpie_status vm_image_describe(const struct kelpie_vm *vm,
                                                    struct snapshot_manifest *manifest,
                                                    struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status vm_image_fits(const struct kelpie_vm *vm,
                                                const struct snapshot_manifest *manifest,
                                                struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status vm_image_of_bundle(const struct snapshot_manifest *manifest,
                                                     struct kelpie_config *config,
                                                     struct kelpie_error *err);

/* ---- The network (network.c) ------------------------------------------------------------------ */

KELPIE_CHECKED enum kelpie_status vm_check_network(const struct kelpie_network *network,
                                                   struct kelpie_error *err);

/* A MAC address for a VM whose config has none. */
KELPIE_CHECKED enum kelpie_status
vm_network_draw_mac(struct host *host, char ret_text[MAC_TEXT_SIZE], struct kelpie_error *err);

/* What the guest is told of the network in the VM's config in force, which has one. */
struct protocol_network vm_network_message(const struct kelpie_network *network);

/* The bundle says whether its VM has a network; the caller, through what. *ret_network is theirs, or is made in
 * *storage; NULL: none. SNAPSHOT_INCOMPATIBLE, field "network". */
KELPIE_CHECKED enum kelpie_status vm_network_of_bundle(const struct snapshot_manifest *manifest,
                                                       const struct kelpie_config *wanted,
                                                       struct kelpie_network *storage,
                                                       const struct kelpie_network **ret_network,
                                                       struct kelpie_error *err);

/* What a manifest has to say of the config's network: written, and compared at a restore. */
KELPIE_CHECKED enum kelpie_status vm_network_describe(const struct kelpie_config *config,
                                                      struct snapshot_manifest *manifest,
                                                      struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status vm_network_fits(const struct kelpie_config *config,
                                                  const struct snapshot_manifest *manifest,
                                                  struct kelpie_error *err);

/* ---- Coming up (lifecycle.c): busy, mutex not held -------------------------------------------- */

/* What was known of the machine before: the next one is new. */
void vm_forget_machine(struct kelpie_vm *vm);

/* -> starting. */
void vm_starting(struct kelpie_vm *vm);

/* starting -> after, when status is OK; else nothing of the machine is left, and the state is `before`, or crashed
 * when the machine ended by itself. Ends the operation; returns status. */
enum kelpie_status vm_started(struct kelpie_vm *vm, enum kelpie_status status,
                              enum kelpie_state before, enum kelpie_state after,
                              struct kelpie_error *err);

/* The machine boots, and the guest comes up. */
KELPIE_CHECKED enum kelpie_status vm_boot(struct kelpie_vm *vm, const struct host_wait *wait,
                                          struct kelpie_error *err);

/* restore.c: the machine is loaded and goes on, unless it is to stay paused. After a failure the caller kills it. */
KELPIE_CHECKED enum kelpie_status vm_restore_machine(struct kelpie_vm *vm,
                                                     struct snapshot_reader *reader,
                                                     const struct kelpie_restore_options *options,
                                                     const struct host_wait *wait,
                                                     struct kelpie_error *err);

/* ---- Standing still (lifecycle.c): busy, mutex not held --------------------------------------- */

/* Commands stop, then vCPUs. Afterwards vm->quiesced says whether the commands did. */
KELPIE_CHECKED enum kelpie_status vm_stand_still(struct kelpie_vm *vm, const struct host_wait *wait,
                                                 struct kelpie_error *err);

/* Before the bytes of a VM that is paused are taken: what was not stopped is. */
KELPIE_CHECKED enum kelpie_status vm_stay_still(struct kelpie_vm *vm, const struct host_wait *wait,
                                                struct kelpie_error *err);

/* Of a VM that runs, is paused, or is coming up: commands stand still while files move (VM_SESSION_FILE, `still`). The vCPUs of one that
 * is paused run meanwhile. A failure leaves the VM as it was. */
KELPIE_CHECKED enum kelpie_status vm_hold(struct kelpie_vm *vm, const struct host_wait *wait,
                                          struct kelpie_error *err);

/* Afterwards the VM is as it was before vm_hold(). One that was paused, and does not stand still again, may run (may_run). */
KELPIE_CHECKED enum kelpie_status vm_hold_end(struct kelpie_vm *vm, const struct host_wait *wait,
                                              struct kelpie_error *err);

/* vCPUs go on, the guest is made fresh if it was restored, then commands go on. On failure the vCPUs
 * stand still again, or vm->may_run says that it is not known. */
KELPIE_CHECKED enum kelpie_status vm_go_on(struct kelpie_vm *vm, const struct host_wait *wait,
                                           struct kelpie_error *err);

/* snapshot.c: the VM's bytes go into the writer; a running one stands still meanwhile, and goes on whatever comes of
 * it. track: what it writes from then on is noted. */
KELPIE_CHECKED enum kelpie_status vm_capture(struct kelpie_vm *vm, enum kelpie_snapshot_kind kind,
                                             bool track, struct snapshot_writer *writer,
                                             const struct host_wait *wait,
                                             struct kelpie_error *err);

/* restore.c: as kelpie_vm_restore(), whose options are checked, from an open bundle. */
KELPIE_CHECKED enum kelpie_status vm_restore_from(struct kelpie_vm *vm,
                                                  struct snapshot_reader *reader,
                                                  const struct kelpie_restore_options *options,
                                                  struct kelpie_error *err);

/* UNSUPPORTED, field "kind", for a bundle without a machine. */
KELPIE_CHECKED enum kelpie_status vm_refuse_checkpoint(const struct snapshot_reader *reader,
                                                       struct kelpie_error *err);

/* What can be done ahead of a restore of this bundle, in state created or stopped. */
KELPIE_CHECKED enum kelpie_status vm_prepare(struct kelpie_vm *vm, struct snapshot_reader *reader,
                                             struct kelpie_error *err);

/* *options NULL becomes the defaults. */
KELPIE_CHECKED enum kelpie_status
vm_check_restore_options(const struct kelpie_restore_options **options, struct kelpie_error *err);

/* fork.c: what several VMs of one config cannot share leaves it: the console's log, the network's MAC and ports. network:
 * where the config's network is kept. */
void vm_child_config(struct kelpie_config *config, struct kelpie_network *network);

/* One of several VMs of a bundle: it is called "<name_prefix>-<number>". */
struct vm_child {
    const char *name_prefix;
    size_t number; /* from 1 */
};

/* fork.c: a VM with the bundle's config, and what vm_child_config() left of the siblings', on a host that it becomes an owner
 * of. BAD_CONFIG, field name_prefix: the name is too long. */
KELPIE_CHECKED enum kelpie_status vm_create_child(const struct snapshot_reader *reader,
                                                  const struct kelpie_config *siblings,
                                                  struct host *host, const struct vm_child *child,
                                                  struct kelpie_vm **ret_vm,
                                                  struct kelpie_error *err);

/* snapshot.c: the status of a snapshot that failed: CRASHED if the VM did, and what a caller treats differently stays;
 * anything else is SNAPSHOT_FAILED. */
enum kelpie_status vm_snapshot_status(struct kelpie_vm *vm, enum kelpie_status status,
                                      struct kelpie_error *err);

/* factory.c: a VM with the bundle's config, which is to be restored from it. */
KELPIE_CHECKED enum kelpie_status vm_create_of_bundle(struct host *host,
                                                      const struct snapshot_reader *reader,
                                                      const struct kelpie_config *wanted,
                                                      struct kelpie_vm **ret_vm,
                                                      struct kelpie_error *err);

/* What every backend that runs commands and copies files can do beside. */
uint32_t vm_capabilities_of(uint32_t backend);

/* What a snapshot or a restore may take, in milliseconds: timeout_ms, or the default for 0. */
uint64_t vm_snapshot_timeout(uint32_t timeout_ms);

/* Fails closed: every line of the restore report must be done, or be something that does not exist here, unless
 * the caller of the restore allowed less. mutex held. */
KELPIE_CHECKED enum kelpie_status vm_check_report(struct kelpie_vm *vm, struct kelpie_error *err);

/* Kills the machine, if there is one, and cleans up behind it. The state is the caller's to set. */
void vm_machine_kill(struct kelpie_vm *vm);

/* ---- The machine's I/O thread (io.c): busy, mutex not held ------------------------------------ */

/* After the backend's start or load: opens the channel and starts the thread. */
KELPIE_CHECKED enum kelpie_status vm_io_start(struct kelpie_vm *vm, struct kelpie_error *err);

/* Starts the thread; of a VM with an owner, from when its handle is made. */
KELPIE_CHECKED enum kelpie_status vm_io_thread_start(struct kelpie_vm *vm,
                                                     struct kelpie_error *err);

/* Ends the thread and closes the channel; every session is lost. */
void vm_io_stop(struct kelpie_vm *vm);

/* ---- The channel (channel.c): mutex held ------------------------------------------------------ */

void vm_channel_open(struct kelpie_vm *vm);
void vm_channel_close(struct kelpie_vm *vm);

/* Room for frames of `size` bytes, waiting for it: *ret_writer appends to the queue, and
 * vm_channel_commit() sends. */
KELPIE_CHECKED enum kelpie_status vm_channel_reserve(struct kelpie_vm *vm, size_t size,
                                                     const struct vm_wait *wait,
                                                     struct cursor_writer *ret_writer,
                                                     struct kelpie_error *err);
void vm_channel_commit(struct kelpie_vm *vm, const struct cursor_writer *writer);

/* The same if there is room now. */
bool vm_channel_try_reserve(struct kelpie_vm *vm, size_t size, struct cursor_writer *ret_writer);

/* The guest hears what sessions say. */
bool vm_channel_is_heard(const struct kelpie_vm *vm);

/* Waits until the guest no longer stands still. */
KELPIE_CHECKED enum kelpie_status
vm_channel_await_unheld(struct kelpie_vm *vm, const struct vm_wait *wait, struct kelpie_error *err);

/* Lets the sessions say what they want, and writes what the channel takes now. */
void vm_channel_flush(struct kelpie_vm *vm);

/* One frame from the guest. False: it breaks the protocol, and channel.broken says how. */
bool vm_channel_handle(struct kelpie_vm *vm, const struct protocol_frame *frame);

/* Gives the channel up. */
void vm_channel_break(struct kelpie_vm *vm, const char *why);

/* Conversations on session 0 (conversation.c). */
KELPIE_CHECKED enum kelpie_status vm_say_hello(struct kelpie_vm *vm, bool resync,
                                               const struct vm_wait *wait,
                                               struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status vm_say_setup(struct kelpie_vm *vm, const struct vm_wait *wait,
                                               struct kelpie_error *err);
/* UNSUPPORTED: the guest's kernel has no virtio-fs. */
KELPIE_CHECKED enum kelpie_status vm_say_share(struct kelpie_vm *vm,
                                               const struct protocol_share *share,
                                               const struct vm_wait *wait,
                                               struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status vm_say_freeze(struct kelpie_vm *vm, const struct vm_wait *wait,
                                                struct kelpie_error *err);
/* As FREEZE, and sessions that are `still` go on. UNSUPPORTED, field "guest": it does not know that. */
KELPIE_CHECKED enum kelpie_status vm_say_hold(struct kelpie_vm *vm, const struct vm_wait *wait,
                                              struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status vm_say_thaw(struct kelpie_vm *vm, bool restored,
                                              const struct vm_wait *wait, struct kelpie_error *err);
/* Afterwards channel.answers.sessions is of now. */
KELPIE_CHECKED enum kelpie_status vm_say_list(struct kelpie_vm *vm, const struct vm_wait *wait,
                                              struct kelpie_error *err);
/* Afterwards channel.answers.figures are of now, if *ret_known. A guest of before does not know the question. */
KELPIE_CHECKED enum kelpie_status vm_say_status(struct kelpie_vm *vm, const struct vm_wait *wait,
                                                bool *ret_known, struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status vm_say_power_off(struct kelpie_vm *vm, const struct vm_wait *wait,
                                                   struct kelpie_error *err);

/* ---- Sessions (session.c): mutex held, unless said otherwise ---------------------------------- */

/* A new session in the table, whose handle holds a reference on the VM. id 0: the next free one. */
KELPIE_CHECKED enum kelpie_status vm_session_create(struct kelpie_vm *vm, enum vm_session_kind kind,
                                                    uint32_t id, struct kelpie_exec **ret_exec,
                                                    struct kelpie_error *err);
struct kelpie_exec *vm_session_find(struct kelpie_vm *vm, uint32_t id);

/* The handle is given up; with `release` the guest is told to forget the session. mutex NOT held. */
void vm_session_close(struct kelpie_exec *exec, bool release);

/* As vm_wait_start(), for a call that made the session and waits more than once: a cancel between two of its waits
 * ends it too. mutex held. */
struct vm_wait vm_session_wait_start(const struct kelpie_exec *exec, uint64_t timeout_ms);

/* A frame of a session; false: it breaks the protocol. */
bool vm_session_handle(struct kelpie_vm *vm, const struct protocol_frame *frame);

/* Appends what the session has to say, as far as it fits. True: it said something. */
bool vm_session_speak(struct kelpie_exec *exec, struct cursor_writer *writer);

/* All that was consumed is acknowledged by the next flush: of one, of all. */
void vm_session_want_acks(struct kelpie_exec *exec);
void vm_sessions_want_acks(struct kelpie_vm *vm);

/* Time in which nothing ran does not count against a command's timeout. */
void vm_sessions_shift_deadlines(struct kelpie_vm *vm, uint64_t still_ns);

/* The machine is gone. */
void vm_sessions_lose(struct kelpie_vm *vm);

/* Frees closed sessions that have nothing more to say. */
void vm_sessions_collect(struct kelpie_vm *vm);

/* Waits until the session has started: EXEC_FAILED with the guest's errno when it could not. */
KELPIE_CHECKED enum kelpie_status vm_session_await_start(struct kelpie_exec *exec,
                                                         const struct vm_wait *wait,
                                                         struct kelpie_error *err);

/* Moves up to `size` bytes out of an output: they are consumed. */
size_t vm_session_take(struct kelpie_exec *exec, size_t output, void *buffer, size_t size);

/* The same, but they are consumed at vm_session_settle(), or when all acknowledgements are wanted: who reads may die
 * before it has passed them on. */
size_t vm_session_lend(struct kelpie_exec *exec, size_t output, void *buffer, size_t size);
void vm_session_settle(struct kelpie_exec *exec);

/* True when nothing more can come out of it. */
bool vm_session_drained(const struct kelpie_exec *exec, size_t output);

/* Queues at least one byte for stdin, waiting for room. EXEC_FAILED with EPIPE: it is closed. */
KELPIE_CHECKED enum kelpie_status vm_session_write(struct kelpie_exec *exec, const void *data,
                                                   size_t size, const struct vm_wait *wait,
                                                   size_t *ret_size, struct kelpie_error *err);

/* A session of a far end, in the table. */
KELPIE_CHECKED enum kelpie_status
vm_session_create_relayed(struct vm_relay *relay, struct kelpie_vm *vm, enum vm_session_kind kind,
                          uint32_t id, struct kelpie_exec **ret_exec, struct kelpie_error *err);

/* Where the reader stands. */
struct snapshot_session vm_session_offsets(const struct kelpie_exec *exec);

/* Before a session that may wait for ATTACHED is let go of: the answer, which still comes, is then not taken for that of the
 * next ATTACH. */
void vm_session_give_up_attach(struct kelpie_exec *exec);

/* Remembers it, for an attach later; and where an ATTACH of that session goes on: it is forgotten then. True: it was
 * known. */
void vm_session_note_offsets(struct kelpie_exec *exec);
bool vm_session_recall_offsets(struct kelpie_vm *vm, uint32_t id, struct protocol_attach *attach);

/* The handle that yielded this session to a relay, or NULL. */
struct kelpie_exec *vm_session_find_yielded(struct kelpie_vm *vm, uint32_t id);

/* A relay takes the session over from its handle, and gives it back. */
void vm_session_yield(struct kelpie_exec *exec);
void vm_session_take_back(struct kelpie_exec *exec);

/* Waits for a change that concerns this session: as vm_wait_step(), and EXEC_TIMED_OUT when the guest
 * does not enforce the command's timeout. */
KELPIE_CHECKED enum kelpie_status vm_session_wait_step(struct kelpie_exec *exec,
                                                       const struct vm_wait *wait, const char *what,
                                                       struct kelpie_error *err);

/* ---- What the guest has (guest_sessions.c): mutex held ----------------------------------------- */

/* A session was asked for; it has ended; it was given up. */
void vm_guest_session_opened(struct kelpie_vm *vm, uint32_t id);
void vm_guest_session_ended(struct kelpie_vm *vm, uint32_t id);
void vm_guest_session_released(struct kelpie_vm *vm, uint32_t id);
bool vm_guest_session_is_known(const struct kelpie_vm *vm, uint32_t id);

/* Before one more is asked for: with many there, those that have ended and that nobody holds are given up, the oldest
 * first. */
void vm_guest_sessions_make_room(struct kelpie_vm *vm);

/* ---- Relays (relay.c, relay_far.c, relay_guest.c): mutex held ---------------------------------- */

/* A frame of the guest for a session of a relay. */
void vm_relay_hear(struct kelpie_exec *exec, const struct protocol_frame *frame);

/*
 * A far end that has let go of a session, and said so, must not be taken for its holder because nobody has read that yet. Who
 * is about to refuse a session asks its relay to look, and waits until it has: true says that there was nothing more to read
 * since the question, or that it takes too long (two who ask each other wait in vain).
 */
struct vm_relay_look {
    uint64_t ticket; /* 0: not yet asked */
    uint64_t deadline_ns;
};
bool vm_relay_has_looked(struct vm_relay *relay, struct vm_relay_look *look);

/* Waits until all have passed on what their far ends had said, as far as that does not take long. */
void vm_relays_catch_up(struct kelpie_vm *vm, const struct vm_wait *wait);

/* PONG or SESSIONS came. */
void vm_relays_answer(struct kelpie_vm *vm);

/* The channel may have room for those that wait. */
void vm_relays_wake(struct kelpie_vm *vm);

/* The machine is gone. */
void vm_relays_lose(struct kelpie_vm *vm);

/* ---- Figures (stats.c) ------------------------------------------------------------------------- */

/* What the guest said last of its memory, if it can be. mutex held. */
void vm_stats_take_figures(const struct kelpie_vm *vm, struct kelpie_stats *stats);

/* ---- Commands (command.c) --------------------------------------------------------------------- */

KELPIE_CHECKED enum kelpie_status vm_command_check(const struct kelpie_config *config,
                                                   const struct kelpie_command *command,
                                                   struct kelpie_error *err);

/* Says EXEC. mutex held; waits for room. */
KELPIE_CHECKED enum kelpie_status vm_command_send(struct kelpie_exec *exec,
                                                  const struct kelpie_command *command,
                                                  const struct vm_wait *wait,
                                                  struct kelpie_error *err);

#endif
