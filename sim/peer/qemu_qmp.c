/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The server's side of QMP: lines in, lines out, and what goes wrong between them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "sim/peer/qemu.h"

/* ---- Out -------------------------------------------------------------------------------------- */

void sim_qemu_qmp_say_bytes(struct sim_qemu *qemu, const void *data, size_t size) {
    sim_qemu_check(qemu);
    ASSERT(data);
    struct mock_bytes *out = &qemu->qmp.out;
    if (qemu->qmp.fd == HOST_FD_NONE || size > SIM_QEMU_OUT_SIZE_MAX - out->size) {
        return; /* nobody hears it */
    }
    mock_bytes_append(out, data, size);
    out->failed = false; /* without memory it is lost, too */
}

void sim_qemu_qmp_say(struct sim_qemu *qemu, json_t *message) {
    sim_qemu_check(qemu);
    char *text = message ? json_dumps(message, JSON_ENCODE_ANY) : NULL;
    ASSERT(!message || json_is_object(message));
    json_decref(message);
    if (text) {
        sim_qemu_qmp_say_bytes(qemu, text, strlen(text));
        sim_qemu_qmp_say_bytes(qemu, "\r\n", 2);
    }
    free(text);
}

/* Two members, in one order or the other: QEMU's own is that of a hash. */
static json_t *in_some_order(struct sim_qemu *qemu, const char *name, json_t *value,
                             const char *other_name, json_t *other) {
    ASSERT(name && other_name);
    ASSERT(qemu->peer);
    bool turned = sim_peer_choose(qemu->peer, 2) == 0;
    return turned ? json_pack("{s:o, s:o}", other_name, other, name, value)
                  : json_pack("{s:o, s:o}", name, value, other_name, other);
}

void sim_qemu_event(struct sim_qemu *qemu, const char *name, json_t *data) {
    sim_qemu_check(qemu);
    ASSERT(name);
    if (!qemu->qmp.negotiated) {
        json_decref(data);
        return;
    }
    uint64_t now_ns = host_realtime_ns(qemu->host);
    json_t *when = json_pack("{s:I, s:I}", "seconds", (json_int_t)(now_ns / HOST_NS_PER_S),
                             "microseconds", (json_int_t)(now_ns % HOST_NS_PER_S / 1000));
    json_t *message = in_some_order(qemu, "timestamp", when, "event", json_string(name));
    if (data && message) {
        (void)json_object_set_new(message, "data", data);
    }
    sim_qemu_qmp_say(qemu, message);
}

void sim_qemu_qmp_greet(struct sim_qemu *qemu, bool garbage) {
    sim_qemu_check(qemu);
    ASSERT(!qemu->qmp.negotiated);
    if (garbage && sim_qemu_noise_garbage(qemu, NULL)) {
        return;
    }
    int major = 0;
    int minor = 0;
    int micro = 0;
    int count = sscanf(SIM_QEMU_VERSION, "%2d.%2d.%2d", &major, &minor, &micro);
    ASSERT(count == 3);
    sim_qemu_qmp_say(qemu, json_pack("{s:{s:{s:{s:i, s:i, s:i}, s:s}, s:[s]}}", "QMP", "version",
                                     "qemu", "micro", micro, "minor", minor, "major", major,
                                     "package", SIM_QEMU_PACKAGE, "capabilities", "oob"));
}

static void qmp_flush(struct sim_qemu *qemu) {
    sim_qemu_check(qemu);
    struct sim_qemu_qmp *qmp = &qemu->qmp;
    ASSERT(qmp->fd != HOST_FD_NONE);
    const struct host_wait no_wait = host_wait_none();
    struct kelpie_error ignored;
    size_t size = qmp->out.size;
    size_t count = 0;
    if (qmp->write_size_max > 0 && size > qmp->write_size_max) {
        size = qmp->write_size_max;
    }
    enum kelpie_status status =
        host_write(qemu->host, qmp->fd, qmp->out.data, size, &no_wait, &count, &ignored);
    if (status == KELPIE_OK) {
        mock_bytes_drop(&qmp->out, count);
    } else if (status != KELPIE_TIMED_OUT) {
        mock_bytes_deinit(&qmp->out); /* its owner is gone, or deaf; the machine runs on */
    }
    if (qmp->out.size == 0) {
        qmp->write_size_max = 0;
    }
}

