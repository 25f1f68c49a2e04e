/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Whole kelpie-vmm processes on the real /dev/kvm, started and ordered as the kvm backend does it, with payloads of a few
 * instructions for a kernel. What a payload needs that a /dev/kvm which interprets ring 0 does not have, interrupts in
 * long mode, is skipped there, aloud; tests/lab/suites/ring0 runs it all.
 */
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "backend/kvm/kvm_instance.h"
#include "base/assert.h"
#include "host/host_kvm.h"
#include "vmm/state/state.h"
#include "vmm/vmm_limits.h"

#define WAIT_MS 60000
#define MEMORY_MIB 32
#define MEMORY_SIZE ((size_t)MEMORY_MIB << 20)
#define SECTOR_SIZE 512
#define DISK_SIZE ((size_t)1 << 20)
#define MOVE_COUNT_MAX 24
#define STEP_COUNT_MIN 20000
#define STEP_COUNT_MAX 100000000
#define STRAIGHT_MS_MIN 160 /* a run that takes so long is moved several times */

#define PAYLOAD(name)                                                                              \
    extern const uint8_t payload_##name[], payload_##name##_end[];                                 \
    __asm__(".pushsection .rodata\n"                                                               \
            "payload_" #name ": .incbin \"" PAYLOAD_FOLDER #name ".elf\"\n"                        \
            "payload_" #name "_end:\n"                                                             \
            ".popsection\n")
#define PAYLOAD_OF(name) payload_##name, (size_t)(payload_##name##_end - payload_##name)

PAYLOAD(devices);
PAYLOAD(ends);
PAYLOAD(interrupts);
PAYLOAD(processors);
PAYLOAD(steps);
PAYLOAD(touches);

/* One machine, which may be saved and go on in another process. */
struct rig {
    struct host *host;
    struct backend_launch launch;
    struct kelpie_config config;
    struct kelpie_disk disk;
    char disk_path[64];
    struct backend_instance *instance;
    int state_fd; /* of the last save */
    int memory_fd;
    char arguments[16];
    char console[BACKEND_CONSOLE_TAIL_SIZE + 1];
};

static void check(enum kelpie_status status, const struct kelpie_error *err) {
    if (status != KELPIE_OK) {
        print_error("%s: %s\n", kelpie_status_name(status), err->message);
    }
    assert_int_equal(status, KELPIE_OK);
}

static struct host_wait wait_of(struct rig *rig) {
    return host_wait_ms(rig->host, WAIT_MS, HOST_FD_NONE);
}

/* ---- The rig ---------------------------------------------------------------------------------- */

static void make_disk(struct rig *rig) {
    snprintf(rig->disk_path, sizeof(rig->disk_path), "/tmp/kelpie-payload-XXXXXX");
    int fd = mkstemp(rig->disk_path);
    assert_true(fd >= 0);
    uint8_t *bytes = malloc(DISK_SIZE);
    assert_non_null(bytes);
    for (size_t i = 0; i < DISK_SIZE; i++) {
        bytes[i] = (uint8_t)(i * 2654435761u >> 13);
    }
    assert_int_equal(write(fd, bytes, DISK_SIZE), DISK_SIZE);
    free(bytes);
    close(fd);
    rig->disk.path = rig->disk_path;
    rig->config.disks = &rig->disk;
    rig->config.disk_count = 1;
}

static int setup(void **state) {
    struct kelpie_error err = {0};
    int kvm_fd = open(KVM_DEVICE, O_RDWR | O_CLOEXEC);
    if (kvm_fd < 0) {
        print_message("skipped: " KVM_DEVICE " cannot be opened\n");
        *state = NULL;
        return 0;
    }
    close(kvm_fd);
    struct rig *rig = calloc(1, sizeof(*rig));
    assert_non_null(rig);
    rig->state_fd = rig->memory_fd = HOST_FD_NONE;
    rig->config = (struct kelpie_config){.vcpu_count = 1,
                                         .memory_mib = MEMORY_MIB,
                                         .console_bytes_max = KELPIE_CONSOLE_BYTES_DEFAULT};
    check(host_linux_create(&rig->host, &err), &err);
    make_disk(rig);
    rig->instance = calloc(1, sizeof(*rig->instance));
    assert_non_null(rig->instance);
    rig->launch = (struct backend_launch){
        .host = rig->host, .config = &rig->config, .id = "payload", .cancel_fd = HOST_FD_NONE};
    check(kvm_instance_init(rig->instance, &rig->launch, &err), &err);
    *state = rig;
    return 0;
}

