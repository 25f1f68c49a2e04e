/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "conformance.h"

extern char **environ;

void expect(enum kelpie_status status, enum kelpie_status expected, const struct kelpie_error *err,
            const char *what, const char *file, int line) {
    if (status != expected) {
        print_error("%s:%d: %s\n  is %s, and should be %s: %s\n", file, line, what,
                    kelpie_status_name(status), kelpie_status_name(expected),
                    status != KELPIE_OK ? err->message : "");
        fail();
    }
    if (status != KELPIE_OK) {
        assert_int_equal(err->status, status);
        assert_true(strlen(err->message) > 0);
    }
}

void skip_aloud(const char *reason) {
    suite()->skipped++;
    print_message("skipped %u: %s: %s\n", suite()->skipped, suite()->backend, reason);
    skip();
}

void need(enum kelpie_capability capability, const char *what) {
    if (!(suite()->capabilities & capability)) {
        skip_aloud(what);
    }
}

/* ---- VMs -------------------------------------------------------------------------------------- */

struct kelpie_vm *make_vm(void) {
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = NULL;
    const struct kelpie_owner owner = {.program = suite()->program};
    const struct kelpie_config config = {.backend = suite()->backend,
                                         .vcpu_count = suite()->vcpu_count,
                                         .owner = suite()->store ? &owner : NULL};
    OK(kelpie_vm_create(&config, &vm, &err));
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_CREATED);
    return vm;
}

struct kelpie_vm *start_vm(void) {
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = make_vm();
    OK(kelpie_vm_start(vm, &err));
    assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_RUNNING);
    return vm;
}

void crash_vm(struct kelpie_vm *vm) {
    struct kelpie_error err = {0};
    int pid = kelpie_vm_process_id(vm);
    if (pid > 0) {
        assert_int_equal(kill(pid, SIGKILL), 0);
    } else {
        OK(kelpie_mock_crash(vm, &err));
    }
}

int group_vm_start(void **state) {
    (void)state;
    suite()->vm = start_vm();
    return 0;
}

int group_vm_stop(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    size_t count = 0;
    OK(kelpie_exec_list(suite()->vm, NULL, 0, &count, &err));
    assert_int_equal(count, 0); /* no case may leave a session */
    OK(kelpie_vm_stop(suite()->vm, 0, &err));
    kelpie_vm_destroy(suite()->vm);
    suite()->vm = NULL;
    return 0;
}

/* ---- This host -------------------------------------------------------------------------------- */

const char *host_path(const char *name) {
    static char paths[8][512];
    static unsigned next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof(paths[0]), "%s/%s", suite()->folder, name);
    return path;
}

void host_file_write(const char *path, const void *data, size_t size, unsigned mode) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    const char *bytes = data;
    while (size > 0) {
        ssize_t count = write(fd, bytes, size);
        assert_true(count > 0);
        bytes += count;
        size -= (size_t)count;
    }
    assert_int_equal(fchmod(fd, mode), 0);
    close(fd);
}

char *host_file_read(const char *path, size_t *ret_size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    struct stat info;
    assert_int_equal(fstat(fd, &info), 0);
    size_t size = (size_t)info.st_size;
    char *data = malloc(size + 1);
    assert_non_null(data);
    for (size_t done = 0; done < size;) {
        ssize_t count = read(fd, data + done, size - done);
        assert_true(count > 0);
        done += (size_t)count;
    }
    close(fd);
    *ret_size = size;
    return data;
}

int run_new_process(const char *const *arguments) {
    char *argv[8] = {(char *)suite()->program};
    for (size_t i = 0; i < 6 && arguments[i]; i++) {
        argv[i + 1] = (char *)arguments[i];
    }
    pid_t pid = 0;
    assert_int_equal(posix_spawn(&pid, suite()->program, NULL, NULL, argv, environ), 0);
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void folder_empty(const char *path) {
    DIR *folder = opendir(path);
    struct dirent *entry = folder ? readdir(folder) : NULL;
    while (entry) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            unlinkat(dirfd(folder), entry->d_name, 0);
        }
        entry = readdir(folder);
    }
    if (folder) {
        closedir(folder);
    }
}

int folder_clear(void **state) {
    (void)state;
    static const char *const bundles[] = {"bundle", "second", "third", "first", "base",
                                          "one",    "two",    "three", "full",  "away"};
    for (size_t i = 0; i < sizeof(bundles) / sizeof(bundles[0]); i++) {
        folder_empty(host_path(bundles[i]));
        rmdir(host_path(bundles[i]));
    }
    folder_empty(suite()->folder);
    return 0;
}

void pattern_fill(uint8_t *data, size_t size, uint32_t seed) {
    uint32_t value = seed * 2654435761u + 1;
    for (size_t i = 0; i < size; i++) {
        value = value * 1664525u + 1013904223u;
        data[i] = (uint8_t)(value >> 24);
    }
}

