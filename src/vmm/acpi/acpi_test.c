/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "vmm/acpi/acpi.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/assert.h"
#include "vmm/acpi/aml.h"

#define MEMORY_SIZE (2ull << 20)
#define TABLE_SIZE_MAX 65536

static struct memory memory_new(void) {
    struct memory memory;
    void *host =
        mmap(NULL, MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(host, MAP_FAILED);
    memset(host, 0xa5, MEMORY_SIZE);
    memory_init(&memory, host, MEMORY_SIZE);
    return memory;
}

static void memory_free(struct memory *memory) {
    munmap(memory->host, memory->size);
}

static uint64_t number_at(const struct memory *memory, uint64_t gpa, size_t width) {
    uint64_t value = 0;
    assert_true(memory_read(memory, gpa, &value, width));
    return value;
}

static void assert_sum(const struct memory *memory, uint64_t gpa, uint64_t size) {
    const uint8_t *bytes = memory_readable(memory, gpa, size);
    uint8_t sum = 0;
    assert_non_null(bytes);
    for (uint64_t i = 0; i < size; i++) {
        sum = (uint8_t)(sum + bytes[i]);
    }
    assert_int_equal(sum, 0);
}

/* A table that lies in the area and whose sum is right; returns its length. */
static uint64_t assert_table(const struct memory *memory, uint64_t gpa, const char *signature) {
    assert_in_range(gpa, VMM_ACPI_BASE, VMM_ACPI_BASE + VMM_ACPI_SIZE - 36);
    assert_int_equal(gpa % 64, 0);
    assert_memory_equal(memory_readable(memory, gpa, 4), signature, 4);
    uint64_t length = number_at(memory, gpa + 4, 4);
    assert_in_range(length, 36, VMM_ACPI_BASE + VMM_ACPI_SIZE - gpa);
    assert_sum(memory, gpa, length);
    return length;
}

struct found {
    uint64_t fadt;
    uint64_t madt;
    uint64_t dsdt;
};

/* As a guest finds them, from the RSDP on. */
static struct found find_tables(const struct memory *memory) {
    struct found found;
    assert_memory_equal(memory_readable(memory, VMM_RSDP_GPA, 8), "RSD PTR ", 8);
    assert_int_equal(number_at(memory, VMM_RSDP_GPA + 15, 1), 2);
    assert_int_equal(number_at(memory, VMM_RSDP_GPA + 20, 4), 36);
    assert_sum(memory, VMM_RSDP_GPA, 20);
    assert_sum(memory, VMM_RSDP_GPA, 36);
    uint64_t xsdt = number_at(memory, VMM_RSDP_GPA + 24, 8);
    assert_int_equal(assert_table(memory, xsdt, "XSDT"), 36 + 2 * 8);
    found.fadt = number_at(memory, xsdt + 36, 8);
    found.madt = number_at(memory, xsdt + 44, 8);
    assert_int_equal(assert_table(memory, found.fadt, "FACP"), 276);
    found.dsdt = number_at(memory, found.fadt + 140, 8);
    assert_int_equal(number_at(memory, found.fadt + 40, 4), found.dsdt);
    return found;
}

static struct found build(struct memory *memory, uint32_t vcpu_count, uint32_t device_count,
                          bool has_serial) {
    const struct acpi_description description = {vcpu_count, device_count, has_serial};
    assert_int_equal(acpi_build(memory, &description, NULL), KELPIE_OK);
    return find_tables(memory);
}

static void tables_are_found_and_sum_up_for_every_machine(void **state) {
    (void)state;
    struct memory memory = memory_new();
    for (uint32_t vcpus = 1; vcpus <= VMM_VCPU_COUNT_MAX; vcpus++) {
        uint32_t devices = vcpus % (VMM_MMIO_DEVICE_COUNT_MAX + 1);
        struct found found = build(&memory, vcpus, devices, vcpus % 2 == 0);
        assert_int_equal(assert_table(&memory, found.madt, "APIC"), 44 + 8 * vcpus + 12 + 6);
        assert_table(&memory, found.dsdt, "DSDT");
    }
    /* Not a byte outside the area. */
    assert_int_equal(number_at(&memory, VMM_ACPI_BASE - 1, 1), 0xa5);
    assert_int_equal(number_at(&memory, VMM_ACPI_BASE + VMM_ACPI_SIZE, 1), 0xa5);
    memory_free(&memory);
}

static void assert_port(const struct memory *memory, uint64_t gpa, uint16_t port) {
    assert_int_equal(number_at(memory, gpa, 4), 0x01000801); /* I/O, 8 bits from 0, by bytes */
    assert_int_equal(number_at(memory, gpa + 4, 8), port);
}

static void the_fadt_says_how_to_reset_and_to_power_off(void **state) {
    (void)state;
    struct memory memory = memory_new();
    struct found found = build(&memory, 1, 1, true);
    uint64_t flags = number_at(&memory, found.fadt + 112, 4);
    assert_int_equal(number_at(&memory, found.fadt + 8, 1), 6);
    assert_true(flags & 1u << 10);                                          /* RESET_REG_SUP */
    assert_true(flags & 1u << 20);                                          /* HW_REDUCED_ACPI */
    assert_int_equal(number_at(&memory, found.fadt + 109, 2) & 0x23, 0x20); /* no 8042, no clock */
    assert_port(&memory, found.fadt + 116, VMM_RESET_PORT);
    assert_int_equal(number_at(&memory, found.fadt + 128, 1), VMM_RESET_VALUE);
    assert_port(&memory, found.fadt + 244, VMM_SLEEP_CONTROL_PORT);
    assert_port(&memory, found.fadt + 256, VMM_SLEEP_STATUS_PORT);
    assert_int_equal(number_at(&memory, found.fadt + 46, 2), 0); /* no SCI */
    memory_free(&memory);
}

static void the_madt_names_each_vcpu_and_the_io_apic(void **state) {
    (void)state;
    struct memory memory = memory_new();
    struct found found = build(&memory, 3, 0, false);
    assert_int_equal(number_at(&memory, found.madt + 36, 4), 0xfee00000);
    for (uint64_t i = 0; i < 3; i++) {
        uint64_t entry = number_at(&memory, found.madt + 44 + 8 * i, 8);
        assert_true(entry == (0x0000000100000800ull | i << 16 | i << 24));
    }
    assert_int_equal(number_at(&memory, found.madt + 68, 4), 0x00000c01);
    assert_int_equal(number_at(&memory, found.madt + 72, 4), 0xfec00000);
    assert_int_equal(number_at(&memory, found.madt + 76, 4), 0);
    assert_int_equal(number_at(&memory, found.madt + 80, 1), 4);
    memory_free(&memory);
}

static void a_memory_that_is_too_small_is_refused(void **state) {
    (void)state;
    static uint8_t bytes[VMM_PAGE_SIZE];
    struct memory memory;
    struct kelpie_error err;
    const struct acpi_description description = {1, 1, true};
    memory_init(&memory, bytes, sizeof(bytes));
    assert_int_equal(acpi_build(&memory, &description, &err), KELPIE_BAD_CONFIG);
    assert_string_equal(err.field, "memory_mib");
}

static void aml_is_encoded_as_the_specification_says(void **state) {
    (void)state;
    uint8_t buffer[64];
    struct aml aml;
    const uint32_t integers[] = {0, 1, 0xff, 0x1234, 0x12345678};
    aml_init(&aml, buffer, sizeof(buffer));
    aml_name_eisa_id(&aml, "_HID", "PNP0501");
    const uint8_t eisa[] = {0x08, '_', 'H', 'I', 'D', 0x0c, 0x41, 0xd0, 0x05, 0x01};
    assert_int_equal(aml.out.size, sizeof(eisa));
    assert_memory_equal(buffer, eisa, sizeof(eisa));
    aml_init(&aml, buffer, sizeof(buffer));
    aml_name_integers(&aml, "ADDR", integers, 5);
    const uint8_t package[] = {0x08, 'A',  'D',  'D',  'R',  0x12, 0x80 | 0x0, 0x01,
                               0x00, 5,    0,    1,    0x0a, 0xff, 0x0b,       0x34,
                               0x12, 0x0c, 0x78, 0x56, 0x34, 0x12};
    assert_int_equal(aml.out.size, sizeof(package));
    assert_memory_equal(buffer, package, sizeof(package));
    aml_init(&aml, buffer, sizeof(buffer));
    aml_resources_begin(&aml);
    aml_resource_interrupt(&aml, 5);
    aml_resources_end(&aml);
    const uint8_t resources[] = {0x08, '_',  'C',  'R',  'S',  0x11, 0x81, 0x01,
                                 0x00, 0x0b, 0x0b, 0x00, 0x89, 0x06, 0x00, 0x03,
                                 1,    5,    0,    0,    0,    0x79, 0x00};
    assert_int_equal(aml.out.size, sizeof(resources));
    assert_memory_equal(buffer, resources, sizeof(resources));
}

static void aml_that_does_not_fit_fails_and_writes_no_further(void **state) {
    (void)state;
    for (size_t capacity = 1; capacity < 40; capacity++) {
        uint8_t *buffer = malloc(capacity);
        struct aml aml;
        assert_non_null(buffer);
        aml_init(&aml, buffer, capacity);
        aml_scope_begin(&aml, "_SB_");
        aml_device_begin(&aml, "DEV0");
        aml_resources_begin(&aml);
        aml_resource_memory(&aml, 0xd0000000, 0x1000);
        aml_resources_end(&aml);
        aml_end(&aml);
        aml_end(&aml);
        assert_true(aml.out.failed);
        free(buffer);
    }
}

/* Whether a text stands in a file; the file's text is printed when not. */
static bool file_has(const char *path, const char *text) {
    static char bytes[TABLE_SIZE_MAX + 1];
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    bytes[fread(bytes, 1, TABLE_SIZE_MAX, file)] = '\0';
    (void)fclose(file);
    bool found = strstr(bytes, text) != NULL;
    if (!found) {
        print_message("\"%s\" is not in %s:\n%s\n", text, path, bytes);
    }
    return found;
}

static void run_iasl(const char *folder, const char *command) {
    char line[256];
    snprintf(line, sizeof(line), "cd %s && { %s; } >>log 2>&1", folder, command);
    int status = system(line); /* NOLINT(cert-env33-c): the test's own words */
    if (status != 0) {
        snprintf(line, sizeof(line), "%s/log", folder);
        (void)file_has(line, "(the whole log)");
    }
    assert_int_equal(status, 0);
}

/* Another's disassembler understands the tables, and its compiler has nothing to say against what it read. */
static void iasl_understands_the_tables(void **state) {
    (void)state;
    char folder[] = "/tmp/kelpie-acpi-XXXXXX";
    char path[64];
    if (system("iasl -v >/dev/null 2>&1") != 0) { /* NOLINT(cert-env33-c) */
        print_message("iasl is not installed (Debian: acpica-tools)\n");
        skip();
    }
    struct memory memory = memory_new();
    struct found found = build(&memory, VMM_VCPU_COUNT_MAX, VMM_MMIO_DEVICE_COUNT_MAX, true);
    const struct {
        const char *name;
        uint64_t gpa;
    } tables[] = {{"dsdt", found.dsdt}, {"facp", found.fadt}, {"apic", found.madt}};
    assert_non_null(mkdtemp(folder));
    for (size_t i = 0; i < ARRAY_SIZE(tables); i++) {
        snprintf(path, sizeof(path), "%s/%s.aml", folder, tables[i].name);
        FILE *file = fopen(path, "wb");
        size_t length = (size_t)number_at(&memory, tables[i].gpa + 4, 4);
        assert_non_null(file);
        assert_int_equal(fwrite(memory_readable(&memory, tables[i].gpa, length), 1, length, file),
                         length);
        assert_int_equal(fclose(file), 0);
    }
    run_iasl(folder, "iasl -d dsdt.aml facp.aml apic.aml && iasl -p again dsdt.dsl");
    snprintf(path, sizeof(path), "%s/log", folder);
    assert_true(file_has(path, "0 Errors, 0 Warnings, 0 Remarks"));
    snprintf(path, sizeof(path), "%s/dsdt.dsl", folder);
    assert_true(file_has(path, "EisaId (\"PNP0501\")"));
    assert_true(file_has(path, "Device (VR15)"));
    assert_true(file_has(path, "\"QEMU0001\""));
    assert_true(file_has(path, "0x0505,             // Range Minimum"));
    assert_true(file_has(path, "Notify (VGEN, 0x80)"));
    assert_true(file_has(path, "Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive"));
    snprintf(path, sizeof(path), "%s/facp.dsl", folder);
    assert_true(file_has(path, "Hardware Reduced (V5) : 1"));
    run_iasl(folder, "rm -f *.dsl *.aml log");
    assert_int_equal(rmdir(folder), 0);
    memory_free(&memory);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tables_are_found_and_sum_up_for_every_machine),
        cmocka_unit_test(the_fadt_says_how_to_reset_and_to_power_off),
        cmocka_unit_test(the_madt_names_each_vcpu_and_the_io_apic),
        cmocka_unit_test(a_memory_that_is_too_small_is_refused),
        cmocka_unit_test(aml_is_encoded_as_the_specification_says),
        cmocka_unit_test(aml_that_does_not_fit_fails_and_writes_no_further),
        cmocka_unit_test(iasl_understands_the_tables),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
