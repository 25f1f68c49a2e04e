/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * A guest with a network: through passt, to and from servers of this host's loopback; and through taps, for a backend that
 * has nothing else. With $KELPIE_CONFORMANCE_TAPS set, there are tap7 and tap8, on which this host is 10.9.7.1 and 10.9.8.1, and says
 * GREETING to whoever connects to TAP_PORT.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "conformance.h"

#define GREETING "hello from the host\n"
#define ANSWER "hello from the guest\n"
#define GATEWAY "10.0.2.2"
#define GUEST_PORT 80
#define TRY_COUNT_MAX 20
#define MAC_FILE "/sys/class/net/eth0/address"
#define TAP_PORT "8000"

/* ---- This host's side ------------------------------------------------------------------------- */

/* Greets whoever connects, until `stop` can be read. */
struct server {
    int fd;
    int stop[2];
    uint16_t port;
    pthread_t thread;
};

static struct sockaddr_in loopback(uint16_t port) {
    return (struct sockaddr_in){.sin_family = AF_INET,
                                .sin_port = htons(port),
                                .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}};
}

/* A socket that is bound to a port of the loopback address; *ret_port says which. */
static int bound_socket(uint16_t *ret_port) {
    struct sockaddr_in address = loopback(0);
    socklen_t size = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (const struct sockaddr *)&address, size), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &size), 0);
    *ret_port = ntohs(address.sin_port);
    return fd;
}

static void *serve(void *argument) {
    struct server *server = argument;
    for (;;) {
        struct pollfd items[] = {{.fd = server->fd, .events = POLLIN},
                                 {.fd = server->stop[0], .events = POLLIN}};
        if (poll(items, 2, -1) < 0 || items[1].revents != 0) {
            return NULL;
        }
        int peer = accept(server->fd, NULL, NULL);
        if (peer >= 0) {
            (void)!send(peer, GREETING, strlen(GREETING), MSG_NOSIGNAL);
            close(peer);
        }
    }
}

static void server_start(struct server *server) {
    server->fd = bound_socket(&server->port);
    assert_int_equal(listen(server->fd, 8), 0);
    assert_int_equal(pipe(server->stop), 0);
    assert_int_equal(pthread_create(&server->thread, NULL, serve, server), 0);
}

static void server_stop(struct server *server) {
    close(server->stop[1]);
    assert_int_equal(pthread_join(server->thread, NULL), 0);
    close(server->stop[0]);
    close(server->fd);
}

/* A port that nobody has at present. */
static uint16_t free_port(void) {
    uint16_t port = 0;
    close(bound_socket(&port));
    return port;
}

/* What a connection to a port of ours answers to a line; "" when it says nothing or cannot be made. We speak first: a
 * passt of 2023 does not end the handshake with a guest's server before we do. */
static void ask(uint16_t port, char *ret_text, size_t size) {
    struct sockaddr_in address = loopback(port);
    struct timeval patience = {.tv_sec = 5};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    ssize_t count = connect(fd, (const struct sockaddr *)&address, sizeof(address)) == 0 &&
                            send(fd, "?\n", 2, MSG_NOSIGNAL) == 2
                        ? recv(fd, ret_text, size - 1, 0)
                        : 0;
    ret_text[count > 0 ? count : 0] = 0;
    close(fd);
}

/* ---- VMs -------------------------------------------------------------------------------------- */

static struct kelpie_config config_of(const struct kelpie_network *network) {
    return (struct kelpie_config){
        .backend = suite()->backend, .vcpu_count = suite()->vcpu_count, .network = network};
}

/* A machine without passt, or without a way out, cannot test what goes through it; it says so. */
static void need_passt(enum kelpie_status status, const struct kelpie_error *err) {
    if (status == KELPIE_BACKEND_MISSING ||
        (status == KELPIE_BOOT_FAILED && strstr(err->message, "interface not usable"))) {
        skip_aloud(err->message);
    }
}

static struct kelpie_vm *start_network_vm(const struct kelpie_network *network) {
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = NULL;
    const struct kelpie_config config = config_of(network);
    OK(kelpie_vm_create(&config, &vm, &err));
    enum kelpie_status status = kelpie_vm_start(vm, &err);
    if (status != KELPIE_OK) {
        kelpie_vm_destroy(vm);
        need_passt(status, &err);
    }
    OK(status);
    return vm;
}

static struct kelpie_vm *restore_network_vm(const char *path,
                                            const struct kelpie_network *network) {
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = NULL;
    struct kelpie_restore_report report = {0};
    struct kelpie_config config = config_of(network);
    config.vcpu_count = 0;
    OK(kelpie_vm_create_from_snapshot(path, &config, NULL, &vm, &err));
    OK(kelpie_vm_restore_report(vm, &report, &err));
    assert_int_equal(report.network, KELPIE_OUTCOME_DONE);
    return vm;
}

