/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The simulated guest as bytes: a bundle's `state` part. Numbers are little-endian.
 *
 *     "KELPMOCK" | u32 version | records: u32 tag, u32 size, payload
 *
 * Records come in this order: MACHINE; FILE for each, parents first; for each session SESSION and
 * behind it PROCESS for each of its processes; END. Nothing of the connection is in it: after a load every
 * session is detached. What was loaded is saved as the same bytes again.
 */
#ifndef KELPIE_BACKEND_MOCK_MOCK_STATE_H
#define KELPIE_BACKEND_MOCK_MOCK_STATE_H

#include "backend/mock/mock_guest.h"

/* Appends the guest to bytes. NO_MEMORY: it does not fit. */
KELPIE_CHECKED enum kelpie_status
mock_state_save(const struct mock_guest *guest, struct mock_bytes *bytes, struct kelpie_error *err);

/* Fills a guest that was just created. The bytes are untrusted: SNAPSHOT_CORRUPT with field "state"
 * and the offset of the record that is wrong, or NO_MEMORY; the guest is then only good for destroy. */
KELPIE_CHECKED enum kelpie_status mock_state_load(struct mock_guest *guest, const void *data,
                                                  size_t size, struct kelpie_error *err);

#endif
