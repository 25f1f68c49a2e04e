/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The scripted QEMU by itself: its command line, and what it says on its control channel. */
#include "sim/peer/qemu.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/qemu/qemu_command.h"
#include "backend/qemu/qmp.h"
#include "base/assert.h"
#include "sim/world.h"

#define SEED_COUNT 16
#define ANSWER_MS 60000
#define LINE_SIZE_MAX 65536

/* What a QEMU had allocated is nobody's when it is killed; what its owner allocates is given back. Asked by the leak
 * sanitizer. */
__attribute__((visibility("default"))) const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) {
    return "leak:program_main\n";
}

/* ---- The command line ------------------------------------------------------------------------- */

/* As the backend has it: what it can say must be understood. */
static struct qemu_description describe(void) {
    return (struct qemu_description){
        .binary = "/opt/bin/qemu-system-x86_64",
        .machine = QEMU_MACHINE_MICROVM,
        .accelerator = QEMU_ACCELERATOR_TCG,
        .vcpu_count = 3,
        .memory_mib = 192,
        .kernel = SIM_KERNEL_PATH,
        .initramfs = "/bin/busybox",
        .tsc_khz = 2445345,
        .qmp_fd = 5,
        .channel_fd = 3,
        .console_fd = 4,
        .memory_fd = 6,
    };
}

static bool parse(const struct qemu_command *command, struct sim_qemu_options *options,
                  char *error) {
    return sim_qemu_options_parse(command->argc, command->argv, options, error);
}

static void expect_parsed(const struct qemu_description *description) {
    struct qemu_command *command = calloc(1, sizeof(*command));
    struct sim_qemu_options options;
    char error[SIM_QEMU_ERROR_SIZE];
    assert_non_null(command);
    assert_int_equal(qemu_command_build(command, description, NULL), KELPIE_OK);
    if (!parse(command, &options, error)) {
        fail_msg("refused: %s", error);
    }
    assert_string_equal(sim_qemu_machine_name(options.machine),
                        qemu_machine_name(description->machine));
    assert_int_equal(options.accelerated, description->accelerator == QEMU_ACCELERATOR_KVM);
    assert_int_equal(options.vcpu_count, description->vcpu_count);
    assert_int_equal(options.memory_size, (uint64_t)description->memory_mib << 20);
    assert_int_equal(options.memory_fd, description->memory_fd);
    assert_int_equal(options.memory_shared, !description->memory_private);
    assert_int_equal(options.qmp_fd, description->qmp_fd);
    assert_int_equal(options.channel_fd, description->channel_fd);
    assert_int_equal(options.console_fd, description->console_fd);
    assert_int_equal(options.incoming, description->incoming);
    assert_int_equal(options.has_network, description->network_fd != 0);
    assert_int_equal(options.disk_count, description->disk_count);
    for (size_t i = 0; i < options.disk_count; i++) {
        assert_int_equal(options.disks[i].fd, description->disks[i].fd);
        assert_int_equal(options.disks[i].read_only, description->disks[i].read_only);
        assert_true(options.disks[i].in_use);
    }
    assert_string_equal(options.kernel, description->kernel);
    assert_string_equal(options.initramfs, description->initramfs);
    assert_non_null(strstr(options.append, "console=ttyS0"));
    assert_true(options.stopped && options.no_reboot);
    free(command);
}

static void test_what_the_backend_says_is_understood(void **state) {
    (void)state;
    for (unsigned bits = 0; bits < 64; bits++) {
        struct qemu_description description = describe();
        description.machine = bits & 1 ? QEMU_MACHINE_Q35 : QEMU_MACHINE_MICROVM;
        description.accelerator = bits & 2 ? QEMU_ACCELERATOR_KVM : QEMU_ACCELERATOR_TCG;
        description.memory_private = bits & 4;
        description.incoming = bits & 8;
        description.network_fd = bits & 16 ? 7 : 0;
        description.network_is_tap = bits & 4;
        snprintf(description.mac, sizeof(description.mac), "02:00:00:00:00:01");
        description.disk_count = bits & 32 ? KELPIE_DISK_COUNT_MAX : 0;
        for (size_t i = 0; i < description.disk_count; i++) {
            description.disks[i] =
                (struct qemu_command_disk){.fd = 8 + (int)i, .read_only = i % 2 == 1};
        }
        expect_parsed(&description);
    }
}