static int teardown(void **state) {
    struct rig *rig = *state;
    if (!rig) {
        return 0;
    }
    kvm_instance_deinit(rig->instance);
    host_close(rig->host, rig->state_fd);
    host_close(rig->host, rig->memory_fd);
    free(rig->instance);
    host_destroy(rig->host);
    unlink(rig->disk_path);
    free(rig);
    return 0;
}

static struct rig *rig_of(void **state) {
    if (!*state) {
        skip();
    }
    return *state;
}

/* For what a processor must really run. */
static void need_native(struct rig *rig, const char *what) {
    struct kelpie_error err = {0};
    uint64_t taken_ns = 0;
    check(host_kvm_probe(rig->host, HOST_KVM_BUDGET_NS, &taken_ns, &err), &err);
    if (!host_kvm_is_native(taken_ns)) {
        print_message("skipped: %s: " KVM_DEVICE " interprets ring 0 here\n", what);
        skip();
    }
}

static void pass(struct rig *rig, enum control_role role, int fd) {
    struct kelpie_error err = {0};
    check(kvm_pass(rig->instance, role, fd, &err), &err);
}

/* A process, with its disks open, that waits for files and an order. */
static void start(struct rig *rig) {
    struct kelpie_error err = {0};
    const struct host_wait wait = wait_of(rig);
    check(monitor_disks_open(&rig->instance->disks, &wait, &err), &err);
    check(kvm_process_start(rig->instance, &err), &err);
}

static void make(struct rig *rig, enum control_type type) {
    struct kelpie_error err = {0};
    const struct host_wait wait = wait_of(rig);
    check(kvm_order_machine(rig->instance, type, false, &wait, &err), &err);
}

static void boot(struct rig *rig, const uint8_t *payload, size_t size) {
    struct kelpie_error err = {0};
    AUTO_FD struct host_fd kernel = {rig->host, HOST_FD_NONE};
    AUTO_FD struct host_fd initramfs = {rig->host, HOST_FD_NONE};
    check(host_memory_file(rig->host, "payload", size, &kernel.fd, &err), &err);
    check(host_file_write_at(rig->host, kernel.fd, payload, size, 0, &err), &err);
    check(host_memory_file(rig->host, "initramfs", 4, &initramfs.fd, &err), &err);
    start(rig);
    const uint64_t memory_size = (uint64_t)MEMORY_MIB << 20;
    check(host_memory_file(rig->host, "memory", memory_size, &rig->instance->memory_fd, &err),
          &err);
    pass(rig, CONTROL_ROLE_KERNEL, kernel.fd);
    pass(rig, CONTROL_ROLE_INITRAMFS, initramfs.fd);
    pass(rig, CONTROL_ROLE_MEMORY, rig->instance->memory_fd);
    make(rig, CONTROL_BOOT);
}

static void order(struct rig *rig, enum control_type type) {
    struct kelpie_error err = {0};
    const struct host_wait wait = wait_of(rig);
    check(kvm_order_plain(rig->instance, type, &wait, &err), &err);
}

static void pass_empty(struct rig *rig, enum control_role role, int *fd) {
    struct kelpie_error err = {0};
    host_close(rig->host, *fd);
    check(host_memory_file(rig->host, "save", 0, fd, &err), &err);
    pass(rig, role, *fd);
}

/* The paused machine's state and memory; what was saved before stays open when the caller took it. */
static void save(struct rig *rig) {
    pass_empty(rig, CONTROL_ROLE_STATE, &rig->state_fd);
    pass_empty(rig, CONTROL_ROLE_MEMORY, &rig->memory_fd);
    order(rig, CONTROL_SAVE);
}

/* Reads what the console has; the tail keeps it. */
static void read_console(struct rig *rig) {
    struct monitor *monitor = &rig->instance->monitor;
    int fds[2];
    size_t count = monitor_service_fds(monitor, fds, 2);
    for (size_t i = 0; i < count; i++) {
        assert_true(monitor_service(monitor, fds[i]));
    }
    rig->console[monitor_console(monitor, rig->console, sizeof(rig->console) - 1)] = '\0';
}

