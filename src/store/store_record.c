/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* A VM's record: its JSON, and the file that has it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "store/json_fields.h"
#include "store/store_folder.h"
#include "store/store_internal.h"

#define RECORD_NAME "record.json"
#define RECORD_VERSION 1
#define RECORD_MODE 0600u

void store_record_destroy(struct store_record *record) {
    if (record) {
        ASSERT(memchr(record->info.name, '\0', sizeof(record->info.name)));
        ASSERT(memchr(record->restored_from, '\0', sizeof(record->restored_from)));
        store_config_destroy(record->config);
        free(record);
    }
}

static enum kelpie_status record_encode(const struct store_record *record, json_t *json,
                                        struct kelpie_error *err) {
    json_t *part = NULL;
    ASSERT(record->config);
    ASSERT(json);
    TRY(json_put(json, "version", json_integer(RECORD_VERSION), err));
    TRY(store_json_of(STORE_JSON_INFO, &record->info, &part, err));
    TRY(json_put(json, "info", part, err));
    TRY(store_json_config(&record->config->config, &part, err));
    TRY(json_put(json, "config", part, err));
    if (record->had_secrets) {
        TRY(json_put(json, "had_secrets", json_true(), err));
    }
    return record->restored_from[0] == '\0'
               ? KELPIE_OK
               : json_put_text(json, "restored_from", record->restored_from, err);
}

enum kelpie_status store_record_write(struct store *store, const char *folder,
                                      const struct store_record *record, struct kelpie_error *err) {
    char path[KELPIE_PATH_SIZE_MAX + 1];
    AUTO_MEM char *text = NULL;
    ASSERT(store);
    ASSERT(record);
    TRY(store_folder_file(folder, RECORD_NAME, path, err));
    AUTO_STORE_JSON json_t *json = json_new(err);
    if (!json) {
        return KELPIE_NO_MEMORY;
    }
    TRY(record_encode(record, json, err));
    TRY(store_json_format(json, &text, err));
    size_t size = strlen(text);
    if (size > STORE_RECORD_SIZE_MAX) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "config",
                               "the VM's record would have %zu bytes, and may have %d", size,
                               STORE_RECORD_SIZE_MAX);
    }
    return host_file_store(store->host, path, text, size, RECORD_MODE, err);
}

static bool is_id(const char *id) {
    ASSERT(id);
    ASSERT(strlen(id) < KELPIE_ID_SIZE);
    return id[0] != '\0' && id[strspn(id, "0123456789abcdef")] == '\0';
}

static enum kelpie_status record_decode(struct host *host, const json_t *json,
                                        struct store_record *record, struct kelpie_error *err) {
    const json_t *version = json_object_get(json, "version");
    const json_t *info = json_object_get(json, "info");
    json_t *config = json_object_get(json, "config");
    ASSERT(host);
    ASSERT(record);
    if (!json_is_integer(version) || json_integer_value(version) != RECORD_VERSION) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "version",
                               "it is not of version %d, as this program's are", RECORD_VERSION);
    }
    if (!json_is_object(info) || !json_is_object(config)) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "info", "a part of it is missing");
    }
    TRY(store_json_to(STORE_JSON_INFO, info, &record->info, err));
    if (!is_id(record->info.id)) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "id", "its id is none");
    }
    record->had_secrets = json_is_true(json_object_get(json, "had_secrets"));
    TRY(json_take_text(json, "restored_from", record->restored_from, sizeof(record->restored_from),
                       err));
    return store_json_to_config(host, config, &record->config, err);
}

enum kelpie_status store_record_read(struct store *store, const char *name,
                                     struct store_record **ret_record, struct kelpie_error *err) {
    char path[KELPIE_PATH_SIZE_MAX + 1];
    AUTO_MEM char *text = NULL;
    AUTO_STORE_JSON json_t *json = NULL;
    size_t size = 0;
    ASSERT(store);
    ASSERT(ret_record);
    TRY(store_vm_path(store, name, RECORD_NAME, path, sizeof(path), err));
    struct kelpie_error why = {0};
    enum kelpie_status status =
        host_file_load(store->host, path, STORE_RECORD_SIZE_MAX, &text, &size, &why);
    if (status != KELPIE_OK) {
        status = store_error_pass(err, &why);
        if (status == KELPIE_NO_SPACE) {
            return error_wrap(err, KELPIE_INTERNAL, "the record %s is damaged", path);
        }
        return store_error_is_of_file(&why)
                   ? error_wrap(err, KELPIE_INTERNAL, "the record cannot be read")
                   : status;
    }
    struct store_record *record = host_allocate(store->host, sizeof(*record), err);
    if (!record) {
        return KELPIE_NO_MEMORY;
    }
    status = store_json_parse(text, size, STORE_RECORD_SIZE_MAX, &json, err);
    if (status == KELPIE_OK) {
        status = record_decode(store->host, json, record, err);
    }
    if (status == KELPIE_OK && strcmp(record->info.name, name) != 0) {
        status = error_set_field(err, KELPIE_BAD_CONFIG, "name", "it is another VM's");
    }
    if (status == KELPIE_BAD_CONFIG) {
        status = error_wrap(err, KELPIE_INTERNAL, "the record %s is damaged", path);
    }
    if (status != KELPIE_OK) {
        store_record_destroy(record);
        return status;
    }
    *ret_record = record;
    return KELPIE_OK;
}