static const struct {
    const char *option;
    const char *value;
    const char *words;
} refused[] = {
    {"-machine", "pc,memory-backend=ram", "unsupported machine type"},
    {"-machine", "microvm,vmport=off,memory-backend=ram",
     "Property 'microvm-machine.vmport' not found"},
    {"-machine", "microvm", "Memory backend '' not found"},
    {"-machine", "microvm,acpi=maybe,memory-backend=ram", "expects 'on' or 'off'"},
    {"-machine", "microvm,memory-backend=rom", "Memory backend 'rom' not found"},
    {"-machine", "q35,memory-backend=ram", "'virtio-serial-device' is not a valid device"},
    {"-accel", "hvf", "invalid accelerator hvf"},
    {"-cpu", "host", "CPU model 'host' requires KVM or HVF"},
    {"-cpu", "z80", "unable to find CPU model 'z80'"},
    {"-smp", "0", "Invalid SMP CPUs 0"},
    {"-smp", "x", "Parameter 'smp.cpus' expects integer"},
    {"-smp", "289", "Invalid SMP CPUs 289"},
    {"-m", "192", "Parameter 'size'"},
    {"-m", "64M", "does not match the size of the memory backend"},
    {"-object", "memory-backend-file,id=ram,size=192M,share=on", "Parameter 'mem-path' is missing"},
    {"-object", "memory-backend-file,id=ram,mem-path=/tmp/x,size=192M,share=on",
     "can't open backing store /tmp/x"},
    {"-chardev", "socket,id=qmp,path=/tmp/x", "Invalid parameter 'path'"},
    {"-chardev", "socket,id=qmp,fd=x", "File descriptor 'x' is not a socket"},
    {"-mon", "chardev=other,mode=control", "chardev \"other\" not found"},
    {"-serial", "stdio", "could not connect serial device"},
    {"-serial", "chardev:qmp", "Device 'qmp' is in use"},
    {"-device", "virtio-serial-pci", "'virtio-serial-pci' is not a valid device model name"},
    {"-netdev", "user,id=net", "expects a netdev backend type"},
    {"-add-fd", "set=1", "Parameter 'fd' is missing"},
    {"-blockdev", "driver=qcow2,node-name=disk0,file.driver=file,file.filename=/dev/fdset/1",
     "Unknown driver"},
    {"-blockdev", "driver=raw,node-name=disk0,file.driver=file,file.filename=/dev/fdset/9",
     "Could not open '/dev/fdset/9'"},
    {"-blockdev", "driver=raw,node-name=other,file.driver=file,file.filename=/dev/fdset/1",
     "Property 'virtio-blk-device.drive' can't find value 'disk0'"},
    {"-sandbox", "on,everything=deny", "Invalid parameter 'everything'"},
    {"-display", "gtk", "does not accept value 'gtk'"},
    {"-incoming", "tcp:0:4444", "unknown migration protocol: tcp:0:4444"},
};

/* One argument is another: QEMU would not start, and neither does this one. */
static void test_what_qemu_refuses_is_refused(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(refused); i++) {
        struct qemu_description description = describe();
        description.incoming = true;
        description.network_fd = 7;
        snprintf(description.mac, sizeof(description.mac), "02:00:00:00:00:01");
        description.disk_count = 1;
        description.disks[0].fd = 8;
        struct qemu_command *command = calloc(1, sizeof(*command));
        struct sim_qemu_options options;
        char error[SIM_QEMU_ERROR_SIZE];
        assert_non_null(command);
        assert_int_equal(qemu_command_build(command, &description, NULL), KELPIE_OK);
        size_t at = 1;
        while (at < command->argc && strcmp(command->argv[at], refused[i].option) != 0) {
            at++;
        }
        assert_true(at + 1 < command->argc);
        command->argv[at + 1] = refused[i].value;
        if (parse(command, &options, error) || !strstr(error, refused[i].words)) {
            fail_msg("%s %s: %s", refused[i].option, refused[i].value, error);
        }
        assert_memory_equal(error, "qemu-system-x86_64: ", 20);
        free(command);
    }
    const char *const unknown[] = {"qemu", "-hda", "x"};
    const char *const cut[] = {"qemu", "-machine"};
    struct sim_qemu_options options;
    char error[SIM_QEMU_ERROR_SIZE];
    assert_false(sim_qemu_options_parse(ARRAY_SIZE(unknown), unknown, &options, error));
    assert_non_null(strstr(error, "-hda: invalid option"));
    assert_false(sim_qemu_options_parse(ARRAY_SIZE(cut), cut, &options, error));
    assert_non_null(strstr(error, "-machine: requires an argument"));
}