/* ---- One command ------------------------------------------------------------------------------ */

static void answer_send(struct sim_qemu *qemu, struct sim_qemu_answer *answer, json_t *id) {
    sim_qemu_check(qemu);
    ASSERT(answer);
    json_t *message = NULL;
    json_t *content = answer->data;
    if (answer->class) {
        json_decref(content);
        content = json_pack("{s:s, s:s}", "class", answer->class, "desc", answer->desc);
    } else if (!content) {
        content = json_object();
    }
    const char *name = answer->class ? "error" : "return";
    message = id ? in_some_order(qemu, name, content, "id", json_incref(id))
                 : json_pack("{s:o}", name, content);
    sim_qemu_qmp_say(qemu, message);
    if (sim_peer_choose(qemu->peer, 6) == 0) {
        qemu->qmp.write_size_max = 1 + sim_peer_choose(qemu->peer, SIM_QEMU_SPLIT_SIZE_MAX);
    }
}

static void refuse_for_a_fault(struct sim_qemu *qemu, struct sim_qemu_answer *answer) {
    sim_qemu_check(qemu);
    ASSERT(!answer->class);
    static const char *const reasons[] = {
        "Resource temporarily unavailable",
        "Migration is disabled when VirtFS export path is mounted in the guest",
        "Permission \x1b[31mdenied",
        "",
    };
    size_t which = sim_peer_choose(qemu->peer, ARRAY_SIZE(reasons) + 1);
    if (which < ARRAY_SIZE(reasons)) {
        sim_qemu_refuse(answer, "%s", reasons[which]);
    } else {
        sim_qemu_refuse(answer, "%0900d", 7); /* longer than anyone keeps */
    }
}

/* Executes a line and answers, as far as the faults leave that. */
static void take_command(struct sim_qemu *qemu, const char *line, size_t size,
                         const struct sim_qemu_faults *faults) {
    sim_qemu_check(qemu);
    ASSERT(faults);
    struct sim_qemu_answer answer = {0};
    json_error_t error;
    json_t *command = json_loadb(line, size, JSON_DECODE_ANY, &error);
    json_t *id = json_incref(json_object_get(command, "id"));
    uint64_t silence = faults->silent ? sim_peer_choose(qemu->peer, 3) : 3;
    bool dies_first = faults->dies && sim_peer_choose(qemu->peer, 2) == 0;
    qemu->qmp.deaf = qemu->qmp.deaf || silence == 0;
    if (faults->chatters) {
        sim_qemu_mutter(qemu);
        for (size_t i = 0; i < SIM_QEMU_CHATTER_COUNT_MAX; i++) {
            sim_qemu_noise_event(qemu);
        }
    }
    if (dies_first) {
        sim_qemu_perish(qemu);
    }
    bool executes = !qemu->ends && !qemu->qmp.deaf && silence > 1;
    if (executes && !command) {
        sim_qemu_refuse(&answer, "JSON parse error, %s", error.text);
    } else if (executes && faults->refuses) {
        refuse_for_a_fault(qemu, &answer);
    } else if (executes) {
        sim_qemu_execute(qemu, command, &answer);
    }
    bool replaced = executes && faults->garbage && sim_qemu_noise_garbage(qemu, id);
    if (executes && !replaced && silence == 3) {
        answer_send(qemu, &answer, id);
    } else {
        json_decref(answer.data);
    }
    json_decref(id);
    json_decref(command);
    if (faults->dies && !dies_first) {
        if (sim_peer_choose(qemu->peer, 2) == 0) {
            sim_qemu_qmp_farewell(qemu); /* its answer arrives */
        }
        sim_qemu_perish(qemu);
    }
}

