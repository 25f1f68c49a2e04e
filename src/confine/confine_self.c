/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "confine/confine_self.h"

#include <errno.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/assert.h"

/* Everything that the first version of Landlock knows (landlock(7)). */
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

enum kelpie_status confine_privileges(struct kelpie_error *err) {
    static const struct rlimit none = {0, 0};
    ASSERT(none.rlim_max == 0);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
        return error_set_os(err, errno, "cannot give up privileges");
    }
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    (void)!setrlimit(RLIMIT_CORE, &none);
    return KELPIE_OK;
}

void confine_capabilities(uint64_t kept) {
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3] = {{0}};
    static_assert(ARRAY_SIZE(sets) == 2, "64 capabilities");
    if (syscall(SYS_capget, &header, sets) != 0) {
        return;
    }
    for (size_t i = 0; i < ARRAY_SIZE(sets); i++) {
        sets[i].permitted &= (uint32_t)(kept >> 32 * i);
        sets[i].effective = sets[i].permitted;
        sets[i].inheritable = 0;
    }
    ASSERT((sets[0].permitted & ~(uint32_t)kept) == 0);
    ASSERT((sets[1].permitted & ~(uint32_t)(kept >> 32)) == 0);
    (void)!syscall(SYS_capset, &header, sets);
}

bool confine_files(const struct confine_place *places, size_t count) {
    const struct landlock_ruleset_attr rules = {.handled_access_fs = LANDLOCK_ALL};
    ASSERT(places || count == 0);
    int fd = (int)syscall(SYS_landlock_create_ruleset, &rules, sizeof(rules), 0);
    ASSERT(fd >= -1);
    bool done = fd >= 0;
    for (size_t i = 0; done && i < count; i++) {
        const struct landlock_path_beneath_attr rule = {.allowed_access = places[i].access,
                                                        .parent_fd = places[i].fd};
        /* EBADFD: it has no name anywhere, and needs no rule. */
        done = syscall(SYS_landlock_add_rule, fd, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) == 0 ||
               errno == EBADFD;
    }
    done = done && syscall(SYS_landlock_restrict_self, fd, 0) == 0;
    if (fd >= 0) {
        close(fd);
    }
    return done;
}

bool confine_calls(const struct sock_filter *steps, size_t count) {
    const struct sock_fprog program = {
        .len = (unsigned short)count,
        .filter = (struct sock_filter *)(uintptr_t)steps,
    };
    ASSERT(steps);
    ASSERT(count > 0 && count <= BPF_MAXINSNS);
    return !FILTERS_APPLY || syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0;
}
