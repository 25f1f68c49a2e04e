/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The Linux host's sockets, streams, events and polling. */
#include "host/host.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#define SHORT_MS 50
#define LONG_MS 20000
#define LATE_MS 5000
#define BULK_SIZE (8 << 20) /* bytes: more than any socket or pipe holds */

struct fixture {
    struct host *host;
    char folder[32];
    char path[64];
};

static int setup(void **state) {
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    assert_non_null(fixture);
    assert_int_equal(host_linux_create(&fixture->host, NULL), KELPIE_OK);
    snprintf(fixture->folder, sizeof(fixture->folder), "/tmp/kelpie-socket-XXXXXX");
    assert_non_null(mkdtemp(fixture->folder));
    snprintf(fixture->path, sizeof(fixture->path), "%s/socket", fixture->folder);
    *state = fixture;
    return 0;
}

static int teardown(void **state) {
    struct fixture *fixture = *state;
    assert_int_equal(host_path_remove_folder(fixture->host, fixture->folder, NULL), KELPIE_OK);
    host_destroy(fixture->host);
    free(fixture);
    return 0;
}

static struct host *host_of_state(void **state) {
    return ((struct fixture *)*state)->host;
}

static uint64_t elapsed_ms(struct host *host, uint64_t since_ns) {
    return (host_monotonic_ns(host) - since_ns) / HOST_NS_PER_MS;
}

/* Something that another thread does a little later. */
struct later {
    struct host *host;
    int fd;
};

static void set_later(void *argument) {
    struct later *later = argument;
    struct host_wait pause = host_wait_ms(later->host, SHORT_MS, HOST_FD_NONE);
    assert_int_equal(host_sleep(later->host, &pause, NULL), KELPIE_OK);
    host_event_set(later->host, later->fd);
}

static void write_later(void *argument) {
    struct later *later = argument;
    struct host_wait pause = host_wait_ms(later->host, SHORT_MS, HOST_FD_NONE);
    assert_int_equal(host_sleep(later->host, &pause, NULL), KELPIE_OK);
    size_t count = 0;
    assert_int_equal(host_write(later->host, later->fd, "x", 1, &pause, &count, NULL), KELPIE_OK);
}

static struct host_thread *start(struct host *host, host_thread_entry entry, void *argument) {
    struct host_thread *thread = NULL;
    assert_int_equal(host_thread_start(host, "later", entry, argument, &thread, NULL), KELPIE_OK);
    return thread;
}

/* Reads from fd, in which nothing comes: ends at the deadline, and at once when cancelled. */
static void check_read_waits(struct host *host, int fd) {
    char byte = 0;
    size_t count = 99;
    uint64_t start_ns = host_monotonic_ns(host);
    struct host_wait wait = host_wait_ms(host, SHORT_MS, HOST_FD_NONE);
    assert_int_equal(host_read(host, fd, &byte, 1, &wait, &count, NULL), KELPIE_TIMED_OUT);
    assert_true(elapsed_ms(host, start_ns) >= SHORT_MS);
    assert_true(elapsed_ms(host, start_ns) < LATE_MS);
    assert_int_equal(count, 99);
    wait = host_wait_none();
    assert_int_equal(host_read(host, fd, &byte, 1, &wait, &count, NULL), KELPIE_TIMED_OUT);

    AUTO_FD struct host_fd event = {host, HOST_FD_NONE};
    assert_int_equal(host_event_create(host, &event.fd, NULL), KELPIE_OK);
    struct later later = {host, event.fd};
    struct host_thread *thread = start(host, set_later, &later);
    start_ns = host_monotonic_ns(host);
    wait = host_wait_ms(host, LONG_MS, event.fd);
    assert_int_equal(host_read(host, fd, &byte, 1, &wait, &count, NULL), KELPIE_CANCELLED);
    assert_true(elapsed_ms(host, start_ns) < LATE_MS);
    host_thread_join(thread);
}

