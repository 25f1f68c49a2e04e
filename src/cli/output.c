/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "cli/output.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <openssl/evp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "cli/cli.h"

void output_init(void) {
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF) {
            /* The lowest free number is `fd` itself. */
            int opened = open("/dev/null", fd == STDIN_FILENO ? O_RDONLY : O_WRONLY);
            ASSERT(opened < 0 || opened == fd);
        }
    }
}

/* ---- Bytes ------------------------------------------------------------------------------------ */

static enum kelpie_status await_room(int fd, int stop_fd, struct kelpie_error *err) {
    ASSERT(fd >= 0);
    ASSERT(stop_fd >= 0);
    struct pollfd items[] = {{.fd = fd, .events = POLLOUT}, {.fd = stop_fd, .events = POLLIN}};
    while (poll(items, ARRAY_SIZE(items), -1) < 0) {
        if (errno != EINTR) {
            return error_set_os(err, errno, "cannot wait for the output's reader");
        }
    }
    if (items[1].revents != 0) {
        return error_set(err, KELPIE_CANCELLED, "the output was given up");
    }
    return KELPIE_OK;
}

enum kelpie_status output_write(int fd, const void *data, size_t size, int stop_fd,
                                struct kelpie_error *err) {
    ASSERT(stop_fd >= 0);
    ASSERT(fd >= 0);
    ASSERT(data || size == 0);
    const char *bytes = data;
    for (size_t done = 0; done < size;) {
        TRY(await_room(fd, stop_fd, err));
        /* A pipe that polls as writable takes PIPE_BUF bytes without making us wait for its reader, so
         * that stop_fd is always heard. */
        ssize_t count = write(fd, bytes + done, min_size(size - done, PIPE_BUF));
        if (count >= 0) {
            done += (size_t)count;
        } else if (errno != EINTR && errno != EAGAIN) {
            return error_set_os(err, errno, "cannot write the command's output");
        }
    }
    return KELPIE_OK;
}

/* ---- Lines ------------------------------------------------------------------------------------ */

void output_clean(char *text) {
    ASSERT(text);
    for (; *text; text++) {
        unsigned char byte = (unsigned char)*text;
        if (byte < 0x20 || byte == 0x7f) {
            *text = ' ';
        }
    }
}

bool output_has_colour(int fd) {
    ASSERT(fd >= 0);
    const char *term = getenv("TERM");
    const char *refused = getenv("NO_COLOR");
    return isatty(fd) == 1 && term && strcmp(term, "dumb") != 0 && !(refused && refused[0] != 0);
}

void output_hint(const char *format, ...) {
    ASSERT(format);
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    output_clean(text);
    fprintf(stderr, "hint: %s\n", text);
}

int output_no_memory(void) {
    fputs("kelpie: no memory\n", stderr);
    return CLI_EXIT_FAILED;
}

void output_error(const struct option_table *table, const struct kelpie_error *err) {
    ASSERT((unsigned)err->status < KELPIE_STATUS_COUNT);
    ASSERT(err->status != KELPIE_OK);
    char message[sizeof(err->message)];
    memcpy(message, err->message, sizeof(message));
    message[sizeof(message) - 1] = 0;
    output_clean(message);
    const struct option_spec *option = table ? options_by_field(table, err->field) : NULL;
    if (option) {
        fprintf(stderr, "kelpie: --%s: %s\n", option->name, message);
    } else {
        fprintf(stderr, "kelpie: %s\n", message);
    }
    if (err->status == KELPIE_BACKEND_MISSING || err->status == KELPIE_UNSUPPORTED) {
        output_hint("'kelpie doctor' says what this machine can run");
    }
}

/* ---- JSON ------------------------------------------------------------------------------------- */

int output_json(json_t *object, int code) {
    ASSERT(code >= 0);
    ASSERT(code < 256);
    bool written = object &&
                   json_dumpf(object, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9)) == 0 &&
                   fputc('\n', stdout) != EOF && fflush(stdout) == 0;
    int os_error = object ? errno : ENOMEM;
    json_decref(object);
    if (!written && os_error == EPIPE) {
        return CLI_EXIT_SIGNAL + SIGPIPE;
    }
    if (!written) {
        fprintf(stderr, "kelpie: cannot write the JSON: %s\n", strerror(os_error));
    }
    return written ? code : CLI_EXIT_FAILED;
}

static json_t *json_base64(const void *data, size_t size) {
    ASSERT(data || size == 0);
    ASSERT(size <= INT_MAX);
    size_t capacity = (size + 2) / 3 * 4 + 1;
    AUTO_MEM char *text = malloc(capacity);
    if (!text) {
        return NULL;
    }
    int count = EVP_EncodeBlock((unsigned char *)text, data, (int)size);
    ASSERT(count >= 0 && (size_t)count < capacity);
    return json_stringn(text, (size_t)count);
}

json_t *output_json_bytes(const void *data, size_t size) {
    ASSERT(size <= CLI_COLLECT_SIZE_MAX);
    ASSERT(data || size == 0);
    const char *encoding = "utf-8";
    /* A zero byte is legal in JSON, but few of its readers take it. */
    bool is_text = size == 0 || !memchr(data, 0, size);
    json_t *text = is_text ? json_stringn(size > 0 ? data : "", size) : NULL; /* NULL: not UTF-8 */
    if (!text) {
        encoding = "base64";
        text = json_base64(data, size);
    }
    return json_pack("{s:s, s:o, s:I}", "encoding", encoding, "data", text, "bytes",
                     (json_int_t)size);
}

json_t *output_json_error(const struct kelpie_error *err) {
    ASSERT((unsigned)err->status < KELPIE_STATUS_COUNT);
    ASSERT(err->status != KELPIE_OK);
    char message[sizeof(err->message)];
    memcpy(message, err->message, sizeof(message));
    /* It may quote the guest, or be cut in the middle of a character. */
    json_t *text = json_string(message);
    if (!text) {
        for (char *byte = message; *byte; byte++) {
            *byte = (unsigned char)*byte < 0x80 ? *byte : '?';
        }
        text = json_string(message);
    }
    json_t *field = json_string(err->field);
    return json_pack("{s:s, s:o, s:o, s:i}", "status", kelpie_status_name(err->status), "field",
                     field ? field : json_string(""), "message", text, "os_error", err->os_error);
}
