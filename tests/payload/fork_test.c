/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Machines that come of one that stands still: forks of it, and processes that were prepared to go on as it. Whole
 * kelpie-vmm processes on the real /dev/kvm, through the functions that the kvm backend has for them. The guest is a
 * calculation of some steps, whose memory and registers say at its end whether any of them was lost, or came twice.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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
#define DISK_SIZE ((off_t)1 << 20)
#define STEP_COUNT_MIN 20000u
#define STEP_COUNT_MAX 100000000u
#define MACHINE_COUNT_MAX 4
#define BUNDLE_COUNT_MAX 3

#define TAG_VCPU STATE_TAG('V', 'C', 'P', 'U')
#define TAG_MSRS STATE_TAG('M', 'S', 'R', 'S')
#define TAG_VM STATE_TAG('K', 'V', 'M', 'V')
#define VCPU_REGISTERS                                                                             \
    (4u + 144u + 312u) /* what comes before those that KVM may tell in two ways */
#define MSR_TSC 0x10u
#define MSR_ENTRY_SIZE 12u /* its index and its value, behind a count of 4 bytes */

extern const uint8_t payload_steps[], payload_steps_end[];
__asm__(".pushsection .rodata\n"
        "payload_steps: .incbin \"" PAYLOAD_FOLDER "steps.elf\"\n"
        "payload_steps_end:\n"
        ".popsection\n");

struct rig {
    struct host *host;
    struct backend_launch launch;
    struct kelpie_config config; /* of all machines */
    struct kelpie_disk disk;
    char disk_path[64];
    char steps[16]; /* how many the guest takes */
    struct backend_instance *machines[MACHINE_COUNT_MAX];
    size_t machine_count;
    struct snapshot_reader *bundles[BUNDLE_COUNT_MAX];
    size_t bundle_count;
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

static int setup(void **state) {
    struct kelpie_error err = {0};
    *state = NULL;
    if (access(KVM_DEVICE, R_OK | W_OK) != 0) {
        print_message("skipped: " KVM_DEVICE " cannot be opened\n");
        return 0;
    }
    struct rig *rig = calloc(1, sizeof(*rig));
    assert_non_null(rig);
    check(host_linux_create(&rig->host, &err), &err);
    snprintf(rig->disk_path, sizeof(rig->disk_path), "/tmp/kelpie-fork-XXXXXX");
    int fd = mkstemp(rig->disk_path);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, DISK_SIZE), 0);
    assert_int_equal(pwrite(fd, "what the guest reads", 20, 1024), 20);
    close(fd);
    rig->disk.path = rig->disk_path;
    rig->config = (struct kelpie_config){.vcpu_count = 1,
                                         .memory_mib = MEMORY_MIB,
                                         .console_bytes_max = KELPIE_CONSOLE_BYTES_DEFAULT,
                                         .kernel_args = rig->steps,
                                         .disks = &rig->disk,
                                         .disk_count = 1};
    *state = rig;
    return 0;
}

static int teardown(void **state) {
    struct rig *rig = *state;
    if (!rig) {
        return 0;
    }
    for (size_t i = 0; i < rig->machine_count; i++) {
        kvm_instance_deinit(rig->machines[i]);
        free(rig->machines[i]);
    }
    for (size_t i = 0; i < rig->bundle_count; i++) {
        snapshot_reader_close(rig->bundles[i]);
    }
    unlink(rig->disk_path);
    host_destroy(rig->host);
    free(rig);
    return 0;
}

static struct rig *rig_of(void **state) {
    if (!*state) {
        skip();
    }
    return *state;
}

static struct backend_instance *machine_new(struct rig *rig) {
    struct kelpie_error err = {0};
    assert_true(rig->machine_count < MACHINE_COUNT_MAX);
    struct backend_instance *machine = calloc(1, sizeof(*machine));
    assert_non_null(machine);
    rig->machines[rig->machine_count++] = machine;
    rig->launch = (struct backend_launch){
        .host = rig->host, .config = &rig->config, .id = "payload", .cancel_fd = HOST_FD_NONE};
    check(kvm_instance_init(machine, &rig->launch, &err), &err);
    return machine;
}