/* ---- A client, by hand ------------------------------------------------------------------------ */

struct client {
    struct sim_world *world;
    struct sim_machine *machine;
    struct sim_process *process;
    struct host *host;
    void (*body)(struct client *client);
    struct host_process *qemu;
    int qmp;
    int channel;
    int console;
    int words;
    int memory;
    char line[LINE_SIZE_MAX]; /* what came and was not looked at */
    size_t size;
    char events[4096]; /* the names of those that came, each with a space */
    json_int_t id;
};

static void ok(enum kelpie_status status) {
    assert_int_equal(status, KELPIE_OK);
}

static int client_main(void *argument) {
    struct client *client = argument;
    client->host = &client->process->host;
    client->body(client);
    return 0;
}

static void client_run(uint64_t seed, void (*body)(struct client *client)) {
    struct client *client = calloc(1, sizeof(*client));
    const struct sim_options options = {.seed = seed, .event_count_max = 1000000};
    const struct sim_process_options process = {
        .name = "client", .main = client_main, .argument = client};
    assert_non_null(client);
    client->world = sim_world_create(&options);
    assert_non_null(client->world);
    client->machine = sim_machine_create(client->world, "host");
    assert_non_null(client->machine);
    assert_true(sim_machine_furnish(client->machine));
    client->body = body;
    client->process = sim_process_start(client->machine, &process);
    assert_non_null(client->process);
    assert_int_equal(sim_world_run(client->world), SIM_END_QUIET);
    assert_string_equal(client->world->failure, "");
    sim_process_forget(client->process);
    sim_world_destroy(client->world);
    free(client);
}

/* Starts a machine over client->memory. */
static void start(struct client *client, const struct qemu_description *description) {
    struct qemu_command *command = calloc(1, sizeof(*command));
    int *ours[] = {&client->words, &client->channel, &client->console, &client->qmp};
    struct host_process_fd fds[ARRAY_SIZE(ours) + 1];
    assert_non_null(command);
    ok(qemu_command_build(command, description, NULL));
    for (size_t i = 0; i < ARRAY_SIZE(ours); i++) {
        int pair[2];
        ok(host_socket_pair(client->host, pair, NULL));
        *ours[i] = pair[0];
        fds[i] = (struct host_process_fd){.child_fd = 2 + (int)i, .fd = pair[1]};
    }
    fds[ARRAY_SIZE(ours)] = (struct host_process_fd){.child_fd = 6, .fd = client->memory};
    const struct host_process_spec spec = {
        .argv = command->argv, .fds = fds, .fd_count = ARRAY_SIZE(fds), .dies_with_owner = true};
    ok(host_process_spawn(client->host, &spec, &client->qemu, NULL));
    for (size_t i = 0; i < ARRAY_SIZE(ours); i++) {
        host_close(client->host, fds[i].fd);
    }
    free(command);
    client->size = 0;
    client->id = 0;
    client->events[0] = 0;
}

/* It has ended with this code; its words on stderr have these in them. */
static void expect_exit(struct client *client, int code, const char *words) {
    const struct host_wait wait = host_wait_ms(client->host, ANSWER_MS, HOST_FD_NONE);
    struct host_process_exit end = {0};
    char text[8192] = "";
    size_t size = 0;
    size_t count = 0;
    ok(host_process_wait(client->qemu, &wait, &end, NULL));
    assert_int_equal(end.code, code);
    assert_int_equal(end.signal, 0);
    do {
        ok(host_read(client->host, client->words, text + size, sizeof(text) - 1 - size, &wait,
                     &count, NULL));
        size += count;
    } while (count > 0);
    if (words && !strstr(text, words)) {
        fail_msg("its words: %s", text);
    }
}

static void end(struct client *client) {
    const int fds[] = {client->words, client->channel, client->console, client->qmp};
    host_process_destroy(client->qemu);
    for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
        host_close(client->host, fds[i]);
    }
}