/* The saved machine goes on in a new process, paused; the old one is gone, with all that it wrote read. */
static void move(struct rig *rig) {
    read_console(rig);
    kvm_process_take_down(rig->instance);
    start(rig);
    pass(rig, CONTROL_ROLE_STATE, rig->state_fd);
    pass(rig, CONTROL_ROLE_MEMORY, rig->memory_fd);
    make(rig, CONTROL_LOAD);
}

/* True once the text is on the console; false after ms. */
static bool comes(struct rig *rig, const char *text, uint32_t ms) {
    const uint64_t end_ns = host_monotonic_ns(rig->host) + ms * HOST_NS_PER_MS;
    for (;;) {
        read_console(rig);
        if (strstr(rig->console, text)) {
            return true;
        }
        if (host_monotonic_ns(rig->host) >= end_ns) {
            return false;
        }
        usleep(1000);
    }
}

static void await(struct rig *rig, const char *text) {
    if (!comes(rig, text, WAIT_MS)) {
        print_error("'%s' did not come; the console has:\n%s\n", text, rig->console);
        fail();
    }
}

/* Waits for its end; what it says of it has `text`. */
static void await_end(struct rig *rig, const char *text) {
    struct monitor *monitor = &rig->instance->monitor;
    char words[MONITOR_EXIT_TEXT_SIZE];
    const struct host_wait wait = wait_of(rig);
    monitor_await_end(monitor, &wait);
    read_console(rig);
    host_mutex_lock(monitor->lock);
    monitor_exit_text(monitor, NULL, words, sizeof(words));
    host_mutex_unlock(monitor->lock);
    if (!strstr(words, text)) {
        print_error("'%s' is not in '%s'; the console has:\n%s\n", text, words, rig->console);
        fail();
    }
}

/* ---- Devices ---------------------------------------------------------------------------------- */

static void expect_disk(struct rig *rig) {
    uint8_t sectors[2][SECTOR_SIZE];
    int fd = open(rig->disk_path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, sectors, sizeof(sectors), SECTOR_SIZE), sizeof(sectors));
    close(fd);
    for (size_t i = 0; i < SECTOR_SIZE; i++) {
        assert_int_equal(sectors[1][i], (uint8_t)~sectors[0][i]);
    }
}

/* Ports, memory-mapped registers, rings by hand, kicks by ioeventfd: what a guest's drivers stand on. */
static void virtio_by_hand_works(void **state) {
    struct rig *rig = rig_of(state);
    char random[2][33];
    for (size_t i = 0; i < 2; i++) {
        boot(rig, PAYLOAD_OF(devices));
        await_end(rig, "exited with code 0; its last words: the guest powered off");
        const char *entropy = strstr(rig->console, "entropy 16 ");
        assert_non_null(entropy);
        snprintf(random[i], sizeof(random[i]), "%s", entropy + strlen("entropy 16 "));
        assert_int_equal(strspn(random[i], "0123456789abcdef"), 32);
        assert_non_null(strstr(rig->console, "\nread 513 0\nwrite 1 0\n"));
        expect_disk(rig);
        kvm_process_take_down(rig->instance);
        monitor_console_deinit(&rig->instance->monitor.console);
        struct kelpie_error err = {0};
        check(monitor_console_init(&rig->instance->monitor.console, rig->host, NULL,
                                   KELPIE_CONSOLE_BYTES_DEFAULT, &err),
              &err);
    }
    assert_string_not_equal(random[0], random[1]);
}

/* Hazard A15: who enforces it is the monitor. */
static void hazard_a15_read_only_disk_is_not_written(void **state) {
    struct rig *rig = rig_of(state);
    rig->disk.read_only = true;
    boot(rig, PAYLOAD_OF(devices));
    await_end(rig, "the guest powered off");
    assert_non_null(strstr(rig->console, "\nread 513 0\nwrite 1 1\n"));
}

static void interrupts_arrive(void **state) {
    struct rig *rig = rig_of(state);
    need_native(rig, "interrupts in long mode");
    boot(rig, PAYLOAD_OF(interrupts));
    await_end(rig, "the guest powered off");
    assert_string_equal(rig->console, "interrupts 3\n");
}

/* ---- The end ---------------------------------------------------------------------------------- */