/* The client's input does not end: a passt of 2023 does not tell a guest that has ended its half of the other's end. */
static void expect_greeting(struct kelpie_vm *vm, const struct server *server,
                            const char *expected) {
    char line[256];
    snprintf(line, sizeof(line),
             "mkfifo /tmp/silence 2>/dev/null; "
             "timeout 20 nc -w %d " GATEWAY " %u <>/tmp/silence 2>/dev/null; true",
             expected[0] ? 15 : 3, server->port);
    expect_shell(vm, line, 0, expected);
}

/* ---- Cases ------------------------------------------------------------------------------------ */

static void test_a_network_that_there_is_not_is_refused(void **state) {
    (void)state;
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = NULL;
    const struct kelpie_network network = {.kind = KELPIE_NETWORK_USER};
    const struct kelpie_config config = config_of(&network);
    if (suite()->capabilities & (KELPIE_CAN_NETWORK | KELPIE_CAN_NETWORK_TAP)) {
        const struct kelpie_network tap = {.kind = KELPIE_NETWORK_TAP, .tap = "kelpie-none"};
        const struct kelpie_config missing = config_of(&tap);
        OK(kelpie_vm_create(&missing, &vm, &err));
        FAILS(kelpie_vm_start(vm, &err), KELPIE_NOT_FOUND);
        assert_string_equal(err.field, "network.tap");
        assert_int_equal(kelpie_vm_state(vm), KELPIE_STATE_CREATED);
        kelpie_vm_destroy(vm);
        vm = NULL;
    }
    if (suite()->capabilities & KELPIE_CAN_NETWORK) {
        return;
    }
    FAILS(kelpie_vm_create(&config, &vm, &err), KELPIE_UNSUPPORTED);
    assert_string_equal(err.field, "network");
    assert_null(vm);
}

/* Both ways: to a server of the host's loopback, and to one of the guest by a forwarded port. */
static void test_connections_reach_the_host_and_the_guest(void **state) {
    (void)state;
    need(KELPIE_CAN_NETWORK, "network: it has none");
    struct kelpie_error err = {0};
    struct server server;
    server_start(&server);
    const struct kelpie_forward forward = {.host_port = free_port(), .guest_port = GUEST_PORT};
    const struct kelpie_network network = {.kind = KELPIE_NETWORK_USER,
                                           .host_loopback = true,
                                           .forwards = &forward,
                                           .forward_count = 1};
    struct kelpie_vm *vm = start_network_vm(&network);
    expect_shell(vm, "cat " MAC_FILE, 0, NULL);
    expect_greeting(vm, &server, GREETING);
    struct kelpie_exec *exec = NULL;
    OK(kelpie_exec_start(vm,
                         &(struct kelpie_command){.argv = SHELL("while true; do printf '" ANSWER
                                                                "' | nc -l -p 80; done")},
                         &exec, &err));
    char text[64] = "";
    for (int i = 0; i < TRY_COUNT_MAX && strcmp(text, ANSWER) != 0; i++) {
        ask(forward.host_port, text, sizeof(text));
        struct timespec pause = {.tv_nsec = 500000000};
        nanosleep(&pause, NULL);
    }
    assert_string_equal(text, ANSWER);
    kelpie_exec_close(exec);
    OK(kelpie_vm_stop(vm, 0, &err));
    kelpie_vm_destroy(vm);
    server_stop(&server);
}

/* What listens for programs of this host alone is not the guest's, unless it was asked for. */
static void test_the_hosts_loopback_is_closed_to_the_guest(void **state) {
    (void)state;
    need(KELPIE_CAN_NETWORK, "network: it has none");
    struct server server;
    server_start(&server);
    struct kelpie_vm *vm = start_network_vm(&(struct kelpie_network){.kind = KELPIE_NETWORK_USER});
    expect_greeting(vm, &server, "");
    kelpie_vm_destroy(vm);
    server_stop(&server);
}

static void test_a_port_that_is_taken_is_told(void **state) {
    (void)state;
    need(KELPIE_CAN_NETWORK, "network: it has none");
    struct kelpie_error err = {0};
    struct kelpie_vm *vm = NULL;
    struct server server;
    server_start(&server);
    const struct kelpie_forward forwards[] = {
        {.host_port = free_port(), .guest_port = GUEST_PORT},
        {.host_port = server.port, .guest_port = GUEST_PORT},
    };
    const struct kelpie_network network = {
        .kind = KELPIE_NETWORK_USER, .forwards = forwards, .forward_count = 2};
    const struct kelpie_config config = config_of(&network);
    OK(kelpie_vm_create(&config, &vm, &err));
    enum kelpie_status status = kelpie_vm_start(vm, &err);
    kelpie_vm_destroy(vm);
    server_stop(&server);
    need_passt(status, &err);
    assert_int_equal(status, KELPIE_BOOT_FAILED);
    assert_string_equal(err.field, "network");
    char port[16];
    snprintf(port, sizeof(port), "/%u:", server.port);
    assert_non_null(strstr(err.message, port)); /* passt's last words say which */
}