/* One message; for json_decref(). */
static json_t *next_message(struct client *client) {
    const struct host_wait wait = host_wait_ms(client->host, ANSWER_MS, HOST_FD_NONE);
    for (;;) {
        char *newline = memchr(client->line, '\n', client->size);
        if (newline) {
            size_t size = (size_t)(newline - client->line) + 1;
            assert_true(size > 2 && newline[-1] == '\r');
            json_t *message = json_loadb(client->line, size, 0, NULL);
            assert_non_null(message);
            client->size -= size;
            memmove(client->line, client->line + size, client->size);
            return message;
        }
        size_t count = 0;
        ok(host_read(client->host, client->qmp, client->line + client->size,
                     sizeof(client->line) - client->size, &wait, &count, NULL));
        assert_true(count > 0);
        client->size += count;
    }
}

/* The next message that is no event; those that are, are noted. */
static json_t *next_answer(struct client *client) {
    for (;;) {
        json_t *message = next_message(client);
        const char *event = json_string_value(json_object_get(message, "event"));
        if (!event) {
            return message;
        }
        json_t *when = json_object_get(message, "timestamp");
        assert_true(json_integer_value(json_object_get(when, "seconds")) > 0);
        assert_true(json_is_integer(json_object_get(when, "microseconds")));
        const char *reason =
            json_string_value(json_object_get(json_object_get(message, "data"), "reason"));
        size_t size = strlen(client->events);
        snprintf(client->events + size, sizeof(client->events) - size, "%s%s%s ", event,
                 reason ? ":" : "", reason ? reason : "");
        json_decref(message);
    }
}

/* Sends bytes, with a descriptor; the answer. */
static json_t *ask(struct client *client, const char *text, int fd) {
    const struct host_wait wait = host_wait_ms(client->host, ANSWER_MS, HOST_FD_NONE);
    if (fd == HOST_FD_NONE) {
        ok(host_write_all(client->host, client->qmp, text, strlen(text), &wait, NULL));
    } else {
        ok(host_socket_send_fd(client->host, client->qmp, text, strlen(text), fd, NULL));
    }
    return next_answer(client);
}

/* Executes, with the arguments that follow the name in JSON (""; ", \"arguments\": …"). */
static json_t *execute(struct client *client, const char *name, const char *more, int fd) {
    char text[512];
    snprintf(text, sizeof(text), "{\"execute\": \"%s\"%s, \"id\": %lld}\n", name, more,
             (long long)++client->id);
    json_t *answer = ask(client, text, fd);
    assert_int_equal(json_integer_value(json_object_get(answer, "id")), client->id);
    return answer;
}

static void expect_done(struct client *client, const char *name, const char *more) {
    json_t *answer = execute(client, name, more, HOST_FD_NONE);
    if (!json_is_object(json_object_get(answer, "return"))) {
        fail_msg("%s: %s", name,
                 json_string_value(json_object_get(json_object_get(answer, "error"), "desc")));
    }
    json_decref(answer);
}

static void expect_error_in(json_t *answer, const char *class, const char *desc) {
    json_t *error = json_object_get(answer, "error");
    assert_non_null(error);
    assert_string_equal(json_string_value(json_object_get(error, "class")), class);
    assert_string_equal(json_string_value(json_object_get(error, "desc")), desc);
    json_decref(answer);
}

static void expect_error(struct client *client, const char *name, const char *more,
                         const char *desc) {
    expect_error_in(execute(client, name, more, HOST_FD_NONE), "GenericError", desc);
}

static void expect_status(struct client *client, const char *status) {
    json_t *answer = execute(client, "query-status", "", HOST_FD_NONE);
    assert_string_equal(
        json_string_value(json_object_get(json_object_get(answer, "return"), "status")), status);
    json_decref(answer);
}

static void nap(struct client *client, uint64_t ms) {
    const struct host_wait wait = host_wait_ms(client->host, ms, HOST_FD_NONE);
    ok(host_sleep(client->host, &wait, NULL));
}

/* Waits for what becomes of a migration. */
static void expect_migration(struct client *client, const char *status) {
    for (size_t i = 0; i < 1000; i++) {
        json_t *answer = execute(client, "query-migrate", "", HOST_FD_NONE);
        char now[32] = "";
        const char *text =
            json_string_value(json_object_get(json_object_get(answer, "return"), "status"));
        snprintf(now, sizeof(now), "%s", text ? text : "none");
        json_decref(answer);
        if (strcmp(now, "active") != 0) {
            assert_string_equal(now, status);
            return;
        }
        nap(client, 1);
    }
    fail_msg("it never ends");
}

