/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "backend/mock/mock_tree.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "protocol/tree.h"

/* ---- Out -------------------------------------------------------------------------------------- */

/* The path's part below the folder; NULL: it is not below it. */
static const char *name_below(const char *path, const char *folder) {
    size_t size = strcmp(folder, "/") == 0 ? 0 : strlen(folder);
    ASSERT(path[0] == '/');
    ASSERT(folder[0] == '/');
    bool is_below = strncmp(path, folder, size) == 0 && path[size] == '/' && path[size + 1] != '\0';
    return is_below ? path + size + 1 : NULL;
}

static void pack_entry(struct mock_bytes *bytes, const struct protocol_tree_entry *entry) {
    uint8_t head[PROTOCOL_TREE_ENTRY_SIZE_MAX];
    struct cursor_writer writer = cursor_writer_init(head, sizeof(head));
    ASSERT(bytes);
    ASSERT(entry->name);
    protocol_encode_tree_entry(&writer, entry);
    ASSERT(!writer.failed); /* its buffer is as long as an entry can be */
    mock_bytes_append(bytes, head, writer.size);
}

static void pack_link(struct mock_bytes *bytes, const struct mock_file *file, const char *name) {
    char target[PROTOCOL_PATH_SIZE_MAX + 1];
    ASSERT(file->type == MOCK_FILE_LINK);
    ASSERT(name);
    snprintf(target, sizeof(target), "%.*s", (int)file->content.size,
             (const char *)file->content.data);
    pack_entry(bytes, &(struct protocol_tree_entry){
                          .kind = PROTOCOL_TREE_LINK, .name = name, .target = target});
}

/* A folder stands in the table before what is in it. */
void mock_tree_pack(const struct mock_files *files, const char *path, struct mock_bytes *bytes) {
    struct protocol_tree_entry end = {.kind = PROTOCOL_TREE_END, .name = ""};
    mock_files_check(files);
    mock_bytes_check(bytes);
    for (size_t i = 0; i < files->count && !bytes->failed; i++) {
        const struct mock_file *file = &files->entries[i];
        const char *name = name_below(file->path, path);
        if (!name) {
            continue;
        }
        if (file->type == MOCK_FILE_REGULAR) {
            pack_entry(bytes, &(struct protocol_tree_entry){.kind = PROTOCOL_TREE_FILE,
                                                            .name = name,
                                                            .mode = file->mode,
                                                            .size = file->content.size});
            mock_bytes_append(bytes, file->content.data, file->content.size);
        } else if (file->type == MOCK_FILE_FOLDER) {
            pack_entry(bytes, &(struct protocol_tree_entry){
                                  .kind = PROTOCOL_TREE_FOLDER, .name = name, .mode = file->mode});
        } else if (file->type == MOCK_FILE_LINK) {
            pack_link(bytes, file, name);
        } else {
            end.name = end.size == 0 ? name : end.name;
            end.size++;
        }
    }
    pack_entry(bytes, &end);
}

/* ---- In --------------------------------------------------------------------------------------- */

static int make_one(struct mock_files *files, const char *path, uint32_t mode) {
    struct mock_file *file = mock_files_find(files, path);
    ASSERT(path[0] == '/');
    ASSERT(mode <= 07777);
    if (file) {
        return file->type == MOCK_FILE_FOLDER ? 0 : EEXIST;
    }
    return mock_files_add(files, path, MOCK_FILE_FOLDER, mode, NULL);
}

int mock_tree_make_folder(struct mock_files *files, const char *path, uint32_t mode) {
    char part[MOCK_PATH_SIZE_MAX + 1];
    size_t size = strlen(path);
    int failure = 0;
    ASSERT(path[0] == '/');
    ASSERT(size <= MOCK_PATH_SIZE_MAX);
    for (size_t i = 1; i < size && failure == 0; i++) {
        if (path[i] == '/') {
            memcpy(part, path, i);
            part[i] = '\0';
            failure = make_one(files, part, 0755);
        }
    }
    return failure ? failure : make_one(files, path, mode);
}

