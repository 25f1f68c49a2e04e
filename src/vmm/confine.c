/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vmm/confine.h"

#include <confine_filters.h> /* made by the build */
#include <errno.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/assert.h"

/* Everything that the first version of Landlock knows (landlock(7)): nothing is allowed below any path. */
#define LANDLOCK_ALL                                                                               \
    (LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_READ_FILE |   \
     LANDLOCK_ACCESS_FS_READ_DIR | LANDLOCK_ACCESS_FS_REMOVE_DIR |                                 \
     LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_DIR | \
     LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_MAKE_FIFO |   \
     LANDLOCK_ACCESS_FS_MAKE_BLOCK | LANDLOCK_ACCESS_FS_MAKE_SYM)

/* A sanitizer makes system calls of its own. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define FILTERS_APPLY false
#else
#define FILTERS_APPLY true
#endif

static bool load_filter(const struct sock_filter *steps, size_t count) {
    const struct sock_fprog program = {
        .len = (unsigned short)count,
        .filter = (struct sock_filter *)(uintptr_t)steps,
    };
    ASSERT(steps);
    ASSERT(count > 0 && count <= BPF_MAXINSNS);
    return !FILTERS_APPLY || syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0;
}

/* For a monitor of root's, which Landlock does not bind in all: an empty root, and no capabilities. The folder is one of this
 * thread's own in /proc, in which there is nothing to find once the thread has no right to look. */
static void leave_root(void) {
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    const struct __user_cap_data_struct nothing[_LINUX_CAPABILITY_U32S_3] = {{0}};
    ASSERT(nothing[0].effective == 0);
    static_assert(ARRAY_SIZE(nothing) == 2, "64 capabilities");
    if (geteuid() == 0 && chroot("/proc/self/fdinfo") == 0) {
        (void)!chdir("/");
    }
    (void)!syscall(SYS_capset, &header, nothing);
}

/* A kernel without Landlock leaves it to the filter, which lets nothing be opened either. */
static void forbid_files(void) {
    const struct landlock_ruleset_attr rules = {.handled_access_fs = LANDLOCK_ALL};
    long fd = syscall(SYS_landlock_create_ruleset, &rules, sizeof(rules), 0);
    ASSERT(rules.handled_access_fs != 0);
    ASSERT(fd >= -1);
    if (fd >= 0) {
        (void)!syscall(SYS_landlock_restrict_self, fd, 0);
        close((int)fd);
    }
}

enum kelpie_status confine_process(struct kelpie_error *err) {
    static const struct rlimit none = {0, 0};
    ASSERT(none.rlim_max == 0);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
        return error_set_os(err, errno, "cannot give up privileges");
    }
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    /* Not RLIMIT_NPROC: KVM starts a thread of its own in this process when a vCPU first runs, and it binds that too. */
    (void)!setrlimit(RLIMIT_CORE, &none);
    leave_root();
    forbid_files();
    ASSERT(ARRAY_SIZE(confine_io_filter) > 0);
    if (!load_filter(confine_io_filter, ARRAY_SIZE(confine_io_filter))) {
        return error_set_os(err, errno, "cannot limit the monitor's system calls");
    }
    return KELPIE_OK;
}

bool confine_vcpu_thread(void) {
    ASSERT(ARRAY_SIZE(confine_vcpu_filter) <= ARRAY_SIZE(confine_io_filter));
    ASSERT(ARRAY_SIZE(confine_vcpu_filter) > 0);
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           load_filter(confine_vcpu_filter, ARRAY_SIZE(confine_vcpu_filter));
}