static void greet(struct client *client) {
    json_t *greeting = next_message(client);
    json_t *version = json_object_get(json_object_get(greeting, "QMP"), "version");
    assert_int_equal(json_integer_value(json_object_get(json_object_get(version, "qemu"), "major")),
                     7);
    json_decref(greeting);
    expect_done(client, "qmp_capabilities", "");
}

static void boot(struct client *client) {
    const struct qemu_description description = describe();
    ok(host_memory_file(client->host, "memory", (uint64_t)description.memory_mib << 20,
                        &client->memory, NULL));
    start(client, &description);
}

/* ---- What it says ----------------------------------------------------------------------------- */

static void body_protocol(struct client *client) {
    boot(client);
    json_decref(next_message(client));
    expect_error_in(execute(client, "stop", "", HOST_FD_NONE), "CommandNotFound",
                    "Expecting capabilities negotiation with 'qmp_capabilities'");
    expect_done(client, "qmp_capabilities", "");
    expect_error_in(execute(client, "qmp_capabilities", "", HOST_FD_NONE), "CommandNotFound",
                    "Capabilities negotiation is already complete, command ignored");
    expect_error_in(execute(client, "nonsuch", "", HOST_FD_NONE), "CommandNotFound",
                    "The command nonsuch has not been found");
    expect_error(client, "stop", ", \"arguments\": {\"a\": 1}", "Parameter 'a' is unexpected");
    expect_error(client, "stop", ", \"arguments\": 5",
                 "QMP input member 'arguments' must be an object");
    expect_error(client, "stop", ", \"more\": 5", "QMP input member 'more' is unexpected");
    expect_error(client, "getfd", "", "Parameter 'fdname' is missing");
    expect_error(client, "getfd", ", \"arguments\": {\"fdname\": 5}",
                 "Invalid parameter type for 'fdname', expected: string");
    expect_error(client, "getfd", ", \"arguments\": {\"fdname\": \"s\"}",
                 "No file descriptor supplied via SCM_RIGHTS");
    expect_error_in(ask(client, "[1]\n", HOST_FD_NONE), "GenericError",
                    "QMP input must be a JSON object");
    expect_error_in(ask(client, "{\"id\": 5}\n", HOST_FD_NONE), "GenericError",
                    "QMP input lacks member 'execute'");
    expect_error_in(ask(client, "{\"execute\": 5}\n", HOST_FD_NONE), "GenericError",
                    "QMP input member 'execute' must be a string");
    json_t *answer = ask(client, "{\"execute\n", HOST_FD_NONE);
    assert_non_null(
        strstr(json_string_value(json_object_get(json_object_get(answer, "error"), "desc")),
               "JSON parse error"));
    json_decref(answer);
    expect_done(client, "system_powerdown", "");
    assert_non_null(strstr(client->events, "POWERDOWN "));
    expect_done(client, "quit", "");
    assert_non_null(strstr(client->events, "SHUTDOWN:host-qmp-quit "));
    expect_exit(client, 0, NULL);
    end(client);
    host_close(client->host, client->memory);
}

static void test_it_answers_as_qemu_does(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= SEED_COUNT; seed++) {
        client_run(seed, body_protocol);
    }
}

/* ---- Running, standing, moving ---------------------------------------------------------------- */

static void give_state_file(struct client *client, int fd) {
    json_t *answer = execute(client, "getfd", ", \"arguments\": {\"fdname\": \"state\"}", fd);
    assert_non_null(json_object_get(answer, "return"));
    json_decref(answer);
}

static void ignore_shared(struct client *client, bool on) {
    char more[160];
    snprintf(more, sizeof(more),
             ", \"arguments\": {\"capabilities\": [{\"capability\": \"x-ignore-shared\", "
             "\"state\": %s}]}",
             on ? "true" : "false");
    expect_done(client, "migrate-set-capabilities", more);
}

static uint64_t size_of(struct client *client, int fd) {
    struct host_file_info info = {0};
    ok(host_file_stat(client->host, fd, &info, NULL));
    return info.size;
}

