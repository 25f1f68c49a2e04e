/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The backend of VMs that another process owns. What is said to that one: supervise/control.h. */
#ifndef KELPIE_BACKEND_REMOTE_REMOTE_H
#define KELPIE_BACKEND_REMOTE_REMOTE_H

#include "backend/backend.h"

extern const struct backend_ops backend_remote_ops;

#endif
