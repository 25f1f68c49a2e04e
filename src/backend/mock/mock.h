/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The mock backend: a whole VM that is only memory. Its guest speaks the real protocol over a socketpair. */
#ifndef KELPIE_BACKEND_MOCK_MOCK_H
#define KELPIE_BACKEND_MOCK_MOCK_H

#include "backend/backend.h"

extern const struct backend_ops backend_mock_ops;

/* The levers of kelpie_mock_fail() and kelpie_mock_crash(); the instance must be a mock's. */
void backend_mock_fail(struct backend_instance *instance, enum kelpie_mock_operation operation,
                       uint32_t count);
void backend_mock_crash(struct backend_instance *instance);

#endif