static void read_mac(struct kelpie_vm *vm, char ret_mac[18]) {
    struct kelpie_error err = {0};
    struct kelpie_output output = {0};
    OK(kelpie_vm_exec(vm, &(struct kelpie_command){.argv = ARGV("cat", MAC_FILE)}, &output, &err));
    assert_int_equal(output.stdout_size, 18);
    snprintf(ret_mac, 18, "%s", output.stdout_data);
    kelpie_output_free(&output);
    assert_string_equal(ret_mac, kelpie_vm_config(vm)->network->mac);
}

/* Twins from one bundle run side by side: each with a MAC of its own, and both with a network that works. */
static void hazard_c5_restored_machines_have_their_own_mac(void **state) {
    (void)state;
    need(KELPIE_CAN_NETWORK, "network: it has none");
    need(KELPIE_CAN_SUSPEND_SNAPSHOT, "restore: it cannot");
    struct kelpie_error err = {0};
    struct kelpie_snapshot snapshot = {0};
    struct server server;
    char macs[3][18];
    const struct kelpie_network network = {.kind = KELPIE_NETWORK_USER, .host_loopback = true};
    const char *path = host_path("bundle");
    server_start(&server);
    struct kelpie_vm *vm = start_network_vm(&network);
    read_mac(vm, macs[0]);
    expect_greeting(vm, &server, GREETING);
    OK(kelpie_vm_snapshot(vm, path, NULL, &snapshot, &err));
    expect_greeting(vm, &server, GREETING); /* the first goes on */
    kelpie_vm_destroy(vm);
    struct kelpie_vm *a = restore_network_vm(path, &network);
    struct kelpie_vm *b = restore_network_vm(path, NULL);
    read_mac(a, macs[1]);
    read_mac(b, macs[2]);
    assert_string_not_equal(macs[0], macs[1]);
    assert_string_not_equal(macs[0], macs[2]);
    assert_string_not_equal(macs[1], macs[2]);
    expect_greeting(a, &server, GREETING);
    expect_shell(b, "ip route | grep -c '^default via " GATEWAY " dev eth0'", 0, "1\n");
    kelpie_vm_destroy(a);
    kelpie_vm_destroy(b);
    server_stop(&server);
    bundle_remove(path);
}

/* What a server at the host's end of the tap says to the guest, which gives itself an address of the tap's network. */
static void expect_through(struct kelpie_vm *vm, unsigned network, unsigned number) {
    char script[512];
    snprintf(script, sizeof(script),
             "ip address flush dev eth0; ip address add 10.9.%u.%u/24 dev eth0; "
             "ip link set eth0 up; mkfifo /tmp/silence 2>/dev/null; "
             "timeout 20 nc -w 15 10.9.%u.1 " TAP_PORT " <>/tmp/silence",
             network, number, network);
    expect_shell(vm, script, 0, GREETING);
}

/* A machine that was saved on one tap goes on, and works, on another, with a MAC of its own. */
static void test_a_restored_machine_takes_another_tap(void **state) {
    (void)state;
    need(KELPIE_CAN_NETWORK_TAP, "taps: it has none, or those of all networks");
    if (!getenv("KELPIE_CONFORMANCE_TAPS")) {
        skip_aloud("KELPIE_CONFORMANCE_TAPS is not set: there are no taps");
    }
    struct kelpie_error err = {0};
    struct kelpie_snapshot snapshot = {0};
    char macs[2][18];
    const char *path = host_path("bundle");
    const struct kelpie_network first = {
        .kind = KELPIE_NETWORK_TAP, .tap = "tap7", .mac = "02:00:00:00:00:07"};
    const struct kelpie_network second = {.kind = KELPIE_NETWORK_TAP, .tap = "tap8"};
    struct kelpie_vm *vm = start_network_vm(&first);
    read_mac(vm, macs[0]);
    assert_string_equal(macs[0], first.mac);
    expect_through(vm, 7, 2);
    OK(kelpie_vm_snapshot(vm, path, NULL, &snapshot, &err));
    expect_through(vm, 7, 2);
    kelpie_vm_destroy(vm);
    vm = restore_network_vm(path, &second);
    read_mac(vm, macs[1]);
    assert_string_not_equal(macs[0], macs[1]);
    expect_through(vm, 8, 3);
    kelpie_vm_destroy(vm);
    bundle_remove(path);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_a_network_that_there_is_not_is_refused),
    cmocka_unit_test(test_connections_reach_the_host_and_the_guest),
    cmocka_unit_test(test_the_hosts_loopback_is_closed_to_the_guest),
    cmocka_unit_test(test_a_port_that_is_taken_is_told),
    cmocka_unit_test(hazard_c5_restored_machines_have_their_own_mac),
    cmocka_unit_test(test_a_restored_machine_takes_another_tap),
};

const struct group group_network = {"network", tests, sizeof(tests) / sizeof(tests[0]), 0};
