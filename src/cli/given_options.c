/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "cli/given_options.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"

#define FD_PREFIX "fd:"
#define FD_MAX 1023

/* ---- Shared folders --------------------------------------------------------------------------- */

/* What stands behind the last colon: true when it is a word of ours, which is then taken. */
static enum kelpie_status share_suffix(struct kelpie_share *share, const char *word,
                                       bool *mode_given, bool *ret_taken,
                                       struct kelpie_error *err) {
    bool is_mode = strcmp(word, "ro") == 0 || strcmp(word, "rw") == 0;
    bool is_copy = strcmp(word, "copy") == 0;
    bool is_live = strcmp(word, "live") == 0;
    ASSERT(mode_given && ret_taken);
    ASSERT(share);
    if ((is_mode && *mode_given) || ((is_copy || is_live) && (share->copy || share->live))) {
        return error_set(err, KELPIE_BAD_CONFIG, "ro or rw, or live or copy, is given twice");
    }
    *ret_taken = is_mode || is_copy || is_live;
    *mode_given = *mode_given || is_mode;
    share->copy = share->copy || is_copy;
    share->live = share->live || is_live;
    share->read_only = share->read_only || (is_mode && word[1] == 'o');
    return KELPIE_OK;
}

/* Cuts words, then the guest's folder, off from the end; what is left is the host's, colons and all. */
static enum kelpie_status parse_share(char *text, struct kelpie_share *ret_share,
                                      struct kelpie_error *err) {
    struct kelpie_share share = {.path = text};
    bool mode_given = false;
    bool taken = true;
    ASSERT(text);
    ASSERT(ret_share);
    while (taken) {
        char *colon = strrchr(text, ':');
        if (!colon || colon == text) {
            return error_set(
                err, KELPIE_BAD_CONFIG,
                "\"%.100s\" is not HOST:GUEST, two folders, with :ro, :live or :copy or not", text);
        }
        TRY(share_suffix(&share, colon + 1, &mode_given, &taken, err));
        *colon = '\0';
        share.mount = colon + 1;
    }
    if (share.mount[0] != '/') {
        return error_set(err, KELPIE_BAD_CONFIG,
                         "the guest's folder must begin with a slash, and is \"%.100s\"",
                         share.mount);
    }
    *ret_share = share;
    return KELPIE_OK;
}

enum kelpie_status given_add_share(void *field, const char *value, struct kelpie_error *err) {
    struct given_options *options = field;
    ASSERT(options->share_count <= KELPIE_SHARE_COUNT_MAX);
    ASSERT(value);
    if (options->share_count == KELPIE_SHARE_COUNT_MAX) {
        return error_set(err, KELPIE_BAD_CONFIG, "given more than %d times",
                         KELPIE_SHARE_COUNT_MAX);
    }
    char *text = strdup(value);
    if (!text) {
        return error_set(err, KELPIE_NO_MEMORY, "no memory");
    }
    enum kelpie_status status = parse_share(text, &options->shares[options->share_count], err);
    if (status != KELPIE_OK) {
        free(text);
        return status;
    }
    options->share_texts[options->share_count++] = text;
    return KELPIE_OK;
}

/* ---- Secrets ---------------------------------------------------------------------------------- */

/* The descriptor that "fd:N" names, or that of a file. -1 and errno. */
static int open_source(const char *source) {
    size_t prefix_size = sizeof(FD_PREFIX) - 1;
    ASSERT(source);
    static_assert(FD_MAX > 2, "more than the first three");
    if (strncmp(source, FD_PREFIX, prefix_size) != 0) {
        return open(source, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    }
    char *end = NULL;
    const char *digits = source + prefix_size;
    long number = strtol(digits, &end, 10);
    if (digits[0] < '0' || digits[0] > '9' || *end != '\0' || number > FD_MAX) {
        errno = EBADF;
        return -1;
    }
    return (int)number;
}

/* All of it, into `data`. *ret_size is one more than allowed when there is more. */
static bool read_all(int fd, uint8_t *data, size_t *ret_size) {
    size_t used = 0;
    ASSERT(fd >= 0);
    ASSERT(data && ret_size);
    while (used <= KELPIE_SECRET_BYTES_MAX) {
        ssize_t count = read(fd, data + used, KELPIE_SECRET_BYTES_MAX + 1 - used);
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count < 0) {
            return false;
        }
        if (count == 0) {
            break;
        }
        used += (size_t)count;
    }
    *ret_size = used;
    return true;
}