static void order(struct rig *rig, struct backend_instance *machine, enum control_type type) {
    struct kelpie_error err = {0};
    const struct host_wait wait = wait_of(rig);
    check(kvm_order_plain(machine, type, &wait, &err), &err);
}

/* A file with these bytes, for the next order. NULL: zeros. */
static void pass(struct rig *rig, struct backend_instance *machine, enum control_role role,
                 const void *bytes, size_t size) {
    struct kelpie_error err = {0};
    AUTO_FD struct host_fd fd = {rig->host, HOST_FD_NONE};
    check(host_memory_file(rig->host, "file", size, &fd.fd, &err), &err);
    if (bytes) {
        check(host_file_write_at(rig->host, fd.fd, bytes, size, 0, &err), &err);
    }
    check(kvm_pass(machine, role, fd.fd, &err), &err);
}

static bool console_has(struct backend_instance *machine, const char *text) {
    static char console[BACKEND_CONSOLE_TAIL_SIZE + 1];
    struct monitor *monitor = &machine->monitor;
    int fds[2];
    size_t count = monitor_service_fds(monitor, fds, 2);
    for (size_t i = 0; i < count; i++) {
        assert_true(monitor_service(monitor, fds[i]));
    }
    console[monitor_console(monitor, console, sizeof(console) - 1)] = '\0';
    return text[0] ? strstr(console, text) != NULL : console[0] != '\0';
}

/* "": anything at all. */
static void await(struct rig *rig, struct backend_instance *machine, const char *text) {
    const uint64_t end_ns = host_monotonic_ns(rig->host) + WAIT_MS * HOST_NS_PER_MS;
    while (!console_has(machine, text)) {
        assert_true(host_monotonic_ns(rig->host) < end_ns);
        usleep(200);
    }
}

static void boot(struct rig *rig, struct backend_instance *machine) {
    struct kelpie_error err = {0};
    const struct host_wait wait = wait_of(rig);
    check(monitor_disks_open(&machine->disks, &wait, &err), &err);
    check(kvm_process_start(machine, &err), &err);
    check(host_memory_file(rig->host, "memory", MEMORY_SIZE, &machine->memory_fd, &err), &err);
    pass(rig, machine, CONTROL_ROLE_KERNEL, payload_steps,
         (size_t)(payload_steps_end - payload_steps));
    pass(rig, machine, CONTROL_ROLE_INITRAMFS, NULL, 4);
    check(kvm_pass(machine, CONTROL_ROLE_MEMORY, machine->memory_fd, &err), &err);
    check(kvm_order_machine(machine, CONTROL_BOOT, false, &wait, &err), &err);
}

/* A machine in the middle of its steps, paused: of as many as it takes not to be at the end by then. */
static struct backend_instance *begin(struct rig *rig) {
    for (uint32_t count = STEP_COUNT_MIN; count <= STEP_COUNT_MAX; count *= 8) {
        struct backend_instance *machine = machine_new(rig);
        snprintf(rig->steps, sizeof(rig->steps), "%u", count);
        boot(rig, machine);
        await(rig, machine, "");
        order(rig, machine, CONTROL_PAUSE);
        if (!console_has(machine, "\n")) { /* a line ends only there */
            return machine;
        }
        kvm_instance_deinit(machine);
        free(machine);
        rig->machine_count--;
    }
    fail_msg("it was at its end whenever it was paused");
    return NULL;
}

static void run_to_the_end(struct rig *rig, struct backend_instance *machine) {
    order(rig, machine, CONTROL_RESUME);
    await(rig, machine, "\nend\n");
    order(rig, machine, CONTROL_PAUSE);
}