static void ends_are_told_apart(void **state) {
    struct rig *rig = rig_of(state);
    static const struct {
        const char *letter;
        const char *text;
    } ends[] = {
        {"o", "exited with code 0; its last words: the guest powered off; "},
        {"r", "exited with code 0; its last words: the guest reset its machine; "},
        {"t", "exited with code 1; its last words: vCPU 0 had a triple fault; "},
        {"p", "exited with code 1; its last words: the guest's kernel panicked; "
              "the console's last line: Kernel panic - not syncing: or so it says"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(ends); i++) {
        rig->config.kernel_args = ends[i].letter;
        boot(rig, PAYLOAD_OF(ends));
        await_end(rig, ends[i].text);
        kvm_process_take_down(rig->instance);
    }
}

/* ---- Save and load ---------------------------------------------------------------------------- */

#define TAG_VCPU STATE_TAG('V', 'C', 'P', 'U')
#define TAG_MSRS STATE_TAG('M', 'S', 'R', 'S')
#define TAG_VM STATE_TAG('K', 'V', 'M', 'V')
#define MSR_TSC 0x10u
#define MSR_ENTRY_SIZE 12u /* its index and its value, behind a count of 4 bytes */
#define PIC_REQUESTS 1u    /* kvm_state.c has the layout */
#define IOAPIC_REQUESTS 48u
#define VCPU_XCRS (4u + 144u + 312u)
#define VCPU_XCRS_TO_XSAVE (48u + 1024u + 37u + 4u)
#define XSAVE_X87_AND_SSE 3u
#define CLOCK_SIZE 20u /* at the section's end: the clock, 4 bytes, the host's clock */

struct bytes {
    uint8_t *data;
    size_t size;
};

static struct bytes bytes_of(int fd) {
    const off_t size = lseek(fd, 0, SEEK_END);
    assert_true(size > 0);
    struct bytes bytes = {malloc((size_t)size), (size_t)size};
    assert_non_null(bytes.data);
    assert_int_equal(pread(fd, bytes.data, bytes.size, 0), size);
    return bytes;
}

/* Takes out what time alone changes, TSCs and clocks, and what a load does to the machine: the interrupt of its new
 * generation waits, where it is masked, in the old controller and in the I/O APIC. And whether registers that hold what they
 * hold after a reset count as used: the processor may say so or not (Intel SDM volume 1, 13.6, XINUSE). */
static void mask_changes(const struct state_section *section) {
    uint8_t *payload = (uint8_t *)(uintptr_t)section->payload;
    static_assert(VMM_GENERATION_GSI < 8, "in the lowest byte");
    if (section->tag == TAG_VM) {
        assert_true(section->size > IOAPIC_REQUESTS + CLOCK_SIZE);
        memset(payload + section->size - CLOCK_SIZE, 0, CLOCK_SIZE);
        payload[PIC_REQUESTS] &= (uint8_t) ~(1u << VMM_GENERATION_GSI);
        payload[IOAPIC_REQUESTS] &= (uint8_t) ~(1u << VMM_GENERATION_GSI);
    }
    if (section->tag == TAG_VCPU) {
        uint32_t xcr_count = 0;
        memcpy(&xcr_count, payload + VCPU_XCRS, sizeof(xcr_count));
        const size_t in_use = VCPU_XCRS + 4 + 12 * (size_t)xcr_count + VCPU_XCRS_TO_XSAVE + 512;
        assert_true(in_use < section->size);
        payload[in_use] &= (uint8_t)~XSAVE_X87_AND_SSE;
    }
    for (size_t at = 4; section->tag == TAG_MSRS && at + MSR_ENTRY_SIZE <= section->size;
         at += MSR_ENTRY_SIZE) {
        uint32_t index = 0;
        memcpy(&index, payload + at, sizeof(index));
        memset(payload + at + 4, 0, index == MSR_TSC ? 8 : 0);
    }
}

/* Compares each section, or (tag not 0) those with a tag. Frees both. */
static void expect_same_state(struct bytes first, struct bytes second, uint32_t tag) {
    static struct state_reader readers[2];
    struct kelpie_error err = {0};
    size_t compared = 0;
    check(state_reader_init(&readers[0], first.data, first.size, &err), &err);
    check(state_reader_init(&readers[1], second.data, second.size, &err), &err);
    assert_int_equal(readers[0].section_count, readers[1].section_count);
    for (size_t i = 0; i < readers[0].section_count; i++) {
        const struct state_section *a = &readers[0].sections[i];
        const struct state_section *b = &readers[1].sections[i];
        if (tag != 0 && a->tag != tag) {
            continue;
        }
        mask_changes(a);
        mask_changes(b);
        if (a->tag != b->tag || a->size != b->size || memcmp(a->payload, b->payload, a->size)) {
            print_error("section %.4s %u differs\n", (const char *)&a->tag, a->instance);
            fail();
        }
        compared++;
    }
    assert_true(compared > 0);
    free(first.data);
    free(second.data);
}

/* But for the generation, which a load changes. Frees both. */
static void expect_same_memory(struct bytes first, struct bytes second) {
    assert_int_equal(first.size, MEMORY_SIZE);
    assert_int_equal(second.size, MEMORY_SIZE);
    memset(first.data + VMM_GENERATION_GPA, 0, CONTROL_GENERATION_SIZE);
    memset(second.data + VMM_GENERATION_GPA, 0, CONTROL_GENERATION_SIZE);
    for (size_t i = 0; i < MEMORY_SIZE; i++) {
        if (first.data[i] != second.data[i]) {
            print_error("memory at %#zx: %#x, was %#x\n", i, second.data[i], first.data[i]);
            fail();
        }
    }
    free(first.data);
    free(second.data);
}

static void boot_steps(struct rig *rig, uint32_t count) {
    snprintf(rig->arguments, sizeof(rig->arguments), "%u", count);
    rig->config.kernel_args = rig->arguments;
    boot(rig, PAYLOAD_OF(steps));
}

static void hazard_c9_process_saves_what_it_loaded(void **state) {
    struct rig *rig = rig_of(state);
    rig->config.vcpu_count = 2; /* the second waits to be started */
    boot_steps(rig, STEP_COUNT_MIN / 8);
    await(
        rig,
        "\nend\n"); /* it has used the disk, and nothing is under way: a load would go on with it */
    order(rig, CONTROL_PAUSE);
    save(rig);
    struct bytes first_state = bytes_of(rig->state_fd);
    struct bytes first_memory = bytes_of(rig->memory_fd);
    move(rig);
    save(rig);
    expect_same_state(first_state, bytes_of(rig->state_fd), 0);
    expect_same_memory(first_memory, bytes_of(rig->memory_fd));
}

static void begin_anew(void **state) {
    teardown(state);
    setup(state);
}

/* Runs to the end, with so many steps that it takes a while, and is paused there. Returns how many; *ret_ms: how long. */
static uint32_t run_straight(void **state, uint32_t *ret_ms) {
    for (uint32_t count = STEP_COUNT_MIN;; count *= 4) {
        begin_anew(state);
        struct rig *rig = rig_of(state);
        boot_steps(rig, count);
        const uint64_t start_ns = host_monotonic_ns(rig->host);
        await(rig, "\nend\n");
        *ret_ms = (uint32_t)((host_monotonic_ns(rig->host) - start_ns) / HOST_NS_PER_MS);
        if (*ret_ms >= STRAIGHT_MS_MIN || count > STEP_COUNT_MAX / 4) {
            order(rig, CONTROL_PAUSE);
            return count;
        }
    }
}

/* A run that is moved to a new process again and again ends like one that was left alone: registers, memory, and each byte
 * that it wrote exactly once. */
static void moved_run_equals_a_straight_one(void **state) {
    static char straight[BACKEND_CONSOLE_TAIL_SIZE + 1];
    uint32_t ms = 0;
    (void)rig_of(state);
    const uint32_t count = run_straight(state, &ms);
    struct rig *rig = rig_of(state);
    save(rig);
    struct bytes straight_state = bytes_of(rig->state_fd);
    struct bytes straight_memory = bytes_of(rig->memory_fd);
    memcpy(straight, rig->console, sizeof(straight));
    begin_anew(state);
    rig = rig_of(state);
    boot_steps(rig, count);
    size_t moves = 0;
    while (moves < MOVE_COUNT_MAX && !comes(rig, "\nend\n", ms / 8)) {
        order(rig, CONTROL_PAUSE);
        save(rig);
        move(rig);
        order(rig, CONTROL_RESUME);
        moves++;
    }
    await(rig, "\nend\n");
    print_message("%u steps, %u ms, moved %zu times\n", count, ms, moves);
    assert_true(moves > 0);
    order(rig, CONTROL_PAUSE);
    save(rig);
    assert_string_equal(rig->console, straight);
    expect_same_state(straight_state, bytes_of(rig->state_fd), TAG_VCPU);
    expect_same_memory(straight_memory, bytes_of(rig->memory_fd));
}

/* ---- Processors ------------------------------------------------------------------------------- */

static void start_and_move_processors(struct rig *rig, uint32_t count) {
    char number[8];
    char came[32];
    char went[64];
    snprintf(number, sizeof(number), "%u", count);
    snprintf(came, sizeof(came), "came %u\n", count - 1);
    snprintf(went, sizeof(went), "came %u\nwent %u\n", count - 1, count - 1);
    rig->config.vcpu_count = count;
    rig->config.kernel_args = number;
    boot(rig, PAYLOAD_OF(processors));
    await(rig, came);
    order(rig, CONTROL_PAUSE);
    save(rig);
    move(rig);
    order(rig, CONTROL_RESUME);
    await_end(rig, "exited with code 0; its last words: the guest powered off");
    assert_string_equal(rig->console, went);
}

static void four_processors_start_and_are_restored(void **state) {
    start_and_move_processors(rig_of(state), 4);
}

static void thirty_two_processors_start_and_are_restored(void **state) {
    static_assert(VMM_VCPU_COUNT_MAX == 32, "the most that there are");
    start_and_move_processors(rig_of(state), VMM_VCPU_COUNT_MAX);
}

/* ---- The working set -------------------------------------------------------------------------- */

#define PAGE_COUNT (MEMORY_SIZE / VMM_PAGE_SIZE)
#define TOUCH_AREA_PAGE 0x800u /* touches.S: one in 64 of 4,096 pages is read from there on */
#define TOUCH_PAGES 4096u
#define TOUCH_STRIDE 64u
#define TOUCH_OTHER_PAGE 0x1900u
#define TOUCH_TEXT "133120 touched\n" /* 64 + 128 + … + 4096 */
#define AROUND 16u                    /* what an inexact kernel notes */

static struct host_file_info fd_info(struct rig *rig, int fd) {
    struct kelpie_error err = {0};
    struct host_file_info info = {0};
    check(host_file_stat(rig->host, fd, &info, &err), &err);
    return info;
}

static void forget_console(struct rig *rig) {
    struct kelpie_error err = {0};
    read_console(rig);
    monitor_console_deinit(&rig->instance->monitor.console);
    check(monitor_console_init(&rig->instance->monitor.console, rig->host, NULL,
                               KELPIE_CONSOLE_BYTES_DEFAULT, &err),
          &err);
}

/* The saved machine, with its memory in a file on a disk, as a bundle's is. */
static void save_on_disk(struct rig *rig) {
    char path[] = "/tmp/kelpie-payload-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    unlink(path);
    pass_empty(rig, CONTROL_ROLE_STATE, &rig->state_fd);
    host_close(rig->host, rig->memory_fd);
    rig->memory_fd = fd;
    pass(rig, CONTROL_ROLE_MEMORY, fd);
    order(rig, CONTROL_SAVE);
    assert_int_equal(fsync(fd), 0);
}

/* How many of memory's pages from `page` on are in the page cache. */
static size_t cached(struct rig *rig, size_t page, size_t count) {
    unsigned char states[PAGE_COUNT];
    size_t result = 0;
    void *map = mmap(NULL, count * VMM_PAGE_SIZE, PROT_READ, MAP_SHARED, rig->memory_fd,
                     (off_t)(page * VMM_PAGE_SIZE));
    assert_true(map != MAP_FAILED);
    assert_int_equal(mincore(map, count * VMM_PAGE_SIZE, states), 0);
    munmap(map, count * VMM_PAGE_SIZE);
    for (size_t i = 0; i < count; i++) {
        result += states[i] & 1;
    }
    return result;
}

static bool evict(struct rig *rig) {
    assert_int_equal(posix_fadvise(rig->memory_fd, 0, 0, POSIX_FADV_DONTNEED), 0);
    return cached(rig, 0, PAGE_COUNT) == 0;
}

/* Goes on in a new process, paused, with what is to be read ahead, or (HOST_FD_NONE) noting what is touched. */
static void move_with(struct rig *rig, int working_set_fd, bool prepared) {
    kvm_process_take_down(rig->instance);
    forget_console(rig);
    start(rig);
    if (prepared) {
        make(rig, CONTROL_PREPARE);
    }
    rig->instance->note = working_set_fd == HOST_FD_NONE;
    pass(rig, CONTROL_ROLE_STATE, rig->state_fd);
    pass(rig, CONTROL_ROLE_MEMORY, rig->memory_fd);
    if (working_set_fd != HOST_FD_NONE) {
        pass(rig, CONTROL_ROLE_WORKING_SET, working_set_fd);
    }
    make(rig, CONTROL_LOAD);
}

/* Runs until it has touched what it touches, and is paused. */
static void touch(struct rig *rig) {
    order(rig, CONTROL_RESUME);
    await(rig, TOUCH_TEXT);
    order(rig, CONTROL_PAUSE);
}

static int working_set_file(struct rig *rig, size_t size, uint8_t byte) {
    struct kelpie_error err = {0};
    static uint8_t bytes[2 * PAGE_COUNT / 8];
    int fd = HOST_FD_NONE;
    assert_true(size <= sizeof(bytes));
    memset(bytes, byte, sizeof(bytes));
    check(host_memory_file(rig->host, "working set", size, &fd, &err), &err);
    check(host_file_write_at(rig->host, fd, bytes, size, 0, &err), &err);
    return fd;
}

static enum kelpie_status touched(struct rig *rig, int fd) {
    struct kelpie_error err = {0};
    const struct host_wait wait = wait_of(rig);
    return kvm_touched(rig->instance, fd, &wait, &err);
}

static bool bit_of(const uint8_t *bitmap, size_t page) {
    return (bitmap[page / 8] >> (page % 8) & 1) != 0;
}

/* Whether this kernel can be kept from mapping neighbours of what is touched (machine_working_set.c). */
static bool kernel_is_exact(void) {
    struct uffdio_api api = {.api = UFFD_API, .features = 1ull << 15}; /* WP_ASYNC */
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | 1);             /* USER_MODE_ONLY */
    bool exact = fd >= 0 && ioctl(fd, UFFDIO_API, &api) == 0;
    if (fd >= 0) {
        close(fd);
    }
    return exact;
}