/* Fills fd, which nobody reads, until a write ends at its deadline. */
static void check_write_waits(struct host *host, int fd) {
    char *data = calloc(1, BULK_SIZE);
    assert_non_null(data);
    uint64_t start_ns = host_monotonic_ns(host);
    struct host_wait wait = host_wait_ms(host, SHORT_MS, HOST_FD_NONE);
    assert_int_equal(host_write_all(host, fd, data, BULK_SIZE, &wait, NULL), KELPIE_TIMED_OUT);
    assert_true(elapsed_ms(host, start_ns) >= SHORT_MS);
    assert_true(elapsed_ms(host, start_ns) < LATE_MS);
    AUTO_FD struct host_fd event = {host, HOST_FD_NONE};
    assert_int_equal(host_event_create(host, &event.fd, NULL), KELPIE_OK);
    host_event_set(host, event.fd);
    wait = host_wait_ms(host, LONG_MS, event.fd);
    assert_int_equal(host_write_all(host, fd, data, BULK_SIZE, &wait, NULL), KELPIE_CANCELLED);
    free(data);
}

static void sockets_wait_no_longer_than_told(void **state) {
    struct host *host = host_of_state(state);
    int fds[2];
    assert_int_equal(host_socket_pair(host, fds, NULL), KELPIE_OK);
    check_read_waits(host, fds[0]);
    check_write_waits(host, fds[0]);
    host_close(host, fds[0]);
    host_close(host, fds[1]);
}

/* A pipe in blocking mode, such as an inherited stdout, must not block past a deadline either. */
static void blocking_pipes_wait_no_longer_than_told(void **state) {
    struct host *host = host_of_state(state);
    int fds[2];
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    check_read_waits(host, fds[0]);
    check_write_waits(host, fds[1]);
    host_close(host, fds[0]);
    host_close(host, fds[1]);
}

static void data_wakes_a_reader(void **state) {
    struct host *host = host_of_state(state);
    int fds[2];
    assert_int_equal(host_socket_pair(host, fds, NULL), KELPIE_OK);
    struct later later = {host, fds[1]};
    struct host_thread *thread = start(host, write_later, &later);
    char text[8] = {0};
    size_t count = 0;
    uint64_t start_ns = host_monotonic_ns(host);
    struct host_wait wait = host_wait_ms(host, LONG_MS, HOST_FD_NONE);
    assert_int_equal(host_read(host, fds[0], text, sizeof(text), &wait, &count, NULL), KELPIE_OK);
    assert_int_equal(count, 1);
    assert_true(elapsed_ms(host, start_ns) < LATE_MS);
    host_thread_join(thread);
    /* What is there is read even when the time is over. */
    assert_int_equal(host_write(host, fds[1], "ab", 2, &wait, &count, NULL), KELPIE_OK);
    wait = host_wait_none();
    assert_int_equal(host_read(host, fds[0], text, sizeof(text), &wait, &count, NULL), KELPIE_OK);
    assert_int_equal(count, 2);
    host_close(host, fds[1]);
    assert_int_equal(host_read(host, fds[0], text, sizeof(text), &wait, &count, NULL), KELPIE_OK);
    assert_int_equal(count, 0);
    host_close(host, fds[0]);
}

/* A peer that closes with our bytes unread resets the connection: to the reader, its end. */
static void a_reset_is_an_end(void **state) {
    struct host *host = host_of_state(state);
    int fds[2];
    char byte = 0;
    size_t count = 0;
    struct host_wait wait = host_wait_ms(host, LONG_MS, HOST_FD_NONE);
    assert_int_equal(host_socket_pair(host, fds, NULL), KELPIE_OK);
    assert_int_equal(host_write(host, fds[0], "unread", 6, &wait, &count, NULL), KELPIE_OK);
    host_close(host, fds[1]);
    count = 99;
    assert_int_equal(host_read(host, fds[0], &byte, 1, &wait, &count, NULL), KELPIE_OK);
    assert_int_equal(count, 0);
    host_close(host, fds[0]);
}

static volatile sig_atomic_t pipe_signals;

static void count_signal(int number) {
    (void)number;
    pipe_signals++;
}

