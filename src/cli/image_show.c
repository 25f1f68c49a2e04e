/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What an image is, for people and for programs. Its maker's words may hold anything: control characters are not passed on. */
#include <string.h>

#include "base/assert.h"
#include "cli/human.h"
#include "cli/image.h"
#include "cli/output.h"
#include "cli/table.h"

#define DIGEST_SHOWN 19 /* "sha256:" and 12 digits */
#define TEXT_SIZE 1024

const char image_json_fields[] =
    "name, digest      of the image, and of its file system's bytes\n"
    "format            of the file system: erofs\n"
    "architecture      in OCI's words, such as amd64; or empty\n"
    "path, bytes       of the file system, and what it takes on disk\n"
    "created_unix_ms   when it was built\n"
    "uid, gid          of the image's user\n"
    "working_dir       or empty\n"
    "argv              entrypoint and command\n"
    "entrypoint_count  how many words of argv stay when others are given\n"
    "env               of the image, \"NAME=VALUE\"\n";

/* Words that are no UTF-8 are left out, which no JSON that they come from has. */
static json_t *json_list(const char *const *words) {
    json_t *list = json_array();
    ASSERT(words);
    for (; *words; words++) {
        json_t *text = json_string(*words);
        if (text) {
            json_array_append_new(list, text);
        }
    }
    ASSERT(!list || json_is_array(list));
    return list;
}

json_t *image_json(const struct kelpie_image *image) {
    ASSERT(image);
    ASSERT(image->argv);
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:s, s:o, s:I, s:o}", "name",
                     image->name, "digest", image->digest, "format", image->format, "architecture",
                     image->architecture, "path", image->path, "bytes", (json_int_t)image->bytes,
                     "created_unix_ms", (json_int_t)image->created_unix_ms, "uid",
                     (json_int_t)image->uid, "gid", (json_int_t)image->gid, "working_dir",
                     image->working_dir, "argv", json_list(image->argv), "entrypoint_count",
                     (json_int_t)image->entrypoint_count, "env", json_list(image->env));
}

static const char *dashed(const char *text) {
    ASSERT(text);
    return text[0] != 0 ? text : "-";
}

static void print_line(const char *title, const char *value) {
    char text[TEXT_SIZE];
    ASSERT(title);
    ASSERT(value);
    snprintf(text, sizeof(text), "%s", value);
    output_clean(text);
    printf("%-14s%s\n", title, dashed(text));
}

static void print_words(const char *title, const char *const *words) {
    ASSERT(title);
    ASSERT(words);
    if (!*words) {
        print_line(title, "");
    }
    for (; *words; words++) {
        print_line(title, *words);
        title = "";
    }
}

void image_print(const struct kelpie_image *image) {
    char size[HUMAN_SIZE];
    char when[HUMAN_TIME_SIZE];
    char user[32];
    ASSERT(image);
    ASSERT(image->env);
    snprintf(user, sizeof(user), "%lu:%lu", (unsigned long)image->uid, (unsigned long)image->gid);
    print_line("name", image->name);
    print_line("digest", image->digest);
    print_line("architecture", image->architecture);
    print_line("format", image->format);
    print_line("size", human_bytes(image->bytes, size));
    print_line("path", image->path);
    print_line("created", human_time(image->created_unix_ms, when));
    print_line("user", user);
    print_line("working dir", image->working_dir);
    print_words("command", image->argv);
    print_words("environment", image->env);
}

void image_print_list(const struct kelpie_image *images, size_t count) {
    static const struct table_column columns[] = {
        {"NAME", 12, false}, {"DIGEST", 0, false}, {"ARCH", 0, false},
        {"AGE", 0, true},    {"SIZE", 0, true},
    };
    ASSERT(images || count == 0);
    struct table *table = table_create(columns, ARRAY_SIZE(columns));
    if (!table) {
        (void)output_no_memory();
        return;
    }
    ASSERT(count <= KELPIE_IMAGE_COUNT_MAX);
    for (size_t i = 0; i < count; i++) {
        char text[HUMAN_SIZE];
        table_cell(table, "%s", images[i].name);
        table_cell(table, "%.*s", DIGEST_SHOWN, images[i].digest);
        table_cell(table, "%s", dashed(images[i].architecture));
        table_cell(table, "%s", human_age(images[i].created_unix_ms, text));
        table_cell(table, "%s", human_bytes(images[i].bytes, text));
    }
    table_print(table, stdout, table_terminal_width());
    table_destroy(table);
}
