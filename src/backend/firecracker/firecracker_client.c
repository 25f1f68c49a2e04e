/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "backend/firecracker/firecracker_client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"
#include "base/cleanup.h"

#define STATUS_DONE 204    /* of an order, which has no other success */
#define STATUS_REFUSED 400 /* and above */

static void client_check(const struct firecracker_client *client) {
    ASSERT(client->host);
    ASSERT(client->in_start <= client->in_end && client->in_end <= sizeof(client->in));
    ASSERT(client->answers_owed <= FIRECRACKER_ANSWERS_OWED_MAX);
}

void firecracker_client_init(struct firecracker_client *client, struct host *host) {
    ASSERT(client);
    client->host = host;
    client->fd = HOST_FD_NONE;
    client->broken = false;
    client->answers_owed = 0;
    client->in_start = client->in_end = 0;
    firecracker_http_init(&client->http);
    client_check(client);
}

void firecracker_client_close(struct firecracker_client *client) {
    client_check(client);
    host_close(client->host, client->fd);
    firecracker_client_init(client, client->host);
    ASSERT(client->fd == HOST_FD_NONE);
}

/* ---- Connecting ------------------------------------------------------------------------------- */

static enum kelpie_status connect_pause(struct firecracker_client *client, int exit_fd,
                                        const struct host_wait *wait, struct kelpie_error *err) {
    client_check(client);
    ASSERT(exit_fd != HOST_FD_NONE);
    uint64_t now_ns = host_monotonic_ns(client->host);
    const struct host_wait nap = {
        .deadline_ns = min_u64(now_ns + FIRECRACKER_CONNECT_RETRY_NS, wait->deadline_ns),
        .cancel_fd = wait->cancel_fd,
    };
    struct host_poll_item item = {.fd = exit_fd, .asked = HOST_POLL_READ};
    enum kelpie_status status = host_poll(client->host, &item, 1, &nap, err);
    if (status == KELPIE_OK) {
        return error_set(err, KELPIE_CRASHED, "Firecracker ended before it had an API");
    }
    if (status == KELPIE_TIMED_OUT && host_monotonic_ns(client->host) < wait->deadline_ns) {
        return KELPIE_OK;
    }
    return status;
}

enum kelpie_status firecracker_client_connect(struct firecracker_client *client, const char *path,
                                              int exit_fd, const struct host_wait *wait,
                                              struct kelpie_error *err) {
    client_check(client);
    ASSERT(client->fd == HOST_FD_NONE);
    ASSERT(path);
    for (;;) {
        struct kelpie_error failure = {0};
        enum kelpie_status status =
            host_socket_connect(client->host, path, wait, &client->fd, &failure);
        if (status == KELPIE_OK) {
            return KELPIE_OK;
        }
        bool early = status == KELPIE_NOT_FOUND || failure.os_error == ECONNREFUSED;
        if (!early) {
            if (err) {
                *err = failure;
            }
            return status;
        }
        TRY(connect_pause(client, exit_fd, wait, err));
    }
}

/* ---- Requests --------------------------------------------------------------------------------- */

static enum kelpie_status gone(struct firecracker_client *client, struct kelpie_error *err) {
    client_check(client);
    ASSERT(client->fd != HOST_FD_NONE);
    client->broken = true;
    return error_set(err, KELPIE_CRASHED, "Firecracker closed the connection to its API");
}

