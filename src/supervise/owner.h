/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * owner.h: a VM's owner, for the files of src/supervise/ only.
 *
 * THEORY OF OPERATION
 *
 * The owner holds the lock of its VM's folder in the store, the VM itself, by the same library calls as anybody, and a socket.
 *
 * Threads. The main thread (supervise.c) accepts connections, looks at clocks, and ends it all. A connection (connection.c) has one that
 * reads; each request (request.c) has one of its own, for the library's calls wait. A watcher waits for the VM's state to change by
 * itself. A detached command (command.c) has one that reads its output. `mutex` guards what they share; it is never held across
 * a call that waits for the guest. The VM's own lock is inside of it: whoever is called with the VM locked (the relay's
 * on_output) takes only the log's mutex.
 *
 * The state is told to all by owner_note_state(), whoever sees it first, and before the answer to the request that changed it. It also
 * writes the record, and opens a channel for each connection whenever there is another machine.
 *
 * Requests of one VM come from many handles. The library puts operations in order; here they wait in front of it, so that a handle
 * which cancels its own ends no other's. Stop and end go past them.
 *
 * The end. Of a VM that was removed, at once; of one that does not run, when nobody has had a handle for a while; by a signal
 * to the process, after the VM was stopped. What a kill leaves behind is told by the lock that nobody holds.
 */
#ifndef KELPIE_SUPERVISE_OWNER_H
#define KELPIE_SUPERVISE_OWNER_H

#include "store/store.h"
#include "store/store_secrets.h"
#include "supervise/control.h"
#include "vm/relay.h"

struct owner;
struct connection;

/* One thing that a handle has asked for. */
struct request {
    struct connection *connection;
    struct host_thread *thread;
    uint64_t id;
    json_t *json;
    bool cancelled; /* guarded by the owner's mutex, as is finished */
    bool finished;
};

struct connection {
    struct owner *owner;
    int fd;
    int stop_event; /* set: the reader ends */
    struct host_thread *reader_thread;
    struct control_reader reader; /* the reader thread's */
    struct host_mutex *send_mutex;
    bool gone;    /* guarded by send_mutex: nothing is sent any more */
    bool ended;   /* by the owner's mutex: the reader is at its end */
    bool greeted; /* by the owner's mutex: it hears of states and channels */
    struct vm_relay *relay;
    uint64_t machine_number; /* that the relay is for; 0: none */
    struct request *requests[SUPERVISE_REQUEST_COUNT_MAX];
};

/* The command that the owner reads. */
struct detached {
    struct kelpie_exec *exec; /* NULL: there is none, or it is over */
    struct host_thread *thread;
    uint32_t exec_id; /* guarded by log_mutex, as is log: the VM may be locked meanwhile */
    struct store_log *log;
    struct host_mutex *log_mutex;
};

struct owner {
    struct host *host;
    struct store *store;
    struct store_vm place;
    struct kelpie_vm *vm;
    int listen_fd;
    int stop_event; /* set: the main thread looks why */
    int signal_fd;  /* readable: it ends in order; not the owner's; or HOST_FD_NONE */
    bool is_new;    /* made, not adopted */
    struct store_secrets *secrets; /* until the VM has them */
    struct host_thread *watcher;

    struct host_mutex *mutex; /* of all that follows */
    struct host_condition *changed;
    struct store_record *record;
    struct connection *connections[SUPERVISE_CONNECTION_COUNT_MAX];
    struct request *operating; /* its library call changes the machine */
    bool ending;               /* the main thread has left its loop */
    bool watched;              /* the watcher has seen that */
    bool removal_asked;
    bool signalled;          /* the main thread's */
    uint64_t machine_number; /* how many machines there were */
    bool machine_counted;    /* the one that is coming up, by whoever saw it first */
    char exit_text[512];     /* crashed: how; all of it */
    bool begun;              /* a machine was there, so that the VM's own state is what counts */
    uint64_t quiet_since_ns; /* nobody had a handle, a command, or a copy */
    uint64_t ended_ns;       /* the machine is over; 0: it is not */
    uint64_t created_ns;
    struct detached detached;

    /* Of connections that were there at the end: whoever sees them close finds that all is over. The main thread's. */
    int last_fds[SUPERVISE_CONNECTION_COUNT_MAX];
    size_t last_fd_count;
};

void owner_lock(struct owner *owner);
void owner_unlock(struct owner *owner);

/* ---- state.c ---------------------------------------------------------------------------------- */

/* Looks at the VM's state, and tells and records what is new. mutex not held. */
void owner_note_state(struct owner *owner);

/* There is another machine now. */
void owner_note_machine(struct owner *owner);

/* What the state is told as. mutex held. */
enum kelpie_state owner_state(struct owner *owner);

/* The message about it; NULL: no memory. mutex held. */
json_t *owner_state_message(struct owner *owner);

/* A channel for this connection, if there is a machine that it has none for. mutex held. */
void owner_give_channel(struct owner *owner, struct connection *connection);

/* Writes the record; what cannot be written is written by the next. mutex held. */
void owner_write_record(struct owner *owner);

/* The thread that waits for changes. */
void owner_watch(void *owner);

/* ---- connection.c ------------------------------------------------------------------------------ */

/* Serves a socket, which becomes the connection's; BUSY: there are too many. */
KELPIE_CHECKED enum kelpie_status connection_open(struct owner *owner, int fd,
                                                  struct connection **ret_connection,
                                                  struct kelpie_error *err);

/* From now on it hears of states and channels, beginning with those of now. */
void connection_greeted(struct connection *connection);

/* Ends it and waits until it is over. */
void connection_close(struct connection *connection);

/* Sends, in bounded time; who does not read is dropped. A descriptor stays the caller's. json is let go of; NULL: the connection is
 * dropped for want of memory. */
void connection_send(struct connection *connection, json_t *json, int passed_fd,
                     uint32_t timeout_ms);

/* What greets are answered with. NULL: no memory. mutex held. */
json_t *connection_welcome(struct owner *owner, uint64_t id);

/* ---- request.c --------------------------------------------------------------------------------- */

/* The answer to a request. NULL: no memory. */
json_t *request_answer(uint64_t id, const struct kelpie_error *err);

/* The thread of one request: does it and answers. */
void request_main(void *request);

/* ---- command.c --------------------------------------------------------------------------------- */

KELPIE_CHECKED enum kelpie_status detached_start(struct owner *owner,
                                                 const struct kelpie_command *command,
                                                 uint32_t *ret_exec_id, struct kelpie_error *err);

/* Waits for the thread to be over; the VM has been stopped. */
void detached_join(struct owner *owner);

/* A relay's. */
vm_relay_output detached_output;

/* ---- fork.c ------------------------------------------------------------------------------------ */

/* *ret_children: what the answer says of each. */
KELPIE_CHECKED enum kelpie_status owner_fork(struct owner *owner,
                                             const struct kelpie_fork_options *options,
                                             size_t count, json_t **ret_children,
                                             struct kelpie_error *err);

#endif
