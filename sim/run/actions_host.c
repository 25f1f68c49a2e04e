/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Steps that use what a host offers and no backend asks for in these runs: TCP to another machine, named sockets,
 * mappings. Also the other machine's part: it sends back what it gets.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"
#include "base/error.h"
#include "host/host_krunfw.h"
#include "sim/run/scenario.h"

#define ECHO_PORT 7000
#define ECHO_ADDRESS "10.0.0.2" /* the second machine of the world */
#define ECHO_TIMEOUT_MS 20000
#define ECHO_SIZE_MAX 5000u
#define SERVE_TIMEOUT_MS 100000

/* ---- The other machine ------------------------------------------------------------------------ */

/* One connection, until its end. */
static void serve(struct host *host, int fd) {
    uint8_t piece[512];
    struct kelpie_error ignored;
    size_t size = 1;
    ASSERT(fd >= 0);
    ASSERT(host);
    while (size > 0) {
        const struct host_wait wait = host_wait_ms(host, SERVE_TIMEOUT_MS, HOST_FD_NONE);
        if (host_read(host, fd, piece, sizeof(piece), &wait, &size, &ignored) != KELPIE_OK) {
            break;
        }
        if (size > 0 && host_write_all(host, fd, piece, size, &wait, &ignored) != KELPIE_OK) {
            break;
        }
    }
    host_close(host, fd);
    ASSERT(size <= sizeof(piece));
}

int actions_echo_main(void *argument) {
    struct scenario *scenario = argument;
    struct host *host = &scenario->echo->host;
    struct kelpie_error ignored;
    const struct host_wait for_ever = {.deadline_ns = UINT64_MAX, .cancel_fd = HOST_FD_NONE};
    int listener = HOST_FD_NONE;
    uint16_t port = 0;
    ASSERT(scenario->echo);
    while (host_socket_listen_tcp(host, ECHO_ADDRESS, ECHO_PORT, &listener, &port, &ignored) !=
           KELPIE_OK) {
        const struct host_wait pause = host_wait_ms(host, 1, HOST_FD_NONE);
        (void)!host_sleep(host, &pause, &ignored);
    }
    ASSERT(port == ECHO_PORT);
    for (;;) { /* until the operator ends it */
        int fd = HOST_FD_NONE;
        if (host_socket_accept(host, listener, &for_ever, &fd, &ignored) == KELPIE_OK) {
            serve(host, fd);
        }
    }
}

/* ---- What comes back is what went ------------------------------------------------------------- */

static enum kelpie_status exchange(struct scenario *scenario, int fd, const uint8_t *data,
                                   size_t size, struct kelpie_error *err) {
    struct host *host = scenario->host;
    uint8_t back[ECHO_SIZE_MAX];
    size_t done = 0;
    ASSERT(size <= sizeof(back));
    ASSERT(size > 0);
    const struct host_wait wait = host_wait_ms(host, ECHO_TIMEOUT_MS, HOST_FD_NONE);
    TRY(host_write_all(host, fd, data, size, &wait, err));
    while (done < size) {
        size_t count = 0;
        TRY(host_read(host, fd, back + done, size - done, &wait, &count, err));
        if (count == 0) {
            return error_set(err, KELPIE_IO_FAILED, "the other end has closed");
        }
        done += count;
    }
    if (memcmp(back, data, size) != 0) {
        sim_world_fail(scenario->world, "wrong bytes: of a connection");
    }
    return KELPIE_OK;
}

static enum kelpie_status over_tcp(struct scenario *scenario, const uint8_t *data, size_t size,
                                   struct kelpie_error *err) {
    struct host *host = scenario->host;
    AUTO_FD struct host_fd fd = {host, HOST_FD_NONE};
    ASSERT(data);
    ASSERT(size > 0);
    const struct host_wait wait = host_wait_ms(host, ECHO_TIMEOUT_MS, HOST_FD_NONE);
    TRY(host_socket_connect_tcp(host, ECHO_ADDRESS, ECHO_PORT, &wait, &fd.fd, err));
    return exchange(scenario, fd.fd, data, size, err);
}

