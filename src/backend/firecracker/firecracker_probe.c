/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "backend/firecracker/firecracker_probe.h"

#include <stdio.h>
#include <string.h>

#include "base/assert.h"

/* ---- Texts ------------------------------------------------------------------------------------ */

bool firecracker_version_parse(const char *text, struct firecracker_probe *probe) {
    static const char before[] = "Firecracker v";
    ASSERT(text);
    ASSERT(probe);
    const char *start = strstr(text, before);
    if (!start) {
        return false;
    }
    start += sizeof(before) - 1;
    size_t length = strspn(start, "0123456789.");
    if (length == 0 || length >= sizeof(probe->version) ||
        sscanf(start, "%4u.%4u", &probe->major, &probe->minor) != 2) {
        return false;
    }
    memcpy(probe->version, start, length);
    probe->version[length] = '\0';
    return true;
}

bool firecracker_probe_has(const struct firecracker_probe *probe, unsigned minor) {
    ASSERT(probe);
    ASSERT(probe->major >= FIRECRACKER_MAJOR_MIN);
    return probe->major > FIRECRACKER_MAJOR_MIN || probe->minor >= minor;
}

/* What stands behind "name<blanks>: " in a line of its own, up to size - 1 bytes. */
static bool line_value(const char *text, const char *name, char *value, size_t size) {
    size_t name_size = strlen(name);
    ASSERT(size > 0);
    ASSERT(name_size > 0);
    for (const char *line = text; *line; line += strcspn(line, "\n"), line += *line == '\n') {
        if (strncmp(line, name, name_size) != 0) {
            continue;
        }
        const char *at = line + name_size + strspn(line + name_size, " \t");
        if (at[0] == ':' && at[1] == ' ') {
            snprintf(value, size, "%.*s", (int)strcspn(at + 2, "\n"), at + 2);
            return true;
        }
    }
    return false;
}

void firecracker_cpu_parse(const char *text, char ret_cpu[FIRECRACKER_CPU_SIZE_MAX + 1]) {
    char vendor[16] = "";
    char family[12] = "";
    char model[12] = "";
    ASSERT(text);
    ASSERT(ret_cpu);
    bool found = line_value(text, "vendor_id", vendor, sizeof(vendor)) &&
                 line_value(text, "cpu family", family, sizeof(family)) &&
                 line_value(text, "model", model, sizeof(model));
    snprintf(ret_cpu, FIRECRACKER_CPU_SIZE_MAX + 1, "%s%s%s%s%s", found ? vendor : "unknown",
             found ? "-" : "", found ? family : "", found ? "-" : "", found ? model : "");
}

/* ---- The processor ---------------------------------------------------------------------------- */

/* A host whose processor cannot be told is no obstacle: Firecracker has a word in it, too. */
static void look_at_cpu(struct host *host, struct firecracker_probe *probe) {
    char text[FIRECRACKER_CPU_INFO_SIZE_MAX + 1] = "";
    AUTO_FD struct host_fd fd = {host, HOST_FD_NONE};
    size_t size = 0;
    ASSERT(host);
    ASSERT(probe);
    if (host_file_open(host, "/proc/cpuinfo", HOST_OPEN_READ, 0, &fd.fd, NULL) != KELPIE_OK ||
        host_file_read_at(host, fd.fd, text, sizeof(text) - 1, 0, &size, NULL) != KELPIE_OK) {
        size = 0;
    }
    text[size] = '\0';
    firecracker_cpu_parse(text, probe->cpu);
}

/* ---- The program ------------------------------------------------------------------------------ */

static enum kelpie_status missing(struct kelpie_error *err, const char *binary) {
    ASSERT(binary);
    ASSERT(binary[0]);
    return error_wrap(err, KELPIE_BACKEND_MISSING,
                      "cannot run Firecracker (%.512s); " FIRECRACKER_INSTALL_HINT, binary);
}

/* The config's or $KELPIE_FIRECRACKER, made absolute, as the process has another working folder; or the name. */
static enum kelpie_status find(struct host *host, const char *named,
                               struct firecracker_probe *probe, struct kelpie_error *err) {
    char folder[HOST_PATH_SIZE_MAX + 1] = "";
    ASSERT(probe);
    ASSERT(probe->binary[0] == '\0');
    named = named ? named : host_environment(host, "KELPIE_FIRECRACKER");
    named = named ? named : "firecracker";
    if (named[0] != '/' && strchr(named, '/')) {
        TRY(host_working_dir(host, folder, sizeof(folder), err));
    }
    int size = snprintf(probe->binary, sizeof(probe->binary), "%s%s%s", folder,
                        folder[0] ? "/" : "", named);
    if (size < 0 || (size_t)size >= sizeof(probe->binary)) {
        return error_set(err, KELPIE_BACKEND_MISSING,
                         "Firecracker's name is longer than a path can be");
    }
    return KELPIE_OK;
}