/* All that was touched, and nothing beside it, but for neighbours. */
static void expect_touched(int fd, bool exact) {
    uint8_t bitmap[PAGE_COUNT / 8];
    assert_int_equal(pread(fd, bitmap, sizeof(bitmap), SNAPSHOT_WORKING_SET_HEADER_SIZE),
                     sizeof(bitmap));
    const size_t around = exact ? 1 : AROUND;
    for (size_t i = 0; i < TOUCH_PAGES; i++) {
        const size_t place = i % TOUCH_STRIDE;
        const bool set = bit_of(bitmap, TOUCH_AREA_PAGE + i);
        assert_true(set || place != 0);
        assert_true(!set || place < around || place > TOUCH_STRIDE - around);
    }
    assert_true(bit_of(bitmap, TOUCH_OTHER_PAGE) && bit_of(bitmap, TOUCH_OTHER_PAGE + 8));
    assert_false(bit_of(bitmap, TOUCH_OTHER_PAGE + 100));
}

/* Before its guest runs, what was noted comes into the page cache, and nothing else of what lies around. */
static void expect_read_ahead(struct rig *rig) {
    const uint64_t end_ns = host_monotonic_ns(rig->host) + WAIT_MS * HOST_NS_PER_MS;
    for (size_t i = 0; i < TOUCH_PAGES; i += TOUCH_STRIDE) {
        while (cached(rig, TOUCH_AREA_PAGE + i, 1) == 0) {
            assert_true(host_monotonic_ns(rig->host) < end_ns);
            usleep(1000);
        }
        assert_int_equal(cached(rig, TOUCH_AREA_PAGE + i + AROUND, TOUCH_STRIDE - 2 * AROUND), 0);
    }
    assert_int_equal(cached(rig, TOUCH_OTHER_PAGE + 1, 7), 0);
}