static void a_closed_reader_raises_no_signal(void **state) {
    struct host *host = host_of_state(state);
    pipe_signals = 0;
    void (*handler)(int) = signal(SIGPIPE, count_signal);
    struct host_wait wait = host_wait_ms(host, LONG_MS, HOST_FD_NONE);
    int fds[2];
    size_t count = 0;
    struct kelpie_error err = {0};
    assert_int_equal(host_socket_pair(host, fds, NULL), KELPIE_OK);
    host_close(host, fds[0]);
    assert_int_equal(host_write(host, fds[1], "x", 1, &wait, &count, &err), KELPIE_IO_FAILED);
    assert_int_equal(err.os_error, EPIPE);
    host_close(host, fds[1]);
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    host_close(host, fds[0]);
    assert_int_equal(host_write(host, fds[1], "x", 1, &wait, &count, &err), KELPIE_IO_FAILED);
    assert_int_equal(err.os_error, EPIPE);
    host_close(host, fds[1]);
    sigset_t pending;
    sigpending(&pending);
    assert_false(sigismember(&pending, SIGPIPE));
    signal(SIGPIPE, handler);
    assert_int_equal(pipe_signals, 0);
}

struct bulk {
    struct host *host;
    int fd;
    uint64_t sum;
    size_t size;
};

static void read_bulk(void *argument) {
    struct bulk *bulk = argument;
    struct host_wait wait = host_wait_ms(bulk->host, LONG_MS, HOST_FD_NONE);
    static unsigned char buffer[10007];
    size_t count = 1;
    while (count > 0) {
        assert_int_equal(
            host_read(bulk->host, bulk->fd, buffer, sizeof(buffer), &wait, &count, NULL),
            KELPIE_OK);
        for (size_t i = 0; i < count; i++) {
            bulk->sum = bulk->sum * 31 + buffer[i];
        }
        bulk->size += count;
    }
}

static void write_all_writes_all(void **state) {
    struct host *host = host_of_state(state);
    int fds[2];
    assert_int_equal(host_socket_pair(host, fds, NULL), KELPIE_OK);
    struct bulk bulk = {.host = host, .fd = fds[0]};
    struct host_thread *thread = start(host, read_bulk, &bulk);
    unsigned char *data = malloc(BULK_SIZE);
    assert_non_null(data);
    uint64_t sum = 0;
    for (size_t i = 0; i < BULK_SIZE; i++) {
        data[i] = (unsigned char)(i * 7 + (i >> 9));
        sum = sum * 31 + data[i];
    }
    struct host_wait wait = host_wait_ms(host, LONG_MS, HOST_FD_NONE);
    assert_int_equal(host_write_all(host, fds[1], data, BULK_SIZE, &wait, NULL), KELPIE_OK);
    host_close(host, fds[1]);
    host_thread_join(thread);
    assert_int_equal(bulk.size, BULK_SIZE);
    assert_true(bulk.sum == sum);
    free(data);
    host_close(host, fds[0]);
}

/* ---- Names ------------------------------------------------------------------------------------ */

static void listen_accept_connect(void **state) {
    struct fixture *fixture = *state;
    struct host *host = fixture->host;
    AUTO_FD struct host_fd listener = {host, HOST_FD_NONE};
    AUTO_FD struct host_fd client = {host, HOST_FD_NONE};
    AUTO_FD struct host_fd server = {host, HOST_FD_NONE};
    struct host_wait wait = host_wait_ms(host, SHORT_MS, HOST_FD_NONE);
    struct kelpie_error err = {0};
    assert_int_equal(host_socket_connect(host, fixture->path, &wait, &client.fd, &err),
                     KELPIE_NOT_FOUND);
    assert_int_equal(host_socket_listen(host, fixture->path, &listener.fd, &err), KELPIE_OK);
    assert_int_equal(host_socket_accept(host, listener.fd, &wait, &server.fd, &err),
                     KELPIE_TIMED_OUT);
    wait = host_wait_ms(host, LONG_MS, HOST_FD_NONE);
    assert_int_equal(host_socket_connect(host, fixture->path, &wait, &client.fd, &err), KELPIE_OK);
    assert_int_equal(host_socket_accept(host, listener.fd, &wait, &server.fd, &err), KELPIE_OK);
    assert_int_equal(host_write_all(host, client.fd, "hello", 5, &wait, &err), KELPIE_OK);
    char text[8] = {0};
    size_t count = 0;
    assert_int_equal(host_read(host, server.fd, text, sizeof(text), &wait, &count, &err),
                     KELPIE_OK);
    assert_string_equal(text, "hello");
    assert_true(fcntl(client.fd, F_GETFD) & FD_CLOEXEC);
    assert_true(fcntl(server.fd, F_GETFD) & FD_CLOEXEC);
    assert_true(fcntl(listener.fd, F_GETFD) & FD_CLOEXEC);
}

