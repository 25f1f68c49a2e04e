/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The qemu backend with the real QEMU and the real guest; scripts stand in for a QEMU that misbehaves. */
#include "backend/qemu/qemu.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "backend/qemu/qemu_limits.h"
#include "support/backend_vm.h"
#include "base/assert.h"
#include "base/cleanup.h"

#define PING_MS 20000
#define STILL_MS 300   /* how long silence must last */
#define NOTICE_MS 5000 /* how soon a death is known, on a busy machine */
#define DISK_SIZE 1048576
#define DISK_2_SIZE 2097152

struct fixture {
    struct host *host;
    struct backend_vm vm;
    struct backend_vm other;
    char folder[64];
    char path[6][96]; /* two bundles, two disks, a script, and one more bundle */
};

enum { BUNDLE = 0, BUNDLE_2, DISK, DISK_2, SCRIPT, BUNDLE_3 };

static size_t open_fd_count(void) {
    DIR *folder = opendir("/proc/self/fd");
    assert_non_null(folder);
    size_t count = 0;
    while (readdir(folder)) {
        count++;
    }
    closedir(folder);
    return count;
}

static int setup(void **state) {
    static const char *const names[] = {"bundle", "bundle-2", "disk", "disk-2", "qemu", "bundle-3"};
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    assert_non_null(fixture);
    assert_int_equal(host_linux_create(&fixture->host, NULL), KELPIE_OK);
    snprintf(fixture->folder, sizeof(fixture->folder), "/tmp/kelpie-qemu-test-%d", getpid());
    assert_int_equal(host_path_mkdir(fixture->host, fixture->folder, 0700, NULL), KELPIE_OK);
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        snprintf(fixture->path[i], sizeof(fixture->path[i]), "%s/%s", fixture->folder, names[i]);
    }
    backend_vm_init(&fixture->vm, fixture->host, &backend_qemu_ops);
    backend_vm_init(&fixture->other, fixture->host, &backend_qemu_ops);
    *state = fixture;
    return 0;
}

static int teardown(void **state) {
    struct fixture *fixture = *state;
    unsetenv("KELPIE_QEMU");
    backend_vm_destroy(&fixture->vm);
    backend_vm_destroy(&fixture->other);
    for (size_t i = 0; i < ARRAY_SIZE(fixture->path); i++) {
        enum kelpie_status ignored = host_path_remove_folder(fixture->host, fixture->path[i], NULL);
        (void)ignored; /* a file, or not there */
        unlink(fixture->path[i]);
    }
    /* Nothing of ours is left in it. */
    assert_int_equal(host_path_rmdir(fixture->host, fixture->folder, NULL), KELPIE_OK);
    host_destroy(fixture->host);
    free(fixture);
    return 0;
}

/* Creates, or skips the test aloud where there is no QEMU or no kernel. */
static void create(struct backend_vm *vm) {
    struct kelpie_error err;
    enum kelpie_status status = backend_vm_create(vm, &err);
    if (status == KELPIE_BACKEND_MISSING || status == KELPIE_NOT_FOUND) {
        print_message("skipped: %s\n", err.message);
        skip();
    }
    if (status != KELPIE_OK) {
        fail_msg("create: %s", err.message);
    }
}

static void assert_ok(enum kelpie_status status, const struct kelpie_error *err) {
    if (status != KELPIE_OK) {
        fail_msg("%s: %s", kelpie_status_name(status), err->message);
    }
}

static void boot(struct backend_vm *vm) {
    struct kelpie_error err;
    struct protocol_hello_ack ack;
    create(vm);
    uint64_t start_ns = host_monotonic_ns(vm->host);
    assert_ok(backend_vm_start(vm, BACKEND_VM_BOOT_MS, &err), &err);
    uint64_t started_ns = host_monotonic_ns(vm->host);
    if (!backend_vm_hello(vm, BACKEND_VM_BOOT_MS, &ack)) {
        char console[4096];
        size_t size = vm->ops->console(vm->instance, console, sizeof(console));
        fail_msg("no answer; the console: %.*s", (int)size, console);
    }
    print_message("start %llu ms, first answer %llu ms\n",
                  (unsigned long long)((started_ns - start_ns) / HOST_NS_PER_MS),
                  (unsigned long long)((host_monotonic_ns(vm->host) - start_ns) / HOST_NS_PER_MS));
}