#define URI ", \"arguments\": {\"uri\": \"fd:state\"}"

static void migrate(struct client *client, int fd) {
    give_state_file(client, fd);
    expect_done(client, "migrate", URI);
    expect_migration(client, "completed");
}

static void body_states(struct client *client) {
    int state = HOST_FD_NONE;
    boot(client);
    greet(client);
    ok(host_memory_file(client->host, "state", 0, &state, NULL));
    expect_status(client, "prelaunch");
    expect_migration(client, "none");
    expect_error(client, "migrate", URI, "File descriptor named 'state' has not been found");
    expect_migration(client, "failed");
    expect_error(client, "migrate", ", \"arguments\": {\"uri\": \"tcp:0:1\"}",
                 "Parameter 'uri' expects a valid migration protocol");
    expect_error(client, "migrate-incoming", URI,
                 "'-incoming' was not specified on the command line");
    expect_done(client, "cont", "");
    expect_done(client, "cont", "");
    expect_status(client, "running");
    expect_done(client, "stop", "");
    expect_done(client, "stop", "");
    expect_status(client, "paused");
    ignore_shared(client, true);
    migrate(client, state);
    expect_status(client, "postmigrate");
    assert_int_equal(size_of(client, state), 64); /* without memory */
    give_state_file(client, state);
    expect_error(client, "migrate", URI,
                 "Can't migrate the vm that was paused due to previous migration");
    expect_done(client, "stop", ""); /* which is no way out */
    expect_status(client, "postmigrate");
    expect_done(client, "cont", "");
    migrate(client, state); /* while it runs: it stops by itself */
    expect_status(client, "postmigrate");
    expect_done(client, "cont", "");
    expect_done(client, "stop", "");
    give_state_file(client, state);
    expect_done(client, "migrate", URI);
    expect_done(client, "migrate_cancel", "");
    expect_migration(client, "cancelled");
    expect_status(client, "paused");
    ignore_shared(client, false);
    migrate(client, state);
    assert_true(size_of(client, state) > 64); /* with memory */
    size_t stops = 0;
    size_t resumes = 0;
    for (const char *at = client->events; (at = strstr(at, "STOP ")) != NULL; at++) {
        stops++;
    }
    for (const char *at = client->events; (at = strstr(at, "RESUME ")) != NULL; at++) {
        resumes++;
    }
    assert_int_equal(stops, 3);
    assert_int_equal(resumes, 3);
    end(client);
    host_close(client->host, state);
    host_close(client->host, client->memory);
}

static void test_states_follow_each_other_as_in_qemu(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= SEED_COUNT; seed++) {
        client_run(seed, body_states);
    }
}

/* ---- Loading ---------------------------------------------------------------------------------- */

/* How a load differs from its save. */
enum difference {
    SAME = 0,
    OTHER_CAPABILITY,
    OTHER_MACHINE,
    OTHER_MEMORY,
    OTHER_CPUS,
    NO_FILE_CONTENT,
    CUT,
    DAMAGED,
    MEMORY_DAMAGED,
    MEMORY_OF_A_RUNNING_ONE,
    DIFFERENCE_COUNT
};
static const char *const difference_words[] = {
    [SAME] = NULL,
    [OTHER_CAPABILITY] = "Capability x-ignore-shared is off, but received capability is on",
    [OTHER_MACHINE] = "Machine type received is 'microvm' and local is 'q35'",
    [OTHER_MEMORY] = "Size mismatch: ram: 0xc000000 != 0xc800000",
    [OTHER_CPUS] = "Size mismatch: cpu: 0x3 != 0x4",
    [NO_FILE_CONTENT] = "load of migration failed",
    [CUT] = "load of migration failed",
    [DAMAGED] = "Not a migration stream",
    [MEMORY_DAMAGED] = "error while loading state",
    [MEMORY_OF_A_RUNNING_ONE] = "error while loading state",
};

