/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "image/image_internal.h"

#include <string.h>

#include "base/assert.h"
#include "base/checked.h"
#include "base/cleanup.h"

#define STDOUT 0
#define STDERR 1
#define PASSED_FD 3
#define PIECE_SIZE 4096

/* A helper program's two output streams, read as they come. */
struct capture {
    struct host *host;
    int fds[2];   /* HOST_FD_NONE: at its end */
    char *output; /* IMAGE_PROGRAM_OUTPUT_SIZE_MAX + 1 bytes */
    size_t output_size;
    char tail[IMAGE_PROGRAM_ERROR_SIZE_MAX + 1]; /* the end of stderr */
};

static void capture_deinit(struct capture *capture) {
    ASSERT(capture->host);
    host_close(capture->host, capture->fds[STDOUT]);
    host_close(capture->host, capture->fds[STDERR]);
    free(capture->output);
}
#define AUTO_CAPTURE __attribute__((cleanup(capture_deinit)))

static void tail_append(struct capture *capture, const char *data, size_t size) {
    ASSERT(size <= PIECE_SIZE);
    ASSERT(data);
    size_t used = strlen(capture->tail);
    size_t kept = min_size(size, IMAGE_PROGRAM_ERROR_SIZE_MAX);
    size_t moved = min_size(used, IMAGE_PROGRAM_ERROR_SIZE_MAX - kept);
    memmove(capture->tail, capture->tail + used - moved, moved);
    for (size_t i = 0; i < kept; i++) {
        char c = data[size - kept + i];
        capture->tail[moved + i] = (c >= 0x20 && c != 0x7f) ? c : ' ';
    }
    capture->tail[moved + kept] = '\0';
    ASSERT(moved + kept <= IMAGE_PROGRAM_ERROR_SIZE_MAX);
}

static enum kelpie_status capture_piece(struct capture *capture, size_t stream,
                                        const struct host_wait *wait, struct kelpie_error *err) {
    ASSERT(stream <= STDERR);
    ASSERT(capture->fds[stream] != HOST_FD_NONE);
    char piece[PIECE_SIZE];
    size_t size = 0;
    TRY(host_read(capture->host, capture->fds[stream], piece, sizeof(piece), wait, &size, err));
    if (size == 0) {
        host_close(capture->host, capture->fds[stream]);
        capture->fds[stream] = HOST_FD_NONE;
        return KELPIE_OK;
    }
    if (stream == STDERR) {
        tail_append(capture, piece, size);
        return KELPIE_OK;
    }
    if (size > IMAGE_PROGRAM_OUTPUT_SIZE_MAX - capture->output_size) {
        return error_set(err, KELPIE_IO_FAILED, "a helper program printed more than %d bytes",
                         IMAGE_PROGRAM_OUTPUT_SIZE_MAX);
    }
    memcpy(capture->output + capture->output_size, piece, size);
    capture->output_size += size;
    return KELPIE_OK;
}

/* Until both streams end: the program closed them, or ended. The wait bounds it. */
static enum kelpie_status capture_all(struct capture *capture, const struct host_wait *wait,
                                      struct kelpie_error *err) {
    ASSERT(capture->host);
    ASSERT(wait);
    ASSERT(capture->output);
    while (capture->fds[STDOUT] != HOST_FD_NONE || capture->fds[STDERR] != HOST_FD_NONE) {
        struct host_poll_item items[2] = {
            {.fd = capture->fds[STDOUT], .asked = HOST_POLL_READ},
            {.fd = capture->fds[STDERR], .asked = HOST_POLL_READ},
        };
        TRY(host_poll(capture->host, items, ARRAY_SIZE(items), wait, err));
        for (size_t i = 0; i < ARRAY_SIZE(items); i++) {
            if (items[i].ready != 0) {
                TRY(capture_piece(capture, i, wait, err));
            }
        }
    }
    return KELPIE_OK;
}

static enum kelpie_status capture_init(struct capture *capture, int ret_child_fds[2],
                                       struct kelpie_error *err) {
    struct host *host = capture->host;
    ASSERT(!capture->output);
    ASSERT(capture->fds[STDOUT] == HOST_FD_NONE);
    ASSERT(host);
    capture->output = host_allocate(host, IMAGE_PROGRAM_OUTPUT_SIZE_MAX + 1, err);
    if (!capture->output) {
        return KELPIE_NO_MEMORY;
    }
    for (size_t i = 0; i < 2; i++) {
        int pair[2];
        TRY(host_socket_pair(host, pair, err));
        ASSERT(pair[0] != pair[1]);
        capture->fds[i] = pair[0];
        ret_child_fds[i] = pair[1];
    }
    return KELPIE_OK;
}

static enum kelpie_status spawn(struct capture *capture, const struct image_program *program,
                                struct host_process **ret_process, struct kelpie_error *err) {
    ASSERT(program->argv[0]);
    ASSERT(ret_process);
    int child_fds[2] = {HOST_FD_NONE, HOST_FD_NONE};
    enum kelpie_status status = capture_init(capture, child_fds, err);
    if (status == KELPIE_OK) {
        const struct host_process_fd fds[] = {
            {.child_fd = 1, .fd = child_fds[STDOUT]},
            {.child_fd = 2, .fd = child_fds[STDERR]},
            {.child_fd = PASSED_FD, .fd = program->passed_fd},
        };
        const struct host_process_spec spec = {
            .argv = program->argv,
            .working_dir = program->working_dir,
            .fds = fds,
            .fd_count = program->passed_fd == HOST_FD_NONE ? 2 : 3,
            .dies_with_owner = true,
            .new_session = true,
        };
        status = host_process_spawn(capture->host, &spec, ret_process, err);
    }
    /* Ours are closed in any case, so that the streams end with the program. */
    host_close(capture->host, child_fds[STDOUT]);
    host_close(capture->host, child_fds[STDERR]);
    return status;
}

static void process_cleanup(struct host_process **process) {
    ASSERT(process);
    host_process_destroy(*process);
}

enum kelpie_status image_program_run(struct host *host, const struct image_program *program,
                                     const struct host_wait *wait, char **ret_output,
                                     struct kelpie_error *err) {
    ASSERT(program->argv);
    ASSERT(wait);
    ASSERT(host);
    ASSERT(ret_output);
    AUTO_CAPTURE struct capture capture = {.host = host, .fds = {HOST_FD_NONE, HOST_FD_NONE}};
    __attribute__((cleanup(process_cleanup))) struct host_process *process = NULL;
    struct host_process_exit ended;
    TRY(spawn(&capture, program, &process, err));
    TRY(capture_all(&capture, wait, err));
    TRY(host_process_wait(process, wait, &ended, err));
    if (ended.signal != 0) {
        return error_set(err, KELPIE_IO_FAILED, "%s was ended by signal %d", program->argv[0],
                         ended.signal);
    }
    if (ended.code != 0) {
        return error_set(err, KELPIE_IO_FAILED, "%s failed with code %d: %s", program->argv[0],
                         ended.code, capture.tail[0] ? capture.tail : "it did not say why");
    }
    capture.output[capture.output_size] = '\0';
    *ret_output = TAKE(capture.output);
    return KELPIE_OK;
}