static void save(struct backend_vm *vm, const char *directory, enum kelpie_snapshot_kind kind) {
    struct kelpie_error err;
    backend_vm_pause(vm);
    uint64_t start_ns = host_monotonic_ns(vm->host);
    assert_ok(backend_vm_save(vm, directory, kind, &err), &err);
    print_message("save %llu ms\n",
                  (unsigned long long)((host_monotonic_ns(vm->host) - start_ns) / HOST_NS_PER_MS));
}

/* Loads and runs it; the guest answers. */
static void load(struct backend_vm *vm, const char *directory) {
    struct kelpie_error err;
    struct protocol_hello_ack ack;
    uint64_t start_ns = host_monotonic_ns(vm->host);
    assert_ok(backend_vm_load(vm, directory, &err), &err);
    backend_vm_resume(vm);
    uint64_t resumed_ns = host_monotonic_ns(vm->host);
    assert_true(backend_vm_hello(vm, PING_MS, &ack));
    print_message("load %llu ms, first answer %llu ms\n",
                  (unsigned long long)((resumed_ns - start_ns) / HOST_NS_PER_MS),
                  (unsigned long long)((host_monotonic_ns(vm->host) - start_ns) / HOST_NS_PER_MS));
}

static void pretend(struct fixture *fixture, const char *script) {
    char text[512];
    int size = snprintf(text, sizeof(text), "#!/bin/sh\n%s\n", script);
    assert_int_equal(
        host_file_store(fixture->host, fixture->path[SCRIPT], text, (size_t)size, 0700, NULL),
        KELPIE_OK);
    assert_int_equal(setenv("KELPIE_QEMU", fixture->path[SCRIPT], 1), 0);
}

static void make_disk(struct fixture *fixture, int which, const char *text) {
    const char *path = fixture->path[which];
    int fd = HOST_FD_NONE;
    assert_int_equal(host_file_open(fixture->host, path,
                                    HOST_OPEN_WRITE | HOST_OPEN_CREATE | HOST_OPEN_TRUNCATE, 0600,
                                    &fd, NULL),
                     KELPIE_OK);
    assert_int_equal(host_file_write_at(fixture->host, fd, text, strlen(text), 0, NULL), KELPIE_OK);
    assert_int_equal(
        host_file_truncate(fixture->host, fd, which == DISK ? DISK_SIZE : DISK_2_SIZE, NULL),
        KELPIE_OK);
    host_close(fixture->host, fd);
}

/* A file's bytes as one number (FNV-1a). */
static uint64_t digest(struct fixture *fixture, const char *folder, const char *name) {
    char path[160];
    char *data = NULL;
    size_t size = 0;
    uint64_t sum = 14695981039346656037ull;
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    assert_int_equal(host_file_load(fixture->host, path, 512u << 20, &data, &size, NULL),
                     KELPIE_OK);
    for (size_t i = 0; i < size; i++) {
        sum = (sum ^ (uint8_t)data[i]) * 1099511628211ull;
    }
    free(data);
    return sum;
}

/* ---- Running ---------------------------------------------------------------------------------- */

static void guest_boots_pauses_and_powers_off(void **state) {
    struct fixture *fixture = *state;
    struct backend_vm *vm = &fixture->vm;
    size_t fd_count = open_fd_count();
    boot(vm);
    assert_true(backend_vm_ping(vm, PING_MS));
    backend_vm_pause(vm);
    assert_false(backend_vm_ping(vm, STILL_MS));
    backend_vm_resume(vm);
    assert_true(backend_vm_ping(vm, PING_MS));
    int pid = vm->ops->process_id(vm->instance);
    assert_int_equal(kill(pid, 0), 0);
    backend_vm_power_off(vm);
    assert_true(backend_vm_ended(vm, PING_MS));
    char text[512];
    vm->ops->exit_text(vm->instance, text, sizeof(text));
    assert_non_null(strstr(text, "exited with code 0"));
    backend_vm_stop(vm, PING_MS);
    assert_int_equal(vm->ops->channel_fd(vm->instance), HOST_FD_NONE);
    assert_int_equal(vm->ops->exit_fd(vm->instance), HOST_FD_NONE);
    assert_int_equal(vm->ops->process_id(vm->instance), 0);
    assert_int_equal(kill(pid, 0), -1);
    assert_int_equal(errno, ESRCH);
    backend_vm_destroy(vm);
    assert_int_equal(open_fd_count(), fd_count);
}