/* The size of the first line with its end; 0: there is none yet. */
static size_t line_size(const struct sim_qemu *qemu) {
    sim_qemu_check(qemu);
    const struct mock_bytes *in = &qemu->qmp.in;
    ASSERT(in->size <= SIM_QEMU_LINE_SIZE_MAX + SIM_QEMU_READ_SIZE);
    const uint8_t *end = in->size > 0 ? memchr(in->data, '\n', in->size) : NULL;
    return end ? (size_t)(end - in->data) + 1 : 0;
}

/* Takes the next line, if it is there and its time has come. */
static bool take_line(struct sim_qemu *qemu) {
    sim_qemu_check(qemu);
    struct sim_qemu_qmp *qmp = &qemu->qmp;
    size_t size = line_size(qemu);
    uint64_t now_ns = host_monotonic_ns(qemu->host);
    if (size == 0 || now_ns < qmp->take_ns || qemu->ends) {
        return false;
    }
    if (!qmp->asked) {
        qmp->faults = sim_qemu_faults_ask(qemu);
        qmp->asked = true;
        uint64_t late_ns = (1 + sim_peer_choose(qemu->peer, SIM_QEMU_SLOW_S_MAX)) * HOST_NS_PER_S;
        bool first = sim_peer_choose(qemu->peer, 2) == 0;
        qmp->take_ns = qmp->faults.slow && first ? now_ns + late_ns : qmp->take_ns;
        qmp->say_ns = qmp->faults.slow && !first ? now_ns + late_ns : qmp->say_ns;
        if (now_ns < qmp->take_ns) {
            return false;
        }
    }
    struct mock_bytes line = mock_bytes_init(qemu->host);
    bool whole = mock_bytes_append(&line, qmp->in.data, size);
    mock_bytes_drop(&qmp->in, size);
    qmp->asked = false;
    ASSERT(!whole || line.size == size);
    if (!whole) {
        sim_qemu_words(qemu, "qemu-system-x86_64: failed to allocate memory\n");
        sim_qemu_exit(qemu, 1);
    } else if (size > 1) {
        if (sim_peer_choose(qemu->peer, 8) == 0) {
            sim_qemu_noise_event(qemu);
        }
        take_command(qemu, (const char *)line.data, size - 1, &qmp->faults);
    }
    mock_bytes_deinit(&line);
    return true;
}

/* ---- In --------------------------------------------------------------------------------------- */

static void qmp_hang_up(struct sim_qemu *qemu) {
    sim_qemu_check(qemu);
    ASSERT(qemu->qmp.fd != HOST_FD_NONE);
    host_close(qemu->host, qemu->qmp.fd);
    qemu->qmp.fd = HOST_FD_NONE;
    mock_bytes_deinit(&qemu->qmp.in);
    mock_bytes_deinit(&qemu->qmp.out);
}

/* Reads once. The descriptors that came last are those of the next getfd. */
static void qmp_read(struct sim_qemu *qemu) {
    sim_qemu_check(qemu);
    ASSERT(qemu->qmp.fd != HOST_FD_NONE);
    struct sim_qemu_qmp *qmp = &qemu->qmp;
    const struct host_wait no_wait = host_wait_none();
    struct kelpie_error ignored;
    char buffer[SIM_QEMU_READ_SIZE];
    struct sim_peer_received received = {.buffer = buffer, .capacity = sizeof(buffer)};
    enum kelpie_status status =
        sim_peer_receive(qemu->peer, qmp->fd, &no_wait, &received, &ignored);
    if (status == KELPIE_TIMED_OUT) {
        return;
    }
    if (status != KELPIE_OK || received.size == 0) {
        qmp_hang_up(qemu);
        return;
    }
    ASSERT(received.fd_count <= SIM_PEER_RECEIVED_FD_COUNT_MAX);
    for (size_t i = 0; i < received.fd_count; i++) {
        host_close(qemu->host, qmp->passed_fd);
        qmp->passed_fd = received.fds[i];
    }
    if (!mock_bytes_append(&qmp->in, buffer, received.size) ||
        (qmp->in.size > SIM_QEMU_LINE_SIZE_MAX && line_size(qemu) == 0)) {
        qmp_hang_up(qemu);
    }
}