/* The paused machine as a bundle in memory: what a fork begins with. */
static struct snapshot_reader *fork_of(struct rig *rig, struct backend_instance *machine) {
    struct snapshot_writer *writer = NULL;
    struct kelpie_error err = {0};
    const struct host_wait wait = wait_of(rig);
    assert_true(rig->bundle_count < BUNDLE_COUNT_MAX);
    check(snapshot_writer_create(rig->host, NULL, 0, &writer, &err), &err);
    check(kvm_save(machine, KELPIE_SNAPSHOT_SUSPEND, writer, &wait, &err), &err);
    check(snapshot_writer_read(writer, &rig->bundles[rig->bundle_count], &err), &err);
    snapshot_writer_destroy(writer);
    return rig->bundles[rig->bundle_count++];
}

static void load(struct rig *rig, struct backend_instance *machine,
                 struct snapshot_reader *bundle) {
    struct kelpie_error err = {0};
    const struct host_wait wait = wait_of(rig);
    check(kvm_load(machine, bundle, &wait, &err), &err);
}

static void prepare(struct rig *rig, struct backend_instance *machine,
                    struct snapshot_reader *bundle) {
    struct kelpie_error err = {0};
    const struct host_wait wait = wait_of(rig);
    check(kvm_prepare(machine, bundle, &wait, &err), &err);
    assert_true(machine->prepared);
    assert_true(monitor_process_id(&machine->monitor) > 0);
}

/* ---- What a machine is ------------------------------------------------------------------------ */

struct saved {
    uint8_t *state;
    size_t state_size;
    uint8_t *memory; /* but for its generation, which is apart */
    uint8_t generation[CONTROL_GENERATION_SIZE];
};

static uint8_t *bytes_of(int fd, size_t *ret_size) {
    const off_t size = lseek(fd, 0, SEEK_END);
    assert_true(size > 0);
    uint8_t *bytes = malloc((size_t)size);
    assert_non_null(bytes);
    assert_int_equal(pread(fd, bytes, (size_t)size, 0), size);
    *ret_size = (size_t)size;
    return bytes;
}

/* The paused machine, by a save of all of it. */
static struct saved saved_of(struct rig *rig, struct backend_instance *machine) {
    struct kelpie_error err = {0};
    struct saved saved = {0};
    size_t memory_size = 0;
    AUTO_FD struct host_fd state = {rig->host, HOST_FD_NONE};
    AUTO_FD struct host_fd memory = {rig->host, HOST_FD_NONE};
    check(host_memory_file(rig->host, "state", 0, &state.fd, &err), &err);
    check(host_memory_file(rig->host, "memory", 0, &memory.fd, &err), &err);
    check(kvm_pass(machine, CONTROL_ROLE_STATE, state.fd, &err), &err);
    check(kvm_pass(machine, CONTROL_ROLE_MEMORY, memory.fd, &err), &err);
    order(rig, machine, CONTROL_SAVE);
    saved.state = bytes_of(state.fd, &saved.state_size);
    saved.memory = bytes_of(memory.fd, &memory_size);
    assert_int_equal(memory_size, MEMORY_SIZE);
    memcpy(saved.generation, saved.memory + VMM_GENERATION_GPA, sizeof(saved.generation));
    memset(saved.memory + VMM_GENERATION_GPA, 0, sizeof(saved.generation));
    return saved;
}

static void saved_free(struct saved *saved) {
    free(saved->state);
    free(saved->memory);
}

/* But for the TSC, which goes on. */
static bool same_msrs(const struct state_section *a, const struct state_section *b) {
    bool same = a->size == b->size;
    for (size_t at = 4; same && at + MSR_ENTRY_SIZE <= a->size; at += MSR_ENTRY_SIZE) {
        uint32_t index = 0;
        memcpy(&index, a->payload + at, sizeof(index));
        size_t size = index == MSR_TSC ? sizeof(index) : MSR_ENTRY_SIZE;
        same = memcmp(a->payload + at, b->payload + at, size) == 0;
    }
    return same;
}

/* Of a vCPU, what comes first; of the VM, which has clocks, nothing. */
static bool same_section(const struct state_section *a, const struct state_section *b) {
    if (a->tag != b->tag || a->instance != b->instance || a->size != b->size) {
        return false;
    }
    size_t size = a->tag == TAG_VCPU ? VCPU_REGISTERS : a->tag == TAG_VM ? 0 : a->size;
    return a->tag == TAG_MSRS ? same_msrs(a, b) : memcmp(a->payload, b->payload, size) == 0;
}

