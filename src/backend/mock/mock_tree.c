/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "backend/mock/mock_tree.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/mock/mock_limits.h"
#include "base/assert.h"
#include "base/checked.h"
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
void mock_tree_pack(const struct mock_files *files, const char *path, bool exact,
                    struct mock_bytes *bytes) {
    struct protocol_tree_entry end = {.kind = PROTOCOL_TREE_END, .name = ""};
    const struct mock_file *folder = mock_files_find(files, path);
    mock_bytes_check(bytes);
    ASSERT(folder && folder->type == MOCK_FILE_FOLDER);
    if (exact) {
        pack_entry(bytes, &(struct protocol_tree_entry){
                              .kind = PROTOCOL_TREE_ROOT, .name = "", .mode = folder->mode});
    }
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
    struct mock_bytes content;         /* of the file under way */
    uint64_t size;                     /* of a sparse one: its pieces are not all there yet */
    char path[MOCK_PATH_SIZE_MAX + 1]; /* of that one */
    uint32_t mode;
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

static int put_folder(struct unpack *unpack, const char *path, uint32_t mode) {
    int failure = make_one(unpack->files, path, mode);
    ASSERT(unpack->files);
    if (failure == 0 && unpack->reader.exact) { /* it may come again, with its last word */
        struct mock_file *file = mock_files_find(unpack->files, path);
        ASSERT(file);
        file->mode = mode;
    }
    return failure;
}

/* One more name is one more file. */
static int put_hard_link(struct unpack *unpack, const char *path, const char *target) {
    char target_path[MOCK_PATH_SIZE_MAX + 1];
    struct mock_file *file = NULL;
    int failure = path_of(unpack, target, target_path);
    ASSERT(unpack->content.size == 0);
    failure = failure ? failure : mock_files_lookup(unpack->files, target_path, &file);
    if (failure != 0 || file->type != MOCK_FILE_REGULAR) {
        return failure ? failure : EBADMSG;
    }
    uint32_t mode = file->mode;
    mock_bytes_append(&unpack->content, file->content.data, file->content.size);
    failure = unpack->content.failed
                  ? ENOSPC
                  : mock_files_replace(unpack->files, path, mode, &unpack->content);
    mock_bytes_deinit(&unpack->content);
    return failure;
}

/* A hole, or nothing, up to the piece's offset. */
static int take_extent(struct unpack *unpack, const struct protocol_tree_entry *entry) {
    static const uint8_t zeros[4096];
    uint64_t offset = entry->modified_ns;
    ASSERT(unpack->reader.exact);
    if (unpack->path[0] == '\0' || offset < unpack->content.size || offset > unpack->size ||
        entry->size > unpack->size - offset) {
        return EBADMSG;
    }
    if (unpack->size > MOCK_FILE_BYTES_MAX) {
        return ENOSPC;
    }
    while (unpack->content.size < offset && !unpack->content.failed) {
        mock_bytes_append(&unpack->content, zeros,
                          (size_t)min_u64(sizeof(zeros), offset - unpack->content.size));
    }
    return unpack->content.failed ? ENOSPC : 0;
}

static int take_entry(struct unpack *unpack, const struct protocol_tree_entry *entry) {
    char path[MOCK_PATH_SIZE_MAX + 1];
    ASSERT(!unpack->ended);
    if (entry->kind == PROTOCOL_TREE_EXTENT) {
        return take_extent(unpack, entry);
    }
    if (unpack->path[0] != '\0') {
        return EBADMSG; /* the end of the file that comes in pieces is missing */
    }
    if (entry->kind == PROTOCOL_TREE_OWNER || entry->kind == PROTOCOL_TREE_ATTRIBUTE) {
        return 0;
    }
    if (entry->kind == PROTOCOL_TREE_ROOT) {
        return put_folder(unpack, unpack->folder, entry->mode);
    }
    int failure = path_of(unpack, entry->name, path);
    ASSERT(unpack->content.size == 0);
    if (failure != 0 || entry->kind == PROTOCOL_TREE_FILE) {
        return failure;
    }
    if (entry->kind == PROTOCOL_TREE_SPARSE) {
        snprintf(unpack->path, sizeof(unpack->path), "%s", path);
        unpack->size = entry->size;
        unpack->mode = entry->mode;
        return 0;
    }
    if (entry->kind == PROTOCOL_TREE_HARD_LINK) {
        return put_hard_link(unpack, path, entry->target);
    }
    return entry->kind == PROTOCOL_TREE_FOLDER
               ? put_folder(unpack, path, entry->mode)
               : mock_files_link(unpack->files, path, entry->target, strlen(entry->target));
}

/* The last piece of a file is the empty one at its end. */
static int take_extent_end(struct unpack *unpack) {
    const struct protocol_tree_entry *entry = &unpack->reader.entry;
    ASSERT(entry->kind == PROTOCOL_TREE_EXTENT);
    if (unpack->content.failed) {
        return ENOSPC;
    }
    ASSERT(unpack->content.size == entry->modified_ns + entry->size);
    if (entry->size > 0 || entry->modified_ns != unpack->size) {
        return 0;
    }
    int failure = mock_files_replace(unpack->files, unpack->path, unpack->mode, &unpack->content);
    mock_bytes_deinit(&unpack->content);
    unpack->path[0] = '\0';
    return failure;
}

static int take_file(struct unpack *unpack) {
    const struct protocol_tree_entry *entry = &unpack->reader.entry;
    char path[MOCK_PATH_SIZE_MAX + 1];
    if (entry->kind == PROTOCOL_TREE_EXTENT) {
        return take_extent_end(unpack);
    }
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
        return unpack->path[0] == '\0' ? 0 : EBADMSG;
    case PROTOCOL_TREE_EVENT_MALFORMED:
        return EBADMSG;
    }
    UNREACHABLE();
}

/* What is below the folder goes. A folder stands in the table before what is in it. */
static void clear(struct mock_files *files, const char *folder) {
    mock_files_check(files);
    ASSERT(folder[0] == '/');
    for (size_t i = files->count; i > 0; i--) {
        const char *path = files->entries[i - 1].path;
        if (name_below(path, folder)) {
            int failure = mock_files_remove(files, path);
            ASSERT(failure == 0);
        }
    }
}

int mock_tree_unpack(struct mock_files *files, const char *path, bool exact,
                     const struct mock_bytes *bytes) {
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
    unpack->reader.exact = exact;
    if (exact) {
        clear(files, path);
    }
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