static void hazard_e1_death_is_noticed_at_once(void **state) {
    struct fixture *fixture = *state;
    struct backend_vm *vm = &fixture->vm;
    struct kelpie_error err;
    create(vm);
    assert_ok(backend_vm_start(vm, BACKEND_VM_BOOT_MS, &err), &err);
    assert_false(backend_vm_ended(vm, 0));
    assert_int_equal(kill(vm->ops->process_id(vm->instance), SIGKILL), 0);
    assert_true(backend_vm_ended(vm, NOTICE_MS));
    char text[512];
    vm->ops->exit_text(vm->instance, text, sizeof(text));
    assert_non_null(strstr(text, "killed by signal 9"));
    const struct host_wait wait = host_wait_ms(fixture->host, NOTICE_MS, HOST_FD_NONE);
    assert_int_equal(vm->ops->pause(vm->instance, &wait, &err), KELPIE_CRASHED);
    assert_non_null(strstr(err.message, "signal 9"));
    backend_vm_stop(vm, NOTICE_MS);
    vm->ops->exit_text(vm->instance, text, sizeof(text));
    assert_non_null(strstr(text, "killed by signal 9"));
    assert_ok(backend_vm_start(vm, BACKEND_VM_BOOT_MS, &err), &err);
    assert_false(backend_vm_ended(vm, 0));
}

static void q35_stands_in_for_microvm(void **state) {
    struct fixture *fixture = *state;
    pretend(fixture,
            "case \"$*\" in *microvm*) echo 'qemu: unsupported machine type' >&2; exit 1;; esac\n"
            "exec qemu-system-x86_64 \"$@\"");
    boot(&fixture->vm);
    assert_true(backend_vm_ping(&fixture->vm, PING_MS));
    save(&fixture->vm, fixture->path[BUNDLE], KELPIE_SNAPSHOT_SUSPEND);
    backend_vm_stop(&fixture->vm, 0);
    load(&fixture->vm, fixture->path[BUNDLE]);
}

static void console_is_kept(void **state) {
    struct fixture *fixture = *state;
    fixture->vm.config.kernel_args = "loglevel=7";
    boot(&fixture->vm);
    char *text = calloc(1, BACKEND_CONSOLE_TAIL_SIZE + 1);
    assert_non_null(text);
    assert_true(fixture->vm.ops->console(fixture->vm.instance, text, BACKEND_CONSOLE_TAIL_SIZE) >
                0);
    assert_non_null(strstr(text, "Linux version"));
    free(text);
}

/* ---- Starts that fail ------------------------------------------------------------------------- */

static void assert_start_fails(struct fixture *fixture, uint32_t timeout_ms,
                               enum kelpie_status status, const char *words) {
    struct backend_vm *vm = &fixture->vm;
    size_t fd_count = open_fd_count();
    create(vm);
    struct kelpie_error err;
    assert_int_equal(backend_vm_start(vm, timeout_ms, &err), status);
    assert_non_null(strstr(err.message, words));
    assert_int_equal(vm->ops->exit_fd(vm->instance), HOST_FD_NONE);
    assert_int_equal(vm->ops->process_id(vm->instance), 0);
    backend_vm_destroy(vm);
    assert_int_equal(open_fd_count(), fd_count);
}

#define VERSION_LINE "[ \"$1\" = --version ] && echo 'QEMU emulator version 7.2.0' && exit 0\n"

static void start_that_fails_says_qemus_last_words(void **state) {
    pretend(*state, VERSION_LINE "echo first >&2; echo 'out of luck' >&2; exit 3");
    assert_start_fails(*state, NOTICE_MS, KELPIE_BOOT_FAILED,
                       "exited with code 3; its last words: out of luck");
}