static void expect_same_machine(const struct saved *one, const struct saved *other) {
    static struct state_reader readers[2];
    struct kelpie_error err = {0};
    check(state_reader_init(&readers[0], one->state, one->state_size, &err), &err);
    check(state_reader_init(&readers[1], other->state, other->state_size, &err), &err);
    assert_int_equal(readers[0].section_count, readers[1].section_count);
    for (size_t i = 0; i < readers[0].section_count; i++) {
        const struct state_section *a = &readers[0].sections[i];
        if (!same_section(a, &readers[1].sections[i])) {
            fail_msg("section %.4s %u differs", (const char *)&a->tag, a->instance);
        }
    }
    for (size_t i = 0; i < MEMORY_SIZE; i++) {
        if (one->memory[i] != other->memory[i]) {
            fail_msg("memory at %#zx: %#x and %#x", i, one->memory[i], other->memory[i]);
        }
    }
}

struct checksum {
    char text[SNAPSHOT_CHECKSUM_SIZE];
};

static struct checksum memory_checksum(struct rig *rig, const struct snapshot_reader *bundle) {
    struct kelpie_error err = {0};
    struct checksum checksum = {{0}};
    const struct host_wait wait = wait_of(rig);
    check(snapshot_checksum_file(rig->host, snapshot_reader_part(bundle, SNAPSHOT_PART_MEMORY),
                                 MEMORY_SIZE, &wait, checksum.text, &err),
          &err);
    return checksum;
}

/* ---- Forks ------------------------------------------------------------------------------------ */

/* Both end as if the other were not there, and what they share stays as it was. */
static void parent_and_child_are_apart(void **state) {
    struct rig *rig = rig_of(state);
    struct backend_instance *parent = begin(rig);
    struct snapshot_reader *bundle = fork_of(rig, parent);
    const struct checksum shared = memory_checksum(rig, bundle);
    struct backend_instance *child = machine_new(rig);
    load(rig, child, bundle);
    run_to_the_end(rig, parent);
    assert_string_equal(memory_checksum(rig, bundle).text, shared.text);
    struct saved parent_end = saved_of(rig, parent);
    struct saved child_start = saved_of(rig, child);
    assert_memory_not_equal(parent_end.memory, child_start.memory, MEMORY_SIZE);
    run_to_the_end(rig, child);
    assert_string_equal(memory_checksum(rig, bundle).text, shared.text);
    struct saved child_end = saved_of(rig, child);
    expect_same_machine(&parent_end, &child_end);
    assert_memory_not_equal(parent_end.generation, child_end.generation, CONTROL_GENERATION_SIZE);
    saved_free(&parent_end);
    saved_free(&child_start);
    saved_free(&child_end);
}

/* Its memory is in no file any more, neither after a fork nor in a child: the next fork writes one. */
static void what_was_forked_is_forked_again(void **state) {
    struct rig *rig = rig_of(state);
    struct backend_instance *parent = begin(rig);
    struct backend_instance *child = machine_new(rig);
    load(rig, child, fork_of(rig, parent));
    run_to_the_end(rig, parent);
    run_to_the_end(rig, child);
    struct saved end = saved_of(rig, parent);
    struct backend_instance *relatives[] = {parent, child};
    for (size_t i = 0; i < ARRAY_SIZE(relatives); i++) {
        struct backend_instance *next = machine_new(rig);
        load(rig, next, fork_of(rig, relatives[i]));
        struct saved saved = saved_of(rig, next);
        expect_same_machine(&end, &saved);
        assert_memory_not_equal(end.generation, saved.generation, CONTROL_GENERATION_SIZE);
        saved_free(&saved);
    }
    saved_free(&end);
}

/* ---- Prepared processes ----------------------------------------------------------------------- */

