/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * owner_vm.h: an owner without a process of its own, for tests of what src/vm/ does with one. A backend with backend_owner_ops
 * whose VMs are those of this process, each served through relays to as many handles as are opened.
 *
 *     struct kelpie_vm *vm = owner_vm_create(&(struct kelpie_config){.name = "a", .backend = "mock"});
 *     struct kelpie_vm *another = owner_vm_open("a");
 *     kelpie_mock_crash(owner_vm_served("a"), NULL);
 *     owner_vm_tell("a");
 *
 * Threads: handles may be used from several at once; owner_vm_create(), _open() and _forget() by one.
 */
#ifndef TESTS_SUPPORT_OWNER_VM_H
#define TESTS_SUPPORT_OWNER_VM_H

#include "vm/vm.h"

/* Handles: kelpie_vm_close() leaves the VM here, kelpie_vm_destroy() ends it. NULL: it failed, and *err says why. */
struct kelpie_vm *owner_vm_create(const struct kelpie_config *config, struct kelpie_error *err);
struct kelpie_vm *owner_vm_open(const char *name, struct kelpie_error *err);

/* The VM itself, and the relay to a handle. NULL: there is none. */
struct kelpie_vm *owner_vm_served(const char *name);
struct vm_relay *owner_vm_relay(struct kelpie_vm *handle);

/* Every handle is told the state of now. */
void owner_vm_tell(const char *name);

/* The owner dies: its VM with it, and handles hear nothing but that. */
void owner_vm_die(const char *name);

/* The next answers of this VM's owner come so much later; it tells the state first, as it must. */
void owner_vm_delay(const char *name, uint32_t delay_ms);

/* What passed by of held sessions, in order, as a string; of every VM. */
const char *owner_vm_passed(void);

/* Ends all that is still served. */
void owner_vm_forget(void);

#endif
