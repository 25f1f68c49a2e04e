/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * JSON as a record, or the far end of an owner's socket, may have it, read as each of the structures: what is read must be
 * written as something that is read as the same.
 */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "store/store_json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

union flat {
    struct kelpie_vm_info info;
    struct kelpie_snapshot snapshot;
    struct kelpie_restore_report report;
    struct kelpie_exit exit;
    struct kelpie_stats stats;
    struct kelpie_error error;
    struct kelpie_snapshot_options snapshot_options;
    struct kelpie_restore_options restore_options;
    struct kelpie_fork_options fork_options;
};

static json_t *parse(const uint8_t *data, size_t size) {
    json_t *json = NULL;
    enum kelpie_status status =
        store_json_parse((const char *)data, size, STORE_RECORD_SIZE_MAX, &json, NULL);
    return status == KELPIE_OK ? json : NULL;
}

/* The text of a new value, which is let go of. */
static char *text_of(json_t *json) {
    char *text = NULL;
    enum kelpie_status status = store_json_format(json, &text, NULL);
    ASSERT(status == KELPIE_OK);
    json_decref(json);
    return text;
}

static char *flat_again(json_t *json, enum store_json_type type) {
    union flat value;
    json_t *encoded = NULL;
    memset(&value, 0, sizeof(value));
    if (store_json_to(type, json, &value, NULL) != KELPIE_OK) {
        return NULL;
    }
    enum kelpie_status status = store_json_of(type, &value, &encoded, NULL);
    ASSERT(status == KELPIE_OK);
    return text_of(encoded);
}

static char *config_again(struct host *host, json_t *json) {
    struct store_config *config = NULL;
    json_t *encoded = NULL;
    if (store_json_to_config(host, json, &config, NULL) != KELPIE_OK) {
        return NULL;
    }
    enum kelpie_status status = store_json_config(&config->config, &encoded, NULL);
    ASSERT(status == KELPIE_OK);
    store_config_destroy(config);
    return text_of(encoded);
}

static char *command_again(struct host *host, json_t *json) {
    struct store_command *command = NULL;
    json_t *encoded = NULL;
    if (store_json_to_command(host, json, &command, NULL) != KELPIE_OK) {
        return NULL;
    }
    enum kelpie_status status = store_json_command(&command->command, &encoded, NULL);
    ASSERT(status == KELPIE_OK);
    store_command_destroy(command);
    return text_of(encoded);
}

/* Read and written: as a config, a command, or one of the flat ones. NULL: it is none. */
static char *again(struct host *host, const uint8_t *data, size_t size, unsigned type) {
    json_t *json = parse(data, size);
    if (!json) {
        return NULL;
    }
    char *text = type < STORE_JSON_TYPE_COUNT    ? flat_again(json, (enum store_json_type)type)
                 : type == STORE_JSON_TYPE_COUNT ? config_again(host, json)
                                                 : command_again(host, json);
    json_decref(json);
    return text;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct host *host = NULL;
    if (host_linux_create(&host, NULL) != KELPIE_OK) {
        return 0;
    }
    for (unsigned type = 0; type < STORE_JSON_TYPE_COUNT + 2; type++) {
        char *first = again(host, data, size, type);
        if (first) {
            char *second = again(host, (const uint8_t *)first, strlen(first), type);
            ASSERT(second);
            ASSERT(strcmp(first, second) == 0);
            free(second);
        }
        free(first);
    }
    host_destroy(host);
    return 0;
}