static void start_that_takes_too_long_is_ended(void **state) {
    pretend(*state, VERSION_LINE "exec sleep 60");
    assert_start_fails(*state, STILL_MS, KELPIE_BOOT_TIMED_OUT, "in time");
}

static void start_that_speaks_nonsense_is_ended(void **state) {
    pretend(*state, VERSION_LINE "echo nonsense >&5; exec sleep 60");
    assert_start_fails(*state, NOTICE_MS, KELPIE_INTERNAL, "no QMP message");
}

static void missing_disk_fails_the_start(void **state) {
    struct fixture *fixture = *state;
    fixture->vm.disks[0].path = fixture->path[DISK];
    fixture->vm.config.disk_count = 1;
    struct kelpie_error err;
    create(&fixture->vm);
    assert_int_not_equal(backend_vm_start(&fixture->vm, NOTICE_MS, &err), KELPIE_OK);
    assert_non_null(strstr(err.field, "disks[0]"));
    assert_int_equal(fixture->vm.ops->process_id(fixture->vm.instance), 0);
}

static void kill_main(void *argument) {
    struct fixture *fixture = argument;
    const struct host_wait wait = host_wait_ms(fixture->host, STILL_MS, HOST_FD_NONE);
    enum kelpie_status status = host_sleep(fixture->host, &wait, NULL);
    ASSERT(status == KELPIE_OK);
    fixture->vm.ops->kill(fixture->vm.instance);
}

static void kill_ends_a_start_that_waits(void **state) {
    struct fixture *fixture = *state;
    pretend(fixture, VERSION_LINE "exec sleep 60");
    create(&fixture->vm);
    struct host_thread *thread = NULL;
    struct kelpie_error err;
    uint64_t start_ns = host_monotonic_ns(fixture->host);
    assert_int_equal(host_thread_start(fixture->host, "killer", kill_main, fixture, &thread, NULL),
                     KELPIE_OK);
    assert_int_equal(backend_vm_start(&fixture->vm, BACKEND_VM_BOOT_MS, &err), KELPIE_BOOT_FAILED);
    assert_true(host_monotonic_ns(fixture->host) - start_ns < NOTICE_MS * HOST_NS_PER_MS);
    assert_non_null(strstr(err.message, "signal 9"));
    host_thread_join(thread);
}

/* ---- Bundles ---------------------------------------------------------------------------------- */

/* One boot serves: save twice in a row, go on, restore lazily, save that one, restore it, save again. */
static void memory_goes_through_every_kind_of_bundle(void **state) {
    struct fixture *fixture = *state;
    struct backend_vm *vm = &fixture->vm;
    struct backend_vm *restored = &fixture->other;
    struct kelpie_error err;
    boot(vm);
    save(vm, fixture->path[BUNDLE], KELPIE_SNAPSHOT_SUSPEND);
    assert_ok(backend_vm_save(vm, fixture->path[BUNDLE_2], KELPIE_SNAPSHOT_SUSPEND, &err), &err);
    backend_vm_resume(vm);
    assert_true(backend_vm_ping(vm, PING_MS));
    uint64_t memory = digest(fixture, fixture->path[BUNDLE], "memory");

    create(restored);
    load(restored, fixture->path[BUNDLE]);
    assert_true(backend_vm_ping(restored, PING_MS));
    assert_true(backend_vm_ping(vm, PING_MS));
    assert_true(digest(fixture, fixture->path[BUNDLE], "memory") == memory);
    /* The bundle may go while the VM runs. */
    assert_int_equal(host_path_remove_folder(fixture->host, fixture->path[BUNDLE], NULL),
                     KELPIE_OK);
    assert_true(backend_vm_ping(restored, PING_MS));

    save(restored, fixture->path[BUNDLE], KELPIE_SNAPSHOT_SUSPEND);
    char memory_path[128];
    struct host_file_info info;
    snprintf(memory_path, sizeof(memory_path), "%s/memory", fixture->path[BUNDLE]);
    assert_int_equal(host_path_stat(fixture->host, memory_path, &info, NULL), KELPIE_NOT_FOUND);
    backend_vm_stop(restored, 0);
    load(restored, fixture->path[BUNDLE]);
    assert_true(backend_vm_ping(restored, PING_MS));

    save(restored, fixture->path[BUNDLE_3], KELPIE_SNAPSHOT_SUSPEND);
    snprintf(memory_path, sizeof(memory_path), "%s/memory", fixture->path[BUNDLE_3]);
    assert_int_equal(host_path_stat(fixture->host, memory_path, &info, NULL), KELPIE_OK);
    backend_vm_stop(restored, 0);
    load(restored, fixture->path[BUNDLE_3]);
    assert_true(backend_vm_ping(restored, PING_MS));
}

