/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "krun/control.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

static const char *const verb_names[] = {
    [KRUN_VERB_PROBE] = "probe",
    [KRUN_VERB_RUN] = "run",
};
static_assert(ARRAY_SIZE(verb_names) == KRUN_VERB_COUNT, "a name for each");

static const char *const network_names[] = {
    [KRUN_NETWORK_NONE] = "none",
    [KRUN_NETWORK_STREAM] = "stream",
    [KRUN_NETWORK_TAP] = "tap",
};
static_assert(ARRAY_SIZE(network_names) == KRUN_NETWORK_COUNT, "a name for each");

static const struct {
    const char *name;
    size_t field_count; /* behind it */
} words[] = {
    [KRUN_WORD_FOUND] = {"found", 5},       [KRUN_WORD_CONSOLE] = {"console", 0},
    [KRUN_WORD_ENTERING] = {"entering", 0}, [KRUN_WORD_DONE] = {"done", 0},
    [KRUN_WORD_FAILED] = {"failed", 2},
};
static_assert(ARRAY_SIZE(words) == KRUN_WORD_COUNT, "a name for each");

#define FIELD_COUNT_MAX 7 /* one more than there are, to see that there are too many */

/* ---- Orders ----------------------------------------------------------------------------------- */

void krun_argv_build(struct krun_argv *argv, const char *program, const struct krun_order *order) {
    ASSERT(argv && program);
    ASSERT(order->library && order->kernel);
    ASSERT((unsigned)order->verb < KRUN_VERB_COUNT);
    *argv = (struct krun_argv){
        .argv = {program, verb_names[order->verb], order->library, order->kernel}};
    if (order->verb == KRUN_VERB_PROBE) {
        return;
    }
    ASSERT(order->command_line);
    ASSERT(order->disk_count <= KELPIE_DISK_COUNT_MAX);
    snprintf(argv->vcpu_count, sizeof(argv->vcpu_count), "%u", order->vcpu_count);
    snprintf(argv->memory_mib, sizeof(argv->memory_mib), "%u", order->memory_mib);
    for (size_t i = 0; i < order->disk_count; i++) {
        argv->disks[i] = order->read_only[i] ? 'r' : 'w';
    }
    argv->argv[4] = argv->vcpu_count;
    argv->argv[5] = argv->memory_mib;
    argv->argv[6] = argv->disks;
    argv->argv[7] = order->command_line;
    ASSERT((unsigned)order->network < KRUN_NETWORK_COUNT);
    ASSERT(order->tap || order->network != KRUN_NETWORK_TAP);
    mac_format(order->mac, argv->mac);
    argv->argv[8] = network_names[order->network];
    argv->argv[9] = argv->mac;
    argv->argv[10] = order->tap ? order->tap : "";
    static_assert(KRUN_ARGV_COUNT == 11, "so many");
}

static bool number_parse(const char *text, uint32_t max, uint32_t *ret) {
    char *end = NULL;
    ASSERT(text);
    ASSERT(ret);
    unsigned long value = text[0] >= '0' && text[0] <= '9' ? strtoul(text, &end, 10) : 0;
    if (!end || *end != '\0' || value > max) {
        return false;
    }
    *ret = (uint32_t)value;
    return true;
}

static bool disks_parse(const char *text, struct krun_order *order) {
    ASSERT(text);
    ASSERT(order->disk_count == 0);
    size_t count = strlen(text);
    if (count > KELPIE_DISK_COUNT_MAX || strspn(text, "rw") != count) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        order->read_only[i] = text[i] == 'r';
    }
    order->disk_count = count;
    return true;
}

static bool network_parse(const char *const *argv, struct krun_order *order) {
    ASSERT(argv);
    ASSERT(order->network == KRUN_NETWORK_NONE);
    for (unsigned i = 0; i < KRUN_NETWORK_COUNT; i++) {
        if (strcmp(argv[0], network_names[i]) == 0) {
            order->network = (enum krun_network)i;
            order->tap = argv[2];
            return mac_parse(argv[1], order->mac) &&
                   (i == KRUN_NETWORK_TAP) == (argv[2][0] != '\0');
        }
    }
    return false;
}