/* What it rehearsed has left no trace, and it is the process that was prepared which goes on. */
static void prepared_machine_equals_one_that_was_not(void **state) {
    struct rig *rig = rig_of(state);
    struct control_stamps stamps = {0};
    struct kelpie_error err = {0};
    const struct host_wait wait = wait_of(rig);
    struct snapshot_reader *bundle = fork_of(rig, begin(rig));
    struct backend_instance *plain = machine_new(rig);
    struct backend_instance *prepared = machine_new(rig);
    prepare(rig, prepared, bundle);
    int process_id = monitor_process_id(&prepared->monitor);
    load(rig, plain, bundle);
    load(rig, prepared, bundle);
    assert_int_equal(monitor_process_id(&prepared->monitor), process_id);
    struct backend_instance *both[] = {plain, prepared};
    for (int ended = 0; ended < 2; ended++) {
        struct saved saved[] = {saved_of(rig, plain), saved_of(rig, prepared)};
        check(kvm_order_tell(prepared, &stamps, &wait, &err), &err);
        expect_same_machine(&saved[0], &saved[1]);
        assert_true(ended ? stamps.first_exit_ns >= stamps.resumed_ns : stamps.first_exit_ns == 0);
        for (size_t i = 0; i < ARRAY_SIZE(both); i++) {
            saved_free(&saved[i]);
            if (!ended) {
                run_to_the_end(rig, both[i]);
            }
        }
    }
}

static void prepared_process_that_died_is_replaced(void **state) {
    struct rig *rig = rig_of(state);
    const struct host_wait wait = wait_of(rig);
    struct backend_instance *parent = begin(rig);
    struct snapshot_reader *bundle = fork_of(rig, parent);
    struct backend_instance *machine = machine_new(rig);
    prepare(rig, machine, bundle);
    int process_id = monitor_process_id(&machine->monitor);
    monitor_kill(&machine->monitor);
    monitor_await_end(&machine->monitor, &wait);
    load(rig, machine, bundle);
    assert_int_not_equal(monitor_process_id(&machine->monitor), process_id);
    run_to_the_end(rig, machine);
    run_to_the_end(rig, parent);
    struct saved saved[] = {saved_of(rig, parent), saved_of(rig, machine)};
    expect_same_machine(&saved[0], &saved[1]);
    saved_free(&saved[0]);
    saved_free(&saved[1]);
}

/* Its vCPUs and its memory are made: what they are cannot be changed any more. */
static void prepared_process_takes_no_other_machine(void **state) {
    struct rig *rig = rig_of(state);
    const struct host_wait wait = wait_of(rig);
    static const struct {
        uint32_t vcpu_count;
        uint32_t memory_mib;
    } others[] = {{2, MEMORY_MIB}, {1, 2 * MEMORY_MIB}, {1, MEMORY_MIB - 8}};
    rig->config.disk_count = 0;
    for (size_t i = 0; i < ARRAY_SIZE(others); i++) {
        struct kelpie_error err = {0};
        struct backend_instance *machine = machine_new(rig);
        rig->config.vcpu_count = others[i].vcpu_count;
        rig->config.memory_mib = others[i].memory_mib;
        check(kvm_process_start(machine, &err), &err);
        check(kvm_order_machine(machine, CONTROL_PREPARE, false, &wait, &err), &err);
        rig->config.vcpu_count = 1;
        rig->config.memory_mib = MEMORY_MIB;
        pass(rig, machine, CONTROL_ROLE_STATE, NULL, 64);
        pass(rig, machine, CONTROL_ROLE_MEMORY, NULL, MEMORY_SIZE);
        assert_int_equal(kvm_order_machine(machine, CONTROL_LOAD, false, &wait, &err),
                         KELPIE_INTERNAL);
        assert_non_null(strstr(err.message, "another machine"));
    }
}

#define RIG_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        RIG_TEST(parent_and_child_are_apart),
        RIG_TEST(what_was_forked_is_forked_again),
        RIG_TEST(prepared_machine_equals_one_that_was_not),
        RIG_TEST(prepared_process_that_died_is_replaced),
        RIG_TEST(prepared_process_takes_no_other_machine),
    };
    return cmocka_run_group_tests_name("forks of payloads", tests, NULL, NULL);
}
