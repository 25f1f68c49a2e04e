/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Saves, diffs and loads of whole machines on the real /dev/kvm, with a guest that writes where it is told to. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/assert.h"
#include "vmm/machine.h"

#define MEMORY_MIB 80u
#define MEMORY_SIZE ((size_t)MEMORY_MIB << 20)
#define PAGE_COUNT (MEMORY_SIZE / VMM_PAGE_SIZE)
#define ORDER_GPA 0x200000ull  /* where the guest reads what to write */
#define DEVICE_GPA 0x300000ull /* what the processor never touches */
#define WAIT_S 20
#define IMAGE_COUNT_MAX 16
#define MACHINE_COUNT 16
#define ELF_SIZE 120
#define LOAD_GPA 0x100000ull
#define MORE_PAGES 8 /* that are written besides: orders, page tables, the generation */

/* Waits for another number, writes `value` to `count` pages, `stride` bytes apart, and says which number it was. */
struct order {
    uint64_t number;
    uint64_t address;
    uint64_t count;
    uint64_t stride;
    uint64_t value;
    uint64_t done;
};

extern const uint8_t writer_code[], writer_code_end[];
__asm__(".pushsection .rodata\n"
        "writer_code:\n"
        "xor %ecx, %ecx\n"
        "mov $0x200000, %esi\n"
        "1: pause\n"
        "mov (%rsi), %rbx\n"
        "cmp %rbx, %rcx\n"
        "je 1b\n"
        "mov %rbx, %rcx\n"
        "mov 8(%rsi), %rdi\n"
        "mov 16(%rsi), %r8\n"
        "2: mov 32(%rsi), %rax\n"
        "mov %rax, (%rdi)\n"
        "mov %rax, 4088(%rdi)\n"
        "add 24(%rsi), %rdi\n"
        "dec %r8\n"
        "jnz 2b\n"
        "mov %rcx, 40(%rsi)\n"
        "jmp 1b\n"
        "writer_code_end:\n"
        ".popsection\n");

static struct machine machines[MACHINE_COUNT]; /* the process takes them down */
static size_t machine_count;
static const struct control_machine config = {
    .vcpu_count = 1, .memory_mib = MEMORY_MIB, .channel_port = 1024, .generation = {1, 2, 3}};

/* ---- Help ------------------------------------------------------------------------------------- */

static void check(enum kelpie_status status, const struct kelpie_error *err) {
    if (status != KELPIE_OK) {
        print_error("%s\n", err->message);
    }
    assert_int_equal(status, KELPIE_OK);
}

/* The descriptors that every monitor has. */
static int set_up(void **state) {
    (void)state;
    int pair[2];
    int kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm_fd < 0) {
        print_message("skipped: /dev/kvm cannot be opened: %s\n", strerror(errno));
        exit(77);
    }
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0 || dup2(kvm_fd, 100) < 0 ||
        dup2(pair[0], 101) < 0 || dup2(101, CONTROL_CHILD_CHANNEL) < 0 ||
        dup2(101, CONTROL_CHILD_CONSOLE) < 0 || dup2(100, CONTROL_CHILD_KVM) < 0) {
        return -1;
    }
    return 0;
}