/* What QEMU has open of a disk, which is known by its size: it moves the descriptors that it is given. */
struct open_disk {
    ino_t inode;
    nlink_t link_count;
    int access; /* O_RDONLY, unless any descriptor can write */
    size_t count;
};

/* The flags of a process's descriptor (proc(5), fdinfo: in octal). */
static int flags_of(int pid, const char *fd) {
    char path[300];
    char line[128];
    int flags = -1;
    snprintf(path, sizeof(path), "/proc/%d/fdinfo/%s", pid, fd);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    while (fgets(line, sizeof(line), file)) {
        if (strncmp(line, "flags:", 6) == 0) {
            flags = (int)strtol(line + 6, NULL, 8);
        }
    }
    fclose(file);
    assert_int_not_equal(flags, -1);
    return flags;
}

static struct open_disk open_disk(struct backend_vm *vm, off_t size) {
    int pid = vm->ops->process_id(vm->instance);
    struct open_disk disk = {0};
    char path[300];
    snprintf(path, sizeof(path), "/proc/%d/fd", pid);
    DIR *folder = opendir(path);
    assert_non_null(folder);
    for (struct dirent *entry = readdir(folder); entry; entry = readdir(folder)) {
        struct stat info;
        snprintf(path, sizeof(path), "/proc/%d/fd/%s", pid, entry->d_name);
        if (stat(path, &info) == 0 && S_ISREG(info.st_mode) && info.st_size == size) {
            disk.inode = info.st_ino;
            disk.link_count = info.st_nlink;
            disk.access |= flags_of(pid, entry->d_name) & O_ACCMODE;
            disk.count++;
        }
    }
    closedir(folder);
    assert_true(disk.count > 0);
    return disk;
}

static void use_disks(struct fixture *fixture, struct backend_vm *vm) {
    vm->disks[0] = (struct kelpie_disk){.path = fixture->path[DISK]};
    vm->disks[1] = (struct kelpie_disk){.path = fixture->path[DISK_2], .read_only = true};
    vm->config.disk_count = 2;
}

static void hazard_c7_restored_vms_share_no_disk(void **state) {
    struct fixture *fixture = *state;
    struct backend_vm *vm = &fixture->vm;
    struct backend_vm *other = &fixture->other;
    struct kelpie_error err;
    make_disk(fixture, DISK, "writable");
    make_disk(fixture, DISK_2, "read-only");
    use_disks(fixture, vm);
    use_disks(fixture, other);
    boot(vm);
    struct open_disk original = open_disk(vm, DISK_SIZE);
    assert_int_equal(original.access, O_RDWR);
    assert_int_equal(open_disk(vm, DISK_2_SIZE).access, O_RDONLY);
    save(vm, fixture->path[BUNDLE], KELPIE_SNAPSHOT_SUSPEND);
    uint64_t saved = digest(fixture, fixture->path[BUNDLE], "disk-0");
    backend_vm_stop(vm, 0);

    create(other);
    assert_ok(backend_vm_load(vm, fixture->path[BUNDLE], &err), &err);
    assert_ok(backend_vm_load(other, fixture->path[BUNDLE], &err), &err);
    struct open_disk copies[] = {open_disk(vm, DISK_SIZE), open_disk(other, DISK_SIZE)};
    assert_true(copies[0].inode != original.inode);
    assert_true(copies[1].inode != original.inode);
    assert_true(copies[0].inode != copies[1].inode);
    assert_int_equal(copies[0].link_count, 0);
    assert_int_equal(open_disk(vm, DISK_2_SIZE).access, O_RDONLY);
    assert_true(open_disk(vm, DISK_2_SIZE).inode == open_disk(other, DISK_2_SIZE).inode);
    assert_true(digest(fixture, fixture->path[BUNDLE], "disk-0") == saved);
    backend_vm_stop(vm, 0);
    backend_vm_stop(other, 0);

    /* The read-only one is outside: it must be what it was. */
    make_disk(fixture, DISK_2, "READ-ONLY");
    assert_int_equal(backend_vm_load(vm, fixture->path[BUNDLE], &err),
                     KELPIE_SNAPSHOT_INCOMPATIBLE);
    assert_string_equal(err.field, "disks[1]");
    unlink(fixture->path[DISK_2]);
    assert_int_equal(backend_vm_load(vm, fixture->path[BUNDLE], &err),
                     KELPIE_SNAPSHOT_INCOMPATIBLE);
    assert_string_equal(err.field, "disks[1]");
}