static enum kelpie_status send_request(struct firecracker_client *client, const char *method,
                                       const char *path, const char *body,
                                       const struct host_wait *wait, struct kelpie_error *err) {
    client_check(client);
    ASSERT(method && path);
    int size = snprintf(client->out, sizeof(client->out),
                        "%s %s HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n"
                        "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                        method, path, strlen(body), body);
    ASSERT(size > 0);
    if ((size_t)size >= sizeof(client->out)) {
        return error_set(err, KELPIE_INTERNAL, "the request %s %s is longer than Firecracker takes",
                         method, path);
    }
    struct kelpie_error failure = {0};
    enum kelpie_status status =
        host_write_all(client->host, client->fd, client->out, (size_t)size, wait, &failure);
    if (status == KELPIE_OK) {
        return KELPIE_OK;
    }
    client->broken = true; /* a part of it may be on its way */
    if (failure.os_error == EPIPE || failure.os_error == ECONNRESET) {
        return gone(client, err);
    }
    if (err) {
        *err = failure;
    }
    return status;
}

/* The next response, in client->http. TIMED_OUT and CANCELLED: it is still to come. */
static enum kelpie_status read_response(struct firecracker_client *client,
                                        const struct host_wait *wait, struct kelpie_error *err) {
    client_check(client);
    ASSERT(client->answers_owed > 0);
    for (;;) {
        size_t taken = 0;
        enum firecracker_http_result result =
            firecracker_http_feed(&client->http, client->in + client->in_start,
                                  client->in_end - client->in_start, &taken);
        client->in_start += taken;
        if (result == FIRECRACKER_HTTP_RESPONSE) {
            client->answers_owed--;
            return KELPIE_OK;
        }
        if (result == FIRECRACKER_HTTP_BAD) {
            client->broken = true;
            return error_set(err, KELPIE_INTERNAL, "Firecracker's answer is none: %s",
                             client->http.reason);
        }
        size_t count = 0;
        client->in_start = client->in_end = 0;
        TRY(host_read(client->host, client->fd, client->in, sizeof(client->in), wait, &count, err));
        if (count == 0) {
            return gone(client, err);
        }
        client->in_end = count;
    }
}

/* Its fault_message, fit for a line; or what stands for one. */
static void fault_text(const struct firecracker_client *client,
                       char text[FIRECRACKER_FAULT_TEXT_SIZE_MAX + 1]) {
    const struct firecracker_http *http = &client->http;
    client_check(client);
    ASSERT(http->body_size <= FIRECRACKER_BODY_SIZE_MAX);
    json_t *body = json_loadb(http->body, http->body_size, JSON_REJECT_DUPLICATES, NULL);
    const char *fault = json_string_value(json_object_get(body, "fault_message"));
    snprintf(text, FIRECRACKER_FAULT_TEXT_SIZE_MAX + 1, "%.*s", FIRECRACKER_FAULT_TEXT_SIZE_MAX,
             fault ? fault : "no reason given");
    json_decref(body);
    for (char *c = text; *c; c++) {
        *c = (unsigned char)*c < ' ' || *c == 0x7f ? ' ' : *c;
    }
}

static enum kelpie_status judge(struct firecracker_client *client, const char *method,
                                const char *path, struct kelpie_error *err) {
    char fault[FIRECRACKER_FAULT_TEXT_SIZE_MAX + 1];
    client_check(client);
    ASSERT(client->http.status >= 200);
    if (client->http.status == STATUS_DONE) {
        return KELPIE_OK;
    }
    if (client->http.status < STATUS_REFUSED) {
        client->broken = true;
        return error_set(err, KELPIE_INTERNAL,
                         "Firecracker answered %s %s with a status that no order has: %u", method,
                         path, client->http.status);
    }
    fault_text(client, fault);
    bool full = strstr(fault, "No space left") != NULL;
    return error_set(err, full ? KELPIE_NO_SPACE : KELPIE_INTERNAL,
                     "Firecracker refused %s %s (status %u): %s", method, path, client->http.status,
                     fault);
}

enum kelpie_status firecracker_client_ask(struct firecracker_client *client, const char *method,
                                          const char *path, json_t *body,
                                          const struct host_wait *wait, struct kelpie_error *err) {
    client_check(client);
    ASSERT(path && path[0] == '/');
    AUTO_MEM char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    json_decref(body);
    if (!text) {
        return error_set(err, KELPIE_NO_MEMORY, "there is no memory for a request");
    }
    if (client->fd == HOST_FD_NONE) {
        return error_set(err, KELPIE_WRONG_STATE, "Firecracker is not running");
    }
    if (client->broken) {
        return error_set(err, KELPIE_CRASHED, "the connection to Firecracker's API is broken");
    }
    if (client->answers_owed == FIRECRACKER_ANSWERS_OWED_MAX) {
        return error_set(err, KELPIE_BUSY, "Firecracker does not answer");
    }
    TRY(send_request(client, method, path, text, wait, err));
    client->answers_owed++;
    while (client->answers_owed > 0) {
        TRY(read_response(client, wait, err));
    }
    if (client->in_start < client->in_end) {
        client->broken = true;
        return error_set(err, KELPIE_INTERNAL, "Firecracker said more than it was asked");
    }
    return judge(client, method, path, err);
}
