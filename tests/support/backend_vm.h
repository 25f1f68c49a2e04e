/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * One instance of a backend, driven without src/vm/: as much of the protocol as tells that the guest lives.
 * Every function fails the test (cmocka) when something goes wrong that it does not return.
 */
#ifndef KELPIE_TESTS_SUPPORT_BACKEND_VM_H
#define KELPIE_TESTS_SUPPORT_BACKEND_VM_H

#include "backend/backend.h"
#include "protocol/protocol.h"

#define BACKEND_VM_BOOT_MS 120000 /* emulated, on a busy machine */

struct backend_vm {
    const struct backend_ops *ops;
    struct host *host;
    struct kelpie_config config;
    struct kelpie_disk disks[2];
    struct backend_launch launch;
    struct backend_instance *instance; /* NULL: the backend cannot be used here */
    struct protocol_decoder decoder;
    uint8_t buffer[2 * PROTOCOL_FRAME_SIZE_MAX];
    uint64_t ping_token;
};

/* The smallest config; the caller may change it before backend_vm_create(). */
void backend_vm_init(struct backend_vm *vm, struct host *host, const struct backend_ops *ops);

/* The status of create. */
enum kelpie_status backend_vm_create(struct backend_vm *vm, struct kelpie_error *err);
enum kelpie_status backend_vm_start(struct backend_vm *vm, uint32_t timeout_ms,
                                    struct kelpie_error *err);

/* Says HELLO until HELLO_ACK comes. False: not within timeout_ms, or the channel ended. */
bool backend_vm_hello(struct backend_vm *vm, uint32_t timeout_ms,
                      struct protocol_hello_ack *ret_ack);

/* A PING and its PONG. A later call takes a late PONG for what it is. */
bool backend_vm_ping(struct backend_vm *vm, uint32_t timeout_ms);

/* Tells the guest to power off. */
void backend_vm_power_off(struct backend_vm *vm);

void backend_vm_pause(struct backend_vm *vm);
void backend_vm_resume(struct backend_vm *vm);
enum kelpie_status backend_vm_save(struct backend_vm *vm, const char *directory,
                                   enum kelpie_snapshot_kind kind, struct kelpie_error *err);
enum kelpie_status backend_vm_load(struct backend_vm *vm, const char *directory,
                                   struct kelpie_error *err);

/* Whether exit_fd says that the machine ended, within timeout_ms. */
bool backend_vm_ended(struct backend_vm *vm, uint32_t timeout_ms);
void backend_vm_stop(struct backend_vm *vm, uint32_t timeout_ms);
void backend_vm_destroy(struct backend_vm *vm);

#endif