static enum kelpie_status spawn(struct host *host, const char *binary, int *ret_fd,
                                struct host_process **ret_process, struct kelpie_error *err) {
    int fds[2] = {HOST_FD_NONE, HOST_FD_NONE};
    ASSERT(binary[0]);
    ASSERT(ret_fd && ret_process);
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

static enum kelpie_status read_output(struct host *host, int fd, const struct host_wait *wait,
                                      char buffer[FIRECRACKER_VERSION_OUTPUT_SIZE_MAX + 1],
                                      struct kelpie_error *err) {
    size_t used = 0;
    size_t count = 1;
    ASSERT(fd != HOST_FD_NONE);
    ASSERT(buffer);
    while (used < FIRECRACKER_VERSION_OUTPUT_SIZE_MAX && count > 0) {
        TRY(host_read(host, fd, buffer + used, FIRECRACKER_VERSION_OUTPUT_SIZE_MAX - used, wait,
                      &count, err));
        used += count;
    }
    buffer[used] = '\0';
    return KELPIE_OK;
}

/* A program that crashes is as good as none, and says so at once. */
static enum kelpie_status check_end(const struct host_process_exit *end, const char *binary,
                                    struct kelpie_error *err) {
    ASSERT(end);
    ASSERT(binary[0]);
    if (end->signal != 0) {
        return error_set(err, KELPIE_BACKEND_MISSING,
                         "%.512s --version was killed by signal %d: it does not run "
                         "here; " FIRECRACKER_INSTALL_HINT,
                         binary, end->signal);
    }
    if (end->code != 0) {
        return error_set(
            err, KELPIE_BACKEND_MISSING,
            "%.512s --version exited with code %d: is it Firecracker? " FIRECRACKER_INSTALL_HINT,
            binary, end->code);
    }
    return KELPIE_OK;
}

static enum kelpie_status check_version(struct firecracker_probe *probe, const char *output,
                                        struct kelpie_error *err) {
    ASSERT(probe->binary[0]);
    ASSERT(output);
    if (!firecracker_version_parse(output, probe)) {
        return error_set(err, KELPIE_BACKEND_MISSING,
                         "%.512s --version does not name a version: is it "
                         "Firecracker? " FIRECRACKER_INSTALL_HINT,
                         probe->binary);
    }
    if (probe->major < FIRECRACKER_MAJOR_MIN ||
        (probe->major == FIRECRACKER_MAJOR_MIN && probe->minor < FIRECRACKER_MINOR_MIN)) {
        return error_set(err, KELPIE_BACKEND_MISSING,
                         "Firecracker %s (%.512s) is too old; " FIRECRACKER_INSTALL_HINT,
                         probe->version, probe->binary);
    }
    return KELPIE_OK;
}

/* What a run of it printed, and how it ended. */
struct outcome {
    char output[FIRECRACKER_VERSION_OUTPUT_SIZE_MAX + 1];
    struct host_process_exit end;
};

static enum kelpie_status ask_version(struct host *host, const char *binary, int cancel_fd,
                                      struct outcome *ret_outcome, struct kelpie_error *err) {
    struct host_process *process = NULL;
    int fd = HOST_FD_NONE;
    ASSERT(binary[0]);
    ASSERT(ret_outcome);
    TRY(spawn(host, binary, &fd, &process, err));
    AUTO_FD struct host_fd output_fd = {host, fd};
    const struct host_wait wait = host_wait_ms(host, FIRECRACKER_VERSION_TIMEOUT_MS, cancel_fd);
    enum kelpie_status status = read_output(host, output_fd.fd, &wait, ret_outcome->output, err);
    if (status == KELPIE_OK) {
        status = host_process_wait(process, &wait, &ret_outcome->end, err);
    }
    host_process_destroy(process);
    return status;
}

/* Who asks for a jail must not get a Firecracker without one. */
static enum kelpie_status check_jailer(struct host *host, struct kelpie_error *err) {
    const char *jailer = host_environment(host, "KELPIE_JAILER");
    ASSERT(host);
    ASSERT(host->ops);
    if (!jailer || !jailer[0]) {
        return KELPIE_OK;
    }
    return error_set(err, KELPIE_UNSUPPORTED,
                     "KELPIE_JAILER is set, and the firecracker backend cannot run Firecracker "
                     "under its jailer (docs/FIRECRACKER.md says why): unset it to run Firecracker "
                     "without one, or use the backend kvm, whose monitor confines itself");
}

enum kelpie_status firecracker_probe_run(struct host *host, const char *named, int cancel_fd,
                                         struct firecracker_probe *ret_probe,
                                         struct kelpie_error *err) {
    struct outcome outcome = {0};
    ASSERT(host);
    ASSERT(ret_probe);
    memset(ret_probe, 0, sizeof(*ret_probe));
    TRY(check_jailer(host, err));
    TRY(find(host, named, ret_probe, err));
    enum kelpie_status status = ask_version(host, ret_probe->binary, cancel_fd, &outcome, err);
    if (status == KELPIE_CANCELLED || status == KELPIE_NO_MEMORY) {
        return status;
    }
    if (status != KELPIE_OK) {
        return missing(err, ret_probe->binary);
    }
    TRY(check_end(&outcome.end, ret_probe->binary, err));
    TRY(check_version(ret_probe, outcome.output, err));
    look_at_cpu(host, ret_probe);
    return KELPIE_OK;
}