/* To itself: what goes in at one end comes out at the other. */
static enum kelpie_status over_unix(struct scenario *scenario, const char *path,
                                    const uint8_t *data, size_t size, struct kelpie_error *err) {
    struct host *host = scenario->host;
    AUTO_FD struct host_fd listener = {host, HOST_FD_NONE};
    AUTO_FD struct host_fd near = {host, HOST_FD_NONE};
    AUTO_FD struct host_fd far = {host, HOST_FD_NONE};
    uint8_t back[ECHO_SIZE_MAX];
    uint32_t uid = 0;
    size_t done = 0;
    ASSERT(size <= sizeof(back));
    ASSERT(path);
    const struct host_wait wait = host_wait_ms(host, ECHO_TIMEOUT_MS, HOST_FD_NONE);
    TRY(host_socket_listen(host, path, &listener.fd, err));
    TRY(host_socket_connect(host, path, &wait, &near.fd, err));
    TRY(host_socket_accept(host, listener.fd, &wait, &far.fd, err));
    TRY(host_socket_peer(host, far.fd, &uid, err));
    TRY(host_write_all(host, near.fd, data, size, &wait, err));
    while (done < size) {
        size_t count = 0;
        TRY(host_read(host, far.fd, back + done, size - done, &wait, &count, err));
        if (count == 0) {
            return error_set(err, KELPIE_IO_FAILED, "the other end has closed");
        }
        done += count;
    }
    if (memcmp(back, data, size) != 0 || uid != scenario->owner->uid) {
        sim_world_fail(scenario->world, "wrong bytes: of a named socket");
    }
    return KELPIE_OK;
}

/* A mapping shows what the file holds. */
static enum kelpie_status by_mapping(struct scenario *scenario, const uint8_t *data, size_t size,
                                     struct kelpie_error *err) {
    struct host *host = scenario->host;
    AUTO_FD struct host_fd file = {host, HOST_FD_NONE};
    AUTO_MAP struct host_map map = {.host = host};
    ASSERT(data);
    ASSERT(size > 0);
    TRY(host_memory_file(host, "mapped", size, &file.fd, err));
    TRY(host_file_map(host, file.fd, size, HOST_MAP_SHARED_WRITE, &map.map, err));
    memcpy(map.map.data, data, size);
    uint8_t back[ECHO_SIZE_MAX];
    size_t count = 0;
    TRY(host_file_read_at(host, file.fd, back, size, 0, &count, err));
    if (count != size || memcmp(back, data, size) != 0) {
        sim_world_fail(scenario->world, "wrong bytes: of a mapping");
    }
    return KELPIE_OK;
}

void actions_host(struct scenario *scenario, const struct steps_step *step) {
    struct kelpie_error errors[3] = {{0}};
    uint8_t data[ECHO_SIZE_MAX];
    char path[SCENARIO_PATH_SIZE];
    size_t size = 1 + step->value % ECHO_SIZE_MAX;
    ASSERT(scenario->host);
    ASSERT(step->action == STEPS_HOST);
    ASSERT(size <= sizeof(data));
    for (size_t i = 0; i < size; i++) {
        data[i] = (uint8_t)sim_mix(step->value, i, 0);
    }
    snprintf(path, sizeof(path), SCENARIO_FOLDER "/out-socket-%u", step->thread);
    const enum kelpie_status statuses[] = {
        over_tcp(scenario, data, size, &errors[0]),
        over_unix(scenario, path, data, size, &errors[1]),
        by_mapping(scenario, data, size, &errors[2]),
    };
    for (size_t i = 0; i < ARRAY_SIZE(statuses); i++) {
        actions_expect_clear(scenario, "host", statuses[i], &errors[i]);
    }
    (void)!host_path_unlink(scenario->host, path, &errors[0]);
}