static int new_file(size_t size) {
    int fd = memfd_create("test", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    return fd;
}

static struct machine_files no_files(void) {
    struct machine_files files;
    memset(&files, 0xff, sizeof(files));
    return files;
}

/* The least ELF file that a loader takes: header, one PT_LOAD, code (System V ABI, gABI 4.1). */
static int make_kernel(void) {
    uint8_t bytes[ELF_SIZE] = {0x7f, 'E', 'L', 'F', 2, 1, 1};
    struct cursor_writer writer = cursor_writer_init(bytes + 16, sizeof(bytes) - 16);
    const size_t size = (size_t)(writer_code_end - writer_code);
    cursor_write_u16(&writer, 2);
    cursor_write_u16(&writer, 0x3e);
    cursor_write_u32(&writer, 1);
    cursor_write_u64(&writer, LOAD_GPA);
    cursor_write_u64(&writer, 64);
    cursor_write_u64(&writer, 0);
    cursor_write_u32(&writer, 0);
    cursor_write_u16(&writer, 64);
    cursor_write_u16(&writer, 56);
    cursor_write_u16(&writer, 1);
    cursor_write_bytes(&writer, "\0\0\0\0\0\0", 6);
    cursor_write_u32(&writer, 1);
    cursor_write_u32(&writer, 7);
    cursor_write_u64(&writer, ELF_SIZE);
    cursor_write_u64(&writer, LOAD_GPA);
    cursor_write_u64(&writer, LOAD_GPA);
    cursor_write_u64(&writer, size);
    cursor_write_u64(&writer, size);
    cursor_write_u64(&writer, 0x1000);
    assert_false(writer.failed);
    int fd = new_file(0);
    assert_int_equal(write(fd, bytes, sizeof(bytes)), sizeof(bytes));
    assert_int_equal(write(fd, writer_code, size), size);
    return fd;
}

static struct machine *boot(void) {
    struct kelpie_error err;
    struct machine *machine = &machines[machine_count++];
    struct machine_files files = no_files();
    files.fds[CONTROL_ROLE_KERNEL] = make_kernel();
    files.fds[CONTROL_ROLE_INITRAMFS] = new_file(4096);
    files.fds[CONTROL_ROLE_MEMORY] = new_file(MEMORY_SIZE);
    check(machine_boot(machine, &config, &files, &err), &err);
    close(files.fds[CONTROL_ROLE_KERNEL]);
    close(files.fds[CONTROL_ROLE_INITRAMFS]);
    check(machine_resume(machine, &err), &err);
    return machine;
}

/* Has the running guest write, as a device would tell it to. */
static void let_write(struct machine *machine, struct order order) {
    static uint64_t number;
    uint64_t done = 0;
    time_t end = time(NULL) + WAIT_S;
    order.number = ++number;
    assert_true(memory_write(&machine->memory, ORDER_GPA + 8, &order.address, sizeof(order) - 8));
    assert_true(memory_write(&machine->memory, DEVICE_GPA, &number, sizeof(number)));
    assert_true(memory_write(&machine->memory, ORDER_GPA, &order.number, sizeof(order.number)));
    while (done != order.number && time(NULL) < end) {
        usleep(1000);
        done = *(volatile uint64_t *)(void *)(machine->memory.host + ORDER_GPA + 40);
    }
    assert_int_equal(done, order.number);
}

/* A saved machine, or a diff. */
struct bundle {
    int state_fd;
    int memory_fd;
    int pages_fd;   /* -1: it is none */
    uint8_t *image; /* what its guest's memory held */
};

static uint8_t *images[IMAGE_COUNT_MAX]; /* of all bundles, freed at the end */
static size_t image_count;

static void keep_image(const struct machine *machine, struct bundle *bundle) {
    bundle->image = malloc(MEMORY_SIZE);
    assert_non_null(bundle->image);
    assert_true(image_count < IMAGE_COUNT_MAX);
    images[image_count++] = bundle->image;
    memcpy(bundle->image, machine->memory.host, MEMORY_SIZE);
}

/* The orders take what they are given. */
static void presave(struct machine *machine, int fd) {
    struct kelpie_error err;
    struct machine_files files = no_files();
    files.fds[CONTROL_ROLE_MEMORY] = fd >= 0 ? dup(fd) : -1;
    check(machine_presave(machine, &files, &err), &err);
    assert_int_equal(files.fds[CONTROL_ROLE_MEMORY], -1);
}

/* Of a machine that stands. presaved: where the memory of the diff is already. */
static struct bundle save(struct machine *machine, bool diff, int presaved_fd) {
    struct kelpie_error err;
    struct bundle bundle = {.state_fd = new_file(0),
                            .memory_fd = presaved_fd >= 0 ? presaved_fd : new_file(0),
                            .pages_fd = diff ? new_file(0) : -1};
    struct machine_files files = no_files();
    files.fds[CONTROL_ROLE_STATE] = bundle.state_fd;
    files.fds[CONTROL_ROLE_MEMORY] = presaved_fd >= 0 ? -1 : dup(bundle.memory_fd);
    files.fds[CONTROL_ROLE_PAGES_0] = bundle.pages_fd;
    check(machine_save(machine, &files, &err), &err);
    keep_image(machine, &bundle);
    return bundle;
}

static enum kelpie_status try_load(const struct bundle *chain, size_t count,
                                   struct machine **ret_machine, struct kelpie_error *err) {
    struct machine *machine = &machines[machine_count++];
    struct machine_files files = no_files();
    assert_true(machine_count <= MACHINE_COUNT);
    files.fds[CONTROL_ROLE_STATE] = chain[count - 1].state_fd;
    files.fds[CONTROL_ROLE_MEMORY] = chain[0].memory_fd;
    for (size_t i = 1; i < count; i++) {
        files.fds[CONTROL_ROLE_LAYER_0 + i - 1] = chain[i].memory_fd;
        files.fds[CONTROL_ROLE_PAGES_0 + i - 1] = chain[i].pages_fd;
    }
    *ret_machine = machine;
    return machine_load(machine, &config, &files, err);
}

/* The first page that is not as it was saved; PAGE_COUNT: none. */
static size_t first_difference(const struct machine *machine, const uint8_t *image) {
    size_t page = 0;
    while (page < PAGE_COUNT && memcmp(machine->memory.host + page * VMM_PAGE_SIZE,
                                       image + page * VMM_PAGE_SIZE, VMM_PAGE_SIZE) == 0) {
        page++;
    }
    return page;
}

static struct machine *load(const struct bundle *chain, size_t count) {
    struct kelpie_error err;
    struct machine *machine = NULL;
    check(try_load(chain, count, &machine, &err), &err);
    assert_int_equal(first_difference(machine, chain[count - 1].image), PAGE_COUNT);
    return machine;
}

static void pause_machine(struct machine *machine) {
    struct kelpie_error err;
    check(machine_pause(machine, &err), &err);
}

static void track_and_resume(struct machine *machine) {
    struct kelpie_error err;
    check(machine_track(machine, &err), &err);
    check(machine_resume(machine, &err), &err);
}

static size_t page_count_of(const struct bundle *diff) {
    uint8_t bits[PAGE_COUNT / 8];
    size_t count = 0;
    assert_int_equal(pread(diff->pages_fd, bits, sizeof(bits), 0), sizeof(bits));
    for (size_t i = 0; i < sizeof(bits); i++) {
        count += (size_t)__builtin_popcount(bits[i]);
    }
    return count;
}

static uint64_t bytes_taken(int fd) {
    struct stat info;
    assert_int_equal(fstat(fd, &info), 0);
    return (uint64_t)info.st_blocks * 512;
}

/* ---- Cases ------------------------------------------------------------------------------------ */

static void hazard_c8_each_diff_of_a_chain_is_its_moment(void **state) {
    (void)state;
    struct kelpie_error err;
    struct bundle chain[4];
    struct machine *machine = boot();
    let_write(machine,
              (struct order){.address = 4 << 20, .count = 700, .stride = 4096, .value = 7});
    pause_machine(machine);
    chain[0] = save(machine, false, -1);
    track_and_resume(machine);

    /* Every second page; some of them again after they were written ahead, with zeros. */
    let_write(machine,
              (struct order){.address = 4 << 20, .count = 300, .stride = 8192, .value = 8});
    int ahead_fd = new_file(0);
    presave(machine, ahead_fd);
    let_write(machine,
              (struct order){.address = 4 << 20, .count = 100, .stride = 4096, .value = 0});
    presave(machine, -1);
    let_write(machine, (struct order){.address = 9 << 20, .count = 5, .stride = 4096, .value = 9});
    pause_machine(machine);
    chain[1] = save(machine, true, ahead_fd);
    assert_in_range(page_count_of(&chain[1]), 355, 355 + MORE_PAGES);
    assert_true(bytes_taken(ahead_fd) <=
                (355 - 100 + MORE_PAGES) * VMM_PAGE_SIZE); /* zeros are holes */
    check(machine_resume(machine, &err), &err);
    let_write(machine,
              (struct order){.address = 4 << 20, .count = 50, .stride = 8192, .value = 10});
    pause_machine(machine);
    chain[2] = save(machine, true, -1);
    assert_in_range(page_count_of(&chain[2]), 50, 50 + MORE_PAGES);

    struct machine *first = load(chain, 2);
    struct machine *second = load(chain, 3);
    assert_int_not_equal(first_difference(first, chain[2].image), PAGE_COUNT);
    track_and_resume(second);
    let_write(second, (struct order){.address = 5 << 20, .count = 20, .stride = 4096, .value = 11});
    pause_machine(second);
    chain[3] = save(second, true, -1);
    assert_in_range(page_count_of(&chain[3]), 20,
                    20 + MORE_PAGES); /* with the generation, since the load */
    load(chain, 4);
    struct bundle full = save(second, false, -1); /* all of it, from four files and its own pages */
    load(&full, 1);
    assert_int_equal(first_difference(first, chain[1].image), PAGE_COUNT);
}

static void diff_that_was_given_up_is_not_in_the_next(void **state) {
    (void)state;
    struct kelpie_error err;
    struct bundle chain[2];
    struct machine *machine = boot();
    pause_machine(machine);
    chain[0] = save(machine, false, -1);
    track_and_resume(machine);
    let_write(machine, (struct order){.address = 4 << 20, .count = 10, .stride = 4096, .value = 1});
    presave(machine, new_file(0));
    let_write(machine, (struct order){.address = 6 << 20, .count = 10, .stride = 4096, .value = 2});
    pause_machine(machine);
    chain[1] = save(machine, true, -1); /* into another file: with what was written ahead */
    assert_in_range(page_count_of(&chain[1]), 20, 20 + MORE_PAGES);
    load(chain, 2);
    check(machine_resume(machine, &err), &err);
}

static void memory_is_not_filled_by_a_save(void **state) {
    (void)state;
    struct machine *machine = boot();
    let_write(machine, (struct order){.address = 4 << 20, .count = 10, .stride = 4096, .value = 1});
    pause_machine(machine);
    uint64_t before = bytes_taken(machine->memory_fd);
    int state_fd = new_file(0);
    int memory_fd = new_file(0);
    struct kelpie_error err;
    struct machine_files files = no_files();
    files.fds[CONTROL_ROLE_STATE] = state_fd;
    files.fds[CONTROL_ROLE_MEMORY] = memory_fd;
    check(machine_save(machine, &files, &err), &err);
    assert_int_equal(bytes_taken(machine->memory_fd), before);
    assert_true(before < MEMORY_SIZE / 2);
    assert_true(bytes_taken(memory_fd) <= before);
}

static void what_cannot_be_tracked_is_refused(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    struct machine_files files = no_files();
    struct machine *machine = boot();
    assert_int_equal(machine_presave(machine, &files, &err), KELPIE_WRONG_STATE);
    pause_machine(machine);
    assert_int_equal(machine_track(machine, &err), KELPIE_WRONG_STATE); /* it ran */
    struct bundle base = save(machine, false, -1);
    check(machine_resume(machine, &err), &err);
    pause_machine(machine);
    assert_int_equal(machine_track(machine, &err), KELPIE_WRONG_STATE);
    files.fds[CONTROL_ROLE_STATE] = new_file(0);
    files.fds[CONTROL_ROLE_PAGES_0] = new_file(0);
    files.fds[CONTROL_ROLE_MEMORY] = new_file(0);
    assert_int_equal(machine_save(machine, &files, &err), KELPIE_WRONG_STATE);
    close(base.memory_fd);
}

static void hazard_b3_files_of_a_diff_have_another_size(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    struct machine *machine = boot();
    pause_machine(machine);
    struct bundle chain[2] = {save(machine, false, -1)};
    const size_t wrong[][2] = {
        {MEMORY_SIZE, PAGE_COUNT / 8 - 1},
        {MEMORY_SIZE, PAGE_COUNT / 8 + 8},
        {MEMORY_SIZE - VMM_PAGE_SIZE, PAGE_COUNT / 8},
        {MEMORY_SIZE + VMM_PAGE_SIZE, PAGE_COUNT / 8},
    };
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
        struct machine *ignored = NULL;
        chain[1] = chain[0];
        chain[1].memory_fd = new_file(wrong[i][0]);
        chain[1].pages_fd = new_file(wrong[i][1]);
        assert_int_equal(try_load(chain, 2, &ignored, &err), KELPIE_SNAPSHOT_CORRUPT);
        assert_string_equal(err.field, i < 2 ? "pages" : "memory");
    }
}