static void hazard_E4_socket_is_private_and_its_peer_known(void **state) {
    struct fixture *fixture = *state;
    struct host *host = fixture->host;
    AUTO_FD struct host_fd listener = {host, HOST_FD_NONE};
    AUTO_FD struct host_fd client = {host, HOST_FD_NONE};
    AUTO_FD struct host_fd server = {host, HOST_FD_NONE};
    mode_t mask = umask(0);
    assert_int_equal(host_socket_listen(host, fixture->path, &listener.fd, NULL), KELPIE_OK);
    umask(mask);
    struct host_file_info info = {0};
    assert_int_equal(host_path_stat(host, fixture->path, &info, NULL), KELPIE_OK);
    assert_int_equal(info.mode, 0600);
    assert_int_equal(info.type, HOST_FILE_OTHER);
    struct host_wait wait = host_wait_ms(host, LONG_MS, HOST_FD_NONE);
    assert_int_equal(host_socket_connect(host, fixture->path, &wait, &client.fd, NULL), KELPIE_OK);
    assert_int_equal(host_socket_accept(host, listener.fd, &wait, &server.fd, NULL), KELPIE_OK);
    uint32_t uid = 12345;
    assert_int_equal(host_socket_peer(host, server.fd, &uid, NULL), KELPIE_OK);
    assert_int_equal(uid, getuid());
    uid = 12345;
    assert_int_equal(host_socket_peer(host, client.fd, &uid, NULL), KELPIE_OK);
    assert_int_equal(uid, getuid());
}

static void a_socket_takes_no_existing_name(void **state) {
    struct fixture *fixture = *state;
    struct host *host = fixture->host;
    int fd = HOST_FD_NONE;
    struct kelpie_error err = {0};
    char target[64];
    snprintf(target, sizeof(target), "%s/elsewhere", fixture->folder);
    assert_int_equal(host_path_symlink(host, target, fixture->path, NULL), KELPIE_OK);
    assert_int_equal(host_socket_listen(host, fixture->path, &fd, &err), KELPIE_IO_FAILED);
    assert_int_equal(err.os_error, EADDRINUSE);
    struct host_file_info info = {0};
    assert_int_equal(host_path_stat(host, target, &info, NULL), KELPIE_NOT_FOUND);
    assert_int_equal(fd, HOST_FD_NONE);
}

static void a_long_path_is_refused(void **state) {
    struct host *host = host_of_state(state);
    char path[200];
    memset(path, 'p', sizeof(path));
    path[0] = '/';
    path[sizeof(path) - 1] = '\0';
    int fd = HOST_FD_NONE;
    struct kelpie_error err = {0};
    struct host_wait wait = host_wait_none();
    assert_int_equal(host_socket_listen(host, path, &fd, &err), KELPIE_IO_FAILED);
    assert_int_equal(err.os_error, ENAMETOOLONG);
    assert_non_null(strstr(err.message, "107"));
    assert_int_equal(host_socket_connect(host, path, &wait, &fd, &err), KELPIE_IO_FAILED);
    assert_int_equal(err.os_error, ENAMETOOLONG);
}