/* Saves a machine into *ret_state and client->memory. */
static void save(struct client *client, enum difference difference, int *ret_state) {
    boot(client);
    greet(client);
    ok(host_memory_file(client->host, "state", 0, ret_state, NULL));
    expect_done(client, "cont", "");
    nap(client, 700); /* it boots */
    expect_done(client, "stop", "");
    ignore_shared(client, true);
    migrate(client, *ret_state);
    if (difference == MEMORY_OF_A_RUNNING_ONE) {
        expect_done(client, "cont", "");
    }
    end(client);
    uint8_t byte = 0;
    size_t count = 0;
    int fd = difference == MEMORY_DAMAGED ? client->memory : *ret_state;
    uint64_t offset = difference == MEMORY_DAMAGED ? SIM_QEMU_PAGE_SIZE + 100 : 12;
    if (difference == DAMAGED || difference == MEMORY_DAMAGED) {
        ok(host_file_read_at(client->host, fd, &byte, 1, offset, &count, NULL));
        byte ^= 1;
        ok(host_file_write_at(client->host, fd, &byte, 1, offset, NULL));
    } else if (difference == CUT || difference == NO_FILE_CONTENT) {
        ok(host_file_truncate(client->host, fd, difference == CUT ? 63 : 0, NULL));
    }
}

static void load(struct client *client, enum difference difference) {
    int state = HOST_FD_NONE;
    save(client, difference, &state);
    struct qemu_description description = describe();
    description.incoming = true;
    description.memory_private = true;
    description.machine = difference == OTHER_MACHINE ? QEMU_MACHINE_Q35 : QEMU_MACHINE_MICROVM;
    description.memory_mib += difference == OTHER_MEMORY ? 8 : 0;
    description.vcpu_count += difference == OTHER_CPUS;
    ok(host_file_truncate(client->host, client->memory, (uint64_t)description.memory_mib << 20,
                          NULL));
    start(client, &description);
    greet(client);
    expect_status(client, "inmigrate");
    expect_migration(client, "none");
    expect_error(client, "migrate", URI, "Guest is waiting for an incoming migration");
    ignore_shared(client, difference != OTHER_CAPABILITY);
    give_state_file(client, state);
    expect_done(client, "migrate-incoming", URI);
    assert_non_null(strstr(client->events, "MIGRATION "));
    if (difference == SAME) {
        expect_error(client, "migrate-incoming", URI,
                     "The incoming migration has already been started");
        expect_migration(client, "completed");
        expect_status(client, "paused");
        expect_done(client, "cont", "");
        expect_status(client, "running");
    } else {
        expect_exit(client, 1, difference_words[difference]);
    }
    end(client);
    host_close(client->host, state);
    host_close(client->host, client->memory);
}

#define LOAD_BODY(name, difference)                                                                \
    static void name(struct client *client) {                                                      \
        load(client, difference);                                                                  \
    }
LOAD_BODY(body_same, SAME)
LOAD_BODY(body_capability, OTHER_CAPABILITY)
LOAD_BODY(body_machine, OTHER_MACHINE)
LOAD_BODY(body_memory, OTHER_MEMORY)
LOAD_BODY(body_cpus, OTHER_CPUS)
LOAD_BODY(body_empty, NO_FILE_CONTENT)
LOAD_BODY(body_cut, CUT)
LOAD_BODY(body_damaged, DAMAGED)
LOAD_BODY(body_memory_damaged, MEMORY_DAMAGED)
LOAD_BODY(body_running, MEMORY_OF_A_RUNNING_ONE)

static void test_only_the_same_machine_takes_a_state(void **state) {
    static void (*const bodies[])(struct client *) = {
        [SAME] = body_same,
        [OTHER_CAPABILITY] = body_capability,
        [OTHER_MACHINE] = body_machine,
        [OTHER_MEMORY] = body_memory,
        [OTHER_CPUS] = body_cpus,
        [NO_FILE_CONTENT] = body_empty,
        [CUT] = body_cut,
        [DAMAGED] = body_damaged,
        [MEMORY_DAMAGED] = body_memory_damaged,
        [MEMORY_OF_A_RUNNING_ONE] = body_running,
    };
    (void)state;
    static_assert(ARRAY_SIZE(bodies) == DIFFERENCE_COUNT, "each difference is tried");
    for (uint64_t seed = 1; seed <= 4; seed++) {
        for (size_t i = 0; i < DIFFERENCE_COUNT; i++) {
            client_run(seed, bodies[i]);
        }
    }
}

