/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The kvm backend: our own monitor, kelpie-vmm (src/vmm/), on Linux's KVM. */
#ifndef KELPIE_BACKEND_KVM_KVM_BACKEND_H
#define KELPIE_BACKEND_KVM_KVM_BACKEND_H

#include "backend/backend.h"

extern const struct backend_ops backend_kvm_ops;

#endif
