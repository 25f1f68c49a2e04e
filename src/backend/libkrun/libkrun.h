/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The libkrun backend: the monitor that is a shared library, in a process of its own (src/krun/). */
#ifndef KELPIE_BACKEND_LIBKRUN_LIBKRUN_H
#define KELPIE_BACKEND_LIBKRUN_LIBKRUN_H

#include "backend/backend.h"

extern const struct backend_ops backend_libkrun_ops;

#endif
