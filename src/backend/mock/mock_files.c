/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "backend/mock/mock_files.h"

#include <errno.h>
#include <string.h>

#include "backend/mock/mock_program.h"
#include "base/assert.h"
#include "base/checked.h"
#include "base/cleanup.h"

void mock_files_check(const struct mock_files *files) {
    ASSERT(files);
    ASSERT(files->entries);
    ASSERT(files->count <= MOCK_FILE_COUNT_MAX);
    ASSERT(files->bytes <= MOCK_FILE_BYTES_MAX);
}

enum kelpie_status mock_files_init(struct mock_files *files, struct host *host,
                                   struct kelpie_error *err) {
    ASSERT(files);
    ASSERT(host);
    struct mock_file *entries =
        host_allocate(host, MOCK_FILE_COUNT_MAX * sizeof(struct mock_file), err);
    if (!entries) {
        return KELPIE_NO_MEMORY;
    }
    *files = (struct mock_files){.host = host, .entries = entries};
    return KELPIE_OK;
}

void mock_files_deinit(struct mock_files *files) {
    ASSERT(files);
    ASSERT(files->count <= MOCK_FILE_COUNT_MAX);
    for (size_t i = 0; i < files->count; i++) {
        free(files->entries[i].path);
        mock_bytes_deinit(&files->entries[i].content);
    }
    free(files->entries);
    *files = (struct mock_files){.host = files->host};
}

static const struct {
    const char *path;
    enum mock_file_type type;
    uint32_t mode;
} first_files[] = {
    {"/", MOCK_FILE_FOLDER, 0755},
    {"/bin", MOCK_FILE_FOLDER, 0755},
    {"/dev", MOCK_FILE_FOLDER, 0755},
    {"/dev/null", MOCK_FILE_NULL, 0666},
    {"/dev/zero", MOCK_FILE_ZERO, 0666},
    {"/dev/random", MOCK_FILE_RANDOM, 0666},
    {"/dev/urandom", MOCK_FILE_RANDOM, 0666},
    {"/etc", MOCK_FILE_FOLDER, 0755},
    {"/proc", MOCK_FILE_FOLDER, 0555},
    {"/root", MOCK_FILE_FOLDER, 0700},
    {"/run", MOCK_FILE_FOLDER, 0755},
    {"/sys", MOCK_FILE_FOLDER, 0555},
    {"/tmp", MOCK_FILE_FOLDER, 01777},
    {"/usr", MOCK_FILE_FOLDER, 0755},
    {"/usr/bin", MOCK_FILE_FOLDER, 0755},
    {"/var", MOCK_FILE_FOLDER, 0755},
};

enum kelpie_status mock_files_populate(struct mock_files *files, struct kelpie_error *err) {
    ASSERT(files);
    mock_files_check(files);
    ASSERT(files->count == 0);
    int failure = 0;
    for (size_t i = 0; i < ARRAY_SIZE(first_files) && failure == 0; i++) {
        failure = mock_files_add(files, first_files[i].path, first_files[i].type,
                                 first_files[i].mode, NULL);
    }
    for (uint32_t i = 0; mock_program_name(i) && failure == 0; i++) {
        char path[MOCK_PATH_SIZE_MAX + 1];
        bool fits = mock_path_resolve("/bin", mock_program_name(i), path);
        ASSERT(fits);
        failure = mock_files_add(files, path, MOCK_FILE_PROGRAM, 0755, NULL);
    }
    if (failure != 0) {
        return error_set_os(err, failure, "making the mock's first files");
    }
    return KELPIE_OK;
}

struct mock_file *mock_files_find(const struct mock_files *files, const char *path) {
    ASSERT(files);
    mock_files_check(files);
    ASSERT(path);
    ASSERT(files->count <= MOCK_FILE_COUNT_MAX);
    for (size_t i = 0; i < files->count; i++) {
        if (strcmp(files->entries[i].path, path) == 0) {
            return &files->entries[i];
        }
    }
    return NULL;
}