static void a_working_set_is_noted_and_read_ahead(void **state) {
    struct rig *rig = rig_of(state);
    boot(rig, PAYLOAD_OF(touches));
    order(rig, CONTROL_RESUME);
    await(rig, "ready\n");
    order(rig, CONTROL_PAUSE);
    int noted = working_set_file(rig, SNAPSHOT_WORKING_SET_HEADER_SIZE + PAGE_COUNT / 8, 0xff);
    assert_int_equal(touched(rig, noted), KELPIE_UNSUPPORTED); /* it was not loaded */
    save_on_disk(rig);
    move_with(rig, HOST_FD_NONE, false);
    touch(rig);
    assert_int_equal(touched(rig, noted), KELPIE_OK);
    assert_int_equal(fd_info(rig, noted).size, SNAPSHOT_WORKING_SET_HEADER_SIZE + PAGE_COUNT / 8);
    const bool exact = kernel_is_exact();
    if (!exact) {
        print_message("skipped: exactness: this kernel maps neighbours of what is touched\n");
    }
    expect_touched(noted, exact);
    const int state_fd = dup(rig->state_fd);
    const int memory_fd = dup(rig->memory_fd);
    save(rig);
    struct bytes without = bytes_of(rig->memory_fd);
    assert_int_equal(touched(rig, noted), KELPIE_WRONG_STATE); /* the save touched all */
    host_close(rig->host, rig->state_fd);
    host_close(rig->host, rig->memory_fd);
    rig->state_fd = state_fd;
    rig->memory_fd = memory_fd;
    kvm_process_take_down(rig->instance); /* lets go of the file's pages */
    if (evict(rig)) {
        move_with(rig, noted, false);
        expect_read_ahead(rig);
    } else {
        print_message("skipped: reading ahead: /tmp keeps files in memory\n");
        move_with(rig, noted, false);
    }
    touch(rig);
    save(rig);
    expect_same_memory(without, bytes_of(rig->memory_fd));
    host_close(rig->host, noted);
}