/* An owner that reads nothing does not keep it from anything: it is still there for the next command. */
static void body_deaf_owner(struct client *client) {
    boot(client);
    greet(client);
    client->world->faults.ppm[SIM_FAULT_PEER_CHATTERS] = SIM_PPM;
    const struct host_wait wait = host_wait_ms(client->host, ANSWER_MS, HOST_FD_NONE);
    for (size_t i = 0; i < 20; i++) {
        static const char command[] = "{\"execute\": \"query-status\", \"id\": 77}\n";
        ok(host_write_all(client->host, client->qmp, command, sizeof(command) - 1, &wait, NULL));
    }
    nap(client, 30000);
    client->world->faults.ppm[SIM_FAULT_PEER_CHATTERS] = 0;
    client->id = 76;
    for (size_t i = 0; i < 20; i++) {
        json_t *answer = next_answer(client);
        assert_int_equal(json_integer_value(json_object_get(answer, "id")), 77);
        json_decref(answer);
        client->events[0] = 0;
    }
    expect_status(client, "prelaunch");
    end(client);
    host_close(client->host, client->memory);
}

static void test_a_deaf_owner_holds_up_nothing(void **state) {
    (void)state;
    client_run(1, body_deaf_owner);
}

/* ---- The backend's own client, in a world ----------------------------------------------------- */

struct watcher {
    struct host *host;
    struct qmp *qmp;
    int stop;
};

/* As the I/O thread does: reads what comes, whoever waits for it. */
static void watch(void *argument) {
    struct watcher *watcher = argument;
    for (;;) {
        struct host_poll_item items[] = {
            {.fd = watcher->stop, .asked = HOST_POLL_READ},
            {.fd = qmp_fd(watcher->qmp), .asked = HOST_POLL_READ},
        };
        const struct host_wait wait = host_wait_ms(watcher->host, ANSWER_MS, HOST_FD_NONE);
        ok(host_poll(watcher->host, items, ARRAY_SIZE(items), &wait, NULL));
        if (items[0].ready) {
            return;
        }
        qmp_service(watcher->qmp);
    }
}

static void say_garbage(void *argument) {
    struct client *client = argument;
    static const char garbage[] = "no answer\n";
    const struct host_wait wait = host_wait_ms(client->host, ANSWER_MS, HOST_FD_NONE);
    nap(client, 100);
    ok(host_write_all(client->host, client->qmp, garbage, sizeof(garbage) - 1, &wait, NULL));
}

/* Whoever reads the garbage, the one who waits for an answer hears of it at once. */
static void body_watched(struct client *client) {
    struct watcher watcher = {.host = client->host};
    struct host_thread *threads[2];
    struct kelpie_error err;
    int pair[2];
    ok(host_socket_pair(client->host, pair, NULL));
    client->qmp = pair[1];
    ok(qmp_create(client->host, pair[0], &watcher.qmp, NULL));
    ok(host_event_create(client->host, &watcher.stop, NULL));
    ok(host_thread_start(client->host, "watch", watch, &watcher, &threads[0], NULL));
    ok(host_thread_start(client->host, "say", say_garbage, client, &threads[1], NULL));
    const struct qmp_command command = {.name = "stop", .passed_fd = HOST_FD_NONE};
    const struct host_wait wait = host_wait_ms(client->host, ANSWER_MS / 2, HOST_FD_NONE);
    assert_int_equal(qmp_execute(watcher.qmp, &command, &wait, NULL, &err), KELPIE_INTERNAL);
    assert_non_null(strstr(err.message, "a line that is no QMP message"));
    host_event_set(client->host, watcher.stop);
    host_thread_join(threads[0]);
    host_thread_join(threads[1]);
    host_close(client->host, watcher.stop);
    host_close(client->host, client->qmp);
    qmp_destroy(watcher.qmp);
}

static void test_who_waits_is_told_what_another_thread_read(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 4 * SEED_COUNT; seed++) {
        client_run(seed, body_watched);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_the_backend_says_is_understood),
        cmocka_unit_test(test_what_qemu_refuses_is_refused),
        cmocka_unit_test(test_it_answers_as_qemu_does),
        cmocka_unit_test(test_states_follow_each_other_as_in_qemu),
        cmocka_unit_test(test_only_the_same_machine_takes_a_state),
        cmocka_unit_test(test_a_deaf_owner_holds_up_nothing),
        cmocka_unit_test(test_who_waits_is_told_what_another_thread_read),
    };
    return cmocka_run_group_tests_name("sim/peer/qemu", tests, NULL, NULL);
}