/* A listener of ours with no room for connections, which the host's listener would have. */
static int listen_without_backlog(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(fd, 0), 0);
    return fd;
}

static void connect_ends_at_its_deadline(void **state) {
    struct fixture *fixture = *state;
    struct host *host = fixture->host;
    int listener = listen_without_backlog(fixture->path);
    int clients[4];
    int connected = 0;
    struct host_wait wait = host_wait_ms(host, SHORT_MS, HOST_FD_NONE);
    enum kelpie_status status = KELPIE_OK;
    uint64_t start_ns = 0;
    for (; connected < 4 && status == KELPIE_OK; connected++) {
        start_ns = host_monotonic_ns(host);
        wait = host_wait_ms(host, SHORT_MS, HOST_FD_NONE);
        status = host_socket_connect(host, fixture->path, &wait, &clients[connected], NULL);
    }
    connected--;
    assert_int_equal(status, KELPIE_TIMED_OUT);
    assert_true(elapsed_ms(host, start_ns) >= SHORT_MS);
    assert_true(elapsed_ms(host, start_ns) < LATE_MS);
    AUTO_FD struct host_fd event = {host, HOST_FD_NONE};
    assert_int_equal(host_event_create(host, &event.fd, NULL), KELPIE_OK);
    host_event_set(host, event.fd);
    wait = host_wait_ms(host, LONG_MS, event.fd);
    assert_int_equal(host_socket_connect(host, fixture->path, &wait, &clients[connected], NULL),
                     KELPIE_CANCELLED);
    for (int i = 0; i < connected; i++) {
        host_close(host, clients[i]);
    }
    close(listener);
}

static void a_descriptor_is_passed(void **state) {
    struct host *host = host_of_state(state);
    int fds[2];
    int passed[2];
    assert_int_equal(host_socket_pair(host, fds, NULL), KELPIE_OK);
    assert_int_equal(host_socket_pair(host, passed, NULL), KELPIE_OK);
    assert_int_equal(host_socket_send_fd(host, fds[0], "take", 4, passed[1], NULL), KELPIE_OK);
    host_close(host, passed[1]);

    char text[8] = {0};
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec part = {.iov_base = text, .iov_len = sizeof(text)};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof(control)};
    assert_int_equal(recvmsg(fds[1], &message, MSG_CMSG_CLOEXEC), 4);
    assert_string_equal(text, "take");
    int received = HOST_FD_NONE;
    memcpy(&received, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(received));
    struct host_wait wait = host_wait_ms(host, LONG_MS, HOST_FD_NONE);
    assert_int_equal(host_write_all(host, received, "by it", 5, &wait, NULL), KELPIE_OK);
    size_t count = 0;
    assert_int_equal(host_read(host, passed[0], text, sizeof(text), &wait, &count, NULL),
                     KELPIE_OK);
    assert_memory_equal(text, "by it", 5);
    host_close(host, received);
    host_close(host, passed[0]);
    host_close(host, fds[0]);
    host_close(host, fds[1]);
}

