/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vmm/confine.h"

#include <confine_filters.h> /* made by the build */
#include <errno.h>
#include <linux/filter.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/assert.h"
#include "confine/confine_self.h"

/* For a monitor of root's, which Landlock does not bind in all: an empty root, and no capabilities. The folder is one of this
 * thread's own in /proc, in which there is nothing to find once the thread has no right to look. */
static void leave_root(void) {
    if (geteuid() == 0 && chroot("/proc/self/fdinfo") == 0) {
        (void)!chdir("/");
    }
    confine_capabilities(0);
}

enum kelpie_status confine_process(struct kelpie_error *err) {
    ASSERT(ARRAY_SIZE(confine_io_filter) > 0);
    /* Not RLIMIT_NPROC: KVM starts a thread of its own in this process when a vCPU first runs, and it binds that too. */
    TRY(confine_privileges(err));
    leave_root();
    (void)!confine_files(NULL, 0); /* without it, the filter lets nothing be opened either */
    if (!confine_calls(confine_io_filter, ARRAY_SIZE(confine_io_filter))) {
        return error_set_os(err, errno, "cannot limit the monitor's system calls");
    }
    return KELPIE_OK;
}

bool confine_vcpu_thread(void) {
    ASSERT(ARRAY_SIZE(confine_vcpu_filter) <= ARRAY_SIZE(confine_io_filter));
    ASSERT(ARRAY_SIZE(confine_vcpu_filter) > 0);
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           confine_calls(confine_vcpu_filter, ARRAY_SIZE(confine_vcpu_filter));
}