static void teleport_takes_every_disk_along(void **state) {
    struct fixture *fixture = *state;
    struct backend_vm *vm = &fixture->vm;
    make_disk(fixture, DISK, "writable");
    make_disk(fixture, DISK_2, "read-only");
    use_disks(fixture, vm);
    boot(vm);
    save(vm, fixture->path[BUNDLE], KELPIE_SNAPSHOT_TELEPORT);
    backend_vm_stop(vm, 0);
    unlink(fixture->path[DISK]);
    unlink(fixture->path[DISK_2]);
    load(vm, fixture->path[BUNDLE]);
    assert_int_equal(open_disk(vm, DISK_2_SIZE).access, O_RDONLY);
    /* It is nobody's outside file now: the next bundle has it too. */
    save(vm, fixture->path[BUNDLE_2], KELPIE_SNAPSHOT_SUSPEND);
    assert_true(digest(fixture, fixture->path[BUNDLE_2], "disk-1") ==
                digest(fixture, fixture->path[BUNDLE], "disk-1"));
}

/* Flips a byte of a part. */
static void damage(struct fixture *fixture, const char *part, uint64_t offset) {
    char path[128];
    uint8_t byte = 0;
    size_t size = 0;
    int fd = HOST_FD_NONE;
    snprintf(path, sizeof(path), "%s/%s", fixture->path[BUNDLE], part);
    assert_int_equal(
        host_file_open(fixture->host, path, HOST_OPEN_READ | HOST_OPEN_WRITE, 0, &fd, NULL),
        KELPIE_OK);
    assert_int_equal(host_file_read_at(fixture->host, fd, &byte, 1, offset, &size, NULL),
                     KELPIE_OK);
    byte ^= 0x40;
    assert_int_equal(host_file_write_at(fixture->host, fd, &byte, 1, offset, NULL), KELPIE_OK);
    host_close(fixture->host, fd);
}

/* Copies the bundle, damage and all, into the second one, with checksums that fit. */
static void seal_again(struct fixture *fixture) {
    const struct host_wait wait = host_wait_ms(fixture->host, BACKEND_VM_BOOT_MS, HOST_FD_NONE);
    struct snapshot_reader *reader = NULL;
    struct snapshot_writer *writer = NULL;
    struct kelpie_snapshot snapshot;
    assert_int_equal(snapshot_reader_open(fixture->host, fixture->path[BUNDLE], &reader, NULL),
                     KELPIE_OK);
    assert_int_equal(
        snapshot_writer_create(fixture->host, fixture->path[BUNDLE_2], 0, &writer, NULL),
        KELPIE_OK);
    const struct snapshot_manifest *from = snapshot_reader_manifest(reader);
    struct snapshot_manifest *to = snapshot_writer_manifest(writer);
    char **env = to->env; /* its own, as is its id */
    char id[KELPIE_ID_SIZE];
    memcpy(id, to->info.id, sizeof(id));
    *to = *from;
    memcpy(to->info.id, id, sizeof(id));
    to->env = env;
    to->env_count = 0;
    memset(to->parts, 0, sizeof(to->parts));
    for (size_t i = 0; i < SNAPSHOT_PART_COUNT; i++) {
        if (from->parts[i].present) {
            enum snapshot_part part = (enum snapshot_part)i;
            assert_int_equal(snapshot_writer_copy(writer, part, snapshot_reader_part(reader, part),
                                                  from->parts[i].size, &wait, NULL),
                             KELPIE_OK);
        }
    }
    assert_int_equal(snapshot_writer_publish(writer, &wait, &snapshot, NULL), KELPIE_OK);
    snapshot_writer_destroy(writer);
    snapshot_reader_close(reader);
}