/* Every second page of memory: more pieces than are mapped. */
static void diff_in_many_pieces_is_copied(void **state) {
    (void)state;
    struct kelpie_error err;
    uint8_t bits[PAGE_COUNT / 8];
    struct machine *machine = boot();
    pause_machine(machine);
    struct bundle chain[2] = {save(machine, false, -1)};
    static_assert(PAGE_COUNT / 2 > VMM_DIFF_MAPPING_COUNT_MAX, "some are copied");
    chain[1] = chain[0];
    chain[1].memory_fd = new_file(MEMORY_SIZE);
    chain[1].pages_fd = new_file(0);
    for (uint64_t page = 1; page < PAGE_COUNT; page += 2) {
        /* What the load itself writes is left as it is. */
        uint64_t value = page == VMM_GENERATION_GPA / VMM_PAGE_SIZE ? 0 : page;
        memcpy(chain[1].image + page * VMM_PAGE_SIZE, &value, sizeof(value));
        assert_int_equal(pwrite(chain[1].memory_fd, chain[1].image + page * VMM_PAGE_SIZE,
                                VMM_PAGE_SIZE, (off_t)(page * VMM_PAGE_SIZE)),
                         VMM_PAGE_SIZE);
    }
    memset(bits, 0xaa, sizeof(bits));
    assert_int_equal(write(chain[1].pages_fd, bits, sizeof(bits)), sizeof(bits));
    struct machine *loaded = load(chain, 2);
    check(machine_pause(loaded, &err), &err);
}

static int free_images(void **state) {
    (void)state;
    while (image_count > 0) {
        free(images[--image_count]);
    }
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hazard_c8_each_diff_of_a_chain_is_its_moment),
        cmocka_unit_test(diff_that_was_given_up_is_not_in_the_next),
        cmocka_unit_test(memory_is_not_filled_by_a_save),
        cmocka_unit_test(what_cannot_be_tracked_is_refused),
        cmocka_unit_test(hazard_b3_files_of_a_diff_have_another_size),
        cmocka_unit_test(diff_in_many_pieces_is_copied),
    };
    return cmocka_run_group_tests(tests, set_up, free_images);
}
