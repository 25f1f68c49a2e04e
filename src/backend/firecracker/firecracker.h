/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The firecracker backend: Firecracker as a child, driven through its API on a UNIX socket. */
#ifndef KELPIE_BACKEND_FIRECRACKER_FIRECRACKER_H
#define KELPIE_BACKEND_FIRECRACKER_FIRECRACKER_H

#include "backend/backend.h"

extern const struct backend_ops backend_firecracker_ops;

#endif
