/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "backend/qemu/qemu_probe.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "host/host_kvm.h"

/* ---- Version ---------------------------------------------------------------------------------- */

bool qemu_version_parse(const char *text, char *ret_version, size_t size, unsigned *ret_major,
                        unsigned *ret_minor) {
    ASSERT(text && ret_version);
    ASSERT(size > 0);
    static const char before[] = "version ";
    const char *start = strstr(text, before);
    if (!start) {
        return false;
    }
    start += sizeof(before) - 1;
    size_t length = strspn(start, "0123456789.");
    unsigned major = 0;
    unsigned minor = 0;
    if (length == 0 || length >= size || sscanf(start, "%4u.%4u", &major, &minor) != 2) {
        return false;
    }
    memcpy(ret_version, start, length);
    ret_version[length] = 0;
    *ret_major = major;
    *ret_minor = minor;
    return true;
}

/* Reads until the other end closes or the buffer is full. */
static enum kelpie_status read_output(struct host *host, int fd, const struct host_wait *wait,
                                      char *buffer, size_t size, struct kelpie_error *err) {
    ASSERT(fd != HOST_FD_NONE);
    ASSERT(size > 0);
    size_t used = 0;
    while (used < size - 1) {
        size_t count = 0;
        TRY(host_read(host, fd, buffer + used, size - 1 - used, wait, &count, err));
        if (count == 0) {
            break;
        }
        used += count;
    }
    buffer[used] = 0;
    return KELPIE_OK;
}

static enum kelpie_status missing(struct kelpie_error *err, const char *binary) {
    ASSERT(binary);
    ASSERT(binary[0]);
    return error_wrap(err, KELPIE_BACKEND_MISSING,
                      "cannot run QEMU (%s); install it (" QEMU_INSTALL_HINT
                      ") or set KELPIE_QEMU to its path",
                      binary);
}

/* ---- Acceleration ----------------------------------------------------------------------------- */

static void choose_accelerator(struct host *host, struct qemu_probe *probe) {
    ASSERT(host);
    ASSERT(probe->ring0_ns == 0);
#if defined(__APPLE__)
    probe->accelerator = QEMU_ACCELERATOR_HVF;
    snprintf(probe->acceleration, sizeof(probe->acceleration), "the Hypervisor framework is used");
    (void)host;
#else
    struct kelpie_error error;
    probe->accelerator = QEMU_ACCELERATOR_TCG;
    if (host_kvm_probe(host, HOST_KVM_BUDGET_NS, &probe->ring0_ns, &error) != KELPIE_OK) {
        snprintf(probe->acceleration, sizeof(probe->acceleration), "emulated: %.200s",
                 error.message);
    } else if (!host_kvm_is_native(probe->ring0_ns)) {
        snprintf(
            probe->acceleration, sizeof(probe->acceleration),
            "emulated: /dev/kvm does not run kernel-mode code at speed (%u instructions take more "
            "than %llu ms)",
            HOST_KVM_INSTRUCTION_COUNT, HOST_KVM_NATIVE_NS_MAX / HOST_NS_PER_MS);
    } else {
        probe->accelerator = QEMU_ACCELERATOR_KVM;
        snprintf(probe->acceleration, sizeof(probe->acceleration),
                 "/dev/kvm runs %u kernel-mode instructions in %" PRIu64 " us",
                 HOST_KVM_INSTRUCTION_COUNT, probe->ring0_ns / 1000);
    }
#endif
}

/* ---- Both ------------------------------------------------------------------------------------- */

/* Starts `qemu --version`; what it prints comes out of *ret_fd. */
static enum kelpie_status version_spawn(struct host *host, const char *binary, int *ret_fd,
                                        struct host_process **ret_process,
                                        struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(binary && binary[0]);
    int fds[2] = {HOST_FD_NONE, HOST_FD_NONE};
    TRY(host_socket_pair(host, fds, err));
    AUTO_FD struct host_fd ours = {host, fds[0]};
    AUTO_FD struct host_fd theirs = {host, fds[1]};
    const char *const argv[] = {binary, "--version", NULL};
    const struct host_process_fd child_fds[] = {{.child_fd = 1, .fd = theirs.fd}};
    const struct host_process_spec spec = {
        .argv = argv,
        .fds = child_fds,
        .fd_count = ARRAY_SIZE(child_fds),
        .dies_with_owner = true,
    };
    TRY(host_process_spawn(host, &spec, ret_process, err));
    *ret_fd = host_fd_take(&ours);
    return KELPIE_OK;
}