static enum kelpie_status read_source(const char *source, uint8_t *data, size_t *ret_size,
                                      struct kelpie_error *err) {
    int fd = open_source(source);
    ASSERT(data);
    ASSERT(ret_size);
    if (fd < 0) {
        return error_set_os(err, errno, "cannot read %.100s", source);
    }
    bool done = read_all(fd, data, ret_size);
    int os_error = errno;
    close(fd);
    if (!done) {
        return error_set_os(err, os_error, "cannot read %.100s", source);
    }
    if (*ret_size > KELPIE_SECRET_BYTES_MAX) {
        return error_set(err, KELPIE_BAD_CONFIG, "%.100s has more than %d bytes", source,
                         KELPIE_SECRET_BYTES_MAX);
    }
    return KELPIE_OK;
}

/* Into the next place, which is given up with the options even if this fails. */
static enum kelpie_status load_secret(struct given_options *options, const char *value,
                                      size_t name_size, struct kelpie_error *err) {
    size_t index = options->secret_count;
    size_t size = 0;
    ASSERT(index < KELPIE_SECRET_COUNT_MAX);
    ASSERT(value[name_size] == '=');
    options->secret_names[index] = strndup(value, name_size);
    options->secret_data[index] = malloc(KELPIE_SECRET_BYTES_MAX + 1);
    if (!options->secret_names[index] || !options->secret_data[index]) {
        return error_set(err, KELPIE_NO_MEMORY, "no memory");
    }
    TRY(read_source(value + name_size + 1, options->secret_data[index], &size, err));
    options->secrets[index] = (struct kelpie_secret){
        .name = options->secret_names[index], .data = options->secret_data[index], .size = size};
    return KELPIE_OK;
}

static void forget_secret(struct given_options *options, size_t index) {
    ASSERT(index < KELPIE_SECRET_COUNT_MAX);
    ASSERT(options);
    if (options->secret_data[index]) {
        explicit_bzero(options->secret_data[index], KELPIE_SECRET_BYTES_MAX + 1);
    }
    free(options->secret_data[index]);
    free(options->secret_names[index]);
    options->secret_data[index] = NULL;
    options->secret_names[index] = NULL;
}

enum kelpie_status given_add_secret(void *field, const char *value, struct kelpie_error *err) {
    struct given_options *options = field;
    const char *equals = strchr(value, '=');
    ASSERT(options->secret_count <= KELPIE_SECRET_COUNT_MAX);
    ASSERT(value);
    if (!equals || equals == value || equals[1] == '\0') {
        /* Not what was given: it may be the secret itself. */
        return error_set(err, KELPIE_BAD_CONFIG, "it must be NAME=PATH or NAME=fd:N");
    }
    if (options->secret_count == KELPIE_SECRET_COUNT_MAX) {
        return error_set(err, KELPIE_BAD_CONFIG, "given more than %d times",
                         KELPIE_SECRET_COUNT_MAX);
    }
    enum kelpie_status status = load_secret(options, value, (size_t)(equals - value), err);
    if (status != KELPIE_OK) {
        forget_secret(options, options->secret_count);
        return status;
    }
    options->secret_count++;
    return KELPIE_OK;
}

/* ---- Both ------------------------------------------------------------------------------------- */

void given_options_fill(const struct given_options *options, struct kelpie_config *config) {
    ASSERT(options);
    ASSERT(config);
    config->shares = options->share_count > 0 ? options->shares : NULL;
    config->share_count = options->share_count;
    config->secrets = options->secret_count > 0 ? options->secrets : NULL;
    config->secret_count = options->secret_count;
}

void given_options_deinit(struct given_options *options) {
    ASSERT(options->share_count <= KELPIE_SHARE_COUNT_MAX);
    ASSERT(options->secret_count <= KELPIE_SECRET_COUNT_MAX);
    for (size_t i = 0; i < options->share_count; i++) {
        free(options->share_texts[i]);
    }
    for (size_t i = 0; i < options->secret_count; i++) {
        forget_secret(options, i);
    }
    options->share_count = 0;
    options->secret_count = 0;
}
