/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The bodies of the scripted Firecracker against Firecracker's own specification, if KELPIE_FIRECRACKER_SPEC names that
 * (firecracker.yaml): every operation that the peer knows, every field of it, its type, its range, its words, whether it is
 * required; and none that the specification does not have.
 */
#include "sim/peer/firecracker_api.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"

#define SPEC_LINE_SIZE 512
#define SPEC_COLUMN_COUNT 7
#define OPERATION_COUNT_MAX 64
#define FIELD_COUNT_MAX 64

struct spec_line {
    char *columns[SPEC_COLUMN_COUNT]; /* method, path, field, type, required, min, max */
    char text[SPEC_LINE_SIZE];
};

static void spec_split(struct spec_line *line) {
    char *next = line->text;
    line->text[strcspn(line->text, "\n")] = '\0';
    for (size_t i = 0; i < SPEC_COLUMN_COUNT; i++) {
        line->columns[i] = strsep(&next, "\t");
        assert_non_null(line->columns[i]);
    }
    assert_null(next);
}

static const struct firecracker_operation *spec_operation(const struct spec_line *line,
                                                          size_t *ret_index) {
    size_t count = 0;
    const struct firecracker_operation *operations = firecracker_operations(&count);
    for (size_t i = 0; i < count; i++) {
        if (strcmp(http_method_name(operations[i].method), line->columns[0]) == 0 &&
            strcmp(operations[i].path, line->columns[1]) == 0) {
            *ret_index = i;
            return &operations[i];
        }
    }
    return NULL;
}

/* "object.field" or "list[].field", from the body's schema on. */
static const struct firecracker_field *spec_field(const struct firecracker_schema *schema,
                                                  const char *name) {
    const struct firecracker_field *field = NULL;
    while (*name && schema) {
        size_t size = strcspn(name, ".[");
        field = NULL;
        for (size_t i = 0; i < schema->field_count; i++) {
            if (strlen(schema->fields[i].name) == size &&
                strncmp(schema->fields[i].name, name, size) == 0) {
                field = &schema->fields[i];
            }
        }
        schema = field ? field->schema : NULL;
        name += size;
        name += strspn(name, "[].");
    }
    return *name ? NULL : field;
}

static void spec_type(const struct firecracker_field *field, char text[SPEC_LINE_SIZE]) {
    static const char *const names[] = {
        [FIRECRACKER_BOOLEAN] = "boolean", [FIRECRACKER_INTEGER] = "integer",
        [FIRECRACKER_STRING] = "string",   [FIRECRACKER_WORD] = "word",
        [FIRECRACKER_OBJECT] = "object",   [FIRECRACKER_LIST] = "list",
        [FIRECRACKER_LABELS] = "labels"};
    static_assert(ARRAY_SIZE(names) == FIRECRACKER_KIND_COUNT, "each kind has a name");
    int size = snprintf(text, SPEC_LINE_SIZE, "%s", names[field->kind]);
    for (size_t i = 0; field->words && field->words[i]; i++) {
        size += snprintf(text + size, SPEC_LINE_SIZE - (size_t)size, "%c%s", i == 0 ? ':' : ',',
                         field->words[i]);
        assert_true(size < SPEC_LINE_SIZE);
    }
}

static void spec_check(const struct spec_line *line,
                       const struct firecracker_operation *operation) {
    char type[SPEC_LINE_SIZE];
    char *const *columns = line->columns;
    if (strcmp(columns[2], "-") == 0) {
        assert_null(operation->schema);
        return;
    }
    const struct firecracker_field *field = spec_field(operation->schema, columns[2]);
    if (!field) {
        fail_msg("%s %s has a field %s", columns[0], columns[1], columns[2]);
        return;
    }
    spec_type(field, type);
    assert_string_equal(type, columns[3]);
    if (strcmp(field->required ? "required" : "optional", columns[4]) != 0) {
        fail_msg("%s %s: the field %s is %s", columns[0], columns[1], columns[2], columns[4]);
    }
    if (strcmp(columns[5], "-") != 0) {
        assert_int_equal(field->min, strtoll(columns[5], NULL, 10));
    }
    if (strcmp(columns[6], "-") != 0) {
        assert_int_equal(field->max, strtoll(columns[6], NULL, 10));
    }
}

/* Of a body, with those of its objects. */
static size_t count_fields(const struct firecracker_schema *schema) {
    const struct firecracker_schema *pending[FIELD_COUNT_MAX] = {schema};
    size_t pending_count = 1;
    size_t count = 0;
    while (pending_count > 0) {
        const struct firecracker_schema *next = pending[--pending_count];
        count += next->field_count;
        for (size_t i = 0; i < next->field_count; i++) {
            if (next->fields[i].schema) {
                assert_true(pending_count < FIELD_COUNT_MAX);
                pending[pending_count++] = next->fields[i].schema;
            }
        }
    }
    return count;
}

static void bodies_are_those_of_the_specification(void **state) {
    const char *path = getenv("KELPIE_FIRECRACKER_SPEC");
    char command[1024];
    struct spec_line line;
    size_t line_counts[OPERATION_COUNT_MAX] = {0};
    size_t count = 0;
    const struct firecracker_operation *operations = firecracker_operations(&count);
    (void)state;
    if (!path) {
        print_message("skipped: KELPIE_FIRECRACKER_SPEC does not name a firecracker.yaml\n");
        skip();
    }
    assert_true(strlen(path) < sizeof(command) / 2 && !strchr(path, '\''));
    snprintf(command, sizeof(command), "tools/firecracker-spec '%s'", path);
    FILE *spec = popen(command, "r");
    assert_non_null(spec);
    while (fgets(line.text, sizeof(line.text), spec)) {
        size_t index = 0;
        spec_split(&line);
        const struct firecracker_operation *operation = spec_operation(&line, &index);
        if (operation) {
            line_counts[index]++;
            spec_check(&line, operation);
        }
    }
    assert_int_equal(pclose(spec), 0);
    assert_true(count <= OPERATION_COUNT_MAX);
    for (size_t i = 0; i < count; i++) {
        size_t expected = operations[i].schema ? count_fields(operations[i].schema) : 1;
        if (line_counts[i] != expected) {
            fail_msg("%s %s: %zu fields, and %zu in the specification",
                     http_method_name(operations[i].method), operations[i].path, expected,
                     line_counts[i]);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bodies_are_those_of_the_specification),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