/* The folder that a path lies in, without a slash at its end; "/" for the first level. */
static void path_parent(const char *path, char *buffer) {
    ASSERT(path);
    ASSERT(buffer);
    ASSERT(path[0] == '/');
    size_t size = (size_t)(mock_path_name(path) - path);
    size = size > 1 ? size - 1 : 1;
    ASSERT(size <= MOCK_PATH_SIZE_MAX);
    memcpy(buffer, path, size);
    buffer[size] = '\0';
}

/* What is wrong with the folder that a path lies in: ENOTDIR when something above is a file. */
static int parent_check(const struct mock_files *files, const char *path) {
    char parent[MOCK_PATH_SIZE_MAX + 1];
    path_parent(path, parent);
    const struct mock_file *file = mock_files_find(files, parent);
    for (size_t i = 0; !file && i < MOCK_PATH_SIZE_MAX; i++) {
        char above[MOCK_PATH_SIZE_MAX + 1];
        path_parent(parent, above);
        if (strcmp(above, parent) == 0) {
            return ENOENT;
        }
        memcpy(parent, above, sizeof(parent));
        const struct mock_file *found = mock_files_find(files, parent);
        if (found) {
            return found->type == MOCK_FILE_FOLDER ? ENOENT : ENOTDIR;
        }
    }
    return file && file->type == MOCK_FILE_FOLDER ? 0 : ENOTDIR;
}

int mock_files_lookup(const struct mock_files *files, const char *path,
                      struct mock_file **ret_file) {
    mock_files_check(files);
    ASSERT(path);
    ASSERT(ret_file);
    struct mock_file *file = mock_files_find(files, path);
    if (!file) {
        int failure = parent_check(files, path);
        return failure != 0 ? failure : ENOENT;
    }
    *ret_file = file;
    return 0;
}

int mock_files_add(struct mock_files *files, const char *path, enum mock_file_type type,
                   uint32_t mode, struct mock_file **ret_file) {
    ASSERT(files);
    mock_files_check(files);
    ASSERT(path);
    ASSERT(path[0] == '/');
    bool is_root = strcmp(path, "/") == 0;
    int failure = is_root ? 0 : parent_check(files, path);
    if (failure != 0) {
        return failure;
    }
    if (mock_files_find(files, path)) {
        return EEXIST;
    }
    if (strlen(mock_path_name(path)) > MOCK_NAME_SIZE_MAX) {
        return ENAMETOOLONG;
    }
    if (files->count == MOCK_FILE_COUNT_MAX) {
        return ENOSPC;
    }
    char *copy = host_duplicate(files->host, path, NULL);
    if (!copy) {
        return ENOMEM;
    }
    struct mock_file *file = &files->entries[files->count++];
    *file = (struct mock_file){
        .type = type, .mode = mode, .path = copy, .content = mock_bytes_init(files->host)};
    if (ret_file) {
        *ret_file = file;
    }
    return 0;
}

int mock_files_open(struct mock_files *files, const char *path, bool append) {
    ASSERT(files);
    mock_files_check(files);
    ASSERT(path);
    struct mock_file *file = mock_files_find(files, path);
    if (!file) {
        return mock_files_add(files, path, MOCK_FILE_REGULAR, 0644, &file);
    }
    if (file->type == MOCK_FILE_FOLDER) {
        return EISDIR;
    }
    if (file->type == MOCK_FILE_REGULAR && !append) {
        ASSERT(files->bytes >= file->content.size);
        files->bytes -= file->content.size;
        mock_bytes_deinit(&file->content);
    }
    return 0;
}

static int content_append(struct mock_files *files, struct mock_file *file, const void *data,
                          size_t size) {
    mock_files_check(files);
    ASSERT(file->type == MOCK_FILE_REGULAR || file->type == MOCK_FILE_LINK);
    if (size > MOCK_FILE_BYTES_MAX - files->bytes) {
        return ENOSPC;
    }
    if (!mock_bytes_append(&file->content, data, size)) {
        file->content.failed = false;
        return ENOSPC;
    }
    files->bytes += size;
    return 0;
}

int mock_files_append(struct mock_files *files, struct mock_file *file, const void *data,
                      size_t size) {
    ASSERT(files);
    mock_files_check(files);
    ASSERT(file);
    if (file->type == MOCK_FILE_FOLDER) {
        return EISDIR;
    }
    return file->type == MOCK_FILE_REGULAR ? content_append(files, file, data, size) : 0;
}