static enum kelpie_status version_check(struct qemu_probe *probe, const char *output,
                                        struct kelpie_error *err) {
    ASSERT(probe->binary[0]);
    ASSERT(output);
    unsigned major = 0;
    unsigned minor = 0;
    if (!qemu_version_parse(output, probe->version, sizeof(probe->version), &major, &minor)) {
        return error_set(err, KELPIE_BACKEND_MISSING,
                         "%s --version does not name a version: is it QEMU? (" QEMU_INSTALL_HINT
                         ")",
                         probe->binary);
    }
    if (major < QEMU_VERSION_MAJOR_MIN ||
        (major == QEMU_VERSION_MAJOR_MIN && minor < QEMU_VERSION_MINOR_MIN)) {
        return error_set(err, KELPIE_BACKEND_MISSING,
                         "QEMU %s is too old: %d.%d or newer is needed (" QEMU_INSTALL_HINT ")",
                         probe->version, QEMU_VERSION_MAJOR_MIN, QEMU_VERSION_MINOR_MIN);
    }
    return KELPIE_OK;
}

enum kelpie_status qemu_probe_run(struct host *host, const char *named, int cancel_fd,
                                  struct qemu_probe *ret_probe, struct kelpie_error *err) {
    ASSERT(host);
    ASSERT(ret_probe);
    struct qemu_probe probe = {0};
    named = named ? named : host_environment(host, "KELPIE_QEMU");
    if (named && strlen(named) >= sizeof(probe.binary)) {
        return error_set(err, KELPIE_BACKEND_MISSING, "QEMU's name is longer than a path can be");
    }
    snprintf(probe.binary, sizeof(probe.binary), "%s", named ? named : "qemu-system-x86_64");
    struct host_process *process = NULL;
    int fd = HOST_FD_NONE;
    if (version_spawn(host, probe.binary, &fd, &process, err) != KELPIE_OK) {
        return missing(err, probe.binary);
    }
    AUTO_FD struct host_fd output_fd = {host, fd};
    choose_accelerator(host, &probe); /* while QEMU starts */
    char output[QEMU_VERSION_OUTPUT_SIZE_MAX + 1];
    const struct host_wait wait = host_wait_ms(host, QEMU_VERSION_TIMEOUT_MS, cancel_fd);
    enum kelpie_status status = read_output(host, output_fd.fd, &wait, output, sizeof(output), err);
    host_process_destroy(process);
    if (status == KELPIE_CANCELLED) {
        return status;
    }
    if (status != KELPIE_OK) {
        return missing(err, probe.binary);
    }
    TRY(version_check(&probe, output, err));
    *ret_probe = probe;
    return KELPIE_OK;
}

/* ---- TSC -------------------------------------------------------------------------------------- */

/* The clock is read before and after; of several tries the one with the least time between counts. */
struct qemu_tsc_sample qemu_tsc_sample(struct host *host) {
    static_assert(QEMU_TSC_TRIES > 0, "there is a best one");
    ASSERT(host);
    struct qemu_tsc_sample best = {0};
    uint64_t best_span_ns = UINT64_MAX;
    for (size_t i = 0; i < QEMU_TSC_TRIES; i++) {
        uint64_t before_ns = host_monotonic_ns(host);
        uint64_t ticks = host_ticks(host);
        uint64_t after_ns = host_monotonic_ns(host);
        ASSERT(after_ns >= before_ns);
        if (after_ns - before_ns < best_span_ns) {
            best_span_ns = after_ns - before_ns;
            best = (struct qemu_tsc_sample){.ticks = ticks, .ns = before_ns + best_span_ns / 2};
        }
    }
    return best;
}

uint64_t qemu_tsc_khz(const struct qemu_tsc_sample *from, const struct qemu_tsc_sample *to) {
    ASSERT(from && to);
    ASSERT(to->ns >= from->ns);
    uint64_t span_ns = to->ns - from->ns;
    if (span_ns < QEMU_TSC_SAMPLE_NS_MIN || to->ticks <= from->ticks) {
        return 0;
    }
    __extension__ typedef unsigned __int128 wide;
    wide khz = (wide)(to->ticks - from->ticks) * 1000000u / span_ns;
    return khz <= UINT32_MAX ? (uint64_t)khz : 0;
}
