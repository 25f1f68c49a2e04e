/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What an image is, for people and for programs. Its maker's words may hold anything: control characters are not passed on. */
#include "cli/image.h"

#include <string.h>
#include <time.h>

#include "base/assert.h"
#include "cli/output.h"

#define DIGEST_SHOWN 19 /* "sha256:" and 12 digits */
#define TEXT_SIZE 1024

static json_t *json_words(const char *const *words) {
    json_t *list = json_array();
    ASSERT(words);
    for (; *words; words++) {
        json_array_append_new(list, output_json_bytes(*words, strlen(*words)));
    }
    return list;
}

/* Words that are UTF-8 are strings, as usually. */
static json_t *json_strings(const char *const *words) {
    json_t *list = json_array();
    ASSERT(words);
    for (; *words; words++) {
        json_t *text = json_string(*words);
        if (!text) {
            json_decref(list);
            return NULL;
        }
        json_array_append_new(list, text);
    }
    return list;
}

static json_t *json_list(const char *const *words) {
    json_t *list = json_strings(words);
    ASSERT(words);
    return list ? list : json_words(words);
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

void image_size_text(uint64_t bytes, char *text, size_t size) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    size_t unit = 0;
    ASSERT(text);
    ASSERT(size >= 16);
    while (value >= 1024 && unit + 1 < ARRAY_SIZE(units)) {
        value /= 1024;
        unit++;
    }
    snprintf(text, size, unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
}

static void time_text(uint64_t unix_ms, char *text, size_t size) {
    struct tm when;
    time_t seconds = (time_t)(unix_ms / 1000);
    ASSERT(text);
    ASSERT(size > 0);
    text[0] = 0;
    if (unix_ms == 0 || !localtime_r(&seconds, &when) ||
        strftime(text, size, "%Y-%m-%d %H:%M:%S", &when) == 0) {
        snprintf(text, size, "-");
    }
}

static void print_words(const char *title, const char *const *words) {
    ASSERT(title);
    ASSERT(words);
    for (; *words; words++) {
        char text[TEXT_SIZE];
        snprintf(text, sizeof(text), "%s", *words);
        output_clean(text);
        printf("%-14s%s\n", title, text);
        title = "";
    }
}

void image_print(const struct kelpie_image *image) {
    char size[16];
    char when[32];
    char dir[sizeof(image->working_dir)];
    ASSERT(image);
    ASSERT(image->env);
    image_size_text(image->bytes, size, sizeof(size));
    time_text(image->created_unix_ms, when, sizeof(when));
    memcpy(dir, image->working_dir, sizeof(dir));
    output_clean(dir);
    printf("%-14s%s\n", "name", image->name);
    printf("%-14s%s\n", "digest", image->digest);
    printf("%-14s%s, %s\n", "file system", image->format, size);
    printf("%-14s%s\n", "path", image->path);
    printf("%-14s%s\n", "architecture", image->architecture[0] ? image->architecture : "-");
    printf("%-14s%s\n", "created", when);
    printf("%-14s%lu:%lu\n", "user", (unsigned long)image->uid, (unsigned long)image->gid);
    printf("%-14s%s\n", "working dir", dir[0] ? dir : "-");
    print_words("command", image->argv);
    print_words("environment", image->env);
}

void image_print_list(const struct kelpie_image *images, size_t count) {
    size_t width = strlen("NAME");
    ASSERT(images || count == 0);
    for (size_t i = 0; i < count; i++) {
        size_t size = strlen(images[i].name);
        width = size > width ? size : width;
    }
    ASSERT(width <= KELPIE_NAME_SIZE_MAX);
    printf("%-*s  %-*s  %-10s  %-8s  %s\n", (int)width, "NAME", DIGEST_SHOWN, "DIGEST", "SIZE",
           "ARCH", "CREATED");
    for (size_t i = 0; i < count; i++) {
        char size[16];
        char when[32];
        image_size_text(images[i].bytes, size, sizeof(size));
        time_text(images[i].created_unix_ms, when, sizeof(when));
        printf("%-*s  %-*.*s  %-10s  %-8s  %s\n", (int)width, images[i].name, DIGEST_SHOWN,
               DIGEST_SHOWN, images[i].digest, size,
               images[i].architecture[0] ? images[i].architecture : "-", when);
    }
}