int mock_files_link(struct mock_files *files, const char *path, const void *target, size_t size) {
    mock_files_check(files);
    ASSERT(path);
    ASSERT(target && size > 0);
    struct mock_file *file = mock_files_find(files, path);
    if (file && file->type == MOCK_FILE_FOLDER) {
        return EEXIST;
    }
    int failure = file ? mock_files_remove(files, path) : 0;
    failure = failure ? failure : mock_files_add(files, path, MOCK_FILE_LINK, 0777, &file);
    return failure ? failure : content_append(files, file, target, size);
}

int mock_files_replace(struct mock_files *files, const char *path, uint32_t mode,
                       struct mock_bytes *content) {
    ASSERT(files);
    mock_files_check(files);
    ASSERT(path);
    mock_bytes_check(content);
    struct mock_file *file = mock_files_find(files, path);
    if (file && file->type == MOCK_FILE_FOLDER) {
        return EISDIR;
    }
    uint64_t freed = file ? file->content.size : 0;
    ASSERT(freed <= files->bytes);
    if (content->size > MOCK_FILE_BYTES_MAX - (files->bytes - freed)) {
        return ENOSPC;
    }
    int failure = file ? 0 : mock_files_add(files, path, MOCK_FILE_REGULAR, mode, &file);
    if (failure != 0) {
        return failure;
    }
    mock_bytes_deinit(&file->content);
    file->type = MOCK_FILE_REGULAR;
    file->mode = mode;
    file->content = *content;
    files->bytes = files->bytes - freed + content->size;
    *content = mock_bytes_init(files->host);
    return 0;
}

int mock_files_remove(struct mock_files *files, const char *path) {
    ASSERT(files);
    mock_files_check(files);
    ASSERT(path);
    struct mock_file *file = mock_files_find(files, path);
    if (!file) {
        return ENOENT;
    }
    for (size_t i = 0; i < files->count; i++) {
        if (mock_path_is_in(files->entries[i].path, path)) {
            return ENOTEMPTY;
        }
    }
    ASSERT(files->bytes >= file->content.size);
    files->bytes -= file->content.size;
    free(file->path);
    mock_bytes_deinit(&file->content);
    size_t index = (size_t)(file - files->entries);
    memmove(file, file + 1, (files->count - index - 1) * sizeof(*file));
    files->count--;
    return 0;
}

const char *mock_path_name(const char *path) {
    ASSERT(path);
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

bool mock_path_is_in(const char *path, const char *folder) {
    ASSERT(path);
    ASSERT(folder);
    size_t size = strcmp(folder, "/") == 0 ? 0 : strlen(folder);
    return strncmp(path, folder, size) == 0 && path[size] == '/' && path[size + 1] != '\0' &&
           !strchr(path + size + 1, '/');
}

/* Appends the parts of `path` to the normalised path in buffer. */
static bool path_append(char *buffer, size_t *size, const char *path) {
    ASSERT(buffer);
    ASSERT(size);
    ASSERT(path);
    while (*path) {
        size_t part = strcspn(path, "/");
        bool is_up = part == 2 && memcmp(path, "..", 2) == 0;
        bool is_here = part == 0 || (part == 1 && path[0] == '.');
        if (is_up) {
            while (*size > 0 && buffer[--*size] != '/') {
            }
        } else if (!is_here) {
            if (*size + 1 + part > MOCK_PATH_SIZE_MAX) {
                return false;
            }
            buffer[(*size)++] = '/';
            memcpy(buffer + *size, path, part);
            *size += part;
        }
        path += part;
        path += *path == '/';
    }
    return true;
}

bool mock_path_resolve(const char *folder, const char *path, char *buffer) {
    ASSERT(buffer);
    ASSERT(folder);
    ASSERT(path);
    size_t size = 0;
    if (path[0] != '/' && !path_append(buffer, &size, folder)) {
        return false;
    }
    if (!path_append(buffer, &size, path)) {
        return false;
    }
    if (size == 0) {
        buffer[size++] = '/';
    }
    buffer[size] = '\0';
    return true;
}
