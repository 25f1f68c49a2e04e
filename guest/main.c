/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * kelpie-guest: the first process of a guest. It makes a bare kernel a machine (file systems, modules,
 * loopback), opens the channel to the host and then does what the host says (agent.h).
 *
 * A step of the boot that fails is written to the console and passed over: the host sees more of a machine
 * that answers than of one that stopped. Only without a channel there is nothing left to do.
 *
 *     kelpie-guest                      as process 1
 *     kelpie-guest --test-channel FD    the agent alone, as an ordinary process, over an open descriptor
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <net/if.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent.h"
#include "base/assert.h"
#include "channel.h"
#include "modules.h"
#include "root.h"
#include "system.h"

#define VIRTIO_DEVICES_DIR "/sys/bus/virtio/devices"
#define VIRTIO_ID_BLOCK 2 /* virtio 1.2, chapter 5 */
#define COMMAND_LINE "/proc/cmdline"
#define RESET_PARAMETER "kelpie.poweroff=reboot"

/* ---- Boot --------------------------------------------------------------------------------------- */

static void mount_one(const char *type, const char *target, unsigned long flags,
                      const char *options) {
    ASSERT(type);
    ASSERT(target[0] == '/');
    (void)mkdir(target, 0755);
    if (mount(type, target, type, flags, options) != 0 && errno != EBUSY) {
        system_log("mount %s: %s", target, strerror(errno));
    }
}

static void mount_all(void) {
    const unsigned long plain = MS_NOSUID | MS_NODEV;
    mount_one("devtmpfs", "/dev", MS_NOSUID, "mode=0755");
    mount_one("proc", "/proc", plain | MS_NOEXEC, NULL);
    mount_one("sysfs", "/sys", plain | MS_NOEXEC, NULL);
    mount_one("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "mode=0620,ptmxmode=0666,gid=5");
    mount_one("tmpfs", "/dev/shm", plain, "mode=1777");
    mount_one("tmpfs", "/run", plain, "mode=0755");
    mount_one("tmpfs", "/tmp", plain, "mode=1777");
    mount_one("cgroup2", "/sys/fs/cgroup", plain | MS_NOEXEC, NULL);
    (void)mkdir("/run/kelpie", 0755);
    (void)symlink("/proc/self/fd", "/dev/fd");
    (void)symlink("/proc/self/fd/0", "/dev/stdin");
    (void)symlink("/proc/self/fd/1", "/dev/stdout");
    (void)symlink("/proc/self/fd/2", "/dev/stderr");
    ASSERT(plain != 0);
    ASSERT(getpid() == 1);
}

/* Without a console node in the initramfs the kernel starts us with no descriptors at all. */
static void open_console(void) {
    int fd = open("/dev/console", O_RDWR | O_NOCTTY);
    if (fd < 0) {
        fd = open("/dev/null", O_RDWR);
    }
    for (int i = 0; i < 3 && fd >= 0; i++) {
        if (fd != i) {
            (void)dup2(fd, i);
        }
    }
    if (fd > 2) {
        close(fd);
    }
    ASSERT(fd >= 0);
    ASSERT(fcntl(2, F_GETFD) >= 0);
}

static void load_vsock_modules(void) {
    modules_load(MODULES_LIST_VSOCK);
}

static bool is_disk(const char *name) {
    ASSERT(name);
    char path[PATH_MAX];
    char text[16];
    int size = snprintf(path, sizeof(path), VIRTIO_DEVICES_DIR "/%.64s/device", name);
    ASSERT(size > 0 && (size_t)size < sizeof(path));
    system_read_text(path, text, sizeof(text));
    ASSERT(strlen(text) < sizeof(text));
    return strtoul(text, NULL, 16) == VIRTIO_ID_BLOCK;
}

/* Their modules take time, which a machine without disks need not spend. */
static void load_disk_modules(void) {
    bool found = false;
    DIR *devices = opendir(VIRTIO_DEVICES_DIR);
    ASSERT(getpid() == 1);
    for (uint32_t i = 0; devices && !found && i < GUEST_DEVICE_COUNT_MAX; i++) {
        const struct dirent *entry = readdir(devices);
        if (!entry) {
            break;
        }
        found = entry->d_name[0] != '.' && is_disk(entry->d_name);
    }
    if (devices) {
        closedir(devices);
    }
    static_assert(GUEST_DEVICE_COUNT_MAX >= PROTOCOL_MOUNT_COUNT_MAX, "each disk may be seen");
    if (found) {
        modules_load(MODULES_LIST_DISK);
    }
}

static void raise_loopback(void) {
    struct ifreq request = {.ifr_name = "lo"};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    ASSERT(sizeof(request.ifr_name) >= 3);
    request.ifr_flags = IFF_UP | IFF_RUNNING;
    if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request) != 0) {
        system_log("raise lo: %s", strerror(errno));
    }
    if (fd >= 0) {
        close(fd);
    }
    ASSERT(fd == -1 || fd > 2);
}