bool krun_argv_parse(size_t argc, const char *const *argv, struct krun_order *ret_order) {
    ASSERT(argv || argc == 0);
    ASSERT(ret_order);
    if (argc != 4 && argc != KRUN_ARGV_COUNT) {
        return false;
    }
    enum krun_verb verb = argc == 4 ? KRUN_VERB_PROBE : KRUN_VERB_RUN;
    struct krun_order order = {.verb = verb, .library = argv[2], .kernel = argv[3]};
    if (strcmp(argv[1], verb_names[verb]) != 0) {
        return false;
    }
    if (verb == KRUN_VERB_RUN) {
        order.command_line = argv[7];
        if (!number_parse(argv[4], KELPIE_VCPU_COUNT_MAX, &order.vcpu_count) ||
            !number_parse(argv[5], KELPIE_MEMORY_MIB_MAX, &order.memory_mib) ||
            !disks_parse(argv[6], &order) || !network_parse(argv + 8, &order)) {
            return false;
        }
    }
    *ret_order = order;
    return true;
}

/* ---- Messages --------------------------------------------------------------------------------- */

/* A field's text, in which neither a tab nor a newline is left. */
static void append(char *line, size_t size, size_t *used, const char *text) {
    ASSERT(*used < size);
    ASSERT(text);
    /* Room for the tabs, a newline and a zero is kept. */
    for (size_t i = 0; text[i] && *used + FIELD_COUNT_MAX + 2 < size; i++) {
        line[(*used)++] = (unsigned char)text[i] < ' ' ? ' ' : text[i];
    }
    line[*used] = '\0';
}

size_t krun_message_encode(const struct krun_message *message, char *line, size_t size) {
    ASSERT((unsigned)message->word < KRUN_WORD_COUNT);
    ASSERT(line && size > KRUN_LINE_SIZE_MAX);
    char number[2][16];
    const char *fields[FIELD_COUNT_MAX] = {words[message->word].name};
    size_t used = 0;
    if (message->word == KRUN_WORD_FOUND) {
        snprintf(number[0], sizeof(number[0]), "%u", message->abi);
        fields[1] = number[0];
        fields[2] = message->version;
        snprintf(number[1], sizeof(number[1]), "%u", message->can);
        fields[3] = number[1];
        fields[4] = message->library;
        fields[5] = message->kernel;
    } else if (message->word == KRUN_WORD_FAILED) {
        snprintf(number[1], sizeof(number[1]), "%d", (int)message->status);
        fields[1] = number[1];
        fields[2] = message->text;
    }
    for (size_t i = 0; i <= words[message->word].field_count; i++) {
        if (i > 0) {
            line[used++] = '\t';
        }
        append(line, KRUN_LINE_SIZE_MAX, &used, fields[i]);
    }
    line[used++] = '\n';
    line[used] = '\0';
    ASSERT(used <= KRUN_LINE_SIZE_MAX);
    return used;
}

/* Puts a zero at the end of each field. Returns their number, counting no further than one too many. */
static size_t split(char *line, char *fields[FIELD_COUNT_MAX]) {
    size_t count = 0;
    ASSERT(line);
    ASSERT(fields);
    for (char *next = line; next && count < FIELD_COUNT_MAX; count++) {
        fields[count] = next;
        next = strchr(next, '\t');
        if (next) {
            *next++ = '\0';
        }
    }
    return count;
}

static bool found_parse(char *const *fields, struct krun_message *message) {
    uint32_t abi = 0;
    uint32_t can = 0;
    ASSERT(message->word == KRUN_WORD_FOUND);
    ASSERT(fields);
    if (!number_parse(fields[1], 2, &abi) || abi == 0 ||
        !number_parse(fields[3], KRUN_CAN_ALL, &can) || strlen(fields[2]) > KRUN_VERSION_SIZE_MAX) {
        return false;
    }
    message->abi = abi;
    message->version = fields[2];
    message->can = can;
    message->library = fields[4];
    message->kernel = fields[5];
    return true;
}

bool krun_message_decode(char *line, struct krun_message *ret_message) {
    char *fields[FIELD_COUNT_MAX];
    uint32_t status = 0;
    ASSERT(line);
    ASSERT(ret_message);
    size_t count = split(line, fields);
    for (unsigned i = 0; i < KRUN_WORD_COUNT; i++) {
        struct krun_message message = {.word = (enum krun_word)i};
        if (strcmp(words[i].name, fields[0]) != 0 || count != words[i].field_count + 1) {
            continue;
        }
        if (message.word == KRUN_WORD_FOUND && !found_parse(fields, &message)) {
            return false;
        }
        if (message.word == KRUN_WORD_FAILED) {
            if (!number_parse(fields[1], KELPIE_STATUS_COUNT - 1, &status) || status == 0) {
                return false;
            }
            message.status = (enum kelpie_status)status;
            message.text = fields[2];
        }
        *ret_message = message;
        return true;
    }
    return false;
}