static void a_descriptor_is_received_once(void **state) {
    struct host *host = host_of_state(state);
    int fds[2];
    int passed[2];
    char text[32] = {0};
    assert_int_equal(host_socket_pair(host, fds, NULL), KELPIE_OK);
    assert_int_equal(host_socket_pair(host, passed, NULL), KELPIE_OK);
    struct host_wait wait = host_wait_ms(host, LONG_MS, HOST_FD_NONE);
    struct host_received received = {0};

    /* Two messages with one each are never read as one, however large the buffer. */
    assert_int_equal(host_write_all(host, fds[0], "-", 1, &wait, NULL), KELPIE_OK);
    assert_int_equal(host_socket_send_fd(host, fds[0], "one", 3, passed[0], NULL), KELPIE_OK);
    assert_int_equal(host_socket_send_fd(host, fds[0], "two", 3, passed[1], NULL), KELPIE_OK);
    host_close(host, passed[0]);
    host_close(host, passed[1]);
    int kept[2] = {HOST_FD_NONE, HOST_FD_NONE};
    size_t kept_count = 0;
    size_t used = 0;
    while (used < 7) {
        assert_int_equal(
            host_receive(host, fds[1], text + used, sizeof(text) - used, &wait, &received, NULL),
            KELPIE_OK);
        used += received.size;
        if (received.fd != HOST_FD_NONE) {
            assert_true(kept_count < 2);
            assert_true(fcntl(received.fd, F_GETFD) & FD_CLOEXEC);
            kept[kept_count++] = received.fd;
        }
    }
    assert_int_equal(kept_count, 2);
    assert_memory_equal(text, "-onetwo", 7);
    assert_int_equal(host_write_all(host, kept[0], "hello", 5, &wait, NULL), KELPIE_OK);
    assert_int_equal(host_receive(host, kept[1], text, sizeof(text), &wait, &received, NULL),
                     KELPIE_OK);
    assert_int_equal(received.size, 5);
    assert_int_equal(received.fd, HOST_FD_NONE); /* nothing was attached */
    host_close(host, kept[0]);
    host_close(host, kept[1]);

    /* Waiting and the end are as host_read() has them. */
    struct host_wait none = host_wait_none();
    assert_int_equal(host_receive(host, fds[1], text, sizeof(text), &none, &received, NULL),
                     KELPIE_TIMED_OUT);
    host_close(host, fds[0]);
    assert_int_equal(host_receive(host, fds[1], text, sizeof(text), &wait, &received, NULL),
                     KELPIE_OK);
    assert_int_equal(received.size, 0);
    assert_int_equal(received.fd, HOST_FD_NONE);
    host_close(host, fds[1]);
}

static size_t open_fd_count(void) {
    size_t count = 0;
    for (int fd = 0; fd < 256; fd++) {
        count += fcntl(fd, F_GETFD) >= 0;
    }
    return count;
}

/* A peer that attaches many descriptors leaves one here, and can pile up none. */
static void hazard_E3_descriptors_beyond_the_first_are_closed(void **state) {
    struct host *host = host_of_state(state);
    enum { SENT_COUNT = 20 };
    int fds[2];
    int sent[SENT_COUNT];
    assert_int_equal(host_socket_pair(host, fds, NULL), KELPIE_OK);
    size_t before = open_fd_count();
    for (size_t i = 0; i < SENT_COUNT; i++) {
        sent[i] = fds[0];
    }
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(sent))] = {0};
    struct iovec part = {.iov_base = (char[]){"x"}, .iov_len = 1};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof(control)};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(sent));
    memcpy(CMSG_DATA(header), sent, sizeof(sent));
    assert_int_equal(sendmsg(fds[0], &message, 0), 1);

    char byte = 0;
    struct host_received received = {0};
    struct host_wait wait = host_wait_ms(host, LONG_MS, HOST_FD_NONE);
    assert_int_equal(host_receive(host, fds[1], &byte, 1, &wait, &received, NULL), KELPIE_OK);
    assert_int_equal(byte, 'x');
    assert_true(received.fd >= 0);
    assert_int_equal(open_fd_count(), before + 1);
    host_close(host, received.fd);
    host_close(host, fds[0]);
    host_close(host, fds[1]);
}

/* ---- Polling ---------------------------------------------------------------------------------- */

