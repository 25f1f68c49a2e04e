/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * firecracker_api.h: what Firecracker's API answers: its state machine, without a machine. Pure.
 *
 * THEORY OF OPERATION
 *
 * A request is a method, a path and a JSON body; an answer is a status and a JSON body: 200 with what was asked for, 204
 * without a body, 400 with {"fault_message": …}. A request is looked at in Firecracker's order: is there a body where there
 * must be one, does the path exist, is the body what the specification says (firecracker_schema.h), may it come now, does it
 * fit what was configured before.
 *
 *     not started -> running <-> paused
 *     not started: everything but PATCH /vm, PUT /snapshot/create, PATCH of devices, and the other actions
 *     running:     GET, PATCH /vm, PATCH of devices, the other actions; nothing that configures
 *     paused:      the same, and PUT /snapshot/create
 *
 * PUT /snapshot/load comes before everything else but PUT /logger and PUT /metrics, and leads to paused, or with resume_vm
 * to running.
 *
 * What needs a world (files, sockets, the guest) is an order: firecracker_api_begin() hands it out, its caller carries it
 * out, and firecracker_api_end() says how that went and only then changes anything.
 *
 *     if (firecracker_api_begin(api, request, &order, &answer)) {
 *         const char *fault = carry_out(&order);                     (NULL: done)
 *         firecracker_api_end(api, &order, fault, &answer);
 *     }
 *     … send the answer …
 *     firecracker_answer_deinit(&answer);
 */
#ifndef KELPIE_SIM_PEER_FIRECRACKER_API_H
#define KELPIE_SIM_PEER_FIRECRACKER_API_H

#include "sim/peer/firecracker_schema.h"
#include "sim/peer/http.h"

#define FIRECRACKER_VERSION "1.17.0"
#define FIRECRACKER_ID_SIZE_MAX 64 /* of an instance, a drive, an interface */
#define FIRECRACKER_DEVICE_COUNT_MAX 16

enum firecracker_state {
    FIRECRACKER_NOT_STARTED = 0,
    FIRECRACKER_RUNNING,
    FIRECRACKER_PAUSED,
    FIRECRACKER_STATE_COUNT
};

/* What is to be done in the world. The body's fields say with what. */
enum firecracker_effect {
    FIRECRACKER_EFFECT_NONE = 0,
    FIRECRACKER_EFFECT_KERNEL,    /* open kernel_image_path and, if it is there, initrd_path */
    FIRECRACKER_EFFECT_DRIVE,     /* open path_on_host, if it is there */
    FIRECRACKER_EFFECT_INTERFACE, /* open the tap host_dev_name */
    FIRECRACKER_EFFECT_VSOCK,     /* listen on uds_path */
    FIRECRACKER_EFFECT_LOG,       /* write to log_path or metrics_path from now on */
    FIRECRACKER_EFFECT_SERIAL,    /* write the console to serial_out_path, if it is there */
    FIRECRACKER_EFFECT_START,
    FIRECRACKER_EFFECT_PAUSE,
    FIRECRACKER_EFFECT_RESUME,
    FIRECRACKER_EFFECT_SAVE,
    FIRECRACKER_EFFECT_LOAD,
    FIRECRACKER_EFFECT_CTRL_ALT_DEL,
};

struct firecracker_answer {
    uint32_t status;
    bool deprecated;
    char *body; /* JSON, zero-terminated; NULL: none */
    size_t body_size;
};

struct firecracker_operation;

struct firecracker_order {
    enum firecracker_effect effect;
    json_t *body;
    bool deprecated;
    const struct firecracker_operation *operation;
};

struct firecracker_api {
    char id[FIRECRACKER_ID_SIZE_MAX + 1];
    enum firecracker_state state;
    bool configured; /* too late for a load */
    json_t *config;  /* as GET /vm/config says */
};

/* id: of the instance. False: there is no memory. */
bool firecracker_api_init(struct firecracker_api *api, const char *id);
void firecracker_api_deinit(struct firecracker_api *api);

/* Letters, digits and '-', 1 … FIRECRACKER_ID_SIZE_MAX of them: an instance may be called so. */
bool firecracker_id_is_valid(const char *id);

/* True: there is an order, and firecracker_api_end() comes next. False: the answer is there, for
 * firecracker_answer_deinit(). Whether it changed anything or not: an answer from here alone is always complete. */
bool firecracker_api_begin(struct firecracker_api *api, const struct http_request *request,
                           struct firecracker_order *ret_order,
                           struct firecracker_answer *ret_answer);

/* fault: why the order could not be carried out, or NULL. Takes the order. */
void firecracker_api_end(struct firecracker_api *api, struct firecracker_order *order,
                         const char *fault, struct firecracker_answer *ret_answer);

/* An answer of status 400 or 500. */
void firecracker_answer_fault(struct firecracker_answer *answer, uint32_t status,
                              const char *fault);
void firecracker_answer_deinit(struct firecracker_answer *answer);

/* What of the config belongs into a snapshot: the devices and the machine. A new object; NULL: no memory. */
json_t *firecracker_api_saved(const struct firecracker_api *api);

/* During FIRECRACKER_EFFECT_LOAD: what a snapshot has, with what the order changes of it, is to be the config. Changes nothing
 * and says why when it cannot be. */
bool firecracker_api_restore(struct firecracker_api *api, const struct firecracker_order *order,
                             const json_t *saved, char fault[FIRECRACKER_FAULT_SIZE]);

/* A text of the config, such as "vsock", "uds_path". NULL: there is none. */
const char *firecracker_api_text(const struct firecracker_api *api, const char *part,
                                 const char *name);
uint64_t firecracker_api_memory_mib(const struct firecracker_api *api);
bool firecracker_api_tracks(const struct firecracker_api *api);

/* ---- For the tests: the operations as a table ---------------------------------------------------- */

enum firecracker_when {
    FIRECRACKER_BEFORE = 1 << 0, /* the start */
    FIRECRACKER_AFTER = 1 << 1,
};

struct firecracker_operation {
    enum http_method method;
    const char *path;                        /* "/drives/{drive_id}" */
    const struct firecracker_schema *schema; /* of the body; NULL: it has none */
    uint32_t when;                           /* bits of enum firecracker_when */
    bool partial;                            /* no field is required */
    bool harmless;                           /* a load may still come after it */
    enum firecracker_effect effect;
    const char *part; /* of the config that the body is, or becomes one of; NULL: none */
};

const struct firecracker_operation *firecracker_operations(size_t *ret_count);

#endif
