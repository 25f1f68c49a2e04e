/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The qemu backend: qemu-system-x86_64 as a child, driven by QMP, with whatever acceleration really runs. */
#ifndef KELPIE_BACKEND_QEMU_QEMU_H
#define KELPIE_BACKEND_QEMU_QEMU_H

#include "backend/backend.h"

extern const struct backend_ops backend_qemu_ops;

#endif
