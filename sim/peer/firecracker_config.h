/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * firecracker_config.h: what a Firecracker is configured with, as one JSON object, which GET /vm/config shows: what fits
 * together in it, what a request makes of it, what a snapshot makes of it. Pure; for firecracker_api.c.
 */
#ifndef KELPIE_SIM_PEER_FIRECRACKER_CONFIG_H
#define KELPIE_SIM_PEER_FIRECRACKER_CONFIG_H

#include "sim/peer/firecracker_api.h"

#define FIRECRACKER_MEMORY_MIB_MAX (1 << 20)

/* That of a fresh process. NULL: no memory. */
json_t *firecracker_config_create(void);

/* The field that names one of a list's devices, of "drives" and "network-interfaces"; otherwise NULL. */
const char *firecracker_config_id(const char *part);

/* The order's body, which its schema allows, fits what is there. */
bool firecracker_config_check(const json_t *config, const struct firecracker_order *order,
                              char fault[FIRECRACKER_FAULT_SIZE]);

/* Does it. False: there is no memory. */
bool firecracker_config_put(json_t *config, const struct firecracker_order *order);

/* The config of a machine that was saved, with the overrides of the body of PUT /snapshot/load. NULL: *fault says why. */
json_t *firecracker_config_restore(const json_t *saved, const json_t *body,
                                   char fault[FIRECRACKER_FAULT_SIZE]);

#endif
