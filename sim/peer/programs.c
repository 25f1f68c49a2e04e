/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The programs that a simulated machine has. */
#include <string.h>

#include "base/assert.h"
#include "sim/peer/busybox.h"
#include "sim/peer/firecracker.h"
#include "sim/peer/krun.h"
#include "sim/peer/owner.h"
#include "sim/peer/passt.h"
#include "sim/peer/qemu.h"
#include "sim/peer/vmm.h"

static const struct sim_program programs[] = {
    {PEER_VMM_PROGRAM, peer_vmm_main, false},
    {PEER_KRUN_PROGRAM, peer_krun_main, false},
    {PEER_PASST_PROGRAM, peer_passt_main, false},
    {SIM_QEMU_PROGRAM, sim_qemu_main, false},
    {"busybox", peer_busybox_main, false},
    {PEER_FIRECRACKER_PROGRAM, peer_firecracker_main, false},
    {PEER_OWNER_PROGRAM, peer_owner_main, true},
};

const struct sim_program *sim_program_find(const char *name) {
    ASSERT(name);
    ASSERT(name[0] != '\0');
    for (size_t i = 0; i < ARRAY_SIZE(programs); i++) {
        if (strcmp(programs[i].name, name) == 0) {
            return &programs[i];
        }
    }
    return NULL;
}