struct unpack {
    struct mock_files *files;
    const char *folder;
    struct mock_bytes content; /* of the file under way */
    bool ended;
    struct protocol_tree_reader reader;
};

static int path_of(const struct unpack *unpack, const char *name,
                   char path[MOCK_PATH_SIZE_MAX + 1]) {
    const char *folder = strcmp(unpack->folder, "/") == 0 ? "" : unpack->folder;
    int length = snprintf(path, MOCK_PATH_SIZE_MAX + 1, "%s/%s", folder, name);
    ASSERT(length > 0);
    ASSERT(protocol_tree_name_is_plain(name));
    return length <= MOCK_PATH_SIZE_MAX ? 0 : ENAMETOOLONG;
}

static int take_entry(struct unpack *unpack, const struct protocol_tree_entry *entry) {
    char path[MOCK_PATH_SIZE_MAX + 1];
    int failure = path_of(unpack, entry->name, path);
    ASSERT(!unpack->ended);
    ASSERT(unpack->content.size == 0);
    if (failure != 0 || entry->kind == PROTOCOL_TREE_FILE) {
        return failure;
    }
    return entry->kind == PROTOCOL_TREE_FOLDER
               ? make_one(unpack->files, path, entry->mode)
               : mock_files_link(unpack->files, path, entry->target, strlen(entry->target));
}

static int take_file(struct unpack *unpack) {
    const struct protocol_tree_entry *entry = &unpack->reader.entry;
    char path[MOCK_PATH_SIZE_MAX + 1];
    int failure = path_of(unpack, entry->name, path);
    ASSERT(entry->kind == PROTOCOL_TREE_FILE);
    ASSERT(unpack->content.failed || unpack->content.size == entry->size);
    if (failure == 0 && unpack->content.failed) {
        failure = ENOSPC;
    }
    failure =
        failure ? failure : mock_files_replace(unpack->files, path, entry->mode, &unpack->content);
    mock_bytes_deinit(&unpack->content);
    return failure;
}

static int take_event(struct unpack *unpack, const struct protocol_tree_event *event) {
    ASSERT(unpack->files);
    switch (event->kind) {
    case PROTOCOL_TREE_EVENT_NONE:
        return 0;
    case PROTOCOL_TREE_EVENT_ENTRY:
        return take_entry(unpack, event->entry);
    case PROTOCOL_TREE_EVENT_CONTENT:
        mock_bytes_append(&unpack->content, event->bytes, event->size);
        return 0;
    case PROTOCOL_TREE_EVENT_FILE_END:
        return take_file(unpack);
    case PROTOCOL_TREE_EVENT_END:
        unpack->ended = true;
        return 0;
    case PROTOCOL_TREE_EVENT_MALFORMED:
        return EBADMSG;
    }
    UNREACHABLE();
}

int mock_tree_unpack(struct mock_files *files, const char *path, const struct mock_bytes *bytes) {
    struct unpack *unpack = host_allocate(files->host, sizeof(*unpack), NULL);
    const uint8_t *data = (const uint8_t *)bytes->data;
    size_t size = bytes->size;
    int failure = 0;
    mock_files_check(files);
    if (!unpack) {
        return ENOMEM;
    }
    ASSERT(data || size == 0);
    unpack->files = files;
    unpack->folder = path;
    unpack->content = mock_bytes_init(files->host);
    protocol_tree_reader_init(&unpack->reader);
    struct protocol_tree_event event = {.kind = PROTOCOL_TREE_EVENT_ENTRY};
    while (failure == 0 && event.kind != PROTOCOL_TREE_EVENT_NONE) {
        protocol_tree_read(&unpack->reader, &data, &size, &event);
        failure = take_event(unpack, &event);
    }
    failure = failure == 0 && !unpack->ended ? EBADMSG : failure;
    mock_bytes_deinit(&unpack->content);
    free(unpack);
    return failure;
}
