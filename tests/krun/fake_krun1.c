/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* libkrun 1's functions. FAKE_OLD: as before 1.17; FAKE_PLAIN: built without disks; FAKE_NO_NET: without networks. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "fake.h"

static struct fake_machine machine;

static int32_t answer(bool ok) {
    return ok ? 0 : -EINVAL;
}

FAKE_API int32_t krun_create_ctx(void);
int32_t krun_create_ctx(void) {
    return fake_call("create_ctx", "%s", "") ? 5 : -ENOMEM;
}

FAKE_API int32_t krun_free_ctx(uint32_t context);
int32_t krun_free_ctx(uint32_t context) {
    return answer(fake_call("free_ctx", "%u", context));
}

FAKE_API int32_t krun_init_log(int fd, uint32_t level, uint32_t style, uint32_t options);
int32_t krun_init_log(int fd, uint32_t level, uint32_t style, uint32_t options) {
    return answer(fake_call("init_log", "%d %u %u %u", fd, level, style, options));
}

FAKE_API int32_t krun_set_vm_config(uint32_t context, uint8_t vcpu_count, uint32_t memory_mib);
int32_t krun_set_vm_config(uint32_t context, uint8_t vcpu_count, uint32_t memory_mib) {
    machine.memory_mib = memory_mib;
    return answer(fake_call("set_vm_config", "%u %u %u", context, vcpu_count, memory_mib));
}

FAKE_API int32_t krun_set_kernel(uint32_t context, const char *path, uint32_t format,
                                 const char *initramfs, const char *command_line);
int32_t krun_set_kernel(uint32_t context, const char *path, uint32_t format, const char *initramfs,
                        const char *command_line) {
    bool there = access(path, R_OK) == 0 && !initramfs;
    return answer(fake_call("set_kernel", "%u %u %s", context, format, command_line) && there);
}

#ifndef FAKE_PLAIN
FAKE_API int32_t krun_add_disk2(uint32_t context, const char *id, const char *path, uint32_t format,
                                bool read_only);
int32_t krun_add_disk2(uint32_t context, const char *id, const char *path, uint32_t format,
                       bool read_only) {
    bool there = access(path, R_OK) == 0;
    return answer(fake_call("add_disk2", "%u %s %u %s", context, id, format,
                            read_only ? "read-only" : "writable") &&
                  there);
}
#endif

#if !defined(FAKE_PLAIN) && !defined(FAKE_NO_NET)
/* The real one is given flags too, behind the rest. */
FAKE_API int32_t krun_add_net_unixstream(uint32_t context, const char *path, int fd,
                                         const uint8_t *mac, uint32_t features);
int32_t krun_add_net_unixstream(uint32_t context, const char *path, int fd, const uint8_t *mac,
                                uint32_t features) {
    bool there = !path && fcntl(fd, F_GETFD) >= 0;
    return answer(fake_call("add_net_unixstream", "%u %d %02x:%02x %u", context, fd, mac[0], mac[5],
                            features) &&
                  there);
}

FAKE_API int32_t krun_add_net_tap(uint32_t context, const char *name, const uint8_t *mac,
                                  uint32_t features, uint32_t flags);
int32_t krun_add_net_tap(uint32_t context, const char *name, const uint8_t *mac, uint32_t features,
                         uint32_t flags) {
    return answer(fake_call("add_net_tap", "%u %s %02x:%02x %u %u", context, name, mac[0], mac[5],
                            features, flags));
}
#endif

FAKE_API int32_t krun_disable_implicit_console(uint32_t context);
int32_t krun_disable_implicit_console(uint32_t context) {
    return answer(fake_call("disable_implicit_console", "%u", context));
}

#ifndef FAKE_OLD
FAKE_API int32_t krun_disable_implicit_vsock(uint32_t context);
int32_t krun_disable_implicit_vsock(uint32_t context) {
    return answer(fake_call("disable_implicit_vsock", "%u", context));
}
#endif

FAKE_API int32_t krun_add_virtio_console_multiport(uint32_t context);
int32_t krun_add_virtio_console_multiport(uint32_t context) {
    return fake_call("add_virtio_console_multiport", "%u", context) ? 3 : -EINVAL;
}

FAKE_API int32_t krun_add_console_port_tty(uint32_t context, uint32_t console, const char *name,
                                           int fd);
int32_t krun_add_console_port_tty(uint32_t context, uint32_t console, const char *name, int fd) {
    machine.console_fd = fd;
    bool is_terminal = isatty(fd) == 1; /* the real one asserts it */
    return answer(fake_call("add_console_port_tty", "%u %u '%s'", context, console, name) &&
                  is_terminal);
}

FAKE_API int32_t krun_add_console_port_inout(uint32_t context, uint32_t console, const char *name,
                                             int input_fd, int output_fd);
int32_t krun_add_console_port_inout(uint32_t context, uint32_t console, const char *name,
                                    int input_fd, int output_fd) {
    machine.channel_fd = input_fd;
    return answer(fake_call("add_console_port_inout", "%u %u '%s' %d %d", context, console, name,
                            input_fd, output_fd));
}

FAKE_API int32_t krun_start_enter(uint32_t context);
int32_t krun_start_enter(uint32_t context) {
    if (!fake_call("start_enter", "%u", context)) {
        return -EINVAL;
    }
    if (fake_has("enter-return")) {
        return 0; /* which the real one never does */
    }
    _exit(fake_run(&machine));
}
