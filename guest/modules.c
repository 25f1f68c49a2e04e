/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "modules.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/assert.h"
#include "system.h"

static void load_module(const char *path) {
    ASSERT(path[0] != 0);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ASSERT(fd == -1 || fd > 2);
    long failed = fd < 0 ? -1 : syscall(SYS_finit_module, fd, "", 0);
    if (failed != 0 && errno != EEXIST) {
        system_log("load %s: %s", path, strerror(errno));
    }
    if (fd >= 0) {
        close(fd);
    }
}

void modules_load(const char *list_path) {
    ASSERT(getpid() == 1);
    static_assert(GUEST_LIST_SIZE_MAX <= 65536, "the list lies on the stack");
    char list[GUEST_LIST_SIZE_MAX];
    system_read_text(list_path, list, sizeof(list));
    char *rest = list;
    for (uint32_t i = 0; i < GUEST_MODULE_COUNT_MAX && rest; i++) {
        const char *path = strsep(&rest, "\n");
        ASSERT(path);
        if (path[0] != 0) {
            load_module(path);
        }
    }
}