static void assert_incompatible(struct fixture *fixture, size_t bundle, const char *field) {
    struct kelpie_error err;
    assert_int_equal(backend_vm_load(&fixture->other, fixture->path[bundle], &err),
                     KELPIE_SNAPSHOT_INCOMPATIBLE);
    assert_string_equal(err.field, field);
    assert_int_equal(fixture->other.ops->process_id(fixture->other.instance), 0);
}

static void bundle_that_does_not_fit_is_refused(void **state) {
    struct fixture *fixture = *state;
    struct kelpie_config *config = &fixture->other.config;
    struct kelpie_error err;
    boot(&fixture->vm);
    save(&fixture->vm, fixture->path[BUNDLE], KELPIE_SNAPSHOT_SUSPEND);
    create(&fixture->other);
    config->memory_mib *= 2;
    assert_incompatible(fixture, BUNDLE, "memory_mib");
    config->memory_mib /= 2;
    config->vcpu_count++;
    assert_incompatible(fixture, BUNDLE, "vcpu_count");
    config->vcpu_count--;
    make_disk(fixture, DISK, "one");
    fixture->other.disks[0] = (struct kelpie_disk){.path = fixture->path[DISK]};
    config->disk_count = 1;
    assert_incompatible(fixture, BUNDLE, "disks");
    config->disk_count = 0;
    /* What was refused left it fit for use. */
    load(&fixture->other, fixture->path[BUNDLE]);
    backend_vm_destroy(&fixture->other);

    pretend(fixture, "echo 'QEMU emulator version 99.1.2'");
    create(&fixture->other);
    assert_incompatible(fixture, BUNDLE, "backend_version");
    backend_vm_destroy(&fixture->other);
    unsetenv("KELPIE_QEMU");
    create(&fixture->other);

    damage(fixture, "state", 0);
    assert_int_equal(backend_vm_load(&fixture->other, fixture->path[BUNDLE], &err),
                     KELPIE_SNAPSHOT_CORRUPT);
    assert_string_equal(err.field, "state");
    /* With a checksum that fits, it is still not what QEMU takes. */
    seal_again(fixture);
    enum kelpie_status status = backend_vm_load(&fixture->other, fixture->path[BUNDLE_2], &err);
    if (status != KELPIE_RESTORE_FAILED) {
        fail_msg("%s: %s", kelpie_status_name(status), err.message);
    }
    assert_string_equal(err.field, "state");
    assert_int_equal(fixture->other.ops->process_id(fixture->other.instance), 0);
}

#define QEMU_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        QEMU_TEST(guest_boots_pauses_and_powers_off),
        QEMU_TEST(hazard_e1_death_is_noticed_at_once),
        QEMU_TEST(q35_stands_in_for_microvm),
        QEMU_TEST(console_is_kept),
        QEMU_TEST(start_that_fails_says_qemus_last_words),
        QEMU_TEST(start_that_takes_too_long_is_ended),
        QEMU_TEST(start_that_speaks_nonsense_is_ended),
        QEMU_TEST(missing_disk_fails_the_start),
        QEMU_TEST(kill_ends_a_start_that_waits),
        QEMU_TEST(memory_goes_through_every_kind_of_bundle),
        QEMU_TEST(hazard_c7_restored_vms_share_no_disk),
        QEMU_TEST(teleport_takes_every_disk_along),
        QEMU_TEST(bundle_that_does_not_fit_is_refused),
    };
    return cmocka_run_group_tests_name("qemu", tests, NULL, NULL);
}
