/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The commands of QMP, as far as an owner sends them. */
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "sim/peer/qemu.h"

#define PARAMETER_COUNT_MAX 2

struct parameter {
    const char *name; /* NULL: no more */
    json_type type;
    bool required;
};

typedef void (*command_main)(struct sim_qemu *qemu, json_t *arguments,
                             struct sim_qemu_answer *answer);

struct command {
    const char *name;
    command_main main;
    struct parameter parameters[PARAMETER_COUNT_MAX];
};

void sim_qemu_refuse(struct sim_qemu_answer *answer, const char *format, ...) {
    ASSERT(answer && !answer->data);
    ASSERT(format);
    va_list args;
    va_start(args, format);
    vsnprintf(answer->desc, sizeof(answer->desc), format, args);
    va_end(args);
    answer->class = "GenericError";
}

static void not_found(struct sim_qemu_answer *answer, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static void not_found(struct sim_qemu_answer *answer, const char *format, ...) {
    ASSERT(answer && !answer->data);
    ASSERT(format);
    va_list args;
    va_start(args, format);
    vsnprintf(answer->desc, sizeof(answer->desc), format, args);
    va_end(args);
    answer->class = "CommandNotFound";
}

/* ---- Descriptors by name ---------------------------------------------------------------------- */

static struct sim_qemu_named_fd *named_fd_find(struct sim_qemu *qemu, const char *name) {
    sim_qemu_check(qemu);
    ASSERT(name);
    for (size_t i = 0; i < SIM_QEMU_NAMED_FD_COUNT_MAX; i++) {
        if (strcmp(qemu->qmp.named[i].name, name) == 0) {
            return &qemu->qmp.named[i];
        }
    }
    return NULL;
}

int sim_qemu_named_fd_take(struct sim_qemu *qemu, const char *name) {
    sim_qemu_check(qemu);
    ASSERT(name);
    struct sim_qemu_named_fd *named = name[0] ? named_fd_find(qemu, name) : NULL;
    if (!named) {
        return HOST_FD_NONE;
    }
    named->name[0] = 0;
    return named->fd;
}

static void do_getfd(struct sim_qemu *qemu, json_t *arguments, struct sim_qemu_answer *answer) {
    sim_qemu_check(qemu);
    const char *name = json_string_value(json_object_get(arguments, "fdname"));
    ASSERT(name);
    if (qemu->qmp.passed_fd == HOST_FD_NONE) {
        sim_qemu_refuse(answer, "No file descriptor supplied via SCM_RIGHTS");
        return;
    }
    int fd = qemu->qmp.passed_fd;
    qemu->qmp.passed_fd = HOST_FD_NONE;
    host_close(qemu->host, sim_qemu_named_fd_take(qemu, name)); /* a newer one takes its place */
    struct sim_qemu_named_fd *place = named_fd_find(qemu, "");
    if (name[0] == 0 || isdigit((unsigned char)name[0]) || strlen(name) > SIM_QEMU_NAME_SIZE_MAX ||
        !place) {
        host_close(qemu->host, fd);
        sim_qemu_refuse(answer, "Parameter 'fdname' expects a name not starting with a digit");
        return;
    }
    snprintf(place->name, sizeof(place->name), "%s", name);
    place->fd = fd;
}

static void do_closefd(struct sim_qemu *qemu, json_t *arguments, struct sim_qemu_answer *answer) {
    sim_qemu_check(qemu);
    const char *name = json_string_value(json_object_get(arguments, "fdname"));
    ASSERT(name);
    int fd = sim_qemu_named_fd_take(qemu, name);
    if (fd == HOST_FD_NONE) {
        sim_qemu_refuse(answer, "File descriptor named '%.64s' not found", name);
    }
    host_close(qemu->host, fd);
}

/* ---- The machine ------------------------------------------------------------------------------ */

static void do_capabilities(struct sim_qemu *qemu, json_t *arguments,
                            struct sim_qemu_answer *answer) {
    sim_qemu_check(qemu);
    ASSERT(answer);
    (void)arguments;
    if (qemu->qmp.negotiated) {
        not_found(answer, "Capabilities negotiation is already complete, command ignored");
    }
    qemu->qmp.negotiated = true;
}

static void do_query_status(struct sim_qemu *qemu, json_t *arguments,
                            struct sim_qemu_answer *answer) {
    static const char *const names[] = {
        [SIM_QEMU_PRELAUNCH] = "prelaunch",     [SIM_QEMU_INMIGRATE] = "inmigrate",
        [SIM_QEMU_RUNNING] = "running",         [SIM_QEMU_PAUSED] = "paused",
        [SIM_QEMU_POSTMIGRATE] = "postmigrate",
    };
    sim_qemu_check(qemu);
    ASSERT((size_t)qemu->state < ARRAY_SIZE(names));
    (void)arguments;
    answer->data = json_pack("{s:s, s:b, s:b}", "status", names[qemu->state], "singlestep", 0,
                             "running", qemu->state == SIM_QEMU_RUNNING);
}

static void do_stop(struct sim_qemu *qemu, json_t *arguments, struct sim_qemu_answer *answer) {
    sim_qemu_check(qemu);
    ASSERT(answer);
    (void)arguments;
    sim_qemu_stop(qemu, SIM_QEMU_PAUSED);
}

static void do_cont(struct sim_qemu *qemu, json_t *arguments, struct sim_qemu_answer *answer) {
    sim_qemu_check(qemu);
    ASSERT(answer);
    (void)arguments;
    sim_qemu_run(qemu);
}

static void do_quit(struct sim_qemu *qemu, json_t *arguments, struct sim_qemu_answer *answer) {
    sim_qemu_check(qemu);
    ASSERT(answer);
    (void)arguments;
    sim_qemu_shut_down(qemu, false, "host-qmp-quit");
}

static void do_reset(struct sim_qemu *qemu, json_t *arguments, struct sim_qemu_answer *answer) {
    sim_qemu_check(qemu);
    ASSERT(answer);
    (void)arguments;
    sim_qemu_shut_down(qemu, false, "host-qmp-system-reset");
}

/* The guest does not listen to its power button. */
static void do_powerdown(struct sim_qemu *qemu, json_t *arguments, struct sim_qemu_answer *answer) {
    sim_qemu_check(qemu);
    ASSERT(answer);
    (void)arguments;
    sim_qemu_event(qemu, "POWERDOWN", NULL);
}

/* ---- Migration -------------------------------------------------------------------------------- */

static void do_set_capabilities(struct sim_qemu *qemu, json_t *arguments,
                                struct sim_qemu_answer *answer) {
    sim_qemu_check(qemu);
    ASSERT(answer);
    size_t i = 0;
    json_t *entry = NULL;
    json_array_foreach(json_object_get(arguments, "capabilities"), i, entry) {
        const char *name = json_string_value(json_object_get(entry, "capability"));
        json_t *state = json_object_get(entry, "state");
        bool ignore_shared = name && strcmp(name, "x-ignore-shared") == 0;
        if (!name || !json_is_boolean(state)) {
            sim_qemu_refuse(answer, "Parameter 'capabilities[%zu].%s' is missing", i,
                            name ? "state" : "capability");
        } else if (!ignore_shared && strcmp(name, "events") != 0) {
            sim_qemu_refuse(answer, "Parameter 'capability' does not accept value '%.64s'", name);
        } else if (qemu->migration.status == SIM_QEMU_MIGRATION_ACTIVE) {
            sim_qemu_refuse(answer, "There's a migration process in progress");
        } else {
            *(ignore_shared ? &qemu->migration.ignore_shared : &qemu->migration.events) =
                json_is_true(state);
        }
        if (answer->class) {
            return;
        }
    }
}

/* A limit of speed, which nothing here comes near. */
static void do_set_parameters(struct sim_qemu *qemu, json_t *arguments,
                              struct sim_qemu_answer *answer) {
    sim_qemu_check(qemu);
    ASSERT(answer);
    if (json_integer_value(json_object_get(arguments, "max-bandwidth")) < 0) {
        sim_qemu_refuse(answer, "Parameter 'max_bandwidth' expects an integer in the range of 0 "
                                "to 18446744073709551615 bytes/second");
    }
}

static void do_migrate(struct sim_qemu *qemu, json_t *arguments, struct sim_qemu_answer *answer) {
    sim_qemu_check(qemu);
    const char *uri = json_string_value(json_object_get(arguments, "uri"));
    ASSERT(uri);
    sim_qemu_migrate(qemu, uri, answer);
}

static void do_incoming(struct sim_qemu *qemu, json_t *arguments, struct sim_qemu_answer *answer) {
    sim_qemu_check(qemu);
    const char *uri = json_string_value(json_object_get(arguments, "uri"));
    ASSERT(uri);
    sim_qemu_migrate_incoming(qemu, uri, answer);
}

static void do_cancel(struct sim_qemu *qemu, json_t *arguments, struct sim_qemu_answer *answer) {
    sim_qemu_check(qemu);
    ASSERT(answer);
    (void)arguments;
    sim_qemu_migrate_cancel(qemu);
}

static void do_query(struct sim_qemu *qemu, json_t *arguments, struct sim_qemu_answer *answer) {
    sim_qemu_check(qemu);
    ASSERT(!answer->data);
    (void)arguments;
    answer->data = sim_qemu_migrate_query(qemu);
}

/* ---- Dispatch --------------------------------------------------------------------------------- */

static const struct command command_table[] = {
    {"qmp_capabilities", do_capabilities, {{"enable", JSON_ARRAY, false}}},
    {"query-status", do_query_status, {{0}}},
    {"stop", do_stop, {{0}}},
    {"cont", do_cont, {{0}}},
    {"quit", do_quit, {{0}}},
    {"system_reset", do_reset, {{0}}},
    {"system_powerdown", do_powerdown, {{0}}},
    {"getfd", do_getfd, {{"fdname", JSON_STRING, true}}},
    {"closefd", do_closefd, {{"fdname", JSON_STRING, true}}},
    {"migrate-set-capabilities", do_set_capabilities, {{"capabilities", JSON_ARRAY, true}}},
    {"migrate-set-parameters", do_set_parameters, {{"max-bandwidth", JSON_INTEGER, false}}},
    {"migrate", do_migrate, {{"uri", JSON_STRING, true}}},
    {"migrate-incoming", do_incoming, {{"uri", JSON_STRING, true}}},
    {"migrate_cancel", do_cancel, {{0}}},
    {"query-migrate", do_query, {{0}}},
};

static bool arguments_fit(const struct command *command, json_t *arguments,
                          struct sim_qemu_answer *answer) {
    ASSERT(command->main);
    ASSERT(!arguments || json_is_object(arguments));
    size_t known = 0;
    for (size_t i = 0; i < PARAMETER_COUNT_MAX && command->parameters[i].name; i++) {
        const struct parameter *parameter = &command->parameters[i];
        json_t *value = json_object_get(arguments, parameter->name);
        known += value != NULL;
        if (!value && parameter->required) {
            sim_qemu_refuse(answer, "Parameter '%s' is missing", parameter->name);
            return false;
        }
        if (value && json_typeof(value) != parameter->type) {
            sim_qemu_refuse(answer, "Invalid parameter type for '%s', expected: %s",
                            parameter->name,
                            parameter->type == JSON_STRING  ? "string"
                            : parameter->type == JSON_ARRAY ? "array"
                                                            : "integer");
            return false;
        }
    }
    if (json_object_size(arguments) != known) {
        const char *name = NULL;
        json_t *value = NULL;
        json_object_foreach(arguments, name, value) {
            if (!command->parameters[0].name || strcmp(command->parameters[0].name, name) != 0) {
                sim_qemu_refuse(answer, "Parameter '%.64s' is unexpected", name);
                return false;
            }
        }
    }
    return true;
}

/* The object as such. False: refused. */
static bool message_fits(json_t *message, struct sim_qemu_answer *answer) {
    ASSERT(message);
    ASSERT(!answer->class);
    const char *name = NULL;
    json_t *value = NULL;
    if (!json_is_object(message)) {
        sim_qemu_refuse(answer, "QMP input must be a JSON object");
        return false;
    }
    json_object_foreach(message, name, value) {
        if (strcmp(name, "execute") == 0
                ? !json_is_string(value)
                : strcmp(name, "arguments") == 0 && !json_is_object(value)) {
            sim_qemu_refuse(answer, "QMP input member '%s' must be %s", name,
                            name[0] == 'e' ? "a string" : "an object");
            return false;
        }
        if (strcmp(name, "execute") != 0 && strcmp(name, "arguments") != 0 &&
            strcmp(name, "id") != 0) {
            sim_qemu_refuse(answer, "QMP input member '%.64s' is unexpected", name);
            return false;
        }
    }
    if (!json_object_get(message, "execute")) {
        sim_qemu_refuse(answer, "QMP input lacks member 'execute'");
        return false;
    }
    return true;
}

void sim_qemu_execute(struct sim_qemu *qemu, json_t *message, struct sim_qemu_answer *answer) {
    sim_qemu_check(qemu);
    ASSERT(message);
    ASSERT(!answer->class && !answer->data);
    if (!message_fits(message, answer)) {
        return;
    }
    const char *name = json_string_value(json_object_get(message, "execute"));
    json_t *arguments = json_object_get(message, "arguments");
    if (!qemu->qmp.negotiated && strcmp(name, "qmp_capabilities") != 0) {
        not_found(answer, "Expecting capabilities negotiation with 'qmp_capabilities'");
        return;
    }
    for (size_t i = 0; i < ARRAY_SIZE(command_table); i++) {
        const struct command *command = &command_table[i];
        if (strcmp(command->name, name) == 0) {
            if (arguments_fit(command, arguments, answer)) {
                command->main(qemu, arguments, answer);
            }
            return;
        }
    }
    not_found(answer, "The command %.200s has not been found", name);
}