/* ---- Commands --------------------------------------------------------------------------------- */

void expect_shell(struct kelpie_vm *vm, const char *line, int code, const char *output) {
    struct kelpie_error err = {0};
    struct kelpie_output result = {0};
    OK(kelpie_vm_exec(vm, &(struct kelpie_command){.argv = SHELL(line)}, &result, &err));
    if (result.exit.code != code || (output && strcmp(result.stdout_data, output) != 0)) {
        print_error("%s: exit code %d, stdout '%s', stderr '%s'\n", line, result.exit.code,
                    result.stdout_data, result.stderr_data);
        fail();
    }
    kelpie_output_free(&result);
}

size_t read_stdout(struct kelpie_exec *exec, char *buffer, size_t size) {
    struct kelpie_error err = {0};
    size_t done = 0;
    while (done < size) {
        struct kelpie_chunk chunk = {.buffer = buffer + done, .size = size - done};
        OK(kelpie_exec_read(exec, &chunk, WAIT_MS, &err));
        if (chunk.stream == KELPIE_STREAM_NONE) {
            break;
        }
        if (chunk.stream == KELPIE_STREAM_STDOUT) {
            done += chunk.size;
        }
    }
    return done;
}

struct kelpie_exec *counter_start(struct kelpie_vm *vm) {
    struct kelpie_error err = {0};
    struct kelpie_exec *exec = NULL;
    const char *line = "i=0; while true; do i=$((i+1)); echo $i; sleep 0.01; done";
    OK(kelpie_exec_start(vm, &(struct kelpie_command){.argv = SHELL(line)}, &exec, &err));
    return exec;
}

const char *counter_text(void) {
    static char text[COUNTER_SIZE + 16];
    size_t size = 0;
    for (unsigned i = 1; text[COUNTER_SIZE - 1] == '\0' && size < COUNTER_SIZE; i++) {
        size += (size_t)snprintf(text + size, sizeof(text) - size, "%u\n", i);
    }
    return text;
}

uint64_t counter_check(struct kelpie_exec *exec, uint64_t offset, size_t size) {
    struct kelpie_error err = {0};
    char buffer[4096];
    uint64_t end = offset + size;
    while (offset < end) {
        struct kelpie_chunk chunk = {.buffer = buffer, .size = sizeof(buffer)};
        OK(kelpie_exec_read(exec, &chunk, WAIT_MS, &err));
        assert_int_equal(chunk.stream, KELPIE_STREAM_STDOUT);
        assert_int_equal(chunk.offset, offset);
        assert_true(offset + chunk.size <= COUNTER_SIZE);
        assert_memory_equal(buffer, counter_text() + offset, chunk.size);
        offset += chunk.size;
    }
    return offset;
}

/* ---- Twins ------------------------------------------------------------------------------------ */

void bundle_remove(const char *path) {
    DIR *folder = opendir(path);
    assert_non_null(folder);
    struct dirent *entry = readdir(folder);
    while (entry) {
        if (entry->d_name[0] != '.') {
            assert_int_equal(unlinkat(dirfd(folder), entry->d_name, 0), 0);
        }
        entry = readdir(folder);
    }
    closedir(folder);
    assert_int_equal(rmdir(path), 0);
}

void expect_different(struct kelpie_vm *a, struct kelpie_vm *b, const char *line) {
    struct kelpie_error err = {0};
    struct kelpie_output first = {0};
    struct kelpie_output second = {0};
    const struct kelpie_command command = {.argv = SHELL(line)};
    OK(kelpie_vm_exec(a, &command, &first, &err));
    OK(kelpie_vm_exec(b, &command, &second, &err));
    assert_int_equal(first.exit.code, 0);
    assert_true(first.stdout_size > 0);
    assert_int_equal(first.stdout_size, second.stdout_size);
    if (memcmp(first.stdout_data, second.stdout_data, first.stdout_size) == 0) {
        print_error("both VMs say the same: %s\n", line);
        fail();
    }
    kelpie_output_free(&first);
    kelpie_output_free(&second);
}

void expect_fresh(struct kelpie_vm *vm) {
    struct kelpie_error err = {0};
    struct kelpie_restore_report report = {0};
    OK(kelpie_vm_restore_report(vm, &report, &err));
    const enum kelpie_outcome outcomes[] = {report.entropy, report.generation, report.clock,
                                            report.network, report.hostname,   report.machine_id};
    for (size_t i = 0; i < sizeof(outcomes) / sizeof(outcomes[0]); i++) {
        assert_true(outcomes[i] == KELPIE_OUTCOME_DONE ||
                    outcomes[i] == KELPIE_OUTCOME_UNSUPPORTED);
    }
    assert_int_equal(report.entropy, KELPIE_OUTCOME_DONE);
    assert_int_equal(report.clock, KELPIE_OUTCOME_DONE);
}
