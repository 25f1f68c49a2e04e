/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * AML, as much as our DSDT needs (ACPI specification 6.4, chapter 20 "ACPI Machine Language", and for resources
 * section 6.4 "Resource Data Types for ACPI").
 *
 * What has a length (a scope, a device, a buffer …) is opened and closed in pairs. Its length is always written in
 * three bytes and filled in when it is closed, so that nothing is encoded twice. What does not fit sets out.failed.
 *
 * Example:
 *     struct aml aml;
 *     aml_init(&aml, buffer, sizeof(buffer));
 *     aml_device_begin(&aml, "COM1");
 *     aml_name_integer(&aml, "_UID", 1);
 *     aml_end(&aml);
 */
#ifndef KELPIE_VMM_ACPI_AML_H
#define KELPIE_VMM_ACPI_AML_H

#include "base/cursor.h"

#define AML_DEPTH_MAX 8 /* of what is open */

struct aml {
    struct cursor_writer out;
    size_t open[AML_DEPTH_MAX]; /* where the lengths of what is open stand */
    size_t depth;
};

void aml_init(struct aml *aml, void *buffer, size_t capacity);

/* Names are four characters of A-Z, 0-9 and _. */
void aml_scope_begin(struct aml *aml, const char *name); /* \name */
void aml_device_begin(struct aml *aml, const char *name);
void aml_method_begin(struct aml *aml, const char *name, uint8_t argument_count); /* Serialized */
void aml_if_argument_begin(struct aml *aml, uint8_t argument,
                           uint32_t value); /* If (ArgX == value) */
void aml_end(struct aml *aml);

void aml_name_integer(struct aml *aml, const char *name, uint32_t value);
void aml_name_string(struct aml *aml, const char *name, const char *value);
void aml_name_strings(struct aml *aml, const char *name, const char *const *values, uint8_t count);
void aml_name_eisa_id(struct aml *aml, const char *name, const char *id); /* such as "PNP0501" */
void aml_name_integers(struct aml *aml, const char *name, const uint32_t *values, uint8_t count);
void aml_notify(struct aml *aml, const char *device, uint8_t value);

/* Name (_CRS, ResourceTemplate () { … }) */
void aml_resources_begin(struct aml *aml);
void aml_resource_memory(struct aml *aml, uint32_t base,
                         uint32_t size); /* Memory32Fixed, ReadWrite */
void aml_resource_ports(struct aml *aml, uint16_t base, uint8_t count); /* IO, Decode16 */
void aml_resource_interrupt(struct aml *aml, uint32_t gsi); /* edge, active high, exclusive */
void aml_resources_end(struct aml *aml);

#endif