/* ---- End ---------------------------------------------------------------------------------------- */

/* The host says on the command line when the machine has no power switch: then it ends by a reset, which
 * the monitor takes for the end. */
static bool ends_by_reset(void) {
    ASSERT(getpid() == 1);
    char line[GUEST_SMALL_FILE_SIZE_MAX];
    system_read_text(COMMAND_LINE, line, sizeof(line));
    ASSERT(strlen(line) < sizeof(line));
    return strstr(line, RESET_PARAMETER) != NULL;
}

/* A crash of process 1 ends the machine at once, whatever the kernel's panic setting. The line about a failed
 * assertion is on the console by then. */
static void crash_reset(int number) {
    (void)number;
    (void)reboot(RB_AUTOBOOT);
    _exit(1);
}

static void crash_power_off(int number) {
    (void)number;
    (void)reboot(RB_POWER_OFF);
    (void)reboot(RB_AUTOBOOT);
    _exit(1);
}

static void catch_crashes(bool by_reset) {
    ASSERT(getpid() == 1);
    static const int signals[] = {SIGABRT, SIGSEGV, SIGBUS, SIGILL, SIGFPE};
    struct sigaction action = {.sa_handler = by_reset ? crash_reset : crash_power_off};
    for (size_t i = 0; i < ARRAY_SIZE(signals); i++) {
        int failed = sigaction(signals[i], &action, NULL);
        ASSERT(failed == 0);
    }
}

static _Noreturn void end_machine(bool by_reset) {
    ASSERT(getpid() == 1);
    sync();
    if (!by_reset) {
        (void)reboot(RB_POWER_OFF);
    }
    (void)reboot(RB_AUTOBOOT);
    UNREACHABLE();
}

/* ---- Main --------------------------------------------------------------------------------------- */

/* dial: how to get another channel when this one ends; NULL: it is a port, which stays. */
static enum kelpie_status run(int channel_fd, bool is_init, int (*dial)(void),
                              struct kelpie_error *err) {
    ASSERT(channel_fd >= 0);
    struct agent *agent = NULL;
    TRY(agent_create(channel_fd, is_init, &agent, err));
    ASSERT(agent);
    agent->channel_dial = dial;
    agent_run(agent);
    agent_destroy(agent);
    return KELPIE_OK;
}

static _Noreturn void run_machine(void) {
    ASSERT(getpid() == 1);
    struct kelpie_error err;
    int channel_fd = -1;
    bool is_vsock = false;
    umask(022);
    if (root_is_medium()) {
        open_console();
        root_leave_medium();
        end_machine(true);
    }
    mount_all();
    open_console();
    bool by_reset = ends_by_reset();
    catch_crashes(by_reset);
    modules_load(MODULES_LIST);
    load_disk_modules();
    raise_loopback();
    (void)chdir("/");
    enum kelpie_status status = channel_open(load_vsock_modules, &channel_fd, &is_vsock, &err);
    if (status == KELPIE_OK) {
        status = run(channel_fd, true, is_vsock ? channel_dial : NULL, &err);
    }
    if (status != KELPIE_OK) {
        system_log("%s", err.message);
    }
    ASSERT(getpid() == 1);
    end_machine(by_reset);
}

int main(int argc, char **argv) {
    ASSERT(argv);
    if (getpid() == 1) {
        run_machine();
    }
    if (argc != 3 || strcmp(argv[1], "--test-channel") != 0) {
        fprintf(stderr, "usage: kelpie-guest --test-channel FD (or as process 1 of a machine)\n");
        return 2;
    }
    struct kelpie_error err;
    int fd = (int)strtol(argv[2], NULL, 10);
    if (fcntl(fd, F_SETFL, O_NONBLOCK) != 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) != 0) {
        fprintf(stderr, "kelpie-guest: descriptor %s is not open\n", argv[2]);
        return 2;
    }
    if (run(fd, false, NULL, &err) != KELPIE_OK) {
        fprintf(stderr, "kelpie-guest: %s\n", err.message);
        return 1;
    }
    return 0;
}
