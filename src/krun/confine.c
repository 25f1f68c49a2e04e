/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "krun/confine.h"

#include <errno.h>
#include <fcntl.h>
#include <krun_filter.h> /* made by the build */
#include <linux/capability.h>
#include <linux/landlock.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/assert.h"
#include "confine/confine_self.h"

#define DEVICE_COUNT 2
#define READ_WRITE (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE)
#define BIT(capability) ((uint64_t)1 << (capability))

/* One that is not there is nothing that could be opened: libkrun says so. */
static size_t add_device(struct confine_place *places, size_t count, const char *path) {
    int fd = open(path, O_PATH | O_CLOEXEC);
    ASSERT(places);
    ASSERT(count < DEVICE_COUNT);
    if (fd < 0) {
        return count;
    }
    places[count] = (struct confine_place){.fd = fd, .access = READ_WRITE};
    return count + 1;
}

static void confine_open(const struct krun_order *order) {
    struct confine_place places[DEVICE_COUNT + KELPIE_DISK_COUNT_MAX];
    size_t count = add_device(places, 0, "/dev/kvm");
    ASSERT(order->disk_count <= KELPIE_DISK_COUNT_MAX);
    if (order->network == KRUN_NETWORK_TAP) {
        count = add_device(places, count, "/dev/net/tun");
    }
    const size_t device_count = count;
    for (size_t i = 0; i < order->disk_count; i++) {
        places[count++] = (struct confine_place){
            .fd = KRUN_CHILD_DISK_0 + (int)i,
            .access = order->read_only[i] ? LANDLOCK_ACCESS_FS_READ_FILE : READ_WRITE};
    }
    (void)!confine_files(places, count); /* a kernel without it leaves it to the other limits */
    for (size_t i = 0; i < device_count; i++) {
        close(places[i].fd);
    }
    ASSERT(count <= ARRAY_SIZE(places));
}

static void limit_descriptors(void) {
    struct rlimit limit = {0};
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_max > KRUN_FD_COUNT_MAX) {
        limit.rlim_cur = limit.rlim_max = KRUN_FD_COUNT_MAX;
        (void)!setrlimit(RLIMIT_NOFILE, &limit);
    }
}

enum kelpie_status krun_confine(const struct krun_order *order, struct kelpie_error *err) {
    ASSERT(order->verb == KRUN_VERB_RUN);
    ASSERT(ARRAY_SIZE(krun_filter) > 0);
    TRY(confine_privileges(err));
    limit_descriptors();
    confine_open(order);
    confine_capabilities(BIT(CAP_DAC_OVERRIDE) |
                         (order->network == KRUN_NETWORK_TAP ? BIT(CAP_NET_ADMIN) : (uint64_t)0));
    if (!confine_calls(krun_filter, ARRAY_SIZE(krun_filter))) {
        (void)error_set_os(err, errno, "cannot limit the system calls of libkrun's process");
        return error_wrap(err, KELPIE_BOOT_FAILED, "the machine was not made");
    }
    return KELPIE_OK;
}