/* It may come from anywhere: the guest runs all the same. */
static void hazard_b1_a_working_set_may_hold_anything(void **state) {
    static const struct {
        size_t size;
        uint8_t byte;
    } files[] = {
        {0, 0},
        {1, 0xff},
        {SNAPSHOT_WORKING_SET_HEADER_SIZE, 0xff},
        {SNAPSHOT_WORKING_SET_HEADER_SIZE + PAGE_COUNT / 8 - 1, 0xff},
        {SNAPSHOT_WORKING_SET_HEADER_SIZE + PAGE_COUNT / 8, 0},
        {SNAPSHOT_WORKING_SET_HEADER_SIZE + PAGE_COUNT / 8, 0x11},
        {SNAPSHOT_WORKING_SET_HEADER_SIZE + PAGE_COUNT / 8, 0xff},
        {2 * PAGE_COUNT / 8, 0xff},
    };
    struct rig *rig = rig_of(state);
    boot(rig, PAYLOAD_OF(touches));
    order(rig, CONTROL_RESUME);
    await(rig, "ready\n");
    order(rig, CONTROL_PAUSE);
    save_on_disk(rig);
    for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
        AUTO_FD struct host_fd fd = {rig->host,
                                     working_set_file(rig, files[i].size, files[i].byte)};
        kvm_process_take_down(rig->instance);
        (void)evict(rig);
        move_with(rig, fd.fd, i % 2 == 1);
        touch(rig);
    }
    kvm_process_take_down(rig->instance);
    move_with(rig, HOST_FD_NONE, true); /* confined already: it notes what it can */
    touch(rig);
    AUTO_FD struct host_fd noted = {
        rig->host, working_set_file(rig, SNAPSHOT_WORKING_SET_HEADER_SIZE + PAGE_COUNT / 8, 0)};
    assert_int_equal(touched(rig, noted.fd), KELPIE_OK);
    expect_touched(noted.fd, false);
}

#define RIG_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        RIG_TEST(virtio_by_hand_works),
        RIG_TEST(hazard_a15_read_only_disk_is_not_written),
        RIG_TEST(interrupts_arrive),
        RIG_TEST(ends_are_told_apart),
        RIG_TEST(hazard_c9_process_saves_what_it_loaded),
        RIG_TEST(moved_run_equals_a_straight_one),
        RIG_TEST(a_working_set_is_noted_and_read_ahead),
        RIG_TEST(hazard_b1_a_working_set_may_hold_anything),
        RIG_TEST(four_processors_start_and_are_restored),
        RIG_TEST(thirty_two_processors_start_and_are_restored),
    };
    return cmocka_run_group_tests_name("payload", tests, NULL, NULL);
}