static void poll_says_which(void **state) {
    struct host *host = host_of_state(state);
    int fds[2];
    assert_int_equal(host_socket_pair(host, fds, NULL), KELPIE_OK);
    struct host_poll_item items[3] = {
        {.fd = fds[0], .asked = HOST_POLL_READ},
        {.fd = HOST_FD_NONE, .asked = HOST_POLL_READ},
        {.fd = fds[1], .asked = HOST_POLL_READ},
    };
    struct host_wait wait = host_wait_ms(host, SHORT_MS, HOST_FD_NONE);
    uint64_t start_ns = host_monotonic_ns(host);
    assert_int_equal(host_poll(host, items, 3, &wait, NULL), KELPIE_TIMED_OUT);
    assert_true(elapsed_ms(host, start_ns) >= SHORT_MS);
    size_t count = 0;
    assert_int_equal(host_write(host, fds[1], "x", 1, &wait, &count, NULL), KELPIE_OK);
    items[2].asked |= HOST_POLL_WRITE;
    assert_int_equal(host_poll(host, items, 3, &wait, NULL), KELPIE_OK);
    assert_int_equal(items[0].ready, HOST_POLL_READ);
    assert_int_equal(items[1].ready, 0);
    assert_int_equal(items[2].ready, HOST_POLL_WRITE);

    /* The end counts as readable, and what asks for nothing is not told of it. */
    host_close(host, fds[1]);
    items[0].asked = 0;
    wait = host_wait_ms(host, SHORT_MS, HOST_FD_NONE);
    assert_int_equal(host_poll(host, items, 1, &wait, NULL), KELPIE_TIMED_OUT);
    items[0].asked = HOST_POLL_READ;
    assert_int_equal(host_poll(host, items, 1, &wait, NULL), KELPIE_OK);
    assert_int_equal(items[0].ready, HOST_POLL_READ);
    host_close(host, fds[0]);
}

static void cancelling_goes_before_readiness_in_poll(void **state) {
    struct host *host = host_of_state(state);
    AUTO_FD struct host_fd ready = {host, HOST_FD_NONE};
    AUTO_FD struct host_fd cancel = {host, HOST_FD_NONE};
    assert_int_equal(host_event_create(host, &ready.fd, NULL), KELPIE_OK);
    assert_int_equal(host_event_create(host, &cancel.fd, NULL), KELPIE_OK);
    host_event_set(host, ready.fd);
    host_event_set(host, ready.fd);
    struct host_poll_item item = {.fd = ready.fd, .asked = HOST_POLL_READ};
    struct host_wait wait = host_wait_ms(host, LONG_MS, cancel.fd);
    assert_int_equal(host_poll(host, &item, 1, &wait, NULL), KELPIE_OK);
    host_event_set(host, cancel.fd);
    assert_int_equal(host_poll(host, &item, 1, &wait, NULL), KELPIE_CANCELLED);
    host_event_clear(host, cancel.fd);
    host_event_clear(host, cancel.fd);
    assert_int_equal(host_poll(host, &item, 1, &wait, NULL), KELPIE_OK);
    host_event_clear(host, ready.fd);
    wait = host_wait_none();
    assert_int_equal(host_poll(host, &item, 1, &wait, NULL), KELPIE_TIMED_OUT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(sockets_wait_no_longer_than_told, setup, teardown),
        cmocka_unit_test_setup_teardown(blocking_pipes_wait_no_longer_than_told, setup, teardown),
        cmocka_unit_test_setup_teardown(data_wakes_a_reader, setup, teardown),
        cmocka_unit_test_setup_teardown(a_reset_is_an_end, setup, teardown),
        cmocka_unit_test_setup_teardown(a_closed_reader_raises_no_signal, setup, teardown),
        cmocka_unit_test_setup_teardown(write_all_writes_all, setup, teardown),
        cmocka_unit_test_setup_teardown(listen_accept_connect, setup, teardown),
        cmocka_unit_test_setup_teardown(hazard_E4_socket_is_private_and_its_peer_known, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_socket_takes_no_existing_name, setup, teardown),
        cmocka_unit_test_setup_teardown(a_long_path_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(connect_ends_at_its_deadline, setup, teardown),
        cmocka_unit_test_setup_teardown(a_descriptor_is_passed, setup, teardown),
        cmocka_unit_test_setup_teardown(a_descriptor_is_received_once, setup, teardown),
        cmocka_unit_test_setup_teardown(hazard_E3_descriptors_beyond_the_first_are_closed, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(poll_says_which, setup, teardown),
        cmocka_unit_test_setup_teardown(cancelling_goes_before_readiness_in_poll, setup, teardown),
    };
    return cmocka_run_group_tests_name("host_linux_socket", tests, NULL, NULL);
}