struct host_poll_item sim_qemu_qmp_item(const struct sim_qemu *qemu) {
    sim_qemu_check(qemu);
    const struct sim_qemu_qmp *qmp = &qemu->qmp;
    ASSERT(qmp->fd >= HOST_FD_NONE);
    if (qmp->fd == HOST_FD_NONE) {
        return (struct host_poll_item){.fd = HOST_FD_NONE};
    }
    bool says = qmp->out.size > 0 && host_monotonic_ns(qemu->host) >= qmp->say_ns;
    bool takes = qmp->in.size < SIM_QEMU_LINE_SIZE_MAX;
    return (struct host_poll_item){
        .fd = says || takes ? qmp->fd : HOST_FD_NONE,
        .asked = (takes ? HOST_POLL_READ : 0u) | (says ? HOST_POLL_WRITE : 0u),
    };
}

uint64_t sim_qemu_qmp_deadline_ns(const struct sim_qemu *qemu) {
    sim_qemu_check(qemu);
    const struct sim_qemu_qmp *qmp = &qemu->qmp;
    ASSERT(qmp->fd >= HOST_FD_NONE);
    uint64_t deadline_ns = line_size(qemu) > 0 ? qmp->take_ns : UINT64_MAX;
    bool waits = qmp->out.size > 0 && host_monotonic_ns(qemu->host) < qmp->say_ns;
    return waits && qmp->say_ns < deadline_ns ? qmp->say_ns : deadline_ns;
}

void sim_qemu_qmp_service(struct sim_qemu *qemu, uint32_t ready) {
    sim_qemu_check(qemu);
    struct sim_qemu_qmp *qmp = &qemu->qmp;
    ASSERT(ready == 0 || qmp->fd != HOST_FD_NONE);
    if ((ready & HOST_POLL_READ) && qmp->fd != HOST_FD_NONE) {
        qmp_read(qemu);
    }
    if (qmp->fd != HOST_FD_NONE) {
        (void)take_line(qemu);
    }
    if (qmp->fd != HOST_FD_NONE && qmp->out.size > 0 &&
        host_monotonic_ns(qemu->host) >= qmp->say_ns) {
        qmp_flush(qemu);
    }
}

/* ---- Its end ---------------------------------------------------------------------------------- */

void sim_qemu_qmp_farewell(struct sim_qemu *qemu) {
    sim_qemu_check(qemu);
    struct mock_bytes *out = &qemu->qmp.out;
    ASSERT(qemu->qmp.fd >= HOST_FD_NONE);
    if (qemu->qmp.fd != HOST_FD_NONE && out->size > 0) {
        const struct host_wait wait = host_wait_ms(qemu->host, SIM_QEMU_FAREWELL_MS, HOST_FD_NONE);
        struct kelpie_error ignored;
        enum kelpie_status status =
            host_write_all(qemu->host, qemu->qmp.fd, out->data, out->size, &wait, &ignored);
        (void)status; /* nobody reads it */
        mock_bytes_deinit(out);
    }
}

void sim_qemu_qmp_close(struct sim_qemu *qemu) {
    ASSERT(qemu->host);
    struct sim_qemu_qmp *qmp = &qemu->qmp;
    ASSERT(qmp->fd >= HOST_FD_NONE);
    for (size_t i = 0; i < SIM_QEMU_NAMED_FD_COUNT_MAX; i++) {
        if (qmp->named[i].name[0]) {
            host_close(qemu->host, qmp->named[i].fd);
        }
    }
    host_close(qemu->host, qmp->passed_fd);
    host_close(qemu->host, qmp->fd);
    qmp->fd = qmp->passed_fd = HOST_FD_NONE;
    mock_bytes_deinit(&qmp->in);
    mock_bytes_deinit(&qmp->out);
}
